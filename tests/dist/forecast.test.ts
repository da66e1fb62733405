import { expect, test } from "bun:test";
import fc from "fast-check";
import {
  type Costs,
  clockOf,
  type Forecast,
  forecast,
  freeOfCost,
  type Network,
} from "../../dist/forecast.ts";
import { trainingSetup } from "../../dist/jobs.ts";
import { orderOf, type Plan, type PlanInput } from "../../dist/plan.ts";
import { planCost } from "../../dist/plan_cost.ts";
import { slots } from "../../dist/protocol/script.ts";
import { roundScript } from "../../dist/script.ts";
import { sharedLink } from "../../dist/shared_link.ts";
import { report, type SimResult, simulate } from "../../dist/sim.ts";
import { directSource } from "../../dist/split.ts";
import type { WorkKind } from "../../dist/work_counts.ts";
import { mulberry32 } from "../optim/numbers.ts";
import { prop } from "../support/prop.ts";
import { logisticProblem, planOf } from "./training_problems.ts";

const kinds = Object.keys(freeOfCost.rates) as WorkKind[];
const atOnce: Network = { topology: "star", latency: 0, bandwidth: Number.POSITIVE_INFINITY };
const star: Network = { topology: "star", latency: 2e-4, bandwidth: 1e6 };
const examples = { gradient: 8, curvature: 16, evaluation: 100 };

/** Costs in which only these rates are not zero. */
function only(rates: Partial<Costs["rates"]>): Costs {
  return { ...freeOfCost, rates: { ...freeOfCost.rates, ...rates }, examples };
}

/** Costs without a zero. */
function someCosts(seed: number): Costs {
  const uniform = mulberry32(seed);
  const rate = (): Costs["rates"][WorkKind] => ({ call: 1e-3 * uniform(), unit: 1e-5 * uniform() });
  const rates = Object.fromEntries(kinds.map((kind) => [kind, rate()])) as Costs["rates"];
  return { rates, examples, cores: null };
}

const forms: readonly Partial<PlanInput>[] = [
  { sync: { k: "gradient" } },
  { sync: { k: "gradient" }, update: { name: "adam", learningRate: 0.01, shard: true } },
  { sync: { k: "gradient" }, curvature: { k: 2, order: 4, period: 2 } },
  { sync: { k: "gradient" }, curvature: { k: 2, order: 4, period: 2, layout: "rows" } },
  { sync: { k: "published", period: 2 }, curvature: { k: 2, order: 4, period: 2, layout: "columns" } },
  { sync: { k: "momentum", period: 2 }, curvature: { k: 2, order: 4, period: 3, reduce: "rank0" } },
  { sync: { k: "consensus" }, curvature: { k: 2, order: 4, period: 2 } },
];

/** A plan of every form. By default the parameters can be divided by the workers. */
function plansFor(workers: number, parameters: number): readonly Plan[] {
  return forms.map((form) =>
    planOf({
      workers,
      parameters,
      rounds: 4,
      localSteps: 3,
      update: { name: "adam", learningRate: 0.01 },
      evaluateEvery: 2,
      ...form,
    } as Omit<PlanInput, "version" | "seed">),
  );
}
const plans = [1, 2, 4].flatMap((workers) => plansFor(workers, 16));

const partsOf = ({ phases }: Forecast): number => phases.reduce((sum, { seconds }) => sum + seconds, 0);

/** Steps, refreshes and evaluations of a run. */
function countsOf(plan: Plan): {
  readonly steps: number;
  readonly refreshes: number;
  readonly evaluations: number;
} {
  const { phases } = planCost(plan);
  const roundsOf = (name: string): number => phases.find((phase) => phase.name === name)?.rounds ?? 0;
  return {
    steps: plan.rounds * plan.localSteps,
    refreshes: roundsOf("open"),
    evaluations: roundsOf("evaluate"),
  };
}

