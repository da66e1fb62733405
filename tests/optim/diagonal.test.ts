/** Methods with a diagonal of curvature: Sophia and AdaHessian against plain loops, and what their estimates estimate. */
import { expect, test } from "bun:test";
import { jit } from "../../autodiff/jit.ts";
import { hessianOperator } from "../../autodiff/operator.ts";
import { gradientOf } from "../../autodiff/vjp.ts";
import { bernoulli } from "../../core/likelihood.ts";
import { add, conv, matmul, mul, sum, tanh } from "../../core/ops.ts";
import * as random from "../../core/random.ts";
import { decode, encode } from "../../core/safetensors.ts";
import type { Value } from "../../core/value.ts";
import { type AdaHessianState, adahessian } from "../../optim/adahessian.ts";
import { type SophiaState, sophia } from "../../optim/sophia.ts";
import { applyUpdates } from "../../optim/transformation.ts";
import { dot, f64, list, maxDifference, mulberry32, normals, sameTreeBits } from "./numbers.ts";
import { denseOperator, diagonalOperator } from "./problems.ts";

const refuse = (): never => {
  throw new Error("Cannot be asked now");
};

test("Sophia makes the updates of plain loops, and asks for a sampled gradient every period", () => {
  const options = { beta1: 0.9, beta2: 0.8, rho: 0.1, epsilon: 1e-12, weightDecay: 0.2, period: 3, seed: 5 };
  const method = sophia(0.01, options);
  const uniform = mulberry32(1);
  let x: Value = f64(normals(uniform, 4));
  let state = method.init(x);
  let [m, h]: number[][] = [
    [0, 0, 0, 0],
    [0, 0, 0, 0],
  ];
  const keys: number[][] = [];
  for (let step = 0; step < 8; step++) {
    const [g, sampled, p] = [normals(uniform, 4), normals(uniform, 4), list(x)];
    const isDue = step % 3 === 0;
    expect(method.curvatureDue(step)).toBe(isDue);
    expect(method.curvatureDue(state)).toBe(isDue);
    if (isDue) h = h!.map((y, i) => 0.8 * y + 0.2 * 7 * sampled[i]! ** 2);
    m = m!.map((y, i) => 0.9 * y + 0.1 * g[i]!);
    const expected = m.map((y, i) => {
      const clipped = Math.sign(y) * Math.min(1, Math.abs(y) / (0.1 * h![i]! + 1e-12));
      return -0.01 * (clipped + 0.2 * p[i]!);
    });
    const sampledGradient = (key: Value): Value => {
      keys.push(list(key));
      return f64(sampled);
    };
    const [updates, next] = method.update(f64(g), state, x, {
      sampledGradient: isDue ? sampledGradient : refuse,
      batchSize: 7,
    });
    expect(maxDifference(list(updates), expected)).toBeLessThan(1e-16);
    [x, state] = [applyUpdates(x, updates), next];
  }
  // A key for each refresh, never the same.
  expect(keys).toEqual([0, 3, 6].map((made) => list(random.foldIn(random.key(5), made))));
});

test("before it knows a curvature, Sophia steps by signs; where the curvature is large, by Newton's step over rho", () => {
  const method = sophia(0.1, { weightDecay: 0, beta1: 0, beta2: 0, rho: 1, epsilon: 0 });
  const x = f64([1, 1]);
  const fresh = { ...method.init(x), curvature: f64([1e-30, 1e-30]) };
  expect(list(method.step(f64([3, -2]), fresh, x)[0])).toEqual([-0.1, 0.1]);
  // Four examples, sampled gradients of 3: h = 4 · 9.
  const known = method.refreshCurvature(method.init(x), f64([3, 3]), 4);
  expect(maxDifference(list(method.step(f64([9, -90]), known, x)[0]), [-0.1 / 4, 0.1])).toBeLessThan(1e-16);
});

