/**
 * Tiles: a map that reads some buffer along another dimension than the innermost one, as a transposition does. Tiles of
 * a few rows and columns are done one after the other, so that cache lines are read and written as a whole while they
 * are near; in each, four by four elements are read as they lie in memory and turned in registers.
 */
import { bytesPerElement } from "../../dtype.ts";
import type { Load } from "../../passes/fuse.ts";
import type { Local } from "./assembler.ts";
import { BEGIN, END, type Pointers } from "./nest_access.ts";
import { type NestCode, rootsOf } from "./nest_code.ts";
import { type Place, WIDTH } from "./nest_elements.ts";
import { type Access, type Dimension, totalSize } from "./nest_shapes.ts";
import { type Term, type Terms, termsOf } from "./terms.ts";

/** Rows of a tile: the elements of a cache line. */
const ROWS = 16;
/** Columns of a tile: more make for less work around, but powers of two apart they push each other out of the cache. */
const COLUMNS = 64;
const FEW_COLUMNS = 16;
/** How far apart, in elements. */
const APART = 256;

/**
 * The dimension whose units make tiles: the last one around the innermost, if a buffer has neighbours along it but not
 * along the innermost; else null.
 */
export function tiledDimension({ step, shapes, accesses }: NestCode): Dimension | null {
  const across = shapes.outer.at(-1);
  if (across === undefined || across.size < WIDTH || shapes.inner.size < WIDTH) return null;
  const isCrossed = (load: Load): boolean =>
    accesses.pattern(load) === "strided" && across.strides.get(load) === 1;
  return step.loads.some(isCrossed) ? across : null;
}

/** Writes the loops of such a map; a unit is a row of the innermost dimension, as of other maps. */
export function writeTiles(
  code: NestCode,
  across: Dimension,
): { readonly units: number; readonly grain: number } {
  code.emitter.prologue(rootsOf(code.step));
  new TileWriter(code, across).write();
  return { units: totalSize(code.shapes.outer), grain: 1 };
}

class TileWriter {
  readonly #code: NestCode;
  readonly #terms: Terms;
  readonly #across: Dimension;
  /** Read along the rows of a tile, four elements of four columns at a time. */
  readonly #crossed: readonly Load[];
  /** One element for all rows and columns of a tile. */
  readonly #single: readonly Load[];
  /** One element for all columns of a row. */
  readonly #ofRow: readonly Load[];
  readonly #others: readonly Load[];
  /** How many bytes from a row to the next, for what moves at all. */
  readonly #rowStrides: ReadonlyMap<Access, Local>;
  readonly #size: Local;
  /** Columns of a tile. */
  readonly #width: Local;

