/** Seeing what a function does: its program as text, its result's shapes without computing. */
import type { Aval } from "../core/aval.ts";
import { type Program, show, stage } from "../core/program.ts";
import { flatten, unflatten } from "../core/tree.ts";
import { onLeaves } from "./leaves.ts";

/**
 * A recorded function: its program and its text.
 *
 * @since 0.1.0
 */
export interface Staged {
  readonly program: Program;
  toString(): string;
}

/**
 * Records a function as a program: equations in order, which print as text.
 *
 * Shapes: the program has one input per leaf of the arguments.
 * Units: none.
 *
 * @param f function of trees
 * @returns function of example arguments, whose elements are not used
 * @throws {TreeError} if an argument is not a tree of tensors
 * @throws {TraceError} if `f` returns a Promise or reads elements
 * @example The gradient of a sine, as text
 * ```ts
 * const staged = ct.makeProgram(ct.grad((x: ct.Value) => x.sin()))(ct.tensor(0));
 * assert(staged.toString().includes("cos"));
 * ```
 * @since 0.1.0
 */
export function makeProgram<A extends readonly unknown[], R>(f: (...args: A) => R): (...args: A) => Staged {
  return (...args) => {
    const [xs, def] = flatten(args);
    const program = stage(
      onLeaves(f, def, "makeProgram").call,
      xs.map((x) => x.aval),
    );
    return { program, toString: () => show(program) };
  };
}

/**
 * The shapes and element types of a result, without computing it.
 *
 * Shapes: a tree like the result of `f`, with abstract values as leaves.
 * Units: none.
 *
 * @throws {TreeError} if an argument is not a tree of tensors
 * @throws {TraceError} if `f` returns a Promise or reads elements
 * @example The shape of a product
 * ```ts
 * const shape = ct.evalShape((a: ct.Value, b: ct.Value) => a.matmul(b), ct.zeros([2, 3]), ct.zeros([3, 4]));
 * assert(String(shape) === "f32[2,4]");
 * ```
 * @since 0.1.0
 */
export function evalShape<A extends readonly unknown[], R>(f: (...args: A) => R, ...args: A): unknown {
  const [xs, def] = flatten(args);
  const leafwise = onLeaves(f, def, "evalShape");
  const avals: Aval[] = [];
  stage(
    (...leaves) => {
      const outs = leafwise.call(...leaves);
      avals.push(...outs.map((y) => y.aval));
      return outs;
    },
    xs.map((x) => x.aval),
  );
  return unflatten(leafwise.outDef(), avals);
}
