/** The loss for targets that the model draws itself: its gradients tell the Fisher matrix, whatever the data say. */
import type { Likelihood } from "../core/likelihood.ts";
import { stopGradient } from "../core/ops.ts";
import type { Value } from "../core/value.ts";

/**
 * The loss of a model for targets drawn from its own outputs.
 *
 * Its gradient has mean zero, and the mean of its square is the diagonal of the Fisher matrix over the number of examples:
 * what K-FAC takes its statistics from, and Sophia its curvature. The targets are constants to derivatives.
 *
 * Shapes: the result is a function of parameters, a key and the later arguments of `outputs`, and gives a scalar.
 * Units: none.
 *
 * @param outputs the model: what the likelihood needs from a tree and the inputs of a batch
 * @param likelihood what the outputs say of targets
 * @example A normal number is one away from its mean, on average: the loss is near 1/2
 * ```ts
 * const loss = ct.optim.sampledLoss((w: ct.Value, x: ct.Value) => x.mul(w), ct.nn.gaussian);
 * assertClose(loss(ct.tensor([2]), ct.random.key(0), ct.ones([10000, 1])), 0.5, 0.03);
 * ```
 * @source Kunstner et al. 2019, "Limitations of the empirical Fisher approximation"
 * @since 0.2.0
 */
export function sampledLoss<P, A extends readonly unknown[]>(
  outputs: (p: P, ...rest: A) => Value,
  likelihood: Likelihood,
): (params: P, key: Value, ...rest: A) => Value {
  return (params, key, ...rest) => {
    const z = outputs(params, ...rest);
    return likelihood.loss(z, stopGradient(likelihood.sample(key, stopGradient(z))));
  };
}
