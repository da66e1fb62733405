/**
 * Pooling as WebAssembly. A unit of work is one row of the result. Where windows do not touch the padding of the last
 * axis, four neighbouring windows are taken at a time; each meets its elements in row-major order, so that the first of
 * equal elements is found, and sums are those of the reference.
 */
import { type DType, isFloat } from "../../dtype.ts";
import { sizeOf } from "../../shape.ts";
import type { FunctionBuilder, Local, VectorOp } from "./assembler.ts";
import { SCRATCH_BYTES } from "./engine.ts";
import { BEGIN, type Code, END, elements, integers, launcher, type Operand, SCRATCH } from "./handwritten.ts";
import { planScatter, storeNarrow, zero } from "./indexing.ts";
import type { NamedKernel } from "./named.ts";

/** Elements that are met, from which on other threads are worth their wake-up. */
const PARALLEL_ELEMENTS = 2 ** 16;

/** The parameters of the records: windows over the last axes. */
interface PoolParams {
  readonly window: readonly number[];
  readonly strides: readonly number[];
  readonly padding: readonly (readonly [lo: number, hi: number])[];
}

type Pooling = "max" | "index" | "sum";
type PoolType = Exclude<DType, "bool" | "float16">;

/** Numbers of each pooled axis, outermost first: how many elements and windows, and how windows lie. */
const AXIS = ["size", "count", "window", "stride", "low"] as const;
type AxisName = (typeof AXIS)[number];
type AxisWord = `${AxisName}${number}`;

const axisWords = (axes: number): AxisWord[] =>
  Array.from({ length: axes }, (_, a) => AXIS.map((name): AxisWord => `${name}${a}`)).flat();

function axisNumbers(
  sizes: readonly number[],
  counts: readonly number[],
  { window, strides, padding }: PoolParams,
): Record<AxisWord, number> {
  const numbers: Record<AxisWord, number> = {};
  sizes.forEach((size, a) => {
    numbers[`size${a}`] = size;
    numbers[`count${a}`] = counts[a]!;
    numbers[`window${a}`] = window[a]!;
    numbers[`stride${a}`] = strides[a]!;
    numbers[`low${a}`] = padding[a]![0];
  });
  return numbers;
}

/** Locals of the words of each axis. */
type Axis = Readonly<Record<AxisName, Local>>;

function axesOf(axes: number, word: Readonly<Record<AxisWord, Local>>): Axis[] {
  return Array.from({ length: axes }, (_, a) => ({
    size: word[`size${a}`]!,
    count: word[`count${a}`]!,
    window: word[`window${a}`]!,
    stride: word[`stride${a}`]!,
    low: word[`low${a}`]!,
  }));
}

// --- windows to results ------------------------------------------------------------------------------------------

/** What four windows, or one, have seen so far. */
interface Seen {
  /** Nothing yet; the first element's place is known. */
  start(): void;
  /** One more element each; `place` pushes the place of the first window's element. */
  meet(pushElements: () => void, place: Operand): void;
  /** Stores for the windows from `to` on. */
  store(to: Operand): void;
}

const lowest: Readonly<Record<PoolType, number>> = {
  float32: Number.NEGATIVE_INFINITY,
  float64: Number.NEGATIVE_INFINITY,
  int32: -2147483648,
  uint32: 0,
};

/** One window: the largest element, or the sum, which is float64 for float32. */
function one(f: FunctionBuilder, dtype: PoolType, pooling: Pooling, first: Local): Seen {
  const { push, set } = integers(f);
  const { type, store } = elements[dtype];
  const floats = type === "i32" ? null : type === "f32" ? "f32" : "f64";
  if (pooling === "sum") {
    const sum = f.local(floats ? "f64" : "i32");
    return {
      start: () => (floats ? f.f64(0) : f.i32(0)).set(sum),
      meet(pushElement) {
        f.get(sum);
        pushElement();
        if (type === "f32") f.op("f64.promote_f32");
        f.op(floats ? "f64.add" : "i32.add").set(sum);
      },
      store(to) {
        push(to);
        f.get(sum);
        if (type === "f32") f.op("f32.demote_f64");
        f.memory(store);
      },
    };
  }
  const best = f.local(type);
  const x = f.local(type);
  const index = f.local("i32");
  return {
    start() {
      if (type === "f32") f.f32(lowest[dtype]);
      else if (type === "f64") f.f64(lowest[dtype]);
      else f.i32(lowest[dtype]);
      f.set(best);
      set(index, first);
    },
    meet(pushElement, place) {
      pushElement();
      f.tee(x).get(best);
      if (floats) {
        // Larger or NaN, and no NaN before.
        f.op(`${floats}.le`).op("i32.eqz").get(best).get(best).op(`${floats}.eq`).op("i32.and");
      } else f.op(dtype === "int32" ? "i32.gt_s" : "i32.gt_u");
      f.when(() => {
        f.get(x).set(best);
        if (pooling === "index") set(index, place);
      });
    },
    store(to) {
      push(to);
      if (pooling === "index") f.get(index).memory("i32.store");
      else f.get(best).memory(store);
    },
  };
}

