/**
 * Gather and scatterAdd as WebAssembly. Gather copies rows. A scatter sums each element of the result in the order of
 * the updates, in float64 for float32, however its rows are shared out: a thread either reads all indices and adds the
 * updates that are for its own rows, or follows a list of the updates of each row.
 */
import { type DType, isFloat } from "../../dtype.ts";
import { invariant } from "../../errors.ts";
import { sizeOf } from "../../shape.ts";
import type { FunctionBuilder, Local } from "./assembler.ts";
import { type Engine, SCRATCH_BYTES } from "./engine.ts";
import { BEGIN, type Code, END, elements, integers, launcher, type Operand, SCRATCH } from "./handwritten.ts";
import type { NamedCall, NamedKernel } from "./named.ts";

/** Bytes moved, or elements added, from which on other threads are worth their wake-up. */
const PARALLEL_BYTES = 2 ** 18;
const PARALLEL_ELEMENTS = 2 ** 16;

/** The parameters of both records: the axis that the indices run over, and how many axes before it are shared. */
interface IndexingParams {
  readonly axis: number;
  readonly batchDims: number;
}

/** The loops of a gather: shared rows, slices before the axis, the axis, indices, elements after it. */
interface Loops {
  readonly batch: number;
  readonly before: number;
  readonly n: number;
  readonly count: number;
  readonly after: number;
}

function loopsOf(shape: readonly number[], indices: readonly number[], params: IndexingParams): Loops {
  const { axis, batchDims } = params;
  return {
    batch: sizeOf(shape.slice(0, batchDims)),
    before: sizeOf(shape.slice(batchDims, axis)),
    n: shape[axis]!,
    count: sizeOf(indices.slice(batchDims)),
    after: sizeOf(shape.slice(axis + 1)),
  };
}

/** Where kernels note that an index was outside: a word of the heap. */
class Outside {
  readonly address: number;
  readonly #engine: Engine;
  readonly #op: string;
  readonly #axis: number;
  readonly #loops: Loops;

  constructor(engine: Engine, op: string, axis: number, loops: Loops) {
    this.#engine = engine;
    this.#op = op;
    this.#axis = axis;
    this.#loops = loops;
    this.address = engine.heap.allocate(4);
    invariant(this.address !== 0, "the heap has room for a word");
    engine.heap.i32[this.address / 4] = 0;
  }

  /** @throws {RangeError} if a kernel found an index outside, with the first one */
  check(indices: number): void {
    const { i32 } = this.#engine.heap;
    if (i32[this.address / 4] === 0) return;
    i32[this.address / 4] = 0;
    this.checkAll(indices);
  }

  /** The same without a kernel. */
  checkAll(indices: number): void {
    const { batch, before, count, n } = this.#loops;
    if (before === 0) return;
    const { i32 } = this.#engine.heap;
    for (let k = 0; k < batch * count; k++) {
      const index = i32[indices / 4 + k]!;
      if (index >= 0 && index < n) continue;
      throw new RangeError(
        `Cannot ${this.#op} at index ${index} of axis ${this.#axis}: its size is ${n}, indices in [0, ${n}) are needed`,
      );
    }
  }
}

/** Notes in the word at `outside` that an index was. */
function note(f: FunctionBuilder, outside: Local): void {
  f.get(outside).i32(1).memory("i32.store");
}

// --- gather ------------------------------------------------------------------------------------------------------

type RowKind = 1 | 4 | 8 | "bytes" | "words" | "vectors";

/** How rows of so many bytes are copied; 1, 4 and 8 are the bytes of the whole row. */
function rowKind(bytes: number): RowKind {
  if (bytes === 1 || bytes === 4 || bytes === 8) return bytes;
  if (bytes >= 16) return "vectors";
  return bytes % 4 === 0 ? "words" : "bytes";
}

