/** A tree as one vector, and back. */

import { Aval } from "./aval.ts";
import { DTypeError } from "./errors.ts";
import { concat, reshape, sliceAxis } from "./prims/movement.ts";
import { flatten, paths, unflatten } from "./tree.ts";
import { Tensor, type Value } from "./value.ts";

/**
 * All elements of a tree as one vector, and the function that puts a vector back into the tree's structure.
 *
 * Shapes: the vector has one axis, as long as all leaves together, in the order of `tree.leaves`.
 * Units: none.
 *
 * @throws {DTypeError} if the leaves have different element types
 * @throws {TreeError} if something inside is not a tensor
 * @example There and back
 * ```ts
 * const [flat, unravel] = ct.tree.ravel({ w: ct.tensor([[1, 2]]), b: ct.tensor(3) });
 * assertClose(flat, [3, 1, 2]);
 * assertClose(unravel(flat).w, [[1, 2]]);
 * ```
 * @since 0.1.0
 */
export function ravel<T>(tree: T): [flat: Value, unravel: (flat: Value) => T] {
  const [leaves, def] = flatten(tree);
  const [first] = leaves;
  if (first === undefined) {
    const empty = new Tensor(new Aval([0], "float32"), new Float32Array(0));
    return [empty, () => unflatten<T>(def, [])];
  }
  leaves.forEach((x, i) => {
    if (x.dtype !== first.dtype) {
      throw new DTypeError(
        "ravel",
        `Cannot ravel a tree of mixed element types: ${paths(tree)[i]} is ${x.aval}, ${first.dtype} is needed as in the first leaf`,
      );
    }
  });
  const shapes = leaves.map((x) => x.shape);
  const sizes = leaves.map((x) => x.size);
  const flat = concat(
    leaves.map((x) => reshape(x, [x.size])),
    0,
  );
  const unravel = (vector: Value): T => {
    let end = 0;
    const parts = shapes.map((shape, i) => {
      end += sizes[i]!;
      return reshape(sliceAxis(vector, 0, end - sizes[i]!, end), shape);
    });
    return unflatten<T>(def, parts);
  };
  return [flat, unravel];
}
