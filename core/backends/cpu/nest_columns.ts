/**
 * Columns: the innermost dimension is kept. A unit is a block of columns, with an accumulator for each of them in
 * scratch, and reads the rows of the block one after the other.
 */
import { bytesPerElement } from "../../dtype.ts";
import type { ExprType } from "../../expr.ts";
import * as expr from "../../expr.ts";
import type { Reduction, Store } from "../../passes/fuse.ts";
import type { Local } from "./assembler.ts";
import { BEGIN, END, type Pointers } from "./nest_access.ts";
import { isFloat32Sum, isFloatProduct, joinedType, neutral } from "./nest_arithmetic.ts";
import { type NestCode, rootsOf, setUnitPart, type UnitPart } from "./nest_code.ts";
import { dtypeOf, type Place, type ScratchArray } from "./nest_elements.ts";
import { FLOAT32_FACTORS } from "./nest_product.ts";
import { totalSize } from "./nest_shapes.ts";
import { type Term, type Terms, termsOf } from "./terms.ts";

/** Columns of a unit: at most, and at least where there are enough. */
const WIDEST = 1024;
const NARROWEST = 16;
/** With this many units, or more, there are enough for all threads. */
const MANY_UNITS = 16;
/** Sums of float32 are kept in float32 over this many rows, then added to float64 ones. */
const ROW_BLOCK = 64;

/** A reduction, with an accumulator for each column of a unit. */
interface Column {
  readonly reduction: Reduction;
  /** What has been joined, or of a float32 sum the last rows of it. */
  readonly near: ScratchArray;
  /** The rest of a float32 sum, in float64. */
  readonly far: ScratchArray | null;
  /** How often a product of floats was scaled. */
  readonly scale: ScratchArray | null;
  /** Where the results go. */
  readonly stores: readonly Store[];
}

const isFloat32Product = ({ reduction, scale }: Column): boolean =>
  scale !== null && reduction.arg.type === "f32";

/** Writes the loops of a step that reduces columns; returns its units: none where there are no columns. */
export function writeColumns(code: NestCode): { readonly units: number } {
  const { outer, inner } = code.shapes;
  code.emitter.prologue(rootsOf(code.step));
  const width = blockWidth(inner.size, totalSize(outer));
  const blocks = Math.ceil(inner.size / width);
  new ColumnWriter(code, width, blocks).write();
  return { units: totalSize(outer) * blocks };
}

/** Columns of a unit: whole cache lines, and enough units for threads where there are columns. */
function blockWidth(columns: number, outer: number): number {
  const wanted = outer >= MANY_UNITS ? columns : Math.ceil(columns / MANY_UNITS);
  return Math.min(WIDEST, Math.max(NARROWEST, NARROWEST * Math.ceil(wanted / NARROWEST)));
}

class ColumnWriter {
  readonly #code: NestCode;
  readonly #terms: Terms;
  readonly #columns: readonly Column[];
  /** Stores of every element, beside the reductions. */
  readonly #stores: readonly Store[];
  readonly #size: Local;
  readonly #rows: Local;
  /** Columns of a block, and how many blocks there are. */
  readonly #width: Local;
  readonly #blocks: Local;
  readonly #unit: Local;
  readonly #part: UnitPart;
  readonly #row: Local;
  /** Rows since float32 sums were last moved to the float64 ones and products were scaled, and so many at most. */
  readonly #since: Local;
  readonly #rowBlock: number;

