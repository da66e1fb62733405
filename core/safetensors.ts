/**
 * Trees of tensors as bytes, in the safetensors format: a length, a JSON header, the elements. Other programs read the
 * leaves by path (`layers.0.w`); the structure itself is kept in the metadata, so that any tree comes back as it was.
 */
import { Aval } from "./aval.ts";
import { arrayOn, bytesPerElement, type DType } from "./dtype.ts";
import { FormatError } from "./errors.ts";
import { sizeOf } from "./shape.ts";
import { flatten, paths, type TreeDef, unflatten } from "./tree.ts";
import { readable, Tensor } from "./value.ts";

const toFormat: Readonly<Record<DType, string>> = {
  float32: "F32",
  float64: "F64",
  int32: "I32",
  uint32: "U32",
  bool: "BOOL",
  float16: "F16",
};
const fromFormat: ReadonlyMap<unknown, DType> = new Map(
  Object.entries(toFormat).map(([dtype, name]) => [name, dtype as DType]),
);
const metadataKey = "__metadata__";
const structureKey = "cotangent.tree";

interface Entry {
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly data_offsets: readonly [number, number];
}

/**
 * The bytes of a tree of tensors in safetensors format.
 *
 * Shapes: any tree; leaves are named by their path, list positions as numbers; where two paths give one name, the
 * later one gets a number (`~2`).
 * Units: none.
 * Determinism: the same bytes for the same tree and metadata.
 *
 * @param tree tensors outside any transform
 * @param metadata text to keep with the tree
 * @throws {TreeError} if something inside is not a tensor
 * @example There and back
 * ```ts
 * const bytes = ct.io.encode({ w: ct.tensor([1, 2]) });
 * const { tree } = ct.io.decode<{ w: ct.Value }>(bytes);
 * assertClose(tree.w, [1, 2]);
 * ```
 * @source https://github.com/huggingface/safetensors (the format)
 * @since 0.1.0
 */
export function encode(
  tree: unknown,
  metadata: Readonly<Record<string, string>> = {},
): Uint8Array<ArrayBuffer> {
  return joined(encodeParts(tree, metadata));
}

/** The same bytes as chunks in order, of which those of the elements belong to the tensors: they are not copied. */
export function encodeParts(
  tree: unknown,
  metadata: Readonly<Record<string, string>> = {},
): readonly Uint8Array[] {
  const [leaves, def] = flatten(tree);
  const names = namesOf(paths(tree));
  // Largest elements first keeps every array aligned to its element size.
  const order = [...leaves.keys()].sort(
    (i, j) => bytesPerElement(leaves[j]!.dtype) - bytesPerElement(leaves[i]!.dtype) || i - j,
  );
  const words = { ...metadata, [structureKey]: JSON.stringify({ def, names }) };
  const header: [name: string, entry: unknown][] = [[metadataKey, words]];
  let offset = 0;
  for (const i of order) {
    const x = leaves[i]!;
    const end = offset + x.size * bytesPerElement(x.dtype);
    const entry: Entry = { dtype: toFormat[x.dtype], shape: x.shape, data_offsets: [offset, end] };
    header.push([names[i]!, entry]);
    offset = end;
  }
  const text = new TextEncoder().encode(JSON.stringify(Object.fromEntries(header)));
  const headerBytes = Math.ceil(text.length / 8) * 8;
  const front = new Uint8Array(8 + headerBytes).fill(0x20, 8);
  new DataView(front.buffer).setBigUint64(0, BigInt(headerBytes), true);
  front.set(text, 8);
  const parts = order.map((i) => {
    const data = readable(leaves[i]!);
    return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  });
  return [front, ...parts];
}

