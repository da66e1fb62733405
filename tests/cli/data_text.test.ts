/** Text as numbers, the plays that the program writes, and the colours that it gives its shapes. */
import { describe, expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { glyphs } from "../../cli/data/glyphs.ts";
import { plays } from "../../cli/data/plays.ts";
import { loadTinyShakespeare, type TextSet, textSet } from "../../cli/data/text.ts";
import { tinted } from "../../cli/data/tinted.ts";
import { messageOf, withDirectory } from "./data_support.ts";

/** The text that numbers stand for. */
function written({ vocabulary, train, validation }: TextSet): string {
  return [...train, ...validation].map((number) => vocabulary[number]).join("");
}

describe("textSet", () => {
  test("numbers the characters in the order of their code points and parts the text nine to one", () => {
    const text = "the quick brown fox: 🦊, naïve!";
    const set = textSet("fox", { path: "fox.txt", text }, "none");
    const points = set.vocabulary.map((character) => character.codePointAt(0)!);
    expect(points).toEqual([...points].sort((a, b) => a - b));
    expect(new Set(set.vocabulary).size).toBe(set.vocabulary.length);
    expect(written(set)).toBe(text);
    // 30 characters: the fox is one.
    expect([set.train.length, set.validation.length]).toEqual([27, 3]);
  });

  test("refuses a text of less than ten characters", async () => {
    const message = await messageOf(() => textSet("short", { path: "short.txt", text: "abc" }, ""));
    expect(message).toContain('"short.txt"');
    expect(message).toContain("3 characters");
  });
});

describe("loadTinyShakespeare", () => {
  test("reads input.txt, and names it where it is missing", () =>
    withDirectory(async (dir) => {
      const message = await messageOf(() => loadTinyShakespeare(dir));
      expect(message).toContain(join(dir, "input.txt"));
      await writeFile(join(dir, "input.txt"), "First Citizen:\nBefore we proceed");
      expect(written(await loadTinyShakespeare(dir))).toBe("First Citizen:\nBefore we proceed");
    }));

  // The counts are from the description of the data set.
  const published = resolve(
    import.meta.dir,
    "../..",
    process.env["COTANGENT_TEST_DATA"] ?? "../shared/data",
    "tinyshakespeare",
  );
  const present = existsSync(published);
  if (!present) console.log(`Skipped the published text: ${published} is not there`);
  test.skipIf(!present)("the published text has its published counts", async () => {
    const { train, validation, vocabulary } = await loadTinyShakespeare(published);
    expect([train.length, validation.length, vocabulary.length]).toEqual([1_003_854, 111_540, 65]);
  });
});

describe("plays", () => {
  const text = written(plays({ seed: 3, length: 20_000 }));

  test("follow from the seed alone, and are at least as long as asked", () => {
    expect(written(plays({ seed: 3, length: 20_000 }))).toBe(text);
    expect(written(plays({ seed: 4, length: 20_000 }))).not.toBe(text);
    expect(text.length).toBeGreaterThanOrEqual(20_000);
    expect(text.length).toBeLessThan(21_000);
  });

  test("are speeches: a name, then sentences that begin with a capital and end with a mark", () => {
    const speeches = text.trimEnd().split("\n\n");
    expect(speeches.length).toBeGreaterThan(100);
    for (const speech of speeches) expect(speech).toMatch(/^[A-Z]+:\n([A-Z][a-z ,;]+[.!?]( |$))+$/);
  });

  test("verbs agree: a word after several of something never ends as after one", () => {
    // Plurals are the only words in -es after a determiner; their verb has no s.
    const plural = [...text.matchAll(/\b[Ss]ome (?:[a-z]+y )?[a-z]+es ([a-z]+) /g)].map(([, verb]) => verb!);
    const singular = [...text.matchAll(/\b[Tt]his (?:[a-z]+y )?([a-z]+) ([a-z]+s) /g)].map(
      ([, , verb]) => verb!,
    );
    expect(plural.length).toBeGreaterThan(20);
    const verbs = new Set(plural);
    const shared = singular.filter((verb) => verbs.has(verb.slice(0, -1)));
    expect(shared.length).toBeGreaterThan(20);
    for (const verb of plural) expect(singular).not.toContain(verb);
  });

  test("refuses what is no whole number", async () => {
    expect(await messageOf(() => plays({ seed: 0.5 }))).toContain("seed 0.5");
    expect(await messageOf(() => plays({ seed: 0, length: 3 }))).toContain("3 characters");
  });
});

describe("tinted", () => {
  const options = { seed: 2, trainCount: 20, testCount: 10 };
  const set = tinted(options);
  const plane = 32 * 32;

  test("has the classes of glyphs in colour images with values in [0, 1], and follows from the seed", () => {
    const grey = glyphs(options);
    expect(set.exampleShape).toEqual([3, 32, 32]);
    expect(set.train.labels).toEqual(grey.train.labels);
    expect(set.train.features.length).toBe(20 * 3 * plane);
    expect(set.train.features.every((value) => value >= 0 && value <= 1)).toBe(true);
    expect(tinted(options).test.features).toEqual(set.test.features);
    expect(tinted({ ...options, seed: 3 }).test.features).not.toEqual(set.test.features);
  });

  test("every image is one shape in two colours: its planes are affine functions of each other", () => {
    for (let i = 0; i < 20; i++) {
      const [a, b] = [0, 1].map((c) =>
        set.train.features.subarray((3 * i + c) * plane, (3 * i + c + 1) * plane),
      ) as [Float32Array, Float32Array];
      const mean = (x: Float32Array): number => x.reduce((s, v) => s + v, 0) / plane;
      const [ma, mb] = [mean(a), mean(b)];
      let [aa, bb, ab] = [0, 0, 0];
      a.forEach((value, at) => {
        aa += (value - ma) ** 2;
        bb += (b[at]! - mb) ** 2;
        ab += (value - ma) * (b[at]! - mb);
      });
      // Levels are rounded to 1/255: a plane of nearly one level says little.
      if (Math.min(aa, bb) / plane < 1e-3) continue;
      expect(Math.abs(ab) / Math.sqrt(aa * bb)).toBeGreaterThan(0.99);
    }
  });
});
