/** Linear operators: what second-order methods need of a matrix, without the matrix. */

import type { Backend, Executable } from "../core/backend.ts";
import { type DType, isFloat } from "../core/dtype.ts";
import { DTypeError, ShapeError } from "../core/errors.ts";
import { deadCodeEliminated } from "../core/passes/dce.ts";
import { simplified } from "../core/passes/simplify.ts";
import { zeros } from "../core/prims/movement.ts";
import { evalProgram, type Program, stage, Var } from "../core/program.ts";
import { ravel } from "../core/ravel.ts";
import { backendFor, isEager } from "../core/trace.ts";
import { Tensor, Tracer, type Value } from "../core/value.ts";
import { isCompiled } from "./jit.ts";
import { linearizeLeaves } from "./linearize.ts";
import { filledIn, type Signature, signatureName, signatureOf } from "./signature.ts";
import { gradientOf } from "./vjp.ts";

/**
 * What is known of an operator besides its products.
 *
 * @since 0.1.0
 */
export type Tag = "symmetric" | "positive semidefinite";

/**
 * A square matrix known by its products with vectors.
 *
 * @since 0.1.0
 */
export interface LinearOperator {
  /** Number of rows and columns. */
  readonly size: number;
  /** Element type of the vectors. */
  readonly dtype: DType;
  /** The device that the products come from; default "cpu", the host. */
  readonly device?: string;
  readonly tags: ReadonlySet<Tag>;
  /** The product with a vector `[size]`. */
  apply(v: Value): Value;
  transpose(): LinearOperator;
}

/**
 * The Hessian of a scalar function at a point, as an operator on raveled vectors.
 *
 * The gradient is linearized once at the point, so each product costs only the linear part of a Hessian-vector
 * product; the residuals of one gradient stay in memory while the operator lives. A function made by `jit` is recorded
 * and compiled once for all points and batches of one shape.
 *
 * Shapes: `size` is the number of elements of `params`; `apply` takes and returns `[size]`.
 * Units: none.
 * Determinism: the same bits for the same inputs on one backend.
 *
 * @param f scalar function of a tree
 * @param params the point, a tree of one float type
 * @param rest later arguments of `f`: the batch
 * @throws {ShapeError} if `f` does not return a scalar, or a vector has another size
 * @throws {DTypeError} if the leaves are not of one float type
 * @example The largest curvature of a quadratic
 * ```ts
 * const H = ct.operator.hessianOperator((x: ct.Value) => x.mul(x).mul(ct.tensor([1, 5])).sum(), ct.tensor([0, 0]));
 * assertClose(H.apply(ct.tensor([0, 1])), [0, 10]);
 * ```
 * @source Pearlmutter 1994, "Fast exact multiplication by the Hessian"
 * @since 0.1.0
 */
export function hessianOperator<P, A extends readonly unknown[]>(
  f: (p: P, ...rest: A) => Value,
  params: P,
  ...rest: A
): LinearOperator {
  const flat = ravel(params)[0];
  if (!isFloat(flat.dtype))
    throw new DTypeError(
      "hessianOperator",
      `Cannot take the Hessian at ${flat.aval}: float32 or float64 is needed`,
    );
  const product =
    isCompiled(f) && isEager() ? compiledProduct(f, params, rest) : plainProduct(f, params, rest);
  const operator: LinearOperator = {
    size: flat.size,
    dtype: flat.dtype,
    device: deviceOf([params, rest]),
    tags: new Set<Tag>(["symmetric"]),
    apply(v) {
      if (!v.aval.equals(flat.aval))
        throw new ShapeError("apply", `Cannot apply the Hessian to ${v.aval}: ${flat.aval} is needed`);
      return product(v) ?? zeros(flat.aval);
    },
    transpose: () => operator,
  };
  return operator;
}

/** Where what is computed of the tensors in a node is computed. */
function deviceOf(node: unknown): string {
  const leaves: Value[] = [];
  signatureOf(node, leaves);
  const { name, transfers } = backendFor(leaves);
  return transfers ? name : "cpu";
}

