/** Walks over expressions, which end at values that are known already. */
import type { Expr } from "../../expr.ts";

export type Known = (e: Expr) => boolean;

/** How much work expressions are, in additions, without what is known. */
export function operations(roots: readonly Expr[], isKnown: Known): number {
  let count = 0;
  for (const e of reachable(roots, isKnown)) if (!isKnown(e)) count += costOf(e);
  return count;
}

function costOf({ op }: Expr): number {
  if (op === "input" || op === "const") return 0;
  if (op === "call") return 40;
  return op === "div" || op === "sqrt" ? 4 : 1;
}

/** Every node that the roots need, without what is below known ones; known ones are included. */
export function reachable(roots: readonly Expr[], isKnown: Known): Set<Expr> {
  const found = new Set<Expr>();
  const visit = (e: Expr): void => {
    if (found.has(e)) return;
    found.add(e);
    if (!isKnown(e)) e.args.forEach(visit);
  };
  roots.forEach(visit);
  return found;
}
