import { expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { join, resolve } from "node:path";
import type { Split } from "../../cli/data/dataset.ts";
import { loadData } from "../../cli/data/registry.ts";

/** Published files are read where a machine has them; their counts are from the publishers' own descriptions. */
const root = resolve(import.meta.dir, "../..", process.env["COTANGENT_TEST_DATA"] ?? "../shared/data");

function whenPresent(title: string, place: string, run: (dir: string) => Promise<void>): void {
  const dir = join(root, place);
  const present = existsSync(dir);
  if (!present)
    console.log(`Skipped "${title}": ${dir} is not there; COTANGENT_TEST_DATA says where to look`);
  test.skipIf(!present)(title, () => run(dir));
}

function histogram({ labels }: Split, classes: number): readonly number[] {
  const counts = Array.from({ length: classes }, () => 0);
  for (const label of labels) counts[label] = counts[label]! + 1;
  return counts;
}

whenPresent("fashion-mnist's first 10,000 and 2,000", "fashion-mnist/subset-10k-2k", async (dir) => {
  const data = await loadData({ name: "fashion-mnist", seed: 0, dir });
  expect(data.exampleShape).toEqual([28, 28]);
  expect(histogram(data.train, 10)).toEqual([942, 1027, 1016, 1019, 974, 989, 1021, 1022, 990, 1000]);
  expect(histogram(data.test, 10)).toEqual([200, 203, 214, 190, 219, 195, 197, 200, 194, 188]);
  expect(data.train.features.length).toBe(10_000 * 784);
});

whenPresent("mnist's first 10,000 and 2,000", "mnist/subset-10k-2k", async (dir) => {
  const data = await loadData({ name: "mnist", seed: 0, dir, testLimit: 100 });
  expect([data.train.count, data.test.count]).toEqual([10_000, 100]);
  // The first digits of the training set are known by heart to many.
  expect([...data.train.labels.subarray(0, 5)]).toEqual([5, 0, 4, 1, 9]);
  let most = 0;
  for (const value of data.train.features) most = Math.max(most, value);
  expect(most).toBe(1);
});

whenPresent("a9a and its test file, which never uses feature 123", "libsvm", async (dir) => {
  const data = await loadData({ name: "libsvm", seed: 0, dir, file: "a9a" });
  expect(data.exampleShape).toEqual([123]);
  expect(histogram(data.train, 2)).toEqual([24_720, 7_841]);
  expect(histogram(data.test, 2)).toEqual([12_435, 3_846]);
  expect(data.test.features.length).toBe(16_281 * 123);
});

whenPresent("heart_scale, a fifth of it held out", "libsvm/heart_scale", async (path) => {
  const data = await loadData({ name: "libsvm", seed: 0, dir: path });
  expect(data.exampleShape).toEqual([13]);
  expect([data.train.count, data.test.count]).toEqual([216, 54]);
  const [train, held] = [histogram(data.train, 2), histogram(data.test, 2)];
  expect(train.map((count, k) => count + held[k]!)).toEqual([150, 120]);
});

whenPresent("iris, whose first line holds counts", "sklearn/iris.csv", async (path) => {
  const data = await loadData({ name: "csv", seed: 0, dir: path });
  expect([data.exampleShape[0], data.classes, data.train.count, data.test.count]).toEqual([4, 3, 120, 30]);
});

whenPresent(
  "the wide table of breast_cancer, whose first line is shorter",
  "sklearn/breast_cancer.csv",
  async (path) => {
    const data = await loadData({ name: "csv", seed: 0, dir: path });
    expect([data.exampleShape[0], data.classes, data.train.count + data.test.count]).toEqual([30, 2, 569]);
  },
);

whenPresent("digits, packed and without a header", "sklearn/digits.csv.gz", async (path) => {
  const data = await loadData({ name: "csv", seed: 0, dir: path });
  expect([data.exampleShape[0], data.classes, data.train.count + data.test.count]).toEqual([64, 10, 1797]);
});
