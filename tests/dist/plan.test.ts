import { expect, test } from "bun:test";
import fc from "fast-check";
import { PlanError } from "../../core/errors.ts";
import { trainingSetup } from "../../dist/jobs.ts";
import {
  columnsOf,
  curvatureDueAt,
  evaluatesAfter,
  extrapolatesAfter,
  makePlan,
  orderOf,
  type Plan,
  type PlanInput,
} from "../../dist/plan.ts";
import { planCost, showPlan } from "../../dist/plan_cost.ts";
import { checkScript, slots } from "../../dist/protocol/script.ts";
import { configOf, roundScript } from "../../dist/script.ts";
import { defaultTrust } from "../../optim/fosi_state.ts";
import { prop } from "../support/prop.ts";
import { countRun } from "./counting.ts";
import { logisticProblem, planOf } from "./training_problems.ts";

const least: PlanInput = {
  version: 1,
  workers: 2,
  parameters: 100,
  rounds: 4,
  localSteps: 3,
  seed: 0,
  update: { name: "adam", learningRate: 1e-3 },
  sync: { k: "gradient" },
};

test("defaults are filled in, a plan survives JSON, and nothing in it can be changed", () => {
  const plan = makePlan({ ...least, curvature: {}, sync: { k: "published" } });
  expect(plan.curvature).toMatchObject({ layout: "replicated", trust: defaultTrust });
  expect(makePlan({ ...least, sync: { k: "momentum" } }).sync).toEqual({
    k: "momentum",
    mu: 0.9,
    gamma: 0.7,
    period: 20,
  });
  const adam = { name: "adam", learningRate: 1e-3, beta1: 0.9, beta2: 0.999, epsilon: 1e-8 } as const;
  expect(plan.update).toEqual({ ...adam, shard: false, schedule: "constant" });
  expect(plan.sync).toEqual({ k: "published", sigma: 5e-9, period: 20 });
  expect(plan.curvature).toMatchObject({ k: 8, l: 0, order: null, period: 20, warmup: 0, reduce: "mean" });
  expect(plan.evaluateEvery).toBe(0);
  expect(makePlan(JSON.parse(JSON.stringify(plan)) as PlanInput)).toEqual(plan);
  expect(() => Object.assign(plan.update, { learningRate: 1 })).toThrow(TypeError);
  expect(makePlan(least).curvature).toBeNull();
});

test.each([
  ["workers", { workers: 0 }],
  ["parameters", { parameters: 1.5 }],
  ["rounds", { rounds: 0 }],
  ["localSteps", { localSteps: -1 }],
  ["seed", { seed: -1 }],
  ["version", { version: 2 }],
  ["update.learningRate", { update: { name: "sgd", learningRate: 0 } }],
  ["update.learningRate", { update: { name: "sgd", learningRate: Number.NaN } }],
  ["update.beta", { update: { name: "momentum", learningRate: 1, beta: 1 } }],
  ["update.name", { update: { name: "magic", learningRate: 1 } }],
  ["sync.k", { sync: { k: "gossip" } }],
  ["sync.sigma", { sync: { k: "consensus", sigma: -1 } }],
  ["curvature.k", { curvature: { k: 101 } }],
  ["curvature.k", { curvature: { k: 0 } }],
  ["curvature.order", { curvature: { k: 8, order: 7 } }],
  ["curvature.layout", { curvature: { layout: "diagonals" } }],
  ["curvature.trust", { curvature: { trust: -1 } }],
  ["curvature.layout", { curvature: { layout: "rows" }, sync: { k: "consensus" } }],
  ["curvature.layout", { curvature: { layout: "columns" }, sync: { k: "consensus" } }],
  ["update.name", { update: { name: "adamw", learningRate: 1 }, curvature: {} }],
  ["update.shard", { update: { name: "sgd", learningRate: 1, shard: true }, curvature: { layout: "rows" } }],
  ["update.shard", { update: { name: "sgd", learningRate: 1, shard: true }, curvature: {} }],
  [
    "update.shard",
    {
      update: { name: "sgd", learningRate: 1, shard: true },
      sync: { k: "consensus", relative: false },
    },
  ],
  ["sync.mu", { sync: { k: "momentum", mu: 1.1 } }],
  ["sync.gamma", { sync: { k: "momentum", gamma: -1 } }],
  ["sync.period", { sync: { k: "momentum", period: 0 } }],
  ["sync.relative", { sync: { k: "consensus" } }],
  ["limits.deadTicks", { limits: { deadTicks: 1 } }],
  ["plan", { speed: "fast" }],
])("a wrong %s is refused by its path", (path, change) => {
  try {
    makePlan({ ...least, ...change } as PlanInput);
  } catch (error) {
    expect(error).toBeInstanceOf(PlanError);
    const { message, problems } = error as PlanError;
    expect(message).toMatch(/^Cannot make a plan: /);
    expect(problems.map((problem) => problem.split(":")[0])).toEqual([path]);
    return;
  }
  throw new Error(`Cannot pass: a plan with a wrong ${path} was accepted`);
});

