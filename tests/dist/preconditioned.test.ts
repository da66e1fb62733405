/**
 * Shampoo and K-FAC over workers: who computes which matrix changes nothing. Every form is the method in one place on the
 * union of the workers' batches.
 */
import { expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { gradientOf } from "../../autodiff/vjp.ts";
import { PlanError } from "../../core/errors.ts";
import { gaussian } from "../../core/likelihood.ts";
import * as nn from "../../core/nn.ts";
import { add, mul, slice, sum, tanh } from "../../core/ops.ts";
import { ravel } from "../../core/ravel.ts";
import { flatten, leaves } from "../../core/tree.ts";
import type { Value } from "../../core/value.ts";
import { matricesOf, type Problem, trainingSetup, workerInitial, workerJobs } from "../../dist/jobs.ts";
import { makePlan, type Plan, type PlanInput } from "../../dist/plan.ts";
import { planCost, showPlan } from "../../dist/plan_cost.ts";
import { assigned, ownedBy, ownersOf, preconditionedOf } from "../../dist/preconditioned.ts";
import { checkScript } from "../../dist/protocol/script.ts";
import { fileStore } from "../../dist/runtime/file_store.ts";
import { runLocal } from "../../dist/runtime/local.ts";
import { runSequential } from "../../dist/runtime/sequential.ts";
import { configOf, roundScript } from "../../dist/script.ts";
import { report, sameBits, simulate } from "../../dist/sim.ts";
import { type KfacState, kfac, kfacLayers, layerStatistics } from "../../optim/kfac.ts";
import { type ShampooState, shampoo } from "../../optim/shampoo.ts";
import { applyUpdates } from "../../optim/transformation.ts";
import { checkpointOf, curveOf, withPrograms, words } from "../cli/program_support.ts";
import { f64, list, maxDifference, mulberry32, normals, sameTreeBits } from "../optim/numbers.ts";
import { prop } from "../support/prop.ts";
import { countRun } from "./counting.ts";
import { planOf, thetaOf } from "./training_problems.ts";

// --- a network ---------------------------------------------------------------------------------------------------

interface Network {
  readonly first: nn.AffineParams;
  readonly last: nn.AffineParams;
  /** A leaf that is of no layer. */
  readonly scale: Value;
}

interface Examples {
  readonly x: Value;
  readonly y: Value;
}

const [first, last] = [nn.dense(4, 5), nn.dense(5, 3, { bias: false })];

const draw = (seed: number, shape: readonly number[]): Value =>
  f64(
    normals(
      mulberry32(seed),
      shape.reduce((n, k) => n * k, 1),
    ),
    shape,
  );

const start: Network = {
  first: { w: draw(1, [4, 5]), b: draw(2, [5]) },
  last: { w: draw(3, [5, 3]) },
  scale: f64([1, 0.5, 2]),
};
const [initial, unravel] = ravel(start);

function lossOf(p: Network, { x, y }: Examples): Value {
  const outputs = mul(p.scale, last.apply(p.last, tanh(first.apply(p.first, x))));
  return add(gaussian.loss(outputs, y), mul(0.01, sum(mul(p.scale, p.scale))));
}

/** The same 12 examples at a step whoever has them, other ones at each of 8 steps; or all of them at every worker. */
function problemOf(workers: number, isDealt = true): Problem<Examples> {
  const rows = isDealt ? 12 / workers : 12;
  const batches = Array.from({ length: 8 }, (_, step) =>
    Array.from({ length: workers }, (_, rank) => {
      const from = isDealt ? rank * rows : 0;
      const part = (all: Value): Value => slice(all, [from, 0], [from + rows, all.shape[1]!]);
      const { x, y } = examplesOf(step);
      return { x: part(x), y: part(y) };
    }),
  );
  const batch = (rank: number, step: number): Examples => batches[step % 8]![rank]!;
  return {
    initial,
    unravel,
    loss: (params, examples) => lossOf(params as Network, examples),
    score: (theta, examples) => ({ loss: lossOf(unravel(theta), examples), sums: [sum(examples.y)] }),
    batch,
    curvatureBatch: batch,
  };
}

/** All examples of a step. */
function examplesOf(step: number): Examples {
  const seed = 100 + (step % 8);
  return { x: draw(2 * seed, [12, 4]), y: draw(2 * seed + 1, [12, 3]) };
}

const forms = {
  "shampoo, blocks, grafted": {
    name: "shampoo",
    learningRate: 0.02,
    period: 3,
    maxDimension: 3,
    grafting: "adam",
  },
  "shampoo at every step": { name: "shampoo", learningRate: 0.05, period: 1, beta2: 0.9, grafting: "none" },
  "kfac, eigenpairs": { name: "kfac", learningRate: 0.05, period: 3, klClip: 100 },
  "kfac, eigenpairs, seldom": { name: "kfac", learningRate: 0.3, period: 4, factorPeriod: 3 },
  "kfac, gradients": { name: "kfac", learningRate: 0.3, period: 3, distribution: "gradients" },
  "kfac, gradients, seldom": {
    name: "kfac",
    learningRate: 0.05,
    period: 4,
    factorPeriod: 3,
    klClip: 100,
    distribution: "gradients",
  },
} as const satisfies Readonly<Record<string, PlanInput["update"]>>;

const names = Object.keys(forms) as (keyof typeof forms)[];

function planFor(form: keyof typeof forms, workers: number, changes: Partial<PlanInput> = {}): Plan {
  return planOf({
    workers,
    parameters: initial.size,
    rounds: 4,
    localSteps: 5,
    update: forms[form],
    sync: { k: "gradient" },
    ...changes,
  });
}

/** The method of a plan in one place. */
function inOnePlace(plan: Plan): Value {
  const { update } = plan;
  const steps = plan.rounds * plan.localSteps;
  let params = start;
  if (update.name === "shampoo") {
    const method = shampoo(update.learningRate, update);
    let state: ShampooState = method.init(params);
    for (let step = 0; step < steps; step++) {
      const gradient = gradientOf<Network, [Examples]>(lossOf)(params, examplesOf(step));
      const [updates, next] = method.update(gradient, state, params, {});
      [params, state] = [applyUpdates(params, updates), next];
    }
  } else if (update.name === "kfac") {
    const method = kfac(kfacLayers(lossOf, params, examplesOf(0)), update);
    let state: KfacState = method.init(params);
    for (let step = 0; step < steps; step++) {
      const { gradient, layers } = layerStatistics(lossOf)(params, examplesOf(step));
      const [updates, next] = method.update(gradient, state, params, { layers: () => layers });
      [params, state] = [applyUpdates(params, updates), next];
    }
  }
  return ravel(params)[0];
}

test.each(names)("%s: any number of workers end where one place does", (form) => {
  const expected = list(inOnePlace(planFor(form, 1)));
  // It has gone somewhere.
  expect(maxDifference(expected, list(initial))).toBeGreaterThan(1e-2);
  for (const workers of [1, 2, 3, 6]) {
    const theta = thetaOf(runSequential(trainingSetup(planFor(form, workers), problemOf(workers))));
    expect(maxDifference(theta, expected)).toBeLessThan(1e-10);
  }
});

test.each(names)("%s: whoever computes a matrix, its bits are the same", (form) => {
  // Equal batches everywhere: means over 1, 2 or 4 workers are exact.
  const [one, ...others] = [1, 2, 4].map((workers) =>
    runSequential(trainingSetup(planFor(form, workers), problemOf(workers, false))),
  );
  for (const run of others) {
    expect(thetaOf(run)).toEqual(thetaOf(one!));
    for (const { theta } of run.workers) expect(sameTreeBits(theta, run.hub["theta"])).toBe(true);
  }
});

test.each(names)("%s: messages change nothing, and replicas agree after every round", async (form) => {
  const plan = planFor(form, 3, { evaluateEvery: 2 });
  const setup = trainingSetup(plan, problemOf(3));
  const reference = runSequential(setup);
  const { hub, workers, reason } = await runLocal(setup);
  expect(reason).toBe("finished");
  expect(sameBits({ hub, workers }, reference)).toBe(true);
  const isOwned = form.startsWith("kfac, gradients");
  for (const own of reference.workers.slice(1)) {
    expect(sameTreeBits(own["theta"], reference.hub["theta"])).toBe(true);
    const [a, b] = [own, reference.workers[0]!].map(({ optimizer }) => {
      const { factors: _f, eigen: _e, ...common } = optimizer as KfacState;
      return isOwned ? common : optimizer;
    });
    expect(sameTreeBits(a, b)).toBe(true);
  }
});

test("on a faulty network the bits are those of plain loops", () => {
  const uniform = mulberry32(7);
  const pick = <T>(...choices: readonly T[]): T => choices[Math.floor(uniform() * choices.length)]!;
  let crashes = 0;
  for (const form of names) {
    const limits = { retryTicks: 15, deadTicks: 120, maxRestarts: 1000 };
    const plan = planFor(form, 3, { rounds: 2, localSteps: 4, limits });
    const setup = trainingSetup(plan, problemOf(3));
    const reference = runSequential(setup);
    for (let seed = 0; seed < 4; seed++) {
      const result = simulate({
        ...setup,
        seed,
        faults: {
          lossRate: pick(0, 0.1, 0.25),
          duplicateRate: pick(0, 0.2),
          minDelay: 1,
          maxDelay: pick(1, 6),
          maxWork: pick(1, 5),
          crashRate: pick(0.002, 0.006),
          noticeRate: pick(0, 1),
          reviveRate: pick(0, 1),
          horizon: 400,
        },
        replicated: ["theta"],
        checkReplay: false,
        keepTrace: 40,
      });
      if (result.violations.length > 0) throw new Error(report(result));
      expect(result.outcome).toBe("finished");
      expect(sameBits(result.values, reference)).toBe(true);
      crashes += result.stats.crashes;
    }
  }
  expect(crashes).toBeGreaterThan(3);
}, 120_000);

test.each(names)(
  "%s: a run that is stopped and continued from files has the bits of one that is not",
  async (form) => {
    // More workers than layers: some have nothing.
    const setup = trainingSetup(planFor(form, 6, { rounds: 5, localSteps: 2 }), problemOf(6));
    const directory = mkdtempSync(join(tmpdir(), "cotangent-preconditioned-"));
    try {
      const stop = new AbortController();
      const half = await runLocal({
        ...setup,
        store: fileStore(directory),
        signal: stop.signal,
        onProgress: (p) => p.k === "completed" && p.round === 1 && stop.abort(),
      });
      expect(half.reason).toBe("stopped");
      expect(half.round).toBeLessThan(5);
      const { hub, workers, reason } = await runLocal({ ...setup, store: fileStore(directory) });
      expect(reason).toBe("finished");
      expect(sameBits({ hub, workers }, runSequential(setup))).toBe(true);
    } finally {
      rmSync(directory, { recursive: true });
    }
  },
);

test("the program trains with them: processes on sockets, resumed, end with the bits of one process", async () => {
  await withPrograms(async (dir, start) => {
    const uniform = mulberry32(3);
    const rows = Array.from({ length: 80 }, () => {
      const x = normals(uniform, 3);
      return [...x.map((value) => value.toFixed(4)), x[0]! + x[1]! > 0 ? "up" : "down"].join();
    });
    writeFileSync(join(dir, "table.csv"), `a,b,c,way\n${rows.join("\n")}\n`);
    // Rounds of 4 steps, decompositions every 3: a round has several loops.
    const common = words(
      "train --data csv --data-dir table.csv --hidden 5 --batch 8 --local-steps 4 --l2 0.01",
    );
    for (const method of ["kfac --distribution gradients", "shampoo"]) {
      const flags = [...common, ...words(`--optimizer ${method} --precondition-every 3`)];
      const [sockets, local] = [`${method[0]}-sockets`, `${method[0]}-local`];
      const isHalf = method !== "shampoo";
      const first = await start([...flags, ...words(`--steps ${isHalf ? 8 : 20} --out ${sockets}`)]).ended;
      expect(first.code).toBe(0);
      if (isHalf) expect((await start(words(`train --resume ${sockets} --steps 20`)).ended).code).toBe(0);
      const whole = await start([...flags, ...words(`--steps 20 --runtime local --out ${local}`)]).ended;
      expect(whole.code).toBe(0);
      expect(checkpointOf(join(dir, sockets))).toBe(checkpointOf(join(dir, local)));
      const steps = curveOf(join(dir, sockets)).map(([step]) => step);
      expect(steps).toEqual(Array.from({ length: 20 }, (_, i) => i + 1));
    }
  });
}, 120_000);

// --- division ----------------------------------------------------------------------------------------------------

/** The least possible largest load, by trying everything. */
function optimum(costs: readonly number[], workers: number): number {
  const loads = Array<number>(workers).fill(0);
  const best = (i: number): number => {
    if (i === costs.length) return Math.max(...loads);
    let least = Number.POSITIVE_INFINITY;
    for (let rank = 0; rank < workers; rank++) {
      loads[rank]! += costs[i]!;
      least = Math.min(least, best(i + 1));
      loads[rank]! -= costs[i]!;
    }
    return least;
  };
  return best(0);
}

prop(
  "work is divided to within (4 - 1 / P) / 3 of the best division",
  fc.array(fc.integer({ min: 0, max: 60 }), { minLength: 1, maxLength: 7 }),
  fc.integer({ min: 1, max: 4 }),
  (costs, workers) => {
    const ranks = assigned(costs, workers);
    const loads = Array<number>(workers).fill(0);
    ranks.forEach((rank, i) => {
      loads[rank]! += costs[i]!;
    });
    expect(ranks).toHaveLength(costs.length);
    expect(Math.max(...loads)).toBeLessThanOrEqual(((4 - 1 / workers) / 3) * optimum(costs, workers) + 1e-9);
  },
);

test("the dearest goes first, equals in their order", () => {
  expect(assigned([1, 8, 1, 8, 27], 2)).toEqual([1, 1, 1, 1, 0]);
  expect(assigned([5, 5, 5], 3)).toEqual([0, 1, 2]);
  // The example in which it is worst: 11 where 9 are possible.
  const costs = [5, 5, 4, 4, 3, 3, 3];
  const loads = [0, 0, 0];
  assigned(costs, 3).forEach((rank, i) => {
    loads[rank]! += costs[i]!;
  });
  expect(Math.max(...loads)).toBe(11);
  expect(optimum(costs, 3)).toBe(9);
});

test.each(names)("%s: every matrix is one worker's work, and only that", (form) => {
  const plan = planFor(form, 3);
  const problem = problemOf(3);
  const sizes = matricesOf(plan, problem);
  // Axes of 4, 5, 5, 3 and 3: with a bias there are 5 inputs; blocks have at most 3.
  if (form === "shampoo, blocks, grafted") {
    // b: 3 and 2; w of the first: rows 3 and 1, columns 3 and 2; of the last: rows 3 and 2; scale.
    expect(sizes).toEqual([3, 2, 3, 3, 3, 2, 1, 3, 1, 2, 3, 3, 2, 3, 3]);
  } else if (form.startsWith("shampoo")) expect(sizes).toEqual([5, 4, 5, 5, 3, 3]);
  else expect(sizes).toEqual([5, 5, 5, 3]);
  const method = preconditionedOf(plan)!;
  const owners = ownersOf(method, sizes, 3);
  const all = [0, 1, 2].flatMap((rank) => ownedBy(owners, rank));
  expect(all.toSorted((a, b) => a - b)).toEqual(sizes.map((_, i) => i));
  if (form.startsWith("kfac, gradients")) {
    expect(owners[0]).toBe(owners[1]!);
    expect(owners[2]).toBe(owners[3]!);
    return;
  }
  for (const rank of [0, 1, 2]) {
    const { theta, optimizer } = workerInitial(plan, initial, rank, problem);
    const jobs = workerJobs(plan, problem, rank);
    const args = { round: 0, phase: "roots", iteration: 0, rank, workers: 3, notes: [], numbers: [] };
    const sampled = jobs["gradient"]!([theta, optimizer], args) as { outs: readonly unknown[] };
    const { outs } = jobs["roots"]!([optimizer, ...sampled.outs], args) as { outs: readonly unknown[] };
    expect(Object.keys(outs[1] as object).map(Number)).toEqual([...ownedBy(owners, rank)]);
  }
});

// --- costs -------------------------------------------------------------------------------------------------------

test.each(names)("%s: the bytes and questions of a run are those of the plan", async (form) => {
  for (const [workers, localSteps] of [
    [1, 1],
    [3, 5],
    [6, 4],
  ] as const) {
    const plan = planFor(form, workers, { rounds: 3, localSteps });
    const problem = problemOf(workers);
    const matrices = matricesOf(plan, problem);
    const cost = planCost(plan, { dtype: "float64", matrices });
    const sent = await countRun(trainingSetup(plan, problem));
    for (const [name, counted] of sent) {
      const phases = cost.phases.filter((phase) => phase.name === name);
      const total = (of: "questions" | "bytesToWorkers" | "bytesToHub"): number =>
        phases.reduce((all, phase) => all + phase.rounds * phase[of], 0);
      expect([name, total("questions") * workers]).toEqual([name, counted.asks]);
      expect([name, total("bytesToWorkers")]).toEqual([name, counted.bytesToWorkers]);
      expect([name, total("bytesToHub")]).toEqual([name, counted.bytesToHub]);
    }
    const asked = [...sent.values()].reduce((all, { asks }) => all + asks, 0);
    expect(cost.questions * workers).toBe(asked);
    for (let round = 0; round < 3; round++) {
      const { durable } = configOf(plan);
      expect(checkScript(roundScript(plan, round), workers, durable)).toBeNull();
    }
  }
});

const elementsOf = (tree: unknown): number =>
  flatten(tree)[0].reduce((all, x) => all + (x.ndim > 0 ? x.size : 0), 0);

test.each(names)("%s: workers hold what the plan says, element by element", (form) => {
  for (const workers of [1, 2, 6]) {
    const plan = planFor(form, workers, { rounds: 1, localSteps: 2 });
    const problem = problemOf(workers);
    const { memory } = planCost(plan, { dtype: "float64", matrices: matricesOf(plan, problem) });
    const run = runSequential(trainingSetup(plan, problem));
    memory.forEach((expected, rank) => {
      const state = run.workers[rank]!["optimizer"] as ShampooState & KfacState;
      const { statistics, roots, factors, eigen, ...base } = state;
      const matrices = [statistics, roots, factors, eigen].filter((x) => x !== undefined);
      expect(8 * elementsOf(matrices)).toBe(expected.matrices);
      expect(8 * elementsOf(base)).toBe(expected.base);
    });
    if (form.startsWith("kfac, gradients")) {
      const whole = planCost(planFor(form, 1), { matrices: [5, 5, 5, 3] }).memory[0]!.matrices;
      expect(memory.reduce((all, { matrices }) => all + matrices, 0)).toBe(2 * whole);
    }
  }
});

test("what a step of K-FAC costs in both distributions, in closed form", () => {
  // Parameters, workers, bytes, steps; weights of layers, squares of factors.
  const [n, P, b, S] = [initial.size, 4, 4, 6];
  const [weights, squares, sides, layers] = [5 * 5 + 5 * 3, 25 + 25 + 25 + 9, 18, 2];
  const totals = (distribution: "eigenpairs" | "gradients"): number[] => {
    const plan = planOf({
      workers: P,
      parameters: n,
      localSteps: S,
      update: { name: "kfac", learningRate: 1, period: 3, distribution },
      sync: { k: "gradient" },
    });
    const { questions, bytesToWorkers, bytesToHub } = planCost(plan, { matrices: [5, 5, 5, 3] });
    return [questions, bytesToWorkers, bytesToHub];
  };
  // Gradients and factors at every step, eigenpairs twice; a gradient before, the parameters and an evaluation after.
  expect(totals("eigenpairs")).toEqual([
    1 + S + 2 + 1,
    S * P * (n + squares) * b + 2 * P * (squares + sides) * b,
    S * P * (n + squares) * b + 2 * (squares + sides) * b + n * b,
  ]);
  expect(totals("gradients")).toEqual([
    1 + 2 * S + 1,
    S * (weights + squares + P * (n + layers)) * b,
    S * (P * (n + squares) + weights + layers) * b + n * b,
  ]);
});

test("a plan with matrices is shown with them, and not priced without", () => {
  const plan = planFor("kfac, gradients", 2);
  expect(() => planCost(plan)).toThrow(PlanError);
  expect(() => planCost(plan)).toThrow(/the sides of the matrices of kfac are not given/);
  const text = showPlan(plan, { matrices: [5, 5, 5, 3] });
  expect(text).toMatch(/update +kfac, .*distribution gradients/);
  expect(text).toMatch(/memory .* matrices \d/);
  expect(text).toMatch(/\ndirection +\d/);
});

// --- what is refused ---------------------------------------------------------------------------------------------

const least: PlanInput = {
  version: 1,
  workers: 2,
  parameters: 38,
  rounds: 1,
  localSteps: 1,
  seed: 0,
  update: { name: "kfac", learningRate: 0.1 },
  sync: { k: "gradient" },
};

test("defaults are those of the methods", () => {
  const { update } = makePlan(least);
  const { options } = kfac(kfacLayers(lossOf, start, examplesOf(0)));
  expect(update).toEqual({
    ...options,
    name: "kfac",
    learningRate: 0.1,
    distribution: "eigenpairs",
    shard: false,
    schedule: "constant",
  } as Plan["update"]);
  const other = makePlan({ ...least, update: { name: "shampoo", learningRate: 0.1 } }).update;
  const { beta1, beta2, epsilon, maxDimension } = shampoo().options;
  expect(other).toMatchObject({ beta1, beta2, epsilon, maxDimension, period: 20, grafting: "adam" });
});

test.each([
  ["curvature", { curvature: { k: 2 } }],
  ["sync.k", { sync: { k: "published" } }],
  ["sync.k", { sync: { k: "momentum" } }],
  ["sync.k", { sync: { k: "consensus", sigma: 0, relative: false } }],
  ["update.shard", { update: { name: "kfac", learningRate: 1, shard: true } }],
  ["update.distribution", { update: { name: "kfac", learningRate: 1, distribution: "rows" } }],
  ["update.factorPeriod", { update: { name: "kfac", learningRate: 1, factorPeriod: 0 } }],
  ["update.grafting", { update: { name: "shampoo", learningRate: 1, grafting: "lion" } }],
  ["update.schedule", { update: { name: "kfac", learningRate: 1, schedule: "cosine" } }],
  ["update.beta2", { update: { name: "shampoo", learningRate: 1, beta2: 1.1 } }],
])("a plan with another %s is refused", (path, change) => {
  try {
    makePlan({ ...least, ...change } as PlanInput);
  } catch (error) {
    expect((error as PlanError).problems.map((problem) => problem.split(":")[0])).toContain(path);
    return;
  }
  throw new Error(`Cannot pass: a plan with another ${path} was accepted`);
});

test("a problem that lacks what a method needs is refused by name", () => {
  const { unravel: _u, loss: _l, ...flat } = problemOf(2);
  const refused = (problem: Problem<Examples>, update: PlanInput["update"]) => () =>
    runSequential(trainingSetup(makePlan({ ...least, update }), problem));
  expect(refused(flat, { name: "shampoo", learningRate: 1 })).toThrow(
    /^Cannot train with shampoo: the problem has no unravel, /,
  );
  expect(refused({ ...flat, unravel }, { name: "kfac", learningRate: 1 })).toThrow(
    /^Cannot train with kfac: the problem has no loss, /,
  );
  expect(() => workerInitial(makePlan(least), initial, 0)).toThrow(/its problem is not given/);
});

test("the tree of a problem is that of its vector", () => {
  expect(leaves(start).reduce((all, x) => all + x.size, 0)).toBe(initial.size);
});
