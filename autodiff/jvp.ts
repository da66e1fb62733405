/** Forward mode: every value carries its tangent. */
import { isFloat } from "../core/dtype.ts";
import { like } from "../core/prims/elementwise.ts";
import { currentTrace, withTrace } from "../core/trace.ts";
import { checkSameStructure, flatten } from "../core/tree.ts";
import type { Value } from "../core/value.ts";
import { DualTrace } from "./dual.ts";
import { checkSameAvals, onLeaves } from "./leaves.ts";

/** jvp on lists of leaves; `null` tangents are symbolic zeros on both sides. */
export function jvpLeaves(
  f: (...xs: Value[]) => readonly Value[],
  xs: readonly Value[],
  dxs: readonly (Value | null)[],
): [outs: Value[], tangents: (Value | null)[]] {
  const trace = new DualTrace("jvp", currentTrace());
  const outs = withTrace(trace, () => f(...xs.map((x, i) => trace.lift(x, dxs[i]!))));
  return [outs.map((y) => trace.result(y)), outs.map((y) => trace.tangent(y))];
}

/**
 * Value and directional derivative of a function.
 *
 * Computes `f(x)` and `J(x) v`. Cost: about two evaluations of `f`.
 *
 * Shapes: `tangents` is like `primals`: one tree per argument, the same leaf shapes and element types.
 * Units: none.
 *
 * @param f function of trees that returns a tree
 * @param primals the arguments, a list
 * @param tangents one direction per argument; integer leaves have no derivative and theirs are ignored
 * @returns the value, and a tree of tangents like it
 * @throws {TreeError} if a tangent has another structure than its primal
 * @throws {ShapeError} if a leaf of a tangent differs from the leaf of the primal at the same path
 * @example The derivative of a product
 * ```ts
 * const [y, dy] = ct.jvp((x: ct.Value) => x.mul(x), [ct.tensor(3)], [ct.tensor(1)]);
 * assertClose(y, 9);
 * assertClose(dy, 6);
 * ```
 * @since 0.1.0
 */
export function jvp<A extends readonly unknown[], R>(
  f: (...args: A) => R,
  primals: A,
  tangents: { readonly [I in keyof A]: unknown },
): [value: R, tangent: R] {
  const [xs, def] = flatten(primals);
  const [dxs, tangentDef] = flatten(tangents);
  checkSameStructure(def, tangentDef, "jvp with these tangents");
  checkSameAvals("jvp", "the tangent", primals, xs, dxs);
  const leafwise = onLeaves(f, def, "jvp");
  const [ys, dys] = jvpLeaves(
    leafwise.call,
    xs,
    xs.map((x, i) => (isFloat(x.dtype) ? dxs[i]! : null)),
  );
  return [leafwise.rebuild(ys), leafwise.rebuild(dys.map((dy, i) => dy ?? like(ys[i]!, 0)))];
}
