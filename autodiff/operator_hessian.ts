/** The Hessian as an operator. */
import { deadCodeEliminated } from "../core/passes/dce.ts";
import { ravel } from "../core/ravel.ts";
import type { Value } from "../core/value.ts";
import { isCompiled } from "./jit.ts";
import { linearizeLeaves } from "./linearize.ts";
import type { LinearOperator } from "./operator_algebra.ts";
import { operatorAt } from "./operator_point.ts";
import { gradientOf } from "./vjp.ts";

/**
 * The Hessian of a scalar function at a point, as an operator on raveled vectors.
 *
 * The gradient is linearized once at the point, so each product costs only the linear part of a Hessian-vector
 * product; the residuals of one gradient stay in memory while the operator lives. A function made by `jit` is recorded
 * and compiled once for all points and batches of one shape.
 *
 * Shapes: `size` is the number of elements of `params`; `apply` takes and returns `[size]`.
 * Units: none.
 * Determinism: the same bits for the same inputs on one backend.
 *
 * @param f scalar function of a tree
 * @param params the point, a tree of one float type
 * @param rest later arguments of `f`: the batch
 * @throws {ShapeError} if `f` does not return a scalar, or a vector has another size
 * @throws {DTypeError} if the leaves are not of one float type
 * @example The largest curvature of a quadratic
 * ```ts
 * const H = ct.operator.hessianOperator((x: ct.Value) => x.mul(x).mul(ct.tensor([1, 5])).sum(), ct.tensor([0, 0]));
 * assertClose(H.apply(ct.tensor([0, 1])), [0, 10]);
 * ```
 * @source Pearlmutter 1994, "Fast exact multiplication by the Hessian"
 * @since 0.1.0
 */
export function hessianOperator<P, A extends readonly unknown[]>(
  f: (p: P, ...rest: A) => Value,
  params: P,
  ...rest: A
): LinearOperator {
  return operatorAt<P, A>(
    {
      op: "hessianOperator",
      noun: "Hessian",
      tags: ["symmetric"],
      keys: isCompiled(f) ? [hessianOperator, f] : null,
      derive(at, batch) {
        const [flat, unravel] = ravel(at);
        const gradient = gradientOf((x: Value) => f(unravel(x), ...batch));
        return deadCodeEliminated(linearizeLeaves((x) => [gradient(x!)], [flat]).program);
      },
    },
    params,
    rest,
  );
}
