/**
 * How well the time of a distributed plan can be predicted, and the predictions for more devices than are here:
 *
 *     bun bench/forecast.ts [ROUNDS]
 *
 * First plans of other forms than those that are judged run on worker processes of one thread each. What their jobs take is
 * what work costs; what is left of the time of a question is what its messages cost; what the same job takes longer beside
 * others says how many cores there are in effect. Nothing is fitted to the runs that are then predicted: those of 1, 2 and 4
 * workers, with seconds per step and per refresh. Then the predictions for 8, 64 and 512 such devices. Calibration and
 * runs take turns ROUNDS times (default 3); medians.
 */
import "../core/backends/select.ts";
import { availableParallelism } from "node:os";
import * as nn from "../core/nn.ts";
import * as random from "../core/random.ts";
import { ravel } from "../core/ravel.ts";
import { adopt } from "../core/trace.ts";
import type { Value } from "../core/value.ts";
import {
  type Costs,
  type Forecast,
  forecast,
  freeOfCost,
  type Network,
  type Rate,
} from "../dist/forecast.ts";
import { type Problem, trainingSetup, workerInitial, workerJobs } from "../dist/jobs.ts";
import { makePlan, orderOf, type Plan, type PlanInput } from "../dist/plan.ts";
import { addressFromEnvironment, runSockets, serveWorker, spawnBun } from "../dist/runtime/bun.ts";
import { type Job, type Jobs, memoryStore } from "../dist/runtime/driver.ts";
import { configOf } from "../dist/script.ts";
import type { WorkKind } from "../dist/work_counts.ts";

const BATCH = 128;
const CURVATURE_BATCH = 256;
const HIDDEN = 128;
const PAIRS = 4;
const ORDER = 16;
const STEPS = 5;
const ROUNDS = 7;

// ------------------------------------------------------------------------------------------------------------- task

interface Batch {
  readonly x: Value;
  readonly y: Value;
}

/** A multilayer perceptron on random images; what is learned does not matter for the time. */
function problemOf(size: Pick<Run, "hidden" | "batch" | "curvature">): Problem<Batch> {
  const model = nn.mlp([784, size.hidden, 10], { activation: "relu" });
  const [initial, unravel] = ravel(model.init(random.key(0)));
  const batches = new Map<string, Batch>();
  const batchOf = (rank: number, turn: number, count: number): Batch => {
    const name = `${rank} ${turn} ${count}`;
    const key = random.foldIn(random.foldIn(random.key(1), rank), turn);
    const made = batches.get(name) ?? {
      x: random.normal(key, [count, 784]),
      y: adopt(
        Int32Array.from({ length: count }, (_, i) => (i * 7 + rank + turn) % 10),
        [count],
        "int32",
      ),
    };
    batches.set(name, made);
    return made;
  };
  return {
    initial,
    score: (theta, { x, y }) => ({
      loss: nn.softmaxCrossEntropy(model.apply(unravel(theta), x), y),
      sums: [],
    }),
    batch: (rank, step) => batchOf(rank, step % 4, size.batch),
    curvatureBatch: (rank) => batchOf(rank, 4, size.curvature),
  };
}

const parametersOf = (hidden: number): number => 784 * hidden + hidden + 10 * hidden + 10;

type Method = Pick<PlanInput, "update" | "sync" | "curvature"> & { readonly localSteps?: number };

const adam = { name: "adam", learningRate: 1e-3 } as const;
const curvature = { k: PAIRS, order: ORDER, period: 2 };
/** Those that are predicted. The background of one begins at the end of every round. */
const judged: Readonly<Record<string, Method>> = {
  "adam, data-parallel": { update: adam, sync: { k: "gradient" } },
  "dho2, replicated": { update: adam, sync: { k: "gradient" }, curvature },
  "dho2, columns": { update: adam, sync: { k: "gradient" }, curvature: { ...curvature, layout: "columns" } },
  "dho2, consensus": { update: adam, sync: { k: "consensus", sigma: 0.005 }, curvature },
  divAdam: { update: adam, sync: { k: "divisible", period: 4, warmup: 1 }, localSteps: 4 },
};
/** Those that are measured before, in parts. */
const measured: Readonly<Record<string, Method>> = {
  sharded: { update: { ...adam, shard: true }, sync: { k: "gradient" } },
  rows: { update: adam, sync: { k: "gradient" }, curvature: { ...curvature, period: 1, layout: "rows" } },
  divided: { update: adam, sync: { k: "divisible", period: 2, warmup: 1 }, localSteps: 4 },
};

