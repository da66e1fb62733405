/**
 * A run over sockets: the hub in this process, every worker in a process of its own, the same step functions as
 * everywhere. Needs Bun.
 *
 * First a worker says `join` with its rank and the word that it was started with; the hub says `welcome` or `refused`.
 * Then messages of the protocol travel both ways, with `ping` and `pong` beside them.
 */

import { timingSafeEqual } from "node:crypto";
import { isRecord } from "../protocol/head.ts";
import { hubInit, hubStep } from "../protocol/hub.ts";
import type { Head } from "../protocol/types.ts";
import { type Body, type Frame, wireDefaults } from "../wire.ts";
import { acceptConnections, type Connection, queueBytes } from "./connection.ts";
import { drive, type Jobs, memoryStore, type Progress, peerName, type Store, seedStore } from "./driver.ts";
import { RunError, type RunResult, readValues } from "./local.ts";
import { encodeValue, encodeValues, partsOfValue } from "./payload.ts";
import { openSeat, type Seat, type SeatTotals } from "./seat.ts";
import type { RunSetup } from "./sequential.ts";
import type { Address, WorkerProcess } from "./worker_process.ts";

export { type ServeOptions, serveWorker } from "./serve_worker.ts";
export {
  type Address,
  addressFromEnvironment,
  type SpawnOptions,
  spawnBun,
  type WorkerProcess,
} from "./worker_process.ts";

/**
 * How to run over sockets.
 *
 * @since 0.1.0
 */
export interface SocketOptions {
  readonly config: RunSetup["config"];
  readonly jobs: { readonly hub: Jobs };
  /** Durable registers before round 0. Workers are given here when they use the store of the hub, otherwise there. */
  readonly initial: { readonly hub: RunSetup["initial"]["hub"] } & Partial<
    Pick<RunSetup["initial"], "worker">
  >;
  /** Saves of the hub, and of the workers if they share it (a folder). Default: memory, forgotten at the end. */
  readonly store?: Store;
  /** Starts the process of a rank; it must call `serveWorker` with this rank and address. */
  readonly spawn: (rank: number, address: Address) => WorkerProcess | Promise<WorkerProcess>;
  readonly onProgress?: (progress: Progress, traffic: Traffic) => void;
  /** What a person should hear of: lost processes and connections, strangers that were sent away. */
  readonly onNotice?: (text: string) => void;
  /** Aborting it finishes the round and stops. */
  readonly signal?: AbortSignal;
  /** Where to listen. Default: this machine only, any free port. */
  readonly host?: string;
  readonly port?: number;
  /** Largest message, in bytes of values. Default 1 GiB. */
  readonly maxFrameBytes?: number;
  /**
   * Milliseconds of one tick. With the default 200 and `protocolDefaults`, a connection is asked for signs of life every
   * 4 s, and a worker whose process shows none for 120 s is started again: a computation that never lets the event loop
   * turn may take that long. A process that has ended is started again at once.
   */
  readonly tickMs?: number;
  /** Time for a new process to connect, 60 s, and for a lost connection to come back, 3 s. Units: milliseconds. */
  readonly connectMs?: number;
  readonly graceMs?: number;
}

/**
 * Bytes that have gone through the hub's connections so far, and seconds in which workers have computed.
 *
 * @since 0.1.0
 */
export type Traffic = Pick<
  SocketResult,
  "bytesSent" | "bytesReceived" | "backgroundBytesSent" | "backgroundBytesReceived" | "busySeconds"
>;

/**
 * The end of a run over sockets. Bytes are counted at the hub; lists are by rank.
 *
 * @since 0.1.0
 */
export interface SocketResult extends RunResult {
  /** All bytes of the connections of workers, and those of them that exchanges in the background have taken. */
  readonly bytesSent: number;
  readonly bytesReceived: number;
  readonly backgroundBytesSent: number;
  readonly backgroundBytesReceived: number;
  /** Values alone: those that somebody waits for, and those of exchanges in the background. */
  readonly payloadBytesSent: number;
  readonly payloadBytesReceived: number;
  readonly backgroundPayloadBytesSent: number;
  readonly backgroundPayloadBytesReceived: number;
  readonly restarts: readonly number[];
  /** Largest resident memory of any process of that rank. */
  readonly workerPeakBytes: readonly number[];
  /** Seconds in which jobs of that rank have run, as far as it has told. What is left of the time was spent waiting. */
  readonly busySeconds: readonly number[];
}

/** How long the hub waits at the end of a run for workers to say bye, and then for their processes to end. */
const STOP_MS = 3000;
const EXIT_MS = 2000;
/** Someone who connects has this long to say who he is, and at most so many are listened to. */
const JOIN_MS = 5000;
const MAX_STRANGERS = 64;

