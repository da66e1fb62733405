import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import {
  adoptArray,
  arange,
  aval,
  eye,
  full,
  linspace,
  ones,
  onesLike,
  tensor,
  zeros,
  zerosLike,
} from "../../core/create.ts";
import { type DType, dtypes, isFloat, makeArray } from "../../core/dtype.ts";
import { DTypeError, ShapeError } from "../../core/errors.ts";
import { add } from "../../core/ops.ts";
import { sizeOf } from "../../core/shape.ts";
import type { Nested } from "../../core/value.ts";
import { tensors } from "../support/arbitrary_tree.ts";
import { prop } from "../support/prop.ts";
import { assertNumbersClose, assertSameBits } from "../support/tolerance.ts";

const shapes = fc.array(fc.nat(3), { maxLength: 3 });

prop("toArray gives what tensor takes", tensors, (x) => {
  // Nested lists lose the sizes after an empty axis: there the shape is given too.
  const again = tensor(x.toArray(), { dtype: x.dtype, ...(x.size === 0 && { shape: x.shape }) });
  assertSameBits(again, x, "again");
});

prop("a typed array keeps its type, its order and the shape given", tensors, (x) => {
  assertSameBits(tensor(x.dataSync(), { shape: x.shape }), x, "tensor");
  assertSameBits(adoptArray(x.dataSync(), x.shape), x, "adopted");
});

prop(
  "full, zeros and ones are what they say in every element type",
  shapes,
  fc.constantFrom(...dtypes),
  (shape, dtype) => {
    const filled = (value: number): number[] => new Array<number>(sizeOf(shape)).fill(value);
    for (const [x, value] of [
      [full(shape, 1, { dtype }), 1],
      [zeros(shape, { dtype }), 0],
      [ones(shape, { dtype }), 1],
      [zerosLike(full(shape, 1, { dtype })), 0],
      [onesLike(zeros(shape, { dtype })), 1],
    ] as const) {
      expect(String(x.aval)).toBe(String(aval(shape, dtype)));
      expect(Array.from(x.dataSync())).toEqual(filled(value));
    }
  },
);

prop(
  "numbers that an integer type cannot hold are refused",
  fc.constantFrom<DType>("int32", "uint32"),
  fc.double(),
  (dtype, x) => {
    const held = makeArray(dtype, 1);
    held[0] = x;
    if (held[0] === x) expect(tensor([x], { dtype }).item()).toBe(held[0]);
    else expect(() => tensor([x], { dtype })).toThrow(DTypeError);
  },
);

prop(
  "bool is whether a number is not 0",
  fc.array(fc.oneof(fc.double(), fc.constantFrom(0, -0, 256, 0.5, Number.NaN))),
  (list) => {
    expect(tensor(list, { dtype: "bool" }).toArray()).toEqual(list.map((x) => Number(x !== 0)));
  },
);

prop(
  "linspace includes both ends and has equal steps",
  fc.integer({ min: -9, max: 9 }),
  fc.integer({ min: -9, max: 9 }),
  fc.integer({ min: 2, max: 9 }),
  (lo, hi, n) => {
    const x = linspace(lo, hi, n, { dtype: "float64" }).dataSync();
    expect([x[0], x[n - 1], x.length]).toEqual([lo, hi, n]);
    for (let i = 0; i < n; i++)
      assertNumbersClose([x[i]!], [lo + ((hi - lo) * i) / (n - 1)], "step", { relative: 1e-14 });
  },
);

prop(
  "arange counts from start to below stop",
  fc.integer({ min: -9, max: 9 }),
  fc.integer({ min: -9, max: 9 }),
  fc.constantFrom(-2, -1, -0.5, 0.5, 1, 2),
  (lo, hi, step) => {
    const expected: number[] = [];
    for (let i = 0; step > 0 ? lo + i * step < hi : lo + i * step > hi; i++) expected.push(lo + i * step);
    expect(arange(lo, hi, step).toArray()).toEqual(expected);
  },
);

