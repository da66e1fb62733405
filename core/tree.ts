/**
 * Trees: tensors in arrays, tuples and plain objects. Keys are sorted when flattening, so `{a, b}` and `{b, a}` agree.
 * This file and the registry boundary are the only places that look at types through `any`.
 */
import { TreeError } from "./errors.ts";
import { Value } from "./value.ts";

/**
 * The shape of a tree without its leaves. Prints as `{b: *, w: [*, *]}`.
 *
 * @since 0.1.0
 */
export type TreeDef =
  | { readonly k: "leaf" }
  | { readonly k: "list"; readonly items: readonly TreeDef[] }
  | { readonly k: "record"; readonly keys: readonly string[]; readonly items: readonly TreeDef[] };

/** `true` when every leaf of `T` is a value; a compile-time check that also accepts interface types. */
export type IsTree<T> = T extends Value
  ? true
  : // biome-ignore lint/suspicious/noExplicitAny: any function type
    T extends number | string | boolean | bigint | symbol | null | undefined | ((...args: any[]) => unknown)
    ? false
    : T extends readonly (infer U)[]
      ? IsTree<U>
      : { [K in keyof T]-?: IsTree<T[K]> }[keyof T] extends true
        ? true
        : false;

const leaf: TreeDef = Object.freeze({ k: "leaf" });

/**
 * Leaves in sorted-key order, and the structure to put them back.
 *
 * @throws {TreeError} if something that is neither a tensor, an array nor a plain object is inside; names the path
 *
 * Shapes: any.
 * @example Keys in order
 * ```ts
 * const tree = { w: ct.ones([2]), b: [ct.tensor(0)] };
 * const [leaves] = ct.tree.flatten(tree);
 * assertClose(leaves.map((leaf) => leaf.ndim), [0, 1]); // b before w
 * ```
 * @since 0.1.0
 */
export function flatten(tree: unknown): [leaves: Value[], def: TreeDef] {
  const leaves: Value[] = [];
  const visit = (node: unknown, path: string): TreeDef => {
    if (node instanceof Value) {
      leaves.push(node);
      return leaf;
    }
    if (Array.isArray(node)) {
      return { k: "list", items: Array.from(node, (item, i) => visit(item, `${path}[${i}]`)) };
    }
    if (isPlainObject(node)) {
      const keys = Object.keys(node).sort();
      return { k: "record", keys, items: keys.map((key) => visit(node[key], join(path, key))) };
    }
    throw new TreeError(
      path,
      `Cannot flatten tree at ${path || "the root"}: it is ${describe(node)}, a tensor, an array or a plain object is needed`,
    );
  };
  return [leaves, visit(tree, "")];
}

/**
 * Puts leaves back into a structure; the opposite of `flatten`.
 *
 * Shapes: any.
 * @example There and back
 * ```ts
 * const tree = { w: ct.ones([2]), b: [ct.tensor(0)] };
 * const [leaves, def] = ct.tree.flatten(tree);
 * assertClose(ct.tree.unflatten<typeof tree>(def, leaves.map((x) => x.add(1))).w, [2, 2]);
 * ```
 * @since 0.1.0
 */
export function unflatten<T = unknown>(def: TreeDef, leaves: readonly unknown[]): T {
  let next = 0;
  const build = (node: TreeDef): unknown => {
    switch (node.k) {
      case "leaf":
        return leaves[next++];
      case "list":
        return node.items.map(build);
      case "record":
        return Object.fromEntries(node.keys.map((key, i) => [key, build(node.items[i]!)]));
      default:
        return node satisfies never;
    }
  };
  const tree = build(def);
  if (next !== leaves.length) {
    throw new TreeError(
      "",
      `Cannot unflatten ${show(def)}: there are ${leaves.length} leaves, ${next} are needed`,
    );
  }
  return tree as T;
}

/**
 * The leaves of a tree in sorted-key order.
 *
 * Shapes: any.
 * @example How many numbers a model has
 * ```ts
 * const tree = { w: ct.ones([2]), b: [ct.tensor(0)] };
 * assert(ct.tree.leaves(tree).reduce((n, leaf) => n + leaf.size, 0) === 3);
 * ```
 * @since 0.1.0
 */
