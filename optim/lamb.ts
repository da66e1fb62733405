/** LAMB: Adam whose step in every leaf is as long as the leaf's weights. */
import { clip, div, equal, logicalOr, mul, where } from "../core/ops.ts";
import { map } from "../core/tree.ts";
import type { Value } from "../core/value.ts";
import { type AdamState, type AdamWOptions, addDecayedWeights, scaleByAdam } from "./adam.ts";
import { globalNorm } from "./clip.ts";
import { checkOptions, fraction, nonNegative } from "./ranges.ts";
import type { Schedule } from "./schedule.ts";
import {
  type CountState,
  chain,
  factor,
  type GradientTransformation,
  scaleByLearningRate,
} from "./transformation.ts";

/**
 * What the norm of the weights counts as.
 *
 * @since 0.2.0
 */
export interface TrustRatioOptions {
  /** Smallest norm of weights; default 0. */
  readonly least?: number;
  /** Largest norm of weights; default 10. */
  readonly most?: number;
}

/**
 * The constants of LAMB.
 *
 * @since 0.2.0
 */
export interface LambOptions extends AdamWOptions, TrustRatioOptions {
  /** Added to the root of the mean of squares; default 1e-6. */
  readonly epsilon?: number;
  /** Weight decay inside the direction whose length is measured; default 0. */
  readonly weightDecay?: number;
}

/**
 * Scales the update of every leaf to the length of the leaf: large batches can take long steps in layers of any scale.
 *
 * `u <- u clip(|p|, least, most) / |u|`, and u itself where |p| or |u| is 0.
 *
 * Shapes: any tree of float tensors; each leaf has its own ratio.
 * Units: updates come in any unit and leave in units of the parameters.
 *
 * @throws {RangeError} if the limits are not `0 <= least <= most`
 * @source You et al. 2020, "Large batch optimization for deep learning: training BERT in 76 minutes"
 * @example A leaf of length 5
 * ```ts
 * const ratio = ct.optim.scaleByTrustRatio();
 * const x = { w: ct.tensor([3, 4]), b: ct.tensor([0, 0]) };
 * const g = { w: ct.tensor([0, 2]), b: ct.tensor([0, 2]) };
 * const [updates] = ratio.update(g, ratio.init(x), x, {});
 * assertClose(updates.w, [0, 5]);
 * assertClose(updates.b, [0, 2]);
 * ```
 * @since 0.2.0
 */
export function scaleByTrustRatio(options: TrustRatioOptions = {}): GradientTransformation<readonly []> {
  const { least = 0, most = 10 } = options;
  if (!(least >= 0 && most >= least))
    throw new RangeError(
      `Cannot make a trust ratio: the limits are ${least} and ${most}, 0 <= least <= most is needed`,
    );
  const scaled = (u: Value, p: Value): Value => {
    const [weights, length] = [globalNorm(p), globalNorm(u)];
    const hasNone = logicalOr(equal(weights, 0), equal(length, 0));
    const ratio = div(clip(weights, least, most), where(hasNone, 1, length));
    return mul(u, factor(where(hasNone, 1, ratio), u));
  };
  return {
    name: "scaleByTrustRatio",
    init: () => [],
    update: (updates, state, params) => [map((u, p) => scaled(u, p!), updates, params), state],
  };
}

/**
 * LAMB.
 *
 * `u = adam direction + weightDecay p; p <- p - lr u clip(|p|, least, most) / |u|`, for every leaf by itself.
 *
 * Shapes: any tree of float tensors; the state holds two more.
 * Units: none.
 *
 * @param learningRate a number, or a schedule; default 1e-3: the fraction of its length that a leaf moves
 * @throws {RangeError} if an option is out of range
 * @source You et al. 2020, "Large batch optimization for deep learning: training BERT in 76 minutes"
 * @example A thousandth of the length
 * ```ts
 * const x = ct.tensor([3, 4]);
 * const optimizer = ct.optim.lamb();
 * const [updates] = optimizer.update(ct.tensor([7, -7]), optimizer.init(x), x, {});
 * assertClose(ct.optim.globalNorm(updates), 0.005, 1e-6);
 * ```
 * @since 0.2.0
 */
export function lamb(
  learningRate: number | Schedule = 1e-3,
  options: LambOptions = {},
): GradientTransformation<[AdamState, readonly [], readonly [], CountState]> {
  const { beta1 = 0.9, beta2 = 0.999, epsilon = 1e-6, weightDecay = 0 } = options;
  checkOptions("LAMB", {
    beta1: [beta1, fraction],
    beta2: [beta2, fraction],
    epsilon: [epsilon, nonNegative],
    weightDecay: [weightDecay, nonNegative],
  });
  return {
    ...chain(
      scaleByAdam({ beta1, beta2, epsilon }),
      addDecayedWeights(weightDecay),
      scaleByTrustRatio(options),
      scaleByLearningRate(learningRate),
    ),
    name: "lamb",
  };
}
