/** Logistic regression: a convex loss, so that only the way to the minimum differs. */
import * as nn from "../../../core/nn.ts";
import { cast, equal, greater, mean, reshape } from "../../../core/ops.ts";
import type { Value } from "../../../core/value.ts";
import type { Dataset, Split } from "../../data/dataset.ts";
import { loadData } from "../../data/registry.ts";
import { placedRows } from "../../rows.ts";
import type { Problem, Task } from "../task.ts";
import { placeOf } from "./place.ts";
import { supervised } from "./supervised.ts";

/** Coordinates and rows of the generated problem. */
const WIDTH = 20;
const ROWS = 400;

/** The 32-bit generator known as mulberry32: numbers in [0, 1). */
function mulberry32(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let word = Math.imul(state ^ (state >>> 15), state | 1);
    word ^= word + Math.imul(word ^ (word >>> 7), word | 61);
    return ((word ^ (word >>> 14)) >>> 0) / 0x100000000;
  };
}

/** Features that become smaller along a row, by 10^1.5 in all, and classes by a plane with noise. */
function drawSplit(uniform: () => number): Split {
  const features = new Float32Array(ROWS * WIDTH);
  const labels = new Int32Array(ROWS);
  for (let i = 0; i < ROWS; i++) {
    let score = 0;
    for (let j = 0; j < WIDTH; j++) {
      const x = (2 * uniform() - 1) * 10 ** ((-1.5 * j) / (WIDTH - 1));
      features[i * WIDTH + j] = x;
      score += (j % 2 === 0 ? 3 : -3) * x;
    }
    labels[i] = score + 0.5 * (2 * uniform() - 1) > 0 ? 1 : 0;
  }
  return { features, labels, count: ROWS };
}

/** The generated problem; it is the same for every seed. */
function planes(): Dataset {
  const uniform = mulberry32(12345);
  const train = drawSplit(uniform);
  return { name: "planes", exampleShape: [WIDTH], classes: 2, train, test: drawSplit(uniform) };
}

/** Fraction of logits on the right side of 0. */
function binaryAccuracy(logits: Value, y: Value): Value {
  return mean(equal(cast(greater(logits, 0), y.dtype), y));
}

/** One logit for each row. The generated problem has no bias, so that its numbers are those that are known of it. */
function logit(inputs: number, bias: boolean): nn.Model {
  const layer = nn.dense(inputs, 1, { bias, initializer: nn.zeros });
  return {
    name: `logistic ${inputs}`,
    init: layer.init,
    apply: (params, x) => reshape(layer.apply(params as nn.AffineParams, x), [-1]),
  };
}

export const logisticTask: Task = {
  name: "logistic",
  summary: "logistic regression on a9a in batches of 1024, or on 400 generated rows at once",
  async open({ seed, dataDir, batch }): Promise<Problem> {
    const data =
      dataDir === undefined
        ? planes()
        : await loadData({ name: "libsvm", seed, dir: await placeOf(dataDir, "libsvm"), file: "a9a" });
    const isPublished = dataDir !== undefined;
    const rowsOf = placedRows(data, "cpu");
    return supervised({
      name: `logistic on ${isPublished ? "a9a" : data.name}`,
      target: { metric: "loss", value: isPublished ? 0.3242 : 0.2047 },
      seed,
      model: logit(data.exampleShape[0]!, isPublished),
      likelihood: nn.bernoulli,
      accuracy: binaryAccuracy,
      train: rowsOf(data.train, { start: 0, end: data.train.count }),
      validation: rowsOf(data.test, { start: 0, end: data.test.count }),
      batchSize: batch ?? (isPublished ? 1024 : ROWS),
      penalty: isPublished ? 1e-4 : 1e-3,
    });
  },
};
