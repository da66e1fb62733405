/**
 * Networks whose layers are fitted by least squares, one after the other and without gradients: what a layer's problem is,
 * which sums over the examples determine it, and what it makes of an image. Maps are channels-last here, `[n, h, w, c]`.
 */
import { jit } from "../../autodiff/jit.ts";
import { adoptArray, zeros } from "../../core/create.ts";
import { ShapeError } from "../../core/errors.ts";
import { matmul } from "../../core/ops/contract.ts";
import { oneHot } from "../../core/ops/indexing.ts";
import { cholesky, eigh, triangularSolve } from "../../core/ops/linalg.ts";
import { add, div, mul, relu, sqrt, sub, tanh } from "../../core/ops/math.ts";
import { max, sum } from "../../core/ops/reduce.ts";
import { broadcastTo, concat, pad, reshape, slice, transpose } from "../../core/ops/shape.ts";
import { foldIn, key, normal } from "../../core/random.ts";
import { scalar } from "../../core/trace.ts";
import type { Value } from "../../core/value.ts";
import type { ClientData } from "./method.ts";
import { addStatistics, ridge, ridgeTerm, type Statistics, statisticsOf } from "./statistics.ts";

/**
 * A convolution, 2 x 2 max-pooling and an activation, fitted by least squares.
 *
 * @since 0.2.0
 */
export interface AnalyticConv {
  readonly k: "conv";
  /** How many filters. */
  readonly channels: number;
  /** Rows and columns of a filter. */
  readonly kernel: number;
  /** Default 1. */
  readonly stride?: number;
  /** Zeros around the image; default half of the kernel. */
  readonly padding?: number;
  /** Default true. */
  readonly pool?: boolean;
  /** Default "relu". */
  readonly activation?: "relu" | "tanh";
}

/**
 * A layer that sees all of its input at once. Its pseudo-labels are one for each class, so with filters "ls" its rank is
 * that of the classes.
 *
 * @since 0.2.0
 */
export interface AnalyticDense {
  readonly k: "dense";
  readonly width: number;
  /** Default "relu". */
  readonly activation?: "relu" | "tanh";
}

/**
 * A hidden layer that is fitted by least squares.
 *
 * @since 0.2.0
 */
export type AnalyticLayer = AnalyticConv | AnalyticDense;

/**
 * Where the filters of the hidden layers come from: "ls" fits pseudo-labels that differ from position to position, "shared"
 * the same ones at all positions (a rank of at most the number of classes), "random" fits nothing and is the control, "half"
 * takes the directions that tell the classes apart best at all positions for one half and random filters for the other.
 *
 * @since 0.2.0
 */
export type AnalyticFilters = "ls" | "shared" | "random" | "half";

/**
 * What a network of analytic layers is.
 *
 * @since 0.2.0
 */
export interface AnalyticNetworkOptions {
  /** Channels, rows and columns of an image. */
  readonly image: readonly [channels: number, height: number, width: number];
  readonly classes: number;
  readonly layers: readonly AnalyticLayer[];
  /** Ridge of the hidden layers, in units of the mean diagonal of their Gram matrix; default 0.01. */
  readonly gamma?: number;
  /** Ridge of the head; default 100. */
  readonly headGamma?: number;
  /** Draws pseudo-labels and random filters; default 0. */
  readonly seed?: number;
  /** Default "ls". */
  readonly filters?: AnalyticFilters;
}

/** Rows, columns and channels. */
type Map3 = readonly [height: number, width: number, channels: number];

/** A layer with all that follows from the layers before it. */
export interface Geometry {
  /** For errors. */
  readonly name: string;
  readonly kernel: number;
  readonly stride: number;
  readonly padding: number;
  readonly pool: boolean;
  readonly activation: "relu" | "tanh" | "none";
  readonly input: Map3;
  /** Rows and columns where a filter is applied. */
  readonly positions: readonly [height: number, width: number];
  /** Numbers in a patch, with the constant 1. */
  readonly features: number;
  /** Filters. */
  readonly width: number;
  readonly output: Map3;
}

