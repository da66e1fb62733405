/** Shampoo against plain loops with another eigensolver, closed forms, and what every method must do. */
import { describe, expect, test } from "bun:test";
import { jit } from "../../autodiff/jit.ts";
import { gradientOf } from "../../autodiff/vjp.ts";
import { matmul, mul, sum } from "../../core/ops.ts";
import { decode, encode } from "../../core/safetensors.ts";
import { flatten, leaves, map, unflatten } from "../../core/tree.ts";
import type { Value } from "../../core/value.ts";
import { adagrad } from "../../optim/adagrad.ts";
import { sgd } from "../../optim/momentum.ts";
import { type ShampooGrafting, type ShampooOptions, shampoo, shampooRoot } from "../../optim/shampoo.ts";
import { applyUpdates, type GradientTransformation } from "../../optim/transformation.ts";
import {
  f64,
  list,
  type Matrix,
  maxDifference,
  mulberry32,
  normals,
  randomRotation,
  rowsOf,
  sameTreeBits,
  withEigenvalues,
} from "./numbers.ts";
import { elementwise, functionOf, product, rowsOfList, transposed, unit } from "./plain_matrix.ts";

const matrix = (a: Matrix): Value => f64(a.flat(), [a.length, a[0]!.length]);
const differenceOf = (x: Value, y: Matrix): number => maxDifference(list(x), y.flat());
const zero = (a: Matrix): number[][] => elementwise(() => 0, a);
const sizeOf = (a: Matrix): number => Math.hypot(...a.flat());

type Settings = Required<Omit<ShampooOptions, "maxDimension" | "root" | "grafting">> & {
  readonly root: number;
  readonly grafting: ShampooGrafting;
};

/** One block in plain loops: a matrix with two roots, or a column with one. */
function plainShampoo(rate: number, o: Settings, isMatrix: boolean): (g: Matrix, p: Matrix) => number[][] {
  let t = 0;
  let [m, s, L, R]: Matrix[] = [];
  let [rootL, rootR]: Matrix[] = [];
  const plus = (a: Matrix, b: Matrix, beta: number): number[][] =>
    elementwise((x, y) => (beta === 1 ? x + y : beta * x + (1 - beta) * y), a, b);
  const correction = (beta: number): number => (beta > 0 && beta < 1 && o.correctsBias ? 1 - beta ** t : 1);
  return (g, p) => {
    t++;
    const [rows, columns] = [g.length, g[0]!.length];
    m = plus(m ?? zero(g), g, o.beta1);
    s = plus(
      s ?? zero(g),
      elementwise((x) => x * x, g),
      o.graftingBeta2,
    );
    L = plus(L ?? zero(unit(rows)), product(g, transposed(g)), o.beta2);
    R = plus(R ?? zero(unit(columns)), product(transposed(g), g), o.beta2);
    rootL ??= unit(rows);
    rootR ??= unit(columns);
    if (t >= o.warmup && (t - o.warmup) % o.period === 0) {
      const root = (a: Matrix): number[][] =>
        functionOf(a, (w) => (Math.max(w, 0) / correction(o.beta2) + o.epsilon) ** (-1 / o.root));
      rootL = root(L);
      if (isMatrix) rootR = root(R);
    }
    const mean = elementwise((x) => x / correction(o.beta1), m);
    const direction = product(product(rootL, mean), rootR);
    const second = o.grafting === "adam" ? 1 - o.graftingBeta2 ** t : 1;
    const grafted =
      o.grafting === "sgd"
        ? mean
        : elementwise((x, y) => x / (Math.sqrt(y / second) + o.graftingEpsilon), mean, s);
    let final = direction;
    if (o.grafting !== "none" && t < o.warmup) final = grafted;
    else if (o.grafting !== "none") {
      const scale = sizeOf(grafted) / (sizeOf(direction) + 1e-16);
      final = elementwise((x) => scale * x, direction);
    }
    return elementwise((x, y) => -rate * (x + o.weightDecay * y), final, p);
  };
}

