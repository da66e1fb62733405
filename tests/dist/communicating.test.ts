/**
 * Plans whose workers send parts of what they have: every runtime gives what the method gives when all of its workers are
 * in one place and in step, bit for bit, through crashes and resumed runs, and sends what the plan says.
 */
import { expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gradientOf } from "../../autodiff/vjp.ts";
import { ones } from "../../core/create.ts";
import { add, mul, slice, sqrt, sum } from "../../core/ops.ts";
import { scalar } from "../../core/trace.ts";
import { leaves } from "../../core/tree.ts";
import type { Value } from "../../core/value.ts";
import type { DivAdam, DivAdamState } from "../../dist/compress/div_adam.ts";
import { achievedRatios, communicatingOf, flushAfter } from "../../dist/compress/plan.ts";
import { leavesAfter } from "../../dist/compress/script.ts";
import { together } from "../../dist/compress/together.ts";
import { communicatingMethodOf, viewOf } from "../../dist/jobs/communicating.ts";
import { type Problem, trainingSetup } from "../../dist/jobs.ts";
import type { Plan, PlanInput } from "../../dist/plan.ts";
import { planCost, showPlan } from "../../dist/plan_cost.ts";
import { fileStore } from "../../dist/runtime/file_store.ts";
import { RunError, runLocal } from "../../dist/runtime/local.ts";
import { runSequential } from "../../dist/runtime/sequential.ts";
import { configOf } from "../../dist/script.ts";
import { report, type SimClock, simulate } from "../../dist/sim.ts";
import { list, maxDifference } from "../optim/numbers.ts";
import { assertSameBits } from "../support/tolerance.ts";
import { countRun } from "./counting.ts";
import { logisticProblem, planOf, type Rows, thetaOf } from "./training_problems.ts";

const parameters = 37;
const workers = 3;
const problem: Problem<Rows> = logisticProblem(parameters, workers, 16);

type Sync = PlanInput["sync"];

/** Forms of agreement that between them have local steps, several exchanges, backgrounds and none. */
const forms: Readonly<Record<string, { readonly update: PlanInput["update"]; readonly sync: Sync }>> = {
  "divisible, delay as long as the period": {
    update: { name: "adam", learningRate: 0.03 },
    sync: { k: "divisible", ratio: 16, period: 4, warmup: 3 },
  },
  "divisible, over the ends of rounds": {
    update: { name: "adamw", learningRate: 0.03, schedule: "cosine" },
    sync: { k: "divisible", ratio: 8, period: 3, delay: 2, warmup: 1, residualWeight: 0.3, varianceEvery: 6 },
  },
  "divisible, flushed at the end": {
    update: { name: "adam", learningRate: 0.03 },
    sync: { k: "divisible", ratio: 16, period: 4, delay: 3, warmup: 2, flushAtEnd: true },
  },
  "divisible, at once": {
    update: { name: "adam", learningRate: 0.03 },
    sync: { k: "divisible", ratio: 16, period: 2, delay: 0, warmup: 2, averageMomentum: true },
  },
  "divisible, the largest, in integers": {
    update: { name: "adam", learningRate: 0.03 },
    sync: { k: "divisible", ratio: 16, period: 4, warmup: 2, compressor: "topk", precision: "int16" },
  },
  "error feedback": {
    update: { name: "momentum", learningRate: 0.1 },
    sync: { k: "feedback", ratio: 8, period: 2 },
  },
  "step-ahead error feedback": {
    update: { name: "momentum", learningRate: 0.1 },
    sync: { k: "feedback", form: "saef", ratio: 8, averageEvery: 5, compressor: "topk" },
  },
  "detached error feedback by factors": {
    update: { name: "momentum", learningRate: 0.1 },
    sync: { k: "feedback", form: "def", compressor: "powersgd", rank: 1 },
  },
  "error reset": {
    update: { name: "momentum", learningRate: 0.1 },
    sync: { k: "reset", ratio: 4, resetEvery: 4 },
  },
  "error reset of two compressors": {
    update: { name: "momentum", learningRate: 0.1 },
    sync: {
      k: "reset",
      compressor: "topk",
      ratio: 4,
      resetEvery: 4,
      updateCompressor: "block",
      updateRatio: 8,
    },
  },
  "gradients by sign": {
    update: { name: "adam", learningRate: 0.03 },
    sync: { k: "gradient-feedback", compressor: "sign" },
  },
  "one bit": { update: { name: "adam", learningRate: 0.03 }, sync: { k: "one-bit", freezeStep: 6 } },
  "zero or one bit": {
    update: { name: "adam", learningRate: 0.03 },
    sync: { k: "zero-one", varianceFreezeStep: 6, varianceScale: 2, localScale: 4, localClip: 4 },
  },
  "local steps": { update: { name: "adam", learningRate: 0.03 }, sync: { k: "local", period: 4 } },
  "local steps and an outer one": {
    update: { name: "adamw", learningRate: 0.03 },
    sync: { k: "outer", period: 3 },
  },
  "decoupled momentum": {
    update: { name: "sgd", learningRate: 0.01 },
    sync: { k: "decoupled", chunk: 8, topK: 2 },
  },
};

