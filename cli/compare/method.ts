/** What a method of `cotangent compare` is. */
import { slice } from "../../core/ops.ts";
import type { Value } from "../../core/value.ts";
import type { Stepper } from "./run.ts";
import type { Batch, Problem } from "./task.ts";

/** Numbers that a person may set for a method: `fosi-adam:k=10:period=200`. */
export type Settings = Readonly<Record<string, number>>;

/** What a method is made with. */
export interface MethodInput<S extends Settings = Settings> {
  readonly problem: Problem;
  readonly learningRate: number;
  readonly settings: S;
  readonly seed: number;
}

/** A method by name. */
export interface Method {
  /** One line for the help. */
  readonly summary: string;
  /** Learning rates that are tried, from the middle outwards; a single one where there is nothing to look for. */
  readonly rates: readonly number[];
  /** What can be set, with the defaults. */
  readonly settings: Settings;
  make(input: MethodInput): Stepper;
}

/** A method whose settings are those of its defaults. */
export function method<const S extends Settings>(
  record: Omit<Method, "settings" | "make"> & {
    readonly settings: S;
    make(input: MethodInput<{ readonly [K in keyof S]: number }>): Stepper;
  },
): Method {
  return record as Method;
}

/**
 * A product with the Hessian in gradients of the same batch, where the gradient is linearized once for many of them: measured
 * at 0.95 (bench/curvature.ts). Linearizing is a gradient more.
 */
export const PRODUCT_GRADIENTS = 1;

/** As many examples for curvature as wanted: those of a step by 0, at most those that there are. */
export function curvatureExamples(problem: Problem, wanted: number): number {
  const { x } = problem.curvatureBatch(0);
  return Math.min(x.shape[0]!, wanted > 0 ? wanted : problem.batchSize);
}

/** The first examples of a batch, at most so many. */
export function firstOf({ x, y }: Batch, count: number): Batch {
  const first = (rows: Value): Value =>
    rows.shape[0]! <= count
      ? rows
      : slice(
          rows,
          rows.shape.map(() => 0),
          [count, ...rows.shape.slice(1)],
        );
  return { x: first(x), y: first(y) };
}

/** Five rates around one, each a factor 10^(1/2) from the next, the middle first. */
export function around(rate: number): readonly number[] {
  return [0, -1, 1, -2, 2].map((i) => Number((rate * 10 ** (i / 2)).toPrecision(2)));
}
