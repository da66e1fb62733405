/** `cotangent compare`: the same tasks with several methods, each with its best learning rate, over several seeds. */
import { existsSync } from "node:fs";
import { join, resolve } from "node:path";
import { writeWhole } from "../../core/io.ts";
import { UsageError } from "../config.ts";
import { type ProgressLine, progressLine, secondsText } from "../progress_line.ts";
import { checkOut, createRunDirectory, fileNames, lockRun, readJson, writeJson } from "../run_directory.ts";
import { type CompareConfig, methodProblems, parseCompareFlags, tableOf, withAll } from "./config.ts";
import { type Assignment, sayingOf } from "./contender.ts";
import { comparePage } from "./page.ts";
import {
  appendRecord,
  compareRuns,
  type Entry,
  isOf,
  type RunRecord,
  readRecords,
  type Spread,
  taskResult,
} from "./results.ts";
import type { Point } from "./run.ts";

const names = { runs: "runs.jsonl", results: "results.json", report: "report.html" } as const;

/** How often a grid is made wider when its best rate is at an end. */
const MOST_EXTENSIONS = 3;

/** Runs `compare` and returns the exit code. */
export async function compare(args: readonly string[]): Promise<number> {
  const { config, directory } = openComparison(args);
  const unlock = lockRun(directory);
  process.on("exit", unlock);
  await writeJson(directory, fileNames.config, config);
  const line = progressLine(process.stderr);
  const runner = openRunner(config, directory, line);
  try {
    for (const task of config.tasks) {
      const rates = await chooseRates(task, config, runner);
      // Seed by seed, so that what disturbs the machine for a while disturbs all methods.
      for (let seed = 0; seed < config.seeds; seed++)
        for (const optimizer of config.optimizers)
          await runner.run({ task, optimizer, learningRate: rates.get(optimizer)!, kind: "seed", seed });
    }
  } catch (error) {
    if (!(error instanceof Interrupted)) throw error;
    line.end();
    await writeResults(config, directory, runner.records);
    process.stdout.write(`stopped: the runs that are done stay, continue with --resume ${directory}\n`);
    return 130;
  } finally {
    runner.close();
  }
  line.end();
  await writeResults(config, directory, runner.records);
  process.stdout.write(`${showResults(config, runner.records)}\n`);
  process.stdout.write(`results in ${directory}: ${names.results}, ${names.report}, ${names.runs}\n`);
  const isMade = (task: string): boolean =>
    runner.records.some(
      (record) => record.task === task && record.kind === "seed" && record.failure === null,
    );
  return config.tasks.every(isMade) ? 0 : 1;
}

function openComparison(args: readonly string[]): {
  readonly config: CompareConfig;
  readonly directory: string;
} {
  const { config, out, resume, given } = parseCompareFlags(args);
  if (resume === undefined) {
    if (out !== undefined) checkOut(out);
    const dataDir = config.dataDir === undefined ? undefined : resolve(config.dataDir);
    if (dataDir !== undefined && !existsSync(dataDir))
      throw new UsageError(
        `Cannot use --data-dir ${dataDir}: it does not exist, an existing directory is needed`,
      );
    const directory = createRunDirectory(out, `compare-${config.tasks.join("-")}`);
    return { config: { ...config, dataDir }, directory };
  }
  // More seeds and more methods are the same comparison, made larger.
  const changeable = ["resume", "seeds", "optimizers"];
  const fixed = given.find((name) => !changeable.includes(name));
  if (fixed !== undefined)
    throw new UsageError(
      `Cannot use --${fixed} with --resume: a comparison keeps its configuration, only --seeds and --optimizers may change`,
    );
  const earlier = readJson(join(resume, fileNames.config), `Cannot use the comparison in ${resume}`);
  if (!Array.isArray((earlier as Partial<CompareConfig> | null)?.optimizers))
    throw new UsageError(
      `Cannot use the comparison in ${resume}: its ${fileNames.config} is of something else, the directory of an earlier comparison is needed`,
    );
  const before = earlier as CompareConfig;
  const merged = {
    ...before,
    ...(given.includes("seeds") && { seeds: config.seeds }),
    ...(given.includes("optimizers") && { optimizers: withAll(config.optimizers, before.workers) }),
  };
  const problems = methodProblems(merged.optimizers, merged.workers);
  if (problems.length > 0) throw new UsageError(problems.join("\n"));
  return { config: merged, directory: resume };
}

