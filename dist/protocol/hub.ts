/**
 * The hub: asks every worker for one phase at a time, reduces the answers in rank order, saves at the end of a round.
 *
 * Life of a hub (`mode`):
 *
 *     new -> loading -> claiming -> beginning -> asking <-> computing -> saving -> (next round: asking)
 *               ^                                   |                       |
 *               +----------- a worker lost its round+                       +-> stopping -> done
 *
 * Loading reads the newest save; claiming makes the next attempt number durable before any message carries it; so a
 * first start, a restart of the hub and a new attempt after the loss of a worker are one path.
 */

import {
  exchangeBlobs,
  type HubExchanges,
  isComplete,
  partsInOrder,
  resultsOf,
  withPart,
  withResult,
} from "./background.ts";
import { clipReason, isCount, isRecord, isSameStamp, parseHead, stampOf } from "./head.ts";
import { keep, type Registers, read, withDrops, without, write } from "./registers.ts";
import {
  checkScript,
  expand,
  isHubOnly,
  isLast,
  nextPosition,
  type Phase,
  type Position,
  receiveNames,
  replyNames,
  type Slot,
  sendNames,
  slots,
  type Turn,
  takeNames,
} from "./script.ts";
import type { BlobId, Config, Effect, Event, Head, Outcome, Peer, Stamp, Step } from "./types.ts";

/** What one worker has answered to the current question. */
export interface Reply {
  readonly notes: readonly number[];
  readonly body: readonly BlobId[];
}

/** Everything the hub knows: plain data. Arrays are indexed by rank. */
export interface HubState extends Stamp {
  readonly mode:
    | "new"
    | "loading"
    | "claiming"
    | "beginning"
    | "asking"
    | "computing"
    | "saving"
    | "stopping"
    | "done";
  readonly at: Position;
  readonly registers: Registers;
  readonly replies: readonly (Reply | null)[];
  /** Ticks since the last valid message, while an answer is owed. */
  readonly silent: readonly number[];
  /** Restarts in this round. */
  readonly restarts: readonly number[];
  /** Number of the computation of the present phase, and of the latest one: there may be others beside it. */
  readonly job: number;
  readonly jobs: number;
  readonly exchanges: HubExchanges;
  readonly isStopRequested: boolean;
  readonly outcome: Outcome | null;
}

type Transition = { readonly state: HubState; readonly effects: readonly Effect[] };

/** A hub that has not started. */
export function hubInit(config: Config): HubState {
  return {
    mode: "new",
    round: 0,
    attempt: 0,
    seq: 0,
    at: { phase: 0, iteration: 0 },
    registers: {},
    replies: perRank(config, null),
    silent: perRank(config, 0),
    restarts: perRank(config, 0),
    job: 0,
    jobs: 0,
    exchanges: {},
    isStopRequested: false,
    outcome: null,
  };
}

/** The payload names that a hub state holds, with repetitions. */
export function hubBlobs(s: HubState): readonly BlobId[] {
  const replies = s.replies.flatMap((reply) => reply?.body ?? []);
  return [...Object.values(s.registers), ...replies, ...exchangeBlobs(s.exchanges)];
}

/**
 * The step function of the hub for one run.
 *
 * Never throws on an event; what a peer sends wrongly is ignored, what makes the run impossible is a `fail` effect.
 *
 * @example The first step reads the save
 * ```typescript
 * const step = hubStep(config);
 * const { state, effects } = step(hubInit(config), { k: "start", rounds: [0] });
 * // effects: [{ k: "load", round: 0 }]
 * ```
 */
