/** Making tensors from numbers. */
import { Aval } from "./aval.ts";
import { type DType, dtypeOf, dtypes, isDType, isFloat, makeArray, type TypedArray } from "./dtype.ts";
import { DTypeError, ShapeError } from "./errors.ts";
import { like } from "./prims/elementwise.ts";
import { broadcast } from "./prims/movement.ts";
import { checkShape, type Shape, sizeOf } from "./shape.ts";
import { adopt, placed } from "./trace.ts";
import type { Nested, Tensor, Value } from "./value.ts";

/**
 * The element type of a new value.
 *
 * @since 0.1.0
 */
export interface CreateOptions {
  /** Element type; default float32, or that of the typed array. */
  readonly dtype?: DType;
  /** Device that holds the elements; default: see `setDefaultDevice`. */
  readonly device?: string;
}

/**
 * The element type and shape of a new tensor.
 *
 * @since 0.1.0
 */
export interface TensorOptions extends CreateOptions {
  /** For flat typed arrays: the shape; default one axis. */
  readonly shape?: Shape;
}

/**
 * A tensor with copies of the given numbers.
 *
 * Shapes: nested lists give one axis per level; a typed array has one axis unless `shape` is given.
 * Units: none.
 *
 * @param data a number, nested lists of numbers or booleans, or a typed array; one that stores no element type needs
 * `dtype`, and so does a `Uint8Array` of other numbers than 0 and 1, which is read as bool
 * @throws {ShapeError} if lists of one level differ in length, or the data do not fill `shape`
 * @throws {DTypeError} if an element cannot be represented: a fraction, or a number outside the range, in an integer type
 * @example A matrix and a vector of integers
 * ```ts
 * assertClose(ct.tensor([[1, 2], [3, 4]]).shape, [2, 2]);
 * assert(ct.tensor([1, 2], { dtype: "int32" }).dtype === "int32");
 * ```
 * @since 0.1.0
 */
export function tensor(
  data: Nested | TypedArray | Int8Array | Int16Array | Uint16Array | Uint8ClampedArray,
  options: TensorOptions = {},
): Tensor {
  if (ArrayBuffer.isView(data)) {
    const source = data as TypedArray;
    const isNamed = options.dtype !== undefined && holdsNumbers(data);
    const dtype = isNamed ? checkDType(options.dtype) : dtypeOf(source);
    if (!isNamed && dtype === "bool") checkBool(source, "make a tensor of");
    return make(source, options.shape ?? [source.length], dtype, options.device);
  }
  const shape = nestedShape(data);
  const flat: number[] = [];
  collect(data, shape, 0, flat);
  return make(flat, options.shape ?? shape, checkDType(options.dtype ?? "float32"), options.device);
}

function make(source: ArrayLike<number>, shape: Shape, dtype: DType, device?: string): Tensor {
  checkShape(shape, "make a tensor of");
  if (sizeOf(shape) !== source.length) {
    throw new ShapeError(
      "tensor",
      `Cannot make a tensor of shape [${shape}]: there are ${source.length} elements, ${sizeOf(shape)} are needed`,
    );
  }
  const data = makeArray(dtype, source.length);
  for (let i = 0; i < source.length; i++) {
    const x = source[i]!;
    data[i] = x;
    if (!isFloat(dtype) && data[i] !== x) {
      if (dtype === "bool" && x !== 0) data[i] = 1;
      else
        throw new DTypeError(
          "tensor",
          `Cannot make an ${dtype} tensor: element ${i} is ${x}, an ${dtype} number is needed`,
        );
    }
    if (dtype === "bool") data[i] = Number(x !== 0);
  }
  return placed(adopt(data, shape, dtype), device);
}

/** Whether the elements of a view are numbers, not big integers, and it has elements. */
function holdsNumbers(view: ArrayBufferView): boolean {
  return !(view instanceof DataView || view instanceof BigInt64Array || view instanceof BigUint64Array);
}

