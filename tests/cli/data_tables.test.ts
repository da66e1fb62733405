import { describe, expect, test } from "bun:test";
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import type { CsvOptions } from "../../cli/data/csv.ts";
import { csvDataset } from "../../cli/data/csv.ts";
import type { Dataset } from "../../cli/data/dataset.ts";
import { findPair } from "../../cli/data/find_pair.ts";
import { holdOut } from "../../cli/data/hold_out.ts";
import { libsvmDataset } from "../../cli/data/libsvm.ts";
import { loadData } from "../../cli/data/registry.ts";
import { messageOf, withDirectory } from "./data_support.ts";

const named = (text: string, path = "rows"): { readonly path: string; readonly text: string } => ({
  path,
  text,
});

describe("LIBSVM", () => {
  const read = (train: string, held?: string, featureCount?: number): Dataset =>
    libsvmDataset(named(train), held === undefined ? undefined : named(held, "held"), {
      seed: 0,
      featureCount,
    });

  test("rows become dense, absent features zero, and -1 and +1 become 0 and 1", () => {
    const data = read("+1 1:0.5 3:-2e1\n-1 2:.25\n", "-1 1:1\n");
    expect(data.exampleShape).toEqual([3]);
    expect([...data.train.features]).toEqual([0.5, 0, -20, 0, 0.25, 0]);
    expect([...data.train.labels]).toEqual([1, 0]);
    expect([...data.test.features]).toEqual([1, 0, 0]);
    expect([...data.test.labels]).toEqual([0]);
    expect(data.classes).toBe(2);
  });

  test("whole labels become classes in ascending order", () => {
    const data = read("10 1:1\n2 1:1\n-3 1:1\n10 1:1\n", "2 1:1\n");
    expect([...data.train.labels]).toEqual([2, 1, 0, 2]);
    expect([...data.test.labels]).toEqual([1]);
  });

  test("both splits are as wide as the wider file or as asked", () => {
    expect(read("1 1:1\n2 4:1\n", "1 2:1\n").exampleShape).toEqual([4]);
    expect(read("1 1:1\n2 2:1\n", "1 5:1\n").train.features.length).toBe(10);
    expect(read("1 1:1\n2 2:1\n", "1 1:1\n", 7).test.features.length).toBe(7);
  });

  test("rows without features, comments, tabs, other line ends and blank lines at the end are fine", () => {
    const data = read("# made by hand\r\n1\r\n2\t1:3 # three\r\n1 \r\n\r\n\n", "2\n");
    expect([...data.train.labels]).toEqual([0, 1, 0]);
    expect([...data.train.features]).toEqual([0, 3, 0]);
  });

  const malformed: readonly (readonly [string, string, string])[] = [
    ["a blank line inside", "1 1:1\n\n2 1:1\n", "line 2 is blank"],
    ["a label that is a word", "1 1:1\ncat 1:1\n", 'line 2 has label "cat"'],
    ["a label that is not whole", "0.5 1:1\n", 'line 1 has label "0.5"'],
    ["a pair without colon", "1 1:1\n2 3\n", 'line 2 has "3"'],
    ["a value that is no number", "1 1:one\n", 'line 1 has "1:one"'],
    ["a value that is not finite", "1 1:nan\n", 'line 1 has "1:nan"'],
    ["an index that is no number", "1 qid:3\n", 'line 1 has "qid:3"'],
    ["an index of zero", "1 0:1\n", "line 1 has index 0 after 0"],
    ["an index twice", "1 2:1 2:1\n", "line 1 has index 2 after 2"],
    ["an index that falls", "1 1:1\n1 3:1 2:1\n", "line 2 has index 2 after 3"],
    ["no rows", "\n\n", "it has no rows"],
    ["only comments", "# nothing\n", "it has no rows"],
    ["one class", "1 1:1\n1 1:2\n", "at least 2 classes"],
    ["a width beyond memory", "1 1:1\n2 999999999:1\n", "stored densely"],
  ];
  test.each(malformed)("%s is refused with its line", async (_, text, words) => {
    const message = await messageOf(() => read(text, "1 1:1\n"));
    expect(message).toContain('"rows"');
    expect(message).toContain(words);
  });

  test("a test label that training never saw, and an index above the asked width, are refused", async () => {
    const unseen = await messageOf(() => read("1 1:1\n2 1:1\n", "1 1:1\n3 1:1\n"));
    expect(unseen).toContain('"held": line 2 has label 3, one of the training labels [1, 2]');
    expect(await messageOf(() => read("1 1:1\n2 4:1\n", "1 1:1\n", 3))).toContain("index 4 is used");
    expect(await messageOf(() => read("1\n2\n", "1\n"))).toContain("at least 1 features are needed");
  });
});

