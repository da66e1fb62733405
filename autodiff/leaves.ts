/** The step between functions of trees, which people write, and functions of leaves, which transforms handle. */
import { checkSynchronous } from "../core/trace.ts";
import { flatten, type TreeDef, unflatten } from "../core/tree.ts";
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