  constructor(code: NestCode, across: Dimension) {
    const { step, shapes, block, accesses } = code;
    const strideOf = (access: Access): number => across.strides.get(access)!;
    const isSame = (load: Load): boolean => accesses.pattern(load) === "same";
    const isCrossed = (load: Load): boolean =>
      accesses.pattern(load) === "strided" &&
      strideOf(load) === 1 &&
      bytesPerElement(load.slot.aval.dtype) === 4;
    this.#code = code;
    this.#terms = termsOf(code.f);
    this.#across = across;
    this.#crossed = step.loads.filter(isCrossed);
    this.#single = step.loads.filter((load) => isSame(load) && strideOf(load) === 0);
    this.#ofRow = step.loads.filter((load) => isSame(load) && strideOf(load) !== 0);
    this.#others = step.loads.filter((load) => !isSame(load) && !isCrossed(load));
    this.#size = block.local(shapes.inner.size);
    const isApart = (load: Load): boolean => shapes.inner.strides.get(load)! % APART === 0;
    this.#width = block.local(this.#crossed.some(isApart) ? FEW_COLUMNS : COLUMNS);
    this.#rowStrides = new Map(
      [...step.loads, ...step.stores]
        .filter((access) => strideOf(access) !== 0)
        .map((access) => [access, block.local(strideOf(access) * bytesPerElement(access.slot.aval.dtype))]),
    );
  }

  write(): void {
    const { shapes, accesses, elements, block, step } = this.#code;
    const { push, set, minus, both, constant, smaller, locals } = this.#terms;
    const { unit, row, rows } = locals("unit", "row", "rows");
    const height = block.local(this.#across.size);
    set(unit, BEGIN);
    this.#advancing(unit, END, rows, () => {
      const first = accesses.moved(accesses.first, unit, shapes.outer);
      push(unit).get(height).op("i32.rem_u").set(row);
      // Up to the end of the range, of the dimension, and of the cache lines that are read.
      set(rows, smaller(minus(END, unit), minus(height, row)));
      set(row, minus(constant(ROWS), both(row, constant(ROWS - 1))));
      set(rows, smaller(row, rows));
      elements.around(this.#single, rootsOf(step), first, () => this.#writeRows(first, rows));
    });
  }

  /** `for (; i < end; i += step)`, where the body may set the step. */
  #advancing(i: Local, end: Local, step: Local, body: () => void): void {
    const { f } = this.#code;
    f.block((exit) => {
      f.loop((again) => {
        f.get(i).get(end).op("i32.ge_s").brIf(exit);
        body();
        this.#terms.advance(i, step);
        f.br(again);
      });
    });
  }

  /** A few rows: tile by tile, then the rows and columns that are left. */
  #writeRows(first: Pointers, rows: Local): void {
    const { push, set, each, plus, both, constant, smaller, less, locals } = this.#terms;
    const { row, column, left, right, start } = locals("row", "column", "left", "right", "start");
    const { wholeRows, wholeColumns } = locals("wholeRows", "wholeColumns");
    set(wholeRows, both(rows, constant(-WIDTH)));
    set(wholeColumns, both(this.#size, constant(-WIDTH)));
    set(left, constant(0));
    this.#advancing(left, wholeColumns, this.#width, () => {
      set(right, plus(left, this.#width));
      set(right, smaller(wholeColumns, right));
      each(row, constant(0), wholeRows, WIDTH, () => {
        const pointers = this.#fourRows(first, row);
        each(column, left, right, WIDTH, () => this.#writeSquare(column, pointers));
      });
    });
    each(row, constant(0), rows, 1, () => {
      push(wholeColumns).i32(0);
      push(less(row, wholeRows)).op("select").set(start);
      this.#writeRow(this.#movedTo(first, row), start);
    });
  }

  /** Addresses in a row, so many after the first. */
  #movedTo(first: Pointers, row: Local): Pointers {
    return this.#moved(first, (stride) => this.#terms.times(row, stride));
  }

  #moved(from: Pointers, distance: (rowStride: Local) => Term): Pointers {
    const { f } = this.#code;
    const { set, plus } = this.#terms;
    const to = new Map(from);
    for (const [access, stride] of this.#rowStrides) {
      const pointer = f.local("i32");
      set(pointer, plus(from.get(access)!, distance(stride)));
      to.set(access, pointer);
    }
    return to;
  }

  #fourRows(first: Pointers, row: Local): readonly Pointers[] {
    const rows = [this.#movedTo(first, row)];
    while (rows.length < WIDTH) rows.push(this.#moved(rows.at(-1)!, (stride) => stride));
    return rows;
  }

  /** Four by four elements. */
  #writeSquare(column: Local, rows: readonly Pointers[]): void {
    const { step, emitter, elements } = this.#code;
    emitter.forget(WIDTH);
    for (const load of this.#crossed) elements.loadTurned(load, column, rows[0]!);
    rows.forEach((pointers, copy) => {
      const places: readonly Place[] = [{ index: column, shift: 0, isSingle: false, copy }];
      emitter.at(copy);
      elements.loadOnce(this.#ofRow, pointers);
      elements.load(this.#others, places, pointers);
      elements.store(step.stores, places, pointers);
    });
    emitter.forget();
  }

  /** The elements of a row from some column on. */
  #writeRow(pointers: Pointers, start: Local): void {
    const { step, elements } = this.#code;
    elements.around(this.#ofRow, rootsOf(step), pointers, () => {
      elements.each(start, this.#size, 1, (places) => {
        elements.load([...this.#crossed, ...this.#others], places, pointers);
        elements.store(step.stores, places, pointers);
      });
    });
  }
}
