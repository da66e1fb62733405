/** Elementwise functions with broadcasting and numbers. */
import { isFloat } from "../dtype.ts";
import * as p from "../prims/elementwise.ts";
import { broadcastShapes } from "../shape.ts";
import { type Operand, Value } from "../value.ts";
import { align, broadcastTo, toValue } from "./shape.ts";

function unary(op: string, f: (x: Value) => Value, x: Operand): Value {
  return f(toValue(op, x));
}

function binary(op: string, f: (x: Value, y: Value) => Value, x: Operand, y: Operand): Value {
  // The common case of small steps, where aligning would cost as much as computing.
  if (x instanceof Value && y instanceof Value && (x.aval === y.aval || x.aval.equals(y.aval)))
    return f(x, y);
  const [a, b] = align(op, x, y);
  return f(a!, b!);
}

/**
 * The sum `x + y`.
 *
 * Shapes: `x` and `y` broadcast as in NumPy.
 *
 * @throws {ShapeError} if the shapes do not broadcast
 * @throws {DTypeError} if the element types differ or are bool, or a number is none of the type
 * @example A vector and a number
 * ```ts
 * assertClose(ct.add(ct.tensor([1, 2]), 1), [2, 3]);
 * ```
 * @since 0.1.0
 */
export function add(x: Operand, y: Operand): Value {
  return binary("add", p.add, x, y);
}

/**
 * The difference `x - y`.
 *
 * Shapes: `x` and `y` broadcast as in NumPy.
 *
 * @throws {ShapeError} if the shapes do not broadcast
 * @throws {DTypeError} if the element types differ or are bool, or a number is none of the type
 * @example From a number
 * ```ts
 * assertClose(ct.sub(1, ct.tensor([1, 2])), [0, -1]);
 * ```
 * @since 0.1.0
 */
export function sub(x: Operand, y: Operand): Value {
  return binary("sub", p.sub, x, y);
}

/**
 * The product `x y`, element by element; integers wrap around.
 *
 * Shapes: `x` and `y` broadcast as in NumPy.
 *
 * @throws {ShapeError} if the shapes do not broadcast
 * @throws {DTypeError} if the element types differ or are bool, or a number is none of the type
 * @example A row scales columns
 * ```ts
 * assertClose(ct.mul(ct.tensor([[1, 2], [3, 4]]), ct.tensor([10, 1])), [[10, 2], [30, 4]]);
 * ```
 * @since 0.1.0
 */
export function mul(x: Operand, y: Operand): Value {
  return binary("mul", p.mul, x, y);
}

/**
 * The quotient `x / y`; of integers it is rounded towards zero, and 0 where `y` is 0.
 *
 * Shapes: `x` and `y` broadcast as in NumPy.
 *
 * @throws {ShapeError} if the shapes do not broadcast
 * @throws {DTypeError} if the element types differ or are bool, or a number is none of the type
 * @example Floats and integers
 * ```ts
 * assertClose(ct.div(ct.tensor([7]), 2), [3.5]);
 * assertClose(ct.div(ct.tensor([-7], { dtype: "int32" }), 2), [-3]);
 * ```
 * @since 0.1.0
 */
export function div(x: Operand, y: Operand): Value {
  return binary("div", p.div, x, y);
}

/**
 * The negative `-x`; of unsigned integers it wraps around.
 *
 * Shapes: like `x`.
 *
 * @throws {DTypeError} if `x` is bool
 * @example Signs change
 * ```ts
 * assertClose(ct.neg(ct.tensor([1, -2])), [-1, 2]);
 * ```
 * @since 0.1.0
 */
export function neg(x: Operand): Value {
  return unary("neg", p.neg, x);
}

