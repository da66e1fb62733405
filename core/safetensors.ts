/**
 * Trees of tensors as bytes, in the safetensors format: a length, a JSON header, the elements. Other programs read the
 * leaves by path (`layers.0.w`); the structure itself is kept in the metadata, so that any tree comes back as it was.
 */
import { Aval } from "./aval.ts";
import { bytesPerElement, type DType, dtypeOf, makeArray, type TypedArray } from "./dtype.ts";
import { FormatError } from "./errors.ts";
import { sizeOf } from "./shape.ts";
import { flatten, paths, type TreeDef, unflatten } from "./tree.ts";
import { storage, Tensor } from "./value.ts";

const toFormat: Readonly<Record<DType, string>> = {
  float32: "F32",
  float64: "F64",
  int32: "I32",
  uint32: "U32",
  bool: "BOOL",
};
const fromFormat: Readonly<Record<string, DType>> = Object.fromEntries(
  Object.entries(toFormat).map(([dtype, name]) => [name, dtype as DType]),
);
const structureKey = "cotangent.tree";

interface Entry {
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly data_offsets: readonly [number, number];
}

/**
 * The bytes of a tree of tensors in safetensors format.
 *
 * Shapes: any tree; leaves are named by their path, list positions as numbers.
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
  const [leaves, def] = flatten(tree);
  const names = paths(tree).map(
    (path) => path.replaceAll("[", ".").replaceAll("]", "").replace(/^\./, "") || "value",
  );
  // Largest elements first keeps every array aligned to its element size.
  const order = [...leaves.keys()].sort(
    (i, j) => bytesPerElement(leaves[j]!.dtype) - bytesPerElement(leaves[i]!.dtype) || i - j,
  );
  const header: Record<string, unknown> = {
    __metadata__: { ...metadata, [structureKey]: JSON.stringify({ def, names }) },
  };
  let offset = 0;
  for (const i of order) {
    const x = leaves[i]!;
    const end = offset + x.size * bytesPerElement(x.dtype);
    header[names[i]!] = {
      dtype: toFormat[x.dtype],
      shape: x.shape,
      data_offsets: [offset, end],
    } satisfies Entry;
    offset = end;
  }
  const text = new TextEncoder().encode(JSON.stringify(header));
  const headerBytes = Math.ceil(text.length / 8) * 8;
  const bytes = new Uint8Array(8 + headerBytes + offset).fill(0x20, 8, 8 + headerBytes);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(headerBytes), true);
  bytes.set(text, 8);
  let at = 8 + headerBytes;
  for (const i of order) {
    const x = leaves[i]!;
    const data = x instanceof Tensor ? storage(x) : x.dataSync();
    const raw = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    bytes.set(raw, at);
    at += raw.length;
  }
  return bytes;
}

/** What `decode` gives back. */
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
  const header = readHeader(bytes);
  const body = bytes.subarray(header.end);
  const { __metadata__: rawMetadata = {}, ...entries } = header.json;
  const tensors = new Map(
    Object.entries(entries).map(([name, entry]) => [name, readTensor(name, entry, body)]),
  );
  const { [structureKey]: structure, ...metadata } = rawMetadata as Record<string, string>;
  if (structure === undefined) return { tree: Object.fromEntries(tensors) as T, metadata };
  const { def, names } = JSON.parse(structure) as { def: TreeDef; names: string[] };
  const leaves = names.map(
    (name) => tensors.get(name) ?? fail(`the tensor "${name}" of its tree is missing`),
  );
  return { tree: unflatten<T>(def, leaves), metadata };
}

function readHeader(bytes: Uint8Array): { readonly json: Record<string, unknown>; readonly end: number } {
  if (bytes.length < 8) fail(`there are ${bytes.length} bytes`);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const end = 8 + Number(view.getBigUint64(0, true));
  if (!(end <= bytes.length)) fail(`the header ends at byte ${end} of ${bytes.length}`);
  try {
    return { json: JSON.parse(new TextDecoder().decode(bytes.subarray(8, end))), end };
  } catch {
    return fail("the header is not JSON");
  }
}

function readTensor(name: string, entry: unknown, body: Uint8Array): Tensor {
  const { dtype: format, shape, data_offsets: offsets } = entry as Partial<Entry>;
  const dtype = fromFormat[format ?? ""] ?? fail(`"${name}" has the type ${format}`);
  const whole = (list: unknown): list is readonly number[] =>
    Array.isArray(list) && list.every((n) => Number.isSafeInteger(n) && n >= 0);
  if (!whole(shape) || !whole(offsets)) return fail(`the entry of "${name}" is malformed`);
  const [start, end] = offsets as readonly [number, number];
  if (end - start !== sizeOf(shape) * bytesPerElement(dtype) || end > body.length) {
    fail(`"${name}" occupies bytes ${start} to ${end} of ${body.length}`);
  }
  const data: TypedArray = makeArray(dtype, sizeOf(shape));
  new Uint8Array(data.buffer).set(body.subarray(start, end));
  return new Tensor(new Aval(shape, dtypeOf(data)), data);
}

function fail(found: string): never {
  throw new FormatError(`Cannot read safetensors: ${found}, a whole and valid file is needed`);
}
