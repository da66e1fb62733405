/** Words in pieces: frequent ones are one number, others are spelled (byte-pair encoding, of characters). */

/** Lower-case words and punctuation marks. */
export function wordsOf(sentence: string): readonly string[] {
  return sentence.toLowerCase().match(/[\p{L}\p{N}]+|[^\s\p{L}\p{N}]/gu) ?? [];
}

/** Numbers that are no piece of a word: nothing, the end of what is to be translated, the end, an unknown character. */
export const marks = { none: 0, separator: 1, end: 2, unknown: 3 } as const;

/** A vocabulary, and texts by it. */
export interface Pieces {
  readonly size: number;
  encode(sentence: string): readonly number[];
  /** The words of a sequence; numbers that are no pieces are left out. */
  decode(numbers: readonly number[]): readonly string[];
}

/** Put before the first character of a word. */
const START = "\u2581";

interface Word {
  symbols: readonly string[];
  readonly count: number;
}

/**
 * Learns pieces: `merges` times the pair of neighbours that is most frequent becomes one, of equally frequent ones the first
 * by its characters.
 *
 * @source Sennrich, Haddow & Birch 2016, "Neural machine translation of rare words with subword units"
 */
export function learnPieces(sentences: readonly string[], merges: number): Pieces {
  const counts = new Map<string, number>();
  for (const sentence of sentences)
    for (const word of wordsOf(sentence)) counts.set(word, (counts.get(word) ?? 0) + 1);
  const words = [...counts].map(([word, count]): Word => ({ symbols: [...(START + word)], count }));
  const vocabulary = [...new Set(words.flatMap(({ symbols }) => symbols))].sort();
  const ranks = new Map<string, number>();

  /** How often each pair occurs, and in which words it did. */
  const pairs = new Map<string, { count: number; readonly words: Set<number> }>();
  const count = (i: number, sign: 1 | -1): void => {
    const { symbols, count: times } = words[i]!;
    for (let at = 1; at < symbols.length; at++) {
      const pair = pairOf(symbols[at - 1]!, symbols[at]!);
      const known = pairs.get(pair) ?? { count: 0, words: new Set<number>() };
      known.count += sign * times;
      known.words.add(i);
      if (known.count === 0) pairs.delete(pair);
      else pairs.set(pair, known);
    }
  };
  for (const i of words.keys()) count(i, 1);
  for (let rank = 0; rank < merges && pairs.size > 0; rank++) {
    let [best, most] = ["", 0];
    for (const [pair, { count: times }] of pairs) {
      if (times > most || (times === most && pair < best)) [best, most] = [pair, times];
    }
    ranks.set(best, rank);
    vocabulary.push(best.replace(" ", ""));
    for (const i of pairs.get(best)!.words) {
      count(i, -1);
      words[i]!.symbols = merged(words[i]!.symbols, best);
      count(i, 1);
    }
  }

  const first = Object.keys(marks).length;
  const numbers = new Map(vocabulary.map((piece, i) => [piece, first + i]));
  const known = new Map<string, readonly number[]>();
  const encoded = (word: string): readonly number[] => {
    let symbols: readonly string[] = [...(START + word)];
    for (;;) {
      const next = symbols
        .slice(1)
        .map((symbol, at) => pairOf(symbols[at]!, symbol))
        .reduce((a, b) => ((ranks.get(b) ?? Infinity) < (ranks.get(a) ?? Infinity) ? b : a), "");
      if (!ranks.has(next)) return symbols.map((symbol) => numbers.get(symbol) ?? marks.unknown);
      symbols = merged(symbols, next);
    }
  };
  return {
    size: first + vocabulary.length,
    encode: (sentence) =>
      wordsOf(sentence).flatMap((word) => {
        const own = known.get(word) ?? encoded(word);
        known.set(word, own);
        return own;
      }),
    decode: (sequence) =>
      sequence
        .map((number) => vocabulary[number - first] ?? "")
        .join("")
        .split(START)
        .filter((word) => word !== ""),
  };
}

/** No symbol has a space. */
const pairOf = (a: string, b: string): string => `${a} ${b}`;

/** Every occurrence of a pair as one symbol, from the left. */
function merged(symbols: readonly string[], pair: string): readonly string[] {
  const result: string[] = [];
  for (let at = 0; at < symbols.length; at++) {
    const isPair = at + 1 < symbols.length && pairOf(symbols[at]!, symbols[at + 1]!) === pair;
    result.push(isPair ? symbols[at]! + symbols[++at]! : symbols[at]!);
  }
  return result;
}
