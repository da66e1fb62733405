/** Cumulative sums and positions of extrema on a GPU, for every way that rows are shared out. */
import { describe, expect, test } from "bun:test";
import type { Capabilities } from "../../core/backends/webgpu/kernel.ts";
import type { DType } from "../../core/dtype.ts";
import { flip, permute, slice } from "../../core/ops.ts";
import { argmax, argmin, cumsum } from "../../core/prims/reduce.ts";
import type { Tensor, Value } from "../../core/value.ts";
import { SeededDraw } from "../support/arbitrary_tensor.ts";
import { assertSameBits, epsilon } from "../support/tolerance.ts";
import { type Computation, drawn, expectedOf, filled, hardware, onDevices } from "./kernel_runner.ts";
import { hasGpu } from "./support.ts";

/** Shapes and axes: lengths about those where another way begins, alone, in rows, and across. */
const cases: readonly (readonly [shape: readonly number[], axis: number])[] = [
  ...[1, 31, 129, 4099].map((n) => [[n], 0] as const),
  [[5, 131], 1],
  [[131, 5], 0],
  [[3, 300, 2], 1],
  [[40, 1, 3], 1],
  [[3, 8209], 1],
  [[8209, 3], 0],
];
const integers: readonly DType[] = ["int32", "uint32"];

describe.skipIf(!hasGpu)("cumsum", () => {
  for (const reverse of [false, true]) {
    test(`integers wrap around, ${reverse ? "backwards" : "forwards"}`, async () => {
      const draw = new SeededDraw({ seed: 1, size: 1 });
      for (const [shape, axis] of cases) {
        const dtype = draw.pick(integers);
        const x = drawn(draw, shape, dtype);
        const f: Computation = (v) => [cumsum(v!, axis, reverse)];
        const [expected] = expectedOf(f, [x]);
        await onDevices(f, [x], ([y], device) => {
          assertSameBits(y!, expected!, `${dtype} ${shape} along ${axis} on ${device}`);
        });
      }
    });
  }

  /** Throws unless errors are at most `steps` roundings of the sum of magnitudes. */
  async function assertPrecise(
    f: Computation,
    x: Tensor,
    steps: number,
    kinds?: ReadonlyMap<string, Capabilities>,
  ): Promise<void> {
    const data = x.dataSync();
    const magnitudes = filled(x.shape, "float32", (i) => Math.abs(data[i]!));
    const [expected, bounds] = [x, magnitudes].map((v) => expectedOf(f, [v])[0]!.dataSync());
    await onDevices(
      f,
      [x],
      ([y], device) => {
        const actual = y!.dataSync();
        for (let i = 0; i < actual.length; i++) {
          const bound = steps * (epsilon.float32 / 2) * bounds![i]!;
          if (!(Math.abs(actual[i]! - expected![i]!) <= bound))
            throw new Error(`${x.aval} on ${device}: element ${i} is ${actual[i]}, not ${expected![i]}`);
        }
      },
      kinds,
    );
  }

  test("float32 loses no more than sums of blocks of 64 lose", async () => {
    const draw = new SeededDraw({ seed: 2, size: 1 });
    for (const [shape, axis] of cases) {
      for (const reverse of [false, true]) {
        await assertPrecise((v) => [cumsum(v!, axis, reverse)], drawn(draw, shape, "float32"), 150);
      }
    }
  });

  test("a million float32", async () => {
    const x = filled([1_000_003], "float32", () => 0.1);
    // One after the other they would lose 1e-3: each of the last sums is rounded by 1/256.
    await assertPrecise((v) => [cumsum(v!, 0)], x, 150);
  });

  test("workgroups of the usual size", async () => {
    const x = drawn(new SeededDraw({ seed: 3, size: 1 }), [2, 5003], "float32");
    await assertPrecise((v) => [cumsum(v!, 1)], x, 150, hardware());
  });

  test("infinities and NaN go on to the end", async () => {
    const special = new Map([
      [100, Infinity],
      [5000, -Infinity],
    ]);
    for (const reverse of [false, true]) {
      const x = filled([6000], "float32", (i) => special.get(i) ?? 1);
      const f: Computation = (v) => [cumsum(v!, 0, reverse)];
      const [expected] = expectedOf(f, [x]);
      await onDevices(f, [x], ([y], device) => assertSameBits(y!, expected!, device));
    }
  });

  test("operands that are parts of buffers", async () => {
    const x = drawn(new SeededDraw({ seed: 4, size: 1 }), [60, 9], "uint32");
    const part = (v: Value): Value => flip(slice(permute(v, [1, 0]), [1, 3], [8, 59]), { axis: 0 });
    for (const axis of [0, 1]) {
      const f: Computation = (v) => [cumsum(part(v!), axis, axis === 1)];
      const [expected] = expectedOf(f, [x]);
      await onDevices(f, [x], ([y], device) => assertSameBits(y!, expected!, device));
    }
  });

  test("nothing to sum", async () => {
    for (const shape of [[0], [0, 2], [2, 0]]) {
      await onDevices(
        (v) => [cumsum(v!, 0)],
        [filled(shape, "float32", () => 0)],
        ([y]) => {
          expect(y!.shape).toEqual(shape);
        },
      );
    }
  });
});

