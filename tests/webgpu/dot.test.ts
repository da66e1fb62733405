/**
 * Matrix products of the WebGPU backend against the reference: calls of any layout through the backend, and every shader
 * that some device would use, whether or not this one would.
 */
import { describe, expect, test } from "bun:test";
import { Aval } from "../../core/aval.ts";
import { reference } from "../../core/backend.ts";
import type { GpuBuffer } from "../../core/backends/webgpu/api.ts";
import type { DeviceArray } from "../../core/backends/webgpu/context.ts";
import {
  blockShader,
  candidates,
  dotKernel,
  neighboursShader,
  type Shader,
  teamShader,
  tileShader,
  type Variant,
  variantOf,
} from "../../core/backends/webgpu/dot.ts";
import { type DotCall, dotCall, exchanged } from "../../core/backends/webgpu/dot_call.ts";
import type { RegisterBlock } from "../../core/backends/webgpu/dot_registers.ts";
import { targetOf } from "../../core/backends/webgpu/dot_target.ts";
import type { Tile } from "../../core/backends/webgpu/dot_tiles.ts";
import { MOST_COLUMNS, type Team } from "../../core/backends/webgpu/dot_vectors.ts";
import { type BufferRef, type Capabilities, Workspace } from "../../core/backends/webgpu/kernel.ts";
import { webgpuContext } from "../../core/backends/webgpu/open.ts";
import { extended } from "../../core/backends/webgpu/wgsl.ts";
import { type DType, isFloat, makeArray, type TypedArray } from "../../core/dtype.ts";
import { type Layout, rowMajor } from "../../core/kernel.ts";
import * as ops from "../../core/ops.ts";
import { withEpilogues } from "../../core/passes/epilogue.ts";
import { type CallStep, fused, Slot } from "../../core/passes/fuse.ts";
import { type DotParams, dotP } from "../../core/prims/contract.ts";
import { permuteP } from "../../core/prims/movement.ts";
import { evalProgram, stage, Var } from "../../core/program.ts";
import { sizeOf } from "../../core/shape.ts";
import { copyView } from "../../core/strided.ts";
import { storage, Tensor } from "../../core/value.ts";
import { SeededDraw } from "../support/arbitrary_tensor.ts";
import { assertClose, assertNumbersClose, epsilon, table } from "../support/tolerance.ts";
import { gpuBackend, hasGpu, onHost } from "./support.ts";

const float = "float32";
const matrices: DotParams = { contract: [[1], [0]], batch: [[], []] };
const batched: DotParams = { contract: [[2], [1]], batch: [[0], [0]] };

/** An operand: its elements are those of a row-major buffer of `buffer` elements at a layout. */
interface Operand {
  readonly layout: Layout;
  readonly buffer: number;
}

const plain = (...shape: readonly number[]): Operand => ({ layout: rowMajor(shape), buffer: sizeOf(shape) });

/** A matrix whose columns are neighbours of themselves: the transposed of a row-major one. */
function turned(rows: number, columns: number): Operand {
  return { layout: { shape: [rows, columns], offset: 0, strides: [1, rows] }, buffer: rows * columns };
}

interface Case {
  readonly x: Operand;
  readonly y: Operand;
  readonly params: DotParams;
  readonly dtype: DType;
  /** Both operands are one buffer. */
  readonly isOne?: boolean;
}

function drawn(draw: SeededDraw, dtype: DType, size: number): Tensor {
  const data = makeArray(dtype, size);
  for (let i = 0; i < size; i++) data[i] = isFloat(dtype) ? 2 * draw.unit() - 1 : draw.unit() * 2 ** 32;
  return new Tensor(new Aval([size], dtype), data);
}

function ordered({ layout }: Operand, buffer: Tensor): Tensor {
  const { shape, offset, strides } = layout;
  const data = makeArray(buffer.dtype, sizeOf(shape));
  copyView(
    { data: storage(buffer), offset, strides },
    { data, offset: 0, strides: rowMajor(shape).strides },
    shape,
  );
  return new Tensor(new Aval(shape, buffer.dtype), data);
}

