/** How much of translations is in reference translations. */

/** The longest sequences of words that are looked for. */
const LONGEST = 4;

/**
 * BLEU of a corpus, from 0 to 1: the geometric mean over n = 1..4 of how many of the sequences of n words are also in the
 * reference of their sentence, each as often as it is there at most, times `exp(1 - r / c)` where the translations are shorter,
 * with c and r words in all. Without smoothing: 0 where no sequence of four words is right.
 *
 * @source Papineni et al. 2002, "BLEU: a method for automatic evaluation of machine translation"
 */
export function corpusBleu(
  translations: readonly (readonly string[])[],
  references: readonly (readonly string[])[],
): number {
  let logs = 0;
  for (let n = 1; n <= LONGEST; n++) {
    let [right, all] = [0, 0];
    translations.forEach((translation, i) => {
      const there = countsOf(references[i]!, n);
      for (const [words, count] of countsOf(translation, n)) {
        right += Math.min(count, there.get(words) ?? 0);
        all += count;
      }
    });
    if (right === 0) return 0;
    logs += Math.log(right / all) / LONGEST;
  }
  const lengthOf = (of: readonly (readonly string[])[]): number =>
    of.reduce((sum, { length }) => sum + length, 0);
  return Math.exp(logs + Math.min(0, 1 - lengthOf(references) / lengthOf(translations)));
}

function countsOf(words: readonly string[], n: number): ReadonlyMap<string, number> {
  const counts = new Map<string, number>();
  for (let at = 0; at + n <= words.length; at++) {
    const key = words.slice(at, at + n).join(" ");
    counts.set(key, (counts.get(key) ?? 0) + 1);
  }
  return counts;
}
