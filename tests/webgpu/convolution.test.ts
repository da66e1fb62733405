/** Convolution and its transposes on the GPU against the reference: layers of networks, awkward ones, other devices. */
import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { Aval } from "../../core/aval.ts";
import { reference } from "../../core/backend.ts";
import { type Relation, reachOf, runsOf } from "../../core/backends/webgpu/conv_axes.ts";
import {
  convolutionDispatches,
  convolutionKernels,
  type Role,
} from "../../core/backends/webgpu/convolution.ts";
import { blockShader, tileShader, type Variant, variantOf } from "../../core/backends/webgpu/dot.ts";
import type { DotCall } from "../../core/backends/webgpu/dot_call.ts";
import type { Tile } from "../../core/backends/webgpu/dot_tiles.ts";
import type { Capabilities } from "../../core/backends/webgpu/kernel.ts";
import { webgpuContext } from "../../core/backends/webgpu/open.ts";
import { type DType, isFloat, makeArray, type TypedArray } from "../../core/dtype.ts";
import { type Layout, rowMajor } from "../../core/kernel.ts";
import { type CallStep, Slot } from "../../core/passes/fuse.ts";
import type { Primitive } from "../../core/primitive.ts";
import { type ConvMemberParams, convInputP, convKernelP, convP } from "../../core/prims/conv.ts";
import { type Shape, sizeOf, stridesOf } from "../../core/shape.ts";
import { copyView } from "../../core/strided.ts";
import { bind1 } from "../../core/trace.ts";
import { storage, Tensor } from "../../core/value.ts";
import {
  add,
  avgPool,
  conv,
  devicePut,
  grad,
  jit,
  makeProgram,
  maxPool,
  mean,
  mul,
  relu,
  type Value,
} from "../../mod.ts";
import { SeededDraw } from "../support/arbitrary_tensor.ts";
import { oneEquation } from "../support/one_equation.ts";
import { propWith } from "../support/prop.ts";
import { assertClose, assertNumbersClose, table } from "../support/tolerance.ts";
import { Buffers, devices } from "./loop_runner.ts";
import { gpuBackend, hasGpu, onHost } from "./support.ts";

// --- places ------------------------------------------------------------------------------------------------------

const relation: fc.Arbitrary<Relation> = fc.record({
  denominator: fc.integer({ min: 1, max: 6 }),
  numerator: fc.integer({ min: 1, max: 6 }),
  tap: fc.integer({ min: -5, max: 5 }).filter((n) => n !== 0),
  offset: fc.integer({ min: -9, max: 9 }),
});

propWith(
  { runs: 300 },
  "runs are exactly the places that meet",
  fc.tuple(relation, fc.integer({ min: 0, max: 20 }), fc.integer({ min: 1, max: 9 })),
  ([given, size, elements]) => {
    const { denominator, numerator, tap, offset } = given;
    const expected: string[] = [];
    for (let u = 0; u < size; u++)
      for (let k = 0; k < elements; k++) {
        const v = (numerator * u + tap * k + offset) / denominator;
        if (Number.isInteger(v)) expected.push([u, k, v].join());
      }
    const actual: string[] = [];
    const places: number[] = [];
    const runs = runsOf(given, size, elements);
    for (const { phases, count, taps, place, element, source } of runs)
      for (let i = 0; i < phases; i++)
        for (let q = 0; q < count; q++) {
          places.push(place.first + i * place.phase + q * place.step);
          for (let j = 0; j < taps; j++) {
            const at = [place, element, source].map(
              (one) => one.first + i * one.phase + q * one.step + j * one.tap,
            );
            actual.push(at.join());
          }
        }
    expect(actual.sort()).toEqual(expected.sort());
    expect(places.sort((a, b) => a - b)).toEqual(Array.from({ length: size }, (_, u) => u));
    const reached = expected.map((text) => Number(text.split(",")[2]));
    expect(reachOf(runs)).toEqual(reached.length === 0 ? null : [Math.min(...reached), Math.max(...reached)]);
  },
);

test("phases that are alike are one run", () => {
  // Windows that touch but do not overlap: every place is the first of a phase of its own.
  const [run, ...others] = runsOf({ denominator: 16, numerator: 1, tap: -1, offset: 0 }, 224, 16);
  expect(others).toEqual([]);
  expect(run).toMatchObject({ phases: 16, count: 14, taps: 1 });
});

// --- layers ------------------------------------------------------------------------------------------------------

