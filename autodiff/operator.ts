/** Linear operators: what second-order methods need of a matrix, without the matrix. */

import { type DType, isFloat } from "../core/dtype.ts";
import { DTypeError, ShapeError } from "../core/errors.ts";
import { zeros } from "../core/prims/movement.ts";
import { deadCodeEliminated, evalProgram } from "../core/program.ts";
import { ravel } from "../core/ravel.ts";
import type { Value } from "../core/value.ts";
import { linearizeLeaves } from "./linearize.ts";
import { gradientOf } from "./vjp.ts";

/**
 * What is known of an operator besides its products.
 *
 * @since 0.1.0
 */
export type Tag = "symmetric" | "positive semidefinite";

/**
 * A square matrix known by its products with vectors.
 *
 * @since 0.1.0
 */
export interface LinearOperator {
  /** Number of rows and columns. */
  readonly size: number;
  /** Element type of the vectors. */
  readonly dtype: DType;
  readonly tags: ReadonlySet<Tag>;
  /** The product with a vector `[size]`. */
  apply(v: Value): Value;
  transpose(): LinearOperator;
}

/**
 * The Hessian of a scalar function at a point, as an operator on raveled vectors.
 *
 * The gradient is linearized once at the point, so each product costs only the linear part of a Hessian-vector
 * product; the residuals of one gradient stay in memory while the operator lives.
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
  const [flat, unravel] = ravel(params);
  if (!isFloat(flat.dtype))
    throw new DTypeError(
      "hessianOperator",
      `Cannot take the Hessian at ${flat.aval}: float32 or float64 is needed`,
    );
  const gradient = gradientOf((x: Value) => f(unravel(x), ...rest));
  const { program } = linearizeLeaves((x) => [gradient(x!)], [flat]);
  const linear = deadCodeEliminated(program);
  const operator: LinearOperator = {
    size: flat.size,
    dtype: flat.dtype,
    tags: new Set<Tag>(["symmetric"]),
    apply(v) {
      if (!v.aval.equals(flat.aval))
        throw new ShapeError("apply", `Cannot apply the Hessian to ${v.aval}: ${flat.aval} is needed`);
      return evalProgram(linear, [v])[0] ?? zeros(flat.aval);
    },
    transpose: () => operator,
  };
  return operator;
}
