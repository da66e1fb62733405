/**
 * Cumulative sums and positions of extrema along an axis, as WebAssembly. Where other axes follow, neighbouring columns
 * are taken together; rows of the last axis are taken four at a time, or cut into four lanes where they are long.
 */
import { type DType, isFloat } from "../../dtype.ts";
import type { Shape } from "../../shape.ts";
import { sizeOf } from "../../shape.ts";
import type { FunctionBuilder, Local } from "./assembler.ts";
import { BEGIN, type Code, END, elements, integers, launcher } from "./handwritten.ts";
import type { NamedKernel } from "./named.ts";

/** Elements from which on other threads are worth their wake-up. */
const PARALLEL_ELEMENTS = 2 ** 16;

/** One axis of an array in row-major order: `outer` blocks of `n` rows of `inner` elements. */
function split(shape: Shape, axis: number): { outer: number; n: number; inner: number } {
  return { outer: sizeOf(shape.slice(0, axis)), n: shape[axis]!, inner: sizeOf(shape.slice(axis + 1)) };
}

/** Blocks of `width` columns that cover `inner`; the last one may overlap the one before it. */
const blocksOf = (inner: number, width: number): number => Math.ceil(inner / width);

// --- cumulative sums ---------------------------------------------------------------------------------------------

type SumType = Exclude<DType, "bool">;

/** Adds the elements at `from` to sums of so many columns, and stores these at `to`; float32 sums are float64. */
function addColumns(
  f: FunctionBuilder,
  dtype: SumType,
  sums: readonly Local[],
  from: Local,
  to: Local,
): void {
  const add = isFloat(dtype) ? "f64x2.add" : "i32x4.add";
  sums.forEach((sum, i) => {
    f.get(from);
    if (dtype === "float32") f.simdMemory("v128.load64_zero", 8 * i).simd("f64x2.promote_low_f32x4");
    else f.simdMemory("v128.load", 16 * i);
    f.get(sum).simd(add).set(sum);
    f.get(to).get(sum);
    if (dtype === "float32") f.simd("f32x4.demote_f64x2_zero").simdLaneMemory("v128.store64_lane", 0, 8 * i);
    else f.simdMemory("v128.store", 16 * i);
  });
}

/** Columns that one unit sums: sixteen or four in vectors, or one. */
type Width = 16 | 4 | 1;

/** `step` leads from one element of the axis to the next one that is added, `start` to the first. */
const cumsumCode = (
  dtype: SumType,
  width: Width,
): Code<"x" | "out", "n" | "inner" | "blocks" | "step" | "start"> => ({
  key: `cumulative sum of ${dtype}, ${width} columns`,
  addresses: ["x", "out"],
  numbers: ["n", "inner", "blocks", "step", "start"],
  write(f, { x, out, n, inner, blocks, step, start }) {
    const { num, add, sub, mul, div, rem, min, less, loop, set, advance, locals } = integers(f);
    const [unit, offset, from, to, k] = locals(5);
    const { bytes, load, store } = elements[dtype];
    const lanes = isFloat(dtype) ? 2 : 4;
    const sums = Array.from({ length: width === 1 ? 0 : width / lanes }, () => f.local("v128"));
    const sum = f.local(isFloat(dtype) ? "f64" : "i32");
    const parts = [0, 1, 2, 3].map(() => f.local("f64"));
    set(unit, BEGIN);
    loop(less(unit, END), () => {
      const column = min(mul(rem(unit, blocks), num(width)), sub(inner, num(width)));
      set(offset, add(mul(add(mul(mul(div(unit, blocks), n), inner), column), num(bytes)), start));
      set(from, add(x, offset));
      set(to, add(out, offset));
      for (const v of sums) f.v128(new Uint8Array(16)).set(v);
      (isFloat(dtype) ? f.f64(0) : f.i32(0)).set(sum);
      set(k, num(0));
      if (dtype === "float32" && width === 1) {
        // Four elements are summed before what came before is added, so that only one addition waits for the last.
        loop(less(add(k, num(3)), n), () => {
          parts.forEach((part, i) => {
            f.get(from).memory(load).op("f64.promote_f32");
            if (i > 0) f.get(parts[i - 1]!).op("f64.add");
            f.set(part);
            advance(from, step);
          });
          parts.forEach((part, i) => {
            f.get(to).get(sum).get(part).op("f64.add");
            if (i === 3) f.tee(sum);
            f.op("f32.demote_f64").memory(store);
            advance(to, step);
          });
          advance(k, num(4));
        });
      }
      loop(less(k, n), () => {
        if (width > 1) addColumns(f, dtype, sums, from, to);
        else {
          f.get(from).memory(load);
          if (dtype === "float32") f.op("f64.promote_f32");
          f.get(sum)
            .op(isFloat(dtype) ? "f64.add" : "i32.add")
            .set(sum);
          f.get(to).get(sum);
          if (dtype === "float32") f.op("f32.demote_f64");
          f.memory(store);
        }
        advance(from, step);
        advance(to, step);
        advance(k, num(1));
      });
      advance(unit, num(1));
    });
  },
});

