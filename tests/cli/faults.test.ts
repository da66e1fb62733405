/** What may happen to a run from outside: workers that are killed, strangers at the hub's port. */

import { beforeAll, expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { encodeFrame } from "../../dist/wire.ts";
import {
  checkpointOf,
  curveOf,
  LONG,
  metricsOf,
  type Program,
  signal,
  summaryOf,
  type Undisturbed,
  undisturbed,
  until,
  withPrograms,
  workersOf,
} from "./program_support.ts";

/** No test waits longer for the programs that it starts. */
const LIMIT_MS = 120_000;

let reference: Undisturbed;
beforeAll(async () => {
  reference = await undisturbed();
}, LIMIT_MS);

/** Whatever has happened, the run is the undisturbed one. */
function expectUndisturbed(run: string): void {
  expect(checkpointOf(run)).toBe(reference.checkpoint);
  expect(curveOf(run)).toEqual(reference.curve);
  expect(summaryOf(run)).toMatchObject({ complete: true, steps: 120 });
}

test(
  "a worker that is killed is started again, the program says so, and the bits are the same",
  async () => {
    await withPrograms(async (dir, start) => {
      const run = join(dir, "run");
      const program = start(["train", ...LONG, "--out", "run"]);
      await until(program, () => metricsOf(run).length >= 3);
      const victim = await until(program, () => workersOf(program).get(1));
      signal(victim, "SIGKILL");
      const successor = await until(program, () => {
        const pid = workersOf(program).get(1);
        return pid !== victim && pid;
      });
      expect(successor).not.toBe(victim);
      const { code, err } = await program.ended;
      expect(code).toBe(0);
      expect(err).toMatch(/^worker 1 has ended with code 137/m);
      expect(err.match(/has ended/g)?.length).toBe(1);
      expectUndisturbed(run);
    });
  },
  LIMIT_MS,
);

test(
  "both workers are killed at once, while they measure curvature",
  async () => {
    await withPrograms(async (dir, start) => {
      const program = start(["train", ...LONG, "--out", "run"]);
      await until(program, () => program.err().includes("measuring curvature"));
      for (const pid of workersOf(program).values()) signal(pid, "SIGKILL");
      const { code, err } = await program.ended;
      expect(code).toBe(0);
      expect(err).toMatch(/^worker 0 has ended/m);
      expect(err).toMatch(/^worker 1 has ended/m);
      expectUndisturbed(join(dir, "run"));
    });
  },
  LIMIT_MS,
);

/** Kills a rank whenever it appears, until the program has ended; gives the number of processes. */
async function persecute(program: Program, rank: number): Promise<number> {
  const killed = new Set<number>();
  let hasEnded = false;
  void program.ended.then(() => {
    hasEnded = true;
  });
  while (!hasEnded) {
    const pid = workersOf(program).get(rank);
    if (pid !== undefined && !killed.has(pid)) {
      killed.add(pid);
      signal(pid, "SIGKILL");
    }
    await Bun.sleep(5);
  }
  return killed.size;
}

test(
  "a worker that dies every time ends the run: the error names it and how to continue, and that works",
  async () => {
    await withPrograms(async (dir, start) => {
      const run = join(dir, "run");
      const program = start(["train", ...LONG, "--out", "run"]);
      await until(program, () => metricsOf(run).length >= 3);
      const deaths = await persecute(program, 1);
      const { code, err, out } = await program.ended;
      // Three restarts and the process before them; on a busy machine one may have lived to complete a round.
      expect(deaths).toBeGreaterThanOrEqual(4);
      expect(err.match(/^worker 1 has ended with code 137/gm)?.length).toBe(deaths);
      expect(code).toBe(1);
      expect(out).toBe("");
      expect(err).toMatch(/^Cannot complete round \d+: worker 1 is gone after 3 restarts/m);
      const safe = /^The run is saved up to step (\d+): continue it with --resume run, /m.exec(err);
      expect(Number(safe?.[1])).toBeGreaterThanOrEqual(15);
      // What is safe can be used already.
      expect(checkpointOf(run)).not.toBe(reference.checkpoint);

      const resumed = await start(["train", "--resume", "run"]).ended;
      expect(resumed.err).toMatch(new RegExp(`^resuming at step ${safe![1]} of 120$`, "m"));
      expect(resumed.code).toBe(0);
      expectUndisturbed(run);
    });
  },
  LIMIT_MS,
);

/** A port on which nobody listens at present. */
function freePort(): number {
  const server = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {} } });
  const { port } = server;
  server.stop(true);
  return port;
}

