/** Linear algebra against what defines it, plain loops and closed forms; the laws of the records are in tests/laws. */
import { describe, expect, test } from "bun:test";
import { checkGrads } from "../../autodiff/check.ts";
import { hvp, jacrev } from "../../autodiff/hvp.ts";
import { jit } from "../../autodiff/jit.ts";
import { makeProgram } from "../../autodiff/program.ts";
import { grad } from "../../autodiff/vjp.ts";
import { vmap } from "../../autodiff/vmap.ts";
import { eye, ones, tensor, zeros } from "../../core/create.ts";
import { DTypeError, ShapeError } from "../../core/errors.ts";
import { cholesky, eigh, log, matmul, mul, qr, solve, sum, triangularSolve } from "../../core/ops.ts";
import { adopt } from "../../core/trace.ts";
import type { Nested, Value } from "../../core/value.ts";
import { SeededDraw, seeds } from "../support/arbitrary_tensor.ts";
import { prop } from "../support/prop.ts";
import { assertClose, assertNumbersClose, type Tolerance } from "../support/tolerance.ts";

const f64 = (data: Nested): Value => tensor(data, { dtype: "float64" });
const turned = (x: Value): Value => x.transpose([...Array(x.ndim - 2).keys(), x.ndim - 1, x.ndim - 2]);
const draw = (seed: number): SeededDraw => new SeededDraw({ seed, size: 9 });

function matrixOf(rows: number, columns: number, seed: number): Value {
  return draw(seed).tensor({ shape: [rows, columns], range: [-1, 1] }, "float64");
}

/** X Xᵀ + n I */
function definite(n: number, seed: number): Value {
  const x = matrixOf(n, n, seed);
  return matmul(x, turned(x)).add(eye(n, n, { dtype: "float64" }).mul(n));
}

function symmetric(n: number, seed: number): Value {
  const x = matrixOf(n, n, seed);
  return x.add(turned(x));
}

const sizes: readonly number[] = [1, 2, 3, 4, 5, 7, 8, 9, 16, 33, 70];
const tight: Tolerance = { relative: 1e-13 };
const loose: Tolerance = {
  relative: 1e-12,
  reason: "a few digits are lost to the condition of the matrices",
};

