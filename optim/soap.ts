/**
 * SOAP: Adam in the eigenbasis of Shampoo's second moments.
 *
 * The step is pure and cheap; turning the bases is a separate pure function that a loop calls when it is due.
 */
import { arange, eye, zerosLike } from "../core/create.ts";
import {
  add,
  argsort,
  div,
  eigh,
  equal,
  flip,
  matmul,
  maximum,
  mul,
  neg,
  qr,
  sqrt,
  sub,
  sum,
  take,
  transpose,
  where,
} from "../core/ops.ts";
import { beside, scalar } from "../core/trace.ts";
import { leaves, map } from "../core/tree.ts";
import type { Value } from "../core/value.ts";
import { along, backTo, gram, there, wide } from "./kronecker.ts";
import { checkOptions, countingNumber, fraction, nonNegative } from "./ranges.ts";
import { rate, type Schedule } from "./schedule.ts";
import {
  biasCorrection,
  type CountState,
  factor,
  type GradientTransformation,
  zeroCount,
} from "./transformation.ts";

/**
 * The constants of SOAP.
 *
 * @since 0.2.0
 */
export interface SoapOptions {
  /** Decay of the mean of gradients; default 0.95. */
  readonly beta1?: number;
  /** Decay of the mean of squares in the eigenbasis; default 0.95. */
  readonly beta2?: number;
  /** Decay of the second moments; default beta2. */
  readonly shampooBeta?: number;
  /** Added to the root of the mean of squares; default 1e-8. */
  readonly epsilon?: number;
  /** Decoupled weight decay; default 0.01. */
  readonly weightDecay?: number;
  /** Updates between refreshes; default 10. */
  readonly period?: number;
  /** Longer axes keep the basis they are in; default 10000. */
  readonly maxDimension?: number;
  /** Corrects means for their start at zero; default true. */
  readonly correctsBias?: boolean;
}

/**
 * A square matrix for each axis that is turned, of each leaf in the order of `tree.leaves`.
 *
 * @since 0.2.0
 */
export type SoapMatrices = readonly (readonly Value[])[];

/**
 * What SOAP remembers.
 *
 * @since 0.2.0
 */
export interface SoapState extends CountState {
  /** Running mean of gradients, in the basis of the parameters: a tree like them. */
  readonly mean: unknown;
  /** Running mean of squares in the eigenbasis: a tree like the parameters. */
  readonly square: unknown;
  /** Second moments of the gradients. */
  readonly statistics: SoapMatrices;
  /** Their eigenvectors as columns when they were last turned; unit matrices before. */
  readonly bases: SoapMatrices;
  /** Refreshes made; i32[]. */
  readonly refreshes: Value;
}

/**
 * A basis, and where each of its vectors was in the one before.
 *
 * @since 0.2.0
 */
export interface SoapBasis {
  /** Orthonormal columns, the largest eigenvalues first; [n, n]. */
  readonly basis: Value;
  /** i32[n]. */
  readonly order: Value;
}

/**
 * SOAP as a transformation, with its two halves apart for loops that schedule the bases themselves.
 *
 * @since 0.2.0
 */
export interface Soap extends GradientTransformation<SoapState> {
  readonly options: Required<SoapOptions>;
  /**
   * Whether the bases are to be turned before the next update: before the second, then every `period`; `made` is the
   * number of updates so far, or the state that counts them.
   */
  curvatureDue(made: number | SoapState): boolean;
  /** The state with bases of its second moments: `installBases` of a `soapBasis` for each of them. */
  refreshCurvature(state: SoapState): SoapState;
  /** The state with given bases, one for each second moment in the same order. */
  installBases(state: SoapState, bases: readonly (readonly SoapBasis[])[]): SoapState;
  /** One update with the bases that the state has; traceable. The first one only looks at the gradients. */
  step<P>(gradients: P, state: SoapState, params: P): readonly [updates: P, state: SoapState];
}

