/** Learning-rate schedules: functions of the step count, built from operations so that they trace. */
import { add, cast, clip, cos, div, greaterEqual, lessEqual, mul, pow, where } from "../core/ops.ts";
import { scalar } from "../core/trace.ts";
import type { Value } from "../core/value.ts";

/**
 * The rate at a step; `count` is an i32 scalar that starts at 0, the result an f32 scalar.
 *
 * @since 0.1.0
 */
export type Schedule = (count: Value) => Value;

/**
 * A rate at a step: numbers stay numbers.
 *
 * Shapes: `count` and the result are scalars.
 * @example A number is its own schedule
 * ```ts
 * assert(ct.optim.rate(0.1, ct.tensor(7)) === 0.1);
 * ```
 * @since 0.1.0
 */
export function rate(learningRate: number | Schedule, count: Value): number | Value {
  return typeof learningRate === "number" ? learningRate : learningRate(count);
}

/** count / steps, held at 1. */
function progress(count: Value, steps: number): Value {
  return clip(div(cast(count, "float32"), Math.max(1, steps)), 0, 1);
}

/**
 * From one value to another along a line, then constant.
 *
 * Shapes: `i32[] -> f32[]`.
 * Units: `steps` in steps.
 *
 * @example Half way
 * ```ts
 * assertClose(ct.optim.linearSchedule({ from: 0, to: 1, steps: 10 })(ct.tensor(5, { dtype: "int32" })), 0.5);
 * ```
 * @since 0.1.0
 */
export function linearSchedule(options: {
  readonly from: number;
  readonly to: number;
  readonly steps: number;
}): Schedule {
  const { from, to, steps } = options;
  return (count) => add(from, mul(to - from, progress(count, steps)));
}

/**
 * Half a cosine from a value down to `floor`, then constant.
 *
 * Shapes: `i32[] -> f32[]`.
 * Units: `steps` in steps.
 *
 * @source Loshchilov & Hutter 2017, "SGDR"
 * @example The end
 * ```ts
 * assertClose(ct.optim.cosineSchedule({ from: 1, steps: 10 })(ct.tensor(10, { dtype: "int32" })), 0, 1e-6);
 * ```
 * @since 0.1.0
 */
export function cosineSchedule(options: {
  readonly from: number;
  readonly steps: number;
  readonly floor?: number;
}): Schedule {
  const { from, steps, floor = 0 } = options;
  // floor + (from - floor) (1 + cos(pi t)) / 2
  return (count) => add(floor, mul((from - floor) / 2, add(1, cos(mul(Math.PI, progress(count, steps))))));
}

/**
 * One cycle: half a cosine up to `peak`, then half a cosine down to nearly nothing, as PyTorch counts it.
 *
 * Up from `peak / initialDivisor` over the steps 0 to `rise steps - 1`, down to `peak / (initialDivisor finalDivisor)` at
 * step `steps - 1`, then constant.
 *
 * Shapes: `i32[] -> f32[]`.
 * Units: `steps` in steps; `rise` is a fraction of them.
 *
 * @throws {RangeError} if the rise is shorter than one step or leaves none to fall, or a divisor is not positive
 * @source Smith & Topin 2019, "Super-convergence: very fast training of neural networks using large learning rates"
 * @example Up, down
 * ```ts
 * const schedule = ct.optim.oneCycleSchedule({ peak: 1, steps: 100 });
 * assertClose(schedule(ct.tensor(0, { dtype: "int32" })), 0.04, 1e-6);
 * assertClose(schedule(ct.tensor(29, { dtype: "int32" })), 1, 1e-6);
 * assertClose(schedule(ct.tensor(99, { dtype: "int32" })), 4e-6, 1e-6);
 * ```
 * @since 0.2.0
 */
