/** Sorting on a GPU: the stable order of the reference, bit for bit, for every way to sort. */
import { describe, test } from "bun:test";
import type { Capabilities } from "../../core/backends/webgpu/kernel.ts";
import { webgpuContext } from "../../core/backends/webgpu/open.ts";
import { type DType, isFloat, makeArray } from "../../core/dtype.ts";
import { flip, permute, slice } from "../../core/ops.ts";
import { iota } from "../../core/prims/indexing.ts";
import { sortP } from "../../core/prims/sort.ts";
import { adopt, bind } from "../../core/trace.ts";
import type { Tensor, Value } from "../../core/value.ts";
import { SeededDraw } from "../support/arbitrary_tensor.ts";
import { assertSameBits } from "../support/tolerance.ts";
import { type Computation, drawn, expectedOf, filled, onDevices } from "./kernel_runner.ts";
import { hasGpu } from "./support.ts";

const types: readonly DType[] = ["float32", "int32", "uint32", "bool"];

const along =
  (axis: number): Computation =>
  (...xs) =>
    bind(sortP, xs, { axis });

async function compare(
  f: Computation,
  args: readonly Tensor[],
  what: string,
  kinds?: ReadonlyMap<string, Capabilities>,
): Promise<void> {
  const expected = expectedOf(f, args);
  await onDevices(
    f,
    args,
    (actual, device) =>
      expected.forEach((y, i) => {
        assertSameBits(actual[i]!, y, `${what}, result ${i} on ${device}`);
      }),
    kinds,
  );
}

/** Keys of which many are equal; floats with NaN, infinities, and zeros of both signs. */
function few(draw: SeededDraw, shape: readonly number[], dtype: DType): Tensor {
  const floats = [0, -0, 1, -1, Number.NaN, Infinity, -Infinity, 2 ** -149, 3.5];
  const integers = dtype === "int32" ? [0, -1, 1, 2 ** 31 - 1, -(2 ** 31)] : [0, 1, 2 ** 31, 2 ** 32 - 1];
  return filled(shape, dtype, () =>
    draw.pick(isFloat(dtype) ? floats : dtype === "bool" ? [0, 1] : integers),
  );
}

/** A companion that tells equal keys apart. */
const places = (shape: readonly number[]): Tensor => filled(shape, "int32", (i) => i);

describe.skipIf(!hasGpu)("sort", () => {
  test("rows of every length that another pass begins at", async () => {
    const draw = new SeededDraw({ seed: 1, size: 1 });
    for (const n of [1, 9, 129, 509]) {
      const shape = [3, n];
      await compare(along(1), [few(draw, shape, "float32"), places(shape)], `few float32 ${shape}`);
    }
  });

  for (const dtype of types) {
    test(`rows of ${dtype}`, async () => {
      const draw = new SeededDraw({ seed: 2, size: 1 });
      const shape = [2, 301];
      await compare(along(1), [drawn(draw, shape, dtype)], `${dtype} ${shape}`);
      await compare(along(1), [few(draw, shape, dtype), places(shape)], `few ${dtype} ${shape}`);
    });
  }

  test("axes that are not the last", async () => {
    const draw = new SeededDraw({ seed: 2, size: 1 });
    for (const [shape, axis] of [[[3, 431, 2], 1]] as const) {
      const keys = few(draw, shape, "float32");
      await compare(along(axis), [keys, places(shape)], `${shape} along ${axis}`);
    }
  });

  test("thousands of rows", async () => {
    const draw = new SeededDraw({ seed: 3, size: 1 });
    const [shape, tall] = [
      [5003, 3],
      [2, 4001],
    ];
    await compare(along(1), [few(draw, shape!, "float32"), places(shape!)], "short rows");
    await compare(along(0), [few(draw, tall!, "int32"), places(tall!)], "short columns");
  });

  test("long rows", async () => {
    const draw = new SeededDraw({ seed: 4, size: 1 });
    const shape = [65537];
    await compare(along(0), [few(draw, shape, "float32"), places(shape)], "65537");
  });

  test("a million keys, on this device", async () => {
    const draw = new SeededDraw({ seed: 5, size: 1 });
    const n = 1_000_003;
    const keys = drawn(draw, [n], "uint32");
    // The reference takes seconds: the order of so many words is that of numbers.
    const sorted = adopt(Uint32Array.from(keys.dataSync()).sort(), [n], "uint32");
    await onDevices(
      along(0),
      [keys, places([n])],
      ([actual, order], device) => {
        assertSameBits(actual!, sorted, device);
        const [was, at] = [keys.dataSync(), order!.dataSync()];
        const picked = makeArray("uint32", n).map((_, i) => was[at[i]!]!);
        assertSameBits(adopt(picked, [n], "uint32"), sorted, `the order on ${device}`);
      },
      new Map([["this device", webgpuContext()!.gpu]]),
    );
  });

  test("operands that are parts of buffers, in any order", async () => {
    const draw = new SeededDraw({ seed: 6, size: 1 });
    const x = few(draw, [40, 7], "float32");
    const part = (v: Value): Value => slice(permute(v, [1, 0]), [1, 3], [7, 39]);
    const turned: Computation = (a, b) => bind(sortP, [part(a!), flip(part(b!), { axis: 1 })], { axis: 1 });
    await compare(turned, [x, places([40, 7])], "parts of two buffers");
    const twice: Computation = (a) =>
      bind(sortP, [part(a!), flip(part(a!), { axis: 0 }), part(a!)], { axis: 1 });
    await compare(twice, [x], "parts of one buffer");
  });

  test("more companions than a dispatch binds", async () => {
    const draw = new SeededDraw({ seed: 7, size: 1 });
    for (const n of [6, 200]) {
      const companions = Array.from({ length: 9 }, (_, i) => drawn(draw, [2, n], types[i % 4]!));
      const f: Computation = (...xs) => bind(sortP, [...xs, iota([2, n], 1)], { axis: 1 });
      await compare(f, [few(draw, [2, n], "float32"), ...companions], `${n} with ten companions`);
    }
  });

  test("nothing to sort", async () => {
    for (const shape of [[0], [3, 0], [0, 3]]) {
      await compare(
        along(shape.length - 1),
        [few(new SeededDraw({ seed: 8, size: 1 }), shape, "float32")],
        `${shape}`,
      );
    }
  });
});
