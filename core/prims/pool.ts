/**
 * Windows that slide over the last axes: their arithmetic, which convolution shares, and pooling. A maximum is chosen
 * by index, so its derivative is a gather at a fixed index; that gather and its transpose scatter, and the sum over
 * windows and its transpose, are the linear members of the family.
 */

import { stored } from "../arithmetic.ts";
import { Aval } from "../aval.ts";
import { makeArray, type TypedArray } from "../dtype.ts";
import { DTypeError, ShapeError } from "../errors.ts";
import { type Dims, type Draw, definePrimitive, Lin, type Primitive } from "../primitive.ts";
import { type Shape, sameShape, sizeOf } from "../shape.ts";
import { bind1 } from "../trace.ts";
import type { Value } from "../value.ts";
import { batchFirst, checkNumeric, linear, moveAxis } from "./movement.ts";

// --- window arithmetic -------------------------------------------------------------------------------------------

/** Elements added before and after each axis. */
export type PaddingPairs = readonly (readonly [lo: number, hi: number])[];

/** What a user writes: no padding, as much as keeps `ceil(size / stride)` windows, or the amounts. */
export type Padding = "valid" | "same" | PaddingPairs;

/**
 * The padding of each axis as numbers. Of an odd "same" amount the larger half comes after the axis.
 *
 * @param op the operation that errors name
 * @param sizes sizes of the padded axes
 * @param window sizes of the window
 * @param dilation steps between the elements of the window (default 1)
 * @throws {ShapeError} if the padding is another word, or not a pair of integers for each axis
 */
export function resolvePadding(
  op: string,
  padding: Padding,
  sizes: Shape,
  window: Shape,
  strides: readonly number[],
  dilation: readonly number[] = window.map(() => 1),
): PaddingPairs {
  if (padding === "valid") return sizes.map(() => [0, 0]);
  if (padding === "same") {
    return sizes.map((n, a) => {
      // total = (count - 1) stride + span - n, with count = ceil(n / stride)
      const reach = (Math.ceil(n / strides[a]!) - 1) * strides[a]! + dilatedSize(window[a]!, dilation[a]!);
      const total = Math.max(0, reach - n);
      return [Math.floor(total / 2), Math.ceil(total / 2)];
    });
  }
  if (!isPairs(padding, sizes.length)) {
    throw new ShapeError(
      op,
      `Cannot ${op}: padding is ${JSON.stringify(padding)}, "valid", "same" or [low, high] for each of ${sizes.length} spatial axes is needed`,
    );
  }
  return padding;
}

/** Whether a value is one pair of integers per axis. */
export function isPairs(padding: unknown, count: number): padding is PaddingPairs {
  return (
    Array.isArray(padding) &&
    padding.length === count &&
    padding.every((p) => Array.isArray(p) && p.length === 2 && p.every(Number.isInteger))
  );
}

/** Size of an axis with `step - 1` holes between neighbours. */
export function dilatedSize(n: number, step: number): number {
  return n === 0 ? 0 : (n - 1) * step + 1;
}

/** How many windows of `span` fit, one every `stride`; 0 where none does. */
export function windowCount(padded: number, span: number, stride: number): number {
  return padded < span ? 0 : Math.floor((padded - span) / stride) + 1;
}

/** Throws ShapeError unless the list has one integer of at least 1 per spatial axis. */
export function checkSteps(op: string, what: string, list: readonly number[], count: number): void {
  if (list.length !== count || !list.every((n) => Number.isInteger(n) && n >= 1)) {
    throw new ShapeError(
      op,
      `Cannot ${op}: ${what} is [${list}], a positive integer for each of ${count} spatial axes is needed`,
    );
  }
}

/** Windows over the last `window.length` axes; the axes before them are kept. */
export interface PoolParams {
  readonly window: readonly number[];
  readonly strides: readonly number[];
  readonly padding: PaddingPairs;
}

