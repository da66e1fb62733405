/**
 * The matrix product as WebAssembly: C[i, j] = sum over l of A[i, l] B[l, j], for operands with any strides.
 *
 * A tile of six rows and two vectors of columns is kept in twelve registers while l runs over a block of at most
 * `DEEP` products, so that its rows of A stay in the first cache and a block of B in the second. Both are packed first:
 * B side by side as tiles read it, A with each element repeated in all lanes, since repeating one costs more than the
 * multiplication it is for. Each element's sum is over blocks of l in order, however the tiles are shared out.
 */
import {
  FunctionBuilder,
  type LaneMemoryOp,
  type Local,
  type MemoryOp,
  type ModuleBuilder,
  type PlainOp,
  type VectorOp,
} from "./assembler.ts";
import { PRODUCT_WORDS, type ProductWord } from "./product_words.ts";
import { type Term, termsOf } from "./terms.ts";
import { SCRATCH_BYTES } from "./threads.ts";

/** Element types of products; int32 and uint32 are the same modulo 2^32. */
export type GemmType = "float32" | "float64" | "int32" | "uint32";

const types: ReadonlySet<string> = new Set<GemmType>(["float32", "float64", "int32", "uint32"]);
export const isGemmType = (dtype: string): dtype is GemmType => types.has(dtype);

/** How one element type is computed with. */
export interface Lanes {
  readonly bytes: number;
  readonly lanes: number;
  readonly load: MemoryOp;
  readonly store: MemoryOp;
  readonly splat: VectorOp;
  readonly multiply: VectorOp;
  readonly add: VectorOp;
  readonly multiplyAdd: VectorOp | null;
  readonly addOne: PlainOp;
  readonly storeOne: LaneMemoryOp;
}

const float32: Lanes = {
  bytes: 4,
  lanes: 4,
  load: "f32.load",
  store: "f32.store",
  splat: "f32x4.splat",
  multiply: "f32x4.mul",
  add: "f32x4.add",
  multiplyAdd: "f32x4.relaxed_madd",
  addOne: "f32.add",
  storeOne: "v128.store32_lane",
};
const float64: Lanes = {
  bytes: 8,
  lanes: 2,
  load: "f64.load",
  store: "f64.store",
  splat: "f64x2.splat",
  multiply: "f64x2.mul",
  add: "f64x2.add",
  multiplyAdd: "f64x2.relaxed_madd",
  addOne: "f64.add",
  storeOne: "v128.store64_lane",
};
const integer32: Lanes = {
  bytes: 4,
  lanes: 4,
  load: "i32.load",
  store: "i32.store",
  splat: "i32x4.splat",
  multiply: "i32x4.mul",
  add: "i32x4.add",
  multiplyAdd: null,
  addOne: "i32.add",
  storeOne: "v128.store32_lane",
};
export const lanesOf: Readonly<Record<GemmType, Lanes>> = {
  float32,
  float64,
  int32: integer32,
  uint32: integer32,
};

/** Rows of a tile, vectors of a row of it: twelve sums, which leaves four of sixteen registers for the operands. */
export const ROWS = 6;
export const VECTORS = 2;
/** Products summed before the sum is added to C: the repeated rows of A and one panel of B fill the first cache. */
export const DEEP = 192;
/** Scratch of a thread: the packed rows of A, the packed block of B, and what the caller of `product` keeps there. */
const PACKED_A_BYTES: number = ROWS * DEEP * 16;
export const PACKED_B_BYTES: number = SCRATCH_BYTES / 2;
export const PRODUCT_SCRATCH_BYTES: number = PACKED_A_BYTES + PACKED_B_BYTES;

export const ZERO: Uint8Array = new Uint8Array(16);

export const count = (n: number): number[] => Array.from({ length: n }, (_, i) => i);

/** sum += x y, all of them vectors. */
export function multiplyAdd(
  f: FunctionBuilder,
  t: Lanes,
  fused: boolean,
  sum: Local,
  x: Local,
  y: Local,
): void {
  if (fused && t.multiplyAdd) f.get(x).get(y).get(sum).simd(t.multiplyAdd).set(sum);
  else f.get(x).get(y).simd(t.multiply).get(sum).simd(t.add).set(sum);
}

// --- one tile ----------------------------------------------------------------------------------------------------

