import { expect, test } from "bun:test";
import { vmap } from "../../autodiff/vmap.ts";
import { arange, tensor } from "../../core/create.ts";
import type { Value } from "../../core/value.ts";
import {
  cosineSchedule,
  exponentialSchedule,
  linearSchedule,
  oneCycleSchedule,
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

/** Rates of torch.optim.lr_scheduler.OneCycleLR 1.13, step by step. */
const published: readonly (readonly [string, Schedule, readonly number[]])[] = [
  [
    "OneCycleLR(max_lr=0.5, total_steps=20)",
    oneCycleSchedule({ peak: 0.5, steps: 20 }),
    [
      0.02, 0.06583592135001265, 0.18583592135001265, 0.3341640786499874, 0.45416407864998737, 0.5,
      0.49373200311754367, 0.47524231600673683, 0.445458088785525, 0.40587282697488153, 0.3584715008956504,
      0.30563101096814466, 0.250001, 0.19437098903185537, 0.14153049910434962, 0.09412917302511849,
      0.05454391121447502, 0.024759683993263143, 0.006269996882456277, 2e-6,
    ],
  ],
  [
    "OneCycleLR(max_lr=2, total_steps=13, pct_start=0.4, div_factor=10, final_div_factor=100)",
    oneCycleSchedule({ peak: 2, steps: 13, rise: 0.4, initialDivisor: 10, finalDivisor: 100 }),
    [
      0.2, 0.44025331535315626, 1.032742915772218, 1.66114082167286, 1.9899477436026156, 1.9485879055051984,
      1.74876223742293, 1.429263868841651, 1.0412256741693058, 0.6467497178445069, 0.3089683708439102,
      0.0819405357848346, 0.002,
    ],
  ],
];

test.each(published)("%s has the same rates, and the last for ever", (_name, schedule, rates) => {
  const at = (t: number): number => schedule(tensor(t, { dtype: "int32" })).item();
  expect(
    maxDifference(
      rates.map((_, t) => at(t)),
      rates,
    ),
  ).toBeLessThan(3e-7);
  expect(at(10_000)).toBeCloseTo(rates.at(-1)!, 7);
  const together = vmap((count: Value) => schedule(count))(
    arange(rates.length, undefined, 1, { dtype: "int32" }),
  );
  expect(list(together)).toEqual(rates.map((_, t) => at(t)));
});

test("a cycle without room to rise or to fall is refused", () => {
  expect(() => oneCycleSchedule({ peak: 1, steps: 3 })).toThrow(
    /^Cannot make a one-cycle schedule: rise is 0\.3 of 3 steps, more than 1 step and less than all is needed$/,
  );
  expect(() => oneCycleSchedule({ peak: 1, steps: 10, rise: 1, finalDivisor: 0 })).toThrow(
    /rise is 1 of 10 steps, .* is needed; finalDivisor is 0, a positive number is needed$/,
  );
});
