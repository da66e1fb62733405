/** Common subexpressions: equations that compute the same thing are one. All primitives are pure, so all may merge. */
import { dataName, identity, numberName } from "../identity.ts";
import { type Atom, type Program, Var } from "../program.ts";
import { hostStorage, Tensor, type Value } from "../value.ts";
import { rewritten } from "./rewrite.ts";

/** Constants up to this size are compared by their elements, others by identity. */
const SMALL = 32;

/** Merges equations of one primitive with the same operands, in any order where it commutes, and equal parameters. */
export function commonSubexpressionsMerged(program: Program): Program {
  const seen = new Map<string, readonly Atom[]>();
  return rewritten(program, ({ prim, ins, outs, params }) => {
    const operands = ins.map((atom) => (atom instanceof Var ? `${identity(atom)}` : constantName(atom)));
    if (prim.traits.commutative) operands.sort();
    const key = `${identity(prim)} ${operands.join()} ${paramsName(params)}`;
    const first = seen.get(key);
    if (first === undefined) seen.set(key, outs);
    return first ?? null;
  });
}

const names = new WeakMap<object, string>();

/** The name of parameters, made once: rounds of simplification meet the same objects. */
function paramsName(params: unknown): string {
  if (typeof params !== "object" || params === null) return dataName(params);
  let name = names.get(params);
  if (name === undefined) {
    name = dataName(params);
    names.set(params, name);
  }
  return name;
}

function constantName(value: Value): string {
  let name = names.get(value);
  if (name === undefined) {
    const data = value instanceof Tensor && value.size <= SMALL ? hostStorage(value) : null;
    name = data ? `${value.aval}:${Array.from(data, numberName)}` : `@${identity(value)}`;
    names.set(value, name);
  }
  return name;
}
