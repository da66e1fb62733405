/** Values that are other values: by a condition that is known, by a cast and its opposite, without a derivative. */
import type { DType } from "../dtype.ts";
import { castP, stopGradientP, whereP } from "../prims/elementwise.ts";
import { on, type Rule, type RulesOf } from "./rewrite.ts";
import { uniform } from "./uniform.ts";

/** A condition that is known, branches that are the same, and the same condition inside a branch. */
const choose: Rule<null> = ({ ins: [c, x, y] }, scope) => {
  const known = uniform(c!, scope);
  if (known !== null) return known === 0 ? y! : x!;
  if (x === y) return x!;
  const [wx, wy] = [scope.made(x!, whereP), scope.made(y!, whereP)];
  if (wx?.ins[0] === c) return scope.emit(whereP, [c!, wx!.ins[1]!, y!], null);
  return wy?.ins[0] === c ? scope.emit(whereP, [c!, x!, wy!.ins[2]!], null) : null;
};

/** The element types that hold every element of a type. */
const holders: Readonly<Record<DType, readonly DType[]>> = {
  bool: ["bool", "int32", "uint32", "float32", "float64", "float16"],
  int32: ["int32", "float64"],
  uint32: ["uint32", "float64"],
  float32: ["float32", "float64"],
  float64: ["float64"],
  float16: ["float16", "float32", "float64"],
};

/** To its own type, or there and back without loss. */
const castBack: Rule<{ readonly dtype: DType }> = ({ ins: [x], params: { dtype } }, { made }) => {
  const between = x!.aval.dtype;
  if (between === dtype) return x!;
  const original = made(x!, castP)?.ins[0];
  return original?.aval.dtype === dtype && holders[dtype].includes(between) ? original : null;
};

/** Nothing is differentiated any more when a program is simplified. */
const forget: Rule<null> = ({ ins: [x] }) => x!;

export const choice: readonly RulesOf[] = [
  on(whereP, choose),
  on(castP, castBack),
  on(stopGradientP, forget),
];
