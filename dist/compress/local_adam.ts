/** Workers that go on by themselves for many steps of AdamW, and then take the mean of how far they have come. */

import { jit, keepForOthers } from "../../autodiff/jit.ts";
import { zerosLike } from "../../core/create.ts";
import { add, mul, sub } from "../../core/ops.ts";
import type { Value } from "../../core/value.ts";
import { type AdamState, scaleByAdam } from "../../optim/adam.ts";
import { meanOf } from "../../optim/admm.ts";
import { inPlace } from "../in_place.ts";
import type { CommunicatingMethod } from "./method.ts";
import {
  checkCount,
  checkRange,
  type MomentOptions,
  momentsOf,
  noTraffic,
  type SettingOptions,
  settingOf,
} from "./setting.ts";

/**
 * Options of local Adam.
 *
 * @since 0.2.0
 */
export interface LocalAdamOptions extends SettingOptions, MomentOptions {
  /** Steps from one communication to the next. */
  readonly period: number;
}

/**
 * Options of DiLoCo.
 *
 * @since 0.2.0
 */
export interface DiLoCoOptions extends LocalAdamOptions {
  /** Default 0.7. */
  readonly outerLearningRate?: number;
  /** Of Nesterov's kind; default 0.9. */
  readonly outerMomentum?: number;
}

/**
 * What a worker remembers; `[n]` where no other shape is said.
 *
 * @since 0.2.0
 */
export interface LocalAdamState {
  /** Where all workers have met last. */
  readonly anchor: Value;
  /** Of the outer descent; the same at all workers. */
  readonly velocity: Value;
  readonly theta: Value;
  /** Of the worker itself: it is never averaged but by a flush. */
  readonly adam: AdamState;
}

/**
 * Local Adam: AdamW at each worker, and every `period` steps the mean of their parameters.
 *
 * Shapes: parameters `[n]`.
 *
 * @throws {RangeError} if an option is out of its range
 * @source Cheng & Glasgow 2025, "Convergence of distributed adaptive optimization with local updates"
 * @example Apart, then together
 * ```ts
 * const method = ct.dist.localAdam({ shapes: [[1]], learningRate: 0.1, period: 2 });
 * const run = ct.dist.together(method, ct.zeros([1]), 2);
 * run.step((rank) => ct.tensor([rank === 0 ? 1 : -1]));
 * assertClose(method.position(run.states[0]!), [-0.1], 1e-6);
 * run.step((rank) => ct.tensor([rank === 0 ? 1 : -1]));
 * assertClose(method.position(run.states[0]!), [0], 1e-6);
 * ```
 * @since 0.2.0
 */
export function localAdam(options: LocalAdamOptions): CommunicatingMethod<LocalAdamState> {
  return outer("localAdam", options, 1, 0);
}

/**
 * DiLoCo: AdamW at each worker; every `period` steps the mean of how far they have come is a gradient for an outer descent.
 *
 * With `d = A - mean of x` the workers meet at `V <- mu V + d; A <- A - outer lr (d + mu V); x <- A`.
 *
 * Shapes: parameters `[n]`.
 *
 * @throws {RangeError} if an option is out of its range
 * @source Douillard et al. 2023, "DiLoCo: distributed low-communication training of language models"
 * @example The first meeting goes 0.7 · 1.9 times as far as the workers
 * ```ts
 * const method = ct.dist.diLoCo({ shapes: [[1]], learningRate: 0.1, period: 1 });
 * const run = ct.dist.together(method, ct.zeros([1]), 2);
 * run.step(() => ct.tensor([5]));
 * assertClose(run.view(), [-0.133], 1e-6);
 * ```
 * @since 0.2.0
 */
export function diLoCo(options: DiLoCoOptions): CommunicatingMethod<LocalAdamState> {
  const { outerLearningRate = 0.7, outerMomentum = 0.9 } = options;
  checkRange("diLoCo", "outerLearningRate", outerLearningRate, { above: 0 });
  checkRange("diLoCo", "outerMomentum", outerMomentum, { least: 0, below: 1 });
  return outer("diLoCo", options, outerLearningRate, outerMomentum);
}

function outer(
  name: string,
  options: LocalAdamOptions,
  outerRate: number,
  mu: number,
): CommunicatingMethod<LocalAdamState> {
  const { period } = options;
  const setting = settingOf(name, options);
  const { weightDecay, ...moments } = momentsOf(name, options);
  checkCount(name, "period", period);
  const adam = scaleByAdam(moments);
  const communicates = (step: number): boolean => step % period === 0;

  const inner = inPlace(
    (theta: Value, state: AdamState, gradient: Value, rate: Value) => {
      const [direction, next] = adam.update(gradient, state, theta, {});
      const decayed = weightDecay === 0 ? direction : add(direction, mul(weightDecay, theta));
      return { theta: sub(theta, mul(rate, decayed)), adam: next };
    },
    [0, 1],
  );
  /** Against the way that was gone, as a gradient is. */
  const difference = jit((anchor: Value, theta: Value) => sub(anchor, theta));
  // V <- mu V + d; A <- A - outer lr (d + mu V)
  const meet = jit((anchor: Value, velocity: Value, mean: Value) => {
    const next = mu === 0 ? mean : add(mul(mu, velocity), mean);
    const at = sub(anchor, mul(outerRate, mu === 0 ? mean : add(mean, mul(mu, next))));
    return { anchor: at, velocity: mu === 0 ? velocity : next, theta: at };
  });

  return {
    name,
    init(theta) {
      setting.checkStart(theta);
      keepForOthers(theta);
      return { anchor: theta, velocity: zerosLike(theta), theta, adam: adam.init(theta) };
    },
    position: ({ theta }) => theta,
    exchanges: (step) => (communicates(step) ? 1 : 0),
    begin(state, gradient, _, { step, givesUp }) {
      const rate = setting.number(setting.rateAt(step));
      const next = { ...state, ...inner(givesUp)(state.theta, state.adam, gradient, rate) };
      return [next, communicates(step) ? difference(state.anchor, next.theta) : null];
    },
    reduce: meanOf,
    next: (state, reduced) => [{ ...state, ...meet(state.anchor, state.velocity, reduced as Value) }, null],
    view: ({ theta }) => theta,
    flush: {
      payload: ({ theta, adam: { mean, square } }) => ({ theta, mean, square }),
      reduce: meanOf,
      apply(state, reduced) {
        const { theta, mean, square } = reduced as { theta: Value; mean: Value; square: Value };
        return { ...state, theta, adam: { ...state.adam, mean, square } };
      },
    },
    stepBytes: (step) => (communicates(step) ? setting.dense(1) : noTraffic),
  };
}
