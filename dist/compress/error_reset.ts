/** Momentum descent in which workers keep what they do not send, and are brought together by a second compressor. */

import { jit } from "../../autodiff/jit.ts";
import { zerosLike } from "../../core/create.ts";
import { add, mul, sub } from "../../core/ops.ts";
import type { Value } from "../../core/value.ts";
import { meanOf } from "../../optim/admm.ts";
import type { Compressor } from "./compressor.ts";
import { type LossyMean, lossyMeanOf } from "./lossy_mean.ts";
import type { CommunicatingMethod } from "./method.ts";
import { both, checkCount, checkRange, noTraffic, type SettingOptions, settingOf } from "./setting.ts";

/**
 * Options of error reset.
 *
 * @since 0.2.0
 */
export interface ErrorResetOptions extends SettingOptions {
  /** What is sent of an update at every step; null for nothing; default null. */
  readonly compressor?: Compressor | LossyMean | null;
  /** What is sent of the errors. */
  readonly errorCompressor: Compressor | LossyMean;
  /** Steps from one reset to the next; default 1. */
  readonly resetEvery?: number;
  /** Default 0.9. */
  readonly momentum?: number;
  /** Added to the gradient as `weightDecay x`; default 0. */
  readonly weightDecay?: number;
}

/**
 * What a worker remembers.
 *
 * @since 0.2.0
 */
export interface ErrorResetState {
  /** What all workers agree on; `[n]` as all here. */
  readonly anchor: Value;
  /** How far this worker has gone on from there: `x = anchor - error`. */
  readonly error: Value;
  readonly momentum: Value;
  /** Inside a step: what was not sent of its update. */
  readonly open: readonly Value[];
  /** Of the two compressions. */
  readonly memory: readonly [updates: unknown, errors: unknown];
}

/**
 * Error reset (CSER): what a worker does not send of an update moves the worker itself, and is partly given up now and then.
 *
 * At every step `M <- mu M + g + wd x`; of `lr M` the mean c of what is sent and the worker's own rest r are both applied,
 * `x <- x - c - r; e <- e + r`. Every `resetEvery` steps the errors are sent in the same way by a compressor of their own:
 * `x <- x + e - c' - r'; e <- r'`. The mean of the workers is that of momentum descent at every step.
 *
 * Shapes: parameters `[n]`.
 *
 * @throws {RangeError} if an option is out of its range
 * @source Xie et al. 2020, "CSER: communication-efficient SGD with error reset"
 * @example The mean of the workers has all of every update
 * ```ts
 * const errorCompressor = ct.dist.blockCompressor({ shapes: [[4]], ratio: 4, seed: 1 });
 * const method = ct.dist.errorReset({ shapes: [[4]], learningRate: 0.5, errorCompressor });
 * const run = ct.dist.together(method, ct.zeros([4]), 2);
 * run.step((rank) => ct.tensor([2 * rank, 2, 3, 4]));
 * assertClose(run.view(), [-0.5, -1, -1.5, -2]);
 * ```
 * @since 0.2.0
 */
export function errorReset(options: ErrorResetOptions): CommunicatingMethod<ErrorResetState> {
  const name = "errorReset";
  const { compressor = null, errorCompressor, resetEvery = 1, dtype = "float32" } = options;
  const { momentum: mu = 0.9, weightDecay = 0 } = options;
  const setting = settingOf(name, options);
  checkRange(name, "momentum", mu, { least: 0, below: 1 });
  checkRange(name, "weightDecay", weightDecay, { least: 0 });
  checkCount(name, "resetEvery", resetEvery);
  const updates = compressor === null ? null : lossyMeanOf(compressor);
  // Another seed: the two must be independent even where one compressor is given twice.
  const errors = lossyMeanOf(errorCompressor, 1);
  const before = updates?.exchanges ?? 0;
  const resets = (step: number): boolean => step % resetEvery === 0;

  // M <- mu M + g + wd x
  const descend = jit((anchor: Value, error: Value, momentum: Value, gradient: Value, rate: Value) => {
    const decayed = weightDecay === 0 ? gradient : add(gradient, mul(weightDecay, sub(anchor, error)));
    const next = add(mul(mu, momentum), decayed);
    return { momentum: next, update: mul(rate, next) };
  });
  const less = jit((x: Value, y: Value) => sub(x, y));
  const more = jit((x: Value, y: Value) => add(x, y));

  /** The first payload of a reset, where there is one at this step. */
  const reset = (state: ErrorResetState, at: Parameters<typeof errors.begin>[2]) => {
    if (!resets(at.step)) return [state, null] as const;
    const part = errors.begin(state.error, state.memory[1], at);
    return [{ ...state, error: part.left, memory: [state.memory[0], part.memory] }, part.payload] as const;
  };

  return {
    name,
    init(theta) {
      setting.checkStart(theta);
      const zero = zerosLike(theta);
      return {
        anchor: theta,
        error: zero,
        momentum: zero,
        open: [],
        memory: [updates?.init(theta) ?? [], errors.init(theta)],
      };
    },
    position: ({ anchor, error }) => less(anchor, error),
    exchanges: (step) => before + (resets(step) ? errors.exchanges : 0),
    begin(state, gradient, _, at) {
      const { anchor, error, memory } = state;
      const rate = setting.number(setting.rateAt(at.step));
      const { momentum, update } = descend(anchor, error, state.momentum, gradient, rate);
      if (updates === null) return reset({ ...state, momentum, error: more(error, update) }, at);
      const part = updates.begin(update, memory[0], at);
      return [{ ...state, momentum, open: [part.left], memory: [part.memory, memory[1]] }, part.payload];
    },
    reduce: (payloads, index) =>
      index < before ? updates!.reduce(payloads, index) : errors.reduce(payloads, index - before),
    next(state, reduced, index, at) {
      const { anchor, error, memory } = state;
      if (index < before) {
        const part = updates!.next({ left: state.open[0]!, memory: memory[0] }, reduced, index, at);
        const sent: ErrorResetState = { ...state, open: [part.left], memory: [part.memory, memory[1]] };
        if (part.mean === null) return [sent, part.payload];
        // x <- x - c - r; e <- e + r
        return reset(
          { ...sent, anchor: less(anchor, part.mean), error: more(error, part.left), open: [] },
          at,
        );
      }
      const part = errors.next({ left: error, memory: memory[1] }, reduced, index - before, at);
      const sent: ErrorResetState = { ...state, error: part.left, memory: [memory[0], part.memory] };
      if (part.mean === null) return [sent, part.payload];
      // x <- x + e - c' - r'; e <- r'
      return [{ ...sent, anchor: less(anchor, part.mean) }, null];
    },
    view: ({ anchor, error }) => less(anchor, error),
    flush: {
      payload: ({ error, momentum }) => ({ error, momentum }),
      reduce: meanOf,
      apply(state, reduced) {
        const { error, momentum } = reduced as Pick<ErrorResetState, "error" | "momentum">;
        return { ...state, anchor: less(state.anchor, error), error: zerosLike(error), momentum };
      },
    },
    stepBytes: (step, workers) =>
      both(
        updates?.bytes(workers, dtype) ?? noTraffic,
        resets(step) ? errors.bytes(workers, dtype) : noTraffic,
      ),
  };
}
