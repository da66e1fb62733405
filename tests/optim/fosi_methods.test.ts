/** FOSI over each method as it is published, against loops in eigen-coordinates, where the projections are choices of axes. */
import { expect, test } from "bun:test";
import { jit } from "../../autodiff/jit.ts";
import { tensor } from "../../core/create.ts";
import * as random from "../../core/random.ts";
import type { Value } from "../../core/value.ts";
import { type Fosi, type FosiState, fosi } from "../../optim/fosi.ts";
import { fosiAdam, fosiMomentum, fosiNesterov, fosiSgd } from "../../optim/fosi_methods.ts";
import { momentum, sgd } from "../../optim/momentum.ts";
import { cosineSchedule, linearSchedule, type Schedule } from "../../optim/schedule.ts";
import { cite } from "../../optim/sources.ts";
import { applyUpdates } from "../../optim/transformation.ts";
import { f64, list, maxDifference, mulberry32, normals, type Vector } from "./numbers.ts";
import { diagonalOperator, diagonalQuadratic } from "./problems.ts";

type Method = "sgd" | "momentum" | "nesterov" | "adam";
type Options = { readonly k: number; readonly alpha: number | Schedule; readonly beta: number };
const eta = 0.02;

const made: Readonly<Record<Method, (options: Options) => Fosi<unknown>>> = {
  sgd: (options) => forget(fosiSgd(eta, { ...options, warmup: 1 })),
  momentum: (options) => forget(fosiMomentum(eta, { ...options, warmup: 1 })),
  nesterov: (options) => forget(fosiNesterov(eta, { ...options, warmup: 1 })),
  adam: (options) => forget(fosiAdam(eta, { ...options, warmup: 1 })),
};

function forget<B>(method: Fosi<B>): Fosi<unknown> {
  return method as unknown as Fosi<unknown>;
}

/** One coordinate on an eigenvector: the Newton part where it is in the space, the base elsewhere. */
function coordinate(method: Method, value: number, beta: number, step: { isInside: boolean; scale: number }) {
  let [v, m, s, t] = [0, 0, 0, 0];
  return (g: number, alpha: number): number => {
    t++;
    if (step.isInside) {
      if (method === "sgd") v = g;
      if (method === "momentum") v = g + beta * v;
      if (method === "nesterov") v = (1 + beta) * g + beta ** 2 * v;
      if (method === "adam") v = (1 - beta) * g + beta * v;
      return (-alpha * v) / Math.abs(value);
    }
    if (method === "adam") {
      [m, s] = [beta * m + (1 - beta) * g, 0.999 * s + 0.001 * g * g];
      return (-step.scale * eta * (m / (1 - beta ** t))) / (Math.sqrt(s / (1 - 0.999 ** t)) + 1e-8);
    }
    v = method === "sgd" ? g : g + beta * v;
    return -step.scale * eta * (method === "nesterov" ? g + beta * v : v);
  };
}

const methods: readonly Method[] = ["sgd", "momentum", "nesterov", "adam"];
const values: Vector = [0.3, 12, 0.7, 4, 8, 1];

function compare(method: Method, optimizer: Fosi<unknown>, options: Options, alpha: (t: number) => number) {
  const inside = new Set([1, 3, 4]); // 12, 4 and 8
  const scale = method === "adam" ? 1 : 3; // 12 / 4
  const plain = values.map((value, i) =>
    coordinate(method, value, options.beta, { isInside: inside.has(i), scale }),
  );
  const f = diagonalQuadratic(values);
  let x: Value = f64(normals(mulberry32(5), 6));
  let state = optimizer.init(x);
  let worst = 0;
  for (let step = 0; step < 12; step++) {
    const at = x;
    const g = f.gradient(x);
    const [updates, next] = optimizer.update(g, state, x, { hessian: () => f.hessian(at) });
    const expected = list(g).map((gi, i) => plain[i]!(gi, alpha(step)));
    worst = Math.max(worst, maxDifference(list(updates), expected));
    [x, state] = [applyUpdates(x, updates), next];
  }
  return worst;
}

test.each(methods)("fosi over %s: the published momentum form and factor, in eigen-coordinates", (method) => {
  const options = { k: 3, alpha: 0.2, beta: 0.8 };
  expect(compare(method, made[method](options), options, () => 0.2)).toBeLessThan(1e-11);
});

