/** What a comparison computes and says: budgets, targets, medians with missing values, speedups by seed. */
import { expect, test } from "bun:test";
import { methods } from "../../cli/compare/methods.ts";
import { compareRuns, isOf, type RunRecord, spread, taskResult } from "../../cli/compare/results.ts";
import { type Budget, runOnce } from "../../cli/compare/run.ts";
import type { Problem, Target } from "../../cli/compare/task.ts";
import { full, tensor } from "../../core/create.ts";
import { mul, sum } from "../../core/ops.ts";
import { record } from "./compare_records.ts";

/** f(x) = (x_1^2 + 9 x_2^2) / 2 from (1, 1). */
function parabola(target: Target, initial: readonly number[] = [1, 1]): Problem {
  const weights = tensor([0.5, 4.5], { dtype: "float64" });
  const none = { x: full([1], 0), y: full([1], 0) };
  const loss: Problem["loss"] = (x) => sum(mul(weights, mul(x as never, x as never)));
  return {
    name: "parabola",
    target,
    initial: tensor([...initial], { dtype: "float64" }),
    batchSize: 1,
    stepsPerEpoch: 1,
    loss,
    model: null,
    batch: () => none,
    curvatureBatch: () => none,
    evaluate: (params) => ({ loss: loss(params, none).item(), accuracy: null }),
  };
}

const run = (problem: Problem, name: string, learningRate: number, budget: Budget, stopsAtTarget = false) => {
  const method = methods[name]!;
  const stepper = method.make({ problem, learningRate, settings: method.settings, seed: 0 });
  return runOnce(problem, stepper, { budget, evaluations: budget.amount, stopsAtTarget });
};

test("a budget of steps gives as many steps, each evaluated, with the losses of plain gradient descent", () => {
  const { points, ended } = run(parabola({ metric: "loss", value: 0 }), "sgd", 0.1, {
    unit: "steps",
    amount: 4,
  });
  expect(ended).toBe("budget");
  expect(points.map(({ step }) => step)).toEqual([0, 1, 2, 3, 4]);
  points.forEach(({ loss }, i) => {
    // x_1 shrinks by 0.9 in a step, x_2 by 0.1
    expect(loss).toBeCloseTo((0.9 ** (2 * i) + 9 * 0.1 ** (2 * i)) / 2, 12);
  });
  expect(points[1]!.trainLoss).toBeCloseTo(5, 12);
  expect(points[0]!.trainLoss).toBeNull();
});

test("the target is reached at the first evaluation that is as good, and may end the run", () => {
  const problem = parabola({ metric: "loss", value: 0.45 });
  const whole = run(problem, "sgd", 0.1, { unit: "steps", amount: 6 });
  expect(whole.reached).toBe(1);
  expect(whole.points.length).toBe(7);
  const short = run(problem, "sgd", 0.1, { unit: "steps", amount: 6 }, true);
  expect([short.ended, short.points.length]).toEqual(["target", 2]);
});

test("a run whose loss grows without end is diverged, not good", () => {
  const { ended, reached } = run(parabola({ metric: "loss", value: 1 }), "sgd", 1000, {
    unit: "steps",
    amount: 400,
  });
  expect([ended, reached]).toEqual(["diverged", null]);
});

test("products with the Hessian count in the budget of gradients", () => {
  const problem = parabola({ metric: "loss", value: 0 });
  const method = methods["fosi-sgd"]!;
  const settings = { ...method.settings, k: 1, period: 3 };
  const stepper = method.make({ problem, learningRate: 0.1, settings, seed: 0 });
  const { points } = runOnce(problem, stepper, {
    budget: { unit: "steps", amount: 4 },
    evaluations: 4,
    stopsAtTarget: false,
  });
  // The first curvature is due before update 3: it is linearized, and two products.
  expect(points.map(({ gradients }) => gradients)).toEqual([0, 1, 2, 6, 7]);
});

test("medians put what is missing last", () => {
  expect(spread([3, 1, null])).toEqual({ median: 3, least: 1, most: 3, values: [3, 1, null] });
  expect(spread([3, null, null]).median).toBeNull();
  expect(spread([4, 1, 2, 3]).median).toBe(2.5);
  expect(spread([1, null]).median).toBeNull();
  expect(spread([])).toEqual({ median: null, least: null, most: null, values: [] });
});

test("of two rates the one that reaches the target sooner is better, then the one with the smaller loss", () => {
  const better = (a: RunRecord, b: RunRecord): boolean => compareRuns(a, b, "seconds") < 0;
  expect(better(record({}, 3), record({}, 5))).toBe(true);
  expect(better(record({}, 8), record({}, null, { loss: 0.01 }))).toBe(true);
  expect(better(record({}, null, { loss: 1.5 }), record({}, null, { loss: 1.7 }))).toBe(true);
  expect(better(record({}, null, { loss: Number.NaN }), record({}, null, { loss: 2 }))).toBe(false);
});

test("a method is compared with its base seed by seed, and what a base never reached gives no ratio", () => {
  const records = [
    record({ optimizer: "adam", seed: 0 }, 6),
    record({ optimizer: "adam", seed: 1 }, 8),
    record({ optimizer: "adam", seed: 2 }, null),
    record({ optimizer: "fosi-adam:k=4", seed: 0 }, 3),
    record({ optimizer: "fosi-adam:k=4", seed: 1 }, 2),
    record({ optimizer: "fosi-adam:k=4", seed: 2 }, 2),
    record({ optimizer: "adam", kind: "grid", learningRate: 0.1 }, 6),
    record({ optimizer: "adam", kind: "grid", learningRate: 0.3 }, 7),
  ];
  const result = taskResult("t", records)!;
  expect(result.pairs).toEqual([
    {
      method: "fosi-adam:k=4",
      base: "adam",
      speedup: spread([2, 4, null]),
      fewer: spread([2, 4, null]),
      // Adam's best of the third seed comes at 9 seconds, and is the loss that the other has at 2.
      toBest: spread([2, 4, 4.5]),
    },
  ]);
  const adam = result.rows.find(({ optimizer }) => optimizer === "adam")!;
  expect([adam.reached, adam.seeds, adam.isAtEdge]).toEqual([2, 3, true]);
  expect(adam.toTarget.seconds.median).toBe(8);
  expect(adam.tuning.seconds).toBe(13);
});

test("a record is of its entry only", () => {
  const made = record({ seed: 3 }, 1);
  expect(isOf(made, { task: "t", optimizer: "adam", learningRate: 0.1, kind: "seed", seed: 3 })).toBe(true);
  expect(isOf(made, { task: "t", optimizer: "adam", learningRate: 0.1, kind: "seed", seed: 4 })).toBe(false);
});