export function leaves(tree: unknown): Value[] {
  return flatten(tree)[0];
}

/**
 * The path of every leaf, in the order of `leaves`: `layers[0].w`.
 *
 * Shapes: any.
 * @example Where the leaves are
 * ```ts
 * const tree = { w: ct.ones([2]), b: [ct.tensor(0)] };
 * assert(ct.tree.paths(tree).join() === "b[0],w");
 * ```
 * @since 0.1.0
 */
export function paths(tree: unknown): string[] {
  const visit = (def: TreeDef, path: string): string[] => {
    switch (def.k) {
      case "leaf":
        return [path];
      case "list":
        return def.items.flatMap((item, i) => visit(item, `${path}[${i}]`));
      case "record":
        return def.items.flatMap((item, i) => visit(item, join(path, def.keys[i]!)));
      default:
        return def satisfies never;
    }
  };
  return visit(flatten(tree)[1], "");
}

/**
 * Applies `f` to corresponding leaves of trees that have one structure.
 *
 * @throws {TreeError} if the structures differ; names the first path where they do
 *
 * Shapes: any; `f` decides those of the result.
 * @example A step downhill
 * ```ts
 * const params = { w: ct.tensor([1, 2]) };
 * const gradient = { w: ct.tensor([10, 10]) };
 * const next = ct.tree.map((p, g) => p.sub(g!.mul(0.1)), params, gradient);
 * assertClose(next.w, [0, 1]);
 * ```
 * @since 0.1.0
 */
export function map<T>(
  f: (x: Value, ...others: Value[]) => unknown,
  tree: T,
  ...rest: readonly unknown[]
): T {
  const [first, def] = flatten(tree);
  const others = rest.map((other) => {
    const [otherLeaves, otherDef] = flatten(other);
    checkSameStructure(def, otherDef, "map trees");
    return otherLeaves;
  });
  return unflatten<T>(
    def,
    first.map((x, i) => f(x, ...others.map((o) => o[i]!))),
  );
}

/** Throws TreeError at the first path where two structures differ. */
export function checkSameStructure(a: TreeDef, b: TreeDef, what: string): void {
  const visit = (x: TreeDef, y: TreeDef, path: string): void => {
    const where = path || "the root";
    if (x.k !== y.k) {
      throw new TreeError(
        path,
        `Cannot ${what}: at ${where} one is ${show(x)} and the other ${show(y)}, equal structures are needed`,
      );
    }
    if (x.k === "leaf" || y.k === "leaf") return;
    if (x.k === "record" && y.k === "record" && JSON.stringify(x.keys) !== JSON.stringify(y.keys)) {
      throw new TreeError(
        path,
        `Cannot ${what}: at ${where} the keys are {${x.keys}} and {${y.keys}}, equal keys are needed`,
      );
    }
    if (x.items.length !== y.items.length) {
      throw new TreeError(
        path,
        `Cannot ${what}: at ${where} the lengths are ${x.items.length} and ${y.items.length}, equal lengths are needed`,
      );
    }
    x.items.forEach((item, i) => {
      visit(item, y.items[i]!, x.k === "record" ? join(path, x.keys[i]!) : `${path}[${i}]`);
    });
  };
  visit(a, b, "");
}

/** Text of a structure: `{b: *, w: [*, *]}`. */
export function show(def: TreeDef): string {
  switch (def.k) {
    case "leaf":
      return "*";
    case "list":
      return `[${def.items.map(show).join(", ")}]`;
    case "record":
      return `{${def.keys.map((key, i) => `${key}: ${show(def.items[i]!)}`).join(", ")}}`;
    default:
      return def satisfies never;
  }
}

function join(path: string, key: string): string {
  return path === "" ? key : `${path}.${key}`;
}

function isPlainObject(node: unknown): node is Record<string, unknown> {
  if (typeof node !== "object" || node === null) return false;
  const prototype: unknown = Object.getPrototypeOf(node);
  return prototype === Object.prototype || prototype === null;
}

function describe(node: unknown): string {
  if (node === null || node === undefined) return String(node);
  if (typeof node === "object") return `an instance of ${node.constructor?.name ?? "an unknown class"}`;
  return typeof node === "function" ? "a function" : `the ${typeof node} ${String(node)}`;
}
