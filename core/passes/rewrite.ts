/** One walk over a program in which rules replace equations: what the other passes are made of. */
import type { AnyPrimitive, Primitive } from "../primitive.ts";
import { type Atom, type Eqn, type Program, Var } from "../program.ts";

/** An equation of a primitive with parameters of type `P`. */
export interface EqnOf<P> extends Eqn {
  readonly params: P;
}

/** What a rule may ask and do. */
export interface Scope {
  /** The equation that gives an atom, if it is one of the primitive. */
  made<P>(atom: Atom, primitive: Primitive<P>): EqnOf<P> | null;
  /** The equation that gives an atom; null for inputs and constants. */
  maker(atom: Atom): Eqn | null;
  /** Whether nothing else reads the atom, so that its equation goes when its reader is replaced. */
  isReadOnce(atom: Atom): boolean;
  /** Adds an equation with one result before the present one. */
  emit<P>(prim: Primitive<P>, ins: readonly Atom[], params: P): Atom;
}

/** What the results of an equation are instead, or null to keep the equation. Its operands are rewritten already. */
export type Rule<P = unknown> = (eqn: EqnOf<P>, scope: Scope) => Atom | readonly Atom[] | null;

/** The rules for one primitive, in the order in which they are tried. */
export type RulesOf = readonly [AnyPrimitive, readonly Rule[]];

/** Rules for a primitive: the one place where the type of its parameters is forgotten. */
export function on<P>(primitive: Primitive<P>, ...rules: readonly Rule<P>[]): RulesOf {
  return [primitive, rules as readonly Rule[]];
}

/** How often each variable is read: by equations, and as an output. */
export function readCounts({ eqns, outs }: Program): Map<Atom, number> {
  const reads = new Map<Atom, number>();
  const count = (atom: Atom | null): void => {
    if (atom instanceof Var) reads.set(atom, (reads.get(atom) ?? 0) + 1);
  };
  for (const { ins } of eqns) ins.forEach(count);
  outs.forEach(count);
  return reads;
}

/** The program with the rule applied once to every equation in order; the program itself where nothing is replaced. */
export function rewritten(program: Program, rule: Rule): Program {
  const eqns: Eqn[] = [];
  const makers = new Map<Atom, Eqn>();
  const replacements = new Map<Atom, Atom>();
  // Exact counts: an atom that replaces another takes over its readers.
  const reads = readCounts(program);
  const count = (atom: Atom, change: number): void => {
    if (atom instanceof Var) reads.set(atom, (reads.get(atom) ?? 0) + change);
  };

  const add = (eqn: Eqn): void => {
    eqns.push(eqn);
    for (const v of eqn.outs) makers.set(v, eqn);
  };
  const scope: Scope = {
    made<P>(atom: Atom, primitive: Primitive<P>) {
      const eqn = makers.get(atom);
      return eqn?.prim === primitive ? (eqn as EqnOf<P>) : null;
    },
    maker: (atom) => makers.get(atom) ?? null,
    isReadOnce: (atom) => reads.get(atom) === 1,
    emit(prim, ins, params) {
      const avals = ins.map((atom) => atom.aval);
      const out = new Var(prim.shape(avals, params)[0]!);
      for (const atom of ins) count(atom, 1);
      add({ prim, ins, outs: [out], params });
      return out;
    },
  };
  const present = (atom: Atom): Atom => replacements.get(atom) ?? atom;
  for (const original of program.eqns) {
    const isMoved = original.ins.some((atom) => replacements.has(atom));
    const eqn = isMoved ? { ...original, ins: original.ins.map(present) } : original;
    const result = rule(eqn, scope);
    if (result === null) {
      add(eqn);
      continue;
    }
    const atoms: readonly Atom[] = "length" in result ? result : [result];
    for (const atom of eqn.ins) count(atom, -1);
    eqn.outs.forEach((v, i) => {
      replacements.set(v, atoms[i]!);
      count(atoms[i]!, reads.get(v) ?? 0);
    });
  }
  if (replacements.size === 0) return program;
  return { ins: program.ins, eqns, outs: program.outs.map((atom) => atom && present(atom)) };
}
