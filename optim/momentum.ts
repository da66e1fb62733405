/** Accumulated gradients: heavy ball and Nesterov. */

import { zerosLike } from "../core/create.ts";
import { add, mul } from "../core/ops.ts";
import { map } from "../core/tree.ts";
import type { Schedule } from "./schedule.ts";
import {
  type CountState,
  chain,
  type GradientTransformation,
  scaleByLearningRate,
} from "./transformation.ts";

/**
 * What a momentum method remembers.
 *
 * @since 0.1.0
 */
export interface VelocityState {
  /** The accumulated gradient: a tree like the parameters. */
  readonly velocity: unknown;
}

/** v <- g + beta v; gives v, or with `nesterov` g + beta v. */
function accumulate(beta: number, nesterov: boolean): GradientTransformation<VelocityState> {
  return {
    name: nesterov ? "nesterov" : "heavyBall",
    init: (params) => ({ velocity: map(zerosLike, params) }),
    update(updates, state) {
      const step = (g: typeof updates, v: typeof updates): typeof updates =>
        map((x, y) => add(x, mul(beta, y!)), g, v);
      const velocity = step(updates, state.velocity as typeof updates);
      return [nesterov ? step(updates, velocity) : velocity, { velocity }];
    },
  };
}

/**
 * Gradient descent.
 *
 * `p <- p - lr g`
 *
 * Shapes: any tree of float tensors.
 * Units: none.
 *
 * @param learningRate a number, or a schedule
 * @source Robbins & Monro 1951
 * @example One step
 * ```ts
 * const x = ct.tensor(1);
 * const optimizer = ct.optim.sgd(0.1);
 * assertClose(optimizer.update(ct.tensor(2), optimizer.init(x), x, {})[0], -0.2);
 * ```
 * @since 0.1.0
 */
export function sgd(learningRate: number | Schedule): GradientTransformation<CountState> {
  return { ...scaleByLearningRate(learningRate), name: "sgd" };
}

/**
 * Gradient descent with heavy-ball momentum.
 *
 * `v <- g + beta v; p <- p - lr v`
 *
 * Shapes: any tree of float tensors; the state holds one more.
 * Units: none.
 *
 * @param learningRate a number, or a schedule
 * @param beta momentum, default 0.9
 * @source Polyak 1964
 * @example Two equal gradients
 * ```ts
 * const x = ct.tensor(1);
 * const optimizer = ct.optim.momentum(1, 0.5);
 * const [, state] = optimizer.update(ct.tensor(2), optimizer.init(x), x, {});
 * assertClose(optimizer.update(ct.tensor(2), state, x, {})[0], -3);
 * ```
 * @since 0.1.0
 */
export function momentum(
  learningRate: number | Schedule,
  beta = 0.9,
): GradientTransformation<[VelocityState, CountState]> {
  return { ...chain(accumulate(beta, false), scaleByLearningRate(learningRate)), name: "momentum" };
}

/**
 * Gradient descent with Nesterov momentum.
 *
 * `v <- g + beta v; p <- p - lr (g + beta v)`
 *
 * Shapes: any tree of float tensors; the state holds one more.
 * Units: none.
 *
 * @param learningRate a number, or a schedule
 * @param beta momentum, default 0.9
 * @source Nesterov 1983; Sutskever et al. 2013
 * @example The first step looks ahead
 * ```ts
 * const x = ct.tensor(1);
 * const optimizer = ct.optim.nesterov(1, 0.5);
 * assertClose(optimizer.update(ct.tensor(2), optimizer.init(x), x, {})[0], -3);
 * ```
 * @since 0.1.0
 */
export function nesterov(
  learningRate: number | Schedule,
  beta = 0.9,
): GradientTransformation<[VelocityState, CountState]> {
  return { ...chain(accumulate(beta, true), scaleByLearningRate(learningRate)), name: "nesterov" };
}
