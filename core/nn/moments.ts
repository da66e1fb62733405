/** Batch normalization apart from the batch: moments taken from one batch, used for another. */
import { ShapeError } from "../errors.ts";
import { type Moments, type Observer, observer, observing } from "../observe.ts";
import type { Value } from "../value.ts";
import type { Model } from "./model.ts";

/** The observer in force, with its word on moments replaced. */
function withoutMoments(moments: (own: Moments) => Moments): Observer {
  const outer = observer();
  return { affine: (call, output) => outer.affine?.(call, output) ?? output, moments };
}

/**
 * The moments of every batch normalization in a pass over a batch, in the order in which they run.
 *
 * Shapes: x as the model takes it; each mean and variance is `[channels]`.
 *
 * @param x training examples, as many as fit: the moments stand for those of all of them
 * @example One layer
 * ```ts
 * const model = ct.nn.batchNorm(1);
 * const params = model.init(ct.random.key(0));
 * const [moments] = ct.nn.momentsOf(model, params, ct.tensor([[1], [3]]));
 * assertClose(moments!.mean, [2]);
 * assertClose(moments!.variance, [1]);
 * ```
 * @since 0.2.0
 */
export function momentsOf<P>(model: Model<P>, params: P, x: Value): readonly Moments[] {
  const seen: Moments[] = [];
  const moments = (own: Moments): Moments => {
    seen.push(own);
    return own;
  };
  observing(withoutMoments(moments), () => model.apply(params, x));
  return seen;
}

/**
 * A model that normalizes with given moments, whatever its batch: each example has the same outputs in any batch.
 *
 * Shapes: as the model has them; one pair of moments for every batch normalization, in the order in which they run.
 *
 * @param moments of training examples, from `momentsOf`
 * @throws {ShapeError} when applied, if there are not as many moments as normalizations
 * @example A batch of one
 * ```ts
 * const model = ct.nn.batchNorm(1);
 * const params = model.init(ct.random.key(0));
 * const judged = ct.nn.withMoments(model, ct.nn.momentsOf(model, params, ct.tensor([[1], [3]])));
 * assertClose(judged.apply(params, ct.tensor([[4]])), [[2]], 1e-4);
 * ```
 * @since 0.2.0
 */
export function withMoments<P>(model: Model<P>, moments: readonly Moments[]): Model<P> {
  return {
    ...model,
    apply(params, x) {
      let asked = 0;
      const given = (own: Moments): Moments => moments[asked++] ?? own;
      const outputs = observing(withoutMoments(given), () => model.apply(params, x));
      if (asked !== moments.length) {
        throw new ShapeError(
          "withMoments",
          `Cannot apply ${model.name} with ${moments.length} moments: it has ${asked} batch normalizations, one pair for each is needed`,
        );
      }
      return outputs;
    },
  };
}
