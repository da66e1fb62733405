/** Pooling on the GPU against the reference: windows of all kinds, and the indices that no drawn call has. */
import { describe, expect, test } from "bun:test";
import { Aval } from "../../core/aval.ts";
import { reference } from "../../core/backend.ts";
import { type DType, isFloat, makeArray } from "../../core/dtype.ts";
import type { AnyPrimitive } from "../../core/primitive.ts";
import {
  maxPoolIndexP,
  maxPoolP,
  type PoolParams,
  poolGatherP,
  poolScatterP,
  sumPoolP,
  sumPoolTransposeP,
} from "../../core/prims/pool.ts";
import { type Shape, sizeOf } from "../../core/shape.ts";
import { storage, Tensor } from "../../core/value.ts";
import { add, avgPool, devicePut, grad, jit, maxPool, mul, sum, transpose, type Value } from "../../mod.ts";
import { SeededDraw } from "../support/arbitrary_tensor.ts";
import { oneEquation } from "../support/one_equation.ts";
import { assertClose, assertNumbersClose, table } from "../support/tolerance.ts";
import { gpuBackend, hasGpu, onHost } from "./support.ts";

function drawn(shape: Shape, dtype: DType, seed: number): Tensor {
  const draw = new SeededDraw({ seed, size: 1 });
  const data = makeArray(dtype, sizeOf(shape));
  for (let i = 0; i < data.length; i++)
    data[i] = isFloat(dtype) ? 2 * draw.unit() - 1 : draw.unit() * 2 ** 32;
  return new Tensor(new Aval(shape, dtype), data);
}

const tensorOf = (shape: Shape, dtype: DType, values: readonly number[]): Tensor =>
  new Tensor(
    new Aval(shape, dtype),
    makeArray(dtype, values.length).map((_, i) => values[i]!),
  );

/** The result of the GPU by shaders alone. */
function computed(primitive: AnyPrimitive, args: readonly Tensor[], params: unknown): Promise<Tensor> {
  const gpu = gpuBackend();
  const program = oneEquation(
    primitive,
    args.map((x) => x.aval),
    params,
  );
  const executable = gpu.compile(program);
  expect(executable.show()).not.toContain("\nhost ");
  return onHost(executable.run(args.map((x) => gpu.transfers!.put(x)))[0]!);
}

async function compare(primitive: AnyPrimitive, args: readonly Tensor[], params: unknown): Promise<void> {
  const [expected] = reference.evaluate(primitive, args, params);
  const actual = await computed(primitive, args, params);
  expect(actual.aval.equals(expected!.aval)).toBe(true);
  assertNumbersClose(
    storage(actual),
    storage(expected!),
    `${primitive.name} ${args}`,
    table[expected!.dtype],
  );
}

const around = (...n: readonly number[]): [number, number][] => n.map((amount) => [amount, amount]);

const windows: Readonly<Record<string, { shape: Shape; params: PoolParams }>> = {
  "2x2": { shape: [3, 5, 8, 6], params: { window: [2, 2], strides: [2, 2], padding: around(0, 0) } },
  "3x3, stride 2, padding": {
    shape: [2, 3, 11, 14],
    params: { window: [3, 3], strides: [2, 2], padding: around(1, 1) },
  },
  overlapping: {
    shape: [2, 13, 7],
    params: {
      window: [5, 3],
      strides: [1, 2],
      padding: [
        [2, 4],
        [0, 1],
      ],
    },
  },
  "with gaps": { shape: [3, 17, 19], params: { window: [2, 1], strides: [5, 3], padding: around(0, 0) } },
  "one axis": { shape: [4, 101], params: { window: [7], strides: [3], padding: [[3, 2]] } },
  "three axes": {
    shape: [2, 5, 6, 7],
    params: {
      window: [2, 3, 4],
      strides: [2, 1, 3],
      padding: [
        [1, 0],
        [1, 2],
        [3, 0],
      ],
    },
  },
  "all of it": { shape: [5, 7, 7], params: { window: [7, 7], strides: [1, 1], padding: around(0, 0) } },
  "no axis before": { shape: [9], params: { window: [4], strides: [4], padding: [[0, 0]] } },
  "one element": { shape: [1, 1], params: { window: [1], strides: [1], padding: [[0, 0]] } },
  nothing: { shape: [0, 6], params: { window: [2], strides: [2], padding: [[0, 0]] } },
};