export function hubStep(config: Config): Step<HubState> {
  const durable = expand(config.durable.hub, config.workers);
  const background = config.background ?? {};
  let cachedRound = -1;
  let cached: readonly Slot[] = [];
  const script = (round: number): readonly Slot[] => {
    if (round !== cachedRound) {
      cached = slots(config.script(round));
      cachedRound = round;
    }
    return cached;
  };

  return withDrops(hubBlobs, (s, e) => {
    if (s.mode === "done") return { state: s, effects: [] };
    switch (e.k) {
      case "start":
        return s.mode === "new" ? start(s, e.rounds) : { state: s, effects: [] };
      case "stop":
        return { state: { ...s, isStopRequested: true }, effects: [] };
      case "tick":
        return tick(s);
      case "recv":
        return receive(s, e);
      case "down":
        return down(s, e.peer);
      case "loaded":
        return s.mode === "loading" && e.round === s.round ? claim(s, e) : { state: s, effects: [] };
      case "saved":
        if (s.mode === "claiming" && e.round === s.round) return begin(s);
        if (s.mode === "saving" && e.round === s.round + 1) return nextRound(s);
        return { state: s, effects: [] };
      case "computed":
        return s.mode === "computing" && e.job === s.job
          ? reduce(s, e.out, e.notes)
          : exchanged(s, e.job, e.out);
      case "failed":
        return (s.mode === "computing" && e.job === s.job) || slotOf(s, e.job) !== undefined
          ? fail(s, null, e.reason)
          : { state: s, effects: [] };
      default:
        e satisfies never;
        return { state: s, effects: [] };
    }
  });

  // ---- one attempt at one round -------------------------------------------------------------------------------

  function start(s: HubState, rounds: readonly number[]): Transition {
    if (rounds.length === 0) {
      return fail(
        s,
        null,
        "Cannot start the hub: its store is empty, a save of round 0 with the initial registers is needed",
      );
    }
    return load({ ...s, round: Math.max(...rounds) });
  }

  /** Forgets what this attempt has done and goes back to the save at the start of the round. */
  function load(s: HubState): Transition {
    return {
      state: {
        ...s,
        mode: "loading",
        seq: 0,
        at: { phase: 0, iteration: 0 },
        registers: {},
        replies: perRank(config, null),
        silent: perRank(config, 0),
        exchanges: resultsOf(s.exchanges),
      },
      effects: [{ k: "load", round: s.round }],
    };
  }

  function claim(s: HubState, e: Extract<Event, { k: "loaded" }>): Transition {
    const blobs = e.blobs;
    const lacking = blobs === null ? "any register" : durable.find((name) => blobs[name] === undefined);
    if (blobs === null || lacking !== undefined) {
      return fail(
        s,
        null,
        `Cannot begin round ${s.round}: the save of the hub lacks ${lacking}, every durable register is needed`,
      );
    }
    const saved = isRecord(e.state) && isCount(e.state["attempt"]) ? e.state["attempt"] : 0;
    const attempt = Math.max(s.attempt, saved) + 1;
    const registers = keep(blobs, durable);
    return {
      state: { ...s, mode: "claiming", attempt, registers },
      effects: [{ k: "save", round: s.round, blobs: registers, state: { round: s.round, attempt } }],
    };
  }

  function begin(s: HubState): Transition {
    if (s.round >= config.rounds) return stop(s, "finished");
    if (s.isStopRequested) return stop(s, "stopped");
    return askAll({ ...s, mode: "beginning", seq: 0 });
  }

  function nextRound(s: HubState): Transition {
    const done: Effect = { k: "completed", round: s.round, attempt: s.attempt };
    const fresh: HubState = {
      ...s,
      round: s.round + 1,
      seq: 0,
      at: { phase: 0, iteration: 0 },
      registers: keep(s.registers, durable),
      restarts: perRank(config, 0),
    };
    const next =
      fresh.round >= config.rounds
        ? stop(fresh, "finished")
        : s.isStopRequested
          ? stop(fresh, "stopped")
          : ask(fresh, fresh.at);
    return { state: next.state, effects: [done, ...next.effects] };
  }

  // ---- one phase ------------------------------------------------------------------------------------------------

  function ask(s: HubState, at: Position): Transition {
    if (s.seq === 0) {
      const problem = checkScript(config.script(s.round), config.workers, config.durable, config.background);
      if (problem !== null) return fail(s, null, problem);
    }
    const flat = script(s.round);
    const { phase } = flat[at.phase]!;
    if (isHubOnly(phase) && !isLast(flat, at)) {
      return work({ ...s, at, replies: perRank(config, { notes: [], body: [] }) }, phase);
    }
    return askAll({ ...s, mode: "asking", at, seq: s.seq + 1 });
  }

  function askAll(s: HubState): Transition {
    const state: HubState = { ...s, replies: perRank(config, null), silent: perRank(config, 0) };
    return { state, effects: ranks(config).map((rank) => question(state, rank)) };
  }

  /** The message that `rank` has not answered yet. */
  function question(s: HubState, rank: number): Effect {
    const stamp = stampOf(s);
    if (s.mode === "beginning") return { k: "send", to: rank, head: { k: "begin", ...stamp }, body: [] };
    if (s.mode === "stopping") return { k: "send", to: rank, head: { k: "stop", ...stamp }, body: [] };
    const flat = script(s.round);
    const head: Head = { k: "ask", ...stamp, ...s.at, commit: isLast(flat, s.at) };
    return { k: "send", to: rank, head, body: read(s.registers, sendNames(flat[s.at.phase]!.phase, rank)) };
  }

  /** All have answered: the replies become registers, in rank order, and the hub does its own work. */
  function gather(s: HubState): Transition {
    if (s.mode === "beginning") return ask(s, s.at);
    const phase = script(s.round)[s.at.phase]!.phase;
    let registers = s.registers;
    s.replies.forEach((reply, rank) => {
      const names = (phase.reply ?? []).map((name) => `${name}@${rank}`);
      registers = write(registers, names, reply!.body);
    });
    const replies = s.replies.map((reply) => ({ notes: reply!.notes, body: [] }));
    return work({ ...s, registers, replies }, phase);
  }

  function work(s: HubState, phase: Phase): Transition {
    const job = s.jobs + 1;
    const state: HubState = { ...s, mode: "computing", job, jobs: job };
    if (phase.hub === undefined) return reduce(state, [], []);
    return {
      state,
      effects: [
        {
          k: "compute",
          job: state.job,
          fn: phase.hub.fn,
          args: {
            round: s.round,
            phase: phase.name,
            iteration: s.at.iteration,
            rank: null,
            workers: config.workers,
            notes: state.replies.map((reply) => reply!.notes),
            numbers: phase.hub.numbers ?? [],
          },
          ins: read(state.registers, expand(phase.hub.ins, config.workers)),
        },
      ],
    };
  }

  /** The hub's work is done: its outputs replace the replies, and the script moves on. */
  function reduce(s: HubState, out: readonly BlobId[], notes: readonly number[]): Transition {
    const flat = script(s.round);
    const phase = flat[s.at.phase]!.phase;
    const outs = expand(phase.hub?.outs, config.workers);
    if (out.length !== outs.length) {
      return fail(
        s,
        null,
        `Cannot reduce phase "${phase.name}": the hub's function gave ${out.length} values, ${outs.length} are needed`,
      );
    }
    const registers = write(without(s.registers, replyNames(phase, config.workers)), outs, out);
    const at = nextPosition(flat, s.at, notes);
    const progress: Effect = {
      k: "progress",
      round: s.round,
      attempt: s.attempt,
      phase: phase.name,
      iteration: s.at.iteration,
      isLast: at === null,
      hub: notes,
      workers: s.replies.map((reply) => reply!.notes),
    };
    const next = at === null ? save({ ...s, registers }) : ask({ ...s, registers }, at);
    return { state: next.state, effects: [progress, ...next.effects] };
  }

  function save(s: HubState): Transition {
    const round = s.round + 1;
    return {
      state: { ...s, mode: "saving" },
      effects: [
        { k: "save", round, blobs: keep(s.registers, durable), state: { round, attempt: s.attempt } },
      ],
    };
  }

  // ---- exchanges in the background ------------------------------------------------------------------------------

  function posted(
    s: HubState,
    rank: number,
    head: Extract<Head, { k: "post" }>,
    body: readonly BlobId[],
  ): Transition {
    const ignored: Transition = { state: s, effects: [] };
    const { slot, version } = head;
    const isOpen = s.mode === "asking" || s.mode === "computing" || s.mode === "saving";
    const exchange = Object.hasOwn(background, slot) ? background[slot]! : null;
    // Parts of an earlier attempt have the same bits, but what they say about their sender is not true any more.
    if (!isOpen || head.attempt !== s.attempt || exchange === null || body.length !== exchange.send.length)
      return ignored;
    const { slot: next, give } = withPart(
      s.exchanges[slot],
      { version, rank, body },
      { ...s, workers: config.workers },
    );
    const state: HubState = { ...heard(s, rank), exchanges: { ...s.exchanges, [slot]: next } };
    if (give !== null)
      return { state, effects: [giveTo(s, rank, { slot, version: give.version }, give.result)] };
    if (!isComplete(next)) return { state, effects: [] };
    const job = s.jobs + 1;
    return {
      state: { ...state, jobs: job, exchanges: { ...s.exchanges, [slot]: { ...next, job } } },
      effects: [
        {
          k: "compute",
          job,
          fn: exchange.fn,
          args: {
            round: 0,
            phase: slot,
            iteration: 0,
            rank: null,
            workers: config.workers,
            notes: perRank(config, []),
            numbers: [version],
          },
          ins: partsInOrder(next, exchange),
        },
      ],
    };
  }

  /** The result of an exchange: it is kept, and all get it. */
  function exchanged(s: HubState, job: number, out: readonly BlobId[]): Transition {
    const slot = slotOf(s, job);
    if (slot === undefined) return { state: s, effects: [] };
    const { length } = background[slot]!.receive;
    if (out.length !== length) {
      return fail(
        s,
        null,
        `Cannot exchange "${slot}": the hub's function gave ${out.length} values, ${length} are needed`,
      );
    }
    const done = withResult(s.exchanges[slot]!, out);
    const turn: Turn = { slot, version: done.version };
    return {
      state: { ...s, exchanges: { ...s.exchanges, [slot]: done } },
      effects: ranks(config).map((rank) => giveTo(s, rank, turn, out)),
    };
  }

  function giveTo(s: HubState, to: number, turn: Turn, body: readonly BlobId[]): Effect {
    return { k: "send", to, head: { k: "give", ...stampOf(s), ...turn }, body };
  }

  /** The slot that computation number `job` is for. */
  function slotOf(s: HubState, job: number): string | undefined {
    return Object.keys(s.exchanges).find((slot) => job !== 0 && s.exchanges[slot]!.job === job);
  }

  // ---- messages, silence, ends ----------------------------------------------------------------------------------

  function receive(s: HubState, e: Extract<Event, { k: "recv" }>): Transition {
    const ignored: Transition = { state: s, effects: [] };
    const head = parseHead(e.head);
    const rank = e.from;
    if (head === null || rank === "hub" || !isCount(rank) || rank >= config.workers) return ignored;
    // A worker that says hello gets the current question again; if it cannot serve it any more, it says so.
    if (head.k === "hello") {
      return isWaiting(s) ? { state: heard(s, rank), effects: [question(s, rank)] } : ignored;
    }
    if (head.k === "post") return posted(s, rank, head, e.body);
    if (!isSameStamp(head, s) || !owes(s, rank)) return ignored;
    switch (head.k) {
      case "ready":
        if (s.mode !== "beginning") return ignored;
        if (head.missing) {
          return fail(
            s,
            rank,
            `Cannot begin round ${s.round}: worker ${rank} has no complete save of that round, its store must be restored or the run restarted`,
          );
        }
        return answered(s, rank, { notes: [], body: [] });
      case "answer": {
        if (s.mode !== "asking") return ignored;
        const expected = script(s.round)[s.at.phase]!.phase.reply?.length ?? 0;
        return e.body.length === expected ? answered(s, rank, { notes: head.notes, body: e.body }) : ignored;
      }
      case "busy":
        return s.mode === "asking" ? { state: heard(s, rank), effects: [] } : ignored;
      case "lost":
        return s.mode === "asking" ? load(s) : ignored;
      case "error":
        return s.mode === "asking" ? fail(s, rank, head.reason) : ignored;
      case "bye":
        return s.mode === "stopping" ? answered(s, rank, { notes: [], body: [] }) : ignored;
      case "begin":
      case "ask":
      case "stop":
      case "give":
        return ignored;
      default:
        head satisfies never;
        return ignored;
    }
  }

  function answered(s: HubState, rank: number, reply: Reply): Transition {
    const state: HubState = { ...heard(s, rank), replies: s.replies.with(rank, reply) };
    if (state.replies.includes(null)) return { state, effects: [] };
    return state.mode === "stopping" ? done(state) : gather(state);
  }

  function tick(s: HubState): Transition {
    let state = s;
    const effects: Effect[] = [];
    for (const rank of ranks(config)) {
      if (!owes(s, rank)) continue;
      const silent = state.silent[rank]! + 1;
      state = { ...state, silent: state.silent.with(rank, silent) };
      if (silent >= config.deadTicks) {
        const next = restart(state, rank, `has been silent for ${silent} ticks`);
        state = next.state;
        effects.push(...next.effects);
        if (state.outcome !== s.outcome || state.mode === "done") break;
      } else if (silent % config.retryTicks === 0) {
        effects.push(question(state, rank));
      }
    }
    return { state, effects };
  }

  function down(s: HubState, peer: Peer): Transition {
    if (peer === "hub" || !isCount(peer) || peer >= config.workers) return { state: s, effects: [] };
    if (s.mode === "stopping" && !owes(s, peer)) return { state: s, effects: [] };
    return restart(s, peer, "is gone");
  }

  /** A dead rank is started again, a limited number of times; at the end of a run it is taken for gone. */
  function restart(s: HubState, rank: number, what: string): Transition {
    if (s.mode === "stopping") return answered(s, rank, { notes: [], body: [] });
    const count = s.restarts[rank]! + 1;
    if (count > config.maxRestarts) {
      return fail(
        s,
        rank,
        `Cannot complete round ${s.round}: worker ${rank} ${what} after ${config.maxRestarts} restarts, a live worker is needed`,
      );
    }
    const state: HubState = { ...s, restarts: s.restarts.with(rank, count), silent: s.silent.with(rank, 0) };
    return { state, effects: [{ k: "restart", rank }] };
  }

  function stop(s: HubState, outcome: Outcome): Transition {
    return askAll({ ...s, mode: "stopping", outcome, exchanges: {} });
  }

  function fail(s: HubState, rank: number | null, reason: string): Transition {
    if (s.outcome === "failed") return { state: s, effects: [] };
    const next = stop({ ...s, registers: {} }, "failed");
    return { state: next.state, effects: [{ k: "fail", rank, reason: clipReason(reason) }, ...next.effects] };
  }

  function done(s: HubState): Transition {
    return { state: { ...s, mode: "done" }, effects: [{ k: "done", reason: s.outcome!, round: s.round }] };
  }

  /** Whether an answer of this rank is awaited. */
  function owes(s: HubState, rank: number): boolean {
    return isWaiting(s) && s.replies[rank] === null;
  }

  function heard(s: HubState, rank: number): HubState {
    return { ...s, silent: s.silent.with(rank, 0) };
  }
}

