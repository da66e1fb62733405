/**
 * Linear algebra of dense matrices in the last two axes: Cholesky, triangular and general systems, symmetric
 * eigenproblems, QR.
 *
 * The factorizations run on the host in float64 whatever the element type, on every backend; those of 64 columns or more in
 * the LAPACK of the library that multiplies matrices, where there is one. None of them throws for what
 * the elements are, since a compiled program could not: NaN says that there is no answer.
 */
import { Aval } from "../aval.ts";
import { type DType, isFloat, makeArray, type TypedArray } from "../dtype.ts";
import { symmetricEigen } from "../eigen.ts";
import { DTypeError, ShapeError } from "../errors.ts";
import { choleskyFactor, qrFactor, solveSquare, solveTriangle, type Triangle } from "../factor.ts";
import { type Dims, type Draw, definePrimitive, type HostArray, Lin, type Primitive } from "../primitive.ts";
import { range, type Shape, sameShape } from "../shape.ts";
import { adopt, beside, bind, bind1 } from "../trace.ts";
import type { Value } from "../value.ts";
import { dot } from "./contract.ts";
import { add, div, like, mul, neg, sub } from "./elementwise.ts";
import { batchFirst, broadcast, moveAxis, permute, reshape, sumAxes } from "./movement.ts";

// --- matrices in the last two axes -------------------------------------------------------------------------------

/** The axes before the last two. */
const stackOf = (shape: Shape): Shape => shape.slice(0, -2);

function checkMatrix(op: string, a: Aval): void {
  if (!isFloat(a.dtype))
    throw new DTypeError(
      op,
      `Cannot ${op} ${a}: the element type is ${a.dtype}, a float type is needed; cast first`,
    );
  if (a.ndim < 2)
    throw new ShapeError(
      op,
      `Cannot ${op} ${a}: there are ${a.ndim} axes, a matrix in the last two is needed`,
    );
}

function checkSquare(op: string, a: Aval): void {
  checkMatrix(op, a);
  const [rows, columns] = a.shape.slice(-2);
  if (rows !== columns)
    throw new ShapeError(
      op,
      `Cannot ${op} ${a}: the matrix has ${rows} rows and ${columns} columns, a square one is needed`,
    );
}

/** The abstract value of x where a x = b, both of one element type and with the same axes before the matrices. */
function checkSystem(op: string, a: Aval, b: Aval): Aval[] {
  checkSquare(op, a);
  checkMatrix(op, b);
  if (a.dtype !== b.dtype)
    throw new DTypeError(
      op,
      `Cannot ${op} ${a}, ${b}: the element types differ, one type is needed; cast one operand`,
    );
  if (!sameShape(stackOf(a.shape), stackOf(b.shape)) || a.shape.at(-1) !== b.shape.at(-2))
    throw new ShapeError(
      op,
      `Cannot ${op} ${a}, ${b}: the sizes do not fit, a right side with ${a.shape.at(-1)} rows and equal axes before is needed`,
    );
  return [b];
}

/** x y of the matrices in the last two axes. */
function product(x: Value, y: Value): Value {
  const batch = range(x.ndim - 2);
  return dot(x, y, { contract: [[x.ndim - 1], [x.ndim - 2]], batch: [batch, batch] });
}

function transposed(x: Value): Value {
  return permute(x, [...range(x.ndim - 2), x.ndim - 1, x.ndim - 2]);
}

/** (x + xᵀ) / 2 */
function symmetric(x: Value): Value {
  return mul(add(x, transposed(x)), like(x, 0.5));
}

/** Products with a fixed matrix of weights, a function of row and column. */
function weighted(x: Value, weight: (i: number, j: number) => number): Value {
  const [rows, columns] = [x.shape.at(-2)!, x.shape.at(-1)!];
  const data = makeArray(x.dtype, rows * columns);
  for (let i = 0; i < rows; i++) for (let j = 0; j < columns; j++) data[i * columns + j] = weight(i, j);
  const weights = beside(x, adopt(data, [rows, columns], x.dtype));
  return mul(x, broadcast(weights, x.shape, [x.ndim - 2, x.ndim - 1]));
}

const onDiagonal = (i: number, j: number): number => Number(i === j);

/** The batch rule of functions of one matrix: they work on the last two axes. */
function inFront([x]: readonly Value[], [dim]: Dims): Value {
  return moveAxis(x!, dim!, 0);
}

/** The elements in float64: a copy. */
function wide({ data }: HostArray): Float64Array {
  return new Float64Array(data);
}

