/** Adam whose communication is divided: a small part of the update is waited for, the rest goes in the background. */
import { jit } from "../../autodiff/jit.ts";
import { full, zerosLike } from "../../core/create.ts";
import { bytesPerElement, type DType } from "../../core/dtype.ts";
import { ShapeError } from "../../core/errors.ts";
import { scatterAdd, take } from "../../core/ops/indexing.ts";
import { add, div, exp, expm1, less, maximum, mul, neg, sqrt, sub, where } from "../../core/ops/math.ts";
import { cast } from "../../core/ops/shape.ts";
import { sizeOf } from "../../core/shape.ts";
import { adopt, scalar } from "../../core/trace.ts";
import type { Value } from "../../core/value.ts";
import type { AdamWOptions } from "../../optim/adam.ts";
import { meanOf } from "../../optim/admm.ts";
import { biasCorrection } from "../../optim/transformation.ts";
import { inPlace } from "../in_place.ts";
import { blockCompressor, blockIndices } from "./block.ts";
import {
  type Compressor,
  type CompressorOptions,
  expandReduced,
  receivedBytes,
  reduceCompressed,
  split,
} from "./compressor.ts";
import type { CommunicatingMethod, LearningRate, Payload, StepAt } from "./method.ts";
import { addPairs, levelsOf, type Pairs, packingOf } from "./pairs.ts";
import { topKCompressor } from "./top_k.ts";

/**
 * How DivAdam communicates, beside the constants of AdamW; the weight decay is 0 by default.
 *
 * Units: `period`, `delay`, `warmup` and `varianceEvery` in steps.
 *
 * @since 0.2.0
 */
export interface DivAdamOptions extends AdamWOptions, CompressorOptions {
  readonly learningRate: LearningRate;
  /** One number of so many is waited for; at most 1 is Adam with dense exchanges. Default 128. */
  readonly ratio?: number;
  /** A background exchange begins at every multiple of it; default 4. Infinity: there is none. */
  readonly period?: number;
  /** The result is applied so many steps after the beginning, not before; at most the period, which is the default. */
  readonly delay?: number;
  /** How much of what is not yet applied everywhere a worker's own position has, from 0 to 1; default 1. */
  readonly residualWeight?: number;
  /**
   * First steps with dense exchanges; at least 1, default 16. v lags behind the gradients by up to two periods: where some
   * are rare or grow fast, as those of a transformer, a tenth of all steps or more is needed before that does no harm.
   */
  readonly warmup?: number;
  /** Whether first moments go with the background and are averaged; default false. */
  readonly averageMomentum?: boolean;
  /** A multiple of the period: how often gradients go with the background; default the period. */
  readonly varianceEvery?: number;
  /** `block` (default): one random block of each tensor, the same at all workers; `topk`: the largest of each worker. */
  readonly compressor?: "block" | "topk";
  /**
   * How numbers travel in the background, in both directions; `float32` (default) is the element type of the parameters,
   * `int16` has room for 1024 workers.
   */
  readonly precision?: "float32" | "int16";
  /** Of the blocks; default 0. */
  readonly seed?: number;
}

/** In the place of something that is not there, as a tree. */
type Nothing = readonly [];

/** Something for each vector that goes in the background; `window` is the sum of the gradients since the last one sent. */
interface Parts<T> {
  readonly residual: T;
  readonly window?: T;
  readonly mean?: T;
}

/** As they travel: in full precision, or as integers. */
type Travelling = Parts<Value> | Parts<Pairs>;

/** What is under way, kept as it was sent until its result is taken. */
interface InFlight {
  readonly sent: Travelling;
  /** What an integer of each tensor stands for; an empty list in full precision. */
  readonly units: Parts<Value> | Nothing;
  /** How many gradients its window has. */
  readonly count: Value;
}

/**
 * What a worker remembers. `anchor`, `square`, `count`, `gathered` and `scales` are the same at all workers.
 *
 * Shapes: vectors `[n]`, int32 scalars, and scales for each tensor.
 *
 * @since 0.2.0
 */
