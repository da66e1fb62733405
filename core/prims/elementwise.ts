/**
 * Elementwise functions. A record is a name, a scalar function, one derivative term per argument and a domain; shape,
 * jvp, batch and the reference kernel follow. Operands have equal shapes: ops.ts broadcasts.
 */
import { Aval } from "../aval.ts";
import { type DType, isFloat, makeArray, shortName, type TypedArray } from "../dtype.ts";
import { DTypeError, ShapeError } from "../errors.ts";
import type { Expr, ExprType } from "../expr.ts";
import * as e from "../expr.ts";
import * as functions from "../functions.ts";
import { halfOfDouble } from "../half.ts";
import {
  type ArgSpec,
  type Draw,
  definePrimitive,
  type HostArray,
  Lin,
  type Primitive,
  type Tangents,
  type Traits,
} from "../primitive.ts";
import { apply, beside, bind1, scalar } from "../trace.ts";
import type { Value } from "../value.ts";
import { batchFirst, broadcast } from "./movement.ts";

/** Which element types an argument may have. */
export type Accepts = "float" | "number" | "bool" | "any";

const accepted: Readonly<Record<Accepts, (dtype: DType) => boolean>> = {
  float: isFloat,
  number: (dtype) => dtype !== "bool",
  bool: (dtype) => dtype === "bool",
  any: () => true,
};

type Scalar = (x: number, y: number, z: number) => number;
/** The contribution of one argument's tangent to the output's tangent: `dx`, the inputs and the output are given. */
type Term = (dx: Value, xs: readonly Value[], y: Value) => Value;

/**
 * What distinguishes one elementwise primitive from another.
 *
 * @since 0.1.0
 */
export interface ElementwiseRecord {
  readonly name: string;
  readonly doc: string;
  /** How many arguments, and which element types each accepts; all accepted by one word have the same type. */
  readonly accepts: readonly Accepts[];
  /** Element type of the result: that of the last argument (default) or bool. */
  readonly result?: "bool";
  readonly scalar: Scalar;
  /** Exact integer versions where the float function would round or trap. */
  readonly int32?: Scalar;
  readonly uint32?: Scalar;
  /** The same as an expression, for compiling backends; `null` for a type that has none: `scalar` is called then. */
  readonly kernel?: (x: Expr, y: Expr, z: Expr) => Expr | null;
  /** One per argument; `null` where the function is locally constant. Absent: the whole function is. */
  readonly terms?: readonly (Term | null)[];
  readonly transpose?: (ct: Value, args: readonly (Value | Lin)[]) => (Value | null)[];
  readonly traits?: Omit<Traits, "elementwise">;
  /** How to draw each argument where it differs from the default range. */
  readonly draw?: readonly Omit<ArgSpec, "shape">[];
}

/**
 * Defines an elementwise primitive from its scalar function and derivative terms.
 *
 * Shapes: all arguments and the result have one shape.
 *
 * @throws {RuleError} if the name is taken
 * @example A new activation
 * ```ts
 * const cubeP = ct.elementwise({
 *   name: "docs_cube", doc: "x * x * x", accepts: ["float"], scalar: (x) => x * x * x,
 *   terms: [(dx, [x]) => ct.mul(dx, ct.mul(3, ct.mul(x!, x!)))],
 * });
 * const cube = (x: ct.Value) => ct.bind(cubeP, [x], null)[0]!;
 * assertClose(ct.grad((x: ct.Value) => cube(x).sum())(ct.tensor([2])), [12]);
 * ```
 * @since 0.1.0
 */
export function elementwise(record: ElementwiseRecord): Primitive<null> {
  const { name, accepts, terms, transpose } = record;
  const primitive: Primitive<null> = definePrimitive({
    name,
    doc: record.doc,
    traits: { elementwise: true, ...record.traits },
    kernel: { k: "map", expr: (args, _params, out) => expressionOf(record, args, out) },
    arity: accepts.length,
    shape(args) {
      checkArguments(name, accepts, args);
      const last = args.at(-1)!;
      return [record.result === "bool" ? new Aval(last.shape, "bool") : last];
    },
    jvp(xs, dxs) {
      const y = apply(primitive, ...xs);
      return [[y], [isFloat(y.dtype) && terms ? sumTerms(terms, xs, dxs, y) : null]];
    },
    ...(transpose && { transpose: ([ct], args) => (ct ? transpose(ct, args) : args.map(() => null)) }),
    batch: (xs, dims, size) => [[apply(primitive, ...alignBatch(xs, dims, size))], [sharedDim(dims) ?? 0]],
    cpu: (args, [out]) => [
      loop(pickScalar(record, args.at(-1)!.aval.dtype), args, makeArray(out!.dtype, out!.size)),
    ],
    domain: elementwiseDomain(record),
  });
  return primitive;
}