test("the phases make up the run, and so do steps, refreshes and evaluations", () => {
  for (const topology of ["star", "ring"] as const) {
    for (const plan of plans) {
      const result = forecast(plan, someCosts(3), { topology, latency: 1e-3, bandwidth: 1e6 });
      const { steps, refreshes, evaluations } = countsOf(plan);
      expect(partsOf(result)).toBeCloseTo(result.seconds, 12);
      const { perStep, perRefresh, perEvaluation } = result;
      expect(steps * perStep + refreshes * perRefresh + evaluations * perEvaluation).toBeCloseTo(
        result.seconds,
        12,
      );
      for (const phase of result.phases)
        expect(phase.workers + phase.hub + phase.communication).toBeCloseTo(phase.seconds, 12);
      // Every phase of the cost, and the saves.
      expect(result.phases.map(({ name }) => name).toSorted()).toEqual(
        [...planCost(plan).phases.map(({ name }) => name), "save"].toSorted(),
      );
      expect(result.memory).toEqual(planCost(plan).memory[0]!);
    }
  }
});

test("with one cost alone, the time is that cost times its count in the plan", () => {
  for (const plan of plans) {
    const { questions, bytesToWorkers, bytesToHub, products } = planCost(plan);
    const { steps, refreshes, evaluations } = countsOf(plan);
    const time = (rates: Partial<Costs["rates"]>): number => forecast(plan, only(rates), atOnce).seconds;
    expect(time({})).toBe(0);
    expect(time({ gradient: { call: 1, unit: 0 } })).toBe(steps);
    expect(time({ gradient: { call: 0, unit: 1 } })).toBe(8 * steps);
    expect(time({ linearize: { call: 1, unit: 10 } })).toBe(refreshes * (1 + 10 * 16));
    expect(time({ product: { call: 1, unit: 10 } })).toBe(products * (1 + 10 * 16));
    expect(time({ start: { call: 0, unit: 1 } })).toBe(refreshes * 16);
    expect(time({ ritz: { call: 0, unit: 1 } })).toBe(refreshes * orderOf(plan) ** 3);
    expect(time({ evaluate: { call: 0, unit: 1 } })).toBe(evaluations * 100);
    // There and back, for each worker at the hub, once at a worker.
    expect(time({ hubMessage: { call: 1, unit: 0 } })).toBe(2 * questions * plan.workers);
    expect(time({ workerMessage: { call: 1, unit: 0 } })).toBe(2 * questions);
    expect(time({ hubMessage: { call: 0, unit: 1 } })).toBe(bytesToWorkers + bytesToHub);
    expect(time({ save: { call: 1, unit: 0 } })).toBe(2 * plan.rounds);
    // The hub reads every answer once; in a ring each worker reads its share.
    const read = { call: 0, unit: 1 };
    expect(time({ reduce: read, iterate: read })).toBe(bytesToHub);
    const ring: Network = { ...atOnce, topology: "ring" };
    expect(forecast(plan, only({ reduce: read, iterate: read }), ring).seconds).toBeCloseTo(
      bytesToHub / plan.workers,
      9,
    );
    const over = (network: Partial<Network>): number =>
      forecast(plan, freeOfCost, { ...atOnce, ...network }).seconds;
    expect(over({ bandwidth: 1 / 2 })).toBe(2 * (bytesToWorkers + bytesToHub));
    expect(over({ latency: 3 })).toBe(2 * 3 * questions);
  }
});

test("an update costs each worker what it moves: all parameters, or its columns; V has six products of it", () => {
  const [plain, sharded, replicated, rows, columns] = plansFor(4, 16) as [Plan, Plan, Plan, Plan, Plan];
  const units = (plan: Plan, kind: WorkKind): number =>
    forecast(plan, only({ [kind]: { call: 0, unit: 1 } }), atOnce).seconds;
  const steps = 12;
  expect([plain, sharded, replicated, rows].map((plan) => units(plan, "update"))).toEqual([
    16 * steps,
    4 * steps,
    16 * steps,
    16 * steps,
  ]);
  // Two rounds end with an extrapolation of the columns.
  expect(units(columns, "update")).toBe(4 * steps + 2 * 4);
  // The dual, the augmented gradients and the candidate of each of four rounds are worth two vectors.
  expect(units(plansFor(4, 16).at(-1)!, "update")).toBe(16 * steps + 4 * 2 * 16);
  expect(units(replicated, "project")).toBe(6 * 2 * 16 * steps);
  // One of the two rows of V, five products.
  expect(units(rows, "project")).toBe(5 * 16 * steps);
  expect(units(columns, "project")).toBe(6 * 2 * 4 * steps);
  // In Lanczos step j a pass over j vectors and two over those before, and the eigenvectors.
  expect(units(replicated, "basis")).toBe(2 * 4 * (1 + 2 + 3 + 4 + 2 * (1 + 2 + 3) + 2 * 4));
});