/** What a hidden layer is, for the input that it has. */
function hidden(layer: AnalyticLayer, input: Map3, name: string): Geometry {
  if (layer.k === "dense") return dense(input, layer.width, layer.activation ?? "relu", name);
  const { channels, kernel, stride = 1, pool = true, activation = "relu" } = layer;
  const { padding = Math.floor(kernel / 2) } = layer;
  checkWhole(name, "channels", channels, 1);
  checkWhole(name, "kernel", kernel, 1);
  checkWhole(name, "stride", stride, 1);
  checkWhole(name, "padding", padding, 0);
  const along = (size: number): number => Math.floor((size + 2 * padding - kernel) / stride) + 1;
  const positions = [along(input[0]), along(input[1])] as const;
  const least = pool ? 2 : 1;
  if (positions[0] < least || positions[1] < least) {
    throw new RangeError(
      `Cannot make ${name}: of a map of ${input[0]} x ${input[1]} it leaves ${positions[0]} x ${positions[1]}, ` +
        `at least ${least} x ${least} is needed${pool ? " to pool" : ""}`,
    );
  }
  const shrunk = (size: number): number => (pool ? Math.floor(size / 2) : size);
  return {
    name,
    kernel,
    stride,
    padding,
    pool,
    activation,
    input,
    positions,
    features: kernel * kernel * input[2] + 1,
    width: channels,
    output: [shrunk(positions[0]), shrunk(positions[1]), channels],
  };
}

/** A layer without positions is a 1 x 1 convolution of one point. */
function dense(input: Map3, width: number, activation: Geometry["activation"], name: string): Geometry {
  checkWhole(name, "width", width, 1);
  const size = input[0] * input[1] * input[2];
  return {
    name,
    kernel: 1,
    stride: 1,
    padding: 0,
    pool: false,
    activation,
    input: [1, 1, size],
    positions: [1, 1],
    features: size + 1,
    width,
    output: [1, 1, width],
  };
}

function checkWhole(name: string, what: string, given: number, least: number): void {
  if (Number.isSafeInteger(given) && given >= least) return;
  throw new RangeError(
    `Cannot make ${name}: its ${what} is ${given}, a whole number of at least ${least} is needed`,
  );
}

/** The hidden layers, and the head as the last one. */
export function geometryOf({ image, classes, layers }: AnalyticNetworkOptions): readonly Geometry[] {
  const [channels, height, width] = image;
  let input: Map3 = [height, width, channels];
  const all: Geometry[] = [];
  for (const [l, layer] of layers.entries()) {
    const next = hidden(layer, input, `layer ${l + 1}`);
    all.push(next);
    input = next.output;
  }
  return [...all, dense(input, classes, "none", "the head")];
}

/**
 * The patches that filters see, one in a row, with `constant` of their image as the last column.
 *
 * Shapes: `x` is `[n, h, w, c]` or has as many elements, `constant` is `[n]`; the result is `[n * positions, k * k * c + 1]`, in the
 * order of images, rows and columns; in a row filter rows, filter columns and channels.
 */
export function patches(
  x: Value,
  { input, positions, kernel, stride, padding }: Geometry,
  constant: Value,
): Value {
  const n = x.shape[0]!;
  const [rows, columns] = positions;
  const around: readonly [number, number] = [padding, padding];
  const map = reshape(x, [n, ...input]);
  const wide = padding === 0 ? map : pad(map, [[0, 0], around, around, [0, 0]]);
  const parts: Value[] = [];
  for (let i = 0; i < kernel; i++) {
    for (let j = 0; j < kernel; j++) {
      const last = [n, i + (rows - 1) * stride + 1, j + (columns - 1) * stride + 1, input[2]];
      parts.push(slice(wide, [0, i, j, 0], last, [1, stride, stride, 1]));
    }
  }
  parts.push(broadcastTo(reshape(constant, [n, 1, 1, 1]), [n, rows, columns, 1]));
  const width = kernel * kernel * input[2] + 1;
  return reshape(concat(parts, { axis: 3 }), [n * rows * columns, width]);
}

/**
 * What a layer makes of maps. It pools first: for activations that never decrease the order is the same, and there is a
 * quarter left to do.
 *
 * Shapes: `[n, ...input]` and `[features, width]` give `[n, ...output]`.
 */
export function forward(x: Value, weights: Value, layer: Geometry): Value {
  const n = x.shape[0]!;
  const [rows, columns] = layer.positions;
  const z = reshape(matmul(patches(x, layer, onesOf(x)), weights), [n, rows, columns, layer.width]);
  const pooled = layer.pool ? maxOfSquares(z, layer.output) : z;
  if (layer.activation === "none") return pooled;
  return layer.activation === "relu" ? relu(pooled) : tanh(pooled);
}