function checkArguments(name: string, accepts: readonly Accepts[], args: readonly Aval[]): void {
  const listed = args.join(", ");
  args.forEach((x, i) => {
    const kind = accepts[i]!;
    if (!accepted[kind](x.dtype)) {
      throw new DTypeError(
        name,
        `Cannot ${name} ${listed}: argument ${i} is ${shortName(x.dtype)}, ${kind} is needed; cast first`,
      );
    }
    const peer = args.find((_, j) => accepts[j] === kind)!;
    if (x.dtype !== peer.dtype) {
      throw new DTypeError(
        name,
        `Cannot ${name} ${listed}: the element types differ, one type is needed; cast one operand`,
      );
    }
    if (x.ndim !== args[0]!.ndim || x.shape.some((n, a) => n !== args[0]!.shape[a])) {
      throw new ShapeError(
        name,
        `Cannot ${name} ${listed}: the shapes differ, equal shapes are needed; broadcast first`,
      );
    }
  });
}

/** Sum over arguments of (d y / d x_i) dx_i; null where every part is a symbolic zero. */
function sumTerms(
  terms: readonly (Term | null)[],
  xs: readonly Value[],
  dxs: Tangents,
  y: Value,
): Value | null {
  let dy: Value | null = null;
  terms.forEach((term, i) => {
    const dx = dxs[i];
    if (!term || !dx) return;
    const part = term(dx, xs, y);
    dy = dy ? add(dy, part) : part;
  });
  return dy;
}

/** The one axis that all batched arguments share, if every argument is batched there. */
function sharedDim(dims: readonly (number | null)[]): number | null {
  return dims.every((d) => d === dims[0]) ? dims[0]! : null;
}

/** Gives all arguments the batch axis at one place: where it is if all agree, else at 0. */
function alignBatch(xs: readonly Value[], dims: readonly (number | null)[], size: number): readonly Value[] {
  return sharedDim(dims) === null ? xs.map((x, i) => batchFirst(x, dims[i]!, size)) : xs;
}

function pickScalar(record: ElementwiseRecord, dtype: DType): Scalar {
  return (dtype === "int32" ? record.int32 : dtype === "uint32" ? record.uint32 : undefined) ?? record.scalar;
}

/** What a kernel computes for one element. */
function expressionOf(record: ElementwiseRecord, args: readonly Expr[], out: Aval): Expr {
  const [x, y, z] = args as [Expr, Expr, Expr];
  const dtype = dtypeOfType[args.at(-1)!.type];
  return record.kernel?.(x, y, z) ?? e.call(pickScalar(record, dtype), e.exprType(out.dtype), args);
}

const dtypeOfType: Readonly<Record<ExprType, DType>> = {
  f32: "float32",
  f64: "float64",
  i32: "int32",
  u32: "uint32",
  bool: "bool",
};

/** A kernel in float32 only; float64 has the precision of the host's function. */
export const single =
  (f: (x: Expr, y: Expr) => Expr) =>
  (x: Expr, y: Expr): Expr | null =>
    x.type === "f32" ? f(x, y) : null;

function loop(f: Scalar, args: readonly HostArray[], out: TypedArray): TypedArray {
  const n = out.length;
  const x = args[0]!.data;
  if (args.length === 1) {
    for (let i = 0; i < n; i++) out[i] = f(x[i]!, 0, 0);
    return out;
  }
  const y = args[1]!.data;
  if (args.length === 2) {
    for (let i = 0; i < n; i++) out[i] = f(x[i]!, y[i]!, 0);
    return out;
  }
  const z = args[2]!.data;
  for (let i = 0; i < n; i++) out[i] = f(x[i]!, y[i]!, z[i]!);
  return out;
}

