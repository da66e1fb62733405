import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { jvp } from "../../autodiff/jvp.ts";
import { grad } from "../../autodiff/vjp.ts";
import { vmap } from "../../autodiff/vmap.ts";
import { type DType, makeArray } from "../../core/dtype.ts";
import { DTypeError, ShapeError } from "../../core/errors.ts";
import { type AnyPrimitive, type Draw, Lin } from "../../core/primitive.ts";
import { mul } from "../../core/prims/elementwise.ts";
import { moveAxis, reshape, sliceAxis, sumAxes } from "../../core/prims/movement.ts";
import {
  maxPool,
  maxPoolIndex,
  maxPoolIndexP,
  maxPoolP,
  type PoolParams,
  poolGather,
  poolGatherP,
  poolScatter,
  poolScatterP,
  resolvePadding,
  sumPool,
  sumPoolP,
  sumPoolTranspose,
  sumPoolTransposeP,
} from "../../core/prims/pool.ts";
import { range, type Shape, sizeOf, stridesOf } from "../../core/shape.ts";
import { adopt, bind1 } from "../../core/trace.ts";
import type { Value } from "../../core/value.ts";
import { prop, propWith } from "../support/prop.ts";

const family: readonly AnyPrimitive[] = [
  maxPoolP,
  maxPoolIndexP,
  poolGatherP,
  poolScatterP,
  sumPoolP,
  sumPoolTransposeP,
];
const linearMembers: readonly AnyPrimitive[] = [poolGatherP, poolScatterP, sumPoolP, sumPoolTransposeP];

const tensor = (data: readonly number[], shape: Shape): Value =>
  adopt(Float64Array.from(data), shape, "float64");
const numbers = (x: Value): number[] => Array.from(x.dataSync());
const inner = (x: Value, y: Value): number => {
  expect(x.shape).toEqual(y.shape);
  const other = y.dataSync();
  return numbers(x).reduce((sum, v, i) => sum + v * other[i]!, 0);
};

/** Small integers in [lo, hi], with ties, so that every sum is exact. */
function integers(shape: Shape, seed: number, dtype: DType = "float64", lo = -4, hi = 4): Value {
  const data = makeArray(dtype, sizeOf(shape));
  let state = (seed * 2654435761 + 12345) >>> 0;
  for (let i = 0; i < data.length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    data[i] = lo + ((state >>> 16) % (hi - lo + 1));
  }
  return adopt(data, shape, dtype);
}

const draws: fc.Arbitrary<Draw> = fc.gen().map((g) => {
  const draw: Draw = {
    int: (min, max) => g(fc.integer, { min, max }),
    bool: () => g(fc.boolean),
    pick: (choices) => choices[g(fc.nat, { max: choices.length - 1 })]!,
    shape: (lo, hi, min = 1) => range(draw.int(lo, hi)).map(() => draw.int(min, 3)),
  };
  return draw;
});

/** The arguments of a drawn call; int32 ones are indices in their range. */
function drawCall(primitive: AnyPrimitive, draw: Draw, seed: number): { xs: Value[]; params: unknown } {
  const { args, params } = primitive.domain(draw);
  const xs = args.map((arg, i) =>
    arg.dtype === "int32"
      ? integers(arg.shape, seed + i, "int32", ...(arg.range as [number, number]))
      : integers(arg.shape, seed + i),
  );
  return { xs, params };
}

/** For every window, its elements as [index among the pooled axes, value], in row-major order; padding left out. */
function windows(
  x: Value,
  { window, strides, padding }: PoolParams,
): { shape: number[]; lists: [number, number][][] } {
  const pooled = window.length;
  const lead = x.shape.slice(0, x.ndim - pooled);
  const sizes = x.shape.slice(x.ndim - pooled);
  const unit = stridesOf(sizes);
  const places = (shape: Shape): number[][] =>
    shape.reduce<number[][]>((lists, n) => lists.flatMap((l) => range(n).map((i) => [...l, i])), [[]]);
  const counts = sizes.map((n, a) => {
    let count = 0;
    while (count * strides[a]! + window[a]! <= n + padding[a]![0] + padding[a]![1]) count++;
    return count;
  });
  const data = x.dataSync();
  const lists: [number, number][][] = [];
  for (let l = 0; l < sizeOf(lead); l++) {
    for (const t of places(counts)) {
      const list: [number, number][] = [];
      for (const k of places(window)) {
        const at = k.map((j, a) => t[a]! * strides[a]! + j - padding[a]![0]);
        if (at.some((s, a) => s < 0 || s >= sizes[a]!)) continue;
        const index = at.reduce((sum, s, a) => sum + s * unit[a]!, 0);
        list.push([index, data[l * sizeOf(sizes) + index]!]);
      }
      lists.push(list);
    }
  }
  return { shape: [...lead, ...counts], lists };
}

