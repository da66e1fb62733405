import { expect, test } from "bun:test";
import { add, div } from "../../core/ops.ts";
import type { Value } from "../../core/value.ts";
import { type Problem, trainingSetup } from "../../dist/jobs.ts";
import type { Plan, PlanInput } from "../../dist/plan.ts";
import type { Progress } from "../../dist/runtime/driver.ts";
import { RunError, runLocal } from "../../dist/runtime/local.ts";
import { runSequential } from "../../dist/runtime/sequential.ts";
import { sameBits } from "../../dist/sim.ts";
import { list, maxDifference, sameTreeBits } from "../optim/numbers.ts";
import {
  logisticProblem,
  planOf,
  quadraticProblem,
  type Rows,
  singleDevice,
  thetaOf,
} from "./training_problems.ts";

const n = 12;

/** Every form of agreement and every layout, with and without curvature. */
const forms: readonly (readonly [string, Partial<PlanInput>])[] = [
  ["gradient", { sync: { k: "gradient" } }],
  ["gradient with curvature", { sync: { k: "gradient" }, curvature: { k: 3, order: 8, period: 2 } }],
  ["published", { sync: { k: "published", period: 2 }, curvature: { k: 3, order: 8, period: 2 } }],
  ["momentum", { sync: { k: "momentum", period: 2 }, curvature: { k: 3, order: 8, period: 2 } }],
  ["rows", { sync: { k: "gradient" }, curvature: { k: 3, order: 8, period: 2, layout: "rows" } }],
  [
    "published rows",
    { sync: { k: "published", period: 2 }, curvature: { k: 3, order: 8, period: 2, layout: "rows" } },
  ],
  ["columns", { sync: { k: "gradient" }, curvature: { k: 3, order: 8, period: 2, layout: "columns" } }],
  [
    "published columns",
    { sync: { k: "published", period: 2 }, curvature: { k: 3, order: 8, period: 2, layout: "columns" } },
  ],
  ["shards of the state", { update: { name: "adam", learningRate: 0.05, shard: true } }],
  [
    "momentum over shards",
    { sync: { k: "momentum", period: 2 }, update: { name: "adamw", learningRate: 0.05, shard: true } },
  ],
  ["consensus", { sync: { k: "consensus" }, curvature: { k: 2, l: 1, order: 8, period: 3 } }],
  ["averaging", { sync: { k: "consensus", sigma: 0, relative: false } }],
];

function plan(workers: number, changes: Partial<PlanInput>): Plan {
  return planOf({
    workers,
    parameters: n,
    rounds: 5,
    localSteps: 3,
    seed: 4,
    update: { name: "adam", learningRate: 0.05 },
    sync: { k: "gradient" },
    ...changes,
  });
}

test.each(forms)(
  "%s: messages change nothing, in one process the bits are those of plain loops",
  async (_name, changes) => {
    for (const workers of [1, 3]) {
      const setup = trainingSetup(
        plan(workers, { ...changes, evaluateEvery: 2 }),
        logisticProblem(n, workers, 6),
      );
      const { hub, workers: own, ...end } = await runLocal(setup);
      expect(end).toEqual({ reason: "finished", round: 5 });
      expect(sameBits({ hub, workers: own }, runSequential(setup))).toBe(true);
    }
  },
);

test("the comparison of values sees the elements of tensors", () => {
  const [a, b] = [0, 1e-16].map((shift) => logisticProblem(n, 1, 6).initial.add(shift));
  expect(sameBits({ x: [a] }, { x: [logisticProblem(n, 1, 6).initial.add(0)] })).toBe(true);
  expect(sameBits({ x: [a] }, { x: [b] })).toBe(false);
  expect(sameBits({ x: [a] }, { x: [1] })).toBe(false);
});

