/**
 * pFedACnnL: models of single clients in closed form. A client draws its head, or all of its layers, from the global ones
 * towards its own examples; what it knows of these stays with it.
 */

import { matmul } from "../../core/ops/contract.ts";
import { oneHot } from "../../core/ops/indexing.ts";
import { add, div, mul, sub } from "../../core/ops/math.ts";
import { argmin, sum } from "../../core/ops/reduce.ts";
import { concat, slice, transpose } from "../../core/ops/shape.ts";
import type { Value } from "../../core/value.ts";
import { analyticNetwork, meanDiagonal } from "./acnnl.ts";
import {
  batchAt,
  broadcastOf,
  type FedAcnnlBroadcast,
  type FedAcnnlClient,
  type FedAcnnlOptions,
  type FedAcnnlServer,
  layerRounds,
  totalOf,
  weightBytes,
  weightsOf,
} from "./fedacnnl.ts";
import { kMeans } from "./k_means.ts";
import type { ClientData, FederatedMethod } from "./method.ts";
import {
  type PackedStatistics,
  packSymmetric,
  ridgeTerm,
  type Statistics,
  solvePositive,
  unpackSymmetric,
} from "./statistics.ts";

/**
 * How `personalize` computes.
 *
 * @since 0.2.0
 */
export interface PersonalizeOptions {
  /** A penalty on the weights themselves besides; default 0. With lambda 0 it makes the model of the own examples alone. */
  readonly ridge?: number;
  /**
   * "direct" solves for the weights (default), "correction" for their difference from the prior ones. The same but for
   * rounding.
   */
  readonly form?: "direct" | "correction";
}

/**
 * The weights that minimise `|Y - X W|² + |W - P|²_A + ridge |W|²` for own examples X, Y and prior weights P, where
 * `|D|²_A = tr(DᵀA D)` and A is lambda I for a number.
 *
 * It is `(G + A + ridge I)⁻¹ (B + A P)`, or `P + (G + A + ridge I)⁻¹ (B - (G + ridge I) P)`. Without a ridge, lambda to
 * infinity gives P, and lambda to 0 the least squares of the own examples.
 *
 * Shapes: `prior` and the result are like `stats.cross`; a matrix as `penalty` is like `stats.gram`.
 *
 * @param penalty lambda, or a positive semidefinite matrix
 * @throws {RangeError} if the matrix is singular up to rounding
 * @example Between the global model and the own examples
 * ```ts
 * const x = ct.tensor([[1, 0], [0, 1], [1, 1]]);
 * const stats = ct.dist.statisticsOf(x, ct.tensor([[2], [1], [3]]));
 * const prior = ct.zeros([2, 1], { dtype: "float64" });
 * assertClose(ct.dist.personalize(stats, prior, 0), [[2], [1]]);
 * assertClose(ct.dist.personalize(stats, prior, 1), [[1.375], [0.875]]);
 * assertClose(ct.dist.personalize(stats, prior, 1, { form: "correction" }), [[1.375], [0.875]]);
 * ```
 * @since 0.2.0
 */
export function personalize(
  stats: Statistics,
  prior: Value,
  penalty: number | Value,
  { ridge = 0, form = "direct" }: PersonalizeOptions = {},
): Value {
  const { gram, cross } = stats;
  const towards = typeof penalty === "number" ? ridgeTerm(gram, penalty) : penalty;
  const own = ridge === 0 ? gram : add(gram, ridgeTerm(gram, ridge));
  const matrix = add(own, towards);
  const solution =
    form === "direct"
      ? solvePositive(matrix, add(cross, matmul(towards, prior)))
      : solvePositive(matrix, sub(cross, matmul(own, prior)));
  if (solution === null) {
    throw singular(gram.shape[0]!, typeof penalty === "number" ? `lambda ${penalty}` : "a matrix", ridge);
  }
  return form === "direct" ? solution : add(prior, solution);
}

