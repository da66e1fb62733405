import { permutation } from "./random.ts";

/** Keeps the orders of epochs apart from other uses of the same seed. */
const EPOCH_STREAM = 2;

/**
 * The order in which epoch `epoch` visits the examples 0..count-1: the same seed and epoch, the same order, in any
 * process and on any engine.
 *
 * @example
 * ```ts
 * const order = epochOrder(split.count, 0, seed);
 * const firstBatch = order.subarray(0, 64);
 * ```
 * @throws {RangeError} if `count` or `epoch` is not a whole number of at least 0.
 */
export function epochOrder(count: number, epoch: number, seed: number): Int32Array {
  checkWhole("order", "number of examples", count, 0);
  checkWhole("order", "epoch", epoch, 0);
  return permutation(count, [seed, EPOCH_STREAM, epoch]);
}

/** The positions start..end-1. */
export interface Range {
  readonly start: number;
  readonly end: number;
}

/**
 * The contiguous part of 0..count-1 that worker `rank` of `workers` holds. The parts cover everything once, in the
 * order of the ranks, and their sizes differ by at most one.
 *
 * @throws {RangeError} if `workers` is less than 1 or `rank` is not in 0..workers-1.
 */
export function shard(count: number, rank: number, workers: number): Range {
  checkWhole("shard", "number of examples", count, 0);
  checkWhole("shard", "number of workers", workers, 1);
  checkWhole("shard", "rank", rank, 0);
  if (rank >= workers) {
    throw new RangeError(`Cannot shard the examples: the rank is ${rank}, a rank below ${workers} is needed`);
  }
  const boundary = (of: number): number => Math.floor((of * count) / workers);
  return { start: boundary(rank), end: boundary(rank + 1) };
}

function checkWhole(verb: string, what: string, value: number, least: number): void {
  if (Number.isSafeInteger(value) && value >= least) return;
  throw new RangeError(
    `Cannot ${verb} the examples: the ${what} is ${value}, a whole number of at least ${least} is needed`,
  );
}
