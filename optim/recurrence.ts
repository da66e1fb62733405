/**
 * Lanczos with full reorthogonalization in two exchanges a step: the same pieces run on one machine and on column shards
 * in dist/. The basis Q has the unit rows q_0 ... q_{j-1}. The vector of the next product, the candidate u, is known whole before
 * it is orthogonal to them:
 *
 *     s = Q u,  r = |u - Qᵀ s|                                 sums over columns
 *     q_j = (u - Qᵀ s) / r,  w = H u - Qᵀ T (s, r)             in columns, once s is known
 *     w <- w - (q_j · w) q_j,  u <- w / |w|                    whole
 *
 * So the first pass of orthogonalization is by what T says of the product, the second by what is measured of the candidate. All that s
 * holds is the rounding of one product: what u has inside the space has no part in the next candidate, and does not grow.
 */
import type { DType } from "../core/dtype.ts";
import type { Tridiagonal } from "./tridiagonal.ts";

/** Elements of vectors as products are made of them. */
export type Floats = Float64Array<ArrayBuffer> | Float32Array<ArrayBuffer>;

/** What is known of T and of the candidate. */
export interface Recurrence {
  /** Until the candidate is measured, the last norm counts what it has inside the space too. */
  readonly t: Tridiagonal;
  /** The candidate along the newest row, and the norm of what it has outside of all rows. */
  readonly along: number;
  readonly outside: number;
  /** Whether no further row exists. */
  readonly isEnded: boolean;
}

/** No rows, and a unit vector to start from. */
export const beginning: Recurrence = {
  t: { diagonal: [], offDiagonal: [] },
  along: 0,
  outside: 1,
  isEnded: false,
};

/** Below this norm of what a unit candidate has outside of all rows it is rounding noise of the product. */
const NOISE = 0.1;

/**
 * Below this fraction of the largest element of T a new basis vector is rounding noise of the products, and the space is
 * exhausted: about 8 units in the last place of float32, far above those of float64.
 */
function breakdownTolerance(dtype: DType): number {
  return dtype === "float64" ? 1e-10 : 1e-6;
}

/** The matrix with one more row: its diagonal element and the norm of what remained of the product. */
export function extend(t: Tridiagonal, alpha: number, beta: number): Tridiagonal {
  if (!Number.isFinite(alpha) || !Number.isFinite(beta)) {
    throw new RangeError(
      `Cannot continue Lanczos at step ${t.diagonal.length}: a Hessian-vector product is not finite, finite ones are needed; lower the learning rate or check the loss`,
    );
  }
  return { diagonal: [...t.diagonal, alpha], offDiagonal: [...t.offDiagonal, beta] };
}

/** Whether the last remaining norm is rounding noise of products in `dtype`: no further basis vector exists. */
export function exhausted(t: Tridiagonal, dtype: DType): boolean {
  const largest = Math.max(...t.diagonal.map(Math.abs), ...t.offDiagonal);
  return t.offDiagonal.at(-1)! <= breakdownTolerance(dtype) * largest;
}

// --- of a candidate ----------------------------------------------------------------------------------------------

/** Q u and u · u, of all columns or of a shard's. */
export function measure(basis: readonly Float64Array[], u: Float64Array): Float64Array<ArrayBuffer> {
  const rows = basis.length;
  const measured = new Float64Array(rows + 1);
  let j = 0;
  for (; j + 3 < rows; j += 4) dotFour(basis, j, u, measured);
  for (; j < rows; j++) measured[j] = dot(basis[j]!, u);
  measured[rows] = dot(u, u);
  return measured;
}

/**
 * What the sums over all columns say: T up to the candidate, and the numbers from which every shard makes its columns of
 * the new row: `s`, then `T (s, r)` of the rows that are there, then `r`.
 */
export function place(
  at: Recurrence,
  measured: Float64Array,
  dtype: DType,
): { readonly recurrence: Recurrence; readonly numbers: Float64Array<ArrayBuffer> } {
  const rows = measured.length - 1;
  let inside = 0;
  for (let i = 0; i < rows; i++) inside += measured[i]! ** 2;
  const outside = Math.sqrt(Math.max(0, measured[rows]! - inside));
  const { diagonal } = at.t;
  const offDiagonal = at.t.offDiagonal.map((beta, i) => (i === rows - 1 ? beta * outside : beta));
  const t: Tridiagonal = { diagonal, offDiagonal };
  const isEnded = rows > 0 && (outside < NOISE || exhausted(t, dtype));
  const numbers = new Float64Array(2 * rows + 1);
  for (let i = 0; i < rows; i++) {
    const above = i > 0 ? offDiagonal[i - 1]! * measured[i - 1]! : 0;
    const below = offDiagonal[i]! * (i + 1 < rows ? measured[i + 1]! : outside);
    numbers[i] = measured[i]!;
    numbers[rows + i] = above + diagonal[i]! * measured[i]! + below;
  }
  // Nobody needs a row that is noise: anything finite will do.
  numbers[2 * rows] = isEnded ? 1 : outside;
  return { recurrence: { t, along: rows > 0 ? measured[rows - 1]! : 0, outside, isEnded }, numbers };
}

