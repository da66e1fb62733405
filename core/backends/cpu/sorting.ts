/**
 * Sorting as WebAssembly, of keys of 32 bits. Keys become unsigned integers in the same order, beside their places; short
 * rows are sorted by insertion, others by one byte after the other, the lowest first. Both are stable, and the places
 * then say where every operand's elements come from.
 */
import type { DType } from "../../dtype.ts";
import { sizeOf } from "../../shape.ts";
import type { FunctionBuilder, Local } from "./assembler.ts";
import { SCRATCH_BYTES } from "./engine.ts";
import { BEGIN, type Code, END, elements, integers, launcher, SCRATCH } from "./handwritten.ts";
import type { NamedKernel } from "./named.ts";

/** Elements from which on other threads are worth their wake-up. */
const PARALLEL_ELEMENTS = 2 ** 13;
/** Rows of up to this many elements are sorted by insertion. */
const SHORT = 48;

/** Four counts of bytes, which are in front of the keys. */
const COUNTS_BYTES: number = 4 * 256 * 4;
/** A key and its place. */
const PAIR_BYTES = 8;

/** Turns an element into an unsigned integer with the same order, equal for equal elements; NaN is the largest. */
function toKey(f: FunctionBuilder, dtype: DType, at: Local, key: Local): void {
  f.get(at).memory(elements[dtype].load);
  if (dtype === "int32") f.i32(-2147483648).op("i32.xor");
  if (dtype !== "float32") {
    f.set(key);
    return;
  }
  const x = f.local("f32");
  // Of -0, 0. The bits of negative numbers are in the other order, and come first.
  f.f32(0).op("f32.add").tee(x).op("i32.reinterpret_f32").tee(key);
  f.get(key).i32(31).op("i32.shr_s").i32(-2147483648).op("i32.or").op("i32.xor").set(key);
  f.i32(-1).get(key).get(x).get(x).op("f32.ne").op("select").set(key);
}

/** The order of each row: places of its elements, from the smallest on. `buffer` = 0 is the scratch buffer. */
const orderCode = (dtype: DType, isShort: boolean): Code<"x" | "order" | "buffer", "n" | "inner"> => ({
  key: `order of ${isShort ? "short rows" : "rows"} of ${dtype}`,
  addresses: ["x", "order", "buffer"],
  numbers: ["n", "inner"],
  write(f, { x, order, buffer, n, inner }) {
    const { num, add, mul, div, rem, less, equal, load, loop, push, set, advance, when, locals } =
      integers(f);
    const [unit, at, k, j, key, pair, from, to, spare, counts, sum, swap] = locals(12);
    const { bytes } = elements[dtype];

    const insert = (): void => {
      set(k, num(1));
      loop(less(k, n), () => {
        set(pair, add(from, mul(k, num(PAIR_BYTES))));
        set(key, load(pair));
        set(j, k);
        f.block((exit) => {
          f.loop((again) => {
            push(equal(j, num(0)));
            f.brIf(exit);
            f.get(pair).i32(PAIR_BYTES).op("i32.sub").memory("i32.load").get(key).op("i32.le_u").brIf(exit);
            f.get(pair).get(pair).i32(PAIR_BYTES).op("i32.sub").memory("i64.load").memory("i64.store");
            advance(pair, num(-PAIR_BYTES));
            advance(j, num(-1));
            f.br(again);
          });
        });
        f.get(pair).get(key).memory("i32.store");
        f.get(pair).get(k).memory("i32.store", 4);
        advance(k, num(1));
      });
    };

    /** Puts the pairs in the order of the byte `digit`, unless all have the same. */
    const distribute = (digit: number): void => {
      const count = (): void => {
        f.get(key)
          .i32(8 * digit)
          .op("i32.shr_u")
          .i32(255)
          .op("i32.and")
          .i32(2)
          .op("i32.shl");
        f.get(counts).op("i32.add").set(at);
      };
      set(counts, add(buffer, num(1024 * digit)));
      set(key, load(from));
      count();
      f.get(at).memory("i32.load").get(n).op("i32.ne");
      f.when(() => {
        // How many come before each byte.
        set(sum, num(0));
        set(k, num(0));
        loop(less(k, num(1024)), () => {
          set(at, add(counts, k));
          for (let offset = 0; offset < 32; offset += 4) {
            f.get(at).memory("i32.load", offset).set(j);
            f.get(at).get(sum).memory("i32.store", offset);
            advance(sum, j);
          }
          advance(k, num(32));
        });
        set(pair, from);
        set(k, num(0));
        loop(less(k, n), () => {
          set(key, load(pair));
          count();
          set(j, load(at));
          push(add(to, mul(j, num(PAIR_BYTES))));
          f.get(pair).memory("i64.load").memory("i64.store");
          f.get(at).get(j).i32(1).op("i32.add").memory("i32.store");
          advance(pair, num(PAIR_BYTES));
          advance(k, num(1));
        });
        set(swap, from);
        set(from, to);
        set(to, swap);
      });
    };

    when(equal(buffer, num(0)), () => set(buffer, SCRATCH));
    set(unit, BEGIN);
    set(order, add(order, mul(mul(unit, n), num(4))));
    set(spare, mul(n, num(PAIR_BYTES)));
    loop(less(unit, END), () => {
      set(from, add(buffer, num(COUNTS_BYTES)));
      set(to, add(from, spare));
      if (!isShort) f.get(buffer).i32(0).i32(COUNTS_BYTES).memoryFill();
      set(swap, add(x, mul(add(mul(mul(div(unit, inner), n), inner), rem(unit, inner)), num(bytes))));
      set(pair, from);
      set(k, num(0));
      loop(less(k, n), () => {
        toKey(f, dtype, swap, key);
        f.get(pair).get(key).memory("i32.store");
        f.get(pair).get(k).memory("i32.store", 4);
        if (!isShort) {
          for (let digit = 0; digit < 4; digit++) {
            f.get(key)
              .i32(8 * digit)
              .op("i32.shr_u")
              .i32(255)
              .op("i32.and")
              .i32(2)
              .op("i32.shl");
            f.get(buffer).op("i32.add").tee(at);
            f.get(at)
              .memory("i32.load", 1024 * digit)
              .i32(1)
              .op("i32.add");
            f.memory("i32.store", 1024 * digit);
          }
        }
        advance(swap, mul(inner, num(bytes)));
        advance(pair, num(PAIR_BYTES));
        advance(k, num(1));
      });
      if (isShort) insert();
      else for (let digit = 0; digit < 4; digit++) distribute(digit);
      set(k, num(0));
      loop(less(k, n), () => {
        f.get(order);
        push(load(add(from, mul(k, num(PAIR_BYTES)), num(4))));
        f.memory("i32.store");
        advance(order, num(4));
        advance(k, num(1));
      });
      advance(unit, num(1));
    });
  },
});

