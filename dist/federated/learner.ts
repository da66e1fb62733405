/**
 * What gradient methods do at a client: a model with its loss, batches in a seeded order, and compiled steps.
 *
 * All batches of a client have one shape, so that a step is compiled once: the last batch of an epoch is padded with
 * examples of weight 0. Every example counts once an epoch.
 */
import { jit } from "../../autodiff/jit.ts";
import { gradientOf } from "../../autodiff/vjp.ts";
import { bytesPerElement, makeArray } from "../../core/dtype.ts";
import { ShapeError } from "../../core/errors.ts";
import type { Model } from "../../core/nn/model.ts";
import { add, cast, div, expandDims, logSoftmax, mul, neg, squeeze, sub, sum } from "../../core/ops.ts";
import { takeAlong } from "../../core/prims/indexing.ts";
import { foldIn, key, permutation } from "../../core/random.ts";
import { adopt } from "../../core/trace.ts";
import { leaves, map } from "../../core/tree.ts";
import type { Value } from "../../core/value.ts";
import type { ClientAt, ClientData } from "./method.ts";

/**
 * What every gradient method is told.
 *
 * @since 0.2.0
 */
export interface GradientOptions {
  /** Rounds of communication. */
  readonly rounds: number;
  /** Examples in a step at a client, at most all of its own; default 10. */
  readonly batch?: number | "full";
  /** Step size; each method names its default. */
  readonly learningRate?: number;
  /** Losses of single examples; default the cross-entropy of classes. Shapes: outputs `[n, ...]`, y `[n]`, result `[n]`. */
  readonly loss?: (outputs: Value, y: Value) => Value;
  /** Of the first model and of the orders of examples; default 0. */
  readonly seed?: number;
}

/** Some examples of one client, and what each counts: 1, or 0 for those that only fill up. */
export interface WeightedBatch extends ClientData {
  readonly weights: Value;
}

/** A model as gradient methods see it. */
export interface Learner<P> {
  /** The model that all start from. */
  initial(): P;
  /** Bytes of its parameters. */
  bytes(): number;
  predict(params: P, x: Value): Value;
  /** The gradient of the mean loss. Not compiled: parts of a step are compiled together. */
  gradient(params: P, batch: WeightedBatch): P;
  /** The same mean loss, for transforms. */
  objective(params: P, batch: WeightedBatch): Value;
  /** One epoch: all examples in an order of their own for each seed, round, client and epoch. */
  epoch(data: ClientData, at: ClientAt, epoch: number): readonly WeightedBatch[];
  /** Epochs without end. */
  batches(data: ClientData, at: ClientAt): Generator<WeightedBatch, never>;
  /** All examples of a client. */
  everything(data: ClientData): WeightedBatch;
}

/**
 * The learner of a model.
 *
 * @throws {RangeError} if an option is out of range
 */
export function learnerOf<P>(
  model: Model<P>,
  { batch = 10, loss = crossEntropies, seed = 0 }: Omit<GradientOptions, "rounds">,
): Learner<P> {
  if (batch !== "full") checkCount("batch", batch);
  let first: P | null = null;
  const initial = (): P => {
    // Streams of orders start from another number than 0.
    first ??= model.init(foldIn(key(seed), 0));
    return first;
  };
  const objective = (params: P, { x, y, weights }: WeightedBatch): Value => {
    const losses = loss(model.apply(params, x), y);
    if (losses.ndim !== 1 || losses.size !== weights.size) {
      throw new ShapeError(
        "loss",
        `Cannot weigh the losses ${losses.aval} of ${weights.size} examples: one number for each is needed`,
      );
    }
    const w = cast(weights, losses.dtype);
    return div(sum(mul(losses, w)), sum(w));
  };
  const predict = jit((params: P, x: Value): Value => model.apply(params, x));

  /** Batches of examples in an order; the rows of a batch that it has no example for are those of its first, with weight 0. */
  function batchesIn(data: ClientData, order: Int32Array, size: number): readonly WeightedBatch[] {
    const [x, y] = [rowsOf(data.x), rowsOf(data.y)];
    return Array.from({ length: Math.ceil(order.length / size) }, (_, i) => {
      const own = order.subarray(i * size, (i + 1) * size);
      const rows = new Int32Array(size).fill(own[0]!);
      rows.set(own);
      const weights = new Float32Array(size).fill(1, 0, own.length);
      return { x: x(rows), y: y(rows), weights: adopt(weights, [size], "float32") };
    });
  }
  function epoch(data: ClientData, at: ClientAt, number: number): readonly WeightedBatch[] {
    const count = countOf(data);
    if (count === 0) return [];
    const size = batch === "full" ? powerFrom(count) : Math.min(batch, powerFrom(count));
    const stream = [1, at.round, at.client, number].reduce<Value>((k, word) => foldIn(k, word), key(seed));
    return batchesIn(data, permutation(stream, count).dataSync() as Int32Array, size);
  }
  return {
    initial,
    bytes: () => payloadBytes(initial()),
    predict,
    gradient: gradientOf(objective),
    objective,
    epoch,
    *batches(data, at) {
      if (countOf(data) === 0) throw new RangeError(noExamples(at.client));
      for (let number = 0; ; number++) yield* epoch(data, at, number);
    },
    everything(data) {
      const count = countOf(data);
      if (count === 0) throw new RangeError("Cannot make a batch of no examples: at least one is needed");
      return batchesIn(
        data,
        Int32Array.from({ length: count }, (_, i) => i),
        powerFrom(count),
      )[0]!;
    },
  };
}

