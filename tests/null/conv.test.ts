import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { jvp } from "../../autodiff/jvp.ts";
import { grad } from "../../autodiff/vjp.ts";
import { vmap } from "../../autodiff/vmap.ts";
import { reference } from "../../core/backend.ts";
import type { DType } from "../../core/dtype.ts";
import { makeArray } from "../../core/dtype.ts";
import { DTypeError, ShapeError } from "../../core/errors.ts";
import { type Draw, Lin, type Primitive } from "../../core/primitive.ts";
import {
  type ConvMemberParams,
  type ConvParams,
  convGeneral,
  convInput,
  convInputP,
  convKernel,
  convKernelP,
  convP,
} from "../../core/prims/conv.ts";
import { add, mul } from "../../core/prims/elementwise.ts";
import { moveAxis, reshape, sliceAxis, sumAxes } from "../../core/prims/movement.ts";
import { range, type Shape, sizeOf, stridesOf } from "../../core/shape.ts";
import { adopt, bind1, setBackend } from "../../core/trace.ts";
import type { Value } from "../../core/value.ts";
import { prop, propWith } from "../support/prop.ts";

const family: readonly Primitive<ConvMemberParams>[] = [convP, convInputP, convKernelP];

/** Small integers, so that every sum is exact in every element type. */
function integers(shape: Shape, seed: number, dtype: DType = "float64"): Value {
  const data = makeArray(dtype, sizeOf(shape));
  let state = (seed * 2654435761 + 12345) >>> 0;
  for (let i = 0; i < data.length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    data[i] = (state >>> 16) % 9;
    if (dtype !== "uint32") data[i]! -= 4;
  }
  return adopt(data, shape, dtype);
}

const tensor = (data: readonly number[], shape: Shape): Value =>
  adopt(Float64Array.from(data), shape, "float64");
const numbers = (x: Value): number[] => Array.from(x.dataSync());
const inner = (x: Value, y: Value): number => {
  expect(x.shape).toEqual(y.shape);
  const other = y.dataSync();
  return numbers(x).reduce((sum, v, i) => sum + v * other[i]!, 0);
};
const total = (x: Value): Value => sumAxes(x, range(x.ndim));

const plain = (ndim: number): ConvParams => ({
  strides: range(ndim).map(() => 1),
  padding: range(ndim).map(() => [0, 0] as const),
  dilation: range(ndim).map(() => 1),
  inputDilation: range(ndim).map(() => 1),
  groups: 1,
});

/** All index lists of a shape, in row-major order. */
function* indices(shape: Shape): Generator<number[]> {
  const strides = stridesOf(shape);
  for (let i = 0; i < sizeOf(shape); i++) yield shape.map((n, a) => Math.floor(i / strides[a]!) % n);
}

/** Convolution written out: the input is first spread and padded, then every output is one sum. */
function naive(x: Value, w: Value, p: ConvParams): Value {
  const at = (v: Value): ((index: readonly number[]) => number) => {
    const data = v.dataSync();
    const strides = stridesOf(v.shape);
    return (index) => data[index.reduce((sum, j, a) => sum + j * strides[a]!, 0)]!;
  };
  const [read, weight] = [at(x), at(w)];
  const spread = (index: readonly number[]): number => {
    const place = index.slice(2).map((position, a) => (position - p.padding[a]![0]) / p.inputDilation[a]!);
    const inside = place.every((s, a) => Number.isInteger(s) && s >= 0 && s < x.shape[a + 2]!);
    return inside ? read([index[0]!, index[1]!, ...place]) : 0;
  };
  const kernel = w.shape.slice(2);
  const size = kernel.map((k, a) => {
    const padded = (x.shape[a + 2]! - 1) * p.inputDilation[a]! + 1 + p.padding[a]![0] + p.padding[a]![1];
    let count = 0;
    while (count * p.strides[a]! + (k - 1) * p.dilation[a]! < padded) count++;
    return count;
  });
  const [outs, channels] = [w.shape[0]!, w.shape[1]!];
  const shape = [x.shape[0]!, outs, ...size];
  const data: number[] = [];
  for (const [n, o, ...t] of indices(shape)) {
    const group = Math.floor((o! * p.groups) / outs);
    let sum = 0;
    for (const [i, ...k] of indices([channels, ...kernel])) {
      const position = t.map((c, a) => c * p.strides[a]! + k[a]! * p.dilation[a]!);
      sum += spread([n!, group * channels + i!, ...position]) * weight([o!, i!, ...k]);
    }
    data.push(sum);
  }
  return tensor(data, shape);
}

