/** Reading and adding at positions, and putting in order. */
import { arange } from "../create.ts";
import type { DType } from "../dtype.ts";
import { DTypeError, ShapeError } from "../errors.ts";
import * as p from "../prims/indexing.ts";
import { broadcast } from "../prims/movement.ts";
import * as order from "../prims/sort.ts";
import { normalizeAxis } from "../shape.ts";
import type { AxisOption, Operand, Value } from "../value.ts";
import { add, equal, less, where } from "./math.ts";
import { broadcastTo, cast, expandDims, toValue } from "./shape.ts";

/** Indices as int32, negative ones counted from the end of an axis of `size`. */
function resolveIndices(op: string, indices: Operand, size: number): Value {
  const value = toValue(op, indices, "int32");
  if (value.dtype !== "int32" && value.dtype !== "uint32") {
    throw new DTypeError(
      op,
      `Cannot ${op} at ${value.aval}: the indices are ${value.dtype}, int32 is needed; cast first`,
    );
  }
  const signed = cast(value, "int32");
  return where(less(signed, 0), add(signed, size), signed);
}

/**
 * The slices of `x` at indices along an axis (default 0), as NumPy has it; negative indices count from the end.
 *
 * One list of indices serves the whole axis; `gather` reads another index at each place, `scatterAdd` is the transpose.
 *
 * Shapes: the axes of `indices` take the place of `axis`.
 *
 * @throws {RangeError} if an index is outside the axis
 * @throws {DTypeError} if the indices are not integers
 * @throws {ShapeError} if the axis is outside
 * @example Rows
 * ```ts
 * const x = ct.tensor([[1, 2], [3, 4], [5, 6]]);
 * assertClose(ct.take(x, ct.tensor([2, 0], { dtype: "int32" })), [[5, 6], [1, 2]]);
 * assertClose(ct.take(x, -1, { axis: 1 }), [2, 4, 6]);
 * ```
 * @since 0.1.0
 */
export function take(x: Value, indices: Operand, { axis = 0 }: AxisOption = {}): Value {
  const a = normalizeAxis(axis, x.ndim, "take");
  return p.gather(x, resolveIndices("take", indices, x.shape[a]!), { axis: a, batchDims: 0 });
}

/**
 * One element per index along an axis (default 0): `result[i, j] = x[indices[i, j], j]` for axis 0 of a matrix.
 *
 * NumPy calls it `take_along_axis`. Negative indices count from the end. For whole slices at a list of indices: `take`.
 *
 * Shapes: `x` and `indices` have equal sizes but along `axis`; the result is like `indices`.
 *
 * @throws {RangeError} if an index is outside the axis
 * @throws {DTypeError} if the indices are not integers
 * @throws {ShapeError} if sizes off the axis differ
 * @example One element of each row
 * ```ts
 * const x = ct.tensor([[1, 2], [3, 4]]);
 * assertClose(ct.gather(x, ct.tensor([[1], [0]], { dtype: "int32" }), { axis: 1 }), [[2], [3]]);
 * ```
 * @since 0.1.0
 */
export function gather(x: Value, indices: Value, { axis = 0 }: AxisOption = {}): Value {
  const a = normalizeAxis(axis, x.ndim, "gather");
  if (indices.ndim !== x.ndim || indices.shape.some((n, i) => i !== a && n !== x.shape[i])) {
    throw new ShapeError(
      "gather",
      `Cannot gather from ${x.aval} at ${indices.aval} along axis ${a}: other sizes differ, equal sizes on the other axes are needed`,
    );
  }
  return p.takeAlong(x, resolveIndices("gather", indices, x.shape[a]!), a);
}

/**
 * `x` with updates added at indices along an axis (default 0); updates at one index add up. The transpose of
 * `take`, which reads where this adds.
 *
 * Shapes: `updates` broadcasts to the shape of `take(x, indices, { axis })`; the result is like `x`.
 *
 * @throws {RangeError} if an index is outside the axis
 * @throws {DTypeError} if the indices are not integers, or the element types differ
 * @throws {ShapeError} if the updates do not broadcast
 * @example Counting
 * ```ts
 * const at = ct.tensor([0, 2, 0], { dtype: "int32" });
 * assertClose(ct.scatterAdd(ct.zeros([3]), at, 1), [2, 0, 1]);
 * ```
 * @since 0.1.0
 */
export function scatterAdd(
  x: Value,
  indices: Operand,
  updates: Operand,
  { axis = 0 }: AxisOption = {},
): Value {
  const a = normalizeAxis(axis, x.ndim, "scatterAdd");
  const size = x.shape[a]!;
  const at = resolveIndices("scatterAdd", indices, size);
  const shape = [...x.shape.slice(0, a), ...at.shape, ...x.shape.slice(a + 1)];
  const added = broadcastTo(toValue("scatterAdd", updates, x.dtype), shape);
  return add(x, p.scatterAdd(at, added, { axis: a, batchDims: 0, size }));
}

/**
 * Options of oneHot.
 *
 * @since 0.1.0
 */
export interface OneHotOptions {
  /** Element type of the result; default float32. */
  readonly dtype?: DType;
}

/**
 * 1 at the index along a new last axis, 0 elsewhere; an index outside [0, depth) gives zeros.
 *
 * Shapes: `[...]` to `[..., depth]`.
 *
 * @throws {ShapeError} if `depth` is not a non-negative integer
 * @example Two classes
 * ```ts
 * assertClose(ct.oneHot(ct.tensor([1, 0], { dtype: "int32" }), 2), [[0, 1], [1, 0]]);
 * ```
 * @since 0.1.0
 */
export function oneHot(indices: Value, depth: number, { dtype = "float32" }: OneHotOptions = {}): Value {
  const classes = arange(depth, undefined, 1, { dtype: indices.dtype });
  const shape = [...indices.shape, depth];
  const chosen = equal(expandDims(indices, -1), broadcast(classes, shape, [indices.ndim]));
  return cast(chosen, dtype);
}

/**
 * The elements in ascending order along an axis (default the last), NaN last.
 *
 * Shapes: like `x`.
 *
 * @throws {ShapeError} if the axis is outside
 * @example Three numbers
 * ```ts
 * assertClose(ct.sort(ct.tensor([3, 1, 2])), [1, 2, 3]);
 * ```
 * @since 0.1.0
 */
export function sort(x: Value, { axis = -1 }: AxisOption = {}): Value {
  return order.sort(x, normalizeAxis(axis, x.ndim, "sort"));
}

/**
 * The positions that put the elements in ascending order along an axis (default the last), as int32; equal elements
 * keep their order.
 *
 * Shapes: like `x`.
 *
 * @throws {ShapeError} if the axis is outside
 * @example Three numbers
 * ```ts
 * assertClose(ct.argsort(ct.tensor([3, 1, 2])), [1, 2, 0]);
 * ```
 * @since 0.1.0
 */
export function argsort(x: Value, { axis = -1 }: AxisOption = {}): Value {
  return order.argsort(x, normalizeAxis(axis, x.ndim, "argsort"));
}
