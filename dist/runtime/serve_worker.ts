/** One worker in this process: it connects to its hub, and again when the connection is lost. */

import { clipReason, isRecord } from "../protocol/head.ts";
import type { Config, Head } from "../protocol/types.ts";
import { workerInit, workerStep } from "../protocol/worker.ts";
import { type Body, type Frame, wireDefaults } from "../wire.ts";
import { type Connection, openConnection, queueBytes } from "./connection.ts";
import { drive, type Ending, type Jobs, peerName, type Store, seedStore, type Values } from "./driver.ts";
import { decodeValue, encodeValue, encodeValues, partsOfValue } from "./payload.ts";
import { isWholeRepeat, within } from "./seat.ts";
import type { Address } from "./worker_process.ts";

/**
 * How to serve one rank.
 *
 * @since 0.1.0
 */
export interface ServeOptions {
  readonly rank: number;
  /** Where the hub is; see `addressFromEnvironment`. */
  readonly address: Address;
  /** The same as the hub's. */
  readonly config: Config;
  readonly jobs: Jobs;
  /** Durable saves of this rank: they must survive this process. */
  readonly store: Store;
  /** Durable registers before round 0, if the hub does not put them into a store that both use. */
  readonly initial?: Values;
  /** How long the hub may be gone before this process gives up, in milliseconds. */
  readonly deadlineMs?: number;
}

/** How one connection ended. */
interface Session {
  readonly why: string;
  readonly wasWelcome: boolean;
  readonly isFinal: boolean;
}

const FIRST_PAUSE_MS = 20;
const LAST_PAUSE_MS = 1000;
const CONNECT_MS = 5000;
const BYE_MS = 1000;

/**
 * Serves one rank until the hub says stop. Interrupts from the keyboard are left to the hub, which ends the round first;
 * end this process by another signal.
 *
 * @returns how the run has ended, as far as a worker knows
 * @throws {Error} if the hub refuses this process, or is gone for longer than `deadlineMs`
 * @example A worker process
 * ```typescript
 * import { addressFromEnvironment, fileStore, serveWorker } from "cotangent/bun";
 * const rank = Number(process.argv[2]);
 * const store = fileStore("runs/today");
 * await serveWorker({ rank, address: addressFromEnvironment(), config, jobs: jobs.worker(rank), store });
 * ```
 *
 * @since 0.1.0
 */
