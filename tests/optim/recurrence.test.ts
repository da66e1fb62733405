/** The pieces of a Lanczos step: what a candidate has inside the space must not matter, nor how columns are cut. */

import { expect, test } from "bun:test";
import {
  advance,
  beginning,
  type Floats,
  measure,
  newRow,
  place,
  type Recurrence,
  withoutOlder,
} from "../../optim/recurrence.ts";
import {
  dot,
  linspace,
  type Matrix,
  maxDifference,
  mulberry32,
  normals,
  orthonormalityError,
  randomRotation,
  type Vector,
  withEigenvalues,
} from "./numbers.ts";

interface Run {
  readonly at: Recurrence;
  readonly rows: number[][];
}

interface Form {
  readonly order: number;
  /** How many columns each shard has. */
  readonly widths?: Vector;
  /** What is added to a product, and to the product without the rows that are there. */
  readonly blur?: (product: Float64Array) => void;
  readonly disturb?: (candidate: Floats, rows: Matrix) => void;
}

/** Steps on shards, whose sums are taken here; every shard has the product, as the one worker of a mean. */
function steps(H: Matrix, start: Vector, { order, widths = [start.length], blur, disturb }: Form): Run {
  const edges = [0];
  for (const width of widths) edges.push(edges.at(-1)! + width);
  const shards: Float64Array[][] = widths.map(() => []);
  const length = Math.hypot(...start);
  let candidate: Floats = Float64Array.from(start, (x) => x / length);
  let at = beginning;
  const rows = (): number[][] => (shards[0] ?? []).map((_, j) => shards.flatMap((own) => [...own[j]!]));
  while (shards[0]!.length < order) {
    const own = (p: number): Float64Array =>
      Float64Array.from(candidate.slice(edges[p]!, edges[p + 1]!) as Floats);
    const parts = shards.map((basis, p) => measure(basis, own(p)));
    const measured = parts.reduce((sum, part) => sum.map((x, i) => x + part[i]!));
    const placed = place(at, measured, "float64");
    if (placed.recurrence.isEnded) return { at: placed.recurrence, rows: rows() };
    const product = Float64Array.from(H, (row) => dot(row, [...candidate]));
    blur?.(product);
    let rest: Floats = product;
    const row = new Float64Array(start.length);
    shards.forEach((basis, p) => {
      const made = newRow(basis, own(p), placed.numbers);
      rest = withoutOlder(rest, made.older, edges[p]!, 1);
      row.set(made.row, edges[p]!);
      basis.push(made.row);
    });
    const next = advance(placed.recurrence, Float64Array.from(rest), row, "float64");
    at = next.recurrence;
    if (at.isEnded) break;
    candidate = next.candidate;
    if (disturb) {
      disturb(candidate, rows());
      const longer = Math.hypot(...candidate);
      candidate = candidate.map((x) => x / longer) as Floats;
      const { diagonal, offDiagonal } = at.t;
      at = { ...at, t: { diagonal, offDiagonal: offDiagonal.with(-1, offDiagonal.at(-1)! * longer) } };
    }
  }
  return { at, rows: rows() };
}

/** max |Q H Qᵀ - T| */
function projectionError(H: Matrix, { at, rows }: Run): number {
  const { diagonal, offDiagonal } = at.t;
  let worst = 0;
  rows.forEach((q, i) => {
    const product = H.map((row) => dot(row, q));
    rows.forEach((p, j) => {
      const t = i === j ? diagonal[i]! : Math.abs(i - j) === 1 ? offDiagonal[Math.min(i, j)]! : 0;
      worst = Math.max(worst, Math.abs(dot(p, product) - t));
    });
  });
  return worst;
}

const uniform = mulberry32(17);
const n = 24;
const H = withEigenvalues([90, 60, ...linspace(-2, 8, n - 2)], randomRotation(uniform, n));
const start = normals(uniform, n);

test("T = Q H Qᵀ, and Q orthonormal", () => {
  const run = steps(H, start, { order: 16 });
  expect(run.rows).toHaveLength(16);
  expect(orthonormalityError(run.rows)).toBeLessThan(1e-13);
  expect(projectionError(H, run)).toBeLessThan(1e-11);
});

test("what a candidate has inside the space, up to as much as outside, changes neither rows nor T", () => {
  const plain = steps(H, start, { order: 16 });
  const noise = mulberry32(3);
  for (const size of [1e-6, 0.01, 0.5]) {
    const run = steps(H, start, {
      order: 16,
      disturb(candidate, rows) {
        const coefficients = normals(noise, rows.length);
        const factor = size / Math.hypot(...coefficients);
        rows.forEach((q, j) => {
          for (let i = 0; i < n; i++) candidate[i] = candidate[i]! + factor * coefficients[j]! * q[i]!;
        });
      },
    });
    expect(orthonormalityError(run.rows)).toBeLessThan(1e-13);
    expect(maxDifference(run.at.t.diagonal, plain.at.t.diagonal)).toBeLessThan(1e-10);
    // The last norm is that of a candidate that nobody has measured.
    expect(
      maxDifference(run.at.t.offDiagonal.slice(0, -1), plain.at.t.offDiagonal.slice(0, -1)),
    ).toBeLessThan(1e-10);
    expect(maxDifference(run.rows.flat(), plain.rows.flat())).toBeLessThan(1e-8);
  }
});

test("rounding of the products is in T once, however many steps follow it", () => {
  for (const size of [1e-7, 1e-5]) {
    const noise = mulberry32(5);
    const run = steps(H, start, {
      order: 16,
      blur(product) {
        const added = normals(noise, n);
        for (let i = 0; i < n; i++) product[i] = product[i]! + size * added[i]!;
      },
    });
    expect(run.rows).toHaveLength(16);
    expect(orthonormalityError(run.rows)).toBeLessThan(1e-12);
    // An element sees the noise of two products, each along one row.
    expect(projectionError(H, run)).toBeLessThan(8 * size);
  }
});

test("cut by columns, empty shards among them: the same steps up to the order of sums", () => {
  const whole = steps(H, start, { order: 16 });
  for (const widths of [[12, 12], [7, 0, 17], Array<number>(n).fill(1)]) {
    const cut = steps(H, start, { order: 16, widths });
    expect(maxDifference(cut.at.t.diagonal, whole.at.t.diagonal)).toBeLessThan(1e-11);
    expect(maxDifference(cut.rows.flat(), whole.rows.flat())).toBeLessThan(1e-9);
  }
});

test("a candidate of which a twentieth is outside the space ends the search, and T has the rows that are there", () => {
  for (const outside of [0, 0.05]) {
    const run = steps(H, start, {
      order: 16,
      disturb(candidate, rows) {
        if (rows.length !== 5) return;
        for (let i = 0; i < n; i++) candidate[i] = outside * candidate[i]! + rows[2]![i]!;
      },
    });
    expect(run.at.isEnded).toBe(true);
    expect([run.rows.length, run.at.t.diagonal.length, run.at.t.offDiagonal.length]).toEqual([5, 5, 5]);
  }
});
