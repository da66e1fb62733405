import { describe, expect, test } from "bun:test";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { tensor, zeros } from "../../core/create.ts";
import { bytesPerElement } from "../../core/dtype.ts";
import { FormatError, TreeError } from "../../core/errors.ts";
import { load, save } from "../../core/io.ts";
import { decode, decodeInPlace, encode, encodeParts } from "../../core/safetensors.ts";
import { flatten, leaves, paths } from "../../core/tree.ts";
import { readable, type Value } from "../../core/value.ts";
import { trees } from "../support/arbitrary_tree.ts";
import { prop } from "../support/prop.ts";
import { assertSameBits } from "../support/tolerance.ts";

const metadata = fc.dictionary(fc.string({ maxLength: 5 }), fc.string({ maxLength: 5 }), {
  maxKeys: 3,
  noNullPrototype: true,
});

/** The same structure and, leaf by leaf, the same bits, NaN payloads included. */
function assertSameTree(actual: unknown, expected: unknown): void {
  expect(flatten(actual)[1]).toEqual(flatten(expected)[1]);
  const [xs, ys] = [leaves(actual), leaves(expected)];
  ys.forEach((y, i) => {
    assertSameBits(xs[i]!, y, paths(expected)[i]!);
    expect(new Uint8Array(xs[i]!.dataSync().buffer)).toEqual(new Uint8Array(y.dataSync().buffer));
  });
}

prop("decode gives back what encode was given", trees, metadata, (tree, words) => {
  const bytes = encode(tree, words);
  const decoded = decode(bytes);
  assertSameTree(decoded.tree, tree);
  expect({ ...decoded.metadata }).toEqual(words);
  expect(encode(tree, words)).toEqual(bytes);
});

prop("bytes may lie anywhere in a larger buffer", trees, fc.nat(9), (tree, offset) => {
  const bytes = encode(tree);
  const larger = new Uint8Array(bytes.length + offset + 5);
  larger.set(bytes, offset);
  const place = larger.subarray(offset, offset + bytes.length);
  const { tree: copied } = decode(place);
  assertSameTree(decodeInPlace(place).tree, tree);
  // What is not told that it may keep the bytes does not.
  larger.fill(255);
  assertSameTree(copied, tree);
});

prop("parts put together are the bytes, and the elements are not copied for them", trees, (tree) => {
  const parts = encodeParts(tree);
  expect(new Uint8Array(Buffer.concat(parts))).toEqual(encode(tree));
  const { buffer } = readable(leaves(tree)[0] ?? zeros([1]));
  expect(leaves(tree).length === 0 || parts.some((part) => part.buffer === buffer)).toBe(true);
});

prop("a file cut anywhere is refused", trees, fc.nat(), (tree, at) => {
  const bytes = encode(tree);
  const cut = at % bytes.length;
  expect(() => decode(bytes.subarray(0, cut))).toThrow(FormatError);
});

prop("a file with bytes too many is refused", trees, fc.integer({ min: 1, max: 9 }), (tree, more) => {
  const bytes = encode(tree);
  const longer = new Uint8Array(bytes.length + more);
  longer.set(bytes);
  expect(() => decode(longer)).toThrow(FormatError);
});

prop(
  "a changed header is refused or still gives whole tensors",
  trees,
  fc.nat(),
  fc.integer({ min: 1, max: 255 }),
  (tree, place, change) => {
    const bytes = encode(tree);
    const headerEnd = 8 + Number(new DataView(bytes.buffer).getBigUint64(0, true));
    bytes[place % headerEnd]! ^= change;
    let decoded: unknown;
    try {
      decoded = decode(bytes).tree;
    } catch (error) {
      expect(error).toBeInstanceOf(FormatError);
      return;
    }
    // A name or a word of the metadata changed: the tensors are still whole and within the file.
    const total = leaves(decoded).reduce((sum, x) => sum + x.size * bytesPerElement(x.dtype), 0);
    expect(total).toBeLessThanOrEqual(bytes.length - headerEnd);
    for (const x of leaves(decoded)) expect(x.dataSync().length).toBe(x.shape.reduce((p, n) => p * n, 1));
  },
);