/**
 * The eigenbasis of a second moment, or with a basis to start from one step of orthogonal iteration, `Q R = M B`, after
 * the vectors of B are put in the order of `diag(Bᵀ M B)`; in float64 on the host.
 *
 * One of these for each matrix is all the work of a refresh: what workers divide among themselves.
 *
 * Shapes: `[n, n]`, symmetric, and the same; to `[n, n]` and `i32[n]`.
 * Units: none.
 *
 * @throws {ShapeError} if the matrix is not square
 * @source Vyas et al. 2025, "SOAP: improving and stabilizing Shampoo using Adam"
 * @example Eigenvectors, and again in another order
 * ```ts
 * const { basis } = ct.optim.soapBasis(ct.tensor([[1, 0], [0, 4]]), null);
 * assertClose(basis, [[0, 1], [1, 0]]);
 * const { order } = ct.optim.soapBasis(ct.tensor([[9, 0], [0, 4]]), basis);
 * assertClose(order, [1, 0]);
 * ```
 * @since 0.2.0
 */
export function soapBasis(moment: Value, basis: Value | null): SoapBasis {
  const M = wide(moment);
  const n = M.shape[0] ?? 0;
  if (basis === null) {
    const descending = flip(eigh(M)[1], { axis: 1 });
    return { basis: backTo(moment, descending), order: there(moment, arange(0, n, 1, { dtype: "int32" })) };
  }
  const B = wide(basis);
  const product = matmul(M, B);
  const order = argsort(neg(sum(mul(B, product), { axis: 0 })));
  const [Q] = qr(take(product, order, { axis: 1 }));
  return { basis: backTo(moment, Q), order: there(moment, order) };
}

/** The axes of a leaf that are turned: those of matrices and larger, unless they are long. */
function turnedAxes(leaf: Value, most: number): number[] {
  return leaf.ndim < 2 ? [] : [...leaf.shape.keys()].filter((axis) => leaf.shape[axis]! <= most);
}

/**
 * SOAP.
 *
 * For a matrix G of gradients with second moments `L <- b L + (1 - b) G Gᵀ, R <- b R + (1 - b) Gᵀ G` and their
 * eigenvectors Q and P: `M <- b1 M + (1 - b1) G; S <- b2 S + (1 - b2) (Qᵀ G P)²` and the step of Adam,
 * `lr Q (c QᵀM P / (sqrt(S) + eps)) Pᵀ` with `c = sqrt(1 - b2^t) / (1 - b1^t)`, then `p <- (1 - lr weightDecay) p`. The
 * first update is zero: it only makes the second moments, of which the first bases are made. Every axis of a leaf of two
 * or more axes has a matrix; vectors are left to Adam.
 *
 * Cost: per step and matrix [m, n] about 8 m n (m + n) flops; per refresh about 5 (m³ + n³) on the host.
 * Shapes: any tree of float tensors; the state holds two more, and 2 n² elements for each axis of n.
 * Units: period in updates.
 *
 * @param learningRate a number, or a schedule; default 3e-3
 * @throws {RangeError} if an option is out of range
 * @source Vyas et al. 2025, "SOAP: improving and stabilizing Shampoo using Adam"
 * @example The second step is Adam's first, in a basis where the gradient is diagonal
 * ```ts
 * const optimizer = ct.optim.soap(0.1, { weightDecay: 0 });
 * const [w, g] = [ct.zeros([2, 2]), ct.tensor([[0, 5], [-3, 0]])];
 * const [nothing, state] = optimizer.update(g, optimizer.init(w), w, {});
 * assertClose(nothing, [[0, 0], [0, 0]]);
 * assertClose(optimizer.update(g, state, w, {})[0], [[0, -0.1], [0.1, 0]], 1e-5);
 * ```
 * @since 0.2.0
 */
