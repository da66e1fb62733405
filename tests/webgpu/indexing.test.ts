/** Gather and scatterAdd on a GPU, for every way to add, and what happens to indices outside. */
import { describe, expect, test } from "bun:test";
import { webgpuContext } from "../../core/backends/webgpu/open.ts";
import type { DType } from "../../core/dtype.ts";
import { permute, slice } from "../../core/ops.ts";
import { gather, scatterAdd } from "../../core/prims/indexing.ts";
import { adopt } from "../../core/trace.ts";
import type { Tensor, Value } from "../../core/value.ts";
import { SeededDraw } from "../support/arbitrary_tensor.ts";
import { assertSameBits, epsilon } from "../support/tolerance.ts";
import {
  type Computation,
  compiledFor,
  devices,
  drawn,
  expectedOf,
  filled,
  onDevices,
} from "./kernel_runner.ts";
import { hasGpu, onHost } from "./support.ts";

const drawOf = (seed: number): SeededDraw => new SeededDraw({ seed, size: 1 });

function indices(draw: SeededDraw, shape: readonly number[], n: number): Tensor {
  return filled(shape, "int32", () => draw.int(0, n - 1));
}

async function compareBits(f: Computation, args: readonly Tensor[], what: string): Promise<void> {
  const [expected] = expectedOf(f, args);
  await onDevices(f, args, ([y], device) => assertSameBits(y!, expected!, `${what} on ${device}`));
}

describe.skipIf(!hasGpu)("gather", () => {
  test("of every element type, by elements and by fours", async () => {
    const draw = drawOf(1);
    for (const dtype of ["float32", "int32", "uint32", "bool"] as const) {
      for (const after of [[], [3], [8], [2, 6]]) {
        const x = drawn(draw, [2, 11, ...after], dtype);
        const f: Computation = (v, i) => [gather(v!, i!, { axis: 1, batchDims: 0 })];
        await compareBits(f, [x, indices(draw, [5, 7], 11)], `${x.aval}`);
      }
    }
  });

  test("NaN keeps its bits", async () => {
    const words = [0x7fc00001, 0xffc12345, 0x80000000, 1];
    const x = adopt(new Float32Array(Uint32Array.from(words).buffer), [4], "float32");
    for (const gpu of devices().values()) {
      const f: Computation = (v, i) => [gather(v!, i!, { axis: 0, batchDims: 0 })];
      const args = [x, filled([4], "int32", (i) => 3 - i)];
      const y = (await compiledFor(gpu, f, args).run(args)[0]!.data()) as Float32Array;
      expect([...new Uint32Array(y.buffer)]).toEqual(words.toReversed());
    }
  });

  test("rows with indices of their own", async () => {
    const draw = drawOf(2);
    const f: Computation = (v, i) => [gather(v!, i!, { axis: 2, batchDims: 1 })];
    await compareBits(f, [drawn(draw, [3, 2, 7, 4], "float32"), indices(draw, [3, 5], 7)], "batches");
  });

  test("operands that are parts of buffers, of one buffer", async () => {
    const draw = drawOf(3);
    const part = (v: Value): Value => slice(permute(v, [1, 0]), [1, 4], [7, 36]);
    const f: Computation = (v, i) => [gather(part(v!), part(i!), { axis: 0, batchDims: 0 })];
    await compareBits(f, [drawn(draw, [40, 8], "float32"), indices(draw, [40, 8], 6)], "parts");
    const one: Computation = (v) => [gather(part(v!), part(v!), { axis: 1, batchDims: 1 })];
    await compareBits(one, [indices(draw, [40, 8], 32)], "parts of one buffer");
  });

  test("rows of fours that begin anywhere", async () => {
    const draw = drawOf(10);
    for (const first of [0, 1, 2, 4]) {
      for (const width of [12, 13]) {
        const part = (v: Value): Value => slice(v, [0, first], [11, first + 8]);
        const f: Computation = (v, i) => [gather(part(v!), i!, { axis: 0, batchDims: 0 })];
        const args = [drawn(draw, [11, width], "float32"), indices(draw, [6], 11)];
        await compareBits(f, args, `columns from ${first} of ${width}`);
      }
    }
  });

  test("more than a hundred thousand elements", async () => {
    const draw = drawOf(4);
    const f: Computation = (v, i) => [gather(v!, i!, { axis: 0, batchDims: 0 })];
    const kinds = new Map([["this device", webgpuContext()!.gpu]]);
    const args = [drawn(draw, [1009, 3], "float32"), indices(draw, [65537], 1009)];
    const [expected] = expectedOf(f, args);
    await onDevices(f, args, ([y], device) => assertSameBits(y!, expected!, device), kinds);
  });

  test("nothing", async () => {
    const f: Computation = (v, i) => [gather(v!, i!, { axis: 0, batchDims: 0 })];
    const draw = drawOf(5);
    for (const [shape, count] of [
      [[3, 2], 0],
      [[0, 2], 0],
      [[3, 0], 4],
    ] as const) {
      await compareBits(
        f,
        [drawn(draw, shape, "float32"), indices(draw, [count], 3)],
        `${count} of ${shape}`,
      );
    }
  });
});

