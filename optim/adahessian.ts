/**
 * AdaHessian: Adam with the diagonal of the Hessian, estimated by one random product, in place of the gradient's square.
 *
 * The update is pure and cheap; refreshing the estimate is a separate pure function that a loop calls when it is due.
 */
import type { LinearOperator } from "../autodiff/operator.ts";
import { zerosLike } from "../core/create.ts";
import { abs, add, broadcastTo, div, mean, mul, pow, sqrt, where } from "../core/ops.ts";
import * as random from "../core/random.ts";
import { ravel } from "../core/ravel.ts";
import { map } from "../core/tree.ts";
import type { Value } from "../core/value.ts";
import { checkOptions, countingNumber, fraction, nonNegative, seedRange, unitInterval } from "./ranges.ts";
import { rate, type Schedule } from "./schedule.ts";
import {
  biasCorrection,
  type CountState,
  factor,
  type GradientTransformation,
  zeroCount,
} from "./transformation.ts";

/**
 * The constants of AdaHessian.
 *
 * @since 0.2.0
 */
export interface AdaHessianOptions {
  /** Decay of the mean of gradients; default 0.9. */
  readonly beta1?: number;
  /** Decay of the mean of squared diagonals, once each refresh; default 0.999. */
  readonly beta2?: number;
  /** Added to the root; default 1e-4. */
  readonly epsilon?: number;
  /** Exponent of the root: 1 is all of the curvature, 0 gradient descent; default 1. */
  readonly hessianPower?: number;
  /** Decoupled weight decay; default 0. */
  readonly weightDecay?: number;
  /** Updates between refreshes; default 1. */
  readonly period?: number;
  /** Seed of the random signs; default 0. */
  readonly seed?: number;
}

/**
 * What AdaHessian remembers.
 *
 * @since 0.2.0
 */
export interface AdaHessianState extends CountState {
  /** Refreshes made; i32[]. */
  readonly refreshes: Value;
  /** Running mean of gradients: a tree like the parameters. */
  readonly mean: unknown;
  /** Running mean of squared diagonals: a tree like the parameters. */
  readonly square: unknown;
}

/**
 * What AdaHessian needs besides gradients: the Hessian where it is, its products on raveled parameters.
 *
 * @since 0.2.0
 */
export interface AdaHessianExtra {
  readonly hessian: () => LinearOperator;
}

/**
 * AdaHessian as a transformation, with its two halves apart for loops that schedule the curvature themselves.
 *
 * @since 0.2.0
 */
export interface AdaHessian extends GradientTransformation<AdaHessianState, AdaHessianExtra> {
  readonly options: Required<AdaHessianOptions>;
  /**
   * Whether the diagonal is to be refreshed before the next update: before the first, then every `period`; `made` is the
   * number of updates so far, or the state that counts them.
   */
  curvatureDue(made: number | AdaHessianState): boolean;
  /** The state with one more random product; `key` draws its signs. Traceable, if the operator is. */
  refreshCurvature(state: AdaHessianState, operator: LinearOperator, key: Value): AdaHessianState;
  /** One update with the diagonal that the state has, from at least one refresh; traceable. */
  step<P>(gradients: P, state: AdaHessianState, params: P): readonly [updates: P, state: AdaHessianState];
}

