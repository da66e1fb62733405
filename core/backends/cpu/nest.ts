/**
 * Loops: one fused step as a WebAssembly function. The iteration space becomes units that threads share, each a few
 * nested loops with four elements at a time in the innermost; sizes, strides and addresses are read from the argument
 * block, so one function serves every shape that is looped over in the same way.
 *
 *   map:  units are elements, or rows of the innermost dimension
 *   rows: the innermost dimension is reduced. A unit is one result, or one piece of a long row. What follows a
 *         reduction runs over the row again, in the nearest cache
 *   columns: the innermost dimension is kept. A unit is a block of columns, with one accumulator each
 */
import { bytesPerElement, type DType } from "../../dtype.ts";
import type { Expr, ExprType, ScalarFunction } from "../../expr.ts";
import * as expr from "../../expr.ts";
import type { Join, Load, LoopStep, Slot, Store } from "../../passes/fuse.ts";
import { sizeOf } from "../../shape.ts";
import { FunctionBuilder, type Local } from "./assembler.ts";
import { loadOne, loadVec, splatLoad, storeOne, storeVec, type Vec, VectorEmitter } from "./vector.ts";

/** A word of the argument block: a number, or the address of an element of a buffer. */
export type Word = number | { readonly slot: Slot; readonly byteOffset: number } | "workspace";

/** Reductions of long rows in pieces: what is left is to join the pieces' results, 8 bytes each, in the workspace. */
export interface Pieces {
  readonly perRow: number;
  /** For each reduction: how to join, and which store the result of row `i` goes to. */
  readonly results: readonly { readonly join: Join; readonly type: ExprType; readonly store: Store }[];
}

export interface Nest {
  readonly body: FunctionBuilder;
  readonly words: readonly Word[];
  readonly units: number;
  readonly grain: number;
  /** Element operations in all, to decide whether threads pay. */
  readonly work: number;
  readonly pieces: Pieces | null;
}

export interface NestOptions {
  readonly relaxed: boolean;
  readonly scratchBytes: number;
  importCall(scalar: ScalarFunction, arity: number): number;
}

/** Sums of float32 are kept in float32 over this many elements, then added to a float64. */
const BLOCK = 4096;
/** The same for the rows of a sum over columns. */
const ROW_BLOCK = 256;
/** Elements of a piece of a long row: as many in every call, so that results do not depend on threads. */
const PIECE = 32768;
/** Columns of a unit: at most, and at least where there are enough. */
const [WIDEST, NARROWEST] = [1024, 16];

const dtypeOf: Readonly<Record<ExprType, DType>> = {
  f32: "float32",
  f64: "float64",
  i32: "int32",
  u32: "uint32",
  bool: "bool",
};

/** A dimension of the nest, with the stride of every access in elements. */
interface Dim {
  readonly size: number;
  readonly strides: readonly number[];
}

type Access = Load | Store;

interface Shapes {
  readonly kind: "map" | "rows" | "columns";
  readonly outer: readonly Dim[];
  readonly middle: readonly Dim[];
  readonly inner: Dim;
}

/** Joins neighbouring axes that every access walks through as one. */
function collapsed(
  axes: readonly number[],
  sizes: readonly number[],
  stride: (access: number, axis: number) => number,
  accesses: number,
): Dim[] {
  const dims: Dim[] = [];
  for (const axis of axes) {
    const size = sizes[axis]!;
    const strides = Array.from({ length: accesses }, (_, i) => stride(i, axis));
    const last = dims.at(-1);
    if (last?.strides.every((s, i) => s === strides[i]! * size)) {
      dims[dims.length - 1] = { size: last.size * size, strides };
    } else dims.push({ size, strides });
  }
  return dims;
}

function shapesOf({ shape, reduced, reductions }: LoopStep, accesses: readonly Access[]): Shapes {
  const keptIndex = new Map(
    shape
      .map((_, a) => a)
      .filter((a) => !reduced.includes(a))
      .map((a, i) => [a, i]),
  );
  const stride = (i: number, axis: number): number => {
    const { level, layout } = accesses[i]!;
    if (level === "full") return layout.strides[axis]!;
    const at = keptIndex.get(axis);
    return at === undefined ? 0 : layout.strides[at]!;
  };
  const used = shape.map((_, a) => a).filter((a) => shape[a] !== 1);
  const kept = used.filter((a) => !reduced.includes(a));
  const gone = used.filter((a) => reduced.includes(a));
  const dims = (axes: readonly number[]): Dim[] => collapsed(axes, shape, stride, accesses.length);
  const one: Dim = { size: 1, strides: accesses.map(() => 1) };
  if (reductions.length === 0 && reduced.length === 0) {
    const all = dims(kept);
    return { kind: "map", outer: all.slice(0, -1), middle: [], inner: all.at(-1) ?? one };
  }
  const last = gone.at(-1) ?? Number.POSITIVE_INFINITY;
  const tail = kept.filter((a) => a > last);
  if (tail.length === 0) {
    const all = dims(gone);
    return { kind: "rows", outer: dims(kept), middle: all.slice(0, -1), inner: all.at(-1) ?? one };
  }
  const columns = dims(tail);
  const outer = [...dims(kept.filter((a) => a < last)), ...columns.slice(0, -1)];
  return { kind: "columns", outer, middle: dims(gone), inner: columns.at(-1)! };
}

const total = (dims: readonly Dim[]): number => dims.reduce((n, { size }) => n * size, 1);