/** One run: what a worker process must know. */
interface Run {
  readonly method: string;
  readonly workers: number;
  readonly hidden: number;
  readonly batch: number;
  readonly curvature: number;
}

const runOf = (method: string, workers: number, size: Partial<Run> = {}): Run => ({
  method,
  workers,
  hidden: HIDDEN,
  batch: BATCH,
  curvature: CURVATURE_BATCH,
  ...size,
});

function planOf({ method, workers, hidden }: Run, rounds: number = ROUNDS): Plan {
  const { localSteps = STEPS, ...form } = { ...judged, ...measured }[method]!;
  const parameters = parametersOf(hidden);
  return makePlan({ version: 1, workers, parameters, rounds, localSteps, seed: 0, ...form } as PlanInput);
}

const median = (times: readonly number[]): number => {
  const sorted = times.toSorted((a, b) => a - b);
  const half = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[half]! : (sorted[half - 1]! + sorted[half]!) / 2;
};

// ------------------------------------------------------------------------------------------------------------- runs

/** Seconds of one part of a round: of all, of its slowest worker's job, of the hub's, and of the hub's processor. */
interface Sample {
  readonly wall: number;
  readonly worker: number;
  readonly hub: number;
  readonly processor: number;
}

/** By phase and place in the round. */
type Samples = Map<string, Sample[]>;

/** The jobs, with the time of each told to somebody. */
function timed(jobs: Jobs, tell: (seconds: number) => void): Jobs {
  const timedJob =
    (job: Job): Job =>
    (ins, args) => {
      const before = performance.now();
      const result = job(ins, args);
      tell((performance.now() - before) / 1000);
      return result;
    };
  return Object.fromEntries(Object.entries(jobs).map(([fn, job]) => [fn, timedJob(job)]));
}

/** Runs a plan on processes of one thread each. The first round, in which programs are compiled, does not count. */
async function sample(run: Run, samples: Samples = new Map()): Promise<Samples> {
  const setup = trainingSetup(planOf(run), problemOf(run));
  const now = (): Sample => {
    const { user, system } = process.cpuUsage();
    return { wall: performance.now() / 1000, worker: 0, hub: 0, processor: (user + system) / 1e6 };
  };
  let hub = 0;
  let busy: readonly number[] = [];
  let last = now();
  let places = new Map<string, number>();
  await runSockets({
    config: setup.config,
    jobs: {
      hub: timed(setup.jobs.hub, (seconds) => {
        hub += seconds;
      }),
    },
    initial: { hub: setup.initial.hub },
    spawn: (rank, address) =>
      spawnBun(import.meta.path, ["worker", String(rank), JSON.stringify(run)], { address, threads: 1 }),
    onProgress(progress, { busySeconds }) {
      const { wall, processor } = now();
      const phase = progress.k === "completed" ? "save" : progress.phase;
      const place = places.get(phase) ?? 0;
      places.set(phase, place + 1);
      const worker = Math.max(...busySeconds.map((seconds, rank) => seconds - (busy[rank] ?? 0)));
      const key = `${phase} ${place}`;
      const part = { wall: wall - last.wall, worker, hub, processor: processor - last.processor };
      if (progress.round > 0) samples.set(key, [...(samples.get(key) ?? []), part]);
      if (progress.k === "completed") places = new Map();
      [hub, busy, last] = [0, busySeconds, now()];
    },
  });
  return samples;
}

/** The medians of a part of a round over its places, or those from one place on to before another. */
function partOf(samples: Samples, phase: string, from = 0, to: number = Number.POSITIVE_INFINITY): Sample {
  const found = [...samples].flatMap(([key, values]) => {
    const [name, at] = key.split(" ");
    return name === phase && Number(at) >= from && Number(at) < to ? values : [];
  });
  const of = (name: keyof Sample): number => median(found.map((one) => one[name]));
  return { wall: of("wall"), worker: of("worker"), hub: of("hub"), processor: of("processor") };
}

async function serve(rank: number, run: Run): Promise<void> {
  const plan = planOf(run);
  const problem = problemOf(run);
  await serveWorker({
    rank,
    address: addressFromEnvironment(),
    store: memoryStore(),
    deadlineMs: 5000,
    config: configOf(plan),
    jobs: workerJobs(plan, problem, rank),
    initial: workerInitial(plan, problem.initial, rank),
  });
}

