/** Normalizations against plain loops, what they do not change, and batch normalization apart from its batch. */
import { describe, expect, test } from "bun:test";
import { checkGrads } from "../../autodiff/check.ts";
import { hvp } from "../../autodiff/hvp.ts";
import { jit } from "../../autodiff/jit.ts";
import { tensor } from "../../core/create.ts";
import { ShapeError } from "../../core/errors.ts";
import * as nn from "../../core/nn.ts";
import * as ops from "../../core/ops.ts";
import { key, normal } from "../../core/random.ts";
import type { Value } from "../../core/value.ts";

const f64 = (data: readonly number[]): Value => tensor([...data], { dtype: "float64" });
const draw = (seed: number, shape: number[]): Value => normal(key(seed), shape, { dtype: "float64" });
const scale = f64([2, -1, 0.5, 3]);
const offset = f64([0, 1, -2, 0.25]);
const params = { scale, offset };

function expectClose(actual: Value, expected: readonly number[], tolerance = 1e-12): void {
  const data = actual.dataSync();
  expect(data.length).toBe(expected.length);
  expected.forEach((e, i) => {
    expect(Math.abs(data[i]! - e)).toBeLessThanOrEqual(tolerance * (1 + Math.abs(e)));
  });
}

/** Normalizes sets of positions of x [n, 4, s...], each by its own moments: the definition, one number at a time. */
function byLoop(x: Value, setOf: (n: number, c: number) => string, epsilon: number): number[] {
  const [count, channels] = [x.shape[0]!, x.shape[1]!];
  const places = x.size / (count * channels);
  const data = x.dataSync();
  const sets = new Map<string, number[]>();
  const at = (i: number): [number, number] => [
    Math.floor(i / (channels * places)),
    Math.floor(i / places) % channels,
  ];
  data.forEach((value, i) => {
    const name = setOf(...at(i));
    sets.set(name, [...(sets.get(name) ?? []), value]);
  });
  return Array.from(data, (value, i) => {
    const [n, c] = at(i);
    const set = sets.get(setOf(n, c))!;
    const mean = set.reduce((a, b) => a + b, 0) / set.length;
    const variance = set.reduce((a, b) => a + (b - mean) ** 2, 0) / set.length;
    return (scale.dataSync()[c]! * (value - mean)) / Math.sqrt(variance + epsilon) + offset.dataSync()[c]!;
  });
}

const shapes: readonly number[][] = [
  [5, 4],
  [3, 4, 6],
  [3, 4, 2, 5],
];

describe("against the definition", () => {
  test.each(shapes.map((shape) => [shape]))("batchNorm of %p", (shape) => {
    const x = draw(1, shape);
    expectClose(
      nn.batchNorm(4, { epsilon: 0.1 }).apply(params, x),
      byLoop(x, (_, c) => `${c}`, 0.1),
    );
  });

  test.each([1, 2, 4])("groupNorm of %p groups", (groups) => {
    const x = draw(2, [3, 4, 2, 5]);
    const expected = byLoop(x, (n, c) => `${n} ${Math.floor((c * groups) / 4)}`, 0.1);
    expectClose(nn.groupNorm(groups, 4, { epsilon: 0.1 }).apply(params, x), expected);
  });

  test("channels that are not there, and groups that do not divide, are refused", () => {
    expect(() => nn.batchNorm(4).apply(params, draw(0, [2, 3, 5]))).toThrow(ShapeError);
    expect(() => nn.batchNorm(4).apply(params, draw(0, [4]))).toThrow(ShapeError);
    expect(() => nn.groupNorm(2, 4).apply(params, draw(0, [2, 3, 5]))).toThrow(ShapeError);
    expect(() => nn.groupNorm(3, 4)).toThrow(ShapeError);
  });
});

