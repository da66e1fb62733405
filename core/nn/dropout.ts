/** Noise against overfitting. */
import * as ops from "../ops.ts";
import { bernoulli } from "../random.ts";
import type { Value } from "../value.ts";

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
