/** Layers for images and sequences: against plain loops, and by what changes nothing. */
import { describe, expect, test } from "bun:test";
import { checkGrads } from "../../autodiff/check.ts";
import { vmap } from "../../autodiff/vmap.ts";
import { tensor } from "../../core/create.ts";
import { ShapeError } from "../../core/errors.ts";
import * as nn from "../../core/nn.ts";
import * as ops from "../../core/ops.ts";
import { key, normal } from "../../core/random.ts";
import { map } from "../../core/tree.ts";
import type { Value } from "../../core/value.ts";

const draw = (seed: number, shape: number[]): Value => normal(key(seed), shape, { dtype: "float64" });
const wide = <P>(params: P): P => map((x) => ops.cast(x, "float64"), params) as P;
const numbers = (x: Value): number[] => [...x.dataSync()];

function expectClose(actual: Value, expected: readonly number[], tolerance = 1e-12): void {
  const data = actual.dataSync();
  expect(data.length).toBe(expected.length);
  expected.forEach((e, i) => {
    expect(Math.abs(data[i]! - e)).toBeLessThanOrEqual(tolerance * (1 + Math.abs(e)));
  });
}

describe("convTranspose", () => {
  /** Every input adds its kernel, scaled, to a window of the output; `low` is the padding of the convolution. */
  function byLoop(x: Value, w: Value, b: Value, strides: number[]): number[] {
    const [n, inputs, rows, columns] = x.shape as [number, number, number, number];
    const [, outputs, ...window] = w.shape as [number, number, number, number];
    const size = [rows * strides[0]!, columns * strides[1]!];
    const low = window.map((k, a) => Math.floor(Math.max(0, k - strides[a]!) / 2));
    const [xs, ws] = [x.dataSync(), w.dataSync()];
    const y = Array.from(
      { length: n * outputs * size[0]! * size[1]! },
      (_, i) => b.dataSync()[Math.floor(i / (size[0]! * size[1]!)) % outputs]!,
    );
    for (let i = 0; i < n; i++)
      for (let c = 0; c < inputs; c++)
        for (let r = 0; r < rows; r++)
          for (let s = 0; s < columns; s++)
            for (let o = 0; o < outputs; o++)
              for (let u = 0; u < window[0]!; u++)
                for (let v = 0; v < window[1]!; v++) {
                  const [row, column] = [r * strides[0]! + u - low[0]!, s * strides[1]! + v - low[1]!];
                  if (row < 0 || row >= size[0]! || column < 0 || column >= size[1]!) continue;
                  y[((i * outputs + o) * size[0]! + row) * size[1]! + column]! +=
                    xs[((i * inputs + c) * rows + r) * columns + s]! *
                    ws[((c * outputs + o) * window[0]! + u) * window[1]! + v]!;
                }
    return y;
  }

  test.each([
    [3, [2, 2]],
    [2, [2, 2]],
    [
      [4, 3],
      [2, 1],
    ],
    [1, [2, 3]],
  ] as [number | number[], number[]][])("window %p, strides %p: the definition", (window, strides) => {
    const layer = nn.convTranspose(2, 3, { window, strides });
    const params = wide(layer.init(key(0))) as { w: Value; b: Value };
    const b = draw(1, [3]);
    const x = draw(2, [2, 2, 3, 4]);
    expectClose(layer.apply({ w: params.w, b }, x), byLoop(x, params.w, b, strides));
  });

  test("it is the transpose of the convolution with its kernel", () => {
    const layer = nn.convTranspose(2, 3, { bias: false });
    const { w } = wide(layer.init(key(0)));
    const [x, y] = [draw(1, [2, 2, 4, 3]), draw(2, [2, 3, 8, 6])];
    const there = ops.sum(ops.mul(layer.apply({ w }, x), y)).item();
    const back = ops.sum(ops.mul(x, ops.conv(y, w, { strides: 2, padding: "same" }))).item();
    expect(Math.abs(there - back)).toBeLessThan(1e-10);
  });

  test("outputs of the weights that it starts with have twice the variance of the inputs", () => {
    for (const [window, strides] of [
      [4, 2],
      [3, 1],
      [6, 3],
    ] as const) {
      const layer = nn.convTranspose(16, 24, { window, strides });
      const y = layer.apply(layer.init(key(0)), normal(key(1), [4, 16, 12, 12]));
      // Away from the border, where fewer inputs reach an output.
      const [low, high] = [3 * strides, 9 * strides];
      const inner = ops.slice(y, [0, 0, low, low], [4, 24, high, high]);
      expect(Math.abs(ops.var(inner).item() / 2 - 1)).toBeLessThan(0.15);
    }
  });

  test("its derivatives are right", () => {
    const layer = nn.convTranspose(2, 2);
    checkGrads(
      (p: nn.AffineParams, x: Value) => ops.sum(ops.sin(layer.apply(p, x))),
      [wide(layer.init(key(0))), draw(1, [2, 2, 2, 3])],
    );
  });
});

