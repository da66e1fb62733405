/**
 * Mathematical functions of float32 as scalar expressions, right to one, two or three units in the last place for every
 * argument: infinities, NaN, both zeros, and numbers below the normal range. tests/backend/functions.test.ts has the
 * bound of each.
 *
 * All follow the three steps of Cody & Waite 1980, "Software Manual for the Elementary Functions": reduce the argument
 * exactly, approximate on a small interval, put the parts together so that the largest comes last. Coefficients are
 * minimax for the relative error of the whole function (Remez' algorithm in extended precision), each rounded to
 * float32 before the next ones are fitted to what is left (Muller et al. 2018, "Handbook of Floating-Point Arithmetic",
 * chapters 9 and 10). Nothing depends on whether `fma` rounds once or twice. Where float32 loses too much, which is in
 * sin, cos, tan, erfc and pow, some steps are in float64; devices without float64 have a second way, in which a number
 * is a sum of two float32 or the integers of its digits.
 */
import {
  abs,
  add,
  and,
  bitcast,
  constant,
  convert,
  div,
  type Expr,
  eq,
  fma,
  le,
  lt,
  max,
  min,
  mul,
  ne,
  nearest,
  not,
  or,
  orNarrow,
  rare,
  select,
  shl,
  shr,
  sqrt,
  sub,
  trunc,
  xor,
} from "./expr.ts";

type Unary = (x: Expr) => Expr;

const f32 = (value: number): Expr => constant(value, "f32");
const f64 = (value: number): Expr => constant(value, "f64");
const i32 = (value: number): Expr => constant(value, "i32");
const u32 = (value: number): Expr => constant(value, "u32");
const bitsOf: Unary = (x) => bitcast(x, "i32");
const floatOf: Unary = (bits) => bitcast(bits, "f32");
const single: Unary = (x) => convert(x, "f32");
const double: Unary = (x) => convert(x, "f64");
const square: Unary = (x) => mul(x, x);

const one = f32(1);
const zero = f32(0);
const infinity = f32(Infinity);
const signBit = i32(-(2 ** 31));
/** Of the exponent within the bits of a float. */
const exponentOne = 2 ** 23;

/** c0 + c1 x + c2 x² + ...: pairs first, so that less waits for the product before it (Estrin's scheme). */
function polynomial(x: Expr, coefficients: readonly number[]): Expr {
  let terms = coefficients.map((value) => constant(value, x.type));
  for (let power = x; terms.length > 1; power = square(power)) {
    const pairs: Expr[] = [];
    for (let i = 0; i < terms.length; i += 2) {
      const odd = terms[i + 1];
      pairs.push(odd ? fma(odd, power, terms[i]!) : terms[i]!);
    }
    terms = pairs;
  }
  return terms[0]!;
}

/** x with the sign of y, where x is not negative unless y is. */
function withSignOf(x: Expr, y: Expr): Expr {
  return floatOf(or(bitsOf(x), and(bitsOf(y), signBit)));
}

/** x with the last 12 of its 24 bits zero: a product of two such numbers is exact. */
function upperHalf(x: Expr): Expr {
  return floatOf(and(bitsOf(x), i32(-4096)));
}

/** -|x| */
function negativeOf(x: Expr): Expr {
  return floatOf(or(bitsOf(x), signBit));
}

// --- exponentials ------------------------------------------------------------------------------------------------

/** Adding it rounds to an integer k, and leaves k + offset in the low bits. */
function rounder(offset: number): Expr {
  return f32(1.5 * 2 ** 23 + offset);
}

/** What exponents of floats are above those of the numbers. */
const bias = 127;
// ln 2 = high + low; high has 16 bits, so that its product with k is exact.
const ln2High = 0.693145751953125;
const ln2Low = 1.4286068203094173e-6;

/** An argument of the exponential, x or x + rest, as k ln 2 + r with |r| <= ln 2 / 2; k + offset is in low bits. */
interface Reduced {
  readonly rounded: Expr;
  readonly k: Expr;
  readonly r: Expr;
}

function reduced(x: Expr, offset: number, rest: Expr | null = null): Reduced {
  const rounded = fma(rest ? add(x, rest) : x, f32(Math.LOG2E), rounder(offset));
  const k = sub(rounded, rounder(offset));
  const r = fma(k, f32(-ln2High), x);
  return { rounded, k, r: fma(k, f32(-ln2Low), rest ? add(r, rest) : r) };
}

/** 2^k for k + bias in the low bits: the product moves it to the exponent and all else out. */
function powerOfTwo(bits: Expr): Expr {
  return floatOf(mul(bits, i32(exponentOne)));
}

