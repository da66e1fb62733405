/** Dead code: equations that no output needs. */
import type { Atom, Program } from "../program.ts";

/** Drops the equations that no output needs. */
export function deadCodeEliminated(program: Program): Program {
  const live = new Set<Atom | null>(program.outs);
  const eqns = program.eqns.toReversed().filter(({ ins, outs }) => {
    const needed = outs.some((v) => live.has(v));
    if (needed) for (const atom of ins) live.add(atom);
    return needed;
  });
  return eqns.length === program.eqns.length ? program : { ...program, eqns: eqns.reverse() };
}