type Objective<P, A extends readonly unknown[]> = (p: P, ...rest: A) => Value;
/** The product of the Hessian at a point; null where it is zero. */
type Product = (v: Value) => Value | null;

/** The gradient as a linear function of the change of the raveled parameters. */
function linearizedGradient<P, A extends readonly unknown[]>(
  f: Objective<P, A>,
  params: P,
  rest: A,
): Program {
  const [flat, unravel] = ravel(params);
  const gradient = gradientOf((x: Value) => f(unravel(x), ...rest));
  return deadCodeEliminated(linearizeLeaves((x) => [gradient(x!)], [flat]).program);
}

function plainProduct<P, A extends readonly unknown[]>(f: Objective<P, A>, params: P, rest: A): Product {
  const linear = linearizedGradient(f, params, rest);
  return (v) => evalProgram(linear, [v])[0]!;
}

/** A gradient linearized for arguments of one kind: what is computed once at a point, and the product that uses it. */
interface CompiledGradient {
  readonly residuals: Executable;
  /** Takes the residuals, then the vector; null where the Hessian is zero. */
  readonly product: Executable | null;
}

/** For each compiled function and backend, its gradients by the kind of arguments; a device opened again is another. */
const compiledGradients = new WeakMap<object, WeakMap<Backend, Map<string, CompiledGradient>>>();
/** More kinds than this are forgotten together. */
const MOST_KINDS = 64;

/** The same for a function made by jit: recorded and compiled once for every kind of arguments. */
function compiledProduct<P, A extends readonly unknown[]>(f: Objective<P, A>, params: P, rest: A): Product {
  const leaves: Value[] = [];
  const signature = signatureOf([params, ...rest], leaves);
  const tensors = leaves.filter((x) => x instanceof Tensor);
  if (tensors.length < leaves.length) return plainProduct(f, params, rest);
  const backend = backendFor(tensors);
  const kind = signatureName(signature);
  const backends = compiledGradients.get(f) ?? new WeakMap<Backend, Map<string, CompiledGradient>>();
  compiledGradients.set(f, backends);
  const known = backends.get(backend) ?? new Map<string, CompiledGradient>();
  backends.set(backend, known);
  if (known.size >= MOST_KINDS) known.clear();
  const gradient = known.get(kind) ?? compileGradient(f, signature, leaves, backend);
  known.set(kind, gradient);
  const { product } = gradient;
  if (product === null) return () => null;
  const residuals = gradient.residuals.run(tensors);
  return (v) => {
    if (isEager() && v instanceof Tensor) return product.run([...residuals, v])[0]!;
    return plainProduct(f, params, rest)(v);
  };
}

function compileGradient<P, A extends readonly unknown[]>(
  f: Objective<P, A>,
  signature: Signature,
  leaves: readonly Value[],
  backend: Backend,
): CompiledGradient {
  let linear: Program | null = null;
  // What the linear program reads and a recorded equation gives is a residual: an output here, an input there.
  const inputs = new Map<Value, Var>();
  const point = stage(
    (...xs) => {
      const [params, ...rest] = filledIn(signature, xs) as unknown as [P, ...A];
      linear = linearizedGradient(f, params, rest);
      for (const { ins } of linear.eqns) {
        for (const atom of ins) if (atom instanceof Tracer) inputs.set(atom, new Var(atom.aval));
      }
      return [...inputs.keys()];
    },
    leaves.map((x) => x.aval),
    "hessianOperator",
  );
  const { ins, eqns, outs } = linear! as Program;
  const residuals = backend.compile(simplified(point));
  if (outs[0] === null) return { residuals, product: null };
  const product = simplified({
    ins: [...inputs.values(), ...ins],
    eqns: eqns.map((eqn) => ({
      ...eqn,
      ins: eqn.ins.map((atom) => (atom instanceof Var ? atom : (inputs.get(atom) ?? atom))),
    })),
    outs,
  });
  return { residuals, product: backend.compile(product) };
}
