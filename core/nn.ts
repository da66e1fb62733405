/**
 * Neural networks without state: a model is a pair of pure functions, its parameters are a tree that the caller keeps.
 */

import { full } from "./create.ts";
import { isFloat } from "./dtype.ts";
import { DTypeError, ShapeError } from "./errors.ts";
import * as ops from "./ops.ts";
import { takeAlong } from "./prims/indexing.ts";
import { bernoulli, normal, split, uniform } from "./random.ts";
import { type Shape, sizeOf } from "./shape.ts";
import { leaves } from "./tree.ts";
import type { Value } from "./value.ts";

type Level<T> = Value | readonly T[] | { readonly [key: string]: T };

/**
 * A tree of parameters of any model: tensors in lists and records, up to six levels deep (a type without a last level
 * could not be checked by `grad`).
 *
 * @since 0.1.0
 */
export type Params = Level<Level<Level<Level<Level<Level<Value>>>>>>;

/**
 * A function with parameters, as a pair of pure functions. Layers are models, and so is a sequence of them.
 *
 * @since 0.1.0
 */
export interface Model<P = Params> {
  readonly name: string;
  /** Fresh parameters drawn from a key. */
  init(key: Value): P;
  /** The outputs for a batch; its first axis is the batch. */
  apply(params: P, x: Value): Value;
}

// --- initializers ------------------------------------------------------------------------------------------------

/**
 * Draws an array of parameters from a key: `[inputs, outputs]` for a dense layer, `[out, in, ...window]` for a kernel.
 *
 * @since 0.1.0
 */
export type Initializer = (key: Value, shape: Shape) => Value;

/** How many inputs reach one output, and how many outputs one input reaches. */
function fans(shape: Shape): { fanIn: number; fanOut: number } {
  const window = sizeOf(shape.slice(2));
  const [a = 1, b = 1] = shape;
  return shape.length <= 2 ? { fanIn: a, fanOut: b } : { fanIn: b * window, fanOut: a * window };
}

/**
 * Uniform in [-r, r] with `r = sqrt(6 / (fanIn + fanOut))`: for tanh and sigmoid.
 *
 * Shapes: the result has `shape`.
 *
 * @example Bounded
 * ```ts
 * const w = ct.nn.glorotUniform(ct.random.key(0), [3, 3]);
 * assert(ct.max(ct.abs(w)).item() <= 1);
 * ```
 * @source Glorot & Bengio 2010, "Understanding the difficulty of training deep feedforward neural networks"
 * @since 0.1.0
 */
export function glorotUniform(key: Value, shape: Shape): Value {
  const { fanIn, fanOut } = fans(shape);
  const limit = Math.sqrt(6 / (fanIn + fanOut));
  return uniform(key, shape, { min: -limit, max: limit });
}

/**
 * Normal with variance `2 / fanIn`: for relu and its relatives.
 *
 * Shapes: the result has `shape`.
 *
 * @example A kernel
 * ```ts
 * assertClose(ct.nn.heNormal(ct.random.key(0), [4, 3, 5, 5]).shape, [4, 3, 5, 5]);
 * ```
 * @source He et al. 2015, "Delving deep into rectifiers"
 * @since 0.1.0
 */
export function heNormal(key: Value, shape: Shape): Value {
  return ops.mul(normal(key, shape), Math.sqrt(2 / fans(shape).fanIn));
}

/**
 * Normal with variance `1 / fanIn`: keeps the variance of what it multiplies.
 *
 * Shapes: the result has `shape`.
 *
 * @example A matrix
 * ```ts
 * assertClose(ct.nn.lecunNormal(ct.random.key(0), [4, 3]).shape, [4, 3]);
 * ```
 * @source LeCun et al. 1998, "Efficient BackProp"
 * @since 0.1.0
 */
export function lecunNormal(key: Value, shape: Shape): Value {
  return ops.mul(normal(key, shape), Math.sqrt(1 / fans(shape).fanIn));
}

/**
 * Zeros, whatever the key: for biases, and for models that are convex.
 *
 * Shapes: the result has `shape`.
 *
 * @example A bias
 * ```ts
 * assertClose(ct.nn.zeros(ct.random.key(0), [2]), [0, 0]);
 * ```
 * @since 0.1.0
 */
