/**
 * K-FAC over workers. The eigenpairs are divided among them and told to all; or each layer is one worker's, which alone
 * has its factors and eigenpairs, and tells the others its natural gradient.
 */
import { jit } from "../../autodiff/jit.ts";
import { add } from "../../core/ops.ts";
import { ravel } from "../../core/ravel.ts";
import { flatten, leaves, unflatten } from "../../core/tree.ts";
import type { Value } from "../../core/value.ts";
import {
  type KfacEigen,
  type KfacFactors,
  type KfacState,
  kfac,
  kfacLayers,
  layerStatistics,
} from "../../optim/kfac.ts";
import { factorSizes, layerMatrix, setLayerMatrix } from "../../optim/kfac_layers.ts";
import {
  changeOf,
  eigenpairs,
  type KfacEigenpairs,
  momentumUpdates,
  naturalGradient,
  shortened,
  shrinkage,
} from "../../optim/kfac_step.ts";
import type { Problem } from "../jobs.ts";
import { type KfacMethod, ownersOf, ownsLayers } from "../preconditioned.ts";
import { scoreAndGradientOf } from "./compute.ts";
import type { Owned, Preconditioner } from "./preconditioned.ts";

type State = KfacState;
type Factors = Readonly<Record<string, KfacFactors>>;
type ByLayer<T> = Readonly<Record<string, T>>;

/** The natural gradient of a layer, and what it adds to g F⁻¹ g. */
interface Direction {
  readonly natural: Value;
  readonly change: Value;
}

/** What workers compute for a plan with K-FAC. */
export function kfacPreconditioner<B>(
  plan: KfacMethod,
  workers: number,
  problem: Problem<B>,
  unravel: (theta: Value) => unknown,
  loss: (params: unknown, batch: B) => Value,
): Preconditioner<B> {
  const { learningRate, momentum, damping, klClip } = plan;
  const params = unravel(problem.initial);
  const layers = kfacLayers(loss, params, problem.batch(0, 0));
  const method = kfac(layers, plan);
  const statistics = layerStatistics(loss);
  const scoreAndGradient = scoreAndGradientOf(problem);
  const informed = jit((theta: Value, batch: B) => {
    const { value, gradient, layers: factors } = statistics(unravel(theta), batch);
    const { sums } = problem.score(theta, batch);
    return { scores: [value, ...sums], gradient: ravel(gradient)[0], factors };
  });
  const step = jit((theta: Value, state: State, mean: Value, factors: Factors | null): [Value, State] => {
    const before = factors ? method.accumulate(state, factors) : state;
    const [updates, next] = method.step(unravel(mean), before, unravel(theta));
    return [add(theta, ravel(updates)[0]), next];
  });
  const accumulated = jit((state: State, factors: Factors): State => method.accumulate(state, factors));
  const xs = leaves(params);
  const sizes = layers.flatMap((layer) => {
    const { inputs, outputs } = factorSizes(layer, xs);
    return [inputs, outputs];
  });
  // Of the factors, two numbers for each layer.
  const owners = ownersOf(plan, sizes, workers);
  const layersOf = (rank: number) => layers.filter((_, i) => owners[2 * i] === rank);

  const owned = (): Owned => {
    const methods = Array.from({ length: workers }, (_, rank) => {
      const own = layersOf(rank);
      return own.length > 0 ? kfac(own, plan) : null;
    });
    const among =
      (rank: number) =>
      <T>(all: ByLayer<T>): ByLayer<T> =>
        Object.fromEntries(layersOf(rank).map(({ name }) => [name, all[name]!]));
    const directions = jit((eigen: ByLayer<KfacEigen>, D: ByLayer<Value>): ByLayer<Direction> => {
      return Object.fromEntries(
        Object.entries(D).map(([name, own]) => {
          const natural = naturalGradient(own, eigen[name]!, damping);
          return [name, { natural, change: changeOf(natural, own) }];
        }),
      );
    });
    const natural = jit(
      (theta: Value, state: State, whole: Value, changes: readonly Value[]): [Value, State] => {
        const [all, def] = flatten(unravel(whole));
        const clipped = shortened(layers, all, shrinkage(changes, learningRate, klClip));
        const tree = unflatten<unknown>(def, clipped);
        const [updates, velocity] = momentumUpdates(tree, state.velocity, learningRate, momentum);
        return [add(theta, ravel(updates)[0]), { ...state, count: add(state.count, 1), velocity }];
      },
    );
    return {
      partOf(whole, rank) {
        const gs = leaves(unravel(whole));
        return Object.fromEntries(layersOf(rank).map((layer) => [layer.name, layerMatrix(layer, gs)]));
      },
      factorsOf: (factors, rank) => among(rank)(factors as Factors),
      direction(state, part, factors, refreshes, rank) {
        const own = methods[rank] ?? null;
        let next = state as State;
        // All count the statistics, so that nothing but the matrices differs between workers.
        if (!own) return { state: factors ? { ...next, seen: add(next.seen, 1) } : next, direction: {} };
        if (factors) next = own.accumulate(next, factors as Factors);
        if (refreshes) next = own.refreshCurvature(next);
        return { state: next, direction: directions(next.eigen, part as ByLayer<Value>) };
      },
      joined(whole, parts) {
        const all = Object.assign({}, ...parts) as ByLayer<Direction>;
        const [gs, def] = flatten(unravel(whole));
        const naturals = [...gs];
        for (const layer of layers) setLayerMatrix(layer, all[layer.name]!.natural, gs, naturals);
        return {
          natural: ravel(unflatten(def, naturals))[0],
          changes: layers.map(({ name }) => all[name]!.change),
        };
      },
      step: (theta, state, whole, changes) => natural(theta, state as State, whole, changes),
    };
  };

  return {
    sizes,
    init(rank) {
      const state = method.init(params);
      if (!ownsLayers(plan)) return state;
      const own = new Set(layersOf(rank).map(({ name }) => name));
      const part = <T>(all: ByLayer<T>): ByLayer<T> =>
        Object.fromEntries(Object.entries(all).filter(([name]) => own.has(name)));
      return { ...state, factors: part(state.factors), eigen: part(state.eigen) };
    },
    sample(theta, batch, isInformed) {
      if (isInformed) return informed(theta, batch);
      const [[value, sums], gradient] = scoreAndGradient(theta, batch);
      return { gradient, factors: null, scores: [value, ...sums] };
    },
    accumulated: (state, factors) => accumulated(state as State, factors as Factors),
    roots(state, _mean, own) {
      const factors = layers.flatMap(({ name }) => {
        const { inputs, outputs } = (state as State).factors[name]!;
        return [inputs, outputs];
      });
      return Object.fromEntries(own.map((i) => [i, eigenpairs(factors[i]!)] as const));
    },
    installed(state, roots) {
      const pairs = roots as ByLayer<KfacEigenpairs>;
      const eigen = layers.map(
        ({ name }, i) => [name, { inputs: pairs[2 * i]!, outputs: pairs[2 * i + 1]! }] as const,
      );
      return method.refreshCurvature(state as State, Object.fromEntries(eigen));
    },
    step: (theta, state, mean, factors) => step(theta, state as State, mean, factors as Factors | null),
    ...(ownsLayers(plan) && { owned: owned() }),
  };
}
