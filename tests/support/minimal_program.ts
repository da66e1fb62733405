/**
 * A failing program made small: outputs are dropped, and results of equations become inputs, as long as it fails. What
 * is left is usually the one or two steps that are wrong.
 */
import { deadCodeEliminated, type Program, type Var } from "../../core/program.ts";
import type { Tensor } from "../../core/value.ts";
import { type Approximate, applied } from "./rounding.ts";

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
  const values = valuesOf(program, args);
  for (let i = eqns.length - 1; i >= 0 && values; i--) {
    const results = eqns[i]!.outs;
    const rest = deadCodeEliminated({ ins: [...ins, ...results], eqns: eqns.toSpliced(i, 1), outs });
    const given = [...args, ...results.map((v) => values.get(v)!.value)];
    const known = valuesOf(rest, given);
    if (known === null) continue;
    yield { program: rest, args: given, expected: outs.map((atom) => known.get(atom as Var) ?? exact(atom)) };
  }
  const read = new Set<unknown>([...outs, ...eqns.flatMap((eqn) => eqn.ins)]);
  const isRead = ins.map((v) => read.has(v));
  if (isRead.every(Boolean)) return;
  const kept = <T>(list: readonly T[]): T[] => list.filter((_, i) => isRead[i]);
  yield { program: { ...program, ins: kept(ins) }, args: kept(args), expected };
}

const exact = (atom: unknown): Approximate => ({ value: atom as Tensor, error: 0 });

/** Every variable's value, with exact inputs; null where one hangs on rounding. */
function valuesOf({ ins, eqns }: Program, args: readonly Tensor[]): Map<unknown, Approximate> | null {
  const values = new Map<unknown, Approximate>(ins.map((v, i) => [v, exact(args[i])]));
  for (const eqn of eqns) {
    const operands = eqn.ins.map((atom) => values.get(atom) ?? exact(atom));
    const results = applied(eqn.prim, operands, eqn.params);
    if (results === null) return null;
    eqn.outs.forEach((v, i) => {
      values.set(v, results[i]!);
    });
  }
  return values;
}