export function zeros(_key: Value, shape: Shape): Value {
  return full(shape, 0);
}

// --- layers ------------------------------------------------------------------------------------------------------

/**
 * Weights, and a bias unless it was turned off.
 *
 * @since 0.1.0
 */
export type AffineParams = { readonly w: Value } | { readonly w: Value; readonly b: Value };

/**
 * Options of layers with weights.
 *
 * @since 0.1.0
 */
export interface AffineOptions {
  /** Whether a vector is added; default true. It starts at 0. */
  readonly bias?: boolean;
  /** How the weights start; each layer names its default. */
  readonly initializer?: Initializer;
}

function initAffine(
  key: Value,
  shape: Shape,
  outputs: number,
  initializer: Initializer,
  bias: boolean,
): AffineParams {
  const w = initializer(key, shape);
  return bias ? { w, b: full([outputs], 0) } : { w };
}

/**
 * The affine map `x w + b`; weights start by `glorotUniform`.
 *
 * Shapes: x `[..., inputs]` to `[..., outputs]`; params `w` `[inputs, outputs]`, `b` `[outputs]`.
 *
 * @example Two inputs, three outputs
 * ```ts
 * const layer = ct.nn.dense(2, 3);
 * const params = layer.init(ct.random.key(0));
 * assertClose(layer.apply(params, ct.ones([5, 2])).shape, [5, 3]);
 * ```
 * @since 0.1.0
 */
export function dense(inputs: number, outputs: number, options: AffineOptions = {}): Model<AffineParams> {
  const { bias = true, initializer = glorotUniform } = options;
  return {
    name: `dense ${inputs}-${outputs}`,
    init: (key) => initAffine(key, [inputs, outputs], outputs, initializer, bias),
    apply(params, x) {
      const y = ops.matmul(x, params.w);
      return "b" in params ? ops.add(y, params.b) : y;
    },
  };
}

/**
 * Options of the convolutional layer.
 *
 * @since 0.1.0
 */
export interface ConvLayerOptions extends AffineOptions, ops.ConvOptions {
  /** Size of the kernel on both spatial axes, or on each; default 3. */
  readonly window?: ops.PerAxis;
}

/**
 * A convolution of images with a bias for each channel; weights start by `heNormal`, padding is "same" by default.
 *
 * Shapes: x `[n, inputs, h, w]` to `[n, outputs, ...]`; params `w` `[outputs, inputs / groups, ...window]`, `b` `[outputs]`.
 *
 * @example Three channels to eight
 * ```ts
 * const layer = ct.nn.conv(3, 8);
 * const params = layer.init(ct.random.key(0));
 * assertClose(layer.apply(params, ct.ones([2, 3, 6, 6])).shape, [2, 8, 6, 6]);
 * ```
 * @since 0.1.0
 */
export function conv(inputs: number, outputs: number, options: ConvLayerOptions = {}): Model<AffineParams> {
  const { bias = true, initializer = heNormal, window = 3, ...given } = options;
  const kernel = typeof window === "number" ? [window, window] : window;
  const shape = [outputs, inputs / (given.groups ?? 1), ...kernel];
  return {
    name: `conv ${inputs}-${outputs} ${kernel.join("x")}`,
    init: (key) => initAffine(key, shape, outputs, initializer, bias),
    apply(params, x) {
      const y = ops.conv(x, params.w, { padding: "same", ...given });
      return "b" in params ? ops.add(y, ops.reshape(params.b, [outputs, ...kernel.map(() => 1)])) : y;
    },
  };
}

/**
 * The parameters of a layer that has none.
 *
 * @since 0.1.0
 */
export type NoParams = Readonly<Record<string, never>>;

/**
 * The activations that have a name.
 *
 * @since 0.1.0
 */
export type ActivationName = "relu" | "gelu" | "silu" | "tanh" | "sigmoid" | "softplus" | "identity";

