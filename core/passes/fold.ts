/** Constant folding: what does not depend on the inputs is computed now, if that is little work and stays small. */
import { reference } from "../backend.ts";
import { broadcastP } from "../prims/movement.ts";
import type { Atom, Eqn, Program } from "../program.ts";
import { scalar } from "../trace.ts";
import { remoteOf, Tensor } from "../value.ts";
import { type Rule, rewritten, type Scope } from "./rewrite.ts";
import { filled, uniform } from "./uniform.ts";

/** Results up to this size are always kept as constants. */
const SMALL = 1024;
/** More elements than this are left to the backend: the reference functions are slow. */
const MUCH_WORK = 65536;

/**
 * Computes equations of constants. A repeated number stays an equation, because it costs nothing there, and what is
 * computed of repeated numbers alone is a repeated number again.
 */
export function constantsFolded(program: Program): Program {
  return rewritten(program, fold);
}

/** The rule of the pass. */
export const fold: Rule = (eqn, scope) => {
  if (eqn.ins.length === 0 || eqn.outs.length !== 1) return null;
  return ofConstants(eqn) ?? ofRepeated(eqn, scope);
};

function ofConstants({ prim, ins, outs, params }: Eqn): Atom | null {
  if (!ins.every((atom) => atom instanceof Tensor) || ins.some((x) => remoteOf(x) !== null)) return null;
  if (prim === broadcastP && ins[0]!.size === 1) return null;
  const { size } = outs[0]!.aval;
  const read = ins.reduce((sum, atom) => sum + atom.size, 0);
  if ((size > SMALL && size > read) || size + read > MUCH_WORK) return null;
  return reference.evaluate(prim, ins, params)[0]!;
}

function ofRepeated({ prim, ins, outs, params }: Eqn, scope: Scope): Atom | null {
  if (prim === broadcastP) return null;
  const isMoving = prim.kernel?.k === "view";
  if (!isMoving && prim.traits.elementwise === undefined) return null;
  const values = ins.map((atom) => uniform(atom, scope));
  if (values.includes(null)) return null;
  const { aval } = outs[0]!;
  if (isMoving) return filled(values[0]!, aval, scope);
  const scalars = ins.map((atom, i) => scalar(values[i]!, atom.aval.dtype));
  return filled(reference.evaluate(prim, scalars, params)[0]!.item(), aval, scope);
}