/** The best learning rate of every method on a task, by runs of a seed that is not compared. */
async function chooseRates(
  task: string,
  config: CompareConfig,
  runner: Runner,
): Promise<ReadonlyMap<string, number>> {
  const rates = new Map<string, number>();
  for (const optimizer of config.optimizers) {
    // What was compared before keeps its rate: a search that is made anew might find another.
    const earlier = runner.records.find(
      (record) => record.task === task && record.optimizer === optimizer && record.kind === "seed",
    );
    if (earlier) {
      rates.set(optimizer, earlier.learningRate);
      continue;
    }
    const { rates: known } = tableOf(config.workers)[optimizer.split(":")[0]!]!;
    const wanted = config.rate !== undefined ? [config.rate] : known.slice(0, config.grid);
    if (wanted.length <= 1) {
      rates.set(optimizer, wanted[0]!);
      continue;
    }
    const tried: RunRecord[] = [];
    const attempt = async (learningRate: number): Promise<void> => {
      tried.push(await runner.run({ task, optimizer, learningRate, kind: "grid", seed: GRID_SEED }));
    };
    for (const rate of wanted) await attempt(rate);
    for (let i = 0; i < MOST_EXTENSIONS; i++) {
      const next = beyond(tried, bestOf(tried, config).learningRate);
      if (next === null) break;
      await attempt(next);
    }
    rates.set(optimizer, bestOf(tried, config).learningRate);
  }
  return rates;
}

/** The seed of the runs that look for rates: none of those that are compared. */
const GRID_SEED = 1_000_000;

function bestOf(records: readonly RunRecord[], { budget }: CompareConfig): RunRecord {
  const unit = ({ wall: "seconds", gradients: "gradients", steps: "step" } as const)[budget.unit];
  // Where all are as bad as the start, the smallest: then the search goes on below.
  return records.toSorted((a, b) => compareRuns(a, b, unit) || a.learningRate - b.learningRate)[0]!;
}

/** The rate one step of the grid further out, where the best is at an end; null where it is inside. */
function beyond(records: readonly RunRecord[], best: number): number | null {
  const rates = records.map(({ learningRate }) => learningRate).sort((a, b) => a - b);
  const next = (rate: number, exponent: number): number => Number((rate * 10 ** exponent).toPrecision(2));
  if (best === rates[0]) return next(best, -0.5);
  return best === rates.at(-1) ? next(best, 0.5) : null;
}

/** Makes runs, each once, and keeps what they gave. */
interface Runner {
  readonly records: readonly RunRecord[];
  run(entry: Entry): Promise<RunRecord>;
  close(): void;
}

class Interrupted extends Error {}

function openRunner(config: CompareConfig, directory: string, line: ProgressLine): Runner {
  const path = join(directory, names.runs);
  // What could not be made, because a process was killed or a file was missing, is tried again.
  const records = readRecords(path).filter(({ failure }) => failure === null);
  const state = { isInterrupted: false, made: 0, seconds: 0 };
  let child: { kill(signal: "SIGKILL"): void } | null = null;
  // The first Ctrl-C ends the run that is being made; those before it are kept.
  const onSignal = (): void => {
    state.isInterrupted = true;
    child?.kill("SIGKILL");
  };
  process.on("SIGINT", onSignal);
  process.on("SIGTERM", onSignal);
  const total = config.tasks.length * config.optimizers.length * (config.seeds + gridSize(config));

  const run = async (entry: Entry): Promise<RunRecord> => {
    const known = records.find((record) => isOf(record, entry));
    if (known) return known;
    if (state.isInterrupted) throw new Interrupted();
    const share = entry.kind === "grid" ? config.gridShare : 1;
    const assignment: Assignment = {
      entry,
      budget: { ...config.budget, amount: config.budget.amount * share },
      evaluations: Math.max(1, Math.round(config.evaluations * share)),
      stopsAtTarget: config.stop === "target",
      ...(config.target !== undefined && { target: config.target }),
      ...(config.batch !== undefined && { batch: config.batch }),
      workers: config.workers,
      localSteps: config.localSteps,
      ...(config.dataDir !== undefined && { dataDir: config.dataDir }),
    };
    const started = performance.now();
    const onPoint = (point: Point, fraction: number): void => {
      const left = (total - records.length - fraction) * (state.seconds / Math.max(1, state.made));
      const time = state.made > 0 ? `${secondsText(left)} left` : "";
      line.show(
        [
          `run ${records.length + 1}/${Math.max(total, records.length + 1)}`,
          `${entry.task} ${entry.optimizer}`,
          `lr ${entry.learningRate}`,
          entry.kind === "grid" ? "rate search" : `seed ${entry.seed}`,
          `${Math.round(100 * fraction)}%`,
          `loss ${point.loss.toPrecision(4)}`,
          ...(point.accuracy === null ? [] : [`accuracy ${(100 * point.accuracy).toFixed(1)}%`]),
          time,
        ].join("  "),
      );
    };
    const record = await runInProcess(assignment, line, onPoint, (started) => {
      child = started;
    });
    if (state.isInterrupted && record.failure !== null) throw new Interrupted();
    state.made++;
    state.seconds += (performance.now() - started) / 1000;
    records.push(record);
    appendRecord(path, record);
    if (record.failure !== null) line.note(`${entry.task} ${entry.optimizer}: ${record.failure}`);
    return record;
  };
  return {
    records,
    run,
    close() {
      process.off("SIGINT", onSignal);
      process.off("SIGTERM", onSignal);
    },
  };
}

