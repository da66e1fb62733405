/** Adam whose mean of squares is renewed ever more rarely, and whose workers then meet ever more rarely, by signs. */

import { jit } from "../../autodiff/jit.ts";
import { onesLike, zerosLike } from "../../core/create.ts";
import { add, div, mul, sqrt, sub } from "../../core/ops.ts";
import type { Value } from "../../core/value.ts";
import { meanOf } from "../../optim/admm.ts";
import type { Compressor } from "./compressor.ts";
import type { CommunicatingMethod } from "./method.ts";
import { correction } from "./one_bit_adam.ts";
import {
  checkCount,
  checkRange,
  type MomentOptions,
  momentsOf,
  noTraffic,
  type SettingOptions,
  settingOf,
} from "./setting.ts";
import { signCompressor } from "./sign.ts";
import { type TwoWayErrors, twoWayMean } from "./two_way.ts";

/**
 * When the mean of squares is renewed, and when workers meet.
 *
 * @since 0.2.0
 */
export interface ZeroOneSchedule {
  /** After the last step in which squares may be renewed, steps without a message begin; default 100000. */
  readonly varianceFreezeStep?: number;
  /** After so many renewals the interval to the next one doubles; default 16. */
  readonly varianceScale?: number;
  /** After so many steps the interval between meetings doubles; default 32678. */
  readonly localScale?: number;
  /** The longest interval between meetings; default 16. */
  readonly localClip?: number;
}

/**
 * Options of 0/1 Adam.
 *
 * @since 0.2.0
 */
export interface ZeroOneAdamOptions extends SettingOptions, MomentOptions, ZeroOneSchedule {
  /** Of the sums of momenta; default signs with one scale for each tensor. */
  readonly compressor?: Compressor;
}

/**
 * What a worker remembers; all `[n]`.
 *
 * @since 0.2.0
 */
export interface ZeroOneAdamState {
  /** Where all workers have met. */
  readonly anchor: Value;
  /** Running mean of gradients; differs between workers until they meet. */
  readonly mean: Value;
  /** Running mean of squares; the same at all workers. */
  readonly square: Value;
  /** What steps are divided by, root of the corrected square plus epsilon; the same at all workers. */
  readonly scale: Value;
  /** Since the workers have met: momenta times learning rates. */
  readonly sum: Value;
  readonly errors: TwoWayErrors;
}

/**
 * What happens at a step of 0/1 Adam.
 *
 * - `dense`: gradients are averaged as they are, and the mean of squares is renewed.
 * - `meet`: the sums of momenta since the last meeting are averaged by signs.
 * - `alone`: nothing is sent.
 *
 * @since 0.2.0
 */
export type ZeroOneStep = "dense" | "meet" | "alone";

/**
 * What happens at a step, counted from 1, and how often the mean of squares was renewed up to then.
 *
 * Renewals are at k(0) = 1 and k(j + 1) = k(j) + 2^floor(j / varianceScale) up to the freeze. After the freeze the workers
 * meet every min(localClip, 2^floor(steps since the freeze / localScale)) steps.
 *
 * @throws {RangeError} if a number of the schedule is not a positive integer
 * @example Renewals become rare
 * ```ts
 * const at = ct.dist.zeroOneSchedule({ varianceScale: 2 });
 * assert([1, 2, 3, 5, 7, 11, 15].every((step) => at(step).k === "dense"));
 * assert([4, 6, 8, 9, 10, 12].every((step) => at(step).k === "meet"));
 * ```
 * @since 0.2.0
 */
