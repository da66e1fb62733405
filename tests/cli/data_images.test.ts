import { describe, expect, test } from "bun:test";
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { cifarSplit, loadCifar10 } from "../../cli/data/cifar10.ts";
import { idxSplit, parseIdx } from "../../cli/data/idx.ts";
import { readBytes } from "../../cli/data/read_bytes.ts";
import { loadData } from "../../cli/data/registry.ts";
import { readTar } from "../../cli/data/tar.ts";
import { idxBytes, messageOf, tarBytes, withDirectory } from "./data_support.ts";

const images = { path: "im", bytes: idxBytes([3, 2, 2], [0, 51, 102, 153, 204, 255, 0, 0, 1, 2, 3, 4]) };
const labels = { path: "la", bytes: idxBytes([3], [2, 0, 9]) };

describe("IDX", () => {
  test("images and labels come back as they were written, scaled to [0, 1]", () => {
    const { split, shape } = idxSplit(images, labels, 10);
    expect(shape).toEqual([2, 2]);
    expect([...split.labels]).toEqual([2, 0, 9]);
    expect(split.features.slice(0, 6)).toEqual(Float32Array.of(0, 0.2, 0.4, 0.6, 0.8, 1));
    expect(split.features.length).toBe(12);
  });

  test("a limit keeps the first images", () => {
    const { split } = idxSplit(images, labels, 10, 2);
    expect([split.count, split.labels.length, split.features.length]).toEqual([2, 2, 8]);
  });

  test("bytes that begin inside a larger buffer are read from their own beginning", () => {
    const larger = new Uint8Array(labels.bytes.length + 5);
    larger.set(labels.bytes, 5);
    expect([...parseIdx({ path: "x", bytes: larger.subarray(5) }, 1).data]).toEqual([2, 0, 9]);
  });

  const change = (bytes: Uint8Array, at: number, to: number): Uint8Array => {
    const copy = bytes.slice();
    copy[at] = to;
    return copy;
  };
  const malformed: readonly (readonly [string, Uint8Array, readonly string[]])[] = [
    ["an empty file", new Uint8Array(), ["0 bytes", "a header of 16 bytes is needed"]],
    ["a short header", images.bytes.subarray(0, 15), ["15 bytes", "a header of 16 bytes is needed"]],
    ["labels in place of images", idxBytes([9], Array(9).fill(1)), ["0x00000801", "0x00000803"]],
    ["another element type", change(images.bytes, 2, 0x0d), ["0x00000d03", "0x00000803"]],
    ["text", new TextEncoder().encode("<html>not found</html>"), ["0x3c68746d", "0x00000803"]],
    ["a dimension of zero", idxBytes([3, 0, 2], []), ["[3,0,2]", "at least 1"]],
    ["data cut short", images.bytes.subarray(0, 27), ["11 data bytes", "cut short", "12 bytes"]],
    ["bytes left over", Uint8Array.from([...images.bytes, 0]), ["13 data bytes", "too long", "12 bytes"]],
  ];
  test.each(malformed)("%s is refused", async (_, bytes, words) => {
    const message = await messageOf(() => idxSplit({ path: "/some/im", bytes }, labels, 10));
    for (const word of ["/some/im", ...words]) expect(message).toContain(word);
  });

  test("counts that differ are refused, naming both files", async () => {
    const two = { path: "two", bytes: idxBytes([2], [0, 1]) };
    const message = await messageOf(() => idxSplit(images, two, 10));
    for (const word of ['"im" has 3 images', '"two" has 2 labels']) expect(message).toContain(word);
  });

  test("a label out of range is refused, also beyond the limit", async () => {
    const message = await messageOf(() => idxSplit(images, labels, 9, 1));
    expect(message).toContain('"la": label 2 is 9, 0 to 8 is needed');
  });
});