test("a worker reads and writes its own bytes, and worker 0 the report too", () => {
  const [plain, sharded] = plansFor(4, 16) as [Plan, Plan];
  const bytes = (plan: Plan): number =>
    forecast(plan, only({ workerMessage: { call: 0, unit: 1 } }), atOnce).seconds;
  // Three sums of 16 float32 in each of 4 rounds: there and back, and a report; or theta, gradient, own columns twice.
  expect(bytes(plain)).toBe(4 * (3 * 2 + 1) * 64);
  expect(bytes(sharded)).toBe(4 * 3 * (64 + 64 + 16 + 16));
});

test("a save has the parameters where a worker holds them, its own state, and what the hub holds", () => {
  const [plain, sharded, replicated, , columns, , consensus] = plansFor(4, 16) as [
    Plan,
    Plan,
    Plan,
    Plan,
    Plan,
    Plan,
    Plan,
  ];
  const bytes = (plan: Plan): number => forecast(plan, only({ save: { call: 0, unit: 1 } }), atOnce).seconds;
  // In vectors of 16 float32, two of them in the state of Adam: 4 rounds, and theta at the hub.
  expect(bytes(plain)).toBe(4 * 64 * (1 + 2 + 1));
  expect(bytes(sharded)).toBe(4 * 64 * (2 / 4 + 1));
  // The velocity and two eigenvectors.
  expect(bytes(replicated)).toBe(4 * 64 * (1 + 2 + 1 + 2 + 1));
  // Anchor and push, or dual and local parameters.
  expect(bytes(columns)).toBe(4 * 64 * ((2 + 1 + 2 + 2) / 4 + 1));
  expect(bytes(consensus)).toBe(4 * 64 * (2 + 1 + 2 + 2 + 1));
});

test("a star's reductions grow with the workers, a ring's bytes do not", () => {
  const time = (workers: number, topology: Network["topology"], latency = 0): number => {
    const [plan] = plansFor(workers, 64) as [Plan];
    const { phases } = forecast(plan, freeOfCost, { topology, latency, bandwidth: 1 });
    return phases.find(({ name }) => name === "step")!.seconds;
  };
  // Four rounds of two such phases, a sum of 64 float32 and its return.
  const bytes = 4 * 2 * 2 * 4 * 64;
  for (const workers of [1, 2, 8, 64]) {
    expect(time(workers, "star")).toBe(workers * bytes);
    expect(time(workers, "ring")).toBeCloseTo(((workers - 1) / workers) * bytes, 9);
    expect(time(workers, "ring", 1) - time(workers, "ring")).toBeCloseTo(4 * 2 * 2 * (workers - 1), 9);
  }
});

test("workers that share devices take turns", () => {
  const costs = only({ gradient: { call: 1, unit: 0 } });
  for (const plan of plansFor(4, 16)) {
    const alone = forecast(plan, costs, atOnce).seconds;
    expect(forecast(plan, { ...costs, cores: 8 }, atOnce).seconds).toBe(alone);
    expect(forecast(plan, { ...costs, cores: 2 }, atOnce).seconds).toBe(2 * alone);
  }
});

prop(
  "no cost that grows makes a run shorter",
  fc.integer({ min: 0, max: 1000 }),
  fc.constantFrom(...kinds),
  fc.constantFrom("star" as const, "ring" as const),
  fc.constantFrom(...plans),
  (seed, kind, topology, plan) => {
    const costs = someCosts(seed);
    const network = { topology, latency: 1e-4, bandwidth: 1e6 };
    const { seconds } = forecast(plan, costs, network);
    const { call, unit } = costs.rates[kind];
    for (const rate of [
      { call: 2 * call, unit },
      { call, unit: 2 * unit },
    ]) {
      const more = { ...costs, rates: { ...costs.rates, [kind]: rate } };
      expect(forecast(plan, more, network).seconds).toBeGreaterThanOrEqual(seconds);
    }
    expect(forecast(plan, costs, { ...network, latency: 2e-4 }).seconds).toBeGreaterThanOrEqual(seconds);
    expect(forecast(plan, costs, { ...network, bandwidth: 5e5 }).seconds).toBeGreaterThanOrEqual(seconds);
  },
);

