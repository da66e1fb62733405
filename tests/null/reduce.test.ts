/** Reductions against NumPy's results and hand values; derivatives at ties and zeros against the definition. */
import { describe, expect, test } from "bun:test";
import { checkGrads } from "../../autodiff/check.ts";
import { grad } from "../../autodiff/vjp.ts";
import { vmap } from "../../autodiff/vmap.ts";
import { reference } from "../../core/backend.ts";
import { tensor } from "../../core/create.ts";
import { ShapeError } from "../../core/errors.ts";
import { mul } from "../../core/prims/elementwise.ts";
import { sumAxes } from "../../core/prims/movement.ts";
import { argmax, argmin, cumsum, reduceMax, reduceMin, reduceProd } from "../../core/prims/reduce.ts";
import { setBackend } from "../../core/trace.ts";
import type { Nested, Value } from "../../core/value.ts";

const f64 = (data: Nested): Value => tensor(data, { dtype: "float64" });
const positive = (x: number): number => x + 0; // -0 as 0
const flat = (x: Value): number[] => [...x.dataSync()].map(positive);

// numpy 2.4: x.max(axes), x.min(axes), x.prod(axes), x.argmax(axis), x.argmin(axis), x.cumsum(axis)
const x = f64([
  [
    [3, -1, 2],
    [0, 5, -4],
  ],
  [
    [7, 1, 1],
    [-2, 6, 8],
  ],
]);

describe("reductions equal NumPy's", () => {
  const cases: [axes: number[], max: number[], min: number[], prod: number[]][] = [
    [[0], [7, 1, 2, 0, 6, 8], [3, -1, 1, -2, 5, -4], [21, -1, 2, 0, 30, -32]],
    [[1], [3, 5, 2, 7, 6, 8], [0, -1, -4, -2, 1, 1], [0, -5, -8, -14, 6, 8]],
    [[2], [3, 5, 7, 8], [-1, -4, 1, -2], [-6, 0, 7, -96]],
    [
      [0, 2],
      [7, 8],
      [-1, -4],
      [-42, 0],
    ],
    [[0, 1, 2], [8], [-4], [0]],
  ];
  for (const [axes, max, min, prod] of cases) {
    test(`over axes ${axes}`, () => {
      expect(flat(reduceMax(x, axes))).toEqual(max);
      expect(flat(reduceMin(x, axes))).toEqual(min);
      expect(flat(reduceProd(x, axes))).toEqual(prod);
    });
  }

  test("positions along each axis, first of ties", () => {
    expect([0, 1, 2].map((axis) => flat(argmax(x, axis)))).toEqual([
      [1, 1, 0, 0, 1, 1],
      [0, 1, 0, 0, 1, 1],
      [0, 1, 0, 2],
    ]);
    expect([0, 1, 2].map((axis) => flat(argmin(x, axis)))).toEqual([
      [0, 0, 1, 1, 0, 0],
      [1, 0, 1, 1, 0, 0],
      [1, 2, 1, 0],
    ]);
    expect(argmax(x, 0).dtype).toBe("int32");
    expect(argmax(tensor([false, true, true], { dtype: "bool" }), 0).item()).toBe(1);
  });

  test("cumulative sums forwards and backwards", () => {
    expect(flat(cumsum(x, 0))).toEqual([3, -1, 2, 0, 5, -4, 10, 0, 3, -2, 11, 4]);
    expect(flat(cumsum(x, 1))).toEqual([3, -1, 2, 3, 4, -2, 7, 1, 1, 5, 7, 9]);
    expect(flat(cumsum(x, 2))).toEqual([3, 2, 4, 0, 5, 1, 7, 8, 9, -2, 4, 12]);
    expect(flat(cumsum(x, 1, true))).toEqual([3, 4, -2, 0, 5, -4, 5, 7, 9, -2, 6, 8]);
    expect(flat(cumsum(x, 2, true))).toEqual([4, 1, 2, 1, 1, -4, 9, 2, 1, 12, 14, 8]);
  });

  test("NaN wins, and the first NaN is the position", () => {
    const y = f64([
      [3, Number.NaN, 1, 3],
      [2, -1, Number.NaN, Number.NaN],
      [0, -0.5, 7, 7],
    ]);
    expect(flat(reduceMax(y, [1]))).toEqual([Number.NaN, Number.NaN, 7]);
    expect(flat(reduceMin(y, [1]))).toEqual([Number.NaN, Number.NaN, -0.5]);
    expect(flat(argmax(y, 1))).toEqual([1, 2, 2]);
    expect(flat(argmin(y, 1))).toEqual([1, 2, 1]);
  });
});