test("eye", () => {
  expect(eye(2).toArray()).toEqual([
    [1, 0],
    [0, 1],
  ]);
  expect(eye(2, 3, { dtype: "int32" }).toArray()).toEqual([
    [1, 0, 0],
    [0, 1, 0],
  ]);
  expect(eye(3, 1).toArray()).toEqual([[1], [0], [0]]);
  expect(eye(0).shape).toEqual([0, 0]);
});

test("small ranges", () => {
  expect(arange(0).shape).toEqual([0]);
  expect(arange(3, 3).shape).toEqual([0]);
  expect(arange(3, 0).shape).toEqual([0]);
  expect(linspace(1, 2, 0).shape).toEqual([0]);
  expect(linspace(1, 2, 1).toArray()).toEqual([1]);
});

test("a typed array of any numbers is taken when the type is given", () => {
  for (const source of [
    new Int8Array([3, 7]),
    new Int16Array([3, 7]),
    new Uint16Array([3, 7]),
    new Uint8Array([3, 7]),
  ]) {
    expect(tensor(source, { dtype: "int32" }).toArray()).toEqual([3, 7]);
    expect(tensor(source, { dtype: "float32" }).dtype).toBe("float32");
  }
  expect(tensor(new Uint8Array([3, 0, 200]), { dtype: "bool" }).toArray()).toEqual([1, 0, 1]);
  expect(tensor(new Uint8Array([1, 0])).dtype).toBe("bool");
});

test("a tensor prints every number as it is", () => {
  expect(
    String(
      tensor([
        [Number.NaN, 1],
        [Infinity, -Infinity],
      ]),
    ),
  ).toBe("f32[2,2] [[NaN,1],[Infinity,-Infinity]]");
  expect(String(tensor(Number.NaN))).toBe("f32[] NaN");
});

describe("refused", () => {
  const cases: readonly [
    name: string,
    make: () => unknown,
    kind: typeof ShapeError | typeof DTypeError | typeof RangeError,
  ][] = [
    ["lists of different lengths", () => tensor([[1, 2], [3]]), ShapeError],
    ["a number among lists", () => tensor([[1], 2]), ShapeError],
    ["a list among numbers", () => tensor([1, [2]]), ShapeError],
    ["text", () => tensor(["1"] as unknown as Nested), ShapeError],
    ["null", () => tensor([null] as unknown as Nested), ShapeError],
    ["undefined", () => tensor(undefined as unknown as Nested), ShapeError],
    ["an object", () => tensor({} as unknown as Nested), ShapeError],
    ["a bigint", () => tensor([1n] as unknown as Nested), ShapeError],
    ["data that do not fill the shape", () => tensor([1, 2], { shape: [3] }), ShapeError],
    ["a negative size", () => zeros([-1]), ShapeError],
    ["a fraction of a size", () => full([1.5], 0), ShapeError],
    ["a negative identity", () => eye(-1), ShapeError],
    ["an unknown type", () => zeros([1], { dtype: "bfloat16" as DType }), DTypeError],
    ["an inherited name for a type", () => tensor([1], { dtype: "toString" as DType }), DTypeError],
    ["a fraction for int32", () => tensor([0.5], { dtype: "int32" }), DTypeError],
    ["a negative uint32", () => tensor([-1], { dtype: "uint32" }), DTypeError],
    ["NaN for int32", () => tensor([Number.NaN], { dtype: "int32" }), DTypeError],
    ["a fraction to fill int32", () => full([1], 0.5, { dtype: "int32" }), DTypeError],
    ["a number too large to fill uint32", () => full([1], 2 ** 32, { dtype: "uint32" }), DTypeError],
    [
      "a wide typed array for int32",
      () => tensor(new Float64Array([2 ** 31]), { dtype: "int32" }),
      DTypeError,
    ],
    ["a step of 0", () => arange(0, 1, 0), RangeError],
    ["an infinite range", () => arange(0, Infinity), RangeError],
    ["a NaN range", () => arange(Number.NaN), RangeError],
    ["a negative count", () => linspace(0, 1, -1), RangeError],
    ["a fraction of a count", () => linspace(0, 1, 1.5), RangeError],
    ["an adopted array that does not fill its shape", () => adoptArray(new Float32Array(2), [3]), RangeError],
    ["a typed array of another kind", () => tensor(new Int16Array(2) as unknown as Int32Array), DTypeError],
    ["an array of big integers", () => tensor(new BigInt64Array(2) as unknown as Int32Array), DTypeError],
    [
      "an array of big integers with a type",
      () => tensor(new BigInt64Array(2) as never, { dtype: "int32" }),
      DTypeError,
    ],
    [
      "a view of no elements with a type",
      () => tensor(new DataView(new ArrayBuffer(8)) as never, { dtype: "int32" }),
      DTypeError,
    ],
    ["bytes above 1 without a type", () => tensor(new Uint8Array([3, 0, 200])), DTypeError],
    ["bytes above 1 adopted as bool", () => adoptArray(new Uint8Array([2, 0])), DTypeError],
    [
      "an adopted array of another kind",
      () => adoptArray(new Int16Array(2) as unknown as Int32Array),
      DTypeError,
    ],
  ];
  for (const [name, make, kind] of cases) {
    test(name, () => {
      expect(make).toThrow(kind);
    });
  }
});

