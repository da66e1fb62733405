/** Tasks of comparisons: laws that hold for each, known numbers of those that have them, and where their data are. */
import { beforeAll, describe, expect, test } from "bun:test";
import { mkdir, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { hvp } from "../../autodiff/hvp.ts";
import { jit } from "../../autodiff/jit.ts";
import { grad, valueAndGrad } from "../../autodiff/vjp.ts";
import type { Batch, Problem, Task } from "../../cli/compare/task.ts";
import { supervised } from "../../cli/compare/tasks/supervised.ts";
import { tasks } from "../../cli/compare/tasks.ts";
import type { Rows } from "../../cli/rows.ts";
import { tensor } from "../../core/create.ts";
import * as nn from "../../core/nn.ts";
import * as ops from "../../core/ops.ts";
import { key, normal } from "../../core/random.ts";
import { leaves, map } from "../../core/tree.ts";
import type { Value } from "../../core/value.ts";
import { idxBytes, messageOf, withDirectory } from "./data_support.ts";

const note = (): void => {};
const open = (name: string, options: { seed?: number; dataDir?: string } = {}): Promise<Problem> =>
  (tasks[name] as Task).open({ seed: 0, note, ...options });
const numbers = (x: Value): number[] => [...x.dataSync()];

/** Gradient descent, with momentum if told; the loss after every step. */
function descend(problem: Problem, rate: number, steps: number, momentum = 0): number[] {
  const step = jit((p: nn.Params, v: nn.Params, batch: Batch) => {
    const slope = grad((q: nn.Params) => problem.loss(q, batch))(p);
    const velocity = map((a, g) => ops.add(ops.mul(momentum, a), g!), v, slope) as nn.Params;
    const moved = map((x, a) => ops.sub(x, ops.mul(rate, a!)), p, velocity) as nn.Params;
    return [moved, velocity, problem.loss(moved, batch)] as const;
  });
  let params = problem.initial;
  let velocity = map((x) => ops.mul(x, 0), params) as nn.Params;
  return Array.from({ length: steps }, (_, i) => {
    const [p, v, loss] = step(params, velocity, problem.batch(i));
    params = p;
    velocity = v;
    return loss.item();
  });
}

/** Equal to a relative tolerance: what float32 leaves of a number known to more places. */
function expectNear(actual: number, expected: number, tolerance: number): void {
  expect(Math.abs(actual / expected - 1)).toBeLessThan(tolerance);
}

/** Few images, rows and characters, as their publishers write them, each set in its folder of a directory. */
async function writeFiles(dir: string): Promise<void> {
  const bytes = (count: number): number[] =>
    Array.from({ length: count }, (_, i) => (i * 7 + (i >> 5)) % 256);
  const labels = (count: number): number[] => Array.from({ length: count }, (_, i) => i % 10);
  const records = (count: number): Uint8Array =>
    Uint8Array.from(labels(count).flatMap((label) => [label, ...bytes(3072).map((b) => (b + label) % 256)]));
  const rows = (count: number): string =>
    Array.from({ length: count }, (_, i) => `${i % 2 === 0 ? "+1" : "-1"} 1:1 ${2 + (i % 3)}:0.5\n`).join("");
  const files: Readonly<Record<string, Uint8Array | string>> = {
    "fashion-mnist/train-images-idx3-ubyte": idxBytes([50, 28, 28], bytes(50 * 784)),
    "fashion-mnist/train-labels-idx1-ubyte": idxBytes([50], labels(50)),
    "fashion-mnist/t10k-images-idx3-ubyte": idxBytes([20, 28, 28], bytes(20 * 784)),
    "fashion-mnist/t10k-labels-idx1-ubyte": idxBytes([20], labels(20)),
    "tinyshakespeare/input.txt": "to be or not to be, that is the question\n".repeat(60),
    "libsvm/a9a": rows(12),
    "libsvm/a9a.t": rows(6),
    "cifar10/test_batch.bin": records(10),
    ...Object.fromEntries([1, 2, 3, 4, 5].map((n) => [`cifar10/data_batch_${n}.bin`, records(10)])),
  };
  for (const [path, content] of Object.entries(files)) {
    await mkdir(dirname(join(dir, path)), { recursive: true });
    await writeFile(join(dir, path), content);
  }
}

describe("every task", () => {
  const problems = new Map<string, Problem>();
  const others = new Map<string, Problem>();
  beforeAll(() =>
    withDirectory(async (dataDir) => {
      await writeFiles(dataDir);
      for (const name of names) {
        // What is generated fast is taken as it is; images are read.
        const options = name === "logistic" || name === "transformer" ? {} : { dataDir };
        problems.set(name, await open(name, { seed: 1, ...options }));
        others.set(name, await open(name, { seed: 2, ...options }));
      }
    }),
  );
  const names = Object.keys(tasks);

  test("there are those that are spoken of", () => {
    expect(names).toEqual([
      "quadratic-a",
      "quadratic-b",
      "quadratic-c",
      "rosenbrock",
      "rosenbrock-20",
      "logistic",
      "mlp",
      "cnn",
      "autoencoder",
      "transformer",
      "resnet20",
    ]);
    for (const name of names)
      expect([tasks[name]!.name, tasks[name]!.summary.length > 0]).toEqual([name, true]);
  });

  test.each(names)("%s: batches are the same again, and the parts of workers make up the whole", (name) => {
    const { batch, curvatureBatch, batchSize, model } = problems.get(name)!;
    const whole = batch(3);
    expect(numbers(batch(3).x)).toEqual(numbers(whole.x));
    if (model === null) return;
    expect(whole.x.shape[0]).toBe(batchSize);
    for (const draw of [batch, curvatureBatch]) {
      const { x, y } = draw(1);
      const parts = [0, 1, 2].map((rank) => draw(1, rank, 3));
      expect(numbers(ops.concat(parts.map((part) => part.x)))).toEqual(numbers(x));
      expect(numbers(ops.concat(parts.map((part) => part.y)))).toEqual(numbers(y));
    }
  });

  test.each(names)("%s: the loss has finite gradients, and is the model's and its penalty", (name) => {
    const { initial, loss, model, batch } = problems.get(name)!;
    const { x, y } = batch(0, 0, 8);
    const [value, slope] = jit((p: nn.Params, b: Batch) => valueAndGrad((q: nn.Params) => loss(q, b))(p))(
      initial,
      { x, y },
    );
    for (const leaf of leaves(slope)) expect(ops.min(ops.isFinite(leaf).astype("int32")).item()).toBe(1);
    expect(leaves(slope).some((leaf) => ops.norm(leaf).item() > 0)).toBe(true);
    if (model === null) return;
    const bare = model.likelihood.loss(model.outputs(initial, x), y).item();
    const excess = value.item() - bare;
    expect(excess).toBeGreaterThan(-1e-4 * bare);
    expect(excess).toBeLessThan(0.1);
  });

  test.each(["mlp", "cnn", "autoencoder", "transformer", "resnet20"])(
    "%s: another seed has other parameters and batches",
    (name) => {
      const [one, other] = [problems.get(name)!, others.get(name)!];
      const weights = ({ initial }: Problem): number[] => leaves(initial).flatMap(numbers);
      expect(weights(one)).not.toEqual(weights(other));
      expect(numbers(one.batch(0).x)).not.toEqual(numbers(other.batch(0).x));
    },
  );

  test("an epoch shows every sequence of a text once, with what comes after each character as its target", () => {
    const { batch, stepsPerEpoch, batchSize } = problems.get("transformer")!;
    const seen = new Set<string>();
    for (let step = 0; step < stepsPerEpoch; step++) {
      const { x, y } = batch(step);
      const [xs, ys] = [x.toArray() as number[][], y.toArray() as number[][]];
      xs.forEach((row, i) => {
        expect(ys[i]!.slice(0, -1)).toEqual(row.slice(1));
        seen.add(row.join());
      });
    }
    expect(seen.size).toBe(stepsPerEpoch * batchSize);
    expect(numbers(batch(stepsPerEpoch).x)).not.toEqual(numbers(batch(0).x));
  });
});

describe("quadratics", () => {
  // Losses of plain runs in the coordinates of the eigenvectors: methods that no rotation changes have them in any basis.
  test("a: gradient descent with rate 0.001", async () => {
    const problem = await open("quadratic-a", { seed: 5 });
    expectNear(problem.evaluate(problem.initial).loss, 16.202083333, 1e-5);
    const losses = descend(problem, 0.001, 250);
    [
      [1, 15.9042155086],
      [10, 13.4670958615],
      [50, 6.5564156997],
      [250, 0.7252024399],
    ].forEach(([step, loss]) => {
      expectNear(losses[step! - 1]!, loss!, 1e-4);
    });
  });

  test("b: gradient descent along one eigenvector at a time", async () => {
    const lambda = [50, ...Array.from({ length: 99 }, (_, i) => 1.5 ** -i)];
    const rate = 2 / (50 + lambda[99]!);
    const expected = (steps: number): number =>
      lambda.reduce((f, l, i) => f + (l / 2) * ((i === 1 ? 1 : 0.5) * (1 - rate * l) ** steps) ** 2, 0);
    // The rate is at the edge of stability along the first, so that rounding there stays: a slower one.
    const slower = descend(await open("quadratic-b"), rate / 2, 200);
    const slow = (steps: number): number =>
      lambda.reduce((f, l, i) => f + (l / 2) * ((i === 1 ? 1 : 0.5) * (1 - (rate * l) / 2) ** steps) ** 2, 0);
    expect(expected(0)).toBe(slow(0));
    for (const step of [1, 20, 200]) expectNear(slower[step - 1]!, slow(step), 1e-4);
  });

  test("c: gradient descent and heavy ball with the best rates for the spectrum", async () => {
    const problem = await open("quadratic-c", { seed: 6 });
    expectNear(problem.evaluate(problem.initial).loss, 87.00173847, 1e-5);
    const [low, high] = [1e-3, 1e-3 * 1.12 ** 99];
    expectNear(descend(problem, 2 / (low + high), 200)[199]!, 9.324156, 1e-3);
    const heavy = descend(problem, 2 / (Math.sqrt(low) + Math.sqrt(high)) ** 2, 200, 0.9);
    expectNear(heavy[199]!, 9.726456e-3, 1e-2);
  });

  test("the basis is of the seed, and the start is as good in each", async () => {
    const [one, other] = [await open("quadratic-a", { seed: 1 }), await open("quadratic-a", { seed: 2 })];
    expect(numbers(leaves(one.initial)[0]!)).not.toEqual(numbers(leaves(other.initial)[0]!));
    expectNear(one.evaluate(one.initial).loss, other.evaluate(other.initial).loss, 1e-5);
  });
});

describe("rosenbrock", () => {
  test.each([
    ["rosenbrock", 2],
    ["rosenbrock-20", 20],
  ] as const)("%s: the formula, and the minimum at ones", async (name, size) => {
    const problem = await open(name);
    const f = (x: readonly number[]): number =>
      x.slice(1).reduce((sum, next, i) => sum + 100 * (next - x[i]! ** 2) ** 2 + (1 - x[i]!) ** 2, 0);
    const start = numbers(leaves(problem.initial)[0]!);
    expect(start.length).toBe(size);
    expectNear(problem.evaluate(problem.initial).loss, f(start), 1e-5);
    if (size === 2) expectNear(problem.evaluate(problem.initial).loss, 24.2, 1e-5);
    const one = { x: ops.add(ops.mul(leaves(problem.initial)[0]!, 0), 1) };
    expect(problem.evaluate(one).loss).toBe(0);
    const slope = grad((p: nn.Params) => problem.loss(p, problem.batch(0)))(one);
    expect(ops.norm(leaves(slope)[0]!).item()).toBe(0);
  });
});

describe("logistic on generated rows", () => {
  const optimum = 0.216919077813;

  test("the data, the start and the curvature there are the known ones", async () => {
    const problem = await open("logistic");
    const { x, y } = problem.batch(0);
    expect(x.shape).toEqual([400, 20]);
    const total = numbers(x).reduce((a, b) => a + b, 0);
    expect(Math.abs(total - 25.009437990364)).toBeLessThan(1e-4);
    expect(numbers(y).reduce((a, b) => a + b, 0)).toBe(199);
    const f = (p: nn.Params): Value => problem.loss(p, { x, y });
    const [loss, slope] = valueAndGrad(f)(problem.initial);
    expectNear(loss.item(), Math.LN2, 1e-6);
    expectNear(ops.norm(leaves(slope)[0]!).item(), 0.198299331733, 1e-5);
    // The largest eigenvalue, 0.0866, by the power method: the next is 0.0589, and 0.68^60 is nothing.
    let v = map((w) => normal(key(1), [...w.shape]), problem.initial) as nn.Params;
    let length = 0;
    const product = jit((p: nn.Params, d: nn.Params) => hvp(f)(p, d));
    for (let i = 0; i < 60; i++) {
      const next = product(problem.initial, v);
      length = ops.norm(leaves(next)[0]!).item();
      v = map((w) => ops.div(w, length), next) as nn.Params;
    }
    expectNear(length, 0.086616955576, 1e-5);
  });

  test("gradient descent and heavy ball have the known gaps", async () => {
    const problem = await open("logistic");
    const plain = descend(problem, 1, 100);
    expectNear(plain[49]! - optimum, 1.0304457e-1, 1e-4);
    expectNear(plain[99]! - optimum, 5.6607245e-2, 1e-4);
    const heavy = descend(problem, 1, 100, 0.9);
    expectNear(heavy[49]! - optimum, 3.5967028e-3, 1e-3);
  });
});

describe("supervised", () => {
  const data = normal(key(1), [1203, 2]).toArray() as number[][];
  /** Two numbers, and whether their sum is positive. */
  const rows = (start: number, count: number): Rows => ({
    count,
    at(chosen) {
      const picked = Array.from(chosen, (i) => data[start + i]!);
      return {
        x: tensor(picked),
        y: tensor(
          picked.map(([a, b]) => Number(a! + b! > 0)),
          { dtype: "int32" },
        ),
      };
    },
  });
  const [train, validation] = [rows(0, 200), rows(200, 1003)];
  const task = {
    name: "two",
    target: { metric: "loss", value: 0 },
    seed: 3,
    likelihood: nn.categorical,
    accuracy: nn.accuracy,
    train,
    validation,
    batchSize: 30,
  } as const;

  test("an evaluation is the mean over all examples, without the penalty, whatever the chunks", () => {
    const model: nn.Model = nn.dense(2, 2);
    const problem = supervised({ ...task, model, penalty: 10 });
    const { x, y } = validation.at(Int32Array.from({ length: 1003 }, (_, i) => i));
    const outputs = model.apply(problem.initial, x);
    const found = problem.evaluate(problem.initial);
    expect(found.loss).toBeCloseTo(nn.softmaxCrossEntropy(outputs, y).item(), 5);
    const logits = outputs.toArray() as number[][];
    const right = numbers(y).filter((label, i) => logits[i]![label]! > logits[i]![1 - label]!).length;
    expect(found.accuracy).toBeCloseTo(right / 1003, 6);
    const params = { b: tensor([0, 3]), w: ops.mul((problem.initial as { w: Value }).w, 0) };
    const batch = problem.batch(0);
    const bare = problem.model!.likelihood.loss(problem.model!.outputs(params, batch.x), batch.y).item();
    expect(problem.loss(params, batch).item()).toBeCloseTo(bare + (10 / 2) * 9, 4);
  });

  test("an evaluation with batch normalization uses moments of training examples, not of its own", () => {
    const model: nn.Model = nn.sequential(nn.batchNorm(2), nn.dense(2, 2)) as nn.Model;
    const problem = supervised({ ...task, model, validation: rows(200, 2), momentsSize: 50 });
    const shown = train.at(Int32Array.from({ length: 50 }, (_, i) => i)).x;
    const { x, y } = validation.at(Int32Array.from([0, 1]));
    const [mean, variance] = [ops.mean(shown, { axis: 0 }), ops.var(shown, { axis: 0 })];
    const [, head] = problem.initial as unknown as readonly [unknown, nn.AffineParams];
    const normalized = ops.div(ops.sub(x, mean), ops.sqrt(ops.add(variance, 1e-5)));
    const expected = nn.softmaxCrossEntropy(nn.dense(2, 2).apply(head, normalized), y).item();
    expect(problem.evaluate(problem.initial).loss).toBeCloseTo(expected, 4);
    expect(
      Math.abs(nn.softmaxCrossEntropy(model.apply(problem.initial, x), y).item() - expected),
    ).toBeGreaterThan(1e-3);
  });

  test("an epoch shows no example twice, the next one in another order; batches are no larger than the data", () => {
    const problem = supervised({ ...task, model: nn.dense(2, 2) });
    expect([problem.stepsPerEpoch, problem.batchSize]).toEqual([6, 30]);
    const epoch = (first: number): string[] =>
      [0, 1, 2, 3, 4, 5].flatMap((i) =>
        (problem.batch(6 * first + i).x.toArray() as number[][]).map((row) => row.join()),
      );
    expect(new Set(epoch(0)).size).toBe(180);
    expect(epoch(1)).not.toEqual(epoch(0));
    const all = supervised({ ...task, model: nn.dense(2, 2), batchSize: 1000, curvatureSize: 1000 });
    expect([all.stepsPerEpoch, all.batchSize, all.curvatureBatch(0).x.shape[0]]).toEqual([1, 200, 200]);
    expect(numbers(all.curvatureBatch(1).x)).not.toEqual(numbers(all.curvatureBatch(0).x));
  });
});

describe("data", () => {
  const needs: Readonly<Record<string, string>> = {
    logistic: "a9a",
    mlp: "train-images-idx3-ubyte.gz",
    cnn: "t10k-labels-idx1-ubyte.gz",
    autoencoder: "train-labels-idx1-ubyte.gz",
    transformer: "input.txt",
    resnet20: "data_batch_1.bin",
  };

  test.each(Object.entries(needs))(
    "%s: a directory without its data is refused by the name of %s",
    (name, file) =>
      withDirectory(async (dir) => {
        expect(await messageOf(() => open(name, { dataDir: dir }))).toContain(file);
      }),
  );

  test("files are found in a folder of the directory, and in the directory itself", () =>
    withDirectory(async (dir) => {
      await writeFiles(dir);
      const inside = await open("mlp", { dataDir: dir });
      const direct = await open("mlp", { dataDir: join(dir, "fashion-mnist") });
      expect(numbers(direct.batch(0).x)).toEqual(numbers(inside.batch(0).x));
      expect(numbers(inside.batch(0).y).sort()).toEqual(
        Array.from({ length: 50 }, (_, i) => Math.floor(i / 5)),
      );
      expect(inside.evaluate(inside.initial).loss).toBeGreaterThan(0);

      // An autoencoder gives its inputs back: pixels from -1 to 1 are both.
      const { x, y } = (await open("autoencoder", { dataDir: dir })).batch(0);
      expect(numbers(y)).toEqual(numbers(x));
      expect([ops.min(x).item(), ops.max(x).item()]).toEqual([-1, 1]);

      const logistic = await open("logistic", { dataDir: dir });
      expect(logistic.batchSize).toBe(12);
      const { loss, accuracy } = logistic.evaluate(logistic.initial);
      expect(loss).toBeCloseTo(Math.LN2, 6);
      expect(accuracy).toBe(0.5);
    }));

  test("a name says which data there are", async () => {
    const published = await withDirectory(async (dataDir) => {
      await writeFiles(dataDir);
      return Promise.all(Object.keys(needs).map(async (name) => (await open(name, { dataDir })).name));
    });
    expect(published).toEqual([
      "logistic on a9a",
      "mlp on fashion-mnist",
      "cnn on fashion-mnist",
      "autoencoder on fashion-mnist",
      "transformer on tinyshakespeare",
      "resnet20 on cifar10",
    ]);
    const drawn = [];
    for (const name of ["logistic", "cnn", "transformer", "resnet20"]) drawn.push((await open(name)).name);
    expect(drawn).toEqual([
      "logistic on planes",
      "cnn on glyphs",
      "transformer on plays",
      "resnet20 on tinted",
    ]);
  });
});
