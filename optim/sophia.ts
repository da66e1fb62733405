/**
 * Sophia with the Gauss-Newton-Bartlett estimate: a clipped step over an estimate of the diagonal curvature.
 *
 * The update is pure and cheap; refreshing the estimate is a separate pure function that a loop calls when it is due.
 */
import { zerosLike } from "../core/create.ts";
import { add, clip, div, mul } from "../core/ops.ts";
import * as random from "../core/random.ts";
import { map } from "../core/tree.ts";
import type { Value } from "../core/value.ts";
import { checkOptions, countingNumber, fraction, nonNegative, positive, seedRange } from "./ranges.ts";
import { rate, type Schedule } from "./schedule.ts";
import { type CountState, factor, type GradientTransformation, zeroCount } from "./transformation.ts";

/**
 * The constants of Sophia.
 *
 * @since 0.2.0
 */
export interface SophiaOptions {
  /** Decay of the mean of gradients; default 0.965. */
  readonly beta1?: number;
  /** Decay of the mean of curvatures, once each refresh; default 0.99. */
  readonly beta2?: number;
  /** Factor on the curvature: larger ones clip fewer elements; default 0.04. */
  readonly rho?: number;
  /** Added to the scaled curvature; default 1e-15. */
  readonly epsilon?: number;
  /** Decoupled weight decay; default 0.1. */
  readonly weightDecay?: number;
  /** Updates between refreshes; default 10. */
  readonly period?: number;
  /** Seed of the keys that labels are sampled with; default 0. */
  readonly seed?: number;
}

/**
 * What Sophia remembers.
 *
 * @since 0.2.0
 */
export interface SophiaState extends CountState {
  /** Running mean of gradients: a tree like the parameters. */
  readonly mean: unknown;
  /** Running mean of the estimated diagonal of the Gauss-Newton matrix: a tree like the parameters. */
  readonly curvature: unknown;
}

/**
 * What Sophia needs besides gradients, asked for when the curvature is due.
 *
 * @since 0.2.0
 */
export interface SophiaExtra {
  /** The gradient of the mean loss where the labels are drawn, with the key, from the model's own outputs. */
  readonly sampledGradient: (key: Value) => unknown;
  /** Number of examples in that mean. */
  readonly batchSize: number;
}

/**
 * Sophia as a transformation, with its two halves apart for loops that schedule the curvature themselves.
 *
 * @since 0.2.0
 */
export interface Sophia extends GradientTransformation<SophiaState, SophiaExtra> {
  readonly options: Required<SophiaOptions>;
  /**
   * Whether the curvature is to be refreshed before the next update: before the first, then every `period`; `made` is the
   * number of updates so far, or the state that counts them.
   */
  curvatureDue(made: number | SophiaState): boolean;
  /** The state with a sampled gradient in its curvature; traceable. */
  refreshCurvature(state: SophiaState, sampledGradient: unknown, batchSize: number): SophiaState;
  /** One update with the curvature that the state has; traceable. */
  step<P>(gradients: P, state: SophiaState, params: P): readonly [updates: P, state: SophiaState];
}

/**
 * Sophia-G.
 *
 * `m <- b1 m + (1 - b1) g; p <- p - lr (clip(m / (rho h + eps), -1, 1) + weightDecay p)`, and every `period` updates
 * `h <- b2 h + (1 - b2) B ĝ²` with the gradient ĝ of B examples whose labels are sampled from the model. Where h is small
 * the step is that of a sign: before the first refresh, everywhere.
 *
 * Cost: a gradient more every `period` updates.
 * Shapes: any tree of float tensors; the state holds two more.
 * Units: period in updates.
 *
 * @param learningRate a number, or a schedule; default 1e-4: the longest step of an element
 * @throws {RangeError} if an option is out of range, or a batch size is not a positive integer
 * @source Liu et al. 2024, "Sophia: a scalable stochastic second-order optimizer for language model pre-training"
 * @example Logistic regression: curvature from sampled labels
 * ```ts
 * const features = ct.tensor([[1, 2], [3, -4]]);
 * const loss = (w: ct.Value, y: ct.Value) => ct.nn.bernoulli.loss(ct.matmul(features, w), y);
 * const optimizer = ct.optim.sophia(0.1, { weightDecay: 0 });
 * const w = ct.tensor([0, 0]);
 * const extra = {
 *   sampledGradient: (key: ct.Value) => ct.grad(loss)(w, ct.nn.bernoulli.sample(key, ct.matmul(features, w))),
 *   batchSize: 2,
 * };
 * const gradient = ct.grad(loss)(w, ct.tensor([0, 1]));
 * const [updates] = optimizer.update(gradient, optimizer.init(w), w, extra);
 * assert(updates.abs().max().item() <= 0.1 + 1e-7);
 * ```
 * @since 0.2.0
 */
export function sophia(learningRate: number | Schedule = 1e-4, options: SophiaOptions = {}): Sophia {
  const {
    beta1 = 0.965,
    beta2 = 0.99,
    rho = 0.04,
    epsilon = 1e-15,
    weightDecay = 0.1,
    period = 10,
    seed = 0,
  } = options;
  checkOptions("Sophia", {
    beta1: [beta1, fraction],
    beta2: [beta2, fraction],
    rho: [rho, positive],
    epsilon: [epsilon, nonNegative],
    weightDecay: [weightDecay, nonNegative],
    period: [period, countingNumber],
    seed: [seed, seedRange],
  });
  const self: Sophia = {
    name: "sophia",
    ...(weightDecay > 0 ? { decays: true } : {}),
    options: { beta1, beta2, rho, epsilon, weightDecay, period, seed },
    init: (params) => ({
      count: zeroCount(),
      mean: map(zerosLike, params),
      curvature: map(zerosLike, params),
    }),
    curvatureDue: (made) => (typeof made === "number" ? made : made.count.item()) % period === 0,
    refreshCurvature(state, sampledGradient, batchSize) {
      checkOptions("Sophia curvature", { batchSize: [batchSize, countingNumber] });
      const curvature = map(
        (h, g) => add(mul(beta2, h), mul((1 - beta2) * batchSize, mul(g!, g!))),
        state.curvature,
        sampledGradient,
      );
      return { ...state, curvature };
    },
    step(gradients, state, params) {
      const mean = map((g, m) => add(mul(beta1, m!), mul(1 - beta1, g)), gradients, state.mean);
      const size = rate(learningRate, state.count);
      const updates = map(
        (m, h, p) => {
          const clipped = clip(div(m, add(mul(rho, h!), epsilon)), -1, 1);
          const direction = weightDecay === 0 ? clipped : add(clipped, mul(weightDecay, p!));
          return mul(-1, mul(factor(size, p!), direction));
        },
        mean,
        state.curvature,
        params,
      );
      return [updates, { ...state, count: add(state.count, 1), mean }];
    },
    update(gradients, state, params, { sampledGradient, batchSize }) {
      const made = state.count.item();
      if (!self.curvatureDue(made)) return self.step(gradients, state, params);
      const key = random.foldIn(random.key(seed), made);
      return self.step(gradients, self.refreshCurvature(state, sampledGradient(key), batchSize), params);
    },
  };
  return self;
}
