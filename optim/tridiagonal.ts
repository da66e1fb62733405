/** Eigenvalues and eigenvectors of a small symmetric tridiagonal matrix, in float64 on the host. */

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
  // z[j] becomes the eigenvector of d[j]; rotations mix neighbouring rows.
  const z = Array.from({ length: m }, (_, i) => {
    const row = new Float64Array(m);
    row[i] = 1;
    return row;
  });
  for (let low = 0; low < m; low++) {
    for (let iteration = 0; ; iteration++) {
      let high = low;
      while (
        high < m - 1 &&
        Math.abs(e[high]!) > Number.EPSILON * (Math.abs(d[high]!) + Math.abs(d[high + 1]!))
      )
        high++;
      if (high === low) break;
      if (iteration === 60)
        throw new RangeError(
          `Cannot find eigenvalue ${low}: 60 iterations did not settle it, a matrix without extreme scales is needed`,
        );
      rotateBlock(d, e, z, low, high);
    }
  }
  const order = Array.from(d.keys()).sort((i, j) => d[i]! - d[j]!);
  return { values: order.map((i) => d[i]!), vectors: order.map((i) => z[i]!) };
}

/** One implicit QL step on the unreduced block [low, high], with Wilkinson's shift. */
function rotateBlock(
  d: Float64Array,
  e: Float64Array,
  z: readonly Float64Array[],
  low: number,
  high: number,
): void {
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
      return;
    }
    sine = f / r;
    cosine = g / r;
    const q = d[i + 1]! - shift;
    const s = (d[i]! - q) * sine + 2 * cosine * b;
    shift = sine * s;
    d[i + 1] = q + shift;
    g = cosine * s - b;
    const [lower, upper] = [z[i]!, z[i + 1]!];
    for (let k = 0; k < lower.length; k++) {
      const [x, y] = [lower[k]!, upper[k]!];
      upper[k] = sine * x + cosine * y;
      lower[k] = cosine * x - sine * y;
    }
  }
  d[low]! -= shift;
  e[low] = g;
  e[high] = 0;
}
