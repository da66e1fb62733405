/** The mathematics of ADMM rounds on trees: who computes what is the business of dist/. */
import { jit } from "../autodiff/jit.ts";
import { add, div, mul, sub } from "../core/ops.ts";
import { map } from "../core/tree.ts";
import type { Value } from "../core/value.ts";

/**
 * Gradient of worker i's part of the augmented Lagrangian: `g + pi + sigma (w - z)`.
 *
 * Shapes: four trees of one structure.
 * Units: sigma in curvature units.
 *
 * @source Boyd et al. 2011, "Distributed optimization and statistical learning via ADMM"
 * @example At the consensus point with no dual it is the gradient
 * ```ts
 * const w = ct.tensor([1]);
 * assertClose(ct.optim.augmentedGradient({ gradient: ct.tensor([2]), dual: ct.tensor([0]), local: w, consensus: w, sigma: 5 }), [2]);
 * ```
 * @since 0.1.0
 */
export function augmentedGradient<P>(terms: {
  readonly gradient: P;
  readonly dual: P;
  readonly local: P;
  readonly consensus: P;
  readonly sigma: number | Value;
}): P {
  const { gradient, dual, local, consensus, sigma } = terms;
  return map((g, pi, w, z) => add(add(g, pi!), mul(sigma, sub(w!, z!))), gradient, dual, local, consensus);
}

/**
 * The dual after a round: `pi + sigma (w - z)`.
 *
 * Shapes: three trees of one structure.
 * Units: sigma in curvature units.
 *
 * @example It moves with the disagreement
 * ```ts
 * assertClose(ct.optim.dualUpdate(ct.tensor([1]), ct.tensor([3]), ct.tensor([2]), 10), [11]);
 * ```
 * @since 0.1.0
 */
export function dualUpdate<P>(dual: P, local: P, consensus: P, sigma: number): P {
  return map((pi, w, z) => add(pi, mul(sigma, sub(w!, z!))), dual, local, consensus);
}

/**
 * What a worker contributes to the mean: `w + pi / sigma`.
 *
 * Shapes: two trees of one structure.
 * Units: sigma in curvature units.
 *
 * @throws {RangeError} if sigma is not positive
 * @example A dual pulls
 * ```ts
 * assertClose(ct.optim.consensusCandidate(ct.tensor([1]), ct.tensor([4]), 2), [3]);
 * ```
 * @since 0.1.0
 */
export function consensusCandidate<P>(local: P, dual: P, sigma: number): P {
  if (!(sigma > 0))
    throw new RangeError(`Cannot form a consensus candidate: sigma is ${sigma}, a positive number is needed`);
  return map((w, pi) => add(w, div(pi!, sigma)), local, dual);
}

/**
 * The published DHO2 rule at the end of a round, with p = pi / sigma: `p <- p + (theta - anchor); theta <- theta + p`.
 *
 * On a quadratic whose round contracts an error by q its radius is sqrt(q) instead of q: it accelerates early and
 * oscillates later. The first round lands on `anchor + 2 (theta - anchor)`.
 *
 * Shapes: three trees of one structure.
 * Units: parameter units.
 *
 * @source Gu et al. 2025, "DHO2" (the rule of the published program)
 * @example The first round doubles the displacement
 * ```ts
 * const next = ct.optim.extrapolate({ theta: ct.tensor([3]), anchor: ct.tensor([2]), push: ct.tensor([0]) });
 * assertClose(next.theta, [4]);
 * assertClose(next.push, [1]);
 * ```
 * @since 0.1.0
 */
export function extrapolate<P>(round: { readonly theta: P; readonly anchor: P; readonly push: P }): {
  readonly theta: P;
  readonly push: P;
} {
  const push = map((p, theta, anchor) => add(p, sub(theta!, anchor!)), round.push, round.theta, round.anchor);
  return { theta: map((theta, p) => add(theta, p!), round.theta, push), push };
}

/**
 * The mean of the workers' trees, added in the order of the list: the same bits for every order of arrival.
 *
 * Shapes: trees of one structure.
 * Units: none.
 *
 * @throws {RangeError} if the list is empty
 * @example Two workers
 * ```ts
 * assertClose(ct.optim.meanOf([ct.tensor([1]), ct.tensor([3])]), [2]);
 * ```
 * @since 0.1.0
 */
export function meanOf<P>(trees: readonly P[]): P {
  if (trees.length === 0)
    throw new RangeError("Cannot take the mean of no trees: the list is empty, at least one is needed");
  return mean(trees) as P;
}

/** One pass over the elements of all. */
const mean = jit(([first, ...rest]: readonly unknown[]) => {
  const sum = rest.reduce((total, tree) => map((a, b) => add(a, b!), total, tree), first);
  return map((x) => div(x, 1 + rest.length), sum);
});
