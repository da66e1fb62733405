/** `cotangent worker`: one worker process of a run; train starts it and tells it by environment where the hub is. */
import { join } from "node:path";
import { workerJobs } from "../dist/jobs.ts";
import { addressFromEnvironment, serveWorker } from "../dist/runtime/bun.ts";
import { fileStore } from "../dist/runtime/file_store.ts";
import { configOf } from "../dist/script.ts";
import { groupConfig, groupWorkerJobs } from "../dist/split.ts";
import { deviceOf, readFlags, UsageError } from "./config.ts";
import { openPlace } from "./device.ts";
import { openData } from "./open_data.ts";
import { planOf } from "./plan.ts";
import { curvatureProblemOf, problemOf } from "./problem.ts";
import { fileNames, readConfig } from "./run_directory.ts";

/** Serves one rank until the hub says stop; returns the exit code. */
export async function worker(args: readonly string[]): Promise<number> {
  const flags = readFlags(args, { run: true, rank: true, group: true });
  const directory = flags["run"];
  const rank = Number(flags["rank"]);
  if (directory === undefined || !Number.isInteger(rank)) {
    throw new UsageError(
      "Cannot run a worker: --run DIR and --rank N are needed; train starts workers by itself",
    );
  }
  // Ctrl-C reaches the worker too, perhaps before it serves; what is to happen then is train's to say.
  process.on("SIGINT", () => {});
  const config = readConfig(directory);
  const data = await openData(config, () => {});
  const isCurvature = flags["group"] === "curvature";
  await openPlace(deviceOf(config), isCurvature ? config.workers + rank : rank);
  const problem = isCurvature ? curvatureProblemOf(config, data) : problemOf(config, data);
  const plan = planOf(config, data.train.count, problem.parameters);
  const ending = await serveWorker({
    rank,
    address: addressFromEnvironment(),
    ...(isCurvature
      ? { config: groupConfig(plan), jobs: groupWorkerJobs(plan, problem, rank) }
      : { config: configOf(plan), jobs: workerJobs(plan, problem, rank) }),
    store: fileStore(join(directory, isCurvature ? fileNames.curvature : fileNames.state)),
    // The hub is on this machine: if nobody listens there any more, it has been killed.
    deadlineMs: 5000,
  });
  return ending.reason === "failed" ? 1 : 0;
}
