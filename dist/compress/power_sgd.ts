/** Matrices as products of two thin ones, which are averaged one after the other. */
import { bytesPerElement, type DType, makeArray } from "../../core/dtype.ts";
import { sizeOf } from "../../core/shape.ts";
import { readable, type Value } from "../../core/value.ts";
import type { CompressorOptions } from "./compressor.ts";
import { checkSeed, draws } from "./seeds.ts";
import { checkedDtype, type Floats, floatsLike, readVector, tensorsOf, vectorOf } from "./tensors.ts";

/**
 * Options of PowerSGD.
 *
 * @since 0.2.0
 */
export interface PowerSgdOptions extends CompressorOptions {
  /** Columns of the factors; of small matrices as many as they have rows or columns. */
  readonly rank: number;
  readonly seed: number;
}

/**
 * The right factors from which the next step starts, the same at all workers: for each matrix r orthonormal vectors of as many
 * elements as it has columns.
 *
 * @since 0.2.0
 */
export interface PowerSgdState {
  readonly right: Value;
}

/**
 * What is averaged first: the left factors P of all matrices, and the tensors that are sent whole.
 *
 * @since 0.2.0
 */
export interface PowerSgdFirst {
  readonly left: Value;
  readonly dense: Value;
}

/**
 * What PowerSGD gives in the end.
 *
 * @since 0.2.0
 */
export interface PowerSgdResult {
  /** The mean of the workers' approximations `[n]`, the same bits at all workers. */
  readonly mean: Value;
  /** This worker's approximation `[n]` of its own vector. */
  readonly own: Value;
  readonly state: PowerSgdState;
}

/**
 * The mean of vectors in two exchanges: of what `first` gives, then of what `second` gives, plain means in the order of ranks.
 *
 * @since 0.2.0
 */
export interface PowerSgd {
  readonly name: string;
  init(dtype?: DType): PowerSgdState;
  /** P = M Q of each matrix M. Shapes: `vector`: `[n]`. */
  first(vector: Value, state: PowerSgdState): PowerSgdFirst;
  /** Q = Mᵀ P̂ of each matrix, P̂ the orthonormalized mean of P. Shapes: `vector`: `[n]`, the one that `first` got. */
  second(vector: Value, meanFirst: PowerSgdFirst): Value;
  /** P̂ Qᵀ with the mean of Q, and with the worker's own. */
  result(vector: Value, meanFirst: PowerSgdFirst, meanSecond: Value): PowerSgdResult;
  /** Bytes of the tensor elements of each payload, of a vector of this element type; default float32. */
  bytes(dtype?: DType): { readonly first: number; readonly second: number };
  /** Numbers sent for a vector. */
  readonly sends: number;
}

/** One matrix of the vector, and where its factors are in theirs. */
interface Matrix {
  readonly tensor: number;
  readonly start: number;
  readonly rows: number;
  readonly columns: number;
  readonly rank: number;
  readonly left: number;
  readonly right: number;
}

/** A tensor that is sent whole. */
interface Whole {
  readonly start: number;
  readonly size: number;
  readonly dense: number;
}

/**
 * PowerSGD: one step of subspace iteration for each matrix, from the factors of the step before. A tensor of more axes is a
 * matrix of its first axis and all others; one with fewer, or whose factors are not smaller than itself, is sent whole.
 *
 * The mean is P̂ P̂ᵀ mean(M): exact for matrices whose rank is at most `rank`. Columns of P or Q that depend on others, or are
 * zero, are replaced by drawn ones, so that a matrix of zeros leaves factors that can be used.
 *
 * Determinism: what all workers share is computed in float64 on the host, the same bits everywhere.
 *
 * @throws {RangeError} if the rank is not a positive integer, or the seed is not a non-negative integer
 * @example A matrix of rank one
 * ```ts
 * const method = ct.dist.powerSgd({ shapes: [[3, 4]], rank: 1, seed: 0 });
 * const vector = ct.matmul(ct.tensor([[1], [2], [3]]), ct.tensor([[1, 0, 2, 1]])).reshape([12]);
 * const first = method.first(vector, method.init());
 * const second = method.second(vector, first);
 * assertClose(method.result(vector, first, second).mean, vector);
 * ```
 * @source Vogels, Karimireddy & Jaggi 2019, "PowerSGD: practical low-rank gradient compression for distributed optimization"
 * @since 0.2.0
 */
