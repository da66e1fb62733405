/**
 * Draws: one integer seed and one size decide everything, so that a failing draw is two numbers, replays from them, and
 * shrinks by making the size smaller.
 */
import fc from "fast-check";
import { Aval } from "../../core/aval.ts";
import { type DType, isFloat, makeArray, type TypedArray } from "../../core/dtype.ts";
import type { AnyPrimitive, ArgSpec, Draw } from "../../core/primitive.ts";
import { type Shape, sizeOf } from "../../core/shape.ts";
import { Tensor } from "../../core/value.ts";

/** What fast-check draws: the printed counterexample. */
export interface Seed {
  readonly seed: number;
  /** Largest size of a drawn axis. */
  readonly size: number;
}

/** Seeds with sizes up to `largest`; a smaller size is a simpler counterexample. */
export function seeds(largest = 3): fc.Arbitrary<Seed> {
  return fc.record(
    { seed: fc.integer({ min: 0, max: 2 ** 31 - 1 }), size: fc.integer({ min: 1, max: largest }) },
    { noNullPrototype: true },
  );
}

/** A `Draw` that also draws numbers, tensors and directions. */
export class SeededDraw implements Draw {
  readonly #size: number;
  #state: number;

  constructor({ seed, size }: Seed) {
    this.#size = size;
    this.#state = seed | 0;
  }

  /** Mulberry32: uniform in [0, 1) with 32 bits. */
  unit(): number {
    this.#state = (this.#state + 0x6d2b79f5) | 0;
    let t = Math.imul(this.#state ^ (this.#state >>> 15), 1 | this.#state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  }

  int(lo: number, hi: number): number {
    return lo + Math.floor(this.unit() * (hi - lo + 1));
  }

  bool(): boolean {
    return this.unit() < 0.5;
  }

  pick<T>(choices: readonly T[]): T {
    return choices[this.int(0, choices.length - 1)]!;
  }

  shape(minRank: number, maxRank: number, min = 1): number[] {
    return Array.from({ length: this.int(minRank, maxRank) }, () => this.int(min, Math.max(min, this.#size)));
  }

  /** The numbers 0 to n - 1 in a drawn order (Fisher and Yates). */
  order(n: number): number[] {
    const list = Array.from({ length: n }, (_, i) => i);
    for (let i = n - 1; i > 0; i--) {
      const j = this.int(0, i);
      [list[i], list[j]] = [list[j]!, list[i]!];
    }
    return list;
  }

  /** A tensor that fits the specification; floats are float32 numbers, so that both float types hold the same. */
  tensor(spec: ArgSpec, dtype: DType): Tensor {
    const n = sizeOf(spec.shape);
    const data = makeArray(dtype, n);
    const [lo, hi] = spec.range ?? [-2, 2];
    const order = spec.distinct ? this.order(n) : [];
    for (let i = 0; i < n; i++) {
      if (dtype === "bool") data[i] = this.int(0, 1);
      else if (!isFloat(dtype)) data[i] = this.int(dtype === "uint32" ? Math.max(0, lo) : lo, hi);
      // One element in the middle half of each of n equal cells: neighbours differ by half a cell at least.
      else if (spec.distinct)
        data[i] = Math.fround(lo + ((hi - lo) * (order[i]! + 0.25 + this.unit() / 2)) / n);
      else data[i] = this.#away(lo, hi, spec.avoid ?? []);
    }
    if (spec.diagonal && isFloat(dtype)) this.#drawDiagonals(data, spec.shape, spec.diagonal);
    return new Tensor(new Aval(spec.shape, dtype), data);
  }

  /** Draws the diagonals of the matrices in the last two axes again: the elements of each are distinct. */
  #drawDiagonals(data: TypedArray, shape: Shape, diagonal: readonly [number, number]): void {
    if (shape.length < 2) return;
    const [rows, columns] = shape.slice(-2) as [number, number];
    for (let first = 0; first < data.length; first += rows * columns) {
      const drawn = this.tensor(
        { shape: [Math.min(rows, columns)], range: diagonal, distinct: true },
        "float64",
      );
      drawn.dataSync().forEach((x, i) => {
        data[first + i * columns + i] = x;
      });
    }
  }

  #away(lo: number, hi: number, avoid: readonly number[]): number {
    for (let attempt = 0; attempt < 1000; attempt++) {
      const x = Math.fround(lo + (hi - lo) * this.unit());
      if (avoid.every((point) => Math.abs(x - point) >= 0.1)) return x;
    }
    throw new Error(
      `Cannot draw from [${lo}, ${hi}]: nothing is 0.1 away from ${avoid}, a larger range is needed`,
    );
  }

  /** A direction, or a cotangent: floats in [-1, 1]. */
  direction(like: { readonly shape: Shape; readonly dtype: DType }): Tensor {
    return this.tensor({ shape: like.shape, range: [-1, 1] }, like.dtype);
  }
}

/** One drawn call of a primitive with its arguments. */
export interface Call {
  readonly specs: readonly ArgSpec[];
  readonly args: readonly Tensor[];
  readonly params: unknown;
}

/** Draws a call from a primitive's domain; `"float"` arguments get the given element type. */
export function drawCall(primitive: AnyPrimitive, draw: SeededDraw, float: DType): Call {
  const { args: specs, params } = primitive.domain(draw);
  return { specs, args: specs.map((spec) => draw.tensor(spec, dtypeOf(spec, float))), params };
}

/** The element type of an argument where `"float"` stands for `float`. */
export function dtypeOf({ dtype = "float" }: ArgSpec, float: DType): DType {
  return dtype === "float" ? float : dtype;
}
