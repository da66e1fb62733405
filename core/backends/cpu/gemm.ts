/** Plans of matrix products: which kernel, cut how, for these sizes and strides. */
import { type DType, isFloat } from "../../dtype.ts";
import { invariant } from "../../errors.ts";
import { FunctionBuilder, ModuleBuilder } from "./assembler.ts";
import { findBlas, type NativeLibrary, type NativeProductName } from "./blas.ts";
import type { Engine, LoadedKernel } from "./engine.ts";
import { addProduct, DEEP, type GemmType, lanesOf, PACKED_B_BYTES, ROWS, VECTORS } from "./gemm_kernels.ts";
import { columnProduct, MATVEC_WORDS, type MatvecWord, rowProduct, UNIT_VECTORS } from "./matvec_kernels.ts";
import { PRODUCT_WORDS, type ProductWord } from "./product_words.ts";

/** Elements from one row, column and matrix to the next; 0 repeats, negative goes back. */
export interface Strides {
  readonly row: number;
  readonly column: number;
  readonly batch: number;
}

/** `batches` products of `[m, k]` and `[k, n]`, to `[m, n]` whose columns are neighbours. */
export interface GemmShape {
  readonly dtype: GemmType;
  readonly batches: number;
  readonly m: number;
  readonly n: number;
  readonly k: number;
  readonly a: Strides;
  readonly b: Strides;
  /** Default: one row after the other, one matrix after the other. */
  readonly c?: Omit<Strides, "column">;
  /** Adds to what is there. */
  readonly accumulates?: boolean;
}

/** A product with everything decided but where the matrices are: byte pointers to their first elements. */
export interface Gemm {
  run(a: number, b: number, c: number): void;
}

/** Up to this many vectors of columns, A is read where it is: packing it costs as much as it saves. */
const NARROW_VECTORS = 8;
/** Up to this many rows, or sums this short, B is read where it is if its rows are contiguous. */
const FEW_ROWS = 18;
const SHORT_SUM = 32;
/** Multiplications below which other threads take longer to start than to help: about 40 microseconds. */
export const PARALLEL_FROM: number = 2 ** 20;
const NATIVE_PARALLEL_FROM: number = 2 ** 21;
const MATVEC_PARALLEL_FROM: number = 2 ** 19;

/** The kernels of one engine by name, made when they are first needed. */
const loaded = new WeakMap<Engine, Map<string, LoadedKernel>>();

/** The kernel that `write` adds to a module under a name. */
export function loadOnce(
  engine: Engine,
  name: string,
  write: (module: ModuleBuilder) => void,
  library: NativeLibrary | null = null,
): LoadedKernel {
  let kernels = loaded.get(engine);
  if (!kernels) {
    kernels = new Map();
    loaded.set(engine, kernels);
  }
  let kernel = kernels.get(name);
  if (!kernel) {
    const module = new ModuleBuilder({ shared: engine.heap.shared });
    write(module);
    [kernel] = engine.load(module.bytes(), [name], [], library) as [LoadedKernel];
    kernels.set(name, kernel);
  }
  return kernel;
}

const fusedOf = new WeakMap<Engine, boolean>();

/** Whether the multiply-add instruction rounds once; one that rounds twice is no faster than two. */
export function isFused(engine: Engine): boolean {
  let fused = fusedOf.get(engine);
  if (fused === undefined) {
    fused = engine.relaxed && probeFused(engine);
    fusedOf.set(engine, fused);
  }
  return fused;
}