/** Checks the parameters and returns the number of windows along each pooled axis. */
function countWindows(op: string, x: Aval, sizes: Shape, { window, strides, padding }: PoolParams): number[] {
  const count = window.length;
  checkNumeric(op, x);
  if (count === 0 || count > x.ndim) {
    throw new ShapeError(
      op,
      `Cannot ${op} ${x}: the window is [${window}], a window of 1 to ${x.ndim} axes is needed`,
    );
  }
  checkSteps(op, "window", window, count);
  checkSteps(op, "strides", strides, count);
  if (!isPairs(padding, count) || padding.some((p) => p[0] < 0 || p[1] < 0)) {
    throw new ShapeError(
      op,
      `Cannot ${op} ${x}: padding is ${JSON.stringify(padding)}, two non-negative integers for each of ${count} pooled axes are needed`,
    );
  }
  return sizes.map((n, a) => {
    const padded = n + padding[a]![0] + padding[a]![1];
    if (padded < window[a]!) {
      throw new ShapeError(
        op,
        `Cannot ${op} ${x}: with padding the pooled sizes are [${sizes.map((m, b) => m + padding[b]![0] + padding[b]![1])}], at least the window [${window}] is needed`,
      );
    }
    return windowCount(padded, window[a]!, strides[a]!);
  });
}

/** Calls `row` for a run of `count` windows: the element at `x + i * step` is in window `out + i`, for i < count. */
type Row = (x: number, step: number, out: number, count: number) => void;

/**
 * Pairs every element with every window that holds it, for `lead` blocks of `sizes` elements. Each window meets its
 * elements in row-major order; padding is skipped, not read.
 */
function forEachWindowRow(
  lead: number,
  sizes: Shape,
  counts: Shape,
  { window, strides, padding }: PoolParams,
  row: Row,
): void {
  const last = sizes.length - 1;
  const walk = (axis: number, x: number, out: number): void => {
    const [size, count, stride, low] = [sizes[axis]!, counts[axis]!, strides[axis]!, padding[axis]![0]];
    for (let k = 0; k < window[axis]!; k++) {
      // 0 <= t stride + k - low < size
      const first = Math.max(0, Math.ceil((low - k) / stride));
      const end = Math.min(count, Math.floor((size - 1 + low - k) / stride) + 1);
      if (first >= end) continue;
      const start = x * size + first * stride + k - low;
      if (axis === last) row(start, stride, out * count + first, end - first);
      else for (let t = first; t < end; t++) walk(axis + 1, start + (t - first) * stride, out * count + t);
    }
  };
  for (let l = 0; l < lead; l++) walk(0, l, l);
}

const leading = (shape: Shape, pooled: number): readonly number[] => shape.slice(0, shape.length - pooled);
const trailing = (shape: Shape, pooled: number): readonly number[] => shape.slice(shape.length - pooled);

function drawPool(draw: Draw): { shape: number[]; sizes: number[]; params: PoolParams } {
  const sizes = draw.shape(1, 2).map((n) => n + draw.int(0, 2));
  const window = sizes.map((n) => draw.int(1, Math.min(n, 3)));
  const padding = window.map((n): [number, number] => [draw.int(0, n - 1), draw.int(0, n - 1)]);
  const strides = sizes.map(() => draw.int(1, 3));
  return { shape: [...draw.shape(0, 2), ...sizes], sizes, params: { window, strides, padding } };
}

// --- maximum -----------------------------------------------------------------------------------------------------

/** Throws ShapeError where a window could hold padding only: nothing is largest there, and nothing has a mean. */
export function checkReach(op: string, x: Aval, { window, padding }: PoolParams): void {
  const sizes = trailing(x.shape, window.length);
  if (sizes.includes(0) || window.some((n, a) => padding[a]!.some((p) => p >= n))) {
    throw new ShapeError(
      op,
      `Cannot ${op} ${x}: padding is ${JSON.stringify(padding)} for the window [${window}], less than the window and no empty pooled axis is needed`,
    );
  }
}

function maxShape(op: string, x: Aval, params: PoolParams): Shape {
  const { window } = params;
  const counts = countWindows(op, x, trailing(x.shape, window.length), params);
  checkReach(op, x, params);
  return [...leading(x.shape, window.length), ...counts];
}

