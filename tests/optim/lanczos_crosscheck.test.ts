/** Lanczos against methods that share nothing with it: power iteration with deflation, true residuals, moments. */
import { expect, test } from "bun:test";
import fc from "fast-check";
import { jit } from "../../autodiff/jit.ts";
import { hessianOperator, type LinearOperator } from "../../autodiff/operator.ts";
import { add, matmul, mul, sub, sum, tanh } from "../../core/ops.ts";
import * as random from "../../core/random.ts";
import type { Value } from "../../core/value.ts";
import { lanczos } from "../../optim/lanczos.ts";
import { tridiagonalEigen } from "../../optim/tridiagonal.ts";
import { prop } from "../support/prop.ts";
import {
  dot,
  f64,
  length,
  list,
  mulberry32,
  normals,
  randomRotation,
  relativeError,
  rowsOf,
  type Vector,
  withEigenvalues,
} from "./numbers.ts";
import { denseOperator } from "./problems.ts";

const layers = [10, 100, 10] as const;

/** The squared error of a tanh network 10-100-10 on 8 rows: 2,110 parameters. */
const networkLoss = jit((p: Value, X: Value, Y: Value): Value => {
  const [inputs, hidden, outputs] = layers;
  const ends = [inputs * hidden, inputs * hidden + hidden, (inputs + 1 + outputs) * hidden];
  const w1 = p.slice([0], [ends[0]!]).reshape([inputs, hidden]);
  const b1 = p.slice([ends[0]!], [ends[1]!]);
  const w2 = p.slice([ends[1]!], [ends[2]!]).reshape([hidden, outputs]);
  const b2 = p.slice([ends[2]!], [ends[2]! + outputs]);
  const residual = sub(add(matmul(tanh(add(matmul(X, w1), b1)), w2), b2), Y);
  return sum(mul(residual, residual));
});

function network(seed: number): LinearOperator {
  const uniform = mulberry32(seed);
  const [X, Y] = [f64(normals(uniform, 80), [8, 10]), f64(normals(uniform, 80), [8, 10])];
  const p = f64(normals(uniform, 2110).map((x) => 0.3 * x));
  return hessianOperator(networkLoss, p, X, Y);
}

/** The largest eigenvalue of sign (H - Σ value v vᵀ) + shift I, by power iteration: a lower bound that rises to it. */
function powerIteration(
  H: LinearOperator,
  deflated: readonly (readonly [value: number, v: Vector])[],
  options: { readonly sign: number; readonly shift: number; readonly steps: number },
): number {
  const { sign, shift, steps } = options;
  let v: Vector = normals(mulberry32(77), H.size);
  let value = 0;
  for (let step = 0; step < steps; step++) {
    const size = length(v);
    v = v.map((x) => x / size);
    const w = list(H.apply(f64(v)));
    for (const [lambda, u] of deflated) {
      const c = lambda * dot(u, v);
      for (let i = 0; i < w.length; i++) w[i]! -= c * u[i]!;
    }
    value = sign * dot(w, v);
    v = w.map((x, i) => sign * x + shift * v[i]!);
  }
  return value;
}

test("a tanh network 10-100-10 on 8 rows, 100 steps: the top 10 and bottom 3 pairs within 1e-4", () => {
  // The second check that the authors of FOSI run on their own Lanczos.
  const H = network(1);
  const { values, vectors, residuals } = lanczos(H, { k: 10, l: 3, order: 100, key: random.key(2) });
  const [found, rows] = [list(values), rowsOf(vectors)];
  const pairs = rows.map((v, j) => [found[j]!, v] as const);
  pairs.forEach(([value, v], j) => {
    // An eigenvalue is as near as the true residual, and the eigenvector as near as the residual over the gap.
    const residual = length(list(H.apply(f64(v))).map((x, i) => x - value * v[i]!));
    expect(residual).toBeLessThan(1e-4);
    expect(Math.abs(residual - list(residuals)[j]!)).toBeLessThan(1e-9);
    const gap = Math.min(...found.filter((_, i) => i !== j).map((other) => Math.abs(other - value)));
    expect(residual / gap).toBeLessThan(1e-4);
  });
  // Nothing is missing: what is left when they are taken out lies between them.
  const [bottom, top] = [pairs.slice(0, 3), pairs.slice(3)];
  const shift = Math.max(Math.abs(found[0]!), found[3]!);
  const rest = { top: { sign: 1, shift, steps: 80 }, bottom: { sign: -1, shift, steps: 80 } };
  expect(powerIteration(H, top, rest.top)).toBeLessThan(top[0]![0] + 1e-4);
  expect(-powerIteration(H, pairs, rest.bottom)).toBeGreaterThan(bottom[2]![0] - 1e-4);
}, 120_000);

