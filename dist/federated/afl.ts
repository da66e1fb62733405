/**
 * AFL: a linear model on frozen features, fitted by all clients together in one round. Each fits its own by ridge
 * regression; joined by the absolute aggregation law, these are the model of all examples, however they are spread.
 */
import { eye, zeros } from "../../core/create.ts";
import { ShapeError } from "../../core/errors.ts";
import { matmul } from "../../core/ops/contract.ts";
import { oneHot } from "../../core/ops/indexing.ts";
import { eigh, solve } from "../../core/ops/linalg.ts";
import { abs, add, div, greater, mul, relu, sub, where } from "../../core/ops/math.ts";
import { max } from "../../core/ops/reduce.ts";
import { cast, reshape, slice, transpose } from "../../core/ops/shape.ts";
import { foldIn, key, normal } from "../../core/random.ts";
import { scalar } from "../../core/trace.ts";
import type { Value } from "../../core/value.ts";
import type { FederatedMethod, Payload } from "./method.ts";
import {
  addStatistics,
  packStatistics,
  packSymmetric,
  ridge,
  ridgeTerm,
  type Statistics,
  solvePositive,
  statisticsBytes,
  statisticsOf,
  subtractStatistics,
  unpackStatistics,
  unpackSymmetric,
  zeroStatistics,
} from "./statistics.ts";

/**
 * A ridge regression of one client, or of several together: W = C⁻¹ XᵀY with C = XᵀX + gamma I.
 *
 * Shapes: `weights` is `[d, c]`, `gram` is C, `[d, d]`, `gamma` a scalar: what C has of it. All float64.
 *
 * @since 0.2.0
 */
export interface RidgeModel {
  readonly weights: Value;
  readonly gram: Value;
  readonly gamma: Value;
}

/**
 * The model of one client.
 *
 * Shapes: statistics of d features and c targets.
 *
 * @throws {RangeError} if C is singular up to rounding
 * @example One example
 * ```ts
 * const stats = ct.dist.statisticsOf(ct.tensor([[1]]), ct.tensor([[4]]));
 * assertClose(ct.dist.ridgeModel(stats, 1).weights, [[2]]);
 * ```
 * @since 0.2.0
 */
export function ridgeModel(stats: Statistics, gamma: number): RidgeModel {
  return {
    weights: ridge(stats, gamma, "the model of a client"),
    gram: add(stats.gram, ridgeTerm(stats.gram, gamma)),
    gamma: scalar(gamma, "float64"),
  };
}

/**
 * Models as one: W = (sum C_k)⁻¹ (sum C_k W_k), the ridge regression of the examples of all, with the gamma of all. No server
 * is needed: any two can be joined, in any order.
 *
 * Shapes: all have the same d and c.
 *
 * @throws {RangeError} if there is none, or the sum of the C_k is singular up to rounding
 * @example Two clients are one
 * ```ts
 * const [u, v] = [[1, 3], [2, 1]].map(([x, y]) => ct.dist.statisticsOf(ct.tensor([[x!]]), ct.tensor([[y!]])));
 * const joint = ct.dist.joinModels([ct.dist.ridgeModel(u!, 1), ct.dist.ridgeModel(v!, 1)]);
 * assertClose(joint.weights, ct.dist.ridge(ct.dist.addStatistics(u!, v!), 2));
 * ```
 * @source He, Tong, Fang et al. 2025, "AFL: a single-round analytic approach for federated learning with pre-trained
 * models", its absolute aggregation law without inverses
 * @since 0.2.0
 */
export function joinModels(models: readonly RidgeModel[]): RidgeModel {
  const [first, ...others] = models;
  if (!first) throw new RangeError("Cannot join 0 models: one is needed");
  const cross = others.reduce((sum, model) => add(sum, crossOf(model)), crossOf(first));
  const gram = others.reduce((sum, model) => add(sum, model.gram), first.gram);
  const gamma = others.reduce((sum, model) => add(sum, model.gamma), first.gamma);
  return { weights: solved("the joint model", gram, cross), gram, gamma };
}

