/** Windows over images: convolution and pooling. Images are `[n, c, h, w]`, kernels `[out, in, h, w]`. */

import { full } from "../create.ts";
import { ShapeError } from "../errors.ts";
import { convGeneral } from "../prims/conv.ts";
import * as p from "../prims/pool.ts";
import type { Shape } from "../shape.ts";
import type { Value } from "../value.ts";
import { div } from "./math.ts";

/**
 * No padding, as much as keeps `ceil(size / stride)` windows, or the amounts before and after each spatial axis.
 *
 * @since 0.1.0
 */
export type Padding = p.Padding;

/**
 * One number for every spatial axis, or one for each.
 *
 * @since 0.1.0
 */
export type PerAxis = number | readonly number[];

function perAxis(given: PerAxis, count: number): readonly number[] {
  return typeof given === "number" ? new Array<number>(count).fill(given) : given;
}

/** The spatial sizes of an image batch. */
function spatial(op: string, x: Value): Shape {
  if (x.ndim < 3) {
    throw new ShapeError(
      op,
      `Cannot ${op} ${x.aval}: it has ${x.ndim} axes, [n, c, ...spatial] with at least 3 is needed`,
    );
  }
  return x.shape.slice(2);
}

/**
 * Options of conv.
 *
 * @since 0.1.0
 */
export interface ConvOptions {
  /** Input positions between outputs; default 1. */
  readonly strides?: PerAxis;
  /** Default "valid". */
  readonly padding?: Padding;
  /** Input positions between kernel elements; default 1. */
  readonly dilation?: PerAxis;
  /** Blocks of channels that do not meet; default 1. */
  readonly groups?: number;
}

/**
 * Convolution as in neural networks (the kernel is not flipped), on any number of spatial axes.
 *
 * Shapes: `x` `[n, c, ...s]`, `w` `[o, c / groups, ...k]`, result `[n, o, ...t]` with
 * `t = floor((low + s + high - dilation (k - 1) - 1) / stride) + 1`.
 *
 * @throws {ShapeError} if axes, channels, groups or options do not fit
 * @throws {DTypeError} if the element types differ or are bool
 * @example Sums of neighbours
 * ```ts
 * const x = ct.reshape(ct.tensor([1, 2, 3, 4]), [1, 1, 4]);
 * assertClose(ct.conv(x, ct.ones([1, 1, 2])), [[[3, 5, 7]]]);
 * assertClose(ct.conv(x, ct.ones([1, 1, 2]), { padding: "same" }), [[[3, 5, 7, 4]]]);
 * ```
 * @since 0.1.0
 */
export function conv(x: Value, w: Value, options: ConvOptions = {}): Value {
  const { padding = "valid", groups = 1 } = options;
  const sizes = spatial("conv", x);
  const kernel = spatial("conv", w);
  const count = sizes.length;
  if (kernel.length !== count) {
    throw new ShapeError(
      "conv",
      `Cannot conv ${x.aval} with ${w.aval}: the spatial axes are ${count} and ${kernel.length}, equal numbers are needed`,
    );
  }
  const strides = perAxis(options.strides ?? 1, count);
  const dilation = perAxis(options.dilation ?? 1, count);
  return convGeneral(x, w, {
    strides,
    dilation,
    padding: p.resolvePadding("conv", padding, sizes, kernel, strides, dilation),
    inputDilation: perAxis(1, count),
    groups,
  });
}

/**
 * Options of maxPool and avgPool.
 *
 * @since 0.1.0
 */
export interface PoolOptions {
  /** Size of the window on the spatial axes; default 2. */
  readonly window?: PerAxis;
  /** Positions between windows; default the window. */
  readonly strides?: PerAxis;
  /** Default "valid". */
  readonly padding?: Padding;
}

function poolParams(op: string, x: Value, options: PoolOptions): p.PoolParams {
  const sizes = spatial(op, x);
  const window = perAxis(options.window ?? 2, sizes.length);
  const strides = perAxis(options.strides ?? window, sizes.length);
  return {
    window,
    strides,
    padding: p.resolvePadding(op, options.padding ?? "valid", sizes, window, strides),
  };
}

/**
 * The largest element of each window; padding never wins.
 *
 * Shapes: `[n, c, ...s]` to `[n, c, ...t]` with `t = floor((low + s + high - window) / stride) + 1`.
 *
 * @throws {ShapeError} if the options do not fit the spatial axes, or a window could hold padding only
 * @example Pairs
 * ```ts
 * const x = ct.reshape(ct.tensor([1, 4, 3, 2]), [1, 1, 4]);
 * assertClose(ct.maxPool(x, { window: 2 }), [[[4, 3]]]);
 * ```
 * @since 0.1.0
 */
export function maxPool(x: Value, options: PoolOptions = {}): Value {
  return p.maxPool(x, poolParams("maxPool", x, options));
}

/**
 * The mean of the elements of each window; padding is not counted.
 *
 * Shapes: `[n, c, ...s]` to `[n, c, ...t]` with `t = floor((low + s + high - window) / stride) + 1`.
 *
 * @throws {ShapeError} if the options do not fit the spatial axes, or a window could hold padding only
 * @throws {DTypeError} if `x` is not of a float type
 * @example Pairs
 * ```ts
 * const x = ct.reshape(ct.tensor([1, 3, 5, 7]), [1, 1, 4]);
 * assertClose(ct.avgPool(x, { window: 2 }), [[[2, 6]]]);
 * ```
 * @since 0.1.0
 */
export function avgPool(x: Value, options: PoolOptions = {}): Value {
  const params = poolParams("avgPool", x, options);
  const sums = p.sumPool(x, params);
  const isPadded = params.padding.some(([low, high]) => low > 0 || high > 0);
  if (!isPadded)
    return div(
      sums,
      params.window.reduce((n, k) => n * k, 1),
    );
  p.checkReach("avgPool", x.aval, params);
  // Padding is not counted: each window is divided by how many elements it holds.
  const ones = full([1, 1, ...x.shape.slice(2)], 1, { dtype: x.dtype });
  return div(sums, p.sumPool(ones, params));
}
