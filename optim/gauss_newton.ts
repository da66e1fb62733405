/** The method of Levenberg and Marquardt: Gauss-Newton steps, damped as much as their success asks for. */
import { damped, type LinearOperator } from "../autodiff/operator.ts";
import { zerosLike } from "../core/create.ts";
import { add, dot, neg, norm } from "../core/ops.ts";
import { ravel } from "../core/ravel.ts";
import { scalar } from "../core/trace.ts";
import type { Value } from "../core/value.ts";
import { conjugateGradient } from "./conjugate_gradient.ts";
import { gainRatio, type ValueExtra } from "./gain_ratio.ts";
import { checkOptions, countingNumber, nonNegative, positive } from "./ranges.ts";
import { applyUpdates, type CountState, type GradientTransformation, zeroCount } from "./transformation.ts";

/**
 * The constants of the Gauss-Newton method.
 *
 * @since 0.2.0
 */
export interface GaussNewtonOptions {
  /** Added to the eigenvalues of the Gauss-Newton matrix at first; default 0.1. */
  readonly damping?: number;
  /** Products with the matrix in one update at most; default 250. */
  readonly maxIterations?: number;
  /**
   * Residual of the damped equation relative to the gradient g at which an update has enough; default
   * `min(0.01, sqrt |g|)`: Gauss-Newton matrices are ill-conditioned, and looser steps are hardly better than gradients.
   */
  readonly tolerance?: number;
}

/**
 * What the Gauss-Newton method remembers.
 *
 * @since 0.2.0
 */
export interface GaussNewtonState extends CountState {
  /** lambda; f64[]. */
  readonly damping: Value;
  /** What the damping is multiplied by if the next step fails; f64[]. */
  readonly growth: Value;
}

/**
 * What the Gauss-Newton method needs besides gradients, all on the batch of the update.
 *
 * @since 0.2.0
 */
export interface GaussNewtonExtra extends ValueExtra {
  /** The Gauss-Newton or the Fisher matrix where the parameters are: any positive semidefinite model of the curvature. */
  readonly gaussNewton: () => LinearOperator;
}

/** Steps that gain a smaller part of what the model promised are not made. */
const LEAST_RATIO = 1e-4;
const LEAST_DAMPING = 1e-20;

/**
 * Gauss-Newton with adaptive damping: `(G + lambda I) s = -g` by conjugate gradients.
 *
 * The step is tested on the function: with rho its gain over that of the undamped model, a step of rho > 0 is made and
 * `lambda <- lambda max(1/3, 1 - (2 rho - 1)³)`; otherwise the updates are zero and lambda is multiplied by 2, 4, 8, ... in
 * turn. The host reads numbers in every iteration: it does not work inside jit, while function and products may be compiled.
 *
 * Cost per update: one product per iteration of conjugate gradients and two values.
 * Shapes: any tree of tensors of one float type; the state holds three numbers.
 * Units: damping is in those of the curvature.
 *
 * @throws {RangeError} if an option is out of range
 * @throws {DTypeError} if the parameters are of several element types
 * @source Marquardt 1963, "An algorithm for least-squares estimation of nonlinear parameters"
 * @source Nielsen 1999, "Damping parameter in Marquardt's method"
 * @example A line through three points, by one update
 * ```ts
 * const x = ct.tensor([[1, 0], [1, 1], [1, 2]]);
 * const outputs = (w: ct.Value) => x.matmul(w).sub(ct.tensor([1, 3, 5]));
 * const loss = (z: ct.Value) => z.mul(z).sum().mul(0.5);
 * const value = (w: ct.Value) => loss(outputs(w));
 * const optimizer = ct.optim.gaussNewton({ damping: 1e-6, tolerance: 1e-6 });
 * const w = ct.tensor([0, 0]);
 * const extra = { value, gaussNewton: () => ct.operator.gaussNewtonOperator(outputs, loss, w) };
 * const [updates] = optimizer.update(ct.grad(value)(w), optimizer.init(w), w, extra);
 * assertClose(w.add(updates), [1, 2], 1e-4);
 * ```
 * @since 0.2.0
 */
export function gaussNewton(
  options: GaussNewtonOptions = {},
): GradientTransformation<GaussNewtonState, GaussNewtonExtra> {
  const { damping: firstDamping = 0.1, maxIterations = 250 } = options;
  checkOptions("Gauss-Newton", {
    damping: [firstDamping, positive],
    maxIterations: [maxIterations, countingNumber],
    tolerance: [options.tolerance ?? 0, nonNegative],
  });
  return {
    name: "gaussNewton",
    init: () => ({
      count: zeroCount(),
      damping: scalar(firstDamping, "float64"),
      growth: scalar(2, "float64"),
    }),
    update(gradients, state, params, { gaussNewton: operator, value }) {
      const [g, unravel] = ravel(gradients);
      const [lambda, growth] = [state.damping.item(), state.growth.item()];
      const { tolerance = Math.min(0.01, Math.sqrt(norm(g).item())) } = options;
      const { solution, gain } = conjugateGradient(damped(operator(), lambda), neg(g), {
        // A gradient that is not a number fails the test of the step below.
        tolerance: Number.isNaN(tolerance) ? 0 : tolerance,
        maxIterations,
      });
      const updates = unravel(solution);
      const before = value(params).item();
      const after = value(applyUpdates(params, updates)).item();
      // The model without damping gains what the damped one does, and lambda s s / 2.
      const promised = gain + (lambda / 2) * dot(solution, solution).item();
      const ratio = gainRatio({ before, after, promised }, g.dtype);
      const isMade = ratio > LEAST_RATIO;
      const [nextLambda, nextGrowth] = isMade
        ? [lambda * Math.max(1 / 3, 1 - (2 * ratio - 1) ** 3), 2]
        : [lambda * growth, 2 * growth];
      return [
        isMade ? updates : unravel(zerosLike(g)),
        {
          count: add(state.count, 1),
          damping: scalar(Math.min(Math.max(nextLambda, LEAST_DAMPING), 1e300), "float64"),
          growth: scalar(Math.min(nextGrowth, 1e300), "float64"),
        },
      ];
    },
  };
}
