/** Tasks without data: functions whose minimum is 0. */
import { jit } from "../../../autodiff/jit.ts";
import { tensor, zeros } from "../../../core/create.ts";
import type { Params } from "../../../core/nn.ts";
import { add, matmul, mul, slice, sub, sum } from "../../../core/ops.ts";
import type { Value } from "../../../core/value.ts";
import { randomStream } from "../../data/random.ts";
import type { Batch, Problem, Task } from "../task.ts";

/** A point of the function's domain: the parameters of these tasks. */
type Point = { readonly x: Value };

/** A problem that has nothing but a function: its loss is the same for every batch. */
function functionProblem(
  name: string,
  target: number,
  start: readonly number[],
  f: (x: Value) => Value,
): Problem {
  const nothing: Batch = { x: zeros([1]), y: zeros([1]) };
  const loss = (params: Params): Value => f((params as Point).x);
  const compiled = jit(loss);
  return {
    name,
    target: { metric: "loss", value: target },
    initial: { x: tensor(start) },
    batchSize: 1,
    stepsPerEpoch: 1,
    loss,
    model: null,
    batch: () => nothing,
    curvatureBatch: () => nothing,
    evaluate: (params) => ({ loss: compiled(params).item(), accuracy: null }),
  };
}

/** Numbers of coordinates of the quadratic functions. */
const SIZE = 100;

/**
 * `f(x) = sum of eigenvalue (q x)^2 / 2`, from 0.5 along every eigenvector but 1 along the second. The eigenvectors are
 * no coordinates: methods that treat coordinates apart have no advantage, and for the others the basis does not matter.
 */
function quadratic(name: string, target: number, eigenvalues: readonly number[], seed: number): Problem {
  const basis = randomBasis(eigenvalues.length, seed);
  // Rows of the basis are eigenvectors.
  const start = eigenvalues.map((_, j) =>
    basis.reduce((total, row, i) => total + (i === 1 ? 1 : 0.5) * row[j]!, 0),
  );
  const [q, lambda] = [tensor(basis), tensor(eigenvalues)];
  return functionProblem(name, target, start, (x) => {
    const along = matmul(q, x);
    return mul(0.5, sum(mul(lambda, mul(along, along))));
  });
}

/** `count` numbers from `low` to `high` in equal steps. */
function between(low: number, high: number, count: number): number[] {
  return Array.from({ length: count }, (_, i) => low + ((high - low) * i) / (count - 1));
}

/** Orthonormal rows, chosen by a seed: random vectors, each without its parts along those before (twice, for rounding). */
function randomBasis(size: number, seed: number): number[][] {
  const stream = randomStream([seed]);
  const rows: number[][] = [];
  const dot = (a: readonly number[], b: readonly number[]): number => a.reduce((t, e, i) => t + e * b[i]!, 0);
  while (rows.length < size) {
    let row = Array.from({ length: size }, () => stream.between(-1, 1));
    for (const other of [...rows, ...rows]) {
      const along = dot(row, other);
      row = row.map((e, i) => e - along * other[i]!);
    }
    const length = Math.sqrt(dot(row, row));
    rows.push(row.map((e) => e / length));
  }
  return rows;
}

/** `sum of 100 (x[i+1] - x[i]^2)^2 + (1 - x[i])^2`, from -1.2 and 1 in turn. */
function rosenbrock(name: string, target: number, size: number): Problem {
  const start = Array.from({ length: size }, (_, i) => (i % 2 === 0 ? -1.2 : 1));
  return functionProblem(name, target, start, (x) => {
    const [head, tail] = [slice(x, [0], [size - 1]), slice(x, [1], [size])];
    const [bend, rest] = [sub(tail, mul(head, head)), sub(1, head)];
    return add(mul(100, sum(mul(bend, bend))), sum(mul(rest, rest)));
  });
}

function task(name: string, summary: string, open: (name: string, seed: number) => Problem): Task {
  return { name, summary, open: async ({ seed }) => open(name, seed) };
}

/** The functions by name. */
export const functionTasks: readonly Task[] = [
  task("quadratic-a", "100 coordinates, ten eigenvalues of 9 to 10 and ninety of 0.01 to 0.1", (name, seed) =>
    quadratic(name, 1e-3, [...between(10, 9, 10), ...between(0.1, 0.01, 90)], seed),
  ),
  task("quadratic-b", "100 coordinates, eigenvalues 50 and 1, 1/1.5, 1/1.5^2, ...", (name, seed) =>
    quadratic(name, 1e-3, [50, ...Array.from({ length: SIZE - 1 }, (_, i) => 1.5 ** -i)], seed),
  ),
  task("quadratic-c", "100 coordinates, eigenvalues 0.001, 0.001 1.12, 0.001 1.12^2, ...", (name, seed) =>
    quadratic(
      name,
      1e-3,
      Array.from({ length: SIZE }, (_, i) => 1e-3 * 1.12 ** i),
      seed,
    ),
  ),
  task("rosenbrock", "Rosenbrock's function of two coordinates", (name) => rosenbrock(name, 1e-6, 2)),
  task("rosenbrock-20", "Rosenbrock's function chained over twenty coordinates", (name) =>
    rosenbrock(name, 1e-6, 20),
  ),
];
