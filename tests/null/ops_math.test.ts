/** Elementwise operations: broadcasting, numbers, element types, and stable functions far out. */
import { describe, expect, test } from "bun:test";
import { hvp } from "../../autodiff/hvp.ts";
import { grad } from "../../autodiff/vjp.ts";
import { tensor } from "../../core/create.ts";
import { DTypeError, ShapeError } from "../../core/errors.ts";
import * as ops from "../../core/ops.ts";
import type { Value } from "../../core/value.ts";

const int = (data: number[]): Value => tensor(data, { dtype: "int32" });
const bool = (data: boolean[]): Value => tensor(data, { dtype: "bool" });
const f64 = (data: number | number[]): Value => tensor(data, { dtype: "float64" });

/** What a call throws; fails if it returns. */
function thrown(call: () => unknown): unknown {
  try {
    call();
  } catch (error) {
    return error;
  }
  throw new Error("nothing was thrown");
}

describe("numbers", () => {
  test("a number takes the element type of the other operand, float32 if there is none", () => {
    expect(ops.add(f64([1]), 0.1).toArray()).toEqual([1.1]);
    expect(ops.mul(3, int([2])).dtype).toBe("int32");
    expect(ops.add(1, 2).dtype).toBe("float32");
    expect(ops.sub(1, tensor([3])).toArray()).toEqual([-2]);
  });

  test.each([
    ["a fraction and integers", () => ops.add(int([1]), 0.5)],
    ["a negative number and unsigned integers", () => ops.add(tensor([1], { dtype: "uint32" }), -1)],
    ["a number beyond int32", () => ops.mul(2 ** 31, int([1]))],
    ["a fraction and bool", () => ops.equal(bool([true]), 0.5)],
    ["arithmetic with bool", () => ops.add(bool([true]), 1)],
    ["two element types", () => ops.add(tensor([1]), int([1]))],
    ["a function of floats on integers", () => ops.sqrt(int([4]))],
    ["a string", () => ops.add(tensor([1]), "2" as unknown as Value)],
    ["an unknown element type", () => ops.cast(tensor([1]), "float8" as "float32")],
  ])("%s is a DTypeError", (_name, call) => {
    expect(thrown(call)).toBeInstanceOf(DTypeError);
  });

  test("a square of bool is named as a power", () => {
    expect((thrown(() => ops.pow(bool([true]), 2)) as DTypeError).message).toStartWith("Cannot pow");
    expect(ops.pow(int([3]), 2).toArray()).toEqual([9]);
  });

  test("the error says which number meets which type", () => {
    const error = thrown(() => ops.add(int([1]), 0.5)) as DTypeError;
    expect(error.op).toBe("add");
    expect(error.message).toContain("0.5");
    expect(error.message).toContain("int32");
  });
});

describe("broadcasting", () => {
  test("rows and columns make a table", () => {
    const table = ops.add(tensor([[10], [20]]), tensor([1, 2, 3]));
    expect(table.toArray()).toEqual([
      [11, 12, 13],
      [21, 22, 23],
    ]);
  });

  test("an empty axis meets size 1", () => {
    expect(ops.add(tensor([], { shape: [0, 1] }), tensor([1, 2])).shape).toEqual([0, 2]);
  });

  test("shapes that do not fit name the operation", () => {
    const error = thrown(() => ops.mul(tensor([1, 2]), tensor([1, 2, 3]))) as ShapeError;
    expect(error).toBeInstanceOf(ShapeError);
    expect(error.op).toBe("mul");
  });

  test("the derivative of a repeated operand is summed", () => {
    const f = (b: Value) =>
      ops.sum(
        ops.mul(
          b,
          tensor([
            [1, 2],
            [3, 4],
          ]),
        ),
      );
    expect(grad(f)(tensor([0, 0])).toArray()).toEqual([4, 6]);
    expect(grad(f)(tensor(0)).item()).toBe(10);
    expect(grad(f)(tensor([[0], [0]])).toArray()).toEqual([[3], [7]]);
  });

  test("where broadcasts its condition and both choices", () => {
    const chosen = ops.where(bool([true, false]), tensor([[1], [2]]), 9);
    expect(chosen.toArray()).toEqual([
      [1, 9],
      [2, 9],
    ]);
    expect(ops.where(bool([true, false]), 1, 2).dtype).toBe("float32");
  });
});