describe("files of mnist and fashion-mnist", () => {
  const set: Readonly<Record<string, Uint8Array>> = {
    "train-images-idx3-ubyte": images.bytes,
    "train-labels-idx1-ubyte": labels.bytes,
    "t10k-images-idx3-ubyte": idxBytes([1, 2, 2], [5, 5, 5, 5]),
    "t10k-labels-idx1-ubyte": idxBytes([1], [4]),
  };

  test("are read packed, plain, and packed without the ending", async () => {
    await withDirectory(async (dir) => {
      const write = async (folder: string, ending: string, packed: boolean): Promise<string> => {
        await mkdir(join(dir, folder));
        for (const [name, bytes] of Object.entries(set)) {
          await writeFile(join(dir, folder, name + ending), packed ? gzipSync(bytes) : bytes);
        }
        return join(dir, folder);
      };
      const places = [await write("a", "", false), await write("b", ".gz", true), await write("c", "", true)];
      for (const place of places) {
        const data = await loadData({ name: "mnist", seed: 0, dir: place, trainLimit: 2 });
        expect([data.name, data.classes, data.train.count, data.test.count]).toEqual(["mnist", 10, 2, 1]);
        expect(data.exampleShape).toEqual([2, 2]);
        expect([...data.train.labels, ...data.test.labels]).toEqual([2, 0, 4]);
      }
    });
  });

  test("that are missing are all named", async () => {
    await withDirectory(async (dir) => {
      await writeFile(join(dir, "train-images-idx3-ubyte"), images.bytes);
      const message = await messageOf(() => loadData({ name: "fashion-mnist", seed: 0, dir }));
      for (const name of ["train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1", dir]) {
        expect(message).toContain(name);
      }
      expect(message).not.toContain("train-images");
    });
  });

  test("of different shapes are refused", async () => {
    await withDirectory(async (dir) => {
      for (const [name, bytes] of Object.entries(set)) await writeFile(join(dir, name), bytes);
      await writeFile(join(dir, "t10k-images-idx3-ubyte"), idxBytes([1, 2, 3], [1, 2, 3, 4, 5, 6]));
      const message = await messageOf(() => loadData({ name: "mnist", seed: 0, dir }));
      expect(message).toContain("training images are [2,2] and the test images [2,3]");
    });
  });

  test("that are damaged or unreadable are named", async () => {
    await withDirectory(async (dir) => {
      const packed = gzipSync(images.bytes);
      await writeFile(join(dir, "cut.gz"), packed.subarray(0, packed.length - 9));
      expect(await messageOf(() => readBytes(join(dir, "cut.gz")))).toContain("cut.gz");
      expect(await messageOf(() => readBytes(join(dir, "absent")))).toContain("absent");
      expect(await messageOf(() => readBytes(dir))).toContain(dir);
    });
  });
});

/** A record of CIFAR-10 whose planes are one colour each. */
function record(label: number, red: number, green: number, blue: number): Uint8Array {
  const bytes = new Uint8Array(3073);
  bytes[0] = label;
  bytes.fill(red, 1, 1025).fill(green, 1025, 2049).fill(blue, 2049);
  return bytes;
}

const cifarFiles: Readonly<Record<string, Uint8Array>> = Object.fromEntries([
  ...[1, 2, 3, 4, 5].map((n) => [
    `data_batch_${n}.bin`,
    Uint8Array.from([...record(n, n, 0, 255), ...record(0, 0, 0, 0)]),
  ]),
  ["test_batch.bin", record(9, 51, 102, 204)],
]);

