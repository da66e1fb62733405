/** Examples and their classes, as plain typed arrays. */
export interface Split {
  /** Row-major, one example after another: `count` times the product of the example shape. */
  readonly features: Float32Array;
  /** `count` classes, each in 0..classes-1. */
  readonly labels: Int32Array;
  readonly count: number;
}

/** A classification task: one split to learn from and one to be judged on. */
export interface Dataset {
  readonly name: string;
  /** The shape of one example: `[28, 28]` for a grey image, `[3, 32, 32]` for a colour one, `[123]` for a row. */
  readonly exampleShape: readonly number[];
  readonly classes: number;
  readonly train: Split;
  readonly test: Split;
  /** What a reader of results should know about how the numbers were made. */
  readonly notes?: string;
}

/** A data file that is missing, unreadable or not what its name promises. The message names the file. */
export class DataError extends Error {
  override readonly name: string = "DataError";
}

/** The first `limit` examples of a split, or the split itself when it has no more than that or `limit` is absent. */
export function limitSplit(split: Split, limit: number | undefined): Split {
  if (limit === undefined || limit >= split.count) return split;
  const width = split.features.length / split.count;
  return {
    features: split.features.slice(0, limit * width),
    labels: split.labels.slice(0, limit),
    count: limit,
  };
}
