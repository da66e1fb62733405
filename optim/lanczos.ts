/**
 * Extreme eigenpairs of a symmetric operator by Lanczos with full reorthogonalization, in pieces: the same pieces run on
 * one machine here and on column shards in dist/. Where products are on a device the steps are those of krylov.ts.
 */
import type { LinearOperator } from "../autodiff/operator.ts";
import type { DType, TypedArray } from "../core/dtype.ts";
import { cast, matmul, reshape, slice } from "../core/ops.ts";
import * as random from "../core/random.ts";
import { adopt, placed } from "../core/trace.ts";
import { Tensor, type Value } from "../core/value.ts";
import { krylov } from "./krylov.ts";
import { type Tridiagonal, tridiagonalEigen } from "./tridiagonal.ts";

/**
 * Approximate eigenpairs: the `l` smallest ascending, then the `k` largest ascending.
 *
 * @since 0.1.0
 */
export interface Spectrum {
  /** Ritz values; f64[pairs]. */
  readonly values: Tensor;
  /** Unit Ritz vectors as rows; f64[pairs, n], on a device f32[pairs, n]. */
  readonly vectors: Value;
  /** Estimates of |H v - value v| from the recurrence; f64[pairs]. */
  readonly residuals: Tensor;
  /** How many of the pairs, counted from the end, are of the largest eigenvalues. */
  readonly largest: number;
  readonly tridiagonal: Tridiagonal;
  /** Whether the Krylov space was exhausted before `order` steps; the values are then exact for it. */
  readonly breakdown: boolean;
}

/**
 * Which eigenpairs, how many steps, and where to start.
 *
 * @since 0.1.0
 */
export interface LanczosOptions {
  /** How many of the largest eigenvalues. */
  readonly k: number;
  /** How many of the smallest; default 0. */
  readonly l?: number;
  /** Steps; default `max(4 (k + l), 2 ln n)`, never more than n. */
  readonly order?: number;
  /** Where to start: a vector [n], or a key to draw one from. */
  readonly start?: Value;
  readonly key?: Value;
}

/**
 * Below this fraction of the largest element of T a new basis vector is rounding noise of the products, and the space is
 * exhausted: about 8 units in the last place of float32, far above those of float64.
 */
export function breakdownTolerance(dtype: DType): number {
  return dtype === "float64" ? 1e-10 : 1e-6;
}

/**
 * Steps of Lanczos: `max(4 (k + l), 2 ln n)`, capped at n.
 *
 * Shapes: counts.
 * @example Many more steps than pairs
 * ```ts
 * assert(ct.optim.lanczosOrder(5, 0, 1000) === 20);
 * ```
 * @since 0.1.0
 */
export function lanczosOrder(k: number, l: number, n: number): number {
  return Math.min(n, Math.max(4 * (k + l), Math.ceil(2 * Math.log(n))));
}

/**
 * Extreme eigenpairs of a symmetric operator.
 *
 * Products run in the operator's element type, the basis and the tridiagonal matrix in float64 on the host; every new
 * vector is orthogonalized against all others twice. Cost: `order` products and about 8 order² n flops. Where the
 * operator's products are on a device, the basis stays there in their element type, and one read of 2 order numbers at
 * the end is all that the host waits for. Of an eigenvalue with several eigenvectors it finds one, as every method of
 * one start vector does.
 *
 * Shapes: values `f64[pairs]`, vectors `f64[pairs, n]`, residuals `f64[pairs]`; pairs is k + l or less after a breakdown.
 * Units: those of the operator.
 * Determinism: the same bits for the same operator and start.
 *
 * @throws {RangeError} if the sizes do not fit, neither start nor key is given, or a product is not finite
 * @throws {DeviceError} if products are on a device that the host cannot wait for; `lanczosAsync` works there too
 * @source Lanczos 1950; Sivan, Gabel & Schuster 2024, "FOSI" (the extreme spectrum estimate)
 * @example A diagonal matrix
 * ```ts
 * const H = ct.operator.hessianOperator(
 *   (x: ct.Value) => x.mul(x).mul(ct.tensor([0.5, 1, 4.5])).sum(), ct.tensor([0, 0, 0]));
 * const spectrum = ct.optim.lanczos(H, { k: 1, key: ct.random.key(0) });
 * assertClose(spectrum.values, [9], 1e-5);
 * ```
 * @since 0.1.0
 */
export function lanczos(operator: LinearOperator, options: LanczosOptions): Spectrum {
  const search = searchOf(operator, options);
  if (!isOnDevice(operator)) return lanczosOnHost(operator, search);
  const { table, spectrum } = lanczosOnDevice(operator, search);
  return spectrum(table.dataSync());
}

