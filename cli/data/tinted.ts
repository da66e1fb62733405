import type { Dataset, Split } from "./dataset.ts";
import type { GlyphOptions } from "./glyphs.ts";
import { glyphs } from "./glyphs.ts";
import { randomStream } from "./random.ts";

/** Pixels along one side of a tinted image, as in CIFAR-10. */
const SIDE = 32;
const CHANNELS = 3;
/** Keeps the colours apart from other uses of the same seed. */
const TINT_STREAM = 6;

/** Gives each grey image two colours, for its black and its white, and a place in a larger frame. */
function tintSplit(grey: Split, side: number, seed: number, split: number): Split {
  const plane = SIDE * SIDE;
  const features = new Float32Array(grey.count * CHANNELS * plane);
  for (let i = 0; i < grey.count; i++) {
    const stream = randomStream([seed, TINT_STREAM, split, i]);
    const [top, left] = [stream.below(SIDE - side + 1), stream.below(SIDE - side + 1)];
    for (let channel = 0; channel < CHANNELS; channel++) {
      // Either colour may be the lighter one in a channel: what a class looks like is its shape alone.
      const [black, white] = [stream.uniform(), stream.uniform()];
      const offset = (i * CHANNELS + channel) * plane;
      for (let y = 0; y < SIDE; y++) {
        for (let x = 0; x < SIDE; x++) {
          const [row, column] = [y - top, x - left];
          const isInside = row >= 0 && row < side && column >= 0 && column < side;
          const value = isInside ? grey.features[(i * side + row) * side + column]! : 0;
          features[offset + y * SIDE + x] = Math.floor(255 * (black + (white - black) * value) + 0.5) / 255;
        }
      }
    }
  }
  return { features, labels: grey.labels, count: grey.count };
}

/**
 * Draws the data set "tinted": the shapes of {@link glyphs} in colours, 32 by 32, values in [0, 1]: what stands in for
 * CIFAR-10 where that is not at hand. Colours say nothing about classes.
 *
 * @example
 * ```ts
 * const { train } = tinted({ seed: 1, trainCount: 100 });
 * train.features.length; // 100 * 3 * 32 * 32
 * ```
 * @throws {DataError} if the seed is not a whole number, or a count is not one of at least 1.
 */
export function tinted(options: GlyphOptions): Dataset {
  const drawn = glyphs(options);
  const side = drawn.exampleShape[0]!;
  return {
    ...drawn,
    name: "tinted",
    exampleShape: [CHANNELS, SIDE, SIDE],
    train: tintSplit(drawn.train, side, options.seed, 0),
    test: tintSplit(drawn.test, side, options.seed, 1),
  };
}
