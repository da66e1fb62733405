/**
 * What happens in one round, as data. The protocol walks a script without knowing what its functions compute.
 *
 * Peers keep payloads in named registers. `"x@*"` in a list of hub registers stands for `"x@0", "x@1", ...` in rank
 * order, so a reduction always sees its inputs in rank order, whatever the order of arrival.
 */

import { MAX_SLOT } from "./head.ts";
import type { Exchange } from "./types.ts";

/**
 * A computation: a function name, the registers it reads and the registers it writes. `numbers` are told to the function as
 * they are: what the script knows and the function needs, such as the number of a step.
 */
export interface Work {
  readonly fn: string;
  readonly ins?: readonly string[];
  readonly outs?: readonly string[];
  readonly numbers?: readonly number[];
}

/**
 * One use of a slot for exchanges in the background; its version is greater at every use.
 *
 * @since 0.2.0
 */
export interface Turn {
  readonly slot: string;
  readonly version: number;
}

/**
 * One question to all workers and what the hub makes of the answers. Steps in order, each optional:
 *
 * 1. `send`: hub registers; every worker stores them under the same names. `"x@*"` scatters: rank p gets the hub's
 *    `x@p` and stores it as `x`.
 * 2. `ends`: every worker waits for the result of an exchange in the background and puts it into the registers of its slot.
 * 3. `worker`: every worker computes on its registers.
 * 4. `begins`: every worker posts the registers of a slot; nobody waits for them.
 * 5. `reply`: worker registers; the hub holds them as `x@p` until its work in this phase is done.
 * 6. `hub`: the hub computes. `"x@*"` may appear among its inputs (gather) and outputs (to scatter later).
 *
 * Every phase costs one message to each worker and one back, unless only `hub` is given. Work of the same worker in
 * two phases that follow each other can share one: receive, apply, compute and reply is a single phase.
 * A function that is done with a large register releases it by writing an empty value to it. An exchange may be open across
 * rounds; until it ends, the registers that it sends stay as they are, because they may have to be sent again.
 */
export interface Phase {
  readonly name: string;
  readonly send?: readonly string[];
  readonly worker?: Work;
  readonly reply?: readonly string[];
  readonly hub?: Work;
  readonly begins?: Turn;
  readonly ends?: Turn;
}

/**
 * Phases to repeat `repeat` times. With `until`, the loop ends early when note number `until` of the hub's work in
 * the last phase of the body is not zero: only the hub decides, workers do the phase they are asked for.
 */
export interface Loop {
  readonly repeat: number;
  readonly until?: number;
  readonly body: readonly Phase[];
}

/**
 * A round: phases and loops, in order. It ends with a phase whose last run is known in advance.
 *
 * @since 0.1.0
 */
export type Script = readonly (Phase | Loop)[];

/** Which phase, counted over the whole script with loops written once, and which turn of its loop. */
export interface Position {
  readonly phase: number;
  readonly iteration: number;
}

/** A phase with the loop around it; a phase outside loops is a loop of one phase and one turn. */
export interface Slot {
  readonly phase: Phase;
  readonly from: number;
  readonly to: number;
  readonly repeat: number;
  readonly until: number | null;
}

/** The phases of a script in order, each with its loop. */
export function slots(script: Script): readonly Slot[] {
  const flat: Slot[] = [];
  for (const item of script) {
    const loop: Loop = "body" in item ? item : { repeat: 1, body: [item] };
    const from = flat.length;
    const to = from + loop.body.length - 1;
    for (const phase of loop.body) {
      flat.push({ phase, from, to, repeat: loop.repeat, until: loop.until ?? null });
    }
  }
  return flat;
}

/** The position after `at`, given the notes of the hub's work there; null at the end of the round. */
export function nextPosition(flat: readonly Slot[], at: Position, notes: readonly number[]): Position | null {
  const slot = flat[at.phase]!;
  if (at.phase < slot.to) return { phase: at.phase + 1, iteration: at.iteration };
  const isBroken = slot.until !== null && (notes[slot.until] ?? 0) !== 0;
  if (!isBroken && at.iteration + 1 < slot.repeat) return { phase: slot.from, iteration: at.iteration + 1 };
  return slot.to + 1 < flat.length ? { phase: slot.to + 1, iteration: 0 } : null;
}

/** Whether the round ends with this position; `checkScript` makes sure that no note can change the answer. */
export function isLast(flat: readonly Slot[], at: Position): boolean {
  return at.phase === flat.length - 1 && at.iteration === flat[at.phase]!.repeat - 1;
}