test.each(forms)(
  "%s lowers the mean loss over all rows",
  (_name, changes) => {
    const problem = logisticProblem(n, 2, 6);
    const loss = (theta: Value): number => {
      const batches = [0, 1, 2, 3, 4, 5, 6, 7].flatMap((step) => [
        problem.batch(0, step),
        problem.batch(1, step),
      ]);
      return batches.reduce((s, batch) => s + problem.score(theta, batch).loss.item() / batches.length, 0);
    };
    const run = runSequential(trainingSetup(plan(2, { ...changes, rounds: 20 }), problem));
    expect(loss(run.hub["theta"] as Value)).toBeLessThan(0.75 * loss(problem.initial));
  },
  120_000,
);

test.each([1, 2, 4])(
  "%i replicas train like one device on the union of their batches",
  (workers) => {
    for (const update of [
      { name: "momentum", learningRate: 0.1 },
      { name: "adam", learningRate: 0.02 },
    ] as const) {
      const run = plan(workers, {
        update,
        rounds: 40,
        localSteps: 5,
        curvature: { k: 3, order: 12, period: 8, warmup: 1 },
      });
      const problem = logisticProblem(n, workers, 24);
      const theta = thetaOf(runSequential(trainingSetup(run, problem)));
      const difference = maxDifference(theta, list(singleDevice(run, problem).theta));
      expect(difference).toBeLessThan(1e-11);
      if (workers === 1) expect(difference).toBe(0);
    }
  },
  120_000,
);

test("any number of workers on the same rows gives the same training", () => {
  // 12 rows at every step, dealt to 1, 2, 3, 4, 6 or 12 workers: row by row the same data.
  const thetas = [1, 2, 3, 4, 6, 12].map((workers) => {
    const run = plan(workers, { rounds: 20, curvature: { k: 2, order: 12, period: 5 } });
    const { loss: _none, ...pool } = logisticProblem(n, 12, 1);
    const problem: Problem<Rows[]> = {
      ...pool,
      // Each worker's share of the same 12 one-row batches.
      score(theta, batches) {
        const losses = batches.map((batch) => pool.score(theta, batch).loss);
        return { loss: div(losses.reduce(add), losses.length), sums: [] };
      },
      batch: (rank, step) => shares(workers, rank).map((row) => pool.batch(row, step)),
      curvatureBatch: (rank, round) => shares(workers, rank).map((row) => pool.curvatureBatch(row, round)),
    };
    return thetaOf(runSequential(trainingSetup(run, problem)));
  });
  for (const theta of thetas.slice(1)) expect(maxDifference(theta, thetas[0]!)).toBeLessThan(1e-10);
}, 120_000);

function shares(workers: number, rank: number): number[] {
  return Array.from({ length: 12 / workers }, (_, i) => rank * (12 / workers) + i);
}

test.each(forms.slice(0, 6))(
  "%s: after every round all replicas have the same bits, and the hub has them too",
  (name, changes) => {
    for (let rounds = 1; rounds <= 5; rounds++) {
      const run = runSequential(trainingSetup(plan(4, { ...changes, rounds }), logisticProblem(n, 4, 6)));
      for (const own of run.workers) {
        expect(Object.keys(own)).toContain("theta");
        const { optimizer, ...replicated } = own;
        const { optimizer: first, ...expected } = run.workers[0]!;
        expect(sameTreeBits(replicated, expected)).toBe(true);
        // Rows of V are not the same anywhere.
        if (!name.endsWith("rows")) expect(sameTreeBits(optimizer, first)).toBe(true);
        expect(sameTreeBits(own["theta"], run.hub["theta"])).toBe(true);
      }
    }
  },
  120_000,
);

test("a run can stop after any round and go on: rounds do not depend on how many there are", () => {
  for (const [, changes] of forms) {
    const long = plan(2, { ...changes, rounds: 4 });
    const problem = logisticProblem(n, 2, 6);
    const whole = runSequential(trainingSetup(long, problem));
    const half = runSequential(trainingSetup(plan(2, { ...changes, rounds: 2 }), problem));
    const setup = trainingSetup(long, problem);
    const script = setup.config.script;
    const rest = runSequential({
      ...setup,
      config: { ...setup.config, rounds: 2, script: (round) => script(round + 2) },
      initial: { hub: half.hub, worker: (rank) => half.workers[rank]! },
      jobs: {
        hub: shiftRounds(setup.jobs.hub, 2),
        worker: (rank) => shiftRounds(setup.jobs.worker(rank), 2),
      },
    });
    expect(sameBits(rest, whole)).toBe(true);
  }
});

