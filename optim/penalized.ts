/** Weight decay as a part of the loss, where every derivative sees it. */
import { add, cast, mul, sum } from "../core/ops.ts";
import { flatten, paths } from "../core/tree.ts";
import type { Value } from "../core/value.ts";
import type { LeafTest } from "./masked.ts";
import { checkOptions, nonNegative } from "./ranges.ts";

/**
 * A loss with a quadratic penalty on the parameters: the weight decay of curvature methods, whose gradients and Hessians
 * must be of one function.
 *
 * `loss(p) + decay / 2 |p|²`: the gradient is that of the loss plus `decay p`, the Hessian plus `decay I`. What `adamw` and
 * its like do behind the loss, no Hessian sees; `fosi` refuses such a base.
 *
 * Shapes: a scalar, as of the loss.
 * Units: those of the loss.
 *
 * @param loss a function of parameters, a tree of float tensors, and anything more
 * @param decay factor on half the squared norm
 * @param isPenalized the leaves that count; default all. Biases and scales are often left out
 * @returns a function with the arguments of the loss; to compile it, give it to `jit`: a compiled loss inside stays compiled
 * by itself, the penalty around it not
 * @throws {RangeError} if the decay is negative or not finite
 * @source Hoerl & Kennard 1970, "Ridge regression"
 * @example Gradient and curvature of one function
 * ```ts
 * const loss = ct.optim.penalized((w: ct.Value) => w.mul(3).sum(), 0.5);
 * const w = ct.tensor([1, 2]);
 * assertClose(loss(w), 9 + 0.25 * 5);
 * assertClose(ct.grad(loss)(w), [3.5, 4]);
 * assertClose(ct.operator.hessianOperator(loss, w).apply(ct.tensor([1, 1])), [0.5, 0.5]);
 * ```
 * @since 0.2.0
 */
export function penalized<P, A extends readonly unknown[]>(
  loss: (params: P, ...rest: A) => Value,
  decay: number,
  isPenalized: LeafTest = () => true,
): (params: P, ...rest: A) => Value {
  checkOptions("a penalized loss", { decay: [decay, nonNegative] });
  return (params, ...rest) => {
    const value = loss(params, ...rest);
    const listed = paths(params);
    return flatten(params)[0]
      .filter((p, i) => isPenalized(listed[i]!, p))
      .map((p) => mul(decay / 2, sum(mul(p, p))))
      .reduce((total, penalty) => add(total, cast(penalty, total.dtype)), value);
  };
}
