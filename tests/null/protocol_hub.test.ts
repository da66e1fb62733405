import { expect, test } from "bun:test";
import { type HubState, hubBlobs, hubInit, hubStep } from "../../dist/protocol/hub.ts";
import type { Script } from "../../dist/protocol/script.ts";
import { show } from "../../dist/protocol/show.ts";
import { type Config, type Effect, type Event, protocolDefaults } from "../../dist/protocol/types.ts";

const script: Script = [
  {
    name: "sum",
    worker: { fn: "f", ins: ["x"], outs: ["g"] },
    reply: ["g"],
    hub: { fn: "s", ins: ["g@*"], outs: ["m"] },
  },
  { name: "apply", send: ["m"], worker: { fn: "a", ins: ["x", "m"], outs: ["x"] } },
];
const config: Config = {
  ...protocolDefaults,
  workers: 2,
  rounds: 2,
  script: () => script,
  durable: { hub: ["z"], worker: ["x"] },
  retryTicks: 3,
  deadTicks: 8,
  maxRestarts: 1,
};
const step = hubStep(config);

/** Feeds events and gives the last state and the effects of the last event. */
function feed(state: HubState, ...events: readonly Event[]): { state: HubState; effects: readonly Effect[] } {
  let effects: readonly Effect[] = [];
  for (const event of events) ({ state, effects } = step(state, event));
  // State is plain data: nothing is lost in JSON.
  expect(JSON.parse(JSON.stringify(state))).toEqual(state);
  return { state, effects };
}

const start: Event = { k: "start", rounds: [0] };
const loaded = (round = 0, attempt = 0): Event => ({
  k: "loaded",
  round,
  blobs: { z: "z0" },
  state: { round, attempt },
});
const saved = (round: number): Event => ({ k: "saved", round });
const tick: Event = { k: "tick" };
const from = (rank: number | "hub", head: object, ...body: string[]): Event => ({
  k: "recv",
  from: rank,
  head,
  body,
});
const ready = (rank: number, at = { round: 0, attempt: 1, seq: 0 }): Event =>
  from(rank, { k: "ready", ...at, missing: false });
const answer = (rank: number, seq: number, ...body: string[]): Event =>
  from(rank, { k: "answer", round: 0, attempt: 1, seq, notes: [rank] }, ...body);
const stamped = (k: string, at: object = {}): object => ({ k, round: 0, attempt: 1, seq: 1, ...at });

const asking = [start, loaded(), saved(0), ready(0), ready(1)];
const kinds = (effects: readonly Effect[]): readonly string[] =>
  effects.map((e) => (e.k === "send" ? `${e.head.k}>${e.to}` : e.k));

test("a new attempt is durable before any message carries it", () => {
  const claimed = feed(hubInit(config), { k: "start", rounds: [0, 3, 1] });
  expect(claimed.effects).toEqual([{ k: "load", round: 3 }]);
  const begun = feed(feed(hubInit(config), start).state, loaded(0, 6));
  expect(begun.effects).toEqual([
    { k: "save", round: 0, blobs: { z: "z0" }, state: { round: 0, attempt: 7 } },
  ]);
  expect(kinds(feed(begun.state, saved(0)).effects)).toEqual(["begin>0", "begin>1"]);
  expect(feed(begun.state, saved(5)).effects).toEqual([]);
});

test("an empty store, a lost save and a save without a register are clear failures", () => {
  const reason = (...events: readonly Event[]): string =>
    feed(hubInit(config), ...events)
      .effects.flatMap((e) => (e.k === "fail" ? [e.reason] : []))
      .join();
  expect(reason({ k: "start", rounds: [] })).toContain("store is empty");
  expect(reason(start, { k: "loaded", round: 0, blobs: null, state: null })).toContain("lacks any register");
  expect(reason(start, { k: "loaded", round: 0, blobs: { y: "y0" }, state: null })).toContain("lacks z");
});

test("answers are reduced in rank order, whatever their order of arrival", () => {
  const forward = feed(hubInit(config), ...asking, answer(0, 1, "g0"), answer(1, 1, "g1"));
  const backward = feed(hubInit(config), ...asking, answer(1, 1, "g1"), answer(0, 1, "g0"));
  expect(backward).toEqual(forward);
  const args = {
    round: 0,
    phase: "sum",
    iteration: 0,
    rank: null,
    workers: 2,
    notes: [[0], [1]],
    numbers: [],
  };
  expect(forward.effects).toEqual([{ k: "compute", job: 1, fn: "s", args, ins: ["g0", "g1"] }]);
});

