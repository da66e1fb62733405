/** What the matrices of a preconditioned method weigh: in messages and at the workers. */
import type { Plan } from "./plan.ts";
import {
  factorsDueAt,
  ownedBy,
  ownersOf,
  ownsLayers,
  type PreconditionedMethod,
  rootsDueAt,
} from "./preconditioned.ts";

/** The sums over what one worker owns, and over everything: numbers of elements. */
interface Elements {
  /** Of the matrices themselves. */
  readonly squares: number;
  /** Of their roots, or of their eigenvalues and eigenvectors. */
  readonly roots: number;
  /** Of the weights and biases of layers, and of the layers; only K-FAC has them. */
  readonly weights: number;
  readonly layers: number;
}

function elementsOf(
  { name }: PreconditionedMethod,
  sizes: readonly number[],
  own: readonly number[],
): Elements {
  const total = (of: (i: number) => number): number => own.reduce((sum, i) => sum + of(i), 0);
  const squares = total((i) => sizes[i]! ** 2);
  // Inputs have even numbers, outputs of the same layer follow.
  const isLayer = (i: number): boolean => name === "kfac" && i % 2 === 0;
  return {
    squares,
    roots: name === "kfac" ? squares + total((i) => sizes[i]!) : squares,
    weights: total((i) => (isLayer(i) ? sizes[i]! * sizes[i + 1]! : 0)),
    layers: total((i) => Number(isLayer(i))),
  };
}

/** The registers of such a plan that travel and the memory for matrices, in elements of the parameters. */
export interface MatrixElements {
  readonly registers: Readonly<Record<string, (rank: number) => number>>;
  /** Running means and what is made of them, at one worker. */
  readonly memory: (rank: number) => number;
  /** Vectors like the parameters in the state. */
  readonly vectors: number;
}

/** Sizes of a plan, given the sides of its matrices. */
export function matrixElements(
  plan: Plan,
  method: PreconditionedMethod,
  sizes: readonly number[],
): MatrixElements {
  const n = plan.parameters;
  const owners = ownersOf(method, sizes, plan.workers);
  const all = elementsOf(
    method,
    sizes,
    sizes.map((_, i) => i),
  );
  const ofRank = Array.from({ length: plan.workers }, (_, rank) =>
    elementsOf(method, sizes, ownedBy(owners, rank)),
  );
  const isOwned = ownsLayers(method);
  const held = (rank: number): Elements => (isOwned ? ofRank[rank]! : all);
  return {
    registers: {
      mean: (rank) => (isOwned ? ofRank[rank]!.weights : n),
      factors: () => all.squares,
      meanFactors: (rank) => held(rank).squares,
      root: (rank) => ofRank[rank]!.roots,
      roots: () => all.roots,
      direction: (rank) => ofRank[rank]!.weights + ofRank[rank]!.layers,
      natural: () => n,
      changes: () => all.layers,
    },
    memory: (rank) => held(rank).squares + held(rank).roots,
    // The mean of gradients or the velocity, and the squares of a grafted method that has them.
    vectors: method.name === "kfac" || ["none", "sgd"].includes(method.grafting) ? 1 : 2,
  };
}

/** What is due at the steps of a round, as text: rounds with the same have the same costs. */
export function dueIn(method: PreconditionedMethod, { localSteps }: Plan, round: number): string {
  const steps = Array.from({ length: localSteps }, (_, i) => round * localSteps + i);
  return steps
    .map((step) => Number(factorsDueAt(method, step)) + 2 * Number(rootsDueAt(method, step)))
    .join("");
}
