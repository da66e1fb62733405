/** Laws of PowerSGD: projection on a subspace that all workers share, and its convergence from step to step. */
import { expect, test } from "bun:test";
import { bytesPerElement } from "../../../core/dtype.ts";
import { sizeOf } from "../../../core/shape.ts";
import { adopt } from "../../../core/trace.ts";
import { leaves } from "../../../core/tree.ts";
import type { Value } from "../../../core/value.ts";
import { type PowerSgd, type PowerSgdState, powerSgd } from "../../../dist/compress/power_sgd.ts";
import { meanOf } from "../../../optim/admm.ts";
import { assertClose, assertFinite, assertSameBits } from "../../support/tolerance.ts";

type Float = "float32" | "float64";

const shapes = [[12, 17], [9], [], [10, 3, 4], [2, 2]] as const;
const sizes = shapes.map(sizeOf);
const n = sizes.reduce((a, b) => a + b, 0);

function numbers(size: number, seed: number): number[] {
  let state = seed * 2 + 1;
  return Array.from({ length: size }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32 - 0.5;
  });
}

function vectorOf(data: readonly number[], dtype: Float): Value {
  return adopt(dtype === "float32" ? new Float32Array(data) : new Float64Array(data), [data.length], dtype);
}

/** A rows x columns matrix of this rank, row by row. */
function lowRank(rows: number, columns: number, rank: number, seed: number): number[] {
  const [left, right] = [numbers(rows * rank, seed), numbers(columns * rank, seed + 100)];
  return Array.from({ length: rows * columns }, (_, at) => {
    const [i, j] = [Math.floor(at / columns), at % columns];
    let sum = 0;
    for (let a = 0; a < rank; a++) sum += left[i * rank + a]! * right[j * rank + a]!;
    return sum;
  });
}

/** A vector of tensors of the shapes whose matrices have this rank. */
function lowRankVector(rank: number, seed: number): number[] {
  return shapes.flatMap((shape: readonly number[]) => {
    if (shape.length < 2) return numbers(sizeOf(shape), seed + 7);
    return lowRank(shape[0]!, sizeOf(shape.slice(1)), rank, seed);
  });
}

/** One mean of all workers' vectors; every worker gets its own result. */
function run(method: PowerSgd, vectors: readonly Value[], state: PowerSgdState) {
  const firsts = vectors.map((v) => method.first(v, state));
  const first = meanOf(firsts);
  const seconds = vectors.map((v) => method.second(v, first));
  const second = meanOf(seconds);
  return { firsts, seconds, results: vectors.map((v) => method.result(v, first, second)) };
}

const distance = (x: Value, y: Value): number => Math.hypot(...x.sub(y).dataSync());

test("matrices of rank at most r, and all other tensors, come back", () => {
  for (const dtype of ["float32", "float64"] as const) {
    for (const rank of [1, 2]) {
      const method = powerSgd({ shapes, rank: 2, seed: 4 });
      const v = vectorOf(lowRankVector(rank, 3), dtype);
      const { results } = run(method, [v], method.init(dtype));
      const tolerance = { relative: dtype === "float32" ? 2 ** -19 : 2 ** -46 };
      assertClose(results[0]!.mean, v, `rank ${rank}`, tolerance);
      assertClose(results[0]!.own, v, `rank ${rank}`, tolerance);
      // Tensors that are no matrices are not rounded.
      const [bias, exact] = [results[0]!.mean.dataSync(), v.dataSync()];
      for (let i = sizes[0]!; i < sizes[0]! + 10; i++) expect(bias[i]).toBe(exact[i]!);
    }
  }
});

test("the mean of vectors whose mean has rank at most r comes back, though none of them has", () => {
  const method = powerSgd({ shapes, rank: 2, seed: 4 });
  const [mean, off] = [lowRankVector(2, 5), numbers(n, 6)];
  const vectors = [1, -1].map((sign) =>
    vectorOf(
      mean.map((x, i) => x + sign * off[i]!),
      "float64",
    ),
  );
  const { results } = run(method, vectors, method.init("float64"));
  assertClose(results[0]!.mean, vectorOf(mean, "float64"), "mean", { relative: 1e-13 });
});

test("all workers get one mean and one state, and the mean of their own approximations is the mean", () => {
  for (const dtype of ["float32", "float64"] as const) {
    const method = powerSgd({ shapes, rank: 2, seed: 4 });
    const vectors = [1, 2, 3].map((seed) => vectorOf(numbers(n, seed), dtype));
    const { results } = run(method, vectors, method.init(dtype));
    for (const { mean, state } of results) {
      assertSameBits(mean, results[0]!.mean, "mean");
      assertSameBits(state.right, results[0]!.state.right, "state");
      expect([mean.dtype, state.right.dtype]).toEqual([dtype, dtype]);
    }
    assertClose(meanOf(results.map(({ own }) => own)), results[0]!.mean, "own", {
      relative: dtype === "float32" ? 2 ** -20 : 2 ** -48,
    });
  }
});

test("own approximations are projections: what is sent and what is left are orthogonal", () => {
  const method = powerSgd({ shapes, rank: 3, seed: 1 });
  const vectors = [8, 9, 10].map((seed) => vectorOf(numbers(n, seed), "float64"));
  const { results } = run(method, vectors, method.init("float64"));
  for (const [rank, v] of vectors.entries()) {
    const { own } = results[rank]!;
    const left = v.sub(own);
    expect(Math.abs(left.mul(own).sum().item())).toBeLessThan(1e-13 * n);
    expect(Math.hypot(...left.dataSync())).toBeLessThan(Math.hypot(...v.dataSync()));
  }
});

