/** Parameters that stay as they are. */
import { zerosLike } from "../core/create.ts";
import { map } from "../core/tree.ts";
import type { GradientTransformation } from "./transformation.ts";

/**
 * Updates of zero: the method of leaves that are not trained, in `multiTransform`.
 *
 * Shapes: any tree.
 * Units: none.
 *
 * @example Nothing moves
 * ```ts
 * const x = ct.tensor([1, 2]);
 * const still = ct.optim.freeze();
 * assertClose(still.update(ct.tensor([3, NaN]), still.init(x), x, {})[0], [0, 0]);
 * ```
 * @since 0.2.0
 */
export function freeze(): GradientTransformation<readonly []> {
  return {
    name: "freeze",
    init: () => [],
    update: (updates, state) => [map(zerosLike, updates), state],
  };
}
