/** Pieces of frames that nobody waits for: on a model of a link, on a real connection, and between real processes. */

import { afterAll, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { encode } from "../../core/safetensors.ts";
import {
  type Address,
  runSockets,
  type SocketOptions,
  type SocketResult,
  spawnBun,
  type WorkerProcess,
} from "../../dist/runtime/bun.ts";
import { acceptConnections, type Connection, openConnection } from "../../dist/runtime/connection.ts";
import { fileStore } from "../../dist/runtime/file_store.ts";
import { pieceBounds, pieceReader, pieceSender } from "../../dist/runtime/pieces.ts";
import { type RunValues, runSequential } from "../../dist/runtime/sequential.ts";
import { encodeFrame, type Frame, frameBytes, frameReader } from "../../dist/wire.ts";
import { setupOf, type Task, WIDE } from "./fixtures/problem.ts";
import { type Direction, openRelay } from "./fixtures/relay.ts";

const MEGABYTE = 2 ** 20;
const KIBIBYTE = 2 ** 10;
const FIRST_WINDOW = 16 * KIBIBYTE;
const LIMIT_MS = 120_000;

const bytesOf = (parts: readonly Uint8Array[]): number =>
  parts.reduce((sum, part) => sum + part.byteLength, 0);
const taken = (bytes: number, blockedMs = 0): Record<string, unknown> => ({ k: "took", bytes, blockedMs });
const posting = (key: string, slot = key): { slot: string; key: string } => ({ slot, key });

// ---- pieces on a model of a link

/**
 * Sends for 10 s of model time through a link that carries one piece after the other. Gives the share of the link's time that
 * was used, and the longest time that a frame in front would have waited for pieces, both from 3 s on.
 */
function through(bytesPerMs: number, latencyMs: number): readonly [used: number, waitMs: number] {
  const sender = pieceSender();
  const body = new Uint8Array(50 * MEGABYTE);
  const acks: { readonly at: number; readonly bytes: number }[] = [];
  let [now, free, used, waitMs] = [0, 0, 0, 0];
  while (now < 10_000) {
    if (sender.waitingBytes() < 10 * MEGABYTE) sender.add(posting(`a ${now}`, `${now}`), {}, [body]);
    const piece = sender.next(now, 0);
    if (piece !== null) {
      const bytes = bytesOf(piece);
      free = Math.max(free, now) + bytes / bytesPerMs;
      acks.push({ at: free + 2 * latencyMs, bytes });
      if (now > 3000) waitMs = Math.max(waitMs, free - now);
      continue;
    }
    const ack = acks.shift()!;
    now = ack.at;
    if (now > 3000) used += ack.bytes / bytesPerMs;
    expect(sender.took(taken(ack.bytes), now, 0)).toBe(true);
  }
  return [used / 7000, waitMs];
}

test("pieces fill the link and hardly queue on it, whatever its speed and length", () => {
  for (const bytesPerMs of [500, 12_500, 125_000]) {
    for (const latencyMs of [0, 1, 20]) {
      const [used, waitMs] = through(bytesPerMs, latencyMs);
      const { smallBytes, maxWindowBytes } = pieceBounds;
      const most = Math.min(1, maxWindowBytes / (bytesPerMs * 2 * latencyMs));
      expect(used).toBeGreaterThan(0.75 * most);
      // The aim and as much again, and the piece itself, which keeps a slow link for a few milliseconds at most.
      expect(waitMs).toBeLessThan(6 + Math.min(4, (2 * smallBytes) / bytesPerMs));
    }
  }
}, 120_000);

test.each([
  // For all; every so often each of four posts so much: 27 ms of the link, and 72.
  [60_000, 400_000, 60, 6],
  [2_000, 36_000, 150, 8],
] as const)(
  "workers that all post short frames at once leave room for frames in front, and their own are through in time, at %i bytes in a millisecond",
  (bytesPerMs, size, periodMs, mostMs) => {
    const [latencyMs, posts] = [0.1, 60];
    const senders = Array.from({ length: 4 }, pieceSender);
    const acks: { readonly at: number; readonly bytes: number; readonly rank: number }[] = [];
    let [free, waitMs, latestMs] = [0, 0, 0];
    for (let post = 0; post < posts; post++) {
      const begun = post * periodMs;
      for (const sender of senders) sender.add(posting(`a ${post}`, "a"), {}, [new Uint8Array(size)]);
      let now = begun;
      for (;;) {
        senders.forEach((sender, rank) => {
          for (let piece = sender.next(now, 0); piece !== null; piece = sender.next(now, 0)) {
            const bytes = bytesOf(piece);
            free = Math.max(free, now) + bytes / bytesPerMs;
            acks.push({ at: free + 2 * latencyMs, bytes, rank });
            if (post >= posts / 2) waitMs = Math.max(waitMs, free - now);
          }
        });
        const ack = acks.shift();
        if (ack === undefined) break;
        now = ack.at;
        expect(senders[ack.rank]!.took(taken(ack.bytes), now, 0)).toBe(true);
      }
      if (post >= posts / 2) latestMs = Math.max(latestMs, now - begun);
    }
    // The aim and as much again, on a slow link a piece of each; nearly as fast as all at once.
    expect(waitMs).toBeLessThan(mostMs);
    expect(latestMs).toBeLessThan(1.25 * ((4 * size) / bytesPerMs));
  },
);

test("a process that computes is not taken for a slow link, and a slow link is seen through it", () => {
  const sizes = [true, false].map((isTold) => {
    const sender = pieceSender();
    sender.add(posting("a"), {}, [new Uint8Array(60 * MEGABYTE)]);
    let now = 0;
    let blockedMs = 0;
    const one = (ms: number, blocked: number): void => {
      const bytes = bytesOf(sender.next(now, 0)!);
      now += ms;
      blockedMs += blocked;
      expect(sender.took(taken(bytes, blockedMs), now, 0)).toBe(true);
    };
    for (let i = 0; i < 30; i++) one(1, 0);
    const before = sender.windowBytes();
    for (let i = 0; i < 40; i++) one(50, isTold ? 50 : 0);
    return sender.windowBytes() / before;
  });
  expect(sizes[0]).toBe(1);
  expect(sizes[1]).toBeLessThan(0.3);
});

test("frames arrive whole and in order, whatever their sizes and whenever a piece is taken", () => {
  const frame = fc.array(fc.integer({ min: 0, max: 3000 }), { maxLength: 100 });
  fc.assert(
    fc.property(
      fc.array(frame, { minLength: 1, maxLength: 5 }),
      fc.array(fc.boolean(), { minLength: 1 }),
      (all, waits) => {
        const sender = pieceSender();
        const reader = pieceReader({});
        const bodies = all.map((sizes) => sizes.map((size, i) => new Uint8Array(size).fill(i + 1)));
        for (const [i, own] of bodies.entries()) sender.add(posting(`f${i}`), { i }, own);
        const got: Frame[] = [];
        const underWay: number[] = [];
        for (let turn = 0; sender.waitingBytes() > 0 || underWay.length > 0; turn++) {
          const piece = waits[turn % waits.length] ? null : sender.next(turn, 0);
          if (piece !== null) {
            expect(bytesOf(piece)).toBeLessThanOrEqual(pieceBounds.maxBytes);
            const { frames, error } = reader.feed(piece);
            expect(error).toBeUndefined();
            got.push(...frames);
            underWay.push(bytesOf(piece));
          } else if (underWay.length > 0) expect(sender.took(taken(underWay.shift()!), turn, 0)).toBe(true);
          else if (waits.every(Boolean)) break;
          expect(sender.underWayBytes()).toBe(underWay.reduce((sum, bytes) => sum + bytes, 0));
          expect(sender.underWayBytes()).toBeLessThanOrEqual(
            Math.max(sender.windowBytes(), pieceBounds.smallBytes),
          );
        }
        if (!waits.every(Boolean)) {
          expect(got.map(({ head }) => head)).toEqual(all.map((_, i) => ({ i })));
          expect(got.map((one) => one.bodies.map((body) => [...body]))).toEqual(
            bodies.map((own) => own.map((b) => [...b])),
          );
        }
      },
    ),
    { numRuns: 30 },
  );
});

test("a newer frame of a slot replaces one that has not begun to leave, and no other", () => {
  const sender = pieceSender();
  const body = [new Uint8Array(100 * KIBIBYTE)];
  sender.add(posting("a 1", "a"), { k: "a1" }, body);
  sender.add(posting("b 1", "b"), { k: "b1" }, body);
  const reader = pieceReader({});
  const heads: unknown[] = [];
  const move = (): void => {
    const piece = sender.next(0, 0)!;
    heads.push(...reader.feed(piece).frames.map(({ head }) => (head as { k: string }).k));
    sender.took(taken(bytesOf(piece)), 0, 0);
  };
  move();
  sender.add(posting("a 2", "a"), { k: "a2" }, body);
  sender.add(posting("b 2", "b"), { k: "b2" }, body);
  expect(["a 1", "a 2", "b 1", "b 2"].filter(sender.has)).toEqual(["a 1", "a 2", "b 2"]);
  while (sender.waitingBytes() > 0) move();
  expect(heads).toEqual(["a1", "a2", "b2"]);
  expect(sender.has("a 2")).toBe(false);
});

test("words about pieces that cannot be are refused", () => {
  const sender = pieceSender();
  expect(sender.took(taken(1), 0, 0)).toBe(false);
  sender.add(posting("a"), {}, [new Uint8Array(MEGABYTE)]);
  const bytes = bytesOf(sender.next(0, 0)!);
  for (const head of [
    taken(bytes + 1),
    taken(bytes, -1),
    taken(bytes, Number.NaN),
    {},
    { ...taken(bytes), bytes: "1" },
  ]) {
    expect(sender.took(head, 1, 0)).toBe(false);
  }
  expect(sender.took(taken(bytes, 5), 1, 0)).toBe(true);
  const next = bytesOf(sender.next(1, 0)!);
  // Time does not run back.
  expect(sender.took(taken(next, 4), 2, 0)).toBe(false);
  const wrong = [[], [new Uint8Array(0)], [new Uint8Array(pieceBounds.maxBytes + 1)], [new Uint8Array(30)]];
  for (const parts of wrong) expect(pieceReader({}).feed(parts).error).toBeDefined();
  const large = encodeFrame({}, [new Uint8Array(100)]);
  expect(pieceReader({ maxBodyBytes: 99 }).feed(large).error?.k).toBe("oversize");
});

// ---- on a real connection

async function withPair(use: (client: Connection, server: Connection) => Promise<void>): Promise<void> {
  const accepted = Promise.withResolvers<Connection>();
  const listener = acceptConnections("127.0.0.1", 0, 100 * MEGABYTE, accepted.resolve);
  const client = await openConnection("127.0.0.1", listener.port, 100 * MEGABYTE, 5000);
  const server = await accepted.promise;
  try {
    await use(client, server);
  } finally {
    client.close("the test has ended");
    server.close("the test has ended");
    listener.stop();
  }
}

/** A listener that reads frames and answers with bytes of its own. */
async function withRaw(
  use: (
    client: Connection,
    raw: {
      readonly frames: Frame[];
      send(head: unknown, bodies?: readonly Uint8Array[]): void;
      until(count: () => boolean): Promise<void>;
    },
  ) => Promise<void>,
): Promise<void> {
  const frames: Frame[] = [];
  const reader = frameReader();
  const opened = Promise.withResolvers<Bun.Socket<undefined>>();
  let changed = Promise.withResolvers<void>();
  const server = Bun.listen<undefined>({
    hostname: "127.0.0.1",
    port: 0,
    socket: {
      open: (socket) => opened.resolve(socket),
      data(_, chunk) {
        frames.push(...reader.feed(new Uint8Array(chunk)).frames);
        changed.resolve();
      },
    },
  });
  const client = await openConnection("127.0.0.1", server.port, 100 * MEGABYTE, 5000);
  const socket = await opened.promise;
  client.listen({}, () => {});
  try {
    await use(client, {
      frames,
      send: (head, bodies = []) => void socket.write(Buffer.concat(encodeFrame(head, bodies))),
      async until(isThere) {
        while (!isThere()) {
          changed = Promise.withResolvers();
          await changed.promise;
        }
      },
    });
  } finally {
    client.close("the test has ended");
    server.stop(true);
  }
}

const kind = ({ head }: Frame): unknown => (head as { k: unknown }).k;

test("a frame that somebody waits for has no more than a window of pieces in front of it", async () => {
  await withRaw(async (client, raw) => {
    const body = Uint8Array.from({ length: 10 * MEGABYTE }, (_, i) => i % 251);
    client.post(posting("wide"), { k: "wide" }, [body]);
    client.post(posting("wide"), { k: "never" }, [body]);
    expect(client.pendingBytes()).toBeGreaterThan(9 * MEGABYTE);
    client.send({ k: "first" }, []);
    const pieces = (): Frame[] => raw.frames.filter((frame) => kind(frame) === "piece");
    const moved = (): number => pieces().reduce((sum, { bodies }) => sum + bytesOf(bodies), 0);
    await raw.until(() => raw.frames.some((frame) => kind(frame) === "first"));
    expect(moved()).toBeLessThanOrEqual(FIRST_WINDOW);
    expect(moved()).toBeGreaterThan(FIRST_WINDOW / 2);
    // Nothing is taken, so nothing more comes, but what somebody waits for does.
    client.send({ k: "second" }, [new Uint8Array(MEGABYTE)]);
    await raw.until(() => raw.frames.some((frame) => kind(frame) === "second"));
    expect(moved()).toBeLessThanOrEqual(FIRST_WINDOW);
    // Everything is taken at once: it comes whole.
    const inner = pieceReader({});
    const whole: Frame[] = [];
    for (let at = 0; whole.length === 0; at++) {
      await raw.until(() => pieces().length > at);
      const { bodies } = pieces()[at]!;
      whole.push(...inner.feed(bodies).frames);
      raw.send(taken(bytesOf(bodies)));
    }
    expect(whole[0]!.head).toEqual({ k: "wide" });
    expect(Buffer.compare(whole[0]!.bodies[0]!, body)).toBe(0);
    expect(client.isPosting("wide")).toBe(false);
    expect(client.pendingBytes()).toBe(0);
    const sent = pieces().reduce((sum, { head, bodies }) => sum + frameBytes(head, bodies), 0);
    expect(client.backgroundBytesSent()).toBe(sent);
  });
});

test("both directions at once, with frames in front: all arrive whole, those in front in order, and every byte is counted", async () => {
  await withPair(async (client, server) => {
    const got: Record<string, unknown[]> = { client: [], server: [] };
    const wide: Record<string, Uint8Array[]> = { client: [], server: [] };
    const all = Promise.withResolvers<void>();
    const body = (seed: number, megabytes: number): Uint8Array =>
      Uint8Array.from({ length: megabytes * MEGABYTE + seed }, (_, i) => (i * seed) % 253);
    const ends = { client, server };
    for (const name of ["client", "server"] as const) {
      ends[name].listen({}, ({ head, bodies }) => {
        if (kind({ head, bodies }) === "wide") wide[name]!.push(bodies[0]!);
        else got[name]!.push((head as { i: number }).i);
        const isAll = Object.values(wide).every((list) => list.length === 2);
        if (isAll && Object.values(got).every((list) => list.length === 50)) all.resolve();
      });
    }
    client.post(posting("a"), { k: "wide" }, [body(3, 4)]);
    server.post(posting("a"), { k: "wide" }, [body(5, 3)]);
    client.post(posting("b"), { k: "wide" }, [body(7, 1)]);
    server.post(posting("b"), { k: "wide" }, [body(11, 2)]);
    for (let i = 0; i < 50; i++) {
      client.send({ i }, [new Uint8Array(i * 1000)]);
      server.send({ i }, []);
      await new Promise((resolve) => setTimeout(resolve, 0));
    }
    await all.promise;
    const numbers = Array.from({ length: 50 }, (_, i) => i);
    expect(got).toEqual({ client: numbers, server: numbers });
    const same = (a: Uint8Array, b: Uint8Array): void => expect(Buffer.compare(a, b)).toBe(0);
    same(wide["server"]![0]!, body(3, 4));
    same(wide["server"]![1]!, body(7, 1));
    same(wide["client"]![0]!, body(5, 3));
    same(wide["client"]![1]!, body(11, 2));
    // The last words that pieces have arrived may still be on their way.
    while (client.backgroundBytesReceived() < server.backgroundBytesSent()) await Bun.sleep(1);
    expect(client.backgroundBytesReceived()).toBe(server.backgroundBytesSent());
    expect(client.backgroundBytesSent()).toBeGreaterThan(5 * MEGABYTE);
    const front = numbers.reduce((sum, i) => sum + frameBytes({ i }, [new Uint8Array(i * 1000)]), 0);
    expect(client.bytesSent() - client.backgroundBytesSent()).toBe(front);
  });
});

test("nonsense about pieces closes the connection", async () => {
  const nonsense: readonly (readonly [unknown, readonly Uint8Array[], RegExp])[] = [
    [{ k: "piece" }, [], /Cannot take a piece: it has 0 bytes/],
    [{ k: "piece" }, [new Uint8Array(2 * MEGABYTE)], /it has 2097152 bytes/],
    [{ k: "piece" }, [new Uint8Array(30)], /does not start with CTG1/],
    [{ k: "took", bytes: 5, blockedMs: 0 }, [], /it has taken a piece that was not sent/],
    [{ k: "took" }, [], /it has taken a piece that was not sent/],
  ];
  for (const [head, bodies, reason] of nonsense) {
    await withRaw(async (client, raw) => {
      const closed = Promise.withResolvers<string>();
      client.onClose(closed.resolve);
      raw.send(head, bodies);
      expect(await closed.promise).toMatch(reason);
    });
  }
});

test("no piece is put in line while something in front waits for the system", async () => {
  await withRaw(async (client, raw) => {
    client.send({ k: "front" }, [new Uint8Array(30 * MEGABYTE)]);
    expect(client.pendingBytes()).toBeGreaterThan(MEGABYTE);
    client.post(posting("wide"), { k: "wide" }, [new Uint8Array(MEGABYTE)]);
    expect(client.backgroundBytesSent()).toBe(0);
    await raw.until(() => raw.frames.some((frame) => kind(frame) === "piece"));
    expect(raw.frames.map(kind)[0]).toBe("front");
  });
});

test("what waits in the background counts against the limit, and does not hold up the end", async () => {
  await withRaw(async (client, raw) => {
    const closed = Promise.withResolvers<string>();
    client.onClose(closed.resolve);
    client.post(posting("a"), { k: "wide" }, [new Uint8Array(60 * MEGABYTE)]);
    expect(client.isOpen()).toBe(true);
    client.post(posting("b"), { k: "wide" }, [new Uint8Array(60 * MEGABYTE)]);
    expect(await closed.promise).toMatch(/it takes too little: \d+ bytes wait for it/);
    void raw;
  });
  await withRaw(async (client, raw) => {
    client.post(posting("a"), { k: "wide" }, [new Uint8Array(5 * MEGABYTE)]);
    client.send({ k: "bye" }, []);
    client.end();
    expect(client.isOpen()).toBe(false);
    await raw.until(() => raw.frames.some((frame) => kind(frame) === "bye"));
  });
});

// ---- between processes

const HUB = new URL("./fixtures/hub.ts", import.meta.url).pathname;
const SCRIPT = new URL("./fixtures/worker.ts", import.meta.url).pathname;
const base = mkdtempSync(join(tmpdir(), "cotangent-background-"));
const children: WorkerProcess[] = [];
let nextFolder = 0;

afterAll(() => {
  for (const child of children) child.kill("SIGKILL");
  rmSync(base, { recursive: true, force: true });
});

function newTask(changes: Partial<Task> = {}): Task {
  return { problem: "exchange", folder: join(base, String(nextFolder++)), workers: 2, rounds: 5, ...changes };
}

function start(
  task: Task,
  options: Partial<SocketOptions> = {},
  route: (address: Address) => Address = (address) => address,
): Promise<SocketResult> {
  const { config, jobs, initial } = setupOf(task);
  return runSockets({
    config,
    jobs,
    initial,
    store: fileStore(task.folder),
    tickMs: 20,
    spawn: (rank, address) => {
      const child = spawnBun(SCRIPT, [String(rank), JSON.stringify(task)], { address: route(address) });
      children.push(child);
      return child;
    },
    ...options,
  });
}

/** The registers as bytes, so that equal means the same bits. */
function bits({ hub, workers }: RunValues): string {
  return Buffer.from(encode({ hub, workers })).toString("latin1");
}

test(
  "processes and plain loops give the same bits, and what each direction has carried is counted apart",
  async () => {
    const task = newTask({ problem: "wide", rounds: 3 });
    let isGrowing = true;
    let last = 0;
    const got = await start(task, {
      onProgress: (_, traffic) => {
        isGrowing &&= traffic.backgroundBytesSent >= last && traffic.busySeconds.length === 2;
        last = traffic.backgroundBytesSent;
      },
    });
    expect(bits(got)).toBe(bits(runSequential(setupOf(task))));
    expect(got.restarts).toEqual([0, 0]);
    expect(isGrowing).toBe(true);
    // Two workers, and two exchanges of three that were waited for.
    const payload = 2 * 2 * 4 * WIDE;
    for (const bytes of [got.backgroundPayloadBytesSent, got.backgroundPayloadBytesReceived]) {
      expect(bytes).toBeGreaterThan(payload);
      expect(bytes).toBeLessThan(1.5 * payload + 10_000);
    }
    expect(got.backgroundBytesSent).toBeGreaterThan(payload);
    expect(got.backgroundBytesReceived).toBeGreaterThan(payload);
    // The foreground has only small questions.
    expect(got.payloadBytesSent).toBeLessThan(100_000);
    expect(got.payloadBytesReceived).toBeLessThan(100_000);
    expect(got.bytesReceived - got.backgroundBytesReceived).toBeLessThan(200_000);
    for (const seconds of got.busySeconds) expect(seconds).toBeGreaterThan(0);
  },
  LIMIT_MS,
);

test(
  "a worker that is killed with exchanges open is started again, and the bits are the same",
  async () => {
    const task = newTask({ trouble: { rank: 1, kind: "kill" }, config: { retryTicks: 10 } });
    const got = await start(task);
    expect(bits(got)).toBe(bits(runSequential(setupOf(task))));
    expect(got.restarts).toEqual([0, 1]);
  },
  LIMIT_MS,
);

test(
  "a connection that is cut in the middle of pieces comes back, and the part is posted again",
  async () => {
    // Nobody asks again by himself: what was lost comes because the connection is back.
    const task = newTask({ problem: "wide", rounds: 3, config: { retryTicks: 1e6 } });
    // The first connection in each direction is cut when so many bytes have gone that way.
    const cut = new Set<Direction>();
    const relay = openRelay((direction, _, bytes) => {
      const isCut = bytes > MEGABYTE && !cut.has(direction);
      if (isCut) cut.add(direction);
      return isCut;
    });
    try {
      const got = await start(task, {}, relay.to);
      expect(bits(got)).toBe(bits(runSequential(setupOf(task))));
      expect(cut.size).toBe(2);
      expect(got.restarts).toEqual([0, 0]);
    } finally {
      relay.close();
    }
  },
  LIMIT_MS,
);

test(
  "a hub that is killed with exchanges open goes on from its save, and the bits are the same",
  async () => {
    const task = newTask();
    mkdirSync(task.folder, { recursive: true });
    const hub = spawnBun(HUB, [SCRIPT, JSON.stringify(task)]);
    children.push(hub);
    expect(await hub.exited).toBe(137);
    expect(bits(await start(task))).toBe(bits(runSequential(setupOf(task))));
  },
  LIMIT_MS,
);