export interface DivAdamState {
  /** The parameters without what workers keep back. */
  readonly anchor: Value;
  /** Running mean of squared gradients. */
  readonly square: Value;
  /** How many steps `square` has seen. */
  readonly count: Value;
  /** The worker's running mean of gradients. */
  readonly mean: Value;
  /** Updates of this worker that have not been sent. */
  readonly fresh: Value;
  /** Sum of the worker's gradients that `square` has not seen, and how many there are. */
  readonly window: Value;
  readonly gathered: Value;
  /** Of each tensor the largest number that goes as an integer; an empty list where none do. */
  readonly scales: Partial<Parts<Value>> | Nothing;
  /** What is under way in the background; an empty list where nothing is. */
  readonly flying: InFlight | Nothing;
  /** How many workers there are, where they differ; an empty list where all have the same state. */
  readonly workers: Value | Nothing;
}

/**
 * DivAdam as a method of many workers.
 *
 * @since 0.2.0
 */
export interface DivAdam extends CommunicatingMethod<DivAdamState> {
  readonly flush: NonNullable<CommunicatingMethod<DivAdamState>["flush"]>;
  /**
   * The state after what was under way in the background is lost: it is kept back again. All workers must do so, or none;
   * a result that comes later is ignored.
   */
  abandon(state: DivAdamState): DivAdamState;
  /**
   * Bytes of a vector for one that a worker sends of an update: less than `ratio`, because small tensors send one number as
   * well, and the largest their places. For parameters of this element type; default float32.
   */
  achievedRatio(dtype?: DType): number;
  /** For parameters of this element type; default float32. */
  stepBytes(step: number, workers: number, dtype?: DType): Bytes;
  /** Of the exchange that begins after this step; by default of one with gradients. */
  backgroundBytes(workers: number, step?: number, dtype?: DType): Bytes;
}

interface Bytes {
  readonly sent: number;
  readonly received: number;
}

/** The exchanges that a step waits for: of gradients, of their windows, of updates, of what updates leave. */
type Exchange = "dense" | "window" | "update" | "rest";

/** What a step knows beside its state. */
interface Step {
  readonly rate: Value;
  /** Counted from 1. */
  readonly count: Value;
  readonly workers: Value;
  /** Where the gradient was taken; an empty list where there is no weight decay. */
  readonly position: Value | Nothing;
  /** The indices of what is sent; an empty list where the compressor finds them. */
  readonly indices: Value | Nothing;
}

