/** SOAP against plain loops with another eigensolver, Adam where both are one method, and what every method must do. */
import { describe, expect, test } from "bun:test";
import { jit } from "../../autodiff/jit.ts";
import { gradientOf } from "../../autodiff/vjp.ts";
import { matmul, mul, sum } from "../../core/ops.ts";
import { decode, encode } from "../../core/safetensors.ts";
import { leaves } from "../../core/tree.ts";
import type { Value } from "../../core/value.ts";
import { adam } from "../../optim/adam.ts";
import { type SoapBasis, type SoapOptions, type SoapState, soap, soapBasis } from "../../optim/soap.ts";
import { applyUpdates, type GradientTransformation } from "../../optim/transformation.ts";
import {
  f64,
  list,
  type Matrix,
  maxDifference,
  mulberry32,
  normals,
  orthonormalityError,
  randomRotation,
  rowsOf,
  sameTreeBits,
  withEigenvalues,
} from "./numbers.ts";
import { elementwise, jacobi, orthonormalColumns, product, transposed, unit } from "./plain_matrix.ts";

const matrix = (a: Matrix): Value => f64(a.flat(), [a.length, a[0]!.length]);
const random = (seed: number, shape: readonly number[]): Value =>
  f64(
    normals(
      mulberry32(seed),
      shape.reduce((a, b) => a * b, 1),
    ),
    shape,
  );
const zero = (a: Matrix): number[][] => elementwise(() => 0, a);

/** The reference's loop: the first gradient makes the bases, an update turns them after it. */
function plainSoap(
  rate: number,
  o: Required<Omit<SoapOptions, "maxDimension">>,
): (g: Matrix, p: Matrix) => number[][] {
  let step = -1;
  let [m, s, L, R]: Matrix[] = [];
  let [Q, P]: Matrix[] = [];
  const blend = (a: Matrix, b: Matrix, beta: number): number[][] =>
    elementwise((x, y) => beta * x + (1 - beta) * y, a, b);
  const inside = (x: Matrix): number[][] => product(product(transposed(Q!), x), P!);
  return (g, p) => {
    step++;
    m ??= zero(g);
    s ??= zero(g);
    let updates = zero(g);
    if (step > 0) {
      m = blend(m, g, o.beta1);
      s = blend(
        s,
        elementwise((x) => x * x, inside(g)),
        o.beta2,
      );
      const correction = o.correctsBias ? Math.sqrt(1 - o.beta2 ** step) / (1 - o.beta1 ** step) : 1;
      const scaled = elementwise((x, y) => x / (Math.sqrt(y) + o.epsilon), inside(m), s);
      const back = product(product(Q!, scaled), transposed(P!));
      updates = elementwise(
        (u, x) => {
          const moved = x - rate * correction * u;
          return moved - rate * o.weightDecay * moved - x;
        },
        back,
        p,
      );
    }
    L = blend(L ?? zero(unit(g.length)), product(g, transposed(g)), o.shampooBeta);
    R = blend(R ?? zero(unit(g[0]!.length)), product(transposed(g), g), o.shampooBeta);
    if (step === 0) [Q, P] = [transposed(jacobi(L).vectors), transposed(jacobi(R).vectors)];
    else if (step % o.period === 0) {
      const turned = (M: Matrix, B: Matrix): { order: number[]; basis: number[][] } => {
        const estimates = product(product(transposed(B), M), B).map((row, i) => row[i]!);
        const order = estimates.map((_, i) => i).sort((i, j) => estimates[j]! - estimates[i]!);
        const sorted = B.map((row) => order.map((i) => row[i]!));
        return { order, basis: orthonormalColumns(product(M, sorted)) };
      };
      const [a, b] = [turned(L, Q!), turned(R, P!)];
      s = a.order.map((i) => b.order.map((j) => s![i]![j]!));
      [Q, P] = [a.basis, b.basis];
    }
    return updates;
  };
}

const plain: Required<Omit<SoapOptions, "maxDimension">> = {
  beta1: 0.95,
  beta2: 0.95,
  shampooBeta: 0.95,
  epsilon: 1e-8,
  weightDecay: 0.01,
  period: 10,
  correctsBias: true,
};

