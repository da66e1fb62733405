/** Muon: momentum whose matrices are made orthogonal; Adam for everything that is not a hidden matrix. */
import { zerosLike } from "../core/create.ts";
import { add, div, matmul, mul, reshape, transpose } from "../core/ops.ts";
import { leaves, map, paths } from "../core/tree.ts";
import type { Value } from "../core/value.ts";
import { type AdamState, type AdamWOptions, adamw, addDecayedWeights } from "./adam.ts";
import { globalNorm } from "./clip.ts";
import { type LeafTest, multiTransform } from "./masked.ts";
import type { VelocityState } from "./momentum.ts";
import { checkOptions, countingNumber, fraction, nonNegative } from "./ranges.ts";
import type { Schedule } from "./schedule.ts";
import {
  type CountState,
  chain,
  factor,
  type GradientTransformation,
  scaleByLearningRate,
} from "./transformation.ts";

/**
 * The constants of Muon, and which leaves it is for.
 *
 * @since 0.2.0
 */
export interface MuonOptions {
  /** Decay of the mean of gradients; default 0.95. */
  readonly momentum?: number;
  /** Newton-Schulz steps; default 5. */
  readonly steps?: number;
  /** Decoupled weight decay of the hidden matrices; default 0. */
  readonly weightDecay?: number;
  /**
   * The hidden matrices and kernels; default every leaf with two or more axes. Embeddings, the first and the last layer
   * are better left to Adam, and only the caller knows their paths.
   */
  readonly isHidden?: LeafTest;
  /** AdamW for the other leaves; default rate 3e-4, beta1 0.9, beta2 0.95, epsilon 1e-10, weightDecay 0. */
  readonly auxiliary?: AdamWOptions & { readonly learningRate?: number | Schedule };
}

/**
 * What Muon remembers, for each of the two kinds of leaves.
 *
 * @since 0.2.0
 */
export interface MuonState {
  readonly hidden: [VelocityState, readonly [], CountState];
  readonly rest: [AdamState, readonly [], CountState];
}

/**
 * A matrix with the same singular vectors and all singular values near 1: between 0.68 and 1.14 for those that were at
 * least a hundredth of the norm, after 5 steps.
 *
 * `X <- X / |X|; X <- a X + b (X Xᵀ) X + c (X Xᵀ)² X` with (a, b, c) = (3.4445, -4.7750, 2.0315), whose slope at 0 is steep
 * and which does not converge to 1, but stays near it.
 *
 * Shapes: `[m, n]`; products of matrices of the smaller of m and n.
 * Units: the result has none.
 *
 * @param steps products of the iteration; default 5
 * @throws {ShapeError} if x is not a matrix
 * @source Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"; Bernstein & Newhouse 2024
 * @example A scaled rotation
 * ```ts
 * const x = ct.optim.orthogonalize(ct.tensor([[0, -30], [30, 0]]));
 * assert(Math.abs(x.slice([1, 0], [2, 1]).item() - 1) < 0.35);
 * assertClose(x.slice([0, 0], [1, 1]), [[0]]);
 * ```
 * @since 0.2.0
 */
export function orthogonalize(x: Value, steps = 5): Value {
  const [a, b, c] = [3.4445, -4.775, 2.0315];
  const isTall = (x.shape[0] ?? 0) > (x.shape[1] ?? 0);
  let X = isTall ? transpose(x) : x;
  X = div(X, add(factor(globalNorm(X), X), 1e-7));
  for (let step = 0; step < steps; step++) {
    const A = matmul(X, transpose(X));
    X = add(mul(a, X), matmul(add(mul(b, A), mul(c, matmul(A, A))), X));
  }
  return isTall ? transpose(X) : X;
}

/** A dense weight is `[in, out]`, a kernel `[out, in, ...window]`: its rows are the outputs. */
function orthogonalStep(u: Value, steps: number): Value {
  const [rows = 1] = u.shape;
  const isKernel = u.ndim > 2;
  const matrix = isKernel ? reshape(u, [rows, u.size / Math.max(1, rows)]) : u;
  const [m, n] = matrix.shape as readonly [number, number];
  const [outputs, inputs] = isKernel ? [m, n] : [n, m];
  const scale = Math.sqrt(Math.max(1, outputs / Math.max(1, inputs)));
  return reshape(mul(scale, orthogonalize(matrix, steps)), u.shape);
}

/** m <- beta m + (1 - beta) g, then the orthogonal matrix nearest to the look-ahead beta m + (1 - beta) g. */
function scaleByMuon(beta: number, steps: number): GradientTransformation<VelocityState> {
  return {
    name: "scaleByMuon",
    init(params) {
      const i = leaves(params).findIndex((p) => p.ndim < 2);
      if (i >= 0)
        throw new RangeError(
          `Cannot make Muon state: ${paths(params)[i]} is ${leaves(params)[i]!.aval} and called hidden, two or more axes are needed`,
        );
      return { velocity: map(zerosLike, params) };
    },
    update(updates, state) {
      const blend = (m: unknown): typeof updates =>
        map((g, v) => add(mul(beta, v!), mul(1 - beta, g)), updates, m);
      const velocity = blend(state.velocity);
      return [map((u) => orthogonalStep(u, steps), blend(velocity)), { velocity }];
    },
  };
}

/**
 * Muon for hidden matrices, with AdamW for the other leaves.
 *
 * `m <- beta m + (1 - beta) g; u = beta m + (1 - beta) g; p <- p - lr (sqrt(max(1, out / in)) orthogonalize(u) +
 * weightDecay p)`; kernels count as `[out, in · window]`.
 *
 * Cost per step and hidden matrix [m, n], m <= n: about 10 (2 m² n + m³) flops.
 * Shapes: any tree of float tensors; the state holds one more for hidden leaves, two for the others.
 * Units: none.
 *
 * @param learningRate of the hidden leaves, a number or a schedule; default 0.02
 * @throws {RangeError} if an option is out of range, or a leaf without two axes is called hidden
 * @source Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"
 * @example The last layer left to Adam
 * ```ts
 * const optimizer = ct.optim.muon(0.02, { isHidden: (path, leaf) => leaf.ndim > 1 && path !== "layers[1]" });
 * const params = { layers: [ct.eye(2), ct.eye(2)] };
 * const [updates] = optimizer.update(params, optimizer.init(params), params, {});
 * assertClose(updates.layers[0]!, ct.eye(2).mul(-0.02), 0.007);
 * assertClose(updates.layers[1]!, [[-3e-4, 0], [0, -3e-4]], 1e-6);
 * ```
 * @since 0.2.0
 */
export function muon(
  learningRate: number | Schedule = 0.02,
  options: MuonOptions = {},
): GradientTransformation<MuonState> {
  const { momentum = 0.95, steps = 5, weightDecay = 0, isHidden = (_path, leaf) => leaf.ndim > 1 } = options;
  const { learningRate: auxiliaryRate = 3e-4, ...constants } = options.auxiliary ?? {};
  checkOptions("Muon", {
    momentum: [momentum, fraction],
    steps: [steps, countingNumber],
    weightDecay: [weightDecay, nonNegative],
  });
  const methods = {
    hidden: chain(
      scaleByMuon(momentum, steps),
      addDecayedWeights(weightDecay),
      scaleByLearningRate(learningRate),
    ),
    rest: adamw(auxiliaryRate, { beta1: 0.9, beta2: 0.95, epsilon: 1e-10, weightDecay: 0, ...constants }),
  };
  return {
    ...multiTransform(methods, (path, leaf) => (isHidden(path, leaf) ? "hidden" : "rest")),
    name: "muon",
  };
}
