/** The murmur3 finaliser: every bit of the result depends on every bit of `word`. */
function mix(word: number): number {
  word = Math.imul(word ^ (word >>> 16), 0x85ebca6b);
  word = Math.imul(word ^ (word >>> 13), 0xc2b2ae35);
  return (word ^ (word >>> 16)) >>> 0;
}

/** One word that names a stream: the words in order, each mixed into what came before. */
function streamKey(words: readonly number[]): number {
  let key = 0x9e3779b9;
  for (const word of words) {
    // Whole numbers beyond 32 bits keep their high part, so that seeds 1 and 1 + 2^32 differ.
    const high = Math.floor(word / 0x100000000);
    key = mix(key ^ mix((word >>> 0) + 0x7f4a7c15));
    key = mix((key + Math.imul(high, 0x632be5ab)) | 0);
  }
  return key;
}

/** A source of numbers that is a pure function of its key and of how many were drawn before. */
export interface RandomStream {
  /** A number in [0, 1) with 32 random bits. */
  uniform(): number;
  /** A number in [low, high). */
  between(low: number, high: number): number;
  /** A whole number in 0..bound-1. */
  below(bound: number): number;
}

/**
 * Opens the stream named by `words` (whole numbers, for example seed, split and example index).
 *
 * Draw n is the hash of (key, n), computed in 32-bit integer arithmetic alone, so that every JavaScript engine
 * gives the same bits, and example 17 can be drawn without drawing the 16 before it.
 *
 * @example
 * ```ts
 * const stream = randomStream([seed, epoch]);
 * const swapWith = stream.below(10);
 * ```
 */
export function randomStream(words: readonly number[]): RandomStream {
  const key = streamKey(words);
  const second = mix(key ^ 0x5bd1e995);
  let counter = 0;
  const uniform = (): number => {
    counter = (counter + 1) | 0;
    return mix(mix(Math.imul(counter, 0x9e3779b1) ^ key) + second) / 0x100000000;
  };
  return {
    uniform,
    between: (low, high) => low + (high - low) * uniform(),
    below: (bound) => Math.floor(bound * uniform()),
  };
}

/**
 * The whole numbers 0..count-1 in an order that is a pure function of `words` (Fisher and Yates).
 *
 * Every order is as likely as any other, but for the 32 bits of each draw.
 */
export function permutation(count: number, words: readonly number[]): Int32Array {
  const order = Int32Array.from({ length: count }, (_, i) => i);
  const stream = randomStream(words);
  for (let i = count - 1; i > 0; i--) {
    const j = stream.below(i + 1);
    const kept = order[i]!;
    order[i] = order[j]!;
    order[j] = kept;
  }
  return order;
}
