/**
 * Products of floats as a float64 near 1 and how often it was scaled: `product * 2^(512 scale)`. So no partial product
 * overflows or underflows, in whichever order the factors come, and 0 times what would have overflowed is 0.
 */
import type { Expr, ExprType } from "../../expr.ts";
import * as expr from "../../expr.ts";

/** Both are float64, so that they are joined, moved and kept alike; the scale is an integer. */
export interface Scaled<T> {
  readonly product: T;
  readonly scale: T;
}

/** A product of magnitude from 2^-256 to 2^256 is near 1: that of two is within float64, and is near 1 if scaled once. */
const NEAR = 2 ** 256;
const STEP = 2 ** 512;

const number = (value: number): Expr => expr.constant(value, "f64");

/** The same number, nearer to 1. Neither of 0, infinities and NaN is changed, whatever their scale. */
function nearer({ product, scale }: Scaled<Expr>): Scaled<Expr> {
  const size = expr.abs(product);
  const isLarge = expr.le(number(NEAR), size);
  const isSmall = expr.lt(size, number(1 / NEAR));
  const choose = (large: number, small: number, neither: number): Expr =>
    expr.select(isLarge, number(large), expr.select(isSmall, number(small), number(neither)));
  return {
    product: expr.mul(product, choose(1 / STEP, STEP, 1)),
    scale: expr.add(scale, choose(1, -1, 0)),
  };
}

/** A factor, which came from float32 or float64: the extremes of float64 are 2^-1074 and 2^1024, so it takes two steps. */
export function factor(x: Expr, from: ExprType): Scaled<Expr> {
  const scaled = { product: x, scale: number(0) };
  return from === "f64" ? nearer(nearer(scaled)) : scaled;
}

/** The product of two numbers near 1. */
export function scaledProduct(x: Scaled<Expr>, y: Scaled<Expr>): Scaled<Expr> {
  return nearer({ product: expr.mul(x.product, y.product), scale: expr.add(x.scale, y.scale) });
}

/** The number itself: four steps from near 1 are beyond float64 on either side. */
export function unscaled({ product, scale }: Scaled<Expr>): Expr {
  let result = product;
  for (let step = 1; step <= 4; step++) {
    const up = expr.select(expr.le(number(step), scale), number(STEP), number(1));
    const both = expr.select(expr.le(scale, number(-step)), number(1 / STEP), up);
    result = expr.mul(result, both);
  }
  return result;
}
