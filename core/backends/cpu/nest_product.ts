/**
 * Products of floats as a float64 near 1 and how often it was scaled: `product * 2^(640 scale)`. So no partial product
 * overflows or underflows, in whichever order the factors come, and 0 times what would have overflowed is 0.
 */
import type { Expr } from "../../expr.ts";
import * as expr from "../../expr.ts";

/** Both are float64, so that they are joined, moved and kept alike; the scale is an integer. */
export interface Scaled<T> {
  readonly product: T;
  readonly scale: T;
}

/**
 * A product of magnitude from 2^-384 to 2^384 is near 1. One that is near 1 is within float64, and near 1 if scaled once,
 * after it is multiplied with another, or with four float32 numbers, which are from 2^-149 to 2^128 if they are not 0:
 * 2^(-384 - 4 149) = 2^-980 and 2^(384 + 4 128) = 2^896; or with any float64 that was scaled once, as 2^-1074 is 2^-434.
 */
const NEAR = 2 ** 384;
const STEP = 2 ** 640;

/** So many float32 factors may be multiplied with a product before it is scaled again. */
export const FLOAT32_FACTORS = 4;

const number = (value: number): Expr => expr.constant(value, "f64");

/** Whether a product is not near 1. */
export function isFar(product: Expr): Expr {
  const size = expr.abs(product);
  return expr.or(expr.le(number(NEAR), size), expr.lt(size, number(1 / NEAR)));
}

/** The same number, nearer to 1. Neither of 0, infinities and NaN is changed, whatever their scale. */
export function nearer({ product, scale }: Scaled<Expr>): Scaled<Expr> {
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

/** The number itself: three steps from near 1 are beyond float64 on either side. */
export function unscaled({ product, scale }: Scaled<Expr>): Expr {
  let result = product;
  for (let step = 1; step <= 3; step++) {
    const up = expr.select(expr.le(number(step), scale), number(STEP), number(1));
    const both = expr.select(expr.le(scale, number(-step)), number(1 / STEP), up);
    result = expr.mul(result, both);
  }
  return expr.rare(expr.ne(scale, number(0)), result, product);
}
