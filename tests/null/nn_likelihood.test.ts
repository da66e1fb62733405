/** Likelihoods: losses against their formulas, and draws against the probabilities that they are drawn with. */
import { describe, expect, test } from "bun:test";
import { grad } from "../../autodiff/vjp.ts";
import { tensor } from "../../core/create.ts";
import { ShapeError } from "../../core/errors.ts";
import * as nn from "../../core/nn.ts";
import * as ops from "../../core/ops.ts";
import { key } from "../../core/random.ts";
import type { Value } from "../../core/value.ts";

const f64 = (data: number[] | number[][]): Value => tensor(data, { dtype: "float64" });
const DRAWS = 10_000;
/** Five deviations of a mean of draws with probability p. */
const within = (p: number): number => 5 * Math.sqrt((p * (1 - p)) / DRAWS);

/** The same row of outputs, often. */
const repeated = (row: number[]): Value => ops.broadcastTo(tensor(row), [DRAWS, row.length]);
/** Mean of every column. */
const columns = (x: Value): number[] => [...ops.mean(ops.cast(x, "float32"), { axis: 0 }).dataSync()];

describe("categorical", () => {
  test("the loss is the mean of -log softmax at the targets, over every axis before the classes", () => {
    const logits = [
      [0.5, -1],
      [2, 0],
      [1, 1],
      [-3, 0.25],
    ];
    const classes = [1, 0, 1, 1];
    const costs = logits.map((row, i) => {
      const powers = row.map(Math.exp);
      return -Math.log(powers[classes[i]!]! / (powers[0]! + powers[1]!));
    });
    const expected = costs.reduce((a, b) => a + b, 0) / 4;
    const y = tensor(classes, { dtype: "int32" });
    expect(nn.categorical.loss(f64(logits), y).item()).toBeCloseTo(expected, 12);
    const deeper = nn.categorical.loss(ops.reshape(f64(logits), [2, 2, 2]), ops.reshape(y, [2, 2]));
    expect(deeper.item()).toBeCloseTo(expected, 12);
  });

  test("classes are drawn as often as softmax says, and differ from key to key", () => {
    const row = [0, 1, -0.5];
    const total = row.reduce((s, z) => s + Math.exp(z), 0);
    const drawn = nn.categorical.sample(key(3), repeated(row));
    expect([drawn.dtype, drawn.shape]).toEqual(["int32", [DRAWS]]);
    columns(ops.oneHot(drawn, 3)).forEach((share, c) => {
      const p = Math.exp(row[c]!) / total;
      expect(Math.abs(share - p)).toBeLessThan(within(p));
    });
    expect(nn.categorical.sample(key(4), repeated(row)).toArray()).not.toEqual(drawn.toArray());
    expect(nn.categorical.sample(key(0), ops.reshape(repeated(row), [2, DRAWS / 2, 3])).shape).toEqual([
      2,
      DRAWS / 2,
    ]);
  });
});

describe("bernoulli", () => {
  test("the loss is the mean over examples of the sum over their elements", () => {
    const [x, y] = [
      [
        [1, -2, 0.5],
        [3, 0, -1],
      ],
      [
        [1, 0, 0],
        [0, 1, 1],
      ],
    ];
    const cost = (z: number, t: number): number => Math.log1p(Math.exp(z)) - z * t;
    const expected = x!.reduce((s, row, i) => s + row.reduce((r, z, j) => r + cost(z, y![i]![j]!), 0), 0) / 2;
    expect(nn.bernoulli.loss(f64(x!), f64(y!)).item()).toBeCloseTo(expected, 12);
    expect(nn.bernoulli.loss(f64(x!), tensor(y!, { dtype: "int32" })).item()).toBeCloseTo(expected, 12);
    const flat = nn.bernoulli.loss(f64(x![0]!), f64(y![0]!));
    expect(flat.item()).toBeCloseTo(x![0]!.reduce((r, z, j) => r + cost(z, y![0]![j]!), 0) / 3, 12);
    expect(() => nn.bernoulli.loss(f64([[1], [2]]), f64([0, 1]))).toThrow(ShapeError);
  });

  test("ones are drawn as often as sigmoid says", () => {
    const row = [0, 2, -1];
    const drawn = nn.bernoulli.sample(key(5), repeated(row));
    expect(drawn.aval.toString()).toBe(repeated(row).aval.toString());
    columns(drawn).forEach((share, c) => {
      const p = 1 / (1 + Math.exp(-row[c]!));
      expect(Math.abs(share - p)).toBeLessThan(within(p));
    });
  });
});

describe("gaussian", () => {
  test("the loss is half the sum of squared errors of an example, its gradient the error over the batch", () => {
    const [x, y] = [
      f64([
        [1, 2],
        [3, 5],
      ]),
      f64([
        [0, 2],
        [1, 1],
      ]),
    ];
    expect(nn.gaussian.loss(x, y).item()).toBeCloseTo((1 + 4 + 16) / 2 / 2, 12);
    const slope = grad((z: Value) => nn.gaussian.loss(z, y))(x);
    expect(slope.toArray()).toEqual([
      [0.5, 0],
      [1, 2],
    ]);
    expect(() => nn.gaussian.loss(x, f64([0, 1]))).toThrow(ShapeError);
  });

  test("draws have the outputs as means and variance 1", () => {
    const row = [10, -3];
    const drawn = nn.gaussian.sample(key(6), repeated(row));
    columns(drawn).forEach((mean, c) => {
      expect(Math.abs(mean - row[c]!)).toBeLessThan(5 / Math.sqrt(DRAWS));
    });
    // The variance of n draws is off by about sqrt(2 / n).
    const variance = [...ops.var(drawn, { axis: 0 }).dataSync()];
    for (const v of variance) expect(Math.abs(v - 1)).toBeLessThan(5 * Math.sqrt(2 / DRAWS));
    expect(nn.gaussian.sample(key(0), f64([[1]])).dtype).toBe("float64");
  });
});

test("an expected gradient under the drawn targets is 0: the loss is the negative logarithm of what is drawn", () => {
  const cases: [nn.Likelihood, number[]][] = [
    [nn.categorical, [0.5, -1, 1]],
    [nn.bernoulli, [0.5, -1, 1]],
    [nn.gaussian, [0.5, -1, 1]],
  ];
  for (const [likelihood, row] of cases) {
    const outputs = repeated(row);
    const targets = likelihood.sample(key(8), outputs);
    const slope = grad((z: Value) => likelihood.loss(z, targets))(outputs);
    // Each element is 1 / n of an error whose variance is at most 1.
    const sums = [...ops.sum(slope, { axis: 0 }).dataSync()];
    for (const s of sums) expect(Math.abs(s)).toBeLessThan(5 / Math.sqrt(DRAWS));
  }
});
