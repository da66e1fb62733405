/** Saves of a run that goes on with another number of workers. */
import { communicatingMethodOf } from "../dist/jobs/communicating.ts";
import type { Problem } from "../dist/jobs.ts";
import type { Plan } from "../dist/plan.ts";
import { peerName, type Saved, type Store } from "../dist/runtime/driver.ts";

/** The save that each of equal workers has: of the first of them whose file is whole. */
async function saveOf(store: Store, round: number, workers: number): Promise<Saved | null> {
  for (let rank = 0; rank < workers; rank++) {
    const saved = await store.get(peerName(rank), round);
    if (saved !== null) return saved;
  }
  return null;
}

/** Whether the workers that were saved after a round are equal, so that any number of them can go on. */
export async function areEqual<B>(
  store: Store,
  round: number,
  before: number,
  plan: Plan,
  problem: Problem<B>,
): Promise<boolean> {
  const workersOf = communicatingMethodOf(plan, problem)?.workersOf;
  const saved = await saveOf(store, round, before);
  return workersOf !== undefined && saved !== null && workersOf(saved.values["state"]) === null;
}

/**
 * Gives a save to each of the workers that come, and of the others to those whose own is damaged. Earlier rounds are of other
 * workers: nobody goes back there.
 */
export async function addSaves(store: Store, round: number, before: number, now: number): Promise<void> {
  const { state, values } = (await saveOf(store, round, before))!;
  for (let rank = 0; rank < now; rank++) {
    const name = peerName(rank);
    if (rank >= before || (await store.get(name, round)) === null)
      await store.put(name, round, state, values);
  }
  const ranks = Array.from({ length: Math.max(before, now) }, (_, rank) => rank);
  for (const name of ["hub" as const, ...ranks].map(peerName))
    for (const earlier of await store.rounds(name)) if (earlier < round) await store.drop(name, earlier);
}

/** Ends the saves of the workers that do not come any more. */
export async function dropSaves(store: Store, before: number, now: number): Promise<void> {
  for (let rank = now; rank < before; rank++)
    for (const round of await store.rounds(peerName(rank))) await store.drop(peerName(rank), round);
}