/**
 * AdaHessian.
 *
 * With random signs z, d = |z ∘ H z|, averaged over the window of each kernel: `s <- b2 s + (1 - b2) d²;
 * m <- b1 m + (1 - b1) g; p <- p - lr (m' / (sqrt(s')^k + eps) + weightDecay p)`, primes bias-corrected.
 *
 * Cost: a Hessian-vector product each refresh. With a period of 1 the whole update is traceable.
 * Shapes: any tree of tensors of one float type; the state holds two more. Leaves with three or more axes are kernels,
 * `[out, in, ...window]`.
 * Units: period in updates.
 *
 * @param learningRate a number, or a schedule; default 0.15
 * @throws {RangeError} if an option is out of range
 * @source Yao et al. 2021, "AdaHessian: an adaptive second order optimizer for machine learning"
 * @example A diagonal Hessian is estimated exactly: the first step is Newton's
 * ```ts
 * const loss = (x: ct.Value) => x.mul(x).mul(ct.tensor([0.5, 50])).sum();
 * const optimizer = ct.optim.adahessian(1, { epsilon: 0 });
 * const x = ct.tensor([1, -2]);
 * const extra = { hessian: () => ct.operator.hessianOperator(loss, x) };
 * const [updates] = optimizer.update(ct.grad(loss)(x), optimizer.init(x), x, extra);
 * assertClose(updates, [-1, 2], 1e-5);
 * ```
 * @since 0.2.0
 */
export function adahessian(
  learningRate: number | Schedule = 0.15,
  options: AdaHessianOptions = {},
): AdaHessian {
  const {
    beta1 = 0.9,
    beta2 = 0.999,
    epsilon = 1e-4,
    hessianPower = 1,
    weightDecay = 0,
    period = 1,
    seed = 0,
  } = options;
  checkOptions("AdaHessian", {
    beta1: [beta1, fraction],
    beta2: [beta2, fraction],
    epsilon: [epsilon, nonNegative],
    hessianPower: [hessianPower, unitInterval],
    weightDecay: [weightDecay, nonNegative],
    period: [period, countingNumber],
    seed: [seed, seedRange],
  });
  const self: AdaHessian = {
    name: "adahessian",
    ...(weightDecay > 0 ? { decays: true } : {}),
    options: { beta1, beta2, epsilon, hessianPower, weightDecay, period, seed },
    init: (params) => ({
      count: zeroCount(),
      refreshes: zeroCount(),
      mean: map(zerosLike, params),
      square: map(zerosLike, params),
    }),
    curvatureDue: (made) =>
      period === 1 || (typeof made === "number" ? made : made.count.item()) % period === 0,
    refreshCurvature(state, operator, key) {
      const [flat, unravel] = ravel(state.square);
      const z = where(random.bernoulli(key, 0.5, flat.shape), add(zerosLike(flat), 1), -1);
      const diagonal = unravel(abs(mul(z, operator.apply(z))));
      const square = map(
        (s, d) => {
          const averaged = overWindow(d!);
          return add(mul(beta2, s), mul(1 - beta2, mul(averaged, averaged)));
        },
        state.square,
        diagonal,
      );
      return { ...state, refreshes: add(state.refreshes, 1), square };
    },
    step(gradients, state, params) {
      const count = add(state.count, 1);
      const mean = map((g, m) => add(mul(beta1, m!), mul(1 - beta1, g)), gradients, state.mean);
      const size = rate(learningRate, state.count);
      const updates = map(
        (m, s, p) => {
          const root = sqrt(mul(s!, biasCorrection(beta2, state.refreshes, s!.dtype)));
          const scale = add(hessianPower === 1 ? root : pow(root, hessianPower), epsilon);
          const clean = div(mul(m, biasCorrection(beta1, count, m.dtype)), scale);
          const direction = weightDecay === 0 ? clean : add(clean, mul(weightDecay, p!));
          return mul(-1, mul(factor(size, p!), direction));
        },
        mean,
        state.square,
        params,
      );
      return [updates, { ...state, count, mean }];
    },
    update(gradients, state, params, { hessian }) {
      const isDue = self.curvatureDue(state);
      const key = isDue ? random.foldIn(random.key(seed), state.refreshes) : null;
      return self.step(gradients, key ? self.refreshCurvature(state, hessian(), key) : state, params);
    },
  };
  return self;
}

/** The mean over the window of a kernel, in every element of it; other leaves as they are. */
function overWindow(d: Value): Value {
  if (d.ndim < 3) return d;
  const window = d.shape.slice(2).map((_, i) => i + 2);
  return broadcastTo(mean(d, { axis: window, keepDims: true }), d.shape);
}