test("directions that are hardly there are found as well as any", () => {
  // The columns of P are parallel to nine digits; one pass of Gram-Schmidt leaves an angle that is wrong by 1e-7.
  const [rows, columns] = [30, 40];
  const [large, small] = [lowRank(rows, columns, 1, 3), lowRank(rows, columns, 1, 4)];
  const v = vectorOf(
    large.map((x, i) => x + 1e-9 * small[i]!),
    "float64",
  );
  const method = powerSgd({ shapes: [[rows, columns]], rank: 2, seed: 4 });
  assertClose(run(method, [v], method.init("float64")).results[0]!.mean, v, "mean", { relative: 1e-14 });
});

test("from warm factors the error falls to that of the best approximation", () => {
  // M = A diag(s) B with orthonormal columns of A and rows of B: the best of rank 2 leaves the other s.
  const [rows, columns] = [20, 30];
  const s = [8, 4, 1, 0.5];
  const cosines = (size: number, a: number): number[] =>
    Array.from(
      { length: size },
      (_, i) => Math.sqrt(2 / size) * Math.cos((Math.PI * (a + 1) * (i + 0.5)) / size),
    );
  const left = s.map((_, a) => cosines(rows, a));
  const right = s.map((_, a) => cosines(columns, a));
  const data = Array.from({ length: rows * columns }, (_, at) =>
    s.reduce(
      (sum, value, a) => sum + value * left[a]![Math.floor(at / columns)]! * right[a]![at % columns]!,
      0,
    ),
  );
  const v = vectorOf(data, "float64");
  const method = powerSgd({ shapes: [[rows, columns]], rank: 2, seed: 2 });
  let state = method.init("float64");
  const errors: number[] = [];
  for (let step = 0; step < 15; step++) {
    const [result] = run(method, [v], state).results;
    errors.push(distance(result!.own, v));
    state = result!.state;
  }
  const best = Math.hypot(1, 0.5);
  for (const [i, error] of errors.entries()) {
    expect(error).toBeGreaterThan(best * (1 - 1e-12));
    // Subspace iteration never gets worse.
    if (i > 0) expect(error).toBeLessThanOrEqual(errors[i - 1]! * (1 + 1e-12));
  }
  expect(errors[0]!).toBeGreaterThan(best * 1.001);
  // Angles shrink by (s3 / s2)² = 1/16 in a step, the error by its square.
  expect(errors.at(-1)!).toBeLessThan(best * (1 + 1e-12));
});

test("zeros leave factors that can be used, of the size of one", () => {
  for (const dtype of ["float32", "float64"] as const) {
    const method = powerSgd({ shapes, rank: 2, seed: 4 });
    const zero = vectorOf(
      Array.from({ length: n }, () => 0),
      dtype,
    );
    const [result] = run(method, [zero], method.init(dtype)).results;
    expect(Math.hypot(...result!.mean.dataSync())).toBe(0);
    const right = result!.state.right;
    assertFinite([right], "factors");
    // Two matrices with two orthonormal factors each.
    expect(Math.abs(Math.hypot(...right.dataSync()) - 2)).toBeLessThan(1e-6);
    const v = vectorOf(lowRankVector(2, 9), dtype);
    assertClose(run(method, [v], result!.state).results[0]!.mean, v, "after zeros", {
      relative: dtype === "float32" ? 2 ** -19 : 2 ** -46,
    });
  }
});

test("bytes are those of the payloads' elements; matrices that are not made smaller are sent whole", () => {
  for (const dtype of ["float32", "float64"] as const) {
    const method = powerSgd({ shapes, rank: 2, seed: 4 });
    const { firsts, seconds } = run(method, [vectorOf(numbers(n, 1), dtype)], method.init(dtype));
    const count = (tree: unknown): number =>
      leaves(tree).reduce((sum, x) => sum + x.size * bytesPerElement(x.dtype), 0);
    expect(method.bytes(dtype)).toEqual({ first: count(firsts[0]), second: count(seconds[0]) });
    // 12 x 17 and 10 x 12 have factors; 9 + 1 + 4 elements are sent whole.
    expect(method.sends).toBe(2 * (12 + 17) + 2 * (10 + 12) + 14);
    expect((method.bytes(dtype).first + method.bytes(dtype).second) / bytesPerElement(dtype)).toBe(
      method.sends,
    );
  }
  expect(powerSgd({ shapes: [[12, 17]], rank: 8, seed: 0 }).bytes().second).toBe(0);
});

test("the first factors are a function of the seed", () => {
  const right = (seed: number): Value => powerSgd({ shapes, rank: 2, seed }).init().right;
  assertSameBits(right(4), right(4), "factors");
  expect(distance(right(4), right(5))).toBeGreaterThan(0.1);
});

test("what cannot be factored is refused", () => {
  for (const rank of [0, -1, 1.5, Number.NaN])
    expect(() => powerSgd({ shapes, rank, seed: 0 })).toThrow(RangeError);
  expect(() => powerSgd({ shapes, rank: 1, seed: -1 })).toThrow(RangeError);
  const method = powerSgd({ shapes, rank: 1, seed: 0, names: ["w", "b", "c", "k", "d"] });
  const data = numbers(n, 1);
  data[sizes[0]! + 2] = Number.NaN;
  expect(() => method.first(vectorOf(data, "float32"), method.init())).toThrow(
    'Cannot compress tensor 1 "b": element 2 is NaN',
  );
});
