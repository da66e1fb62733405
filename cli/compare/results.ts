/** What a comparison leaves behind, and what is said of it: times to the target, with their spread over seeds. */
import { appendFileSync, existsSync, readFileSync } from "node:fs";
import { isReached, type Outcome, type Point } from "./run.ts";
import type { Target } from "./task.ts";

/** One run to make: which method on which task, with what. */
export interface Entry {
  readonly task: string;
  /** As the command line has it: a name, with settings after colons. */
  readonly optimizer: string;
  readonly learningRate: number;
  /** Looking for the learning rate, or one of the runs that are compared. */
  readonly kind: "grid" | "seed";
  readonly seed: number;
}

/** A run that is done; one line of runs.jsonl. */
export interface RunRecord extends Entry, Outcome {
  /** Name of the task with the data that it had. */
  readonly taskName: string;
  readonly target: Target;
  /** Parameters of the model. */
  readonly parameters: number;
  /** Bytes through sockets, with several workers; 0 with one. */
  readonly bytesSent: number;
  /** Largest resident memory of each worker process; empty with one worker. */
  readonly workerPeakBytes: readonly number[];
  /** Why it could not be made, where it could not; then there are no points. */
  readonly failure: string | null;
}

/** Middle and ends of some numbers; those that are missing count as larger than all. */
export interface Spread {
  /** Null where half of them or more are missing. */
  readonly median: number | null;
  readonly least: number | null;
  readonly most: number | null;
  readonly values: readonly (number | null)[];
}

/** A method on a task. */
export interface Row {
  readonly optimizer: string;
  readonly learningRate: number;
  /** Whether a lower or higher rate than all that were tried might be better. */
  readonly isAtEdge: boolean;
  readonly triedRates: readonly number[];
  /** Spent on looking for the rate. */
  readonly tuning: { readonly seconds: number; readonly gradients: number; readonly steps: number };
  readonly seeds: number;
  readonly reached: number;
  /** Runs that ended because the loss was no number any more; they have no loss at the end. */
  readonly diverged: number;
  readonly toTarget: { readonly seconds: Spread; readonly gradients: Spread; readonly steps: Spread };
  readonly finalLoss: Spread;
  readonly finalAccuracy: Spread;
  readonly stepsPerSecond: Spread;
  readonly stateBytes: number;
  readonly peakBytes: number;
  /** The largest of a worker process; 0 with one worker. */
  readonly workerPeakBytes: number;
  readonly bytesSent: number;
  readonly compileSeconds: number;
  readonly failures: readonly string[];
}

/** A task with its methods. */
export interface TaskResult {
  readonly task: string;
  readonly name: string;
  readonly target: Target;
  readonly parameters: number;
  readonly rows: readonly Row[];
  readonly pairs: readonly Pair[];
}

/** A method against the one that it is built on, seed by seed. */
export interface Pair {
  readonly method: string;
  readonly base: string;
  /**
   * Seconds of the base over seconds of the method, to the same target: above 1 the method is faster. Null where only the
   * method reached it, 0 where only the base did, nothing where neither did.
   */
  readonly speedup: Spread;
  /** The same in gradients. */
  readonly fewer: Spread;
  /** Seconds of the base over seconds of the method to the best evaluation that the base has in its whole run. */
  readonly toBest: Spread;
}

/**
 * The records of a directory, of several of one entry the last; a line that was cut off while it was written is left out.
 */
export function readRecords(path: string): RunRecord[] {
  if (!existsSync(path)) return [];
  const all = readFileSync(path, "utf8")
    .split("\n")
    .flatMap((line) => {
      try {
        return line === "" ? [] : [JSON.parse(line) as RunRecord];
      } catch {
        return [];
      }
    });
  return all.filter((record, i) => !all.some((later, j) => j > i && isOf(later, record)));
}

/** Adds a record, on a line of its own also where the one before was cut off. */
export function appendRecord(path: string, record: RunRecord): void {
  const isCut = existsSync(path) && !/(^|\n)$/.test(readFileSync(path, "utf8"));
  appendFileSync(path, `${isCut ? "\n" : ""}${JSON.stringify(record)}\n`);
}