interface Layer {
  readonly input: Shape;
  readonly kernel: Shape;
  readonly strides?: readonly number[];
  readonly padding?: readonly (readonly [number, number])[];
  readonly dilation?: readonly number[];
  readonly inputDilation?: readonly number[];
  readonly groups?: number;
}

const around = (n: number, count: number = 2): [number, number][] =>
  Array.from({ length: count }, () => [n, n]);

const layers: Readonly<Record<string, Layer>> = {
  "3x3 of many channels": { input: [2, 32, 9, 9], kernel: [24, 32, 3, 3], padding: around(1) },
  "3x3, stride 2": { input: [2, 16, 14, 14], kernel: [20, 16, 3, 3], padding: around(1), strides: [2, 2] },
  "7x7 of 3 channels, stride 2": {
    ...{ input: [2, 3, 20, 20], kernel: [16, 3, 7, 7] },
    ...{ padding: around(3), strides: [2, 2] },
  },
  "1x1": { input: [2, 24, 6, 6], kernel: [20, 24, 1, 1] },
  "1x1 of 7x7": { input: [3, 20, 7, 7], kernel: [8, 20, 1, 1] },
  "1x1, stride 2": { input: [2, 24, 9, 9], kernel: [20, 24, 1, 1], strides: [2, 2] },
  "1x1 with padding": { input: [2, 5, 4, 4], kernel: [3, 5, 1, 1], padding: around(2) },
  "one channel": { input: [3, 1, 12, 12], kernel: [9, 1, 3, 3] },
  "large images": { input: [2, 5, 40, 40], kernel: [4, 5, 3, 3], padding: around(1) },
  patches: { input: [2, 3, 16, 16], kernel: [10, 3, 4, 4], strides: [4, 4] },
  "patches with gaps": { input: [2, 3, 17, 19], kernel: [10, 3, 2, 2], strides: [4, 5] },
  groups: { input: [2, 24, 8, 8], kernel: [12, 8, 3, 3], groups: 3, padding: around(1) },
  "groups of odd sizes": { input: [2, 9, 8, 7], kernel: [15, 3, 3, 2], groups: 3, padding: around(1) },
  depthwise: { input: [2, 13, 11, 11], kernel: [13, 1, 3, 3], groups: 13, padding: around(1) },
  "depthwise, two each, stride 2": {
    ...{ input: [2, 6, 11, 11], kernel: [12, 1, 5, 5], groups: 6 },
    ...{ padding: around(2), strides: [2, 2] },
  },
  dilated: { input: [2, 16, 13, 13], kernel: [8, 16, 3, 3], dilation: [2, 3], padding: around(2) },
  "stride and dilation with a common factor": {
    ...{ input: [2, 4, 19, 17], kernel: [5, 4, 3, 3] },
    ...{ strides: [4, 6], dilation: [2, 4], padding: around(3) },
  },
  transposed: {
    ...{ input: [2, 16, 7, 7], kernel: [12, 16, 4, 4] },
    ...{ inputDilation: [2, 2], padding: around(2) },
  },
  "transposed, with gaps": {
    ...{ input: [2, 4, 5, 5], kernel: [8, 4, 2, 2] },
    ...{ inputDilation: [3, 4], padding: around(1) },
  },
  "stride and zeros between": {
    ...{ input: [2, 4, 9, 8], kernel: [8, 4, 3, 3] },
    ...{ inputDilation: [3, 2], strides: [2, 4], dilation: [1, 2], padding: around(2) },
  },
  "negative padding": {
    input: [2, 8, 11, 12],
    kernel: [4, 8, 3, 3],
    padding: [
      [-2, -1],
      [1, -3],
    ],
    strides: [1, 2],
  },
  "one axis": { input: [3, 17, 97], kernel: [19, 17, 5], padding: [[2, 3]], strides: [3] },
  "three axes": {
    input: [2, 4, 5, 6, 7],
    kernel: [6, 4, 3, 2, 3],
    padding: around(1, 3),
    strides: [1, 2, 1],
  },
  primes: {
    input: [3, 7, 13, 11],
    kernel: [5, 7, 3, 5],
    padding: [
      [1, 0],
      [2, 3],
    ],
  },
  "one of everything": { input: [1, 1, 1, 1], kernel: [1, 1, 1, 1] },
  "one place": { input: [1, 8, 3, 3], kernel: [16, 8, 3, 3] },
  "no image": { input: [0, 3, 5, 5], kernel: [4, 3, 3, 3] },
  "no input channel": { input: [2, 0, 5, 5], kernel: [4, 0, 3, 3] },
  "no output channel": { input: [2, 3, 5, 5], kernel: [0, 3, 3, 3] },
  "nothing but padding": { input: [2, 3, 0, 5], kernel: [4, 3, 2, 3], padding: around(2) },
};