/** The largest element of each window and its place in the block of pooled axes; the first of equals, NaN above all. */
function maxKernel(
  x: TypedArray,
  shape: Shape,
  out: Shape,
  params: PoolParams,
  best: TypedArray,
): Int32Array {
  const pooled = params.window.length;
  const sizes = trailing(shape, pooled);
  const block = sizeOf(sizes);
  const index = new Int32Array(best.length).fill(-1);
  forEachWindowRow(
    sizeOf(leading(shape, pooled)),
    sizes,
    trailing(out, pooled),
    params,
    (start, step, to, n) => {
      const base = start - (start % block);
      for (let i = 0; i < n; i++) {
        const at = start + i * step;
        const value = x[at]!;
        const seen = best[to + i]!;
        if (value > seen || index[to + i]! < 0 || (Number.isNaN(value) && !Number.isNaN(seen))) {
          best[to + i] = value;
          index[to + i] = at - base;
        }
      }
    },
  );
  return index;
}

export const maxPoolP: Primitive<PoolParams> = definePrimitive({
  name: "maxPool",
  doc: "The largest element of each window over the last axes; padding is never chosen.",
  traits: {},
  arity: 1,
  shape: ([x], params) => [x!.withShape(maxShape("maxPool", x!, params))],
  // d max(window) = dx at the first maximum
  jvp: ([x], [dx], params) => [
    [maxPool(x!, params)],
    [dx ? poolGather(dx, maxPoolIndex(x!, params), params.window.length) : null],
  ],
  batch: ([x], [dim], _size, params) => [[maxPool(moveAxis(x!, dim!, 0), params)], [0]],
  kernel: { k: "named", name: "maxPool" },
  cpu([x], [out], params) {
    const best = makeArray(out!.dtype, out!.size);
    maxKernel(x!.data, x!.aval.shape, out!.shape, params, best);
    return [best];
  },
  domain(draw) {
    const { shape, params } = drawPool(draw);
    return { args: [{ shape, distinct: true }], params };
  },
});

/**
 * The largest element of each window over the last `window.length` axes.
 *
 * Shapes: `[..., s]` to `[..., floor((lo + s + hi - window) / stride) + 1]`.
 *
 * @throws {ShapeError} if the window does not fit or the padding is not smaller than the window
 */
export function maxPool(x: Value, params: PoolParams): Value {
  return bind1(maxPoolP, [x], params);
}

export const maxPoolIndexP: Primitive<PoolParams> = definePrimitive({
  name: "maxPoolIndex",
  doc: "Where the first maximum of each window is: its row-major index among the pooled axes.",
  traits: {},
  arity: 1,
  shape: ([x], params) => [new Aval(maxShape("maxPoolIndex", x!, params), "int32")],
  jvp: ([x], _dxs, params) => [[maxPoolIndex(x!, params)], [null]],
  batch: ([x], [dim], _size, params) => [[maxPoolIndex(moveAxis(x!, dim!, 0), params)], [0]],
  kernel: { k: "named", name: "maxPoolIndex" },
  cpu: ([x], [out], params) => [
    maxKernel(x!.data, x!.aval.shape, out!.shape, params, makeArray(x!.aval.dtype, out!.size)),
  ],
  domain(draw) {
    const { shape, params } = drawPool(draw);
    return { args: [{ shape, distinct: true }], params };
  },
});

export function maxPoolIndex(x: Value, params: PoolParams): Value {
  return bind1(maxPoolIndexP, [x], params);
}

// --- gather and scatter at window indices ------------------------------------------------------------------------

/** Checks operands [lead..., pooled...] and int32 [lead..., pooled...] and returns the common leading sizes. */
function checkIndexed(op: string, x: Aval, index: Aval, pooled: number): readonly number[] {
  checkNumeric(op, x);
  if (index.dtype !== "int32") {
    throw new DTypeError(op, `Cannot ${op} ${x}, ${index}: the index is ${index.dtype}, int32 is needed`);
  }
  const lead = leading(x.shape, pooled);
  const fits = pooled >= 1 && pooled <= x.ndim && x.ndim === index.ndim;
  if (!fits || !sameShape(lead, leading(index.shape, pooled))) {
    throw new ShapeError(
      op,
      `Cannot ${op} ${x}, ${index}: the last ${pooled} axes are pooled, equal sizes on the axes before them are needed`,
    );
  }
  return lead;
}

const bothFirst = (xs: readonly Value[], dims: Dims, size: number): [Value, Value] => [
  batchFirst(xs[0]!, dims[0]!, size),
  batchFirst(xs[1]!, dims[1]!, size),
];

