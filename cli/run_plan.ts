/** Runs a plan in this process or on worker processes: the same functions, the same bits. */
import type { Value } from "../core/value.ts";
import type { Progress, Store } from "../dist/runtime/driver.ts";
import { runLocal } from "../dist/runtime/local.ts";
import type { RunSetup } from "../dist/runtime/sequential.ts";
import type { TrainConfig } from "./config.ts";

export interface RunPlanOptions {
  readonly setup: RunSetup;
  readonly config: TrainConfig;
  /** The run directory, from which workers read the configuration. */
  readonly directory: string;
  readonly store: Store;
  readonly signal: AbortSignal;
  readonly onProgress: (progress: Progress, bytesSent: number) => void;
  readonly onNotice: (text: string) => void;
}

export interface PlanResult {
  readonly reason: "finished" | "stopped";
  readonly round: number;
  readonly theta: Value;
  /** Largest memory of the hub plus those of the workers. */
  readonly peakMemoryBytes: number;
}

export async function runPlan(options: RunPlanOptions): Promise<PlanResult> {
  const { setup, store, signal, onProgress } = options;
  const result = await runLocal({ ...setup, store, signal, onProgress: (progress) => onProgress(progress, 0) });
  return { reason: result.reason, round: result.round, theta: result.hub["theta"] as Value, peakMemoryBytes: ownPeakBytes() };
}

/** The largest memory this process has had. */
export function ownPeakBytes(): number {
  return process.resourceUsage().maxRSS * 1024;
}
