/** Examples where a run computes. The host copies rows for every batch; a device gets them once and takes rows there. */
import { jit } from "../autodiff/jit.ts";
import { take } from "../core/ops.ts";
import { adopt, placed } from "../core/trace.ts";
import type { Tensor, Value } from "../core/value.ts";
import type { Range } from "./data/batches.ts";
import type { Dataset, Split } from "./data/dataset.ts";

/** Features and labels of some examples. */
export interface Batch {
  /** f32[examples, ...exampleShape] */
  readonly x: Value;
  /** i32[examples] */
  readonly y: Value;
}

/** A range of the examples of a split. */
export interface Rows {
  readonly count: number;
  /** The examples of these numbers, counted from the start of the range. */
  at(numbers: Int32Array): Batch;
}

/** Ranges of the splits of a data set, for batches on a device. */
export function placedRows(data: Dataset, device: string): (split: Split, range: Range) => Rows {
  const width = data.exampleShape.reduce((a, b) => a * b, 1);
  const shape = data.exampleShape.length === 2 ? [1, ...data.exampleShape] : data.exampleShape;
  const copied = ({ features, labels }: Split, start: number, numbers: Int32Array): TensorBatch => {
    const x = new Float32Array(numbers.length * width);
    const y = new Int32Array(numbers.length);
    numbers.forEach((number, i) => {
      const row = start + number;
      x.set(features.subarray(row * width, (row + 1) * width), i * width);
      y[i] = labels[row]!;
    });
    return { x: adopt(x, [numbers.length, ...shape], "float32"), y: adopt(y, [numbers.length], "int32") };
  };
  if (device === "cpu")
    return (split, { start, end }) => ({
      count: end - start,
      at: (numbers) => copied(split, start, numbers),
    });

  const chosen = jit(
    ({ x, y }: Batch, numbers: Value): Batch => ({ x: take(x, numbers), y: take(y, numbers) }),
  );
  const sent = new Map<Split, Map<number, Rows>>();
  return (split, { start, end }) => {
    const known = sent.get(split) ?? new Map<number, Rows>();
    sent.set(split, known);
    const count = end - start;
    const send = (): Rows => {
      const { x, y } = copied(
        split,
        start,
        Int32Array.from({ length: count }, (_, i) => i),
      );
      const all: Batch = { x: placed(x, device), y: placed(y, device) };
      return {
        count,
        at: (numbers) => chosen(all, adopt(Int32Array.from(numbers), [numbers.length], "int32")),
      };
    };
    const rows = known.get(start) ?? send();
    known.set(start, rows);
    return rows;
  };
}

interface TensorBatch extends Batch {
  readonly x: Tensor;
  readonly y: Tensor;
}
