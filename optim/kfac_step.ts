/**
 * The parts of a step of K-FAC, for one place or for layers divided among several: decompositions of single factors, the
 * natural gradient of some layers, and what is made of the natural gradients of all.
 */
import {
  abs,
  add,
  cast,
  div,
  eigh,
  expandDims,
  matmul,
  maximum,
  minimum,
  mul,
  sqrt,
  sum,
  transpose,
} from "../core/ops.ts";
import { map } from "../core/tree.ts";
import type { Value } from "../core/value.ts";
import type { KfacLayer } from "./kfac_layers.ts";
import { factor } from "./transformation.ts";

/**
 * A symmetric matrix by its eigenvalues, ascending and not negative, and unit eigenvectors as columns.
 *
 * @since 0.2.0
 */
export interface KfacEigenpairs {
  /** [n] */
  readonly values: Value;
  /** [n, n] */
  readonly vectors: Value;
}

/**
 * The decomposed factors of a layer.
 *
 * @since 0.2.0
 */
export interface KfacEigen {
  readonly inputs: KfacEigenpairs;
  readonly outputs: KfacEigenpairs;
}

/** Means of squares have no negative eigenvalues: what is below zero is rounding. */
export function eigenpairs(matrix: Value): KfacEigenpairs {
  const [values, vectors] = eigh(matrix);
  return { values: maximum(values, 0), vectors };
}

/** U ((Uᵀ D V) / (a gᵀ + damping)) Vᵀ. */
export function naturalGradient(D: Value, { inputs, outputs }: KfacEigen, damping: number): Value {
  const [U, V] = [inputs.vectors, outputs.vectors];
  const rotated = matmul(matmul(transpose(U), D), V);
  const curvature = mul(expandDims(inputs.values, 1), outputs.values);
  return matmul(matmul(U, div(rotated, add(curvature, damping))), transpose(V));
}

/** What a layer adds to `g F⁻¹ g`: Σ N·D. */
export function changeOf(N: Value, D: Value): Value {
  return sum(mul(N, D));
}

/** min(1, sqrt(klClip / (lr² Σ N·D))), from the sums of the layers in their order. */
export function shrinkage(changes: readonly Value[], rate: number | Value, klClip: number): Value {
  const total = changes.reduce((x, y) => add(x, cast(y, x.dtype)));
  const squaredRate = typeof rate === "number" ? rate * rate : mul(rate, rate);
  const change = mul(factor(squaredRate, total), abs(total));
  return minimum(sqrt(div(klClip, change)), 1);
}

/** Natural gradients in the places of weights and biases, shortened; other leaves as they are. */
export function shortened(
  layers: readonly KfacLayer[],
  natural: readonly Value[],
  shrink: Value,
): readonly Value[] {
  const own = new Set(layers.flatMap(({ w, b }) => (b === null ? [w] : [w, b])));
  return natural.map((x, i) => (own.has(i) ? mul(cast(shrink, x.dtype), x) : x));
}

/** v <- N + momentum v, and the updates -lr v. */
export function momentumUpdates<P>(
  natural: P,
  velocity: unknown,
  rate: number | Value,
  momentum: number,
): readonly [updates: P, velocity: P] {
  const next = map((x, v) => add(x, mul(momentum, v!)), natural, velocity);
  const updates = map((v) => mul(typeof rate === "number" ? -rate : mul(-1, factor(rate, v)), v), next);
  return [updates, next];
}
