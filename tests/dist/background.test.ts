/** Exchanges in the background: the bits of the sequential run under every schedule, and what the two roles do with a part. */
import { expect, test } from "bun:test";
import fc from "fast-check";
import { adoptArray } from "../../core/create.ts";
import type { Value } from "../../core/value.ts";
import {
  type HubExchange,
  isComplete,
  resultsOf,
  withPart,
  withResult,
} from "../../dist/protocol/background.ts";
import { type HubState, hubInit, hubStep } from "../../dist/protocol/hub.ts";
import { checkScript, type Phase, type Script } from "../../dist/protocol/script.ts";
import { type Config, type Effect, type Event, protocolDefaults } from "../../dist/protocol/types.ts";
import { type WorkerState, workerInit, workerStep } from "../../dist/protocol/worker.ts";
import { type Job, memoryStore, type Progress } from "../../dist/runtime/driver.ts";
import { runLocal } from "../../dist/runtime/local.ts";
import { type RunSetup, runSequential, synchronous } from "../../dist/runtime/sequential.ts";
import { sharedLink } from "../../dist/shared_link.ts";
import {
  report,
  type SimClock,
  type SimOptions,
  type SimResult,
  sameBits,
  simulate,
} from "../../dist/sim.ts";
import { exchangeScript, exchangeSetup } from "./background_toy.ts";
import { faultSchedules } from "./fault_schedules.ts";

const runs = Number(process.env["FC_RUNS"] ?? 60);

function check(options: SimOptions): SimResult {
  const result = simulate({ checkReplay: false, ...options });
  if (result.violations.length > 0) throw new Error(report(result));
  return result;
}

// ---- what an exchange means

/** Worker p posts 10·t + p after round t; the sum comes back as "sum" two rounds later. */
function sums(rounds: number): RunSetup {
  return {
    config: {
      ...protocolDefaults,
      workers: 3,
      rounds,
      durable: { hub: [], worker: ["kept", "sum", "seen"] },
      background: { only: { send: ["kept"], fn: "sum", receive: ["sum"] } },
      script: (round) => [
        {
          name: "round",
          ...(round % 2 === 0 && round > 0 && { ends: { slot: "only", version: round - 2 } }),
          worker: {
            fn: "round",
            ins: ["kept", "sum", "seen"],
            outs: round % 2 === 0 ? ["seen", "kept"] : ["seen"],
            numbers: [round],
          },
          ...(round % 2 === 0 && { begins: { slot: "only", version: round } }),
        },
      ],
    },
    jobs: {
      hub: { sum: (ins) => ({ outs: [(ins as number[]).reduce((a, b) => a + b)] }) },
      worker: (rank) => ({
        round: (ins, { numbers: [round] }) => {
          const next = [...(ins[2] as number[]), ins[1]];
          return { outs: round! % 2 === 0 ? [next, 10 * round! + rank] : [next] };
        },
      }),
    },
    initial: { hub: {}, worker: () => ({ kept: -1, sum: -1, seen: [] }) },
  };
}

test("a result is seen from its end on and not before, by hand", async () => {
  // Rounds 0 and 1 see what was there; 2 and 3 the sum 0 + 1 + 2 of round 0; 4 and 5 that of round 2, 20 + 21 + 22.
  const expected = [-1, -1, 3, 3, 63, 63];
  for (const { workers } of [
    runSequential(sums(6)),
    await runLocal(sums(6)),
    check({ ...sums(6), seed: 1 }).values!,
  ]) {
    for (const own of workers) expect(own["seen"]).toEqual(expected);
  }
});

test("a run that begins with an exchange open posts what its registers hold", async () => {
  const setup = sums(3);
  const config: Config = {
    ...setup.config,
    script: (round) => setup.config.script(round + 2),
  };
  const initial = { hub: {}, worker: (rank: number) => ({ kept: 100 + rank, sum: -1, seen: [] }) };
  const open = { ...setup, config, initial };
  expect(runSequential(open).workers[1]!["seen"]).toEqual([303, 303, 63]);
  expect((await runLocal(open)).workers[1]!["seen"]).toEqual([303, 303, 63]);
});

