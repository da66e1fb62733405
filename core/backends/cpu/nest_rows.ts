/**
 * Rows: the innermost dimension is reduced. A unit is one row, which is one result of every reduction, or a piece of a
 * long row. What follows a reduction runs over the row again, in the nearest cache.
 */
import type { Expr, ExprType } from "../../expr.ts";
import type { Join, Load } from "../../passes/fuse.ts";
import type { Local } from "./assembler.ts";
import { BEGIN, END, type Pointers, scaled } from "./nest_access.ts";
import { Accumulator, type FirstLane, firstLaneOf } from "./nest_accumulator.ts";
import { isFloat32Sum, isFloatProduct } from "./nest_arithmetic.ts";
import { type NestCode, rootsOf, setUnitPart, type UnitPart } from "./nest_code.ts";
import { type Place, type ScratchArray, WIDTH } from "./nest_elements.ts";
import { type Phase, type RowPlan, rowPlan } from "./nest_phases.ts";
import { totalSize } from "./nest_shapes.ts";
import { type Term, type Terms, termsOf } from "./terms.ts";

/** Elements of a piece of a long row: as many in every call, so that results do not depend on threads. */
const PIECE = 32768;
/** With more rows than this there are enough units for all threads without pieces. */
const FEW_ROWS = 64;
/** So many float32 are added in float32, in each lane of each copy of the body, and then to a float64. */
const ADDITIONS = 64;

/** Reductions of long rows in pieces: what is left is to join the pieces' results, 8 bytes each, in the workspace. */
export interface Pieces {
  readonly perRow: number;
  /** For each reduction: how to join, and the number of the store that the result of row `i` goes to. */
  readonly results: readonly { readonly join: Join; readonly type: ExprType; readonly store: number }[];
}

/** Writes the loops of a step that reduces rows; returns its units. */
export function writeRows(
  code: NestCode,
  scratchBytes: number,
): { readonly units: number; readonly pieces: Pieces | null } {
  const { outer, middle, inner } = code.shapes;
  const { step, emitter, accesses } = code;
  const isFixed = (load: Load): boolean => accesses.pattern(load) === "same";
  const plan = rowPlan(step, totalSize(middle) * inner.size, scratchBytes, isFixed);
  const constants = Math.min(...plan.phases.map(({ division }) => division.constants));
  emitter.prologue(rootsOf(step), constants);
  const pieces = piecesOf(code, plan);
  new RowWriter(code, plan, pieces).write();
  return { units: totalSize(outer) * (pieces?.perRow ?? 1), pieces };
}

/** How a few long rows are reduced in pieces; null where whole rows are units. */
function piecesOf({ step, shapes }: NestCode, { phases }: RowPlan): Pieces | null {
  const { reductions, stores, values } = step;
  const { outer, middle, inner } = shapes;
  if (middle.length > 0 || inner.size < 2 * PIECE || totalSize(outer) > FEW_ROWS) return null;
  // A piece of a product of floats has a scale too, which 8 bytes do not hold.
  if (reductions.some(isFloatProduct)) return null;
  // Only the host has whole results: nothing may be computed of them here.
  const isResult = (e: Expr): boolean => reductions.some(({ result }) => result === e);
  if (phases.length > 1 || values.some(({ expr, level }) => level === "row" && !isResult(expr))) return null;
  const results = reductions.map(({ join, arg, result }) => {
    const store = stores.findIndex(({ expr }) => expr === result);
    return { join, type: arg.type, store };
  });
  const found = results.filter(({ store }) => store >= 0);
  const rowStores = stores.filter(({ level }) => level === "row");
  if (found.length < reductions.length || found.length !== rowStores.length) return null;
  return { perRow: Math.ceil(inner.size / PIECE), results: found };
}

class RowWriter {
  readonly #code: NestCode;
  readonly #terms: Terms;
  readonly #plan: RowPlan;
  readonly #firstLane: FirstLane;
  /** Elements of the innermost dimension, and how often it is walked through for one row. */
  readonly #size: Local;
  readonly #repeats: Local;
  /** How many pieces a row has, and where their results go; null where rows are whole. */
  readonly #pieces: { readonly perRow: Local; readonly results: Local } | null;
  readonly #unit: Local;
  readonly #part: UnitPart;

  constructor(code: NestCode, plan: RowPlan, pieces: Pieces | null) {
    const { f, shapes, block } = code;
    this.#code = code;
    this.#terms = termsOf(f);
    this.#plan = plan;
    this.#firstLane = firstLaneOf(f);
    this.#size = block.local(shapes.inner.size);
    this.#repeats = block.local(totalSize(shapes.middle));
    this.#pieces = pieces && { perRow: block.local(pieces.perRow), results: block.local("workspace") };
    const { unit, ...part } = this.#terms.locals("unit", "position", "from", "to");
    this.#unit = unit;
    this.#part = part;
  }

