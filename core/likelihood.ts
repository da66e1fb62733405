/** Losses that are negative log-likelihoods: what a model's outputs say about targets, and targets drawn from what they say. */

import { ShapeError } from "./errors.ts";
import { mse, sigmoidBinaryCrossEntropy, softmaxCrossEntropy } from "./nn/losses.ts";
import { add, cast, mul, sigmoid } from "./ops.ts";
import * as random from "./random.ts";
import { sameShape } from "./shape.ts";
import type { Value } from "./value.ts";

/**
 * A distribution of targets given the outputs of a model.
 *
 * @since 0.2.0
 */
export interface Likelihood {
  readonly name: string;
  /** Mean negative log-likelihood over the batch. */
  loss(outputs: Value, targets: Value): Value;
  /** Targets drawn from the distribution that the outputs describe: for the Fisher matrix and its estimates. */
  sample(key: Value, outputs: Value): Value;
}

/**
 * Classes with probabilities `softmax(outputs)`; the loss is `nn.softmaxCrossEntropy`, its batch every axis but the last.
 *
 * Shapes: outputs `[...n, classes]`, targets `[...n]` of an integer type; what is drawn is i32`[...n]`.
 *
 * @throws {ShapeError} if the targets do not fit the outputs
 * @throws {RangeError} if a class is outside the outputs
 * @example Two classes, all but certain
 * ```ts
 * const logits = ct.tensor([[0, 40], [40, 0]]);
 * const classes = ct.nn.categorical.sample(ct.random.key(0), logits);
 * assertClose(classes, [1, 0]);
 * assertClose(ct.nn.categorical.loss(logits, classes), 0);
 * ```
 * @since 0.2.0
 */
export const categorical: Likelihood = {
  name: "categorical",
  loss: softmaxCrossEntropy,
  sample: (key, outputs) => random.categorical(key, outputs),
};

/**
 * Independent truth values with probabilities `sigmoid(outputs)`: the loss of an example is the sum of
 * `log(1 + e^x) - x y` over its elements x.
 *
 * Shapes: outputs and targets `[n, ...s]`, targets 0 or 1 of any element type; what is drawn is like the outputs.
 *
 * @throws {ShapeError} if the shapes differ: broadcasting here hides mistakes
 * @example Two questions, undecided
 * ```ts
 * const logits = ct.tensor([[0, 0]]);
 * assertClose(ct.nn.bernoulli.loss(logits, ct.tensor([[0, 1]])), 2 * Math.LN2);
 * assertClose(ct.nn.bernoulli.sample(ct.random.key(0), ct.tensor([[40, -40]])), [[1, 0]]);
 * ```
 * @since 0.2.0
 */
export const bernoulli: Likelihood = {
  name: "bernoulli",
  loss(outputs, targets) {
    checkShapes("bernoulli", outputs, targets);
    return mul(sigmoidBinaryCrossEntropy(outputs, targets), perExample(outputs));
  },
  sample: (key, outputs) => cast(random.bernoulli(key, sigmoid(outputs)), outputs.dtype),
};

/**
 * Independent normal numbers with the outputs as means and variance 1: the loss of an example is half the sum of its
 * squared errors (the constant `log(2 pi) / 2` of each element is left out).
 *
 * Shapes: outputs and targets `[n, ...s]`; what is drawn is like the outputs.
 *
 * @throws {ShapeError} if the shapes differ: broadcasting here hides mistakes
 * @example Half the sum of squares
 * ```ts
 * assertClose(ct.nn.gaussian.loss(ct.tensor([[1, 2]]), ct.tensor([[1, 4]])), 2);
 * assertClose(ct.nn.gaussian.sample(ct.random.key(0), ct.zeros([3, 2])).shape, [3, 2]);
 * ```
 * @since 0.2.0
 */
export const gaussian: Likelihood = {
  name: "gaussian",
  loss(outputs, targets) {
    checkShapes("gaussian", outputs, targets);
    return mul(mse(outputs, targets), perExample(outputs) / 2);
  },
  sample: (key, outputs) => add(outputs, random.normal(key, outputs.shape, { dtype: outputs.dtype })),
};

/** Elements of an example: a mean over elements times this is the mean over examples of a sum. */
function perExample({ size, shape }: Value): number {
  return size === 0 ? 1 : size / (shape[0] ?? 1);
}

function checkShapes(name: string, outputs: Value, targets: Value): void {
  if (sameShape(outputs.shape, targets.shape)) return;
  throw new ShapeError(
    name,
    `Cannot take the ${name} loss of outputs ${outputs.aval} and targets ${targets.aval}: the shapes differ, equal shapes are needed`,
  );
}
