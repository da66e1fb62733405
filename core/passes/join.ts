/**
 * What becomes one value part by part, joined at once: sums of zero-padded parts, which is what the gradient of a value
 * is that was read part by part, and concatenations of concatenations. There may be thousands of parts, so the
 * equations that join them are found first, and then replaced together.
 */
import { addP } from "../prims/elementwise.ts";
import { concatP, type PadParams, padP } from "../prims/movement.ts";
import type { Atom, Eqn, Program } from "../program.ts";
import { type EqnOf, readCounts, rewritten, type Scope } from "./rewrite.ts";
import { filled } from "./uniform.ts";

type Concat = EqnOf<{ readonly axis: number }>;
type Pad = EqnOf<PadParams>;

/** Trees of equations that are replaced together. */
interface Trees {
  /** The results of the last equation of each. */
  readonly roots: ReadonlySet<Atom>;
  /** All other results in them, which nothing else reads. */
  readonly inner: ReadonlySet<Atom>;
}

/**
 * Finds trees. `takes` says which operands an equation would take into its tree: of those that `mayTake`, because they
 * come from equations like it, and nothing else reads them. Null for equations that are in no tree.
 */
function treesOf(
  program: Program,
  takes: (eqn: Eqn, mayTake: (x: Atom) => boolean) => readonly Atom[] | null,
): Trees {
  const reads = readCounts(program);
  const free = new Set<Atom>();
  const [roots, inner] = [new Set<Atom>(), new Set<Atom>()];
  for (const eqn of program.eqns) {
    const taken = takes(eqn, (x) => free.has(x));
    if (taken === null) continue;
    for (const x of taken) {
      roots.delete(x);
      inner.add(x);
    }
    const out = eqn.outs[0]!;
    if (taken.length > 0) roots.add(out);
    if (reads.get(out) === 1) free.add(out);
  }
  return { roots, inner };
}

/** What the equations of a tree join, in order. */
function leavesOf(root: Eqn, { inner }: Trees, scope: Scope): Atom[] {
  const leaves: Atom[] = [];
  // With a list of its own: trees are higher than the stack is deep.
  const open = root.ins.toReversed();
  for (let x = open.pop(); x !== undefined; x = open.pop()) {
    const maker = inner.has(x) ? scope.maker(x) : null;
    if (maker?.prim !== root.prim) leaves.push(x);
    else for (const operand of maker.ins.toReversed()) open.push(operand);
  }
  return leaves;
}

/** Replaces trees by what a function makes of their roots and leaves; those for which that is null are kept. */
function withTrees(
  program: Program,
  trees: Trees,
  replaced: (root: Eqn, leaves: readonly Atom[], scope: Scope) => Atom | null,
): Program {
  if (trees.roots.size === 0) return program;
  return rewritten(program, (eqn, scope) =>
    trees.roots.has(eqn.outs[0]!) ? replaced(eqn, leavesOf(eqn, trees, scope), scope) : null,
  );
}

/** Concatenations of concatenations that nothing else reads are one. */
export function concatsFlattened(program: Program): Program {
  const axes = new Map<Atom, number>();
  const trees = treesOf(program, ({ prim, ins, outs, params }, mayTake) => {
    if (prim !== concatP) return null;
    const { axis } = params as Concat["params"];
    axes.set(outs[0]!, axis);
    return ins.filter((x) => mayTake(x) && axes.get(x) === axis);
  });
  return withTrees(program, trees, ({ params }, parts, scope) =>
    scope.emit(concatP, parts, params as Concat["params"]),
  );
}

/**
 * Sums of zero-padded parts are concatenations of them, with zeros in the gaps: sums of everything, as many as there are
 * parts, become one copy. Of parts that overlap there are as few sums as possible, in another order.
 */
export function padsJoined(program: Program): Program {
  const trees = treesOf(program, ({ prim, ins, params }, mayTake) => {
    if (prim === padP) return isOfZeros(params as PadParams) ? [] : null;
    return prim === addP && ins.every(mayTake) ? ins : null;
  });
  return withTrees(program, trees, (_, leaves, scope) => {
    const pads = leaves.map((x) => scope.made(x, padP)!);
    const axis = axisOf(pads);
    const layers = axis < 0 ? null : layersOf(pads, axis);
    if (!layers || layers.length === pads.length) return null;
    return layers
      .map((layer) => concatenated(layer, axis, scope))
      .reduce((sum, layer) => scope.emit(addP, [sum, layer], null));
  });
}

const isOfZeros = ({ value, interior }: PadParams): boolean => value === 0 && interior.every((n) => n === 0);

/** The one axis along which all are padded; -1 if there is none. */
function axisOf(pads: readonly Pad[]): number {
  const isPadded = ({ params }: Pad, a: number): boolean => params.low[a] !== 0 || params.high[a] !== 0;
  const axis = pads[0]!.params.low.findIndex((_, a) => isPadded(pads[0]!, a));
  const isOnly = pads.every((pad) => pad.params.low.every((_, a) => a === axis || !isPadded(pad, a)));
  return isOnly ? axis : -1;
}

const first = ({ params }: Pad, axis: number): number => params.low[axis]!;
const end = (pad: Pad, axis: number): number => first(pad, axis) + pad.ins[0]!.aval.shape[axis]!;

/** On average so many layers are looked at for each part: where there are more, little would be won. */
const MOST_LAYERS = 32;

/** The pads in layers, as few as possible, whose parts do not overlap and are in order; null where it takes too long. */
function layersOf(pads: readonly Pad[], axis: number): Pad[][] | null {
  const layers: Pad[][] = [];
  let left = MOST_LAYERS * pads.length;
  for (const pad of pads.toSorted((x, y) => first(x, axis) - first(y, axis) || end(x, axis) - end(y, axis))) {
    const at = layers.findIndex((layer) => end(layer.at(-1)!, axis) <= first(pad, axis));
    left -= at < 0 ? layers.length : at;
    if (left < 0) return null;
    if (at < 0) layers.push([pad]);
    else layers[at]!.push(pad);
  }
  return layers;
}

/** The pads of a layer as one value. */
function concatenated(pads: readonly Pad[], axis: number, scope: Scope): Atom {
  if (pads.length === 1) return pads[0]!.outs[0]!;
  const parts = pads.flatMap((pad, i) => {
    const part = pad.ins[0]!;
    const gap = i === 0 ? 0 : first(pad, axis) - end(pads[i - 1]!, axis);
    if (gap === 0) return [part];
    return [filled(0, part.aval.withShape(part.aval.shape.with(axis, gap)), scope), part];
  });
  const whole = scope.emit(concatP, parts, { axis });
  const { params } = pads[0]!;
  const { high } = pads.at(-1)!.params;
  if (params.low[axis] === 0 && high[axis] === 0) return whole;
  return scope.emit(padP, [whole], { ...params, high });
}
