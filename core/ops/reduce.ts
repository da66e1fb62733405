/** Reductions: functions of all elements along axes. */
import { isFloat } from "../dtype.ts";
import { ShapeError } from "../errors.ts";
import { sumAxes } from "../prims/movement.ts";
import * as p from "../prims/reduce.ts";
import { normalizeAxes, normalizeAxis } from "../shape.ts";
import type { ArgOptions, AxesOption, AxisOption, AxisOptions, Value } from "../value.ts";
import { add, div, equal, exp, isFiniteValue, log, mul, sqrt, stopGradient, sub, where } from "./math.ts";
import { cast, reshape } from "./shape.ts";

/** Runs a reduction over resolved axes and keeps them with size 1 on request. */
function reduce(
  op: string,
  f: (x: Value, axes: readonly number[]) => Value,
  x: Value,
  { axis, keepDims = false }: AxisOptions,
): Value {
  const axes = normalizeAxes(axis, x.ndim, op);
  const out = axes.length === 0 ? x : f(x, axes);
  return keepDims ? reshape(out, keptShape(x, axes)) : out;
}

function keptShape(x: Value, axes: readonly number[]): number[] {
  return x.shape.map((n, a) => (axes.includes(a) ? 1 : n));
}

/** Where sums and counts are not too large for their element type: float32 for float16, integers and bool. */
function wide(x: Value): Value {
  return isFloat(x.dtype) && x.dtype !== "float16" ? x : cast(x, "float32");
}

/** What was computed of wide elements: float16 again where they were. */
function narrowed(y: Value, x: Value): Value {
  return x.dtype === "float16" ? cast(y, "float16") : y;
}

/**
 * The sum along axes; float32 and float16 accumulate in float64.
 *
 * Shapes: `x` without `axis` (default: every axis), or with size 1 there under `keepDims`.
 *
 * @throws {ShapeError} if an axis is outside or occurs twice
 * @throws {DTypeError} if `x` is bool; cast first
 * @example Of columns
 * ```ts
 * assertClose(ct.sum(ct.tensor([[1, 2], [3, 4]]), { axis: 0 }), [4, 6]);
 * ```
 * @since 0.1.0
 */
export function sum(x: Value, options: AxisOptions = {}): Value {
  return reduce("sum", sumAxes, x, options);
}

/** How many elements a reduction combines. */
function countOf(x: Value, options: AxisOptions, op: string): number {
  return normalizeAxes(options.axis, x.ndim, op).reduce((n, a) => n * x.shape[a]!, 1);
}

/**
 * The mean along axes; integers and bool give float32. NaN where nothing is combined.
 *
 * Shapes: `x` without `axis` (default: every axis), or with size 1 there under `keepDims`.
 *
 * @throws {ShapeError} if an axis is outside or occurs twice
 * @example Of rows
 * ```ts
 * assertClose(ct.mean(ct.tensor([[1, 2], [3, 4]]), { axis: 1 }), [1.5, 3.5]);
 * ```
 * @since 0.1.0
 */
export function mean(x: Value, options: AxisOptions = {}): Value {
  return narrowed(div(reduce("mean", sumAxes, wide(x), options), countOf(x, options, "mean")), x);
}

/**
 * The largest element along axes, NaN where one is; equal elements share the derivative.
 *
 * Shapes: `x` without `axis` (default: every axis), or with size 1 there under `keepDims`.
 *
 * @throws {ShapeError} if an axis is outside, occurs twice or is empty
 * @throws {DTypeError} if `x` is bool
 * @example Of rows
 * ```ts
 * assertClose(ct.max(ct.tensor([[1, 2], [4, 3]]), { axis: 1 }), [2, 4]);
 * ```
 * @since 0.1.0
 */
export function max(x: Value, options: AxisOptions = {}): Value {
  return reduce("max", p.reduceMax, x, options);
}

/**
 * The smallest element along axes, NaN where one is; equal elements share the derivative.
 *
 * Shapes: `x` without `axis` (default: every axis), or with size 1 there under `keepDims`.
 *
 * @throws {ShapeError} if an axis is outside, occurs twice or is empty
 * @throws {DTypeError} if `x` is bool
 * @example Of rows
 * ```ts
 * assertClose(ct.min(ct.tensor([[1, 2], [4, 3]]), { axis: 1 }), [1, 3]);
 * ```
 * @since 0.1.0
 */
export function min(x: Value, options: AxisOptions = {}): Value {
  return reduce("min", p.reduceMin, x, options);
}

