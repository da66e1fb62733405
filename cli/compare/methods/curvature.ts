/** Methods with products of the Hessian, or gradients for sampled labels, every so often. */
import { jit } from "../../../autodiff/jit.ts";
import { hessianOperator } from "../../../autodiff/operator.ts";
import { grad, valueAndGrad } from "../../../autodiff/vjp.ts";
import type { Params } from "../../../core/nn.ts";
import * as random from "../../../core/random.ts";
import { ravel } from "../../../core/ravel.ts";
import type { Value } from "../../../core/value.ts";
import { adahessian } from "../../../optim/adahessian.ts";
import { adam } from "../../../optim/adam.ts";
import { type Fosi, type FosiMomentum, type FosiState, fosi } from "../../../optim/fosi.ts";
import { lanczosOrder } from "../../../optim/lanczos.ts";
import { momentum, nesterov, sgd } from "../../../optim/momentum.ts";
import { sampledLoss } from "../../../optim/sampled_loss.ts";
import { sophia } from "../../../optim/sophia.ts";
import { applyUpdates, forgetState, type GradientTransformation } from "../../../optim/transformation.ts";
import { around, curvatureExamples, firstOf, type Method, method, PRODUCT_GRADIENTS } from "../method.ts";
import { compiledLoss, type Stepper } from "../run.ts";
import type { Batch, Problem } from "../task.ts";

/** A method with two halves: a refresh when it is due, and a step that is compiled with the gradient. */
interface Halves<S> {
  init(params: Params): S;
  curvatureDue(made: number): boolean;
  step(gradients: Params, state: S, params: Params): readonly [updates: Params, state: S];
  /** The state with the curvature where the parameters are. */
  refresh(state: S, params: Params, made: number, batch: Batch): S;
  /** What a refresh costs, in gradients of a batch of the step's size. */
  readonly refreshGradients: number;
}

/** A stepper of a method with two halves. */
export function inHalves<S>(problem: Problem, halves: Halves<S>): Stepper {
  const step = jit(
    (params: Params, state: S, batch: Batch): [Params, S, Value] => {
      const [loss, gradient] = valueAndGrad((p: Params) => problem.loss(p, batch))(params);
      const [updates, next] = halves.step(gradient, state, params);
      return [applyUpdates(params, updates), next, loss];
    },
    { donate: [0, 1] },
  );
  return {
    init: (params) => halves.init(params),
    warm: ({ params, state }) => void halves.refresh(state as S, params, 0, problem.batch(0)),
    step({ params, state }, index, batch) {
      const isDue = halves.curvatureDue(index);
      const fresh = isDue ? halves.refresh(state as S, params, index, batch) : (state as S);
      const [next, nextState, loss] = step(params, fresh, batch);
      const extraGradients = isDue ? halves.refreshGradients : 0;
      return { params: next, state: nextState, loss, extraGradients };
    },
  };
}

/** FOSI over a first-order method. */
function hybrid<T>(
  summary: string,
  rate: number,
  base: (learningRate: number) => GradientTransformation<T>,
  form: { readonly momentum: FosiMomentum; readonly clip: number },
): Method {
  return method({
    summary,
    rates: around(rate),
    // As published, the first curvature comes after a warm-up, of one period by 0, and is measured on as many examples as
    // a step has, by 0.
    settings: { k: 10, l: 0, alpha: 0.01, period: 200, warmup: 0, clip: form.clip, order: 0, batch: 0 },
    make({ problem, learningRate, settings, seed }) {
      const n = ravel(problem.initial)[0].size;
      const k = Math.min(settings.k, n);
      const l = Math.min(settings.l, n - k);
      const { alpha, clip, period, warmup, order } = settings;
      const optimizer: Fosi<unknown> = fosi(forgetState(base(learningRate)), {
        k,
        l,
        alpha,
        clip,
        period,
        momentum: form.momentum,
        ...(warmup > 0 && { warmup }),
        ...(order > 0 && { order: Math.min(n, order) }),
      });
      const loss = compiledLoss(problem);
      const examples = curvatureExamples(problem, settings.batch);
      const products = Math.min(n, order > 0 ? order : lanczosOrder(k, l, n));
      return inHalves<FosiState<unknown>>(problem, {
        init: (params) => optimizer.init(params),
        curvatureDue: (made) => optimizer.curvatureDue(made),
        step: (gradients, state, params) => optimizer.step(gradients, state, params),
        refresh(state, params, made) {
          const number = optimizer.refreshNumber(made) ?? 0;
          const operator = hessianOperator(loss, params, firstOf(problem.curvatureBatch(number), examples));
          return optimizer.refreshCurvature(state, operator, random.foldIn(random.key(seed), made));
        },
        refreshGradients: ((1 + PRODUCT_GRADIENTS * products) * examples) / problem.batchSize,
      });
    },
  });
}

/** The methods by the name of the command line. */
export const curvatureMethods: Readonly<Record<string, Method>> = {
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
  adahessian: method({
    summary: "AdaHessian: a random diagonal of the Hessian",
    rates: around(0.05),
    settings: { period: 1, power: 1 },
    make({ problem, learningRate, settings: { period, power }, seed }) {
      const optimizer = adahessian(learningRate, { period, hessianPower: power, seed });
      const loss = compiledLoss(problem);
      return inHalves(problem, {
        init: (params) => optimizer.init(params),
        curvatureDue: (made) => optimizer.curvatureDue(made),
        step: (gradients, state, params) => optimizer.step(gradients, state, params),
        refresh(state, params, made, batch) {
          const operator = hessianOperator(loss, params, batch);
          return optimizer.refreshCurvature(state, operator, random.foldIn(random.key(seed), made));
        },
        refreshGradients: 1 + PRODUCT_GRADIENTS,
      });
    },
  }),
  sophia: method({
    summary: "Sophia-G: a diagonal from gradients for sampled labels",
    rates: around(1e-3),
    settings: { period: 10, rho: 0.04, decay: 0 },
    make({ problem, learningRate, settings: { period, rho, decay }, seed }) {
      const { outputs, likelihood } = modelOf("sophia", problem);
      const optimizer = sophia(learningRate, { period, rho, weightDecay: decay, seed });
      const sampled = sampledLoss((p: Params, x: Value) => outputs(p, x), likelihood);
      const gradient = jit((params: Params, key: Value, x: Value) =>
        grad((p: Params) => sampled(p, key, x))(params),
      );
      return inHalves(problem, {
        init: (params) => optimizer.init(params),
        curvatureDue: (made) => optimizer.curvatureDue(made),
        step: (gradients, state, params) => optimizer.step(gradients, state, params),
        refresh(state, params, made, { x }) {
          const found = gradient(params, random.foldIn(random.key(seed), made), x);
          return optimizer.refreshCurvature(state, found, termsOf(problem));
        },
        refreshGradients: 1,
      });
    },
  }),
};

/** How many terms the loss of a step's batch is a mean of: its examples, or the positions of all where each has a class. */
export function termsOf(problem: Problem): number {
  const { y } = problem.batch(0);
  return problem.model?.likelihood.name === "categorical" ? y.size : (y.shape[0] ?? 1);
}

/** The model of a problem; an error where the method needs one and there is none. */
export function modelOf(name: string, { model, name: task }: Problem): NonNullable<Problem["model"]> {
  if (model) return model;
  throw new RangeError(
    `Cannot use ${name} on ${task}: it has no model, one with outputs and labels is needed`,
  );
}
