/** A task with data: a model, a likelihood and rows to draw batches from, made into a problem. */
import { jit } from "../../../autodiff/jit.ts";
import { itemsOf } from "../../../core/devices.ts";
import type { Likelihood } from "../../../core/likelihood.ts";
import * as nn from "../../../core/nn.ts";
import { add, mul } from "../../../core/ops.ts";
import * as random from "../../../core/random.ts";
import type { Value } from "../../../core/value.ts";
import { epochOrder, shard } from "../../data/batches.ts";
import { permutation } from "../../data/random.ts";
import type { Rows } from "../../rows.ts";
import type { Batch, Evaluation, Problem, Target } from "../task.ts";

/** Keeps the choice of examples for curvature apart from other uses of the same seed. */
const CURVATURE_STREAM = 4;
/** Examples on which a model is judged at once. */
const CHUNK = 500;

/** What a task with data consists of. */
export interface Supervised {
  readonly name: string;
  readonly target: Target;
  readonly seed: number;
  readonly model: nn.Model;
  readonly likelihood: Likelihood;
  /** Fraction right of outputs for targets; null where nothing is right or wrong. */
  readonly accuracy: ((outputs: Value, targets: Value) => Value) | null;
  readonly train: Rows;
  readonly validation: Rows;
  readonly batchSize: number;
  /** Examples on which curvature is measured; default 512, all where there are fewer. */
  readonly curvatureSize?: number;
  /** Weight of half the sum of squares of all parameters in the loss; default 0. */
  readonly penalty?: number;
  /** Training examples whose moments normalize what is judged; default 0, for models without batch normalization. */
  readonly momentsSize?: number;
}

/** The problem of a task with data. */
export function supervised(task: Supervised): Problem {
  const { model, likelihood, train, seed, penalty = 0 } = task;
  const batchSize = Math.min(task.batchSize, train.count);
  const curvatureSize = Math.min(task.curvatureSize ?? 512, train.count);
  const stepsPerEpoch = Math.floor(train.count / batchSize);

  let current: { readonly epoch: number; readonly order: Int32Array } = {
    epoch: -1,
    order: new Int32Array(0),
  };
  const order = (epoch: number): Int32Array => {
    if (current.epoch !== epoch) current = { epoch, order: epochOrder(train.count, epoch, seed) };
    return current.order;
  };
  const part = (numbers: Int32Array, rank: number, workers: number): Batch => {
    const { start, end } = shard(numbers.length, rank, workers);
    return train.at(numbers.subarray(start, end));
  };

  return {
    name: task.name,
    target: task.target,
    initial: model.init(random.key(seed)),
    batchSize,
    stepsPerEpoch,
    loss(params, { x, y }) {
      const loss = likelihood.loss(model.apply(params, x), y);
      return penalty === 0 ? loss : add(loss, mul(penalty / 2, nn.l2(params)));
    },
    model: { outputs: model.apply, likelihood },
    batch(step, rank = 0, workers = 1) {
      const first = (step % stepsPerEpoch) * batchSize;
      const numbers = order(Math.floor(step / stepsPerEpoch)).subarray(first, first + batchSize);
      return part(numbers, rank, workers);
    },
    curvatureBatch(refresh, rank = 0, workers = 1) {
      const numbers = permutation(train.count, [seed, CURVATURE_STREAM, refresh]);
      return part(numbers.subarray(0, curvatureSize), rank, workers);
    },
    evaluate: evaluator(task),
  };
}

/** Loss and accuracy on the validation rows, without the penalty, a chunk at a time. */
function evaluator(task: Supervised): (params: nn.Params) => Evaluation {
  const { model, likelihood, accuracy, train, validation, momentsSize = 0 } = task;
  const measure = jit((params: nn.Params, x: Value) => nn.momentsOf(model, params, x));
  const score = jit((params: nn.Params, moments: readonly nn.Moments[], { x, y }: Batch) => {
    const outputs = nn.withMoments(model, moments).apply(params, x);
    return [likelihood.loss(outputs, y), ...(accuracy === null ? [] : [accuracy(outputs, y)])];
  });
  return (params) => {
    const moments =
      momentsSize === 0
        ? []
        : measure(params, train.at(numbersFrom(0, Math.min(momentsSize, train.count))).x);
    const sizes: number[] = [];
    const scores: Value[][] = [];
    for (let start = 0; start < validation.count; start += CHUNK) {
      const size = Math.min(CHUNK, validation.count - start);
      sizes.push(size);
      scores.push(score(params, moments, validation.at(numbersFrom(start, size))));
    }
    const mean = (column: number): number => {
      const items = itemsOf(scores.map((row) => row[column]!));
      return items.reduce((sum, item, i) => sum + item * sizes[i]!, 0) / validation.count;
    };
    return { loss: mean(0), accuracy: accuracy === null ? null : mean(1) };
  };
}

/** The `count` numbers from `start`. */
function numbersFrom(start: number, count: number): Int32Array {
  return Int32Array.from({ length: count }, (_, i) => start + i);
}

/** The first so many rows. */
export function firstRows(rows: Rows, count: number): Rows {
  return { count: Math.min(count, rows.count), at: rows.at };
}
