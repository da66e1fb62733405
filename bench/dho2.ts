/**
 * What DHO2 needs of a worker, and whether curvature beside the training slows it:
 *
 *     bun bench/dho2.ts memory            what curvature takes of a worker, of 1, 2, 4, 8 workers, against its formula
 *     bun bench/dho2.ts overlap           steps per second while curvature workers compute and while they rest, and beside a stranger
 *
 * Workers are processes of this script. Give it a quiet machine with a core for each process that computes.
 */
import { jit } from "../autodiff/jit.ts";
import { hessianOperator } from "../autodiff/operator.ts";
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
import { type JobResult, type Jobs, memoryStore } from "../dist/runtime/driver.ts";
import { configOf } from "../dist/script.ts";
import { curvatureGroup, groupConfig, groupWorkerJobs } from "../dist/split.ts";
import { lanczos } from "../optim/lanczos.ts";

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
  const initial = workerInitial(plan, problem.initial, rank);
  await serveWorker({
    rank,
    address: addressFromEnvironment(),
    store: memoryStore(),
    ...(kind === "curvature"
      ? { config: groupConfig(plan), jobs: groupWorkerJobs(plan, problem, rank), initial: {} }
      : { config: configOf(plan), jobs: measured(workerJobs(plan, problem, rank), plan, rank), initial }),
  });
}

/** The same jobs; worker 0 says what the curvature holds, in arrays, and how the resident set has grown by it. */
function measured(jobs: Jobs, plan: Plan, rank: number): Jobs {
  if (rank !== 0 || !jobs["installColumns"]) return jobs;
  let [before, after, basis] = [0, 0, 0];
  return {
    ...jobs,
    open(ins, args) {
      const result = jobs["open"]!(ins, args);
      Bun.gc(true);
      before = process.memoryUsage.rss();
      return result;
    },
    product(ins, args) {
      const result = jobs["product"]!(ins, args) as JobResult;
      basis = (result.outs[1] as readonly Float64Array[]).reduce(
        (sum, { byteLength }) => sum + byteLength,
        0,
      );
      Bun.gc(true);
      after = Math.max(after, process.memoryUsage.rss());
      return result;
    },
    installColumns(ins, args) {
      const result = jobs["installColumns"]!(ins, args) as JobResult;
      const { vectors } = result.outs[0] as { readonly vectors: Value };
      const { memory } = planCost(plan);
      const cells = [
        plan.workers,
        megabytes(basis + 4 * vectors.size),
        megabytes(memory[0]!.basis + memory[0]!.vectors),
        megabytes(after - before),
      ];
      console.log(`| ${cells.join(" | ")} |`);
      return result;
    },
  };
}

/** Runs a plan; tells when its rounds end, at once and in the end. */
async function run(
  assignment: Assignment,
  onRound: (round: number) => void = () => {},
): Promise<{ readonly ends: readonly number[]; readonly plan: Plan }> {
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
  await runSockets({
    ...trainingSetup(plan, problem, group?.source),
    initial,
    spawn: spawner("training"),
    onProgress: (progress) => {
      if (progress.k === "completed") onRound(ends.push(performance.now()));
    },
  });
  group?.close();
  await beside;
  return { ends, plan };
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

/** Everything cut by columns: what curvature takes at worker 0, who has the most. */
async function memory(): Promise<void> {
  console.log(
    "| workers | basis and eigenvectors, held | by formula | growth of the resident set in a refresh |",
  );
  console.log("|-|-|-|-|");
  for (const workers of [1, 2, 4, 8]) {
    const curvature = { k: 8, order: 40, period: 10, warmup: 1, layout: "columns" as const };
    await run({
      width: 512,
      examples: 16,
      plan: { ...common, workers, rounds: 3, localSteps: 1, curvature },
    });
  }
}

/** One training worker and one curvature worker, each with one thread. */
function beside(sync: PlanInput["sync"], period: number, delay: number): Assignment {
  return {
    width: 256,
    examples: 256,
    plan: {
      ...common,
      sync,
      workers: 1,
      rounds: 200,
      localSteps: 5,
      curvature: { k: 10, order: 40, period, warmup: 5, split: { workers: 1, delay } },
    },
  };
}

const lengthsOf = (ends: readonly number[]): readonly number[] =>
  ends.map((end, i) => end - (ends[i - 1] ?? Number.NaN));

function report(what: string, plan: Plan, busy: readonly number[], idle: readonly number[]): void {
  const rate = (x: readonly number[]): string => ((1000 * plan.localSteps) / median(x)).toFixed(1);
  const slower = (100 * (median(busy) / median(idle) - 1)).toFixed(1);
  console.log(
    `${plan.sync.k}: ${rate(busy)} steps per second ${what}, ${rate(idle)} while not: ${slower}% slower`,
  );
}

/** Rounds while curvature is computed, and others. */
async function overlap(sync: PlanInput["sync"]): Promise<void> {
  const [period, delay] = [40, 20];
  const { ends, plan } = await run(beside(sync, period, delay));
  const busy: number[] = [];
  const idle: number[] = [];
  lengthsOf(ends).forEach((length, round) => {
    const age = (round - plan.curvature!.warmup) % period;
    if (round < 10) return;
    // The first rounds of the delay: the group computes for sure; the end of the period: it rests for sure.
    if (age > 0 && age < 8) busy.push(length);
    if (age > delay + 10) idle.push(length);
  });
  report("while curvature is computed", plan, busy, idle);
}

/** The same beside a process that searches and talks to nobody: what the machine takes, and no protocol can give back. */
async function strangers(sync: PlanInput["sync"]): Promise<void> {
  const [period, from] = [10_000, 100];
  const assignment = beside(sync, period, 5);
  let stranger: ReturnType<typeof spawnBun> | null = null;
  const { ends, plan } = await run(assignment, (round) => {
    if (round === from)
      stranger = spawnBun(import.meta.path, ["search", JSON.stringify(assignment)], { threads: 1 });
  });
  (stranger as ReturnType<typeof spawnBun> | null)?.kill("SIGKILL");
  const lengths = lengthsOf(ends);
  // The stranger has to start and to compile first.
  report("beside a stranger", plan, lengths.slice(from + 40), lengths.slice(20, from));
}

/** The searches of the curvature worker, one after the other, for nobody. */
function search(assignment: Assignment): never {
  const { problem, plan } = opened(assignment);
  const objective = jit((theta: Value, batch: Batch): Value => problem.score(theta, batch).loss);
  const operator = hessianOperator(objective, problem.initial, problem.curvatureBatch(0, 0));
  const { k, order } = plan.curvature!;
  for (let i = 0; ; i++) lanczos(operator, { k, order: order!, key: random.key(i) });
}

const [what, ...rest] = process.argv.slice(2);
if (what === "serve") await serve(JSON.parse(rest[0]!) as Assignment, Number(rest[1]), rest[2]!);
else if (what === "memory") await memory();
else if (what === "search") search(JSON.parse(rest[0]!) as Assignment);
else if (what === "overlap") {
  for (const sync of [{ k: "gradient" }, { k: "consensus", sigma: 0, relative: false }] as const) {
    await overlap(sync);
    await strangers(sync);
  }
} else console.error("Cannot measure: memory or overlap is needed");