export function zeroOneSchedule(
  schedule: ZeroOneSchedule = {},
): (step: number) => { readonly k: ZeroOneStep; readonly renewals: number } {
  const name = "zeroOneAdam";
  const { varianceFreezeStep = 100_000, varianceScale = 16, localScale = 32_678, localClip = 16 } = schedule;
  checkCount(name, "varianceFreezeStep", varianceFreezeStep);
  checkCount(name, "varianceScale", varianceScale);
  checkCount(name, "localScale", localScale);
  checkCount(name, "localClip", localClip);
  /** Block b has `varianceScale` gaps of 2^b and begins at varianceScale (2^b - 1), counted from 0. */
  const renewed = (step: number): { readonly isDue: boolean; readonly renewals: number } => {
    const block = Math.floor(Math.log2((step - 1) / varianceScale + 1));
    const since = step - 1 - varianceScale * (2 ** block - 1);
    return {
      isDue: since % 2 ** block === 0,
      renewals: varianceScale * block + Math.floor(since / 2 ** block) + 1,
    };
  };
  return (step) => {
    const { isDue, renewals } = renewed(Math.min(step, varianceFreezeStep));
    if (step <= varianceFreezeStep) return { k: isDue ? "dense" : "meet", renewals };
    const since = step - varianceFreezeStep;
    const interval = Math.min(localClip, 2 ** Math.floor((since - 1) / localScale));
    return { k: since % interval === 0 ? "meet" : "alone", renewals };
  };
}

/**
 * 0/1 Adam.
 *
 * With v fixed, steps of Adam are linear in the momenta, which can be summed up, compressed and sent rarely. Each worker goes
 * on by itself, `m <- b1 m + (1 - b1) g; u <- u + lr' m; x = A - u / (sqrt(v') + eps)`. Where the workers meet, the sums are
 * averaged by signs with errors fed back, as in `oneBitAdam`: with the result U, `A <- A - U / (sqrt(v') + eps)`,
 * `m <- U / (sum of lr')`, `u <- 0`. Now and then gradients are averaged as they are, v is renewed and the step is one of
 * Adam. Here `lr' = lr / (1 - b1^t)` and v' is corrected by the number of renewals, so that with renewals at every step this
 * is Adam; weight decay shrinks A.
 *
 * The view has what is summed up and what was not sent: the mean of `A - (u + errors) / (sqrt(v') + eps)`.
 *
 * Shapes: parameters `[n]`.
 *
 * @throws {RangeError} if an option is out of its range, or a learning rate is not positive
 * @source Lu et al. 2022, "Maximizing communication efficiency for large-scale training via 0/1 Adam",
 * https://arxiv.org/abs/2202.06009
 * @example Steps without a message
 * ```ts
 * const method = ct.dist.zeroOneAdam({ shapes: [[2]], learningRate: 0.1, varianceFreezeStep: 1, localScale: 1, localClip: 4 });
 * assert([1, 2, 3, 4, 5, 6, 7, 8, 9].map(method.exchanges).join() === "1,1,1,0,1,0,0,0,1");
 * const run = ct.dist.together(method, ct.zeros([2]), 2);
 * run.step((rank) => ct.tensor([3 + rank, -1]));
 * assertClose(run.view(), [-0.1, 0.1], 1e-6);
 * ```
 * @since 0.2.0
 */