/** e^r - 1 = r + r² q(r) for |r| <= ln 2 / 2 */
function expm1Near0(r: Expr): Expr {
  const r2 = square(r);
  const low = fma(f32(0.16666534543037415), r, f32(0.4999999701976776));
  const high = fma(fma(f32(0.001384192262776196), r, f32(0.008367698639631271)), r, f32(0.04166771471500397));
  return fma(r2, fma(high, r2, low), r);
}

/**
 * Two factors whose product is 2^k, about equal: a result below the normal range comes from the second product alone,
 * and is rounded once. k + 2 bias is in the low bits, `x log2e` is about k.
 */
function powersOfTwo(k: Expr, x: Expr, log2e: number): readonly [Expr, Expr] {
  const half = bitsOf(fma(x, f32(log2e / 2), rounder(bias)));
  return [powerOfTwo(half), powerOfTwo(sub(bitsOf(k), half))];
}

/** The exponential is computed 2^lift times as large: then a result below the normal range is rounded once. */
const lift = 24;
/** Up to this k there is a float for that. */
const largestLifted = bias - lift;

/** e^x for -104 <= x, where it is 0 already, and k <= largestLifted; and what a larger k needs. */
function expWithin(x: Expr): { readonly result: Expr; readonly rounded: Expr; readonly near: Expr } {
  const { rounded, r } = reduced(x, bias + lift);
  const near = expm1Near0(r);
  const power = powerOfTwo(bitsOf(rounded));
  return { result: mul(fma(near, power, power), f32(2 ** -lift)), rounded, near };
}

export const exp: Unary = (x) => {
  const { result, rounded, near } = expWithin(max(f32(-104), x));
  // 2 (2^(k-1) e^r), because 2^128 is no float.
  const power = powerOfTwo(sub(bitsOf(rounded), i32(lift + 1)));
  const y = fma(near, power, power);
  const large = select(lt(rounded, rounder(bias + lift + 129)), add(y, y), infinity);
  return rare(lt(rounder(bias + lift + largestLifted), rounded), large, result);
};

/** e^-|x| */
function decay(x: Expr): Expr {
  return expWithin(max(f32(-104), negativeOf(x))).result;
}

export const expm1: Unary = (x) => {
  const { rounded, k, r } = reduced(min(f32(89), max(f32(-18), x)), bias - 1);
  // 2 (2^(k-1) (e^r - 1) + (2^(k-1) - 1/2)), because 2^128 is no float; but half of a number may be none either.
  const near = expm1Near0(r);
  const power = powerOfTwo(bitsOf(rounded));
  const y = fma(power, near, sub(power, f32(0.5)));
  return withSignOf(select(eq(k, zero), near, add(y, y)), x);
};

export const tanh: Unary = (x) => {
  // t / (t + 2) with t = e^2|x| - 1; the series where that could be 3 units off.
  const y = abs(x);
  const { rounded, r } = reduced(min(f32(20), add(y, y)), bias);
  const power = powerOfTwo(bitsOf(rounded));
  const t = fma(power, expm1Near0(r), sub(power, one));
  const y2 = square(y);
  const near = fma(mul(y, y2), fma(y2, f32(2 / 15), f32(-1 / 3)), y);
  return withSignOf(select(lt(y, f32(0.066)), near, div(t, add(t, f32(2)))), x);
};

export const sigmoid: Unary = (x) => {
  const power = decay(x);
  return div(select(lt(x, zero), power, one), add(power, one));
};

/** e^x / 2 for 0 <= x <= 89.5, where it is infinite already. */
function halfExp(x: Expr): Expr {
  const { rounded, r } = reduced(x, bias - 2);
  const power = powerOfTwo(bitsOf(rounded));
  const y = fma(power, expm1Near0(r), power);
  return add(y, y);
}

export const sinh: Unary = (x) => {
  const y = abs(x);
  const half = halfExp(min(f32(89.5), y));
  const near = fma(
    mul(y, square(y)),
    polynomial(
      square(y),
      [0.1666666716337204, 0.00833331048488617, 0.00019842895562760532, 2.7823248274216894e-6],
    ),
    y,
  );
  return withSignOf(select(lt(y, one), near, sub(half, div(f32(0.25), half))), x);
};

export const cosh: Unary = (x) => {
  const half = halfExp(min(f32(89.5), abs(x)));
  return add(half, div(f32(0.25), half));
};

// --- logarithms --------------------------------------------------------------------------------------------------

/** Bits of sqrt(1/2): the exponent of a number is counted from there, so that its rest is between there and sqrt(2). */
const sqrtHalfBits = i32(0x3f3504f3);
const exponentBits = i32(-exponentOne);