/** (1 + e)² - (1 + 2 e) is e², or 0 if the square was rounded. */
function probeFused({ heap }: Engine): boolean {
  const e = 2 ** -12;
  const f = new FunctionBuilder(["i32"]).get(0);
  for (const x of [1 + e, 1 + e, -1 - 2 * e]) f.f32(x).simd("f32x4.splat");
  f.simd("f32x4.relaxed_madd").simdMemory("v128.store");
  const module = new ModuleBuilder({ shared: heap.shared });
  module.add("probe", f);
  const { exports } = new WebAssembly.Instance(new WebAssembly.Module(module.bytes()), {
    env: { memory: heap.memory },
  });
  const at = heap.allocate(16);
  (exports["probe"] as (at: number) => void)(at);
  const square = heap.f32[at / 4];
  heap.free(at);
  return square !== 0;
}

/** From this many multiplications on, products of floats are worth finding a BLAS for, and calling it. */
const NATIVE_FROM = 16 ** 3;

/** Whether a library is used for so many multiplications; it does not depend on what was done before. */
export function isNative(dtype: DType, multiplications: number): boolean {
  return isFloat(dtype) && multiplications >= NATIVE_FROM && typeof findBlas() !== "string";
}

/** The library for so many multiplications; null = the kernels do it. */
export function libraryFor({ heap }: Engine, dtype: DType, multiplications: number): NativeLibrary | null {
  const blas = isNative(dtype, multiplications) ? findBlas() : "";
  return typeof blas === "string" ? null : blas.on(heap);
}

/** Decides how a product is computed on this engine, with the library where one is given and can do it. */
export function planGemm(engine: Engine, shape: GemmShape, library: NativeLibrary | null): Gemm {
  const { batches, m, n, k, a, b } = shape;
  if (batches * m * n === 0) return { run: () => undefined };
  if (isPlain(shape)) {
    // y = M x: M has neighbours along the sum, or along y.
    const contiguous = (stride: number): boolean => stride === 1 || k <= 1;
    if (n === 1 && contiguous(a.column) && contiguous(b.row)) return planRows(engine, shape);
    if (m === 1 && contiguous(a.column) && contiguous(b.row)) return flipped(planRows, engine, shape);
    if (m === 1 && b.column === 1) return planColumns(engine, shape);
    if (n === 1 && a.row === 1) return flipped(planColumns, engine, shape);
  }
  return (library && k > 0 && planNative(engine, shape, library)) || planProduct(engine, shape);
}

/** Whether C is written from its first byte to its last. */
function isPlain({ batches, m, n, c, accumulates }: GemmShape): boolean {
  if (accumulates) return false;
  return !c || ((m === 1 || c.row === n) && (batches === 1 || c.batch === m * n));
}

/** Strides as a BLAS takes them: one is 1, the other spans at least what it steps over. Null = it cannot. */
export function nativeStrides(
  { row, column, batch }: Strides,
  rows: number,
  columns: number,
): Strides | null {
  if ((column === 1 || columns === 1) && (row >= columns || rows === 1))
    return { row: Math.max(rows === 1 ? 0 : row, columns), column: 1, batch };
  if ((row === 1 || rows === 1) && (column >= rows || columns === 1))
    return { row: 1, column: Math.max(columns === 1 ? 0 : column, rows), batch };
  return null;
}

/** By C^T = B^T A^T: the same elements in the same order where C has one row or column. */
function flipped(plan: (engine: Engine, shape: GemmShape) => Gemm, engine: Engine, shape: GemmShape): Gemm {
  const flip = ({ row, column, batch }: Strides): Strides => ({ row: column, column: row, batch });
  const { m, n, a, b } = shape;
  const { run } = plan(engine, { ...shape, m: n, n: m, a: flip(b), b: flip(a) });
  return { run: (a, b, c) => run(b, a, c) };
}

/** An argument block of these words, all 0. */
export function argumentsOf<W extends string>(
  { heap }: Engine,
  words: readonly W[],
): { readonly at: number; set(name: W, value: number): void } {
  const at = heap.allocate(4 * words.length);
  invariant(at !== 0, "the heap has room for an argument block");
  heap.i32.fill(0, at / 4, at / 4 + words.length);
  return {
    at,
    set(name, value) {
      heap.i32[at / 4 + words.indexOf(name)] = value;
    },
  };
}

