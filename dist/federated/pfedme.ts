/** pFedMe: the model of all is trained on Moreau envelopes of the clients' losses, whose minimizers are their own models. */
import { jit } from "../../autodiff/jit.ts";
import type { Model } from "../../core/nn/model.ts";
import { mul, sub } from "../../core/ops.ts";
import { map } from "../../core/tree.ts";
import type { PersonalModel } from "./ditto.ts";
import { globalModel, sentModel } from "./fedavg.ts";
import { checkCount, checkRate, type GradientOptions, learnerOf, proximalStep } from "./learner.ts";
import type { FederatedMethod } from "./method.ts";

/**
 * The settings of pFedMe.
 *
 * @since 0.2.0
 */
export interface PFedMeOptions extends GradientOptions {
  /** Weight of `lambda/2 |theta - w|²`: small for own models that go their own ways; default 15. */
  readonly lambda?: number;
  /** Updates of the client's w in a round, R, each on a batch of its own; default 20. */
  readonly localRounds?: number;
  /** Gradient steps of theta on one batch, K; default 5. */
  readonly innerSteps?: number;
  /** Step size of theta; default 0.01. */
  readonly personalLearningRate?: number;
  /** How far the server goes towards the mean of the clients, or beyond it; default 1. */
  readonly beta?: number;
}

/**
 * Personalized federated learning with Moreau envelopes.
 *
 * A client's loss as a function of w is `min over theta of F(theta) + lambda/2 |theta - w|²`; its gradient is
 * `lambda (w - theta)`. In a round a client makes `localRounds` updates: on one batch `innerSteps` gradient steps of theta,
 * from where it is (from w at first), then `w <- w - learningRate lambda (w - theta)`. It sends w and keeps theta, its own
 * model. The server's model is `(1 - beta) w + beta mean w_k`, all clients alike.
 *
 * Defaults: lambda 15, R 20, K 5, batches of 20, learning rate 0.005, beta 1 as in the paper's experiments; 0.01 for theta
 * as in the authors' program.
 *
 * Shapes: as `fedAvg`.
 * Units: none.
 * Determinism: the same bits for the same seed, whoever computes.
 * Communication: that of FedAvg.
 *
 * @throws {RangeError} if an option is out of range
 * @example Own models fit better than the one of all
 * ```ts
 * const method = ct.dist.pFedMe(ct.nn.logistic(1, 2), { rounds: 1, lambda: 1, personalLearningRate: 0.1 });
 * const data = { x: ct.tensor([[1], [-1]]), y: ct.tensor([0, 1], { dtype: "int32" }) };
 * const server = method.initServer();
 * const at = { round: 0, client: 0, clients: 1 };
 * const [own] = method.client(method.initClient(0), data, method.broadcast(server, 0), at);
 * const score = (model: unknown) => method.scores(model, ct.tensor([[1]])).slice([0, 0], [1, 1]).item();
 * assert(score(own.personal) > score(method.model(server)));
 * ```
 * @source Dinh et al. 2020, "Personalized federated learning with Moreau envelopes", algorithm 1
 * @since 0.2.0
 */
export function pFedMe<P>(model: Model<P>, options: PFedMeOptions): FederatedMethod<P, PersonalModel<P>> {
  const {
    lambda = 15,
    localRounds = 20,
    innerSteps = 5,
    learningRate = 0.005,
    personalLearningRate = 0.01,
    beta = 1,
    batch = 20,
  } = options;
  checkRate("lambda", lambda);
  checkRate("learningRate", learningRate);
  checkRate("personalLearningRate", personalLearningRate);
  checkRate("beta", beta);
  checkCount("localRounds", localRounds);
  checkCount("innerSteps", innerSteps);
  const learner = learnerOf(model, { ...options, batch });
  const inner = proximalStep(learner, personalLearningRate, lambda);
  const outer = jit(function outer(w: P, theta: P): P {
    return map((a, b) => sub(a, mul(learningRate * lambda, sub(a, b!))), w, theta);
  });
  return {
    name: "pFedMe",
    ...globalModel(learner, options.rounds, "clients", beta),
    initClient: () => ({ personal: learner.initial() }),
    client(_state, data, received, at) {
      let w = received as P;
      let theta = w;
      const batches = learner.batches(data, at);
      for (let r = 0; r < localRounds; r++) {
        const part = batches.next().value;
        for (let k = 0; k < innerSteps; k++) theta = inner(theta, w, part);
        w = outer(w, theta);
      }
      return [{ personal: theta }, sentModel(w, data)];
    },
    personalize: ({ personal }) => personal,
  };
}
