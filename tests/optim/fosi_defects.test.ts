/** What goes wrong in published code of FOSI and of its distributed form, one test for each: here it does not. */
import { expect, test } from "bun:test";
import { hessianOperator, type LinearOperator } from "../../autodiff/operator.ts";
import { full, tensor } from "../../core/create.ts";
import { mul, sum } from "../../core/ops.ts";
import * as random from "../../core/random.ts";
import type { Value } from "../../core/value.ts";
import { adamw } from "../../optim/adam.ts";
import { clipByGlobalNorm, clipByValue } from "../../optim/clip.ts";
import { fosi } from "../../optim/fosi.ts";
import { fosiAdam } from "../../optim/fosi_methods.ts";
import { lanczos, lanczosOrder } from "../../optim/lanczos.ts";
import { momentum, sgd } from "../../optim/momentum.ts";
import { penalized } from "../../optim/penalized.ts";
import { applyUpdates, chain } from "../../optim/transformation.ts";
import { f64, list, maxDifference, mulberry32, normals, rowsOf } from "./numbers.ts";
import { diagonalOperator, diagonalQuadratic } from "./problems.ts";

test("published defect, weight decay in the base: the spectrum would be that of another function", () => {
  expect(() => fosi(adamw(0.1))).toThrow(/^Cannot make FOSI over adamw: it decays weights/);
  // In the loss it is seen: every eigenvalue is larger by the decay.
  const values = [1, 2, 5];
  const half = f64(values.map((value) => value / 2));
  const loss = (x: Value): Value => sum(mul(half, mul(x, x)));
  const at = f64([1, 2, 3]);
  const search = { k: 3, order: 3, key: random.key(0) };
  const found = lanczos(hessianOperator(penalized(loss, 0.25), at), search);
  expect(maxDifference(list(found.values), [1.25, 2.25, 5.25])).toBeLessThan(1e-12);
});

test("published defect, the external trigger with period 1 fires before the first update, whatever the warm-up", () => {
  const optimizer = fosi(sgd(0.1), { k: 1, warmup: 6, period: 1, trigger: "external" });
  const due = Array.from({ length: 10 }, (_, made) => optimizer.curvatureDue(made));
  // Before update 7 = warm-up + 1 and every later one.
  expect(due).toEqual([false, false, false, false, false, false, true, true, true, true]);
});

test("published defect, the velocity is not turned at a refresh: what is outside the new space is inert and decays", () => {
  const values = [1, 2, 3, 4];
  const optimizer = fosi(sgd(0.1), { k: 2, order: 4, beta: 0.5 });
  const x = f64([0, 0, 0, 0]);
  const state = optimizer.refreshCurvature(optimizer.init(x), diagonalOperator(values), random.key(0));
  // The space is that of the axes 2 and 3.
  const g = f64([1, 1, 1, 1]);
  const [dirty] = optimizer.step(g, { ...state, velocity: f64([7, -7, 1, 2]) }, x);
  const [clean, next] = optimizer.step(g, { ...state, velocity: f64([0, 0, 1, 2]) }, x);
  expect(maxDifference(list(dirty), list(clean))).toBeLessThan(1e-12);
  let old = { ...next, velocity: f64([8, -8, 0, 0]) as Value };
  for (let i = 0; i < 4; i++) old = optimizer.step(g, old, x)[1] as typeof old;
  expect(maxDifference(list(old.velocity).slice(0, 2), [0.5, -0.5])).toBeLessThan(1e-12);
});

