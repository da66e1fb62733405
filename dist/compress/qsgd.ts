/** Elements rounded at random to a few levels, so that their mean is the vector. */
import { bytesPerElement } from "../../core/dtype.ts";
import { readable } from "../../core/value.ts";
import { bitsOf, codesPerWord, pack, unpack } from "./bits.ts";
import type { Compressor, CompressorOptions } from "./compressor.ts";
import { checkSeed, draws } from "./seeds.ts";
import type { Coded } from "./sign.ts";
import {
  checkedDtype,
  type Floats,
  floatsLike,
  labelOf,
  readVector,
  tensorsOf,
  vectorOf,
} from "./tensors.ts";

/**
 * Options of QSGD.
 *
 * @since 0.2.0
 */
export interface QsgdOptions extends CompressorOptions {
  /** How many levels there are above zero. */
  readonly levels: number;
  readonly seed: number;
}

/** Codes of 16 bits, two in a word. */
const MOST_LEVELS: number = 2 ** 15 - 1;

/**
 * QSGD: of each tensor its Euclidean norm and, for each element, a level 0..s with its sign, rounded up or down at random:
 * C(v) = |v|₂ sign(v) ξ / s with E ξ = s |v| / |v|₂. So E C(v) = v; workers draw independently.
 *
 * E |v - C(v)|² <= min(m / 4s², √m / s) |v|² for a tensor of m elements: each ξ is one of two neighbours. A code has as many
 * bits as 2s needs.
 *
 * @throws {RangeError} if there are not 1 to 32767 levels, or the seed is not a non-negative integer
 * @example Levels of a norm of 5
 * ```ts
 * const at = { seed: 0, step: 1, rank: 0 };
 * const compressor = ct.dist.qsgdCompressor({ shapes: [[2]], levels: 5, seed: 0 });
 * assertClose(compressor.decompress(compressor.compress(ct.tensor([3, -4]), at), at), [3, -4]);
 * ```
 * @source Alistarh et al. 2017, "QSGD: communication-efficient SGD via gradient quantization and encoding"
 * @since 0.2.0
 */
export function qsgdCompressor(options: QsgdOptions): Compressor<Coded> {
  const { levels, seed: ownSeed } = options;
  if (!Number.isInteger(levels) || levels < 1 || levels > MOST_LEVELS) {
    throw new RangeError(`Cannot round to ${levels} levels: 1 to ${MOST_LEVELS} are needed`);
  }
  checkSeed(ownSeed, "round at random");
  const tensors = tensorsOf(options);
  const { n, starts, sizes } = tensors;
  const bits = bitsOf(2 * levels);
  const words = Math.ceil(n / codesPerWord(bits));
  return {
    name: "qsgd",
    communicator: "allgather",
    isBiased: false,
    isContraction: sizes.every((m) => m < 4 * levels ** 2),
    compress(vector, { seed, step, rank }) {
      const data = readVector(tensors, vector);
      const scales = floatsLike(data, sizes.length);
      const codes = new Int32Array(n);
      for (let tensor = 0; tensor < sizes.length; tensor++) {
        const [start, end] = [starts[tensor]!, starts[tensor + 1]!];
        scales[tensor] = euclideanNorm(data, start, end);
        const scale = scales[tensor]!;
        if (scale === Number.POSITIVE_INFINITY) {
          throw new RangeError(
            `Cannot compress ${labelOf(tensors, tensor)}: its norm is too large for its element type, a finite one is needed`,
          );
        }
        roundInto(
          codes,
          data,
          start,
          end,
          scale,
          levels,
          draws([ownSeed + seed, step, tensor, rank]).uniform,
        );
      }
      return { scales: vectorOf(scales), words: vectorOf(pack(codes, bits)) };
    },
    decompress({ scales, words }) {
      const norms = readable(scales) as Floats;
      const codes = unpack(readable(words) as Uint32Array, bits, n);
      const data = floatsLike(norms, n);
      for (let tensor = 0; tensor < sizes.length; tensor++) {
        const norm = norms[tensor]!;
        for (let i = starts[tensor]!; i < starts[tensor + 1]!; i++)
          data[i] = (norm * (codes[i]! - levels)) / levels;
      }
      return vectorOf(data);
    },
    bytes: (dtype = "float32") => sizes.length * bytesPerElement(checkedDtype(dtype)) + 4 * words,
    sends: sizes.length + words,
  };
}

/** Codes level + s, level from -s to s. */
function roundInto(
  codes: Int32Array,
  data: Floats,
  start: number,
  end: number,
  scale: number,
  levels: number,
  uniform: () => number,
): void {
  if (scale === 0) {
    codes.fill(levels, start, end);
    return;
  }
  for (let i = start; i < end; i++) {
    const exact = (Math.abs(data[i]!) / scale) * levels;
    const low = Math.floor(exact);
    // A norm that is rounded down is smaller than the element of a tensor with one that is not zero.
    const level = Math.min(levels, uniform() < exact - low ? low + 1 : low);
    codes[i] = data[i]! < 0 ? levels - level : levels + level;
  }
}

/** Divided by the largest magnitude, so that no square is too large or too small. */
function euclideanNorm(data: Floats, start: number, end: number): number {
  let largest = 0;
  for (let i = start; i < end; i++) largest = Math.max(largest, Math.abs(data[i]!));
  if (largest === 0) return 0;
  let sum = 0;
  for (let i = start; i < end; i++) sum += (data[i]! / largest) ** 2;
  return largest * Math.sqrt(sum);
}
