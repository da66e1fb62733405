/** Methods that need the gradient of the batch and nothing else. */
import { jit } from "../../../autodiff/jit.ts";
import { valueAndGrad } from "../../../autodiff/vjp.ts";
import type { Params } from "../../../core/nn.ts";
import type { Value } from "../../../core/value.ts";
import { adagrad } from "../../../optim/adagrad.ts";
import { adam, adamw } from "../../../optim/adam.ts";
import { lamb } from "../../../optim/lamb.ts";
import { lion } from "../../../optim/lion.ts";
import { momentum, nesterov, sgd } from "../../../optim/momentum.ts";
import { muon } from "../../../optim/muon.ts";
import { rmsprop } from "../../../optim/rmsprop.ts";
import { applyUpdates, forgetState, type GradientTransformation } from "../../../optim/transformation.ts";
import { around, type Method, method, type Settings } from "../method.ts";
import type { Batch } from "../task.ts";

/** A method by a transformation of gradients. */
function firstOrder<const S extends Settings, T>(
  summary: string,
  rate: number,
  make: (learningRate: number, settings: { readonly [K in keyof S]: number }) => GradientTransformation<T>,
  settings: S,
): Method {
  return method<S>({
    summary,
    rates: around(rate),
    settings,
    make({ problem, learningRate, settings: given }) {
      const transformation = forgetState(make(learningRate, given));
      const step = jit(
        (params: Params, state: unknown, batch: Batch): [Params, unknown, Value] => {
          const [loss, gradient] = valueAndGrad((p: Params) => problem.loss(p, batch))(params);
          const [updates, next] = transformation.update(gradient, state, params, {});
          return [applyUpdates(params, updates), next, loss];
        },
        { donate: [0, 1] },
      );
      return {
        init: (params) => transformation.init(params),
        step({ params, state }, _index, batch) {
          const [next, nextState, loss] = step(params, state, batch);
          return { params: next, state: nextState, loss, extraGradients: 0 };
        },
      };
    },
  });
}

/** The methods by the name of the command line. */
export const firstOrderMethods: Readonly<Record<string, Method>> = {
  sgd: firstOrder("gradient descent", 0.1, (rate) => sgd(rate), {}),
  momentum: firstOrder("heavy ball", 0.03, (rate, { beta }) => momentum(rate, beta), { beta: 0.9 }),
  nesterov: firstOrder("Nesterov's momentum", 0.03, (rate, { beta }) => nesterov(rate, beta), { beta: 0.9 }),
  adam: firstOrder("Adam", 1e-3, (rate, { beta1, beta2 }) => adam(rate, { beta1, beta2 }), {
    beta1: 0.9,
    beta2: 0.999,
  }),
  adamw: firstOrder(
    "Adam with decoupled weight decay",
    1e-3,
    (rate, { decay }) => adamw(rate, { weightDecay: decay }),
    { decay: 0.01 },
  ),
  adagrad: firstOrder("Adagrad", 0.01, (rate) => adagrad(rate), {}),
  rmsprop: firstOrder("RMSprop", 1e-3, (rate, { decay }) => rmsprop(rate, { decay }), { decay: 0.99 }),
  lion: firstOrder("Lion", 1e-4, (rate, { decay }) => lion(rate, { weightDecay: decay }), { decay: 0 }),
  lamb: firstOrder("LAMB", 3e-3, (rate, { decay }) => lamb(rate, { weightDecay: decay }), { decay: 0 }),
  muon: firstOrder(
    "Muon, with Adam for what is no matrix",
    0.02,
    (rate, { beta, adam }) => muon(rate, { momentum: beta, auxiliary: { learningRate: adam } }),
    { beta: 0.95, adam: 1e-3 },
  ),
};
