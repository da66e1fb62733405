/** Masked sums: equal to the sums of the rounded numbers to the last bit, and one message alone looks like noise. */
import { expect, test } from "bun:test";
import { adoptArray, ones, tensor, zeros } from "../../../core/create.ts";
import { ShapeError } from "../../../core/errors.ts";
import { logistic } from "../../../core/nn.ts";
import { add, matmul, mul, norm, sub, take } from "../../../core/ops.ts";
import { foldIn, key, normal } from "../../../core/random.ts";
import { leaves } from "../../../core/tree.ts";
import type { Value } from "../../../core/value.ts";
import type { FittedLayer } from "../../../dist/federated/acnnl.ts";
import { afl } from "../../../dist/federated/afl.ts";
import { fedacnnl } from "../../../dist/federated/fedacnnl.ts";
import { fedAvg } from "../../../dist/federated/fedavg.ts";
import type { FederatedMethod, Payload } from "../../../dist/federated/method.ts";
import { pfedacnnl } from "../../../dist/federated/personal.ts";
import {
  fromFixedPoint,
  type Masking,
  masked,
  maskPayload,
  seededMaskKeys,
  sumOfMasked,
  toFixedPoint,
} from "../../../dist/federated/secure_sum.ts";
import { list } from "../../optim/numbers.ts";

const draw = (seed: number, shape: readonly number[]): Value =>
  normal(foldIn(key(23), seed), shape, { dtype: "float64" });
const maskingOf = (clients: number, seed = 4, fractionBits = 32): Masking => ({
  clients,
  terms: clients,
  fractionBits,
  keys: seededMaskKeys(seed),
});

/** The integer of two words, by BigInt. */
const integers = (words: Value): bigint[] => {
  const data = list(words);
  return Array.from({ length: data.length / 2 }, (_, i) =>
    BigInt.asIntN(64, BigInt(data[2 * i]!) + (BigInt(data[2 * i + 1]!) << 32n)),
  );
};

test("numbers become the nearest integers modulo 2^64, and come back", () => {
  const numbers = [0, 1, -1, 0.5, -0.5, 1e-12, -1e-12, 12345.678, -98765.4321, 2 ** 30, -(2 ** 30), 1 / 3];
  const options = { terms: 1, fractionBits: 32 };
  const words = toFixedPoint(tensor(numbers, { dtype: "float64" }), options);
  expect(words.dtype).toBe("uint32");
  expect(words.shape).toEqual([numbers.length, 2]);
  integers(words).forEach((found, i) => {
    expect(Math.abs(Number(found) - numbers[i]! * 2 ** 32)).toBeLessThanOrEqual(0.5);
  });
  list(fromFixedPoint(words, options)).forEach((found, i) => {
    expect(Math.abs(found - numbers[i]!)).toBeLessThanOrEqual(2 ** -33);
  });
});

test("numbers whose sum could wrap, or that are none, are an error", () => {
  const at = (x: number, terms: number) => () => toFixedPoint(tensor([x], { dtype: "float64" }), { terms });
  expect(at(2 ** 31 - 1, 1)).not.toThrow();
  expect(at(2 ** 31, 1)).toThrow(RangeError);
  expect(at(2 ** 30, 2)).toThrow(RangeError);
  expect(at(Number.NaN, 1)).toThrow(RangeError);
  expect(at(-Infinity, 1)).toThrow(RangeError);
  expect(toFixedPoint(zeros([0, 3]), { terms: 1 }).shape).toEqual([0, 3, 2]);
});