/**
 * The power `x^y`.
 *
 * The derivative by `y` is taken as 0 where `x` is 0; it is NaN where `x` is negative.
 *
 * Shapes: `x` and `y` broadcast as in NumPy.
 *
 * @throws {ShapeError} if the shapes do not broadcast
 * @throws {DTypeError} if the element types differ or are not float; the number 2 squares integers too
 * @example Square and square root
 * ```ts
 * assertClose(ct.pow(ct.tensor([4, 9]), ct.tensor([2, 0.5])), [16, 3]);
 * ```
 * @since 0.1.0
 */
export function pow(x: Operand, y: Operand): Value {
  // A square is one product, and right for a negative base under every derivative.
  if (y === 2 && x instanceof Value && x.dtype !== "bool") return p.mul(x, x);
  return binary("pow", p.pow, x, y);
}

/**
 * The exponential `e^x`.
 *
 * Shapes: like `x`.
 *
 * @throws {DTypeError} if `x` is not of a float type
 * @example One
 * ```ts
 * assertClose(ct.exp(ct.tensor([0, 1])), [1, Math.E]);
 * ```
 * @since 0.1.0
 */
export function exp(x: Operand): Value {
  return unary("exp", p.exp, x);
}

/**
 * `e^x - 1` without cancellation near 0.
 *
 * Shapes: like `x`.
 *
 * @throws {DTypeError} if `x` is not of a float type
 * @example A tiny number
 * ```ts
 * assertClose(ct.expm1(ct.tensor([1e-10])).item() * 1e10, 1);
 * ```
 * @since 0.1.0
 */
export function expm1(x: Operand): Value {
  return unary("expm1", p.expm1, x);
}

/**
 * The natural logarithm.
 *
 * Shapes: like `x`.
 *
 * @throws {DTypeError} if `x` is not of a float type
 * @example Of e
 * ```ts
 * assertClose(ct.log(ct.tensor([1, Math.E])), [0, 1]);
 * ```
 * @since 0.1.0
 */
export function log(x: Operand): Value {
  return unary("log", p.log, x);
}

/**
 * `log(1 + x)` without cancellation near 0.
 *
 * Shapes: like `x`.
 *
 * @throws {DTypeError} if `x` is not of a float type
 * @example A tiny number
 * ```ts
 * assertClose(ct.log1p(ct.tensor([1e-10])).item() * 1e10, 1);
 * ```
 * @since 0.1.0
 */
export function log1p(x: Operand): Value {
  return unary("log1p", p.log1p, x);
}

/**
 * The sine of radians.
 *
 * Shapes: like `x`.
 *
 * @throws {DTypeError} if `x` is not of a float type
 * @example A quarter turn
 * ```ts
 * assertClose(ct.sin(ct.tensor([0, Math.PI / 2])), [0, 1]);
 * ```
 * @since 0.1.0
 */
export function sin(x: Operand): Value {
  return unary("sin", p.sin, x);
}

/**
 * The cosine of radians.
 *
 * Shapes: like `x`.
 *
 * @throws {DTypeError} if `x` is not of a float type
 * @example Half a turn
 * ```ts
 * assertClose(ct.cos(ct.tensor([0, Math.PI])), [1, -1]);
 * ```
 * @since 0.1.0
 */
export function cos(x: Operand): Value {
  return unary("cos", p.cos, x);
}

/**
 * The tangent of radians.
 *
 * Shapes: like `x`.
 *
 * @throws {DTypeError} if `x` is not of a float type
 * @example An eighth turn
 * ```ts
 * assertClose(ct.tan(ct.tensor([Math.PI / 4])), [1]);
 * ```
 * @since 0.1.0
 */
export function tan(x: Operand): Value {
  return unary("tan", p.tan, x);
}

/**
 * The hyperbolic sine `(e^x - e^-x) / 2`.
 *
 * Shapes: like `x`.
 *
 * @throws {DTypeError} if `x` is not of a float type
 * @example Of log 2
 * ```ts
 * assertClose(ct.sinh(ct.tensor([Math.LN2])), [0.75]);
 * ```
 * @since 0.1.0
 */
export function sinh(x: Operand): Value {
  return unary("sinh", p.sinh, x);
}

