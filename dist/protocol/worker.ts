/**
 * A worker: does the phase it is asked for, once, and repeats its answer when asked again.
 *
 * Life of a worker (`mode`): `new -> idle -> loading -> ready <-> computing`, with `saving` between the last
 * computation of a round and its answer, and `waiting` before a computation that needs the result of an exchange. It has
 * at most one load, computation or save under way; a `begin` that arrives meanwhile waits in `next`.
 */

import { clipReason, compareStamps, isSameStamp, parseHead, stampOf } from "./head.ts";
import { keep, type Registers, read, withDrops, write } from "./registers.ts";
import { type Phase, receiveNames, type Slot, slots, type Turn, takeNames } from "./script.ts";
import type { BlobId, Config, Effect, Head, Stamp, Step } from "./types.ts";

type Ask = Extract<Head, { k: "ask" }>;
type Answer = Extract<Head, { k: "answer" | "error" }>;

/** An exchange that this worker has posted in this attempt and not taken yet. */
export interface WorkerExchange {
  readonly version: number;
  readonly result: readonly BlobId[] | null;
}

/** Everything a worker knows: plain data. */
export interface WorkerState extends Stamp {
  readonly mode: "new" | "idle" | "loading" | "ready" | "waiting" | "computing" | "saving" | "done";
  readonly rank: number;
  readonly registers: Registers;
  /** The question being worked on. */
  readonly current: Ask | null;
  /** The last answer, for when it is asked again; in mode `saving` it has not been sent yet. */
  readonly answer: { readonly head: Answer; readonly body: readonly BlobId[] } | null;
  /** A newer attempt to begin as soon as the operation under way ends. */
  readonly next: Stamp | null;
  /** Number of the latest computation. */
  readonly job: number;
  /** Slots by name. */
  readonly exchanges: Readonly<Record<string, WorkerExchange>>;
  /** Ticks in mode `waiting`. */
  readonly waited: number;
}

type Transition = { readonly state: WorkerState; readonly effects: readonly Effect[] };

/** A worker that has not started. */
export function workerInit(rank: number): WorkerState {
  return {
    mode: "new",
    rank,
    round: 0,
    attempt: 0,
    seq: 0,
    registers: {},
    current: null,
    answer: null,
    next: null,
    job: 0,
    exchanges: {},
    waited: 0,
  };
}

/** The payload names that a worker state holds, with repetitions. */
export function workerBlobs(s: WorkerState): readonly BlobId[] {
  const results = Object.values(s.exchanges).flatMap(({ result }) => result ?? []);
  return [...Object.values(s.registers), ...(s.answer?.body ?? []), ...results];
}

/**
 * The step function of the workers of one run. Never throws on an event.
 *
 * @example The first step greets the hub
 * ```typescript
 * const step = workerStep(config);
 * const { state, effects } = step(workerInit(0), { k: "start", rounds: [0] });
 * // effects: [{ k: "send", to: "hub", head: { k: "hello", ... }, body: [] }]
 * ```
 */
