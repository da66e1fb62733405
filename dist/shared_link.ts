/** A link whose transfers share it evenly, as connections through one network interface do. */

/** Carries transfers; the more there are at a time, the slower is each. */
export interface SharedLink {
  /** Begins a transfer that takes `time` when it is alone, and calls `arrived` when it is through. */
  carry(time: number, arrived: () => void): void;
}

/** A link on a clock that somebody else moves. */
export function sharedLink(now: () => number, after: (time: number, action: () => void) => void): SharedLink {
  // Progress is what a transfer that is always there would have had: P transfers move it at a P-th of the time that passes.
  let progress = 0;
  let last = 0;
  let version = 0;
  let flows: { readonly end: number; readonly arrived: () => void }[] = [];

  function advance(): void {
    if (flows.length > 0) progress += (now() - last) / flows.length;
    last = now();
  }

  function schedule(): void {
    const own = ++version;
    if (flows.length === 0) return;
    const end = Math.min(...flows.map((flow) => flow.end));
    after(Math.max(0, end - progress) * flows.length, () => {
      if (version !== own) return;
      last = now();
      // Exactly, so that equal transfers that began together arrive together.
      progress = end;
      const through = flows.filter((flow) => flow.end <= end);
      flows = flows.filter((flow) => flow.end > end);
      schedule();
      for (const flow of through) flow.arrived();
    });
  }

  return {
    carry(time, arrived) {
      advance();
      flows.push({ end: progress + time, arrived });
      schedule();
    },
  };
}