/** Choices of a domain, taken from fast-check so that failures shrink. */
const draws: fc.Arbitrary<Draw> = fc.gen().map((g) => {
  const draw: Draw = {
    int: (min, max) => g(fc.integer, { min, max }),
    bool: () => g(fc.boolean),
    pick: (choices) => choices[g(fc.nat, { max: choices.length - 1 })]!,
    shape: (lo, hi, min = 1) => range(draw.int(lo, hi)).map(() => draw.int(min, 3)),
  };
  return draw;
});

const stack = (xs: readonly Value[]): number[] => xs.flatMap(numbers);
/** One example of a value along an axis. */
const example = (x: Value, axis: number, i: number): Value =>
  reshape(
    sliceAxis(x, axis, i, i + 1),
    x.shape.filter((_, a) => a !== axis),
  );

describe("values", () => {
  test("one axis: correlate, convolve and correlate of NumPy", () => {
    const x = tensor([1, -2, 3, 0, 5, 4], [1, 1, 6]);
    const w = tensor([2, -1, 3], [1, 1, 3]);
    const y = tensor([1, 2, -3, 4], [1, 1, 4]);
    expect(numbers(convGeneral(x, w, plain(1)))).toEqual([13, -7, 21, 7]);
    expect(numbers(convInput(y, w, plain(1), [6]))).toEqual([2, 3, -5, 17, -13, 12]);
    expect(numbers(convKernel(x, y, plain(1), [3]))).toEqual([-12, 24, 4]);
  });

  test("two axes", () => {
    const x = tensor(range(16), [1, 1, 4, 4]);
    const w = tensor([1, 2, 3, 4], [1, 1, 2, 2]);
    expect(convGeneral(x, w, plain(2)).toArray()).toEqual([
      [
        [
          [34, 44, 54],
          [74, 84, 94],
          [114, 124, 134],
        ],
      ],
    ]);
  });

  test("three axes", () => {
    const y = convGeneral(tensor(range(27), [1, 1, 3, 3, 3]), tensor(range(8), [1, 1, 2, 2, 2]), plain(3));
    expect(y.shape).toEqual([1, 1, 2, 2, 2]);
    expect(numbers(y)).toEqual([268, 296, 352, 380, 520, 548, 604, 632]);
  });

  prop("conv is the written-out sum", draws, fc.nat(), (draw, seed) => {
    const { args, params } = convP.domain(draw);
    const [x, w] = args.map((arg, i) => integers(arg.shape, seed + i));
    const y = bind1(convP, [x!, w!], params);
    const expected = naive(x!, w!, params);
    expect(y.shape).toEqual(expected.shape);
    expect(numbers(y)).toEqual(numbers(expected));
  });

  test("three axes with every option", () => {
    const params: ConvParams = {
      strides: [2, 1, 1],
      padding: [
        [1, 2],
        [0, 1],
        [-1, 2],
      ],
      dilation: [1, 2, 1],
      inputDilation: [2, 1, 1],
      groups: 2,
    };
    const [x, w] = [integers([2, 4, 3, 4, 3], 1), integers([6, 2, 2, 2, 3], 2)];
    const y = convGeneral(x, w, params);
    expect(y.shape).toEqual([2, 6, 4, 3, 2]);
    expect(numbers(y)).toEqual(numbers(naive(x, w, params)));
  });

  test("element types agree on integers and an output keeps its own", () => {
    for (const dtype of ["float32", "float64", "int32", "uint32"] as const) {
      const [x, w] = [integers([2, 3, 5, 4], 3, dtype), integers([2, 3, 2, 3], 4, dtype)];
      const y = convGeneral(x, w, plain(2));
      expect(y.dtype).toBe(dtype);
      expect(numbers(y)).toEqual(numbers(naive(x, w, plain(2))));
      expect(convKernel(x, y, plain(2), [2, 3]).dtype).toBe(dtype);
    }
  });

  test("on the reference float32 accumulates in float64", () => {
    const x = adopt(Float32Array.of(1e8, 1, -1e8), [1, 1, 3], "float32");
    const w = adopt(Float32Array.of(1, 1, 1), [1, 1, 3], "float32");
    const previous = setBackend(reference);
    try {
      expect(numbers(convGeneral(x, w, plain(1)))).toEqual([1]);
    } finally {
      setBackend(previous);
    }
  });

  test("nothing to compute: no image, no channel, no output channel", () => {
    const p = plain(2);
    expect(convGeneral(integers([0, 2, 3, 3], 1), integers([4, 2, 2, 2], 2), p).shape).toEqual([0, 4, 2, 2]);
    expect(numbers(convGeneral(integers([1, 0, 3, 3], 1), integers([1, 0, 2, 2], 2), p))).toEqual([
      0, 0, 0, 0,
    ]);
    expect(convGeneral(integers([1, 2, 3, 3], 1), integers([0, 2, 2, 2], 2), p).shape).toEqual([1, 0, 2, 2]);
    expect(numbers(convKernel(integers([0, 1, 3], 1), integers([0, 1, 2], 2), plain(1), [2]))).toEqual([
      0, 0,
    ]);
    const around = { ...plain(1), padding: [[1, 1]] as const };
    expect(numbers(convGeneral(integers([1, 1, 0], 1), integers([1, 1, 2], 2), around))).toEqual([0]);
    expect(numbers(convInput(integers([1, 1, 1], 1), integers([1, 1, 2], 2), around, [0]))).toEqual([]);
  });
});

