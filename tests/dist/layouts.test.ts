/**
 * Where V and the state of the method are changes what travels and what a worker holds, not what is computed: every layout
 * is FOSI in one place on the union of the workers' batches.
 */
import { expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { flatten } from "../../core/tree.ts";
import type { Value } from "../../core/value.ts";
import { type Problem, trainingSetup } from "../../dist/jobs.ts";
import { columnsOf, type Layout, type Plan, type PlanInput, vectorRowsOf } from "../../dist/plan.ts";
import { planCost } from "../../dist/plan_cost.ts";
import { fileStore } from "../../dist/runtime/file_store.ts";
import { runLocal } from "../../dist/runtime/local.ts";
import { decodeValue, encodeValue } from "../../dist/runtime/payload.ts";
import { runSequential } from "../../dist/runtime/sequential.ts";
import { sameBits } from "../../dist/sim.ts";
import { list, maxDifference, projector, rowsOf, sameTreeBits } from "../optim/numbers.ts";
import {
  fosiStateOf,
  logisticProblem,
  planOf,
  quadraticProblem,
  type Rows,
  singleDevice,
  thetaOf,
  withKeptBatches,
} from "./training_problems.ts";

const layouts: readonly Layout[] = ["replicated", "rows", "columns"];

/** The same 24 rows at every step, whoever has them. */
function dealt(parameters: number, workers: number): Problem<Rows> {
  return withKeptBatches(logisticProblem(parameters, workers, 24 / workers));
}

function layoutPlan(
  workers: number,
  parameters: number,
  layout: Layout,
  changes: Partial<PlanInput> = {},
): Plan {
  return planOf({
    workers,
    parameters,
    rounds: 50,
    localSteps: 20,
    update: { name: "adam", learningRate: 0.01 },
    sync: { k: "gradient" },
    ...changes,
    curvature: {
      k: 2,
      l: 1,
      order: Math.min(parameters, 8),
      period: 10,
      warmup: 1,
      ...changes.curvature,
      layout,
    },
  });
}

test.each([
  [13, [1, 2, 3, 4, 8]],
  [5, [8]],
] as const)(
  "%i parameters, 1000 steps: all layouts on any number of workers end where one device does",
  (parameters, counts) => {
    const one = layoutPlan(1, parameters, "replicated");
    const { theta, ...state } = singleDevice(one, dealt(parameters, 1));
    const expected = list(theta);
    for (const workers of counts) {
      for (const layout of layouts) {
        const run = runSequential(
          trainingSetup(layoutPlan(workers, parameters, layout), dealt(parameters, workers)),
        );
        expect(maxDifference(thetaOf(run), expected)).toBeLessThan(1e-12);
        for (let rank = 0; rank < workers; rank++) {
          const own = fosiStateOf(run, rank);
          expect(own.count.item()).toBe(1000);
          expect(maxDifference(list(own.values), list(state.values))).toBeLessThan(1e-12);
          expect(own.scale.item()).toBeCloseTo(state.scale.item(), 12);
        }
      }
    }
  },
  120_000,
);

const methods: readonly PlanInput["update"][] = [
  { name: "sgd", learningRate: 0.1 },
  { name: "momentum", learningRate: 0.05 },
  { name: "nesterov", learningRate: 0.05 },
  { name: "adam", learningRate: 0.02 },
];

test("every method with every momentum inside the space, in every layout", () => {
  const problem = withKeptBatches(logisticProblem(11, 3, 8));
  for (const update of methods) {
    for (const momentum of ["none", "heavyBall", "nesterov", "average"] as const) {
      const curvature = { k: 3, l: 1, order: 7, period: 2, momentum, clip: 3, damping: 0.01, alpha: 0.1 };
      const changes = { rounds: 5, localSteps: 4, update, curvature };
      const expected = list(singleDevice(layoutPlan(3, 11, "replicated", changes), problem).theta);
      for (const layout of layouts) {
        const run = runSequential(trainingSetup(layoutPlan(3, 11, layout, changes), problem));
        expect(maxDifference(thetaOf(run), expected)).toBeLessThan(1e-12);
      }
    }
  }
}, 120_000);

test("before the first curvature every layout is its method, bit for bit", () => {
  const problem = withKeptBatches(logisticProblem(7, 3, 8));
  const changes = { rounds: 2, localSteps: 4 };
  const { curvature: _none, ...plain } = layoutPlan(3, 7, "replicated", changes);
  const expected = thetaOf(runSequential(trainingSetup(planOf(plain as PlanInput), problem)));
  for (const layout of layouts) {
    const run = layoutPlan(3, 7, layout, { ...changes, curvature: { warmup: 2 } });
    expect(thetaOf(runSequential(trainingSetup(run, problem)))).toEqual(expected);
  }
});

test.each([1, 3, 8])(
  "%i workers with shards of the state of any method have the bits of replicas",
  (workers) => {
    const problem = withKeptBatches(logisticProblem(5, workers, 6));
    for (const update of [...methods, { name: "adamw", learningRate: 0.02, weightDecay: 0.1 } as const]) {
      const [replicas, shards] = [false, true].map((shard) => {
        const run = planOf({
          workers,
          parameters: 5,
          rounds: 6,
          localSteps: 3,
          update: { ...update, shard } as PlanInput["update"],
          sync: { k: "momentum", period: 2 },
        });
        return thetaOf(runSequential(trainingSetup(run, problem)));
      });
      expect(shards).toEqual(replicas!);
    }
  },
);

test.each(["published", "momentum"] as const)("%s: every layout extrapolates to the same parameters", (k) => {
  const problem = withKeptBatches(logisticProblem(9, 4, 6));
  const changes = {
    rounds: 12,
    localSteps: 5,
    // A sigma that is felt, in gradients and in rates.
    sync: k === "published" ? { k, period: 3, sigma: 1e-2 } : { k, period: 3 },
  } as const;
  const [replicated, ...others] = layouts.map((layout) =>
    runSequential(trainingSetup(layoutPlan(4, 9, layout, changes), problem)),
  );
  const { push } = replicated!.workers[0] as { push: Value };
  expect(Math.max(...list(push).map(Math.abs))).toBeGreaterThan(1e-3);
  for (const other of others) expect(maxDifference(thetaOf(other), thetaOf(replicated!))).toBeLessThan(1e-12);
});

test("the parts of V are V: rows one below the other, columns side by side", () => {
  const [workers, parameters] = [3, 10];
  const problem = dealt(parameters, workers);
  const states = layouts.map((layout) => {
    const changes = { rounds: 2, localSteps: 1, curvature: { k: 3, l: 1, order: 8 } };
    const run = runSequential(trainingSetup(layoutPlan(workers, parameters, layout, changes), problem));
    return [0, 1, 2].map((rank) => fosiStateOf(run, rank));
  });
  const [[whole], rows, columns] = states as [
    [ReturnType<typeof fosiStateOf>],
    (typeof states)[number],
    (typeof states)[number],
  ];
  const V = rowsOf(whole.vectors);
  expect(rows.flatMap(({ vectors }) => rowsOf(vectors))).toEqual(V);
  expect(rows.flatMap(({ rates }) => list(rates))).toEqual(list(whole.rates));
  expect(V.map((_, j) => columns.flatMap(({ vectors }) => rowsOf(vectors)[j]!))).toEqual(V);
  for (const { rates, residuals } of columns) {
    expect(list(rates)).toEqual(list(whole.rates));
    expect(list(residuals)).toEqual(list(whole.residuals));
  }
  expect(projector(V).reduce((sum, x, i) => sum + (i % 11 === 0 ? x : 0), 0)).toBeCloseTo(4, 10);
});

// --- memory ------------------------------------------------------------------------------------------------------

/** Elements of all vectors and matrices in a tree; counters and numbers per eigenpair are left out by name. */
function elementsOf(tree: unknown): number {
  return flatten(tree)[0].reduce((sum, x) => sum + (x.ndim > 0 ? x.size : 0), 0);
}

test.each([1, 3, 8])(
  "%i workers hold what the plan says, element by element",
  (workers) => {
    for (const parameters of [5, 13]) {
      for (const layout of layouts) {
        for (const update of methods) {
          const run = layoutPlan(workers, parameters, layout, {
            rounds: 2,
            localSteps: 1,
            update,
            sync: { k: "momentum", period: 1 },
          });
          const end = runSequential(trainingSetup(run, dealt(parameters, workers)));
          const { memory } = planCost(run, { dtype: "float64" });
          memory.forEach((expected, rank) => {
            const { optimizer: _state, theta: _theta, ...agreement } = end.workers[rank]!;
            const { base, velocity, vectors } = fosiStateOf(end, rank);
            expect(8 * elementsOf(base)).toBe(expected.base);
            expect(8 * velocity.size).toBe(expected.velocity);
            expect(8 * vectors.size).toBe(expected.vectors);
            expect(8 * elementsOf(agreement)).toBe(expected.agreement);
          });
        }
      }
    }
  },
  120_000,
);

test("eigenvectors per worker: (k + l) n, ceil((k + l) / P) n, (k + l) ceil(n / P)", () => {
  const [k, l, n] = [5, 2, 1003];
  for (const P of [1, 2, 3, 4, 7, 8, 16]) {
    const [replicated, rows, columns] = layouts.map((layout) => {
      const run = layoutPlan(P, n, layout, { curvature: { k, l, order: 28 } });
      return planCost(run).memory.map(({ vectors }) => vectors / 4);
    }) as [number[], number[], number[]];
    expect(replicated).toEqual(Array<number>(P).fill((k + l) * n));
    expect(rows[0]!).toBe(Math.ceil((k + l) / P) * n);
    expect(columns[0]!).toBe((k + l) * Math.ceil(n / P));
    // All parts together are V, once.
    for (const parts of [rows, columns]) expect(parts.reduce((sum, x) => sum + x, 0)).toBe((k + l) * n);
  }
});

test("memory per worker of ResNet-152 in the three layouts, as calculated by hand", () => {
  // Bytes in float32 with Adam, n parameters, K pairs, m Lanczos steps, P workers.
  const [n, K, m, P] = [58_553_608, 16, 64, 8];
  const sum = (layout: Layout, sync: PlanInput["sync"]): number => {
    const { basis, ...lasting } = planCost(
      planOf({
        workers: P,
        parameters: n,
        update: { name: "adam", learningRate: 1e-3 },
        sync,
        curvature: { k: K, l: 0, order: m, layout },
      }),
    ).memory[0]!;
    expect(basis).toBe((8 * m * n) / P);
    return Object.values(lasting).reduce((a, b) => a + b, 0);
  };
  expect(n % P).toBe(0);
  // theta, gradient, two of Adam, velocity, dual and anchor, V.
  expect(sum("replicated", { k: "published" })).toBe((28 + 4 * K) * n);
  expect(sum("rows", { k: "gradient" })).toBe((20 + (4 * K) / P) * n);
  expect(sum("columns", { k: "gradient" })).toBe(8 * n + ((12 + 4 * K) * n) / P);
});

test("what a step costs in each layout, in closed form", () => {
  const [P, n, K, b, S] = [4, 1000, 8, 4, 5];
  const step = (layout: Layout): number[] => {
    const run = layoutPlan(P, n, layout, { rounds: 1, localSteps: S, curvature: { k: K, l: 0, warmup: 9 } });
    const { phases } = planCost(run);
    const training = phases.filter(({ name }) => name !== "evaluate");
    return (["questions", "bytesToWorkers", "bytesToHub"] as const).map((of) =>
      training.reduce((total, phase) => total + phase[of], 0),
    );
  };
  // Gradients of all, and at the end of a round the parameters of one.
  expect(step("replicated")).toEqual([S + 1, S * P * n * b, S * P * n * b + n * b]);
  expect(step("rows")).toEqual([3 * S + 1, 3 * S * P * n * b, 3 * S * P * n * b + n * b]);
  // Parameters out and gradients back whole, both once more in columns, and 3 K coefficients each way.
  const columns = S * (P * n + n + 3 * K * P) * b;
  expect(step("columns")).toEqual([4 * S, columns, columns]);
});

// --- what is saved -----------------------------------------------------------------------------------------------

test.each(["rows", "columns"] as const)(
  "%s: a run that is stopped and continued from files has the bits of one that is not",
  async (layout) => {
    // More workers than parameters and than pairs: some have nothing.
    const setup = trainingSetup(
      layoutPlan(6, 4, layout, { rounds: 6, localSteps: 2, sync: { k: "published", period: 2 } }),
      withKeptBatches(logisticProblem(4, 6, 4)),
    );
    const directory = mkdtempSync(join(tmpdir(), "cotangent-layouts-"));
    try {
      const store = fileStore(directory);
      const stop = new AbortController();
      const half = await runLocal({
        ...setup,
        store,
        signal: stop.signal,
        onProgress: (p) => p.k === "completed" && p.round === 2 && stop.abort(),
      });
      expect(half.reason).toBe("stopped");
      expect(half.round).toBeLessThan(6);
      const { hub, workers, reason } = await runLocal({ ...setup, store: fileStore(directory) });
      expect(reason).toBe("finished");
      expect(sameBits({ hub, workers }, runSequential(setup))).toBe(true);
    } finally {
      rmSync(directory, { recursive: true });
    }
  },
);

test("states with nothing in them travel", () => {
  for (const layout of layouts) {
    const run = layoutPlan(8, 5, layout, { rounds: 2, localSteps: 1 });
    for (const own of runSequential(trainingSetup(run, dealt(5, 8))).workers)
      for (const register of Object.values(own))
        expect(sameTreeBits(decodeValue(encodeValue(register)), register)).toBe(true);
    expect(columnsOf(run, 7)).toEqual([5, 5]);
    expect(vectorRowsOf(run, 7)).toEqual([3, 3]);
  }
});

// --- trust -------------------------------------------------------------------------------------------------------

test("pairs that Lanczos has not resolved are left to the method in every layout, unless trust is null", () => {
  // Evenly spaced: three steps resolve nothing well.
  const spread = Array.from({ length: 12 }, (_, j) => 1 + j);
  const zero = Array<number>(12).fill(0);
  const problem = quadraticProblem([spread, spread], [zero, zero], Array<number>(12).fill(1));
  for (const trust of [0.02, null]) {
    const used = layouts.map((layout) => {
      const run = layoutPlan(2, 12, layout, {
        rounds: 2,
        localSteps: 3,
        update: { name: "sgd", learningRate: 0.01 },
        curvature: { k: 3, l: 0, order: 5, trust },
      });
      const end = runSequential(trainingSetup(run, problem));
      const { theta, residuals, values } = singleDevice(run, problem);
      expect(maxDifference(thetaOf(end), list(theta))).toBeLessThan(1e-12);
      const own = fosiStateOf(end, 0);
      expect(maxDifference(list(own.residuals), list(residuals))).toBeLessThan(1e-10);
      const isTrusted = list(values).map(
        (value, j) => list(residuals)[j]! <= (trust ?? 1e9) * Math.abs(value),
      );
      const rates =
        layout === "rows" ? [0, 1].flatMap((r) => list(fosiStateOf(end, r).rates)) : list(own.rates);
      expect(rates.map((rate) => rate > 0)).toEqual(isTrusted);
      return isTrusted.filter(Boolean).length;
    });
    expect(new Set(used).size).toBe(1);
    if (trust === null) expect(used[0]).toBe(3);
    else expect(used[0]).toBeLessThan(3);
  }
});