/** A step with its buffers, and what it should compute. */
function stepOf({ x, y, params, dtype, isOne }: Case, draw: SeededDraw) {
  const buffers = [drawn(draw, dtype, x.buffer)];
  buffers.push(isOne ? buffers[0]! : drawn(draw, dtype, y.buffer));
  const ins = [ordered(x, buffers[0]!), ordered(y, buffers[1]!)];
  const [expected] = reference.evaluate(dotP, ins, params);
  const slots = buffers.map(({ aval }) => new Slot(aval, "input"));
  if (isOne) slots[1] = slots[0]!;
  const step: CallStep = {
    k: "named",
    prim: dotP,
    params,
    args: [
      { slot: slots[0]!, layout: x.layout },
      { slot: slots[1]!, layout: y.layout },
    ],
    outs: [new Slot(expected!.aval, "step")],
    epilogue: null,
  };
  const absolute = ins.map((v) => new Tensor(v.aval, storage(v).map(Math.abs)));
  const size = isFloat(dtype) ? storage(reference.evaluate(dotP, absolute, params)[0]!) : null;
  return { step, buffers, expected: storage(expected!), size };
}

/** What the first device of the project is: enough of everything, and not a program. */
function hardware(gpu: Capabilities): Capabilities {
  return {
    ...gpu,
    isSoftware: false,
    limits: {
      ...gpu.limits,
      maxWorkgroupSize: 256,
      maxWorkgroupBytes: Math.min(32768, gpu.limits.maxWorkgroupBytes),
    },
  };
}

type Made = ReturnType<typeof stepOf>;

/** Runs a variant; what lies in the buffers of its results and between its shaders before is not zero. */
async function runVariant(
  inputs: ReadonlyMap<Slot, Tensor>,
  outs: readonly Slot[],
  { dispatches }: Variant,
): Promise<TypedArray[]> {
  const context = webgpuContext()!;
  const buffers = new Map<BufferRef, GpuBuffer>();
  for (const [slot, x] of inputs) buffers.set(slot, context.arrayOf(x).block.buffer);
  const made: DeviceArray[] = [];
  const make = (ref: BufferRef, dtype: DType, size: number): void => {
    const array = context.makeArray(dtype, size, () => "result");
    context.write(array, makeArray(dtype, size).fill(7));
    made.push(array);
    buffers.set(ref, array.block.buffer);
  };
  for (const slot of outs) make(slot, slot.aval.dtype, slot.aval.size);
  for (const { code, label, groups, buffers: refs } of dispatches()) {
    for (const ref of refs) {
      if (ref instanceof Workspace && !buffers.has(ref)) make(ref, float, ref.bytes / 4);
    }
    const pipeline = context.pipeline(extended(code), label);
    const group = context.group(
      pipeline,
      refs.map((ref) => buffers.get(ref)!),
    );
    const [x, y, z] = groups;
    context.record([{ dispatch: pipeline, group, x, y, z }]);
  }
  const results = await context.read(made.slice(0, outs.length));
  for (const array of made) context.release(array);
  return results;
}

async function resultOf({ step, buffers }: Made, variant: Variant): Promise<TypedArray> {
  const inputs = new Map(step.args.map(({ slot }, i) => [slot, buffers[i]!]));
  const [result] = await runVariant(inputs, step.outs, variant);
  return result!;
}

async function compare(made: Made, variant: Variant): Promise<void> {
  const actual = await resultOf(made, variant);
  const { step, expected, size } = made;
  const { k, repeats } = dotCall(step);
  for (let i = 0; i < actual.length; i++) {
    // Rounding k products and k sums.
    const bound = size === null ? 0 : (k * repeats + 1) * epsilon.float32 * size[i]!;
    if (!(Math.abs(actual[i]! - expected[i]!) <= bound))
      throw new Error(
        `${variant.name}: element ${i} of ${actual.length} is ${actual[i]}, ${expected[i]} is needed`,
      );
  }
}