export async function serveWorker(options: ServeOptions): Promise<Ending> {
  const { rank, address, config, jobs, store, initial, deadlineMs = 20_000 } = options;
  if (initial !== undefined) await seedStore(store, peerName(rank), initial);
  let connection: Connection | null = null;
  /** What has been posted on this connection last, by slot, and how often the protocol has asked for it again. */
  let posted = new Map<string, { readonly key: string; readonly repeats: number }>();
  let maxFrameBytes = wireDefaults.maxBodyBytes;
  let timer: ReturnType<typeof setInterval> | null = null;

  const worker = drive({
    name: peerName(rank),
    state: workerInit(rank),
    step: workerStep(config),
    jobs,
    store,
    maxQueue: Math.max(config.maxQueue, 64),
    transport: {
      send(_, head, values) {
        try {
          if (head.k === "post") post(head, values);
          else send(head, encodeValues(head, values, maxFrameBytes, partsOfValue));
        } catch (error) {
          // The same answer would fail again: the run has to end, with this reason.
          const { round, attempt, seq } = head;
          send(
            {
              k: "error",
              round,
              attempt,
              seq,
              reason: clipReason(`Worker ${rank}: ${(error as Error).message}`),
            },
            [],
          );
        }
      },
    },
  });

  function send(head: Head | { readonly k: "pong" }, bodies: readonly Body[]): void {
    connection?.send({ ...head, ...usage() }, bodies);
  }

  /** What the hub wants to know of this process. */
  function usage(): { readonly peakBytes: number; readonly busySeconds: number } {
    // Kibibytes, in every runtime that has this function.
    return { peakBytes: process.resourceUsage().maxRSS * 1024, busySeconds: worker.busySeconds() };
  }

  /** A connection loses nothing, so what was posted on it is there, or under way; now and then it is repeated all the same. */
  function post(head: Extract<Head, { k: "post" }>, values: readonly unknown[]): void {
    const { slot, version, attempt } = head;
    const key = `post ${slot} ${version} ${attempt}`;
    if (connection === null || connection.isPosting(key)) return;
    const last = posted.get(slot);
    const repeats = last?.key === key ? last.repeats + 1 : 0;
    posted.set(slot, { key, repeats });
    if (repeats > 0 && !isWholeRepeat(repeats)) return;
    const bodies = encodeValues(head, values, maxFrameBytes, encodeValue);
    connection.post({ slot, key }, { ...head, ...usage() }, bodies);
  }

  /** One connection, from its beginning to its end. */
  async function session(): Promise<Session> {
    let line: Connection;
    try {
      const limit = queueBytes(config, maxFrameBytes);
      line = await openConnection(address.host, address.port, limit, CONNECT_MS, worker.blockedMs);
    } catch (error) {
      return {
        why: error instanceof Error ? error.message : String(error),
        wasWelcome: false,
        isFinal: false,
      };
    }
    const { promise: closed, resolve } = Promise.withResolvers<string>();
    let wasWelcome = false;
    let refusal: string | null = null;
    line.onClose((why) => {
      if (connection === line) connection = null;
      resolve(why);
    });
    line.listen({}, ({ head }: Frame) => {
      const { k, reason, maxFrameBytes: limit, tickMs } = isRecord(head) ? head : {};
      if (k === "refused") refusal = typeof reason === "string" ? reason : "no reason was given";
      if (k !== "welcome" || typeof limit !== "number" || typeof tickMs !== "number") {
        line.close("the hub has not welcomed it");
        return;
      }
      wasWelcome = true;
      maxFrameBytes = limit;
      connection = line;
      posted = new Map();
      keepTime(tickMs);
      line.listen({ maxBodyBytes: limit }, (frame) => received(line, frame));
      worker.start().catch(broken.reject);
    });
    line.send({ k: "join", rank, token: address.token }, []);
    const why = await closed;
    return { why: refusal ?? why, wasWelcome, isFinal: refusal !== null };
  }

  function received(line: Connection, { head, bodies }: Frame): void {
    if (isRecord(head) && head["k"] === "ping") {
      send({ k: "pong" }, []);
      return;
    }
    let values: readonly unknown[];
    try {
      values = bodies.map(decodeValue);
    } catch (error) {
      line.close(error instanceof Error ? error.message : String(error));
      return;
    }
    worker.receive("hub", head, values);
  }

  /** Ticks of the hub's length; only exchanges in the background need them here. */
  function keepTime(tickMs: number): void {
    if (timer !== null || config.background === undefined) return;
    timer = setInterval(() => worker.post({ k: "tick" }), tickMs);
  }

  /** Rejects when the store cannot be read. */
  const broken = Promise.withResolvers<never>();
  const ended = Promise.race([broken.promise, worker.done]).then((ending) => ({ ending }));
  // It is looked at in the loop; until then nobody listens.
  ended.catch(() => {});
  const ignore = (): void => {};
  process.on("SIGINT", ignore);
  try {
    // Its first hello finds no connection; from then on it understands what the hub says.
    await worker.start();
    let goneSince = performance.now();
    let pauseMs = FIRST_PAUSE_MS;
    for (;;) {
      const outcome = await Promise.race([ended, session()]);
      if ("ending" in outcome) return outcome.ending;
      if (outcome.wasWelcome) {
        goneSince = performance.now();
        pauseMs = FIRST_PAUSE_MS;
      }
      const goneMs = performance.now() - goneSince;
      if (outcome.isFinal || goneMs > deadlineMs) {
        const where = `${address.host}:${address.port}`;
        const what = outcome.isFinal ? "refuses it" : `has been gone for ${Math.round(goneMs / 1000)} s`;
        throw new Error(
          `Cannot serve worker ${rank}: the hub at ${where} ${what} (${outcome.why}), a hub that waits for this process is needed`,
        );
      }
      await within(ended, pauseMs);
      pauseMs = Math.min(2 * pauseMs, LAST_PAUSE_MS);
    }
  } finally {
    if (timer !== null) clearInterval(timer);
    process.off("SIGINT", ignore);
    await leave();
  }

  /** Closes when the last message has left. */
  async function leave(): Promise<void> {
    const last = connection;
    if (last === null) return;
    const { promise: closed, resolve } = Promise.withResolvers<void>();
    last.onClose(() => resolve());
    last.end();
    await within(closed, BYE_MS);
    last.close("the worker has ended");
  }
}