/**
 * The weights of `personalize` from examples instead of their sums, with a number as penalty.
 *
 * With m = lambda + ridge and P' = (lambda / m) P they are `P' + Xᵀ (X Xᵀ + m I)⁻¹ (Y - X P')`: a system of as many
 * equations as there are examples, where `personalize` has one for each feature.
 *
 * Shapes: `x` is `[n, d]`, `y` is `[n, c]`, `prior` and the result are `[d, c]`.
 *
 * @throws {RangeError} if lambda and the ridge are so small that the examples determine nothing
 * @example As from the sums
 * ```ts
 * const x = ct.tensor([[1, 2, 0], [0, 1, 1]], { dtype: "float64" });
 * const y = ct.tensor([[1], [3]], { dtype: "float64" });
 * const prior = ct.ones([3, 1], { dtype: "float64" });
 * const bySums = ct.dist.personalize(ct.dist.statisticsOf(x, y), prior, 2, { ridge: 1 });
 * assertClose(ct.dist.personalizeFew(x, y, prior, 2, { ridge: 1 }), bySums);
 * ```
 * @since 0.2.0
 */
export function personalizeFew(
  x: Value,
  y: Value,
  prior: Value,
  lambda: number,
  { ridge = 0 }: Pick<PersonalizeOptions, "ridge"> = {},
): Value {
  const m = lambda + ridge;
  const shrunk = m === 0 ? prior : mul(prior, lambda / m);
  const gram = matmul(x, transpose(x));
  const solution = solvePositive(add(gram, ridgeTerm(gram, m)), sub(y, matmul(x, shrunk)));
  if (solution === null) throw singular(prior.shape[0]!, `lambda ${lambda}`, ridge);
  return add(shrunk, matmul(transpose(x), solution));
}

function singular(features: number, by: string, ridge: number): RangeError {
  return new RangeError(
    `Cannot personalize weights of ${features} features: with ${by} and ridge ${ridge} the matrix is singular up to rounding, a larger one is needed`,
  );
}

/**
 * What pFedACnnL is told.
 *
 * @since 0.2.0
 */
export interface PFedAcnnlOptions extends FedAcnnlOptions {
  /** How much a client keeps to the prior weights; default 100. 0, with a ridge, is the control that knows its own examples only. */
  readonly lambda?: number;
  /** A penalty on the weights of a client themselves; default 0. */
  readonly ridge?: number;
  /**
   * "weights" keeps the head near the prior one (default), "gram" keeps its answers near on the examples of all, with lambda
   * times their Gram matrix (gamma I included), which then travels once.
   */
  readonly prior?: "weights" | "gram";
  /**
   * Groups of clients with similar labels; each has a head of its own as the prior. Default 1: the global one. If fewer clients
   * are there in the last round, there are as many groups as they are.
   */
  readonly groups?: number;
  /**
   * "head" (default), or "all": the hidden layers too, one after the other, for "ls" and "shared" filters. The global head was
   * fitted on other features then.
   */
  readonly layersOfOwn?: "head" | "all";
  /** Lambda of the hidden layers, in units of the mean diagonal of the client's Gram matrix; default 100. */
  readonly hiddenLambda?: number;
}

/**
 * The server of pFedACnnL: what FedACnnL has; after the last round also the prior heads, one for each group.
 *
 * @since 0.2.0
 */
export interface PFedAcnnlServer extends FedAcnnlServer {
  readonly heads: readonly Value[];
  /** Gram matrices of the groups with gamma I, their lower triangles; none if the prior has none. */
  readonly grams: readonly Value[];
  /** Shares of the classes in each group, `[groups, classes]`; none if all are one group. */
  readonly centres: readonly Value[];
}

/**
 * What the server of pFedACnnL sends after the last round. Weights are those of hidden layers; scales are none if only
 * the head is of the client's own.
 *
 * @since 0.2.0
 */
export interface PFedAcnnlBroadcast extends FedAcnnlBroadcast {
  readonly scales: readonly Value[];
  readonly heads: readonly Value[];
  readonly grams: readonly Value[];
  readonly centres: readonly Value[];
}