function elementwiseDomain(record: ElementwiseRecord): (draw: Draw) => { args: ArgSpec[]; params: null } {
  return (draw) => {
    const shape = draw.shape(0, 3);
    const args = record.accepts.map((kind, i): ArgSpec => {
      const dtype = kind === "bool" ? "bool" : "float";
      return { dtype, ...record.draw?.[i], shape };
    });
    return { args, params: null };
  };
}

/** A constant with the abstract value of `x`. */
export function like(x: Value, value: number): Value {
  const one = beside(x, scalar(value, x.dtype));
  return x.ndim === 0 ? one : broadcast(one, x.shape, []);
}

const unary =
  (p: Primitive<null>) =>
  (x: Value): Value =>
    bind1(p, [x], null);
const binary =
  (p: Primitive<null>) =>
  (x: Value, y: Value): Value =>
    bind1(p, [x, y], null);

// --- arithmetic --------------------------------------------------------------------------------------------------

/** The negative. */
export const negP: Primitive<null> = elementwise({
  name: "neg",
  doc: "Negation: -x",
  accepts: ["number"],
  kernel: e.neg,
  scalar: (x) => -x,
  terms: [(dx) => neg(dx)],
  transpose: (ct) => [neg(ct)],
});
export const neg: (x: Value) => Value = unary(negP);

export const addP: Primitive<null> = elementwise({
  name: "add",
  doc: "Sum: x + y",
  accepts: ["number", "number"],
  kernel: e.add,
  scalar: (x, y) => x + y,
  terms: [(dx) => dx, (dy) => dy],
  transpose: (ct, args) => args.map((x) => (x instanceof Lin ? ct : null)),
  traits: { commutative: true },
});
export const add: (x: Value, y: Value) => Value = binary(addP);

export const subP: Primitive<null> = elementwise({
  name: "sub",
  doc: "Difference: x - y",
  accepts: ["number", "number"],
  kernel: e.sub,
  scalar: (x, y) => x - y,
  terms: [(dx) => dx, (dy) => neg(dy)],
  transpose: (ct, [x, y]) => [x instanceof Lin ? ct : null, y instanceof Lin ? neg(ct) : null],
});
export const sub: (x: Value, y: Value) => Value = binary(subP);

export const mulP: Primitive<null> = elementwise({
  name: "mul",
  doc: "x * y; integers wrap around",
  accepts: ["number", "number"],
  kernel: e.mul,
  scalar: (x, y) => x * y,
  int32: Math.imul,
  uint32: (x, y) => Math.imul(x, y) >>> 0,
  terms: [(dx, [, y]) => mul(dx, y!), (dy, [x]) => mul(x!, dy)],
  transpose: (ct, [x, y]) => [y instanceof Lin ? null : mul(ct, y!), x instanceof Lin ? null : mul(x!, ct)],
  traits: { commutative: true },
});
export const mul: (x: Value, y: Value) => Value = binary(mulP);

/** Integer quotient towards zero; 0 where the divisor is 0. */
const quotient: Scalar = (x, y) => (y === 0 ? 0 : Math.trunc(x / y));

export const divP: Primitive<null> = elementwise({
  name: "div",
  doc: "x / y; integers round towards zero and give 0 where y is 0",
  accepts: ["number", "number"],
  kernel: e.div,
  scalar: (x, y) => x / y,
  int32: quotient,
  uint32: quotient,
  // d (x / y) = dx / y - (x / y) dy / y
  terms: [(dx, [, y]) => div(dx, y!), (dy, [, y], out) => neg(mul(dy, div(out, y!)))],
  transpose: (ct, [x, y]) => [x instanceof Lin && !(y instanceof Lin) ? div(ct, y!) : null, null],
  draw: [{}, { avoid: [0], range: [-3, 3] }],
});
export const div: (x: Value, y: Value) => Value = binary(divP);

export const powP: Primitive<null> = elementwise({
  name: "pow",
  doc: "x to the power y",
  accepts: ["float", "float"],
  scalar: (x, y) => x ** y,
  kernel: single(functions.pow),
  terms: [
    // d x^y / dx = y x^(y - 1), and 0 where y = 0 even at x = 0
    (dx, [x, y]) =>
      mul(dx, mul(y!, pow(x!, where(equal(y!, like(y!, 0)), like(y!, 1), sub(y!, like(y!, 1)))))),
    // d x^y / dy = log(x) x^y, and 0 where x = 0
    (dy, [x], out) => mul(dy, mul(log(where(equal(x!, like(x!, 0)), like(x!, 1), x!)), out)),
  ],
  draw: [{ range: [0.2, 3] }, { range: [-2, 2] }],
});
export const pow: (x: Value, y: Value) => Value = binary(powP);

