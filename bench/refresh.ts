/**
 * What a curvature refresh takes on worker processes, phase by phase:
 *
 *     bun bench/refresh.ts [WORKERS] [ORDER] [ROUNDS] [LAYOUT]
 *
 * An MLP 784-128-64-10 (109,386 parameters), curvature on 256 random images at each worker, every round one refresh and one
 * step. Processes of one thread each. The first round compiles and does not count; medians of the others.
 */
import { jit } from "../autodiff/jit.ts";
import "../core/backends/select.ts";
import * as nn from "../core/nn.ts";
import * as random from "../core/random.ts";
import { ravel } from "../core/ravel.ts";
import type { Value } from "../core/value.ts";
import { type Problem, trainingSetup, workerInitial, workerJobs } from "../dist/jobs.ts";
import { makePlan, type Plan, type PlanInput } from "../dist/plan.ts";
import { addressFromEnvironment, runSockets, serveWorker, spawnBun } from "../dist/runtime/bun.ts";
import { memoryStore, type Progress } from "../dist/runtime/driver.ts";
import { configOf } from "../dist/script.ts";

const PAIRS = 5;
const EXAMPLES = 256;

interface Batch {
  readonly x: Value;
  readonly y: Value;
}

function problemOf(): Problem<Batch> {
  const model = nn.mlp([784, 128, 64, 10], { activation: "relu" });
  const [initial, unravel] = ravel(model.init(random.key(0)));
  const batch = (rank: number): Batch => ({
    x: random.normal(random.key(2 * rank + 1), [EXAMPLES, 784]),
    y: random.categorical(random.key(2 * rank + 2), random.normal(random.key(7), [EXAMPLES, 10])),
  });
  const kept = new Map<number, Batch>();
  const batchOf = (rank: number): Batch => {
    const known = kept.get(rank) ?? batch(rank);
    kept.set(rank, known);
    return known;
  };
  return {
    initial,
    score: jit((theta: Value, { x, y }: Batch) => ({
      loss: nn.softmaxCrossEntropy(model.apply(unravel(theta), x), y),
      sums: [],
    })),
    batch: batchOf,
    curvatureBatch: batchOf,
  };
}

/** What every process of a run is told. */
interface Assignment {
  readonly workers: number;
  readonly order: number;
  readonly rounds: number;
  readonly layout: "replicated" | "rows" | "columns";
}

function planOf({ workers, order, rounds, layout }: Assignment, parameters: number): Plan {
  const input: PlanInput = {
    version: 1,
    workers,
    parameters,
    rounds,
    localSteps: 1,
    seed: 0,
    update: { name: "adam", learningRate: 1e-4 },
    sync: { k: "gradient" },
    curvature: { k: PAIRS, order, period: 1, layout },
  };
  return makePlan(input);
}

async function serve(assignment: Assignment, rank: number): Promise<void> {
  const problem = problemOf();
  const plan = planOf(assignment, problem.initial.size);
  await serveWorker({
    rank,
    address: addressFromEnvironment(),
    store: memoryStore(),
    config: configOf(plan),
    jobs: workerJobs(plan, problem, rank),
    initial: workerInitial(plan, problem.initial, rank),
  });
}

const median = (x: readonly number[]): number => x.toSorted((a, b) => a - b)[x.length >> 1] ?? Number.NaN;
const ms = (x: number): string => x.toFixed(2);

async function main(assignment: Assignment): Promise<void> {
  const problem = problemOf();
  const plan = planOf(assignment, problem.initial.size);
  const { worker: _own, ...initial } = trainingSetup(plan, problem).initial;
  const phases = new Map<string, number[]>();
  const refreshes: number[] = [];
  let pairs: readonly number[] = [];
  let last = performance.now();
  let refresh = 0;
  let cpu = process.cpuUsage();
  let isWarm = false;
  const result = await runSockets({
    ...trainingSetup(plan, problem),
    initial,
    spawn: (rank, address) =>
      spawnBun(import.meta.path, ["serve", JSON.stringify(assignment), String(rank)], {
        address,
        threads: 1,
      }),
    onProgress(progress: Progress) {
      const now = performance.now();
      const spent = now - last;
      last = now;
      if (progress.k === "completed") {
        if (progress.round > 1) refreshes.push(refresh);
        refresh = 0;
        if (!isWarm) cpu = process.cpuUsage();
        isWarm = true;
        return;
      }
      if (!isWarm) return;
      const { phase } = progress;
      const isTraining = phase === "gradient" || phase === "step" || phase === "move" || phase === "last";
      if (!isTraining && phase !== "evaluate") refresh += spent;
      if (phase === "vectors") pairs = progress.hub;
      phases.set(phase, [...(phases.get(phase) ?? []), spent]);
    },
  });
  const { user, system } = process.cpuUsage(cpu);
  console.log(`refresh ${ms(median(refreshes))} ms, least ${ms(Math.min(...refreshes))} ms`);
  console.log(`hub's processor ${ms((user + system) / 1000 / (assignment.rounds - 1))} ms a round`);
  for (const [phase, times] of phases) console.log(`  ${phase.padEnd(14)} ${ms(median(times))} ms`);
  console.log(`  pairs ${pairs.map((x) => x.toPrecision(6)).join(" ")}; ${result.reason}`);
}

const [first = "2", second = "24", third = "8", layout = "replicated"] = process.argv.slice(2);
if (first === "serve") await serve(JSON.parse(second) as Assignment, Number(third));
else {
  await main({
    workers: Number(first),
    order: Number(second),
    rounds: Number(third),
    layout: layout as Assignment["layout"],
  });
}
