/** What a worker keeps of what it did not send, and which compressors, memories and communicators fit together. */
import { zerosLike } from "../../core/create.ts";
import { add, mul, sub } from "../../core/ops.ts";
import type { Value } from "../../core/value.ts";
import {
  type Communicator,
  type CompressAt,
  type Compressor,
  expandReduced,
  type Reduced,
  reduceCompressed,
} from "./compressor.ts";

/**
 * What a memory holds: a tree of tensors.
 *
 * @since 0.2.0
 */
export interface MemoryState {
  /** Shapes: `[n]`. */
  readonly residual?: Value;
}

/**
 * What becomes of what was not sent.
 *
 * @since 0.2.0
 */
export interface Memory {
  readonly name: "none" | "residual";
  /** Shapes: `vector`: `[n]`, of which nothing but its aval is used. */
  init(vector: Value): MemoryState;
  /** What is compressed in place of a vector. */
  compensate(vector: Value, state: MemoryState): Value;
  /** What is kept when `sent` stands for `compensated`. */
  update(compensated: Value, sent: Value): MemoryState;
}

/**
 * What is not sent is lost; for unbiased compressors.
 *
 * @example Nothing is kept
 * ```ts
 * assert(ct.dist.noMemory.init(ct.ones([2])).residual === undefined);
 * ```
 * @since 0.2.0
 */
export const noMemory: Memory = {
  name: "none",
  init: () => ({}),
  compensate: (vector) => vector,
  update: () => ({}),
};

/**
 * What is not sent is added to what is sent next: p = v + decay · e, e ← p - C(p).
 *
 * With decay 1 nothing is ever lost: the sum of what was sent, and e, add up to the sum of the vectors.
 *
 * @param options `decay`: what is left of the residual after one use, above 0, default 1
 * @throws {RangeError} if the decay is not above 0 and at most 1
 * @example What was not sent comes with the next vector
 * ```ts
 * const memory = ct.dist.residualMemory();
 * const state = memory.update(ct.tensor([4, 1]), ct.tensor([4, 0]));
 * assertClose(memory.compensate(ct.tensor([0, 1]), state), [0, 2]);
 * ```
 * @source Seide et al. 2014, "1-bit stochastic gradient descent and its application to data-parallel distributed training"
 * @since 0.2.0
 */
export function residualMemory({ decay = 1 }: { readonly decay?: number } = {}): Memory {
  if (!(decay > 0 && decay <= 1)) {
    throw new RangeError(
      `Cannot keep a residual with decay ${decay}: a number above 0 and at most 1 is needed`,
    );
  }
  return {
    name: "residual",
    init: (vector) => ({ residual: zerosLike(vector) }),
    compensate: (vector, { residual }) => add(vector, decay === 1 ? residual! : mul(residual!, decay)),
    update: (compensated, sent) => ({ residual: sub(compensated, sent) }),
  };
}

/**
 * The parts of a mean of compressed vectors.
 *
 * @since 0.2.0
 */
export interface RememberedMeanParts<T> {
  readonly compressor: Compressor<T>;
  readonly memory: Memory;
  /** Default that of the compressor; one whose payloads can be averaged may be gathered too. */
  readonly communicator?: Communicator;
}

/**
 * The mean of vectors of many workers, compressed: a worker's part, what all get, and what they make of it.
 *
 * @since 0.2.0
 */
export interface RememberedMean<T> {
  /** With the communicator that is used. */
  readonly compressor: Compressor<T>;
  init(vector: Value): MemoryState;
  /** Shapes: `vector`, `sent`: `[n]`. */
  send(
    vector: Value,
    state: MemoryState,
    at: CompressAt,
  ): readonly [payload: T, sent: Value, state: MemoryState];
  reduce(payloads: readonly T[]): Reduced<T>;
  /** Shapes: the mean of what the workers sent, `[n]`. */
  expand(reduced: Reduced<T>, at: Pick<CompressAt, "seed" | "step">): Value;
}

/**
 * A mean of compressed vectors from its three parts, if they fit together.
 *
 * @throws {RangeError} if payloads that mean different elements are to be averaged as they are; if a biased compressor has no
 *   memory; or if a memory would grow without bound, because the compressor is no contraction
 * @example Top-k with what it left out
 * ```ts
 * const compressor = ct.dist.topKCompressor({ shapes: [[2]], ratio: 2 });
 * const mean = ct.dist.rememberedMean({ compressor, memory: ct.dist.residualMemory() });
 * const vector = ct.tensor([4, 1]);
 * const [payload, sent, state] = mean.send(vector, mean.init(vector), { seed: 0, step: 1, rank: 0 });
 * assertClose(mean.expand(mean.reduce([payload, payload]), { seed: 0, step: 1 }), sent);
 * assertClose(state.residual!, [0, 1]);
 * assertThrows(() => ct.dist.rememberedMean({ compressor, memory: ct.dist.noMemory }), RangeError);
 * ```
 * @source Xu et al. 2021, "GRACE: a compressed communication framework for distributed machine learning"
 * @since 0.2.0
 */
export function rememberedMean<T>({
  compressor: own,
  memory,
  communicator = own.communicator,
}: RememberedMeanParts<T>): RememberedMean<T> {
  if (communicator === "allreduce" && own.communicator === "allgather") {
    throw new RangeError(
      `Cannot average payloads of ${own.name} as they are: each worker has its own code or its own elements, the communicator allgather is needed`,
    );
  }
  if (own.isBiased && memory.name === "none") {
    throw new RangeError(
      `Cannot use ${own.name} without a memory: it is biased and what it does not send would be lost, a residual memory is needed`,
    );
  }
  if (!own.isContraction && memory.name === "residual") {
    throw new RangeError(
      `Cannot use ${own.name} with a residual memory: it is no contraction and the residual would grow, no memory or less compression is needed`,
    );
  }
  const compressor = { ...own, communicator };
  return {
    compressor,
    init: (vector) => memory.init(vector),
    send(vector, state, at) {
      const compensated = memory.compensate(vector, state);
      const payload = compressor.compress(compensated, at);
      const sent = compressor.decompress(payload, at);
      return [payload, sent, memory.update(compensated, sent)];
    },
    reduce: (payloads) => reduceCompressed(compressor, payloads),
    expand: (reduced, at) => expandReduced(compressor, reduced, at),
  };
}