const cases: readonly (readonly [string, SoapOptions, Partial<typeof plain>])[] = [
  ["the defaults", {}, {}],
  ["bases every update", { period: 1 }, { period: 1 }],
  [
    "other constants",
    { beta1: 0.5, beta2: 0.8, epsilon: 0.1, weightDecay: 0.3, period: 3 },
    { beta1: 0.5, beta2: 0.8, shampooBeta: 0.8, epsilon: 0.1, weightDecay: 0.3, period: 3 },
  ],
  [
    "second moments of their own decay, means not corrected",
    { shampooBeta: 0.5, correctsBias: false, period: 4 },
    { shampooBeta: 0.5, correctsBias: false, period: 4 },
  ],
];

describe("the updates are those of plain loops", () => {
  test.each(cases)("%s", (_name, options, settings) => {
    const method = soap(0.1, options);
    const reference = plainSoap(0.1, { ...plain, ...settings });
    let p = random(1, [3, 3]);
    let state = method.init(p);
    for (let step = 0; step < 24; step++) {
      const g = random(step + 2, [3, 3]);
      const [updates, next] = method.update(g, state, p, {});
      expect(maxDifference(list(updates), reference(rowsOf(g), rowsOf(p)).flat())).toBeLessThan(1e-9);
      [p, state] = [applyUpdates(p, updates), next];
    }
    expect(state.refreshes.item()).toBe(1 + Math.floor(22 / (options.period ?? 10)));
  });
});

/** The updates of a method for given gradients, after the first of them. */
function updatesOf<S>(method: GradientTransformation<S>, gradients: readonly Value[]): number[][] {
  let p: Value = mul(gradients[0]!, 0);
  let state = method.init(p);
  return gradients.map((g) => {
    const [updates, next] = method.update(g, state, p, {});
    [p, state] = [applyUpdates(p, updates), next];
    return list(updates);
  });
}

