/** Permutations around contractions: a contraction names its axes, so its operands and its result need no permutation. */
import { type DotParams, dotP } from "../prims/contract.ts";
import { broadcastP, permuteP } from "../prims/movement.ts";
import type { Atom, Eqn } from "../program.ts";
import { range, sameShape } from "../shape.ts";
import { isIncreasing } from "./movement.ts";
import { type EqnOf, on, type Rule, type RulesOf, type Scope } from "./rewrite.ts";

function freeAxes(x: Atom, contract: readonly number[], batch: readonly number[]): number[] {
  return range(x.aval.ndim).filter((a) => !contract.includes(a) && !batch.includes(a));
}

/** Reads operands under the permutation: where their free axes stay in order. */
const readPermuted: Rule<DotParams> = ({ ins, params: { contract, batch } }, { made, emit }) => {
  const sides = ins.map((x, i) => {
    const inner = made(x, permuteP);
    const perm = inner?.params.perm ?? range(x.aval.ndim);
    const isOrdered = isIncreasing(freeAxes(x, contract[i]!, batch[i]!).map((a) => perm[a]!));
    return inner && isOrdered
      ? { x: inner.ins[0]!, place: (a: number) => perm[a]! }
      : { x, place: (a: number) => a };
  });
  const [x, y] = sides;
  if (x!.x === ins[0] && y!.x === ins[1]) return null;
  return emit(dotP, [x!.x, y!.x], {
    contract: [contract[0].map(x!.place), contract[1].map(y!.place)],
    batch: [batch[0].map(x!.place), batch[1].map(y!.place)],
  });
};

/** The contraction whose result has the axes in this order, if there is one: `(x y)^T = y^T x^T`. */
function permutedDot(
  { ins, params: { contract, batch } }: EqnOf<DotParams>,
  perm: readonly number[],
  { emit }: Scope,
): (() => Atom) | null {
  const batches = batch[0].length;
  const [xFree, yFree] = ins.map((x, i) => freeAxes(x, contract[i]!, batch[i]!).length) as [number, number];
  const order = perm.slice(0, batches);
  if (order.some((a) => a >= batches)) return null;
  const rest = perm.slice(batches).map((a) => a - batches);
  const reordered: DotParams["batch"] = [order.map((i) => batch[0][i]!), order.map((i) => batch[1][i]!)];
  if (isIncreasing(rest)) return () => emit(dotP, ins, { contract, batch: reordered });
  const swapped = [...range(yFree).map((a) => xFree + a), ...range(xFree)];
  if (!sameShape(rest, swapped)) return null;
  return () =>
    emit(dotP, ins.toReversed(), {
      contract: [contract[1], contract[0]],
      batch: [reordered[1], reordered[0]],
    });
}

/** How to get an atom with its axes in another order without one more equation, or null where only its operands may know. */
function reordered(x: Atom, perm: readonly number[], scope: Scope): (() => Atom) | null {
  if (isIncreasing(perm)) return () => x;
  const { made, emit } = scope;
  const inner = made(x, permuteP);
  const both = inner?.params.perm && perm.map((a) => inner.params.perm[a]!);
  if (inner && both && isIncreasing(both)) return () => inner.ins[0]!;
  if (!scope.isReadOnce(x)) return null;
  if (inner && both) return () => emit(permuteP, inner.ins, { perm: both });
  const repeated = made(x, broadcastP);
  if (repeated) {
    const shape = perm.map((a) => x.aval.shape[a]!);
    const axes = repeated.params.axes.map((a) => perm.indexOf(a));
    return isIncreasing(axes) ? () => emit(broadcastP, repeated.ins, { shape, axes }) : null;
  }
  const product = made(x, dotP);
  return product && permutedDot(product, perm, scope);
}

/**
 * An atom with its axes in another order, without one more equation: elementwise equations that nothing else reads are
 * done again with their operands reordered. Null, and nothing done, where an operand cannot be.
 */
function permuted(x: Atom, perm: readonly number[], scope: Scope): Atom | null {
  const sources = new Map<Atom, () => Atom>();
  // Readers before what they read, in a list: chains of equations are longer than the stack is deep.
  const again: Eqn[] = [];
  const open = [x];
  for (let atom = open.pop(); atom !== undefined; atom = open.pop()) {
    if (sources.has(atom)) continue;
    const source = reordered(atom, perm, scope);
    if (source) sources.set(atom, source);
    else {
      const maker = scope.isReadOnce(atom) ? scope.maker(atom) : null;
      if (!maker?.prim.traits.elementwise) return null;
      again.push(maker);
      open.push(...maker.ins);
    }
  }
  const results = new Map<Atom, Atom>();
  const resultOf = (atom: Atom): Atom => {
    const result = results.get(atom) ?? sources.get(atom)!();
    results.set(atom, result);
    return result;
  };
  for (const { prim, ins, outs, params } of again.toReversed())
    results.set(outs[0]!, scope.emit(prim, ins.map(resultOf), params));
  return resultOf(x);
}

/** Goes through elementwise equations that nothing else reads, to contractions that give their axes in any order. */
const sink: Rule<{ readonly perm: readonly number[] }> = ({ ins: [x], params: { perm } }, scope) =>
  permuted(x!, perm, scope);

export const contraction: readonly RulesOf[] = [on(dotP, readPermuted), on(permuteP, sink)];
