/**
 * Workers that move on the mean gradient by a method whose matrices are divided among them. All of them hold the
 * parameters, identical everywhere: whoever computes a matrix, the others get its bits.
 */
import type { Value } from "../../core/value.ts";
import { meanOf } from "../../optim/admm.ts";
import type { CountState } from "../../optim/transformation.ts";
import type { Problem } from "../jobs.ts";
import type { Plan } from "../plan.ts";
import {
  factorsDueAt,
  ownedBy,
  ownersOf,
  type PreconditionedMethod,
  preconditionedOf,
} from "../preconditioned.ts";
import type { JobResult, Jobs } from "../runtime/driver.ts";
import { checkedNotes } from "./compute.ts";
import { kfacPreconditioner } from "./kfac.ts";
import { job, nothing, value } from "./registers.ts";
import { shampooPreconditioner } from "./shampoo.ts";

/** What a batch says of the parameters: factors only where they are asked for. */
export interface Sample {
  readonly gradient: Value;
  /** Trees of means over the examples. */
  readonly factors: unknown;
  readonly scores: readonly Value[];
}

/** A preconditioned method on a problem. States are trees of tensors that count their updates. */
export interface Preconditioner<B> {
  /** The side of each matrix, in the order of their numbers. */
  readonly sizes: readonly number[];
  init(rank: number): unknown;
  sample(theta: Value, batch: B, isInformed: boolean): Sample;
  /** The state with one more mean of factors. */
  accumulated(state: unknown, factors: unknown): unknown;
  /** Roots or eigenpairs of some of the matrices, by number; of the gradient that the next step gets. */
  roots(state: unknown, mean: Value, own: readonly number[]): Readonly<Record<string, unknown>>;
  /** The state with all of them. */
  installed(state: unknown, roots: Readonly<Record<string, unknown>>): unknown;
  step(theta: Value, state: unknown, mean: Value, factors: unknown): readonly [theta: Value, state: unknown];
  /** Where each layer is one worker's. */
  readonly owned?: Owned;
}

/** A step whose preconditioning is divided by layers. */
export interface Owned {
  /** What the owner of layers needs of a gradient. */
  partOf(mean: Value, rank: number): unknown;
  factorsOf(factors: unknown, rank: number): unknown;
  direction(
    state: unknown,
    part: unknown,
    factors: unknown,
    refreshes: boolean,
    rank: number,
  ): { readonly state: unknown; readonly direction: unknown };
  /** The directions of all layers in the place of their gradients. */
  joined(
    mean: Value,
    directions: readonly unknown[],
  ): { readonly natural: Value; readonly changes: readonly Value[] };
  step(
    theta: Value,
    state: unknown,
    natural: Value,
    changes: readonly Value[],
  ): readonly [theta: Value, state: unknown];
}

function make<B>(plan: Plan, method: PreconditionedMethod, problem: Problem<B>): Preconditioner<B> {
  const lacks = (name: string, what: string): never => {
    throw new TypeError(
      `Cannot train with ${method.name}: the problem has no ${name}, a function that ${what} is needed`,
    );
  };
  const { unravel, loss } = problem;
  if (!unravel) return lacks("unravel", "gives a vector of parameters as a tree");
  const tree = (theta: Value): unknown => unravel.call(problem, theta);
  if (method.name === "shampoo") return shampooPreconditioner(method, problem, tree);
  if (!loss) return lacks("loss", "is the loss of that tree on a batch, not compiled,");
  const lossOf = (params: unknown, batch: B): Value => loss.call(problem, params, batch);
  return kfacPreconditioner(method, plan.workers, problem, tree, lossOf);
}

const made = new WeakMap<object, WeakMap<Plan, unknown>>();

/**
 * The method of a plan on a problem, once per process; null if the plan has none that preconditions.
 *
 * @throws {TypeError} if the problem lacks what the method needs
 */
export function preconditionerOf<B>(plan: Plan, problem: Problem<B>): Preconditioner<B> | null {
  const method = preconditionedOf(plan);
  if (!method) return null;
  const ofProblem = made.get(problem) ?? new WeakMap<Plan, unknown>();
  made.set(problem, ofProblem);
  const known = (ofProblem.get(plan) as Preconditioner<B> | undefined) ?? make(plan, method, problem);
  ofProblem.set(plan, known);
  return known;
}

