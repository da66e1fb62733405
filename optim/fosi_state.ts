/** What FOSI remembers, and how a spectrum gets into it: which pairs are trusted, and what is left to the base method. */
import { zeros } from "../core/create.ts";
import type { DType } from "../core/dtype.ts";
import { add, cast, concat, mul, slice, where } from "../core/ops.ts";
import { adopt, beside, scalar } from "../core/trace.ts";
import { Tensor, type Value } from "../core/value.ts";

/**
 * How the gradient inside the space is accumulated before the Newton step.
 *
 * @since 0.1.0
 */
export type FosiMomentum = "none" | "heavyBall" | "nesterov" | "average";

/**
 * Rows of the curvature arrays: the l smallest ascending, the k largest ascending. Rows of no pair are zero; rows of a
 * pair that is left to the base method have its value and residual, and zeros for vector and rate.
 *
 * @since 0.1.0
 */
export interface FosiState<B> {
  /** Updates made; i32[]. */
  readonly count: Value;
  /** State of the base method, on flat vectors. */
  readonly base: B;
  /** Accumulated gradient inside the space; [n]. */
  readonly velocity: Value;
  /** Unit eigenvectors as rows; [k + l, n]. */
  readonly vectors: Value;
  /** Eigenvalues; f64[k + l]. */
  readonly values: Value;
  /** Estimates of |H v - value v|, NaN where a spectrum came without; f64[k + l]. */
  readonly residuals: Value;
  /** Newton rates 1 / (|lambda| + damping), 0 in unused rows; [k + l]. */
  readonly rates: Value;
  /** Factor on the base step; []. */
  readonly scale: Value;
}

/** Where `trust` is not given. Either end of a small network's spectrum stays below 0.15, the bottom of a wide one reaches 3. */
export const defaultTrust = 0.25;

/**
 * Pairs with |H v - lambda v| above this fraction of |lambda| do not count in the factor on the base step: Lanczos may not have found
 * all eigenvalues above them. Over 280 spectra the factor is too large for what is left to the base in none with this
 * limit, in 33 with ten times the limit, in 161 without one. On networks for MNIST and Fashion-MNIST and on a9a, with k = 10 and
 * 40 steps, all pairs count.
 */
const RESOLVED = 1e-3;

/**
 * Eigenvalues below this fraction of the largest are rounding noise of the products, and their inverse would be a step of any
 * length: such pairs are left to the base method.
 */
function negligible(dtype: DType): number {
  return dtype === "float64" ? 1e-12 : 1e-6;
}

/**
 * The state with a new spectrum in place of the old one. Velocity and base state stay as they are.
 *
 * Two kinds of pairs are left to the base method: those with a negligible eigenvalue, and those that Lanczos has not
 * found. With `H v = lambda v + r u` a Newton step along v also changes the gradient along u, by r / (|lambda| + damping)
 * for what it takes away along v; above `trust` the pair is left out. The factor on the base step is
 * `clip(|lambda_1| / |lambda_j|, 1, c)` with j the last of the largest before the first that is not resolved to a thousandth:
 * above it there may be eigenvalues that the base step would meet.
 *
 * Shapes: the spectrum has at most k + l pairs of vectors as long as the state's.
 * Units: none; trust is a ratio, and with `Infinity` every pair counts, j = k, as published. So it is without residuals.
 *
 * @example A known eigenpair
 * ```ts
 * const optimizer = ct.optim.fosi(ct.optim.sgd(0.1), { k: 1 });
 * const H = ct.operator.hessianOperator((x: ct.Value) => x.mul(x).sum(), ct.tensor([1, 1]));
 * const spectrum = ct.optim.lanczos(H, { k: 1, key: ct.random.key(1) });
 * const state = ct.optim.installCurvature(optimizer.init(ct.tensor([1, 1])), spectrum, optimizer.options);
 * assertClose(state.rates, [0.5], 1e-5);
 * ```
 * @since 0.1.0
 */