describe("closed forms", () => {
  const constants = { beta1: 0.9, beta2: 0.8, epsilon: 1e-14 };

  test("of a vector it is Adam, one update later", () => {
    const gradients = Array.from({ length: 6 }, (_, i) => random(i, [5]));
    const [soaps, adams] = [
      updatesOf(soap(0.1, { ...constants, weightDecay: 0 }), gradients),
      updatesOf(adam(0.1, constants), gradients.slice(1)),
    ];
    expect(soaps[0]).toEqual([0, 0, 0, 0, 0]);
    adams.forEach((expected, i) => {
      expect(maxDifference(soaps[i + 1]!, expected)).toBeLessThan(1e-12);
    });
  });

  test("of axes that are too long it is Adam, one update later", () => {
    const gradients = Array.from({ length: 6 }, (_, i) => random(i, [3, 4]));
    const [soaps, adams] = [
      updatesOf(soap(0.1, { ...constants, weightDecay: 0, maxDimension: 2 }), gradients),
      updatesOf(adam(0.1, constants), gradients.slice(1)),
    ];
    adams.forEach((expected, i) => {
      expect(maxDifference(soaps[i + 1]!, expected)).toBeLessThan(1e-12);
    });
    const sides = soap(0.1, { maxDimension: 3 }).init(random(1, [3, 4, 2])).bases;
    expect(sides.map((leaf) => leaf.map((x) => x.shape))).toEqual([
      [
        [3, 3],
        [2, 2],
      ],
    ]);
  });

  test("gradients with one pair of singular bases: Adam of their singular values", () => {
    const uniform = mulberry32(3);
    const [U, V] = [randomRotation(uniform, 3), randomRotation(uniform, 3)];
    const singular = [
      [3, 2, 1],
      [4, -1, 0.5],
      [5, 1.5, -2],
      [-2, 1, 0.1],
      [6, 3, 1],
    ];
    const gradients = singular.map((s) =>
      matrix(
        product(
          transposed(U),
          V.map((row, i) => row.map((x) => s[i]! * x)),
        ),
      ),
    );
    const soaps = updatesOf(soap(0.1, { ...constants, weightDecay: 0, period: 2 }), gradients);
    const adams = updatesOf(
      adam(0.1, constants),
      singular.slice(1).map((s) => f64(s)),
    );
    adams.forEach((expected, i) => {
      const inside = product(
        product(
          U,
          [0, 1, 2].map((r) => soaps[i + 1]!.slice(3 * r, 3 * r + 3)),
        ),
        transposed(V),
      );
      // Off the diagonal all is zero but for rounding, and what Adam makes of that is not looked at.
      expect(
        maxDifference(
          [0, 1, 2].map((k) => inside[k]![k]!),
          expected,
        ),
      ).toBeLessThan(1e-9);
    });
  });

  test("rotated gradients make rotated updates", () => {
    const uniform = mulberry32(4);
    const [U, V] = [randomRotation(uniform, 4), randomRotation(uniform, 3)].map(matrix) as [Value, Value];
    const gradients = Array.from({ length: 14 }, (_, i) => random(i + 50, [4, 3]));
    const turned = (x: Value): Value => matmul(matmul(U, x), V);
    const method = soap(0.1, { weightDecay: 0, period: 3, epsilon: 1e-3 });
    const [updates, ofTurned] = [updatesOf(method, gradients), updatesOf(method, gradients.map(turned))];
    // One gradient leaves a null space of one vector, which is determined too.
    updates.forEach((u, i) => {
      expect(maxDifference(ofTurned[i]!, list(turned(f64(u, [4, 3]))))).toBeLessThan(1e-9);
    });
  });

  test("orthogonal iteration from any basis ends at the eigenvectors, largest first", () => {
    const vectors = randomRotation(mulberry32(5), 5);
    const moment = matrix(withEigenvalues([1, 2, 4, 8, 16], vectors));
    let basis = matrix(randomRotation(mulberry32(6), 5));
    for (let step = 0; step < 60; step++) {
      ({ basis } = soapBasis(moment, basis));
      expect(orthonormalityError(rowsOf(basis))).toBeLessThan(1e-14);
    }
    const expected = soapBasis(moment, null).basis;
    [basis, expected].forEach((b) => {
      const columns = transposed(rowsOf(b));
      [4, 3, 2, 1, 0].forEach((from, k) => {
        const overlap = columns[k]!.reduce((s, x, i) => s + x * vectors[from]![i]!, 0);
        expect(Math.abs(Math.abs(overlap) - 1)).toBeLessThan(1e-12);
      });
    });
    // Exchanged vectors are put in order again, and say where they came from.
    const exchanged = transposed(
      transposed(rowsOf(expected))
        .with(0, transposed(rowsOf(expected))[2]!)
        .with(2, transposed(rowsOf(expected))[0]!),
    );
    const again = soapBasis(moment, matrix(exchanged));
    expect(list(again.order)).toEqual([2, 1, 0, 3, 4]);
    const size = (x: Value): number[] => list(x).map(Math.abs);
    expect(maxDifference(size(again.basis), size(expected))).toBeLessThan(1e-12);
  });
});

test("moments that are zero, or of low rank, still have an orthonormal basis", () => {
  const vector = [1, 2, 2];
  const rankOne = matrix(vector.map((x) => vector.map((y) => x * y)));
  for (const moment of [matrix(zero(unit(3))), rankOne]) {
    for (const start of [null, matrix(unit(3)), matrix(randomRotation(mulberry32(7), 3))]) {
      expect(orthonormalityError(rowsOf(soapBasis(moment, start).basis))).toBeLessThan(1e-14);
    }
  }
});

const treeAt = (
  seed: number,
  dtype: "float32" | "float64",
): { w: Value; k: Value; b: Value; gain: Value } => {
  const uniform = mulberry32(seed);
  const at = (shape: readonly number[]): Value =>
    f64(
      normals(
        uniform,
        shape.reduce((a, b) => a * b, 1),
      ),
      shape,
    ).astype(dtype);
  return { w: at([3, 4]), k: at([2, 3, 2, 2]), b: at([3]), gain: at([]) };
};

