/**
 * The dimensions of a nest: the axes of an iteration space in the order in which loops run over them. Neighbouring axes
 * that every access walks through as one are one dimension, so that most nests have very few.
 */
import type { Load, LoopStep, Store } from "../../passes/fuse.ts";
import { range } from "../../shape.ts";

/** Elements of a buffer that a step reads or writes. */
export type Access = Load | Store;

export interface Dimension {
  readonly size: number;
  /** How far apart neighbours are in the buffer of each access, in elements. */
  readonly strides: ReadonlyMap<Access, number>;
}

export interface Shapes {
  readonly kind: "map" | "rows" | "columns";
  /** What units are made of, beside parts of the innermost dimension. */
  readonly outer: readonly Dimension[];
  /** Dimensions that are reduced, around the innermost one. */
  readonly middle: readonly Dimension[];
  readonly inner: Dimension;
}

/** Indices are int32, even a block past the end: dimensions that would be longer than this are not joined. */
const LONGEST = 2 ** 30;

/** Everything that a step reads and writes, in the order in which the argument block has the addresses. */
export function accessesOf({ loads, stores }: LoopStep): readonly Access[] {
  return [...loads, ...stores];
}

/** Number of elements of some dimensions together. */
export function totalSize(dimensions: readonly Dimension[]): number {
  return dimensions.reduce((total, { size }) => total * size, 1);
}

/** Which kind of nest a step becomes, and its dimensions. */
export function shapesOf(step: LoopStep): Shapes {
  const { shape, reduced, reductions } = step;
  const dimensions = (axes: readonly number[]): Dimension[] => dimensionsOf(step, axes);
  const axes = range(shape.length).filter((axis) => shape[axis] !== 1);
  const kept = axes.filter((axis) => !reduced.includes(axis));
  const gone = axes.filter((axis) => reduced.includes(axis));
  // A single element is its own neighbour wherever it is.
  const single: Dimension = { size: 1, strides: new Map(accessesOf(step).map((access) => [access, 1])) };
  if (reductions.length === 0 && reduced.length === 0) {
    const all = dimensions(kept);
    return { kind: "map", outer: all.slice(0, -1), middle: [], inner: all.at(-1) ?? single };
  }
  const lastGone = gone.at(-1) ?? Number.POSITIVE_INFINITY;
  const tail = kept.filter((axis) => axis > lastGone);
  if (tail.length === 0) {
    const all = dimensions(gone);
    return { kind: "rows", outer: dimensions(kept), middle: all.slice(0, -1), inner: all.at(-1) ?? single };
  }
  const columns = dimensions(tail);
  const head = dimensions(kept.filter((axis) => axis < lastGone));
  return {
    kind: "columns",
    outer: [...head, ...columns.slice(0, -1)],
    middle: dimensions(gone),
    inner: columns.at(-1)!,
  };
}

/** Axes as dimensions, outermost first, joined where every access walks on from one into the next. */
function dimensionsOf(step: LoopStep, axes: readonly number[]): Dimension[] {
  const accesses = accessesOf(step);
  const dimensions: Dimension[] = [];
  for (const axis of axes) {
    const size = step.shape[axis]!;
    const strides = new Map(accesses.map((access) => [access, strideOf(step, access, axis)]));
    const last = dimensions.at(-1);
    const continues = (access: Access): boolean => last?.strides.get(access) === strides.get(access)! * size;
    if (last && last.size * size <= LONGEST && accesses.every(continues))
      dimensions[dimensions.length - 1] = { size: last.size * size, strides };
    else dimensions.push({ size, strides });
  }
  return dimensions;
}

/** The stride of an access along an axis of the iteration space. */
function strideOf({ shape, reduced }: LoopStep, { level, layout }: Access, axis: number): number {
  if (level === "full") return layout.strides[axis]!;
  // The layout of a row's value has the axes that are kept; along the others it stays where it is.
  if (reduced.includes(axis)) return 0;
  const kept = range(shape.length).filter((other) => !reduced.includes(other));
  return layout.strides[kept.indexOf(axis)]!;
}
