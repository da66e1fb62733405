/**
 * Golden values. Those of the quadratics agree with the curves that the authors of FOSI plot; those of the logistic
 * regression were computed twice outside this project, in two languages, from the formulas.
 */
import { expect, test } from "bun:test";
import { sub } from "../../core/ops.ts";
import * as random from "../../core/random.ts";
import { type FosiOptions, fosi } from "../../optim/fosi.ts";
import { lanczos } from "../../optim/lanczos.ts";
import { momentum, sgd } from "../../optim/momentum.ts";
import type { GradientTransformation } from "../../optim/transformation.ts";
import {
  f64,
  length,
  linspace,
  list,
  maxDifference,
  mulberry32,
  relativeError,
  type Vector,
} from "./numbers.ts";
import {
  diagonalQuadratic,
  goldenData,
  logisticLoss,
  lossesOf,
  objective,
  plainLogistic,
  plainMinimizer,
  withExactCurvature,
} from "./problems.ts";

/** 0.5 everywhere, 1 in the second place. */
const start = f64(Array.from({ length: 100 }, (_, i) => (i === 1 ? 1 : 0.5)));

function quadraticLosses<S>(optimizer: GradientTransformation<S>, values: Vector, steps: number): number[] {
  return lossesOf(optimizer, diagonalQuadratic(values), start, steps);
}

function expectLosses(losses: Vector, expected: Readonly<Record<number, number>>, tolerance: number): void {
  for (const [step, value] of Object.entries(expected))
    expect(relativeError(losses[Number(step)]!, value)).toBeLessThan(tolerance);
}

// FOSI quadratic study, case A: 10 eigenvalues in [9, 10], 90 in [0.01, 0.1].
const caseA = [...linspace(10, 9, 10), ...linspace(0.1, 0.01, 90)];

test("case A: gradient descent, and FOSI with the ten largest eigenvalues but one", () => {
  const descent = quadraticLosses(sgd(0.001), caseA, 250);
  const golden = {
    0: 16.202083333,
    1: 15.9042155086,
    10: 13.4670958615,
    50: 6.5564156997,
    250: 0.7252024399,
  };
  expectLosses(descent, golden, 1e-9);
  const fosiGolden = { 1: 1.7235075369, 10: 1.5568282477, 50: 1.0701170366, 250: 0.61048589 };
  const options: FosiOptions = { k: 9, alpha: 1, momentum: "none", clip: 1 };
  expectLosses(
    quadraticLosses(withExactCurvature(fosi(sgd(0.001), options), caseA), caseA, 250),
    fosiGolden,
    1e-9,
  );
  // The same with its own Lanczos, refreshed every 50 updates: 36 steps resolve the cluster.
  const whole = fosi(sgd(0.001), { ...options, order: 36, warmup: 1, period: 50 });
  expectLosses(lossesOf(whole, diagonalQuadratic(caseA), start, 250), fosiGolden, 1e-9);
});

test("case A: with the best step of each", () => {
  expectLosses(quadraticLosses(sgd(2 / 10.01), caseA, 250), { 250: 0.4691425 }, 1e-6);
  const options: FosiOptions = { k: 10, alpha: 1, momentum: "none", clip: 1 };
  const optimizer = withExactCurvature(fosi(sgd(2 / 0.11), options), caseA);
  expectLosses(quadraticLosses(optimizer, caseA, 50), { 50: 2.95265e-11 }, 1e-6);
});

/** The steps of the study: 2 / (l1 + ln) and 2 / (√l1 + √ln)²; FOSI multiplies both by l1 / lk. */
function studySteps(values: Vector): { descent: number; heavyBall: number } {
  const [largest, smallest] = [Math.max(...values), Math.min(...values)];
  return {
    descent: 2 / (largest + smallest),
    heavyBall: 2 / (Math.sqrt(largest) + Math.sqrt(smallest)) ** 2,
  };
}

/** k = 10, an averaged Newton part with step 1, no limit on the scale. */
const study: FosiOptions = { k: 10, alpha: 1, momentum: "average", clip: Number.POSITIVE_INFINITY };

function finals(values: Vector): number[] {
  const { descent, heavyBall } = studySteps(values);
  return [
    sgd(descent),
    withExactCurvature(fosi(sgd(descent), study), values),
    momentum(heavyBall),
    withExactCurvature(fosi(momentum(heavyBall), study), values),
  ].map((optimizer) => quadraticLosses(optimizer as GradientTransformation<unknown>, values, 200)[200]!);
}

const geometric = (largest: number): number[] => [
  largest,
  ...Array.from({ length: 99 }, (_, i) => 1.5 ** -i),
];

test("case B: one large eigenvalue over a geometric tail, after 200 steps", () => {
  // FOSI quadratic study, case B, n = 100, largest eigenvalue 5.
  const golden = [6.26922e-1, 1.499865e-5, 1.924535e-4, 1.50185e-6];
  finals(geometric(5)).forEach((loss, i) => {
    expect(relativeError(loss, golden[i]!)).toBeLessThan(1e-6);
  });
});

test("case B: FOSI over gradient descent does not depend on the largest eigenvalue", () => {
  const final = (largest: number): number => {
    const values = geometric(largest);
    const base = fosi(sgd(studySteps(values).descent), { ...study, momentum: "none" });
    return quadraticLosses(withExactCurvature(base, values), values, 200)[200]!;
  };
  for (const largest of [10, 20, 50, 200])
    expect(relativeError(final(largest), final(5))).toBeLessThan(1e-12);
  // Gradient descent does.
  const plain = (largest: number): number =>
    quadraticLosses(sgd(studySteps(geometric(largest)).descent), geometric(largest), 200)[200]!;
  expect(plain(200) / plain(5)).toBeGreaterThan(3);
});

