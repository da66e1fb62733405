/** Element types and the host arrays that store them. */
import { DTypeError } from "./errors.ts";

/**
 * The element type of a tensor. Programs print the short names f32, f64, i32, u32, bool, f16.
 *
 * float16 is for storage: every operation computes in float32 and rounds its result once.
 *
 * @since 0.1.0
 */
export type DType = "float32" | "float64" | "int32" | "uint32" | "bool" | "float16";

/**
 * Host storage of any tensor; `bool` is one byte per element, 0 or 1.
 *
 * @since 0.1.0
 */
export type TypedArray = Float32Array | Float64Array | Int32Array | Uint32Array | Uint8Array | Float16Array;

interface DTypeInfo {
  readonly short: string;
  readonly bytes: number;
  readonly float: boolean;
  make(size: number): TypedArray;
  /** Elements in memory that is there. */
  on(buffer: ArrayBuffer, offset: number, size: number): TypedArray;
}

const table: Readonly<Record<DType, DTypeInfo>> = {
  float32: {
    short: "f32",
    bytes: 4,
    float: true,
    make: (size) => new Float32Array(size),
    on: (buffer, offset, size) => new Float32Array(buffer, offset, size),
  },
  float64: {
    short: "f64",
    bytes: 8,
    float: true,
    make: (size) => new Float64Array(size),
    on: (buffer, offset, size) => new Float64Array(buffer, offset, size),
  },
  int32: {
    short: "i32",
    bytes: 4,
    float: false,
    make: (size) => new Int32Array(size),
    on: (buffer, offset, size) => new Int32Array(buffer, offset, size),
  },
  uint32: {
    short: "u32",
    bytes: 4,
    float: false,
    make: (size) => new Uint32Array(size),
    on: (buffer, offset, size) => new Uint32Array(buffer, offset, size),
  },
  bool: {
    short: "bool",
    bytes: 1,
    float: false,
    make: (size) => new Uint8Array(size),
    on: (buffer, offset, size) => new Uint8Array(buffer, offset, size),
  },
  float16: {
    short: "f16",
    bytes: 2,
    float: true,
    make: (size) => new (halves())(size),
    on: (buffer, offset, size) => new (halves())(buffer, offset, size),
  },
};

/** Engines before 2025 have no such arrays. */
const hasHalves: boolean = typeof Float16Array !== "undefined";

function halves(): Float16ArrayConstructor {
  if (hasHalves) return Float16Array;
  throw new DTypeError(
    "float16",
    "Cannot make float16 elements: this host has no Float16Array, a newer one is needed; use float32",
  );
}

/**
 * Every element type, in the order of the documentation.
 *
 * @example Zeros of every type
 * ```ts
 * assert(ct.dtypes.every((dtype) => ct.zeros([1], { dtype }).dtype === dtype));
 * ```
 * @since 0.1.0
 */
export const dtypes: readonly DType[] = Object.keys(table) as DType[];

/** Short name as programs print it: `f32` for `float32`. */
export function shortName(dtype: DType): string {
  return table[dtype].short;
}

/** Bytes of one element. */
export function bytesPerElement(dtype: DType): number {
  return table[dtype].bytes;
}

/** Whether the element type carries derivatives. */
export function isFloat(dtype: DType): boolean {
  return table[dtype].float;
}

/** A zero-filled host array of `size` elements. */
export function makeArray(dtype: DType, size: number): TypedArray {
  return table[dtype].make(size);
}

/** The elements in these bytes, which must begin at a multiple of the size of one. */
export function arrayOn(
  dtype: DType,
  { buffer, byteOffset, byteLength }: Uint8Array<ArrayBuffer>,
): TypedArray {
  const { on, bytes } = table[dtype];
  return on(buffer, byteOffset, byteLength / bytes);
}

/** Whether a string names an element type. */
export function isDType(name: unknown): name is DType {
  return typeof name === "string" && Object.hasOwn(table, name);
}

/**
 * The element type whose storage the typed array is; `Uint8Array` is read as `bool`.
 *
 * @throws {DTypeError} for arrays that store no element type, such as `Int16Array`
 */
export function dtypeOf(data: TypedArray): DType {
  if (data instanceof Float32Array) return "float32";
  if (data instanceof Float64Array) return "float64";
  if (data instanceof Int32Array) return "int32";
  if (data instanceof Uint32Array) return "uint32";
  if (data instanceof Uint8Array) return "bool";
  if (hasHalves && data instanceof Float16Array) return "float16";
  const { name } = (data as object).constructor;
  throw new DTypeError(
    "dtypeOf",
    `Cannot store elements in ${name}: it belongs to no element type, a Float32Array, Float64Array, Int32Array, Uint32Array, Uint8Array or Float16Array is needed`,
  );
}