  constructor(code: NestCode, width: number, blocks: number) {
    const { f, step, shapes, block } = code;
    this.#code = code;
    this.#terms = termsOf(f);
    this.#stores = step.stores.filter(({ level }) => level === "full");
    this.#size = block.local(shapes.inner.size);
    this.#rows = block.local(totalSize(shapes.middle));
    this.#width = block.local(width);
    this.#blocks = block.local(blocks);
    const { unit, row, since, ...part } = this.#terms.locals(
      "unit",
      "position",
      "from",
      "to",
      "row",
      "since",
    );
    this.#unit = unit;
    this.#part = part;
    this.#row = row;
    this.#since = since;
    this.#columns = this.#accumulators();
    this.#rowBlock = this.#columns.some(isFloat32Product) ? FLOAT32_FACTORS : ROW_BLOCK;
  }

  /** Places for the accumulators in scratch, one after the other. */
  #accumulators(): Column[] {
    const { step, elements } = this.#code;
    const { minus, constant } = this.#terms;
    const column = ({ index }: Place): Term => minus(index, this.#part.from);
    let used = 0;
    const region = (type: ExprType): ScratchArray => {
      const start = used === 0 ? null : constant(used);
      used += WIDEST * bytesPerElement(dtypeOf[type]);
      return elements.scratch(type, start, column);
    };
    return step.reductions.map((reduction) => ({
      reduction,
      near: region(joinedType(reduction)),
      far: isFloat32Sum(reduction) ? region("f64") : null,
      scale: isFloatProduct(reduction) ? region("f64") : null,
      stores: step.stores.filter((store) => store.level === "row" && store.expr === reduction.result),
    }));
  }

  write(): void {
    const { shapes, emitter, accesses } = this.#code;
    const { each, set, constant } = this.#terms;
    each(this.#unit, BEGIN, END, 1, () => {
      const division = { parts: this.#blocks, length: this.#width, size: this.#size };
      setUnitPart(this.#code, this.#unit, this.#part, division);
      const saved = emitter.save();
      const first = accesses.moved(accesses.first, this.#part.position, shapes.outer);
      this.#begin();
      set(this.#since, constant(0));
      each(this.#row, constant(0), this.#rows, 1, () => {
        this.#joinRow(accesses.moved(first, this.#row, shapes.middle));
        this.#settleSometimes();
      });
      this.#settle();
      this.#finish(first);
      emitter.restore(saved);
    });
  }

  /** A loop along the columns of the unit. */
  #each(body: (place: Place) => void): void {
    const { from, to } = this.#part;
    this.#code.elements.each(from, to, 1, (places) => places.forEach(body));
  }

  /** Sets the accumulators to what changes nothing. */
  #begin(): void {
    const { arithmetic } = this.#code;
    this.#each((place) => {
      for (const { reduction, near, far, scale } of this.#columns) {
        near.store(arithmetic.filled(neutral(reduction.join, near.type), near.type), place);
        far?.store(arithmetic.filled(0, far.type), place);
        scale?.store(arithmetic.filled(0, scale.type), place);
      }
    });
  }

  /** Joins a row to the accumulators, and stores what is computed of its elements. */
  #joinRow(pointers: Pointers): void {
    const { step, emitter, elements, arithmetic } = this.#code;
    const roots = [
      ...this.#stores.map((store) => store.expr),
      ...this.#columns.map(({ reduction }) => reduction.arg),
    ];
    elements.around(step.loads, roots, pointers, () => {
      this.#each((place) => {
        elements.load(step.loads, [place], pointers);
        elements.store(this.#stores, [place], pointers);
        for (const { reduction, near, scale } of this.#columns) {
          const { join, arg } = reduction;
          const value = emitter.emit(expr.convert(arg, near.type));
          if (scale !== null && arg.type === "f64") {
            const known = { product: near.load(place), scale: scale.load(place) };
            arithmetic.multiply(known, [value], "f64");
            near.store(known.product, place);
            scale.store(known.scale, place);
            continue;
          }
          near.store(arithmetic.join(join, near.type, near.load(place), value), place);
        }
      });
    });
  }

  /** Counts rows, and settles where float32 sums or products have become long. */
  #settleSometimes(): void {
    const { set, plus, constant } = this.#terms;
    this.#terms
      .push(plus(this.#since, constant(1)))
      .tee(this.#since)
      .i32(this.#rowBlock)
      .op("i32.ge_s")
      .when(() => {
        this.#settle();
        set(this.#since, constant(0));
      });
  }

  /** Adds float32 sums to the float64 ones and begins them again; scales products of float32. */
  #settle(): void {
    const { arithmetic } = this.#code;
    if (this.#columns.every((column) => column.far === null && !isFloat32Product(column))) return;
    this.#each((place) => {
      for (const column of this.#columns) {
        const { near, far, scale } = column;
        if (isFloat32Product(column)) {
          const known = { product: near.load(place), scale: scale!.load(place) };
          arithmetic.approach(known);
          near.store(known.product, place);
          scale!.store(known.scale, place);
        }
        if (far === null) continue;
        const sum = near.load(place);
        const total = far.load(place);
        far.store(arithmetic.join("sum", "f64", total, arithmetic.convert(sum, "f32", "f64")), place);
        near.store(arithmetic.filled(0, "f32"), place);
      }
    });
  }

  /** Stores the results. */
  #finish(pointers: Pointers): void {
    const { emitter, elements, arithmetic } = this.#code;
    this.#each((place) => {
      for (const { reduction, near, far, scale, stores } of this.#columns) {
        const { type } = far ?? near;
        const last = (far ?? near).load(place);
        const joined =
          scale === null ? last : arithmetic.unscaled({ product: last, scale: scale.load(place) });
        emitter.bind(reduction.result, arithmetic.convert(joined, type, reduction.arg.type));
        elements.store(stores, [place], pointers);
      }
    });
  }
}
