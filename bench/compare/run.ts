/**
 * This library against jax-js, TensorFlow.js, PyTorch, OpenBLAS, onnxruntime and the machine, in one interleaved run:
 *
 *     cd bench/compare && npm install && bun run.ts
 *
 * --only matmul,softmax     works whose names start so
 * --engines cotangent,jax   families or single engines
 * --rounds 5                samples of each engine on each work
 * --retries 0               further samples of a round while other processes disturb them
 * --json out.json           the samples as well, written after each work
 * --table out.json          measure nothing, print the table of an earlier run
 *
 * For each work every engine prepares its inputs, shows a result (which is compared with plain float64 loops) and warms
 * up; then the rounds go through all engines in turn. One process works at a time. Markdown goes to standard output,
 * progress to standard error.
 */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { availableParallelism, cpus } from "node:os";
import { parseArgs } from "node:util";
import { bestCoreType, Child, type Engine, engines } from "./engines.ts";
import { watchOthers } from "./load.ts";
import { expected } from "./reference.ts";
import { type Cell, isClean, markdown, type Run, type Sample } from "./table.ts";
import { groups, type Work } from "./works.ts";

const SAMPLE_SECONDS = 0.2;

const { values: options } = parseArgs({
  options: {
    only: { type: "string", default: "" },
    engines: { type: "string", default: "" },
    rounds: { type: "string", default: "5" },
    retries: { type: "string", default: "0" },
    json: { type: "string" },
    table: { type: "string" },
  },
});
const rounds = Number(options.rounds);
if (!Number.isInteger(rounds) || rounds < 1)
  throw new Error(`Cannot measure "${options.rounds}" rounds: a positive whole number is needed`);
const retries = Number(options.retries);
if (!Number.isInteger(retries) || retries < 0)
  throw new Error(`Cannot repeat samples "${options.retries}" times: a whole number is needed`);
const names = (list: string): readonly string[] => list.split(",").filter((name) => name !== "");

const say = (text: string): void => {
  process.stderr.write(`${text}\n`);
};
const minutes = (seconds: number): string =>
  `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;

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

  async sample(): Promise<void> {
    const others = watchOthers(this.child.pids);
    const answer = await this.child.ask({ k: "measure", seconds: SAMPLE_SECONDS });
    if (answer.k === "measured") this.samples.push({ seconds: answer.seconds, others: others() });
    else if (answer.k === "absent") this.why = answer.why;
  }

  /** A sample, and further ones while others disturb it. */
  async sampleInQuiet(): Promise<void> {
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

/** All engines on one work. */
async function measure(work: Work, children: readonly Child[]): Promise<Cell[]> {
  const right = expected(work.id);
  const all = children
    .filter(
      ({ engine }) => engine.only === undefined || engine.only.some((start) => work.id.startsWith(start)),
    )
    .map((child) => new Measurement(work, child));
  if (!work.isFirst) for (const one of all) await one.prepare(right);
  for (let round = 0; round < rounds; round++) {
    // To and fro, so that no engine always follows the same one.
    for (const one of round % 2 === 0 ? all : all.toReversed()) {
      if (one.why !== undefined) continue;
      if (work.isFirst) await one.sampleFirst(right);
      else await one.sampleInQuiet();
    }
  }
  if (!work.isFirst) for (const { child } of all) await child.ask({ k: "release" });
  return all.map((one) => one.cell());
}

async function runAll(): Promise<Run> {
  if (!existsSync(new URL("./node_modules/mitata", import.meta.url))) {
    throw new Error(
      'Cannot compare: the other libraries are not installed, "npm install" in bench/compare is needed',
    );
  }
  const only = names(options.only);
  const wanted = names(options.engines);
  const works = groups
    .flatMap((group) => group.works)
    .filter(({ id }) => only.length === 0 || only.some((start) => id.startsWith(start)));
  const isWanted = ({ id, family }: Engine): boolean =>
    wanted.length === 0 || wanted.includes(id) || wanted.includes(family);
  say("which kernels OpenBLAS runs best with...");
  const coreType = await bestCoreType();
  const children = engines(coreType)
    .filter(isWanted)
    .map((engine) => new Child(engine));
  if (works.length === 0 || children.length === 0) {
    throw new Error(
      `Cannot measure: works [${options.only}] and engines [${options.engines}] select nothing, names of both are needed`,
    );
  }
  const cells: Cell[] = [];
  const result = (): Run => ({
    machine: `${cpus()[0]?.model.trim() ?? "?"}, ${availableParallelism()} cores, Bun ${Bun.version}, OpenBLAS kernels ${coreType ?? "as found"}`,
    rounds,
    engines: children.map(({ engine: { id, family, label } }) => ({ id, family, label })),
    cells,
  });
  const start = performance.now();
  for (const [i, work] of works.entries()) {
    cells.push(...(await measure(work, children)));
    if (options.json) writeFileSync(options.json, JSON.stringify(result(), null, 1));
    const spent = (performance.now() - start) / 1000;
    say(
      `${i + 1}/${works.length} ${work.id}: ${minutes(spent)} spent, about ${minutes((spent / (i + 1)) * (works.length - i - 1))} left`,
    );
  }
  for (const child of children) child.stop();
  return result();
}

const run: Run = options.table ? JSON.parse(readFileSync(options.table, "utf8")) : await runAll();
console.log(markdown(run));
