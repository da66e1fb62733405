/**
 * The matrix product as WebAssembly: C[i, j] = sum over l of A[i, l] B[l, j], for operands with any strides.
 *
 * A tile of six rows and two vectors of columns is kept in twelve registers while l runs over a block of at most
 * `DEEP` products, so that its row of A stays in the first cache and a block of B in the second. Both are packed first:
 * B side by side as tiles read it, A with each element repeated in all lanes, since a repeating load costs more than
 * the multiplication it is for. Each element's sum is over blocks of l in order, however the tiles are shared out.
 */
import { invariant } from "../../errors.ts";
import {
  FunctionBuilder,
  type LaneMemoryOp,
  type Local,
  type MemoryOp,
  ModuleBuilder,
  type VectorOp,
} from "./assembler.ts";
import { type Engine, type LoadedKernel, SCRATCH_BYTES } from "./engine.ts";

/** Element types of products; int32 and uint32 are the same modulo 2^32. */
export type GemmType = "float32" | "float64" | "int32" | "uint32";

/** Elements from one row, column and matrix to the next; 0 repeats, negative goes back. */
export interface Strides {
  readonly row: number;
  readonly column: number;
  readonly batch: number;
}

/** `batches` products of `[m, k]` and `[k, n]`. */
export interface GemmShape {
  readonly dtype: GemmType;
  readonly batches: number;
  readonly m: number;
  readonly n: number;
  readonly k: number;
  readonly a: Strides;
  readonly b: Strides;
}

/** A product with everything decided but where the matrices are: byte pointers to their first elements. */
export interface Gemm {
  /** C is row-major, its matrices one after the other. */
  run(a: number, b: number, c: number): void;
}

/** How one element type is computed with. */
interface Lanes {
  readonly bytes: number;
  readonly lanes: number;
  readonly load: MemoryOp;
  readonly store: MemoryOp;
  readonly splat: VectorOp;
  readonly multiply: VectorOp;
  readonly add: VectorOp;
  readonly multiplyAdd: VectorOp | null;
  readonly storeLane: LaneMemoryOp;
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
  storeLane: "v128.store32_lane",
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
  storeLane: "v128.store64_lane",
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
  storeLane: "v128.store32_lane",
};
const lanesOf: Readonly<Record<GemmType, Lanes>> = {
  float32,
  float64,
  int32: integer32,
  uint32: integer32,
};

/** Rows of a tile, vectors of a row of it: twelve sums, which leaves four of sixteen registers for the operands. */
const ROWS = 6;
const VECTORS = 2;
/** Products summed before the sum is added to C: six repeated rows of A are then 24 KiB. */
const DEEP = 256;
/** Scratch of a thread: first the packed rows of A, then the packed block of B. */
const PACKED_A_BYTES: number = ROWS * DEEP * 16;
const PACKED_B_BYTES: number = SCRATCH_BYTES / 2;
/** Up to this many columns, A is read where it is: packing would cost as much as multiplying. */
const NARROW_VECTORS = 4;
/** Up to this many rows, B is read where it is if its rows are contiguous. */
const FEW_ROWS = 24;

// --- one tile ----------------------------------------------------------------------------------------------------

/** Code that does something for each of n things, with their numbers. */
const each = <T>(n: number, make: (i: number) => T): T[] => Array.from({ length: n }, (_, i) => make(i));

const ZERO = new Uint8Array(16);

/** acc += x y, all on vectors. */
function multiplyAdd(f: FunctionBuilder, t: Lanes, fused: boolean, acc: Local, x: Local, y: Local): void {
  if (fused && t.multiplyAdd) f.get(x).get(y).get(acc).simd(t.multiplyAdd).set(acc);
  else f.get(x).get(y).simd(t.multiply).get(acc).simd(t.add).set(acc);
}

/** Stores the first `count` lanes, 1 to all but one, of a vector. */
function storeSome(
  f: FunctionBuilder,
  t: Lanes,
  pointer: Local,
  count: Local,
  value: Local,
  at: number,
): void {
  if (t.lanes === 2) {
    f.get(pointer).get(value).simdLaneMemory(t.storeLane, 0, at);
    return;
  }
  f.get(count)
    .i32(1)
    .op("i32.eq")
    .when(
      () => f.get(pointer).get(value).simdLaneMemory("v128.store32_lane", 0, at),
      () => {
        f.get(pointer).get(value).simdLaneMemory("v128.store64_lane", 0, at);
        f.get(count)
          .i32(3)
          .op("i32.eq")
          .when(() =>
            f
              .get(pointer)
              .get(value)
              .simdLaneMemory("v128.store32_lane", 2, at + 8),
          );
      },
    );
}