/** A positive number as 2^k m, with k in the place of the exponent. */
function exponentOf(x: Expr): Expr {
  return and(sub(bitsOf(x), sqrtHalfBits), exponentBits);
}

/** The integer in the place of the exponent. */
function integerOf(exponent: Expr): Expr {
  return mul(single(exponent), f32(1 / exponentOne));
}

/** k ln 2 + log(1 + f) = k ln 2 + f - f²/2 + f³ q(f) for sqrt(1/2) <= 1 + f <= sqrt(2) */
function logarithm(k: Expr, f: Expr): Expr {
  const q = polynomial(
    f,
    [
      0.3333333134651184, -0.2500081956386566, 0.20001226663589478, -0.16623356938362122, 0.14201757311820984,
      -0.13160187005996704, 0.1276158094406128, -0.07634491473436356,
    ],
  );
  const f2 = square(f);
  const small = fma(f2, f32(-0.5), fma(k, f32(ln2Low), mul(mul(f2, f), q)));
  return fma(k, f32(ln2High), add(f, small));
}

/** The result for x > bound; -infinity at the bound, NaN below and for NaN, x itself where it is infinite. */
function aboveBound(bound: number, x: Expr, result: Expr): Expr {
  const finite = select(lt(x, infinity), result, x);
  return select(lt(f32(bound), x), finite, select(eq(x, f32(bound)), f32(-Infinity), f32(Number.NaN)));
}

export const log: Unary = (x) => {
  const isSmall = lt(x, f32(2 ** -126));
  const y = select(isSmall, mul(x, f32(2 ** 24)), x);
  const exponent = exponentOf(y);
  const f = sub(floatOf(sub(bitsOf(y), exponent)), one);
  const k = sub(integerOf(exponent), select(isSmall, f32(24), zero));
  return aboveBound(0, x, logarithm(k, f));
};

export const log1p: Unary = (x) => {
  const exponent = exponentOf(add(x, one));
  // 1 + x = 2^k (1 + f) with f = 2^-k x + (2^-k - 1), in which only the sum is rounded, and nothing where k = 0.
  const inverse = floatOf(max(sub(i32(bias * exponentOne), exponent), i32(0)));
  const f = add(floatOf(sub(bitsOf(x), exponent)), sub(inverse, one));
  return aboveBound(-1, x, withSignOf(logarithm(integerOf(exponent), f), x));
};

export const softplus: Unary = (x) => {
  // max(x, 0) + log(1 + p) with p = e^-|x| <= 1: the exponent of 1 + p is 0, or 1 above sqrt(2).
  const p = decay(x);
  const isOne = lt(f32(Math.SQRT2 - 1), p);
  const f = select(isOne, mul(sub(p, one), f32(0.5)), p);
  return add(max(zero, x), logarithm(select(isOne, one, zero), f));
};

// --- trigonometry ------------------------------------------------------------------------------------------------

/**
 * An angle as quadrant · pi/2 + r, with |r| in float64 a little above pi/4 at most; of the quadrant the last two bits
 * count.
 */
interface Angle {
  readonly quadrant: Expr;
  readonly r: Expr;
  /** What r lost to rounding where it is float32; else null. */
  readonly rest: Expr | null;
}

/** The two ways to reduce an angle: the short one is right for sizes up to `largest`. */
interface Reduction {
  readonly largest: number;
  short(x: Expr): Angle;
  long(x: Expr): Angle;
}

/** Beyond, the products of `reducedAngle` are not exact. */
const largestAngle = 2 ** 16;
const halfPiHigh = 1.5707963267923333; // 35 bits
const halfPiLow = 2.563344151594519e-12;

/** For |x| <= 2^16: in float64, where k times the high part of pi/2 is exact. */
function reducedAngle(x: Expr): Angle {
  const rounded = fma(x, f32(2 / Math.PI), rounder(0));
  const k = double(sub(rounded, rounder(0)));
  const r = sub(sub(double(x), mul(k, f64(halfPiHigh))), mul(k, f64(halfPiLow)));
  return { quadrant: bitsOf(rounded), r, rest: null };
}

/** 2/pi in pieces of 29 bits: piece i times 2^(-29 (i + 1)). */
const twoOverPi = [341782637, 423170132, 352195499, 488592205, 461485765, 90590992, 478285810];

/**
 * For every x: the products of its 24 bits with pieces of 2/pi are exact in float64, and so are they modulo 4; their sum
 * keeps what rounding loses (Payne & Hanek 1983, "Radian reduction for trigonometric functions"; Knuth's two-sum).
 */
