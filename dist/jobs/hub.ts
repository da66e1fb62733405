/** What the hub makes of the workers' answers while they train. */
import { slice, sub } from "../../core/ops.ts";
import type { Value } from "../../core/value.ts";
import { meanOf } from "../../optim/admm.ts";
import type { FosiState } from "../../optim/fosi.ts";
import { norm } from "../../optim/lanczos.ts";
import type { Problem } from "../jobs.ts";
import { columnsOf, layoutOf, type Plan, vectorRowsOf } from "../plan.ts";
import type { Jobs } from "../runtime/driver.ts";
import { computations } from "./compute.ts";
import { type Curvature, joinColumns, type Pairs, pairNotes } from "./curvature.ts";
import { publishedSigma } from "./method.ts";
import { doubles, job, sumOf, value } from "./registers.ts";

/** The computations of the hub but for Lanczos. */
export function hubTrainingJobs<B>(plan: Plan, problem: Problem<B>): Jobs {
  const ranks = Array.from({ length: plan.workers }, (_, rank) => rank);
  return {
    mean: job((gradients) => ({ outs: [meanOf(gradients.map(value))] })),
    sum: sumOf,
    takeFirst: job(([first], { round }) => {
      checkParameters(value(first), round);
      return { outs: [first] };
    }),
    consensus: job(([z, ...candidates], { round }) => {
      const next = meanOf(candidates.map(value));
      checkParameters(next, round);
      // Dual residual without sigma: how far the consensus moved.
      return { outs: [next], notes: [lengthOf(sub(next, value(z)))] };
    }),
    evaluate: job(([theta]) => ({ outs: [], notes: problem.evaluate?.(value(theta)) ?? [] })),
    ...(layoutOf(plan) === "rows" && {
      cutRows: job(([pairs, ...columns]) => {
        const curvature = { ...(pairs as Pairs), vectors: joinColumns(plan, columns.map(value)) };
        return { outs: rowSpaces(plan, problem, curvature), notes: pairNotes(pairs as Pairs) };
      }),
    }),
    ...(layoutOf(plan) === "columns" && {
      meanColumns: job((gradients) => {
        const mean = meanOf(gradients.map(value));
        return {
          outs: ranks.map((rank) => {
            const [start, end] = columnsOf(plan, rank);
            return slice(mean, [start], [end]);
          }),
        };
      }),
      join: job((columns, { round }) => {
        const theta = joinColumns(plan, columns.map(value));
        checkParameters(theta, round);
        return { outs: [theta] };
      }),
      reportPairs: job(([pairs]) => ({ outs: [], notes: pairNotes(pairs as Pairs) })),
    }),
  };
}

/** What each worker's state takes over: its rows of V and of the rates, everything else of a state with all of V. */
export function rowSpaces<B>(
  plan: Plan,
  problem: Problem<B>,
  curvature: Curvature,
): readonly Partial<FosiState<unknown>>[] {
  const { optimizer } = computations(plan, problem);
  const before = optimizer.init(slice(problem.initial, [0], [1]));
  const { values, residuals, scale, rates, vectors } = optimizer.install(
    before,
    curvature,
    publishedSigma(plan),
  ) as FosiState<unknown>;
  return Array.from({ length: plan.workers }, (_, rank) => {
    const [start, end] = vectorRowsOf(plan, rank);
    return {
      values,
      residuals,
      scale,
      rates: slice(rates, [start], [end]),
      vectors: slice(vectors, [start, 0], [end, plan.parameters]),
    };
  });
}

/** Throws for parameters that are not finite, before they are saved. */
export function checkParameters(theta: Value, round: number): void {
  if (Number.isFinite(lengthOf(theta))) return;
  throw new RangeError(
    `Cannot continue after round ${round}: a parameter is not finite, finite ones are needed; lower the learning rate (lr), or alpha of a method with curvature`,
  );
}

/** The Euclidean norm of a vector. */
function lengthOf(x: Value): number {
  return norm(doubles(x));
}
