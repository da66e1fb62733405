/** Real worker processes on the loopback, and what simulation cannot know: deaths, damaged bytes, full buffers. */

import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { encode } from "../../core/safetensors.ts";
import {
  type Address,
  runSockets,
  type SocketOptions,
  type SocketResult,
  spawnBun,
  type WorkerProcess,
} from "../../dist/runtime/bun.ts";
import type { Progress } from "../../dist/runtime/driver.ts";
import { fileStore } from "../../dist/runtime/file_store.ts";
import { RunError, runLocal } from "../../dist/runtime/local.ts";
import { type RunValues, runSequential, synchronous } from "../../dist/runtime/sequential.ts";
import { encodeFrame } from "../../dist/wire.ts";
import { LARGE, setupOf, type Task, type Trouble } from "./fixtures/problem.ts";
import { openRelay } from "./fixtures/relay.ts";

const SCRIPT = new URL("./fixtures/worker.ts", import.meta.url).pathname;
const HUB = new URL("./fixtures/hub.ts", import.meta.url).pathname;
/** No test waits longer for the processes that it starts. */
const LIMIT_MS = 120_000;

const base = mkdtempSync(join(tmpdir(), "cotangent-process-"));
const children: WorkerProcess[] = [];
let nextFolder = 0;

afterAll(() => {
  for (const child of children) child.kill("SIGKILL");
  rmSync(base, { recursive: true, force: true });
});

function newTask(changes: Partial<Task> = {}): Task {
  return { problem: "toy", folder: join(base, String(nextFolder++)), workers: 2, rounds: 3, ...changes };
}

interface Watched {
  readonly result: Promise<SocketResult>;
  readonly notices: readonly string[];
  readonly addresses: readonly Address[];
  readonly progress: readonly Progress[];
}

/** Runs a task over sockets; whatever happens, none of its processes is left. */
function start(task: Task, options: Partial<SocketOptions> = {}): Watched {
  const { config, jobs, initial } = setupOf(task);
  const notices: string[] = [];
  const addresses: Address[] = [];
  const progress: Progress[] = [];
  const own: WorkerProcess[] = [];
  async function run(): Promise<SocketResult> {
    try {
      return await runSockets({
        config,
        jobs,
        initial,
        store: fileStore(task.folder),
        tickMs: 20,
        spawn: (rank, address) => {
          addresses.push(address);
          const child = spawnBun(SCRIPT, [String(rank), JSON.stringify(task)], { address });
          own.push(child);
          children.push(child);
          return child;
        },
        onNotice: (text) => notices.push(text),
        ...options,
        onProgress: (item, traffic) => {
          progress.push(item);
          options.onProgress?.(item, traffic);
        },
      });
    } finally {
      const alive = own.filter(({ pid }) => isAlive(pid)).length;
      expect(alive).toBe(0);
    }
  }
  return { result: run(), notices, addresses, progress };
}

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
}

/** The registers as bytes, so that equal means the same bits. */
function bits({ hub, workers }: RunValues): string {
  const all = { hub: withoutEmpty(hub), workers: workers.map(withoutEmpty) };
  return Buffer.from(encode(all)).toString("latin1");
}

function withoutEmpty(values: Readonly<Record<string, unknown>>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== null));
}

