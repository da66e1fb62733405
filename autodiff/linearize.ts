/**
 * Linearization: the one reverse-mode building block. A primitive's jvp rule is split by who owns the operands:
 * what touches a tangent is staged as a linear program, the rest runs now under the parent trace.
 */
import { isFloat } from "../core/dtype.ts";
import type { AnyPrimitive } from "../core/primitive.ts";
import { zeros } from "../core/prims/movement.ts";
import {
  deadCodeEliminated,
  evalProgram,
  type Program,
  Recorder,
  type StageTracer,
} from "../core/program.ts";
import { bind, currentTrace, type Trace, withTrace } from "../core/trace.ts";
import { checkSameStructure, flatten } from "../core/tree.ts";
import { Tracer, type Value } from "../core/value.ts";
import { checkLikePrimals } from "./jvp.ts";
import { onLeaves } from "./leaves.ts";

class LinearizeTracer extends Tracer {
  readonly trace: LinearizeTrace;
  readonly primal: Value;
  readonly tangent: StageTracer;
  constructor(trace: LinearizeTrace, primal: Value, tangent: StageTracer) {
    super();
    this.trace = trace;
    this.primal = primal;
    this.tangent = tangent;
  }
  get aval(): Value["aval"] {
    return this.primal.aval;
  }
}

class LinearizeTrace implements Trace {
  readonly name = "linearize";
  readonly #parent = currentTrace();
  readonly recorder: Recorder = new Recorder("linearize", { parent: this.#parent, linearOnly: true });

  lift(primal: Value, tangent: Value | null): Value {
    return this.recorder.owns(tangent) ? new LinearizeTracer(this, primal, tangent) : primal;
  }

  primal(x: Value): Value {
    return x instanceof LinearizeTracer && x.trace === this ? x.primal : x;
  }

  tangent(x: Value): StageTracer | null {
    return x instanceof LinearizeTracer && x.trace === this ? x.tangent : null;
  }

  process(prim: AnyPrimitive, args: readonly Value[], params: unknown): Value[] {
    const xs = args.map((x) => this.primal(x));
    const dxs = args.map((x) => this.tangent(x));
    if (dxs.every((dx) => dx === null)) return withTrace(this.#parent, () => bind(prim, xs, params));
    const [ys, dys] = withTrace(this.recorder, () => prim.jvp(xs, dxs, params));
    return ys.map((y, i) => this.lift(y, dys[i]!));
  }
}

/** A function at a point: its value there, and its derivative as a linear program of the float inputs. */
export interface Linearized {
  readonly outs: readonly Value[];
  /** Inputs: the tangents of the inputs that `isFloat`; outputs: tangents, `null` where zero. */
  readonly program: Program;
  /** Takes a value inside the traced function to its primal: for auxiliary outputs. */
  primal(x: Value): Value;
}

/** Linearizes a function of leaves; integer leaves have no tangent and no input in the program. */
export function linearizeLeaves(f: (...xs: Value[]) => readonly Value[], xs: readonly Value[]): Linearized {
  const trace = new LinearizeTrace();
  const inputs = xs.map((x) => (isFloat(x.dtype) ? trace.recorder.input(x.aval) : null));
  const outs = withTrace(trace, () => f(...xs.map((x, i) => trace.lift(x, inputs[i]!))));
  const program = trace.recorder.finish(
    inputs.filter((x) => x !== null),
    outs.map((y) => trace.tangent(y)),
  );
  return { outs: outs.map((y) => trace.primal(y)), program, primal: (x) => trace.primal(x) };
}

/**
 * Value of a function and its derivative there as a reusable linear function.
 *
 * The non-linear part of `f` runs once; each call of the linear function costs about one evaluation of `f` or less.
 *
 * Shapes: the linear function takes tangents like `primals` and returns a tree like `f(...primals)`.
 * Units: none.
 *
 * @param f function of trees that returns a tree
 * @param primals the point
 * @returns the value and the linear function `v -> J v`
 * @throws {TreeError} if an argument is not a tree of tensors
 * @throws {ShapeError} when the linear function gets tangents of another shape
 * @example The derivative of sin at 0, twice
 * ```ts
 * const [, push] = ct.linearize((x: ct.Value) => x.sin(), ct.tensor(0));
 * assertClose(push(ct.tensor(1)), 1);
 * assertClose(push(ct.tensor(5)), 5);
 * ```
 * @source Radul et al. 2022, "You only linearize once"
 * @since 0.1.0
 */
export function linearize<A extends readonly unknown[], R>(
  f: (...args: A) => R,
  ...primals: NoInfer<A>
): [value: R, push: (...tangents: A) => R] {
  const [xs, def] = flatten(primals);
  const leafwise = onLeaves(f, def, "linearize");
  const linearized = linearizeLeaves(leafwise.call, xs);
  const program = deadCodeEliminated(linearized.program);
  const push = (...tangents: A): R => {
    const [dxs, tangentDef] = flatten(tangents);
    checkSameStructure(def, tangentDef, "push these tangents");
    checkLikePrimals("push", primals, xs, dxs);
    const outs = evalProgram(
      program,
      dxs.filter((_, i) => isFloat(xs[i]!.dtype)),
    );
    return leafwise.rebuild(outs.map((dy, i) => dy ?? zeros(linearized.outs[i]!.aval)));
  };
  return [leafwise.rebuild(linearized.outs), push];
}
