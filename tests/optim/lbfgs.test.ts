/** L-BFGS against the iterates of another implementation, and against what the theory promises. */
import { expect, test } from "bun:test";
import { jit } from "../../autodiff/jit.ts";
import { valueAndGrad } from "../../autodiff/vjp.ts";
import { tensor } from "../../core/create.ts";
import { DTypeError } from "../../core/errors.ts";
import { add, matmul, mul, sub, sum } from "../../core/ops.ts";
import { map } from "../../core/tree.ts";
import type { Value } from "../../core/value.ts";
import { type LbfgsOptions, type LbfgsState, lbfgs } from "../../optim/lbfgs.ts";
import { type LinePoint, wolfeSearch } from "../../optim/line_search.ts";
import { applyUpdates } from "../../optim/transformation.ts";
import {
  f64,
  length,
  list,
  maxDifference,
  mulberry32,
  normals,
  randomRotation,
  sameTreeBits,
  withEigenvalues,
} from "./numbers.ts";
import { goldenData, logisticLoss, plainLogistic, plainMinimizer, rosenbrock } from "./problems.ts";

/** Points after each update, and the evaluations that all took beside the given gradients. */
function run(
  loss: (x: Value) => Value,
  start: readonly number[],
  updates: number,
  options: LbfgsOptions = {},
): { points: number[][]; evaluations: number } {
  const optimizer = lbfgs(options);
  const both = valueAndGrad(loss);
  let evaluations = 0;
  let x: Value = f64(start);
  let state = optimizer.init(x);
  const points: number[][] = [];
  for (let i = 0; i < updates; i++) {
    const [value, gradient] = both(x);
    const [moves, next] = optimizer.update(gradient, state, x, {
      value,
      valueAndGradient(p) {
        evaluations++;
        return both(p as Value);
      },
    });
    [x, state] = [applyUpdates(x, moves), next];
    points.push(list(x));
  }
  return { points, evaluations };
}

const eigenvalues = Array.from({ length: 10 }, (_, i) => 10 ** (-i / 3));
const quadratic = (x: Value): Value => mul(0.5, sum(mul(f64(eigenvalues), mul(x, x))));

// torch.optim.LBFGS of PyTorch 1.13 in float64 with line_search_fn="strong_wolfe", max_iter=1 and max_eval=100000: its
// points after so many steps, and its evaluations less one for each step.
test.each([
  ["Rosenbrock", rosenbrock, [-1.2, 1], 100, 10, [-0.665708457088896, 0.41398308319536115], 11],
  ["Rosenbrock", rosenbrock, [-1.2, 1], 100, 20, [0.5136224431368484, 0.25581528103177875], 25],
  ["Rosenbrock", rosenbrock, [-1.2, 1], 100, 34, [0.9999814210791363, 0.9999619651810985], 42],
  ["Rosenbrock, 3 pairs", rosenbrock, [-1.2, 1], 3, 10, [-0.5520796821212826, 0.27576065635105834], 11],
  ["Rosenbrock, 3 pairs", rosenbrock, [-1.2, 1], 3, 20, [0.3835069784942451, 0.1188499859575696], 24],
  [
    "a quadratic",
    quadratic,
    new Array<number>(10).fill(1),
    100,
    8,
    [
      0.022337822528582525, -0.013124420628273317, 0.03472506424899545, -0.02552024978239148,
      -0.170678419125459, 0.0998253191680887, 0.4699861489280511, 0.7253637618181412, 0.865863353972795,
      0.9362521598390073,
    ],
    8,
  ],
] as const)(
  "the iterates on %s are those of another library",
  (_name, loss, start, historySize, steps, last, evaluations) => {
    const found = run(loss, start, steps, { historySize, maxIterations: 1, maxEvaluations: 100_000 });
    // Rounding errors grow along a curved valley.
    expect(maxDifference(found.points.at(-1)!, last)).toBeLessThan(1e-8);
    expect(found.evaluations).toBe(evaluations);
  },
);

test("one update of twenty iterations makes the iterates of twenty updates", () => {
  const many = run(rosenbrock, [-1.2, 1], 34, { maxIterations: 1, maxEvaluations: 1000 });
  const few = run(rosenbrock, [-1.2, 1], 2, { maxIterations: 20, maxEvaluations: 1000 });
  expect(maxDifference(few.points[0]!, many.points[19]!)).toBeLessThan(1e-14);
  expect(maxDifference(few.points[1]!, many.points[33]!)).toBeLessThan(1e-12);
  expect(few.evaluations).toBe(many.evaluations);
});