describe("what defines a factorization holds at every size", () => {
  test.each(sizes)("L Lᵀ = A of order %p, with zeros above a positive diagonal", (n) => {
    const a = definite(n, n);
    const L = cholesky(a);
    assertClose(matmul(L, turned(L)), a, "L Lᵀ", tight);
    (L.toArray() as number[][]).forEach((row, i) => {
      expect(row[i]!).toBeGreaterThan(0);
      expect(row.slice(i + 1).every((x) => x === 0)).toBe(true);
    });
  });

  test.each(sizes)(
    "A V = V diag w of order %p, values ascending, vectors orthonormal, signs as documented",
    (n) => {
      const a = symmetric(n, n);
      const [w, V] = eigh(a);
      assertClose(matmul(a, V), V.mul(w), "A V", tight);
      assertClose(matmul(turned(V), V), eye(n, n, { dtype: "float64" }), "Vᵀ V", tight);
      const values = [...w.dataSync()];
      expect(values).toEqual([...values].sort((x, y) => x - y));
      for (const column of turned(V).toArray() as number[][]) {
        const largest = column.reduce((best, x) => (Math.abs(x) > Math.abs(best) * (1 + 1e-7) ? x : best), 0);
        expect(largest).toBeGreaterThan(0);
      }
    },
  );

  test.each(sizes)("Q R = A with %p columns, tall and square", (n) => {
    for (const m of [n, n + 1, 2 * n + 3]) {
      const a = matrixOf(m, n, m);
      const [q, r] = qr(a);
      expect([q.shape, r.shape]).toEqual([
        [m, n],
        [n, n],
      ]);
      assertClose(matmul(q, r), a, "Q R", tight);
      assertClose(matmul(turned(q), q), eye(n, n, { dtype: "float64" }), "Qᵀ Q", tight);
      (r.toArray() as number[][]).forEach((row, i) => {
        expect(row[i]!).toBeGreaterThan(0);
        expect(row.slice(0, i).every((x) => x === 0)).toBe(true);
      });
    }
  });

  test.each(sizes)("A x = b of order %p, general and triangular", (n) => {
    const [a, b] = [matrixOf(n, n, n + 100), matrixOf(n, 3, n)];
    const x = solve(a, b);
    // The residual is small beside the solution.
    const scale = 1 / Math.max(1, ...x.dataSync().map(Math.abs));
    assertClose(matmul(a, x).mul(scale), b.mul(scale), "A X", tight);
    const t = a.mul(1 / n).add(eye(n, n, { dtype: "float64" }).mul(2));
    const lower = t.mul(
      f64(Array.from({ length: n }, (_, i) => Array.from({ length: n }, (_, j) => Number(j <= i)))),
    );
    const upper = t.sub(lower).add(eye(n, n, { dtype: "float64" }).mul(t));
    const unit = (y: Value): Value =>
      y.sub(y.mul(eye(n, n, { dtype: "float64" }))).add(eye(n, n, { dtype: "float64" }));
    for (const [triangle, isLower] of [
      [lower, true],
      [upper, false],
    ] as const) {
      for (const unitDiagonal of [false, true]) {
        const full = unitDiagonal ? unit(triangle) : triangle;
        const options = { lower: isLower, unitDiagonal };
        assertClose(matmul(full, triangularSolve(t, b, options)), b, "T X", tight);
        assertClose(
          matmul(turned(full), triangularSolve(t, b, { ...options, transpose: true })),
          b,
          "Tᵀ X",
          tight,
        );
      }
    }
  });
});

test("a wide matrix has Q of its first columns", () => {
  const a = matrixOf(3, 5, 1);
  const [q, r] = qr(a);
  expect([q.shape, r.shape]).toEqual([
    [3, 3],
    [3, 5],
  ]);
  assertClose(matmul(q, r), a, "Q R", tight);
  assertClose(matmul(turned(q), q), eye(3, 3, { dtype: "float64" }), "Qᵀ Q", tight);
  checkGrads((x: Value) => qr(x), [a], { order: 2 });
});

