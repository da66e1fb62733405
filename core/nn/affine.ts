/** Layers with weights: a matrix or a kernel, and a bias. They report what they are called with to the observer. */
import { full } from "../create.ts";
import { type AffineCall, observer } from "../observe.ts";
import * as ops from "../ops.ts";
import { convInput } from "../prims/conv.ts";
import { resolvePadding } from "../prims/pool.ts";
import { type Shape, sizeOf } from "../shape.ts";
import type { Value } from "../value.ts";
import { glorotUniform, heNormal, type Initializer } from "./initializers.ts";
import type { Model } from "./model.ts";

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

/** The output of a layer, or what the observer gives in its place. */
function reported(
  kind: AffineCall["kind"],
  params: AffineParams,
  input: Value,
  options: ops.ConvOptions,
  output: Value,
): Value {
  const b = "b" in params ? params.b : null;
  return observer().affine?.({ kind, w: params.w, b, input, options }, output) ?? output;
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
      const output = "b" in params ? ops.add(y, params.b) : y;
      return reported("dense", params, x, {}, output);
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
      const convOptions: ops.ConvOptions = { padding: "same", ...given };
      const y = ops.conv(x, params.w, convOptions);
      const output = "b" in params ? ops.add(y, ops.reshape(params.b, [outputs, ...kernel.map(() => 1)])) : y;
      return reported("conv", params, x, convOptions, output);
    },
  };
}

/**
 * Options of the transposed convolution.
 *
 * @since 0.2.0
 */
export interface ConvTransposeOptions extends AffineOptions {
  /** Size of the kernel on both spatial axes, or on each; default 3. */
  readonly window?: ops.PerAxis;
  /** How much larger the image becomes along both spatial axes, or each; default 2. */
  readonly strides?: ops.PerAxis;
}

/**
 * The transpose of the convolution with the same kernel, strides and padding "same", with a bias for each channel: an
 * image becomes larger by the strides. Weights start normal with variance `2 strides / (inputs window)`, the products over
 * the spatial axes: so many inputs reach an output on average.
 *
 * It does not report to an observer: it is not one of the kinds that these know.
 *
 * Shapes: x `[n, inputs, h, w]` to `[n, outputs, h strides, w strides]`; params `w` `[inputs, outputs, ...window]`,
 * `b` `[outputs]`.
 *
 * @throws {ShapeError} when applied, if x does not have the inputs as channels
 * @example Twice as large
 * ```ts
 * const layer = ct.nn.convTranspose(4, 2);
 * const params = layer.init(ct.random.key(0));
 * assertClose(layer.apply(params, ct.ones([1, 4, 3, 3])).shape, [1, 2, 6, 6]);
 * ```
 * @source Zeiler et al. 2010, "Deconvolutional networks"
 * @since 0.2.0
 */
export function convTranspose(
  inputs: number,
  outputs: number,
  options: ConvTransposeOptions = {},
): Model<AffineParams> {
  const { bias = true, window = 3, strides = 2 } = options;
  const kernel = typeof window === "number" ? [window, window] : window;
  const steps = typeof strides === "number" ? kernel.map(() => strides) : strides;
  const spread: Initializer = (key, shape) => ops.mul(heNormal(key, shape), Math.sqrt(sizeOf(steps)));
  const { initializer = spread } = options;
  // Drawn as the kernel of a convolution from inputs to outputs, so that its fans are those of the layer.
  const drawn: Initializer = (key) => {
    const w = initializer(key, [outputs, inputs, ...kernel]);
    return ops.transpose(w, [1, 0, ...kernel.map((_, a) => a + 2)]);
  };
  return {
    name: `convTranspose ${inputs}-${outputs} ${kernel.join("x")}`,
    init: (key) => initAffine(key, [inputs, outputs, ...kernel], outputs, drawn, bias),
    apply(params, x) {
      const size = x.shape.slice(2).map((n, a) => n * (steps[a] ?? 1));
      const unit = kernel.map(() => 1);
      const padding = resolvePadding("convTranspose", "same", size, kernel, steps);
      const y = convInput(
        x,
        params.w,
        { strides: steps, padding, dilation: unit, inputDilation: unit, groups: 1 },
        size,
      );
      return "b" in params ? ops.add(y, ops.reshape(params.b, [outputs, ...unit])) : y;
    },
  };
}