/** Whether a record is of an entry. */
export function isOf(record: RunRecord, entry: Entry): boolean {
  const keys = ["task", "optimizer", "learningRate", "kind", "seed"] as const;
  return keys.every((key) => record[key] === entry[key]);
}

/** Middle, least and most of some numbers. */
export function spread(values: readonly (number | null)[]): Spread {
  const known = values.filter((x) => x !== null).sort((a, b) => a - b);
  const all = [...known, ...values.filter((x) => x === null)];
  const middle = [all[Math.floor((all.length - 1) / 2)], all[Math.ceil((all.length - 1) / 2)]];
  const [low = null, high = null] = middle;
  return {
    median: low === null || high === null ? null : (low + high) / 2,
    least: known[0] ?? null,
    most: known.at(-1) ?? null,
    values,
  };
}

/** The point where a run was as good as the target; null if it never was. */
export function reachedPoint({ points, reached }: Outcome): Point | null {
  return reached === null ? null : points[reached]!;
}

/** The smallest loss of a run; infinite where it diverged at once. */
export function bestLoss({ points }: Outcome): number {
  return Math.min(Number.POSITIVE_INFINITY, ...points.map(({ loss }) => loss).filter(Number.isFinite));
}

/**
 * The better of two runs with different learning rates: the one that reaches the target sooner, in the unit of the budget;
 * if neither does, one that does not diverge, and of these the one with the smaller loss.
 */
export function compareRuns(a: RunRecord, b: RunRecord, unit: "seconds" | "gradients" | "step"): number {
  const [at, bt] = [reachedPoint(a), reachedPoint(b)];
  if (at && bt && at[unit] !== bt[unit]) return at[unit] - bt[unit];
  if (Boolean(at) !== Boolean(bt)) return at ? -1 : 1;
  const [isLost, isOtherLost] = [a.ended === "diverged", b.ended === "diverged"];
  if (!at && isLost !== isOtherLost) return isLost ? 1 : -1;
  const [aLoss, bLoss] = [bestLoss(a), bestLoss(b)];
  return aLoss === bLoss ? 0 : aLoss - bLoss;
}

/** The last point of a run, if there is one. */
function lastPoint({ points }: Outcome): Point | null {
  return points.at(-1) ?? null;
}

/** Where a run ended; null if it diverged, whatever was measured before. */
function endPoint(run: Outcome): Point | null {
  return run.ended === "diverged" ? null : lastPoint(run);
}

/** Everything that is said of a task. */
export function taskResult(task: string, records: readonly RunRecord[]): TaskResult | null {
  const own = records.filter((record) => record.task === task);
  const some = own.find(({ failure }) => failure === null) ?? own[0];
  if (!some) return null;
  const optimizers = [...new Set(own.map(({ optimizer }) => optimizer))];
  const rows = optimizers.flatMap((optimizer) => {
    const mine = own.filter((record) => record.optimizer === optimizer);
    const row = rowOf(optimizer, mine);
    return row ? [row] : [];
  });
  return {
    task,
    name: some.taskName,
    target: some.target,
    parameters: some.parameters,
    rows,
    pairs: pairsOf(rows, own, some.target),
  };
}

