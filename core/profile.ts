/** Profiles: where the time of a computation goes, kernel by kernel. */
import type { Activity, KernelProfile } from "./backend.ts";
import { TraceError } from "./errors.ts";
import { isEager, openBackends } from "./trace.ts";

/**
 * What a computation did; as text, a table of its kernels.
 *
 * @since 0.3.0
 */
export interface Profile {
  /** The one that took longest first. */
  readonly kernels: readonly KernelProfile[];
  /** From the call until the last kernel was done. */
  readonly wallMilliseconds: number;
  /** Of these, outside kernels that the host runs, and not waiting for a device. */
  readonly hostMilliseconds: number;
  /** The times of all kernels together; null where a device cannot time them. */
  readonly kernelMilliseconds: number | null;
  /** How often commands were sent to a device. */
  readonly submits: number;
  /** How often elements were read from a device; each waits for all that was sent before. */
  readonly reads: number;
  readonly sentBytes: number;
  readonly readBytes: number;
  /** What is not measured, and why. */
  readonly notes: readonly string[];
  toString(): string;
}

let isProfiling = false;

/**
 * Runs a function and says where its time went: for each kernel how often it ran, for how long, and with how many bytes
 * and operations a second; and in total the time of the host and of the devices, and what was sent and read.
 *
 * On WebGPU each kernel is timed by the device, in a pass of its own, so that all together takes longer than usual, mostly
 * on the host; where the device has no clock, only the whole is timed. On the cpu the steps of compiled programs are
 * timed. What runs for the first time is compiled too: call the function once before, or `prepare` what is compiled.
 * Some hosts round the times of a device, to as much as 0.1 ms.
 *
 * Shapes: none.
 * Units: milliseconds, bytes.
 * Determinism: calls, bytes and operations are those of the programs; times are not reproducible.
 *
 * @param f computes; it may return a promise, which is waited for
 * @throws {TraceError} inside a transform, or while another profile is taken
 * @throws what `f` throws
 * @example One step
 * ```ts
 * const step = ct.jit((x: ct.Value) => ct.exp(x).sum());
 * const x = ct.ones([1000]);
 * const report = await ct.profile(() => step(x).data());
 * assert(report.kernels.every(({ calls }) => calls > 0));
 * assert(String(report).includes("wall"));
 * ```
 * @since 0.3.0
 */
export async function profile(f: () => unknown): Promise<Profile> {
  if (isProfiling || !isEager()) {
    const now = isProfiling ? "another profile is being taken" : "a transform is running";
    throw new TraceError(`Cannot profile a function: ${now}, a call outside of both is needed`);
  }
  isProfiling = true;
  try {
    return await taken(f);
  } finally {
    isProfiling = false;
  }
}

async function taken(f: () => unknown): Promise<Profile> {
  const ends = openBackends().flatMap((backend) => {
    const end = backend.profile?.();
    return end === undefined ? [] : [end];
  });
  const start = performance.now();
  const failures: unknown[] = [];
  try {
    await f();
  } catch (error) {
    failures.push(error);
  }
  const own = performance.now() - start;
  const activities: Activity[] = [];
  for (const end of ends) {
    try {
      activities.push(await end());
    } catch (error) {
      failures.push(error);
    }
  }
  if (failures.length > 0) throw failures[0];
  return summary(activities, own, performance.now() - start);
}

/** `own`: how long the function itself took. */
function summary(activities: readonly Activity[], own: number, wall: number): Profile {
  const sum = (of: (activity: Activity) => number): number => activities.reduce((n, one) => n + of(one), 0);
  const kernels = activities
    .flatMap((activity) => activity.kernels)
    .sort((a, b) => (b.milliseconds ?? 0) - (a.milliseconds ?? 0));
  const times = kernels.map(({ milliseconds }) => milliseconds);
  const result: Omit<Profile, "toString"> = {
    kernels,
    wallMilliseconds: wall,
    hostMilliseconds: Math.max(0, own - sum(({ busyMilliseconds }) => busyMilliseconds)),
    kernelMilliseconds: times.includes(null) ? null : times.reduce<number>((n, time) => n + time!, 0),
    submits: sum(({ submits }) => submits),
    reads: sum(({ reads }) => reads),
    sentBytes: sum(({ sentBytes }) => sentBytes),
    readBytes: sum(({ readBytes }) => readBytes),
    notes: activities.flatMap(({ notes }) => notes),
  };
  return { ...result, toString: () => tableOf(result) };
}

// --- text ----------------------------------------------------------------------------------------------------------

const HEAD: readonly string[] = ["kernel", "result", "calls", "ms", "share", "GB/s", "GFLOP/s"];
/** Longer names of kernels are cut. */
const LONGEST_LABEL = 48;

function tableOf(profile: Omit<Profile, "toString">): string {
  const { kernels, wallMilliseconds, hostMilliseconds, kernelMilliseconds, notes } = profile;
  const { submits, reads, sentBytes, readBytes } = profile;
  const devices = new Set(kernels.map(({ device }) => device));
  const rows = kernels.map(({ device, label, result, calls, milliseconds, bytes, operations }) => {
    const name = devices.size > 1 ? `${device} ${label}` : label;
    return [
      name.length > LONGEST_LABEL ? `${name.slice(0, LONGEST_LABEL - 3)}...` : name,
      result,
      String(calls),
      timeText(milliseconds),
      milliseconds === null || !kernelMilliseconds
        ? "-"
        : `${((100 * milliseconds) / kernelMilliseconds).toFixed(1)}%`,
      rateText(bytes, milliseconds),
      rateText(operations, milliseconds),
    ];
  });
  const calls = kernels.reduce((n, kernel) => n + kernel.calls, 0);
  const total = ["all", "", String(calls), timeText(kernelMilliseconds), "", "", ""];
  const all = rows.length === 0 ? [] : [HEAD, ...rows, total];
  const widths = HEAD.map((_, c) => Math.max(0, ...all.map((row) => row[c]!.length)));
  const lines = all.map((row) =>
    row
      .map((cell, c) => (c < 2 ? cell.padEnd(widths[c]!) : cell.padStart(widths[c]!)))
      .join("  ")
      .trimEnd(),
  );
  const times = `wall ${timeText(wallMilliseconds)} ms, host ${timeText(hostMilliseconds)} ms, kernels ${timeText(kernelMilliseconds)} ms`;
  const moved = `${submits} submits, ${reads} reads, ${sentBytes} bytes sent, ${readBytes} bytes read`;
  return [...lines, `${times}; ${moved}`, ...notes.map((note) => `note: ${note}`)].join("\n");
}

function timeText(milliseconds: number | null): string {
  return milliseconds === null ? "-" : milliseconds.toFixed(3);
}

/** In 10⁹ a second. */
function rateText(amount: number, milliseconds: number | null): string {
  if (amount === 0 || !milliseconds) return "-";
  return (amount / milliseconds / 1e6).toPrecision(3);
}
