/** Second derivatives and Jacobians, by composing forward and reverse mode. */

import { makeArray } from "../core/dtype.ts";
import { moveAxis, reshape, sliceAxis } from "../core/prims/movement.ts";
import { adopt } from "../core/trace.ts";
import { flatten, type IsTree, unflatten } from "../core/tree.ts";
import type { Tensor, Value } from "../core/value.ts";
import { jvp } from "./jvp.ts";
import { checkLike } from "./leaves.ts";
import { gradientOf, vjp } from "./vjp.ts";
import { vmapLeaves } from "./vmap.ts";

type TreeCheck<T> =
  IsTree<T> extends true ? [] : [error: "every leaf of the first argument must be a tensor"];

/**
 * Hessian-vector product by forward-over-reverse.
 *
 * Computes `H(p) v` for scalar `f` without forming `H`. Cost: a small constant times `grad(f)`.
 *
 * Shapes: `p`, `v` and the result: one tree structure, the same leaf shapes and element types.
 * Units: none.
 *
 * @param f scalar function of a tree; later arguments pass through
 * @returns function of `(p, v, ...rest)`
 * @throws {TreeError} if `v` has another structure than `p`
 * @throws {ShapeError} if a leaf of `v` differs from the leaf of `p` at the same path
 * @example A quadratic with Hessian 2 I
 * ```ts
 * const product = ct.hvp((x: ct.Value) => x.mul(x).sum());
 * assertClose(product(ct.tensor([1, 2]), ct.tensor([3, 4])), [6, 8]);
 * ```
 * @source Pearlmutter 1994, "Fast exact multiplication by the Hessian"
 * @since 0.1.0
 */
export function hvp<P, A extends readonly unknown[]>(
  f: (p: P, ...rest: A) => Value,
  ..._check: TreeCheck<P>
): (p: P, v: P, ...rest: A) => P {
  const gradient = gradientOf(f);
  return (p, v, ...rest) => {
    checkLike("hvp", "the direction", p, v);
    return jvp((q: P) => gradient(q, ...rest), [p], [v])[1];
  };
}

/** For each element of a tree's leaves, the tree of unit vectors: leaf i has shape [n, ...leaf], n the total size. */
function standardBasis(leaves: readonly Value[]): Tensor[] {
  const total = leaves.reduce((sum, x) => sum + x.size, 0);
  let start = 0;
  return leaves.map((x) => {
    const data = makeArray(x.dtype, total * x.size);
    for (let i = 0; i < x.size; i++) data[(start + i) * x.size + i] = 1;
    start += x.size;
    return adopt(data, [total, ...x.shape], x.dtype);
  });
}

/** Splits axis `axis` of length n (all leaves together) into one tree of blocks shaped like the leaves. */
function splitBasisAxis(
  x: Value,
  axis: number,
  leaves: readonly Value[],
  rebuild: (blocks: Value[]) => unknown,
): unknown {
  const front = moveAxis(x, axis, 0);
  const rest = front.shape.slice(1);
  let end = 0;
  const blocks = leaves.map((leafLike) => {
    end += leafLike.size;
    return reshape(sliceAxis(front, 0, end - leafLike.size, end), [...leafLike.shape, ...rest]);
  });
  return rebuild(blocks);
}

/** Moves the first `count` axes behind the others. */
function rotateAxes(x: Value, count: number): Value {
  let y = x;
  for (let i = 0; i < count; i++) y = moveAxis(y, 0, y.ndim - 1);
  return y;
}

/**
 * Jacobian by forward mode: one pushforward per input element, vectorized.
 *
 * Shapes: a leaf `[o...]` of the result of `f` becomes a tree like the first argument with leaves `[o..., i...]`.
 * Units: none.
 *
 * @param f function of a tree; later arguments pass through
 * @throws {TreeError} if the first argument is not a tree of tensors
 * @example The Jacobian of squares
 * ```ts
 * assertClose(ct.jacfwd((x: ct.Value) => x.mul(x))(ct.tensor([1, 2])), [[2, 0], [0, 4]]);
 * ```
 * @since 0.1.0
 */