test("with exact line searches a quadratic of n variables is solved by n iterations", () => {
  const n = 6;
  const uniform = mulberry32(5);
  const A = withEigenvalues([1, 2, 5, 11, 20, 40], randomRotation(uniform, n));
  const matrix = f64(A.flat(), [n, n]);
  const loss = (x: Value): Value => mul(0.5, sum(mul(x, matmul(matrix, x))));
  const start = normals(uniform, n);
  const { points } = run(loss, start, n, {
    maxIterations: 1,
    curvature: 1e-12,
    toleranceGradient: 0,
    toleranceChange: 0,
  });
  expect(length(points[n - 2]!)).toBeGreaterThan(1e-3 * length(start));
  expect(length(points[n - 1]!)).toBeLessThan(1e-9 * length(start));
});

test("on a smooth convex function convergence is superlinear, to where values cannot tell points apart", () => {
  const data = goldenData();
  const best = plainMinimizer(data);
  const options = { maxIterations: 1, toleranceGradient: 0, toleranceChange: 0 };
  const { points } = run(logisticLoss(data), new Array<number>(20).fill(0), 32, options);
  const errors = points.map((p) => length(p.map((x, i) => x - best[i]!)));
  expect(errors.at(-1)).toBeLessThan(1e-7);
  expect(length(plainLogistic(data).gradient(points.at(-1)!))).toBeLessThan(1e-9);
  // The rate of ten iterations late is below that of the first ten, and gradient descent has one rate.
  expect((errors[30]! / errors[20]!) ** 0.1).toBeLessThan(0.7 * (errors[10]! / errors[0]!) ** 0.1);
});

test("a state holds the newest pairs in its last rows, and pairs without curvature are left out", () => {
  const optimizer = lbfgs({ historySize: 2, maxIterations: 1 });
  let x: Value = f64([-1.2, 1]);
  let state: LbfgsState = optimizer.init(x);
  const both = valueAndGrad(rosenbrock);
  const extra = { valueAndGradient: (p: unknown) => both(p as Value) };
  const steps: number[][] = [];
  const changes: number[][] = [];
  for (let i = 0; i < 4; i++) {
    const gradient = both(x)[1];
    const [updates, next] = optimizer.update(gradient, state, x, extra);
    x = applyUpdates(x, updates);
    state = next;
    steps.push(list(updates));
    changes.push(list(sub(both(x)[1], gradient)));
    expect(next.pairs.item()).toBe(Math.min(i + 1, 2));
    expect(next.count.item()).toBe(i + 1);
  }
  expect(maxDifference(list(state.steps), steps.slice(-2).flat())).toBeLessThan(1e-12);
  expect(maxDifference(list(state.changes), changes.slice(-2).flat())).toBeLessThan(1e-10);
  const products = steps.slice(-2).map((s, i) => s.reduce((t, v, j) => t + v * changes[i + 2]![j]!, 0));
  expect(maxDifference(list(state.products), products)).toBeLessThan(1e-10);
  // A line has no curvature: the pair has product 0.
  const line = valueAndGrad((y: Value) => sum(y));
  const [, same] = optimizer.update(f64([1, 1]), state, x, {
    valueAndGradient: (p) => line(p as Value),
  });
  expect(sameTreeBits({ ...same, count: state.count }, state)).toBe(true);
});

test("trees of parameters, float32 and a compiled function: the same way down", () => {
  const loss = ({ a, b }: { a: Value; b: Value }): Value => {
    const valley = sub(b, mul(a, a));
    return sum(add(mul(100, mul(valley, valley)), mul(sub(1, a), sub(1, a))));
  };
  for (const dtype of ["float32", "float64"] as const) {
    const both = jit(valueAndGrad(loss));
    const optimizer = lbfgs();
    let p = { a: tensor([-1.2], { dtype }), b: tensor([1], { dtype }) } as { a: Value; b: Value };
    let state = optimizer.init(p);
    for (let i = 0; i < 4; i++) {
      const [updates, next] = optimizer.update(both(p)[1], state, p, { valueAndGradient: both });
      expect(next).toMatchObject({ count: { dtype: "int32" }, steps: { dtype } });
      [p, state] = [applyUpdates(p, updates), next];
    }
    expect(maxDifference([p.a.item(), p.b.item()], [1, 1])).toBeLessThan(dtype === "float32" ? 5e-3 : 1e-4);
    expect(both.stats().traces).toBe(1);
  }
});

test("an update is pure: twice the same bits, and the state it was given stays", () => {
  const optimizer = lbfgs({ historySize: 4, maxIterations: 5 });
  const both = valueAndGrad(rosenbrock);
  const x = f64([-1.2, 1]);
  const extra = { valueAndGradient: (p: unknown) => both(p as Value) };
  const [updates, state] = optimizer.update(both(x)[1], optimizer.init(x), x, extra);
  const y = applyUpdates<Value>(x, updates);
  const kept = map((leaf) => tensor(leaf.dataSync(), { shape: leaf.shape, dtype: leaf.dtype }), state);
  const first = optimizer.update(both(y)[1], state, y, extra);
  expect(sameTreeBits(first, optimizer.update(both(y)[1], state, y, extra))).toBe(true);
  expect(sameTreeBits(state, kept)).toBe(true);
});