/** Small enough for a processor, with all that large ones have: turns of both operands, two stages, unrolled steps. */
const tiles: readonly Tile[] = [
  { rows: 16, columns: 16, depth: 8, blockRows: 4, blockColumns: 4, stages: 1, unroll: 1 },
  { rows: 16, columns: 8, depth: 8, blockRows: 8, blockColumns: 4, stages: 2, unroll: 2 },
  { rows: 32, columns: 16, depth: 4, blockRows: 4, blockColumns: 4, stages: 1, unroll: 4 },
];
const block: RegisterBlock = { blockRows: 4, blockColumns: 8 };
const teams: readonly Team[] = [
  { along: "rows", team: 4, size: 16 },
  { along: "columns", team: 4, size: 16 },
  { along: "rows", team: 1, size: 8 },
  { along: "columns", team: 1, size: 8 },
];

/** The shader whose invocations hand each other what they read, where the device has such; no more of them than it has. */
function neighbourVariants(call: DotCall, seed: number, gpu: Capabilities): Variant[] {
  const { neighbours = 1 } = gpu;
  if (neighbours === 1) return [];
  const few = Math.min(neighbours, 4);
  return [call, exchanged(call)].flatMap((one, i) => {
    const shader = neighboursShader(one, { blockRows: 3, blockColumns: 2, neighbours: few }, gpu);
    return [variantOf(one, shader, shader.cut((seed + i) % 2 === 0 ? 1 : 3), gpu)];
  });
}

/** One shader of every kind for a step, the sum of every other one in parts. */
function variantsOf(call: DotCall, seed: number, gpu: Capabilities): Variant[] {
  const thin = call.n <= call.m ? call : exchanged(call);
  const fitting = thin.n > MOST_COLUMNS ? [] : teams.filter(({ along }) => fitsTeam(thin, along));
  const all: readonly (readonly [DotCall, Shader])[] = [
    [call, tileShader(call, tiles[seed % tiles.length]!, gpu)],
    [call, blockShader(call, block, gpu)],
    ...fitting.map((team) => [thin, teamShader(thin, team, gpu)] as const),
  ];
  return all.map(([one, shader], i) =>
    variantOf(one, shader, shader.cut((Math.floor(seed / tiles.length) + i) % 2 === 0 ? 1 : 3), gpu),
  );
}

/** A team goes along the vectors of its operand, where there are any. */
function fitsTeam({ x }: DotCall, along: Team["along"]): boolean {
  return x.width === 1 || (x.along === "free") === (along === "columns");
}

