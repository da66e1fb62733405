/**
 * How far apart two right backends may be: every value of a program with a bound on the difference of its elements.
 * Bound 0 says that every backend gives these bits, but for the sign of zero. A step whose result hangs on rounding,
 * as a comparison of equal sums does, has no bound and is refused: what is left is right or wrong, never luck.
 */
import { Aval } from "../../core/aval.ts";
import { reference } from "../../core/backend.ts";
import { isFloat, makeArray, type TypedArray } from "../../core/dtype.ts";
import type { AnyPrimitive } from "../../core/primitive.ts";
import type { Program } from "../../core/program.ts";
import { storage, Tensor } from "../../core/value.ts";
import { epsilon } from "./tolerance.ts";

/** A value by the reference, and how far from its elements those of another right backend may be. */
export interface Approximate {
  readonly value: Tensor;
  readonly error: number;
}

/** Bounds beyond this, relative to the largest element, say too little. */
const LARGEST_ERROR = 2 ** -10;
/** Larger floats are refused: nothing overflows by luck. */
const LARGEST = 2 ** 33;
/** Sums of float32 lose no more than so many terms do that are added one after the other and all round one way. */
const LONGEST_CHAIN = 256;

/** Below the normal range, float32 numbers are so far apart. */
const SMALLEST = 2 ** -149;

/** What is the same to the bit for the same operands; of the rest every backend is right to a few units. */
const unrounded: ReadonlySet<string> = new Set([
  ..."neg abs sign maximum minimum floor ceil round stopGradient where".split(" "),
  ..."equal notEqual less lessEqual logicalAnd logicalOr logicalNot".split(" "),
]);
const roundedOnce: ReadonlySet<string> = new Set("add sub mul div sqrt cast".split(" "));
const FUNCTION_UNITS = 8;
/** Where 0 and -0 have different results, so that nothing may be on both sides of 0. */
const readsSignOfZero: ReadonlySet<string> = new Set("div pow rsqrt atan2".split(" "));

/** Comparisons that say the same between two points as at both; equality does not. */
const ordered: ReadonlySet<string> = new Set("less lessEqual".split(" "));

/** Named kernels that choose elements of their float operands. */
const choosing: ReadonlySet<string> = new Set("gather poolGather maxPool".split(" "));
/** Named kernels that are linear in each float operand. */
const linear: ReadonlySet<string> = new Set(
  "dot conv convInput convKernel cumsum scatterAdd poolScatter sumPool sumPoolTranspose".split(" "),
);
/** Of these, those that may or may not multiply by the zeros around and between elements. */
const padded: ReadonlySet<string> = new Set("conv convInput convKernel".split(" "));

/** Applies a primitive; null where the result hangs on rounding, or says too little. */
export function applied(
  prim: AnyPrimitive,
  args: readonly Approximate[],
  params: unknown,
): readonly Approximate[] | null {
  const values = reference.evaluate(
    prim,
    args.map(({ value }) => value),
    params,
  );
  const results = values.map((value, i) => ({ value, error: errorOf(prim, args, params, value, i) }));
  return results.every(({ value, error }) => {
    const scale = largest(value);
    return error <= LARGEST_ERROR * Math.max(1, scale) && (scale <= LARGEST || !isFloat(value.dtype));
  })
    ? results
    : null;
}

/** What is known of a value that is given: everything. */
export function exact(atom: unknown): Approximate {
  return { value: atom as Tensor, error: 0 };
}

/** Every variable of a program; null where one hangs on rounding. */
export function approximated(
  { ins, eqns }: Program,
  args: readonly Tensor[],
): ReadonlyMap<unknown, Approximate> | null {
  const values = new Map<unknown, Approximate>(ins.map((v, i) => [v, exact(args[i])]));
  for (const eqn of eqns) {
    const operands = eqn.ins.map((atom) => values.get(atom) ?? exact(atom));
    const results = applied(eqn.prim, operands, eqn.params);
    if (results === null) return null;
    eqn.outs.forEach((v, i) => {
      values.set(v, results[i]!);
    });
  }
  return values;
}

