/** Simplification: every pass, until nothing changes. */
import type { AnyPrimitive } from "../primitive.ts";
import type { Program } from "../program.ts";
import { algebra } from "./algebra.ts";
import { choice } from "./choice.ts";
import { contraction } from "./contraction.ts";
import { commonSubexpressionsMerged } from "./cse.ts";
import { cut } from "./cut.ts";
import { deadCodeEliminated } from "./dce.ts";
import { fold } from "./fold.ts";
import { concatsFlattened, padsJoined } from "./join.ts";
import { movement } from "./movement.ts";
import { reduction } from "./reduction.ts";
import { type Rule, rewritten } from "./rewrite.ts";

const rules = new Map<AnyPrimitive, Rule[]>();
for (const [primitive, list] of [algebra, choice, movement, cut, reduction, contraction].flat())
  rules.set(primitive, [...(rules.get(primitive) ?? []), ...list]);

const applied: Rule = (eqn, scope) => {
  for (const rule of rules.get(eqn.prim) ?? []) {
    const result = rule(eqn, scope);
    if (result !== null) return result;
  }
  return null;
};

const joined = (program: Program): Program => concatsFlattened(padsJoined(program));

/** Applies every identity once, from the first equation to the last. */
export function identitiesApplied(program: Program): Program {
  return rewritten(joined(program), applied);
}

/** Identities that wait for each other are few; what is left after these rounds is right, too. */
const MOST_ROUNDS = 16;

/**
 * A program that computes the same with fewer equations, or as many: nothing unused, nothing twice, constants folded,
 * identities applied. It is made to be run, not differentiated: it forgets where derivatives stop.
 */
export function simplified(program: Program): Program {
  let present = deadCodeEliminated(program);
  for (let round = 0; round < MOST_ROUNDS; round++) {
    // Merged first: an equation that is there twice looks as if it had one reader.
    const merged = joined(commonSubexpressionsMerged(present));
    const next = rewritten(merged, (eqn, scope) => fold(eqn, scope) ?? applied(eqn, scope));
    if (next === present) break;
    present = deadCodeEliminated(next);
  }
  return present;
}
