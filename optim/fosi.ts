/**
 * FOSI: a Newton step in the space of a few extreme eigenvectors, any first-order method in the rest of the space.
 *
 * The update is pure and cheap; refreshing the curvature is a separate pure function that a loop calls when it is due.
 */
import type { LinearOperator } from "../autodiff/operator.ts";
import { zeros, zerosLike } from "../core/create.ts";
import { add, broadcastTo, matmul, mul, sub } from "../core/ops.ts";
import * as random from "../core/random.ts";
import { ravel } from "../core/ravel.ts";
import { scalar } from "../core/trace.ts";
import type { Value } from "../core/value.ts";
import {
  accumulated,
  defaultTrust,
  type FosiMomentum,
  type FosiState,
  installCurvature,
} from "./fosi_state.ts";
import { type LanczosOptions, lanczos, lanczosAsync } from "./lanczos.ts";
import { rate, type Schedule } from "./schedule.ts";
import { factor, type GradientTransformation, type NoExtra, zeroCount } from "./transformation.ts";

export {
  type FosiMomentum,
  type FosiPair,
  type FosiState,
  fosiPairs,
  installCurvature,
} from "./fosi_state.ts";

const fosiMomenta: readonly FosiMomentum[] = ["none", "heavyBall", "nesterov", "average"];

/**
 * The first refresh: before update `warmup`, or one period later, as loops that call for the spectrum themselves do it in
 * the experiments that FOSI's authors publish.
 *
 * @since 0.2.0
 */
export type FosiTrigger = "internal" | "external";

const fosiTriggers: readonly FosiTrigger[] = ["internal", "external"];

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
  /** Learning rate of the Newton part, a number or a schedule of the updates made; default 0.01. */
  readonly alpha?: number | Schedule;
  /** Momentum of the Newton part; default heavy ball. */
  readonly momentum?: FosiMomentum;
  /** Momentum coefficient; default 0.9. */
  readonly beta?: number;
  /**
   * Limit c of the factor `clip(|lambda_1| / |lambda_k|, 1, c)` on the base step; default 3, use 1 for Adam. Pairs that Lanczos
   * has not resolved do not count in it.
   */
  readonly clip?: number;
  /** Updates between refreshes; default 100. */
  readonly period?: number;
  /** The update before which the first refresh happens; default `period`. */
  readonly warmup?: number;
  /** Whether refreshes are before the updates warmup + i period from i = 0 (internal, the default) or from i = 1 (external). */
  readonly trigger?: FosiTrigger;
  /** Added to |lambda| in the Newton rates; default 0. */
  readonly damping?: number;
  /**
   * Pairs with |H v - lambda v| above `trust (|lambda| + damping)` are left to the base; default 0.25, `Infinity` keeps all, as
   * published.
   */
  readonly trust?: number;
  /** Seed of the Lanczos start vectors; default 0. */
  readonly seed?: number;
}

/**
 * What FOSI needs besides gradients: the Hessian at the parameters, asked for when the curvature is due. `refresh` counts
 * the refreshes from 0: a function that takes it can choose a batch for each, the same after a restart.
 *
 * @since 0.1.0
 */
