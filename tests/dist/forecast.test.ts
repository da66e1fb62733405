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
import { sharedLink } from "../../dist/shared_link.ts";
import { report, type SimResult, simulate } from "../../dist/sim.ts";
import type { WorkKind } from "../../dist/work_counts.ts";
import { mulberry32 } from "../optim/numbers.ts";
import { prop } from "../support/prop.ts";
import { logisticProblem, planOf } from "./training_problems.ts";

const kinds = Object.keys(freeOfCost.rates) as WorkKind[];
const atOnce: Network = { topology: "star", latency: 0, bandwidth: Number.POSITIVE_INFINITY };
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
  return { rates, examples, devices: null };
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
    expect(forecast(plan, { ...costs, devices: 8 }, atOnce).seconds).toBe(alone);
    expect(forecast(plan, { ...costs, devices: 2 }, atOnce).seconds).toBe(2 * alone);
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

const star: Network = { topology: "star", latency: 2e-4, bandwidth: 1e6 };

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
    for (const devices of [null, 1]) {
      const { rates } = withSlowSaves(someCosts(9));
      // Otherwise the worker with more bytes is later than the others.
      const unit = isEven(plan) ? rates.workerMessage.unit : 0;
      const costs: Costs = {
        rates: { ...rates, workerMessage: { ...rates.workerMessage, unit } },
        examples,
        devices,
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

test("what cannot be forecast is refused", () => {
  const [plan] = plansFor(2, 16) as [Plan];
  expect(() => forecast(plan, freeOfCost, { ...atOnce, bandwidth: 0 })).toThrow(
    /^Cannot forecast a plan: the bandwidth is 0, a positive number/,
  );
  expect(() => clockOf(plan, freeOfCost, { ...atOnce, topology: "ring" })).toThrow(
    /^Cannot make a clock: the topology is a ring, a star is needed/,
  );
  const shampoo = planOf({
    workers: 2,
    parameters: 16,
    update: { name: "shampoo", learningRate: 1 },
    sync: { k: "gradient" },
  });
  expect(() => forecast(shampoo, freeOfCost, atOnce)).toThrow(
    /^Cannot forecast a plan: the work of shampoo on its matrices is not counted/,
  );
  const split = { ...plan, curvature: { ...plansFor(2, 16)[2]!.curvature!, split: { workers: 2 } } } as Plan;
  expect(() => forecast(split, freeOfCost, atOnce)).toThrow(
    /^Cannot forecast a plan: its curvature has 2 workers of its own/,
  );
  const local = {
    ...shampoo,
    update: { ...plan.update, name: "adam" },
    sync: { k: "local", period: 2 },
  } as Plan;
  expect(() => forecast(local, freeOfCost, atOnce)).toThrow(
    /^Cannot forecast a plan: what the workers of local compute is not counted/,
  );
});