export function soap(learningRate: number | Schedule = 3e-3, options: SoapOptions = {}): Soap {
  const {
    beta1 = 0.95,
    beta2 = 0.95,
    shampooBeta = beta2,
    epsilon = 1e-8,
    weightDecay = 0.01,
    period = 10,
    maxDimension = 10_000,
    correctsBias = true,
  } = options;
  checkOptions("SOAP", {
    beta1: [beta1, fraction],
    beta2: [beta2, fraction],
    shampooBeta: [shampooBeta, fraction],
    epsilon: [epsilon, nonNegative],
    weightDecay: [weightDecay, nonNegative],
    period: [period, countingNumber],
    maxDimension: [maxDimension, countingNumber],
  });
  const blended = (beta: number, old: Value, x: Value): Value => add(mul(beta, old), mul(1 - beta, x));
  /** A leaf in the eigenbasis, or back from it. */
  const turned = (x: Value, bases: readonly Value[], direction: "in" | "out"): Value =>
    turnedAxes(x, maxDimension).reduce(
      (y, axis, k) => along(y, direction === "in" ? bases[k]! : transpose(bases[k]!), axis),
      x,
    );

  const self: Soap = {
    name: "soap",
    ...(weightDecay > 0 ? { decays: true } : {}),
    options: { beta1, beta2, shampooBeta, epsilon, weightDecay, period, maxDimension, correctsBias },
    init(params) {
      const bases = leaves(params).map((p) =>
        turnedAxes(p, maxDimension).map((axis) =>
          beside(p, eye(p.shape[axis]!, p.shape[axis]!, { dtype: p.dtype })),
        ),
      );
      return {
        count: zeroCount(),
        mean: map(zerosLike, params),
        square: map(zerosLike, params),
        statistics: bases.map((matrices) => matrices.map(zerosLike)),
        bases,
        refreshes: scalar(0, "int32"),
      };
    },
    curvatureDue(made) {
      const count = typeof made === "number" ? made : made.count.item();
      return count >= 1 && (count - 1) % period === 0;
    },
    refreshCurvature(state) {
      const isFirst = state.refreshes.item() === 0;
      const bases = state.statistics.map((moments, leaf) =>
        moments.map((moment, k) => soapBasis(moment, isFirst ? null : state.bases[leaf]![k]!)),
      );
      return self.installBases(state, bases);
    },
    installBases(state, bases) {
      let i = 0;
      const square = map((s) => {
        const leaf = i++;
        // A mean of squares stays with its vector.
        return turnedAxes(s, maxDimension).reduce(
          (y, axis, k) => take(y, bases[leaf]![k]!.order, { axis }),
          s,
        );
      }, state.square);
      return {
        ...state,
        square,
        bases: bases.map((list) => list.map(({ basis }) => basis)),
        refreshes: add(state.refreshes, 1),
      };
    },
    step(gradients, state, params) {
      const isFirst = equal(state.count, 0);
      const unlessFirst = (old: Value, x: Value): Value => where(isFirst, old, x);
      const made = maximum(state.count, 1); // with this one: the first update is no step
      const mean = map((g, m) => unlessFirst(m!, blended(beta1, m!, g)), gradients, state.mean);
      let i = 0;
      const square = map(
        (g, s) => {
          const inside = turned(g, state.bases[i++]!, "in");
          return unlessFirst(s!, blended(beta2, s!, mul(inside, inside)));
        },
        gradients,
        state.square,
      );
      const size = rate(learningRate, state.count);
      i = 0;
      const updates = map(
        (p, m, s) => {
          const bases = state.bases[i++]!;
          const inside = div(turned(m!, bases, "in"), add(sqrt(s!), epsilon));
          const direction = turned(inside, bases, "out");
          const correction = correctsBias
            ? div(biasCorrection(beta1, made, p.dtype), sqrt(biasCorrection(beta2, made, p.dtype)))
            : 1;
          const shorten = (x: Value): Value => mul(factor(size, p), x);
          const step = shorten(mul(correction, direction));
          // p <- p - step, then p <- (1 - lr weightDecay) p
          const decayed = weightDecay === 0 ? step : add(step, shorten(mul(weightDecay, sub(p, step))));
          return where(isFirst, 0, neg(decayed));
        },
        params,
        mean,
        square,
      );
      const statistics = leaves(gradients).map((g, leaf) =>
        turnedAxes(g, maxDimension).map((axis, k) =>
          blended(shampooBeta, state.statistics[leaf]![k]!, gram(g, axis)),
        ),
      );
      return [updates, { ...state, count: add(state.count, 1), mean, square, statistics }];
    },
    update(gradients, state, params) {
      const turnedState = self.curvatureDue(state) ? self.refreshCurvature(state) : state;
      return self.step(gradients, turnedState, params);
    },
  };
  return self;
}
