/** Vectors `[n]` as the tensors that they are made of, on the host. */
import { type DType, dtypeOf, type TypedArray } from "../../core/dtype.ts";
import { DTypeError, ShapeError } from "../../core/errors.ts";
import { sizeOf } from "../../core/shape.ts";
import { adopt, placed } from "../../core/trace.ts";
import { readable, type Tensor, type Value } from "../../core/value.ts";
import type { CompressorOptions } from "./compressor.ts";

/** Elements of a vector on the host. */
export type Floats = Float32Array<ArrayBuffer> | Float64Array<ArrayBuffer>;

/** Where each tensor is in a vector. */
export interface Tensors {
  /** The size of the vector. */
  readonly n: number;
  /** Tensor i is the elements from `starts[i]` to `starts[i + 1]`. */
  readonly starts: readonly number[];
  readonly sizes: readonly number[];
  readonly names: readonly string[] | undefined;
}

/**
 * Where tensors of these shapes are.
 *
 * @throws {RangeError} if there are more or fewer names than tensors
 */
export function tensorsOf({ shapes, names }: CompressorOptions): Tensors {
  if (names !== undefined && names.length !== shapes.length) {
    throw new RangeError(
      `Cannot name the tensors of a compressor: there are ${names.length} names, ${shapes.length} are needed, one for each shape`,
    );
  }
  const sizes = shapes.map(sizeOf);
  const starts = [0];
  for (const size of sizes) starts.push(starts.at(-1)! + size);
  return { n: starts.at(-1)!, starts, sizes, names };
}

/** What `ratio` leaves of each tensor: one element at least, nothing for ratio 0. */
export function keptSizes(sizes: readonly number[], ratio: number): readonly number[] {
  if (ratio !== 0 && !(ratio >= 1)) {
    throw new RangeError(`Cannot compress by ${ratio}: 0 or a number that is not smaller than 1 is needed`);
  }
  return sizes.map((n) => (ratio === 0 ? 0 : Math.min(n, Math.max(1, Math.floor(n / ratio)))));
}

/**
 * The elements of a vector, all of them finite; not to be written.
 *
 * @throws {ShapeError} if it does not have the size of the tensors
 * @throws {DTypeError} if it is neither float32 nor float64
 * @throws {RangeError} if an element is not finite or larger than `largest`
 */
export function readVector(tensors: Tensors, vector: Value, largest: number = Number.MAX_VALUE): Floats {
  const { n, starts } = tensors;
  if (vector.ndim !== 1 || vector.size !== n) {
    throw new ShapeError(
      "compress",
      `Cannot compress ${vector.aval}: its shape is [${vector.shape}], the tensors have ${n} elements and [${n}] is needed`,
    );
  }
  if (vector.dtype !== "float32" && vector.dtype !== "float64") {
    throw new DTypeError(
      "compress",
      `Cannot compress ${vector.aval}: its element type is ${vector.dtype}, float32 or float64 is needed`,
    );
  }
  const data = readable(vector) as Floats;
  const bad = firstOutside(data, largest);
  if (bad < 0) return data;
  const tensor = starts.findLastIndex((start) => start <= bad);
  const needed = largest === Number.MAX_VALUE ? "finite numbers are" : `a size of at most ${largest} is`;
  throw new RangeError(
    `Cannot compress ${labelOf(tensors, tensor)}: element ${bad - starts[tensor]!} is ${data[bad]}, ${needed} needed`,
  );
}

/** A tensor as errors call it: its number, and its name if there are names. */
export function labelOf({ names }: Tensors, tensor: number): string {
  return names === undefined ? `tensor ${tensor}` : `tensor ${tensor} "${names[tensor]}"`;
}

/** An element of a vector as errors call it. */
export function placeOf(tensors: Tensors, element: number): string {
  const tensor = tensors.starts.findLastIndex((start) => start <= element);
  return `element ${element - tensors.starts[tensor]!} of ${labelOf(tensors, tensor)}`;
}

/** The position of the first element that is NaN or larger than `largest`; -1 if there is none. */
function firstOutside(data: Floats, largest: number): number {
  // NaN fails the comparison as well.
  for (let i = 0; i < data.length; i++) if (!(Math.abs(data[i]!) <= largest)) return i;
  return -1;
}

/** A new array of the element type of another. */
export function floatsLike(like: TypedArray, size: number): Floats {
  return like instanceof Float64Array ? new Float64Array(size) : new Float32Array(size);
}

/** A vector of these elements, which belong to it from here on. */
export function vectorOf(data: TypedArray): Tensor {
  return placed(adopt(data, [data.length], dtypeOf(data)));
}

/** The element type of vectors, if it is one of those that are compressed. */
export function checkedDtype(dtype: DType): "float32" | "float64" {
  if (dtype === "float32" || dtype === "float64") return dtype;
  throw new DTypeError("compress", `Cannot compress vectors of ${dtype}: float32 or float64 is needed`);
}

/** Sum of sizes. */
export function total(sizes: readonly number[]): number {
  return sizes.reduce((a, b) => a + b, 0);
}

/** A copy of the elements at these indices. */
export function gathered(data: Floats, indices: Int32Array): Floats {
  const values = floatsLike(data, indices.length);
  for (let i = 0; i < indices.length; i++) values[i] = data[indices[i]!]!;
  return values;
}

/** Zeros but for these values at these indices. */
export function scattered(n: number, indices: Int32Array, values: TypedArray): Floats {
  const data = floatsLike(values, n);
  for (let i = 0; i < indices.length; i++) data[indices[i]!] = values[i]!;
  return data;
}

/** Elements of a vector and where they are; each place at most once. */
export interface Scattered {
  readonly indices: Int32Array;
  readonly values: TypedArray;
}

/** The mean of vectors that are zero elsewhere, bit for bit as if whole vectors were added in the order of the list. */
export function meanOfScattered(n: number, parts: readonly Scattered[]): Floats {
  const mean = floatsLike(parts[0]!.values, n);
  // Only a sum of nothing but negative zeros is one itself; all others come out as numbers are added.
  const negativeZeros = new Map<number, number>();
  for (const { indices, values } of parts) {
    for (let i = 0; i < indices.length; i++) {
      const [place, value] = [indices[i]!, values[i]!];
      mean[place]! += value;
      if (Object.is(value, -0)) negativeZeros.set(place, (negativeZeros.get(place) ?? 0) + 1);
    }
  }
  for (let i = 0; i < n; i++) mean[i]! /= parts.length;
  for (const [place, count] of negativeZeros) if (count === parts.length) mean[place] = -0;
  return mean;
}