/**
 * The product along axes, 1 where nothing is combined.
 *
 * Shapes: `x` without `axis` (default: every axis), or with size 1 there under `keepDims`.
 *
 * @throws {ShapeError} if an axis is outside or occurs twice
 * @throws {DTypeError} if `x` is bool
 * @example A factorial
 * ```ts
 * assertClose(ct.prod(ct.tensor([1, 2, 3, 4])), 24);
 * ```
 * @since 0.1.0
 */
export function prod(x: Value, options: AxisOptions = {}): Value {
  return reduce("prod", p.reduceProd, x, options);
}

function argReduce(
  op: string,
  f: (x: Value, axis: number) => Value,
  x: Value,
  { axis, keepDims = false }: ArgOptions,
): Value {
  if (axis === undefined) {
    const out = f(reshape(x, [x.size]), 0);
    return keepDims
      ? reshape(
          out,
          x.shape.map(() => 1),
        )
      : out;
  }
  const a = normalizeAxis(axis, x.ndim, op);
  const out = f(x, a);
  return keepDims ? reshape(out, keptShape(x, [a])) : out;
}

/**
 * The position of the first largest element; without `axis` that in the flattened value, as in NumPy.
 *
 * Shapes: `x` without `axis`, as int32; a scalar without `axis`.
 *
 * @throws {ShapeError} if the axis is outside or empty
 * @example In rows and at all
 * ```ts
 * const x = ct.tensor([[1, 5], [4, 3]]);
 * assertClose(ct.argmax(x, { axis: 1 }), [1, 0]);
 * assertClose(ct.argmax(x), 1);
 * ```
 * @since 0.1.0
 */
export function argmax(x: Value, options: ArgOptions = {}): Value {
  return argReduce("argmax", p.argmax, x, options);
}

/**
 * The position of the first smallest element; without `axis` that in the flattened value, as in NumPy.
 *
 * Shapes: `x` without `axis`, as int32; a scalar without `axis`.
 *
 * @throws {ShapeError} if the axis is outside or empty
 * @example In rows
 * ```ts
 * assertClose(ct.argmin(ct.tensor([[1, 5], [4, 3]]), { axis: 1 }), [0, 1]);
 * ```
 * @since 0.1.0
 */
export function argmin(x: Value, options: ArgOptions = {}): Value {
  return argReduce("argmin", p.argmin, x, options);
}

/**
 * Options of cumsum.
 *
 * @since 0.1.0
 */
export interface CumsumOptions extends AxisOption {
  /** Sums from the end instead. */
  readonly reverse?: boolean;
}

/**
 * The sums of the elements up to and including each one along an axis (default 0).
 *
 * Shapes: like `x`.
 *
 * @throws {ShapeError} if the axis is outside
 * @throws {DTypeError} if `x` is bool
 * @example Counting on
 * ```ts
 * assertClose(ct.cumsum(ct.tensor([1, 2, 3])), [1, 3, 6]);
 * assertClose(ct.cumsum(ct.tensor([1, 2, 3]), { reverse: true }), [6, 5, 3]);
 * ```
 * @since 0.1.0
 */
export function cumsum(x: Value, { axis = 0, reverse = false }: CumsumOptions = {}): Value {
  return p.cumsum(x, normalizeAxis(axis, x.ndim, "cumsum"), reverse);
}

/** The largest element along axes as a constant, 0 where it is not finite: what exponentials are shifted by. */
function shift(x: Value, axes: readonly number[]): Value {
  const largest = stopGradient(max(x, { axis: axes, keepDims: true }));
  return where(isFiniteValue(largest), largest, 0);
}

/**
 * `log(sum(e^x))` along axes, shifted by the largest element so that nothing overflows.
 *
 * Shapes: `x` without `axis` (default: every axis), or with size 1 there under `keepDims`.
 *
 * @throws {ShapeError} if an axis is outside, occurs twice or is empty
 * @throws {DTypeError} if `x` is not of a float type
 * @example Large numbers
 * ```ts
 * assertClose(ct.logsumexp(ct.tensor([1000, 1000])), 1000 + Math.LN2);
 * ```
 * @since 0.1.0
 */
export function logsumexp(x: Value, options: AxisOptions = {}): Value {
  const axes = normalizeAxes(options.axis, x.ndim, "logsumexp");
  // log sum e^x = m + log sum e^(x - m)
  const m = shift(x, axes);
  const out = add(m, log(sum(exp(sub(x, m)), { axis: axes, keepDims: true })));
  return options.keepDims
    ? out
    : reshape(
        out,
        x.shape.filter((_, a) => !axes.includes(a)),
      );
}

