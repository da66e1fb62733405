/** Layers, models and losses: shapes, special values, and derivatives against closed forms. */
import { describe, expect, test } from "bun:test";
import { hvp } from "../../autodiff/hvp.ts";
import { grad, valueAndGrad } from "../../autodiff/vjp.ts";
import { ones, tensor } from "../../core/create.ts";
import { DTypeError, ShapeError } from "../../core/errors.ts";
import * as nn from "../../core/nn.ts";
import * as ops from "../../core/ops.ts";
import { key, normal } from "../../core/random.ts";
import * as tree from "../../core/tree.ts";
import type { Value } from "../../core/value.ts";

const f64 = (data: number[] | number[][]): Value => tensor(data, { dtype: "float64" });
const int = (data: number[]): Value => tensor(data, { dtype: "int32" });

function expectClose(actual: Value, expected: readonly number[], tolerance = 1e-12): void {
  const data = actual.dataSync();
  expect(data.length).toBe(expected.length);
  expected.forEach((e, i) => {
    expect(Math.abs(data[i]! - e)).toBeLessThanOrEqual(tolerance * (1 + Math.abs(e)));
  });
}

const softmax = (row: number[]): number[] => {
  const top = Math.max(...row);
  const powers = row.map((v) => Math.exp(v - top));
  const total = powers.reduce((a, b) => a + b, 0);
  return powers.map((v) => v / total);
};

describe("initializers", () => {
  const variance = (draw: nn.Initializer, shape: number[]): number => ops.var(draw(key(1), shape)).item();
  // The variance of n draws is off by about sqrt(2 / n), here 2 percent; 10 percent is far out.
  test.each([
    ["glorotUniform of a matrix", nn.glorotUniform, [40, 120], 2 / 160],
    ["heNormal of a matrix", nn.heNormal, [40, 120], 2 / 40],
    ["lecunNormal of a matrix", nn.lecunNormal, [40, 120], 1 / 40],
    ["heNormal of a kernel", nn.heNormal, [60, 10, 3, 3], 2 / 90],
    ["glorotUniform of a kernel", nn.glorotUniform, [60, 10, 3, 3], 2 / (90 + 540)],
  ] as [string, nn.Initializer, number[], number][])(
    "%s has its variance",
    (_name, draw, shape, expected) => {
      expect(variance(draw, shape) / expected).toBeGreaterThan(0.9);
      expect(variance(draw, shape) / expected).toBeLessThan(1.1);
    },
  );
});

