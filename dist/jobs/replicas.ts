/**
 * Workers that hold the parameters, identical everywhere, and step on the mean gradient. V is at each of them too, or in
 * rows: then a step waits for two more sums.
 */
import type { Value } from "../../core/value.ts";
import type { FosiState } from "../../optim/fosi.ts";
import type { Problem } from "../jobs.ts";
import type { Plan } from "../plan.ts";
import type { Jobs } from "../runtime/driver.ts";
import { checkedNotes, computations, gradientOn, stepOf } from "./compute.ts";
import type { Curvature } from "./curvature.ts";
import { publishedSigma } from "./method.ts";
import { job, nothing, value } from "./registers.ts";
import { extrapolated, shifted } from "./sync.ts";

type State = FosiState<unknown>;

/** The computations of one worker. `push` and `anchor` are the last inputs of those that read them. */
export function replicaJobs<B>(plan: Plan, problem: Problem<B>, rank: number): Jobs {
  const { optimizer, step: stepAlone, cut } = computations(plan, problem);
  const gradientAt = gradientOn(plan, problem, rank);
  // What a step reads: theta, state and mean, or theta, state, correction and raw.
  const reads = cut ? 4 : 3;
  const move = (ins: readonly unknown[]): readonly [theta: Value, state: unknown] => {
    const [theta, state, sum, raw] = ins;
    if (!cut) return stepAlone(value(theta), state, value(sum), null);
    return [cut.move(value(theta), state as State, value(raw), value(sum)), state];
  };
  /** Only worker 0 reports the replicated parameters; the others send nothing. */
  const report = (theta: Value): Value => (rank === 0 ? theta : nothing());

  return {
    gradient: job(([theta, push], args) => {
      const step = stepOf(plan, args);
      const { gradient, scores } = gradientAt(value(theta), step);
      return { outs: [shifted(plan, gradient, push)], notes: checkedNotes(scores, step) };
    }),
    step: job((ins, args) => {
      const [theta, state] = move(ins);
      const step = stepOf(plan, args) + 1;
      const { gradient, scores } = gradientAt(theta, step);
      return {
        outs: [theta, state, shifted(plan, gradient, ins[reads])],
        notes: checkedNotes(scores, step),
      };
    }),
    last: job((ins) => {
      const [theta, state] = move(ins);
      return { outs: [theta, state, report(theta)] };
    }),
    lastExtrapolated: job((ins) => {
      const [theta, state] = move(ins);
      const [push, anchor] = ins.slice(reads).map(value);
      const moved = extrapolated(plan.sync, { theta, anchor: anchor!, push: push! });
      return { outs: [moved.theta, state, report(moved.theta), moved.push, moved.theta] };
    }),
    install: job(([state, curvature]) => ({
      outs: [optimizer.install(state, curvature as Curvature | null, publishedSigma(plan)), null, null],
    })),
    ...(cut && {
      inside: job(([state, mean]) => ({ outs: [cut.inside(state as State, value(mean))] })),
      direction: job(([theta, state, mean, inside]) => ({
        outs: [...cut.direction(state as State, value(mean), value(inside), value(theta))],
      })),
      installRows: job(([state, space]) => ({
        outs: [{ ...(state as State), ...(space as Partial<State> | null) }, null, null],
      })),
    }),
  };
}