/** C W = XᵀY. */
function crossOf({ gram, weights }: RidgeModel): Value {
  return matmul(gram, weights);
}

function solved(what: string, gram: Value, cross: Value): Value {
  const weights = solvePositive(gram, cross);
  if (weights) return weights;
  throw new RangeError(
    `Cannot solve ${what}: its matrix of ${gram.shape[0]} features is singular up to rounding, clients with a larger gamma are needed`,
  );
}

/**
 * Two models as one in the form in which AFL states its law: W = V_u W_u + V_v W_v, with
 * V_u = I - R_u C_v + R_u C_v (C_u + C_v)⁻¹ C_v, R_u = C_u⁻¹, and V_v alike.
 *
 * Equal to `joinModels` but for rounding, of which it has more: there is an inverse of each C.
 *
 * Shapes: both have the same d and c.
 *
 * @example The same model
 * ```ts
 * const model = (x: number) => ct.dist.ridgeModel(ct.dist.statisticsOf(ct.tensor([[x]]), ct.tensor([[1]])), 1);
 * const both = ct.dist.joinModels([model(1), model(2)]);
 * assertClose(ct.dist.joinByAbsoluteLaw(model(1), model(2)).weights, both.weights);
 * ```
 * @source He, Tong, Fang et al. 2025, "AFL: a single-round analytic approach for federated learning with pre-trained
 * models"
 * @since 0.2.0
 */
export function joinByAbsoluteLaw(u: RidgeModel, v: RidgeModel): RidgeModel {
  const gram = add(u.gram, v.gram);
  const identity = eye(gram.shape[0]!, gram.shape[0]!, { dtype: "float64" });
  const share = (own: RidgeModel, other: RidgeModel): Value => {
    const ratio = matmul(solve(own.gram, identity), other.gram); // R_u C_v
    return add(sub(identity, ratio), matmul(ratio, solve(gram, other.gram)));
  };
  return {
    weights: add(matmul(share(u, v), u.weights), matmul(share(v, u), v.weights)),
    gram,
    gamma: add(u.gamma, v.gamma),
  };
}

/**
 * A joint model without the examples of one client: unlearning, exact but for rounding.
 *
 * W' = (C - C_k)⁻¹ (C W - C_k W_k).
 *
 * Shapes: both have the same d and c.
 *
 * @throws {RangeError} if C - C_k is singular up to rounding
 * @example As if it had never been there
 * ```ts
 * const model = (x: number) => ct.dist.ridgeModel(ct.dist.statisticsOf(ct.tensor([[x]]), ct.tensor([[1]])), 1);
 * const both = ct.dist.joinModels([model(1), model(2)]);
 * assertClose(ct.dist.leaveModel(both, model(2)).weights, model(1).weights);
 * ```
 * @since 0.2.0
 */
export function leaveModel(joint: RidgeModel, client: RidgeModel): RidgeModel {
  const gram = sub(joint.gram, client.gram);
  const cross = sub(crossOf(joint), crossOf(client));
  return {
    weights: solved("the model without a client", gram, cross),
    gram,
    gamma: sub(joint.gamma, client.gamma),
  };
}

/**
 * The model with less gamma than its clients had together: W* = (C - K gamma I)⁻¹ C W, the regularization intermediary.
 *
 * Each client needs gamma for its own model to exist; of all, the examples determine it. Where they do not, it is the
 * solution of least norm.
 *
 * Shapes: the same.
 *
 * @param kept the gamma that is left; default 0
 * @example Least squares
 * ```ts
 * const [x, y] = [ct.tensor([[1], [2]]), ct.tensor([[3], [1]])];
 * const model = ct.dist.ridgeModel(ct.dist.statisticsOf(x, y), 7);
 * assertClose(ct.dist.removeGamma(model).weights, [[1]]);
 * ```
 * @source He, Tong, Fang et al. 2025, "AFL: a single-round analytic approach for federated learning with pre-trained
 * models"
 * @since 0.2.0
 */