describe.skipIf(!hasGpu)("windows", () => {
  for (const [name, { shape, params }] of Object.entries(windows))
    test(name, async () => {
      const x = drawn(shape, "float32", 5);
      for (const primitive of [maxPoolP, maxPoolIndexP, sumPoolP]) await compare(primitive, [x], params);
      const [y] = reference.evaluate(sumPoolP, [x], params);
      const sizes = shape.slice(-params.window.length);
      await compare(sumPoolTransposeP, [y!], { ...params, sizes });
    });

  for (const dtype of ["int32", "uint32"] as const)
    test(`${dtype} is exact`, async () => {
      const { shape, params } = windows["3x3, stride 2, padding"]!;
      const x = drawn(shape, dtype, 6);
      for (const primitive of [maxPoolP, maxPoolIndexP, sumPoolP]) await compare(primitive, [x], params);
      const [y] = reference.evaluate(sumPoolP, [x], params);
      await compare(sumPoolTransposeP, [y!], { ...params, sizes: shape.slice(2) });
    });

  test("sums of padding alone are 0", async () => {
    const params = { window: [2, 2], strides: [1, 1], padding: around(4, 3) };
    await compare(sumPoolP, [drawn([2, 3, 2], "float32", 1)], params);
    await compare(sumPoolP, [drawn([2, 0, 2], "float32", 1)], params);
  });

  test("the first of equals, NaN above all, negative infinity before nothing", async () => {
    const [nan, inf] = [Number.NaN, Number.POSITIVE_INFINITY];
    const x = tensorOf([6, 4], "float32", [
      ...[1, 3, 3, 2],
      ...[5, nan, inf, nan],
      ...[-inf, -inf, -inf, -inf],
      ...[-0, 0, -0, 0],
      ...[nan, nan, 1, 2],
      ...[-inf, inf, inf, nan],
    ]);
    const params = { window: [4], strides: [1], padding: [[0, 0]] };
    expect([...storage(await computed(maxPoolP, [x], params))]).toEqual([
      3,
      nan,
      -inf,
      expect.closeTo(0),
      nan,
      nan,
    ]);
    expect([...storage(await computed(maxPoolIndexP, [x], params))]).toEqual([1, 1, 0, 0, 0, 3]);
  });

  test("a large window loses little", async () => {
    const n = 300_000;
    const x = tensorOf([1, n], "float32", new Array<number>(n).fill(0.1));
    const sums = storage(await computed(sumPoolP, [x], { window: [n], strides: [1], padding: [[0, 0]] }));
    const exact = n * Math.fround(0.1);
    expect(Math.abs(sums[0]! - exact) / exact).toBeLessThan(2 ** -17);
  });

  test("more workgroups than one dimension has", async () => {
    const data = makeArray("uint32", 2 ** 24 + 256 + 1);
    for (let i = 0; i < data.length; i++) data[i] = i ^ 1;
    const x = new Tensor(new Aval([data.length], "uint32"), data);
    const y = await computed(maxPoolP, [x], { window: [1], strides: [1], padding: [[0, 0]] });
    const values = storage(y);
    for (const i of [0, 1, 65535 * 256 - 1, 65535 * 256, 2 ** 24 + 255]) expect(values[i]).toBe(i ^ 1);
  });
});

describe.skipIf(!hasGpu)("indices", () => {
  const sizes = [5, 4];
  const shape = [3, 2, 7];

  test("indices outside are 0 when gathered, and dropped when scattered", async () => {
    const index = tensorOf([1, 8], "int32", [3, -1, 5, 2, 0, 3, -(2 ** 31), 2 ** 31 - 1]);
    const x = tensorOf([1, 5], "float32", [1, 2, 3, 4, 5]);
    expect([...storage(await computed(poolGatherP, [x, index], { axes: 1 }))]).toEqual([
      4, 0, 0, 3, 1, 4, 0, 0,
    ]);
    const y = tensorOf([1, 8], "float32", [1, 2, 4, 8, 16, 32, 64, 128]);
    expect([...storage(await computed(poolScatterP, [y, index], { sizes: [5] }))]).toEqual([16, 0, 8, 33, 0]);
  });

  for (const dtype of ["float32", "int32", "uint32"] as const)
    test(`many to one place, of ${dtype}`, async () => {
      const index = drawn(shape, "int32", 8);
      for (const most of [1, 3, 20]) {
        const own = tensorOf(
          shape,
          "int32",
          [...storage(index)].map((i) => Math.abs(i) % most),
        );
        await compare(poolScatterP, [drawn(shape, dtype, 4), own], { sizes });
        await compare(poolGatherP, [drawn([3, ...sizes], dtype, 4), own], { axes: 2 });
      }
    });

  test("chains longer than any that is put in order", async () => {
    const index = tensorOf(
      [2, 3000],
      "int32",
      Array.from({ length: 6000 }, (_, i) => (i % 7 ? 1 : i % 5)),
    );
    await compare(poolScatterP, [drawn([2, 3000], "float32", 4), index], { sizes: [6] });
  });

  test("the same bits every time", async () => {
    const index = drawn([4, 5000], "int32", 8);
    const own = tensorOf(
      index.shape,
      "int32",
      [...storage(index)].map((i) => Math.abs(i) % 400),
    );
    const y = drawn(index.shape, "float32", 3);
    const first = storage(await computed(poolScatterP, [y, own], { sizes: [401] }));
    for (let i = 0; i < 3; i++)
      expect(storage(await computed(poolScatterP, [y, own], { sizes: [401] }))).toEqual(first);
  });

  test("values and indices in one array", async () => {
    const index = tensorOf([2, 3], "int32", [2, 0, 1, 1, 1, 7]);
    await compare(poolGatherP, [index, index], { axes: 1 });
    await compare(poolScatterP, [index, index], { sizes: [4] });
  });

  test("nothing to gather from, nothing to scatter", async () => {
    const none = new Tensor(new Aval([2, 0, 3], "float32"), new Float32Array(0));
    await compare(poolGatherP, [none, tensorOf([2, 2, 2], "int32", [0, 1, 2, 3, 4, 5, 6, 7])], { axes: 2 });
    const indices = new Tensor(new Aval([2, 0, 3], "int32"), new Int32Array(0));
    await compare(poolScatterP, [none, indices], { sizes: [2, 2] });
  });
});

describe.skipIf(!hasGpu)("gradients", () => {
  test("of both poolings, of an operand in another order, are those of the processor", async () => {
    const f = (x: Value): Value => {
      const turned = transpose(x, [1, 0, 3, 2]);
      const largest = maxPool(turned, { window: 3, strides: 2, padding: "same" });
      const mean = avgPool(turned, { window: 3, strides: 2, padding: "same" });
      return sum(mul(add(largest, mean), largest));
    };
    const x = drawn([3, 4, 9, 10], "float32", 2);
    const gradient = jit(grad(f));
    const actual = await onHost(gradient(await devicePut(x, "webgpu")));
    assertClose(actual, gradient(x), "gradient");
  });
});
