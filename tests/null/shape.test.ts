import { expect, test } from "bun:test";
import fc from "fast-check";
import { Aval } from "../../core/aval.ts";
import {
  bytesPerElement,
  dtypeOf,
  dtypes,
  isDType,
  isFloat,
  makeArray,
  shortName,
} from "../../core/dtype.ts";
import { ShapeError } from "../../core/errors.ts";
import {
  broadcastShapes,
  checkShape,
  insertAt,
  normalizeAxes,
  normalizeAxis,
  range,
  sameShape,
  sizeOf,
  stridesOf,
  withoutAxes,
} from "../../core/shape.ts";
import { copyView, foldView } from "../../core/strided.ts";
import { prop } from "../support/prop.ts";

const shapes = fc.array(fc.nat(4), { maxLength: 4 });

prop("strides enumerate the elements in row-major order", shapes, (shape) => {
  const strides = stridesOf(shape);
  let next = 0;
  const visit = (axis: number, offset: number): void => {
    if (axis === shape.length) expect(offset).toBe(next++);
    else for (let i = 0; i < shape[axis]!; i++) visit(axis + 1, offset + i * strides[axis]!);
  };
  visit(0, 0);
  expect(next).toBe(sizeOf(shape));
});

prop(
  "an axis and its negative name are one axis",
  fc.integer({ min: 1, max: 6 }),
  fc.integer({ min: -9, max: 9 }),
  (n, a) => {
    if (a < -n || a >= n) expect(() => normalizeAxis(a, n, "test")).toThrow(ShapeError);
    else expect(normalizeAxis(a, n, "test")).toBe((a + n) % n);
  },
);

prop(
  "axes are sorted, distinct, and together with the others all",
  fc.integer({ min: 1, max: 5 }),
  fc.array(fc.integer({ min: -5, max: 4 })),
  (n, axes) => {
    fc.pre(axes.every((a) => -n <= a && a < n));
    const positive = axes.map((a) => (a + n) % n);
    if (new Set(positive).size < axes.length) {
      expect(() => normalizeAxes(axes, n, "test")).toThrow(ShapeError);
      return;
    }
    const found = normalizeAxes(axes, n, "test");
    expect(found).toEqual([...positive].sort((a, b) => a - b));
    expect([...found, ...withoutAxes(range(n), found)].sort((a, b) => a - b)).toEqual(range(n));
  },
);

test("no axes means all, an axis must be an integer", () => {
  expect(normalizeAxes(undefined, 3, "test")).toEqual([0, 1, 2]);
  expect(normalizeAxes([], 3, "test")).toEqual([]);
  for (const axis of [0.5, Number.NaN, Infinity])
    expect(() => normalizeAxis(axis, 3, "test")).toThrow(ShapeError);
  expect(() => normalizeAxis(0, 0, "test")).toThrow(ShapeError);
});

/** The rule of NumPy, axis by axis from the last. */
function broadcastOracle(a: readonly number[], b: readonly number[]): number[] | null {
  const out: number[] = [];
  for (let i = 1; i <= Math.max(a.length, b.length); i++) {
    const [x, y] = [a.at(-i) ?? 1, b.at(-i) ?? 1];
    if (x !== y && x !== 1 && y !== 1) return null;
    out.unshift(x === 1 ? y : x);
  }
  return out;
}

const fewSizes = fc.array(fc.constantFrom(0, 1, 1, 2, 3), { maxLength: 3 });

prop("broadcasting is NumPy's, commutative and associative", fewSizes, fewSizes, fewSizes, (a, b, c) => {
  const expected = broadcastOracle(a, b);
  if (expected === null) {
    expect(() => broadcastShapes("test", a, b)).toThrow(ShapeError);
    expect(() => broadcastShapes("test", b, a)).toThrow(ShapeError);
    return;
  }
  expect(broadcastShapes("test", a, b)).toEqual(expected);
  expect(broadcastShapes("test", b, a)).toEqual(expected);
  expect(broadcastShapes("test", a, [])).toEqual(a);
  const all = broadcastOracle(expected, c);
  if (all === null) expect(() => broadcastShapes("test", a, b, c)).toThrow(ShapeError);
  else expect(broadcastShapes("test", a, b, c)).toEqual(all);
});

