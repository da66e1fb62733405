/** What all baselines have in common: bytes, agreement, checkpoints, other numbers of workers, precision, and that they learn. */
import { expect, test } from "bun:test";
import { jit } from "../../../autodiff/jit.ts";
import { tensor } from "../../../core/create.ts";
import { decode, encode } from "../../../core/io.ts";
import { blockCompressor } from "../../../dist/compress/block.ts";
import { decoupledMomentum } from "../../../dist/compress/decoupled_momentum.ts";
import {
  detachedErrorFeedback,
  errorFeedback,
  stepAheadErrorFeedback,
} from "../../../dist/compress/error_feedback.ts";
import { errorReset } from "../../../dist/compress/error_reset.ts";
import { gradientFeedbackAdam, gradientFeedbackMomentum } from "../../../dist/compress/gradient_feedback.ts";
import { diLoCo, localAdam } from "../../../dist/compress/local_adam.ts";
import { powerSgdMean } from "../../../dist/compress/lossy_mean.ts";
import type { CommunicatingMethod } from "../../../dist/compress/method.ts";
import { oneBitAdam } from "../../../dist/compress/one_bit_adam.ts";
import { qsgdCompressor } from "../../../dist/compress/qsgd.ts";
import { signCompressor } from "../../../dist/compress/sign.ts";
import { together } from "../../../dist/compress/together.ts";
import { topKCompressor } from "../../../dist/compress/top_k.ts";
import { zeroOneAdam } from "../../../dist/compress/zero_one_adam.ts";
import { sameBits } from "../../../dist/sim.ts";
import { list, maxDifference, type Vector } from "../../optim/numbers.ts";
import { type DType, gradientOf, N, rateAt, recorded, SHAPES, START, start } from "./baseline_problem.ts";

const WORKERS = 3;

interface Case {
  readonly name: string;
  /** What all workers have in common, by name of the part of the state. */
  readonly shared: readonly string[];
  make(dtype: DType, learningRate?: typeof rateAt): CommunicatingMethod<Readonly<Record<string, unknown>>>;
}

const topK = topKCompressor({ shapes: SHAPES, ratio: 4 });
const block = blockCompressor({ shapes: SHAPES, ratio: 4, seed: 2 });
const sign = signCompressor({ shapes: SHAPES });
const power = powerSgdMean({ shapes: SHAPES, rank: 1, seed: 1 });

/** Methods with their states of any kind. */
function named(
  name: string,
  shared: readonly string[],
  make: (options: {
    readonly shapes: typeof SHAPES;
    readonly dtype: DType;
    readonly learningRate: typeof rateAt;
  }) => unknown,
): Case {
  return {
    name,
    shared,
    make: (dtype, learningRate = rateAt) =>
      make({ shapes: SHAPES, dtype, learningRate }) as ReturnType<Case["make"]>,
  };
}

const CASES: readonly Case[] = [
  named("errorFeedback block", ["anchor"], (o) => errorFeedback({ ...o, compressor: block, period: 2 })),
  named("errorFeedback sign", ["anchor", "local"], (o) => errorFeedback({ ...o, compressor: sign })),
  named("errorFeedback power", ["anchor", "local", "memory"], (o) =>
    errorFeedback({ ...o, compressor: power }),
  ),
  named("stepAhead", ["anchor"], (o) => stepAheadErrorFeedback({ ...o, compressor: topK, averageEvery: 3 })),
  named("detached", ["anchor"], (o) => detachedErrorFeedback({ ...o, compressor: topK })),
  named("errorReset", ["anchor"], (o) =>
    errorReset({ ...o, compressor: topK, errorCompressor: block, resetEvery: 3 }),
  ),
  named("errorReset alone", ["anchor"], (o) => errorReset({ ...o, errorCompressor: power, resetEvery: 2 })),
  named("gradientFeedbackMomentum", ["theta", "base"], (o) =>
    gradientFeedbackMomentum({ ...o, compressor: topK }),
  ),
  named("gradientFeedbackAdam", ["theta", "base"], (o) => gradientFeedbackAdam({ ...o, compressor: block })),
  named("oneBitAdam", ["theta", "adam"], (o) => oneBitAdam({ ...o, freezeStep: 5 })),
  named("zeroOneAdam", ["anchor", "square", "scale"], (o) =>
    zeroOneAdam({ ...o, varianceScale: 2, varianceFreezeStep: 6, localScale: 4, localClip: 4 }),
  ),
  named("localAdam", ["anchor"], (o) => localAdam({ ...o, period: 3 })),
  named("diLoCo", ["anchor", "velocity"], (o) => diLoCo({ ...o, period: 3 })),
  named("decoupledMomentum", ["theta"], (o) => decoupledMomentum({ ...o, chunk: 4, topK: 2 })),
];

