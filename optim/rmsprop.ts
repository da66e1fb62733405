/** RMSprop. */
import { zerosLike } from "../core/create.ts";
import { add, div, maximum, mul, sqrt, sub } from "../core/ops.ts";
import { map } from "../core/tree.ts";
import { checkOptions, fraction, nonNegative } from "./ranges.ts";
import type { Schedule } from "./schedule.ts";
import {
  type CountState,
  chain,
  type GradientTransformation,
  scaleByLearningRate,
} from "./transformation.ts";

/**
 * The constants of RMSprop.
 *
 * @since 0.2.0
 */
export interface RmspropOptions {
  /** Decay of the mean of squares, and of the mean of gradients; default 0.99. */
  readonly decay?: number;
  /** Added to the root; default 1e-8. */
  readonly epsilon?: number;
  /** Heavy ball on the scaled gradients; default 0, none. */
  readonly momentum?: number;
  /** Whether the mean is subtracted, so that the root is of a variance; default false. */
  readonly isCentered?: boolean;
}

/**
 * What RMSprop remembers; what an option leaves out is an empty list.
 *
 * @since 0.2.0
 */
export interface RmspropState {
  /** Running mean of squared gradients: a tree like the parameters. */
  readonly square: unknown;
  /** Running mean of gradients, where centered: a tree like the parameters. */
  readonly mean: unknown;
  /** The accumulated step, with momentum: a tree like the parameters. */
  readonly velocity: unknown;
}

/**
 * RMSprop, as PyTorch has it: the root is taken before epsilon is added.
 *
 * `s <- a s + (1 - a) g²; u = g / (sqrt(s) + eps); v <- u + beta v; p <- p - lr v`; centered, with
 * `m <- a m + (1 - a) g`, the root is of `s - m²`.
 *
 * Shapes: any tree of float tensors; the state holds one to three more.
 * Units: none.
 *
 * @param learningRate a number, or a schedule; default 0.01
 * @throws {RangeError} if an option is out of range
 * @source Tieleman & Hinton 2012, "Lecture 6.5: RMSprop"; Graves 2013 (centered)
 * @example The first step: sqrt(1 / (1 - decay)) rates
 * ```ts
 * const x = ct.tensor(1);
 * const optimizer = ct.optim.rmsprop(0.01, { decay: 0.75 });
 * assertClose(optimizer.update(ct.tensor(3), optimizer.init(x), x, {})[0], -0.02, 1e-6);
 * ```
 * @since 0.2.0
 */
export function rmsprop(
  learningRate: number | Schedule = 0.01,
  options: RmspropOptions = {},
): GradientTransformation<[RmspropState, CountState]> {
  const { decay = 0.99, epsilon = 1e-8, momentum = 0, isCentered = false } = options;
  checkOptions("RMSprop", {
    decay: [decay, fraction],
    epsilon: [epsilon, nonNegative],
    momentum: [momentum, fraction],
  });
  const direction: GradientTransformation<RmspropState> = {
    name: "scaleByRms",
    init: (params) => ({
      square: map(zerosLike, params),
      mean: isCentered ? map(zerosLike, params) : [],
      velocity: momentum > 0 ? map(zerosLike, params) : [],
    }),
    update(updates, state) {
      const square = map((g, s) => add(mul(decay, s!), mul(1 - decay, mul(g, g))), updates, state.square);
      const mean = isCentered
        ? map((g, m) => add(mul(decay, m!), mul(1 - decay, g)), updates, state.mean)
        : state.mean;
      // Of equal gradients the variance is 0, and may come out just below.
      const variance = isCentered ? map((s, m) => maximum(sub(s, mul(m!, m!)), 0), square, mean) : square;
      const scaled = map((g, s) => div(g, add(sqrt(s!), epsilon)), updates, variance);
      if (momentum === 0) return [scaled, { square, mean, velocity: state.velocity }];
      const velocity = map((u, v) => add(u, mul(momentum, v!)), scaled, state.velocity);
      return [velocity, { square, mean, velocity }];
    },
  };
  return { ...chain(direction, scaleByLearningRate(learningRate)), name: "rmsprop" };
}