/**
 * Runs the hub here and every worker in a process of its own.
 *
 * A worker process that ends is started again and the round begins anew from its saves, up to `config.maxRestarts` times
 * in one round. Whatever a stranger sends closes his connection and nothing else. However the run ends, all processes
 * that it has started have ended before.
 *
 * Determinism: the same bits as `runSequential`, and as any other runtime.
 * Communication: see the plan; every phase is one message to each worker and one back.
 *
 * @returns why it ended, and the durable registers; those of the workers only if they share the store of the hub
 * @throws {RunError} when a job throws, a save is missing, or a worker is lost too often; names the worker and round
 * @example A run that can be continued
 * ```typescript
 * import { fileStore, runSockets, spawnBun, type Address } from "cotangent/bun";
 * const store = fileStore("runs/today");
 * const spawn = (rank: number, address: Address) => spawnBun("worker.ts", [String(rank)], { address });
 * const { hub, restarts } = await runSockets({ config, jobs, initial, store, spawn });
 * ```
 *
 * @since 0.1.0
 */
export async function runSockets(options: SocketOptions): Promise<SocketResult> {
  const { config, jobs, initial, store = memoryStore(), signal, onProgress } = options;
  const { host = "127.0.0.1", tickMs = 200, maxFrameBytes = wireDefaults.maxBodyBytes } = options;
  const onNotice = options.onNotice ?? (() => {});
  const ticksOf = (ms: number): number => Math.max(1, Math.ceil(ms / tickMs));
  const ranks = Array.from({ length: config.workers }, (_, rank) => rank);
  const slots = Object.keys(config.background ?? {}).length;
  await seedStore(store, peerName("hub"), initial.hub);
  if (initial.worker !== undefined) {
    for (const rank of ranks) await seedStore(store, peerName(rank), initial.worker(rank));
  }

  const encode = encodedOnce<Body>(partsOfValue, maxFrameBytes);
  const encodeGiven = encodedOnce(encodeValue, maxFrameBytes);
  const seats: Seat[] = [];
  const hub = drive({
    name: peerName("hub"),
    state: hubInit(config),
    step: hubStep(config),
    jobs: jobs.hub,
    store,
    transport: {
      send(to, head, values) {
        if (to !== "hub") seats[to]?.ask(head, values);
      },
    },
    maxQueue: Math.max(config.maxQueue, (8 + slots) * config.workers),
    onRestart: (rank) => seats[rank]?.restart(),
    ...(onProgress === undefined
      ? {}
      : {
          onProgress: (progress: Progress) => onProgress(progress, add(seats.map((seat) => seat.totals()))),
        }),
  });
  // The reason is looked at below; until then nobody listens.
  hub.done.catch(() => {});

  const maxQueueBytes = queueBytes(config, maxFrameBytes);
  const lobby = openLobby(seats, { maxFrameBytes, tickMs }, ticksOf(JOIN_MS), onNotice);
  const listener = acceptConnections(host, options.port ?? 0, maxQueueBytes, lobby.enter, hub.blockedMs);
  for (const rank of ranks) {
    seats.push(
      openSeat({
        rank,
        spawn: options.spawn,
        address: { host, port: listener.port },
        limits: { maxBodyBytes: maxFrameBytes },
        connectTicks: ticksOf(options.connectMs ?? 60_000),
        graceTicks: ticksOf(options.graceMs ?? 3000),
        encode,
        encodeGiven,
        onMessage: (head, values) => hub.receive(rank, head, values),
        onDown: () => hub.post({ k: "down", peer: rank }),
        onNotice,
      }),
    );
  }

  let stoppingTicks = 0;
  const timer = setInterval(() => {
    lobby.tick();
    for (const seat of seats) seat.tick();
    hub.post({ k: "tick" });
    // At the end nobody is waited for as long as in a round.
    stoppingTicks = hub.state().mode === "stopping" ? stoppingTicks + 1 : 0;
    if (stoppingTicks === 0) return;
    for (const rank of ranks) {
      const isLate = stoppingTicks >= ticksOf(STOP_MS);
      if (isLate || seats[rank]!.isGone()) hub.post({ k: "down", peer: rank });
    }
  }, tickMs);
  const stop = (): void => hub.post({ k: "stop" });
  if (signal?.aborted) stop();
  signal?.addEventListener("abort", stop, { once: true });
  let patienceMs = 0;
  try {
    for (const seat of seats) seat.restart();
    await hub.start();
    const ending = await hub.done;
    patienceMs = EXIT_MS;
    if (ending.reason === "failed") throw runError(ending, seats);
    return {
      reason: ending.reason,
      round: ending.round,
      ...(await readValues(store, options, ending.round)),
      ...add(seats.map((seat) => seat.totals())),
    };
  } finally {
    clearInterval(timer);
    signal?.removeEventListener("abort", stop);
    listener.stop();
    lobby.close();
    await Promise.all(seats.map((seat) => seat.end(patienceMs)));
  }
}