describe("CIFAR-10", () => {
  test("is the same from a directory, from its folder and from the archive", async () => {
    await withDirectory(async (dir) => {
      await mkdir(join(dir, "outer", "cifar-10-batches-bin"), { recursive: true });
      await mkdir(join(dir, "packed"));
      const inFolder = Object.entries(cifarFiles).map(([name, bytes]) => [
        `cifar-10-batches-bin/${name}`,
        bytes,
      ]);
      for (const [name, bytes] of inFolder)
        await writeFile(join(dir, "outer", name as string), bytes as Uint8Array);
      const archive = tarBytes({
        "cifar-10-batches-bin/": new Uint8Array(),
        ...Object.fromEntries(inFolder),
      });
      await writeFile(join(dir, "packed", "cifar-10-binary.tar.gz"), gzipSync(archive));
      const places = [join(dir, "outer", "cifar-10-batches-bin"), join(dir, "outer"), join(dir, "packed")];
      const [first, ...others] = await Promise.all(
        places.map((place) => loadData({ name: "cifar10", seed: 0, dir: place })),
      );
      expect([...first!.train.labels]).toEqual([1, 0, 2, 0, 3, 0, 4, 0, 5, 0]);
      expect(first!.exampleShape).toEqual([3, 32, 32]);
      const { features } = first!.test;
      expect([features[0], features[1023], features[1024], features[3071]]).toEqual(
        [0.2, 0.2, 0.4, 0.8].map(Math.fround),
      );
      for (const other of others) expect(other).toEqual(first!);
    });
  });

  test("a limit crosses batches", () => {
    const batches = Object.entries(cifarFiles).map(([path, bytes]) => ({ path, bytes }));
    const split = cifarSplit(batches, 3);
    expect([...split.labels]).toEqual([1, 0, 2]);
    expect(split.features.length).toBe(3 * 3072);
    expect(split.features[2 * 3072]).toBe(Math.fround(2 / 255));
  });

  test("malformed batches are refused", async () => {
    const cut = { path: "cut.bin", bytes: new Uint8Array(3072) };
    expect(await messageOf(() => cifarSplit([cut]))).toContain('"cut.bin": it has 3072 bytes');
    const empty = { path: "empty.bin", bytes: new Uint8Array() };
    expect(await messageOf(() => cifarSplit([empty]))).toContain('"empty.bin": it has 0 bytes');
    const stray = { path: "s.bin", bytes: Uint8Array.from([...record(1, 0, 0, 0), ...record(10, 0, 0, 0)]) };
    expect(await messageOf(() => cifarSplit([stray]))).toContain("record 1 has label 10, 0 to 9 is needed");
  });

  test("what is missing is named", async () => {
    await withDirectory(async (dir) => {
      expect(await messageOf(() => loadCifar10(dir))).toContain("cifar-10-binary.tar.gz");
      expect(await messageOf(() => loadCifar10(join(dir, "absent")))).toContain("absent");
      await writeFile(join(dir, "test_batch.bin"), record(0, 0, 0, 0));
      expect(await messageOf(() => loadCifar10(dir))).toContain("data_batch_1.bin");
    });
    await withDirectory(async (dir) => {
      const { "data_batch_3.bin": _, ...five } = cifarFiles;
      await writeFile(join(dir, "cifar-10-binary.tar.gz"), tarBytes(five));
      expect(await messageOf(() => loadCifar10(dir))).toContain('it has no "data_batch_3.bin"');
    });
  });
});

describe("tar", () => {
  test("damage is refused and says where", async () => {
    const good = tarBytes({ a: Uint8Array.of(1, 2, 3), b: new Uint8Array(600).fill(7) });
    const files = readTar({ path: "t", bytes: good });
    expect([...files.keys()]).toEqual(["a", "b"]);
    expect([...files.get("a")!]).toEqual([1, 2, 3]);
    expect(files.get("b")!.length).toBe(600);
    const changed = good.slice();
    changed[1024 + 3] = 65;
    expect(await messageOf(() => readTar({ path: "t", bytes: changed }))).toContain(
      "no valid header at byte 1024",
    );
    const cut = good.subarray(0, 512 * 3 + 100);
    expect(await messageOf(() => readTar({ path: "t", bytes: cut }))).toContain(
      '100 bytes of "b", 600 bytes',
    );
    expect(await messageOf(() => readTar({ path: "t", bytes: new Uint8Array(1024) }))).toContain("no files");
  });
});