const roles: ReadonlyMap<unknown, Role> = new Map<unknown, Role>([
  [convP, "output"],
  [convInputP, "input"],
  [convKernelP, "kernel"],
]);

interface Call {
  readonly primitive: Primitive<ConvMemberParams>;
  readonly shapes: readonly Shape[];
  readonly params: ConvMemberParams;
}

/** The calls of the three members that belong to a layer. */
function callsOf({ input, kernel, ...given }: Layer): Call[] {
  const ones = input.slice(2).map(() => 1);
  const params = {
    strides: given.strides ?? ones,
    padding: given.padding ?? around(0, ones.length),
    dilation: given.dilation ?? ones,
    inputDilation: given.inputDilation ?? ones,
    groups: given.groups ?? 1,
  };
  const size = input.slice(2).map((n, a) => {
    const [low, high] = params.padding[a]!;
    const padded = low + (n === 0 ? 0 : (n - 1) * params.inputDilation[a]! + 1) + high;
    return Math.floor((padded - (kernel[a + 2]! - 1) * params.dilation[a]! - 1) / params.strides[a]!) + 1;
  });
  const output = [input[0]!, kernel[0]!, ...size];
  return [
    { primitive: convP, shapes: [input, kernel], params: { ...params, size } },
    { primitive: convInputP, shapes: [output, kernel], params: { ...params, size: input.slice(2) } },
    { primitive: convKernelP, shapes: [input, output], params: { ...params, size: kernel.slice(2) } },
  ];
}

function drawn(shape: Shape, dtype: DType, seed: number): Tensor {
  const draw = new SeededDraw({ seed, size: 1 });
  const data = makeArray(dtype, sizeOf(shape));
  for (let i = 0; i < data.length; i++)
    data[i] = isFloat(dtype) ? 2 * draw.unit() - 1 : draw.unit() * 2 ** 32;
  return new Tensor(new Aval(shape, dtype), data);
}

/** An operand in memory: the buffer's elements, and where those of the operand are among them. */
interface Stored {
  readonly data: TypedArray;
  readonly layout: Layout;
}

const inOrder = (x: Tensor): Stored => ({ data: storage(x), layout: rowMajor(x.aval.shape) });

/** The axes in reverse order, after some elements that do not belong to it. */
function reversed(x: Tensor): Stored {
  const { shape, dtype, size } = x.aval;
  const strides = stridesOf(shape.toReversed()).reverse();
  const data = makeArray(dtype, size + 3).fill(9);
  copyView({ data: storage(x), offset: 0, strides: stridesOf(shape) }, { data, offset: 3, strides }, shape);
  return { data, layout: { shape, offset: 3, strides } };
}

/** Runs a call's shaders as they would be for some device, perhaps with products computed in a given way. */
async function run(
  call: Call,
  args: readonly Stored[],
  dtype: DType,
  gpu: Capabilities,
  variant?: (product: DotCall) => Variant,
): Promise<TypedArray> {
  const { primitive, shapes, params } = call;
  const kernel = convolutionKernels.get(primitive.name)!;
  const [out] = primitive.shape(
    shapes.map((shape) => new Aval(shape, dtype)),
    params,
  ) as [Aval];
  const slots = args.map(({ data }) => new Slot(new Aval([data.length], dtype), "input"));
  const operands = args.map(({ layout }, i) => ({ slot: slots[i]!, layout }));
  const avals = args.map(({ layout }) => ({ aval: new Aval(layout.shape, dtype), layout }));
  expect(kernel.prepare(avals, [out], params, gpu)).toEqual([false, false]);
  const step: CallStep = {
    ...{ k: "named", prim: primitive, params, args: operands },
    ...{ outs: [new Slot(out, "step")], epilogue: null },
  };
  const buffers = new Buffers();
  args.forEach(({ data }, i) => {
    buffers.write(slots[i]!, data);
  });
  const role = roles.get(primitive)!;
  buffers.run(variant ? convolutionDispatches(role, step, gpu, variant) : kernel.dispatches(step, gpu));
  const [result] = await buffers.read(step.outs);
  buffers.release();
  return result!;
}

