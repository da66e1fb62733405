/**
 * A failing program made small: outputs are dropped, and results of equations become inputs, as long as it fails. What
 * is left is usually the one or two steps that are wrong.
 */
import { deadCodeEliminated, type Program } from "../../core/program.ts";
import type { Tensor } from "../../core/value.ts";
import { type Approximate, approximated, exact } from "./rounding.ts";

/** A program without symbolic zeros, its inputs, and what is known of its outputs. */
export interface Case {
  readonly program: Program;
  readonly args: readonly Tensor[];
  readonly expected: readonly Approximate[];
}

/** The smallest case found that fails like the first: each smaller one is tried, and the first that fails is next. */
export function minimalCase(failing: Case, fails: (one: Case) => boolean): Case {
  for (const next of smaller(failing)) if (fails(next)) return minimalCase(next, fails);
  return failing;
}

/** Cases with an output, an equation or an input less. */
function* smaller({ program, args, expected }: Case): Iterable<Case> {
  const { ins, outs, eqns } = program;
  for (let i = 0; i < outs.length && outs.length > 1; i++) {
    const less = deadCodeEliminated({ ...program, outs: outs.toSpliced(i, 1) });
    yield { program: less, args, expected: expected.toSpliced(i, 1) };
  }
  const values = approximated(program, args);
  for (let i = eqns.length - 1; i >= 0 && values; i--) {
    const results = eqns[i]!.outs;
    const rest = deadCodeEliminated({ ins: [...ins, ...results], eqns: eqns.toSpliced(i, 1), outs });
    const given = [...args, ...results.map((v) => values.get(v)!.value)];
    const known = approximated(rest, given);
    if (known === null) continue;
    yield { program: rest, args: given, expected: outs.map((atom) => known.get(atom) ?? exact(atom)) };
  }
  const read = new Set<unknown>([...outs, ...eqns.flatMap((eqn) => eqn.ins)]);
  const isRead = ins.map((v) => read.has(v));
  if (isRead.every(Boolean)) return;
  const kept = <T>(list: readonly T[]): T[] => list.filter((_, i) => isRead[i]);
  yield { program: { ...program, ins: kept(ins) }, args: kept(args), expected };
}
