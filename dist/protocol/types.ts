/**
 * The words of the distributed protocol. Everything here is plain data: a state, an event, an effect.
 *
 * A peer is a pure function `(state, event) -> {state, effects}`. It never sees a payload, only the name of one
 * (`BlobId`) in a store that its runtime owns; the only numbers it may branch on are the `notes` that a
 * computation reports next to its payloads.
 */

import type { Script, Turn } from "./script.ts";

/** The name of a payload in the store of one peer. Names mean nothing to another peer. */
export type BlobId = string;

/** The hub, or a worker by rank `0 .. workers - 1`. */
export type Peer = "hub" | number;

/**
 * Where in a run a message belongs. A message of another stamp than the one expected changes nothing.
 *
 * - `round`: rounds are the unit of durability; everybody saves at the end of each.
 * - `attempt`: grows by one whenever the hub starts a round afresh; never used twice, also not after a crash.
 * - `seq`: questions within one round of one attempt, from 1; a `begin` is question 0.
 */
export interface Stamp {
  readonly round: number;
  readonly attempt: number;
  readonly seq: number;
}

/** What a message says; its payloads travel beside it. */
export type Head =
  /** Worker to hub: this process has started, or its connection is back. */
  | ({ readonly k: "hello" } & Stamp)
  /** Hub to worker: load your save of `round`. */
  | ({ readonly k: "begin" } & Stamp)
  /** Worker to hub: loaded, or `missing` when there is no save of that round. */
  | ({ readonly k: "ready"; readonly missing: boolean } & Stamp)
  /** Hub to worker: run phase number `phase` of the script; `commit` says that the round ends with it. */
  | ({
      readonly k: "ask";
      readonly phase: number;
      readonly iteration: number;
      readonly commit: boolean;
    } & Stamp)
  /** Worker to hub: the phase is done. */
  | ({ readonly k: "answer"; readonly notes: readonly number[] } & Stamp)
  /** Worker to hub: asked again while still computing. */
  | ({ readonly k: "busy" } & Stamp)
  /** Worker to hub: this question continues something that a crash has erased here. */
  | ({ readonly k: "lost" } & Stamp)
  /** Worker to hub: the computation threw; it would throw again. */
  | ({ readonly k: "error"; readonly reason: string } & Stamp)
  /** Hub to worker: the run is over. */
  | ({ readonly k: "stop" } & Stamp)
  /** Worker to hub: its part of an exchange in the background. */
  | ({ readonly k: "post" } & Turn & Stamp)
  /** Hub to worker: the result of an exchange in the background. */
  | ({ readonly k: "give" } & Turn & Stamp)
  /** Worker to hub: understood, I end. */
  | ({ readonly k: "bye" } & Stamp);

/** What the runtime tells a peer. */
export type Event =
  /** The process starts and its store holds saves of `rounds`; for a running worker: its connection is back. */
  | { readonly k: "start"; readonly rounds: readonly number[] }
  /** One unit of time has passed. */
  | { readonly k: "tick" }
  /** A message has arrived. `head` is whatever the other side sent. */
  | { readonly k: "recv"; readonly from: Peer; readonly head: unknown; readonly body: readonly BlobId[] }
  /** The runtime knows that a peer is gone, not by its own doing. */
  | { readonly k: "down"; readonly peer: Peer }
  | {
      readonly k: "computed";
      readonly job: number;
      readonly out: readonly BlobId[];
      readonly notes: readonly number[];
    }
  /** The computation threw. */
  | { readonly k: "failed"; readonly job: number; readonly reason: string }
  /** The save of `round` is durable. */
  | { readonly k: "saved"; readonly round: number }
  /** The save of `round` has been read; `blobs` is null when there is none. */
  | {
      readonly k: "loaded";
      readonly round: number;
      readonly blobs: Readonly<Record<string, BlobId>> | null;
      readonly state: unknown;
    }
  /** Hub only: finish the round and stop. */
  | { readonly k: "stop" };

/** What a computation is told beside its payloads. `rank` is null at the hub; `notes` are the workers', by rank. */
export interface JobArgs {
  readonly round: number;
  readonly phase: string;
  readonly iteration: number;
  readonly rank: number | null;
  readonly workers: number;
  readonly notes: readonly (readonly number[])[];
  /** What the script says to the function, see {@link Work}. */
  readonly numbers: readonly number[];
}