export function zeroOneAdam(options: ZeroOneAdamOptions): CommunicatingMethod<ZeroOneAdamState> {
  const name = "zeroOneAdam";
  const { compressor = signCompressor(options), dtype = "float32" } = options;
  const setting = settingOf(name, options);
  const { beta1, beta2, epsilon, weightDecay } = momentsOf(name, options);
  const scheduled = zeroOneSchedule(options);
  const by = twoWayMean(compressor);

  /** lr' = lr / (1 - b1^t) */
  const rateAt = (step: number): number => {
    const rate = setting.rateAt(step);
    checkRange(name, `the learning rate of step ${step}`, rate, { above: 0 });
    return rate * correction(beta1, step);
  };
  /** The sum of lr' since the workers have last met. */
  const rateSince = (step: number): number => {
    let total = rateAt(step);
    for (let s = step - 1; s > 0 && scheduled(s).k === "alone"; s--) total += rateAt(s);
    return total;
  };
  /** What decoupled decay leaves of the anchor at a step. */
  const kept = (step: number): Value => setting.number(1 - setting.rateAt(step) * weightDecay);

  const momentum = (mean: Value, gradient: Value): Value => add(mul(1 - beta1, gradient), mul(beta1, mean));
  // v <- b2 v + (1 - b2) g²; then the step of Adam
  const dense = jit(
    (anchor: Value, mean: Value, square: Value, g: Value, rate: Value, c2: Value, left: Value) => {
      const renewed = add(mul(1 - beta2, mul(g, g)), mul(beta2, square));
      const scale = add(sqrt(mul(renewed, c2)), epsilon);
      const next = momentum(mean, g);
      const at = sub(mul(left, anchor), div(mul(rate, next), scale));
      return { anchor: at, mean: next, square: renewed, scale };
    },
  );
  // m <- b1 m + (1 - b1) g; u <- u + lr' m
  const alone = jit((anchor: Value, mean: Value, sum: Value, g: Value, rate: Value, left: Value) => {
    const next = momentum(mean, g);
    return { anchor: mul(left, anchor), mean: next, sum: add(sum, mul(rate, next)) };
  });
  // A <- A - U / scale; m <- U / (sum of lr'); u <- 0
  const meet = jit((anchor: Value, scale: Value, sum: Value, rates: Value) => ({
    anchor: sub(anchor, div(sum, scale)),
    mean: div(sum, rates),
    sum: zerosLike(sum),
  }));
  const position = jit((anchor: Value, sum: Value, scale: Value) => sub(anchor, div(sum, scale)));
  const view = jit(({ anchor, sum, scale, errors }: ZeroOneAdamState) =>
    sub(anchor, div(add(sum, add(errors.worker, errors.server)), scale)),
  );

  return {
    name,
    init(theta) {
      setting.checkStart(theta);
      const zero = zerosLike(theta);
      return {
        anchor: theta,
        mean: zero,
        square: zero,
        scale: onesLike(theta),
        sum: zero,
        errors: by.init(theta),
      };
    },
    position: ({ anchor, sum, scale }) => position(anchor, sum, scale),
    exchanges: (step) => (scheduled(step).k === "alone" ? 0 : 1),
    begin(state, gradient, _, at) {
      const { k } = scheduled(at.step);
      if (k === "dense") return [state, gradient];
      const { anchor, mean, sum } = state;
      const rate = setting.number(rateAt(at.step));
      const next = { ...state, ...alone(anchor, mean, sum, gradient, rate, kept(at.step)) };
      if (k === "alone") return [next, null];
      const [errors, payload] = by.begin(next.sum, state.errors, at);
      return [{ ...next, errors }, payload];
    },
    reduce: (payloads, _, { step }) =>
      scheduled(step).k === "dense" ? meanOf(payloads) : by.reduce(payloads),
    next(state, reduced, _, at) {
      const { anchor, mean, square } = state;
      const { k, renewals } = scheduled(at.step);
      if (k === "dense") {
        const [rate, c2] = [setting.number(rateAt(at.step)), setting.number(correction(beta2, renewals))];
        return [
          { ...state, ...dense(anchor, mean, square, reduced as Value, rate, c2, kept(at.step)) },
          null,
        ];
      }
      const [errors, sum] = by.end(state.errors, reduced, at);
      return [
        { ...state, ...meet(anchor, state.scale, sum, setting.number(rateSince(at.step))), errors },
        null,
      ];
    },
    view: (state) => view(state),
    flush: {
      payload: ({ mean, sum, errors }) => ({ mean, sum, worker: errors.worker }),
      reduce: meanOf,
      apply(state, reduced) {
        const { worker, ...rest } = reduced as { mean: Value; sum: Value; worker: Value };
        return { ...state, ...rest, errors: { ...state.errors, worker } };
      },
    },
    stepBytes(step, workers) {
      const { k } = scheduled(step);
      if (k === "alone") return noTraffic;
      return k === "dense" ? setting.dense(1) : by.bytes(workers, dtype);
    },
  };
}