prop("an inserted entry is removed again", shapes, fc.nat(4), fc.nat(9), (shape, at, n) => {
  fc.pre(at <= shape.length);
  const longer = insertAt(shape, at, n);
  expect(longer[at]).toBe(n);
  expect(withoutAxes(longer, [at])).toEqual(shape);
});

test("a size is a non-negative integer", () => {
  for (const n of [-1, 0.5, Number.NaN, Infinity])
    expect(() => checkShape([2, n], "test")).toThrow(ShapeError);
  expect(() => checkShape([0, 3], "test")).not.toThrow();
  expect(() => checkShape([], "test")).not.toThrow();
});

prop(
  "abstract values are equal when shape and element type are, and print so",
  shapes,
  shapes,
  fc.constantFrom(...dtypes),
  fc.constantFrom(...dtypes),
  (a, b, s, t) => {
    const [x, y] = [new Aval(a, s), new Aval(b, t)];
    const equal = JSON.stringify([a, s]) === JSON.stringify([b, t]);
    expect(x.equals(y)).toBe(equal);
    expect(String(x) === String(y)).toBe(equal);
    expect(sameShape(a, b)).toBe(JSON.stringify(a) === JSON.stringify(b));
    expect(x.size).toBe(a.reduce((p, n) => p * n, 1));
  },
);

test("the shape of an abstract value cannot be changed, by its maker either", () => {
  const list = [2, 3];
  const aval = new Aval(list, "float32");
  list[0] = 99;
  expect(aval.shape).toEqual([2, 3]);
  expect(() => (aval.shape as number[]).push(1)).toThrow(TypeError);
});

test("element types have their storage, size and name", () => {
  const bytes = { float32: 4, float64: 8, int32: 4, uint32: 4, bool: 1, float16: 2 };
  for (const dtype of dtypes) {
    const data = makeArray(dtype, 3);
    expect(dtypeOf(data)).toBe(dtype);
    expect(data.BYTES_PER_ELEMENT).toBe(bytes[dtype]);
    expect(bytesPerElement(dtype)).toBe(bytes[dtype]);
    expect(isDType(dtype)).toBe(true);
    expect(isFloat(dtype)).toBe(dtype.startsWith("float"));
  }
  expect(dtypes.map(shortName)).toEqual(["f32", "f64", "i32", "u32", "bool", "f16"]);
  for (const name of ["bfloat16", "toString", "", null, 3]) expect(isDType(name)).toBe(false);
});

prop(
  "views with negative and zero strides read what their indices say",
  shapes,
  fc.array(fc.integer({ min: -2, max: 2 }), { minLength: 4, maxLength: 4 }),
  (shape, steps) => {
    const strides = shape.map((_, a) => steps[a]!);
    const reach = shape.map((n, a) => (n - 1) * strides[a]!);
    const offset = 0 - reach.reduce((sum, r) => sum + Math.min(r, 0), 0);
    const from = Float64Array.from({ length: 64 }, (_, i) => i);
    const to = new Float64Array(sizeOf(shape));
    copyView({ data: from, offset, strides }, { data: to, offset: 0, strides: stridesOf(shape) }, shape);
    const expected: number[] = [];
    const visit = (axis: number, at: number): void => {
      if (axis === shape.length) expected.push(at);
      else for (let i = 0; i < shape[axis]!; i++) visit(axis + 1, at + i * strides[axis]!);
    };
    visit(0, offset);
    expect(Array.from(to)).toEqual(expected);
    const total = new Float64Array(1);
    const zero = shape.map(() => 0);
    foldView(
      { data: to, offset: 0, strides: stridesOf(shape) },
      { data: total, offset: 0, strides: zero },
      shape,
      (a, b) => a + b,
    );
    expect(total[0]).toBe(expected.reduce((a, b) => a + b, 0));
  },
);