export function workerStep(config: Config): Step<WorkerState> {
  const durable = config.durable.worker;
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

  return withDrops(workerBlobs, (s, e) => {
    switch (e.k) {
      case "start": {
        const state: WorkerState = s.mode === "new" ? { ...s, mode: "idle" } : s;
        // What was under way on the old connection is lost.
        return { state, effects: [send({ k: "hello", ...stampOf(s) }), ...postsAgain(s)] };
      }
      case "recv":
        return e.from === "hub" ? receive(s, parseHead(e.head), e.body) : { state: s, effects: [] };
      case "loaded":
        return s.mode === "loading" && e.round === s.round ? loaded(s, e.blobs) : { state: s, effects: [] };
      case "computed":
        return s.mode === "computing" && e.job === s.job
          ? computed(s, e.out, e.notes)
          : { state: s, effects: [] };
      case "failed":
        return s.mode === "computing" && e.job === s.job ? failed(s, e.reason) : { state: s, effects: [] };
      case "saved":
        return s.mode === "saving" && e.round === s.round + 1 ? committed(s) : { state: s, effects: [] };
      case "tick":
        return s.mode === "waiting" ? wait(s) : { state: s, effects: [] };
      case "down":
      case "stop":
        return { state: s, effects: [] };
      default:
        e satisfies never;
        return { state: s, effects: [] };
    }
  });

  function receive(s: WorkerState, head: Head | null, body: readonly BlobId[]): Transition {
    const ignored: Transition = { state: s, effects: [] };
    if (head === null || s.mode === "new") return ignored;
    switch (head.k) {
      case "begin":
        return begin(s, head);
      case "ask":
        return asked(s, head, body);
      case "stop":
        return head.attempt < s.attempt ? ignored : stop(s, head);
      case "give":
        return given(s, head, body);
      case "post":
      case "hello":
      case "ready":
      case "answer":
      case "busy":
      case "lost":
      case "error":
      case "bye":
        return ignored;
      default:
        head satisfies never;
        return ignored;
    }
  }

  function begin(s: WorkerState, stamp: Stamp): Transition {
    const newest = s.next ?? s;
    if (s.mode === "done" || stamp.attempt < newest.attempt) return { state: s, effects: [] };
    if (stamp.attempt === newest.attempt) {
      // Asked again: `ready` was lost on the way, or this is an old copy.
      if (!isSameStamp(stamp, s)) return { state: s, effects: [] };
      if (s.mode === "idle") return load(s, stamp);
      return {
        state: s,
        effects: s.mode === "ready" ? [send({ k: "ready", ...stampOf(s), missing: false })] : [],
      };
    }
    const isBusy = s.mode === "loading" || s.mode === "computing" || s.mode === "saving";
    return isBusy ? { state: { ...s, next: stampOf(stamp) }, effects: [] } : load(s, stamp);
  }

  /** Forgets what this attempt has done and reads the save of exactly the round asked for. */
  function load(s: WorkerState, { round, attempt }: Stamp): Transition {
    return {
      state: {
        ...s,
        mode: "loading",
        round,
        attempt,
        seq: 0,
        registers: {},
        current: null,
        answer: null,
        next: null,
        exchanges: {},
      },
      effects: [{ k: "load", round }],
    };
  }

  function loaded(s: WorkerState, blobs: Registers | null): Transition {
    if (s.next !== null) return load(s, s.next);
    if (blobs === null || durable.some((name) => blobs[name] === undefined)) {
      return { state: { ...s, mode: "idle" }, effects: [send({ k: "ready", ...stampOf(s), missing: true })] };
    }
    return {
      state: { ...s, mode: "ready", registers: keep(blobs, durable) },
      effects: [send({ k: "ready", ...stampOf(s), missing: false })],
    };
  }

  function asked(s: WorkerState, head: Ask, body: readonly BlobId[]): Transition {
    const ignored: Transition = { state: s, effects: [] };
    switch (s.mode) {
      case "ready":
      case "idle":
        if (s.answer !== null && isSameStamp(head, s.answer.head))
          return { state: s, effects: [sendAnswer(s)] };
        if (s.mode === "ready" && isSameStamp(head, { ...s, seq: s.seq + 1 })) return run(s, head, body);
        return compareStamps(head, s) > 0
          ? { state: s, effects: [send({ k: "lost", ...stampOf(head) })] }
          : ignored;
      case "waiting":
      case "computing":
      case "saving":
        return s.current !== null && isSameStamp(head, s.current)
          ? { state: s, effects: [send({ k: "busy", ...stampOf(head) })] }
          : ignored;
      default:
        return ignored;
    }
  }

  function run(s: WorkerState, head: Ask, body: readonly BlobId[]): Transition {
    const slot = script(head.round)[head.phase];
    const received = slot === undefined ? [] : receiveNames(slot.phase);
    if (slot === undefined || head.iteration >= slot.repeat || body.length !== received.length) {
      const what = `it was asked for phase ${head.phase}, iteration ${head.iteration}, with ${body.length} values`;
      const reason = `Cannot run round ${head.round} at worker ${s.rank}: ${what}, the hub and the worker need the same script`;
      return { state: s, effects: [send({ k: "error", ...stampOf(head), reason })] };
    }
    const { phase } = slot;
    const state: WorkerState = {
      ...s,
      seq: head.seq,
      registers: write(s.registers, received, body),
      current: head,
      answer: null,
    };
    return phase.ends === undefined ? work(state, phase) : take(state, phase, phase.ends);
  }

  /** The result of the exchange that ends here goes into its registers; until it is there, the worker waits. */
  function take(s: WorkerState, phase: Phase, { slot, version }: Turn): Transition {
    const open = s.exchanges[slot];
    if (open?.version === version && open.result !== null) {
      const { [slot]: _, ...exchanges } = s.exchanges;
      const registers = write(s.registers, takeNames(phase, background), open.result);
      return work({ ...s, exchanges, registers }, phase);
    }
    const state: WorkerState = { ...s, mode: "waiting", waited: 0 };
    if (open?.version === version) return { state, effects: [] };
    // It was begun before this attempt: the durable registers still hold what was sent.
    const opened = begun(state, { slot, version });
    return { state: opened, effects: [postOf(opened, { slot, version })] };
  }

  /** A lost part is posted again; a lost result comes again as the answer to that. */
  function wait(s: WorkerState): Transition {
    const waited = s.waited + 1;
    const turn = script(s.round)[s.current!.phase]!.phase.ends!;
    const isDue = waited % config.retryTicks === 0;
    return { state: { ...s, waited }, effects: isDue ? [postOf(s, turn)] : [] };
  }

  function given(s: WorkerState, { slot, version }: Turn, body: readonly BlobId[]): Transition {
    const open = Object.hasOwn(s.exchanges, slot) ? s.exchanges[slot]! : null;
    const isAwaited = open?.version === version && open.result === null;
    if (!isAwaited || body.length !== background[slot]!.receive.length) return { state: s, effects: [] };
    const state = { ...s, exchanges: { ...s.exchanges, [slot]: { version, result: body } } };
    if (s.mode !== "waiting") return { state, effects: [] };
    const { phase } = script(s.round)[s.current!.phase]!;
    const turn = phase.ends!;
    return turn.slot === slot ? take(state, phase, turn) : { state, effects: [] };
  }

  function begun(s: WorkerState, { slot, version }: Turn): WorkerState {
    return { ...s, exchanges: { ...s.exchanges, [slot]: { version, result: null } } };
  }

  function postOf(s: WorkerState, { slot, version }: Turn): Effect {
    const body = read(s.registers, background[slot]!.send);
    return { k: "send", to: "hub", head: { k: "post", ...stampOf(s), slot, version }, body };
  }

  function postsAgain(s: WorkerState): readonly Effect[] {
    return Object.entries(s.exchanges).flatMap(([slot, { version, result }]) =>
      result === null ? [postOf(s, { slot, version })] : [],
    );
  }

  function work(s: WorkerState, phase: Phase): Transition {
    const head = s.current!;
    const state: WorkerState = { ...s, mode: "computing", job: s.job + 1 };
    if (phase.worker === undefined) return computed(state, [], []);
    return {
      state,
      effects: [
        {
          k: "compute",
          job: state.job,
          fn: phase.worker.fn,
          args: {
            round: head.round,
            phase: phase.name,
            iteration: head.iteration,
            rank: s.rank,
            workers: config.workers,
            notes: [],
            numbers: phase.worker.numbers ?? [],
          },
          ins: read(state.registers, phase.worker.ins ?? []),
        },
      ],
    };
  }

  function computed(s: WorkerState, out: readonly BlobId[], notes: readonly number[]): Transition {
    if (s.next !== null) return load(s, s.next);
    const head = s.current!;
    const { phase } = script(s.round)[head.phase]!;
    const outs = phase.worker?.outs ?? [];
    if (out.length !== outs.length) {
      return failed(
        s,
        `Cannot run phase "${phase.name}": the function gave ${out.length} values, ${outs.length} are needed`,
      );
    }
    const registers = write(s.registers, outs, out);
    const answer = {
      head: { k: "answer", ...stampOf(head), notes } as const,
      body: read(registers, phase.reply ?? []),
    };
    const after: WorkerState = { ...s, registers, answer };
    const open = phase.begins === undefined ? after : begun(after, phase.begins);
    const posts = phase.begins === undefined ? [] : [postOf(open, phase.begins)];
    if (head.commit) {
      const round = s.round + 1;
      const blobs = keep(registers, durable);
      return {
        state: { ...open, mode: "saving" },
        effects: [{ k: "save", round, blobs, state: { round, attempt: 0 } }, ...posts],
      };
    }
    const state: WorkerState = { ...open, mode: "ready", current: null };
    return { state, effects: [sendAnswer(state), ...posts] };
  }

  /** The round is durable here: only now the hub may hear of it. */
  function committed(s: WorkerState): Transition {
    if (s.next !== null) return load(s, s.next);
    const state: WorkerState = {
      ...s,
      mode: "ready",
      round: s.round + 1,
      seq: 0,
      registers: keep(s.registers, durable),
      current: null,
    };
    return { state, effects: [sendAnswer(state)] };
  }

  function stop(s: WorkerState, head: Stamp): Transition {
    const bye = send({ k: "bye", ...stampOf(head) });
    if (s.mode === "done") return { state: s, effects: [bye] };
    const registers = s.mode === "ready" ? keep(s.registers, durable) : {};
    return {
      state: { ...s, mode: "done", registers, current: null, answer: null, next: null, exchanges: {} },
      effects: [bye, { k: "done", reason: "finished", round: head.round }],
    };
  }

  function failed(s: WorkerState, reason: string): Transition {
    if (s.next !== null) return load(s, s.next);
    const text = clipReason(`Worker ${s.rank}, round ${s.round}: ${reason}`);
    const answer = { head: { k: "error", ...stampOf(s.current!), reason: text } as const, body: [] };
    const state: WorkerState = { ...s, mode: "idle", registers: {}, current: null, answer, exchanges: {} };
    return { state, effects: [sendAnswer(state)] };
  }
}

function send(head: Head): Effect {
  return { k: "send", to: "hub", head, body: [] };
}

function sendAnswer(s: WorkerState): Effect {
  return { k: "send", to: "hub", head: s.answer!.head, body: s.answer!.body };
}