test("published defect, clipping by value before FOSI turns the gradient in the space; clipping by norm does not", () => {
  const rest = { k: 1, order: 2, alpha: 1, momentum: "none", clip: 1 } as const;
  const optimizer = fosi(sgd(0), rest);
  // The eigenvector of 9 is (0.6, 0.8), that of 1 is (-0.8, 0.6).
  const H: LinearOperator = {
    ...diagonalOperator([1, 9]),
    apply: (v) => {
      const [a, b] = list(v) as [number, number];
      const [p, q] = [0.6 * a + 0.8 * b, -0.8 * a + 0.6 * b];
      return f64([9 * 0.6 * p - 0.8 * q, 9 * 0.8 * p + 0.6 * q]);
    },
  };
  const x = f64([0, 0]);
  const state = optimizer.refreshCurvature(optimizer.init(x), H, random.key(1));
  // Along the small eigenvalue alone: no Newton step is due.
  const g = f64([-8, 6]);
  const newton = (clip: ReturnType<typeof clipByValue>): number =>
    Math.hypot(...list(optimizer.step(clip.update(g, [], x, {})[0], state, x)[0]));
  expect(newton(clipByGlobalNorm(1))).toBeLessThan(1e-12);
  expect(newton(clipByValue(1))).toBeGreaterThan(0.02);
  expect(chain(clipByGlobalNorm(1), optimizer).name).toBe("clipByGlobalNorm > fosi(sgd)");
});

test("published defect, a factor on Adam's step: the wrapper keeps it at 1", () => {
  const optimizer = fosiAdam(0.1, { k: 2, order: 4 });
  const x = f64([1, 1, 1, 1]);
  const state = optimizer.refreshCurvature(
    optimizer.init(x),
    diagonalOperator([1, 2, 3, 900]),
    random.key(0),
  );
  expect(state.scale.item()).toBe(1);
  // The first step of Adam is its learning rate in each coordinate, the two outside of the space included.
  const [updates] = optimizer.step(f64([1, 2, 0, 0]), state, x);
  expect(maxDifference(list(updates), [-0.1, -0.1, 0, 0])).toBeLessThan(1e-8);
});

test("published defect, one batch caught at construction: every refresh asks anew, and says which it is", () => {
  const optimizer = fosi(momentum(0.1), { k: 1, warmup: 1, period: 2 });
  const f = diagonalQuadratic([1, 2, 4]);
  let [x, state] = [f64([1, 1, 1]) as Value, optimizer.init(f64([1, 1, 1]))];
  const largest: number[] = [];
  for (let i = 0; i < 6; i++) {
    const hessian = (refresh: number) => diagonalOperator([1, 2, 4 + refresh]);
    const [updates, next] = optimizer.update(f.gradient(x), state, x, { hessian });
    [x, state] = [applyUpdates(x, updates), next];
    largest.push(list(state.values)[0]!);
  }
  expect(maxDifference(largest, [4, 4, 5, 5, 6, 6])).toBeLessThan(1e-9);
});

test("published defect, one start vector for every refresh, or one that no seed repeats: here a new one, the same in every run", () => {
  const starts = (seed: number): number[][] => {
    const optimizer = fosi(sgd(0.1), { k: 1, warmup: 1, period: 1, seed });
    const seen: number[][] = [];
    const H = diagonalOperator([1, 2, 4]);
    let state = optimizer.init(f64([1, 1, 1]));
    for (let i = 0; i < 3; i++) {
      const mark = seen.length;
      const hessian = () => ({
        ...H,
        apply: (v: Value) => {
          if (seen.length === mark) seen.push(list(v));
          return H.apply(v);
        },
      });
      [, state] = optimizer.update(f64([1, 1, 1]), state, f64([1, 1, 1]), { hessian });
    }
    return seen;
  };
  const [first, second, third] = starts(0);
  expect(maxDifference(first!, second!)).toBeGreaterThan(1e-3);
  expect(maxDifference(second!, third!)).toBeGreaterThan(1e-3);
  expect(starts(0)).toEqual([first!, second!, third!]);
  expect(maxDifference(starts(1)[0]!, first!)).toBeGreaterThan(1e-3);
});

