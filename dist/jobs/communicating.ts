/** Workers that differ between steps, by a method that says what each sends and what becomes of it. */
import { keepForOthers } from "../../autodiff/jit.ts";
import { itemsOf } from "../../core/devices.ts";
import { leaves, paths } from "../../core/tree.ts";
import type { Value } from "../../core/value.ts";
import { meanOf } from "../../optim/admm.ts";
import { gradientProblem, probeOf } from "../compress/finite.ts";
import type { CommunicatingMethod, StepAt } from "../compress/method.ts";
import { communicatingOf, type Vectors } from "../compress/plan.ts";
import type { Problem } from "../jobs.ts";
import type { Plan } from "../plan.ts";
import type { JobArgs } from "../protocol/types.ts";
import type { Jobs } from "../runtime/driver.ts";
import { checkFinite, gradientOn } from "./compute.ts";
import { checkParameters } from "./hub.ts";
import { job, value } from "./registers.ts";

/** The parameter tensors in the order in which they are raveled. */
export function vectorsOf<B>({ initial, unravel }: Problem<B>): Vectors {
  const { dtype } = initial;
  if (!unravel) return { shapes: [initial.shape], dtype };
  const tree = unravel(initial);
  const names = paths(tree);
  // A tensor alone has no path.
  return { shapes: leaves(tree).map((x) => x.shape), ...(names[0] !== "" && { names }), dtype };
}

/** The method of a plan on the parameters of a problem; null where the plan has none. */
export function communicatingMethodOf<B>(
  plan: Plan,
  problem: Problem<B>,
): CommunicatingMethod<unknown> | null {
  return communicatingOf(plan, vectorsOf(problem));
}

/** A job's outputs take the place of the state that it is given. */
const at = (step: number, { rank, workers }: JobArgs): StepAt => ({ step, rank, workers, givesUp: true });

/** The computations of one worker; `numbers` are steps of the whole run, counted from 1. */
export function communicatingJobs<B>(plan: Plan, problem: Problem<B>, rank: number): Jobs {
  const method = communicatingMethodOf(plan, problem)!;
  const gradientAt = gradientOn(plan, problem, rank);
  const { shapes, names } = vectorsOf(problem);
  const tensors = { shapes: shapes!, ...(names && { names }) };

  /** Loss and sums on the host; all of them are finite, and the gradient is. After so many steps, as a run that goes on says. */
  const checked = (scores: readonly Value[], gradient: Value, steps: number): number[] => {
    const [probe, ...notes] = itemsOf([probeOf(gradient), ...scores]);
    checkFinite(notes, steps);
    const problem = Number.isFinite(probe) ? null : gradientProblem(gradient, rank, tensors);
    if (problem !== null) throw new RangeError(`Cannot continue at step ${steps}: ${problem}`);
    return notes;
  };

  /** Begins the steps from one to another; all but the last are local. */
  function* begun(state: unknown, arrived: unknown, from: number, to: number, args: JobArgs) {
    // The state at the start of a round is saved, and a result may be that of all workers of a process.
    if (from === args.round * plan.localSteps + 1) keepForOthers(state);
    keepForOthers(arrived);
    const notes: number[] = [];
    let next = state;
    let payload: unknown = null;
    for (let step = from; step <= to; step++) {
      const { gradient, scores } = gradientAt(method.position(next), step - 1);
      try {
        [next, payload] = method.begin(next, gradient, step === from ? arrived : null, at(step, args));
      } finally {
        // Read while the method computes. What is wrong with them is also why it may have failed.
        notes.push(...checked(scores, gradient, step - 1));
      }
      if (step < to) yield;
    }
    return { outs: [next, payload], notes };
  }
  const turned = (state: unknown, reduced: unknown, step: number, index: number, args: JobArgs) => {
    keepForOthers(reduced);
    return method.next(state, reduced, index, at(step, args));
  };
  /** The state after the last exchange of a step. */
  const landed = (state: unknown, reduced: unknown, step: number, args: JobArgs): unknown =>
    turned(state, reduced, step, method.exchanges(step) - 1, args)[0];

  return {
    begin: job(([state, arrived], args) =>
      begun(state, arrived ?? null, args.numbers[0]!, args.numbers[1]!, args),
    ),
    advance: job(([state, reduced, arrived], args) => {
      const [open, from, to] = args.numbers as readonly [number, number, number];
      return begun(landed(state, reduced, open, args), arrived ?? null, from, to, args);
    }),
    turn: job(([state, reduced], args) => {
      const [step, index] = args.numbers as readonly [number, number];
      return { outs: [...turned(state, reduced, step, index, args)] };
    }),
    land: job(([state, reduced], args) => ({ outs: [landed(state, reduced, args.numbers[0]!, args)] })),
    launch: job((ins, args) => {
      const state = ins.length === 1 ? ins[0] : landed(ins[0], ins[1], args.numbers[0]!, args);
      return { outs: [state, method.background!.payload(state)] };
    }),
    kept: job(([state]) => ({ outs: [method.flush!.payload(state)] })),
    flushed: job(([state, whole]) => {
      keepForOthers(whole);
      // Who asks for what was in the background learns that there is nothing.
      return { outs: [method.flush!.apply(state, whole), ...(method.background ? [[]] : [])] };
    }),
    view: job(([state]) => ({ outs: [method.view(state)] })),
  };
}