/**
 * pFedACnnL, reconstructed: FedACnnL, and after the last round each client solves for its own head (see `personalize`) without
 * sending anything more.
 *
 * With groups the server sorts the clients by the shares of their classes (k-means) and fits a head to the examples of each group.
 * No further message is needed for that: the last row of B, of the constant feature, counts the labels. A client whose
 * labels are few does nearly as well alone: print that control too, `lambda: 0` with a small `ridge`.
 *
 * Bytes are those of FedACnnL; after the last round a client gets `8 Σ d c` of the hidden layers, and of each head, with its
 * triangle and the shares of its classes where there are any.
 *
 * Shapes: as `fedacnnl`.
 *
 * @throws {RangeError} if all layers are to be the client's own and filters are random, or a number is not what it should be
 * @source pFedACnnL 2025, arXiv 2502.06915
 * @example A client whose labels are the other way round
 * ```ts
 * const method = ct.dist.pfedacnnl({ image: [1, 1, 2], classes: 2, layers: [], headGamma: 0.1, lambda: 0.1 });
 * const x = ct.tensor([[1, 0], [0, 1], [1, 0], [0, 1]]);
 * const labels = (...y: number[]) => ct.tensor(y, { dtype: "int32" });
 * const clients = [labels(0, 1, 0, 1), labels(0, 1, 0, 1), labels(1, 0, 1, 0)].map((y) => ({ x, y }));
 * const at = (client: number, round: number) => ({ round, client, clients: 3 });
 * const first = method.initServer();
 * const sent = clients.map((data, c) => method.client(method.initClient(c), data, method.broadcast(first, 0), at(c, 0))[1]);
 * const server = method.server(first, sent, 0);
 * const own = method.personalize!(method.initClient(2), clients[2]!, method.broadcast(server, 1), at(2, 1));
 * assertClose(ct.argmax(method.scores(method.model(server), x), { axis: 1 }), [0, 1, 0, 1]);
 * assertClose(ct.argmax(method.scores(own, x), { axis: 1 }), [1, 0, 1, 0]);
 * ```
 * @since 0.2.0
 */