test("bytes by the formulas are the bytes of the payloads, step by step", () => {
  for (const dtype of ["float32", "float64"] as const) {
    for (const { name, make } of CASES) {
      const { run, step } = recorded(make(dtype), WORKERS, dtype);
      for (let t = 1; t <= 18; t++) {
        step();
        expect([name, t, run.counted.foreground]).toEqual([name, t, run.bytes.foreground]);
      }
      expect(run.bytes.foreground.sent).toBeGreaterThan(0);
    }
  }
  // By hand: 31 signs in one word and three scales; from three workers.
  const oneBit = oneBitAdam({ shapes: SHAPES, learningRate: 0.1, freezeStep: 1 });
  expect(oneBit.stepBytes(2, 3)).toEqual({ sent: 16, received: 48 });
  const outer = diLoCo({ shapes: SHAPES, learningRate: 0.1, period: 2, dtype: "float64" });
  expect([1, 2].map((t) => outer.stepBytes(t, 3).sent)).toEqual([0, 8 * N]);
});

test("a step has a payload exactly where the method says that there is an exchange", () => {
  for (const { name, make } of CASES) {
    const method = make("float64");
    const { run, step } = recorded(method, 1);
    for (let t = 1; t <= 18; t++) {
      const [, payload] = method.begin(run.states[0]!, tensor(Float64Array.from(START)), null, {
        step: t,
        rank: 0,
        workers: 1,
      });
      expect([name, t, payload !== null]).toEqual([name, t, method.exchanges(t) > 0]);
      step();
    }
  }
});

test("what workers have in common has the same bits at all of them, after every step", () => {
  for (const { name, shared, make } of CASES) {
    const method = make("float64");
    const { run, step } = recorded(method, WORKERS);
    for (let t = 1; t <= 18; t++) {
      step();
      const [first, ...others] = run.states;
      for (const part of shared) {
        for (const other of others)
          expect([name, t, part, sameBits(other[part], first![part])]).toEqual([name, t, part, true]);
      }
    }
  }
});

test("a checkpoint goes on bit for bit, wherever it is taken", () => {
  for (const { name, make } of CASES) {
    const method = make("float32");
    const { run, step } = recorded(method, WORKERS, "float32");
    for (let t = 0; t < 10; t++) step();
    const states = run.states.map((state) => decode(encode(state)).tree as typeof state);
    const again = together(make("float32"), start("float32"), { states, steps: run.steps });
    const gradients = (t: number) => (rank: number, x: { dataSync(): ArrayLike<number> }) =>
      tensor(Float32Array.from(gradientOf(rank, t, Array.from(x.dataSync()))));
    for (let t = 11; t <= 20; t++) {
      run.step(gradients(t));
      again.step(gradients(t));
    }
    expect([name, sameBits(again.states, run.states)]).toEqual([name, true]);
  }
});

