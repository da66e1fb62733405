import { expect, test } from "bun:test";
import fc from "fast-check";
import {
  checkScript,
  expand,
  isLast,
  nextPosition,
  type Phase,
  type Script,
  slots,
} from "../../dist/protocol/script.ts";

const none = { hub: [], worker: [] };
const named = (name: string): Phase => ({ name, hub: { fn: name } });

test("walking the positions visits what nested loops visit, and knows the last one in advance", () => {
  const loop = fc.record({
    repeat: fc.integer({ min: 1, max: 4 }),
    until: fc.constantFrom(undefined, 0, 1),
    body: fc.array(fc.constantFrom(named("a"), named("b"), named("c")), { minLength: 1, maxLength: 3 }),
  });
  const items = fc.array(fc.oneof(fc.constant(named("p")), loop), { maxLength: 4 });
  fc.assert(
    fc.property(
      items,
      fc.array(fc.tuple(fc.nat({ max: 1 }), fc.nat({ max: 1 })), { minLength: 1 }),
      (some, decisions) => {
        const script = [...some, named("end")] as Script;
        expect(checkScript(script, 2, none)).toBeNull();
        const decide = (step: number): readonly number[] => decisions[step % decisions.length]!;

        const expected: string[] = [];
        for (const item of script) {
          if (!("body" in item)) expected.push(`${item.name}.0`);
          else {
            for (let i = 0; i < item.repeat; i++) {
              for (const phase of item.body) expected.push(`${phase.name}.${i}`);
              if (item.until !== undefined && decide(expected.length - 1)[item.until] === 1) break;
            }
          }
        }

        const flat = slots(script);
        const visited: string[] = [];
        let isEnd = false;
        for (let at: ReturnType<typeof nextPosition> = { phase: 0, iteration: 0 }; at !== null; ) {
          expect(isEnd).toBe(false);
          isEnd = isLast(flat, at);
          visited.push(`${flat[at.phase]!.phase.name}.${at.iteration}`);
          at = nextPosition(flat, at, decide(visited.length - 1));
        }
        expect(visited).toEqual(expected);
        expect(isEnd).toBe(true);
      },
    ),
    { numRuns: 200 },
  );
});

test("starred names are written out in rank order", () => {
  expect(expand(["a", "w@*", "b@1"], 3)).toEqual(["a", "w@0", "w@1", "w@2", "b@1"]);
  expect(expand(undefined, 3)).toEqual([]);
});

test("a note that is not a number ends a loop: the mathematics has broken down", () => {
  const flat = slots([{ repeat: 9, until: 0, body: [named("a")] }, named("end")]);
  expect(nextPosition(flat, { phase: 0, iteration: 2 }, [Number.NaN])).toEqual({ phase: 1, iteration: 0 });
  expect(nextPosition(flat, { phase: 0, iteration: 2 }, [0])).toEqual({ phase: 0, iteration: 3 });
  expect(nextPosition(flat, { phase: 0, iteration: 2 }, [])).toEqual({ phase: 0, iteration: 3 });
});

const durable = { hub: ["z"], worker: ["x"] };
const cases: readonly [
  what: string,
  script: Script,
  durable: typeof none | typeof durable,
  problem: RegExp,
][] = [
  ["empty", [], none, /script is empty/],
  ["empty loop", [{ repeat: 1, body: [] }], none, /body is empty/],
  ["no turns", [{ repeat: 0, body: [named("a")] }], none, /repeat is 0/],
  ["half a turn", [{ repeat: 1.5, body: [named("a")] }], none, /repeat is 1.5/],
  ["unknown end", [{ repeat: 2, until: 0, body: [named("a")] }], none, /put a phase after "a"/],
  ["nobody decides", [{ repeat: 2, until: 0, body: [{ name: "a" }] }, named("b")], none, /needs hub work/],
  ["unwritten send", [{ name: "a", send: ["v"] }], durable, /Cannot send register "v" in phase "a"/],
  ["unwritten shard", [{ name: "a", send: ["z@*"] }], durable, /Cannot send register "z@0"/],
  [
    "unwritten input",
    [{ name: "a", worker: { fn: "f", ins: ["y"] } }],
    durable,
    /Cannot read worker register "y"/,
  ],
  ["unwritten reply", [{ name: "a", reply: ["y"] }], durable, /Cannot reply register "y"/],
  [
    "reply at the hub",
    [{ name: "a", reply: ["x"], hub: { fn: "f", ins: ["x"] } }],
    durable,
    /read hub register "x"/,
  ],
  [
    "reply of an earlier phase",
    [
      { name: "a", reply: ["x"] },
      { name: "b", hub: { fn: "f", ins: ["x@*"] } },
    ],
    durable,
    /read hub register "x@0" in phase "b"/,
  ],
  [
    "rank at a worker",
    [{ name: "a", worker: { fn: "f", outs: ["x@1"] } }],
    durable,
    /only hub registers have ranks/,
  ],
  [
    "durable replaced",
    [{ name: "a", reply: ["x"] }],
    { hub: ["x@*"], worker: ["x"] },
    /Cannot save hub register "x@0"/,
  ],
];

for (const [what, script, own, problem] of cases) {
  test(`a script is refused: ${what}`, () => {
    expect(checkScript(script, 2, own)).toMatch(problem);
  });
}

test("a script that scatters, gathers and keeps its registers is accepted", () => {
  const script: Script = [
    {
      name: "a",
      send: ["z"],
      worker: { fn: "f", ins: ["x", "z"], outs: ["w"] },
      reply: ["w"],
      hub: { fn: "g", ins: ["w@*"], outs: ["w@*"] },
    },
    { name: "b", send: ["w@*"], worker: { fn: "h", ins: ["w"], outs: ["x"] } },
  ];
  expect(checkScript(script, 3, durable)).toBeNull();
});
