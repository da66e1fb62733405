/** Who uses the processor, from Linux's /proc: a sample taken while others work says little. */
import { readFileSync } from "node:fs";

const TICKS_PER_SECOND = 100;

interface Usage {
  readonly seconds: number;
  /** Processor seconds of everything on the machine, and of the given processes. */
  readonly all: number;
  readonly own: number;
}

function usage(pids: readonly number[]): Usage | null {
  try {
    const [user = 0, nice = 0, system = 0, , , irq = 0, softIrq = 0, steal = 0] = readFileSync(
      "/proc/stat",
      "utf8",
    )
      .split("\n")[0]!
      .trim()
      .split(/\s+/)
      .slice(1)
      .map(Number);
    let own = 0;
    for (const pid of pids) {
      // After the name in parentheses: utime and stime are fields 14 and 15, with the threads that have ended.
      const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ").at(-1)!.split(" ").map(Number);
      own += fields[11]! + fields[12]!;
    }
    const all = user + nice + system + irq + softIrq + steal;
    return { seconds: performance.now() / 1000, all: all / TICKS_PER_SECOND, own: own / TICKS_PER_SECOND };
  } catch {
    return null;
  }
}

/** Starts watching; the function given back says how many cores others used meanwhile, null where that is not known. */
export function watchOthers(pids: readonly number[]): () => number | null {
  const before = usage(pids);
  return () => {
    const after = usage(pids);
    if (!before || !after) return null;
    const others = after.all - before.all - (after.own - before.own);
    return Math.max(0, others / (after.seconds - before.seconds));
  };
}
