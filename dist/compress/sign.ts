/** Signs, 32 in a word, and one scale for each tensor. */
import { bytesPerElement } from "../../core/dtype.ts";
import { readable, type Value } from "../../core/value.ts";
import type { Compressor, CompressorOptions } from "./compressor.ts";
import { checkedDtype, type Floats, floatsLike, readVector, tensorsOf, vectorOf } from "./tensors.ts";

/**
 * A number for each tensor, in the element type of the vector, and uint32 words with a code for each element.
 *
 * @since 0.2.0
 */
export interface Coded {
  readonly scales: Value;
  readonly words: Value;
}

/**
 * Scaled signs: C(v) = mean |v| · sign(v) of each tensor; zero counts as positive.
 *
 * |v - C(v)|² = |v|² - (Σ|v|)² / m for a tensor of m elements.
 *
 * @example One bit each
 * ```ts
 * const at = { seed: 0, step: 1, rank: 0 };
 * const compressor = ct.dist.signCompressor({ shapes: [[4]] });
 * const payload = compressor.compress(ct.tensor([1, -3, 0, 4]), at);
 * assertClose(compressor.decompress(payload, at), [2, -2, 2, 2]);
 * assert(compressor.bytes() === 8);
 * ```
 * @source Karimireddy et al. 2019, "Error feedback fixes SignSGD and other gradient compression schemes"
 * @since 0.2.0
 */
export function signCompressor(options: CompressorOptions): Compressor<Coded> {
  const tensors = tensorsOf(options);
  const { n, starts, sizes } = tensors;
  const words = Math.ceil(n / 32);
  return {
    name: "sign",
    communicator: "allgather",
    isBiased: true,
    isContraction: true,
    compress(vector) {
      const data = readVector(tensors, vector);
      const scales = floatsLike(data, sizes.length);
      for (let tensor = 0; tensor < sizes.length; tensor++) {
        scales[tensor] = meanMagnitude(data, starts[tensor]!, starts[tensor + 1]!);
      }
      return { scales: vectorOf(scales), words: vectorOf(signsOf(data)) };
    },
    decompress(payload) {
      const scales = readable(payload.scales) as Floats;
      const words = readable(payload.words) as Uint32Array;
      const data = floatsLike(scales, n);
      for (let tensor = 0; tensor < sizes.length; tensor++) {
        fillSigned(data, words, starts[tensor]!, starts[tensor + 1]!, scales[tensor]!);
      }
      return vectorOf(data);
    },
    bytes: (dtype = "float32") => sizes.length * bytesPerElement(checkedDtype(dtype)) + 4 * words,
    sends: sizes.length + words,
  };
}

/** Added up as parts of the mean, which cannot overflow. */
function meanMagnitude(data: Floats, start: number, end: number): number {
  const size = end - start;
  let mean = 0;
  for (let i = start; i < end; i++) mean += Math.abs(data[i]!) / size;
  return mean;
}

/** Bit i % 32 of word floor(i / 32) is set where element i is negative. */
function signsOf(data: Floats): Uint32Array<ArrayBuffer> {
  const words = new Uint32Array(Math.ceil(data.length / 32));
  for (let i = 0; i < data.length; i++) words[i >>> 5] = words[i >>> 5]! | (Number(data[i]! < 0) << (i & 31));
  return words;
}

/** Elements `start` to `end`: the scale with their signs. Without a branch, since signs cannot be foreseen. */
function fillSigned(data: Floats, words: Uint32Array, start: number, end: number, scale: number): void {
  for (let i = start; i < end; i++) data[i] = scale * (1 - 2 * ((words[i >>> 5]! >>> (i & 31)) & 1));
}