/** Whether a phase concerns only the hub: then no message is needed, unless the round ends with it. */
export function isHubOnly(phase: Phase): boolean {
  const isSilent = (phase.send ?? []).length === 0 && (phase.reply ?? []).length === 0;
  const isAlone = phase.begins === undefined && phase.ends === undefined;
  return phase.hub !== undefined && phase.worker === undefined && isSilent && isAlone;
}

/** Register names with `"x@*"` written out in rank order. */
export function expand(names: readonly string[] | undefined, workers: number): readonly string[] {
  return (names ?? []).flatMap((name) =>
    name.endsWith("@*")
      ? Array.from({ length: workers }, (_, rank) => atRank(name.slice(0, -2), rank))
      : [name],
  );
}

/** The hub register that belongs to one rank: `x@3`. */
export function atRank(name: string, rank: number): string {
  return `${name}@${rank}`;
}

/** The hub registers to send to `rank`. */
export function sendNames(phase: Phase, rank: number): readonly string[] {
  return (phase.send ?? []).map((name) => (name.endsWith("@*") ? atRank(name.slice(0, -2), rank) : name));
}

/** The worker registers in which what was sent is stored. */
export function receiveNames(phase: Phase): readonly string[] {
  return (phase.send ?? []).map((name) => (name.endsWith("@*") ? name.slice(0, -2) : name));
}

/**
 * What is wrong with a script, or null: every register must be written before it is read, what an exchange sends must
 * not be written while it is open, and the end of the round must be known before its last phase runs.
 */
export function checkScript(
  script: Script,
  workers: number,
  durable: { readonly hub: readonly string[]; readonly worker: readonly string[] },
  background: Readonly<Record<string, Exchange>> = {},
): string | null {
  const flat = slots(script);
  for (const item of script) {
    const problem = "body" in item ? checkLoop(item) : null;
    if (problem !== null) return problem;
  }
  if (flat.length === 0) return "Cannot run a round: its script is empty, at least one phase is needed";
  if (flat[flat.length - 1]!.until !== null) {
    return `Cannot run a round: its script ends with a loop that notes may end early, put a phase after "${flat[flat.length - 1]!.phase.name}"`;
  }
  const unsent = checkBackground(flat, durable.worker, background);
  if (unsent !== null) return unsent;
  const hub = new Set(expand(durable.hub, workers));
  const worker = new Set(durable.worker);
  for (const { phase } of flat) {
    for (let rank = 0; rank < workers; rank++) {
      const unknown = sendNames(phase, rank).find((name) => !hub.has(name));
      if (unknown !== undefined) return unwritten("send", unknown, phase);
    }
    for (const name of [...receiveNames(phase), ...takeNames(phase, background)]) worker.add(name);
    for (const name of phase.worker?.ins ?? [])
      if (!worker.has(name)) return unwritten("read worker", name, phase);
    for (const name of phase.worker?.outs ?? []) worker.add(name);
    const marked = [...(phase.worker?.outs ?? []), ...(phase.reply ?? [])].find((name) => name.includes("@"));
    if (marked !== undefined) {
      return `Cannot use worker register "${marked}" in phase "${phase.name}": it contains "@", only hub registers have ranks`;
    }
    for (const name of phase.reply ?? []) if (!worker.has(name)) return unwritten("reply", name, phase);
    const replies = replyNames(phase, workers);
    for (const name of replies) hub.add(name);
    for (const name of expand(phase.hub?.ins, workers))
      if (!hub.has(name)) return unwritten("read hub", name, phase);
    for (const name of replies) hub.delete(name);
    for (const name of expand(phase.hub?.outs, workers)) hub.add(name);
  }
  const lost = expand(durable.hub, workers).find((name) => !hub.has(name));
  return lost === undefined
    ? null
    : `Cannot save hub register "${lost}": a reply of the same name replaces it, name the reply differently`;
}

/** The worker registers in which the result of the exchange that ends with a phase is put. */
export function takeNames(
  { ends }: Phase,
  background: Readonly<Record<string, Exchange>> = {},
): readonly string[] {
  return ends === undefined ? [] : (background[ends.slot]?.receive ?? []);
}

/** The hub registers that hold the replies of a phase: by name, then by rank. */
export function replyNames(phase: Phase, workers: number): readonly string[] {
  return (phase.reply ?? []).flatMap((name) => expand([`${name}@*`], workers));
}

