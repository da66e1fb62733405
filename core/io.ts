/** Trees on disk. */
import { devicePut } from "./devices.ts";
import { type Decoded, decode, encode } from "./safetensors.ts";

export { type Decoded, decode, encode } from "./safetensors.ts";

/** The file system of the host, asked for when it is used: an import would keep the library out of browsers. */
function fileSystem() {
  const files = globalThis.process?.getBuiltinModule?.("node:fs/promises");
  if (files !== undefined) return files;
  throw new Error(
    "Cannot use a file: this host has no file system, Bun, Deno or Node is needed; io.encode and io.decode work on bytes",
  );
}

/**
 * Writes a tree of tensors as a safetensors file: whole or not at all.
 *
 * Shapes: any tree.
 * Units: none.
 *
 * @throws {TreeError} if something inside is not a tensor
 * @example A checkpoint
 * ```ts
 * const { tmpdir } = await import("node:os");
 * const path = `${tmpdir()}/cotangent-docs-save.safetensors`;
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
  await writeWhole(path, encode(await devicePut(tree, "cpu"), metadata));
}

/**
 * Reads a tree of tensors from a safetensors file.
 *
 * Shapes: as they were saved.
 * Units: none.
 *
 * @throws {FormatError} if the file is not whole
 * @example One tensor and a note
 * ```ts
 * const { tmpdir } = await import("node:os");
 * const path = `${tmpdir()}/cotangent-docs-load.safetensors`;
 * await ct.io.save(path, ct.tensor([3]), { step: "7" });
 * const { tree, metadata } = await ct.io.load<ct.Value>(path);
 * assertClose(tree, [3]);
 * assert(metadata["step"] === "7");
 * ```
 * @since 0.1.0
 */
export async function load<T = unknown>(path: string): Promise<Decoded<T>> {
  return decode<T>(await fileSystem().readFile(path));
}

/**
 * Writes beside the target, then renames: a reader never sees half a file.
 *
 * Shapes: bytes, or text.
 * @example A small file
 * ```ts
 * const { tmpdir } = await import("node:os");
 * const { readFile } = await import("node:fs/promises");
 * await ct.io.writeWhole(`${tmpdir()}/cotangent-docs-whole.txt`, "whole");
 * assert((await readFile(`${tmpdir()}/cotangent-docs-whole.txt`, "utf8")) === "whole");
 * ```
 * @since 0.1.0
 */
export async function writeWhole(path: string, bytes: Uint8Array | string): Promise<void> {
  const files = fileSystem();
  const temporary = `${path}.${globalThis.process.pid}.tmp`;
  await files.writeFile(temporary, bytes);
  await files.rename(temporary, path);
}
