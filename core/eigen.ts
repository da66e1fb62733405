/** Eigenvalues and eigenvectors of symmetric matrices, in float64 on the host. */
import { nativeFactors } from "./factor.ts";

/**
 * Replaces `values` by the eigenvalues of a symmetric tridiagonal matrix, in no order, by QL iterations with implicit
 * shifts; `couplings` is used up. Row i of `rows`, which are as long as `length`, becomes the sum of the rows weighted by
 * the unit eigenvector of `values[i]`: of the unit matrix, the eigenvector itself.
 * Returns -1, or the first eigenvalue that 60 iterations did not settle.
 */
export function settleTridiagonal(
  values: Float64Array,
  couplings: Float64Array,
  rows: Float64Array,
  length: number,
): number {
  const m = values.length;
  const [sines, cosines] = [new Float64Array(m), new Float64Array(m)];
  for (let low = 0; low < m; low++) {
    for (let iteration = 0; ; iteration++) {
      let high = low;
      while (
        high < m - 1 &&
        Math.abs(couplings[high]!) > Number.EPSILON * (Math.abs(values[high]!) + Math.abs(values[high + 1]!))
      )
        high++;
      if (high === low) break;
      if (iteration === 60) return low;
      const from = qlStep(values, couplings, low, high, sines, cosines);
      applyRotations(rows, length, from, high, sines, cosines);
    }
  }
  return -1;
}

/**
 * One implicit QL step on the unreduced block [low, high], with Wilkinson's shift. Rotation i is of rows i and i + 1; they
 * are to be applied from `high - 1` down to the one that is returned.
 */
function qlStep(
  d: Float64Array,
  e: Float64Array,
  low: number,
  high: number,
  sines: Float64Array,
  cosines: Float64Array,
): number {
  const half = (d[low + 1]! - d[low]!) / (2 * e[low]!);
  let g = d[high]! - d[low]! + e[low]! / (half + Math.sign(half || 1) * Math.hypot(half, 1));
  let [sine, cosine, shift] = [1, 1, 0];
  for (let i = high - 1; i >= low; i--) {
    const f = sine * e[i]!;
    const b = cosine * e[i]!;
    const r = Math.hypot(f, g);
    e[i + 1] = r;
    if (r === 0) {
      d[i + 1]! -= shift;
      e[high] = 0;
      return i + 1;
    }
    sine = f / r;
    cosine = g / r;
    const q = d[i + 1]! - shift;
    const s = (d[i]! - q) * sine + 2 * cosine * b;
    shift = sine * s;
    d[i + 1] = q + shift;
    g = cosine * s - b;
    sines[i] = sine;
    cosines[i] = cosine;
  }
  d[low]! -= shift;
  e[low] = g;
  e[high] = 0;
  return low;
}

/** Applies the rotations of a step, from the last row up; two at a time, so that the row they share is read once. */
function applyRotations(
  rows: Float64Array,
  length: number,
  low: number,
  high: number,
  sines: Float64Array,
  cosines: Float64Array,
): void {
  let i = high - 1;
  for (; i > low; i -= 2) {
    rotateThree(rows, i * length, length, sines[i]!, cosines[i]!, sines[i - 1]!, cosines[i - 1]!);
  }
  if (i === low) rotateTwo(rows, i * length, length, sines[i]!, cosines[i]!);
}

/** Rotates the row at x and the next one. */
function rotateTwo(rows: Float64Array, x: number, length: number, s: number, c: number): void {
  const y = x + length;
  for (let k = 0; k < length; k++) {
    const xk = rows[x + k]!;
    const yk = rows[y + k]!;
    rows[y + k] = s * xk + c * yk;
    rows[x + k] = c * xk - s * yk;
  }
}