/** A file with the given header object and body. */
function file(header: unknown, body = 0): Uint8Array {
  const text = new TextEncoder().encode(typeof header === "string" ? header : JSON.stringify(header));
  const bytes = new Uint8Array(8 + text.length + body);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(text.length), true);
  bytes.set(text, 8);
  return bytes;
}

describe("malformed files", () => {
  const whole = { dtype: "F32", shape: [2], data_offsets: [0, 8] };
  const tree = (def: unknown, names: unknown): object => ({
    __metadata__: { "cotangent.tree": JSON.stringify({ def, names }) },
    x: whole,
  });
  const cases: readonly [name: string, bytes: Uint8Array][] = [
    ["nothing", new Uint8Array(0)],
    ["a length without a header", file("").subarray(0, 7)],
    ["a header that is not JSON", file("{")],
    [
      "a header that is not UTF-8",
      file({ __metadata__: { a: "?" } }).map((byte) => (byte === 63 ? 255 : byte)),
    ],
    ["a list for a header", file([])],
    ["null for a header", file("null")],
    ["a number for a header", file("3")],
    ["null for an entry", file({ x: null })],
    ["a number for an entry", file({ x: 3 })],
    ["an entry without a shape", file({ x: { dtype: "F32", data_offsets: [0, 4] } }, 4)],
    ["an unknown type", file({ x: { ...whole, dtype: "BF16" } }, 8)],
    ["an inherited name for a type", file({ x: { ...whole, dtype: "toString" } }, 8)],
    ["no type", file({ x: { shape: [2], data_offsets: [0, 8] } }, 8)],
    ["a negative size", file({ x: { ...whole, shape: [-2] } }, 8)],
    ["two negative sizes", file({ x: { ...whole, shape: [-1, -2] } }, 8)],
    ["a fraction of a size", file({ x: { ...whole, shape: [0.5, 4] } }, 8)],
    ["a text for a size", file({ x: { ...whole, shape: ["2"] } }, 8)],
    ["too large a product of sizes", file({ x: { ...whole, shape: [2 ** 52, 2 ** 52] } }, 8)],
    ["one offset", file({ x: { ...whole, data_offsets: [8] } }, 8)],
    ["three offsets", file({ x: { ...whole, data_offsets: [0, 8, 8] } }, 8)],
    ["offsets in the wrong order", file({ x: { ...whole, data_offsets: [8, 0] } }, 8)],
    ["offsets beyond the end", file({ x: { ...whole, data_offsets: [4, 12] } }, 8)],
    ["a negative offset", file({ x: { ...whole, data_offsets: [-8, 0] } }, 8)],
    ["a gap between tensors", file({ x: whole, y: { ...whole, data_offsets: [12, 20] } }, 20)],
    ["overlapping tensors", file({ x: whole, y: { ...whole, data_offsets: [4, 12] } }, 12)],
    ["bytes that belong to no tensor", file({ x: whole }, 16)],
    ["metadata that is a list", file({ __metadata__: [], x: whole }, 8)],
    ["metadata that is not text", file({ __metadata__: { a: 1 }, x: whole }, 8)],
    ["metadata that is null", file({ __metadata__: null, x: whole }, 8)],
    ["a structure that is not JSON", file({ __metadata__: { "cotangent.tree": "{" }, x: whole }, 8)],
    ["a structure that is null", file({ __metadata__: { "cotangent.tree": "null" }, x: whole }, 8)],
    ["a structure of an unknown kind", file(tree({ k: "other" }, ["x"]), 8)],
    ["a structure without items", file(tree({ k: "list" }, ["x"]), 8)],
    [
      "a structure with other keys than items",
      file(tree({ k: "record", keys: ["a", "b"], items: [{ k: "leaf" }] }, ["x"]), 8),
    ],
    [
      "a structure with more leaves",
      file(tree({ k: "list", items: [{ k: "leaf" }, { k: "leaf" }] }, ["x"]), 8),
    ],
    ["a structure that names no list", file(tree({ k: "leaf" }, "x"), 8)],
    ["a structure that names a missing tensor", file(tree({ k: "leaf" }, ["y"]), 8)],
    [
      "a structure nested too deep",
      file(
        {
          __metadata__: {
            "cotangent.tree": `{"def":${'{"k":"list","items":['.repeat(1e5)}${"]}".repeat(1e5)},"names":["x"]}`,
          },
          x: whole,
        },
        8,
      ),
    ],
    [
      "a bool that is 2",
      file({ x: { dtype: "BOOL", shape: [1], data_offsets: [0, 1] } }, 1).map((b, i, all) =>
        i === all.length - 1 ? 2 : b,
      ),
    ],
    ["a structure that forgets a tensor", file(tree({ k: "list", items: [] }, []), 8)],
  ];
  for (const [name, bytes] of cases) {
    test(`${name} is refused`, () => {
      expect(() => decode(bytes)).toThrow(FormatError);
    });
  }

  test("a length of the header beyond any file is refused", () => {
    const bytes = file({});
    bytes.fill(0xff, 0, 8);
    expect(() => decode(bytes)).toThrow(FormatError);
  });
});

