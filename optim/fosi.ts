/**
 * FOSI: a Newton step in the space of a few extreme eigenvectors, any first-order method in the rest of the space.
 *
 * The update is pure and cheap; refreshing the curvature is a separate pure function that a loop calls when it is due.
 */
import type { LinearOperator } from "../autodiff/operator.ts";
import { zeros, zerosLike } from "../core/create.ts";
import type { DType } from "../core/dtype.ts";
import { add, broadcastTo, cast, concat, matmul, mul, slice, sub, where } from "../core/ops.ts";
import * as random from "../core/random.ts";
import { ravel } from "../core/ravel.ts";
import { adopt, beside, scalar } from "../core/trace.ts";
import { Tensor, type Value } from "../core/value.ts";
import { type LanczosOptions, lanczos, lanczosAsync } from "./lanczos.ts";
import { type GradientTransformation, type NoExtra, zeroCount } from "./transformation.ts";

/**
 * How the gradient inside the space is accumulated before the Newton step.
 *
 * @since 0.1.0
 */
export type FosiMomentum = "none" | "heavyBall" | "nesterov" | "average";

const fosiMomenta: readonly FosiMomentum[] = ["none", "heavyBall", "nesterov", "average"];

/**
 * Which eigenpairs, how often, and how the step inside their space is made.
 *
 * @since 0.1.0
 */
export interface FosiOptions {
  /** Largest eigenpairs; default 5. */
  readonly k?: number;
  /** Smallest eigenpairs; default 0. They converge slowly and their inverse explodes near zero. */
  readonly l?: number;
  /** Lanczos steps; default `max(4 (k + l), 2 ln n)`. */
  readonly order?: number;
  /** Learning rate of the Newton part; default 0.01. */
  readonly alpha?: number;
  /** Momentum of the Newton part; default heavy ball. */
  readonly momentum?: FosiMomentum;
  /** Momentum coefficient; default 0.9. */
  readonly beta?: number;
  /** Limit c of the factor `clip(|lambda_1| / |lambda_k|, 1, c)` on the base step; default 3, use 1 for Adam. */
  readonly clip?: number;
  /** Updates between refreshes; default 100. */
  readonly period?: number;
  /** The update before which the first refresh happens; default `period`. */
  readonly warmup?: number;
  /** Added to |lambda| in the Newton rates; default 0. */
  readonly damping?: number;
  /** Seed of the Lanczos start vectors; default 0. */
  readonly seed?: number;
}

/**
 * Rows of the curvature arrays: the l smallest ascending, the k largest ascending; unused rows are zero.
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
  /** Newton rates 1 / (|lambda| + damping), 0 in unused rows; [k + l]. */
  readonly rates: Value;
  /** Factor on the base step; []. */
  readonly scale: Value;
}

/**
 * What FOSI needs besides gradients: the Hessian where it is when the curvature is due.
 *
 * @since 0.1.0
 */
export interface FosiExtra {
  readonly hessian: () => LinearOperator;
}

/**
 * FOSI as a transformation, with its two halves apart for loops that schedule the curvature themselves.
 *
 * @since 0.1.0
 */
export interface Fosi<B> extends GradientTransformation<FosiState<B>, FosiExtra> {
  readonly options: Required<Omit<FosiOptions, "order">> & { readonly order?: number };
  /**
   * Whether the curvature is to be refreshed before the next update; `made` is the number of updates so far, or the state
   * that counts them. A state on a device is read for it: a loop there that counts for itself does not wait.
   */
  curvatureDue(made: number | FosiState<B>): boolean;
  /** The state with the spectrum of an operator; `key` draws the start vector. */
  refreshCurvature(state: FosiState<B>, operator: LinearOperator, key: Value): FosiState<B>;
  /** The same where the host cannot wait for a device, as in Deno and in browsers. */
  refreshCurvatureAsync(state: FosiState<B>, operator: LinearOperator, key: Value): Promise<FosiState<B>>;
  /** One update with the curvature that the state has. */
  step<P>(gradients: P, state: FosiState<B>, params: P): readonly [updates: P, state: FosiState<B>];
}

