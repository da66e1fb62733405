import type { Dataset } from "./dataset.ts";
import { DataError } from "./dataset.ts";
import type { NamedText, Table, TableOptions } from "./table.ts";
import { allocateRows, tableDataset } from "./table.ts";

/** Rows as the file has them: row r owns the pairs rowStarts[r]..rowStarts[r + 1]-1. */
interface SparseRows {
  readonly path: string;
  readonly labels: readonly number[];
  readonly lines: readonly number[];
  readonly rowStarts: readonly number[];
  /** Features counted from 1, ascending within a row. */
  readonly indices: readonly number[];
  readonly values: readonly number[];
  readonly maxIndex: number;
}

const DECIMAL = /^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$/;

/**
 * Reads lines `label index:value index:value ...`. A `#` begins a comment; blank lines may only end the file.
 *
 * @throws {DataError} naming the line, if anything else is found.
 */
function parseLibsvm({ path, text }: NamedText): SparseRows {
  const labels: number[] = [];
  const lines: number[] = [];
  const rowStarts = [0];
  const indices: number[] = [];
  const values: number[] = [];
  let maxIndex = 0;
  const content = text.trimEnd();
  if (content === "") throw new DataError(`Cannot read "${path}": it has no rows, at least 1 is needed`);

  content.split("\n").forEach((rawLine, i) => {
    const fail = (found: string, needed: string): never => {
      throw new DataError(`Cannot read "${path}": line ${i + 1} ${found}, ${needed} is needed`);
    };
    const comment = rawLine.indexOf("#");
    const line = (comment < 0 ? rawLine : rawLine.slice(0, comment)).trim();
    if (line === "") {
      if (comment >= 0) return;
      fail("is blank", "a label and its features");
    }
    const [label, ...pairs] = line.split(/\s+/) as [string, ...string[]];
    if (!DECIMAL.test(label) || !Number.isSafeInteger(Number(label))) {
      fail(`has label "${label}"`, "a whole number");
    }
    let last = 0;
    for (const pair of pairs) {
      const colon = pair.indexOf(":");
      const index = Number(pair.slice(0, colon));
      if (colon < 1 || !/^\d+$/.test(pair.slice(0, colon)) || !DECIMAL.test(pair.slice(colon + 1))) {
        fail(`has "${pair}"`, "index:value with numbers");
      }
      if (index <= last || !Number.isSafeInteger(index)) {
        fail(`has index ${index} after ${last}`, "an index of at least 1 that grows along the line");
      }
      indices.push(index);
      values.push(Number(pair.slice(colon + 1)));
      last = index;
    }
    if (last > maxIndex) maxIndex = last;
    labels.push(Number(label));
    lines.push(i + 1);
    rowStarts.push(indices.length);
  });
  if (labels.length === 0) throw new DataError(`Cannot read "${path}": it has no rows, at least 1 is needed`);
  return { path, labels, lines, rowStarts, indices, values, maxIndex };
}

function toTable(rows: SparseRows, width: number): Table {
  const features = allocateRows(rows.path, rows.labels.length, width);
  for (let row = 0; row < rows.labels.length; row++) {
    for (let pair = rows.rowStarts[row]!; pair < rows.rowStarts[row + 1]!; pair++) {
      features[row * width + rows.indices[pair]! - 1] = rows.values[pair]!;
    }
  }
  return { path: rows.path, width, features, labels: rows.labels, lines: rows.lines };
}

/** What a LIBSVM pair can be asked for. */
export interface LibsvmOptions extends TableOptions {
  /** Features per row; the largest index in either file unless told. */
  readonly featureCount?: number | undefined;
}

/**
 * Makes a data set of text in LIBSVM's format. Labels become classes in ascending order, so -1 and +1 become 0 and
 * 1; a feature that a row leaves out is 0; both splits have the same features even if one never uses the last.
 *
 * @example
 * ```ts
 * libsvmDataset({ path: "two.txt", text: "-1 1:0.5\n+1 3:2\n" }, undefined, { seed: 0 }).exampleShape; // [3]
 * ```
 * @throws {DataError} naming file and line, if a line is malformed or an index is above `featureCount`.
 */
export function libsvmDataset(
  train: NamedText,
  test: NamedText | undefined,
  { featureCount, ...options }: LibsvmOptions,
): Dataset {
  const files = [train, ...(test === undefined ? [] : [test])].map(parseLibsvm);
  const used = Math.max(...files.map(({ maxIndex }) => maxIndex));
  const width = featureCount ?? used;
  if (!Number.isSafeInteger(width) || width < Math.max(1, used)) {
    throw new DataError(
      `Cannot load "${train.path}": ${width} features were asked for or found and index ${used} is used, ` +
        `at least ${Math.max(1, used)} features are needed`,
    );
  }
  const [trainTable, testTable] = files.map((rows) => toTable(rows, width));
  return tableDataset("libsvm", trainTable!, testTable, options);
}
