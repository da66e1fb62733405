/** Error feedback over momentum descent: against plain loops, where nothing is compressed, and what is conserved. */
import { expect, test } from "bun:test";
import { tensor } from "../../../core/create.ts";
import { blockCompressor } from "../../../dist/compress/block.ts";
import {
  detachedErrorFeedback,
  type ErrorFeedbackState,
  errorFeedback,
  stepAheadErrorFeedback,
} from "../../../dist/compress/error_feedback.ts";
import { errorReset } from "../../../dist/compress/error_reset.ts";
import { gradientFeedbackMomentum } from "../../../dist/compress/gradient_feedback.ts";
import { powerSgdMean } from "../../../dist/compress/lossy_mean.ts";
import type { CommunicatingMethod } from "../../../dist/compress/method.ts";
import { together } from "../../../dist/compress/together.ts";
import { topKCompressor } from "../../../dist/compress/top_k.ts";
import { list, maxDifference, type Vector } from "../../optim/numbers.ts";
import {
  blocks,
  gradientOf,
  largest,
  mean,
  minus,
  plus,
  type Reference,
  ranks,
  rateAt,
  recorded,
  SHAPES,
  START,
  sumOf,
  type Track,
  times,
  track,
  zero,
} from "./baseline_problem.ts";

const WORKERS = 3;
const STEPS = 24;
const MU = 0.8;
const DECAY = 0.01;
const common = {
  shapes: SHAPES,
  dtype: "float64",
  learningRate: rateAt,
  momentum: MU,
  weightDecay: DECAY,
} as const;
const topK = topKCompressor({ shapes: SHAPES, ratio: 4 });
const block = blockCompressor({ shapes: SHAPES, ratio: 4, seed: 5 });

function expectSame(actual: readonly Track[], expected: readonly Track[], tolerance = 1e-12): void {
  expect(actual.length).toBe(expected.length);
  actual.forEach(({ positions, view }, t) => {
    expect(maxDifference(view, expected[t]!.view)).toBeLessThan(tolerance);
    positions.forEach((x, k) => {
      expect(maxDifference(x, expected[t]!.positions[k]!)).toBeLessThan(tolerance);
    });
  });
}

/** M <- mu M + g + wd x */
function velocityOf(M: Vector, k: number, t: number, x: Vector): number[] {
  return plus(times(MU, M), plus(gradientOf(k, t, x), times(DECAY, x)));
}

/** Momentum descent on the mean gradient at one point. */
function momentumDescent(workers: number, steps: number): Track[] {
  let [x, M] = [[...START], zero()];
  return Array.from({ length: steps }, (_, i) => {
    M = mean(ranks(workers).map((k) => velocityOf(M, k, i + 1, x)));
    x = minus(x, times(rateAt(i + 1), M));
    return { positions: ranks(workers).map(() => x), view: x };
  });
}

/** Error feedback as it is published: what is compressed is the way from the anchor, and what was not sent before. */
function publishedFeedback(compress: Reference, period: number): Track[] {
  let anchor = [...START];
  let x = ranks(WORKERS).map(() => anchor);
  let M = ranks(WORKERS).map(zero);
  let e = ranks(WORKERS).map(zero);
  return Array.from({ length: STEPS }, (_, i) => {
    const t = i + 1;
    M = M.map((m, k) => velocityOf(m, k, t, x[k]!));
    x = x.map((xk, k) => minus(xk, times(rateAt(t), M[k]!)));
    if (t % period === 0) {
      const delta = x.map((xk, k) => plus(minus(anchor, xk), e[k]!));
      const sent = delta.map((d) => compress(d, t));
      e = delta.map((d, k) => minus(d, sent[k]!));
      anchor = minus(anchor, mean(sent));
      x = x.map(() => anchor);
    }
    const view = mean(ranks(WORKERS).map((k) => minus(x[k]!, e[k]!)));
    return { positions: x, view };
  });
}