describe("known decompositions", () => {
  test("Cholesky of the matrix min(i, j) is all ones", () => {
    const n = 9;
    const index = Array.from({ length: n }, (_, i) => i);
    const a = f64(index.map((i) => index.map((j) => Math.min(i, j) + 1)));
    expect(cholesky(a).toArray()).toEqual(index.map((i) => index.map((j) => Number(j <= i))));
  });

  test("the second difference has eigenvalues 2 - 2 cos(k pi / (n + 1)) and sines as vectors", () => {
    const n = 40;
    const index = Array.from({ length: n }, (_, i) => i);
    const a = f64(index.map((i) => index.map((j) => (i === j ? 2 : Math.abs(i - j) === 1 ? -1 : 0))));
    const [w, V] = eigh(a);
    assertNumbersClose(
      w.dataSync(),
      index.map((k) => 2 - 2 * Math.cos(((k + 1) * Math.PI) / (n + 1))),
      "values",
      { relative: 1e-14 },
    );
    const columns = turned(V).toArray() as number[][];
    columns.forEach((column, k) => {
      const sines = index.map(
        (i) => Math.sqrt(2 / (n + 1)) * Math.sin(((k + 1) * (i + 1) * Math.PI) / (n + 1)),
      );
      const sign = Math.sign(sines.reduce((s, x, i) => s + x * column[i]!, 0));
      assertNumbersClose(
        column,
        sines.map((x) => sign * x),
        `vector ${k}`,
        loose,
      );
    });
  });

  test("elimination needs its pivots", () => {
    const a = f64([
      [1e-20, 1],
      [1, 1],
    ]);
    assertNumbersClose(solve(a, f64([1, 2])).dataSync(), [1, 1], "x", { relative: 1e-15 });
    const cycle = f64([
      [0, 0, 1],
      [1, 0, 0],
      [0, 1, 0],
    ]);
    expect(solve(cycle, f64([1, 2, 3])).toArray()).toEqual([2, 3, 1]);
  });

  test("equal eigenvalues: any orthonormal basis of their space", () => {
    const n = 12;
    // 2 I + 1 1ᵀ has 2 eleven times, and 14.
    const a = ones([n, n], { dtype: "float64" }).add(eye(n, n, { dtype: "float64" }).mul(2));
    const [w, V] = eigh(a);
    assertNumbersClose(w.dataSync(), [...Array(n - 1).fill(2), n + 2], "values", { relative: 1e-14 });
    assertClose(matmul(turned(V), V), eye(n, n, { dtype: "float64" }), "Vᵀ V", tight);
    assertClose(matmul(V.mul(w), turned(V)), a, "V w Vᵀ", tight);
    expect(eigh(zeros([3, 3]))[1].toArray()).toEqual(eye(3).toArray());
  });

  test("scales from 1e-150 to 1e150 neither overflow nor vanish", () => {
    for (const scale of [1e-150, 1e-20, 1e20, 1e150]) {
      const a = symmetric(6, 3);
      const [w, V] = eigh(a.mul(scale));
      assertClose(w.mul(1 / scale), eigh(a)[0], "values", tight);
      assertClose(V, eigh(a)[1], "vectors", loose);
      const [q, r] = qr(a.mul(scale));
      assertClose(matmul(q, r).mul(1 / scale), a, "Q R", tight);
    }
  });
});

describe("what has no answer is NaN, in the same places in a compiled program", () => {
  const areNaN = (x: Value): boolean[] => [...x.dataSync()].map(Number.isNaN);

  test("Cholesky of a matrix that is not positive definite", () => {
    for (const [a, stack] of [
      [
        [
          [1, 2],
          [2, 1],
        ],
        [
          [4, 2],
          [2, 5],
        ],
      ],
      [
        [
          [1, 1],
          [1, 1],
        ],
        [
          [1, 0],
          [0, 1],
        ],
      ],
      [
        [
          [Number.NaN, 0],
          [0, 1],
        ],
        [
          [1, 0],
          [0, 1],
        ],
      ],
    ]) {
      const both = f64([a!, stack!]);
      for (const f of [cholesky, jit(cholesky)]) {
        expect(areNaN(f(both))).toEqual([true, false, true, true, false, false, false, false]);
      }
    }
  });

  test("eigenvalues of what is not finite", () => {
    for (const bad of [Number.NaN, Infinity]) {
      const [w, V] = eigh(
        f64([
          [
            [1, bad],
            [bad, 1],
          ],
          [
            [1, 0],
            [0, 2],
          ],
        ]),
      );
      expect(areNaN(w)).toEqual([true, true, false, false]);
      expect(areNaN(V).slice(0, 4)).toEqual([true, true, true, true]);
    }
  });

  test("a singular system", () => {
    const x = solve(
      f64([
        [1, 2],
        [2, 4],
      ]),
      f64([1, 1]),
    ).dataSync();
    expect(x.some(Number.isFinite)).toBe(false);
  });

  test("the derivative of eigenvectors at equal eigenvalues; that of the values is finite", () => {
    const a = eye(2, 2, { dtype: "float64" });
    const weights = f64([1, 3]);
    assertClose(
      grad((x: Value) => sum(mul(eigh(x)[0], weights)))(a),
      f64([
        [1, 0],
        [0, 3],
      ]),
      "of values",
    );
    const ofVectors = grad((x: Value) =>
      sum(
        mul(
          eigh(x)[1],
          f64([
            [1, 2],
            [3, 4],
          ]),
        ),
      ),
    )(a);
    expect(ofVectors.dataSync().every(Number.isFinite)).toBe(false);
  });
});