test("a flush leaves the view where it is, and a state in which another number of workers can go on", () => {
  for (const { name, make } of CASES) {
    const steps = 7;
    const { run, step } = recorded(make("float64"), WORKERS);
    for (let t = 0; t < steps; t++) step();
    const before = list(run.view());
    run.flush();
    const after = list(run.view());
    expect([name, maxDifference(after, before) < 1e-12]).toEqual([name, true]);
    for (const s of run.states) expect([name, sameBits(s, run.states[0])]).toEqual([name, true]);

    const more = together(make("float64"), start(), {
      states: Array.from({ length: 5 }, () => run.states[0]!),
      steps,
    });
    expect(maxDifference(list(more.view()), before)).toBeLessThan(1e-12);
    for (let t = steps + 1; t <= steps + 5; t++) {
      more.step((rank, x) => tensor(Float64Array.from(gradientOf(rank, t, list(x)))));
    }
    expect(list(more.view()).every(Number.isFinite)).toBe(true);
  }
});

test("float32 is float64 to its precision, until a choice is made differently", () => {
  for (const { name, make } of CASES) {
    const [single, double] = [
      recorded(make("float32"), WORKERS, "float32"),
      recorded(make("float64"), WORKERS),
    ];
    for (let t = 0; t < 8; t++) {
      single.step();
      double.step();
    }
    const difference = maxDifference(list(single.run.view()), list(double.run.view()));
    expect([name, difference < 1e-4]).toEqual([name, true]);
  }
});

test("the gradient is taken at the step that is said: nothing is remembered outside the state", () => {
  // One method object serves two runs at once.
  for (const { name, make } of CASES) {
    const method = make("float64");
    const [a, b] = [recorded(method, 2), recorded(method, 3)];
    const alone = recorded(make("float64"), 2);
    for (let t = 0; t < 9; t++) {
      a.step();
      b.step();
      alone.step();
    }
    expect([name, sameBits(a.run.states, alone.run.states)]).toEqual([name, true]);
  }
});

test("nothing is compiled anew once every kind of step has been seen", () => {
  for (const { name, make } of CASES) {
    const { run, step } = recorded(make("float32"), WORKERS, "float32");
    for (let t = 1; t <= 18; t++) step();
    run.view();
    const { traces } = jit.stats();
    for (let t = 19; t <= 36; t++) step();
    run.view();
    expect([name, jit.stats().traces - traces]).toEqual([name, 0]);
  }
});

test("all methods learn", () => {
  const centers = Array.from({ length: 4 }, (_, rank) =>
    START.map((_, i) => Math.sin(i) + 0.5 * Math.cos(2.7 * i + 1.3 * rank)),
  );
  const curvature = START.map((_, i) => 0.3 + 0.2 * (i % 5));
  const optimum = START.map((_, i) => centers.reduce((sum, c) => sum + c[i]!, 0) / centers.length);
  const loss = (x: Vector): number =>
    x.reduce((sum, xi, i) => sum + 0.5 * curvature[i]! * (xi - optimum[i]!) ** 2, 0);
  const start64 = loss(START);
  const STEPS = 90;
  for (const { name, make } of CASES) {
    // Momentum of 0.9 makes ten steps of one, and what is kept back comes late.
    const largest = /[Aa]dam|decoupled/.test(name) ? 0.08 : 0.01;
    const rate = (t: number): number => largest * (1 - t / (STEPS + 1));
    const run = together(make("float32", rate), start("float32"), 4);
    for (let t = 1; t <= STEPS; t++) {
      run.step((rank, x) =>
        tensor(
          Float32Array.from(
            list(x),
            (xi, i) => curvature[i]! * (xi - centers[rank]![i]!) + 0.1 * Math.sin(5.1 * t + 3.3 * i + rank),
          ),
        ),
      );
    }
    const ratio = loss(list(run.view())) / start64;
    expect([name, ratio < 0.1, ratio]).toEqual([name, true, ratio]);
  }
});