test("the sum of masked messages is the sum of the integers, to the last bit", () => {
  for (const clients of [1, 2, 3, 7]) {
    const masking = maskingOf(clients);
    const payloads = Array.from({ length: clients }, (_, client) => ({
      a: mul(draw(client, [4, 3]), 1e4),
      b: [draw(100 + client, [])],
    }));
    const sums = sumOfMasked(
      payloads.map((payload, client) => maskPayload(payload, client, masking)),
      masking,
    );
    const expected = payloads
      .map((payload) => leaves(payload).map((leaf) => integers(toFixedPoint(leaf, masking))))
      .reduce((a, b) => a.map((leaf, i) => leaf.map((x, j) => x + b[i]![j]!)));
    const found = sums as { readonly a: Value; readonly b: readonly [Value] };
    expect(found.a.shape).toEqual([4, 3]);
    expect(found.b[0].shape).toEqual([]);
    expect(leaves(found).map(list)).toEqual(expected.map((leaf) => leaf.map((x) => Number(x) / 2 ** 32)));
  }
});

test("masks of clients that are absent are taken out with their keys alone", () => {
  const keys = seededMaskKeys(9);
  const asked = new Set<string>();
  const masking = { ...maskingOf(6), keys };
  const payloads = Array.from({ length: 6 }, (_, client) => ({ x: draw(client, [50]) }));
  const messages = payloads.map((payload, client) => maskPayload(payload, client, masking));
  for (const absent of [[0], [5], [1, 4], [0, 2, 3, 4, 5]]) {
    asked.clear();
    const answers = messages.map((message, client) => (absent.includes(client) ? null : message));
    const { x } = sumOfMasked(answers, {
      ...masking,
      keys(client, other) {
        asked.add([Math.min(client, other), Math.max(client, other)].join());
        return keys(client, other);
      },
    }) as { readonly x: Value };
    const expected = payloads
      .filter((_, client) => !absent.includes(client))
      .map((payload) => integers(toFixedPoint(payload.x, masking)))
      .reduce((a, b) => a.map((value, i) => value + b[i]!));
    expect(list(x)).toEqual(expected.map((value) => Number(value) / 2 ** 32));
    for (const pair of asked) {
      const isAbsent = pair.split(",").map((client) => absent.includes(Number(client)));
      expect(isAbsent.filter(Boolean).length).toBe(1);
    }
    expect(asked.size).toBe(absent.length * (6 - absent.length));
  }
});

test("messages of nobody, or of too few, have no sum", () => {
  const masking = maskingOf(2);
  expect(() => sumOfMasked([null, null], masking)).toThrow(ShapeError);
  expect(() => sumOfMasked([maskPayload({ x: ones([1]) }, 0, masking)], masking)).toThrow(ShapeError);
});

/** Chi-squared of the upper four bits of each word against all being as likely: 15 degrees of freedom. */
function chiSquared(words: Value): number[] {
  const data = list(words);
  return [0, 1].map((which) => {
    const counts = new Array<number>(16).fill(0);
    for (let i = which; i < data.length; i += 2) counts[Math.floor(data[i]! / 2 ** 28)]! += 1;
    const mean = data.length / 2 / 16;
    return counts.reduce((sum, count) => sum + (count - mean) ** 2 / mean, 0);
  });
}

test("a masked message is uniform whatever it says, and one that is not masked is not", () => {
  const size = 20_000;
  // 99.9% of uniform samples are below 37.7.
  const limit = 37.7;
  for (const x of [ones([size]), draw(0, [size]), mul(draw(1, [size]), 1e5)]) {
    for (const client of [0, 1, 2]) {
      const { words } = maskPayload({ words: x }, client, maskingOf(3)) as { readonly words: Value };
      for (const statistic of chiSquared(words)) expect(statistic).toBeLessThan(limit);
    }
    expect(Math.max(...chiSquared(toFixedPoint(x, { terms: 3 })))).toBeGreaterThan(10 * limit);
  }
});

test("a masked message says nothing of its numbers: it correlates with them no more than chance", () => {
  const size = 20_000;
  const x = draw(2, [size]);
  const { words } = maskPayload({ words: x }, 1, maskingOf(2)) as { readonly words: Value };
  const high = list(words)
    .filter((_, i) => i % 2 === 1)
    .map((value) => value / 2 ** 32 - 0.5);
  const xs = list(x);
  const correlation = high.reduce((sum, value, i) => sum + value * xs[i]!, 0) / size / Math.sqrt(1 / 12);
  expect(Math.abs(correlation)).toBeLessThan(4 / Math.sqrt(size));
});

