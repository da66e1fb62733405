/**
 * Ways to divide the communication of Adam that lack a part of what divAdam has: controls, compared by accuracy alone, so that
 * none of them counts bytes.
 */
import { jit } from "../../autodiff/jit.ts";
import { zerosLike } from "../../core/create.ts";
import { add, mul, sub } from "../../core/ops.ts";
import { scalar } from "../../core/trace.ts";
import type { Value } from "../../core/value.ts";
import { blockCompressor } from "../../dist/compress/block.ts";
import { expandReduced, reduceCompressed, split } from "../../dist/compress/compressor.ts";
import type { CommunicatingMethod } from "../../dist/compress/method.ts";
import { type AdamState, scaleByAdam } from "../../optim/adam.ts";
import { meanOf } from "../../optim/admm.ts";
import type { Setting } from "./methods.ts";

const [BETA1, BETA2] = [0.9, 0.999];
const adam = scaleByAdam({ beta1: BETA1, beta2: BETA2 });
const plus = jit((x: Value, y: Value) => add(x, y));
const minus = jit((x: Value, y: Value) => sub(x, y));

/** lr m̂ / (√v̂ + eps). */
const updateOf = jit((gradient: Value, state: AdamState, rate: Value) => {
  const [direction, next] = adam.update(gradient, state, gradient, {});
  return { update: mul(rate, direction), adam: next };
});

/** What every method here ends with: nothing is counted. */
const uncounted = { stepBytes: () => ({ sent: 0, received: 0 }) } as const;

// --- everything late ---------------------------------------------------------------------------------------------

interface LateState {
  readonly theta: Value;
  readonly adam: AdamState;
  /** Mean gradients that have not been used, the oldest first. */
  readonly waiting: readonly Value[];
}

/** Adam on mean gradients that are `delay` steps old: nothing is waited for, and nothing comes early. */
export function lateAdam({ learningRate }: Setting, delay: number): CommunicatingMethod<LateState> {
  return {
    ...uncounted,
    name: "lateAdam",
    init: (theta) => ({ theta, adam: adam.init(theta), waiting: [] }),
    position: ({ theta }) => theta,
    view: ({ theta }) => theta,
    exchanges: () => 1,
    begin: (state, gradient) => [state, gradient],
    reduce: meanOf,
    next(state, reduced, _, { step }) {
      const [oldest, ...others] = [...state.waiting, reduced as Value];
      if (others.length < delay) return [{ ...state, waiting: [oldest!, ...others] }, null];
      const { update, adam: next } = updateOf(oldest!, state.adam, scalar(learningRate(step), "float32"));
      return [{ theta: minus(state.theta, update), adam: next, waiting: others }, null];
    },
  };
}

// --- gradients divided, not updates ------------------------------------------------------------------------------

interface DividedState {
  readonly theta: Value;
  /** The same at all workers. */
  readonly adam: AdamState;
  /** This worker's gradients that have not been sent. */
  readonly fresh: Value;
  /** What is under way in the background. */
  readonly sent: Value;
  /** Inside a step: what has come from there. */
  readonly arrived: Value | null;
}

/**
 * Adam on gradients of which a block is waited for. The rest of `period` steps leaves together in the background, and a period
 * later it is added to the gradient that Adam sees: no gradient is lost, but most come in bursts.
 */
export function dividedGradients(
  { shapes, seed, learningRate }: Setting,
  { ratio, period }: { readonly ratio: number; readonly period: number },
): CommunicatingMethod<DividedState> {
  const compressor = blockCompressor({ shapes, ratio, seed });
  const beginsAfter = (step: number): boolean => step > 0 && step % period === 0;
  return {
    ...uncounted,
    name: "dividedGradients",
    init(theta) {
      const zero = zerosLike(theta);
      return { theta, adam: adam.init(theta), fresh: zero, sent: zero, arrived: null };
    },
    position: ({ theta }) => theta,
    view: ({ theta }) => theta,
    exchanges: () => 1,
    begin(state, gradient, arrived, { step, rank }) {
      const at = { seed: 0, step, rank: rank! };
      const [payload, , fresh] = split(compressor, plus(state.fresh, gradient), at);
      return [{ ...state, fresh, arrived: arrived as Value | null }, payload];
    },
    reduce: (payloads) => reduceCompressed(compressor, payloads as readonly Value[]),
    next(state, reduced, _, { step }) {
      const block = expandReduced(compressor, reduced as Value, { seed: 0, step });
      const gradient = state.arrived === null ? block : plus(block, state.arrived);
      const { update, adam: next } = updateOf(gradient, state.adam, scalar(learningRate(step), "float32"));
      const moved = { ...state, theta: minus(state.theta, update), adam: next, arrived: null };
      if (!beginsAfter(step)) return [moved, null];
      return [{ ...moved, sent: moved.fresh, fresh: zerosLike(moved.fresh) }, null];
    },
    background: {
      beginsAfter,
      endsAt: (step) => beginsAfter(step - period),
      payload: ({ sent }) => sent,
      reduce: meanOf,
    },
  };
}

