import { expect, test } from "bun:test";
import fc from "fast-check";
import { hessianOperator } from "../../autodiff/operator.ts";
import { tensor, zeros } from "../../core/create.ts";
import { add, cast, matmul, mul, sub, sum, tanh } from "../../core/ops.ts";
import * as random from "../../core/random.ts";
import type { Value } from "../../core/value.ts";
import { lanczos, lanczosOrder, type Spectrum } from "../../optim/lanczos.ts";
import { prop } from "../support/prop.ts";
import {
  dot,
  f64,
  length,
  linspace,
  list,
  type Matrix,
  maxDifference,
  mulberry32,
  normals,
  orthonormalityError,
  projector,
  randomRotation,
  rowsOf,
  type Vector,
  withEigenvalues,
} from "./numbers.ts";
import { denseOperator, diagonalOperator } from "./problems.ts";

const key = random.key(3);

/** Lanczos in plain loops with a chosen number of orthogonalization passes: the basis and T's two diagonals. */
function plainLanczos(
  product: (v: Vector) => Vector,
  start: Vector,
  order: number,
  passes: number,
): { basis: number[][]; diagonal: number[]; offDiagonal: number[] } {
  const [basis, diagonal, offDiagonal]: [number[][], number[], number[]] = [[], [], []];
  let v = start.map((x) => x / length(start));
  for (let i = 0; i < order; i++) {
    basis.push(v);
    let w = [...product(v)];
    diagonal.push(dot(w, v));
    for (let pass = 0; pass < passes; pass++) {
      const h = basis.map((q) => dot(q, w));
      w = w.map((x, c) => x - basis.reduce((s, q, r) => s + h[r]! * q[c]!, 0));
    }
    offDiagonal.push(length(w));
    v = w.map((x) => x / length(w));
  }
  return { basis, diagonal, offDiagonal };
}

/** |H v - value v| for every pair. */
function trueResiduals({ values, vectors }: Spectrum, product: (v: Vector) => Vector): number[] {
  const found = list(values);
  return rowsOf(vectors).map((v, j) => {
    const w = product(v);
    return length(w.map((x, i) => x - found[j]! * v[i]!));
  });
}

const diagonalProduct =
  (values: Vector) =>
  (v: Vector): number[] =>
    v.map((x, i) => x * values[i]!);

/** One large eigenvalue over a geometric tail: the first new vectors are almost inside the space already. */
const hardSpectrum = [200, ...Array.from({ length: 99 }, (_, i) => 1.5 ** -i)];
const ones = (n: number): number[] => Array<number>(n).fill(1);

test("published defect, one pass of orthogonalization: two keep the basis orthogonal to 1e-12 where one loses it", () => {
  // Measured in a separate float64 study: one pass loses orthogonality to 6e-4 on this spectrum, two passes hold 7e-16.
  const order = 40;
  const one = plainLanczos(diagonalProduct(hardSpectrum), ones(100), order, 1);
  expect(orthonormalityError(one.basis)).toBeGreaterThan(1e-6);
  // All Ritz vectors together are the basis times an orthogonal matrix: they are as orthogonal as the basis.
  const all = lanczos(diagonalOperator(hardSpectrum), { k: order, order, start: f64(ones(100)) });
  expect(all.breakdown).toBe(false);
  expect(orthonormalityError(rowsOf(all.vectors))).toBeLessThan(1e-12);
  const two = plainLanczos(diagonalProduct(hardSpectrum), ones(100), order, 2);
  expect(maxDifference(all.tridiagonal.diagonal, two.diagonal)).toBeLessThan(1e-10);
  expect(maxDifference(all.tridiagonal.offDiagonal, two.offDiagonal)).toBeLessThan(1e-10);
});

test("n distinct eigenvalues and n steps: the exact spectrum, on diagonal and dense operators", () => {
  const values = linspace(-3, 4, 24).map((x) => x + 0.02 * x * x);
  const dense = withEigenvalues(values, randomRotation(mulberry32(5), values.length));
  for (const operator of [diagonalOperator(values), denseOperator(dense)]) {
    const spectrum = lanczos(operator, { k: 20, l: 4, order: values.length, key });
    expect(maxDifference(list(spectrum.values), values)).toBeLessThan(1e-12);
    expect(Math.max(...list(spectrum.residuals))).toBeLessThan(1e-10);
  }
});

test("the values are ordered: the smallest ascending, then the largest ascending", () => {
  const { values, largest } = lanczos(diagonalOperator([5, -2, 8, 0.5, 3]), { k: 2, l: 2, order: 5, key });
  expect(maxDifference(list(values), [-2, 0.5, 5, 8])).toBeLessThan(1e-13);
  expect(largest).toBe(2);
});

test("a cluster above a tail: the top eigenvalues to 1e-12 in 36 and 40 steps", () => {
  // FOSI quadratic study, case A: 10 eigenvalues in [9, 10], 90 in [0.01, 0.1].
  const values = [...linspace(10, 9, 10), ...linspace(0.1, 0.01, 90)];
  for (const [k, order] of [
    [9, 36],
    [10, 40],
  ] as const) {
    const spectrum = lanczos(diagonalOperator(values), { k, order, key });
    expect(maxDifference(list(spectrum.values).reverse(), values.slice(0, k))).toBeLessThan(1e-12);
  }
});

