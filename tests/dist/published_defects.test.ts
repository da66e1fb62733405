/** What the published DHO2 program does wrong or without saying so, one test for each: what this one does instead. */
import { expect, test } from "bun:test";
import type { Value } from "../../core/value.ts";
import { type Problem, trainingSetup } from "../../dist/jobs.ts";
import { columnsOf, makePlan, type Plan, type PlanInput } from "../../dist/plan.ts";
import { slots } from "../../dist/protocol/script.ts";
import { runSequential } from "../../dist/runtime/sequential.ts";
import { roundScript } from "../../dist/script.ts";
import { f64, list, maxDifference, sameTreeBits } from "../optim/numbers.ts";
import { fosiStateOf, logisticProblem, planOf, quadraticProblem, thetaOf } from "./training_problems.ts";

function publishedPlan(changes: Partial<PlanInput>): Plan {
  return planOf({
    workers: 2,
    parameters: 6,
    rounds: 4,
    localSteps: 2,
    update: { name: "adam", learningRate: 0.05 },
    sync: { k: "published", period: 2 },
    curvature: { k: 2, order: 6, period: 2 },
    ...changes,
  });
}

test("padding: where workers divide the parameters nobody has a column too many, few parameters are enough for all", () => {
  for (const workers of [1, 2, 4, 8]) {
    for (const each of [1, 2, 5]) {
      const widths = Array.from({ length: workers }, (_, rank) => {
        const [start, end] = columnsOf({ parameters: workers * each, workers }, rank);
        return end - start;
      });
      expect(widths).toEqual(Array<number>(workers).fill(each));
    }
  }
  // n + pad < P pad with the published padding.
  const setup = trainingSetup(
    publishedPlan({ workers: 8, parameters: 8, curvature: { k: 2, order: 8 } }),
    logisticProblem(8, 8, 6),
  );
  const one = trainingSetup(
    publishedPlan({ workers: 1, parameters: 8, curvature: { k: 2, order: 8 } }),
    logisticProblem(8, 1, 48),
  );
  expect(maxDifference(thetaOf(runSequential(setup)), thetaOf(runSequential(one)))).toBeLessThan(1e-9);
});

test("products: curvature is of all workers' batches by default, of worker 0's only if the plan says so", () => {
  // The largest curvature of the mean is along another axis than worker 0's.
  const curvatures = [
    [9, 1, 1],
    [1, 5, 1],
    [1, 30, 1],
  ];
  const zero = [0, 0, 0];
  const problem = quadraticProblem(curvatures, [zero, zero, zero], [1, 1, 1]);
  const vectors = (reduce?: "rank0"): number[] => {
    const run = publishedPlan({
      workers: 3,
      parameters: 3,
      rounds: 1,
      curvature: { k: 1, order: 3, ...(reduce && { reduce }) },
    });
    return list(fosiStateOf(runSequential(trainingSetup(run, problem)), 1).vectors).map(Math.abs);
  };
  expect(maxDifference(vectors(), [0, 1, 0])).toBeLessThan(1e-12);
  expect(maxDifference(vectors("rank0"), [1, 0, 0])).toBeLessThan(1e-12);
});

test("evaluation: it changes nothing in the training, and there is one for the whole run, not one per worker", () => {
  const problem = logisticProblem(6, 3, 6);
  const seen: number[][] = [];
  const watched: Problem<never> = {
    ...(problem as Problem<never>),
    evaluate(theta) {
      seen.push(list(theta));
      return [];
    },
  };
  const [often, rarely] = [1, 0].map((evaluateEvery) =>
    runSequential(trainingSetup(publishedPlan({ workers: 3, evaluateEvery }), watched)),
  );
  expect(sameTreeBits(often!.workers, rarely!.workers)).toBe(true);
  expect(seen).toHaveLength(4 + 1);
  expect(seen[3]).toEqual(thetaOf(often!));
});

test("warm-up: a plan can leave out curvature at random initial parameters", () => {
  const plan = publishedPlan({ curvature: { k: 2, order: 6, period: 2, warmup: 1 } });
  const searches = [0, 1, 2, 3].filter((round) =>
    slots(roundScript(plan, round)).some(({ phase }) => phase.name === "ritz"),
  );
  expect(searches).toEqual([1, 3]);
  const [first, second] = [1, 2].map((rounds) =>
    fosiStateOf(runSequential(trainingSetup({ ...plan, rounds }, logisticProblem(6, 2, 6))), 0),
  );
  expect(list(first!.rates)).toEqual([0, 0]);
  expect(list(second!.rates).every((rate) => rate > 0)).toBe(true);
});