/** A run of a kernel whose first three words are the pointers. */
function runner(
  engine: Engine,
  kernel: LoadedKernel,
  at: number,
  total: number,
  parallel: boolean,
): Gemm["run"] {
  const { u32 } = engine.heap;
  return (a, b, c) => {
    u32[at / 4] = a;
    u32[at / 4 + 1] = b;
    u32[at / 4 + 2] = c;
    engine.run(kernel, total, 1, at, parallel);
  };
}

/** Fills the words that say where the elements are. */
function describe(
  set: (name: ProductWord, value: number) => void,
  { dtype, m, n, k, c, accumulates }: GemmShape,
  a: Strides,
  b: Strides,
): void {
  const { bytes } = lanesOf[dtype];
  set("aRow", a.row * bytes);
  set("aColumn", a.column * bytes);
  set("aBatch", a.batch * bytes);
  set("bRow", b.row * bytes);
  set("bColumn", b.column * bytes);
  set("bBatch", b.batch * bytes);
  set("cRow", (c?.row ?? n) * bytes);
  set("cBatch", (c?.batch ?? m * n) * bytes);
  set("more", accumulates ? 1 : 0);
  set("m", m);
  set("n", n);
  set("k", k);
}

/** A side of a block is no shorter than this, except where the whole is. */
const LEAST_SIDE = 64;

/**
 * The blocks that calls of a library compute, fixed by the sizes so that the bits are: few, since each call packs its
 * operands again (OpenBLAS, 1024 x 1024 x 1024: 0.94 of one call in 16 blocks, 0.89 in 64), but enough for threads.
 */
function blockOf({ batches, m, n, k }: GemmShape): { readonly tall: number; readonly wide: number } {
  const work = batches * m * n * k;
  const wanted = work < NATIVE_PARALLEL_FROM ? 1 : work < 2 ** 25 ? 4 : work < 2 ** 28 ? 8 : 16;
  const half = (side: number): number => 16 * Math.ceil(side / 32);
  let [tall, wide] = [m, n];
  for (let units = batches; units < wanted; units *= 2) {
    if (Math.max(tall, wide) < 2 * LEAST_SIDE) break;
    if (tall >= wide) tall = half(tall);
    else wide = half(wide);
  }
  return { tall, wide };
}

/** Adds a kernel that is a product of the library. */
function addNative(module: ModuleBuilder, name: NativeProductName): void {
  const native = module.importFunction(name, ["i32", "i32", "i32", "i32"], []);
  module.add(
    name,
    new FunctionBuilder(["i32", "i32", "i32", "i32"]).get(0).get(1).get(2).get(3).call(native),
  );
}

function planNative(engine: Engine, shape: GemmShape, library: NativeLibrary): Gemm | null {
  const { dtype, batches, m, n, k } = shape;
  const a = nativeStrides(shape.a, m, k);
  const b = nativeStrides(shape.b, k, n);
  if (a === null || b === null || !isFloat(dtype)) return null;
  const { tall, wide } = blockOf(shape);
  const panels = Math.ceil(m / tall);
  const units = panels * Math.ceil(n / wide);
  const { at, set } = argumentsOf<ProductWord>(engine, PRODUCT_WORDS);
  describe(set, shape, a, b);
  set("tall", tall);
  set("wide", wide);
  set("panels", panels);
  set("units", units);
  const name = dtype === "float32" ? "sgemm" : "dgemm";
  const kernel = loadOnce(engine, name, (module) => addNative(module, name), library);
  return { run: runner(engine, kernel, at, batches * units, batches * m * n * k >= NATIVE_PARALLEL_FROM) };
}

