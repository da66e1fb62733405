/**
 * Lanczos over workers. Each keeps its columns of the basis and its own Hessian; vectors go round whole, and sums over
 * workers are taken at the hub in the order of ranks. Nothing here knows how the eigenpairs are used.
 */
import { hessianOperator, type LinearOperator } from "../../autodiff/operator.ts";
import type { DType, TypedArray } from "../../core/dtype.ts";
import { cast } from "../../core/ops.ts";
import * as random from "../../core/random.ts";
import { adopt, scalar } from "../../core/trace.ts";
import { readable, type Value } from "../../core/value.ts";
import {
  foundBy,
  type HostSearch,
  hostSearch,
  ritzPairs,
  searchedFurther,
  startVector,
} from "../../optim/lanczos.ts";
import {
  advance,
  beginning,
  combine,
  type Floats,
  measure,
  newRow,
  place,
  type Recurrence,
  withoutOlder,
} from "../../optim/recurrence.ts";
import { columnsOf, orderOf, type Plan } from "../plan.ts";
import type { Jobs } from "../runtime/driver.ts";
import { doubles, job, sumOf, value, vector } from "./registers.ts";

/** What is looked for, and by how many. */
export interface Search {
  readonly workers: number;
  readonly parameters: number;
  readonly k: number;
  readonly l: number;
  readonly order: number;
  readonly reduce: "mean" | "rank0";
  readonly seed: number;
  /** The element type of parameters and products. */
  readonly dtype: DType;
}

/** The search of a plan, if it has one. */
export function searchOf(plan: Plan, dtype: DType): Search | null {
  const { curvature, workers, parameters, seed } = plan;
  if (!curvature) return null;
  const { k, l, reduce } = curvature;
  return { workers, parameters, k, l, order: orderOf(plan), reduce, seed, dtype };
}

/** Eigenpairs without their vectors, as they travel: the smallest ascending, then the largest ascending. */
export interface Pairs {
  /** f64[pairs] */
  readonly values: Value;
  /** Estimates of |H v - value v|; f64[pairs]. */
  readonly residuals: Value;
  /** How many of the pairs are of the largest eigenvalues; i32[]. */
  readonly largest: Value;
}

/** Eigenpairs as they travel. */
export interface Curvature extends Pairs {
  /** Unit vectors as rows, whole or a worker's own columns of them; [pairs, columns]. */
  readonly vectors: Value;
}

/** The computations of one worker, from `open` to `vectors`; `operator` and `basis` are registers of the search alone. */
export function searchWorkerJobs<B>(
  search: Search,
  { objective, batch }: { objective(theta: Value, batch: B): Value; batch(round: number): B },
  rank: number,
): Jobs {
  const { dtype, reduce, workers } = search;
  const [start, end] = columnsOf(search, rank);
  const idle = reduce === "rank0" && rank !== 0;
  const columns = (v: unknown): Float64Array => new Float64Array(readable(value(v)).subarray(start, end));
  return {
    open: job(([theta], { round }) => ({
      outs: [hessianOperator(objective, value(theta), batch(round)), []],
    })),
    coefficients: job(([basis, v]) => ({ outs: [vector(measure(rowsIn(basis), columns(v)))] })),
    product: job(([operator, basis, v, numbers]) => {
      const { row, older } = newRow(rowsIn(basis), columns(v), doubles(numbers));
      const product = idle
        ? withoutOlder(zerosIn(dtype, end - start), older, 0, 1)
        : // In a mean a worker's own columns count one in so many.
          withoutOlder(
            readable((operator as LinearOperator).apply(value(v))) as Floats,
            older,
            start,
            reduce === "mean" ? workers : 1,
          );
      return { outs: [floats(product), [...rowsIn(basis), row], inDType(row, dtype)] };
    }),
    vectors: job(([basis, rows]) => ({ outs: [ownColumns(basis, value(rows), search.dtype)] })),
  };
}

/** The computations of a worker that searches alone, with the same bits; the register `basis` has the search. */
export function loneSearchJobs<B>(
  { parameters, dtype, seed, order, k, l }: Search,
  { objective, batch }: { objective(theta: Value, batch: B): Value; batch(round: number): B },
): Jobs {
  return {
    openAlone: job(([theta], { round }) => {
      const key = random.foldIn(random.key(seed), round);
      return {
        outs: [
          hessianOperator(objective, value(theta), batch(round)),
          hostSearch({ key }, parameters, dtype),
        ],
      };
    }),
    productAlone: job(([operator, search]) => {
      const next = searchedFurther(operator as LinearOperator, order, search as HostSearch);
      return { outs: [next], notes: [Number(next.isEnded)] };
    }),
    vectorsAlone: job(([search]) => {
      const { values, residuals, vectors, largest } = foundBy(search as HostSearch, k, l);
      const curvature: Curvature = {
        values,
        residuals,
        largest: scalar(largest, "int32"),
        vectors: cast(vectors, dtype),
      };
      return { outs: [curvature] };
    }),
  };
}

