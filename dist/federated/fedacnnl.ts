/**
 * FedACnnL: a convolutional network trained layer by layer in closed form. A round fits one layer: clients send sums over
 * their examples, the server solves. The sums of all clients are those of all examples together, so the network does not
 * depend on how the examples are spread, on the order of the clients, or on anybody's batches, up to rounding.
 */
import type { Value } from "../../core/value.ts";
import {
  type AnalyticNetwork,
  type AnalyticNetworkOptions,
  analyticNetwork,
  type FittedLayer,
} from "./acnnl.ts";
import type { ClientAt, FederatedMethod } from "./method.ts";
import {
  addStatistics,
  type PackedStatistics,
  packStatistics,
  type Statistics,
  unpackStatistics,
} from "./statistics.ts";

/**
 * What FedACnnL is told.
 *
 * @since 0.2.0
 */
export interface FedAcnnlOptions extends AnalyticNetworkOptions {
  /**
   * Images of a client that are worked on at once: each may choose by its memory and its speed, the network stays the same
   * up to rounding. Default: as many as have 4 MiB of patches.
   */
  readonly batch?: number | ((at: ClientAt) => number);
}

/**
 * The server of FedACnnL: the layers that are fitted, the head's as the last one.
 *
 * @since 0.2.0
 */
export interface FedAcnnlServer {
  readonly layers: readonly FittedLayer[];
}

/**
 * What the server of FedACnnL sends: the weights of all layers so far, so that a client may miss any round.
 *
 * @since 0.2.0
 */
export interface FedAcnnlBroadcast {
  readonly weights: readonly Value[];
}

/**
 * Clients of FedACnnL keep nothing.
 *
 * @since 0.2.0
 */
export type FedAcnnlClient = Readonly<Record<string, never>>;

/**
 * FedACnnL, reconstructed: from what its authors state in the abstract, as the method section could not be read.
 *
 * A layer's examples are the patches P of its input with a constant 1, from every position of every image; its targets T are
 * pseudo-labels, normal numbers drawn for each position and class. Clients send G = PᵀP and B = PᵀT, the server
 * takes `W = (G + gamma tr(G)/d I)⁻¹ B` with columns scaled to a mean square response of 1. The head is ridge regression of
 * the one-hot labels on the last maps. Random filters (`filters: "random"`) are often as good as fitted ones: measure both.
 *
 * A round is one message each way. A client gets `8 Σ d c` bytes for the layers so far and sends `8 (d (d + 1) / 2 + d c + 1)`,
 * of d numbers in a patch and c filters. With the filters "random" there is no B; with "half" it is replaced by the sums of the
 * maps of each class and the numbers of examples.
 *
 * All scores are 0 until the head is fitted.
 *
 * Shapes: images `[n, channels, height, width]` or `[n, pixels]`, any type; computed in float64.
 * Determinism: same bits for same batches and order of clients.
 *
 * @throws {RangeError} if a layer has no output, or a number is not what it should be
 * @source FedACnnL 2025, arXiv 2502.06915
 * @example Two clients, or one with the examples of both
 * ```ts
 * const method = ct.dist.fedacnnl({
 *   image: [1, 4, 4],
 *   classes: 2,
 *   layers: [{ k: "conv", channels: 3, kernel: 3 }],
 *   headGamma: 1,
 * });
 * const x = ct.random.normal(ct.random.key(1), [8, 1, 4, 4]);
 * const y = ct.tensor([0, 1, 1, 0, 1, 0, 1, 0], { dtype: "int32" });
 * const part = (a: number, b: number) => ({ x: x.slice([a, 0, 0, 0], [b, 1, 4, 4]), y: y.slice([a], [b]) });
 * const train = (clients: readonly ct.dist.ClientData[]) => {
 *   let server = method.initServer();
 *   for (let round = 0; round < method.rounds; round++) {
 *     const sent = clients.map((data, client) => {
 *       const at = { round, client, clients: clients.length };
 *       return method.client({}, data, method.broadcast(server, round), at)[1];
 *     });
 *     server = method.server(server, sent, round);
 *   }
 *   return method.scores(method.model(server), x);
 * };
 * assertClose(train([part(0, 3), part(3, 8)]), train([{ x, y }]), 1e-9);
 * ```
 * @since 0.2.0
 */
export function fedacnnl(options: FedAcnnlOptions): FederatedMethod<FedAcnnlServer, FedAcnnlClient> {
  return layerRounds(analyticNetwork(options), options.batch);
}

/** The rounds of FedACnnL for a network. */
export function layerRounds(
  network: AnalyticNetwork,
  batch: FedAcnnlOptions["batch"],
): FederatedMethod<FedAcnnlServer, FedAcnnlClient> {
  return {
    name: "FedACnnL",
    rounds: network.layers.length,
    needsSumOnly: true,
    initServer: () => ({ layers: [] }),
    initClient: () => ({}),
    broadcast: (server) => broadcastOf(server),
    client(state, data, received, at) {
      const { weights } = received as FedAcnnlBroadcast;
      return [state, packStatistics(network.statistics(data, weights, batchAt(batch, at)))];
    },
    server(state, answers, round) {
      const total = totalOf(answers as readonly (PackedStatistics | null)[], network, round);
      return { layers: [...state.layers, network.fit(total, round)] };
    },
    model: (server) => broadcastOf(server),
    scores: (model, x) => network.scores(x, (model as FedAcnnlBroadcast).weights),
    bytes: (round) => ({
      received: weightBytes(network, round),
      sent: round < network.layers.length ? sumBytes(network, round) : 0,
    }),
  };
}

/** The weights of all layers so far. */
export function weightsOf({ layers }: FedAcnnlServer): readonly Value[] {
  return layers.map(({ weights }) => weights);
}

export function broadcastOf(server: FedAcnnlServer): FedAcnnlBroadcast {
  return { weights: weightsOf(server) };
}

/** What a client takes at once; null leaves it to its memory. */
export function batchAt(batch: FedAcnnlOptions["batch"], at: ClientAt): number | null {
  if (batch === undefined) return null;
  const chosen = typeof batch === "number" ? batch : batch(at);
  if (Number.isSafeInteger(chosen) && chosen > 0) return chosen;
  throw new RangeError(
    `Cannot take batches of ${chosen} images at client ${at.client}: a positive whole number is needed`,
  );
}

/** The sums of all clients that are there, in the order of clients. */
export function sumOfAnswers(answers: readonly (PackedStatistics | null)[], what: string): PackedStatistics {
  let total: PackedStatistics | null = null;
  for (const answer of answers) {
    if (answer !== null) total = total === null ? answer : addStatistics(total, answer);
  }
  if (total !== null) return total;
  throw new RangeError(
    `Cannot fit ${what}: none of ${answers.length} clients answered, at least one is needed`,
  );
}

/** The statistics of all clients for a layer. */
export function totalOf(
  answers: readonly (PackedStatistics | null)[],
  { layers }: AnalyticNetwork,
  layer: number,
): Statistics {
  const { features, name } = layers[layer]!;
  return unpackStatistics(sumOfAnswers(answers, name), features);
}

/** Bytes of the weights of the layers before one. */
export function weightBytes({ layers }: AnalyticNetwork, before: number): number {
  return layers.slice(0, before).reduce((bytes, { features, width }) => bytes + 8 * features * width, 0);
}

/** Bytes of the packed statistics of a layer. */
function sumBytes(network: AnalyticNetwork, layer: number): number {
  const { features } = network.layers[layer]!;
  const [rows, columns] = network.crossShape(layer);
  return 8 * ((features * (features + 1)) / 2 + rows * columns + 1);
}
