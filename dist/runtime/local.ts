/** A whole run in one process and one thread: the hub, its workers, and a transport that hands values over. */

import { hubInit, hubStep } from "../protocol/hub.ts";
import { expand } from "../protocol/script.ts";
import type { Head, Outcome, Peer } from "../protocol/types.ts";
import { workerInit, workerStep } from "../protocol/worker.ts";
import { type Driver, drive, memoryStore, type Progress, peerName, type Store, seedStore } from "./driver.ts";
import type { RunSetup, RunValues } from "./sequential.ts";

/**
 * A run that could not go on. `rank` is null when no worker is the reason.
 *
 * @example Its fields
 * ```ts
 * const error = new ct.dist.RunError("Cannot go on: the disk is full, space is needed", 3, 7);
 * assertClose([error.rank, error.round], [3, 7]);
 * ```
 * @since 0.1.0
 */
export class RunError extends Error {
  override readonly name = "RunError";
  readonly rank: number | null;
  readonly round: number;
  constructor(message: string, rank: number | null, round: number) {
    super(message);
    this.rank = rank;
    this.round = round;
  }
}

/**
 * How to run in this process.
 *
 * @since 0.1.0
 */
export interface LocalOptions extends RunSetup {
  /** Where saves go; a store with saves of an earlier run continues it. Default: memory, forgotten at the end. */
  readonly store?: Store;
  readonly onProgress?: (progress: Progress) => void;
  /** Aborting it finishes the round and stops. */
  readonly signal?: AbortSignal;
}

/**
 * The end of a run: why, after how many rounds, and the durable registers.
 *
 * @since 0.1.0
 */
export interface RunResult extends RunValues {
  readonly reason: Exclude<Outcome, "failed">;
  readonly round: number;
}

/**
 * Runs all peers in this process. Jobs may be asynchronous; between two of them the event loop turns, so timers and
 * signals are seen. Without faults there is nothing to retry, so no clock is needed.
 *
 * Determinism: the same bits as `runSequential`, and as any other runtime.
 *
 * @throws {RunError} when a job throws or a save is missing
 * @example Four workers add their rank to a total, three times
 * ```ts
 * const config: ct.dist.Config = {
 *   ...ct.dist.protocolDefaults, workers: 4, rounds: 3, durable: { hub: ["total"], worker: [] },
 *   script: () => [{
 *     name: "add",
 *     worker: { fn: "rank", outs: ["r"] }, reply: ["r"],
 *     hub: { fn: "sum", ins: ["total", "r@*"], outs: ["total"] },
 *   }],
 * };
 * const jobs = {
 *   hub: { sum: (ins: readonly unknown[]) => ({ outs: [(ins as number[]).reduce((a, b) => a + b)] }) },
 *   worker: (rank: number) => ({ rank: () => ({ outs: [rank] }) }),
 * };
 * const initial = { hub: { total: 0 }, worker: () => ({}) };
 * const { hub } = await ct.dist.runLocal({ config, jobs, initial });
 * assertClose(hub["total"], 18);
 * ```
 * @since 0.1.0
 */
export async function runLocal(options: LocalOptions): Promise<RunResult> {
  const { config, jobs, initial, store = memoryStore(), signal, onProgress } = options;
  const ranks = Array.from({ length: config.workers }, (_, rank) => rank);
  const slots = Object.keys(config.background ?? {}).length;
  await seedStore(store, peerName("hub"), initial.hub);
  for (const rank of ranks) await seedStore(store, peerName(rank), initial.worker(rank));

  const peers = new Map<Peer, Pick<Driver<unknown>, "receive">>();
  const transportOf = (from: Peer) => ({
    send(to: Peer, head: Head, values: readonly unknown[]): void {
      peers.get(to)?.receive(from, head, values);
    },
  });
  const hub = drive({
    name: peerName("hub"),
    state: hubInit(config),
    step: hubStep(config),
    jobs: jobs.hub,
    store,
    transport: transportOf("hub"),
    // Everything sent here arrives once, and at most one message of each worker is under way, and one for every slot.
    maxQueue: Math.max(config.maxQueue, (2 + slots) * config.workers),
    ...(onProgress === undefined ? {} : { onProgress }),
  });
  const workers = ranks.map((rank) =>
    drive({
      name: peerName(rank),
      state: workerInit(rank),
      step: workerStep(config),
      jobs: jobs.worker(rank),
      store,
      transport: transportOf(rank),
      maxQueue: Math.max(config.maxQueue, 2 + slots),
    }),
  );
  peers.set("hub", hub);
  workers.forEach((worker, rank) => {
    peers.set(rank, worker);
  });

  const stop = (): void => hub.post({ k: "stop" });
  if (signal?.aborted) stop();
  signal?.addEventListener("abort", stop, { once: true });
  try {
    for (const worker of workers) await worker.start();
    await hub.start();
    // A worker cannot end before the hub; it is awaited only because its store may break.
    const ending = await Promise.race([
      hub.done,
      Promise.all(workers.map((w) => w.done)).then(() => hub.done),
    ]);
    if (ending.reason === "failed") {
      const { rank, reason } = ending.failure!;
      throw new RunError(reason, rank, ending.round);
    }
    return {
      reason: ending.reason,
      round: ending.round,
      ...(await readValues(store, options, ending.round)),
    };
  } finally {
    signal?.removeEventListener("abort", stop);
  }
}

/** The durable registers in the saves of `round`; undefined where the store has none. */
export async function readValues(
  store: Store,
  { config }: Pick<RunSetup, "config">,
  round: number,
): Promise<RunValues> {
  const read = async (peer: Peer, names: readonly string[]): Promise<Readonly<Record<string, unknown>>> => {
    const saved = await store.get(peerName(peer), round);
    return Object.fromEntries(names.map((name) => [name, saved?.values[name]]));
  };
  const workers: Readonly<Record<string, unknown>>[] = [];
  for (let rank = 0; rank < config.workers; rank++) workers.push(await read(rank, config.durable.worker));
  return { hub: await read("hub", expand(config.durable.hub, config.workers)), workers };
}