const plans = Object.entries(forms).map(
  ([name, form]) => [name, planOf({ workers, parameters, rounds: 4, localSteps: 5, ...form })] as const,
);

/** The method of a plan with all workers in one place. */
function inOnePlace(plan: Plan): Value {
  const method = communicatingMethodOf(plan, problem)!;
  const run = together(method, problem.initial, plan.workers);
  for (let step = 0; step < plan.rounds * plan.localSteps; step++) {
    run.step((rank, theta) =>
      gradientOf((x: Value) => problem.score(x, problem.batch(rank, step)).loss)(theta),
    );
  }
  if (flushAfter(plan) !== null) run.flush();
  return run.view();
}

test.each(plans)("%s: a run is its method with all workers in one place", (_name, plan) => {
  const run = runSequential(trainingSetup(plan, problem));
  expect(maxDifference(thetaOf(run), list(inOnePlace(plan)))).toBeLessThan(1e-14);
});

test.each(plans)("%s: the same bits with messages, and in a simulation with faults", async (_name, plan) => {
  const setup = trainingSetup(plan, problem);
  const expected = thetaOf(runSequential(setup));
  const local = await runLocal(setup);
  expect(list(local.hub["theta"] as Value)).toEqual(expected);
  for (let seed = 0; seed < 6; seed++) {
    const faults = { lossRate: 0.05, duplicateRate: 0.05, maxDelay: 6, maxWork: 4, crashRate: 0.004 };
    const result = simulate({ ...setup, seed, faults, checkReplay: seed === 0 });
    expect(result.violations.length === 0 ? "" : report(result)).toBe("");
    expect(list(result.values!.hub["theta"] as Value)).toEqual(expected);
  }
});