export function oneCycleSchedule(options: {
  readonly peak: number;
  readonly steps: number;
  /** Part of the steps that go up; default 0.3. */
  readonly rise?: number;
  /** The peak over the first rate; default 25. */
  readonly initialDivisor?: number;
  /** The first rate over the last; default 1e4. */
  readonly finalDivisor?: number;
}): Schedule {
  const { peak, steps, rise = 0.3, initialDivisor = 25, finalDivisor = 1e4 } = options;
  const [top, end] = [rise * steps - 1, steps - 1];
  const problems = [
    ...(top > 0 && top < end
      ? []
      : [`rise is ${rise} of ${steps} steps, more than 1 step and less than all`]),
    ...(initialDivisor > 0 ? [] : [`initialDivisor is ${initialDivisor}, a positive number`]),
    ...(finalDivisor > 0 ? [] : [`finalDivisor is ${finalDivisor}, a positive number`]),
  ];
  if (problems.length > 0)
    throw new RangeError(`Cannot make a one-cycle schedule: ${problems.join(" is needed; ")} is needed`);
  const first = peak / initialDivisor;
  const last = first / finalDivisor;
  // to + (from - to) (1 + cos(pi t)) / 2
  const between = (from: number, to: number, t: Value): Value =>
    add(to, mul((from - to) / 2, add(1, cos(mul(Math.PI, clip(t, 0, 1))))));
  return (count) => {
    const step = cast(count, "float32");
    const up = between(first, peak, div(step, top));
    const down = between(peak, last, div(add(step, -top), end - top));
    return where(lessEqual(step, top), up, down);
  };
}

/**
 * Multiplies by `decay` every `steps` steps, smoothly.
 *
 * Shapes: `i32[] -> f32[]`.
 * Units: `steps` in steps.
 *
 * @example One half-life
 * ```ts
 * assertClose(ct.optim.exponentialSchedule({ from: 4, decay: 0.5, steps: 10 })(ct.tensor(10, { dtype: "int32" })), 2);
 * ```
 * @since 0.1.0
 */
export function exponentialSchedule(options: {
  readonly from: number;
  readonly decay: number;
  readonly steps: number;
}): Schedule {
  const { from, decay, steps } = options;
  return (count) => mul(from, pow(scalar(decay, "float32"), div(cast(count, "float32"), steps)));
}

/**
 * A line from 0 to the first value of another schedule, then that schedule.
 *
 * Shapes: `i32[] -> f32[]`.
 * Units: `steps` in steps.
 *
 * @example Warm-up to a constant
 * ```ts
 * const schedule = ct.optim.warmupSchedule({ steps: 4, after: () => ct.tensor(1) });
 * assertClose(schedule(ct.tensor(1, { dtype: "int32" })), 0.25);
 * assertClose(schedule(ct.tensor(9, { dtype: "int32" })), 1);
 * ```
 * @since 0.1.0
 */
export function warmupSchedule(options: { readonly steps: number; readonly after: Schedule }): Schedule {
  const { steps, after } = options;
  return (count) => {
    const later = after(clip(add(count, -steps), 0, 2147483647));
    return where(greaterEqual(count, steps), later, mul(after(scalar(0, "int32")), progress(count, steps)));
  };
}

/**
 * A constant that is multiplied by a factor at given steps.
 *
 * Shapes: `i32[] -> f32[]`.
 * Units: `at` in steps.
 *
 * @example Two drops
 * ```ts
 * const schedule = ct.optim.stepSchedule({ from: 1, factor: 0.1, at: [10, 20] });
 * assertClose(schedule(ct.tensor(15, { dtype: "int32" })), 0.1);
 * ```
 * @since 0.1.0
 */
export function stepSchedule(options: {
  readonly from: number;
  readonly factor: number;
  readonly at: readonly number[];
}): Schedule {
  const { from, factor, at } = options;
  return (count) =>
    at.reduce<Value>(
      (value, step) => where(greaterEqual(count, step), mul(value, factor), value),
      scalar(from, "float32"),
    );
}
