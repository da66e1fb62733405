/**
 * Mathematical functions of float32 as scalar expressions.
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
  fma,
  lt,
  max,
  min,
  mul,
  or,
  select,
  sub,
} from "./expr.ts";

type F = (x: Expr) => Expr;
const c = (value: number): Expr => constant(value, "f32");
const int = (value: number): Expr => constant(value, "i32");
const bitsOf = (x: Expr): Expr => bitcast(x, "i32");
const floatOf = (x: Expr): Expr => bitcast(x, "f32");

/** c0 + c1 x + c2 x² + ...: pairs first, so that less waits for the multiplication before it (Estrin's scheme). */
function polynomial(x: Expr, coefficients: readonly number[]): Expr {
  let terms = coefficients.map((value) => constant(value, x.type));
  for (let power = x; terms.length > 1; power = mul(power, power)) {
    const pairs: Expr[] = [];
    for (let i = 0; i < terms.length; i += 2) {
      const odd = terms[i + 1];
      pairs.push(odd ? fma(odd, power, terms[i]!) : terms[i]!);
    }
    terms = pairs;
  }
  return terms[0]!;
}

/** The magnitude of x, which is not negative, with the sign of y. */
function withSignOf(x: Expr, y: Expr): Expr {
  return floatOf(or(bitsOf(x), and(bitsOf(y), int(-0x80000000))));
}

// --- exponentials ------------------------------------------------------------------------------------------------

// Adding 1.5 2^23 rounds to an integer, which then stands in the low bits.
const rounding = 1.5 * 2 ** 23;
const ln2High = 0.693145751953125; // 16 bits, so that k ln2High is exact
const ln2Low = 1.428606820309417e-6;

/** x = k ln 2 + r with |r| <= ln 2 / 2; `k` is the integer in the low bits of a float. */
function reduce(x: Expr): { shifted: Expr; k: Expr; r: Expr } {
  const shifted = fma(x, c(Math.LOG2E), c(rounding));
  const k = sub(shifted, c(rounding));
  const r = fma(k, c(-ln2Low), fma(k, c(-ln2High), x));
  return { shifted, k, r };
}

/** 2^k of the integer k in the low bits; shifting pushes the other bits out. */
function powerOfTwo(k: Expr): Expr {
  return floatOf(add(mul(k, int(2 ** 23)), int(127 * 2 ** 23)));
}

/** e^r - 1 for |r| <= ln 2 / 2 */
function expm1Near0(r: Expr): Expr {
  const q = polynomial(r, [0.4999999701976776, 0.16666534543037415, 0.04166771471500397, 0.008367698639631271, 0.001384192262776196]);
  return fma(mul(r, r), q, r);
}

function expWithin(x: Expr, halvings = 0): Expr {
  const { shifted, r } = reduce(x);
  const half = fma(x, c(Math.LOG2E / 2), c(rounding));
  const p = add(expm1Near0(r), c(1));
  const k1 = bitsOf(half);
  const k2 = sub(bitsOf(shifted), k1);
  return mul(mul(p, powerOfTwo(k1)), floatOf(add(mul(k2, int(2 ** 23)), int((127 - halvings) * 2 ** 23))));
}

export const exp: F = (x) => expWithin(min(c(89), max(c(-104), x)));

export const expm1: F = (x) => {
  const { shifted, r } = reduce(min(c(89), max(c(-18), x)));
  const half = floatOf(add(mul(bitsOf(shifted), int(2 ** 23)), int(126 * 2 ** 23)));
  // 2 (2^(k-1) (e^r - 1) + 2^(k-1) - 1/2)
  const y = fma(half, expm1Near0(r), sub(half, c(0.5)));
  return withSignOf(abs(add(y, y)), x);
};

export const tanh: F = (x) => {
  const y = abs(x);
  const { shifted, r } = reduce(min(c(20), add(y, y)));
  const power = powerOfTwo(bitsOf(shifted));
  const t = fma(power, expm1Near0(r), sub(power, c(1)));
  return withSignOf(div(t, add(t, c(2))), x);
};

export const sigmoid: F = (x) => {
  const power = expWithin(max(c(-104), floatOf(or(bitsOf(x), int(-0x80000000)))));
  return div(select(lt(x, c(0)), power, c(1)), add(power, c(1)));
};

// --- logarithms

function logarithm(f: Expr, k: Expr): Expr {
  const q = polynomial(f, [0.3333333134651184, -0.2500081956386566, 0.20001226663589478, -0.16623356938362122, 0.14201757311820984, -0.13160187005996704, 0.1276158094406128, -0.07634491473436356]);
  const square = mul(f, f);
  const low = fma(k, c(ln2Low), mul(mul(square, f), q));
  return fma(k, c(ln2High), add(f, fma(square, c(-0.5), low)));
}

export const softplus: F = (x) => {
  const e = expWithin(max(c(-104), floatOf(or(bitsOf(x), int(-0x80000000)))));
  const over = lt(c(Math.SQRT2 - 1), e);
  const f = select(over, mul(sub(e, c(1)), c(0.5)), e);
  return add(max(x, c(0)), logarithm(f, select(over, c(1), c(0))));
};

export const log: F = (x) => {
  const small = lt(x, c(2 ** -126));
  const y = select(small, mul(x, c(2 ** 24)), x);
  const bits = sub(bitsOf(y), int(0x3f3504f3));
  const e = and(bits, int(-0x800000));
  const f = sub(floatOf(sub(bitsOf(y), e)), c(1));
  const k = add(mul(convert(e, "f32"), c(2 ** -23)), select(small, c(-24), c(0)));
  const r = logarithm(f, k);
  // inf, nan, 0, negative
  const finite = select(lt(x, c(Infinity)), r, add(x, x));
  return select(lt(c(0), x), finite, select(lt(x, c(0)), c(NaN), sub(x, c(Infinity))));
};

export const log1p: F = (x) => {
  const u = add(x, c(1));
  const e = and(sub(bitsOf(u), int(0x3f3504f3)), int(-0x800000));
  const k = mul(convert(e, "f32"), c(2 ** -23));
  const inverse = floatOf(max(sub(int(0x3f800000), e), int(0)));
  const f = add(floatOf(sub(bitsOf(x), e)), sub(inverse, c(1)));
  const r = logarithm(f, k);
  const finite = withSignOf(abs(select(lt(x, c(Infinity)), r, x)), x);
  return select(lt(c(-1), x), finite, select(lt(x, c(-1)), c(NaN), sub(x, c(Infinity))));
};