export function jacfwd<P, A extends readonly unknown[], R>(
  f: (p: P, ...rest: A) => R,
  ..._check: TreeCheck<P>
): (p: P, ...rest: A) => Jacobian<R, P> {
  return (p, ...rest) => {
    const [leaves, def] = flatten(p);
    let outDef: ReturnType<typeof flatten>[1] | undefined;
    const columns = vmapLeaves(
      (...basis) => {
        const [, tangent] = jvp((q: P) => f(q, ...rest), [p], [unflatten<P>(def, basis)]);
        const [outs, structure] = flatten(tangent);
        outDef = structure;
        return outs;
      },
      standardBasis(leaves),
      leaves.map(() => 0),
      leaves.reduce((sum, x) => sum + x.size, 0),
    );
    const blocks = columns.map((column) =>
      splitBasisAxis(column, 0, leaves, (parts) =>
        unflatten(
          def,
          parts.map((part, i) => rotateAxes(part, leaves[i]!.ndim)),
        ),
      ),
    );
    return unflatten<Jacobian<R, P>>(outDef!, blocks);
  };
}

/**
 * A tree like `R` with a tree like `P` in place of each leaf.
 *
 * @since 0.1.0
 */
export type Jacobian<R, P> = R extends Value ? P : { [K in keyof R]: Jacobian<R[K], P> };

/**
 * Jacobian by reverse mode: one pullback per output element, vectorized.
 *
 * Shapes: as for `jacfwd`: leaves `[o..., i...]`.
 * Units: none.
 *
 * @param f function of a tree; later arguments pass through
 * @throws {TreeError} if the first argument is not a tree of tensors
 * @example One row per output
 * ```ts
 * const f = (x: ct.Value) => ct.stack([x.sum(), x.mul(x).sum()]);
 * assertClose(ct.jacrev(f)(ct.tensor([1, 2])), [[1, 1], [2, 4]]);
 * ```
 * @since 0.1.0
 */
export function jacrev<P, A extends readonly unknown[], R>(
  f: (p: P, ...rest: A) => R,
  ..._check: TreeCheck<P>
): (p: P, ...rest: A) => Jacobian<R, P> {
  return (p, ...rest) => {
    const [, def] = flatten(p);
    const [out, pullback] = vjp((q: P) => f(q, ...rest), p);
    const [outs, outDef] = flatten(out);
    const total = outs.reduce((sum, y) => sum + y.size, 0);
    const rows = vmapLeaves(
      (...basis) => flatten(pullback(unflatten<R>(outDef, basis))[0])[0],
      standardBasis(outs),
      outs.map(() => 0),
      total,
    );
    // rows[i]: [all outputs, ...leaf i]; block j of it belongs to output j.
    let start = 0;
    const blocks = outs.map((y) => {
      start += y.size;
      const parts = rows.map((row) => {
        const block = sliceAxis(row, 0, start - y.size, start);
        return reshape(block, [...y.shape, ...row.shape.slice(1)]);
      });
      return unflatten(def, parts);
    });
    return unflatten<Jacobian<R, P>>(outDef, blocks);
  };
}

/**
 * Hessian of a scalar function: forward over reverse.
 *
 * Shapes: for a tensor `[i...]` the result is `[i..., i...]`; for a tree, a tree of trees of blocks.
 * Units: none.
 *
 * @throws {ShapeError} if the result of `f` is not a scalar
 * @throws {TreeError} if the first argument is not a tree of tensors
 * @example Two variables
 * ```ts
 * const f = (x: ct.Value) => x.mul(x).mul(x).sum();
 * assertClose(ct.hessian(f)(ct.tensor([1, 2])), [[6, 0], [0, 12]]);
 * ```
 * @since 0.1.0
 */
export function hessian<P, A extends readonly unknown[]>(
  f: (p: P, ...rest: A) => Value,
  ..._check: TreeCheck<P>
): (p: P, ...rest: A) => Jacobian<P, P> {
  return jacfwd<P, A, P>(gradientOf(f), ..._check);
}