test("published defect, an integer velocity and a process switched to float64: every type stays what it was", () => {
  const values = tensor([1, 2, 3]);
  const loss = (x: Value): Value => sum(mul(values, mul(x, x)));
  const x = full([3], 1);
  const optimizer = fosi(momentum(0.1), { k: 2, warmup: 1 });
  expect(optimizer.init(x).velocity.dtype).toBe("float32");
  const [updates, state] = optimizer.update(full([3], 0.5), optimizer.init(x), x, {
    hessian: () => hessianOperator(loss, x),
  });
  const { velocity, vectors, rates, scale, values: eigenvalues, residuals } = state;
  expect([updates, velocity, vectors, rates, scale].map((v) => v.dtype)).toEqual(Array(5).fill("float32"));
  // Only the few numbers of the host are in float64.
  expect([eigenvalues, residuals].map((v) => v.dtype)).toEqual(["float64", "float64"]);
  expect(tensor([1]).dtype).toBe("float32");
});

test("published defect, more Lanczos steps than parameters: capped; and 2 ln n where it is more than 4 (k + l)", () => {
  const optimizer = fosi(sgd(0.1), { k: 3, warmup: 1 });
  let products = 0;
  const H = diagonalOperator([1, 2, 3, 4, 5]);
  const counted = {
    ...H,
    apply: (v: Value) => {
      products++;
      return H.apply(v);
    },
  };
  const zero = f64([0, 0, 0, 0, 0]);
  const { values } = optimizer.refreshCurvature(optimizer.init(zero), counted, random.key(0));
  expect(products).toBeLessThanOrEqual(5);
  expect(maxDifference(list(values), [3, 4, 5])).toBeLessThan(1e-10);
  // max(4 (k + l), 2 ln n) by hand: 2 ln 1e6 = 27.6, 2 ln 1e9 = 41.4.
  expect([lanczosOrder(1, 0, 1e6), lanczosOrder(3, 2, 1e6), lanczosOrder(8, 0, 1e9)]).toEqual([28, 28, 42]);
  expect(lanczosOrder(10, 5, 1e9)).toBe(60);
  expect(lanczosOrder(10, 0, 13)).toBe(13);
});

test("published defect, 1 / |lambda + sigma|: with sigma near -lambda it explodes, 1 / (|lambda| + sigma) does not", () => {
  const optimizer = fosi(sgd(0.1), { k: 1, l: 1, order: 3, damping: 2.001 });
  const zero = f64([0, 0, 0]);
  const { rates } = optimizer.refreshCurvature(
    optimizer.init(zero),
    diagonalOperator([-2, 1, 3]),
    random.key(0),
  );
  expect(maxDifference(list(rates), [1 / 4.001, 1 / 5.001])).toBeLessThan(1e-12);
});

test("published defect, a spectrum of random weights before the first update: the default waits for one period", () => {
  const optimizer = fosi(sgd(0.1), { k: 1, period: 40 });
  const due = Array.from({ length: 121 }, (_, made) => made).filter((made) => optimizer.curvatureDue(made));
  expect(due).toEqual([39, 79, 119]);
});

test("published defect, an accumulation bug for l > 0: rows of both ends are eigenvectors, and take the same step", () => {
  const values = [-4, -1, 0.5, 1, 2, 6];
  const optimizer = fosi(sgd(0), { k: 2, l: 2, order: 6, alpha: 1, momentum: "none" });
  const x = f64(normals(mulberry32(3), 6));
  const state = optimizer.refreshCurvature(optimizer.init(x), diagonalOperator(values), random.key(5));
  const axes = rowsOf(state.vectors).map((row) => row.map((v) => Math.round(Math.abs(v))));
  expect(axes.map((row) => row.indexOf(1))).toEqual([0, 1, 4, 5]);
  const g = list(x).map((xi, i) => values[i]! * xi);
  // -g / |lambda| inside, nothing outside.
  const expected = list(x).map((xi, i) => (i === 2 || i === 3 ? 0 : -Math.sign(values[i]!) * xi));
  expect(maxDifference(list(optimizer.step(f64(g), state, x)[0]), expected)).toBeLessThan(1e-11);
});