/** One array of all. */
function joined(parts: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
  const all = new Uint8Array(parts.reduce((sum, part) => sum + part.byteLength, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.byteLength;
  }
  return all;
}

/**
 * What `decode` gives back.
 *
 * @since 0.1.0
 */
export interface Decoded<T> {
  /** The tree; for files of other programs a record from name to tensor. */
  readonly tree: T;
  readonly metadata: Readonly<Record<string, string>>;
}

/**
 * The tree in safetensors bytes.
 *
 * Shapes: as they were saved.
 * Units: none.
 *
 * @throws {FormatError} if the bytes are not a whole safetensors file; nothing is returned then
 * @example Metadata
 * ```ts
 * const { metadata } = ct.io.decode(ct.io.encode(ct.tensor(1), { step: "7" }));
 * assert(metadata["step"] === "7");
 * ```
 * @since 0.1.0
 */
export function decode<T = unknown>(bytes: Uint8Array): Decoded<T> {
  return decodeInPlace(new Uint8Array(bytes));
}

/** The same of bytes that nobody else uses or changes: the tensors keep them, where their place in memory allows. */
export function decodeInPlace<T = unknown>(bytes: Uint8Array<ArrayBuffer>): Decoded<T> {
  const header = readHeader(bytes);
  const body = bytes.subarray(header.end);
  const { [metadataKey]: words = {}, ...rest } = header.json;
  if (!isRecord(words) || !Object.values(words).every((word) => typeof word === "string")) {
    return fail("its metadata are not text");
  }
  const entries = Object.entries(rest).map(([name, entry]) => readEntry(name, entry));
  checkCover(entries, body.length);
  const tensors = new Map(entries.map((entry) => [entry.name, readTensor(entry, body)]));
  const { [structureKey]: structure, ...metadata } = words as Record<string, string>;
  if (structure === undefined) return { tree: Object.fromEntries(tensors) as T, metadata };
  const { def, names } = readStructure(structure);
  if (new Set(names).size !== names.length || names.length !== tensors.size) {
    return fail(`its tree has ${names.length} leaves for ${tensors.size} tensors`);
  }
  const leaves = names.map(
    (name) => tensors.get(name) ?? fail(`the tensor "${name}" of its tree is missing`),
  );
  return { tree: unflatten<T>(def, leaves), metadata };
}

/** Names for paths: `layers[0].w` is `layers.0.w`. Two paths with one name, and reserved names, get a number. */
function namesOf(listed: readonly string[]): string[] {
  const taken = new Set([metadataKey]);
  return listed.map((path) => {
    const plain = path.replaceAll("[", ".").replaceAll("]", "").replace(/^\./, "") || "value";
    let name = plain;
    for (let n = 2; taken.has(name); n++) name = `${plain}~${n}`;
    taken.add(name);
    return name;
  });
}

const isRecord = (x: unknown): x is Readonly<Record<string, unknown>> =>
  typeof x === "object" && x !== null && !Array.isArray(x);
const isText = (x: unknown): x is string => typeof x === "string";

function readHeader(bytes: Uint8Array): {
  readonly json: Readonly<Record<string, unknown>>;
  readonly end: number;
} {
  if (bytes.length < 8) fail(`there are ${bytes.length} bytes`);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const end = 8 + Number(view.getBigUint64(0, true));
  if (!(end <= bytes.length)) fail(`the header ends at byte ${end} of ${bytes.length}`);
  const decoder = new TextDecoder("utf-8", { fatal: true });
  const json: unknown = attempt(() => JSON.parse(decoder.decode(bytes.subarray(8, end))));
  return isRecord(json) ? { json, end } : fail("the header is not a JSON object");
}

/** What `f` returns, or `undefined` where it throws: text that is not JSON, or nested too deep. */
function attempt<T>(f: () => T): T | undefined {
  try {
    return f();
  } catch {
    return undefined;
  }
}

interface NamedEntry {
  readonly name: string;
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly start: number;
  readonly end: number;
}

function readEntry(name: string, entry: unknown): NamedEntry {
  const { dtype: format, shape, data_offsets: offsets } = isRecord(entry) ? entry : {};
  const whole = (list: unknown): list is readonly number[] =>
    Array.isArray(list) && list.every((n) => Number.isSafeInteger(n) && n >= 0);
  if (!whole(shape) || !whole(offsets) || offsets.length !== 2) {
    return fail(`the entry of "${name}" is malformed`);
  }
  const dtype = fromFormat.get(format) ?? fail(`"${name}" has the type ${JSON.stringify(format)}`);
  const [start, end] = offsets as readonly [number, number];
  if (end - start !== sizeOf(shape) * bytesPerElement(dtype)) {
    fail(`"${name}" of shape [${shape}] occupies bytes ${start} to ${end}`);
  }
  return { name, dtype, shape, start, end };
}

/** Every byte belongs to one tensor. */
function checkCover(entries: readonly NamedEntry[], length: number): void {
  let covered = 0;
  for (const { name, start, end } of entries.toSorted((a, b) => a.start - b.start || a.end - b.end)) {
    if (start !== covered) fail(`"${name}" starts at byte ${start} and the one before ends at ${covered}`);
    covered = end;
  }
  if (covered !== length) fail(`its tensors end at byte ${covered} of ${length}`);
}

function readTensor({ dtype, shape, start, end }: NamedEntry, body: Uint8Array<ArrayBuffer>): Tensor {
  const raw = body.subarray(start, end);
  if (dtype === "bool" && raw.some((byte) => byte > 1)) fail("a bool is neither 0 nor 1");
  return new Tensor(new Aval(shape, dtype), arrayOn(dtype, aligned(raw, bytesPerElement(dtype))));
}

/** The same bytes where elements of this size may begin. */
function aligned(raw: Uint8Array<ArrayBuffer>, size: number): Uint8Array<ArrayBuffer> {
  return raw.byteOffset % size === 0 ? raw : new Uint8Array(raw);
}

function readStructure(text: string): { readonly def: TreeDef; readonly names: readonly string[] } {
  const structure: unknown = attempt(() => JSON.parse(text));
  if (!isRecord(structure)) return fail("its structure is not a JSON object");
  const { def, names } = structure;
  if (!Array.isArray(names) || !names.every(isText)) return fail("the names of its leaves are malformed");
  let count = 0;
  const check = (node: unknown): boolean => {
    if (!isRecord(node)) return false;
    const { k, keys, items } = node;
    if (k === "leaf") return ++count > 0;
    if (!Array.isArray(items) || !items.every(check)) return false;
    if (k === "list") return true;
    return (
      k === "record" &&
      Array.isArray(keys) &&
      keys.every(isText) &&
      keys.length === items.length &&
      new Set(keys).size === keys.length
    );
  };
  if (!attempt(() => check(def)) || count !== names.length) return fail("its structure is malformed");
  return { def: def as TreeDef, names };
}

function fail(found: string): never {
  throw new FormatError(`Cannot read safetensors: ${found}, a whole and valid file is needed`);
}