/** Copies a row of `bytes` bytes. */
function copyRow(f: FunctionBuilder, kind: RowKind, to: Local, source: Operand, bytes: Local): void {
  const { num, add, sub, less, loop, push, set, advance, when, locals } = integers(f);
  const words = (word: 1 | 4 | 8): void => {
    if (word === 1) f.memory("i32.load8_u").memory("i32.store8");
    else if (word === 4) f.memory("i32.load").memory("i32.store");
    else f.memory("i64.load").memory("i64.store");
  };
  if (kind === 1 || kind === 4 || kind === 8) {
    f.get(to);
    push(source);
    words(kind);
    return;
  }
  const [from, i] = locals(2);
  set(from, source);
  set(i, num(0));
  if (kind !== "vectors") {
    const step = kind === "words" ? 4 : 1;
    loop(less(i, bytes), () => {
      push(add(to, i));
      push(add(from, i));
      words(step);
      advance(i, num(step));
    });
    return;
  }
  const vector = (at: number): void => {
    push(add(to, i));
    push(add(from, i));
    f.simdMemory("v128.load", at).simdMemory("v128.store", at);
  };
  for (const vectors of [4, 1]) {
    loop(less(add(i, num(16 * vectors - 1)), bytes), () => {
      for (let v = 0; v < vectors; v++) vector(16 * v);
      advance(i, num(16 * vectors));
    });
  }
  // What is left is copied with some of what was copied already.
  when(less(i, bytes), () => {
    set(i, sub(bytes, num(16)));
    vector(0);
  });
}

const gatherCode = (
  kind: RowKind,
): Code<"x" | "indices" | "out", "count" | "before" | "n" | "row" | "slice" | "outside"> => ({
  key: `gather of rows ${kind}`,
  addresses: ["x", "indices", "out"],
  numbers: ["count", "before", "n", "row", "slice", "outside"],
  write(f, { x, indices, out, count, before, n, row, slice, outside }) {
    const { num, add, sub, mul, div, rem, min, less, equal, within, load, loop, set, advance, when, locals } =
      integers(f);
    const bytes = typeof kind === "number" ? num(kind) : row;
    const [unit, k, group, p, at, to, last, index] = locals(8);
    set(unit, BEGIN);
    set(k, rem(unit, count));
    set(group, div(unit, count));
    set(p, rem(group, before));
    set(at, add(indices, mul(add(mul(div(group, before), count), k), num(4))));
    set(x, add(x, mul(group, slice)));
    set(to, add(out, mul(unit, row)));
    // One slice after the other: within it, neighbouring indices and rows of the result.
    loop(less(unit, END), () => {
      set(last, add(unit, min(sub(count, k), sub(END, unit))));
      f.loop((again) => {
        set(index, load(at));
        when(
          within(index, n),
          () => copyRow(f, kind, to, add(x, mul(index, bytes)), row),
          () => note(f, outside),
        );
        advance(to, bytes);
        advance(at, num(4));
        advance(unit, num(1));
        f.get(unit).get(last).op("i32.ne").brIf(again);
      });
      // The next slice reads the same indices again, the next shared row its own.
      set(k, num(0));
      advance(x, slice);
      advance(p, num(1));
      when(
        equal(p, before),
        () => set(p, num(0)),
        () => set(at, sub(at, mul(count, num(4)))),
      );
    });
  },
});

const gather: NamedKernel = {
  prepare: () => [true, true],
  takesHalves: true,
  plan({ args, outs, params }, engine) {
    const { axis, batchDims } = params as IndexingParams; // The record's own.
    const { dtype, layout } = args[0]!;
    const loops = loopsOf(layout.shape, args[1]!.layout.shape, { axis, batchDims });
    const { batch, before, n, count, after } = loops;
    const row = after * elements[dtype].bytes;
    const outside = new Outside(engine, "gather", axis, loops);
    const units = batch * before * count;
    const launch = launcher(
      engine,
      gatherCode(rowKind(row)),
      { count, before, n, row, slice: n * row, outside: outside.address },
      { units, grain: Math.max(1, Math.floor(64 / Math.max(1, row))), parallel: isMuch(units, row) },
    );
    invariant(outs[0]!.size === units * after, "a gather gives one row for each index");
    return {
      workspaceBytes: 0,
      run(ins, [out]) {
        launch(ins[0]!, ins[1]!, out!);
        outside.check(ins[1]!);
      },
    };
  },
};

/** Whether so many rows are much to copy: a short one costs as much as some bytes. */
function isMuch(rows: number, bytes: number): boolean {
  return rows * (bytes + 8) >= PARALLEL_BYTES;
}

// --- scatterAdd --------------------------------------------------------------------------------------------------

/** Rows of `after` updates added to rows of a result: `batch * before` blocks of `n` rows. */
export interface Scatter extends Loops {
  readonly dtype: DType;
}

