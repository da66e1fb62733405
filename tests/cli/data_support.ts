import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DataError } from "../../cli/data/dataset.ts";

/** Runs `use` with a fresh directory that is gone afterwards. */
export async function withDirectory<T>(use: (dir: string) => Promise<T>): Promise<T> {
  const dir = await mkdtemp(join(tmpdir(), "cotangent-data-"));
  try {
    return await use(dir);
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}

/** The message of the DataError that `run` must end in. */
export async function messageOf(run: () => unknown): Promise<string> {
  try {
    await run();
  } catch (error) {
    if (!(error instanceof DataError)) throw error;
    return error.message;
  }
  throw new Error("Expected a DataError and nothing was thrown");
}

/** An IDX file of unsigned bytes, written independently of the reader. */
export function idxBytes(dims: readonly number[], data: readonly number[]): Uint8Array {
  const header = dims.flatMap((dim) => [dim >>> 24, (dim >>> 16) & 255, (dim >>> 8) & 255, dim & 255]);
  return Uint8Array.from([0, 0, 8, dims.length, ...header, ...data]);
}

/** A ustar archive of regular files. */
export function tarBytes(files: Readonly<Record<string, Uint8Array>>): Uint8Array {
  const blocks: Uint8Array[] = [];
  const ascii = new TextEncoder();
  for (const [name, content] of Object.entries(files)) {
    const header = new Uint8Array(512);
    header.set(ascii.encode(name), 0);
    header.set(ascii.encode("0000644\0"), 100);
    header.set(ascii.encode(`${content.length.toString(8).padStart(11, "0")}\0`), 124);
    header.set(ascii.encode("        "), 148);
    header.set(ascii.encode(name.endsWith("/") ? "5" : "0"), 156);
    header.set(ascii.encode("ustar\x0000"), 257);
    const sum = header.reduce((total, byte) => total + byte, 0);
    header.set(ascii.encode(`${sum.toString(8).padStart(6, "0")}\0 `), 148);
    const padded = new Uint8Array(Math.ceil(content.length / 512) * 512);
    padded.set(content);
    blocks.push(header, padded);
  }
  blocks.push(new Uint8Array(1024));
  return Uint8Array.from(blocks.flatMap((block) => [...block]));
}