/** Throws unless the elements are those of the value, within its bound. */
export function assertApproximates(actual: Tensor, { value, error }: Approximate, what: string): void {
  if (!actual.aval.equals(value.aval))
    throw new Error(`${what}: the result is ${actual.aval}, ${value.aval} is needed`);
  const [xs, ys] = [storage(actual), storage(value)];
  for (let i = 0; i < ys.length; i++) {
    const [x, y] = [xs[i]!, ys[i]!];
    if (x !== y && !(Math.abs(x - y) <= error) && !(Number.isNaN(x) && Number.isNaN(y)))
      throw new Error(`${what}: element ${i} is ${x}, ${y} is needed to ${error}`);
  }
}

function errorOf(
  prim: AnyPrimitive,
  args: readonly Approximate[],
  params: unknown,
  value: Tensor,
  index: number,
): number {
  const { kernel, traits } = prim;
  const inherited = Math.max(0, ...args.map(({ error }) => error));
  if (kernel?.k === "view" || kernel?.k === "place") return inherited;
  if (traits.elementwise) return elementwiseError(prim, args, params, value);
  if (kernel?.k === "reduce" && kernel.join === "sum") return linearError(prim, args, params, value);
  if (kernel?.k === "reduce" && kernel.join === "prod") return productError(prim, args[0]!, params, value);
  if (kernel?.k === "reduce") return inherited;
  const name = kernel?.k === "named" ? kernel.name : "";
  if (choosing.has(name)) return inherited;
  if (linear.has(name)) return linearError(prim, args, params, value);
  // A sorted list moves no more than its elements do, but its companions follow the order.
  if (name === "sort") return args.length === 1 || args[0]!.error === 0 ? args[index]!.error : Infinity;
  return inherited === 0 ? 0 : Infinity;
}

/** What the function makes of operands that are as far away as they may be. */
function elementwiseError(
  prim: AnyPrimitive,
  args: readonly Approximate[],
  params: unknown,
  value: Tensor,
): number {
  if (readsSignOfZero.has(prim.name)) {
    const flipped = args.map((x) => mapped(x.value, (element) => (element === 0 ? -element : element)));
    if (distance(reference.evaluate(prim, flipped, params)[0]!, value) > 0) return Infinity;
    const isNearZero = (x: Approximate): boolean =>
      x.error > 0 && storage(x.value).some((element: number) => Math.abs(element) <= 2 * x.error);
    if (args.some(isNearZero)) return Infinity;
  }
  const total = args.reduce((sum, { error }) => sum + error, 0);
  const units = unrounded.has(prim.name)
    ? 0
    : !roundedOnce.has(prim.name)
      ? FUNCTION_UNITS
      : Number(total > 0);
  const rounding = units === 0 ? 0 : units * (unitOf(value) * largest(value) + SMALLEST);
  if (total === 0) return rounding;
  if (value.dtype === "bool" && !ordered.has(prim.name)) return Infinity;
  const isSmooth = isFloat(value.dtype);
  const wide = args.map((x) => widened(x.value));
  const centre = reference.evaluate(prim, wide, params)[0]!;
  const reaches = args.map((x) => (isSmooth || x.error === 0 ? x.error : 2 * total));
  const moves = corners(reaches).map((shifts) => {
    const at = wide.map((x, i) => (shifts[i] === 0 ? x : mapped(x, (element) => element + shifts[i]!)));
    return distance(reference.evaluate(prim, at, params)[0]!, centre);
  });
  const error = Math.max(...moves);
  if (!isSmooth) return error === 0 ? 0 : Infinity;
  // The slope changes a little on the way.
  return 1.0625 * error + rounding;
}

/** Every choice of signs. */
function corners(reaches: readonly number[]): number[][] {
  let list: number[][] = [[]];
  for (const reach of reaches) {
    const ends = reach === 0 ? [0] : [-reach, reach];
    list = list.flatMap((shifts) => ends.map((end) => [...shifts, end]));
  }
  return list;
}

