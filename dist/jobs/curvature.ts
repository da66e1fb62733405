/**
 * Lanczos over workers. Each keeps its columns of the basis and its own Hessian; vectors go round whole, and sums over
 * workers are taken at the hub in the order of ranks. Nothing here knows how the eigenpairs are used.
 */
import { hessianOperator, type LinearOperator } from "../../autodiff/operator.ts";
import type { DType } from "../../core/dtype.ts";
import { cast } from "../../core/ops.ts";
import * as random from "../../core/random.ts";
import { adopt, scalar } from "../../core/trace.ts";
import type { Value } from "../../core/value.ts";
import { meanOf } from "../../optim/admm.ts";
import {
  coefficients,
  combine,
  dot,
  exhausted,
  extend,
  norm,
  ritzPairs,
  scaled,
  startVector,
  subtractProjection,
} from "../../optim/lanczos.ts";
import type { Tridiagonal } from "../../optim/tridiagonal.ts";
import { columnsOf, orderOf, type Plan } from "../plan.ts";
import type { Jobs } from "../runtime/driver.ts";
import { doubles, job, nothing, sumOf, value, vector } from "./registers.ts";

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
  const [start, end] = columnsOf(search, rank);
  const idle = search.reduce === "rank0" && rank !== 0;
  return {
    open: job(([theta], { round }) => ({
      outs: [hessianOperator(objective, value(theta), batch(round)), []],
    })),
    product: job(([operator, basis, v]) => {
      const H = operator as LinearOperator;
      const product = idle ? nothing() : H.apply(cast(value(v), H.dtype));
      return { outs: [product, [...rowsIn(basis), doubles(v).slice(start, end)]] };
    }),
    coefficients: job(([basis, w]) => ({ outs: [vector(coefficients(rowsIn(basis), doubles(w)))] })),
    orthogonalize: job(([basis, w, h]) => {
      const rest = subtractProjection(rowsIn(basis), doubles(h), doubles(w));
      return { outs: [vector(rest), vector(coefficients(rowsIn(basis), rest))] };
    }),
    subtract: job(([basis, w, h]) => ({
      outs: [vector(subtractProjection(rowsIn(basis), doubles(h), doubles(w)))],
    })),
    vectors: job(([basis, rows]) => ({ outs: [ownColumns(basis, value(rows), search.dtype)] })),
  };
}

/** The columns of the eigenvectors of a worker that has those of the basis; `rows` are eigenvectors of T. */
export function ownColumns(basis: unknown, rows: Value, dtype: DType): Value {
  const [pairs, order] = rows.shape as readonly [number, number];
  const [own, chosen] = [rowsIn(basis), doubles(rows)];
  const width = own[0]!.length;
  const columns = new Float64Array(pairs * width);
  for (let j = 0; j < pairs; j++)
    columns.set(combine(own, chosen.slice(j * order, (j + 1) * order)), j * width);
  return cast(adopt(columns, [pairs, width], "float64"), dtype);
}

const rowsIn = (basis: unknown): readonly Float64Array[] => basis as readonly Float64Array[];

/** The computations of the hub, from `start` to `ritz`, and the eigenvectors as one matrix. */
export function searchHubJobs(search: Search): Jobs {
  const { workers, parameters, k, l, order, reduce, seed, dtype } = search;
  return {
    start: job((_ins, { round }) => {
      const key = random.foldIn(random.key(seed), round);
      const empty: Tridiagonal = { diagonal: [], offDiagonal: [] };
      return { outs: [vector(startVector({ key }, parameters)), empty] };
    }),
    product: job(([v, ...products]) => {
      const sources = reduce === "rank0" ? products.slice(0, 1) : products;
      const w = doubles(meanOf(sources.map((p) => vector(doubles(p)))));
      const shards = Array.from({ length: workers }, (_, rank) =>
        vector(w.slice(...columnsOf(search, rank))),
      );
      return { outs: [dot(w, doubles(v)), ...shards] };
    }),
    sum: sumOf,
    next: job(([t, alpha, ...shards]) => {
      const w = new Float64Array(parameters);
      shards.forEach((shard, rank) => {
        w.set(doubles(shard), columnsOf(search, rank)[0]);
      });
      const beta = norm(w);
      const extended = extend(t as Tridiagonal, alpha as number, beta);
      const ended = exhausted(extended, dtype) || extended.diagonal.length >= order;
      return { outs: [extended, vector(ended ? w : scaled(w, 1 / beta))], notes: [Number(ended)] };
    }),
    ritz: job(([t]) => {
      const { values, residuals, rows, largest } = ritzPairs(t as Tridiagonal, k, l);
      const steps = (t as Tridiagonal).diagonal.length;
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
    const [elements, width] = [columns[rank]!.dataSync(), end - start];
    for (let j = 0; j < height; j++)
      data.set(elements.subarray(j * width, (j + 1) * width), j * parameters + start);
  }
  return adopt(data, [...rows, parameters], dtype);
}
