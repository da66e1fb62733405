/** Who is there in which round of a run, where it matters by name: clients that come late, that leave, and under masks. */
import { type FederatedPlan, presentClients } from "../../dist/federated/plan.ts";
import { UsageError } from "../config.ts";
import type { FederatedConfig } from "./config.ts";

/**
 * Whether those that leave have come, with somebody to stay, and no sum under masks is the message of one client.
 *
 * @throws {UsageError} naming the clients and what is needed
 */
export function checkPresence({ forget = [], rounds, masked }: FederatedConfig, plan: FederatedPlan): void {
  if (forget.length > 0) {
    const joined = new Set(joinedByRound(plan).flat());
    const away = forget.filter((client) => !joined.has(client));
    if (away.length > 0)
      throw new UsageError(
        `Cannot forget ${clientWords(away)}: of ${rounds} round${rounds === 1 ? "" : "s"} there is none with ${away.length === 1 ? "it" : "them"}, more --rounds or a client whose sums are in the model is needed`,
      );
    if (joined.size === forget.length)
      throw new UsageError(
        `Cannot forget ${clientWords(forget)}: nobody else has come in ${rounds} round${rounds === 1 ? "" : "s"}, a client that stays is needed`,
      );
  }
  if (!masked) return;
  for (let round = 0; round < plan.rounds; round++) {
    const there = presentNumbers(plan, round);
    if (there.length === 1)
      throw new UsageError(
        `Cannot use --masked yes: in round ${round + 1} there is client ${there[0]} alone and the sum is its message, two are needed in every round; use another --seed or ${round > 0 && plan.once ? "fewer --rounds" : "a lower --absent"}`,
      );
  }
}

/** Who is there in a round, by number. */
export function presentNumbers(plan: FederatedPlan, round: number): readonly number[] {
  return presentClients(plan, round).flatMap((isPresent, client) => (isPresent ? [client] : []));
}

/** Who came in each round of the plan but that of leaving. */
export function joinedByRound(
  plan: FederatedPlan,
  rounds: number = plan.rounds,
): readonly (readonly number[])[] {
  const count = Math.min(rounds, plan.rounds - (plan.leaving.length > 0 ? 1 : 0));
  return Array.from({ length: count }, (_, round) => presentNumbers(plan, round));
}

/** "client 3", "clients 3, 7". */
export function clientWords(clients: readonly number[]): string {
  return `client${clients.length === 1 ? "" : "s"} ${clients.join(", ")}`;
}

/**
 * Keys of pairs that clients reveal in so many rounds: those that the ones who are there share with the ones who are not, so
 * that their masks can be removed.
 */
export function revealedKeys(plan: FederatedPlan, rounds: number): number {
  const counts = Array.from({ length: rounds }, (_, round) => presentNumbers(plan, round).length);
  return counts.reduce((sum, there) => sum + there * (plan.clients - there), 0);
}