/** Rotates the row at x and the next one, then the row before x and the row at x. */
function rotateThree(
  rows: Float64Array,
  x: number,
  length: number,
  s: number,
  c: number,
  s2: number,
  c2: number,
): void {
  const w = x - length;
  const y = x + length;
  for (let k = 0; k < length; k++) {
    const wk = rows[w + k]!;
    const xk = rows[x + k]!;
    const yk = rows[y + k]!;
    const between = c * xk - s * yk;
    rows[y + k] = s * xk + c * yk;
    rows[x + k] = s2 * wk + c2 * between;
    rows[w + k] = c2 * wk - s2 * between;
  }
}

/**
 * Eigenvalues in ascending order, and the unit eigenvectors as rows, each with its largest component positive (of equal
 * ones the first), of the symmetric matrix whose lower triangle is in `a`, which is used up. NaN everywhere where an
 * element is not finite.
 *
 * Householder 1958, "Unitary triangularization"; Bowdler, Martin, Reinsch & Wilkinson 1968, "The QR and QL algorithms".
 */
export function symmetricEigen(
  a: Float64Array,
  n: number,
): { readonly values: Float64Array; readonly vectors: Float64Array } {
  const values = new Float64Array(n);
  const vectors = new Float64Array(n * n);
  const rows = new Float64Array(n * n);
  if (!a.every(Number.isFinite)) values.fill(Number.NaN);
  else if (!nativeFactors(n)?.eigen(a, n, values, rows)) {
    const couplings = new Float64Array(n);
    const halves = new Float64Array(n);
    tridiagonalize(a, n, values, couplings, halves);
    accumulateReflections(a, n, halves, rows);
    if (settleTridiagonal(values, couplings, rows, n) >= 0) values.fill(Number.NaN);
  }
  const order = Array.from(values.keys()).sort((i, j) => values[i]! - values[j]!);
  order.forEach((from, to) => {
    copyWithSign(rows.subarray(from * n, (from + 1) * n), vectors.subarray(to * n, (to + 1) * n));
  });
  if (n > 0 && Number.isNaN(values[0])) vectors.fill(Number.NaN);
  return { values: Float64Array.from(order, (i) => values[i]!), vectors };
}

/** The vector, or its opposite if the first of its largest components is negative. */
function copyWithSign(from: Float64Array, to: Float64Array): void {
  let largest = 0;
  for (let k = 0; k < from.length; k++) largest = Math.max(largest, Math.abs(from[k]!));
  // Equal components differ by rounding.
  const at = from.findIndex((x) => Math.abs(x) >= largest * (1 - 1e-8));
  const sign = from[at]! < 0 ? -1 : 1;
  for (let k = 0; k < from.length; k++) to[k] = sign * from[k]!;
}

/**
 * Reduces the matrix to tridiagonal form by reflections I - u uᵀ / h, from the last row up. Row i keeps in its first i
 * elements the vector u that made its first i - 1 elements zero, `halves[i]` keeps h, or 0 where nothing was to do.
 */
function tridiagonalize(
  a: Float64Array,
  n: number,
  diagonal: Float64Array,
  couplings: Float64Array,
  halves: Float64Array,
): void {
  const q = new Float64Array(n);
  for (let i = n - 1; i >= 0; i--) {
    const row = i * n;
    diagonal[i] = a[row + i]!;
    if (i === 0) break;
    let scale = 0;
    for (let k = 0; k < i - 1; k++) scale = Math.max(scale, Math.abs(a[row + k]!));
    if (scale === 0) {
      couplings[i - 1] = a[row + i - 1]!;
      halves[i] = 0;
      continue;
    }
    scale = Math.max(scale, Math.abs(a[row + i - 1]!));
    let square = 0;
    for (let k = 0; k < i; k++) {
      a[row + k]! /= scale;
      square += a[row + k]! * a[row + k]!;
    }
    const last = a[row + i - 1]!;
    const length = last > 0 ? -Math.sqrt(square) : Math.sqrt(square);
    couplings[i - 1] = scale * length;
    const h = square - last * length; // uᵀu / 2
    a[row + i - 1] = last - length;
    halves[i] = h;
    // A <- A - u qᵀ - q uᵀ with p = A u / h, q = p - (uᵀp / 2h) u
    multiplySymmetric(a, n, i, row, q);
    let product = 0;
    for (let k = 0; k < i; k++) {
      q[k]! /= h;
      product += q[k]! * a[row + k]!;
    }
    const half = product / (2 * h);
    for (let k = 0; k < i; k++) q[k]! -= half * a[row + k]!;
    for (let j = 0; j < i; j++) {
      const at = j * n;
      const [uj, qj] = [a[row + j]!, q[j]!];
      for (let k = 0; k <= j; k++) a[at + k]! -= uj * q[k]! + qj * a[row + k]!;
    }
  }
}