/**
 * A reduction in the background: what every worker sends, what the hub makes of it, and where every worker puts that.
 *
 * When the result comes depends on the network, when it is used only on the script; so its function is told neither the
 * round nor the phase: `phase` is the name of the slot, `numbers` is the version alone, `round` and `iteration` are 0.
 *
 * @since 0.2.0
 */
export interface Exchange {
  /** Durable worker registers, which do not change until the result is taken. */
  readonly send: readonly string[];
  /** A function of the hub, of the registers `"x@*"` for every x of `send`. */
  readonly fn: string;
  /** Worker registers for the result. */
  readonly receive: readonly string[];
}

/** Why a run ended. */
export type Outcome = "finished" | "stopped" | "failed";

/** What a peer wants done. The runtime performs effects in list order and takes payloads when it performs them. */
export type Effect =
  | { readonly k: "send"; readonly to: Peer; readonly head: Head; readonly body: readonly BlobId[] }
  | {
      readonly k: "compute";
      readonly job: number;
      readonly fn: string;
      readonly args: JobArgs;
      readonly ins: readonly BlobId[];
    }
  /** Make durable, atomically, replacing an earlier save of the same round; then report `saved`. */
  | {
      readonly k: "save";
      readonly round: number;
      readonly blobs: Readonly<Record<string, BlobId>>;
      readonly state: SaveState;
    }
  /** Read the save of `round`, then report `loaded`. */
  | { readonly k: "load"; readonly round: number }
  /** Nobody needs this payload any more. */
  | { readonly k: "drop"; readonly blob: BlobId }
  /** A phase is complete: the hub's notes and every worker's, by rank. */
  | {
      readonly k: "progress";
      readonly round: number;
      readonly attempt: number;
      readonly phase: string;
      readonly iteration: number;
      /** Whether it was the last of its round: what is written down now is written before the round is saved. */
      readonly isLast: boolean;
      readonly hub: readonly number[];
      readonly workers: readonly (readonly number[])[];
    }
  /** The round is complete and durable everywhere. */
  | { readonly k: "completed"; readonly round: number; readonly attempt: number }
  /** This rank is silent or gone: end its process if there is one and start it again. */
  | { readonly k: "restart"; readonly rank: number }
  /** The run cannot go on; `rank` is null when the hub itself is the reason. `done` follows. */
  | { readonly k: "fail"; readonly rank: number | null; readonly reason: string }
  | { readonly k: "done"; readonly reason: Outcome; readonly round: number };

/** The plain part of a save. Workers always write attempt 0: only the hub's attempt has to survive. */
export interface SaveState {
  readonly round: number;
  readonly attempt: number;
}

/** One transition of one peer. */
export type Step<S> = (state: S, event: Event) => { readonly state: S; readonly effects: readonly Effect[] };

/**
 * One run, as every peer knows it.
 *
 * @since 0.1.0
 */
export interface Config {
  /** Number of workers P, at least 1. */
  readonly workers: number;
  /** The run is finished when this many rounds are complete. */
  readonly rounds: number;
  /** What happens in a round. A pure function: every peer, and a peer after a crash, must get the same script. */
  readonly script: (round: number) => Script;
  /** Registers that survive the end of a round and a crash. All others are dropped at the end of every round. */
  readonly durable: { readonly hub: readonly string[]; readonly worker: readonly string[] };
  /** The exchanges that phases may begin and end, by the name of their slot. */
  readonly background?: Readonly<Record<string, Exchange>>;
  /** Ticks until an unanswered question is sent again, and the part of an exchange that a worker waits for. */
  readonly retryTicks: number;
  /**
   * Ticks of silence of a rank that owes an answer until it is restarted. Longer than any computation during which
   * a worker's process cannot listen; one that can listen says `busy` when asked again.
   */
  readonly deadTicks: number;
  /** Restarts of one rank within one round before the run fails. */
  readonly maxRestarts: number;
  /** Messages a runtime keeps waiting for one peer; it discards what arrives beyond that, and retries repair it. */
  readonly maxQueue: number;
}

/**
 * The numbers of a {@link Config} that most runs leave alone. Units: ticks and counts.
 *
 * @example How often a worker may be started again in one round
 * ```ts
 * assert(ct.dist.protocolDefaults.maxRestarts >= 1);
 * ```
 * @since 0.1.0
 */
export const protocolDefaults: Pick<Config, "retryTicks" | "deadTicks" | "maxRestarts" | "maxQueue"> = {
  retryTicks: 20,
  deadTicks: 600,
  maxRestarts: 3,
  maxQueue: 1024,
};
