/**
 * What DHO2 needs of a worker, and whether curvature beside the training slows it:
 *
 *     bun bench/dho2.ts memory            resident set per worker of 1, 2, 4, 8 workers, curvature against its formula
 *     bun bench/dho2.ts overlap           steps per second while curvature workers compute and while they rest
 *
 * Workers are processes of this script. Give it a quiet machine with a core for each process that computes.
 */
import { jit } from "../autodiff/jit.ts";
import "../core/backends/select.ts";
import * as nn from "../core/nn.ts";
import * as random from "../core/random.ts";
import { ravel } from "../core/ravel.ts";
import type { Value } from "../core/value.ts";
import { type Problem, trainingSetup, workerInitial, workerJobs } from "../dist/jobs.ts";
import { makePlan, type Plan, type PlanInput } from "../dist/plan.ts";
import { planCost } from "../dist/plan_cost.ts";
import {
  type Address,
  addressFromEnvironment,
  runSockets,
  serveWorker,
  spawnBun,
} from "../dist/runtime/bun.ts";
import { memoryStore } from "../dist/runtime/driver.ts";
import { configOf } from "../dist/script.ts";
import { curvatureGroup, groupConfig, groupWorkerJobs } from "../dist/split.ts";

interface Batch {
  readonly x: Value;
  readonly y: Value;
}

/** A classifier of random images, with hidden layers of one width; every worker and step has a batch of its own. */
function problemOf(width: number, examples: number): Problem<Batch> {
  const model = nn.mlp([784, width, width, 10], { activation: "relu" });
  const [initial, unravel] = ravel(model.init(random.key(0)));
  const draw = (seed: number): Batch => ({
    x: random.normal(random.key(seed), [examples, 784]),
    y: random.categorical(random.key(seed + 1), random.normal(random.key(7), [examples, 10])),
  });
  const kept = new Map<number, Batch>();
  const batch = (seed: number): Batch => {
    const known = kept.get(seed) ?? draw(seed);
    kept.set(seed, known);
    return known;
  };
  return {
    initial,
    score: jit((theta: Value, { x, y }: Batch) => ({
      loss: nn.softmaxCrossEntropy(model.apply(unravel(theta), x), y),
      sums: [],
    })),
    batch: (rank, step) => batch(10 * rank + (step % 4)),
    curvatureBatch: (rank) => batch(10 * rank),
  };
}

/** What every process of a run is told. */
interface Assignment {
  readonly width: number;
  readonly examples: number;
  readonly plan: PlanInput;
}

function opened({ width, examples, plan }: Assignment): { problem: Problem<Batch>; plan: Plan } {
  const problem = problemOf(width, examples);
  return { problem, plan: makePlan({ ...plan, parameters: problem.initial.size }) };
}

async function serve(assignment: Assignment, rank: number, kind: string): Promise<void> {
  const { problem, plan } = opened(assignment);
  await serveWorker({
    rank,
    address: addressFromEnvironment(),
    store: memoryStore(),
    ...(kind === "curvature"
      ? { config: groupConfig(plan), jobs: groupWorkerJobs(plan, problem, rank), initial: {} }
      : {
          config: configOf(plan),
          jobs: workerJobs(plan, problem, rank),
          initial: workerInitial(plan, problem.initial, rank),
        }),
  });
}

/** Runs a plan; tells when rounds end, and the largest resident set of each worker. */
async function run(
  assignment: Assignment,
): Promise<{ readonly ends: readonly number[]; readonly peaks: readonly number[]; readonly plan: Plan }> {
  const { problem, plan } = opened(assignment);
  const group = plan.curvature?.split ? curvatureGroup(plan, problem) : null;
  const spawner =
    (kind: string) =>
    (rank: number, address: Address): ReturnType<typeof spawnBun> =>
      spawnBun(import.meta.path, ["serve", JSON.stringify(assignment), String(rank), kind], {
        address,
        threads: 1,
      });
  const beside =
    group &&
    runSockets({ ...group.setup, spawn: spawner("curvature") }).catch((error: unknown) => group.fail(error));
  const { worker: _own, ...initial } = trainingSetup(plan, problem).initial;
  const ends: number[] = [];
  const result = await runSockets({
    ...trainingSetup(plan, problem, group?.source),
    initial,
    spawn: spawner("training"),
    onProgress: (progress) => {
      if (progress.k === "completed") ends.push(performance.now());
    },
  });
  group?.close();
  await beside;
  return { ends, peaks: result.workerPeakBytes, plan };
}

