/**
 * K-FAC: the gradient of every layer times the inverse of its block of the Fisher matrix, a Kronecker product of two small
 * factors. Statistics, decompositions and the step are three pure functions, each as often as it is worth.
 */
import { eye, ones, zeros, zerosLike } from "../core/create.ts";
import { TreeError } from "../core/errors.ts";
import { add, cast, div, minimum, mul, sub } from "../core/ops.ts";
import { flatten, leaves, map, unflatten } from "../core/tree.ts";
import type { Value } from "../core/value.ts";
import { factorSizes, type KfacFactors, type KfacLayer, layerMatrix, setLayerMatrix } from "./kfac_layers.ts";
import {
  changeOf,
  eigenpairs,
  type KfacEigen,
  momentumUpdates,
  naturalGradient,
  shortened,
  shrinkage,
} from "./kfac_step.ts";
import { checkOptions, countingNumber, fraction, positive, type Range } from "./ranges.ts";
import { rate, type Schedule } from "./schedule.ts";
import { type CountState, type GradientTransformation, zeroCount } from "./transformation.ts";

export {
  type KfacFactors,
  type KfacLayer,
  kfacLayers,
  type LayerStatistics,
  layerStatistics,
} from "./kfac_layers.ts";
export type { KfacEigen, KfacEigenpairs } from "./kfac_step.ts";

/**
 * The constants of K-FAC.
 *
 * @since 0.2.0
 */
export interface KfacOptions {
  /** A number, or a schedule of the updates; default 0.1. */
  readonly learningRate?: number | Schedule;
  /** Heavy-ball momentum of the preconditioned gradient; default 0.9. */
  readonly momentum?: number;
  /** Added to the products of eigenvalues; default 1e-3. */
  readonly damping?: number;
  /** Decay of the factors, once it is below the decay 1 - 1/k of a plain mean of k; default 0.95. */
  readonly decay?: number;
  /** Largest learningRate² g F⁻¹ g of an update: steps that would change what the model says more are shortened; default 1e-3. */
  readonly klClip?: number;
  /** Updates between statistics; default 1. */
  readonly factorPeriod?: number;
  /** Updates between decompositions; default 10. */
  readonly period?: number;
}

/**
 * What K-FAC remembers.
 *
 * @since 0.2.0
 */
export interface KfacState extends CountState {
  /** Statistics in the factors so far; i32[]. */
  readonly seen: Value;
  /** Running means of the factors, by layer. */
  readonly factors: Readonly<Record<string, KfacFactors>>;
  /** The decompositions in use, by layer; before the first, that of the unit matrix. */
  readonly eigen: Readonly<Record<string, KfacEigen>>;
  /** Accumulated updates: a tree like the parameters. */
  readonly velocity: unknown;
}

/**
 * What K-FAC needs besides gradients, asked for when statistics are due.
 *
 * @since 0.2.0
 */
export interface KfacExtra {
  /** The factors of a batch where the parameters are, as `layerStatistics` gives them. */
  readonly layers: () => Readonly<Record<string, KfacFactors>>;
}

/**
 * K-FAC as a transformation, with its parts for loops that schedule or share them.
 *
 * @since 0.2.0
 */
export interface Kfac extends GradientTransformation<KfacState, KfacExtra> {
  readonly options: Required<KfacOptions>;
  readonly layers: readonly KfacLayer[];
  /** Whether statistics are due before the next update; `made` is the number of updates so far, or the state that counts them. */
  factorsDue(made: number | KfacState): boolean;
  /** Whether decompositions are: before the first update, then every `period`. */
  curvatureDue(made: number | KfacState): boolean;
  /** The state with one more batch in its factors; traceable. */
  accumulate(state: KfacState, layers: Readonly<Record<string, KfacFactors>>): KfacState;
  /**
   * The state with its factors decomposed. Workers that share the work give what each made of its layers by `kfacEigen`;
   * layers that are not among these keep the decomposition that they have.
   */
  refreshCurvature(state: KfacState, eigen?: Readonly<Record<string, KfacEigen>>): KfacState;
  /** One update with the decompositions that the state has; traceable, reads nothing. */
  step<P>(gradients: P, state: KfacState, params: P): readonly [updates: P, state: KfacState];
}

