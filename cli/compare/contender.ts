/** `cotangent contender`: one run of a comparison in a process of its own, so that its memory is its own. */
import { ravel } from "../../core/ravel.ts";
import { openPlace } from "../device.ts";
import { distributedMethodOf, methodOf } from "./config.ts";
import type { DistributedInput } from "./distributed.ts";
import type { Entry, RunRecord } from "./results.ts";
import { type Budget, type Outcome, type Point, type RunOptions, runOnce } from "./run.ts";
import { runDistributed, serveDistributed } from "./run_distributed.ts";
import type { Problem } from "./task.ts";
import { tasks } from "./tasks.ts";

/** What the process is asked for, as JSON in its only argument. */
export interface Assignment {
  readonly entry: Entry;
  /** With more than one, or with one of a comparison of designs, a plan on worker processes. */
  readonly workers: number;
  readonly localSteps: number;
  readonly budget: Budget;
  readonly evaluations: number;
  readonly stopsAtTarget: boolean;
  readonly target?: number;
  readonly batch?: number;
  readonly dataDir?: string | undefined;
}

/** What the process says, one JSON text in a line. */
export type Saying =
  | { readonly k: "note"; readonly text: string }
  | { readonly k: "point"; readonly point: Point; readonly fraction: number }
  | { readonly k: "failed"; readonly reason: string }
  | { readonly k: "done"; readonly record: RunRecord };

const kinds: readonly unknown[] = ["note", "point", "failed", "done"];

/** What a line of the process says; one that is not its own, as a library may print, is a note. */
export function sayingOf(line: string): Saying {
  try {
    const saying = JSON.parse(line) as Saying | null;
    if (kinds.includes(saying?.k)) return saying!;
  } catch {
    // No JSON: a note.
  }
  return { k: "note", text: line };
}

const say = (saying: Saying): void => void process.stdout.write(`${JSON.stringify(saying)}\n`);

/** Makes the run and says how it goes, also where it cannot be made; or serves a rank of it. Returns the exit code. */
export async function contender(args: readonly string[]): Promise<number> {
  const assignment = JSON.parse(args[0] ?? "{}") as Assignment;
  const [, rank, kind] = args;
  if (rank !== undefined) {
    // Ctrl-C reaches this process too; what is to happen then is for the one that started it to say.
    process.on("SIGINT", () => {});
    const problem = await open(assignment, () => {});
    await serveDistributed(problem, inputOf(assignment), Number(rank), kind as "training" | "curvature");
    return 0;
  }
  try {
    await make(assignment);
    return 0;
  } catch (error) {
    say({ k: "failed", reason: error instanceof Error ? error.message : String(error) });
    return 1;
  }
}

async function open(assignment: Assignment, note: (text: string) => void): Promise<Problem> {
  const { entry, dataDir, target, batch } = assignment;
  await openPlace("cpu", 0);
  const problem = await tasks[entry.task]!.open({
    seed: entry.seed,
    note,
    ...(dataDir !== undefined && { dataDir }),
    ...(batch !== undefined && { batch }),
  });
  return target === undefined ? problem : { ...problem, target: { ...problem.target, value: target } };
}

function inputOf({ entry, workers, localSteps, budget }: Assignment): DistributedInput {
  const { method, settings } = distributedMethodOf(entry.optimizer);
  const { learningRate, seed } = entry;
  // A run that time ends has as many steps as it likes.
  const steps = budget.unit === "wall" ? 1e8 : budget.amount;
  return { method, settings, learningRate, workers, localSteps, seed, steps };
}

async function make(assignment: Assignment): Promise<void> {
  const { entry, workers } = assignment;
  const parent = process.ppid;
  const problem = await open(assignment, (text) => say({ k: "note", text }));
  const options: RunOptions = {
    ...assignment,
    onPoint(point, fraction) {
      // A comparison that was killed cannot end its runs: one that went on would disturb those that are made next.
      if (process.ppid !== parent) process.exit(1);
      say({ k: "point", point, fraction });
    },
  };
  const single = (): Outcome => {
    const { method, settings } = methodOf(entry.optimizer);
    const { learningRate, seed } = entry;
    return runOnce(problem, method.make({ problem, learningRate, settings, seed }), options);
  };
  const argument = JSON.stringify(assignment);
  const outcome =
    workers > 1
      ? await runDistributed(problem, inputOf(assignment), options, (rank, kind) => [
          "contender",
          argument,
          String(rank),
          kind,
        ])
      : { ...single(), bytesSent: 0, workerPeakBytes: [] };
  say({
    k: "done",
    record: {
      ...entry,
      ...outcome,
      taskName: problem.name,
      target: problem.target,
      parameters: ravel(problem.initial)[0].size,
      failure: null,
    },
  });
}
