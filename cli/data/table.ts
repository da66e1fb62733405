import type { Dataset, Split } from "./dataset.ts";
import { DataError, limitSplit } from "./dataset.ts";
import { holdOut, holdOutNote } from "./hold_out.ts";

/** The rows of one text file, before its labels are classes. */
export interface Table {
  readonly path: string;
  /** Features per row. */
  readonly width: number;
  /** Row-major, as many rows as there are labels. */
  readonly features: Float32Array;
  readonly labels: readonly (number | string)[];
  /** The line of the file that each row came from, counted from 1. */
  readonly lines: readonly number[];
}

/** A text file in memory, and where it came from, for messages. */
export interface NamedText {
  readonly path: string;
  readonly text: string;
}

/** How tables become a data set. */
export interface TableOptions {
  /** Chooses the test rows if there is no test file. */
  readonly seed: number;
  readonly trainLimit?: number | undefined;
  readonly testLimit?: number | undefined;
}

/** More numbers than this do not fit a typed array on every engine: 2 GiB of 32-bit floats. */
const MOST_NUMBERS = 2 ** 29;

/**
 * Room for `rows` rows of `width` numbers.
 *
 * @throws {DataError} if that is more than 2 GiB.
 */
export function allocateRows(path: string, rows: number, width: number): Float32Array {
  if (rows * width > MOST_NUMBERS) {
    throw new DataError(
      `Cannot load "${path}": ${rows} rows of ${width} features are ${rows * width} numbers when stored densely, ` +
        `at most ${MOST_NUMBERS} are needed`,
    );
  }
  return new Float32Array(rows * width);
}

/** Distinct labels in class order: whole numbers by size; if any label is a word, all of them by their characters. */
function classOrder(labels: readonly (number | string)[]): readonly (number | string)[] {
  const distinct = [...new Set(labels)];
  const byCharacters = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0);
  return distinct.every((label) => typeof label === "number")
    ? distinct.sort((a, b) => a - b)
    : distinct.sort((a, b) => byCharacters(String(a), String(b)));
}

function toClasses(table: Table, classOf: ReadonlyMap<number | string, number>): Int32Array {
  return Int32Array.from(table.labels, (label, row) => {
    const found = classOf.get(label);
    if (found === undefined) {
      throw new DataError(
        `Cannot read "${table.path}": line ${table.lines[row]} has label ${JSON.stringify(label)}, ` +
          `one of the training labels [${[...classOf.keys()].join(", ")}] is needed`,
      );
    }
    return found;
  });
}

function pickRows(all: Split, rows: Int32Array): Split {
  const width = all.features.length / all.count;
  const features = new Float32Array(rows.length * width);
  rows.forEach((from, to) => {
    features.set(all.features.subarray(from * width, (from + 1) * width), to * width);
  });
  return { features, labels: rows.map((row) => all.labels[row]!), count: rows.length };
}

/**
 * Makes a data set of a training table and, if there is one, a test table of the same width. Without a test table a
 * fifth of the rows, chosen by the seed, is the test split.
 *
 * @throws {DataError} if there are fewer than two classes, or a test label that no training row has.
 */
export function tableDataset(
  name: string,
  train: Table,
  test: Table | undefined,
  { seed, trainLimit, testLimit }: TableOptions,
): Dataset {
  const order = classOrder(train.labels);
  if (order.length < 2) {
    throw new DataError(
      `Cannot load "${train.path}": all rows have label ${JSON.stringify(order[0])}, at least 2 classes are needed`,
    );
  }
  const classOf = new Map(order.map((label, index) => [label, index]));
  const splitOf = (table: Table): Split => ({
    features: table.features,
    labels: toClasses(table, classOf),
    count: table.labels.length,
  });

  const all = splitOf(train);
  const parts = test === undefined ? holdOut(all.count, seed) : undefined;
  const notes = [`classes 0..${order.length - 1}: ${order.join(", ")}`];
  if (parts !== undefined) notes.push(holdOutNote);
  return {
    name,
    exampleShape: [train.width],
    classes: order.length,
    train: limitSplit(parts === undefined ? all : pickRows(all, parts.train), trainLimit),
    test: limitSplit(parts === undefined ? splitOf(test!) : pickRows(all, parts.test), testLimit),
    notes: notes.join("; "),
  };
}