/** Step-ahead error feedback: at every step the update and the error are compressed. */
function publishedStepAhead(compress: Reference, averageEvery: number): Track[] {
  let anchor = [...START];
  let M = ranks(WORKERS).map(zero);
  let e = ranks(WORKERS).map(zero);
  return Array.from({ length: STEPS }, (_, i) => {
    const t = i + 1;
    M = M.map((m, k) => velocityOf(m, k, t, minus(anchor, e[k]!)));
    const delta = M.map((m, k) => plus(times(rateAt(t), m), e[k]!));
    const sent = delta.map((d) => compress(d, t));
    anchor = minus(anchor, mean(sent));
    e = delta.map((d, k) => minus(d, sent[k]!));
    if (t % averageEvery === 0) e = e.map(() => mean(e));
    return { positions: e.map((ek) => minus(anchor, ek)), view: minus(anchor, mean(e)) };
  });
}

function publishedDetached(compress: Reference, weight: number, period: number): Track[] {
  let anchor = [...START];
  let x = ranks(WORKERS).map(() => anchor);
  let M = ranks(WORKERS).map(zero);
  let delta = ranks(WORKERS).map(zero);
  return Array.from({ length: STEPS }, (_, i) => {
    const t = i + 1;
    M = M.map((m, k) => velocityOf(m, k, t, x[k]!));
    x = x.map((xk, k) => minus(xk, times(rateAt(t), M[k]!)));
    delta = delta.map((d, k) => plus(d, times(rateAt(t), M[k]!)));
    if (t % period === 0) {
      const sent = delta.map((d) => compress(d, t));
      delta = delta.map((d, k) => minus(d, sent[k]!));
      anchor = minus(anchor, mean(sent));
      x = delta.map((e) => minus(anchor, times(weight, e)));
    }
    return { positions: x, view: minus(anchor, mean(delta)) };
  });
}

test("error feedback is what is published, sparse or in blocks, at every step or every third", () => {
  for (const period of [1, 3]) {
    const top = errorFeedback({ ...common, compressor: topK, period });
    expectSame(track(top, WORKERS, STEPS), publishedFeedback(largest(4), period));
    const drawn = errorFeedback({ ...common, compressor: block, period });
    expectSame(track(drawn, WORKERS, STEPS), publishedFeedback(blocks(4, 5), period));
  }
});

test("step-ahead error feedback is what is published", () => {
  const method = stepAheadErrorFeedback({ ...common, compressor: topK, averageEvery: 5 });
  expectSame(track(method, WORKERS, STEPS), publishedStepAhead(largest(4), 5));
});

test("detached error feedback is what is published", () => {
  const method = detachedErrorFeedback({ ...common, compressor: topK, residualWeight: 0.3, period: 2 });
  expectSame(track(method, WORKERS, STEPS), publishedDetached(largest(4), 0.3, 2));
});

test("detached error feedback without weight is error feedback, with all of it step-ahead without means", () => {
  const bitwise = (a: CommunicatingMethod<ErrorFeedbackState>, b: CommunicatingMethod<ErrorFeedbackState>) =>
    expect(track(a, WORKERS, STEPS)).toEqual(track(b, WORKERS, STEPS));
  const options = { ...common, compressor: block };
  bitwise(detachedErrorFeedback({ ...options, residualWeight: 0 }), errorFeedback(options));
  bitwise(
    detachedErrorFeedback({ ...options, residualWeight: 1 }),
    stepAheadErrorFeedback({ ...options, averageEvery: STEPS + 1 }),
  );
});

test("means of the errors at every step make momentum descent on the mean gradient", () => {
  const method = stepAheadErrorFeedback({ ...common, compressor: topK, averageEvery: 1 });
  expectSame(track(method, WORKERS, STEPS), momentumDescent(WORKERS, STEPS));
});