/** Number of operations of an expression, stopping at what is known. */
function operations(roots: readonly Expr[], known: (e: Expr) => boolean): number {
  const seen = new Set<Expr>();
  let count = 0;
  const visit = (e: Expr): void => {
    if (seen.has(e) || known(e)) return;
    seen.add(e);
    if (e.op !== "input" && e.op !== "const")
      count += e.op === "call" ? 40 : e.op === "div" || e.op === "sqrt" ? 4 : 1;
    e.args.forEach(visit);
  };
  roots.forEach(visit);
  return count;
}

/** Every node that the roots need, without what is below known ones; known ones are included. */
function reachable(roots: readonly Expr[], known: (e: Expr) => boolean): Set<Expr> {
  const seen = new Set<Expr>();
  const visit = (e: Expr): void => {
    if (seen.has(e)) return;
    seen.add(e);
    if (!known(e)) e.args.forEach(visit);
  };
  roots.forEach(visit);
  return seen;
}

/** Writes the function of a step. */
export function nestOf(step: LoopStep, options: NestOptions): Nest {
  return new NestWriter(step, options).write();
}

/** Where an access is now: the address of the element at innermost index 0. */
type Pointers = ReadonlyMap<Access, Local>;

interface Accumulator {
  readonly join: Join;
  /** Of what is joined. */
  readonly result: ExprType;
  /** Of the parts. */
  readonly type: ExprType;
  /** One vector per copy of the unrolled body. */
  readonly parts: readonly Vec[];
  /** Sum in float64 of what float32 parts held before. */
  readonly wide: Vec | null;
  readonly placeholder: Expr;
}

class NestWriter {
  readonly #step: LoopStep;
  readonly #options: NestOptions;
  readonly #f = new FunctionBuilder(["i32", "i32", "i32", "i32"]);
  readonly #v: VectorEmitter;
  readonly #words: Word[] = [];
  readonly #accesses: readonly Access[];
  readonly #shapes: Shapes;
  readonly #phases = new Map<Expr, number>();
  /** Values kept in scratch from one phase for a later one: where, as an offset from `scratch`. */
  readonly #spills = new Map<Expr, number>();
  /** Lane 0 only, as masks of 32-bit and 64-bit lanes. */
  #firstLane: Vec = [];
  #placeholders = 1000;

  constructor(step: LoopStep, options: NestOptions) {
    this.#step = step;
    this.#options = options;
    this.#accesses = [...step.loads, ...step.stores];
    this.#shapes = shapesOf(step, this.#accesses);
    this.#v = new VectorEmitter(this.#f, options);
  }

  write(): Nest {
    const { kind, outer, middle, inner } = this.#shapes;
    const { stores, reductions } = this.#step;
    const roots = [...stores.map((s) => s.expr), ...reductions.map((r) => r.arg)];
    const work =
      sizeOf(this.#step.shape) * (1 + operations(roots, () => false) / 4 + this.#accesses.length / 2);
    this.#v.prologue(roots);
    this.#firstLane = [4, 8].map((bytes) => {
      const mask = this.#f.local("v128");
      this.#f.v128(new Uint8Array(16).fill(255, 0, bytes)).set(mask);
      return mask;
    });
    const nest = (units: number, grain = 1, pieces: Pieces | null = null): Nest => ({
      body: this.#f,
      words: this.#words,
      units,
      grain,
      work,
      pieces,
    });
    if (kind === "map") {
      this.#map();
      return outer.length === 0 ? nest(inner.size, 64) : nest(total(outer));
    }
    if (kind === "columns") return nest(this.#columns());
    const pieces = this.#piecesOf(total(outer), total(middle), inner.size);
    this.#rows(pieces?.perRow ?? 0);
    return nest(total(outer) * (pieces?.perRow ?? 1), 1, pieces);
  }

  // --- argument block and addresses ------------------------------------------------------------------------------

  /** Pushes a word of the argument block. */
  #push(word: Word): void {
    const known =
      typeof word === "number" ? this.#words.length : this.#words.findIndex((w) => sameWord(w, word));
    const at = known < 0 ? this.#words.length : known;
    if (at === this.#words.length) this.#words.push(word);
    this.#f.get(2).memory("i32.load", 4 * at);
  }

