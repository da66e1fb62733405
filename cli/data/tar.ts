import { DataError } from "./dataset.ts";
import type { NamedBytes } from "./idx.ts";

/** Headers and contents come in blocks of this many bytes. */
const BLOCK = 512;

/**
 * The regular files of an unpacked tar archive, by name, as views into its bytes.
 *
 * Understands what writers give for short names and small files (ustar and its older form); directories, links and
 * extension records are passed over.
 *
 * @throws {DataError} if a header's checksum is wrong, a size is unreadable, or the archive ends inside a file.
 */
export function readTar({ path, bytes }: NamedBytes): Map<string, Uint8Array> {
  const text = (start: number, length: number): string => {
    const field = bytes.subarray(start, start + length);
    const end = field.indexOf(0);
    return new TextDecoder().decode(end < 0 ? field : field.subarray(0, end));
  };
  const octal = (start: number, length: number): number => {
    const digits = text(start, length).trim();
    return /^[0-7]+$/.test(digits) ? Number.parseInt(digits, 8) : Number.NaN;
  };

  const files = new Map<string, Uint8Array>();
  let at = 0;
  // The archive ends with a block of zeros, or, from careless writers, with its last file.
  while (at + BLOCK <= bytes.length && bytes[at] !== 0) {
    // The checksum is the sum of the header's bytes with its own eight taken as spaces.
    let sum = 8 * 0x20;
    for (let i = 0; i < BLOCK; i++) sum += i >= 148 && i < 156 ? 0 : bytes[at + i]!;
    const size = octal(at + 124, 12);
    if (sum !== octal(at + 148, 8) || Number.isNaN(size)) {
      throw new DataError(
        `Cannot read archive "${path}": no valid header at byte ${at}, a tar archive is needed`,
      );
    }
    const start = at + BLOCK;
    const prefix = text(at + 257, 5) === "ustar" ? text(at + 345, 155) : "";
    const name = (prefix === "" ? "" : `${prefix}/`) + text(at, 100);
    if (start + size > bytes.length) {
      throw new DataError(
        `Cannot read archive "${path}": it ends after ${bytes.length - start} bytes of "${name}", ` +
          `${size} bytes are needed`,
      );
    }
    const kind = bytes[at + 156]!;
    if (kind === 0 || kind === 0x30) files.set(name, bytes.subarray(start, start + size));
    at = start + Math.ceil(size / BLOCK) * BLOCK;
  }
  if (files.size === 0) {
    throw new DataError(`Cannot read archive "${path}": it holds no files, a tar archive is needed`);
  }
  return files;
}