function reducedLargeAngle(x: Expr): Angle {
  const modulo4 = (y: Expr): Expr => sub(y, mul(nearest(mul(y, f64(0.25))), f64(4)));
  const wide = double(x);
  let sum = f64(0);
  let lost = f64(0);
  twoOverPi.forEach((piece, i) => {
    const part = modulo4(mul(wide, f64(piece * 2 ** (-29 * (i + 1)))));
    const next = add(sum, part);
    const added = sub(next, sum);
    lost = add(lost, add(sub(sum, sub(next, added)), sub(part, added)));
    sum = next;
  });
  const k = nearest(sum);
  const r = mul(add(sub(sum, k), lost), f64(Math.PI / 2));
  return { quadrant: convert(modulo4(k), "i32"), r, rest: null };
}

const wideReduction: Reduction = { largest: largestAngle, short: reducedAngle, long: reducedLargeAngle };

/** Beyond, k has more than 12 bits. */
const largestNarrowAngle = 6400;
/** pi/2 as a sum: three parts of 12 bits and the rest. */
const halfPiParts = [1.57080078125, -4.453584551811218e-6, -8.706138032721356e-10, 6.223371969669989e-14];

/** In float32: the products of k with the first three parts are exact, and of the differences the first two nearly. */
function reducedNarrowAngle(x: Expr): Angle {
  const rounded = fma(x, f32(2 / Math.PI), rounder(0));
  const k = sub(rounded, rounder(0));
  const [p0, p1, p2, p3] = halfPiParts.map((part) => f32(-part)) as [Expr, Expr, Expr, Expr];
  const first = fma(k, p0, x);
  const second = fma(k, p1, first);
  // What rounding took from the difference: nothing where it is small.
  const lost = fma(k, p1, sub(first, second));
  const low = fma(k, p3, fma(k, p2, lost));
  const r = add(second, low);
  return { quadrant: bitsOf(rounded), r, rest: add(sub(second, r), low) };
}

/** 2/pi in digits of 16 bits after the point; before them two zeros. */
const twoOverPiDigits = [
  0, 0, 0xa2f9, 0x836e, 0x4e44, 0x1529, 0xfc27, 0x57d1, 0xf534, 0xddc0, 0xdb62, 0x9599, 0x3c43, 0x9041,
  0xfe51,
];

/** For every x above 2^-10, in integers: the digits of the product of x and 2/pi, modulo 4 and with 64 after the point. */
function reducedLargeNarrowAngle(x: Expr): Angle {
  const low16 = (y: Expr): Expr => and(y, u32(0xffff));
  const bits = bitcast(x, "u32");
  // x = m 2^(16 (q - 1) + s) with m < 2^24 and s < 16.
  const exponent = sub(shr(bits, 23), u32(134));
  const power = convert(floatOf(bitcast(shl(add(and(exponent, u32(15)), u32(bias)), 23), "i32")), "u32");
  const m = or(and(bits, u32(0x7fffff)), u32(0x800000));
  const bottom = mul(low16(m), power);
  const top = add(mul(shr(m, 16), power), shr(bottom, 16));
  const number = [low16(bottom), low16(top), shr(top, 16)];
  // Eight digits of 2/pi, from number q on: those before make multiples of 4.
  let digits = twoOverPiDigits.map(u32);
  for (const step of [4, 2, 1]) {
    const isFurther = ne(and(shr(exponent, 4), u32(step)), u32(0));
    digits = digits.slice(step).map((further, i) => select(isFurther, further, digits[i]!));
  }
  // Column n of the product is worth 2^(-16 n); upper halves belong to the column before.
  const columns: Expr[] = [];
  let carry = u32(0);
  for (let n = 5; n >= 0; n--) {
    const products = number.map((digit, i) => mul(digit, digits[n + i]!));
    const own = n === 5 ? carry : products.reduce((sum, product) => add(sum, low16(product)), carry);
    columns[n] = low16(own);
    carry = products.reduce((sum, product) => add(sum, shr(product, 16)), shr(own, 16));
  }
  // Above a half the angle is negative, from the next quadrant.
  const [units, ...after] = columns as [Expr, Expr, Expr, Expr, Expr];
  const isAbove = ne(and(after[0]!, u32(0x8000)), u32(0));
  const flip = select(isAbove, u32(0xffff), u32(0));
  const [d1, d2, d3, d4] = after.map((digit) => xor(digit, flip)) as [Expr, Expr, Expr, Expr];
  const high = mul(single(or(shl(d1, 8), shr(d2, 8))), f32(2 ** -24));
  const next = mul(single(or(shl(and(d2, u32(0xff)), 16), d3)), f32(2 ** -48));
  const low = fma(single(d4), f32(2 ** -64), next);
  const size = fma(high, f32(Math.PI / 2), fma(high, halfPiRest, mul(low, f32(Math.PI / 2))));
  const r = select(isAbove, sub(zero, size), size);
  const quadrant = add(units, select(isAbove, u32(1), u32(0)));
  return { quadrant: bitcast(quadrant, "i32"), r: select(lt(x, infinity), r, f32(Number.NaN)), rest: zero };
}

