/** float16: half the bytes, 11 significant bits. */
import { DTypeError } from "../../core/errors.ts";
import { cast } from "../../core/prims/elementwise.ts";
import type { Value } from "../../core/value.ts";
import type { Compressor, CompressorOptions } from "./compressor.ts";
import { checkedDtype, readVector, tensorsOf } from "./tensors.ts";

/**
 * Options of float16 payloads.
 *
 * @since 0.2.0
 */
export interface HalfOptions extends CompressorOptions {
  /** Element type of what is decompressed; default float32. */
  readonly dtype?: "float32" | "float64";
}

/** Larger ones would round to infinity: 65504 is the largest float16. */
const LARGEST = 65504;

/**
 * Every element in float16, rounded to nearest. A mean of payloads is rounded once more.
 *
 * @throws {DTypeError} if the element type is neither float32 nor float64
 * @example Three significant decimals
 * ```ts
 * const at = { seed: 0, step: 1, rank: 0 };
 * const compressor = ct.dist.halfCompressor({ shapes: [[1]] });
 * assertClose(compressor.decompress(compressor.compress(ct.tensor([1.0001]), at), at), [1]);
 * ```
 * @since 0.2.0
 */
export function halfCompressor(options: HalfOptions): Compressor<Value> {
  const tensors = tensorsOf(options);
  const dtype = checkedDtype(options.dtype ?? "float32");
  return {
    name: "half",
    communicator: "allreduce",
    isBiased: false,
    isContraction: true,
    compress(vector) {
      if (vector.dtype !== dtype) {
        throw new DTypeError(
          "compress",
          `Cannot compress ${vector.aval}: its element type is ${vector.dtype}, ${dtype} is needed as in the options`,
        );
      }
      readVector(tensors, vector, LARGEST);
      return cast(vector, "float16");
    },
    decompress: (payload) => cast(payload, dtype),
    bytes: () => 2 * tensors.n,
    sends: tensors.n / 2,
  };
}
