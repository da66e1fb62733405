import { expect, test } from "bun:test";
import fc from "fast-check";
import { type Tridiagonal, tridiagonalEigen } from "../../optim/tridiagonal.ts";
import { prop } from "../support/prop.ts";
import { maxDifference, mulberry32, normals, orthonormalityError } from "./numbers.ts";

/** T v */
function product({ diagonal, offDiagonal }: Tridiagonal, v: Float64Array): number[] {
  return diagonal.map(
    (d, i) =>
      d * v[i]! + (offDiagonal[i] ?? 0) * (v[i + 1] ?? 0) + (i > 0 ? offDiagonal[i - 1]! * v[i - 1]! : 0),
  );
}

/** How many eigenvalues are below x: the signs of the Sturm sequence, an algorithm that shares nothing with QL. */
function countBelow({ diagonal, offDiagonal }: Tridiagonal, x: number): number {
  let [count, q] = [0, 1];
  diagonal.forEach((d, i) => {
    const coupling = i === 0 ? 0 : offDiagonal[i - 1]! ** 2;
    q = d - x - (coupling === 0 ? 0 : coupling / (q === 0 ? Number.MIN_VALUE : q));
    if (q < 0) count++;
  });
  return count;
}

function check(t: Tridiagonal, tolerance = 1e-13): ReturnType<typeof tridiagonalEigen> {
  const eigen = tridiagonalEigen(t);
  const scale = Math.max(...t.diagonal.map(Math.abs), ...t.offDiagonal.map(Math.abs), Number.MIN_VALUE);
  const { values, vectors } = eigen;
  expect(values).toHaveLength(t.diagonal.length);
  expect([...values].sort((a, b) => a - b)).toEqual([...values]);
  expect(orthonormalityError(vectors.map((v) => [...v]))).toBeLessThan(tolerance * values.length);
  values.forEach((value, j) => {
    const expected = [...vectors[j]!].map((x) => value * x);
    expect(maxDifference(product(t, vectors[j]!), expected)).toBeLessThanOrEqual(
      tolerance * values.length * scale,
    );
  });
  return eigen;
}

test("the second difference matrix has eigenvalues 2 - 2 cos(j π / (m + 1)) and sine vectors", () => {
  for (const m of [1, 2, 3, 10, 64]) {
    const { values, vectors } = check({ diagonal: Array(m).fill(2), offDiagonal: Array(m - 1).fill(-1) });
    const angle = (j: number): number => ((j + 1) * Math.PI) / (m + 1);
    expect(
      maxDifference(
        values,
        values.map((_, j) => 2 - 2 * Math.cos(angle(j))),
      ),
    ).toBeLessThan(1e-14 * m + 4e-15);
    vectors.forEach((v, j) => {
      const sine = [...v].map((_, i) => Math.sqrt(2 / (m + 1)) * Math.sin((i + 1) * angle(j)));
      const sign = Math.sign(sine[0]! * v[0]!);
      expect(
        maxDifference(
          [...v],
          sine.map((x) => sign * x),
        ),
      ).toBeLessThan(1e-12);
    });
  }
});

test("a zero diagonal gives the eigenvalues of a path: pairs ± 2 cos", () => {
  const m = 9;
  const { values } = check({ diagonal: Array(m).fill(0), offDiagonal: Array(m - 1).fill(1) });
  expect(
    maxDifference(
      values,
      values.map((_, j) => -2 * Math.cos(((j + 1) * Math.PI) / (m + 1))),
    ),
  ).toBeLessThan(1e-13);
});

test("Clement's matrix has the eigenvalues -n, -n + 2, ..., n", () => {
  const n = 12;
  const offDiagonal = Array.from({ length: n }, (_, i) => Math.sqrt((i + 1) * (n - i)));
  const { values } = check({ diagonal: Array(n + 1).fill(0), offDiagonal });
  expect(
    maxDifference(
      values,
      values.map((_, j) => 2 * j - n),
    ),
  ).toBeLessThan(1e-12);
});

test("Wilkinson's matrix keeps its nearly equal pairs apart and orthogonal", () => {
  const t = {
    diagonal: Array.from({ length: 21 }, (_, i) => Math.abs(i - 10)),
    offDiagonal: Array(20).fill(1),
  };
  const { values } = check(t);
  expect(values.at(-1)!).toBeCloseTo(10.746194182903393, 12);
  expect(values.at(-2)!).toBeCloseTo(10.746194182903322, 12);
});

prop(
  "eigenpairs of random matrices: residuals, orthogonality, and Sturm counts on both sides of every eigenvalue",
  fc.integer({ min: 1, max: 24 }),
  fc.nat(),
  fc.constantFrom(0, -6, 6),
  (m, seed, exponent) => {
    const uniform = mulberry32(seed);
    const scale = 10 ** exponent;
    const t = {
      diagonal: normals(uniform, m).map((x) => x * scale),
      // Some couplings are zero or tiny, so that the matrix falls into blocks.
      offDiagonal: normals(uniform, m - 1).map(
        (x) => (uniform() < 0.2 ? 0 : uniform() < 0.1 ? x * 1e-12 : x) * scale,
      ),
    };
    const { values } = check(t);
    const width = 1e-12 * scale * m;
    values.forEach((value, j) => {
      expect(countBelow(t, value + width)).toBeGreaterThanOrEqual(j + 1);
      expect(countBelow(t, value - width)).toBeLessThanOrEqual(j);
    });
  },
);

test("blocks: zero couplings split the matrix, equal eigenvalues keep orthogonal vectors", () => {
  const { values } = check({ diagonal: [3, 1, 3, 1], offDiagonal: [0, 0, 0] });
  expect(values).toEqual([1, 1, 3, 3]);
  expect(check({ diagonal: [0, 0, 0], offDiagonal: [0, 0] }).values).toEqual([0, 0, 0]);
  expect(check({ diagonal: [0, 0], offDiagonal: [2] }).values).toEqual(
    [-2, 2].map((x) => expect.closeTo(x, 14)) as never,
  );
  expect(check({ diagonal: [-7.5], offDiagonal: [] }).values).toEqual([-7.5]);
  expect(tridiagonalEigen({ diagonal: [], offDiagonal: [] })).toEqual({ values: [], vectors: [] });
});

test("extreme scales: graded over 30 orders, tiny and huge", () => {
  const graded = Array.from({ length: 16 }, (_, i) => 10 ** (15 - 2 * i));
  check({ diagonal: graded, offDiagonal: graded.slice(1) });
  check({ diagonal: [1e-150, 2e-150, 3e-150], offDiagonal: [1e-150, 1e-150] });
  check({ diagonal: [1e150, 2e150, 3e150], offDiagonal: [1e150, 1e150] });
});

test("elements that are not finite are refused", () => {
  for (const bad of [Number.NaN, Number.POSITIVE_INFINITY]) {
    expect(() => tridiagonalEigen({ diagonal: [1, bad], offDiagonal: [0] })).toThrow(
      /^Cannot find eigenvalues: /,
    );
    expect(() => tridiagonalEigen({ diagonal: [1, 1], offDiagonal: [bad] })).toThrow(RangeError);
  }
});
