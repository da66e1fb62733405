/** Factorizations by a native LAPACK against the functions of core/, closed forms, and what defines them. */
import { describe, expect, test } from "bun:test";
import { reference } from "../../core/backend.ts";
import { findLapack } from "../../core/backends/cpu/lapack.ts";
import { eye } from "../../core/create.ts";
import { symmetricEigen } from "../../core/eigen.ts";
import {
  choleskyFactor,
  type NativeFactors,
  qrFactor,
  setNativeFactors,
  solveSquare,
  solveTriangle,
} from "../../core/factor.ts";
import { cholesky, eigh, matmul, qr, solve } from "../../core/ops.ts";
import { adopt, setBackend } from "../../core/trace.ts";
import type { Value } from "../../core/value.ts";
import { SeededDraw } from "../support/arbitrary_tensor.ts";
import { assertClose, assertNumbersClose, type Tolerance } from "../support/tolerance.ts";

const lapack = findLapack();
if (lapack === null) console.log("lapack: the tests are skipped: no library that has it was found");
const describeNative = describe.if(lapack !== null);

/** What a function gives with this library, or with the functions of core/ alone. */
function using<T>(native: NativeFactors | null, f: () => T): T {
  const previous = setNativeFactors(() => native);
  try {
    return f();
  } finally {
    setNativeFactors(previous);
  }
}
const own = <T>(f: () => T): T => using(null, f);

/** What a function gives with the library, after checking that this one of its functions had the answer `calls` times. */
function native<T>(name: keyof NativeFactors, calls: number, f: () => T): T {
  let answers = 0;
  const counted = {
    ...lapack!,
    // The arguments go through as they are.
    [name]: (...args: readonly never[]) => {
      const isAnswer = (lapack![name] as (...args: readonly never[]) => boolean)(...args);
      answers += Number(isAnswer);
      return isAnswer;
    },
  };
  const result = using(counted, f);
  expect(answers).toBe(calls);
  return result;
}

const random = (rows: number, columns: number, seed = rows): Float64Array =>
  new Float64Array(
    new SeededDraw({ seed, size: 9 })
      .tensor({ shape: [rows, columns], range: [-1, 1] }, "float64")
      .dataSync(),
  );
const fromRule = (n: number, rule: (i: number, j: number) => number): Float64Array =>
  Float64Array.from({ length: n * n }, (_, at) => rule(Math.floor(at / n), at % n));
const tensorOf = (data: Float64Array, rows: number, columns: number): Value =>
  adopt(data.slice(), [rows, columns], "float64");
const turned = (x: Value): Value => x.transpose();
const unit = (n: number): Value => eye(n, n, { dtype: "float64" });
const elements = (x: Value): Float64Array => new Float64Array(x.dataSync());

/** X Xᵀ of a random n x rank matrix. */
function gram(n: number, rank: number): Float64Array {
  const x = tensorOf(random(n, rank), n, rank);
  return elements(matmul(x, turned(x)));
}

const symmetric = (n: number): Float64Array => {
  const x = random(n, n);
  return fromRule(n, (i, j) => x[i * n + j]! + x[j * n + i]!);
};

/** Q diag(values) Qᵀ with a random orthogonal Q. */
function withValues(values: readonly number[]): Float64Array {
  const n = values.length;
  const [Q] = own(() => qr(tensorOf(random(n, n), n, n)));
  return elements(matmul(Q.mul(adopt(Float64Array.from(values), [n], "float64")), turned(Q)));
}

const close: Tolerance = {
  relative: 1e-12,
  reason: "a factorization of order 100 rounds some hundred times",
};

/** |actual - expected| relative to the largest value: what the values of a matrix are known to. */
function assertValues(actual: Float64Array, expected: Float64Array): void {
  const largest = Math.max(...expected.map(Math.abs)) || 1;
  assertNumbersClose(
    actual.map((x) => x / largest),
    expected.map((x) => x / largest),
    "values",
    close,
  );
}

