import { expect, test } from "bun:test";
import type { Script } from "../../dist/protocol/script.ts";
import { show } from "../../dist/protocol/show.ts";
import { type Config, type Effect, type Event, protocolDefaults } from "../../dist/protocol/types.ts";
import { type WorkerState, workerBlobs, workerInit, workerStep } from "../../dist/protocol/worker.ts";

const script: Script = [
  { name: "first", send: ["z"], worker: { fn: "f", ins: ["x", "z"], outs: ["g"] }, reply: ["g"] },
  { name: "last", worker: { fn: "a", ins: ["x", "g"], outs: ["x"] } },
];
const config: Config = {
  ...protocolDefaults,
  workers: 2,
  rounds: 9,
  script: () => script,
  durable: { hub: ["z"], worker: ["x"] },
};
const step = workerStep(config);

function feed(
  state: WorkerState,
  ...events: readonly Event[]
): { state: WorkerState; effects: readonly Effect[] } {
  let effects: readonly Effect[] = [];
  for (const event of events) ({ state, effects } = step(state, event));
  expect(JSON.parse(JSON.stringify(state))).toEqual(state);
  return { state, effects };
}

const start: Event = { k: "start", rounds: [0] };
const tell = (head: object, ...body: string[]): Event => ({ k: "recv", from: "hub", head, body });
const begin = (round: number, attempt: number): Event => tell({ k: "begin", round, attempt, seq: 0 });
const loaded = (round: number, x = "x0"): Event => ({ k: "loaded", round, blobs: { x }, state: null });
const ask = (round: number, attempt: number, seq: number, ...body: string[]): Event =>
  tell({ k: "ask", round, attempt, seq, phase: seq - 1, iteration: 0, commit: seq === 2 }, ...body);
const computed = (job: number, ...out: string[]): Event => ({ k: "computed", job, out, notes: [job] });
const stop = (attempt: number): Event => tell({ k: "stop", round: 3, attempt, seq: 0 });
const heads = (effects: readonly Effect[]): readonly string[] =>
  effects.map((e) =>
    e.k === "send" ? `${e.head.k} r${e.head.round} a${e.head.attempt} s${e.head.seq}` : e.k,
  );

const begun = [start, begin(3, 5), loaded(3)];
const answered = [...begun, ask(3, 5, 1, "z0"), computed(1, "g0")];
const committing = [...answered, ask(3, 5, 2), computed(2, "x1")];
const committed = [...committing, { k: "saved", round: 4 } as const];

test("a worker says hello, loads exactly the round asked for, and is ready", () => {
  expect(heads(feed(workerInit(1), start).effects)).toEqual(["hello r0 a0 s0"]);
  expect(feed(workerInit(1), start, begin(3, 5)).effects).toEqual([{ k: "load", round: 3 }]);
  const { state, effects } = feed(workerInit(1), ...begun);
  expect(heads(effects)).toEqual(["ready r3 a5 s0"]);
  expect(heads(feed(state, begin(3, 5)).effects)).toEqual(["ready r3 a5 s0"]); // it was lost on the way
  expect(heads(feed(workerInit(1), ...begun, ask(3, 5, 1, "z"), begin(3, 5)).effects)).toEqual([]);
  expect(feed(state, start).effects).toHaveLength(1); // the connection is back: hello again
  expect(feed(state, start).state).toEqual(state);
});

test("a worker without the save says so, every time it is asked", () => {
  const nothing: Event = { k: "loaded", round: 3, blobs: null, state: null };
  const { state, effects } = feed(workerInit(1), start, begin(3, 5), nothing);
  expect(effects).toMatchObject([{ head: { k: "ready", missing: true } }]);
  expect(feed(state, begin(3, 5)).effects).toEqual([{ k: "load", round: 3 }]);
  const partial = feed(workerInit(1), start, begin(3, 5), {
    k: "loaded",
    round: 3,
    blobs: { y: "y0" },
    state: null,
  });
  expect(partial.effects).toMatchObject([{ head: { k: "ready", missing: true } }, { k: "drop", blob: "y0" }]);
});