describe("what every method does", () => {
  test("bases are due before the second update and every period after it", () => {
    const due = (o: SoapOptions): number[] =>
      Array.from({ length: 24 }, (_, made) => made).filter((made) => soap(0.1, o).curvatureDue(made));
    expect(due({})).toEqual([1, 11, 21]);
    expect(due({ period: 1 })).toEqual(Array.from({ length: 23 }, (_, i) => i + 1));
  });

  test("the halves make the whole, pure and compiled", () => {
    for (const dtype of ["float32", "float64"] as const) {
      const method = soap(0.1, { period: 2 });
      const compiled = jit((g: unknown, s: unknown, p: unknown) => method.step(g, s as SoapState, p));
      const params = treeAt(1, dtype);
      let state = method.init(params);
      for (let made = 0; made < 5; made++) {
        const g = treeAt(made + 2, dtype);
        const copies = [state, g].map((tree) => leaves(tree).map(list));
        const ready = method.curvatureDue(made) ? method.refreshCurvature(state) : state;
        const halves = method.step(g, ready, params);
        expect(sameTreeBits(halves, method.update(g, state, params, {}))).toBe(true);
        expect([state, g].map((tree) => leaves(tree).map(list))).toEqual(copies);
        const flat = (x: unknown): number[] => leaves(x).flatMap(list);
        const close = maxDifference(flat(compiled(g, ready, params)), flat(halves));
        expect(close).toBeLessThan(dtype === "float64" ? 1e-12 : 1e-3);
        expect(leaves(halves[1]).map((x) => String(x.aval))).toEqual(
          leaves(state).map((x) => String(x.aval)),
        );
        expect(leaves(halves[0]).every((x) => list(x).every(Number.isFinite))).toBe(true);
        state = halves[1];
      }
      expect(compiled.stats()).toMatchObject({ traces: 1, hits: 4 });
      expect(state.bases.map((leaf) => leaf.map((x) => x.shape[0]!))).toEqual([[], [], [2, 3, 2, 2], [3, 4]]);
    }
  });

  test("bases that workers make apart are those of one", () => {
    const method = soap(0.1, { period: 2 });
    const params = treeAt(1, "float32");
    let state = method.init(params);
    for (let made = 0; made < 3; made++) state = method.update(treeAt(made, "float32"), state, params, {})[1];
    const jobs = state.statistics.flatMap((moments, leaf) => moments.map((_, axis) => [leaf, axis] as const));
    const results: SoapBasis[][] = state.statistics.map(() => []);
    for (const rank of [1, 0])
      jobs.forEach(([leaf, axis], i) => {
        if (i % 2 !== rank) return;
        results[leaf]![axis] = soapBasis(state.statistics[leaf]![axis]!, state.bases[leaf]![axis]!);
      });
    expect(sameTreeBits(method.installBases(state, results), method.refreshCurvature(state))).toBe(true);
  });

  test("the state can be saved in the middle", () => {
    const method = soap(0.1, { period: 2 });
    const params = treeAt(1, "float32");
    let state = method.init(params);
    for (let made = 0; made < 3; made++) state = method.update(treeAt(made, "float32"), state, params, {})[1];
    const restored = decode<SoapState>(encode(state)).tree;
    const g = treeAt(9, "float32");
    expect(sameTreeBits(method.update(g, state, params, {}), method.update(g, restored, params, {}))).toBe(
      true,
    );
  });

  test("descends where both sides are badly scaled", () => {
    const [A, B] = [
      withEigenvalues([1, 3, 10, 30], randomRotation(mulberry32(12), 4)),
      withEigenvalues([1, 10, 30], randomRotation(mulberry32(13), 3)),
    ];
    for (const dtype of ["float32", "float64"] as const) {
      const after = <S>(method: GradientTransformation<S>): number => {
        const f = (w: Value): Value =>
          mul(0.5, sum(mul(w, matmul(matmul(matrix(A).astype(dtype), w), matrix(B).astype(dtype)))));
        let w: Value = random(14, [4, 3]).astype(dtype);
        const first = f(w).item();
        let state = method.init(w);
        for (let step = 0; step < 100; step++) {
          const [updates, next] = method.update(gradientOf(f)(w), state, w, {});
          [w, state] = [applyUpdates(w, updates), next];
        }
        return f(w).item() / first;
      };
      expect(after(soap(0.1, { weightDecay: 0 }))).toBeLessThan(0.02);
    }
  });

  test("options out of range are refused by name", () => {
    expect(() => soap(0.1, { beta1: 1, period: 0.5 })).toThrow(
      "Cannot make SOAP: beta1 is 1, a number in [0, 1) is needed; period is 0.5, an integer of at least 1 is needed",
    );
    expect(soap(0.1).decays).toBe(true);
    expect(soap(0.1, { weightDecay: 0 }).decays).toBeUndefined();
  });
});