/** Stores the first lanes of a vector, all but one at most. */
export function storeSome(
  f: FunctionBuilder,
  t: Lanes,
  to: Local,
  at: number,
  lanes: Local,
  value: Local,
): void {
  const { when, equal, constant } = termsOf(f);
  const one = (): unknown => f.get(to).get(value).simdLaneMemory(t.storeOne, 0, at);
  if (t.lanes === 2) one();
  else
    when(equal(lanes, constant(1)), one, () => {
      f.get(to).get(value).simdLaneMemory("v128.store64_lane", 0, at);
      when(equal(lanes, constant(3)), () =>
        f
          .get(to)
          .get(value)
          .simdLaneMemory(t.storeOne, 2, at + 8),
      );
    });
}

/**
 * A tile of some rows and vectors: (a, aRow, aColumn, b, bRow, k, c, cRow, last, more), strides in bytes. A is packed,
 * its strides then unused, or read where it is. `last` counts the lanes of the last vector that are stored.
 */
function tile(t: Lanes, rows: number, vectors: number, packed: boolean, fused: boolean): FunctionBuilder {
  const f = new FunctionBuilder(["i32", "i32", "i32", "i32", "i32", "i32", "i32", "i32", "i32", "i32"]);
  const [a, aRow, aColumn, b, bRow, k, c, cRow, last, more] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9];
  const { set, advance, plus, constant, when, equal } = termsOf(f);
  const sums = count(rows * vectors).map(() => f.local("v128"));
  const ys = count(vectors).map(() => f.local("v128"));
  const x = f.local("v128");
  const pointers = packed ? [] : count(rows).map(() => f.local("i32"));
  pointers.forEach((p, i) => {
    set(p, i === 0 ? a : plus(pointers[i - 1]!, aRow));
  });
  for (const sum of sums) f.v128(ZERO).set(sum);
  when(k, () =>
    f.loop((again) => {
      ys.forEach((y, j) => {
        f.get(b)
          .simdMemory("v128.load", 16 * j)
          .set(y);
      });
      for (let i = 0; i < rows; i++) {
        const p = pointers[i];
        if (p === undefined) f.get(a).simdMemory("v128.load", 16 * i);
        else f.get(p).memory(t.load).simd(t.splat);
        f.set(x);
        if (p !== undefined) advance(p, aColumn);
        ys.forEach((y, j) => {
          multiplyAdd(f, t, fused, sums[i * vectors + j]!, x, y);
        });
      }
      if (packed) advance(a, constant(16 * rows));
      advance(b, bRow);
      f.get(k).i32(1).op("i32.sub").tee(k).brIf(again);
    }),
  );
  for (let i = 0; i < rows; i++) {
    const row = sums.slice(i * vectors, (i + 1) * vectors);
    const store = (j: number): unknown =>
      f
        .get(c)
        .get(row[j]!)
        .simdMemory("v128.store", 16 * j);
    when(more, () => {
      row.forEach((sum, j) => {
        f.get(c)
          .simdMemory("v128.load", 16 * j)
          .get(sum)
          .simd(t.add)
          .set(sum);
      });
    });
    const end = vectors - 1;
    for (let j = 0; j < end; j++) store(j);
    when(
      equal(last, constant(t.lanes)),
      () => store(end),
      () => storeSome(f, t, c, 16 * end, last, row[end]!),
    );
    if (i < rows - 1) advance(c, cRow);
  }
  return f;
}

// --- packing -----------------------------------------------------------------------------------------------------

/** Rows of A, each element in all lanes: (a, aRow, aColumn, k, rows, to) writes to[l, i] = a[i, l]. */
function packRows(t: Lanes): FunctionBuilder {
  const f = new FunctionBuilder(["i32", "i32", "i32", "i32", "i32", "i32"]);
  const [a, aRow, aColumn, k, rows, to] = [0, 1, 2, 3, 4, 5];
  const { set, advance, plus, times, constant, when, equal, both, each, locals } = termsOf(f);
  const { i, l, from, into, whole } = locals("i", "l", "from", "into", "whole");
  const copy = (at: number, atTo: number): void => {
    f.get(into).get(from).memory(t.load, at).simd(t.splat).simdMemory("v128.store", atTo);
  };
  const full = equal(rows, constant(ROWS));
  f.block((done) => {
    // Neighbours in memory are addressed from one pointer: six of a column, or four of a row.
    when(both(full, equal(aRow, constant(t.bytes))), () => {
      set(from, a);
      set(into, to);
      each(l, constant(0), k, 1, () => {
        for (const r of count(ROWS)) copy(r * t.bytes, 16 * r);
        advance(from, aColumn);
        advance(into, constant(16 * ROWS));
      });
      f.br(done);
    });
    each(i, constant(0), rows, 1, () => {
      set(from, plus(a, times(i, aRow)));
      set(into, plus(to, times(i, constant(16))));
      set(l, constant(0));
      set(whole, both(k, constant(-4)));
      when(both(full, equal(aColumn, constant(t.bytes))), () =>
        each(l, l, whole, 4, () => {
          for (const u of count(4)) copy(u * t.bytes, 16 * ROWS * u);
          advance(from, constant(4 * t.bytes));
          advance(into, constant(4 * 16 * ROWS));
        }),
      );
      each(l, l, k, 1, () => {
        copy(0, 0);
        advance(from, aColumn);
        advance(into, times(rows, constant(16)));
      });
    });
  });
  return f;
}

