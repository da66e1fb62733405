/** Gather and scatterAdd against NumPy's take, take_along_axis and add.at, and against each other. */
import { describe, expect, test } from "bun:test";
import { checkGrads } from "../../autodiff/check.ts";
import { grad, vjp } from "../../autodiff/vjp.ts";
import { vmap } from "../../autodiff/vmap.ts";
import { tensor } from "../../core/create.ts";
import { DTypeError, ShapeError } from "../../core/errors.ts";
import { mul } from "../../core/prims/elementwise.ts";
import { gather, iota, scatterAdd, takeAlong } from "../../core/prims/indexing.ts";
import { sumAxes } from "../../core/prims/movement.ts";
import type { Nested, Value } from "../../core/value.ts";

const f64 = (data: Nested): Value => tensor(data, { dtype: "float64" });
const i32 = (data: Nested): Value => tensor(data, { dtype: "int32" });

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

describe("gather", () => {
  test("equals numpy.take along a middle axis with a matrix of indices", () => {
    const indices = i32([
      [1, 0],
      [1, 1],
    ]);
    const y = gather(x, indices, { axis: 1, batchDims: 0 });
    expect(y.shape).toEqual([2, 2, 2, 3]);
    expect(y.toArray()).toEqual([
      [
        [
          [0, 5, -4],
          [3, -1, 2],
        ],
        [
          [0, 5, -4],
          [0, 5, -4],
        ],
      ],
      [
        [
          [-2, 6, 8],
          [7, 1, 1],
        ],
        [
          [-2, 6, 8],
          [-2, 6, 8],
        ],
      ],
    ]);
  });

  test("looks up embeddings", () => {
    const table = tensor([
      [0, 1],
      [10, 11],
      [20, 21],
    ]);
    expect(gather(table, i32([[2, 0, 2]]), { axis: 0, batchDims: 0 }).toArray()).toEqual([
      [
        [20, 21],
        [0, 1],
        [20, 21],
      ],
    ]);
  });

  test("picks one class per row", () => {
    const scores = f64([
      [1, 2, 3],
      [4, 5, 6],
    ]);
    const picked = gather(scores, i32([2, 0]), { axis: 1, batchDims: 1 });
    expect(picked.toArray()).toEqual([3, 4]);
  });

  test("takeAlong equals numpy.take_along_axis", () => {
    const indices = i32([
      [
        [2, 0],
        [2, 0],
      ],
      [
        [1, 1],
        [1, 1],
      ],
    ]);
    expect(takeAlong(x, indices, 2).toArray()).toEqual([
      [
        [2, 3],
        [-4, 0],
      ],
      [
        [1, 1],
        [6, 6],
      ],
    ]);
  });

  test("moves elements of every type", () => {
    const flags = tensor([true, false], { dtype: "bool" });
    const y = gather(flags, i32([1, 0, 0]), { axis: 0, batchDims: 0 });
    expect(y.dtype).toBe("bool");
    expect(y.toArray()).toEqual([0, 1, 1]);
  });

  test("no indices, an empty operand and no rows", () => {
    const none = i32([]);
    expect(gather(x, none, { axis: 1, batchDims: 0 }).shape).toEqual([2, 0, 3]);
    const empty = tensor(new Float64Array(0), { shape: [0, 3] });
    expect(gather(empty, none, { axis: 0, batchDims: 0 }).shape).toEqual([0, 3]);
  });

  test("refuses indices outside the axis, naming index and size", () => {
    for (const index of [-1, 2, 100]) {
      expect(() => gather(x, i32([0, index]), { axis: 1, batchDims: 0 })).toThrow(RangeError);
      expect(() => gather(x, i32([0, index]), { axis: 1, batchDims: 0 })).toThrow(
        `at index ${index} of axis 1: its size is 2`,
      );
      expect(() => scatterAdd(i32([index]), f64([1]), { axis: 0, batchDims: 0, size: 2 })).toThrow(
        `at index ${index} of axis 0: its size is 2`,
      );
    }
  });

  test("refuses what does not fit", () => {
    expect(() => gather(x, f64([0]), { axis: 0, batchDims: 0 })).toThrow(DTypeError);
    expect(() => gather(x, i32([0]), { axis: 3, batchDims: 0 })).toThrow(ShapeError);
    expect(() => gather(x, i32([0]), { axis: 0, batchDims: 1 })).toThrow(ShapeError);
    expect(() => gather(x, i32([0, 0, 0]), { axis: 1, batchDims: 1 })).toThrow(ShapeError);
  });
});

