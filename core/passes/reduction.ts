/** Reductions of little: of axes of size 1, of what was reduced before, of what only repeats. */
import { reference } from "../backend.ts";
import type { DType } from "../dtype.ts";
import { mulP } from "../prims/elementwise.ts";
import { broadcastP, sumP } from "../prims/movement.ts";
import { type AxesParams, reduceMaxP, reduceMinP, reduceProdP } from "../prims/reduce.ts";
import type { Atom } from "../program.ts";
import { range, sameShape } from "../shape.ts";
import { Tensor } from "../value.ts";
import { reshaped } from "./movement.ts";
import { type EqnOf, on, type Rule, type RulesOf, type Scope } from "./rewrite.ts";
import { filled } from "./uniform.ts";

/** One element along every axis that disappears. */
const ofOne: Rule<AxesParams> = ({ ins: [x], outs }, scope) => {
  const { size, shape } = outs[0]!.aval;
  return x!.aval.size === size ? reshaped(x!, shape, scope) : null;
};

/** Axes that disappear one after the other may do so together. */
const together: Rule<AxesParams> = ({ prim, ins: [x], params: { axes } }, { made, isReadOnce, emit }) => {
  const inner: EqnOf<AxesParams> | null = isReadOnce(x!) ? made(x!, prim) : null;
  if (!inner) return null;
  const kept = range(inner.ins[0]!.aval.ndim).filter((a) => !inner.params.axes.includes(a));
  const all = [...inner.params.axes, ...axes.map((a) => kept[a]!)];
  return emit(prim, inner.ins, { axes: all.sort((a, b) => a - b) });
};

interface Repeated {
  readonly source: Atom;
  /** How many times each element is met. */
  readonly times: number;
  /** Where the axes of the source are in the result. */
  readonly axes: readonly number[];
}

/** What a reduction meets several times, if all axes that disappear only repeat. */
function repeatedAlong({ ins: [x], params: { axes } }: EqnOf<AxesParams>, scope: Scope): Repeated | null {
  const inner = scope.made(x!, broadcastP);
  if (!inner || axes.some((a) => inner.params.axes.includes(a))) return null;
  const times = axes.reduce((n, a) => n * x!.aval.shape[a]!, 1);
  const moved = inner.params.axes.map((a) => a - axes.filter((b) => b < a).length);
  return { source: inner.ins[0]!, times, axes: moved };
}

/** The largest of one number many times is that number. */
const extremumOfRepeated: Rule<AxesParams> = (eqn, scope) => {
  const found = repeatedAlong(eqn, scope);
  if (!found) return null;
  const { shape } = eqn.outs[0]!.aval;
  return sameShape(found.source.aval.shape, shape)
    ? found.source
    : scope.emit(broadcastP, [found.source], { shape, axes: found.axes });
};

/** Up to here `x times` has the bits of the sum: that of narrow floats is in float64, whose partial sums are exact. */
const exactTimes: Readonly<Record<DType, number>> = {
  float32: 2 ** 24,
  float64: 2,
  int32: 2 ** 31 - 1,
  uint32: 2 ** 32 - 1,
  bool: 0,
  float16: 2 ** 11,
};

/** The sum of one number many times is a product. */
const sumOfRepeated: Rule<AxesParams> = (eqn, scope) => {
  const found = repeatedAlong(eqn, scope);
  if (!found || found.times > exactTimes[eqn.outs[0]!.aval.dtype]) return null;
  const { source, times, axes } = found;
  const { aval } = eqn.outs[0]!;
  if (times === 0) return filled(0, aval, scope);
  const isScalar = source.aval.ndim === 0;
  const isConstant = isScalar && source instanceof Tensor;
  const isPlaced = sameShape(source.aval.shape, aval.shape);
  // The factor, the product and the repetition that is left, for the sum and perhaps the repetition before it.
  const added = Number(!isScalar) + Number(!isConstant) + Number(!isPlaced);
  if (added > (scope.isReadOnce(eqn.ins[0]!) ? 2 : 1)) return null;
  const factors = [source, filled(times, source.aval, scope)];
  const product = isConstant
    ? reference.evaluate(mulP, factors as Tensor[], null)[0]!
    : scope.emit(mulP, factors, null);
  return isPlaced ? product : scope.emit(broadcastP, [product], { shape: aval.shape, axes });
};

export const reduction: readonly RulesOf[] = [
  on(sumP, ofOne, together, sumOfRepeated),
  on(reduceMaxP, ofOne, together, extremumOfRepeated),
  on(reduceMinP, ofOne, together, extremumOfRepeated),
  on(reduceProdP, ofOne, together),
];