const cases: Readonly<Record<string, Case>> = {
  "rows and columns of fours": { x: plain(20, 24), y: plain(24, 36), params: matrices, dtype: float },
  primes: { x: plain(37, 41), y: plain(41, 43), params: matrices, dtype: float },
  "both transposed": { x: turned(36, 28), y: turned(28, 20), params: matrices, dtype: float },
  "both transposed, odd": { x: turned(19, 23), y: turned(23, 13), params: matrices, dtype: float },
  "fours only along the sum": { x: plain(7, 20), y: turned(20, 9), params: matrices, dtype: float },
  "a sum shorter than a step": { x: plain(9, 3), y: plain(3, 12), params: matrices, dtype: float },
  "one product each": {
    x: plain(21),
    y: plain(12),
    params: { contract: [[], []], batch: [[], []] },
    dtype: float,
  },
  "batches, one of them for all": {
    x: plain(3, 12, 8),
    y: { layout: { shape: [3, 8, 12], offset: 0, strides: [0, 12, 1] }, buffer: 96 },
    params: batched,
    dtype: float,
  },
  "heads of attention: axes apart": {
    // x[b, s, h, d] and y[b, t, h, d], batches b and h.
    x: plain(2, 6, 3, 8),
    y: plain(2, 5, 3, 8),
    params: {
      contract: [[3], [3]],
      batch: [
        [0, 2],
        [0, 2],
      ],
    },
    dtype: float,
  },
  "sums of two axes apart": {
    x: plain(4, 5, 12),
    y: plain(12, 7, 4),
    params: {
      contract: [
        [0, 2],
        [2, 0],
      ],
      batch: [[], []],
    },
    dtype: float,
  },
  "free axes apart, backwards and with gaps": {
    x: { layout: { shape: [3, 5, 8], offset: 15, strides: [40, -3, 1] }, buffer: 200 },
    y: { layout: { shape: [8, 6], offset: 3, strides: [13, 2] }, buffer: 120 },
    params: { contract: [[2], [0]], batch: [[], []] },
    dtype: float,
  },
  "a matrix and its transposed, one buffer": {
    x: plain(12, 8),
    y: turned(8, 12),
    params: matrices,
    dtype: float,
    isOne: true,
  },
  "one buffer, vectors of one operand only": {
    x: plain(8, 8),
    y: { layout: { shape: [8, 7], offset: 1, strides: [8, 1] }, buffer: 64 },
    params: matrices,
    dtype: float,
    isOne: true,
  },
  "int32 wraps around": { x: plain(13, 20), y: plain(20, 8), params: matrices, dtype: "int32" },
  "uint32 wraps around": { x: turned(12, 17), y: plain(17, 8), params: matrices, dtype: "uint32" },
  "a matrix and a vector": { x: plain(29, 44), y: plain(44, 1), params: matrices, dtype: float },
  "a transposed matrix and a vector": { x: turned(28, 35), y: plain(35, 1), params: matrices, dtype: float },
  "a row and a matrix": { x: plain(1, 30), y: plain(30, 20), params: matrices, dtype: float },
  "two rows and a matrix": { x: plain(2, 33), y: plain(33, 16), params: matrices, dtype: float },
  "a matrix and four columns": { x: plain(18, 40), y: plain(40, 4), params: matrices, dtype: float },
  "a matrix and three columns, odd": { x: plain(17, 37), y: turned(37, 3), params: matrices, dtype: "int32" },
  "two vectors": {
    x: plain(203),
    y: plain(203),
    params: { contract: [[0], [0]], batch: [[], []] },
    dtype: float,
  },
  "vectors in batches, sums apart": {
    x: plain(2, 3, 8, 5),
    y: plain(8, 2, 3),
    params: {
      contract: [
        [1, 2],
        [2, 0],
      ],
      batch: [[0], [1]],
    },
    dtype: float,
  },
};

