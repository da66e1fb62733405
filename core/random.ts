/**
 * Random numbers as pure functions of keys. A key is a uint32 value of shape [2]; the same key gives the numbers that
 * `jax.random` draws: bits, keys and uniform numbers exactly, normal numbers up to the error of JAX's float32 inverse
 * error function: usually the last digit, 6e-6 of the value at worst among 100,000 draws.
 *
 * One key, one draw: the same key gives the same bits to every function of this module. Split a key, or fold a counter
 * into it, and draw once from each part.
 */
import { type DType, isFloat } from "./dtype.ts";
import { DTypeError, ShapeError } from "./errors.ts";
import { broadcastTo } from "./ops/shape.ts";
import { add, cast, div, floor, less, like, log, maximum, mul, neg } from "./prims/elementwise.ts";
import { gather, iota } from "./prims/indexing.ts";
import { reshape, sliceAxis } from "./prims/movement.ts";
import { erfInv, foldIn as foldInBits, randomBits } from "./prims/random.ts";
import { argmax } from "./prims/reduce.ts";
import { sortP } from "./prims/sort.ts";
import { insertAt, normalizeAxis, range, type Shape, sameShape, withoutAxes } from "./shape.ts";
import { adopt, bind, placed, scalar } from "./trace.ts";
import type { Operand, Tensor, Value } from "./value.ts";

/**
 * The key of a seed.
 *
 * Shapes: the result is u32[2]: the high and the low 32 bits of the seed.
 * Units: none.
 *
 * @param seed a non-negative integer that a number holds exactly
 * @throws {RangeError} if the seed is anything else
 * @example A reproducible draw
 * ```ts
 * assertClose(ct.random.normal(ct.random.key(42)), -0.028304616);
 * ```
 * @since 0.1.0
 */
export function key(seed: number): Tensor {
  if (!Number.isSafeInteger(seed) || seed < 0) {
    throw new RangeError(
      `Cannot make a key of seed ${seed}: a non-negative integer up to 2^53 - 1 is needed`,
    );
  }
  return placed(adopt(new Uint32Array([seed / 2 ** 32, seed]), [2], "uint32"));
}

/**
 * Independent keys made from one, which must not be used again.
 *
 * Shapes: `key` and each result: u32[2].
 * Units: none.
 *
 * @throws {ShapeError} if `n` is not a non-negative integer or `key` is not a key
 * @throws {DTypeError} if `key` is not a key
 * @example Two draws that have nothing in common
 * ```ts
 * const [weights, noise] = ct.random.split(ct.random.key(0));
 * assertClose(weights!, [1797259609, 2579123966]);
 * assertClose(noise!, [928981903, 3453687069]);
 * ```
 * @since 0.1.0
 */
export function split(key: Value, n = 2): Value[] {
  const keys = randomBits(key, { shape: [n], words: 2 });
  return range(n).map((i) => reshape(sliceAxis(keys, 0, i, i + 1), [2]));
}

/**
 * The key for one number of a series: a step, a worker, a layer.
 *
 * Different data give independent keys, all independent of draws from `key` with `split`; `foldIn(key, i)` equals
 * `split(key, n)[i]`, so use one of the two with a key, not both.
 *
 * Shapes: `key` and result: u32[2]; `data`: a scalar of an integer type, also a traced one.
 * Units: none.
 *
 * @param data a non-negative integer below 2^32
 * @throws {RangeError} if a number is anything else
 * @throws {DTypeError} if a value is not of an integer type
 * @example The key of step 3
 * ```ts
 * const root = ct.random.key(7);
 * assertClose(ct.random.foldIn(root, 3), ct.random.split(root, 4)[3]!);
 * ```
 * @since 0.1.0
 */
export function foldIn(key: Value, data: Operand): Value {
  if (typeof data !== "number") return foldInBits(key, data);
  if (!Number.isInteger(data) || data < 0 || data >= 2 ** 32) {
    throw new RangeError(`Cannot foldIn ${data}: a non-negative integer below 2^32 is needed`);
  }
  return foldInBits(key, scalar(data, "uint32"));
}

/**
 * Uniform random 32-bit integers. Draw once from a key.
 *
 * Shapes: `key`: u32[2]; the result has `shape` and is uint32.
 * Units: none.
 *
 * @throws {ShapeError} if a size is not a non-negative integer
 * @example One word
 * ```ts
 * assertClose(ct.random.bits(ct.random.key(0)), 4070199207);
 * ```
 * @since 0.1.0
 */
