/** Methods over Adam: against plain loops, where they are Adam itself, and what is conserved. */
import { expect, test } from "bun:test";
import { jit } from "../../../autodiff/jit.ts";
import type { Value } from "../../../core/value.ts";
import { blockCompressor } from "../../../dist/compress/block.ts";
import { gradientFeedbackAdam } from "../../../dist/compress/gradient_feedback.ts";
import { diLoCo, localAdam } from "../../../dist/compress/local_adam.ts";
import type { CommunicatingMethod } from "../../../dist/compress/method.ts";
import { oneBitAdam } from "../../../dist/compress/one_bit_adam.ts";
import { topKCompressor } from "../../../dist/compress/top_k.ts";
import { zeroOneAdam, zeroOneSchedule } from "../../../dist/compress/zero_one_adam.ts";
import { type AdamWOptions, adamw } from "../../../optim/adam.ts";
import { applyUpdates, type StateOf } from "../../../optim/transformation.ts";
import { f64, list, maxDifference, type Vector } from "../../optim/numbers.ts";
import {
  gradientOf,
  largest,
  mean,
  minus,
  plus,
  ranks,
  rateAt,
  recorded,
  SHAPES,
  START,
  signs,
  start,
  sumOf,
  type Track,
  times,
  track,
  zero,
} from "./baseline_problem.ts";

const WORKERS = 3;
const STEPS = 24;
const B1 = 0.8;
const B2 = 0.95;
const EPSILON = 1e-6;
const DECAY = 0.02;
const common = {
  shapes: SHAPES,
  dtype: "float64",
  learningRate: rateAt,
  beta1: B1,
  beta2: B2,
  epsilon: EPSILON,
  weightDecay: DECAY,
} as const;
const topK = topKCompressor({ shapes: SHAPES, ratio: 4 });
const whole = blockCompressor({ shapes: SHAPES, ratio: 1, seed: 0 });

function expectSame(actual: readonly Track[], expected: readonly Track[], tolerance = 1e-12): void {
  expect(actual.length).toBe(expected.length);
  actual.forEach(({ positions, view }, t) => {
    expect(maxDifference(view, expected[t]!.view)).toBeLessThan(tolerance);
    positions.forEach((x, k) => {
      expect(maxDifference(x, expected[t]!.positions[k]!)).toBeLessThan(tolerance);
    });
  });
}

const firstMoment = (m: Vector, g: Vector): number[] => plus(times(B1, m), times(1 - B1, g));
const secondMoment = (v: Vector, g: Vector): number[] => v.map((vi, i) => B2 * vi + (1 - B2) * g[i]! * g[i]!);
const scaleOf = (v: Vector, count: number): number[] =>
  v.map((vi) => Math.sqrt(vi / (1 - B2 ** count)) + EPSILON);
/** x - lr (m' / scale + wd x) */
function adamStep(x: Vector, m: Vector, scale: Vector, t: number): number[] {
  return x.map((xi, i) => xi - rateAt(t) * (m[i]! / (1 - B1 ** t) / scale[i]! + DECAY * xi));
}

/** AdamW on the mean gradient at one point. */
function adamTrack(workers: number, steps: number): Track[] {
  let [x, m, v] = [[...START], zero(), zero()];
  return Array.from({ length: steps }, (_, i) => {
    const g = mean(ranks(workers).map((k) => gradientOf(k, i + 1, x)));
    [m, v] = [firstMoment(m, g), secondMoment(v, g)];
    x = adamStep(x, m, scaleOf(v, i + 1), i + 1);
    return { positions: ranks(workers).map(() => x), view: x };
  });
}

test("where all is sent, or gradients are not compressed yet, methods are AdamW on the mean gradient", () => {
  const always = { varianceFreezeStep: STEPS, varianceScale: STEPS };
  for (const method of [
    gradientFeedbackAdam({ ...common, compressor: whole }),
    oneBitAdam({ ...common, freezeStep: STEPS }),
    zeroOneAdam({ ...common, ...always }),
  ] as readonly CommunicatingMethod<unknown>[]) {
    expectSame(track(method, WORKERS, STEPS), adamTrack(WORKERS, STEPS));
  }
});