export function removeGamma(model: RidgeModel, kept = 0): RidgeModel {
  const gram = sub(model.gram, ridgeTerm(model.gram, model.gamma.item() - kept));
  const cross = crossOf(model);
  return {
    weights: leastSquares(gram, cross, model.gram),
    gram,
    gamma: scalar(kept, "float64"),
  };
}

/**
 * The W of least norm with A W = B, for a positive semidefinite A that is known up to the rounding of `scale`: along its
 * eigenvectors, where eigenvalues are more than that.
 */
function leastSquares(a: Value, b: Value, scale: Value): Value {
  const weights = solvePositive(a, b);
  if (weights) return weights;
  const [values, vectors] = eigh(a);
  const limit = mul(max(abs(scale)), 10 * a.shape[0]! * Number.EPSILON);
  const isLarge = greater(values, limit);
  const inverses = where(isLarge, div(1, where(isLarge, values, 1)), 0);
  return matmul(vectors, mul(reshape(inverses, [-1, 1]), matmul(transpose(vectors), b)));
}

/**
 * Ridge regression of examples that come one batch after the other, without their sums: R = (XᵀX + gamma I)⁻¹ and W.
 *
 * Shapes: `inverse` is `[d, d]`, `weights` is `[d, c]`, both float64.
 *
 * @since 0.2.0
 */
export interface RecursiveModel {
  readonly inverse: Value;
  readonly weights: Value;
}

/**
 * The recursive model of no examples: R = I / gamma, W = 0.
 *
 * Shapes: none.
 *
 * @throws {RangeError} if gamma is not positive
 * @example Nothing is known
 * ```ts
 * assertClose(ct.dist.recursiveModel(2, 1, 4).inverse, [[0.25, 0], [0, 0.25]]);
 * ```
 * @since 0.2.0
 */
export function recursiveModel(d: number, c: number, gamma: number): RecursiveModel {
  if (!(gamma > 0)) {
    throw new RangeError(`Cannot begin recursive least squares: gamma is ${gamma}, one above 0 is needed`);
  }
  const identity = eye(d, d, { dtype: "float64" });
  return { inverse: div(identity, gamma), weights: zeros([d, c], { dtype: "float64" }) };
}

/**
 * The recursive model with a batch more: R becomes R - R Xᵀ (I + X R Xᵀ)⁻¹ X R, and W becomes W + R Xᵀ (Y - X W).
 *
 * Memory: a matrix of d rows and one of n rows, for a client that does not keep examples and cannot solve d equations.
 *
 * Shapes: `x` is `[n, d]`, `y` is `[n, c]`.
 *
 * @throws {ShapeError} if they are not
 * @example The same as all at once
 * ```ts
 * const [x, y] = [ct.tensor([[1], [2]]), ct.tensor([[3], [1]])];
 * const model = ct.dist.recursiveStep(ct.dist.recursiveModel(1, 1, 1), x, y);
 * assertClose(model.weights, ct.dist.ridge(ct.dist.statisticsOf(x, y), 1));
 * ```
 * @source Plackett 1950, "Some theorems in least squares"
 * @since 0.2.0
 */
export function recursiveStep({ inverse, weights }: RecursiveModel, x: Value, y: Value): RecursiveModel {
  const [examples, targets] = [cast(x, "float64"), cast(y, "float64")];
  const xr = matmul(examples, inverse);
  const n = x.shape[0]!;
  const gain = solve(add(eye(n, n, { dtype: "float64" }), matmul(xr, transpose(examples))), xr);
  const next = sub(inverse, matmul(transpose(xr), gain));
  const error = sub(targets, matmul(examples, weights));
  return { inverse: next, weights: add(weights, matmul(next, matmul(transpose(examples), error))) };
}

