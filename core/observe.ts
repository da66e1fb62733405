/**
 * What layers tell while a function runs, and what they are told: how a method sees inside a model without knowing it. An
 * observer is in force while `observing` runs a function; layers report to the innermost one.
 */
import type { ConvOptions } from "./ops/image.ts";
import type { Value } from "./value.ts";

/**
 * A layer with weights, as it was called.
 *
 * @since 0.2.0
 */
export interface AffineCall {
  readonly kind: "dense" | "conv";
  /** The very values that the layer was called with: they can be found among the leaves of the parameters. */
  readonly w: Value;
  readonly b: Value | null;
  /** `[..., inputs]`, or `[batch, channels, height, width]`. */
  readonly input: Value;
  /** Of a convolution. */
  readonly options: ConvOptions;
}

/**
 * Mean and variance of each channel, over everything else of a batch.
 *
 * @since 0.2.0
 */
export interface Moments {
  /** [channels] */
  readonly mean: Value;
  /** [channels] */
  readonly variance: Value;
}

/**
 * Who is told, and may answer.
 *
 * @since 0.2.0
 */
export interface Observer {
  /** The output that a layer is to give in place of its own. */
  affine?(call: AffineCall, output: Value): Value;
  /** The moments with which a normalization over the batch is to work, in place of those of its batch. */
  moments?(own: Moments): Moments;
}

let current: Observer = {};

/**
 * Runs a function under an observer. What is compiled with `jit` inside the function is recorded for itself and does not
 * report: observe within the function that is compiled.
 *
 * Shapes: whatever the function takes and gives.
 *
 * @returns what the function returns
 * @throws whatever the function throws
 * @example Which layers a model has
 * ```ts
 * const model = ct.nn.mlp([2, 3, 1]);
 * const seen: string[] = [];
 * const observer: ct.nn.Observer = {
 *   affine(call, output) {
 *     seen.push(`${call.kind} ${call.w.shape}`);
 *     return output;
 *   },
 * };
 * ct.nn.observing(observer, () => model.apply(model.init(ct.random.key(0)), ct.ones([4, 2])));
 * assert(seen.join("; ") === "dense 2,3; dense 3,1");
 * ```
 * @since 0.2.0
 */
export function observing<T>(observer: Observer, f: () => T): T {
  const outer = current;
  current = observer;
  try {
    return f();
  } finally {
    current = outer;
  }
}

/** The observer in force; one that is told nothing where there is none. */
export function observer(): Observer {
  return current;
}
