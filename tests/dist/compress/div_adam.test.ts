import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { ones, tensor } from "../../../core/create.ts";
import { decode, encode } from "../../../core/io.ts";
import { abs, add, cast, div, max, mul, sqrt, sub, sum } from "../../../core/ops.ts";
import { leaves } from "../../../core/tree.ts";
import type { Value } from "../../../core/value.ts";
import { blockIndices } from "../../../dist/compress/block.ts";
import {
  type DivAdam,
  type DivAdamOptions,
  type DivAdamState,
  divAdam,
} from "../../../dist/compress/div_adam.ts";
import { type Pairs, packingOf } from "../../../dist/compress/pairs.ts";
import { type Together, together } from "../../../dist/compress/together.ts";
import { adamw } from "../../../optim/adam.ts";
import { meanOf } from "../../../optim/admm.ts";
import { propWith } from "../../support/prop.ts";
import { assertClose, assertSameBits } from "../../support/tolerance.ts";
import { dividedAdamLoop, type GradientOf, type LoopOptions } from "./divided_adam_loop.ts";

const shapes = [[4, 5], [6], [1]];
const size = 27;
const packing = packingOf([20, 6, 1]);
const start: readonly number[] = Array.from({ length: size }, (_, i) => Math.sin(2 * i + 1));
const doubles = (data: ArrayLike<number>): Value => tensor(Array.from(data), { dtype: "float64" });
const numbers = (x: Value): number[] => Array.from(x.dataSync());

/** Workers that want different things, with noise of their own. */
const gradientOf: GradientOf = (rank, step, x) =>
  x.map(
    (xi, i) =>
      (1 + 0.3 * Math.sin(rank + i)) * (xi - Math.cos(3 * rank + i)) +
      0.5 * Math.sin(7 * step + 5 * rank + 3 * i),
  );

type Run = Together<DivAdamState>;

/** One step on these gradients; the position's element type is kept. */
function stepOn(run: Run, gradient: GradientOf = gradientOf): void {
  const step = run.steps + 1;
  run.step((rank, x) => cast(doubles(gradient(rank, step, numbers(x))), x.dtype));
}

function started(method: DivAdam, workers = 3): Run {
  return together(method, doubles(start), workers);
}

/** All options that change what is computed. */
const settings = fc
  .record({
    ratio: fc.constantFrom(2, 7, 100),
    period: fc.integer({ min: 1, max: 5 }),
    delayPart: fc.integer({ min: 0, max: 5 }),
    residualWeight: fc.constantFrom(0, 0.3, 1),
    warmup: fc.integer({ min: 1, max: 3 }),
    windowEvery: fc.integer({ min: 1, max: 2 }),
    averageMomentum: fc.boolean(),
    weightDecay: fc.constantFrom(0, 0.1),
    compressor: fc.constantFrom("block" as const, "topk" as const),
    seed: fc.integer({ min: 0, max: 1000 }),
  })
  .map(
    ({ delayPart, windowEvery, ...rest }): LoopOptions => ({
      ...rest,
      shapes,
      learningRate: (step) => 0.02 / (1 + 0.1 * step),
      delay: Math.min(delayPart, rest.period),
      varianceEvery: windowEvery * rest.period,
    }),
  );

/** After step 9 something is under way, until step 12. */
const ends12: LoopOptions = {
  shapes,
  learningRate: 0.01,
  ratio: 20,
  period: 3,
  delay: 3,
  residualWeight: 1,
  warmup: 2,
  varianceEvery: 3,
  averageMomentum: false,
  weightDecay: 0,
  compressor: "block",
  seed: 0,
};

