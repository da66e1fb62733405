/** Linear algebra of dense matrices, with stacks of them in the axes before the last two. */
import { ShapeError } from "../errors.ts";
import * as p from "../prims/linalg.ts";
import { broadcastShapes } from "../shape.ts";
import type { Value } from "../value.ts";
import { matmul } from "./contract.ts";
import { broadcastTo, concat, expandDims, slice, squeeze, transpose } from "./shape.ts";

/**
 * The Cholesky factor: the lower triangular `L` with `L Lᵀ = A` and a positive diagonal.
 *
 * Of a matrix that is not symmetric the symmetric part `(A + Aᵀ) / 2` is factored, so that a gradient is symmetric. Where
 * that is not positive definite the lower triangle is NaN: a compiled program cannot throw for what its elements are, and
 * eager code does the same. Look for it with `ct.isNan`, or add to the diagonal.
 * Computed in float64 on the host, whatever the element type and the device.
 * Cost: n³ / 3 flops for each matrix.
 *
 * Shapes: `[..., n, n]` to the same.
 *
 * @throws {ShapeError} if the matrices are not square
 * @throws {DTypeError} if the elements are not floats
 * @source Murray 2016, "Differentiation of the Cholesky decomposition"
 * @example Two by two
 * ```ts
 * assertClose(ct.cholesky(ct.tensor([[4, 2], [2, 5]])), [[2, 0], [1, 2]]);
 * const log = (a: ct.Value) => ct.cholesky(a).mul(ct.eye(2)).sum({ axis: 1 }).log().sum().mul(2);
 * assertClose(ct.grad(log)(ct.tensor([[4, 2], [2, 5]])), [[0.3125, -0.125], [-0.125, 0.25]]); // of log det A: its inverse
 * ```
 * @since 0.2.0
 */
export function cholesky(a: Value): Value {
  return p.cholesky(a);
}

/**
 * Which triangle a system has.
 *
 * @since 0.2.0
 */
export interface TriangularSolveOptions {
  /** The lower triangle of the matrix, or else the upper one; default true. */
  readonly lower?: boolean;
  /** Solves with the transpose of the triangle; default false. */
  readonly transpose?: boolean;
  /** Takes the diagonal to be 1 and does not read it; default false. */
  readonly unitDiagonal?: boolean;
}

/**
 * The solution `x` of `T x = b`, with `T` a triangle of `a`; what is outside of the triangle is not read.
 *
 * A zero on the diagonal gives infinities and NaN. The gradient in `a` is zero outside of the triangle.
 * Computed in float64 on the host, whatever the element type and the device.
 *
 * Shapes: `[..., n, n]` and `[..., n, k]`, or a vector `[n]`, give `[..., n, k]` or `[..., n]`; the axes before broadcast.
 *
 * @throws {ShapeError} if the matrices are not square, or the right side does not fit
 * @throws {DTypeError} if the elements are not floats of one type
 * @example Forward, and back with the transpose
 * ```ts
 * const L = ct.tensor([[2, 0], [1, 4]]);
 * const y = ct.triangularSolve(L, ct.tensor([2, 9]));
 * assertClose(y, [1, 2]);
 * assertClose(ct.triangularSolve(L, y, { transpose: true }), [0.25, 0.5]);
 * ```
 * @since 0.2.0
 */
export function triangularSolve(
  a: Value,
  b: Value,
  { lower = true, transpose: isTransposed = false, unitDiagonal = false }: TriangularSolveOptions = {},
): Value {
  const triangle = { lower, transpose: isTransposed, unitDiagonal };
  return solved("triangularSolve", a, b, (x, y) => p.solveTriangular(x, y, triangle));
}

/**
 * The solution `x` of `a x = b`, by elimination with partial pivoting.
 *
 * A singular matrix gives infinities and NaN. For a positive definite matrix `cholesky` and two triangular systems take
 * half of the time. Every system, also each one of a derivative, factors its matrix again.
 * Computed in float64 on the host, whatever the element type and the device.
 * Cost: 2 n³ / 3 + 2 n² k flops for each matrix.
 *
 * Shapes: `[..., n, n]` and `[..., n, k]`, or a vector `[n]`, give `[..., n, k]` or `[..., n]`; the axes before broadcast.
 *
 * @throws {ShapeError} if the matrices are not square, or the right side does not fit
 * @throws {DTypeError} if the elements are not floats of one type
 * @example Two equations
 * ```ts
 * assertClose(ct.solve(ct.tensor([[0, 2], [1, 1]]), ct.tensor([4, 5])), [3, 2]);
 * ```
 * @since 0.2.0
 */
