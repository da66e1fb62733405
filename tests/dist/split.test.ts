/**
 * The split schedule: curvature of workers of its own is that of one device, as old as the plan says, whatever the workers
 * and the runtime, and a group that dies leaves a method that goes on with what it has.
 */
import { expect, test } from "bun:test";
import { jit } from "../../autodiff/jit.ts";
import { hessianOperator } from "../../autodiff/operator.ts";
import { valueAndGrad } from "../../autodiff/vjp.ts";
import { add, div } from "../../core/ops.ts";
import * as random from "../../core/random.ts";
import type { Value } from "../../core/value.ts";
import type { Curvature } from "../../dist/jobs/curvature.ts";
import { baseOf, type Problem, trainingSetup } from "../../dist/jobs.ts";
import {
  adoptsAt,
  curvatureDueAt,
  type Layout,
  makePlan,
  type Plan,
  type SplitPlan,
} from "../../dist/plan.ts";
import { planCost, showPlan } from "../../dist/plan_cost.ts";
import { slots } from "../../dist/protocol/script.ts";
import { type Job, memoryStore } from "../../dist/runtime/driver.ts";
import { runLocal } from "../../dist/runtime/local.ts";
import { runSequential } from "../../dist/runtime/sequential.ts";
import { sameBits } from "../../dist/sim.ts";
import {
  curvatureGroup,
  directSource,
  groupConfig,
  groupWorkerJobs,
  type Snapshot,
} from "../../dist/split.ts";
import { type FosiState, fosi } from "../../optim/fosi.ts";
import { lanczos } from "../../optim/lanczos.ts";
import { list, maxDifference, sameTreeBits } from "../optim/numbers.ts";
import {
  fosiStateOf,
  logisticProblem,
  planOf,
  type Rows,
  thetaOf,
  withKeptBatches,
} from "./training_problems.ts";

const N = 11;
const PERIOD = 4;

function splitPlan(
  split: Partial<SplitPlan>,
  changes: { readonly layout?: Layout; readonly workers?: number; readonly rounds?: number } = {},
): Plan {
  const { layout = "replicated", workers = 2, rounds = 14 } = changes;
  return planOf({
    workers,
    parameters: N,
    rounds,
    localSteps: 3,
    update: { name: "momentum", learningRate: 0.05 },
    sync: { k: "gradient" },
    curvature: { k: 2, order: 8, period: PERIOD, warmup: 2, momentum: "heavyBall", clip: 3, layout, split },
  });
}

/** The same rows at every step, whoever has them; curvature always on all of them. */
function dealt(workers: number): Problem<Rows> {
  const problem = withKeptBatches(logisticProblem(N, workers, 24 / workers));
  const whole = logisticProblem(N, 1, 24).batch(0, 0);
  return { ...problem, curvatureBatch: () => whole };
}

/** FOSI in one place that applies each curvature `delay` rounds after the parameters it was measured at. */
function delayed(plan: Plan, problem: Problem<Rows>): Value {
  const { k, l, order, alpha, beta, momentum, clip, damping, trust, split } = plan.curvature!;
  const method = fosi(baseOf(plan.update), {
    k,
    l,
    alpha,
    beta,
    momentum,
    clip,
    damping,
    trust: trust!,
    order: order!,
  });
  const ranks = Array.from({ length: plan.workers }, (_, rank) => rank);
  const objective = jit((theta: Value, batch: Rows) => problem.score(theta, batch).loss);
  let theta = problem.initial;
  let state: FosiState<unknown> = method.init(theta);
  const snapshots = new Map<number, Value>();
  for (let round = 0; round < plan.rounds; round++) {
    if (curvatureDueAt(plan, round)) snapshots.set(round, theta);
    const at = snapshots.get(round - split!.delay);
    if (at) {
      const H = hessianOperator(objective, at, problem.curvatureBatch(0, 0));
      const key = random.foldIn(random.key(plan.seed), round - split!.delay);
      state = method.refreshCurvature(state, H, key);
    }
    for (let i = 0; i < plan.localSteps; i++) {
      const step = round * plan.localSteps + i;
      const mean = (x: Value): Value =>
        div(ranks.map((rank) => problem.score(x, problem.batch(rank, step)).loss).reduce(add), plan.workers);
      const [updates, next] = method.step(valueAndGrad(mean)(theta)[1], state, theta);
      [theta, state] = [add(theta, updates), next];
    }
  }
  return theta;
}

