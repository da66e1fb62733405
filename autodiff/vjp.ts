/** Reverse mode: linearize, then transpose. */
import { isFloat } from "../core/dtype.ts";
import { DTypeError, ShapeError, TreeError } from "../core/errors.ts";
import { like } from "../core/prims/elementwise.ts";
import { beside, checkSynchronous, scalar } from "../core/trace.ts";
import { checkSameStructure, flatten, type IsTree, map, paths, unflatten } from "../core/tree.ts";
import { Value } from "../core/value.ts";
import { checkSameAvals, onLeaves } from "./leaves.ts";
import { linearizeLeaves } from "./linearize.ts";
import { transposeProgram } from "./transpose.ts";

/**
 * Value of a function and its pullback there.
 *
 * The pullback computes `ct -> ct J` with one sweep, whatever the number of inputs.
 *
 * Shapes: the pullback takes a tree like `f(...primals)` and returns a list of trees like `primals`; integer leaves
 * get zeros.
 * Units: none.
 *
 * @throws {TreeError} if an argument or a cotangent is not a tree of tensors of the right structure
 * @throws {ShapeError} if a leaf of the cotangent differs from the result's
 * @example The gradient of a dot product in both arguments
 * ```ts
 * const [y, pullback] = ct.vjp((a: ct.Value, b: ct.Value) => a.mul(b).sum(), ct.tensor([1, 2]), ct.tensor([3, 4]));
 * assertClose(y, 11);
 * const [da, db] = pullback(ct.tensor(1));
 * assertClose(da, [3, 4]);
 * assertClose(db, [1, 2]);
 * ```
 * @since 0.1.0
 */
export function vjp<A extends readonly unknown[], R>(
  f: (...args: A) => R,
  ...primals: NoInfer<A>
): [value: R, pullback: (ct: R) => A] {
  const [xs, def] = flatten(primals);
  const leafwise = onLeaves(f, def, "vjp");
  const { outs, program } = linearizeLeaves(leafwise.call, xs);
  const pullback = (ct: R): A => {
    const [cts, ctDef] = flatten(ct);
    checkSameStructure(leafwise.outDef(), ctDef, "pull back this cotangent");
    checkSameAvals("pull back", "the cotangent", ct, outs, cts);
    return unflatten<A>(def, completed(xs, transposeProgram(program, cts)));
  };
  return [leafwise.rebuild(outs), pullback];
}

/** Cotangents of the float leaves, in order, completed to cotangents of all leaves; zeros are beside their leaf. */
function completed(xs: readonly Value[], cts: readonly (Value | null)[]): Value[] {
  let next = 0;
  return xs.map((x) => (isFloat(x.dtype) ? cts[next++] : null) ?? like(x, 0));
}

/** Which arguments to differentiate: one position gives a tree, a list of positions a list of trees. */
export type Argnums = number | readonly number[];

/** The arguments that `N` selects. */
export type Selected<A extends readonly unknown[], N extends Argnums> = N extends number
  ? A[N]
  : { -readonly [K in keyof N]: N[K] extends number ? A[N[K]] : never };

/** Refuses at compile time an argument that is not a tree of tensors. */
export type Options<A extends readonly unknown[], N extends Argnums, O> =
  IsTree<Selected<A, N>> extends true
    ? [options?: O]
    : [error: "every leaf of a differentiated argument must be a tensor"];

interface GradOptions<N> {
  readonly argnums?: N;
  readonly hasAux?: false;
}

interface AuxOptions<N> {
  readonly argnums?: N;
  readonly hasAux: true;
}

