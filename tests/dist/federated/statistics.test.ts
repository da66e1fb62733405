/** Sums of products: those of loops, they add, they travel without loss, and what they determine solves its equations. */
import { expect, test } from "bun:test";
import { tensor } from "../../../core/create.ts";
import { ShapeError } from "../../../core/errors.ts";
import { add, matmul, mul, sub } from "../../../core/ops.ts";
import { foldIn, key, normal } from "../../../core/random.ts";
import { leaves } from "../../../core/tree.ts";
import { Value } from "../../../core/value.ts";
import {
  addStatistics,
  packStatistics,
  packSymmetric,
  ridge,
  ridgeTerm,
  type Statistics,
  statisticsBytes,
  statisticsOf,
  subtractStatistics,
  unpackStatistics,
  unpackSymmetric,
  zeroStatistics,
} from "../../../dist/federated/statistics.ts";
import { list, maxDifference } from "../../optim/numbers.ts";

const draw = (seed: number, shape: readonly number[], dtype: "float32" | "float64" = "float64"): Value =>
  normal(foldIn(key(71), seed), shape, { dtype });

/** XᵀY by loops. */
function products(x: Value, y: Value): number[] {
  const [n, d, c] = [x.shape[0]!, x.shape[1]!, y.shape[1]!];
  const [xs, ys] = [list(x), list(y)];
  const sums = new Array<number>(d * c).fill(0);
  for (let i = 0; i < d; i++)
    for (let j = 0; j < c; j++)
      for (let r = 0; r < n; r++) sums[i * c + j]! += xs[r * d + i]! * ys[r * c + j]!;
  return sums;
}

/** The largest difference of two tensors, or of one and numbers. */
const distance = (x: Value, y: Value | readonly number[]): number =>
  maxDifference(list(x), y instanceof Value ? list(y) : y);

const rows = (x: Value, start: number, end: number): Value => x.slice([start, 0], [end, x.shape[1]!]);

test("statistics are the sums of products that loops give, of both float types", () => {
  for (const dtype of ["float32", "float64"] as const) {
    const [x, y] = [draw(0, [37, 6], dtype), draw(1, [37, 3], dtype)];
    const stats = statisticsOf(x, y);
    expect(distance(stats.gram, products(x, x))).toBeLessThan(1e-12);
    expect(distance(stats.cross, products(x, y))).toBeLessThan(1e-12);
    expect([stats.gram, stats.cross, stats.count].map((v) => v.dtype)).toEqual([
      "float64",
      "float64",
      "float64",
    ]);
    expect(stats.count.item()).toBe(37);
  }
});

test("statistics of batches of any size add up to those of all examples", () => {
  const [x, y] = [draw(2, [200, 9]), draw(3, [200, 4])];
  const whole = statisticsOf(x, y);
  for (const size of [1, 17, 64, 200]) {
    let sum = zeroStatistics(9, 4);
    for (let start = 0; start < 200; start += size) {
      const end = Math.min(start + size, 200);
      sum = addStatistics(sum, statisticsOf(rows(x, start, end), rows(y, start, end)));
    }
    expect(distance(sum.gram, whole.gram)).toBeLessThan(1e-12);
    expect(distance(sum.cross, whole.cross)).toBeLessThan(1e-12);
    expect(sum.count.item()).toBe(200);
  }
});

test("subtracting what was added leaves the rest", () => {
  const [a, b] = [0, 1].map((i) => statisticsOf(draw(4 + i, [20 + i, 5]), draw(6 + i, [20 + i, 2]))) as [
    Statistics,
    Statistics,
  ];
  const left = subtractStatistics(addStatistics(a, b), b);
  expect(distance(left.gram, a.gram)).toBeLessThan(1e-13);
  expect(distance(left.cross, a.cross)).toBeLessThan(1e-13);
  expect(left.count.item()).toBe(20);
});

test("statistics of other sizes do not add, and examples without as many targets have none", () => {
  const stats = zeroStatistics(3, 2);
  expect(() => addStatistics(stats, zeroStatistics(4, 2))).toThrow(ShapeError);
  expect(() => subtractStatistics(stats, zeroStatistics(3, 1))).toThrow(ShapeError);
  expect(() => statisticsOf(draw(0, [4, 2]), draw(0, [5, 2]))).toThrow(ShapeError);
  expect(() => statisticsOf(draw(0, [4]), draw(0, [4, 2]))).toThrow(ShapeError);
});

