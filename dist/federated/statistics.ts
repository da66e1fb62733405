/**
 * What least squares needs to know of a set of examples: sums of products, in float64. They add, so the model of many
 * clients is that of all their examples together, however these are spread.
 */
import { adoptArray, eye, zeros } from "../../core/create.ts";
import { makeArray } from "../../core/dtype.ts";
import { ShapeError } from "../../core/errors.ts";
import { einsum } from "../../core/ops/contract.ts";
import { gather } from "../../core/ops/indexing.ts";
import { cholesky, triangularSolve } from "../../core/ops/linalg.ts";
import { add, div, mul, sqrt, sub } from "../../core/ops/math.ts";
import { min } from "../../core/ops/reduce.ts";
import { cast, reshape } from "../../core/ops/shape.ts";
import { adopt, scalar } from "../../core/trace.ts";
import type { Value } from "../../core/value.ts";
import type { Payload } from "./method.ts";

/**
 * The sums of a set of examples x with targets y: G = XᵀX and B = XᵀY.
 *
 * Shapes: `gram` is `[d, d]`, `cross` is `[d, c]`, `count` a scalar, all float64.
 *
 * @since 0.2.0
 */
export interface Statistics {
  readonly gram: Value;
  readonly cross: Value;
  /** How many examples there are. */
  readonly count: Value;
}

/**
 * Statistics as they travel: of the symmetric G its lower triangle, row by row.
 *
 * @since 0.2.0
 */
export interface PackedStatistics {
  readonly gram: Value;
  readonly cross: Value;
  readonly count: Value;
}

/**
 * The statistics of examples, with exact float64 products of what float32 numbers hold.
 *
 * Shapes: `x` is `[n, d]`, `y` is `[n, c]`.
 *
 * @throws {ShapeError} if one is not a matrix, or their rows differ
 * @example Two batches are one set
 * ```ts
 * const x = ct.tensor([[1, 2], [3, 4]]);
 * const y = ct.tensor([[1], [0]]);
 * const { gram, cross, count } = ct.dist.statisticsOf(x, y);
 * assertClose(gram, [[10, 14], [14, 20]]);
 * assertClose(cross, [[1], [2]]);
 * assertClose(count, 2);
 * ```
 * @since 0.2.0
 */
export function statisticsOf(x: Value, y: Value): Statistics {
  if (x.ndim !== 2 || y.ndim !== 2 || x.shape[0] !== y.shape[0]) {
    throw new ShapeError(
      "statisticsOf",
      `Cannot take the statistics of ${x.aval} and ${y.aval}: two matrices with as many rows are needed`,
    );
  }
  const [examples, targets] = [cast(x, "float64"), cast(y, "float64")];
  return {
    gram: einsum("ni,nj->ij", examples, examples),
    cross: einsum("ni,nj->ij", examples, targets),
    count: scalar(x.shape[0]!, "float64"),
  };
}

/**
 * The statistics of no examples with d features and c targets.
 *
 * Shapes: none.
 *
 * @example Nothing is added
 * ```ts
 * const some = ct.dist.statisticsOf(ct.ones([3, 2]), ct.ones([3, 1]));
 * assertClose(ct.dist.addStatistics(ct.dist.zeroStatistics(2, 1), some).gram, some.gram);
 * ```
 * @since 0.2.0
 */
export function zeroStatistics(d: number, c: number): Statistics {
  const dtype = "float64";
  return { gram: zeros([d, d], { dtype }), cross: zeros([d, c], { dtype }), count: scalar(0, dtype) };
}

/**
 * The statistics of two sets of examples together.
 *
 * Shapes: both have the same d and c.
 *
 * @throws {ShapeError} if the shapes differ
 * @example A client that comes late
 * ```ts
 * const a = ct.dist.statisticsOf(ct.tensor([[1, 2]]), ct.tensor([[1]]));
 * const b = ct.dist.statisticsOf(ct.tensor([[3, 4]]), ct.tensor([[0]]));
 * assertClose(ct.dist.addStatistics(a, b).gram, [[10, 14], [14, 20]]);
 * ```
 * @since 0.2.0
 */
