/** How well a quadratic model foretold a step: what trust regions and damping are adapted by. */
import type { DType } from "../core/dtype.ts";
import type { Value } from "../core/value.ts";

/**
 * What methods that test their steps need besides gradients: the function on the batch of the update.
 *
 * @since 0.2.0
 */
export interface ValueExtra {
  /** The value at any parameters: at those of the update and after the step. */
  value(params: unknown): Value;
}

/** The values before and after a step, and the gain that the model promised. */
export interface Step {
  readonly before: number;
  readonly after: number;
  readonly promised: number;
}

/**
 * (before - after) / promised, with rounding errors of the values on both sides: near a minimum, where nothing but these is
 * left, the ratio is about 1. NaN where a value is.
 */
export function gainRatio({ before, after, promised }: Step, dtype: DType): number {
  const noise = 10 * (dtype === "float64" ? 2 ** -52 : 2 ** -23) * Math.max(1, Math.abs(before));
  return (before - after + noise) / (promised + noise);
}