export interface FosiExtra {
  readonly hessian: (refresh: number) => LinearOperator;
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
  /** The number, from 0, of the refresh that is due then, by which a loop chooses its batch; null if none is due. */
  refreshNumber(made: number): number | null;
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
 * @throws {RangeError} if an option is out of range, k + l exceeds the number of parameters, or the base decays weights
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
 * @example A batch for every refresh, of which one half at a time is in memory
 * ```ts
 * const loss = (w: ct.Value, x: ct.Value) => x.matmul(w).pow(2).mean();
 * const halves = (batch: number) => [ct.tensor([[batch, 0]]), ct.tensor([[0, 1]])];
 * const optimizer = ct.optim.fosi(ct.optim.sgd(0.1), { k: 1, period: 1 });
 * let w: ct.Value = ct.tensor([1, 1]);
 * let state = optimizer.init(w);
 * for (let step = 0; step < 3; step++) {
 *   const hessian = (refresh: number) =>
 *     ct.operator.meanOperator(halves(refresh + 1).map((x) => () => ct.operator.hessianOperator(loss, w, x)));
 *   const [updates, next] = optimizer.update(ct.grad(loss)(w, halves(1)[0]!), state, w, { hessian });
 *   [w, state] = [ct.optim.applyUpdates(w, updates), next];
 * }
 * // The third batch has 3 in its first row: (2 · 3² + 0) / 2.
 * assertClose(state.values, [9], 1e-4);
 * ```
 * @since 0.1.0
 */
export function fosi<B>(base: GradientTransformation<B, NoExtra>, options: FosiOptions = {}): Fosi<B> {
  if (base.decays)
    throw new RangeError(
      `Cannot make FOSI over ${base.name}: it decays weights behind the loss whose Hessian is taken, a base without weight decay is needed; penalized(loss, decay) puts the decay into the loss`,
    );
  const settings = resolveOptions(options);
  const { k, l, order, alpha, beta, momentum, period, warmup, trigger, seed } = settings;
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
        residuals: zeros([k + l], { dtype: "float64" }),
        rates: zeros([k + l], { dtype: flat.dtype }),
        scale: scalar(1, flat.dtype),
      };
    },
    curvatureDue: (made) => self.refreshNumber(typeof made === "number" ? made : made.count.item()) !== null,
    refreshNumber(made) {
      const periods = (made + 1 - warmup) / period;
      const refresh = trigger === "external" ? periods - 1 : periods;
      return Number.isInteger(refresh) && refresh >= 0 ? refresh : null;
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
      const g1 = matmul(matmul(V, g), V); // Vᵀ V g
      const velocity = accumulated(momentum, beta, g1, state.velocity);
      const [raw, baseState] = base.update(sub(g, g1), state.base, p, {});
      // s (raw - Vᵀ V raw) - alpha Vᵀ (r ∘ V vel), with one product by Vᵀ: reading V is what a step takes beyond its base.
      const newton = mul(rates, matmul(V, velocity));
      const removed = add(mul(scale, matmul(V, raw)), mul(factor(rate(alpha, state.count), newton), newton));
      const updates = sub(mul(scale, raw), matmul(removed, V));
      return [unravel(updates), { ...state, count: add(state.count, 1), base: baseState, velocity }];
    },
    update(gradients, state, params, { hessian }) {
      const made = state.count.item();
      const refresh = self.refreshNumber(made);
      const refreshed =
        refresh === null
          ? state
          : self.refreshCurvature(state, hessian(refresh), random.foldIn(random.key(seed), made));
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
    trigger = "internal",
    damping = 0,
    trust = defaultTrust,
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
    trigger,
    damping,
    trust,
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
    ...(typeof alpha === "function" || (alpha > 0 && Number.isFinite(alpha))
      ? []
      : [`alpha is ${alpha}, a positive number or a schedule is needed`]),
    ...(beta >= 0 && beta < 1 ? [] : [`beta is ${beta}, a number in [0, 1) is needed`]),
    ...(clip >= 1 ? [] : [`clip is ${clip}, at least 1 is needed`]),
    ...(damping >= 0 && Number.isFinite(damping) ? [] : [`damping is ${damping}, at least 0 is needed`]),
    ...(trust > 0 ? [] : [`trust is ${trust}, a positive number is needed`]),
    ...(fosiTriggers.includes(trigger)
      ? []
      : [`trigger is ${trigger}, one of ${fosiTriggers.join(", ")} is needed`]),
    ...(fosiMomenta.includes(momentum)
      ? []
      : [`momentum is ${momentum}, one of ${fosiMomenta.join(", ")} is needed`]),
  ];
  if (problems.length > 0) throw new RangeError(`Cannot make FOSI: ${problems.join("; ")}`);
  return settings;
}
