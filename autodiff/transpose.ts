/** Transposition of linear programs: cotangents flow from the last equation to the first. */
import { LinearityError } from "../core/errors.ts";
import { Lin, missingTranspose } from "../core/primitive.ts";
import { add } from "../core/prims/elementwise.ts";
import { zeros } from "../core/prims/movement.ts";
import { deadCodeEliminated, evalProgram, type Program, Recorder, stage, Var } from "../core/program.ts";
import { currentTrace, withTrace } from "../core/trace.ts";
import { checkSameStructure, flatten, unflatten } from "../core/tree.ts";
import { storage, Tensor, type Value } from "../core/value.ts";
import { checkSameAvals, onLeaves } from "./leaves.ts";

/**
 * Applies the transpose of a linear program to cotangents of its outputs; `null` is a symbolic zero.
 * Runs under the current trace, so the result can be differentiated, batched or staged in turn.
 */
export function transposeProgram(program: Program, cts: readonly (Value | null)[]): (Value | null)[] {
  const cotangents = new Map<Var, Value>();
  const accumulate = (v: Var, ct: Value): void => {
    const seen = cotangents.get(v);
    cotangents.set(v, seen ? add(seen, ct) : ct);
  };
  program.outs.forEach((atom, i) => {
    const ct = cts[i];
    if (ct && atom instanceof Var) accumulate(atom, ct);
  });
  for (const { prim, ins, outs, params } of program.eqns.toReversed()) {
    const outCts = outs.map((v) => cotangents.get(v) ?? null);
    for (const v of outs) cotangents.delete(v);
    if (outCts.every((ct) => ct === null)) continue;
    if (!prim.transpose) throw missingTranspose(prim);
    const args = ins.map((atom) => (atom instanceof Var ? new Lin(atom.aval) : atom));
    const inCts = prim.transpose(outCts, args, params);
    const whole = !outCts.includes(null);
    ins.forEach((atom, i) => {
      if (!(atom instanceof Var)) return;
      const ct = inCts[i];
      if (ct) accumulate(atom, ct);
      else if (whole) throw notLinear(prim.name);
    });
  }
  return program.ins.map((v) => cotangents.get(v) ?? null);
}

function notLinear(name: string): LinearityError {
  return new LinearityError(
    `Cannot transpose a function that uses "${name}" of its argument: that is not linear, or its transpose rule gives null for a linear argument; a linear function is needed, or zeros from the rule`,
  );
}

/** Throws LinearityError for a function with a constant term, where its numbers are known. */
function checkZeroAtZero(program: Program): void {
  const outs = evalProgram(
    deadCodeEliminated(program),
    program.ins.map((v) => zeros(v.aval)),
  );
  for (const y of outs) {
    if (y instanceof Tensor && storage(y).some((element) => element !== 0)) {
      throw new LinearityError(
        `Cannot transpose a function whose value at zero is ${y}: a linear function is zero there, a linear function is needed; linearize it first`,
      );
    }
  }
}

/**
 * The transpose of a linear function.
 *
 * For linear `f` returns the function with `<ct, f(v)> = <transpose(ct), v>` for all `v` and `ct`.
 *
 * Shapes: takes a tree like `f(...examples)`, returns a list of trees like `examples`.
 * Units: none.
 *
 * @param f linear function of trees
 * @param examples values whose shapes and element types the arguments have; the elements are not used
 * @throws {LinearityError} if `f` is not linear in its arguments
 * @throws {TreeError} if the cotangent has another structure than the result of `f`
 * @example The transpose of a sum repeats
 * ```ts
 * const transpose = ct.linearTranspose((x: ct.Value) => x.sum(), ct.zeros([3]));
 * assertClose(transpose(ct.tensor(2))[0], [2, 2, 2]);
 * ```
 * @since 0.1.0
 */
export function linearTranspose<A extends readonly unknown[], R>(
  f: (...args: A) => R,
  ...examples: A
): (ct: R) => A {
  const [xs, def] = flatten(examples);
  const recorder = new Recorder("linearTranspose", { parent: currentTrace(), linearOnly: true });
  const inputs = xs.map((x) => recorder.input(x.aval));
  const leafwise = onLeaves(f, def, "linearTranspose");
  const outs = withTrace(recorder, () => leafwise.call(...inputs));
  for (const { prim } of recorder.eqns) if (!prim.transpose) throw notLinear(prim.name);
  const program = recorder.finish(inputs, outs);
  checkZeroAtZero(program);
  // Recorded here, so that what is not linear is refused here too.
  const adjoint = stage(
    (...cts) => transposeProgram(program, cts).map((ct, i) => ct ?? zeros(xs[i]!.aval)),
    outs.map((y) => y.aval),
  );
  return (ct) => {
    const [cts, ctDef] = flatten(ct);
    checkSameStructure(leafwise.outDef(), ctDef, "transpose with this cotangent");
    checkSameAvals("transpose", "the cotangent", ct, outs, cts);
    return unflatten<A>(def, evalProgram(adjoint, cts));
  };
}