/**
 * A tile of `rows` rows and `vectors` vectors:
 * (a, aRow, aColumn, b, bRow, k, c, cRow, last, more), strides in bytes. A is packed, its strides then unused, or read
 * where it is. `last` counts the lanes of the last vector that are stored; `more` adds to C.
 */
function tile(t: Lanes, rows: number, vectors: number, packed: boolean, fused: boolean): FunctionBuilder {
  const f = new FunctionBuilder(each(10, () => "i32"));
  const [a, aRow, aColumn, b, bRow, k, c, cRow, last, more] = each(10, (i) => i) as [
    Local,
    Local,
    Local,
    Local,
    Local,
    Local,
    Local,
    Local,
    Local,
    Local,
  ];
  const sums = each(rows * vectors, () => f.local("v128"));
  const ys = each(vectors, () => f.local("v128"));
  const x = f.local("v128");
  const pointers = packed ? [] : each(rows, () => f.local("i32"));
  pointers.forEach((p, i) => {
    if (i === 0) f.get(a).set(p);
    else
      f.get(pointers[i - 1]!)
        .get(aRow)
        .op("i32.add")
        .set(p);
  });
  for (const sum of sums) f.v128(ZERO).set(sum);
  f.get(k).when(() => {
    f.loop((again) => {
      ys.forEach((y, j) =>
        f
          .get(b)
          .simdMemory("v128.load", 16 * j)
          .set(y),
      );
      for (let i = 0; i < rows; i++) {
        if (packed)
          f.get(a)
            .simdMemory("v128.load", 16 * i)
            .set(x);
        else {
          f.get(pointers[i]!).memory(t.load).simd(t.splat).set(x);
          f.get(pointers[i]!).get(aColumn).op("i32.add").set(pointers[i]!);
        }
        ys.forEach((y, j) => multiplyAdd(f, t, fused, sums[i * vectors + j]!, x, y));
      }
      if (packed)
        f.get(a)
          .i32(16 * rows)
          .op("i32.add")
          .set(a);
      f.get(b).get(bRow).op("i32.add").set(b);
      f.get(k).i32(1).op("i32.sub").tee(k).brIf(again);
    });
  });
  for (let i = 0; i < rows; i++) {
    const row = sums.slice(i * vectors, (i + 1) * vectors);
    f.get(more).when(() => {
      row.forEach((sum, j) =>
        f
          .get(c)
          .simdMemory("v128.load", 16 * j)
          .get(sum)
          .simd(t.add)
          .set(sum),
      );
    });
    row.forEach((sum, j) => {
      const whole = (): unknown =>
        f
          .get(c)
          .get(sum)
          .simdMemory("v128.store", 16 * j);
      if (j < vectors - 1) whole();
      else
        f.get(last)
          .i32(t.lanes)
          .op("i32.eq")
          .when(whole as () => void, () => storeSome(f, t, c, last, sum, 16 * j));
    });
    if (i < rows - 1) f.get(c).get(cRow).op("i32.add").set(c);
  }
  return f;
}

// --- packing -----------------------------------------------------------------------------------------------------