/**
 * The hyperbolic cosine `(e^x + e^-x) / 2`.
 *
 * Shapes: like `x`.
 *
 * @throws {DTypeError} if `x` is not of a float type
 * @example Of log 2
 * ```ts
 * assertClose(ct.cosh(ct.tensor([Math.LN2])), [1.25]);
 * ```
 * @since 0.1.0
 */
export function cosh(x: Operand): Value {
  return unary("cosh", p.cosh, x);
}

/**
 * The hyperbolic tangent `sinh(x) / cosh(x)`.
 *
 * Shapes: like `x`.
 *
 * @throws {DTypeError} if `x` is not of a float type
 * @example Of log 2
 * ```ts
 * assertClose(ct.tanh(ct.tensor([Math.LN2])), [0.6]);
 * ```
 * @since 0.1.0
 */
export function tanh(x: Operand): Value {
  return unary("tanh", p.tanh, x);
}

/**
 * The arc sine in radians, in [-pi/2, pi/2].
 *
 * Shapes: like `x`.
 *
 * @throws {DTypeError} if `x` is not of a float type
 * @example Of one
 * ```ts
 * assertClose(ct.asin(ct.tensor([1])), [Math.PI / 2]);
 * ```
 * @since 0.1.0
 */
export function asin(x: Operand): Value {
  return unary("asin", p.asin, x);
}

/**
 * The arc cosine in radians, in [0, pi].
 *
 * Shapes: like `x`.
 *
 * @throws {DTypeError} if `x` is not of a float type
 * @example Of zero
 * ```ts
 * assertClose(ct.acos(ct.tensor([0])), [Math.PI / 2]);
 * ```
 * @since 0.1.0
 */
export function acos(x: Operand): Value {
  return unary("acos", p.acos, x);
}

/**
 * The arc tangent in radians, in (-pi/2, pi/2).
 *
 * Shapes: like `x`.
 *
 * @throws {DTypeError} if `x` is not of a float type
 * @example Of one
 * ```ts
 * assertClose(ct.atan(ct.tensor([1])), [Math.PI / 4]);
 * ```
 * @since 0.1.0
 */
export function atan(x: Operand): Value {
  return unary("atan", p.atan, x);
}

/**
 * The angle of the point `(x, y)` in radians, in [-pi, pi].
 *
 * Shapes: `y` and `x` broadcast as in NumPy.
 *
 * @throws {ShapeError} if the shapes do not broadcast
 * @throws {DTypeError} if the element types differ or are not float
 * @example Straight up and left
 * ```ts
 * assertClose(ct.atan2(ct.tensor([1, 0]), ct.tensor([0, -1])), [Math.PI / 2, Math.PI]);
 * ```
 * @since 0.1.0
 */
export function atan2(y: Operand, x: Operand): Value {
  return binary("atan2", p.atan2, y, x);
}

/**
 * The error function, `2 / sqrt(pi)` times the integral of `exp(-t^2)` from 0 to `x`.
 *
 * Shapes: like `x`.
 *
 * @throws {DTypeError} if `x` is not of a float type
 * @example Of one
 * ```ts
 * assertClose(ct.erf(ct.tensor([0, 1])), [0, 0.8427007929]);
 * ```
 * @since 0.1.0
 */
export function erf(x: Operand): Value {
  return unary("erf", p.erf, x);
}

/**
 * The complementary error function `1 - erf(x)`, accurate where that difference cancels.
 *
 * Shapes: like `x`.
 *
 * @throws {DTypeError} if `x` is not of a float type
 * @example Far out
 * ```ts
 * assertClose(ct.erfc(ct.tensor([0, 5])).div(ct.tensor([1, 1.53746e-12])), [1, 1]);
 * ```
 * @since 0.1.0
 */
export function erfc(x: Operand): Value {
  return unary("erfc", p.erfc, x);
}