test("a question is computed once and its answer repeated, payloads included", () => {
  const running = feed(workerInit(1), ...begun, ask(3, 5, 1, "z0"));
  const args = { round: 3, phase: "first", iteration: 0, rank: 1, workers: 2, notes: [], numbers: [] };
  expect(running.effects).toEqual([{ k: "compute", job: 1, fn: "f", args, ins: ["x0", "z0"] }]);
  const busy = feed(running.state, ask(3, 5, 1, "z9"));
  expect(busy.state).toEqual(running.state);
  expect(heads(busy.effects)).toEqual(["busy r3 a5 s1", "drop"]);
  const done = feed(running.state, computed(1, "g0"));
  const expected = {
    k: "send",
    to: "hub",
    head: { k: "answer", round: 3, attempt: 5, seq: 1, notes: [1] },
    body: ["g0"],
  };
  expect(done.effects).toEqual([expected] as unknown as Effect[]);
  const again = feed(done.state, ask(3, 5, 1, "z9"));
  expect(again.state).toEqual(done.state);
  expect(again.effects).toEqual([expected, { k: "drop", blob: "z9" }] as unknown as Effect[]);
});

test("a phase runs only if its number is the next", () => {
  const { state } = feed(workerInit(1), ...answered);
  const skip = tell({ k: "ask", round: 3, attempt: 5, seq: 3, phase: 1, iteration: 0, commit: false });
  expect(heads(feed(state, skip).effects)).toEqual(["lost r3 a5 s3"]);
  expect(feed(state, skip).state).toEqual(state);
});

test("the round is durable before its answer is sent, and the old registers go", () => {
  const saving = feed(workerInit(1), ...committing);
  expect(saving.effects).toEqual([
    { k: "save", round: 4, blobs: { x: "x1" }, state: { round: 4, attempt: 0 } },
    { k: "drop", blob: "x0" },
  ]);
  expect(heads(feed(saving.state, ask(3, 5, 2)).effects)).toEqual(["busy r3 a5 s2"]);
  expect(feed(saving.state, { k: "saved", round: 3 }).effects).toEqual([]);
  const { state, effects } = feed(saving.state, { k: "saved", round: 4 });
  expect(heads(effects)).toEqual(["answer r3 a5 s2", "drop", "drop"]);
  expect(workerBlobs(state)).toEqual(["x1"]);
  expect(show(state)).toBe("worker 1 ready r4 a5 s0 | x");
});

test("after a commit the old answer is repeated and the next round begins without a load", () => {
  const { state } = feed(workerInit(1), ...committed);
  expect(heads(feed(state, ask(3, 5, 2)).effects)).toEqual(["answer r3 a5 s2"]);
  expect(heads(feed(state, ask(4, 5, 1, "z1")).effects)).toEqual(["compute"]);
  expect(heads(feed(state, ask(5, 5, 1, "z1")).effects)).toEqual(["lost r5 a5 s1", "drop"]);
});

test("a fresh process answers lost to every question", () => {
  const { state } = feed(workerInit(1), start);
  expect(heads(feed(state, ask(3, 5, 1, "z")).effects)).toEqual(["lost r3 a5 s1", "drop"]);
  expect(heads(feed(state, ask(3, 5, 2)).effects)).toEqual(["lost r3 a5 s2"]);
  // Also when an old `begin` has put it back to the start of the round, or of the round before.
  expect(heads(feed(workerInit(1), ...begun, ask(3, 5, 2)).effects)).toEqual(["lost r3 a5 s2"]);
  expect(heads(feed(workerInit(1), ...begun, ask(4, 5, 1)).effects)).toEqual(["lost r4 a5 s1"]);
  expect(heads(feed(workerInit(1), ...begun, ask(3, 6, 1)).effects)).toEqual(["lost r3 a6 s1"]);
});

