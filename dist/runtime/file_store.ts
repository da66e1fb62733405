/**
 * Saves as files: one safetensors file for each peer and round. A file appears whole or not at all, and one that was
 * damaged later is noticed by its checksum and not listed, so a run continues from the save before it.
 */

import { mkdir, open, readdir, readFile, rename, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { crc32 } from "node:zlib";
import { decode, encode } from "../../core/safetensors.ts";
import type { Saved, Store, Values } from "./driver.ts";

const NO_CHECKSUM = "00000000";
const CHECKSUM_MARK = '"checksum":"';

/**
 * A store in a folder, which is made if need be. Several processes may use one folder if each saves under its own name.
 *
 * Values must be trees of tensors, `null` or `undefined`. Other programs can read the files.
 *
 * @example One save
 * ```typescript
 * import { fileStore } from "cotangent/bun";
 * const store = fileStore("runs/today");
 * await store.put("worker-0", 1, { round: 1, attempt: 0 }, { x: ct.tensor([1, 2]) });
 * ```
 *
 * @since 0.1.0
 */
export function fileStore(folder: string): Store {
  /** Files whose checksum is known to match, with their time and size then. */
  const checked = new Map<string, string>();

  const pathOf = (name: string, round: number): string => join(folder, `${name}.${round}.safetensors`);

  async function filesOf(name: string): Promise<readonly string[]> {
    const files = await readdir(folder).catch(() => []);
    return files.filter((file) => file.startsWith(`${name}.`));
  }

  async function load(path: string): Promise<Saved | null> {
    const bytes = await readFile(path).catch(() => null);
    return bytes === null ? null : decodeSave(bytes);
  }

  async function isWhole(path: string): Promise<boolean> {
    const mark = await markOf(path);
    if (mark === null) return false;
    if (checked.get(path) !== mark) {
      if ((await load(path)) === null) return false;
      checked.set(path, mark);
    }
    return true;
  }

  return {
    async put(name, round, state, values) {
      const path = pathOf(name, round);
      const draft = `${path}.${process.pid}.draft`;
      const bytes = encodeSave({ state, values });
      await mkdir(folder, { recursive: true });
      const file = await open(draft, "w");
      try {
        await file.writeFile(bytes);
        await file.sync();
      } finally {
        await file.close();
      }
      await rename(draft, path);
      // What interrupted processes have left.
      for (const file of await filesOf(name)) {
        if (file.endsWith(".draft")) await rm(join(folder, file), { force: true });
      }
      // The rename itself is durable only when the folder is.
      const own = await open(folder, "r");
      try {
        await own.sync();
      } finally {
        await own.close();
      }
      const mark = await markOf(path);
      if (mark !== null) checked.set(path, mark);
    },
    get: (name, round) => load(pathOf(name, round)),
    async rounds(name) {
      const result: number[] = [];
      for (const file of await filesOf(name)) {
        const digits = /^(\d+)\.safetensors$/.exec(file.slice(name.length + 1));
        if (digits !== null && (await isWhole(join(folder, file)))) result.push(Number(digits[1]));
      }
      return result.sort((a, b) => a - b);
    },
    async drop(name, round) {
      const path = pathOf(name, round);
      checked.delete(path);
      await rm(path, { force: true });
    },
  };
}

/** Changes whenever the file does; null when there is none. */
async function markOf(path: string): Promise<string | null> {
  const facts = await stat(path).catch(() => null);
  return facts === null ? null : `${facts.mtimeMs} ${facts.size} ${facts.ino}`;
}

/** The checksum is that of the file with zeros in the place of the checksum. */
function encodeSave({ state, values }: Saved): Uint8Array {
  const empty: Record<string, "null" | "undefined"> = {};
  const trees: Record<string, unknown> = {};
  for (const [name, value] of Object.entries(values)) {
    if (value === null || value === undefined) empty[name] = value === null ? "null" : "undefined";
    else trees[name] = value;
  }
  const metadata = {
    checksum: NO_CHECKSUM,
    round: String(state.round),
    attempt: String(state.attempt),
    empty: JSON.stringify(empty),
  };
  const bytes = Buffer.from(encode(trees, metadata).buffer);
  bytes.write(checksumOf(bytes), checksumPlace(bytes), "latin1");
  return bytes;
}

/** What a save says, or null if it is not a whole and unchanged save. */
function decodeSave(bytes: Buffer): Saved | null {
  try {
    const place = checksumPlace(bytes);
    const checksum = bytes.toString("latin1", place, place + NO_CHECKSUM.length);
    bytes.write(NO_CHECKSUM, place, "latin1");
    if (checksumOf(bytes) !== checksum) return null;
    const { tree, metadata } = decode<Values>(bytes);
    const empty = JSON.parse(metadata["empty"] ?? "{}") as Readonly<Record<string, string>>;
    const values: Record<string, unknown> = { ...tree };
    for (const [name, kind] of Object.entries(empty)) values[name] = kind === "null" ? null : undefined;
    return {
      state: { round: Number(metadata["round"]), attempt: Number(metadata["attempt"]) },
      values,
    };
  } catch {
    return null;
  }
}

function checksumPlace(bytes: Buffer): number {
  const at = bytes.indexOf(CHECKSUM_MARK, 0, "latin1");
  if (at < 0)
    throw new RangeError("Cannot read a save: it has no checksum, a file of this program is needed");
  return at + CHECKSUM_MARK.length;
}

function checksumOf(bytes: Uint8Array): string {
  return (crc32(bytes) >>> 0).toString(16).padStart(8, "0");
}
