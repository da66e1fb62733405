/** Layers over sequences. */
import { arange } from "../create.ts";
import { ShapeError } from "../errors.ts";
import * as ops from "../ops.ts";
import { normal, split } from "../random.ts";
import type { Value } from "../value.ts";
import { type AffineParams, dense } from "./affine.ts";
import { glorotUniform, type Initializer } from "./initializers.ts";
import type { Model } from "./model.ts";

/**
 * A table of vectors, read at integers.
 *
 * Shapes: indices `[...]` of an integer type to `[..., size]`; params `table` `[count, size]`.
 *
 * @param options `initializer`: how the entries start, default normal with variance 1
 * @example Two words
 * ```ts
 * const layer = ct.nn.embedding(10, 4);
 * const words = ct.tensor([3, 7], { dtype: "int32" });
 * assertClose(layer.apply(layer.init(ct.random.key(0)), words).shape, [2, 4]);
 * ```
 * @since 0.1.0
 */
export function embedding(
  count: number,
  size: number,
  { initializer = normal }: { readonly initializer?: Initializer } = {},
): Model<{ readonly table: Value }> {
  return {
    name: `embedding ${count}x${size}`,
    init: (key) => ({ table: initializer(key, [count, size]) }),
    apply: ({ table }, indices) => ops.take(table, indices),
  };
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

/**
 * Adds a vector of its own to every position of a sequence; the vectors are parameters.
 *
 * Shapes: x `[..., t, size]` to the same, with t at most `length`; params `table` `[length, size]`.
 *
 * @param options `initializer`: how the vectors start, default normal with variance 1
 * @throws {ShapeError} when applied, if a sequence is longer
 * @example Two of at most three positions
 * ```ts
 * const layer = ct.nn.positions(3, 1);
 * const table = ct.tensor([[1], [2], [3]]);
 * assertClose(layer.apply({ table }, ct.tensor([[[10], [10]]])), [[[11], [12]]]);
 * ```
 * @source Gehring et al. 2017, "Convolutional sequence to sequence learning"
 * @since 0.2.0
 */
export function positions(
  length: number,
  size: number,
  { initializer = normal }: { readonly initializer?: Initializer } = {},
): Model<{ readonly table: Value }> {
  return {
    name: `positions ${length}x${size}`,
    init: (key) => ({ table: initializer(key, [length, size]) }),
    apply({ table }, x) {
      const count = x.shape.at(-2) ?? 1;
      if (count > length) {
        throw new ShapeError(
          "positions",
          `Cannot add positions to ${x.aval}: it has ${count} and the table ${length}, at most these are needed`,
        );
      }
      return ops.add(x, ops.slice(table, [0, 0], [count, size]));
    },
  };
}

/**
 * Options of selfAttention.
 *
 * @since 0.2.0
 */
export interface SelfAttentionOptions {
  /** Whether a position sees only itself and those before it; default false. */
  readonly causal?: boolean;
  /** How the four matrices start; default `glorotUniform`. */
  readonly initializer?: Initializer;
}

/**
 * The parameters of selfAttention.
 *
 * @since 0.2.0
 */
export type SelfAttentionParams = {
  readonly query: AffineParams;
  readonly key: AffineParams;
  readonly value: AffineParams;
  readonly output: AffineParams;
};

/**
 * Attention of a sequence to itself in several heads, each of `width / heads` numbers, between dense layers.
 *
 * Shapes: x `[..., t, width]` to the same; params: four dense layers `[width, width]`.
 *
 * @throws {ShapeError} if the width is not a multiple of the heads
 * @example Two heads
 * ```ts
 * const layer = ct.nn.selfAttention(8, 2, { causal: true });
 * const params = layer.init(ct.random.key(0));
 * assertClose(layer.apply(params, ct.ones([3, 5, 8])).shape, [3, 5, 8]);
 * ```
 * @source Vaswani et al. 2017, "Attention is all you need"
 * @since 0.2.0
 */
export function selfAttention(
  width: number,
  heads: number,
  { causal = false, initializer = glorotUniform }: SelfAttentionOptions = {},
): Model<SelfAttentionParams> {
  if (!Number.isInteger(heads) || heads < 1 || width % heads !== 0) {
    throw new ShapeError(
      "selfAttention",
      `Cannot make selfAttention of width ${width}: there are ${heads} heads, a whole number that divides the width is needed`,
    );
  }
  const layer = dense(width, width, { initializer });
  return {
    name: `selfAttention ${heads}x${width / heads}`,
    init(key) {
      const [query, keys, value, output] = split(key, 4).map((each) => layer.init(each));
      return { query: query!, key: keys!, value: value!, output: output! };
    },
    apply(params, x) {
      const headsOf = (of: AffineParams): Value => splitHeads(layer.apply(of, x), heads);
      const mask = causal ? { mask: causalMask(x.shape.at(-2)!) } : {};
      const seen = attention(headsOf(params.query), headsOf(params.key), headsOf(params.value), mask);
      return layer.apply(params.output, ops.reshape(swapMiddle(seen), x.shape));
    },
  };
}

/** `[..., t, heads d]` to `[..., heads, t, d]`. */
function splitHeads(x: Value, heads: number): Value {
  return swapMiddle(ops.reshape(x, [...x.shape.slice(0, -1), heads, x.shape.at(-1)! / heads]));
}

/** Swaps the two axes before the last. */
function swapMiddle(x: Value): Value {
  const axes = [...x.shape.keys()];
  const last = x.ndim - 1;
  return ops.transpose(x, [...axes.slice(0, -3), last - 1, last - 2, last]);
}

/** Row i is true up to column i: `[t, t]`. */
function causalMask(t: number): Value {
  const places = arange(t);
  return ops.greaterEqual(ops.expandDims(places, 1), ops.expandDims(places, 0));
}