/** Rounding in proportion to the sum of the absolute values, and what inexact operands add. */
function linearError(
  prim: AnyPrimitive,
  args: readonly Approximate[],
  params: unknown,
  value: Tensor,
): number {
  if (!isFloat(value.dtype) || value.size === 0) return 0;
  const of = (pick: (x: Tensor, i: number) => Tensor): number =>
    largest(
      reference.evaluate(
        prim,
        args.map((x, i) => (isFloat(x.value.dtype) ? pick(x.value, i) : x.value)),
        params,
      )[0]!,
    );
  const size = (x: Tensor): Tensor => mapped(widened(x), Math.abs);
  const ones = (x: Tensor): Tensor => mapped(widened(x), () => 1);
  const factors = args.filter((x) => isFloat(x.value.dtype));
  const isExact = factors.every(({ error }) => error === 0);
  if (!factors.every((x) => storage(x.value).every(Number.isFinite))) {
    if (padded.has(prim.name) || (factors.length > 1 && !isExact)) return Infinity;
  }
  const total = of(size);
  const bits = factors.reduce((sum, x) => sum + fractionBits(x.value), 0);
  if (isExact && total * 2 ** bits <= 1 / unitOf(value)) return 0;
  const terms = of(ones);
  const chain = value.dtype === "float32" ? Math.min(terms, LONGEST_CHAIN) : terms;
  let error = (unitOf(value) * total + SMALLEST) * (chain / 2 + 4);
  args.forEach((x, i) => {
    if (x.error > 0) error += x.error * of((y, j) => (j === i ? ones(y) : size(y)));
  });
  // Of two inexact factors, and of both where each is 0.
  return factors.length > 1 ? error + terms * factors.reduce((product, x) => product * x.error, 1) : error;
}

/** Products of float32 are taken in float64. */
function productError(prim: AnyPrimitive, x: Approximate, params: unknown, value: Tensor): number {
  if (!isFloat(value.dtype)) return 0;
  const of = (f: (element: number) => number): Tensor =>
    reference.evaluate(prim, [mapped(widened(x.value), f)], params)[0]!;
  if (x.error === 0) {
    const isSmall = largest(of((element) => Math.max(1, Math.abs(element)))) <= 1 / unitOf(value);
    if (isSmall && fractionBits(x.value) === 0) return 0;
  } else if (!storage(x.value).every(Number.isFinite)) return Infinity;
  const moved =
    x.error === 0
      ? 0
      : distance(
          of((element) => Math.abs(element) + x.error),
          of(Math.abs),
        );
  return moved + x.value.size * (unitOf(value) * largest(value) + SMALLEST);
}

// --- elements ----------------------------------------------------------------------------------------------------

const unitOf = ({ dtype }: Tensor): number => (dtype === "float64" ? epsilon.float64 : epsilon.float32);

/** Float32 as float64. */
function widened(x: Tensor): Tensor {
  if (x.dtype !== "float32") return x;
  return new Tensor(new Aval(x.shape, "float64"), new Float64Array(storage(x)));
}

function mapped(x: Tensor, f: (element: number) => number): Tensor {
  if (!isFloat(x.dtype)) return x;
  const from = storage(x);
  const data = makeArray(x.dtype, x.size);
  for (let i = 0; i < data.length; i++) data[i] = f(from[i]!);
  return new Tensor(x.aval, data);
}

/** How many bits all elements have after the point at most; infinite where that is many, or an element is not finite. */
function fractionBits(x: Tensor): number {
  let bits = 0;
  for (const element of storage(x)) {
    while (!Number.isInteger(element * 2 ** bits)) if (++bits > 24) return Infinity;
  }
  return bits;
}

/** The largest absolute value among the finite elements; 0 if there are none. */
export function largest(x: Tensor): number {
  let most = 0;
  for (const element of storage(x)) {
    const size = Math.abs(element);
    if (size > most && size < Infinity) most = size;
  }
  return most;
}

/** The largest difference; infinite where only one is finite. */
function distance(x: Tensor, y: Tensor): number {
  const [xs, ys]: TypedArray[] = [storage(x), storage(y)];
  let most = 0;
  for (let i = 0; i < ys!.length; i++) {
    const [a, b] = [xs![i]!, ys![i]!];
    if (a === b || (Number.isNaN(a) && Number.isNaN(b))) continue;
    const apart = Math.abs(a - b);
    if (Number.isNaN(apart)) return Infinity;
    if (apart > most) most = apart;
  }
  return most;
}