/**
 * Adam whose communication is divided into a small part that every step waits for, and a background that nobody waits for.
 *
 * All workers have one anchor A and one v, so that u = lr m̂ / (√v̂ + eps) is linear in what they differ in, and what a worker
 * keeps back is applied later without loss: `A - mean(f + b) = x_0 - sum of mean(u)` after every step. At worker k, with
 * f the updates not yet sent, b those under way, w the sum of gradients that v has not seen:
 *
 * 1. g at x = A - λ(f + b); the first `warmup` steps are Adam on mean(g). After a change of the options dense steps may follow
 *    divided ones: the first of them takes `A <- A - mean(f + b)` and `m <- mean(m)` from the same exchange, which has two more
 *    vectors, and leaves `f`, `b` and `w` empty.
 * 2. `w += g`; where the background ends: `v <- b2^c v + (1 - b2^c) (mean(w) / c)²` for the c gradients of the windows
 *    that were sent.
 * 3. `m <- b1 m + (1 - b1) g`, `u = lr m̂ / (√v̂ + eps) + lr wd x`.
 * 4. Of p = f + u a part s is sent and waited for: `A <- A - mean(s)`, `f <- p - s`; where the background ends:
 *    `A <- A - mean(b)`, `b <- 0`.
 * 5. At multiples of the period f and w leave in the background: `b <- f`, `f <- 0`, `w <- 0`.
 *
 * With `averageMomentum` m goes too, and what arrives corrects m by `b1^(delay - 1) (mean(m) - m)` of the time when it was
 * sent: the age of the difference in what m is now. The mean of m over the workers stays what it was. With a delay of 0 the
 * background is part of the step, which then waits for all of it, in full precision.
 *
 * In int16 a number goes as the integer next to `L x / scale`, L = floor(32000 / K), of K workers: two fit in a word, the sum
 * over the workers is exact and takes no more room, so that b is what was sent. What rounding leaves, and what is beyond the
 * scale, stays in f and in w. Each tensor has a scale, the same at all workers: that of dense steps, then 1.5 times the
 * largest number that a worker had.
 *
 * Memory: A, v, m, f and w, and while something is under way what was sent: two vectors, three with averaged m.
 *
 * Shapes: parameters `[n]`, n the sum of the sizes of `shapes`.
 * Determinism: A and v have the same bits at all workers.
 *
 * @throws {RangeError} if an option is outside its range, named there
 * @source Xu & Bai 2023, "Distributed Adaptive Optimization with Divisible Communication" (the division; its text was not
 *   at hand, the algorithm is ours)
 * @example One number in two is waited for, and nothing is lost
 * ```ts
 * const method = ct.dist.divAdam({ shapes: [[2]], ratio: 2, warmup: 1, period: 2, learningRate: 0.1 });
 * const run = ct.dist.together(method, ct.tensor([1, -1]), 2);
 * for (let step = 0; step < 100; step++) run.step((_, x) => ct.mul(2, x));
 * assertClose(run.view(), [0, 0], 0.05);
 * ```
 * @since 0.2.0
 */
