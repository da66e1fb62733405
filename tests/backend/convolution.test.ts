/** Convolution and its transposes of the compiled backend against the reference functions of their records. */
import { expect, test } from "bun:test";
import { Aval } from "../../core/aval.ts";
import { convInputKernel, convKernel, convKernelKernel } from "../../core/backends/cpu/convolution.ts";
import { Engine } from "../../core/backends/cpu/engine.ts";
import type { NamedCall, NamedKernel } from "../../core/backends/cpu/named.ts";
import { type DType, isFloat, makeArray, type TypedArray } from "../../core/dtype.ts";
import { rowMajor } from "../../core/kernel.ts";
import type { Primitive } from "../../core/primitive.ts";
import { type ConvMemberParams, convInputP, convKernelP, convP } from "../../core/prims/conv.ts";
import { type Shape, sizeOf } from "../../core/shape.ts";
import { SeededDraw, seeds } from "../support/arbitrary_tensor.ts";
import { propWith } from "../support/prop.ts";
import { assertNumbersClose, table } from "../support/tolerance.ts";

const engine = new Engine({ threads: 1 });
const { heap } = engine;
const GUARD = 16;

interface Member {
  readonly primitive: Primitive<ConvMemberParams>;
  readonly kernel: NamedKernel;
}
const members: readonly Member[] = [
  { primitive: convP, kernel: convKernel },
  { primitive: convInputP, kernel: convInputKernel },
  { primitive: convKernelP, kernel: convKernelKernel },
];

interface Call {
  readonly data: readonly TypedArray[];
  readonly avals: readonly Aval[];
  readonly outs: readonly Aval[];
  readonly params: ConvMemberParams;
}

function drawCall(
  { primitive }: Member,
  draw: SeededDraw,
  dtype: DType,
  shapes: readonly Shape[],
  params: ConvMemberParams,
): Call {
  const avals = shapes.map((shape) => new Aval(shape, dtype));
  const data = shapes.map((shape) => {
    const x = heap.makeArray(dtype, sizeOf(shape))!;
    for (let i = 0; i < x.length; i++) x[i] = isFloat(dtype) ? 2 * draw.unit() - 1 : draw.unit() * 2 ** 32;
    return x;
  });
  return { data, avals, outs: primitive.shape(avals, params), params };
}

/** The result by the kernel; null where there is none. */
function computed({ kernel }: Member, { data, avals, outs, params }: Call): TypedArray | null {
  const args = avals.map(({ dtype, shape }) => ({ dtype, layout: rowMajor(shape) }));
  const call: NamedCall = { args, outs, params };
  if (kernel.prepare(call) === null) return null;
  const plan = kernel.plan(call, engine);
  const { dtype, size } = outs[0]!;
  const out = heap.makeArray(dtype, size + GUARD)!;
  out.fill(7);
  const workspace = heap.allocate(plan.workspaceBytes);
  const pointers = data.map((x) => heap.pointerOf(x));
  // Twice: nothing may depend on what was there.
  for (let i = 0; i < 2; i++) plan.run(pointers, [heap.pointerOf(out)], workspace);
  heap.free(workspace);
  expect(out.subarray(size).every((z) => z === 7)).toBe(true);
  return out.slice(0, size);
}

/** The result by the reference, whose operands are not on the heap. */
function expected({ primitive }: Member, { data, avals, outs, params }: Call): TypedArray {
  const own = data.map((x, i) => ({
    aval: avals[i]!,
    data: makeArray(avals[i]!.dtype, x.length).map((_, j) => x[j]!),
  }));
  return primitive.cpu(own, outs, params)[0]!;
}

let compared = 0;
let refused = 0;

for (const member of members) {
  for (const dtype of ["float32", "float64", "int32"] as const) {
    propWith(
      { runs: 100 },
      `${member.primitive.name} of ${dtype} agrees with its reference on its domain`,
      seeds(9),
      (seed) => {
        const draw = new SeededDraw(seed);
        const { args, params } = member.primitive.domain(draw);
        const shapes = args.map(({ shape }) => shape);
        const call = drawCall(member, draw, dtype, shapes, params);
        const actual = computed(member, call);
        if (actual === null) refused++;
        else {
          const what = JSON.stringify([shapes, params]);
          assertNumbersClose(actual, expected(member, call), what, table[dtype]);
          compared++;
        }
      },
    );
  }
}

test("every call on the domain has a kernel", () => {
  console.log(`convolution: ${compared} calls compared`);
  expect(compared).toBeGreaterThan(0);
  expect(refused).toBe(0);
});

interface Layer {
  readonly input: Shape;
  readonly kernel: Shape;
  readonly strides?: readonly number[];
  readonly padding?: readonly (readonly [number, number])[];
  readonly dilation?: readonly number[];
  readonly inputDilation?: readonly number[];
  readonly groups?: number;
}