/** The largest of each 2 x 2 square; a last odd row or column is left out. */
function maxOfSquares(z: Value, [height, width, channels]: Map3): Value {
  const n = z.shape[0]!;
  const even = slice(z, [0, 0, 0, 0], [n, 2 * height, 2 * width, channels]);
  return max(reshape(even, [n, height, 2, width, 2, channels]), { axis: [2, 4] });
}

function onesOf(x: Value): Value {
  return broadcastTo(scalar(1, x.dtype), [x.shape[0]!]);
}

/**
 * The pseudo-labels Q of a layer: what each filter should answer at a position of an image of a class. Independent normal
 * numbers, which everyone can draw who knows the seed.
 *
 * Shapes: `[classes, positions, width]`, or `[classes, 1, width]` if they are the same at all positions.
 *
 * @example Two clients draw the same
 * ```ts
 * const draw = () => ct.dist.pseudoLabels({ seed: 3, layer: 0, classes: 2, positions: 4, width: 5 });
 * assertClose(draw(), draw());
 * ```
 * @since 0.2.0
 */
export function pseudoLabels(of: {
  readonly seed: number;
  readonly layer: number;
  readonly classes: number;
  readonly positions: number;
  readonly width: number;
}): Value {
  const drawn = foldIn(key(of.seed), 2 * of.layer);
  return normal(drawn, [of.classes, of.positions, of.width], { dtype: "float64" });
}

/** Filters that nobody fitted. */
function randomFilters(seed: number, layer: number, { features }: Geometry, width: number): Value {
  return normal(foldIn(key(seed), 2 * layer + 1), [features, width], { dtype: "float64" });
}

/**
 * Filters of a layer, and what their columns were divided by to have a mean square response of 1.
 *
 * Shapes: `weights` is `[features, width]`, `scale` is `[width]`.
 *
 * @since 0.2.0
 */
export interface FittedLayer {
  readonly weights: Value;
  readonly scale: Value;
}

/** A network of analytic layers: which sums a client takes, and which weights follow from them. */
export interface AnalyticNetwork {
  /** The hidden layers, then the head. */
  readonly layers: readonly Geometry[];
  /** Numbers in the cross sums of a layer. */
  crossShape(layer: number): readonly [number, number];
  /** Statistics of a layer over examples, by the weights of the layers before it. */
  statistics(data: ClientData, before: readonly Value[], batch: number | null): Statistics;
  /** What the head sees of images, a row of numbers and a 1 for each, by the weights of the hidden layers. */
  rows(x: Value, hidden: readonly Value[], batch: number | null): Value;
  /** The layer that statistics determine. */
  fit(stats: Statistics, layer: number): FittedLayer;
  /** Scores by all weights, the head's last; 0 as long as there is no head. */
  scores(x: Value, weights: readonly Value[]): Value;
}

/** Statistics of fewer rows than this are slow: products of short matrices. */
const ROWS_AT_ONCE = 4096;

/** Patches of one batch take at most this, if nobody says what a batch is. */
const PATCH_BYTES = 2 ** 22;

/**
 * The network that options describe.
 *
 * @throws {RangeError} if a layer has no output, or a number is not what it should be
 */
