/**
 * Scalar expressions: what a kernel computes for one element. One description for every code generator; the functions
 * of functions.ts (exp, tanh, ...) are written in it, so they give the same numbers on every device.
 */
import type { DType } from "./dtype.ts";
import { invariant } from "./errors.ts";

/** The type of a subexpression; `bool` is a mask, never a number. */
export type ExprType = "f32" | "f64" | "i32" | "u32" | "bool";

/**
 * What an expression does with its arguments.
 *
 * - `input`: element of kernel operand number `value`; `const`: the number `value`; `iota`: the row-major position of
 *   the element in the iteration space, u32
 * - `min`, `max`: NaN where either argument is; `nearest`: halves to even; `fma`: a b + c, rounded once or twice
 * - `eq ne lt le`: bool of two arguments of one type; `select`: bool, then, else
 * - `rare`: the same as `select` where the condition seldom holds: a generator may skip `then` where it does not
 * - `and or xor not`: bits of i32 and u32, or bool; `shl`, `shr`: by the constant `value`, arithmetic for i32
 * - `convert`: the nearest value of another type; floats truncate to integers and saturate, NaN gives 0; bool is
 *   "not zero", and gives 0 or 1
 * - `bitcast`: the same 32 bits as another type
 * - `call`: `scalar` of the arguments, on the host, one element at a time: slow, for what has no expression
 */
export type Op =
  | "input"
  | "const"
  | "iota"
  | "add"
  | "sub"
  | "mul"
  | "div"
  | "neg"
  | "abs"
  | "sqrt"
  | "floor"
  | "ceil"
  | "trunc"
  | "nearest"
  | "min"
  | "max"
  | "fma"
  | "eq"
  | "ne"
  | "lt"
  | "le"
  | "select"
  | "rare"
  | "and"
  | "or"
  | "xor"
  | "not"
  | "shl"
  | "shr"
  | "convert"
  | "bitcast"
  | "call";

export type ScalarFunction = (x: number, y: number, z: number) => number;

export interface Expr {
  readonly op: Op;
  readonly type: ExprType;
  readonly args: readonly Expr[];
  /** Index of an input, value of a constant, distance of a shift; else 0. */
  readonly value: number;
  /** What a `call` calls; else null. */
  readonly scalar: ScalarFunction | null;
  /** The same value without float64, for generators of devices that have none; null: the node itself. */
  readonly narrow: (() => Expr) | null;
}

const types: Readonly<Record<DType, ExprType>> = {
  float32: "f32",
  float64: "f64",
  int32: "i32",
  uint32: "u32",
  bool: "bool",
  float16: "f32",
};

/** The type that elements of a tensor have inside kernels; those of float16 are the float32 of the same value. */
export function exprType(dtype: DType): ExprType {
  return types[dtype];
}

function node(op: Op, type: ExprType, args: readonly Expr[], value = 0): Expr {
  return { op, type, args, value, scalar: null, narrow: null };
}

const same =
  (op: Op) =>
  (x: Expr, y: Expr): Expr => {
    invariant(x.type === y.type, `${op} of ${x.type} and ${y.type}`);
    return node(op, x.type, [x, y]);
  };
const unary =
  (op: Op) =>
  (x: Expr): Expr =>
    node(op, x.type, [x]);
const compare =
  (op: Op) =>
  (x: Expr, y: Expr): Expr => {
    invariant(x.type === y.type, `${op} of ${x.type} and ${y.type}`);
    return node(op, "bool", [x, y]);
  };

export const input = (index: number, type: ExprType): Expr => node("input", type, [], index);
export const constant = (value: number, type: ExprType): Expr => node("const", type, [], value);
export const iota: Expr = node("iota", "u32", []);

export const add: (x: Expr, y: Expr) => Expr = same("add");
export const sub: (x: Expr, y: Expr) => Expr = same("sub");
export const mul: (x: Expr, y: Expr) => Expr = same("mul");
export const div: (x: Expr, y: Expr) => Expr = same("div");
export const min: (x: Expr, y: Expr) => Expr = same("min");
export const max: (x: Expr, y: Expr) => Expr = same("max");
export const and: (x: Expr, y: Expr) => Expr = same("and");
export const or: (x: Expr, y: Expr) => Expr = same("or");
export const xor: (x: Expr, y: Expr) => Expr = same("xor");
export const not: (x: Expr) => Expr = unary("not");
export const neg: (x: Expr) => Expr = unary("neg");
export const abs: (x: Expr) => Expr = unary("abs");
export const sqrt: (x: Expr) => Expr = unary("sqrt");
export const floor: (x: Expr) => Expr = unary("floor");
export const ceil: (x: Expr) => Expr = unary("ceil");
export const trunc: (x: Expr) => Expr = unary("trunc");
export const nearest: (x: Expr) => Expr = unary("nearest");
export const fma = (x: Expr, y: Expr, z: Expr): Expr => node("fma", x.type, [x, y, z]);
export const eq: (x: Expr, y: Expr) => Expr = compare("eq");
export const ne: (x: Expr, y: Expr) => Expr = compare("ne");
export const lt: (x: Expr, y: Expr) => Expr = compare("lt");
export const le: (x: Expr, y: Expr) => Expr = compare("le");

export function select(condition: Expr, x: Expr, y: Expr): Expr {
  invariant(condition.type === "bool" && x.type === y.type, `select of ${x.type} and ${y.type}`);
  return node("select", x.type, [condition, x, y]);
}

/** `select` for a long computation that few elements need. */
export function rare(condition: Expr, x: Expr, y: Expr): Expr {
  invariant(condition.type === "bool" && x.type === y.type, `rare of ${x.type} and ${y.type}`);
  return node("rare", x.type, [condition, x, y]);
}

export const shl = (x: Expr, by: number): Expr => node("shl", x.type, [x], by);
export const shr = (x: Expr, by: number): Expr => node("shr", x.type, [x], by);

export function convert(x: Expr, type: ExprType): Expr {
  return x.type === type ? x : node("convert", type, [x]);
}

export function bitcast(x: Expr, type: "f32" | "i32" | "u32"): Expr {
  return x.type === type ? x : node("bitcast", type, [x]);
}

export function call(scalar: ScalarFunction, type: ExprType, args: readonly Expr[]): Expr {
  return { op: "call", type, args, value: 0, scalar, narrow: null };
}

/** A value computed by way of float64, and how it is computed without; the latter is made where it is needed. */
export function orNarrow(x: Expr, narrow: () => Expr): Expr {
  return { ...x, narrow };
}
