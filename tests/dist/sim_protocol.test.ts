import { expect, test } from "bun:test";
import fc from "fast-check";
import { drive, type Job, memoryStore, type Progress } from "../../dist/runtime/driver.ts";
import { RunError, runLocal } from "../../dist/runtime/local.ts";
import { runSequential, synchronous } from "../../dist/runtime/sequential.ts";
import { report, type SimOptions, type SimResult, sameBits, simulate } from "../../dist/sim.ts";
import { faultSchedules } from "./fault_schedules.ts";
import { toySetup, toyWorker } from "./toy.ts";

const runs = Number(process.env["FC_RUNS"] ?? 300);

function check(options: SimOptions): SimResult {
  const result = simulate({ replicated: ["x"], checkReplay: false, ...options });
  if (result.violations.length > 0) throw new Error(report(result));
  return result;
}

test("the toy problem notices the order of a sum, a missing turn and a missing round", () => {
  const { config, jobs, initial } = toySetup(3, 4);
  const reference = runSequential({ config, jobs, initial });
  const mean = jobs.hub["mean"]!;
  const backwards: Job = (ins, args) => mean([...ins].reverse(), args);
  const other = runSequential({ config, jobs: { ...jobs, hub: { ...jobs.hub, mean: backwards } }, initial });
  expect(sameBits(other, reference)).toBe(false);
  const join: Job = (ins, args) => ({
    ...(jobs.hub["join"]!(ins, args) as { outs: unknown[] }),
    notes: [0, 0],
  });
  expect(
    sameBits(runSequential({ config, jobs: { ...jobs, hub: { ...jobs.hub, join } }, initial }), reference),
  ).toBe(false);
  expect(sameBits(runSequential({ config: { ...config, rounds: 3 }, jobs, initial }), reference)).toBe(false);
});

test("without faults: the reference, one attempt, and exactly the messages of the plan", () => {
  for (const workers of [1, 2, 5]) {
    const result = check({ ...toySetup(workers, 2), seed: 1, checkReplay: true });
    expect(result.outcome).toBe("finished");
    // Round 0 asks 2·2 + 1 times; round 1 asks 1 + 3 + 1 times: the note ends the loop in turn 3, and no message is
    // needed for the phase that concerns only the hub.
    const phases = 5 + 5;
    // hello, begin and ready, each question and its answer, stop and bye; a hello before `begin` is not answered.
    expect(result.stats.messages).toBe(workers * (1 + 2 + 2 * phases + 2));
    expect(result.stats).toMatchObject({ attempts: 1, lost: 0, crashes: 0 });
  }
});

test("every schedule of faults ends with the bits of the sequential run", () => {
  const seen = { crashes: 0, lost: 0, duplicated: 0, recovered: 0, longest: 0 };
  fc.assert(
    fc.property(faultSchedules, ({ seed, workers, ...faults }) => {
      const setup = toySetup(workers, 3, { deadTicks: 150 });
      const { outcome, round, stats } = check({ ...setup, seed, faults: { ...faults, horizon: 1000 } });
      expect(outcome).toBe("finished");
      expect(round).toBe(3);
      seen.crashes += stats.crashes;
      seen.lost += stats.lost;
      seen.duplicated += stats.duplicated;
      seen.recovered += stats.attempts > 1 ? 1 : 0;
      seen.longest = Math.max(seen.longest, stats.ticks);
    }),
    { numRuns: runs },
  );
  // The schedules were not all harmless.
  expect(seen.crashes).toBeGreaterThan(runs / 2);
  expect(seen.lost).toBeGreaterThan(runs);
  expect(seen.duplicated).toBeGreaterThan(runs);
  expect(seen.recovered).toBeGreaterThan(runs / 5);
}, 120_000);

test("the hub and a worker may crash at every single place of a run", () => {
  const setup = toySetup(2, 2);
  const places: Record<string, number> = {};
  for (const peer of ["hub", 1] as const) {
    let step = 0;
    for (; ; step++) {
      const result = check({ ...setup, seed: step, faults: { crashes: [{ peer, step }], maxWork: 3 } });
      if (result.stats.crashes === 0) break;
    }
    places[peer] = step;
  }
  // Each of 10 questions is several events and effects; the last place is where the run ends without the crash.
  expect(places["hub"]).toBeGreaterThan(60);
  expect(places["1"]).toBeGreaterThan(40);
});

test("two crashes: a peer falls again while the first fall is being repaired", () => {
  const setup = toySetup(2, 2);
  for (let first = 4; first < 70; first += 3) {
    for (const gap of [1, 2, 4, 7]) {
      for (const peer of ["hub", 0] as const) {
        const crashes = [
          { peer: "hub", step: first },
          { peer, step: first + gap },
        ] as const;
        check({ ...setup, seed: first, faults: { crashes, maxWork: 2, maxDelay: 4 } });
      }
    }
  }
});

