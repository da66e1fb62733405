/**
 * Operators that belong to a point: a linear map of the change of raveled parameters, derived once where the parameters
 * are. For functions made by jit the derivation is recorded and compiled once for all points and batches of one shape.
 */
import type { Backend, Executable } from "../core/backend.ts";
import { isFloat } from "../core/dtype.ts";
import { DTypeError, ShapeError } from "../core/errors.ts";
import { simplified } from "../core/passes/simplify.ts";
import { like } from "../core/prims/elementwise.ts";
import { evalProgram, type Program, stage, Var } from "../core/program.ts";
import { ravel } from "../core/ravel.ts";
import { backendFor, isEager } from "../core/trace.ts";
import { Tensor, Tracer, type Value } from "../core/value.ts";
import type { LinearOperator, Tag } from "./operator_algebra.ts";
import { filledIn, type Signature, signatureName, signatureOf } from "./signature.ts";

/** An operator before it is at a point. */
export interface OperatorKind<P, A extends readonly unknown[]> {
  /** What errors call the function, and the operator. */
  readonly op: string;
  readonly noun: string;
  readonly tags: readonly Tag[];
  /** The map at a point as a program of one vector, under any trace. */
  derive(params: P, rest: A): Program;
  /** What the map depends on besides point and batch, where that never changes: then it is compiled and kept. */
  readonly keys: readonly object[] | null;
}

/** The operator of a kind at a point; `rest` is the batch. */
export function operatorAt<P, A extends readonly unknown[]>(
  kind: OperatorKind<P, A>,
  params: P,
  rest: A,
): LinearOperator {
  const { op, noun, tags, keys } = kind;
  const flat = ravel(params)[0];
  if (!isFloat(flat.dtype))
    throw new DTypeError(op, `Cannot take the ${noun} at ${flat.aval}: float32 or float64 is needed`);
  const product =
    keys !== null && isEager() ? compiledProduct(kind, keys, params, rest) : plainProduct(kind, params, rest);
  const operator: LinearOperator = {
    size: flat.size,
    dtype: flat.dtype,
    device: deviceOf([params, rest]),
    tags: new Set<Tag>(tags),
    apply(v) {
      if (!v.aval.equals(flat.aval))
        throw new ShapeError("apply", `Cannot apply the ${noun} to ${v.aval}: ${flat.aval} is needed`);
      return product(v) ?? like(flat, 0);
    },
    // Every kind is symmetric.
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

/** The product with the map at a point; null where it is zero. */
type Product = (v: Value) => Value | null;

function plainProduct<P, A extends readonly unknown[]>(
  kind: OperatorKind<P, A>,
  params: P,
  rest: A,
): Product {
  const linear = kind.derive(params, rest);
  return (v) => evalProgram(linear, [v])[0]!;
}

/** A map derived for arguments of one signature: what is computed once at a point, and the product that uses it. */
interface CompiledMap {
  readonly residuals: Executable;
  /** Takes the residuals, then the vector; null where the map is zero. */
  readonly product: Executable | null;
}

/** A place in a tree whose ways are objects, each kept as long as its object. */
interface Place {
  readonly ways: WeakMap<object, Place>;
  /** By the name of the signature. */
  readonly maps: Map<string, CompiledMap>;
}

const newPlace = (): Place => ({ ways: new WeakMap(), maps: new Map() });
/** The ways are the operator's function, the functions it is of, and the backend; a device opened again is another. */
const root = newPlace();
/** More signatures than this in one place are forgotten together. */
const MOST_SIGNATURES = 64;

function placeOf(keys: readonly object[]): Place {
  return keys.reduce<Place>((place, key) => {
    const next = place.ways.get(key) ?? newPlace();
    place.ways.set(key, next);
    return next;
  }, root);
}

function compiledProduct<P, A extends readonly unknown[]>(
  kind: OperatorKind<P, A>,
  keys: readonly object[],
  params: P,
  rest: A,
): Product {
  const leaves: Value[] = [];
  const signature = signatureOf([params, ...rest], leaves);
  const tensors = leaves.filter((x) => x instanceof Tensor);
  if (tensors.length < leaves.length) return plainProduct(kind, params, rest);
  const backend = backendFor(tensors);
  const { maps } = placeOf([...keys, backend]);
  const name = signatureName(signature);
  if (maps.size >= MOST_SIGNATURES) maps.clear();
  const map = maps.get(name) ?? compileMap(kind, signature, leaves, backend);
  maps.set(name, map);
  const { product } = map;
  if (product === null) return () => null;
  const residuals = map.residuals.run(tensors);
  return (v) => {
    if (isEager() && v instanceof Tensor) return product.run([...residuals, v])[0]!;
    return plainProduct(kind, params, rest)(v);
  };
}

function compileMap<P, A extends readonly unknown[]>(
  { op, derive }: OperatorKind<P, A>,
  signature: Signature,
  leaves: readonly Value[],
  backend: Backend,
): CompiledMap {
  let linear: Program | null = null;
  // What the linear program reads and a recorded equation gives is a residual: an output here, an input there.
  const inputs = new Map<Value, Var>();
  const point = stage(
    (...xs) => {
      const [params, ...rest] = filledIn(signature, xs) as unknown as [P, ...A];
      linear = derive(params, rest);
      for (const { ins } of linear.eqns) {
        for (const atom of ins) if (atom instanceof Tracer) inputs.set(atom, new Var(atom.aval));
      }
      return [...inputs.keys()];
    },
    leaves.map((x) => x.aval),
    op,
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
