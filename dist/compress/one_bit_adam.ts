/** Adam until its mean of squares is frozen, then descent by momentum of which only signs travel. */

import { jit } from "../../autodiff/jit.ts";
import { add, div, mul, sqrt, sub } from "../../core/ops.ts";
import type { Value } from "../../core/value.ts";
import { type AdamState, scaleByAdam } from "../../optim/adam.ts";
import { meanOf } from "../../optim/admm.ts";
import type { Compressor } from "./compressor.ts";
import type { CommunicatingMethod } from "./method.ts";
import { checkCount, type MomentOptions, momentsOf, type SettingOptions, settingOf } from "./setting.ts";
import { signCompressor } from "./sign.ts";
import { type TwoWayErrors, twoWayMean } from "./two_way.ts";

/**
 * Options of 1-bit Adam.
 *
 * @since 0.2.0
 */
export interface OneBitAdamOptions extends SettingOptions, MomentOptions {
  /** The last step of Adam itself; default 100000. The authors advise 15 to 25 of 100 steps. */
  readonly freezeStep?: number;
  /** Of the momentum; default signs with one scale for each tensor. */
  readonly compressor?: Compressor;
}

/**
 * What a worker remembers; `[n]` where no other shape is said.
 *
 * @since 0.2.0
 */
export interface OneBitAdamState {
  /** The same at all workers. */
  readonly theta: Value;
  /** The same at all workers between steps. */
  readonly adam: AdamState;
  readonly errors: TwoWayErrors;
}

/**
 * 1-bit Adam.
 *
 * Up to `freezeStep` it is Adam on the mean gradient. From then on the mean of squares v stays as it is, and what travels is
 * each worker's momentum `m = b1 m + (1 - b1) g`, compressed with error feedback, and compressed again as a mean; the result
 * is the momentum of all, and `p <- p - lr (m' / (sqrt(v') + eps) + wd p)`, primes bias-corrected, v' as at the freeze.
 *
 * The server's part is computed by every worker, so payloads of all workers arrive at each.
 *
 * Shapes: parameters `[n]`.
 *
 * @throws {RangeError} if an option is out of its range
 * @source Tang et al. 2021, "1-bit Adam: communication efficient large-scale training with Adam's convergence speed"
 * @example Signs, after one step of Adam
 * ```ts
 * const method = ct.dist.oneBitAdam({ shapes: [[8]], learningRate: 0.1, freezeStep: 1 });
 * const run = ct.dist.together(method, ct.zeros([8]), 2);
 * for (let step = 0; step < 2; step++) run.step(() => ct.tensor([1, -1, 1, -1, 1, -1, 1, -1]));
 * assertClose(run.view(), [-0.2, 0.2, -0.2, 0.2, -0.2, 0.2, -0.2, 0.2], 1e-6);
 * assert(method.stepBytes(1, 2).sent === 32 && method.stepBytes(2, 2).sent === 8);
 * ```
 * @since 0.2.0
 */
export function oneBitAdam(options: OneBitAdamOptions): CommunicatingMethod<OneBitAdamState> {
  const name = "oneBitAdam";
  const { freezeStep = 100_000, compressor = signCompressor(options), dtype = "float32" } = options;
  const setting = settingOf(name, options);
  const { weightDecay, ...moments } = momentsOf(name, options);
  const { beta1, beta2, epsilon } = moments;
  checkCount(name, "freezeStep", freezeStep);
  const adam = scaleByAdam(moments);
  const by = twoWayMean(compressor);
  const isFrozen = (step: number): boolean => step > freezeStep;

  const descended = (theta: Value, direction: Value, rate: Value): Value =>
    sub(theta, mul(rate, weightDecay === 0 ? direction : add(direction, mul(weightDecay, theta))));
  const dense = jit((theta: Value, state: AdamState, gradient: Value, rate: Value) => {
    const [direction, next] = adam.update(gradient, state, theta, {});
    return { theta: descended(theta, direction, rate), adam: next };
  });
  // m <- b1 m + (1 - b1) g
  const momentum = jit((mean: Value, gradient: Value) => add(mul(1 - beta1, gradient), mul(beta1, mean)));
  const frozen = jit((theta: Value, mean: Value, square: Value, c1: Value, c2: Value, rate: Value) =>
    descended(theta, div(mul(mean, c1), add(sqrt(mul(square, c2)), epsilon)), rate),
  );
  const c2 = setting.number(correction(beta2, freezeStep));

  return {
    name,
    init(theta) {
      setting.checkStart(theta);
      return { theta, adam: adam.init(theta), errors: by.init(theta) };
    },
    position: ({ theta }) => theta,
    exchanges: () => 1,
    begin(state, gradient, _, at) {
      if (!isFrozen(at.step)) return [state, gradient];
      const [errors, payload] = by.begin(momentum(state.adam.mean as Value, gradient), state.errors, at);
      return [{ ...state, errors }, payload];
    },
    reduce: (payloads, _, { step }) => (isFrozen(step) ? by.reduce(payloads) : meanOf(payloads)),
    next(state, reduced, _, at) {
      const { theta } = state;
      const rate = setting.number(setting.rateAt(at.step));
      if (!isFrozen(at.step))
        return [{ ...state, ...dense(theta, state.adam, reduced as Value, rate) }, null];
      const [errors, mean] = by.end(state.errors, reduced, at);
      const c1 = setting.number(correction(beta1, at.step));
      const next = frozen(theta, mean, state.adam.square as Value, c1, c2, rate);
      return [{ theta: next, adam: { ...state.adam, mean }, errors }, null];
    },
    // What is kept back is momentum, which is in no parameters yet.
    view: ({ theta }) => theta,
    flush: {
      payload: ({ errors }) => errors.worker,
      reduce: meanOf,
      apply: (state, reduced) => ({ ...state, errors: { ...state.errors, worker: reduced as Value } }),
    },
    stepBytes: (step, workers) => (isFrozen(step) ? by.bytes(workers, dtype) : setting.dense(1)),
  };
}

/** 1 / (1 - beta^count). */
export function correction(beta: number, count: number): number {
  return beta === 0 ? 1 : -1 / Math.expm1(count * Math.log(beta));
}
