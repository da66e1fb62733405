/** Factorizations of dense matrices and what is solved with them, in float64 on the host; rows are contiguous. */

/**
 * Factorizations by a native library, in place of functions of this file and of eigen.ts, with their operands and layouts.
 * Each says whether it has an answer; where it has none, it has changed nothing.
 */
export interface NativeFactors {
  /** Eigenvalues in ascending order, and unit eigenvectors of any sign as rows; all elements of `a` are finite. */
  eigen(a: Float64Array, n: number, values: Float64Array, rows: Float64Array): boolean;
  /** What is above the diagonal is arbitrary. */
  cholesky(a: Float64Array, n: number): boolean;
  solve(a: Float64Array, n: number, x: Float64Array, transpose: boolean): boolean;
  triangle(t: Float64Array, n: number, x: Float64Array, triangle: Triangle): boolean;
  /** The diagonal of R has any sign. */
  qr(columns: Float64Array, m: number, n: number, q: Float64Array, r: Float64Array): boolean;
}

/** Smaller matrices gain little: a call copies its operands. */
const NATIVE_FROM = 64;
/** A triangle with fewer right sides takes as long to copy as they take to solve. */
const NATIVE_SIDES = 4;

let findNative: () => NativeFactors | null = () => null;

/** Sets what is asked for a native library, each time that a matrix is large enough; returns what was asked before. */
export function setNativeFactors(find: () => NativeFactors | null): () => NativeFactors | null {
  const previous = findNative;
  findNative = find;
  return previous;
}

/** The native library for matrices of n columns; null where there is none, or they are small. */
export function nativeFactors(n: number): NativeFactors | null {
  return n < NATIVE_FROM ? null : findNative();
}

/** The sum of products of n elements of x from `i` and of y from `j`, in four sums that do not wait for each other. */
function product(x: Float64Array, i: number, y: Float64Array, j: number, n: number): number {
  let [s0, s1, s2, s3] = [0, 0, 0, 0];
  let k = 0;
  for (; k + 4 <= n; k += 4) {
    s0 += x[i + k]! * y[j + k]!;
    s1 += x[i + k + 1]! * y[j + k + 1]!;
    s2 += x[i + k + 2]! * y[j + k + 2]!;
    s3 += x[i + k + 3]! * y[j + k + 3]!;
  }
  for (; k < n; k++) s0 += x[i + k]! * y[j + k]!;
  return s0 + s1 + (s2 + s3);
}

/** y from `j` on becomes y - factor x, with x from `i` on, for n elements. */
function subtract(y: Float64Array, j: number, factor: number, x: Float64Array, i: number, n: number): void {
  for (let k = 0; k < n; k++) y[j + k]! -= factor * x[i + k]!;
}

/**
 * Replaces the lower triangle of a symmetric matrix by its Cholesky factor, and what is above by zeros; NaN in the whole
 * lower triangle where the matrix is not positive definite.
 */
export function choleskyFactor(a: Float64Array, n: number): void {
  const isDefinite = nativeFactors(n)?.cholesky(a, n) || factorRows(a, n);
  for (let i = 0; i < n; i++) {
    a.fill(0, i * n + i + 1, (i + 1) * n);
    if (!isDefinite) a.fill(Number.NaN, i * n, i * n + i + 1);
  }
}

/** L_ij = (A_ij - sum over k < j of L_ik L_jk) / L_jj, in blocks of four rows; whether all is positive. */
function factorRows(a: Float64Array, n: number): boolean {
  let i = 0;
  for (; i + 4 <= n; i += 4) {
    eliminateFour(a, n, i);
    for (let row = i; row < i + 4; row++) if (!eliminateRow(a, n, row, i)) return false;
  }
  for (; i < n; i++) if (!eliminateRow(a, n, i, 0)) return false;
  return true;
}