interface Scattering {
  readonly what: string;
  /** Of the result: shared axes, axes before, the axis, axes after; and of the indices after the shared axes. */
  readonly batch?: readonly number[];
  readonly before?: readonly number[];
  readonly n: number;
  readonly after?: readonly number[];
  readonly count: readonly number[];
}

const scatterings: readonly Scattering[] = [
  { what: "few indices", n: 5, count: [7], after: [3] },
  { what: "one row", n: 1, count: [300] },
  { what: "a histogram", n: 10, count: [5003] },
  { what: "a histogram of batches", batch: [2], before: [3], n: 4, count: [30, 20] },
  { what: "many rows, sorted", n: 10007, count: [2, 601], after: [2] },
  { what: "batches, sorted", batch: [3], before: [2], n: 1009, count: [701], after: [3] },
  { what: "mostly empty rows", n: 1_000_003, count: [11] },
];

const scattered = ({ batch = [], before = [], n }: Scattering): Computation => {
  const params = { axis: batch.length + before.length, batchDims: batch.length, size: n };
  return (i, u) => [scatterAdd(i!, u!, params)];
};

/** Updates and indices, of which every fourth is the same. */
function operands(
  draw: SeededDraw,
  { batch = [], before = [], n, after = [], count }: Scattering,
  dtype: DType,
): Tensor[] {
  const at = filled([...batch, ...count], "int32", (i) => (i % 4 === 0 ? n >> 1 : draw.int(0, n - 1)));
  return [at, drawn(draw, [...batch, ...before, ...count, ...after], dtype)];
}

describe.skipIf(!hasGpu)("scatterAdd", () => {
  for (const scattering of scatterings) {
    test(`of ${scattering.what}`, async () => {
      const draw = drawOf(6);
      const f = scattered(scattering);
      for (const dtype of ["int32", "uint32"] as const) {
        await compareBits(f, operands(draw, scattering, dtype), `${scattering.what} of ${dtype}`);
      }
      const [at, updates] = operands(draw, scattering, "float32");
      const [expected] = expectedOf(f, [at!, updates!]);
      const data = updates!.dataSync();
      const magnitudes = filled(updates!.shape, "float32", (i) => Math.abs(data[i]!));
      const bounds = expectedOf(f, [at!, magnitudes])[0]!.dataSync();
      const runs = new Map<string, Tensor>();
      for (const repeated of [false, true]) {
        await onDevices(f, [at!, updates!], ([y], device) => {
          const [actual, wanted] = [y!.dataSync(), expected!.dataSync()];
          for (let i = 0; i < wanted.length; i++) {
            // Blocks of 64, and blocks of them.
            if (!(Math.abs(actual[i]! - wanted[i]!) <= 100 * epsilon.float32 * bounds[i]!))
              throw new Error(`${device}: element ${i} is ${actual[i]}, not ${wanted[i]}`);
          }
          if (repeated) assertSameBits(y!, runs.get(device)!, `another run on ${device}`);
          runs.set(device, y!);
        });
      }
    });
  }

  test("operands that are parts of buffers, of one buffer", async () => {
    const draw = drawOf(7);
    const part = (v: Value): Value => slice(permute(v, [1, 0]), [1, 4], [7, 36]);
    const f: Computation = (v) => [scatterAdd(part(v!), part(v!), { axis: 0, batchDims: 0, size: 9 })];
    await compareBits(f, [indices(draw, [40, 8], 9)], "parts of one buffer");
    const sorted: Computation = (v) => [
      scatterAdd(part(v!), part(v!), { axis: 1, batchDims: 1, size: 30_000 }),
    ];
    await compareBits(sorted, [indices(draw, [40, 8], 30_000)], "parts of one buffer, sorted");
  });

  test("nothing", async () => {
    const draw = drawOf(8);
    for (const [batch, n, count, after] of [
      [2, 3, 0, 2],
      [2, 0, 0, 2],
      [2, 3, 4, 0],
      [0, 3, 4, 2],
    ] as const) {
      const params = { axis: 1, batchDims: 1, size: n };
      const args = [indices(draw, [batch, count], 3), drawn(draw, [batch, count, after], "float32")];
      await compareBits(
        (i, u) => [scatterAdd(i!, u!, params)],
        args,
        `${count} in [${batch}, ${n}, ${after}]`,
      );
    }
  });
});

