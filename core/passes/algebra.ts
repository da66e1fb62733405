/**
 * Identities of elementwise functions. Each keeps every number, NaN and infinity, up to the sign of a zero: that is why
 * `x * 0` stays where x is a float, and `x + 0` is x.
 */
import { isFloat } from "../dtype.ts";
import type { AnyPrimitive } from "../primitive.ts";
import * as p from "../prims/elementwise.ts";
import { on, type Rule, type RulesOf } from "./rewrite.ts";
import { uniform } from "./uniform.ts";

/** `x op c = x`, and `c op x = x` where the operation commutes. */
const neutral: ReadonlyMap<AnyPrimitive, number> = new Map<AnyPrimitive, number>([
  [p.addP, 0],
  [p.subP, 0],
  [p.mulP, 1],
  [p.divP, 1],
  [p.powP, 1],
  [p.maximumP, -Infinity],
  [p.minimumP, Infinity],
  [p.logicalAndP, 1],
  [p.logicalOrP, 0],
]);

const dropNeutral: Rule = ({ prim, ins: [x, y] }, scope) => {
  const c = neutral.get(prim);
  if (uniform(y!, scope) === c) return x!;
  return prim.traits.commutative && uniform(x!, scope) === c ? y! : null;
};

/** `f(f(x)) = x`. */
const undo: Rule = ({ prim, ins: [x] }, scope) => scope.made(x!, prim)?.ins[0] ?? null;
/** `f(f(x)) = f(x)`. */
const repeat: Rule = ({ prim, ins: [x] }, scope) => (scope.made(x!, prim) ? x! : null);
/** `f(x, x) = x`. */
const same: Rule = ({ ins: [x, y] }) => (x === y ? x! : null);

/** `x + -y = x - y`, `-x + y = y - x`. */
const addNegative: Rule = ({ ins: [x, y] }, { made, emit }) => {
  const [nx, ny] = [made(x!, p.negP), made(y!, p.negP)];
  if (ny) return emit(p.subP, [x!, ny.ins[0]!], null);
  return nx && emit(p.subP, [y!, nx.ins[0]!], null);
};

/** `x - -y = x + y`. */
const subtractNegative: Rule = ({ ins: [x, y] }, { made, emit }) => {
  const ny = made(y!, p.negP);
  return ny && emit(p.addP, [x!, ny.ins[0]!], null);
};

/** `-(x - y) = y - x`. */
const negateDifference: Rule = ({ ins: [x] }, { made, isReadOnce, emit }) => {
  const difference = isReadOnce(x!) ? made(x!, p.subP) : null;
  return difference && emit(p.subP, difference.ins.toReversed(), null);
};

/** `-x * -y = x * y`, and the same of quotients of floats: those of unsigned integers wrap around. */
const cancelSigns: Rule = ({ prim, ins: [x, y] }, { made, emit }) => {
  const [nx, ny] = [made(x!, p.negP), made(y!, p.negP)];
  if (!nx || !ny || (prim === p.divP && !isFloat(x!.aval.dtype))) return null;
  return emit(prim, [nx.ins[0]!, ny.ins[0]!], null);
};

/** `x * -1 = -x`, and `x * 0 = 0` of integers. */
const multiplyByNumber: Rule = ({ ins }, scope) => {
  for (const [x, c] of [ins, ins.toReversed()]) {
    const value = uniform(c!, scope);
    if (value === -1) return scope.emit(p.negP, [x!], null);
    if (value === 0 && !isFloat(c!.aval.dtype)) return c!;
  }
  return null;
};

/** `x ** 2 = x * x`, at most one rounding away. */
const square: Rule = ({ ins: [x, y] }, scope) =>
  uniform(y!, scope) === 2 ? scope.emit(p.mulP, [x!, x!], null) : null;

export const algebra: readonly RulesOf[] = [
  on(p.addP, dropNeutral, addNegative),
  on(p.subP, dropNeutral, subtractNegative),
  on(p.mulP, dropNeutral, multiplyByNumber, cancelSigns),
  on(p.divP, dropNeutral, cancelSigns),
  on(p.powP, dropNeutral, square),
  on(p.maximumP, dropNeutral, same),
  on(p.minimumP, dropNeutral, same),
  on(p.logicalAndP, dropNeutral, same),
  on(p.logicalOrP, dropNeutral, same),
  on(p.negP, undo, negateDifference),
  on(p.logicalNotP, undo),
  ...[p.absP, p.signP, p.floorP, p.ceilP, p.roundP].map((f) => on(f, repeat)),
];
