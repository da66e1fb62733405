/**
 * How a primitive is computed by a compiling backend: data beside its rules, so that no backend knows a primitive by
 * name. A primitive without a kernel runs its reference function.
 */
import type { Aval } from "./aval.ts";
import type { Expr } from "./expr.ts";
import { type Shape, sizeOf, stridesOf } from "./shape.ts";

/** Where the elements of an array are in a buffer: element `index` is at `offset + index . strides`, in elements. */
export interface Layout {
  readonly shape: Shape;
  readonly offset: number;
  readonly strides: readonly number[];
}

/** One operand of a concatenation or padding: where in the result its elements go. */
export interface Piece {
  readonly arg: number;
  readonly layout: Layout;
}

export interface Placement {
  /** What the rest of the result holds; null where the pieces cover it. */
  readonly fill: number | null;
  readonly pieces: readonly Piece[];
}

/** One of five ways; `P` is the type of the primitive's parameters. */
export type Kernel<P> =
  /** Each element of the result from the elements of the operands at the same place. */
  | { readonly k: "map"; expr(args: readonly Expr[], params: P, out: Aval): Expr }
  /** The result's elements are elements of the operand elsewhere; null where that layout cannot say it. */
  | { readonly k: "view"; view(x: Layout, params: P, out: Aval): Layout | null }
  /** Joins the elements along axes. `sum` and `prod` of float32 accumulate more precisely than float32. */
  | {
      readonly k: "reduce";
      readonly join: "sum" | "prod" | "max" | "min";
      axes(params: P): readonly number[];
    }
  /** The result is `fill` except for the operands' elements at their places. */
  | { readonly k: "place"; place(args: readonly Aval[], params: P, out: Aval): Placement }
  /** A kernel written by hand, under this name, in each backend that has it. */
  | { readonly k: "named"; readonly name: string };

/** The layout of an array whose elements are in row-major order. */
export function rowMajor(shape: Shape): Layout {
  return { shape, offset: 0, strides: stridesOf(shape) };
}

/** Whether the elements are in row-major order without gaps, from the start of the buffer or from the offset. */
export function isRowMajor({ shape, strides }: Layout): boolean {
  if (sizeOf(shape) === 0) return true;
  const expected = stridesOf(shape);
  return shape.every((n, a) => n === 1 || strides[a] === expected[a]);
}

/** The same elements under another shape, where one set of strides can say it; else null. */
export function reshaped(x: Layout, shape: Shape): Layout | null {
  const { offset } = x;
  if (sizeOf(shape) === 0) return { shape, offset, strides: stridesOf(shape) };
  // Axes of size 1 say nothing; neighbours that continue each other are one run.
  const runs: { size: number; stride: number }[] = [];
  x.shape.forEach((n, a) => {
    if (n === 1) return;
    const last = runs.at(-1);
    if (last && last.stride === n * x.strides[a]!)
      runs[runs.length - 1] = { size: last.size * n, stride: x.strides[a]! };
    else runs.push({ size: n, stride: x.strides[a]! });
  });
  // Each new axis must lie within one run, from the innermost outwards.
  const strides = new Array<number>(shape.length).fill(0);
  let run = runs.pop();
  let used = 1;
  for (let a = shape.length - 1; a >= 0; a--) {
    const n = shape[a]!;
    if (n === 1) continue;
    if (run && used === run.size) {
      run = runs.pop();
      used = 1;
    }
    if (!run || run.size % (used * n) !== 0) return null;
    strides[a] = run.stride * used;
    used *= n;
  }
  return { shape, offset, strides };
}