test("at a minimum nothing moves, and a gradient that is not a number makes no step", () => {
  const optimizer = lbfgs();
  const both = valueAndGrad(rosenbrock);
  const extra = { valueAndGradient: (p: unknown) => both(p as Value) };
  const x = f64([1, 1]);
  for (const gradient of [f64([0, 0]), f64([Number.NaN, 0])]) {
    const [updates, state] = optimizer.update(gradient, optimizer.init(x), x, extra);
    expect(list(updates)).toEqual([0, 0]);
    expect(state.count.item()).toBe(1);
  }
});

test("options and trees that do not fit are refused", () => {
  expect(() => lbfgs({ historySize: 0 })).toThrow("Cannot make L-BFGS: historySize is 0");
  expect(() => lbfgs({ learningRate: -1 })).toThrow(RangeError);
  expect(() => lbfgs({ curvature: 1 })).toThrow(RangeError);
  expect(() => lbfgs().init({ a: tensor([1]), b: f64([1]) })).toThrow(DTypeError);
});

// --- the line search ---------------------------------------------------------------------------------------------

test("a step found satisfies the strong Wolfe conditions, wherever the search starts", () => {
  // Three functions of the line: a quartic with two minima, a steep exponential, a shallow well far away.
  const functions: readonly (readonly [(t: number) => number, (t: number) => number])[] = [
    [(t) => (t - 1) ** 2 * (t - 3) ** 2 - t, (t) => 2 * (t - 1) * (t - 3) * (2 * t - 4) - 1],
    [(t) => Math.exp(5 * t) - 50 * t, (t) => 5 * Math.exp(5 * t) - 50],
    [(t) => -1 / (1 + (t - 40) ** 2 / 100), (t) => (2 * (t - 40)) / 100 / (1 + (t - 40) ** 2 / 100) ** 2],
  ];
  for (const [f, slope] of functions)
    for (const first of [1e-3, 0.1, 1, 7, 100])
      for (const curvature of [0.9, 0.1]) {
        const at = (step: number): LinePoint => ({
          step,
          value: f(step),
          slope: slope(step),
          gradient: f64([slope(step)]),
        });
        let calls = 0;
        const { point, evaluations } = wolfeSearch(
          (step) => {
            calls++;
            return at(step);
          },
          at(0),
          first,
          { decrease: 1e-4, curvature, most: 60, narrowest: 0 },
        );
        expect(point.value).toBeLessThanOrEqual(f(0) + 1e-4 * point.step * slope(0));
        expect(Math.abs(point.slope)).toBeLessThanOrEqual(curvature * Math.abs(slope(0)));
        expect(evaluations).toBe(calls);
      }
});

test("a point higher than the one before it closes the bracket, though the slope still goes down", () => {
  const steps: number[] = [];
  const at = (step: number): LinePoint => {
    steps.push(step);
    const value = step <= 1 ? -step : step < steps[1]! ? -1.2 : -0.9;
    return { step, value, slope: step > 1 && step < steps[1]! ? 0 : -1, gradient: f64([0]) };
  };
  const start: LinePoint = { step: 0, value: 0, slope: -1, gradient: f64([0]) };
  const { point } = wolfeSearch(at, start, 1, { decrease: 1e-4, curvature: 0.5, most: 25, narrowest: 0 });
  expect(steps[1]).toBeGreaterThan(1);
  expect(steps).toHaveLength(3);
  expect(point.step).toBeGreaterThan(1);
  expect(point.step).toBeLessThan(steps[1]!);
});

test("a search steps back from where the function is not a number", () => {
  const at = (step: number): LinePoint => ({
    step,
    value: step < 2 ? -Math.sqrt(2 - step) * step : Number.NaN,
    slope: step < 2 ? step / (2 * Math.sqrt(2 - step)) - Math.sqrt(2 - step) : Number.NaN,
    gradient: f64([0]),
  });
  const { point } = wolfeSearch(at, at(0), 10, { decrease: 1e-4, curvature: 0.9, most: 25, narrowest: 0 });
  expect(point.step).toBeGreaterThan(0.1);
  expect(point.step).toBeLessThan(2);
});

test("a function without end below gives the last point after the allowed evaluations", () => {
  const at = (step: number): LinePoint => ({ step, value: -step, slope: -1, gradient: f64([0]) });
  const { point, evaluations } = wolfeSearch(at, at(0), 1, {
    decrease: 1e-4,
    curvature: 0.9,
    most: 5,
    narrowest: 0,
  });
  expect(evaluations).toBe(6);
  expect(point.step).toBeGreaterThan(1);
});