test("options that cannot be meant are refused", () => {
  const o = { shapes: SHAPES, learningRate: 0.1 };
  const c = { ...o, compressor: topK };
  const refused: readonly (readonly [() => unknown, RegExp])[] = [
    [
      () => errorFeedback({ ...c, learningRate: -1 }),
      /^Cannot make errorFeedback: the learning rate of step 1 is -1/,
    ],
    [() => errorFeedback({ ...c, learningRate: Number.NaN }), /is NaN, a number of at least 0 is needed$/],
    [
      () => errorFeedback({ ...c, momentum: 1 }),
      /momentum is 1, a number of at least 0 and below 1 is needed$/,
    ],
    [() => errorFeedback({ ...c, weightDecay: -0.1 }), /weightDecay is -0.1/],
    [() => errorFeedback({ ...c, period: 0 }), /period is 0, an integer of at least 1 is needed$/],
    [
      () => errorFeedback({ ...c, compressor: qsgdCompressor({ shapes: SHAPES, levels: 1, seed: 0 }) }),
      /contraction/,
    ],
    [() => stepAheadErrorFeedback({ ...c, averageEvery: 0 }), /averageEvery is 0/],
    [
      () => stepAheadErrorFeedback({ ...c, averageEvery: 5, period: 2 }),
      /a multiple of the period of 2 steps/,
    ],
    [() => detachedErrorFeedback({ ...c, residualWeight: 1.5 }), /residualWeight is 1.5/],
    [() => errorReset({ ...o, errorCompressor: topK, resetEvery: 1.5 }), /resetEvery is 1.5/],
    [() => gradientFeedbackAdam({ ...c, beta1: 1 }), /beta1 is 1/],
    [() => gradientFeedbackAdam({ ...c, beta2: -0.1 }), /beta2 is -0.1/],
    [() => gradientFeedbackAdam({ ...c, epsilon: 0 }), /epsilon is 0, a number above 0 is needed$/],
    [() => oneBitAdam({ ...o, freezeStep: 0 }), /freezeStep is 0/],
    [() => zeroOneAdam({ ...o, varianceScale: 0 }), /varianceScale is 0/],
    [() => zeroOneAdam({ ...o, varianceFreezeStep: 0 }), /varianceFreezeStep is 0/],
    [() => zeroOneAdam({ ...o, localScale: 0.5 }), /localScale is 0.5/],
    [() => zeroOneAdam({ ...o, localClip: 0 }), /localClip is 0/],
    [() => localAdam({ ...o, period: 0 }), /^Cannot make localAdam: period is 0/],
    [() => diLoCo({ ...o, period: 1, outerLearningRate: 0 }), /outerLearningRate is 0/],
    [() => diLoCo({ ...o, period: 1, outerMomentum: 1 }), /outerMomentum is 1/],
    [() => decoupledMomentum({ ...o, decay: 1 }), /decay is 1/],
    [() => decoupledMomentum({ ...o, chunk: 0 }), /chunk is 0/],
    [() => decoupledMomentum({ ...o, topK: 0 }), /topK is 0/],
    [() => errorFeedback(c).init(start()), /^Cannot start errorFeedback at f64\[31\]: .*, float32 is needed/],
    [
      () => localAdam({ ...o, shapes: [[4]], period: 1 }).init(start("float32")),
      /4 elements and \[4\] is needed/,
    ],
  ];
  for (const [make, message] of refused) expect(make).toThrow(message);

  const late = errorFeedback({ ...c, learningRate: (t) => (t < 3 ? 0.1 : Number.NaN) });
  const { step } = recorded(late, 1, "float32");
  step();
  step();
  expect(step).toThrow(/the learning rate of step 3 is NaN/);
  const still = recorded(gradientFeedbackMomentum({ ...c, learningRate: 0 }), 1, "float32");
  expect(still.step).toThrow(/learning rate of step 1 is 0, a number above 0 is needed/);
});
