/** Products of a matrix and a vector as WebAssembly: every element of the matrix is read once, in the order of memory. */
import { FunctionBuilder } from "./assembler.ts";
import { count, type GemmType, lanesOf, multiplyAdd, storeSome, ZERO } from "./gemm_kernels.ts";
import { scalarsOf } from "./scalars.ts";
import { type Term, termsOf } from "./terms.ts";

/**
 * Words of the argument block: y = M x for a matrix `[rows, k]` or, by columns, y = x M for `[k, rows]`; strides in
 * bytes, of M to its next row and matrix. y has its elements, and its vectors, one after the other.
 */
export const MATVEC_WORDS = [
  "matrix",
  "x",
  "y",
  "row",
  "batch",
  "xStep",
  "xBatch",
  "rows",
  "k",
  "units",
] as const;
export type MatvecWord = (typeof MATVEC_WORDS)[number];

/** Products summed in one go; sums of floats over those are kept in f64. */
const DEEP = 4096;
/** Rows of a column product summed in registers before they are added to y. */
const TALL = 256;
/** Vectors of y that one unit of a column product has. */
export const UNIT_VECTORS = 8;

/** y[i] = sum over l of M[i, l] x[l] where both have neighbours along l; a unit is one row. */
export function rowProduct(dtype: GemmType, fused: boolean): FunctionBuilder {
  const t = lanesOf[dtype];
  const s = scalarsOf[dtype];
  const f = new FunctionBuilder(["i32", "i32", "i32", "i32"]);
  const [begin, end, args] = [0, 1, 2];
  const { push, set, advance, plus, minus, times, over, smaller, constant, each, both, load, locals } =
    termsOf(f);
  const word = (name: MatvecWord): Term => load(args, 4 * MATVEC_WORDS.indexOf(name));
  const { unit, batch, p, q, l, l0, deep } = locals("unit", "batch", "p", "q", "l", "l0", "deep");
  const sums = count(4).map(() => f.local("v128"));
  const [x, y] = [f.local("v128"), f.local("v128")];
  const sum = f.local(s.type);
  const total = f.local(s.total);
  /** Sums `vectors` vectors of products and goes on to the next. */
  const sumVectors = (vectors: number): void => {
    for (const u of count(vectors)) {
      f.get(p)
        .simdMemory("v128.load", 16 * u)
        .set(x);
      f.get(q)
        .simdMemory("v128.load", 16 * u)
        .set(y);
      multiplyAdd(f, t, fused, sums[u]!, x, y);
    }
    advance(p, constant(16 * vectors));
    advance(q, constant(16 * vectors));
  };
  each(unit, begin, end, 1, () => {
    set(batch, over(unit, word("rows")));
    set(
      p,
      plus(
        word("matrix"),
        times(batch, word("batch")),
        times(minus(unit, times(batch, word("rows"))), word("row")),
      ),
    );
    set(q, plus(word("x"), times(batch, word("xBatch"))));
    if (s.total === "f64") f.f64(0).set(total);
    else f.i32(0).set(total);
    each(l0, constant(0), word("k"), DEEP, () => {
      set(deep, smaller(minus(word("k"), l0), constant(DEEP)));
      for (const v of sums) f.v128(ZERO).set(v);
      each(l, constant(0), both(deep, constant(-4 * t.lanes)), 4 * t.lanes, () => sumVectors(4));
      each(l, l, both(deep, constant(-t.lanes)), t.lanes, () => sumVectors(1));
      f.get(sums[0]!).get(sums[1]!).simd(t.add).get(sums[2]!).get(sums[3]!).simd(t.add).simd(t.add).set(x);
      f.get(x).lane(s.extract, 0);
      for (const u of count(t.lanes).slice(1)) f.get(x).lane(s.extract, u).op(t.addOne);
      f.set(sum);
      each(l, l, deep, 1, () => {
        f.get(p).memory(t.load).get(q).memory(t.load).op(s.multiply).get(sum).op(t.addOne).set(sum);
        advance(p, constant(t.bytes));
        advance(q, constant(t.bytes));
      });
      f.get(total).get(sum);
      if (s.widen) f.op(s.widen);
      f.op(s.addTotal).set(total);
    });
    push(plus(word("y"), times(unit, constant(t.bytes)))).get(total);
    if (s.narrow) f.op(s.narrow);
    f.memory(t.store);
  });
  return f;
}

/** y[j] = sum over l of x[l] M[l, j] where M has neighbours along j; a unit is `UNIT_VECTORS` vectors of y. */
export function columnProduct(dtype: GemmType, fused: boolean): FunctionBuilder {
  const t = lanesOf[dtype];
  const f = new FunctionBuilder(["i32", "i32", "i32", "i32"]);
  const [begin, end, args] = [0, 1, 2];
  const { push, set, advance, plus, minus, times, over, smaller, less, constant, when, each, load, locals } =
    termsOf(f);
  const word = (name: MatvecWord): Term => load(args, 4 * MATVEC_WORDS.indexOf(name));
  const { unit, batch, j, stop, l, l0, p, q, y, left, deep } = locals(
    ...(["unit", "batch", "j", "stop", "l", "l0", "p", "q", "y", "left", "deep"] as const),
  );
  const sums = count(UNIT_VECTORS).map(() => f.local("v128"));
  const [x, m] = [f.local("v128"), f.local("v128")];
  /** The sums of neighbouring columns, the first at j, over all rows; the last may have fewer lanes. */
  const sumColumns = (vectors: number): void => {
    set(y, plus(word("y"), times(plus(times(batch, word("rows")), j), constant(t.bytes))));
    set(p, plus(word("matrix"), times(batch, word("batch")), times(j, constant(t.bytes))));
    set(q, plus(word("x"), times(batch, word("xBatch"))));
    const store = (u: number): unknown =>
      f
        .get(y)
        .get(sums[u]!)
        .simdMemory("v128.store", 16 * u);
    const some = sums.slice(0, vectors);
    set(l0, constant(0));
    f.loop((next) => {
      set(deep, smaller(minus(word("k"), l0), constant(TALL)));
      for (const sum of some) f.v128(ZERO).set(sum);
      each(l, constant(0), deep, 1, () => {
        f.get(q).memory(t.load).simd(t.splat).set(x);
        some.forEach((sum, u) => {
          f.get(p)
            .simdMemory("v128.load", 16 * u)
            .set(m);
          multiplyAdd(f, t, fused, sum, x, m);
        });
        advance(p, word("row"));
        advance(q, word("xStep"));
      });
      when(l0, () => {
        some.forEach((sum, u) => {
          f.get(y)
            .simdMemory("v128.load", 16 * u)
            .get(sum)
            .simd(t.add)
            .set(sum);
        });
      });
      if (vectors > 1) for (const u of count(vectors)) store(u);
      else
        when(
          less(left, constant(t.lanes)),
          () => storeSome(f, t, y, 0, left, sums[0]!),
          () => store(0),
        );
      advance(l0, deep);
      push(less(l0, word("k"))).brIf(next);
    });
  };
  each(unit, begin, end, 1, () => {
    set(batch, over(unit, word("units")));
    set(j, times(minus(unit, times(batch, word("units"))), constant(UNIT_VECTORS * t.lanes)));
    set(stop, smaller(word("rows"), plus(j, constant(UNIT_VECTORS * t.lanes))));
    when(
      less(minus(stop, j), constant(UNIT_VECTORS * t.lanes)),
      () =>
        each(j, j, stop, t.lanes, () => {
          set(left, minus(stop, j));
          sumColumns(1);
        }),
      () => sumColumns(UNIT_VECTORS),
    );
  });
  return f;
}