test("one worker that sends all takes the steps of the optimizer AdamW, bit for bit", () => {
  const constants: AdamWOptions = { beta1: B1, beta2: B2, epsilon: EPSILON, weightDecay: DECAY };
  const optimizer = adamw(0.05, constants);
  const update = jit((x: Value, state: StateOf<typeof optimizer>, g: Value) => {
    const [updates, next] = optimizer.update(g, state, x, {});
    return [applyUpdates(x, updates), next] as const;
  });
  const fixed = { ...common, learningRate: 0.05 };
  for (const method of [
    gradientFeedbackAdam({ ...fixed, compressor: whole }),
    oneBitAdam({ ...fixed, freezeStep: STEPS }),
    localAdam({ ...fixed, period: STEPS + 1 }),
  ] as readonly CommunicatingMethod<unknown>[]) {
    let x = start();
    let state = optimizer.init(x);
    for (const [t, { view }] of track(method, 1, STEPS).entries()) {
      [x, state] = update(x, state, f64(gradientOf(0, t + 1, list(x))));
      expect(view).toEqual(list(x));
    }
  }
});

test("Adam on gradients with error feedback is the plain loop, and loses no gradient", () => {
  let [x, m, v] = [[...START], zero(), zero()];
  let e = ranks(WORKERS).map(zero);
  const compress = largest(4);
  const { run, step, gradients } = recorded(gradientFeedbackAdam({ ...common, compressor: topK }), WORKERS);
  let [before, applied, produced] = [zero(), zero(), zero()];
  for (let t = 1; t <= STEPS; t++) {
    const delta = e.map((ek, k) => plus(gradientOf(k, t, x), ek));
    const sent = delta.map((d) => compress(d, t));
    e = delta.map((d, k) => minus(d, sent[k]!));
    const c = mean(sent);
    [m, v] = [firstMoment(m, c), secondMoment(v, c)];
    x = adamStep(x, m, scaleOf(v, t), t);
    step();
    expect(maxDifference(list(run.view()), x)).toBeLessThan(1e-12);

    // The gradient that Adam has seen, from what became of its mean.
    const after = list(run.states[0]!.base.mean as Value);
    applied = plus(applied, times(1 / (1 - B1), minus(after, times(B1, before))));
    before = after;
    produced = plus(produced, sumOf(gradients.at(-1)!));
    const kept = sumOf(run.states.map(({ residual }) => list(residual)));
    expect(maxDifference(plus(times(WORKERS, applied), kept), produced)).toBeLessThan(1e-11);
  }
});

test("1-bit Adam is the plain loop after the freeze, and loses no momentum", () => {
  const FREEZE = 6;
  const method = oneBitAdam({ ...common, freezeStep: FREEZE });
  const { run, step, gradients } = recorded(method, WORKERS);
  let [x, m, v] = [[...START], zero(), zero()];
  let worker = ranks(WORKERS).map(zero);
  let server = zero();
  let [applied, produced] = [zero(), zero()];
  for (let t = 1; t <= STEPS; t++) {
    const g = ranks(WORKERS).map((k) => gradientOf(k, t, x));
    if (t <= FREEZE) [m, v] = [firstMoment(m, mean(g)), secondMoment(v, mean(g))];
    else {
      const vectors = g.map((gk, k) => plus(firstMoment(m, gk), worker[k]!));
      const sent = vectors.map((d) => signs(d, t));
      worker = vectors.map((d, k) => minus(d, sent[k]!));
      const total = plus(mean(sent), server);
      m = signs(total, t);
      server = minus(total, m);
    }
    x = adamStep(x, m, scaleOf(v, Math.min(t, FREEZE)), t);
    const before = list(run.states[0]!.adam.mean as Value);
    step();
    for (const s of run.states) expect(maxDifference(list(method.position(s)), x)).toBeLessThan(1e-12);

    if (t <= FREEZE) continue;
    applied = plus(applied, list(run.states[0]!.adam.mean as Value));
    produced = plus(produced, sumOf(gradients.at(-1)!.map((gk) => firstMoment(before, gk))));
    const { errors } = run.states[0]!;
    const kept = plus(
      sumOf(run.states.map((s) => list(s.errors.worker))),
      times(WORKERS, list(errors.server)),
    );
    expect(maxDifference(plus(times(WORKERS, applied), kept), produced)).toBeLessThan(1e-12);
  }
});