export function solve(a: Value, b: Value): Value {
  return solved("solve", a, b, (x, y) => p.solveGeneral(x, y, false));
}

/** Makes the axes before the matrices equal, and a vector a column for the time of the call. */
function solved(op: string, a: Value, b: Value, solver: (a: Value, b: Value) => Value): Value {
  if (a.ndim < 2 || b.ndim < 1) {
    throw new ShapeError(
      op,
      `Cannot ${op} ${a.aval}, ${b.aval}: there are ${a.ndim} and ${b.ndim} axes, a matrix and at least a vector are needed`,
    );
  }
  const right = b.ndim === 1 ? expandDims(b, 1) : b;
  const stack = broadcastShapes(op, a.shape.slice(0, -2), right.shape.slice(0, -2));
  const spread = (x: Value): Value => broadcastTo(x, [...stack, ...x.shape.slice(-2)]);
  const x = solver(spread(a), spread(right));
  return b.ndim === 1 ? squeeze(x, [-1]) : x;
}

/**
 * Eigenvalues and eigenvectors of a symmetric matrix: `A v = w v`, values ascending, unit vectors as columns.
 *
 * Of a matrix that is not symmetric the symmetric part `(A + Aᵀ) / 2` is taken. The sign of a vector is such that its
 * largest component is positive (of equal ones the first). Elements that are not finite give NaN everywhere.
 * The derivative of the values exists always; that of the vectors divides by the gaps between eigenvalues, and is
 * infinite or NaN where two are equal, as the vectors themselves are not determined there.
 * Computed in float64 on the host, whatever the element type and the device.
 * Cost: about 9 n³ flops for each matrix; n = 785 takes about a second.
 *
 * Shapes: `[..., n, n]` to `[..., n]` and `[..., n, n]`.
 *
 * @throws {ShapeError} if the matrices are not square
 * @throws {DTypeError} if the elements are not floats
 * @source Giles 2008, "Collected matrix derivative results for forward and reverse mode algorithmic differentiation"
 * @example A swap has eigenvalues -1 and 1
 * ```ts
 * const [values, vectors] = ct.eigh(ct.tensor([[0, 1], [1, 0]]));
 * assertClose(values, [-1, 1]);
 * assertClose(vectors, [[Math.SQRT1_2, Math.SQRT1_2], [-Math.SQRT1_2, Math.SQRT1_2]]);
 * ```
 * @since 0.2.0
 */
export function eigh(a: Value): [values: Value, vectors: Value] {
  return p.eigh(a);
}

/**
 * The reduced QR factorization: `A = Q R` with orthonormal columns of `Q` and upper triangular `R`, its diagonal >= 0.
 *
 * With this sign the factors of a matrix of full rank are determined; without full rank the derivative is infinite or NaN.
 * Computed in float64 on the host, whatever the element type and the device.
 *
 * Shapes: `[..., m, n]` to `[..., m, k]` and `[..., k, n]`, with k the smaller of m and n.
 *
 * @throws {ShapeError} if there are less than two axes
 * @throws {DTypeError} if the elements are not floats
 * @source Householder 1958, "Unitary triangularization of a nonsymmetric matrix"
 * @example A plane
 * ```ts
 * const [q, r] = ct.qr(ct.tensor([[3, 1], [4, 2], [0, 2]]));
 * assertClose(r, [[5, 2.2], [0, Math.sqrt(4.16)]], 1e-6);
 * assertClose(ct.matmul(q, r), [[3, 1], [4, 2], [0, 2]], 1e-6);
 * ```
 * @since 0.2.0
 */
export function qr(a: Value): [q: Value, r: Value] {
  const [m, n] = a.shape.slice(-2);
  if (m === undefined || n === undefined || m >= n) return p.qr(a);
  // The first m columns make Q; the others are R = Qᵀ A.
  const columns = (from: number, to: number): Value =>
    slice(a, [...a.shape.slice(0, -1).map(() => 0), from], [...a.shape.slice(0, -1), to]);
  const [q, r] = p.qr(columns(0, m));
  const turned = transpose(q, [...q.shape.slice(0, -2).keys(), q.ndim - 1, q.ndim - 2]);
  return [q, concat([r, matmul(turned, columns(m, n))], { axis: -1 })];
}
