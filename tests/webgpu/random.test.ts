/** Random bits on a GPU are those of the reference. */
import { describe, expect, test } from "bun:test";
import { webgpuContext } from "../../core/backends/webgpu/open.ts";
import { permute, slice } from "../../core/ops.ts";
import { foldIn, randomBits } from "../../core/prims/random.ts";
import type { Tensor } from "../../core/value.ts";
import { SeededDraw } from "../support/arbitrary_tensor.ts";
import { assertSameBits } from "../support/tolerance.ts";
import { type Computation, compiledFor, drawn, expectedOf, filled, onDevices } from "./kernel_runner.ts";
import { hasGpu, onHost } from "./support.ts";

async function compare(f: Computation, args: readonly Tensor[], what: string): Promise<void> {
  const [expected] = expectedOf(f, args);
  await onDevices(f, args, ([y], device) => assertSameBits(y!, expected!, `${what} on ${device}`));
}

describe.skipIf(!hasGpu)("random bits", () => {
  test("of one key and of several, one and two words, of any size", async () => {
    const draw = new SeededDraw({ seed: 1, size: 1 });
    for (const keys of [[], [1], [5], [2, 3]]) {
      for (const shape of [[], [1], [7], [3, 41], [0]]) {
        for (const words of [1, 2] as const) {
          const key = drawn(draw, [...keys, 2], "uint32");
          await compare(
            (k) => [randomBits(k!, { shape, words })],
            [key],
            `${keys} keys, ${shape}, ${words} words`,
          );
        }
      }
    }
  });

  test("are those of the published algorithm for the zero key", async () => {
    // Random123, kat_vectors: threefry2x32 of 20 rounds, counter and key 0.
    const key = filled([2], "uint32", () => 0);
    const f: Computation = (k) => [randomBits(k!, { shape: [1], words: 2 })];
    await onDevices(f, [key], ([y]) => expect([...y!.dataSync()]).toEqual([0x6b200159, 0x99ba4efe]));
  });

  test("of a hundred thousand counters, the same in two runs", async () => {
    const f: Computation = (k) => [randomBits(k!, { shape: [100_003], words: 1 })];
    const key = drawn(new SeededDraw({ seed: 2, size: 1 }), [2], "uint32");
    const [expected] = expectedOf(f, [key]);
    const executable = compiledFor(webgpuContext()!.gpu, f, [key]);
    for (const run of ["first", "second"]) {
      assertSameBits(await onHost(executable.run([key])[0]!), expected!, `the ${run} run`);
    }
  });

  test("of keys that are parts of buffers", async () => {
    const keys = drawn(new SeededDraw({ seed: 3, size: 1 }), [4, 5], "uint32");
    const f: Computation = (k) => [
      randomBits(permute(slice(k!, [1, 1], [3, 4]), [1, 0]), { shape: [3], words: 1 }),
    ];
    await compare(f, [keys], "columns of a matrix");
  });
});

describe.skipIf(!hasGpu)("folded keys", () => {
  test("of every kind of data", async () => {
    const draw = new SeededDraw({ seed: 4, size: 1 });
    for (const shape of [[], [1], [300], [2, 3], [0]]) {
      for (const dtype of ["int32", "uint32"] as const) {
        const args = [drawn(draw, [...shape, 2], "uint32"), drawn(draw, shape, dtype)];
        await compare((k, x) => [foldIn(k!, x!)], args, `${shape} ${dtype}`);
      }
    }
  });

  test("of data in the same buffer", async () => {
    const both = drawn(new SeededDraw({ seed: 5, size: 1 }), [3, 7], "uint32");
    const f: Computation = (v) => [
      foldIn(permute(slice(v!, [0, 0], [2, 7]), [1, 0]), slice(v!, [2, 0], [3, 7]).reshape([7])),
    ];
    await compare(f, [both], "rows of a matrix");
  });
});
