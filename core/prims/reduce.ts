/** Reductions and scans along axes: largest, smallest, product, position of the extremum, cumulative sum. */
import { Aval } from "../aval.ts";
import { type DType, isFloat, makeArray, type TypedArray } from "../dtype.ts";
import { ShapeError } from "../errors.ts";
import { definePrimitive, type Primitive } from "../primitive.ts";
import { range, type Shape, sizeOf, withoutAxes } from "../shape.ts";
import { foldView } from "../strided.ts";
import { bind1 } from "../trace.ts";
import type { Value } from "../value.ts";
import { add, cast, div, equal, mul } from "./elementwise.ts";
import {
  broadcast,
  checkAxes,
  checkNumeric,
  concat,
  host,
  linear,
  moveAxis,
  permute,
  reducedView,
  reshape,
  sliceAxis,
  sumAxes,
} from "./movement.ts";

/** The axes that disappear, in any order. */
export interface AxesParams {
  readonly axes: readonly number[];
}

const shifted = (axes: readonly number[]): number[] => axes.map((a) => a + 1);
const keptAxes = (ndim: number, axes: readonly number[]): number[] =>
  range(ndim).filter((a) => !axes.includes(a));

function checkNotEmpty(op: string, x: Aval, axes: readonly number[]): void {
  const empty = axes.find((a) => x.shape[a] === 0);
  if (empty !== undefined) {
    throw new ShapeError(
      op,
      `Cannot ${op} ${x}: axis ${empty} has no elements, at least one is needed because there is no neutral element`,
    );
  }
}

// --- largest and smallest ----------------------------------------------------------------------------------------

interface Extremum {
  readonly name: string;
  readonly doc: string;
  readonly join: "max" | "min";
  /** What loses against every element. */
  start(dtype: DType): number;
  readonly fold: (seen: number, x: number) => number;
}

/** Defines the largest or the smallest element along axes; the two differ in the order only. */
function extremum({ name, doc, join, start, fold }: Extremum): Primitive<AxesParams> {
  const primitive: Primitive<AxesParams> = definePrimitive({
    name,
    doc,
    traits: {},
    arity: 1,
    shape([x], { axes }) {
      checkNumeric(name, x!);
      checkAxes(name, x!, axes);
      checkNotEmpty(name, x!, axes);
      return [x!.withShape(withoutAxes(x!.shape, axes))];
    },
    // dy = mean of dx over the elements that attain y
    jvp([x], [dx], { axes }) {
      const y = bind1(primitive, [x!], { axes });
      if (!dx) return [[y], [null]];
      const kept = keptAxes(x!.ndim, axes);
      const ties = cast(equal(x!, broadcast(y, x!.shape, kept)), x!.dtype);
      return [[y], [div(sumAxes(mul(dx, ties), axes), sumAxes(ties, axes))]];
    },
    batch: ([x], [dim], _size, { axes }) => [
      [bind1(primitive, [moveAxis(x!, dim!, 0)], { axes: shifted(axes) })],
      [0],
    ],
    kernel: { k: "reduce", join, axes: ({ axes }) => axes },
    cpu([x], [out], { axes }) {
      const { shape } = x!.aval;
      const data = makeArray(out!.dtype, out!.size).fill(start(out!.dtype));
      foldView(host(x!), reducedView(data, shape, axes), shape, fold);
      return [data];
    },
    domain(draw) {
      const shape = draw.shape(0, 3);
      return {
        args: [{ shape, distinct: true }],
        params: { axes: range(shape.length).filter(() => draw.bool()) },
      };
    },
  });
  return primitive;
}

export const reduceMaxP: Primitive<AxesParams> = extremum({
  name: "reduceMax",
  join: "max",
  doc: "The largest element along axes, which disappear; NaN where there is one.",
  start: (dtype) => (isFloat(dtype) ? -Infinity : dtype === "int32" ? -2147483648 : 0),
  fold: Math.max,
});

export const reduceMinP: Primitive<AxesParams> = extremum({
  name: "reduceMin",
  join: "min",
  doc: "The smallest element along axes, which disappear; NaN where there is one.",
  start: (dtype) => (isFloat(dtype) ? Infinity : dtype === "int32" ? 2147483647 : 4294967295),
  fold: Math.min,
});

export function reduceMax(x: Value, axes: readonly number[]): Value {
  return axes.length === 0 ? x : bind1(reduceMaxP, [x], { axes });
}

export function reduceMin(x: Value, axes: readonly number[]): Value {
  return axes.length === 0 ? x : bind1(reduceMinP, [x], { axes });
}

// --- product -----------------------------------------------------------------------------------------------------

const timesUint32 = (seen: number, x: number): number => Math.imul(seen, x) >>> 0;

