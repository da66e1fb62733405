/** Random elements of each tensor, the same at all workers: no indices travel. */
import { bytesPerElement } from "../../core/dtype.ts";
import { readable, type Value } from "../../core/value.ts";
import type { DrawnOptions } from "./block.ts";
import type { Compressor } from "./compressor.ts";
import { checkSeed, draws } from "./seeds.ts";
import {
  checkedDtype,
  gathered,
  keptSizes,
  readVector,
  scattered,
  tensorsOf,
  total,
  vectorOf,
} from "./tensors.ts";

/**
 * Options of random-k.
 *
 * @since 0.2.0
 */
export interface RandomKOptions extends DrawnOptions {
  /** Multiplies what is sent of a tensor by m / k, so that its mean is the vector; default false. */
  readonly scaled?: boolean;
}

/**
 * Random-k: k = max(1, floor(m / ratio)) elements of each tensor of m, drawn without replacement, each set as likely.
 *
 * Plain: E |v - C(v)|² = (1 - k / m) |v|². Scaled: E C(v) = v and E |v - C(v)|² = (m / k - 1) |v|², for use without a memory.
 *
 * Shapes: payload `[k]`, the elements in their order.
 *
 * @throws {RangeError} if the ratio is neither 0 nor at least 1, 0 with `scaled`, or the seed is not a non-negative integer
 * @example Two of four, as large on average
 * ```ts
 * const at = { seed: 0, step: 1, rank: 0 };
 * const compressor = ct.dist.randomKCompressor({ shapes: [[4]], ratio: 2, seed: 0, scaled: true });
 * assertClose(compressor.compress(ct.ones([4]), at), [2, 2]);
 * ```
 * @source Stich, Cordonnier & Jaggi 2018, "Sparsified SGD with memory"
 * @since 0.2.0
 */
export function randomKCompressor(options: RandomKOptions): Compressor<Value> {
  const { ratio, seed: ownSeed, scaled = false } = options;
  const tensors = tensorsOf(options);
  const kept = keptSizes(tensors.sizes, ratio);
  const sends = total(kept);
  checkSeed(ownSeed, "draw elements");
  if (scaled && ratio === 0) {
    throw new RangeError(
      "Cannot scale what random-k sends: the ratio is 0 and nothing is sent, 1 or more is needed",
    );
  }
  const indicesAt = (seed: number, step: number): Int32Array<ArrayBuffer> => {
    const indices = new Int32Array(sends);
    let at = 0;
    for (const [tensor, k] of kept.entries()) {
      drawInto(
        [ownSeed + seed, step, tensor],
        tensors.sizes[tensor]!,
        k,
        tensors.starts[tensor]!,
        indices,
        at,
      );
      at += k;
    }
    return indices;
  };
  return {
    name: scaled ? "randomk scaled" : "randomk",
    communicator: "allreduce",
    isBiased: !scaled && sends < tensors.n,
    // The variance of a scaled tensor is m / k - 1.
    isContraction: scaled ? kept.every((k, tensor) => tensors.sizes[tensor]! < 2 * k || k === 0) : ratio > 0,
    compress(vector, { seed, step }) {
      const values = gathered(readVector(tensors, vector), indicesAt(seed, step));
      if (scaled) {
        let at = 0;
        for (const [tensor, k] of kept.entries()) {
          const factor = tensors.sizes[tensor]! / k;
          for (const end = at + k; at < end; at++) values[at] = values[at]! * factor;
        }
      }
      return vectorOf(values);
    },
    decompress(payload, { seed, step }) {
      return vectorOf(scattered(tensors.n, indicesAt(seed, step), readable(payload)));
    },
    bytes: (dtype = "float32") => sends * bytesPerElement(checkedDtype(dtype)),
    sends,
  };
}

/** Writes k of 0..size-1 plus `offset`, rising, into `out` from `at` on: Floyd's algorithm, k draws for k numbers. */
function drawInto(
  name: readonly number[],
  size: number,
  k: number,
  offset: number,
  out: Int32Array,
  at: number,
): void {
  const { below } = draws(name);
  const isTaken = new Uint8Array(size);
  for (let last = size - k; last < size; last++) {
    const drawn = below(last + 1);
    isTaken[isTaken[drawn] === 0 ? drawn : last] = 1;
  }
  for (let i = 0; i < size; i++) if (isTaken[i] === 1) out[at++] = offset + i;
}
