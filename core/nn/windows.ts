/** Layers without parameters that change the size of images. */
import * as ops from "../ops.ts";
import type { Value } from "../value.ts";
import type { Model, NoParams } from "./model.ts";

function withoutParams(name: string, apply: (x: Value) => Value): Model<NoParams> {
  return { name, init: () => ({}), apply: (_params, x) => apply(x) };
}

/**
 * `ct.maxPool` as a layer.
 *
 * Shapes: `[n, c, ...s]` to `[n, c, ...t]` with `t = floor((low + s + high - window) / stride) + 1`.
 *
 * @example Windows 2x2
 * ```ts
 * assertClose(ct.nn.maxPool().apply({}, ct.ones([1, 3, 4, 6])).shape, [1, 3, 2, 3]);
 * ```
 * @since 0.2.0
 */
export function maxPool(options: ops.PoolOptions = {}): Model<NoParams> {
  return withoutParams("maxPool", (x) => ops.maxPool(x, options));
}

/**
 * `ct.avgPool` as a layer.
 *
 * Shapes: `[n, c, ...s]` to `[n, c, ...t]` with `t = floor((low + s + high - window) / stride) + 1`.
 *
 * @example Windows 2x2
 * ```ts
 * assertClose(ct.nn.avgPool().apply({}, ct.ones([1, 1, 2, 2])), [[[[1]]]]);
 * ```
 * @since 0.2.0
 */
export function avgPool(options: ops.PoolOptions = {}): Model<NoParams> {
  return withoutParams("avgPool", (x) => ops.avgPool(x, options));
}

/**
 * A layer that gives the mean of each channel over all positions.
 *
 * Shapes: `[n, c, ...s]` to `[n, c]`.
 *
 * @example Two channels
 * ```ts
 * assertClose(ct.nn.globalAvgPool().apply({}, ct.tensor([[[1, 3], [5, 5]]])), [[2, 5]]);
 * ```
 * @source Lin, Chen & Yan 2014, "Network in network"
 * @since 0.2.0
 */
export function globalAvgPool(): Model<NoParams> {
  return withoutParams("globalAvgPool", (x) =>
    ops.mean(x, { axis: Array.from({ length: x.ndim - 2 }, (_, a) => a + 2) }),
  );
}

/**
 * A layer that repeats every position of an image along each spatial axis.
 *
 * Shapes: `[n, c, ...s]` to `[n, c, ...factor s]`.
 *
 * @example Twice as long
 * ```ts
 * assertClose(ct.nn.upsample(2).apply({}, ct.tensor([[[1, 3]]])), [[[1, 1, 3, 3]]]);
 * ```
 * @since 0.2.0
 */
export function upsample(factor = 2): Model<NoParams> {
  return withoutParams(`upsample ${factor}`, (x) => {
    const [n, c, ...spatial] = x.shape as [number, number, ...number[]];
    const apart = ops.reshape(x, [n, c, ...spatial.flatMap((size) => [size, 1])]);
    const repeated = ops.broadcastTo(apart, [n, c, ...spatial.flatMap((size) => [size, factor])]);
    return ops.reshape(repeated, [n, c, ...spatial.map((size) => size * factor)]);
  });
}
