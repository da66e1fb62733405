/**
 * DeepAFL: residual blocks of random features on top of a frozen backbone, each fitted in closed form over all clients.
 */
import { jit } from "../../autodiff/jit.ts";
import { zeros } from "../../core/create.ts";
import { type Activation, resolveActivation } from "../../core/nn/activation.ts";
import { matmul } from "../../core/ops/contract.ts";
import { oneHot } from "../../core/ops/indexing.ts";
import { eigh, qr } from "../../core/ops/linalg.ts";
import { add, div, mul, sub, tanh } from "../../core/ops/math.ts";
import { cast, expandDims, reshape, transpose } from "../../core/ops/shape.ts";
import { foldIn, key, uniform } from "../../core/random.ts";
import { scalar } from "../../core/trace.ts";
import type { Value } from "../../core/value.ts";
import { sumOfAnswers } from "./fedacnnl.ts";
import type { FederatedMethod } from "./method.ts";
import {
  type PackedStatistics,
  packStatistics,
  ridge,
  type Statistics,
  statisticsBytes,
  statisticsOf,
  unpackStatistics,
} from "./statistics.ts";

/**
 * What DeepAFL is told.
 *
 * @since 0.2.0
 */
export interface DeepAflOptions {
  /** Numbers that `features` makes of an example. */
  readonly inputs: number;
  readonly classes: number;
  /** Residual blocks; default 5. */
  readonly blocks?: number;
  /** Width of the residual stream; default 1024. */
  readonly hidden?: number;
  /** Random features in a block; default 1024. */
  readonly width?: number;
  /** Ridge of the heads; default 1. */
  readonly gamma?: number;
  /** Ridge of the blocks; default 0.05. */
  readonly blockGamma?: number;
  /** Of the random features in blocks; default "gelu". */
  readonly activation?: Activation;
  /** Draws the random features; default 0. */
  readonly seed?: number;
  /** The frozen backbone, `[n, ...]` to `[n, inputs]`; default: an example is a row. */
  readonly features?: (x: Value) => Value;
}

/**
 * A block's matrix as a product of two thin ones, `left rightᵀ`: its rank is at most the number of classes.
 *
 * Shapes: `left` is `[width, rank]`, `right` is `[hidden, rank]`.
 *
 * @since 0.2.0
 */
export interface BlockFactors {
  readonly left: Value;
  readonly right: Value;
}

/**
 * The server of DeepAFL: the blocks that are fitted, and the head on top of the last stream that has one.
 *
 * @since 0.2.0
 */
export interface DeepAflServer {
  readonly blocks: readonly BlockFactors[];
  /** One, or none before the first round is over. */
  readonly head: readonly Value[];
}

/**
 * A client of DeepAFL: its residual stream after `depth` blocks, which saves it their work. No rows: not begun.
 *
 * @since 0.2.0
 */
export interface DeepAflClient {
  readonly stream: Value;
  readonly depth: Value;
}

/**
 * The matrix D that minimises `|E - F D W|² + gamma |D|²`, from FᵀF and FᵀE: it solves
 * `FᵀF D WWᵀ + gamma D = FᵀE Wᵀ`.
 *
 * With `WWᵀ = U diag(s) Uᵀ` of rank c and `FᵀF = V diag(z) Vᵀ` it is `V ((VᵀFᵀE WᵀU) / (gamma + z sᵀ)) Uᵀ`; outside of U the
 * right side is zero, so D is a product of two thin matrices.
 *
 * Shapes: `stats` of F `[n, width]` and E `[n, c]`, `head` W `[hidden, c]`.
 *
 * @throws {RangeError} if gamma is not positive
 * @source DeepAFL 2026, arXiv 2603.00579
 * @example One number each
 * ```ts
 * const one = (x: number) => ct.tensor([[x]], { dtype: "float64" });
 * const { left, right } = ct.dist.sandwich(ct.dist.statisticsOf(one(2), one(3)), one(5), 4);
 * assertClose(ct.matmul(left, ct.transpose(right)), [[30 / 104]]); // 4 d 25 + 4 d = 6 * 5
 * ```
 * @since 0.2.0
 */
export function sandwich({ gram, cross }: Statistics, head: Value, gamma: number): BlockFactors {
  if (!(gamma > 0)) {
    throw new RangeError(`Cannot fit a block: its gamma is ${gamma}, a positive number is needed`);
  }
  // W = Q R, so WWᵀ = Q (RRᵀ) Qᵀ: the eigenvectors of a matrix as small as there are classes.
  const [q, r] = qr(head);
  const [s, inner] = eigh(matmul(r, transpose(r)));
  const right = matmul(q, inner);
  const [z, v] = eigh(gram);
  const rotated = matmul(transpose(v), matmul(cross, matmul(transpose(head), right)));
  const divisor = add(mul(expandDims(z, 1), expandDims(s, 0)), gamma);
  return { left: matmul(v, div(rotated, divisor)), right };
}

