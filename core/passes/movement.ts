/** Moves of elements: two of a kind are one, and one that changes nothing is none. */
import { broadcastP, flipP, permuteP, reshapeP } from "../prims/movement.ts";
import type { Atom } from "../program.ts";
import { type Shape, sameShape, sizeOf } from "../shape.ts";
import { on, type Rule, type RulesOf, type Scope } from "./rewrite.ts";

/** The elements of an atom in row-major order under a shape: itself, or one reshape of where they come from. */
export function reshaped(x: Atom, shape: Shape, { made, emit }: Scope): Atom {
  const source = made(x, reshapeP)?.ins[0] ?? x;
  if (sameShape(x.aval.shape, shape)) return x;
  return sameShape(source.aval.shape, shape) ? source : emit(reshapeP, [source], { shape });
}

/** Whether each number is larger than the one before. */
export function isIncreasing(axes: readonly number[]): boolean {
  return axes.every((a, i) => i === 0 || a > axes[i - 1]!);
}

const reshapeOnce: Rule<{ readonly shape: Shape }> = ({ ins: [x], params: { shape } }, scope) =>
  sameShape(x!.aval.shape, shape) || scope.made(x!, reshapeP) ? reshaped(x!, shape, scope) : null;

type Broadcast = { readonly shape: Shape; readonly axes: readonly number[] };

/** A broadcast of a broadcast is one; one that repeats nothing is a reshape. */
const broadcastOnce: Rule<Broadcast> = ({ ins: [x], params: { shape, axes } }, scope) => {
  if (x!.aval.size === sizeOf(shape)) return reshaped(x!, shape, scope);
  const inner = scope.made(x!, broadcastP);
  if (inner)
    return scope.emit(broadcastP, inner.ins, { shape, axes: inner.params.axes.map((a) => axes[a]!) });
  // Axes of size 1 that a reshape put in are put in by the broadcast.
  const source = scope.made(x!, reshapeP)?.ins[0];
  const long = axes.filter((_, i) => x!.aval.shape[i] !== 1);
  const isSame =
    source &&
    sameShape(
      source.aval.shape,
      long.map((a) => shape[a]!),
    );
  return isSame ? scope.emit(broadcastP, [source], { shape, axes: long }) : null;
};

/** A permutation of a permutation is one; one that moves only axes of size 1 is a reshape. */
const permuteOnce: Rule<{ readonly perm: readonly number[] }> = ({ ins: [x], params, outs }, scope) => {
  const { perm } = params;
  const { shape } = outs[0]!.aval;
  if (isIncreasing(perm.filter((a) => x!.aval.shape[a] !== 1))) return reshaped(x!, shape, scope);
  const inner = scope.made(x!, permuteP);
  if (inner) return scope.emit(permuteP, inner.ins, { perm: perm.map((a) => inner.params.perm[a]!) });
  const repeated = scope.made(x!, broadcastP);
  const axes = repeated?.params.axes.map((a) => perm.indexOf(a));
  return repeated && axes && isIncreasing(axes)
    ? scope.emit(broadcastP, repeated.ins, { shape, axes })
    : null;
};

/** Axes that are flipped twice, or have one element, are not flipped. */
const flipOnce: Rule<{ readonly axes: readonly number[] }> = ({ ins: [x], params: { axes } }, scope) => {
  const inner = scope.made(x!, flipP);
  const before = inner?.params.axes ?? [];
  const both = [...axes.filter((a) => !before.includes(a)), ...before.filter((a) => !axes.includes(a))];
  const left = both.filter((a) => x!.aval.shape[a] !== 1).sort((a, b) => a - b);
  if (!inner && left.length === axes.length) return null;
  const source = inner?.ins[0] ?? x!;
  return left.length === 0 ? source : scope.emit(flipP, [source], { axes: left });
};

export const movement: readonly RulesOf[] = [
  on(reshapeP, reshapeOnce),
  on(broadcastP, broadcastOnce),
  on(permuteP, permuteOnce),
  on(flipP, flipOnce),
];
