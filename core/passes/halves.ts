/**
 * float16 is storage: what computes more than one element from others does so in float32. Reductions and kernels written
 * by hand get their operands as float32 and their results are rounded, each by an equation that joins a loop; equations
 * that compute element by element, or only move elements, round by themselves (see fuse.ts).
 */
import { Aval } from "../aval.ts";
import type { AnyPrimitive } from "../primitive.ts";
import { castP } from "../prims/elementwise.ts";
import { type Atom, type Eqn, type Program, Var } from "../program.ts";

/** Whether a backend has a kernel for a primitive that reads and writes float16 itself. */
export type TakesHalves = (name: string) => boolean;

const isHalf = ({ aval }: Atom): boolean => aval.dtype === "float16";

/** A program whose reductions, and kernels by hand that do not take float16, compute in float32. */
export function halvesWidened(program: Program, takesHalves: TakesHalves): Program {
  const isWide = ({ prim, ins, outs }: Eqn): boolean =>
    (ins.some(isHalf) || outs.some(isHalf)) && computesWide(prim, takesHalves);
  if (!program.eqns.some(isWide)) return program;
  const eqns: Eqn[] = [];
  // Operands in memory, which several kernels may read; a reduction has its own, which joins its loop.
  const kept = new Map<Atom, Var>();
  const cast = (x: Atom, to: Var): Var => {
    eqns.push({ prim: castP, ins: [x], outs: [to], params: { dtype: to.aval.dtype } });
    return to;
  };
  const widened = (x: Atom, isKept: boolean): Atom => {
    if (!isHalf(x)) return x;
    const known = isKept ? kept.get(x) : undefined;
    if (known) return known;
    const wide = cast(x, new Var(new Aval(x.aval.shape, "float32")));
    if (isKept) kept.set(x, wide);
    return wide;
  };
  for (const eqn of program.eqns) {
    if (!isWide(eqn)) {
      eqns.push(eqn);
      continue;
    }
    const { prim, outs, params } = eqn;
    const ins = eqn.ins.map((x) => widened(x, prim.kernel?.k === "named"));
    const avals = prim.shape(
      ins.map((x) => x.aval),
      params,
    );
    const results = outs.map((v, i) => (isHalf(v) ? new Var(avals[i]!) : v));
    eqns.push({ prim, ins, outs: results, params });
    outs.forEach((v, i) => {
      if (isHalf(v)) cast(results[i]!, v);
    });
  }
  return { ...program, eqns };
}

function computesWide({ kernel }: AnyPrimitive, takesHalves: TakesHalves): boolean {
  return kernel?.k === "reduce" || (kernel?.k === "named" && !takesHalves(kernel.name));
}
