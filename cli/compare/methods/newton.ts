/** Methods that test their steps on the function, on the batch of the step. */
import { jit } from "../../../autodiff/jit.ts";
import { gaussNewtonOperator, hessianOperator, type LinearOperator } from "../../../autodiff/operator.ts";
import { valueAndGrad } from "../../../autodiff/vjp.ts";
import type { Params } from "../../../core/nn.ts";
import type { Value } from "../../../core/value.ts";
import { gaussNewton } from "../../../optim/gauss_newton.ts";
import { lbfgs } from "../../../optim/lbfgs.ts";
import { newtonCg } from "../../../optim/newton_cg.ts";
import { applyUpdates, forgetState, type GradientTransformation } from "../../../optim/transformation.ts";
import { type Method, method, PRODUCT_GRADIENTS } from "../method.ts";
import { compiledLoss, type Stepper } from "../run.ts";
import type { Batch, Problem } from "../task.ts";
import { modelOf } from "./curvature.ts";

/** Counts what a step asks for beside its gradient. */
interface Meter {
  gradients: number;
}

/** An operator whose products are counted, and that it was linearized. */
function metered(operator: LinearOperator, meter: Meter): LinearOperator {
  meter.gradients++;
  return {
    ...operator,
    apply(v) {
      meter.gradients += PRODUCT_GRADIENTS;
      return operator.apply(v);
    },
  };
}

/** A method that asks for what it needs while it makes its step. */
function asking<X extends object>(
  problem: Problem,
  optimizer: GradientTransformation<unknown, X>,
  extraOf: (params: Params, batch: Batch, loss: Value, meter: Meter) => X,
): Stepper {
  const gradient = jit((params: Params, batch: Batch) =>
    valueAndGrad((p: Params) => problem.loss(p, batch))(params),
  );
  return {
    init: (params) => optimizer.init(params),
    step({ params, state }, _index, batch) {
      const [loss, gradients] = gradient(params, batch);
      const meter: Meter = { gradients: 0 };
      const extra = extraOf(params, batch, loss, meter);
      const [updates, next] = optimizer.update(gradients, state, params, extra);
      return {
        params: applyUpdates(params, updates),
        state: next,
        loss,
        extraGradients: meter.gradients,
      };
    },
  };
}

/** The value on a batch; an evaluation without its gradient counts as a third of one. */
function valueOn(problem: Problem): (batch: Batch, meter: Meter) => (params: unknown) => Value {
  const loss = compiledLoss(problem);
  return (batch, meter) => (params) => {
    meter.gradients += 1 / 3;
    return loss(params as Params, batch);
  };
}

/** The methods by the name of the command line. */
export const newtonMethods: Readonly<Record<string, Method>> = {
  lbfgs: method({
    summary: "L-BFGS with a line search for the strong Wolfe conditions",
    rates: [1],
    settings: { iterations: 1, history: 20 },
    make({ problem, learningRate, settings: { iterations, history } }) {
      const optimizer = lbfgs({
        learningRate,
        maxIterations: iterations,
        maxEvaluations: 25 * iterations,
        historySize: history,
      });
      const gradient = jit((params: Params, batch: Batch) =>
        valueAndGrad((p: Params) => problem.loss(p, batch))(params),
      );
      return asking(problem, forgetState(optimizer), (_params, batch, value, meter) => ({
        value,
        valueAndGradient(at: unknown) {
          meter.gradients++;
          return gradient(at as Params, batch);
        },
      }));
    },
  }),
  "newton-cg": method({
    summary: "Newton's method by conjugate gradients in a trust region",
    rates: [1],
    settings: { iterations: 20, radius: 1 },
    make({ problem, settings: { iterations, radius } }) {
      const loss = compiledLoss(problem);
      const value = valueOn(problem);
      const optimizer = newtonCg({ maxIterations: iterations, radius });
      return asking(problem, forgetState(optimizer), (params, batch, _loss, meter) => ({
        value: value(batch, meter),
        hessian: () => metered(hessianOperator(loss, params, batch), meter),
      }));
    },
  }),
  "gauss-newton": method({
    summary: "Gauss-Newton with adaptive damping, by conjugate gradients",
    rates: [1],
    settings: { iterations: 20, damping: 1 },
    make({ problem, settings: { iterations, damping } }) {
      const { outputs, likelihood } = modelOf("gauss-newton", problem);
      const value = valueOn(problem);
      const optimizer = gaussNewton({ maxIterations: iterations, damping });
      const model = jit((p: Params, x: Value) => outputs(p, x));
      return asking(problem, forgetState(optimizer), (params, { x, y }, _loss, meter) => ({
        value: value({ x, y }, meter),
        gaussNewton: () =>
          metered(
            gaussNewtonOperator(
              (p: Params, at: Value) => model(p, at),
              (z: Value) => likelihood.loss(z, y),
              params,
              x,
            ),
            meter,
          ),
      }));
    },
  }),
};