function rowOf(optimizer: string, records: readonly RunRecord[]): Row | null {
  const grid = records.filter(({ kind }) => kind === "grid");
  const runs = records.filter(({ kind }) => kind === "seed").sort((a, b) => a.seed - b.seed);
  if (runs.length === 0) return null;
  const triedRates = grid.map(({ learningRate }) => learningRate).sort((a, b) => a - b);
  const learningRate = runs[0]!.learningRate;
  const at = runs.map(reachedPoint);
  const total = (pick: (point: Point) => number): number =>
    grid.reduce((sum, record) => sum + (lastPoint(record) ? pick(lastPoint(record)!) : 0), 0);
  return {
    optimizer,
    learningRate,
    isAtEdge: triedRates.length > 1 && (triedRates[0] === learningRate || triedRates.at(-1) === learningRate),
    triedRates,
    tuning: {
      seconds: total(({ seconds }) => seconds),
      gradients: total(({ gradients }) => gradients),
      steps: total(({ step }) => step),
    },
    seeds: runs.length,
    reached: at.filter((point) => point !== null).length,
    diverged: runs.filter(({ ended, failure }) => ended === "diverged" && failure === null).length,
    toTarget: {
      seconds: spread(at.map((point) => point?.seconds ?? null)),
      gradients: spread(at.map((point) => point?.gradients ?? null)),
      steps: spread(at.map((point) => point?.step ?? null)),
    },
    finalLoss: spread(runs.map((run) => endPoint(run)?.loss ?? null)),
    finalAccuracy: spread(runs.map((run) => endPoint(run)?.accuracy ?? null)),
    stepsPerSecond: spread(runs.map((run) => rateOf(lastPoint(run)))),
    stateBytes: Math.max(...runs.map((run) => run.stateBytes)),
    peakBytes: Math.max(...runs.map((run) => run.peakBytes)),
    workerPeakBytes: Math.max(0, ...runs.flatMap((run) => run.workerPeakBytes)),
    bytesSent: Math.max(...runs.map((run) => run.bytesSent)),
    compileSeconds: spread(runs.map((run) => run.compileSeconds)).median ?? 0,
    failures: [...new Set(records.flatMap(({ failure }) => (failure === null ? [] : [failure])))],
  };
}

function rateOf(point: Point | null): number | null {
  return point === null || point.seconds === 0 ? null : point.step / point.seconds;
}

/** Every method whose name is that of another after a dash, `fosi-adam` of `adam`, against it. */
function pairsOf(rows: readonly Row[], records: readonly RunRecord[], target: Target): readonly Pair[] {
  return rows.flatMap((row) => {
    const name = row.optimizer.split(":")[0]!;
    const base = rows.find(({ optimizer }) => name.endsWith(`-${optimizer.split(":")[0]}`));
    if (!base) return [];
    const ratio = (unit: "seconds" | "gradients"): Spread => {
      const ofBase = base.toTarget[unit].values;
      return spread(
        row.toTarget[unit].values.flatMap((own, i) => (i < ofBase.length ? quotient(ofBase[i]!, own) : [])),
      );
    };
    const runsOf = (optimizer: string): readonly RunRecord[] =>
      records.filter((record) => record.optimizer === optimizer && record.kind === "seed");
    const toBest = runsOf(row.optimizer).flatMap((run) => {
      const other = runsOf(base.optimizer).find(({ seed }) => seed === run.seed);
      const best = other && bestPoint(other.points, target);
      if (!best) return [];
      const { loss, accuracy } = best;
      const goal: Target = { ...target, value: target.metric === "loss" ? loss : accuracy! };
      const reached = run.points.find((point) => isReached(point, goal));
      return quotient(best.seconds, reached?.seconds ?? null);
    });
    return [
      {
        method: row.optimizer,
        base: base.optimizer,
        speedup: ratio("seconds"),
        fewer: ratio("gradients"),
        toBest: spread(toBest),
      },
    ];
  });
}

/** How much sooner than its base a method was somewhere: a list of one, or of none where that says nothing. */
function quotient(base: number | null, own: number | null): readonly (number | null)[] {
  if (own === null) return base === null ? [] : [0];
  // Missing numbers count as larger than all.
  if (base === null) return [null];
  return own === 0 ? [] : [base / own];
}

/** The first of the best evaluations of a run, by what the target measures. */
function bestPoint(points: readonly Point[], { metric }: Target): Point | null {
  const badness = ({ loss, accuracy }: Point): number => (metric === "loss" ? loss : -(accuracy ?? 0));
  return points.reduce<Point | null>(
    (best, point) => (best === null || badness(point) < badness(best) ? point : best),
    null,
  );
}
