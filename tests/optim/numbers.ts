/** Plain float64 arithmetic for references: nothing here uses the library beyond making and reading tensors. */
import { tensor } from "../../core/create.ts";
import { flatten } from "../../core/tree.ts";
import type { Tensor, Value } from "../../core/value.ts";

export type Vector = readonly number[];
export type Matrix = readonly Vector[];

/** A float64 tensor; a shape may be given for flat data. */
export function f64(data: Vector | Float64Array, shape: readonly number[] = [data.length]): Tensor {
  return tensor(Float64Array.from(data), { shape });
}

/** The elements as plain numbers. */
export function list(x: Value): number[] {
  return Array.from(x.dataSync());
}

/** The rows of a matrix as plain numbers. */
export function rowsOf(x: Value): number[][] {
  const [rows, columns] = x.shape as readonly [number, number];
  const data = list(x);
  return Array.from({ length: rows }, (_, i) => data.slice(i * columns, (i + 1) * columns));
}

export function dot(x: Vector, y: Vector): number {
  return x.reduce((sum, xi, i) => sum + xi * y[i]!, 0);
}

export function length(x: Vector): number {
  return Math.sqrt(dot(x, x));
}

/** The largest difference; NaN if any number is NaN. */
export function maxDifference(x: Vector, y: Vector): number {
  if (x.length !== y.length) return Number.NaN;
  return x.reduce((most, xi, i) => {
    const difference = Math.abs(xi - y[i]!);
    return Number.isNaN(difference) || difference > most ? difference : most;
  }, 0);
}

/** |x - y| / |y|. */
export function relativeError(x: number, y: number): number {
  return Math.abs(x - y) / Math.abs(y);
}

/** The largest element of |V Vᵀ - I|. */
export function orthonormalityError(rows: Matrix): number {
  let most = 0;
  for (let i = 0; i < rows.length; i++) {
    for (let j = 0; j <= i; j++) most = Math.max(most, Math.abs(dot(rows[i]!, rows[j]!) - (i === j ? 1 : 0)));
  }
  return most;
}

/** Vᵀ V as one list: the same for every choice of signs, and of basis inside an eigenspace. */
export function projector(rows: Matrix): number[] {
  const n = rows[0]?.length ?? 0;
  return Array.from({ length: n * n }, (_, index) => {
    const [i, j] = [Math.floor(index / n), index % n];
    return rows.reduce((sum, row) => sum + row[i]! * row[j]!, 0);
  });
}

/** mulberry32: a small generator that every language writes the same way. Uniform in [0, 1). */
export function mulberry32(seed: number): () => number {
  let state = seed | 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/** Normal numbers from a uniform generator, by Box and Muller. */
export function normals(uniform: () => number, count: number): number[] {
  return Array.from(
    { length: count },
    () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform()),
  );
}

/** A random orthogonal matrix: Gram and Schmidt, twice, on normal vectors. */
export function randomRotation(uniform: () => number, n: number): number[][] {
  const rows: number[][] = [];
  while (rows.length < n) {
    let v = normals(uniform, n);
    for (let pass = 0; pass < 2; pass++)
      for (const row of rows) {
        const c = dot(row, v);
        v = v.map((x, i) => x - c * row[i]!);
      }
    const size = length(v);
    rows.push(v.map((x) => x / size));
  }
  return rows;
}

/** Qᵀ diag(values) Q. */
export function withEigenvalues(values: Vector, q: Matrix): number[][] {
  const n = values.length;
  return Array.from({ length: n }, (_, i) =>
    Array.from({ length: n }, (_, j) =>
      values.reduce((sum, value, r) => sum + value * q[r]![i]! * q[r]![j]!, 0),
    ),
  );
}

/** Evenly spaced, both ends included. */
export function linspace(from: number, to: number, count: number): number[] {
  return Array.from({ length: count }, (_, i) => from + ((to - from) * i) / (count - 1));
}

export function median(values: Vector): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)]!;
}

/** Whether two trees of tensors have one structure, the same element types and the same bits. */
export function sameTreeBits(a: unknown, b: unknown): boolean {
  const [[xs, def], [ys, other]] = [flatten(a), flatten(b)];
  return (
    JSON.stringify(def) === JSON.stringify(other) &&
    xs.every((x, i) => {
      const y = ys[i]!;
      return x.aval.equals(y.aval) && bytes(x).equals(bytes(y));
    })
  );
}

function bytes(x: Value): Buffer {
  const data = x.dataSync();
  return Buffer.from(data.buffer, data.byteOffset, data.byteLength);
}
