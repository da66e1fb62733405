/** What a device does while somebody watches: every kernel with its time, and all that is sent and read. */
import type { Activity, KernelProfile } from "../../backend.ts";
import type { Command, Device } from "./device.ts";

/** What a dispatch is for, for whoever counts. */
export interface Work {
  readonly label: string;
  /** What it writes first. */
  readonly result: string;
  /** Of the buffers that it is given. */
  readonly bytes: number;
  readonly operations: number;
}

/** A command that may say what it is for. */
export type Recorded = Command & { readonly work?: Work };

const OTHER: Work = { label: "other", result: "", bytes: 0, operations: 0 };

const MILLION = 1e6;

export class Recorder {
  readonly #name: string;
  readonly #device: Device;
  readonly #hasTimes: boolean;
  readonly #kernels = new Map<Work, { calls: number; nanoseconds: number }>();
  /** Times that the device has not given yet. */
  readonly #timing: Promise<void>[] = [];
  #submits = 0;
  #reads = 0;
  #sentBytes = 0;
  #readBytes = 0;
  /** Reads under way, since when there are any, and how long there were. */
  #waiting = 0;
  #since = 0;
  #waitedMilliseconds = 0;

  constructor(name: string, device: Device) {
    this.#name = name;
    this.#device = device;
    this.#hasTimes = device.features.timestamps;
  }

  submit(commands: readonly Recorded[]): void {
    this.#submits += 1;
    const works = commands.flatMap((command) => ("dispatch" in command ? [command.work ?? OTHER] : []));
    const entries = works.map((work) => {
      let entry = this.#kernels.get(work);
      if (entry === undefined) {
        entry = { calls: 0, nanoseconds: 0 };
        this.#kernels.set(work, entry);
      }
      entry.calls += 1;
      return entry;
    });
    if (!this.#hasTimes || entries.length === 0) {
      this.#device.submit(commands);
      return;
    }
    const timing = this.#device.submitTimed(commands).then((times) => {
      entries.forEach((entry, i) => {
        entry.nanoseconds += times[i]!;
      });
    });
    // What is refused is thrown at the end, where all of it is waited for.
    timing.catch(() => {});
    this.#timing.push(timing);
  }

  sent(bytes: number): void {
    this.#sentBytes += bytes;
  }

  /** A read begins; the result ends it. */
  reading(bytes: number): () => void {
    this.#reads += 1;
    this.#readBytes += bytes;
    if (this.#waiting++ === 0) this.#since = performance.now();
    return () => {
      if (--this.#waiting === 0) this.#waitedMilliseconds += performance.now() - this.#since;
    };
  }

  /** Waits for what was submitted, and tells of it. */
  async finish(): Promise<Activity> {
    await Promise.all(this.#timing);
    await this.#device.done();
    return {
      kernels: this.#profiles(),
      busyMilliseconds: this.#waitedMilliseconds,
      submits: this.#submits,
      reads: this.#reads,
      sentBytes: this.#sentBytes,
      readBytes: this.#readBytes,
      notes:
        this.#hasTimes || this.#kernels.size === 0
          ? []
          : [`${this.#device.name} has no timestamps: its kernels are counted, and only the whole is timed`],
    };
  }

  /** Kernels that look the same are one row. */
  #profiles(): KernelProfile[] {
    const rows = new Map<string, KernelProfile>();
    for (const [{ label, result, bytes, operations }, { calls, nanoseconds }] of this.#kernels) {
      const key = `${label} ${result} ${bytes} ${operations}`;
      const known = rows.get(key);
      const milliseconds = this.#hasTimes ? nanoseconds / MILLION + (known?.milliseconds ?? 0) : null;
      rows.set(key, {
        device: this.#name,
        label,
        result,
        calls: calls + (known?.calls ?? 0),
        milliseconds,
        bytes: calls * bytes + (known?.bytes ?? 0),
        operations: calls * operations + (known?.operations ?? 0),
      });
    }
    return [...rows.values()];
  }
}
