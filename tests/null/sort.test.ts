/** Sorting against NumPy's stable sort and the host's, with NaN, ties and companions. */
import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { checkGrads } from "../../autodiff/check.ts";
import { jvp } from "../../autodiff/jvp.ts";
import { grad } from "../../autodiff/vjp.ts";
import { vmap } from "../../autodiff/vmap.ts";
import { tensor } from "../../core/create.ts";
import { ShapeError } from "../../core/errors.ts";
import { mul } from "../../core/prims/elementwise.ts";
import { sumAxes } from "../../core/prims/movement.ts";
import { argsort, sort, sortP } from "../../core/prims/sort.ts";
import { bind } from "../../core/trace.ts";
import type { Nested, Value } from "../../core/value.ts";
import { prop } from "../support/prop.ts";

const f64 = (data: Nested): Value => tensor(data, { dtype: "float64" });
const { NaN: nan } = Number;

describe("sort and argsort equal NumPy's", () => {
  const y = f64([
    [3, nan, 1, 3],
    [2, -1, nan, nan],
    [0, -0.5, 7, 7],
  ]);

  test("along the first axis", () => {
    expect(sort(y, 0).toArray()).toEqual([
      [0, -1, 1, 3],
      [2, -0.5, 7, 7],
      [3, nan, nan, nan],
    ]);
    expect(argsort(y, 0).toArray()).toEqual([
      [2, 1, 0, 0],
      [1, 2, 2, 2],
      [0, 0, 1, 1],
    ]);
  });

  test("along the last axis, stable and with NaN last", () => {
    expect(sort(y, 1).toArray()).toEqual([
      [1, 3, 3, nan],
      [-1, 2, nan, nan],
      [-0.5, 0, 7, 7],
    ]);
    expect(argsort(y, 1).toArray()).toEqual([
      [2, 0, 3, 1],
      [1, 0, 2, 3],
      [1, 0, 2, 3],
    ]);
    expect(argsort(y, 1).dtype).toBe("int32");
  });
});

prop(
  "many keys with ties: the host's stable sort",
  fc.array(fc.integer({ min: -9, max: 9 }), { maxLength: 200 }),
  (keys) => {
    const expected = keys.map((_, i) => i).sort((i, j) => keys[i]! - keys[j]! || i - j);
    const order = argsort(tensor(Int32Array.from(keys)), 0);
    expect([...order.dataSync()]).toEqual(expected);
  },
);

test("companions of other types follow the key", () => {
  const [keys, names, weights] = bind(
    sortP,
    [
      tensor([3, 4294967295, 0], { dtype: "uint32" }),
      tensor([10, 20, 30], { dtype: "int32" }),
      f64([0.5, 0.25, 0.125]),
    ],
    { axis: 0 },
  );
  expect(keys!.toArray()).toEqual([0, 3, 4294967295]);
  expect(names!.toArray()).toEqual([30, 10, 20]);
  expect(weights!.toArray()).toEqual([0.125, 0.5, 0.25]);
});

test("empty axes and wrong operands", () => {
  expect(sort(tensor(new Float64Array(0), { shape: [2, 0] }), 1).shape).toEqual([2, 0]);
  expect(sort(tensor(new Float64Array(0), { shape: [0, 2] }), 1).shape).toEqual([0, 2]);
  expect(() => sort(f64([1]), 1)).toThrow(ShapeError);
  expect(() => bind(sortP, [f64([1, 2]), f64([1])], { axis: 0 })).toThrow(ShapeError);
  expect(() => bind(sortP, [], { axis: 0 })).toThrow(ShapeError);
});

describe("transforms", () => {
  const x = f64([
    [3, 1, 2],
    [-1, 5, 0],
  ]);

  test("tangents and cotangents travel with their elements", () => {
    const [, tangent] = jvp(
      (v: Value) => sort(v, 1),
      [x],
      [
        f64([
          [10, 20, 30],
          [40, 50, 60],
        ]),
      ],
    );
    expect(tangent.toArray()).toEqual([
      [20, 30, 10],
      [40, 60, 50],
    ]);
    const weighted = (v: Value): Value =>
      sumAxes(
        mul(
          sort(v, 1),
          f64([
            [1, 2, 3],
            [1, 2, 3],
          ]),
        ),
        [0, 1],
      );
    expect(grad(weighted)(x).toArray()).toEqual([
      [3, 1, 2],
      [1, 3, 2],
    ]);
  });

  test("a companion's tangent follows the key's order", () => {
    const f = (k: Value, v: Value): Value => mul(bind(sortP, [k, v], { axis: 0 })[1]!, f64([1, 10, 100]));
    const [, tangent] = jvp((v: Value) => f(f64([3, 1, 2]), v), [f64([7, 8, 9])], [f64([1, 2, 3])]);
    expect(tangent.toArray()).toEqual([2, 30, 100]);
  });

  test("second order against differences", () => {
    checkGrads((v: Value) => sort(mul(v, mul(v, v)), 0), [x]);
    checkGrads(
      (v: Value) => sort(mul(v, v), 1),
      [
        f64([
          [3, 1, 2],
          [-1.5, 5, 0.5],
        ]),
      ],
    );
  });

  test("mapped over either axis", () => {
    expect(vmap((v: Value) => sort(v, 0))(x).toArray()).toEqual(sort(x, 1).toArray());
    expect(vmap((v: Value) => argsort(v, 0), { inAxes: 1, outAxes: 1 })(x).toArray()).toEqual(
      argsort(x, 0).toArray(),
    );
  });
});
