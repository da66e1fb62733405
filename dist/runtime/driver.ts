/**
 * The loop around a step function: take an event, call step, perform the effects in list order, feed results back
 * as events. Every runtime is this loop with a transport and a store.
 */

import type {
  BlobId,
  Effect,
  Event,
  Head,
  JobArgs,
  Outcome,
  Peer,
  SaveState,
  Step,
} from "../protocol/types.ts";
import { onHost } from "./payload.ts";

/** Runs work in a turn of the event loop of its own; a browser has only timers for that. */
const inNextTurn: (work: () => void) => unknown =
  globalThis.process?.getBuiltinModule?.("node:timers").setImmediate ?? ((work) => setTimeout(work, 0));

/** What a computation gives: as many values as the script names, and small numbers for whoever decides. */
export interface JobResult {
  readonly outs: readonly unknown[];
  readonly notes?: readonly number[];
}

/**
 * A computation. It must be a pure function of its arguments and constants: after a crash it runs again and must
 * give the same bits. Values must not be changed in place: other registers may hold them.
 *
 * @since 0.1.0
 */
export type Job = (ins: readonly unknown[], args: JobArgs) => JobResult | Promise<JobResult> | JobSteps;

/**
 * A long computation in pieces: it yields where the event loop may turn, so that a process that computes for minutes
 * still answers and is not taken for dead.
 *
 * @since 0.1.0
 */
export type JobSteps = Generator<void, JobResult>;

/**
 * The computations of one peer, by the names that the script uses.
 *
 * @since 0.1.0
 */
export type Jobs = Readonly<Record<string, Job>>;

/**
 * Values of registers, by name.
 *
 * @since 0.1.0
 */
export type Values = Readonly<Record<string, unknown>>;

/** What `Store.get` gives back. */
export interface Saved {
  readonly state: SaveState;
  readonly values: Values;
}

/**
 * Durable saves, by peer name and round. `put` is atomic: after a crash the save is whole or as before.
 *
 * @since 0.1.0
 */
export interface Store {
  put(name: string, round: number, state: SaveState, values: Values): void | Promise<void>;
  get(name: string, round: number): Saved | null | Promise<Saved | null>;
  rounds(name: string): readonly number[] | Promise<readonly number[]>;
  drop(name: string, round: number): void | Promise<void>;
}

/** How messages leave. A promise is backpressure: the driver waits for it before the next effect. */
export interface Transport {
  send(to: Peer, head: Head, values: readonly unknown[]): void | Promise<void>;
}

/**
 * What a person may want to see while a run goes on.
 *
 * @since 0.1.0
 */
export type Progress = Extract<Effect, { k: "progress" | "completed" }>;

/** How a run ended for one peer. `failure` says why it failed. */
export interface Ending {
  readonly reason: Outcome;
  readonly round: number;
  readonly failure: { readonly rank: number | null; readonly reason: string } | null;
}

/** One peer of a run: its step function, first state, and what its effects need. */
export interface DriverOptions<S> {
  /** Name in the store: "hub" or "worker-3". */
  readonly name: string;
  readonly state: S;
  readonly step: Step<S>;
  readonly jobs: Jobs;
  readonly store: Store;
  readonly transport: Transport;
  readonly maxQueue: number;
  readonly onProgress?: (progress: Progress) => void;
  /** Hub only: end the process of this rank if there is one, and start it again. */
  readonly onRestart?: (rank: number) => void;
}

/** A running peer. */
export interface Driver<S> {
  /** Reads the store and starts. Called again, it tells a running worker that its connection is back. */
  start(): Promise<void>;
  /** A message has arrived; it is discarded when `maxQueue` messages wait already. */
  receive(from: Peer, head: unknown, values: readonly unknown[]): void;
  /** Other news from outside. */
  post(event: Extract<Event, { k: "tick" | "down" | "stop" }>): void;
  /** Settles when the peer is done; rejects when the store or the runtime breaks. */
  readonly done: Promise<Ending>;
  readonly state: () => S;
  /** Payloads held right now. */
  readonly blobCount: () => number;
  /** In which at least one of its jobs has run, or what it gave was fetched from a device, so far. */
  readonly busySeconds: () => number;
  /** In which jobs have kept this process from everything else, so far. */
  readonly blockedMs: () => number;
}

