/**
 * The matrix product of the compiled backend, its own kernels and a native library, against three plain loops in
 * float64; and `dot` with operands of any layout against its reference.
 */
import { expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { Aval } from "../../core/aval.ts";
import { findBlas } from "../../core/backends/cpu/blas.ts";
import { dotKernel } from "../../core/backends/cpu/dot.ts";
import { Engine } from "../../core/backends/cpu/engine.ts";
import { type GemmShape, planGemm, type Strides } from "../../core/backends/cpu/gemm.ts";
import type { GemmType } from "../../core/backends/cpu/gemm_kernels.ts";
import type { NamedCall } from "../../core/backends/cpu/named.ts";
import { bytesPerElement, type DType, isFloat, makeArray, type TypedArray } from "../../core/dtype.ts";
import { type Layout, rowMajor } from "../../core/kernel.ts";
import { type DotParams, dotP } from "../../core/prims/contract.ts";
import { sizeOf } from "../../core/shape.ts";
import { copyView } from "../../core/strided.ts";
import { SeededDraw, seeds } from "../support/arbitrary_tensor.ts";
import { propWith } from "../support/prop.ts";
import { assertNumbersClose, epsilon, table } from "../support/tolerance.ts";

const engine = new Engine({ threads: 1 });
const { heap } = engine;
const types: readonly GemmType[] = ["float32", "float64", "int32", "uint32"];
const blas = findBlas();
if (typeof blas === "string") console.log(`gemm: tests of a native library are skipped: ${blas}`);
else console.log(`gemm: native products by ${blas.name}`);
const libraries = typeof blas === "string" ? [null] : [null, blas.on(heap)];

/** An array on the heap with drawn elements: floats in [-1, 1), integers of all 32 bits. */
function drawn(draw: SeededDraw, dtype: DType, size: number): TypedArray {
  const data = heap.makeArray(dtype, size)!;
  for (let i = 0; i < size; i++) data[i] = isFloat(dtype) ? 2 * draw.unit() - 1 : draw.unit() * 2 ** 32;
  return data;
}

/** Elements that a matrix with these strides and sizes spans. */
function span(sizes: readonly number[], { row, column, batch }: Strides): number {
  const [batches, rows, columns] = sizes as [number, number, number];
  return sizeOf(sizes) === 0 ? 0 : 1 + (batches - 1) * batch + (rows - 1) * row + (columns - 1) * column;
}

const GUARD = 16;

/** Computes a product by a plan and by three loops, and compares; nothing after the result may be written. */
function compare(draw: SeededDraw, shape: GemmShape, library: Parameters<typeof planGemm>[2]): TypedArray {
  const { dtype, batches, m, n, k, a, b } = shape;
  const x = drawn(draw, dtype, span([batches, m, k], a));
  const y = drawn(draw, dtype, span([batches, k, n], b));
  const size = batches * m * n;
  const z = drawn(draw, dtype, size + GUARD);
  const before = z.slice();
  planGemm(engine, shape, library).run(heap.pointerOf(x), heap.pointerOf(y), heap.pointerOf(z));
  const what = `${dtype} ${[batches, m, k, n]} ${JSON.stringify([a, b])} ${library ? "native" : "own"}`;
  for (let i = 0; i < batches; i++)
    for (let r = 0; r < m; r++)
      for (let c = 0; c < n; c++) {
        const at = (i * m + r) * n + c;
        let [sum, size, wrapped] = [0, 0, 0];
        for (let l = 0; l < k; l++) {
          const p = x[i * a.batch + r * a.row + l * a.column]!;
          const q = y[i * b.batch + l * b.row + c * b.column]!;
          sum += p * q;
          size += Math.abs(p * q);
          wrapped = (wrapped + Math.imul(p, q)) | 0;
        }
        if (shape.accumulates) {
          sum += before[at]!;
          size += Math.abs(before[at]!);
          wrapped = (wrapped + before[at]!) | 0;
        }
        // Rounding k products and k sums: at most k + 1 units in the last place of the sum of absolute values.
        const bound = dtype === "float32" || dtype === "float64" ? (k + 1) * epsilon[dtype] * size : 0;
        const difference = isFloat(dtype) ? Math.abs(z[at]! - sum) : (z[at]! | 0) - wrapped;
        if (!(Math.abs(difference) <= bound))
          throw new Error(
            `${what}: element ${[i, r, c]} is ${z[at]}, ${isFloat(dtype) ? sum : wrapped} is needed`,
          );
      }
  expect([...z.subarray(size)]).toEqual([...before.subarray(size)]);
  return z.subarray(0, size).slice();
}

/** A matrix stored by rows, by columns, with gaps, or repeated, in a row of matrices or one for all. */
function drawStrides(draw: SeededDraw, rows: number, columns: number): Strides {
  const gap = draw.pick([0, 0, 3]);
  const kind = draw.pick(["rows", "columns", "both", "row", "column", "one"]);
  const byRows = { row: columns + gap, column: 1 };
  const byColumns = { row: 1, column: rows + gap };
  const strides = {
    rows: byRows,
    columns: byColumns,
    both: { row: 2 * columns + 1, column: 2 },
    row: { row: 0, column: 1 },
    column: { row: 1, column: 0 },
    one: { row: 0, column: 0 },
  }[kind]!;
  return {
    ...strides,
    batch: draw.pick([0, rows * columns, span([1, rows, columns], { ...strides, batch: 0 })]),
  };
}

for (const library of libraries) {
  const name = library === null ? "kernels" : "native library";
  for (const dtype of library === null ? types : types.filter(isFloat)) {
    propWith({ runs: 120 }, `products of ${dtype} by ${name} are sums of products`, seeds(20), (seed) => {
      const draw = new SeededDraw(seed);
      const size = (): number => draw.pick([0, 1, 2, 3, 5, 7, 8, 13, 19, seed.size, seed.size]);
      const [batches, m, n, k] = [draw.int(0, 3), size(), size(), size()];
      const [a, b] = [drawStrides(draw, m, k), drawStrides(draw, k, n)];
      compare(draw, { dtype, batches, m, n, k, a, b, accumulates: draw.int(0, 3) === 0 }, library);
    });

    // Every path: skinny, deeper than a block, wider than a block, edges of tiles, sums of nothing.
    test(`products of ${dtype} by ${name} of many sizes, all four transposes`, () => {
      const draw = new SeededDraw({ seed: 1, size: 1 });
      const sizes: readonly (readonly [number, number, number])[] = [
        ...([
          [63, 64, 65],
          [65, 63, 64],
          [64, 65, 63],
          [1, 300, 1],
          [1, 600, 200],
          [200, 600, 1],
          [1, 1, 1],
        ] as const),
        ...([
          [6, 400, 8],
          [7, 193, 9],
          [40, 0, 40],
          [3, 5, 1030],
          [131, 3, 70],
          [129, 70, 260],
          [19, 4100, 2],
        ] as const),
      ];
      for (const [m, k, n] of sizes)
        for (const a of [
          { row: k, column: 1, batch: m * k },
          { row: 1, column: m, batch: m * k },
        ])
          for (const b of [
            { row: n, column: 1, batch: k * n },
            { row: 1, column: k, batch: k * n },
          ])
            compare(draw, { dtype, batches: m * k * n < 3000 ? 3 : 1, m, n, k, a, b }, library);
    });
  }
}

test("rows of the result may be apart", () => {
  const draw = new SeededDraw({ seed: 2, size: 1 });
  for (const library of libraries) {
    const [m, k, n] = [20, 30, 17];
    const shape: GemmShape = {
      ...{ dtype: "float32", batches: 2, m, n, k },
      ...{ a: { row: k, column: 1, batch: m * k }, b: { row: n, column: 1, batch: k * n } },
    };
    const [x, y] = [drawn(draw, "float32", 2 * m * k), drawn(draw, "float32", 2 * k * n)];
    const [plain, apart] = [heap.makeArray("float32", 2 * m * n)!, heap.makeArray("float32", 2 * m * 40)!];
    apart.fill(7);
    const [p, q] = [heap.pointerOf(x), heap.pointerOf(y)];
    planGemm(engine, shape, library).run(p, q, heap.pointerOf(plain));
    planGemm(engine, { ...shape, c: { row: 40, batch: m * 40 } }, library).run(p, q, heap.pointerOf(apart));
    for (let r = 0; r < 2 * m; r++) {
      expect([...apart.subarray(r * 40, r * 40 + n)]).toEqual([...plain.subarray(r * n, (r + 1) * n)]);
      expect(apart.subarray(r * 40 + n, (r + 1) * 40).every((z) => z === 7)).toBe(true);
    }
  }
});

test("the number of threads does not change a bit", () => {
  const draw = new SeededDraw({ seed: 3, size: 1 });
  const sizes: readonly (readonly [number, number, number])[] = [
    [300, 200, 270],
    [5, 3000, 100],
    [700, 900, 1],
    [1, 900, 700],
    [128, 784, 129],
    [60, 600, 600],
  ];
  for (const library of libraries)
    for (const dtype of library === null ? types : types.filter(isFloat))
      for (const [m, k, n] of sizes) {
        const x = drawn(draw, dtype, m * k);
        const y = drawn(draw, dtype, k * n);
        const shape: GemmShape = {
          ...{ dtype, batches: 1, m, n, k },
          ...{ a: { row: k, column: 1, batch: 0 }, b: { row: n, column: 1, batch: 0 } },
        };
        const results = [1, 2, 3].map((threads) => {
          engine.threads = threads;
          const z = heap.makeArray(dtype, m * n)!;
          const plan = planGemm(engine, shape, library);
          const run = (): void => plan.run(heap.pointerOf(x), heap.pointerOf(y), heap.pointerOf(z));
          run();
          // The workers that the first call started.
          for (let i = 0; engine.pool.ready < threads - 1 && i < 500; i++) Bun.sleepSync(10);
          run();
          return z;
        });
        engine.threads = 1;
        for (const z of results.slice(1)) expect(Buffer.compare(bytes(z), bytes(results[0]!))).toBe(0);
      }
});

const bytes = (data: TypedArray): Uint8Array =>
  Uint8Array.from(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));

