/** A run whose workers are equal goes on with more of them or with fewer, to the bits of the method in one place. */
import { expect, test } from "bun:test";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { addSaves, areEqual, dropSaves } from "../../cli/other_workers.ts";
import type { Value } from "../../core/value.ts";
import { together } from "../../dist/compress/together.ts";
import { communicatingMethodOf } from "../../dist/jobs/communicating.ts";
import { computations } from "../../dist/jobs/compute.ts";
import { trainingSetup } from "../../dist/jobs.ts";
import type { Plan } from "../../dist/plan.ts";
import { fileStore } from "../../dist/runtime/file_store.ts";
import { runLocal } from "../../dist/runtime/local.ts";
import { logisticProblem, planOf } from "../dist/training_problems.ts";
import { list } from "../optim/numbers.ts";

const parameters = 37;
const problemOf = (workers: number) => logisticProblem(parameters, workers, 16);
const planFor = (workers: number, rounds: number, flushAtEnd = true): Plan =>
  planOf({
    workers,
    parameters,
    rounds,
    localSteps: 5,
    update: { name: "adam", learningRate: 0.03 },
    sync: { k: "divisible", ratio: 16, period: 5, delay: 3, warmup: 2, precision: "int16", flushAtEnd },
  });

test.each([
  [3, 5],
  [3, 2],
] as const)("%i workers, then %i", async (before, now) => {
  const folder = mkdtempSync(join(tmpdir(), "other-workers-"));
  try {
    const store = fileStore(folder);
    const [plan, next] = [planFor(before, 3), planFor(now, 5)];
    await runLocal({ ...trainingSetup(plan, problemOf(before)), store });
    expect(await areEqual(store, 3, next, problemOf(now))).toBe(true);
    await addSaves(store, 3, before, now);
    await dropSaves(store, before, now);
    const ranks = Array.from({ length: now }, (_, rank) => `worker-${rank}`);
    expect(readdirSync(folder).sort()).toEqual(["hub", ...ranks].map((name) => `${name}.3.safetensors`));
    const { hub } = await runLocal({ ...trainingSetup(next, problemOf(now)), store });

    // The same in one place.
    const oneStep = (run: ReturnType<typeof together>, workers: number): void => {
      const problem = problemOf(workers);
      const { scoreAndGradient } = computations(planFor(workers, 1), problem);
      const step = run.steps;
      run.step((rank, theta) => scoreAndGradient(theta, problem.batch(rank, step))[1]);
    };
    const method = communicatingMethodOf(plan, problemOf(before))!;
    const first = together(method, problemOf(before).initial, before);
    while (first.steps < 15) oneStep(first, before);
    first.flush();
    const second = together(method, problemOf(now).initial, {
      states: Array(now).fill(first.states[0]),
      steps: first.steps,
    });
    while (second.steps < 25) oneStep(second, now);
    second.flush();
    expect(list(hub["theta"] as Value)).toEqual(list(second.view()));
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test("workers that differ are known", async () => {
  const folder = mkdtempSync(join(tmpdir(), "other-workers-"));
  try {
    const store = fileStore(folder);
    const plan = planFor(3, 2, false);
    await runLocal({ ...trainingSetup(plan, problemOf(3)), store });
    expect(await areEqual(store, 2, plan, problemOf(3))).toBe(false);
    expect(await areEqual(store, 0, plan, problemOf(3))).toBe(true);
    const local = planOf({ ...plan, sync: { k: "local", period: 5 } });
    expect(await areEqual(store, 0, local, problemOf(3))).toBe(false);
  } finally {
    rmSync(folder, { recursive: true });
  }
});