test("1,500 normal eigenvalues with two outliers, 100 steps: 8 at either end within 1e-4", () => {
  // The check that the authors of FOSI run on their own Lanczos.
  for (const seed of [1, 2]) {
    const values = [...normals(mulberry32(seed), 1498), 10, 9];
    const sorted = [...values].sort((a, b) => a - b);
    const spectrum = lanczos(diagonalOperator(values), { k: 8, l: 8, order: 100, key: random.key(seed) });
    const expected = [...sorted.slice(0, 8), ...sorted.slice(-8)];
    expect(maxDifference(list(spectrum.values), expected)).toBeLessThan(1e-4);
    expect(
      maxDifference(list(spectrum.residuals), trueResiduals(spectrum, diagonalProduct(values))),
    ).toBeLessThan(1e-10);
  }
});

prop(
  "random symmetric matrices: T = Q H Qᵀ, values inside the spectrum, interlaced from one order to the next, residuals true",
  fc.integer({ min: 2, max: 16 }),
  fc.nat(),
  (n, seed) => {
    const uniform = mulberry32(seed);
    const values = normals(uniform, n).sort((a, b) => a - b);
    const matrix = withEigenvalues(values, randomRotation(uniform, n));
    const product = (v: Vector): number[] => matrix.map((row) => dot(row, v));
    const start = f64(normals(uniform, n));
    let before: number[] = [];
    for (let order = 1; order <= n; order++) {
      const spectrum = lanczos(denseOperator(matrix), { k: order, order, start });
      const ritz = list(spectrum.values);
      // Not every draw is a full-order run: a nearly empty component of the start may end one early.
      fc.pre(!spectrum.breakdown || order === n);
      expect(ritz).toHaveLength(order);
      expect(ritz[0]!).toBeGreaterThanOrEqual(values[0]! - 1e-12);
      expect(ritz.at(-1)!).toBeLessThanOrEqual(values.at(-1)! + 1e-12);
      before.forEach((value, j) => {
        expect(value).toBeGreaterThanOrEqual(ritz[j]! - 1e-12);
        expect(value).toBeLessThanOrEqual(ritz[j + 1]! + 1e-12);
      });
      expect(maxDifference(list(spectrum.residuals), trueResiduals(spectrum, product))).toBeLessThan(1e-11);
      expect(orthonormalityError(rowsOf(spectrum.vectors))).toBeLessThan(1e-12);
      before = ritz;
    }
    expect(maxDifference(before, values)).toBeLessThan(1e-11);
  },
);

test("published defect, division by zero at a breakdown: three distinct eigenvalues and five steps give three pairs, no ghosts", () => {
  const values = [1, 2, 3, 1, 2, 3, 1, 2, 3];
  const spectrum = lanczos(diagonalOperator(values), { k: 5, order: 5, key });
  expect(spectrum.breakdown).toBe(true);
  expect(spectrum.largest).toBe(3);
  expect(maxDifference(list(spectrum.values), [1, 2, 3])).toBeLessThan(1e-12);
  expect(spectrum.vectors.shape).toEqual([3, 9]);
  expect(Math.max(...trueResiduals(spectrum, diagonalProduct(values)))).toBeLessThan(1e-12);
});

test("breakdown in float32, where products are rounded: three pairs, no ghosts", () => {
  const values = [1, 2, 3, 1, 2, 3, 1, 2, 3, 3];
  const h = values.map((x) => x / 2);
  const H = hessianOperator((x: Value) => x.mul(x).mul(tensor(h)).sum(), zeros([10]));
  const spectrum = lanczos(H, { k: 3, order: 5, key });
  expect(spectrum.breakdown).toBe(true);
  expect(maxDifference(list(spectrum.values), [1, 2, 3])).toBeLessThan(1e-5);
});

test("breakdown: an eigenvector as the start, the identity, zero", () => {
  const single = lanczos(diagonalOperator([4, 5, 6]), { k: 2, order: 3, start: f64([0, 2, 0]) });
  expect([list(single.values), rowsOf(single.vectors), single.breakdown]).toEqual([[5], [[0, 1, 0]], true]);
  for (const value of [1, 0, -2]) {
    const { values, residuals, breakdown } = lanczos(diagonalOperator([value, value, value, value]), {
      k: 1,
      l: 1,
      order: 4,
      key,
    });
    expect(list(values)).toHaveLength(1);
    expect(list(values)[0]!).toBeCloseTo(value, 14);
    expect(list(residuals)[0]!).toBeLessThan(1e-12);
    expect(breakdown).toBe(true);
  }
});

test("fewer pairs after a breakdown: the largest are kept before the smallest", () => {
  const values = [1, 2, 3, 1, 2, 3];
  const spectrum = lanczos(diagonalOperator(values), { k: 2, l: 3, order: 6, key });
  expect(spectrum.largest).toBe(2);
  expect(maxDifference(list(spectrum.values), [1, 2, 3])).toBeLessThan(1e-12);
});