test("Sophia's estimate has the diagonal of the Gauss-Newton matrix as its mean", () => {
  // Logistic regression: the mean of B ĝ² over labels drawn from the model is mean over examples of p (1 - p) x².
  const [examples, d] = [6, 3];
  const rows = Array.from({ length: examples }, (_, i) => normals(mulberry32(10 + i), d));
  const features = f64(rows.flat(), [examples, d]);
  const w = f64([0.3, -0.5, 0.8]);
  const loss = (p: Value, y: Value): Value => bernoulli.loss(matmul(features, p), y);
  const exact = Array.from({ length: d }, (_, j) =>
    rows.reduce((total, x) => {
      const p = 1 / (1 + Math.exp(-dot(x, list(w))));
      return total + (p * (1 - p) * x[j]! ** 2) / examples;
    }, 0),
  );
  const draws = 3000;
  const method = sophia(1, { beta2: 0 });
  const estimate = jit((key: Value) => {
    const y = bernoulli.sample(key, matmul(features, w));
    const slope = gradientOf((p: Value) => loss(p, y))(w);
    return method.refreshCurvature(method.init(w), slope, examples).curvature as Value;
  });
  const totals = [0, 0, 0];
  const squares = [0, 0, 0];
  for (const key of random.split(random.key(3), draws))
    list(estimate(key)).forEach((x, i) => {
      totals[i]! += x;
      squares[i]! += x * x;
    });
  // Within five standard errors.
  exact.forEach((value, i) => {
    const mean = totals[i]! / draws;
    const error = Math.sqrt((squares[i]! / draws - mean ** 2) / draws);
    expect(Math.abs(mean - value)).toBeLessThan(5 * error);
    expect(error).toBeLessThan(0.05 * value);
  });
});

/** The signs that the method draws for its r-th refresh. */
const signsOf = (seed: number, refresh: number, n: number): number[] =>
  list(random.bernoulli(random.foldIn(random.key(seed), refresh), 0.5, [n]).astype("float64")).map(
    (bit) => 2 * bit - 1,
  );

test.each([
  [1, 1],
  [2, 0.5],
])("AdaHessian with period %i and power %f makes the updates of plain loops", (period, hessianPower) => {
  const A = [
    [4, 1, -1],
    [1, 3, 0.5],
    [-1, 0.5, 0.1],
  ];
  const options = { beta1: 0.8, beta2: 0.95, epsilon: 1e-3, weightDecay: 0.1, period, hessianPower, seed: 9 };
  const method = adahessian(0.2, options);
  const uniform = mulberry32(2);
  let x: Value = f64(normals(uniform, 3));
  let state = method.init(x);
  let [m, s]: number[][] = [
    [0, 0, 0],
    [0, 0, 0],
  ];
  let refreshes = 0;
  for (let step = 0; step < 7; step++) {
    const [g, p] = [normals(uniform, 3), list(x)];
    const isDue = step % period === 0;
    if (isDue) {
      const z = signsOf(9, refreshes++, 3);
      s = s!.map((y, i) => 0.95 * y + 0.05 * (z[i]! * dot(A[i]!, z)) ** 2);
    }
    m = m!.map((y, i) => 0.8 * y + 0.2 * g[i]!);
    const expected = m.map((y, i) => {
      const root = Math.sqrt(s![i]! / (1 - 0.95 ** refreshes)) ** hessianPower;
      return -0.2 * (y / (1 - 0.8 ** (step + 1)) / (root + 1e-3) + 0.1 * p[i]!);
    });
    const hessian = isDue ? () => denseOperator(A) : refuse;
    const [updates, next] = method.update(f64(g), state, x, { hessian });
    expect(maxDifference(list(updates), expected)).toBeLessThan(1e-14);
    [x, state] = [applyUpdates(x, updates), next];
  }
  expect(state.refreshes.item()).toBe(refreshes);
});

test("the estimate is exact for a diagonal Hessian, and its sign does not matter", () => {
  const method = adahessian(1, { beta2: 0 });
  const state = method.init(f64([0, 0, 0]));
  for (let seed = 0; seed < 4; seed++) {
    const known = method.refreshCurvature(state, diagonalOperator([3, -2, 0.5]), random.key(seed));
    expect(list(known.square as Value)).toEqual([9, 4, 0.25]);
  }
});