async function compare(
  call: Call,
  dtype: DType,
  gpu: Capabilities,
  store: (x: Tensor) => Stored = inOrder,
  variant?: (product: DotCall) => Variant,
): Promise<void> {
  const args = call.shapes.map((shape, i) => drawn(shape, dtype, 7 + i));
  const [expected] = reference.evaluate(call.primitive, args, call.params);
  const actual = await run(call, args.map(store), dtype, gpu, variant);
  assertNumbersClose(
    actual,
    storage(expected!),
    `${call.primitive.name} ${call.shapes.join(" ")}`,
    table[dtype],
  );
}

/** Products in blocks that take little time to compile. */
function inBlocks(product: DotCall): Variant {
  const { gpu } = webgpuContext()!;
  const shader = blockShader(product, { blockRows: 4, blockColumns: 4 }, gpu);
  return variantOf(product, shader, shader.cut(1), gpu);
}

describe.skipIf(!hasGpu)("layers", () => {
  const { gpu } = hasGpu ? webgpuContext()! : { gpu: null as never };
  for (const [name, layer] of Object.entries(layers))
    test(name, async () => {
      for (const call of callsOf(layer)) await compare(call, "float32", gpu, inOrder, inBlocks);
    });

  test("as this device computes them", async () => {
    for (const name of ["3x3 of many channels", "depthwise", "depthwise, two each, stride 2"])
      for (const call of callsOf(layers[name]!)) await compare(call, "float32", gpu);
  });

  test("through the backend", async () => {
    // What is put around the input and the turned kernel take as many bytes as each other.
    for (const call of callsOf({ input: [4, 16, 6, 6], kernel: [16, 16, 3, 3] })) {
      const args = call.shapes.map((shape, i) => drawn(shape, "float32", i));
      const avals = args.map((x) => x.aval);
      const executable = gpuBackend().compile(oneEquation(call.primitive, avals, call.params));
      expect(executable.show()).not.toContain("\nhost ");
      const [expected] = reference.evaluate(call.primitive, args, call.params);
      const [actual] = executable.run(args.map((x) => gpuBackend().transfers!.put(x)));
      assertClose(await onHost(actual!), expected!, call.primitive.name);
    }
  });

  for (const dtype of ["int32", "uint32"] as const)
    test(`${dtype} is exact`, async () => {
      for (const name of ["groups of odd sizes", "1x1"])
        for (const call of callsOf(layers[name]!)) await compare(call, dtype, gpu, inOrder, inBlocks);
    });

  test("operands in any order", async () => {
    for (const name of ["3x3, stride 2", "1x1", "groups of odd sizes", "transposed"])
      for (const call of callsOf(layers[name]!)) await compare(call, "float32", gpu, reversed, inBlocks);
  });

  test("one array twice", async () => {
    const shape = [8, 8, 1, 1];
    const [call] = callsOf({ input: shape, kernel: shape });
    const x = drawn(shape, "float32", 3);
    const [expected] = reference.evaluate(convP, [x, x], call!.params);
    const slot = new Slot(x.aval, "input");
    const operand = { slot, layout: rowMajor(shape) };
    const step: CallStep = {
      ...{ k: "named", prim: convP, params: call!.params, args: [operand, operand] },
      ...{ outs: [new Slot(expected!.aval, "step")], epilogue: null },
    };
    const buffers = new Buffers();
    buffers.write(slot, storage(x));
    buffers.run(convolutionKernels.get("conv")!.dispatches(step, gpu));
    const [actual] = await buffers.read(step.outs);
    assertNumbersClose(actual!, storage(expected!), "x with itself", table.float32);
    buffers.release();
  });

  test("a long sum does not lose what one number loses", async () => {
    const [, , call] = callsOf({ input: [8, 1, 300, 300], kernel: [1, 1, 2, 2] });
    const count = 8 * 299 * 299;
    const args = call!.shapes.map((shape) => ({
      data: new Float32Array(sizeOf(shape)).fill(0.1),
      layout: rowMajor(shape),
    }));
    const product = Math.fround(0.1) ** 2;
    let naive = 0;
    for (let i = 0; i < count; i++) naive = Math.fround(naive + Math.fround(product));
    const bound = Math.abs(naive - count * product) / 16;
    for (const value of await run(call!, args, "float32", gpu))
      expect(Math.abs(value - count * product)).toBeLessThan(bound);
  });

  test("the same bits every time", async () => {
    for (const call of callsOf(layers["3x3 of many channels"]!)) {
      const args = call.shapes.map((shape, i) => inOrder(drawn(shape, "float32", i)));
      const first = await run(call, args, "float32", gpu);
      expect(await run(call, args, "float32", gpu)).toEqual(first);
    }
  });

  test("operations are two for each product", () => {
    for (const { primitive, shapes, params } of callsOf(layers["7x7 of 3 channels, stride 2"]!)) {
      const avals = shapes.map((shape) => new Aval(shape, "float32"));
      const args = avals.map((aval) => ({ slot: new Slot(aval, "input"), layout: rowMajor(aval.shape) }));
      const outs = primitive.shape(avals, params).map((aval) => new Slot(aval, "step"));
      for (const device of devices().values()) {
        const dispatches = convolutionKernels
          .get(primitive.name)!
          .dispatches({ k: "named", prim: primitive, params, args, outs, epilogue: null }, device);
        const counted = dispatches.reduce((all, { operations }) => all + operations, 0);
        // Every output place meets every kernel element: 10 x 10 places, 7 x 7 elements.
        expect(counted).toBe(2 * 2 * 100 * 16 * 3 * 49);
      }
    }
  });
});

