/** Checking derivatives against differences, and the checker on the derivative itself for higher orders. */
import { Aval } from "../core/aval.ts";
import { isFloat, makeArray } from "../core/dtype.ts";
import { CheckError } from "../core/errors.ts";
import { flatten, map, unflatten } from "../core/tree.ts";
import { storage, Tensor, type Value } from "../core/value.ts";
import { jvp } from "./jvp.ts";
import { vjp } from "./vjp.ts";

/**
 * What to check, and how closely.
 *
 * @since 0.1.0
 */
export interface CheckGradsOptions {
  /** Order of derivatives to check; order 2 checks the derivative function with the same checker. Default 2. */
  readonly order?: number;
  /** Which transforms. Default both. */
  readonly modes?: readonly ("forward" | "reverse")[];
  /** Relative tolerance. Default 1e-5 for float64, 2e-2 for float32, 0.1 for float16. */
  readonly tolerance?: number;
  /** Step of the central differences, relative to unit directions. Default 1e-5 for float64, 1e-2 for float32, 1/16 for float16. */
  readonly step?: number;
  /** Seed of the random directions. */
  readonly seed?: number;
}

/**
 * Checks the derivatives of a function at a point against central differences in random directions.
 *
 * Forward: `J v` against `(f(x + h v) - f(x - h v)) / 2h`. Reverse: `<ct, J v>` against `<pullback(ct), v>`.
 *
 * The step must suit the function: small against the distance over which its derivatives change and against the distance
 * to a kink or a pole, large against the rounding of its values. The defaults suit arguments and values near 1.
 *
 * Shapes: any trees of float tensors; integer leaves are held fixed.
 * Units: none.
 *
 * @param f function of trees
 * @param args the point: tensors outside any transform
 * @throws {CheckError} naming the two numbers that should agree
 * @example A correct derivative passes
 * ```ts
 * ct.checkGrads((x: ct.Value) => x.sin().mul(x).sum(), [ct.tensor([1, 2], { dtype: "float64" })]);
 * ```
 * @since 0.1.0
 */
export function checkGrads<A extends readonly unknown[]>(
  f: (...args: A) => unknown,
  args: A,
  options: CheckGradsOptions = {},
): void {
  const { order = 2, modes = ["forward", "reverse"], seed = 0 } = options;
  const [xs] = flatten(args);
  const defaults = defaultsOf(xs);
  const { step = defaults.step, tolerance = defaults.tolerance } = options;
  const random = generator(seed + 0x9e3779b9);
  const direction = randomLike(args, random);

  const moved = (scale: number): A => map((x, d) => axpy(scale, d!, x), args, direction);
  const [above, below] = [flatten(f(...moved(step)))[0], flatten(f(...moved(-step)))[0]];
  const [value, tangent] = jvp(f, args, direction);
  const cotangent = randomLike(value, random);
  const cts = flatten(cotangent)[0];
  // Project on the random cotangent: one number per check, whatever the container.
  const numeric =
    cts.reduce((sum, ct, i) => sum + inner(ct, above[i]!) - inner(ct, below[i]!), 0) / (2 * step);
  const forward = innerTree(cotangent, tangent);
  if (modes.includes("forward")) compare("jvp", forward, numeric, tolerance);
  if (modes.includes("reverse")) {
    const [, pullback] = vjp(f, ...args);
    compare(
      "vjp",
      innerTree(pullback(cotangent), direction),
      modes.includes("forward") ? forward : numeric,
      tolerance,
    );
  }
  if (order > 1) {
    const next = { ...options, order: order - 1, seed: seed + 1 };
    if (modes.includes("forward")) checkGrads((...inner: A) => jvp(f, inner, direction)[1], args, next);
    if (modes.includes("reverse"))
      checkGrads((...inner: A) => floatsOnly(vjp(f, ...inner)[1](cotangent)), args, next);
  }
}

/** Steps at which differences lose about as many digits to rounding as to curvature. */
function defaultsOf(xs: readonly Value[]): { readonly step: number; readonly tolerance: number } {
  if (xs.some(({ dtype }) => dtype === "float16")) return { step: 2 ** -4, tolerance: 0.1 };
  if (xs.some(({ dtype }) => dtype === "float32")) return { step: 1e-2, tolerance: 2e-2 };
  return { step: 1e-5, tolerance: 1e-5 };
}

function compare(transform: string, actual: number, expected: number, tolerance: number): void {
  const scale = Math.max(1, Math.abs(actual), Math.abs(expected));
  if (!(Math.abs(actual - expected) <= tolerance * scale)) {
    throw new CheckError(
      `Cannot confirm ${transform}: it gives ${actual}, differences give ${expected}, agreement to ${tolerance} is needed`,
      actual,
      expected,
    );
  }
}

const floatsOnly = (tree: unknown): Value[] => flatten(tree)[0].filter((x) => isFloat(x.dtype));

/** A uniform [-1, 1) generator: Lehmer's, enough for directions. */
function generator(seed: number): () => number {
  let state = ((Math.imul(seed, 2654435761) >>> 0) % 2147483646) + 1;
  return () => {
    state = Number((BigInt(state) * 48271n) % 2147483647n);
    return (state / 2147483647) * 2 - 1;
  };
}

/** A tree like the given one with random float leaves and zero integer leaves. */
function randomLike<T>(tree: T, random: () => number): T {
  const [xs, def] = flatten(tree);
  return unflatten<T>(
    def,
    xs.map((x) => {
      const data = makeArray(x.dtype, x.size);
      if (isFloat(x.dtype)) for (let i = 0; i < data.length; i++) data[i] = random();
      return new Tensor(new Aval(x.shape, x.dtype), data);
    }),
  );
}

/** x + scale d on host arrays; integers stay. */
function axpy(scale: number, d: Value, x: Value): Value {
  if (!isFloat(x.dtype)) return x;
  const data = x.dataSync();
  const direction = d.dataSync();
  for (let i = 0; i < data.length; i++) data[i]! += scale * direction[i]!;
  return new Tensor(new Aval(x.shape, x.dtype), data);
}

function inner(a: Value, b: Value): number {
  if (!isFloat(a.dtype)) return 0;
  const [x, y] = [storage(a as Tensor), storage(b as Tensor)];
  let sum = 0;
  for (let i = 0; i < x.length; i++) sum += x[i]! * y[i]!;
  return sum;
}

function innerTree(a: unknown, b: unknown): number {
  const [xs, ys] = [flatten(a)[0], flatten(b)[0]];
  return xs.reduce((sum, x, i) => sum + inner(x, ys[i]!), 0);
}
