/** Workers that step on their own around a consensus, which the hub has. */

import { itemsOf } from "../../core/devices.ts";
import { scalar } from "../../core/trace.ts";
import type { Value } from "../../core/value.ts";
import { consensusCandidate, dualUpdate } from "../../optim/admm.ts";
import type { Problem } from "../jobs.ts";
import type { Plan } from "../plan.ts";
import type { Jobs } from "../runtime/driver.ts";
import { checkFinite, computations } from "./compute.ts";
import type { Curvature } from "./curvature.ts";
import { penaltyFactor } from "./method.ts";
import { job, value } from "./registers.ts";

/** The computations of one worker. */
export function consensusJobs<B>(plan: Plan, problem: Problem<B>, rank: number): Jobs {
  const { optimizer, localStep } = computations(plan, problem);
  const dtype = problem.initial.dtype;

  return {
    installDamped: job(([state, curvature, sigma]) => {
      const found = curvature as Curvature | null;
      const next = found ? nextSigma(plan, found, value(sigma).item()) : value(sigma).item();
      return { outs: [optimizer.install(state, found, next), null, null, scalar(next, "float64")] };
    }),
    local: job(function* ([consensus, state, dual, local, used, sigma], { round }) {
      const z = value(consensus);
      // The dual of the last round, with the sigma of that round, now that its mean is known.
      const pi = dualUpdate(value(dual), value(local), z, value(used).item());
      const penalty = value(sigma).item();
      // Sigma is a tensor: it changes with the curvature, and the program stays.
      const pull =
        penalty > 0
          ? {
              dual: pi,
              consensus: z,
              sigma: scalar(penalty, dtype),
              factor: scalar(penaltyFactor(plan.update, penalty), dtype),
            }
          : null;
      let theta = z;
      let next = state;
      const scored: Value[][] = [];
      for (let i = 0; i < plan.localSteps; i++) {
        const batch = problem.batch(rank, round * plan.localSteps + i);
        const [[loss, sums], moved, after] = localStep(theta, next, batch, pull, i > 0);
        scored.push([loss, ...sums]);
        theta = moved;
        next = after;
        yield;
      }
      const candidate = penalty > 0 ? consensusCandidate(theta, pi, penalty) : theta;
      // All steps are read at once: a device does not wait for the host between them.
      const items = itemsOf(scored.flat());
      const totals: number[] = [];
      scored.forEach((scores, i) => {
        const notes = checkFinite(items.splice(0, scores.length), round * plan.localSteps + i);
        notes.forEach((x, j) => {
          totals[j] = (totals[j] ?? 0) + x;
        });
      });
      // Means over the local steps for the loss, sums for the rest.
      return {
        outs: [next, pi, theta, sigma, candidate],
        notes: totals.map((x, j) => (j === 0 ? x / plan.localSteps : x)),
      };
    }),
  };
}

/** Sigma after a refresh: in units of the largest eigenvalue where the plan says so. */
function nextSigma({ sync }: Plan, curvature: Curvature, sigma: number): number {
  if (sync.k !== "consensus" || !sync.relative) return sigma;
  return sync.sigma * Math.max(...Array.from(curvature.values.dataSync(), Math.abs));
}