/** Rows of A, each element in all lanes: (a, aRow, aColumn, k, rows, to) writes to[l, i] = a[i, l]. */
function packRows(t: Lanes): FunctionBuilder {
  const f = new FunctionBuilder(each(6, () => "i32"));
  const [a, aRow, aColumn, k, rows, to] = [0, 1, 2, 3, 4, 5];
  const [i, l, from, into, step] = each(5, () => f.local("i32")) as [Local, Local, Local, Local, Local];
  /** One element `at` bytes after `from` to `atTo` bytes after `into`. */
  const copy = (at: number, atTo: number): void => {
    f.get(into).get(from).memory(t.load, at).simd(t.splat).simdMemory("v128.store", atTo);
  };
  const advance = (p: Local, by: () => void): void => {
    f.get(p);
    by();
    f.op("i32.add").set(p);
  };
  const full = (): unknown => f.get(rows).i32(ROWS).op("i32.eq");
  f.block((done) => {
    // Neighbours in memory are addressed from one pointer: six of a column, or four of a row.
    full();
    f.get(aRow)
      .i32(t.bytes)
      .op("i32.eq")
      .op("i32.and")
      .when(() => {
        f.get(a).set(from).get(to).set(into);
        f.for(
          l,
          () => f.i32(0),
          () => f.get(k),
          1,
          () => {
            for (let r = 0; r < ROWS; r++) copy(r * t.bytes, 16 * r);
            advance(from, () => f.get(aColumn));
            advance(into, () => f.i32(16 * ROWS));
          },
        );
        f.br(done);
      });
    f.get(rows).i32(16).op("i32.mul").set(step);
    f.for(
      i,
      () => f.i32(0),
      () => f.get(rows),
      1,
      () => {
        f.get(a).get(i).get(aRow).op("i32.mul").op("i32.add").set(from);
        f.get(to).get(i).i32(16).op("i32.mul").op("i32.add").set(into);
        f.i32(0).set(l);
        full();
        f.get(aColumn)
          .i32(t.bytes)
          .op("i32.eq")
          .op("i32.and")
          .when(() => {
            f.for(
              l,
              () => f.i32(0),
              () => f.get(k).i32(-4).op("i32.and"),
              4,
              () => {
                for (let u = 0; u < 4; u++) copy(u * t.bytes, 16 * ROWS * u);
                advance(from, () => f.i32(4 * t.bytes));
                advance(into, () => f.i32(4 * 16 * ROWS));
              },
            );
          });
        f.for(
          l,
          () => f.get(l),
          () => f.get(k),
          1,
          () => {
            copy(0, 0);
            advance(from, () => f.get(aColumn));
            advance(into, () => f.get(step));
          },
        );
      },
    );
  });
  return f;
}

/**
 * A block of B as panels of one tile's columns: (b, bRow, bColumn, k, n, to) writes to[panel, l, j]. Columns after the
 * last are copies of anything: what is computed from them is not stored.
 */
function packColumns(t: Lanes): FunctionBuilder {
  const width = VECTORS * t.lanes;
  const f = new FunctionBuilder(each(6, () => "i32"));
  const [b, bRow, bColumn, k, n, into] = [0, 1, 2, 3, 4, 5];
  const [j, l, q] = each(3, () => f.local("i32")) as [Local, Local, Local];
  const from = each(4, () => f.local("i32"));
  const add = (p: Local, by: () => void): void => {
    f.get(p);
    by();
    f.op("i32.add").set(p);
  };
  f.for(
    j,
    () => f.i32(0),
    () => f.get(n),
    width,
    () => {
      f.get(bColumn)
        .i32(t.bytes)
        .op("i32.eq")
        .when(
          () => {
            f.get(b).get(j).i32(t.bytes).op("i32.mul").op("i32.add").set(q);
            f.for(
              l,
              () => f.i32(0),
              () => f.get(k),
              1,
              () => {
                for (let v = 0; v < VECTORS; v++)
                  f.get(into)
                    .get(q)
                    .simdMemory("v128.load", 16 * v)
                    .simdMemory("v128.store", 16 * v);
                add(q, () => f.get(bRow));
                add(into, () => f.i32(16 * VECTORS));
              },
            );
          },
          () => {
            // Four columns at a time, one element each; four deep where those are neighbours in memory.
            for (let first = 0; first < width; first += 4) {
              from.forEach((p, i) => {
                // Column min(j + first + i, n - 1), so that nothing outside B is read.
                f.get(j)
                  .i32(first + i)
                  .op("i32.add")
                  .tee(p)
                  .get(n)
                  .i32(1)
                  .op("i32.sub")
                  .get(p)
                  .get(n)
                  .op("i32.lt_s");
                f.op("select").get(bColumn).op("i32.mul").get(b).op("i32.add").set(p);
              });
              f.get(into)
                .i32(first * t.bytes)
                .op("i32.add")
                .set(q);
              f.i32(0).set(l);
              f.get(bRow)
                .i32(t.bytes)
                .op("i32.eq")
                .when(() => {
                  f.for(
                    l,
                    () => f.i32(0),
                    () => f.get(k).i32(-4).op("i32.and"),
                    4,
                    () => {
                      for (let u = 0; u < 4; u++)
                        from.forEach((p, i) => {
                          const to = (u * width + i) * t.bytes;
                          f.get(q)
                            .get(p)
                            .memory(t.load, u * t.bytes)
                            .memory(t.store, to);
                        });
                      for (const p of from) add(p, () => f.i32(4 * t.bytes));
                      add(q, () => f.i32(4 * width * t.bytes));
                    },
                  );
                });
              f.for(
                l,
                () => f.get(l),
                () => f.get(k),
                1,
                () => {
                  from.forEach((p, i) =>
                    f
                      .get(q)
                      .get(p)
                      .memory(t.load)
                      .memory(t.store, i * t.bytes),
                  );
                  for (const p of from) add(p, () => f.get(bRow));
                  add(q, () => f.i32(width * t.bytes));
                },
              );
            }
            f.get(into)
              .get(k)
              .i32(width * t.bytes)
              .op("i32.mul")
              .op("i32.add")
              .set(into);
          },
        );
    },
  );
  return f;
}