export function bits(key: Value, shape: Shape = []): Value {
  return randomBits(key, { shape, words: 1 });
}

/**
 * Which floats to draw.
 *
 * @since 0.1.0
 */
export interface FloatOptions {
  /** float32 (default), float64 or float16. */
  readonly dtype?: DType;
}

/**
 * The interval and the element type of uniform numbers.
 *
 * @since 0.1.0
 */
export interface UniformOptions extends FloatOptions {
  /** Smallest number that can be drawn; default 0. */
  readonly min?: number;
  /** What all numbers are below, up to rounding; default 1. */
  readonly max?: number;
}

/**
 * Uniform random numbers in [min, max). Draw once from a key.
 *
 * Equally spaced: 2^23 values for float32, 2^52 for float64. In float16 those of float32 are rounded, in [0, 1) down to one
 * of 2^11 values.
 *
 * Shapes: `key`: u32[2]; the result has `shape`.
 * Units: those of `min` and `max`.
 *
 * @throws {DTypeError} if the element type is not a float type
 * @example One number
 * ```ts
 * assertClose(ct.random.uniform(ct.random.key(0)), 0.947667);
 * ```
 * @since 0.1.0
 */
export function uniform(key: Value, shape: Shape = [], options: UniformOptions = {}): Value {
  const { min = 0, max = 1, dtype = "float32" } = options;
  if (checkFloat("uniform", dtype) === "float16") {
    if (min === 0 && max === 1)
      return cast(multiplesBelow(unitInterval(key, shape, "float32"), 2 ** 11), dtype);
    const [low, high] = [Math.f16round(min), Math.f16round(max)];
    return cast(uniform(key, shape, { min: low, max: high }), dtype);
  }
  const unit = unitInterval(key, shape, dtype);
  if (min === 0 && max === 1) return unit;
  const [low, high] = dtype === "float32" ? [Math.fround(min), Math.fround(max)] : [min, max];
  return maximum(add(mul(unit, like(unit, high - low)), like(unit, low)), like(unit, low));
}

/** Numbers in [0, 1) with as many random bits as the mantissa stores; every step is exact. */
function unitInterval(key: Value, shape: Shape, dtype: DType): Value {
  if (dtype === "float32") {
    // the upper 23 bits times 2^-23
    const words = bits(key, shape);
    const unit = cast(div(words, like(words, 2 ** 9)), "float32");
    return mul(unit, like(unit, 2 ** -23));
  }
  // the upper 52 bits of two words times 2^-52
  const pairs = randomBits(key, { shape, words: 2 });
  const word = (i: number): Value => reshape(sliceAxis(pairs, shape.length, i, i + 1), shape);
  const high = cast(word(0), "float64");
  const low = cast(div(word(1), like(word(1), 2 ** 12)), "float64");
  return add(mul(high, like(high, 2 ** -32)), mul(low, like(low, 2 ** -52)));
}

/** The next multiple of `1 / count` downwards: rounding to the nearest would give 1. */
function multiplesBelow(x: Value, count: number): Value {
  return mul(floor(mul(x, like(x, count))), like(x, 1 / count));
}

function checkFloat(op: string, dtype: DType): DType {
  if (!isFloat(dtype)) {
    throw new DTypeError(op, `Cannot draw ${op} numbers of ${dtype}: float32, float64 or float16 is needed`);
  }
  return dtype;
}

/**
 * Normal random numbers with mean 0 and variance 1. Draw once from a key.
 *
 * Computes `sqrt(2) erfInv(u)` for uniform `u` in (-1, 1).
 *
 * Shapes: `key`: u32[2]; the result has `shape`.
 * Units: none.
 *
 * @throws {DTypeError} if the element type is not a float type
 * @example Three numbers
 * ```ts
 * assertClose(ct.random.normal(ct.random.key(42), [3]), [-0.02830462, 0.46713185, 0.29570296]);
 * ```
 * @since 0.1.0
 */
export function normal(key: Value, shape: Shape = [], options: FloatOptions = {}): Value {
  const dtype = checkFloat("normal", options.dtype ?? "float32");
  if (dtype === "float16") return cast(normal(key, shape), dtype);
  const min = -1 + 2 ** (dtype === "float32" ? -24 : -53); // the number after -1
  const u = uniform(key, shape, { min, max: 1, dtype });
  return mul(like(u, Math.SQRT2), erfInv(u));
}