/**
 * The square root; its derivative at 0 is infinite.
 *
 * Shapes: like `x`.
 *
 * @throws {DTypeError} if `x` is not of a float type
 * @example Of four
 * ```ts
 * assertClose(ct.sqrt(ct.tensor([4, 9])), [2, 3]);
 * ```
 * @since 0.1.0
 */
export function sqrt(x: Operand): Value {
  return unary("sqrt", p.sqrt, x);
}

/**
 * `1 / sqrt(x)`.
 *
 * Shapes: like `x`.
 *
 * @throws {DTypeError} if `x` is not of a float type
 * @example Of four
 * ```ts
 * assertClose(ct.rsqrt(ct.tensor([4])), [0.5]);
 * ```
 * @since 0.1.0
 */
export function rsqrt(x: Operand): Value {
  return unary("rsqrt", p.rsqrt, x);
}

/**
 * The absolute value; its derivative at 0 is taken as 0.
 *
 * Shapes: like `x`.
 *
 * @throws {DTypeError} if `x` is bool
 * @example Both signs
 * ```ts
 * assertClose(ct.abs(ct.tensor([-2, 3])), [2, 3]);
 * ```
 * @since 0.1.0
 */
export function abs(x: Operand): Value {
  return unary("abs", p.abs, x);
}

/**
 * -1, 0 or 1 like the sign of `x`; the derivative is 0.
 *
 * Shapes: like `x`.
 *
 * @throws {DTypeError} if `x` is bool
 * @example Three signs
 * ```ts
 * assertClose(ct.sign(ct.tensor([-2, 0, 3])), [-1, 0, 1]);
 * ```
 * @since 0.1.0
 */
export function sign(x: Operand): Value {
  return unary("sign", p.sign, x);
}

/**
 * The largest integer not above `x`, in the type of `x`; the derivative is 0.
 *
 * Shapes: like `x`.
 *
 * @throws {DTypeError} if `x` is not of a float type
 * @example Downwards
 * ```ts
 * assertClose(ct.floor(ct.tensor([1.5, -1.5])), [1, -2]);
 * ```
 * @since 0.1.0
 */
export function floor(x: Operand): Value {
  return unary("floor", p.floor, x);
}

/**
 * The smallest integer not below `x`, in the type of `x`; the derivative is 0.
 *
 * Shapes: like `x`.
 *
 * @throws {DTypeError} if `x` is not of a float type
 * @example Upwards
 * ```ts
 * assertClose(ct.ceil(ct.tensor([1.5, -1.5])), [2, -1]);
 * ```
 * @since 0.1.0
 */
export function ceil(x: Operand): Value {
  return unary("ceil", p.ceil, x);
}

/**
 * The nearest integer, halves to the even one, in the type of `x`; the derivative is 0.
 *
 * Shapes: like `x`.
 *
 * @throws {DTypeError} if `x` is not of a float type
 * @example Halves
 * ```ts
 * assertClose(ct.round(ct.tensor([0.5, 1.5, 2.4])), [0, 2, 2]);
 * ```
 * @since 0.1.0
 */
export function round(x: Operand): Value {
  return unary("round", p.round, x);
}

/**
 * The larger of `x` and `y`, NaN where either is; equal operands share the derivative.
 *
 * Shapes: `x` and `y` broadcast as in NumPy.
 *
 * @throws {ShapeError} if the shapes do not broadcast
 * @throws {DTypeError} if the element types differ or are bool, or a number is none of the type
 * @example At least zero
 * ```ts
 * assertClose(ct.maximum(ct.tensor([-1, 2]), 0), [0, 2]);
 * ```
 * @since 0.1.0
 */
export function maximum(x: Operand, y: Operand): Value {
  return binary("maximum", p.maximum, x, y);
}

/**
 * The smaller of `x` and `y`, NaN where either is; equal operands share the derivative.
 *
 * Shapes: `x` and `y` broadcast as in NumPy.
 *
 * @throws {ShapeError} if the shapes do not broadcast
 * @throws {DTypeError} if the element types differ or are bool, or a number is none of the type
 * @example At most one
 * ```ts
 * assertClose(ct.minimum(ct.tensor([-1, 2]), 1), [-1, 1]);
 * ```
 * @since 0.1.0
 */