describe("CSV", () => {
  const read = (train: string, held?: string, options: Partial<CsvOptions> = {}): Dataset =>
    csvDataset(named(train), held === undefined ? undefined : named(held, "held"), { seed: 0, ...options });

  test("features are standardised by the training rows alone, a constant one becomes 0", () => {
    // Column 1: mean 3, deviation 2. Column 2 is constant.
    const data = read("1,7,0\n5,7,1\n1,7,1\n5,7,0\n", "9,8,1\n");
    expect([...data.train.features]).toEqual([-1, 0, 1, 0, -1, 0, 1, 0]);
    expect([...data.test.features]).toEqual([3, 1]);
    expect(data.notes).toContain("mean 0 and deviation 1 over the training rows");
  });

  test("words become classes by their characters, whole numbers by their size", () => {
    const words = read('1,dog\n2,cat\n3,"ant"\n', "1,cat\n");
    expect([...words.train.labels, ...words.test.labels]).toEqual([2, 1, 0, 1]);
    const numbers = read("1,10\n2,9\n3,-1\n", "1,10\n");
    expect([...numbers.train.labels, ...numbers.test.labels]).toEqual([2, 1, 0, 2]);
  });

  test("a header is seen with word labels, number labels, and counts in place of names", () => {
    for (const header of ["height,kind", '"height","kind"', "150,4,setosa,versicolor"]) {
      expect(read(`${header}\n1,0\n2,1\n`, "3,0\n").train.count).toBe(2);
    }
    expect(read("height,kind\n1,cat\n2,dog\n", "3,cat\n").train.count).toBe(2);
    expect(read("1,kind\n1,0\n2,1\n", "3,0\n").classes).toBe(2);
    expect(read("1,cat\n2,dog\n", "3,cat\n").train.count).toBe(2);
    expect(read("\uFEFFa,b\r\n1,0\r\n2,1\r\n", "3,0\r\n").train.count).toBe(2);
  });

  test("the label column is the last, or the one asked for by name or position", () => {
    const text = "kind,size\n0,4\n1,8\n";
    for (const labelColumn of ["kind", 1, "1"]) {
      const data = read(text, "kind,size\n1,4\n", { labelColumn });
      expect([...data.train.labels, ...data.test.labels]).toEqual([0, 1, 1]);
      expect([...data.train.features]).toEqual([-1, 1]);
    }
    expect(read(text, text).classes).toBe(2);
    expect([...read("cat,1\ndog,3\n", "dog,1\n", { labelColumn: 1 }).train.labels]).toEqual([0, 1]);
  });

  const malformed: readonly (readonly [string, string, string])[] = [
    ["another number of columns", "a,b,c\n1,2,0\n1,0\n", "line 3 has 2 columns, 3 as on line 2"],
    ["a word for a number", "a,b\n1,0\n2,1\nx,1\n", 'line 4, column 1 is "x", a number'],
    ["an empty field", "1,2,0\n1,,1\n", 'line 2, column 2 is "", a number'],
    ["a missing label", "1,2,0\n1,2,\n", 'line 2, column 3 is "", a class'],
    ["a number that is not finite", "1,0\nInfinity,1\n", 'line 2, column 1 is "Infinity"'],
    ["a label that is not whole", "1,0\n1,0.5\n", 'line 2, column 2 is "0.5", a class'],
    ["a blank line inside", "1,0\n\n2,1\n", "line 2 has 1 columns"],
    ["one column", "1\n2\n", "line 1 has 1 column"],
    ["no rows", " \n", "it has no rows"],
    ["one class", "1,cat\n2,cat\n", 'all rows have label "cat"'],
  ];
  test.each(malformed)("%s is refused with its place", async (_, text, words) => {
    const message = await messageOf(() => read(text, "1,0\n"));
    expect(message).toContain('"rows"');
    expect(message).toContain(words);
  });

  test("a label column that is not there and files of different widths are refused", async () => {
    expect(await messageOf(() => read("a,b\n1,0\n2,1\n", "1,0\n", { labelColumn: "c" }))).toContain(
      'label column "c" was asked for and its header is a, b',
    );
    expect(await messageOf(() => read("1,0\n2,1\n", "1,0\n", { labelColumn: 3 }))).toContain(
      "no header line",
    );
    expect(await messageOf(() => read("1,0\n2,1\n", "1,2,0\n"))).toContain("2 features, 1 as in");
  });
});

describe("without a test file", () => {
  const text = Array.from({ length: 50 }, (_, i) => `${i % 2} 1:${i}`).join("\n");
  const read = (seed: number): Dataset => libsvmDataset(named(text), undefined, { seed });

  test("a fifth of the rows is the test split, each row is in one, and the seed decides", () => {
    const data = read(3);
    expect([data.train.count, data.test.count]).toEqual([40, 10]);
    const rows = [...data.train.features, ...data.test.features].sort((a, b) => a - b);
    expect(rows).toEqual(Array.from({ length: 50 }, (_, i) => i));
    for (const split of [data.train, data.test]) {
      expect([...split.labels]).toEqual([...split.features].map((value) => value % 2));
    }
    expect(read(3)).toEqual(data);
    expect(read(4).test.features).not.toEqual(data.test.features);
    expect(data.notes).toContain("no test file");
  });

  test("one row cannot be parted", async () => {
    expect(await messageOf(() => holdOut(1, 0))).toContain("there is 1 row");
    expect(holdOut(2, 0).test.length).toBe(1);
  });
});