/** Adds `after` updates from `from` on to the sums from `to` on, which are float64 for float32. */
function addRow(
  f: FunctionBuilder,
  dtype: DType,
  isOne: boolean,
  to: Local,
  from: Local,
  after: Local,
  j: Local,
): void {
  const { num, add, mul, less, loop, push, set, advance } = integers(f);
  const [wide, bytes] = [isFloat(dtype) ? 8 : 4, dtype === "float64" ? 8 : 4];
  const one = (pushTo: () => void, pushFrom: () => void): void => {
    pushTo();
    pushTo();
    if (!isFloat(dtype)) {
      f.memory("i32.load");
      pushFrom();
      f.memory("i32.load").op("i32.add").memory("i32.store");
      return;
    }
    f.memory("f64.load");
    pushFrom();
    if (dtype === "float32") f.memory("f32.load").op("f64.promote_f32");
    else f.memory("f64.load");
    f.op("f64.add").memory("f64.store");
  };
  if (isOne) {
    one(
      () => f.get(to),
      () => f.get(from),
    );
    return;
  }
  const toAt = add(to, mul(j, num(wide)));
  const fromAt = add(from, mul(j, num(bytes)));
  set(j, num(0));
  loop(less(add(j, num(3)), after), () => {
    for (let v = 0; v < wide / 4; v++) {
      push(toAt);
      push(toAt);
      f.simdMemory("v128.load", 16 * v);
      push(fromAt);
      if (dtype === "float32") f.simdMemory("v128.load64_zero", 8 * v).simd("f64x2.promote_low_f32x4");
      else f.simdMemory("v128.load", 16 * v);
      f.simd(isFloat(dtype) ? "f64x2.add" : "i32x4.add").simdMemory("v128.store", 16 * v);
    }
    advance(j, num(4));
  });
  loop(less(j, after), () => {
    one(
      () => push(toAt),
      () => push(fromAt),
    );
    advance(j, num(1));
  });
}

/** Stores `count` float64 sums from `from` on as float32. */
export function storeNarrow(f: FunctionBuilder, to: Local, from: Local, count: Local, j: Local): void {
  const { num, add, mul, less, loop, push, set, advance } = integers(f);
  const toAt = add(to, mul(j, num(4)));
  const fromAt = add(from, mul(j, num(8)));
  set(j, num(0));
  loop(less(add(j, num(3)), count), () => {
    push(toAt);
    for (let v = 0; v < 2; v++) {
      push(fromAt);
      f.simdMemory("v128.load", 16 * v).simd("f32x4.demote_f64x2_zero");
    }
    f.shuffle([0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23]).simdMemory("v128.store");
    advance(j, num(4));
  });
  loop(less(j, count), () => {
    push(toAt);
    push(fromAt);
    f.memory("f64.load").op("f32.demote_f64").memory("f32.store");
    advance(j, num(1));
  });
}

/** Fills `bytes` bytes with zeros. */
export function zero(f: FunctionBuilder, at: Operand, bytes: Operand): void {
  const { push } = integers(f);
  push(at);
  f.i32(0);
  push(bytes);
  f.memoryFill();
}

/** Where a thread sums: in the result itself, in its own buffer, or in a workspace as large as the result. */
type Place = "result" | "scratch" | "workspace";

/** In which rows: in all, or, where updates are few, in those that they are for; the others of the result are zeros. */
type Rows = "all" | "met";

/** A thread reads all indices of a block and adds the rows that are its own. */
const directCode = (
  dtype: DType,
  place: Place,
  which: Rows,
  isOne: boolean,
): Code<"indices" | "updates" | "out" | "workspace", "count" | "before" | "n" | "after" | "outside"> => ({
  key: `scatter of ${dtype} in ${place}, ${which} rows${isOne ? " one by one" : ""}`,
  addresses: ["indices", "updates", "out", "workspace"],
  numbers: ["count", "before", "n", "after", "outside"],
  write(f, { indices, updates, out, workspace, count, before, n, after, outside }) {
    const { num, add, sub, mul, div, rem, min, less, within, load, loop, push, set, advance, when, locals } =
      integers(f);
    const bytes = elements[dtype].bytes;
    const wide = isFloat(dtype) ? 8 : 4;
    const [unit, block, lo, rows, sums, at, from, k, to, index, j, target, size, row] = locals(14);
    set(unit, BEGIN);
    loop(less(unit, END), () => {
      set(block, div(unit, n));
      set(lo, rem(unit, n));
      set(rows, min(sub(n, lo), sub(END, unit)));
      set(size, mul(rows, after));
      set(target, add(out, mul(mul(unit, after), num(bytes))));
      if (place === "workspace") set(sums, add(workspace, mul(mul(unit, after), num(wide))));
      else set(sums, place === "scratch" ? SCRATCH : target);
      /** Does something for every update whose row is among these, with its row of the sums in `to`. */
      const each = (work: () => void, otherwise: () => void = () => {}): void => {
        set(at, add(indices, mul(mul(div(block, before), count), num(4))));
        set(from, add(updates, mul(mul(mul(block, count), after), num(bytes))));
        set(k, num(0));
        loop(less(k, count), () => {
          set(index, load(at));
          when(
            within(sub(index, lo), rows),
            () => {
              set(to, add(sums, mul(mul(sub(index, lo), after), num(wide))));
              work();
            },
            otherwise,
          );
          advance(at, num(4));
          advance(from, mul(after, num(bytes)));
          advance(k, num(1));
        });
      };
      if (which === "met") {
        zero(f, target, mul(size, num(bytes)));
        each(() => zero(f, to, mul(after, num(wide))));
      } else zero(f, sums, mul(size, num(wide)));
      each(
        () => addRow(f, dtype, isOne, to, from, after, j),
        () => {
          push(within(index, n));
          f.op("i32.eqz").when(() => note(f, outside));
        },
      );
      if (which === "met") {
        each(() => {
          set(row, add(target, mul(mul(sub(index, lo), after), num(bytes))));
          storeNarrow(f, row, to, after, j);
        });
      } else if (place !== "result") storeNarrow(f, target, sums, size, j);
      advance(unit, rows);
    });
  },
});