function checkLoop(loop: Loop): string | null {
  const last = loop.body[loop.body.length - 1];
  if (last === undefined) return "Cannot run a loop: its body is empty, at least one phase is needed";
  if (!Number.isSafeInteger(loop.repeat) || loop.repeat < 1) {
    return `Cannot run the loop of "${last.name}": repeat is ${loop.repeat}, a positive integer is needed`;
  }
  if (loop.until !== undefined && last.hub === undefined) {
    return `Cannot run the loop of "${last.name}": it ends on a note, its last phase needs hub work to report one`;
  }
  return null;
}

function checkBackground(
  flat: readonly Slot[],
  durable: readonly string[],
  background: Readonly<Record<string, Exchange>>,
): string | null {
  for (const [slot, { send, receive }] of Object.entries(background)) {
    if (slot.length > MAX_SLOT) {
      return `Cannot exchange "${slot.slice(0, 20)}...": its name has ${slot.length} characters, at most ${MAX_SLOT} are accepted`;
    }
    const passing = send.find((name) => !durable.includes(name));
    if (passing !== undefined) {
      return `Cannot exchange "${slot}": it sends worker register "${passing}", a durable one is needed because it may be sent again`;
    }
    const marked = receive.find((name) => name.includes("@"));
    if (marked !== undefined) {
      return `Cannot exchange "${slot}": worker register "${marked}" contains "@", only hub registers have ranks`;
    }
  }
  for (const { phase, repeat } of flat) {
    for (const turn of [phase.begins, phase.ends]) {
      if (turn === undefined) continue;
      const problem = !Object.hasOwn(background, turn.slot)
        ? "there is no such slot, the configuration must define it"
        : !Number.isSafeInteger(turn.version) || turn.version < 0
          ? `its version is ${turn.version}, a non-negative integer is needed`
          : repeat > 1
            ? "it is in a loop, a phase of its own is needed for every version"
            : null;
      if (problem !== null) return `Cannot exchange "${turn.slot}" in phase "${phase.name}": ${problem}`;
    }
  }
  for (const slot of Object.keys(background)) {
    const problem = checkVersions(flat, slot) ?? checkUnchanged(flat, slot, background);
    if (problem !== null) return problem;
  }
  return null;
}

/** In one phase the end comes first. */
function checkVersions(flat: readonly Slot[], slot: string): string | null {
  let begun = -1;
  let ended = -1;
  for (const { phase } of flat) {
    const where = `Cannot exchange "${slot}" in phase "${phase.name}":`;
    if (phase.ends?.slot === slot) {
      const { version } = phase.ends;
      const last = Math.max(ended, begun);
      if (version <= ended || version < begun)
        return `${where} version ${version} ends after version ${last}, versions must grow`;
      ended = version;
    }
    if (phase.begins?.slot === slot) {
      const { version } = phase.begins;
      const last = Math.max(ended, begun);
      if (version <= last)
        return `${where} version ${version} begins after version ${last}, versions must grow`;
      begun = version;
    }
  }
  return null;
}

/** Whether what is sent stays until it is taken, as far as one round can tell. */
function checkUnchanged(
  flat: readonly Slot[],
  slot: string,
  background: Readonly<Record<string, Exchange>>,
): string | null {
  const { send } = background[slot]!;
  const isOf = (turn: Turn | undefined, version: number): boolean =>
    turn?.slot === slot && turn.version === version;
  for (const [to, { phase }] of flat.entries()) {
    if (phase.ends?.slot !== slot) continue;
    const { version } = phase.ends;
    // One that was begun in an earlier round is open from the start.
    const from = flat.findIndex((other) => isOf(other.phase.begins, version));
    for (let at = from + 1; at <= to; at++) {
      const other = flat[at]!.phase;
      const outs = at < to ? [...takeNames(other, background), ...(other.worker?.outs ?? [])] : [];
      const changed = [...receiveNames(other), ...outs].find((name) => send.includes(name));
      if (changed !== undefined) {
        return `Cannot write worker register "${changed}" in phase "${other.name}": exchange "${slot}" has sent it and is open until "${phase.name}"`;
      }
    }
  }
  return null;
}

function unwritten(verb: string, name: string, phase: Phase): string {
  return `Cannot ${verb} register "${name}" in phase "${phase.name}": nothing has written it, an earlier phase or the durable registers must`;
}