describe("values of NumPy", () => {
  test("integer division rounds towards zero", () => {
    expect(ops.div(int([-7, 7]), 2).toArray()).toEqual([-3, 3]);
  });

  test("comparisons with NaN are false, except notEqual", () => {
    const x = tensor([Number.NaN, 1]);
    expect(ops.equal(x, x).toArray()).toEqual([0, 1]);
    expect(ops.notEqual(x, x).toArray()).toEqual([1, 0]);
    for (const compare of [ops.less, ops.lessEqual, ops.greater, ops.greaterEqual]) {
      expect((compare(x, 0).toArray() as number[])[0]).toBe(0);
    }
    expect(ops.isNan(x).toArray()).toEqual([1, 0]);
    expect(ops.isFinite(tensor([Number.NEGATIVE_INFINITY, Number.NaN, 3])).toArray()).toEqual([0, 0, 1]);
    expect(ops.isFinite(int([1])).toArray()).toEqual([1]);
  });

  test("greater is less with the operands exchanged, also for numbers", () => {
    expect(ops.greater(2, tensor([1, 2, 3])).toArray()).toEqual([1, 0, 0]);
    expect(ops.greaterEqual(2, tensor([1, 2, 3])).toArray()).toEqual([1, 1, 0]);
  });

  test("a square keeps the sign of its derivative at negative bases", () => {
    expect(ops.pow(tensor([-3]), 2).toArray()).toEqual([9]);
    expect(grad((x: Value) => ops.pow(x, 2))(tensor(-3)).item()).toBe(-6);
    expect(hvp((x: Value) => ops.pow(x, 3))(tensor(-3), tensor(1)).item()).toBeCloseTo(-18, 4);
  });

  test("relu lets NaN through and has derivative 0 at 0", () => {
    expect(ops.relu(tensor([-1, 0, 2, Number.NaN])).toArray()).toEqual([0, 0, 2, Number.NaN]);
    const slope = grad((x: Value) => ops.relu(x).sum());
    expect(slope(tensor([-1, 0, 2])).toArray()).toEqual([0, 0, 1]);
  });

  test("gelu agrees with the error function of the C library", () => {
    const expected = [-0.00404969409489031, -0.15426876936299344, 0, 1.9544997361036416];
    const actual = ops.gelu(f64([-3, -0.5, 0, 2])).toArray() as number[];
    actual.forEach((y, i) => {
      expect(y).toBeCloseTo(expected[i]!, 14);
    });
    expect(ops.gelu(f64([2]), { approximate: "tanh" }).item()).toBeCloseTo(1.9545976940877752, 10);
  });
});

