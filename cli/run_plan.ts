/** Runs a plan in this process or on worker processes: the same functions, the same bits. */
import { availableParallelism } from "node:os";
import type { Value } from "../core/value.ts";
import { runSockets, spawnBun, type WorkerProcess } from "../dist/runtime/bun.ts";
import type { Progress, Store } from "../dist/runtime/driver.ts";
import { runLocal } from "../dist/runtime/local.ts";
import type { RunSetup } from "../dist/runtime/sequential.ts";
import { type TrainConfig, UsageError } from "./config.ts";

export interface RunPlanOptions {
  readonly setup: RunSetup;
  readonly config: TrainConfig;
  /** The run directory, from which workers read the configuration. */
  readonly directory: string;
  readonly store: Store;
  readonly signal: AbortSignal;
  /** `bytes` have gone through sockets so far, in both directions. */
  readonly onProgress: (progress: Progress, bytes: number) => void;
  readonly onNotice: (text: string) => void;
}

export interface PlanResult {
  readonly reason: "finished" | "stopped";
  readonly round: number;
  readonly theta: Value;
  /** Largest memory of this process and of each worker process, added. */
  readonly peakMemoryBytes: number;
}

/** Milliseconds per protocol tick: dead after 1200 ticks without a sign of life, 4 minutes. */
const tickMs = 200;

/**
 * Runs a plan to its end.
 *
 * @throws {RunError} when it cannot go on; what is saved stays in the store
 */
export async function runPlan(options: RunPlanOptions): Promise<PlanResult> {
  const { setup, config, directory, store, signal, onProgress, onNotice } = options;
  if (config.runtime === "local") {
    const result = await runLocal({
      ...setup,
      store,
      signal,
      onProgress: (progress) => onProgress(progress, 0),
    });
    return { ...outcome(result), peakMemoryBytes: ownPeakBytes() };
  }
  const main = new URL("./main.ts", import.meta.url).pathname;
  const threads = Math.max(1, Math.floor(availableParallelism() / config.workers));
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
      signal,
      tickMs,
      ...(config.port !== undefined && { port: config.port }),
      onProgress: (progress, traffic) => onProgress(progress, traffic.bytesSent + traffic.bytesReceived),
      onNotice,
      spawn(rank, address) {
        const args = ["worker", "--run", directory, "--rank", String(rank)];
        const child = spawnBun(main, args, { address, threads });
        processes.set(rank, child);
        return child;
      },
    });
    const workers = result.workerPeakBytes.reduce((sum, bytes) => sum + bytes, 0);
    return { ...outcome(result), peakMemoryBytes: ownPeakBytes() + workers };
  } catch (error) {
    if (!(error instanceof Error && "code" in error && error.code === "EADDRINUSE")) throw error;
    throw new UsageError(`Cannot use --port ${config.port}: it is in use, a free one or 0 is needed`);
  } finally {
    process.off("exit", endWorkers);
  }
}

function outcome(result: {
  readonly reason: "finished" | "stopped";
  readonly round: number;
  readonly hub: Readonly<Record<string, unknown>>;
}): Omit<PlanResult, "peakMemoryBytes"> {
  return { reason: result.reason, round: result.round, theta: result.hub["theta"] as Value };
}

/** The largest memory this process has had. */
function ownPeakBytes(): number {
  return process.resourceUsage().maxRSS * 1024;
}
