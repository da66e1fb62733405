/**
 * Shampoo: each axis of a matrix is preconditioned by an inverse root of the second moments of the gradient along it.
 *
 * The step is pure and cheap; taking the roots is a separate pure function that a loop calls when it is due.
 */
import { eye, zerosLike } from "../core/create.ts";
import {
  add,
  concat,
  div,
  eigh,
  less,
  matmul,
  min,
  mul,
  neg,
  pow,
  reshape,
  slice,
  sqrt,
  sub,
  sum,
  transpose,
  where,
} from "../core/ops.ts";
import type { Shape } from "../core/shape.ts";
import { beside } from "../core/trace.ts";
import { leaves, map } from "../core/tree.ts";
import type { Value } from "../core/value.ts";
import { along, backTo, gram, wide } from "./kronecker.ts";
import { checkOptions, countingNumber, fraction, nonNegative, positive, unitInterval } from "./ranges.ts";
import { rate, type Schedule } from "./schedule.ts";
import {
  biasCorrection,
  type CountState,
  factor,
  type GradientTransformation,
  zeroCount,
} from "./transformation.ts";

/**
 * The method whose step lengths Shampoo takes over, block by block.
 *
 * @since 0.2.0
 */
export type ShampooGrafting = "none" | "sgd" | "adagrad" | "rmsprop" | "adam";

/** Decay of the mean of squares, 1 for a sum; what is added to its root; whether the mean is corrected. */
const graftings: Readonly<
  Record<
    ShampooGrafting,
    { readonly beta2: number; readonly epsilon: number; readonly corrects: boolean } | null
  >
> = {
  none: null,
  sgd: null,
  adagrad: { beta2: 1, epsilon: 1e-10, corrects: false },
  rmsprop: { beta2: 0.99, epsilon: 1e-8, corrects: false },
  adam: { beta2: 0.999, epsilon: 1e-8, corrects: true },
};

/**
 * The constants of Shampoo.
 *
 * @since 0.2.0
 */
export interface ShampooOptions {
  /** Decay of the mean of gradients, which is what is preconditioned; default 0.9. */
  readonly beta1?: number;
  /** Decay of the means of second moments; default 1, which adds them up. */
  readonly beta2?: number;
  /**
   * Added to the eigenvalues of the second moments; default 1e-12. In float32 these are known to 1e-7 of the largest:
   * where they span more, a larger number keeps rounding from being enlarged.
   */
  readonly epsilon?: number;
  /** Decoupled weight decay; default 0. */
  readonly weightDecay?: number;
  /** Axes are cut into parts of at most so many elements, and a leaf into blocks; default 1024. */
  readonly maxDimension?: number;
  /** Updates between refreshes; default 1. */
  readonly period?: number;
  /** The update of the first refresh, before which the grafted method runs alone; default `period`. */
  readonly warmup?: number;
  /** Whose step lengths are taken over; default none. */
  readonly grafting?: ShampooGrafting;
  /** Decay of the mean of squares of the grafted method; default 0.99 of rmsprop, 0.999 of adam. */
  readonly graftingBeta2?: number;
  /** Added to the root of the mean of squares of the grafted method; default 1e-10 of adagrad, 1e-8 of the others. */
  readonly graftingEpsilon?: number;
  /** Corrects means for their start at zero; default true. */
  readonly correctsBias?: boolean;
  /** The p of the p-th roots; default twice the number of axes. */
  readonly root?: number;
}

/**
 * A square matrix for each axis, of each block, of each leaf in the order of `tree.leaves`.
 *
 * @since 0.2.0
 */
export type ShampooMatrices = readonly (readonly (readonly Value[])[])[];

/**
 * What Shampoo remembers.
 *
 * @since 0.2.0
 */
export interface ShampooState extends CountState {
  /** Running mean of gradients: a tree like the parameters. */
  readonly mean: unknown;
  /** Squares of the grafted method: a tree like the parameters, or an empty list. */
  readonly squares: unknown;
  /** Second moments of the gradients. */
  readonly statistics: ShampooMatrices;
  /** Their inverse roots when they were last taken; unit matrices before. */
  readonly roots: ShampooMatrices;
}

