/** Adam and AdamW. */
import { zerosLike } from "../core/create.ts";
import type { DType } from "../core/dtype.ts";
import { add, div, mul, sqrt } from "../core/ops.ts";
import { map } from "../core/tree.ts";
import type { Value } from "../core/value.ts";
import type { Schedule } from "./schedule.ts";
import {
  biasCorrection,
  type CountState,
  chain,
  type GradientTransformation,
  scaleByLearningRate,
  zeroCount,
} from "./transformation.ts";

/**
 * The constants of Adam.
 *
 * @since 0.1.0
 */
export interface AdamOptions {
  /** Decay of the mean of gradients; default 0.9. */
  readonly beta1?: number;
  /** Decay of the mean of squares; default 0.999. */
  readonly beta2?: number;
  /** Added to the root of the mean of squares; default 1e-8. */
  readonly epsilon?: number;
}

/**
 * What Adam remembers.
 *
 * @since 0.1.0
 */
export interface AdamState extends CountState {
  /** Running mean of gradients: a tree like the parameters. */
  readonly mean: unknown;
  /** Running mean of squared gradients: a tree like the parameters. */
  readonly square: unknown;
}

/**
 * Adam's direction without the learning rate: bias-corrected mean over root of bias-corrected mean square.
 *
 * Shapes: any tree of float tensors; the state holds two more.
 * Units: none.
 *
 * @source Kingma & Ba 2015, "Adam"
 * @example The first direction is the sign
 * ```ts
 * const scale = ct.optim.scaleByAdam();
 * const x = ct.tensor([0, 0]);
 * assertClose(scale.update(ct.tensor([5, -3]), scale.init(x), x, {})[0], [1, -1], 1e-6);
 * ```
 * @since 0.1.0
 */
export function scaleByAdam(options: AdamOptions = {}): GradientTransformation<AdamState> {
  const { beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8 } = options;
  return {
    name: "scaleByAdam",
    init: (params) => ({ count: zeroCount(), mean: map(zerosLike, params), square: map(zerosLike, params) }),
    update(updates, state) {
      const count = add(state.count, 1);
      const mean = map((g, m) => add(mul(1 - beta1, g), mul(beta1, m!)), updates, state.mean);
      const square = map((g, s) => add(mul(1 - beta2, mul(g, g)), mul(beta2, s!)), updates, state.square);
      const corrections = new Map<DType, readonly [Value, Value]>();
      const direction = map(
        (m, s) => {
          const { dtype } = m;
          const known = corrections.get(dtype);
          const [c1, c2] = known ?? [
            biasCorrection(beta1, count, dtype),
            biasCorrection(beta2, count, dtype),
          ];
          corrections.set(dtype, [c1, c2]);
          return div(mul(m, c1), add(sqrt(mul(s!, c2)), epsilon));
        },
        mean,
        square,
      );
      return [direction, { count, mean, square }];
    },
  };
}

/**
 * Adam.
 *
 * `m <- b1 m + (1 - b1) g; s <- b2 s + (1 - b2) g²; p <- p - lr m' / (sqrt(s') + eps)`, primes bias-corrected.
 *
 * Shapes: any tree of float tensors; the state holds two more.
 * Units: none.
 *
 * @param learningRate a number, or a schedule; default 1e-3
 * @source Kingma & Ba 2015, "Adam"
 * @example The first step has the length of the learning rate
 * ```ts
 * const x = ct.tensor(1);
 * const optimizer = ct.optim.adam(0.01);
 * assertClose(optimizer.update(ct.tensor(7), optimizer.init(x), x, {})[0], -0.01, 1e-6);
 * ```
 * @since 0.1.0
 */
export function adam(
  learningRate: number | Schedule = 1e-3,
  options: AdamOptions = {},
): GradientTransformation<[AdamState, CountState]> {
  return { ...chain(scaleByAdam(options), scaleByLearningRate(learningRate)), name: "adam" };
}

/**
 * The constants of AdamW.
 *
 * @since 0.1.0
 */
export interface AdamWOptions extends AdamOptions {
  /** Decoupled weight decay; default 0.01. */
  readonly weightDecay?: number;
}

/**
 * Adds `decay * p` to the updates: decoupled weight decay. Not for curvature methods, which must see the penalty in the
 * loss: `penalized` puts it there.
 *
 * Shapes: any tree of float tensors.
 * Units: none.
 *
 * @example Decay alone
 * ```ts
 * const decay = ct.optim.addDecayedWeights(0.1);
 * const x = ct.tensor(2);
 * assertClose(decay.update(ct.tensor(0), decay.init(x), x, {})[0], 0.2);
 * ```
 * @since 0.1.0
 */
export function addDecayedWeights(decay: number): GradientTransformation<readonly []> {
  return {
    name: "addDecayedWeights",
    ...(decay === 0 ? {} : { decays: true }),
    init: () => [],
    update: (updates, state, params) => [
      decay === 0 ? updates : map((g, p) => add(g, mul(decay, p!)), updates, params),
      state,
    ],
  };
}

/**
 * Adam with decoupled weight decay.
 *
 * `p <- p - lr (adam direction + weightDecay p)`
 *
 * Shapes: any tree of float tensors; the state holds two more.
 * Units: none.
 *
 * @param learningRate a number, or a schedule; default 1e-3
 * @source Loshchilov & Hutter 2019, "Decoupled weight decay regularization"
 * @example A zero gradient still decays
 * ```ts
 * const x = ct.tensor(2);
 * const optimizer = ct.optim.adamw(0.1, { weightDecay: 0.5 });
 * assertClose(optimizer.update(ct.tensor(0), optimizer.init(x), x, {})[0], -0.1);
 * ```
 * @since 0.1.0
 */
export function adamw(
  learningRate: number | Schedule = 1e-3,
  options: AdamWOptions = {},
): GradientTransformation<[AdamState, readonly [], CountState]> {
  const { weightDecay = 0.01 } = options;
  return {
    ...chain(scaleByAdam(options), addDecayedWeights(weightDecay), scaleByLearningRate(learningRate)),
    name: "adamw",
  };
}