test.each([0, 1, 3, PERIOD])(
  "with a delay of %i rounds a run is one device that applies curvature late",
  (delay) => {
    const expected = list(delayed(splitPlan({ delay }), dealt(2)));
    for (const layout of ["replicated", "rows", "columns"] as const) {
      for (const workers of [1, 3]) {
        const run = runSequential(trainingSetup(splitPlan({ delay, workers }, { layout }), dealt(2)));
        expect(maxDifference(thetaOf(run), expected)).toBeLessThan(1e-12);
      }
    }
  },
);

test("no delay and one curvature worker: the bits of the plan without a split", () => {
  const split = splitPlan({ delay: 0, workers: 2 });
  const { split: _split, ...curvature } = split.curvature!;
  const plain = makePlan({ ...split, curvature });
  const [a, b] = [split, plain].map((plan) => runSequential(trainingSetup(plan, dealt(2))));
  expect(sameTreeBits(a!.hub["theta"], b!.hub["theta"])).toBe(true);
});

test("one curvature worker alone has the bits of a search on one device, and sends nothing of it but the pairs", () => {
  const [plan, problem] = [splitPlan({ workers: 1 }), dealt(2)];
  const theta = problem.initial;
  const source = directSource(plan, problem);
  source.submit({ version: 6, theta });
  const { values, residuals, vectors, largest } = source.get(6) as Curvature;
  const operator = hessianOperator(
    (x: Value, rows: Rows) => problem.score(x, rows).loss,
    theta,
    problem.curvatureBatch(0, 6),
  );
  const key = random.foldIn(random.key(plan.seed), 6);
  const expected = lanczos(operator, { k: 2, order: 8, key });
  expect(
    sameTreeBits([values, residuals, vectors], [expected.values, expected.residuals, expected.vectors]),
  ).toBe(true);
  expect(largest.item()).toBe(expected.largest);
  const moved = slots(groupConfig(plan).script(0)).map(({ phase: { name, send = [], reply = [] } }) => [
    name,
    ...send,
    ...reply,
  ]);
  expect(moved).toEqual([
    ["take"],
    ["open", "theta", "version"],
    ["product"],
    ["vectors", "curvature"],
    ["deliver"],
  ]);
});

test("curvature in use is never older than delay and period together", () => {
  for (const delay of [0, 2, PERIOD]) {
    const plan = splitPlan({ delay }, { rounds: 40 });
    const ages: number[] = [];
    let adopted: number | null = null;
    for (let round = 0; round < plan.rounds; round++) {
      if (adoptsAt(plan, round)) adopted = round - delay;
      if (adopted !== null) ages.push(round - adopted);
    }
    expect(Math.min(...ages)).toBe(delay);
    expect(Math.max(...ages)).toBe(delay + PERIOD - 1);
  }
});

/** Training and group at the same time in this process. */
async function beside(plan: Plan, problem: Problem<Rows>) {
  const group = curvatureGroup(plan, problem);
  const other = runLocal(group.setup).catch((error: unknown) => group.fail(error));
  const result = await runLocal(trainingSetup(plan, problem, group.source));
  group.close();
  await other;
  return result;
}

test.each(["replicated", "rows", "columns"] as const)(
  "a group that runs beside the training gives the same bits: %s",
  async (layout) => {
    const plan = splitPlan({ delay: 2, workers: 3 }, { layout });
    const expected = runSequential(trainingSetup(plan, dealt(2)));
    const result = await beside(plan, dealt(2));
    expect(sameTreeBits(result.hub["theta"], expected.hub["theta"])).toBe(true);
    result.workers.forEach((worker, rank) => {
      expect(sameBits(worker, expected.workers[rank])).toBe(true);
    });
  },
);

test("a run that is stopped and resumed with a new group ends with the same bits", async () => {
  const problem = dealt(2);
  const plan = splitPlan({ delay: 3, workers: 2 });
  const expected = runSequential(trainingSetup(plan, problem));
  for (const stopAfter of [2, 3, 5, 9]) {
    const store = memoryStore();
    const controller = new AbortController();
    const first = await runLocal({
      ...trainingSetup(plan, problem),
      store,
      signal: controller.signal,
      onProgress: (progress) => {
        if (progress.k === "completed" && progress.round + 1 >= stopAfter) controller.abort();
      },
    });
    expect(first.reason).toBe("stopped");
    const group = curvatureGroup(plan, problem);
    const other = runLocal(group.setup).catch((error: unknown) => group.fail(error));
    const result = await runLocal({ ...trainingSetup(plan, problem, group.source), store });
    group.close();
    await other;
    expect(sameTreeBits(result.hub["theta"], expected.hub["theta"])).toBe(true);
  }
});

