/** The controls of the benchmark of divisible communication are what they are said to be. */
import { expect, test } from "bun:test";
import { dividedGradients, lateAdam, ownSquares } from "../../../bench/divisible/controls.ts";
import { tensor } from "../../../core/create.ts";
import type { Value } from "../../../core/value.ts";
import { divAdam } from "../../../dist/compress/div_adam.ts";
import type { CommunicatingMethod } from "../../../dist/compress/method.ts";
import { type Together, together } from "../../../dist/compress/together.ts";
import { list, maxDifference, type Vector } from "../../optim/numbers.ts";
import { gradientOf, N, rateAt, SHAPES, START, start } from "./baseline_problem.ts";

const PERIOD = 4;
const STEPS = 50;
const setting = { shapes: SHAPES, steps: STEPS, seed: 2, learningRate: rateAt };
const dense = divAdam({ ...setting, ratio: 1 });
const averages = ["nothing", "residual", "residual and moments"] as const;

type Gradient = (rank: number, step: number, x: Vector) => readonly number[];

/** Gradients that do not depend on where they are taken. */
const forced: Gradient = (rank, step) => gradientOf(rank, step, START);

/** The steps of a run, one after the other. */
function* stepsOf<S>(
  method: CommunicatingMethod<S>,
  workers: number,
  gradient: Gradient = gradientOf,
): Generator<Together<S>> {
  const run = together(method, start("float32"), workers);
  while (run.steps < STEPS) {
    const step = run.steps + 1;
    run.step((rank, x) => tensor(Float32Array.from(gradient(rank, step, list(x))), { dtype: "float32" }));
    yield run;
  }
}

function pathOf<S>(method: CommunicatingMethod<S>, workers: number, gradient?: Gradient): number[][] {
  return Array.from(stepsOf(method, workers, gradient), (run) => list(run.view()));
}

const meanOver = (vectors: readonly Vector[]): number[] =>
  Array.from({ length: N }, (_, i) => vectors.reduce((sum, x) => sum + x[i]!, 0) / vectors.length);

test("with everything sent at once they are Adam, bit by bit", () => {
  expect(pathOf(lateAdam(setting, 0), 3)).toEqual(pathOf(dense, 3));
  expect(pathOf(dividedGradients(setting, { ratio: 1, period: PERIOD }), 3)).toEqual(pathOf(dense, 3));
  for (const averaged of averages) {
    const own = ownSquares(setting, { ratio: 1, period: PERIOD, averages: averaged });
    expect(pathOf(own, 1)).toEqual(pathOf(dense, 1));
  }
});

test("late Adam is where Adam was before, with a learning rate that stays", () => {
  const constant = { ...setting, learningRate: () => 0.05 };
  const late = pathOf(lateAdam(constant, 8), 3, forced);
  const onTime = [list(start()), ...pathOf(divAdam({ ...constant, ratio: 1 }), 3, forced)];
  for (const [step, x] of late.slice(7).entries()) expect(maxDifference(x, onTime[step]!)).toBeLessThan(1e-6);
});

test("divided gradients are all used once, but for what is kept back and under way", () => {
  const total = new Array<number>(N).fill(0);
  const used = new Array<number>(N).fill(0);
  let before: readonly number[] = new Array<number>(N).fill(0);
  const ratio = 8;
  for (const run of stepsOf(dividedGradients(setting, { ratio, period: PERIOD }), 3, forced)) {
    const given = meanOver([0, 1, 2].map((rank) => forced(rank, run.steps, START)));
    // m <- 0.9 m + 0.1 g says which gradient Adam saw.
    const mean = list(run.states[0]!.adam.mean as Value);
    const kept = meanOver(run.states.map(({ fresh }) => list(fresh)));
    const underWay = meanOver(run.states.map(({ sent }) => list(sent)));
    for (let i = 0; i < N; i++) {
      total[i]! += given[i]!;
      used[i]! += (mean[i]! - 0.9 * before[i]!) / 0.1;
    }
    before = mean;
    expect(
      maxDifference(
        used.map((x, i) => x + kept[i]! + underWay[i]!),
        total,
      ),
    ).toBeLessThan(1e-3);
  }
  expect(maxDifference(used, total)).toBeGreaterThan(0.1);
});

test("with one worker a mean of squares of its own is that of all: what is kept back is in its position", () => {
  for (const averaged of averages) {
    const own = pathOf(ownSquares(setting, { ratio: 8, period: PERIOD, averages: averaged }), 1);
    for (const [step, x] of pathOf(dense, 1).entries())
      expect(maxDifference(own[step]!, x)).toBeLessThan(1e-5);
  }
});

test("averaging moments leaves their mean over the workers, and brings these nearer to each other", () => {
  const [alone, together] = (["residual", "residual and moments"] as const).map((averaged) => {
    const own = ownSquares(setting, { ratio: 8, period: PERIOD, averages: averaged });
    const { states } = [...stepsOf(own, 3, forced)].at(-1)!;
    const of = (name: "mean" | "square") => {
      const values = states.map(({ adam }) => list(adam[name] as Value));
      const mean = meanOver(values);
      return { mean, spread: Math.max(...values.map((x) => maxDifference(x, mean))) };
    };
    return { mean: of("mean"), square: of("square") };
  });
  for (const name of ["mean", "square"] as const) {
    expect(maxDifference(alone![name].mean, together![name].mean)).toBeLessThan(1e-5);
    expect(together![name].spread).toBeLessThan(0.9 * alone![name].spread);
  }
});
