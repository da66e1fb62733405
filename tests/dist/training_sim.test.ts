/**
 * Real training on a faulty network: whatever is lost, doubled, late, out of order or restarted, the bits are those of
 * plain loops. `SCHEDULES` is the number of random schedules of each form of agreement together, default 1000.
 */
import { expect, test } from "bun:test";
import { trainingSetup } from "../../dist/jobs.ts";
import type { PlanInput } from "../../dist/plan.ts";
import type { Peer } from "../../dist/protocol/types.ts";
import { type RunSetup, runSequential } from "../../dist/runtime/sequential.ts";
import { type Faults, report, sameBits, simulate } from "../../dist/sim.ts";
import { mulberry32 } from "../optim/numbers.ts";
import { logisticProblem, planOf } from "./training_problems.ts";

const schedules = Number(process.env["SCHEDULES"] ?? 1000);

interface Form {
  readonly name: string;
  readonly setup: RunSetup;
  readonly replicated: readonly string[];
}

const curvature = { k: 2, order: 4, period: 2 } as const;
const limits = { retryTicks: 15, deadTicks: 120, maxRestarts: 1000 };

const forms: readonly Form[] = (
  [
    ["gradient", { k: "gradient" }, "replicated", ["theta", "optimizer"]],
    [
      "published",
      { k: "published", period: 1, sigma: 1e-3 },
      "replicated",
      ["theta", "optimizer", "anchor", "push"],
    ],
    ["consensus", { k: "consensus" }, "replicated", ["sigma"]],
    ["rows", { k: "momentum", period: 1 }, "rows", ["theta", "anchor", "push"]],
    ["columns", { k: "published", period: 1, sigma: 1e-3 }, "columns", []],
  ] as const
).map(([name, sync, layout, replicated]) => {
  const plan = planOf({
    workers: 3,
    parameters: 12,
    rounds: 2,
    localSteps: 2,
    update: { name: "adam", learningRate: 0.05 },
    sync: sync as PlanInput["sync"],
    curvature: { ...curvature, layout },
    limits,
  });
  return { name, setup: trainingSetup(plan, logisticProblem(12, 3, 6)), replicated };
});

/** The form of a schedule: layouts whose V is cut have many more messages, and come less often. */
const turns = [0, 1, 2, 3, 0, 1, 2, 4] as const;
const turnOf = (seed: number): number => turns[seed % turns.length]!;

/** Faults of one schedule, every kind of it in many of them. */
function drawFaults(uniform: () => number): Partial<Faults> {
  const pick = <T>(...choices: readonly T[]): T => choices[Math.floor(uniform() * choices.length)]!;
  const partitions = Array.from({ length: pick(0, 0, 1, 2) }, () => {
    const from = Math.floor(uniform() * 300);
    return { peer: pick<Peer>("hub", 0, 1, 2), from, to: from + 1 + Math.floor(uniform() * 150) };
  });
  return {
    lossRate: pick(0, 0.05, 0.25),
    duplicateRate: pick(0, 0.1, 0.4),
    minDelay: 1,
    maxDelay: pick(1, 4, 15),
    maxWork: pick(1, 5, 12),
    crashRate: pick(0, 0.002, 0.006),
    noticeRate: pick(0, 0.5, 1),
    reviveRate: pick(0, 0.5, 1),
    partitions,
    horizon: 600,
  };
}

test(`${schedules} random schedules of faults: every run ends with the bits of the sequential reference`, () => {
  const references = forms.map(({ setup }) => runSequential(setup));
  const uniform = mulberry32(2026);
  const seen = { lost: 0, duplicated: 0, crashes: 0, recovered: 0, messages: 0 };
  const started = performance.now();
  for (let seed = 0; seed < schedules; seed++) {
    const { setup, replicated } = forms[turnOf(seed)]!;
    const result = simulate({
      ...setup,
      seed,
      faults: drawFaults(uniform),
      replicated,
      checkReplay: false,
      keepTrace: 40,
    });
    if (result.violations.length > 0) throw new Error(report(result));
    expect(result.outcome).toBe("finished");
    // Against a reference of our own too, computed once.
    expect(sameBits(result.values, references[turnOf(seed)])).toBe(true);
    seen.lost += result.stats.lost;
    seen.duplicated += result.stats.duplicated;
    seen.crashes += result.stats.crashes;
    seen.recovered += result.stats.attempts > 1 ? 1 : 0;
    seen.messages += result.stats.messages;
  }
  const seconds = ((performance.now() - started) / 1000).toFixed(1);
  console.log(`${schedules} schedules in ${seconds} s: ${JSON.stringify(seen)}`);
  // The schedules were not harmless.
  expect(seen.lost).toBeGreaterThan(schedules);
  expect(seen.duplicated).toBeGreaterThan(schedules);
  expect(seen.crashes).toBeGreaterThan(schedules / 4);
  expect(seen.recovered).toBeGreaterThan(schedules / 10);
}, 600_000);

test("a worker may crash at any place of a round with curvature, the hub too", () => {
  const { setup, replicated } = forms[1]!;
  const short = { ...setup, config: { ...setup.config, rounds: 1 } };
  for (const peer of ["hub", 1] as const) {
    let crashes = 0;
    for (let step = 3; step < 400; step += 7) {
      const faults = { crashes: [{ peer, step }], maxWork: 2, horizon: 100 };
      const result = simulate({
        ...short,
        seed: step,
        faults,
        replicated,
        checkReplay: false,
      });
      if (result.violations.length > 0) throw new Error(report(result));
      crashes += result.stats.crashes;
    }
    // A round with curvature has more than 20 questions; each is several places.
    expect(crashes).toBeGreaterThan(15);
  }
}, 120_000);

test("the simulator notices one changed bit in the parameters of one worker", () => {
  const { setup } = forms[0]!;
  let calls = 0;
  const worker: RunSetup["jobs"]["worker"] = (rank) => {
    const jobs = setup.jobs.worker(rank);
    return {
      ...jobs,
      last: (ins, args) => {
        const result = jobs["last"]!(ins, args) as { outs: readonly unknown[] };
        const [theta, ...rest] = result.outs as readonly [import("../../core/value.ts").Value, ...unknown[]];
        // Only in the simulated run, not in the reference that follows it.
        calls++;
        return { ...result, outs: [rank === 2 && calls === 6 ? theta.mul(1 + 2 ** -52) : theta, ...rest] };
      },
    };
  };
  const broken = { ...setup, jobs: { ...setup.jobs, worker } };
  const result = simulate({
    ...broken,
    seed: 1,
    replicated: ["theta"],
    checkReplay: false,
  });
  expect(calls).toBe(12);
  expect(result.violations.join()).toMatch(/reference: "theta" of worker-2/);
  expect(result.violations.join()).toMatch(/agreement: "theta" differs at worker-2/);
});
