/**
 * Sums of what clients send, of which the server learns nothing but the sum: any two clients share a mask, which one adds
 * and the other subtracts. Numbers are integers modulo 2^64, so that masks cancel to the last bit.
 *
 * How two clients agree on the key of their mask, where the server cannot listen, is not decided here. Nor is anything done
 * against a server that lies about who is absent: with the keys that it is then given it can read a message.
 */
import { ShapeError } from "../../core/errors.ts";
import { abs, add, div, floor, greaterEqual, less, mul, round, sub, where } from "../../core/ops/math.ts";
import { max } from "../../core/ops/reduce.ts";
import { cast, reshape, slice, stack } from "../../core/ops/shape.ts";
import { bits, foldIn, key } from "../../core/random.ts";
import { flatten, unflatten } from "../../core/tree.ts";
import type { Value } from "../../core/value.ts";
import type { FederatedMethod, Payload } from "./method.ts";

/**
 * Numbers as integers modulo 2^64.
 *
 * @since 0.2.0
 */
export interface FixedPoint {
  /** Bits after the point; default 32: multiples of 2.3e-10. */
  readonly fractionBits?: number;
  /** Numbers that may be added: each is below 2^63 / 2^fractionBits / terms, so that no sum can wrap. */
  readonly terms: number;
}

/**
 * Rounds numbers to multiples of 2^-fractionBits and gives them as integers modulo 2^64, low word first.
 *
 * Shapes: `[...]` becomes `[..., 2]` of uint32.
 *
 * @throws {RangeError} if a number is not finite, or a sum of as many terms could wrap
 * @example Minus a half
 * ```ts
 * const options = { terms: 1, fractionBits: 1 };
 * const words = ct.dist.toFixedPoint(ct.tensor([-0.5, 3]), options);
 * assertClose(words, [[2 ** 32 - 1, 2 ** 32 - 1], [6, 0]]);
 * assertClose(ct.dist.fromFixedPoint(words, options), [-0.5, 3]);
 * ```
 * @since 0.2.0
 */
export function toFixedPoint(x: Value, { fractionBits = 32, terms }: FixedPoint): Value {
  const scaled = round(mul(cast(x, "float64"), 2 ** fractionBits));
  const largest = x.size === 0 ? 0 : max(abs(scaled)).item();
  if (!(largest * terms < 2 ** 63)) {
    throw new RangeError(
      `Cannot make integers of ${x.aval} with ${fractionBits} bits after the point: the largest number is ${largest / 2 ** fractionBits}, finite ones whose sum of ${terms} is below ${2 ** (63 - fractionBits)} are needed`,
    );
  }
  const high = floor(div(scaled, WORD));
  const low = sub(scaled, mul(high, WORD));
  const wrapped = where(less(high, 0), add(high, WORD), high);
  return stack([cast(low, "uint32"), cast(wrapped, "uint32")], { axis: -1 });
}

/**
 * The numbers of integers modulo 2^64, those from 2^63 on negative.
 *
 * Shapes: `[..., 2]` of uint32 becomes `[...]` of float64.
 *
 * @example A quarter
 * ```ts
 * const words = ct.tensor([[1, 0]], { dtype: "uint32" });
 * assertClose(ct.dist.fromFixedPoint(words, { terms: 1, fractionBits: 2 }), [0.25]);
 * ```
 * @since 0.2.0
 */
export function fromFixedPoint(words: Value, { fractionBits = 32 }: FixedPoint): Value {
  const low = cast(word(words, 0), "float64");
  const high = cast(word(words, 1), "float64");
  const signed = where(greaterEqual(high, WORD / 2), sub(high, WORD), high);
  return mul(add(mul(signed, WORD), low), 2 ** -fractionBits);
}

const WORD = 2 ** 32;