const narrowReduction: Reduction = {
  largest: largestNarrowAngle,
  short: reducedNarrowAngle,
  long: reducedLargeNarrowAngle,
};

/** A function of the angle, reduced the short way wherever that is right. */
function ofAngle(x: Expr, { largest, short, long }: Reduction, f: (angle: Angle) => Expr): Expr {
  const isLarge = lt(f32(largest), abs(x));
  return rare(isLarge, f(long(x)), f(short(x)));
}

/** sin (r + rest) */
function sineNear0(r: Expr, rest: Expr | null): Expr {
  const r2 = square(r);
  const q = polynomial(r2, [-0.16666653752326965, 0.008332106284797192, -0.00019507965771481395]);
  return rest === null ? fma(mul(r, r2), q, r) : add(fma(mul(r, r2), q, rest), r);
}

function cosineNear0(r: Expr): Expr {
  const r2 = square(r);
  return fma(
    r2,
    polynomial(r2, [-0.5, 0.04166664555668831, -0.0013887297827750444, 2.443008816044312e-5]),
    one,
  );
}

/** Whether the quadrant is odd. */
function isOdd(quadrant: Expr): Expr {
  return ne(and(quadrant, i32(1)), i32(0));
}

/** y, negative where bit 1 of the quadrant is set: the product moves it to the sign. */
function withSignOfQuadrant(y: Expr, quadrant: Expr): Expr {
  return floatOf(xor(bitsOf(y), mul(and(quadrant, i32(2)), i32(2 ** 30))));
}

function sineOf({ quadrant, r, rest }: Angle): Expr {
  const near = single(r);
  return withSignOfQuadrant(select(isOdd(quadrant), cosineNear0(near), sineNear0(near, rest)), quadrant);
}

/** An odd function of x from one of |x|, with the sign of zero. */
function oddFrom(size: Expr, x: Expr): Expr {
  return floatOf(xor(bitsOf(size), and(bitsOf(x), signBit)));
}

export const sin: Unary = (x) => {
  const sine = (reduction: Reduction): Expr => oddFrom(ofAngle(abs(x), reduction, sineOf), x);
  return orNarrow(sine(wideReduction), () => sine(narrowReduction));
};

export const cos: Unary = (x) => {
  const cosine = (y: Expr, reduction: Reduction): Expr =>
    ofAngle(y, reduction, (angle) => sineOf({ ...angle, quadrant: add(angle.quadrant, i32(1)) }));
  return orNarrow(cosine(x, wideReduction), () => cosine(abs(x), narrowReduction));
};

export const tan: Unary = (x) => orNarrow(wideTangent(x), () => oddFrom(narrowTangent(abs(x)), x));

/** The tangent of r + rest, or -1 over it. */
function tangentOf({ quadrant, r, rest }: Angle): Expr {
  const r2 = square(r);
  const q = polynomial(
    r2,
    [
      0.3333333432674408, 0.13333186507225037, 0.054003845900297165, 0.021549556404352188,
      0.010205998085439205, 0.000806339317932725, 0.004062093794345856,
    ],
  );
  const slope = fma(r2, fma(r2, f32(2 / 3), one), one);
  const near = add(fma(mul(r, r2), q, mul(rest ?? zero, slope)), r);
  const odd = isOdd(quadrant);
  return div(select(odd, f32(-1), near), select(odd, near, one));
}

const narrowTangent: Unary = (x) => ofAngle(x, narrowReduction, tangentOf);

const wideTangent: Unary = (x) =>
  ofAngle(x, wideReduction, ({ quadrant, r }) => {
    // r + r³ q(r²), or -1 over it; in float64, because the slope multiplies what rounding r loses.
    const r2 = square(r);
    const q = polynomial(
      r2,
      [
        0.3333335269202376, 0.1333255931067108, 0.05407201231561426, 0.0212182530695641, 0.011005088646029228,
        -0.00012923802528122131, 0.004486111517715506,
      ],
    );
    const near = fma(mul(r, r2), q, r);
    const odd = isOdd(quadrant);
    return single(div(select(odd, f64(-1), near), select(odd, near, f64(1))));
  });