export function divAdam(options: DivAdamOptions): DivAdam {
  const settings = checked(options);
  const { learningRate, shapes, ratio, period, delay, warmup, averageMomentum, varianceEvery, seed } =
    settings;
  const n = shapes.reduce((total, shape) => total + sizeOf(shape), 0);
  const isDense = ratio <= 1;
  const tensors: CompressorOptions = { shapes, ...(options.names && { names: options.names }) };
  const kept = { ...tensors, ratio: Math.max(1, ratio), seed };
  const compressor: Compressor =
    settings.compressor === "block" ? blockCompressor(kept) : topKCompressor(kept);
  const programs = programsOf(settings);

  const isDivided = (step: number): boolean => !isDense && step > warmup;
  const isMultiple = (step: number): boolean => isDivided(step) && step % period === 0;
  const beginsAfter = (step: number): boolean => delay > 0 && isMultiple(step);
  const hasWindow = (step: number): boolean => step % varianceEvery === 0;
  const exchangesOf = (step: number): readonly Exchange[] => {
    if (!isDivided(step)) return ["dense"];
    if (delay > 0 || !isMultiple(step)) return ["update"];
    return hasWindow(step) ? ["window", "update", "rest"] : ["update", "rest"];
  };
  const rateAt = typeof learningRate === "number" ? () => learningRate : learningRate;
  let drawn: { readonly step: number; readonly indices: Value } | null = null;
  /** The block of a step is the same for all workers of this process. */
  const indicesAt = (step: number): Value | Nothing => {
    if (settings.compressor !== "block") return [];
    if (drawn?.step !== step) {
      const indices = blockIndices(shapes, kept.ratio, seed, step);
      drawn = { step, indices: adopt(indices, [indices.length], "int32") };
    }
    return drawn.indices;
  };
  const stepOf = (state: DivAdamState, { step, workers }: StepAt): Step => ({
    rate: scalar(rateAt(step), state.anchor.dtype),
    count: scalar(step, "int32"),
    workers: scalar(workers, state.anchor.dtype),
    position: settings.weightDecay === 0 ? [] : programs.position(state),
    indices: isDivided(step) ? indicesAt(step) : [],
  });
  const abandon = (state: DivAdamState): DivAdamState =>
    isFlying(state.flying) ? programs.abandon({ ...state, flying: state.flying }) : state;
  /** The part of an update that is waited for, of a state whose `fresh` is all that has not been sent. */
  const divided = (
    state: DivAdamState,
    sent: Value | Nothing,
    at: StepAt,
  ): readonly [DivAdamState, Payload] => {
    if (isValue(sent)) return [state, sent];
    const [payload, , fresh] = split(compressor, state.fresh, { seed: 0, step: at.step, rank: at.rank! });
    return [{ ...state, fresh }, payload];
  };
  /** A step on the mean of gradients, and where workers differed of what they differ in, which then is the same for all. */
  const dense = (state: DivAdamState, reduced: Value | Apart, at: StepAt): DivAdamState => {
    if (!("gradient" in reduced)) return programs.dense(state, reduced, stepOf(state, at));
    const met = programs.met(state, reduced);
    return programs.takeRest(programs.dense(met, reduced.gradient, stepOf(met, at)), { rest: met.fresh });
  };

  return {
    name: "divAdam",
    tensors,
    abandon,
    achievedRatio: (dtype = "float32") =>
      isDense ? 1 : (n * bytesPerElement(dtype)) / compressor.bytes(dtype),
    init(theta) {
      if (theta.ndim !== 1 || theta.size !== n) {
        throw new ShapeError(
          "divAdam",
          `Cannot start divAdam from ${theta.aval}: its shape is [${theta.shape}], the shapes have ${n} elements and [${n}] is needed`,
        );
      }
      const zero = zerosLike(theta);
      const none = scalar(0, "int32");
      return {
        anchor: theta,
        square: zero,
        count: none,
        mean: zero,
        fresh: zero,
        window: zero,
        gathered: none,
        scales: [],
        flying: [],
        workers: [],
      };
    },
    position: (state) => programs.position(state),
    view: (state) => programs.view(state),
    // A save of an earlier program does not say it.
    workersOf: ({ workers }: Partial<DivAdamState>) => workers && (isValue(workers) ? workers.item() : null),
    exchanges: (step) => exchangesOf(step).length,
    begin(before, gradient, arrived, at) {
      const [first] = exchangesOf(at.step);
      if (programs.sendsInt16) levelsOf(at.workers);
      if (first === "dense") {
        const payload: Value | Apart = isValue(before.workers)
          ? {
              gradient,
              rest: programs.rest({ fresh: before.fresh, flying: before.flying }),
              mean: before.mean,
            }
          : gradient;
        return [before, payload];
      }
      const { flying } = before;
      const workers = scalar(at.workers, "int32");
      const isEnd = beginsAfter(at.step - delay);
      // A result that did not come is lost for all; one of which nothing is under way any more has been counted.
      const taken: Travelling | Nothing =
        isEnd && isFlying(flying) ? ((arrived ?? []) as Travelling | Nothing) : [];
      const state = isEnd && Array.isArray(taken) ? abandon(before) : before;
      if (first === "window") {
        const next = { ...programs.gather(state, gradient), workers };
        return [next, next.window];
      }
      const { flying: underWay, workers: _, ...own } = state;
      const [next, sent] = programs.begin(at.givesUp)(own, underWay, gradient, taken, stepOf(before, at));
      return divided({ ...next, workers }, sent, at);
    },
    reduce(payloads, index, { step }) {
      return exchangesOf(step)[index] === "update"
        ? reduceCompressed(compressor, payloads)
        : meanOf(payloads);
    },
    next(state, reduced, index, at) {
      const exchanges = exchangesOf(at.step);
      const exchange = exchanges[index]!;
      switch (exchange) {
        case "dense":
          return [dense(state, reduced as Value | Apart, at), null];
        case "window": {
          const [next, sent] = programs.seen(state, reduced as Value, stepOf(state, at));
          return divided(next, sent, at);
        }
        case "update": {
          const next =
            settings.compressor === "block"
              ? programs.applyBlock(state, reduced as Value, indicesAt(at.step) as Value, at)
              : programs.apply(state, expandReduced(compressor, reduced, { seed: 0, step: at.step }), at);
          if (exchanges[index + 1] === "rest")
            return [next, averageMomentum ? { rest: next.fresh, mean: next.mean } : { rest: next.fresh }];
          // Something is still under way only after a change of the period or the delay: it leaves again.
          return [beginsAfter(at.step) ? programs.launch(abandon(next), hasWindow(at.step), at) : next, null];
        }
        case "rest":
          return [programs.takeRest(state, reduced as { readonly rest: Value; readonly mean?: Value }), null];
        default:
          return exchange satisfies never;
      }
    },
    ...(!isDense &&
      delay > 0 &&
      period < Infinity && {
        background: {
          beginsAfter,
          endsAt: (step) => beginsAfter(step - delay),
          payload: ({ flying }) => (isFlying(flying) ? flying.sent : []),
          reduce: (payloads) =>
            // After a flush nothing is under way, whoever asks.
            payloads.some(Array.isArray) ? [] : gatheredOf(payloads as readonly Travelling[]),
        },
      }),
    flush: {
      payload: (state) => programs.kept(state),
      reduce: (payloads) => meanOf(payloads),
      apply: (state, reduced) => programs.flush(state, reduced as Kept),
    },
    stepBytes(step, workers, dtype = "float32") {
      const vector = n * bytesPerElement(dtype);
      const bytes = { sent: 0, received: 0 };
      for (const exchange of exchangesOf(step)) {
        const whole = exchange === "rest" && averageMomentum ? 2 * vector : vector;
        const isUpdate = exchange === "update";
        bytes.sent += isUpdate ? compressor.bytes(dtype) : whole;
        bytes.received += isUpdate ? receivedBytes(compressor, workers, dtype) : whole;
      }
      return bytes;
    },
    backgroundBytes(_, step = varianceEvery, dtype = "float32") {
      const vectors = 1 + (hasWindow(step) ? 1 : 0) + (averageMomentum ? 1 : 0);
      const size = bytesPerElement(dtype);
      const vector =
        settings.precision === "int16" ? 4 * Math.ceil(n / 2) + programs.scales * size : n * size;
      const bytes = vectors * vector;
      return { sent: bytes, received: bytes };
    },
  };
}