/**
 * Frozen features relu(x A + b) with a normal A of variance 2 / inputs and a normal b of variance 1 / 100, drawn once: what
 * a trained backbone gives, for tests and for data that needs none.
 *
 * Shapes: `[n, ...]` with `inputs` elements each become `[n, width]`, float64.
 * Determinism: the same features for the same seed; all clients and the server can draw them, so they never travel.
 *
 * @throws {ShapeError} if the elements of an example are not as many as the inputs
 * @example Four features of an image of two pixels
 * ```ts
 * const features = ct.dist.randomFeatures({ inputs: 2, width: 4, seed: 0 });
 * assert(features(ct.ones([3, 1, 2])).shape.join() === "3,4");
 * ```
 * @since 0.2.0
 */
export function randomFeatures(options: {
  readonly inputs: number;
  readonly width: number;
  readonly seed: number;
}): (x: Value) => Value {
  const { inputs, width, seed } = options;
  const root = key(seed);
  const dtype = "float64";
  const a = mul(normal(foldIn(root, 0), [inputs, width], { dtype }), Math.sqrt(2 / inputs));
  const b = mul(normal(foldIn(root, 1), [width], { dtype }), 0.1);
  return (x) => {
    const n = x.shape[0] ?? 0;
    if (x.size !== n * inputs) {
      throw new ShapeError(
        "randomFeatures",
        `Cannot take features of ${x.aval}: ${inputs} elements of each example are needed`,
      );
    }
    return relu(add(matmul(reshape(cast(x, dtype), [n, inputs]), a), b));
  };
}

/**
 * Options of `afl`.
 *
 * @since 0.2.0
 */
export interface AflOptions {
  /** What is frozen: examples `[n, ...]` become `[n, width]`. */
  readonly features: (x: Value) => Value;
  readonly width: number;
  readonly classes: number;
  /** Default 1. */
  readonly gamma?: number;
  /**
   * "statistics" (default): XᵀX and XᵀY, and the server adds gamma once. "model": C = XᵀX + gamma I and W, as AFL has it,
   * and the server removes the gamma of all clients.
   */
  readonly message?: "statistics" | "model";
  /** With the message "model": the gamma that the server leaves; default 0. The `gamma` gives the model of "statistics". */
  readonly kept?: number;
  /** Examples whose features are in memory at once; default 4096. The result is the same but for rounding. */
  readonly batch?: number;
  /**
   * Rounds in which clients may come, default 1: the sums grow by those of clients that come later. A client sends in one of them
   * only (`once` of the plan), or it counts twice.
   */
  readonly rounds?: number;
  /**
   * Whether there is a round after these in which clients leave: they send what they sent before, and the server subtracts it
   * (`leaving` of the plan); default false.
   */
  readonly leaving?: boolean;
}

/**
 * What the server of AFL knows.
 *
 * Shapes: `gram` is `[d, d]`, `cross` is `[d, c]`: sums over the clients; `weights` is `[d, c]`: the model. All float64.
 *
 * @since 0.2.0
 */
export interface AflServer {
  readonly gram: Value;
  readonly cross: Value;
  readonly weights: Value;
}

/**
 * AFL as a federated method of one round, in either form of its messages. With more rounds the clients of each are added to
 * those before, and with a round of leaving some are subtracted: the model is that of the clients that are in the sums.
 *
 * Shapes: examples `[n, ...]` with labels `[n]`; scores are `[n, classes]`, float64.
 * Determinism: the model depends on how the examples are spread by rounding alone.
 *
 * @throws {RangeError} if the rounds are not a positive whole number; in a round, if the matrix of the model is singular up to
 * rounding: gamma is too small
 * @example Two classes that a line separates
 * ```ts
 * const features = (x: ct.Value) => x;
 * const method = ct.dist.afl({ features, width: 1, classes: 2, gamma: 0 });
 * const data = { x: ct.tensor([[-1], [1]]), y: ct.tensor([0, 1], { dtype: "int32" }) };
 * const at = { round: 0, client: 0, clients: 1 };
 * const [, sent] = method.client(method.initClient(0), data, method.broadcast(method.initServer(), 0), at);
 * const server = method.server(method.initServer(), [sent], 0);
 * assertClose(server.weights, [[-0.5, 0.5]]);
 * assert(method.bytes(0).sent === 32 && method.bytes(1).received === 16);
 * ```
 * @source He, Tong, Fang et al. 2025, "AFL: a single-round analytic approach for federated learning with pre-trained
 * models"
 * @since 0.2.0
 */