/** asin y = y + y³ q(y²) for 0 <= y <= 1/2, given y² */
function arcsineNear0(y: Expr, y2: Expr): Expr {
  const q = polynomial(
    y2,
    [
      0.16666752099990845, 0.07495297491550446, 0.04547037556767464, 0.024179518222808838,
      0.04216630384325981,
    ],
  );
  return fma(mul(y, y2), q, y);
}

/** Beyond 1/2 asin |x| = pi/2 - 2 asin(z) with z² = (1 - |x|) / 2. */
function arcsineParts(x: Expr): { readonly isNear: Expr; readonly angle: Expr } {
  const y = abs(x);
  const isNear = le(y, f32(0.5));
  const z2 = mul(sub(one, y), f32(0.5));
  const angle = arcsineNear0(select(isNear, y, sqrt(z2)), select(isNear, square(y), z2));
  return { isNear, angle };
}

const halfPi = f32(Math.PI / 2);
/** What rounding took from pi/2. */
const halfPiRest = f32(-4.371139000186241e-8);

export const asin: Unary = (x) => {
  const { isNear, angle } = arcsineParts(x);
  const far = sub(halfPi, sub(add(angle, angle), halfPiRest));
  return withSignOf(select(isNear, angle, far), x);
};

export const acos: Unary = (x) => {
  // Near 0 pi/2 - asin x; else 2 asin(z), from pi for negative x.
  const { isNear, angle } = arcsineParts(x);
  const isNegative = lt(x, zero);
  const twice = add(angle, angle);
  const signed = floatOf(xor(bitsOf(angle), and(bitsOf(x), signBit)));
  const near = sub(halfPi, sub(signed, halfPiRest));
  const far = select(isNegative, sub(f32(Math.PI), sub(twice, add(halfPiRest, halfPiRest))), twice);
  return select(isNear, near, far);
};

/** atan y = y + y³ q(y²) for 0 <= y <= 1 */
function arctangentWithin1(y: Expr): Expr {
  const y2 = square(y);
  const q = polynomial(
    y2,
    [
      -0.33333152532577515, 0.19993767142295837, -0.14211003482341766, 0.10665787011384964,
      -0.07551746070384979, 0.04320657625794411, -0.016364967450499535, 0.002920046215876937,
    ],
  );
  return fma(mul(y, y2), q, y);
}

/** pi/2 - angle */
function complement(angle: Expr): Expr {
  return sub(halfPi, sub(angle, halfPiRest));
}

export const atan: Unary = (x) => {
  const y = abs(x);
  const isFar = lt(one, y);
  const angle = arctangentWithin1(select(isFar, div(one, y), y));
  return withSignOf(select(isFar, complement(angle), angle), x);
};

export const atan2 = (y: Expr, x: Expr): Expr => {
  const [height, width] = [abs(y), abs(x)];
  const isSteep = lt(width, height);
  const longer = max(width, height);
  const ratio = div(min(width, height), longer);
  // 0 / 0 and infinity / infinity are the ratios 0 and 1 here.
  const isNan = or(ne(x, x), ne(y, y));
  const known = select(eq(longer, zero), zero, select(eq(width, height), one, ratio));
  const first = arctangentWithin1(known);
  const steep = select(isSteep, complement(first), first);
  const isLeft = lt(bitsOf(x), i32(0));
  const turned = sub(f32(Math.PI), sub(steep, add(halfPiRest, halfPiRest)));
  const angle = withSignOf(select(isLeft, turned, steep), y);
  return select(isNan, f32(Number.NaN), angle);
};

// --- error functions ---------------------------------------------------------------------------------------------

/** erf y = y + y q(y²) for 0 <= y <= 1.1 */
function erfNear0(y: Expr): Expr {
  const q = polynomial(
    square(y),
    [
      0.12837916612625122, -0.37612611055374146, 0.11283364146947861, -0.026843518018722534,
      0.005167730152606964, -0.0007824713829904795, 7.235896191559732e-5,
    ],
  );
  return fma(y, q, y);
}

export const erf: Unary = (x) => {
  const y = min(f32(3.95), abs(x));
  // Beyond 1.1 1 - p(y)^8: the eighth root of erfc is nearly straight.
  const slope = polynomial(
    y,
    [
      -0.14599601924419403, -0.060005322098731995, -0.01250177901238203, 0.013419236056506634,
      -0.002582329325377941, 0.0001603208511369303,
    ],
  );
  const root = fma(y, slope, f32(1.0010863542556763));
  const far = sub(one, square(square(square(root))));
  return withSignOf(select(lt(y, f32(1.1)), erfNear0(y), far), x);
};

export const erfc: Unary = (x) => orNarrow(erfcBy(x, scaledErfc), () => erfcBy(x, scaledNarrowErfc));