export function pfedacnnl(options: PFedAcnnlOptions): FederatedMethod<PFedAcnnlServer, FedAcnnlClient> {
  const {
    lambda = 100,
    ridge = 0,
    prior = "weights",
    groups = 1,
    layersOfOwn = "head",
    hiddenLambda = 100,
  } = options;
  const { headGamma = 100, seed = 0, filters = "ls", classes } = options;
  if (layersOfOwn === "all" && filters !== "ls" && filters !== "shared") {
    throw new RangeError(
      `Cannot make all layers the own ones of clients: the filters are "${filters}", "ls" or "shared" is needed`,
    );
  }
  if (!Number.isSafeInteger(groups) || groups < 1) {
    throw new RangeError(`Cannot make ${groups} groups of clients: a positive whole number is needed`);
  }
  const network = analyticNetwork(options);
  const base = layerRounds(network, options.batch);
  const head = network.layers.length - 1;
  const { features } = network.layers[head]!;

  /** A head for each group, its Gram matrix where it is the prior, and how groups are known. */
  const grouped = (
    answers: readonly (PackedStatistics | null)[],
    global: Value,
  ): Omit<PFedAcnnlServer, "layers"> => {
    const there = answers.filter((answer) => answer !== null);
    const parts = groups === 1 ? [there] : Array.from({ length: groups }, (): PackedStatistics[] => []);
    let centres: readonly Value[] = [];
    if (groups > 1) {
      const shares = there.map(({ cross }) => sharesOf(slice(cross, [features - 1, 0], [features, classes])));
      const found = kMeans(concat(shares, { axis: 0 }), groups, { seed });
      for (const [i, group] of found.group.dataSync().entries()) parts[group]!.push(there[i]!);
      centres = [found.centres];
    }
    const heads: Value[] = [];
    const grams: Value[] = [];
    for (const part of parts) {
      // A group that k-means left empty, of which nobody will be, has no examples of its own: the message has one size.
      const total = totalOf(part.length === 0 ? there : part, network, head);
      heads.push(groups === 1 ? global : network.fit(total, head).weights);
      if (prior === "gram") grams.push(packSymmetric(add(total.gram, ridgeTerm(total.gram, headGamma))));
    }
    return { heads, grams, centres };
  };

  const ownHead = (
    data: ClientData,
    before: readonly Value[],
    from: Value,
    gram: Value | null,
    batch: number | null,
  ): Value => {
    if (gram === null && data.x.shape[0]! < features) {
      const labels = oneHot(data.y, classes, { dtype: "float64" });
      return personalizeFew(network.rows(data.x, before, batch), labels, from, lambda, { ridge });
    }
    const penalty = gram === null ? lambda : mul(unpackSymmetric(gram, features), lambda);
    return personalize(network.statistics(data, before, batch), from, penalty, { ridge });
  };

  return {
    name: "pFedACnnL",
    rounds: base.rounds,
    // Groups are found among the answers of single clients.
    needsSumOnly: groups === 1,
    initServer: () => ({ layers: [], heads: [], grams: [], centres: [] }),
    initClient: () => ({}),
    broadcast(server, round): FedAcnnlBroadcast | PFedAcnnlBroadcast {
      if (round < base.rounds) return broadcastOf(server);
      const { layers, heads, grams, centres } = server;
      const scales = layersOfOwn === "all" ? layers.slice(0, head).map(({ scale }) => scale) : [];
      return { weights: weightsOf(server).slice(0, head), scales, heads, grams, centres };
    },
    client(state, data, received, at) {
      return [state, base.client({}, data, received, at)[1]];
    },
    server(state, answers, round) {
      const { layers } = base.server(state, answers, round);
      if (round < head) return { ...state, layers };
      return { layers, ...grouped(answers as readonly (PackedStatistics | null)[], layers[head]!.weights) };
    },
    model: base.model,
    scores: base.scores,
    personalize(_state, data, received, at): FedAcnnlBroadcast {
      const { weights, scales, heads, grams, centres } = received as PFedAcnnlBroadcast;
      const batch = batchAt(options.batch, at);
      const before: Value[] = layersOfOwn === "all" ? [] : [...weights];
      for (const [l, scale] of scales.entries()) {
        // Filters in the units of the global ones: what they should answer is Q / scale.
        const { gram, cross, count } = network.statistics(data, before, batch);
        const towards = hiddenLambda * meanDiagonal(gram);
        before.push(personalize({ gram, cross: div(cross, scale), count }, weights[l]!, towards));
      }
      const labels = oneHot(data.y, classes, { dtype: "float64" });
      const group = centres.length === 0 ? 0 : nearest(sharesOf(labels), centres[0]!);
      const own = ownHead(data, before, heads[group]!, grams[group] ?? null, batch);
      return { weights: [...before, own] };
    },
    bytes(round) {
      if (round < base.rounds) return base.bytes(round);
      const hidden = network.layers.slice(0, head);
      const scales = layersOfOwn === "all" ? hidden.reduce((all, { width }) => all + width, 0) : 0;
      const triangle = prior === "gram" ? (features * (features + 1)) / 2 : 0;
      const centre = groups > 1 ? classes : 0;
      const numbers = scales + groups * (features * classes + triangle + centre);
      return { received: weightBytes(network, head) + 8 * numbers, sent: 0 };
    },
  };
}

/** The share of each class in labels one-hot or counts of them, `[1, classes]`. */
function sharesOf(labels: Value): Value {
  return div(sum(labels, { axis: 0, keepDims: true }), sum(labels));
}

/** The row of `centres` that is nearest to a point. */
function nearest(point: Value, centres: Value): number {
  const away = sub(centres, point);
  return argmin(sum(mul(away, away), { axis: 1 })).item();
}