test("what is old or strange changes nothing and leaves nothing behind", () => {
  const strange: readonly Event[] = [
    begin(3, 4),
    begin(2, 5),
    begin(9, 5),
    ask(3, 4, 1, "b"),
    ask(2, 5, 2, "b"),
    stop(4),
    tell({ k: "answer", round: 3, attempt: 5, seq: 1, notes: [] }, "b"),
    tell({ k: "hello", round: 3, attempt: 5, seq: 1 }, "b"),
    tell({ k: "ask", round: 3, attempt: 5, seq: 2, phase: -1, iteration: 0, commit: true }, "b"),
    { k: "recv", from: 0, head: { k: "begin", round: 3, attempt: 9, seq: 0 }, body: ["b"] },
    { k: "down", peer: "hub" },
    { k: "tick" },
    { k: "stop" },
    loaded(3, "b"),
    computed(1, "b"),
    { k: "failed", job: 1, reason: "no" },
    { k: "saved", round: 4 },
  ];
  const { state } = feed(workerInit(1), ...answered);
  for (const event of strange) {
    const next = step(state, event);
    expect(next.state).toEqual(state);
    expect(next.effects.filter((e) => e.k !== "drop")).toEqual([]);
    const carriesB = JSON.stringify(event).includes('"b"');
    expect(next.effects).toEqual(carriesB ? [{ k: "drop", blob: "b" }] : []);
  }
  expect(feed(workerInit(1), ask(3, 5, 1, "z")).effects).toEqual([{ k: "drop", blob: "z" }]);
});

test("a new attempt waits for the operation under way, then everything of the old one is dropped", () => {
  const during: readonly (readonly [busy: readonly Event[], end: Event])[] = [
    [[start, begin(3, 5)], loaded(3)],
    [[...begun, ask(3, 5, 1, "z0")], computed(1, "g0")],
    [[...begun, ask(3, 5, 1, "z0")], { k: "failed", job: 1, reason: "no" }],
    [committing, { k: "saved", round: 4 }],
  ];
  for (const [busy, end] of during) {
    const waiting = feed(workerInit(1), ...busy, begin(3, 7), begin(3, 6), begin(3, 7));
    expect(waiting.effects).toEqual([]);
    const { state, effects } = feed(waiting.state, end);
    expect(effects[0]).toEqual({ k: "load", round: 3 });
    expect(workerBlobs(state)).toEqual([]);
    expect(heads(feed(state, loaded(3)).effects)).toEqual(["ready r3 a7 s0"]);
  }
});

test("a new attempt at the start of a committed round gives the same question the same work", () => {
  const { state } = feed(workerInit(1), ...committed, begin(3, 6), loaded(3), ask(3, 6, 1, "z0"));
  expect(show(state)).toBe("worker 1 computing r3 a6 s1 phase 0.0 | x z");
});

test("a script that differs from the hub's is an error that says so", () => {
  const { state } = feed(workerInit(1), ...begun);
  const far = tell({ k: "ask", round: 3, attempt: 5, seq: 1, phase: 7, iteration: 0, commit: false });
  for (const event of [far, ask(3, 5, 1), ask(3, 5, 1, "z", "y")]) {
    expect(feed(state, event).effects[0]).toMatchObject({
      head: { k: "error", reason: expect.stringContaining("same script") },
    });
  }
});

test("a computation that throws is reported with the worker and the round", () => {
  const { state, effects } = feed(workerInit(1), ...begun, ask(3, 5, 1, "z0"), {
    k: "failed",
    job: 1,
    reason: "boom",
  });
  expect(effects).toMatchObject([
    { head: { k: "error", reason: "Worker 1, round 3: boom" } },
    { k: "drop" },
    { k: "drop" },
  ]);
  expect(workerBlobs(state)).toEqual([]);
  // The message may have been lost: the same question gets the same error again.
  expect(feed(state, ask(3, 5, 1, "z1")).effects).toMatchObject([
    { head: { k: "error", reason: "Worker 1, round 3: boom" } },
    { k: "drop" },
  ]);
  const wrong = feed(workerInit(1), ...begun, ask(3, 5, 1, "z0"), computed(1));
  expect(wrong.effects[0]).toMatchObject({
    head: { k: "error", reason: expect.stringContaining("gave 0 values, 1 are needed") },
  });
});

test("stop ends a worker once and is acknowledged every time; the durable registers stay", () => {
  const { state, effects } = feed(workerInit(1), ...committed, stop(5));
  expect(heads(effects)).toEqual(["bye r3 a5 s0", "done"]);
  const again = feed(state, stop(5));
  expect(heads(again.effects)).toEqual(["bye r3 a5 s0"]);
  expect(workerBlobs(again.state)).toEqual(["x1"]);
  expect(heads(feed(workerInit(1), start, stop(5), stop(5)).effects)).toEqual(["bye r3 a5 s0"]);
  expect(feed(state, begin(3, 9)).effects).toEqual([]);
});