// --- the library -------------------------------------------------------------------------------------------------

/** What a fresh process finds, or the message of the error. */
function found(environment: Readonly<Record<string, string>>, before = ""): string {
  const file = new URL("../../core/backends/cpu/blas.ts", import.meta.url).href;
  const code = `${before}
    const { findBlas } = await import(${JSON.stringify(file)});
    try { const blas = findBlas(); console.log(typeof blas === "string" ? blas : blas.name); }
    catch (error) { console.log(error.message); }`;
  const { OPENBLAS_CORETYPE: _, COTANGENT_BLAS: __, ...rest } = process.env;
  const { stdout } = Bun.spawnSync([process.execPath, "-e", code], { env: { ...rest, ...environment } });
  return stdout.toString().trim();
}

test("COTANGENT_BLAS chooses the library, or none", () => {
  expect(found({ COTANGENT_BLAS: "none" })).toContain("none");
  const message = found({ COTANGENT_BLAS: "/no/such/library" });
  expect(message).toStartWith('Cannot use COTANGENT_BLAS="/no/such/library": ');
  expect(message).toEndWith("a library with cblas_sgemm and cblas_dgemm is needed");
  if (typeof blas !== "string") expect(found({ COTANGENT_BLAS: blas.path })).toContain(blas.path);
});

