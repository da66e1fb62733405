import { readFile } from "node:fs/promises";
import { gunzipSync } from "node:zlib";
import { DataError } from "./dataset.ts";

/** The words of an unknown error, for the end of our own message. */
export function reason(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/**
 * The bytes as they are, or unpacked if they begin with the two magic bytes of gzip, whatever the file is called.
 *
 * @throws {DataError} if the bytes begin like gzip and are damaged or cut short.
 */
export function unpack(bytes: Uint8Array, path: string): Uint8Array {
  if (bytes[0] !== 0x1f || bytes[1] !== 0x8b) return bytes;
  try {
    return gunzipSync(bytes);
  } catch (error) {
    throw new DataError(
      `Cannot unpack "${path}": the gzip data is damaged or cut short (${reason(error)}), the whole file is needed`,
    );
  }
}

/**
 * Reads a file, unpacked if it is gzipped.
 *
 * @throws {DataError} if it cannot be read or unpacked.
 */
export async function readBytes(path: string): Promise<Uint8Array> {
  let bytes: Uint8Array;
  try {
    bytes = await readFile(path);
  } catch (error) {
    throw new DataError(`Cannot read "${path}": ${reason(error)}, a readable file is needed`);
  }
  return unpack(bytes, path);
}

/**
 * Reads a text file in UTF-8, unpacked if it is gzipped.
 *
 * @throws {DataError} if it cannot be read or unpacked, or is not text.
 */
export async function readText(path: string): Promise<string> {
  const bytes = await readBytes(path);
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw new DataError(`Cannot read "${path}": it holds bytes that are not text, UTF-8 is needed`);
  }
}