export function minimum(x: Operand, y: Operand): Value {
  return binary("minimum", p.minimum, x, y);
}

/**
 * `x` limited to [`low`, `high`]: `min(max(x, low), high)`.
 *
 * Shapes: all three broadcast as in NumPy.
 *
 * @throws {ShapeError} if the shapes do not broadcast
 * @throws {DTypeError} if the element types differ or are bool, or a number is none of the type
 * @example To the unit interval
 * ```ts
 * assertClose(ct.clip(ct.tensor([-1, 0.5, 2]), 0, 1), [0, 0.5, 1]);
 * ```
 * @since 0.1.0
 */
export function clip(x: Operand, low: Operand, high: Operand): Value {
  return minimum(maximum(x, low), high);
}

/**
 * `x` where the condition holds, else `y`; the derivative goes to the chosen one only.
 *
 * A NaN or an infinite derivative in the operand that is not chosen still reaches its input: make that operand harmless
 * before the choice.
 *
 * Shapes: all three broadcast as in NumPy.
 *
 * @param condition bool; choose with a comparison
 * @throws {ShapeError} if the shapes do not broadcast
 * @throws {DTypeError} if the condition is not bool, or the element types of `x` and `y` differ
 * @example A piecewise function
 * ```ts
 * const x = ct.tensor([-1, 2]);
 * assertClose(ct.where(ct.less(x, 0), 0, x), [0, 2]);
 * ```
 * @since 0.1.0
 */
export function where(condition: Value, x: Operand, y: Operand): Value {
  const [a, b] = align("where", x, y);
  const shape = broadcastShapes("where", condition.shape, a!.shape);
  return p.where(broadcastTo(condition, shape), broadcastTo(a!, shape), broadcastTo(b!, shape));
}

/**
 * Whether `x = y`, as bool; NaN equals nothing.
 *
 * Shapes: `x` and `y` broadcast as in NumPy.
 *
 * @throws {ShapeError} if the shapes do not broadcast
 * @throws {DTypeError} if the element types differ, or a number is none of the type
 * @example One of two
 * ```ts
 * assertClose(ct.equal(ct.tensor([1, 2]), 2), [false, true]);
 * ```
 * @since 0.1.0
 */
export function equal(x: Operand, y: Operand): Value {
  return binary("equal", p.equal, x, y);
}

/**
 * Whether `x` and `y` differ, as bool; NaN differs from itself.
 *
 * Shapes: `x` and `y` broadcast as in NumPy.
 *
 * @throws {ShapeError} if the shapes do not broadcast
 * @throws {DTypeError} if the element types differ, or a number is none of the type
 * @example One of two
 * ```ts
 * assertClose(ct.notEqual(ct.tensor([1, 2]), 2), [true, false]);
 * ```
 * @since 0.1.0
 */
export function notEqual(x: Operand, y: Operand): Value {
  return binary("notEqual", p.notEqual, x, y);
}

/**
 * Whether `x < y`, as bool.
 *
 * Shapes: `x` and `y` broadcast as in NumPy.
 *
 * @throws {ShapeError} if the shapes do not broadcast
 * @throws {DTypeError} if the element types differ, or a number is none of the type
 * @example Below two
 * ```ts
 * assertClose(ct.less(ct.tensor([1, 2]), 2), [true, false]);
 * ```
 * @since 0.1.0
 */
export function less(x: Operand, y: Operand): Value {
  return binary("less", p.less, x, y);
}

/**
 * Whether `x <= y`, as bool.
 *
 * Shapes: `x` and `y` broadcast as in NumPy.
 *
 * @throws {ShapeError} if the shapes do not broadcast
 * @throws {DTypeError} if the element types differ, or a number is none of the type
 * @example Up to two
 * ```ts
 * assertClose(ct.lessEqual(ct.tensor([1, 2, 3]), 2), [true, true, false]);
 * ```
 * @since 0.1.0
 */