test("every wrong field is named at once", () => {
  const build = () => makePlan({ ...least, workers: 0, rounds: 0 });
  expect(build).toThrow(/workers: .*; rounds: /);
});

test("what is due when: curvature, extrapolation, evaluation", () => {
  const rounds = [0, 1, 2, 3, 4, 5, 6, 7];
  const plan = planOf({
    ...least,
    rounds: 8,
    evaluateEvery: 3,
    curvature: { warmup: 2, period: 3 },
    sync: { k: "published", period: 4 },
  });
  const when = (due: (plan: Plan, round: number) => boolean): number[] => rounds.filter((r) => due(plan, r));
  expect(when(curvatureDueAt)).toEqual([2, 5]);
  expect(when(extrapolatesAfter)).toEqual([3, 7]);
  expect(when(evaluatesAfter)).toEqual([2, 5, 7]);
  expect(orderOf(plan)).toBe(32);
  expect(orderOf(planOf({ ...least, parameters: 10, curvature: { k: 8 } }))).toBe(10);
});

prop(
  "the columns of all workers cover the parameters once, in order, with at most ceil(n / P) each",
  fc.integer({ min: 1, max: 200 }),
  fc.integer({ min: 1, max: 20 }),
  (parameters, workers) => {
    let end = 0;
    for (let rank = 0; rank < workers; rank++) {
      const [from, to] = columnsOf({ parameters, workers }, rank);
      expect(from).toBe(end);
      expect(to - from).toBeLessThanOrEqual(Math.ceil(parameters / workers));
      end = to;
    }
    expect(end).toBe(parameters);
  },
);

const syncs: readonly PlanInput["sync"][] = [
  { k: "gradient" },
  { k: "published", period: 2 },
  { k: "momentum", period: 2 },
  { k: "consensus" },
  { k: "consensus", sigma: 0, relative: false },
];
const curvatures: readonly PlanInput["curvature"][] = [
  null,
  { k: 2, l: 1, order: 6, period: 2 },
  { k: 2, order: 5, period: 3, warmup: 1, reduce: "rank0" },
  { k: 2, l: 1, order: 6, period: 2, layout: "rows" },
  { k: 2, order: 5, period: 3, warmup: 1, layout: "columns" },
];

/** What a consensus can have: a relative sigma needs a curvature, and every worker all of its state. */
function isPossible(
  sync: PlanInput["sync"],
  curvature: NonNullable<PlanInput["curvature"]> | null,
  shard: boolean,
): boolean {
  if (sync.k !== "consensus") return !(curvature && shard);
  return (curvature !== null || sync.relative === false) && !curvature?.layout && !shard;
}

/** Plans of every form and layout. */
const plans = [1, 3, 5].flatMap((workers) =>
  syncs.flatMap((sync) =>
    [false, true].flatMap((shard) =>
      curvatures
        .filter((curvature = null) => isPossible(sync, curvature, shard))
        .map((curvature) =>
          planOf({
            workers,
            parameters: 13,
            rounds: 3,
            localSteps: workers === 5 ? 1 : 3,
            update: { name: "adam", learningRate: 0.01, shard },
            sync,
            curvature,
            evaluateEvery: workers === 3 ? 2 : 0,
          } as Omit<PlanInput, "version" | "seed">),
        ),
    ),
  ),
);

test("every script of every form is one that the protocol accepts", () => {
  for (const plan of plans)
    for (let round = 0; round < plan.rounds; round++)
      expect(checkScript(roundScript(plan, round), plan.workers, configOf(plan).durable)).toBeNull();
});

