/**
 * Workers that hold their columns of V and of all state. The parameters come whole from the hub for every gradient; each
 * worker moves its own columns of them.
 */
import { slice } from "../../core/ops.ts";
import type { Value } from "../../core/value.ts";
import type { FosiState } from "../../optim/fosi.ts";
import type { Problem } from "../jobs.ts";
import { columnsOf, type Plan } from "../plan.ts";
import type { Job, Jobs } from "../runtime/driver.ts";
import { checkedNotes, computations, gradientOn, stepOf } from "./compute.ts";
import { type Curvature, ownColumns, type Pairs } from "./curvature.ts";
import { publishedSigma } from "./method.ts";
import { job, value } from "./registers.ts";
import { extrapolated, shifted } from "./sync.ts";

type State = FosiState<unknown>;

/** The computations of one worker. `push` and `anchor` are the last inputs of those that read them. */
export function columnJobs<B>(plan: Plan, problem: Problem<B>, rank: number): Jobs {
  const { optimizer, step: stepAlone, cut } = computations(plan, problem);
  const gradientAt = gradientOn(plan, problem, rank);
  const [start, end] = columnsOf(plan, rank);
  const own = (theta: unknown): Value => slice(value(theta), [start], [end]);
  // What a step reads: theta, state and mean, or theta, state, correction and raw.
  const reads = cut ? 4 : 3;
  const move = (ins: readonly unknown[]): readonly [own: Value, state: unknown] => {
    const [theta, state, sum, raw] = ins;
    if (!cut) return stepAlone(own(theta), state, shifted(plan, value(sum), ins[reads]), null);
    return [cut.move(own(theta), state as State, value(raw), value(sum)), state];
  };
  const gradientAhead = (steps: number): Job =>
    job(([theta], args) => {
      const step = stepOf(plan, args) + steps;
      const { gradient, scores } = gradientAt(value(theta), step);
      return { outs: [gradient], notes: checkedNotes(scores, step) };
    });

  return {
    gradient: gradientAhead(0),
    nextGradient: gradientAhead(1),
    move: job((ins) => ({ outs: [...move(ins)] })),
    moveExtrapolated: job((ins) => {
      const [theta, state] = move(ins);
      const [push, anchor] = ins.slice(reads).map(value);
      const moved = extrapolated(plan.sync, { theta, anchor: anchor!, push: push! });
      return { outs: [moved.theta, state, moved.push, moved.theta] };
    }),
    ...(cut && {
      inside: job(([state, mean, push]) => {
        const gradient = shifted(plan, value(mean), push);
        return { outs: [gradient, cut.inside(state as State, gradient)] };
      }),
      direction: job(([theta, state, mean, inside]) => ({
        outs: [...cut.direction(state as State, value(mean), value(inside), own(theta))],
      })),
      install: job(([state, curvature]) => ({
        outs: [optimizer.install(state, curvature as Curvature | null, publishedSigma(plan)), null, null],
      })),
      installColumns: job(([state, basis, rows, pairs]) => {
        const vectors = ownColumns(basis, value(rows), problem.initial.dtype);
        const curvature = { ...(pairs as Pairs), vectors };
        return { outs: [optimizer.install(state, curvature, publishedSigma(plan)), null, null] };
      }),
    }),
  };
}
