/** What the workers of a plan compute on a problem, compiled once per process. */
import { jit } from "../../autodiff/jit.ts";
import { valueAndGradientOf } from "../../autodiff/vjp.ts";
import { itemsOf } from "../../core/devices.ts";
import { add } from "../../core/ops.ts";
import type { Value } from "../../core/value.ts";
import { augmentedGradient } from "../../optim/admm.ts";
import type { FosiState } from "../../optim/fosi.ts";
import { inPlace } from "../in_place.ts";
import type { Problem } from "../jobs.ts";
import { layoutOf, type Plan } from "../plan.ts";
import type { JobArgs } from "../protocol/types.ts";
import { type CutUpdate, cutUpdate } from "./cut.ts";
import { baseOf, type LocalOptimizer, localOptimizer, rateOf } from "./method.ts";

/** What draws a worker to the consensus, of its part of the augmented Lagrangian. */
export interface Pull {
  readonly dual: Value;
  readonly consensus: Value;
  readonly sigma: Value;
  /** By which steps are shorter for it. */
  readonly factor: Value;
}

/** The programs of a plan on a problem. */
export interface Computations<B> {
  readonly optimizer: LocalOptimizer;
  readonly objective: (theta: Value, batch: B) => Value;
  readonly scoreAndGradient: (
    theta: Value,
    batch: B,
  ) => readonly [scored: readonly [loss: Value, sums: readonly Value[]], gradient: Value];
  /** The whole update where the worker has all that it needs. */
  readonly step: (
    theta: Value,
    state: unknown,
    gradient: Value,
    factor: Value | null,
  ) => readonly [theta: Value, state: unknown];
  /** Gradient and update of a worker on its own. `local` and `state` are given up if they are the worker's alone. */
  readonly localStep: (
    local: Value,
    state: unknown,
    batch: B,
    pull: Pull | null,
    areOwn: boolean,
  ) => readonly [scored: readonly [loss: Value, sums: readonly Value[]], local: Value, state: unknown];
  /** The update in pieces, where V is cut over workers; `move` is the last of them. */
  readonly cut:
    | (Pick<CutUpdate, "inside" | "direction"> & {
        readonly move: (theta: Value, state: FosiState<unknown>, raw: Value, correction: Value) => Value;
      })
    | null;
}

/** A program for the loss of a batch, its sums and its gradient. */
export function scoreAndGradientOf<B>(problem: Problem<B>): Computations<B>["scoreAndGradient"] {
  return jit((theta: Value, batch: B) => scoredGradient(problem, theta, batch));
}

function scoredGradient<B>(
  problem: Problem<B>,
  theta: Value,
  batch: B,
): ReturnType<Computations<B>["scoreAndGradient"]> {
  return valueAndGradientOf((x: Value) => {
    const { loss, sums } = problem.score(x, batch);
    return [loss, sums] as const;
  })(theta);
}

function compile<B>(plan: Plan, problem: Problem<B>): Computations<B> {
  const optimizer = localOptimizer(plan);
  const layout = layoutOf(plan);
  const localStep = (
    local: Value,
    state: unknown,
    batch: B,
    pull: Pull | null,
  ): ReturnType<Computations<B>["localStep"]> => {
    const [scored, gradient] = scoredGradient(problem, local, batch);
    const full = pull ? augmentedGradient<Value>({ ...pull, gradient, local }) : gradient;
    const [update, next] = optimizer.step(full, state, local, pull?.factor ?? null);
    return [scored, add(local, update), next];
  };
  const localProgram = inPlace(localStep, [0, 1]);
  const cut =
    plan.curvature && layout !== "replicated"
      ? cutUpdate(plan.curvature, layout, baseOf(plan.update, rateOf(plan)))
      : null;
  return {
    optimizer,
    objective: jit((theta: Value, batch: B): Value => problem.score(theta, batch).loss),
    scoreAndGradient: scoreAndGradientOf(problem),
    step: jit((theta: Value, state: unknown, gradient: Value, factor: Value | null): [Value, unknown] => {
      const [update, next] = optimizer.step(gradient, state, theta, factor);
      return [add(theta, update), next];
    }),
    localStep: (local, state, batch, pull, areOwn) => localProgram(areOwn)(local, state, batch, pull),
    cut: cut && {
      inside: jit(cut.inside),
      direction: jit(cut.direction),
      move: jit(
        (theta: Value, state: FosiState<unknown>, raw: Value, correction: Value): Value =>
          add(theta, cut.update(state, raw, correction)),
      ),
    },
  };
}

const compiled = new WeakMap<object, WeakMap<Plan, unknown>>();

/** The same for all workers of this process, and for those that take the place of one that died. */
export function computations<B>(plan: Plan, problem: Problem<B>): Computations<B> {
  const ofProblem = compiled.get(problem) ?? new WeakMap<Plan, unknown>();
  compiled.set(problem, ofProblem);
  const known = (ofProblem.get(plan) as Computations<B> | undefined) ?? compile(plan, problem);
  ofProblem.set(plan, known);
  return known;
}

/** The gradient of a worker's batch at a step of the whole run, and what is reported of it once it is read. */
export function gradientOn<B>(
  plan: Plan,
  problem: Problem<B>,
  rank: number,
): (theta: Value, step: number) => { readonly gradient: Value; readonly scores: Value[] } {
  const { scoreAndGradient } = computations(plan, problem);
  return (theta, step) => {
    const [[loss, sums], gradient] = scoreAndGradient(theta, problem.batch(rank, step));
    return { gradient, scores: [loss, ...sums] };
  };
}

/** The number of a step in the whole run: that of the round's first, and the turn of the loop. */
export function stepOf({ localSteps }: Plan, { round, iteration }: JobArgs): number {
  return round * localSteps + iteration;
}

/** Loss and sums on the host, all finite. */
export function checkedNotes(scores: readonly Value[], step: number): number[] {
  return checkFinite(itemsOf(scores), step);
}

/** Throws where a loss is not finite. */
export function checkFinite(notes: number[], step: number): number[] {
  if (!notes.every(Number.isFinite)) {
    throw new RangeError(
      `Cannot continue at step ${step}: the loss is ${notes[0]}, a finite loss is needed; lower the learning rate`,
    );
  }
  return notes;
}
