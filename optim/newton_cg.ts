/** Newton's method with conjugate gradients inside a trust region: no Hessian is formed, negative curvature is used. */
import type { LinearOperator } from "../autodiff/operator.ts";
import { zerosLike } from "../core/create.ts";
import { add, neg, norm } from "../core/ops.ts";
import { ravel } from "../core/ravel.ts";
import { scalar } from "../core/trace.ts";
import type { Value } from "../core/value.ts";
import { conjugateGradient } from "./conjugate_gradient.ts";
import { gainRatio, type ValueExtra } from "./gain_ratio.ts";
import { checkOptions, countingNumber, nonNegative, positive } from "./ranges.ts";
import { applyUpdates, type CountState, type GradientTransformation, zeroCount } from "./transformation.ts";

/**
 * The constants of Newton's method with conjugate gradients.
 *
 * @since 0.2.0
 */
export interface NewtonCgOptions {
  /** Length of the longest step at first, in units of the parameters; default 1. */
  readonly radius?: number;
  /** The radius grows to this at most; default 1000. */
  readonly maxRadius?: number;
  /** Hessian-vector products in one update at most; default 250. */
  readonly maxIterations?: number;
  /**
   * Residual of the Newton equation relative to the gradient g at which an update has enough; default
   * `min(0.5, sqrt |g|)`, which is loose far from a minimum and gives superlinear convergence near it.
   */
  readonly tolerance?: number;
}

/**
 * What Newton's method with conjugate gradients remembers.
 *
 * @since 0.2.0
 */
export interface NewtonCgState extends CountState {
  /** Length of the longest step that the quadratic model is trusted for; f64[]. */
  readonly radius: Value;
}

/**
 * What Newton's method with conjugate gradients needs besides gradients, all on the batch of the update.
 *
 * @since 0.2.0
 */
export interface NewtonCgExtra extends ValueExtra {
  /** The Hessian where the parameters are. */
  readonly hessian: () => LinearOperator;
}

/** Steps that gain a smaller part of what the model promised are not made. */
const LEAST_RATIO = 0.15;
const LEAST_RADIUS = 1e-30;

/**
 * Truncated Newton's method: `H s = -g` by conjugate gradients, cut off at a trust region.
 *
 * The step is tested on the function: where it gains less than 15 % of what the quadratic model promises the updates are
 * zero; below 25 % the radius shrinks to a quarter of the step, above 75 % it doubles if the step reached it. The host
 * reads numbers in every iteration: it does not work inside jit, while function and Hessian may be compiled. Deterministic
 * functions are its home: on small batches the test is noise.
 *
 * Cost per update: one product per iteration of conjugate gradients and two values.
 * Shapes: any tree of tensors of one float type; the state holds two numbers.
 * Units: radii are lengths in units of the parameters.
 *
 * @throws {RangeError} if an option is out of range
 * @throws {DTypeError} if the parameters are of several element types
 * @source Nash 1984, "Newton-type minimization via the Lanczos method"
 * @source Steihaug 1983, "The conjugate gradient method and trust regions in large scale optimization"
 * @example A quadratic, solved by one update
 * ```ts
 * const loss = (x: ct.Value) => x.sub(3).mul(x.sub(3)).mul(ct.tensor([1, 10])).sum();
 * const optimizer = ct.optim.newtonCg({ radius: 10, tolerance: 1e-6 });
 * const x = ct.tensor([0, 0]);
 * const extra = { value: loss, hessian: () => ct.operator.hessianOperator(loss, x) };
 * const [updates] = optimizer.update(ct.grad(loss)(x), optimizer.init(x), x, extra);
 * assertClose(x.add(updates), [3, 3], 1e-4);
 * ```
 * @since 0.2.0
 */
export function newtonCg(
  options: NewtonCgOptions = {},
): GradientTransformation<NewtonCgState, NewtonCgExtra> {
  const { radius: firstRadius = 1, maxRadius = 1000, maxIterations = 250 } = options;
  checkOptions("Newton-CG", {
    radius: [firstRadius, positive],
    maxRadius: [maxRadius, positive],
    maxIterations: [maxIterations, countingNumber],
    tolerance: [options.tolerance ?? 0, nonNegative],
  });
  return {
    name: "newtonCg",
    init: () => ({ count: zeroCount(), radius: scalar(firstRadius, "float64") }),
    update(gradients, state, params, { hessian, value }) {
      const [g, unravel] = ravel(gradients);
      const radius = state.radius.item();
      const { tolerance = Math.min(0.5, Math.sqrt(norm(g).item())) } = options;
      const { solution, outcome, gain } = conjugateGradient(hessian(), neg(g), {
        // A gradient that is not a number fails the test of the step below.
        tolerance: Number.isNaN(tolerance) ? 0 : tolerance,
        maxIterations,
        radius,
      });
      const updates = unravel(solution);
      const before = value(params).item();
      const after = value(applyUpdates(params, updates)).item();
      const ratio = gainRatio({ before, after, promised: gain }, g.dtype);
      const isMade = ratio > LEAST_RATIO;
      const reached = outcome === "radius" || outcome === "negative curvature";
      const nextRadius = !(ratio >= 0.25)
        ? Math.max(Math.min(radius, norm(solution).item() || radius) / 4, LEAST_RADIUS)
        : ratio > 0.75 && reached
          ? Math.min(2 * radius, maxRadius)
          : radius;
      return [
        isMade ? updates : unravel(zerosLike(g)),
        { count: add(state.count, 1), radius: scalar(nextRadius, "float64") },
      ];
    },
  };
}
