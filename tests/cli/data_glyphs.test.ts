import { describe, expect, test } from "bun:test";
import { createHash } from "node:crypto";
import { glyphs } from "../../cli/data/glyphs.ts";
import { messageOf } from "./data_support.ts";

/** Pixels as the whole grey levels they stand for, so that the hash does not depend on byte order. */
function greyLevels(features: Float32Array): Uint8Array {
  return Uint8Array.from(features, (value) => Math.round(value * 255));
}

describe("glyphs", () => {
  const drawn = glyphs({ seed: 7, trainCount: 400, testCount: 100 });

  test("the same seed gives the same bytes, another seed or split gives others", () => {
    const again = glyphs({ seed: 7, trainCount: 400, testCount: 100 });
    expect(again.train.features).toEqual(drawn.train.features);
    expect(again.test.features).toEqual(drawn.test.features);
    const other = glyphs({ seed: 8, trainCount: 400, testCount: 100 });
    expect(other.train.features).not.toEqual(drawn.train.features);
    expect(drawn.test.features).not.toEqual(drawn.train.features.slice(0, drawn.test.features.length));
  });

  test("an image does not depend on how many are drawn", () => {
    const few = glyphs({ seed: 7, trainCount: 30, testCount: 10 });
    expect(few.train.features).toEqual(drawn.train.features.slice(0, 30 * 784));
  });

  test("the first 100 images of seed 1 are the pinned ones", () => {
    const { train } = glyphs({ seed: 1, trainCount: 100, testCount: 1 });
    const hash = createHash("sha256").update(greyLevels(train.features)).digest("hex");
    expect(hash).toBe("c5dea47305727540ccbddfb28ed2a3df7112d9cb5504dfceb60fc22315637379");
  });

  test("values are whole grey levels in [0, 1] and classes are balanced", () => {
    for (const { features, labels, count } of [drawn.train, drawn.test]) {
      expect(features.length).toBe(count * 28 * 28);
      expect(features.every((value) => value >= 0 && value <= 1)).toBe(true);
      expect(features.every((value) => Math.fround(Math.round(value * 255) / 255) === value)).toBe(true);
      const counts = Array.from({ length: 10 }, () => 0);
      for (const label of labels) counts[label] = counts[label]! + 1;
      expect(counts).toEqual(counts.map(() => count / 10));
    }
  });

  test("no two images are the same", () => {
    const seen = new Set<string>();
    for (let i = 0; i < drawn.train.count; i++) {
      seen.add(drawn.train.features.subarray(i * 784, (i + 1) * 784).join());
    }
    expect(seen.size).toBe(drawn.train.count);
  });

  test("the default size is 6,000 and 2,000", () => {
    const { train, test: held, exampleShape, classes } = glyphs({ seed: 0 });
    expect([train.count, held.count, classes]).toEqual([6000, 2000, 10]);
    expect(exampleShape).toEqual([28, 28]);
  });

  test("a broken seed or count is refused by name", async () => {
    expect(await messageOf(() => glyphs({ seed: 0.5 }))).toContain("the seed is 0.5");
    expect(await messageOf(() => glyphs({ seed: 0, trainCount: 0 }))).toContain("training images is 0");
    expect(await messageOf(() => glyphs({ seed: 0, testCount: -1 }))).toContain("test images is -1");
  });
});
