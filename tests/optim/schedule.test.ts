import { expect, test } from "bun:test";
import { vmap } from "../../autodiff/vmap.ts";
import { arange, tensor } from "../../core/create.ts";
import type { Value } from "../../core/value.ts";
import {
  cosineSchedule,
  exponentialSchedule,
  linearSchedule,
  type Schedule,
  stepSchedule,
  warmupSchedule,
} from "../../optim/schedule.ts";
import { list, maxDifference } from "./numbers.ts";

const rows: readonly (readonly [string, Schedule, (step: number) => number])[] = [
  ["linear", linearSchedule({ from: 0.2, to: 1, steps: 10 }), (t) => 0.2 + 0.08 * Math.min(t, 10)],
  ["linear down to zero", linearSchedule({ from: 1, to: 0, steps: 7 }), (t) => Math.max(0, 1 - t / 7)],
  ["linear at once", linearSchedule({ from: 3, to: 1, steps: 0 }), (t) => (t === 0 ? 3 : 1)],
  [
    "cosine",
    cosineSchedule({ from: 0.5, steps: 12 }),
    (t) => 0.25 * (1 + Math.cos((Math.PI * Math.min(t, 12)) / 12)),
  ],
  [
    "cosine with a floor",
    cosineSchedule({ from: 0.5, floor: 0.1, steps: 12 }),
    (t) => 0.1 + 0.2 * (1 + Math.cos((Math.PI * Math.min(t, 12)) / 12)),
  ],
  ["exponential", exponentialSchedule({ from: 2, decay: 0.8, steps: 5 }), (t) => 2 * 0.8 ** (t / 5)],
  [
    "warmup to a cosine",
    warmupSchedule({ steps: 4, after: cosineSchedule({ from: 1, steps: 10 }) }),
    (t) => (t < 4 ? t / 4 : 0.5 * (1 + Math.cos((Math.PI * Math.min(t - 4, 10)) / 10))),
  ],
  [
    "warmup of no steps",
    warmupSchedule({ steps: 0, after: linearSchedule({ from: 1, to: 0, steps: 4 }) }),
    (t) => Math.max(0, 1 - t / 4),
  ],
  ["steps", stepSchedule({ from: 1, factor: 0.1, at: [5, 9] }), (t) => (t < 5 ? 1 : t < 9 ? 0.1 : 0.01)],
  ["no steps", stepSchedule({ from: 0.3, factor: 0.1, at: [] }), () => 0.3],
];

test.each(rows)("%s has its closed form at every step, alone and vectorized", (_name, schedule, closed) => {
  const steps = Array.from({ length: 30 }, (_, t) => t);
  const alone = steps.map((t) => schedule(tensor(t, { dtype: "int32" })));
  expect(
    maxDifference(
      alone.map((x) => x.item()),
      steps.map(closed),
    ),
  ).toBeLessThan(5e-7);
  for (const x of alone) expect(String(x.aval)).toBe("f32[]");
  const together = vmap((count: Value) => schedule(count))(arange(30, undefined, 1, { dtype: "int32" }));
  expect(list(together)).toEqual(alone.map((x) => x.item()));
});

test("a warmup starts at zero and meets the next schedule without a jump", () => {
  const schedule = warmupSchedule({ steps: 100, after: cosineSchedule({ from: 0.7, steps: 50 }) });
  const at = (t: number): number => schedule(tensor(t, { dtype: "int32" })).item();
  expect(at(0)).toBe(0);
  expect(at(100)).toBeCloseTo(0.7, 6);
  expect(at(100) - at(99)).toBeCloseTo(0.007, 6);
  expect(at(1_000_000)).toBeCloseTo(0, 6);
});