describe("derivatives", () => {
  test("of log det A through three factorizations is the inverse", () => {
    const a = definite(5, 8);
    const inverse = solve(a, eye(5, 5, { dtype: "float64" }));
    const diagonal = (x: Value): Value => x.mul(eye(5, 5, { dtype: "float64" })).sum({ axis: -1 });
    const viaCholesky = (x: Value): Value => sum(log(diagonal(cholesky(x)))).mul(2);
    const viaEigh = (x: Value): Value => sum(log(eigh(x)[0]));
    const viaQr = (x: Value): Value => sum(log(diagonal(qr(x)[1])));
    for (const f of [viaCholesky, viaEigh, viaQr]) {
      assertClose(grad(f)(a), inverse, "gradient", loose);
      // The Hessian applied to a symmetric v is -A⁻¹ v A⁻¹.
      const v = symmetric(5, 4);
      assertClose(hvp(f)(a, v), matmul(matmul(inverse, v), inverse).mul(-1), "hvp", loose);
      assertClose(jit(grad(f))(a), inverse, "compiled gradient", loose);
    }
  });

  test("agree with differences up to the second order, in stacks too", () => {
    const stack = f64([definite(3, 1).toArray() as Nested, definite(3, 2).toArray() as Nested]);
    const b = matrixOf(3, 2, 9);
    checkGrads((a: Value) => cholesky(a), [stack], { order: 2 });
    checkGrads((a: Value, y: Value) => solve(a, y), [stack, b], { order: 2 });
    checkGrads((a: Value, y: Value) => triangularSolve(a, y, { lower: false }), [stack, b], { order: 2 });
    checkGrads((a: Value) => eigh(a), [stack], { order: 2 });
    checkGrads((a: Value) => qr(a), [stack], { order: 2 });
  });

  test("of the square root of a matrix solve Sylvester's equation", () => {
    const a = definite(4, 6);
    const root = (x: Value): Value => {
      const [w, V] = eigh(x);
      return matmul(V.mul(w.sqrt()), turned(V));
    };
    const v = symmetric(4, 7);
    const J = jacrev(root)(a) as Value;
    const moved = sum(mul(J, v), { axis: [2, 3] });
    // d(S S) = dS S + S dS = dA
    assertClose(matmul(moved, root(a)).add(matmul(root(a), moved)), v, "dS S + S dS", loose);
  });
});

