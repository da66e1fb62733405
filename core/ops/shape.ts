/** Shapes and places: broadcasting, reshaping, joining and cutting. No rules here, only resolved options. */
import { type DType, dtypes, isDType, isFloat, makeArray } from "../dtype.ts";
import { DTypeError, ShapeError } from "../errors.ts";
import { cast as castTo } from "../prims/elementwise.ts";
import * as p from "../prims/movement.ts";
import {
  broadcastShapes,
  checkShape,
  insertAt,
  normalizeAxes,
  normalizeAxis,
  range,
  type Shape,
  sameShape,
  sizeOf,
  withoutAxes,
} from "../shape.ts";
import { beside, bind1, scalar } from "../trace.ts";
import { type AxesOption, type AxisOption, type Operand, type Tensor, Value } from "../value.ts";

/** Whether an element type holds a number exactly; floats hold the nearest. */
function represents(dtype: DType, x: number): boolean {
  if (isFloat(dtype)) return true;
  if (dtype === "bool") return x === 0 || x === 1;
  const held = makeArray(dtype, 1);
  held[0] = x;
  return held[0] === x;
}

/** A value as it is; a number as a scalar of an element type. */
export function toValue(op: string, x: Operand, dtype: DType = "float32"): Value {
  if (x instanceof Value) return x;
  if (typeof x !== "number") {
    throw new DTypeError(op, `Cannot ${op}: an operand is ${describe(x)}, a tensor or a number is needed`);
  }
  if (!represents(dtype, x)) {
    throw new DTypeError(
      op,
      `Cannot ${op}: the number ${x} meets a tensor of ${dtype}, a number of that type is needed; cast first`,
    );
  }
  return scalar(x, dtype);
}

function describe(x: unknown): string {
  if (Array.isArray(x)) return "an array";
  return x === null || typeof x === "undefined" ? String(x) : `of type ${typeof x}`;
}

/** Operands as values of one shape: numbers take the element type of the first value, then all are broadcast. */
export function align(op: string, ...xs: readonly Operand[]): Value[] {
  const near = xs.find((x) => x instanceof Value);
  const values = xs.map((x) => {
    const value = toValue(op, x, near?.dtype);
    return near && value !== x ? beside(near, value as Tensor) : value;
  });
  const [first] = values;
  if (values.every((x) => sameShape(x.shape, first!.shape))) return values;
  const shape = broadcastShapes(op, ...values.map((x) => x.shape));
  return values.map((x) => broadcastTo(x, shape));
}

/**
 * The value repeated along new leading axes and axes of size 1.
 *
 * Shapes: `x` broadcasts to `shape` as in NumPy.
 *
 * @throws {ShapeError} if a size of `x` is neither 1 nor that of `shape`
 * @example A row twice
 * ```ts
 * assertClose(ct.broadcastTo(ct.tensor([1, 2]), [2, 2]), [[1, 2], [1, 2]]);
 * ```
 * @since 0.1.0
 */
export function broadcastTo(x: Value, shape: Shape): Value {
  if (sameShape(x.shape, shape)) return x;
  checkShape(shape, "broadcastTo");
  const offset = shape.length - x.ndim;
  if (offset < 0 || x.shape.some((n, i) => n !== 1 && n !== shape[offset + i])) {
    throw new ShapeError(
      "broadcastTo",
      `Cannot broadcastTo ${x.aval}: the target is [${shape}], equal sizes where the operand's are not 1 are needed`,
    );
  }
  const kept = range(x.ndim).filter((a) => x.shape[a] === shape[offset + a]);
  return p.broadcast(
    p.reshape(
      x,
      kept.map((a) => x.shape[a]!),
    ),
    shape,
    kept.map((a) => offset + a),
  );
}

/**
 * The same elements in row-major order under another shape.
 *
 * Shapes: the result has `shape`, where one -1 stands for what is left.
 *
 * @throws {ShapeError} if the number of elements differs
 * @example Two rows
 * ```ts
 * assertClose(ct.reshape(ct.tensor([1, 2, 3, 4]), [2, -1]), [[1, 2], [3, 4]]);
 * ```
 * @since 0.1.0
 */
export function reshape(x: Value, shape: Shape): Value {
  const unknown = shape.indexOf(-1);
  if (unknown < 0) return p.reshape(x, shape);
  const known = sizeOf(shape.filter((_, i) => i !== unknown));
  if (shape.lastIndexOf(-1) !== unknown || known <= 0 || x.size % known !== 0) {
    throw new ShapeError(
      "reshape",
      `Cannot reshape ${x.aval} to [${shape}]: it has ${x.size} elements, one -1 and other sizes that divide them are needed`,
    );
  }
  return p.reshape(
    x,
    shape.map((n) => (n === -1 ? x.size / known : n)),
  );
}