// --- the product -------------------------------------------------------------------------------------------------

/** Words of the argument block of `product`; strides in bytes. */
const WORDS = [
  ...["a", "b", "c", "aRow", "aColumn", "aBatch", "bRow", "bColumn", "bBatch", "cRow", "cBatch"],
  ...["m", "n", "k", "deep", "wide", "packsA", "packsB", "more", "panels", "units"],
] as const;
type Word = (typeof WORDS)[number];

/** Adds to a module the functions of a product; returns the index of `product`, a kernel. */
export function addProduct(module: ModuleBuilder, dtype: GemmType, fused: boolean): number {
  const t = lanesOf[dtype];
  const tiles = [true, false].map((packed) =>
    each(ROWS, (r) =>
      each(VECTORS, (v) =>
        module.add(`tile${r + 1}x${v + 1}${packed ? "p" : ""}`, tile(t, r + 1, v + 1, packed, fused)),
      ),
    ),
  );
  const packA = module.add("packRows", packRows(t));
  const packB = module.add("packColumns", packColumns(t));
  return module.add("product", product(t, tiles, packA, packB));
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
  const f = new FunctionBuilder(each(4, () => "i32"));
  const [begin, end, args, scratch] = [0, 1, 2, 3];
  const width = VECTORS * t.lanes;
  const word = (name: Word): FunctionBuilder => f.get(args).memory("i32.load", 4 * WORDS.indexOf(name));
  const [batch, rest, first, count, i1, j0, columns, l0, deep, i, rows, j, left] = each(13, () =>
    f.local("i32"),
  ) as [Local, Local, Local, Local, Local, Local, Local, Local, Local, Local, Local, Local, Local];
  const [a, b, c, x, xRow, xColumn, y, yRow, panel, z, zRow, more, packedB] = each(13, () =>
    f.local("i32"),
  ) as [Local, Local, Local, Local, Local, Local, Local, Local, Local, Local, Local, Local, Local];
  const minimum = (p: Local, q: Local): FunctionBuilder =>
    f.get(p).get(q).get(p).get(q).op("i32.lt_s").op("select");

  const multiplyTile = (packed: number, rowsLess1: number): void => {
    const call = (vectors: number): void => {
      f.get(x).get(xRow).get(xColumn).get(y).get(yRow).get(deep).get(z).get(zRow);
      if (vectors === 1) f.get(left);
      else f.get(left).i32(t.lanes).op("i32.sub");
      f.get(more).call(tiles[packed]![rowsLess1]![vectors - 1]!);
    };
    f.get(left)
      .i32(t.lanes)
      .op("i32.gt_s")
      .when(
        () => call(2),
        () => call(1),
      );
  };
  /** The tile with as many rows as there are: most have all. */
  const choose = (packed: number, r: number): void => {
    if (r === 0) multiplyTile(packed, 0);
    else
      f.get(rows)
        .i32(r + 1)
        .op("i32.eq")
        .when(
          () => multiplyTile(packed, r),
          () => choose(packed, r - 1),
        );
  };

  word("cRow").set(zRow);
  f.get(scratch).i32(PACKED_A_BYTES).op("i32.add").set(packedB);
  f.block((done) => {
    f.loop((nextRange) => {
      f.get(begin).get(end).op("i32.ge_s").brIf(done);
      // begin = (batch, block of columns, first panel of rows).
      f.get(begin);
      word("units").op("i32.div_u").set(batch);
      f.get(begin).get(batch);
      word("units").op("i32.mul").op("i32.sub").set(rest);
      f.get(rest);
      word("panels").op("i32.div_u").set(j0);
      f.get(rest).get(j0);
      word("panels").op("i32.mul").op("i32.sub").set(first);
      f.get(end).get(begin).op("i32.sub").set(count);
      word("panels").get(first).op("i32.sub").set(rest);
      minimum(count, rest).set(count);
      f.get(begin).get(count).op("i32.add").set(begin);
      f.get(j0);
      word("wide").op("i32.mul").set(j0);
      word("n").get(j0).op("i32.sub").set(columns);
      word("wide").set(left);
      minimum(columns, left).set(columns);
      f.get(first).get(count).op("i32.add").i32(ROWS).op("i32.mul").set(i1);
      word("m").set(rest);
      minimum(i1, rest).set(i1);
      f.get(first).i32(ROWS).op("i32.mul").set(first);

      word("a").get(batch);
      word("aBatch").op("i32.mul").op("i32.add").set(a);
      word("b").get(batch);
      word("bBatch").op("i32.mul").op("i32.add").get(j0);
      word("bColumn").op("i32.mul").op("i32.add").set(b);
      word("c").get(batch);
      word("cBatch").op("i32.mul").op("i32.add").get(j0).i32(t.bytes).op("i32.mul").op("i32.add").set(c);

      f.i32(0).set(l0);
      f.loop((nextDepth) => {
        word("k").get(l0).op("i32.sub").set(deep);
        word("deep").set(rest);
        minimum(deep, rest).set(deep);
        word("more").get(l0).op("i32.or").set(more);
        word("packsB").when(
          () => {
            f.get(b);
            word("bRow");
            word("bColumn").get(deep).get(columns).get(packedB).call(packB);
            f.i32(width * t.bytes).set(yRow);
          },
          () => {
            word("bRow").set(yRow);
          },
        );
        f.for(
          i,
          () => f.get(first),
          () => f.get(i1),
          ROWS,
          () => {
            f.get(i1).get(i).op("i32.sub").set(rows);
            f.i32(ROWS).set(rest);
            minimum(rows, rest).set(rows);
            f.get(a).get(i);
            word("aRow").op("i32.mul").op("i32.add").set(x);
            word("aRow").set(xRow);
            word("aColumn").set(xColumn);
            word("packsA").when(() => {
              f.get(x).get(xRow).get(xColumn).get(deep).get(rows).get(scratch).call(packA);
              f.get(scratch).set(x);
            });
            f.get(c).get(i).get(zRow).op("i32.mul").op("i32.add").set(z);
            word("packsB").when(
              () => {
                f.get(packedB).set(y);
                f.get(deep)
                  .i32(width * t.bytes)
                  .op("i32.mul")
                  .set(panel);
              },
              () => {
                f.get(b).set(y);
                f.i32(width * t.bytes).set(panel);
              },
            );
            f.for(
              j,
              () => f.i32(0),
              () => f.get(columns),
              width,
              () => {
                f.get(columns).get(j).op("i32.sub").set(left);
                f.i32(width).set(rest);
                minimum(left, rest).set(left);
                word("packsA").when(
                  () => choose(0, ROWS - 1),
                  () => choose(1, ROWS - 1),
                );
                f.get(y).get(panel).op("i32.add").set(y);
                f.get(z)
                  .i32(width * t.bytes)
                  .op("i32.add")
                  .set(z);
              },
            );
          },
        );
        f.get(a).get(deep);
        word("aColumn").op("i32.mul").op("i32.add").set(a);
        f.get(b).get(deep);
        word("bRow").op("i32.mul").op("i32.add").set(b);
        f.get(l0).get(deep).op("i32.add").tee(l0);
        word("k").op("i32.lt_s").brIf(nextDepth);
      });
      f.br(nextRange);
    });
  });
  return f;
}