/** Adam with dense exchanges, by the optimizer of the library: the parameters after each step. */
function adamPath(options: LoopOptions, workers: number, steps: number): Value[] {
  const rate = options.learningRate as (step: number) => number;
  const path: Value[] = [];
  let x = doubles(start);
  // Rate 1 and no schedule, which would count in float32.
  const direction = adamw(1, { weightDecay: options.weightDecay });
  let state = direction.init(x);
  for (let step = 1; step <= steps; step++) {
    const g = Array.from({ length: workers }, (_, rank) => doubles(gradientOf(rank, step, numbers(x))));
    const [update, next] = direction.update(meanOf(g), state, x, {});
    state = next;
    x = add(x, mul(rate(step), update));
    path.push(x);
  }
  return path;
}

/** The update of a worker in the step that led to its state. */
function updateOf({ mean: m, square, count }: DivAdamState, step: number, rate: number): Value {
  const v = div(square, 1 - 0.999 ** count.item());
  return mul(rate / (1 - 0.9 ** step), div(m, add(sqrt(v), 1e-8)));
}

const keptBack = (method: DivAdam, { states }: Run): Value =>
  meanOf(states.map((state) => sub(state.anchor, method.view(state))));

describe("divAdam", () => {
  propWith(
    { runs: 14 },
    "computes what its formulas say, step by step",
    settings,
    fc.integer({ min: 1, max: 4 }),
    (options, workers) => {
      const run = started(divAdam(options), workers);
      const points = dividedAdamLoop(options, start, workers, 16, gradientOf);
      for (const { anchor, square, view, workers: own } of points) {
        stepOn(run);
        const at = `step ${run.steps}`;
        assertClose(run.view(), doubles(view), `view after ${at}`);
        for (const [rank, state] of run.states.entries()) {
          assertClose(state.anchor, doubles(anchor), `anchor after ${at}`);
          assertClose(state.square, doubles(square), `square after ${at}`);
          assertClose(state.mean, doubles(own[rank]!.m), `mean of ${rank} after ${at}`);
          assertClose(state.fresh, doubles(own[rank]!.f), `residual of ${rank} after ${at}`);
          assertClose(state.window, doubles(own[rank]!.w), `window of ${rank} after ${at}`);
        }
      }
    },
  );

  propWith(
    { runs: 8 },
    "is Adam where the ratio is 1, for every period, delay and weight",
    settings,
    (options) => {
      const method = divAdam({ ...options, ratio: 1 });
      const run = started(method);
      for (const x of adamPath(options, 3, 12)) {
        stepOn(run);
        // Of each worker: the mean of three equal numbers may be rounded.
        for (const state of run.states) assertSameBits(method.view(state), x, "parameters");
        expect(run.isOpen).toBe(false);
      }
    },
  );

  propWith(
    { runs: 8 },
    "is Adam where everything is applied in its own step, for every ratio and weight",
    settings,
    (options) => {
      const run = started(divAdam({ ...options, period: 1, delay: 0, varianceEvery: 1 }));
      for (const x of adamPath(options, 3, 12)) {
        stepOn(run);
        assertClose(run.view(), x, "parameters", { relative: 1e-14 });
      }
    },
  );

  test("with one worker whose position has all of its residuals it is Adam with a delayed mean of squares", () => {
    const [period, delay, warmup, steps] = [4, 3, 2, 30];
    const run = started(divAdam({ shapes, ratio: 50, period, delay, warmup, learningRate: 0.01 }), 1);
    let [x, m, v, seen] = [[...start], start.map(() => 0), start.map(() => 0), 0];
    let window = null as { sum: number[]; count: number; readyAt: number } | null;
    let [sums, count] = [start.map(() => 0), 0];
    const see = (total: readonly number[], n: number): void => {
      v = v.map((vi, i) => 0.999 ** n * vi + (1 - 0.999 ** n) * (total[i]! / n) ** 2);
      seen += n;
    };
    for (let t = 1; t <= steps; t++) {
      const g = gradientOf(0, t, x);
      if (t <= warmup) see(g, 1);
      else {
        [sums, count] = [sums.map((s, i) => s + g[i]!), count + 1];
        if (window?.readyAt === t) {
          see(window.sum, window.count);
          window = null;
        }
        if (t % period === 0) {
          window = { sum: sums, count, readyAt: t + delay };
          [sums, count] = [start.map(() => 0), 0];
        }
      }
      m = m.map((mi, i) => 0.9 * mi + 0.1 * g[i]!);
      x = x.map((xi, i) => {
        const root = Math.sqrt(v[i]! / (1 - 0.999 ** seen));
        return xi - (0.01 * m[i]!) / (1 - 0.9 ** t) / (root + 1e-8);
      });
      stepOn(run);
      assertClose(run.view(), doubles(x), `after step ${t}`);
    }
  });

  test("without a background it is error feedback on updates with the mean of squares of the warmup", () => {
    const [ratio, warmup, workers] = [5, 3, 3];
    const method = divAdam({ shapes, ratio, warmup, period: Infinity, learningRate: 0.01 });
    expect(method.background).toBeUndefined();
    const run = started(method, workers);
    for (let t = 1; t <= warmup; t++) stepOn(run);
    const { square } = run.states[0]!;
    const root = numbers(square).map((v) => Math.sqrt(v / (1 - 0.999 ** warmup)) + 1e-8);
    let A = numbers(run.states[0]!.anchor);
    const own = run.states.map((state) => ({ m: numbers(state.mean), e: start.map(() => 0) }));
    for (let t = warmup + 1; t <= 20; t++) {
      const block = new Set(blockIndices(shapes, ratio, 0, t));
      const change = start.map(() => 0);
      for (const [rank, worker] of own.entries()) {
        const g = gradientOf(
          rank,
          t,
          A.map((a, i) => a - worker.e[i]!),
        );
        worker.m = worker.m.map((mi, i) => 0.9 * mi + 0.1 * g[i]!);
        const p = worker.e.map((e, i) => e + (0.01 * worker.m[i]!) / (1 - 0.9 ** t) / root[i]!);
        worker.e = p.map((pi, i) => (block.has(i) ? 0 : pi));
        for (const i of block) change[i]! += p[i]! / workers;
      }
      A = A.map((a, i) => a - change[i]!);
      stepOn(run);
      assertClose(run.states[0]!.anchor, doubles(A), `anchor after step ${t}`);
      assertSameBits(run.states[0]!.square, square, "the mean of squares");
    }
  });

  propWith(
    { runs: 8 },
    "nothing is lost: what was not applied is kept back, to rounding, in int16 too",
    settings,
    fc.constantFrom("float32" as const, "int16" as const),
    fc.boolean(),
    (options, precision, isLossy) => {
      const rate = options.learningRate as (step: number) => number;
      // Momenta that are averaged in the step itself are not those of its update.
      const averageMomentum = options.averageMomentum && options.delay > 0;
      const method = divAdam({ ...options, averageMomentum, weightDecay: 0, precision });
      const run = started(method);
      let expected = doubles(start);
      for (let step = 1; step <= 20; step++) {
        stepOn(run);
        const updates = run.states.map((state) => updateOf(state, step, rate(step)));
        expected = sub(expected, meanOf(updates));
        assertClose(run.view(), expected, `after step ${step}`);
        if (isLossy && step % 7 === 0) {
          const before = run.states;
          run.lose(method.abandon);
          for (const [rank, state] of run.states.entries())
            assertClose(method.view(state), method.view(before[rank]!), "a worker's view after the loss");
        }
      }
    },
  );

  propWith(
    { runs: 8 },
    "the sum of windows and of what was seen is the sum of gradients",
    settings,
    (options) => {
      const run = started(divAdam({ ...options, precision: "int16", delay: Math.max(1, options.delay) }));
      let total = run.states.map(() => doubles(start.map(() => 0)));
      const seen = [...total];
      for (let step = 1; step <= 14; step++) {
        const before = run.states.map(({ window }) => window);
        const now = [...before];
        stepOn(run, (rank, t, x) => {
          const g = gradientOf(rank, t, x);
          if (t > options.warmup) now[rank] = doubles(g);
          return g;
        });
        if (step > options.warmup) total = total.map((sum, rank) => add(sum, now[rank]!));
        for (const [rank, { flying, window }] of run.states.entries()) {
          const isNew = !Array.isArray(flying) && step % options.varianceEvery === 0 && step > options.warmup;
          if (isNew && "sent" in flying && "residual" in flying.units) {
            const sent = packing.unpacked(flying.sent.window as Pairs, flying.units.window!);
            seen[rank] = add(seen[rank]!, sent);
          }
          assertClose(add(seen[rank]!, window), total[rank]!, `gradients of ${rank} after step ${step}`);
          // Where no window leaves, it grows by the gradient alone.
          if (step <= options.warmup) assertSameBits(window, before[rank]!, "a window in a dense step");
          else if (!isNew)
            assertClose(sub(window, before[rank]!), now[rank]!, `growth of the window of ${rank} at ${step}`);
        }
      }
    },
  );

  propWith(
    { runs: 8 },
    "anchor and mean of squares have the same bits at all workers; positions after dense steps",
    settings,
    (options) => {
      const method = divAdam(options);
      const run = started(method, 4);
      for (let step = 1; step <= 12; step++) {
        stepOn(run);
        const [first, ...others] = run.states;
        for (const state of others) {
          assertSameBits(state.anchor, first!.anchor, "anchor");
          assertSameBits(state.square, first!.square, "square");
          if (step <= options.warmup)
            assertSameBits(method.position(state), method.position(first!), "position");
        }
      }
    },
  );

  propWith({ runs: 8 }, "another order of workers changes rounding alone", settings, (options) => {
    const [run, other] = [started(divAdam(options), 3), started(divAdam(options), 3)];
    for (let step = 1; step <= 12; step++) {
      stepOn(run);
      stepOn(other, (rank, t, x) => gradientOf((rank + 1) % 3, t, x));
      assertClose(other.view(), run.view(), `after step ${step}`);
    }
  });

  test("the mean of momenta over the workers does not know of averaging, their spread does", () => {
    for (const delay of [0, 1, 3]) {
      const options = { shapes, ratio: 20, period: 3, delay, warmup: 2, learningRate: 0.01 };
      const run = started(divAdam({ ...options, averageMomentum: true }));
      let expected = doubles(start.map(() => 0));
      for (let step = 1; step <= 20; step++) {
        const gradients: Value[] = [];
        stepOn(run, (rank, t, x) => {
          const g = gradientOf(rank, t, x);
          gradients.push(doubles(g));
          return g;
        });
        expected = add(mul(0.9, expected), mul(0.1, meanOf(gradients)));
        const momenta = run.states.map((state) => state.mean);
        assertClose(meanOf(momenta), expected, `mean after step ${step}`);
        if (delay === 0 && step > 2 && step % 3 === 0)
          for (const m of momenta) assertClose(m, expected, "every momentum");
      }
      const alone = started(divAdam(options));
      const spread = ({ states }: Run): number =>
        max(abs(sub(states[0]!.mean, meanOf(states.map((state) => state.mean))))).item();
      const constant: GradientOf = (rank, _, x) => x.map(() => rank - 1);
      for (let step = 1; step <= 20; step++) stepOn(alone, constant);
      const together20 = started(divAdam({ ...options, averageMomentum: true }));
      for (let step = 1; step <= 20; step++) stepOn(together20, constant);
      expect(spread(together20)).toBeLessThan(0.5 * spread(alone));
    }
  });

  test("a result that does not come is taken back, one that comes after that is ignored", () => {
    const method = divAdam({ shapes, ratio: 9, period: 3, delay: 2, warmup: 2, learningRate: 0.01 });
    const run = started(method);
    for (let step = 1; step <= 3; step++) stepOn(run);
    const state = run.states[0]!;
    const result = method.background!.reduce(run.states.map((s) => method.background!.payload(s)));
    const at = { step: 5, rank: 0, workers: 3 };
    const gradient = ones([size], { dtype: "float64" });
    const [lost] = method.begin(state, gradient, null, at);
    const [late] = method.begin(method.abandon(state), gradient, result, at);
    const [inTime] = method.begin(state, gradient, result, at);
    expect(leaves(lost).length).toBe(leaves(late).length);
    for (const [i, x] of leaves(late).entries()) assertSameBits(x, leaves(lost)[i]!, `leaf ${i}`);
    assertSameBits(lost.anchor, state.anchor, "anchor");
    expect(max(abs(sub(inTime.anchor, state.anchor))).item()).toBeGreaterThan(1e-3);
  });

  test("what is taken back has its gradients and their number", () => {
    const method = divAdam({ ...ends12, learningRate: 0.01 });
    const run = started(method);
    const sums = [0, 1, 2].map(() => doubles(start.map(() => 0)));
    for (let step = 1; step <= 4; step++) {
      stepOn(run, (rank, t, x) => {
        const g = gradientOf(rank, t, x);
        if (t > 2) sums[rank] = add(sums[rank]!, doubles(g));
        return g;
      });
    }
    expect(run.states[0]!.gathered.item()).toBe(1);
    for (const [rank, state] of run.states.entries()) {
      const back = method.abandon(state);
      expect(back.gathered.item()).toBe(2);
      assertClose(back.window, sums[rank]!, "window");
    }
  });

  test("a flush makes all workers equal, keeps the parameters, and another number of them goes on", () => {
    const options = { shapes, ratio: 9, period: 4, delay: 3, warmup: 2, learningRate: 0.01 };
    for (const [precision, steps] of [
      ["float32", 9],
      ["float32", 11],
      ["int16", 9],
    ] as const) {
      const method = divAdam({ ...options, precision });
      const run = started(method, 3);
      const sums: Value[] = [];
      for (let step = 1; step <= steps; step++) {
        stepOn(run, (rank, t, x) => {
          const g = gradientOf(rank, t, x);
          if (t > 4) sums.push(doubles(g));
          return g;
        });
      }
      const { states } = run;
      const view = run.view();
      const momentum = meanOf(states.map((state) => state.mean));
      run.flush();
      expect(run.isOpen).toBe(false);
      assertClose(run.view(), view, "parameters after the flush");
      for (const state of run.states) {
        for (const [i, x] of leaves(state).entries())
          assertSameBits(x, leaves(run.states[0])[i]!, `leaf ${i} of all workers`);
        assertClose(state.anchor, view, "anchor");
        assertClose(state.mean, momentum, "momentum");
        expect(state.count.item()).toBe(steps);
      }
      // v has seen the gradients of the steps 3 and 4 at step 7, if it came; the rest, or all, at the flush.
      const five = together(method, view, { states: Array(5).fill(run.states[0]), steps: run.steps });
      let expected = view;
      for (let step = run.steps + 1; step <= 30; step++) {
        stepOn(five);
        expected = sub(expected, meanOf(five.states.map((state) => updateOf(state, step, 0.01))));
        assertClose(five.view(), expected, `parameters of five workers after step ${step}`);
      }
    }
  });

  test("a flush shows all gradients to the mean of squares", () => {
    const method = divAdam({ shapes, ratio: 9, period: 4, delay: 3, warmup: 2, learningRate: 0.01 });
    const run = started(method, 3);
    let total = start.map(() => 0);
    for (let step = 1; step <= 2; step++) stepOn(run);
    const before = numbers(run.states[0]!.square);
    // At step 5 the window of the steps 3 and 4 is under way, and one more gradient waits.
    for (let step = 3; step <= 5; step++) {
      stepOn(run, (rank, t, x) => {
        const g = gradientOf(rank, t, x);
        total = total.map((sum, i) => sum + g[i]! / 3);
        return g;
      });
    }
    run.flush();
    const q = 0.999 ** 3;
    const expected = before.map((v, i) => q * v + (1 - q) * (total[i]! / 3) ** 2);
    assertClose(run.states[0]!.square, doubles(expected), "square");
  });

  propWith(
    { runs: 8 },
    "a run that is saved and restored goes on with the same bits, whatever is under way",
    settings,
    fc.constantFrom("float32" as const, "int16" as const),
    (options, precision) => {
      const { warmup, period, delay } = options;
      const run = started(divAdam({ ...options, precision }));
      for (let step = 1; step <= warmup + period; step++) stepOn(run);
      // The last multiple of the period is so many steps ago.
      expect(run.isOpen).toBe((warmup + period) % period < delay);
      const { tree, metadata } = decode<readonly DivAdamState[]>(
        encode(run.states, { steps: String(run.steps) }),
      );
      const point = { states: tree, steps: Number(metadata["steps"]) };
      const restored = together(divAdam({ ...options, precision }), doubles(start), point);
      for (let step = 0; step < 20; step++) {
        stepOn(run);
        stepOn(restored);
        assertSameBits(restored.view(), run.view(), `parameters after step ${run.steps}`);
      }
    },
  );

  propWith(
    { runs: 8, examples: [[ends12, { ...ends12, period: 5, delay: 2, varianceEvery: 5 }]] },
    "a change of the rate, the period or the delay while something is under way loses nothing",
    settings,
    settings,
    (options, changed) => {
      const first = started(divAdam({ ...options, averageMomentum: false, weightDecay: 0 }));
      for (let step = 1; step <= 9; step++) stepOn(first);
      const method = divAdam({
        ...changed,
        averageMomentum: false,
        weightDecay: 0,
        learningRate: (step) => 0.003 * step,
      });
      const run = together(method, doubles(start), first);
      let expected = first.view();
      assertClose(run.view(), expected, "parameters at the change");
      for (let step = 10; step <= 24; step++) {
        stepOn(run);
        expected = sub(expected, meanOf(run.states.map((state) => updateOf(state, step, 0.003 * step))));
        assertClose(run.view(), expected, `parameters after step ${step}`);
      }
    },
  );

  for (const [change, changed] of [
    ["more dense steps", { warmup: 12 }],
    ["a ratio of 1", { ratio: 1 }],
  ] as const) {
    propWith(
      {
        runs: 6,
        examples: [[{ ...ends12, ratio: 64, warmup: 3, weightDecay: 0.1 }, "float32" as "float32" | "int16"]],
      },
      `dense steps after divided ones lose nothing: ${change}`,
      settings,
      fc.constantFrom("float32" as const, "int16" as const),
      (drawn, precision) => {
        const options = { ...drawn, warmup: 3, averageMomentum: false, precision };
        const rate = options.learningRate as (step: number) => number;
        const rateAt = typeof options.learningRate === "number" ? () => 0.01 : rate;
        const first = started(divAdam(options));
        const method = divAdam({ ...options, ...changed });
        let run = first;
        let expected = doubles(start);
        let momentum = doubles(start.map(() => 0));
        for (let step = 1; step <= 24; step++) {
          if (step === 10) {
            expect(first.states.some((state) => method.workersOf!(state) === 3)).toBe(true);
            run = together(method, doubles(start), first);
          }
          const { square } = run.states[0]!;
          const positions = run.states.map((state) => method.position(state));
          const gradients: Value[] = [];
          stepOn(run, (rank, t, x) => {
            const g = gradientOf(rank, t, x);
            gradients.push(doubles(g));
            return g;
          });
          const decay = mul(options.weightDecay * rateAt(step), meanOf(positions));
          const updates = meanOf(run.states.map((state) => updateOf(state, step, rateAt(step))));
          expected = sub(expected, add(updates, decay));
          momentum = add(mul(0.9, momentum), mul(0.1, meanOf(gradients)));
          assertClose(run.view(), expected, `parameters after step ${step}`);
          assertClose(meanOf(run.states.map(({ mean }) => mean)), momentum, `mean momentum after ${step}`);
          for (const state of run.states)
            assertSameBits(state.anchor, run.states[0]!.anchor, `anchors of all after step ${step}`);
          if (step < 10 || (change === "more dense steps" && step > 12)) continue;
          const g = meanOf(gradients);
          const seen = add(mul(0.999, square), mul(0.001, mul(g, g)));
          for (const state of run.states) {
            assertClose(state.square, seen, `mean of squares after step ${step}`);
            assertSameBits(method.position(state), state.anchor, `position after step ${step}`);
            expect(method.workersOf!(state)).toBeNull();
            expect(state.flying).toEqual([]);
            for (const x of [state.fresh, state.window, state.gathered]) expect(max(abs(x)).item()).toBe(0);
          }
        }
      },
    );
  }

  test("another number of workers is refused while they differ", () => {
    const method = divAdam({ shapes, ratio: 9, period: 4, warmup: 2, learningRate: 0.01 });
    const goesOn = (run: Run, workers: number) => () =>
      together(method, doubles(start), { states: Array(workers).fill(run.states[0]), steps: run.steps });
    const run = started(method, 3);
    for (let step = 1; step <= 2; step++) stepOn(run);
    expect(goesOn(run, 5)).not.toThrow();
    stepOn(run);
    expect(goesOn(run, 3)).not.toThrow();
    const problem =
      "Cannot run workers together: there are 5 states, of 3 workers that differ, as many or a flush before are needed";
    expect(goesOn(run, 5)).toThrow(problem);
    run.flush();
    expect(goesOn(run, 5)).not.toThrow();
  });

  test("updates descend, and what comes from the background moves the anchor towards the parameters", () => {
    const method = divAdam({ shapes, ratio: 100, period: 4, delay: 2, warmup: 1, learningRate: 0.01 });
    const run = started(method);
    const uphill: GradientOf = (_rank, _step, x) => x.map(() => 1);
    let last = run.view();
    let distance = 0;
    for (let step = 1; step <= 18; step++) {
      stepOn(run, uphill);
      expect(max(sub(run.view(), last)).item()).toBeLessThan(-0.005);
      const next = sum(abs(keptBack(method, run))).item();
      // Steps with an arrival: 6, 10, ...; in the others what is kept back grows by about the update.
      if (step > 5 && step % 4 === 2) expect(next).toBeLessThan(distance);
      else if (step > 1) expect(next).toBeGreaterThan(distance);
      last = run.view();
      distance = next;
    }
  });

  propWith(
    { runs: 8 },
    "counted bytes are those of the formulas",
    settings,
    fc.constantFrom("float32" as const, "int16" as const),
    fc.constantFrom("float32" as const, "float64" as const),
    (options, precision, dtype) => {
      const run = together(divAdam({ ...options, precision }), cast(doubles(start), dtype), 3);
      for (let step = 1; step <= 12; step++) stepOn(run);
      expect(run.counted).toEqual(run.bytes);
    },
  );

  test("bytes of a perceptron of 101770 parameters", () => {
    const perceptron = { shapes: [[10], [128], [784, 128], [128, 10]], learningRate: 1e-3 };
    const method = divAdam({ ...perceptron, ratio: 1024, period: 8 });
    const dense = 4 * 101_770;
    // 98 of the first matrix and one of each other tensor.
    const waited = 4 * (Math.floor((784 * 128) / 1024) + 3);
    expect(method.stepBytes(16, 8)).toEqual({ sent: dense, received: dense });
    expect(method.stepBytes(17, 8)).toEqual({ sent: waited, received: waited });
    expect(method.backgroundBytes(8)).toEqual({ sent: 2 * dense, received: 2 * dense });
    expect(method.achievedRatio()).toBeCloseTo(101_770 / 101, 10);
    const short = divAdam({ ...perceptron, precision: "int16", varianceEvery: 8, averageMomentum: true });
    const bytes = (n: number) => ({ sent: n, received: n });
    // Four tensors, so four scales for each vector.
    expect(short.backgroundBytes(8, 20)).toEqual(bytes(dense + 8 * 4));
    expect(short.backgroundBytes(8, 24)).toEqual(bytes(1.5 * dense + 12 * 4));
    const largest = divAdam({ ...perceptron, ratio: 1024, compressor: "topk" });
    expect(largest.stepBytes(17, 8)).toEqual({ sent: 2 * waited, received: 16 * waited });
    // A place takes as much as a float32 and half of a float64; what is not divided has no places.
    expect(largest.achievedRatio()).toBeCloseTo(101_770 / 202, 10);
    expect(largest.achievedRatio("float64")).toBeCloseTo((101_770 * 8) / (101 * 12), 10);
    expect(divAdam({ ...perceptron, ratio: 1, compressor: "topk" }).achievedRatio()).toBe(1);
  });

  test("float32 parameters stay float32, and nothing is lost to float32 rounding", () => {
    const method = divAdam({ shapes, ratio: 9, period: 3, warmup: 2, learningRate: 0.01 });
    const run = together(method, cast(doubles(start), "float32"), 3);
    let expected = run.view();
    for (let step = 1; step <= 30; step++) {
      stepOn(run);
      expected = sub(expected, meanOf(run.states.map((state) => updateOf(state, step, 0.01))));
      assertClose(run.view(), expected, `parameters after step ${step}`);
    }
    expect(run.view().dtype).toBe("float32");
  });

  test("a gradient that is not finite is refused with its worker and tensor, and the run is as before", () => {
    const names = ["w", "layers[0].b", "scale"];
    for (const compressor of ["block", "topk"] as const) {
      const method = divAdam({ shapes, names, ratio: 9, warmup: 2, compressor, learningRate: 0.01 });
      const run = together(method, cast(doubles(start), "float32"), 3);
      const other = together(method, cast(doubles(start), "float32"), 3);
      const bad =
        (value: number): GradientOf =>
        (rank, step, x) =>
          gradientOf(rank, step, x).map((g, i) => (rank === 1 && i === 22 ? value : g));
      // In a dense step, in one with a divided update, and in one at whose beginning something arrives.
      for (let step = 1; step <= 9; step++) {
        for (const value of [Number.NaN, Infinity, -Infinity]) {
          expect(() => stepOn(run, bad(value))).toThrow(
            `Cannot take step ${step} of divAdam: the gradient of worker 1 is ${value} at element 2 of tensor 1 "layers[0].b", a finite number is needed`,
          );
        }
        stepOn(run);
        stepOn(other);
        assertSameBits(run.view(), other.view(), `parameters after step ${step}`);
      }
    }
    // Elements whose sum alone is too large are none of that.
    const run = together(divAdam({ shapes, learningRate: 0.01 }), cast(doubles(start), "float32"), 2);
    stepOn(run, (_rank, _step, x) => x.map(() => 1e38));
    expect(run.steps).toBe(1);
  });

  test("bad options are refused by name", () => {
    const make = (options: Partial<DivAdamOptions>) => () =>
      divAdam({ shapes, learningRate: 0.1, ...options });
    expect(make({ warmup: 0 })).toThrow("Cannot make divAdam: warmup is 0, at least 1 is needed");
    expect(make({ delay: 5 })).toThrow("delay is 5, an integer from 0 to the period of 4 is needed");
    expect(make({ delay: -1 })).toThrow("delay is -1");
    expect(make({ period: 0 })).toThrow("period is 0");
    expect(make({ period: 2.5 })).toThrow("period is 2.5");
    expect(make({ varianceEvery: 6 })).toThrow("varianceEvery is 6, a multiple of the period of 4 is needed");
    expect(make({ ratio: Number.NaN })).toThrow("ratio is NaN");
    expect(make({ residualWeight: 2 })).toThrow("residualWeight is 2");
    expect(make({ beta2: 1 })).toThrow("beta2 is 1");
    expect(() => divAdam({ shapes, learningRate: 0.1 }).init(ones([5]))).toThrow("[27] is needed");
  });
});
