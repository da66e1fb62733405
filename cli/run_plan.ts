/** Runs a plan in this process or on worker processes: the same functions, the same bits. */
import { rmSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import type { Value } from "../core/value.ts";
import { type Address, runSockets, spawnBun, type WorkerProcess } from "../dist/runtime/bun.ts";
import type { Progress, Store } from "../dist/runtime/driver.ts";
import { fileStore } from "../dist/runtime/file_store.ts";
import { runLocal } from "../dist/runtime/local.ts";
import type { RunSetup } from "../dist/runtime/sequential.ts";
import type { CurvatureGroup } from "../dist/split.ts";
import { type TrainConfig, UsageError } from "./config.ts";
import { noTraffic, type Traffic } from "./recorder.ts";
import { fileNames } from "./run_directory.ts";

export interface RunPlanOptions {
  readonly setup: RunSetup;
  /** Curvature workers that run beside, if there are. */
  readonly group: CurvatureGroup | null;
  readonly config: TrainConfig;
  /** The run directory, from which workers read the configuration. */
  readonly directory: string;
  readonly store: Store;
  readonly signal: AbortSignal;
  readonly onProgress: (progress: Progress, traffic: Traffic) => void;
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
  const { setup, group, config, directory, store, signal, onProgress, onNotice } = options;
  if (config.runtime === "local") {
    const result = await runLocal({
      ...setup,
      store,
      signal,
      onProgress: (progress) => onProgress(progress, noTraffic),
    });
    return { ...outcome(result), peakMemoryBytes: ownPeakBytes() };
  }
  const main = new URL("./main.ts", import.meta.url).pathname;
  const processCount = config.workers + (config.curvatureWorkers ?? 0);
  const threads = Math.max(1, Math.floor(availableParallelism() / processCount));
  const processes = new Map<string, WorkerProcess>();
  // A second Ctrl-C ends this process at once: its workers go with it.
  const endWorkers = (): void => {
    for (const { kill } of processes.values()) kill("SIGKILL");
  };
  process.on("exit", endWorkers);
  const spawner =
    (kind: readonly string[]) =>
    (rank: number, address: Address): WorkerProcess => {
      const args = ["worker", "--run", directory, "--rank", String(rank), ...kind];
      const prefix = config.launch?.trim().split(/\s+/) ?? [];
      const child = spawnBun(main, args, { address, threads, prefix });
      processes.set([rank, ...kind].join(), child);
      return child;
    };
  const beside = group && runGroup(group, directory, spawner(["--group", "curvature"]), onNotice);
  try {
    const result = await runSockets({
      ...setup,
      store,
      signal,
      tickMs,
      ...(config.port !== undefined && { port: config.port }),
      ...(config.host !== undefined && { host: config.host }),
      onProgress: (progress, traffic) =>
        onProgress(progress, {
          bytes: traffic.bytesSent + traffic.bytesReceived,
          backgroundBytes: traffic.backgroundBytesSent + traffic.backgroundBytesReceived,
          busySeconds: Math.max(...traffic.busySeconds),
        }),
      onNotice,
      spawn: spawner([]),
    });
    const workers = result.workerPeakBytes.reduce((sum, bytes) => sum + bytes, 0);
    return { ...outcome(result), peakMemoryBytes: ownPeakBytes() + workers };
  } catch (error) {
    throw listeningProblem(error, config) ?? error;
  } finally {
    group?.close();
    await beside;
    process.off("exit", endWorkers);
  }
}

/** What is wrong with where the hub was to listen, if that is the error. A host without an address has no code. */
function listeningProblem(error: unknown, { host, port }: TrainConfig): UsageError | null {
  if (!(error instanceof Error && error.message.startsWith("Failed to listen"))) return null;
  const code = "code" in error ? error.code : undefined;
  if (code === "EADDRINUSE")
    return new UsageError(`Cannot use --port ${port}: it is in use, a free one or 0 is needed`);
  if (host === undefined || (code !== undefined && code !== "EADDRNOTAVAIL")) return null;
  return new UsageError(
    `Cannot use --host ${host}: it is no address of this machine, one on which the hub can listen is needed`,
  );
}

/** Runs the curvature workers until their group is closed. When they fail, that is said once, and the training decides. */
async function runGroup(
  group: CurvatureGroup,
  directory: string,
  spawn: (rank: number, address: Address) => WorkerProcess,
  onNotice: (text: string) => void,
): Promise<void> {
  const path = join(directory, fileNames.curvature);
  // Snapshots are asked for anew by a run that is resumed.
  rmSync(path, { recursive: true, force: true });
  const notice = (text: string): void => onNotice(`curvature: ${text}`);
  try {
    await runSockets({ ...group.setup, store: fileStore(path), tickMs, onNotice: notice, spawn });
  } catch (error) {
    if (!group.isClosed()) notice(error instanceof Error ? error.message : String(error));
    group.fail(error);
  } finally {
    rmSync(path, { recursive: true, force: true });
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