/**
 * Saves of one peer that are kept. Peers are at most one round apart, so two would do; the third lets a run go on from
 * the round before when the newest save of the hub turns out to be damaged.
 */
export const SAVES_KEPT = 3;

/**
 * A store in memory: for runs in one process, and for tests.
 *
 * @example A save
 * ```ts
 * const store = ct.dist.memoryStore();
 * store.put("hub", 1, { round: 1, attempt: 0 }, { total: 6 });
 * assertClose(await store.rounds("hub"), [1]);
 * ```
 * @since 0.1.0
 */
export function memoryStore(): Store {
  const saves = new Map<string, Map<number, Saved>>();
  return {
    put(name, round, state, values) {
      const own = saves.get(name) ?? new Map<number, Saved>();
      saves.set(name, own.set(round, { state, values }));
    },
    get: (name, round) => saves.get(name)?.get(round) ?? null,
    rounds: (name) => [...(saves.get(name)?.keys() ?? [])].sort((a, b) => a - b),
    drop(name, round) {
      saves.get(name)?.delete(round);
    },
  };
}

/** The store name of a peer. */
export function peerName(peer: Peer): string {
  return peer === "hub" ? "hub" : `worker-${peer}`;
}

/** Puts the initial registers of a peer as its save of round 0, unless the store knows the peer already. */
export async function seedStore(store: Store, name: string, initial: Values): Promise<void> {
  if ((await store.rounds(name)).length === 0) await store.put(name, 0, { round: 0, attempt: 0 }, initial);
}

/**
 * Runs one peer. Events are handled one at a time, in order of arrival; computations, saves and loads go on beside
 * the loop and come back as events.
 */
export function drive<S>(options: DriverOptions<S>): Driver<S> {
  const { name, step, jobs, store, transport } = options;
  const blobs = new Map<BlobId, unknown>();
  const queue: { readonly isMessage: boolean; readonly event: () => Event }[] = [];
  let state = options.state;
  let messages = 0;
  let isTickWaiting = false;
  let nextBlob = 0;
  let isRunning = false;
  let failure: Ending["failure"] = null;
  const { promise: done, resolve, reject } = Promise.withResolvers<Ending>();
  let isBroken = false;
  const busy = stopwatch();
  const blocked = stopwatch();

  function add(value: unknown): BlobId {
    const blob = `b${nextBlob++}`;
    blobs.set(blob, value);
    return blob;
  }

  /** The payloads of an event get their names when it is taken, so waiting messages hold no names. */
  function enqueue(event: () => Event, isMessage = false): void {
    if (isBroken) return;
    if (isMessage) messages++;
    queue.push({ event, isMessage });
    if (!isRunning) {
      isRunning = true;
      queueMicrotask(() => void run().catch(broken));
    }
  }

  async function run(): Promise<void> {
    for (let item = queue.shift(); item !== undefined && !isBroken; item = queue.shift()) {
      if (item.isMessage) messages--;
      const { state: next, effects } = step(state, item.event());
      state = next;
      for (const effect of effects) {
        const wait = perform(effect);
        if (wait !== undefined) await wait;
      }
    }
    isRunning = false;
  }

  function perform(effect: Effect): void | Promise<void> {
    switch (effect.k) {
      case "send": {
        const leaving = onHost(values(effect.body));
        const send = (body: readonly unknown[]): void | Promise<void> =>
          transport.send(effect.to, effect.head, body);
        return leaving instanceof Promise ? busy.during(() => leaving).then(send) : send(leaving);
      }
      case "compute": {
        const ins = values(effect.ins);
        // A turn of the event loop first, so that messages, timers and signals are seen between computations.
        inNextTurn(() => void compute(effect, ins).catch(broken));
        return;
      }
      case "save": {
        const entries = Object.entries(effect.blobs).map(([key, blob]) => [key, blobs.get(blob)] as const);
        void save(effect, Object.fromEntries(entries)).catch(broken);
        return;
      }
      case "load":
        void load(effect.round).catch(broken);
        return;
      case "drop":
        blobs.delete(effect.blob);
        return;
      case "progress":
      case "completed":
        options.onProgress?.(effect);
        return;
      case "restart":
        options.onRestart?.(effect.rank);
        return;
      case "fail":
        failure = { rank: effect.rank, reason: effect.reason };
        return;
      case "done":
        resolve({ reason: effect.reason, round: effect.round, failure });
        return;
      default:
        effect satisfies never;
    }
  }

  async function compute(effect: Extract<Effect, { k: "compute" }>, ins: readonly unknown[]): Promise<void> {
    const { job, fn, args } = effect;
    try {
      const started = (): ReturnType<Job> => runJob(jobs, fn, ins, args);
      const result = await busy.during(() => finished(started, blocked));
      enqueue(() => ({ k: "computed", job, out: result.outs.map(add), notes: result.notes ?? [] }));
    } catch (error) {
      enqueue(() => ({ k: "failed", job, reason: error instanceof Error ? error.message : String(error) }));
    }
  }

  /** A save, and then the end of all saves but the newest few. */
  async function save(effect: Extract<Effect, { k: "save" }>, saved: Values): Promise<void> {
    await store.put(name, effect.round, effect.state, await onHost(saved));
    for (const round of await store.rounds(name)) {
      if (round <= effect.round - SAVES_KEPT) await store.drop(name, round);
    }
    enqueue(() => ({ k: "saved", round: effect.round }));
  }

  async function load(round: number): Promise<void> {
    const saved = await store.get(name, round);
    enqueue(() => {
      const names =
        saved === null
          ? null
          : Object.fromEntries(Object.entries(saved.values).map(([key, value]) => [key, add(value)]));
      return { k: "loaded", round, blobs: names, state: saved?.state ?? null };
    });
  }

  function values(names: readonly BlobId[]): readonly unknown[] {
    return names.map((blob) => blobs.get(blob));
  }

  function broken(error: unknown): void {
    isBroken = true;
    reject(error);
  }

  return {
    async start() {
      const rounds = await store.rounds(name);
      enqueue(() => ({ k: "start", rounds }));
    },
    receive(from, head, received) {
      if (messages >= options.maxQueue) return;
      enqueue(() => ({ k: "recv", from, head, body: received.map(add) }), true);
    },
    post(event) {
      if (event.k !== "tick") return enqueue(() => event);
      // Ticks that pass while one waits are one tick: a busy process does not count its own time against others.
      if (isTickWaiting) return;
      isTickWaiting = true;
      enqueue(() => {
        isTickWaiting = false;
        return event;
      });
    },
    done,
    state: () => state,
    blobCount: () => blobs.size,
    busySeconds: () => busy.ms() / 1000,
    blockedMs: blocked.ms,
  };
}