/**
 * Shampoo as a transformation, with its two halves apart for loops that schedule the roots themselves.
 *
 * @since 0.2.0
 */
export interface Shampoo extends GradientTransformation<ShampooState> {
  readonly options: Required<Omit<ShampooOptions, "root" | "graftingBeta2" | "graftingEpsilon">> &
    Pick<ShampooOptions, "root">;
  /**
   * Whether the roots are to be taken before the next update; `made` is the number of updates so far, or the state that
   * counts them.
   */
  curvatureDue(made: number | ShampooState): boolean;
  /** The matrices whose roots are due, with the gradients of the next update in them; a block of m has 2 m-th roots. */
  moments(state: ShampooState, gradients: unknown): ShampooMatrices;
  /** The state with the roots of `moments`; of the gradients that the next update gets. */
  refreshCurvature(state: ShampooState, gradients: unknown): ShampooState;
  /** One update with the roots that the state has; traceable. */
  step<P>(gradients: P, state: ShampooState, params: P): readonly [updates: P, state: ShampooState];
}

/**
 * The inverse p-th root of a second moment: `V diag((w - min(w, 0) + epsilon)^(-1/p)) Vᵀ`, in float64 on the host.
 *
 * One of these for each matrix is all the work of a refresh: what workers divide among themselves.
 *
 * Shapes: `[n, n]`, symmetric, to the same.
 * Units: none.
 *
 * @throws {ShapeError} if the matrix is not square
 * @source Gupta, Koren & Singer 2018, "Shampoo: preconditioned stochastic tensor optimization"
 * @example A fourth root
 * ```ts
 * const root = ct.optim.shampooRoot(ct.tensor([[16, 0], [0, 81]]), 4);
 * assertClose(root, [[1 / 2, 0], [0, 1 / 3]], 1e-6);
 * ```
 * @since 0.2.0
 */
export function shampooRoot(moment: Value, p: number, epsilon = 1e-12): Value {
  const [w, V] = eigh(wide(moment));
  // Rounding makes small eigenvalues negative: all are moved up by the lowest.
  const lifted = w.size === 0 ? w : sub(w, where(less(min(w), 0), min(w), 0));
  const powers = pow(add(lifted, epsilon), -1 / p);
  return backTo(moment, matmul(mul(V, powers), transpose(V)));
}

/** The matrix that a leaf is taken for: a kernel is `[out, in · window]`, and axes of one element do not count. */
function matrixShape(shape: Shape): Shape {
  const [rows = 1, ...others] = shape;
  const columns = others.reduce((product, n) => product * n, 1);
  return columns === 1 ? [rows] : rows === 1 ? [columns] : [rows, columns];
}

/** The parts of an axis of n elements. */
const partsOf = (n: number, most: number): number => Math.max(1, Math.ceil(n / most));

/** The blocks of a leaf, row by row. */
function blocksOf(leaf: Value, most: number): Value[] {
  const shape = matrixShape(leaf.shape);
  let blocks = [reshape(leaf, shape)];
  shape.forEach((n, axis) => {
    const count = partsOf(n, most);
    if (count === 1) return;
    blocks = blocks.flatMap((block) =>
      Array.from({ length: count }, (_, i) => {
        const [from, to] = [i * most, Math.min(n, (i + 1) * most)];
        return slice(
          block,
          block.shape.map((_size, a) => (a === axis ? from : 0)),
          block.shape.map((size, a) => (a === axis ? to : size)),
        );
      }),
    );
  });
  return blocks;
}

/** The leaf of blocks. */
function joined(blocks: readonly Value[], leaf: Value, most: number): Value {
  const shape = matrixShape(leaf.shape);
  let parts = blocks;
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    const count = partsOf(shape[axis]!, most);
    if (count === 1) continue;
    parts = Array.from({ length: parts.length / count }, (_, i) =>
      concat(parts.slice(i * count, (i + 1) * count), { axis }),
    );
  }
  return reshape(parts[0]!, leaf.shape);
}

