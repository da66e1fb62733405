/** Lanczos over workers against Lanczos in one place: the same products, the basis cut by columns. */

import { expect, test } from "bun:test";
import { hessianOperator } from "../../autodiff/operator.ts";
import { add, div } from "../../core/ops.ts";
import * as random from "../../core/random.ts";
import type { Value } from "../../core/value.ts";
import { searchHubJobs } from "../../dist/jobs/curvature.ts";
import { type Problem, trainingSetup } from "../../dist/jobs.ts";
import { columnsOf, type Plan, type PlanInput } from "../../dist/plan.ts";
import type { Job, JobResult } from "../../dist/runtime/driver.ts";
import { RunError, runLocal } from "../../dist/runtime/local.ts";
import { runSequential } from "../../dist/runtime/sequential.ts";
import { sameBits } from "../../dist/sim.ts";
import { lanczos, type Spectrum } from "../../optim/lanczos.ts";
import { f64, linspace, list, maxDifference, projector, rowsOf, type Vector } from "../optim/numbers.ts";
import { fosiStateOf, logisticProblem, planOf, quadraticProblem, type Rows } from "./training_problems.ts";

type Curvature = NonNullable<PlanInput["curvature"]>;

/** One round with a refresh and a step too small to matter. */
function curvaturePlan(workers: number, parameters: number, curvature: Curvature): Plan {
  return planOf({
    workers,
    parameters,
    seed: 9,
    update: { name: "sgd", learningRate: 1e-3 },
    sync: { k: "gradient" },
    curvature,
  });
}

/** The mean of the workers' losses on their curvature batches of round 0. */
function meanLoss<B>(problem: Problem<B>, workers: number): (theta: Value) => Value {
  return (theta) => {
    const losses = Array.from(
      { length: workers },
      (_, rank) => problem.score(theta, problem.curvatureBatch(rank, 0)).loss,
    );
    return div(losses.reduce(add), workers);
  };
}

/** The spectrum that the run's start vector gives in one place. */
function reference(loss: (theta: Value) => Value, { initial }: Problem<never>, options: Curvature): Spectrum {
  const { k = 8, l = 0, order } = options;
  const key = random.foldIn(random.key(9), 0);
  return lanczos(hessianOperator(loss, initial), { k, l, key, ...(order && { order }) });
}

const sizes: readonly (readonly [workers: number, parameters: number])[] = [1, 2, 3, 4, 8, 16].flatMap(
  (workers) => [5, 8, 16, 23].map((parameters) => [workers, parameters] as const),
);

test.each(sizes)("%i workers and %i parameters: the eigenpairs of one place", (workers, parameters) => {
  const options = { k: 3, l: 1, order: Math.min(parameters, 16) };
  const problem = logisticProblem(parameters, workers, 24);
  const plan = curvaturePlan(workers, parameters, options);
  const run = runSequential(trainingSetup(plan, problem));
  const { values, vectors } = reference(meanLoss(problem, workers), problem as Problem<never>, options);
  for (let rank = 0; rank < workers; rank++) {
    const state = fosiStateOf(run, rank);
    expect(maxDifference(list(state.values), list(values))).toBeLessThan(1e-10 * list(values).at(-1)!);
    expect(maxDifference(projector(rowsOf(state.vectors)), projector(rowsOf(vectors)))).toBeLessThan(1e-8);
    // One worker has whole columns: nothing is added in another order.
    if (workers === 1) expect(sameBits([state.values, state.vectors], [values, vectors])).toBe(true);
  }
});

test("worker 0's Hessian alone, as in the published program, is another spectrum", () => {
  const options = { k: 3, order: 12, reduce: "rank0" } as const;
  const problem = logisticProblem(13, 3, 24);
  const run = runSequential(trainingSetup(curvaturePlan(3, 13, options), problem));
  const own = (theta: Value): Value => problem.score(theta, problem.curvatureBatch(0, 0)).loss;
  const found = list(fosiStateOf(run, 2).values);
  expect(maxDifference(found, list(reference(own, problem as Problem<never>, options).values))).toBeLessThan(
    1e-10,
  );
  const mean = list(reference(meanLoss(problem, 3), problem as Problem<never>, options).values);
  expect(maxDifference(found, mean)).toBeGreaterThan(1e-3);
});

test("a worker never holds more of the basis than its columns", () => {
  const [workers, parameters, order] = [3, 10, 8];
  const plan = curvaturePlan(workers, parameters, { k: 2, order });
  const setup = trainingSetup(plan, logisticProblem(parameters, workers, 24));
  const most: number[] = [];
  const worker = (rank: number): Record<string, Job> => {
    const jobs = setup.jobs.worker(rank);
    const product: Job = (ins, args) => {
      const result = jobs["product"]!(ins, args) as { outs: readonly unknown[] };
      const basis = result.outs[1] as readonly Float64Array[];
      most[rank] = basis.reduce((floats, q) => floats + q.buffer.byteLength / 8, 0);
      return result;
    };
    return { ...jobs, product };
  };
  const run = runSequential({ ...setup, jobs: { ...setup.jobs, worker } });
  const widths = [0, 1, 2].map((rank) => columnsOf(plan, rank)[1] - columnsOf(plan, rank)[0]);
  expect(widths).toEqual([4, 4, 2]);
  expect(most).toEqual(widths.map((width) => width * order));
  // After the round neither basis nor operator is left.
  expect(Object.keys(run.workers[0]!).sort()).toEqual(["optimizer", "theta"]);
});

