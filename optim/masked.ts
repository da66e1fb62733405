/** Transformations of some leaves of a tree: by a mask, or by a label for each leaf. */
import { TreeError } from "../core/errors.ts";
import { checkSameStructure, flatten, leaves, paths, show, type TreeDef, unflatten } from "../core/tree.ts";
import type { Value } from "../core/value.ts";
import {
  type AnyTransformation,
  decayOf,
  type ExtraOf,
  type GradientTransformation,
  type Intersection,
  type StateOf,
} from "./transformation.ts";

/**
 * A choice of leaves by their paths, as `tree.paths` gives them, and by their shapes.
 *
 * @since 0.2.0
 */
export type LeafTest = (path: string, leaf: Value) => boolean;

/**
 * A choice of leaves as data: truth values in the structure of the tree, one of which may stand for a whole part of it.
 *
 * @since 0.2.0
 */
export type Mask = boolean | readonly Mask[] | { readonly [key: string]: Mask };

/** Whether each leaf is chosen, in the order of `tree.leaves`. */
export function chosenLeaves(tree: unknown, mask: Mask | LeafTest): readonly boolean[] {
  const [xs, def] = flatten(tree);
  if (typeof mask === "function") {
    const listed = paths(tree);
    return xs.map((x, i) => mask(listed[i]!, x));
  }
  const visit = (node: TreeDef, part: Mask | undefined, path: string): readonly boolean[] => {
    if (node.k === "leaf") return typeof part === "boolean" ? [part] : refuse(node, part, path);
    if (typeof part === "boolean") return node.items.flatMap((item) => visit(item, part, path));
    if (node.k === "list") {
      if (!Array.isArray(part) || part.length !== node.items.length) return refuse(node, part, path);
      return node.items.flatMap((item, i) => visit(item, part[i], `${path}[${i}]`));
    }
    if (!isRecord(part) || Object.keys(part).sort().join() !== node.keys.join())
      return refuse(node, part, path);
    return node.items.flatMap((item, i) => {
      const key = node.keys[i]!;
      return visit(item, part[key], path === "" ? key : `${path}.${key}`);
    });
  };
  return visit(def, mask, "");
}

const isRecord = (part: Mask | undefined): part is { readonly [key: string]: Mask } =>
  typeof part === "object" && !Array.isArray(part);

function refuse(node: TreeDef, part: Mask | undefined, path: string): never {
  throw new TreeError(
    path,
    `Cannot mask ${path || "the root"}: the mask is ${JSON.stringify(part)} for ${show(node)}, a truth value or the same structure is needed`,
  );
}

/** The tree with empty records in place of the leaves that are not chosen: those that are keep their paths. */
function partOf(tree: unknown, isChosen: readonly boolean[]): unknown {
  const [xs, def] = flatten(tree);
  return unflatten(
    def,
    xs.map((x, i) => (isChosen[i] ? x : {})),
  );
}

/** The tree with its chosen leaves replaced by those of a part. */
function withPart<P>(tree: P, isChosen: readonly boolean[], part: unknown): P {
  const [xs, def] = flatten(tree);
  const replacements = leaves(part)[Symbol.iterator]();
  return unflatten<P>(
    def,
    xs.map((x, i) => (isChosen[i] ? replacements.next().value! : x)),
  );
}

/** A tree and one like it have the same leaves to choose from. */
function checkUpdates(params: unknown, updates: unknown): void {
  checkSameStructure(flatten(params)[1], flatten(updates)[1], "choose leaves of updates");
}

/**
 * Transforms the chosen leaves; the others pass through unchanged.
 *
 * As a part of a chain: the last part must scale every leaf, since what passes through a whole optimizer is a gradient.
 * To train some leaves only, see `multiTransform` and `freeze`.
 *
 * Shapes: any tree; the transformation sees the chosen leaves at their own paths, and its state is of them alone.
 * Units: those of the transformation.
 *
 * @param mask truth values in the structure of the parameters or of its upper levels, or a function of path and leaf
 * @throws {TreeError} if the mask does not fit the parameters; names the path
 * @example Decay of matrices only
 * ```ts
 * const decay = ct.optim.masked(ct.optim.addDecayedWeights(0.1), (_path, leaf) => leaf.ndim > 1);
 * const params = { w: ct.tensor([[1, 2]]), b: ct.tensor([5]) };
 * const zero = ct.tree.map(ct.zerosLike, params);
 * const [updates] = decay.update(zero, decay.init(params), params, {});
 * assertClose(updates.w, [[0.1, 0.2]]);
 * assertClose(updates.b, [0]);
 * ```
 * @since 0.2.0
 */
