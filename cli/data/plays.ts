import { DataError } from "./dataset.ts";
import type { RandomStream } from "./random.ts";
import { randomStream } from "./random.ts";
import type { TextSet } from "./text.ts";
import { textSet } from "./text.ts";

/** Keeps this text apart from other uses of the same seed. */
const PLAYS_STREAM = 5;

const ONSETS = "b d f g h k l m n p r s t v w br dr fl gr pl sh st th tr".split(" ");
const VOWELS = "a e i o u ai ea oo".split(" ");
const CODAS = ["", "", "d", "l", "m", "n", "r", "s", "t", "nd", "st"];
const JOINTS = [" and ", ", but ", ", for ", "; "];
const ENDS = [".", ".", ".", "!", "?"];

/** The made-up words of a seed, by what they do in a sentence. */
interface Lexicon {
  readonly speakers: readonly string[];
  readonly nouns: readonly string[];
  readonly verbs: readonly string[];
  readonly adjectives: readonly string[];
  readonly adverbs: readonly string[];
}

/** An entry of a list; early ones are much more frequent, as words are: the position is a uniform number squared. */
function pick(stream: RandomStream, list: readonly string[]): string {
  const u = stream.uniform();
  return list[Math.floor(list.length * u * u)]!;
}

/** As many different words of one to `syllables` syllables. */
function coin(stream: RandomStream, count: number, syllables: number, ending: string): readonly string[] {
  const words = new Set<string>();
  while (words.size < count) {
    let word = "";
    for (let left = 1 + stream.below(syllables); left > 0; left--) {
      word += pick(stream, ONSETS) + pick(stream, VOWELS);
    }
    words.add(word + pick(stream, CODAS) + ending);
  }
  return [...words];
}

const capital = (word: string): string => word[0]!.toUpperCase() + word.slice(1);

/** Something that does or suffers, and whether there are several of it. */
function nounPhrase(stream: RandomStream, { nouns, adjectives }: Lexicon): readonly [string, boolean] {
  const isPlural = stream.uniform() < 0.3;
  const determiner = isPlural
    ? pick(stream, ["the", "some", "my"])
    : pick(stream, ["the", "a", "my", "this"]);
  const adjective = stream.uniform() < 0.35 ? `${pick(stream, adjectives)} ` : "";
  return [`${determiner} ${adjective}${pick(stream, nouns)}${isPlural ? "es" : ""}`, isPlural];
}

/** Somebody does something, to something or in some way; the verb agrees with who does it. */
function clause(stream: RandomStream, lexicon: Lexicon): string {
  const [subject, isPlural] = nounPhrase(stream, lexicon);
  const verb = pick(stream, lexicon.verbs) + (isPlural ? "" : "s");
  const rest = stream.uniform() < 0.7 ? nounPhrase(stream, lexicon)[0] : pick(stream, lexicon.adverbs);
  return `${subject} ${verb} ${rest}`;
}

/** A speaker's name on a line of its own, then one to four sentences. */
function speech(stream: RandomStream, lexicon: Lexicon): string {
  const sentences: string[] = [];
  for (let left = 1 + stream.below(4); left > 0; left--) {
    const first = capital(clause(stream, lexicon));
    const second = stream.uniform() < 0.4 ? pick(stream, JOINTS) + clause(stream, lexicon) : "";
    sentences.push(first + second + pick(stream, ENDS));
  }
  return `${pick(stream, lexicon.speakers).toUpperCase()}:\n${sentences.join(" ")}\n\n`;
}

/** What `plays` can be asked for. */
export interface PlaysOptions {
  readonly seed: number;
  /** How long the text is at least, in characters; 300,000 unless told. */
  readonly length?: number;
}

/**
 * Writes the text "plays": speeches of made-up words in a small grammar, with names, agreement and punctuation. A model
 * of characters can learn its spelling, its frequencies and its order of words; the rest is chance.
 *
 * Nothing is read or fetched: the text follows from the seed alone, the same on every JavaScript engine.
 *
 * @example
 * ```ts
 * const { train, vocabulary } = plays({ seed: 1, length: 1000 });
 * vocabulary[train[0]!]; // a capital letter
 * ```
 * @throws {DataError} if the seed or the length is not a whole number, or the length is below 10.
 */
export function plays({ seed, length = 300_000 }: PlaysOptions): TextSet {
  if (!Number.isSafeInteger(seed) || !Number.isSafeInteger(length) || length < 10) {
    throw new DataError(
      `Cannot write plays of seed ${seed} and ${length} characters: whole numbers and at least 10 characters are needed`,
    );
  }
  const stream = randomStream([seed, PLAYS_STREAM]);
  const lexicon: Lexicon = {
    speakers: coin(stream, 8, 2, ""),
    nouns: coin(stream, 80, 2, ""),
    verbs: coin(stream, 50, 2, ""),
    adjectives: coin(stream, 40, 1, "y"),
    adverbs: coin(stream, 15, 1, "ly"),
  };
  const parts: string[] = [];
  let written = 0;
  while (written < length) {
    const next = speech(stream, lexicon);
    parts.push(next);
    written += next.length;
  }
  const text = parts.join("");
  return textSet("plays", { path: "plays", text }, `written by the program from seed ${seed}`);
}