function shiftRounds<J extends Readonly<Record<string, (ins: readonly unknown[], args: never) => unknown>>>(
  jobs: J,
  by: number,
): J {
  const shifted = Object.entries(jobs).map(([name, job]) => [
    name,
    (ins: readonly unknown[], args: { readonly round: number }) =>
      job(ins, { ...args, round: args.round + by } as never),
  ]);
  return Object.fromEntries(shifted) as J;
}

test("what is reported: the mean loss and the sums of every worker, the residuals of the curvature, the evaluation", async () => {
  const run = plan(2, {
    rounds: 2,
    localSteps: 2,
    curvature: { k: 2, order: 12, period: 2 },
    evaluateEvery: 1,
  });
  const problem = logisticProblem(n, 2, 24);
  const seen: Extract<Progress, { k: "progress" }>[] = [];
  const values = await runLocal({
    ...trainingSetup(run, problem),
    onProgress: (p) => p.k === "progress" && seen.push(p),
  });
  const phase = (name: string) => seen.filter((p) => p.phase === name);
  const first = problem.score(problem.initial, problem.batch(1, 0));
  expect(phase("gradient")[0]!.workers[1]).toEqual([first.loss.item(), first.sums[0]!.item()]);
  // Two eigenvalues, then their two residuals: whole space, so no residual is left.
  const [smaller, larger, ...residuals] = phase("vectors")[0]!.hub as [number, number, ...number[]];
  expect(smaller).toBeLessThan(larger);
  expect(Math.max(...residuals)).toBeLessThan(1e-12);
  expect(residuals).toHaveLength(2);
  expect(phase("evaluate").map((p) => p.hub)).toHaveLength(2);
  expect(phase("evaluate")[1]!.hub).toEqual(problem.evaluate!(values.hub["theta"] as Value) as number[]);
});

test("float32 parameters stay float32 everywhere, and train", () => {
  const problem = logisticProblem(n, 2, 24);
  const single: Problem<Rows> = {
    ...problem,
    initial: problem.initial.astype("float32"),
    batch: (rank, step) => asFloat32(problem.batch(rank, step)),
    curvatureBatch: (rank, round) => asFloat32(problem.curvatureBatch(rank, round)),
  };
  for (const [, changes] of forms) {
    const narrow = runSequential(trainingSetup(plan(2, changes), single));
    const wide = runSequential(trainingSetup(plan(2, changes), problem));
    expect((narrow.hub["theta"] as Value).dtype).toBe("float32");
    expect(maxDifference(thetaOf(narrow), thetaOf(wide))).toBeLessThan(2e-3);
  }
});

function asFloat32({ X, y }: Rows): Rows {
  return { X: X.astype("float32"), y: y.astype("float32") };
}

test("a loss that is not finite stops the run at its worker and step", async () => {
  const problem = quadraticProblem([[1], [1]], [[0], [0]], [1]);
  const broken: Problem<number> = {
    ...problem,
    score: (theta, rank) => {
      const { loss, sums } = problem.score(theta, rank);
      return { loss: rank === 1 ? loss.mul(Number.NaN) : loss, sums };
    },
  };
  for (const sync of [{ k: "gradient" }, { k: "consensus", sigma: 0, relative: false }] as const) {
    const run = planOf({
      workers: 2,
      parameters: 1,
      localSteps: 2,
      update: { name: "sgd", learningRate: 0.1 },
      sync,
    });
    const error = await runLocal(trainingSetup(run, broken)).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(RunError);
    const { message, rank, round } = error as RunError;
    expect(message).toContain("Cannot continue at step 0: the loss is NaN, a finite loss is needed");
    expect([rank, round]).toEqual([1, 0]);
  }
});