export function powerSgd(options: PowerSgdOptions): PowerSgd {
  const { rank, seed, shapes } = options;
  if (!Number.isInteger(rank) || rank < 1) {
    throw new RangeError(`Cannot factor matrices with rank ${rank}: a positive integer is needed`);
  }
  checkSeed(seed, "draw factors");
  const tensors = tensorsOf(options);
  const { matrices, wholes, leftSize, rightSize, denseSize } = partsOf(shapes, rank);

  const leftOf = (mean: PowerSgdFirst): Float64Array<ArrayBuffer> => {
    const left = Float64Array.from(readable(mean.left));
    for (const { tensor, left: at, rows, rank: r } of matrices)
      orthonormalize(left, at, rows, r, [seed, 0, tensor]);
    return left;
  };
  const rightOf = (data: Floats, left: Float64Array): Floats => {
    const right = new Float64Array(rightSize);
    for (const matrix of matrices) leftProduct(matrix, data, left, right);
    return roundedLike(data, right);
  };
  const stateOf = (right: Float64Array<ArrayBuffer>, like: Floats): PowerSgdState => {
    for (const { tensor, right: at, columns, rank: r } of matrices)
      orthonormalize(right, at, columns, r, [seed, 1, tensor]);
    return { right: vectorOf(roundedLike(like, right)) };
  };
  const product = (
    left: Float64Array,
    right: Floats,
    dense: Floats,
    denseAt: (whole: Whole) => number,
  ): Value => {
    const data = floatsLike(right, tensors.n);
    for (const matrix of matrices) outerProduct(matrix, left, right, data);
    for (const whole of wholes) {
      const at = denseAt(whole);
      data.set(dense.subarray(at, at + whole.size), whole.start);
    }
    return vectorOf(data);
  };

  return {
    name: "powersgd",
    init: (dtype = "float32") =>
      stateOf(new Float64Array(rightSize), makeArray(checkedDtype(dtype), 0) as Floats),
    first(vector, state) {
      const data = readVector(tensors, vector);
      const right = readable(state.right) as Floats;
      const left = new Float64Array(leftSize);
      for (const matrix of matrices) rightProduct(matrix, data, right, left);
      const dense = floatsLike(data, denseSize);
      for (const { start, size, dense: at } of wholes) dense.set(data.subarray(start, start + size), at);
      return { left: vectorOf(roundedLike(data, left)), dense: vectorOf(dense) };
    },
    second(vector, meanFirst) {
      return vectorOf(rightOf(readVector(tensors, vector), leftOf(meanFirst)));
    },
    result(vector, meanFirst, meanSecond) {
      const data = readVector(tensors, vector);
      const left = leftOf(meanFirst);
      const meanRight = readable(meanSecond) as Floats;
      const meanDense = readable(meanFirst.dense) as Floats;
      return {
        mean: product(left, meanRight, meanDense, ({ dense }) => dense),
        own: product(left, rightOf(data, left), data, ({ start }) => start),
        state: stateOf(Float64Array.from(meanRight), data),
      };
    },
    bytes(dtype = "float32") {
      const each = bytesPerElement(checkedDtype(dtype));
      return { first: (leftSize + denseSize) * each, second: rightSize * each };
    },
    sends: leftSize + denseSize + rightSize,
  };
}

/** Which tensors are factored, and where all parts are. */
function partsOf(
  shapes: readonly (readonly number[])[],
  rank: number,
): {
  readonly matrices: readonly Matrix[];
  readonly wholes: readonly Whole[];
  readonly leftSize: number;
  readonly rightSize: number;
  readonly denseSize: number;
} {
  const matrices: Matrix[] = [];
  const wholes: Whole[] = [];
  let [start, left, right, dense] = [0, 0, 0, 0];
  for (const [tensor, shape] of shapes.entries()) {
    const size = sizeOf(shape);
    const rows = shape[0] ?? 1;
    const columns = sizeOf(shape.slice(1));
    const r = Math.min(rank, rows, columns);
    if (shape.length >= 2 && r * (rows + columns) < size) {
      matrices.push({ tensor, start, rows, columns, rank: r, left, right });
      left += r * rows;
      right += r * columns;
    } else {
      wholes.push({ start, size, dense });
      dense += size;
    }
    start += size;
  }
  return { matrices, wholes, leftSize: left, rightSize: right, denseSize: dense };
}

