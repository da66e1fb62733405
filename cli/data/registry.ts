import { cifarArchive, loadCifar10 } from "./cifar10.ts";
import { csvDataset } from "./csv.ts";
import type { Dataset } from "./dataset.ts";
import { DataError, limitSplit } from "./dataset.ts";
import type { DownloadProgress } from "./download.ts";
import { findPair } from "./find_pair.ts";
import { glyphs } from "./glyphs.ts";
import { fashionMnist, loadIdxSet, mnist } from "./image_sets.ts";
import { libsvmDataset } from "./libsvm.ts";
import { readText } from "./read_bytes.ts";
import type { RemoteSet } from "./remote_set.ts";
import { fetchSet } from "./remote_set.ts";
import type { NamedText } from "./table.ts";

/** Names of the data sets that {@link loadData} knows; the first is the default. */
export const dataNames = ["glyphs", "fashion-mnist", "mnist", "cifar10", "libsvm", "csv"] as const;

/** One of {@link dataNames}. */
export type DataName = (typeof dataNames)[number];

/** CIFAR-10's pictures by Krizhevsky, in the binary version. */
const cifar10: RemoteSet = {
  name: "cifar10",
  files: {
    [cifarArchive]: {
      url: `https://www.cs.toronto.edu/~kriz/${cifarArchive}`,
      sha256: "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    },
  },
};

/** Which data set to load, and from where. */
export interface LoadOptions {
  readonly name: DataName;
  /** Draws `glyphs`, and chooses the test rows of a table without a test file. */
  readonly seed: number;
  /** The directory of the files; for `libsvm` and `csv`, which need it, also the training file itself. */
  readonly dir?: string | undefined;
  /** Which data set of a directory with several, for `libsvm` and `csv`. */
  readonly file?: string | undefined;
  /** The column of the class, for `csv`: its name, or its position counted from 1. */
  readonly labelColumn?: string | number | undefined;
  /** Features per row, for `libsvm`. */
  readonly featureCount?: number | undefined;
  /** Where downloads are kept. */
  readonly cacheDir?: string | undefined;
  /** Never reach for the network. */
  readonly offline?: boolean | undefined;
  /** Keep the first so many examples. */
  readonly trainLimit?: number | undefined;
  readonly testLimit?: number | undefined;
  readonly onProgress?: ((progress: DownloadProgress) => void) | undefined;
}

/**
 * Loads a data set by name. `glyphs` is drawn on the spot; `fashion-mnist`, `mnist` and `cifar10` come from `dir`,
 * else from the cache, else from their publishers; `libsvm` and `csv` come from `dir`.
 *
 * @example
 * ```ts
 * const { train, test, classes } = await loadData({ name: "glyphs", seed: 1 });
 * ```
 * @throws {DataError} if the data cannot be had or read; the message says which file, what was found and what is
 * needed.
 */
export async function loadData(options: LoadOptions): Promise<Dataset> {
  const { name, seed, dir, trainLimit, testLimit } = options;
  const limits = { train: trainLimit, test: testLimit };
  checkLimits(limits);
  switch (name) {
    case "glyphs": {
      const drawn = glyphs({ seed });
      return {
        ...drawn,
        train: limitSplit(drawn.train, trainLimit),
        test: limitSplit(drawn.test, testLimit),
      };
    }
    case "fashion-mnist":
    case "mnist": {
      const set = name === "mnist" ? mnist : fashionMnist;
      return loadIdxSet(name, dir ?? (await fetchSet(set, options)), limits);
    }
    case "cifar10":
      return loadCifar10(dir ?? (await fetchSet(cifar10, options)), limits);
    case "libsvm":
    case "csv": {
      const [train, test] = await readPair(name, dir, options.file);
      return name === "csv" ? csvDataset(train, test, options) : libsvmDataset(train, test, options);
    }
    default:
      name satisfies never;
      throw new DataError(
        `Cannot load data "${name}": it is unknown, one of ${dataNames.join(", ")} is needed`,
      );
  }
}

async function readPair(
  name: string,
  dir: string | undefined,
  file: string | undefined,
): Promise<readonly [NamedText, NamedText | undefined]> {
  if (dir === undefined) {
    throw new DataError(
      `Cannot load ${name} data: no place was given, --data-dir with a directory or file is needed`,
    );
  }
  const { train, test } = await findPair(dir, file);
  const read = async (path: string): Promise<NamedText> => ({ path, text: await readText(path) });
  return [await read(train), test === undefined ? undefined : await read(test)];
}

function checkLimits(limits: Readonly<Record<string, number | undefined>>): void {
  for (const [split, limit] of Object.entries(limits)) {
    if (limit === undefined || (Number.isSafeInteger(limit) && limit >= 1)) continue;
    throw new DataError(
      `Cannot limit the ${split} split: the limit is ${limit}, a whole number of at least 1 is needed`,
    );
  }
}
