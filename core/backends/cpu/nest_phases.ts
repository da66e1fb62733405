/**
 * Rows in phases: whatever depends on the result of a reduction along a row is computed in another pass over the row.
 * What several passes need is computed again, or where that takes long kept in scratch.
 */
import { bytesPerElement } from "../../dtype.ts";
import type { Expr } from "../../expr.ts";
import type { Load, LoopStep, Reduction, Store } from "../../passes/fuse.ts";
import { range } from "../../shape.ts";
import { dtypeOf } from "./nest_elements.ts";
import {
  type Division,
  divisionOf,
  type Known,
  operations,
  pressureOf,
  reachable,
} from "./nest_expressions.ts";

/** Up to so many operations are done again rather than kept. */
const CHEAP = 4;
/** A body of up to so many operations waits for the accumulators that it feeds, */
const LIGHT = 6;
/** so there are more copies of it, each with accumulators of its own. */
const LIGHT_COPIES: readonly number[] = [4, 2, 1];
const COPIES: readonly number[] = [2, 1];

/** One pass over a row, or none: it may be that only values of the row as a whole are computed. */
export interface Phase {
  /** Values of the row as a whole that are known when the pass begins, in order. */
  readonly rowValues: readonly Expr[];
  readonly loads: readonly Load[];
  readonly stores: readonly Store[];
  readonly reductions: readonly Reduction[];
  /** Values written to scratch for later passes, and those read from there. */
  readonly kept: readonly Expr[];
  readonly reloaded: readonly Expr[];
  /** What the pass computes, for its stores, its reductions and later passes. */
  readonly roots: readonly Expr[];
  /** How many copies of the loop's body are written together, and the constants in registers beside them. */
  readonly division: Division;
}

export interface RowPlan {
  readonly phases: readonly Phase[];
  /** Where the kept values of a row begin in scratch, in bytes. */
  readonly scratch: ReadonlyMap<Expr, number>;
}

/** Plans the passes over rows of `length` elements; along a row some loads are of one element. */
export function rowPlan(
  step: LoopStep,
  length: number,
  scratchBytes: number,
  isFixed: (load: Load) => boolean,
): RowPlan {
  const row = new RowValues(step);
  const scratch = scratchOf(row, length, scratchBytes);
  return { phases: range(row.last + 1).map((phase) => phaseOf(row, scratch, phase, isFixed)), scratch };
}

/** The values of a step that reduces rows, by when they are known. */
class RowValues {
  readonly step: LoopStep;
  /** The last phase in which there is anything to do along the row. */
  readonly last: number;
  readonly ofRow: readonly Expr[];
  readonly #phases = new Map<Expr, number>();

  constructor(step: LoopStep) {
    const { reductions, stores, values } = step;
    this.step = step;
    this.ofRow = values.filter(({ level }) => level === "row").map((value) => value.expr);
    const alongRow = [
      ...reductions.map(({ arg }) => arg),
      ...stores.filter(({ level }) => level === "full").map((store) => store.expr),
    ];
    this.last = Math.max(0, ...alongRow.map((e) => this.phaseOf(e)));
  }

  /** After how many reductions, one after the other, a value is known. */
  phaseOf(e: Expr): number {
    const known = this.#phases.get(e);
    if (known !== undefined) return known;
    const reduction = this.step.reductions.find(({ result }) => result === e);
    const phase = reduction
      ? this.phaseOf(reduction.arg) + 1
      : Math.max(0, ...e.args.map((arg) => this.phaseOf(arg)));
    this.#phases.set(e, phase);
    return phase;
  }

  reductionsIn(phase: number): Reduction[] {
    return this.step.reductions.filter(({ arg }) => this.phaseOf(arg) === phase);
  }

  storesIn(phase: number): Store[] {
    return this.step.stores.filter((store) => store.level === "full" && this.phaseOf(store.expr) === phase);
  }

  /** What the loop of a phase is for. */
  rootsIn(phase: number): Expr[] {
    return [
      ...this.reductionsIn(phase).map(({ arg }) => arg),
      ...this.storesIn(phase).map((store) => store.expr),
    ];
  }

  /** Whether a phase finds a value: one of the row, or one that an earlier phase kept. */
  knownIn(phase: number, kept: ReadonlyMap<Expr, number>): Known {
    return (e) => this.ofRow.includes(e) || (kept.has(e) && this.phaseOf(e) < phase);
  }
}

/** Decides which values of one phase are kept for a later one, and where. */
function scratchOf(row: RowValues, length: number, scratchBytes: number): ReadonlyMap<Expr, number> {
  const scratch = new Map<Expr, number>();
  let used = 0;
  for (let phase = 1; phase <= row.last; phase++) {
    const isKnown = row.knownIn(phase, scratch);
    const needed = reachable(row.rootsIn(phase), isKnown);
    for (const { expr, level } of row.step.values) {
      if (level === "row" || !needed.has(expr) || isKnown(expr) || row.phaseOf(expr) >= phase) continue;
      if (operations([expr], isKnown) <= CHEAP) continue;
      const bytes = 16 * Math.ceil((length * bytesPerElement(dtypeOf[expr.type])) / 16) + 16;
      if (used + bytes > scratchBytes) continue;
      scratch.set(expr, used);
      used += bytes;
    }
  }
  return scratch;
}

/** What a phase reads, computes and leaves behind. */
function phaseOf(
  row: RowValues,
  scratch: ReadonlyMap<Expr, number>,
  phase: number,
  isFixed: (load: Load) => boolean,
): Phase {
  const reductions = row.reductionsIn(phase);
  const stores = row.storesIn(phase);
  // A value may be needed only later, or only by another one that is kept: it is computed even so.
  const kept = [...scratch.keys()].filter((e) => row.phaseOf(e) === phase);
  const isKnown = row.knownIn(phase, scratch);
  const wanted = [...row.rootsIn(phase), ...kept];
  const needed = reachable(wanted, isKnown);
  const isLight = reductions.length > 0 && operations(wanted, isKnown) <= LIGHT;
  const loads = row.step.loads.filter((load) => load.level === "full" && needed.has(load.expr));
  const reloaded = [...scratch.keys()].filter((e) => row.phaseOf(e) < phase && needed.has(e));
  const moving = [...loads.filter((load) => !isFixed(load)).map((load) => load.expr), ...reloaded];
  const computed = [...kept, ...stores.map((store) => store.expr), ...reductions.map(({ arg }) => arg)];
  const body = pressureOf(moving, computed);
  // An accumulator of each reduction is held beside them.
  const pressure = { ...body, moving: body.moving + reductions.length };
  return {
    rowValues: row.ofRow.filter((e) => row.phaseOf(e) === phase),
    loads,
    stores,
    reductions,
    kept,
    reloaded,
    roots: wanted.filter((e) => !isKnown(e)),
    division: divisionOf(pressure, isLight ? LIGHT_COPIES : COPIES),
  };
}
