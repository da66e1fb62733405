/** Transformers: attention and dense layers around a stream that they add to. */
import { ShapeError } from "../errors.ts";
import * as ops from "../ops.ts";
import { split } from "../random.ts";
import type { Value } from "../value.ts";
import { type Activation, resolveActivation } from "./activation.ts";
import { type AffineParams, dense } from "./affine.ts";
import { embedding, positions, type SelfAttentionParams, selfAttention } from "./attention.ts";
import { glorotUniform, type Initializer, normalOf } from "./initializers.ts";
import type { Model } from "./model.ts";
import { layerNorm, type NormParams } from "./normalize.ts";

/**
 * Options of transformerBlock.
 *
 * @since 0.2.0
 */
export interface TransformerBlockOptions {
  /** Whether a position sees only itself and those before it; default false. */
  readonly causal?: boolean;
  /** Numbers between the two dense layers; default four times the width. */
  readonly hidden?: number;
  /** Between the two dense layers; default "gelu". */
  readonly activation?: Activation;
  /** How matrices start; default `glorotUniform`. */
  readonly initializer?: Initializer;
}

/**
 * The parameters of transformerBlock.
 *
 * @since 0.2.0
 */
export type TransformerBlockParams = {
  readonly attentionNorm: NormParams;
  readonly attention: SelfAttentionParams;
  readonly denseNorm: NormParams;
  readonly dense: readonly [AffineParams, AffineParams];
};

/**
 * A transformer's block with normalization first: `x + attention(norm(x))`, then the same with two dense layers.
 *
 * Shapes: x `[..., t, width]` to the same.
 *
 * @throws {ShapeError} if the width is not a multiple of the heads
 * @example Two heads
 * ```ts
 * const block = ct.nn.transformerBlock(8, 2, { causal: true });
 * const params = block.init(ct.random.key(0));
 * assertClose(block.apply(params, ct.ones([3, 5, 8])).shape, [3, 5, 8]);
 * ```
 * @source Xiong et al. 2020, "On layer normalization in the transformer architecture"
 * @since 0.2.0
 */
export function transformerBlock(
  width: number,
  heads: number,
  options: TransformerBlockOptions = {},
): Model<TransformerBlockParams> {
  const { causal = false, hidden = 4 * width, activation = "gelu", initializer = glorotUniform } = options;
  const f = resolveActivation(activation);
  const attend = selfAttention(width, heads, { causal, initializer });
  const norm = layerNorm(width);
  const [wide, narrow] = [dense(width, hidden, { initializer }), dense(hidden, width, { initializer })];
  return {
    name: `transformerBlock ${width}`,
    init(key) {
      const [first, second, third] = split(key, 3);
      return {
        attentionNorm: norm.init(key),
        attention: attend.init(first!),
        denseNorm: norm.init(key),
        dense: [wide.init(second!), narrow.init(third!)],
      };
    },
    apply(params, x) {
      const seen = ops.add(x, attend.apply(params.attention, norm.apply(params.attentionNorm, x)));
      const inner = f(wide.apply(params.dense[0], norm.apply(params.denseNorm, seen)));
      return ops.add(seen, narrow.apply(params.dense[1], inner));
    },
  };
}

/**
 * What a transformer over characters is made of.
 *
 * @since 0.2.0
 */
export interface CharTransformerOptions {
  /** How many characters there are. */
  readonly vocabulary: number;
  /** The longest sequence. */
  readonly context: number;
  /** Numbers for each position; default 64. */
  readonly width?: number;
  /** Default 4. */
  readonly heads?: number;
  /** Blocks; default 2. */
  readonly layers?: number;
}

/**
 * The parameters of charTransformer.
 *
 * @since 0.2.0
 */
export type CharTransformerParams = {
  readonly tokens: { readonly table: Value };
  readonly positions: { readonly table: Value };
  readonly blocks: readonly TransformerBlockParams[];
  readonly norm: NormParams;
  readonly head: AffineParams;
};

/**
 * A causal transformer over characters: at each position the logits of the character after it. Matrices start normal
 * with deviation 0.02, as in GPT-2.
 *
 * Shapes: characters `[n, t]` of an integer type, t at most `context`, to logits `[n, t, vocabulary]`.
 *
 * @throws {ShapeError} if the width is not a multiple of the heads, or there is no layer
 * @example Five characters
 * ```ts
 * const model = ct.nn.charTransformer({ vocabulary: 5, context: 8, width: 8, heads: 2, layers: 1 });
 * const params = model.init(ct.random.key(0));
 * const text = ct.tensor([[0, 4, 2]], { dtype: "int32" });
 * assertClose(model.apply(params, text).shape, [1, 3, 5]);
 * ```
 * @source Radford et al. 2019, "Language models are unsupervised multitask learners"
 * @since 0.2.0
 */
export function charTransformer(options: CharTransformerOptions): Model<CharTransformerParams> {
  const { vocabulary, context, width = 64, heads = 4, layers = 2 } = options;
  if (!Number.isInteger(layers) || layers < 1) {
    throw new ShapeError(
      "charTransformer",
      `Cannot make a charTransformer: there are ${layers} layers, a whole number of at least 1 is needed`,
    );
  }
  const small = { initializer: normalOf(0.02) };
  const tokens = embedding(vocabulary, width, small);
  const places = positions(context, width, small);
  const block = transformerBlock(width, heads, { causal: true, ...small });
  const norm = layerNorm(width);
  const head = dense(width, vocabulary, small);
  return {
    name: `charTransformer ${layers}x${width}`,
    init(key) {
      const [first, second, last, ...rest] = split(key, layers + 3);
      return {
        tokens: tokens.init(first!),
        positions: places.init(second!),
        blocks: rest.map((each) => block.init(each)),
        norm: norm.init(key),
        head: head.init(last!),
      };
    },
    apply(params, characters) {
      const embedded = places.apply(params.positions, tokens.apply(params.tokens, characters));
      const x = params.blocks.reduce((stream, own) => block.apply(own, stream), embedded);
      return head.apply(params.head, norm.apply(params.norm, x));
    },
  };
}