test("masks differ between pairs, leaves and rounds", () => {
  const method = masked(sender(), { seed: 1, clients: 3 });
  const data = { x: zeros([1]), y: zeros([1], { dtype: "int32" }) };
  const seen = new Set<string>();
  for (const client of [0, 1, 2]) {
    for (const number of [0, 1]) {
      const [, sent] = method.client({}, data, {}, { round: number, client, clients: 3 });
      for (const leaf of leaves(sent)) seen.add(list(leaf).join());
    }
  }
  expect(seen.size).toBe(12);
  expect(list(seededMaskKeys(1)(0, 2))).toEqual(list(seededMaskKeys(1)(2, 0)));
  expect(list(seededMaskKeys(1)(0, 2))).not.toEqual(list(seededMaskKeys(2)(0, 2)));
});

test("a method whose server looks at single answers cannot be masked", () => {
  const options = { seed: 1, clients: 3 };
  const network = { image: [1, 6, 6], classes: 3, layers: [] } as const;
  for (const method of [
    pfedacnnl({ ...network, groups: 2 }),
    afl({ features: (x) => x, width: 2, classes: 2, message: "model" }),
    fedAvg(logistic(2, 2), { rounds: 1 }),
  ]) {
    expect(() => masked(method as FederatedMethod<unknown, unknown>, options)).toThrow(
      `Cannot mask what clients of ${method.name} send: its server needs each answer, `,
    );
  }
  expect(masked(pfedacnnl({ ...network, groups: 1 }), options).name).toBe("pFedACnnL, masked");
});

/** Sends two zeros. */
function sender() {
  return {
    name: "zeros",
    rounds: 2,
    needsSumOnly: true,
    initServer: () => ({}),
    initClient: () => ({}),
    broadcast: () => ({}),
    client: () => [{}, [zeros([2]), zeros([2])]] as const,
    server: () => ({}),
    model: () => ({}),
    scores: () => zeros([1]),
    bytes: () => ({ received: 0, sent: 32 }),
  };
}

test("AFL with masked statistics has the same model, with absent clients too, and sends as many bytes", () => {
  const [clients, n, d, classes] = [5, 40, 12, 3];
  const plain = afl({ features: (x) => x, width: d, classes });
  const method = masked(plain, { seed: 6, clients });
  const centres = draw(50, [d, classes]);
  const datas = Array.from({ length: clients }, (_, client) => {
    const x = draw(client, [n, d]);
    const scores = matmul(x, centres).toArray() as number[][];
    const y = adoptArray(Int32Array.from(scores, (row) => row.indexOf(Math.max(...row))));
    return { x, y };
  });
  for (const absent of [[], [1, 3]]) {
    const answersOf = (m: typeof plain) =>
      datas.map((data, client) =>
        absent.includes(client as never) ? null : m.client({}, data, {}, { round: 0, client, clients })[1],
      );
    const sent = answersOf(method);
    const expected = plain.server(plain.initServer(), answersOf(plain), 0).weights;
    const { weights } = method.server(method.initServer(), sent, 0);
    expect(norm(sub(weights, expected)).item() / norm(expected).item()).toBeLessThan(1e-9);
    for (const answer of sent) {
      if (answer === null) continue;
      const bytes = leaves(answer).reduce((sum, leaf) => sum + leaf.dataSync().byteLength, 0);
      expect(method.bytes(0).sent).toBe(bytes);
    }
  }
  const nobody = datas.map(() => null);
  expect(list(method.server(method.initServer(), nobody, 0).weights)).toEqual(
    list(plain.initServer().weights),
  );
});

