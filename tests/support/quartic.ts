/**
 * A function whose derivatives are known in closed form: f(x) = xᵀ A x / 2 + (xᵀ x)² / 4 with symmetric A.
 *
 *     gradient  A x + (x·x) x
 *     Hessian   A + (x·x) I + 2 x xᵀ
 *     third     T(u, v) = 2 ((x·u) v + (x·v) u + (u·v) x)
 */
import type fc from "fast-check";
import { tensor } from "../../core/create.ts";
import { add, dot, mul } from "../../core/ops.ts";
import type { Tensor, Value } from "../../core/value.ts";
import { type Seed, SeededDraw, seeds } from "./arbitrary_tensor.ts";

type Vector = readonly number[];

/** One draw: the function as the library computes it, and its derivatives as plain loops do. */
export interface Quartic {
  readonly n: number;
  readonly f: (x: Value) => Value;
  readonly x: Tensor;
  readonly u: Tensor;
  readonly v: Tensor;
  readonly value: (x?: Value) => Tensor;
  readonly gradient: (x?: Value) => Tensor;
  readonly hessianTimes: (v: Value, x?: Value) => Tensor;
  readonly hessian: (x?: Value) => Tensor;
  readonly third: (u: Value, v: Value, x?: Value) => Tensor;
}

const product = (a: Vector, b: Vector): number => a.reduce((sum, ai, i) => sum + ai * b[i]!, 0);
const numbers = (x: Value): number[] => Array.from(x.dataSync());

export const float64 = (data: Parameters<typeof tensor>[0]): Tensor => tensor(data, { dtype: "float64" });

/** Small integers over 4: every product and sum below is exact in float64. */
function quarter(draw: SeededDraw, n: number): number[] {
  return Array.from({ length: n }, () => draw.int(-8, 8) / 4);
}

export function quartic(seed: Seed): Quartic {
  const draw = new SeededDraw(seed);
  const n = draw.int(1, 4);
  const half = Array.from({ length: n }, () => quarter(draw, n));
  const A = half.map((row, i) => row.map((aij, j) => aij + half[j]![i]!));
  const [x, u, v] = [0, 1, 2].map(() => float64(quarter(draw, n)));
  const matrix = float64(A);
  const at = (point: Value | undefined): number[] => numbers(point ?? x!);
  const times = (p: Vector, d: Vector): number[] =>
    d.map((di, i) => product(A[i]!, d) + product(p, p) * di + 2 * p[i]! * product(p, d));
  return {
    n,
    f: (p) => add(mul(dot(p, dot(matrix, p)), 0.5), mul(mul(dot(p, p), dot(p, p)), 0.25)),
    x: x!,
    u: u!,
    v: v!,
    value(point) {
      const p = at(point);
      return float64(
        product(
          p,
          A.map((row) => product(row, p)),
        ) /
          2 +
          product(p, p) ** 2 / 4,
      );
    },
    gradient(point) {
      const p = at(point);
      return float64(p.map((pi, i) => product(A[i]!, p) + product(p, p) * pi));
    },
    hessianTimes: (d, point) => float64(times(at(point), numbers(d))),
    hessian(point) {
      const p = at(point);
      return float64(
        p.map((_, j) =>
          times(
            p,
            p.map((_, i) => Number(i === j)),
          ),
        ),
      );
    },
    third(a, b, point) {
      const [p, d, e] = [at(point), numbers(a), numbers(b)];
      return float64(
        p.map((pi, i) => 2 * (product(p, d) * e[i]! + product(p, e) * d[i]! + product(d, e) * pi)),
      );
    },
  };
}

/** Draws of the function and of a point and two directions. */
export const quartics: fc.Arbitrary<Seed> = seeds();
