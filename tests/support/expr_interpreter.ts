/** What scalar expressions mean, element by element in JavaScript: the oracle of the code generators. */
import type { Expr, ExprType } from "../../core/expr.ts";

const bits = new DataView(new ArrayBuffer(4));

/** The nearest number of the type; a bool is 0 or 1. */
function rounded(x: number, type: ExprType): number {
  if (type === "f32") return Math.fround(x);
  if (type === "f64") return x;
  if (type === "i32") return x | 0;
  if (type === "u32") return x >>> 0;
  return x === 0 ? 0 : 1;
}

function nearestEven(x: number): number {
  const size = Math.abs(x) < 2 ** 52 ? Math.abs(x) + 2 ** 52 - 2 ** 52 : Math.abs(x);
  return x < 0 || Object.is(x, -0) ? -size : size;
}

function converted(x: number, from: ExprType, to: ExprType): number {
  if (to === "bool") return Number(x !== 0);
  if (to === "f32" || to === "f64") return rounded(x, to);
  const [low, high] = to === "i32" ? [-(2 ** 31), 2 ** 31 - 1] : [0, 2 ** 32 - 1];
  return from === "bool" ? x : Math.min(Math.max(Math.trunc(x) || 0, low), high);
}

function bitcast(x: number, from: ExprType, to: ExprType): number {
  if (from === "f32") bits.setFloat32(0, x);
  else bits.setInt32(0, x);
  return to === "f32" ? bits.getFloat32(0) : to === "i32" ? bits.getInt32(0) : bits.getUint32(0);
}

/** The value for one element, given the inputs and the element's position; `fma` rounds twice. */
export function interpret(e: Expr, inputs: readonly number[], position: number): number {
  const known = new Map<Expr, number>();
  const value = (node: Expr): number => {
    const before = known.get(node);
    if (before !== undefined) return before;
    const xs = node.args.map(value);
    const result = apply(node, xs as [number, number, number], inputs, position);
    known.set(node, result);
    return result;
  };
  return value(e);
}

function apply(
  { op, type, args, value, scalar }: Expr,
  [x, y, z]: readonly [number, number, number],
  inputs: readonly number[],
  position: number,
): number {
  const from = args[0]?.type ?? type;
  const isInteger = type === "i32" || type === "u32";
  switch (op) {
    case "input":
      return inputs[value]!;
    case "const":
      return rounded(value, type);
    case "iota":
      return position;
    case "add":
      return rounded(x + y, type);
    case "sub":
      return rounded(x - y, type);
    case "mul":
      return rounded(isInteger ? Math.imul(x, y) : x * y, type);
    case "div":
      return rounded(isInteger ? (y === 0 ? 0 : Math.trunc(x / y)) : x / y, type);
    case "neg":
      return rounded(-x, type);
    case "abs":
      return rounded(Math.abs(x), type);
    case "sqrt":
      return rounded(Math.sqrt(x), type);
    case "floor":
      return Math.floor(x);
    case "ceil":
      return Math.ceil(x);
    case "trunc":
      return Math.trunc(x);
    case "nearest":
      return nearestEven(x);
    case "min":
      return x < y || Number.isNaN(x) ? x : y;
    case "max":
      return x > y || Number.isNaN(x) ? x : y;
    case "fma":
      return rounded(rounded(isInteger ? Math.imul(x, y) : x * y, type) + z, type);
    case "eq":
      return Number(x === y);
    case "ne":
      return Number(x !== y);
    case "lt":
      return Number(x < y);
    case "le":
      return Number(x <= y);
    case "select":
    case "rare":
      return x !== 0 ? y : z;
    case "and":
      return rounded(x & y, type);
    case "or":
      return rounded(x | y, type);
    case "xor":
      return rounded(x ^ y, type);
    case "not":
      return type === "bool" ? 1 - x : rounded(~x, type);
    case "shl":
      return rounded(x << value, type);
    case "shr":
      return type === "i32" ? x >> value : x >>> value;
    case "convert":
      return converted(x, from, type);
    case "bitcast":
      return bitcast(x, from, type);
    case "call":
      return rounded(scalar!(x, y, z), type);
  }
  return op satisfies never;
}