/**
 * FOSI over any base method.
 *
 * With V the eigenvectors as rows and r = 1/|lambda|: `g1 = Vᵀ V g; vel <- momentum(g1); d1 = Vᵀ (r ∘ V vel);
 * db = base(g - g1); db <- db - Vᵀ V db; p <- p + s db - alpha d1`.
 * Before the first refresh V is zero and the method equals its base exactly. Weight decay belongs in the loss, so that
 * the spectrum is of the function that is minimized.
 *
 * Cost per step: about 12 (k + l) n flops; per refresh: `order` Hessian-vector products. With parameters on a device the
 * state lives there too, and a refresh reads 2 order numbers; `update` reads the counter of the state, while a loop of
 * `step` and `curvatureDue` of its own count reads nothing.
 * Shapes: any tree of tensors of one float type; the state holds (k + l + 1) n elements and the base state.
 * Units: period and warmup in updates.
 *
 * @param base a method on flat vectors: any transformation without extra needs
 * @throws {RangeError} if an option is out of range, or k + l exceeds the number of parameters
 * @throws {DTypeError} if the parameters are of several element types
 * @source Sivan, Gabel & Schuster 2024, "FOSI: Hybrid First and Second Order Optimization"
 * @example A Newton step once the curvature is known
 * ```ts
 * const loss = (x: ct.Value) => x.mul(x).mul(ct.tensor([0.5, 50])).sum();
 * const optimizer = ct.optim.fosi(ct.optim.sgd(0.5), { k: 1, alpha: 1, momentum: "none", clip: 1, warmup: 1 });
 * const x = ct.tensor([1, 1]);
 * const extra = { hessian: () => ct.operator.hessianOperator(loss, x) };
 * const [updates] = optimizer.update(ct.grad(loss)(x), optimizer.init(x), x, extra);
 * assertClose(x.add(updates), [0.5, 0], 1e-4);
 * ```
 * @since 0.1.0
 */
export function fosi<B>(base: GradientTransformation<B, NoExtra>, options: FosiOptions = {}): Fosi<B> {
  const settings = resolveOptions(options);
  const { k, l, order, alpha, beta, momentum, period, warmup, seed } = settings;
  const search = (key: Value): LanczosOptions => ({ k, l, key, ...(order !== undefined && { order }) });
  const self: Fosi<B> = {
    name: `fosi(${base.name})`,
    options: settings,
    init(params) {
      const [flat] = ravel(params);
      const n = flat.size;
      if (k + l > n)
        throw new RangeError(
          `Cannot make FOSI state: k + l is ${k + l} for ${n} parameters, at most ${n} is needed`,
        );
      return {
        count: zeroCount(),
        base: base.init(flat),
        velocity: zerosLike(flat),
        vectors: broadcastTo(zerosLike(flat), [k + l, n]),
        values: zeros([k + l], { dtype: "float64" }),
        rates: zeros([k + l], { dtype: flat.dtype }),
        scale: scalar(1, flat.dtype),
      };
    },
    curvatureDue(made) {
      const next = (typeof made === "number" ? made : made.count.item()) + 1;
      return next >= warmup && (next - warmup) % period === 0;
    },
    refreshCurvature: (state, operator, key) =>
      installCurvature(state, lanczos(operator, search(key)), settings),
    async refreshCurvatureAsync(state, operator, key) {
      return installCurvature(state, await lanczosAsync(operator, search(key)), settings);
    },
    step(gradients, state, params) {
      const [g, unravel] = ravel(gradients);
      const [p] = ravel(params);
      const { vectors: V, rates, scale } = state;
      const inside = (x: Value): Value => matmul(matmul(V, x), V); // Vᵀ V x
      const g1 = inside(g);
      const velocity = accumulate(momentum, beta, g1, state.velocity);
      const d1 = matmul(mul(rates, matmul(V, velocity)), V);
      const [raw, baseState] = base.update(sub(g, g1), state.base, p, {});
      const db = sub(raw, inside(raw));
      const updates = sub(mul(scale, db), mul(alpha, d1));
      return [unravel(updates), { ...state, count: add(state.count, 1), base: baseState, velocity }];
    },
    update(gradients, state, params, { hessian }) {
      const made = state.count.item();
      const refreshed = self.curvatureDue(made)
        ? self.refreshCurvature(state, hessian(), random.foldIn(random.key(seed), made))
        : state;
      return self.step(gradients, refreshed, params);
    },
  };
  return self;
}

