/**
 * The innermost loop of a nest: four elements at a time, then one at a time. How they are loaded and stored depends on
 * how far apart they are in each buffer.
 */
import { bytesPerElement, type DType } from "../../dtype.ts";
import { type Expr, type ExprType, exprType, iota } from "../../expr.ts";
import type { Load, Store } from "../../passes/fuse.ts";
import { range } from "../../shape.ts";
import type { FunctionBuilder, Local } from "./assembler.ts";
import { type Accesses, type Pointers, SCRATCH, scaled } from "./nest_access.ts";
import { type Term, type Terms, termsOf } from "./terms.ts";
import { loadOne, loadVec, splatLoad, storeOne, storeVec, type Vec, type VectorEmitter } from "./vector.ts";

/** Elements of a vector. */
export const WIDTH = 4;

/** Where the innermost loop is: at four neighbouring elements, or at one where no four are left. */
export interface Place {
  /** The first element is so many after an index. */
  readonly index: Local;
  readonly shift: number;
  readonly isSingle: boolean;
  /** Which copy of the body this is. */
  readonly copy: number;
}

/** A value for each element that a part of the nest is about, in the memory of the thread. */
export interface ScratchArray {
  readonly type: ExprType;
  load(place: Place): Vec;
  store(v: Vec, place: Place): void;
}

/** How elements of an expression's type are stored. */
export const dtypeOf: Readonly<Record<ExprType, DType>> = {
  f32: "float32",
  f64: "float64",
  i32: "int32",
  u32: "uint32",
  bool: "bool",
};

/** Writes innermost loops, and the loads and stores within them. */
export class Elements {
  readonly #f: FunctionBuilder;
  readonly #terms: Terms;
  readonly #emitter: VectorEmitter;
  readonly #accesses: Accesses;

  constructor(f: FunctionBuilder, emitter: VectorEmitter, accesses: Accesses) {
    this.#f = f;
    this.#terms = termsOf(f);
    this.#emitter = emitter;
    this.#accesses = accesses;
  }

