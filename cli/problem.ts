/** A data set and a model as a problem for `dist`: flat parameters in, losses and counts out. */

import { jit } from "../autodiff/jit.ts";
import * as nn from "../core/nn.ts";
import { add, argmax, cast, equal, greater, mul, reshape, sum } from "../core/ops.ts";
import * as random from "../core/random.ts";
import { ravel } from "../core/ravel.ts";
import { adopt } from "../core/trace.ts";
import type { Value } from "../core/value.ts";
import type { Problem, Scored } from "../dist/jobs.ts";
import { type TrainConfig, UsageError } from "./config.ts";
import { epochOrder, shard } from "./data/batches.ts";
import type { Dataset, Split } from "./data/dataset.ts";
import { batchSize } from "./plan.ts";

/** Features and labels of some examples. */
export interface Batch {
  /** f32[examples, ...exampleShape] */
  readonly x: Value;
  /** i32[examples] */
  readonly y: Value;
}

/** A problem that can also give its parameters back as the model's tree. */
export interface TrainingProblem extends Problem<Batch> {
  readonly parameters: number;
  unravel(theta: Value): unknown;
  /** Mean loss and fraction right on the test data. */
  evaluate(theta: Value): readonly [loss: number, accuracy: number];
}

/** The model that a configuration names, for the shape of the data. */
function modelOf(config: TrainConfig, data: Dataset): nn.Model {
  const inputs = data.exampleShape.reduce((a, b) => a * b, 1);
  switch (config.model) {
    case "mlp":
      return nn.mlp([inputs, ...config.hidden, data.classes], { activation: "relu" });
    case "cnn":
      return nn.cnn({ image: imageShape(data), classes: data.classes });
    case "logistic":
      return nn.logistic(inputs, data.classes === 2 ? 1 : data.classes);
    default:
      return config.model satisfies never;
  }
}

/** Channels, height, width. */
function imageShape({ exampleShape, name }: Dataset): readonly [number, number, number] {
  const [a, b, c] = exampleShape;
  if (exampleShape.length === 3) return [a!, b!, c!];
  if (exampleShape.length === 2) return [1, a!, b!];
  throw new UsageError(
    `Cannot train a cnn on ${name}: its examples have the shape [${exampleShape}], images are needed; use --model mlp`,
  );
}

/** The problem of a run. The same configuration and data give the same bits in every process. */
export function problemOf(config: TrainConfig, data: Dataset): TrainingProblem {
  const model = modelOf(config, data);
  const isBinary = config.model === "logistic" && data.classes === 2;
  const [initial, unravel] = ravel(model.init(random.key(config.seed)));
  const size = batchSize(config, data.train.count);
  const batches = batcher(config, data, size);

  const score = jit((theta: Value, { x, y }: Batch): Scored => {
    const logits = model.apply(unravel(theta), config.model === "cnn" ? x : reshape(x, [x.shape[0]!, -1]));
    const penalty = config.l2 > 0 ? mul(config.l2 / 2, sum(mul(theta, theta))) : 0;
    if (isBinary) {
      const logit = reshape(logits, [-1]);
      const right = equal(cast(greater(logit, 0), "int32"), y);
      return {
        loss: add(nn.sigmoidBinaryCrossEntropy(logit, cast(y, "float32")), penalty),
        sums: [sum(cast(right, "float32"))],
      };
    }
    const right = equal(argmax(logits, { axis: -1 }), y);
    return { loss: add(nn.softmaxCrossEntropy(logits, y), penalty), sums: [sum(cast(right, "float32"))] };
  });

  return {
    initial,
    parameters: initial.size,
    unravel,
    score,
    batch: (rank, step) => batches(rank, step),
    curvatureBatch: (rank) =>
      examples(data, data.train, range(shard(data.train.count, rank, config.workers), config.curvatureBatch)),
    evaluate(theta) {
      let [loss, right] = [0, 0];
      const { count } = data.test;
      for (let start = 0; start < count; start += 1000) {
        const part = range({ start, end: count }, 1000);
        const scored = score(theta, examples(data, data.test, part));
        loss += scored.loss.item() * part.length;
        right += scored.sums[0]!.item();
      }
      return [loss / count, right / count];
    },
  };
}

/** The indices from `start`, at most `limit` of them. */
function range({ start, end }: { readonly start: number; readonly end: number }, limit: number): Int32Array {
  return Int32Array.from({ length: Math.min(limit, end - start) }, (_, i) => start + i);
}

/** Batches of a worker's own shard: all of it in file order, or in a new random order every epoch. */
function batcher(config: TrainConfig, data: Dataset, size: number): (rank: number, step: number) => Batch {
  const orders = new Map<number, { readonly epoch: number; readonly order: Int32Array }>();
  const whole = new Map<number, Batch>();
  return (rank, step) => {
    const { start, end } = shard(data.train.count, rank, config.workers);
    if (config.batch === "full") {
      const batch = whole.get(rank) ?? examples(data, data.train, range({ start, end }, size));
      whole.set(rank, batch);
      return batch;
    }
    const perEpoch = Math.floor((end - start) / size);
    const epoch = Math.floor(step / perEpoch);
    let current = orders.get(rank);
    if (current?.epoch !== epoch) {
      current = { epoch, order: epochOrder(end - start, epoch, config.seed * 65537 + rank) };
      orders.set(rank, current);
    }
    const first = (step % perEpoch) * size;
    return examples(data, data.train, current.order.slice(first, first + size), start);
  };
}

/** Copies the chosen examples of a split. */
function examples(data: Dataset, split: Split, indices: Int32Array, offset = 0): Batch {
  const width = data.exampleShape.reduce((a, b) => a * b, 1);
  const x = new Float32Array(indices.length * width);
  const y = new Int32Array(indices.length);
  indices.forEach((index, i) => {
    const at = offset + index;
    x.set(split.features.subarray(at * width, (at + 1) * width), i * width);
    y[i] = split.labels[at]!;
  });
  const shape = data.exampleShape.length === 2 ? [1, ...data.exampleShape] : data.exampleShape;
  return { x: adopt(x, [indices.length, ...shape], "float32"), y: adopt(y, [indices.length], "int32") };
}
