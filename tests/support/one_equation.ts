/** One application of a primitive as a program. */
import type { Aval } from "../../core/aval.ts";
import type { AnyPrimitive } from "../../core/primitive.ts";
import { type Program, Var } from "../../core/program.ts";

export function oneEquation(prim: AnyPrimitive, avals: readonly Aval[], params: unknown): Program {
  const ins = avals.map((aval) => new Var(aval));
  const outs = prim.shape(avals, params).map((aval) => new Var(aval));
  return { ins, eqns: [{ prim, ins, outs, params }], outs };
}