const activations: Readonly<Record<ActivationName, (x: Value) => Value>> = {
  relu: ops.relu,
  gelu: (x: Value) => ops.gelu(x),
  silu: ops.silu,
  tanh: ops.tanh,
  sigmoid: ops.sigmoid,
  softplus: ops.softplus,
  identity: (x: Value) => x,
};

/**
 * The name of an activation, or any function of a value.
 *
 * @since 0.1.0
 */
export type Activation = ActivationName | ((x: Value) => Value);

function resolveActivation(given: Activation): (x: Value) => Value {
  if (typeof given === "function") return given;
  if (Object.hasOwn(activations, given)) return activations[given];
  throw new RangeError(
    `Cannot use activation "${given}": it is unknown, one of ${Object.keys(activations).join(", ")} or a function is needed`,
  );
}

/**
 * A layer without parameters: a named activation, or any function of a value.
 *
 * Shapes: as the function has them.
 *
 * @throws {RangeError} if the name is unknown
 * @example By name and by function
 * ```ts
 * assertClose(ct.nn.activation("relu").apply({}, ct.tensor([-1, 1])), [0, 1]);
 * assertClose(ct.nn.activation((x) => x.mul(2)).apply({}, ct.tensor([1])), [2]);
 * ```
 * @since 0.1.0
 */
export function activation(f: Activation): Model<NoParams> {
  const apply = resolveActivation(f);
  return {
    name: typeof f === "string" ? f : f.name || "function",
    init: () => ({}),
    apply: (_params, x) => apply(x),
  };
}

/**
 * A layer that makes one axis of all axes but the first.
 *
 * Shapes: `[n, ...s]` to `[n, product of s]`.
 *
 * @example Images to rows
 * ```ts
 * assertClose(ct.nn.flatten().apply({}, ct.ones([2, 1, 3, 3])).shape, [2, 9]);
 * ```
 * @since 0.1.0
 */
export function flatten(): Model<NoParams> {
  return { ...activation(flattened), name: "flatten" };
}

function flattened(x: Value): Value {
  return ops.reshape(x, [x.shape[0] ?? 1, sizeOf(x.shape.slice(1))]);
}

/**
 * Layers one after the other; each is initialized from its own key.
 *
 * Shapes: what a layer returns is what the next one takes; params are the list of the layers' params.
 *
 * @example Two layers
 * ```ts
 * const model = ct.nn.sequential(ct.nn.dense(2, 3), ct.nn.activation("tanh"), ct.nn.dense(3, 1));
 * const params = model.init(ct.random.key(0));
 * assertClose(model.apply(params, ct.ones([4, 2])).shape, [4, 1]);
 * ```
 * @since 0.1.0
 */
export function sequential<P extends readonly unknown[]>(
  ...layers: { readonly [K in keyof P]: Model<P[K]> }
): Model<P> {
  const list: readonly Model<unknown>[] = layers;
  return {
    name: list.map((layer) => layer.name).join(", "),
    init(key) {
      const keys = split(key, list.length);
      return list.map((layer, i) => layer.init(keys[i]!)) as unknown as P;
    },
    apply: (params, x) => list.reduce((y, layer, i) => layer.apply(params[i], y), x),
  };
}

/**
 * The parameters of a normalization.
 *
 * @since 0.1.0
 */
export type NormParams = { readonly scale: Value; readonly offset: Value };

/**
 * Normalizes the last axis: `scale (x - mean) / sqrt(var + epsilon) + offset`.
 *
 * Shapes: x `[..., size]` to the same; params `scale` and `offset` `[size]`.
 *
 * @example Mean 0, variance 1
 * ```ts
 * const layer = ct.nn.layerNorm(2);
 * assertClose(layer.apply(layer.init(ct.random.key(0)), ct.tensor([[1, 3]])), [[-1, 1]], 1e-4);
 * ```
 * @source Ba, Kiros & Hinton 2016, "Layer normalization"
 * @since 0.1.0
 */