describe("finding files", () => {
  const within = async (names: readonly string[], use: (dir: string) => Promise<void>): Promise<void> =>
    withDirectory(async (dir) => {
      for (const name of names) await writeFile(join(dir, name), "");
      await use(dir);
    });

  const pairs: readonly (readonly [readonly string[], string, string | undefined])[] = [
    [["a9a.gz", "a9a.t.gz", "README.md", "a9a.REPO-LICENSE", "LICENSE"], "a9a.gz", "a9a.t.gz"],
    [["train.csv", "test.csv"], "train.csv", "test.csv"],
    [["mushroom.txt.train.gz", "mushroom.txt.test.gz"], "mushroom.txt.train.gz", "mushroom.txt.test.gz"],
    [["news_train.svm", "news_test.svm"], "news_train.svm", "news_test.svm"],
    [["iris.csv", ".hidden"], "iris.csv", undefined],
    [["iris.csv", "iris.csv.gz"], "iris.csv", undefined],
  ];
  test.each(pairs)("%p", async (names, train, held) => {
    await within(names, async (dir) => {
      const found = await findPair(dir);
      expect(found).toEqual({
        train: join(dir, train),
        ...(held === undefined ? {} : { test: join(dir, held) }),
      });
    });
  });

  test("several data sets need a choice, and the message lists them", async () => {
    await within(["a9a", "a9a.t", "heart_scale"], async (dir) => {
      expect(await messageOf(() => findPair(dir))).toContain("it holds a9a, heart_scale");
      expect(await findPair(dir, "a9a")).toEqual({ train: join(dir, "a9a"), test: join(dir, "a9a.t") });
      expect(await findPair(dir, "heart_scale")).toEqual({ train: join(dir, "heart_scale") });
      expect(await messageOf(() => findPair(dir, "w8a"))).toContain(
        '"w8a" was asked for and it holds a9a, heart_scale',
      );
    });
  });

  test("a path to the training file finds its test file", async () => {
    await within(["a9a.gz", "a9a.t", "other"], async (dir) => {
      const found = await findPair(join(dir, "a9a.gz"));
      expect(found).toEqual({ train: join(dir, "a9a.gz"), test: join(dir, "a9a.t") });
    });
  });

  test("an empty directory and an absent path are refused", async () => {
    await within(["README.md"], async (dir) => {
      await mkdir(join(dir, "folder"));
      expect(await messageOf(() => findPair(dir))).toContain("no data file");
      expect(await messageOf(() => findPair(join(dir, "absent")))).toContain("absent");
    });
  });
});

describe("loadData", () => {
  test("reads tables from disk, packed or not, with limits", async () => {
    await withDirectory(async (dir) => {
      await writeFile(join(dir, "small"), gzipSync("1 1:1\n2 2:1\n1 1:2\n"));
      await writeFile(join(dir, "small.t"), "2 1:1\n1 1:4\n");
      const data = await loadData({
        name: "libsvm",
        dir,
        seed: 0,
        trainLimit: 2,
        testLimit: 1,
        featureCount: 3,
      });
      expect([...data.train.features, ...data.test.features]).toEqual([1, 0, 0, 0, 1, 0, 1, 0, 0]);
      await writeFile(join(dir, "table.csv"), "kind,x\ncat,1\ndog,2\ncat,3\n");
      const table = await loadData({
        name: "csv",
        dir: join(dir, "table.csv"),
        seed: 0,
        labelColumn: "kind",
      });
      expect([table.name, table.classes, table.train.count + table.test.count]).toEqual(["csv", 2, 3]);
    });
  });

  test("text that is not UTF-8 is refused by name", async () => {
    await withDirectory(async (dir) => {
      await writeFile(join(dir, "rows"), Uint8Array.of(0x31, 0xff, 0xfe));
      expect(await messageOf(() => loadData({ name: "csv", dir, seed: 0 }))).toContain("UTF-8 is needed");
    });
  });

  test("a place is needed for tables, a known name for all, a whole limit of at least 1", async () => {
    expect(await messageOf(() => loadData({ name: "csv", seed: 0 }))).toContain("--data-dir");
    expect(await messageOf(() => loadData({ name: "iris" as "csv", seed: 0 }))).toContain(
      "glyphs, fashion-mnist",
    );
    for (const trainLimit of [0, -1, 1.5, Number.NaN]) {
      expect(await messageOf(() => loadData({ name: "glyphs", seed: 0, trainLimit }))).toContain(
        `${trainLimit}`,
      );
    }
  });

  test("limits keep the first glyphs", async () => {
    const data = await loadData({ name: "glyphs", seed: 0, trainLimit: 20, testLimit: 10 });
    expect([data.train.count, data.train.features.length, data.test.labels.length]).toEqual([
      20,
      20 * 784,
      10,
    ]);
  });
});