test.each(methods)("fosi over %s takes a schedule for alpha, of the updates made", (method) => {
  const alpha = linearSchedule({ from: 0.3, to: 0.1, steps: 8 });
  const options = { k: 3, alpha, beta: 0.9 };
  // Schedules give float32 rates.
  const at = (t: number): number => 0.3 - 0.2 * Math.min(1, t / 8);
  expect(compare(method, made[method](options), options, at)).toBeLessThan(2e-6);
});

test("defaults: clip 3 and 1 for Adam, beta 0.9, refreshes every 100 updates from the hundredth", () => {
  const all = [fosiSgd(0.1), fosiMomentum(0.1), fosiNesterov(0.1), fosiAdam(0.1)].map((m) => m.options);
  expect(all.map(({ clip }) => clip)).toEqual([3, 3, 3, 1]);
  expect(all.map(({ momentum: form }) => form)).toEqual(["none", "heavyBall", "nesterov", "average"]);
  for (const { k, l, alpha, beta, period, warmup, trigger } of all)
    expect([k, l, alpha, beta, period, warmup, trigger]).toEqual([5, 0, 0.01, 0.9, 100, 100, "internal"]);
});

test("they are named and cited as FOSI over their base", () => {
  for (const method of methods) {
    const { name } = made[method]({ k: 1, alpha: 1, beta: 0 });
    expect(name).toBe(`fosi(${method})`);
    expect(cite(name)[0]).toMatch(/FOSI: hybrid first and second order/);
    expect(cite(name).length).toBeGreaterThanOrEqual(2);
  }
});

test("options that FOSI refuses are refused; the factor of Adam is not an option", () => {
  expect(() => fosiSgd(0.1, { k: 0 })).toThrow(/^Cannot make FOSI: k \+ l is 0/);
  expect(() => fosiMomentum(0.1, { beta: 1 })).toThrow(/beta is 1/);
  // @ts-expect-error Adam keeps its step
  expect(fosiAdam(0.1, { clip: 3 }).options.clip).toBe(1);
});

test("a schedule of the base and one of alpha go on through a compiled step, recorded once", () => {
  const optimizer = forget(
    fosi(momentum(cosineSchedule({ from: 0.05, steps: 10, floor: 0.01 })), {
      k: 2,
      alpha: linearSchedule({ from: 0.5, to: 0, steps: 10 }),
    }),
  );
  for (const dtype of ["float32", "float64"] as const) {
    const start = tensor(normals(mulberry32(2), 6)).astype(dtype);
    const step = (g: Value, state: FosiState<unknown>, x: Value) => optimizer.step(g, state, x);
    const compiled = jit(step, { donate: 1 });
    const first = (): FosiState<unknown> =>
      optimizer.refreshCurvature(optimizer.init(start), { ...diagonalOperator(values) }, random.key(0));
    let [state, plain, x] = [first(), first(), start as Value];
    const uniform = mulberry32(3);
    for (let i = 0; i < 6; i++) {
      const g = tensor(normals(uniform, 6)).astype(dtype);
      const [updates, next] = compiled(g, state, x);
      const [expected, plainNext] = step(g, plain, x);
      expect(maxDifference(list(updates), list(expected))).toBeLessThan(dtype === "float64" ? 1e-13 : 1e-6);
      [state, plain, x] = [next, plainNext, applyUpdates(x, expected)];
    }
    expect(state.count.item()).toBe(6);
    expect(compiled.stats()).toMatchObject({ traces: 1, hits: 5 });
  }
});

test("alpha that falls to zero stops the Newton part", () => {
  const optimizer = fosi(sgd(0.1), { k: 1, warmup: 1, alpha: linearSchedule({ from: 1, to: 0, steps: 2 }) });
  const x = f64([1, 1]);
  let state = optimizer.refreshCurvature(optimizer.init(x), diagonalOperator([1, 4]), random.key(0));
  const newton: number[] = [];
  for (let i = 0; i < 3; i++) {
    const [updates, next] = optimizer.step(f64([0, 4]), { ...state, velocity: f64([0, 0]) }, x);
    newton.push(list(updates)[1]!);
    state = next;
  }
  expect(maxDifference(newton, [-1, -0.5, 0])).toBeLessThan(1e-12);
});