const plain: Settings = {
  beta1: 0.9,
  beta2: 1,
  epsilon: 1e-3,
  weightDecay: 0,
  period: 1,
  warmup: 1,
  grafting: "none",
  graftingBeta2: 1,
  graftingEpsilon: 0,
  correctsBias: true,
  root: 4,
};

const cases: readonly (readonly [string, ShampooOptions, Partial<Settings>])[] = [
  ["the defaults but for a larger epsilon", {}, {}],
  ["running means with decay", { beta2: 0.8, weightDecay: 0.3 }, { beta2: 0.8, weightDecay: 0.3 }],
  ["means that are not corrected", { beta2: 0.8, correctsBias: false }, { beta2: 0.8, correctsBias: false }],
  ["roots now and then", { period: 3, warmup: 2, beta1: 0.5 }, { period: 3, warmup: 2, beta1: 0.5 }],
  ["warmup is the period", { period: 4 }, { period: 4, warmup: 4 }],
  ["another root", { root: 2.5 }, { root: 2.5 }],
  ["grafted to sgd", { grafting: "sgd", warmup: 3 }, { grafting: "sgd", warmup: 3 }],
  ["grafted to adagrad", { grafting: "adagrad" }, { grafting: "adagrad", graftingEpsilon: 1e-10 }],
  [
    "grafted to rmsprop, after a warmup",
    { grafting: "rmsprop", warmup: 4, period: 2 },
    { grafting: "rmsprop", warmup: 4, period: 2, graftingBeta2: 0.99, graftingEpsilon: 1e-8 },
  ],
  [
    "grafted to adam, with its constants",
    { grafting: "adam", graftingBeta2: 0.7, graftingEpsilon: 0.01 },
    { grafting: "adam", graftingBeta2: 0.7, graftingEpsilon: 0.01 },
  ],
];

describe("the updates are those of plain loops", () => {
  test.each(cases)("%s", (_name, options, settings) => {
    const method = shampoo(0.1, { epsilon: 1e-3, ...options });
    const reference = plainShampoo(0.1, { ...plain, ...settings }, true);
    const ofVector = plainShampoo(0.1, { ...plain, ...settings, root: settings.root ?? 2 }, false);
    const uniform = mulberry32(7);
    let params = { w: f64(normals(uniform, 12), [3, 4]) as Value, b: f64(normals(uniform, 3)) as Value };
    let state = method.init(params);
    for (let step = 0; step < 9; step++) {
      const g = { w: f64(normals(uniform, 12), [3, 4]) as Value, b: f64(normals(uniform, 3)) as Value };
      const [updates, next] = method.update(g, state, params, {});
      expect(differenceOf(updates.w, reference(rowsOf(g.w), rowsOf(params.w)))).toBeLessThan(1e-12);
      const column = (x: Value): number[][] => rowsOfList(list(x), 1);
      expect(differenceOf(updates.b, ofVector(column(g.b), column(params.b)))).toBeLessThan(1e-12);
      [params, state] = [applyUpdates(params, updates), next];
    }
  });

  test("axes that are cut make blocks with matrices of their own", () => {
    const method = shampoo(0.1, { epsilon: 1e-3, maxDimension: 2, grafting: "adagrad" });
    const settings: Settings = { ...plain, grafting: "adagrad", graftingEpsilon: 1e-10 };
    // 3 x 5 is cut at 2, and at 2 and 4; a part of one row or column keeps both of its matrices.
    const cuts = [0, 1].flatMap((i) => [0, 1, 2].map((j) => [2 * i, 2 * j] as const));
    const uniform = mulberry32(8);
    let p = f64(normals(uniform, 15), [3, 5]) as Value;
    let state = method.init(p);
    expect(state.statistics[0]!.map((block) => block.map((x) => x.shape[0]!))).toEqual([
      [2, 2],
      [2, 2],
      [2, 1],
      [1, 2],
      [1, 2],
      [1, 1],
    ]);
    const reference = cuts.map(() => plainShampoo(0.1, settings, true));
    for (let step = 0; step < 4; step++) {
      const g = f64(normals(uniform, 15), [3, 5]);
      const [updates, next] = method.update(g, state, p, {});
      const part = (x: Value, [i, j]: readonly [number, number]): number[][] =>
        rowsOf(x)
          .slice(i, i + 2)
          .map((row) => row.slice(j, j + 2));
      cuts.forEach((at, k) => {
        const expected = reference[k]!(part(g, at), part(p, at));
        expect(maxDifference(part(updates, at).flat(), expected.flat())).toBeLessThan(1e-12);
      });
      [p, state] = [applyUpdates(p, updates), next];
    }
  });
});