/** For each axis of each block of each leaf. */
function overMatrices(
  matrices: ShampooMatrices,
  f: (matrix: Value, leaf: number, block: number, axis: number) => Value,
): ShampooMatrices {
  return matrices.map((blocks, leaf) =>
    blocks.map((block, b) => block.map((matrix, axis) => f(matrix, leaf, b, axis))),
  );
}

const length = (x: Value): Value => sqrt(sum(mul(x, x)));

/** Means or sums of squares, and the directions of a method made of them. */
interface Grafted {
  readonly squares: unknown;
  readonly directions: readonly Value[] | null;
}

/**
 * Shampoo, with blocks and grafting as in Distributed Shampoo.
 *
 * For a matrix G of gradients, `L <- L + G Gᵀ, R <- R + Gᵀ G` (or running means, by beta2) and
 * `p <- p - lr (s (L + eps)^(-1/4) M (R + eps)^(-1/4) + weightDecay p)`, with M the corrected running mean of gradients
 * and s = 1, or where a method is grafted the length of its step over that of the product. A vector has one matrix and
 * its square root; one number is Adagrad. A kernel `[out, in, ...window]` is the matrix `[out, in · window]`, axes of one
 * element do not count, and axes above `maxDimension` are cut: each block has matrices of its own.
 *
 * Cost: per step and block [m, n] about 4 m n (m + n) flops; per refresh about 10 (m³ + n³) on the host.
 * Shapes: any tree of float tensors; the state holds one or two more, and 2 (m² + n²) elements for a block.
 * Units: period and warmup in updates.
 *
 * @param learningRate a number, or a schedule; default 0.01
 * @throws {RangeError} if an option is out of range
 * @source Gupta, Koren & Singer 2018, "Shampoo: preconditioned stochastic tensor optimization"
 * @source Shi et al. 2023, "A distributed data-parallel PyTorch implementation of the distributed Shampoo optimizer"
 * @example The first step is orthogonal
 * ```ts
 * const optimizer = ct.optim.shampoo(0.1);
 * const w = ct.zeros([2, 2]);
 * const [updates] = optimizer.update(ct.tensor([[0, 5], [-3, 0]]), optimizer.init(w), w, {});
 * assertClose(updates, [[0, -0.1], [0.1, 0]], 1e-5);
 * ```
 * @since 0.2.0
 */