/** The computations of the hub. */
export function communicatingHubJobs<B>(plan: Plan, problem: Problem<B>): Jobs {
  const method = communicatingMethodOf(plan, problem);
  if (!method) return {};
  return {
    reduce: job((payloads, args) => {
      const [step, index] = args.numbers as readonly [number, number];
      return { outs: [method.reduce(payloads, index, at(step, args))] };
    }),
    ...(method.background && {
      reduceBackground: job((payloads) => ({ outs: [method.background!.reduce(payloads)] })),
    }),
    ...(method.flush && { flush: job((payloads) => ({ outs: [method.flush!.reduce(payloads)] })) }),
    takeView: job((views, { round }) => {
      const theta = meanOf(views.map(value));
      checkParameters(theta, round);
      return { outs: [theta] };
    }),
  };
}

/** The durable registers of a worker before the first step. */
export function communicatingInitial<B>(
  plan: Plan,
  theta: Value,
  problem: Problem<B> | undefined,
): Readonly<Record<string, unknown>> | null {
  const method = communicatingOf(plan, problem ? vectorsOf(problem) : { dtype: theta.dtype });
  if (!method) return null;
  return { state: method.init(theta), ...(method.background && { background: null }) };
}

/**
 * The parameters at the end of a round of a plan whose workers differ: the mean of what each would save.
 *
 * Shapes: `[n]`.
 *
 * @param workers their durable registers
 * @throws {TypeError} if the workers of the plan do not differ: their hub has the parameters
 * @example After the last round they are those of the hub
 * ```ts
 * const plan = ct.dist.makePlan({
 *   version: 1, workers: 2, parameters: 1, rounds: 3, localSteps: 2, seed: 0,
 *   update: { name: "adam", learningRate: 0.1 }, sync: { k: "local", period: 2 },
 * });
 * const problem: ct.dist.Problem<number> = {
 *   initial: ct.zeros([1], { dtype: "float64" }),
 *   score: (theta, center) => ({ loss: theta.sub(center).pow(2).sum(), sums: [] }),
 *   batch: (rank) => 2 * rank,
 *   curvatureBatch: (rank) => 2 * rank,
 * };
 * const { hub, workers } = ct.dist.runSequential(ct.dist.trainingSetup(plan, problem));
 * assertClose(ct.dist.viewOf(plan, problem, workers), hub["theta"] as ct.Value);
 * ```
 * @since 0.2.0
 */
export function viewOf<B>(
  plan: Plan,
  problem: Problem<B>,
  workers: readonly Readonly<Record<string, unknown>>[],
): Value {
  const method = communicatingMethodOf(plan, problem);
  if (!method) {
    throw new TypeError(
      `Cannot take a mean of workers: they agree by ${plan.sync.k} and do not differ, the parameters of the hub are needed`,
    );
  }
  return meanOf(workers.map(({ state }) => method.view(state)));
}