/** Calls of the three members that belong to one layer. */
function callsOf({
  input,
  kernel,
  ...given
}: Layer): { member: Member; shapes: Shape[]; params: ConvMemberParams }[] {
  const count = input.length - 2;
  const ones = new Array<number>(count).fill(1);
  const params = {
    strides: given.strides ?? ones,
    padding: given.padding ?? ones.map((): [number, number] => [0, 0]),
    dilation: given.dilation ?? ones,
    inputDilation: given.inputDilation ?? ones,
    groups: given.groups ?? 1,
  };
  const size = input.slice(2).map((n, a) => {
    const [low, high] = params.padding[a]!;
    const padded = low + (n - 1) * params.inputDilation[a]! + 1 + high;
    return Math.floor((padded - (kernel[a + 2]! - 1) * params.dilation[a]! - 1) / params.strides[a]!) + 1;
  });
  const output = [input[0]!, kernel[0]!, ...size];
  return [
    { member: members[0]!, shapes: [input, kernel], params: { ...params, size } },
    { member: members[1]!, shapes: [output, kernel], params: { ...params, size: input.slice(2) } },
    { member: members[2]!, shapes: [input, output], params: { ...params, size: kernel.slice(2) } },
  ];
}

const layers: Readonly<Record<string, Layer>> = {
  "one channel": { input: [9, 1, 28, 28], kernel: [32, 1, 3, 3] },
  "same padding": {
    input: [3, 5, 14, 14],
    kernel: [20, 5, 3, 3],
    padding: [
      [1, 1],
      [1, 1],
    ],
  },
  "strides and uneven padding": {
    ...{ input: [2, 6, 17, 23], kernel: [13, 6, 5, 3], strides: [2, 3] },
    padding: [
      [2, 1],
      [0, 3],
    ],
  },
  "cropped and dilated": {
    input: [2, 4, 21, 18],
    kernel: [7, 4, 3, 3],
    padding: [
      [-1, 2],
      [3, -2],
    ],
    dilation: [2, 3],
  },
  "groups, depthwise": {
    input: [2, 12, 15, 15],
    kernel: [24, 1, 3, 3],
    padding: [
      [1, 1],
      [1, 1],
    ],
    groups: 12,
  },
  pointwise: { input: [2, 70, 13, 11], kernel: [33, 70, 1, 1] },
  "pointwise, a large image": { input: [1, 2, 300, 260], kernel: [3, 2, 1, 1] },
  "pointwise in groups": { input: [2, 30, 40, 37], kernel: [12, 10, 1, 1], groups: 3 },
  "a line": { input: [4, 3, 100], kernel: [8, 3, 7], strides: [2], padding: [[3, 3]] },
  "dilated input": {
    input: [2, 3, 7, 9],
    kernel: [5, 3, 4, 4],
    padding: [
      [2, 2],
      [2, 2],
    ],
    inputDilation: [2, 3],
  },
  "more columns than fit at once": {
    input: [1, 150, 40, 40],
    kernel: [2, 150, 3, 3],
    padding: [
      [1, 1],
      [1, 1],
    ],
  },
  "a kernel as large as the image": { input: [5, 3, 9, 9], kernel: [11, 3, 9, 9] },
};

for (const [name, layer] of Object.entries(layers)) {
  test(`${name}: all three members agree with their references`, () => {
    const draw = new SeededDraw({ seed: 7, size: 1 });
    for (const { member, shapes, params } of callsOf(layer))
      for (const dtype of ["float32", "float64", "uint32"] as const) {
        const call = drawCall(member, draw, dtype, shapes, params);
        const actual = computed(member, call);
        expect(actual).not.toBeNull();
        const what = `${member.primitive.name} of ${dtype}, ${name}`;
        assertNumbersClose(actual!, expected(member, call), what, table[dtype]);
      }
  });
}

test("the number of threads does not change a bit", () => {
  for (const layer of [
    layers["one channel"]!,
    layers["same padding"]!,
    layers["more columns than fit at once"]!,
  ])
    for (const { member, shapes, params } of callsOf(layer)) {
      const call = drawCall(member, new SeededDraw({ seed: 8, size: 1 }), "float32", shapes, params);
      const results = [1, 2, 3].map((threads) => {
        engine.threads = threads;
        computed(member, call);
        // The workers that the first call started.
        for (let i = 0; engine.pool.ready < threads - 1 && i < 500; i++) Bun.sleepSync(10);
        return computed(member, call)!;
      });
      engine.threads = 1;
      for (const other of results.slice(1)) expect(other).toEqual(results[0]!);
    }
});