/**
 * The sides of the matrices by which a plan preconditions: what `planCost` cannot know of a plan alone. Of Shampoo one for
 * each axis of each block, of K-FAC inputs and outputs of each layer; none of other methods.
 *
 * Shapes: a list of numbers.
 * @throws {TypeError} if the problem lacks what the method needs
 * @example One matrix of weights, a side for each axis
 * ```ts
 * const plan = ct.dist.makePlan({
 *   version: 1, workers: 2, parameters: 6, rounds: 1, localSteps: 1, seed: 0,
 *   update: { name: "shampoo", learningRate: 0.01 }, sync: { k: "gradient" },
 * });
 * const problem: ct.dist.Problem<null> = {
 *   initial: ct.zeros([6]),
 *   unravel: (theta) => theta.reshape([2, 3]),
 *   score: (theta) => ({ loss: theta.sum(), sums: [] }),
 *   batch: () => null,
 *   curvatureBatch: () => null,
 * };
 * assertClose([...ct.dist.matricesOf(plan, problem)], [2, 3]);
 * ```
 * @since 0.2.0
 */
export function matricesOf<B>(plan: Plan, problem: Problem<B>): readonly number[] {
  return preconditionerOf(plan, problem)?.sizes ?? [];
}

/** How many updates a state has seen: the number of the next step in the whole run. */
const countOf = (state: unknown): number => (state as CountState).count.item();

/** The computations of one worker. */
export function preconditionedJobs<B>(plan: Plan, problem: Problem<B>, rank: number): Jobs {
  const method = preconditionedOf(plan)!;
  const self = preconditionerOf(plan, problem)!;
  const own = ownedBy(ownersOf(method, self.sizes, plan.workers), rank);
  type Moved = readonly [theta: Value, state: unknown];
  const sampled = (
    theta: Value,
    state: unknown,
  ): Required<Omit<JobResult, "outs">> & {
    readonly outs: readonly [gradient: Value, factors: unknown];
  } => {
    const step = countOf(state);
    const sample = self.sample(theta, problem.batch(rank, step), factorsDueAt(method, step));
    return { outs: [sample.gradient, sample.factors], notes: checkedNotes(sample.scores, step) };
  };
  const step = (move: (ins: readonly unknown[]) => Moved) =>
    job((ins) => {
      const [theta, state] = move(ins);
      const { outs, notes } = sampled(theta, state);
      return { outs: [theta, state, ...outs], notes };
    });
  const last = (move: (ins: readonly unknown[]) => Moved) =>
    job((ins) => {
      const [theta, state] = move(ins);
      return { outs: [theta, state, rank === 0 ? theta : nothing()] };
    });

  const plain = ([theta, state, mean, factors]: readonly unknown[]): Moved =>
    self.step(value(theta), state, value(mean), factors ?? null);
  const refreshed = ([theta, state, mean, roots]: readonly unknown[]): Moved => {
    const installed = self.installed(state, roots as Readonly<Record<string, unknown>>);
    return self.step(value(theta), installed, value(mean), null);
  };
  const { owned } = self;
  const natural = ([theta, state, whole, changes]: readonly unknown[]): Moved =>
    owned!.step(value(theta), state, value(whole), changes as readonly Value[]);
  const direction = (refreshes: boolean) =>
    job(([state, part, factors]) => {
      const found = owned!.direction(state, part, factors ?? null, refreshes, rank);
      return { outs: [found.state, found.direction] };
    });
  return {
    gradient: job(([theta, state]) => sampled(value(theta), state)),
    ...(owned
      ? {
          direction: direction(false),
          refreshedDirection: direction(true),
          naturalStep: step(natural),
          naturalLast: last(natural),
        }
      : {
          roots: job(([state, mean, factors]) => {
            const informed = factors ? self.accumulated(state, factors) : state;
            return { outs: [informed, self.roots(informed, value(mean), own)] };
          }),
          step: step(plain),
          last: last(plain),
          refreshedStep: step(refreshed),
          refreshedLast: last(refreshed),
        }),
  };
}

/** What the hub makes of the answers. */
export function preconditionedHubJobs<B>(plan: Plan, problem: Problem<B>): Jobs {
  const self = preconditionerOf(plan, problem);
  if (!self) return {};
  const { owned } = self;
  const ranks = Array.from({ length: plan.workers }, (_, rank) => rank);
  const means = (gradients: readonly unknown[]): readonly unknown[] => {
    const mean = meanOf(gradients.map(value));
    return owned ? [mean, ...ranks.map((rank) => owned.partOf(mean, rank))] : [mean];
  };
  return {
    mean: job((gradients) => ({ outs: means(gradients) })),
    informedMean: job((ins) => {
      const factors = meanOf(ins.slice(plan.workers));
      const parts = owned ? ranks.map((rank) => owned.factorsOf(factors, rank)) : [factors];
      return { outs: [...means(ins.slice(0, plan.workers)), ...parts] };
    }),
    joinRoots: job((parts) => ({ outs: [Object.assign({}, ...parts)] })),
    ...(owned && {
      joinDirections: job(([mean, ...directions]) => {
        const { natural, changes } = owned.joined(value(mean), directions);
        return { outs: [natural, changes] };
      }),
    }),
  };
}