export function afl(options: AflOptions): FederatedMethod<AflServer, Record<string, never>> {
  const { features, width, classes, gamma = 1, message = "statistics", kept = 0, batch = 4096 } = options;
  const { rounds = 1, leaving = false } = options;
  if (!Number.isSafeInteger(rounds) || rounds < 1) {
    throw new RangeError(`Cannot run AFL for ${rounds} rounds: a positive whole number is needed`);
  }
  const all = rounds + (leaving ? 1 : 0);
  const form = message === "model" ? modelForm(width, gamma, kept) : statisticsForm(width, gamma);
  return {
    name: "AFL",
    rounds: all,
    needsSumOnly: message === "statistics",
    initServer() {
      const { gram, cross } = zeroStatistics(width, classes);
      return { gram, cross, weights: cross };
    },
    initClient: () => ({}),
    broadcast: () => ({}),
    client(state, { x, y }) {
      let stats = zeroStatistics(width, classes);
      for (let start = 0; start < x.shape[0]!; start += batch) {
        const some = features(rows(x, start, start + batch));
        const labels = oneHot(rows(y, start, start + batch), classes, { dtype: "float64" });
        stats = addStatistics(stats, statisticsOf(some, labels));
      }
      return [state, form.pack(stats)];
    },
    server(state, answers, round) {
      const present = answers.filter((answer) => answer !== null);
      return present.length === 0 ? state : form.join(state, present, leaving && round === rounds ? -1 : 1);
    },
    model: ({ weights }) => ({ weights }),
    scores: (model, x) => matmul(cast(features(x), "float64"), (model as Pick<AflServer, "weights">).weights),
    bytes: (round) =>
      round < all
        ? // The message "model" has no count of examples.
          { received: 0, sent: statisticsBytes(width, classes) - (message === "model" ? 8 : 0) }
        : { received: 8 * width * classes, sent: 0 },
  };
}

/** Examples from `start` to `end`, or to the last. */
function rows(x: Value, start: number, end: number): Value {
  const [n, ...rest] = x.shape as readonly [number, ...number[]];
  return slice(x, [start, ...rest.map(() => 0)], [Math.min(end, n), ...rest]);
}

/** What clients send and what the server makes of it. */
interface MessageForm {
  pack(stats: Statistics): Payload;
  /** With the answers added, or with the sign -1 subtracted. */
  join(state: AflServer, answers: readonly Payload[], sign: 1 | -1): AflServer;
}

function statisticsForm(width: number, gamma: number): MessageForm {
  return {
    pack: packStatistics,
    join(state, answers, sign) {
      const count = scalar(0, "float64");
      const { gram, cross } = answers
        .map((answer) => unpackStatistics(answer, width))
        .reduce(sign === 1 ? addStatistics : subtractStatistics, { ...state, count });
      return { gram, cross, weights: ridge({ gram, cross, count }, gamma, "the model of AFL") };
    },
  };
}

function modelForm(width: number, gamma: number, kept: number): MessageForm {
  return {
    pack(stats) {
      const { weights, gram } = ridgeModel(stats, gamma);
      return { weights, gram: packSymmetric(gram) };
    },
    join(state, answers, sign) {
      // Joining all models at once and removing their gamma is one sum and one system of equations.
      const join = sign === 1 ? add : sub;
      let { gram, cross } = state;
      for (const answer of answers) {
        const { weights, gram: packed } = answer as { readonly weights: Value; readonly gram: Value };
        const own = unpackSymmetric(packed, width);
        gram = join(gram, sub(own, ridgeTerm(own, gamma)));
        cross = join(cross, matmul(own, weights));
      }
      return { gram, cross, weights: leastSquares(add(gram, ridgeTerm(gram, kept)), cross, gram) };
    },
  };
}
