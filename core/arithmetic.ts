/** Sums of the reference kernels: what they are kept in, how they are stored, and the one matrix product. */
import type { Aval } from "./aval.ts";
import { type DType, isFloat, makeArray, type TypedArray } from "./dtype.ts";

/** What sums are kept in: float64, or int32 modulo 2^32 for both integer types. */
export type Sums = Float64Array | Int32Array;

/** How elements of a type are multiplied and added. */
export interface Arithmetic {
  make(size: number): Sums;
  from(x: TypedArray): Sums;
  readonly multiply: typeof multiply;
}

const floats: Arithmetic = {
  make: (size) => new Float64Array(size),
  from: (x) => (x instanceof Float64Array ? x : new Float64Array(x)),
  multiply,
};

const integers: Arithmetic = {
  make: (size) => new Int32Array(size),
  from: (x) => (x instanceof Int32Array ? x : new Int32Array(x)),
  multiply: multiplyIntegers,
};

/** The arithmetic of an element type. */
export function arithmeticOf(dtype: DType): Arithmetic {
  return isFloat(dtype) ? floats : integers;
}

/** Sums in the storage of a result: the array itself for float64. */
export function stored(sums: Sums, out: Aval): TypedArray {
  if (out.dtype === (sums instanceof Float64Array ? "float64" : "int32")) return sums;
  const data = makeArray(out.dtype, out.size);
  data.set(sums);
  return data;
}

/** A matrix inside an array: element (i, l) is at `offset + i row + l column`. */
export interface Matrix {
  readonly data: Sums;
  readonly offset: number;
  readonly row: number;
  readonly column: number;
}

/** out[i, j] += sum over l of x[i, l] y[l, j] for m rows, k products, n columns; four rows of y per pass. */
function multiply(
  x: Matrix,
  y: Sums,
  yStart: number,
  out: Sums,
  outStart: number,
  m: number,
  k: number,
  n: number,
): void {
  const { data, row, column } = x;
  for (let i = 0; i < m; i++) {
    const at = x.offset + i * row;
    const to = outStart + i * n;
    let l = 0;
    for (; l + 4 <= k; l += 4) {
      const x0 = data[at + l * column]!;
      const x1 = data[at + (l + 1) * column]!;
      const x2 = data[at + (l + 2) * column]!;
      const x3 = data[at + (l + 3) * column]!;
      const y0 = yStart + l * n;
      const y1 = y0 + n;
      const y2 = y1 + n;
      const y3 = y2 + n;
      for (let j = 0; j < n; j++) {
        out[to + j]! += x0 * y[y0 + j]! + x1 * y[y1 + j]! + x2 * y[y2 + j]! + x3 * y[y3 + j]!;
      }
    }
    for (; l < k; l++) {
      const xl = data[at + l * column]!;
      const yl = yStart + l * n;
      for (let j = 0; j < n; j++) out[to + j]! += xl * y[yl + j]!;
    }
  }
}

/** The same of integers, modulo 2^32. */
function multiplyIntegers(
  x: Matrix,
  y: Sums,
  yStart: number,
  out: Sums,
  outStart: number,
  m: number,
  k: number,
  n: number,
): void {
  const { data, row, column } = x;
  for (let i = 0; i < m; i++) {
    const to = outStart + i * n;
    for (let l = 0; l < k; l++) {
      const xl = data[x.offset + i * row + l * column]!;
      const yl = yStart + l * n;
      for (let j = 0; j < n; j++) out[to + j]! += Math.imul(xl, y[yl + j]!);
    }
  }
}
