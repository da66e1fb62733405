/** The protocol as text: one line for every state, message, event and effect. Golden traces are made of these. */

import type { HubExchange } from "./background.ts";
import { parseHead, stringifyHead } from "./head.ts";
import type { HubState } from "./hub.ts";
import type { Effect, Event, Head, Stamp } from "./types.ts";
import type { WorkerState } from "./worker.ts";

/** One line for the state of a hub or a worker. */
export function show(state: HubState | WorkerState): string {
  return "rank" in state ? showWorker(state) : showHub(state);
}

/** One line for a message head. */
export function showHead(head: Head): string {
  switch (head.k) {
    case "ask":
      return `ask ${stamp(head)} phase ${head.phase}.${head.iteration}${head.commit ? " commit" : ""}`;
    case "answer":
      return `answer ${stamp(head)}${head.notes.length > 0 ? ` notes ${head.notes.join(",")}` : ""}`;
    case "ready":
      return `ready ${stamp(head)}${head.missing ? " missing" : ""}`;
    case "error":
      return `error ${stamp(head)} ${head.reason}`;
    case "post":
    case "give":
      return `${head.k} ${stamp(head)} ${head.slot} v${head.version}`;
    default:
      return `${head.k} ${stamp(head)}`;
  }
}

/** One line for an event. Payload names are counted, not shown: they differ between runtimes. */
export function showEvent(event: Event): string {
  switch (event.k) {
    case "start":
      return `start with rounds ${event.rounds.join(",") || "none"}`;
    case "recv": {
      const head = parseHead(event.head);
      const text = head === null ? `nonsense ${stringifyHead(event.head)?.slice(0, 60)}` : showHead(head);
      return `from ${event.from}: ${text}${payloads(event.body.length)}`;
    }
    case "down":
      return `down ${event.peer}`;
    case "computed":
      return `computed ${event.job}${payloads(event.out.length)}${event.notes.length > 0 ? ` notes ${event.notes.join(",")}` : ""}`;
    case "failed":
      return `failed ${event.job}: ${event.reason}`;
    case "saved":
      return `saved ${event.round}`;
    case "loaded":
      return `loaded ${event.round}${event.blobs === null ? " nothing" : ` ${names(event.blobs)}`}`;
    default:
      return event.k;
  }
}

/** One line for an effect. */
export function showEffect(effect: Effect): string {
  switch (effect.k) {
    case "send":
      return `to ${effect.to}: ${showHead(effect.head)}${payloads(effect.body.length)}`;
    case "compute":
      return `compute ${effect.job} ${effect.fn}${payloads(effect.ins.length)}`;
    case "save":
      return `save ${effect.round} ${names(effect.blobs)}`;
    case "load":
      return `load ${effect.round}`;
    case "drop":
      return "drop";
    case "progress":
      return `progress r${effect.round} ${effect.phase}.${effect.iteration}`;
    case "completed":
      return `completed r${effect.round} a${effect.attempt}`;
    case "restart":
      return `restart ${effect.rank}`;
    case "fail":
      return `fail ${effect.rank ?? "hub"}: ${effect.reason}`;
    case "done":
      return `done ${effect.reason} r${effect.round}`;
    default:
      effect satisfies never;
      return "";
  }
}

function showHub(s: HubState): string {
  const owing = s.replies.flatMap((reply, rank) => (reply === null ? [rank] : []));
  const isWaiting = s.mode === "beginning" || s.mode === "asking" || s.mode === "stopping";
  const where = s.mode === "asking" || s.mode === "computing" ? ` phase ${s.at.phase}.${s.at.iteration}` : "";
  const waits = isWaiting ? ` waits for ${owing.join(",") || "nobody"}` : "";
  const restarts = s.restarts.some((count) => count > 0) ? ` restarts ${s.restarts.join(",")}` : "";
  return `hub ${s.mode} ${stamp(s)}${where}${waits}${restarts} | ${names(s.registers)}${exchanges(s, gathered)}`;
}

/** How far an exchange is at the hub: who is missing, or that it has its result. */
function gathered({ parts, result }: HubExchange): string {
  if (result !== null) return "done";
  const missing = parts.flatMap((part, rank) => (part === null ? [rank] : []));
  return missing.length === 0 ? "computing" : `lacks ${missing.join(",")}`;
}

function showWorker(s: WorkerState): string {
  const where = s.current === null ? "" : ` phase ${s.current.phase}.${s.current.iteration}`;
  const next = s.next === null ? "" : ` then ${stamp(s.next)}`;
  const exchanged = exchanges(s, ({ result }) => (result === null ? "open" : "done"));
  return `worker ${s.rank} ${s.mode} ${stamp(s)}${where}${next} | ${names(s.registers)}${exchanged}`;
}

function exchanges<T extends { readonly version: number }>(
  s: { readonly exchanges: Readonly<Record<string, T>> },
  progress: (exchange: T) => string,
): string {
  return Object.entries(s.exchanges)
    .map(([slot, exchange]) => ` | ${slot} v${exchange.version} ${progress(exchange)}`)
    .join("");
}

function stamp(s: Stamp): string {
  return `r${s.round} a${s.attempt} s${s.seq}`;
}

function names(registers: Readonly<Record<string, string>>): string {
  return Object.keys(registers).sort().join(" ") || "empty";
}

function payloads(count: number): string {
  return count === 0 ? "" : ` +${count}`;
}