/** The result of a computation, in pieces with a turn of the event loop after each. */
async function finished(start: () => ReturnType<Job>, blocked: Stopwatch): Promise<JobResult> {
  const result = blocked.while(start);
  if (!isSteps(result)) return result;
  for (;;) {
    const step = blocked.while(() => result.next());
    if (step.done === true) return step.value;
    await new Promise<void>((resolve) => inNextTurn(resolve));
  }
}

/** Adds up the time in which at least one of the things that it is told of goes on. */
interface Stopwatch {
  while<T>(work: () => T): T;
  during<T>(work: () => Promise<T>): Promise<T>;
  /** Milliseconds so far. */
  readonly ms: () => number;
}

function stopwatch(): Stopwatch {
  let count = 0;
  let since = 0;
  let past = 0;
  const begin = (): void => {
    if (count++ === 0) since = performance.now();
  };
  const end = (): void => {
    if (--count === 0) past += performance.now() - since;
  };
  return {
    while(work) {
      begin();
      try {
        return work();
      } finally {
        end();
      }
    },
    async during(work) {
      begin();
      try {
        return await work();
      } finally {
        end();
      }
    },
    ms: () => past + (count > 0 ? performance.now() - since : 0),
  };
}

/** Whether a computation comes in pieces. */
export function isSteps(result: ReturnType<Job>): result is JobSteps {
  return "next" in result;
}

/** Looks a computation up and runs it, up to its first pause. */
export function runJob(jobs: Jobs, fn: string, ins: readonly unknown[], args: JobArgs): ReturnType<Job> {
  const job = Object.hasOwn(jobs, fn) ? jobs[fn] : undefined;
  if (job === undefined) {
    throw new TypeError(
      `Cannot compute "${fn}" in phase "${args.phase}": no such function, the jobs must define it`,
    );
  }
  return job(ins, args);
}