/**
 * The same where the host cannot wait for a device, as in Deno and in browsers: it reads when the device has computed.
 *
 * Shapes: as `lanczos`.
 * Units: those of the operator.
 * Determinism: the bits of `lanczos`.
 *
 * @throws {RangeError} as `lanczos`
 * @example A diagonal matrix
 * ```ts
 * const H = ct.operator.hessianOperator(
 *   (x: ct.Value) => x.mul(x).mul(ct.tensor([0.5, 1, 4.5])).sum(), ct.tensor([0, 0, 0]));
 * const spectrum = await ct.optim.lanczosAsync(H, { k: 1, key: ct.random.key(0) });
 * assertClose(spectrum.values, [9], 1e-5);
 * ```
 * @since 0.3.0
 */
export async function lanczosAsync(operator: LinearOperator, options: LanczosOptions): Promise<Spectrum> {
  const search = searchOf(operator, options);
  if (!isOnDevice(operator)) return lanczosOnHost(operator, search);
  const { table, spectrum } = lanczosOnDevice(operator, search);
  return spectrum(await table.data());
}

/** What is looked for, checked. */
interface Search extends Pick<LanczosOptions, "start" | "key"> {
  readonly k: number;
  readonly l: number;
  readonly order: number;
}

function searchOf({ size: n }: LinearOperator, options: LanczosOptions): Search {
  const { k, l = 0, order = lanczosOrder(k, l, n) } = options;
  checkSizes(k, l, order, n);
  return { ...options, k, l, order: Math.min(order, n) };
}

function isOnDevice({ device = "cpu" }: LinearOperator): boolean {
  return device !== "cpu";
}

function lanczosOnHost(operator: LinearOperator, search: Search): Spectrum {
  const n = operator.size;
  const basis: Float64Array[] = [];
  let t: Tridiagonal = { diagonal: [], offDiagonal: [] };
  let v = startVector(search, n);
  for (;;) {
    basis.push(v);
    let w = new Float64Array(operator.apply(cast(adopt(v, [n], "float64"), operator.dtype)).dataSync());
    const alpha = dot(w, v);
    w = subtractProjection(basis, coefficients(basis, w), w);
    w = subtractProjection(basis, coefficients(basis, w), w);
    const beta = norm(w);
    t = extend(t, alpha, beta);
    const breakdown = exhausted(t, operator.dtype);
    if (breakdown || basis.length >= search.order) return assemble(t, basis, { ...search, n, breakdown });
    v = scaled(w, 1 / beta);
  }
}

/** All steps, and what to make of their table once it is read. */
function lanczosOnDevice(
  operator: LinearOperator,
  search: Search,
): { readonly table: Value; spectrum(table: TypedArray): Spectrum } {
  const { size: n, dtype } = operator;
  const { k, l, order } = search;
  const { basis, table } = krylov(operator, startOnDevice(operator, search), order);
  return {
    table,
    spectrum(rows) {
      checkNorm(rows[0]!);
      let t: Tridiagonal = { diagonal: [], offDiagonal: [] };
      let breakdown = false;
      for (let j = 1; j <= order && !breakdown; j++) {
        t = extend(t, rows[2 * j]!, rows[2 * j + 1]!);
        breakdown = exhausted(t, dtype);
      }
      const steps = t.diagonal.length;
      const { values, rows: chosen, residuals, largest } = ritzPairs(t, k, l);
      const coefficients = new Float64Array(chosen.length * steps);
      chosen.forEach((row, j) => {
        coefficients.set(row, j * steps);
      });
      return {
        values: vectorOf(values),
        // The steps after a breakdown have left noise in the rows below.
        vectors: matmul(
          cast(adopt(coefficients, [chosen.length, steps], "float64"), dtype),
          slice(basis, [0, 0], [steps, n]),
        ),
        residuals: vectorOf(residuals),
        largest,
        tridiagonal: t,
        breakdown,
      };
    },
  };
}

function assemble(
  t: Tridiagonal,
  basis: readonly Float64Array[],
  found: { readonly k: number; readonly l: number; readonly n: number; readonly breakdown: boolean },
): Spectrum {
  const { k, l, n, breakdown } = found;
  const { values, rows, residuals, largest } = ritzPairs(t, k, l);
  const pairs = values.length;
  const vectors = new Float64Array(pairs * n);
  rows.forEach((row, j) => {
    vectors.set(combine(basis, row), j * n);
  });
  return {
    values: vectorOf(values),
    vectors: adopt(vectors, [pairs, n], "float64"),
    residuals: vectorOf(residuals),
    largest,
    tridiagonal: t,
    breakdown,
  };
}

// --- pieces ------------------------------------------------------------------------------------------------------

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

/** Chosen eigenpairs of T: row j holds the coefficients of Ritz vector j in the basis. */
export interface Ritz {
  readonly values: readonly number[];
  readonly rows: readonly Float64Array[];
  readonly residuals: readonly number[];
  readonly largest: number;
}