export function installCurvature<B>(
  state: FosiState<B>,
  spectrum: {
    readonly values: Value;
    readonly vectors: Value;
    readonly residuals?: Value;
    readonly largest: number;
  },
  options: {
    readonly k: number;
    readonly l: number;
    readonly clip: number;
    readonly damping: number;
    readonly trust?: number;
  },
): FosiState<B> {
  const { k, l, clip, damping, trust = defaultTrust } = options;
  const { dtype } = state.velocity;
  const found = spectrum.values.dataSync();
  const known = spectrum.residuals?.dataSync();
  const threshold = negligible(dtype) * Math.max(...Array.from(found, Math.abs));
  const values = new Float64Array(k + l);
  const residuals = new Float64Array(k + l);
  const rates = new Float64Array(k + l);
  const smallest = found.length - spectrum.largest;
  const gap = k + l - found.length;
  const isUsed = new Uint8Array(k + l);
  const isResolved = new Uint8Array(k + l).fill(1);
  const resolution = trust === Number.POSITIVE_INFINITY ? trust : Math.min(trust, RESOLVED);
  found.forEach((value, i) => {
    // The largest fill the rows from the end, the smallest from the start.
    const row = i < smallest ? i : gap + i;
    values[row] = value;
    residuals[row] = known ? known[i]! : Number.NaN;
    if (!(Math.abs(value) > threshold)) return;
    isResolved[row] = Number(!(residuals[row]! > Math.abs(value) * resolution));
    const rate = 1 / (Math.abs(value) + damping);
    if (residuals[row]! * rate > trust) return;
    rates[row] = rate;
    isUsed[row] = 1;
  });
  const scale = scaleOf(values.slice(l), isUsed.slice(l), isResolved.slice(l));
  return {
    ...state,
    values: adopt(values, [k + l], "float64"),
    residuals: adopt(residuals, [k + l], "float64"),
    rates: cast(adopt(rates, [k + l], "float64"), dtype),
    vectors: besideState(state, cast(inRows(spectrum.vectors, { smallest, gap, isUsed }), dtype)),
    scale: scalar(Math.min(Math.max(scale, 1), clip), dtype),
  };
}

/** |lambda_1| / |lambda_j| over the used pairs of the largest, down to the first that is not resolved; 1 if there is none. */
function scaleOf(values: Float64Array, isUsed: Uint8Array, isResolved: Uint8Array): number {
  const last = isResolved.lastIndexOf(0);
  const run = Array.from(values, Math.abs).filter((_, row) => row > last && isUsed[row] === 1);
  return run.length > 0 ? run.at(-1)! / run[0]! : 1;
}

/** The vectors in the rows of a state, by operations: they may be on a device, and are not read. */
function inRows(
  vectors: Value,
  rows: { readonly smallest: number; readonly gap: number; readonly isUsed: Uint8Array<ArrayBuffer> },
): Value {
  const { smallest, gap, isUsed } = rows;
  const [found, n] = vectors.shape as readonly [number, number];
  const all =
    gap === 0
      ? vectors
      : concat([
          slice(vectors, [0, 0], [smallest, n]),
          zeros([gap, n], { dtype: vectors.dtype }),
          slice(vectors, [smallest, 0], [found, n]),
        ]);
  if (isUsed.every((used) => used === 1)) return all;
  return where(adopt(isUsed, [isUsed.length, 1], "bool"), all, 0);
}

/** Where the state is: vectors that come from the host are sent once. */
function besideState({ velocity }: FosiState<unknown>, vectors: Value): Value {
  return vectors instanceof Tensor ? beside(velocity, vectors) : vectors;
}

/**
 * A pair that the last refresh found.
 *
 * @since 0.2.0
 */
export interface FosiPair {
  readonly value: number;
  /** Estimate of |H v - value v|; NaN if the spectrum came without. */
  readonly residual: number;
  /** Whether Newton steps are taken along its vector; if not, the direction is left to the base method. */
  readonly isUsed: boolean;
}

/**
 * The pairs of the last refresh, in the order of the state: what a program prints of its curvature. Rows of no pair are
 * left out, and with them eigenvalues that are exactly zero.
 *
 * Shapes: a list of at most k + l.
 * Units: values and residuals are those of the Hessian.
 *
 * @example Nothing before the first refresh
 * ```ts
 * const optimizer = ct.optim.fosi(ct.optim.sgd(0.1), { k: 1 });
 * const x = ct.tensor([1, 1]);
 * const state = optimizer.init(x);
 * assert(ct.optim.fosiPairs(state).length === 0);
 * const H = ct.operator.hessianOperator((x: ct.Value) => x.mul(x).mul(ct.tensor([1, 3])).sum(), x);
 * const [pair] = ct.optim.fosiPairs(optimizer.refreshCurvature(state, H, ct.random.key(0)));
 * assertClose(pair!.value, 6, 1e-5);
 * assert(pair!.isUsed && pair!.residual < 1e-4);
 * ```
 * @since 0.2.0
 */
export function fosiPairs(state: FosiState<unknown>): readonly FosiPair[] {
  const [values, residuals, rates] = [state.values, state.residuals, state.rates].map((x) => x.dataSync());
  return Array.from(values!, (value, row) => ({
    value,
    residual: residuals![row]!,
    isUsed: rates![row]! > 0,
  })).filter(({ value }) => value !== 0);
}

/** The velocity after a gradient inside the space. */
export function accumulated(momentum: FosiMomentum, beta: number, g: Value, v: Value): Value {
  switch (momentum) {
    case "none":
      return g;
    case "heavyBall":
      return add(g, mul(beta, v));
    case "nesterov":
      return add(mul(1 + beta, g), mul(beta * beta, v));
    case "average":
      return add(mul(1 - beta, g), mul(beta, v));
    default:
      return momentum satisfies never;
  }
}