/**
 * DeepAFL: a frozen backbone, then `X ← X + F(X) D` block after block, where F are random features and the matrices D are
 * fitted in closed form: first a head W on X by ridge regression, then D so that it makes up for what W leaves.
 *
 * Two rounds a block, and one for the last head: sums of X and the labels, then sums of F and of what is left. Not as in the
 * authors' program, a block travels as two thin matrices, which is the same matrix, and all of them travel each time, so that a
 * client may miss any round. A round is `8 t (width + hidden) rank` bytes down for t blocks, in the second round of a block its
 * head too, with the least of hidden and classes as rank; and the bytes of packed statistics up.
 *
 * All scores are 0 until there is a head.
 *
 * Shapes: what `features` takes, or `[n, ...]` with `inputs` numbers an example; computed in float64.
 * Determinism: same bits for same order of clients.
 *
 * @throws {RangeError} if a matrix is singular up to rounding
 * @source DeepAFL 2026, arXiv 2603.00579
 * @example A block makes the fit closer
 * ```ts
 * const x = ct.random.normal(ct.random.key(2), [20, 3]);
 * const y = ct.cast(ct.greater(x.mul(x).sum({ axis: 1 }), 2), "int32");
 * const errors = [0, 4].map((blocks) => {
 *   const method = ct.dist.deepafl({ inputs: 3, classes: 2, hidden: 6, width: 12, blocks, gamma: 0.01 });
 *   let [server, client] = [method.initServer(), method.initClient(0)];
 *   for (let round = 0; round < method.rounds; round++) {
 *     const at = { round, client: 0, clients: 1 };
 *     const [next, sent] = method.client(client, { x, y }, method.broadcast(server, round), at);
 *     [server, client] = [method.server(server, [sent], round), next];
 *   }
 *   return ct.norm(ct.sub(method.scores(method.model(server), x), ct.oneHot(y, 2, { dtype: "float64" }))).item();
 * });
 * assert(errors[1]! < errors[0]!);
 * ```
 * @since 0.2.0
 */
export function deepafl(options: DeepAflOptions): FederatedMethod<DeepAflServer, DeepAflClient> {
  const { inputs, classes, blocks = 5, hidden = 1024, width = 1024 } = options;
  const { gamma = 1, blockGamma = 0.05, activation = "gelu", seed = 0 } = options;
  const { features = (x: Value): Value => reshape(x, [x.shape[0]!, inputs]) } = options;
  const act = resolveActivation(activation);
  const rank = Math.min(hidden, classes);

  /** Random affine maps, drawn when they are first needed: 0 makes the stream, t the features of block t. */
  const drawn = new Map<number, readonly [weights: Value, bias: Value]>();
  const affine = (t: number): readonly [weights: Value, bias: Value] => {
    let known = drawn.get(t);
    if (known === undefined) {
      const [from, to] = t === 0 ? [inputs, hidden] : [hidden, width];
      const at = foldIn(key(seed), t);
      const bound = 1 / Math.sqrt(from);
      const within = { min: -bound, max: bound, dtype: "float64" } as const;
      known = [uniform(foldIn(at, 0), [from, to], within), uniform(foldIn(at, 1), [to], within)];
      drawn.set(t, known);
    }
    return known;
  };
  const begin = jit((x: Value, w: Value, b: Value) => tanh(add(matmul(x, w), b)));
  const random = jit((x: Value, w: Value, b: Value) => act(add(matmul(x, w), b)));
  const streamOf = (x: Value): Value => begin(cast(features(x), "float64"), ...affine(0));
  const featuresOf = (stream: Value, block: number): Value => random(stream, ...affine(block + 1));
  /** The stream after all blocks, from what it is after `depth` of them. */
  const further = (stream: Value, depth: number, all: readonly BlockFactors[]): Value => {
    for (let t = depth; t < all.length; t++) {
      const { left, right } = all[t]!;
      stream = add(stream, matmul(matmul(featuresOf(stream, t), left), transpose(right)));
    }
    return stream;
  };
  const isHeadRound = (round: number): boolean => round % 2 === 0;

  return {
    name: "DeepAFL",
    rounds: 2 * blocks + 1,
    needsSumOnly: true,
    initServer: () => ({ blocks: [], head: [] }),
    initClient: () => ({ stream: zeros([0, hidden], { dtype: "float64" }), depth: scalar(0, "int32") }),
    broadcast: (server, round) => ({ blocks: server.blocks, head: isHeadRound(round) ? [] : server.head }),
    client(state, data, received, at) {
      const { blocks: all, head } = received as DeepAflServer;
      const begun = state.stream.shape[0] !== 0;
      const stream = further(begun ? state.stream : streamOf(data.x), begun ? state.depth.item() : 0, all);
      const next = { stream, depth: scalar(all.length, "int32") };
      const labels = oneHot(data.y, classes, { dtype: "float64" });
      const stats = isHeadRound(at.round)
        ? statisticsOf(stream, labels)
        : statisticsOf(featuresOf(stream, all.length), sub(labels, matmul(stream, head[0]!)));
      return [next, packStatistics(stats)];
    },
    server(state, answers, round) {
      const block = Math.floor(round / 2) + 1;
      const stats = sumOfAnswers(
        answers as readonly (PackedStatistics | null)[],
        `block ${block} of DeepAFL`,
      );
      if (isHeadRound(round)) {
        const what = `head ${block} of DeepAFL`;
        return { ...state, head: [ridge(unpackStatistics(stats, hidden), gamma, what)] };
      }
      const fitted = sandwich(unpackStatistics(stats, width), state.head[0]!, blockGamma);
      return { ...state, blocks: [...state.blocks, fitted] };
    },
    model: (server) => server,
    scores(model, x) {
      const { blocks: all, head } = model as DeepAflServer;
      const [w] = head;
      if (w === undefined) return zeros([x.shape[0]!, classes], { dtype: "float64" });
      return matmul(further(streamOf(x), 0, all), w);
    },
    bytes(round) {
      const down = Math.floor(round / 2) * (width + hidden) * rank;
      return isHeadRound(round)
        ? { received: 8 * down, sent: statisticsBytes(hidden, classes) }
        : {
            received: 8 * (down + hidden * classes),
            sent: round <= 2 * blocks ? statisticsBytes(width, classes) : 0,
          };
    },
  };
}