test("case C: eigenvalues 0.001 · 1.12^i, ascending", () => {
  // FOSI quadratic study, case C, kappa 1.12.
  const values = Array.from({ length: 100 }, (_, i) => 1e-3 * 1.12 ** i);
  expectLosses(quadraticLosses(sgd(0), values, 0), { 0: 87.00173847 }, 1e-9);
  const golden = [9.324156, 3.636388e-2, 9.726456e-3, 3.1219e-3];
  finals(values).forEach((loss, i) => {
    expect(relativeError(loss, golden[i]!)).toBeLessThan(2e-7);
  });
});

// --- logistic regression -----------------------------------------------------------------------------------------

const data = goldenData();
const f = objective(logisticLoss(data));
const zero = f64(Array<number>(20).fill(0));
const bestLoss = 0.216919077813;

test("logistic regression: the generator and the data", () => {
  const uniform = mulberry32(12345);
  expect([uniform(), uniform(), uniform()]).toEqual([
    0.9797282677609473, 0.3067522644996643, 0.484205421525985,
  ]);
  const total = data.features.flat().reduce((sum, x) => sum + x, 0);
  expect(Math.abs(total - 25.009437990364)).toBeLessThan(1e-10);
  expect(data.labels.filter((y) => y === 1)).toHaveLength(199);
});

test("logistic regression: loss, gradient and Hessian are those of plain loops", () => {
  expect(f.loss(zero).item()).toBeCloseTo(Math.LN2, 14);
  expect(Math.abs(length(list(f.gradient(zero))) - 0.198299331733)).toBeLessThan(1e-12);
  const plain = plainLogistic(data);
  const w = linspace(-1, 1, 20);
  expect(f.loss(f64(w)).item()).toBeCloseTo(plain.loss(w), 14);
  expect(maxDifference(list(f.gradient(f64(w))), plain.gradient(w))).toBeLessThan(1e-14);
  const H = f.hessian(f64(w));
  plain.hessian(w).forEach((row, i) => {
    expect(maxDifference(list(H.apply(f64(row.map((_, j) => Number(i === j))))), row)).toBeLessThan(1e-15);
  });
  const best = plainMinimizer(data);
  expect(Math.abs(plain.loss(best) - bestLoss)).toBeLessThan(1e-12);
  expect(length(list(f.gradient(f64(best))))).toBeLessThan(1e-14);
});

test("logistic regression: the spectrum at zero", () => {
  const { values } = lanczos(f.hessian(zero), { k: 5, l: 1, order: 20, key: random.key(1) });
  const golden = [
    0.001073344, 0.020208864879, 0.029347083954, 0.041977847344, 0.058922645816, 0.086616955576,
  ];
  expect(maxDifference(list(values).slice(1), golden.slice(1))).toBeLessThan(1e-12);
  expect(Math.abs(list(values)[0]! - golden[0]!)).toBeLessThan(1e-9);
});

test("logistic regression: eight steps of Lanczos from ones", () => {
  const ones = f64(Array<number>(20).fill(1));
  const { tridiagonal, values } = lanczos(f.hessian(zero), { k: 2, order: 8, start: ones });
  const diagonal = [0.014625065692, 0.063023857017, 0.042475020835, 0.042071379678];
  const offDiagonal = [0.022720510032, 0.023969128965, 0.019075444608];
  expect(maxDifference(tridiagonal.diagonal.slice(0, 4), diagonal)).toBeLessThan(1e-12);
  expect(maxDifference(tridiagonal.offDiagonal.slice(0, 3), offDiagonal)).toBeLessThan(1e-12);
  expect(maxDifference(list(values), [0.058922550402, 0.08661695553])).toBeLessThan(1e-11);
});

/** f - f* before step 0, 1, ... */
function gaps<S>(optimizer: GradientTransformation<S>, steps: number): number[] {
  const best = f.loss(f64(plainMinimizer(data)));
  return lossesOf(optimizer, f, zero, steps).map((loss) => sub(f64([loss]), best).item());
}

const refresh: FosiOptions = { k: 5, order: 20, warmup: 50, period: 50 };

test.each([
  ["gradient descent", sgd(1), 1.0304457e-1, 5.6607245e-2],
  [
    "FOSI over gradient descent",
    fosi(sgd(1), { ...refresh, alpha: 0.1, clip: 3, momentum: "none" }),
    9.6255245e-2,
    1.930224e-2,
  ],
  ["heavy ball", momentum(1), 3.5967028e-3, 2.7134073e-4],
  [
    "FOSI over heavy ball",
    fosi(momentum(1), { ...refresh, alpha: 0.01, clip: 3 }),
    3.2892066e-3,
    1.9209661e-5,
  ],
] as const)("logistic regression: gaps of %s after 50 and 100 steps", (_name, optimizer, at50, at100) => {
  const found = gaps(optimizer as GradientTransformation<unknown>, 100);
  expect(relativeError(found[50]!, at50)).toBeLessThan(1e-6);
  expect(relativeError(found[100]!, at100)).toBeLessThan(1e-6);
});

test("logistic regression: the gain over heavy ball comes from the scale, not from the Newton part", () => {
  const heavyBall = gaps(momentum(1), 200)[200]!;
  const final = (clip: number): number => {
    const optimizer = fosi(momentum(1), { ...refresh, alpha: 0.01, clip });
    return gaps(optimizer as unknown as GradientTransformation<unknown>, 200)[200]!;
  };
  expect(relativeError(final(1), 9.65e-6)).toBeLessThan(1e-3);
  expect(relativeError(final(1), heavyBall)).toBeLessThan(0.1);
  expect(final(3)).toBeLessThan(heavyBall / 1000);
}, 120_000);
