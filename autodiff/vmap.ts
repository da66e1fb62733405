/** Vectorization: a function of one example becomes a function of many, rule by rule. */

import { Aval } from "../core/aval.ts";
import { ShapeError } from "../core/errors.ts";
import type { AnyPrimitive } from "../core/primitive.ts";
import { batchFirst, moveAxis } from "../core/prims/movement.ts";
import { normalizeAxis } from "../core/shape.ts";
import { bind, checkAlive, currentTrace, type Trace, withTrace } from "../core/trace.ts";
import { flatten, paths } from "../core/tree.ts";
import { Tracer, type Value } from "../core/value.ts";
import { onLeaves } from "./leaves.ts";

class BatchTracer extends Tracer {
  readonly trace: BatchTrace;
  readonly value: Value;
  readonly dim: number;
  readonly aval: Aval;
  constructor(trace: BatchTrace, value: Value, dim: number) {
    super();
    this.trace = trace;
    this.value = value;
    this.dim = dim;
    this.aval = new Aval(value.shape.toSpliced(dim, 1), value.dtype);
  }
  override get behind(): Value {
    return this.value;
  }
}

class BatchTrace implements Trace {
  readonly name = "vmap";
  readonly #parent = currentTrace();
  readonly #size: number;

  constructor(size: number) {
    this.#size = size;
  }

  lift(value: Value, dim: number | null): Value {
    return dim === null ? value : new BatchTracer(this, value, dim);
  }

  value(x: Value): Value {
    return x instanceof BatchTracer && x.trace === this ? x.value : x;
  }

  dim(x: Value): number | null {
    return x instanceof BatchTracer && x.trace === this ? x.dim : null;
  }

  process(prim: AnyPrimitive, args: readonly Value[], params: unknown): Value[] {
    const values = args.map((x) => this.value(x));
    const dims = args.map((x) => this.dim(x));
    return withTrace(this.#parent, () => {
      if (dims.every((d) => d === null)) return bind(prim, values, params);
      const [outs, outDims] = prim.batch(values, dims, this.#size, params);
      return outs.map((y, i) => this.lift(y, outDims[i]!));
    });
  }
}

/** vmap on lists of leaves: `dims` says where each has the mapped axis; results have it at `outAxis`. */
export function vmapLeaves(
  f: (...xs: Value[]) => readonly Value[],
  xs: readonly Value[],
  dims: readonly (number | null)[],
  size: number,
  outAxis = 0,
): Value[] {
  const trace = new BatchTrace(size);
  const outs = withTrace(trace, () => f(...xs.map((x, i) => trace.lift(x, dims[i]!))));
  return outs.map((y) => {
    const value = trace.value(y);
    checkAlive(value, "return");
    const first = batchFirst(value, trace.dim(y), size);
    return moveAxis(first, 0, normalizeAxis(outAxis, first.ndim, "vmap"));
  });
}

/**
 * Which axes are mapped. An axis serves all leaves of its argument, and every result has the mapped axis.
 *
 * @since 0.1.0
 */
export interface VmapOptions {
  /** The mapped axis of each argument, `null` for an argument that all examples share; one number serves all. */
  readonly inAxes?: number | readonly (number | null)[];
  /** Where the results have the mapped axis. */
  readonly outAxes?: number;
}

/**
 * Maps a function of one example over an axis of its arguments, without a loop.
 *
 * Shapes: every leaf of a mapped argument has one more axis than `f` sees, all of one size; the results gain it at
 * `outAxes`.
 * Units: none.
 *
 * @param f function of trees; arguments whose `inAxes` is `null` may be anything
 * @throws {ShapeError} if a mapped axis is missing or the sizes differ, with the path, or `inAxes` has another length
 * @throws {TreeError} if a mapped argument is not a tree of tensors
 * @example Per-example gradients
 * ```ts
 * const slope = ct.grad((x: ct.Value) => x.mul(x).mul(x));
 * assertClose(ct.vmap(slope)(ct.tensor([1, 2, 3])), [3, 12, 27]);
 * ```
 * @since 0.1.0
 */
export function vmap<A extends readonly unknown[], R>(
  f: (...args: A) => R,
  options: VmapOptions = {},
): (...args: A) => R {
  const { inAxes = 0, outAxes = 0 } = options;
  return (...args) => {
    const axes = axesOf(inAxes, args.length);
    const mapped = args.filter((_, i) => axes[i] !== null);
    const [xs, def] = flatten(mapped);
    const mappedAxes = args.flatMap((arg, i) =>
      axes[i] === null ? [] : flatten(arg)[0].map(() => axes[i]!),
    );
    const [dims, size] = resolveDims(mapped, xs, mappedAxes);
    const wholeCall = (...trees: readonly unknown[]): R => {
      let next = 0;
      return f(...(args.map((arg, i) => (axes[i] === null ? arg : trees[next++])) as unknown as A));
    };
    const leafwise = onLeaves(wholeCall, def, "vmap");
    return leafwise.rebuild(vmapLeaves(leafwise.call, xs, dims, size, outAxes));
  };
}

/** One entry for each of `count` arguments. */
function axesOf(inAxes: NonNullable<VmapOptions["inAxes"]>, count: number): readonly (number | null)[] {
  if (typeof inAxes === "number") return new Array<number>(count).fill(inAxes);
  if (inAxes.length === count) return inAxes;
  throw new ShapeError(
    "vmap",
    `Cannot vmap ${count} arguments: inAxes has ${inAxes.length} ${inAxes.length === 1 ? "entry" : "entries"}, one for each argument is needed`,
  );
}

function resolveDims(
  mapped: unknown,
  xs: readonly Value[],
  axes: readonly number[],
): [dims: number[], size: number] {
  const [first] = xs;
  if (first === undefined)
    throw new ShapeError(
      "vmap",
      "Cannot vmap: no argument is mapped, an axis for at least one tensor is needed",
    );
  const dims = xs.map((x, i) =>
    normalizeAxis(axes[i]!, x.ndim, `vmap ${x.aval} at argument ${paths(mapped)[i]}`),
  );
  const size = first.shape[dims[0]!]!;
  xs.forEach((x, i) => {
    const n = x.shape[dims[i]!]!;
    if (n !== size) {
      throw new ShapeError(
        "vmap",
        `Cannot vmap argument ${paths(mapped)[i]}: its axis ${dims[i]} has size ${n}, ${size} is needed as in the first mapped leaf`,
      );
    }
  });
  return [dims, size];
}