  /** A local that holds a word: for use inside loops. */
  #hoisted(word: Word): Local {
    const v = this.#f.local("i32");
    this.#push(word);
    this.#f.set(v);
    return v;
  }

  /** The address of the first element of every access. */
  #bases(): Pointers {
    return new Map(
      this.#accesses.map((access) => {
        const byteOffset = access.layout.offset * bytesPerElement(access.slot.aval.dtype);
        return [access, this.#hoisted({ slot: access.slot, byteOffset })];
      }),
    );
  }

  /** Addresses moved to position `flat` of some dimensions, in new locals where they move at all. */
  #moved(from: Pointers, flat: Local, dims: readonly Dim[]): Pointers {
    const f = this.#f;
    const moving = this.#accesses.filter((_, i) => dims.some(({ strides }) => strides[i] !== 0));
    const to = new Map(from);
    for (const access of moving) {
      const pointer = f.local("i32");
      f.get(from.get(access)!).set(pointer);
      to.set(access, pointer);
    }
    const rest = f.local("i32");
    const index = f.local("i32");
    f.get(flat).set(rest);
    for (let d = dims.length - 1; d >= 0; d--) {
      const { size, strides } = dims[d]!;
      if (d === 0) f.get(rest).set(index);
      else {
        const n = this.#hoisted(size);
        f.get(rest).get(n).op("i32.rem_u").set(index).get(rest).get(n).op("i32.div_u").set(rest);
      }
      this.#accesses.forEach((access, i) => {
        if (strides[i] === 0) return;
        const pointer = to.get(access)!;
        f.get(pointer).get(index);
        this.#push(strides[i]! * bytesPerElement(access.slot.aval.dtype));
        f.op("i32.mul").op("i32.add").set(pointer);
      });
    }
    return to;
  }

  /** How the innermost loop meets an access: the same element, neighbours, or elements at a stride. */
  #pattern(access: Access): "same" | "next" | "strided" {
    const { size, strides } = this.#shapes.inner;
    const stride = strides[this.#accesses.indexOf(access)]!;
    if (access.level === "row" && this.#shapes.kind === "rows") return "same";
    return stride === 1 || size === 1 ? "next" : stride === 0 ? "same" : "strided";
  }

  /** Strides in bytes of the accesses that are strided innermost. */
  #innerStrides(): ReadonlyMap<Access, Local> {
    const { strides } = this.#shapes.inner;
    return new Map(
      this.#accesses
        .filter((access) => this.#pattern(access) === "strided")
        .map((access) => [
          access,
          this.#hoisted(strides[this.#accesses.indexOf(access)]! * bytesPerElement(access.slot.aval.dtype)),
        ]),
    );
  }

  // --- the innermost loop ----------------------------------------------------------------------------------------

  /** Four elements at a time from `lo` to `hi`, `unroll` times in a row, then one at a time. `i` is the index. */
  #elements(
    lo: () => void,
    hi: () => void,
    unroll: number,
    body: (i: Local, isSingle: boolean, copy: number) => void,
  ): void {
    const f = this.#f;
    const i = f.local("i32");
    const end = f.local("i32");
    lo();
    f.set(i);
    hi();
    f.set(end);
    const pass = (width: number, each: () => void): void => {
      f.block((exit) => {
        f.loop((again) => {
          f.get(i).i32(width).op("i32.add").get(end).op("i32.gt_s").brIf(exit);
          each();
          f.get(i).i32(width).op("i32.add").set(i).br(again);
        });
      });
    };
    if (unroll > 1) {
      pass(4 * unroll, () => {
        for (let copy = 0; copy < unroll; copy++) {
          const at = f.local("i32");
          f.get(i)
            .i32(4 * copy)
            .op("i32.add")
            .set(at);
          body(at, false, copy);
        }
      });
    }
    pass(4, () => body(i, false, 0));
    pass(1, () => body(i, true, 0));
  }

  /** Pushes the address of element `i` of an access. */
  #address(access: Access, i: Local, pointers: Pointers, strides: ReadonlyMap<Access, Local>): void {
    const f = this.#f;
    f.get(pointers.get(access)!).get(i);
    const stride = strides.get(access);
    if (stride !== undefined) f.get(stride).op("i32.mul");
    else f.i32(Math.log2(bytesPerElement(access.slot.aval.dtype))).op("i32.shl");
    f.op("i32.add");
  }

  /** Loads the inputs that a loop body needs and that differ from element to element. */
  #load(
    load: Load,
    i: Local,
    isSingle: boolean,
    pointers: Pointers,
    strides: ReadonlyMap<Access, Local>,
  ): void {
    const { dtype } = load.slot.aval;
    const v = this.#v.newVec(load.expr.type);
    const address = (): void => this.#address(load, i, pointers, strides);
    if (isSingle) loadOne(this.#f, load.expr.type, v, address, dtype);
    else if (this.#pattern(load) === "next") loadVec(this.#f, load.expr.type, v, address, dtype);
    else this.#gather(load, v, address, strides.get(load)!);
    this.#v.bind(load.expr, v);
  }

  /** Four elements at a stride known only when the kernel runs. */
  #gather(load: Load, v: Vec, address: () => void, stride: Local): void {
    const f = this.#f;
    const { dtype } = load.slot.aval;
    const at = f.local("i32");
    address();
    f.set(at);
    const next = (): void => {
      f.get(at).get(stride).op("i32.add").set(at);
    };
    if (dtype === "float64") {
      v.forEach((local, half) => {
        if (half > 0) next();
        f.get(at).simdMemory("v128.load64_zero").set(local);
        next();
        f.get(at).get(local).simdLaneMemory("v128.load64_lane", 1).set(local);
      });
      return;
    }
    const local = v[0]!;
    const isBool = dtype === "bool";
    if (isBool) f.get(at).memory("i32.load8_u").simd("i32x4.splat").set(local);
    else f.get(at).simdMemory("v128.load32_zero").set(local);
    for (let lane = 1; lane < 4; lane++) {
      next();
      if (isBool) f.get(local).get(at).memory("i32.load8_u").lane("i32x4.replace_lane", lane).set(local);
      else f.get(at).get(local).simdLaneMemory("v128.load32_lane", lane).set(local);
    }
    if (isBool) f.get(local).v128(new Uint8Array(16)).simd("i32x4.ne").set(local);
  }

  #store(
    store: Store,
    v: Vec,
    i: Local,
    isSingle: boolean,
    pointers: Pointers,
    strides: ReadonlyMap<Access, Local>,
  ): void {
    const f = this.#f;
    const { dtype } = store.slot.aval;
    const { type } = store.expr;
    const address = (): void => this.#address(store, i, pointers, strides);
    if (isSingle) storeOne(f, type, v, address, dtype);
    else if (this.#pattern(store) === "next") storeVec(f, type, v, address, dtype);
    else {
      const at = f.local("i32");
      address();
      f.set(at);
      const per = dtype === "float64" ? 2 : 4;
      for (let lane = 0; lane < 4; lane++) {
        f.get(at).get(v[Math.floor(lane / per)]!);
        if (dtype === "float64") f.simdLaneMemory("v128.store64_lane", lane % 2);
        else if (dtype === "bool") f.simd("i8x16.neg").simdLaneMemory("v128.store8_lane", 4 * lane);
        else f.simdLaneMemory("v128.store32_lane", lane);
        if (lane < 3) f.get(at).get(strides.get(store)!).op("i32.add").set(at);
      }
    }
  }

  /** Binds the row-major position of four elements, `base + i` on. */
  #position(base: Local | null, i: Local): void {
    const f = this.#f;
    const v = this.#v.newVec("u32");
    f.get(i);
    if (base !== null) f.get(base).op("i32.add");
    f.simd("i32x4.splat")
      .v128(new Uint8Array(Uint32Array.of(0, 1, 2, 3).buffer))
      .simd("i32x4.add")
      .set(v[0]!);
    this.#v.bind(expr.iota, v);
  }

  /** Loads once what stays the same along the innermost loop. */
  #splats(loads: readonly Load[], pointers: Pointers): void {
    for (const load of loads) {
      const v = this.#v.newVec(load.expr.type);
      splatLoad(this.#f, load.expr.type, v, () => this.#f.get(pointers.get(load)!), load.slot.aval.dtype);
      this.#v.bind(load.expr, v);
    }
  }

  // --- map -------------------------------------------------------------------------------------------------------

  #map(): void {
    const f = this.#f;
    const { outer, inner } = this.#shapes;
    const { loads, stores } = this.#step;
    const roots = stores.map((store) => store.expr);
    const hasPosition = reachable(roots, () => false).has(expr.iota);
    const bases = this.#bases();
    const strides = this.#innerStrides();
    const same = loads.filter((load) => this.#pattern(load) === "same");
    const others = loads.filter((load) => this.#pattern(load) !== "same");
    const row = (pointers: Pointers, lo: () => void, hi: () => void, base: Local | null): void => {
      const saved = this.#v.save();
      this.#splats(same, pointers);
      this.#v.prologue(roots);
      this.#elements(lo, hi, 1, (i, isSingle) => {
        this.#v.forget();
        if (hasPosition) this.#position(base, i);
        for (const load of others) this.#load(load, i, isSingle, pointers, strides);
        for (const store of stores)
          this.#store(store, this.#v.emit(store.expr), i, isSingle, pointers, strides);
      });
      this.#v.restore(saved);
    };
    if (outer.length === 0) {
      row(
        bases,
        () => f.get(0),
        () => f.get(1),
        null,
      );
      return;
    }
    const n = this.#hoisted(inner.size);
    const unit = f.local("i32");
    const base = f.local("i32");
    f.for(
      unit,
      () => f.get(0),
      () => f.get(1),
      1,
      () => {
        const pointers = this.#moved(bases, unit, outer);
        if (hasPosition) f.get(unit).get(n).op("i32.mul").set(base);
        row(
          pointers,
          () => f.i32(0),
          () => f.get(n),
          base,
        );
      },
    );
  }

  // --- rows ------------------------------------------------------------------------------------------------------

  /** How a few long rows are reduced in pieces; null where rows are units. */
  #piecesOf(rows: number, middle: number, length: number): Pieces | null {
    const { reductions, stores, values } = this.#step;
    if (middle !== 1 || length < 2 * PIECE || rows > 64) return null;
    const results = reductions.map(({ join, arg, result }) => {
      const store = stores.find((one) => one.expr === result);
      return store && { join, type: arg.type, store };
    });
    const isPlain =
      results.every((result) => result !== undefined) &&
      values.every(
        ({ expr: e, level }) => level === "full" || reductions.some(({ result }) => result === e),
      ) &&
      reductions.every(({ arg }) => this.#phase(arg) === 0) &&
      results.length === stores.filter(({ level }) => level === "row").length;
    return isPlain
      ? { perRow: Math.ceil(length / PIECE), results: results.filter((result) => result !== undefined) }
      : null;
  }

  /** After how many reductions, one after the other, a value is known. */
  #phase(e: Expr): number {
    const known = this.#phases.get(e);
    if (known !== undefined) return known;
    const reduction = this.#step.reductions.find(({ result }) => result === e);
    const phase = reduction
      ? this.#phase(reduction.arg) + 1
      : Math.max(0, ...e.args.map((x) => this.#phase(x)));
    this.#phases.set(e, phase);
    return phase;
  }

  #rows(piecesPerRow: number): void {
    const f = this.#f;
    const { outer, middle, inner } = this.#shapes;
    const { loads, stores, reductions, values } = this.#step;
    const bases = this.#bases();
    const strides = this.#innerStrides();
    const n = this.#hoisted(inner.size);
    const count = this.#hoisted(total(middle));
    const rowValues = values.filter(({ level }) => level === "row").map((value) => value.expr);
    const rowLoads = loads.filter(({ level }) => level === "row");
    const isRowValue = (e: Expr): boolean => rowValues.includes(e);
    const last = Math.max(
      ...reductions.map(({ arg }) => this.#phase(arg)),
      ...stores.filter((s) => s.level === "full").map((s) => this.#phase(s.expr)),
      0,
    );
    const perRow = piecesPerRow > 0 ? this.#hoisted(piecesPerRow) : null;
    const partials = piecesPerRow > 0 ? this.#hoisted("workspace") : null;
    this.#planSpills(last, isRowValue);

    const unit = f.local("i32");
    const rowIndex = f.local("i32");
    const lo = f.local("i32");
    const hi = f.local("i32");
    f.for(
      unit,
      () => f.get(0),
      () => f.get(1),
      1,
      () => {
        if (perRow === null) f.get(unit).set(rowIndex).i32(0).set(lo).get(n).set(hi);
        else {
          f.get(unit).get(perRow).op("i32.div_u").set(rowIndex);
          f.get(unit)
            .get(perRow)
            .op("i32.rem_u")
            .i32(PIECE)
            .op("i32.mul")
            .tee(lo)
            .i32(PIECE)
            .op("i32.add")
            .set(hi);
          f.get(n).get(hi).get(n).get(hi).op("i32.lt_s").op("select").set(hi);
        }
        const start = this.#v.save();
        const row = this.#moved(bases, rowIndex, outer);
        this.#splats(rowLoads, row);
        for (let phase = 0; phase <= last; phase++) {
          for (const e of rowValues) if (this.#phase(e) === phase) this.#v.emit(e);
          this.#v.prologue([]);
          this.#rowPhase(phase, last, isRowValue, { row, middle, count, lo, hi, n, strides, unit, partials });
        }
        if (partials === null) {
          for (const store of stores) {
            if (store.level === "row") {
              const v = this.#v.emit(store.expr);
              storeOne(f, store.expr.type, v, () => f.get(row.get(store)!), store.slot.aval.dtype);
            }
          }
        }
        this.#v.restore(start);
      },
    );
  }

  /** Decides which values of one phase are kept in scratch for a later one, and where. */
  #planSpills(last: number, isRowValue: (e: Expr) => boolean): void {
    const { values } = this.#step;
    const length = total(this.#shapes.middle) * this.#shapes.inner.size;
    let used = 0;
    for (let phase = 1; phase <= last; phase++) {
      const known = (e: Expr): boolean => isRowValue(e) || this.#spills.has(e);
      const needed = reachable(this.#rootsOf(phase), known);
      for (const { expr: e, level } of values) {
        if (level === "row" || !needed.has(e) || known(e) || this.#phase(e) >= phase) continue;
        if (operations([e], known) <= 4) continue;
        const bytes = 16 * Math.ceil((length * bytesPerElement(dtypeOf[e.type])) / 16) + 16;
        if (used + bytes > this.#options.scratchBytes) continue;
        this.#spills.set(e, used);
        used += bytes;
      }
    }
  }

  /** What the loop of a phase computes: arguments of its reductions and values that it stores. */
  #rootsOf(phase: number): Expr[] {
    const { reductions, stores } = this.#step;
    return [
      ...reductions.map(({ arg }) => arg),
      ...stores.filter(({ level }) => level === "full").map((store) => store.expr),
    ].filter((e) => this.#phase(e) === phase);
  }

  #rowPhase(
    phase: number,
    last: number,
    isRowValue: (e: Expr) => boolean,
    at: {
      readonly row: Pointers;
      readonly middle: readonly Dim[];
      readonly count: Local;
      readonly lo: Local;
      readonly hi: Local;
      readonly n: Local;
      readonly strides: ReadonlyMap<Access, Local>;
      readonly unit: Local;
      readonly partials: Local | null;
    },
  ): void {
    const f = this.#f;
    const { loads, stores, reductions } = this.#step;
    const mine = reductions.filter(({ arg }) => this.#phase(arg) === phase);
    const written = stores.filter(({ level, expr: e }) => level === "full" && this.#phase(e) === phase);
    // What later phases need of this one: a value may be needed only there.
    const later = new Set<Expr>();
    for (let p = phase + 1; p <= last; p++) {
      const known = (e: Expr): boolean => isRowValue(e) || (this.#spills.has(e) && this.#phase(e) < p);
      for (const e of reachable(this.#rootsOf(p), known)) later.add(e);
    }
    const spilled = [...this.#spills.keys()].filter((e) => this.#phase(e) === phase && later.has(e));
    const roots = [...mine.map(({ arg }) => arg), ...written.map((store) => store.expr), ...spilled];
    if (roots.length === 0) return;
    const isKnown = (e: Expr): boolean => isRowValue(e) || (this.#spills.has(e) && this.#phase(e) < phase);
    const needed = reachable(roots, isKnown);
    const reloaded = [...this.#spills.keys()].filter((e) => this.#phase(e) < phase && needed.has(e));
    const full = loads.filter((load) => load.level === "full" && needed.has(load.expr));
    const same = full.filter((load) => this.#pattern(load) === "same");
    const others = full.filter((load) => this.#pattern(load) !== "same");
    const isLight = mine.length > 0 && operations(roots, isKnown) <= 6;
    const accumulators = mine.map(({ join, arg }) => this.#accumulator(join, arg.type, isLight ? 4 : 1));
    const hasBlocks = accumulators.some(({ wide }) => wide !== null);

    const m = f.local("i32");
    const base = f.local("i32");
    const body = (): void => {
      const saved = this.#v.save();
      const pointers = at.middle.length > 0 ? this.#moved(at.row, m, at.middle) : at.row;
      if (spilled.length + reloaded.length > 0) f.get(m).get(at.n).op("i32.mul").set(base);
      this.#splats(same, pointers);
      this.#v.prologue(roots.filter((e) => !isKnown(e)));
      const elements = (lo: () => void, hi: () => void): void =>
        this.#elements(lo, hi, isLight ? 4 : 1, (i, isSingle, copy) => {
          this.#v.forget();
          for (const load of others) this.#load(load, i, isSingle, pointers, at.strides);
          for (const e of reloaded) this.#spill(e, base, i, isSingle, "load");
          for (const e of spilled) {
            this.#v.emit(e);
            this.#spill(e, base, i, isSingle, "store");
          }
          for (const store of written)
            this.#store(store, this.#v.emit(store.expr), i, isSingle, pointers, at.strides);
          mine.forEach(({ arg }, r) => {
            this.#accumulate(accumulators[r]!, this.#v.emit(arg), isSingle, copy);
          });
        });
      if (!hasBlocks)
        elements(
          () => f.get(at.lo),
          () => f.get(at.hi),
        );
      else {
        const from = f.local("i32");
        const to = f.local("i32");
        f.for(
          from,
          () => f.get(at.lo),
          () => f.get(at.hi),
          BLOCK,
          () => {
            f.get(from).i32(BLOCK).op("i32.add").set(to);
            f.get(at.hi).get(to).get(at.hi).get(to).op("i32.lt_s").op("select").set(to);
            elements(
              () => f.get(from),
              () => f.get(to),
            );
            for (const accumulator of accumulators) this.#widen(accumulator);
          },
        );
      }
      this.#v.restore(saved);
    };
    if (at.middle.length > 0)
      f.for(
        m,
        () => f.i32(0),
        () => f.get(at.count),
        1,
        body,
      );
    else {
      f.i32(0).set(m);
      body();
    }
    mine.forEach(({ result }, r) => {
      if (at.partials === null) this.#v.bind(result, this.#joined(accumulators[r]!));
      else this.#storePartial(accumulators[r]!, at.unit, at.partials, r, mine.length);
    });
    this.#v.prologue([]);
  }

  /** Writes a value of this phase to scratch, or reads one of an earlier phase. */
  #spill(e: Expr, base: Local, i: Local, isSingle: boolean, way: "load" | "store"): void {
    const f = this.#f;
    const dtype = dtypeOf[e.type];
    const offset = this.#spills.get(e)!;
    const address = (): void => {
      f.get(3)
        .get(base)
        .get(i)
        .op("i32.add")
        .i32(Math.log2(bytesPerElement(dtype)))
        .op("i32.shl")
        .op("i32.add");
      if (offset > 0) {
        this.#push(offset);
        f.op("i32.add");
      }
    };
    if (way === "store") (isSingle ? storeOne : storeVec)(f, e.type, this.#v.emit(e), address, dtype);
    else {
      const v = this.#v.newVec(e.type);
      (isSingle ? loadOne : loadVec)(f, e.type, v, address, dtype);
      this.#v.bind(e, v);
    }
  }

  // --- accumulators ----------------------------------------------------------------------------------------------

  /** Products of float32 are kept in float64 all along; sums in both. */
  #accumulator(join: Join, type: ExprType, unroll: number): Accumulator {
    const kept: ExprType = join === "prod" && type === "f32" ? "f64" : type;
    const parts = Array.from({ length: unroll }, () => this.#v.newVec(kept));
    const wide = join === "sum" && kept === "f32" ? this.#v.newVec("f64") : null;
    for (const v of parts) this.#fill(v, neutral(join, kept), kept);
    if (wide) this.#fill(wide, 0, "f64");
    const placeholder = expr.input(this.#placeholders++, kept);
    return { join, result: type, type: kept, parts, wide, placeholder };
  }

  #fill(v: Vec, value: number, type: ExprType): void {
    const f = this.#f;
    for (const local of v) {
      if (type === "f32") f.f32(value).simd("f32x4.splat");
      else if (type === "f64") f.f64(value).simd("f64x2.splat");
      else f.i32(value).simd("i32x4.splat");
      f.set(local);
    }
  }

  /** Joins a vector to a part; of a single element only lane 0 counts. */
  #accumulate(
    { join, type, parts, placeholder }: Accumulator,
    v: Vec,
    isSingle: boolean,
    copy: number,
  ): void {
    const f = this.#f;
    const part = parts[copy]!;
    const value = this.#typed(v, type);
    let counted = value;
    if (isSingle && (join === "sum" || join === "prod")) {
      counted = this.#v.newVec(type);
      const rest = this.#v.newVec(type);
      this.#fill(rest, neutral(join, type), type);
      counted.forEach((local, half) => {
        if (half === 1) f.get(rest[1]!).set(local);
        else
          f.get(value[0]!)
            .get(rest[0]!)
            .get(this.#firstLane[type === "f64" ? 1 : 0]!)
            .simd("v128.bitselect")
            .set(local);
      });
    }
    this.#v.bind(placeholder, part);
    const other = expr.input(this.#placeholders++, type);
    this.#v.bind(other, counted);
    this.#copyTo(part, this.#v.emit(joinOf(join)(placeholder, other)));
  }

  /** A vector as the accumulator's type: float32 to float64 for products. */
  #typed(v: Vec, type: ExprType): Vec {
    if (type !== "f64" || v.length === 2) return v;
    const source = expr.input(this.#placeholders++, "f32");
    this.#v.bind(source, v);
    return this.#v.emit(expr.convert(source, "f64"));
  }

  #copyTo(to: Vec, from: Vec): void {
    to.forEach((local, half) => {
      this.#f.get(from[half]!).set(local);
    });
  }

  /** Moves float32 sums to the float64 one. */
  #widen({ wide, parts }: Accumulator): void {
    if (wide === null) return;
    const f = this.#f;
    for (const part of parts) {
      f.get(wide[0]!).get(part[0]!).simd("f64x2.promote_low_f32x4").simd("f64x2.add").set(wide[0]!);
      f.get(wide[1]!)
        .get(part[0]!)
        .get(part[0]!)
        .shuffle([8, 9, 10, 11, 12, 13, 14, 15, 8, 9, 10, 11, 12, 13, 14, 15]);
      f.simd("f64x2.promote_low_f32x4").simd("f64x2.add").set(wide[1]!);
      this.#fill(part, 0, "f32");
    }
  }

  /** The one value that all lanes of all parts join to, in every lane, in the type of the parts or of their sum. */
  #allLanes({ join, type, parts, wide }: Accumulator): Vec {
    const f = this.#f;
    const kept: ExprType = wide ? "f64" : type;
    const op = (x: Vec, y: Vec, as: ExprType): Vec => {
      const [a, b] = [expr.input(this.#placeholders++, as), expr.input(this.#placeholders++, as)];
      this.#v.bind(a, x);
      this.#v.bind(b, y);
      return this.#v.emit(joinOf(join)(a, b));
    };
    let v = wide ?? parts.reduce((x, y) => op(x, y, type));
    const swapped = (bytes: readonly number[]): Vec =>
      v.map((local) => {
        const to = f.local("v128");
        f.get(local).get(local).shuffle(bytes).set(to);
        return to;
      });
    const halves = [8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7];
    if (kept === "f64") v = op(v, [v[1]!, v[0]!], kept);
    v = op(v, swapped(halves), kept);
    if (kept !== "f64") v = op(v, swapped([4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11]), kept);
    return v;
  }

  /** The result of a reduction in the type of its argument. */
  #joined(accumulator: Accumulator): Vec {
    const { type, result, wide } = accumulator;
    const kept: ExprType = wide ? "f64" : type;
    const v = this.#allLanes(accumulator);
    if (kept === result) return v;
    const source = expr.input(this.#placeholders++, "f64");
    this.#v.bind(source, v);
    return this.#v.emit(expr.convert(source, result));
  }

  #storePartial(accumulator: Accumulator, unit: Local, partials: Local, r: number, count: number): void {
    const f = this.#f;
    const v = this.#allLanes(accumulator);
    const isWide = accumulator.wide !== null || accumulator.type === "f64";
    const kept: DType = isWide ? "float64" : dtypeOf[accumulator.type];
    storeOne(
      f,
      exprTypeOf(kept),
      v,
      () => {
        f.get(partials)
          .get(unit)
          .i32(count)
          .op("i32.mul")
          .i32(r)
          .op("i32.add")
          .i32(3)
          .op("i32.shl")
          .op("i32.add");
      },
      kept,
    );
  }

  // --- columns ---------------------------------------------------------------------------------------------------

  /** Writes the loops of a reduction that keeps the innermost dimension; returns the number of units. */
  #columns(): number {
    const f = this.#f;
    const { outer, middle, inner } = this.#shapes;
    const { loads, stores, reductions } = this.#step;
    const bases = this.#bases();
    const strides = this.#innerStrides();
    const n = this.#hoisted(inner.size);
    const count = this.#hoisted(total(middle));
    const width = blockWidth(inner.size, total(outer));
    const blocks = Math.max(1, Math.ceil(inner.size / width));
    const [widthWord, blocksWord] = [this.#hoisted(width), this.#hoisted(blocks)];
    const same = loads.filter((load) => this.#pattern(load) === "same");
    const others = loads.filter((load) => this.#pattern(load) !== "same");
    const written = stores.filter(({ level }) => level === "full");
    const roots = [...written.map((store) => store.expr), ...reductions.map(({ arg }) => arg)];

    // One accumulator per column in scratch: `near` in the type of the values, `far` in float64 for sums of float32.
    let used = 0;
    const region = (bytes: number): number => {
      used += bytes;
      return used - bytes;
    };
    const columns = reductions.map(({ join, arg, result }) => {
      const type: ExprType = join === "prod" && arg.type === "f32" ? "f64" : arg.type;
      const near = region(WIDEST * bytesPerElement(dtypeOf[type]));
      const far = join === "sum" && type === "f32" ? region(8 * WIDEST) : null;
      const targets = stores.filter((one) => one.level === "row" && one.expr === result);
      return { join, arg, type, near, far, targets };
    });

    const [unit, outerIndex, from, to, m, since] = Array.from({ length: 6 }, () => f.local("i32")) as [
      Local,
      Local,
      Local,
      Local,
      Local,
      Local,
    ];
    /** Pushes the address of the accumulator of column `from + i`. */
    const cell = (offset: number, i: Local, bytes: number): void => {
      f.get(3).get(i).get(from).op("i32.sub").i32(Math.log2(bytes)).op("i32.shl").op("i32.add");
      if (offset > 0) f.i32(offset).op("i32.add");
    };
    const each = (body: (i: Local, isSingle: boolean) => void): void =>
      this.#elements(
        () => f.get(from),
        () => f.get(to),
        1,
        (i, isSingle) => {
          this.#v.forget();
          body(i, isSingle);
        },
      );
    const stored = (v: Vec, type: ExprType, address: () => void, isSingle: boolean): void =>
      (isSingle ? storeOne : storeVec)(f, type, v, address, dtypeOf[type]);
    const loaded = (type: ExprType, address: () => void, isSingle: boolean): Expr => {
      const v = this.#v.newVec(type);
      (isSingle ? loadOne : loadVec)(f, type, v, address, dtypeOf[type]);
      const e = expr.input(this.#placeholders++, type);
      this.#v.bind(e, v);
      return e;
    };
    const filled = (value: number, type: ExprType): Vec => {
      const v = this.#v.newVec(type);
      this.#fill(v, value, type);
      return v;
    };
    /** Adds the near sums to the far ones and starts them again. */
    const flush = (): void => {
      const sums = columns.filter(({ far }) => far !== null);
      if (sums.length === 0) return;
      each((i, isSingle) => {
        for (const { near, far } of sums) {
          const sum = loaded("f32", () => cell(near, i, 4), isSingle);
          const total = loaded("f64", () => cell(far!, i, 8), isSingle);
          const next = this.#v.emit(expr.add(total, expr.convert(sum, "f64")));
          stored(next, "f64", () => cell(far!, i, 8), isSingle);
          stored(filled(0, "f32"), "f32", () => cell(near, i, 4), isSingle);
        }
      });
    };

    f.for(
      unit,
      () => f.get(0),
      () => f.get(1),
      1,
      () => {
        f.get(unit).get(blocksWord).op("i32.div_u").set(outerIndex);
        f.get(unit)
          .get(blocksWord)
          .op("i32.rem_u")
          .get(widthWord)
          .op("i32.mul")
          .tee(from)
          .get(widthWord)
          .op("i32.add")
          .set(to);
        f.get(n).get(to).get(n).get(to).op("i32.lt_s").op("select").set(to);
        const start = this.#v.save();
        const row = this.#moved(bases, outerIndex, outer);
        each((i, isSingle) => {
          for (const { join, type, near, far } of columns) {
            stored(
              filled(neutral(join, type), type),
              type,
              () => cell(near, i, bytesPerElement(dtypeOf[type])),
              isSingle,
            );
            if (far !== null) stored(filled(0, "f64"), "f64", () => cell(far, i, 8), isSingle);
          }
        });
        f.i32(0).set(since);
        f.for(
          m,
          () => f.i32(0),
          () => f.get(count),
          1,
          () => {
            const saved = this.#v.save();
            const pointers = this.#moved(row, m, middle);
            this.#splats(same, pointers);
            this.#v.prologue(roots);
            each((i, isSingle) => {
              for (const load of others) this.#load(load, i, isSingle, pointers, strides);
              for (const store of written)
                this.#store(store, this.#v.emit(store.expr), i, isSingle, pointers, strides);
              for (const { join, arg, type, near } of columns) {
                const address = (): void => cell(near, i, bytesPerElement(dtypeOf[type]));
                const value = this.#typed(this.#v.emit(arg), type);
                const e = expr.input(this.#placeholders++, type);
                this.#v.bind(e, value);
                stored(
                  this.#v.emit(joinOf(join)(loaded(type, address, isSingle), e)),
                  type,
                  address,
                  isSingle,
                );
              }
            });
            this.#v.restore(saved);
            f.get(since)
              .i32(1)
              .op("i32.add")
              .tee(since)
              .i32(ROW_BLOCK)
              .op("i32.ge_s")
              .when(() => {
                flush();
                f.i32(0).set(since);
              });
          },
        );
        flush();
        each((i, isSingle) => {
          for (const { type, near, far, targets, arg } of columns) {
            const kept: ExprType = far === null ? type : "f64";
            const e = loaded(kept, () => cell(far ?? near, i, bytesPerElement(dtypeOf[kept])), isSingle);
            const v = this.#v.emit(expr.convert(e, arg.type));
            for (const store of targets) this.#store(store, v, i, isSingle, row, strides);
          }
        });
        this.#v.restore(start);
      },
    );
    return total(outer) * blocks;
  }
}

const exprTypeOf = (dtype: DType): ExprType =>
  dtype === "float64" ? "f64" : dtype === "float32" ? "f32" : dtype === "uint32" ? "u32" : "i32";

/** What changes nothing when it is joined. */
function neutral(join: Join, type: ExprType): number {
  if (join === "sum") return 0;
  if (join === "prod") return 1;
  const isFloat = type === "f32" || type === "f64";
  if (join === "max") return isFloat ? -Infinity : type === "i32" ? -2147483648 : 0;
  return isFloat ? Infinity : type === "i32" ? 2147483647 : -1;
}

function joinOf(join: Join): (x: Expr, y: Expr) => Expr {
  return { sum: expr.add, prod: expr.mul, max: expr.max, min: expr.min }[join];
}

/** Columns of a unit: enough units for threads where there are columns, whole cache lines. */
function blockWidth(columns: number, outer: number): number {
  if (outer >= 16) return Math.min(columns, WIDEST);
  const wanted = Math.ceil(columns / 16);
  return Math.min(WIDEST, Math.max(NARROWEST, NARROWEST * Math.ceil(wanted / NARROWEST)));
}

function sameWord(x: Word, y: Word): boolean {
  if (typeof x !== "object" || typeof y !== "object") return x === y;
  return x.slot === y.slot && x.byteOffset === y.byteOffset;
}