test("the order: 4 (k + l) or 2 ln n, never more than n", () => {
  expect(lanczosOrder(5, 0, 1000)).toBe(20);
  expect(lanczosOrder(1, 0, 1_000_000)).toBe(28);
  expect(lanczosOrder(10, 2, 30)).toBe(30);
  const { tridiagonal } = lanczos(diagonalOperator([1, 2, 3]), { k: 1, order: 50, key });
  expect(tridiagonal.diagonal).toHaveLength(3);
});

test("float32 products: float64 basis, the vectors orthogonal beyond float32", () => {
  const values = linspace(1, 30, 30);
  const scale = tensor(values);
  const operator = {
    ...diagonalOperator(values),
    dtype: "float32",
    apply: (v: Value) => mul(scale, v),
  } as const;
  const { values: found, vectors, residuals } = lanczos(operator, { k: 6, order: 30, key });
  expect(maxDifference(list(found), values.slice(-6))).toBeLessThan(1e-4);
  expect(orthonormalityError(rowsOf(vectors))).toBeLessThan(1e-12);
  expect(vectors.dtype).toBe("float64");
  expect(list(residuals).every(Number.isFinite)).toBe(true);
});

test("the Hessian of a network: the same spectrum as its dense Hessian", () => {
  // A tanh layer and a linear one, 4 inputs, 3 hidden, 2 outputs, on 5 rows.
  const uniform = mulberry32(11);
  const [X, Y] = [f64(normals(uniform, 20), [5, 4]), f64(normals(uniform, 10), [5, 2])];
  const loss = (p: Value): Value => {
    const hidden = tanh(matmul(X, p.slice([0], [12]).reshape([4, 3])));
    const residual = sub(add(matmul(hidden, p.slice([12], [18]).reshape([3, 2])), p.slice([18], [20])), Y);
    return sum(mul(residual, residual));
  };
  const H = hessianOperator(loss, f64(normals(uniform, 20)));
  const identity = linspace(0, 19, 20).map((i) => linspace(0, 19, 20).map((j) => Number(i === j)));
  const dense: Matrix = identity.map((e) => list(H.apply(f64(e))));
  const spectrum = lanczos(H, { k: 12, l: 8, order: 20, key });
  // Values and vectors rebuild the matrix; its trace and Frobenius norm follow.
  const [found, vectors] = [list(spectrum.values), rowsOf(spectrum.vectors)];
  expect(found).toHaveLength(20);
  expect(maxDifference(withEigenvalues(found, vectors).flat(), dense.flat())).toBeLessThan(1e-9);
});

test("pure: the same bits for the same operator and key, another start for another key", () => {
  const operator = diagonalOperator(linspace(1, 2, 40));
  const run = (seed: number): Spectrum => lanczos(operator, { k: 3, order: 12, key: random.key(seed) });
  expect(list(run(1).vectors)).toEqual(list(run(1).vectors));
  expect(run(1).tridiagonal.diagonal[0]).not.toBe(run(2).tridiagonal.diagonal[0]!);
});

test("the projector does not depend on the start", () => {
  const values = linspace(1, 30, 30).map((x) => x ** 2);
  const run = (seed: number): number[] =>
    projector(rowsOf(lanczos(diagonalOperator(values), { k: 4, order: 30, key: random.key(seed) }).vectors));
  expect(maxDifference(run(1), run(2))).toBeLessThan(1e-10);
});

test("what cannot be done is refused: sizes, a missing or empty start, products that are not finite", () => {
  const operator = diagonalOperator([1, 2, 3]);
  const message = (call: () => unknown): string => {
    try {
      call();
    } catch (error) {
      if (error instanceof RangeError) return error.message;
    }
    return "";
  };
  expect(message(() => lanczos(operator, { k: 3, l: 1, key }))).toMatch(
    /^Cannot run Lanczos: k is 3, l is 1/,
  );
  expect(message(() => lanczos(operator, { k: 2, order: 1, key }))).toMatch(/order is 1/);
  expect(message(() => lanczos(operator, { k: 0, key }))).toMatch(/k is 0/);
  expect(message(() => lanczos(operator, { k: 1 }))).toMatch(/^Cannot start Lanczos: neither/);
  expect(message(() => lanczos(operator, { k: 1, start: f64([0, 0, 0]) }))).toMatch(/norm 0/);
  expect(message(() => lanczos(operator, { k: 1, start: f64([1, 1]) }))).toMatch(/2 elements/);
  expect(message(() => lanczos(operator, { k: 1, start: f64([1, Number.NaN, 1]) }))).toMatch(/norm NaN/);
  const broken = { ...operator, apply: (v: Value) => cast(mul(v, Number.NaN), "float64") };
  expect(message(() => lanczos(broken, { k: 1, key }))).toMatch(
    /^Cannot continue Lanczos at step 0: .* not finite/,
  );
});
