/** Saves of a run that goes on with another number of workers. */
import { communicatingMethodOf } from "../dist/jobs/communicating.ts";
import type { Problem } from "../dist/jobs.ts";
import type { Plan } from "../dist/plan.ts";
import { peerName, type Store } from "../dist/runtime/driver.ts";

/** Whether the workers that were saved after a round are equal, so that any number of them can go on. */
export async function areEqual<B>(
  store: Store,
  round: number,
  plan: Plan,
  problem: Problem<B>,
): Promise<boolean> {
  const workersOf = communicatingMethodOf(plan, problem)?.workersOf;
  const saved = await store.get(peerName(0), round);
  return workersOf !== undefined && saved !== null && workersOf(saved.values["state"]) === null;
}

/** Gives each of the workers that come the save of the first one. Earlier rounds are of other workers: nobody goes back there. */
export async function addSaves(store: Store, round: number, before: number, now: number): Promise<void> {
  const { state, values } = (await store.get(peerName(0), round))!;
  for (let rank = before; rank < now; rank++) await store.put(peerName(rank), round, state, values);
  const ranks = Array.from({ length: Math.max(before, now) }, (_, rank) => rank);
  for (const name of ["hub" as const, ...ranks].map(peerName))
    for (const earlier of await store.rounds(name)) if (earlier < round) await store.drop(name, earlier);
}

/** Ends the saves of the workers that do not come any more. */
export async function dropSaves(store: Store, before: number, now: number): Promise<void> {
  for (let rank = now; rank < before; rank++)
    for (const round of await store.rounds(peerName(rank))) await store.drop(peerName(rank), round);
}