/** Connects, sends bytes, and stays until the other side closes or some time has passed. */
async function visit(port: number, bytes: Uint8Array, patienceMs: number): Promise<void> {
  const closed = Promise.withResolvers<void>();
  const socket = await Bun.connect({
    hostname: "127.0.0.1",
    port,
    socket: { data() {}, close: () => closed.resolve(), error: () => closed.resolve() },
  });
  socket.write(bytes);
  socket.flush();
  await Promise.race([closed.promise, Bun.sleep(patienceMs)]);
  socket.terminate();
}

test(
  "strangers at the port, with noise, damaged frames, half frames and wrong words, are sent away and noticed",
  async () => {
    await withPrograms(async (dir, start) => {
      const port = freePort();
      const run = join(dir, "run");
      const program = start(["train", ...LONG, "--out", "run", "--port", String(port)]);
      await until(program, () => metricsOf(run).length >= 2);
      const frame = (head: unknown): Buffer => Buffer.concat(encodeFrame(head, []));
      const whole = frame({ k: "join", rank: 0, token: "guessed" });
      const half = whole.subarray(0, whole.length - 9);
      const damaged = Buffer.from(whole);
      damaged[damaged.length - 6]! ^= 4;
      const noise = Buffer.from(Array.from({ length: 4096 }, (_, i) => (i * i * 31 + i * 7 + 3) % 251));
      const huge = Buffer.concat([whole.subarray(0, 4), Buffer.alloc(16, 255)]);
      const strangers: readonly (readonly [bytes: Buffer, notice: RegExp])[] = [
        [noise, /before it said who it is/],
        [Buffer.from("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"), /before it said who it is/],
        [damaged, /before it said who it is/],
        [huge, /before it said who it is/],
        [half, /before it said who it is/],
        [whole, /does not know the word of the present process of worker 0/],
        [frame({ k: "join", rank: 7, token: "" }), /it is no worker of this run/],
        [frame({ k: "answer", round: 0, attempt: 1, seq: 1, notes: [] }), /it is no worker of this run/],
        [frame(null), /it is no worker of this run/],
      ];
      const notices = (): readonly string[] => program.err().match(/^a connection was .*$/gm) ?? [];
      // Whoever is still to say who he is when the run ends is not told of: he leaves before.
      await Promise.all(strangers.map(([bytes]) => visit(port, bytes, bytes === half ? 50 : 500)));
      const { code } = await program.ended;
      expect(code).toBe(0);
      expect(notices().length).toBe(strangers.length);
      for (const [, notice] of strangers) expect(notices().some((line) => notice.test(line))).toBe(true);
      expect(program.err()).not.toMatch(/worker \d has/);
      expectUndisturbed(run);
    });
  },
  LIMIT_MS,
);

test(
  "a host that is none of this machine is named, by number or by name, and nothing is left behind",
  async () => {
    await withPrograms(async (dir, start) => {
      // Of the numbers and names that nobody has.
      for (const host of ["203.0.113.7", "nowhere.invalid"]) {
        const { code, err } = await start(["train", ...LONG, "--host", host, "--out", "run"]).ended;
        expect(err).toMatch(new RegExp(`^Cannot use --host ${host}: it is no address of this machine`, "m"));
        expect(code).toBe(2);
        expect(existsSync(join(dir, "run"))).toBe(false);
      }
    });
  },
  LIMIT_MS,
);

test(
  "a port in use is named before anything is computed",
  async () => {
    const server = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {} } });
    try {
      await withPrograms(async (_, start) => {
        const { code, err } = await start(["train", ...LONG, "--port", String(server.port)]).ended;
        expect(err).toMatch(
          new RegExp(`^Cannot use --port ${server.port}: it is in use, a free one or 0 is needed$`, "m"),
        );
        expect(code).toBe(2);
      });
    } finally {
      server.stop(true);
    }
  },
  LIMIT_MS,
);
