/** Means of vectors of all workers of which each sends only a part, whatever the number of exchanges that takes. */

import { sub } from "../../core/ops.ts";
import type { Value } from "../../core/value.ts";
import { meanOf } from "../../optim/admm.ts";
import { type Compressor, receivedBytes, split } from "./compressor.ts";
import { rememberedMean, residualMemory } from "./memory.ts";
import type { Payload, StepAt, Traffic } from "./method.ts";
import { type PowerSgdFirst, type PowerSgdOptions, type PowerSgdState, powerSgd } from "./power_sgd.ts";

/**
 * Where a worker is in a mean. The last exchange gives the mean, all others a payload.
 *
 * @since 0.2.0
 */
export interface MeanPart<M> {
  /** What of the worker's vector has not been sent so far. Shapes: `[n]`. */
  readonly left: Value;
  /** What is remembered for the next mean. */
  readonly memory: M;
  readonly payload: Payload | null;
  readonly mean: Value | null;
}

/**
 * A mean over workers of what they send of their vectors `[n]`.
 *
 * In exact arithmetic the mean of the vectors is the mean that comes out plus the mean of what is left.
 *
 * @since 0.2.0
 */
export interface LossyMean<M = unknown> {
  readonly name: string;
  readonly exchanges: number;
  /** What is remembered before the first mean; a tree of tensors. */
  init(theta: Value): M;
  begin(vector: Value, memory: M, at: StepAt): MeanPart<M>;
  reduce(payloads: readonly Payload[], index: number): Payload;
  /** Takes the result of exchange `index`. */
  next(part: Pick<MeanPart<M>, "left" | "memory">, reduced: Payload, index: number, at: StepAt): MeanPart<M>;
  /** Bytes of tensor elements that one worker sends and gets. */
  bytes(workers: number, dtype: "float32" | "float64"): Traffic;
}

/**
 * The mean by one exchange of what a compressor makes of the vectors, for methods that add what is left to what they send
 * next.
 *
 * Shapes: vectors `[n]` of the compressor's tensors.
 *
 * @param seed added to the compressor's, so that two means by one compressor can differ
 * @throws {RangeError} if what is left would grow without bound, because the compressor is no contraction
 * @example A block of ratio 1 is everything
 * ```ts
 * const mean = ct.dist.lossyMean(ct.dist.blockCompressor({ shapes: [[2]], ratio: 1, seed: 0 }));
 * const at = (rank: number) => ({ step: 1, rank, workers: 2 });
 * const parts = [0, 1].map((rank) => mean.begin(ct.tensor([rank, 2]), [], at(rank)));
 * const reduced = mean.reduce(parts.map(({ payload }) => payload), 0);
 * assertClose(mean.next(parts[0]!, reduced, 0, at(0)).mean!, [0.5, 2]);
 * assertClose(parts[0]!.left, [0, 0]);
 * ```
 * @since 0.2.0
 */
export function lossyMean(compressor: Compressor, seed = 0): LossyMean<readonly []> {
  const { reduce, expand } = rememberedMean({ compressor, memory: residualMemory() });
  return {
    name: compressor.name,
    exchanges: 1,
    init: () => [],
    begin(vector, memory, { step, rank }) {
      const [payload, , left] = split(compressor, vector, { seed, step, rank: rank! });
      return { left, memory, payload, mean: null };
    },
    reduce,
    next: ({ left, memory }, reduced, _, { step }) => ({
      left,
      memory,
      payload: null,
      mean: expand(reduced, { seed, step }),
    }),
    bytes: (workers, dtype) => ({
      sent: compressor.bytes(dtype),
      received: receivedBytes(compressor, workers, dtype),
    }),
  };
}

/**
 * The factors of the last mean, and inside a mean the first of the two that travel.
 *
 * @since 0.2.0
 */
export interface PowerSgdMemory {
  readonly factors: PowerSgdState;
  readonly first: readonly PowerSgdFirst[];
}

/**
 * The mean by the two exchanges of PowerSGD.
 *
 * Shapes: vectors `[n]` of the tensors of the options.
 *
 * @throws {RangeError} if the rank is not a positive integer, or the seed is not a non-negative integer
 * @example A matrix of rank one goes through whole
 * ```ts
 * const compressor = ct.dist.powerSgdMean({ shapes: [[4, 3]], rank: 1, seed: 0 });
 * const method = ct.dist.errorFeedback({ shapes: [[4, 3]], learningRate: 1, compressor });
 * const run = ct.dist.together(method, ct.zeros([12]), 2);
 * run.step(() => ct.ones([12]));
 * assertClose(run.states[0]!.anchor, ct.full([12], -1), 1e-5);
 * ```
 * @since 0.2.0
 */
export function powerSgdMean(options: PowerSgdOptions): LossyMean<PowerSgdMemory> {
  const { name, init, first, second, result, bytes } = powerSgd(options);
  return {
    name,
    exchanges: 2,
    init: (theta) => ({ factors: init(theta.dtype), first: [] }),
    begin: (vector, memory) => ({
      left: vector,
      memory,
      payload: first(vector, memory.factors),
      mean: null,
    }),
    reduce: meanOf,
    next({ left, memory }, reduced, index) {
      if (index === 0) {
        const mean = reduced as PowerSgdFirst;
        return { left, memory: { ...memory, first: [mean] }, payload: second(left, mean), mean: null };
      }
      const { mean, own, state } = result(left, memory.first[0]!, reduced as Value);
      return { left: sub(left, own), memory: { factors: state, first: [] }, payload: null, mean };
    },
    bytes(_, dtype) {
      const each = bytes(dtype);
      return { sent: each.first + each.second, received: each.first + each.second };
    },
  };
}

/** A compressor where a mean is asked for stands for the mean by it. */
export function lossyMeanOf(by: Compressor | LossyMean, seed = 0): LossyMean {
  return "exchanges" in by ? by : lossyMean(by, seed);
}
