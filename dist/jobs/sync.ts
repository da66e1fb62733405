/** What a form of agreement adds to steps on the mean gradient, whole or on a worker's columns. */
import { add, mul } from "../../core/ops.ts";
import type { Value } from "../../core/value.ts";
import { extrapolate } from "../../optim/admm.ts";
import type { Plan, SyncPlan } from "../plan.ts";
import { publishedSigma } from "./method.ts";
import { value } from "./registers.ts";

/** The gradient plus the dual pi = sigma push of the published form; other plans have no push. */
export function shifted(plan: Plan, gradient: Value, push: unknown): Value {
  return plan.sync.k === "published" ? add(gradient, mul(publishedSigma(plan), value(push))) : gradient;
}

/** push <- mu push + (theta - anchor); theta <- theta + gamma push. Both factors are 1 in the published form. */
export function extrapolated(
  sync: SyncPlan,
  round: { readonly theta: Value; readonly anchor: Value; readonly push: Value },
): { readonly theta: Value; readonly push: Value } {
  const { mu, gamma } = sync.k === "momentum" ? sync : { mu: 1, gamma: 1 };
  const { push } = extrapolate({ ...round, push: mul(mu, round.push) });
  return { theta: add(round.theta, mul(gamma, push)), push };
}