export function layerNorm(
  size: number,
  { epsilon = 1e-5 }: { readonly epsilon?: number } = {},
): Model<NormParams> {
  return {
    name: `layerNorm ${size}`,
    init: () => ({ scale: full([size], 1), offset: full([size], 0) }),
    apply({ scale, offset }, x) {
      const centred = ops.sub(x, ops.mean(x, { axis: -1, keepDims: true }));
      const variance = ops.mean(ops.mul(centred, centred), { axis: -1, keepDims: true });
      return ops.add(ops.mul(ops.mul(centred, ops.rsqrt(ops.add(variance, epsilon))), scale), offset);
    },
  };
}

/**
 * A table of vectors, read at integers; entries start normal with variance 1.
 *
 * Shapes: indices `[...]` of an integer type to `[..., size]`; params `table` `[count, size]`.
 *
 * @example Two words
 * ```ts
 * const layer = ct.nn.embedding(10, 4);
 * const words = ct.tensor([3, 7], { dtype: "int32" });
 * assertClose(layer.apply(layer.init(ct.random.key(0)), words).shape, [2, 4]);
 * ```
 * @since 0.1.0
 */
export function embedding(count: number, size: number): Model<{ readonly table: Value }> {
  return {
    name: `embedding ${count}x${size}`,
    init: (key) => ({ table: normal(key, [count, size]) }),
    apply: ({ table }, indices) => ops.take(table, indices),
  };
}

/**
 * Sets each element to 0 with probability `rate`, independently, and divides the others by `1 - rate`.
 *
 * Shapes: like `x`; `key` u32[2].
 *
 * @throws {RangeError} if the rate is not in [0, 1)
 * @example Nothing dropped
 * ```ts
 * assertClose(ct.nn.dropout(ct.random.key(0), 0, ct.tensor([1, 2])), [1, 2]);
 * ```
 * @source Srivastava et al. 2014, "Dropout"
 * @since 0.1.0
 */
export function dropout(key: Value, rate: number, x: Value): Value {
  if (!(rate >= 0 && rate < 1)) {
    throw new RangeError(
      `Cannot dropout at rate ${rate}: it is outside [0, 1), a probability below 1 is needed`,
    );
  }
  return ops.where(bernoulli(key, 1 - rate, x.shape), ops.div(x, 1 - rate), 0);
}

/**
 * Scaled dot-product attention `softmax(q k^T / sqrt(d)) v`.
 *
 * Shapes: q `[..., t, d]`, k `[..., s, d]`, v `[..., s, e]` to `[..., t, e]`; mask, bool: broadcasts to `[..., t, s]`.
 *
 * @param options `mask`: true where a query may look; a row without any gives the mean of v
 * @example One place to look
 * ```ts
 * const x = ct.ones([1, 2]);
 * assertClose(ct.nn.attention(x, x, ct.tensor([[5]])), [[5]]);
 * ```
 * @source Vaswani et al. 2017, "Attention is all you need"
 * @since 0.1.0
 */
export function attention(q: Value, k: Value, v: Value, { mask }: { readonly mask?: Value } = {}): Value {
  const swapped = ops.transpose(
    k,
    [...k.shape.keys()].map((a) => (a < k.ndim - 2 ? a : 2 * k.ndim - 3 - a)),
  );
  const scores = ops.div(ops.matmul(q, swapped), Math.sqrt(q.shape.at(-1)!));
  return ops.matmul(ops.softmax(mask ? ops.where(mask, scores, -1e30) : scores), v);
}

// --- models ------------------------------------------------------------------------------------------------------

/**
 * Options of mlp.
 *
 * @since 0.1.0
 */
export interface MlpOptions extends AffineOptions {
  /** Between the layers; default "relu". */
  readonly activation?: Activation;
}

/**
 * Dense layers with an activation between them; axes after the first are flattened.
 *
 * Shapes: `[n, ...s]` with `sizes[0]` elements in each example, to `[n, sizes.at(-1)]`; params: one `{ b, w }` a layer.
 *
 * @throws {ShapeError} if there are fewer than two sizes
 * @example One hidden layer
 * ```ts
 * const model = ct.nn.mlp([4, 8, 3], { activation: "tanh" });
 * const params = model.init(ct.random.key(0));
 * assertClose(model.apply(params, ct.ones([5, 2, 2])).shape, [5, 3]);
 * ```
 * @since 0.1.0
 */
