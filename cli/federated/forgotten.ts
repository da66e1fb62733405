/** What is left of clients that left a run: its model beside one that is fitted without them. */
import { abs, sub } from "../../core/ops/math.ts";
import { max } from "../../core/ops/reduce.ts";
import type { AflServer } from "../../dist/federated/afl.ts";
import { aflAtOnce } from "./methods.ts";
import { joinedByRound } from "./presence.ts";
import type { OpenedRun } from "./run.ts";

/**
 * The largest difference between the weights of a model that clients left and those fitted, at once, to the examples of the others
 * that came, as a fraction of the largest weight. It is rounding, or something of them is left.
 */
export function deviationOf({ config, data, plan, clients }: OpenedRun, { weights }: AflServer): number {
  const method = aflAtOnce(config, data);
  const first = method.initServer();
  const stay = new Set(joinedByRound(plan).flat());
  for (const client of plan.leaving) stay.delete(client);
  const answers = Array.from({ length: plan.clients }, (_, client) => {
    const at = { round: 0, client, clients: plan.clients };
    return stay.has(client) ? method.client({}, clients.train(client), {}, at)[1] : null;
  });
  const { weights: without } = method.server(first, answers, 0);
  return max(abs(sub(weights, without))).item() / max(abs(without)).item();
}