/** Puts the elements of each row of an operand in their order. */
const placeCode = (bytes: number): Code<"x" | "order" | "out", "n" | "inner"> => ({
  key: `sorted elements of ${bytes} bytes`,
  addresses: ["x", "order", "out"],
  numbers: ["n", "inner"],
  write(f, { x, order, out, n, inner }) {
    const { num, add, mul, div, rem, less, load, loop, push, set, advance, locals } = integers(f);
    const [unit, first, from, to, k, step] = locals(6);
    set(step, mul(inner, num(bytes)));
    set(unit, BEGIN);
    set(order, add(order, mul(mul(unit, n), num(4))));
    loop(less(unit, END), () => {
      set(first, mul(add(mul(mul(div(unit, inner), n), inner), rem(unit, inner)), num(bytes)));
      set(from, add(x, first));
      set(to, add(out, first));
      set(k, num(0));
      loop(less(k, n), () => {
        f.get(to);
        push(add(from, mul(load(order), step)));
        if (bytes === 1) f.memory("i32.load8_u").memory("i32.store8");
        else if (bytes === 4) f.memory("i32.load").memory("i32.store");
        else f.memory("i64.load").memory("i64.store");
        advance(to, step);
        advance(order, num(4));
        advance(k, num(1));
      });
      advance(unit, num(1));
    });
  },
});

const sort: NamedKernel = {
  prepare: ({ args }) => (args[0]!.dtype === "float64" ? null : args.map(() => true)),
  plan({ args, outs, params }, engine) {
    const { axis } = params as { readonly axis: number }; // The record's own.
    const { shape, size } = outs[0]!;
    const n = shape[axis]!;
    const inner = sizeOf(shape.slice(axis + 1));
    const numbers = { n, inner };
    const units = n === 0 ? 0 : size / n;
    const bufferBytes = COUNTS_BYTES + 2 * PAIR_BYTES * n;
    // Rows too long for the threads' own buffers are sorted one after the other.
    const fits = bufferBytes <= SCRATCH_BYTES;
    const parallel = size >= PARALLEL_ELEMENTS;
    const orderBytes = 64 * Math.ceil(size / 16);
    const order = launcher(engine, orderCode(args[0]!.dtype, n <= SHORT), numbers, {
      units,
      parallel: parallel && fits,
    });
    const places = args.map(({ dtype }) =>
      launcher(engine, placeCode(elements[dtype].bytes), numbers, { units, parallel }),
    );
    return {
      workspaceBytes: orderBytes + (fits ? 0 : bufferBytes),
      run(ins, results, workspace) {
        order(ins[0]!, workspace, fits ? 0 : workspace + orderBytes);
        for (let i = 0; i < places.length; i++) places[i]!(ins[i]!, workspace, results[i]!);
      },
    };
  },
};

export const sortingKernels: ReadonlyMap<string, NamedKernel> = new Map([["sort", sort]]);