const words = (list: readonly number[]): Uint8Array => new Uint8Array(Int32Array.from(list).buffer);
const lowHalves = [0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23];
const highHalf = [8, 9, 10, 11, 12, 13, 14, 15, 8, 9, 10, 11, 12, 13, 14, 15];
const evenWords = [0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27];

/** Four windows, `stride` elements apart, of a type of 32 bits. */
function four(f: FunctionBuilder, dtype: PoolType, pooling: Pooling, stride: number, first: Local): Seen {
  const { push } = integers(f);
  const x = f.local("v128");
  if (pooling === "sum") {
    const sums = [f.local("v128"), f.local("v128")];
    const used = isFloat(dtype) ? sums : sums.slice(1);
    return {
      start: () => {
        for (const sum of used) f.v128(new Uint8Array(16)).set(sum);
      },
      meet(pushElements) {
        pushElements();
        f.set(x);
        used.forEach((sum, half) => {
          f.get(x);
          if (isFloat(dtype)) {
            if (half === 1) f.get(x).shuffle(highHalf);
            f.simd("f64x2.promote_low_f32x4");
          }
          f.get(sum)
            .simd(isFloat(dtype) ? "f64x2.add" : "i32x4.add")
            .set(sum);
        });
      },
      store(to) {
        push(to);
        for (const sum of used) {
          f.get(sum);
          if (isFloat(dtype)) f.simd("f32x4.demote_f64x2_zero");
        }
        if (isFloat(dtype)) f.shuffle(lowHalves);
        f.simdMemory("v128.store");
      },
    };
  }
  const [best, index, steps, mask] = [f.local("v128"), f.local("v128"), f.local("v128"), f.local("v128")];
  f.v128(words([0, stride, 2 * stride, 3 * stride])).set(steps);
  const larger: VectorOp = dtype === "int32" ? "i32x4.gt_s" : "i32x4.gt_u";
  return {
    start() {
      if (isFloat(dtype)) f.f32(lowest[dtype]).simd("f32x4.splat").set(best);
      else f.i32(lowest[dtype]).simd("i32x4.splat").set(best);
      if (pooling === "index") f.get(first).simd("i32x4.splat").get(steps).simd("i32x4.add").set(index);
    },
    meet(pushElements, place) {
      pushElements();
      f.set(x);
      if (isFloat(dtype)) {
        f.get(best).get(best).simd("f32x4.eq").get(x).get(best).simd("f32x4.le").simd("v128.andnot");
      } else f.get(x).get(best).simd(larger);
      f.set(mask);
      f.get(x).get(best).get(mask).simd("v128.bitselect").set(best);
      if (pooling !== "index") return;
      push(place);
      f.simd("i32x4.splat").get(steps).simd("i32x4.add").get(index).get(mask);
      f.simd("v128.bitselect").set(index);
    },
    store(to) {
      push(to);
      f.get(pooling === "index" ? index : best).simdMemory("v128.store");
    },
  };
}

/** Pushes four elements of 32 bits that are `stride` elements apart, from an address on. */
function pushFour(f: FunctionBuilder, at: Local, stride: number, offset: number): void {
  if (stride === 1) {
    f.get(at).simdMemory("v128.load", offset);
    return;
  }
  if (stride === 2) {
    f.get(at).simdMemory("v128.load", offset);
    f.get(at)
      .simdMemory("v128.load", offset + 16)
      .shuffle(evenWords);
    return;
  }
  const x = f.local("v128");
  f.get(at).simdMemory("v128.load32_zero", offset).set(x);
  for (let lane = 1; lane < 4; lane++) {
    f.get(at)
      .get(x)
      .simdLaneMemory("v128.load32_lane", lane, offset + 4 * stride * lane)
      .set(x);
  }
  f.get(x);
}