/** Calls `visit` with each matrix of a stack. */
function forEachMatrix(
  a: Float64Array,
  size: number,
  visit: (matrix: Float64Array, at: number) => void,
): void {
  if (size === 0) return;
  for (let at = 0; at < a.length; at += size) visit(a.subarray(at, at + size), at / size);
}

/** The lower triangle of the symmetric part. */
function makeSymmetric(a: Float64Array, n: number): void {
  for (let i = 0; i < n; i++) for (let j = 0; j < i; j++) a[i * n + j] = (a[i * n + j]! + a[j * n + i]!) / 2;
}

/** The transposes of a stack of matrices, in an array of an element type. */
function transposes(x: Float64Array, rows: number, columns: number, dtype: DType): TypedArray {
  const out = makeArray(dtype, x.length);
  const size = rows * columns;
  for (let at = 0; at < x.length; at += size)
    for (let i = 0; i < rows; i++)
      for (let j = 0; j < columns; j++) out[at + j * rows + i] = x[at + i * columns + j]!;
  return out;
}

function rounded(x: Float64Array, dtype: DType): TypedArray {
  if (dtype === "float64") return x;
  const out = makeArray(dtype, x.length);
  out.set(x);
  return out;
}

/** No axis before the matrices, or one. */
const drawnStack = (draw: Draw): number[] => draw.shape(0, 1);

// --- Cholesky ----------------------------------------------------------------------------------------------------

export const choleskyP: Primitive<null> = definePrimitive({
  name: "cholesky",
  doc: "The lower triangular L with L Lᵀ = (A + Aᵀ) / 2; NaN in the triangle where that is not positive definite.",
  traits: {},
  arity: 1,
  shape([a]) {
    checkSquare("cholesky", a!);
    return [a!];
  },
  // dL = L φ(L⁻¹ dA L⁻ᵀ), φ the lower triangle with half of the diagonal (Murray 2016)
  jvp([a], [da]) {
    const L = bind1(choleskyP, [a!], null);
    if (!da) return [[L], [null]];
    const left = solveTriangular(L, symmetric(da), lowerTriangle);
    const both = solveTriangular(L, transposed(left), lowerTriangle);
    return [
      [L],
      [
        product(
          L,
          weighted(both, (i, j) => (i > j ? 1 : onDiagonal(i, j) / 2)),
        ),
      ],
    ];
  },
  batch: (xs, dims) => [[bind1(choleskyP, [inFront(xs, dims)], null)], [0]],
  cpu([a], [out]) {
    const n = out!.shape.at(-1)!;
    const data = wide(a!);
    forEachMatrix(data, n * n, (matrix) => {
      makeSymmetric(matrix, n);
      choleskyFactor(matrix, n);
    });
    return [rounded(data, out!.dtype)];
  },
  domain(draw) {
    const n = draw.shape(1, 1)[0]!;
    return {
      args: [{ shape: [...drawnStack(draw), n, n], range: [-1, 1], diagonal: [n, n + 2] }],
      params: null,
    };
  },
});

export function cholesky(a: Value): Value {
  return bind1(choleskyP, [a], null);
}

// --- systems of equations ----------------------------------------------------------------------------------------

const lowerTriangle: Triangle = { lower: true, transpose: false, unitDiagonal: false };

/**
 * The right sides of one matrix for a batch of them: its axis becomes columns, so that the matrix is factored once.
 * `null` where the matrix has the batch axis too.
 */
function inColumns(b: Value, dims: Dims, size: number, solved: (b: Value) => Value): Value | null {
  if (dims[0] !== null) return null;
  const last = b.ndim - 1;
  const moved = moveAxis(b, dims[1]!, last);
  const joined = [...moved.shape.slice(0, -2), moved.shape.at(-2)! * size];
  return reshape(solved(reshape(moved, joined)), moved.shape);
}

/** Solves the systems of a stack: `visit` gets each matrix and its right sides as rows. */
function solveEach(
  [a, b]: readonly HostArray[],
  dtype: DType,
  visit: (matrix: Float64Array, rows: Float64Array) => void,
): TypedArray {
  const [n, columns] = b!.aval.shape.slice(-2) as [number, number];
  const sides = transposes(wide(b!), n, columns, "float64") as Float64Array;
  if (sides.length > 0)
    forEachMatrix(wide(a!), n * n, (matrix, at) => {
      visit(matrix, sides.subarray(at * n * columns, (at + 1) * n * columns));
    });
  return transposes(sides, columns, n, dtype);
}