/** Lists of the updates of each row, in their order: the first in `heads`, -1 = none, the others in `next`. */
const listCode: Code<"indices" | "heads" | "next", "count" | "n" | "outside"> = {
  key: "lists of a scatter",
  addresses: ["indices", "heads", "next"],
  numbers: ["count", "n", "outside"],
  write(f, { indices, heads, next, count, n, outside }) {
    const { num, add, sub, mul, less, within, load, loop, push, set, advance, when, locals } = integers(f);
    const [unit, k, index, head] = locals(4);
    set(unit, BEGIN);
    set(indices, add(indices, mul(mul(unit, count), num(4))));
    set(next, add(next, mul(mul(unit, count), num(4))));
    set(heads, add(heads, mul(mul(unit, n), num(4))));
    loop(less(unit, END), () => {
      f.get(heads).i32(-1);
      push(mul(n, num(4)));
      f.memoryFill();
      // From the last update to the first, so that lists begin with the first.
      set(k, sub(count, num(1)));
      loop(less(num(-1), k), () => {
        set(index, load(add(indices, mul(k, num(4)))));
        when(
          within(index, n),
          () => {
            set(head, add(heads, mul(index, num(4))));
            push(add(next, mul(k, num(4))));
            f.get(head).memory("i32.load").memory("i32.store");
            f.get(head).get(k).memory("i32.store");
          },
          () => note(f, outside),
        );
        advance(k, num(-1));
      });
      advance(indices, mul(count, num(4)));
      advance(next, mul(count, num(4)));
      advance(heads, mul(n, num(4)));
      advance(unit, num(1));
    });
  },
};

/** Columns that are summed at a time: in eight vectors of float64, in one, or alone. */
const WIDTHS: readonly number[] = [16, 2, 1];

/** Each row of float32 is the sum of the updates in its list. */
const listedCode: Code<"updates" | "heads" | "next" | "out", "count" | "before" | "n" | "after"> = {
  key: "scatter of float32 by lists",
  addresses: ["updates", "heads", "next", "out"],
  numbers: ["count", "before", "n", "after"],
  write(f, { updates, heads, next, out, count, before, n, after }) {
    const { num, add, mul, div, rem, less, load, loop, push, set, advance, when, locals } = integers(f);
    const [unit, block, batch, head, from, links, j, k, to, row, at] = locals(11);
    const sums = Array.from({ length: 8 }, () => f.local("v128"));
    const sum = f.local("f64");
    set(row, mul(after, num(4)));
    set(unit, BEGIN);
    set(to, add(out, mul(unit, row)));
    loop(less(unit, END), () => {
      set(block, div(unit, n));
      set(batch, div(block, before));
      set(head, load(add(heads, mul(add(mul(batch, n), rem(unit, n)), num(4)))));
      when(
        less(head, num(0)),
        () => zero(f, to, row),
        () => {
          set(from, add(updates, mul(mul(block, count), row)));
          set(links, add(next, mul(mul(batch, count), num(4))));
          set(j, num(0));
          for (const width of WIDTHS) {
            const vectors = sums.slice(0, width / 2);
            loop(less(add(j, num(width - 1)), after), () => {
              for (const v of vectors) f.v128(new Uint8Array(16)).set(v);
              f.f64(0).set(sum);
              set(k, head);
              f.loop((again) => {
                set(at, add(from, mul(k, row), mul(j, num(4))));
                vectors.forEach((v, i) => {
                  f.get(at)
                    .simdMemory("v128.load64_zero", 8 * i)
                    .simd("f64x2.promote_low_f32x4");
                  f.get(v).simd("f64x2.add").set(v);
                });
                if (width === 1)
                  f.get(at).memory("f32.load").op("f64.promote_f32").get(sum).op("f64.add").set(sum);
                set(k, load(add(links, mul(k, num(4)))));
                push(less(num(-1), k));
                f.brIf(again);
              });
              set(at, add(to, mul(j, num(4))));
              vectors.forEach((v, i) => {
                f.get(at).get(v).simd("f32x4.demote_f64x2_zero");
                f.simdLaneMemory("v128.store64_lane", 0, 8 * i);
              });
              if (width === 1) f.get(at).get(sum).op("f32.demote_f64").memory("f32.store");
              advance(j, num(width));
            });
          }
        },
      );
      advance(to, row);
      advance(unit, num(1));
    });
  },
};

