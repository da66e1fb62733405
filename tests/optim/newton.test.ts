/** Newton-CG, Gauss-Newton and the conjugate gradients inside: exact on quadratics, published solutions, plain loops. */
import { expect, test } from "bun:test";
import { jit } from "../../autodiff/jit.ts";
import { gaussNewtonOperator, hessianOperator } from "../../autodiff/operator.ts";
import { gradientOf } from "../../autodiff/vjp.ts";
import { tensor } from "../../core/create.ts";
import { ShapeError } from "../../core/errors.ts";
import { add, concat, exp, matmul, mul, slice, sub, sum, tanh } from "../../core/ops.ts";
import { leaves } from "../../core/tree.ts";
import type { Value } from "../../core/value.ts";
import { conjugateGradient } from "../../optim/conjugate_gradient.ts";
import { type GaussNewtonOptions, gaussNewton } from "../../optim/gauss_newton.ts";
import { type NewtonCgOptions, newtonCg } from "../../optim/newton_cg.ts";
import { applyUpdates } from "../../optim/transformation.ts";
import {
  dot,
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
import {
  denseOperator,
  diagonalOperator,
  goldenData,
  logisticLoss,
  plainMinimizer,
  rosenbrock,
  solve,
} from "./problems.ts";

// --- conjugate gradients -----------------------------------------------------------------------------------------

test("conjugate gradients solve a system of n unknowns in n iterations, and say what the solution gains", () => {
  const uniform = mulberry32(3);
  const A = withEigenvalues([0.5, 1, 3, 8, 20], randomRotation(uniform, 5));
  const b = normals(uniform, 5);
  const { solution, residual, iterations, outcome, gain } = conjugateGradient(denseOperator(A), f64(b), {
    tolerance: 1e-10,
  });
  const expected = solve(A, b);
  expect(outcome).toBe("converged");
  expect(iterations).toBe(5);
  expect(maxDifference(list(solution), expected)).toBeLessThan(1e-9);
  expect(length(list(residual))).toBeLessThan(1e-10 * length(b));
  expect(gain).toBeCloseTo(dot(b, expected) / 2, 9);
});

test("as many iterations as there are different eigenvalues are enough", () => {
  const values = [1, 1, 1, 4, 4, 9, 9, 9];
  const result = conjugateGradient(diagonalOperator(values), f64(values.map((_, i) => i + 1)), {
    tolerance: 1e-12,
  });
  expect(result).toMatchObject({ outcome: "converged", iterations: 3 });
});

test("iterations end at the radius, at their limit, at negative curvature and at what is not a number", () => {
  const b = f64([1, 2, 3]);
  const A = diagonalOperator([1, 2, 4]);
  const inBall = conjugateGradient(A, b, { radius: 0.5 });
  expect(inBall).toMatchObject({ outcome: "radius", iterations: 1 });
  expect(length(list(inBall.solution))).toBeCloseTo(0.5, 12);
  const cut = conjugateGradient(A, b, { maxIterations: 2, tolerance: 1e-12 });
  expect(cut).toMatchObject({ outcome: "limit", iterations: 2 });
  const indefinite = diagonalOperator([1, 1, -5]);
  expect(conjugateGradient(indefinite, b)).toMatchObject({ outcome: "negative curvature", iterations: 1 });
  // The first direction is b itself.
  expect(list(conjugateGradient(indefinite, b).solution)).toEqual([1, 2, 3]);
  const toEdge = conjugateGradient(indefinite, b, { radius: 2 });
  expect(
    maxDifference(
      list(toEdge.solution),
      list(b).map((x) => (2 * x) / length([1, 2, 3])),
    ),
  ).toBeLessThan(1e-12);
  const broken = conjugateGradient(diagonalOperator([1, Number.NaN, 1]), b);
  expect(broken.outcome).toBe("not finite");
  expect(list(broken.solution)).toEqual([0, 0, 0]);
  expect(conjugateGradient(A, f64([0, 0, 0]))).toMatchObject({ outcome: "converged", iterations: 0 });
});

test("inside a radius every outcome gains what the model says: x A x / 2 - b x, by plain loops", () => {
  const uniform = mulberry32(8);
  for (const values of [
    [1, 2, 3, 4, 50],
    [-1, 2, 3, 4, 5],
    [1e-3, 1, 1, 10, -0.1],
  ])
    for (const radius of [0.1, 1, 10, 1000]) {
      const A = withEigenvalues(values, randomRotation(uniform, 5));
      const b = normals(uniform, 5);
      const { solution, residual, gain } = conjugateGradient(denseOperator(A), f64(b), {
        radius,
        tolerance: 1e-8,
      });
      const x = list(solution);
      const Ax = A.map((row) => dot(row, x));
      expect(length(x)).toBeLessThanOrEqual(radius * (1 + 1e-9));
      expect(gain / (dot(b, x) - dot(x, Ax) / 2)).toBeCloseTo(1, 8);
      const expected = b.map((bi, i) => bi - Ax[i]!);
      expect(maxDifference(list(residual), expected)).toBeLessThan(1e-9 * (1 + length(Ax)));
      // At least what the best step along b gains: the point of Cauchy.
      const slope = length(b);
      const curvature =
        dot(
          b,
          A.map((row) => dot(row, b)),
        ) /
        slope ** 2;
      const t = curvature > 0 ? Math.min(radius, slope / curvature) : radius;
      expect(gain).toBeGreaterThanOrEqual((slope * t - (curvature * t * t) / 2) * (1 - 1e-9));
    }
});

test("a system that does not fit is refused", () => {
  const A = diagonalOperator([1, 2]);
  expect(() => conjugateGradient(A, f64([1, 2, 3]))).toThrow(ShapeError);
  expect(() => conjugateGradient(A, tensor([1, 2]))).toThrow("Cannot solve with f32[2]");
  expect(() => conjugateGradient(A, f64([1, 2]), { radius: 0 })).toThrow(RangeError);
});

// --- Newton-CG ---------------------------------------------------------------------------------------------------

/** Points after each update. */
function newton(
  loss: (x: Value) => Value,
  start: Value,
  updates: number,
  options: NewtonCgOptions = {},
): { points: number[][]; radii: number[] } {
  const optimizer = newtonCg(options);
  let [x, state] = [start, optimizer.init(start)];
  const points: number[][] = [];
  const radii: number[] = [];
  for (let i = 0; i < updates; i++) {
    const at = x;
    const extra = { value: loss, hessian: () => hessianOperator(loss, at) };
    const [moves, next] = optimizer.update(gradientOf<Value, []>(loss)(x), state, x, extra);
    [x, state] = [applyUpdates(x, moves), next];
    points.push(list(x));
    radii.push(state.radius.item());
  }
  return { points, radii };
}

test("a convex quadratic is solved by one update inside the radius", () => {
  const uniform = mulberry32(6);
  const A = withEigenvalues([1, 2, 5, 11, 20, 40], randomRotation(uniform, 6));
  const matrix = f64(A.flat(), [6, 6]);
  const b = normals(uniform, 6);
  const loss = (x: Value): Value => sub(mul(0.5, sum(mul(x, matmul(matrix, x)))), sum(mul(f64(b), x)));
  const { points } = newton(loss, f64(normals(uniform, 6)), 1, { radius: 100, tolerance: 1e-12 });
  expect(maxDifference(points[0]!, solve(A, b))).toBeLessThan(1e-10);
});

test("Newton-CG converges quadratically on a logistic regression with tight tolerances, superlinearly by default", () => {
  const data = goldenData();
  const best = plainMinimizer(data);
  const errorsOf = (options: NewtonCgOptions, updates: number): number[] =>
    newton(logisticLoss(data), f64(new Array<number>(20).fill(0)), updates, options).points.map((p) =>
      length(p.map((x, i) => x - best[i]!)),
    );
  const tight = errorsOf({ radius: 100, tolerance: 1e-12 }, 9);
  expect(tight.at(-1)).toBeLessThan(1e-10);
  const last = tight.findIndex((e) => e < 1e-4);
  // e' <= C e² with one C.
  expect(tight[last]! / tight[last - 1]! ** 2).toBeLessThan(
    3 * (tight[last - 1]! / tight[last - 2]! ** 2) + 1,
  );
  expect(errorsOf({}, 14).at(-1)).toBeLessThan(1e-8);
});

test("Newton-CG follows Rosenbrock's valley to its end in a few dozen updates", () => {
  const { points } = newton(rosenbrock, f64([-1.2, 1]), 40);
  expect(maxDifference(points.at(-1)!, [1, 1])).toBeLessThan(1e-9);
});

test("a saddle is left along its negative curvature", () => {
  // x²/2 - y²/2 + y⁴/4 has minima at (0, ±1) with the value -1/4.
  const loss = (p: Value): Value => {
    const [x, y] = [slice(p, [0], [1]), slice(p, [1], [2])];
    const yy = mul(y, y);
    return sum(add(mul(0.5, sub(mul(x, x), yy)), mul(0.25, mul(yy, yy))));
  };
  const { points } = newton(loss, f64([0.5, 1e-6]), 15);
  expect(maxDifference(points.at(-1)!, [0, 1])).toBeLessThan(1e-8);
});

test("a step that goes up is not made, and the radius shrinks until one goes down", () => {
  // The curvature at the start is far too small for the wall ahead.
  const loss = (x: Value): Value => sum(sub(exp(mul(10, x)), mul(10, x)));
  const start = f64([-2]);
  const { points, radii } = newton(loss, start, 1, { radius: 100, maxRadius: 100 });
  expect(points[0]).toEqual([-2]);
  expect(radii[0]).toBe(25);
  const path = newton(loss, start, 25, { radius: 100, maxRadius: 100 }).points.map((p) => p[0]!);
  const f = (x: number): number => Math.exp(10 * x) - 10 * x;
  path.slice(1).forEach((x, i) => {
    expect(f(x)).toBeLessThanOrEqual(f(path[i]!) + 1e-15);
  });
  expect(path.at(-1)).toBeCloseTo(0, 8);
});

test("the radius doubles when a trusted step reaches it, up to its limit, and stays when the step is inside", () => {
  const loss = (x: Value): Value => sum(mul(x, x));
  const { points, radii } = newton(loss, f64([-20]), 6, { radius: 1, maxRadius: 4 });
  expect(radii.slice(0, 5)).toEqual([2, 4, 4, 4, 4]);
  expect(maxDifference(points.slice(0, 5).flat(), [-19, -17, -13, -9, -5])).toBeLessThan(1e-12);
});

test("values and gradients that are not numbers make no step", () => {
  const optimizer = newtonCg();
  const x = f64([1, 1]);
  const hessian = () => hessianOperator(rosenbrock, x);
  for (const [gradient, value] of [
    [f64([Number.NaN, 1]), rosenbrock],
    [f64([1, 1]), () => f64([Number.NaN]).sum()],
  ] as const) {
    const [updates, state] = optimizer.update(gradient, optimizer.init(x), x, { value, hessian } as never);
    expect(list(updates)).toEqual([0, 0]);
    expect(state.radius.item()).toBeLessThan(1);
  }
});

// --- Gauss-Newton ------------------------------------------------------------------------------------------------

const halfSquares = (z: Value): Value => mul(0.5, sum(mul(z, z)));

/** The last point, and the damping and the loss after each update. */
function leastSquares<P>(
  residuals: (p: P) => Value,
  start: P,
  updates: number,
  options: GaussNewtonOptions = {},
): { p: P; dampings: number[]; losses: number[] } {
  const loss = (p: P): Value => halfSquares(residuals(p));
  const optimizer = gaussNewton(options);
  let [p, state] = [start, optimizer.init(start)];
  const [dampings, losses]: [number[], number[]] = [[], []];
  for (let i = 0; i < updates; i++) {
    const at = p;
    const extra = {
      value: loss as (p: unknown) => Value,
      gaussNewton: () => gaussNewtonOperator<P, []>(residuals, halfSquares, at),
    };
    const [moves, next] = optimizer.update(gradientOf<P, []>(loss)(p), state, p, extra);
    [p, state] = [applyUpdates(p, moves), next];
    dampings.push(state.damping.item());
    losses.push(loss(p).item());
  }
  return { p, dampings, losses };
}

test("a linear least-squares problem is solved by one update", () => {
  const uniform = mulberry32(9);
  const X = f64(normals(uniform, 40), [10, 4]);
  const truth = normals(uniform, 4);
  const y = matmul(X, f64(truth));
  const { p } = leastSquares((w: Value) => sub(matmul(X, w), y), f64([0, 0, 0, 0]), 1, {
    damping: 1e-14,
    tolerance: 1e-13,
  });
  expect(maxDifference(list(p), truth)).toBeLessThan(1e-11);
});

test("Rosenbrock as least squares is solved to the last digits", () => {
  // Residuals 10 sqrt(2) (b - a²) and sqrt(2) (1 - a).
  const residuals = (x: Value): Value => {
    const [a, b] = [slice(x, [0], [1]), slice(x, [1], [2])];
    return mul(Math.SQRT2, concat([mul(10, sub(b, mul(a, a))), sub(1, a)]));
  };
  const { p, losses } = leastSquares(residuals, f64([-1.2, 1]), 35);
  expect(maxDifference(list(p), [1, 1])).toBeLessThan(1e-10);
  expect(losses[0]).toBeLessThan(24.2);
  losses.slice(1).forEach((loss, i) => {
    expect(loss).toBeLessThanOrEqual(losses[i]! * (1 + 1e-12) + 1e-14);
  });
});

/** Misra1a of the NIST Statistical Reference Datasets: y = b1 (1 - exp(-b2 x)). */
const misra = {
  y: [10.07, 14.73, 17.94, 23.93, 29.61, 35.18, 40.02, 44.82, 50.76, 55.05, 61.01, 66.4, 75.47, 81.78],
  x: [77.6, 114.9, 141.1, 190.8, 239.9, 289, 332.8, 378.4, 434.8, 477.3, 536.8, 593.1, 689.1, 760],
  /** Certified, to eleven digits. */
  solution: [238.94212918, 5.5015643181e-4],
  sumOfSquares: 0.12455138894,
  starts: [
    [500, 1e-4],
    [250, 5e-4],
  ],
} as const;

test.each(misra.starts)("the certified solution of Misra1a is found from (%d, %d)", (b1, b2) => {
  const [x, y] = [f64(misra.x), f64(misra.y)];
  // In units of 100 and 1e-4, so that both parameters are of size 1.
  const residuals = ({ a, b }: { a: Value; b: Value }): Value =>
    sub(mul(mul(100, a), sub(1, exp(mul(mul(-1e-4, b), x)))), y);
  const start = { a: tensor(b1 / 100, { dtype: "float64" }), b: tensor(b2 / 1e-4, { dtype: "float64" }) };
  const { p, losses } = leastSquares<{ a: Value; b: Value }>(residuals, start, 40, { tolerance: 1e-10 });
  expect((100 * p.a.item()) / misra.solution[0]).toBeCloseTo(1, 8);
  expect((1e-4 * p.b.item()) / misra.solution[1]).toBeCloseTo(1, 8);
  expect((2 * losses.at(-1)!) / misra.sumOfSquares).toBeCloseTo(1, 9);
});

test("damping follows Nielsen's rule: by the ratio after a gain, doubling faster and faster after failures", () => {
  // One residual z = x³ from x = 1, all in plain numbers: J = 3 x².
  const plain = (steps: number): number[] => {
    let [x, lambda, growth] = [1, 0.5, 2];
    const dampings: number[] = [];
    for (let i = 0; i < steps; i++) {
      const [z, j] = [x ** 3, 3 * x * x];
      const s = (-j * z) / (j * j + lambda);
      const promised = -(j * z * s + (j * s) ** 2 / 2);
      const ratio = (z * z - (x + s) ** 6) / 2 / promised;
      if (ratio > 1e-4) {
        x += s;
        lambda *= Math.max(1 / 3, 1 - (2 * ratio - 1) ** 3);
        growth = 2;
      } else {
        lambda *= growth;
        growth *= 2;
      }
      dampings.push(lambda);
    }
    return dampings;
  };
  const cube = (x: Value): Value => mul(x, mul(x, x));
  const { dampings } = leastSquares(cube, f64([1]), 6, { damping: 0.5, tolerance: 1e-14 });
  const expected = plain(6);
  expect(
    maxDifference(
      dampings.map((d, i) => d / expected[i]!),
      expected.map(() => 1),
    ),
  ).toBeLessThan(1e-8);

  // A residual that only grows in the direction that its slope promises: every step fails.
  const optimizer = gaussNewton({ damping: 1 });
  let state = optimizer.init(f64([0]));
  const seen: number[] = [];
  for (let i = 0; i < 4; i++) {
    const [updates, next] = optimizer.update(f64([1]), state, f64([0]), {
      value: (p) => sum(mul(p as Value, p as Value)),
      gaussNewton: () => diagonalOperator([1]),
    });
    expect(list(updates)).toEqual([0]);
    state = next;
    seen.push(state.damping.item());
  }
  expect(seen).toEqual([2, 8, 64, 1024]);
});

test("both methods go down a tree of parameters in float32, with compiled functions, and are pure", () => {
  const uniform = mulberry32(4);
  const X = tensor(normals(uniform, 60), { shape: [20, 3] });
  const y = tensor(normals(uniform, 20), { shape: [20, 1] });
  type P = { readonly u: Value; readonly v: readonly Value[] };
  const outputs = jit(({ u, v }: P): Value => sub(matmul(tanh(matmul(X, u)), v[0]!), y));
  const half = jit(halfSquares);
  const loss = jit((p: P): Value => half(outputs(p)));
  const start: P = {
    u: tensor(normals(uniform, 12), { shape: [3, 4] }),
    v: [tensor(normals(uniform, 4), { shape: [4, 1] })],
  };
  const extraAt = (p: P) => ({
    value: loss as (p: unknown) => Value,
    hessian: () => hessianOperator<P, []>(loss, p),
    gaussNewton: () => gaussNewtonOperator<P, []>(outputs, half, p),
  });
  for (const optimizer of [newtonCg(), gaussNewton()]) {
    const update = optimizer.update as ReturnType<typeof newtonCg>["update"];
    let p = start;
    let state = optimizer.init(start) as never;
    const gradient = gradientOf<P, []>(loss);
    expect(
      sameTreeBits(update(gradient(p), state, p, extraAt(p)), update(gradient(p), state, p, extraAt(p))),
    ).toBe(true);
    for (let i = 0; i < 15; i++) {
      const [updates, next] = update(gradient(p), state, p, extraAt(p));
      expect(leaves(updates).map((x) => String(x.aval))).toEqual(leaves(p).map((x) => String(x.aval)));
      expect(leaves(next).map((x) => String(x.aval))).toEqual(leaves(state).map((x) => String(x.aval)));
      [p, state] = [applyUpdates(p, updates), next as never];
    }
    expect(loss(p).item()).toBeLessThan(0.5 * loss(start).item());
  }
});

test("options outside their range are refused", () => {
  expect(() => newtonCg({ radius: 0 })).toThrow("Cannot make Newton-CG: radius is 0");
  expect(() => newtonCg({ tolerance: -1 })).toThrow(RangeError);
  expect(() => gaussNewton({ damping: 0 })).toThrow("Cannot make Gauss-Newton: damping is 0");
  expect(() => gaussNewton({ maxIterations: 0.5 })).toThrow(RangeError);
});