export function addStatistics(a: Statistics, b: Statistics): Statistics {
  checkAlike("add", a, b);
  return { gram: add(a.gram, b.gram), cross: add(a.cross, b.cross), count: add(a.count, b.count) };
}

/**
 * The statistics without those of a part of the examples: what is unlearned leaves nothing but rounding.
 *
 * Shapes: both have the same d and c.
 *
 * @throws {ShapeError} if the shapes differ
 * @example A client that leaves
 * ```ts
 * const a = ct.dist.statisticsOf(ct.tensor([[1, 2]]), ct.tensor([[1]]));
 * const b = ct.dist.statisticsOf(ct.tensor([[3, 4]]), ct.tensor([[0]]));
 * assertClose(ct.dist.subtractStatistics(ct.dist.addStatistics(a, b), b).gram, a.gram);
 * ```
 * @since 0.2.0
 */
export function subtractStatistics(a: Statistics, b: Statistics): Statistics {
  checkAlike("subtract", a, b);
  return { gram: sub(a.gram, b.gram), cross: sub(a.cross, b.cross), count: sub(a.count, b.count) };
}

function checkAlike(verb: "add" | "subtract", a: Statistics, b: Statistics): void {
  if (a.gram.aval.equals(b.gram.aval) && a.cross.aval.equals(b.cross.aval)) return;
  throw new ShapeError(
    `${verb}Statistics`,
    `Cannot ${verb} statistics of ${a.gram.aval} and ${a.cross.aval}: the others are of ${b.gram.aval} and ${b.cross.aval}, equal shapes are needed`,
  );
}

/**
 * Ridge regression, (G + gamma I)⁻¹ B.
 *
 * Shapes: `[d, c]`, float64.
 *
 * @param what what is fitted, for the error
 * @throws {RangeError} if G + gamma I is singular up to rounding
 * @example A line through the origin
 * ```ts
 * const x = ct.tensor([[1], [2]]);
 * const stats = ct.dist.statisticsOf(x, x.mul(3));
 * assertClose(ct.dist.ridge(stats, 0), [[3]]);
 * assertThrows(() => ct.dist.ridge(ct.dist.zeroStatistics(1, 1), 0), RangeError);
 * ```
 * @since 0.2.0
 */
export function ridge(stats: Statistics, gamma: number, what = "ridge regression"): Value {
  const matrix = add(stats.gram, ridgeTerm(stats.gram, gamma));
  const solution = solvePositive(matrix, stats.cross);
  if (solution) return solution;
  throw new RangeError(
    `Cannot solve ${what}: with gamma ${gamma} the matrix of ${matrix.shape[0]} features is singular up to rounding, a larger gamma is needed`,
  );
}

/** gamma I, of the size of a matrix. */
export function ridgeTerm(matrix: Value, gamma: number): Value {
  return mul(eye(matrix.shape[0]!, matrix.shape[0]!, { dtype: "float64" }), gamma);
}

/** A⁻¹ B by Cholesky's factors; null where A is not positive definite, or so near to it that rounding decides. */
export function solvePositive(a: Value, b: Value): Value | null {
  const lower = cholesky(a);
  // L_ii² / A_ii is what column i has that the earlier ones do not; no scaling of the features changes it.
  const own = div(diagonal(lower), sqrt(diagonal(a)));
  const least = min(own).item();
  if (!(least * least > a.shape[0]! * Number.EPSILON)) return null;
  return triangularSolve(lower, triangularSolve(lower, b), { transpose: true });
}

function diagonal(a: Value): Value {
  const n = a.shape[0]!;
  return gather(
    reshape(a, [n * n]),
    indicesOf(n, (i) => i * n + i),
  );
}

function indicesOf(count: number, at: (i: number) => number): Value {
  return adoptArray(Int32Array.from({ length: count }, (_, i) => at(i)));
}

/**
 * The lower triangle of a symmetric matrix, row by row; of one that is symmetric up to rounding, that of (A + Aᵀ) / 2.
 *
 * Shapes: `[d, d]` becomes `[d (d + 1) / 2]`.
 *
 * @throws {ShapeError} if the operand is not square
 * @example Three of four
 * ```ts
 * const packed = ct.dist.packSymmetric(ct.tensor([[1, 2], [2, 5]]));
 * assertClose(packed, [1, 2, 5]);
 * assertClose(ct.dist.unpackSymmetric(packed, 2), [[1, 2], [2, 5]]);
 * ```
 * @since 0.2.0
 */