/** The columns before i of the rows i to i + 3: each earlier row is read once for the four. */
function eliminateFour(a: Float64Array, n: number, i: number): void {
  const r0 = i * n;
  const r1 = r0 + n;
  const r2 = r1 + n;
  const r3 = r2 + n;
  for (let j = 0; j < i; j++) {
    const row = j * n;
    let [s0, s1, s2, s3] = [a[r0 + j]!, a[r1 + j]!, a[r2 + j]!, a[r3 + j]!];
    for (let k = 0; k < j; k++) {
      const x = a[row + k]!;
      s0 -= a[r0 + k]! * x;
      s1 -= a[r1 + k]! * x;
      s2 -= a[r2 + k]! * x;
      s3 -= a[r3 + k]! * x;
    }
    const pivot = a[row + j]!;
    a[r0 + j] = s0 / pivot;
    a[r1 + j] = s1 / pivot;
    a[r2 + j] = s2 / pivot;
    a[r3 + j] = s3 / pivot;
  }
}

/** The columns of row i from `start` to the diagonal; whether what is left there is positive. */
function eliminateRow(a: Float64Array, n: number, i: number, start: number): boolean {
  const row = i * n;
  for (let j = start; j < i; j++) {
    a[row + j] = (a[row + j]! - product(a, row, a, j * n, j)) / a[j * n + j]!;
  }
  const square = a[row + i]! - product(a, row, a, row, i);
  a[row + i] = Math.sqrt(square);
  return square > 0 && square < Infinity;
}

/**
 * Which triangle of a matrix is meant, and how.
 *
 * @since 0.2.0
 */
export interface Triangle {
  /** The lower triangle, or the upper one. */
  readonly lower: boolean;
  /** The transpose of the triangle is meant. */
  readonly transpose: boolean;
  /** The diagonal is taken to be 1, and not read. */
  readonly unitDiagonal: boolean;
}

/** Replaces each row of n elements of `x` by the solution of T y = row, T a triangle of the n rows of `t`. */
export function solveTriangle(t: Float64Array, n: number, x: Float64Array, triangle: Triangle): void {
  const native = x.length < NATIVE_SIDES * n ? null : nativeFactors(n);
  if (!native?.triangle(t, n, x, triangle)) substitute(t, n, x, triangle);
}

/** The same, row by row of the triangle. */
function substitute(t: Float64Array, n: number, x: Float64Array, triangle: Triangle): void {
  const { lower, transpose, unitDiagonal } = triangle;
  for (let at = 0; at < x.length; at += n) {
    for (let step = 0; step < n; step++) {
      const i = lower === transpose ? n - 1 - step : step;
      const pivot = unitDiagonal ? 1 : t[i * n + i]!;
      // The rest of row i in the triangle.
      const start = lower ? 0 : i + 1;
      const count = lower ? i : n - 1 - i;
      if (transpose) {
        x[at + i]! /= pivot;
        subtract(x, at + start, x[at + i]!, t, i * n + start, count);
      } else {
        x[at + i] = (x[at + i]! - product(t, i * n + start, x, at + start, count)) / pivot;
      }
    }
  }
}

/** Replaces each row of n elements of `x` by the solution of A y = row, or Aᵀ y = row; `a` is used up. */
export function solveSquare(a: Float64Array, n: number, x: Float64Array, transpose: boolean): void {
  if (nativeFactors(n)?.solve(a, n, x, transpose)) return;
  const order = factorWithPivots(a, n);
  const lower: Triangle = { lower: true, transpose, unitDiagonal: true };
  const upper: Triangle = { lower: false, transpose, unitDiagonal: false };
  const row = new Float64Array(n);
  // A is L U with the rows put in order: A y = b is L U y = b in that order; in the transpose, y is in that order.
  if (transpose) substitute(a, n, x, upper);
  for (let at = 0; at < x.length; at += n) {
    if (transpose) {
      row.set(x.subarray(at, at + n));
      substitute(a, n, row, lower);
      for (let i = 0; i < n; i++) x[at + order[i]!] = row[i]!;
    } else {
      for (let i = 0; i < n; i++) row[i] = x[at + order[i]!]!;
      substitute(a, n, row, lower);
      x.set(row, at);
    }
  }
  if (!transpose) substitute(a, n, x, upper);
}

