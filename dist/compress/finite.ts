/** Gradients that are not finite: found where they are made, before they are in a state or on the wire. */
import { jit } from "../../autodiff/jit.ts";
import { sum } from "../../core/ops/reduce.ts";
import { readable, type Value } from "../../core/value.ts";
import type { CompressorOptions } from "./compressor.ts";
import { type Floats, placeOf, tensorsOf } from "./tensors.ts";

/** A number that is finite only if all elements are: one pass, in which a processor waits for memory alone. */
export const probeOf: (gradient: Value) => Value = jit((gradient: Value) => sum(gradient));

/**
 * What is wrong with the gradient of a worker; null where all elements are finite, and only their sum is not.
 *
 * @param tensors what the parameters are made of; not there: elements are named by their place in the vector
 */
export function gradientProblem(gradient: Value, rank: number, tensors?: CompressorOptions): string | null {
  const data = readable(gradient) as Floats;
  const bad = data.findIndex((x) => !Number.isFinite(x));
  if (bad < 0) return null;
  const place = tensors ? placeOf(tensorsOf(tensors), bad) : `element ${bad}`;
  return `the gradient of worker ${rank} is ${data[bad]} at ${place}, a finite number is needed`;
}