// ------------------------------------------------------------------------------------------------------ calibration

/** The line through two measurements, the larger one last and exactly; a call or a unit never takes less than nothing. */
function through(
  a: readonly [units: number, seconds: number],
  b: readonly [units: number, seconds: number],
): Rate {
  const slope = (b[1] - a[1]) / (b[0] - a[0]);
  const unit = Math.min(Math.max(0, slope), b[1] / b[0]);
  return { call: b[1] - unit * b[0], unit };
}

/** Workers of the runs in which processes are measured beside each other. */
const CROWD = 4;

interface Calibration {
  readonly rates: Costs["rates"];
  /** Cores that are worth as much as those here when all of them compute. */
  readonly cores: number;
}

/**
 * What work and messages cost, from runs of few and many parameters and of few and many examples.
 *
 * The work is that of one worker beside a hub that waits. What is left of a question without jobs is messages: the
 * processor of the hub is busy for its ends, the rest is the worker's, and the time until a process that sleeps goes on. With
 * `CROWD` workers the same job takes longer, by as much as there are more of them than cores in effect: cores may share a cache, the
 * memory, and what computes.
 */
async function calibrate(): Promise<Calibration> {
  const few = { hidden: 8, batch: BATCH / 4, curvature: CURVATURE_BATCH / 4 };
  const sharded = await sample(runOf("sharded", 1));
  const shardedFew = await sample(runOf("sharded", 1, few));
  const shardedFewExamples = await sample(runOf("sharded", 1, { batch: few.batch }));
  const rows = await sample(runOf("rows", 1));
  const rowsFew = await sample(runOf("rows", 1, few));
  const rowsFewExamples = await sample(runOf("rows", 1, { curvature: few.curvature }));
  const divided = await sample(runOf("divided", 1));
  const dividedFew = await sample(runOf("divided", 1, few));
  const crowd = await sample(runOf("rows", CROWD));
  const crowdFew = await sample(runOf("rows", CROWD, few));

  const sizes = [parametersOf(few.hidden), parametersOf(HIDDEN)] as const;
  /** Through what is found with few parameters and with many. */
  const bySize = (
    units: (n: number) => number,
    of: (samples: Samples) => number,
    [a, b]: readonly [Samples, Samples],
  ): Rate => through([units(sizes[0]), of(a)], [units(sizes[1]), of(b)]);
  const worker =
    (phase: string) =>
    (samples: Samples): number =>
      partOf(samples, phase).worker;
  const hub =
    (phase: string) =>
    (samples: Samples): number =>
      partOf(samples, phase).hub;
  const bytes = (n: number): number => 4 * n;
  const wide = [shardedFew, sharded] as const;
  const cut = [rowsFew, rows] as const;

  // A step takes n numbers to each worker and brings n back from each.
  const ofHub = (samples: Samples): number => {
    const { wall, worker, hub, processor } = partOf(samples, "step");
    return Math.min(Math.max(0, processor - hub), Math.max(0, wall - worker - hub));
  };
  const ofWorker = (samples: Samples): number => {
    const { wall, worker, hub } = partOf(samples, "step");
    return Math.max(0, wall - worker - hub - ofHub(samples));
  };
  /** Of one of so many calls. */
  const each = ({ call, unit }: Rate, calls: number): Rate => ({ call: call / calls, unit });
  /** Of half of the passes over the basis, as of the one in their middle. */
  const passes = (from: number): readonly [number, number] => [
    (from + (ORDER / 2 + 1) / 2) * sizes[1],
    partOf(rows, "coefficients", from, from + ORDER / 2).worker,
  ];
  const basis = through(passes(0), passes(ORDER / 2));
  /** A product in the middle of a search, without its two passes. */
  const product = (samples: Samples): number =>
    Math.max(0, worker("product")(samples) - 2 * basis.call - (ORDER - 1) * sizes[1] * basis.unit);
  const gradientOf = new Map<Samples, number>([
    [divided, worker("step")(sharded)],
    [dividedFew, worker("step")(shardedFew)],
  ]);
  const rates: Costs["rates"] = {
    // No plan here has matrices.
    ...freeOfCost.rates,
    gradient: through([few.batch, worker("step")(shardedFewExamples)], [BATCH, worker("step")(sharded)]),
    linearize: through(
      [few.curvature, worker("open")(rowsFewExamples)],
      [CURVATURE_BATCH, worker("open")(rows)],
    ),
    product: through([few.curvature, product(rowsFewExamples)], [CURVATURE_BATCH, product(rows)]),
    update: bySize((n) => n, worker("move"), wide),
    project: each(
      bySize((n) => 2 * PAIRS * n, worker("inside"), cut),
      2,
    ),
    basis,
    // Every second step takes a result of the background, every other one that of the step before.
    divide: bySize(
      (n) => n,
      (samples) => {
        const [first, second] = [0, 1].map((place) => partOf(samples, "step", place, place + 1).worker);
        const landing = worker("launch")(samples) / 2;
        return Math.max(0, (first! + second!) / 2 - landing - gradientOf.get(samples)!);
      },
      [dividedFew, divided],
    ),
    land: bySize((n) => n, worker("launch"), [dividedFew, divided]),
    reduce: bySize(bytes, hub("step"), cut),
    // A product and the columns of one row.
    iterate: bySize((n) => 2 * bytes(n), hub("product"), cut),
    start: bySize((n) => n, hub("open"), cut),
    ritz: { call: 0, unit: hub("ritz")(rows) / ORDER ** 3 },
    // Of many workers, because what goes to all is packed once.
    hubMessage: each(
      bySize((n) => 2 * CROWD * bytes(n), ofHub, [crowdFew, crowd]),
      2 * CROWD,
    ),
    workerMessage: each(
      bySize((n) => 2 * bytes(n), ofWorker, cut),
      2,
    ),
    // Saves are kept in memory: what they take is their turn of the event loop.
    save: { call: partOf(sharded, "save").wall / 2, unit: 0 },
  };
  // The first products have hardly any basis beside them, which is divided by the workers.
  const together = (samples: Samples): number =>
    worker("open")(samples) + ORDER * partOf(samples, "product", 0, ORDER / 4).worker;
  const slowness = together(crowd) / together(rows);
  return { rates, cores: Math.min(availableParallelism(), Math.max(1, CROWD / slowness)) };
}