type Settings = Required<Omit<DivAdamOptions, "names">>;

/** What a dense step sends where workers differ: all that its own update depends on. */
interface Apart {
  readonly gradient: Value;
  readonly rest: Value;
  readonly mean: Value;
}

/** What a worker's position depends on. */
type Placed = Pick<DivAdamState, "anchor" | "fresh" | "flying">;

/** What a worker computes with. */
type Own = Omit<DivAdamState, "workers">;

/** All that differs between workers, and how it is averaged. */
interface Kept {
  readonly rest: Value;
  readonly window: Value;
  readonly mean: Value;
}

const isFlying = (flying: DivAdamState["flying"]): flying is InFlight => !Array.isArray(flying);

const isInt16 = (parts: Travelling): parts is Parts<Pairs> => "words" in parts.residual;

function mapParts<T, U>(parts: Parts<T>, f: (part: T, name: keyof Parts<unknown>) => U): Parts<U> {
  const { residual, window, mean } = parts;
  return {
    residual: f(residual, "residual"),
    ...(window && { window: f(window, "window") }),
    ...(mean && { mean: f(mean, "mean") }),
  };
}

/** What all workers get: the mean, or the sum of integers. */
function gatheredOf(payloads: readonly Travelling[]): Travelling {
  return payloads.every(isInt16) ? sumOfIntegers(payloads) : meanOf(payloads);
}

const sumOfIntegers = jit((payloads: readonly Parts<Pairs>[]) =>
  payloads.reduce((sum, payload) => mapParts(sum, (part, name) => addPairs(part, payload[name]!))),
);

/** Of nothing that float32 has no quotient for. */
const smallestScale = 1e-30;
const largestScale = 1e37;

/** A number like this in the place of one that may be anything. */
const scaleOf = (largest: Value): Value =>
  where(less(largest, largestScale), maximum(largest, smallestScale), largestScale);