test("a file of another program is a record of names", () => {
  const header = {
    __metadata__: { format: "pt" },
    "layer.weight": { dtype: "F32", shape: [1, 2], data_offsets: [0, 8] },
    mask: { dtype: "BOOL", shape: [2], data_offsets: [8, 10] },
  };
  const bytes = file(header, 10);
  new DataView(bytes.buffer).setFloat32(bytes.length - 10, 1.5, true);
  bytes[bytes.length - 1] = 1;
  const { tree, metadata: words } = decode<Record<string, Value>>(bytes);
  expect(words).toEqual({ format: "pt" });
  expect(tree["layer.weight"]!.toArray()).toEqual([[1.5, 0]]);
  expect(tree["mask"]!.toArray()).toEqual([0, 1]);
});

test("other programs find the leaves by name: header, alignment, offsets", () => {
  const bytes = encode({
    b: tensor([1], { dtype: "float64" }),
    a: [tensor([true, false], { dtype: "bool" })],
  });
  const length = Number(new DataView(bytes.buffer).getBigUint64(0, true));
  expect(length % 8).toBe(0);
  const { __metadata__: _, ...entries } = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + length)));
  expect(entries).toEqual({
    b: { dtype: "F64", shape: [1], data_offsets: [0, 8] },
    "a.0": { dtype: "BOOL", shape: [2], data_offsets: [8, 10] },
  });
  expect(bytes.length).toBe(8 + length + 10);
});

test("what is not a tree of tensors is refused before anything is written", () => {
  expect(() => encode({ w: 3 })).toThrow(TreeError);
});

test("save and load, whole or not at all", async () => {
  const folder = mkdtempSync(join(tmpdir(), "cotangent-io-"));
  try {
    const path = join(folder, "x.safetensors");
    const first = { w: tensor([1, 2]), empty: [], none: zeros([0, 3]) };
    await save(path, first, { step: "1" });
    assertSameTree((await load(path)).tree, first);
    expect((await load(path)).metadata).toEqual({ step: "1" });
    await save(path, [tensor(7)]);
    assertSameTree((await load(path)).tree, [tensor(7)]);
    expect(readdirSync(folder)).toEqual(["x.safetensors"]);
    await expect(save(path, { w: 3 })).rejects.toThrow(TreeError);
    assertSameTree((await load(path)).tree, [tensor(7)]);
    expect(readdirSync(folder)).toEqual(["x.safetensors"]);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