/**
 * Value and gradient of a scalar function in one sweep.
 *
 * Cost: a small constant times `f`. Later arguments pass through untouched and may be anything.
 *
 * Shapes: `f(...)`: `f32[]` or `f64[]`; the gradient: a tree like the selected argument.
 * Units: none.
 *
 * @param f scalar function; with `hasAux` it returns `[scalar, aux]`, aux a tree that is passed on
 * @param options `argnums`: which arguments (default 0); `hasAux`
 * @throws {ShapeError} if the result of `f` is not a scalar
 * @throws {DTypeError} if the result or a differentiated leaf is not of a float type
 * @throws {TreeError} if a differentiated argument is not a tree of tensors
 * @example Value and slope of a square
 * ```ts
 * const [y, dy] = ct.valueAndGrad((x: ct.Value) => x.mul(x))(ct.tensor(3));
 * assertClose(y, 9);
 * assertClose(dy, 6);
 * ```
 * @since 0.1.0
 */
export function valueAndGrad<A extends readonly unknown[], const N extends Argnums = 0>(
  f: (...args: A) => Value,
  ...options: Options<A, N, GradOptions<N>>
): (...args: A) => [value: Value, grad: Selected<A, NoInfer<N>>];
export function valueAndGrad<A extends readonly unknown[], X, const N extends Argnums = 0>(
  f: (...args: A) => readonly [Value, X],
  ...options: Options<A, N, AuxOptions<N>> & readonly unknown[]
): (...args: A) => [valueAndAux: [Value, X], grad: Selected<A, NoInfer<N>>];
export function valueAndGrad(f: AnyFunction, ...[options]: readonly unknown[]): AnyFunction {
  const run = differentiate(f, options);
  return (...args) => {
    const { value, aux, gradient } = run(args);
    return [aux ? [value, aux[0]] : value, gradient];
  };
}

/**
 * Gradient of a scalar function.
 *
 * Shapes: `f(...)`: a float scalar; the gradient: a tree like the selected argument.
 * Units: none.
 *
 * @param f scalar function; with `hasAux` it returns `[scalar, aux]`, and the result is `[gradient, aux]`
 * @param options `argnums`: which arguments (default 0); `hasAux`
 * @throws {ShapeError} if the result of `f` is not a scalar
 * @throws {DTypeError} if the result or a differentiated leaf is not of a float type
 * @throws {TreeError} if a differentiated argument is not a tree of tensors
 * @example Gradient of a model with a record of parameters
 * ```ts
 * const loss = (p: { w: ct.Value; b: ct.Value }, x: ct.Value) => p.w.mul(x).add(p.b).sum();
 * const g = ct.grad(loss)({ w: ct.tensor([1, 2]), b: ct.tensor(0) }, ct.tensor([5, 6]));
 * assertClose(g.w, [5, 6]);
 * assertClose(g.b, 2);
 * ```
 * @since 0.1.0
 */
export function grad<A extends readonly unknown[], const N extends Argnums = 0>(
  f: (...args: A) => Value,
  ...options: Options<A, N, GradOptions<N>>
): (...args: A) => Selected<A, NoInfer<N>>;
export function grad<A extends readonly unknown[], X, const N extends Argnums = 0>(
  f: (...args: A) => readonly [Value, X],
  ...options: Options<A, N, AuxOptions<N>> & readonly unknown[]
): (...args: A) => [grad: Selected<A, NoInfer<N>>, aux: X];
export function grad(f: AnyFunction, ...[options]: readonly unknown[]): AnyFunction {
  const run = differentiate(f, options);
  return (...args) => {
    const { aux, gradient } = run(args);
    return aux ? [gradient, aux[0]] : gradient;
  };
}

/** `grad` for transforms that have checked the type of the tree already. */
export function gradientOf<P, A extends readonly unknown[]>(
  f: (p: P, ...rest: A) => Value,
): (p: P, ...rest: A) => P {
  const run = differentiate(f as AnyFunction, {});
  return (p, ...rest) => run([p, ...rest]).gradient as P;
}

