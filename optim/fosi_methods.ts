/** FOSI over the usual methods, each with the momentum of its Newton part and the limit on its base step that it is published with. */

import { type AdamState, adam } from "./adam.ts";
import { type Fosi, type FosiOptions, fosi } from "./fosi.ts";
import { momentum, nesterov, sgd, type VelocityState } from "./momentum.ts";
import type { Schedule } from "./schedule.ts";
import type { CountState } from "./transformation.ts";

/**
 * The options of FOSI that a method leaves open. `beta` is the momentum of both parts.
 *
 * @since 0.2.0
 */
export type FosiMethodOptions = Omit<FosiOptions, "momentum">;

/**
 * FOSI over gradient descent: no momentum in either part, clip 3.
 *
 * Shapes: as `fosi`.
 * Units: as `fosi`.
 *
 * @param learningRate of gradient descent, a number or a schedule
 * @throws {RangeError} as `fosi`
 * @source Sivan, Gabel & Schuster 2024, "FOSI: Hybrid First and Second Order Optimization"
 * @example The whole of a quadratic: a Newton step along 50, descent along 1
 * ```ts
 * const loss = (x: ct.Value) => x.mul(x).mul(ct.tensor([0.5, 25])).sum();
 * const optimizer = ct.optim.fosiSgd(0.5, { k: 1, alpha: 1, warmup: 1 });
 * const x = ct.tensor([1, 1]);
 * const extra = { hessian: () => ct.operator.hessianOperator(loss, x) };
 * const [updates] = optimizer.update(ct.grad(loss)(x), optimizer.init(x), x, extra);
 * assertClose(x.add(updates), [0.5, 0], 1e-4);
 * ```
 * @since 0.2.0
 */
export function fosiSgd(learningRate: number | Schedule, options: FosiMethodOptions = {}): Fosi<CountState> {
  return fosi(sgd(learningRate), { ...options, momentum: "none" });
}

/**
 * FOSI over heavy ball: `v <- g + beta v` in both parts, clip 3.
 *
 * Shapes: as `fosi`.
 * Units: as `fosi`.
 *
 * @param learningRate of heavy ball, a number or a schedule
 * @throws {RangeError} as `fosi`
 * @source Sivan, Gabel & Schuster 2024, "FOSI: Hybrid First and Second Order Optimization"
 * @example The published setting of large networks
 * ```ts
 * const optimizer = ct.optim.fosiMomentum(0.1, { k: 10, period: 800, trigger: "external" });
 * assert(optimizer.options.momentum === "heavyBall" && optimizer.options.clip === 3);
 * assert(!optimizer.curvatureDue(799) && optimizer.curvatureDue(1599));
 * ```
 * @since 0.2.0
 */
export function fosiMomentum(
  learningRate: number | Schedule,
  options: FosiMethodOptions = {},
): Fosi<[VelocityState, CountState]> {
  return fosi(momentum(learningRate, options.beta), { ...options, momentum: "heavyBall" });
}

/**
 * FOSI over Nesterov's method: `(1 + beta) g + beta² v` in the Newton part, clip 3.
 *
 * Shapes: as `fosi`.
 * Units: as `fosi`.
 *
 * @param learningRate of Nesterov's method, a number or a schedule
 * @throws {RangeError} as `fosi`
 * @source Sivan, Gabel & Schuster 2024, "FOSI: Hybrid First and Second Order Optimization"
 * @example Its base before the first refresh
 * ```ts
 * const x = ct.tensor([1]);
 * const optimizer = ct.optim.fosiNesterov(1, { k: 1, beta: 0.5 });
 * assertClose(optimizer.step(ct.tensor([2]), optimizer.init(x), x)[0], [-3]);
 * ```
 * @since 0.2.0
 */
export function fosiNesterov(
  learningRate: number | Schedule,
  options: FosiMethodOptions = {},
): Fosi<[VelocityState, CountState]> {
  return fosi(nesterov(learningRate, options.beta), { ...options, momentum: "nesterov" });
}

/**
 * FOSI over Adam: `(1 - beta) g + beta v` without bias correction in the Newton part, and Adam's step as it is (clip 1):
 * its length does not depend on the curvature, so there is no limit to lift. `beta` is also Adam's beta1.
 *
 * Shapes: as `fosi`.
 * Units: as `fosi`.
 *
 * @param learningRate of Adam, a number or a schedule
 * @throws {RangeError} as `fosi`
 * @source Sivan, Gabel & Schuster 2024, "FOSI: Hybrid First and Second Order Optimization"
 * @example The fastest Newton part that does not oscillate
 * ```ts
 * const alpha = (1 - Math.sqrt(0.9)) ** 2 / (1 - 0.9);
 * const optimizer = ct.optim.fosiAdam(1e-3, { k: 10, alpha });
 * assert(optimizer.options.momentum === "average" && optimizer.options.clip === 1);
 * ```
 * @since 0.2.0
 */
export function fosiAdam(
  learningRate: number | Schedule,
  options: Omit<FosiMethodOptions, "clip"> = {},
): Fosi<[AdamState, CountState]> {
  const { beta } = options;
  const base = adam(learningRate, beta === undefined ? {} : { beta1: beta });
  return fosi(base, { ...options, momentum: "average", clip: 1 });
}