const square = (window: number, stride: number, pad = 0): PoolParams => ({
  window: [window, window],
  strides: [stride, stride],
  padding: [
    [pad, pad],
    [pad, pad],
  ],
});

describe("values", () => {
  const x = tensor(range(16), [1, 1, 4, 4]);

  test("a 4 by 4 image", () => {
    expect(maxPool(x, square(2, 2)).toArray()).toEqual([
      [
        [
          [5, 7],
          [13, 15],
        ],
      ],
    ]);
    expect(numbers(maxPoolIndex(x, square(2, 2)))).toEqual([5, 7, 13, 15]);
    expect(maxPoolIndex(x, square(2, 2)).dtype).toBe("int32");
    expect(numbers(sumPool(x, square(3, 2, 1)))).toEqual([10, 24, 51, 90]);
  });

  test("padding is below every element", () => {
    const negative = tensor([-5, -6, -7], [1, 1, 3]);
    const params: PoolParams = { window: [2], strides: [1], padding: [[1, 1]] };
    expect(numbers(maxPool(negative, params))).toEqual([-5, -5, -6, -7]);
  });

  test("of equal elements the first is chosen, minus infinity too", () => {
    const params: PoolParams = {
      window: [2, 2],
      strides: [2, 2],
      padding: [
        [0, 0],
        [0, 0],
      ],
    };
    const ties = tensor([3, 3, -Infinity, -Infinity, 3, 3, -Infinity, -Infinity], [2, 4]);
    expect(numbers(maxPoolIndex(ties, params))).toEqual([0, 2]);
    expect(numbers(maxPool(ties, params))).toEqual([3, -Infinity]);
  });

  test("NaN is above every number, wherever it is in the window", () => {
    const params: PoolParams = { window: [3], strides: [3], padding: [[0, 0]] };
    const x = tensor([NaN, 1, 2, 1, NaN, NaN, 1, 2, NaN], [9]);
    expect(numbers(maxPool(x, params))).toEqual([NaN, NaN, NaN]);
    expect(numbers(maxPoolIndex(x, params))).toEqual([0, 4, 8]);
  });

  test("the derivative of a maximum goes to the chosen element, from every window that chose it", () => {
    const x = tensor([1, 3, 2, 0], [1, 1, 4]);
    const params: PoolParams = { window: [2], strides: [1], padding: [[0, 0]] };
    const f = (v: Value): Value => {
      const y = maxPool(v, params);
      return sumAxes(mul(y, y), [0, 1, 2]);
    };
    // 3^2 + 3^2 + 2^2
    expect(numbers(grad(f)(x))).toEqual([0, 12, 4, 0]);
    const [, second] = jvp(grad(f), [x], [tensor([1, 1, 1, 1], [1, 1, 4])]);
    expect(numbers(second)).toEqual([0, 4, 2, 0]);
  });

  test("scatter adds elements of one index; outside indices give and take nothing", () => {
    const index = adopt(Int32Array.of(2, 2, -1, 3), [4], "int32");
    expect(numbers(poolScatter(tensor([1, 2, 4, 8], [4]), index, [3]))).toEqual([0, 0, 3]);
    expect(numbers(poolGather(tensor([1, 2, 4], [3]), index, 1))).toEqual([4, 4, 0, 0]);
  });

  test("element types are kept and sums of float32 accumulate in float64", () => {
    for (const dtype of ["float32", "float64", "int32", "uint32"] as const) {
      const x = integers([2, 5, 4], 3, dtype, 0, 8);
      for (const pool of [maxPool, sumPool]) expect(pool(x, square(2, 1)).dtype).toBe(dtype);
    }
    const x = adopt(Float32Array.of(1e8, 1, -1e8), [3], "float32");
    expect(numbers(sumPool(x, { window: [3], strides: [1], padding: [[0, 0]] }))).toEqual([1]);
  });

  test("nothing to pool", () => {
    expect(maxPool(integers([0, 4, 4], 1), square(2, 2)).shape).toEqual([0, 2, 2]);
    expect(sumPool(integers([2, 0, 4, 4], 1), square(2, 2)).shape).toEqual([2, 0, 2, 2]);
    expect(numbers(sumPool(integers([0], 1), { window: [2], strides: [1], padding: [[1, 1]] }))).toEqual([0]);
  });

  prop(
    "maximum, its index and the sum are those of the written-out windows",
    draws,
    fc.nat(),
    (draw, seed) => {
      const { args, params } = maxPoolP.domain(draw);
      const x = integers(args[0]!.shape, seed);
      const { shape, lists } = windows(x, params);
      const first = lists.map((list) => list.reduce((best, e) => (e[1] > best[1] ? e : best)));
      const y = maxPool(x, params);
      expect(y.shape).toEqual(shape);
      expect(numbers(y)).toEqual(first.map((e) => e[1]));
      expect(numbers(maxPoolIndex(x, params))).toEqual(first.map((e) => e[0]));
      expect(numbers(poolGather(x, maxPoolIndex(x, params), params.window.length))).toEqual(numbers(y));
      expect(sumPool(x, params).shape).toEqual(shape);
      expect(numbers(sumPool(x, params))).toEqual(lists.map((list) => list.reduce((s, e) => s + e[1], 0)));
    },
  );

  test("three axes", () => {
    const params: PoolParams = {
      window: [2, 1, 3],
      strides: [1, 2, 2],
      padding: [
        [1, 0],
        [0, 0],
        [2, 1],
      ],
    };
    const x = integers([2, 3, 4, 5], 7);
    const { shape, lists } = windows(x, params);
    expect(shape).toEqual([2, 3, 2, 3]);
    expect(numbers(maxPool(x, params))).toEqual(lists.map((list) => Math.max(...list.map((e) => e[1]))));
    expect(numbers(sumPool(x, params))).toEqual(lists.map((list) => list.reduce((s, e) => s + e[1], 0)));
  });
});

