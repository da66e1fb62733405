/**
 * The hub's side of one rank: its process and its connection.
 *
 * A rank is gone when its process ends, or when it has had no connection for a while; then `down` is called, once in
 * the life of a process. As long as bytes move on the connection the rank is alive, however long it computes.
 */

import { randomUUID } from "node:crypto";
import { isRecord, stampOf } from "../protocol/head.ts";
import type { Head } from "../protocol/types.ts";
import { type Body, bytesOf, type Frame, type WireLimits } from "../wire.ts";
import type { Connection } from "./connection.ts";
import { decodeValue } from "./payload.ts";
import type { Address, WorkerProcess } from "./worker_process.ts";

/** What a seat needs from the run. */
export interface SeatOptions {
  readonly rank: number;
  readonly spawn: (rank: number, address: Address) => WorkerProcess | Promise<WorkerProcess>;
  readonly address: Omit<Address, "token">;
  readonly limits: Partial<WireLimits>;
  /** Ticks until a new process must have connected, and until a lost connection must be back. */
  readonly connectTicks: number;
  readonly graceTicks: number;
  /** The bodies of a question, to be written at once; and those of a result that leaves in the background. */
  readonly encode: (head: Head, values: readonly unknown[]) => readonly Body[];
  readonly encodeGiven: (head: Head, values: readonly unknown[]) => readonly Uint8Array[];
  readonly onMessage: (head: unknown, values: readonly unknown[]) => void;
  readonly onDown: () => void;
  readonly onNotice: (text: string) => void;
}

/** One rank. */
export interface Seat {
  /** Ends the process if there is one, and starts a new one. */
  restart(): void;
  /** The word that the present process must know. */
  readonly token: () => string;
  /** The connection of the present process; it replaces an older one. */
  take(connection: Connection): void;
  /**
   * Delivers a question, unless it is under way on this connection already, or the result of an exchange in the background,
   * unless it leaves now.
   */
  ask(head: Head, values: readonly unknown[]): void;
  tick(): void;
  /** Whether its process is lost and no other has been asked for. */
  readonly isGone: () => boolean;
  /** Waits up to `patienceMs` for the process to end by itself, then ends it. */
  end(patienceMs: number): Promise<void>;
  readonly totals: () => SeatTotals;
}

/** What a rank has cost so far. Units: bytes and counts unless another is named. */
export interface SeatTotals {
  readonly bytesSent: number;
  readonly bytesReceived: number;
  readonly payloadBytesSent: number;
  readonly payloadBytesReceived: number;
  readonly backgroundBytesSent: number;
  readonly backgroundBytesReceived: number;
  readonly backgroundPayloadBytesSent: number;
  readonly backgroundPayloadBytesReceived: number;
  readonly peakBytes: number;
  /** Seconds in which jobs have run, in all its processes. */
  readonly busySeconds: number;
  readonly restarts: number;
  /** How its last process was lost; empty if none was. */
  readonly lastLoss: string;
}

/** The question that was last sent on the present connection, and what had moved there when it was due again. */
interface Asked {
  readonly key: string;
  readonly repeats: number;
  readonly received: number;
  readonly pending: number;
}

/** From this repeat on, every power of two sends the whole question again. */
const FIRST_WHOLE_REPEAT = 8;
/** A process that does not end when killed is given up. */
const KILL_MS = 5000;