/** The dense work of a worker, each compiled once for every form of its arguments. */
function programsOf(settings: Settings) {
  const { beta1, beta2, epsilon, weightDecay, residualWeight, averageMomentum } = settings;
  const { ratio, period, delay, varianceEvery, precision } = settings;
  const sendsInt16 = precision === "int16" && ratio > 1 && delay > 0 && period < Infinity;

  const packing = packingOf(settings.shapes.map(sizeOf));
  /** Of this worker, or of the sum of integers of so many. */
  const floatsOf = (parts: Travelling, { units }: InFlight, workers: Value | number = 1): Parts<Value> =>
    isInt16(parts)
      ? mapParts(parts, (part, name) => packing.unpacked(part, div((units as Parts<Value>)[name]!, workers)))
      : parts;
  const sentOf = (flying: InFlight): Parts<Value> => floatsOf(flying.sent, flying);
  /** f + b. */
  const restOf = ({ fresh, flying }: Pick<DivAdamState, "fresh" | "flying">): Value =>
    isFlying(flying) ? add(fresh, sentOf(flying).residual) : fresh;
  const folded = (mean: Value, gradient: Value): Value => add(mul(1 - beta1, gradient), mul(beta1, mean));
  /** v <- b2^c v + (1 - b2^c) (sum / c)², where `sum` is the mean over the workers of the sums of c gradients. */
  const seenBy = <S extends Own>(state: S, sum: Value, seen: Value): S => {
    const { dtype } = sum;
    const exponent = mul(cast(seen, dtype), Math.log(beta2));
    const mean = div(sum, cast(maximum(seen, 1), dtype));
    return {
      ...state,
      square: sub(mul(exp(exponent), state.square), mul(expm1(exponent), mul(mean, mean))),
      count: add(state.count, seen),
    };
  };
  /** lr (m̂ / (√v̂ + eps) + wd x). */
  const updateOf = ({ mean, square, count: seen }: Own, { rate, count, position }: Step): Value => {
    const { dtype } = mean;
    const first = mul(mean, biasCorrection(beta1, count, dtype));
    const second = mul(square, biasCorrection(beta2, seen, dtype));
    const direction = div(first, add(sqrt(second), epsilon));
    return mul(rate, isValue(position) ? add(direction, mul(weightDecay, position)) : direction);
  };
  const gathered = <S extends Own>(state: S, gradient: Value): S => ({
    ...state,
    mean: folded(state.mean, gradient),
    window: add(state.window, gradient),
    gathered: add(state.gathered, 1),
  });
  /** p = f + u, and of it the block that is sent. */
  const descended = <S extends Own>(state: S, step: Step): readonly [S, Value | Nothing] => {
    const whole = add(state.fresh, updateOf(state, step));
    const { indices } = step;
    if (!isValue(indices)) return [{ ...state, fresh: whole }, []];
    const sent = take(whole, indices);
    return [{ ...state, fresh: scatterAdd(whole, indices, neg(sent)) }, sent];
  };
  const arrivedAt = (state: Own, arrived: Travelling, workers: Value): Own => {
    const flying = state.flying as InFlight;
    const { residual, window, mean } = floatsOf(arrived, flying, workers);
    const seen = window ? seenBy(state, window, flying.count) : state;
    // The difference has decayed with m since it was sent.
    const age = beta1 ** (delay - 1);
    return {
      ...seen,
      anchor: sub(state.anchor, residual),
      mean: mean ? add(state.mean, mul(age, sub(mean, sentOf(flying).mean!))) : state.mean,
      ...(isInt16(arrived) && {
        scales: { ...state.scales, ...mapParts(arrived, ({ peaks }) => scaleOf(mul(1.5, peaks))) },
      }),
      flying: [],
    };
  };
  /** Of the exchange after as many steps like this one; the gradient is the mean, so that a worker's may be larger. */
  const scalesLike = (gradient: Value, mean: Value, update: Value): Parts<Value> => {
    const steps = Number.isFinite(varianceEvery) ? varianceEvery : period;
    const scale = (x: Value, times: number): Value => scaleOf(mul(times, packing.peaksOf(x)));
    return {
      residual: scale(update, 2 * period),
      window: scale(gradient, 4 * steps),
      ...(averageMomentum && { mean: scale(mean, 4) }),
    };
  };

  const begin = inPlace(
    (
      own: Omit<Own, "flying">,
      flying: DivAdamState["flying"],
      gradient: Value,
      arrived: Travelling | Nothing,
      step: Step,
    ) => {
      const state = { ...own, flying };
      const whole = "residual" in arrived ? arrivedAt(state, arrived, step.workers) : state;
      return descended(gathered(whole, gradient), step);
    },
    [0],
  );
  const seen = jit((state: DivAdamState, window: Value, step: Step) => {
    const next = seenBy(state, window, state.gathered);
    return descended({ ...next, window: zerosLike(window), gathered: scalar(0, "int32") }, step);
  });
  // Of what they depend on alone, so that nothing is compiled again where something else changes.
  const position = jit((state: Placed) => sub(state.anchor, mul(residualWeight, restOf(state))));
  const view = jit((state: Placed) => sub(state.anchor, restOf(state)));
  return {
    sendsInt16,
    scales: packing.scales,
    position: ({ anchor, fresh, flying }: Own): Value => position({ anchor, fresh, flying }),
    view: ({ anchor, fresh, flying }: Own): Value => view({ anchor, fresh, flying }),
    rest: jit(restOf),
    /** Where all are what they are on average. */
    met: (state: DivAdamState, { rest, mean }: Apart): DivAdamState => ({
      ...state,
      mean,
      fresh: rest,
      window: zerosLike(rest),
      gathered: scalar(0, "int32"),
      flying: [],
      workers: [],
    }),
    dense: jit((state: DivAdamState, gradient: Value, step: Step): DivAdamState => {
      const square = add(mul(1 - beta2, mul(gradient, gradient)), mul(beta2, state.square));
      const next = { ...state, mean: folded(state.mean, gradient), square, count: add(state.count, 1) };
      const update = updateOf(next, step);
      const scales = sendsInt16 ? scalesLike(gradient, next.mean, update) : state.scales;
      return { ...next, anchor: sub(state.anchor, update), scales };
    }),
    gather: jit(gathered),
    begin,
    seen,
    applyBlock: (state: DivAdamState, sum: Value, indices: Value, { givesUp }: StepAt): DivAdamState => ({
      ...state,
      anchor: subtractAt(givesUp)(state.anchor, indices, sum),
    }),
    apply: (state: DivAdamState, sum: Value, { givesUp }: StepAt): DivAdamState => ({
      ...state,
      anchor: subtract(givesUp)(state.anchor, sum),
    }),
    /** What has been kept back leaves; what integers leave of it stays. */
    launch(state: DivAdamState, hasWindow: boolean, { workers }: StepAt): DivAdamState {
      const { fresh, window, mean, gathered, scales } = state;
      const leaving: Parts<Value> = {
        residual: fresh,
        ...(hasWindow && { window }),
        ...(averageMomentum && { mean }),
      };
      const none = scalar(0, "int32");
      const count = hasWindow ? gathered : none;
      const next = { ...state, gathered: hasWindow ? none : gathered };
      if (!sendsInt16) {
        const zero = zerosLike(fresh);
        return {
          ...next,
          fresh: zero,
          window: hasWindow ? zero : window,
          flying: { sent: leaving, units: [], count },
        };
      }
      const known: Partial<Parts<Value>> = "residual" in scales ? scales : {};
      const smallest = (dtype: DType): Value => full([packing.scales], smallestScale, { dtype });
      // Where other options did not need a scale, it becomes known by the first exchange, which then moves nothing.
      const splits = mapParts(leaving, (x, name) =>
        packing.split(x, known[name] ?? smallest(x.dtype), levelsOf(workers)),
      );
      return {
        ...next,
        fresh: splits.residual.rest,
        window: splits.window?.rest ?? window,
        flying: {
          sent: mapParts(splits, ({ pairs }) => pairs),
          units: mapParts(splits, ({ units }) => units),
          count,
        },
      };
    },
    takeRest: jit((state: DivAdamState, { rest, mean }: { readonly rest: Value; readonly mean?: Value }) => ({
      ...state,
      anchor: sub(state.anchor, rest),
      fresh: zerosLike(rest),
      mean: mean ?? state.mean,
    })),
    abandon: jit((state: DivAdamState & { readonly flying: InFlight }): DivAdamState => {
      const { window } = sentOf(state.flying);
      return {
        ...state,
        fresh: restOf(state),
        window: window ? add(state.window, window) : state.window,
        gathered: add(state.gathered, state.flying.count),
        flying: [],
      };
    }),
    kept: jit((state: DivAdamState): Kept => {
      const window = isFlying(state.flying) ? sentOf(state.flying).window : undefined;
      return {
        rest: restOf(state),
        window: window ? add(state.window, window) : state.window,
        mean: state.mean,
      };
    }),
    flush: jit((state: DivAdamState, { rest, window, mean }: Kept): DivAdamState => {
      const { gathered: own, flying } = state;
      const seen = seenBy(state, window, isFlying(flying) ? add(own, flying.count) : own);
      return {
        ...seen,
        anchor: sub(state.anchor, rest),
        mean,
        fresh: zerosLike(rest),
        window: zerosLike(window),
        gathered: scalar(0, "int32"),
        flying: [],
        workers: [],
      };
    }),
  };
}