test("what is sent is what the plan says: questions and payload bytes of every phase", async () => {
  for (const plan of plans) {
    // More rows than parameters: the Krylov space is not exhausted before the last step.
    const sent = await countRun(trainingSetup(plan, logisticProblem(13, plan.workers, 16)));
    const cost = planCost(plan, { dtype: "float64" });
    const expected = cost.phases
      .filter((phase) => phase.questions > 0)
      .map(({ name, rounds, questions, bytesToWorkers, bytesToHub }) => [
        name,
        {
          asks: rounds * questions * plan.workers,
          answers: rounds * questions * plan.workers,
          bytesToWorkers: rounds * bytesToWorkers,
          bytesToHub: rounds * bytesToHub,
        },
      ]);
    expect(Object.fromEntries(sent)).toEqual(Object.fromEntries(expected));
    const [toWorkers, toHub] = [0, 0].map((_, i) =>
      [...sent.values()].reduce((s, x) => s + (i === 0 ? x.bytesToWorkers : x.bytesToHub), 0),
    );
    expect([cost.bytesToWorkers, cost.bytesToHub]).toEqual([toWorkers!, toHub!]);
  }
}, 120_000);

test("the cost of sharded Lanczos in closed form", () => {
  // m steps of two questions; P workers, n parameters of b bytes, K pairs.
  const [P, n, m, K, b] = [4, 1000, 32, 8, 4];
  const plan = planOf({ ...least, workers: P, parameters: n, rounds: 41, curvature: { k: K, order: m } });
  const { phases, basisBytes, products } = planCost(plan);
  const byName = new Map(phases.map((phase) => [phase.name, phase]));
  const names = ["coefficients", "product"];
  for (const name of names) expect(byName.get(name)!.questions).toBe(m);
  const sum = (of: "bytesToWorkers" | "bytesToHub"): number =>
    names.reduce((s, name) => s + byName.get(name)![of], 0);
  // The candidate out and products back whole, the columns of a row back, and j or 2 j + 1 numbers each way in step j.
  expect(sum("bytesToWorkers")).toBe(m * b * n * P + 8 * m ** 2 * P);
  expect(sum("bytesToHub")).toBe(m * b * n * P + m * b * n + 8 * ((m * (m + 1)) / 2) * P);
  expect(byName.get("install")!.bytesToWorkers).toBe(P * (2 * 8 * K + K * n * b + 4));
  expect(basisBytes).toBe(8 * m * Math.ceil(n / P));
  expect(products).toBe(3 * m);
  expect(phases.map((phase) => phase.rounds)).toEqual([3, 3, 3, 3, 3, 3, 41, 41, 41, 1]);
  // Twice the workers: half the basis at each.
  expect(planCost(planOf({ ...plan, workers: 2 * P } as PlanInput)).basisBytes).toBe(basisBytes / 2);
});

test("a plan as text", () => {
  const plan = planOf({
    ...least,
    parameters: 1000,
    curvature: { k: 2, order: 8, period: 2 },
    sync: { k: "published", period: 2 },
  });
  const lines = showPlan(plan).split("\n");
  expect(lines.slice(0, 9)).toEqual([
    "2 workers, 1000 parameters, 4 rounds of 3 steps, seed 0",
    "update      adam, learningRate 0.001, shard false, schedule constant, beta1 0.9, beta2 0.999, epsilon 1e-8",
    `curvature   every 2 rounds from round 0, 8 products, k 2, l 0, alpha 0.01, beta 0.9, momentum average, clip 1, damping 0, trust ${defaultTrust}, layout replicated, reduce mean`,
    "agreement   mean gradient at every step, extrapolation every 2 rounds with sigma 5e-9",
    "evaluation  at the end",
    "limits      retryTicks 20, deadTicks 600, maxRestarts 3, maxQueue 1024",
    "memory      at most 36.0 kB per worker: parameters 8.00 kB, base 8.00 kB, velocity 4.00 kB, vectors 8.00 kB, agreement 8.00 kB; and a basis of 32.0 kB during a refresh",
    "",
    "float32 payload of all workers together, in each round that has the phase",
  ]);
  const table = lines.slice(9).map((line) => line.trim().split(/ {2,}/));
  expect(table[0]).toEqual(["phase", "rounds", "questions", "to workers", "to hub"]);
  expect(table).toContainEqual(["step", "4", "2", "16.0 kB", "16.0 kB"]);
  expect(table).toContainEqual(["ritz", "2", "0", "0 B", "0 B"]);
  const { questions } = planCost(plan);
  expect(table.at(-1)!.slice(0, 3)).toEqual(["whole run", "4", String(questions)]);
  // Every phase of every round is in the table.
  const names = new Set([0, 1, 2, 3].flatMap((r) => slots(roundScript(plan, r)).map((s) => s.phase.name)));
  expect(table.slice(1, -1).map((row) => row[0]!)).toEqual([...names]);
  for (const other of plans) expect(showPlan(other)).not.toMatch(/undefined|NaN|\[object/);
});
