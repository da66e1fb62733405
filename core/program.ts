/**
 * Programs: a traced function as data. Equations in order, each a primitive applied to variables and constants.
 * A program prints as text, is checked by `verify`, and is run by `evalProgram` under whatever trace is current.
 */
import type { Aval } from "./aval.ts";
import { invariant } from "./errors.ts";
import type { AnyPrimitive } from "./primitive.ts";
import { bind, checkAlive, currentTrace, type Trace, withTrace } from "./trace.ts";
import { Tensor, Tracer, type Value } from "./value.ts";

export { deadCodeEliminated } from "./passes/dce.ts";

/**
 * A name for the result of an equation or an input; identity is what distinguishes variables.
 *
 * @example The input of a program
 * ```ts
 * const { program } = ct.makeProgram((x: ct.Value) => x.sin())(ct.tensor([1, 2]));
 * assert(program.ins[0] instanceof ct.Var && String(program.ins[0].aval) === "f32[2]");
 * ```
 * @since 0.1.0
 */
export class Var {
  readonly aval: Aval;
  constructor(aval: Aval) {
    this.aval = aval;
  }
}

/**
 * A variable, or a constant of the program.
 *
 * @since 0.1.0
 */
export type Atom = Var | Value;

/**
 * One step of a program: a primitive applied to atoms, and the names of its results.
 *
 * @since 0.1.0
 */
export interface Eqn {
  readonly prim: AnyPrimitive;
  readonly ins: readonly Atom[];
  readonly outs: readonly Var[];
  readonly params: unknown;
}

/**
 * A traced function as data: inputs, equations in order, outputs. A `null` output is a symbolic zero.
 *
 * @since 0.1.0
 */
export interface Program {
  readonly ins: readonly Var[];
  readonly eqns: readonly Eqn[];
  readonly outs: readonly (Atom | null)[];
}

/** A value of the function while its program is recorded. */
export class StageTracer extends Tracer {
  readonly trace: Recorder;
  readonly variable: Var;
  constructor(trace: Recorder, variable: Var) {
    super();
    this.trace = trace;
    this.variable = variable;
  }
  get aval(): Aval {
    return this.variable.aval;
  }
}

/**
 * Records equations.
 *
 * With `linearOnly`, only primitives that touch a recorded value are recorded; the others run under `parent`, and
 * their results become constants. That is how linearize splits a jvp rule into what runs now and what is staged.
 */
export class Recorder implements Trace {
  readonly name: string;
  readonly defers: boolean;
  readonly eqns: Eqn[] = [];
  readonly #parent: Trace;
  readonly #linearOnly: boolean;

  constructor(name: string, options: { readonly parent: Trace; readonly linearOnly: boolean }) {
    this.name = name;
    this.#parent = options.parent;
    this.#linearOnly = options.linearOnly;
    this.defers = !options.linearOnly;
  }

  input(aval: Aval): StageTracer {
    return new StageTracer(this, new Var(aval));
  }

  owns(x: Value | null): x is StageTracer {
    return x instanceof StageTracer && x.trace === this;
  }

  atom(x: Value, use: string): Atom {
    if (this.owns(x)) return x.variable;
    checkAlive(x, use);
    return x;
  }