// ------------------------------------------------------------------------------------------------------------ report

/** Medians of the parts of a round, added: seconds of a step and of a refresh. */
function spentOf(plan: Plan, samples: Samples): { readonly step: number; readonly refresh: number } {
  const parts = new Map(forecast(plan, freeOfCost, here).phases.map(({ name, part }) => [name, part]));
  const sum = { refresh: 0, step: 0, save: 0, evaluation: 0 };
  for (const [key, values] of samples)
    sum[parts.get(key.split(" ")[0]!)!] += median(values.map(({ wall }) => wall));
  return { step: (sum.step + sum.save) / plan.localSteps, refresh: sum.refresh };
}

/** The same without the first round, as it is predicted. */
function predictedOf(run: Run, costs: Costs, network: Network): ReturnType<typeof spentOf> {
  const steps = (plan: Plan): number => plan.rounds * plan.localSteps;
  const [short, long] = [1, ROUNDS].map((rounds) => planOf(run, rounds)) as [Plan, Plan];
  const [first, all] = [short, long].map((plan) => forecast(plan, costs, network)) as [Forecast, Forecast];
  const seconds = steps(long) * all.perStep - steps(short) * first.perStep;
  return { step: seconds / (steps(long) - steps(short)), refresh: all.perRefresh };
}

/** This machine's own connections: what they take is in the rates of messages. */
const here: Network = { topology: "star", latency: 0, bandwidth: Number.POSITIVE_INFINITY };

const examples = { gradient: BATCH, curvature: CURVATURE_BATCH, evaluation: 0 };
const ms = (seconds: number): string => `${(1000 * seconds).toPrecision(3)}`;
const row = (cells: readonly string[]): void => console.log(`| ${cells.join(" | ")} |`);
const header = (cells: readonly string[]): void => {
  row(cells);
  console.log(`|${"-|".repeat(cells.length)}`);
};

/** Predicted minus measured, in percent of measured. */
const errorOf = (predicted: number, measured: number): string =>
  measured === 0
    ? ""
    : `${predicted >= measured ? "+" : "−"}${Math.abs(100 * (predicted / measured - 1)).toFixed(0)} %`;