export function shampoo(learningRate: number | Schedule = 0.01, options: ShampooOptions = {}): Shampoo {
  const {
    beta1 = 0.9,
    beta2 = 1,
    epsilon = 1e-12,
    weightDecay = 0,
    maxDimension = 1024,
    period = 1,
    warmup = period,
    grafting = "none",
    correctsBias = true,
    root,
  } = options;
  if (!Object.hasOwn(graftings, grafting)) {
    throw new RangeError(
      `Cannot make Shampoo: grafting is ${grafting}, one of ${Object.keys(graftings).join(", ")} is needed`,
    );
  }
  const known = graftings[grafting];
  const graftingBeta2 = options.graftingBeta2 ?? known?.beta2 ?? 0;
  const graftingEpsilon = options.graftingEpsilon ?? known?.epsilon ?? 0;
  checkOptions("Shampoo", {
    beta1: [beta1, fraction],
    beta2: [beta2, unitInterval],
    epsilon: [epsilon, nonNegative],
    weightDecay: [weightDecay, nonNegative],
    maxDimension: [maxDimension, countingNumber],
    period: [period, countingNumber],
    warmup: [warmup, countingNumber],
    graftingBeta2: [graftingBeta2, unitInterval],
    graftingEpsilon: [graftingEpsilon, nonNegative],
    ...(root === undefined ? {} : { root: [root, positive] as const }),
  });

  /** beta S + (1 - beta) x, or the sum */
  const blended = (beta: number, old: Value, x: Value): Value =>
    beta === 1 ? add(old, x) : add(mul(beta, old), mul(1 - beta, x));
  /** x over 1 - beta^count */
  const corrected = (x: Value, beta: number, count: Value): Value =>
    correctsBias && beta > 0 && beta < 1 ? mul(x, biasCorrection(beta, count, x.dtype)) : x;

  const accumulated = (state: ShampooState, gradients: unknown): ShampooMatrices => {
    const blocks = leaves(gradients).map((g) => blocksOf(g, maxDimension));
    return overMatrices(state.statistics, (old, leaf, block, axis) =>
      blended(beta2, old, gram(blocks[leaf]![block]!, axis)),
    );
  };

  /** The directions of the grafted method, with the corrected mean of gradients in the place of its own. */
  const graft = (state: ShampooState, gradients: unknown, means: readonly Value[], count: Value): Grafted => {
    if (!known) return { squares: state.squares, directions: grafting === "sgd" ? means : null };
    const squares = map((g, s) => blended(graftingBeta2, s!, mul(g, g)), gradients, state.squares);
    const directions = leaves(squares).map((s, i) => {
      const square = known.corrects ? mul(s, biasCorrection(graftingBeta2, count, s.dtype)) : s;
      return div(means[i]!, add(sqrt(square), graftingEpsilon));
    });
    return { squares, directions };
  };

  /** Roots along every axis, and the length of the grafted step. */
  const preconditioned = (mean: Value, roots: readonly Value[], grafted: Value | null): Value => {
    const product = roots.reduce((x, matrix, axis) => along(x, matrix, axis), mean);
    return grafted ? mul(product, div(length(grafted), add(length(product), 1e-16))) : product;
  };

  const self: Shampoo = {
    name: "shampoo",
    ...(weightDecay > 0 ? { decays: true } : {}),
    options: {
      beta1,
      beta2,
      epsilon,
      weightDecay,
      maxDimension,
      period,
      warmup,
      grafting,
      correctsBias,
      ...(root !== undefined && { root }),
    },
    init(params) {
      const list = leaves(params);
      const units = list.map((p) =>
        blocksOf(zerosLike(p), maxDimension).map((block) =>
          block.shape.map((n) => beside(p, eye(n, n, { dtype: p.dtype }))),
        ),
      );
      return {
        count: zeroCount(),
        mean: map(zerosLike, params),
        squares: known ? map(zerosLike, params) : [],
        statistics: overMatrices(units, zerosLike),
        roots: units,
      };
    },
    curvatureDue(made) {
      const next = (typeof made === "number" ? made : made.count.item()) + 1;
      return next >= warmup && (next - warmup) % period === 0;
    },
    moments(state, gradients) {
      const count = add(state.count, 1);
      return overMatrices(accumulated(state, gradients), (matrix) => corrected(matrix, beta2, count));
    },
    refreshCurvature(state, gradients) {
      const moments = self.moments(state, gradients);
      const roots = overMatrices(moments, (moment, leaf, block) =>
        shampooRoot(moment, root ?? 2 * moments[leaf]![block]!.length, epsilon),
      );
      return { ...state, roots };
    },
    step(gradients, state, params) {
      const count = add(state.count, 1);
      const mean = map((g, m) => blended(beta1, m!, g), gradients, state.mean);
      const means = leaves(mean).map((m) => corrected(m, beta1, count));
      const { squares, directions } = graft(state, gradients, means, count);
      const size = rate(learningRate, state.count);
      let i = 0;
      const updates = map((p) => {
        const leaf = i++;
        const grafted = directions?.[leaf] ?? null;
        const graftedBlocks = grafted && blocksOf(grafted, maxDimension);
        const blocks = blocksOf(means[leaf]!, maxDimension).map((block, b) =>
          preconditioned(block, state.roots[leaf]![b]!, graftedBlocks?.[b] ?? null),
        );
        const product = joined(blocks, p, maxDimension);
        const isWarm = grafted === null || warmup === 1;
        const direction = isWarm ? product : where(less(count, warmup), grafted, product);
        const decayed = weightDecay === 0 ? direction : add(direction, mul(weightDecay, p));
        return neg(mul(factor(size, p), decayed));
      }, params);
      const statistics = accumulated(state, gradients);
      return [updates, { ...state, count, mean, squares, statistics }];
    },
    update(gradients, state, params) {
      const refreshed = self.curvatureDue(state) ? self.refreshCurvature(state, gradients) : state;
      return self.step(gradients, refreshed, params);
    },
  };
  return self;
}
