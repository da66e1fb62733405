/** Vectors as integers, two in a word, whose sums over the workers are exact: 16 bits of each number in both directions. */
import { jit } from "../../autodiff/jit.ts";
import { abs, add, clip, div, maximum, mul, round, sub } from "../../core/ops/math.ts";
import { max } from "../../core/ops/reduce.ts";
import { broadcastTo, cast, concat, pad, reshape, slice } from "../../core/ops/shape.ts";
import { scalar } from "../../core/trace.ts";
import type { Value } from "../../core/value.ts";

/**
 * A vector `[n]` of integers, or the sum of such: of one worker, or of all.
 *
 * Shapes: int32 `words` `[⌈n / 2⌉]`, each `low + 65536 high` with `low` of the first half of the vector and `high` of the
 * second; `peaks` `[t]`, of t tensors, in the element type of the parameters.
 */
export interface Pairs {
  readonly words: Value;
  /** The largest magnitude in each tensor before anything was cut off. */
  readonly peaks: Value;
}

/** What is sent of a vector, what one of the integers of each tensor stands for, and what is not sent: x = unit · integers + rest. */
export interface Split {
  readonly pairs: Pairs;
  /** Shapes: `[t]`. */
  readonly units: Value;
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

/** Vectors of some tensors as integers, with a scale for each tensor that has an element. */
export interface Packing {
  /** How many scales there are. */
  readonly scales: number;
  /** The largest magnitude in each tensor: `[t]`. */
  peaksOf(x: Value): Value;
  /** Numbers beyond the scale of their tensor are cut off. Shapes: `scales` `[t]`. */
  split(x: Value, scales: Value, levels: number): Split;
  /** The vector of n numbers. */
  unpacked(pairs: Pairs, units: Value): Value;
}

/** Vectors of tensors of these sizes, one after another. */
export function packingOf(sizes: readonly number[]): Packing {
  const filled = sizes.filter((size) => size > 0);
  const starts = [0];
  for (const size of filled) starts.push(starts.at(-1)! + size);
  const n = starts.at(-1)!;
  /** For each element what is given for each tensor. */
  const spread = (perTensor: Value): Value =>
    concat(filled.map((size, tensor) => broadcastTo(slice(perTensor, [tensor], [tensor + 1]), [size])));
  const peaksOf = (x: Value): Value =>
    concat(
      filled.map((_, tensor) => reshape(max(abs(slice(x, [starts[tensor]!], [starts[tensor + 1]!]))), [1])),
    );

  const splitBy = jit((x: Value, scales: Value, levels: Value): Split => {
    const units = div(scales, levels);
    const unit = spread(units);
    const integers = clip(round(div(x, unit)), mul(-1, levels), levels);
    const rest = sub(x, mul(integers, unit));
    const half = Math.ceil(n / 2);
    const high = slice(integers, [half], [n]);
    const words = add(
      cast(slice(integers, [0], [half]), "int32"),
      mul(cast(n % 2 === 0 ? high : pad(high, [[0, 1]]), "int32"), base),
    );
    return { pairs: { words, peaks: peaksOf(x) }, units, rest };
  });

  return {
    scales: filled.length,
    peaksOf,
    split: (x, scales, levels) => splitBy(x, scales, scalar(levels, x.dtype)),
    unpacked({ words }, units) {
      const { dtype } = units;
      // Float32 rounds a word by less than what `low` is away from half the base.
      const high = round(div(cast(words, dtype), base));
      const low = sub(words, mul(cast(high, "int32"), base));
      const both = concat([cast(low, dtype), slice(high, [0], [n - words.size])]);
      return mul(both, spread(units));
    },
  };
}

/** Exact; of at most all workers. */
export function addPairs(x: Pairs, y: Pairs): Pairs {
  return { words: add(x.words, y.words), peaks: maximum(x.peaks, y.peaks) };
}
