import { expect, test } from "bun:test";
import fc from "fast-check";
import { compareStamps, parseHead, stringifyHead } from "../../dist/protocol/head.ts";
import type { Head } from "../../dist/protocol/types.ts";

const count = fc.nat({ max: 2 ** 40 });
const stamp = { round: count, attempt: count, seq: count };
const head: fc.Arbitrary<Head> = fc.oneof(
  fc.record({ k: fc.constantFrom("hello", "begin", "busy", "lost", "stop", "bye"), ...stamp }),
  fc.record({ k: fc.constant("ready"), ...stamp, missing: fc.boolean() }),
  fc.record({ k: fc.constant("ask"), ...stamp, phase: count, iteration: count, commit: fc.boolean() }),
  fc.record({ k: fc.constant("answer"), ...stamp, notes: fc.array(fc.double(), { maxLength: 5 }) }),
  fc.record({ k: fc.constantFrom("post", "give"), ...stamp, slot: fc.string(), version: count }),
  fc.record({ k: fc.constant("error"), ...stamp, reason: fc.string() }),
) as fc.Arbitrary<Head>;

test("a head survives JSON, with every double among its notes", () => {
  fc.assert(
    fc.property(head, (h) => {
      const back = parseHead(JSON.parse(stringifyHead(h)));
      expect(back).toEqual({ ...h });
      if (h.k === "answer") {
        const notes = back?.k === "answer" ? back.notes : [];
        expect(h.notes.every((note, i) => Object.is(note, notes[i]))).toBe(true);
      }
    }),
    {
      numRuns: 200,
      examples: [[{ k: "answer", round: 0, attempt: 0, seq: 0, notes: [Number.NaN, -0, -Infinity] }]],
    },
  );
});

test("nonsense is null and never throws", () => {
  fc.assert(
    fc.property(fc.anything(), (value) => {
      const parsed = parseHead(value);
      expect(parsed === null || typeof parsed.k === "string").toBe(true);
    }),
    { numRuns: 300 },
  );
  const good = { k: "ask", round: 1, attempt: 1, seq: 1, phase: 0, iteration: 0, commit: false };
  expect(parseHead(good)).toEqual(good as Head);
  for (const field of ["round", "attempt", "seq", "phase", "iteration"]) {
    for (const bad of [-1, 0.5, Number.NaN, Infinity, 2 ** 53, "1", null, undefined, [], 1n]) {
      expect(parseHead({ ...good, [field]: bad })).toBeNull();
    }
  }
  expect(parseHead({ ...good, commit: 1 })).toBeNull();
  expect(parseHead({ ...good, k: "asked" })).toBeNull();
  expect(parseHead({ ...good, k: "answer", notes: ["1"] })).toBeNull();
  expect(parseHead({ ...good, k: "answer", notes: new Array(5000).fill(0) })).toBeNull();
  expect(parseHead({ ...good, k: "error", reason: "x".repeat(5000) })).toBeNull();
  expect(parseHead({ ...good, k: "ready" })).toBeNull();
  for (const bad of [{}, { slot: "s" }, { slot: 1, version: 1 }, { slot: "s", version: -1 }]) {
    expect(parseHead({ ...good, k: "post", ...bad })).toBeNull();
  }
  expect(parseHead({ ...good, k: "give", slot: "x".repeat(300), version: 1 })).toBeNull();
});

test("a parsed head carries no field that the protocol does not know", () => {
  const parsed = parseHead({ k: "bye", round: 1, attempt: 2, seq: 3, extra: "x", notes: [1] });
  expect(parsed).toEqual({ k: "bye", round: 1, attempt: 2, seq: 3 });
});

test("stamps are ordered by attempt, then round, then question", () => {
  const at = (attempt: number, round: number, seq: number) => ({ attempt, round, seq });
  const ordered = [at(1, 5, 9), at(2, 0, 0), at(2, 0, 1), at(2, 1, 0)];
  ordered.forEach((a, i) => {
    ordered.forEach((b, j) => {
      expect(Math.sign(compareStamps(a, b))).toBe(Math.sign(i - j));
    });
  });
});