/** `scaled` is e^y² erfc y for 0.75 <= y <= 10.1. */
function erfcBy(x: Expr, scaled: Unary): Expr {
  const y = min(f32(10.1), abs(x));
  // The square of the upper half of the bits is exact, the rest of y² joins the reduced argument.
  const high = upperHalf(y);
  const rest = mul(sub(high, y), add(high, y));
  const negative = sub(zero, square(high));
  const { rounded, r } = reduced(negative, 2 * bias, rest);
  const [first, second] = powersOfTwo(rounded, negative, Math.LOG2E);
  const p = scaled(y);
  const far = mul(mul(fma(expm1Near0(r), p, p), first), second);
  const folded = select(lt(x, zero), sub(f32(2), far), far);
  const near = sub(one, withSignOf(erfNear0(y), x));
  return select(lt(y, f32(0.75)), near, folded);
}

/** A polynomial in (y - 3) / (y + 3), whose terms cancel, more than float32 can lose. */
const scaledErfc: Unary = (y) => {
  const t = div(sub(double(y), f64(3)), add(double(y), f64(3)));
  return single(
    polynomial(
      t,
      [
        0.17900115227137728, -0.3262335663720327, 0.24560366696679853, -0.15011554059030635,
        0.07166848379829066, -0.024398019463606868, 0.004250550936218568, 0.0007345355555296442,
        -0.0005413381453234937,
      ],
    ),
  );
};

/** The same over 1 + 2 y: what is left is about 1, and nothing cancels (Shepherd & Laframboise 1981). */
const scaledNarrowErfc: Unary = (y) => {
  const t = div(sub(y, f32(3)), add(y, f32(3)));
  const p = polynomial(
    t,
    [
      1.2530080080032349, -0.1356211006641388, -0.047557320445775986, 0.12964536249637604,
      -0.11935245990753174, 0.06829367578029633, -0.023363223299384117, 0.0026513291522860527,
      0.001195875694975257, -0.0010131614981219172,
    ],
  );
  return div(p, fma(f32(2), y, one));
};

export const erfInv: Unary = (x) => {
  // |x| + |x| p(w) with w = -log(1 - x²), for the ends in the square root of w (Giles 2012, "Approximating the erfinv
  // function"); 1 - x² = 2 d - d² with d = 1 - |x|, which is exact near 1.
  const y = abs(x);
  const d = sub(one, y);
  const inside = sub(add(d, d), square(d));
  const exponent = exponentOf(inside);
  const f = sub(floatOf(sub(bitsOf(inside), exponent)), one);
  const w = sub(zero, logarithm(integerOf(exponent), f));
  const slope = polynomial(
    w,
    [
      0.2320137917995453, 0.011548749171197414, -0.0023344489745795727, -0.0001273497473448515,
      4.449839980225079e-5, 4.003699814347783e-6, -1.980187107619713e-6, 2.2140160638173256e-7,
      -8.806572360242626e-9,
    ],
  );
  const middle = fma(w, slope, f32(-0.11377307772636414));
  const end = polynomial(
    sub(sqrt(w), f32(3)),
    [
      1.8329768180847168, 1.0016751289367676, 0.009445684030652046, -0.007639409974217415,
      0.00568317249417305, -0.0035869877319782972, 0.0014958569081500173, -7.661944982828572e-5,
      -0.0003187234397046268, 0.0001289641368202865,
    ],
  );
  const value = fma(y, select(lt(w, f32(5)), middle, end), y);
  return withSignOf(select(lt(y, one), value, select(eq(y, one), infinity, f32(Number.NaN))), x);
};

// --- powers ------------------------------------------------------------------------------------------------------

/** Of any float. */
export const rsqrt: Unary = (x) => div(constant(1, x.type), sqrt(x));

/** 2^f - 1 for |f| <= 1/2 */
function exp2m1Near0(f: Expr): Expr {
  const q = polynomial(
    f,
    [
      0.6931471824645996, 0.24022650718688965, 0.055504053831100464, 0.009618083946406841,
      0.0013337479904294014, 0.00015453816740773618, 1.4468128938460723e-5,
    ],
  );
  return mul(f, q);
}

/** log2 x in float64 for x >= 0: k + s p(s²) with s = (m - 1) / (m + 1), so that a product with it has bits to spare. */
function log2Wide(x: Expr): Expr {
  const isSmall = lt(x, f32(2 ** -126));
  const y = select(isSmall, mul(x, f32(2 ** 24)), x);
  const exponent = exponentOf(y);
  const m = double(floatOf(sub(bitsOf(y), exponent)));
  const k = sub(integerOf(exponent), select(isSmall, f32(24), zero));
  const s = div(sub(m, f64(1)), add(m, f64(1)));
  const p = polynomial(
    square(s),
    [2.8853900817905385, 0.9617966727298858, 0.5770837091398829, 0.41166487666610063, 0.34088174110531966],
  );
  const finite = fma(s, p, double(k));
  return select(eq(x, zero), f64(-Infinity), select(eq(x, infinity), f64(Infinity), finite));
}

