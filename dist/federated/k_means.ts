/** Groups of points by the centre that is nearest (Lloyd), for clients that are alike. */
import { adoptArray } from "../../core/create.ts";
import { ShapeError } from "../../core/errors.ts";
import { cast } from "../../core/ops/shape.ts";
import { key, uniform } from "../../core/random.ts";
import type { Value } from "../../core/value.ts";

/**
 * What `kMeans` found.
 *
 * Shapes: `centres` is `[groups, d]` of float64, `group` is `[n]` of int32: the nearest centre of each point.
 *
 * @since 0.2.0
 */
export interface Groups {
  readonly centres: Value;
  readonly group: Value;
  /** The sum of the squared distances of the points from their centres. */
  readonly spread: number;
  /** Whether no point changed its group at the end. */
  readonly isSettled: boolean;
}

/**
 * K-means: centres are the means of their groups, and each point is in the group of the nearest centre.
 *
 * Starts from points drawn with probabilities proportional to their squared distance from the centres before (k-means++).
 * A group that loses all its points keeps its centre. Ties go to the first. Of more groups than different points the others
 * stay empty.
 *
 * Shapes: `points` is `[n, d]`.
 * Determinism: the same groups for the same points and seed, in whatever order the points are.
 *
 * @param iterations of moving the centres, at most; default 100
 * @throws {ShapeError} if the points are not a matrix
 * @throws {RangeError} if there is no point or no group, or a point is not finite
 * @example Two pairs
 * ```ts
 * const points = ct.tensor([[0, 0], [9, 9], [0, 1], [9, 8]]);
 * const { centres, group, spread } = ct.dist.kMeans(points, 2, { seed: 0 });
 * const [a, b, c, d] = group.toArray() as number[];
 * assert(a === c && b === d && a !== b);
 * assertClose(ct.sum(centres), 18);
 * assertClose(spread, 1);
 * ```
 * @source Arthur, Vassilvitskii 2007, "k-means++: the advantages of careful seeding"
 * @since 0.2.0
 */
export function kMeans(
  points: Value,
  groups: number,
  { seed, iterations = 100 }: { readonly seed: number; readonly iterations?: number },
): Groups {
  if (points.ndim !== 2) {
    throw new ShapeError(
      "kMeans",
      `Cannot group ${points.aval}: it is not a matrix, a row for each point is needed`,
    );
  }
  const [n, d] = points.shape as [number, number];
  const data = cast(points, "float64").dataSync() as Float64Array;
  if (!Number.isInteger(groups) || groups < 1 || n < 1 || !data.every(Number.isFinite)) {
    throw new RangeError(
      `Cannot group ${n} points into ${groups} groups: at least one point, one group, and finite numbers are needed`,
    );
  }
  // In an order of their own, points give the same sums and the same draws wherever they came from.
  const order = Array.from({ length: n }, (_, i) => i).sort((i, j) => compareRows(data, d, i, j));
  const rows = order.map((i) => data.subarray(i * d, (i + 1) * d));
  const centres = drawnCentres(rows, groups, seed);
  const own = new Int32Array(n).fill(-1);
  let isSettled = !moveTo(rows, centres, own);
  for (let step = 0; step < iterations && !isSettled; step++) {
    centre(rows, centres, own);
    isSettled = !moveTo(rows, centres, own);
  }
  const group = new Int32Array(n);
  order.forEach((i, at) => {
    group[i] = own[at]!;
  });
  const spread = rows.reduce((sum, row, at) => sum + squaredDistance(row, centres[own[at]!]!), 0);
  const flat = new Float64Array(groups * d);
  for (const [g, row] of centres.entries()) flat.set(row, g * d);
  return { centres: adoptArray(flat, [groups, d]), group: adoptArray(group), spread, isSettled };
}

function compareRows(data: Float64Array, d: number, i: number, j: number): number {
  for (let k = 0; k < d; k++) {
    const difference = data[i * d + k]! - data[j * d + k]!;
    if (difference !== 0) return difference;
  }
  return 0;
}

function squaredDistance(x: Float64Array, y: Float64Array): number {
  let sum = 0;
  for (let k = 0; k < x.length; k++) sum += (x[k]! - y[k]!) ** 2;
  return sum;
}

/** Points to start from; where all points are centres already, the first again. */
function drawnCentres(rows: readonly Float64Array[], groups: number, seed: number): Float64Array[] {
  const draws = uniform(key(seed), [groups], { dtype: "float64" }).dataSync();
  const distances = new Float64Array(rows.length).fill(1);
  const centres: Float64Array[] = [];
  for (let g = 0; g < groups; g++) {
    const total = distances.reduce((sum, distance) => sum + distance, 0);
    let left = draws[g]! * total;
    let chosen = distances.findLastIndex((distance) => distance > 0);
    for (let i = 0; i < chosen; i++) {
      left -= distances[i]!;
      if (left < 0) chosen = i;
    }
    const next = rows[Math.max(chosen, 0)]!.slice();
    centres.push(next);
    rows.forEach((row, i) => {
      const distance = squaredDistance(row, next);
      distances[i] = g === 0 ? distance : Math.min(distances[i]!, distance);
    });
  }
  return centres;
}

/** Puts each point into the group of the nearest centre; whether one moved. */
function moveTo(rows: readonly Float64Array[], centres: readonly Float64Array[], own: Int32Array): boolean {
  let hasMoved = false;
  rows.forEach((row, i) => {
    let nearest = 0;
    let least = Infinity;
    centres.forEach((c, g) => {
      const distance = squaredDistance(row, c);
      if (distance < least) [nearest, least] = [g, distance];
    });
    hasMoved ||= own[i] !== nearest;
    own[i] = nearest;
  });
  return hasMoved;
}

/** Makes each centre the mean of its group, if there is anyone in it. */
function centre(rows: readonly Float64Array[], centres: readonly Float64Array[], own: Int32Array): void {
  centres.forEach((c, g) => {
    const members = rows.filter((_, i) => own[i] === g);
    if (members.length === 0) return;
    for (let k = 0; k < c.length; k++) {
      c[k] = members.reduce((sum, row) => sum + row[k]!, 0) / members.length;
    }
  });
}
