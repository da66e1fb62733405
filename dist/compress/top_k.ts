/** The largest elements of each tensor, with their places. */
import { bytesPerElement } from "../../core/dtype.ts";
import { readable, type Value } from "../../core/value.ts";
import type { Compressor, RatioOptions } from "./compressor.ts";
import {
  checkedDtype,
  type Floats,
  floatsLike,
  gathered,
  keptSizes,
  meanOfScattered,
  readVector,
  scattered,
  tensorsOf,
  total,
  vectorOf,
} from "./tensors.ts";

/**
 * Elements and where they belong in the vector `[n]`: int32 indices, rising.
 *
 * @since 0.2.0
 */
export interface Sparse {
  readonly indices: Value;
  readonly values: Value;
}

/** Of so many elements or fewer the k-th largest is found by sorting. */
const SORTED_AT_MOST = 2048;
/** Magnitudes are counted by the upper bits of their float32: 8 of the exponent and 7 of the mantissa. */
const DROPPED_BITS = 16;

/**
 * Writes the places of the k largest magnitudes of `data` from `start` to `end` into `out` from `at` on, rising. Of equal
 * magnitudes the earlier are taken, so the same numbers always give the same places. All numbers are finite.
 */
export function largestInto(
  data: Floats,
  start: number,
  end: number,
  k: number,
  out: Int32Array,
  at: number,
): void {
  if (k === 0) return;
  const magnitudes = floatsLike(data, end - start);
  for (let i = start; i < end; i++) magnitudes[i - start] = Math.abs(data[i]!);
  const { least, larger } = kthLargest(magnitudes, k);
  let equal = k - larger;
  const full = at + k;
  for (let i = 0; at < full; i++) {
    const size = magnitudes[i]!;
    if (size > least || (size === least && equal-- > 0)) out[at++] = start + i;
  }
}

/**
 * The k-th largest of magnitudes, k from 1, and how many are larger: those in the interval of upper bits in which it is are sorted.
 *
 * Rounding to float32 keeps the order, so it serves for the bits of float64 numbers too.
 */
function kthLargest(magnitudes: Floats, k: number): { readonly least: number; readonly larger: number } {
  const n = magnitudes.length;
  if (n <= SORTED_AT_MOST) return kthSorted(magnitudes.slice().sort(), k, 0);
  const rounded = magnitudes instanceof Float32Array ? magnitudes : Float32Array.from(magnitudes);
  const bits = new Uint32Array(rounded.buffer);
  const counts = new Int32Array(2 ** (32 - DROPPED_BITS));
  for (let i = 0; i < n; i++) counts[bits[i]! >>> DROPPED_BITS]!++;
  let interval = counts.length - 1;
  // How many of the k are in this interval or below it.
  let left = k;
  while (left > counts[interval]!) left -= counts[interval--]!;
  const inside = floatsLike(magnitudes, counts[interval]!);
  let found = 0;
  for (let i = 0; i < n; i++) if (bits[i]! >>> DROPPED_BITS === interval) inside[found++] = magnitudes[i]!;
  return kthSorted(inside.sort(), left, k - left);
}

/** The same of rising magnitudes, with `above` larger ones elsewhere. */
function kthSorted(rising: Floats, k: number, above: number): ReturnType<typeof kthLargest> {
  const least = rising[rising.length - k]!;
  let at = rising.length;
  while (at > 0 && rising[at - 1]! > least) at--;
  return { least, larger: above + rising.length - at };
}

/**
 * Top-k: of each tensor of m elements the k = max(1, floor(m / ratio)) of largest magnitude, exact, with int32 indices.
 *
 * |v - C(v)|² <= (1 - k / m) |v|² for every tensor. Workers choose different elements, so payloads are gathered: one is
 * 8 bytes for each element of a float32 vector. Of equal magnitudes the earlier are sent.
 *
 * @throws {RangeError} if the ratio is neither 0 nor at least 1
 * @example The two largest of four
 * ```ts
 * const at = { seed: 0, step: 1, rank: 0 };
 * const compressor = ct.dist.topKCompressor({ shapes: [[4]], ratio: 2 });
 * const payload = compressor.compress(ct.tensor([1, -4, 0, 3]), at);
 * assertClose(payload.indices, [1, 3]);
 * assertClose(compressor.decompress(payload, at), [0, -4, 0, 3]);
 * ```
 * @source Aji & Heafield 2017, "Sparse communication for distributed gradient descent"
 * @since 0.2.0
 */
export function topKCompressor(options: RatioOptions): Compressor<Sparse> {
  const tensors = tensorsOf(options);
  const kept = keptSizes(tensors.sizes, options.ratio);
  const sends = total(kept);
  return {
    name: "topk",
    communicator: "allgather",
    isBiased: sends < tensors.n,
    isContraction: options.ratio > 0,
    compress(vector) {
      const data = readVector(tensors, vector);
      const indices = new Int32Array(sends);
      let at = 0;
      for (const [tensor, k] of kept.entries()) {
        largestInto(data, tensors.starts[tensor]!, tensors.starts[tensor + 1]!, k, indices, at);
        at += k;
      }
      return { indices: vectorOf(indices), values: vectorOf(gathered(data, indices)) };
    },
    decompress({ indices, values }) {
      return vectorOf(scattered(tensors.n, readable(indices) as Int32Array, readable(values)));
    },
    mean(payloads) {
      const parts = payloads.map(({ indices, values }) => ({
        indices: readable(indices) as Int32Array,
        values: readable(values),
      }));
      return vectorOf(meanOfScattered(tensors.n, parts));
    },
    bytes: (dtype = "float32") => sends * (bytesPerElement(checkedDtype(dtype)) + bytesPerElement("int32")),
    sends,
  };
}
