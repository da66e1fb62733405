/** Accumulators of rows: what has been joined so far, four values at a time and in registers. */
import { invariant } from "../../errors.ts";
import type { ExprType } from "../../expr.ts";
import * as expr from "../../expr.ts";
import type { Reduction } from "../../passes/fuse.ts";
import type { FunctionBuilder, Local } from "./assembler.ts";
import { isFloat32Sum, isFloatProduct, joinedType, neutral } from "./nest_arithmetic.ts";
import type { NestCode } from "./nest_code.ts";
import { dtypeOf, type Place } from "./nest_elements.ts";
import { FLOAT32_FACTORS, type Scaled } from "./nest_product.ts";
import { type Term, termsOf } from "./terms.ts";
import { storeOne, type Vec } from "./vector.ts";

// Bytes of a vector in another order.
const highHalfTwice = [8, 9, 10, 11, 12, 13, 14, 15, 8, 9, 10, 11, 12, 13, 14, 15];
const halvesSwapped = [8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7];
const neighboursSwapped = [4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11];

/** Masks of lane 0: of 32 bits, and of 64. */
export interface FirstLane {
  readonly narrow: Local;
  readonly wide: Local;
}

/** Makes the masks, before all loops. */
export function firstLaneOf(f: FunctionBuilder): FirstLane {
  const mask = (bytes: number): Local => {
    const local = f.local("v128");
    f.v128(new Uint8Array(16).fill(255, 0, bytes)).set(local);
    return local;
  };
  return { narrow: mask(4), wide: mask(8) };
}

/** Joins the values of one reduction along a row. */
export class Accumulator {
  readonly reduction: Reduction;
  readonly #code: NestCode;
  readonly #firstLane: FirstLane;
  readonly #type: ExprType;
  /**
   * One for each copy of the loop's body, so that no copy waits for the one before. A product of float32 has one: the
   * copies' factors are joined first, and it is scaled once for all of them.
   */
  readonly #parts: readonly Vec[];
  /** How often each part was scaled, where it is a product of floats. */
  readonly #scales: readonly Vec[] | null;
  /** What float32 parts held before they last began again, in float64. */
  readonly #total: Vec | null;