/** Replaces the matrix by L below the diagonal and U from it on; returns which row of the matrix each row of L U is. */
function factorWithPivots(a: Float64Array, n: number): Int32Array {
  const order = new Int32Array(n).map((_, i) => i);
  for (let k = 0; k < n; k++) {
    let best = k;
    for (let i = k + 1; i < n; i++) if (Math.abs(a[i * n + k]!) > Math.abs(a[best * n + k]!)) best = i;
    if (best !== k) {
      [order[k], order[best]] = [order[best]!, order[k]!];
      for (let j = 0; j < n; j++) {
        const x = a[k * n + j]!;
        a[k * n + j] = a[best * n + j]!;
        a[best * n + j] = x;
      }
    }
    for (let i = k + 1; i < n; i++) {
      const factor = a[i * n + k]! / a[k * n + k]!;
      a[i * n + k] = factor;
      subtract(a, i * n + k + 1, factor, a, k * n + k + 1, n - k - 1);
    }
  }
  return order;
}

/**
 * The reduced QR factorization of a matrix of m >= n rows, given by its n columns, which are used up: `q` gets the n
 * columns of Q, `r` the rows of R, whose diagonal is not negative.
 */
export function qrFactor(
  columns: Float64Array,
  m: number,
  n: number,
  q: Float64Array,
  r: Float64Array,
): void {
  if (!nativeFactors(n)?.qr(columns, m, n, q, r)) reflectColumns(columns, m, n, q, r);
  for (let k = 0; k < n; k++) {
    if (r[k * n + k]! >= 0) continue;
    for (let j = k; j < n; j++) r[k * n + j]! *= -1;
    for (let i = 0; i < m; i++) q[k * m + i]! *= -1;
  }
}

/** Q R = A with a diagonal of any sign. */
function reflectColumns(columns: Float64Array, m: number, n: number, q: Float64Array, r: Float64Array): void {
  const halves = new Float64Array(n);
  for (let k = 0; k < n; k++) {
    const at = k * m + k;
    const length = makeReflection(columns, at, m - k, halves, k);
    r[k * n + k] = length;
    for (let j = k + 1; j < n; j++) {
      reflect(columns, j * m + k, columns, at, halves[k]!, m - k);
      r[k * n + j] = columns[j * m + k]!;
    }
  }
  q.fill(0);
  for (let c = 0; c < n; c++) {
    q[c * m + c] = 1;
    for (let k = c; k >= 0; k--) reflect(q, c * m + k, columns, k * m + k, halves[k]!, m - k);
  }
}

/**
 * Replaces a vector x of n elements by u of the reflection I - u uᵀ / h that makes all of x but its first element zero;
 * returns what the first element becomes, and keeps h, which is 0 where nothing is to do.
 */
function makeReflection(x: Float64Array, at: number, n: number, halves: Float64Array, k: number): number {
  let scale = 0;
  for (let i = 0; i < n; i++) scale = Math.max(scale, Math.abs(x[at + i]!));
  if (scale === 0) return 0;
  for (let i = 0; i < n; i++) x[at + i]! /= scale;
  const length = Math.sqrt(product(x, at, x, at, n));
  const first = x[at]! > 0 ? -length : length;
  halves[k] = length * (length + Math.abs(x[at]!)); // uᵀu / 2
  x[at]! -= first;
  return scale * first;
}

/** Applies a reflection to n elements of `y` from `j` on. */
function reflect(y: Float64Array, j: number, u: Float64Array, at: number, h: number, n: number): void {
  if (h !== 0) subtract(y, j, product(u, at, y, j, n) / h, u, at, n);
}
