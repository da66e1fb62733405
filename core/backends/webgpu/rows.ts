/** Rows of an operand: its elements along one axis, and how many invocations share the work on each. */
import type { Layout } from "../../kernel.ts";
import { sizeOf } from "../../shape.ts";
import type { Capabilities } from "./kernel.ts";
import { elementIndex, lineSize, word } from "./wgsl.ts";

/** Rows along an axis: one for each element of `starts`, where it begins; neighbours are `step` elements apart. */
export interface Rows {
  readonly starts: Layout;
  readonly count: number;
  readonly length: number;
  readonly step: number;
}

export function rowsAlong({ shape, offset, strides }: Layout, axis: number): Rows {
  const starts = {
    shape: shape.filter((_, a) => a !== axis),
    offset,
    strides: strides.filter((_, a) => a !== axis),
  };
  return { starts, count: sizeOf(starts.shape), length: shape[axis]!, step: strides[axis]! };
}

/** The same rows from their ends. */
export function reversed({ starts, count, length, step }: Rows): Rows {
  const offset = starts.offset + (length - 1) * step;
  return { starts: { ...starts, offset }, count, length, step: -step };
}

/** Where a row begins; `row` is an expression without side effects, as those below are. */
export function startOf({ starts }: Rows, row: string): string {
  return elementIndex(starts, row);
}

/** Where element `k` of the row is that begins at `start`. */
export function elementAt({ step }: Rows, start: string, k: string): string {
  return `${start} + ${step === 1 ? k : `${k} * ${word(step)}`}`;
}

/** The largest power of two that is not above a number, at least 1. */
export const powerBelow = (n: number): number => 2 ** Math.floor(Math.log2(Math.max(1, n)));
/** The smallest power of two that is not below a number. */
export const powerAbove = (n: number): number => 2 ** Math.ceil(Math.log2(Math.max(1, n)));

/** Invocations that keep a device with its own memory busy. */
export const BUSY: number = 2 ** 17;

/** How rows that are joined to one value each are shared out. */
export interface Spread {
  /** Invocations of a workgroup. */
  readonly size: number;
  /** Invocations that share a row or a piece of one, a power of two. */
  readonly team: number;
  /** Parts of a row that are joined apart from each other. */
  readonly pieces: number;
  /** Neighbouring invocations have neighbouring rows, not neighbouring elements. */
  readonly isAcross: boolean;
}

const MOST_PIECES = 256;
/** A piece is at least so long. */
const SHORTEST_PIECE = 4096;
/** A member of a team has at least so many elements. */
const FEWEST_ELEMENTS = 4;
/** Invocations that read neighbouring words together. */
const LINE = 32;

export function spreadOf({ count, length, step }: Rows, gpu: Capabilities): Spread {
  const isAcross = Math.abs(step) !== 1 && count > 1;
  const size = powerBelow(lineSize(gpu));
  if (gpu.isSoftware) {
    const pieces = Math.min(Math.ceil(16 / count), Math.ceil(length / SHORTEST_PIECE), MOST_PIECES);
    return { size, team: 1, pieces, isAcross };
  }
  const wanted = powerBelow(Math.min(BUSY / count, length / FEWEST_ELEMENTS));
  const most = isAcross ? Math.max(1, size / Math.min(LINE, powerAbove(count))) : size;
  const least = isAcross ? 1 : Math.min(LINE, powerBelow(length / 2), most);
  const team = Math.max(least, Math.min(wanted, most));
  const pieces = Math.min(Math.ceil(wanted / team), Math.ceil(length / SHORTEST_PIECE), MOST_PIECES);
  return { size, team, pieces, isAcross };
}

/**
 * The first lines of an entry point where teams have numbers: `number` is the team's, `member` the invocation's in its
 * team, and `isInside` whether there is such a team. `unit` is the number of the workgroup, or of the team of one.
 */
export function teamHead(units: number, { size, team, isAcross }: Omit<Spread, "pieces">): string {
  if (team === 1) return "let number = unit;\nlet member = 0u;\nlet isInside = true;";
  const slots = size / team;
  const [slot, member] = isAcross
    ? [`local % ${slots}u`, `local / ${slots}u`]
    : [`local / ${team}u`, `local % ${team}u`];
  return `let position = unit * ${slots}u + ${slot};
let member = ${member};
let isInside = position < ${units}u;
let number = min(position, ${units - 1}u);`;
}