async function failure(result: Promise<unknown>): Promise<RunError> {
  const error = await result.then(
    () => null,
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(RunError);
  return error as RunError;
}

test(
  "processes, one process and plain loops give the same bits",
  async () => {
    const task = newTask({ workers: 3, rounds: 4 });
    const { result, notices, progress } = start(task);
    const got = await result;
    expect(bits(got)).toBe(bits(runSequential(setupOf(task))));
    expect(bits(got)).toBe(bits(await runLocal(setupOf(task))));
    expect(got).toMatchObject({ reason: "finished", round: 4, restarts: [0, 0, 0] });
    expect(notices).toEqual([]);
    expect(progress.filter((item) => item.k === "completed").length).toBe(4);
    expect(got.payloadBytesSent).toBeGreaterThan(0);
    expect(got.bytesSent).toBeGreaterThan(got.payloadBytesSent);
    expect(got.bytesReceived).toBeGreaterThan(got.payloadBytesReceived);
    expect(got.payloadBytesReceived).toBeGreaterThan(0);
    for (const peak of got.workerPeakBytes) expect(peak).toBeGreaterThan(10e6);
  },
  LIMIT_MS,
);

const recoveries: readonly { readonly kind: Trouble; readonly notice: RegExp; readonly deadTicks: number }[] =
  [
    { kind: "kill", notice: /worker 1 has ended with code/, deadTicks: 6000 },
    { kind: "stop", notice: /worker 1 has shown no sign of life/, deadTicks: 100 },
  ];

for (const { kind, notice, deadTicks } of recoveries) {
  test(
    `a worker that gets SIG${kind.toUpperCase()} in a round is started again, and the bits are the same`,
    async () => {
      const task = newTask({ trouble: { rank: 1, kind }, config: { deadTicks, retryTicks: 10 } });
      const { result, notices } = start(task);
      const got = await result;
      expect(bits(got)).toBe(bits(runSequential(setupOf(task))));
      expect(got.restarts).toEqual([0, 1]);
      expect(notices.length).toBe(1);
      expect(notices[0]).toMatch(notice);
    },
    LIMIT_MS,
  );
}

test(
  "a worker that computes for long is not taken for dead: its loop turns, or the limit is longer",
  async () => {
    // The limit is 1.5 s and the computation takes 2.5 s, but the worker can answer.
    const turning = newTask({
      trouble: { rank: 0, kind: "sleep" },
      config: { deadTicks: 75, retryTicks: 15 },
    });
    const got = await start(turning).result;
    expect(got.restarts).toEqual([0, 0]);
    expect(bits(got)).toBe(bits(runSequential(setupOf(turning))));
    // It cannot answer, but the limit is longer.
    const standing = newTask({
      trouble: { rank: 0, kind: "block" },
      config: { deadTicks: 400, retryTicks: 5 },
    });
    const second = await start(standing).result;
    expect(second.restarts).toEqual([0, 0]);
    expect(bits(second)).toBe(bits(got));
  },
  LIMIT_MS,
);

test("a worker that ends every time ends the run, and the error names it, the round and its last words", async () => {
  const task = newTask({ trouble: { rank: 1, kind: "exit" } });
  const { result, notices } = start(task, { tickMs: 200 });
  const error = await failure(result);
  expect(error).toMatchObject({ rank: 1, round: 1 });
  expect(error.message).toMatch(/^Cannot complete round 1: worker 1 is gone after 3 restarts/);
  expect(error.message).toMatch(/code 3; its last words: no more/);
  expect(notices.length).toBe(4);
}, 120_000);

test(
  "a process that cannot be started, or never connects, ends the run too",
  async () => {
    const task = newTask({ config: { maxRestarts: 1 } });
    const missing = start(task, {
      spawn: () => {
        throw new Error("no such machine");
      },
    });
    expect((await failure(missing.result)).message).toMatch(/cannot be started: no such machine/);
    const idle = start(newTask({ config: { maxRestarts: 1 } }), {
      connectMs: 300,
      spawn: () => {
        const child = spawnBun("-e", ["await Bun.sleep(60000)"]);
        children.push(child);
        return child;
      },
    });
    expect((await failure(idle.result)).message).toMatch(/has had no connection for \d+ ticks/);
    expect(children.filter(({ pid }) => isAlive(pid)).length).toBe(0);
  },
  LIMIT_MS,
);

test(
  "a job that throws, or whose value cannot travel, ends the run with the reason",
  async () => {
    const thrown = await failure(start(newTask({ trouble: { rank: 0, kind: "throw" } })).result);
    expect(thrown.rank).toBe(0);
    expect(thrown.message).toMatch(/the data are bad/);
    const closure = await failure(start(newTask({ trouble: { rank: 0, kind: "closure" } })).result);
    expect(closure.rank).toBe(0);
    expect(closure.message).toMatch(/Cannot send value 0 of "answer" \(round 1, .*only trees of tensors/);
  },
  LIMIT_MS,
);

/** What a stranger may send, and what the hub says about it. */
const strangers: readonly {
  readonly name: string;
  readonly bytes: (token: string) => Uint8Array;
  readonly notice: RegExp;
}[] = [
  {
    name: "bytes of another protocol",
    bytes: () => Buffer.from("GET / HTTP/1.1\r\nHost: here\r\n\r\n"),
    notice: /CTG1/,
  },
  {
    name: "a damaged frame",
    bytes: (token) => {
      const bytes = frame({ k: "join", rank: 0, token });
      bytes[30]! ^= 4;
      return bytes;
    },
    notice: /checksum of its content/,
  },
  {
    name: "a frame too large",
    bytes: () => frame({ k: "join", rank: 0, token: "x".repeat(9999) }),
    notice: /head bytes/,
  },
  {
    name: "a wrong word",
    bytes: (token) => frame({ k: "join", rank: 0, token: token.replaceAll(/\d/g, "x") }),
    notice: /refused.* worker 0/,
  },
  {
    name: "the word of another rank",
    bytes: (token) => frame({ k: "join", rank: 1, token }),
    notice: /refused.* worker 1/,
  },
  {
    name: "an unknown rank",
    bytes: (token) => frame({ k: "join", rank: 2, token }),
    notice: /refused.*no worker of this run/,
  },
  {
    name: "a message before joining",
    bytes: () => frame({ k: "hello", round: 0, attempt: 0, seq: 0 }),
    notice: /refused/,
  },
];

function frame(head: unknown): Uint8Array {
  return Buffer.concat(encodeFrame(head, []));
}

test(
  "whatever a stranger sends in the middle of a run costs him the connection and nothing else",
  async () => {
    const task = newTask({ rounds: 6 });
    const visits: Promise<void>[] = [];
    const { result, notices, addresses } = start(task, {
      onProgress: (item) => {
        if (item.k !== "completed" || item.round !== 0) return;
        for (const { bytes } of strangers) visits.push(visit(addresses[0]!, bytes(addresses[0]!.token)));
      },
      // Rounds last long enough for the strangers to be heard.
      jobs: { hub: slow(setupOf(task).jobs.hub) },
    });
    const got = await result;
    expect(visits.length).toBe(strangers.length);
    await Promise.all(visits);
    expect(bits(got)).toBe(bits(runSequential(setupOf(task))));
    expect(got.restarts).toEqual([0, 0]);
    expect(notices.length).toBe(strangers.length);
    for (const { notice } of strangers) expect(notices.some((text) => notice.test(text))).toBe(true);
  },
  LIMIT_MS,
);

/** Connects, sends and waits until the other side has closed. */
async function visit({ host, port }: Address, bytes: Uint8Array): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  await Bun.connect({
    hostname: host,
    port,
    socket: {
      open: (socket) => void socket.write(bytes),
      data() {},
      close: () => resolve(),
    },
  });
  await promise;
}

function slow(jobs: SocketOptions["jobs"]["hub"]): SocketOptions["jobs"]["hub"] {
  return Object.fromEntries(
    Object.entries(jobs).map(([name, job]) => [
      name,
      async (ins: readonly unknown[], args: Parameters<typeof job>[1]) => {
        await Bun.sleep(20);
        return synchronous(job(ins, args), name);
      },
    ]),
  );
}

const interruptions: readonly { readonly how: "cut" | "damage"; readonly notice: RegExp }[] = [
  { how: "cut", notice: /has lost its connection/ },
  { how: "damage", notice: /worker \d has lost its connection: Cannot read a frame/ },
];

for (const { how, notice } of interruptions) {
  test(
    `a connection comes back after a ${how}, without a restart`,
    async () => {
      const task = newTask({ rounds: 4 });
      let isDamaging = false;
      const relay = openRelay((direction, chunk) => {
        if (isDamaging && direction === "up") {
          isDamaging = false;
          chunk[chunk.length - 1]! ^= 1;
        }
        return false;
      });
      let isDone = false;
      const { result, notices } = start(task, {
        spawn: (rank, address) => {
          const child = spawnBun(SCRIPT, [String(rank), JSON.stringify(task)], {
            address: relay.to(address),
          });
          children.push(child);
          return child;
        },
        onProgress: (item) => {
          if (item.k !== "completed" || item.round !== 1 || isDone) return;
          isDone = true;
          if (how === "cut") relay.cut();
          else isDamaging = true;
        },
      });
      try {
        const got = await result;
        expect(isDone).toBe(true);
        expect(bits(got)).toBe(bits(runSequential(setupOf(task))));
        expect(got.restarts).toEqual([0, 0]);
        expect(notices.some((text) => notice.test(text))).toBe(true);
      } finally {
        relay.close();
      }
    },
    LIMIT_MS,
  );
}

test(
  "an interrupt from the keyboard, which reaches workers too, is left to the hub",
  async () => {
    const task = newTask({ rounds: 4 });
    const pids: number[] = [];
    const { result, notices } = start(task, {
      spawn: (rank, address) => {
        const child = spawnBun(SCRIPT, [String(rank), JSON.stringify(task)], { address });
        children.push(child);
        pids.push(child.pid);
        return child;
      },
      onProgress: (item) => {
        if (item.k === "completed" && item.round === 1) for (const pid of pids) process.kill(pid, "SIGINT");
      },
    });
    const got = await result;
    expect(pids.length).toBe(2);
    expect(got).toMatchObject({ reason: "finished", restarts: [0, 0] });
    expect(notices).toEqual([]);
  },
  LIMIT_MS,
);

test(
  "a process with the word of an earlier life is refused and ends; the right word replaces a connection",
  async () => {
    const task = newTask({ rounds: 6 });
    const visits: Promise<void>[] = [];
    let stale: WorkerProcess | null = null;
    const { result, notices, addresses } = start(task, {
      onProgress: (item) => {
        if (item.k !== "completed" || item.round !== 0) return;
        const address = addresses[0]!;
        stale = spawnBun(SCRIPT, ["0", JSON.stringify(task)], {
          address: { ...address, token: "of before" },
        });
        children.push(stale);
        visits.push(visit(address, frame({ k: "join", rank: 0, token: address.token })));
      },
      jobs: { hub: slow(setupOf(task).jobs.hub) },
    });
    const got = await result;
    await Promise.all(visits);
    expect(bits(got)).toBe(bits(runSequential(setupOf(task))));
    expect(got.restarts).toEqual([0, 0]);
    const process = stale as WorkerProcess | null;
    expect(await process?.exited).toBe(1);
    expect(process?.lastWords?.()).toMatch(
      /Cannot serve worker 0: the hub at .* refuses it .*the present process/,
    );
    expect(notices.length).toBe(1);
  },
  LIMIT_MS,
);

test(
  "workers do not outlive a hub that was killed, and a new hub goes on from its saves",
  async () => {
    const task = newTask({ rounds: 5 });
    const hub = spawnBun(HUB, [SCRIPT, JSON.stringify(task)]);
    children.push(hub);
    expect(await hub.exited).toBe(137);
    const pids = readFileSync(join(task.folder, "pids"), "utf8").trim().split("\n").map(Number);
    expect(pids.length).toBe(2);
    // They give up after two seconds without a hub.
    for (let i = 0; i < 200 && pids.some(isAlive); i++) await Bun.sleep(50);
    expect(pids.filter(isAlive)).toEqual([]);
    const { result, progress } = start(task);
    expect(bits(await result)).toBe(bits(runSequential(setupOf(task))));
    expect(progress[0]).toMatchObject({ round: 2, attempt: 2 });
  },
  LIMIT_MS,
);

test(
  "an abort ends the round; a second run on the same store goes on to the same bits",
  async () => {
    const task = newTask({ rounds: 8 });
    const controller = new AbortController();
    const first = await start(task, {
      signal: controller.signal,
      onProgress: (item) => {
        if (item.k === "progress" && item.round === 2) controller.abort();
      },
    }).result;
    expect(first).toMatchObject({ reason: "stopped", round: 3 });
    expect(bits(first)).toBe(bits(runSequential(setupOf({ ...task, rounds: 3 }))));
    const second = start(task);
    const got = await second.result;
    expect(got).toMatchObject({ reason: "finished", round: 8 });
    expect(second.progress[0]).toMatchObject({ round: 3 });
    expect(bits(got)).toBe(bits(runSequential(setupOf(task))));
  },
  LIMIT_MS,
);

test(
  "messages of 20 MB arrive whole, with empty values and trees beside them",
  async () => {
    const task = newTask({ problem: "large", rounds: 2 });
    const got = await start(task).result;
    expect(bits(got)).toBe(bits(runSequential(setupOf(task))));
    expect(got.hub["nothing"]).toBeNull();
    // Two rounds, two workers.
    expect(got.payloadBytesSent).toBeGreaterThan(4 * 4 * LARGE);
    expect(got.payloadBytesSent).toBeLessThan(4 * 4 * LARGE + 10_000);
    expect(got.payloadBytesReceived).toBeGreaterThan(4 * 4 * LARGE);
  },
  LIMIT_MS,
);

test(
  "a message above the limit ends the run with the two sizes, wherever it was to be sent",
  async () => {
    const hub = start(newTask({ problem: "large", rounds: 1 }), { maxFrameBytes: 1e6 });
    await expect(hub.result).rejects.toThrow(/Cannot send "ask" .* at most 1000000 .* raise maxFrameBytes/);
    const worker = start(newTask(), { maxFrameBytes: 100 });
    await expect(worker.result).rejects.toThrow(/Cannot send "a(?:nswer|sk)" .* at most 100 /);
  },
  LIMIT_MS,
);