test("power iteration with deflation finds the same largest eigenvalues", () => {
  const H = network(3);
  const { values, vectors } = lanczos(H, { k: 3, order: 60, key: random.key(4) });
  const [found, rows] = [list(values).reverse(), rowsOf(vectors).reverse()];
  for (let j = 0; j < 3; j++) {
    const before = rows.slice(0, j).map((v, i) => [found[i]!, v] as const);
    const value = powerIteration(H, before, { sign: 1, shift: 0, steps: 150 });
    // The tolerance of PyHessian, whose method this is.
    expect(relativeError(value, found[j]!)).toBeLessThan(1e-3);
  }
}, 120_000);

prop(
  "m steps are a Gauss quadrature: vᵀ Hᵖ v = Σ τ² θᵖ for every p below 2 m, τ the first components of T's eigenvectors",
  fc.integer({ min: 4, max: 20 }),
  fc.integer({ min: 1, max: 4 }),
  fc.nat(),
  (n, m, seed) => {
    const uniform = mulberry32(seed);
    const eigenvalues = normals(uniform, n);
    const matrix = withEigenvalues(eigenvalues, randomRotation(uniform, n));
    const raw = normals(uniform, n);
    const start = raw.map((x) => x / length(raw));
    const { tridiagonal } = lanczos(denseOperator(matrix), { k: 1, order: m, start: f64(raw) });
    const nodes = tridiagonalEigen({
      diagonal: tridiagonal.diagonal,
      offDiagonal: tridiagonal.offDiagonal.slice(0, m - 1),
    });
    const size = Math.max(...eigenvalues.map(Math.abs));
    let power: Vector = start;
    for (let p = 0; p < 2 * m; p++) {
      const quadrature = nodes.values.reduce((s, theta, j) => s + nodes.vectors[j]![0]! ** 2 * theta ** p, 0);
      expect(Math.abs(quadrature - dot(start, power))).toBeLessThan(1e-12 * Math.max(1, size ** p));
      power = matrix.map((row) => dot(row, power));
    }
  },
);

test("stochastic Lanczos quadrature: the trace of a function from random signs, within its standard error", () => {
  // tr exp(-H) with H of 60 eigenvalues between 0 and 5.
  const uniform = mulberry32(21);
  const n = 60;
  const eigenvalues = Array.from({ length: n }, () => 5 * uniform());
  const operator = denseOperator(withEigenvalues(eigenvalues, randomRotation(uniform, n)));
  const expected = eigenvalues.reduce((s, x) => s + Math.exp(-x), 0);
  const draws = Array.from({ length: 60 }, () => {
    const start = f64(Array.from({ length: n }, () => (uniform() < 0.5 ? -1 : 1)));
    const { tridiagonal: t } = lanczos(operator, { k: 1, order: 12, start });
    const { values, vectors } = tridiagonalEigen({ ...t, offDiagonal: t.offDiagonal.slice(0, 11) });
    return n * values.reduce((s, theta, j) => s + vectors[j]![0]! ** 2 * Math.exp(-theta), 0);
  });
  const mean = draws.reduce((s, x) => s + x, 0) / draws.length;
  const deviation = Math.sqrt(draws.reduce((s, x) => s + (x - mean) ** 2, 0) / (draws.length - 1));
  expect(Math.abs(mean - expected)).toBeLessThan((4 * deviation) / Math.sqrt(draws.length));
  expect(deviation).toBeLessThan(0.2 * expected);
});