test("rates: 1 / (|lambda| + sigma) is finite where lambda + sigma is zero", () => {
  const h = [-0.5, 0.1, 3];
  const zero = [0, 0, 0];
  const problem = quadraticProblem([h, h], [zero, zero], [1e-3, 1, 1]);
  const run = publishedPlan({
    parameters: 3,
    rounds: 1,
    sync: { k: "published", sigma: 0.5 },
    curvature: { k: 1, l: 1, order: 3 },
  });
  const { values, rates } = fosiStateOf(runSequential(trainingSetup(run, problem)), 0);
  expect(maxDifference(list(values), [-0.5, 3])).toBeLessThan(1e-12);
  expect(maxDifference(list(rates), [1, 1 / 3.5])).toBeLessThan(1e-12);
});

test("sigma: damping and the factors of the extrapolation are plan fields of their own", () => {
  const problem = logisticProblem(6, 2, 6);
  const run = (sync: PlanInput["sync"], damping: number) =>
    runSequential(trainingSetup(publishedPlan({ sync, curvature: { k: 2, order: 6, damping } }), problem));
  const published = run({ k: "published", period: 2, sigma: 1e-300 }, 0.3);
  const momentum = run({ k: "momentum", period: 2, mu: 1, gamma: 1 }, 0.3);
  expect(sameTreeBits(momentum.workers, published.workers)).toBe(true);
  const { values, rates } = fosiStateOf(momentum, 0);
  const damped = list(values).map((value) => 1 / (Math.abs(value) + 0.3));
  expect(maxDifference(list(rates), damped)).toBeLessThan(1e-12);
});

test("large sigma: without the penalty's gradient the published rule diverges from sigma = h / 2 on, consensus does not", () => {
  // Each round solves f + pi x exactly: (e, p) -> ((1 - 2 s) p - e, (1 - s) p - e) with s = sigma / h.
  const h = 2;
  const problem = quadraticProblem([[h]], [[0]], [1]);
  const last = (sync: PlanInput["sync"]): number => {
    const plan = makePlan({
      version: 1,
      workers: 1,
      parameters: 1,
      rounds: 60,
      localSteps: 1,
      seed: 0,
      update: { name: "sgd", learningRate: 1 / h },
      sync,
    });
    return Math.abs(thetaOf(runSequential(trainingSetup(plan, problem)))[0]!);
  };
  const radius = (s: number): number => (s + Math.sqrt(s * s + 4 * s)) / 2;
  expect(radius(0.4)).toBeLessThan(1);
  expect(last({ k: "published", period: 1, sigma: 0.4 * h })).toBeLessThan(0.01);
  expect(radius(0.6)).toBeGreaterThan(1);
  expect(last({ k: "published", period: 1, sigma: 0.6 * h })).toBeGreaterThan(100);
  expect(last({ k: "consensus", relative: false, sigma: 0.6 * h })).toBeLessThan(1e-12);
});

test("smallest pairs: l > 0 finds them, over any number of workers", () => {
  const h = [0.5, 1, 2, 3, 5, 8, 13];
  const zero = Array<number>(7).fill(0);
  for (const workers of [1, 3, 9]) {
    const all = Array.from({ length: workers }, () => h);
    const problem = quadraticProblem(
      all,
      all.map(() => zero),
      h,
    );
    const run = publishedPlan({ workers, parameters: 7, rounds: 1, curvature: { k: 2, l: 2, order: 7 } });
    const { values } = fosiStateOf(runSequential(trainingSetup(run, problem)), workers - 1);
    expect(maxDifference(list(values), [0.5, 1, 8, 13])).toBeLessThan(1e-11);
  }
});

test("the jump: velocity and the state of the base stay as the steps left them", () => {
  const problem = logisticProblem(6, 2, 6);
  const [jumped, stayed] = ([{ k: "published", period: 2, sigma: 1e-300 }, { k: "gradient" }] as const).map(
    (sync) => runSequential(trainingSetup(publishedPlan({ rounds: 2, sync }), problem)),
  );
  expect(sameTreeBits(fosiStateOf(jumped!, 1), fosiStateOf(stayed!, 1))).toBe(true);
  const { theta, push } = jumped!.workers[1] as { theta: Value; push: Value };
  expect(list(theta)).toEqual(list(f64(thetaOf(stayed!)).add(push)));
});