describe("sizes of images", () => {
  const x = draw(3, [2, 3, 4, 6]);

  test("pools are the operations of their names", () => {
    const options = { window: [2, 3], strides: 2 };
    expect(nn.maxPool(options).apply({}, x).toArray()).toEqual(ops.maxPool(x, options).toArray());
    expect(nn.avgPool(options).apply({}, x).toArray()).toEqual(ops.avgPool(x, options).toArray());
  });

  test("globalAvgPool is the mean over positions", () => {
    const data = numbers(x);
    const expected = Array.from({ length: 6 }, (_, i) => {
      return data.slice(24 * i, 24 * i + 24).reduce((a, b) => a + b, 0) / 24;
    });
    expectClose(nn.globalAvgPool().apply({}, x), expected);
  });

  test.each([1, 2, 3])(
    "upsample %p repeats every position, and means over windows take it back",
    (factor) => {
      const larger = nn.upsample(factor).apply({}, x);
      expect(larger.shape).toEqual([2, 3, 4 * factor, 6 * factor]);
      const data = larger.dataSync();
      const source = x.dataSync();
      const [rows, columns] = [4 * factor, 6 * factor];
      data.forEach((value, i) => {
        const [plane, row, column] = [
          Math.floor(i / (rows * columns)),
          Math.floor(i / columns) % rows,
          i % columns,
        ];
        const from = (plane * 4 + Math.floor(row / factor)) * 6 + Math.floor(column / factor);
        expect(value).toBe(source[from]!);
      });
      expectClose(ops.avgPool(larger, { window: factor }), numbers(x));
    },
  );

  test("upsample has right derivatives, and maps over a batch of batches", () => {
    const layer = nn.upsample(2);
    checkGrads((z: Value) => ops.sum(ops.sin(layer.apply({}, z))), [draw(1, [2, 1, 2, 3])]);
    const many = draw(2, [3, 2, 1, 2, 2]);
    const mapped = vmap((z: Value) => layer.apply({}, z))(many);
    const flat = layer.apply({}, ops.reshape(many, [6, 1, 2, 2]));
    expect(numbers(mapped)).toEqual(numbers(flat));
  });
});

describe("residual", () => {
  test("adds its body to its input, or to what the shortcut makes of it", () => {
    const body = nn.dense(3, 3);
    const x = draw(1, [2, 3]);
    const plain = nn.residual(body);
    const own = wide(plain.init(key(0)));
    expectClose(plain.apply(own, x), numbers(ops.add(x, body.apply(own.body, x))));
    const shortened = nn.residual(nn.dense(3, 2), nn.dense(3, 2, { bias: false }));
    const params = wide(shortened.init(key(1)));
    const expected = ops.add(
      ops.add(ops.matmul(x, params.shortcut.w), ops.matmul(x, params.body.w)),
      (params.body as { b: Value }).b,
    );
    expectClose(shortened.apply(params, x), numbers(expected));
    expect(params.shortcut.w.toArray()).not.toEqual(params.body.w.toArray());
  });
});

