/** Random numbers on the host as pure functions of whole numbers, such as seed, step, tensor and rank. */
import { threefry2x32 } from "../../core/prims/random.ts";

/** A source of up to 2^33 numbers; a source with the same name gives the same numbers, in every engine. */
export interface Draws {
  /** Uniform in [0, 1), with 32 random bits. */
  uniform(): number;
  /** Uniform among 0..bound-1, with 53 random bits. */
  below(bound: number): number;
}

/** The source of a name: whole numbers from 0 to 2^53 - 1, each folded into the key of those before it. */
export function draws(name: readonly number[]): Draws {
  const key = new Uint32Array([0, name.length]);
  for (const word of name) threefry2x32(key[0]!, key[1]!, Math.floor(word / 2 ** 32), word >>> 0, key, 0);
  const [k0, k1] = key as unknown as readonly [number, number];
  const pair = new Uint32Array(2);
  let counter = 0;
  let hasSecond = false;
  const uniform = (): number => {
    hasSecond = !hasSecond;
    if (!hasSecond) return pair[1]! / 2 ** 32;
    threefry2x32(k0, k1, 0, counter, pair, 0);
    counter++;
    return pair[0]! / 2 ** 32;
  };
  return {
    uniform,
    below: (bound) => Math.floor((uniform() + Math.floor(uniform() * 2 ** 21) / 2 ** 53) * bound),
  };
}

/**
 * Checks a seed.
 *
 * @throws {RangeError} if it is not a whole number that a number holds exactly
 */
export function checkSeed(seed: number, what: string): void {
  if (Number.isSafeInteger(seed) && seed >= 0) return;
  throw new RangeError(`Cannot ${what} with seed ${seed}: a non-negative integer up to 2^53 - 1 is needed`);
}