describe("closed forms", () => {
  test("the first step is U Vᵀ of the gradient U diag(s) Vᵀ, whatever its singular values", () => {
    const uniform = mulberry32(9);
    const [U, V] = [randomRotation(uniform, 4), randomRotation(uniform, 4)];
    const G = product(
      transposed(U),
      V.map((row, i) => row.map((x) => 10 ** (i - 2) * x)),
    );
    const method = shampoo(1, { epsilon: 0 });
    const x = matrix(zero(G));
    const [updates] = method.update(matrix(G), method.init(x), x, {});
    expect(
      differenceOf(
        updates,
        elementwise((y) => -y, product(transposed(U), V)),
      ),
    ).toBeLessThan(1e-8);
  });

  test("gradients of independent rows and columns: roots of both factors", () => {
    const [a, b] = [
      [1, 4, 9],
      [0.5, 2],
    ];
    const method = shampoo(1, { epsilon: 0, period: 100 });
    const x = matrix([
      [0, 0],
      [0, 0],
      [0, 0],
    ]);
    let state = method.init(x);
    // sqrt(a_i b_j) at one place at a time: the second moments are diag(a) Σb and diag(b) Σa.
    for (let i = 0; i < 3; i++) {
      for (let j = 0; j < 2; j++) {
        const g = Array.from({ length: 3 }, (_, r) =>
          Array.from({ length: 2 }, (_, c) => (r === i && c === j ? Math.sqrt(a[i]! * b[j]!) : 0)),
        );
        state = method.step(matrix(g), state, x)[1];
      }
    }
    const [left, right] = method.refreshCurvature(state, x).roots[0]![0]!;
    const [sumA, sumB] = [14, 2.5];
    expect(
      maxDifference(
        list(left!),
        [a[0]!, 0, 0, 0, a[1]!, 0, 0, 0, a[2]!].map((y) => (y === 0 ? 0 : (y * sumB) ** -0.25)),
      ),
    ).toBeLessThan(1e-15);
    expect(
      maxDifference(
        list(right!),
        [b[0]!, 0, 0, b[1]!].map((y) => (y === 0 ? 0 : (y * sumA) ** -0.25)),
      ),
    ).toBeLessThan(1e-15);
  });

  test.each([[[]], [[1]], [[1, 1]], [[1, 1, 1, 1]]])("one number of shape %j is Adagrad's", (shape) => {
    const [method, other] = [shampoo(0.1, { beta1: 0, epsilon: 0 }), adagrad(0.1, { epsilon: 0 })];
    const uniform = mulberry32(10);
    const x = f64([1], shape);
    let [state, otherState] = [method.init(x), other.init(x)];
    for (const number of normals(uniform, 6)) {
      const [updates, next] = method.update(f64([number], shape), state, x, {});
      const [expected, otherNext] = other.update(f64([number], shape), otherState, x, {});
      expect(maxDifference(list(updates), list(expected))).toBeLessThan(1e-15);
      [state, otherState] = [next, otherNext];
    }
  });

  test("the root of a matrix with eigenvalues over 12 decades, times itself, is its inverse", () => {
    const values = [1e-6, 1e-3, 1, 1e3, 1e6];
    const a = withEigenvalues(values, randomRotation(mulberry32(11), 5));
    const inverse = values.map((w) => 1 / w);
    for (const p of [1, 2, 4]) {
      const root = rowsOf(shampooRoot(matrix(a), p, 0));
      let power = root;
      for (let k = 1; k < p; k++) power = product(power, root);
      const expected = withEigenvalues(inverse, randomRotation(mulberry32(11), 5));
      expect(maxDifference(power.flat(), expected.flat()) / 1e6).toBeLessThan(1e-3);
    }
  });

  test("a negative eigenvalue of rounding counts as zero", () => {
    const root = shampooRoot(
      matrix([
        [1, 0],
        [0, -1e-9],
      ]),
      2,
      1e-4,
    );
    expect(maxDifference(list(root), [1 / Math.sqrt(1 + 1e-9 + 1e-4), 0, 0, 100])).toBeLessThan(1e-9);
  });

  test("a kernel is the matrix of its outputs and the rest; axes of one element do not count", () => {
    const sizes = (shape: readonly number[]): number[][] => {
      const { statistics } = shampoo().init(f64(new Array(shape.reduce((a, b) => a * b, 1)).fill(0), shape));
      return statistics[0]!.map((block) => block.map((x) => x.shape[0]!));
    };
    expect(sizes([6, 3, 2, 2])).toEqual([[6, 12]]);
    expect(sizes([1, 3, 2, 2])).toEqual([[12]]);
    expect(sizes([6, 1, 1, 1])).toEqual([[6]]);
    expect(sizes([5])).toEqual([[5]]);
    expect(sizes([])).toEqual([[1]]);
    expect(sizes([2500])).toEqual([[1024], [1024], [452]]);
    expect(sizes([0, 3])).toEqual([[0, 3]]);
  });
});