/**
 * Axes in another order; axis i of the result is axis `perm[i]` of `x`.
 *
 * Shapes: the sizes of `x` in the order of `perm`.
 *
 * @param perm default: the reverse; negative axes count from the end
 * @throws {ShapeError} if `perm` is not a permutation of the axes
 * @example A matrix
 * ```ts
 * assertClose(ct.transpose(ct.tensor([[1, 2], [3, 4]])), [[1, 3], [2, 4]]);
 * ```
 * @since 0.1.0
 */
export function transpose(x: Value, perm?: readonly number[]): Value {
  if (perm === undefined) return p.permute(x, range(x.ndim).reverse());
  return p.permute(
    x,
    perm.map((a) => normalizeAxis(a, x.ndim, "transpose")),
  );
}

/**
 * `transpose` with the order spelled out.
 *
 * Shapes: the sizes of `x` in the order of `perm`.
 *
 * @throws {ShapeError} if `perm` is not a permutation of the axes
 * @example Channels last
 * ```ts
 * assertClose(ct.permute(ct.zeros([1, 3, 4, 5]), [0, 2, 3, 1]).shape, [1, 4, 5, 3]);
 * ```
 * @since 0.1.0
 */
export function permute(x: Value, perm: readonly number[]): Value {
  return transpose(x, perm);
}

/**
 * New axes of size 1.
 *
 * Shapes: the result has size 1 at each `axis`.
 *
 * @param axis places in the result; negative ones count from its end
 * @throws {ShapeError} if an axis is outside the result or occurs twice
 * @example A column
 * ```ts
 * assertClose(ct.expandDims(ct.tensor([1, 2]), 1).shape, [2, 1]);
 * ```
 * @since 0.1.0
 */
export function expandDims(x: Value, axis: number | readonly number[]): Value {
  const count = typeof axis === "number" ? 1 : axis.length;
  const axes = normalizeAxes(axis, x.ndim + count, "expandDims");
  return p.reshape(
    x,
    axes.reduce<Shape>((shape, a) => insertAt(shape, a, 1), x.shape),
  );
}

/**
 * Without axes of size 1.
 *
 * Shapes: `x` without `axis`.
 *
 * @param axis default: all axes of size 1
 * @throws {ShapeError} if an axis has another size
 * @example A scalar
 * ```ts
 * assertClose(ct.squeeze(ct.tensor([[5]])).shape.length, 0);
 * ```
 * @since 0.1.0
 */
export function squeeze(x: Value, axis?: number | readonly number[]): Value {
  const axes =
    axis === undefined
      ? range(x.ndim).filter((a) => x.shape[a] === 1)
      : normalizeAxes(axis, x.ndim, "squeeze");
  const large = axes.find((a) => x.shape[a] !== 1);
  if (large !== undefined) {
    throw new ShapeError(
      "squeeze",
      `Cannot squeeze ${x.aval}: axis ${large} has size ${x.shape[large]}, size 1 is needed`,
    );
  }
  return p.reshape(x, withoutAxes(x.shape, axes));
}

/**
 * Values one after the other along an axis.
 *
 * Shapes: equal but along `axis` (default 0), where sizes add up.
 *
 * @throws {ShapeError} if the list is empty, or other sizes differ
 * @throws {DTypeError} if the element types differ
 * @example Two vectors
 * ```ts
 * assertClose(ct.concat([ct.tensor([1, 2]), ct.tensor([3])]), [1, 2, 3]);
 * ```
 * @since 0.1.0
 */
export function concat(xs: readonly Value[], { axis = 0 }: AxisOption = {}): Value {
  return p.concat(xs, normalizeAxis(axis, xs[0]?.ndim ?? 1, "concat"));
}

/**
 * Values along a new axis.
 *
 * Shapes: n values of one shape give that shape with n at `axis` (default 0).
 *
 * @throws {ShapeError} if the list is empty, or shapes differ
 * @throws {DTypeError} if the element types differ
 * @example Two columns
 * ```ts
 * assertClose(ct.stack([ct.tensor([1, 2]), ct.tensor([3, 4])], { axis: 1 }), [[1, 3], [2, 4]]);
 * ```
 * @since 0.1.0
 */
export function stack(xs: readonly Value[], { axis = 0 }: AxisOption = {}): Value {
  const [first] = xs;
  const odd = xs.find((x) => !sameShape(first!.shape, x.shape));
  if (first !== undefined && odd !== undefined) {
    throw new ShapeError(
      "stack",
      `Cannot stack ${xs.map((x) => x.aval).join(", ")}: ${odd.aval} differs from ${first.aval}, equal shapes are needed`,
    );
  }
  const other = xs.find((x) => x.dtype !== first!.dtype);
  if (first !== undefined && other !== undefined) {
    throw new DTypeError(
      "stack",
      `Cannot stack ${xs.map((x) => x.aval).join(", ")}: the element types differ, one type is needed; cast first`,
    );
  }
  const at = normalizeAxis(axis, (first?.ndim ?? 0) + 1, "stack");
  return p.concat(
    xs.map((x) => expandDims(x, at)),
    at,
  );
}