// --- plans -------------------------------------------------------------------------------------------------------

/** Whether one rounding is done for x y + z: then the instruction is faster too. */
function isFused(engine: Engine): boolean {
  if (!engine.relaxed) return false;
  const module = new ModuleBuilder({ shared: engine.heap.shared });
  const f = new FunctionBuilder(["i32", "i32", "i32", "i32"]);
  // (1 + e)^2 - (1 + 2 e) is e^2, or 0 if the square was rounded.
  const e = 2 ** -12;
  f.get(2)
    .f32(1 + e)
    .simd("f32x4.splat")
    .f32(1 + e)
    .simd("f32x4.splat")
    .f32(-1 - 2 * e)
    .simd("f32x4.splat");
  module.add("probe", f.simd("f32x4.relaxed_madd").simdMemory("v128.store"));
  const [probe] = engine.load(module.bytes(), ["probe"]);
  const at = engine.heap.allocate(16);
  probe!.run(0, 1, at, 0);
  const fused = engine.heap.f32[at / 4] !== 0;
  engine.heap.free(at);
  return fused;
}

/** The kernels of one engine, made when they are first needed. */
interface Kernels {
  readonly fused: boolean;
  readonly products: Map<GemmType, LoadedKernel>;
}

const loaded = new WeakMap<Engine, Kernels>();

