/**
 * How well the time of a distributed plan can be predicted, and the predictions for more devices than are here:
 *
 *     bun bench/forecast.ts [ROUNDS]
 *
 * Measures what one thread of this machine needs for each kind of work (in one process) and for messages (over a socket),
 * runs plans on worker processes of one thread each, and prints seconds per step and per refresh, measured and predicted.
 * Then the predictions for 8, 64 and 512 such devices. Calibration and runs take turns ROUNDS times (default 3); medians.
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
import type { Config } from "../dist/protocol/types.ts";
import { addressFromEnvironment, runSockets, serveWorker, spawnBun } from "../dist/runtime/bun.ts";
import { type Job, type Jobs, memoryStore, type Progress } from "../dist/runtime/driver.ts";
import { runSequential } from "../dist/runtime/sequential.ts";
import { configOf } from "../dist/script.ts";
import type { WorkKind } from "../dist/work_counts.ts";

const BATCH = 128;
const CURVATURE_BATCH = 256;
const HIDDEN = 128;
const PAIRS = 4;
const ORDER = 16;
const STEPS = 5;

// ------------------------------------------------------------------------------------------------------------- task

interface Batch {
  readonly x: Value;
  readonly y: Value;
}

/** A multilayer perceptron on random images; what is learned does not matter for the time. */
function problemOf(size: {
  readonly hidden: number;
  readonly batch: number;
  readonly curvature: number;
}): Problem<Batch> {
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

const task = { hidden: HIDDEN, batch: BATCH, curvature: CURVATURE_BATCH };
const parametersOf = (hidden: number): number => 784 * hidden + hidden + 10 * hidden + 10;

const adam = { name: "adam", learningRate: 1e-3 } as const;
const curvature = { k: PAIRS, order: ORDER, period: 2 };
const methods: Readonly<Record<string, Pick<PlanInput, "update" | "sync" | "curvature">>> = {
  "adam, data-parallel": { update: adam, sync: { k: "gradient" } },
  "dho2, replicated": { update: adam, sync: { k: "gradient" }, curvature },
  "dho2, columns": { update: adam, sync: { k: "gradient" }, curvature: { ...curvature, layout: "columns" } },
  "dho2, consensus": { update: adam, sync: { k: "consensus", sigma: 0.005 }, curvature },
};

function planOf(
  method: (typeof methods)[string],
  workers: number,
  options: { hidden?: number; rounds?: number } = {},
): Plan {
  const { hidden = HIDDEN, rounds = 7 } = options;
  return makePlan({
    version: 1,
    workers,
    parameters: parametersOf(hidden),
    rounds,
    localSteps: STEPS,
    seed: 0,
    ...method,
  } as PlanInput);
}

// ------------------------------------------------------------------------------------------------------ calibration

const median = (times: readonly number[]): number => {
  const sorted = times.toSorted((a, b) => a - b);
  const half = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[half]! : (sorted[half - 1]! + sorted[half]!) / 2;
};

/** Seconds of each function of a plan in one process, by name: `worker gradient`; those of a loop by its turn too. */
type Times = ReadonlyMap<string, number>;

function timesOf(plan: Plan, size: typeof task): Times {
  const setup = trainingSetup(plan, problemOf(size));
  const samples = new Map<string, number[]>();
  const timed = (where: string, jobs: Jobs): Jobs =>
    Object.fromEntries(
      Object.entries(jobs).map(([fn, job]): [string, Job] => [
        fn,
        (ins, args) => {
          const before = performance.now();
          const result = job(ins, args);
          const seconds = (performance.now() - before) / 1000;
          // The first round compiles.
          if (args.round > 0) {
            for (const name of [`${where} ${fn}`, `${where} ${fn} ${args.iteration}`]) {
              samples.set(name, [...(samples.get(name) ?? []), seconds]);
            }
          }
          return result;
        },
      ]),
    );
  const workers = Array.from({ length: plan.workers }, (_, rank) => timed("worker", setup.jobs.worker(rank)));
  runSequential({ ...setup, jobs: { hub: timed("hub", setup.jobs.hub), worker: (rank) => workers[rank]! } });
  return new Map([...samples].map(([name, seconds]) => [name, median(seconds)]));
}

/** The line through two measurements; a call or a unit never takes less than nothing. */
function through(
  a: readonly [units: number, seconds: number],
  b: readonly [units: number, seconds: number],
): Rate {
  const unit = Math.max(0, (b[1] - a[1]) / (b[0] - a[0]));
  return { call: Math.max(0, a[1] - unit * a[0]), unit };
}

/** What this process needs for each kind of work. */
function measureWork(): Pick<Costs["rates"], Exclude<WorkKind, "hubMessage" | "workerMessage">> {
  const { "dho2, replicated": whole, "dho2, columns": cut } = methods as Record<
    string,
    (typeof methods)[string]
  >;
  const sharded = { update: { ...adam, shard: true }, sync: { k: "gradient" } } as const;
  const small = { ...task, batch: BATCH / 4, curvature: CURVATURE_BATCH / 4, hidden: 8 };
  const n = parametersOf(HIDDEN);
  const few = parametersOf(small.hidden);
  const options = { rounds: 6 };

  const plain = timesOf(planOf(sharded, 1, options), task);
  const plainSmallBatch = timesOf(planOf(sharded, 1, options), { ...task, batch: small.batch });
  const plainFew = timesOf(planOf(sharded, 1, { ...options, hidden: small.hidden }), small);
  const curved = timesOf(planOf(cut!, 2, { rounds: 5 }), task);
  const curvedSmallBatch = timesOf(planOf(cut!, 2, { rounds: 5 }), { ...task, curvature: small.curvature });
  const curvedFew = timesOf(planOf(cut!, 2, { rounds: 5, hidden: small.hidden }), small);
  const replicated = timesOf(planOf(whole!, 2, { rounds: 5 }), task);
  const replicatedFew = timesOf(planOf(whole!, 2, { rounds: 5, hidden: small.hidden }), small);

  const update = through([few, plainFew.get("worker move")!], [n, plain.get("worker move")!]);
  // What `last` takes beside the update is six products with V.
  const projection = (times: Times, count: number): number =>
    Math.max(0, times.get("worker last")! - update.call - update.unit * count);
  const projections = through(
    [6 * PAIRS * few, projection(replicatedFew, few)],
    [6 * PAIRS * n, projection(replicated, n)],
  );
  const width = (count: number): number => Math.ceil(count / 2);
  const pass = (turn: number): readonly [number, number] => [
    (turn + 1) * width(n),
    curved.get(`worker coefficients ${turn}`)!,
  ];
  const bytes = (count: number): number => 2 * 4 * count;
  return {
    gradient: through(
      [small.batch, plainSmallBatch.get("worker nextGradient")!],
      [BATCH, plain.get("worker nextGradient")!],
    ),
    linearize: through(
      [small.curvature, curvedSmallBatch.get("worker open")!],
      [CURVATURE_BATCH, curved.get("worker open")!],
    ),
    product: through(
      // The first has no basis beside it.
      [small.curvature, curvedSmallBatch.get("worker product 0")!],
      [CURVATURE_BATCH, curved.get("worker product 0")!],
    ),
    update,
    project: { call: projections.call / 6, unit: projections.unit },
    basis: through(pass(0), pass(ORDER - 1)),
    reduce: through([bytes(few), replicatedFew.get("hub mean")!], [bytes(n), replicated.get("hub mean")!]),
    // Products of two workers, 8 n bytes, and the columns of one row, 4 n.
    iterate: through(
      [1.5 * bytes(few), curvedFew.get("hub product")!],
      [1.5 * bytes(n), curved.get("hub product")!],
    ),
    start: through([few, curvedFew.get("hub start")!], [n, curved.get("hub start")!]),
    ritz: { call: 0, unit: curved.get("hub ritz")! / ORDER ** 3 },
    evaluate: freeOfCost.rates.evaluate,
    // Saves are kept in memory here.
    save: freeOfCost.rates.save,
  };
}

// --------------------------------------------------------------------------------------------------------- messages

const MESSAGE_FLOATS = 2 ** 18;
const QUESTIONS = 40;
const messageKinds = ["empty", "down", "up"] as const;

/** Rounds of questions that carry nothing, a vector to the worker, or one to the hub. */
const messageConfig: Config = {
  workers: 1,
  rounds: 7,
  durable: { hub: ["vector"], worker: ["vector"] },
  script: (round) => {
    const kind = messageKinds[round % 3]!;
    const phase = {
      name: kind,
      ...(kind === "down" && { send: ["vector"] }),
      worker: { fn: "nothing", ins: [], outs: [] },
      ...(kind === "up" && { reply: ["vector"] }),
      hub: { fn: "nothing", ins: [], outs: [] },
    };
    return [
      { repeat: QUESTIONS, body: [phase] },
      { name: "end", hub: { fn: "nothing", ins: [], outs: [] } },
    ];
  },
  retryTicks: 50,
  deadTicks: 1200,
  maxRestarts: 0,
  maxQueue: 1024,
};
const nothing: Jobs = { nothing: () => ({ outs: [] }) };
const vectorOf = (): Value => adopt(new Float32Array(MESSAGE_FLOATS), [MESSAGE_FLOATS], "float32");

/** What the two ends of a message need: at the hub its processor time, at the worker all the rest. */
async function measureMessages(): Promise<Pick<Costs["rates"], "hubMessage" | "workerMessage">> {
  const processorTime = (): number => {
    const { user, system } = process.cpuUsage();
    return (user + system) / 1e6;
  };
  const found = new Map<string, Sample>();
  let walls: number[] = [];
  let last = performance.now();
  let before = processorTime();
  await runSockets({
    config: messageConfig,
    jobs: { hub: nothing },
    initial: { hub: { vector: vectorOf() } },
    spawn: (rank, address) => spawnBun(import.meta.path, ["messages", String(rank)], { address, threads: 1 }),
    onProgress(progress) {
      const now = performance.now();
      if (progress.k === "completed") {
        walls = [];
        before = processorTime();
      } else {
        walls.push((now - last) / 1000);
        // Each kind comes twice, the second time without being compiled.
        if (progress.iteration === QUESTIONS - 1)
          found.set(progress.phase, { wall: median(walls), own: (processorTime() - before) / QUESTIONS });
      }
      last = performance.now();
    },
  });
  const [empty, down, up] = messageKinds.map((kind) => found.get(kind)!) as [Sample, Sample, Sample];
  const bytes = 4 * MESSAGE_FLOATS;
  const own = Math.max(0, (down.own + up.own) / 2 - empty.own) / bytes;
  const all = Math.max(0, (down.wall + up.wall) / 2 - empty.wall) / bytes;
  const call = Math.min(empty.own, empty.wall) / 2;
  return {
    hubMessage: { call, unit: Math.min(own, all) },
    workerMessage: { call: empty.wall / 2 - call, unit: all - Math.min(own, all) },
  };
}

/** Seconds of one question: on the clock, the median, and of the hub's processor, the mean. */
interface Sample {
  readonly wall: number;
  readonly own: number;
}

// ------------------------------------------------------------------------------------------------------------- runs

/** Seconds of every part of a round between two answers of the hub, by its phase and place in the round. */
type Samples = Map<string, number[]>;

/** Runs the plan on processes of one thread each. The first round, in which programs are compiled, does not count. */
async function measureRun(plan: Plan, name: string, samples: Samples): Promise<void> {
  const setup = trainingSetup(plan, problemOf(task));
  let last = performance.now();
  let places = new Map<string, number>();
  await runSockets({
    ...setup,
    initial: { hub: setup.initial.hub },
    spawn: (rank, address) =>
      spawnBun(import.meta.path, ["worker", String(rank), name, String(plan.workers)], {
        address,
        threads: 1,
      }),
    onProgress(progress: Progress) {
      const now = performance.now();
      const phase = progress.k === "completed" ? "save" : progress.phase;
      const place = places.get(phase) ?? 0;
      places.set(phase, place + 1);
      const key = `${phase} ${place}`;
      if (progress.round > 0) samples.set(key, [...(samples.get(key) ?? []), (now - last) / 1000]);
      if (progress.k === "completed") places = new Map();
      last = now;
    },
  });
}

/** Medians of the parts of a round, added: seconds of a step and of a refresh. */
function spentOf(plan: Plan, samples: Samples): { readonly step: number; readonly refresh: number } {
  const parts = new Map(forecast(plan, freeOfCost, here).phases.map(({ name, part }) => [name, part]));
  const sum = { refresh: 0, step: 0, save: 0, evaluation: 0 };
  for (const [key, seconds] of samples) sum[parts.get(key.split(" ")[0]!)!] += median(seconds);
  return { step: (sum.step + sum.save) / STEPS, refresh: sum.refresh };
}

/** This machine's own connections: what they take is in the rates of messages. */
const here: Network = { topology: "star", latency: 0, bandwidth: Number.POSITIVE_INFINITY };
const devices = availableParallelism();

async function serve(kind: string, rank: number, name: string, workers: number): Promise<void> {
  const common = { rank, address: addressFromEnvironment(), store: memoryStore(), deadlineMs: 5000 };
  if (kind === "messages") {
    await serveWorker({ ...common, config: messageConfig, jobs: nothing, initial: { vector: vectorOf() } });
    return;
  }
  const plan = planOf(methods[name]!, workers);
  const problem = problemOf(task);
  await serveWorker({
    ...common,
    config: configOf(plan),
    jobs: workerJobs(plan, problem, rank),
    initial: workerInitial(plan, problem.initial, rank),
  });
}

// ------------------------------------------------------------------------------------------------------------ report

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
  const rows = Object.entries(methods).flatMap(([name, method]) =>
    [1, 2, 4].map((workers) => ({ name, plan: planOf(method, workers), samples: new Map() as Samples })),
  );
  const calibrations: Costs["rates"][] = [];
  for (let turn = 0; turn < rounds; turn++) {
    calibrations.push({ ...measureWork(), ...(await measureMessages()) });
    for (const { name, plan, samples } of rows) await measureRun(plan, name, samples);
  }
  const kinds = Object.keys(freeOfCost.rates) as WorkKind[];
  const rates = Object.fromEntries(
    kinds.map((kind) => [
      kind,
      {
        call: median(calibrations.map((one) => one[kind].call)),
        unit: median(calibrations.map((one) => one[kind].unit)),
      },
    ]),
  ) as Costs["rates"];

  const n = parametersOf(HIDDEN);
  console.log(
    `MLP 784-${HIDDEN}-10 (${n} parameters), batch ${BATCH} per worker, curvature on ${CURVATURE_BATCH} examples,`,
  );
  console.log(
    `k ${PAIRS}, ${ORDER} Lanczos steps, ${STEPS} steps a round; one thread per worker, ${devices} cores;`,
  );
  console.log(
    `medians of ${rounds} interleaved rounds, ${((performance.now() - began) / 1000).toFixed(0)} s in all\n`,
  );
  header(["work", "call, µs", "unit, ns"]);
  for (const kind of kinds)
    row([kind, (1e6 * rates[kind].call).toPrecision(3), (1e9 * rates[kind].unit).toPrecision(3)]);

  console.log("");
  header(["method", "workers", "step, ms", "predicted", "error", "refresh, ms", "predicted", "error"]);
  for (const { name, plan, samples } of rows) {
    const { step, refresh } = spentOf(plan, samples);
    const { perStep, perRefresh } = forecast(plan, { rates, examples, devices }, here);
    row([
      name,
      String(plan.workers),
      ms(step),
      ms(perStep),
      errorOf(perStep, step),
      refresh === 0 ? "" : ms(refresh),
      refresh === 0 ? "" : ms(perRefresh),
      errorOf(perRefresh, refresh),
    ]);
  }
  predict({ rates, examples, devices: null });
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
  for (const name of Object.keys(methods)) {
    for (const workers of [8, 64, 512]) {
      const plan = planOf(methods[name]!, workers);
      const cell = ({ perStep, perRefresh }: Forecast): string =>
        orderOf(plan) === 0 ? ms(perStep) : `${ms(perStep)} / ${ms(perRefresh)}`;
      row([
        name,
        String(workers),
        ...networks.map((network) =>
          cell(forecast(plan, network.topology === "ring" ? bare : costs, network)),
        ),
      ]);
    }
  }
}

const [kind = "", rank = "", name = "", workers = ""] = process.argv.slice(2);
if (kind === "worker" || kind === "messages") await serve(kind, Number(rank), name, Number(workers));
else if (process.env["COTANGENT_THREADS"] !== "1") {
  // The hub and the calibration have one thread too.
  const env = { ...process.env, COTANGENT_THREADS: "1" };
  const child = Bun.spawn([process.execPath, import.meta.path, ...process.argv.slice(2)], {
    env,
    stdout: "inherit",
    stderr: "inherit",
  });
  process.exitCode = await child.exited;
} else await main(kind === "" ? 3 : Number(kind));