test.each(plans)("%s: a run that was stopped goes on as if it had not been", async (_name, plan) => {
  const expected = thetaOf(runSequential(trainingSetup(plan, problem)));
  const folder = mkdtempSync(join(tmpdir(), "communicating-"));
  try {
    const stopping = new AbortController();
    const first = await runLocal({
      ...trainingSetup(plan, problem),
      store: fileStore(folder),
      signal: stopping.signal,
      onProgress: (progress) => {
        if (progress.k === "completed" && progress.round === 1) stopping.abort();
      },
    });
    expect(first.reason).toBe("stopped");
    expect(list(viewOf(plan, problem, first.workers!)).every(Number.isFinite)).toBe(true);
    const second = await runLocal({ ...trainingSetup(plan, problem), store: fileStore(folder) });
    expect(second.reason).toBe("finished");
    expect(list(second.hub["theta"] as Value)).toEqual(expected);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test.each(plans)("%s: sends what the plan says", async (_name, plan) => {
  const sent = await countRun(trainingSetup(plan, problem));
  const cost = planCost(plan, { dtype: "float64" });
  const sums = (names: readonly string[]): readonly number[] => {
    const parts = names.flatMap((name) => sent.get(name) ?? []);
    return [
      parts.reduce((all, { bytesToWorkers }) => all + bytesToWorkers, 0),
      parts.reduce((all, { bytesToHub }) => all + bytesToHub, 0),
    ];
  };
  const said = (name: string): readonly number[] => {
    const phase = cost.phases.find((other) => other.name === name);
    return [phase?.bytesToWorkers ?? 0, phase?.bytesToHub ?? 0];
  };
  expect(sums(["step", "steps", "exchange", "land", "launch"])).toEqual([...said("step")]);
  expect(sums(["view"])).toEqual([...said("view")]);
  expect(sums(["flush", "flushed"])).toEqual([...said("flush")]);
  const [toWorkers, toHub] = said("background");
  const [given, posted] = sums(["background"]);
  expect(posted).toBe(toHub!);
  // Of an exchange that ends after the run the result may come, whole, or not.
  const open = openBytes(plan);
  expect([toWorkers!, toWorkers! - open]).toContain(given!);
});

/** Bytes to the workers of the exchange that is under way after the last step. */
function openBytes(plan: Plan): number {
  const method = communicatingOf(plan)!;
  for (let step = plan.rounds * plan.localSteps; step > 0; step--) {
    if (leavesAfter(method, step, flushAfter(plan)))
      return plan.workers * (method as DivAdam).backgroundBytes(plan.workers, step, "float64").received;
    if (method.background?.endsAt(step)) return 0;
  }
  return 0;
}

test("after a flush at the end workers are equal, nothing is kept back, and other workers go on", () => {
  const [, plan] = plans.find(([name]) => name.includes("flushed"))!;
  const { k, ...fields } = plan.sync as Extract<Plan["sync"], { readonly k: "divisible" }>;
  const kept = planOf({ ...plan, sync: { k, ...fields, flushAtEnd: false } });
  const [run, other] = [plan, kept].map((one) => runSequential(trainingSetup(one, problem)));
  const method = communicatingMethodOf(plan, problem) as unknown as DivAdam;
  const states = run!.workers.map(({ state }) => state as DivAdamState);
  for (const state of states) {
    for (const [i, x] of leaves(state).entries())
      assertSameBits(x, leaves(states[0])[i]!, `leaf ${i} of all workers`);
    for (const x of [state.fresh, state.window]) expect(maxDifference(list(x), list(mul(0, x)))).toBe(0);
    expect(state.flying).toEqual([]);
    expect(list(method.position(state))).toEqual(list(state.anchor));
    expect(method.workersOf!(state)).toBeNull();
  }
  // It moves nothing that would have been saved without it.
  expect(maxDifference(thetaOf(run!), thetaOf(other!))).toBeLessThan(1e-14);
  expect(method.workersOf!(other!.workers[0]!["state"] as DivAdamState)).toBe(workers);
  for (const { background } of run!.workers) expect(background).toEqual([]);
  // Exchanges leave after the steps 4, 8, 12 and 16; that of step 20 would come after the end.
  expect(planCost(plan).phases.find(({ name }) => name === "background")!.questions).toBe(4);
  const turns = configOf(plan)
    .script(plan.rounds - 1)
    .flatMap((item) => ("begins" in item && item.begins ? [item.begins.version] : []));
  expect(turns).toEqual([16]);
});

test("a run that is made longer before its flush does not miss what had not left because of that", async () => {
  const sync: Sync = { k: "divisible", ratio: 16, period: 4, delay: 3, warmup: 2, flushAtEnd: true };
  const of = (rounds: number): Plan =>
    planOf({
      workers,
      parameters,
      rounds,
      localSteps: 2,
      update: { name: "adam", learningRate: 0.03 },
      sync,
    });
  // The exchange of step 8 is over in step 11.
  const [short, long] = [of(5), of(8)];
  const folder = mkdtempSync(join(tmpdir(), "communicating-"));
  try {
    const stopping = new AbortController();
    const first = await runLocal({
      ...trainingSetup(short, problem),
      store: fileStore(folder),
      signal: stopping.signal,
      onProgress: (progress) => {
        if (progress.k === "completed" && progress.round === 2) stopping.abort();
      },
    });
    expect([first.reason, first.round]).toEqual(["stopped", 4]);
    const second = await runLocal({ ...trainingSetup(long, problem), store: fileStore(folder) });
    expect(list(second.hub["theta"] as Value)).toEqual(thetaOf(runSequential(trainingSetup(long, problem))));
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test.each(plans)(
  "%s: a gradient that is not finite ends it with step, worker and tensor",
  async (_name, plan) => {
    for (const badStep of [1, 8]) {
      const faulty: Problem<Rows & { readonly factor: Value }> = {
        ...problem,
        // The root of nothing is nothing; its derivative is not.
        score(theta, { factor, ...rows }) {
          const { loss, sums } = problem.score(theta, rows);
          const last = slice(theta, [33], [34]);
          return { loss: add(loss, sum(sqrt(mul(factor, mul(last, last))))), sums };
        },
        batch: (rank, step) => ({
          ...problem.batch(rank, step),
          factor: scalar(rank === 2 && step === badStep ? 0 : 1e-3, "float64"),
        }),
        curvatureBatch: (rank, round) => ({
          ...problem.curvatureBatch(rank, round),
          factor: scalar(1e-3, "float64"),
        }),
        unravel: (theta) => ({ layers: [{ b: slice(theta, [0], [7]) }], w: slice(theta, [7], [37]) }),
      };
      const ending = await runLocal(trainingSetup(plan, faulty)).catch((error: unknown) => error);
      expect(ending).toBeInstanceOf(RunError);
      expect((ending as RunError).message).toContain(
        `Cannot continue at step ${badStep}: the gradient of worker 2 is NaN at element 26 of tensor 1 "w", a finite number is needed`,
      );
    }
  },
);

// A schedule of the data-parallel form is computed in float32.
test.each([
  ["constant", 1e-13],
  ["cosine", 1e-7],
] as const)("with a ratio of 1 it is data-parallel Adam, %s rate", (schedule, tolerance) => {
  const sync: Sync = { k: "divisible", ratio: 1 };
  const update = { name: "adam", learningRate: 0.03, schedule } as const;
  const shape = { workers, parameters, rounds: 4, localSteps: 5, update } as const;
  const run = runSequential(trainingSetup(planOf({ ...shape, sync }), problem));
  const dense = runSequential(trainingSetup(planOf({ ...shape, sync: { k: "gradient" } }), problem));
  expect(maxDifference(thetaOf(run), thetaOf(dense))).toBeLessThan(tolerance);
});

test("the base, curvature, a shard and a long delay are refused", () => {
  const plan = (changes: Partial<PlanInput>) => () =>
    planOf({
      workers,
      parameters,
      update: { name: "adam", learningRate: 1 },
      sync: { k: "divisible" },
      ...changes,
    });
  expect(plan({})).not.toThrow();
  expect(plan({ update: { name: "sgd", learningRate: 1 } })).toThrow(/adam or adamw/);
  expect(plan({ update: { name: "adam", learningRate: 1, shard: true } })).toThrow(/false is needed/);
  expect(plan({ curvature: { k: 2 } })).toThrow(/null is needed/);
  expect(plan({ sync: { k: "divisible", period: 2, delay: 3 } })).toThrow(/at most the period/);
  expect(plan({ sync: { k: "divisible", warmup: 0 } })).toThrow(/warmup/);
  expect(plan({ sync: { k: "divisible", period: 2, varianceEvery: 3 } })).toThrow(/a multiple of the period/);
});

test("a plan says how its workers agree", () => {
  const plan = plans[0]![1];
  expect(showPlan(plan)).toContain("divisible, ratio 16, period 4");
  expect(configOf(plan).durable.worker).toEqual(["state", "background"]);
});

/** Tensors of 30, 5 and 2 elements, and momentum descent on them. */
const shapes = [[3, 10], [5], [2]];
const ofMomentum = (sync: Sync): Plan =>
  planOf({
    workers,
    parameters,
    rounds: 4,
    localSteps: 5,
    update: { name: "momentum", learningRate: 1 },
    sync,
  });

test("error reset sends a part of updates at every step, and of errors at every reset", () => {
  const reset = { k: "reset", compressor: "topk", ratio: 4, resetEvery: 4 } as const;
  const bytesOf = (sync: Sync): readonly number[] => {
    const { bytesToHub, bytesToWorkers } = planCost(ofMomentum(sync), { shapes }).phases[0]!;
    return [bytesToHub, bytesToWorkers];
  };
  // The largest 7, 1 and 1 with their places, which all workers get of all.
  const errors = 9 * 8;
  expect(bytesOf(reset)).toEqual([workers * 5 * errors, workers * 5 * workers * errors]);
  // Blocks of 3, 1 and 1, whose mean is as large.
  const updates = 5 * 4;
  expect(bytesOf({ ...reset, updateCompressor: "block", updateRatio: 8 })).toEqual([
    workers * (20 * updates + 5 * errors),
    workers * (20 * updates + 5 * workers * errors),
  ]);
  expect(bytesOf({ ...reset, updateCompressor: "half" })[0]).toBe(workers * (20 * 37 * 2 + 5 * errors));
});

test("a plan says what ratio is achieved: with places, and one number of every small tensor", () => {
  const feedback = (fields: object): Sync => ({ k: "feedback", ratio: 4, ...fields }) as Sync;
  const achieved = (sync: Sync, dtype: "float32" | "float64" = "float32") =>
    achievedRatios(ofMomentum(sync), { shapes, dtype });
  expect(achieved(feedback({}))).toEqual({ updates: 37 / 9 });
  expect(achieved(feedback({ compressor: "topk" }))).toEqual({ updates: (37 * 4) / (9 * 8) });
  expect(achieved(feedback({ compressor: "topk" }), "float64")).toEqual({ updates: (37 * 8) / (9 * 12) });
  expect(achieved(feedback({ compressor: "half" }))).toEqual({ updates: 2 });
  // Factors of 3 and 10, and the other tensors whole.
  expect(achieved(feedback({ compressor: "powersgd", rank: 1 }))).toEqual({ updates: 37 / 20 });
  expect(achieved({ k: "gradient-feedback", ratio: 100 })).toEqual({ gradients: 37 / 3 });
  expect(achieved({ k: "reset", ratio: 8 })).toEqual({ errors: 37 / 5 });
  expect(achieved({ k: "reset", ratio: 8, updateCompressor: "topk", updateRatio: 4 })).toEqual({
    updates: (37 * 4) / (9 * 8),
    errors: 37 / 5,
  });
  const adam = { name: "adam", learningRate: 1 } as const;
  const divisible = (fields: object): Plan =>
    planOf({ workers, parameters, update: adam, sync: { k: "divisible", ratio: 8, ...fields } as Sync });
  expect(achievedRatios(divisible({}), { shapes })).toEqual({ updates: 37 / 5 });
  expect(achievedRatios(divisible({ compressor: "topk" }), { shapes })).toEqual({ updates: 37 / 10 });
  expect(achievedRatios(divisible({ ratio: 1 }), { shapes })).toEqual({ updates: 1 });
  expect(achieved({ k: "gradient" })).toBeNull();

  const text = showPlan(ofMomentum({ k: "reset", ratio: 8, updateCompressor: "topk", updateRatio: 4 }), {
    shapes,
  });
  expect(text.split("\n").slice(3, 5)).toEqual([
    "agreement   reset, compressor block, ratio 8, rank 2, levels 16, resetEvery 8, updateCompressor topk, updateRatio 4",
    "compression updates 1 : 2.056, errors 1 : 7.4 achieved",
  ]);
  expect(showPlan(ofMomentum({ k: "gradient" }))).not.toContain("achieved");
});

/** Gradients take a second; a dense exchange keeps the link of the hub for `boundness` seconds, other work takes no time. */
function slowLink(plan: Plan, boundness: number): SimClock {
  const denseBytes = 2 * plan.workers * 4 * plan.parameters;
  return {
    tickSeconds: 0.01,
    compute: (peer, fn) => (peer !== "hub" && ["begin", "advance", "gradient", "step"].includes(fn) ? 1 : 0),
    save: () => 0,
    link: (bytes) => (boundness * bytes) / denseBytes,
    travel: () => 0,
  };
}

test("on a link six times slower than gradients, steps cost what they compute while the background keeps up", () => {
  const size = 4096;
  const steep: Problem<number> = {
    initial: ones([size]),
    score: (theta, rank) => ({ loss: sum(mul(theta, theta)).mul(1 + rank), sums: [] }),
    batch: (rank) => rank,
    curvatureBatch: (rank) => rank,
  };
  const perStep = (sync: Sync): { readonly seconds: number; readonly waited: number } => {
    const of = (rounds: number) => {
      const update = { name: "adam", learningRate: 1e-3 } as const;
      const plan = planOf({ workers: 4, parameters: size, rounds, localSteps: 21, update, sync });
      const limits = { ...configOf(plan), retryTicks: 1e6, deadTicks: 1e7 };
      const setup = { ...trainingSetup(plan, steep), config: limits };
      const result = simulate({
        ...setup,
        seed: 1,
        clock: slowLink(plan, 6),
        patience: 1e9,
        checkReplay: false,
      });
      expect(result.violations).toEqual([]);
      return result.stats;
    };
    const [short, long] = [of(2), of(6)];
    return {
      seconds: (long.seconds! - short.seconds!) / 84,
      waited: (long.waitedSeconds! - short.waitedSeconds!) / 84,
    };
  };
  const dense = perStep({ k: "gradient" }).seconds;
  expect(dense).toBeCloseTo(7, 1);
  const divisible = { k: "divisible", ratio: 1024, warmup: 1, precision: "int16" } as const;
  // Two vectors in half the bits are one dense exchange, six seconds: until the gradient of the seventh step there is just that
  // time, and of the third step there is not.
  const easy = perStep({ ...divisible, period: 7 });
  expect(easy.waited).toBeLessThan(0.001);
  expect(Math.abs(dense / easy.seconds / 7 - 1)).toBeLessThan(0.05);
  const hard = perStep({ ...divisible, period: 3 });
  expect(hard.waited).toBeGreaterThan(0.5);
  expect(hard.seconds).toBeGreaterThan(1.5 * easy.seconds);
});
