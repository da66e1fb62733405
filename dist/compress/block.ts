/** A random block of each tensor, the same at all workers: no indices travel, and blocks are averaged as they are. */
import { bytesPerElement } from "../../core/dtype.ts";
import { readable, type Value } from "../../core/value.ts";
import type { Compressor, RatioOptions } from "./compressor.ts";
import { checkSeed, draws } from "./seeds.ts";
import {
  checkedDtype,
  gathered,
  keptSizes,
  readVector,
  scattered,
  type Tensors,
  tensorsOf,
  total,
  vectorOf,
} from "./tensors.ts";

/**
 * Options of compressors whose elements are drawn.
 *
 * @since 0.2.0
 */
export interface DrawnOptions extends RatioOptions {
  readonly seed: number;
}

/**
 * The indices into `[n]` of the blocks of all tensors, in the order in which their elements are sent: block by block, each
 * from its start on, which may wrap around the end of its tensor.
 *
 * A tensor of m elements has a block of b = max(1, floor(m / ratio)), and each of its m starts is equally likely; every
 * element is sent with probability b / m. To be used with `take` and `scatterAdd` in a compiled step.
 *
 * Determinism: a pure function of its arguments.
 *
 * @throws {RangeError} if the ratio is neither 0 nor at least 1, or the seed is not a non-negative integer
 * @example Two of eight elements
 * ```ts
 * const indices = ct.dist.blockIndices([[8]], 4, 0, 1);
 * assert(indices.length === 2 && indices[1] === (indices[0]! + 1) % 8);
 * ```
 * @source Xu & Huang 2022, "Detached error feedback for distributed SGD with random sparsification"
 * @since 0.2.0
 */
export function blockIndices(
  shapes: readonly (readonly number[])[],
  ratio: number,
  seed: number,
  step: number,
): Int32Array<ArrayBuffer> {
  checkSeed(seed, "draw blocks");
  const tensors = tensorsOf({ shapes });
  return indicesOf(tensors, keptSizes(tensors.sizes, ratio), seed, step);
}

function indicesOf(
  { sizes, starts }: Tensors,
  kept: readonly number[],
  seed: number,
  step: number,
): Int32Array<ArrayBuffer> {
  const indices = new Int32Array(total(kept));
  let at = 0;
  for (const [tensor, length] of kept.entries()) {
    const [size, offset] = [sizes[tensor]!, starts[tensor]!];
    const start = draws([seed, step, tensor]).below(size);
    const straight = Math.min(length, size - start);
    for (let i = 0; i < straight; i++) indices[at++] = offset + start + i;
    for (let i = 0; i < length - straight; i++) indices[at++] = offset + i;
  }
  return indices;
}

/**
 * Uniform random sparse blocks: of each tensor one block with a random start, the same at all workers.
 *
 * The mean over starts is b / m of the vector, E |v - C(v)|² = (1 - b / m) |v|².
 *
 * Shapes: payload `[b]`, the blocks one after another.
 *
 * @throws {RangeError} if the ratio is neither 0 nor at least 1, or the seed is not a non-negative integer
 * @example One number in four
 * ```ts
 * const at = { seed: 0, step: 1, rank: 0 };
 * const compressor = ct.dist.blockCompressor({ shapes: [[8]], ratio: 4, seed: 0 });
 * const sent = compressor.decompress(compressor.compress(ct.ones([8]), at), at);
 * assertClose(sent.sum(), 2);
 * assert(compressor.bytes() === 8);
 * ```
 * @source Xu & Huang 2022, "Detached error feedback for distributed SGD with random sparsification"
 * @since 0.2.0
 */
export function blockCompressor(options: DrawnOptions): Compressor<Value> {
  const tensors = tensorsOf(options);
  const kept = keptSizes(tensors.sizes, options.ratio);
  const sends = total(kept);
  checkSeed(options.seed, "draw blocks");
  return {
    name: "block",
    communicator: "allreduce",
    isBiased: sends < tensors.n,
    isContraction: options.ratio > 0,
    compress(vector, { seed, step }) {
      const data = readVector(tensors, vector);
      return vectorOf(gathered(data, indicesOf(tensors, kept, options.seed + seed, step)));
    },
    decompress(payload, { seed, step }) {
      const indices = indicesOf(tensors, kept, options.seed + seed, step);
      return vectorOf(scattered(tensors.n, indices, readable(payload)));
    },
    bytes: (dtype = "float32") => sends * bytesPerElement(checkedDtype(dtype)),
    sends,
  };
}
