/** Ditto: beside FedAvg's model every client trains one of its own, held near it. */
import type { Model } from "../../core/nn/model.ts";
import { type FedAvgOptions, globalModel, localTraining, sentModel } from "./fedavg.ts";
import { checkPenalty, learnerOf } from "./learner.ts";
import type { FederatedMethod } from "./method.ts";

/**
 * The settings of Ditto: those of FedAvg, and how near the own models are held.
 *
 * @since 0.2.0
 */
export interface DittoOptions extends Omit<FedAvgOptions, "mu"> {
  /** Weight of `lambda/2 |v - received|²` in the loss of the own model; default 1. 0: local training. */
  readonly lambda?: number;
}

/**
 * A client with a model of its own.
 *
 * Shapes: `personal` is a tree like the model's parameters.
 *
 * @since 0.2.0
 */
export interface PersonalModel<P> {
  readonly personal: P;
}

/**
 * Ditto: FedAvg for the model of all, and at every client that is there, on the same batches, steps
 * `v <- v - learningRate (grad + lambda (v - received))` of a model of its own, which never leaves it.
 *
 * Defaults: lambda 1, one of the authors' candidates 0.1, 1 and 2; the rest as `fedAvg`.
 *
 * Shapes: as `fedAvg`.
 * Units: none.
 * Determinism: the same bits for the same seed, whoever computes.
 * Communication: that of FedAvg.
 *
 * @throws {RangeError} if an option is out of range
 * @example A model of its own
 * ```ts
 * const method = ct.dist.ditto(ct.nn.logistic(1, 2), { rounds: 1, lambda: 0 });
 * const data = { x: ct.tensor([[1], [-1]]), y: ct.tensor([0, 1], { dtype: "int32" }) };
 * const server = method.initServer();
 * const at = { round: 0, client: 0, clients: 1 };
 * const [own] = method.client(method.initClient(0), data, method.broadcast(server, 0), at);
 * const scores = method.scores(own.personal, ct.tensor([[1]]));
 * assert(scores.slice([0, 0], [1, 1]).item() > 0);
 * ```
 * @source Li et al. 2021, "Ditto: fair and robust federated learning through personalization", algorithm 1
 * @since 0.2.0
 */
export function ditto<P>(model: Model<P>, options: DittoOptions): FederatedMethod<P, PersonalModel<P>> {
  const { lambda = 1 } = options;
  checkPenalty("lambda", lambda);
  const learner = learnerOf(model, options);
  const train = localTraining(learner, options, 0);
  const trainOwn = localTraining(learner, options, lambda);
  return {
    name: "Ditto",
    ...globalModel(learner, options.rounds, "examples"),
    initClient: () => ({ personal: learner.initial() }),
    client({ personal }, data, received, at) {
      const start = received as P;
      return [
        { personal: trainOwn(personal, start, data, at) },
        sentModel(train(start, start, data, at), data),
      ];
    },
    personalize: ({ personal }) => personal,
  };
}
