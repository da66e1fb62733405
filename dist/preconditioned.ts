/**
 * The plan of methods that precondition by matrices, Shampoo and K-FAC: their constants, when what is due, and how the
 * matrices are divided among workers.
 */
import type { ShampooGrafting } from "../optim/shampoo.ts";

/** Shampoo, with the constants of `optim.shampoo`; the period is in steps. */
export interface ShampooMethod {
  readonly name: "shampoo";
  readonly learningRate: number;
  readonly beta1: number;
  readonly beta2: number;
  readonly epsilon: number;
  readonly period: number;
  readonly maxDimension: number;
  readonly grafting: ShampooGrafting;
}

/** K-FAC, with the constants of `optim.kfac`; the periods are in steps. */
export interface KfacMethod {
  readonly name: "kfac";
  readonly learningRate: number;
  readonly momentum: number;
  readonly damping: number;
  readonly decay: number;
  readonly klClip: number;
  readonly factorPeriod: number;
  readonly period: number;
  /**
   * What workers tell each other of their layers: `eigenpairs` at every refresh, and each preconditions the whole
   * gradient; or `gradients` at every step, preconditioned by the one worker that has the factors of a layer.
   */
  readonly distribution: "eigenpairs" | "gradients";
}

/** A method whose matrices workers divide among themselves. */
export type PreconditionedMethod = ShampooMethod | KfacMethod;

/** The preconditioned method of a plan; null for the others. */
export function preconditionedOf({
  update,
}: {
  readonly update: { readonly name: string };
}): PreconditionedMethod | null {
  return update.name === "shampoo" || update.name === "kfac" ? (update as PreconditionedMethod) : null;
}

/** Whether the factors of the batches are measured for a step, counted over the whole run. */
export function factorsDueAt(method: PreconditionedMethod, step: number): boolean {
  return method.name === "kfac" && step % method.factorPeriod === 0;
}

/** Whether roots or eigenpairs are computed before a step; the first roots of Shampoo are those of a whole period. */
export function rootsDueAt(method: PreconditionedMethod, step: number): boolean {
  return (method.name === "kfac" ? step : step + 1) % method.period === 0;
}

/** Whether only the owner of a layer has its factors. */
export function ownsLayers(method: PreconditionedMethod): boolean {
  return method.name === "kfac" && method.distribution === "gradients";
}

/**
 * Who does each of several pieces of work: the dearest first, each to the worker that has the least so far. The largest
 * load is at most 4/3 of the least possible.
 *
 * Shapes: one rank for each cost.
 * Determinism: equal costs go in their order, to the first of equally loaded workers.
 *
 * @source Graham 1969, "Bounds on multiprocessing timing anomalies"
 */
export function assigned(costs: readonly number[], workers: number): readonly number[] {
  const loads = Array<number>(workers).fill(0);
  const ranks = Array<number>(costs.length).fill(0);
  const dearestFirst = costs.map((_, i) => i).sort((i, j) => costs[j]! - costs[i]! || i - j);
  for (const i of dearestFirst) {
    const rank = loads.indexOf(Math.min(...loads));
    ranks[i] = rank;
    loads[rank]! += costs[i]!;
  }
  return ranks;
}

/**
 * The owner of each matrix, by what its decomposition costs, n³. With `distribution` gradients the two factors of a layer,
 * which follow each other, have one owner.
 */
export function ownersOf(
  method: PreconditionedMethod,
  sizes: readonly number[],
  workers: number,
): readonly number[] {
  const costs = sizes.map((n) => n ** 3);
  if (!ownsLayers(method)) return assigned(costs, workers);
  const layers = assigned(
    costs.filter((_, i) => i % 2 === 0).map((cost, layer) => cost + costs[2 * layer + 1]!),
    workers,
  );
  return costs.map((_, i) => layers[i >> 1]!);
}

/** The numbers of what a worker owns. */
export function ownedBy(owners: readonly number[], rank: number): readonly number[] {
  return owners.flatMap((owner, i) => (owner === rank ? [i] : []));
}
