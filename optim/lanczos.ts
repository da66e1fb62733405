/**
 * Extreme eigenpairs of a symmetric operator by Lanczos with full reorthogonalization, in pieces: the same pieces run on
 * one machine here and on column shards in dist/, those of recurrence.ts. Where products are on a device the steps are those of krylov.ts.
 */
import type { LinearOperator } from "../autodiff/operator.ts";
import type { DType, TypedArray } from "../core/dtype.ts";
import { cast, matmul, reshape, slice } from "../core/ops.ts";
import * as random from "../core/random.ts";
import { adopt, placed } from "../core/trace.ts";
import { readable, Tensor, type Value } from "../core/value.ts";
import { krylov } from "./krylov.ts";
import {
  advance,
  beginning,
  combine,
  dot,
  exhausted,
  extend,
  type Floats,
  measure,
  newRow,
  place,
  type Recurrence,
  withoutOlder,
} from "./recurrence.ts";
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

/** A search on the host between two products: data. */
export interface HostSearch {
  readonly basis: readonly Float64Array[];
  readonly at: Recurrence;
  /** The vector of the next product, in the element type of products. */
  readonly candidate: Value;
  /** Whether all steps are made or no further basis vector exists; and whether it is the latter. */
  readonly isEnded: boolean;
  readonly breakdown: boolean;
}

/** A search before its first product. */
export function hostSearch(from: Pick<LanczosOptions, "start" | "key">, n: number, dtype: DType): HostSearch {
  const candidate = cast(adopt(startVector(from, n), [n], "float64"), dtype);
  return { basis: [], at: beginning, candidate, isEnded: false, breakdown: false };
}

/** The search after one more product. */
export function searchedFurther(
  { apply, dtype, size: n }: LinearOperator,
  order: number,
  { basis, at, candidate }: HostSearch,
): HostSearch {
  const u = new Float64Array(readable(candidate));
  const { recurrence, numbers } = place(at, measure(basis, u), dtype);
  const ended = { isEnded: true, breakdown: true };
  if (recurrence.isEnded) return { basis, at: recurrence, candidate, ...ended };
  const product = readable(apply(candidate)) as Floats;
  const { row, older } = newRow(basis, u, numbers);
  // The row as it travels between workers, so that a run of one worker has these bits.
  const sent = readable(cast(adopt(row, [n], "float64"), dtype)) as Floats;
  const next = advance(recurrence, new Float64Array(withoutOlder(product, older, 0, 1)), sent, dtype);
  const breakdown = next.recurrence.isEnded;
  return {
    basis: [...basis, row],
    at: next.recurrence,
    candidate: adopt(next.candidate, [n], dtype),
    isEnded: breakdown || basis.length + 1 >= order,
    breakdown,
  };
}

/** What a search that has ended has found. */
export function foundBy({ basis, at: { t }, breakdown }: HostSearch, k: number, l: number): Spectrum {
  const { values, rows, residuals, largest } = ritzPairs(t, k, l);
  const [pairs, n] = [values.length, basis[0]!.length];
  const vectors = new Float64Array(pairs * n);
  rows.forEach((row, j) => {
    vectors.set(combine(basis, row, n), j * n);
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

function lanczosOnHost(operator: LinearOperator, search: Search): Spectrum {
  const { k, l, order } = search;
  let at = hostSearch(search, operator.size, operator.dtype);
  while (!at.isEnded) at = searchedFurther(operator, order, at);
  return foundBy(at, k, l);
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

// --- pieces ------------------------------------------------------------------------------------------------------

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

export function norm(x: Float64Array): number {
  return Math.sqrt(dot(x, x));
}

function scaled(x: Float64Array, c: number): Float64Array<ArrayBuffer> {
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