describe("products whose parts are out of range", () => {
  /** Powers of two with their exact product: the exponents add up. */
  const powers = (exponents: readonly number[]): number[] => exponents.map((e) => 2 ** e);
  const many = (n: number, ...list: number[]): number[] => Array.from({ length: n }, () => list).flat();
  const cases: readonly (readonly [string, "float32" | "float64", number[], number])[] = [
    ["large ones, then 0", "float32", [...powers(many(99, 120)), 0], 0],
    ["0, then large ones", "float32", [0, ...powers(many(99, 120))], 0],
    ["large ones and one 0 among many", "float64", powers(many(99, 1000)).with(37, 0), 0],
    ["large and small in turn", "float32", powers(many(50, 120, -120)), 1],
    ["large ones, then small ones", "float32", powers([...many(50, 127), ...many(50, -127), 3]), 8],
    ["small ones, then large ones", "float32", powers([...many(50, -126), ...many(50, 126), -1]), 0.5],
    ["the smallest numbers", "float32", powers([...many(64, -149), ...many(64, 127), ...many(64, 22)]), 1],
    ["large and small of float64", "float64", powers(many(50, 1023, -1023)), 1],
    [
      "the smallest of float64",
      "float64",
      powers([...many(9, -1074), ...many(9, 1023), ...many(9, 51), 2]),
      4,
    ],
    ["a subnormal result", "float64", powers([...many(4, 1000), ...many(5, -1000), -60]), 2 ** -1060],
    ["too large", "float64", powers([...many(3, 1000), -900]), Infinity],
    ["too small, negative", "float64", [...powers(many(3, -900)), -1], 0],
    ["the largest number", "float64", [1, Number.MAX_VALUE, 1], Number.MAX_VALUE],
    ["an infinity among small ones", "float32", [...powers(many(99, -120)), -Infinity], -Infinity],
    ["an infinity and 0", "float32", [...powers(many(9, 2)), 0, Infinity], NaN],
    ["NaN and 0", "float32", [NaN, ...powers(many(9, -120)), 0], NaN],
  ];
  for (const [name, dtype, factors, expected] of cases) {
    test(name, () => {
      // As rows of one and of three, as columns, both ends first; and a row long enough to be cut into pieces.
      const [once, n] = [tensor(factors, { dtype }), factors.length];
      const long = tensor([...factors, ...new Array<number>(100_000 - n).fill(1)], { dtype });
      const rows = tensor([factors, factors.toReversed(), factors], { dtype });
      const columns = tensor(
        factors.map((x) => many(5, x)),
        { dtype },
      );
      for (const backend of [null, reference]) {
        const previous = backend && setBackend(backend);
        try {
          expect(flat(reduceProd(once, [0]))).toEqual([expected]);
          expect(flat(reduceProd(long, [0]))).toEqual([expected]);
          expect(flat(reduceProd(rows, [1]))).toEqual(many(3, expected));
          expect(flat(reduceProd(columns, [0]))).toEqual(many(5, expected));
        } finally {
          if (previous) setBackend(previous);
        }
      }
    });
  }
});

describe("element types and empty axes", () => {
  test("integers keep their extremes and wrap products", () => {
    const low = tensor([-2147483648, -7], { dtype: "int32" });
    expect(reduceMax(low, [0]).item()).toBe(-7);
    expect(reduceMin(low, [0]).item()).toBe(-2147483648);
    const large = tensor([4294967295, 4294967294], { dtype: "uint32" });
    expect(reduceMin(large, [0]).item()).toBe(4294967294);
    // (2^32 - 1)(2^32 - 2) = 2 modulo 2^32
    expect(reduceProd(large, [0]).item()).toBe(2);
    expect(reduceProd(tensor([65537, 65537], { dtype: "int32" }), [0]).item()).toBe(131073);
  });

  test("all elements -Infinity", () => {
    expect(reduceMax(f64([-Infinity, -Infinity]), [0]).item()).toBe(-Infinity);
    expect(argmax(f64([-Infinity, -Infinity]), 0).item()).toBe(0);
  });

  test("float32 accumulates in float64", () => {
    // 2^24 + 1 - 1 + ... : in float32 every 1 would be lost
    const y = tensor([2 ** 24, ...Array.from({ length: 8 }, () => 1)]);
    expect(cumsum(y, 0).dataSync()[8]).toBe(2 ** 24 + 8);
  });

  test("an empty axis has a product and no extremum", () => {
    const empty = tensor(new Float64Array(0), { shape: [2, 0] });
    expect(flat(reduceProd(empty, [1]))).toEqual([1, 1]);
    expect(reduceMax(empty, [0]).shape).toEqual([0]);
    expect(cumsum(empty, 1).shape).toEqual([2, 0]);
    for (const f of [
      () => reduceMax(empty, [1]),
      () => reduceMin(empty, [0, 1]),
      () => argmax(empty, 1),
      () => argmin(empty, 1),
    ])
      expect(f).toThrow(ShapeError);
  });

  test("axes that are not there are refused", () => {
    for (const axes of [[3], [-1], [0, 0], [0.5]]) {
      expect(() => reduceMax(x, axes)).toThrow(ShapeError);
      expect(() => reduceProd(x, axes)).toThrow(ShapeError);
    }
    expect(() => cumsum(x, 3)).toThrow(ShapeError);
    expect(() => argmax(x, -1)).toThrow(ShapeError);
  });
});

