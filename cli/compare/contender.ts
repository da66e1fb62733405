/** `cotangent contender`: one run of a comparison in a process of its own, so that its memory is its own. */
import { ravel } from "../../core/ravel.ts";
import { openPlace } from "../device.ts";
import { methodOf } from "./config.ts";
import type { Entry, RunRecord } from "./results.ts";
import { type Budget, type Point, runOnce } from "./run.ts";
import { tasks } from "./tasks.ts";

/** What the process is asked for, as JSON in its only argument. */
export interface Assignment {
  readonly entry: Entry;
  readonly budget: Budget;
  readonly evaluations: number;
  readonly stopsAtTarget: boolean;
  readonly dataDir?: string | undefined;
}

/** What the process says, one JSON text in a line. */
export type Saying =
  | { readonly k: "note"; readonly text: string }
  | { readonly k: "point"; readonly point: Point; readonly fraction: number }
  | { readonly k: "failed"; readonly reason: string }
  | { readonly k: "done"; readonly record: RunRecord };

const say = (saying: Saying): void => void process.stdout.write(`${JSON.stringify(saying)}\n`);

/** Makes the run and says how it goes, also where it cannot be made; returns the exit code. */
export async function contender(args: readonly string[]): Promise<number> {
  try {
    await make(JSON.parse(args[0] ?? "{}") as Assignment);
    return 0;
  } catch (error) {
    say({ k: "failed", reason: error instanceof Error ? error.message : String(error) });
    return 1;
  }
}

async function make({ entry, dataDir, ...options }: Assignment): Promise<void> {
  await openPlace("cpu", 0);
  const problem = await tasks[entry.task]!.open({
    seed: entry.seed,
    note: (text) => say({ k: "note", text }),
    ...(dataDir !== undefined && { dataDir }),
  });
  const { method, settings } = methodOf(entry.optimizer);
  const stepper = method.make({ problem, learningRate: entry.learningRate, settings, seed: entry.seed });
  const outcome = runOnce(problem, stepper, {
    ...options,
    onPoint: (point, fraction) => say({ k: "point", point, fraction }),
  });
  say({
    k: "done",
    record: {
      ...entry,
      ...outcome,
      taskName: problem.name,
      target: problem.target,
      parameters: ravel(problem.initial)[0].size,
      bytesSent: 0,
      workerPeakBytes: [],
      failure: null,
    },
  });
}
