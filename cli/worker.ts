/** `cotangent worker`: one worker process of a run. */
import { UsageError, readFlags } from "./config.ts";

export async function worker(args: readonly string[]): Promise<number> {
  const { run, rank } = readFlags(args, { run: true, rank: true });
  if (run === undefined || rank === undefined) throw new UsageError("Cannot run a worker: --run and --rank are needed");
  return 0;
}