/**
 * The decomposed factors of a layer, in float64 inside. It is most of the work of a refresh, and a function of nothing
 * else: layers can be divided among workers.
 *
 * Shapes: factors `[n, n]` to values `[n]` and vectors `[n, n]`.
 * Units: none.
 *
 * @throws {ShapeError} if a factor is not square
 * @example The eigenvalues of two diagonal factors
 * ```ts
 * const factors = { inputs: ct.tensor([[2, 0], [0, 1]]), outputs: ct.tensor([[3]]) };
 * const { inputs, outputs } = ct.optim.kfacEigen(factors);
 * assertClose(inputs.values, [1, 2]);
 * assertClose(outputs.values, [3]);
 * ```
 * @since 0.2.0
 */
export function kfacEigen({ inputs, outputs }: KfacFactors): KfacEigen {
  return { inputs: eigenpairs(inputs), outputs: eigenpairs(outputs) };
}

const clipRange: Range = { text: "a positive number", holds: (x) => x > 0 };

/**
 * Natural gradient with Kronecker-factored curvature, in the eigenvalue form, with the step clipped by what it changes.
 *
 * With A and G the running means of a layer's factors, `A = U diag(a) Uᵀ`, `G = V diag(g) Vᵀ` and D the gradient of weights
 * and bias as a matrix `[in (+ 1), out]`: `N = U ((Uᵀ D V) / (a gᵀ + damping)) Vᵀ`. All N are shortened by
 * `min(1, sqrt(klClip / (lr² Σ N·D)))`; `v <- N + momentum v; p <- p - lr v`. Leaves of no layer take their gradient for N.
 * Weight decay belongs in the loss.
 *
 * Cost: per step four products of matrices like the weights in each layer; per refresh about 9 n³ flops for each factor;
 * statistics cost about a gradient and the products `aᵀ a` of all layers.
 * Shapes: any tree of float tensors; the state holds two copies of every factor and a tree like the parameters.
 * Units: periods in updates.
 *
 * @param layers from `kfacLayers`
 * @throws {RangeError} if an option is out of range
 * @source Martens & Grosse 2015, "Optimizing neural networks with Kronecker-factored approximate curvature"
 * @source Grosse & Martens 2016, "A Kronecker-factored approximate Fisher matrix for convolution layers"
 * @source Pauloski et al. 2021, "KAISA: an adaptive second-order optimizer framework for deep neural networks"
 * @example A small network
 * ```ts
 * const model = ct.nn.mlp([2, 4, 1]);
 * const [x, y] = [ct.tensor([[0, 1], [1, 0], [1, 1], [0, 0]]), ct.tensor([[1], [1], [0], [0]])];
 * let params = model.init(ct.random.key(0));
 * const loss = (p: typeof params) => ct.nn.gaussian.loss(model.apply(p, x), y);
 * const before = loss(params).item();
 * const optimizer = ct.optim.kfac(ct.optim.kfacLayers(loss, params), { klClip: 0.1 });
 * const statistics = ct.jit(ct.optim.layerStatistics(loss));
 * let state = optimizer.init(params);
 * for (let step = 0; step < 30; step++) {
 *   const { gradient, layers } = statistics(params);
 *   const [updates, next] = optimizer.update(gradient, state, params, { layers: () => layers });
 *   [params, state] = [ct.optim.applyUpdates(params, updates), next];
 * }
 * assert(loss(params).item() < 0.5 * before);
 * ```
 * @since 0.2.0
 */
