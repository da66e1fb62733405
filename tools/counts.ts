/** Reads the closing summaries of `bun test` and `deno test`. */

/** How many checks passed, failed and were skipped. */
export interface Counts {
  readonly passed: number;
  readonly failed: number;
  readonly skipped: number;
}

// biome-ignore lint/suspicious/noControlCharactersInRegex: the escape character is what starts a colour code
const COLOUR = /\u001b\[[0-9;]*m/g;
const NONE: Counts = { passed: 0, failed: 0, skipped: 0 };

/**
 * Counts from the standard error of `bun test`, which ends in lines such as ` 12 pass`, ` 0 fail`, and
 * `Ran 12 tests across 3 files. [1.20s]`.
 *
 * Todo tests count as skipped. A file that cannot be loaded is both a failure and an error in Bun's count; it is one here. Where no test ran, the summary is
 * missing (the process died), or the exit code contradicts the counts, that is one more failure and a line says so.
 *
 * @example
 * ```ts
 * readCounts(" 2 pass\n 1 skip\n 0 fail\nRan 3 tests across 1 file. [9.00ms]\n", 0); // { passed: 2, failed: 0, skipped: 1 }
 * ```
 */
export function readCounts(errors: string, code: number): Counts {
  const lines = errors.replace(COLOUR, "").trimEnd().split("\n");
  const last = lines.findLastIndex((line) => /^Ran \d+ tests? across \d+ files?\./.test(line));
  if (last < 0) return failure(NONE, `no closing summary (exit code ${code}), one is needed`);
  const words: Record<string, number> = {};
  for (let i = last - 1; i >= 0; i--) {
    const match = /^\s*(\d+) (pass|fail|skip|todo|errors?|filtered out|expect\(\) calls?|snapshots?.*)$/.exec(
      lines[i]!,
    );
    if (match === null) break;
    words[match[2]!.replace(/^error$/, "errors")] = Number(match[1]);
  }
  const counts: Counts = {
    passed: words["pass"] ?? 0,
    failed: Math.max(words["fail"] ?? 0, words["errors"] ?? 0),
    skipped: (words["skip"] ?? 0) + (words["todo"] ?? 0),
  };
  if (counts.passed + counts.failed === 0) return failure(counts, "zero tests ran, at least one is needed");
  if (code !== 0 && counts.failed === 0) {
    return failure(counts, `the exit code is ${code} but no test failed, exit code 0 is needed`);
  }
  return counts;
}

/**
 * Counts from the output of `deno test`, which ends in a line such as `ok | 12 passed | 0 failed | 2 ignored (3s)`. What
 * is missing or contradicts the exit code is one more failure, as for `readCounts`. A process that aborts with a damaged heap
 * after that line has been ended by the driver that was unloaded: its clean end was not seen, which is one more skip.
 *
 * @example
 * ```ts
 * readDenoCounts("FAILED | 2 passed | 1 failed (9ms)\n", 1); // { passed: 2, failed: 1, skipped: 0 }
 * ```
 */
export function readDenoCounts(output: string, code: number): Counts {
  const lines = output.replace(COLOUR, "").split("\n");
  const last = lines.findLast((line) => /^(?:ok|FAILED) \| \d+ passed/.test(line));
  if (last === undefined) return failure(NONE, `no closing summary (exit code ${code}), one is needed`);
  const count = (word: string): number => Number(new RegExp(`(\\d+) ${word}`).exec(last)?.[1] ?? 0);
  const counts: Counts = { passed: count("passed"), failed: count("failed"), skipped: count("ignored") };
  if (counts.passed + counts.failed === 0) return failure(counts, "zero tests ran, at least one is needed");
  if (
    code === ABORTED &&
    counts.failed === 0 &&
    DAMAGED_HEAP.test(output.slice(output.lastIndexOf(" passed")))
  ) {
    console.error(
      "Skipped: a clean end of the process. Its heap was damaged when the graphics driver was unloaded, after all tests had passed",
    );
    return { ...counts, skipped: counts.skipped + 1 };
  }
  if (code !== 0 && counts.failed === 0) {
    return failure(counts, `the exit code is ${code} but no test failed, exit code 0 is needed`);
  }
  return counts;
}

/** What says which test failed, why and where: in the words of Bun, of Deno, and of an assertion. */
const TELLING =
  /^\(fail\) |^\s*\^ this test timed out|\.\.\. FAILED|^(?:\w*Error|error(?: in test)?): |^(?:Expected|Received)\b|^\s+at .*\.test\.ts/;
const MOST_LINES = 40;

/**
 * The lines of a run that say which tests failed and why, at most 40; where none does, its last ones. A summary at the
 * end repeats them, as what is kept of a long run is often no more than its end.
 */
export function failureLines(output: string): readonly string[] {
  const lines = output.replace(COLOUR, "").trimEnd().split("\n");
  const telling = lines.filter((line) => TELLING.test(line));
  if (telling.length === 0) return lines.slice(-MOST_LINES);
  const more = telling.length - MOST_LINES;
  return more > 0 ? [...telling.slice(0, MOST_LINES), `and ${more} more`] : telling;
}

/** The exit code of a process that has aborted itself, and what the system's allocator says before it does. */
const ABORTED = 134;
const DAMAGED_HEAP = /^(?:corrupted|malloc|free|double free)\b.*$/m;

function failure(counts: Counts, what: string): Counts {
  console.error(`Cannot trust the result of a test run: ${what}`);
  return { ...counts, failed: counts.failed + 1 };
}