/** Numbers of magnitude from 1 / NEAR to NEAR are near 1; those that are not are multiplied by a power of STEP. */
const NEAR = 2 ** 256;
const STEP = 2 ** 512;

/**
 * Products of floats, as numbers near 1 and how often each was divided by STEP: partial products neither overflow nor
 * underflow, so that 0 times anything finite is 0 and the order of the factors does not matter.
 */
class FloatProducts {
  readonly #products: Float64Array;
  readonly #scales: Float64Array;

  constructor(count: number) {
    this.#products = new Float64Array(count).fill(1);
    this.#scales = new Float64Array(count);
  }

  /** Multiplies one of the products. */
  multiply(i: number, x: number): void {
    this.#products[i] = this.#near(i, this.#near(i, x) * this.#products[i]!);
  }

  /** The number divided by a power of STEP, which is counted. */
  #near(i: number, x: number): number {
    let y = x;
    for (; Math.abs(y) >= NEAR && Number.isFinite(y); y /= STEP) this.#scales[i]!++;
    for (; Math.abs(y) < 1 / NEAR && y !== 0; y *= STEP) this.#scales[i]!--;
    return y;
  }

  /** The products as they are: four steps from near 1 are beyond float64. */
  result(): Float64Array {
    return this.#products.map((product, i) => {
      const scale = this.#scales[i]!;
      let y = product;
      for (let step = 0; step < Math.min(4, Math.abs(scale)); step++) y *= scale > 0 ? STEP : 1 / STEP;
      return y;
    });
  }
}

export const reduceProdP: Primitive<AxesParams> = definePrimitive({
  name: "reduceProd",
  doc: "The product of the elements along axes, which disappear; 1 where there are none. float32 accumulates in float64, and no partial product overflows.",
  traits: {},
  arity: 1,
  shape([x], { axes }) {
    checkNumeric("reduceProd", x!);
    checkAxes("reduceProd", x!, axes);
    return [x!.withShape(withoutAxes(x!.shape, axes))];
  },
  jvp: ([x], [dx], { axes }) => [
    [bind1(reduceProdP, [x!], { axes })],
    [dx ? productTangent(rows(x!, axes), rows(dx, axes)) : null],
  ],
  batch: ([x], [dim], _size, { axes }) => [
    [bind1(reduceProdP, [moveAxis(x!, dim!, 0)], { axes: shifted(axes) })],
    [0],
  ],
  kernel: { k: "reduce", join: "prod", axes: ({ axes }) => axes },
  cpu([x], [out], { axes }) {
    const { shape, dtype } = x!.aval;
    const data = makeArray(dtype, out!.size);
    if (isFloat(dtype)) {
      const products = new FloatProducts(out!.size);
      const positions = Float64Array.from(data.keys());
      foldView(host(x!), reducedView(positions, shape, axes), shape, (i, factor) => {
        products.multiply(i, factor);
        return i;
      });
      data.set(products.result());
    } else {
      const fold = dtype === "int32" ? Math.imul : timesUint32;
      foldView(host(x!), reducedView(data.fill(1), shape, axes), shape, fold);
    }
    return [data];
  },
  domain(draw) {
    const shape = draw.shape(0, 3);
    return { args: [{ shape }], params: { axes: range(shape.length).filter(() => draw.bool()) } };
  },
});

export function reduceProd(x: Value, axes: readonly number[]): Value {
  return axes.length === 0 ? x : bind1(reduceProdP, [x], { axes });
}

/** The value with the given axes joined to one last axis. */
function rows(x: Value, axes: readonly number[]): Value {
  const kept = keptAxes(x.ndim, axes);
  const sizes = (list: readonly number[]): number[] => list.map((a) => x.shape[a]!);
  return reshape(permute(x, [...kept, ...axes]), [...sizes(kept), sizeOf(sizes(axes))]);
}

/**
 * Tangent of the product along the last axis. One half of the axis is multiplied into the other until one element is
 * left, d (a b) = da b + a db, so that nothing is divided: zeros are as good as other numbers, in every order.
 */
function productTangent(x: Value, dx: Value): Value {
  const axis = x.ndim - 1;
  for (let n = x.shape[axis]!; n > 1; n = x.shape[axis]!) {
    const half = n >> 1;
    const [a, da] = [sliceAxis(x, axis, 0, half), sliceAxis(dx, axis, 0, half)];
    const [b, db] = [sliceAxis(x, axis, half, 2 * half), sliceAxis(dx, axis, half, 2 * half)];
    const odd = (v: Value): Value[] => (n % 2 === 1 ? [sliceAxis(v, axis, n - 1, n)] : []);
    dx = concat([add(mul(da, b), mul(a, db)), ...odd(dx)], axis);
    x = concat([mul(a, b), ...odd(x)], axis);
  }
  return sumAxes(dx, [axis]); // of one element, or of none
}