/** The columns of the new row, (u - Qᵀ s) / r, and those of Qᵀ T (s, r), from the numbers of `place`. */
export function newRow(
  basis: readonly Float64Array[],
  u: Float64Array,
  numbers: Float64Array,
): { readonly row: Float64Array<ArrayBuffer>; readonly older: Float64Array<ArrayBuffer> } {
  const rows = basis.length;
  const row = new Float64Array(u.length);
  const older = new Float64Array(u.length);
  let j = 0;
  for (; j + 1 < rows; j += 2) addPair(row, older, basis, j, numbers);
  if (j < rows) {
    addOne(row, basis[j]!, numbers[j]!);
    addOne(older, basis[j]!, numbers[rows + j]!);
  }
  const scale = 1 / numbers[2 * rows]!;
  for (let i = 0; i < row.length; i++) row[i] = scale * (u[i]! - row[i]!);
  return { row, older };
}

/** The product with its columns from `start` less `share` times what it has along older rows. */
export function withoutOlder(product: Floats, older: Float64Array, start: number, share: number): Floats {
  const rest = product.slice();
  for (let i = 0; i < older.length; i++) rest[start + i] = rest[start + i]! - share * older[i]!;
  return rest;
}

/**
 * T with one more row, and the next candidate: what the product without older rows leaves without the newest. The product
 * is overwritten.
 */
export function advance(
  at: Recurrence,
  product: Float64Array<ArrayBuffer>,
  row: Floats,
  dtype: DType,
): { readonly recurrence: Recurrence; readonly candidate: Floats } {
  const along = dotOf(product, row);
  const left = Math.sqrt(removed(product, along, row));
  // The product is of u = Qᵀ s + r q_j: along q_j it has beta s of the row before, and r alpha.
  const before = at.along * (at.t.offDiagonal.at(-1) ?? 0);
  const t = extend(at.t, (along - before) / at.outside, left / at.outside);
  const isEnded = exhausted(t, dtype);
  const candidate = dtype === "float64" ? product : new Float32Array(product.length);
  if (!isEnded) for (let i = 0; i < candidate.length; i++) candidate[i] = product[i]! / left;
  return { recurrence: { ...at, t, isEnded }, candidate };
}

// --- loops -------------------------------------------------------------------------------------------------------

/** Sum over basis vectors of row[j] q_j. */
export function combine(
  basis: readonly Float64Array[],
  row: Float64Array,
  width: number,
): Float64Array<ArrayBuffer> {
  const out = new Float64Array(width);
  let j = 0;
  for (; j + 1 < row.length; j += 2) addTwo(out, basis[j]!, row[j]!, basis[j + 1]!, row[j + 1]!);
  if (j < row.length) addOne(out, basis[j]!, row[j]!);
  return out;
}

/** Functions of their own: compilers see one loop, not one for each caller. */
function addOne(out: Float64Array, q: Float64Array, c: number): void {
  for (let i = 0; i < out.length; i++) out[i] = out[i]! + c * q[i]!;
}

function addTwo(out: Float64Array, p: Float64Array, a: number, q: Float64Array, b: number): void {
  for (let i = 0; i < out.length; i++) out[i] = out[i]! + (a * p[i]! + b * q[i]!);
}

/** Two sums of the same rows, two rows at once: reading the basis is what a step takes beside its product. */
function addPair(
  inside: Float64Array,
  older: Float64Array,
  basis: readonly Float64Array[],
  j: number,
  numbers: Float64Array,
): void {
  const rows = basis.length;
  const p = basis[j]!;
  const q = basis[j + 1]!;
  const a = numbers[j]!;
  const b = numbers[j + 1]!;
  const c = numbers[rows + j]!;
  const d = numbers[rows + j + 1]!;
  for (let i = 0; i < inside.length; i++) {
    const x = p[i]!;
    const y = q[i]!;
    inside[i] = inside[i]! + (a * x + b * y);
    older[i] = older[i]! + (c * x + d * y);
  }
}

/** Four products at once: an addition waits for the one before it, and so there are four to wait for. */
function dotFour(basis: readonly Float64Array[], j: number, u: Float64Array, out: Float64Array): void {
  const o = basis[j]!;
  const p = basis[j + 1]!;
  const q = basis[j + 2]!;
  const r = basis[j + 3]!;
  let a = 0;
  let b = 0;
  let c = 0;
  let d = 0;
  for (let i = 0; i < u.length; i++) {
    const x = u[i]!;
    a += o[i]! * x;
    b += p[i]! * x;
    c += q[i]! * x;
    d += r[i]! * x;
  }
  out[j] = a;
  out[j + 1] = b;
  out[j + 2] = c;
  out[j + 3] = d;
}

/** x -= c y; what is left, squared. */
function removed(x: Float64Array, c: number, y: Floats): number {
  let square = 0;
  for (let i = 0; i < x.length; i++) {
    const rest = x[i]! - c * y[i]!;
    x[i] = rest;
    square += rest * rest;
  }
  return square;
}

/** The product of a vector with one that may be in float32. */
function dotOf(x: Float64Array, y: Floats): number {
  let sum = 0;
  for (let i = 0; i < x.length; i++) sum += x[i]! * y[i]!;
  return sum;
}

export function dot(x: Float64Array, y: Float64Array): number {
  let sum = 0;
  for (let i = 0; i < x.length; i++) sum += x[i]! * y[i]!;
  return sum;
}
