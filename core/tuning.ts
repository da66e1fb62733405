/** Tuning: of several ways to compute the same on a device, the one that is the fastest there is found by trying. */
import type { Tuner, TuningTable } from "./backend.ts";
import { DeviceError, TraceError } from "./errors.ts";
import { isEager, openBackends } from "./trace.ts";

/**
 * Options of `tune`.
 *
 * @since 0.3.0
 */
export interface TuneOptions {
  /** Also tries again what the table has already. Default: false. */
  readonly again?: boolean;
}

/**
 * Runs a function and finds, for each matrix product that its programs compute on WebGPU, the fastest of the ways to
 * compute it on this adapter. All programs use what was found from their next run on, also those that were compiled
 * before, and those of later processes: the table is kept in a file for each adapter, in the folder
 * `cotangent` of `XDG_CACHE_HOME`, or else of `~/.cache`. What the table has is not tried again.
 *
 * Shapes: none.
 * Units: microseconds.
 * Determinism: results change by rounding when a product is computed in another way; with one table they are the same
 *   bits every time. `init("webgpu", { tuning: false })` ignores the file.
 *
 * @param f computes on the device; it may return a promise
 * @returns the whole table of the adapter
 * @throws {DeviceError} if no open device has anything to try
 * @throws {TraceError} inside a transform
 * @throws what `f` throws
 * @example Without a graphics processor there is nothing to try
 * ```ts
 * const error: unknown = await ct.tune(() => ct.ones([2])).catch((error: unknown) => error);
 * assert(error instanceof ct.DeviceError || String(error).includes("tuning"));
 * ```
 * @since 0.3.0
 */
export async function tune(f: () => unknown, { again = false }: TuneOptions = {}): Promise<TuningTable> {
  if (!isEager()) {
    throw new TraceError(
      "Cannot tune a function: a transform is running, a call outside of transforms is needed",
    );
  }
  const tuner = openTuner();
  await tuner.tune(f, again);
  return tuner.table();
}

/**
 * What was tried on the open device, in this process or before; `String` makes it a table to print.
 *
 * Shapes: none.
 *
 * @throws {DeviceError} if no open device has anything to try
 * @example Without a graphics processor there is no table
 * ```ts
 * assertThrows(() => {
 *   if (ct.tuningTable().adapter !== "") throw new ct.DeviceError("absent", "", "Cannot fail: it has one, none is needed");
 * }, ct.DeviceError);
 * ```
 * @since 0.3.0
 */
export function tuningTable(): TuningTable {
  return openTuner().table();
}

function openTuner(): Tuner {
  for (const { tuning } of openBackends()) if (tuning !== undefined) return tuning;
  throw new DeviceError(
    "absent",
    "",
    'Cannot tune: no open device computes anything in several ways, a GPU is needed; await init("webgpu")',
  );
}
