/** The method of a plan on flat vectors: whole ones, or a worker's own part of them. */
import { zeros, zerosLike } from "../../core/create.ts";
import { broadcastTo, div } from "../../core/ops.ts";
import type { Value } from "../../core/value.ts";
import { adam, adamw } from "../../optim/adam.ts";
import { type Fosi, type FosiState, fosi, installCurvature } from "../../optim/fosi.ts";
import { momentum, nesterov, sgd } from "../../optim/momentum.ts";
import { cosineSchedule, type Schedule } from "../../optim/schedule.ts";
import { forgetState, type GradientTransformation } from "../../optim/transformation.ts";
import type { Plan, UpdateMethod, UpdatePlan } from "../plan.ts";
import type { Curvature } from "./curvature.ts";

/** The method of a plan, with or without curvature. */
export interface LocalOptimizer {
  /** The state for these parameters, which may be a worker's columns, with this many rows of V; all of them by default. */
  init(theta: Value, rows?: number): unknown;
  /** Where the gradient has an ADMM penalty, steps are shorter by the factor. */
  step(
    gradient: Value,
    state: unknown,
    theta: Value,
    factor: Value | null,
  ): readonly [update: Value, state: unknown];
  /** The state with new curvature, the same without; sigma I is the Hessian of the ADMM penalty. */
  install(state: unknown, curvature: Curvature | null, sigma: number): unknown;
}

export function localOptimizer(plan: Plan): LocalOptimizer {
  const base = baseOf(plan.update, rateOf(plan));
  if (!plan.curvature) {
    return {
      init: (theta) => base.init(theta),
      step(gradient, state, theta, factor) {
        const [update, next] = base.update(gradient, state, theta, {});
        return [factor ? div(update, factor) : update, next];
      },
      install: (state) => state,
    };
  }
  const { k, l, alpha, beta, momentum: form, clip, damping, trust: limit } = plan.curvature;
  const trust = limit ?? Number.POSITIVE_INFINITY;
  const method: Fosi<unknown> = fosi(base, {
    k,
    l,
    alpha,
    beta,
    momentum: form,
    clip,
    damping,
    trust,
    seed: plan.seed,
  });
  return {
    init(theta, rows = k + l): FosiState<unknown> {
      // A part may have fewer columns than there are pairs, which FOSI's own state cannot have.
      const small = method.init(zeros([k + l], { dtype: theta.dtype }));
      return {
        ...small,
        base: base.init(theta),
        velocity: zerosLike(theta),
        vectors: broadcastTo(zerosLike(theta), [rows, theta.size]),
        rates: zeros([rows], { dtype: theta.dtype }),
      };
    },
    step(gradient, state, theta, factor) {
      const own = state as FosiState<unknown>;
      const shortened = factor ? div(own.scale, factor) : own.scale;
      const [update, next] = method.step(gradient, { ...own, scale: shortened }, theta);
      return [update, { ...next, scale: own.scale }];
    },
    install(state, curvature, sigma) {
      if (!curvature) return state;
      const { values, vectors, residuals, largest } = curvature;
      const spectrum = { values, vectors, residuals, largest: largest.item() };
      const settings = { k, l, clip, damping: damping + sigma, trust };
      return installCurvature(state as FosiState<unknown>, spectrum, settings);
    },
  };
}

/** Added to the eigenvalues where gradients carry the dual of the published form: the Hessian of its penalty. */
export function publishedSigma({ sync }: Plan): number {
  return sync.k === "published" ? sync.sigma : 0;
}

/** A gradient method with step eta takes eta / (1 + sigma eta) on the augmented problem; Adam sets its own scale. */
export function penaltyFactor(update: UpdateMethod, sigma: number): number {
  const hasOwnScale = update.name === "adam" || update.name === "adamw";
  return hasOwnScale ? 1 : 1 + sigma * update.learningRate;
}

/** The learning rate of a plan as its methods take it. */
export function rateOf({ update, rounds, localSteps }: Plan): number | Schedule {
  const { learningRate, schedule } = update;
  return schedule === "constant"
    ? learningRate
    : cosineSchedule({ from: learningRate, steps: rounds * localSteps });
}

/** The transformation that an update plan names, its state type forgotten. */
export function baseOf(
  update: UpdateMethod | UpdatePlan,
  rate: number | Schedule = update.learningRate,
): GradientTransformation<unknown> {
  switch (update.name) {
    case "sgd":
      return forgetState(sgd(rate));
    case "momentum":
      return forgetState(momentum(rate, update.beta));
    case "nesterov":
      return forgetState(nesterov(rate, update.beta));
    case "adam":
      return forgetState(adam(rate, update));
    case "adamw":
      return forgetState(adamw(rate, update));
    case "shampoo":
    case "kfac":
      throw new TypeError(
        `Cannot take ${update.name} as a method of flat vectors: it is one of matrices, sgd, momentum, nesterov, adam or adamw is needed`,
      );
    default:
      return update satisfies never;
  }
}
