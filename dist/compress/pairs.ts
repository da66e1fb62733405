/** Vectors as integers, two in a word, whose sums over the workers are exact: 16 bits of each number in both directions. */
import { jit } from "../../autodiff/jit.ts";
import { abs, add, clip, div, maximum, mul, round, sub } from "../../core/ops/math.ts";
import { max } from "../../core/ops/reduce.ts";
import { cast, concat, pad, slice } from "../../core/ops/shape.ts";
import { scalar } from "../../core/trace.ts";
import type { Value } from "../../core/value.ts";

/**
 * A vector `[n]` of integers, or the sum of such: of one worker, or of all.
 *
 * Shapes: int32 `words` `[⌈n / 2⌉]`, each `low + 65536 high` with `low` of the first half of the vector and `high` of the
 * second; `peak` is a scalar of the element type of the parameters.
 */
export interface Pairs {
  readonly words: Value;
  /** The largest magnitude before anything was cut off. */
  readonly peak: Value;
}

/** What is sent of a vector, what one of the integers stands for, and what is not sent: x = unit · integers + rest. */
export interface Split {
  readonly pairs: Pairs;
  readonly unit: Value;
  readonly rest: Value;
}

const base = 65_536;

/** Of all workers together: less than half the base by more than what float32 rounds in a word. */
const largestSum = 32_000;
const mostWorkers = 1024;

/**
 * The largest integer of one worker.
 *
 * @throws {RangeError} if there are so many workers that too little is left for each
 */
export function levelsOf(workers: number): number {
  if (workers <= mostWorkers) return Math.floor(largestSum / workers);
  throw new RangeError(
    `Cannot send in 16 bits: there are ${workers} workers, at most ${mostWorkers} or precision float32 is needed`,
  );
}

/** Numbers beyond the scale are cut off. */
export function splitPairs(x: Value, scale: Value, levels: number): Split {
  return splitBy(x, scale, scalar(levels, x.dtype));
}

const splitBy = jit((x: Value, scale: Value, levels: Value): Split => {
  const unit = div(scale, levels);
  const integers = clip(round(div(x, unit)), mul(-1, levels), levels);
  const rest = sub(x, mul(integers, unit));
  const half = Math.ceil(x.size / 2);
  const high = slice(integers, [half], [x.size]);
  const words = add(
    cast(slice(integers, [0], [half]), "int32"),
    mul(cast(x.size % 2 === 0 ? high : pad(high, [[0, 1]]), "int32"), base),
  );
  return { pairs: { words, peak: max(abs(x)) }, unit, rest };
});

/** Exact; of at most all workers. */
export const addPairs: (x: Pairs, y: Pairs) => Pairs = jit((x: Pairs, y: Pairs) => ({
  words: add(x.words, y.words),
  peak: maximum(x.peak, y.peak),
}));

/** The vector of n numbers. */
export function unpacked({ words }: Pairs, unit: Value, n: number): Value {
  const { dtype } = unit;
  // Float32 rounds a word by less than what `low` is away from half the base.
  const high = round(div(cast(words, dtype), base));
  const low = sub(words, mul(cast(high, "int32"), base));
  const both = concat([cast(low, dtype), slice(high, [0], [n - words.size])]);
  return mul(both, unit);
}