export function lessEqual(x: Operand, y: Operand): Value {
  return binary("lessEqual", p.lessEqual, x, y);
}

/**
 * Whether `x > y`, as bool.
 *
 * Shapes: `x` and `y` broadcast as in NumPy.
 *
 * @throws {ShapeError} if the shapes do not broadcast
 * @throws {DTypeError} if the element types differ, or a number is none of the type
 * @example Above one
 * ```ts
 * assertClose(ct.greater(ct.tensor([1, 2]), 1), [false, true]);
 * ```
 * @since 0.1.0
 */
export function greater(x: Operand, y: Operand): Value {
  const [a, b] = align("greater", x, y);
  return p.less(b!, a!);
}

/**
 * Whether `x >= y`, as bool.
 *
 * Shapes: `x` and `y` broadcast as in NumPy.
 *
 * @throws {ShapeError} if the shapes do not broadcast
 * @throws {DTypeError} if the element types differ, or a number is none of the type
 * @example From two
 * ```ts
 * assertClose(ct.greaterEqual(ct.tensor([1, 2, 3]), 2), [false, true, true]);
 * ```
 * @since 0.1.0
 */
export function greaterEqual(x: Operand, y: Operand): Value {
  const [a, b] = align("greaterEqual", x, y);
  return p.lessEqual(b!, a!);
}

/**
 * Whether both hold.
 *
 * Shapes: `x` and `y` broadcast as in NumPy.
 *
 * @throws {ShapeError} if the shapes do not broadcast
 * @throws {DTypeError} if an operand is not bool
 * @example Inside an interval
 * ```ts
 * const x = ct.tensor([0, 1, 2]);
 * assertClose(ct.logicalAnd(ct.greater(x, 0), ct.less(x, 2)), [false, true, false]);
 * ```
 * @since 0.1.0
 */
export function logicalAnd(x: Value, y: Value): Value {
  return binary("logicalAnd", p.logicalAnd, x, y);
}

/**
 * Whether either holds.
 *
 * Shapes: `x` and `y` broadcast as in NumPy.
 *
 * @throws {ShapeError} if the shapes do not broadcast
 * @throws {DTypeError} if an operand is not bool
 * @example Outside an interval
 * ```ts
 * const x = ct.tensor([0, 1, 2]);
 * assertClose(ct.logicalOr(ct.less(x, 1), ct.greater(x, 1)), [true, false, true]);
 * ```
 * @since 0.1.0
 */
export function logicalOr(x: Value, y: Value): Value {
  return binary("logicalOr", p.logicalOr, x, y);
}

/**
 * Whether `x` does not hold.
 *
 * Shapes: like `x`.
 *
 * @throws {DTypeError} if `x` is not bool
 * @example The opposite
 * ```ts
 * assertClose(ct.logicalNot(ct.tensor([true, false], { dtype: "bool" })), [false, true]);
 * ```
 * @since 0.1.0
 */
export function logicalNot(x: Value): Value {
  return p.logicalNot(x);
}

/**
 * Whether `x` is not a number, as bool.
 *
 * Shapes: like `x`.
 *
 * @example The middle one
 * ```ts
 * assertClose(ct.isNan(ct.tensor([1, Number.NaN, 2])), [false, true, false]);
 * ```
 * @since 0.1.0
 */
export function isNan(x: Operand): Value {
  const value = toValue("isNan", x);
  return p.notEqual(value, value);
}

/**
 * Whether `x` is neither infinite nor NaN, as bool. Exported as `isFinite`.
 *
 * Shapes: like `x`.
 *
 * @example Only the first
 * ```ts
 * assertClose(ct.isFinite(ct.tensor([1, Number.POSITIVE_INFINITY, Number.NaN])), [true, false, false]);
 * ```
 * @since 0.1.0
 */