test("replies are released when the hub's work is done, and the next question goes out with its result", () => {
  const { state } = feed(hubInit(config), ...asking, answer(0, 1, "g0"), answer(1, 1, "g1"));
  const { effects } = feed(state, { k: "computed", job: 1, out: ["m0"], notes: [9] });
  expect(kinds(effects)).toEqual(["progress", "ask>0", "ask>1", "drop", "drop"]);
  expect(effects[0]).toMatchObject({ phase: "sum", hub: [9], workers: [[0], [1]] });
  expect(effects[1]).toMatchObject({ body: ["m0"], head: { seq: 2, phase: 1, iteration: 0, commit: true } });
  expect(effects.slice(3)).toEqual([
    { k: "drop", blob: "g0" },
    { k: "drop", blob: "g1" },
  ]);
});

test("what does not answer the question changes nothing and leaves nothing behind", () => {
  const { state } = feed(hubInit(config), ...asking, answer(1, 1, "g1"));
  const strange: readonly Event[] = [
    answer(1, 1, "again"), // a repeat
    answer(0, 2, "b"), // of the future
    answer(0, 0, "b"), // of the past
    from(0, stamped("answer", { attempt: 0, notes: [] }), "b"),
    from(0, stamped("answer", { attempt: 2, notes: [] }), "b"),
    from(0, stamped("answer", { round: 1, notes: [] }), "b"),
    from(0, stamped("answer", { notes: [] })), // a body is missing
    from(0, stamped("answer", { notes: [] }), "b", "c"), // a body too many
    from(2, stamped("answer", { notes: [] }), "b"), // unknown ranks
    from(-1, stamped("answer", { notes: [] }), "b"),
    from(0.5, stamped("answer", { notes: [] }), "b"),
    from("hub", stamped("answer", { notes: [] }), "b"),
    from(0, stamped("answer", { notes: "no" }), "b"), // nonsense
    from(0, stamped("what"), "b"),
    from(0, [], "b"),
    from(0, stamped("ask", { phase: 0, iteration: 0, commit: false }), "b"), // the hub's own words
    from(0, stamped("stop"), "b"),
    from(0, stamped("begin", { seq: 0 }), "b"),
    from(0, stamped("bye"), "b"),
    from(1, stamped("lost")), // has answered: the next question will show
    from(0, stamped("lost", { seq: 0 })),
    from(0, stamped("lost", { attempt: 0 })),
    ready(0, { round: 0, attempt: 1, seq: 1 }),
    saved(0),
    saved(1),
    loaded(),
    start,
    { k: "computed", job: 1, out: ["b"], notes: [] },
    { k: "failed", job: 1, reason: "no" },
    { k: "down", peer: 7 },
    { k: "down", peer: "hub" },
  ];
  for (const event of strange) {
    const next = step(state, event);
    expect(next.state).toEqual(state);
    const carried =
      event.k === "recv"
        ? event.body
        : event.k === "computed"
          ? event.out
          : event.k === "loaded"
            ? ["z0"]
            : [];
    const kept = new Set(hubBlobs(state));
    expect(next.effects).toEqual(
      carried.filter((blob) => !kept.has(blob)).map((blob) => ({ k: "drop", blob })),
    );
  }
});

test("only ranks that owe an answer are asked again, every retryTicks", () => {
  const { state } = feed(hubInit(config), ...asking, answer(1, 1, "g1"));
  expect(feed(state, tick, tick).effects).toEqual([]);
  expect(kinds(feed(state, tick, tick, tick).effects)).toEqual(["ask>0"]);
  expect(kinds(feed(state, tick, tick, tick, tick).effects)).toEqual([]);
  expect(kinds(feed(state, tick, tick, tick, tick, tick, tick).effects)).toEqual(["ask>0"]);
});