const isValue = (x: Value | Nothing): x is Value => !Array.isArray(x);

const subtract = inPlace((x: Value, y: Value) => sub(x, y), [0]);
const subtractAt = inPlace(
  (x: Value, indices: Value, block: Value) => scatterAdd(x, indices, neg(block)),
  [0],
);

function checked(options: DivAdamOptions): Settings {
  const { period = 4, beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8 } = options;
  const settings: Settings = {
    ratio: 128,
    delay: period,
    residualWeight: 1,
    warmup: 16,
    averageMomentum: false,
    varianceEvery: period,
    compressor: "block",
    precision: "float32",
    seed: 0,
    weightDecay: 0,
    ...options,
    period,
    beta1,
    beta2,
    epsilon,
  };
  const { ratio, delay, residualWeight, warmup, varianceEvery } = settings;
  const isCount = (x: number, least: number): boolean =>
    (Number.isInteger(x) || x === Infinity) && x >= least;
  const rules: readonly (readonly [isRight: boolean, name: string, value: number, needed: string])[] = [
    [ratio > 0, "ratio", ratio, "a positive number is needed"],
    [isCount(period, 1), "period", period, "a positive integer is needed"],
    [
      isCount(delay, 0) && delay <= period,
      "delay",
      delay,
      `an integer from 0 to the period of ${period} is needed`,
    ],
    [
      residualWeight >= 0 && residualWeight <= 1,
      "residualWeight",
      residualWeight,
      "a number from 0 to 1 is needed",
    ],
    [
      Number.isInteger(warmup) && warmup >= 1,
      "warmup",
      warmup,
      "at least 1 is needed: without a dense step there is no mean of squares to divide by",
    ],
    [
      varianceEvery === period || (isCount(varianceEvery, 1) && varianceEvery % period === 0),
      "varianceEvery",
      varianceEvery,
      `a multiple of the period of ${period} is needed`,
    ],
    [beta1 >= 0 && beta1 < 1, "beta1", beta1, "a number from 0 to below 1 is needed"],
    [beta2 > 0 && beta2 < 1, "beta2", beta2, "a number between 0 and 1 is needed"],
    [epsilon > 0, "epsilon", epsilon, "a positive number is needed"],
  ];
  for (const [isRight, name, value, needed] of rules)
    if (!isRight) throw new RangeError(`Cannot make divAdam: ${name} is ${value}, ${needed}`);
  return settings;
}