const cumsum: NamedKernel = {
  prepare: ({ args }) => (args[0]!.dtype === "bool" ? null : [true]),
  plan({ outs, params }, engine) {
    const { axis, reverse } = params as { readonly axis: number; readonly reverse: boolean }; // The record's own.
    const { shape, dtype, size } = outs[0]!;
    const { outer, n, inner } = split(shape, axis);
    const width = inner >= 16 ? 16 : inner >= 4 ? 4 : 1;
    const blocks = blocksOf(inner, width);
    const rowBytes = inner * elements[dtype].bytes;
    const launch = launcher(
      engine,
      cumsumCode(dtype === "bool" ? "int32" : dtype, width),
      {
        n,
        inner,
        blocks,
        step: reverse ? -rowBytes : rowBytes,
        start: reverse ? (n - 1) * rowBytes : 0,
      },
      { units: size === 0 ? 0 : outer * blocks, parallel: size >= PARALLEL_ELEMENTS },
    );
    return { workspaceBytes: 0, run: ([x], [out]) => launch(x!, out!) };
  },
};

// --- positions of extrema ----------------------------------------------------------------------------------------

type Extremum = "argmax" | "argmin";

/** Pushes whether an element beats the best so far: it is beyond it or NaN, and there was no NaN. */
function pushBeats(f: FunctionBuilder, name: Extremum, dtype: DType, x: Local, best: Local): void {
  const { type } = elements[dtype];
  f.get(x).get(best);
  if (type === "f32" || type === "f64") {
    f.op(`${type}.${name === "argmax" ? "le" : "ge"}`).op("i32.eqz");
    f.get(best).get(best).op(`${type}.eq`).op("i32.and");
  } else f.op(`i32.${name === "argmax" ? "gt" : "lt"}_${dtype === "int32" ? "s" : "u"}`);
}

/** The same of four elements of 32 bits: a mask. */
function pushMask(f: FunctionBuilder, name: Extremum, dtype: DType, x: Local, best: Local): void {
  if (dtype === "float32") {
    f.get(best).get(best).simd("f32x4.eq").get(x).get(best);
    f.simd(name === "argmax" ? "f32x4.le" : "f32x4.ge").simd("v128.andnot");
    return;
  }
  f.get(x).get(best);
  f.simd(`i32x4.${name === "argmax" ? "gt" : "lt"}_${dtype === "int32" ? "s" : "u"}`);
}

/**
 * How elements are taken. "one": one row after the other. "rows": four rows of the last axis at a time. "long": one row
 * of it, in four lanes. "columns": four neighbouring columns at a time.
 */
type Way = "one" | "rows" | "long" | "columns";

/** Rows of at least this many elements are cut into lanes. */
const LONG = 32;