  /** Four elements at a time, at so many places together while there are enough, then one at a time. */
  each(from: Term, to: Term, copies: number, body: (places: readonly Place[]) => void): void {
    const { set, locals } = this.#terms;
    const { index, end } = locals("index", "end");
    set(index, from);
    set(end, to);
    const pass = (places: readonly Place[], width: number): void =>
      this.#pass(index, end, width, () => {
        // What was computed of other elements is of no use.
        this.#emitter.forget(places.length);
        body(places);
      });
    if (copies > 1) {
      const places = Array.from({ length: copies }, (_, copy) => ({
        index,
        shift: WIDTH * copy,
        copy,
        isSingle: false,
      }));
      pass(places, WIDTH * copies);
    }
    pass([{ index, shift: 0, copy: 0, isSingle: false }], WIDTH);
    pass([{ index, shift: 0, copy: 0, isSingle: true }], 1);
  }

  /** Runs `body` as long as `width` elements are left. */
  #pass(index: Local, end: Local, width: number, body: () => void): void {
    const { push, plus, constant, advance } = this.#terms;
    this.#f.block((exit) => {
      this.#f.loop((again) => {
        push(plus(index, constant(width)))
          .get(end)
          .op("i32.gt_s")
          .brIf(exit);
        body();
        advance(index, constant(width));
        this.#f.br(again);
      });
    });
  }

  /**
   * What `loop` writes, with whatever does not change along it before it: loads of one element, and what `roots` need
   * that depends on nothing else.
   */
  around(loads: readonly Load[], roots: readonly Expr[], pointers: Pointers, loop: () => void): void {
    const saved = this.#emitter.save();
    this.loadOnce(
      loads.filter((load) => this.#accesses.pattern(load) === "same"),
      pointers,
    );
    this.#emitter.prologue(roots);
    loop();
    this.#emitter.restore(saved);
  }

  /** Loads the one element that each pointer is at. */
  loadOnce(loads: readonly Load[], pointers: Pointers): void {
    for (const load of loads) {
      const v = this.#emitter.newVec(load.expr.type);
      splatLoad(this.#f, load.expr.type, v, this.#pushing(pointers.get(load)!), load.slot.aval.dtype);
      this.#emitter.bind(load.expr, v);
    }
  }

  /** Computes the one element that each pointer is at, and stores it. */
  storeOnce(stores: readonly Store[], pointers: Pointers): void {
    for (const store of stores) {
      const v = this.#emitter.emit(store.expr);
      storeOne(this.#f, store.expr.type, v, this.#pushing(pointers.get(store)!), store.slot.aval.dtype);
    }
  }

  /** Loads the places' elements, of what differs from element to element. */
  load(loads: readonly Load[], places: readonly Place[], pointers: Pointers): void {
    for (const load of loads) {
      const pattern = this.#accesses.pattern(load);
      if (pattern === "same") continue;
      const { dtype } = load.slot.aval;
      for (const place of places) {
        const v = this.#emitter.newVec(load.expr.type);
        if (pattern === "next" || place.isSingle) {
          this.#read(v, dtype, this.#accesses.address(load, place.index, pointers), place);
        } else {
          const address = this.#accesses.address(load, this.#first(place), pointers);
          this.#gather(v, dtype, address, this.#accesses.stride(load));
        }
        this.#emitter.at(place.copy);
        this.#emitter.bind(load.expr, v);
      }
    }
  }

  /** Computes the places' elements and stores them; no store meets one element twice. */
  store(stores: readonly Store[], places: readonly Place[], pointers: Pointers): void {
    for (const store of stores) {
      const { dtype } = store.slot.aval;
      for (const [i, v] of this.#valuesAt(places, store.expr).entries()) {
        const place = places[i]!;
        if (this.#accesses.pattern(store) === "next" || place.isSingle) {
          this.#write(v, dtype, this.#accesses.address(store, place.index, pointers), place);
        } else {
          const address = this.#accesses.address(store, this.#first(place), pointers);
          this.#scatter(v, dtype, address, this.#accesses.stride(store));
        }
      }
    }
  }

  #valuesAt(places: readonly Place[], e: Expr): readonly Vec[] {
    if (places.length > 1) return this.#emitter.emitTogether(e);
    this.#emitter.at(places[0]!.copy);
    return [this.#emitter.emit(e)];
  }

  /** Loads four by four elements, of which neighbours in memory are of different copies of the body: 32 bits each. */
  loadTurned(load: Load, index: Local, pointers: Pointers): void {
    const f = this.#f;
    const { at } = this.#terms.locals("at");
    this.#terms.set(at, this.#accesses.address(load, index, pointers));
    const turned = range(WIDTH).map(() => f.local("v128"));
    // Lane by lane: engines make more of shuffles.
    for (const lane of range(WIDTH)) {
      if (lane > 0) this.#terms.advance(at, this.#accesses.stride(load));
      turned.forEach((v, copy) => {
        if (lane === 0)
          f.get(at)
            .simdMemory("v128.load32_zero", 4 * copy)
            .set(v);
        else
          f.get(at)
            .get(v)
            .simdLaneMemory("v128.load32_lane", lane, 4 * copy)
            .set(v);
      });
    }
    turned.forEach((v, copy) => {
      this.#emitter.at(copy);
      this.#emitter.bind(load.expr, [v]);
    });
  }

  /** The index of a place's first element. */
  #first({ index, shift }: Place): Term {
    return shift === 0 ? index : this.#terms.plus(index, this.#terms.constant(shift));
  }

  /** Binds the row-major positions of the places' elements; index 0 is at `first`, null = 0. */
  bindPositions(first: Local | null, places: readonly Place[]): void {
    for (const { index, shift, copy } of places) {
      const v = this.#emitter.newVec("u32");
      const lanes = Uint32Array.of(0, 1, 2, 3).map((lane) => shift + lane);
      this.#terms
        .push(first === null ? index : this.#terms.plus(index, first))
        .simd("i32x4.splat")
        .v128(new Uint8Array(lanes.buffer))
        .simd("i32x4.add")
        .set(v[0]!);
      this.#emitter.at(copy);
      this.#emitter.bind(iota, v);
    }
  }

  /** An array in the memory of the thread, `start` bytes after its beginning; null = 0. */
  scratch(type: ExprType, start: Term | null, indexOf: (place: Place) => Term): ScratchArray {
    const dtype = dtypeOf[type];
    const address = (place: Place): Term => {
      const { plus } = this.#terms;
      const element = plus(SCRATCH, scaled(this.#terms, indexOf(place), dtype));
      return start === null ? element : plus(element, start);
    };
    return {
      type,
      load: (place) => {
        const v = this.#emitter.newVec(type);
        this.#read(v, dtype, address(place), place);
        return v;
      },
      store: (v, place) => this.#write(v, dtype, address(place), place),
    };
  }

  /** Reads a place's elements where they are neighbours; of a single one every lane has the value. */
  #read(to: Vec, dtype: DType, address: Term, { isSingle, shift }: Place): void {
    const offset = shift * bytesPerElement(dtype);
    if (isSingle) loadOne(this.#f, exprType(dtype), to, this.#pushing(address), dtype);
    else loadVec(this.#f, exprType(dtype), to, this.#pushing(address), dtype, offset);
  }

  /** Writes a place's elements where they are neighbours. */
  #write(from: Vec, dtype: DType, address: Term, { isSingle, shift }: Place): void {
    const offset = shift * bytesPerElement(dtype);
    if (isSingle) storeOne(this.#f, exprType(dtype), from, this.#pushing(address), dtype);
    else storeVec(this.#f, exprType(dtype), from, this.#pushing(address), dtype, offset);
  }

  /** Loads four elements at a stride in bytes. */
  #gather(to: Vec, dtype: DType, address: Term, stride: Local): void {
    const { at } = this.#terms.locals("at");
    this.#terms.set(at, address);
    for (let lane = 0; lane < 4; lane++) {
      if (lane > 0) this.#terms.advance(at, stride);
      this.#loadLane(to, dtype, lane, at);
    }
    if (dtype === "bool") this.#f.get(to[0]!).v128(new Uint8Array(16)).simd("i32x4.ne").set(to[0]!);
  }

  /** Loads one of four elements; the first of a vector replaces all that was there. */
  #loadLane(to: Vec, dtype: DType, lane: number, at: Local): void {
    const f = this.#f;
    const local = to[dtype === "float64" ? lane >> 1 : 0]!;
    if (dtype === "float64") {
      if (lane % 2 === 0) f.get(at).simdMemory("v128.load64_zero");
      else f.get(at).get(local).simdLaneMemory("v128.load64_lane", 1);
    } else if (dtype === "bool") {
      if (lane === 0) f.get(at).memory("i32.load8_u").simd("i32x4.splat");
      else f.get(local).get(at).memory("i32.load8_u").lane("i32x4.replace_lane", lane);
    } else if (dtype === "float16") {
      if (lane === 0) f.get(at).memory("i32.load16_s").simd("i32x4.splat");
      else f.get(local).get(at).memory("i32.load16_s").lane("i32x4.replace_lane", lane);
    } else if (lane === 0) f.get(at).simdMemory("v128.load32_zero");
    else f.get(at).get(local).simdLaneMemory("v128.load32_lane", lane);
    f.set(local);
  }

  /** Stores four elements at a stride in bytes. */
  #scatter(from: Vec, dtype: DType, address: Term, stride: Local): void {
    const f = this.#f;
    const { at } = this.#terms.locals("at");
    this.#terms.set(at, address);
    for (let lane = 0; lane < 4; lane++) {
      if (lane > 0) this.#terms.advance(at, stride);
      f.get(at).get(from[dtype === "float64" ? lane >> 1 : 0]!);
      if (dtype === "float64") f.simdLaneMemory("v128.store64_lane", lane % 2);
      else if (dtype === "bool") f.simd("i8x16.neg").simdLaneMemory("v128.store8_lane", 4 * lane);
      else if (dtype === "float16") f.simdLaneMemory("v128.store16_lane", 2 * lane);
      else f.simdLaneMemory("v128.store32_lane", lane);
    }
  }

  #pushing(x: Term): () => void {
    return () => void this.#terms.push(x);
  }
}
