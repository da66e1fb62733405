import { describe, expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { join, resolve } from "node:path";
import type { Dataset } from "../../../cli/data/dataset.ts";
import { loadData } from "../../../cli/data/registry.ts";
import { tensor, zeros } from "../../../core/create.ts";
import { type DivAdamOptions, divAdam } from "../../../dist/compress/div_adam.ts";
import { together } from "../../../dist/compress/together.ts";
import type { Partition } from "../../../dist/federated/partition.ts";
import { imageTraining } from "./image_training.ts";

const [features, classes, steps] = [20, 8, 160];
const size = features * classes + classes;

interface Example {
  readonly x: readonly number[];
  readonly label: number;
}

/** Numbers from 0 to 1 by a linear congruence. */
function uniforms(seed: number): () => number {
  let state = Math.imul(seed + 1, 2654435761) >>> 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return (state + 0.5) / 2 ** 32;
  };
}

/** The loss of softmax regression and its gradient; weights `[features, classes]`, then a bias for each class. */
function softmaxRegression(
  theta: ArrayLike<number>,
  examples: readonly Example[],
): [loss: number, gradient: number[]] {
  const gradient = new Array<number>(size).fill(0);
  let loss = 0;
  for (const { x, label } of examples) {
    const scores = Array.from({ length: classes }, (_, c) =>
      x.reduce((total, xi, i) => total + xi * theta[i * classes + c]!, theta[features * classes + c]!),
    );
    const norm = Math.log(scores.reduce((total, score) => total + Math.exp(score), 0));
    loss += (norm - scores[label]!) / examples.length;
    for (const [c, score] of scores.entries()) {
      const error = (Math.exp(score - norm) - (c === label ? 1 : 0)) / examples.length;
      gradient[features * classes + c]! += error;
      for (const [i, xi] of x.entries()) gradient[i * classes + c]! += error * xi;
    }
  }
  return [loss, gradient];
}

/**
 * The loss on new examples after training on clusters around random centers.
 *
 * @param own whether a worker sees its own classes alone
 */
function trained(
  seed: number,
  workers: number,
  own: boolean,
  options: Partial<DivAdamOptions> & { readonly learningRate: number },
  batch: number,
): number {
  const uniform = uniforms(seed);
  const normal = (): number => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
  const centers = Array.from({ length: classes }, () =>
    Array.from({ length: features }, () => 0.9 * normal()),
  );
  const draw = (label: number): Example => ({
    label,
    x: centers[label]!.map((mean) => mean + 1.5 * normal()),
  });
  const held = Array.from({ length: 400 }, (_, i) => draw(i % classes));
  const { learningRate } = options;
  const method = divAdam({
    shapes: [[features, classes], [classes]],
    ratio: 100,
    warmup: 8,
    ...options,
    learningRate: (step) => (learningRate / 2) * (1 + Math.cos((Math.PI * (step - 1)) / steps)),
  });
  const run = together(method, zeros([size]), workers);
  const [share, all] = own ? [classes / workers, classes / workers] : [0, classes];
  while (run.steps < steps) {
    run.step((rank, position) => {
      const examples = Array.from({ length: batch }, () => draw(rank * share + Math.floor(uniform() * all)));
      return tensor(softmaxRegression(position.dataSync(), examples)[1]);
    });
  }
  return softmaxRegression(run.view().dataSync(), held)[0];
}

/** The mean over the first seeds, two by default. */
function loss(
  workers: number,
  own: boolean,
  options: Parameters<typeof trained>[3],
  batch = 4,
  seeds: readonly number[] = [0, 1],
): number {
  return seeds.reduce((sum, seed) => sum + trained(seed, workers, own, options, batch), 0) / seeds.length;
}

