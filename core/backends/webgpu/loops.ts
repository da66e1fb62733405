/** Loops of a schedule as dispatches: which kind of shader computes a step. */
import type { LoopStep } from "../../passes/fuse.ts";
import type { Capabilities, Dispatch } from "./kernel.ts";
import { mapDispatches } from "./loops_map.ts";
import { reductionDispatches } from "./loops_reduce.ts";
import { withFewBuffers } from "./loops_split.ts";

/** The dispatches of a loop, in order; none where there is nothing to store. */
export function loopDispatches(step: LoopStep, gpu: Capabilities): readonly Dispatch[] {
  return withFewBuffers(step, gpu.limits.maxStorageBuffers).flatMap((part) =>
    isMap(part) ? mapDispatches(part, gpu) : reductionDispatches(part, gpu),
  );
}

/** Whether nothing is joined and nothing belongs to a row as a whole. */
function isMap({ reductions, loads, stores }: LoopStep): boolean {
  return reductions.length === 0 && [...loads, ...stores].every(({ level }) => level === "full");
}