describeNative("eigenvalues and eigenvectors", () => {
  const cases: Readonly<Record<string, { readonly a: Float64Array; readonly n: number }>> = {
    random: { a: symmetric(100), n: 100 },
    "of the least order": { a: symmetric(64), n: 64 },
    "with something else above the diagonal": { a: random(75, 75), n: 75 },
    "of odd order": { a: symmetric(131), n: 131 },
    degenerate: { a: withValues(Array.from({ length: 96 }, (_, i) => [-1, 2, 2.5][i % 3]!)), n: 96 },
    diagonal: { a: fromRule(90, (i, j) => (i === j ? ((i * 7) % 90) - 30 : 0)), n: 90 },
    "multiple of the unit": { a: fromRule(70, (i, j) => (i === j ? 3 : 0)), n: 70 },
    "all zero": { a: new Float64Array(80 * 80), n: 80 },
    "of rank 7": { a: gram(110, 7), n: 110 },
    tiny: { a: symmetric(72).map((x) => x * 1e-150), n: 72 },
    huge: { a: symmetric(72).map((x) => x * 1e150), n: 72 },
  };

  test.each(Object.entries(cases))("%s: as the functions of core/ find them", (_, { a, n }) => {
    const ours = own(() => symmetricEigen(a.slice(), n));
    const theirs = native("eigen", 1, () => symmetricEigen(a.slice(), n));
    assertValues(theirs.values, ours.values);
    expect(theirs.values).toEqual(theirs.values.toSorted());
    const V = tensorOf(theirs.vectors, n, n);
    assertClose(matmul(V, turned(V)), unit(n), "V Vᵀ", close);
    // Vectors of equal values are any basis: the projectors on their spaces are the same.
    const scale = Math.max(...ours.values.map(Math.abs));
    for (let begin = 0, end = 0; begin < n; begin = end) {
      for (end = begin + 1; end < n && ours.values[end]! - ours.values[end - 1]! <= 1e-9 * scale; ) end++;
      const projector = (vectors: Float64Array): Value => {
        const rows = tensorOf(vectors.slice(begin * n, end * n), end - begin, n);
        return matmul(turned(rows), rows);
      };
      assertClose(projector(theirs.vectors), projector(ours.vectors), `projector ${begin} to ${end}`, {
        relative: 1e-10,
        reason: "vectors lose to the gaps between values, which are a thousandth of the largest",
      });
    }
    for (let i = 0; i < n; i++) {
      const row = theirs.vectors.subarray(i * n, (i + 1) * n);
      const largest = Math.max(...row.map(Math.abs));
      expect(row.find((x) => Math.abs(x) >= largest * (1 - 1e-8))!).toBeGreaterThan(0);
    }
  });

  test("the second difference of order 785 has eigenvalues 2 - 2 cos(k pi / (n + 1))", () => {
    const n = 785;
    const a = tensorOf(
      fromRule(n, (i, j) => (i === j ? 2 : Math.abs(i - j) === 1 ? -1 : 0)),
      n,
      n,
    );
    const [w, V] = native("eigen", 1, () => eigh(a));
    const known = Float64Array.from({ length: n }, (_, k) => 2 - 2 * Math.cos(((k + 1) * Math.PI) / (n + 1)));
    assertValues(elements(w), known);
    assertClose(matmul(a, V), V.mul(w), "A V", close);
    assertClose(matmul(turned(V), V), unit(n), "Vᵀ V", close);
  });

  test("orders that are not asked of the library are right too", () => {
    for (const [a, values] of [
      [[3], [3]],
      [
        [2, 1, 1, 2],
        [1, 3],
      ],
    ] as const) {
      const n = values.length;
      const [w, rows] = [new Float64Array(n), new Float64Array(n * n)];
      expect(lapack!.eigen(Float64Array.from(a), n, w, rows)).toBe(true);
      assertNumbersClose(w, values, "values", close);
      assertNumbersClose(rows.map(Math.abs), new Array(n * n).fill(Math.sqrt(1 / n)), "vectors", close);
    }
  });

  test("the same matrix gives the same bits, wherever its copy lies", () => {
    const n = 117;
    const a = symmetric(n);
    const first = native("eigen", 1, () => symmetricEigen(a.slice(), n));
    const kept: ArrayBuffer[] = [];
    for (let i = 1; i < 8; i++) {
      kept.push(new ArrayBuffer(i * 1000 + 8 * i));
      expect(using(lapack, () => symmetricEigen(a.slice(), n))).toEqual(first);
    }
  });

  test("what is not finite is NaN everywhere, and the library does not see it", () => {
    const n = 66;
    for (const bad of [Number.NaN, Infinity]) {
      const a = symmetric(n);
      a[40 * n + 3] = bad;
      let asked = 0;
      const watched = { ...lapack!, eigen: () => ++asked > 0 };
      const { values, vectors } = using(watched, () => symmetricEigen(a, n));
      expect(asked).toBe(0);
      expect([...values, ...vectors].every(Number.isNaN)).toBe(true);
    }
  });
});