describe("laws", () => {
  for (const primitive of linearMembers) {
    prop(`${primitive.name}: <ct, f(v)> = <transpose(ct), v>`, draws, fc.nat(), (draw, seed) => {
      const { xs, params } = drawCall(primitive, draw, seed);
      const out = bind1(primitive, xs, params);
      const ct = integers(out.shape, seed + 2);
      const marked = [new Lin(xs[0]!.aval), ...xs.slice(1)];
      const [back, ...others] = primitive.transpose!([ct], marked, params);
      expect(inner(back!, xs[0]!)).toBe(inner(ct, out));
      for (const other of others) expect(other).toBeNull();
    });
  }

  for (const primitive of family) {
    propWith(
      { runs: 15 },
      `${primitive.name}: a batch is a loop, for every batched operand, axis and size`,
      draws,
      fc.nat(),
      (draw, seed) => {
        const { args, params } = primitive.domain(draw);
        const choices =
          args.length === 1
            ? [[true]]
            : [
                [true, false],
                [false, true],
                [true, true],
              ];
        const make = (shape: Shape, i: number): Value => {
          const { dtype, range: limits } = args[i]!;
          return dtype === "int32"
            ? integers(shape, seed + i, "int32", ...(limits as [number, number]))
            : integers(shape, seed + i);
        };
        for (const which of choices) {
          for (const size of [0, 1, 3]) {
            const dims = args.map((arg, i) => (which[i] ? draw.int(0, arg.shape.length) : null));
            const xs = args.map((arg, i) =>
              dims[i] === null ? make(arg.shape, i) : moveAxis(make([size, ...arg.shape], i), 0, dims[i]!),
            );
            const [[out], [dim]] = primitive.batch(xs, dims, size, params);
            const example = (x: Value, axis: number, b: number): Value =>
              reshape(
                sliceAxis(x, axis, b, b + 1),
                x.shape.filter((_, a) => a !== axis),
              );
            const each = range(size).map((b) =>
              bind1(
                primitive,
                xs.map((x, i) => (dims[i] === null ? x : example(x, dims[i]!, b))),
                params,
              ),
            );
            const single = primitive.shape(
              args.map((arg, i) => make(arg.shape, i).aval),
              params,
            )[0]!;
            const first = moveAxis(out!, dim!, 0);
            expect(first.shape).toEqual([size, ...single.shape]);
            expect(numbers(first)).toEqual(each.flatMap(numbers));
          }
        }
      },
    );
  }

  prop(
    "jvp of a maximum is the tangent at its index; of the index there is none",
    draws,
    fc.nat(),
    (draw, seed) => {
      const { args, params } = maxPoolP.domain(draw);
      const [x, dx] = [integers(args[0]!.shape, seed), integers(args[0]!.shape, seed + 1)];
      const [y, dy] = jvp((v: Value) => maxPool(v, params), [x], [dx]);
      const { lists } = windows(x, params);
      const tangents = windows(dx, params).lists;
      const expected = lists.map((list, i) => {
        const best = list.reduce((at, e, j) => (e[1] > list[at]![1] ? j : at), 0);
        return tangents[i]![best]![1];
      });
      expect(numbers(y)).toEqual(numbers(maxPool(x, params)));
      expect(numbers(dy)).toEqual(expected);
      expect(maxPoolIndexP.jvp([x], [dx], params)[1]).toEqual([null]);
    },
  );

  test("per-example gradients are the gradient of each example", () => {
    const x = integers([3, 2, 5, 4], 11);
    const f = (image: Value): Value => {
      const y = sumPool(maxPool(image, square(2, 1)), square(2, 2, 1));
      return sumAxes(mul(y, y), [0, 1, 2]);
    };
    const each = vmap(grad(f))(x);
    const loop = range(3).flatMap((i) =>
      numbers(grad(f)(reshape(sliceAxis(x, 0, i, i + 1), x.shape.slice(1)))),
    );
    expect(numbers(each)).toEqual(loop);
  });
});