export function packSymmetric(matrix: Value): Value {
  const d = matrix.shape[0] ?? 0;
  if (matrix.ndim !== 2 || matrix.shape[1] !== d) {
    throw new ShapeError(
      "packSymmetric",
      `Cannot pack ${matrix.aval}: it is not a square matrix, one is needed`,
    );
  }
  // A loop on the host: gathering by tables of places takes ten times as long.
  const from = matrix.dataSync();
  const packed = makeArray(matrix.dtype, packedSize(d));
  for (let i = 0, k = 0; i < d; i++) {
    for (let j = 0; j <= i; j++, k++) packed[k] = (from[i * d + j]! + from[j * d + i]!) / 2;
  }
  return adopt(packed, [packedSize(d)], matrix.dtype);
}

/**
 * The symmetric matrix of a lower triangle.
 *
 * Shapes: `[d (d + 1) / 2]` becomes `[d, d]`.
 *
 * @throws {ShapeError} if that is not the size of the triangle
 * @example Four of three
 * ```ts
 * assertClose(ct.dist.unpackSymmetric(ct.tensor([1, 2, 5]), 2), [[1, 2], [2, 5]]);
 * ```
 * @since 0.2.0
 */
export function unpackSymmetric(packed: Value, d: number): Value {
  if (packed.ndim !== 1 || packed.size !== packedSize(d)) {
    throw new ShapeError(
      "unpackSymmetric",
      `Cannot unpack ${packed.aval}: a triangle of ${d} rows is needed, ${packedSize(d)} numbers`,
    );
  }
  const from = packed.dataSync();
  const matrix = makeArray(packed.dtype, d * d);
  for (let i = 0, k = 0; i < d; i++) {
    for (let j = 0; j <= i; j++, k++) matrix[i * d + j] = matrix[j * d + i] = from[k]!;
  }
  return adopt(matrix, [d, d], packed.dtype);
}

/** Numbers in a triangle of d rows. */
function packedSize(d: number): number {
  return (d * (d + 1)) / 2;
}

/**
 * Statistics as a client sends them.
 *
 * Shapes: G as `[d (d + 1) / 2]`.
 *
 * @example There and back
 * ```ts
 * const stats = ct.dist.statisticsOf(ct.tensor([[1, 2]]), ct.tensor([[1]]));
 * const packed = ct.dist.packStatistics(stats);
 * assertClose(packed.gram, [1, 2, 4]);
 * assertClose(ct.dist.unpackStatistics(packed, 2).gram, stats.gram);
 * ```
 * @since 0.2.0
 */
export function packStatistics({ gram, cross, count }: Statistics): PackedStatistics {
  return { gram: packSymmetric(gram), cross, count };
}

/**
 * Statistics of d features as they were before they were packed.
 *
 * Shapes: G as `[d, d]`.
 *
 * @throws {ShapeError} if the triangle is not one of d rows
 * @example There and back
 * ```ts
 * const stats = ct.dist.statisticsOf(ct.tensor([[1, 2]]), ct.tensor([[1]]));
 * assertClose(ct.dist.unpackStatistics(ct.dist.packStatistics(stats), 2).gram, stats.gram);
 * ```
 * @since 0.2.0
 */
export function unpackStatistics(payload: Payload, d: number): Statistics {
  const { gram, cross, count } = payload as PackedStatistics;
  return { gram: unpackSymmetric(gram, d), cross, count };
}

/**
 * Bytes of the packed statistics of d features and c targets: 8 (d (d + 1) / 2 + d c + 1).
 *
 * Shapes: none.
 * Units: bytes.
 *
 * @example 512 features and 10 classes
 * ```ts
 * assert(ct.dist.statisticsBytes(512, 10) === 1_091_592);
 * ```
 * @since 0.2.0
 */
export function statisticsBytes(d: number, c: number): number {
  return 8 * (packedSize(d) + d * c + 1);
}