describeNative("systems and triangles", () => {
  const n = 101;
  const definite = gram(n, n).map((x, at) => x + (at % (n + 1) === 0 ? n : 0));

  test("Cholesky", () => {
    const [ours, theirs] = [definite.slice(), definite.slice()];
    own(() => choleskyFactor(ours, n));
    native("cholesky", 1, () => choleskyFactor(theirs, n));
    assertNumbersClose(theirs, ours, "L", close);
    for (let i = 0; i < n; i++)
      expect(theirs.subarray(i * n + i + 1, (i + 1) * n).every((x) => x === 0)).toBe(true);
  });

  test("Cholesky of what is not positive definite is NaN in the triangle", () => {
    const last = definite.slice();
    last[n * n - 1] = -1;
    const bad = definite.slice();
    bad[50 * n + 20] = Number.NaN;
    for (const a of [last, bad, fromRule(n, () => 1)]) {
      native("cholesky", 0, () => choleskyFactor(a, n));
      expect(a.every((x, at) => (at % n > Math.floor(at / n) ? x === 0 : Number.isNaN(x)))).toBe(true);
    }
  });

  test.each([1, 3, 70])("a general matrix and its transpose, %p right sides", (count) => {
    const a = random(n, n).map((x, at) => x + (at % (n + 2) === 5 ? 4 : 0));
    for (const transpose of [false, true]) {
      const x = random(count, n);
      native("solve", 1, () => solveSquare(a.slice(), n, x, transpose));
      const A = tensorOf(a, n, n);
      const X = tensorOf(x, count, n);
      assertClose(matmul(X, transpose ? A : turned(A)), tensorOf(random(count, n), count, n), "A X", close);
    }
  });

  test("a singular matrix has no finite solution", () => {
    const a = definite.slice();
    a.copyWithin(0, n, 2 * n);
    a.fill(0, 0, n);
    const x = random(2, n);
    native("solve", 0, () => solveSquare(a, n, x, false));
    expect(x.some(Number.isFinite)).toBe(false);
  });

  test("a right side that is not finite spoils no other", () => {
    const sides = random(2, n);
    sides[4] = Infinity;
    native("solve", 0, () => solveSquare(definite.slice(), n, sides, false));
    expect(sides.subarray(n).every(Number.isFinite)).toBe(true);
    expect(sides.subarray(0, n).some(Number.isFinite)).toBe(false);
  });

  const flags = [false, true];
  const triangles = flags.flatMap((lower) =>
    flags.flatMap((transpose) => flags.map((unitDiagonal) => ({ lower, transpose, unitDiagonal }))),
  );
  test.each(triangles)("lower $lower, transpose $transpose, unit $unitDiagonal", (triangle) => {
    // What is outside of the triangle is large, and not read.
    const t = fromRule(n, (i, j) =>
      i === j ? 3 + (i % 5) : i > j === triangle.lower ? Math.sin(i * n + j) / n : 1e6,
    );
    const sides = random(5, n);
    const [ours, theirs, few] = [sides.slice(), sides.slice(), sides.slice(0, n)];
    own(() => solveTriangle(t, n, ours, triangle));
    native("triangle", 1, () => solveTriangle(t, n, theirs, triangle));
    native("triangle", 0, () => solveTriangle(t, n, few, triangle));
    assertNumbersClose(theirs, ours, "x", close);
    expect(few).toEqual(ours.slice(0, n));
  });
});

