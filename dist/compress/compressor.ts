/**
 * Compression of vectors that many workers average: what a worker sends of its vector, what it stands for, and how the
 * payloads of all become one mean.
 */
import { jit } from "../../autodiff/jit.ts";
import type { DType } from "../../core/dtype.ts";
import { sub } from "../../core/ops.ts";
import { cast } from "../../core/prims/elementwise.ts";
import { map } from "../../core/tree.ts";
import type { Value } from "../../core/value.ts";
import { meanOf } from "../../optim/admm.ts";
import type { ParameterShapes } from "./method.ts";

/**
 * Where a payload is made: randomness is a function of this and of the tensor, so a worker that comes back needs no history.
 *
 * @since 0.2.0
 */
export interface CompressAt {
  /** Added to the seed of the compressor, so that two uses of one compressor can differ. */
  readonly seed: number;
  /** The step of the whole run. */
  readonly step: number;
  /** The worker that makes the payload. */
  readonly rank: number;
}

/**
 * How payloads become a mean: `allreduce` averages them element by element as they are, in which case every worker gets one
 * payload; with `allgather` every worker gets all payloads, decompresses each and averages.
 *
 * @since 0.2.0
 */
export type Communicator = "allreduce" | "allgather";

/**
 * One way to send less than a vector `[n]`. Its tensors are compressed one by one.
 *
 * What is not sent is `vector - decompress(compress(vector))`. Compressors that select elements send them bit for bit, so
 * what is sent and what is not add up to the vector bit for bit.
 *
 * @since 0.2.0
 */
export interface Compressor<T = unknown> {
  readonly name: string;
  readonly communicator: Communicator;
  /**
   * Whether the mean over seeds of what is decompressed differs from the vector by more than rounding: then what is not
   * sent must be remembered (memory.ts), or it is lost.
   */
  readonly isBiased: boolean;
  /**
   * Whether E |v - decompress(compress(v))|² < |v|² for every v but zero: only then is a memory of what is not sent bounded.
   */
  readonly isContraction: boolean;
  /**
   * A tree of tensors of the sizes that all vectors have.
   *
   * @throws {RangeError} if an element is not finite; names the tensor and the place in it
   */
  compress(vector: Value, at: CompressAt): T;
  /** Shapes: the result is `[n]`. `at.rank` is the rank that made the payload; of a mean of payloads it is anything. */
  decompress(payload: T, at: CompressAt): Value;
  /**
   * The mean `[n]` of gathered payloads without a vector for each of them, bit for bit that of what is decompressed, added in the
   * order of the list; not there: it is found like that.
   */
  mean?(payloads: readonly T[]): Value;
  /** Bytes of the tensor elements of one payload, of a vector of this element type; default float32. */
  bytes(dtype?: DType): number;
  /** Numbers of 32 bits that stand for a float32 vector, indices not counted. */
  readonly sends: number;
}

/**
 * What all compressors are told beside their own options.
 *
 * @since 0.2.0
 */
export interface CompressorOptions extends ParameterShapes {
  /** Names of the tensors for errors; default their numbers. */
  readonly names?: readonly string[];
}

/**
 * The options of compressors that send one of `ratio` elements.
 *
 * @since 0.2.0
 */
export interface RatioOptions extends CompressorOptions {
  /** Of n elements max(1, floor(n / ratio)) are sent; 1 sends all, 0 sends nothing. */
  readonly ratio: number;
}

/**
 * The payload of a vector, what it stands for and what it leaves.
 *
 * Shapes: `vector`, `sent` and `residual`: `[n]`.
 *
 * @since 0.2.0
 */
export function split<T>(
  compressor: Compressor<T>,
  vector: Value,
  at: CompressAt,
): readonly [payload: T, sent: Value, residual: Value] {
  const payload = compressor.compress(vector, at);
  const sent = compressor.decompress(payload, at);
  return [payload, sent, sub(vector, sent)];
}

/**
 * What all workers get: the mean payload (`allreduce`), or the payloads in the order of ranks (`allgather`).
 *
 * @since 0.2.0
 */
export type Reduced<T> = T | readonly T[];

/**
 * What all workers get of the payloads of all, given in the order of ranks. Means are taken in that order; those of float16
 * in float32, rounded once.
 *
 * @throws {RangeError} if there are no payloads
 * @example Signs are gathered
 * ```ts
 * const compressor = ct.dist.signCompressor({ shapes: [[2]] });
 * const vectors = [ct.tensor([1, 1]), ct.tensor([3, -3])];
 * const payloads = vectors.map((x, rank) => compressor.compress(x, { seed: 0, step: 1, rank }));
 * const reduced = ct.dist.reduceCompressed(compressor, payloads);
 * assert(Array.isArray(reduced));
 * ```
 * @since 0.2.0
 */
export function reduceCompressed<T>(compressor: Compressor<T>, payloads: readonly T[]): Reduced<T> {
  if (compressor.communicator === "allgather") {
    if (payloads.length > 0) return payloads;
    throw new RangeError("Cannot gather no payloads: the list is empty, at least one is needed");
  }
  return meanPayload(payloads) as T;
}

const meanPayload = jit((payloads: readonly unknown[]) => {
  const mean = meanOf(payloads.map((payload) => map(widened, payload)));
  return map((x, like) => cast(x, like!.dtype), mean, payloads[0]);
});

function widened(x: Value): Value {
  return x.dtype === "float16" ? cast(x, "float32") : x;
}

/**
 * The mean vector `[n]`, of what `reduceCompressed` gave: the same bits at all workers.
 *
 * @param at the seed and the step at which the payloads were made
 * @example Of two workers
 * ```ts
 * const compressor = ct.dist.signCompressor({ shapes: [[2]] });
 * const vectors = [ct.tensor([1, 1]), ct.tensor([3, -3])];
 * const payloads = vectors.map((x, rank) => compressor.compress(x, { seed: 0, step: 1, rank }));
 * const reduced = ct.dist.reduceCompressed(compressor, payloads);
 * assertClose(ct.dist.expandReduced(compressor, reduced, { seed: 0, step: 1 }), [2, -1]);
 * ```
 * @since 0.2.0
 */
export function expandReduced<T>(
  compressor: Compressor<T>,
  reduced: Reduced<T>,
  at: Pick<CompressAt, "seed" | "step">,
): Value {
  if (compressor.communicator === "allreduce") return compressor.decompress(reduced as T, { ...at, rank: 0 });
  const payloads = reduced as readonly T[];
  if (compressor.mean) return compressor.mean(payloads);
  return meanOf(payloads.map((payload, rank) => compressor.decompress(payload, { ...at, rank })));
}

/**
 * Bytes of tensor elements that one worker gets of one exchange.
 *
 * @example Gathered from eight workers
 * ```ts
 * const compressor = ct.dist.signCompressor({ shapes: [[32]] });
 * assert(ct.dist.receivedBytes(compressor, 8) === 8 * (4 + 4));
 * ```
 * @since 0.2.0
 */
export function receivedBytes(compressor: Compressor, workers: number, dtype?: DType): number {
  return compressor.bytes(dtype) * (compressor.communicator === "allgather" ? workers : 1);
}
