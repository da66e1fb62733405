/** How weights start. */
import { full } from "../create.ts";
import { mul } from "../ops.ts";
import { normal, uniform } from "../random.ts";
import { type Shape, sizeOf } from "../shape.ts";
import type { Value } from "../value.ts";

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
  return mul(normal(key, shape), Math.sqrt(2 / fans(shape).fanIn));
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
  return mul(normal(key, shape), Math.sqrt(1 / fans(shape).fanIn));
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

/**
 * Normal with the same small deviation for every shape: what transformers start from.
 *
 * Shapes: the result has the shape that the initializer is asked for.
 *
 * @throws {RangeError} if the deviation is not a number above 0
 * @example Small numbers
 * ```ts
 * const table = ct.nn.normalOf(0.02)(ct.random.key(0), [10, 4]);
 * assert(ct.max(ct.abs(table)).item() < 0.2);
 * ```
 * @source Radford et al. 2019, "Language models are unsupervised multitask learners"
 * @since 0.2.0
 */
export function normalOf(deviation: number): Initializer {
  if (!(deviation > 0)) {
    throw new RangeError(
      `Cannot make an initializer: the deviation is ${deviation}, a number above 0 is needed`,
    );
  }
  return (key, shape) => mul(normal(key, shape), deviation);
}