/** Windows of up to this many elements along the last axis have their own code. */
const LONGEST_UNROLLED = 4;

type PoolWord = AxisWord | "wide" | "wideEnd" | "block";

/** `wide` is the first window that four are taken from, -1 = none; `block` the elements of all pooled axes. */
function poolCode(
  dtype: PoolType,
  pooling: Pooling,
  axes: number,
  stride: number,
  window: number,
): Code<"x" | "out", PoolWord> {
  const { bytes, load } = elements[dtype];
  const outBytes = pooling === "index" ? 4 : bytes;
  const isWide = bytes === 4;
  const unrolled = window <= LONGEST_UNROLLED ? window : 0;
  return {
    key: `${pooling} pool of ${dtype}, ${axes} axes${isWide ? `, stride ${stride}, window ${unrolled || "any"}` : ""}`,
    addresses: ["x", "out"],
    numbers: [...axisWords(axes), "wide", "wideEnd", "block"],
    write(f, word) {
      const { x, out, wide, wideEnd, block } = word;
      const { num, add, sub, mul, div, rem, min, max, less, equal, loop, set, advance, when, locals } =
        integers(f);
      const axis = axesOf(axes, word);
      const outer = axis.slice(0, -1);
      const last = axis[axes - 1]!;
      const [unit, rest, base, o, to, first, firstRow, low] = locals(8);
      /** For each outer axis: the first element of the window, and which elements of it are no padding. */
      const starts = outer.map(() => f.local("i32"));
      const begins = outer.map(() => f.local("i32"));
      const ends = outer.map(() => f.local("i32"));

      /** Runs the body for each row of the window; `row` is the place of the row's first element. */
      const eachRow = (body: (row: Local) => void): void => {
        const nest = (a: number, place: Local): void => {
          if (a === outer.length) {
            body(place);
            return;
          }
          const [k, inner] = locals(2);
          const size = a + 1 < outer.length ? outer[a + 1]!.size : last.size;
          f.for(
            k,
            () => f.get(begins[a]!),
            () => f.get(ends[a]!),
            1,
            () => {
              set(inner, mul(add(place, starts[a]!, k), size));
              nest(a + 1, inner);
            },
          );
        };
        const [top] = locals(1);
        set(top, num(0));
        nest(0, top);
      };

      const [at, place, k, kEnd, group] = locals(5);
      const single = one(f, dtype, pooling, first);
      const quadruple = isWide ? four(f, dtype, pooling, stride, first) : null;

      /** The window `o`, which may reach into the padding. */
      const computeOne = (): void => {
        set(low, sub(mul(o, last.stride), last.low));
        set(k, max(num(0), sub(num(0), low)));
        set(first, add(firstRow, low, k));
        single.start();
        eachRow((row) => {
          set(k, max(num(0), sub(num(0), low)));
          set(kEnd, min(last.window, sub(last.size, low)));
          set(place, add(row, low, k));
          set(kEnd, add(row, low, kEnd));
          set(at, add(base, mul(place, num(bytes))));
          loop(less(place, kEnd), () => {
            single.meet(() => f.get(at).memory(load), place);
            advance(at, num(bytes));
            advance(place, num(1));
          });
        });
        single.store(add(to, mul(o, num(outBytes))));
      };

      /** The four windows from `group` on. */
      const computeFour = (seen: Seen): void => {
        set(low, sub(mul(group, num(stride)), last.low));
        set(first, add(firstRow, low));
        seen.start();
        eachRow((row) => {
          set(place, add(row, low));
          set(at, add(base, mul(place, num(bytes))));
          if (unrolled > 0) {
            for (let i = 0; i < unrolled; i++)
              seen.meet(() => pushFour(f, at, stride, i * bytes), add(place, num(i)));
            return;
          }
          set(k, num(0));
          loop(less(k, last.window), () => {
            seen.meet(() => pushFour(f, at, stride, 0), place);
            advance(at, num(bytes));
            advance(place, num(1));
            advance(k, num(1));
          });
        });
        seen.store(add(to, mul(group, num(outBytes))));
      };

      set(unit, BEGIN);
      loop(less(unit, END), () => {
        set(rest, unit);
        for (let a = outer.length - 1; a >= 0; a--) {
          const { size, count, window: length, stride: step, low: padding } = outer[a]!;
          const start = starts[a]!;
          set(start, sub(mul(rem(rest, count), step), padding));
          set(rest, div(rest, count));
          set(begins[a]!, max(num(0), sub(num(0), start)));
          set(ends[a]!, min(length, sub(size, start)));
        }
        set(base, add(x, mul(mul(rest, block), num(bytes))));
        set(firstRow, num(0));
        outer.forEach((_, a) => {
          const size = a + 1 < outer.length ? outer[a + 1]!.size : last.size;
          set(firstRow, mul(add(firstRow, starts[a]!, begins[a]!), size));
        });
        set(to, add(out, mul(mul(unit, last.count), num(outBytes))));
        set(o, num(0));
        loop(less(o, last.count), () => {
          const isOne = (): void => {
            computeOne();
            advance(o, num(1));
          };
          if (quadruple === null) {
            isOne();
            return;
          }
          when(
            equal(o, wide),
            () => {
              // The last four may be some that were computed already.
              loop(less(o, wideEnd), () => {
                set(group, min(o, sub(wideEnd, num(4))));
                computeFour(quadruple);
                advance(o, num(4));
              });
              set(o, wideEnd);
            },
            isOne,
          );
        });
        advance(unit, num(1));
      });
    },
  };
}