test("kernels share one estimate over their window, vectors and matrices do not", () => {
  const params = {
    b: f64([1, 2]),
    kernel: f64(normals(mulberry32(3), 12), [2, 1, 2, 3]),
    w: f64([1, 2, 3, 4], [2, 2]),
  };
  const values = normals(mulberry32(4), 18);
  const method = adahessian(1, { beta2: 0 });
  const state = method.refreshCurvature(method.init(params), diagonalOperator(values), random.key(0));
  const square = state.square as typeof params;
  // Raveled in the order of keys: b, kernel, w.
  const magnitudes = values.map(Math.abs);
  const means = [0, 1].map((o) => magnitudes.slice(2 + 6 * o, 8 + 6 * o).reduce((a, x) => a + x / 6, 0));
  expect(
    maxDifference(
      list(square.b),
      magnitudes.slice(0, 2).map((x) => x * x),
    ),
  ).toBeLessThan(1e-14);
  expect(
    maxDifference(
      list(square.w),
      magnitudes.slice(14).map((x) => x * x),
    ),
  ).toBeLessThan(1e-14);
  const expected = means.flatMap((x) => Array.from({ length: 6 }, () => x * x));
  expect(maxDifference(list(square.kernel), expected)).toBeLessThan(1e-14);
});

test("AdaHessian of every step compiles with the product inside", () => {
  const image = f64(normals(mulberry32(5), 32), [2, 1, 4, 4]);
  const loss = (p: { kernel: Value; gain: Value }): Value =>
    sum(mul(p.gain, tanh(conv(image, p.kernel))))
      .mul(0.1)
      .add(sum(mul(p.kernel, p.kernel)));
  type P = Parameters<typeof loss>[0];
  const params: P = { kernel: f64(normals(mulberry32(6), 8), [2, 1, 2, 2]), gain: f64([1.5]) };
  const method = adahessian(0.1);
  const step = (p: P, state: AdaHessianState): readonly [P, AdaHessianState] => {
    const gradient = gradientOf<P, []>(loss)(p);
    const [updates, next] = method.update(gradient, state, p, {
      hessian: () => hessianOperator<P, []>(loss, p),
    });
    return [applyUpdates(p, updates), next];
  };
  const compiled = jit(step);
  let [p, state] = [params, method.init(params)];
  let [q, own] = [params, method.init(params)];
  const before = loss(params).item();
  for (let i = 0; i < 20; i++) {
    [p, state] = compiled(p, state);
    [q, own] = step(q, own);
  }
  expect(compiled.stats()).toMatchObject({ traces: 1, hits: 19 });
  expect(maxDifference(list(p.kernel), list(q.kernel))).toBeLessThan(1e-12);
  expect(loss(p).item()).toBeLessThan(before);
});

test("Sophia and AdaHessian go on from a saved state, bit for bit", () => {
  const f = (x: Value): Value => sum(mul(x, mul(x, add(1, mul(x, x)))));
  const extraAt = (x: Value) => ({
    hessian: () => hessianOperator(f, x),
    sampledGradient: () => gradientOf(f)(x),
    batchSize: 2,
  });
  const runs = [
    (x: Value, s: unknown) =>
      sophia(0.05, { period: 2 }).update(gradientOf(f)(x), s as SophiaState, x, extraAt(x)),
    (x: Value, s: unknown) =>
      adahessian(0.1, { period: 2 }).update(gradientOf(f)(x), s as AdaHessianState, x, extraAt(x)),
  ] as const;
  [sophia(), adahessian()].forEach((method, i) => {
    const after = (x: Value, state: unknown, steps: number): readonly [Value, unknown] => {
      for (let step = 0; step < steps; step++) {
        const [updates, next] = runs[i]!(x, state);
        [x, state] = [applyUpdates(x, updates), next];
      }
      return [x, state];
    };
    const start = f64([1, -2, 0.5]);
    const [x, state] = after(start, method.init(start), 5);
    const { tree } = decode<[Value, unknown]>(encode([x, state]));
    expect(sameTreeBits(after(...tree, 5), after(x, state, 5))).toBe(true);
  });
});

test("options out of range are refused", () => {
  expect(() => sophia(0.1, { rho: 0 })).toThrow(
    /^Cannot make Sophia: rho is 0, a positive number is needed$/,
  );
  expect(() => sophia(0.1, { period: 1.5, seed: -1 })).toThrow(/period is 1\.5, .*; seed is -1, /);
  expect(() => adahessian(0.1, { hessianPower: 2 })).toThrow(/^Cannot make AdaHessian: hessianPower is 2/);
  const method = sophia();
  const state = method.init(f64([1]));
  expect(() => method.refreshCurvature(state, f64([1]), 0)).toThrow(
    /^Cannot make Sophia curvature: batchSize is 0/,
  );
});