/** A simulated run on the clock of these costs. */
function simulated(
  plan: Plan,
  costs: Costs,
  options: { faults?: object; tickSeconds?: number } = {},
): SimResult {
  const { faults = {}, tickSeconds = 100 } = options;
  const result = simulate({
    ...trainingSetup(plan, logisticProblem(plan.parameters, plan.workers, 16)),
    seed: 4,
    faults,
    clock: clockOf(plan, costs, star, { dtype: "float64", tickSeconds }),
    checkReplay: false,
  });
  expect(result.violations, report(result)).toEqual([]);
  return result;
}

/** So that what the workers say when they start is over when the hub has read its save and asks. */
function withSlowSaves(costs: Costs): Costs {
  return { ...costs, rates: { ...costs.rates, save: { call: 0.02, unit: 1e-5 } } };
}

/** Whether in every phase each worker sends and gets as many bytes as the others: no row of V is left over, no report. */
function isEven({ sync, curvature, update }: Plan): boolean {
  return sync.k === "consensus" || (curvature === null ? update.shard : curvature.layout === "columns");
}

test("a simulated run without faults takes the time of the forecast", () => {
  for (const plan of plans) {
    if (plan.curvature?.layout === "rows" && plan.workers > 2) continue;
    for (const cores of [null, 1]) {
      const { rates } = withSlowSaves(someCosts(9));
      // Otherwise the worker with more bytes is later than the others.
      const unit = isEven(plan) ? rates.workerMessage.unit : 0;
      const costs: Costs = {
        rates: { ...rates, workerMessage: { ...rates.workerMessage, unit } },
        examples,
        cores,
      };
      const { seconds } = forecast(plan, costs, star, { dtype: "float64" });
      expect(Math.abs(simulated(plan, costs).stats.seconds! / seconds - 1)).toBeLessThan(1e-9);
    }
  }
});

test("where shares are uneven, a simulated run is a little shorter", () => {
  const costs = withSlowSaves(someCosts(9));
  for (const plan of [...plansFor(2, 16), ...plansFor(3, 18), ...plansFor(4, 16)]) {
    const { seconds } = forecast(plan, costs, star, { dtype: "float64" });
    const ratio = simulated(plan, costs).stats.seconds! / seconds;
    expect(ratio).toBeLessThanOrEqual(1 + 1e-9);
    expect(ratio).toBeGreaterThan(0.9);
  }
});

test("faults cost time, and a crash at least what has to be done again", () => {
  const [plan] = plansFor(2, 16) as [Plan];
  const costs = someCosts(9);
  const without = simulated(plan, costs, { tickSeconds: 0.01 }).stats;
  const crash = simulated(plan, costs, {
    tickSeconds: 0.01,
    faults: { crashes: [{ peer: 1, step: 25 }] },
  }).stats;
  const loss = simulated(plan, costs, { tickSeconds: 0.01, faults: { lossRate: 0.2 } }).stats;
  expect([crash.crashes, crash.attempts]).toEqual([1, 2]);
  expect(loss.lost).toBeGreaterThan(0);
  expect(crash.seconds!).toBeGreaterThan(without.seconds!);
  // A lost message is sent again after 20 ticks.
  expect(loss.seconds!).toBeGreaterThan(without.seconds! + 0.2);
});

