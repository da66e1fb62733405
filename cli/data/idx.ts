import type { Split } from "./dataset.ts";
import { DataError } from "./dataset.ts";

/** Bytes and where they came from, for messages. */
export interface NamedBytes {
  readonly path: string;
  readonly bytes: Uint8Array;
}

/** An array of bytes in any number of dimensions. */
export interface IdxArray {
  readonly dims: readonly number[];
  readonly data: Uint8Array;
}

const hex = (word: number): string => `0x${word.toString(16).padStart(8, "0")}`;

/**
 * Reads IDX: the bytes 0, 0, 8 (unsigned bytes), the rank; one big-endian 32-bit size per dimension; then the data,
 * row-major.
 *
 * @throws {DataError} if the header is short or of another type or rank, a dimension is zero, or bytes are missing
 * or left over.
 */
export function parseIdx({ path, bytes }: NamedBytes, rank: number): IdxArray {
  const headerBytes = 4 + 4 * rank;
  if (bytes.length < headerBytes) {
    throw new DataError(
      `Cannot read IDX file "${path}": it has ${bytes.length} bytes, a header of ${headerBytes} bytes is needed`,
    );
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const magic = view.getUint32(0);
  const wanted = 0x0800 + rank;
  if (magic !== wanted) {
    throw new DataError(
      `Cannot read IDX file "${path}": it begins with ${hex(magic)}, ` +
        `${hex(wanted)} (unsigned bytes, ${rank} dimension${rank === 1 ? "" : "s"}) is needed`,
    );
  }
  const dims = Array.from({ length: rank }, (_, axis) => view.getUint32(4 + 4 * axis));
  if (dims.includes(0)) {
    throw new DataError(
      `Cannot read IDX file "${path}": its dimensions are [${dims}], all at least 1 are needed`,
    );
  }
  const size = dims.reduce((product, dim) => product * dim, 1);
  const found = bytes.length - headerBytes;
  if (found !== size) {
    throw new DataError(
      `Cannot read IDX file "${path}": ${found} data bytes follow the header (it is ` +
        `${found < size ? "cut short" : "too long"}), ${size} bytes for dimensions [${dims}] are needed`,
    );
  }
  return { dims, data: bytes.subarray(headerBytes) };
}

/** One split of an image set, and the shape of its images. */
export interface ImageSplit {
  readonly split: Split;
  /** Height and width. */
  readonly shape: readonly number[];
}

/**
 * Pairs an IDX file of grey images [count, height, width] with one of labels [count]. Pixels 0..255 become 0..1.
 *
 * Both files are checked whole; no more than the first `limit` images are kept.
 *
 * @throws {DataError} if either file is malformed, the counts differ, or a label is not below `classes`.
 */
export function idxSplit(
  images: NamedBytes,
  labels: NamedBytes,
  classes: number,
  limit: number = Infinity,
): ImageSplit {
  const { dims, data } = parseIdx(images, 3);
  const classOf = parseIdx(labels, 1).data;
  if (dims[0] !== classOf.length) {
    throw new DataError(
      `Cannot pair images with labels: "${images.path}" has ${dims[0]} images and "${labels.path}" has ` +
        `${classOf.length} labels, equal counts are needed`,
    );
  }
  const stray = classOf.findIndex((label) => label >= classes);
  if (stray >= 0) {
    throw new DataError(
      `Cannot read labels "${labels.path}": label ${stray} is ${classOf[stray]}, 0 to ${classes - 1} is needed`,
    );
  }
  const count = Math.min(limit, classOf.length);
  const shape = dims.slice(1);
  const width = data.length / classOf.length;
  // A loop: Float32Array.from collects a list of 47 million numbers first, a gigabyte.
  const features = new Float32Array(count * width);
  for (let i = 0; i < features.length; i++) features[i] = data[i]! / 255;
  return { split: { features, labels: Int32Array.from(classOf.subarray(0, count)), count }, shape };
}