describe("the family", () => {
  prop(
    "one trilinear form: <y, conv(x, w)> = <convInput(y, w), x> = <convKernel(x, y), w>",
    draws,
    fc.nat(),
    (draw, seed) => {
      const { args, params } = convP.domain(draw);
      const [x, w] = args.map((arg, i) => integers(arg.shape, seed + i));
      const z = bind1(convP, [x!, w!], params);
      const y = integers(z.shape, seed + 2);
      const form = inner(y, z);
      expect(inner(convInput(y, w!, params, x!.shape.slice(2)), x!)).toBe(form);
      expect(inner(convKernel(x!, y, params, w!.shape.slice(2)), w!)).toBe(form);
    },
  );

  for (const primitive of family) {
    prop(
      `${primitive.name}: <ct, f(v)> = <transpose(ct), v> in each operand`,
      draws,
      fc.nat(),
      (draw, seed) => {
        const { args, params } = primitive.domain(draw);
        const xs = args.map((arg, i) => integers(arg.shape, seed + i));
        const out = bind1(primitive, xs, params);
        const ct = integers(out.shape, seed + 2);
        xs.forEach((x, i) => {
          const marked = xs.map((v, j) => (i === j ? new Lin(v.aval) : v));
          const cts = primitive.transpose!([ct], marked, params);
          expect(cts[1 - i]).toBeNull();
          expect(inner(cts[i]!, x)).toBe(inner(ct, out));
        });
        expect(primitive.transpose!([null], [new Lin(xs[0]!.aval), xs[1]!], params)).toEqual([null, null]);
      },
    );

    propWith(
      { runs: 15 },
      `${primitive.name}: a batch is a loop, for every batched operand, axis and size`,
      draws,
      fc.nat(),
      (draw, seed) => {
        const { args, params } = primitive.domain(draw);
        for (const which of [
          [true, false],
          [false, true],
          [true, true],
        ] as const) {
          for (const size of [0, 1, 3]) {
            const dims = args.map((arg, i) => (which[i] ? draw.int(0, arg.shape.length) : null));
            const xs = args.map((arg, i) => {
              const shape = dims[i] === null ? arg.shape : [size, ...arg.shape];
              return dims[i] === null
                ? integers(shape, seed + i)
                : moveAxis(integers(shape, seed + i), 0, dims[i]!);
            });
            const [[out], [dim]] = primitive.batch(xs, dims, size, params);
            const each = range(size).map((b) =>
              bind1(
                primitive,
                xs.map((x, i) => (dims[i] === null ? x : example(x, dims[i]!, b))),
                params,
              ),
            );
            const first = moveAxis(out!, dim!, 0);
            const single = primitive.shape(
              args.map((arg) => integers(arg.shape, 0).aval),
              params,
            )[0]!;
            expect(first.shape).toEqual([size, ...single.shape]);
            expect(numbers(first)).toEqual(stack(each));
          }
        }
      },
    );

    prop(`${primitive.name}: jvp is f(dx, w) + f(x, dw)`, draws, fc.nat(), (draw, seed) => {
      const { args, params } = primitive.domain(draw);
      const [x, w, dx, dw] = [0, 1, 0, 1].map((i, k) => integers(args[i]!.shape, seed + k));
      const f = (a: Value, b: Value): Value => bind1(primitive, [a, b], params);
      const [y, dy] = jvp(f, [x!, w!], [dx!, dw!]);
      expect(numbers(y)).toEqual(numbers(f(x!, w!)));
      const second = numbers(f(x!, dw!));
      expect(numbers(dy)).toEqual(numbers(f(dx!, w!)).map((v, i) => v + second[i]!));
    });
  }

  test("gradients compose: per-example kernel gradients sum to the gradient, and a derivative of one is exact", () => {
    const params: ConvParams = {
      ...plain(2),
      padding: [
        [1, 1],
        [0, 1],
      ],
      strides: [2, 1],
      groups: 2,
    };
    const [x, w, v] = [integers([3, 4, 4, 3], 1), integers([4, 2, 2, 2], 2), integers([4, 2, 2, 2], 3)];
    // loss = sum of squares, so gradient(w + v) - gradient(w) = H v exactly
    const loss = (kernel: Value, images: Value): Value => {
      const y = convGeneral(images, kernel, params);
      return total(mul(y, y));
    };
    const gradient = (kernel: Value): Value => grad(loss)(kernel, x);
    const each = vmap((image: Value) => grad(loss)(w, reshape(image, [1, ...image.shape])))(x);
    expect(numbers(sumAxes(each, [0]))).toEqual(numbers(gradient(w)));
    const moved = numbers(gradient(add(w, v)));
    const [at, product] = jvp(gradient, [w], [v]);
    expect(numbers(product)).toEqual(numbers(at).map((g, i) => moved[i]! - g));
  });
});