test("where all is sent every method is momentum descent on the mean gradient", () => {
  const whole = blockCompressor({ shapes: SHAPES, ratio: 1, seed: 0 });
  const expected = momentumDescent(WORKERS, STEPS);
  for (const method of [
    errorFeedback({ ...common, compressor: whole }),
    stepAheadErrorFeedback({ ...common, compressor: whole }),
    detachedErrorFeedback({ ...common, compressor: whole }),
    errorReset({ ...common, compressor: whole, errorCompressor: block }),
    errorReset({ ...common, errorCompressor: whole }),
    gradientFeedbackMomentum({ ...common, compressor: whole }),
  ] as readonly CommunicatingMethod<unknown>[]) {
    expectSame(track(method, WORKERS, STEPS), expected);
  }
});

/** Error reset as it is published; `first` null sends nothing of the updates. */
function publishedReset(first: Reference | null, second: Reference, resetEvery: number): Track[] {
  let x = ranks(WORKERS).map(() => [...START]);
  let M = ranks(WORKERS).map(zero);
  let e = ranks(WORKERS).map(zero);
  return Array.from({ length: STEPS }, (_, i) => {
    const t = i + 1;
    M = M.map((m, k) => velocityOf(m, k, t, x[k]!));
    const update = M.map((m) => times(rateAt(t), m));
    const sent = update.map((u) => (first ? first(u, t) : zero()));
    const r = update.map((u, k) => minus(u, sent[k]!));
    x = x.map((xk, k) => minus(xk, plus(mean(sent), r[k]!)));
    e = e.map((ek, k) => minus(ek, r[k]!));
    if (t % resetEvery === 0) {
      const errors = e.map((ek) => second(ek, t));
      const rest = e.map((ek, k) => minus(ek, errors[k]!));
      x = x.map((xk, k) => plus(minus(xk, e[k]!), plus(mean(errors), rest[k]!)));
      e = rest;
    }
    return { positions: x, view: mean(x) };
  });
}

test("error reset is what is published, with blocks of two compressors or with one", () => {
  const two = errorReset({ ...common, compressor: topK, errorCompressor: block, resetEvery: 4 });
  expectSame(track(two, WORKERS, STEPS), publishedReset(largest(4), blocks(4, 6), 4));
  const one = errorReset({ ...common, errorCompressor: topK, resetEvery: 2 });
  expectSame(track(one, WORKERS, STEPS), publishedReset(null, largest(4), 2));
});

test("gradients with error feedback before the momentum are what is published", () => {
  let x = [...START];
  let M = zero();
  let e = ranks(WORKERS).map(zero);
  const compress = largest(4);
  const expected = Array.from({ length: STEPS }, (_, i): Track => {
    const t = i + 1;
    const delta = e.map((ek, k) => plus(times(rateAt(t), gradientOf(k, t, x)), ek));
    const sent = delta.map((d) => compress(d, t));
    e = delta.map((d, k) => minus(d, sent[k]!));
    M = plus(times(MU, M), plus(times(1 / rateAt(t), mean(sent)), times(DECAY, x)));
    x = minus(x, times(rateAt(t), M));
    return { positions: ranks(WORKERS).map(() => x), view: x };
  });
  expectSame(track(gradientFeedbackMomentum({ ...common, compressor: topK }), WORKERS, STEPS), expected);
});