/**
 * `e^x / sum(e^x)` along axes (default the last), shifted so that nothing overflows.
 *
 * Shapes: like `x`.
 *
 * @throws {ShapeError} if an axis is outside, occurs twice or is empty
 * @throws {DTypeError} if `x` is not of a float type
 * @example Equal chances
 * ```ts
 * assertClose(ct.softmax(ct.tensor([1000, 1000])), [0.5, 0.5]);
 * ```
 * @since 0.1.0
 */
export function softmax(x: Value, { axis = -1 }: AxesOption = {}): Value {
  const axes = normalizeAxes(axis, x.ndim, "softmax");
  const powers = exp(sub(x, shift(x, axes)));
  // The sum is at least 1, or it is 0 or not finite and so are the results either way; one division for all of them.
  return mul(powers, div(1, sum(powers, { axis: axes, keepDims: true })));
}

/**
 * `x - log(sum(e^x))` along axes (default the last).
 *
 * Shapes: like `x`.
 *
 * @throws {ShapeError} if an axis is outside, occurs twice or is empty
 * @throws {DTypeError} if `x` is not of a float type
 * @example Equal chances
 * ```ts
 * assertClose(ct.logSoftmax(ct.tensor([0, 0])), [-Math.LN2, -Math.LN2]);
 * ```
 * @since 0.1.0
 */
export function logSoftmax(x: Value, { axis = -1 }: AxesOption = {}): Value {
  const axes = normalizeAxes(axis, x.ndim, "logSoftmax");
  const shifted = sub(x, shift(x, axes));
  return sub(shifted, log(sum(exp(shifted), { axis: axes, keepDims: true })));
}

/**
 * Options of var and std.
 *
 * @since 0.1.0
 */
export interface VarianceOptions extends AxisOptions {
  /** Subtracted from the count in the divisor; default 0. */
  readonly correction?: number;
}

/**
 * The mean squared distance from the mean, `sum((x - mean)^2) / (n - correction)`. Exported as `var`.
 *
 * Integers give float32.
 *
 * Shapes: `x` without `axis` (default: every axis), or with size 1 there under `keepDims`.
 *
 * @throws {ShapeError} if an axis is outside or occurs twice, or no more elements than `correction` are combined
 * @example Of a sample
 * ```ts
 * assertClose(ct.var(ct.tensor([1, 3])), 1);
 * assertClose(ct.var(ct.tensor([1, 3]), { correction: 1 }), 2);
 * ```
 * @since 0.1.0
 */
export function variance(x: Value, options: VarianceOptions = {}): Value {
  return narrowed(wideVariance(x, options), x);
}

function wideVariance(x: Value, options: VarianceOptions): Value {
  const { correction = 0 } = options;
  const centred = sub(wide(x), mean(wide(x), { ...options, keepDims: true }));
  const count = countOf(x, options, "var");
  if (count <= correction && count > 0) {
    throw new ShapeError(
      "var",
      `Cannot var ${x.aval}: ${count} elements are combined with correction ${correction}, more elements are needed`,
    );
  }
  return div(sum(mul(centred, centred), options), count - correction);
}

/** The square root with derivative 0, not infinity, at 0. */
function flatSqrt(x: Value): Value {
  const isZero = equal(x, 0);
  return where(isZero, 0, sqrt(where(isZero, 1, x)));
}

/**
 * The standard deviation `sqrt(var(x))`; its derivative where it is 0 is taken as 0.
 *
 * Shapes: `x` without `axis` (default: every axis), or with size 1 there under `keepDims`.
 *
 * @throws {ShapeError} if an axis is outside or occurs twice, or no more elements than `correction` are combined
 * @example Around the mean
 * ```ts
 * assertClose(ct.std(ct.tensor([1, 3])), 1);
 * ```
 * @since 0.1.0
 */
export function std(x: Value, options: VarianceOptions = {}): Value {
  return narrowed(flatSqrt(wideVariance(x, options)), x);
}

/**
 * The Euclidean length `sqrt(sum(x^2))`; its derivative at the zero vector is taken as 0.
 *
 * Squares are formed as they are: elements beyond 1e19 overflow in float32.
 *
 * Shapes: `x` without `axis` (default: every axis), or with size 1 there under `keepDims`.
 *
 * @throws {ShapeError} if an axis is outside or occurs twice
 * @throws {DTypeError} if `x` is not of a float type
 * @example A right triangle
 * ```ts
 * assertClose(ct.norm(ct.tensor([3, 4])), 5);
 * assertClose(ct.grad((x: ct.Value) => ct.norm(x))(ct.tensor([3, 4])), [0.6, 0.8]);
 * ```
 * @since 0.1.0
 */
export function norm(x: Value, options: AxisOptions = {}): Value {
  const y = x.dtype === "float16" ? wide(x) : x;
  return narrowed(flatSqrt(sum(mul(y, y), options)), x);
}