const extrema =
  (axis: number): Computation =>
  (v) => [argmax(v!, axis), argmin(v!, axis)];

async function assertPositions(
  f: Computation,
  x: Tensor,
  what: string,
  kinds?: ReadonlyMap<string, Capabilities>,
): Promise<void> {
  const expected = expectedOf(f, [x]);
  await onDevices(
    f,
    [x],
    (actual, device) =>
      expected.forEach((y, i) => {
        assertSameBits(actual[i]!, y, `${["argmax", "argmin"][i]} of ${x.aval} ${what} on ${device}`);
      }),
    kinds,
  );
}

describe.skipIf(!hasGpu)("argmax and argmin", () => {
  test("the first of equals", async () => {
    const draw = new SeededDraw({ seed: 5, size: 1 });
    const values = {
      float32: [0, -0, 2, -3],
      int32: [-(2 ** 31), 5, 2 ** 31 - 1],
      uint32: [0, 7, 2 ** 32 - 1],
      bool: [0, 1],
    };
    for (const [shape, axis] of cases) {
      const dtype = draw.pick(["float32", "int32", "uint32", "bool"] as const);
      const x = filled(shape, dtype, () => draw.pick(values[dtype]));
      await assertPositions(extrema(axis), x, `along ${axis}`);
    }
  });

  test("one that differs, anywhere", async () => {
    const draw = new SeededDraw({ seed: 6, size: 1 });
    for (const n of [37, 8209, 70001]) {
      for (const value of [1, -1, Number.NaN, Infinity, -Infinity]) {
        const at = draw.int(0, n - 1);
        // The NaN that comes later does not count.
        const last = Number.isNaN(value) ? n - 1 : at;
        const x = filled([n], "float32", (i) => (i === at || i === last ? value : 0.5));
        await assertPositions(extrema(0), x, `with ${value} at ${at}`);
      }
    }
  });

  test("zeros of both signs are equal", async () => {
    for (const sign of [1, -1]) {
      const x = filled([3, 41], "float32", (i) => sign * (i % 2 === 0 ? 0 : -0));
      await assertPositions(extrema(1), x, "of zeros");
    }
  });

  test("only infinities, only the least of each type", async () => {
    const least = { float32: -Infinity, int32: -(2 ** 31), uint32: 0 };
    for (const dtype of ["float32", "int32", "uint32"] as const) {
      await assertPositions(
        extrema(1),
        filled([3, 301], dtype, () => least[dtype]),
        "all equal",
      );
    }
    await assertPositions(
      extrema(0),
      filled([301, 3], "float32", () => Infinity),
      "all equal",
    );
  });

  test("operands that are parts of buffers", async () => {
    const x = drawn(new SeededDraw({ seed: 7, size: 1 }), [60, 9], "float32");
    const part = (v: Value): Value => flip(slice(permute(v, [1, 0]), [1, 3], [8, 59]), { axis: 1 });
    for (const axis of [0, 1]) {
      await assertPositions((v) => [argmax(part(v!), axis), argmin(part(v!), axis)], x, `part along ${axis}`);
    }
  });

  test("workgroups of the usual size", async () => {
    const x = drawn(new SeededDraw({ seed: 8, size: 1 }), [2, 9001], "int32");
    await assertPositions(extrema(1), x, "in pieces", hardware());
  });

  test("no rows", async () => {
    await assertPositions(
      extrema(1),
      filled([0, 3], "float32", () => 0),
      "without rows",
    );
  });
});