describeNative("Q and R", () => {
  test.each([
    [64, 64],
    [150, 70],
    [101, 101],
  ])("%p rows, %p columns", (m, n) => {
    const columns = random(n, m);
    const factored = (): { q: Float64Array; r: Float64Array } => {
      const [q, r] = [new Float64Array(m * n), new Float64Array(n * n)];
      qrFactor(columns.slice(), m, n, q, r);
      return { q, r };
    };
    const [ours, theirs] = [own(factored), native("qr", 1, factored)];
    assertNumbersClose(theirs.q, ours.q, "Q", {
      relative: 1e-11,
      reason: "the condition of a random matrix",
    });
    assertNumbersClose(theirs.r, ours.r, "R", { relative: 1e-11, reason: "the same" });
    for (let i = 0; i < n; i++) {
      expect(theirs.r[i * n + i]!).toBeGreaterThanOrEqual(0);
      expect(theirs.r.subarray(i * n, i * n + i).every((x) => x === 0)).toBe(true);
    }
  });

  test("of rank 5: Q is orthonormal, Q R is the matrix", () => {
    const n = 80;
    const a = tensorOf(gram(n, 5), n, n);
    const [q, r] = native("qr", 1, () => qr(a));
    assertClose(matmul(q, r), a, "Q R", close);
    assertClose(matmul(turned(q), q), unit(n), "Qᵀ Q", close);
  });
});

describe("without an answer of the library the functions of core/ give theirs", () => {
  const n = 68;
  const definite = gram(n, n).map((x, at) => x + (at % (n + 1) === 0 ? n : 0));
  /** Every factorization, through what people call. */
  const all = (): readonly Float64Array[] => {
    const [a, x] = [tensorOf(definite, n, n), tensorOf(random(n, n), n, n)];
    return [cholesky(a), solve(a, x), ...eigh(a), ...qr(x)].map(elements);
  };
  const ours = own(all);

  test("a library that fails", () => {
    const failing = (): boolean => false;
    const none = { eigen: failing, cholesky: failing, solve: failing, triangle: failing, qr: failing };
    expect(using(none, all)).toEqual(ours);
  });

  test("the reference backend", () => {
    const previous = setBackend(reference);
    try {
      expect(all()).toEqual(ours);
    } finally {
      setBackend(previous);
    }
  });

  test("COTANGENT_BLAS=none", () => {
    const code = `
      import * as ct from ${JSON.stringify(new URL("../../mod.ts", import.meta.url).href)};
      const input = JSON.parse(await Bun.stdin.text());
      const [w, V] = ct.eigh(ct.tensor(Float64Array.from(input), { dtype: "float64" }).reshape([${n}, ${n}]));
      console.log(JSON.stringify([[...w.dataSync()], [...V.dataSync()]]));`;
    const { stdout } = Bun.spawnSync([process.execPath, "-e", code], {
      env: { ...process.env, COTANGENT_BLAS: "none" },
      stdin: Buffer.from(JSON.stringify([...definite])),
    });
    const [w, V] = JSON.parse(stdout.toString());
    expect([w, V]).toEqual([[...ours[2]!], [...ours[3]!]]);
  });
});