test("a link is shared evenly: who came first is through first, equals together, and no time is lost", () => {
  let time = 0;
  const agenda: { due: number; action: () => void }[] = [];
  const after = (delay: number, action: () => void): void => {
    agenda.push({ due: time + delay, action });
  };
  const link = sharedLink(() => time, after);
  const arrived: [string, number][] = [];
  const send = (name: string, at: number, seconds: number): void => {
    agenda.push({ due: at, action: () => link.carry(seconds, () => arrived.push([name, time])) });
  };
  send("a", 0, 4);
  send("b", 2, 4);
  send("c", 2, 1);
  send("d", 20, 1);
  send("e", 20, 1);
  while (agenda.length > 0) {
    agenda.sort((x, y) => x.due - y.due);
    const { due, action } = agenda.shift()!;
    time = due;
    action();
  }
  // Three share it from 2, until c has had its second at 5; a has one left, b three.
  expect(arrived).toEqual([
    ["c", 5],
    ["a", 7],
    ["b", 9],
    ["d", 22],
    ["e", 22],
  ]);
});

// ---- beside the training

const adam = { name: "adam", learningRate: 0.01 } as const;
const divisible = { k: "divisible", ratio: 8, period: 4, warmup: 1 } as const;
const communicating: readonly Partial<PlanInput>[] = [
  { sync: divisible },
  { sync: { ...divisible, period: 3, delay: 2, warmup: 4, precision: "int16" } },
  { sync: { k: "local", period: 3 } },
  { sync: { k: "one-bit", freezeStep: 3 } },
  { sync: { k: "gradient-feedback", compressor: "topk", ratio: 8 } },
  { sync: { k: "gradient-feedback", compressor: "powersgd", rank: 1 } },
];
const split = { k: 2, order: 4, period: 3, split: { workers: 3, delay: 2 } } as const;
const besides: readonly Partial<PlanInput>[] = [
  ...communicating,
  { sync: { k: "gradient" }, curvature: split },
  { sync: { k: "consensus" }, curvature: { ...split, split: { workers: 1, delay: 1, late: "keep-old" } } },
  { sync: { k: "gradient" }, curvature: { ...split, layout: "columns" } },
  { sync: { k: "gradient" }, update: { name: "shampoo", learningRate: 0.01, period: 4 } },
  { sync: { k: "gradient" }, update: { name: "kfac", learningRate: 0.01, period: 4, factorPeriod: 2 } },
  { sync: { k: "gradient" }, update: { name: "kfac", learningRate: 0.01, distribution: "gradients" } },
];
/** The sides of the inputs and outputs of two layers, for those that want them; and of what PowerSGD takes apart. */
const shaped = { matrices: [4, 2, 2, 4], shapes: [[4, 4]] } as const;

function besidePlan(form: Partial<PlanInput>, workers: number, rounds = 6, parameters = 16): Plan {
  return planOf({
    workers,
    parameters,
    rounds,
    localSteps: 3,
    update: adam,
    evaluateEvery: 3,
    ...form,
  } as Omit<PlanInput, "version" | "seed">);
}

test("exchanges in the background take in a simulated run the time of the forecast, on fast links and on slow ones", () => {
  const costs = withSlowSaves(someCosts(11));
  const flushed: Partial<PlanInput> = { sync: { ...divisible, delay: 3, flushAtEnd: true } };
  for (const form of [...communicating, flushed]) {
    for (const [workers, bandwidth] of [
      [1, 1e6],
      [2, 2e4],
      [3, 5e3],
    ] as const) {
      // Sixteen numbers are one vector here: the problem does not say more.
      const plan = besidePlan(form, workers);
      const network: Network = { topology: "star", latency: 2e-4, bandwidth };
      const shapes = { dtype: "float64" } as const;
      const clock = clockOf(plan, costs, network, { ...shapes, tickSeconds: 1e3 });
      const result = simulate({
        ...trainingSetup(plan, logisticProblem(16, workers, 16)),
        seed: 4,
        clock,
        checkReplay: false,
      });
      expect(result.violations, report(result)).toEqual([]);
      const { seconds, phases } = forecast(plan, costs, network, shapes);
      expect(Math.abs(result.stats.seconds! / seconds - 1), JSON.stringify(form)).toBeLessThan(1e-9);
      const waited = phases.reduce((sum, { waiting }) => sum + waiting, 0);
      expect(waited).toBeCloseTo(result.stats.waitedSeconds!, 9);
    }
  }
});