describe("scatterAdd", () => {
  test("adds repeated indices, as numpy.add.at does", () => {
    const y = scatterAdd(
      i32([1, 3, 1]),
      f64([
        [1, 2],
        [3, 4],
        [5, 6],
      ]),
      { axis: 0, batchDims: 0, size: 4 },
    );
    expect(y.toArray()).toEqual([
      [0, 0],
      [6, 8],
      [0, 0],
      [3, 4],
    ]);
  });

  test("with shared rows, adds row by row", () => {
    const y = scatterAdd(
      i32([
        [0, 0],
        [2, 1],
      ]),
      f64([
        [1, 2],
        [3, 4],
      ]),
      { axis: 1, batchDims: 1, size: 3 },
    );
    expect(y.toArray()).toEqual([
      [3, 0, 0],
      [0, 4, 3],
    ]);
  });

  test("float32 accumulates in float64, integers wrap", () => {
    const updates = tensor([2 ** 24, 1, 1]);
    expect(scatterAdd(i32([0, 0, 0]), updates, { axis: 0, batchDims: 0, size: 1 }).item()).toBe(2 ** 24 + 2);
    const large = i32([2147483647, 1]);
    expect(scatterAdd(i32([0, 0]), large, { axis: 0, batchDims: 0, size: 1 }).item()).toBe(-2147483648);
  });

  test("refuses updates that do not have the indices' sizes", () => {
    expect(() => scatterAdd(i32([0, 1]), f64([1, 2, 3]), { axis: 0, batchDims: 0, size: 4 })).toThrow(
      ShapeError,
    );
    expect(() => scatterAdd(i32([0]), f64([1]), { axis: 0, batchDims: 0, size: -1 })).toThrow(ShapeError);
    const flags = tensor([true], { dtype: "bool" });
    expect(() => scatterAdd(i32([0]), flags, { axis: 0, batchDims: 0, size: 2 })).toThrow(DTypeError);
  });
});

describe("transforms", () => {
  test("the pullback of a lookup counts its uses", () => {
    const table = f64([
      [0, 1],
      [10, 11],
      [20, 21],
    ]);
    const lookup = (t: Value): Value => sumAxes(gather(t, i32([2, 0, 2]), { axis: 0, batchDims: 0 }), [0, 1]);
    expect(grad(lookup)(table).toArray()).toEqual([
      [1, 1],
      [0, 0],
      [2, 2],
    ]);
  });

  test("gather and scatterAdd are each other's transposes", () => {
    const indices = i32([
      [1, 1],
      [0, 1],
    ]);
    const params = { axis: 2, batchDims: 1 };
    const ct = f64([
      [
        [1, 2],
        [3, 4],
      ],
      [
        [5, 6],
        [7, 8],
      ],
    ]);
    const [, pull] = vjp((v: Value) => gather(v, indices, params), x);
    const expected = scatterAdd(indices, ct, { ...params, size: 3 });
    expect(pull(ct)[0].toArray()).toEqual(expected.toArray());
    const [, pullBack] = vjp((v: Value) => scatterAdd(indices, v, { ...params, size: 3 }), ct);
    expect(pullBack(x)[0].toArray()).toEqual(gather(x, indices, params).toArray());
  });

  test("second order against differences", () => {
    const indices = i32([1, 0, 1]);
    checkGrads((v: Value) => gather(mul(v, v), indices, { axis: 1, batchDims: 0 }), [x]);
    checkGrads((v: Value) => takeAlong(mul(v, v), iota([2, 2, 2], 2), 2), [x]);
  });

  test("mapped over operand, indices or both, at every depth, it reads the same elements", () => {
    const indices = i32([
      [2, 0],
      [1, 1],
    ]);
    // x[a, b, indices[a, k]] and friends, written out
    const data = x.toArray() as number[][][];
    const at = indices.toArray() as number[][];
    const both = vmap((v: Value, i: Value) => gather(v, i, { axis: 1, batchDims: 0 }))(x, indices);
    expect(both.toArray()).toEqual(data.map((m, a) => m.map((row) => at[a]!.map((k) => row[k]!))));
    const picked = vmap((v: Value, i: Value) => gather(v, i, { axis: 1, batchDims: 1 }))(x, indices);
    expect(picked.toArray()).toEqual(data.map((m, a) => m.map((row, b) => row[at[a]![b]!]!)));
    const onlyIndices = vmap((i: Value) => gather(x, i, { axis: 2, batchDims: 0 }))(indices);
    expect(onlyIndices.toArray()).toEqual(
      at.map((i) => data.map((m) => m.map((row) => i.map((k) => row[k]!)))),
    );
    const twice = vmap(vmap((v: Value, k: Value) => gather(v, k, { axis: 0, batchDims: 0 })))(x, indices);
    expect(twice.toArray()).toEqual(picked.toArray());
  });
});

test("iota counts along an axis", () => {
  expect(iota([2, 3], 1).toArray()).toEqual([
    [0, 1, 2],
    [0, 1, 2],
  ]);
  expect(iota([2, 3], 0).toArray()).toEqual([
    [0, 0, 0],
    [1, 1, 1],
  ]);
  expect(iota([0], 0).shape).toEqual([0]);
});