export function analyticNetwork(options: AnalyticNetworkOptions): AnalyticNetwork {
  const { image, classes, gamma = 0.01, headGamma = 100, seed = 0, filters = "ls" } = options;
  const layers = geometryOf(options);
  const head = layers.length - 1;
  const pixels = image[0] * image[1] * image[2];
  const forwards = layers.map((layer) => jit((x: Value, weights: Value) => forward(x, weights, layer)));
  const grams = layers.map((layer) =>
    jit((x: Value) => {
      const p = patches(x, layer, onesOf(x));
      return matmul(transpose(p), p);
    }),
  );
  const batchOf = (given: number | null, upTo: number): number => {
    if (given !== null) return given;
    const widest = layers
      .slice(0, upTo + 1)
      .map(({ positions, features }) => positions[0] * positions[1] * features);
    return Math.max(1, Math.floor(PATCH_BYTES / (8 * Math.max(...widest))));
  };
  /**
   * The maps after some layers, batch after batch; the last images come in powers of two. Programs are compiled for shapes,
   * and so a few serve clients of any size.
   */
  function* maps(x: Value, weights: readonly Value[], batch: number): Generator<Value> {
    const n = x.shape[0] ?? 0;
    if (x.ndim < 2 || x.size !== n * pixels) {
      throw new ShapeError(
        "fedacnnl",
        `Cannot use ${x.aval} as images: [n, ${image}] is needed, or [n, ${pixels}]`,
      );
    }
    const values = x.dataSync();
    for (let from = 0; from < n; ) {
      const many = n - from < batch ? 2 ** Math.floor(Math.log2(n - from)) : batch;
      const part = new Float64Array(values.subarray(from * pixels, (from + many) * pixels));
      let map = transpose(adoptArray(part, [many, ...image]), [0, 2, 3, 1]);
      for (const [l, w] of weights.entries()) map = forwards[l]!(map, w);
      yield map;
      from += many;
    }
  }
  const crossShape = (l: number): readonly [number, number] => {
    const { features, width } = layers[l]!;
    if (l === head || filters === "ls" || filters === "shared") return [features, width];
    return filters === "random" ? [features, 0] : sumShape(l);
  };
  /** Patches of class sums are the sums of patches: rows of (class, position). */
  const patchSums = (sums: Value, layer: Geometry): Value => {
    const width = sums.shape[1]!;
    const counts = reshape(slice(sums, [0, width - 1], [classes, width]), [classes]);
    return patches(slice(sums, [0, 0], [classes, width - 1]), layer, counts);
  };
  /** Of the sums of the maps of each class, with the number of its examples in the last column. */
  const sumShape = (l: number): readonly [number, number] => {
    const [height, width, channels] = layers[l]!.input;
    return [classes, height * width * channels + 1];
  };
  const classSums = jit((map: Value, y: Value): Value => {
    const n = map.shape[0]!;
    const one = broadcastTo(scalar(1, "float64"), [n, 1]);
    const flat = concat([reshape(map, [n, map.size / n]), one], { axis: 1 });
    return matmul(transpose(oneHot(y, classes, { dtype: "float64" })), flat);
  });
  const statistics: AnalyticNetwork["statistics"] = (data, before, given) => {
    const l = before.length;
    if (l === head) return headStatistics(data, before, given);
    const { features, positions } = layers[l]!;
    const labels = Int32Array.from(data.y.dataSync());
    let gram: Value = zeros([features, features], { dtype: "float64" });
    let sums: Value = zeros(filters === "random" ? crossShape(l) : sumShape(l), { dtype: "float64" });
    let from = 0;
    for (const map of maps(data.x, before, batchOf(given, l))) {
      const until = from + map.shape[0]!;
      gram = add(gram, grams[l]!(map));
      if (filters !== "random") sums = add(sums, classSums(map, adoptArray(labels.slice(from, until))));
      from = until;
    }
    const count = scalar(from * positions[0] * positions[1], "float64");
    const isCross = filters === "ls" || filters === "shared";
    return { gram, cross: isCross ? pseudoCross(sums, l) : sums, count };
  };
  /** Pseudo-labels as rows of (class, position), drawn when they are first needed. */
  const known = new Map<number, Value>();
  const labelsOf = (l: number): Value => {
    const { positions, width } = layers[l]!;
    const places = positions[0] * positions[1];
    let labels = known.get(l);
    if (labels === undefined) {
      const drawn = filters === "shared" ? 1 : places;
      const q = pseudoLabels({ seed, layer: l, classes, positions: drawn, width });
      labels = reshape(broadcastTo(q, [classes, places, width]), [classes * places, width]);
      known.set(l, labels);
    }
    return labels;
  };
  /** PᵀT without T: at a position it is the same for all images of a class. */
  const pseudoCross = (sums: Value, l: number): Value =>
    matmul(transpose(patchSums(sums, layers[l]!)), labelsOf(l));
  const rows: AnalyticNetwork["rows"] = (x, weights, given) => {
    const n = x.shape[0]!;
    const { features } = layers[head]!;
    const all = new Float64Array(n * features).fill(1);
    let row = 0;
    for (const map of maps(x, weights, batchOf(given, head))) {
      const values = map.dataSync();
      for (let at = 0; at < values.length; at += features - 1, row++) {
        all.set(values.subarray(at, at + features - 1), row * features);
      }
    }
    return adoptArray(all, [n, features]);
  };
  const headStatistics = (data: ClientData, before: readonly Value[], given: number | null): Statistics => {
    const n = data.x.shape[0]!;
    const within = (x: Value, from: number, until: number): Value => {
      const rest = x.shape.slice(1);
      return slice(x, [from, ...rest.map(() => 0)], [until, ...rest]);
    };
    const part = (from: number): Statistics => {
      const until = Math.min(n, from + ROWS_AT_ONCE);
      const y = oneHot(within(data.y, from, until), classes, { dtype: "float64" });
      return statisticsOf(rows(within(data.x, from, until), before, given), y);
    };
    let all = part(0);
    for (let from = ROWS_AT_ONCE; from < n; from += ROWS_AT_ONCE) all = addStatistics(all, part(from));
    return all;
  };
  const fit: AnalyticNetwork["fit"] = (stats, l) => {
    const layer = layers[l]!;
    if (l === head) {
      return {
        weights: ridge(stats, headGamma, layer.name),
        scale: broadcastTo(scalar(1, "float64"), [classes]),
      };
    }
    const relative = gamma * meanDiagonal(stats.gram);
    if (filters === "ls" || filters === "shared") {
      return unitResponse(ridge(stats, relative, layer.name), stats);
    }
    const fitted = filters === "half" ? halfOf(layer, classes) : 0;
    const drawn = randomFilters(seed, l, layer, layer.width - fitted);
    if (fitted === 0) return unitResponse(drawn, stats);
    const best = bestDirections(stats, patchSums(stats.cross, layer), {
      gamma: relative,
      fitted,
      classes,
      layer,
    });
    return unitResponse(concat([best, drawn], { axis: 1 }), stats);
  };
  const scores: AnalyticNetwork["scores"] = (x, weights) => {
    if (weights.length <= head) return zeros([x.shape[0]!, classes], { dtype: "float64" });
    const all = new Float64Array(x.shape[0]! * classes);
    let from = 0;
    for (const map of maps(x, weights, batchOf(null, head))) {
      all.set(map.dataSync(), from);
      from += map.size;
    }
    return adoptArray(all, [x.shape[0]!, classes]);
  };
  return { layers, crossShape, statistics, rows, fit, scores };
}

