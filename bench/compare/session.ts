/** The engines on one work: prepared, checked, and measured in rounds that go through all of them to and fro. */
import { Child } from "./engines.ts";
import { watchOthers } from "./load.ts";
import { type Cell, isClean, type Sample } from "./table.ts";
import type { Work } from "./works.ts";

const SAMPLE_SECONDS = 0.2;

export const names = (list: string): readonly string[] => list.split(",").filter((name) => name !== "");

export const say = (text: string): void => {
  process.stderr.write(`${text}\n`);
};

export const minutes = (seconds: number): string =>
  `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;

export function wholeNumber(option: string, text: string, least: number): number {
  const value = Number(text);
  if (Number.isInteger(value) && value >= least) return value;
  throw new RangeError(`Cannot use --${option} ${text}: a whole number of at least ${least} is needed`);
}

/** Largest error of the numbers shown, relative to each, or to a thousandth of the largest where that is more. */
function errorOf(shown: readonly number[], right: readonly number[]): number {
  if (shown.length !== right.length) return Number.POSITIVE_INFINITY;
  const floor = Math.max(...right.map(Math.abs)) / 1000;
  const errors = right.map((x, i) => Math.abs(shown[i]! - x) / Math.max(Math.abs(x), floor));
  return errors.some(Number.isNaN) ? Number.POSITIVE_INFINITY : Math.max(...errors);
}

class Measurement {
  readonly work: Work;
  readonly child: Child;
  mode = "";
  error: number | undefined;
  why: string | undefined;
  readonly samples: Sample[] = [];

  constructor(work: Work, child: Child) {
    this.work = work;
    this.child = child;
  }

  check(shown: readonly number[], right: readonly number[]): void {
    const error = errorOf(shown, right);
    this.error = error > (this.work.tolerance ?? 1e-4) ? error : undefined;
  }

  async prepare(right: readonly number[]): Promise<void> {
    const answer = await this.child.ask({ k: "prepare", work: this.work.id });
    if (answer.k === "prepared") {
      this.mode = answer.mode;
      this.check(answer.shown, right);
    } else if (answer.k === "absent") this.why = answer.why;
  }

  refuseWrong(): void {
    if (this.error === undefined) return;
    this.why = `WRONG: its result is off by ${(100 * this.error).toPrecision(2)} %`;
  }

  async sample(): Promise<void> {
    const others = watchOthers(this.child.pids);
    const answer = await this.child.ask({ k: "measure", seconds: SAMPLE_SECONDS });
    if (answer.k === "measured") this.samples.push({ seconds: answer.seconds, others: others() });
    else if (answer.k === "absent") this.why = answer.why;
  }

  /** A sample, and further ones while others disturb it. */
  async sampleInQuiet(retries: number): Promise<void> {
    for (let i = 0; i <= retries && this.why === undefined; i++) {
      await this.sample();
      if (isClean(this.samples.at(-1))) return;
      if (i < retries) await Bun.sleep(500);
    }
  }

  /** The first run in a fresh process. */
  async sampleFirst(right: readonly number[]): Promise<void> {
    const fresh = new Child(this.child.engine);
    await fresh.ask({ k: "release" });
    const others = watchOthers(fresh.pids);
    const answer = await fresh.ask({ k: "first", work: this.work.id });
    if (answer.k === "measured") {
      this.samples.push({ seconds: answer.seconds, others: others() });
      this.mode = answer.mode ?? "";
      this.check(answer.shown ?? [], right);
    } else if (answer.k === "absent") this.why = answer.why;
    fresh.stop();
  }

  cell(): Cell {
    return {
      work: this.work.id,
      engine: this.child.engine.id,
      mode: this.mode,
      samples: this.samples,
      ...(this.error === undefined ? {} : { error: this.error }),
      ...(this.why === undefined ? {} : { why: this.why }),
    };
  }
}

export interface Rounds {
  /** Samples of each engine. */
  readonly rounds: number;
  /** Further samples of a round while other processes disturb them. */
  readonly retries: number;
  /** Whether a wrong result is never timed. */
  readonly isStrict?: boolean;
  /** What a right engine shows. */
  expected(work: string): readonly number[];
}

/** All engines on one work. */
export async function measure(
  work: Work,
  children: readonly Child[],
  { rounds, retries, isStrict = false, expected }: Rounds,
): Promise<Cell[]> {
  const right = expected(work.id);
  const all = children
    .filter(
      ({ engine }) => engine.only === undefined || engine.only.some((start) => work.id.startsWith(start)),
    )
    .map((child) => new Measurement(work, child));
  if (!work.isFirst) for (const one of all) await one.prepare(right);
  if (isStrict) for (const one of all) one.refuseWrong();
  for (let round = 0; round < rounds; round++) {
    // To and fro, so that no engine always follows the same one.
    for (const one of round % 2 === 0 ? all : all.toReversed()) {
      if (one.why !== undefined) continue;
      if (work.isFirst) await one.sampleFirst(right);
      else await one.sampleInQuiet(retries);
    }
  }
  if (!work.isFirst) for (const { child } of all) await child.ask({ k: "release" });
  return all.map((one) => one.cell());
}