/** ½ |A^(1/2) W B^(1/2)|² with a condition number of 900. */
const left = withEigenvalues([1, 3, 10, 30], randomRotation(mulberry32(12), 4));
const right = withEigenvalues([1, 10, 30], randomRotation(mulberry32(13), 3));

function bowl(A: Value, B: Value): (w: Value) => Value {
  return (w) => mul(0.5, sum(mul(w, matmul(matmul(A, w), B))));
}

function lossAfter<S>(
  method: GradientTransformation<S>,
  steps: number,
  dtype: "float32" | "float64",
): number {
  const f = bowl(matrix(left).astype(dtype), matrix(right).astype(dtype));
  let w: Value = f64(normals(mulberry32(14), 12), [4, 3]).astype(dtype);
  let state = method.init(w);
  const first = f(w).item();
  for (let step = 0; step < steps; step++) {
    const [updates, next] = method.update(gradientOf(f)(w), state, w, {});
    [w, state] = [applyUpdates(w, updates), next];
  }
  return f(w).item() / first;
}

test("descends where both sides are badly scaled, where gradient descent does not", () => {
  for (const dtype of ["float32", "float64"] as const) {
    expect(lossAfter(shampoo(1, { beta1: 0 }), 100, dtype)).toBeLessThan(1e-4);
    const grafted = shampoo(0.05, { grafting: "adam", period: 5, beta2: 0.99 });
    expect(lossAfter(grafted, 60, dtype)).toBeLessThan(0.01);
  }
  // Near the largest rate at which it is stable.
  expect(lossAfter(sgd(2 / 1000), 100, "float64")).toBeGreaterThan(2e-4);
});

const treeAt = (seed: number, dtype: "float32" | "float64"): { w: Value; k: Value; b: Value } => {
  const uniform = mulberry32(seed);
  const at = (shape: readonly number[]): Value =>
    f64(
      normals(
        uniform,
        shape.reduce((a, b) => a * b, 1),
      ),
      shape,
    ).astype(dtype);
  return { w: at([3, 4]), k: at([2, 3, 2, 2]), b: at([3]) };
};