// --- exponentials and trigonometry -------------------------------------------------------------------------------

export const expP: Primitive<null> = elementwise({
  name: "exp",
  doc: "e to the power x",
  accepts: ["float"],
  kernel: single(functions.exp),
  scalar: Math.exp,
  terms: [(dx, _xs, y) => mul(dx, y)],
  traits: { uses: "output" },
});
export const exp: (x: Value) => Value = unary(expP);

export const expm1P: Primitive<null> = elementwise({
  name: "expm1",
  doc: "exp(x) - 1 without cancellation near 0",
  accepts: ["float"],
  kernel: single(functions.expm1),
  scalar: Math.expm1,
  terms: [(dx, _xs, y) => mul(dx, add(y, like(y, 1)))],
  traits: { uses: "output" },
});
export const expm1: (x: Value) => Value = unary(expm1P);

export const logP: Primitive<null> = elementwise({
  name: "log",
  doc: "Natural logarithm",
  accepts: ["float"],
  kernel: single(functions.log),
  scalar: Math.log,
  terms: [(dx, [x]) => div(dx, x!)],
  draw: [{ range: [0.2, 3] }],
});
export const log: (x: Value) => Value = unary(logP);

export const log1pP: Primitive<null> = elementwise({
  name: "log1p",
  doc: "log(1 + x) without cancellation near 0",
  accepts: ["float"],
  kernel: single(functions.log1p),
  scalar: Math.log1p,
  terms: [(dx, [x]) => div(dx, add(x!, like(x!, 1)))],
  draw: [{ range: [-0.7, 2] }],
});
export const log1p: (x: Value) => Value = unary(log1pP);

export const sinP: Primitive<null> = elementwise({
  name: "sin",
  doc: "Sine of radians",
  accepts: ["float"],
  scalar: Math.sin,
  kernel: single(functions.sin),
  terms: [(dx, [x]) => mul(dx, cos(x!))],
});
export const sin: (x: Value) => Value = unary(sinP);

export const cosP: Primitive<null> = elementwise({
  name: "cos",
  doc: "Cosine of radians",
  accepts: ["float"],
  scalar: Math.cos,
  kernel: single(functions.cos),
  terms: [(dx, [x]) => neg(mul(dx, sin(x!)))],
});
export const cos: (x: Value) => Value = unary(cosP);

export const tanP: Primitive<null> = elementwise({
  name: "tan",
  doc: "Tangent of radians",
  accepts: ["float"],
  scalar: Math.tan,
  kernel: single(functions.tan),
  terms: [(dx, _xs, y) => mul(dx, add(like(y, 1), mul(y, y)))], // d tan = (1 + y²) dx
  traits: { uses: "output" },
  draw: [{ range: [-1.2, 1.2] }],
});
export const tan: (x: Value) => Value = unary(tanP);

export const asinP: Primitive<null> = elementwise({
  name: "asin",
  doc: "Arc sine in radians",
  accepts: ["float"],
  scalar: Math.asin,
  kernel: single(functions.asin),
  terms: [(dx, [x]) => mul(dx, rsqrt(sub(like(x!, 1), mul(x!, x!))))], // d asin = dx / sqrt(1 - x²)
  draw: [{ range: [-0.9, 0.9] }],
});
export const asin: (x: Value) => Value = unary(asinP);

export const acosP: Primitive<null> = elementwise({
  name: "acos",
  doc: "Arc cosine in radians",
  accepts: ["float"],
  scalar: Math.acos,
  kernel: single(functions.acos),
  terms: [(dx, [x]) => neg(mul(dx, rsqrt(sub(like(x!, 1), mul(x!, x!)))))],
  draw: [{ range: [-0.9, 0.9] }],
});
export const acos: (x: Value) => Value = unary(acosP);

