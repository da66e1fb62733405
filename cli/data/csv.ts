import type { Dataset, Split } from "./dataset.ts";
import { DataError } from "./dataset.ts";
import type { NamedText, Table, TableOptions } from "./table.ts";
import { allocateRows, tableDataset } from "./table.ts";

/** What a CSV pair can be asked for. */
export interface CsvOptions extends TableOptions {
  /** The column of the class: its name in the header, or its position counted from 1; the last unless told. */
  readonly labelColumn?: string | number | undefined;
}

const DECIMAL = /^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$/;

/** Fields of a line without surrounding blanks and quotation marks. */
function fieldsOf(line: string): readonly string[] {
  return line.split(",").map((field) => field.trim().replace(/^"(.*)"$/, "$1"));
}

/** The position of the label column, counted from 0. */
function labelPosition(
  path: string,
  labelColumn: string | number | undefined,
  header: readonly string[] | undefined,
  width: number,
): number {
  if (labelColumn === undefined) return width - 1;
  const named = header === undefined ? -1 : header.indexOf(String(labelColumn));
  if (named >= 0 && named < width) return named;
  const position = Number(labelColumn) - 1;
  if (Number.isInteger(position) && position >= 0 && position < width) return position;
  const names = header === undefined ? "it has no header line" : `its header is ${header.join(", ")}`;
  throw new DataError(
    `Cannot read "${path}": label column "${labelColumn}" was asked for and ${names}, ` +
      `a column name or a position from 1 to ${width} is needed`,
  );
}

/**
 * Reads comma-separated numbers. The first line is a header if one of its fields where the second line has a number
 * is not a number, or if it has another number of fields and is not all numbers.
 */
function parseCsv({ path, text }: NamedText, labelColumn: string | number | undefined): Table {
  const content = text.replace(/^\uFEFF/, "").trimEnd();
  const rows = content === "" ? [] : content.split("\n").map(fieldsOf);
  const isNumber = (field: string | undefined): boolean => field !== undefined && DECIMAL.test(field);
  const [first = [], second = []] = rows;
  const hasHeader =
    rows.length > 1 &&
    first.some((field, i) => !isNumber(field) && (first.length !== second.length || isNumber(second[i])));
  const skipped = hasHeader ? 1 : 0;
  const body = rows.slice(skipped);
  if (body.length === 0) throw new DataError(`Cannot read "${path}": it has no rows, at least 1 is needed`);

  const columns = body[0]!.length;
  if (columns < 2) {
    throw new DataError(
      `Cannot read "${path}": line ${skipped + 1} has 1 column, features and a label with commas between are needed`,
    );
  }
  const labelAt = labelPosition(path, labelColumn, hasHeader ? first : undefined, columns);
  const features = allocateRows(path, body.length, columns - 1);
  const labels: string[] = [];
  const lines: number[] = [];
  let next = 0;
  body.forEach((fields, row) => {
    const line = row + skipped + 1;
    if (fields.length !== columns) {
      throw new DataError(
        `Cannot read "${path}": line ${line} has ${fields.length} columns, ` +
          `${columns} as on line ${skipped + 1} are needed`,
      );
    }
    fields.forEach((field, column) => {
      if (column !== labelAt && isNumber(field)) {
        features[next++] = Number(field);
      } else if (column !== labelAt || field === "") {
        const needed = column === labelAt ? "a class" : "a number";
        throw new DataError(
          `Cannot read "${path}": line ${line}, column ${column + 1} is "${field}", ${needed} is needed`,
        );
      }
    });
    labels.push(fields[labelAt]!);
    lines.push(line);
  });
  return { path, width: columns - 1, features, labels: readLabels(path, labels, lines, labelAt), lines };
}

/** Labels as numbers if all are; a class is a whole number or a word. */
function readLabels(
  path: string,
  labels: readonly string[],
  lines: readonly number[],
  labelAt: number,
): readonly (number | string)[] {
  if (!labels.every((label) => DECIMAL.test(label))) return labels;
  const numbers = labels.map(Number);
  const broken = numbers.findIndex((label) => !Number.isSafeInteger(label));
  if (broken >= 0) {
    throw new DataError(
      `Cannot read "${path}": line ${lines[broken]}, column ${labelAt + 1} is "${labels[broken]}", ` +
        "a class (a whole number or a word) is needed",
    );
  }
  return numbers;
}

/** Brings each feature of both splits to mean 0 and deviation 1 over the training rows; a constant one becomes 0. */
function standardise(train: Split, test: Split, width: number): void {
  for (let column = 0; column < width; column++) {
    let mean = 0;
    for (let row = 0; row < train.count; row++) mean += train.features[row * width + column]! / train.count;
    let variance = 0;
    for (let row = 0; row < train.count; row++) {
      variance += (train.features[row * width + column]! - mean) ** 2 / train.count;
    }
    // x <- (x - mean) / deviation
    const deviation = Math.sqrt(variance);
    const divisor = deviation > 1e-7 * Math.abs(mean) ? deviation : 1;
    for (const { features, count } of [train, test]) {
      for (let row = 0; row < count; row++) {
        const at = row * width + column;
        features[at] = (features[at]! - mean) / divisor;
      }
    }
  }
}

/**
 * Makes a data set of comma-separated numbers with a class in one column. Features are brought to mean 0 and
 * deviation 1 with the numbers of the training rows alone. Classes are ordered by size, or by their characters if
 * any of them is a word.
 *
 * @example
 * ```ts
 * const text = "height,width,kind\n1,2,cat\n3,4,dog\n5,6,cat\n";
 * csvDataset({ path: "pets.csv", text }, undefined, { seed: 0 }).classes; // 2
 * ```
 * @throws {DataError} naming file, line and column, if a field is not what its column needs.
 */
export function csvDataset(
  train: NamedText,
  test: NamedText | undefined,
  { labelColumn, ...options }: CsvOptions,
): Dataset {
  const trainTable = parseCsv(train, labelColumn);
  const testTable = test === undefined ? undefined : parseCsv(test, labelColumn);
  if (testTable !== undefined && testTable.width !== trainTable.width) {
    throw new DataError(
      `Cannot load "${testTable.path}": its rows have ${testTable.width} features, ` +
        `${trainTable.width} as in "${trainTable.path}" are needed`,
    );
  }
  const raw = tableDataset("csv", trainTable, testTable, options);
  standardise(raw.train, raw.test, trainTable.width);
  return {
    ...raw,
    notes: `${raw.notes}; features have mean 0 and deviation 1 over the training rows`,
  };
}