/** How many filters of a layer are fitted with "half": at most as many as there are directions that tell classes apart. */
function halfOf({ width, features, positions }: Geometry, classes: number): number {
  return Math.min(Math.floor(width / 2), features - 1, (classes - 1) * positions[0] * positions[1]);
}

/** The trace of G over its size: what a ridge is measured in. */
export function meanDiagonal(gram: Value): number {
  return sum(mul(gram, ridgeTerm(gram, 1))).item() / gram.shape[0]!;
}

/** Columns divided by the root of their mean square response wᵀ(G / N)w. */
function unitResponse(w: Value, { gram, count }: Statistics): FittedLayer {
  const scale = sqrt(div(sum(mul(w, matmul(gram, w)), { axis: 0 }), count));
  return { weights: div(w, scale), scale };
}

/**
 * The directions that predict best, over all positions together, how much more likely each class is there than at
 * random: with A = G + gamma I = LLᵀ and the centred sums S, the largest eigenvectors of L⁻¹SSᵀL⁻ᵀ, back through L⁻ᵀ.
 */
function bestDirections(
  { gram }: Statistics,
  sums: Value,
  of: { readonly gamma: number; readonly fitted: number; readonly classes: number; readonly layer: Geometry },
): Value {
  const { gamma, fitted, classes, layer } = of;
  const d = gram.shape[0]!;
  const byClass = reshape(sums, [classes, sums.size / (classes * d), d]);
  const total = sum(byClass, { axis: 0, keepDims: true });
  // The constant's column counts examples.
  const share = div(slice(byClass, [0, 0, d - 1], byClass.shape), slice(total, [0, 0, d - 1], total.shape));
  const centred = reshape(sub(byClass, mul(share, total)), [sums.shape[0]!, d]);
  const lower = cholesky(add(gram, ridgeTerm(gram, gamma)));
  if (!Number.isFinite(sum(lower).item())) {
    throw new RangeError(
      `Cannot solve ${layer.name}: with gamma ${gamma} the matrix of ${d} features is not positive definite, a larger gamma is needed`,
    );
  }
  const white = triangularSolve(lower, transpose(centred));
  const [, vectors] = eigh(matmul(white, transpose(white)));
  return triangularSolve(lower, slice(vectors, [0, d - fitted], [d, d]), { transpose: true });
}