function gridSize({ grid, rate }: CompareConfig): number {
  return grid > 1 && rate === undefined ? grid : 0;
}

/** Makes one run in a process of its own; one that fails is a record that says why. */
async function runInProcess(
  assignment: Assignment,
  line: ProgressLine,
  onPoint: (point: Point, fraction: number) => void,
  onStart: (child: { kill(signal: "SIGKILL"): void }) => void,
): Promise<RunRecord> {
  const main = new URL("../main.ts", import.meta.url).pathname;
  const child = Bun.spawn([process.execPath, main, "contender", JSON.stringify(assignment)], {
    stdout: "pipe",
    stderr: "pipe",
    stdin: "ignore",
    // Ctrl-C reaches every process of a terminal: a run that ended by it would look like one that failed.
    detached: true,
  });
  onStart(child);
  let record: RunRecord | null = null;
  let reason: string | null = null;
  let rest = "";
  const decoder = new TextDecoder();
  const errors = new Response(child.stderr).text();
  for await (const chunk of child.stdout) {
    const lines = (rest + decoder.decode(chunk, { stream: true })).split("\n");
    rest = lines.pop()!;
    for (const text of lines) {
      const saying = sayingOf(text);
      if (saying.k === "note") line.note(saying.text);
      else if (saying.k === "point") onPoint(saying.point, saying.fraction);
      else if (saying.k === "failed") reason = saying.reason;
      else record = saying.record;
    }
  }
  const code = await child.exited;
  if (record) return record;
  const ending = child.signalCode ? `it was ended by ${child.signalCode}` : `it ended with code ${code}`;
  const words = reason === null ? (await errors).trim().slice(-500) : "";
  return {
    ...assignment.entry,
    points: [],
    reached: null,
    ended: "diverged",
    compileSeconds: 0,
    stateBytes: 0,
    peakBytes: 0,
    taskName: assignment.entry.task,
    target: { metric: "loss", value: 0 },
    parameters: 0,
    bytesSent: 0,
    workerPeakBytes: [],
    failure: reason ?? (words === "" ? ending : `${ending}: ${words}`),
  };
}

async function writeResults(
  config: CompareConfig,
  directory: string,
  records: readonly RunRecord[],
): Promise<void> {
  const results = config.tasks.flatMap((task) => taskResult(task, records) ?? []);
  await writeJson(directory, names.results, { config, machine: machine(), tasks: results });
  await writeWhole(join(directory, names.report), comparePage(config, results, records));
}

/** Where the numbers were measured. */
function machine(): Readonly<Record<string, string | number>> {
  return {
    platform: process.platform,
    processor: process.arch,
    cores: navigator.hardwareConcurrency,
    bun: Bun.version,
  };
}

/** The results as text: for each task a table. */
function showResults(config: CompareConfig, records: readonly RunRecord[]): string {
  return config.tasks
    .flatMap((task) => {
      const result = taskResult(task, records);
      if (!result) return [];
      const { metric, value } = result.target;
      const head = `${result.name}: ${result.parameters === 0 ? "no run could be made" : `${metric} ${metric === "loss" ? "at most" : "at least"} ${value}`}`;
      const width = Math.max(24, ...result.rows.map(({ optimizer }) => optimizer.length + 2));
      const text = (x: number | null, digits: number): string => (x === null ? "-" : x.toFixed(digits));
      const table = result.rows.map((row) => {
        const { seconds, gradients } = row.toTarget;
        return [
          row.optimizer.padEnd(width),
          `lr ${row.learningRate}`.padEnd(12),
          `${row.reached}/${row.seeds}`.padEnd(6),
          `${text(seconds.median, 2)} s [${text(seconds.least, 2)}, ${text(seconds.most, 2)}]`.padEnd(28),
          `${text(gradients.median, 0)} gradients`.padEnd(20),
          `loss ${row.finalLoss.median?.toPrecision(4) ?? "-"}`,
          row.diverged > 0 ? `  ${row.diverged} diverged` : "",
        ].join("");
      });
      const range = ({ median, least, most }: Spread): string =>
        `${text(median, 2)} x [${text(least, 2)}, ${text(most, 2)}]`;
      const pairs = result.pairs.map(
        ({ method, base, speedup, fewer, toBest }) =>
          `${method} against ${base}: time ${range(speedup)}, gradients ${range(fewer)} to the target; time ${range(toBest)} to the best of ${base}`,
      );
      return [[head, ...table, ...pairs].join("\n")];
    })
    .join("\n\n");
}