test("the toy problem notices an end in another phase, the order of the parts and another version", () => {
  const setup = exchangeSetup(3, 5);
  const reference = runSequential(setup);
  const differs = (changes: Partial<RunSetup>): void =>
    expect(sameBits(runSequential({ ...setup, ...changes }), reference)).toBe(false);
  const moved = (from: string, to: string): Partial<RunSetup> => ({
    config: {
      ...setup.config,
      script: (round) => {
        const find = (name: string): Phase =>
          exchangeScript(round).find((p) => "name" in p && p.name === name) as Phase;
        const { ends } = find(from);
        const without = (p: Phase): Phase => {
          const { ends: _, ...rest } = p;
          return rest;
        };
        return exchangeScript(round).map((item) =>
          "body" in item || ends === undefined
            ? item
            : item.name === from
              ? without(item)
              : item.name === to
                ? { ...item, ends }
                : item,
        );
      },
    },
  });
  differs(moved("close", "open"));
  differs(moved("turn", "open"));
  for (const fn of ["near", "far"]) {
    const job = setup.jobs.hub[fn]!;
    const backwards: Job = (ins, args) => job([...ins].reverse(), args);
    differs({ jobs: { ...setup.jobs, hub: { ...setup.jobs.hub, [fn]: backwards } } });
    const later: Job = (ins, args) => job(ins, { ...args, numbers: [args.numbers[0]! + 1] });
    differs({ jobs: { ...setup.jobs, hub: { ...setup.jobs.hub, [fn]: later } } });
  }
});

// ---- every schedule

test("without faults: the reference, and one message more each way for every part", () => {
  for (const workers of [1, 2, 5]) {
    const result = check({ ...exchangeSetup(workers, 3), seed: 1, checkReplay: true });
    // turn, open, twice between, close and use; "near" in every round, "far" begun in all three and ended in the last two:
    // its last result comes while the last round goes on.
    expect(result.stats.messages).toBe(workers * (1 + 2 + 2 * 3 * 6 + 2 + 2 * (3 + 3)));
    expect(result.stats).toMatchObject({ attempts: 1, lost: 0, crashes: 0, waitedSeconds: null });
  }
});

