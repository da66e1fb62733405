/** The problems on which optimizers are measured: quadratics, Rosenbrock, and a logistic regression that any language can rebuild. */
import { hessianOperator, type LinearOperator } from "../../autodiff/operator.ts";
import { gradientOf } from "../../autodiff/vjp.ts";
import { add, matmul, mean, mul, softplus, sub, sum } from "../../core/ops.ts";
import { adopt } from "../../core/trace.ts";
import type { Value } from "../../core/value.ts";
import { type Fosi, type FosiState, installCurvature } from "../../optim/fosi.ts";
import { applyUpdates, type GradientTransformation } from "../../optim/transformation.ts";
import { f64, type Matrix, mulberry32, type Vector } from "./numbers.ts";

/** A function to minimize, with its derivatives. */
export interface Objective {
  readonly loss: (x: Value) => Value;
  readonly gradient: (x: Value) => Value;
  readonly hessian: (x: Value) => LinearOperator;
}

export function objective(loss: (x: Value) => Value): Objective {
  return { loss, gradient: gradientOf(loss), hessian: (x) => hessianOperator(loss, x) };
}

/** ½ Σ λ x². */
export function diagonalQuadratic(eigenvalues: Vector): Objective {
  const half = f64(eigenvalues.map((value) => value / 2));
  return objective((x) => sum(mul(half, mul(x, x))));
}

/** ½ xᵀ A x. */
export function denseQuadratic(a: Matrix): Objective {
  const A = f64(a.flat(), [a.length, a.length]);
  return objective((x) => mul(0.5, sum(mul(x, matmul(A, x)))));
}

/** Σ 100 (x_{i+1} - x_i²)² + (1 - x_i)² for two variables. */
export function rosenbrock(x: Value): Value {
  const [a, b] = [x.slice([0], [1]), x.slice([1], [2])];
  const [valley, rest] = [sub(b, mul(a, a)), sub(1, a)];
  return sum(add(mul(100, mul(valley, valley)), mul(rest, rest)));
}

/** A symmetric matrix, given by its rows, as an operator. */
export function denseOperator(a: Matrix): LinearOperator {
  const A = f64(a.flat(), [a.length, a.length]);
  return operatorOf(a.length, (v) => matmul(A, v));
}

/** diag(values), computed on the host. */
export function diagonalOperator(values: Vector): LinearOperator {
  return operatorOf(values.length, (v) => {
    const x = v.dataSync();
    return adopt(
      Float64Array.from(values, (value, i) => value * x[i]!),
      [values.length],
      "float64",
    );
  });
}

function operatorOf(size: number, apply: (v: Value) => Value): LinearOperator {
  const operator: LinearOperator = {
    size,
    dtype: "float64",
    tags: new Set(["symmetric"] as const),
    apply,
    transpose: () => operator,
  };
  return operator;
}

/** The losses before the first and after every step. */
export function lossesOf<S>(
  optimizer: GradientTransformation<S, { readonly hessian: () => LinearOperator }>,
  f: Objective,
  start: Value,
  steps: number,
): number[] {
  let [x, state] = [start, optimizer.init(start)];
  const losses = [f.loss(x).item()];
  for (let step = 0; step < steps; step++) {
    const at = x;
    const [updates, next] = optimizer.update(f.gradient(x), state, x, { hessian: () => f.hessian(at) });
    [x, state] = [applyUpdates(x, updates), next];
    losses.push(f.loss(x).item());
  }
  return losses;
}

/** The optimizer with the curvature of diag(values), exact, from the start: no refresh happens later. */
export function withExactCurvature<B>(
  optimizer: Fosi<B>,
  values: Vector,
): GradientTransformation<FosiState<B>> {
  const { k, l } = optimizer.options;
  const order = values.map((_, i) => i).sort((i, j) => values[i]! - values[j]!);
  const chosen = [...order.slice(0, l), ...order.slice(values.length - k)];
  const spectrum = {
    values: f64(chosen.map((i) => values[i]!)),
    vectors: f64(
      chosen.flatMap((i) => values.map((_, j) => Number(i === j))),
      [k + l, values.length],
    ),
    largest: k,
  };
  return {
    name: optimizer.name,
    init: (params) => installCurvature(optimizer.init(params), spectrum, optimizer.options),
    update: (gradients, state, params) => optimizer.step(gradients, state, params),
  };
}