export function masked<S, X extends object>(
  transformation: GradientTransformation<S, X>,
  mask: Mask | LeafTest,
): GradientTransformation<S, X> {
  return {
    name: `masked(${transformation.name})`,
    ...decayOf([transformation]),
    init: (params) => transformation.init(partOf(params, chosenLeaves(params, mask))),
    update(updates, state, params, extra) {
      checkUpdates(params, updates);
      const isChosen = chosenLeaves(params, mask);
      const [part, next] = transformation.update(
        partOf(updates, isChosen),
        state,
        partOf(params, isChosen),
        extra,
      );
      return [withPart(updates, isChosen, part), next];
    },
  };
}

/**
 * Transforms every leaf by the method that its label names.
 *
 * Shapes: any tree; each method sees its leaves at their own paths, and has a state of them alone.
 * Units: those of the methods.
 *
 * @param methods transformations by label
 * @param labelOf the label of a leaf, of its path and its shape
 * @returns a transformation whose `extra` must satisfy every method
 * @throws {TreeError} if a leaf has a label that names no method; names the path
 * @example A frozen layer
 * ```ts
 * const optimizer = ct.optim.multiTransform({ train: ct.optim.sgd(0.5), keep: ct.optim.freeze() }, (path) =>
 *   path.startsWith("layers[0]") ? "keep" : "train",
 * );
 * const params = { layers: [ct.tensor(1), ct.tensor(1)] };
 * const [updates] = optimizer.update(params, optimizer.init(params), params, {});
 * assertClose(updates.layers[0]!, 0);
 * assertClose(updates.layers[1]!, -0.5);
 * ```
 * @since 0.2.0
 */
export function multiTransform<const T extends Readonly<Record<string, AnyTransformation>>>(
  methods: T,
  labelOf: (path: string, leaf: Value) => keyof T & string,
): GradientTransformation<
  { readonly [L in keyof T]: StateOf<T[L]> },
  Intersection<ExtraOf<T[keyof T]>> & object
> {
  type State = { readonly [L in keyof T]: StateOf<T[L]> };
  const labels = Object.keys(methods).sort();
  const parts = Object.values(methods);
  /** For each method, which leaves are its own. */
  const dealt = (params: unknown): readonly (readonly [string, readonly boolean[]])[] => {
    const listed = paths(params);
    const given = leaves(params).map((x, i) => {
      const label = labelOf(listed[i]!, x);
      if (Object.hasOwn(methods, label)) return label;
      throw new TreeError(
        listed[i]!,
        `Cannot transform ${listed[i] || "the root"}: its label is "${label}", one of ${labels.join(", ")} is needed`,
      );
    });
    return labels.map((label) => [label, given.map((own) => own === label)] as const);
  };
  return {
    name: `multiTransform(${parts.map((part) => part.name).join(" > ")})`,
    ...decayOf(parts),
    init: (params) =>
      Object.fromEntries(
        dealt(params).map(([label, isOwn]) => [label, methods[label]!.init(partOf(params, isOwn))]),
      ) as State,
    update(updates, state, params, extra) {
      checkUpdates(params, updates);
      const states: Record<string, unknown> = {};
      const transformed = dealt(params).reduce((current, [label, isOwn]) => {
        const [part, next] = methods[label]!.update(
          partOf(updates, isOwn),
          state[label] as never,
          partOf(params, isOwn),
          extra as never,
        );
        states[label] = next;
        return withPart(current, isOwn, part);
      }, updates);
      return [transformed, states as State];
    },
  };
}