  /** Begins to join, with what changes nothing: outside of the loops over the row. */
  constructor(code: NestCode, firstLane: FirstLane, reduction: Reduction, copies: number) {
    const { arithmetic } = code;
    const type = joinedType(reduction);
    this.reduction = reduction;
    this.#code = code;
    this.#firstLane = firstLane;
    this.#type = type;
    const isProduct = isFloatProduct(reduction);
    invariant(copies <= FLOAT32_FACTORS, "a product of float32 has so many factors at a time");
    this.#parts = Array.from({ length: isProduct && reduction.arg.type === "f32" ? 1 : copies }, () =>
      arithmetic.filled(neutral(reduction.join, type), type),
    );
    this.#scales = isProduct ? this.#parts.map(() => arithmetic.filled(0, "f64")) : null;
    this.#total = isFloat32Sum(reduction) ? arithmetic.filled(0, "f64") : null;
  }

  /** Joins the argument's values at some places. */
  add(places: readonly Place[]): void {
    const { emitter, arithmetic } = this.#code;
    const { join, arg } = this.reduction;
    const all = emitter.emitTogether(expr.convert(arg, this.#type));
    // The largest and the smallest of a value repeated is the value.
    const isCounted = join === "sum" || join === "prod";
    const values = places.map(({ copy, isSingle }) =>
      isSingle && isCounted ? this.#single(all[copy]!) : all[copy]!,
    );
    if (this.#scales !== null) this.#multiply(this.#scales, values);
    else
      for (const [i, { copy }] of places.entries()) {
        const part = this.#parts[copy]!;
        arithmetic.set(part, arithmetic.join(join, this.#type, part, values[i]!));
      }
  }

  /** Multiplies a product of floats with a factor for each copy of the body. */
  #multiply(scales: readonly Vec[], factors: readonly Vec[]): void {
    const { arithmetic } = this.#code;
    const { type } = this.reduction.arg;
    const groups = type === "f32" ? [factors] : factors.map((factor) => [factor]);
    groups.forEach((group, i) => {
      arithmetic.multiply({ product: this.#parts[i]!, scale: scales[i]! }, group, type);
    });
  }

  /** A single element, and what changes nothing in the lanes that repeat it. */
  #single(values: Vec): Vec {
    const { f, emitter, arithmetic } = this.#code;
    const type = this.#type;
    const single = emitter.newVec(type);
    const rest = arithmetic.filled(neutral(this.reduction.join, type), type);
    f.get(values[0]!)
      .get(rest[0]!)
      .get(type === "f64" ? this.#firstLane.wide : this.#firstLane.narrow)
      .simd("v128.bitselect")
      .set(single[0]!);
    if (type === "f64") f.get(rest[1]!).set(single[1]!);
    return single;
  }

  /** Adds float32 sums to the float64 total and begins them again: they have lost little so far. */
  settle(): void {
    const total = this.#total;
    if (total === null) return;
    const { f, arithmetic } = this.#code;
    for (const part of this.#parts) {
      f.get(total[0]!).get(part[0]!);
      f.simd("f64x2.promote_low_f32x4").simd("f64x2.add").set(total[0]!);
      f.get(total[1]!).get(part[0]!).get(part[0]!).shuffle(highHalfTwice);
      f.simd("f64x2.promote_low_f32x4").simd("f64x2.add").set(total[1]!);
      arithmetic.fill(part, 0, "f32");
    }
  }

  /** The result of the reduction, in every lane. */
  result(): Vec {
    return this.#code.arithmetic.convert(this.#joinedLanes(), this.#lanesType, this.reduction.arg.type);
  }

  /** Stores the result of a piece of a row as 8 bytes, to be joined with others: floats lose nothing as float64. */
  storeResult(address: Term): void {
    const { f, arithmetic } = this.#code;
    const type = this.#lanesType;
    const stored: ExprType = type === "f32" ? "f64" : type;
    const v = arithmetic.convert(this.#joinedLanes(), type, stored);
    storeOne(f, stored, v, () => void termsOf(f).push(address), dtypeOf[stored]);
  }

  get #lanesType(): ExprType {
    return this.#total ? "f64" : this.#type;
  }

  /** What all lanes of all parts join to, in every lane. */
  #joinedLanes(): Vec {
    const { arithmetic } = this.#code;
    const { join } = this.reduction;
    const type = this.#lanesType;
    if (this.#scales !== null) return this.#joinedProduct(this.#scales);
    const joined = (x: Vec, y: Vec): Vec => arithmetic.join(join, type, x, y);
    const all = this.#total ?? this.#parts.reduce(joined);
    if (type === "f64") {
      const halves = joined(all, [all[1]!, all[0]!]);
      return joined(halves, this.#shuffled(halves, halvesSwapped));
    }
    const halves = joined(all, this.#shuffled(all, halvesSwapped));
    return joined(halves, this.#shuffled(halves, neighboursSwapped));
  }

  #joinedProduct(scales: readonly Vec[]): Vec {
    const { arithmetic } = this.#code;
    const all = this.#parts
      .map((product, i): Scaled<Vec> => ({ product, scale: scales[i]! }))
      .reduce((x, y) => arithmetic.multiplied(x, y));
    const swapped = ([low, high]: Vec): Vec => [high!, low!];
    const halves = arithmetic.multiplied(all, { product: swapped(all.product), scale: swapped(all.scale) });
    const other = (v: Vec): Vec => this.#shuffled(v, halvesSwapped);
    const single = arithmetic.multiplied(halves, {
      product: other(halves.product),
      scale: other(halves.scale),
    });
    return arithmetic.unscaled(single);
  }

  #shuffled(v: Vec, bytes: readonly number[]): Vec {
    const { f } = this.#code;
    return v.map((local) => {
      const to = f.local("v128");
      f.get(local).get(local).shuffle(bytes).set(to);
      return to;
    });
  }
}