test("what is applied and what is kept back are what was produced, at every step", () => {
  const power = powerSgdMean({ shapes: SHAPES, rank: 1, seed: 3 });
  for (const compressor of [topK, block, power]) {
    for (const method of [
      errorFeedback({ ...common, compressor, period: 2 }),
      stepAheadErrorFeedback({ ...common, compressor, averageEvery: 4 }),
      detachedErrorFeedback({ ...common, compressor, residualWeight: 0.3 }),
    ]) {
      const { run, step } = recorded(method, WORKERS);
      let produced = zero();
      for (let t = 1; t <= STEPS; t++) {
        step();
        produced = plus(produced, times(rateAt(t), sumOf(run.states.map((s) => list(s.momentum)))));
        const applied = minus(START, list(run.states[0]!.anchor));
        const kept = sumOf(run.states.map((s) => list(s.pending)));
        expect(maxDifference(plus(times(WORKERS, applied), kept), produced)).toBeLessThan(1e-12);
        expect(maxDifference(list(run.view()), minus(START, times(1 / WORKERS, produced)))).toBeLessThan(
          1e-12,
        );
      }
    }
    const reset = errorReset({ ...common, compressor, errorCompressor: topK, resetEvery: 3 });
    const { run, step } = recorded(reset, WORKERS);
    let produced = zero();
    for (let t = 1; t <= STEPS; t++) {
      step();
      produced = plus(produced, times(rateAt(t), sumOf(run.states.map((s) => list(s.momentum)))));
      expect(maxDifference(list(run.view()), minus(START, times(1 / WORKERS, produced)))).toBeLessThan(1e-12);
    }
  }
  const plain = gradientFeedbackMomentum({ ...common, compressor: topK, momentum: 0, weightDecay: 0 });
  const { run, step, gradients } = recorded(plain, WORKERS);
  let produced = zero();
  for (let t = 1; t <= STEPS; t++) {
    step();
    produced = plus(produced, times(rateAt(t), sumOf(gradients.at(-1)!)));
    const kept = sumOf(run.states.map((s) => list(s.residual)));
    const applied = minus(START, list(run.states[0]!.theta));
    expect(maxDifference(plus(times(WORKERS, applied), kept), produced)).toBeLessThan(1e-12);
  }
});

test("PowerSGD with error feedback sends what two thin factors can hold, and all of what has the rank for it", () => {
  const shapes = [[6, 5], [4]] as const;
  const options = { shapes, dtype: "float64", learningRate: 1, momentum: 0 } as const;
  const exact = errorFeedback({ ...options, compressor: powerSgdMean({ shapes, rank: 1, seed: 0 }) });
  const { run, step } = powerRun(exact);
  step((i, j) => (i + 1) * (j - 1.5));
  // The mean of two workers' multiples of one matrix of rank one is such a matrix.
  for (const { pending } of run.states) expect(Math.max(...list(pending).map(Math.abs))).toBeLessThan(1e-12);

  const lossy = powerRun(
    errorFeedback({ ...options, compressor: powerSgdMean({ shapes, rank: 2, seed: 0 }) }),
  );
  lossy.step((i, j) => Math.sin(3 * i * j + i - j));
  const kept = list(lossy.run.states[0]!.pending);
  // What is left of M is M - P Pᵀ M, of which P Pᵀ has nothing: it is orthogonal to what was sent.
  const sent = minusAll(lossy.gradients[0]!, kept);
  expect(Math.abs(sent.reduce((sum, x, i) => sum + x * kept[i]!, 0))).toBeLessThan(1e-10);
  expect(Math.max(...kept.slice(0, 30).map(Math.abs))).toBeGreaterThan(0.01);
  expect(kept.slice(30)).toEqual([0, 0, 0, 0]);
});

/** One step of two workers on a matrix [6, 5] and a vector [4]; worker 1 has twice the gradient of worker 0. */
function powerRun(method: CommunicatingMethod<ErrorFeedbackState>) {
  const gradients: number[][] = [];
  const run = together(method, tensor(new Float64Array(34)), 2);
  return {
    run,
    gradients,
    step(element: (i: number, j: number) => number) {
      run.step((rank) => {
        const scale = rank + 1;
        gradients[rank] = Array.from({ length: 34 }, (_, at) =>
          at < 30 ? scale * element(Math.floor(at / 5), at % 5) : scale * at,
        );
        return tensor(Float64Array.from(gradients[rank]));
      });
    },
  };
}

const minusAll = (x: Vector, y: Vector): number[] => x.map((xi, i) => xi - y[i]!);