export const triangularSolveP: Primitive<Triangle> = definePrimitive({
  name: "triangularSolve",
  doc: "The X with T X = B, T a triangle of A or its transpose; what is outside of the triangle is not read.",
  traits: {},
  arity: 2,
  shape: ([a, b]) => checkSystem("triangularSolve", a!, b!),
  // dX = T⁻¹ (dB - dT X)
  jvp([a, b], [da, db], triangle) {
    const x = solveTriangular(a!, b!, triangle);
    if (!da) return [[x], [db ? solveTriangular(a!, db, triangle) : null]];
    const { lower, transpose, unitDiagonal } = triangle;
    const inside = weighted(da, (i, j) => Number(lower ? i > j : i < j) + Number(!unitDiagonal && i === j));
    const moved = product(transpose ? transposed(inside) : inside, x);
    return [[x], [solveTriangular(a!, db ? sub(db, moved) : neg(moved), triangle)]];
  },
  transpose([ct], [a, b], triangle) {
    if (!ct || a instanceof Lin || !(b instanceof Lin)) return [null, null];
    return [null, solveTriangular(a!, ct, { ...triangle, transpose: !triangle.transpose })];
  },
  batch([a, b], dims, size, triangle) {
    const x = inColumns(b!, dims, size, (sides) => solveTriangular(a!, sides, triangle));
    if (x) return [[x], [x.ndim - 1]];
    return [[solveTriangular(batchFirst(a!, dims[0]!, size), batchFirst(b!, dims[1]!, size), triangle)], [0]];
  },
  cpu(args, [out], triangle) {
    const n = out!.shape.at(-2)!;
    return [solveEach(args, out!.dtype, (matrix, rows) => solveTriangle(matrix, n, rows, triangle))];
  },
  domain(draw) {
    const n = draw.shape(1, 1)[0]!;
    const stack = drawnStack(draw);
    return {
      args: [
        { shape: [...stack, n, n], range: [-1 / n, 1 / n], diagonal: [1, 2] },
        { shape: [...stack, n, draw.int(1, 3)] },
      ],
      params: { lower: draw.bool(), transpose: draw.bool(), unitDiagonal: draw.bool() },
    };
  },
});

export function solveTriangular(a: Value, b: Value, triangle: Triangle): Value {
  return bind1(triangularSolveP, [a, b], triangle);
}

export const solveP: Primitive<{ readonly transpose: boolean }> = definePrimitive({
  name: "solve",
  doc: "The X with A X = B, or Aᵀ X = B, by elimination with partial pivoting.",
  traits: {},
  arity: 2,
  shape: ([a, b]) => checkSystem("solve", a!, b!),
  // dX = A⁻¹ (dB - dA X)
  jvp([a, b], [da, db], { transpose }) {
    const x = solveGeneral(a!, b!, transpose);
    if (!da) return [[x], [db ? solveGeneral(a!, db, transpose) : null]];
    const moved = product(transpose ? transposed(da) : da, x);
    return [[x], [solveGeneral(a!, db ? sub(db, moved) : neg(moved), transpose)]];
  },
  transpose([ct], [a, b], { transpose }) {
    if (!ct || a instanceof Lin || !(b instanceof Lin)) return [null, null];
    return [null, solveGeneral(a!, ct, !transpose)];
  },
  batch([a, b], dims, size, { transpose }) {
    const x = inColumns(b!, dims, size, (sides) => solveGeneral(a!, sides, transpose));
    if (x) return [[x], [x.ndim - 1]];
    return [[solveGeneral(batchFirst(a!, dims[0]!, size), batchFirst(b!, dims[1]!, size), transpose)], [0]];
  },
  cpu(args, [out], { transpose }) {
    const n = out!.shape.at(-2)!;
    return [solveEach(args, out!.dtype, (matrix, rows) => solveSquare(matrix, n, rows, transpose))];
  },
  domain(draw) {
    const n = draw.shape(1, 1)[0]!;
    const stack = drawnStack(draw);
    return {
      args: [
        { shape: [...stack, n, n], range: [-1, 1], diagonal: [n, n + 2] },
        { shape: [...stack, n, draw.int(1, 3)] },
      ],
      params: { transpose: draw.bool() },
    };
  },
});

export function solveGeneral(a: Value, b: Value, transpose: boolean): Value {
  return bind1(solveP, [a, b], { transpose });
}

// --- symmetric eigenproblems -------------------------------------------------------------------------------------