  write(): void {
    const { step, shapes, emitter, accesses, elements } = this.#code;
    const loads = step.loads.filter(({ level }) => level === "row");
    const stores = step.stores.filter(({ level }) => level === "row");
    this.#terms.each(this.#unit, BEGIN, END, 1, () => {
      this.#setPart();
      const saved = emitter.save();
      const row = accesses.moved(accesses.first, this.#part.position, shapes.outer);
      elements.loadOnce(loads, row);
      for (const phase of this.#plan.phases) this.#writePhase(phase, row);
      if (this.#pieces === null) elements.storeOnce(stores, row);
      emitter.restore(saved);
    });
  }

  /** Which elements of which row the unit is. */
  #setPart(): void {
    const { set, constant } = this.#terms;
    const { position, from, to } = this.#part;
    if (this.#pieces === null) {
      set(position, this.#unit);
      set(from, constant(0));
      set(to, this.#size);
    } else {
      const division = { parts: this.#pieces.perRow, length: constant(PIECE), size: this.#size };
      setUnitPart(this.#code, this.#unit, this.#part, division);
    }
  }

  /** One pass over the row: afterwards the results of its reductions are known, or stored where it is a piece. */
  #writePhase(phase: Phase, row: Pointers): void {
    const { emitter } = this.#code;
    for (const e of phase.rowValues) emitter.emit(e);
    emitter.prologue([]);
    if (phase.reductions.length + phase.stores.length + phase.kept.length === 0) return;
    const accumulators = phase.reductions.map(
      (reduction) => new Accumulator(this.#code, this.#firstLane, reduction, phase.division.copies),
    );
    this.#writeMiddle(phase, accumulators, row);
    accumulators.forEach((accumulator, which) => {
      if (this.#pieces === null) emitter.bind(accumulator.reduction.result, accumulator.result());
      else accumulator.storeResult(this.#resultOfPiece(this.#pieces.results, which, accumulators.length));
    });
    emitter.prologue([]);
  }

  /** Where in the workspace a reduction's result of this piece belongs. */
  #resultOfPiece(results: Local, which: number, reductions: number): Term {
    const { plus, times, constant } = this.#terms;
    const index = plus(times(this.#unit, constant(reductions)), constant(which));
    return plus(results, scaled(this.#terms, index, "float64"));
  }

  /** Loops over the reduced dimensions around the innermost one. */
  #writeMiddle(phase: Phase, accumulators: readonly Accumulator[], row: Pointers): void {
    const { accesses, shapes } = this.#code;
    const { set, each, constant, times, locals } = this.#terms;
    const { repeat, start } = locals("repeat", "start");
    const body = (pointers: Pointers): void => {
      if (phase.kept.length + phase.reloaded.length > 0) set(start, times(repeat, this.#size));
      this.#writeInner(phase, accumulators, pointers, start);
    };
    if (shapes.middle.length === 0) {
      set(repeat, constant(0));
      body(row);
    } else {
      each(repeat, constant(0), this.#repeats, 1, () => body(accesses.moved(row, repeat, shapes.middle)));
    }
  }

  /** The innermost loop; before it are `start` elements of the row. */
  #writeInner(phase: Phase, accumulators: readonly Accumulator[], pointers: Pointers, start: Local): void {
    const { emitter, elements } = this.#code;
    const { loads, stores, kept, reloaded } = phase;
    const { copies } = phase.division;
    const scratch = (e: Expr): ScratchArray => this.#scratch(e, start);
    const body = (places: readonly Place[]): void => {
      elements.load(loads, places, pointers);
      for (const place of places) {
        emitter.at(place.copy);
        for (const e of reloaded) emitter.bind(e, scratch(e).load(place));
      }
      for (const e of kept) {
        const values = emitter.emitTogether(e);
        for (const place of places) scratch(e).store(values[place.copy]!, place);
      }
      elements.store(stores, places, pointers);
      for (const accumulator of accumulators) accumulator.add(places);
    };
    elements.around(loads, phase.roots, pointers, () => {
      const { from, to } = this.#part;
      if (phase.reductions.some(isFloat32Sum))
        this.#inBlocks(accumulators, copies, (first, end) => elements.each(first, end, copies, body));
      else elements.each(from, to, copies, body);
    });
  }

  /** Block by block, each followed by moving the sums of float32 to the float64 ones. */
  #inBlocks(
    accumulators: readonly Accumulator[],
    copies: number,
    body: (from: Local, to: Local) => void,
  ): void {
    const { set, each, plus, constant, smaller, locals } = this.#terms;
    const { first, end } = locals("first", "end");
    const { from, to } = this.#part;
    const block = ADDITIONS * WIDTH * copies;
    each(first, from, to, block, () => {
      set(end, plus(first, constant(block)));
      set(end, smaller(to, end));
      body(first, end);
      for (const accumulator of accumulators) accumulator.settle();
    });
  }

  /** Where a value of the row is kept: after others, whose size is a word because it depends on the row's length. */
  #scratch(e: Expr, start: Local): ScratchArray {
    const { block, elements } = this.#code;
    const bytes = this.#plan.scratch.get(e)!;
    const offset = bytes === 0 ? null : (): void => block.push(bytes);
    return elements.scratch(e.type, offset, ({ index }) => this.#terms.plus(start, index));
  }
}
