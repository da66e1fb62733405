/** Values whose elements are all one number: constants that are, and a scalar that is repeated. */
import type { Aval } from "../aval.ts";
import { broadcastP } from "../prims/movement.ts";
import type { Atom } from "../program.ts";
import { scalar } from "../trace.ts";
import { hostStorage, Tensor } from "../value.ts";
import type { Scope } from "./rewrite.ts";

/** Larger constants are not looked through. */
const LARGEST = 1024;
const known = new WeakMap<Tensor, number | null>();

/** The one number that all elements are, or null where that is not known. */
export function uniform(atom: Atom, scope: Scope): number | null {
  let source = atom;
  for (let maker = scope.made(source, broadcastP); maker; maker = scope.made(source, broadcastP))
    source = maker.ins[0]!;
  return source instanceof Tensor ? uniformOf(source) : null;
}

function uniformOf(atom: Tensor): number | null {
  let value = known.get(atom);
  if (value === undefined) {
    const data = atom.size <= LARGEST ? hostStorage(atom) : null;
    value = data && onlyElement(data);
    known.set(atom, value);
  }
  return value;
}

function onlyElement(data: ArrayLike<number>): number | null {
  const first = data[0];
  if (first === undefined) return null;
  for (let i = 1; i < data.length; i++) if (!Object.is(data[i], first)) return null;
  return first;
}

/** One number as every element of an abstract value. */
export function filled(value: number, { shape, dtype }: Aval, scope: Scope): Atom {
  const one = scalar(value, dtype);
  return shape.length === 0 ? one : scope.emit(broadcastP, [one], { shape, axes: [] });
}