test("a silent rank is restarted after deadTicks, and after maxRestarts the run fails and names it", () => {
  const ticks = (n: number): readonly Event[] => Array.from({ length: n }, () => tick);
  const { state } = feed(hubInit(config), ...asking, answer(1, 1, "g1"));
  expect(kinds(feed(state, ...ticks(7)).effects)).toEqual([]);
  const restarted = feed(state, ...ticks(8));
  expect(restarted.effects).toEqual([{ k: "restart", rank: 0 }]);
  const failed = feed(restarted.state, ...ticks(8));
  expect(kinds(failed.effects)).toEqual(["fail", "stop>0", "stop>1", "drop", "drop"]);
  expect(failed.effects[0]).toMatchObject({
    rank: 0,
    reason: expect.stringContaining("worker 0 has been silent for 8 ticks"),
  });
  // Nobody says goodbye: the hub ends all the same.
  expect(kinds(feed(failed.state, ...ticks(8)).effects)).toEqual(["done"]);
});

test("a computing worker that says busy is alive", () => {
  const busy = from(0, stamped("busy"));
  let { state } = feed(hubInit(config), ...asking, answer(1, 1, "g1"));
  for (let i = 0; i < 40; i++) {
    const next = feed(state, tick, tick, tick, tick, busy);
    expect(next.effects).toEqual([]);
    state = next.state;
  }
  expect(state.restarts).toEqual([0, 0]);
  expect(state.silent).toEqual([0, 0]);
});

test("down restarts at once, within the same limit; a completed round forgives", () => {
  const down: Event = { k: "down", peer: 1 };
  const { state } = feed(hubInit(config), ...asking);
  expect(feed(state, down).effects).toEqual([{ k: "restart", rank: 1 }]);
  expect(kinds(feed(state, down, down).effects)[0]).toBe("fail");
  const round = [
    answer(0, 1, "g0"),
    answer(1, 1, "g1"),
    { k: "computed", job: 1, out: ["m"], notes: [] } as const,
  ];
  const nextRound = [down, ...round, answer(0, 2), answer(1, 2), saved(1)];
  expect(feed(state, ...nextRound).state.restarts).toEqual([0, 0]);
});

test("lost starts a new attempt from the save of the round, and old messages no longer count", () => {
  const { state } = feed(hubInit(config), ...asking, answer(0, 1, "g0"));
  const lost = feed(state, from(1, stamped("lost")));
  expect(lost.effects).toEqual([
    { k: "load", round: 0 },
    { k: "drop", blob: "z0" },
    { k: "drop", blob: "g0" },
  ]);
  const again = feed(lost.state, loaded(0, 1));
  expect(again.effects).toEqual([
    { k: "save", round: 0, blobs: { z: "z0" }, state: { round: 0, attempt: 2 } },
  ]);
  const begun = feed(again.state, saved(0));
  expect(begun.effects[0]).toMatchObject({ head: { k: "begin", round: 0, attempt: 2, seq: 0 } });
  expect(feed(begun.state, ready(0), ready(1), answer(0, 1, "g")).state).toEqual(begun.state);
});

test("hello gets the current question again, also from a rank that has answered", () => {
  const hello = from(1, { k: "hello", round: 0, attempt: 0, seq: 0 });
  const { state } = feed(hubInit(config), ...asking, answer(1, 1, "g1"));
  expect(feed(state, hello).effects).toMatchObject([{ k: "send", to: 1, head: { k: "ask", seq: 1 } }]);
  const begun = feed(hubInit(config), ...asking.slice(0, 3));
  expect(feed(begun.state, hello).effects).toMatchObject([{ to: 1, head: { k: "begin" } }]);
  expect(feed(hubInit(config), hello).effects).toEqual([]);
});

test("a worker without the save of the round fails the run and is named", () => {
  const { state } = feed(hubInit(config), ...asking.slice(0, 3));
  const { effects } = feed(state, from(1, { k: "ready", round: 0, attempt: 1, seq: 0, missing: true }));
  expect(effects[0]).toMatchObject({
    k: "fail",
    rank: 1,
    reason: expect.stringContaining("worker 1 has no complete save"),
  });
});

