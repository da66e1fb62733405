/** Adagrad. */
import { zerosLike } from "../core/create.ts";
import { add, div, mul, sqrt } from "../core/ops.ts";
import { map } from "../core/tree.ts";
import { checkOptions, nonNegative } from "./ranges.ts";
import type { Schedule } from "./schedule.ts";
import {
  type CountState,
  chain,
  type GradientTransformation,
  scaleByLearningRate,
} from "./transformation.ts";

/**
 * The constants of Adagrad.
 *
 * @since 0.2.0
 */
export interface AdagradOptions {
  /** Added to the root of the sum of squares; default 1e-10. */
  readonly epsilon?: number;
  /** The sum of squares before the first step; default 0. */
  readonly initial?: number;
}

/**
 * What Adagrad remembers.
 *
 * @since 0.2.0
 */
export interface AdagradState {
  /** Sum of squared gradients: a tree like the parameters. */
  readonly square: unknown;
}

/**
 * Adagrad: every element has its own rate, which falls with the gradients it has seen.
 *
 * `s <- s + g²; p <- p - lr g / (sqrt(s) + eps)`
 *
 * Shapes: any tree of float tensors; the state holds one more.
 * Units: none.
 *
 * @param learningRate a number, or a schedule; default 0.01
 * @throws {RangeError} if an option is negative
 * @source Duchi, Hazan & Singer 2011, "Adaptive subgradient methods for online learning and stochastic optimization"
 * @example Steps of 1, then 1 / sqrt(2), of the rate
 * ```ts
 * const x = ct.tensor(1);
 * const optimizer = ct.optim.adagrad(0.1);
 * const [first, state] = optimizer.update(ct.tensor(3), optimizer.init(x), x, {});
 * assertClose(first, -0.1, 1e-6);
 * assertClose(optimizer.update(ct.tensor(3), state, x, {})[0], -0.1 * Math.SQRT1_2, 1e-6);
 * ```
 * @since 0.2.0
 */
export function adagrad(
  learningRate: number | Schedule = 0.01,
  options: AdagradOptions = {},
): GradientTransformation<[AdagradState, CountState]> {
  const { epsilon = 1e-10, initial = 0 } = options;
  checkOptions("Adagrad", { epsilon: [epsilon, nonNegative], initial: [initial, nonNegative] });
  const direction: GradientTransformation<AdagradState> = {
    name: "scaleByAdagrad",
    init: (params) => ({ square: map((p) => add(zerosLike(p), initial), params) }),
    update(updates, state) {
      const square = map((g, s) => add(s!, mul(g, g)), updates, state.square);
      return [map((g, s) => div(g, add(sqrt(s!), epsilon)), updates, square), { square }];
    },
  };
  return { ...chain(direction, scaleByLearningRate(learningRate)), name: "adagrad" };
}