describe("models", () => {
  test("dense is x w + b", () => {
    const layer = nn.dense(2, 2);
    const params = {
      w: tensor([
        [1, 2],
        [3, 4],
      ]),
      b: tensor([10, 20]),
    };
    expect(layer.apply(params, tensor([[1, 1]])).toArray()).toEqual([[14, 26]]);
    expect(tree.paths(layer.init(key(0)))).toEqual(["b", "w"]);
    expect(tree.paths(nn.dense(2, 2, { bias: false }).init(key(0)))).toEqual(["w"]);
  });

  test("conv adds its bias to each channel", () => {
    const layer = nn.conv(1, 2, { window: 1 });
    const params = { w: tensor([[[[1]]], [[[2]]]]), b: tensor([10, 20]) };
    expect(layer.apply(params, ones([1, 1, 1, 2])).toArray()).toEqual([[[[11, 11]], [[22, 22]]]]);
    expect(
      nn
        .conv(4, 2, { groups: 2, strides: 2 })
        .apply(nn.conv(4, 2, { groups: 2 }).init(key(0)), ones([1, 4, 6, 6])).shape,
    ).toEqual([1, 2, 3, 3]);
  });

  test("mlp is its layers one after the other", () => {
    const model = nn.mlp([3, 4, 2], { activation: "tanh" });
    const params = model.init(key(3));
    const same = nn.sequential(nn.dense(3, 4), nn.activation("tanh"), nn.dense(4, 2));
    const x = normal(key(4), [5, 3]);
    const [first, last] = params;
    expect(same.apply([first!, {}, last!], x).toArray()).toEqual(model.apply(params, x).toArray());
    expect(tree.paths(params)).toEqual(["[0].b", "[0].w", "[1].b", "[1].w"]);
    expect(() => nn.mlp([3])).toThrow(ShapeError);
  });

  test("layers draw different weights, and a key draws the same ones again", () => {
    const params = nn.mlp([3, 3, 3]).init(key(0));
    expect(params[0]!.w.toArray()).not.toEqual(params[1]!.w.toArray());
    expect(nn.mlp([3, 3, 3]).init(key(0))[1]!.w.toArray()).toEqual(params[1]!.w.toArray());
  });

  test("every model has finite gradients of the shapes of its parameters", () => {
    const models: [nn.Model, Value][] = [
      [nn.mlp([4, 3, 2]), normal(key(1), [3, 2, 2])],
      [nn.logistic(4, 2), normal(key(1), [3, 1, 2, 2])],
      [nn.cnn({ image: [1, 9, 8], classes: 2, widths: [2, 3] }), normal(key(1), [3, 1, 9, 8])],
      [nn.sequential(nn.flatten(), nn.layerNorm(4), nn.dense(4, 2)), normal(key(1), [3, 2, 2])],
    ];
    for (const [model, x] of models) {
      const params = model.init(key(2));
      const loss = (p: nn.Params): Value => nn.softmaxCrossEntropy(model.apply(p, x), int([0, 1, 1]));
      const gradient = grad(loss)(params);
      expect(tree.paths(gradient)).toEqual(tree.paths(params));
      for (const leaf of tree.leaves(gradient)) expect(ops.isFinite(leaf).toArray()).not.toContain(0);
      expect(tree.leaves(gradient).some((leaf) => ops.norm(leaf).item() > 0)).toBe(true);
    }
  });

  test("cnn refuses images that halving uses up", () => {
    expect(() => nn.cnn({ image: [1, 2, 2], classes: 2 })).toThrow(ShapeError);
  });

  test("an unknown activation is refused by name", () => {
    expect(() => nn.activation("swoosh" as "relu")).toThrow(/swoosh/);
  });

  test("layerNorm gives mean 0 and variance 1 before scale and offset", () => {
    const y = nn
      .layerNorm(4, { epsilon: 0 })
      .apply({ scale: f64([1, 1, 1, 1]), offset: f64([2, 2, 2, 2]) }, f64([[1, 2, 4, 9]]));
    expect(ops.mean(y).item()).toBeCloseTo(2, 12);
    expect(ops.var(y).item()).toBeCloseTo(1, 12);
  });

  test("embedding reads rows of its table", () => {
    const table = tensor([
      [1, 2],
      [3, 4],
    ]);
    expect(
      nn
        .embedding(2, 2)
        .apply({ table }, int([1, 0, 1]))
        .toArray(),
    ).toEqual([
      [3, 4],
      [1, 2],
      [3, 4],
    ]);
  });

  test("dropout keeps the mean and zeroes the fraction it names", () => {
    const y = nn.dropout(key(7), 0.25, ones([4000]));
    const kept = ops.mean(ops.greater(y, 0)).item();
    expect(Math.abs(kept - 0.75)).toBeLessThan(0.05);
    expect(ops.max(y).item()).toBeCloseTo(4 / 3, 6);
    expect(() => nn.dropout(key(0), 1, ones([1]))).toThrow(RangeError);
  });

  test("attention with a causal mask does not see the future", () => {
    const [q, k, v] = [1, 2, 3].map((seed) => normal(key(seed), [2, 3, 4]));
    const mask = tensor(
      [
        [1, 0, 0],
        [1, 1, 0],
        [1, 1, 1],
      ],
      { dtype: "bool" },
    );
    const out = nn.attention(q!, k!, v!, { mask });
    expectClose(
      ops.slice(out, [0, 0, 0], [2, 1, 4]),
      [...ops.slice(v!, [0, 0, 0], [2, 1, 4]).dataSync()],
      1e-6,
    );
    // The last query sees everything: softmax(q k' / 2) v by hand for the first batch.
    const rows = (x: Value): number[][] => (x.toArray() as number[][][])[0]!;
    const weights = softmax(rows(k!).map((r) => r.reduce((s, e, i) => s + e * rows(q!)[2]![i]!, 0) / 2));
    const expected = [0, 1, 2, 3].map((c) => weights.reduce((s, w, t) => s + w * rows(v!)[t]![c]!, 0));
    expectClose(ops.slice(out, [0, 2, 0], [1, 3, 4]), expected, 1e-5);
  });
});