/** The windows along an axis that do not reach into its padding. */
function inside(
  size: number,
  count: number,
  window: number,
  stride: number,
  low: number,
): { first: number; end: number } {
  const first = Math.min(count, Math.ceil(low / stride));
  const end = Math.min(count, Math.floor((size + low - window) / stride) + 1);
  return { first, end: Math.max(first, end) };
}

function isPoolType(dtype: DType): dtype is PoolType {
  return dtype !== "bool";
}

function windowKernel(pooling: Pooling): NamedKernel {
  return {
    prepare: ({ args }) => (isPoolType(args[0]!.dtype) ? [true] : null),
    plan({ args, outs, params }, engine) {
      const pool = params as PoolParams; // The record's own.
      const { dtype, layout } = args[0]!;
      const axes = pool.window.length;
      const lead = layout.shape.length - axes;
      const sizes = layout.shape.slice(lead);
      const counts = outs[0]!.shape.slice(lead);
      const last = axes - 1;
      const [window, stride, low] = [pool.window[last]!, pool.strides[last]!, pool.padding[last]![0]];
      const { first, end } = inside(sizes[last]!, counts[last]!, window, stride, low);
      const launch = launcher(
        engine,
        poolCode(isPoolType(dtype) ? dtype : "uint32", pooling, axes, stride, window),
        {
          ...axisNumbers(sizes, counts, pool),
          wide: end - first >= 4 ? first : -1,
          wideEnd: end,
          block: sizeOf(sizes),
        },
        {
          units: counts[last] === 0 ? 0 : outs[0]!.size / counts[last]!,
          parallel: outs[0]!.size * sizeOf(pool.window) >= PARALLEL_ELEMENTS,
        },
      );
      return { workspaceBytes: 0, run: ([x], [out]) => launch(x!, out!) };
    },
  };
}

// --- results to windows ------------------------------------------------------------------------------------------