export const poolGatherP: Primitive<{ readonly axes: number }> = definePrimitive({
  name: "poolGather",
  doc: "Elements at row-major indices among the last axes; 0 where an index is outside.",
  traits: {},
  arity: 2,
  shape: ([x, index], { axes }) => [
    x!.withShape([...checkIndexed("poolGather", x!, index!, axes), ...trailing(index!.shape, axes)]),
  ],
  jvp: ([x, index], [dx], { axes }) => [
    [poolGather(x!, index!, axes)],
    [dx ? poolGather(dx, index!, axes) : null],
  ],
  transpose: ([ct], [x, index], { axes }) => [
    ct && x instanceof Lin && !(index instanceof Lin)
      ? poolScatter(ct, index!, trailing(x.aval.shape, axes))
      : null,
    null,
  ],
  batch: (xs, dims, size, { axes }) => [[poolGather(...bothFirst(xs, dims, size), axes)], [0]],
  kernel: { k: "named", name: "poolGather" },
  cpu([x, index], [out], { axes }) {
    const data = makeArray(out!.dtype, out!.size);
    const block = sizeOf(trailing(x!.aval.shape, axes));
    const run = sizeOf(trailing(out!.shape, axes));
    const lead = sizeOf(leading(out!.shape, axes));
    const [from, at] = [x!.data, index!.data];
    for (let l = 0; l < lead; l++) {
      for (let i = l * run; i < (l + 1) * run; i++) {
        const k = at[i]!;
        if (k >= 0 && k < block) data[i] = from[l * block + k]!;
      }
    }
    return [data];
  },
  domain(draw) {
    const lead = draw.shape(0, 1);
    const sizes = draw.shape(1, 2);
    const index = [...lead, ...sizes.map(() => draw.int(1, 3))];
    return {
      args: [{ shape: [...lead, ...sizes] }, { shape: index, dtype: "int32", range: [0, sizeOf(sizes) - 1] }],
      params: { axes: sizes.length },
    };
  },
});

/** Elements of the last `axes` axes, taken together in row-major order, at `index`. */
export function poolGather(x: Value, index: Value, axes: number): Value {
  return bind1(poolGatherP, [x, index], { axes });
}

export const poolScatterP: Primitive<{ readonly sizes: Shape }> = definePrimitive({
  name: "poolScatter",
  doc: "Adds elements into zeros at row-major indices among the last axes; those outside are dropped.",
  traits: {},
  arity: 2,
  shape: ([y, index], { sizes }) => {
    const lead = checkIndexed("poolScatter", y!, index!, sizes.length);
    if (!sameShape(y!.shape, index!.shape)) {
      throw new ShapeError(
        "poolScatter",
        `Cannot poolScatter ${y}, ${index}: the shapes differ, equal shapes are needed`,
      );
    }
    return [y!.withShape([...lead, ...sizes])];
  },
  jvp: ([y, index], [dy], { sizes }) => [
    [poolScatter(y!, index!, sizes)],
    [dy ? poolScatter(dy, index!, sizes) : null],
  ],
  transpose: ([ct], [y, index], { sizes }) => [
    ct && y instanceof Lin && !(index instanceof Lin) ? poolGather(ct, index!, sizes.length) : null,
    null,
  ],
  batch: (xs, dims, size, { sizes }) => [[poolScatter(...bothFirst(xs, dims, size), sizes)], [0]],
  kernel: { k: "named", name: "poolScatter" },
  cpu([y, index], [out], { sizes }) {
    const sums = new Float64Array(out!.size);
    const block = sizeOf(sizes);
    const run = sizeOf(trailing(y!.aval.shape, sizes.length));
    const lead = sizeOf(leading(out!.shape, sizes.length));
    const [from, at] = [y!.data, index!.data];
    for (let l = 0; l < lead; l++) {
      for (let i = l * run; i < (l + 1) * run; i++) {
        const k = at[i]!;
        if (k >= 0 && k < block) sums[l * block + k]! += from[i]!;
      }
    }
    return [stored(sums, out!)];
  },
  domain(draw) {
    const sizes = draw.shape(1, 2);
    const shape = [...draw.shape(0, 1), ...sizes.map(() => draw.int(1, 3))];
    return {
      args: [{ shape }, { shape, dtype: "int32", range: [0, sizeOf(sizes) - 1] }],
      params: { sizes },
    };
  },
});

