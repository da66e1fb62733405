/** Sentences and their translations: of Multi30k, or of two made-up languages. */
import { join } from "node:path";
import { type RandomStream, randomStream } from "../../cli/data/random.ts";
import { readText } from "../../cli/data/read_bytes.ts";

/** A sentence and its translation. */
export type SentencePair = readonly [source: string, target: string];

/** Pairs to learn from and to be judged on. */
export interface SentencePairs {
  readonly name: string;
  readonly train: readonly SentencePair[];
  readonly validation: readonly SentencePair[];
}

/** Multi30k, task 1, English to German: train.en.gz, train.de.gz, val.en.gz and val.de.gz in a directory. */
export async function multi30k(dir: string): Promise<SentencePairs> {
  const lines = async (file: string): Promise<readonly string[]> =>
    (await readText(join(dir, file))).trimEnd().split("\n");
  const pairsOf = async (part: string): Promise<readonly SentencePair[]> => {
    const [english, german] = [await lines(`${part}.en.gz`), await lines(`${part}.de.gz`)];
    if (english.length === german.length) return english.map((sentence, i) => [sentence, german[i]!]);
    throw new RangeError(
      `Cannot pair sentences of "${dir}": ${part} has ${english.length} English and ${german.length} German ones, equally many are needed`,
    );
  };
  return { name: "multi30k", train: await pairsOf("train"), validation: await pairsOf("val") };
}

const TRAIN = 8000;
const VALIDATION = 400;

/**
 * Somebody does something to somebody somewhere, in two made-up languages: other words, adjectives after nouns that they agree
 * with, the verb at the end, which agrees with who does it.
 */
export function madeUpPairs(seed: number): SentencePairs {
  const stream = randomStream([seed, 11]);
  const words = (count: number, ending: string): readonly SentencePair[] =>
    Array.from({ length: count }, () => [coin(stream), coin(stream) + ending]);
  const [nouns, verbs, adjectives, places] = [words(80, ""), words(40, "en"), words(30, ""), words(20, "")];
  const phrase = (): readonly [source: string, target: string, ending: string] => {
    const [noun, its] = pick(stream, nouns);
    // The class of a noun is heard in its last letter.
    const ending = its.charCodeAt(its.length - 1) % 2 === 0 ? "o" : "ir";
    if (stream.uniform() < 0.5) return [`the ${noun}`, `d${ending} ${its}`, ending];
    const [adjective, meaning] = pick(stream, adjectives);
    return [`the ${adjective} ${noun}`, `d${ending} ${its} ${meaning}${ending}`, ending];
  };
  const draw = (): SentencePair => {
    const [who, agent, ending] = phrase();
    const [whom, patient] = phrase();
    const [verb, doing] = pick(stream, verbs);
    const [place, there] = pick(stream, places);
    const isSomewhere = stream.uniform() < 0.5;
    return [
      `${who} ${verb}s ${whom}${isSomewhere ? ` in ${place}` : ""} .`,
      `${isSomewhere ? `${there}il ` : ""}${agent} ${patient} ${doing}${ending} .`,
    ];
  };
  const all = Array.from({ length: TRAIN + VALIDATION }, draw);
  return { name: "made-up sentences", train: all.slice(0, TRAIN), validation: all.slice(TRAIN) };
}

/** Early ones are more frequent. */
const pick = <T>(stream: RandomStream, list: readonly T[]): T =>
  list[Math.floor(list.length * stream.uniform() ** 2)]!;

/** A word of one to three syllables. */
function coin(stream: RandomStream): string {
  const syllables = Array.from(
    { length: 1 + stream.below(3) },
    () => "bdfgklmnprstvz"[stream.below(14)]! + "aeiou"[stream.below(5)]!,
  );
  return syllables.join("") + ["", "n", "r", "s"][stream.below(4)]!;
}
