/** How loops with reductions are spread over invocations. A row is what one result is joined from, wherever it lies. */
import type { Expr } from "../../expr.ts";
import type { Load, LoopStep, Reduction, Store } from "../../passes/fuse.ts";
import { range, sizeOf } from "../../shape.ts";
import { operations, Scope } from "./expressions.ts";
import type { Capabilities } from "./kernel.ts";
import { mergedLayout, partLayout } from "./loops_access.ts";

/** Invocations that keep a device busy: a real one hides the time that memory takes behind many others. */
const BUSY = 2 ** 18;
const BUSY_SOFTWARE = 2 ** 11;
/** Elements of a row that are worth an invocation of their own, in a team and in a piece. */
const SHARE = 8;
const PIECE = 32;
/** Across rows, so many neighbours fill a line of the cache. */
export const NEIGHBOURS = 32;
/** Elements that an invocation keeps from pass to pass, and operations that are written out for them. */
const MOST_HELD = 16;
const MOST_WRITTEN = 1200;

/** The axes of a step that stay and those that go, and how many elements they have together. */
export interface Rows {
  readonly kept: readonly number[];
  readonly gone: readonly number[];
  readonly count: number;
  readonly length: number;
}

export interface Plan {
  /** Invocations that join one row together. */
  readonly team: number;
  /** Neighbouring invocations belong to neighbouring rows; else to one row. */
  readonly isAcross: boolean;
  /** Rows are joined in so many pieces, and these by another dispatch. */
  readonly pieces: number;
  /** Every invocation has so many elements of its row at once, from pass to pass; 0: it walks along the row in every pass. */
  readonly held: number;
}

export function rowsOf({ shape, reduced }: LoopStep): Rows {
  const axes = range(shape.length);
  const kept = axes.filter((axis) => !reduced.includes(axis));
  const sizes = (list: readonly number[]): number[] => list.map((axis) => shape[axis]!);
  return { kept, gone: reduced, count: sizeOf(sizes(kept)), length: sizeOf(sizes(reduced)) };
}

/** What is computed in one pass along a row: what depends on no more than so many passes before it. */
export interface Phase {
  /** Values of the row as a whole that are known now. */
  readonly rowValues: readonly Expr[];
  readonly reductions: readonly Reduction[];
  readonly stores: readonly Store[];
}

/** The passes of a step. The last one may have nothing to do along the row. */
export function phasesOf({ reductions, stores, values }: LoopStep): readonly Phase[] {
  const known = new Map<Expr, number>();
  const phaseOf = (root: Expr): number => {
    const waiting = [root];
    for (let e = waiting.at(-1); e !== undefined; e = waiting.at(-1)) {
      const reduction = reductions.find(({ result }) => result === e);
      const needed = reduction ? [reduction.arg] : e.args;
      const missing = known.has(e) ? [] : needed.filter((x) => !known.has(x));
      waiting.push(...missing);
      if (missing.length > 0) continue;
      waiting.pop();
      if (!known.has(e)) known.set(e, Math.max(0, ...needed.map((x) => known.get(x)!)) + (reduction ? 1 : 0));
    }
    return known.get(root)!;
  };
  const isFull = ({ level }: Store): boolean => level === "full";
  const rowValues = values.filter(({ level }) => level === "row").map(({ expr }) => expr);
  const roots = [...reductions.map(({ arg }) => arg), ...rowValues, ...stores.map(({ expr }) => expr)];
  const last = Math.max(0, ...roots.map(phaseOf));
  return range(last + 1).map((phase) => ({
    rowValues: rowValues.filter((e) => phaseOf(e) === phase),
    reductions: reductions.filter(({ arg }) => phaseOf(arg) === phase),
    stores: stores.filter((store) => isFull(store) && phaseOf(store.expr) === phase),
  }));
}

/** The largest power of two up to x, between bounds that are powers of two. */
function powerWithin(x: number, least: number, most: number): number {
  return Math.min(most, Math.max(least, 2 ** Math.floor(Math.log2(Math.max(1, x)))));
}

/** Whether neighbouring elements of what is loaded and stored rather belong to neighbouring rows. */
function isAcross({ loads, stores }: LoopStep, { kept, gone }: Rows): boolean {
  const strideOf = ({ layout }: Load | Store, axes: readonly number[]): number =>
    mergedLayout(partLayout(layout, axes, 0)).strides.at(-1) ?? 0;
  let votes = 0;
  for (const one of [...loads, ...stores]) {
    if (one.level === "row") continue;
    if (strideOf(one, gone) === 1) votes++;
    else if (strideOf(one, kept) === 1) votes--;
  }
  return votes < 0;
}

/** How the rows of a step are spread. */
export function planOf(step: LoopStep, rows: Rows, phases: readonly Phase[], gpu: Capabilities): Plan {
  const across = isAcross(step, rows);
  const canCut =
    step.reductions.length > 0 &&
    phases.slice(1).every(({ reductions, stores }) => reductions.length + stores.length === 0);
  const spread = spreadOf(rows, across, canCut, gpu);
  const passes = phases.filter(({ reductions, stores }) => reductions.length + stores.length > 0).length;
  const each = Math.ceil(rows.length / spread.team);
  const roots = [...step.reductions.map(({ arg }) => arg), ...step.stores.map(({ expr }) => expr)];
  const isShort = each <= MOST_HELD && each * operations(new Scope(""), roots) <= MOST_WRITTEN;
  return { ...spread, isAcross: across, held: passes > 1 && isShort ? each : 0 };
}

/** Teams and pieces for rows of this number and length. */
export function spreadOf(
  { count, length }: { readonly count: number; readonly length: number },
  across: boolean,
  canCut: boolean,
  gpu: Capabilities,
): { readonly team: number; readonly pieces: number } {
  const most = gpu.limits.maxWorkgroupSize >= 256 ? 256 : powerWithin(gpu.limits.maxWorkgroupSize, 1, 256);
  const busy = gpu.isSoftware ? BUSY_SOFTWARE : BUSY;
  let team = 1;
  if (!gpu.isSoftware && across && count >= NEIGHBOURS && count < busy)
    team = powerWithin(length / PIECE, 1, 8);
  if (!gpu.isSoftware && !across) {
    const isMuch = count * length >= busy * SHARE;
    team = powerWithin(length / (isMuch ? SHARE : SHARE / 2), 1, most);
  }
  const missing = Math.ceil(busy / (count * team));
  const pieces = canCut ? Math.max(1, Math.min(missing, Math.floor(length / (team * PIECE)))) : 1;
  return { team, pieces };
}