/** Runs of a scatter: byte pointers to the indices, the updates, the result and the workspace. */
export interface ScatterPlan {
  readonly workspaceBytes: number;
  run(indices: number, updates: number, out: number, workspace: number): void;
}

/** Rows from which on a list for each is cheaper than float64 sums of everything. */
const LISTED_ROW = 4;

/** Where blocks of so many elements are summed; null = by lists. */
function placeOf(dtype: DType, block: number, after: number): Place | null {
  if (dtype !== "float32") return "result";
  if (8 * block <= SCRATCH_BYTES) return "scratch";
  return after < LISTED_ROW ? "workspace" : null;
}

/** One update for so many rows is few: indices are then read three times. */
const FEW = 8;

/** Decides how updates are added; indices that are outside are dropped and noted in the word at `outside`. */
export function planScatter(
  engine: Engine,
  { dtype, batch, before, n, count, after }: Scatter,
  outside: number,
): ScatterPlan {
  const units = batch * before * n;
  const parallel = batch * before * (n + count) * after >= PARALLEL_ELEMENTS;
  const place = placeOf(dtype, n * after, after);
  if (place !== null) {
    // Within one block, each thread reads all the indices, and does not foresee which are its own.
    const isDivisible = batch * before > 1 || after >= 2 * LISTED_ROW || n >= 4 * count;
    const which = place !== "result" && FEW * count <= n ? "met" : "all";
    const launch = launcher(
      engine,
      directCode(dtype, place, which, after === 1),
      { count, before, n, after, outside },
      { units, grain: batch * before > 1 ? n : 64, parallel: parallel && isDivisible },
    );
    const workspaceBytes = place === "workspace" ? 8 * units * after : 0;
    return { workspaceBytes, run: (...addresses) => launch(...addresses) };
  }
  const link = launcher(
    engine,
    listCode,
    { count, n, outside },
    { units: batch, parallel: batch * (n + 4 * count) >= 4 * PARALLEL_ELEMENTS },
  );
  const launch = launcher(engine, listedCode, { count, before, n, after }, { units, grain: 16, parallel });
  const headBytes = 64 * Math.ceil((batch * n) / 16);
  return {
    workspaceBytes: headBytes + 4 * batch * count,
    run(indices, updates, out, workspace) {
      link(indices, workspace, workspace + headBytes);
      launch(updates, workspace, workspace + headBytes, out);
    },
  };
}

const scatterAdd: NamedKernel = {
  prepare: () => [true, true],
  plan({ args, outs, params }: NamedCall, engine) {
    const { axis, batchDims } = params as IndexingParams; // The record's own.
    const { shape, dtype, size } = outs[0]!;
    const loops = loopsOf(shape, args[0]!.layout.shape, { axis, batchDims });
    const outside = new Outside(engine, "scatterAdd", axis, loops);
    if (size === 0) return { workspaceBytes: 0, run: ([indices]) => outside.checkAll(indices!) };
    const { workspaceBytes, run } = planScatter(engine, { ...loops, dtype }, outside.address);
    return {
      workspaceBytes,
      run([indices, updates], [out], workspace) {
        run(indices!, updates!, out!, workspace);
        outside.check(indices!);
      },
    };
  },
};

export const indexingKernels: ReadonlyMap<string, NamedKernel> = new Map([
  ["gather", gather],
  ["scatterAdd", scatterAdd],
]);