// --- the golden logistic regression ------------------------------------------------------------------------------

/** Rows of features and 0/1 labels. */
export interface Classification {
  readonly features: Matrix;
  readonly labels: Vector;
}

/**
 * 400 rows of 20 features whose scales fall from 1 to 10^-1.5, labels by a noisy linear rule. Generator mulberry32, seed
 * 12345; row by row, the features and then the noise.
 */
export function goldenData(): Classification {
  const [uniform, d] = [mulberry32(12345), 20];
  const [features, labels]: [number[][], number[]] = [[], []];
  for (let row = 0; row < 400; row++) {
    const x = Array.from({ length: d }, (_, j) => (2 * uniform() - 1) * 10 ** ((-1.5 * j) / (d - 1)));
    const score = x.reduce((total, xj, j) => total + 3 * (-1) ** j * xj, 0) + 0.5 * (2 * uniform() - 1);
    features.push(x);
    labels.push(score > 0 ? 1 : 0);
  }
  return { features, labels };
}

export const goldenPenalty = 1e-3;

/** Mean logistic loss plus ½ · 1e-3 |w|². */
export function logisticLoss({ features, labels }: Classification): (w: Value) => Value {
  const X = f64(features.flat(), [features.length, features[0]!.length]);
  const y = f64(labels);
  return (w) => {
    const z = matmul(X, w);
    return add(mean(sub(softplus(z), mul(y, z))), mul(goldenPenalty / 2, sum(mul(w, w))));
  };
}

/** Loss, gradient and Hessian of the same in plain loops: the independent reference. */
export function plainLogistic({ features, labels }: Classification): {
  loss(w: Vector): number;
  gradient(w: Vector): number[];
  hessian(w: Vector): number[][];
} {
  const scores = (w: Vector): number[] => features.map((x) => x.reduce((s, xj, j) => s + xj * w[j]!, 0));
  const sigmoid = (z: number): number => 1 / (1 + Math.exp(-z));
  return {
    loss(w) {
      const data = scores(w).reduce(
        (s, z, i) => s + Math.max(z, 0) + Math.log1p(Math.exp(-Math.abs(z))) - labels[i]! * z,
        0,
      );
      return data / features.length + (goldenPenalty / 2) * w.reduce((s, x) => s + x * x, 0);
    },
    gradient(w) {
      const g = w.map((x) => goldenPenalty * x);
      scores(w).forEach((z, i) => {
        const r = (sigmoid(z) - labels[i]!) / features.length;
        features[i]!.forEach((x, j) => {
          g[j]! += r * x;
        });
      });
      return g;
    },
    hessian(w) {
      const h = w.map((_, i) => w.map((_, j) => (i === j ? goldenPenalty : 0)));
      scores(w).forEach((z, r) => {
        const weight = (sigmoid(z) * (1 - sigmoid(z))) / features.length;
        const x = features[r]!;
        for (let i = 0; i < x.length; i++)
          for (let j = 0; j < x.length; j++) h[i]![j]! += weight * x[i]! * x[j]!;
      });
      return h;
    },
  };
}

/** The minimizer by Newton's method with the plain derivatives. */
export function plainMinimizer(data: Classification): number[] {
  const f = plainLogistic(data);
  let w: number[] = data.features[0]!.map(() => 0);
  for (let step = 0; step < 12; step++) {
    const move = solve(f.hessian(w), f.gradient(w));
    w = w.map((x, i) => x - move[i]!);
  }
  return w;
}

/** A⁻¹ b for a symmetric positive definite matrix, by elimination. */
export function solve(a: Matrix, b: Vector): number[] {
  const rows = a.map((row, i) => [...row, b[i]!]);
  const n = b.length;
  for (let p = 0; p < n; p++)
    for (let i = p + 1; i < n; i++) {
      const factor = rows[i]![p]! / rows[p]![p]!;
      for (let j = p; j <= n; j++) rows[i]![j]! -= factor * rows[p]![j]!;
    }
  const x = new Array<number>(n).fill(0);
  for (let i = n - 1; i >= 0; i--) {
    const known = rows[i]!.slice(i + 1, n).reduce((s, c, j) => s + c * x[i + 1 + j]!, 0);
    x[i] = (rows[i]![n]! - known) / rows[i]![i]!;
  }
  return x;
}