describe.skipIf(!hasGpu)("a product in every way", () => {
  Object.entries(cases).forEach(([name, one], seed) => {
    test(name, async () => {
      const gpu = hardware(webgpuContext()!.gpu);
      const made = stepOf(one, new SeededDraw({ seed, size: 4 }));
      const call = dotCall(made.step);
      const variants = [...variantsOf(call, seed, gpu), ...neighbourVariants(call, seed, gpu)];
      for (const variant of variants) await compare(made, variant);
      expect(variants.length).toBeGreaterThan(1);
    });
  });

  test("what follows a product is computed where it is stored", async () => {
    const gpu = hardware(webgpuContext()!.gpu);
    const draw = new SeededDraw({ seed: 5, size: 3 });
    for (const [m, k, n] of [
      [17, 24, 20],
      [17, 24, 19],
      [4, 5000, 4],
    ] as const) {
      const args = [[m, k], [k, n], [n], [m, n], [m, 1]].map((shape) => draw.tensor({ shape }, float));
      const program = stage(
        (x, w, b, r, s) => {
          const product = ops.matmul(x!, w!);
          return [product, ops.mul(ops.relu(ops.add(ops.add(product, b!), r!)), s!)];
        },
        args.map(({ aval }) => aval),
      );
      const expected = evalProgram(program, args).map((y) => storage(y as Tensor));
      const schedule = withEpilogues(
        fused(program, () => [false, false]),
        () => true,
      );
      const [step, ...others] = schedule.steps;
      if (step?.k !== "named" || step.epilogue === null || others.length > 0)
        throw new Error("Cannot test epilogues: the program is more than one step, one is needed");
      const call = dotCall(step);
      for (const keepsResult of [true, false]) {
        const target = targetOf({ ...step, epilogue: { ...step.epilogue, keepsResult } });
        const one = { ...call, target };
        const shaders = [tileShader(one, tiles[0]!, gpu), blockShader(one, block, gpu)];
        const variants = shaders.map((shader, i) => variantOf(one, shader, shader.cut(1 + i), gpu));
        if (k < 4096) variants.push(...neighbourVariants(one, 0, gpu));
        for (const variant of variants) {
          const results = await runVariant(
            new Map(schedule.ins.map((slot, i) => [slot, args[i]!])),
            schedule.outs.map(({ slot }) => slot),
            variant,
          );
          results.forEach((actual, i) => {
            if (i > 0 || keepsResult) assertNumbersClose(actual, expected[i]!, variant.name, table.float32);
          });
        }
      }
    }
  });

  test("errors of long sums do not add up", async () => {
    // One after the other, 200000 times 0.1 in float32 are off by more than 1 in 1000.
    const k = 200_000;
    const gpu = hardware(webgpuContext()!.gpu);
    const made = stepOf(
      { x: plain(4, k), y: plain(k, 4), params: matrices, dtype: float },
      new SeededDraw({ seed: 1, size: 1 }),
    );
    const [x, y] = made.buffers.map((buffer) => storage(buffer));
    x!.fill(0.1);
    y!.fill(1);
    const call = dotCall(made.step);
    const expected = k * Math.fround(0.1);
    for (const shader of [
      tileShader(call, tiles[1]!, gpu),
      blockShader(call, block, gpu),
      teamShader(call, { along: "rows", team: 4, size: 16 }, gpu),
    ]) {
      // A sum of at most 4096 numbers, and one of at most 64 such sums.
      const result = await resultOf(made, variantOf(call, shader, shader.cut(1), gpu));
      for (const value of result) expect(Math.abs(value / expected - 1)).toBeLessThan((4096 + 64) * 2 ** -24);
    }
  });
});

describe.skipIf(!hasGpu)("dot of the backend", () => {
  const evaluate = (x: Tensor, y: Tensor, params: DotParams): Promise<Tensor> =>
    onHost(gpuBackend().evaluate(dotP, [x, y], params)[0]!);

  test("a sum of nothing is zero, and nothing of sums is nothing", async () => {
    const [x, y] = [new Aval([3, 0], "float32"), new Aval([0, 5], "float32")].map(
      (aval) => new Tensor(aval, new Float32Array(0)),
    );
    expect([...storage(await evaluate(x!, y!, matrices))]).toEqual(new Array<number>(15).fill(0));
    const none = await evaluate(y!, new Tensor(new Aval([5, 2], "float32"), new Float32Array(10)), matrices);
    expect(none.shape).toEqual([0, 2]);
    expect(storage(none).length).toBe(0);
  });

  test("transposed operands are read where they are", async () => {
    const avals = [new Aval([24, 20], "float32"), new Aval([12, 24], "float32")];
    const [x, y] = avals.map((aval) => new Var(aval));
    const turns = [new Var(new Aval([20, 24], "float32")), new Var(new Aval([24, 12], "float32"))];
    const out = new Var(new Aval([20, 12], "float32"));
    const executable = gpuBackend().compile({
      ins: [x!, y!],
      eqns: [
        { prim: permuteP, ins: [x!], outs: [turns[0]!], params: { perm: [1, 0] } },
        { prim: permuteP, ins: [y!], outs: [turns[1]!], params: { perm: [1, 0] } },
        { prim: dotP, ins: turns, outs: [out], params: matrices },
      ],
      outs: [out],
    });
    expect(executable.show().split("\n").length).toBe(2);
    const draw = new SeededDraw({ seed: 3, size: 3 });
    const args = avals.map((aval) => new Tensor(aval, storage(drawn(draw, float, aval.size))));
    const [actual] = executable.run(args);
    const [expected] = reference.evaluate(dotP, [args[1]!, args[0]!], matrices);
    const [turned] = reference.evaluate(permuteP, [expected!], { perm: [1, 0] });
    assertClose(await onHost(actual!), turned!, "(y x)^T");
  });

  test("an operand without neighbours is put in order, one with a broadcast axis is not", () => {
    const { gpu } = webgpuContext()!;
    const aval = new Aval([8, 8], "float32");
    const prepare = (strides: readonly number[]): readonly boolean[] | null =>
      dotKernel.prepare(
        [
          { aval, layout: { shape: [8, 8], offset: 0, strides } },
          { aval, layout: rowMajor([8, 8]) },
        ],
        [aval],
        matrices,
        gpu,
      );
    expect(prepare([8, 1])).toEqual([false, false]);
    expect(prepare([1, 8])).toEqual([false, false]);
    expect(prepare([0, 1])).toEqual([false, false]);
    expect(prepare([16, 2])).toEqual([true, false]);
    const wide = new Aval([8, 8], "float64");
    const layout = rowMajor([8, 8]);
    expect(
      dotKernel.prepare(
        [
          { aval: wide, layout },
          { aval: wide, layout },
        ],
        [wide],
        matrices,
        gpu,
      ),
    ).toBeNull();
  });
});

