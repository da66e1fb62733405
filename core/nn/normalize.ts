/** Layers that give their inputs mean 0 and variance 1, over an axis, over groups of channels or over the batch. */
import { full } from "../create.ts";
import { ShapeError } from "../errors.ts";
import { type Moments, observer } from "../observe.ts";
import * as ops from "../ops.ts";
import { sizeOf } from "../shape.ts";
import type { Value } from "../value.ts";
import type { Model } from "./model.ts";

/**
 * The parameters of a normalization.
 *
 * @since 0.1.0
 */
export type NormParams = { readonly scale: Value; readonly offset: Value };

/**
 * Options of normalizations.
 *
 * @since 0.2.0
 */
export interface NormOptions {
  /** Added to the variance; default 1e-5. */
  readonly epsilon?: number;
}

/** Scales of 1 and offsets of 0: the normalized values as they are. */
function initNorm(size: number): NormParams {
  return { scale: full([size], 1), offset: full([size], 0) };
}

/** Mean and variance over axes, which stay with size 1, and the values less their mean. */
function momentsOver(x: Value, axis: readonly number[]): { mean: Value; variance: Value; centred: Value } {
  const mean = ops.mean(x, { axis, keepDims: true });
  const centred = ops.sub(x, mean);
  return { mean, variance: ops.mean(ops.mul(centred, centred), { axis, keepDims: true }), centred };
}

/** `centred / sqrt(variance + epsilon)` */
function standardized(centred: Value, variance: Value, epsilon: number): Value {
  return ops.mul(centred, ops.rsqrt(ops.add(variance, epsilon)));
}

/** One number for each channel of `[n, channels, ...]`, with axes that broadcast along the others. */
function perChannel(vector: Value, ndim: number): Value {
  return ops.reshape(vector, [vector.size, ...new Array<number>(ndim - 2).fill(1)]);
}

/** `[n, channels, ...]`, or an error in the name of a layer. */
function checkChannels(op: string, x: Value, size: number): void {
  if (x.ndim >= 2 && x.shape[1] === size) return;
  throw new ShapeError(op, `Cannot ${op} ${x.aval}: [n, ${size}, ...] is needed`);
}

/**
 * Normalizes the last axis: `scale (x - mean) / sqrt(var + epsilon) + offset`.
 *
 * Shapes: x `[..., size]` to the same; params `scale` and `offset` `[size]`.
 *
 * @example Mean 0, variance 1
 * ```ts
 * const layer = ct.nn.layerNorm(2);
 * assertClose(layer.apply(layer.init(ct.random.key(0)), ct.tensor([[1, 3]])), [[-1, 1]], 1e-4);
 * ```
 * @source Ba, Kiros & Hinton 2016, "Layer normalization"
 * @since 0.1.0
 */
export function layerNorm(size: number, { epsilon = 1e-5 }: NormOptions = {}): Model<NormParams> {
  return {
    name: `layerNorm ${size}`,
    init: () => initNorm(size),
    apply({ scale, offset }, x) {
      const { centred, variance } = momentsOver(x, [-1]);
      return ops.add(ops.mul(standardized(centred, variance, epsilon), scale), offset);
    },
  };
}

/**
 * Normalizes groups of neighbouring channels of each example, over all their positions; scales and offsets are by
 * channel. It is the same for an example in any batch.
 *
 * Shapes: x `[n, size, ...s]` to the same; params `scale` and `offset` `[size]`.
 *
 * @throws {ShapeError} if the channels are not in so many equal groups, or x has other channels
 * @example Two groups of one channel
 * ```ts
 * const layer = ct.nn.groupNorm(2, 2);
 * const x = ct.tensor([[[1, 3], [10, 30]]]);
 * assertClose(layer.apply(layer.init(ct.random.key(0)), x), [[[-1, 1], [-1, 1]]], 1e-4);
 * ```
 * @source Wu & He 2018, "Group normalization"
 * @since 0.2.0
 */
export function groupNorm(
  groups: number,
  size: number,
  { epsilon = 1e-5 }: NormOptions = {},
): Model<NormParams> {
  if (!Number.isInteger(groups) || groups < 1 || size % groups !== 0) {
    throw new ShapeError(
      "groupNorm",
      `Cannot make a groupNorm of ${size} channels: there are ${groups} groups, a whole number that divides the channels is needed`,
    );
  }
  return {
    name: `groupNorm ${groups}x${size / groups}`,
    init: () => initNorm(size),
    apply({ scale, offset }, x) {
      checkChannels("groupNorm", x, size);
      const each = size / groups;
      const grouped = ops.reshape(x, [x.shape[0]!, groups, each, sizeOf(x.shape.slice(2))]);
      const { centred, variance } = momentsOver(grouped, [2, 3]);
      const byGroup = (vector: Value): Value => ops.reshape(vector, [groups, each, 1]);
      const normal = standardized(centred, variance, epsilon);
      return ops.reshape(ops.add(ops.mul(normal, byGroup(scale)), byGroup(offset)), x.shape);
    },
  };
}

/**
 * Normalizes each channel over the batch and all positions, `scale (x - mean) / sqrt(var + epsilon) + offset`. An
 * output then depends on the whole batch: to judge examples one by one, take moments of training examples with
 * `momentsOf` and use them with `withMoments`.
 *
 * Shapes: x `[n, size, ...s]` to the same; params `scale` and `offset` `[size]`.
 *
 * @throws {ShapeError} if x has other channels
 * @example Mean 0, variance 1 over the batch
 * ```ts
 * const layer = ct.nn.batchNorm(1);
 * assertClose(layer.apply(layer.init(ct.random.key(0)), ct.tensor([[1], [3]])), [[-1], [1]], 1e-4);
 * ```
 * @source Ioffe & Szegedy 2015, "Batch normalization: accelerating deep network training by reducing internal covariate shift"
 * @since 0.2.0
 */
export function batchNorm(size: number, { epsilon = 1e-5 }: NormOptions = {}): Model<NormParams> {
  return {
    name: `batchNorm ${size}`,
    init: () => initNorm(size),
    apply({ scale, offset }, x) {
      checkChannels("batchNorm", x, size);
      const own = momentsOver(
        x,
        [...x.shape.keys()].filter((a) => a !== 1),
      );
      const told: Moments = {
        mean: ops.reshape(own.mean, [size]),
        variance: ops.reshape(own.variance, [size]),
      };
      const used = observer().moments?.(told) ?? told;
      const isOwn = used === told;
      const centred = isOwn ? own.centred : ops.sub(x, perChannel(used.mean, x.ndim));
      const variance = isOwn ? own.variance : perChannel(used.variance, x.ndim);
      const normal = standardized(centred, variance, epsilon);
      return ops.add(ops.mul(normal, perChannel(scale, x.ndim)), perChannel(offset, x.ndim));
    },
  };
}