/** P = M Q, column by column. */
function rightProduct(
  { start, rows, columns, rank, left: leftAt, right: rightAt }: Matrix,
  data: Floats,
  right: Floats,
  left: Float64Array,
): void {
  for (let i = 0; i < rows; i++) {
    const row = start + i * columns;
    for (let a = 0; a < rank; a++) {
      const q = rightAt + a * columns;
      let sum = 0;
      for (let j = 0; j < columns; j++) sum += data[row + j]! * right[q + j]!;
      left[leftAt + a * rows + i] = sum;
    }
  }
}

/** Q = Mᵀ P, column by column. */
function leftProduct(
  { start, rows, columns, rank, left: leftAt, right: rightAt }: Matrix,
  data: Floats,
  left: Float64Array,
  right: Float64Array,
): void {
  for (let i = 0; i < rows; i++) {
    const row = start + i * columns;
    for (let a = 0; a < rank; a++) {
      const q = rightAt + a * columns;
      const p = left[leftAt + a * rows + i]!;
      for (let j = 0; j < columns; j++) right[q + j] = right[q + j]! + data[row + j]! * p;
    }
  }
}

/** M = P Qᵀ, added up in float64. */
function outerProduct(
  { start, rows, columns, rank, left: leftAt, right: rightAt }: Matrix,
  left: Float64Array,
  right: Floats,
  data: Floats,
): void {
  const row = new Float64Array(columns);
  for (let i = 0; i < rows; i++) {
    row.fill(0);
    for (let a = 0; a < rank; a++) {
      const q = rightAt + a * columns;
      const p = left[leftAt + a * rows + i]!;
      for (let j = 0; j < columns; j++) row[j] = row[j]! + p * right[q + j]!;
    }
    data.set(row, start + i * columns);
  }
}

/** What is left of a vector in directions that it does not have is rounding below this. */
const DEPENDENT: number = 2 ** -40;

/**
 * Makes `rank` vectors of `size` elements orthonormal, one after another (Gram-Schmidt, as often as it takes). One that depends
 * on those before it, or is zero, is drawn again: uniform numbers, since those are the same in every engine.
 */
function orthonormalize(
  data: Float64Array,
  at: number,
  size: number,
  rank: number,
  name: readonly number[],
): void {
  for (let a = 0; a < rank; a++) {
    const v = data.subarray(at + a * size, at + (a + 1) * size);
    let drawn = 0;
    let whole = normOf(v);
    for (let length = whole; ; ) {
      const before = length;
      for (let b = 0; b < a; b++) removeDirection(v, data.subarray(at + b * size, at + (b + 1) * size));
      length = normOf(v);
      if (!(length > DEPENDENT * whole)) {
        const { uniform } = draws([...name, a, drawn++]);
        for (let i = 0; i < size; i++) v[i] = 2 * uniform() - 1;
        length = whole = normOf(v);
      } else if (2 * length > before) {
        for (let i = 0; i < size; i++) v[i] = v[i]! / length;
        break;
      }
    }
  }
}

/** v ← v - (v · u) u. */
function removeDirection(v: Float64Array, u: Float64Array): void {
  let dot = 0;
  for (let i = 0; i < v.length; i++) dot += v[i]! * u[i]!;
  for (let i = 0; i < v.length; i++) v[i] = v[i]! - dot * u[i]!;
}

function normOf(v: Float64Array): number {
  let sum = 0;
  for (let i = 0; i < v.length; i++) sum += v[i]! * v[i]!;
  return Math.sqrt(sum);
}

/** The same numbers in the element type of a vector. */
function roundedLike(like: Floats, data: Float64Array<ArrayBuffer>): Floats {
  return like instanceof Float64Array ? data : Float32Array.from(data);
}