/** A rank without a process. */
export function openSeat(options: SeatOptions): Seat {
  const { rank, spawn, limits, onDown, onMessage, onNotice } = options;
  let life = 0;
  let token = "";
  let child: WorkerProcess | null = null;
  let starting: Promise<void> = Promise.resolve();
  let connection: Connection | null = null;
  let asked: Asked | null = null;
  let hasConnected = false;
  let absentTicks = 0;
  let isDown = false;
  let hasLeft = false;
  let isEnding = false;
  let lastLoss = "";
  /** Why the connection was lost; told when the process turns out to live. */
  let untold: string | null = null;
  let peakBytes = 0;
  /** Of the processes before, and of the present one. */
  let pastSeconds = 0;
  let busySeconds = 0;
  const past = {
    bytesSent: 0,
    bytesReceived: 0,
    backgroundBytesSent: 0,
    backgroundBytesReceived: 0,
    payloadBytesSent: 0,
    payloadBytesReceived: 0,
    backgroundPayloadBytesSent: 0,
    backgroundPayloadBytesReceived: 0,
  };

  async function start(own: number, previous: WorkerProcess | null): Promise<void> {
    if (previous !== null) {
      previous.kill("SIGKILL");
      await within(previous.exited, KILL_MS);
    }
    if (isEnding || own !== life) return;
    try {
      const started = await spawn(rank, { ...options.address, token });
      child = started;
      void started.exited.then((code) => gone(own, `has ended with code ${code}${quote(started)}`));
    } catch (error) {
      const what = `cannot be started: ${error instanceof Error ? error.message : String(error)}`;
      gone(own, what, what !== lastLoss);
    }
  }

  function gone(own: number, what: string, isNews = true): void {
    if (own !== life || isDown || hasLeft || isEnding) return;
    isDown = true;
    lastLoss = what;
    untold = null;
    if (isNews) onNotice(`worker ${rank} ${what}`);
    onDown();
  }

  function tellLoss(): void {
    if (untold !== null) onNotice(`worker ${rank} has lost its connection: ${untold}`);
    untold = null;
  }

  function leave(why: string): void {
    const old = connection;
    if (old === null) return;
    connection = null;
    asked = null;
    past.bytesSent += old.bytesSent();
    past.bytesReceived += old.bytesReceived();
    past.backgroundBytesSent += old.backgroundBytesSent();
    past.backgroundBytesReceived += old.backgroundBytesReceived();
    old.close(why);
  }

  function received(from: Connection, { head, bodies }: Frame): void {
    if (isRecord(head)) {
      const peak = head["peakBytes"];
      if (typeof peak === "number" && peak > peakBytes) peakBytes = peak;
      const busy = head["busySeconds"];
      if (typeof busy === "number" && busy > busySeconds) busySeconds = busy;
      if (head["k"] === "pong") return;
      if (head["k"] === "bye") hasLeft = true;
    }
    let values: readonly unknown[];
    try {
      values = bodies.map(decodeValue);
    } catch (error) {
      from.close(error instanceof Error ? error.message : String(error));
      return;
    }
    if (isRecord(head) && head["k"] === "post") past.backgroundPayloadBytesReceived += bytesOf(bodies);
    else past.payloadBytesReceived += bytesOf(bodies);
    onMessage(head, values);
  }

  /** The result of an exchange: a worker that has not got it asks for it. */
  function give(to: Connection, head: Extract<Head, { k: "give" }>, values: readonly unknown[]): void {
    const key = `give ${head.slot} ${head.version}`;
    if (to.isPosting(key)) return;
    const bodies = options.encodeGiven(head, values);
    past.backgroundPayloadBytesSent += bytesOf(bodies);
    to.post({ slot: head.slot, key }, head, bodies);
  }

  return {
    restart() {
      if (life > 0 && !isDown) {
        lastLoss = "has shown no sign of life";
        onNotice(`worker ${rank} ${lastLoss}`);
      }
      leave("its process is started again");
      untold = null;
      pastSeconds += busySeconds;
      busySeconds = 0;
      life++;
      token = randomUUID();
      hasConnected = false;
      isDown = false;
      hasLeft = false;
      absentTicks = 0;
      const own = life;
      starting = starting.then(() => {
        const previous = child;
        child = null;
        return start(own, previous);
      });
    },
    token: () => token,
    take(next) {
      leave("a newer connection replaces it");
      tellLoss();
      connection = next;
      hasConnected = true;
      absentTicks = 0;
      next.onClose((why) => {
        if (connection !== next) return;
        leave(why);
        if (!hasLeft && !isDown && !isEnding) untold = why;
      });
      next.listen(limits, (frame) => received(next, frame));
    },
    ask(head, values) {
      if (connection === null) return;
      if (head.k === "give") return give(connection, head, values);
      const key = `${head.k} ${head.round} ${head.attempt} ${head.seq}`;
      const { received, pending } = movement(connection);
      const repeats = asked?.key === key ? asked.repeats + 1 : 0;
      if (asked !== null && repeats > 0) {
        // The bytes that moved stand for the answer of a worker that is asked again while it computes.
        if (received !== asked.received || pending < asked.pending) {
          onMessage({ k: "busy", ...stampOf(head) }, []);
        }
        // A connection loses nothing, so the question is under way; now and then it is repeated all the same.
        if (pending > 0 || !isWholeRepeat(repeats)) {
          if (pending === 0) connection.send({ k: "ping" }, []);
          asked = { key, repeats, ...movement(connection) };
          return;
        }
      }
      const bodies = options.encode(head, values);
      past.payloadBytesSent += bytesOf(bodies);
      connection.send(head, bodies);
      // A connection that cannot take it has closed, and is forgotten by now.
      if (connection !== null) asked = { key, repeats, ...movement(connection) };
    },
    tick() {
      if (connection !== null || isDown || hasLeft) return;
      absentTicks++;
      if (absentTicks > 1) tellLoss();
      const limit = hasConnected ? options.graceTicks : options.connectTicks;
      if (absentTicks >= limit) {
        gone(life, `has had no connection for ${absentTicks} ticks${child === null ? "" : quote(child)}`);
      }
    },
    isGone: () => isDown,
    async end(patienceMs) {
      isEnding = true;
      await starting;
      const last = child;
      if (last !== null) {
        await within(last.exited, patienceMs);
        last.kill("SIGKILL");
        await within(last.exited, KILL_MS);
      }
      leave("the run has ended");
    },
    totals: () => ({
      ...past,
      bytesSent: past.bytesSent + (connection?.bytesSent() ?? 0),
      bytesReceived: past.bytesReceived + (connection?.bytesReceived() ?? 0),
      backgroundBytesSent: past.backgroundBytesSent + (connection?.backgroundBytesSent() ?? 0),
      backgroundBytesReceived: past.backgroundBytesReceived + (connection?.backgroundBytesReceived() ?? 0),
      peakBytes,
      busySeconds: pastSeconds + busySeconds,
      restarts: Math.max(0, life - 1),
      lastLoss,
    }),
  };
}

function movement(connection: Connection): Pick<Asked, "received" | "pending"> {
  return { received: connection.bytesReceived(), pending: connection.pendingBytes() };
}

/** Whether what is repeated for the `repeats`-th time is sent whole, though a connection loses nothing. */
export function isWholeRepeat(repeats: number): boolean {
  return repeats >= FIRST_WHOLE_REPEAT && (repeats & (repeats - 1)) === 0;
}

/** Waits for `promise`, but not longer than `ms`. */
export async function within(promise: Promise<unknown>, ms: number): Promise<void> {
  const { promise: late, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, ms);
  try {
    await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

function quote(child: WorkerProcess): string {
  const words = child.lastWords?.() ?? "";
  return words === "" ? "" : `; its last words: ${words}`;
}
