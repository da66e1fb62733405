import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { epochOrder, shard } from "../../cli/data/batches.ts";
import { randomStream } from "../../cli/data/random.ts";

describe("epochOrder", () => {
  test("is a permutation, and the same one for the same seed and epoch", () => {
    fc.assert(
      fc.property(fc.nat(300), fc.nat(1000), fc.integer(), (count, epoch, seed) => {
        const order = epochOrder(count, epoch, seed);
        expect([...order].sort((a, b) => a - b)).toEqual(Array.from({ length: count }, (_, i) => i));
        expect(epochOrder(count, epoch, seed)).toEqual(order);
      }),
      { numRuns: 50 },
    );
  });

  test("differs between epochs and between seeds, also beyond 32 bits", () => {
    const orders = [
      epochOrder(50, 0, 1),
      epochOrder(50, 1, 1),
      epochOrder(50, 0, 2),
      epochOrder(50, 0, 1 + 2 ** 32),
      epochOrder(50, 0, -1),
    ];
    expect(new Set(orders.map((order) => order.join())).size).toBe(orders.length);
  });

  test("is the pinned order on every engine", () => {
    expect([...epochOrder(10, 3, 42)]).toEqual([3, 4, 8, 2, 5, 7, 9, 6, 0, 1]);
  });

  test("puts every example first equally often", () => {
    const counts = new Float64Array(8);
    const runs = 8000;
    for (let epoch = 0; epoch < runs; epoch++) {
      const first = epochOrder(8, epoch, 5)[0]!;
      counts[first] = counts[first]! + 1;
    }
    // Chi-squared with 7 degrees of freedom: 24.3 is passed by one good generator in a thousand; the seed is fixed.
    const expected = runs / 8;
    const chiSquared = counts.reduce((sum, count) => sum + (count - expected) ** 2 / expected, 0);
    expect(chiSquared).toBeLessThan(24.3);
  });

  test("refuses counts and epochs that are not whole", () => {
    expect(() => epochOrder(-1, 0, 0)).toThrow("number of examples is -1");
    expect(() => epochOrder(3, 0.5, 0)).toThrow("epoch is 0.5");
  });
});

describe("shard", () => {
  test("covers everything once in the order of ranks, with sizes that differ by at most one", () => {
    fc.assert(
      fc.property(fc.nat(100_000), fc.integer({ min: 1, max: 70 }), (count, workers) => {
        const shards = Array.from({ length: workers }, (_, rank) => shard(count, rank, workers));
        let next = 0;
        for (const { start, end } of shards) {
          expect(start).toBe(next);
          next = end;
        }
        expect(next).toBe(count);
        const sizes = shards.map(({ start, end }) => end - start);
        expect(Math.max(...sizes) - Math.min(...sizes)).toBeLessThanOrEqual(1);
      }),
      { numRuns: 50 },
    );
  });

  test("refuses a rank outside the group", () => {
    expect(() => shard(10, 3, 3)).toThrow("the rank is 3, a rank below 3 is needed");
    expect(() => shard(10, 0, 0)).toThrow("number of workers is 0");
  });
});

test("randomStream is uniform in [0, 1) and its streams do not repeat each other", () => {
  const [one, two] = [randomStream([1]), randomStream([2])];
  const draws = 20_000;
  let [mean, square, product] = [0, 0, 0];
  for (let n = 0; n < draws; n++) {
    const [x, y] = [one.uniform(), two.uniform()];
    expect(x >= 0 && x < 1).toBe(true);
    mean += x / draws;
    square += x ** 2 / draws;
    product += ((x - 0.5) * (y - 0.5)) / draws;
  }
  // Five standard errors: sqrt(1/12/n), sqrt(4/45/n) and 1/12/sqrt(n).
  expect(Math.abs(mean - 1 / 2)).toBeLessThan(5 * Math.sqrt(1 / 12 / draws));
  expect(Math.abs(square - 1 / 3)).toBeLessThan(5 * Math.sqrt(4 / 45 / draws));
  expect(Math.abs(product)).toBeLessThan(5 / 12 / Math.sqrt(draws));
});