const noExamples = (client: number): string =>
  `Cannot train at client ${client}: it has no examples, at least one is needed`;

/** theta - rate (g(theta) + strength (theta - anchor)), compiled: a step towards the minimum of F + strength/2 |. - anchor|². */
export function proximalStep<P>(
  learner: Learner<P>,
  rate: number,
  strength: number,
): (params: P, anchor: P, batch: WeightedBatch) => P {
  return jit(function proximalStep(params: P, anchor: P, batch: WeightedBatch): P {
    const pulled = (p: Value, g: Value, a: Value): Value =>
      strength === 0 ? g : add(g, mul(strength, sub(p, a)));
    return map(
      (p, g, a) => sub(p, mul(rate, pulled(p, g!, a!))),
      params,
      learner.gradient(params, batch),
      anchor,
    );
  });
}

/** -log softmax at the class of each example. */
function crossEntropies(outputs: Value, y: Value): Value {
  return neg(squeeze(takeAlong(logSoftmax(outputs), expandDims(cast(y, "int32"), 1), 1), 1));
}

/** The chosen rows of a value, copied on the host: that is faster than a program for every batch. */
function rowsOf(x: Value): (rows: Int32Array) => Value {
  const [count, ...rest] = x.shape as readonly [number, ...number[]];
  const width = x.size / Math.max(1, count);
  const data = x.dataSync();
  return (rows) => {
    const chosen = makeArray(x.dtype, rows.length * width);
    rows.forEach((row, i) => {
      chosen.set(data.subarray(row * width, (row + 1) * width), i * width);
    });
    return adopt(chosen, [rows.length, ...rest], x.dtype);
  };
}

/** How many examples a client has. */
export function countOf({ x }: ClientData): number {
  return x.shape[0]!;
}

/** Clients have examples in any number; with powers of two few shapes are compiled. */
export function powerFrom(count: number): number {
  return count === 0 ? 0 : 2 ** Math.ceil(Math.log2(count));
}

/** Bytes of the elements of a tree. */
export function payloadBytes(tree: unknown): number {
  return leaves(tree).reduce((bytes, x) => bytes + x.size * bytesPerElement(x.dtype), 0);
}

/** Refuses anything but whole numbers from 1. */
export function checkCount(name: string, value: number): void {
  if (Number.isSafeInteger(value) && value >= 1) return;
  throw new RangeError(`Cannot train with ${name} ${value}: a whole number of at least 1 is needed`);
}

/** Refuses rates that are not positive. */
export function checkRate(name: string, value: number): void {
  if (Number.isFinite(value) && value > 0) return;
  throw new RangeError(`Cannot train with ${name} ${value}: a positive number is needed`);
}

/** Refuses penalties below 0. */
export function checkPenalty(name: string, value: number): void {
  if (Number.isFinite(value) && value >= 0) return;
  throw new RangeError(`Cannot train with ${name} ${value}: a number of at least 0 is needed`);
}