test("the schedule of 0/1 Adam is that of its recurrences", () => {
  for (const [scale, freeze, localScale, localClip] of [
    [16, 400, 50, 16],
    [3, 100, 7, 4],
    [1, 63, 5, 32],
  ] as const) {
    const at = zeroOneSchedule({ varianceScale: scale, varianceFreezeStep: freeze, localScale, localClip });
    const renewals = new Set<number>();
    for (let k = 1, j = 0; k <= freeze; k += 2 ** Math.floor(j++ / scale)) renewals.add(k);
    let count = 0;
    let [interval, counter] = [1, 0];
    for (let step = 1; step <= 600; step++) {
      if (renewals.has(step)) count++;
      const { k, renewals: known } = at(step);
      expect(known).toBe(count);
      if (step <= freeze) expect(k).toBe(renewals.has(step) ? "dense" : "meet");
      else {
        expect(k).toBe((step - freeze) % interval === 0 ? "meet" : "alone");
        if (++counter === localScale) [counter, interval] = [0, Math.min(localClip, 2 * interval)];
      }
    }
  }
  const standard = zeroOneSchedule();
  expect([100_000, 132_678, 132_680].map((step) => standard(step).k)).toEqual(["meet", "meet", "meet"]);
  expect(standard(132_679).k).toBe("alone");
});

test("0/1 Adam is the plain loop, alone and where workers meet, and loses no momentum", () => {
  const schedule = { varianceScale: 2, varianceFreezeStep: 8, localScale: 4, localClip: 4 };
  const method = zeroOneAdam({ ...common, ...schedule });
  const { run, step, gradients } = recorded(method, WORKERS);
  const at = zeroOneSchedule(schedule);
  const rate = (t: number): number => rateAt(t) / (1 - B1 ** t);
  let [anchor, v, scale] = [[...START], zero(), START.map(() => 1)];
  let m = ranks(WORKERS).map(zero);
  let u = ranks(WORKERS).map(zero);
  let worker = ranks(WORKERS).map(zero);
  let [server, renewals, rates] = [zero(), 0, 0];
  let [applied, produced] = [zero(), zero()];
  const seen = new Set<string>();
  for (let t = 1; t <= 40; t++) {
    const { k: kind } = at(t);
    seen.add(kind);
    const g = ranks(WORKERS).map((k) =>
      gradientOf(
        k,
        t,
        anchor.map((a, i) => a - u[k]![i]! / scale[i]!),
      ),
    );
    anchor = times(1 - rateAt(t) * DECAY, anchor);
    if (kind === "dense") {
      const all = mean(g);
      v = secondMoment(v, all);
      scale = scaleOf(v, ++renewals);
      m = m.map((mk) => firstMoment(mk, all));
      anchor = anchor.map((a, i) => a - (rate(t) * m[0]![i]!) / scale[i]!);
    } else {
      m = m.map((mk, k) => firstMoment(mk, g[k]!));
      u = u.map((uk, k) => plus(uk, times(rate(t), m[k]!)));
      rates += rate(t);
      produced = plus(produced, times(rate(t), sumOf(m)));
    }
    if (kind === "meet") {
      const vectors = u.map((uk, k) => plus(uk, worker[k]!));
      const sent = vectors.map((d) => signs(d, t));
      worker = vectors.map((d, k) => minus(d, sent[k]!));
      const total = plus(mean(sent), server);
      const U = signs(total, t);
      server = minus(total, U);
      anchor = anchor.map((a, i) => a - U[i]! / scale[i]!);
      m = m.map(() => times(1 / rates, U));
      u = u.map(zero);
      applied = plus(applied, U);
      rates = 0;
    }
    step();
    expect(maxDifference(gradients.at(-1)!.flat(), g.flat())).toBeLessThan(1e-11);
    run.states.forEach((s, k) => {
      expect(maxDifference(list(s.anchor), anchor)).toBeLessThan(1e-11);
      expect(maxDifference(list(s.mean), m[k]!)).toBeLessThan(1e-11);
    });
    const kept = plus(
      sumOf(run.states.flatMap((s) => [list(s.errors.worker), list(s.sum)])),
      times(WORKERS, list(run.states[0]!.errors.server)),
    );
    expect(maxDifference(plus(times(WORKERS, applied), kept), produced)).toBeLessThan(1e-11);
    const view = anchor.map((a, i) => a - kept[i]! / WORKERS / scale[i]!);
    expect(maxDifference(list(run.view()), view)).toBeLessThan(1e-11);
  }
  expect([...seen].sort()).toEqual(["alone", "dense", "meet"]);
});

