/** Lion: the sign of a momentum. */
import { zerosLike } from "../core/create.ts";
import { add, mul, sign } from "../core/ops.ts";
import { map } from "../core/tree.ts";
import { addDecayedWeights } from "./adam.ts";
import { checkOptions, fraction, nonNegative } from "./ranges.ts";
import type { Schedule } from "./schedule.ts";
import {
  type CountState,
  chain,
  type GradientTransformation,
  scaleByLearningRate,
} from "./transformation.ts";

/**
 * The constants of Lion.
 *
 * @since 0.2.0
 */
export interface LionOptions {
  /** Weight of the momentum in the direction; default 0.9. */
  readonly beta1?: number;
  /** Decay of the momentum; default 0.99. */
  readonly beta2?: number;
  /** Decoupled weight decay; default 0. */
  readonly weightDecay?: number;
}

/**
 * What Lion remembers.
 *
 * @since 0.2.0
 */
export interface LionState {
  /** Running mean of gradients: a tree like the parameters. */
  readonly mean: unknown;
}

/**
 * Lion: every element moves by the same length, and an element without gradient not at all.
 *
 * `p <- p - lr (sign(b1 m + (1 - b1) g) + weightDecay p); m <- b2 m + (1 - b2) g`
 *
 * Shapes: any tree of float tensors; the state holds one more.
 * Units: none.
 *
 * @param learningRate a number, or a schedule; default 1e-4: several times smaller than that of Adam
 * @throws {RangeError} if an option is out of range
 * @source Chen et al. 2023, "Symbolic discovery of optimization algorithms"
 * @example The sign
 * ```ts
 * const x = ct.tensor([1, 1, 1]);
 * const optimizer = ct.optim.lion(0.1);
 * assertClose(optimizer.update(ct.tensor([5, -3, 0]), optimizer.init(x), x, {})[0], [-0.1, 0.1, 0]);
 * ```
 * @since 0.2.0
 */
export function lion(
  learningRate: number | Schedule = 1e-4,
  options: LionOptions = {},
): GradientTransformation<[LionState, readonly [], CountState]> {
  const { beta1 = 0.9, beta2 = 0.99, weightDecay = 0 } = options;
  checkOptions("Lion", {
    beta1: [beta1, fraction],
    beta2: [beta2, fraction],
    weightDecay: [weightDecay, nonNegative],
  });
  const direction: GradientTransformation<LionState> = {
    name: "scaleByLion",
    init: (params) => ({ mean: map(zerosLike, params) }),
    update(updates, state) {
      const blend = (beta: number): typeof updates =>
        map((g, m) => add(mul(beta, m!), mul(1 - beta, g)), updates, state.mean);
      return [map(sign, blend(beta1)), { mean: blend(beta2) }];
    },
  };
  return {
    ...chain(direction, addDecayedWeights(weightDecay), scaleByLearningRate(learningRate)),
    name: "lion",
  };
}