export const eighP: Primitive<null> = definePrimitive({
  name: "eigh",
  doc: "Eigenvalues of (A + Aᵀ) / 2, ascending, and unit eigenvectors as columns, their largest component positive.",
  traits: {},
  arity: 1,
  shape([a]) {
    checkSquare("eigh", a!);
    return [new Aval(a!.shape.slice(0, -1), a!.dtype), a!];
  },
  // With M = Vᵀ dA V: dw = diag M, dV = V (F ∘ M), F_ij = 1 / (w_j - w_i) and 0 on the diagonal (Giles 2008)
  jvp([a], [da]) {
    const [w, V] = bind(eighP, [a!], null) as [Value, Value];
    if (!da)
      return [
        [w, V],
        [null, null],
      ];
    const M = product(product(transposed(V), symmetric(da)), V);
    const batch = range(w.ndim - 1);
    const last = w.ndim - 1;
    const gaps = sub(broadcast(w, V.shape, [...batch, last + 1]), broadcast(w, V.shape, [...batch, last]));
    const one = like(V, 1);
    const guarded = add(gaps, weighted(one, onDiagonal));
    const quotients = div(
      weighted(M, (i, j) => 1 - onDiagonal(i, j)),
      guarded,
    );
    return [
      [w, V],
      [sumAxes(weighted(M, onDiagonal), [last + 1]), product(V, quotients)],
    ];
  },
  batch: (xs, dims) => [bind(eighP, [inFront(xs, dims)], null), [0, 0]],
  cpu([a], [values, vectors]) {
    const n = vectors!.shape.at(-1)!;
    const data = wide(a!);
    const w = new Float64Array(values!.size);
    forEachMatrix(data, n * n, (matrix, at) => {
      makeSymmetric(matrix, n);
      const found = symmetricEigen(matrix, n);
      w.set(found.values, at * n);
      matrix.set(found.vectors);
    });
    return [rounded(w, values!.dtype), transposes(data, n, n, vectors!.dtype)];
  },
  domain(draw) {
    const n = draw.shape(1, 1)[0]!;
    return {
      args: [{ shape: [...drawnStack(draw), n, n], range: [-0.2, 0.2], diagonal: [0, 3 * n] }],
      params: null,
    };
  },
});

export function eigh(a: Value): [values: Value, vectors: Value] {
  const [values, vectors] = bind(eighP, [a], null);
  return [values!, vectors!];
}

// --- QR ----------------------------------------------------------------------------------------------------------

export const qrP: Primitive<null> = definePrimitive({
  name: "qr",
  doc: "Q with orthonormal columns and upper triangular R of diagonal >= 0 with Q R = A, of at least as many rows as columns.",
  traits: {},
  arity: 1,
  shape([a]) {
    checkMatrix("qr", a!);
    const [m, n] = a!.shape.slice(-2) as [number, number];
    if (m < n)
      throw new ShapeError(
        "qr",
        `Cannot qr ${a}: there are ${m} rows for ${n} columns, at least ${n} are needed`,
      );
    return [a!, a!.withShape([...stackOf(a!.shape), n, n])];
  },
  // With C = dA R⁻¹, M = Qᵀ C, Ω = tril(M, -1) - tril(M, -1)ᵀ: dQ = C - Q (M - Ω), dR = (M - Ω) R
  jvp([a], [da]) {
    const [Q, R] = bind(qrP, [a!], null) as [Value, Value];
    if (!da)
      return [
        [Q, R],
        [null, null],
      ];
    const C = transposed(
      solveTriangular(R, transposed(da), { lower: false, transpose: true, unitDiagonal: false }),
    );
    const M = product(transposed(Q), C);
    const below = weighted(M, (i, j) => Number(i > j));
    const upper = add(sub(M, below), transposed(below));
    return [
      [Q, R],
      [sub(C, product(Q, upper)), product(upper, R)],
    ];
  },
  batch: (xs, dims) => [bind(qrP, [inFront(xs, dims)], null), [0, 0]],
  cpu([a], [q, r]) {
    const [m, n] = q!.shape.slice(-2) as [number, number];
    const columns = transposes(wide(a!), m, n, "float64") as Float64Array;
    const [qColumns, rRows] = [new Float64Array(q!.size), new Float64Array(r!.size)];
    forEachMatrix(columns, m * n, (matrix, at) => {
      const ofQ = qColumns.subarray(at * m * n, (at + 1) * m * n);
      qrFactor(matrix, m, n, ofQ, rRows.subarray(at * n * n, (at + 1) * n * n));
    });
    return [transposes(qColumns, n, m, q!.dtype), rounded(rRows, r!.dtype)];
  },
  domain(draw) {
    const n = draw.shape(1, 1)[0]!;
    return {
      args: [{ shape: [...drawnStack(draw), n + draw.int(0, 2), n], range: [-1, 1], diagonal: [n, n + 2] }],
      params: null,
    };
  },
});

export function qr(a: Value): [q: Value, r: Value] {
  const [q, r] = bind(qrP, [a], null);
  return [q!, r!];
}