describe("laws", () => {
  test("batchNorm does not see scales and shifts of its channels", () => {
    const layer = nn.batchNorm(4, { epsilon: 0 });
    const x = draw(3, [3, 4, 5]);
    const [factor, shift] = [f64([3, 0.1, 7, 1]), f64([1, -5, 0, 100])].map((v) => ops.reshape(v, [4, 1]));
    const moved = ops.add(ops.mul(x, factor!), shift!);
    expectClose(layer.apply(params, moved), [...layer.apply(params, x).dataSync()], 1e-10);
  });

  test("groupNorm of an example is the same in any batch", () => {
    const layer = nn.groupNorm(2, 4);
    const x = draw(4, [3, 4, 5]);
    const second = ops.slice(x, [1, 0, 0], [2, 4, 5]);
    const whole = ops.slice(layer.apply(params, x), [1, 0, 0], [2, 4, 5]);
    expectClose(layer.apply(params, second), [...whole.dataSync()]);
  });

  test("derivatives of both are right, to second order, and the same compiled", () => {
    const x = draw(5, [3, 4, 2]);
    const weights = draw(6, [3, 4, 2]);
    for (const layer of [nn.batchNorm(4), nn.groupNorm(2, 4), nn.layerNorm(2)]) {
      const own = layer.name.startsWith("layer") ? { scale: f64([1, 2]), offset: f64([0, 1]) } : params;
      const f = (p: nn.NormParams, z: Value): Value => ops.sum(ops.mul(weights, layer.apply(p, z)));
      checkGrads(f, [own, x]);
      const curved = (z: Value): Value => f(own, ops.mul(z, z));
      const eager = hvp(curved)(x, weights);
      expectClose(jit((z: Value) => hvp(curved)(z, weights))(x), [...eager.dataSync()], 1e-10);
    }
  });
});

describe("moments", () => {
  const model = nn.sequential(
    nn.conv(2, 3),
    nn.batchNorm(3),
    nn.activation("relu"),
    nn.flatten(),
    nn.dense(3 * 16, 4),
    nn.batchNorm(4),
  );
  const start = model.init(key(0));
  const [train, other] = [normal(key(1), [6, 2, 4, 4]), normal(key(2), [3, 2, 4, 4])];

  test("they are the means and variances that the layers of a pass have", () => {
    const moments = nn.momentsOf(model, start, train);
    expect(moments.map(({ mean, variance }) => [mean.shape, variance.shape])).toEqual([
      [[3], [3]],
      [[4], [4]],
    ]);
    const first = nn.conv(2, 3).apply(start[0], train);
    expectClose(moments[0]!.mean, [...ops.mean(first, { axis: [0, 2, 3] }).dataSync()], 1e-6);
    expectClose(moments[0]!.variance, [...ops.var(first, { axis: [0, 2, 3] }).dataSync()], 1e-5);
    expect(nn.momentsOf(nn.dense(2, 3), nn.dense(2, 3).init(key(0)), normal(key(0), [4, 2]))).toEqual([]);
  });

  test("with the moments of its batch a model does what it does without", () => {
    const judged = nn.withMoments(model, nn.momentsOf(model, start, train));
    expectClose(judged.apply(start, train), [...model.apply(start, train).dataSync()], 1e-5);
  });

  test("with given moments an example has the same outputs in any batch; without, it has not", () => {
    const judged = nn.withMoments(model, nn.momentsOf(model, start, train));
    const alone = ops.slice(other, [1, 0, 0, 0], [2, 2, 4, 4]);
    const row = (y: Value): number[] => [...ops.slice(y, [1, 0], [2, 4]).dataSync()];
    expectClose(judged.apply(start, alone), row(judged.apply(start, other)), 1e-5);
    expect(model.apply(start, alone).dataSync()).not.toEqual(row(model.apply(start, other)));
  });

  test("they pass through jit as arguments and results", () => {
    const measured = jit((p: typeof start, x: Value) => nn.momentsOf(model, p, x))(start, train);
    const judge = jit((p: typeof start, m: readonly nn.Moments[], x: Value) =>
      nn.withMoments(model, m).apply(p, x),
    );
    const eager = nn.withMoments(model, nn.momentsOf(model, start, train)).apply(start, other);
    expectClose(judge(start, measured, other), [...eager.dataSync()], 1e-5);
  });

  test("another number of moments is refused", () => {
    const moments = nn.momentsOf(model, start, train);
    for (const wrong of [[], moments.slice(1), [...moments, moments[0]!]]) {
      expect(() => nn.withMoments(model, wrong).apply(start, other)).toThrow(ShapeError);
    }
  });

  test("an observer outside still hears of the layers with weights", () => {
    const moments = nn.momentsOf(model, start, train);
    const kinds: string[] = [];
    const observer: nn.Observer = {
      affine(call, output) {
        kinds.push(call.kind);
        return output;
      },
    };
    nn.observing(observer, () => nn.withMoments(model, moments).apply(start, other));
    nn.observing(observer, () => nn.momentsOf(model, start, other));
    expect(kinds).toEqual(["conv", "dense", "conv", "dense"]);
  });
});
