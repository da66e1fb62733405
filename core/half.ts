/**
 * float16 in expressions: its values are float32 numbers of 11 significant bits, its storage is their 16 bits. What is
 * written in expressions gives the same bits on every device, whatever its own conversions do with ties, with what is
 * too large and with the smallest numbers.
 */
import type { Expr } from "./expr.ts";
import * as e from "./expr.ts";

/** From here on the nearest float16 is infinite: half a unit after the largest, 65504. */
const OVERFLOW = 65520;
/** The smallest normal number; those below are multiples of 2^-24. */
const SMALLEST_NORMAL: number = 2 ** -14;
/** Bits of the mantissa that float32 has and float16 does not. */
const DROPPED = 13;
const EXPONENT = 0x7f800000;
const NAN = 0x7e00;

const f32 = (value: number): Expr => e.constant(value, "f32");
const u32 = (value: number): Expr => e.constant(value, "u32");
const i32 = (value: number): Expr => e.constant(value, "i32");

/**
 * The float32 of the nearest float16, halves to even.
 *
 * Of normal numbers half a unit less one bit is added to the bits, and one more where the unit is odd; then the dropped
 * bits are cleared: the carry goes into the exponent. Of small ones `2^24 x` is rounded to an integer.
 */
export function roundedToHalf(x: Expr): Expr {
  const bits = e.bitcast(x, "u32");
  const odd = e.and(e.shr(bits, DROPPED), u32(1));
  const carried = e.add(e.add(bits, u32(2 ** (DROPPED - 1) - 1)), odd);
  const normal = e.bitcast(e.and(carried, u32(2 ** 32 - 2 ** DROPPED)), "f32");
  const small = e.mul(e.nearest(e.mul(x, f32(2 ** 24))), f32(2 ** -24));
  const size = e.abs(x);
  const finite = e.select(e.lt(size, f32(SMALLEST_NORMAL)), small, normal);
  // The product is infinite, and stays NaN.
  return e.select(e.lt(size, f32(OVERFLOW)), finite, e.mul(x, f32(2 ** 127)));
}

/**
 * The float32 of the nearest float16 of a float64: first rounded to odd, towards zero with the last bit set where that is
 * not exact, so that the second rounding meets no tie that was none.
 */
export function halfOfDouble(x: Expr): Expr {
  const near = e.convert(x, "f32");
  const back = e.convert(near, "f64");
  const bits = e.bitcast(near, "u32");
  const towardsZero = e.select(e.lt(e.abs(x), e.abs(back)), e.sub(bits, u32(1)), bits);
  const odd = e.bitcast(e.or(towardsZero, u32(1)), "f32");
  return roundedToHalf(e.select(e.eq(back, x), near, odd));
}

/**
 * The float32 of 16 bits, sign-extended to an i32. Moved to their places they are those of a number `2^-112` times as
 * large, and of infinity and NaN too few ones in the exponent.
 */
export function halfOfBits(bits: Expr): Expr {
  const moved = e.and(e.shl(bits, DROPPED), i32(-0x70002000));
  const number = e.mul(e.bitcast(moved, "f32"), f32(2 ** 112));
  const special = e.bitcast(e.or(e.bitcast(number, "i32"), i32(EXPONENT)), "f32");
  return e.select(e.lt(e.abs(number), f32(2 ** 16)), number, special);
}

/**
 * The bits of the nearest float16 to a float32, sign-extended to an i32: those of `roundedToHalf`. Of small numbers
 * the sum with 1/2 is rounded to a multiple of 2^-24, and counts them.
 */
export function bitsOfHalf(x: Expr): Expr {
  const size = e.abs(x);
  const bits = e.min(e.bitcast(size, "u32"), u32(0x47800000));
  const odd = e.and(e.shr(bits, DROPPED), u32(1));
  const normal = e.shr(e.add(e.add(bits, u32(0xc8000fff)), odd), DROPPED);
  const small = e.sub(e.bitcast(e.add(size, f32(0.5)), "u32"), u32(0x3f000000));
  const number = e.select(e.lt(size, f32(SMALLEST_NORMAL)), small, normal);
  const sign = e.and(e.shr(e.bitcast(x, "i32"), 16), i32(-0x8000));
  return e.or(e.bitcast(e.select(e.eq(x, x), number, u32(NAN)), "i32"), sign);
}

/** Whether an expression is a float16 number where those are, without rounding: it chooses among them or changes a sign. */
export function keepsHalf(x: Expr, halves: ReadonlySet<Expr>): boolean {
  const seen = new Set<Expr>(halves);
  const visit = (node: Expr): boolean => {
    if (seen.has(node)) return true;
    seen.add(node);
    const { op, args, value } = node;
    if (op === "const") return Object.is(Math.f16round(value), value);
    if (op === "convert") return args[0]!.type === "bool";
    if (op === "select" || op === "rare") return visit(args[1]!) && visit(args[2]!);
    return choosing.has(op) && args.every(visit);
  };
  return visit(x);
}

const choosing: ReadonlySet<Expr["op"]> = new Set<Expr["op"]>([
  "neg",
  "abs",
  "floor",
  "ceil",
  "trunc",
  "nearest",
  "min",
  "max",
]);