test("ridge solves (G + gamma I) W = B, on either side of the size from which a native library does", () => {
  for (const d of [3, 40, 130]) {
    const stats = statisticsOf(draw(8, [2 * d, d]), draw(9, [2 * d, 3]));
    for (const gamma of [0, 0.5, 1e6]) {
      const left = matmul(add(stats.gram, ridgeTerm(stats.gram, gamma)), ridge(stats, gamma));
      const size = Math.max(...list(stats.cross).map(Math.abs));
      expect(distance(left, stats.cross)).toBeLessThan(1e-9 * size);
    }
  }
});

test("ridge minimizes |Y - X W|² + gamma |W|²: every step away from it is worse", () => {
  const [x, y] = [draw(10, [30, 7]), draw(11, [30, 2])];
  const loss = (w: Value): number =>
    list(sub(matmul(x, w), y)).reduce((s, e) => s + e * e, 0) + 0.7 * list(w).reduce((s, e) => s + e * e, 0);
  const w = ridge(statisticsOf(x, y), 0.7);
  for (let i = 0; i < 10; i++) expect(loss(add(w, mul(draw(20 + i, [7, 2]), 1e-3)))).toBeGreaterThan(loss(w));
});

test("a singular matrix is an error that names what was fitted and gamma", () => {
  const few = statisticsOf(draw(12, [5, 8]), draw(13, [5, 2]));
  expect(() => ridge(few, 0, "layer 3")).toThrow(/Cannot solve layer 3: with gamma 0 .* 8 features/);
  expect(() => ridge(few, 1e-18, "layer 3")).toThrow(RangeError);
  expect(() => ridge(few, Number.NaN)).toThrow(RangeError);
  expect(() => ridge(zeroStatistics(2, 1), 0)).toThrow(RangeError);
  expect(list(ridge(few, 1e-3)).every(Number.isFinite)).toBe(true);
});

test("features that are sums of others are singular, whatever rounding makes of them", () => {
  for (let seed = 0; seed < 20; seed++) {
    const x = draw(100 + seed, [60, 4]);
    const dependent = matmul(x, draw(200 + seed, [4, 6]));
    expect(() => ridge(statisticsOf(dependent, draw(300 + seed, [60, 1])), 0)).toThrow(RangeError);
  }
});

test("features of very different scale are not singular", () => {
  const scales = tensor([1e-9, 1, 1e7], { dtype: "float64" });
  const x = draw(14, [50, 3]);
  const y = draw(15, [50, 2]);
  const w = ridge(statisticsOf(mul(x, scales), y), 0);
  expect(distance(mul(w, scales.reshape([3, 1])), ridge(statisticsOf(x, y), 0))).toBeLessThan(1e-10);
});

test("what is packed is the lower triangle, and comes back as it was", () => {
  const d = 7;
  const { gram } = statisticsOf(draw(16, [9, d]), draw(17, [9, 1]));
  const packed = packSymmetric(gram);
  expect(packed.shape).toEqual([(d * (d + 1)) / 2]);
  const values = list(gram);
  const lower = Array.from({ length: d }, (_, i) => values.slice(i * d, i * d + i + 1)).flat();
  expect(distance(packed, lower)).toBeLessThan(1e-15);
  const whole = unpackSymmetric(packed, d);
  expect(distance(whole, gram)).toBeLessThan(1e-15);
  expect(list(packSymmetric(whole))).toEqual(list(packed));
  expect(list(unpackSymmetric(draw(18, [3]), 2)).length).toBe(4);
  expect(() => unpackSymmetric(packed, d - 1)).toThrow(ShapeError);
  expect(() => packSymmetric(draw(18, [2, 3]))).toThrow(ShapeError);
});

test("what rounding left different on both sides of the diagonal is packed as its mean, in its own type", () => {
  for (const dtype of ["float32", "float64"] as const) {
    const packed = packSymmetric(
      tensor(
        [
          [1, 2, 7],
          [4, 5, 8],
          [6, 9, 3],
        ],
        { dtype },
      ),
    );
    expect([packed.dtype, unpackSymmetric(packed, 3).dtype]).toEqual([dtype, dtype]);
    expect(list(packed)).toEqual([1, 3, 5, 6.5, 8.5, 3]);
  }
});

test("the model of packed statistics has the same bits", () => {
  const stats = statisticsOf(draw(19, [90, 70]), draw(20, [90, 3]));
  const received = unpackStatistics(packStatistics(stats), 70);
  expect(list(ridge(received, 0.1))).toEqual(list(ridge(stats, 0.1)));
  expect(received.count.item()).toBe(90);
});

test("the bytes of packed statistics are those of its elements", () => {
  for (const [d, c] of [
    [1, 1],
    [5, 3],
    [12, 10],
  ] as const) {
    const sent = packStatistics(zeroStatistics(d, c));
    const bytes = leaves(sent).reduce((sum, x) => sum + x.dataSync().byteLength, 0);
    expect(statisticsBytes(d, c)).toBe(bytes);
  }
});
