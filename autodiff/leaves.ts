/** The step between functions of trees, which people write, and functions of leaves, which transforms handle. */
import { ShapeError } from "../core/errors.ts";
import { checkSynchronous } from "../core/trace.ts";
import { checkSameStructure, flatten, paths, type TreeDef, unflatten } from "../core/tree.ts";
import type { Value } from "../core/value.ts";

/** A function of trees as a function of leaves that remembers the structure of its result. */
export function onLeaves<A extends readonly unknown[], R>(
  f: (...args: A) => R,
  def: TreeDef,
  transform: string,
): { readonly call: (...leaves: Value[]) => Value[]; rebuild(outs: readonly Value[]): R; outDef(): TreeDef } {
  let outDef: TreeDef | undefined;
  return {
    call(...leaves) {
      const out = f(...unflatten<A>(def, leaves));
      checkSynchronous(out, transform);
      const [outs, structure] = flatten(out);
      outDef = structure;
      return outs;
    },
    rebuild: (outs) => unflatten<R>(outDef!, outs),
    outDef: () => outDef!,
  };
}

/** Throws TreeError where two trees differ in structure, ShapeError at the first leaf whose abstract value differs. */
export function checkLike(op: string, what: string, tree: unknown, other: unknown): void {
  const [xs, def] = flatten(tree);
  const [others, otherDef] = flatten(other);
  checkSameStructure(def, otherDef, op);
  checkSameAvals(op, what, tree, xs, others);
}

/** Throws ShapeError at the first leaf of `tree` whose abstract value the other leaf does not have. */
export function checkSameAvals(
  op: string,
  what: string,
  tree: unknown,
  xs: readonly Value[],
  others: readonly Value[],
): void {
  xs.forEach((x, i) => {
    const { aval } = others[i]!;
    if (!x.aval.equals(aval)) {
      throw new ShapeError(
        op,
        `Cannot ${op} at ${paths(tree)[i] || "the root"}: ${what} is ${aval}, ${x.aval} is needed`,
      );
    }
  });
}