describe("divAdam learns", () => {
  test("as Adam does where workers see the same; where they do not, less than half of what is lost without a background", () => {
    const learningRate = 0.02;
    const isDense = { learningRate, ratio: 1 };
    const isDivided = { learningRate, period: 4 };
    const isWaited = { learningRate, period: Infinity };
    expect(loss(8, false, isDivided)).toBeLessThan(loss(8, false, isDense) + 0.03);
    const adam = loss(8, true, isDense);
    // Untrained: ln 8 = 2.08.
    expect(adam).toBeLessThan(0.8);
    const waited = loss(8, true, isWaited);
    expect(waited).toBeGreaterThan(adam + 0.08);
    // Of five pairs of seeds 0.33 to 0.45.
    expect(loss(8, true, isDivided) - adam).toBeLessThan(0.5 * (waited - adam));
  });

  test("better with more workers", () => {
    // With twice as many the loss falls by 0.027 or more; of three other fours of seeds by 0.010 or more.
    const losses = [1, 2, 4, 8, 16].map((workers) =>
      loss(workers, false, { learningRate: 0.02, period: 4 }, 1, [0, 1, 2, 3]),
    );
    for (const [i, value] of losses.entries()) if (i > 0) expect(value).toBeLessThan(losses[i - 1]! - 0.02);
  });
});

/** Images for a perceptron with one hidden layer, and by how much a background must be better than none. */
interface Images {
  readonly name: string;
  readonly hidden: number;
  readonly isThere: boolean;
  load(): Promise<Dataset>;
  readonly gain: { readonly alike: number; readonly spread: number };
}

const published = join(
  resolve(import.meta.dir, "../../..", process.env["COTANGENT_TEST_DATA"] ?? "../shared/data"),
  "fashion-mnist",
);

const sets: readonly Images[] = [
  {
    // Of seeds 0 to 4: alike, Adam 0.835 to 0.842, divAdam 0.004 to 0.007 below, 0.014 to 0.021 above none in the
    // background; spread, 0.063 to 0.115 above none.
    name: "Fashion-MNIST",
    hidden: 128,
    isThere: existsSync(join(published, "train-images-idx3-ubyte.gz")),
    load: () => loadData({ name: "fashion-mnist", seed: 0, dir: published }),
    gain: { alike: 0.01, spread: 0.05 },
  },
  {
    // Of seeds 0 to 4: alike, Adam 0.730 to 0.761, divAdam from 0.002 below to 0.014 above, 0.045 to 0.077 above none in
    // the background; spread, 0.226 to 0.324 above none.
    name: "drawn images",
    hidden: 32,
    isThere: true,
    load: () => loadData({ name: "glyphs", seed: 0 }),
    gain: { alike: 0.02, spread: 0.1 },
  },
];

for (const { name, hidden, isThere, load, gain } of sets) {
  if (!isThere)
    console.log(`Skipped "${name}": ${published} does not have it; COTANGENT_TEST_DATA says where to look`);
  describe.skipIf(!isThere)(`divAdam on ${name}, 8 workers, 300 steps, one number of 1024 waited for`, () => {
    let opened: Promise<ReturnType<typeof imageTraining>> | undefined;
    const accuracies = async (
      partition: Partition,
      ...designs: readonly Partial<DivAdamOptions>[]
    ): Promise<number[]> => {
      opened ??= load().then((data) => imageTraining(data, hidden));
      const accuracy = await opened;
      return designs.map((options) =>
        accuracy({ workers: 8, steps: 300, seed: 0, partition, ratio: 1024, ...options }),
      );
    };

    test("is as accurate as Adam where data are alike, and more so than without a background", async () => {
      const [adam, divided, waited] = await accuracies(
        { k: "iid" },
        { ratio: 1 },
        { period: 4 },
        { period: Infinity },
      );
      expect(adam).toBeGreaterThan(0.7);
      expect(divided).toBeGreaterThanOrEqual(adam! - 0.015);
      expect(divided).toBeGreaterThanOrEqual(waited! + gain.alike);
    }, 300_000);

    test("is far more accurate than without a background where classes are spread by Dir(0.1)", async () => {
      // Without a background the residual weight is 1: with 0.3 it was less accurate in nine of ten runs.
      const [divided, waited] = await accuracies(
        { k: "dirichlet", alpha: 0.1 },
        { period: 4, residualWeight: 0.3 },
        { period: Infinity },
      );
      expect(divided).toBeGreaterThanOrEqual(waited! + gain.spread);
    }, 300_000);
  });
}
