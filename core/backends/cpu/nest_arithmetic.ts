/** Arithmetic on vectors that are in locals already, above all joining two of them as a reduction does. */
import type { Expr, ExprType } from "../../expr.ts";
import * as expr from "../../expr.ts";
import type { Join, Reduction } from "../../passes/fuse.ts";
import type { FunctionBuilder } from "./assembler.ts";
import { isFar, nearer, type Scaled, unscaled } from "./nest_product.ts";
import type { Vec, VectorEmitter } from "./vector.ts";

/** The type in which values are joined: products of float32 are float64 all along. */
export function joinedType({ join, arg }: Reduction): ExprType {
  return join === "prod" && arg.type === "f32" ? "f64" : arg.type;
}

/** Whether sums are kept in float32 for so long only that they lose little, and then added to a float64 one. */
export function isFloat32Sum({ join, arg }: Reduction): boolean {
  return join === "sum" && arg.type === "f32";
}

/** Whether what has been joined is a number and how often it was scaled: a product of floats. */
export function isFloatProduct({ join, arg }: Reduction): boolean {
  return join === "prod" && (arg.type === "f32" || arg.type === "f64");
}

/** What changes nothing when it is joined; -1 is the largest u32. */
export function neutral(join: Join, type: ExprType): number {
  if (join === "sum") return 0;
  if (join === "prod") return 1;
  const isFloat = type === "f32" || type === "f64";
  if (join === "max") return isFloat ? -Infinity : type === "i32" ? -2147483648 : 0;
  return isFloat ? Infinity : type === "i32" ? 2147483647 : -1;
}

const joinOf: Readonly<Record<Join, (x: Expr, y: Expr) => Expr>> = {
  sum: expr.add,
  prod: expr.mul,
  max: expr.max,
  min: expr.min,
};

/** Writes operations on values that no expression of the step has. */
export class Arithmetic {
  readonly #f: FunctionBuilder;
  readonly #emitter: VectorEmitter;
  /** Inputs with numbers that no load has. */
  #inputs = 1000;

  constructor(f: FunctionBuilder, emitter: VectorEmitter) {
    this.#f = f;
    this.#emitter = emitter;
  }

  join(join: Join, type: ExprType, x: Vec, y: Vec): Vec {
    return this.#emitter.emit(joinOf[join](this.#value(x, type), this.#value(y, type)));
  }

  /** The product of vectors, pairs first, so that none waits for all others. */
  product(factors: readonly Vec[]): Vec {
    const middle = factors.length >> 1;
    if (middle === 0) return factors[0]!;
    return this.join(
      "prod",
      "f64",
      this.product(factors.slice(0, middle)),
      this.product(factors.slice(middle)),
    );
  }

  /** Multiplies a scaled product, which is near 1, with the only factor or with as many of float32 as it may have. */
  multiply({ product, scale }: Scaled<Vec>, factors: readonly Vec[], from: ExprType): void {
    const all = this.product(factors);
    const factor = from === "f64" ? this.#emitter.newVec("f64") : all;
    if (from === "f64") {
      this.set(factor, all);
      this.approach({ product: factor, scale });
    }
    this.set(product, this.join("prod", "f64", product, factor));
    this.approach({ product, scale });
  }

  /** The product of two numbers near 1. */
  multiplied(x: Scaled<Vec>, y: Scaled<Vec>): Scaled<Vec> {
    const [product, scale] = [this.#emitter.newVec("f64"), this.#emitter.newVec("f64")];
    this.set(product, this.join("prod", "f64", x.product, y.product));
    this.set(scale, this.join("sum", "f64", x.scale, y.scale));
    this.approach({ product, scale });
    return { product, scale };
  }

  /** Scales what is not near 1, where it is. That is seldom so: a branch goes around it. */
  approach({ product, scale }: Scaled<Vec>): void {
    const far = { product: this.#value(product, "f64"), scale: this.#value(scale, "f64") };
    this.#emitter.when(this.#emitter.emit(isFar(far.product)), () => {
      const near = nearer(far);
      const [nearProduct, nearScale] = [this.#emitter.emit(near.product), this.#emitter.emit(near.scale)];
      this.set(product, nearProduct);
      this.set(scale, nearScale);
    });
  }

  unscaled({ product, scale }: Scaled<Vec>): Vec {
    return this.#emitter.emit(
      unscaled({ product: this.#value(product, "f64"), scale: this.#value(scale, "f64") }),
    );
  }

  set(to: Vec, from: Vec): void {
    to.forEach((local, half) => {
      this.#f.get(from[half]!).set(local);
    });
  }

  convert(x: Vec, from: ExprType, to: ExprType): Vec {
    return this.#emitter.emit(expr.convert(this.#value(x, from), to));
  }

  /** New locals with a number in every lane. */
  filled(value: number, type: ExprType): Vec {
    const v = this.#emitter.newVec(type);
    this.fill(v, value, type);
    return v;
  }

  fill(v: Vec, value: number, type: ExprType): void {
    const f = this.#f;
    for (const local of v) {
      if (type === "f32") f.f32(value).simd("f32x4.splat");
      else if (type === "f64") f.f64(value).simd("f64x2.splat");
      else f.i32(value).simd("i32x4.splat");
      f.set(local);
    }
  }

  #value(v: Vec, type: ExprType): Expr {
    const value = expr.input(this.#inputs++, type);
    this.#emitter.bind(value, v);
    return value;
  }
}