/** The l smallest and k largest eigenpairs of T. `offDiagonal` may hold the norm that remained after the last step. */
export function ritzPairs(t: Tridiagonal, k: number, l: number): Ritz {
  const m = t.diagonal.length;
  const remaining = t.offDiagonal[m - 1] ?? 0;
  const { values, vectors } = tridiagonalEigen({
    diagonal: t.diagonal,
    offDiagonal: t.offDiagonal.slice(0, m - 1),
  });
  const largest = Math.min(k, m);
  const smallest = Math.min(l, m - largest);
  const chosen = [...values.keys()].filter((j) => j < smallest || j >= m - largest);
  return {
    values: chosen.map((j) => values[j]!),
    rows: chosen.map((j) => vectors[j]!),
    residuals: chosen.map((j) => Math.abs(remaining * vectors[j]![m - 1]!)),
    largest,
  };
}

/** Q w: one coefficient per basis vector. On a column shard: the shard's part of each. */
export function coefficients(basis: readonly Float64Array[], w: Float64Array): Float64Array {
  const h = new Float64Array(basis.length);
  for (let j = 0; j + 1 < basis.length; j += 2) dotPair(basis[j]!, basis[j + 1]!, w, h, j);
  if (basis.length % 2 === 1) h[basis.length - 1] = dot(basis.at(-1)!, w);
  return h;
}

/** Two products at once: an addition waits for the one before it, and so there are two to wait for. */
function dotPair(p: Float64Array, q: Float64Array, w: Float64Array, h: Float64Array, j: number): void {
  let s = 0;
  let t = 0;
  for (let i = 0; i < w.length; i++) {
    const x = w[i]!;
    s += p[i]! * x;
    t += q[i]! * x;
  }
  h[j] = s;
  h[j + 1] = t;
}

/** w - Qᵀ h. */
export function subtractProjection(
  basis: readonly Float64Array[],
  h: Float64Array,
  w: Float64Array,
): Float64Array<ArrayBuffer> {
  const out = w.slice();
  basis.forEach((q, j) => {
    subtract(out, q, h[j]!);
  });
  return out;
}

/** A function of its own: compilers see one loop, not one for each caller. */
function subtract(out: Float64Array, q: Float64Array, c: number): void {
  for (let i = 0; i < out.length; i++) out[i] = out[i]! - c * q[i]!;
}

/** Sum over basis vectors of row[j] q_j. */
export function combine(basis: readonly Float64Array[], row: Float64Array): Float64Array<ArrayBuffer> {
  return subtractProjection(basis, scaled(row, -1), new Float64Array(basis[0]!.length));
}

export function dot(x: Float64Array, y: Float64Array): number {
  let sum = 0;
  for (let i = 0; i < x.length; i++) sum += x[i]! * y[i]!;
  return sum;
}

export function norm(x: Float64Array): number {
  return Math.sqrt(dot(x, x));
}

export function scaled(x: Float64Array, c: number): Float64Array<ArrayBuffer> {
  const out = new Float64Array(x.length);
  for (let i = 0; i < x.length; i++) out[i] = c * x[i]!;
  return out;
}

/** A unit vector from a given one or from a key. */
export function startVector(
  options: Pick<LanczosOptions, "start" | "key">,
  n: number,
): Float64Array<ArrayBuffer> {
  const raw = Float64Array.from(startOf(options, n, (key) => key).dataSync());
  const length = norm(raw);
  checkNorm(length);
  return scaled(raw, 1 / length);
}

/** A vector to start from where the products are; its length is looked at when the host reads. */
function startOnDevice({ size: n, dtype, device }: LinearOperator, options: Search): Value {
  const there = (x: Value): Value => (x instanceof Tensor ? placed(x, device) : x);
  const start = there(cast(startOf(options, n, there), dtype));
  return reshape(start, [n]);
}

/** The start vector that was given, or one drawn from the key. */
function startOf(
  { start, key }: Pick<LanczosOptions, "start" | "key">,
  n: number,
  place: (key: Value) => Value,
): Value {
  if (!start && !key)
    throw new RangeError(
      "Cannot start Lanczos: neither a start vector nor a key is given, one of them is needed",
    );
  if (start && start.size !== n) {
    throw new RangeError(
      `Cannot start Lanczos: the start vector has ${start.size} elements, ${n} elements are needed`,
    );
  }
  return start ?? random.normal(place(key!), [n]);
}

function checkNorm(length: number): void {
  if (length > 0 && Number.isFinite(length)) return;
  throw new RangeError(
    `Cannot start Lanczos: the start vector has norm ${length}, a finite positive norm is needed`,
  );
}

function vectorOf(numbers: readonly number[]): Tensor {
  return adopt(Float64Array.from(numbers), [numbers.length], "float64");
}

function checkSizes(k: number, l: number, order: number, n: number): void {
  const whole = [k, l, order].every((x) => Number.isInteger(x) && x >= 0);
  if (!whole || k + l < 1 || k + l > n || order < k + l) {
    throw new RangeError(
      `Cannot run Lanczos: k is ${k}, l is ${l}, order is ${order} for ${n} rows, 1 <= k + l <= order and k + l <= rows are needed`,
    );
  }
}