describe("nothing reaches the storage of a tensor", () => {
  test("what was given may change", () => {
    const given = new Float32Array([1, 2]);
    const list = [1, 2];
    const shape = [2];
    const [x, y] = [tensor(given, { shape }), tensor(list)];
    given[0] = 99;
    list[0] = 99;
    shape[0] = 99;
    expect(x.toArray()).toEqual([1, 2]);
    expect(y.toArray()).toEqual([1, 2]);
    expect(x.shape).toEqual([2]);
  });

  test("what was read may change", async () => {
    const x = tensor([1, 2]);
    x.dataSync()[0] = 99;
    (await x.data())[0] = 99;
    (x.toArray() as number[])[0] = 99;
    expect(x.toArray()).toEqual([1, 2]);
    expect(add(x, 0).toArray()).toEqual([1, 2]);
  });

  test("its fields and its shape are frozen, and it has no others", () => {
    const x = tensor([1, 2]);
    expect(Object.isFrozen(x)).toBe(true);
    expect(Object.isFrozen(x.shape)).toBe(true);
    expect(Reflect.ownKeys(x)).toEqual(["aval"]);
    expect(() => Object.assign(x, { aval: aval([3]) })).toThrow(TypeError);
    expect(() => (x.shape as number[]).push(1)).toThrow(TypeError);
    expect(Reflect.set(x.aval, "dtype", "int32")).toBe(false);
    expect(x.dtype).toBe("float32");
  });

  test("operations that return their operand's elements copy nothing and change nothing", () => {
    const x = tensor([1, 2, 3, 4]);
    const y = x.reshape([2, 2]);
    y.dataSync()[0] = 99;
    expect(x.toArray()).toEqual([1, 2, 3, 4]);
    expect(y.toArray()).toEqual([
      [1, 2],
      [3, 4],
    ]);
  });
});

test("item needs one element, toArray nests", () => {
  expect(tensor([[5]]).item()).toBe(5);
  expect(() => tensor([1, 2]).item()).toThrow(RangeError);
  expect(() => zeros([0]).item()).toThrow(RangeError);
  expect(zeros([2, 0]).toArray()).toEqual([[], []]);
  expect(tensor(3).toArray()).toBe(3);
  expect(dtypes.filter(isFloat)).toEqual(["float32", "float64", "float16"]);
});
