/**
 * Properties as tests: fast-check inside `bun test`, with a replay line on failure.
 *
 * Environment: `FC_RUNS` is the number of draws (default 30, in CI 100). `FC_SEED` is the seed; without it the seed
 * comes from the name, so that one commit gives one verdict; `FC_SEED=random` explores. `FC_PATH`, with a seed, repeats
 * a single failing draw.
 */
import { test } from "bun:test";
import { relative } from "node:path";
import { fileURLToPath } from "node:url";
import fc from "fast-check";

/** One arbitrary for each argument. */
type Arbitraries<T extends readonly unknown[]> = { [K in keyof T]: fc.Arbitrary<T[K]> };

/** Holds unless it returns `false` or throws. `fc.pre(condition)` discards a draw. */
// biome-ignore lint/suspicious/noConfusingVoidType: a predicate may end without a return
type Predicate<T extends readonly unknown[]> = (...args: T) => boolean | void | Promise<boolean | void>;

/** What a property may fix. */
export interface PropertyOptions<T extends readonly unknown[]> {
  /** Arguments to try first: found counterexamples, with the issue number in a comment. */
  readonly examples?: readonly T[];
  /** Draws, where the property is slow; `FC_RUNS` wins. */
  readonly runs?: number;
  /** The limit of the whole test in milliseconds. */
  readonly timeoutMs?: number;
}

/**
 * Defines a test that the predicate holds for every draw.
 *
 * @example
 * ```ts
 * prop("addition commutes", fc.integer(), fc.integer(), (a, b) => a + b === b + a);
 * ```
 */
export function prop<T extends [unknown, ...unknown[]]>(
  name: string,
  ...rest: [...Arbitraries<T>, Predicate<T>]
): void {
  define({}, name, rest);
}

/**
 * The same with options.
 *
 * @example
 * ```ts
 * propWith({ examples: [[0, 0]] }, "addition commutes", fc.integer(), fc.integer(), (a, b) => a + b === b + a);
 * ```
 */
export function propWith<T extends [unknown, ...unknown[]]>(
  options: PropertyOptions<T>,
  name: string,
  ...rest: [...Arbitraries<T>, Predicate<T>]
): void {
  define(options, name, rest);
}

function define<T extends [unknown, ...unknown[]]>(
  options: PropertyOptions<T>,
  name: string,
  rest: [...Arbitraries<T>, Predicate<T>],
): void {
  const predicate = rest.at(-1) as Predicate<T>;
  const arbitraries = rest.slice(0, -1) as unknown as Arbitraries<T>;
  const file = callerFile();
  const body = async (): Promise<void> => {
    const property = fc.asyncProperty<T>(
      ...arbitraries,
      async (...args: T) => (await predicate(...args)) !== false,
    );
    const details = await fc.check(property, parameters(name, options));
    if (!details.failed) return;
    const path = details.counterexamplePath ?? "";
    const replay = `FC_SEED=${details.seed} ${path === "" ? "" : `FC_PATH=${path} `}`;
    console.error(`replay with ${replay}bun test ${file} -t "${forShell(name)}"`);
    throw new Error(
      `Cannot hold "${name}" for ${fc.stringify(details.counterexample)} ` +
        `(draw ${details.numRuns}, ${details.numShrinks} shrinks, ${details.numSkips} discarded)`,
      { cause: details.errorInstance },
    );
  };
  if (options.timeoutMs === undefined) test(name, body);
  else test(name, body, options.timeoutMs);
}

function parameters<T>(name: string, options: PropertyOptions<readonly unknown[] & T>): fc.Parameters<T> {
  const { FC_RUNS, FC_SEED, FC_PATH, CI } = process.env;
  const usual = options.runs ?? (CI === undefined || CI === "" ? 30 : 100);
  const result: fc.Parameters<T> = {
    numRuns: FC_RUNS === undefined || FC_RUNS === "" ? usual : number("FC_RUNS", FC_RUNS),
    examples: [...(options.examples ?? [])],
  };
  if (FC_SEED === "random") return result;
  result.seed = FC_SEED === undefined || FC_SEED === "" ? hash(name) : number("FC_SEED", FC_SEED);
  if (FC_PATH !== undefined && FC_PATH !== "") {
    result.path = FC_PATH;
    result.endOnFailure = true;
  }
  return result;
}

function number(name: string, text: string): number {
  const value = Number(text);
  if (!Number.isInteger(value))
    throw new RangeError(`Cannot read ${name}: it is "${text}", an integer is needed`);
  return value;
}

/** FNV-1a over the characters: a seed that only the name decides. */
function hash(text: string): number {
  let h = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) h = Math.imul(h ^ text.charCodeAt(i), 0x01000193);
  return h | 0;
}

/** The test file that called `prop`, perhaps through other files, relative to the working directory. */
function callerFile(): string {
  const files = (new Error().stack ?? "").split("\n").flatMap((line) => {
    const found = /(?:file:\/\/)?(\/[^\s()]+\.ts):\d+/.exec(line)?.[1];
    return found === undefined || found === fileURLToPath(import.meta.url) ? [] : [found];
  });
  const caller = files.find((file) => file.endsWith(".test.ts")) ?? files[0];
  return caller === undefined ? "" : relative(process.cwd(), caller);
}

/** The name as a pattern that matches only itself, inside double quotes of a shell. */
function forShell(name: string): string {
  return name.replace(/[.*+?^${}()|[\]\\]/g, "\\$&").replace(/[\\"$`]/g, "\\$&");
}
