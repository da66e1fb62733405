/** Per-FedAvg: the model of all is one from which a gradient step leads to a good model for a client. */
import { hvp } from "../../autodiff/hvp.ts";
import { jit } from "../../autodiff/jit.ts";
import type { Model } from "../../core/nn/model.ts";
import { mul, sub } from "../../core/ops.ts";
import { map } from "../../core/tree.ts";
import type { Value } from "../../core/value.ts";
import { globalModel, type NoState, sentModel } from "./fedavg.ts";
import {
  checkCount,
  checkRate,
  type GradientOptions,
  learnerOf,
  proximalStep,
  type WeightedBatch,
} from "./learner.ts";
import type { FederatedMethod } from "./method.ts";

/**
 * The settings of Per-FedAvg; `learningRate` is that of the model of all, beta in the paper.
 *
 * @since 0.2.0
 */
export interface PerFedAvgOptions extends GradientOptions {
  /** Size of the step that makes a client's own model; default 0.01. */
  readonly alpha?: number;
  /** Steps at a client in a round, tau; default 10. */
  readonly localSteps?: number;
  /** What becomes of the factor I - alpha H: products with the Hessian, or 1 as in first-order MAML; default "exact". */
  readonly hessian?: "exact" | "ignored";
}

/**
 * Personalized federated averaging: it minimizes the mean of `F_k(w - alpha grad F_k(w))`.
 *
 * A step of a client on three batches D, D' and D'' is `w <- w - learningRate (I - alpha H(w; D'')) grad F(w - alpha
 * grad F(w; D); D')`, the product with the Hessian exact by `hvp`; with `hessian: "ignored"` the factor is 1. The server
 * takes the mean, all clients alike. At the end a client makes one step with alpha on all of its examples.
 *
 * Defaults: alpha 0.01, learning rate 0.001, 10 steps in a round, batches of 40 as in the paper's experiments.
 *
 * Shapes: as `fedAvg`.
 * Units: none.
 * Determinism: the same bits for the same seed, whoever computes.
 * Communication: that of FedAvg.
 *
 * @throws {RangeError} if an option is out of range
 * @example One step away from a model of its own
 * ```ts
 * const method = ct.dist.perFedAvg(ct.nn.logistic(1, 2), { rounds: 1, alpha: 0.5 });
 * const data = { x: ct.tensor([[1], [-1]]), y: ct.tensor([0, 1], { dtype: "int32" }) };
 * const server = method.initServer();
 * const at = { round: 1, client: 0, clients: 1 };
 * const own = method.personalize!(method.initClient(0), data, method.broadcast(server, 1), at);
 * // At zero the gradient of the first weight is -1/2.
 * assertClose(method.scores(own, ct.tensor([[1]])), [[0.25, -0.25]]);
 * ```
 * @source Fallah et al. 2020, "Personalized federated learning with theoretical guarantees: a model-agnostic
 * meta-learning approach", algorithm 1
 * @since 0.2.0
 */
export function perFedAvg<P>(model: Model<P>, options: PerFedAvgOptions): FederatedMethod<P, NoState> {
  const { alpha = 0.01, localSteps = 10, learningRate = 0.001, hessian = "exact", batch = 40 } = options;
  checkRate("alpha", alpha);
  checkRate("learningRate", learningRate);
  checkCount("localSteps", localSteps);
  const learner = learnerOf(model, { ...options, batch });
  const adapt = proximalStep(learner, alpha, 0);
  const product = hvp(learner.objective as (p: Value, batch: WeightedBatch) => Value) as unknown as (
    p: P,
    v: P,
    batch: WeightedBatch,
  ) => P;
  // (I - alpha H(w; third)) g, where g is the gradient on the second batch at w - alpha grad F(w; first)
  const step = jit(function metaStep(w: P, parts: readonly WeightedBatch[]): P {
    const adapted = map((p, g) => sub(p, mul(alpha, g!)), w, learner.gradient(w, parts[0]!));
    const g = learner.gradient(adapted, parts[1]!);
    const direction =
      hessian === "exact" ? map((a, b) => sub(a, mul(alpha, b!)), g, product(w, g, parts[2]!)) : g;
    return map((p, d) => sub(p, mul(learningRate, d!)), w, direction);
  });
  const partCount = hessian === "exact" ? 3 : 2;
  return {
    name: hessian === "exact" ? "Per-FedAvg" : "Per-FedAvg (first order)",
    ...globalModel(learner, options.rounds, "clients"),
    initClient: () => ({}),
    client(state, data, received, at) {
      let w = received as P;
      const batches = learner.batches(data, at);
      for (let s = 0; s < localSteps; s++) {
        w = step(
          w,
          Array.from({ length: partCount }, () => batches.next().value),
        );
      }
      return [state, sentModel(w, data)];
    },
    personalize(_state, data, received) {
      const w = received as P;
      return adapt(w, w, learner.everything(data));
    },
  };
}