export function isFiniteValue(x: Operand): Value {
  const value = toValue("isFinite", x);
  if (!isFloat(value.dtype)) return p.equal(value, value);
  return less(p.abs(value), Number.POSITIVE_INFINITY);
}

/**
 * The logistic function `1 / (1 + e^-x)`, accurate far out on both sides. Its logarithm is `-softplus(-x)`.
 *
 * Shapes: like `x`.
 *
 * @throws {DTypeError} if `x` is not of a float type
 * @example Far out
 * ```ts
 * assertClose(ct.sigmoid(ct.tensor([-1000, 0, 1000])), [0, 0.5, 1]);
 * ```
 * @since 0.1.0
 */
export function sigmoid(x: Operand): Value {
  return unary("sigmoid", p.sigmoid, x);
}

/**
 * The positive part `max(x, 0)`; its derivative at 0 is taken as 0. NaN stays NaN.
 *
 * Shapes: like `x`.
 *
 * @throws {DTypeError} if `x` is bool
 * @example Both signs
 * ```ts
 * assertClose(ct.relu(ct.tensor([-1, 2])), [0, 2]);
 * ```
 * @since 0.1.0
 */
export function relu(x: Operand): Value {
  return where(lessEqual(x, 0), 0, x);
}

/**
 * Options of gelu.
 *
 * @since 0.1.0
 */
export interface GeluOptions {
  /** `"none"` (default): with erf. `"tanh"`: the cheaper approximation. */
  readonly approximate?: "none" | "tanh";
}

/**
 * `x P(X <= x)` for a standard normal X: `x (1 + erf(x / sqrt(2))) / 2`.
 *
 * With `approximate: "tanh"`: `x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2`.
 *
 * Shapes: like `x`.
 *
 * @throws {DTypeError} if `x` is not of a float type
 * @example Exact and approximate
 * ```ts
 * assertClose(ct.gelu(ct.tensor([-1, 1])), [-0.158655, 0.841345]);
 * assertClose(ct.gelu(ct.tensor([1]), { approximate: "tanh" }), [0.841192]);
 * ```
 * @since 0.1.0
 */
export function gelu(x: Operand, { approximate = "none" }: GeluOptions = {}): Value {
  // 1 + erf(z) = erfc(-z), which does not cancel on the left
  if (approximate === "none") return mul(mul(x, 0.5), erfc(mul(x, -Math.SQRT1_2)));
  // (1 + tanh(u)) / 2 = sigmoid(2 u)
  const cubic = mul(add(mul(mul(x, x), 0.044715), 1), x);
  return mul(x, sigmoid(mul(cubic, 2 * Math.sqrt(2 / Math.PI))));
}

/**
 * `x sigmoid(x)`.
 *
 * Shapes: like `x`.
 *
 * @throws {DTypeError} if `x` is not of a float type
 * @example Of one
 * ```ts
 * assertClose(ct.silu(ct.tensor([0, 1])), [0, 0.731059]);
 * ```
 * @since 0.1.0
 */
export function silu(x: Operand): Value {
  return mul(x, sigmoid(x));
}

/**
 * `log(1 + e^x)`, exact far out on both sides; its derivatives are those of the formula everywhere.
 *
 * Shapes: like `x`.
 *
 * @throws {DTypeError} if `x` is not of a float type
 * @example Far out
 * ```ts
 * assertClose(ct.softplus(ct.tensor([-1000, 0, 1000])), [0, Math.LN2, 1000]);
 * ```
 * @since 0.1.0
 */
export function softplus(x: Operand): Value {
  return unary("softplus", p.softplus, x);
}

/**
 * `x` itself, with derivative 0 in every transform.
 *
 * Shapes: like `x`.
 *
 * @example A constant factor
 * ```ts
 * const f = (x: ct.Value) => ct.mul(x, ct.stopGradient(x));
 * assertClose(ct.grad(f)(ct.tensor(3)), 3);
 * ```
 * @since 0.1.0
 */
export function stopGradient(x: Operand): Value {
  return p.stopGradient(toValue("stopGradient", x));
}
