/** Eigenvalues and eigenvectors of a small symmetric tridiagonal matrix, in float64 on the host. */
import { settleTridiagonal } from "../core/eigen.ts";

/**
 * A symmetric tridiagonal matrix: `offDiagonal` has one element less than `diagonal`.
 *
 * @since 0.1.0
 */
export interface Tridiagonal {
  readonly diagonal: readonly number[];
  readonly offDiagonal: readonly number[];
}

/**
 * Eigenvalues in ascending order; `vectors[j]` is the unit eigenvector of `values[j]`.
 *
 * @since 0.1.0
 */
export interface Eigen {
  readonly values: readonly number[];
  readonly vectors: readonly Float64Array[];
}

/**
 * All eigenpairs by QL iterations with implicit shifts.
 *
 * Cost: about 3 m³ flops for order m.
 * Shapes: host arrays: m values, and m vectors as rows of m.
 *
 * @throws {RangeError} if an element is not finite, or the iteration does not settle
 * @source Bowdler, Martin, Reinsch & Wilkinson 1968, "The QR and QL algorithms for symmetric matrices"
 *
 * @example A swap has eigenvalues -1 and 1
 * ```ts
 * const { values } = ct.optim.tridiagonalEigen({ diagonal: [0, 0], offDiagonal: [1] });
 * assertClose(values, [-1, 1]);
 * ```
 * @since 0.1.0
 */
export function tridiagonalEigen(t: Tridiagonal): Eigen {
  const m = t.diagonal.length;
  const d = Float64Array.from(t.diagonal);
  const e = Float64Array.from({ length: m }, (_, i) => t.offDiagonal[i] ?? 0);
  if (![...d, ...e].every(Number.isFinite)) {
    throw new RangeError(
      "Cannot find eigenvalues: the tridiagonal matrix has elements that are not finite, finite ones are needed",
    );
  }
  const rows = new Float64Array(m * m);
  for (let i = 0; i < m; i++) rows[i * m + i] = 1;
  const unsettled = settleTridiagonal(d, e, rows, m);
  if (unsettled >= 0)
    throw new RangeError(
      `Cannot find eigenvalue ${unsettled}: 60 iterations did not settle it, a matrix without extreme scales is needed`,
    );
  const order = Array.from(d.keys()).sort((i, j) => d[i]! - d[j]!);
  return { values: order.map((i) => d[i]!), vectors: order.map((i) => rows.slice(i * m, (i + 1) * m)) };
}
