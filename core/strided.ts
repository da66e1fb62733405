/** Walks over strided views of host arrays: the one loop nest that the reference movement kernels share. */
import type { TypedArray } from "./dtype.ts";
import { type Shape, sizeOf } from "./shape.ts";

/** Calls `row(a, b)` with the offsets of every row (last axis) of two strided views of one shape. */
function forEachRow(
  shape: Shape,
  a: { readonly offset: number; readonly strides: readonly number[] },
  b: { readonly offset: number; readonly strides: readonly number[] },
  row: (a: number, b: number) => void,
): void {
  const outer = shape.length - 1;
  if (sizeOf(shape) === 0) return;
  const index = new Array<number>(Math.max(outer, 0)).fill(0);
  let pa = a.offset;
  let pb = b.offset;
  for (;;) {
    row(pa, pb);
    let axis = outer - 1;
    for (; axis >= 0; axis--) {
      pa += a.strides[axis]!;
      pb += b.strides[axis]!;
      if (++index[axis]! < shape[axis]!) break;
      pa -= a.strides[axis]! * shape[axis]!;
      pb -= b.strides[axis]! * shape[axis]!;
      index[axis] = 0;
    }
    if (axis < 0) return;
  }
}

/** A view of a host array: element `index` is at `offset + index . strides`. Strides may be 0 or negative. */
export interface View {
  readonly data: TypedArray;
  readonly offset: number;
  readonly strides: readonly number[];
}

/** Copies one view to another of the same shape. */
export function copyView(from: View, to: View, shape: Shape): void {
  const n = shape.at(-1) ?? 1;
  const sa = from.strides.at(-1) ?? 1;
  const sb = to.strides.at(-1) ?? 1;
  const source = from.data;
  const target = to.data;
  forEachRow(shape, from, to, (a, b) => {
    if (sa === 1 && sb === 1) {
      for (let i = 0; i < n; i++) target[b + i] = source[a + i]!;
    } else if (sa === 0) {
      const x = source[a]!;
      for (let i = 0; i < n; i++) target[b + i * sb] = x;
    } else {
      for (let i = 0; i < n; i++) target[b + i * sb] = source[a + i * sa]!;
    }
  });
}

/** Folds a view into another of the same shape (0 strides where several elements meet): `to = f(to, from)` in row-major order. */
export function foldView(from: View, to: View, shape: Shape, f: (seen: number, x: number) => number): void {
  const n = shape.at(-1) ?? 1;
  const sa = from.strides.at(-1) ?? 1;
  const sb = to.strides.at(-1) ?? 1;
  const source = from.data;
  const target = to.data;
  forEachRow(shape, from, to, (a, b) => {
    for (let i = 0; i < n; i++) {
      const j = b + i * sb;
      target[j] = f(target[j]!, source[a + i * sa]!);
    }
  });
}

/** Adds a view into another of the same shape: `to += from` in row-major order. */
export function addView(from: View, to: View, shape: Shape): void {
  const n = shape.at(-1) ?? 1;
  const sa = from.strides.at(-1) ?? 1;
  const sb = to.strides.at(-1) ?? 1;
  const source = from.data;
  const target = to.data;
  forEachRow(shape, from, to, (a, b) => {
    if (sb === 0) {
      let sum = target[b]!;
      for (let i = 0; i < n; i++) sum += source[a + i * sa]!;
      target[b] = sum;
    } else {
      for (let i = 0; i < n; i++) target[b + i * sb]! += source[a + i * sa]!;
    }
  });
}