/** log2 x for x >= 0, as a sum of which the first number has 12 bits. */
function log2Narrow(x: Expr): { readonly high: Expr; readonly low: Expr } {
  const isSmall = lt(x, f32(2 ** -126));
  const y = select(isSmall, mul(x, f32(2 ** 24)), x);
  const exponent = exponentOf(y);
  const m = floatOf(sub(bitsOf(y), exponent));
  const k = sub(integerOf(exponent), select(isSmall, f32(24), zero));
  // s = (m - 1) / (m + 1) = sHigh + sLow, by what is left of the numerator.
  const numerator = sub(m, one);
  const denominator = add(m, one);
  const denominatorHigh = upperHalf(denominator);
  const denominatorLow = sub(m, sub(denominatorHigh, one));
  const sHigh = upperHalf(div(numerator, denominator));
  const minus = sub(zero, sHigh);
  const sLow = div(fma(minus, denominatorLow, fma(minus, denominatorHigh, numerator)), denominator);
  // k + 2/ln 2 s + s³ p(s²), with 2/ln 2 of 12 bits and the rest.
  const s = add(sHigh, sLow);
  const s2 = square(s);
  const p = polynomial(s2, [0.9617967009544373, 0.5770753622055054, 0.4122729003429413, 0.3285216987133026]);
  const product = mul(sHigh, f32(2.884765625));
  const sum = add(k, product);
  const lost = sub(product, sub(sum, k));
  const cubic = mul(mul(s, s2), p);
  const low = add(lost, fma(sHigh, f32(0.0006244567921385169), fma(sLow, f32(2 / Math.LN2), cubic)));
  const high = upperHalf(add(sum, low));
  const ofFinite = (end: Expr, finite: Expr): Expr => select(lt(x, infinity), finite, end);
  return {
    high: select(eq(x, zero), f32(-Infinity), ofFinite(infinity, high)),
    low: select(eq(x, zero), zero, ofFinite(zero, add(sub(sum, high), low))),
  };
}

/** y log2 |x| as an integer, between -160 and 130, and the rest. */
interface Exponent {
  readonly k: Expr;
  readonly rest: Expr;
}

function wideExponent(x: Expr, y: Expr): Exponent {
  const t = min(f64(130), max(f64(-160), mul(double(y), log2Wide(abs(x)))));
  const k = nearest(t);
  return { k: single(k), rest: single(sub(t, k)) };
}

function narrowExponent(x: Expr, y: Expr): Exponent {
  const { high, low } = log2Narrow(abs(x));
  const yHigh = upperHalf(y);
  const rough = mul(y, add(high, low));
  const k = nearest(min(f32(130), max(f32(-160), rough)));
  // The products with 12 bits on both sides are exact; beyond the ends of k there is no rest.
  const rest = add(sub(mul(yHigh, high), k), fma(sub(y, yHigh), high, mul(y, low)));
  return { k, rest: select(lt(abs(rest), one), rest, zero) };
}

export const pow = (x: Expr, y: Expr): Expr =>
  orNarrow(powerBy(x, y, wideExponent(x, y)), () => {
    const exponent = narrowExponent(x, y);
    const isDefined = or(eq(exponent.k, exponent.k), eq(y, zero));
    return select(isDefined, powerBy(x, y, exponent), f32(Number.NaN));
  });

function powerBy(x: Expr, y: Expr, { k, rest }: Exponent): Expr {
  const p = exp2m1Near0(rest);
  const [first, second] = powersOfTwo(add(k, rounder(2 * bias)), k, 1);
  const positive = mul(fma(p, first, first), second);
  // A negative x needs an integer y, and keeps its sign where that is odd. As in JavaScript, 1 to an infinite y is NaN.
  const isInteger = eq(y, trunc(y));
  const halfY = mul(y, f32(0.5));
  const isOddY = and(isInteger, ne(halfY, trunc(halfY)));
  const signed = select(isOddY, withSignOf(positive, x), positive);
  const isInvalid = and(and(lt(x, zero), lt(f32(-Infinity), x)), not(isInteger));
  const result = select(or(isInvalid, ne(x, x)), f32(Number.NaN), signed);
  return select(eq(y, zero), one, result);
}