/** AdamW at every worker, and an outer step by Nesterov's momentum. */
function publishedDiLoCo(period: number, outerRate: number, mu: number): Track[] {
  let [anchor, buffer] = [[...START], zero()];
  let x = ranks(WORKERS).map(() => anchor);
  let m = ranks(WORKERS).map(zero);
  let v = ranks(WORKERS).map(zero);
  return Array.from({ length: STEPS }, (_, i) => {
    const t = i + 1;
    const g = x.map((xk, k) => gradientOf(k, t, xk));
    m = m.map((mk, k) => firstMoment(mk, g[k]!));
    v = v.map((vk, k) => secondMoment(vk, g[k]!));
    x = x.map((xk, k) => adamStep(xk, m[k]!, scaleOf(v[k]!, t), t));
    if (t % period === 0) {
      const d = minus(anchor, mean(x));
      buffer = plus(times(mu, buffer), d);
      anchor = minus(anchor, times(outerRate, plus(d, times(mu, buffer))));
      x = x.map(() => anchor);
    }
    return { positions: x, view: mean(x) };
  });
}

test("DiLoCo and local Adam are the plain loops", () => {
  expectSame(track(diLoCo({ ...common, period: 4 }), WORKERS, STEPS), publishedDiLoCo(4, 0.7, 0.9));
  const changed = diLoCo({ ...common, period: 5, outerLearningRate: 0.5, outerMomentum: 0.3 });
  expectSame(track(changed, WORKERS, STEPS), publishedDiLoCo(5, 0.5, 0.3));
  expectSame(track(localAdam({ ...common, period: 3 }), WORKERS, STEPS), publishedDiLoCo(3, 1, 0));
});

test("DiLoCo of one worker that meets itself at every step, without momentum, is AdamW", () => {
  const method = diLoCo({ ...common, period: 1, outerLearningRate: 1, outerMomentum: 0 });
  expectSame(track(method, 1, STEPS), adamTrack(1, STEPS));
});

test("an outer step goes towards the mean of the workers, not away from it", () => {
  const method = diLoCo({ ...common, period: 4, outerLearningRate: 0.1, outerMomentum: 0 });
  const { run, step } = recorded(method, WORKERS);
  for (let t = 1; t < 4; t++) step();
  const anchor = list(run.states[0]!.anchor);
  const ahead = mean(run.states.map((s) => list(method.position(s))));
  step();
  const moved = minus(list(run.states[0]!.anchor), anchor);
  const way = minus(ahead, anchor);
  expect(moved.reduce((sum, d, i) => sum + d * way[i]!, 0)).toBeGreaterThan(0);
});
