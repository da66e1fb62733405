import { readdir } from "node:fs/promises";
import { join } from "node:path";
import type { Dataset, Split } from "./dataset.ts";
import { DataError } from "./dataset.ts";
import type { NamedBytes } from "./idx.ts";
import { readBytes, reason } from "./read_bytes.ts";
import { readTar } from "./tar.ts";

/** The archive as it is published. */
export const cifarArchive = "cifar-10-binary.tar.gz";
/** The folder inside the archive. */
const FOLDER = "cifar-10-batches-bin";
const TRAIN_FILES = [1, 2, 3, 4, 5].map((n) => `data_batch_${n}.bin`);
const TEST_FILE = "test_batch.bin";

const CLASSES = 10;
const PIXELS = 3 * 32 * 32;
/** One byte of label, then the red, the green and the blue plane, each row-major. */
const RECORD = 1 + PIXELS;

/**
 * Reads batches of CIFAR-10 in its binary version into one split; pixels 0..255 become 0..1.
 *
 * Every batch is checked whole; no more than the first `limit` images are kept.
 *
 * @throws {DataError} if a batch is empty or not whole records of 3,073 bytes, or a label is above 9.
 */
export function cifarSplit(batches: readonly NamedBytes[], limit: number = Infinity): Split {
  for (const { path, bytes } of batches) {
    if (bytes.length === 0 || bytes.length % RECORD !== 0) {
      throw new DataError(
        `Cannot read CIFAR-10 batch "${path}": it has ${bytes.length} bytes, ` +
          `one or more whole records of ${RECORD} bytes are needed`,
      );
    }
    for (let at = 0; at < bytes.length; at += RECORD) {
      if (bytes[at]! >= CLASSES) {
        throw new DataError(
          `Cannot read CIFAR-10 batch "${path}": record ${at / RECORD} has label ${bytes[at]}, ` +
            `0 to ${CLASSES - 1} is needed`,
        );
      }
    }
  }
  const total = batches.reduce((sum, { bytes }) => sum + bytes.length / RECORD, 0);
  const count = Math.min(limit, total);
  const features = new Float32Array(count * PIXELS);
  const labels = new Int32Array(count);
  let example = 0;
  for (const { bytes } of batches) {
    for (let at = 0; at < bytes.length && example < count; at += RECORD, example++) {
      labels[example] = bytes[at]!;
      const offset = example * PIXELS;
      for (let i = 0; i < PIXELS; i++) features[offset + i] = bytes[at + 1 + i]! / 255;
    }
  }
  return { features, labels, count };
}

/** What `dir` holds. */
async function namesIn(dir: string): Promise<readonly string[]> {
  try {
    return await readdir(dir);
  } catch (error) {
    throw new DataError(`Cannot read "${dir}": ${reason(error)}, a directory is needed`);
  }
}

/**
 * Loads CIFAR-10 from `dir`: from its six `.bin` files, from a folder `cifar-10-batches-bin` that holds them, or
 * from the archive `cifar-10-binary.tar.gz`, whichever is there first in this order.
 *
 * @throws {DataError} if none of these is complete, or a file is malformed.
 */
export async function loadCifar10(
  dir: string,
  limits: { readonly train?: number | undefined; readonly test?: number | undefined } = {},
): Promise<Dataset> {
  const names = await namesIn(dir);
  let read: (file: string) => Promise<NamedBytes>;
  if (names.includes(TEST_FILE) || names.includes(FOLDER)) {
    const folder = names.includes(TEST_FILE) ? dir : join(dir, FOLDER);
    read = async (file) => ({ path: join(folder, file), bytes: await readBytes(join(folder, file)) });
  } else if (names.includes(cifarArchive)) {
    const path = join(dir, cifarArchive);
    const files = readTar({ path, bytes: await readBytes(path) });
    read = async (file) => {
      const name = [...files.keys()].find((entry) => entry === file || entry.endsWith(`/${file}`));
      if (name === undefined) {
        throw new DataError(`Cannot read "${path}": it has no "${file}", all six batches are needed`);
      }
      return { path: `${path}:${name}`, bytes: files.get(name)! };
    };
  } else {
    throw new DataError(
      `Cannot load cifar10 from "${dir}": neither "${TEST_FILE}" nor "${FOLDER}" is there, ` +
        `the six batches ${TRAIN_FILES[0]} to ${TRAIN_FILES[4]} and ${TEST_FILE}, or ${cifarArchive}, are needed`,
    );
  }
  const train: NamedBytes[] = [];
  for (const file of TRAIN_FILES) train.push(await read(file));
  return {
    name: "cifar10",
    exampleShape: [3, 32, 32],
    classes: CLASSES,
    train: cifarSplit(train, limits.train),
    test: cifarSplit([await read(TEST_FILE)], limits.test),
  };
}
