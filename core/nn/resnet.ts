/** Residual networks for small images. */
import { ShapeError } from "../errors.ts";
import * as ops from "../ops.ts";
import { split } from "../random.ts";
import type { Value } from "../value.ts";
import { activation } from "./activation.ts";
import { type AffineParams, conv, dense } from "./affine.ts";
import { type Model, type NoParams, type ResidualParams, residual, sequential } from "./model.ts";
import { batchNorm, type NormParams } from "./normalize.ts";
import { globalAvgPool } from "./windows.ts";

/**
 * What a residual network is made of.
 *
 * @since 0.2.0
 */
export interface ResnetOptions {
  /** Channels, height and width of an image. */
  readonly image: readonly [channels: number, height: number, width: number];
  readonly classes: number;
  /** Channels in the first third of the blocks; twice and four times as many follow; default 16. */
  readonly width?: number;
}

/** Convolution, normalization, relu, convolution, normalization. */
type BlockParams = ResidualParams<[AffineParams, NormParams, NoParams, AffineParams, NormParams], NoParams>;

/**
 * The parameters of resnet20.
 *
 * @since 0.2.0
 */
export type ResnetParams = {
  readonly stem: [AffineParams, NormParams];
  readonly blocks: readonly BlockParams[];
  readonly head: AffineParams;
};

const STAGES = 3;
const BLOCKS_PER_STAGE = 3;

/**
 * The residual network of 20 layers for images such as CIFAR-10's: a convolution, three stages of three blocks of two
 * convolutions 3x3, means over positions, a dense layer. The second and third stages halve the image and double the
 * channels; their shortcuts leave out every other position and fill new channels with zeros, without parameters. Every
 * convolution is followed by `batchNorm`: use `withMoments` to judge examples.
 *
 * Shapes: `[n, channels, height, width]` to `[n, classes]`.
 *
 * @throws {ShapeError} if an image has fewer than four rows or columns
 * @example A narrow one
 * ```ts
 * const model = ct.nn.resnet20({ image: [3, 8, 8], classes: 10, width: 2 });
 * const params = model.init(ct.random.key(0));
 * assertClose(model.apply(params, ct.random.normal(ct.random.key(1), [2, 3, 8, 8])).shape, [2, 10]);
 * ```
 * @source He et al. 2016, "Deep residual learning for image recognition"
 * @since 0.2.0
 */
export function resnet20(options: ResnetOptions): Model<ResnetParams> {
  const { image, classes, width = 16 } = options;
  const [channels, rows, columns] = image;
  if (rows < 4 || columns < 4) {
    throw new ShapeError(
      "resnet20",
      `Cannot make a resnet20 of images [${image}]: they are halved twice, at least 4 rows and columns are needed`,
    );
  }
  const stem = sequential(conv(channels, width, { bias: false }), batchNorm(width));
  const blocks = Array.from({ length: STAGES * BLOCKS_PER_STAGE }, (_, i) => {
    const outputs = width * 2 ** Math.floor(i / BLOCKS_PER_STAGE);
    const isFirst = i > 0 && i % BLOCKS_PER_STAGE === 0;
    return isFirst ? basicBlock(outputs / 2, outputs, 2) : basicBlock(outputs, outputs, 1);
  });
  const head = dense(width * 2 ** (STAGES - 1), classes);
  return {
    name: `resnet20 ${channels}-${width}-${classes}`,
    init(key) {
      const [first, last, ...rest] = split(key, blocks.length + 2);
      return {
        stem: stem.init(first!),
        blocks: blocks.map((block, i) => block.init(rest[i]!)),
        head: head.init(last!),
      };
    },
    apply(params, x) {
      const start = ops.relu(stem.apply(params.stem, x));
      const features = blocks.reduce((y, block, i) => ops.relu(block.apply(params.blocks[i]!, y)), start);
      return head.apply(params.head, globalAvgPool().apply({}, features));
    },
  };
}

/** The sum of two convolutions and a shortcut; what follows it is the relu. */
function basicBlock(inputs: number, outputs: number, strides: number): Model<BlockParams> {
  const body = sequential(
    conv(inputs, outputs, { strides, bias: false }),
    batchNorm(outputs),
    activation("relu"),
    conv(outputs, outputs, { bias: false }),
    batchNorm(outputs),
  );
  const shortcut = activation((x) =>
    inputs === outputs && strides === 1 ? x : thinned(x, outputs, strides),
  );
  return residual(body, shortcut);
}

/** Every `strides`-th position, and channels of zeros after the others. */
function thinned(x: Value, channels: number, strides: number): Value {
  const kept = ops.slice(x, [0, 0, 0, 0], x.shape, [1, 1, strides, strides]);
  return ops.pad(kept, [
    [0, 0],
    [0, channels - x.shape[1]!],
    [0, 0],
    [0, 0],
  ]);
}