describe("batches", () => {
  const stack = f64([1, 2, 3].map((seed) => definite(4, seed).toArray() as Nested));
  const rows = [0, 1, 2].map((i) => stack.slice([i, 0, 0], [i + 1, 4, 4]).reshape([4, 4]));

  test("a stack and vmap give what a loop gives", () => {
    const list: ((x: Value) => readonly Value[])[] = [(x) => [cholesky(x)], (x) => eigh(x), (x) => qr(x)];
    for (const f of list) {
      const [whole, mapped] = [f(stack), vmap((x: Value) => [...f(x)])(stack)];
      rows.forEach((x, i) => {
        f(x).forEach((y, k) => {
          const at = (z: Value): number[] => [...z.dataSync()].slice(i * y.size, (i + 1) * y.size);
          expect(at(whole[k]!)).toEqual([...y.dataSync()]);
          expect(at(mapped[k]!)).toEqual([...y.dataSync()]);
        });
      });
    }
  });

  test("the axes before the matrices broadcast, and a vector is a column", () => {
    const b = f64([1, 2, 3, 4]);
    const x = solve(stack, b);
    expect(x.shape).toEqual([3, 4]);
    rows.forEach((a, i) => {
      assertNumbersClose(x.slice([i, 0], [i + 1, 4]).dataSync(), solve(a, b).dataSync(), "x", tight);
    });
    const many = matrixOf(6, 4, 3).reshape([6, 4, 1]);
    expect(triangularSolve(rows[0]!, many).shape).toEqual([6, 4, 1]);
    expect(solve(stack.reshape([3, 1, 4, 4]), many).shape).toEqual([3, 6, 4, 1]);
  });

  test("right sides that are mapped share one factorization", () => {
    const bs = matrixOf(7, 4, 5);
    const f = (x: Value): Value => vmap((b: Value) => solve(rows[0]!, b))(x);
    expect(makeProgram(f)(bs).toString()).toMatch(/solve.* \[?f64\[4,4\]|f64\[4,7\] = solve/);
    assertClose(f(bs), turned(solve(rows[0]!, turned(bs))), "x", tight);
  });

  test("nothing at all", () => {
    const none = zeros([0, 3, 3]);
    expect(eigh(none).map((x) => x.shape)).toEqual([
      [0, 3],
      [0, 3, 3],
    ]);
    expect(cholesky(zeros([2, 0, 0])).shape).toEqual([2, 0, 0]);
    expect(solve(eye(3), zeros([3, 0])).shape).toEqual([3, 0]);
    expect(qr(zeros([3, 0])).map((x) => x.shape)).toEqual([
      [3, 0],
      [0, 0],
    ]);
    expect(eigh(zeros([0, 0]))[0].shape).toEqual([0]);
  });
});

prop("a compiled program gives the bits of the functions", seeds(6), (seed) => {
  const given = new SeededDraw(seed);
  const n = given.int(1, 6);
  const dtype = given.pick(["float32", "float64"] as const);
  const a = given.tensor({ shape: [n, n], range: [-1, 1], diagonal: [n, n + 2] }, dtype);
  const f = (x: Value): Value[] => [cholesky(x), ...eigh(x), ...qr(x), solve(x, x), triangularSolve(x, x)];
  f(a).forEach((y, i) => {
    expect([...jit(f)(a)[i]!.dataSync()]).toEqual([...y.dataSync()]);
    expect(y.dtype).toBe(dtype);
  });
});

test("float32 has the digits of float32 where float32 algorithms lose them", () => {
  // Condition 1e6: of the inverse, float64 inside leaves what rounding the input and the output does.
  const n = 6;
  const index = Array.from({ length: n }, (_, i) => i);
  const data = Float32Array.from(index.flatMap((i) => index.map((j) => 1 / (i + j + 1))));
  const [narrow, wide] = [adopt(data, [n, n], "float32"), adopt(Float64Array.from(data), [n, n], "float64")];
  const identity = (dtype: "float32" | "float64"): Value => eye(n, n, { dtype });
  const exact = solve(wide, identity("float64")).dataSync();
  solve(narrow, identity("float32"))
    .dataSync()
    .forEach((x, i) => {
      expect(x).toBe(Math.fround(exact[i]!));
    });
});

test("what does not fit is refused", () => {
  const wrong: (() => unknown)[] = [
    () => cholesky(ones([2, 3])),
    () => cholesky(ones([2])),
    () => eigh(ones([3, 2])),
    () => qr(ones([3])),
    () => solve(ones([2, 3]), ones([3])),
    () => solve(eye(2), ones([3])),
    () => solve(eye(2), ones([])),
    () => solve(ones([2]), ones([2])),
    () => triangularSolve(ones([2, 2, 2]), ones([3, 2, 1])),
  ];
  for (const call of wrong) expect(call).toThrow(ShapeError);
  expect(() => eigh(ones([2, 2], { dtype: "int32" }))).toThrow(DTypeError);
  expect(() => solve(eye(2), ones([2], { dtype: "float64" }))).toThrow(DTypeError);
  expect(() => cholesky(ones([2, 3]))).toThrow(
    "Cannot cholesky f32[2,3]: the matrix has 2 rows and 3 columns, a square one is needed",
  );
});
