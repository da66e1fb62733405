/** Plain float64 matrices for references of matrix methods: loops, and an eigensolver that shares nothing with the library's. */
import type { Matrix, Vector } from "./numbers.ts";

export function product(a: Matrix, b: Matrix): number[][] {
  return a.map((row) => b[0]!.map((_, j) => row.reduce((sum, x, k) => sum + x * b[k]![j]!, 0)));
}

export function transposed(a: Matrix): number[][] {
  return a[0]!.map((_, j) => a.map((row) => row[j]!));
}

export function unit(n: number): number[][] {
  return Array.from({ length: n }, (_, i) => Array.from({ length: n }, (_, j) => Number(i === j)));
}

export function rowsOfList(list: Vector, columns: number): number[][] {
  return Array.from({ length: list.length / columns }, (_, i) => list.slice(i * columns, (i + 1) * columns));
}

/** f of corresponding elements. */
export function elementwise(f: (...xs: number[]) => number, ...matrices: readonly Matrix[]): number[][] {
  return matrices[0]!.map((row, i) => row.map((_, j) => f(...matrices.map((m) => m[i]![j]!))));
}

/** Eigenvalues, descending, and unit eigenvectors as rows, by Jacobi's rotations: each makes one element zero. */
export function jacobi(a: Matrix): { values: number[]; vectors: number[][] } {
  const m = a.map((row) => [...row]);
  const n = m.length;
  const v = unit(n);
  for (let sweep = 0; sweep < 60; sweep++) {
    for (let p = 0; p < n; p++) {
      for (let q = p + 1; q < n; q++) {
        if (m[p]![q] === 0) continue;
        const theta = 0.5 * Math.atan2(2 * m[p]![q]!, m[p]![p]! - m[q]![q]!);
        const [c, s] = [Math.cos(theta), Math.sin(theta)];
        const rotateRows = (x: number[][]): void => {
          const [xp, xq] = [x[p]!, x[q]!];
          x[p] = xp.map((y, k) => c * y + s * xq[k]!);
          x[q] = xq.map((y, k) => c * y - s * xp[k]!);
        };
        rotateRows(m);
        for (const row of m) {
          const [x, y] = [row[p]!, row[q]!];
          row[p] = c * x + s * y;
          row[q] = c * y - s * x;
        }
        rotateRows(v);
      }
    }
  }
  const order = m.map((_, i) => i).sort((i, j) => m[j]![j]! - m[i]![i]!);
  return { values: order.map((i) => m[i]![i]!), vectors: order.map((i) => v[i]!) };
}

/** V f(w) Vᵀ of a symmetric matrix. */
export function functionOf(a: Matrix, f: (w: number) => number): number[][] {
  const { values, vectors } = jacobi(a);
  return product(
    transposed(vectors),
    vectors.map((row, i) => row.map((x) => f(values[i]!) * x)),
  );
}

/** Orthonormal columns of a matrix in order, by Gram and Schmidt's rule, twice. */
export function orthonormalColumns(a: Matrix): number[][] {
  const rows: number[][] = [];
  for (const column of transposed(a)) {
    let v = column;
    for (let pass = 0; pass < 2; pass++) {
      for (const row of rows) {
        const c = row.reduce((sum, x, i) => sum + x * v[i]!, 0);
        v = v.map((x, i) => x - c * row[i]!);
      }
    }
    const size = Math.hypot(...v);
    rows.push(v.map((x) => x / size));
  }
  return transposed(rows);
}
