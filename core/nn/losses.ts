/** What is minimized, and what is counted. */
import { full } from "../create.ts";
import { isFloat } from "../dtype.ts";
import { DTypeError, ShapeError } from "../errors.ts";
import * as ops from "../ops.ts";
import { takeAlong } from "../prims/indexing.ts";
import { leaves } from "../tree.ts";
import type { Value } from "../value.ts";

/**
 * The mean over the batch of `-sum(labels * logSoftmax(logits))`.
 *
 * Shapes: logits `[...n, classes]`; labels `[...n]` of an integer type, or probabilities `[...n, classes]`; the result is
 * a scalar.
 *
 * @param labels classes as integers in [0, classes), or probabilities of the float type of the logits
 * @throws {ShapeError} if the labels do not fit the logits
 * @throws {RangeError} if a class is outside the logits
 * @example Undecided between two classes
 * ```ts
 * const logits = ct.tensor([[0, 0]]);
 * assertClose(ct.nn.softmaxCrossEntropy(logits, ct.tensor([1], { dtype: "int32" })), Math.LN2);
 * assertClose(ct.nn.softmaxCrossEntropy(logits, ct.tensor([[0, 1]])), Math.LN2);
 * ```
 * @since 0.1.0
 */
export function softmaxCrossEntropy(logits: Value, labels: Value): Value {
  const isIndex = checkLabels("softmaxCrossEntropy", logits, labels);
  const logp = ops.logSoftmax(logits);
  const last = logits.ndim - 1;
  // One class: its log-probability is read. Probabilities: the sum of products.
  const chosen = isIndex
    ? takeAlong(logp, ops.expandDims(ops.cast(labels, "int32"), last), last)
    : ops.sum(weighted(labels, logp), { axis: last });
  return ops.neg(ops.mean(chosen));
}

/** `weight x`, and 0 where a weight of 0 meets an infinite x: what cannot be costs nothing. */
function weighted(weight: Value, x: Value): Value {
  const isVoid = ops.logicalAnd(ops.equal(weight, 0), ops.equal(ops.abs(x), Number.POSITIVE_INFINITY));
  return ops.mul(weight, ops.where(isVoid, 0, x));
}

/** Whether labels are integers, one for each row of the logits; throws if they are neither these nor probabilities. */
function checkLabels(op: string, logits: Value, labels: Value): boolean {
  const isIndex = !isFloat(labels.dtype);
  const rows = isIndex ? logits.shape.slice(0, -1) : logits.shape;
  if (logits.ndim === 0 || rows.length !== labels.ndim || rows.some((n, a) => n !== labels.shape[a])) {
    throw new ShapeError(
      op,
      `Cannot ${op} of logits ${logits.aval} and labels ${labels.aval}: the shapes do not match, ${isIndex ? "integers" : "probabilities"} [${rows}] are needed`,
    );
  }
  if (labels.dtype === "bool") {
    throw new DTypeError(
      op,
      `Cannot ${op} of labels ${labels.aval}: they are bool, integers or probabilities are needed; cast first`,
    );
  }
  return isIndex;
}

/**
 * The mean of `log(1 + e^x) - x y` over logits x and labels y: the cross-entropy of `sigmoid(x)`.
 *
 * Shapes: logits and labels broadcast as in NumPy; the result is a scalar.
 *
 * @param labels 0 or 1 of any element type, or probabilities
 * @throws {ShapeError} if the shapes do not broadcast
 * @example Undecided
 * ```ts
 * assertClose(ct.nn.sigmoidBinaryCrossEntropy(ct.tensor([0, 0]), ct.tensor([0, 1])), Math.LN2);
 * ```
 * @since 0.1.0
 */
export function sigmoidBinaryCrossEntropy(logits: Value, labels: Value): Value {
  // log(1 + e^x) - x y = y log(1 + e^-x) + (1 - y) log(1 + e^x), which does not cancel
  const y = ops.cast(labels, logits.dtype);
  const [missed, wrong] = [ops.softplus(ops.neg(logits)), ops.softplus(logits)];
  return ops.mean(ops.add(weighted(y, missed), weighted(ops.sub(1, y), wrong)));
}

/**
 * The mean of `(predictions - targets)^2`.
 *
 * Shapes: both have one shape; the result is a scalar.
 *
 * @throws {ShapeError} if the shapes differ: broadcasting here hides mistakes
 * @example One off by two
 * ```ts
 * assertClose(ct.nn.mse(ct.tensor([1, 2]), ct.tensor([1, 4])), 2);
 * ```
 * @since 0.1.0
 */
export function mse(predictions: Value, targets: Value): Value {
  if (predictions.ndim !== targets.ndim || predictions.shape.some((n, a) => n !== targets.shape[a])) {
    throw new ShapeError(
      "mse",
      `Cannot mse ${predictions.aval} and ${targets.aval}: the shapes differ, equal shapes are needed`,
    );
  }
  const error = ops.sub(predictions, targets);
  return ops.mean(ops.mul(error, error));
}

/**
 * The sum of squares of all elements of a tree; no factor 1/2.
 *
 * Shapes: any tree of one element type; the result is a scalar.
 *
 * @throws {TreeError} if the argument is not a tree of tensors
 * @example A penalty
 * ```ts
 * assertClose(ct.nn.l2({ w: ct.tensor([1, 2]), b: ct.tensor([3]) }), 14);
 * ```
 * @since 0.1.0
 */
export function l2(params: unknown): Value {
  const squares = leaves(params).map((x) => ops.sum(ops.mul(x, x)));
  return squares.length === 0 ? full([], 0) : squares.reduce((total, square) => ops.add(total, square));
}

/**
 * The fraction of examples whose largest logit is at the label.
 *
 * Shapes: logits `[...n, classes]`; labels `[...n]` of an integer type, or probabilities `[...n, classes]`; the result is
 * a scalar.
 *
 * @throws {ShapeError} if the labels do not fit the logits
 * @example One of two
 * ```ts
 * const labels = ct.tensor([1, 1], { dtype: "int32" });
 * assertClose(ct.nn.accuracy(ct.tensor([[0, 1], [1, 0]]), labels), 0.5);
 * ```
 * @since 0.1.0
 */
export function accuracy(logits: Value, labels: Value): Value {
  const isIndex = checkLabels("accuracy", logits, labels);
  const classes = isIndex ? ops.cast(labels, "int32") : ops.argmax(labels, { axis: -1 });
  return ops.mean(ops.equal(ops.argmax(logits, { axis: -1 }), classes));
}
