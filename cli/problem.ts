/** A data set and a model as a problem for `dist`: flat parameters in, losses and counts out. */

import { jit } from "../autodiff/jit.ts";
import { itemsOf } from "../core/devices.ts";
import * as nn from "../core/nn.ts";
import { add, argmax, cast, equal, greater, mul, reshape, sum } from "../core/ops.ts";
import * as random from "../core/random.ts";
import { ravel } from "../core/ravel.ts";
import type { Value } from "../core/value.ts";
import { parsePartition, partitionExamples } from "../dist/federated/partition.ts";
import type { Problem, Scored } from "../dist/jobs.ts";
import { deviceOf, type TrainConfig, UsageError } from "./config.ts";
import { epochOrder, shard } from "./data/batches.ts";
import type { Dataset } from "./data/dataset.ts";
import { batchSize } from "./plan.ts";
import { type Batch, placedRows, type Rows } from "./rows.ts";

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
  const rowsOf = placedRows(data, deviceOf(config));
  const parts = partsOf(config, data);
  const shardRows = (rank: number): Rows => {
    if (!parts) return rowsOf(data.train, shard(data.train.count, rank, config.workers));
    const all = rowsOf(data.train, { start: 0, end: data.train.count });
    const own = parts[rank]!;
    return { count: own.length, at: (numbers) => all.at(numbers.map((i) => own[i]!)) };
  };
  const batches = batcher(config, size, shardRows);

  /** Of the parameters as a tree and as a vector. */
  const scored = (params: nn.Params, theta: Value, { x, y }: Batch): Scored => {
    const logits = model.apply(params, config.model === "cnn" ? x : reshape(x, [x.shape[0]!, -1]));
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
  };
  const score = jit((theta: Value, batch: Batch): Scored => scored(unravel(theta), theta, batch));

  return {
    initial,
    parameters: initial.size,
    unravel,
    score,
    loss: (params, batch) => scored(params as nn.Params, ravel(params)[0], batch).loss,
    batch: (rank, step) => batches(rank, step),
    curvatureBatch(rank) {
      const rows = shardRows(rank);
      return rows.at(range(0, Math.min(config.curvatureBatch, rows.count)));
    },
    evaluate(theta) {
      const { count } = data.test;
      const rows = rowsOf(data.test, { start: 0, end: count });
      const parts: { readonly size: number; readonly scored: Scored }[] = [];
      for (let start = 0; start < count; start += 1000) {
        const size = Math.min(1000, count - start);
        parts.push({ size, scored: score(theta, rows.at(range(start, size))) });
      }
      const items = itemsOf(parts.flatMap(({ scored }) => [scored.loss, scored.sums[0]!]));
      let [loss, right] = [0, 0];
      parts.forEach(({ size }, i) => {
        loss += items[2 * i]! * size;
        right += items[2 * i + 1]!;
      });
      return [loss / count, right / count];
    },
  };
}

/** The examples of each worker where a partition is asked for; every part has at least one batch. */
function partsOf(config: TrainConfig, data: Dataset): readonly Int32Array[] | null {
  if (config.partition === undefined) return null;
  const minimum = batchSize(config, data.train.count);
  try {
    return partitionExamples(parsePartition(config.partition), data.train.labels, config.workers, {
      seed: config.seed,
      minimum,
    });
  } catch (error) {
    // What does not fit to these classes and so many workers.
    if (!(error instanceof RangeError)) throw error;
    throw new UsageError(`Cannot use --partition ${config.partition}: ${error.message}`);
  }
}

/** The problem as curvature workers see it: their shards are those of the training data among themselves. */
export function curvatureProblemOf(config: TrainConfig, data: Dataset): TrainingProblem {
  return problemOf({ ...config, workers: config.curvatureWorkers ?? config.workers }, data);
}

/** The `count` numbers from `start`. */
function range(start: number, count: number): Int32Array {
  return Int32Array.from({ length: count }, (_, i) => start + i);
}

/** Batches of a worker's own shard: all of it in file order, or in a new random order every epoch. */
function batcher(
  config: TrainConfig,
  size: number,
  shardRows: (rank: number) => Rows,
): (rank: number, step: number) => Batch {
  const orders = new Map<number, { readonly epoch: number; readonly order: Int32Array }>();
  const whole = new Map<number, Batch>();
  return (rank, step) => {
    const rows = shardRows(rank);
    if (config.batch === "full") {
      const batch = whole.get(rank) ?? rows.at(range(0, size));
      whole.set(rank, batch);
      return batch;
    }
    const perEpoch = Math.floor(rows.count / size);
    const epoch = Math.floor(step / perEpoch);
    let current = orders.get(rank);
    if (current?.epoch !== epoch) {
      current = { epoch, order: epochOrder(rows.count, epoch, config.seed * 65537 + rank) };
      orders.set(rank, current);
    }
    const first = (step % perEpoch) * size;
    return rows.at(current.order.slice(first, first + size));
  };
}