describe("softmaxCrossEntropy", () => {
  const rows = [
    [1, -2, 0.5],
    [3, 3, -1],
  ];
  const classes = [2, 0];
  const expected = -rows.reduce((sum, row, i) => sum + Math.log(softmax(row)[classes[i]!]!), 0) / 2;

  test("integers and probabilities agree with the formula", () => {
    expect(nn.softmaxCrossEntropy(f64(rows), int(classes)).item()).toBeCloseTo(expected, 12);
    expect(
      nn
        .softmaxCrossEntropy(
          f64(rows),
          f64([
            [0, 0, 1],
            [1, 0, 0],
          ]),
        )
        .item(),
    ).toBeCloseTo(expected, 12);
    expect(nn.softmaxCrossEntropy(f64(rows), ops.cast(int(classes), "uint32")).item()).toBeCloseTo(
      expected,
      12,
    );
  });

  test("the gradient is (p - y) / n, for integers and for probabilities", () => {
    const truth = rows.flatMap((row, i) => softmax(row).map((p, c) => (p - Number(c === classes[i])) / 2));
    expectClose(grad((x: Value) => nn.softmaxCrossEntropy(x, int(classes)))(f64(rows)), truth);
    const labels = f64([
      [0, 0, 1],
      [1, 0, 0],
    ]);
    expectClose(grad((x: Value) => nn.softmaxCrossEntropy(x, labels))(f64(rows)), truth);
  });

  test("the curvature is (diag(p) - p p') / n", () => {
    const u = [
      [1, 2, 3],
      [-1, 0, 1],
    ];
    const truth = rows.flatMap((row, i) => {
      const p = softmax(row);
      const along = p.reduce((s, pc, c) => s + pc * u[i]![c]!, 0);
      return p.map((pc, c) => (pc * (u[i]![c]! - along)) / 2);
    });
    expectClose(hvp((x: Value) => nn.softmaxCrossEntropy(x, int(classes)))(f64(rows), f64(u)), truth);
  });

  test("extreme logits give finite losses and gradients", () => {
    const [loss, slope] = valueAndGrad((x: Value) => nn.softmaxCrossEntropy(x, int([1])))(
      tensor([[1e4, -1e4]]),
    );
    expect(loss.item()).toBe(2e4);
    expect(slope.toArray()).toEqual([[1, -1]]);
    const certain = nn.softmaxCrossEntropy(tensor([[0, Number.NEGATIVE_INFINITY]]), int([0]));
    expect(Math.abs(certain.item())).toBe(0);
  });

  test("a probability of 0 for an impossible class costs nothing", () => {
    const logits = tensor([[0, Number.NEGATIVE_INFINITY, 0]]);
    const labels = tensor([[1, 0, 0]]);
    const [loss, slope] = valueAndGrad((x: Value) => nn.softmaxCrossEntropy(x, labels))(logits);
    expect(loss.item()).toBeCloseTo(Math.LN2, 6);
    expect(slope.toArray()).toEqual([[-0.5, 0, 0.5]]);
    const possible = nn.softmaxCrossEntropy(logits, tensor([[0.5, 0.5, 0]]));
    expect(possible.item()).toBe(Infinity);
  });

  test("the derivative in a label of 0 is the cost of its class", () => {
    const slope = grad((y: Value) => nn.softmaxCrossEntropy(f64([[0, 1]]), y))(f64([[1, 0]]));
    expectClose(
      slope,
      softmax([0, 1]).map((p) => -Math.log(p)),
    );
  });

  test("labels that do not fit are refused, and so are classes outside", () => {
    expect(() => nn.softmaxCrossEntropy(f64(rows), int([0]))).toThrow(ShapeError);
    expect(() =>
      nn.softmaxCrossEntropy(
        f64(rows),
        f64([
          [0, 1],
          [1, 0],
        ]),
      ),
    ).toThrow(ShapeError);
    expect(() => nn.softmaxCrossEntropy(f64(rows), f64([0, 1]))).toThrow(ShapeError);
    expect(() => nn.softmaxCrossEntropy(f64(rows), int([0, 3]))).toThrow(RangeError);
    expect(() => nn.softmaxCrossEntropy(f64(rows), int([0, -1]))).toThrow(RangeError);
    expect(() => nn.softmaxCrossEntropy(f64(rows), ops.less(int([0, 1]), 1))).toThrow(DTypeError);
  });
});

