/** Momentum descent whose workers send compressed updates, and add what they have not sent to the next ones. */

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
 * Options of momentum descent with error feedback.
 *
 * @since 0.2.0
 */
export interface ErrorFeedbackOptions extends SettingOptions {
  /** What is sent of an update. */
  readonly compressor: Compressor | LossyMean;
  /** Default 0.9. */
  readonly momentum?: number;
  /** Added to the gradient as `weightDecay x`; default 0. */
  readonly weightDecay?: number;
  /** Steps from one communication to the next; default 1. */
  readonly period?: number;
}

/**
 * Options of step-ahead error feedback.
 *
 * @since 0.2.0
 */
export interface StepAheadOptions extends ErrorFeedbackOptions {
  /** After so many steps the workers replace what they have not sent by its mean; a multiple of the period; default 20. */
  readonly averageEvery?: number;
}

/**
 * Options of detached error feedback.
 *
 * @since 0.2.0
 */
export interface DetachedOptions extends ErrorFeedbackOptions {
  /** The part of what was not sent that moves a worker's own position; default 0.3. */
  readonly residualWeight?: number;
}

/**
 * What a worker remembers.
 *
 * @since 0.2.0
 */
export interface ErrorFeedbackState {
  /** The parameters that all workers agree on; `[n]` as all here. */
  readonly anchor: Value;
  /** Where this worker takes its gradient. */
  readonly local: Value;
  /** Updates that are not in the anchor: those since the last communication and what was not sent. */
  readonly pending: Value;
  readonly momentum: Value;
  /** Of the compression. */
  readonly memory: unknown;
}

/**
 * Error feedback: gradients at the parameters that all workers agree on.
 *
 * At every step `M <- mu M + g + wd x; x <- x - lr M; D <- D + lr M`; at every communication the mean c of what the workers
 * send of D moves the anchor, `A <- A - c; x <- A`, and D is what was not sent. The view is the mean of A - D.
 *
 * Shapes: parameters `[n]`.
 *
 * @throws {RangeError} if an option is out of its range
 * @source Karimireddy et al. 2019, "Error feedback fixes SignSGD and other gradient compression schemes"
 * @example Nothing is lost: the view moves by the whole update
 * ```ts
 * const compressor = ct.dist.blockCompressor({ shapes: [[4]], ratio: 4, seed: 1 });
 * const method = ct.dist.errorFeedback({ shapes: [[4]], learningRate: 0.5, compressor });
 * const run = ct.dist.together(method, ct.zeros([4]), 2);
 * run.step(() => ct.tensor([1, 2, 3, 4]));
 * assertClose(run.view(), [-0.5, -1, -1.5, -2]);
 * ```
 * @since 0.2.0
 */
export function errorFeedback(options: ErrorFeedbackOptions): CommunicatingMethod<ErrorFeedbackState> {
  return feedback("errorFeedback", options, 0, null);
}

/**
 * Step-ahead error feedback: each worker takes its gradient where it would be had all of its update been sent.
 *
 * As `errorFeedback` with `x <- A - D`; every `averageEvery` steps D is replaced by its mean over the workers, uncompressed,
 * so that what they have not sent drifts apart no further. With `averageEvery: 1` this is momentum descent on the mean
 * gradient.
 *
 * Shapes: parameters `[n]`.
 *
 * @throws {RangeError} if an option is out of its range
 * @source Xu, Huo & Huang 2021, "Step-ahead error feedback for distributed training with compressed gradient"
 * @example One worker is where momentum descent is
 * ```ts
 * const compressor = ct.dist.topKCompressor({ shapes: [[4]], ratio: 4 });
 * const method = ct.dist.stepAheadErrorFeedback({ shapes: [[4]], learningRate: 0.5, momentum: 0, compressor });
 * const run = ct.dist.together(method, ct.zeros([4]), 1);
 * run.step(() => ct.tensor([1, 2, 3, 4]));
 * assertClose(method.position(run.states[0]!), [-0.5, -1, -1.5, -2]);
 * ```
 * @since 0.2.0
 */
export function stepAheadErrorFeedback(options: StepAheadOptions): CommunicatingMethod<ErrorFeedbackState> {
  const { averageEvery = 20, period = 1 } = options;
  checkCount("stepAheadErrorFeedback", "averageEvery", averageEvery);
  if (averageEvery % period !== 0) {
    throw new RangeError(
      `Cannot make stepAheadErrorFeedback: averageEvery is ${averageEvery}, a multiple of the period of ${period} steps is needed`,
    );
  }
  return feedback("stepAheadErrorFeedback", options, 1, averageEvery);
}

