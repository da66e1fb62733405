import { DataError } from "./dataset.ts";
import { permutation } from "./random.ts";

/** Keeps this choice apart from other uses of the same seed. */
const HOLD_OUT_STREAM = 3;

/** Said in a data set's notes wherever this split was made. */
export const holdOutNote = "no test file, so a fifth of the rows, chosen by the seed, is the test split";

/**
 * Parts the rows 0..count-1 into four fifths to learn from and one fifth to be judged on. The choice follows from
 * the seed alone; each part keeps the order of the file.
 *
 * @throws {DataError} if there are fewer than two rows.
 */
export function holdOut(
  count: number,
  seed: number,
): { readonly train: Int32Array; readonly test: Int32Array } {
  if (count < 2) {
    throw new DataError(`Cannot hold out a test split: there is ${count} row, at least 2 are needed`);
  }
  const order = permutation(count, [seed, HOLD_OUT_STREAM]);
  const testCount = Math.max(1, Math.round(count / 5));
  return { train: order.slice(testCount).sort(), test: order.slice(0, testCount).sort() };
}