describe("padding", () => {
  test("same keeps ceil(size / stride) windows, the odd one after", () => {
    expect(resolvePadding("conv", "same", [5, 6, 4], [3, 3, 2], [1, 2, 2])).toEqual([
      [1, 1],
      [0, 1],
      [0, 0],
    ]);
    expect(resolvePadding("conv", "same", [7, 3], [3, 1], [1, 2], [2, 1])).toEqual([
      [2, 2],
      [0, 0],
    ]);
  });

  prop(
    "same: as few elements as give ceil(size / stride) windows",
    fc.integer({ min: 1, max: 9 }),
    fc.integer({ min: 1, max: 5 }),
    fc.integer({ min: 1, max: 4 }),
    (size, window, stride) => {
      const [[lo, hi]] = resolvePadding("maxPool", "same", [size], [window], [stride]) as [[number, number]];
      const params: PoolParams = { window: [window], strides: [stride], padding: [[lo, hi]] };
      expect(sumPool(integers([size], 1), params).shape).toEqual([Math.ceil(size / stride)]);
      expect(hi - lo === 0 || hi - lo === 1).toBe(true);
      // One element less would lose a window.
      if (lo + hi > 0) {
        expect(Math.floor((size + lo + hi - 1 - window) / stride) + 1).toBeLessThan(Math.ceil(size / stride));
      }
    },
  );

  test("valid is none and pairs are kept", () => {
    expect(resolvePadding("conv", "valid", [5, 6], [3, 3], [1, 1])).toEqual([
      [0, 0],
      [0, 0],
    ]);
    expect(resolvePadding("conv", [[1, -2]], [5], [3], [1])).toEqual([[1, -2]]);
  });

  test("anything else is an error", () => {
    for (const wrong of ["full", [[1, 1]], [[1], [1]], [1, 1], undefined]) {
      expect(() => resolvePadding("conv", wrong as "same", [5, 6], [3, 3], [1, 1])).toThrow(ShapeError);
    }
  });
});

describe("errors", () => {
  const x = integers([2, 4, 4], 1);
  const cases: readonly [what: string, call: () => Value, message: RegExp][] = [
    ["no window", () => maxPool(x, { window: [], strides: [], padding: [] }), /the window is \[\]/],
    ["too many axes", () => sumPool(integers([4], 1), square(2, 2)), /a window of 1 to 1 axes is needed/],
    ["strides", () => sumPool(x, { ...square(2, 2), strides: [2] }), /strides is \[2\]/],
    ["an empty window", () => sumPool(x, square(0, 1)), /window is \[0,0\]/],
    ["negative padding", () => sumPool(x, square(2, 1, -1)), /two non-negative integers/],
    ["a large window", () => sumPool(x, square(5, 1)), /the pooled sizes are \[4,4\]/],
    ["a window of padding", () => maxPool(x, square(2, 1, 2)), /less than the window/],
    [
      "no element",
      () => maxPool(integers([0], 1), { window: [2], strides: [1], padding: [[1, 1]] }),
      /no empty pooled axis/,
    ],
    ["impossible sizes", () => sumPoolTranspose(x, square(2, 1), [4, 4]), /they have \[3,3\] windows/],
    [
      "leading axes",
      () => poolGather(x, integers([3, 4, 4], 1, "int32"), 2),
      /equal sizes on the axes before/,
    ],
    [
      "shapes of a scatter",
      () => poolScatter(x, integers([2, 4, 3], 1, "int32"), [2, 2]),
      /equal shapes are needed/,
    ],
  ];
  for (const [what, call, message] of cases) {
    test(what, () => {
      expect(call).toThrow(ShapeError);
      expect(call).toThrow(message);
    });
  }

  test("element types", () => {
    expect(() =>
      maxPool(adopt(new Uint8Array(4), [4], "bool"), { window: [2], strides: [1], padding: [[0, 0]] }),
    ).toThrow(DTypeError);
    expect(() => poolGather(x, x, 2)).toThrow(DTypeError);
  });
});