/**
 * A block of B as panels of a tile's columns: (b, bRow, bColumn, k, n, to) writes to[panel, l, j]. Columns after the
 * last are copies of anything: what is computed from them is not stored.
 */
function packColumns(t: Lanes): FunctionBuilder {
  const width = VECTORS * t.lanes;
  const f = new FunctionBuilder(["i32", "i32", "i32", "i32", "i32", "i32"]);
  const [b, bRow, bColumn, k, n, to] = [0, 1, 2, 3, 4, 5];
  const { set, advance, plus, minus, times, smaller, constant, when, equal, both, each, locals } = termsOf(f);
  const { j, l, q, whole } = locals("j", "l", "q", "whole");
  const from = count(4).map(() => f.local("i32"));
  const copyAll = (u: number): void => {
    from.forEach((p, i) => {
      f.get(q)
        .get(p)
        .memory(t.load, u * t.bytes)
        .memory(t.store, (u * width + i) * t.bytes);
    });
  };
  set(whole, both(k, constant(-4)));
  const neighbours = (): void => {
    set(q, plus(b, times(j, constant(t.bytes))));
    each(l, constant(0), k, 1, () => {
      for (const v of count(VECTORS))
        f.get(to)
          .get(q)
          .simdMemory("v128.load", 16 * v)
          .simdMemory("v128.store", 16 * v);
      advance(q, bRow);
      advance(to, constant(16 * VECTORS));
    });
  };
  /** Four columns at a time, one element each; four deep where those are neighbours in memory. */
  const strided = (): void => {
    for (let first = 0; first < width; first += 4) {
      const columns = Math.min(4, width - first);
      from.slice(0, columns).forEach((p, i) => {
        set(p, plus(b, times(smaller(plus(j, constant(first + i)), minus(n, constant(1))), bColumn)));
      });
      set(q, plus(to, constant(first * t.bytes)));
      set(l, constant(0));
      when(equal(bRow, constant(t.bytes)), () =>
        each(l, l, whole, 4, () => {
          for (const u of count(4)) copyAll(u);
          for (const p of from) advance(p, constant(4 * t.bytes));
          advance(q, constant(4 * width * t.bytes));
        }),
      );
      each(l, l, k, 1, () => {
        copyAll(0);
        for (const p of from) advance(p, bRow);
        advance(q, constant(width * t.bytes));
      });
    }
    advance(to, times(k, constant(width * t.bytes)));
  };
  each(j, constant(0), n, width, () => when(equal(bColumn, constant(t.bytes)), neighbours, strided));
  return f;
}

// --- the product -------------------------------------------------------------------------------------------------

/** Adds a product to a module, under a name; returns the index of this kernel. */
export function addProduct(module: ModuleBuilder, name: string, dtype: GemmType, fused: boolean): number {
  const t = lanesOf[dtype];
  const tiles = [false, true].map((packed) =>
    count(ROWS).map((r) =>
      count(VECTORS).map((v) =>
        module.add(`tile${packed ? "Packed" : ""}${r + 1}x${v + 1}`, tile(t, r + 1, v + 1, packed, fused)),
      ),
    ),
  );
  const packA = module.add("packRows", packRows(t));
  const packB = module.add("packColumns", packColumns(t));
  return module.add(name, product(t, tiles, packA, packB));
}

/**
 * Units are panels of rows within a block of columns within a batch; neighbours in a range share the packed block.
 * `tiles` by whether A is packed, rows - 1 and vectors - 1.
 */