/** `step` bytes lead from one element of the axis to the next. */
const extremumCode = (
  name: Extremum,
  dtype: DType,
  way: Way,
): Code<"x" | "out", "n" | "inner" | "blocks" | "step"> => ({
  key: `${name} of ${dtype}, ${way}`,
  addresses: ["x", "out"],
  numbers: ["n", "inner", "blocks", "step"],
  write(f, { x, out, n, inner, blocks, step }) {
    const { num, add, sub, mul, div, rem, min, less, loop, push, set, advance, when, locals } = integers(f);
    const { bytes, load, type } = elements[dtype];
    const [unit, column, at, k, index, laneIndex] = locals(6);
    const pointers = [at, ...locals(3)];
    const [value, best, laneBest] = [f.local(type), f.local(type), f.local(type)];
    const [values, bests, indices, places, mask] = Array.from({ length: 5 }, () => f.local("v128")) as Five;

    /** The rest of a row: `k` and `at` are where the next element is. */
    const scanOne = (): void => {
      loop(less(k, n), () => {
        f.get(at).memory(load).set(value);
        pushBeats(f, name, dtype, value, best);
        f.when(() => {
          f.get(value).set(best);
          set(index, k);
        });
        advance(at, step);
        advance(k, num(1));
      });
    };
    const startOne = (): void => {
      f.get(at).memory(load).set(best);
      set(index, num(0));
      set(k, num(1));
      advance(at, step);
    };
    const pushFour = (): void => {
      if (way !== "rows") {
        f.get(at).simdMemory("v128.load");
        return;
      }
      f.get(at).simdMemory("v128.load32_zero").set(values);
      for (let lane = 1; lane < 4; lane++) {
        f.get(pointers[lane]!).get(values).simdLaneMemory("v128.load32_lane", lane);
        if (lane < 3) f.set(values);
      }
    };
    /** Four lanes; `many` of their elements follow each other along the axis. */
    const scanFour = (many: 1 | 4): void => {
      pushFour();
      f.set(bests);
      f.v128(new Uint8Array(Int32Array.from([0, 1, 2, 3].map((lane) => (many === 4 ? lane : 0))).buffer));
      f.tee(places).set(indices);
      set(k, num(many));
      const next = (): void => {
        for (const p of way === "rows" ? pointers : [at]) advance(p, many === 4 ? num(16) : step);
        f.get(places).i32(many).simd("i32x4.splat").simd("i32x4.add").set(places);
      };
      next();
      loop(less(add(k, num(many - 1)), n), () => {
        pushFour();
        f.set(values);
        pushMask(f, name, dtype, values, bests);
        f.set(mask);
        f.get(values).get(bests).get(mask).simd("v128.bitselect").set(bests);
        f.get(places).get(indices).get(mask).simd("v128.bitselect").set(indices);
        next();
        advance(k, num(many));
      });
    };
    /** The best of the four lanes; of equals, the first along the axis. */
    const joinLanes = (): void => {
      const extract = (lane: number): void => {
        f.get(bests);
        f.lane(type === "f32" ? "f32x4.extract_lane" : "i32x4.extract_lane", lane);
      };
      extract(0);
      f.set(best).get(indices).lane("i32x4.extract_lane", 0).set(index);
      for (let lane = 1; lane < 4; lane++) {
        extract(lane);
        f.set(laneBest).get(indices).lane("i32x4.extract_lane", lane).set(laneIndex);
        pushBeats(f, name, dtype, laneBest, best);
        // As good, both NaN included: neither beats the other.
        pushBeats(f, name, dtype, best, laneBest);
        f.op("i32.eqz");
        push(less(laneIndex, index));
        f.op("i32.and").op("i32.or");
        f.when(() => {
          f.get(laneBest).set(best);
          set(index, laneIndex);
        });
      }
    };
    const store = (): void => {
      f.get(out);
      push(mul(unit, num(4)));
      f.op("i32.add").get(index).memory("i32.store");
    };

    set(unit, BEGIN);
    loop(less(unit, END), () => {
      if (way === "columns") {
        set(column, min(mul(rem(unit, blocks), num(4)), sub(inner, num(4))));
        set(at, add(x, mul(add(mul(mul(div(unit, blocks), n), inner), column), num(bytes))));
        scanFour(1);
        push(add(out, mul(add(mul(div(unit, blocks), inner), column), num(4))));
        f.get(indices).simdMemory("v128.store");
        advance(unit, num(1));
        return;
      }
      const oneRow = (): void => {
        set(at, add(x, mul(add(mul(mul(div(unit, inner), n), inner), rem(unit, inner)), num(bytes))));
        if (way === "long") {
          scanFour(4);
          joinLanes();
        } else startOne();
        scanOne();
        store();
        advance(unit, num(1));
      };
      if (way !== "rows") {
        oneRow();
        return;
      }
      when(
        less(add(unit, num(3)), END),
        () => {
          set(at, add(x, mul(mul(unit, n), num(4))));
          for (let lane = 1; lane < 4; lane++) set(pointers[lane]!, add(pointers[lane - 1]!, mul(n, num(4))));
          scanFour(1);
          push(add(out, mul(unit, num(4))));
          f.get(indices).simdMemory("v128.store");
          advance(unit, num(4));
        },
        oneRow,
      );
    });
  },
});

type Five = [Local, Local, Local, Local, Local];

function wayOf(dtype: DType, n: number, inner: number): Way {
  if (elements[dtype].bytes !== 4) return "one";
  if (inner === 1) return n >= LONG ? "long" : "rows";
  return inner >= 4 ? "columns" : "one";
}

const extremum = (name: Extremum): NamedKernel => ({
  prepare: () => [true],
  plan({ args, outs, params }, engine) {
    const { axis } = params as { readonly axis: number }; // The record's own.
    const { dtype, layout } = args[0]!;
    const { outer, n, inner } = split(layout.shape, axis);
    const way = wayOf(dtype, n, inner);
    const blocks = way === "columns" ? blocksOf(inner, 4) : inner;
    const { size } = outs[0]!;
    const launch = launcher(
      engine,
      extremumCode(name, dtype, way),
      { n, inner, blocks, step: inner * elements[dtype].bytes },
      { units: size === 0 ? 0 : outer * blocks, grain: 4, parallel: size * n >= PARALLEL_ELEMENTS },
    );
    return { workspaceBytes: 0, run: ([x], [out]) => launch(x!, out!) };
  },
});

export const scanKernels: ReadonlyMap<string, NamedKernel> = new Map([
  ["cumsum", cumsum],
  ["argmax", extremum("argmax")],
  ["argmin", extremum("argmin")],
]);