test("on a link six times slower than gradients a period of 7 gives seven times the speed, and one of 3 has to wait", () => {
  const size = 4096;
  const workers = 4;
  // A dense exchange keeps the link for six seconds, a gradient takes one.
  const network: Network = { topology: "star", latency: 0, bandwidth: (2 * workers * 4 * size) / 6 };
  const costs = only({ gradient: { call: 1, unit: 0 } });
  const perStep = (sync: PlanInput["sync"]): readonly [seconds: number, waited: number] => {
    const of = (rounds: number): Forecast =>
      forecast(
        planOf({ workers, parameters: size, rounds, localSteps: 21, update: adam, sync }),
        costs,
        network,
      );
    const [short, long] = [of(2), of(6)];
    const waited = ({ phases }: Forecast): number => phases.reduce((sum, { waiting }) => sum + waiting, 0);
    return [(long.seconds - short.seconds) / 84, (waited(long) - waited(short)) / 84];
  };
  const [dense] = perStep({ k: "gradient" });
  expect(dense).toBeCloseTo(7, 1);
  const form = { k: "divisible", ratio: 1024, warmup: 1, precision: "int16" } as const;
  const [easy, none] = perStep({ ...form, period: 7 });
  expect(none).toBeLessThan(0.001);
  expect(Math.abs(dense / easy / 7 - 1)).toBeLessThan(0.05);
  const [hard, some] = perStep({ ...form, period: 3 });
  expect(some).toBeGreaterThan(0.5);
  // Two gradients hide two of six seconds; the third waits for the result.
  expect(hard).toBeCloseTo(7 / 3, 1);
});

test("with one core a run takes the sum of all work, with many as long as with one for each", () => {
  const [gradient, divide, land, reduce, atHub, atWorker] = [0.7, 0.2, 0.1, 0.3, 0.05, 0.02];
  const call = (seconds: number): Costs["rates"][WorkKind] => ({ call: seconds, unit: 0 });
  const costs = only({
    gradient: call(gradient),
    divide: call(divide),
    land: call(land),
    reduce: call(reduce),
    hubMessage: call(atHub),
    workerMessage: call(atWorker),
  });
  for (const workers of [1, 2, 5]) {
    const sync = { ...divisible, delay: 1 };
    const plan = planOf({ workers, parameters: 16, rounds: 2, localSteps: 7, update: adam, sync });
    // Of 14 steps each lands, the parameters are viewed once, and three exchanges end, after steps 4, 8 and 12.
    const questions = [0, 1].reduce((sum, round) => sum + slots(roundScript(plan, round)).length, 0);
    const works =
      workers * (14 * (gradient + divide) + 15 * land) +
      (14 + 1 + 3) * reduce +
      2 * workers * (questions + 3) * (atHub + atWorker);
    expect(forecast(plan, { ...costs, cores: 1 }, atOnce).seconds).toBeCloseTo(works, 9);
    const times = [1, 1.5, 2, 3, 4, 6, 100].map(
      (cores) => forecast(plan, { ...costs, cores }, atOnce).seconds,
    );
    for (const [i, seconds] of times.entries())
      if (i > 0) expect(seconds).toBeLessThanOrEqual(times[i - 1]! + 1e-9);
    // What is left is that a process does one thing at a time.
    const alone = forecast(plan, costs, atOnce).seconds;
    expect(times.at(-1)!).toBeGreaterThanOrEqual(alone - 1e-9);
    expect(times.at(-1)! - alone).toBeLessThanOrEqual(3 * (2 * (workers * atHub + atWorker) + reduce) + 1e-9);
  }
  for (const plan of plans) {
    const some = someCosts(5);
    const alone = forecast(plan, some, star).seconds;
    expect(forecast(plan, { ...some, cores: 100 }, star).seconds).toBeCloseTo(alone, 12);
  }
});

test("with one core it does not matter what is beside what: the time of all costs is the sum of the times of each", () => {
  const whole = planOf({
    workers: 3,
    parameters: 16,
    rounds: 2,
    localSteps: 7,
    update: adam,
    sync: { ...divisible, delay: 1 },
  });
  const others = [split, { ...split, layout: "columns" } as const].map((curvature) =>
    besidePlan({ sync: { k: "gradient" }, curvature }, 2),
  );
  for (const plan of [whole, ...others]) {
    const { rates } = someCosts(17);
    const time = (some: Partial<Costs["rates"]>): number =>
      forecast(plan, { ...only(some), cores: 1 }, atOnce).seconds;
    const each = kinds.reduce((sum, kind) => sum + time({ [kind]: rates[kind] }), 0);
    expect(time(rates)).toBeCloseTo(each, 9);
  }
});