// --- a mean of squares of each worker ----------------------------------------------------------------------------

export interface OwnSquaresOptions {
  readonly ratio: number;
  readonly period: number;
  /** What goes in the background, and is averaged there. */
  readonly averages: "nothing" | "residual" | "residual and moments";
  /** First steps with dense exchanges; default 16, as many as divAdam has. */
  readonly warmup?: number;
}

interface Sent {
  readonly rest: Value;
  readonly moments?: { readonly mean: Value; readonly square: Value };
}

interface OwnState {
  /** The parameters without what workers keep back; the same at all workers. */
  readonly anchor: Value;
  /** This worker's own, but for the dense steps. */
  readonly adam: AdamState;
  /** Updates of this worker that have not been sent. */
  readonly fresh: Value;
  /** What is under way in the background. */
  readonly sent: Sent | null;
}

/**
 * DivAdam with both of Adam's moments at each worker, from its own gradients: what is kept back of an update was scaled by
 * another mean of squares than the updates of others.
 *
 * Moments that travel correct those of now by what is left of their difference, as those of divAdam do.
 */
export function ownSquares(
  { shapes, seed, learningRate }: Setting,
  { ratio, period, averages, warmup = 16 }: OwnSquaresOptions,
): CommunicatingMethod<OwnState> {
  const compressor = blockCompressor({ shapes, ratio, seed });
  const isDense = (step: number): boolean => step <= warmup;
  const beginsAfter = (step: number): boolean => !isDense(step) && step % period === 0;
  const rateAt = (step: number): Value => scalar(learningRate(step), "float32");

  const corrected = jit((now: AdamState, sent: NonNullable<Sent["moments"]>, mean: typeof sent) => {
    const towards = (x: unknown, beta: number, name: "mean" | "square"): Value =>
      add(x as Value, mul(beta ** (period - 1), sub(mean[name], sent[name])));
    return { ...now, mean: towards(now.mean, BETA1, "mean"), square: towards(now.square, BETA2, "square") };
  });
  /** The state after what was under way is there. */
  const withMean = (state: OwnState, mean: Sent): OwnState => ({
    ...state,
    anchor: minus(state.anchor, mean.rest),
    adam: mean.moments ? corrected(state.adam, state.sent!.moments!, mean.moments) : state.adam,
    sent: null,
  });
  /** A - f - b. */
  const position = ({ anchor, fresh, sent }: OwnState): Value =>
    minus(anchor, sent === null ? fresh : plus(fresh, sent.rest));
  const launched = (state: OwnState): OwnState => {
    const { mean, square } = state.adam as { readonly mean: Value; readonly square: Value };
    const moments = averages === "residual and moments" ? { moments: { mean, square } } : {};
    return { ...state, sent: { rest: state.fresh, ...moments }, fresh: zerosLike(state.fresh) };
  };

  return {
    ...uncounted,
    name: "ownSquares",
    init: (theta) => ({ anchor: theta, adam: adam.init(theta), fresh: zerosLike(theta), sent: null }),
    position,
    view: position,
    exchanges: () => 1,
    begin(before, gradient, arrived, { step, rank }) {
      if (isDense(step)) return [before, gradient];
      const state = arrived === null ? before : withMean(before, arrived as Sent);
      const { update, adam: next } = updateOf(gradient, state.adam, rateAt(step));
      const at = { seed: 0, step, rank: rank! };
      const [payload, , fresh] = split(compressor, plus(state.fresh, update), at);
      return [{ ...state, adam: next, fresh }, payload];
    },
    reduce: (payloads, _, { step }) =>
      isDense(step) ? meanOf(payloads) : reduceCompressed(compressor, payloads as readonly Value[]),
    next(state, reduced, _, { step }) {
      if (isDense(step)) {
        const { update, adam: next } = updateOf(reduced as Value, state.adam, rateAt(step));
        return [{ ...state, anchor: minus(state.anchor, update), adam: next }, null];
      }
      const block = expandReduced(compressor, reduced as Value, { seed: 0, step });
      const moved = { ...state, anchor: minus(state.anchor, block) };
      return [averages !== "nothing" && beginsAfter(step) ? launched(moved) : moved, null];
    },
    ...(averages !== "nothing" && {
      background: {
        beginsAfter,
        endsAt: (step) => beginsAfter(step - period),
        payload: ({ sent }) => sent,
        reduce: meanOf,
      },
    }),
  };
}
