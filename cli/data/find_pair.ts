import { readdir, stat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { DataError } from "./dataset.ts";
import { reason } from "./read_bytes.ts";

/** A training file and, if there is one, its test file, as full paths. */
export interface FilePair {
  readonly train: string;
  readonly test?: string;
}

/** Endings that say how a file is written, and endings and names that say which split it is. */
const ENCODING = /\.(gz|txt|csv|data|dat|svm|libsvm)$/i;
const TEST = /(^|[._-])(t|te|test)$/i;
const TRAIN = /(^|[._-])(tr|train)$/i;
/** Names of files that stand beside data without being data. */
const NOT_DATA =
  /^\.|(^|[._-])(readme|license|licence|copying|copyright|notice|changelog)([._-]|$)|\.(md|rst|html?|json|pdf)$/i;

/** "a9a.t.gz" is the test file of "a9a". */
function describe(name: string): { readonly stem: string; readonly role: "train" | "test" } {
  let stem = name;
  let role: "train" | "test" = "train";
  for (;;) {
    if (TEST.test(stem)) role = "test";
    const shorter = ENCODING.test(stem)
      ? stem.replace(ENCODING, "")
      : stem.replace(TEST, "").replace(TRAIN, "");
    if (shorter === stem) return { stem, role };
    stem = shorter;
  }
}

/**
 * Finds the training file and the test file in `path`: a directory, or the training file itself.
 *
 * A test file is called like its training file with `.t`, `.te` or `.test` (or with `_` or `-`), or just `test`;
 * endings such as `.gz` and `.csv` do not count. In a directory with several data sets `file` says which one, by
 * its stem (`a9a`) or by the name of its training file.
 *
 * @throws {DataError} if nothing fits, or several data sets do and `file` is absent; the message lists them.
 */
export async function findPair(path: string, file?: string): Promise<FilePair> {
  const cannot = (found: string, needed: string): DataError =>
    new DataError(`Cannot find data in "${path}": ${found}, ${needed} is needed`);
  let isDirectory: boolean;
  let names: readonly string[];
  try {
    isDirectory = (await stat(path)).isDirectory();
    const entries = await readdir(isDirectory ? path : dirname(path), { withFileTypes: true });
    names = entries
      .filter((entry) => !entry.isDirectory() && !NOT_DATA.test(entry.name))
      .map(({ name }) => name);
  } catch (error) {
    throw cannot(reason(error), "a readable directory or file");
  }
  const folder = isDirectory ? path : dirname(path);
  const wanted = isDirectory ? file : basename(path);
  // Sorted so that a plain file comes before its packed copy, on every system.
  const described = [...names].sort().map((name) => ({ name, ...describe(name) }));
  const testOf = (stem: string): string | undefined =>
    described.find((other) => other.role === "test" && other.stem === stem)?.name;
  const pairOf = (train: string, stem: string): FilePair => {
    const test = testOf(stem);
    const pair = { train: join(folder, train) };
    return test === undefined || test === train ? pair : { ...pair, test: join(folder, test) };
  };
  if (!isDirectory) return pairOf(basename(path), describe(basename(path)).stem);

  const trains = described.filter(({ role }) => role === "train");
  const stems = [...new Set(trains.map(({ stem }) => stem))];
  const list = trains.length === 0 ? "no data file" : trains.map(({ name }) => name).join(", ");
  if (wanted !== undefined) {
    const train = trains.find(({ name, stem }) => name === wanted || stem === wanted);
    if (train === undefined)
      throw cannot(`file "${wanted}" was asked for and it holds ${list}`, "one of these");
    return pairOf(train.name, train.stem);
  }
  if (stems.length === 0) throw cannot("it holds no data file", "a training file");
  if (stems.length > 1) throw cannot(`it holds ${list}`, "the name of one of these (--data-file)");
  return pairOf(trains[0]!.name, trains[0]!.stem);
}
