/** Sums of zero-padded neighbours: the gradient of a vector that was cut into parts is the parts' gradients joined. */
import { addP } from "../prims/elementwise.ts";
import { concatP, type PadParams, padP } from "../prims/movement.ts";
import type { Atom } from "../program.ts";
import { type EqnOf, on, type Rule, type RulesOf, type Scope } from "./rewrite.ts";

/** The pads that a sum adds up, or null if it adds anything else or something else reads a part of it. */
function padsOf(x: Atom, scope: Scope): EqnOf<PadParams>[] | null {
  if (!scope.isReadOnce(x)) return null;
  const pad = scope.made(x, padP);
  if (pad) return pad.params.value === 0 && pad.params.interior.every((n) => n === 0) ? [pad] : null;
  const sum = scope.made(x, addP);
  const [left, right] = sum?.ins ?? [];
  const first = left && padsOf(left, scope);
  const second = first && padsOf(right!, scope);
  return first && second ? [...first, ...second] : null;
}

/** The one axis along which all are padded; -1 if there is none. */
function axisOf(pads: readonly EqnOf<PadParams>[]): number {
  const isPadded = ({ params }: EqnOf<PadParams>, a: number): boolean =>
    params.low[a] !== 0 || params.high[a] !== 0;
  const axis = pads[0]!.params.low.findIndex((_, a) => isPadded(pads[0]!, a));
  const isOnly = pads.every((pad) => pad.params.low.every((_, a) => a === axis || !isPadded(pad, a)));
  return isOnly ? axis : -1;
}

const join: Rule<null> = ({ ins: [x, y] }, scope) => {
  const left = padsOf(x!, scope);
  const right = left && padsOf(y!, scope);
  if (!left || !right) return null;
  const pads = [...left, ...right];
  const axis = axisOf(pads);
  if (axis < 0) return null;
  pads.sort((p, q) => p.params.low[axis]! - q.params.low[axis]!);
  const isRun = pads.every(({ ins, params }, i) => {
    const next = pads[i + 1]?.params.low[axis];
    return next === undefined || next === params.low[axis]! + ins[0]!.aval.shape[axis]!;
  });
  if (!isRun) return null;
  const parts = pads.map(({ ins }) => ins[0]!);
  const joined = scope.emit(concatP, parts, { axis });
  const [first, last] = [pads[0]!.params, pads.at(-1)!.params];
  if (first.low[axis] === 0 && last.high[axis] === 0) return joined;
  return scope.emit(padP, [joined], { ...first, high: last.high });
};

export const joining: readonly RulesOf[] = [on(addP, join)];
