/**
 * Kernels written by hand against the functions of their records: the same bits, whatever was in the memory that they
 * write, however their work is divided, and with nothing written elsewhere. Draws of every domain are compared in
 * conformance.test.ts; here are long rows, ties, NaN, and numbers of elements that no vector divides.
 */
import { expect, test } from "bun:test";
import "../../core/ops.ts";
import "../../core/random.ts";
import { Aval } from "../../core/aval.ts";
import { Engine, type LoadedKernel, SCRATCH_BYTES } from "../../core/backends/cpu/engine.ts";
import { Compiler, compile } from "../../core/backends/cpu/executable.ts";
import { Heap } from "../../core/backends/cpu/heap.ts";
import { indexingKernels } from "../../core/backends/cpu/indexing.ts";
import type { NamedKernel } from "../../core/backends/cpu/named.ts";
import { poolingKernels } from "../../core/backends/cpu/pooling.ts";
import { scanKernels } from "../../core/backends/cpu/scan.ts";
import { sortingKernels } from "../../core/backends/cpu/sorting.ts";
import { threefryKernels } from "../../core/backends/cpu/threefry.ts";
import { bytesPerElement, type DType, isFloat, makeArray, type TypedArray } from "../../core/dtype.ts";
import { rowMajor } from "../../core/kernel.ts";
import { type AnyPrimitive, type HostArray, primitives } from "../../core/primitive.ts";
import { type Program, Var } from "../../core/program.ts";
import { type Shape, sizeOf } from "../../core/shape.ts";
import { Tensor } from "../../core/value.ts";
import { SeededDraw, seeds } from "../support/arbitrary_tensor.ts";
import { propWith } from "../support/prop.ts";
import { assertSameBits } from "../support/tolerance.ts";

const kernels: ReadonlyMap<string, NamedKernel> = new Map([
  ...indexingKernels,
  ...poolingKernels,
  ...scanKernels,
  ...sortingKernels,
  ...threefryKernels,
]);
const records = new Map(primitives().map((primitive) => [primitive.name, primitive]));

function record(name: string): AnyPrimitive {
  const primitive = records.get(name);
  if (primitive === undefined)
    throw new Error(`Cannot test ${name}: there is no such primitive, one is needed`);
  return primitive;
}

// ------------------------------------------------------------------------------------------------- running kernels

/** Does the work in pieces of a few grains, the last piece first, each with other numbers in the scratch buffer. */
class PieceEngine extends Engine {
  grains = 3;
  readonly #buffer: number = this.heap.allocate(SCRATCH_BYTES);