/** Each element's sum of the windows that hold it. The last axis of one row is summed at a time. */
function transposeCode(dtype: PoolType, axes: number, overlaps: boolean): Code<"y" | "out", AxisWord> {
  const { bytes, load } = elements[dtype];
  const [sumBytes, lanes] = isFloat(dtype) ? [8, 2] : [4, 4];
  const sum = elements[isFloat(dtype) ? "float64" : "int32"];
  return {
    key: `transposed sum pool of ${dtype}, ${axes} axes${overlaps ? ", overlapping" : ""}`,
    addresses: ["y", "out"],
    numbers: axisWords(axes),
    write(f, word) {
      const { num, add, sub, mul, div, rem, min, max, less, push, loop, set, advance, locals } = integers(f);
      const axis = axesOf(axes, word);
      const outer = axis.slice(0, -1);
      const last = axis[axes - 1]!;
      const { y, out } = word;
      const [unit, rest, target, sums, low, t, end, from, to, j] = locals(10);
      const one = f.local(isFloat(dtype) ? "f64" : "i32");
      const all = f.local("v128");
      const begins = outer.map(() => f.local("i32"));
      const ends = outer.map(() => f.local("i32"));

      /** One window or element more at `to`. */
      const addOne = (pushTerm: () => void): void => {
        f.get(to).get(to).memory(sum.load);
        pushTerm();
        f.op(isFloat(dtype) ? "f64.add" : "i32.add").memory(sum.store);
      };
      const pushWindow = (): void => {
        f.get(from).memory(load);
        if (dtype === "float32") f.op("f64.promote_f32");
      };

      /** Adds a row of windows to the sums, each to its elements; the last one first, in each element's own order. */
      const addWindows = (row: Local): void => {
        set(t, sub(last.count, num(1)));
        set(from, add(y, mul(add(row, t), num(bytes))));
        loop(less(num(-1), t), () => {
          pushWindow();
          f.tee(one)
            .simd(isFloat(dtype) ? "f64x2.splat" : "i32x4.splat")
            .set(all);
          set(low, sub(mul(t, last.stride), last.low));
          set(j, max(num(0), low));
          set(end, min(last.size, add(low, last.window)));
          set(to, add(sums, mul(j, num(sumBytes))));
          loop(less(add(j, num(lanes - 1)), end), () => {
            f.get(to).get(to).simdMemory("v128.load").get(all);
            f.simd(isFloat(dtype) ? "f64x2.add" : "i32x4.add").simdMemory("v128.store");
            advance(to, num(16));
            advance(j, num(lanes));
          });
          loop(less(j, end), () => {
            addOne(() => f.get(one));
            advance(to, num(sumBytes));
            advance(j, num(1));
          });
          advance(from, num(-bytes));
          advance(t, num(-1));
        });
      };

      /**
       * The same for windows that overlap: element by element of the window, because a sum that was stored a moment ago
       * as part of another vector is slow to load.
       */
      const addElements = (row: Local): void => {
        f.for(
          j,
          () => f.i32(0),
          () => f.get(last.window),
          1,
          () => {
            // Element `t stride + j - low` is in window `t`.
            const reach = sub(last.low, j);
            const up = sub(last.stride, num(1));
            set(t, div(max(num(0), add(reach, up)), last.stride));
            set(end, min(last.count, div(max(num(0), add(last.size, reach, up)), last.stride)));
            set(from, add(y, mul(add(row, t), num(bytes))));
            set(to, add(sums, mul(sub(mul(t, last.stride), reach), num(sumBytes))));
            loop(less(t, end), () => {
              addOne(pushWindow);
              advance(from, num(bytes));
              advance(to, mul(last.stride, num(sumBytes)));
              advance(t, num(1));
            });
          },
        );
      };

      set(unit, BEGIN);
      loop(less(unit, END), () => {
        set(rest, unit);
        for (let a = outer.length - 1; a >= 0; a--) {
          const { size, count, window, stride, low } = outer[a]!;
          const [place] = locals(1);
          set(place, add(rem(rest, size), low));
          set(rest, div(rest, size));
          // Windows t with 0 <= place - t stride < window.
          set(begins[a]!, div(max(num(0), add(sub(place, window), stride)), stride));
          set(ends[a]!, min(sub(count, num(1)), div(place, stride)));
        }
        set(target, add(out, mul(mul(unit, last.size), num(bytes))));
        set(sums, dtype === "float32" ? SCRATCH : target);
        zero(f, sums, mul(last.size, num(sumBytes)));
        const nest = (a: number, row: Local): void => {
          if (a === outer.length) {
            if (overlaps) addElements(row);
            else addWindows(row);
            return;
          }
          const [window, inner] = locals(2);
          const count = a + 1 < outer.length ? outer[a + 1]!.count : last.count;
          // The last window holds the element as its first, so elements meet windows in their own order.
          set(window, ends[a]!);
          f.block((exit) => {
            f.loop((again) => {
              push(less(window, begins[a]!));
              f.brIf(exit);
              set(inner, mul(add(row, window), count));
              nest(a + 1, inner);
              advance(window, num(-1));
              f.br(again);
            });
          });
        };
        // `rest` is the leading position, in rows of the first axis of windows.
        const [top] = locals(1);
        set(top, mul(rest, axis[0]!.count));
        nest(0, top);
        if (dtype === "float32") storeNarrow(f, target, sums, last.size, j);
        advance(unit, num(1));
      });
    },
  };
}