/** p = A u for the leading m rows and columns, of which the lower triangle is read; u begins at `from` in the same array. */
function multiplySymmetric(a: Float64Array, n: number, m: number, from: number, p: Float64Array): void {
  p.fill(0, 0, m);
  let j = 0;
  // Four rows per pass: what is read of u and p serves all four.
  for (; j + 4 <= m; j += 4) {
    const r0 = j * n;
    const r1 = r0 + n;
    const r2 = r1 + n;
    const r3 = r2 + n;
    const [u0, u1, u2, u3] = [a[from + j]!, a[from + j + 1]!, a[from + j + 2]!, a[from + j + 3]!];
    let [s0, s1, s2, s3] = [0, 0, 0, 0];
    for (let k = 0; k < j; k++) {
      const uk = a[from + k]!;
      const x0 = a[r0 + k]!;
      const x1 = a[r1 + k]!;
      const x2 = a[r2 + k]!;
      const x3 = a[r3 + k]!;
      s0 += x0 * uk;
      s1 += x1 * uk;
      s2 += x2 * uk;
      s3 += x3 * uk;
      p[k]! += x0 * u0 + x1 * u1 + (x2 * u2 + x3 * u3);
    }
    p[j] = s0;
    p[j + 1] = s1;
    p[j + 2] = s2;
    p[j + 3] = s3;
    for (let i = j; i < j + 4; i++) multiplyRow(a, i * n, from, i, j, p);
  }
  for (; j < m; j++) multiplyRow(a, j * n, from, j, 0, p);
}

/** Adds what row j of the lower triangle has from column `start` on to p = A u. */
function multiplyRow(
  a: Float64Array,
  row: number,
  from: number,
  j: number,
  start: number,
  p: Float64Array,
): void {
  const uj = a[from + j]!;
  let sum = a[row + j]! * uj;
  for (let k = start; k < j; k++) {
    sum += a[row + k]! * a[from + k]!;
    p[k]! += a[row + k]! * uj;
  }
  p[j]! += sum;
}

/** The transpose of the product of the reflections, the last row's first: P(1) P(2) ... P(n - 1), rows contiguous. */
function accumulateReflections(a: Float64Array, n: number, halves: Float64Array, out: Float64Array): void {
  for (let i = 0; i < n; i++) out[i * n + i] = 1;
  for (let i = 1; i < n; i++) {
    const h = halves[i]!;
    if (h === 0) continue;
    const u = i * n;
    for (let r = 0; r < i; r++) {
      const row = r * n;
      let [s0, s1, s2, s3] = [0, 0, 0, 0];
      let k = 0;
      for (; k + 4 <= i; k += 4) {
        s0 += out[row + k]! * a[u + k]!;
        s1 += out[row + k + 1]! * a[u + k + 1]!;
        s2 += out[row + k + 2]! * a[u + k + 2]!;
        s3 += out[row + k + 3]! * a[u + k + 3]!;
      }
      for (; k < i; k++) s0 += out[row + k]! * a[u + k]!;
      const s = (s0 + s1 + (s2 + s3)) / h;
      for (k = 0; k < i; k++) out[row + k]! -= s * a[u + k]!;
    }
  }
}
