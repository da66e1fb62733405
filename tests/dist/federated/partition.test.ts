/** Partitions: nothing is lost or doubled, and each kind keeps what it promises. */
import { expect, test } from "bun:test";
import {
  dirichlet,
  extendedDirichlet,
  iid,
  parsePartition,
  partitionExamples,
  shards,
  showPartition,
  splitOwn,
} from "../../../dist/federated/partition.ts";

/** Labels of classes of different size, in no order. */
function labelsOf(sizes: readonly number[]): Int32Array {
  const labels = sizes.flatMap((size, c) => new Array<number>(size).fill(c));
  return Int32Array.from(labels, (_, i) => labels[(i * 7919 + 3) % labels.length]!);
}

const sizes = [101, 67, 150, 80, 120];
const labels = labelsOf(sizes);

/** The examples of each class that each client has. */
const countsOf = (parts: readonly Int32Array[], of = labels): number[][] =>
  parts.map((own) => {
    const counts = new Array<number>(sizes.length).fill(0);
    for (const i of own) counts[of[i]!]! += 1;
    return counts;
  });

function expectPartition(parts: readonly Int32Array[], clients: number, minimum: number): void {
  expect(parts.length).toBe(clients);
  const all = parts.flatMap((own) => [...own]).sort((a, b) => a - b);
  expect(all).toEqual(Array.from(labels, (_, i) => i));
  for (const own of parts) {
    expect(own.length).toBeGreaterThanOrEqual(minimum);
    expect([...own]).toEqual([...own].sort((a, b) => a - b));
  }
}

const seeds = [0, 1, 2, 3, 4];

test("the labels of these tests are what they should be", () => {
  expect(countsOf([Int32Array.from(labels, (_, i) => i)])).toEqual([sizes]);
});

test("every kind gives every example to one client, and every client its minimum", () => {
  for (const text of [
    "iid",
    "dirichlet:0.1",
    "dirichlet:100",
    "shards:2",
    "shards:5",
    "exdir:2:0.3",
    "exdir:4:10",
  ]) {
    for (const seed of seeds) {
      for (const clients of [3, 10]) {
        const options = { seed, minimum: 4 };
        const partition = parsePartition(text);
        expectPartition(partitionExamples(partition, labels, clients, options), clients, 4);
      }
    }
  }
});

test("a partition is a function of its seed", () => {
  for (const text of ["iid", "dirichlet:0.5", "shards:2", "exdir:3:0.5"]) {
    const parts = (seed: number) => partitionExamples(parsePartition(text), labels, 6, { seed });
    expect(parts(1)).toEqual(parts(1));
    expect(parts(1)).not.toEqual(parts(2));
  }
});

test("iid parts differ in size by one, and have their share of every class", () => {
  const parts = iid(labels, 4, { seed: 5 });
  const lengths = parts.map(({ length }) => length);
  expect(Math.max(...lengths) - Math.min(...lengths)).toBeLessThanOrEqual(1);
  // Hypergeometric: of 150 examples a quarter, give or take five standard deviations.
  for (const counts of countsOf(parts))
    counts.forEach((count, c) => {
      expect(Math.abs(count - sizes[c]! / 4)).toBeLessThan(5 * Math.sqrt((sizes[c]! * 3) / 16));
    });
});

test("a client that has its share of all examples gets none of the later classes", () => {
  let full = 0;
  for (const seed of seeds) {
    for (const alpha of [0.05, 0.5, 5]) {
      for (const counts of countsOf(dirichlet(labels, 8, { alpha, seed, minimum: 0 }))) {
        let held = 0;
        for (const count of counts) {
          if (held >= labels.length / 8) {
            full++;
            expect(count).toBe(0);
          }
          held += count;
        }
      }
    }
  }
  expect(full).toBeGreaterThan(50);
});

test("shares of a class are those of a Dirichlet distribution", () => {
  const [clients, size] = [1000, 20_000];
  const most = new Int32Array(size + 1);
  most[size] = 1;
  for (const [alpha, tolerance] of [
    [0.2, 0.1],
    [1, 0.05],
    [5, 0.05],
  ] as const) {
    const squares = Array.from({ length: 12 }, (_, seed) =>
      dirichlet(most, clients, { alpha, seed, minimum: 0 })
        .map((own) => (own.filter((i) => i < size).length / size) ** 2)
        .reduce((a, b) => a + b, 0),
    );
    // The sum of p² has mean (alpha + 1) / (K alpha + 1).
    const mean = squares.reduce((a, b) => a + b, 0) / squares.length;
    expect(Math.abs((mean * (clients * alpha + 1)) / (alpha + 1) - 1)).toBeLessThan(tolerance);
  }
});

test("an alpha whose shares are below the smallest number still gives all examples away", () => {
  for (const seed of seeds) expectPartition(dirichlet(labels, 6, { alpha: 1e-5, seed, minimum: 0 }), 6, 0);
});

