/** Vectors as chunks of cosine coefficients, tensor by tensor, and back. */
import { tensor } from "../../core/create.ts";
import { concat, matmul, permute, reshape, slice } from "../../core/ops.ts";
import { sizeOf } from "../../core/shape.ts";
import type { Value } from "../../core/value.ts";

/** A tensor as a grid of chunks, which are next to each other among the coefficients. */
export interface ChunkGrid {
  /** Where its elements begin in the vector, and its coefficients among all. */
  readonly start: number;
  readonly rows: number;
  readonly columns: number;
  /** The sizes of a chunk, which divide those of the tensor. */
  readonly height: number;
  readonly width: number;
}

/** The linear map from a vector to its coefficients, which keeps lengths, and its inverse. */
export interface CosineChunks {
  readonly grids: readonly ChunkGrid[];
  /** Shapes: `[n]` to `[n]`: the coefficients chunk by chunk. */
  encode(vector: Value): Value;
  /** Shapes: `[n]` to `[n]`. */
  decode(coefficients: Value): Value;
}

/**
 * Cosine transforms of chunks of all tensors. A tensor of more axes is a matrix of its first axis and all others, one with one
 * axis a single row; along each axis chunks are as long as its largest divisor that is not above `chunk`.
 *
 * @param dtype of the vectors
 */
export function cosineChunks(
  shapes: readonly (readonly number[])[],
  chunk: number,
  dtype: "float32" | "float64",
): CosineChunks {
  const bases = new Map<number, Value>();
  const basisOf = (size: number): Value => {
    const known = bases.get(size) ?? tensor(cosineBasis(size), { shape: [size, size], dtype });
    bases.set(size, known);
    return known;
  };
  let end = 0;
  const grids = shapes.map((shape): ChunkGrid => {
    const rows = shape.length < 2 ? 1 : shape[0]!;
    const columns = sizeOf(shape) / Math.max(rows, 1);
    const start = end;
    end += rows * columns;
    return {
      start,
      rows,
      columns,
      height: largestDivisor(rows, chunk),
      width: largestDivisor(columns, chunk),
    };
  });
  const used = grids.filter(({ rows, columns }) => rows * columns > 0);
  const each = (vector: Value, f: (part: Value, grid: ChunkGrid) => Value): Value =>
    concat(
      used.map((grid) => {
        const size = grid.rows * grid.columns;
        return reshape(f(slice(vector, [grid.start], [grid.start + size]), grid), [size]);
      }),
    );
  return {
    grids,
    // B_h X B_wᵀ of every chunk X
    encode: (vector) =>
      each(vector, (part, { rows, columns, height, width }) => {
        const tiles = reshape(part, [rows / height, height, columns / width, width]);
        const chunks = permute(tiles, [0, 2, 1, 3]);
        return matmul(basisOf(height), matmul(chunks, permute(basisOf(width), [1, 0])));
      }),
    // B_hᵀ Y B_w of every chunk Y
    decode: (coefficients) =>
      each(coefficients, (part, { rows, columns, height, width }) => {
        const chunks = reshape(part, [rows / height, columns / width, height, width]);
        const tiles = matmul(permute(basisOf(height), [1, 0]), matmul(chunks, basisOf(width)));
        return permute(tiles, [0, 2, 1, 3]);
      }),
  };
}

/** The orthonormal cosines: row k has `sqrt(2 / n) cos(pi (i + 1/2) k / n)`, row 0 `sqrt(1 / n)`. */
function cosineBasis(n: number): Float64Array {
  const basis = new Float64Array(n * n);
  for (let k = 0; k < n; k++) {
    const scale = Math.sqrt((k === 0 ? 1 : 2) / n);
    for (let i = 0; i < n; i++) basis[k * n + i] = scale * Math.cos((Math.PI * (i + 0.5) * k) / n);
  }
  return basis;
}

function largestDivisor(n: number, most: number): number {
  for (let d = Math.min(n, most); d > 1; d--) if (n % d === 0) return d;
  return 1;
}
