/**
 * How works are timed on a device that computes while the host goes on: runs are queued until they take long enough
 * together, and the clock stops when the device is done.
 */
import type { Prepared } from "./protocol.ts";

/** What runs queued together take at least, and how many there are at most. */
const BATCH_SECONDS = 0.02;
const MOST_RUNS = 1024;
/** What the results of runs queued together hold at most: not everybody frees them before the end. */
const MOST_BYTES: number = 4 * 2 ** 30;
const MOST_SOFTWARE_BYTES: number = 2 ** 28;

export interface DeviceQueue {
  readonly isSoftware: boolean;
  /** Resolves when the device has done everything; where it is missing, runs wait themselves. */
  settle?(): Promise<void>;
  /** @throws what the device refused, where that is not thrown elsewhere */
  check?(): void;
}

/** The same work, whose runs end when the device is done. */
export function queued(prepared: Prepared, { isSoftware, settle, check }: DeviceQueue): Prepared {
  const { bytes = 0, isChained = false, isHostOnly = false } = prepared;
  const room = Math.floor((isSoftware ? MOST_SOFTWARE_BYTES : MOST_BYTES) / Math.max(1, bytes));
  const most = isChained ? 1 : Math.max(1, Math.min(MOST_RUNS, room));
  /** Seconds of so many runs: what counts, and until all is done. */
  const batch = async (runs: number): Promise<{ readonly counted: number; readonly wall: number }> => {
    const promises: Promise<unknown>[] = [];
    const start = performance.now();
    for (let i = 0; i < runs; i++) {
      const result = prepared.run();
      if (result instanceof Promise) promises.push(result);
    }
    const handedOver = performance.now();
    await Promise.all(promises);
    if (!isChained) await settle?.();
    check?.();
    const wall = (performance.now() - start) / 1000;
    return { counted: isHostOnly ? (handedOver - start) / 1000 : wall, wall };
  };
  let runs = 1;
  const time = async (seconds: number): Promise<number> => {
    for (let { wall } = await batch(runs); wall < BATCH_SECONDS && runs < most; ) {
      runs = Math.min(most, Math.max(runs + 1, Math.ceil((1.2 * runs * BATCH_SECONDS) / wall)));
      ({ wall } = await batch(runs));
    }
    let [sum, spent, count] = [0, 0, 0];
    while (spent < seconds || count < 2) {
      const { counted, wall } = await batch(runs);
      sum += counted;
      spent += wall;
      count++;
    }
    return sum / count / runs;
  };
  return { ...prepared, run: () => batch(1), time };
}