test("stop at any time: whole rounds only, and the bits of a shorter sequential run", () => {
  const rounds = new Set<number>();
  for (let stopAt = 0; stopAt < 140; stopAt += 7) {
    const result = check({ ...toySetup(3, 5), seed: stopAt, stopAt });
    expect(result.outcome).toBe(result.round === 5 ? "finished" : "stopped");
    rounds.add(result.round);
  }
  expect([...rounds].sort()).toEqual([0, 1, 2, 3, 4, 5]);
});

test("a note ends a loop early, at every worker alike", () => {
  const result = check({ ...toySetup(2, 4), seed: 3, keepTrace: 10_000 });
  const turns = (round: number): number =>
    result.trace.filter((line) => line.includes(`progress r${round} join`)).length;
  expect([turns(1), turns(3)]).toEqual([3, 2]);
});

test("the same seed gives the same trace, another seed another", () => {
  const faults = { lossRate: 0.1, duplicateRate: 0.1, maxDelay: 9, crashRate: 0.01, horizon: 500 };
  const hashes = [1, 1, 2].map((seed) => check({ ...toySetup(3, 3), seed, faults }).hash);
  expect(hashes[1]).toBe(hashes[0]!);
  expect(hashes[2]).not.toBe(hashes[0]!);
});

test("the checkers notice: impure jobs, replicas that differ, a job that throws, one that is asynchronous", () => {
  const setup = toySetup(2, 2);
  const withGradient = (gradient: Job): SimOptions => ({
    ...setup,
    seed: 1,
    jobs: { ...setup.jobs, worker: (rank) => ({ ...toyWorker(rank), gradient }) },
  });
  let calls = 0;
  const impure = simulate(withGradient(() => ({ outs: [++calls], notes: [calls] })));
  expect(impure.violations.join()).toMatch(/reference: /);
  expect(impure.violations.join()).toMatch(/replay: /);

  const agreement = simulate({ ...setup, seed: 1, replicated: ["x", "own"] });
  expect(agreement.violations).toEqual([expect.stringContaining('agreement: "own" differs at worker-1')]);

  const throwing = simulate(
    withGradient((_, { round, rank }) => {
      if (rank === 1) throw new Error(`no gradient in round ${round}`);
      return { outs: [1], notes: [1] };
    }),
  );
  expect(throwing.outcome).toBe("failed");
  expect(throwing.failure).toEqual({ rank: 1, reason: "Worker 1, round 0: no gradient in round 0" });
  expect(throwing.violations.join()).toMatch(/progress: the run failed/);

  const promised = simulate(withGradient(async () => ({ outs: [1], notes: [1] })));
  expect(promised.failure?.reason).toMatch(/gave a promise, a synchronous function is needed/);
});

test("a worker that never comes back, or has no save, fails the run by name", () => {
  const setup = toySetup(2, 3, { maxRestarts: 2 });
  const cut = simulate({ ...setup, seed: 1, faults: { partitions: [{ peer: 1, from: 30, to: 1e9 }] } });
  expect(cut.failure).toMatchObject({ rank: 1, reason: expect.stringContaining("after 2 restarts") });
  const initial = {
    ...setup.initial,
    worker: (rank: number) => (rank === 1 ? { x: 0.7 } : { x: 0.7, own: 1 }),
  };
  const missing = simulate({ ...setup, initial, seed: 1 });
  expect(missing.failure).toMatchObject({ rank: 1, reason: expect.stringContaining("no complete save") });
});

test("in one process: the reference, with jobs that are whole, asynchronous and in pieces", async () => {
  for (const workers of [1, 3]) {
    const setup = toySetup(workers, 4);
    const slow = (rank: number) => {
      const plain = toyWorker(rank);
      const gradient: Job = async (ins, args) => {
        for (let turn = 0; turn < (rank * 5 + args.round) % 4; turn++) await Promise.resolve();
        return synchronous(plain["gradient"]!(ins, args), "gradient");
      };
      const pieces: Job = function* (ins, args) {
        yield;
        const result = synchronous(plain["gradient"]!(ins, args), "gradient");
        yield;
        return result;
      };
      return { ...plain, gradient: rank === 2 ? pieces : gradient };
    };
    const seen: Progress[] = [];
    const jobs = { hub: setup.jobs.hub, worker: slow };
    const { hub, workers: own, ...end } = await runLocal({ ...setup, jobs, onProgress: (p) => seen.push(p) });
    expect(end).toEqual({ reason: "finished", round: 4 });
    expect(sameBits({ hub, workers: own }, runSequential(setup))).toBe(true);
    expect(seen.filter((p) => p.k === "completed").map((p) => p.round)).toEqual([0, 1, 2, 3]);
  }
});