/** Throws DTypeError unless every byte is 0 or 1: how bool is stored. */
function checkBool(data: TypedArray, use: string): void {
  const at = data.findIndex((x) => x > 1);
  if (at < 0) return;
  throw new DTypeError(
    "tensor",
    `Cannot ${use} a Uint8Array as bool: element ${at} is ${data[at]}, 0 or 1 is needed; give tensor a dtype for numbers`,
  );
}

function nestedShape(data: Nested): number[] {
  const shape: number[] = [];
  for (let level: Nested | undefined = data; Array.isArray(level); level = level[0] as Nested | undefined)
    shape.push(level.length);
  return shape;
}

function collect(data: Nested, shape: Shape, axis: number, flat: number[]): void {
  if (typeof data === "number" || typeof data === "boolean") {
    if (axis === shape.length) {
      flat.push(Number(data));
      return;
    }
  } else if (Array.isArray(data) && axis < shape.length && data.length === shape[axis]) {
    for (const item of data) collect(item as Nested, shape, axis + 1, flat);
    return;
  }
  const found = Array.isArray(data) ? `a list of ${data.length}` : `${typeof data} ${String(data)}`;
  const needed = axis < shape.length ? `a list of ${shape[axis]}` : "a number";
  throw new ShapeError(
    "tensor",
    `Cannot make a tensor of nested lists: at depth ${axis} there is ${found}, ${needed} is needed`,
  );
}

function checkDType(dtype: unknown): DType {
  if (!isDType(dtype))
    throw new DTypeError(
      "tensor",
      `Cannot make a tensor: the element type is ${JSON.stringify(dtype)}, one of ${dtypes.join(", ")} is needed`,
    );
  return dtype;
}

/**
 * A tensor around a typed array that the caller gives up, without a copy.
 *
 * The caller must not write to the array afterwards: tensors are immutable.
 *
 * Shapes: `shape`, default one axis.
 * Units: none.
 *
 * @throws {RangeError} if the array does not fill the shape
 * @throws {DTypeError} if the array stores no element type, or bytes other than 0 and 1
 * @example A large array without a copy
 * ```ts
 * assertClose(ct.adopt(new Float32Array([1, 2, 3, 4]), [2, 2]).sum(), 10);
 * ```
 * @since 0.1.0
 */
export function adoptArray(data: TypedArray, shape: Shape = [data.length]): Tensor {
  checkShape(shape, "adopt an array as");
  const dtype = dtypeOf(data);
  if (dtype === "bool") checkBool(data, "adopt");
  return adopt(data, shape, dtype);
}

/**
 * A value with every element the same.
 *
 * Shapes: the result has `shape`.
 * Units: none.
 *
 * @throws {ShapeError} if a size is not a non-negative integer
 * @throws {DTypeError} if `value` is no number of an integer type
 * @example Sevens
 * ```ts
 * assertClose(ct.full([2], 7), [7, 7]);
 * ```
 * @since 0.1.0
 */
export function full(shape: Shape, value: number, options: CreateOptions = {}): Value {
  return broadcast(make([value], [], checkDType(options.dtype ?? "float32"), options.device), shape, []);
}

/**
 * A value of zeros.
 *
 * Shapes: the result has `shape`.
 * Units: none.
 *
 * @throws {ShapeError} if a size is not a non-negative integer
 * @example Zeros
 * ```ts
 * assertClose(ct.zeros([2, 2]), [[0, 0], [0, 0]]);
 * ```
 * @since 0.1.0
 */
export function zeros(shape: Shape, options: CreateOptions = {}): Value {
  return full(shape, 0, options);
}

/**
 * A value of ones.
 *
 * Shapes: the result has `shape`.
 * Units: none.
 *
 * @throws {ShapeError} if a size is not a non-negative integer
 * @example Ones
 * ```ts
 * assertClose(ct.ones([3]), [1, 1, 1]);
 * ```
 * @since 0.1.0
 */
export function ones(shape: Shape, options: CreateOptions = {}): Value {
  return full(shape, 1, options);
}