export function mlp(sizes: readonly number[], options: MlpOptions = {}): Model<readonly AffineParams[]> {
  if (sizes.length < 2) {
    throw new ShapeError(
      "mlp",
      `Cannot make an mlp of sizes [${sizes}]: there are ${sizes.length}, at least two are needed`,
    );
  }
  const { activation: between = "relu", ...affine } = options;
  const f = resolveActivation(between);
  const layers = sizes.slice(1).map((outputs, i) => dense(sizes[i]!, outputs, affine));
  return {
    name: `mlp ${sizes.join("-")}`,
    init(key) {
      const keys = split(key, layers.length);
      return layers.map((layer, i) => layer.init(keys[i]!));
    },
    apply(params, x) {
      const input = x.ndim > 2 ? flattened(x) : x;
      return layers.reduce((y, layer, i) => layer.apply(params[i]!, i === 0 ? y : f(y)), input);
    },
  };
}

/**
 * One dense layer that starts at zero: with `softmaxCrossEntropy`, logistic regression, whose loss is convex.
 *
 * Shapes: `[n, ...s]` with `inputs` elements in each example, to `[n, classes]`.
 *
 * @example Equal logits at the start
 * ```ts
 * const model = ct.nn.logistic(4, 3);
 * assertClose(model.apply(model.init(ct.random.key(0)), ct.ones([1, 4])), [[0, 0, 0]]);
 * ```
 * @since 0.1.0
 */
export function logistic(inputs: number, classes: number): Model<readonly AffineParams[]> {
  return { ...mlp([inputs, classes], { initializer: zeros }), name: `logistic ${inputs}-${classes}` };
}

/**
 * What a small convolutional network is made of.
 *
 * @since 0.1.0
 */
export interface CnnOptions {
  /** Channels, height and width of an image. */
  readonly image: readonly [channels: number, height: number, width: number];
  readonly classes: number;
  /** Channels after each convolution; default [8, 16]. */
  readonly widths?: readonly number[];
  /** After each convolution; default "relu". */
  readonly activation?: Activation;
}

/**
 * The parameters of cnn.
 *
 * @since 0.1.0
 */
export type CnnParams = { readonly convs: readonly AffineParams[]; readonly head: AffineParams };

/**
 * Convolutions 3x3, each with an activation and maxima of 2x2 windows, then a dense layer.
 *
 * Shapes: `[n, channels, height, width]` to `[n, classes]`.
 *
 * @throws {ShapeError} if the image is too small for so many halvings
 * @example Digits
 * ```ts
 * const model = ct.nn.cnn({ image: [1, 8, 8], classes: 10, widths: [2, 4] });
 * const params = model.init(ct.random.key(0));
 * assertClose(model.apply(params, ct.ones([3, 1, 8, 8])).shape, [3, 10]);
 * ```
 * @since 0.1.0
 */
export function cnn(options: CnnOptions): Model<CnnParams> {
  const { image, classes, widths = [8, 16], activation: after = "relu" } = options;
  const [channels, height, width] = image;
  const f = resolveActivation(after);
  const halved = (n: number): number => Math.floor(n / 2 ** widths.length);
  const places = halved(height) * halved(width);
  if (places === 0) {
    throw new ShapeError(
      "cnn",
      `Cannot make a cnn of images [${image}]: ${widths.length} halvings leave nothing, a larger image or fewer widths are needed`,
    );
  }
  const through = [channels, ...widths];
  const convs = widths.map((outputs, i) => conv(through[i]!, outputs));
  const head = dense(through.at(-1)! * places, classes);
  return {
    name: `cnn ${through.join("-")}-${classes}`,
    init(key) {
      const keys = split(key, convs.length + 1);
      return { convs: convs.map((layer, i) => layer.init(keys[i]!)), head: head.init(keys.at(-1)!) };
    },
    apply(params, x) {
      const features = convs.reduce(
        (y, layer, i) => ops.maxPool(f(layer.apply(params.convs[i]!, y)), { window: 2 }),
        x,
      );
      return head.apply(params.head, flattened(features));
    },
  };
}

// --- losses ------------------------------------------------------------------------------------------------------

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