describe("sequences", () => {
  const [width, heads, t] = [6, 2, 4];
  const x = draw(4, [2, t, width]);

  test("embedding starts as it is told", () => {
    const small = nn.embedding(50, 40, { initializer: nn.normalOf(0.02) }).init(key(0)).table;
    expect(Math.abs(ops.std(small).item() / 0.02 - 1)).toBeLessThan(0.1);
    expect(Math.abs(ops.std(nn.embedding(50, 40).init(key(0)).table).item() - 1)).toBeLessThan(0.1);
    expect(() => nn.normalOf(0)).toThrow(RangeError);
  });

  test("positions adds row i to position i, and has no more rows than it has", () => {
    const layer = nn.positions(5, width);
    const { table } = wide(layer.init(key(0)));
    const rows = table.dataSync();
    const expected = numbers(x).map((value, i) => value + rows[i % (t * width)]!);
    expectClose(layer.apply({ table }, x), expected);
    expect(() => nn.positions(3, width).apply({ table: ops.slice(table, [0, 0], [3, width]) }, x)).toThrow(
      ShapeError,
    );
  });

  /** Attention one head, one query and one key at a time. */
  function byLoop(params: nn.SelfAttentionParams, input: Value, causal: boolean): number[] {
    const affine = (of: nn.AffineParams, row: number[]): number[] => {
      const [w, b] = [of.w.dataSync(), (of as { b: Value }).b.dataSync()];
      return Array.from(b, (start, j) => row.reduce((s, e, i) => s + e * w[i * width + j]!, start));
    };
    const size = width / heads;
    const out: number[] = [];
    for (const example of input.toArray() as number[][][]) {
      const [q, k, v] = [params.query, params.key, params.value].map((of) =>
        example.map((row) => affine(of, row)),
      ) as [number[][], number[][], number[][]];
      for (let i = 0; i < t; i++) {
        const seen: number[] = [];
        for (let head = 0; head < heads; head++) {
          const of = (row: number[]): number[] => row.slice(head * size, head * size + size);
          const places = [...Array(t).keys()].filter((j) => !causal || j <= i);
          const powers = places.map((j) =>
            Math.exp(of(q[i]!).reduce((s, e, d) => s + e * of(k[j]!)[d]!, 0) / Math.sqrt(size)),
          );
          const total = powers.reduce((a, b) => a + b, 0);
          for (let d = 0; d < size; d++)
            seen.push(places.reduce((s, j, p) => s + (powers[p]! / total) * of(v[j]!)[d]!, 0));
        }
        out.push(...affine(params.output, seen));
      }
    }
    return out;
  }

  test.each([false, true])("selfAttention with causal %p: the definition", (causal) => {
    const layer = nn.selfAttention(width, heads, { causal });
    const params = wide(layer.init(key(5)));
    expectClose(layer.apply(params, x), byLoop(params, x, causal));
  });

  test("selfAttention without a mask follows a change of the order of positions", () => {
    const layer = nn.selfAttention(width, heads);
    const params = wide(layer.init(key(5)));
    const turned = ops.flip(layer.apply(params, ops.flip(x, { axis: 1 })), { axis: 1 });
    expectClose(turned, numbers(layer.apply(params, x)));
  });

  test("selfAttention takes any axes before the last two, and maps over examples", () => {
    const layer = nn.selfAttention(width, heads, { causal: true });
    const params = wide(layer.init(key(5)));
    const expected = numbers(layer.apply(params, x));
    expectClose(vmap((z: Value) => layer.apply(params, z))(x), expected);
    expectClose(layer.apply(params, ops.reshape(x, [2, 1, t, width])), expected);
    expect(() => nn.selfAttention(6, 4)).toThrow(ShapeError);
  });

  test("transformerBlock is its formula", () => {
    const block = nn.transformerBlock(width, heads, { causal: true, hidden: 5, activation: "tanh" });
    const params = wide(block.init(key(6)));
    const norm = nn.layerNorm(width);
    const attended = ops.add(
      x,
      tensor(byLoop(params.attention, norm.apply(params.attentionNorm, x), true), {
        dtype: "float64",
      }).reshape(x.shape),
    );
    const [first, second] = params.dense;
    const inner = ops.tanh(nn.dense(width, 5).apply(first, norm.apply(params.denseNorm, attended)));
    const expected = ops.add(attended, nn.dense(5, width).apply(second, inner));
    expectClose(block.apply(params, x), numbers(expected), 1e-11);
  });

  test("derivatives of a block are right, to second order", () => {
    const block = nn.transformerBlock(4, 2, { causal: true });
    const params = wide(block.init(key(6)));
    checkGrads(
      (p: nn.TransformerBlockParams, z: Value) => ops.sum(ops.sin(block.apply(p, z))),
      [params, draw(7, [2, 3, 4])],
    );
  });
});
