/** A network that gives images back through a few numbers. */
import { ShapeError } from "../errors.ts";
import * as ops from "../ops.ts";
import { split } from "../random.ts";
import { type Activation, flattened, resolveActivation } from "./activation.ts";
import { type AffineParams, conv, dense } from "./affine.ts";
import type { Model } from "./model.ts";
import { upsample } from "./windows.ts";

/**
 * What a convolutional autoencoder is made of.
 *
 * @since 0.2.0
 */
export interface ConvAutoencoderOptions {
  /** Channels, height and width of an image. */
  readonly image: readonly [channels: number, height: number, width: number];
  /** Channels after each halving of the image; default [8, 16]. */
  readonly widths?: readonly number[];
  /** Numbers that an image goes through; default 32. */
  readonly latent?: number;
  /** After each layer but the middle and the last; default "gelu". */
  readonly activation?: Activation;
  /** After the last layer; default "tanh", for images in [-1, 1]. */
  readonly output?: Activation;
}

/**
 * The parameters of convAutoencoder.
 *
 * @since 0.2.0
 */
export type ConvAutoencoderParams = {
  readonly encoder: readonly AffineParams[];
  readonly code: AffineParams;
  readonly expand: AffineParams;
  readonly decoder: readonly AffineParams[];
};

/**
 * Convolutions 3x3 with stride 2 down to a dense layer, and back by a dense layer and convolutions 3x3 of images made
 * twice as large.
 *
 * Shapes: `[n, channels, height, width]` to the same.
 *
 * @throws {ShapeError} if height or width cannot be halved so often
 * @example Small images
 * ```ts
 * const model = ct.nn.convAutoencoder({ image: [1, 8, 8], widths: [2, 4], latent: 3 });
 * const params = model.init(ct.random.key(0));
 * assertClose(model.apply(params, ct.ones([5, 1, 8, 8])).shape, [5, 1, 8, 8]);
 * ```
 * @source Masci et al. 2011, "Stacked convolutional auto-encoders for hierarchical feature extraction"
 * @since 0.2.0
 */
export function convAutoencoder(options: ConvAutoencoderOptions): Model<ConvAutoencoderParams> {
  const { image, widths = [8, 16], latent = 32, activation = "gelu", output = "tanh" } = options;
  const [channels, height, width] = image;
  const factor = 2 ** widths.length;
  if (widths.length === 0 || height % factor !== 0 || width % factor !== 0) {
    throw new ShapeError(
      "convAutoencoder",
      `Cannot make a convAutoencoder of images [${image}]: they are to be halved ${widths.length} times, at least once and whole sizes are needed`,
    );
  }
  const [f, last] = [resolveActivation(activation), resolveActivation(output)];
  const through = [channels, ...widths];
  const smallest = [widths.at(-1)!, height / factor, width / factor] as const;
  const size = smallest[0] * smallest[1] * smallest[2];
  const encoder = widths.map((outputs, i) => conv(through[i]!, outputs, { strides: 2 }));
  const code = dense(size, latent);
  const expand = dense(latent, size);
  const decoder = widths.map((_, i) => conv(through.at(-1 - i)!, through.at(-2 - i)!));
  const larger = upsample(2);
  return {
    name: `convAutoencoder ${through.join("-")}-${latent}`,
    init(key) {
      const keys = split(key, 2 * widths.length + 2);
      return {
        encoder: encoder.map((layer, i) => layer.init(keys[i]!)),
        code: code.init(keys[widths.length]!),
        expand: expand.init(keys[widths.length + 1]!),
        decoder: decoder.map((layer, i) => layer.init(keys[widths.length + 2 + i]!)),
      };
    },
    apply(params, x) {
      const small = encoder.reduce((y, layer, i) => f(layer.apply(params.encoder[i]!, y)), x);
      const middle = code.apply(params.code, flattened(small));
      const start = ops.reshape(f(expand.apply(params.expand, middle)), [x.shape[0]!, ...smallest]);
      return decoder.reduce((y, layer, i) => {
        const after = i === decoder.length - 1 ? last : f;
        return after(layer.apply(params.decoder[i]!, larger.apply({}, y)));
      }, start);
    },
  };
}
