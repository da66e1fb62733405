/**
 * Linearization: the one reverse-mode building block. A primitive's jvp rule is split by who owns the operands:
 * what touches a tangent is staged as a linear program, the rest runs now under the parent trace.
 */
import { isFloat } from "../core/dtype.ts";
import { like } from "../core/prims/elementwise.ts";
import { deadCodeEliminated, evalProgram, type Program, Recorder } from "../core/program.ts";
import { currentTrace, withTrace } from "../core/trace.ts";
import { checkSameStructure, flatten } from "../core/tree.ts";
import type { Value } from "../core/value.ts";
import { DualTrace } from "./dual.ts";
import { checkSameAvals, onLeaves } from "./leaves.ts";

/** A function at a point: its value there, and its derivative as a linear program of the float inputs. */
export interface Linearized {
  readonly outs: readonly Value[];
  /** Inputs: the tangents of the inputs that `isFloat`; outputs: tangents, `null` where zero. */
  readonly program: Program;
  /** Takes another value that the traced function returned to its primal: for auxiliary outputs. */
  result(x: Value): Value;
}

/** Linearizes a function of leaves; integer leaves have no tangent and no input in the program. */
export function linearizeLeaves(f: (...xs: Value[]) => readonly Value[], xs: readonly Value[]): Linearized {
  const recorder = new Recorder("linearize", { parent: currentTrace(), linearOnly: true });
  const trace = new DualTrace("linearize", recorder);
  const inputs = xs.map((x) => (isFloat(x.dtype) ? recorder.input(x.aval) : null));
  const outs = withTrace(trace, () => f(...xs.map((x, i) => trace.lift(x, inputs[i]!))));
  const program = recorder.finish(
    inputs.filter((x) => x !== null),
    outs.map((y) => trace.tangent(y)),
  );
  return { outs: outs.map((y) => trace.result(y)), program, result: (x) => trace.result(x) };
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
    checkSameAvals("push", "the tangent", primals, xs, dxs);
    const outs = evalProgram(
      program,
      dxs.filter((_, i) => isFloat(xs[i]!.dtype)),
    );
    return leafwise.rebuild(outs.map((dy, i) => dy ?? like(linearized.outs[i]!, 0)));
  };
  return [leafwise.rebuild(linearized.outs), push];
}