async function main(rounds: number): Promise<void> {
  const began = performance.now();
  const rows = Object.keys(judged).flatMap((method) =>
    [1, 2, 4].map((workers) => ({ run: runOf(method, workers), samples: new Map() as Samples })),
  );
  const calibrations: Calibration[] = [];
  for (let turn = 0; turn < rounds; turn++) {
    calibrations.push(await calibrate());
    for (const { run, samples } of rows) await sample(run, samples);
  }
  const kinds = Object.keys(freeOfCost.rates) as WorkKind[];
  const rates = Object.fromEntries(
    kinds.map((kind) => [
      kind,
      {
        call: median(calibrations.map((one) => one.rates[kind].call)),
        unit: median(calibrations.map((one) => one.rates[kind].unit)),
      },
    ]),
  ) as Costs["rates"];
  const cores = median(calibrations.map((one) => one.cores));

  const n = parametersOf(HIDDEN);
  console.log(
    `MLP 784-${HIDDEN}-10 (${n} parameters), batch ${BATCH} per worker, curvature on ${CURVATURE_BATCH} examples,`,
  );
  console.log(
    `k ${PAIRS}, ${ORDER} Lanczos steps; one thread per worker, ${availableParallelism()} cores, worth ${cores.toFixed(2)};`,
  );
  console.log(
    `medians of ${rounds} interleaved rounds, ${((performance.now() - began) / 1000).toFixed(0)} s in all\n`,
  );
  header(["work", "call, µs", "unit, ns"]);
  for (const kind of kinds)
    row([kind, (1e6 * rates[kind].call).toPrecision(3), (1e9 * rates[kind].unit).toPrecision(3)]);

  console.log("");
  header(["method", "workers", "step, ms", "predicted", "error", "refresh, ms", "predicted", "error"]);
  for (const { run, samples } of rows) {
    const { step, refresh } = spentOf(planOf(run), samples);
    const predicted = predictedOf(run, { rates, examples, cores }, here);
    row([
      run.method,
      String(run.workers),
      ms(step),
      ms(predicted.step),
      errorOf(predicted.step, step),
      refresh === 0 ? "" : ms(refresh),
      refresh === 0 ? "" : ms(predicted.refresh),
      errorOf(predicted.refresh, refresh),
    ]);
  }
  predict({ rates, examples, cores: null });
}

const links = [
  { name: "1 Gbit/s", latency: 50e-6, bandwidth: 1e9 / 8 },
  { name: "10 Gbit/s", latency: 20e-6, bandwidth: 10e9 / 8 },
  { name: "200 Gbit/s", latency: 5e-6, bandwidth: 200e9 / 8 },
] as const;

/** One device for each worker, the same batch at each, however many there are. */
function predict(costs: Costs): void {
  console.log("\nPredicted, ms of a step / of a refresh: a device for each worker, latency 50, 20 and 5 µs;");
  console.log("star: the hub of this program; ring: collectives that cost only what the network does\n");
  // Nothing is packed into messages.
  const bare: Costs = { ...costs, rates: { ...costs.rates, workerMessage: freeOfCost.rates.workerMessage } };
  const networks = (["star", "ring"] as const).flatMap((topology) =>
    links.map((link) => ({ ...link, topology })),
  );
  header(["method", "workers", ...networks.map(({ name, topology }) => `${topology}, ${name}`)]);
  for (const method of Object.keys(judged)) {
    for (const workers of [8, 64, 512]) {
      const run = runOf(method, workers);
      const hasRefreshes = orderOf(planOf(run)) > 0;
      row([
        method,
        String(workers),
        ...networks.map((network) => {
          const own = network.topology === "ring" ? bare : costs;
          const { step, refresh } = predictedOf(run, own, network);
          return hasRefreshes ? `${ms(step)} / ${ms(refresh)}` : ms(step);
        }),
      ]);
    }
  }
}

const [kind = "", rank = "", run = ""] = process.argv.slice(2);
if (kind === "worker") await serve(Number(rank), JSON.parse(run) as Run);
else if (process.env["COTANGENT_THREADS"] !== "1") {
  // The hub has one thread too.
  const env = { ...process.env, COTANGENT_THREADS: "1" };
  const child = Bun.spawn([process.execPath, import.meta.path, ...process.argv.slice(2)], {
    env,
    stdout: "inherit",
    stderr: "inherit",
  });
  process.exitCode = await child.exited;
} else await main(kind === "" ? 3 : Number(kind));
