/** What methods of flat parameters are told whatever their kind, checked once, and what all of them do with it. */
import { bytesPerElement } from "../../core/dtype.ts";
import { DTypeError, ShapeError } from "../../core/errors.ts";
import { sizeOf } from "../../core/shape.ts";
import { scalar } from "../../core/trace.ts";
import type { Value } from "../../core/value.ts";
import type { LearningRate, ParameterShapes, Traffic } from "./method.ts";

/**
 * What is common to the options of methods.
 *
 * @since 0.2.0
 */
export interface SettingOptions extends ParameterShapes {
  /** A number, or a function of the step, counted from 1. */
  readonly learningRate: LearningRate;
  /** Element type of the parameters, which the counts of bytes depend on; default float32. */
  readonly dtype?: "float32" | "float64";
}

/** The options as a method uses them. */
export interface Setting {
  /**
   * @throws {ShapeError} if it is not a vector of the shapes' size
   * @throws {DTypeError} if it has another element type
   */
  checkStart(theta: Value): void;
  /**
   * The learning rate of a step.
   *
   * @throws {RangeError} if it is not finite or negative
   */
  rateAt(step: number): number;
  /** A number that compiled functions take as an argument. */
  number(x: number): Value;
  /** An exchange of `vectors` vectors `[n]` as they are. */
  dense(vectors: number): Traffic;
}

/**
 * Checks the options that all methods have.
 *
 * @param name of the method, for errors
 * @throws {RangeError} if the learning rate is a number that is not finite or negative
 */
export function settingOf(name: string, options: SettingOptions): Setting {
  const { learningRate, shapes, dtype = "float32" } = options;
  const n = shapes.reduce((total, shape) => total + sizeOf(shape), 0);
  const rateAt = (step: number): number => {
    const rate = typeof learningRate === "number" ? learningRate : learningRate(step);
    checkRange(name, `the learning rate of step ${step}`, rate, { least: 0 });
    return rate;
  };
  if (typeof learningRate === "number") rateAt(1);
  return {
    checkStart(theta) {
      if (theta.ndim !== 1 || theta.size !== n) {
        throw new ShapeError(
          name,
          `Cannot start ${name} at ${theta.aval}: its shape is [${theta.shape}], the tensors have ${n} elements and [${n}] is needed`,
        );
      }
      if (theta.dtype !== dtype) {
        throw new DTypeError(
          name,
          `Cannot start ${name} at ${theta.aval}: its element type is ${theta.dtype}, ${dtype} is needed as in the options`,
        );
      }
    },
    rateAt,
    number: (x) => scalar(x, dtype),
    dense: (vectors) => {
      const bytes = vectors * n * bytesPerElement(dtype);
      return { sent: bytes, received: bytes };
    },
  };
}

/** Bounds of a number; an excluded bound is not allowed itself. */
export interface Bounds {
  readonly least?: number;
  readonly most?: number;
  readonly above?: number;
  readonly below?: number;
}

/**
 * Checks that a finite number is within bounds.
 *
 * @throws {RangeError} if it is not
 */
export function checkRange(name: string, what: string, x: number, range: Bounds): void {
  const { least = Number.NEGATIVE_INFINITY, most = Number.POSITIVE_INFINITY } = range;
  const { above = Number.NEGATIVE_INFINITY, below = Number.POSITIVE_INFINITY } = range;
  if (Number.isFinite(x) && x >= least && x <= most && x > above && x < below) return;
  const bounds = Object.entries(range).map(([word, bound]) => `${words[word as keyof Bounds]} ${bound}`);
  throw new RangeError(`Cannot make ${name}: ${what} is ${x}, a number ${bounds.join(" and ")} is needed`);
}

const words: Readonly<Record<keyof Bounds, string>> = {
  least: "of at least",
  most: "of at most",
  above: "above",
  below: "below",
};

/**
 * Checks that a number counts something.
 *
 * @throws {RangeError} if it is not an integer from `least` on
 */
export function checkCount(name: string, what: string, x: number, least = 1): void {
  if (Number.isSafeInteger(x) && x >= least) return;
  throw new RangeError(`Cannot make ${name}: ${what} is ${x}, an integer of at least ${least} is needed`);
}

/**
 * The constants of Adam as methods take them.
 *
 * @since 0.2.0
 */
export interface MomentOptions {
  /** Decay of the mean of gradients; default 0.9. */
  readonly beta1?: number;
  /** Decay of the mean of squares; default 0.999. */
  readonly beta2?: number;
  /** Added to the root of the mean of squares; default 1e-8. */
  readonly epsilon?: number;
  /** Decoupled weight decay; default 0. */
  readonly weightDecay?: number;
}

/**
 * Checks the constants of Adam and fills them in.
 *
 * @throws {RangeError} if a decay is not in [0, 1), epsilon is not positive or the weight decay is negative
 */
export function momentsOf(name: string, options: MomentOptions): Required<MomentOptions> {
  const { beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, weightDecay = 0 } = options;
  checkRange(name, "beta1", beta1, { least: 0, below: 1 });
  checkRange(name, "beta2", beta2, { least: 0, below: 1 });
  checkRange(name, "epsilon", epsilon, { above: 0 });
  checkRange(name, "weightDecay", weightDecay, { least: 0 });
  return { beta1, beta2, epsilon, weightDecay };
}

/** Nothing is exchanged. */
export const noTraffic: Traffic = { sent: 0, received: 0 };

/** Two exchanges one after the other. */
export function both(a: Traffic, b: Traffic): Traffic {
  return { sent: a.sent + b.sent, received: a.received + b.received };
}
