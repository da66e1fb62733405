/** A run in one process whose messages are counted: payload bytes and messages by phase and direction. */
import { bytesPerElement } from "../../core/dtype.ts";
import { flatten } from "../../core/tree.ts";
import { hubInit, hubStep } from "../../dist/protocol/hub.ts";
import { slots } from "../../dist/protocol/script.ts";
import type { Head, Peer } from "../../dist/protocol/types.ts";
import { workerInit, workerStep } from "../../dist/protocol/worker.ts";
import { type Driver, drive, memoryStore, peerName, seedStore } from "../../dist/runtime/driver.ts";
import type { RunSetup } from "../../dist/runtime/sequential.ts";

/** Sums over the whole run. */
export interface Sent {
  asks: number;
  answers: number;
  bytesToWorkers: number;
  bytesToHub: number;
}

/** Bytes of the elements of every tensor in the values of a message. */
function payloadBytes(values: readonly unknown[]): number {
  return values
    .flatMap((value) => flatten(value)[0])
    .reduce((bytes, x) => bytes + x.size * bytesPerElement(x.dtype), 0);
}

/** Runs to the end and says what was sent in each phase, by name. */
export async function countRun({ config, jobs, initial }: RunSetup): Promise<ReadonlyMap<string, Sent>> {
  const ranks = Array.from({ length: config.workers }, (_, rank) => rank);
  const sent = new Map<string, Sent>();
  const store = memoryStore();
  await seedStore(store, "hub", initial.hub);
  for (const rank of ranks) await seedStore(store, peerName(rank), initial.worker(rank));
  const peers = new Map<Peer, Pick<Driver<unknown>, "receive">>();
  // What an answer answers: the same stamp as the question.
  const asked = new Map<string, string>();
  const stamp = (head: Head): string => `${head.round}/${head.attempt}/${head.seq}`;
  const transportOf = (from: Peer) => ({
    send(to: Peer, head: Head, values: readonly unknown[]): void {
      if (head.k === "ask") asked.set(stamp(head), slots(config.script(head.round))[head.phase]!.phase.name);
      if (head.k === "ask" || head.k === "answer") {
        const name = asked.get(stamp(head))!;
        const entry = sent.get(name) ?? { asks: 0, answers: 0, bytesToWorkers: 0, bytesToHub: 0 };
        if (head.k === "ask") {
          entry.asks++;
          entry.bytesToWorkers += payloadBytes(values);
        } else {
          entry.answers++;
          entry.bytesToHub += payloadBytes(values);
        }
        sent.set(name, entry);
      } else if (head.k === "post" || head.k === "give") {
        const entry = sent.get(head.slot) ?? { asks: 0, answers: 0, bytesToWorkers: 0, bytesToHub: 0 };
        if (head.k === "give") {
          entry.asks++;
          entry.bytesToWorkers += payloadBytes(values);
        } else {
          entry.answers++;
          entry.bytesToHub += payloadBytes(values);
        }
        sent.set(head.slot, entry);
      } else if (values.length > 0) throw new Error(`Cannot count "${head.k}": it carries payload`);
      peers.get(to)?.receive(from, head, values);
    },
  });
  const common = { store, maxQueue: config.maxQueue };
  const hub = drive({
    ...common,
    name: "hub",
    state: hubInit(config),
    step: hubStep(config),
    jobs: jobs.hub,
    transport: transportOf("hub"),
  });
  const workers = ranks.map((rank) =>
    drive({
      ...common,
      name: peerName(rank),
      state: workerInit(rank),
      step: workerStep(config),
      jobs: jobs.worker(rank),
      transport: transportOf(rank),
    }),
  );
  peers.set("hub", hub);
  workers.forEach((worker, rank) => {
    peers.set(rank, worker);
  });
  for (const worker of workers) await worker.start();
  await hub.start();
  const { failure } = await hub.done;
  if (failure !== null) throw new Error(failure.reason);
  return sent;
}
