/** Programs of a state that is carried from step to step. */
import { jit } from "../autodiff/jit.ts";

/**
 * A program, and the same one for callers who give up the arguments at these positions: results take their storage. New
 * memory for every step takes a quarter of its time where a state is larger than a processor's cache.
 */
export function inPlace<F extends (...args: never[]) => unknown>(
  f: F,
  donate: readonly number[],
): (givesUp: boolean | undefined) => F {
  const whole = jit(f);
  const further = jit(f, { donate });
  return (givesUp) => (givesUp ? further : whole);
}
