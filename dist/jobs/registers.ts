/** What registers hold, as jobs see it. */
import { adopt } from "../../core/trace.ts";
import { readable, type Value } from "../../core/value.ts";
import type { JobArgs } from "../protocol/types.ts";
import type { Job, JobResult, JobSteps } from "../runtime/driver.ts";

/** A synchronous job, whole or in pieces. */
export function job(f: (ins: readonly unknown[], args: JobArgs) => JobResult | JobSteps): Job {
  return f;
}

export const value = (register: unknown): Value => register as Value;

/** The elements in float64, on the host; they may be written. */
export const doubles = (register: unknown): Float64Array<ArrayBuffer> =>
  new Float64Array(readable(value(register)));

export const vector = (data: Float64Array): Value => adopt(data, [data.length], "float64");

/** What a worker sends that has nothing to say. */
export const nothing = (): Value => adopt(new Float32Array(0), [0], "float32");

/** The sum in the order of ranks. */
export const sumOf: Job = job((parts) => ({ outs: [parts.map(value).reduce((a, b) => a.add(b))] }));