/** The transpose of `poolGather`: sums of the elements that share an index, in axes of the given sizes. */
export function poolScatter(y: Value, index: Value, sizes: Shape): Value {
  return bind1(poolScatterP, [y, index], { sizes });
}

// --- sum ---------------------------------------------------------------------------------------------------------

export const sumPoolP: Primitive<PoolParams> = linear({
  name: "sumPool",
  doc: "The sum of each window over the last axes; padding counts as 0, float32 accumulates in float64.",
  shape([x], params) {
    const pooled = params.window.length;
    const counts = countWindows("sumPool", x!, trailing(x!.shape, pooled), params);
    return [x!.withShape([...leading(x!.shape, pooled), ...counts])];
  },
  transpose: (ct, x, params) => sumPoolTranspose(ct, params, trailing(x.shape, params.window.length)),
  batch: (x, dim, _size, params) => [sumPool(moveAxis(x, dim, 0), params), 0],
  kernel: { k: "named", name: "sumPool" },
  cpu([x], [out], params) {
    const sums = new Float64Array(out!.size);
    const from = x!.data;
    const pooled = params.window.length;
    forEachWindowRow(
      sizeOf(leading(out!.shape, pooled)),
      trailing(x!.aval.shape, pooled),
      trailing(out!.shape, pooled),
      params,
      (start, step, to, n) => {
        for (let i = 0; i < n; i++) sums[to + i]! += from[start + i * step]!;
      },
    );
    return [stored(sums, out!)];
  },
  domain(draw) {
    const { shape, params } = drawPool(draw);
    return { args: [{ shape }], params };
  },
});

/**
 * The sum of each window over the last `window.length` axes; padding counts as 0.
 *
 * Shapes: `[..., s]` to `[..., floor((lo + s + hi - window) / stride) + 1]`.
 *
 * @throws {ShapeError} if the window does not fit
 */
export function sumPool(x: Value, params: PoolParams): Value {
  return bind1(sumPoolP, [x], params);
}

export const sumPoolTransposeP: Primitive<PoolParams & { readonly sizes: Shape }> = linear({
  name: "sumPoolTranspose",
  doc: "Gives each element of axes of the given sizes the sum of the windows that hold it: the transpose of sumPool.",
  shape([y], { sizes, ...params }) {
    const pooled = params.window.length;
    const counts = countWindows("sumPoolTranspose", y!, sizes, params);
    if (sizes.length !== pooled || !sameShape(counts, trailing(y!.shape, pooled))) {
      throw new ShapeError(
        "sumPoolTranspose",
        `Cannot sumPoolTranspose ${y} to sizes [${sizes}]: they have [${counts}] windows, those of the last ${pooled} axes are needed`,
      );
    }
    return [y!.withShape([...leading(y!.shape, pooled), ...sizes])];
  },
  transpose: (ct, _y, { window, strides, padding }) => sumPool(ct, { window, strides, padding }),
  batch: (y, dim, _size, { sizes, ...params }) => [sumPoolTranspose(moveAxis(y, dim, 0), params, sizes), 0],
  kernel: { k: "named", name: "sumPoolTranspose" },
  cpu([y], [out], { sizes, ...params }) {
    const sums = new Float64Array(out!.size);
    const from = y!.data;
    const pooled = sizes.length;
    forEachWindowRow(
      sizeOf(leading(out!.shape, pooled)),
      sizes,
      trailing(y!.aval.shape, pooled),
      params,
      (start, step, at, n) => {
        for (let i = 0; i < n; i++) sums[start + i * step]! += from[at + i]!;
      },
    );
    return [stored(sums, out!)];
  },
  domain(draw) {
    const { shape, sizes, params } = drawPool(draw);
    const { window, strides, padding } = params;
    const counts = sizes.map((n, a) =>
      windowCount(n + padding[a]![0] + padding[a]![1], window[a]!, strides[a]!),
    );
    return { args: [{ shape: [...leading(shape, sizes.length), ...counts] }], params: { ...params, sizes } };
  },
});

/** The transpose of `sumPool` from pooled axes of the given sizes. */
export function sumPoolTranspose(y: Value, params: PoolParams, sizes: Shape): Value {
  return bind1(sumPoolTransposeP, [y], { ...params, sizes });
}
