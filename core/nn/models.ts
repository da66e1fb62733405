/** Small models for rows and images. */
import { ShapeError } from "../errors.ts";
import * as ops from "../ops.ts";
import { split } from "../random.ts";
import { type Activation, flattened, resolveActivation } from "./activation.ts";
import { type AffineOptions, type AffineParams, conv, dense } from "./affine.ts";
import { zeros } from "./initializers.ts";
import type { Model } from "./model.ts";

/**
 * Options of mlp.
 *
 * @since 0.1.0
 */
export interface MlpOptions extends AffineOptions {
  /** Between the layers; default "relu". */
  readonly activation?: Activation;
}

/**
 * Dense layers with an activation between them; axes after the first are flattened.
 *
 * Shapes: `[n, ...s]` with `sizes[0]` elements in each example, to `[n, sizes.at(-1)]`; params: one `{ b, w }` a layer.
 *
 * @throws {ShapeError} if there are fewer than two sizes
 * @example One hidden layer
 * ```ts
 * const model = ct.nn.mlp([4, 8, 3], { activation: "tanh" });
 * const params = model.init(ct.random.key(0));
 * assertClose(model.apply(params, ct.ones([5, 2, 2])).shape, [5, 3]);
 * ```
 * @since 0.1.0
 */
export function mlp(sizes: readonly number[], options: MlpOptions = {}): Model<readonly AffineParams[]> {
  if (sizes.length < 2) {
    throw new ShapeError(
      "mlp",
      `Cannot make an mlp of sizes [${sizes}]: there are ${sizes.length}, at least two are needed`,
    );
  }
  const { activation: between = "relu", ...affine } = options;
  const f = resolveActivation(between);
  const layers = sizes.slice(1).map((outputs, i) => dense(sizes[i]!, outputs, affine));
  return {
    name: `mlp ${sizes.join("-")}`,
    init(key) {
      const keys = split(key, layers.length);
      return layers.map((layer, i) => layer.init(keys[i]!));
    },
    apply(params, x) {
      const input = x.ndim > 2 ? flattened(x) : x;
      return layers.reduce((y, layer, i) => layer.apply(params[i]!, i === 0 ? y : f(y)), input);
    },
  };
}

/**
 * One dense layer that starts at zero: with `softmaxCrossEntropy`, logistic regression, whose loss is convex.
 *
 * Shapes: `[n, ...s]` with `inputs` elements in each example, to `[n, classes]`.
 *
 * @example Equal logits at the start
 * ```ts
 * const model = ct.nn.logistic(4, 3);
 * assertClose(model.apply(model.init(ct.random.key(0)), ct.ones([1, 4])), [[0, 0, 0]]);
 * ```
 * @since 0.1.0
 */
export function logistic(inputs: number, classes: number): Model<readonly AffineParams[]> {
  return { ...mlp([inputs, classes], { initializer: zeros }), name: `logistic ${inputs}-${classes}` };
}

/**
 * What a small convolutional network is made of.
 *
 * @since 0.1.0
 */
export interface CnnOptions {
  /** Channels, height and width of an image. */
  readonly image: readonly [channels: number, height: number, width: number];
  readonly classes: number;
  /** Channels after each convolution; default [8, 16]. */
  readonly widths?: readonly number[];
  /** After each convolution; default "relu". */
  readonly activation?: Activation;
}

/**
 * The parameters of cnn.
 *
 * @since 0.1.0
 */
export type CnnParams = { readonly convs: readonly AffineParams[]; readonly head: AffineParams };

/**
 * Convolutions 3x3, each with an activation and maxima of 2x2 windows, then a dense layer.
 *
 * Shapes: `[n, channels, height, width]` to `[n, classes]`.
 *
 * @throws {ShapeError} if the image is too small for so many halvings
 * @example Digits
 * ```ts
 * const model = ct.nn.cnn({ image: [1, 8, 8], classes: 10, widths: [2, 4] });
 * const params = model.init(ct.random.key(0));
 * assertClose(model.apply(params, ct.ones([3, 1, 8, 8])).shape, [3, 10]);
 * ```
 * @since 0.1.0
 */
export function cnn(options: CnnOptions): Model<CnnParams> {
  const { image, classes, widths = [8, 16], activation: after = "relu" } = options;
  const [channels, height, width] = image;
  const f = resolveActivation(after);
  const halved = (n: number): number => Math.floor(n / 2 ** widths.length);
  const places = halved(height) * halved(width);
  if (places === 0) {
    throw new ShapeError(
      "cnn",
      `Cannot make a cnn of images [${image}]: ${widths.length} halvings leave nothing, a larger image or fewer widths are needed`,
    );
  }
  const through = [channels, ...widths];
  const convs = widths.map((outputs, i) => conv(through[i]!, outputs));
  const head = dense(through.at(-1)! * places, classes);
  return {
    name: `cnn ${through.join("-")}-${classes}`,
    init(key) {
      const keys = split(key, convs.length + 1);
      return { convs: convs.map((layer, i) => layer.init(keys[i]!)), head: head.init(keys.at(-1)!) };
    },
    apply(params, x) {
      const features = convs.reduce(
        (y, layer, i) => ops.maxPool(f(layer.apply(params.convs[i]!, y)), { window: 2 }),
        x,
      );
      return head.apply(params.head, flattened(features));
    },
  };
}