/** The columns of the eigenvectors of a worker that has those of the basis; `rows` are eigenvectors of T. */
export function ownColumns(basis: unknown, rows: Value, dtype: DType): Value {
  const [pairs, order] = rows.shape as readonly [number, number];
  const [own, chosen] = [rowsIn(basis), doubles(rows)];
  const width = own[0]!.length;
  const columns = new Float64Array(pairs * width);
  for (let j = 0; j < pairs; j++)
    columns.set(combine(own, chosen.subarray(j * order, (j + 1) * order), width), j * width);
  return cast(adopt(columns, [pairs, width], "float64"), dtype);
}

const zerosIn = (dtype: DType, size: number): Floats =>
  dtype === "float64" ? new Float64Array(size) : new Float32Array(size);

/** As a register; the array must not change any more. */
const floats = (data: Floats): Value =>
  adopt(data, [data.length], data instanceof Float64Array ? "float64" : "float32");

const inDType = (data: Float64Array<ArrayBuffer>, dtype: DType): Value =>
  floats(dtype === "float64" ? data : new Float32Array(data));

const rowsIn = (basis: unknown): readonly Float64Array[] => basis as readonly Float64Array[];

/** The computations of the hub, from `start` to `ritz`, and the eigenvectors as one matrix. */
export function searchHubJobs(search: Search): Jobs {
  const { workers, parameters, k, l, order, seed, dtype } = search;
  return {
    start: job((_ins, { round }) => {
      const key = random.foldIn(random.key(seed), round);
      return { outs: [inDType(startVector({ key }, parameters), dtype), beginning] };
    }),
    place: job(([at, ...parts]) => {
      const { recurrence, numbers } = place(at as Recurrence, sumOfParts(parts), dtype);
      return { outs: [recurrence, vector(numbers)] };
    }),
    product: job(([at, ...answers]) => {
      const recurrence = at as Recurrence;
      // The space was found to be complete while the workers were still to make a product.
      if (recurrence.isEnded) return { outs: [recurrence, null], notes: [1] };
      const product = sumOfProducts(search, answers.slice(0, workers));
      const row = readable(joinColumns(search, answers.slice(workers).map(value))) as Floats;
      const next = advance(recurrence, product, row, dtype);
      const ended = next.recurrence.isEnded || next.recurrence.t.diagonal.length >= order;
      return { outs: [next.recurrence, floats(next.candidate)], notes: [Number(ended)] };
    }),
    sum: sumOf,
    ritz: job(([at]) => {
      const { t } = at as Recurrence;
      const { values, residuals, rows, largest } = ritzPairs(t, k, l);
      const steps = t.diagonal.length;
      const chosen = new Float64Array(rows.length * steps);
      rows.forEach((row, j) => {
        chosen.set(row, j * steps);
      });
      const pairs: Pairs = {
        values: vector(Float64Array.from(values)),
        residuals: vector(Float64Array.from(residuals)),
        largest: scalar(largest, "int32"),
      };
      return { outs: [adopt(chosen, [rows.length, steps], "float64"), pairs] };
    }),
    curvature: job(([pairs, ...columns]) => {
      const vectors = joinColumns(search, columns.map(value));
      const curvature: Curvature = { ...(pairs as Pairs), vectors };
      return { outs: [curvature], notes: pairNotes(pairs as Pairs) };
    }),
  };
}

/** The sum in the order of ranks. */
function sumOfParts(parts: readonly unknown[]): Float64Array {
  return parts.map(doubles).reduce((sum, part) => {
    addTo(sum, part, 0);
    return sum;
  });
}

/** The mean of the workers' products, in the order of ranks; or that of worker 0, with what the others take from it. */
function sumOfProducts(search: Search, answers: readonly unknown[]): Float64Array<ArrayBuffer> {
  const sum = new Float64Array(search.parameters);
  answers.forEach((answer, rank) => {
    const elements = readable(value(answer));
    const isWhole = search.reduce === "mean" || rank === 0;
    addTo(sum, elements, isWhole ? 0 : columnsOf(search, rank)[0]);
  });
  if (search.reduce === "mean") for (let i = 0; i < sum.length; i++) sum[i] = sum[i]! / search.workers;
  return sum;
}

/** A function of its own: compilers see one loop for each type of array. */
function addTo(sum: Float64Array, elements: TypedArray, start: number): void {
  for (let i = 0; i < elements.length; i++) sum[start + i] = sum[start + i]! + elements[i]!;
}

/** What is reported about a refresh: the eigenvalues, then their residuals. */
export function pairNotes({ values, residuals }: Pairs): number[] {
  return [...values.dataSync(), ...residuals.dataSync()];
}

/** The workers' columns side by side: of a matrix [rows, n], or of a vector [n]. */
export function joinColumns(
  { workers, parameters }: Pick<Plan, "workers" | "parameters">,
  columns: readonly Value[],
): Value {
  const { shape, dtype } = columns[0]!;
  const rows = shape.slice(0, -1);
  const height = rows[0] ?? 1;
  const data =
    dtype === "float64" ? new Float64Array(height * parameters) : new Float32Array(height * parameters);
  for (let rank = 0; rank < workers; rank++) {
    const [start, end] = columnsOf({ workers, parameters }, rank);
    const [elements, width] = [readable(columns[rank]!), end - start];
    for (let j = 0; j < height; j++)
      data.set(elements.subarray(j * width, (j + 1) * width), j * parameters + start);
  }
  return adopt(data, [...rows, parameters], dtype);
}
