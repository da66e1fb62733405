/**
 * Lanczos where the products are on a device: the basis grows there, in the element type of the products, and what the
 * host needs of it waits in one small table. Nothing is read before the last step.
 */
import { jit } from "../autodiff/jit.ts";
import type { LinearOperator } from "../autodiff/operator.ts";
import { arange, zerosLike } from "../core/create.ts";
import {
  add,
  broadcastTo,
  concat,
  div,
  equal,
  greater,
  matmul,
  mul,
  reshape,
  sqrt,
  sub,
  sum,
  where,
} from "../core/ops.ts";
import { scalar } from "../core/trace.ts";
import type { Value } from "../core/value.ts";

/** A basis of the Krylov space, and what the recurrence has measured. */
export interface Krylov {
  /** The vectors as rows, zeros below those that are there; [order, n]. */
  readonly basis: Value;
  /** Row 0 starts with the norm of the start vector, row j + 1 is alpha and beta of step j; [order + 1, 2]. */
  readonly table: Value;
  /** The unit vector of the next step, or zeros where nothing remained; [n]. */
  readonly vector: Value;
  /** Steps made; i32[]. */
  readonly count: Value;
}

/** Where the recurrence starts: any vector but zero, on the device; [n]. */
const begin = jit((start: Value, order: number): Krylov => {
  const length = norm(start);
  const nothing = zerosLike(start);
  return {
    basis: broadcastTo(nothing, [order, start.size]),
    table: atRow(broadcastTo(zerosLike(length), [order + 1, 2]), scalar(0, "int32"), pair(length, length)),
    vector: quotient(start, length),
    count: scalar(0, "int32"),
  };
});

/** One step: the product is orthogonalized against all vectors twice, each time by two matrix products. */
const step = jit(
  ({ basis, table, vector, count }: Krylov, product: Value): Krylov => {
    const Q = atRow(basis, count, vector);
    // w - Qᵀ Q w
    const outside = (w: Value): Value => sub(w, matmul(matmul(Q, w), Q));
    const alpha = sum(mul(product, vector));
    const rest = outside(outside(product));
    const beta = norm(rest);
    const next = add(count, 1);
    return {
      basis: Q,
      table: atRow(table, next, pair(alpha, beta)),
      vector: quotient(rest, beta),
      count: next,
    };
  },
  { donate: 0 },
);

/** `order` steps from a start vector on the device of the operator; the host waits for nothing. */
export function krylov(operator: LinearOperator, start: Value, order: number): Krylov {
  let at = begin(start, order);
  for (let j = 0; j < order; j++) at = step(at, operator.apply(at.vector));
  return at;
}

/** The matrix with a vector in the place of one row. */
function atRow(matrix: Value, row: Value, vector: Value): Value {
  const rows = matrix.shape[0]!;
  return where(equal(arange(rows, undefined, 1, { dtype: "int32" }).reshape([rows, 1]), row), vector, matrix);
}

function pair(x: Value, y: Value): Value {
  return concat([reshape(x, [1]), reshape(y, [1])]);
}

function norm(x: Value): Value {
  return sqrt(sum(mul(x, x)));
}

/** x / length; zeros where the length is zero or not a number: that would spoil every later product with the basis. */
function quotient(x: Value, length: Value): Value {
  return where(greater(length, 0), div(x, length), 0);
}
