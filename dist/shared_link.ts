/** A link whose transfers share it evenly, as connections through one network interface do. */

/** Transfers in the background move only while there are none in the foreground. */
export type Priority = "foreground" | "background";

/** Carries transfers; the more there are at a time, the slower is each. */
export interface SharedLink {
  /** Begins a transfer that takes `time` when it is alone, and calls `arrived` when it is through. */
  carry(time: number, arrived: () => void, priority?: Priority): void;
}

/** The transfers of one priority. */
interface Flows {
  /** What a transfer that is always there would have had: P transfers move it at a P-th of the time that passes. */
  progress: number;
  list: { readonly end: number; readonly arrived: () => void }[];
}

/** A link on a clock that somebody else moves. */
export function sharedLink(now: () => number, after: (time: number, action: () => void) => void): SharedLink {
  const flows: Readonly<Record<Priority, Flows>> = {
    foreground: { progress: 0, list: [] },
    background: { progress: 0, list: [] },
  };
  let last = 0;
  let version = 0;

  /** Those that have the link now. */
  function moving(): Flows {
    return flows.foreground.list.length > 0 ? flows.foreground : flows.background;
  }

  function advance(): void {
    const own = moving();
    if (own.list.length > 0) own.progress += (now() - last) / own.list.length;
    last = now();
  }

  function schedule(): void {
    const planned = ++version;
    const own = moving();
    if (own.list.length === 0) return;
    const end = Math.min(...own.list.map((flow) => flow.end));
    after(Math.max(0, end - own.progress) * own.list.length, () => {
      if (version !== planned) return;
      last = now();
      // Exactly, so that equal transfers that began together arrive together.
      own.progress = end;
      const through = own.list.filter((flow) => flow.end <= end);
      own.list = own.list.filter((flow) => flow.end > end);
      schedule();
      for (const flow of through) flow.arrived();
    });
  }

  return {
    carry(time, arrived, priority = "foreground") {
      advance();
      const { progress, list } = flows[priority];
      list.push({ end: progress + time, arrived });
      schedule();
    },
  };
}
