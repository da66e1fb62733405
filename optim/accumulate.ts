/** Gradients of several small batches as one. */
import { zerosLike } from "../core/create.ts";
import { add, equal, mul, where } from "../core/ops.ts";
import { map } from "../core/tree.ts";
import type { Value } from "../core/value.ts";
import { checkOptions, countingNumber } from "./ranges.ts";
import { decayOf, type GradientTransformation, type NoExtra, zeroCount } from "./transformation.ts";

/**
 * Gradients gathered so far, and the state of the method that gets their mean.
 *
 * @since 0.2.0
 */
export interface AccumulateState<S> {
  /** Gradients in the sum; i32[]. */
  readonly gathered: Value;
  /** Their sum: a tree like the parameters. */
  readonly sum: unknown;
  readonly inner: S;
}

/**
 * Gathers gradients: the method gets the mean of every `steps` of them, and between its updates nothing moves.
 *
 * The method is evaluated at every call and its result used at every `steps`-th, by selection and not by a branch, so
 * that the update traces: schedules and counters inside the method count its own updates.
 *
 * Shapes: any tree of float tensors; the state holds one more.
 * Units: steps in gradients.
 *
 * @param steps gradients to an update
 * @throws {RangeError} if steps is not a positive integer
 * @example Two halves of a batch
 * ```ts
 * const optimizer = ct.optim.accumulate(ct.optim.sgd(1), 2);
 * const x = ct.tensor(0);
 * const [none, state] = optimizer.update(ct.tensor(1), optimizer.init(x), x, {});
 * assertClose(none, 0);
 * assertClose(optimizer.update(ct.tensor(3), state, x, {})[0], -2);
 * ```
 * @since 0.2.0
 */
export function accumulate<S, X extends object = NoExtra>(
  transformation: GradientTransformation<S, X>,
  steps: number,
): GradientTransformation<AccumulateState<S>, X> {
  checkOptions("an accumulation of gradients", { steps: [steps, countingNumber] });
  return {
    name: `accumulate(${transformation.name})`,
    ...decayOf([transformation]),
    init: (params) => ({
      gathered: zeroCount(),
      sum: map(zerosLike, params),
      inner: transformation.init(params),
    }),
    update(updates, state, params, extra) {
      const gathered = add(state.gathered, 1);
      const sum = map((g, s) => add(s!, g), updates, state.sum);
      const isFull = equal(gathered, steps);
      const [made, inner] = transformation.update(
        map((s) => mul(1 / steps, s), sum),
        state.inner,
        params,
        extra,
      );
      const whenFull = <T>(full: T, otherwise: unknown): T =>
        map((x, y) => where(isFull, x, y!), full, otherwise);
      return [
        whenFull(made, map(zerosLike, made)),
        {
          gathered: where(isFull, 0, gathered),
          sum: whenFull(map(zerosLike, sum), sum),
          inner: whenFull(inner, state.inner),
        },
      ];
    },
  };
}