/**
 * The most payloads a hub holds at once, counting those of the event that it is looking at: its registers by name,
 * one reply of every rank, one result, and for every slot one part of every rank and one result.
 */
export function hubBlobBound(config: Config, round: number): number {
  const names = new Set(expand(config.durable.hub, config.workers));
  let widest = 0;
  for (const { phase } of slots(config.script(round))) {
    const replies = replyNames(phase, config.workers);
    const outs = expand(phase.hub?.outs, config.workers);
    for (const name of [...replies, ...outs]) names.add(name);
    widest = Math.max(widest, replies.length, outs.length);
  }
  let exchanged = 0;
  for (const { send, receive } of Object.values(config.background ?? {})) {
    exchanged += config.workers * send.length + receive.length;
    widest = Math.max(widest, send.length, receive.length);
  }
  return names.size + exchanged + 2 * widest;
}

/**
 * The most payloads a worker holds at once: its registers by name, its last answer, one question and one result, and the
 * result of every slot.
 */
export function workerBlobBound(config: Config, round: number): number {
  const names = new Set(config.durable.worker);
  let widest = config.durable.worker.length;
  for (const { phase } of slots(config.script(round))) {
    const written = [...receiveNames(phase), ...(phase.worker?.outs ?? [])];
    for (const name of [...written, ...takeNames(phase, config.background)]) names.add(name);
    widest = Math.max(widest, written.length, phase.reply?.length ?? 0);
  }
  let exchanged = 0;
  for (const { receive } of Object.values(config.background ?? {})) {
    exchanged += receive.length;
    widest = Math.max(widest, receive.length);
  }
  return names.size + exchanged + 3 * widest;
}

/** Whether the hub has a question out. */
function isWaiting(s: HubState): boolean {
  return s.mode === "beginning" || s.mode === "asking" || s.mode === "stopping";
}

function ranks(config: Config): readonly number[] {
  return Array.from({ length: config.workers }, (_, rank) => rank);
}

function perRank<T>(config: Config, value: T): readonly T[] {
  return Array.from({ length: config.workers }, () => value);
}