  override run(kernel: LoadedKernel, total: number, grain: number, args: number): void {
    const piece = Math.max(this.grains * grain, Math.ceil(total / 50 / grain) * grain);
    for (let begin = Math.floor((total - 1) / piece) * piece; begin >= 0; begin -= piece) {
      this.heap.u8.fill(0xa5, this.#buffer, this.#buffer + 4096);
      kernel.run(begin, Math.min(total, begin + piece), args, this.#buffer);
    }
  }
}

const engine = new PieceEngine({ heap: new Heap({ pages: 4096 }), threads: 1 });
const { heap } = engine;
const GUARD = 16;

/** Runs a kernel on copies of the operands; its results are Tensors. */
function run(name: string, args: readonly HostArray[], params: unknown): Tensor[] {
  const outs = record(name).shape(
    args.map((x) => x.aval),
    params,
  );
  const kernel = kernels.get(name)!;
  const operands = args.map(({ aval }) => ({ dtype: aval.dtype, layout: rowMajor(aval.shape) }));
  const call = { args: operands, outs, params };
  expect(kernel.prepare(call)).toEqual(args.map(() => true));
  const plan = kernel.plan(call, engine);
  const blocks: number[] = [];
  const take = (bytes: number): number => {
    const block = heap.allocate(bytes);
    if (block === 0)
      throw new Error("Cannot place operands: the heap of this test is full, smaller ones are needed");
    blocks.push(block);
    return block;
  };
  const ins = args.map(({ aval, data }) => arrayAt(take(data.byteLength), aval.dtype, aval.size));
  args.forEach(({ data }, i) => {
    ins[i]!.set(data);
  });
  const results = outs.map(({ dtype, size }) => {
    const bytes = (size + GUARD) * bytesPerElement(dtype);
    return arrayAt(take(bytes), dtype, size + GUARD).fill(1);
  });
  const workspace = take(plan.workspaceBytes + 64);
  heap.u8.fill(0x3c, workspace, workspace + plan.workspaceBytes + 64);
  try {
    plan.run(
      ins.map((x) => heap.pointerOf(x)),
      results.map((x) => heap.pointerOf(x)),
      workspace,
    );
    expect(heap.u8[workspace + plan.workspaceBytes]).toBe(0x3c);
    ins.forEach((x, i) => {
      expect(Buffer.compare(bytesOf(x), bytesOf(args[i]!.data))).toBe(0);
    });
    return results.map((x, i) => {
      const { size } = outs[i]!;
      expect([...x.subarray(size)]).toEqual(new Array(GUARD).fill(1));
      return new Tensor(outs[i]!, x.slice(0, size));
    });
  } finally {
    for (const block of blocks) heap.free(block);
  }
}

/** An array of a block of the heap. */
function arrayAt(pointer: number, dtype: DType, size: number): TypedArray {
  const kind = makeArray(dtype, 0).constructor;
  return Reflect.construct(kind, [heap.buffer, pointer, size]);
}

const bytesOf = (x: TypedArray): Buffer => Buffer.from(x.buffer, x.byteOffset, x.byteLength);

/** Runs the kernel and the function of the record: the same bits. */
function compare(name: string, args: readonly HostArray[], params: unknown): Tensor[] {
  const outs = record(name).shape(
    args.map((x) => x.aval),
    params,
  );
  const expected = record(name).cpu(args, outs, params);
  const actual = run(name, args, params);
  const what = `${name} of ${args.map((x) => x.aval)} with ${JSON.stringify(params)}`;
  actual.forEach((y, i) => {
    assertSameBits(y, new Tensor(outs[i]!, expected[i]!), what);
  });
  return actual;
}

// ----------------------------------------------------------------------------------------------------------- draws

type Elements = "numbers" | "few" | "special";
const SPECIAL: readonly number[] = [
  Number.NaN,
  0,
  -0,
  1,
  -1,
  Number.POSITIVE_INFINITY,
  Number.NEGATIVE_INFINITY,
];

/** Many different numbers, a few that are often equal, or those that comparisons and sums treat in their own way. */
function drawn(draw: SeededDraw, dtype: DType, shape: Shape, kind: Elements = "numbers"): HostArray {
  const data = makeArray(dtype, sizeOf(shape));
  for (let i = 0; i < data.length; i++) {
    if (dtype === "bool") data[i] = draw.int(0, 1);
    else if (kind === "few") data[i] = draw.int(dtype === "uint32" ? 0 : -2, 2);
    else if (!isFloat(dtype)) data[i] = Math.floor(draw.unit() * 2 ** 32);
    else data[i] = kind === "special" ? draw.pick(SPECIAL) : 2 * draw.unit() - 1;
  }
  return { aval: new Aval(shape, dtype), data };
}

function indices(draw: SeededDraw, shape: Shape, n: number): HostArray {
  const data = new Int32Array(sizeOf(shape));
  for (let i = 0; i < data.length; i++) data[i] = draw.int(0, n - 1);
  return { aval: new Aval(shape, "int32"), data };
}

const numeric: readonly DType[] = ["float32", "float64", "int32", "uint32"];
const every: readonly DType[] = [...numeric, "bool"];
const kinds: readonly Elements[] = ["numbers", "few", "special"];

/** One test per element type that draws calls with sizes up to `largest`. */
function each(
  name: string,
  types: readonly DType[],
  largest: number,
  call: (draw: SeededDraw, dtype: DType) => void,
): void {
  for (const dtype of types) {
    propWith({ runs: 25 }, `${name} of ${dtype}`, seeds(largest), (seed) => {
      const draw = new SeededDraw(seed);
      engine.grains = draw.int(1, 4);
      call(draw, dtype);
    });
  }
}

// -------------------------------------------------------------------------------------------------------- indexing

each("gather", every, 20, (draw, dtype) => {
  const batch = draw.shape(0, 1);
  const before = draw.shape(0, 1);
  const [n, after] = [draw.int(1, 50), draw.pick([[], [1], [2], [3], [5], [7, 3], [31], [64]])];
  const at = indices(draw, [...batch, ...draw.shape(0, 2)], n);
  const params = { axis: batch.length + before.length, batchDims: batch.length };
  compare("gather", [drawn(draw, dtype, [...batch, ...before, n, ...after]), at], params);
});

each("scatterAdd", numeric, 20, (draw, dtype) => {
  const batch = draw.shape(0, 1);
  const before = draw.shape(0, 1);
  const [size, after] = [draw.int(1, 50), draw.pick([[], [1], [2], [3], [5], [7, 3], [31], [64]])];
  const index = draw.shape(0, 2);
  const updates = drawn(draw, dtype, [...batch, ...before, ...index, ...after], draw.pick(kinds));
  const params = { axis: batch.length + before.length, batchDims: batch.length, size };
  compare("scatterAdd", [indices(draw, [...batch, ...index], size), updates], params);
});

// Sums of rows in the scratch buffer of a thread, of more than it holds in a workspace, or by lists; of all, or of those met.
for (const [size, after, count] of [
  [5000, 2, 2000],
  [5000, 2, 300],
  [140001, 1, 20000],
  [140001, 1, 300],
  [70001, 3, 10000],
  [70001, 3, 300],
  [40000, 4, 300],
  [9000, 19, 300],
  [1500, 100, 300],
] as const) {
  for (const dtype of numeric) {
    test(`scatterAdd of ${dtype} to ${size} rows of ${after}, ${count} updates`, () => {
      const draw = new SeededDraw({ seed: size, size: 1 });
      const few = indices(draw, [2, count], size);
      few.data.fill(size - 1, 0, 50);
      few.data.fill(0, count - 10, count + 10);
      const updates = drawn(draw, dtype, [2, 2, count, after]);
      compare("scatterAdd", [few, updates], { axis: 2, batchDims: 1, size });
    });
  }
}

test("scatterAdd counts, gather reads the counts back", () => {
  const draw = new SeededDraw({ seed: 7, size: 1 });
  const at = indices(draw, [5000], 37);
  const ones = { aval: new Aval([5000], "float32"), data: new Float32Array(5000).fill(1) };
  const [counts] = run("scatterAdd", [at, ones], { axis: 0, batchDims: 0, size: 37 });
  const expected = new Array(37).fill(0);
  for (const i of at.data) expected[i]++;
  expect(counts!.toArray()).toEqual(expected);
  const [back] = run("gather", [{ aval: counts!.aval, data: counts!.dataSync() }, at], {
    axis: 0,
    batchDims: 0,
  });
  expect(back!.toArray()).toEqual([...at.data].map((i) => expected[i]));
});

test("an index outside is an error with the words of the reference, the next call is none", () => {
  const draw = new SeededDraw({ seed: 3, size: 1 });
  for (const bad of [-1, 9, 2147483647, -2147483648]) {
    for (const [name, size, after] of [
      ["gather", 9, 3],
      ["scatterAdd", 9, 3],
      ["scatterAdd", 60000, 8],
      ["scatterAdd", 9, 0],
    ] as const) {
      const index = indices(draw, [2, 700], 9);
      const wrong = bad === 9 ? size : bad;
      index.data[1234] = wrong;
      index.data[1299] = -77;
      const x = name === "gather" ? [2, 2, size, after] : [2, 2, 700, after];
      const params = { axis: 2, batchDims: 1, ...(name === "gather" ? {} : { size }) };
      const operand = drawn(draw, "float32", x);
      const args = name === "gather" ? [operand, index] : [index, operand];
      const text = `Cannot ${name} at index ${wrong} of axis 2: its size is ${size}`;
      expect(() => run(name, args, params)).toThrow(text);
      expect(() => compare(name, args, params)).toThrow(text);
      index.data[1234] = 0;
      index.data[1299] = 8;
      compare(name, args, params);
    }
  }
});

test("nothing is gathered from nothing", () => {
  const none = { aval: new Aval([0], "int32"), data: new Int32Array(0) };
  const empty = { aval: new Aval([0, 3], "float32"), data: new Float32Array(0) };
  compare("gather", [empty, none], { axis: 0, batchDims: 0 });
  compare("scatterAdd", [none, empty], { axis: 0, batchDims: 0, size: 0 });
  const [zeros] = compare("scatterAdd", [none, empty], { axis: 0, batchDims: 0, size: 2 });
  expect(zeros!.toArray()).toEqual([
    [0, 0, 0],
    [0, 0, 0],
  ]);
  const one = { aval: new Aval([1], "int32"), data: new Int32Array(1) };
  const row = { aval: new Aval([1, 3], "float32"), data: new Float32Array(3) };
  expect(() => run("gather", [empty, one], { axis: 0, batchDims: 0 })).toThrow(RangeError);
  expect(() => run("scatterAdd", [one, row], { axis: 0, batchDims: 0, size: 0 })).toThrow(RangeError);
});

// --------------------------------------------------------------------------------------------------------- pooling

/** Windows over one to three axes, with padding; loose ones may hold nothing but padding, which has a sum only. */
function drawWindows(
  draw: SeededDraw,
  isLoose: boolean,
): {
  lead: number[];
  sizes: number[];
  counts: number[];
  params: { window: number[]; strides: number[]; padding: [number, number][] };
} {
  const axes = draw.int(1, 3);
  const sizes = Array.from({ length: axes }, (_, a) => draw.int(1, a === axes - 1 ? 40 : 7));
  const window = sizes.map((n) => draw.int(1, Math.min(n, draw.pick([2, 3, 9])) + (isLoose ? 2 : 0)));
  const padding = window.map((n): [number, number] =>
    isLoose ? [draw.int(2, 2 * n), draw.int(0, 2 * n)] : [draw.int(0, n - 1), draw.int(0, n - 1)],
  );
  const strides = sizes.map(() => draw.int(1, 4));
  const counts = sizes.map(
    (n, a) => Math.floor((n + padding[a]![0] + padding[a]![1] - window[a]!) / strides[a]!) + 1,
  );
  return { lead: draw.shape(0, 1), sizes, counts, params: { window, strides, padding } };
}

for (const name of ["maxPool", "maxPoolIndex", "sumPool"]) {
  each(name, numeric, 5, (draw, dtype) => {
    const { lead, sizes, params } = drawWindows(draw, name === "sumPool" && draw.bool());
    compare(name, [drawn(draw, dtype, [...lead, ...sizes], draw.pick(kinds))], params);
  });
}

each("sumPoolTranspose", numeric, 5, (draw, dtype) => {
  const { lead, sizes, counts, params } = drawWindows(draw, draw.bool());
  const y = drawn(draw, dtype, [...lead, ...counts], draw.pick(kinds));
  compare("sumPoolTranspose", [y], { ...params, sizes });
});

test("the maximum is found in every place of every window that fits a vector", () => {
  for (const stride of [1, 2, 3]) {
    for (const width of [1, 2, 3, 5]) {
      for (let place = 0; place < 24; place++) {
        const data = new Float32Array(24).fill(Number.NEGATIVE_INFINITY);
        data[place] = -3;
        const x = { aval: new Aval([24], "float32"), data };
        const params = { window: [width], strides: [stride], padding: [[0, 0]] };
        const [best] = run("maxPool", [x], params);
        const [index] = run("maxPoolIndex", [x], params);
        best!.dataSync().forEach((y, o) => {
          const isIn = place >= o * stride && place < o * stride + width;
          expect(y).toBe(isIn ? -3 : Number.NEGATIVE_INFINITY);
          expect(index!.dataSync()[o]).toBe(isIn ? place : o * stride);
        });
      }
    }
  }
});

for (const name of ["poolGather", "poolScatter"]) {
  each(name, numeric, 30, (draw, dtype) => {
    const lead = draw.shape(0, 1);
    const sizes = draw.shape(1, 2);
    const run = sizes.map(() => draw.int(0, 20));
    const index = indices(draw, [...lead, ...run], sizeOf(sizes));
    for (let i = 0; i < index.data.length; i += draw.int(1, 20))
      index.data[i] = draw.pick([-1, sizeOf(sizes), 2 ** 31 - 1]);
    if (name === "poolGather")
      compare(name, [drawn(draw, dtype, [...lead, ...sizes], "special"), index], { axes: sizes.length });
    else compare(name, [drawn(draw, dtype, [...lead, ...run], draw.pick(kinds)), index], { sizes });
  });
}

test("poolScatter to more elements than a scratch buffer holds", () => {
  const draw = new SeededDraw({ seed: 11, size: 1 });
  const index = indices(draw, [2, 1, 999], 300 * 500);
  compare("poolScatter", [drawn(draw, "float32", [2, 1, 999]), index], { sizes: [300, 500] });
});

// ----------------------------------------------------------------------------------------------------------- scans

each("cumsum", numeric, 45, (draw, dtype) => {
  const shape = draw.shape(1, 3);
  const params = { axis: draw.int(0, shape.length - 1), reverse: draw.bool() };
  // Of few numbers float64 sums are exact, in any order.
  const kind = dtype === "float32" ? draw.pick(["few", "special"] as const) : draw.pick(kinds);
  compare("cumsum", [drawn(draw, dtype, shape, kind)], params);
});

test("cumsum of float32 is as precise as float32 results can be", () => {
  const draw = new SeededDraw({ seed: 5, size: 1 });
  for (const reverse of [false, true]) {
    const x = drawn(draw, "float32", [3, 10007]);
    const [y] = run("cumsum", [x], { axis: 1, reverse });
    const sums = y!.dataSync();
    for (let row = 0; row < 3; row++) {
      let sum = 0;
      for (let k = 0; k < 10007; k++) {
        const at = row * 10007 + (reverse ? 10006 - k : k);
        sum += x.data[at]!;
        expect(Math.abs(sums[at]! - sum)).toBeLessThanOrEqual(2 ** -24 * Math.abs(sum) + 1e-11);
      }
    }
  }
});

for (const name of ["argmax", "argmin"]) {
  each(name, every, 45, (draw, dtype) => {
    const shape = draw.shape(1, 3);
    const x = drawn(draw, dtype, shape, draw.pick(kinds));
    compare(name, [x], { axis: draw.int(0, shape.length - 1) });
  });

  test(`${name} finds the one place in rows of every length`, () => {
    const sign = name === "argmax" ? 1 : -1;
    for (let n = 1; n < 70; n++) {
      const data = new Float32Array(n * n).fill(-sign);
      for (let row = 0; row < n; row++) data[row * n + row] = sign;
      const [y] = run(name, [{ aval: new Aval([n, n], "float32"), data }], { axis: 1 });
      expect(y!.toArray()).toEqual(Array.from({ length: n }, (_, row) => row));
    }
  });
}

// --------------------------------------------------------------------------------------------------------- sorting

each("sort", ["float32", "int32", "uint32", "bool"], 120, (draw, dtype) => {
  const shape = draw.shape(1, 2);
  const axis = draw.int(0, shape.length - 1);
  const companions = draw.pick([[], ["float64"], ["bool", "int32"]] satisfies DType[][]);
  const args = [dtype, ...companions].map((type) => drawn(draw, type, shape, draw.pick(kinds)));
  compare("sort", args, { axis });
});

test("sort orders rows of every length, and rows longer than a scratch buffer", () => {
  const draw = new SeededDraw({ seed: 9, size: 1 });
  for (const n of [...Array(130).keys(), 65279, 65280, 70001]) {
    const x = drawn(draw, "float32", [2, n]);
    const places = {
      aval: new Aval([2, n], "int32"),
      data: Int32Array.from({ length: 2 * n }, (_, i) => i % n),
    };
    const [sorted, order] = run("sort", [x, places], { axis: 1 });
    const [values, found] = [sorted!.dataSync(), order!.dataSync()];
    for (let row = 0; row < 2; row++) {
      const numbers = x.data.slice(row * n, (row + 1) * n);
      const expected = numbers.slice().sort();
      for (let k = 0; k < n; k++) {
        const place = found[row * n + k]!;
        if (values[row * n + k] !== expected[k] || numbers[place] !== expected[k])
          throw new Error(`element ${k} of ${n} is ${values[row * n + k]} from ${place}, not ${expected[k]}`);
      }
    }
  }
});

test("sort of float64 runs on the reference", () => {
  const aval = new Aval([3], "float64");
  const call = { args: [{ dtype: aval.dtype, layout: rowMajor([3]) }], outs: [aval], params: { axis: 0 } };
  expect(kernels.get("sort")!.prepare(call)).toBe(null);
});

// ---------------------------------------------------------------------------------------------------------- random

propWith({ runs: 30 }, "randomBits has the bits of the reference", seeds(40), (seed) => {
  const draw = new SeededDraw(seed);
  const key = drawn(draw, "uint32", [...draw.shape(0, 1), 2]);
  compare("randomBits", [key], { shape: draw.shape(0, 2, 0), words: draw.pick([1, 2]) });
});

propWith({ runs: 30 }, "foldIn has the bits of the reference", seeds(40), (seed) => {
  const draw = new SeededDraw(seed);
  const shape = draw.shape(0, 2, 0);
  const data = drawn(draw, draw.pick(["int32", "uint32"]), shape);
  compare("foldIn", [drawn(draw, "uint32", [...shape, 2]), data], null);
});

test("the known answers of threefry2x32 with 20 rounds", () => {
  // Random123, kat_vectors: key and counter are zero.
  const zero = { aval: new Aval([2], "uint32"), data: new Uint32Array(2) };
  const [bits] = run("randomBits", [zero], { shape: [5], words: 2 });
  expect([...bits!.dataSync().slice(0, 2)]).toEqual([0x6b200159, 0x99ba4efe]);
  const [folded] = run("foldIn", [zero, { aval: new Aval([], "uint32"), data: new Uint32Array(1) }], null);
  expect(folded!.toArray()).toEqual([0x6b200159, 0x99ba4efe]);
});

// -------------------------------------------------------------------------------------------------------- programs

test("compiled programs call the kernels, on threads too", () => {
  const compiler = new Compiler(new Engine({ heap: new Heap({ pages: 4096 }), threads: 3 }), kernels);
  const draw = new SeededDraw({ seed: 1, size: 1 });
  const windows = {
    window: [2, 2],
    strides: [2, 2],
    padding: [
      [0, 0],
      [0, 0],
    ],
  };
  const image = drawn(draw, "float32", [8, 16, 28, 28]);
  const pooled = drawn(draw, "float32", [8, 16, 14, 14]);
  const places = indices(draw, [8, 16, 14, 14], 784);
  const table = drawn(draw, "float32", [5000, 64]);
  const at = indices(draw, [2000], 5000);
  const calls: readonly [string, readonly HostArray[], unknown][] = [
    ["gather", [table, at], { axis: 0, batchDims: 0 }],
    ["scatterAdd", [at, drawn(draw, "float32", [2000, 64])], { axis: 0, batchDims: 0, size: 5000 }],
    ["maxPool", [image], windows],
    ["maxPoolIndex", [image], windows],
    ["sumPool", [image], windows],
    ["sumPoolTranspose", [pooled], { ...windows, sizes: [28, 28] }],
    ["poolGather", [image, places], { axes: 2 }],
    ["poolScatter", [pooled, places], { sizes: [28, 28] }],
    ["cumsum", [drawn(draw, "float64", [300, 300])], { axis: 1, reverse: false }],
    ["argmax", [drawn(draw, "float32", [10000, 10])], { axis: 1 }],
    ["argmin", [drawn(draw, "float32", [10000, 10])], { axis: 0 }],
    ["sort", [drawn(draw, "float32", [50, 999]), drawn(draw, "float32", [50, 999])], { axis: 0 }],
    ["randomBits", [drawn(draw, "uint32", [2])], { shape: [100000], words: 1 }],
    ["foldIn", [drawn(draw, "uint32", [50000, 2]), drawn(draw, "int32", [50000])], null],
  ];
  expect(new Set(calls.map(([name]) => name))).toEqual(new Set(kernels.keys()));
  for (const [name, args, params] of calls) {
    const prim = record(name);
    const avals = prim.shape(
      args.map((x) => x.aval),
      params,
    );
    const ins = args.map((x) => new Var(x.aval));
    const outs = avals.map((aval) => new Var(aval));
    const program: Program = { ins, eqns: [{ prim, ins, outs, params }], outs };
    const executable = compile(program, compiler);
    expect(executable.show()).toContain(`= named ${name} `);
    const expected = prim.cpu(args, avals, params);
    for (let time = 0; time < 3; time++) {
      const results = executable.run(args.map(({ aval, data }) => new Tensor(aval, data.slice())));
      results.forEach((y, i) => {
        assertSameBits(y, new Tensor(avals[i]!, expected[i]!), `${name} in a program, run ${time}`);
      });
    }
  }
});