const sumPoolTranspose: NamedKernel = {
  prepare({ args, outs }) {
    const { dtype } = args[0]!;
    const fits = dtype !== "float32" || 8 * (outs[0]!.shape.at(-1) ?? 1) <= SCRATCH_BYTES;
    return isPoolType(dtype) && fits ? [true] : null;
  },
  plan({ args, outs, params }, engine) {
    const pool = params as PoolParams; // The record's own.
    const { dtype, layout } = args[0]!;
    const axes = pool.window.length;
    const lead = layout.shape.length - axes;
    const sizes = outs[0]!.shape.slice(lead);
    const row = sizes.at(-1)!;
    const launch = launcher(
      engine,
      transposeCode(isPoolType(dtype) ? dtype : "uint32", axes, pool.strides.at(-1)! < pool.window.at(-1)!),
      axisNumbers(sizes, layout.shape.slice(lead), pool),
      {
        units: row === 0 ? 0 : outs[0]!.size / row,
        parallel: outs[0]!.size + sizeOf(layout.shape) * sizeOf(pool.window) >= PARALLEL_ELEMENTS,
      },
    );
    return { workspaceBytes: 0, run: ([y], [out]) => launch(y!, out!) };
  },
};

// --- elements at the places of maxima ----------------------------------------------------------------------------

/** Elements of blocks of `block`, `run` from each, at their places in it; 0 for places outside. */
const gatherCode = (bytes: number): Code<"x" | "index" | "out", "block" | "run"> => ({
  key: `pool gather of ${bytes} bytes`,
  addresses: ["x", "index", "out"],
  numbers: ["block", "run"],
  write(f, { x, index, out, block, run }) {
    const { num, add, sub, mul, div, rem, min, less, within, load, loop, push, set, advance, when, locals } =
      integers(f);
    const [unit, k, last, place] = locals(4);
    const isWide = bytes === 8;
    set(unit, BEGIN);
    set(k, rem(unit, run));
    set(x, add(x, mul(mul(div(unit, run), block), num(bytes))));
    set(index, add(index, mul(unit, num(4))));
    set(out, add(out, mul(unit, num(bytes))));
    loop(less(unit, END), () => {
      set(last, add(unit, min(sub(run, k), sub(END, unit))));
      f.loop((again) => {
        set(place, load(index));
        when(
          within(place, block),
          () => {
            f.get(out);
            push(add(x, mul(place, num(bytes))));
            if (isWide) f.memory("i64.load").memory("i64.store");
            else f.memory("i32.load").memory("i32.store");
          },
          () => {
            f.get(out);
            if (isWide) f.f64(0).memory("f64.store");
            else f.i32(0).memory("i32.store");
          },
        );
        advance(index, num(4));
        advance(out, num(bytes));
        advance(unit, num(1));
        f.get(unit).get(last).op("i32.ne").brIf(again);
      });
      set(k, num(0));
      advance(x, mul(block, num(bytes)));
    });
  },
});

const poolGather: NamedKernel = {
  prepare: () => [true, true],
  plan({ args, outs, params }, engine) {
    const { axes } = params as { readonly axes: number }; // The record's own.
    const [x, index] = args.map(({ layout }) => sizeOf(layout.shape.slice(layout.shape.length - axes)));
    const { size } = outs[0]!;
    const launch = launcher(
      engine,
      gatherCode(elements[args[0]!.dtype].bytes),
      { block: x!, run: index! },
      { units: size, grain: 64, parallel: size >= PARALLEL_ELEMENTS },
    );
    return { workspaceBytes: 0, run: (ins, [out]) => launch(ins[0]!, ins[1]!, out!) };
  },
};

const poolScatter: NamedKernel = {
  prepare: () => [true, true],
  plan({ args, outs, params }, engine) {
    const { sizes } = params as { readonly sizes: readonly number[] }; // The record's own.
    const { dtype, size } = outs[0]!;
    if (size === 0) return { workspaceBytes: 0, run: () => undefined };
    const n = sizeOf(sizes);
    const batch = size / n;
    const count = sizeOf(args[1]!.layout.shape) / batch;
    const outside = engine.heap.allocate(4);
    const scatter = planScatter(engine, { dtype, batch, before: 1, n, count, after: 1 }, outside);
    return {
      workspaceBytes: scatter.workspaceBytes,
      run: ([y, index], [out], workspace) => scatter.run(index!, y!, out!, workspace),
    };
  },
};

export const poolingKernels: ReadonlyMap<string, NamedKernel> = new Map([
  ["maxPool", windowKernel("max")],
  ["maxPoolIndex", windowKernel("index")],
  ["sumPool", windowKernel("sum")],
  ["sumPoolTranspose", sumPoolTranspose],
  ["poolGather", poolGather],
  ["poolScatter", poolScatter],
]);
