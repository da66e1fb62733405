/** FedAvg and FedProx: clients train on their own, the server takes the mean of their models. */
import type { Model } from "../../core/nn/model.ts";
import { add, mul } from "../../core/ops.ts";
import { scalar } from "../../core/trace.ts";
import { leaves, map } from "../../core/tree.ts";
import type { Value } from "../../core/value.ts";
import {
  checkCount,
  checkPenalty,
  checkRate,
  countOf,
  type GradientOptions,
  type Learner,
  learnerOf,
  proximalStep,
} from "./learner.ts";
import type { ClientAt, ClientData, FederatedMethod, Payload } from "./method.ts";

/**
 * The settings of FedAvg and FedProx.
 *
 * @since 0.2.0
 */
export interface FedAvgOptions extends GradientOptions {
  /** Passes over a client's examples in a round; default 5. */
  readonly epochs?: number;
  /** FedProx's weight of `mu/2 |w - received|²` in the loss of a client; default 0, which is FedAvg. */
  readonly mu?: number;
}

/**
 * A client that keeps nothing from round to round.
 *
 * @since 0.2.0
 */
export type NoState = Readonly<Record<string, never>>;

/** What a client sends: its model, and from how many examples. */
export interface TrainedModel<P> {
  readonly examples: Value;
  readonly model: P;
}

/** Bytes of the number of examples beside a model. */
export const COUNT_BYTES = 4;

/**
 * Federated averaging; with `mu` FedProx.
 *
 * In a round a client takes the model that it gets, makes `epochs` passes over its examples with steps
 * `w <- w - learningRate (grad + mu (w - received))` on batches, and sends the model and its number of examples n_k. The
 * server's model is then `sum n_k w_k / sum n_k` over those that are there; without any it stays.
 *
 * Defaults: 5 epochs with batches of 10 as in FedAvg's main experiments; the learning rate, which they tuned for each
 * task, is 0.1.
 *
 * Shapes: `x` is what the model takes, `y` is `[n]`; the last batch of an epoch is padded with examples of weight 0.
 * Units: none.
 * Determinism: the same bits for the same seed, whoever computes.
 * Communication: a client gets the parameters and sends them with 4 bytes more; after the last round it gets them once more.
 *
 * @param model any model; layers that mix the examples of a batch would mix in those of weight 0
 * @throws {RangeError} if an option is out of range, or when the mean is not finite
 * @example Two clients whose examples differ
 * ```ts
 * const method = ct.dist.fedAvg(ct.nn.logistic(1, 2), { rounds: 1, epochs: 1 });
 * const y = ct.tensor([0, 1], { dtype: "int32" });
 * const server = method.initServer();
 * const answers = [ct.tensor([[1], [-1]]), ct.tensor([[2], [0]])].map((x, client) => {
 *   const at = { round: 0, client, clients: 2 };
 *   return method.client(method.initClient(client), { x, y }, method.broadcast(server, 0), at)[1];
 * });
 * const scores = method.scores(method.model(method.server(server, answers, 0)), ct.tensor([[1]]));
 * assert(scores.slice([0, 0], [1, 1]).item() > scores.slice([0, 1], [1, 2]).item());
 * ```
 * @source McMahan et al. 2017, "Communication-efficient learning of deep networks from decentralized data"
 * @source Li et al. 2020, "Federated optimization in heterogeneous networks" (FedProx)
 * @since 0.2.0
 */
export function fedAvg<P>(model: Model<P>, options: FedAvgOptions): FederatedMethod<P, NoState> {
  const { mu = 0 } = options;
  checkPenalty("mu", mu);
  const learner = learnerOf(model, options);
  const train = localTraining(learner, options, mu);
  return {
    name: mu === 0 ? "FedAvg" : "FedProx",
    ...globalModel(learner, options.rounds, "examples"),
    initClient: () => ({}),
    client(state, data, received, at) {
      const start = received as P;
      return [state, sentModel(train(start, start, data, at), data)];
    },
  };
}

/** `epochs` passes over a client's examples, from a model and with a pull towards another. */
export function localTraining<P>(
  learner: Learner<P>,
  { epochs = 5, learningRate = 0.1 }: Pick<FedAvgOptions, "epochs" | "learningRate">,
  strength: number,
): (start: P, anchor: P, data: ClientData, at: ClientAt) => P {
  checkCount("epochs", epochs);
  checkRate("learningRate", learningRate);
  const step = proximalStep(learner, learningRate, strength);
  return (start, anchor, data, at) => {
    let params = start;
    for (let epoch = 0; epoch < epochs; epoch++)
      for (const batch of learner.epoch(data, at, epoch)) params = step(params, anchor, batch);
    return params;
  };
}

/** What a client sends of its model. */
export function sentModel<P>(model: P, data: ClientData): TrainedModel<P> {
  return { examples: scalar(countOf(data), "int32"), model };
}

/**
 * The server's side of methods whose state is one model: everyone gets it, and it becomes a mean of what comes back, of
 * all examples or of all clients alike; `beta` of the way.
 */
export function globalModel<P>(
  learner: Learner<P>,
  rounds: number,
  of: "examples" | "clients",
  beta = 1,
): Pick<
  FederatedMethod<P, never>,
  "rounds" | "initServer" | "broadcast" | "server" | "model" | "scores" | "bytes"
> {
  checkCount("rounds", rounds);
  return {
    rounds,
    initServer: () => learner.initial(),
    broadcast: (server): Payload => server,
    server: (state, answers, round) =>
      mean(state, answers as readonly (TrainedModel<P> | null)[], round, of, beta),
    model: (server) => server,
    scores: (params, x) => learner.predict(params as P, x),
    bytes: () => ({ received: learner.bytes(), sent: learner.bytes() + COUNT_BYTES }),
  };
}

/** (1 - beta) w + beta sum a_k w_k, the weights a_k adding up to 1, in the order of clients. */
function mean<P>(
  state: P,
  answers: readonly (TrainedModel<P> | null)[],
  round: number,
  of: "examples" | "clients",
  beta: number,
): P {
  const present = answers.filter((answer) => answer !== null);
  const weights = present.map(({ examples }) => (of === "examples" ? examples.item() : 1));
  const total = weights.reduce((a, b) => a + b, 0);
  if (total === 0) return state;
  const models = present.map(({ model }, i) => map((w) => mul((beta * weights[i]!) / total, w), model));
  if (beta !== 1) models.unshift(map((w) => mul(1 - beta, w), state));
  const result = models.reduce((sum, model) => map((a, b) => add(a, b!), sum, model));
  if (leaves(result).every((x) => x.dataSync().every(Number.isFinite))) return result;
  throw new RangeError(
    `Cannot continue after round ${round}: the mean of the models is not finite, a finite one is needed; lower the learning rate`,
  );
}