const common: Omit<PlanInput, "workers" | "rounds" | "localSteps" | "curvature"> = {
  version: 1,
  parameters: 1,
  seed: 0,
  update: { name: "adam", learningRate: 1e-4 },
  sync: { k: "gradient" },
};
const median = (x: readonly number[]): number =>
  x.toSorted((a, b) => a - b)[Math.floor(x.length / 2)] ?? Number.NaN;
const megabytes = (bytes: number): string => `${(bytes / 1e6).toFixed(0)} MB`;

/** Everything cut by columns, with and without curvature: what the curvature adds to the resident set. */
async function memory(): Promise<void> {
  console.log(
    "| workers | curvature by formula | resident set with | without | difference | times P, of one worker's |",
  );
  console.log("|-|-|-|-|-|-|");
  let alone = Number.NaN;
  for (const workers of [1, 2, 4, 8]) {
    const shape = { width: 512, examples: 16 };
    const plan = { ...common, workers, rounds: 3, localSteps: 1 };
    const curvature = { k: 8, order: 40, period: 10, warmup: 1, layout: "columns" as const };
    const withCurvature = await run({ ...shape, plan: { ...plan, curvature } });
    const without = await run({
      ...shape,
      plan: { ...plan, update: { name: "adam", learningRate: 1e-4, shard: true } },
    });
    const { basis, vectors, velocity } = planCost(withCurvature.plan).memory[0]!;
    const [largest, plain] = [Math.max(...withCurvature.peaks), Math.max(...without.peaks)];
    const difference = largest - plain;
    if (workers === 1) alone = difference;
    const cells = [
      workers,
      megabytes(basis + vectors + velocity),
      megabytes(largest),
      megabytes(plain),
      megabytes(difference),
      ((difference * workers) / alone).toFixed(2),
    ];
    console.log(`| ${cells.join(" | ")} |`);
  }
}

/** One training worker and one curvature worker, each with one thread: rounds while curvature is computed, and others. */
async function overlap(): Promise<void> {
  const [period, delay, rounds] = [40, 20, 200];
  const { ends, plan } = await run({
    width: 256,
    examples: 256,
    plan: {
      ...common,
      workers: 1,
      rounds,
      localSteps: 5,
      curvature: { k: 10, order: 40, period, warmup: 5, split: { workers: 1, delay } },
    },
  });
  const lengths = ends.map((end, i) => end - (ends[i - 1] ?? Number.NaN));
  const busy: number[] = [];
  const idle: number[] = [];
  for (let round = 10; round < rounds; round++) {
    const age = (round - plan.curvature!.warmup) % period;
    // The first half of the delay: the group computes for sure; the last quarter of the period: it rests for sure.
    if (age > 0 && age < 8) busy.push(lengths[round]!);
    if (age > delay + 10) idle.push(lengths[round]!);
  }
  const rate = (x: readonly number[]): string => ((1000 * plan.localSteps) / median(x)).toFixed(1);
  console.log(
    `steps per second while curvature is computed ${rate(busy)}, while not ${rate(idle)}: ${(100 * (median(busy) / median(idle) - 1)).toFixed(1)}% slower`,
  );
}

const [what, ...rest] = process.argv.slice(2);
if (what === "serve") await serve(JSON.parse(rest[0]!) as Assignment, Number(rest[1]), rest[2]!);
else if (what === "memory") await memory();
else if (what === "overlap") await overlap();
else console.error("Cannot measure: memory or overlap is needed");