function kernelsOf(engine: Engine): Kernels {
  let kernels = loaded.get(engine);
  if (!kernels) {
    kernels = { fused: isFused(engine), products: new Map() };
    loaded.set(engine, kernels);
  }
  return kernels;
}

function productOf(engine: Engine, dtype: GemmType): LoadedKernel {
  const { fused, products } = kernelsOf(engine);
  let kernel = products.get(dtype);
  if (!kernel) {
    const module = new ModuleBuilder({ shared: engine.heap.shared });
    addProduct(module, dtype, fused);
    [kernel] = engine.load(module.bytes(), ["product"]) as [LoadedKernel];
    products.set(dtype, kernel);
  }
  return kernel;
}

/** Multiplications below which other threads take longer to start than to help. */
const PARALLEL_FROM = 2 ** 19;

/** Decides how a product is computed on this engine. */
export function planGemm(engine: Engine, shape: GemmShape): Gemm {
  const { dtype, batches, m, n, k } = shape;
  const t = lanesOf[dtype];
  const width = VECTORS * t.lanes;
  const { i32, u32 } = engine.heap;
  const args = engine.heap.allocate(4 * WORDS.length);
  invariant(args !== 0, "the heap has room for an argument block");
  const at = args / 4;
  const set = (name: Word, value: number): void => {
    i32[at + WORDS.indexOf(name)] = value;
  };
  const deepBlocks = Math.max(1, Math.ceil(k / DEEP));
  const deep = Math.min(DEEP, Math.ceil(k / deepBlocks / 4) * 4);
  const panels = Math.ceil(m / ROWS);
  // As wide as the second cache allows, but enough blocks for all threads.
  const widest = Math.floor(PACKED_B_BYTES / Math.max(1, deep) / width / t.bytes) * width;
  const wanted = Math.ceil((4 * engine.threads) / Math.max(1, panels * batches));
  const wide = Math.min(widest, Math.max(width * 4, Math.ceil(n / wanted / width) * width));
  const blocks = Math.ceil(n / wide);
  const strides = (name: "a" | "b", { row, column, batch }: Strides): void => {
    set(`${name}Row`, row * t.bytes);
    set(`${name}Column`, column * t.bytes);
    set(`${name}Batch`, batch * t.bytes);
  };
  strides("a", shape.a);
  strides("b", shape.b);
  set("cRow", n * t.bytes);
  set("cBatch", m * n * t.bytes);
  set("m", m);
  set("n", n);
  set("k", k);
  set("deep", deep);
  set("wide", wide);
  set("packsA", n > NARROW_VECTORS * t.lanes ? 1 : 0);
  set("packsB", shape.b.column !== 1 || m > FEW_ROWS ? 1 : 0);
  set("more", 0);
  set("panels", panels);
  set("units", panels * blocks);
  const total = batches * panels * blocks;
  const kernel = productOf(engine, dtype);
  const parallel = batches * m * n * k >= PARALLEL_FROM;
  return {
    run(a, b, c) {
      u32[at] = a;
      u32[at + 1] = b;
      u32[at + 2] = c;
      if (total > 0) engine.run(kernel, total, 1, args, parallel);
    },
  };
}