describe("derivatives", () => {
  test("ties of the maximum share the cotangent", () => {
    const f = (v: Value): Value => sumAxes(reduceMax(v, [1]), [0]);
    const y = f64([
      [2, 5, 5, 1],
      [3, 3, 3, 3],
    ]);
    expect(flat(grad(f)(y))).toEqual([0, 0.5, 0.5, 0, 0.25, 0.25, 0.25, 0.25]);
    const g = (v: Value): Value => sumAxes(reduceMin(v, [0]), [0]);
    expect(flat(grad(g)(y))).toEqual([1, 0, 0, 1, 0, 1, 1, 0]);
  });

  test("the product with no, one and two zeros", () => {
    const f = (v: Value): Value => reduceProd(v, [0]);
    expect(flat(grad(f)(f64([2, 3, 4, 5, -1])))).toEqual([-60, -40, -30, -24, 120]);
    expect(flat(grad(f)(f64([2, 0, 4])))).toEqual([0, 8, 0]);
    expect(flat(grad(f)(f64([2, 0, 0])))).toEqual([0, 0, 0]);
    expect(flat(grad(f)(tensor(new Float64Array(0))))).toEqual([]);
  });

  test("the Hessian of a product at two zeros", () => {
    // d² / dx_i dx_j prod = product of the others, so only the pair of the zeros is left: 2 * 3
    const f = (v: Value): Value => reduceProd(v, [0]);
    const at = f64([2, 0, 0, 3]);
    const row = (u: number[]): number[] =>
      flat(grad((v: Value) => sumAxes(mul(grad(f)(v), f64(u)), [0]))(at));
    expect(row([0, 1, 0, 0])).toEqual([0, 0, 6, 0]);
    expect(row([0, 0, 1, 0])).toEqual([0, 6, 0, 0]);
    expect(row([1, 0, 0, 0])).toEqual([0, 0, 0, 0]);
  });

  test("second order against differences", () => {
    const at = f64([
      [0.5, -1.5, 2],
      [1.25, 0, -0.75],
    ]);
    for (const axes of [[0], [1], [0, 1], []]) {
      checkGrads((v: Value) => reduceProd(v, axes), [at]);
      checkGrads((v: Value) => reduceMax(mul(v, v), axes), [at]);
      checkGrads((v: Value) => reduceMin(mul(v, mul(v, v)), axes), [at]);
    }
    checkGrads((v: Value) => cumsum(mul(v, v), 1), [at]);
    checkGrads((v: Value) => cumsum(mul(v, v), 0, true), [at]);
  });
});

test("mapped over any axis, each equals itself on the slices", () => {
  expect(flat(vmap((v: Value) => reduceMax(v, [0]), { inAxes: 1, outAxes: 0 })(x))).toEqual(
    flat(reduceMax(x, [0])),
  );
  expect(flat(vmap((v: Value) => reduceProd(v, [1]), { inAxes: 0 })(x))).toEqual(flat(reduceProd(x, [2])));
  expect(flat(vmap((v: Value) => argmin(v, 1))(x))).toEqual(flat(argmin(x, 2)));
  expect(flat(vmap((v: Value) => cumsum(v, 0), { inAxes: 1, outAxes: 1 })(x))).toEqual(flat(cumsum(x, 0)));
});