test("keep-old: late curvature is adopted when it is there, and one that never comes is never waited for", async () => {
  const problem = dealt(2);
  const plan = splitPlan({ late: "keep-old", delay: 1 });
  const never = runSequential(
    trainingSetup(plan, problem, { submit() {}, get: () => null as never, newest: () => null }),
  );
  expect(list(fosiStateOf(never, 0).rates)).toEqual([0, 0]);

  // The first is there after two rounds, the second after more than a period: until then the first stays.
  const latency = (version: number): number => (version === 2 ? 2 : 6);
  const asked: number[] = [];
  const source = directSource(plan, problem, latency);
  const noting = {
    ...source,
    submit(snapshot: Snapshot) {
      asked.push(snapshot.version);
      source.submit(snapshot);
    },
  };
  const run = runSequential(trainingSetup(plan, problem, noting));
  expect([...new Set(asked)]).toEqual([2, 6, 10]);
  expect((run.hub["adopted"] as Value).item()).toBe(6);
  const early = runSequential(
    trainingSetup(
      splitPlan({ late: "keep-old", delay: 1 }, { rounds: 12 }),
      problem,
      directSource(plan, problem, latency),
    ),
  );
  expect((early.hub["adopted"] as Value).item()).toBe(2);
});

test("a group that has died: keep-old goes on with the curvature that it has, wait says why it cannot", async () => {
  const problem = dealt(2);
  const run = async (plan: Plan) => {
    const group = curvatureGroup(plan, problem);
    let [made, reason]: [number, unknown] = [0, null];
    const broken = (rank: number) => {
      const jobs = groupWorkerJobs(plan, problem, rank);
      return {
        ...jobs,
        open: (...args: Parameters<(typeof jobs)[string]>) => {
          if (made++ > 1) throw new Error("the device is gone");
          return jobs["open"]!(...args);
        },
      };
    };
    const other = runLocal({ ...group.setup, jobs: { ...group.setup.jobs, worker: broken } }).catch(
      (error: unknown) => {
        reason = error;
        group.fail(error);
      },
    );
    const result = await runLocal(trainingSetup(plan, problem, group.source)).catch(
      (error: unknown) => error,
    );
    group.close();
    await other;
    return { result, reason };
  };
  const kept = await run(splitPlan({ late: "keep-old", workers: 2, delay: 0 }, { rounds: 30 }));
  expect(String(kept.reason)).toContain("the device is gone");
  expect(kept.result).toMatchObject({ reason: "finished", round: 30 });
  const waited = await run(splitPlan({ late: "wait", workers: 2, delay: 1 }));
  expect(String(waited.result)).toMatch(/Cannot give more curvature: its workers .* \(.*the device is gone/);
});

test.each([
  [1, "isEnded"],
  [3, "product"],
] as const)(
  "a group of %i that is closed while it searches ends there, and does not finish the search",
  async (workers, fn) => {
    const plan = splitPlan({ late: "keep-old", delay: 1, workers });
    const problem = dealt(2);
    const group = curvatureGroup(plan, problem);
    const { hub } = group.setup.jobs;
    let products = 0;
    const product: Job = (ins, args) => {
      products++;
      if (products === 2) group.close();
      return hub[fn]!(ins, args);
    };
    group.source.submit({ version: 2, theta: problem.initial });
    const jobs = { ...group.setup.jobs, hub: { ...hub, [fn]: product } };
    const ending = await runLocal({ ...group.setup, jobs }).catch((error: unknown) => error);
    expect(String(ending)).toContain("the training is over");
    expect(products).toBe(2);
  },
);

test("a plan says who computes the curvature, what it costs them, and refuses a delay beyond the period", () => {
  const plan = splitPlan({ workers: 3, delay: 2 });
  const cost = planCost(plan, { dtype: "float64" });
  // ceil(11 / 3) columns of 8 vectors.
  expect(cost.group.map(({ basis }) => basis)).toEqual([256, 256, 192]);
  expect(cost.memory[0]!.basis).toBe(0);
  expect(cost.phases.find(({ name }) => name === "install")).toMatchObject({ rounds: 3, questions: 1 });
  expect(showPlan(plan)).toContain("by 3 curvature workers beside the training, adopted 2 rounds later");
  expect(() => splitPlan({ delay: PERIOD + 1 })).toThrow(
    /curvature.split.delay: delay is 5, at most the period of 4 rounds/,
  );
});