/** A tile small enough for a processor, in which a step has more than one kernel place. */
const tile: Tile = { rows: 16, columns: 16, depth: 8, blockRows: 4, blockColumns: 4, stages: 1, unroll: 2 };

describe.skipIf(!hasGpu)("as a GPU computes them", () => {
  const names = ["3x3 of many channels", "groups of odd sizes"];
  for (const name of names)
    test(name, async () => {
      const gpu = devices().get("a small GPU")!;
      for (const call of callsOf(layers[name]!))
        await compare(call, "float32", gpu, inOrder, (product) => {
          const shader = tileShader(product, tile, gpu);
          return variantOf(product, shader, shader.cut(3), gpu);
        });
    });
});

// --- what follows ------------------------------------------------------------------------------------------------

describe.skipIf(!hasGpu)("what follows element by element", () => {
  for (const name of ["3x3, stride 2", "patches with gaps"])
    test(name, async () => {
      for (const { primitive, shapes, params } of callsOf(layers[name]!)) {
        const args = shapes.map((shape, i) => drawn(shape, "float32", i));
        const [out] = primitive.shape(
          args.map((x) => x.aval),
          params,
        );
        const mask = drawn(out!.shape, "float32", 9);
        // What becomes of a sum of nothing is not 0.
        const f = (x: Value, w: Value, m: Value): Value => mul(add(bind1(primitive, [x, w], params), 1), m);
        const { program } = makeProgram(f)(...(args as [Tensor, Tensor]), mask);
        const executable = gpuBackend().compile(program);
        // Nothing is left over for a step of its own.
        expect(
          executable
            .show()
            .split("\n")
            .slice(1)
            .every((line) => line.startsWith(primitive.name)),
        ).toBe(true);
        const inputs = [...args, mask].map((x) => gpuBackend().transfers!.put(x));
        const [expected] = reference.compile(program).run([...args, mask]);
        assertClose(await onHost(executable.run(inputs)[0]!), expected!, primitive.name);
      }
    });
});

// --- a network ---------------------------------------------------------------------------------------------------

interface Network {
  readonly first: Value;
  readonly depthwise: Value;
  readonly last: Value;
}

function loss({ first, depthwise, last }: Network, x: Value): Value {
  const a = maxPool(relu(conv(x, first, { padding: "same" })), { window: 2, strides: 2 });
  const b = relu(conv(a, depthwise, { padding: "same", groups: 8 }));
  const c = avgPool(relu(conv(b, last, { strides: 2, padding: around(1) })), { window: 2, strides: 1 });
  return mean(mul(c, c));
}

describe.skipIf(!hasGpu)("a network", () => {
  test("gradients are those of the processor", async () => {
    const shapes = { first: [8, 3, 3, 3], depthwise: [8, 1, 3, 3], last: [12, 8, 3, 3] };
    const network = Object.fromEntries(
      Object.entries(shapes).map(([name, shape], i) => [name, drawn(shape, "float32", i)]),
    ) as unknown as Network;
    const x = drawn([4, 3, 14, 14], "float32", 99);
    const gradient = jit(grad(loss));
    const expected = gradient(network, x);
    const actual = await onHost(gradient(await devicePut(network, "webgpu"), await devicePut(x, "webgpu")));
    for (const name of Object.keys(shapes) as (keyof Network)[])
      assertClose(actual[name], expected[name], name);
  });
});