describe("far out", () => {
  const at = [-1000, -30, -1, 0, 1, 30, 1000];
  const logistic = (x: number): number => (x < 0 ? Math.exp(x) / (1 + Math.exp(x)) : 1 / (1 + Math.exp(-x)));
  const bend = (x: number): number => logistic(x) * logistic(-x);

  test.each(at)("softplus and its derivatives at %d", (x) => {
    const value = Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)));
    expect(Math.abs(ops.softplus(f64(x)).item() - value)).toBeLessThanOrEqual(1e-15 * (1 + value));
    expect(grad((z: Value) => ops.softplus(z))(f64(x)).item()).toBeCloseTo(logistic(x), 14);
    expect(hvp((z: Value) => ops.softplus(z))(f64(x), f64(1)).item()).toBeCloseTo(bend(x), 14);
  });

  test("softplus keeps its relative accuracy on the left", () => {
    expect(ops.softplus(f64(-30)).item() / Math.exp(-30)).toBeCloseTo(1, 10);
  });

  test("softplus of infinities", () => {
    expect(ops.softplus(tensor([-Infinity, Infinity, Number.NaN])).toArray()).toEqual([
      0,
      Infinity,
      Number.NaN,
    ]);
    const slope = grad((x: Value) => ops.softplus(x).sum());
    expect(slope(tensor([-Infinity, Infinity])).toArray()).toEqual([0, 1]);
  });

  // e^x / (1 + e^x) with 30 digits, rounded.
  test.each([
    [-10, 4.5397868702434395e-5],
    [-20, 2.0611536181902037e-9],
    [-40, 4.248354255291589e-18],
    [-700, 9.85967654375977e-305],
  ])("sigmoid keeps its relative accuracy at %d", (x, expected) => {
    expect(Math.abs(ops.sigmoid(f64(x)).item() / expected - 1)).toBeLessThan(1e-14);
    expect(Math.abs(ops.silu(f64(x)).item() / (x * expected) - 1)).toBeLessThan(1e-14);
    if (x < -100) return;
    expect(Math.abs(ops.sigmoid(tensor(x)).item() / expected - 1)).toBeLessThan(1e-6);
    expect(grad((z: Value) => ops.log(ops.sigmoid(z)))(tensor(x)).item()).toBeCloseTo(1, 4);
  });

  test("sigmoid of infinities and NaN", () => {
    expect(ops.sigmoid(tensor([-Infinity, Infinity, Number.NaN])).toArray()).toEqual([0, 1, Number.NaN]);
    expect(ops.sigmoid(f64([-1000, 1000])).toArray()).toEqual([0, 1]);
  });

  // Abramowitz & Stegun, table 7.3, and NIST DLMF 7.22: erfc of 0.5, 1, 1.5, 2, 3, 5, 10.
  test.each([
    [-3, 1.9999779095030015],
    [-1, 1.8427007929497148],
    [0, 1],
    [0.5, 0.4795001221869535],
    [1, 0.15729920705028513],
    [1.5, 0.033894853524689274],
    [2, 0.004677734981047266],
    [3, 2.209049699858544e-5],
    [5, 1.537459794428035e-12],
    [10, 2.088487583762545e-45],
  ])("erfc at %d", (x, expected) => {
    expect(Math.abs(ops.erfc(f64(x)).item() / expected - 1)).toBeLessThan(2e-14);
    expect(ops.erf(f64(x)).item()).toBeCloseTo(1 - expected, 14);
  });

  test("erfc of infinities and NaN", () => {
    expect(ops.erfc(f64([-Infinity, 30, Infinity, Number.NaN])).toArray()).toEqual([2, 0, 0, Number.NaN]);
  });

  test("gelu keeps its relative accuracy on the left, in both forms", () => {
    // x P(X <= x) = x erfc(-x / sqrt 2) / 2, with P(X <= -6) = 9.865876450376981e-10
    expect(Math.abs(ops.gelu(f64(-6)).item() / (-6 * 9.865876450376981e-10) - 1)).toBeLessThan(1e-13);
    expect(Math.abs(ops.gelu(tensor(-6)).item() / (-6 * 9.865876450376981e-10) - 1)).toBeLessThan(1e-5);
    // x / (1 + e^-2u)
    const u = Math.sqrt(2 / Math.PI) * (-6 + 0.044715 * -216);
    const expected = -6 / (1 + Math.exp(-2 * u));
    expect(Math.abs(ops.gelu(f64(-6), { approximate: "tanh" }).item() / expected - 1)).toBeLessThan(1e-13);
  });

  test.each(at)("sigmoid and its derivatives at %d", (x) => {
    expect(ops.sigmoid(f64(x)).item()).toBeCloseTo(logistic(x), 14);
    expect(grad((z: Value) => ops.sigmoid(z))(f64(x)).item()).toBeCloseTo(bend(x), 14);
    const third = bend(x) * (1 - 2 * logistic(x));
    expect(hvp((z: Value) => ops.sigmoid(z))(f64(x), f64(1)).item()).toBeCloseTo(third, 14);
  });
});

test("every method forwards to the function of its name", () => {
  const x = tensor([
    [1, 2],
    [3, 4],
  ]);
  expect(x.add(1).sub(1).mul(2).div(2).pow(1).neg().abs().toArray()).toEqual(x.toArray());
  expect(x.exp().log().sum().item()).toBeCloseTo(10, 5);
  expect(x.sin().mul(x.sin()).add(x.cos().mul(x.cos())).mean().item()).toBeCloseTo(1, 6);
  expect(x.tanh().less(1).astype("float32").sum().item()).toBe(4);
  expect(x.sqrt().mul(x.sqrt()).maximum(0).minimum(9).max().item()).toBeCloseTo(4, 5);
  expect(x.expm1().log1p().sign().clip(0, 0.5).sum().item()).toBe(2);
  expect(x.notEqual(2).toArray()).toEqual([
    [1, 0],
    [1, 1],
  ]);
  expect(x.lessEqual(2).mean().item()).toBe(0.5);
  expect(x.greaterEqual(2).equal(x.less(2)).mean().item()).toBe(0);
  expect(x.prod({ axis: 0 }).toArray()).toEqual([3, 8]);
  expect(x.norm().pow(2).item()).toBeCloseTo(30, 4);
  expect(x.argmax({ axis: 1 }).toArray()).toEqual([1, 1]);
  expect(x.softmax().sum({ axis: -1 }).sub(1).abs().min().item()).toBeLessThan(1e-6);
  expect(x.expandDims(0).squeeze().shape).toEqual([2, 2]);
  expect(x.transpose().matmul(x).dot(x.take(0)).toArray()).toEqual([38, 54]);
  expect(x.reshape([4]).slice([1], [4], [2]).broadcastTo([2, 2]).toArray()).toEqual([
    [2, 4],
    [2, 4],
  ]);
});