test("in one process: stop, then continue from the store, and end with the same bits", async () => {
  const setup = toySetup(2, 6);
  const store = memoryStore();
  const stop = new AbortController();
  const onProgress = (p: Progress): void => {
    if (p.k === "progress" && p.round === 2) stop.abort();
  };
  const first = await runLocal({ ...setup, store, onProgress, signal: stop.signal });
  expect(first).toMatchObject({ reason: "stopped", round: 3 });
  expect(await store.rounds("hub")).toEqual([1, 2, 3]);
  expect(await store.rounds("worker-1")).toEqual([1, 2, 3]);
  // As if the hub had been killed after the workers had saved, and its newest save were damaged.
  await store.drop("hub", 3);
  await store.drop("hub", 2);
  const rounds: number[] = [];
  const { hub, workers } = await runLocal({
    ...setup,
    store,
    onProgress: (p) => p.k === "completed" && rounds.push(p.round),
  });
  expect(rounds).toEqual([1, 2, 3, 4, 5]);
  expect(sameBits({ hub, workers }, runSequential(setup))).toBe(true);
});

test("in one process: a computation in pieces lets the event loop turn between them", async () => {
  const seen: number[] = [];
  let piece = 0;
  const setup = toySetup(1, 1);
  const worker = (rank: number) => {
    const plain = toyWorker(rank);
    const gradient: Job = function* (ins, args) {
      for (piece = 1; piece <= 4; piece++) {
        setImmediate(() => seen.push(piece));
        yield;
      }
      return synchronous(plain["gradient"]!(ins, args), "gradient");
    };
    return { ...plain, gradient };
  };
  await runLocal({ ...setup, jobs: { ...setup.jobs, worker } });
  // What a piece asked for happened before the next one, not after all of them.
  expect(seen.slice(0, 4)).toEqual([1, 2, 3, 4]);
});

test("in one process: timers are seen between jobs, so a run can be interrupted", async () => {
  const setup = toySetup(2, 1_000_000);
  const signal = AbortSignal.timeout(20);
  const { reason, round } = await runLocal({ ...setup, signal });
  expect(reason).toBe("stopped");
  expect(round).toBeLessThan(1_000_000);
});

test("in one process: a job that throws rejects with the worker and the reason; so does a store that breaks", async () => {
  const setup = toySetup(2, 2);
  const shard: Job = () => {
    throw new RangeError("the shard is empty");
  };
  const jobs = {
    hub: setup.jobs.hub,
    worker: (rank: number) => (rank === 1 ? { ...toyWorker(1), shard } : toyWorker(0)),
  };
  const error = await runLocal({ ...setup, jobs }).catch((e: unknown) => e);
  expect(error).toBeInstanceOf(RunError);
  expect(error).toMatchObject({ rank: 1, round: 1, message: "Worker 1, round 1: the shard is empty" });

  const store = memoryStore();
  const broken = {
    ...store,
    put(...args: Parameters<typeof store.put>) {
      if (args[0] === "worker-0" && args[1] === 1) throw new Error("disk full");
      return store.put(...args);
    },
  };
  expect(runLocal({ ...setup, store: broken })).rejects.toThrow("disk full");
});

test("a flooded driver keeps at most maxQueue messages and one tick, and drops what they carry", async () => {
  const seen: string[] = [];
  const peer = drive<number>({
    name: "hub",
    state: 0,
    step: (state, event) => {
      seen.push(event.k);
      const body = event.k === "recv" ? event.body : [];
      const drops = body.map((blob) => ({ k: "drop", blob }) as const);
      const failure = { k: "fail", rank: 2, reason: "enough" } as const;
      const end = event.k === "stop" ? [failure, { k: "done", reason: "failed", round: 7 } as const] : [];
      return { state: state + 1, effects: [...drops, ...end] };
    },
    jobs: {},
    store: memoryStore(),
    transport: { send: () => {} },
    maxQueue: 5,
  });
  for (let i = 0; i < 100; i++) {
    peer.receive(0, null, [i, i]);
    peer.post({ k: "tick" });
  }
  peer.post({ k: "stop" });
  expect(await peer.done).toEqual({ reason: "failed", round: 7, failure: { rank: 2, reason: "enough" } });
  expect(seen).toEqual(["recv", "tick", "recv", "recv", "recv", "recv", "stop"]);
  expect([peer.state(), peer.blobCount()]).toEqual([7, 0]);
});

/** Compares with a file; `UPDATE_GOLDEN=1` writes it. */
async function golden(name: string, lines: readonly string[]): Promise<void> {
  const path = `${import.meta.dir}/../golden/${name}.txt`;
  const text = `${lines.join("\n")}\n`;
  if (process.env["UPDATE_GOLDEN"] === "1") await Bun.write(path, text);
  expect(text).toBe(await Bun.file(path).text());
}

test("golden trace: one round without faults", async () => {
  const { trace } = check({ ...toySetup(2, 1), seed: 1, keepTrace: 10_000 });
  await golden("protocol_fault_free", trace);
});

test("golden trace: a worker crashes in the middle of a round and comes back", async () => {
  const crashes = [{ peer: 1, step: 14 }] as const;
  const faults = { crashes, noticeRate: 0, reviveRate: 0 };
  const { trace } = check({ ...toySetup(2, 1), seed: 1, keepTrace: 10_000, faults });
  await golden("protocol_worker_crash", trace);
});