const isOpenblas = typeof blas !== "string" && /^OpenBLAS.* kernels for (?!Haswell|Zen)/.test(blas.name);
const flags = existsSync("/proc/cpuinfo") ? readFileSync("/proc/cpuinfo", "utf8") : "";
if (!isOpenblas || !flags.includes("avx512vl"))
  console.log("gemm: the test of OpenBLAS's kernels is skipped: no OpenBLAS that has them, or no AVX-512");

test.if(isOpenblas && flags.includes("avx512vl"))(
  "OpenBLAS runs AVX-512 kernels unless the user chose others",
  () => {
    expect(found({ OPENBLAS_CORETYPE: "Haswell" })).toContain("kernels for Haswell");
    // As on a processor that it does not know: the C environment, which the process does not see as the user's choice.
    const mistaken = `process.getBuiltinModule("bun:ffi").dlopen("libc.so.6", {
    setenv: { args: ["ptr", "ptr", "i32"], returns: "i32" },
  }).symbols.setenv(Buffer.from("OPENBLAS_CORETYPE\\0"), Buffer.from("Haswell\\0"), 1);`;
    expect(found({}, mistaken)).toContain("kernels for SkylakeX");
  },
);

// --- dot ---------------------------------------------------------------------------------------------------------

/** An operand's elements behind a layout: axes stored in any order, with gaps, repeated, from an offset. */
function drawLayout(draw: SeededDraw, shape: readonly number[]): { layout: Layout; span: number } {
  const strides = new Array<number>(shape.length).fill(0);
  let stride = draw.pick([1, 1, 1, 2]);
  for (const a of draw.pick([false, true])
    ? draw.order(shape.length)
    : shape.map((_, i) => shape.length - 1 - i)) {
    if (draw.int(0, 9) === 0) continue;
    strides[a] = stride;
    stride *= shape[a]! + draw.pick([0, 0, 0, 1]);
  }
  const offset = draw.int(0, 2);
  return {
    layout: { shape, offset, strides },
    span: offset + 1 + shape.reduce((sum, n, a) => sum + Math.max(0, n - 1) * strides[a]!, 0),
  };
}