  process(prim: AnyPrimitive, args: readonly Value[], params: unknown): Value[] {
    if (this.#linearOnly && !args.some((x) => this.owns(x))) {
      return withTrace(this.#parent, () => bind(prim, args, params));
    }
    const avals = prim.shape(
      args.map((x) => x.aval),
      params,
    );
    const outs = avals.map((aval) => new Var(aval));
    const ins = args.map((x) => this.atom(x, prim.name));
    this.eqns.push({ prim, ins, outs, params: params === null ? null : copied(params) });
    return outs.map((v) => new StageTracer(this, v));
  }

  finish(ins: readonly StageTracer[], outs: readonly (Value | null)[]): Program {
    return {
      ins: ins.map((x) => x.variable),
      eqns: this.eqns,
      outs: outs.map((x) => x && this.atom(x, "return")),
    };
  }
}

/** Parameters as the program keeps them: the caller may write to its lists after the call. */
export function copied(params: unknown): unknown {
  if (typeof params !== "object" || params === null) return params;
  if (Array.isArray(params)) return params.map(copied);
  if (Object.getPrototypeOf(params) !== Object.prototype) return params;
  const copy: Record<string, unknown> = {};
  for (const [name, value] of Object.entries(params)) copy[name] = copied(value);
  return copy;
}

/** Records `f` on inputs of the given abstract values; `name` is what errors call the recording. */
export function stage(
  f: (...xs: Value[]) => readonly Value[],
  avals: readonly Aval[],
  name = "makeProgram",
): Program {
  const recorder = new Recorder(name, { parent: currentTrace(), linearOnly: false });
  const ins = avals.map((aval) => recorder.input(aval));
  return recorder.finish(
    ins,
    withTrace(recorder, () => f(...ins)),
  );
}

/** Runs a program under the current trace. `null` outputs stay `null`. */
export function evalProgram(program: Program, args: readonly Value[]): (Value | null)[] {
  const env = new Map<Var, Value>();
  const read = (atom: Atom): Value => {
    if (!(atom instanceof Var)) return atom;
    const value = env.get(atom);
    invariant(value, `variable ${atom.aval} read before it is written`);
    return value;
  };
  program.ins.forEach((v, i) => {
    env.set(v, args[i]!);
  });
  for (const { prim, ins, outs, params } of program.eqns) {
    const results = bind(prim, ins.map(read), params);
    outs.forEach((v, i) => {
      env.set(v, results[i]!);
    });
  }
  return program.outs.map((atom) => atom && read(atom));
}

/**
 * Checks the law of programs: every variable is written once and before it is read, and every equation's outputs are
 * what its primitive's shape rule says. Returns the number of equations checked.
 */
export function verify(program: Program): number {
  const written = new Set<Var>();
  const write = (v: Var): void => {
    invariant(!written.has(v), "a variable is written once");
    written.add(v);
  };
  const read = (atom: Atom | null): void =>
    invariant(!(atom instanceof Var) || written.has(atom), "a variable is written before it is read");
  program.ins.forEach(write);
  for (const { prim, ins, outs, params } of program.eqns) {
    ins.forEach(read);
    const avals = prim.shape(
      ins.map((atom) => atom.aval),
      params,
    );
    invariant(
      avals.length === outs.length && avals.every((aval, i) => aval.equals(outs[i]!.aval)),
      `${prim.name} gives ${avals.join(", ")}`,
    );
    outs.forEach(write);
  }
  program.outs.forEach(read);
  return program.eqns.length;
}

/**
 * The text of a program:
 *
 *     program (a: f32[3]) {
 *       b: f32[3] = sin a
 *       c: f32[] = sum b {axes: [0]}
 *       return c
 *     }
 */
export function show(program: Program): string {
  const names = new Map<Var, string>();
  const name = (v: Var): string => {
    const known = names.get(v) ?? letters(names.size);
    names.set(v, known);
    return known;
  };
  const declared = (v: Var): string => `${name(v)}: ${v.aval}`;
  const atomText = (atom: Atom | null): string =>
    atom === null ? "zero" : atom instanceof Var ? name(atom) : constantText(atom);
  const lines = [`program (${program.ins.map(declared).join(", ")}) {`];
  for (const { prim, ins, outs, params } of program.eqns) {
    const words = [outs.map(declared).join(", "), "=", prim.name, ...ins.map(atomText)];
    lines.push(`  ${words.join(" ")}${paramsText(params)}`);
  }
  lines.push(`  return ${program.outs.map(atomText).join(", ")}`, "}");
  return lines.join("\n");
}

/** a, b, ..., z, aa, ab, ... */
function letters(n: number): string {
  const last = String.fromCharCode(97 + (n % 26));
  return n < 26 ? last : letters(Math.floor(n / 26) - 1) + last;
}

function constantText(value: Value): string {
  if (value instanceof Tensor && value.size === 1 && value.ndim === 0) return `${value.aval}:${value.item()}`;
  return `<${value.aval}>`;
}

function paramsText(params: unknown): string {
  if (params === null) return "";
  const text = (x: unknown): string => {
    if (Array.isArray(x)) return `[${x.map(text).join(", ")}]`;
    if (typeof x === "object" && x !== null)
      return `{${Object.entries(x)
        .map(([k, v]) => `${k}: ${text(v)}`)
        .join(", ")}}`;
    return String(x);
  };
  return ` ${text(params)}`;
}
