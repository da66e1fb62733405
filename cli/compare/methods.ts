/** The methods of `cotangent compare` on one device: how each is made from a learning rate and its options. */
import { jit } from "../../autodiff/jit.ts";
import { hessianOperator } from "../../autodiff/operator.ts";
import { valueAndGrad } from "../../autodiff/vjp.ts";
import type { Params } from "../../core/nn.ts";
import * as random from "../../core/random.ts";
import { ravel } from "../../core/ravel.ts";
import type { Value } from "../../core/value.ts";
import { adam, adamw } from "../../optim/adam.ts";
import { type FosiMomentum, type FosiState, fosi } from "../../optim/fosi.ts";
import { lanczosOrder } from "../../optim/lanczos.ts";
import { momentum, nesterov, sgd } from "../../optim/momentum.ts";
import { applyUpdates, forgetState, type GradientTransformation } from "../../optim/transformation.ts";
import { compiledLoss, type Stepper } from "./run.ts";
import type { Batch, Problem } from "./task.ts";

/** Numbers that a person may set for a method: `fosi-adam:k=10:period=200`. */
export type Settings = Readonly<Record<string, number>>;

/** What a method is made with. */
export interface MethodInput {
  readonly problem: Problem;
  readonly learningRate: number;
  readonly settings: Settings;
  readonly seed: number;
}

/** A method by name. */
export interface Method {
  /** One line for the help. */
  readonly summary: string;
  /** Learning rates that are tried, from the middle outwards. */
  readonly rates: readonly number[];
  /** What can be set, with the defaults. */
  readonly settings: Settings;
  make(input: MethodInput): Stepper;
}

/** A product with the Hessian in gradients of the same batch: measured at 1.8 to 2.0. */
const PRODUCT_GRADIENTS = 2;

/** Five rates around one, each a factor 10^(1/2) from the next, the middle first. */
export function around(rate: number): readonly number[] {
  return [0, -1, 1, -2, 2].map((i) => Number((rate * 10 ** (i / 2)).toPrecision(2)));
}

/** A method that needs the gradient of the batch and nothing else. */
function firstOrder<S>(
  summary: string,
  rate: number,
  make: (learningRate: number, settings: Settings) => GradientTransformation<S>,
  settings: Settings = {},
): Method {
  return {
    summary,
    rates: around(rate),
    settings,
    make({ problem, learningRate, settings: given }) {
      const method = forgetState(make(learningRate, given));
      const step = jit((params: Params, state: unknown, batch: Batch): [Params, unknown, Value] => {
        const [loss, gradient] = valueAndGrad((p: Params) => problem.loss(p, batch))(params);
        const [updates, next] = method.update(gradient, state, params, {});
        return [applyUpdates(params, updates), next, loss];
      });
      return {
        init: (params) => method.init(params),
        step({ params, state }, _index, batch) {
          const [next, nextState, loss] = step(params, state, batch);
          return { params: next, state: nextState, loss, extraGradients: 0 };
        },
      };
    },
  };
}

/** FOSI over a first-order method. */
function hybrid<S>(
  summary: string,
  rate: number,
  base: (learningRate: number) => GradientTransformation<S>,
  form: { readonly momentum: FosiMomentum; readonly clip: number },
): Method {
  return {
    summary,
    rates: around(rate),
    settings: { k: 10, l: 0, alpha: 0.01, period: 200, warmup: 0, clip: form.clip },
    make({ problem, learningRate, settings, seed }) {
      const n = ravel(problem.initial)[0].size;
      const k = Math.min(settings["k"]!, n);
      const l = Math.min(settings["l"]!, n - k);
      const method = fosi(forgetState(base(learningRate)), {
        k,
        l,
        alpha: settings["alpha"]!,
        momentum: form.momentum,
        clip: settings["clip"]!,
        period: settings["period"]!,
        // As published, the first curvature comes after a warm-up; 0 stands for one period.
        ...(settings["warmup"]! > 0 && { warmup: settings["warmup"]! }),
      });
      const loss = compiledLoss(problem);
      const step = jit(
        (params: Params, state: FosiState<unknown>, batch: Batch): [Params, FosiState<unknown>, Value] => {
          const [value, gradient] = valueAndGrad((p: Params) => problem.loss(p, batch))(params);
          const [updates, next] = method.step(gradient, state, params);
          return [applyUpdates(params, updates), next, value];
        },
      );
      const refresh = (params: Params, state: FosiState<unknown>, made: number): FosiState<unknown> => {
        const index = Math.floor(made / settings["period"]!);
        const operator = hessianOperator(loss, params, problem.curvatureBatch(index));
        return method.refreshCurvature(state, operator, random.foldIn(random.key(seed), made));
      };
      // Products are on the batch of the curvature; a gradient is one of a step's batch.
      const examples = problem.curvatureBatch(0).x.shape[0] ?? 1;
      const refreshGradients =
        (PRODUCT_GRADIENTS * Math.min(n, lanczosOrder(k, l, n)) * examples) / problem.batchSize;
      return {
        init: (params) => method.init(params),
        warm: ({ params, state }) => void refresh(params, state as FosiState<unknown>, 0),
        step({ params, state }, index, batch) {
          const isDue = method.curvatureDue(index);
          const own = state as FosiState<unknown>;
          const [next, nextState, value] = step(params, isDue ? refresh(params, own, index) : own, batch);
          return {
            params: next,
            state: nextState,
            loss: value,
            extraGradients: isDue ? refreshGradients : 0,
          };
        },
      };
    },
  };
}

/** The methods by the name of the command line. */
export const methods: Readonly<Record<string, Method>> = {
  sgd: firstOrder("gradient descent", 0.1, (rate) => sgd(rate)),
  momentum: firstOrder("heavy ball", 0.03, (rate, { beta }) => momentum(rate, beta!), { beta: 0.9 }),
  nesterov: firstOrder("Nesterov's momentum", 0.03, (rate, { beta }) => nesterov(rate, beta!), { beta: 0.9 }),
  adam: firstOrder("Adam", 1e-3, (rate, { beta1, beta2 }) => adam(rate, { beta1: beta1!, beta2: beta2! }), {
    beta1: 0.9,
    beta2: 0.999,
  }),
  adamw: firstOrder(
    "Adam with decoupled weight decay",
    1e-3,
    (rate, { decay }) => adamw(rate, { weightDecay: decay! }),
    { decay: 0.01 },
  ),
  "fosi-sgd": hybrid("FOSI over gradient descent", 0.1, (rate) => sgd(rate), { momentum: "none", clip: 3 }),
  "fosi-momentum": hybrid("FOSI over heavy ball", 0.03, (rate) => momentum(rate, 0.9), {
    momentum: "heavyBall",
    clip: 3,
  }),
  "fosi-nesterov": hybrid("FOSI over Nesterov's momentum", 0.03, (rate) => nesterov(rate, 0.9), {
    momentum: "nesterov",
    clip: 3,
  }),
  "fosi-adam": hybrid("FOSI over Adam", 1e-3, (rate) => adam(rate), { momentum: "average", clip: 1 }),
};