function product(
  t: Lanes,
  tiles: readonly (readonly (readonly number[])[])[],
  packA: number,
  packB: number,
): FunctionBuilder {
  const f = new FunctionBuilder(["i32", "i32", "i32", "i32"]);
  const [begin, end, args, scratch] = [0, 1, 2, 3];
  const width = VECTORS * t.lanes;
  const {
    push,
    set,
    advance,
    plus,
    minus,
    times,
    over,
    smaller,
    less,
    equal,
    constant,
    when,
    each,
    load,
    locals,
  } = termsOf(f);
  const word = (name: ProductWord): Term => load(args, 4 * PRODUCT_WORDS.indexOf(name));
  const { batch, rest, first, j0, columns, stop, l0, deep } = locals(
    ...(["batch", "rest", "first", "j0", "columns", "stop", "l0", "deep"] as const),
  );
  const { i, rows, j, left, a, b, c } = locals("i", "rows", "j", "left", "a", "b", "c");
  const { x, xRow, xColumn, y, yRow, panel, z, zRow, more, packedB } = locals(
    ...(["x", "xRow", "xColumn", "y", "yRow", "panel", "z", "zRow", "more", "packedB"] as const),
  );

  const multiplyTile = (packed: number, r: number): void => {
    const call = (v: number): void => {
      const last = minus(left, constant(v * t.lanes));
      for (const p of [x, xRow, xColumn, y, yRow, deep, z, zRow, last, more]) push(p);
      f.call(tiles[packed]![r]![v]!);
    };
    when(
      less(constant(t.lanes), left),
      () => call(1),
      () => call(0),
    );
  };
  /** The tile with as many rows as there are: most have all. */
  const choose = (packed: number, r: number): void => {
    if (r === 0) multiplyTile(packed, 0);
    else
      when(
        equal(rows, constant(r + 1)),
        () => multiplyTile(packed, r),
        () => choose(packed, r - 1),
      );
  };
  /** Rows [i, i + rows) of the block. */
  const multiplyRows = (): void => {
    set(rows, smaller(minus(stop, i), constant(ROWS)));
    set(x, plus(a, times(i, xRow)));
    when(word("packsA"), () => {
      for (const p of [x, xRow, xColumn, deep, rows, scratch]) push(p);
      f.call(packA);
      set(x, scratch);
    });
    set(y, b);
    set(panel, constant(width * t.bytes));
    when(word("packsB"), () => {
      set(y, packedB);
      set(panel, times(deep, panel));
    });
    set(z, plus(c, times(i, zRow)));
    each(j, constant(0), columns, width, () => {
      set(left, smaller(minus(columns, j), constant(width)));
      when(
        word("packsA"),
        () => choose(1, ROWS - 1),
        () => choose(0, ROWS - 1),
      );
      advance(y, panel);
      advance(z, constant(width * t.bytes));
    });
  };

  set(xRow, word("aRow"));
  set(xColumn, word("aColumn"));
  set(zRow, word("cRow"));
  set(packedB, plus(scratch, constant(PACKED_A_BYTES)));
  f.block((done) => {
    f.loop((nextRange) => {
      push(less(begin, end)).op("i32.eqz").brIf(done);
      // begin = (batch, block of columns, first panel of rows).
      set(batch, over(begin, word("units")));
      set(rest, minus(begin, times(batch, word("units"))));
      set(j0, over(rest, word("panels")));
      set(first, minus(rest, times(j0, word("panels"))));
      set(rest, smaller(minus(end, begin), minus(word("panels"), first)));
      advance(begin, rest);
      set(stop, smaller(times(plus(first, rest), word("tall")), word("m")));
      set(first, times(first, word("tall")));
      set(j0, times(j0, word("wide")));
      set(columns, smaller(minus(word("n"), j0), word("wide")));
      set(a, plus(word("a"), times(batch, word("aBatch"))));
      set(b, plus(word("b"), times(batch, word("bBatch")), times(j0, word("bColumn"))));
      set(c, plus(word("c"), times(batch, word("cBatch")), times(j0, constant(t.bytes))));
      set(l0, constant(0));
      set(more, word("more"));
      f.loop((nextDepth) => {
        set(deep, smaller(minus(word("k"), l0), word("deep")));
        set(yRow, word("bRow"));
        when(word("packsB"), () => {
          for (const p of [b, yRow, word("bColumn"), deep, columns, packedB]) push(p);
          f.call(packB);
          set(yRow, constant(width * t.bytes));
        });
        each(i, first, stop, ROWS, multiplyRows);
        advance(a, times(deep, xColumn));
        advance(b, times(deep, word("bRow")));
        advance(l0, deep);
        set(more, constant(1));
        push(less(l0, word("k"))).brIf(nextDepth);
      });
      f.br(nextRange);
    });
  });
  return f;
}
