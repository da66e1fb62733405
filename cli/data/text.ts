/** Text as numbers: the characters of one file, in two parts. */
import { join } from "node:path";
import { DataError } from "./dataset.ts";
import { readText } from "./read_bytes.ts";
import { findFile } from "./remote_set.ts";
import type { NamedText } from "./table.ts";

/** Characters to learn from, and those after them to be judged on. */
export interface TextSet {
  readonly name: string;
  /** Every character of both parts, in the order of their code points; character k of the text is entry k here. */
  readonly vocabulary: readonly string[];
  /** Positions in the vocabulary. */
  readonly train: Int32Array;
  readonly validation: Int32Array;
  /** What a reader of results should know about where the text is from. */
  readonly notes: string;
}

/** Parts in ten of a text that are learned from; the rest is the validation part. */
const TRAIN_TENTHS = 9;

/**
 * Parts a text into its first nine tenths and the rest, and numbers its characters.
 *
 * @example
 * ```ts
 * textSet("two", { path: "two.txt", text: "abracadabra" }, "").vocabulary; // ["a", "b", "c", "d", "r"]
 * ```
 * @throws {DataError} if there are fewer than ten characters.
 */
export function textSet(name: string, { path, text }: NamedText, notes: string): TextSet {
  const characters = [...text];
  if (characters.length < 10) {
    throw new DataError(
      `Cannot read text "${path}": it has ${characters.length} characters, at least 10 are needed`,
    );
  }
  const vocabulary = [...new Set(characters)].sort((a, b) => a.codePointAt(0)! - b.codePointAt(0)!);
  const numberOf = new Map(vocabulary.map((character, k) => [character, k]));
  const numbers = Int32Array.from(characters, (character) => numberOf.get(character)!);
  const boundary = Math.floor((TRAIN_TENTHS * numbers.length) / 10);
  return {
    name,
    vocabulary,
    train: numbers.slice(0, boundary),
    validation: numbers.slice(boundary),
    notes,
  };
}

/** The file of {@link loadTinyShakespeare}. */
const SHAKESPEARE_FILE = "input.txt";

/**
 * Loads "tinyshakespeare", a million characters of plays as char-rnn has them, from `input.txt` in `dir`.
 *
 * @throws {DataError} if the file is not there, or is not text.
 */
export async function loadTinyShakespeare(dir: string): Promise<TextSet> {
  const path = await findFile(dir, SHAKESPEARE_FILE);
  if (path === undefined) {
    throw new DataError(
      `Cannot load tinyshakespeare from "${dir}": ${SHAKESPEARE_FILE} is not there, ` +
        `"${join(dir, SHAKESPEARE_FILE)}" is needed`,
    );
  }
  return textSet(
    "tinyshakespeare",
    { path, text: await readText(path) },
    "the last tenth is the validation part",
  );
}