/**
 * Detached error feedback: each worker takes its gradient a part of the way to where all of its update would have led it.
 *
 * As `errorFeedback` with `x <- A - residualWeight D`: 0 is error feedback, 1 is step-ahead error feedback without means.
 *
 * Shapes: parameters `[n]`.
 *
 * @throws {RangeError} if an option is out of its range
 * @source Xu & Huang 2022, "Detached error feedback for distributed SGD with random sparsification"
 * @example Part of the way
 * ```ts
 * const compressor = ct.dist.topKCompressor({ shapes: [[4]], ratio: 4 });
 * const method = ct.dist.detachedErrorFeedback({ shapes: [[4]], learningRate: 0.5, compressor, residualWeight: 0.5 });
 * const run = ct.dist.together(method, ct.zeros([4]), 1);
 * run.step(() => ct.tensor([1, 2, 3, 4]));
 * assertClose(method.position(run.states[0]!), [-0.25, -0.5, -0.75, -2]);
 * ```
 * @since 0.2.0
 */
export function detachedErrorFeedback(options: DetachedOptions): CommunicatingMethod<ErrorFeedbackState> {
  const { residualWeight = 0.3 } = options;
  checkRange("detachedErrorFeedback", "residualWeight", residualWeight, { least: 0, most: 1 });
  return feedback("detachedErrorFeedback", options, residualWeight, null);
}

/** All three: `weight` says where gradients are taken, `averageEvery` how often what was not sent is averaged. */
function feedback(
  name: string,
  options: ErrorFeedbackOptions,
  weight: number,
  averageEvery: number | null,
): CommunicatingMethod<ErrorFeedbackState> {
  const { compressor, momentum: mu = 0.9, weightDecay = 0, period = 1, dtype = "float32" } = options;
  const setting = settingOf(name, options);
  checkRange(name, "momentum", mu, { least: 0, below: 1 });
  checkRange(name, "weightDecay", weightDecay, { least: 0 });
  checkCount(name, "period", period);
  const by = lossyMeanOf(compressor);
  const communicates = (step: number): boolean => step % period === 0;
  const averages = (step: number): boolean => averageEvery !== null && step % averageEvery === 0;

  // M <- mu M + g + wd x; x <- x - lr M; D <- D + lr M
  const descend = jit(
    ({ local, momentum, pending }: Omit<ErrorFeedbackState, "memory">, gradient: Value, rate: Value) => {
      const decayed = weightDecay === 0 ? gradient : add(gradient, mul(weightDecay, local));
      const next = add(mul(mu, momentum), decayed);
      const update = mul(rate, next);
      return { momentum: next, local: sub(local, update), pending: add(pending, update) };
    },
  );
  /** Where a worker is between communications. */
  const aheadOf = (anchor: Value, pending: Value): Value =>
    weight === 0 ? anchor : sub(anchor, mul(weight, pending));
  const ahead = jit(aheadOf);
  const land = jit((anchor: Value, mean: Value, pending: Value) => {
    const next = sub(anchor, mean);
    return { anchor: next, local: aheadOf(next, pending) };
  });
  const view = jit((anchor: Value, pending: Value) => sub(anchor, pending));

  return {
    name,
    init(theta) {
      setting.checkStart(theta);
      const zero = zerosLike(theta);
      return { anchor: theta, local: theta, pending: zero, momentum: zero, memory: by.init(theta) };
    },
    position: ({ local }) => local,
    exchanges: (step) => (communicates(step) ? by.exchanges + (averages(step) ? 1 : 0) : 0),
    begin({ memory, ...vectors }, gradient, _, at) {
      const next = { ...vectors, ...descend(vectors, gradient, setting.number(setting.rateAt(at.step))) };
      if (!communicates(at.step)) return [{ ...next, memory }, null];
      const part = by.begin(next.pending, memory, at);
      return [{ ...next, pending: part.left, memory: part.memory }, part.payload];
    },
    reduce: (payloads, index) => (index < by.exchanges ? by.reduce(payloads, index) : meanOf(payloads)),
    next(state, reduced, index, at) {
      if (index === by.exchanges) {
        const pending = reduced as Value;
        return [{ ...state, pending, local: ahead(state.anchor, pending) }, null];
      }
      const part = by.next({ left: state.pending, memory: state.memory }, reduced, index, at);
      const sent = { ...state, pending: part.left, memory: part.memory };
      if (part.mean === null) return [sent, part.payload];
      const landed = { ...sent, ...land(state.anchor, part.mean, part.left) };
      return [landed, averages(at.step) ? part.left : null];
    },
    view: ({ anchor, pending }) => view(anchor, pending),
    flush: {
      payload: ({ pending, momentum }) => ({ pending, momentum }),
      reduce: meanOf,
      apply(state, reduced) {
        const { pending, momentum } = reduced as Pick<ErrorFeedbackState, "pending" | "momentum">;
        const zero = zerosLike(pending);
        return { ...state, ...land(state.anchor, pending, zero), pending: zero, momentum };
      },
    },
    stepBytes(step, workers) {
      if (!communicates(step)) return noTraffic;
      const bytes = by.bytes(workers, dtype);
      return averages(step) ? both(bytes, setting.dense(1)) : bytes;
    },
  };
}