/** How the kernels go about a product of these sizes: the words that say so. */
export function productSettings(
  dtype: GemmType,
  {
    m,
    n,
    k,
    bColumn,
  }: { readonly m: number; readonly n: number; readonly k: number; readonly bColumn: number },
): Readonly<Record<"tall" | "wide" | "deep" | "packsA" | "packsB", number>> {
  const t = lanesOf[dtype];
  const width = VECTORS * t.lanes;
  // Blocks of l are equally deep; blocks of columns fill the second cache.
  const deep = Math.min(DEEP, 4 * Math.ceil(k / Math.ceil(k / DEEP || 1) / 4));
  return {
    tall: ROWS,
    wide: Math.floor(PACKED_B_BYTES / (t.bytes * width * Math.max(1, deep))) * width,
    deep,
    packsA: n > NARROW_VECTORS * t.lanes ? 1 : 0,
    packsB: bColumn !== 1 || (m > FEW_ROWS && k > SHORT_SUM) ? 1 : 0,
  };
}

function planProduct(engine: Engine, shape: GemmShape): Gemm {
  const { dtype, batches, m, n, k, a, b } = shape;
  const width = VECTORS * lanesOf[dtype].lanes;
  const settings = productSettings(dtype, { m, n, k, bColumn: b.column });
  const panels = Math.ceil(m / settings.tall);
  // Blocks of columns that fit, and enough for all threads; equally wide, as threads get equally many.
  const wanted = batches * m * n * k >= PARALLEL_FROM ? (4 * engine.threads) / (panels * batches) : 1;
  const enough = Math.min(wanted, n / (4 * width));
  const blocks = Math.max(1, Math.ceil(n / settings.wide), Math.ceil(enough));
  const wide = Math.ceil(n / blocks / width) * width;
  const units = panels * Math.ceil(n / wide);
  const { at, set } = argumentsOf<ProductWord>(engine, PRODUCT_WORDS);
  describe(set, shape, a, b);
  for (const name of ["tall", "deep", "packsA", "packsB"] as const) set(name, settings[name]);
  set("wide", wide);
  set("panels", panels);
  set("units", units);
  const name = `product ${dtype}`;
  const kernel = loadOnce(engine, name, (module) => void addProduct(module, name, dtype, isFused(engine)));
  return { run: runner(engine, kernel, at, batches * units, batches * m * n * k >= PARALLEL_FROM) };
}

function planRows(engine: Engine, { dtype, batches, m, k, a, b }: GemmShape): Gemm {
  const { bytes } = lanesOf[dtype];
  const { at, set } = argumentsOf<MatvecWord>(engine, MATVEC_WORDS);
  set("row", a.row * bytes);
  set("batch", a.batch * bytes);
  set("xBatch", b.batch * bytes);
  set("rows", m);
  set("k", k);
  const name = `rows ${dtype}`;
  const kernel = loadOnce(
    engine,
    name,
    (module) => void module.add(name, rowProduct(dtype, isFused(engine))),
  );
  return { run: runner(engine, kernel, at, batches * m, batches * m * k >= MATVEC_PARALLEL_FROM) };
}

/** The matrix is B, its sums along columns. */
function planColumns(engine: Engine, { dtype, batches, n, k, a, b }: GemmShape): Gemm {
  const { bytes, lanes } = lanesOf[dtype];
  const units = Math.ceil(n / (UNIT_VECTORS * lanes));
  const { at, set } = argumentsOf<MatvecWord>(engine, MATVEC_WORDS);
  set("row", b.row * bytes);
  set("batch", b.batch * bytes);
  set("xStep", a.column * bytes);
  set("xBatch", a.batch * bytes);
  set("rows", n);
  set("k", k);
  set("units", units);
  const name = `columns ${dtype}`;
  const kernel = loadOnce(
    engine,
    name,
    (module) => void module.add(name, columnProduct(dtype, isFused(engine))),
  );
  const run = runner(engine, kernel, at, batches * units, batches * n * k >= MATVEC_PARALLEL_FROM);
  return { run: (x, matrix, y) => run(matrix, x, y) };
}