function dotOf(
  draw: SeededDraw,
  dtype: GemmType,
  shapes: readonly (readonly number[])[],
  params: DotParams,
): void {
  const operands = shapes.map((shape) => {
    const { layout, span } = drawLayout(draw, shape);
    const data = drawn(draw, dtype, span);
    const ordered = heap.makeArray(dtype, sizeOf(shape))!;
    const from = { data, offset: layout.offset, strides: layout.strides };
    copyView(from, { data: ordered, ...rowMajor(shape) }, shape);
    return { layout, data, ordered, aval: new Aval(shape, dtype) };
  });
  const outs = dotP.shape(
    operands.map(({ aval }) => aval),
    params,
  );
  const call: NamedCall = { args: operands.map(({ layout }) => ({ dtype, layout })), outs, params };
  const asked = dotKernel.prepare(call);
  expect(asked).not.toBeNull();
  const args = operands.map(({ layout }, i) => ({
    dtype,
    layout: asked![i] ? rowMajor(layout.shape) : layout,
  }));
  const plan = dotKernel.plan({ ...call, args }, engine);
  const out = heap.makeArray(dtype, outs[0]!.size + GUARD)!;
  out.fill(7);
  const space = heap.allocate(plan.workspaceBytes);
  const pointers = operands.map(({ layout, data, ordered }, i) =>
    asked![i] ? heap.pointerOf(ordered) : heap.pointerOf(data) + layout.offset * bytesPerElement(dtype),
  );
  plan.run(pointers, [heap.pointerOf(out)], space);
  heap.free(space);
  const [expected] = dotP.cpu(
    operands.map(({ aval, ordered }) => ({
      aval,
      data: makeArray(dtype, aval.size).map((_, i) => ordered[i]!),
    })),
    outs,
    params,
  );
  const size = outs[0]!.size;
  assertNumbersClose(
    out.subarray(0, size),
    expected!,
    `dot ${JSON.stringify([shapes, params])}`,
    table[dtype],
  );
  expect(out.subarray(size).every((z) => z === 7)).toBe(true);
}

for (const dtype of types) {
  propWith({ runs: 150 }, `dot of ${dtype} behind any layout agrees with its reference`, seeds(7), (seed) => {
    const draw = new SeededDraw(seed);
    const axes = (most: number): number[] =>
      Array.from({ length: draw.int(0, most) }, () => draw.int(draw.int(0, 5) === 0 ? 0 : 1, seed.size));
    const [batch, free, other, sum] = [axes(2), axes(2), axes(2), axes(2)];
    // The axes of each operand in a drawn order.
    const [x, y] = [free, other].map((own) => {
      const sizes = [...batch, ...sum, ...own];
      const order = draw.order(sizes.length);
      // Free axes keep their order; the record says so too.
      const at = (i: number): number => order.indexOf(i);
      return {
        shape: order.map((i) => sizes[i]!),
        batch: batch.map((_, i) => at(i)),
        sum: sum.map((_, i) => at(batch.length + i)),
      };
    }) as [
      { shape: number[]; batch: number[]; sum: number[] },
      { shape: number[]; batch: number[]; sum: number[] },
    ];
    dotOf(draw, dtype, [x.shape, y.shape], { batch: [x.batch, y.batch], contract: [x.sum, y.sum] });
  });
}

test("dot of attention: batch axes apart, read where they are", () => {
  const draw = new SeededDraw({ seed: 5, size: 1 });
  // [batch, query, head, depth] and [batch, key, head, depth]
  const params: DotParams = {
    batch: [
      [0, 2],
      [0, 2],
    ],
    contract: [[3], [3]],
  };
  dotOf(
    draw,
    "float32",
    [
      [2, 33, 3, 20],
      [2, 35, 3, 20],
    ],
    params,
  );
});