test("the training waits for curvature workers where they need longer than the delay, and never where old curvature is kept", () => {
  for (const search of [1, 5, 8, 20]) {
    const costs = only({ gradient: { call: 1, unit: 0 }, product: { call: search / 4, unit: 0 } });
    const of = (late: "wait" | "keep-old", cores: number | null = null): Forecast => {
      const curvature = { ...split, split: { ...split.split, late } };
      const plan = besidePlan({ sync: { k: "gradient" }, curvature }, 2, 12);
      return forecast(plan, { ...costs, cores }, atOnce);
    };
    // Twelve rounds of three seconds; four snapshots, each taken after two rounds.
    expect(of("wait").seconds).toBeCloseTo(36 + 4 * Math.max(0, search - 6), 9);
    expect(of("wait").perSearch).toBeCloseTo(search, 9);
    expect(of("keep-old").seconds).toBeCloseTo(36, 9);
    // Two workers and three of the group; with one core nothing hides anything.
    expect(of("wait", 1).seconds).toBeCloseTo(2 * 36 + 3 * 4 * search, 9);
    expect(of("wait", 5).seconds).toBe(of("wait").seconds);
  }
});

test("where curvature is there in time, a split costs the training in a simulated run what the forecast says", () => {
  const { rates } = withSlowSaves(someCosts(9));
  // Messages that take nothing of the link take nothing from the training when they are the group's.
  const costs = { ...freeOfCost, examples, rates: { ...rates, hubMessage: freeOfCost.rates.hubMessage } };
  const slow = { ...costs, rates: { ...costs.rates, gradient: { call: 10, unit: 0 } } };
  const network: Network = { topology: "star", latency: 2e-4, bandwidth: Number.POSITIVE_INFINITY };
  const free = { ...slow, rates: { ...slow.rates, workerMessage: freeOfCost.rates.workerMessage } };
  const plan = besidePlan({ sync: { k: "gradient" }, curvature: split }, 2);
  const problem = logisticProblem(16, 2, 16);
  const result = simulate({
    ...trainingSetup(plan, problem, directSource(plan, problem)),
    seed: 4,
    clock: clockOf(plan, free, network, { dtype: "float64", tickSeconds: 1e4 }),
    checkReplay: false,
  });
  expect(result.violations, report(result)).toEqual([]);
  const { seconds } = forecast(plan, free, network, { dtype: "float64" });
  expect(Math.abs(result.stats.seconds! / seconds - 1)).toBeLessThan(1e-9);
});

test("matrices cost what is done with them: factors and roots when they are due, roots where most of them are", () => {
  const [kfac, owned] = besides.slice(-2).map((form) => besidePlan(form, 2)) as [Plan, Plan];
  const units = (plan: Plan, kind: WorkKind): number =>
    forecast(plan, only({ [kind]: { call: 0, unit: 1 } }), atOnce, shaped).seconds;
  // Of eighteen steps every second and every fourth; a worker has one matrix of each size, the sides are 4, 2, 2 and 4.
  expect(units(kfac, "factors")).toBe(9 * examples.gradient);
  expect(units(kfac, "roots")).toBe(5 * (4 ** 3 + 2 ** 3));
  expect(units(kfac, "precondition")).toBe(18 * 16);
  // One of two layers each, and the whole is moved by all.
  expect(units(owned, "precondition")).toBe(18 * 4 * 2);
  expect(units(owned, "update")).toBe(18 * 16);
  for (const form of besides.slice(-3)) {
    for (const workers of [1, 2, 4]) {
      const plan = besidePlan(form, workers);
      const cost = planCost(plan, shaped);
      const time = (costs: Costs, network: Network): number => forecast(plan, costs, network, shaped).seconds;
      expect(time(freeOfCost, { ...atOnce, bandwidth: 1 })).toBe(cost.bytesToWorkers + cost.bytesToHub);
      expect(time(only({ reduce: { call: 0, unit: 1 } }), atOnce)).toBe(cost.bytesToHub);
      expect(time(freeOfCost, { ...atOnce, latency: 1 })).toBe(2 * cost.questions);
      expect(time(only({ gradient: { call: 1, unit: 0 } }), atOnce)).toBe(18);
    }
  }
});