/** Three distinct eigenvalues, the same at every worker up to a shift that the mean removes. */
function fewEigenvalues(workers: number, parameters: number): Problem<number> {
  const of = (rank: number): Vector =>
    linspace(0, parameters - 1, parameters).map((j) => [1, 2, 3][j % 3]! + 0.25 * (rank - (workers - 1) / 2));
  const ranks = Array.from({ length: workers }, (_, rank) => rank);
  const zero = Array<number>(parameters).fill(0);
  return quadraticProblem(
    ranks.map(of),
    ranks.map(() => zero),
    zero,
  );
}

test.each([1, 2, 4])(
  "breakdown on %i workers: three pairs, no ghosts, the rest of the rows empty",
  async (workers) => {
    const plan = curvaturePlan(workers, 9, { k: 5, order: 9 });
    const setup = trainingSetup(plan, fewEigenvalues(workers, 9));
    const run = runSequential(setup);
    const state = fosiStateOf(run, workers - 1);
    expect(maxDifference(list(state.values), [0, 0, 1, 2, 3])).toBeLessThan(1e-12);
    expect(list(state.vectors).every(Number.isFinite)).toBe(true);
    expect(maxDifference(list(state.rates), [0, 0, 1, 1 / 2, 1 / 3])).toBeLessThan(1e-12);
    // The loop ends early by a note of the hub: every peer agrees on it.
    const { hub, workers: own } = await runLocal(setup);
    expect(sameBits({ hub, workers: own }, run)).toBe(true);
  },
);

test("a space that is found complete while workers make a product: the loop ends, with the rows before it", () => {
  const search = {
    workers: 2,
    parameters: 4,
    k: 2,
    l: 0,
    order: 4,
    reduce: "mean",
    seed: 1,
    dtype: "float64",
  } as const;
  const jobs = searchHubJobs(search);
  const args = { round: 0, phase: "", iteration: 0, rank: null, workers: 2, notes: [], numbers: [] };
  const run = (fn: string, ...ins: readonly unknown[]): JobResult => jobs[fn]!(ins, args) as JobResult;
  const [, beginning] = run("start").outs;
  const halves = (a: number, b: number): readonly Value[] => [f64([a]), f64([b])];
  const first = run("place", beginning, ...halves(0.5, 0.5)).outs[0];
  // H e0 = 3 e0 + e1, of which each worker has the same.
  const products = [f64([3, 1, 0, 0]), f64([3, 1, 0, 0])];
  const second = run("product", first, ...products, f64([1, 0]), f64([0, 0]));
  expect(second.notes).toEqual([0]);
  expect(list(second.outs[1] as Value)).toEqual([0, 1, 0, 0]);
  // The candidate is e0 for all that matters.
  const [placed, numbers] = run("place", second.outs[0], f64([1, 1]), f64([0, 1e-6])).outs;
  expect(list(numbers as Value).every(Number.isFinite)).toBe(true);
  const third = run("product", placed, ...products, f64([0, 1]), f64([0, 0]));
  expect(third.notes).toEqual([1]);
  const [rows, pairs] = run("ritz", third.outs[0]).outs as [Value, { readonly values: Value }];
  expect([list(rows), list(pairs.values)]).toEqual([[1], [3]]);
});

test("more workers than parameters: empty shards take part", () => {
  const plan = curvaturePlan(8, 3, { k: 2, order: 3 });
  expect(columnsOf(plan, 7)).toEqual([3, 3]);
  const run = runSequential(trainingSetup(plan, fewEigenvalues(8, 3)));
  for (let rank = 0; rank < 8; rank++)
    expect(maxDifference(list(fosiStateOf(run, rank).values), [2, 3])).toBeLessThan(1e-12);
});

test("a Hessian that is not finite fails the run with a reason", async () => {
  const plan = curvaturePlan(2, 5, { k: 1, order: 3 });
  const problem = logisticProblem(5, 2, 8);
  const broken: Problem<Rows> = {
    ...problem,
    curvatureBatch: (rank, round) => {
      const { X, y } = problem.curvatureBatch(rank, round);
      return { X: rank === 1 ? X.mul(Number.NaN) : X, y };
    },
  };
  const error = await runLocal(trainingSetup(plan, broken)).catch((e: unknown) => e);
  expect(error).toBeInstanceOf(RunError);
  const { message, rank } = error as RunError;
  expect(message).toMatch(/Cannot continue Lanczos at step 0: a Hessian-vector product is not finite/);
  // The mean is taken at the hub: no worker is to blame alone.
  expect(rank).toBeNull();
});