/** One word of each integer. */
function word(words: Value, index: 0 | 1): Value {
  const shape = words.shape.slice(0, -1);
  const start = shape.map(() => 0);
  return reshape(slice(words, [...start, index], [...shape, index + 1]), shape);
}

/** a + b modulo 2^64. */
function plus(a: Value, b: Value): Value {
  const low = add(word(a, 0), word(b, 0));
  const carry = cast(less(low, word(a, 0)), "uint32");
  return stack([low, add(add(word(a, 1), word(b, 1)), carry)], { axis: -1 });
}

/** a - b modulo 2^64. */
function minus(a: Value, b: Value): Value {
  const low = sub(word(a, 0), word(b, 0));
  const borrow = cast(less(word(a, 0), word(b, 0)), "uint32");
  return stack([low, sub(sub(word(a, 1), word(b, 1)), borrow)], { axis: -1 });
}

/**
 * The key of the masks that two clients share, the same in either order; one key, one round.
 *
 * @since 0.2.0
 */
export type MaskKeys = (client: number, other: number) => Value;

/**
 * Keys of masks that are derived from a seed: for simulations. Whoever knows the seed can remove every mask.
 *
 * Shapes: a key is u32[2].
 * Determinism: the same keys for the same seed.
 *
 * @example Both clients have the same
 * ```ts
 * const keys = ct.dist.seededMaskKeys(3);
 * assertClose(keys(0, 1), keys(1, 0));
 * ```
 * @since 0.2.0
 */
export function seededMaskKeys(seed: number): MaskKeys {
  const root = key(seed);
  return (client, other) => foldIn(foldIn(root, Math.min(client, other)), Math.max(client, other));
}

/**
 * Who masks, and with whom.
 *
 * @since 0.2.0
 */
export interface Masking extends FixedPoint {
  /** Clients whose messages are to be added, those that turn out to be absent too. */
  readonly clients: number;
  readonly keys: MaskKeys;
}

/**
 * A client's message as it sends it: its numbers as integers, and on them the masks that it shares with all others.
 *
 * Cost: as many random words as the message has, for each other client.
 *
 * Shapes: every leaf `[...]` of floats becomes `[..., 2]` of uint32, as many bytes as float64.
 *
 * @throws {RangeError} if a number is not finite, or a sum could wrap
 * @example Two clients
 * ```ts
 * const masking = { clients: 2, terms: 2, keys: ct.dist.seededMaskKeys(3) };
 * const sent = [1, 2].map((x, client) => ct.dist.maskPayload({ x: ct.tensor([x]) }, client, masking));
 * const { x } = ct.dist.sumOfMasked(sent, masking) as { x: ct.Value };
 * assertClose(x, [3]);
 * ```
 * @source Bonawitz et al. 2017, "Practical secure aggregation for privacy-preserving machine learning", the masks of pairs
 * @since 0.2.0
 */
export function maskPayload(payload: Payload, client: number, masking: Masking): Payload {
  const [leaves, structure] = flatten(payload);
  const masked = leaves.map((leaf, index) => {
    let words = toFixedPoint(leaf, masking);
    for (let other = 0; other < masking.clients; other++) {
      if (other !== client) words = withMask(words, client, other, index, masking.keys);
    }
    return words;
  });
  return unflatten(structure, masked);
}

/** The client of the lower number adds the mask of a pair, the other subtracts it. */
function withMask(words: Value, client: number, other: number, leaf: number, keys: MaskKeys): Value {
  const mask = bits(foldIn(keys(client, other), leaf), words.shape);
  return client < other ? plus(words, mask) : minus(words, mask);
}