describe("errors", () => {
  const x = integers([1, 4, 5, 5], 1);
  const w = integers([2, 4, 3, 3], 2);
  const cases: readonly [what: string, call: () => Value, message: RegExp][] = [
    ["ranks differ", () => convGeneral(x, integers([2, 4, 3], 1), plain(2)), /the ranks are 4 and 3/],
    [
      "no spatial axis",
      () => convGeneral(integers([2, 2], 1), integers([2, 2], 1), plain(0)),
      /the ranks are 2/,
    ],
    [
      "channels",
      () => convGeneral(x, integers([2, 3, 3, 3], 1), plain(2)),
      /input channels per group are 4 and 3/,
    ],
    [
      "groups of the input",
      () => convGeneral(x, w, { ...plain(2), groups: 3 }),
      /4 channels of the input are in 3 groups/,
    ],
    [
      "groups of the kernel",
      () => convGeneral(x, integers([3, 2, 3, 3], 1), { ...plain(2), groups: 2 }),
      /3 channels of the kernel are in 2 groups/,
    ],
    ["no groups", () => convGeneral(x, w, { ...plain(2), groups: 0 }), /groups is 0/],
    ["strides", () => convGeneral(x, w, { ...plain(2), strides: [1, 0] }), /strides is \[1,0\]/],
    ["dilation", () => convGeneral(x, w, { ...plain(2), dilation: [1] }), /dilation is \[1\]/],
    [
      "padding",
      () =>
        convGeneral(x, w, {
          ...plain(2),
          padding: [
            [1, 0.5],
            [0, 0],
          ],
        }),
      /padding is \[\[1,0.5\]/,
    ],
    [
      "a large kernel",
      () => convGeneral(x, w, { ...plain(2), dilation: [3, 1] }),
      /the kernel spans \[7,3\] and the padded input \[5,5\]/,
    ],
    [
      "an empty kernel",
      () => convGeneral(x, integers([2, 4, 0, 3], 1), plain(2)),
      /spatial shape of the kernel is \[0,3\]/,
    ],
    [
      "batch sizes",
      () => convKernel(x, integers([2, 2, 3, 3], 1), plain(2), [3, 3]),
      /batch sizes are 1 and 2/,
    ],
    [
      "output channels",
      () => convInput(integers([1, 3, 3, 3], 1), w, plain(2), [5, 5]),
      /output channels per group are 3 and 2/,
    ],
    [
      "an impossible size",
      () => convInput(integers([1, 2, 3, 3], 1), w, plain(2), [6, 5]),
      /\[4,3\] of the output is needed/,
    ],
    [
      "a size of the wrong length",
      () => convInput(integers([1, 2, 3, 3], 1), w, plain(2), [5]),
      /size is \[5\]/,
    ],
  ];
  for (const [what, call, message] of cases) {
    test(what, () => {
      expect(call).toThrow(ShapeError);
      expect(call).toThrow(message);
    });
  }

  test("element types", () => {
    expect(() => convGeneral(x, integers([2, 4, 3, 3], 1, "float32"), plain(2))).toThrow(DTypeError);
    const bits = adopt(new Uint8Array(8), [1, 1, 8], "bool");
    expect(() => convGeneral(bits, bits, plain(1))).toThrow(DTypeError);
  });
});