describe("other losses", () => {
  test("sigmoidBinaryCrossEntropy agrees with the formula, its gradient and its curvature at 0", () => {
    const [x, y] = [
      [0, 2, -3],
      [1, 0, 1],
    ];
    const p = x!.map((v) => 1 / (1 + Math.exp(-v)));
    const expected = -p.reduce((s, pi, i) => s + Math.log(y![i] === 1 ? pi : 1 - pi), 0) / 3;
    const loss = (z: Value): Value => nn.sigmoidBinaryCrossEntropy(z, int(y!));
    expect(loss(f64(x!)).item()).toBeCloseTo(expected, 12);
    expectClose(
      grad(loss)(f64(x!)),
      p.map((pi, i) => (pi - y![i]!) / 3),
    );
    expectClose(
      hvp(loss)(f64(x!), f64([1, 1, 1])),
      p.map((pi) => (pi * (1 - pi)) / 3),
    );
  });

  test("sigmoidBinaryCrossEntropy is finite far out", () => {
    const [loss, slope] = valueAndGrad((z: Value) => nn.sigmoidBinaryCrossEntropy(z, tensor([0, 1])))(
      tensor([1000, -1000]),
    );
    expect(loss.item()).toBe(1000);
    expect(slope.toArray()).toEqual([0.5, -0.5]);
  });

  test("sigmoidBinaryCrossEntropy of certain logits is 0 where they are right, infinite where not", () => {
    const certain = tensor([Infinity, -Infinity]);
    const right = (z: Value): Value => nn.sigmoidBinaryCrossEntropy(z, tensor([1, 0]));
    expect(right(certain).item()).toBe(0);
    expect(ops.abs(grad(right)(certain)).toArray()).toEqual([0, 0]);
    expect(nn.sigmoidBinaryCrossEntropy(certain, tensor([0, 1])).item()).toBe(Infinity);
  });

  test("sigmoidBinaryCrossEntropy keeps its relative accuracy where the logits are right", () => {
    const loss = nn.sigmoidBinaryCrossEntropy(tensor([30, -30]), tensor([1, 0])).item();
    expect(Math.abs(loss / Math.log1p(Math.exp(-30)) - 1)).toBeLessThan(1e-5);
  });

  test("sigmoidBinaryCrossEntropy takes probabilities, and has derivatives in them", () => {
    const [x, y] = [1.5, 0.3];
    const loss = (labels: Value): Value => nn.sigmoidBinaryCrossEntropy(f64([x]), labels);
    expect(loss(f64([y])).item()).toBeCloseTo(Math.log1p(Math.exp(x)) - x * y, 14);
    expectClose(grad(loss)(f64([y])), [-x]);
  });

  test("mse refuses to broadcast", () => {
    expect(nn.mse(f64([1, 2]), f64([3, 2])).item()).toBe(2);
    expect(() => nn.mse(f64([[1], [2]]), f64([1, 2]))).toThrow(ShapeError);
  });

  test("l2 sums over the whole tree", () => {
    expect(nn.l2([{ w: f64([[1, 2]]) }, { w: f64([3]) }]).item()).toBe(14);
    expect(nn.l2({}).item()).toBe(0);
  });

  test("accuracy counts rows whose largest logit is at the label", () => {
    const logits = tensor([
      [0, 1],
      [1, 0],
      [2, 1],
      [0, 3],
    ]);
    expect(nn.accuracy(logits, int([1, 1, 0, 1])).item()).toBe(0.75);
    expect(nn.accuracy(logits, ops.oneHot(int([1, 1, 0, 1]), 2)).item()).toBe(0.75);
  });
});
