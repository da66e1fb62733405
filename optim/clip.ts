/** Clipping of gradients. */
import { add, clip, div, maximum, mul, sqrt, sum } from "../core/ops.ts";
import { leaves, map } from "../core/tree.ts";
import type { Value } from "../core/value.ts";
import { factor, type GradientTransformation } from "./transformation.ts";

/**
 * The Euclidean norm of a whole tree.
 *
 * Shapes: any tree of tensors of one float type; the result is a scalar.
 * Units: those of the leaves.
 *
 * @example Three, four, five
 * ```ts
 * assertClose(ct.optim.globalNorm({ a: ct.tensor([3]), b: ct.tensor(4) }), 5);
 * ```
 * @since 0.1.0
 */
export function globalNorm(tree: unknown): Value {
  return sqrt(
    leaves(tree)
      .map((x) => sum(mul(x, x)))
      .reduce((a, b) => add(a, b)),
  );
}

/**
 * Scales the whole tree down so that its Euclidean norm is at most `limit`.
 *
 * Shapes: any tree of tensors of one float type.
 * Units: `limit` in gradient units.
 *
 * @throws {RangeError} if the limit is not positive
 * @source Pascanu et al. 2013
 * @example A gradient of norm 5
 * ```ts
 * const clip = ct.optim.clipByGlobalNorm(1);
 * const x = ct.tensor([0, 0]);
 * assertClose(clip.update(ct.tensor([3, 4]), clip.init(x), x, {})[0], [0.6, 0.8]);
 * ```
 * @since 0.1.0
 */
export function clipByGlobalNorm(limit: number): GradientTransformation<readonly []> {
  checkLimit(limit);
  return {
    name: "clipByGlobalNorm",
    init: () => [],
    update(updates, state) {
      // g limit / max(limit, |g|)
      const shrink = div(limit, maximum(globalNorm(updates), limit));
      return [map((g) => mul(g, factor(shrink, g)), updates), state];
    },
  };
}

/**
 * Clips every element to [-limit, limit].
 *
 * Shapes: any tree.
 * Units: `limit` in gradient units.
 *
 * @throws {RangeError} if the limit is not positive
 * @example Elements
 * ```ts
 * const clip = ct.optim.clipByValue(1);
 * const x = ct.tensor([0, 0]);
 * assertClose(clip.update(ct.tensor([3, -0.5]), clip.init(x), x, {})[0], [1, -0.5]);
 * ```
 * @since 0.1.0
 */
export function clipByValue(limit: number): GradientTransformation<readonly []> {
  checkLimit(limit);
  return {
    name: "clipByValue",
    init: () => [],
    update: (updates, state) => [map((g) => clip(g, -limit, limit), updates), state],
  };
}

function checkLimit(limit: number): void {
  if (!(limit > 0))
    throw new RangeError(`Cannot clip gradients: the limit is ${limit}, a positive number is needed`);
}
