/** Runs a federated plan in this process or on worker processes: the same functions, the same bits. */
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { type FederatedData, federatedSetup, federatedWorkerJobs } from "../../dist/federated/jobs.ts";
import { type FederatedPlan, federatedConfig, federatedPlan } from "../../dist/federated/plan.ts";
import {
  addressFromEnvironment,
  runSockets,
  serveWorker,
  spawnBun,
  type WorkerProcess,
} from "../../dist/runtime/bun.ts";
import type { Progress, Store } from "../../dist/runtime/driver.ts";
import { fileStore } from "../../dist/runtime/file_store.ts";
import { type RunResult, readValues, runLocal } from "../../dist/runtime/local.ts";
import { readFlags, type TrainConfig, UsageError } from "../config.ts";
import type { Dataset } from "../data/dataset.ts";
import { openData } from "../open_data.ts";
import { fileNames } from "../run_directory.ts";
import { clientData, type Shares, sharesOf } from "./clients.ts";
import type { FederatedConfig } from "./config.ts";
import { readFederated } from "./files.ts";
import { methodsOf, type RunMethods } from "./methods.ts";
import { checkPresence } from "./presence.ts";

/** A run with all that its processes derive alike from its configuration. */
export interface OpenedRun {
  readonly config: FederatedConfig;
  readonly data: Dataset;
  readonly plan: FederatedPlan;
  readonly methods: RunMethods;
  readonly shares: Shares;
  readonly clients: FederatedData;
}

/** Bytes at the connections of workers: all, and those of values alone. */
export interface WireBytes {
  /** The first round that was counted: of a run that was resumed, the one at which that was. */
  readonly fromRound: number;
  readonly sent: number;
  readonly received: number;
  readonly payloadSent: number;
  readonly payloadReceived: number;
}

export interface FederatedResult extends RunResult {
  /** Null if all was in one process, or done before. */
  readonly wire: WireBytes | null;
  /** Largest memory of this process and of each worker process, added. */
  readonly peakMemoryBytes: number;
}

/** Milliseconds per protocol tick: dead after 1200 ticks without a sign of life, 4 minutes. */
const tickMs = 200;
const limits = { deadTicks: 1200 };

/**
 * Loads the data and derives the rest.
 *
 * @throws {UsageError} if they do not fit together
 */
export async function openFederated(
  config: FederatedConfig,
  say: (text: string) => void,
): Promise<OpenedRun> {
  // The data of a training run are described by the same fields, and nothing else is read of it.
  return openedRun(config, await openData(config as unknown as TrainConfig, say));
}

/**
 * Gives each client its part of the data, and makes the method and the plan.
 *
 * @throws {UsageError} if they do not fit together
 */
export function openedRun(config: FederatedConfig, data: Dataset): OpenedRun {
  const shares = sharesOf(config, data);
  const methods = methodsOf(config, data);
  const { rounds } = methods.method;
  const { forget = [] } = config;
  const [spread, limit] = config.stragglers?.split(":").map(Number) ?? [];
  const plan = federatedPlan({
    clients: config.clients,
    workers: config.workers,
    rounds,
    seed: config.seed,
    absentRate: config.absent,
    stragglers: spread === undefined || limit === undefined ? null : { spread, limit },
    once: config.method === "afl",
    leaving: forget,
    evaluateEvery: methods.isWholeEveryRound ? (config.evalEvery ?? Math.max(1, Math.round(rounds / 10))) : 0,
    limits,
  });
  checkPresence(config, plan);
  return { config, data, plan, methods, shares, clients: clientData(data, shares) };
}

export interface RunFederatedOptions {
  /** The run directory, from which workers read the configuration; the store is its folder of saves. */
  readonly directory: string;
  readonly store: Store;
  /** The newest save that the store has, if it has one. */
  readonly firstRound: number;
  readonly signal: AbortSignal;
  readonly onProgress: (progress: Progress) => void;
  readonly onNotice: (text: string) => void;
}

/**
 * Runs a plan from its newest save to its end.
 *
 * @throws {RunError} when it cannot go on; what is saved stays in the store
 */
export async function runFederated(
  { config, plan, methods, clients }: OpenedRun,
  { directory, store, firstRound, signal, onProgress, onNotice }: RunFederatedOptions,
): Promise<FederatedResult> {
  const setup = federatedSetup(plan, methods.method, clients, { alone: methods.alone });
  const ownPeakBytes = (): number => process.resourceUsage().maxRSS * 1024;
  if (firstRound === plan.rounds) {
    const values = await readValues(store, setup, firstRound);
    return {
      reason: "finished",
      round: firstRound,
      ...values,
      wire: null,
      peakMemoryBytes: ownPeakBytes(),
    };
  }
  if (config.runtime === "local") {
    const result = await runLocal({ ...setup, store, signal, onProgress });
    return { ...result, wire: null, peakMemoryBytes: ownPeakBytes() };
  }
  const main = new URL("../main.ts", import.meta.url).pathname;
  const threads = Math.max(1, Math.floor(availableParallelism() / plan.workers));
  const processes = new Map<number, WorkerProcess>();
  // A second Ctrl-C ends this process at once: its workers go with it.
  const endWorkers = (): void => {
    for (const { kill } of processes.values()) kill("SIGKILL");
  };
  process.on("exit", endWorkers);
  try {
    const result = await runSockets({
      ...setup,
      store,
      tickMs,
      signal,
      onProgress: (progress) => onProgress(progress),
      onNotice,
      spawn(rank, address) {
        const child = spawnBun(main, ["federated", "worker", "--run", directory, "--rank", String(rank)], {
          address,
          threads,
        });
        processes.set(rank, child);
        return child;
      },
    });
    const { bytesSent, bytesReceived, payloadBytesSent, payloadBytesReceived, workerPeakBytes } = result;
    return {
      ...result,
      wire: {
        fromRound: firstRound,
        sent: bytesSent,
        received: bytesReceived,
        payloadSent: payloadBytesSent,
        payloadReceived: payloadBytesReceived,
      },
      peakMemoryBytes: workerPeakBytes.reduce((sum, bytes) => sum + bytes, ownPeakBytes()),
    };
  } finally {
    process.off("exit", endWorkers);
  }
}

/** Serves one rank until the hub says stop; returns the exit code. */
export async function federatedWorker(args: readonly string[]): Promise<number> {
  const flags = readFlags(args, { run: true, rank: true });
  const directory = flags["run"];
  const rank = Number(flags["rank"]);
  if (directory === undefined || !Number.isInteger(rank)) {
    throw new UsageError(
      "Cannot run a worker: --run DIR and --rank N are needed; federated starts workers by itself",
    );
  }
  // Ctrl-C reaches the worker too, perhaps before it serves; what is to happen then is the hub's to say.
  process.on("SIGINT", () => {});
  const { plan, methods, clients } = await openFederated(readFederated(directory), () => {});
  const ending = await serveWorker({
    rank,
    address: addressFromEnvironment(),
    config: federatedConfig(plan),
    jobs: federatedWorkerJobs(plan, methods.method, clients, rank, { alone: methods.alone }),
    store: fileStore(join(directory, fileNames.state)),
    // The hub is on this machine: if nobody listens there any more, it has been killed.
    deadlineMs: 5000,
  });
  return ending.reason === "failed" ? 1 : 0;
}