function resolveOptions(options: FosiOptions): Fosi<unknown>["options"] {
  const {
    k = 5,
    l = 0,
    alpha = 0.01,
    momentum = "heavyBall",
    beta = 0.9,
    clip = 3,
    period = 100,
    damping = 0,
    seed = 0,
  } = options;
  const settings = {
    ...options,
    k,
    l,
    alpha,
    momentum,
    beta,
    clip,
    period,
    warmup: options.warmup ?? period,
    damping,
    seed,
  };
  const least: Readonly<Record<string, number>> = {
    k: 0,
    l: 0,
    period: 1,
    warmup: 1,
    seed: 0,
    order: Math.max(1, k + l),
  };
  const problems = [
    ...Object.entries(least)
      .map(([name, bound]) => [name, bound, settings[name as keyof typeof settings]] as const)
      .filter(([, bound, x]) => x !== undefined && !(Number.isInteger(x) && (x as number) >= bound))
      .map(([name, bound, x]) => `${name} is ${x}, an integer of at least ${bound} is needed`),
    ...(k + l < 1 ? [`k + l is ${k + l}, at least 1 is needed`] : []),
    ...(alpha > 0 && Number.isFinite(alpha) ? [] : [`alpha is ${alpha}, a positive number is needed`]),
    ...(beta >= 0 && beta < 1 ? [] : [`beta is ${beta}, a number in [0, 1) is needed`]),
    ...(clip >= 1 ? [] : [`clip is ${clip}, at least 1 is needed`]),
    ...(damping >= 0 && Number.isFinite(damping) ? [] : [`damping is ${damping}, at least 0 is needed`]),
    ...(fosiMomenta.includes(momentum)
      ? []
      : [`momentum is ${momentum}, one of ${fosiMomenta.join(", ")} is needed`]),
  ];
  if (problems.length > 0) throw new RangeError(`Cannot make FOSI: ${problems.join("; ")}`);
  return settings;
}

function accumulate(momentum: FosiMomentum, beta: number, g: Value, v: Value): Value {
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
 * Shapes: the spectrum has at most k + l pairs of vectors as long as the state's.
 * Units: none.
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
  spectrum: { readonly values: Value; readonly vectors: Value; readonly largest: number },
  options: { readonly k: number; readonly l: number; readonly clip: number; readonly damping: number },
): FosiState<B> {
  const { k, l, clip, damping } = options;
  const { dtype } = state.velocity;
  const found = spectrum.values.dataSync();
  const threshold = negligible(dtype) * Math.max(...Array.from(found, Math.abs));
  const values = new Float64Array(k + l);
  const rates = new Float64Array(k + l);
  const smallest = found.length - spectrum.largest;
  const gap = k + l - found.length;
  const isUsed = new Uint8Array(k + l);
  found.forEach((value, i) => {
    if (!(Math.abs(value) > threshold)) return;
    // The largest fill the rows from the end, the smallest from the start.
    const row = i < smallest ? i : gap + i;
    values[row] = value;
    rates[row] = 1 / (Math.abs(value) + damping);
    isUsed[row] = 1;
  });
  // |lambda_1| / |lambda_k|; without pairs of the largest there is nothing to compare.
  const ofLargest = Array.from(values.slice(l), Math.abs).filter((value) => value > 0);
  const ratio = ofLargest.length > 0 ? ofLargest.at(-1)! / ofLargest[0]! : 1;
  const scale = Math.min(Math.max(ratio, 1), clip);
  return {
    ...state,
    values: adopt(values, [k + l], "float64"),
    rates: cast(adopt(rates, [k + l], "float64"), dtype),
    vectors: besideState(state, cast(inRows(spectrum.vectors, { smallest, gap, isUsed }), dtype)),
    scale: scalar(scale, dtype),
  };
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
