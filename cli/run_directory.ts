/** What a run leaves behind: one directory, every file written whole. */
import {
  appendFileSync,
  existsSync,
  linkSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { writeWhole } from "../core/io.ts";
import { configProblem, type TrainConfig, UsageError } from "./config.ts";

/** The measurements of one step or round; one line of metrics.jsonl. */
export interface Metric {
  /** Optimizer steps done when it was taken. */
  readonly step: number;
  readonly round: number;
  /** Mean training loss over the batches since the last line. */
  readonly loss: number;
  /** Fraction right on the same batches. */
  readonly accuracy: number;
  readonly seconds: number;
  /** Of them, those in which the hub has evaluated and gathered what it evaluates. */
  readonly evaluationSeconds?: number;
  /** Of them, those before the first phase in which nobody computed: processes were started. */
  readonly startSeconds?: number;
  /** Of the worker that has computed most: the time in its functions, evaluations not among them. */
  readonly busySeconds?: number;
  readonly bytesSent: number;
  /** Of them, those that nobody waited for. */
  readonly backgroundBytes?: number;
  readonly testLoss?: number;
  readonly testAccuracy?: number;
  /** Where the curvature was refreshed in this round: the step, and the eigenvalues that were found, ascending. */
  readonly curvatureStep?: number;
  readonly eigenvalues?: readonly number[];
  readonly residuals?: readonly number[];
}

/** summary.json. Sizes in bytes, times in seconds. */
export interface Summary {
  readonly task: string;
  readonly model: string;
  readonly optimizer: string;
  readonly workers: number;
  readonly device: string;
  readonly steps: number;
  readonly seconds: number;
  readonly finalLoss: number;
  readonly testAccuracy: number;
  readonly bytesSent: number;
  readonly backgroundBytes?: number;
  /** Where vectors are compressed: bytes of one of them for one that a worker sends of it, of updates, errors or gradients. */
  readonly achievedRatio?: Readonly<Record<string, number>>;
  /**
   * Time in which no worker computed, the hub did not evaluate and all had been started: they waited for messages and for the
   * hub's sums.
   */
  readonly exposedSeconds?: number;
  /** Of the worker that has computed most: the time in its functions. */
  readonly busySeconds?: number;
  readonly peakMemoryBytes: number;
  readonly seed: number;
  /** Whether all steps are done, or the run was stopped and can be resumed. */
  readonly complete: boolean;
}

export const fileNames = {
  config: "config.json",
  plan: "plan.txt",
  summary: "summary.json",
  metrics: "metrics.jsonl",
  checkpoint: "checkpoint.safetensors",
  report: "report.html",
  state: "state",
  /** Saves of curvature workers, of no use after the run. */
  curvature: "state-curvature",
  lock: "lock",
} as const;

/**
 * Looks at the place where a new run is to go, before anything takes time; makes nothing.
 *
 * @throws {UsageError} if there is something already
 */
export function checkOut(out: string): void {
  if (!existsSync(out)) return;
  if (!statSync(out).isDirectory())
    throw new UsageError(`Cannot use --out ${out}: it is a file, a directory is needed`);
  if (readdirSync(out).length === 0) return;
  throw new UsageError(
    `Cannot use --out ${out}: the directory is not empty, a new or empty one is needed; use --resume ${out} to continue a run`,
  );
}

/**
 * A new directory for a run: the wanted one, which must be empty, or the first free one of the name, numbered.
 *
 * @throws {UsageError} if it cannot be made
 */
export function createRunDirectory(out: string | undefined, name: string): string {
  const base = out ?? join("runs", name);
  try {
    if (out !== undefined) {
      checkOut(out);
      mkdirSync(out, { recursive: true });
      return out;
    }
    mkdirSync(dirname(base), { recursive: true });
    for (let i = 1; ; i++) {
      const path = i === 1 ? base : `${base}-${i}`;
      if (isMade(path)) return path;
    }
  } catch (error) {
    if (error instanceof UsageError) throw error;
    throw new UsageError(
      `Cannot make the directory ${base}: ${error instanceof Error ? error.message : error}, a place to write is needed; --out DIR names another`,
    );
  }
}

/** Makes a directory, unless it exists; of several programs that try at once, one succeeds. */
function isMade(path: string): boolean {
  try {
    mkdirSync(path);
    return true;
  } catch (error) {
    if ((error as { readonly code?: unknown }).code === "EEXIST") return false;
    throw error;
  }
}

/**
 * Takes a run directory for this process; the result gives it back.
 *
 * @throws {UsageError} if another process that still lives has it
 */
export function lockRun(directory: string): () => void {
  const path = join(directory, fileNames.lock);
  const own = `${path}.${process.pid}`;
  // A link to a finished file: nobody can see a lock without an owner.
  writeFileSync(own, String(process.pid));
  try {
    for (;;) {
      try {
        linkSync(own, path);
        return () => rmSync(path, { force: true });
      } catch (error) {
        if ((error as { readonly code?: unknown }).code !== "EEXIST") throw error;
        const owner = ownerOf(path);
        // The number of this process in a lock that it has not made: of a process before it, in a container say.
        if (owner !== null && owner !== process.pid && isAlive(owner)) {
          throw new UsageError(
            `Cannot use the run in ${directory}: process ${owner} is at it, its end is needed first; if that is no cotangent, remove ${path}`,
          );
        }
        rmSync(path, { force: true });
      }
    }
  } finally {
    rmSync(own, { force: true });
  }
}

/** The process in a lock; null if the lock is gone. */
function ownerOf(path: string): number | null {
  try {
    return Number(readFileSync(path, "utf8"));
  } catch {
    return null;
  }
}

function isAlive(pid: number): boolean {
  try {
    return pid > 0 && process.kill(pid, 0);
  } catch (error) {
    return (error as { readonly code?: unknown }).code === "EPERM";
  }
}

export async function writeJson(directory: string, name: string, value: unknown): Promise<void> {
  await writeWhole(join(directory, name), `${JSON.stringify(value, null, 2)}\n`);
}

/**
 * The configuration of an earlier run.
 *
 * @throws {UsageError} if the directory has none, or that of another program
 */
export function readConfig(directory: string): TrainConfig {
  const path = join(directory, fileNames.config);
  const json = readJson(path, `Cannot use the run in ${directory}`);
  const problem = configProblem(json);
  if (problem === null) return json as TrainConfig;
  throw new UsageError(
    `Cannot use the run in ${directory}: ${path} is of something else (${problem}), the directory of an earlier run is needed`,
  );
}

/** The summary of a finished or stopped run. */
export function readSummary(directory: string): Summary {
  const path = join(directory, fileNames.summary);
  const json = readJson(path, `Cannot report the run in ${directory}`);
  if (typeof (json as Partial<Summary> | null)?.finalLoss === "number") return json as Summary;
  throw new UsageError(
    `Cannot report the run in ${directory}: ${path} is of something else, the directory of an earlier run is needed`,
  );
}

/** What a file of a run says; the verb begins the error. */
export function readJson(path: string, verb: string): unknown {
  try {
    return JSON.parse(readFileSync(path, "utf8"));
  } catch (error) {
    const what = existsSync(path) ? `${path} is not JSON` : `${path} does not exist`;
    throw new UsageError(
      `${verb}: ${what}, the directory of an earlier run is needed (${error instanceof Error ? error.message : error})`,
    );
  }
}

/** The metrics of a run, those of rounds before `round` only; a torn last line is left out. */
export function readMetrics(directory: string, round: number = Number.POSITIVE_INFINITY): Metric[] {
  const path = join(directory, fileNames.metrics);
  if (!existsSync(path)) return [];
  return readFileSync(path, "utf8")
    .split("\n")
    .flatMap((line) => {
      try {
        return line === "" ? [] : [JSON.parse(line) as Metric];
      } catch {
        return [];
      }
    })
    .filter((metric) => metric.round < round);
}

/** Replaces the metrics: at the start of a resumed run, those of rounds that will run again are dropped. */
export async function writeMetrics(directory: string, metrics: readonly Metric[]): Promise<void> {
  await writeWhole(
    join(directory, fileNames.metrics),
    metrics.map((metric) => `${JSON.stringify(metric)}\n`).join(""),
  );
}

/** Adds the metrics of a round; they are in the file when this returns. */
export function appendMetrics(directory: string, metrics: readonly Metric[]): void {
  appendFileSync(
    join(directory, fileNames.metrics),
    metrics.map((metric) => `${JSON.stringify(metric)}\n`).join(""),
  );
}