export const atanP: Primitive<null> = elementwise({
  name: "atan",
  doc: "Arc tangent in radians",
  accepts: ["float"],
  scalar: Math.atan,
  kernel: single(functions.atan),
  terms: [(dx, [x]) => div(dx, add(like(x!, 1), mul(x!, x!)))], // d atan = dx / (1 + x²)
});
export const atan: (x: Value) => Value = unary(atanP);

export const atan2P: Primitive<null> = elementwise({
  name: "atan2",
  doc: "Angle of the point (y, x) in radians, in (-pi, pi]",
  accepts: ["float", "float"],
  scalar: Math.atan2,
  kernel: single(functions.atan2),
  terms: [
    (dy, [y, x]) => mul(dy, div(x!, add(mul(x!, x!), mul(y!, y!)))), // d/dy = x / (x² + y²)
    (dx, [y, x]) => neg(mul(dx, div(y!, add(mul(x!, x!), mul(y!, y!))))), // d/dx = -y / (x² + y²)
  ],
  draw: [{ avoid: [0] }, { range: [0.3, 2] }],
});
export const atan2: (y: Value, x: Value) => Value = binary(atan2P);

export const sinhP: Primitive<null> = elementwise({
  name: "sinh",
  doc: "Hyperbolic sine",
  accepts: ["float"],
  scalar: Math.sinh,
  kernel: single(functions.sinh),
  terms: [(dx, [x]) => mul(dx, cosh(x!))],
});
export const sinh: (x: Value) => Value = unary(sinhP);

export const coshP: Primitive<null> = elementwise({
  name: "cosh",
  doc: "Hyperbolic cosine",
  accepts: ["float"],
  scalar: Math.cosh,
  kernel: single(functions.cosh),
  terms: [(dx, [x]) => mul(dx, sinh(x!))],
});
export const cosh: (x: Value) => Value = unary(coshP);

export const tanhP: Primitive<null> = elementwise({
  name: "tanh",
  doc: "Hyperbolic tangent",
  accepts: ["float"],
  kernel: single(functions.tanh),
  scalar: Math.tanh,
  terms: [(dx, _xs, y) => mul(dx, sub(like(y, 1), mul(y, y)))], // d tanh = (1 - y²) dx
  traits: { uses: "output" },
});
export const tanh: (x: Value) => Value = unary(tanhP);

/** 1 / (1 + e^-x), with a power of a negative number only: neither overflow nor cancellation. */
function sigmoidScalar(x: number): number {
  if (x >= 0) return 1 / (1 + Math.exp(-x));
  const power = Math.exp(x);
  return power / (1 + power);
}

export const sigmoidP: Primitive<null> = elementwise({
  name: "sigmoid",
  doc: "The logistic function 1 / (1 + exp(-x))",
  accepts: ["float"],
  kernel: single(functions.sigmoid),
  scalar: sigmoidScalar,
  terms: [(dx, _xs, y) => mul(dx, mul(y, sub(like(y, 1), y)))], // d sigmoid = y (1 - y) dx
  traits: { uses: "output" },
});
export const sigmoid: (x: Value) => Value = unary(sigmoidP);

export const softplusP: Primitive<null> = elementwise({
  name: "softplus",
  doc: "log(1 + exp(x)) without overflow",
  accepts: ["float"],
  kernel: single(functions.softplus),
  scalar: (x) => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x))),
  terms: [(dx, [x]) => mul(dx, sigmoid(x!))],
});
export const softplus: (x: Value) => Value = unary(softplusP);

/**
 * Error function in float64, relative error below 1e-15: the Maclaurin series for |x| < 2.5, 1 - erfc beyond
 * (Abramowitz & Stegun 7.1.6).
 */
