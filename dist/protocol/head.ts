/** Message heads from and to JSON. A bad peer is data, not a throw: what cannot be understood is null. */

import type { Head, Stamp } from "./types.ts";

/** More notes than this in one head are not believed. */
const MAX_NOTES = 4096;
/** Longer reasons are not believed. */
const MAX_REASON = 4000;
/** Nor longer names of slots. */
export const MAX_SLOT = 256;

/** The head, if `value` is one; otherwise null. Counters must be non-negative safe integers. */
export function parseHead(value: unknown): Head | null {
  if (!isRecord(value)) return null;
  const stamp = parseStamp(value);
  if (stamp === null) return null;
  const k = value["k"];
  switch (k) {
    case "hello":
    case "begin":
    case "busy":
    case "lost":
    case "stop":
    case "bye":
      return { k, ...stamp };
    case "ready": {
      const missing = value["missing"];
      return typeof missing === "boolean" ? { k, ...stamp, missing } : null;
    }
    case "ask": {
      const { phase, iteration, commit } = value;
      if (!isCount(phase) || !isCount(iteration) || typeof commit !== "boolean") return null;
      return { k, ...stamp, phase, iteration, commit };
    }
    case "answer": {
      const notes = parseNotes(value["notes"]);
      return notes === null ? null : { k, ...stamp, notes };
    }
    case "post":
    case "give": {
      const { slot, version } = value;
      if (typeof slot !== "string" || slot.length > MAX_SLOT || !isCount(version)) return null;
      return { k, ...stamp, slot, version };
    }
    case "error": {
      const reason = value["reason"];
      return typeof reason === "string" && reason.length <= MAX_REASON ? { k, ...stamp, reason } : null;
    }
    default:
      return null;
  }
}

/** The head as JSON text. Notes that JSON cannot write (NaN, infinities, -0) are written as strings. */
export function stringifyHead(head: unknown): string {
  return JSON.stringify(head, (_, value: unknown) => {
    if (typeof value !== "number") return value;
    if (Object.is(value, -0)) return "-0";
    return Number.isFinite(value) ? value : String(value);
  });
}

/** Whether two messages belong to the same question. */
export function isSameStamp(a: Stamp, b: Stamp): boolean {
  return a.round === b.round && a.attempt === b.attempt && a.seq === b.seq;
}

/** Negative if `a` was asked before `b`: by attempt, then round, then question. */
export function compareStamps(a: Stamp, b: Stamp): number {
  return a.attempt - b.attempt || a.round - b.round || a.seq - b.seq;
}

/** The stamp alone, without the other fields of a head. */
export function stampOf({ round, attempt, seq }: Stamp): Stamp {
  return { round, attempt, seq };
}

/** A reason short enough to travel in a head. */
export function clipReason(reason: string): string {
  return reason.slice(0, MAX_REASON);
}

/** Whether `value` is a plain object that may be looked into. */
export function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** Whether `value` can be a counter: a non-negative safe integer. */
export function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

function parseStamp(value: Readonly<Record<string, unknown>>): Stamp | null {
  const { round, attempt, seq } = value;
  return isCount(round) && isCount(attempt) && isCount(seq) ? { round, attempt, seq } : null;
}

function parseNotes(value: unknown): readonly number[] | null {
  if (!Array.isArray(value) || value.length > MAX_NOTES) return null;
  const notes: number[] = [];
  for (const note of value as readonly unknown[]) {
    if (typeof note === "number") notes.push(note);
    else if (note === "NaN" || note === "Infinity" || note === "-Infinity" || note === "-0")
      notes.push(Number(note));
    else return null;
  }
  return notes;
}