/**
 * Zeros with the shape and element type of another value.
 *
 * Shapes: like `x`.
 * Units: none.
 *
 * @example A zero state
 * ```ts
 * assertClose(ct.zerosLike(ct.tensor([1, 2])), [0, 0]);
 * ```
 * @since 0.1.0
 */
export function zerosLike(x: Value): Value {
  return like(x, 0);
}

/**
 * Ones with the shape and element type of another value.
 *
 * Shapes: like `x`.
 * Units: none.
 *
 * @example A unit weight
 * ```ts
 * assertClose(ct.onesLike(ct.tensor([4, 5])), [1, 1]);
 * ```
 * @since 0.1.0
 */
export function onesLike(x: Value): Value {
  return like(x, 1);
}

/**
 * Evenly spaced numbers from `start` up to, not including, `stop`.
 *
 * Shapes: `[ceil((stop - start) / step)]`.
 * Units: none.
 *
 * @param start first number; with one argument it is `stop` and counting starts at 0
 * @throws {RangeError} if the step is 0 or not finite
 * @example Three counts
 * ```ts
 * assertClose(ct.arange(3), [0, 1, 2]);
 * assertClose(ct.arange(1, 2, 0.5), [1, 1.5]);
 * ```
 * @since 0.1.0
 */
export function arange(start: number, stop?: number, step = 1, options: CreateOptions = {}): Tensor {
  const [lo, hi] = stop === undefined ? [0, start] : [start, stop];
  const count = Math.max(0, Math.ceil((hi - lo) / step));
  if (!Number.isFinite(count))
    throw new RangeError(
      `Cannot make arange(${lo}, ${hi}, ${step}): the count is ${count}, finite numbers and a step other than 0 are needed`,
    );
  return make(
    Float64Array.from({ length: count }, (_, i) => lo + i * step),
    [count],
    checkDType(options.dtype ?? "float32"),
    options.device,
  );
}

/**
 * `count` evenly spaced numbers from `start` to `stop`, both included.
 *
 * Shapes: `[count]`.
 * Units: none.
 *
 * @throws {RangeError} if `count` is not a non-negative integer
 * @example Quarters
 * ```ts
 * assertClose(ct.linspace(0, 1, 5), [0, 0.25, 0.5, 0.75, 1]);
 * ```
 * @since 0.1.0
 */
export function linspace(start: number, stop: number, count: number, options: CreateOptions = {}): Tensor {
  if (!Number.isInteger(count) || count < 0)
    throw new RangeError(`Cannot make linspace: count is ${count}, a non-negative integer is needed`);
  const at = (i: number): number =>
    i === count - 1 && count > 1 ? stop : start + ((stop - start) * i) / Math.max(1, count - 1);
  return make(
    Float64Array.from({ length: count }, (_, i) => at(i)),
    [count],
    checkDType(options.dtype ?? "float32"),
    options.device,
  );
}

/**
 * The identity matrix.
 *
 * Shapes: `[n, columns]`.
 * Units: none.
 *
 * @throws {ShapeError} if a size is not a non-negative integer
 * @example Two by two
 * ```ts
 * assertClose(ct.eye(2), [[1, 0], [0, 1]]);
 * ```
 * @since 0.1.0
 */
export function eye(n: number, columns: number = n, options: CreateOptions = {}): Tensor {
  const dtype = checkDType(options.dtype ?? "float32");
  checkShape([n, columns], "make eye of");
  const data = makeArray(dtype, n * columns);
  for (let i = 0; i < Math.min(n, columns); i++) data[i * columns + i] = 1;
  return placed(adopt(data, [n, columns], dtype), options.device);
}

/**
 * The abstract value of a shape and an element type: what the `shape` rule of a primitive returns.
 *
 * Shapes: `shape`.
 * Units: none.
 *
 * @example A shape without numbers
 * ```ts
 * assert(String(ct.aval([2, 3], "int32")) === "i32[2,3]");
 * ```
 * @since 0.1.0
 */
export function aval(shape: Shape, dtype: DType = "float32"): Aval {
  return new Aval(shape, dtype);
}