export function erfScalar(x: number): number {
  const a = Math.abs(x);
  if (a > 6) return Math.sign(x);
  if (a < 2.5) {
    // erf x = 2/sqrt(pi) exp(-x²) sum 2^n x^(2n+1) / (1·3·5···(2n+1))
    let term = x;
    let sum = x;
    for (let n = 1; Math.abs(term) > 1e-17 * Math.abs(sum); n++) {
      term *= (2 * x * x) / (2 * n + 1);
      sum += term;
    }
    return (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * sum;
  }
  return Math.sign(x) * (1 - erfcTail(a));
}

/** erfc in float64 for x >= 1.5: the continued fraction (Abramowitz & Stegun 7.1.14), as long as 1e-16 needs. */
function erfcTail(x: number): number {
  // erfc x = exp(-x²)/sqrt(pi) · 1/(x + (1/2)/(x + (2/2)/(x + (3/2)/(x + ...))))
  let fraction = x;
  for (let n = Math.ceil(6 + 180 / (x * x)); n >= 1; n--) fraction = x + n / 2 / fraction;
  return Math.exp(-x * x) / (Math.sqrt(Math.PI) * fraction);
}

/** 1 - erf in float64, relative error below 2e-14 up to x = 10. */
export function erfcScalar(x: number): number {
  return x < 1.5 ? 1 - erfScalar(x) : erfcTail(x);
}

export const erfP: Primitive<null> = elementwise({
  name: "erf",
  doc: "Error function",
  accepts: ["float"],
  scalar: erfScalar,
  kernel: single(functions.erf),
  terms: [(dx, [x]) => mul(dx, mul(like(x!, 2 / Math.sqrt(Math.PI)), exp(neg(mul(x!, x!)))))], // d erf = 2/sqrt(pi) e^(-x²) dx
});
export const erf: (x: Value) => Value = unary(erfP);

export const erfcP: Primitive<null> = elementwise({
  name: "erfc",
  doc: "Complementary error function: 1 - erf(x) without cancellation",
  accepts: ["float"],
  scalar: erfcScalar,
  kernel: single(functions.erfc),
  terms: [(dx, [x]) => mul(dx, mul(like(x!, -2 / Math.sqrt(Math.PI)), exp(neg(mul(x!, x!)))))], // d erfc = -2/sqrt(pi) e^(-x²) dx
});
export const erfc: (x: Value) => Value = unary(erfcP);

export const sqrtP: Primitive<null> = elementwise({
  name: "sqrt",
  doc: "Square root",
  accepts: ["float"],
  kernel: e.sqrt,
  scalar: Math.sqrt,
  terms: [(dx, _xs, y) => div(dx, add(y, y))], // d sqrt = dx / 2y
  traits: { uses: "output" },
  draw: [{ range: [0.2, 3] }],
});
export const sqrt: (x: Value) => Value = unary(sqrtP);

export const rsqrtP: Primitive<null> = elementwise({
  name: "rsqrt",
  doc: "1 / sqrt(x)",
  accepts: ["float"],
  kernel: functions.rsqrt,
  scalar: (x) => 1 / Math.sqrt(x),
  terms: [(dx, [x], y) => mul(dx, mul(like(y, -0.5), div(y, x!)))], // d rsqrt = -y / 2x dx
  draw: [{ range: [0.2, 3] }],
});
export const rsqrt: (x: Value) => Value = unary(rsqrtP);

// --- pieces ------------------------------------------------------------------------------------------------------

export const absP: Primitive<null> = elementwise({
  name: "abs",
  doc: "Absolute value",
  accepts: ["number"],
  kernel: e.abs,
  scalar: Math.abs,
  terms: [(dx, [x]) => mul(dx, sign(x!))],
  draw: [{ avoid: [0] }],
});
export const abs: (x: Value) => Value = unary(absP);

/** -1, 0 or 1, and NaN of NaN. */
function signOf(x: Expr): Expr {
  const zero = e.constant(0, x.type);
  const one = e.constant(1, x.type);
  const below = x.type === "u32" ? zero : e.select(e.lt(x, zero), e.neg(one), x);
  return e.select(e.lt(zero, x), one, below);
}

export const signP: Primitive<null> = elementwise({
  name: "sign",
  doc: "-1, 0 or 1",
  accepts: ["number"],
  kernel: signOf,
  scalar: Math.sign,
  draw: [{ avoid: [0] }],
});
export const sign: (x: Value) => Value = unary(signP);

/** 1 where x wins, 1/2 at a tie, 0 where it loses: the derivative shared fairly between equal arguments. */
function share(wins: Value, ties: Value, x: Value): Value {
  return where(ties, like(x, 0.5), where(wins, like(x, 1), like(x, 0)));
}

export const maximumP: Primitive<null> = elementwise({
  name: "maximum",
  doc: "The larger of x and y; NaN where either is",
  accepts: ["number", "number"],
  kernel: e.max,
  scalar: (x, y) => (x > y || Number.isNaN(x) ? x : y),
  terms: [
    (dx, [x, y]) => mul(dx, share(less(y!, x!), equal(x!, y!), x!)),
    (dy, [x, y]) => mul(dy, share(less(x!, y!), equal(x!, y!), x!)),
  ],
  traits: { commutative: true },
  draw: [{ range: [-2, 0], avoid: [0] }, { range: [-1, 2] }],
});
export const maximum: (x: Value, y: Value) => Value = binary(maximumP);

export const minimumP: Primitive<null> = elementwise({
  name: "minimum",
  doc: "The smaller of x and y; NaN where either is",
  accepts: ["number", "number"],
  kernel: e.min,
  scalar: (x, y) => (x < y || Number.isNaN(x) ? x : y),
  terms: [
    (dx, [x, y]) => mul(dx, share(less(x!, y!), equal(x!, y!), x!)),
    (dy, [x, y]) => mul(dy, share(less(y!, x!), equal(x!, y!), x!)),
  ],
  traits: { commutative: true },
  draw: [{ range: [-2, 0], avoid: [0] }, { range: [-1, 2] }],
});
export const minimum: (x: Value, y: Value) => Value = binary(minimumP);

export const floorP: Primitive<null> = elementwise({
  name: "floor",
  doc: "Largest integer not above x",
  accepts: ["float"],
  kernel: e.floor,
  scalar: Math.floor,
  draw: [{ avoid: [-2, -1, 0, 1, 2] }],
});
export const floor: (x: Value) => Value = unary(floorP);

export const ceilP: Primitive<null> = elementwise({
  name: "ceil",
  doc: "Smallest integer not below x",
  accepts: ["float"],
  kernel: e.ceil,
  scalar: Math.ceil,
  draw: [{ avoid: [-2, -1, 0, 1, 2] }],
});
export const ceil: (x: Value) => Value = unary(ceilP);

export const roundP: Primitive<null> = elementwise({
  name: "round",
  doc: "Nearest integer, halves to the even one",
  accepts: ["float"],
  kernel: e.nearest,
  scalar(x) {
    const low = Math.floor(x);
    const rest = x - low;
    if (rest !== 0.5) return rest < 0.5 ? low : low + 1;
    return low % 2 === 0 ? low : low + 1;
  },
  draw: [{ avoid: [-1.5, -0.5, 0.5, 1.5] }],
});
export const round: (x: Value) => Value = unary(roundP);

// --- comparison and choice ---------------------------------------------------------------------------------------

const comparison = (
  name: string,
  doc: string,
  scalar: (x: number, y: number) => boolean,
  kernel: (x: Expr, y: Expr) => Expr,
  traits: Traits,
): Primitive<null> =>
  elementwise({
    name,
    doc,
    accepts: ["any", "any"],
    result: "bool",
    scalar: (x, y) => Number(scalar(x, y)),
    kernel,
    traits,
  });

export const equalP: Primitive<null> = comparison("equal", "Whether x = y", (x, y) => x === y, e.eq, {
  commutative: true,
});
export const notEqualP: Primitive<null> = comparison("notEqual", "Whether x != y", (x, y) => x !== y, e.ne, {
  commutative: true,
});
export const lessP: Primitive<null> = comparison("less", "Whether x < y", (x, y) => x < y, e.lt, {});
export const lessEqualP: Primitive<null> = comparison(
  "lessEqual",
  "Whether x <= y",
  (x, y) => x <= y,
  e.le,
  {},
);
export const equal: (x: Value, y: Value) => Value = binary(equalP);
export const notEqual: (x: Value, y: Value) => Value = binary(notEqualP);
export const less: (x: Value, y: Value) => Value = binary(lessP);
export const lessEqual: (x: Value, y: Value) => Value = binary(lessEqualP);

export const logicalAndP: Primitive<null> = elementwise({
  name: "logicalAnd",
  doc: "True where both are",
  accepts: ["bool", "bool"],
  kernel: e.and,
  scalar: (x, y) => x & y,
  traits: { commutative: true },
});
export const logicalOrP: Primitive<null> = elementwise({
  name: "logicalOr",
  doc: "True where either is",
  accepts: ["bool", "bool"],
  kernel: e.or,
  scalar: (x, y) => x | y,
  traits: { commutative: true },
});
export const logicalNotP: Primitive<null> = elementwise({
  name: "logicalNot",
  doc: "True where x is false",
  accepts: ["bool"],
  kernel: e.not,
  scalar: (x) => 1 - x,
});
export const logicalAnd: (x: Value, y: Value) => Value = binary(logicalAndP);
export const logicalOr: (x: Value, y: Value) => Value = binary(logicalOrP);
export const logicalNot: (x: Value) => Value = unary(logicalNotP);

export const whereP: Primitive<null> = elementwise({
  name: "where",
  doc: "x where the condition holds, else y",
  accepts: ["bool", "any", "any"],
  kernel: e.select,
  scalar: (c, x, y) => (c !== 0 ? x : y),
  terms: [null, (dx, [c]) => where(c!, dx, like(dx, 0)), (dy, [c]) => where(c!, like(dy, 0), dy)],
  transpose: (ct, [c, x, y]) => [
    null,
    x instanceof Lin ? where(c as Value, ct, like(ct, 0)) : null,
    y instanceof Lin ? where(c as Value, like(ct, 0), ct) : null,
  ],
  draw: [{}, { dtype: "float" }, { dtype: "float" }],
});
export const where = (condition: Value, x: Value, y: Value): Value => bind1(whereP, [condition, x, y], null);

// --- element types -----------------------------------------------------------------------------------------------

/** Floats to integers truncate and saturate (NaN gives 0); anything to bool is "not zero". */
function castElement(dtype: DType): (x: number) => number {
  if (dtype === "bool") return (x) => Number(x !== 0);
  if (dtype === "int32") return (x) => Math.min(Math.max(Math.trunc(x) || 0, -2147483648), 2147483647);
  if (dtype === "uint32") return (x) => Math.min(Math.max(Math.trunc(x) || 0, 0), 4294967295);
  return (x) => x;
}

export const castP: Primitive<{ readonly dtype: DType }> = definePrimitive({
  name: "cast",
  doc: "The nearest elements of another element type: floats truncate towards integers and saturate, bool is 'not zero'.",
  traits: { elementwise: true },
  arity: 1,
  shape: ([x], { dtype }) => [new Aval(x!.shape, dtype)],
  jvp: ([x], [dx], params) => [
    [bind1(castP, [x!], params)],
    [dx && isFloat(params.dtype) ? bind1(castP, [dx], params) : null],
  ],
  transpose: ([ct], [x]) => [ct && x instanceof Lin ? bind1(castP, [ct], { dtype: x.aval.dtype }) : null],
  batch: ([x], [dim], _size, params) => [[bind1(castP, [x!], params)], [dim!]],
  kernel: {
    k: "map",
    expr: ([x], { dtype }) =>
      dtype === "float16" && x!.type === "f64" ? halfOfDouble(x!) : e.convert(x!, e.exprType(dtype)),
  },
  cpu([x], [out], { dtype }) {
    if (x!.aval.dtype === dtype) return [x!.data];
    const data = makeArray(dtype, out!.size);
    const convert = castElement(dtype);
    for (let i = 0; i < data.length; i++) data[i] = convert(x!.data[i]!);
    return [data];
  },
  domain: (draw) => ({
    args: [{ shape: draw.shape(0, 3) }],
    params: { dtype: draw.pick<DType>(["float32", "float64"]) },
  }),
});
export const cast = (x: Value, dtype: DType): Value => (x.dtype === dtype ? x : bind1(castP, [x], { dtype }));

export const stopGradientP: Primitive<null> = definePrimitive({
  name: "stopGradient",
  doc: "The value itself, with derivative zero.",
  traits: { elementwise: true, gradient: "stopped" },
  arity: 1,
  shape: ([x]) => [x!],
  jvp: ([x]) => [[apply(stopGradientP, x!)], [null]],
  batch: ([x], [dim]) => [[apply(stopGradientP, x!)], [dim!]],
  kernel: { k: "map", expr: ([x]) => x! },
  cpu: ([x]) => [x!.data],
  domain: (draw) => ({ args: [{ shape: draw.shape(0, 3) }], params: null }),
});
export const stopGradient: (x: Value) => Value = unary(stopGradientP);