describe("what every method does", () => {
  const options: ShampooOptions = {
    period: 2,
    grafting: "rmsprop",
    maxDimension: 3,
    beta2: 0.9,
    weightDecay: 0.1,
  };

  test("curvature is due at the warmup and every period", () => {
    const due = (o: ShampooOptions): number[] =>
      Array.from({ length: 12 }, (_, made) => made).filter((made) => shampoo(0.1, o).curvatureDue(made));
    expect(due({})).toEqual([...Array(12).keys()]);
    expect(due({ period: 4 })).toEqual([3, 7, 11]);
    expect(due({ period: 4, warmup: 2 })).toEqual([1, 5, 9]);
    expect(due({ period: 1, warmup: 10 })).toEqual([9, 10, 11]);
  });

  test("the halves make the whole, pure and compiled", () => {
    for (const dtype of ["float32", "float64"] as const) {
      const method = shampoo(0.1, options);
      const compiled = jit((g: unknown, s: unknown, p: unknown) =>
        method.step(g, s as ReturnType<typeof method.init>, p),
      );
      const params = treeAt(1, dtype);
      let state = method.init(params);
      for (let made = 0; made < 5; made++) {
        const g = treeAt(made + 2, dtype);
        const copies = [state, g].map((tree) => leaves(tree).map(list));
        const ready = method.curvatureDue(made) ? method.refreshCurvature(state, g) : state;
        const halves = method.step(g, ready, params);
        expect(sameTreeBits(halves, method.update(g, state, params, {}))).toBe(true);
        expect([state, g].map((tree) => leaves(tree).map(list))).toEqual(copies);
        const flat = (x: unknown): number[] => leaves(x).flatMap(list);
        const close = maxDifference(flat(compiled(g, ready, params)), flat(halves));
        expect(close).toBeLessThan(dtype === "float64" ? 1e-12 : 1e-4);
        expect(leaves(halves[1]).map((x) => String(x.aval))).toEqual(
          leaves(state).map((x) => String(x.aval)),
        );
        state = halves[1];
      }
      expect(compiled.stats()).toMatchObject({ traces: 1, hits: 4 });
    }
  });

  test("roots that workers take apart are those of one", () => {
    const method = shampoo(0.1, options);
    const params = treeAt(1, "float32");
    const g = treeAt(2, "float32");
    const state = method.init(params);
    const moments = method.moments(state, g);
    const [matrices, def] = flatten(moments);
    const jobs = moments.flatMap((blocks) => blocks.flatMap((block) => block.map(() => 2 * block.length)));
    // Two workers, each with every other matrix.
    const results = matrices.map(() => null as Value | null);
    for (const rank of [1, 0])
      for (let i = rank; i < matrices.length; i += 2) results[i] = shampooRoot(matrices[i]!, jobs[i]!);
    const roots = unflatten(def, results);
    expect(sameTreeBits(roots, method.refreshCurvature(state, g).roots)).toBe(true);
  });

  test("the state can be saved in the middle", () => {
    const method = shampoo(0.1, options);
    const params = treeAt(1, "float32");
    let state = method.init(params);
    for (let made = 0; made < 3; made++) state = method.update(treeAt(made, "float32"), state, params, {})[1];
    const restored = decode<typeof state>(encode(state)).tree;
    const g = treeAt(9, "float32");
    expect(sameTreeBits(method.update(g, state, params, {}), method.update(g, restored, params, {}))).toBe(
      true,
    );
  });

  test("one leaf does not change another", () => {
    const method = shampoo(0.1, options);
    const [params, g] = [treeAt(1, "float64"), treeAt(2, "float64")];
    const [all] = method.update(g, method.init(params), params, {});
    const [alone] = method.update({ k: g.k }, method.init({ k: params.k }), { k: params.k }, {});
    expect(sameTreeBits(alone.k, all.k)).toBe(true);
    expect(map((u) => u.shape, all)).toEqual(map((p) => p.shape, params));
  });

  test("options out of range are refused by name", () => {
    expect(() => shampoo(0.1, { beta2: 1.5, period: 0 })).toThrow(
      "Cannot make Shampoo: beta2 is 1.5, a number in [0, 1] is needed; period is 0, an integer of at least 1 is needed",
    );
    expect(() => shampoo(0.1, { grafting: "lion" as "adam" })).toThrow(/grafting is lion, one of none, sgd/);
    expect(shampoo(0.1, { weightDecay: 0.1 }).decays).toBe(true);
    expect(shampoo(0.1).decays).toBeUndefined();
  });
});