/** `valueAndGrad` with auxiliary output, for callers that have checked the type of the tree already. */
export function valueAndGradientOf<P, X>(
  f: (p: P) => readonly [Value, X],
): (p: P) => [valueAndAux: [Value, X], grad: P] {
  const run = differentiate(f as AnyFunction, { hasAux: true });
  return (p) => {
    const { value, aux, gradient } = run([p]);
    return [[value, aux![0] as X], gradient as P];
  };
}

type AnyFunction = (...args: readonly unknown[]) => unknown;

/** What one sweep gives; `aux` is a list of one, or null without auxiliary output. */
interface Differentiated {
  readonly value: Value;
  readonly aux: readonly [unknown] | null;
  /** A tree like the selected argument, or a list of trees. */
  readonly gradient: unknown;
}

/** The one implementation behind the typed faces above. */
function differentiate(f: AnyFunction, options: unknown): (args: readonly unknown[]) => Differentiated {
  const { argnums = 0, hasAux = false } = (options ?? {}) as { argnums?: Argnums; hasAux?: boolean };
  const positions = typeof argnums === "number" ? [argnums] : [...argnums];
  return (args) => {
    checkPositions(positions, args.length);
    const selected = positions.map((i) => args[i]);
    const [xs, def] = flatten(selected);
    checkDifferentiable(selected, xs);
    let rest: unknown = null;
    const { outs, program, result } = linearizeLeaves((...leaves) => {
      const trees = unflatten<unknown[]>(def, leaves);
      const out = f(...args.map((arg, i) => (positions.includes(i) ? trees[positions.indexOf(i)] : arg)));
      checkSynchronous(out, "grad");
      const [loss, second] = hasAux ? pair(out) : [out, null];
      rest = second;
      checkScalar(loss);
      return [loss];
    }, xs);
    const value = outs[0]!;
    const cts = transposeProgram(program, [beside(value, scalar(1, value.dtype))]);
    const gradients = unflatten<unknown[]>(def, completed(xs, cts));
    return {
      value,
      aux: hasAux ? [map((x) => result(x), rest)] : null,
      gradient: typeof argnums === "number" ? gradients[0] : gradients,
    };
  };
}

function checkPositions(positions: readonly number[], count: number): void {
  for (const [k, i] of positions.entries()) {
    if (positions.indexOf(i) !== k) {
      throw new TreeError(
        "",
        `Cannot differentiate argument ${i}: it is in argnums [${positions}] twice, distinct positions are needed`,
      );
    }
    if (!Number.isInteger(i) || i < 0 || i >= count) {
      throw new TreeError(
        "",
        `Cannot differentiate argument ${i}: the call has ${count} arguments, a position among them is needed`,
      );
    }
  }
}

function checkDifferentiable(selected: unknown, xs: readonly Value[]): void {
  xs.forEach((x, i) => {
    if (!isFloat(x.dtype)) {
      throw new DTypeError(
        "grad",
        `Cannot differentiate at ${paths(selected)[i]}: the leaf is ${x.aval}, float32 or float64 is needed; pass it as a later argument`,
      );
    }
  });
}

/** What a function with auxiliary output must return. */
function pair(out: unknown): readonly unknown[] {
  if (Array.isArray(out) && out.length === 2) return out;
  throw new TreeError(
    "",
    "Cannot differentiate with hasAux a function that does not return a pair: [loss, aux] is needed",
  );
}

function checkScalar(loss: unknown): asserts loss is Value {
  if (!(loss instanceof Value)) {
    throw new TreeError(
      "",
      "Cannot differentiate a function that does not return one tensor: a float scalar is needed; return [loss, aux] with hasAux for more",
    );
  }
  if (loss.ndim !== 0)
    throw new ShapeError(
      "grad",
      `Cannot differentiate a function that returns ${loss.aval}: a scalar is needed; take the sum or the mean, or use jacrev`,
    );
  if (!isFloat(loss.dtype))
    throw new DTypeError(
      "grad",
      `Cannot differentiate a function that returns ${loss.aval}: float32 or float64 is needed`,
    );
}
