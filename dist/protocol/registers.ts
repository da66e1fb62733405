/** Registers: named slots that hold payload names, and the one rule by which payloads are released. */

import type { BlobId, Effect, Event, Step } from "./types.ts";

/** Named slots. Keys are register names, values are payload names. */
export type Registers = Readonly<Record<string, BlobId>>;

/** `registers` with `names[i]` set to `blobs[i]`. */
export function write(registers: Registers, names: readonly string[], blobs: readonly BlobId[]): Registers {
  const result: Record<string, BlobId> = { ...registers };
  names.forEach((name, i) => {
    result[name] = blobs[i]!;
  });
  return result;
}

/** The payload names in the registers `names`; the script check has made sure that they exist. */
export function read(registers: Registers, names: readonly string[]): readonly BlobId[] {
  return names.map((name) => registers[name]!);
}

/** Only the registers `names`. */
export function keep(registers: Registers, names: readonly string[]): Registers {
  return write({}, names, read(registers, names));
}

/** All registers but `names`. */
export function without(registers: Registers, names: readonly string[]): Registers {
  const gone = new Set(names);
  return Object.fromEntries(Object.entries(registers).filter(([name]) => !gone.has(name)));
}

/**
 * The step with its releases added: whatever the old state or the event named and the new state does not name is
 * dropped, after the other effects. So nothing can leak and no rule has to think of it.
 */
export function withDrops<S>(blobsOf: (state: S) => readonly BlobId[], step: Step<S>): Step<S> {
  return (before, event) => {
    const { state, effects } = step(before, event);
    const kept = new Set(blobsOf(state));
    const gone = new Set([...blobsOf(before), ...eventBlobs(event)].filter((blob) => !kept.has(blob)));
    if (gone.size === 0) return { state, effects };
    const drops: Effect[] = [...gone].map((blob) => ({ k: "drop", blob }));
    return { state, effects: [...effects, ...drops] };
  };
}

function eventBlobs(event: Event): readonly BlobId[] {
  switch (event.k) {
    case "recv":
      return event.body;
    case "computed":
      return event.out;
    case "loaded":
      return event.blobs === null ? [] : Object.values(event.blobs);
    default:
      return [];
  }
}
