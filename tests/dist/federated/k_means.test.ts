/** K-means: a fixed point of its two steps, the same for any order of the points. */
import { expect, test } from "bun:test";
import { tensor } from "../../../core/create.ts";
import { ShapeError } from "../../../core/errors.ts";
import { take } from "../../../core/ops.ts";
import { foldIn, key, normal, permutation } from "../../../core/random.ts";
import type { Value } from "../../../core/value.ts";
import { kMeans } from "../../../dist/federated/k_means.ts";
import { list } from "../../optim/numbers.ts";

const draw = (seed: number, shape: readonly number[]): Value =>
  normal(foldIn(key(5), seed), shape, { dtype: "float64" });
const rowsOf = (x: Value): number[][] => x.toArray() as number[][];
const squared = (x: readonly number[], y: readonly number[]): number =>
  x.reduce((sum, value, k) => sum + (value - y[k]!) ** 2, 0);

test("every point is nearest to its centre, and every centre is the mean of its points", () => {
  for (let seed = 0; seed < 6; seed++) {
    const points = draw(seed, [60, 3]);
    const { centres, group, spread, isSettled } = kMeans(points, 5, { seed });
    expect(isSettled).toBe(true);
    const [rows, middles, own] = [rowsOf(points), rowsOf(centres), list(group)];
    let sum = 0;
    rows.forEach((row, i) => {
      const distances = middles.map((middle) => squared(row, middle));
      expect(distances[own[i]!]!).toBe(Math.min(...distances));
      sum += distances[own[i]!]!;
    });
    expect(Math.abs(spread - sum)).toBeLessThan(1e-11);
    middles.forEach((middle, g) => {
      const members = rows.filter((_, i) => own[i] === g);
      expect(members.length).toBeGreaterThan(0);
      middle.forEach((value, k) => {
        const mean = members.reduce((total, row) => total + row[k]!, 0) / members.length;
        expect(Math.abs(value - mean)).toBeLessThan(1e-13);
      });
    });
  }
});

test("the order of the points changes nothing but the order of the groups", () => {
  const points = draw(10, [40, 4]);
  const { centres, group } = kMeans(points, 4, { seed: 2 });
  for (let i = 0; i < 5; i++) {
    const order = permutation(key(i), 40);
    const shuffled = kMeans(take(points, order), 4, { seed: 2 });
    expect(list(shuffled.centres)).toEqual(list(centres));
    expect(list(shuffled.group)).toEqual(list(take(group, order)));
  }
});

test("groups are a function of the seed", () => {
  const points = draw(11, [50, 2]);
  const found = (seed: number) => list(kMeans(points, 6, { seed }).centres);
  expect(found(1)).toEqual(found(1));
  expect(new Set([0, 1, 2, 3].map((seed) => found(seed).join())).size).toBeGreaterThan(1);
});

test("far apart groups are found from any seed", () => {
  const count = 4;
  const rows = rowsOf(draw(12, [40, 2])).map(([x, y], i) => [x! + 100 * (i % count), y! - 70 * (i % count)]);
  for (let seed = 0; seed < 20; seed++) {
    const own = list(kMeans(tensor(rows, { dtype: "float64" }), count, { seed }).group);
    own.forEach((g, i) => {
      expect(g).toBe(own[i % count]!);
    });
    expect(new Set(own).size).toBe(count);
  }
});

test("groups without points keep their centre", () => {
  const points = tensor(
    [
      [1, 2],
      [1, 2],
      [3, 4],
      [1, 2],
    ],
    { dtype: "float64" },
  );
  const { centres, group, spread } = kMeans(points, 4, { seed: 0 });
  expect(spread).toBe(0);
  for (const row of rowsOf(centres)) expect([[1, 2].join(), [3, 4].join()]).toContain(row.join());
  const own = list(group);
  expect(own[0] === own[1] && own[1] === own[3] && own[0] !== own[2]).toBe(true);
  // Of centres that are equally near, the first.
  const names = rowsOf(centres).map((row) => row.join());
  expect(own).toEqual(rowsOf(points).map((row) => names.indexOf(row.join())));
});

test("as many groups as points leave no spread, and one group has the mean", () => {
  const points = draw(13, [9, 2]);
  expect(kMeans(points, 9, { seed: 0 }).spread).toBe(0);
  const [middle] = rowsOf(kMeans(points, 1, { seed: 0 }).centres);
  const rows = rowsOf(points);
  middle!.forEach((value, k) => {
    expect(Math.abs(value - rows.reduce((sum, row) => sum + row[k]!, 0) / 9)).toBeLessThan(1e-14);
  });
});

test("of more groups than points the others stay empty", () => {
  const points = draw(15, [3, 2]);
  for (let seed = 0; seed < 5; seed++) {
    const { centres, group, spread } = kMeans(points, 7, { seed });
    expect(spread).toBe(0);
    expect(new Set(list(group)).size).toBe(3);
    const rows = rowsOf(points).map((row) => row.join());
    expect(centres.shape).toEqual([7, 2]);
    for (const row of rowsOf(centres)) expect(rows).toContain(row.join());
  }
});

test("no iterations leave the points that were drawn", () => {
  const points = draw(14, [30, 2]);
  const { centres, isSettled } = kMeans(points, 3, { seed: 0, iterations: 0 });
  const rows = rowsOf(points).map((row) => row.join());
  for (const row of rowsOf(centres)) expect(rows).toContain(row.join());
  expect(isSettled).toBe(false);
});

test("points that cannot be grouped are an error", () => {
  expect(() => kMeans(draw(0, [0, 2]), 1, { seed: 0 })).toThrow(/group 0 points/);
  expect(() => kMeans(draw(0, [3, 2]), 0, { seed: 0 })).toThrow(RangeError);
  expect(() => kMeans(draw(0, [3]), 1, { seed: 0 })).toThrow(ShapeError);
  expect(() => kMeans(tensor([[Number.NaN]]), 1, { seed: 0 })).toThrow(/finite/);
});
