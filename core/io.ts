/** Trees on disk. */
import { readFile, rename, writeFile } from "node:fs/promises";
import { type Decoded, decode, encode } from "./safetensors.ts";

export { type Decoded, decode, encode } from "./safetensors.ts";

/**
 * Writes a tree of tensors as a safetensors file: whole or not at all.
 *
 * Shapes: any tree.
 * Units: none.
 *
 * @throws {TreeError} if something inside is not a tensor
 * @example A checkpoint
 * ```ts
 * const path = `${tmp}/model.safetensors`;
 * await ct.io.save(path, { w: ct.tensor([1, 2]) });
 * assertClose((await ct.io.load<{ w: ct.Value }>(path)).tree.w, [1, 2]);
 * ```
 * @since 0.1.0
 */
export async function save(
  path: string,
  tree: unknown,
  metadata: Readonly<Record<string, string>> = {},
): Promise<void> {
  await writeWhole(path, encode(tree, metadata));
}

/**
 * Reads a tree of tensors from a safetensors file.
 *
 * Shapes: as they were saved.
 * Units: none.
 *
 * @throws {FormatError} if the file is not whole
 * @example See `save`
 * ```ts
 * await ct.io.save(`${tmp}/x.safetensors`, ct.tensor([3]));
 * assertClose((await ct.io.load<ct.Value>(`${tmp}/x.safetensors`)).tree, [3]);
 * ```
 * @since 0.1.0
 */
export async function load<T = unknown>(path: string): Promise<Decoded<T>> {
  return decode<T>(await readFile(path));
}

/** Writes beside the target, then renames: a reader never sees half a file. */
export async function writeWhole(path: string, bytes: Uint8Array | string): Promise<void> {
  const temporary = `${path}.${process.pid}.tmp`;
  await writeFile(temporary, bytes);
  await rename(temporary, path);
}
