/** Momenta that each worker keeps for itself, but for their largest cosine coefficients, whose sign all follow. */

import { jit } from "../../autodiff/jit.ts";
import { zerosLike } from "../../core/create.ts";
import { bytesPerElement } from "../../core/dtype.ts";
import { add, mul, sign, sub } from "../../core/ops.ts";
import { readable, type Value } from "../../core/value.ts";
import { meanOf } from "../../optim/admm.ts";
import { cosineChunks } from "./cosine_chunks.ts";
import type { CommunicatingMethod } from "./method.ts";
import { checkCount, checkRange, type SettingOptions, settingOf } from "./setting.ts";
import { type Floats, floatsLike, gathered, readVector, scattered, tensorsOf, vectorOf } from "./tensors.ts";
import { largestInto, type Sparse } from "./top_k.ts";

/**
 * Options of decoupled momentum.
 *
 * @since 0.2.0
 */
export interface DecoupledMomentumOptions extends SettingOptions {
  /** What is left of a momentum after a step; default 0.999. */
  readonly decay?: number;
  /** The largest chunk along an axis; default 64. */
  readonly chunk?: number;
  /** Coefficients of a chunk that are sent; default 32. */
  readonly topK?: number;
  /** Decoupled weight decay; default 0. */
  readonly weightDecay?: number;
}

/**
 * What a worker remembers; all `[n]`.
 *
 * @since 0.2.0
 */
export interface DecoupledMomentumState {
  /** The same at all workers. */
  readonly theta: Value;
  /** What this worker has not sent, decayed. */
  readonly residual: Value;
}

/**
 * Decoupled momentum (DeMo).
 *
 * `E <- decay E + lr g`; the `topK` largest coefficients of each chunk of E's cosine transform are sent and taken out of E. All
 * workers get them all; of each coefficient the mean over those workers that sent it, transformed back, is Q, and
 * `x <- (1 - lr wd) x - lr sign(Q)`.
 *
 * Shapes: parameters `[n]`; a tensor is cut into chunks along its first axis and along all others together, each as long as the
 * largest divisor of the axis that is not above `chunk`.
 *
 * @throws {RangeError} if an option is out of its range
 * @source Peng, Quesnelle & Kingma 2024, "DeMo: decoupled momentum optimization"
 * @example A constant gradient is one coefficient
 * ```ts
 * const method = ct.dist.decoupledMomentum({ shapes: [[8]], learningRate: 0.1, topK: 1 });
 * const run = ct.dist.together(method, ct.zeros([8]), 2);
 * run.step((rank) => ct.full([8], rank + 1));
 * assertClose(run.view(), ct.full([8], -0.1));
 * assertClose(run.states[1]!.residual, ct.zeros([8]));
 * ```
 * @since 0.2.0
 */
export function decoupledMomentum(
  options: DecoupledMomentumOptions,
): CommunicatingMethod<DecoupledMomentumState> {
  const name = "decoupledMomentum";
  const { decay = 0.999, chunk = 64, topK = 32, weightDecay = 0, dtype = "float32", shapes } = options;
  const setting = settingOf(name, options);
  checkRange(name, "decay", decay, { least: 0, below: 1 });
  checkCount(name, "chunk", chunk);
  checkCount(name, "topK", topK);
  checkRange(name, "weightDecay", weightDecay, { least: 0 });
  const tensors = tensorsOf({ shapes });
  const chunks = cosineChunks(shapes, chunk, dtype);
  const kept = chunks.grids.flatMap(({ start, rows, columns, height, width }) => {
    const size = height * width;
    const count = size === 0 ? 0 : (rows * columns) / size;
    return Array.from({ length: count }, (_, i) => ({
      start: start + i * size,
      size,
      count: Math.min(topK, size),
    }));
  });
  const sends = kept.reduce((total, { count }) => total + count, 0);
  const bytes = sends * (4 + bytesPerElement(dtype));

  /** The largest coefficients of every chunk. */
  const select = (coefficients: Value): Sparse => {
    const data = readVector(tensors, coefficients);
    const indices = new Int32Array(sends);
    let at = 0;
    for (const { start, size, count } of kept) {
      largestInto(data, start, start + size, count, indices, at);
      at += count;
    }
    return { indices: vectorOf(indices), values: vectorOf(gathered(data, indices)) };
  };
  // E <- decay E + lr g
  const accumulate = jit((residual: Value, gradient: Value, rate: Value) => {
    const next = add(mul(decay, residual), mul(rate, gradient));
    return { residual: next, coefficients: chunks.encode(next) };
  });
  const takeOut = jit((residual: Value, sent: Value) => sub(residual, chunks.decode(sent)));
  // x <- (1 - lr wd) x - lr sign(Q)
  const follow = jit((theta: Value, mean: Value, rate: Value, left: Value) =>
    sub(mul(left, theta), mul(rate, sign(chunks.decode(mean)))),
  );

  return {
    name,
    init(theta) {
      setting.checkStart(theta);
      return { theta, residual: zerosLike(theta) };
    },
    position: ({ theta }) => theta,
    exchanges: () => 1,
    begin({ theta, residual }, gradient, _, { step }) {
      const next = accumulate(residual, gradient, setting.number(setting.rateAt(step)));
      const payload = select(next.coefficients);
      const indices = readable(payload.indices) as Int32Array;
      const sent = vectorOf(scattered(tensors.n, indices, readable(payload.values)));
      return [{ theta, residual: takeOut(next.residual, sent) }, payload];
    },
    reduce: (payloads) => payloads,
    next(state, reduced, _, { step }) {
      const rate = setting.rateAt(step);
      const mean = meanOfSent(reduced as readonly Sparse[], tensors.n);
      const left = setting.number(1 - rate * weightDecay);
      return [{ ...state, theta: follow(state.theta, mean, setting.number(rate), left) }, null];
    },
    // What is kept back is no part of the parameters: only signs of it will ever be.
    view: ({ theta }) => theta,
    flush: {
      payload: ({ residual }) => residual,
      reduce: meanOf,
      apply: (state, reduced) => ({ ...state, residual: reduced as Value }),
    },
    stepBytes: (_, workers) => ({ sent: bytes, received: workers * bytes }),
  };
}

/** Of each coefficient the mean over the workers that sent it, added up in the order of ranks; 0 where none did. */
function meanOfSent(payloads: readonly Sparse[], n: number): Value {
  const counts = new Int32Array(n);
  const sums: Floats = floatsLike(readable(payloads[0]!.values), n);
  for (const payload of payloads) {
    const indices = readable(payload.indices) as Int32Array;
    const values = readable(payload.values);
    for (let i = 0; i < indices.length; i++) {
      const at = indices[i]!;
      sums[at] = sums[at]! + values[i]!;
      counts[at] = counts[at]! + 1;
    }
  }
  for (let i = 0; i < n; i++) if (counts[i]! > 1) sums[i] = sums[i]! / counts[i]!;
  return vectorOf(sums);
}