/** Methods that fit layers from sums, with the prior of own models in one of its two forms. */
const layered = {
  image: [1, 6, 6],
  classes: 3,
  layers: [{ k: "conv", channels: 4, kernel: 3 }],
  headGamma: 1,
} as const;
const layeredMethods: readonly (readonly [string, LayeredMethod])[] = [
  ["FedACnnL", fedacnnl(layered) as unknown as LayeredMethod],
  ["FedACnnL, half of the filters", fedacnnl({ ...layered, filters: "half" }) as unknown as LayeredMethod],
  ["pFedACnnL", pfedacnnl({ ...layered, lambda: 2 }) as unknown as LayeredMethod],
  ["pFedACnnL by answers", pfedacnnl({ ...layered, lambda: 2, prior: "gram" }) as unknown as LayeredMethod],
];
type LayeredMethod = FederatedMethod<{ readonly layers: readonly FittedLayer[] }, never>;

test.each(layeredMethods)(
  "%s with masked statistics has the sums and the model of all, with absent clients too",
  (_name, plain) => {
    const clients = 5;
    const method = masked(plain, { seed: 8, clients });
    const patterns = draw(60, [3, 1, 6, 6]);
    const datas = Array.from({ length: clients }, (_, client) => {
      const y = adoptArray(Int32Array.from({ length: 9 + client }, (_, i) => (i * i + client) % 3));
      return { x: add(take(patterns, y), mul(draw(70 + client, [9 + client, 1, 6, 6]), 0.5)), y };
    });
    // Another one is away in each layer.
    const there = [
      [0, 1, 2, 4],
      [0, 1, 3, 4],
    ];
    expect(there.length).toBe(plain.rounds);
    let [server, expected] = [method.initServer(), plain.initServer()];
    for (const [round, present] of there.entries()) {
      // Both take the layers of the run without masks, so that what is compared is one round.
      const answersOf = (m: LayeredMethod): (Payload | null)[] =>
        datas.map((data, client) => {
          const at = { round, client, clients };
          const message = plain.broadcast(expected, round);
          return present.includes(client) ? m.client({} as never, data, message, at)[1] : null;
        });
      const [sent, open] = [answersOf(method), answersOf(plain)];
      // The server gets the sum and nothing else: each client rounds by half of 2^-32 at most, the rest is that of float64.
      const inputs: (readonly (Payload | null)[])[] = [];
      const watching: LayeredMethod = {
        ...plain,
        server(state, all) {
          inputs.push(all);
          return state;
        },
      };
      masked(watching, { seed: 8, clients }).server(server, sent, round);
      expect(inputs.map((all) => all.length)).toEqual([1]);
      const sums = leaves(inputs[0]![0]).map(list);
      const wanted = open
        .filter((answer) => answer !== null)
        .map((answer) => leaves(answer).map(list))
        .reduce((a, b) => a.map((leaf, i) => leaf.map((x, j) => x + b[i]![j]!)));
      const off = sums.flatMap((leaf, i) =>
        leaf.map((x, j) => Math.abs(x - wanted[i]![j]!) - 1e-15 * Math.abs(x)),
      );
      expect(Math.max(...off)).toBeLessThanOrEqual(present.length * 2 ** -33);
      for (const answer of sent) {
        if (answer === null) continue;
        expect(leaves(answer).every((leaf) => leaf.dtype === "uint32")).toBe(true);
        expect(leaves(answer).reduce((sum, leaf) => sum + leaf.dataSync().byteLength, 0)).toBe(
          method.bytes(round).sent,
        );
      }
      server = method.server(server, sent, round);
      expected = plain.server(expected, open, round);
      const [found, known] = [server, expected].map(({ layers }) => layers[round]!.weights) as [Value, Value];
      expect(norm(sub(found, known)).item()).toBeLessThan(1e-8 * norm(known).item());
    }
    // What a client makes of the masked model by itself is what it makes of the other one.
    const own = [server, expected].map((state) =>
      leaves(
        method.personalize?.({} as never, datas[3]!, method.broadcast(state, 2), {
          round: 2,
          client: 3,
          clients,
        }) ?? [],
      ),
    );
    expect(own[0]!.length).toBe(plain.personalize === undefined ? 0 : 2);
    own[0]!.forEach((leaf, i) => {
      expect(norm(sub(leaf, own[1]![i]!)).item()).toBeLessThan(1e-8 * norm(leaf).item());
    });
  },
);
