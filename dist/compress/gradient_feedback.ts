/** Gradients are compressed with error feedback, before an optimizer sees them: all workers have the same parameters. */

import { jit } from "../../autodiff/jit.ts";
import { zerosLike } from "../../core/create.ts";
import { add, div, mul, sub } from "../../core/ops.ts";
import type { Value } from "../../core/value.ts";
import { type AdamState, scaleByAdam } from "../../optim/adam.ts";
import { meanOf } from "../../optim/admm.ts";
import type { Compressor } from "./compressor.ts";
import { type LossyMean, lossyMeanOf } from "./lossy_mean.ts";
import type { CommunicatingMethod, StepAt } from "./method.ts";
import {
  checkRange,
  type MomentOptions,
  momentsOf,
  type Setting,
  type SettingOptions,
  settingOf,
} from "./setting.ts";

/**
 * What a worker remembers.
 *
 * @since 0.2.0
 */
export interface GradientFeedbackState<B> {
  /** The same at all workers; `[n]`. */
  readonly theta: Value;
  /** What this worker has not sent; `[n]`. */
  readonly residual: Value;
  /** Of the optimizer, the same at all workers. */
  readonly base: B;
  /** Of the compression. */
  readonly memory: unknown;
}

/**
 * Options of momentum descent on compressed gradients.
 *
 * @since 0.2.0
 */
export interface GradientFeedbackMomentumOptions extends SettingOptions {
  /** What is sent of a gradient. */
  readonly compressor: Compressor | LossyMean;
  /** Default 0.9. */
  readonly momentum?: number;
  /** Added to the mean gradient as `weightDecay x`; default 0. */
  readonly weightDecay?: number;
}

/**
 * Momentum descent on gradients that are compressed with error feedback (PEF).
 *
 * Of `D = lr g + e` the workers send parts whose mean is c, and keep e; then `M <- mu M + c / lr + wd x; x <- x - lr M`. What
 * is kept back is in units of updates, so that it counts the same after a change of the learning rate.
 *
 * Shapes: parameters `[n]`.
 *
 * @throws {RangeError} if an option is out of its range, or a learning rate is not positive
 * @source https://github.com/anxuthu/DEF (PEF)
 * @example One of two elements at a time
 * ```ts
 * const compressor = ct.dist.topKCompressor({ shapes: [[2]], ratio: 2 });
 * const method = ct.dist.gradientFeedbackMomentum({ shapes: [[2]], learningRate: 1, momentum: 0, compressor });
 * const run = ct.dist.together(method, ct.zeros([2]), 1);
 * run.step(() => ct.tensor([3, 2]));
 * run.step(() => ct.tensor([3, 2]));
 * assertClose(run.view(), [-3, -4]);
 * ```
 * @since 0.2.0
 */
export function gradientFeedbackMomentum(
  options: GradientFeedbackMomentumOptions,
): CommunicatingMethod<GradientFeedbackState<{ readonly momentum: Value }>> {
  const name = "gradientFeedbackMomentum";
  const { momentum: mu = 0.9, weightDecay = 0 } = options;
  const setting = settingOf(name, options);
  checkRange(name, "momentum", mu, { least: 0, below: 1 });
  checkRange(name, "weightDecay", weightDecay, { least: 0 });
  // M <- mu M + c / lr + wd x; x <- x - lr M
  const update = jit((theta: Value, base: { readonly momentum: Value }, mean: Value, rate: Value) => {
    const gradient = div(mean, rate);
    const decayed = weightDecay === 0 ? gradient : add(gradient, mul(weightDecay, theta));
    const momentum = add(mul(mu, base.momentum), decayed);
    return { theta: sub(theta, mul(rate, momentum)), base: { momentum } };
  });
  const scaled = jit((gradient: Value, rate: Value, residual: Value) => add(mul(rate, gradient), residual));
  const rateAt = (step: number): Value => {
    const rate = setting.rateAt(step);
    checkRange(name, `the learning rate of step ${step}`, rate, { above: 0 });
    return setting.number(rate);
  };
  return gradientFeedback(name, options, setting, {
    init: (theta) => ({ momentum: zerosLike(theta) }),
    compensate: (gradient, residual, step) => scaled(gradient, rateAt(step), residual),
    update: (theta, base, mean, step) => update(theta, base, mean, rateAt(step)),
  });
}