export function kfac(layers: readonly KfacLayer[], options: KfacOptions = {}): Kfac {
  const { learningRate = 0.1, momentum = 0.9, damping = 1e-3, decay = 0.95, klClip = 1e-3 } = options;
  const { factorPeriod = 1, period = 10 } = options;
  checkOptions("K-FAC", {
    ...(typeof learningRate === "number" && { learningRate: [learningRate, positive] }),
    momentum: [momentum, fraction],
    damping: [damping, positive],
    decay: [decay, fraction],
    klClip: [klClip, clipRange],
    factorPeriod: [factorPeriod, countingNumber],
    period: [period, countingNumber],
  });
  if (layers.length === 0)
    throw new RangeError("Cannot make K-FAC: there are 0 layers, at least 1 is needed");
  const madeBy = (made: number | KfacState): number => (typeof made === "number" ? made : made.count.item());
  const byLayer = <T>(f: (layer: KfacLayer) => T): Record<string, T> =>
    Object.fromEntries(layers.map((layer) => [layer.name, f(layer)]));
  const self: Kfac = {
    name: "kfac",
    options: { learningRate, momentum, damping, decay, klClip, factorPeriod, period },
    layers,
    init(params) {
      const xs = leaves(params);
      const sizes = (layer: KfacLayer) => ({ ...factorSizes(layer, xs), dtype: xs[layer.w]!.dtype });
      return {
        count: zeroCount(),
        seen: zeroCount(),
        factors: byLayer((layer) => {
          const { inputs, outputs, dtype } = sizes(layer);
          return {
            inputs: zeros([inputs, inputs], { dtype }),
            outputs: zeros([outputs, outputs], { dtype }),
          };
        }),
        eigen: byLayer((layer) => {
          const { inputs, outputs, dtype } = sizes(layer);
          const unit = (n: number) => ({ values: ones([n], { dtype }), vectors: eye(n, n, { dtype }) });
          return { inputs: unit(inputs), outputs: unit(outputs) };
        }),
        velocity: map(zerosLike, params),
      };
    },
    factorsDue: (made) => madeBy(made) % factorPeriod === 0,
    curvatureDue: (made) => madeBy(made) % period === 0,
    accumulate(state, statistics) {
      const seen = add(state.seen, 1);
      // The first statistics are averaged, later ones decay: e = min(1 - 1/k, decay).
      const mixed = (f: Value, x: Value): Value => {
        const kept = minimum(sub(1, div(1, cast(seen, f.dtype))), decay);
        return add(mul(kept, f), mul(sub(1, kept), x));
      };
      const factors = byLayer(({ name }) => {
        const fresh = statistics[name];
        if (fresh === undefined)
          throw new TreeError(
            name,
            `Cannot accumulate statistics: those of layer ${name} are missing, all of ${layers.map((layer) => layer.name).join(", ")} are needed`,
          );
        return map((f, x) => mixed(f, x!), state.factors[name]!, fresh);
      });
      return { ...state, seen, factors };
    },
    refreshCurvature: (state, eigen = byLayer(({ name }) => kfacEigen(state.factors[name]!))) => ({
      ...state,
      eigen: { ...state.eigen, ...eigen },
    }),
    step(gradients, state, params) {
      const [gs, def] = flatten(gradients);
      const size = rate(learningRate, state.count);
      const natural = [...gs];
      const changes = layers.map((layer) => {
        const D = layerMatrix(layer, gs);
        const N = naturalGradient(D, state.eigen[layer.name]!, damping);
        setLayerMatrix(layer, N, gs, natural);
        return changeOf(N, D);
      });
      const clipped = shortened(layers, natural, shrinkage(changes, size, klClip));
      const whole = unflatten<typeof params>(def, clipped);
      const [updates, velocity] = momentumUpdates(whole, state.velocity, size, momentum);
      return [updates, { ...state, count: add(state.count, 1), velocity }];
    },
    update(gradients, state, params, { layers: statistics }) {
      const made = state.count.item();
      const informed = self.factorsDue(made) ? self.accumulate(state, statistics()) : state;
      const refreshed = self.curvatureDue(made) ? self.refreshCurvature(informed) : informed;
      return self.step(gradients, refreshed, params);
    },
  };
  return self;
}