/**
 * The parts of a value along an axis: the opposite of `concat`.
 *
 * Shapes: like `x` but along `axis` (default 0).
 *
 * @param parts how many equal parts, or the places where a new part starts
 * @throws {ShapeError} if the size is not divisible, or a place is outside
 * @example Halves, and unequal parts
 * ```ts
 * const [left, right] = ct.split(ct.tensor([1, 2, 3, 4]), 2);
 * assertClose(left, [1, 2]);
 * assertClose(right, [3, 4]);
 * assertClose(ct.split(ct.tensor([1, 2, 3, 4]), [1])[1], [2, 3, 4]);
 * ```
 * @since 0.1.0
 */
export function split(x: Value, parts: number | readonly number[], { axis = 0 }: AxisOption = {}): Value[] {
  const a = normalizeAxis(axis, x.ndim, "split");
  const n = x.shape[a]!;
  const even = typeof parts === "number" ? n / parts : 0;
  if (typeof parts === "number" && !(Number.isInteger(even) && parts >= 1 && Number.isInteger(parts))) {
    throw new ShapeError(
      "split",
      `Cannot split ${x.aval} into ${parts} parts: axis ${a} has size ${n}, a positive integer that divides it is needed`,
    );
  }
  const cuts = typeof parts === "number" ? range(parts - 1).map((i) => (i + 1) * even) : parts;
  const ends = [0, ...cuts, n];
  return range(cuts.length + 1).map((i) => p.sliceAxis(x, a, ends[i]!, ends[i + 1]!));
}

/**
 * Every `strides[i]`-th element of [`starts[i]`, `limits[i]`) along each axis i.
 *
 * Unlike NumPy, negative numbers and limits beyond the size are errors.
 *
 * Shapes: `ceil((limits - starts) / strides)` on each axis.
 *
 * @param strides default 1
 * @throws {ShapeError} if a list does not have one entry for each axis, or `0 <= start <= limit <= size` does not hold
 * @example A corner
 * ```ts
 * assertClose(ct.slice(ct.tensor([[1, 2], [3, 4]]), [0, 1], [2, 2]), [[2], [4]]);
 * ```
 * @since 0.1.0
 */
export function slice(
  x: Value,
  starts: readonly number[],
  limits: readonly number[],
  strides: readonly number[] = starts.map(() => 1),
): Value {
  return p.slice(x, { starts, limits, strides });
}

/**
 * A value surrounded by a constant.
 *
 * Shapes: axis i has `widths[i][0] + n + widths[i][1]` elements.
 *
 * @param widths how many elements before and after, for each axis
 * @throws {ShapeError} if `widths` does not have two non-negative integers for each axis
 * @throws {DTypeError} if `value` is no number of the element type
 * @example Zeros before
 * ```ts
 * assertClose(ct.pad(ct.tensor([1, 2]), [[1, 0]]), [0, 1, 2]);
 * ```
 * @since 0.1.0
 */
export function pad(x: Value, widths: readonly (readonly [number, number])[], value = 0): Value {
  toValue("pad", value, x.dtype);
  return p.pad(x, {
    low: widths.map(([low]) => low),
    high: widths.map(([, high]) => high),
    interior: widths.map(() => 0),
    value,
  });
}

/**
 * The elements in reverse order along axes.
 *
 * Shapes: like `x`.
 *
 * @throws {ShapeError} if an axis is outside or occurs twice
 * @example Backwards
 * ```ts
 * assertClose(ct.flip(ct.tensor([1, 2, 3])), [3, 2, 1]);
 * ```
 * @since 0.1.0
 */
export function flip(x: Value, { axis }: AxesOption = {}): Value {
  const axes = normalizeAxes(axis, x.ndim, "flip");
  return axes.length === 0 ? x : bind1(p.flipP, [x], { axes });
}

/**
 * The nearest elements of another type; also the method `astype`.
 *
 * Floats lose their fraction towards an integer type and saturate; to bool, it is whether they are not 0.
 *
 * Shapes: like `x`.
 *
 * @throws {DTypeError} if the name is not an element type
 * @example To integers
 * ```ts
 * assertClose(ct.cast(ct.tensor([1.7, -1.7]), "int32"), [1, -1]);
 * ```
 * @since 0.1.0
 */
export function cast(x: Operand, dtype: DType): Value {
  if (!isDType(dtype)) {
    throw new DTypeError(
      "cast",
      `Cannot cast to ${JSON.stringify(dtype)}: it is not an element type, one of ${dtypes.join(", ")} is needed`,
    );
  }
  return castTo(toValue("cast", x), dtype);
}
