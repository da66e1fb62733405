/**
 * The primitive record and the registry.
 *
 * A primitive is one record; nothing anywhere switches on its name. Transforms ask the record, tests are generated
 * from it, and a researcher's own primitive is made with the same `definePrimitive`.
 */
import type { Aval } from "./aval.ts";
import type { DType, TypedArray } from "./dtype.ts";
import { RuleError, ShapeError } from "./errors.ts";
import type { Kernel } from "./kernel.ts";
import type { Shape } from "./shape.ts";
import type { Value } from "./value.ts";

/**
 * Marks an argument of a transpose rule as the linear one; only its abstract value is known.
 *
 * @example A transpose rule of a product asks which factor is linear
 * ```ts
 * assert(new ct.Lin(ct.aval([2])).aval.size === 2);
 * ```
 * @since 0.1.0
 */
export class Lin {
  readonly aval: Aval;
  constructor(aval: Aval) {
    this.aval = aval;
  }
}

/**
 * A host array with its abstract value: what reference kernels read. Kernels must not write to `data`.
 *
 * @since 0.1.0
 */
export interface HostArray {
  readonly aval: Aval;
  readonly data: TypedArray;
}

/**
 * How tests draw one argument.
 *
 * @since 0.1.0
 */
export interface ArgSpec {
  readonly shape: Shape;
  /** `"float"` (default) lets the test choose between float32 and float64. */
  readonly dtype?: DType | "float";
  /** Elements are drawn from here; default [-2, 2]. */
  readonly range?: readonly [lo: number, hi: number];
  /** All elements differ clearly: for sorting, maxima and other functions with ties. */
  readonly distinct?: boolean;
  /** Elements keep at least 0.1 from these points, where the function has a kink or a pole. */
  readonly avoid?: readonly number[];
  /** Of the last two axes, where they are a matrix: distinct elements from here, whatever the others are. */
  readonly diagonal?: readonly [lo: number, hi: number];
}

/**
 * One drawn call of a primitive.
 *
 * @since 0.1.0
 */
export interface Sample<P> {
  readonly args: readonly ArgSpec[];
  readonly params: P;
}

/**
 * The choices a domain may make; the test owns the generator.
 *
 * @since 0.1.0
 */
export interface Draw {
  /** An integer in [lo, hi]. */
  int(lo: number, hi: number): number;
  bool(): boolean;
  pick<T>(choices: readonly T[]): T;
  /** A shape of the given rank range with small sizes; `min` is the smallest size (default 1). */
  shape(minRank: number, maxRank: number, min?: number): number[];
}

export type Tangents = readonly (Value | null)[];
export type Dims = readonly (number | null)[];

/**
 * Everything that is known of one operation.
 *
 * `P` is the type of its static parameters: plain JSON-like data.
 *
 * @since 0.1.0
 */
export interface Primitive<P> {
  readonly name: string;
  /** One sentence: what it computes. */
  readonly doc: string;
  /** How many arguments it has; absent where any number is allowed. */
  readonly arity?: number;
  /** The only place that validates arguments; throws ShapeError or DTypeError. */
  shape(args: readonly Aval[], params: P): Aval[];
  /** Outputs and their tangents; a `null` tangent is a symbolic zero. Not called when every tangent is null. */
  jvp(xs: readonly Value[], dxs: Tangents, params: P): readonly [Value[], (Value | null)[]];
  /**
   * Cotangents of the linear arguments (`Lin`), `null` for the others; absent where nothing is linear. A linear
   * argument whose cotangent is zero gets zeros: `null` there says that the output is not linear in it, as the product
   * of two linear arguments, and is a LinearityError. Only where a cotangent is `null` may all be.
   */
  transpose?(cts: Tangents, args: readonly (Value | Lin)[], params: P): (Value | null)[];
  /** Outputs over an added axis of `size`; `dims` says where each argument has it, `null` where it has none. */
  batch(xs: readonly Value[], dims: Dims, size: number, params: P): readonly [Value[], (number | null)[]];
  /** Reference semantics on host arrays; returns fresh arrays, or an argument's own where the elements are the same. */
  cpu(args: readonly HostArray[], outs: readonly Aval[], params: P): TypedArray[];
  /** How a compiling backend computes it; absent where only `cpu` does. */
  readonly kernel?: Kernel<P>;
  readonly traits: Traits;
  /** How tests draw valid inputs at which the function is differentiable. */
  domain(draw: Draw): Sample<P>;
}

export interface Traits {
  readonly elementwise?: true;
  readonly commutative?: true;
  /** Whether the derivative is cheapest from the inputs or from the output. */
  readonly uses?: "input" | "output";
  /** The derivative is zero by definition, not by calculus. */
  readonly gradient?: "stopped";
}

/**
 * A primitive whose parameter type does not matter here: the one boundary where it is forgotten.
 *
 * @since 0.1.0
 */
// biome-ignore lint/suspicious/noExplicitAny: the registry boundary; each record was checked where it was defined
export type AnyPrimitive = Primitive<any>;

const registered = new Map<string, AnyPrimitive>();

/**
 * Adds a primitive to the registry and returns it frozen.
 *
 * @throws {RuleError} if the name is taken
 * @example Twice a vector, from nothing
 * ```ts
 * const twice: ct.Primitive<null> = ct.definePrimitive<null>({
 *   name: "docs_twice", doc: "two times x", arity: 1, traits: {},
 *   shape: ([x]) => [x!],
 *   cpu: ([x]) => [x!.data.map((element) => 2 * element)],
 *   jvp: ([x], [dx]) => [ct.bind(twice, [x!], null), ct.bind(twice, [dx!], null)],
 *   transpose: ([g]) => (g ? ct.bind(twice, [g], null) : [null]),
 *   batch: ([x], [dim]) => [ct.bind(twice, [x!], null), [dim!]],
 *   domain: (draw) => ({ args: [{ shape: draw.shape(0, 2) }], params: null }),
 * });
 * const f = (x: ct.Value) => ct.bind(twice, [x], null)[0]!.sum();
 * assertClose(ct.grad(f)(ct.tensor([1, 5])), [2, 2]);
 * ```
 * @since 0.1.0
 */
export function definePrimitive<P>(record: Primitive<P>): Primitive<P> {
  if (registered.has(record.name)) {
    throw new RuleError(
      record.name,
      "name",
      `Cannot define primitive "${record.name}": the name is taken, a new name is needed`,
    );
  }
  const { name, arity, shape } = record;
  const checked = (args: readonly Aval[], params: P): Aval[] => {
    if (args.length !== arity) {
      throw new ShapeError(
        name,
        `Cannot ${name} ${args.join(", ")}: there are ${args.length} arguments, ${arity} are needed`,
      );
    }
    return shape(args, params);
  };
  const frozen = Object.freeze({
    ...record,
    shape: arity === undefined ? shape : checked,
    traits: Object.freeze({ ...record.traits }),
  });
  registered.set(record.name, frozen);
  return frozen;
}

/**
 * Every primitive defined so far, in order of definition.
 *
 * @example How many have a transpose rule
 * ```ts
 * assert(ct.primitives().some(({ transpose }) => transpose !== undefined));
 * ```
 * @since 0.1.0
 */
export function primitives(): readonly AnyPrimitive[] {
  return [...registered.values()];
}

/** The error for reverse mode through a primitive whose record has no transpose rule: the one rule that may be absent. */
export function missingTranspose({ name }: AnyPrimitive): RuleError {
  return new RuleError(
    name,
    "transpose",
    `Cannot apply transpose to primitive "${name}": its record has no transpose rule, one is needed in definePrimitive`,
  );
}
