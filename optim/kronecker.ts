/** What methods with a matrix for each axis of a leaf share: products along axes, and float64 on the host. */
import { fetchSync } from "../core/devices.ts";
import { cast, dot, matmul, reshape, transpose } from "../core/ops.ts";
import { moveAxis } from "../core/prims/movement.ts";
import { beside } from "../core/trace.ts";
import { Tensor, type Value } from "../core/value.ts";

/** Sums of products over all axes but one: X Xᵀ of the matrix whose rows are along that axis. */
export function gram(x: Value, axis: number): Value {
  const n = x.shape[axis]!;
  const rows = reshape(moveAxis(x, axis, 0), [n, n === 0 ? 0 : x.size / n]);
  return matmul(rows, transpose(rows));
}

/** The products of what is along an axis, as rows, with a matrix. */
export function along(x: Value, matrix: Value, axis: number): Value {
  const last = x.ndim - 1;
  return moveAxis(dot(moveAxis(x, axis, last), matrix), last, axis);
}

/** A value in float64 where the host computes; a traced one stays where it is. */
export function wide(x: Value): Value {
  return cast(x instanceof Tensor ? fetchSync([x])[0]! : x, "float64");
}

/** A result beside a value. */
export function there(x: Value, y: Value): Value {
  return y instanceof Tensor ? beside(x, y) : y;
}

/** A result in the element type of a value, and beside it. */
export function backTo(x: Value, y: Value): Value {
  return there(x, cast(y, x.dtype));
}
