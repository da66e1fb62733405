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
import { memoryStore, type Store } from "../../dist/runtime/driver.ts";
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
    expect(await areEqual(store, 3, before, next, problemOf(now))).toBe(true);
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
    expect(await areEqual(store, 2, 3, plan, problemOf(3))).toBe(false);
    expect(await areEqual(store, 0, 3, plan, problemOf(3))).toBe(true);
    // A save that does not say it, of a program before this one.
    const { state, values } = (await store.get("worker-0", 0))!;
    const { workers: _, ...unsaid } = values["state"] as Readonly<Record<string, unknown>>;
    await store.put("worker-0", 0, state, { ...values, state: unsaid });
    expect(await areEqual(store, 0, 3, plan, problemOf(3))).toBe(false);
    const local = planOf({ ...plan, sync: { k: "local", period: 5 } });
    expect(await areEqual(store, 0, 3, local, problemOf(3))).toBe(false);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

/** The store after a run of three workers that has ended with a flush. */
async function flushed(): Promise<Store> {
  const store = memoryStore();
  await runLocal({ ...trainingSetup(planFor(3, 3), problemOf(3)), store });
  return store;
}

/** Four rounds in all. */
async function continued(store: Store, workers: number): Promise<readonly number[]> {
  const { hub } = await runLocal({ ...trainingSetup(planFor(workers, 4), problemOf(workers)), store });
  return list(hub["theta"] as Value);
}

async function copyOf(store: Store): Promise<Store> {
  const copy = memoryStore();
  for (const name of ["hub", "worker-0", "worker-1", "worker-2"]) {
    for (const round of await store.rounds(name)) {
      const { state, values } = (await store.get(name, round))!;
      await copy.put(name, round, state, values);
    }
  }
  return copy;
}

/** Whether other workers come: the program is killed before so many changes of the store and one. */
async function comesThrough(store: Store, now: number, changes: number): Promise<boolean> {
  let left = changes;
  const counted = <T extends readonly unknown[]>(change: (...args: T) => void | Promise<void>) => {
    return (...args: T): void | Promise<void> => {
      if (left-- === 0) throw new Error("killed");
      return change(...args);
    };
  };
  try {
    await addSaves({ ...store, put: counted(store.put), drop: counted(store.drop) }, 3, 3, now);
    return true;
  } catch {
    return false;
  }
}

test.each([5, 2])("a program that is killed while %i workers come has lost nothing", async (now) => {
  const store = await flushed();
  const whole = async (workers: number): Promise<readonly number[]> => {
    const copy = await copyOf(store);
    await addSaves(copy, 3, 3, workers);
    return continued(copy, workers);
  };
  const [as3, asNow] = [await whole(3), await whole(now)];
  let changes = 0;
  for (; ; changes++) {
    const [same, other] = [await copyOf(store), await copyOf(store)];
    const isDone = await comesThrough(same, now, changes);
    await comesThrough(other, now, changes);
    // The configuration is not written yet: it goes on as it was, or the other workers come again.
    expect(await continued(same, 3)).toEqual(as3);
    expect(await areEqual(other, 3, 3, planFor(now, 5), problemOf(now))).toBe(true);
    await addSaves(other, 3, 3, now);
    expect(await continued(other, now)).toEqual(asNow);
    if (isDone) break;
  }
  // The earlier rounds of four, and the saves of those that come.
  expect(changes).toBe(4 * 2 + Math.max(0, now - 3));
});

test.each([0, 1])("the damaged save of worker %i is made again from those of its equals", async (damaged) => {
  const run = async (isDamaged: boolean): Promise<readonly number[]> => {
    const store = await flushed();
    // A store does not list a damaged save, and does not give it.
    if (isDamaged) store.drop(`worker-${damaged}`, 3);
    expect(await areEqual(store, 3, 3, planFor(2, 5), problemOf(2))).toBe(true);
    await addSaves(store, 3, 3, 2);
    return continued(store, 2);
  };
  expect(await run(true)).toEqual(await run(false));
});
