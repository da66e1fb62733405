import { describe, expect, test } from "bun:test";
import { tensor, zeros } from "../../../core/create.ts";
import { type DivAdamOptions, divAdam } from "../../../dist/compress/div_adam.ts";
import { together } from "../../../dist/compress/together.ts";

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

/** The mean over two seeds. */
function loss(workers: number, own: boolean, options: Parameters<typeof trained>[3], batch = 4): number {
  return (trained(0, workers, own, options, batch) + trained(1, workers, own, options, batch)) / 2;
}

describe("divAdam learns", () => {
  test("as Adam does where workers see the same, and far better with its background where they do not", () => {
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
    expect(loss(8, true, isDivided) - adam).toBeLessThan(0.7 * (waited - adam));
  });

  test("better with more workers", () => {
    const losses = [1, 2, 4, 8].map((workers) => loss(workers, false, { learningRate: 0.05, period: 4 }, 1));
    for (const [i, value] of losses.entries()) if (i > 0) expect(value).toBeLessThan(losses[i - 1]! - 0.02);
  });
});