/**
 * The sum of masked messages.
 *
 * Of clients that are absent the masks remain in the messages of the others, who then reveal the keys that they share with
 * them: `keys` is asked for those pairs alone. These masks hid nothing else.
 *
 * Shapes: leaves `[..., 2]` of uint32 become `[...]` of float64.
 *
 * @param answers in the order of clients, null for those that are absent
 * @throws {ShapeError} if nobody answered, or there is not one entry for each client
 * @example One of three clients is absent
 * ```ts
 * const masking = { clients: 3, terms: 3, keys: ct.dist.seededMaskKeys(3) };
 * const sent = [1, 2, 4].map((x, client) => ct.dist.maskPayload({ x: ct.tensor([x]) }, client, masking));
 * const { x } = ct.dist.sumOfMasked([sent[0], null, sent[2]], masking) as { x: ct.Value };
 * assertClose(x, [5]);
 * ```
 * @since 0.2.0
 */
export function sumOfMasked(answers: readonly (Payload | null)[], masking: Masking): Payload {
  const clients = answers.map((_, client) => client);
  const present = clients.filter((client) => answers[client] != null);
  const absent = clients.filter((client) => answers[client] == null);
  if (present.length === 0 || clients.length !== masking.clients) {
    throw new ShapeError(
      "sumOfMasked",
      `Cannot add masked messages: there are ${present.length} and ${absent.length} absent, those of ${masking.clients} clients and one at least are needed`,
    );
  }
  const messages = present.map((client) => flatten(answers[client]));
  const [leaves, structure] = messages[0]!;
  const sums = leaves.map((first, index) => {
    let words = messages.slice(1).reduce((sum, [others]) => plus(sum, others[index]!), first);
    // What an absent client would have added, its partner subtracted.
    for (const other of absent) {
      for (const client of present) words = withMask(words, other, client, index, masking.keys);
    }
    return fromFixedPoint(words, masking);
  });
  return unflatten(structure, sums);
}

/**
 * A method whose server gets nothing but the sum of the answers of a round: for methods that need no more (`needsSumOnly`), such
 * as AFL with statistics.
 *
 * Keys are derived from a seed: this shows that the sum is enough, and what it costs; it keeps nothing from who knows the
 * seed. Sums differ from those of the method by rounding to 2^-fractionBits.
 *
 * Shapes: those of the method; it sends float64, which is as many bytes masked.
 * Determinism: the same bits in every run.
 *
 * @throws {RangeError} if the server of the method needs more than the sum
 * @example AFL that sees no client
 * ```ts
 * const method = ct.dist.masked(ct.dist.afl({ features: (x) => x, width: 1, classes: 2 }), { seed: 0, clients: 2 });
 * const at = (client: number) => ({ round: 0, client, clients: 2 });
 * const data = { x: ct.tensor([[-1], [1]]), y: ct.tensor([0, 1], { dtype: "int32" }) };
 * const sent = [0, 1].map((client) => method.client({}, data, {}, at(client))[1]);
 * assertClose(method.server(method.initServer(), sent, 0).weights, [[-0.4, 0.4]]);
 * ```
 * @since 0.2.0
 */
export function masked<S, C>(
  method: FederatedMethod<S, C>,
  options: { readonly seed: number; readonly clients: number; readonly fractionBits?: number },
): FederatedMethod<S, C> {
  const { seed, clients, fractionBits = 32 } = options;
  if (!method.needsSumOnly) {
    throw new RangeError(
      `Cannot mask what clients of ${method.name} send: its server needs each answer, a method that says with needsSumOnly that their sum is enough is needed`,
    );
  }
  const keys = seededMaskKeys(seed);
  const maskingOf = (number: number): Masking => ({
    clients,
    terms: clients,
    fractionBits,
    keys: (client, other) => foldIn(keys(client, other), number),
  });
  return {
    ...method,
    name: `${method.name}, masked`,
    client(state, data, received, at) {
      const [next, sent] = method.client(state, data, received, at);
      return [next, maskPayload(sent, at.client, maskingOf(at.round))];
    },
    server(state, answers, number) {
      if (answers.every((answer) => answer === null)) return method.server(state, answers, number);
      return method.server(state, [sumOfMasked(answers, maskingOf(number))], number);
    },
  };
}
