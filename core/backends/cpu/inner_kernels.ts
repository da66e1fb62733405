/**
 * The matrix product of operands that both have neighbours along the sum: nothing is packed, and four elements of the
 * sum are one vector. Eight sums of four rows by two columns are in registers.
 */
import { FunctionBuilder, type ModuleBuilder } from "./assembler.ts";
import { count, type GemmType, type Lanes, lanesOf, multiplyAdd, ZERO } from "./gemm_kernels.ts";
import { PRODUCT_WORDS, type ProductWord } from "./product_words.ts";
import { scalarsOf } from "./scalars.ts";
import { type Term, termsOf } from "./terms.ts";

/** Rows of a tile, and of a unit of work. */
export const INNER_ROWS = 4;
const COLUMNS = 2;
/** Vectors of the sum in one step. */
const STEP = 4;

/** A tile: (a, aRow, b, bColumn, k, c, cRow, rows, columns, more), of which `rows` and `columns` are stored. */
function innerTile(dtype: GemmType, t: Lanes, fused: boolean): FunctionBuilder {
  const s = scalarsOf[dtype];
  const f = new FunctionBuilder(["i32", "i32", "i32", "i32", "i32", "i32", "i32", "i32", "i32", "i32"]);
  const [a, aRow, b, bColumn, k, c, cRow, rows, columns, more] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9];
  const { push, set, advance, plus, minus, times, smaller, less, constant, when, each, both, locals } =
    termsOf(f);
  const { l, z } = locals("l", "z");
  const xs = count(INNER_ROWS).map(() => f.local("i32"));
  const ys = count(COLUMNS).map(() => f.local("i32"));
  const sums = count(INNER_ROWS * COLUMNS).map(() => f.local("v128"));
  const [x, ...y] = count(1 + COLUMNS).map(() => f.local("v128")) as [number, ...number[]];
  const total = f.local(s.type);
  // Rows and columns after the last are the last again.
  xs.forEach((p, i) => {
    set(p, plus(a, times(smaller(constant(i), minus(rows, constant(1))), aRow)));
  });
  ys.forEach((p, j) => {
    set(p, plus(b, times(smaller(constant(j), minus(columns, constant(1))), bColumn)));
  });
  for (const sum of sums) f.v128(ZERO).set(sum);
  const step = (vectors: number): void => {
    for (const u of count(vectors)) {
      y.forEach((v, j) => {
        f.get(ys[j]!)
          .simdMemory("v128.load", 16 * u)
          .set(v);
      });
      xs.forEach((p, i) => {
        f.get(p)
          .simdMemory("v128.load", 16 * u)
          .set(x);
        y.forEach((v, j) => {
          multiplyAdd(f, t, fused, sums[i * COLUMNS + j]!, x, v);
        });
      });
    }
    for (const p of [...xs, ...ys]) advance(p, constant(16 * vectors));
  };
  each(l, constant(0), both(k, constant(-STEP * t.lanes)), STEP * t.lanes, () => step(STEP));
  each(l, l, both(k, constant(-t.lanes)), t.lanes, () => step(1));
  // The rest of the sum, fewer elements than lanes, and the result.
  xs.forEach((p, i) => {
    ys.forEach((q, j) => {
      const sum = sums[i * COLUMNS + j]!;
      f.get(sum).lane(s.extract, 0);
      for (const u of count(t.lanes).slice(1)) f.get(sum).lane(s.extract, u).op(t.addOne);
      f.set(total);
      for (const u of count(t.lanes - 1))
        when(less(plus(l, constant(u)), k), () =>
          f
            .get(p)
            .memory(t.load, u * t.bytes)
            .get(q)
            .memory(t.load, u * t.bytes)
            .op(s.multiply)
            .get(total)
            .op(t.addOne)
            .set(total),
        );
      when(both(less(constant(i), rows), less(constant(j), columns)), () => {
        set(z, plus(c, times(constant(i), cRow)));
        when(more, () =>
          f
            .get(z)
            .memory(t.load, j * t.bytes)
            .get(total)
            .op(t.addOne)
            .set(total),
        );
        push(z)
          .get(total)
          .memory(t.store, j * t.bytes);
      });
    });
  });
  return f;
}

/** Adds such a product to a module, under a name; returns the index of this kernel. */
export function addInnerProduct(
  module: ModuleBuilder,
  name: string,
  dtype: GemmType,
  fused: boolean,
): number {
  const t = lanesOf[dtype];
  const tile = module.add("innerTile", innerTile(dtype, t, fused));
  const f = new FunctionBuilder(["i32", "i32", "i32", "i32"]);
  const [begin, end, args] = [0, 1, 2];
  const { push, set, advance, plus, minus, times, over, smaller, constant, each, load, locals } = termsOf(f);
  const word = (name: ProductWord): Term => load(args, 4 * PRODUCT_WORDS.indexOf(name));
  const { unit, batch, i, j, a, b, c } = locals("unit", "batch", "i", "j", "a", "b", "c");
  // A unit is one panel of rows, with all columns.
  each(unit, begin, end, 1, () => {
    set(batch, over(unit, word("units")));
    set(i, times(minus(unit, times(batch, word("units"))), constant(INNER_ROWS)));
    set(a, plus(word("a"), times(batch, word("aBatch")), times(i, word("aRow"))));
    set(b, plus(word("b"), times(batch, word("bBatch"))));
    set(c, plus(word("c"), times(batch, word("cBatch")), times(i, word("cRow"))));
    each(j, constant(0), word("n"), COLUMNS, () => {
      const rows = smaller(minus(word("m"), i), constant(INNER_ROWS));
      const columns = smaller(minus(word("n"), j), constant(COLUMNS));
      for (const x of [a, word("aRow"), b, word("bColumn"), word("k"), c, word("cRow"), rows, columns])
        push(x);
      push(word("more")).call(tile);
      advance(b, times(word("bColumn"), constant(COLUMNS)));
      advance(c, constant(COLUMNS * t.bytes));
    });
  });
  return module.add(name, f);
}
