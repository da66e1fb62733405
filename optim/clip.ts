/** Clipping of gradients. */
import { full } from "../core/create.ts";
import {
  abs,
  add,
  clip,
  div,
  equal,
  greater,
  isFinite as isFiniteValue,
  lessEqual,
  logicalAnd,
  max,
  maximum,
  mul,
  sqrt,
  stopGradient,
  sum,
  where,
} from "../core/ops.ts";
import { leaves, map } from "../core/tree.ts";
import type { Value } from "../core/value.ts";
import { factor, type GradientTransformation } from "./transformation.ts";

/**
 * The Euclidean norm of a whole tree, 0 of no elements; its derivative at zero is taken as 0.
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
  const { largest, length } = scaledNorm(tree);
  return mul(largest, length);
}

/**
 * The norm of a tree as `largest * length`: the largest absolute value, and the norm of the tree divided by it, whose
 * squares neither overflow nor underflow. `largest` is 1 where that is 0 or not finite, and a constant to derivatives:
 * the product does not depend on it.
 */
function scaledNorm(tree: unknown): { readonly largest: Value; readonly length: Value } {
  const xs = leaves(tree).filter((x) => x.size > 0);
  if (xs.length === 0) return { largest: full([], 1), length: full([], 0) };
  const top = xs.map((x) => max(abs(stopGradient(x)))).reduce((a, b) => maximum(a, b));
  const largest = where(logicalAnd(greater(top, 0), isFiniteValue(top)), top, 1);
  const squares = xs
    .map((x) => div(x, largest))
    .map((x) => sum(mul(x, x)))
    .reduce((a, b) => add(a, b));
  // The derivative at zero is taken as 0.
  const isZero = equal(squares, 0);
  return { largest, length: where(isZero, 0, sqrt(where(isZero, 1, squares))) };
}

/**
 * Scales the whole tree down so that its Euclidean norm is at most `limit`.
 *
 * A gradient with an element that is not finite has no direction: all its elements become NaN.
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
      // g where |g| <= limit, else (g / largest) (limit / length) with |g| = largest length
      const { largest, length } = scaledNorm(updates);
      const isShort = lessEqual(mul(largest, length), limit);
      const shrink = where(isFiniteValue(length), div(limit, where(isShort, 1, length)), Number.NaN);
      const scaled = (g: Value): Value => mul(div(g, factor(largest, g)), factor(shrink, g));
      return [map((g) => where(isShort, g, scaled(g)), updates), state];
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