test("errors of computations fail the run: a worker's, the hub's, and a wrong number of results", () => {
  const { state } = feed(hubInit(config), ...asking);
  const worker = feed(state, from(1, stamped("error", { reason: "shape" })));
  expect(worker.effects[0]).toEqual({ k: "fail", rank: 1, reason: "shape" });
  const computing = feed(state, answer(0, 1, "g0"), answer(1, 1, "g1")).state;
  expect(feed(computing, { k: "failed", job: 1, reason: "NaN" }).effects[0]).toEqual({
    k: "fail",
    rank: null,
    reason: "NaN",
  });
  const many = feed(computing, { k: "computed", job: 1, out: ["a", "b"], notes: [] });
  expect(many.effects[0]).toMatchObject({
    k: "fail",
    reason: expect.stringContaining("gave 2 values, 1 are needed"),
  });
  expect(hubBlobs(many.state)).toEqual([]);
});

test("a script that cannot run fails the run before anybody is asked", () => {
  const bad = hubStep({ ...config, script: () => [{ name: "p", send: ["nothing"] }] });
  let state = hubInit(config);
  let effects: readonly Effect[] = [];
  for (const event of asking) ({ state, effects } = bad(state, event));
  expect(kinds(effects)).toEqual(["fail", "stop>0", "stop>1", "drop"]);
  expect(effects[0]).toMatchObject({ reason: expect.stringContaining('Cannot send register "nothing"') });
});

const wholeRound = [
  ...asking,
  answer(0, 1, "g0"),
  answer(1, 1, "g1"),
  { k: "computed", job: 1, out: ["m"], notes: [] } as const,
  answer(0, 2),
  answer(1, 2),
];

test("the hub saves when all have committed, and asks for the next round only then", () => {
  const { state, effects } = feed(hubInit(config), ...wholeRound);
  expect(effects.slice(0, 2)).toMatchObject([
    { k: "progress", phase: "apply" },
    { k: "save", round: 1, state: { round: 1, attempt: 1 } },
  ]);
  expect(kinds(feed(state, saved(0)).effects)).toEqual([]);
  const next = feed(state, saved(1));
  expect(kinds(next.effects)).toEqual(["completed", "ask>0", "ask>1", "drop"]);
  expect(next.effects[1]).toMatchObject({ head: { round: 1, attempt: 1, seq: 1 } });
});

test("stop finishes the round, saves, and says goodbye until everybody has answered", () => {
  const stopping = feed(hubInit(config), ...asking, { k: "stop" }, ...wholeRound.slice(5), saved(1));
  expect(kinds(stopping.effects)).toEqual(["completed", "stop>0", "stop>1", "drop"]);
  const bye = (rank: number): Event => from(rank, { k: "bye", round: 1, attempt: 1, seq: 0 });
  const half = feed(stopping.state, bye(0), tick, tick, tick);
  expect(kinds(half.effects)).toEqual(["stop>1"]);
  expect(feed(half.state, bye(1)).effects).toEqual([{ k: "done", reason: "stopped", round: 1 }]);
  // A worker that has ended before its goodbye arrived is gone, which is as good.
  expect(feed(half.state, { k: "down", peer: 1 }).effects).toEqual([
    { k: "done", reason: "stopped", round: 1 },
  ]);
});

test("a hub that restarts after the last round only says goodbye", () => {
  const { effects } = feed(hubInit(config), { k: "start", rounds: [1, 2] }, loaded(2, 4), saved(2));
  expect(kinds(effects)).toEqual(["stop>0", "stop>1"]);
});

test("state prints on one line", () => {
  const { state } = feed(hubInit(config), ...asking, answer(0, 1, "g0"));
  expect(show(state)).toBe("hub asking r0 a1 s1 phase 0.0 waits for 1 | z");
});

test("a phase of the hub alone needs no message, unless the round ends with it", () => {
  const alone: Script = [
    { name: "own", hub: { fn: "h", ins: ["z"], outs: ["z"] } },
    { name: "end", hub: { fn: "e" } },
  ];
  const own = hubStep({ ...config, script: () => alone });
  let state = hubInit(config);
  let effects: readonly Effect[] = [];
  for (const event of asking) ({ state, effects } = own(state, event));
  expect(effects).toMatchObject([{ k: "compute", fn: "h", ins: ["z0"], args: { notes: [[], []] } }]);
  ({ state, effects } = own(state, { k: "computed", job: 1, out: ["z1"], notes: [] }));
  expect(kinds(effects)).toEqual(["progress", "ask>0", "ask>1", "drop"]);
  expect(effects[1]).toMatchObject({ head: { seq: 1, phase: 1, commit: true } });
});