/**
 * Random truth values: true with probability `p`. Draw once from a key.
 *
 * Shapes: `key`: u32[2]; `p`: a number or a value that broadcasts to `shape`, whose default is the shape of `p`.
 * Units: none.
 *
 * @throws {ShapeError} if `p` does not broadcast to `shape`
 * @throws {DTypeError} if `p` is a value of an integer type
 * @example Certain events
 * ```ts
 * assertClose(ct.random.bernoulli(ct.random.key(0), 1, [2]).astype("float32"), [1, 1]);
 * ```
 * @since 0.1.0
 */
export function bernoulli(key: Value, p: Operand = 0.5, shape?: Shape): Value {
  if (typeof p === "number") {
    const u = uniform(key, shape);
    return less(u, like(u, p));
  }
  const target = shape ?? p.shape;
  const q = p.dtype === "float16" ? cast(p, "float32") : p;
  return less(uniform(key, target, { dtype: q.dtype }), broadcastTo(q, target));
}

/**
 * Where the classes are and how many to draw.
 *
 * @since 0.1.0
 */
export interface CategoricalOptions {
  /** The axis of the logits that holds the classes; default the last. */
  readonly axis?: number;
  /** Shape of the draw; it ends with the other axes of the logits, which are the default. */
  readonly shape?: Shape;
}

/**
 * Random classes with probabilities `softmax(logits)`, as int32. Draw once from a key.
 *
 * The position of the largest of `logits + g` with Gumbel noise `g = -log(-log u)`.
 *
 * Shapes: `key`: u32[2]; the result has `shape`.
 * Units: none.
 *
 * @throws {ShapeError} if `shape` does not end with the axes of the logits that are not the classes
 * @throws {DTypeError} if the logits are not of a float type
 * @example A class that is all but certain
 * ```ts
 * assertClose(ct.random.categorical(ct.random.key(0), ct.tensor([0, 50, 0]), { shape: [2] }), [1, 1]);
 * ```
 * @since 0.1.0
 */
export function categorical(key: Value, logits: Value, options: CategoricalOptions = {}): Value {
  if (logits.dtype === "float16") return categorical(key, cast(logits, "float32"), options);
  const axis = normalizeAxis(options.axis ?? -1, logits.ndim, "categorical");
  const others = withoutAxes(logits.shape, [axis]);
  const shape = options.shape ?? others;
  const extra = shape.length - others.length;
  if (extra < 0 || !sameShape(shape.slice(extra), others)) {
    throw new ShapeError(
      "categorical",
      `Cannot draw categorical [${shape}] from ${logits.aval}: the shape does not end with [${others}], which is needed`,
    );
  }
  const drawn = insertAt(shape, extra + axis, logits.shape[axis]!);
  const tiny = logits.dtype === "float32" ? 2 ** -126 : 2 ** -1022; // the smallest normal number: log(u) is finite
  const u = uniform(key, drawn, { min: tiny, dtype: logits.dtype });
  const gumbel = neg(log(neg(log(u))));
  return argmax(add(gumbel, broadcastTo(logits, drawn)), extra + axis);
}

/**
 * Random order of the integers below `n`, or of the slices of a value along an axis. Draw once from a key.
 *
 * Sorts by random bits, for large counts more than once so that equal bits do not matter.
 *
 * Shapes: i32[n], or that of the value.
 * Units: none.
 *
 * @param x a count or a value
 * @throws {ShapeError} if the count is not a non-negative integer, or the value lacks the axis
 * @example Shuffled rows
 * ```ts
 * const rows = ct.random.permutation(ct.random.key(0), ct.tensor([[1, 2], [3, 4], [5, 6]]));
 * assertClose(rows.sum({ axis: 0 }), [9, 12]);
 * ```
 * @since 0.1.0
 */
export function permutation(key: Value, x: Operand, options: { readonly axis?: number } = {}): Value {
  if (typeof x !== "number") {
    const axis = normalizeAxis(options.axis ?? 0, x.ndim, "permutation");
    return gather(x, permutation(key, x.shape[axis]!), { axis, batchDims: 0 });
  }
  if (!Number.isInteger(x) || x < 0) {
    throw new ShapeError("permutation", `Cannot permute ${x} integers: a non-negative integer is needed`);
  }
  const rounds = Math.ceil((3 * Math.log(Math.max(1, x))) / Math.log(2 ** 32 - 1));
  let order = iota([x], 0);
  for (let round = 0; round < rounds; round++) {
    const [next, now] = split(key);
    order = bind(sortP, [bits(now!, [x]), order], { axis: 0 })[1]!;
    key = next!;
  }
  return order;
}