describe("what a device could choose from", () => {
  const limits: Capabilities["limits"] = {
    maxBufferSize: 2 ** 31,
    maxBindingSize: 2 ** 31,
    maxStorageBuffers: 8,
    maxWorkgroupSize: 256,
    maxWorkgroupBytes: 16384,
    maxGroupsPerDimension: 65535,
  };
  const features = { f16: false, subgroups: false, timestamps: false, subgroupMatrix: false };
  const shapes = [
    [4096, 4096, 4096],
    [1, 1, 10_000_000],
    [1, 8192, 8192],
    [8192, 1, 8192],
    [65_537, 3, 1024],
    [3, 65_537, 1021],
    [64, 64, 1_000_000],
    [70_000, 70_000, 1],
    [784, 512, 128],
    [5, 7, 11],
  ] as const;

  for (const isSoftware of [false, true]) {
    test(`shaders within the limits of ${isSoftware ? "a processor" : "a small GPU"}`, () => {
      const gpu: Capabilities = { features, subgroupSize: null, limits, isSoftware };
      for (const [m, n, k] of shapes) {
        const avals = [
          [m, k],
          [k, n],
          [m, n],
        ].map((shape) => new Aval(shape, "float32"));
        const slots = avals.map((aval) => new Slot(aval, "input"));
        const call = dotCall({
          k: "named",
          prim: dotP,
          params: matrices,
          args: [0, 1].map((i) => ({ slot: slots[i]!, layout: rowMajor(avals[i]!.shape) })),
          outs: [slots[2]!],
          epilogue: null,
        });
        const variants = candidates(call, gpu);
        expect(variants.length).toBeGreaterThan(0);
        expect(new Set(variants.map(({ name }) => name)).size).toBe(variants.length);
        for (const { dispatches } of variants) {
          const all = dispatches();
          expect(all.reduce((sum, { operations }) => sum + operations, 0)).toBe(2 * m * n * k);
          for (const { code, groups, buffers } of all) {
            const size = Number(/@workgroup_size\((\d+)\)/.exec(code)![1]);
            expect(size).toBeLessThanOrEqual(limits.maxWorkgroupSize);
            for (const count of groups) expect(count).toBeLessThanOrEqual(limits.maxGroupsPerDimension);
            let bytes = 0;
            for (const [, type, count] of code.matchAll(/var<workgroup> \w+: array<(vec4)?.*, (\d+)>;/g))
              bytes += Number(count) * (type === undefined ? 4 : 16);
            expect(bytes).toBeLessThanOrEqual(limits.maxWorkgroupBytes);
            const spaces = buffers.filter((buffer) => buffer instanceof Workspace);
            for (const space of spaces) expect(space.bytes).toBeLessThanOrEqual(limits.maxBindingSize);
          }
        }
      }
    });
  }
});