/**
 * Options of Adam on compressed gradients.
 *
 * @since 0.2.0
 */
export interface GradientFeedbackAdamOptions extends SettingOptions, MomentOptions {
  /** What is sent of a gradient. */
  readonly compressor: Compressor | LossyMean;
}

/**
 * Adam on gradients that are compressed with error feedback.
 *
 * Of `D = g + e` the workers send parts whose mean is the gradient of a step of Adam, and keep e. Adam is not linear in the
 * gradient: what comes late or in bursts is scaled by another mean of squares than it would have been, and lost in part.
 *
 * Shapes: parameters `[n]`.
 *
 * @throws {RangeError} if an option is out of its range
 * @example With everything sent it is Adam
 * ```ts
 * const compressor = ct.dist.topKCompressor({ shapes: [[2]], ratio: 1 });
 * const method = ct.dist.gradientFeedbackAdam({ shapes: [[2]], learningRate: 0.1, compressor });
 * const run = ct.dist.together(method, ct.zeros([2]), 2);
 * run.step((rank) => ct.tensor([3 + rank, -1]));
 * assertClose(run.view(), [-0.1, 0.1], 1e-6);
 * ```
 * @since 0.2.0
 */
export function gradientFeedbackAdam(
  options: GradientFeedbackAdamOptions,
): CommunicatingMethod<GradientFeedbackState<AdamState>> {
  const name = "gradientFeedbackAdam";
  const setting = settingOf(name, options);
  const { weightDecay, ...moments } = momentsOf(name, options);
  const adam = scaleByAdam(moments);
  const update = jit((theta: Value, state: AdamState, gradient: Value, rate: Value) => {
    const [direction, base] = adam.update(gradient, state, theta, {});
    const decayed = weightDecay === 0 ? direction : add(direction, mul(weightDecay, theta));
    return { theta: sub(theta, mul(rate, decayed)), base };
  });
  const plus = jit((x: Value, y: Value) => add(x, y));
  return gradientFeedback(name, options, setting, {
    init: adam.init,
    compensate: (gradient, residual) => plus(gradient, residual),
    update: (theta, base, mean, step) => update(theta, base, mean, setting.number(setting.rateAt(step))),
  });
}

/** What an optimizer does with compressed gradients. */
interface Base<B> {
  init(theta: Value): B;
  /** What is to be sent, of a gradient and of what was not sent before. */
  compensate(gradient: Value, residual: Value, step: number): Value;
  update(theta: Value, base: B, mean: Value, step: number): { readonly theta: Value; readonly base: B };
}

function gradientFeedback<B>(
  name: string,
  { compressor, dtype = "float32" }: Pick<GradientFeedbackAdamOptions, "compressor" | "dtype">,
  setting: Setting,
  optimizer: Base<B>,
): CommunicatingMethod<GradientFeedbackState<B>> {
  const by = lossyMeanOf(compressor);
  return {
    name,
    init(theta) {
      setting.checkStart(theta);
      return { theta, residual: zerosLike(theta), base: optimizer.init(theta), memory: by.init(theta) };
    },
    position: ({ theta }) => theta,
    exchanges: () => by.exchanges,
    begin(state, gradient, _, at: StepAt) {
      const vector = optimizer.compensate(gradient, state.residual, at.step);
      const { left, memory, payload } = by.begin(vector, state.memory, at);
      return [{ ...state, residual: left, memory }, payload];
    },
    reduce: (payloads, index) => by.reduce(payloads, index),
    next(state, reduced, index, at) {
      const { theta, residual, base } = state;
      const part = by.next({ left: residual, memory: state.memory }, reduced, index, at);
      const sent = { ...state, residual: part.left, memory: part.memory };
      if (part.mean === null) return [sent, part.payload];
      return [{ ...sent, ...optimizer.update(theta, base, part.mean, at.step) }, null];
    },
    // What is kept back are gradients: what they will do depends on the optimizer's state then.
    view: ({ theta }) => theta,
    flush: {
      payload: ({ residual }) => residual,
      reduce: meanOf,
      apply: (state, reduced) => ({ ...state, residual: reduced as Value }),
    },
    stepBytes: (_, workers) => by.bytes(workers, dtype),
  };
}