/** Encodes every value of a message once, for all the workers that it goes to. */
function encodedOnce<B extends Body>(
  encode: (value: unknown) => B,
  maxFrameBytes: number,
): (head: Head, values: readonly unknown[]) => readonly B[] {
  let message = "";
  let encoded = new Map<unknown, B>();
  const encodeOnce = (value: unknown): B => {
    const body = encoded.get(value) ?? encode(value);
    encoded.set(value, body);
    return body;
  };
  return (head, values) => {
    const key =
      head.k === "give" ? `${head.slot} ${head.version}` : `${head.round} ${head.attempt} ${head.seq}`;
    if (key !== message) encoded = new Map();
    message = key;
    return encodeValues(head, values, maxFrameBytes, encodeOnce);
  };
}

/** Those who have connected and not yet said who they are. */
interface Lobby {
  enter(connection: Connection): void;
  tick(): void;
  close(): void;
}

function openLobby(
  seats: readonly Seat[],
  rules: { readonly maxFrameBytes: number; readonly tickMs: number },
  joinTicks: number,
  onNotice: (text: string) => void,
): Lobby {
  const strangers = new Map<Connection, number>();

  function join(connection: Connection, { head }: Frame): void {
    const { k, rank, token } = isRecord(head) ? head : {};
    const seat = k === "join" && typeof rank === "number" ? seats[rank] : undefined;
    strangers.delete(connection);
    if (seat !== undefined && isSameText(token, seat.token())) {
      seat.take(connection);
      connection.send({ k: "welcome", ...rules }, []);
      return;
    }
    const reason =
      seat === undefined
        ? "it is no worker of this run"
        : `it does not know the word of the present process of worker ${rank}`;
    onNotice(`a connection was refused: ${reason}`);
    connection.listen({}, () => {});
    connection.send({ k: "refused", reason }, []);
    connection.end();
  }

  return {
    enter(connection) {
      if (strangers.size >= MAX_STRANGERS) {
        connection.close("too many others have not said who they are");
        onNotice(`a connection was closed: ${strangers.size} others have not said who they are`);
        return;
      }
      strangers.set(connection, 0);
      connection.onClose((why) => {
        if (strangers.delete(connection))
          onNotice(`a connection was closed before it said who it is: ${why}`);
      });
      connection.listen({ maxHeadBytes: 4096, maxBodies: 0, maxBodyBytes: 0 }, (frame) =>
        join(connection, frame),
      );
    },
    tick() {
      for (const [connection, ticks] of strangers) {
        strangers.set(connection, ticks + 1);
        if (ticks + 1 >= joinTicks) connection.close("it was silent for too long");
      }
    },
    close() {
      for (const connection of [...strangers.keys()]) {
        strangers.delete(connection);
        connection.close("the run has ended");
      }
    },
  };
}

/** Whether two texts are equal, in a time that does not tell where they differ. */
function isSameText(given: unknown, expected: string): boolean {
  if (typeof given !== "string" || expected === "") return false;
  const [a, b] = [Buffer.from(given), Buffer.from(expected)];
  return a.byteLength === b.byteLength && timingSafeEqual(a, b);
}

function runError(
  {
    round,
    failure,
  }: { readonly round: number; readonly failure: { rank: number | null; reason: string } | null },
  seats: readonly Seat[],
): RunError {
  const { rank, reason } = failure!;
  const loss = rank === null ? "" : (seats[rank]?.totals().lastLoss ?? "");
  return new RunError(loss === "" ? reason : `${reason} (worker ${rank} ${loss})`, rank, round);
}

function add(totals: readonly SeatTotals[]): Omit<SocketResult, keyof RunResult> {
  const sum = (of: (seat: SeatTotals) => number): number => totals.reduce((all, seat) => all + of(seat), 0);
  return {
    bytesSent: sum((seat) => seat.bytesSent),
    bytesReceived: sum((seat) => seat.bytesReceived),
    backgroundBytesSent: sum((seat) => seat.backgroundBytesSent),
    backgroundBytesReceived: sum((seat) => seat.backgroundBytesReceived),
    payloadBytesSent: sum((seat) => seat.payloadBytesSent),
    payloadBytesReceived: sum((seat) => seat.payloadBytesReceived),
    backgroundPayloadBytesSent: sum((seat) => seat.backgroundPayloadBytesSent),
    backgroundPayloadBytesReceived: sum((seat) => seat.backgroundPayloadBytesReceived),
    restarts: totals.map((seat) => seat.restarts),
    workerPeakBytes: totals.map((seat) => seat.peakBytes),
    busySeconds: totals.map((seat) => seat.busySeconds),
  };
}