/** Old curvature that is kept may be dropped: there more can cost less. */
const patient = besides.filter(
  ({ curvature }) => (curvature as { split?: { late?: string } } | undefined)?.split?.late !== "keep-old",
);

prop(
  "what goes on beside makes no run shorter when it costs more, nor do slower networks, fewer cores and more workers",
  fc.integer({ min: 0, max: 1000 }),
  fc.constantFrom(...kinds),
  fc.constantFrom("star" as const, "ring" as const),
  fc.constantFrom(...patient),
  fc.constantFrom(1, 2, 4),
  (seed, kind, shape, form, workers) => {
    // Who shares cores, or as two parties a link, may find them free when he is later: here each has its own.
    const topology = form.curvature ? "ring" : shape;
    const costs = someCosts(seed);
    const network = { topology, latency: 1e-4, bandwidth: 1e5 };
    const plan = besidePlan(form, workers);
    const time = (one: Costs, over: Network = network, of = plan): number =>
      forecast(of, one, over, shaped).seconds;
    const { call, unit } = costs.rates[kind];
    const dear = { ...costs, rates: { ...costs.rates, [kind]: { call: 2 * call, unit: 2 * unit } } };
    const slower = [
      time(dear),
      time({ ...costs, cores: 2 }),
      time({ ...costs, cores: 1 }),
      time(costs, { ...network, latency: 2e-4 }),
      time(costs, { ...network, bandwidth: 5e4 }),
    ];
    const least = (1 - 1e-12) * time(costs);
    for (const seconds of slower) expect(seconds).toBeGreaterThanOrEqual(least);
    // Work that is divided is less with more workers, messages are more.
    const more = time(freeOfCost, network, besidePlan(form, 2 * workers));
    expect(more).toBeGreaterThanOrEqual((1 - 1e-12) * time(freeOfCost));
  },
);

test("a search on the same link is slowed by the training and slows it, and the time of both is that of their bytes", () => {
  const plan = besidePlan(
    { sync: { k: "gradient" }, curvature: { ...split, split: { workers: 1, delay: 1 } } },
    2,
    3,
  );
  const bytesOf = (one: Plan): number => {
    const { bytesToWorkers, bytesToHub } = planCost(one);
    return bytesToWorkers + bytesToHub;
  };
  const network: Network = { topology: "star", latency: 0, bandwidth: 1 };
  const { seconds, perSearch } = forecast(plan, freeOfCost, network);
  // The only search is begun in the first round and taken in the second.
  expect(seconds).toBeCloseTo(bytesOf(plan) + perSearch, 6);
});

test("what cannot be forecast is refused", () => {
  const [plan] = plansFor(2, 16) as [Plan];
  expect(() => forecast(plan, freeOfCost, { ...atOnce, bandwidth: 0 })).toThrow(
    /^Cannot forecast a plan: the bandwidth is 0, a positive number/,
  );
  expect(() => clockOf(plan, freeOfCost, { ...atOnce, topology: "ring" })).toThrow(
    /^Cannot make a clock: the topology is a ring, a star is needed/,
  );
  expect(() => forecast(plan, { ...freeOfCost, cores: 0 }, atOnce)).toThrow(
    /^Cannot forecast a plan: the number of cores is 0, at least one/,
  );
  const shampoo = planOf({
    workers: 2,
    parameters: 16,
    update: { name: "shampoo", learningRate: 1 },
    sync: { k: "gradient" },
  });
  expect(() => forecast(shampoo, freeOfCost, atOnce)).toThrow(
    /^Cannot price a plan: the sides of the matrices of shampoo are not given/,
  );
  expect(() => clockOf(shampoo, freeOfCost, atOnce, shaped)).toThrow(
    /^Cannot make a clock: a function of shampoo is not told which step it computes/,
  );
});
