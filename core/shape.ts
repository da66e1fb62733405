/** Arithmetic on shapes. A shape is a frozen list of sizes, outermost first. */
import { ShapeError } from "./errors.ts";

/**
 * The size of each axis, outermost first; `[]` is the shape of a scalar.
 *
 * @since 0.1.0
 */
export type Shape = readonly number[];

/** Number of elements: the product of the sizes, 1 for a scalar. */
export function sizeOf(shape: Shape): number {
  let size = 1;
  for (const n of shape) size *= n;
  return size;
}

/** Whether two lists of integers are the same. */
export function sameShape(a: Shape, b: Shape): boolean {
  return a.length === b.length && a.every((n, i) => n === b[i]);
}

/** Row-major strides in elements. */
export function stridesOf(shape: Shape): number[] {
  const strides = new Array<number>(shape.length);
  let stride = 1;
  for (let i = shape.length - 1; i >= 0; i--) {
    strides[i] = stride;
    stride *= shape[i]!;
  }
  return strides;
}

/** `[0, 1, ..., n - 1]`. */
export function range(n: number): number[] {
  return Array.from({ length: n }, (_, i) => i);
}

/** Resolves a possibly negative axis of a rank; throws ShapeError when it is outside. */
export function normalizeAxis(axis: number, ndim: number, op: string): number {
  if (ndim === 0) {
    throw new ShapeError(op, `Cannot ${op}: axis is ${axis} of a scalar, a value with that axis is needed`);
  }
  if (!Number.isInteger(axis) || axis < -ndim || axis >= ndim) {
    throw new ShapeError(
      op,
      `Cannot ${op}: axis is ${axis}, an integer in [${-ndim}, ${ndim - 1}] is needed`,
    );
  }
  return axis < 0 ? axis + ndim : axis;
}

/** Resolves an axis option of a reduction to sorted distinct axes; `undefined` means all. */
export function normalizeAxes(
  axis: number | readonly number[] | undefined,
  ndim: number,
  op: string,
): number[] {
  if (axis === undefined) return range(ndim);
  const axes = (typeof axis === "number" ? [axis] : axis).map((a) => normalizeAxis(a, ndim, op));
  if (new Set(axes).size !== axes.length) {
    throw new ShapeError(op, `Cannot ${op}: axes are [${axes}], distinct axes are needed`);
  }
  return axes.sort((a, b) => a - b);
}

/** The NumPy broadcast of shapes; throws ShapeError that names the first axis that does not fit. */
export function broadcastShapes(op: string, ...shapes: readonly Shape[]): Shape {
  const ndim = Math.max(0, ...shapes.map((s) => s.length));
  const out = new Array<number>(ndim).fill(1);
  for (const shape of shapes) {
    const offset = ndim - shape.length;
    shape.forEach((n, i) => {
      const seen = out[offset + i]!;
      if (n !== seen && n !== 1 && seen !== 1) {
        const listed = shapes.map((s) => `[${s}]`).join(" and ");
        throw new ShapeError(
          op,
          `Cannot ${op} ${listed}: axis ${offset + i} is ${seen} and ${n}, equal sizes or 1 are needed`,
        );
      }
      if (n !== 1) out[offset + i] = n;
    });
  }
  return out;
}

/** The shape without the given axes. */
export function withoutAxes(shape: Shape, axes: readonly number[]): number[] {
  return shape.filter((_, i) => !axes.includes(i));
}

/** The list with `value` inserted at `index`. */
export function insertAt<T>(list: readonly T[], index: number, value: T): T[] {
  return [...list.slice(0, index), value, ...list.slice(index)];
}

/** Throws ShapeError unless every entry is a non-negative integer. */
export function checkShape(shape: Shape, op: string): void {
  for (const n of shape) {
    if (!Number.isInteger(n) || n < 0) {
      throw new ShapeError(
        op,
        `Cannot ${op} shape [${shape}]: a size is ${n}, non-negative integers are needed`,
      );
    }
  }
}
