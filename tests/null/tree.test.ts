import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { zeros } from "../../core/create.ts";
import { TreeError } from "../../core/errors.ts";
import { ravel } from "../../core/ravel.ts";
import { checkSameStructure, flatten, leaves, map, paths, show, unflatten } from "../../core/tree.ts";
import { Value } from "../../core/value.ts";
import { tensors, trees } from "../support/arbitrary_tree.ts";
import { prop } from "../support/prop.ts";
import { assertSameBits } from "../support/tolerance.ts";

/** What a tree is, without the library: leaves by path, in the order of sorted keys. */
function walk(
  node: unknown,
  path: readonly (string | number)[] = [],
): [path: readonly (string | number)[], leaf: Value][] {
  if (node instanceof Value) return [[path, node]];
  if (Array.isArray(node)) return node.flatMap((item, i) => walk(item, [...path, i]));
  const record = node as Readonly<Record<string, unknown>>;
  const names = Object.getOwnPropertyNames(record);
  names.sort((a, b) => (a < b ? -1 : a > b ? 1 : 0));
  return names.flatMap((name) => walk(record[name], [...path, name]));
}

/** The same nodes whatever the prototypes and the order of keys. */
function same(a: unknown, b: unknown): boolean {
  if (a instanceof Value || b instanceof Value) return a === b;
  if (Array.isArray(a) !== Array.isArray(b)) return false;
  const [x, y] = [a, b].map((node) => Object.entries(node as object).sort(([p], [q]) => (p < q ? -1 : 1)));
  return x!.length === y!.length && x!.every(([k, v], i) => k === y![i]![0] && same(v, y![i]![1]));
}

prop("unflatten puts back what flatten took apart", trees, (tree) => {
  const [xs, def] = flatten(tree);
  const again = unflatten(def, xs);
  expect(same(again, tree)).toBe(true);
  expect(flatten(again)[1]).toEqual(def);
  expect(flatten(again)[0].every((x, i) => x === xs[i])).toBe(true);
});

prop("leaves come in the order of sorted keys, and paths name them", trees, (tree) => {
  const expected = walk(tree);
  expect(leaves(tree).every((x, i) => x === expected[i]![1])).toBe(true);
  expect(leaves(tree).length).toBe(expected.length);
  expect(paths(tree)).toEqual(
    expected.map(([path]) =>
      path.reduce<string>((text, step) => {
        if (typeof step === "number") return `${text}[${step}]`;
        return text === "" ? step : `${text}.${step}`;
      }, ""),
    ),
  );
});

prop("map applies to corresponding leaves and keeps the structure", trees, (tree) => {
  const seen: Value[] = [];
  const result = map(
    (x, y) => {
      expect(y).toBe(x);
      seen.push(x);
      return x;
    },
    tree,
    tree,
  );
  expect(same(result, tree)).toBe(true);
  expect(seen.every((x, i) => x === leaves(tree)[i])).toBe(true);
});

prop("another number of leaves is refused", trees, fc.constantFrom(-1, 1), (tree, more) => {
  const [xs, def] = flatten(tree);
  fc.pre(xs.length + more >= 0);
  const wrong = more > 0 ? [...xs, zeros([])] : xs.slice(1);
  expect(() => unflatten(def, wrong)).toThrow(TreeError);
});

prop(
  "two structures agree when their texts do, and the path of the first difference is named",
  trees,
  trees,
  (a, b) => {
    const [x, y] = [flatten(a)[1], flatten(b)[1]];
    expect(() => checkSameStructure(x, x, "compare")).not.toThrow();
    // Unequal definitions are refused, in both directions; equal ones pass.
    const equal = JSON.stringify(x) === JSON.stringify(y);
    for (const [p, q] of [
      [x, y],
      [y, x],
    ] as const) {
      if (equal) expect(() => checkSameStructure(p, q, "compare")).not.toThrow();
      else expect(() => checkSameStructure(p, q, "compare")).toThrow(TreeError);
    }
    expect(show(x)).toBe(show(flatten(unflatten(x, leaves(a)))[1]));
  },
);

prop(
  "ravel joins the leaves in order and unravel gives the bits back",
  fc.array(tensors, { maxLength: 4 }),
  (list) => {
    const tree = list.filter((x) => x.dtype === "float32").map((x) => ({ x }));
    const [flat, unravel] = ravel(tree);
    expect(Array.from(flat.dataSync())).toEqual(tree.flatMap(({ x }) => Array.from(x.dataSync())));
    const again = unravel(flat);
    expect(again.length).toBe(tree.length);
    tree.forEach(({ x }, i) => {
      assertSameBits(again[i]!.x, x, `leaf ${i}`);
    });
  },
);

describe("errors name the path", () => {
  class Model {
    readonly w: Value = zeros([1]);
  }
  const cases: readonly [name: string, tree: unknown, path: string, found: string][] = [
    ["a number", { layers: [{ w: 3 }] }, "layers[0].w", "the number 3"],
    ["null", { a: [zeros([]), null] }, "a[1]", "null"],
    ["undefined", { a: undefined }, "a", "undefined"],
    ["a string at the root", "text", "", "the root"],
    ["a function", [() => 1], "[0]", "a function"],
    ["a class instance", { model: new Model() }, "model", "an instance of Model"],
    ["a Map", { m: new Map() }, "m", "an instance of Map"],
    ["a typed array", { x: new Float32Array(2) }, "x", "an instance of Float32Array"],
    ["a Date", [[new Date(0)]], "[0][0]", "an instance of Date"],
    ["a Promise", [Promise.resolve(zeros([]))], "[0]", "an instance of Promise"],
  ];
  for (const [name, tree, path, found] of cases) {
    test(name, () => {
      try {
        flatten(tree);
        expect.unreachable();
      } catch (error) {
        expect(error).toBeInstanceOf(TreeError);
        expect((error as TreeError).path).toBe(path);
        expect((error as TreeError).message).toContain(found);
      }
    });
  }

  test("map names where two trees part", () => {
    const a = { layers: [{ w: zeros([]), b: zeros([]) }] };
    const parts: readonly [other: unknown, path: string][] = [
      [{ layers: [{ w: zeros([]), c: zeros([]) }] }, "layers[0]"],
      [{ layers: [{ w: zeros([]), b: [zeros([])] }] }, "layers[0].b"],
      [{ layers: [] }, "layers"],
      [{ layers: {} }, "layers"],
      [[a.layers], ""],
    ];
    for (const [other, path] of parts) {
      try {
        map((x) => x, a, other);
        expect.unreachable();
      } catch (error) {
        expect(error).toBeInstanceOf(TreeError);
        expect((error as TreeError).path).toBe(path);
      }
    }
  });
});

test("keys that join to one text are still different keys", () => {
  const [a, b] = [
    { "a,b": zeros([]), c: zeros([]) },
    { a: zeros([]), "b,c": zeros([]) },
  ];
  expect(() => map((x) => x, a, b)).toThrow(TreeError);
});

test("the key __proto__ is a key like any other", () => {
  const record = JSON.parse('{"__proto__": 0, "w": 0}') as Record<string, unknown>;
  const tree = Object.fromEntries(Object.keys(record).map((key) => [key, zeros([])]));
  const again = unflatten<Record<string, unknown>>(flatten(tree)[1], leaves(tree));
  expect(Object.keys(again).sort()).toEqual(["__proto__", "w"]);
  expect(Object.getPrototypeOf(again)).toBe(Object.prototype);
});

test("a hole in a list is not a tensor", () => {
  const list = [zeros([]), zeros([])];
  delete list[0];
  expect(() => flatten(list)).toThrow(TreeError);
});