test("shards give each client as many classes as it wants, in equal parts or not", () => {
  for (const seed of seeds) {
    for (const [clients, classes] of [
      [5, 2],
      [7, 3],
      [10, 1],
      [3, 2],
    ] as const) {
      const balanced = countsOf(shards(labels, clients, { classes, seed }));
      for (const counts of balanced) expect(counts.filter((count) => count > 0).length).toBe(classes);
      for (let c = 0; c < sizes.length; c++) {
        const parts = balanced.map((counts) => counts[c]!).filter((count) => count > 0);
        expect(Math.max(...parts) - Math.min(...parts)).toBeLessThanOrEqual(1);
        const places = (clients * classes) / sizes.length;
        expect(parts.length).toBeGreaterThanOrEqual(Math.floor(places));
        expect(parts.length).toBeLessThanOrEqual(Math.ceil(places));
      }
      const unequal = shards(labels, clients, { classes, seed, isBalanced: false, minimum: 1 });
      expectPartition(unequal, clients, 1);
      for (const counts of countsOf(unequal))
        expect(counts.filter((count) => count > 0).length).toBeLessThanOrEqual(classes);
    }
  }
});

test("parts of unbalanced shards are from a tenth of the mean up to the mean, but for the last", () => {
  const counts = countsOf(shards(labels, 10, { classes: 2, seed: 3, isBalanced: false, minimum: 1 }));
  for (let c = 0; c < sizes.length; c++) {
    const mean = sizes[c]! / 4;
    const parts = counts.map((own) => own[c]!).filter((count) => count > 0);
    expect(parts.filter((count) => count > mean).length).toBeLessThanOrEqual(1);
    expect(parts.filter((count) => count < Math.floor(mean / 10)).length).toBe(0);
  }
});

test("the extended Dirichlet split keeps to its classes, and no class has too few clients", () => {
  const [clients, classes] = [15, 2];
  // Half of the clients that a class has on average.
  const least = Math.floor((clients * classes) / sizes.length / 2);
  expect(least).toBe(3);
  // Before the last class nobody has a share of all examples, which would end what it gets: all that were drawn have the class.
  const many = labelsOf([60, 60, 60, 60, 4000]);
  const fewest: number[] = [];
  for (let seed = 0; seed < 40; seed++) {
    const of = (all: Int32Array): number[][] =>
      countsOf(extendedDirichlet(all, clients, { classes, alpha: 100, seed }), all);
    const counts = of(many);
    for (const own of [...of(labels), ...counts])
      expect(own.filter((count) => count > 0).length).toBeLessThanOrEqual(classes);
    fewest.push(Math.min(...sizes.map((_, c) => counts.filter((own) => own[c]! > 0).length)));
  }
  // No draw below the bound was taken, and some reach it.
  expect(Math.min(...fewest)).toBe(least);
});

test("a partition that cannot be is an error that says so", () => {
  expect(() => iid(labels, 0, { seed: 0 })).toThrow(RangeError);
  expect(() => iid(labels, 400, { seed: 0 })).toThrow(
    /518 examples among 400 clients by iid: 2 for each would be 800/,
  );
  expect(() => iid(labels, 2, { seed: 0, minimum: -1 })).toThrow(/the minimum is -1/);
  expect(() => dirichlet(labels, 100, { alpha: 0.01, seed: 0, minimum: 5, attempts: 20 })).toThrow(
    /none of 20 draws gives every client 5 examples/,
  );
  expect(() => dirichlet(labels, 2, { alpha: 0, seed: 0 })).toThrow(/alpha is 0/);
  expect(() => shards(labels, 2, { classes: 2, seed: 0 })).toThrow(/5 classes/);
  expect(() => shards(labels, 2, { classes: 6, seed: 0 })).toThrow(RangeError);
  expect(() => extendedDirichlet(labels, 20, { classes: 0, alpha: 1, seed: 0 })).toThrow(RangeError);
});

test("texts of partitions are read and written", () => {
  for (const text of ["iid", "dirichlet:0.5", "shards:2", "exdir:2:0.5"]) {
    expect(showPartition(parsePartition(text))).toBe(text);
  }
  for (const text of [
    "",
    "iid:1",
    "dirichlet",
    "dirichlet:",
    "dirichlet:0",
    "dirichlet:x",
    "dirichlet:1:2",
    "shards:1.5",
    "exdir:2",
    "exdir:0:1",
    "pat:2",
  ]) {
    expect(() => parsePartition(text)).toThrow(/Cannot read the partition/);
  }
});

test("a client's own examples are cut at three quarters, whatever the others have", () => {
  const parts = dirichlet(labels, 9, { alpha: 0.3, seed: 1 });
  const split = splitOwn(parts, { seed: 4 });
  split.forEach(({ train, test }, client) => {
    const own = parts[client]!;
    expect([...train, ...test].sort((a, b) => a - b)).toEqual([...own]);
    expect(train.length).toBe(Math.max(1, Math.min(own.length - 1, Math.round(0.75 * own.length))));
  });
  const others = splitOwn(
    parts.map((own, client) => (client === 2 ? own : own.slice(0, 3))),
    { seed: 4 },
  );
  expect(others[2]).toEqual(split[2]!);
  expect(splitOwn(parts, { seed: 5 })).not.toEqual(split);
  const tiny = splitOwn([new Int32Array(0), new Int32Array([7]), new Int32Array([7, 9])], { seed: 0 });
  expect(tiny.map(({ train, test }) => [train.length, test.length])).toEqual([
    [0, 0],
    [1, 0],
    [1, 1],
  ]);
  expect(() => splitOwn(parts, { seed: 0, share: 1 })).toThrow(RangeError);
});
