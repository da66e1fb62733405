/** Slices, pads and concatenations: what is cut out of what was joined is cut out of the part. */
import { broadcastP, concatP, type PadParams, padP, type SliceParams, sliceP } from "../prims/movement.ts";
import type { Atom, Eqn } from "../program.ts";
import { sameShape } from "../shape.ts";
import { type EqnOf, on, type Rule, type RulesOf, type Scope } from "./rewrite.ts";
import { filled, uniform } from "./uniform.ts";

/** Just after the last element that a slice takes along an axis; its start if it takes none. */
function end(n: number, start: number, stride: number): number {
  return n === 0 ? start : start + (n - 1) * stride + 1;
}

/** The elements at `starts + index * strides` of another value, or null where some are outside. */
function cutFrom(
  source: Atom,
  starts: readonly number[],
  strides: readonly number[],
  out: Atom,
  { emit }: Scope,
): Atom | null {
  const { shape } = source.aval;
  const limits = starts.map((s, a) => end(out.aval.shape[a]!, s, strides[a]!));
  if (!starts.every((s, a) => s >= 0 && s <= shape[a]! && limits[a]! <= shape[a]!)) return null;
  if (sameShape(shape, out.aval.shape)) return source;
  return emit(sliceP, [source], { starts, limits, strides });
}

const slice: Rule<SliceParams> = ({ ins: [x], outs, params: { starts, strides } }, scope) => {
  const out = outs[0]!;
  const { shape } = out.aval;
  if (sameShape(x!.aval.shape, shape)) return x!;
  const [cut, pad, joined, repeated] = [
    scope.made(x!, sliceP),
    scope.made(x!, padP),
    scope.made(x!, concatP),
    scope.made(x!, broadcastP),
  ];
  if (cut) {
    const first = cut.params.starts.map((s, a) => s + starts[a]! * cut.params.strides[a]!);
    const steps = cut.params.strides.map((s, a) => s * strides[a]!);
    return cutFrom(cut.ins[0]!, first, steps, out, scope);
  }
  if (pad?.params.interior.every((n) => n === 0)) {
    const first = starts.map((s, a) => s - pad.params.low[a]!);
    return cutFrom(pad.ins[0]!, first, strides, out, scope);
  }
  if (repeated?.params.axes.every((a, i) => shape[a] === repeated.ins[0]!.aval.shape[i]))
    return scope.emit(broadcastP, repeated.ins, { shape, axes: repeated.params.axes });
  if (!joined) return null;
  const { axis } = joined.params;
  const ends = endsOf(joined);
  const part = firstFrom(ends, end(shape[axis]!, starts[axis]!, strides[axis]!));
  const offset = ends[part - 1] ?? 0;
  return cutFrom(joined.ins[part]!, starts.with(axis, starts[axis]! - offset), strides, out, scope);
};

const partEnds = new WeakMap<Eqn, readonly number[]>();

/** Where each part of a concatenation ends, found once: there may be as many slices of it as parts. */
function endsOf(joined: EqnOf<{ readonly axis: number }>): readonly number[] {
  let ends = partEnds.get(joined);
  if (ends === undefined) {
    let sum = 0;
    ends = joined.ins.map(({ aval }) => {
      sum += aval.shape[joined.params.axis]!;
      return sum;
    });
    partEnds.set(joined, ends);
  }
  return ends;
}

/** The position of the first of some increasing numbers that is not below another one; the last has to be such a number. */
function firstFrom(numbers: readonly number[], least: number): number {
  let [from, to] = [0, numbers.length - 1];
  while (from < to) {
    const middle = (from + to) >> 1;
    if (numbers[middle]! >= least) to = middle;
    else from = middle + 1;
  }
  return from;
}

/** A pad of nothing is none, two with one number are one, and that number around itself is a larger block of it. */
const pad: Rule<PadParams> = ({ ins: [x], outs, params }, scope) => {
  const { low, high, interior, value } = params;
  if (sameShape(x!.aval.shape, outs[0]!.aval.shape)) return x!;
  if (Object.is(uniform(x!, scope), value)) return filled(value, outs[0]!.aval, scope);
  const inner = scope.made(x!, padP);
  if (!inner || !Object.is(inner.params.value, value) || interior.some((n) => n !== 0)) return null;
  const sum = (a: readonly number[], b: readonly number[]): number[] => a.map((n, i) => n + b[i]!);
  return scope.emit(padP, inner.ins, {
    ...inner.params,
    low: sum(low, inner.params.low),
    high: sum(high, inner.params.high),
  });
};

/** Parts without elements go, and neighbouring slices are one slice. */
const concat: Rule<{ readonly axis: number }> = ({ ins, outs, params }, scope) => {
  const { axis } = params;
  const parts = ins.filter((x) => x.aval.shape[axis] !== 0);
  const [first = ins[0]!] = parts;
  if (parts.length <= 1) return first;
  const cuts = parts.map((x) => scope.made(x, sliceP));
  const isRun = cuts.every((cut, i) => {
    const next = cuts[i + 1]?.params;
    if (!cut || cut.ins[0] !== cuts[0]!.ins[0] || cut.params.strides.some((s) => s !== 1)) return false;
    return (
      !next || cut.params.limits.every((n, a) => next.starts[a] === (a === axis ? n : cut.params.starts[a]))
    );
  });
  if (isRun) {
    const { starts, strides } = cuts[0]!.params;
    return cutFrom(cuts[0]!.ins[0]!, starts, strides, outs[0]!, scope);
  }
  return parts.length === ins.length ? null : scope.emit(concatP, parts, params);
};

export const cut: readonly RulesOf[] = [on(sliceP, slice), on(padP, pad), on(concatP, concat)];