test("every schedule of faults ends with the bits of the sequential run", () => {
  const seen = { crashes: 0, lost: 0, duplicated: 0, recovered: 0 };
  fc.assert(
    fc.property(faultSchedules, ({ seed, workers, ...faults }) => {
      const setup = exchangeSetup(workers, 5, { deadTicks: 150 });
      const { outcome, round, stats } = check({ ...setup, seed, faults: { ...faults, horizon: 1000 } });
      expect([outcome, round]).toEqual(["finished", 5]);
      seen.crashes += stats.crashes;
      seen.lost += stats.lost;
      seen.duplicated += stats.duplicated;
      seen.recovered += stats.attempts > 1 ? 1 : 0;
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
  const setup = exchangeSetup(2, 2);
  for (const peer of ["hub", 1] as const) {
    let step = 0;
    for (; ; step++) {
      const faults = { crashes: [{ peer, step }], maxWork: 3, maxDelay: 4 };
      if (check({ ...setup, seed: step, faults }).stats.crashes === 0) break;
    }
    expect(step).toBeGreaterThan(60);
  }
});

test("two crashes: a peer falls again while the first fall is being repaired", () => {
  const setup = exchangeSetup(2, 2);
  for (let first = 4; first < 110; first += 7) {
    for (const gap of [1, 3, 8]) {
      for (const peer of ["hub", 0] as const) {
        const crashes = [
          { peer: "hub", step: first },
          { peer, step: first + gap },
        ] as const;
        check({ ...setup, seed: first, faults: { crashes, maxWork: 2, maxDelay: 9 } });
      }
    }
  }
});

test("stop at any time, with exchanges open: the bits of a shorter run", () => {
  const rounds = new Set<number>();
  for (let stopAt = 0; stopAt < 140; stopAt += 9) {
    const result = check({ ...exchangeSetup(3, 4), seed: stopAt, stopAt });
    expect(result.outcome).toBe(result.round === 4 ? "finished" : "stopped");
    rounds.add(result.round);
  }
  expect([...rounds].sort()).toEqual([0, 1, 2, 3, 4]);
});

test("stop with an exchange open, continue from the store, and end with the same bits", async () => {
  for (const stopped of [1, 2, 3]) {
    const setup = exchangeSetup(2, 6);
    const store = memoryStore();
    const stop = new AbortController();
    const onProgress = (p: Progress): void => {
      if (p.k === "progress" && p.round === stopped) stop.abort();
    };
    const first = await runLocal({ ...setup, store, onProgress, signal: stop.signal });
    expect(first).toMatchObject({ reason: "stopped", round: stopped + 1 });
    // As if the newest save of the hub were damaged.
    await store.drop("hub", stopped + 1);
    const { hub, workers } = await runLocal({ ...setup, store });
    expect(sameBits({ hub, workers }, runSequential(setup))).toBe(true);
  }
});

test("in one process: asynchronous jobs of exchanges run beside phases, and the bits are the same", async () => {
  const setup = exchangeSetup(3, 6);
  const running: string[] = [];
  let isBeside = false;
  const slow = Object.fromEntries(
    Object.entries(setup.jobs.hub).map(([name, job]): [string, Job] => [
      name,
      async (ins, args) => {
        running.push(name);
        isBeside ||= running.includes("far") && running.includes("mean");
        for (let turn = 0; turn < (name === "far" ? 40 : 5); turn++)
          await new Promise((r) => setTimeout(r, 0));
        running.splice(running.indexOf(name), 1);
        return synchronous(job(ins, args), name);
      },
    ]),
  );
  const { hub, workers } = await runLocal({ ...setup, jobs: { ...setup.jobs, hub: slow } });
  expect(sameBits({ hub, workers }, runSequential(setup))).toBe(true);
  expect(isBeside).toBe(true);
});

test("an exchange whose function throws, or gives too little, ends the run with the reason", async () => {
  const setup = exchangeSetup(2, 3);
  const withFar = (far: Job): RunSetup => ({
    ...setup,
    jobs: { ...setup.jobs, hub: { ...setup.jobs.hub, far } },
  });
  const thrown = withFar(() => {
    throw new Error("no sum");
  });
  await expect(runLocal(thrown)).rejects.toThrow("no sum");
  await expect(runLocal(withFar(() => ({ outs: [1] })))).rejects.toThrow(
    'Cannot exchange "far": the hub\'s function gave 1 values, 2 are needed',
  );
});

// ---- the hub's side of a slot

test("parts of two versions are never in one reduction, and every result is that of its version", () => {
  const action = fc.record({
    rank: fc.nat({ max: 2 }),
    /** On to the next version if its result has come, otherwise the present one again or an old copy. */
    back: fc.constantFrom(0, 0, 0, 1, 2),
    isNewAttempt: fc.constantFrom(false, false, false, false, false, false, false, true),
  });
  let results = 0;
  let kept = 0;
  fc.assert(
    fc.property(fc.array(action, { minLength: 20, maxLength: 120 }), (actions) => {
      let slot: HubExchange | undefined;
      let attempt = 1;
      // Where each worker is, the version at which an attempt begins, and whether its result has come.
      let from = 1;
      let at = [1, 1, 1];
      let has = [false, false, false];
      for (const { rank, back, isNewAttempt } of actions) {
        if (isNewAttempt) {
          attempt++;
          // A round is replayed from a save that at most the version before has been taken at.
          from = Math.max(from, Math.min(...at) - 1);
          at = at.map(() => from);
          has = at.map(() => false);
          slot = slot && resultsOf({ slot })["slot"];
          continue;
        }
        if (has[rank] && back === 0) {
          at[rank]!++;
          has[rank] = false;
        }
        const version = Math.max(from, at[rank]! - back);
        const next = withPart(
          slot,
          { version, rank, body: [`p${rank} v${version}`] },
          { attempt, workers: 3 },
        );
        slot = next.slot!;
        if (next.give !== null) {
          expect(next.give.result).toEqual([`r${next.give.version}`]);
          expect(next.give.version).toBe(version);
          if (version === at[rank]) has[rank] = true;
          if (version === slot.before?.version) kept++;
        }
        const { parts } = slot;
        for (const [from, part] of parts.entries())
          if (part) expect(part).toEqual([`p${from} v${slot.version}`]);
        // Whoever waits for a version finds it here, or its part is still asked for.
        const lowest = Math.min(...at.filter((_, r) => !has[r]));
        if (Number.isFinite(lowest) && slot.attempt === attempt) {
          const held = [slot.version, slot.before?.version];
          if (lowest < slot.version) expect(held).toContain(lowest);
        }
        if (isComplete(slot)) {
          slot = withResult(slot, [`r${slot.version}`]);
          results++;
          at.forEach((own, r) => {
            if (own === slot!.version) has[r] = true;
          });
        }
      }
    }),
    { numRuns: runs },
  );
  expect(results).toBeGreaterThan(runs);
  expect(kept).toBeGreaterThan(runs / 20);
});

const script: Script = [
  { name: "begin", worker: { fn: "f", ins: ["x"], outs: ["y"] }, begins: { slot: "s", version: 4 } },
  { name: "middle", worker: { fn: "g", ins: ["x"] } },
  { name: "end", ends: { slot: "s", version: 4 }, worker: { fn: "h", ins: ["y", "r"], outs: ["x"] } },
];
const config: Config = {
  ...protocolDefaults,
  workers: 2,
  rounds: 9,
  script: () => script,
  durable: { hub: [], worker: ["x", "y"] },
  background: { s: { send: ["y"], fn: "add", receive: ["r"] } },
  retryTicks: 3,
};
const stamp = { round: 0, attempt: 1 };

function feedHub(...events: readonly Event[]): { state: HubState; effects: readonly Effect[] } {
  let state = hubInit(config);
  let effects: readonly Effect[] = [];
  for (const event of events) ({ state, effects } = hubStep(config)(state, event));
  expect(JSON.parse(JSON.stringify(state))).toEqual(state);
  return { state, effects };
}

const from = (rank: number, head: object, ...body: string[]): Event => ({
  k: "recv",
  from: rank,
  head,
  body,
});
const asking: readonly Event[] = [
  { k: "start", rounds: [0] },
  { k: "loaded", round: 0, blobs: {}, state: { round: 0, attempt: 0 } },
  { k: "saved", round: 0 },
  from(0, { k: "ready", ...stamp, seq: 0, missing: false }),
  from(1, { k: "ready", ...stamp, seq: 0, missing: false }),
];
const post = (rank: number, changes: object = {}, ...body: string[]): Event =>
  from(rank, { k: "post", ...stamp, seq: 1, slot: "s", version: 4, ...changes }, ...body);

test("the hub reduces in rank order whatever the order of arrival, gives to all, and again to who asks again", () => {
  const forward = feedHub(...asking, post(0, {}, "y0"), post(1, {}, "y1"));
  const backward = feedHub(...asking, post(1, {}, "y1"), post(0, {}, "y0"));
  expect(backward).toEqual(forward);
  const args = { round: 0, phase: "s", iteration: 0, rank: null, workers: 2, notes: [[], []], numbers: [4] };
  expect(forward.effects).toEqual([{ k: "compute", job: 1, fn: "add", args, ins: ["y0", "y1"] }]);
  const computed: Event = { k: "computed", job: 1, out: ["r"], notes: [] };
  const done = [...asking, post(0, {}, "y0"), post(1, {}, "y1"), computed];
  const give = { k: "give", ...stamp, seq: 1, slot: "s", version: 4 } as const;
  expect(feedHub(...done).effects).toEqual([
    { k: "send", to: 0, head: give, body: ["r"] },
    { k: "send", to: 1, head: give, body: ["r"] },
    { k: "drop", blob: "y0" },
    { k: "drop", blob: "y1" },
  ]);
  expect(feedHub(...done, post(1, {}, "again")).effects).toEqual([
    { k: "send", to: 1, head: give, body: ["r"] },
    { k: "drop", blob: "again" },
  ]);
  // The next version keeps this result until all have posted it.
  const next = [...done, post(0, { version: 6 }, "n0")];
  expect(feedHub(...next, post(1, {}, "late")).effects[0]).toEqual({
    k: "send",
    to: 1,
    head: give,
    body: ["r"],
  });
  expect(feedHub(...next, post(1, { version: 6 }, "n1")).effects).toMatchObject([
    { k: "compute", job: 2, ins: ["n0", "n1"] },
    { k: "drop", blob: "r" },
  ]);
});

test("a part that does not belong here changes nothing and leaves nothing behind", () => {
  const before = feedHub(...asking, post(0, {}, "y0")).state;
  const strange: readonly Event[] = [
    post(0, {}, "b"), // a repeat
    post(0, { version: 3 }, "b"), // of the past
    post(1, { attempt: 0 }, "b"), // of another attempt
    post(1, { attempt: 2 }, "b"),
    post(1, {}), // a body is missing
    post(1, {}, "b", "c"), // a body too many
    post(1, { slot: "constructor" }, "b"),
    post(1, { slot: 7 }, "b"),
    post(1, { version: -1 }, "b"),
    post(1, { version: 0.5 }, "b"),
    post(2, {}, "b"), // an unknown rank
    from(1, { k: "give", ...stamp, seq: 1, slot: "s", version: 4 }, "b"), // the hub's own word
    { k: "computed", job: 0, out: ["b"], notes: [] },
    { k: "computed", job: 9, out: ["b"], notes: [] },
  ];
  for (const event of strange) {
    const { state, effects } = hubStep(config)(before, event);
    expect({ ...state, silent: before.silent }).toEqual(before);
    expect(effects.filter(({ k }) => k !== "drop")).toEqual([]);
  }
});

test("parts that come while an attempt ends or the run is over are not kept", () => {
  const lost = from(1, { k: "lost", ...stamp, seq: 1 });
  const endings: readonly (readonly Event[])[] = [
    [lost],
    [{ k: "stop" }, lost, { k: "loaded", round: 0, blobs: {}, state: null }, { k: "saved", round: 0 }],
  ];
  for (const ending of endings) {
    const { state } = feedHub(...asking, post(0, {}, "y0"), ...ending);
    expect(state.mode).toMatch(/loading|stopping/);
    expect(state.exchanges).toEqual({});
    const late = hubStep(config)(state, post(1, { attempt: state.attempt }, "late"));
    expect(late).toEqual({ state, effects: [{ k: "drop", blob: "late" }] });
  }
});

// ---- the worker's side

function feedWorker(...events: readonly Event[]): { state: WorkerState; effects: readonly Effect[] } {
  let state = workerInit(1);
  let effects: readonly Effect[] = [];
  for (const event of events) ({ state, effects } = workerStep(config)(state, event));
  expect(JSON.parse(JSON.stringify(state))).toEqual(state);
  return { state, effects };
}

const tell = (head: object, ...body: string[]): Event => ({ k: "recv", from: "hub", head, body });
const ask = (seq: number): Event =>
  tell({ k: "ask", ...stamp, seq, phase: seq - 1, iteration: 0, commit: seq === 3 });
const computed = (job: number, ...out: string[]): Event => ({ k: "computed", job, out, notes: [] });
const tick: Event = { k: "tick" };
const give = tell({ k: "give", ...stamp, seq: 1, slot: "s", version: 4 }, "r4");
const begun: readonly Event[] = [
  { k: "start", rounds: [0] },
  tell({ k: "begin", ...stamp, seq: 0 }),
  { k: "loaded", round: 0, blobs: { x: "x0", y: "y0" }, state: null },
];
const open = [...begun, ask(1), computed(1, "y1")];
const sent = (effects: readonly Effect[]): readonly string[] =>
  effects.map((e) => (e.k === "send" ? `${e.head.k} ${e.body.join()}`.trim() : e.k));

test("a worker posts after its work, keeps the result aside, and takes it at the end and not before", () => {
  expect(sent(feedWorker(...open).effects)).toEqual(["answer", "post y1", "drop"]);
  const given = feedWorker(...open, give);
  expect(given.effects).toEqual([]);
  expect(given.state.registers).toEqual({ x: "x0", y: "y1" });
  expect(
    sent(
      feedWorker(...open, give, tell({ k: "give", ...stamp, seq: 1, slot: "s", version: 4 }, "r")).effects,
    ),
  ).toEqual(["drop"]);
  const middle = feedWorker(...open, give, ask(2), computed(2));
  expect(middle.state.registers).toEqual({ x: "x0", y: "y1" });
  const end = feedWorker(...open, give, ask(2), computed(2), ask(3));
  expect(end.effects).toMatchObject([{ k: "compute", fn: "h", ins: ["y1", "r4"] }]);
  expect(end.state.exchanges).toEqual({});
});

test("a worker waits for a result that is not there, says so, posts again, and goes on when it comes", () => {
  const waiting = [...open, ask(2), computed(2), ask(3)];
  expect(feedWorker(...waiting)).toMatchObject({ effects: [], state: { mode: "waiting" } });
  expect(sent(feedWorker(...waiting, ask(3)).effects)).toEqual(["busy"]);
  expect(sent(feedWorker(...waiting, tick, tick).effects)).toEqual([]);
  expect(sent(feedWorker(...waiting, tick, tick, tick).effects)).toEqual(["post y1"]);
  expect(sent(feedWorker(...waiting, { k: "start", rounds: [0] }).effects)).toEqual(["hello", "post y1"]);
  for (const strange of [
    { version: 5 },
    { version: 3 },
    { slot: "t" },
    { slot: "constructor" },
    { k: "post" },
  ]) {
    const event = tell({ k: "give", ...stamp, seq: 1, slot: "s", version: 4, ...strange }, "b");
    const { state, effects } = feedWorker(...waiting, event);
    expect(state).toEqual(feedWorker(...waiting).state);
    expect(sent(effects)).toEqual(["drop"]);
  }
  expect(feedWorker(...waiting, give).effects).toMatchObject([{ k: "compute", fn: "h", ins: ["y1", "r4"] }]);
  // What an earlier attempt has made has the same bits.
  const old = tell({ k: "give", round: 0, attempt: 0, seq: 9, slot: "s", version: 4 }, "r4");
  expect(feedWorker(...waiting, old).effects).toMatchObject([{ k: "compute", fn: "h", ins: ["y1", "r4"] }]);
});

test("a new attempt ends the waiting; what it has not begun itself is posted from the durable registers", () => {
  const again: readonly Event[] = [
    ...open,
    ask(2),
    computed(2),
    ask(3),
    tell({ k: "begin", round: 1, attempt: 2, seq: 0 }),
  ];
  expect(feedWorker(...again).effects).toMatchObject([{ k: "load", round: 1 }, { k: "drop" }, { k: "drop" }]);
  const asked = tell({ k: "ask", round: 1, attempt: 2, seq: 1, phase: 2, iteration: 0, commit: true });
  const { state, effects } = feedWorker(
    ...again,
    { k: "loaded", round: 1, blobs: { x: "x9", y: "y9" }, state: null },
    asked,
  );
  expect(effects).toMatchObject([
    { k: "send", head: { k: "post", round: 1, attempt: 2, version: 4 }, body: ["y9"] },
  ]);
  expect(state.mode).toBe("waiting");
  const bye = workerStep(config)(state, tell({ k: "stop", round: 1, attempt: 2, seq: 1 }));
  expect(bye.state).toMatchObject({ mode: "done", registers: {}, exchanges: {} });
});

// ---- scripts

test("scripts that would not give the same bits after a crash are refused", () => {
  const background = { s: { send: ["y"], fn: "add", receive: ["r"] } };
  const durable = { hub: ["z"], worker: ["x", "y"] };
  const problem = (...phases: Script): string | null => checkScript(phases, 2, durable, background);
  const begins = (version: number, slot = "s"): Phase => ({ name: `b${version}`, begins: { slot, version } });
  const ends = (version: number): Phase => ({ name: `e${version}`, ends: { slot: "s", version } });
  const writes = (...outs: string[]): Phase => ({ name: "writes", worker: { fn: "w", ins: [], outs } });
  const reads: Phase = { name: "reads", worker: { fn: "w", ins: ["r"] } };
  expect(problem(begins(1), ends(1), begins(3), writes("x"))).toBeNull();
  expect(problem(ends(1), { ...begins(2), ...writes("y") }, writes("x"))).toBeNull();
  // The end comes before the work, the beginning after it.
  expect(
    problem({ ...writes("y"), ends: { slot: "s", version: 1 }, begins: { slot: "s", version: 2 } }),
  ).toBeNull();
  // One that is left is nobody's business.
  expect(problem(begins(1), writes("y"), begins(2), ends(2))).toBeNull();
  expect(problem(ends(1), reads)).toBeNull();
  expect(problem(reads)).toMatch(/Cannot read worker register "r" in phase "reads"/);
  expect(problem(begins(1), writes("y"), ends(1))).toMatch(
    /Cannot write worker register "y" in phase "writes": exchange "s" .* until "e1"/,
  );
  expect(problem(writes("y"), ends(1))).toMatch(/Cannot write worker register "y"/);
  expect(problem(begins(1), { ...ends(1), send: ["z"] })).toBeNull();
  const sending = { hub: ["y"], worker: ["x", "y"] };
  expect(checkScript([begins(1), { ...ends(1), send: ["y"] }], 2, sending, background)).toMatch(
    /Cannot write worker register "y"/,
  );
  expect(problem(begins(2), ends(1))).toMatch(/version 1 ends after version 2, versions must grow/);
  expect(problem(ends(1), ends(1))).toMatch(/version 1 ends after version 1/);
  expect(problem(ends(2), begins(2))).toMatch(/version 2 begins after version 2/);
  expect(problem(begins(-1))).toMatch(/its version is -1, a non-negative integer is needed/);
  expect(problem(begins(1, "t"))).toMatch(/"t" in phase "b1": there is no such slot/);
  expect(problem({ repeat: 2, body: [begins(1)] }, writes("x"))).toMatch(/it is in a loop/);
  const passing = { s: { send: ["x", "q"], fn: "add", receive: [] } };
  expect(checkScript([begins(1)], 2, durable, passing)).toMatch(
    /sends worker register "q", a durable one is needed/,
  );
  const long = { ["x".repeat(257)]: background.s };
  expect(checkScript([begins(1)], 2, durable, long)).toMatch(/its name has 257 characters, at most 256/);
  const marked = { s: { send: ["x"], fn: "add", receive: ["r@0"] } };
  expect(checkScript([begins(1)], 2, durable, marked)).toMatch(/worker register "r@0" contains "@"/);
  expect(checkScript(exchangeScript(0), 2, exchangeSetup(2, 1).config.durable)).toMatch(
    /there is no such slot/,
  );
});

// ---- time

/** One byte per second and no latency; everything but "work" and the messages is free. */
function clock(workSeconds: number): SimClock {
  return {
    tickSeconds: 1,
    compute: (_, fn) => (fn === "work" ? workSeconds : 0),
    save: () => 0,
    link: (bytes) => bytes,
    travel: () => 0,
  };
}

/** An exchange of 8 bytes, and 4 questions with 8 bytes and work each while it is open. */
function timed(hasExchange: boolean, isAwaited: boolean): RunSetup {
  const turn = { slot: "s", version: 1 };
  const vector = adoptArray(new Float64Array([1]), [1]);
  return {
    config: {
      ...protocolDefaults,
      workers: 2,
      rounds: 1,
      retryTicks: 1e6,
      deadTicks: 1e7,
      durable: { hub: ["z"], worker: ["y", "r"] },
      background: { s: { send: ["y"], fn: "first", receive: ["r"] } },
      script: () => [
        { name: "begin", worker: { fn: "nothing", ins: [], outs: [] }, ...(hasExchange && { begins: turn }) },
        { repeat: 4, body: [{ name: "work", send: ["z"], worker: { fn: "work", ins: [], outs: [] } }] },
        { name: "end", ...(isAwaited && { ends: turn }) },
      ],
    },
    jobs: {
      hub: { first: (ins) => ({ outs: [ins[0] as Value] }) },
      worker: () => ({ work: () => ({ outs: [] }), nothing: () => ({ outs: [] }) }),
    },
    initial: { hub: { z: vector }, worker: () => ({ y: vector, r: vector }) },
  };
}

test("with a clock: an exchange uses what the foreground leaves of the link, and waiting is what is left to do", () => {
  const seconds = (
    workSeconds: number,
    hasExchange: boolean,
    isAwaited: boolean,
  ): readonly (number | null)[] => {
    const options = {
      ...timed(hasExchange, isAwaited),
      seed: 1,
      clock: clock(workSeconds),
      faults: { horizon: 0 },
    };
    const { stats } = check(options);
    return [stats.seconds, stats.waitedSeconds];
  };
  for (const workSeconds of [2, 20]) {
    const alone = seconds(workSeconds, false, false);
    // Four questions of 8 bytes to two workers, and the work after each.
    expect(alone).toEqual([4 * (16 + workSeconds), 0]);
    expect(seconds(workSeconds, true, false)).toEqual(alone);
  }
  // Two parts of 8 bytes come and two results go: 32 seconds of the link, which is free while the workers work.
  expect(seconds(2, true, true)).toEqual([4 * 18 + 24, 24]);
  expect(seconds(20, true, true)).toEqual([4 * 36, 0]);
});

test("on a shared link the background moves only while nothing else does, and no time is lost", () => {
  let time = 0;
  const agenda: { due: number; action: () => void }[] = [];
  const link = sharedLink(
    () => time,
    (delay, action) => {
      agenda.push({ due: time + delay, action });
    },
  );
  const arrived: [string, number][] = [];
  const send = (name: string, at: number, seconds: number, isBackground = false): void => {
    const priority = isBackground ? "background" : "foreground";
    agenda.push({ due: at, action: () => link.carry(seconds, () => arrived.push([name, time]), priority) });
  };
  send("low", 0, 4, true);
  send("high", 1, 3);
  send("other", 2, 2);
  send("lower", 7, 1, true);
  while (agenda.length > 0) {
    agenda.sort((x, y) => x.due - y.due);
    const { due, action } = agenda.shift()!;
    time = due;
    action();
  }
  // One second of low; then high and other have the link to themselves, both until 6; low has three left from 6, and
  // shares with lower from 7 on.
  expect(arrived).toEqual([
    ["high", 6],
    ["other", 6],
    ["lower", 9],
    ["low", 10],
  ]);
});