const take: Computation = (v, i) => [gather(v!, i!, { axis: 0, batchDims: 0 })];
const put =
  (size: number): Computation =>
  (i, u) => [scatterAdd(i!, u!, { axis: 0, batchDims: 0, size })];

describe.skipIf(!hasGpu)("an index outside", () => {
  /** The error of the reference at the first read; the next one gives elements again. */
  async function assertRefused(f: Computation, args: readonly Tensor[]): Promise<void> {
    let message = "";
    try {
      expectedOf(f, args);
    } catch (error) {
      if (error instanceof RangeError) ({ message } = error);
    }
    expect(message).toStartWith("Cannot ");
    for (const [device, gpu] of devices()) {
      const [y] = compiledFor(gpu, f, args).run(args);
      let thrown: unknown = null;
      await y!.data().catch((error: unknown) => {
        thrown = error;
      });
      expect(thrown, device).toBeInstanceOf(RangeError);
      expect((thrown as RangeError).message, device).toBe(message);
      const sound = [filled([3], "float32", (i) => i), filled([2], "int32", (i) => 2 - i)];
      const [z] = compiledFor(gpu, take, sound).run(sound);
      expect([...(await onHost(z!)).dataSync()]).toEqual([2, 1]);
    }
  }

  const floats = (shape: readonly number[]): Tensor => drawn(drawOf(9), shape, "float32");
  const only = (count: number, at: number, index: number): Tensor =>
    filled([count], "int32", (i) => (i === at ? index : 1));

  test("of a gather is what the reference says, at the next read", async () => {
    for (const index of [-1, 5, 2 ** 31 - 1, -(2 ** 31)]) {
      await assertRefused(take, [floats([5, 3]), only(70, 50, index)]);
    }
    await assertRefused(take, [floats([5, 4]), only(3, 2, 5)]);
  });

  test("of a scatterAdd, compared and sorted", async () => {
    for (const index of [-1, 4]) await assertRefused(put(4), [only(70, 50, index), floats([70])]);
    await assertRefused(put(30_000), [only(700, 650, 30_000), floats([700, 2])]);
  });

  test("is the first of many", async () => {
    // Whichever invocation is the first to find one.
    const many = filled([5000], "int32", (i) => (i < 1234 ? 0 : -i));
    await assertRefused(take, [floats([5]), many]);
    await assertRefused(put(5), [many, floats([5000])]);
    const rows = filled([3, 400], "int32", (i) => (i < 700 ? 0 : 10 + i));
    await assertRefused((v, i) => [gather(v!, i!, { axis: 2, batchDims: 1 })], [floats([3, 2, 5]), rows]);
  });

  test("counts where there is nothing to read or to add", async () => {
    await assertRefused(take, [floats([0, 2]), only(3, 0, 1)]);
    await assertRefused(take, [floats([2, 0]), only(3, 1, 7)]);
    await assertRefused(put(0), [only(3, 0, 1), floats([3, 2])]);
    await assertRefused(put(2), [only(3, 1, 7), floats([3, 0])]);
  });

  test("of the first of two computations is the one that is told", async () => {
    for (const gpu of devices().values()) {
      const bad = [floats([5]), only(9, 3, 6)] as const;
      const first = compiledFor(gpu, take, bad).run(bad);
      const worse = [only(9, 3, 77), floats([9])] as const;
      compiledFor(gpu, put(4), worse).run(worse);
      await expect(first[0]!.data()).rejects.toThrow("Cannot gather at index 6 of axis 0: its size is 5");
    }
  });
});