// --- positions ---------------------------------------------------------------------------------------------------

/** One axis of an array in row-major order: `outer` blocks of `n` rows of `inner` elements. */
function split(shape: Shape, axis: number): { outer: number; n: number; inner: number } {
  return { outer: sizeOf(shape.slice(0, axis)), n: shape[axis]!, inner: sizeOf(shape.slice(axis + 1)) };
}

/** Defines the position of the largest (`sign` 1) or smallest (`sign` -1) element along an axis. */
function argExtremum(name: string, doc: string, sign: 1 | -1): Primitive<{ readonly axis: number }> {
  const primitive: Primitive<{ readonly axis: number }> = definePrimitive({
    name,
    doc,
    traits: {},
    arity: 1,
    shape([x], { axis }) {
      checkAxes(name, x!, [axis]);
      checkNotEmpty(name, x!, [axis]);
      return [new Aval(withoutAxes(x!.shape, [axis]), "int32")];
    },
    jvp: ([x], _dxs, params) => [[bind1(primitive, [x!], params)], [null]],
    batch: ([x], [dim], _size, { axis }) => [
      [bind1(primitive, [moveAxis(x!, dim!, 0)], { axis: axis + 1 })],
      [0],
    ],
    kernel: { k: "named", name },
    cpu([x], [out], { axis }) {
      const { outer, n, inner } = split(x!.aval.shape, axis);
      const source = x!.data;
      const data = new Int32Array(out!.size);
      for (let o = 0; o < outer; o++) {
        for (let i = 0; i < inner; i++) {
          const first = o * n * inner + i;
          let best = sign * source[first]!;
          let at = 0;
          for (let k = 1, j = first + inner; k < n && !Number.isNaN(best); k++, j += inner) {
            const y = sign * source[j]!;
            if (y > best || Number.isNaN(y)) {
              best = y;
              at = k;
            }
          }
          data[o * inner + i] = at;
        }
      }
      return [data];
    },
    domain(draw) {
      const shape = draw.shape(1, 3);
      return { args: [{ shape, distinct: true }], params: { axis: draw.int(0, shape.length - 1) } };
    },
  });
  return primitive;
}

export const argmaxP: Primitive<{ readonly axis: number }> = argExtremum(
  "argmax",
  "Position along an axis of the first NaN, or else of the first largest element, as int32.",
  1,
);
export const argminP: Primitive<{ readonly axis: number }> = argExtremum(
  "argmin",
  "Position along an axis of the first NaN, or else of the first smallest element, as int32.",
  -1,
);

export function argmax(x: Value, axis: number): Value {
  return bind1(argmaxP, [x], { axis });
}

export function argmin(x: Value, axis: number): Value {
  return bind1(argminP, [x], { axis });
}

// --- cumulative sum ----------------------------------------------------------------------------------------------

export interface CumsumParams {
  readonly axis: number;
  /** Sums from the end of the axis. */
  readonly reverse: boolean;
}

export const cumsumP: Primitive<CumsumParams> = linear({
  name: "cumsum",
  doc: "Sums of the elements up to and including each one along an axis; float32 accumulates in float64.",
  shape([x], { axis }) {
    checkNumeric("cumsum", x!);
    checkAxes("cumsum", x!, [axis]);
    return [x!];
  },
  transpose: (ct, _x, { axis, reverse }) => cumsum(ct, axis, !reverse),
  batch: (x, dim, _size, { axis, reverse }) => [cumsum(moveAxis(x, dim, 0), axis + 1, reverse), 0],
  kernel: { k: "named", name: "cumsum" },
  cpu([x], [out], { axis, reverse }) {
    const { outer, n, inner } = split(out!.shape, axis);
    const source: TypedArray = x!.data;
    const data = makeArray(out!.dtype, out!.size);
    const sums = new Float64Array(inner);
    for (let o = 0; o < outer; o++) {
      sums.fill(0);
      for (let k = 0; k < n; k++) {
        const row = (o * n + (reverse ? n - 1 - k : k)) * inner;
        for (let i = 0; i < inner; i++) {
          sums[i]! += source[row + i]!;
          data[row + i] = sums[i]!;
        }
      }
    }
    return [data];
  },
  domain(draw) {
    const shape = draw.shape(1, 3);
    return { args: [{ shape }], params: { axis: draw.int(0, shape.length - 1), reverse: draw.bool() } };
  },
});

export function cumsum(x: Value, axis: number, reverse = false): Value {
  return bind1(cumsumP, [x], { axis, reverse });
}
