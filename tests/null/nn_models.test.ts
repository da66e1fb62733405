/** Models: how many parameters they have, what they compute where it is known, derivatives, and the same compiled. */
import { describe, expect, test } from "bun:test";
import { checkGrads } from "../../autodiff/check.ts";
import { hvp } from "../../autodiff/hvp.ts";
import { jit } from "../../autodiff/jit.ts";
import { grad } from "../../autodiff/vjp.ts";
import { tensor } from "../../core/create.ts";
import { ShapeError } from "../../core/errors.ts";
import * as nn from "../../core/nn.ts";
import * as ops from "../../core/ops.ts";
import { key, normal } from "../../core/random.ts";
import { leaves, map } from "../../core/tree.ts";
import type { Value } from "../../core/value.ts";

const draw = (seed: number, shape: number[]): Value => normal(key(seed), shape, { dtype: "float64" });
const wide = <P>(params: P): P => map((x) => ops.cast(x, "float64"), params) as P;
const numbers = (x: Value): number[] => [...x.dataSync()];
const size = (params: unknown): number => leaves(params).reduce((sum, x) => sum + x.size, 0);
const int = (data: number[] | number[][]): Value => tensor(data, { dtype: "int32" });

function expectClose(actual: Value, expected: readonly number[], tolerance = 1e-12): void {
  const data = actual.dataSync();
  expect(data.length).toBe(expected.length);
  expected.forEach((e, i) => {
    expect(Math.abs(data[i]! - e)).toBeLessThanOrEqual(tolerance * (1 + Math.abs(e)));
  });
}

describe("resnet20", () => {
  const small = nn.resnet20({ image: [3, 8, 12], classes: 4, width: 2 });

  test("has 19 convolutions and a dense layer, and the published number of parameters", () => {
    const kinds: string[] = [];
    const model = nn.resnet20({ image: [3, 32, 32], classes: 10 });
    const params = model.init(key(0));
    // 0.27 million in the paper: kernels, a scale and an offset for every channel that is normalized, and the head.
    const stage = (inputs: number, outputs: number): number => 9 * outputs * (inputs + 5 * outputs);
    const kernels = 9 * 3 * 16 + stage(16, 16) + stage(16, 32) + stage(32, 64);
    expect(size(params)).toBe(kernels + 2 * (7 * 16 + 6 * 32 + 6 * 64) + (64 * 10 + 10));
    expect(size(params)).toBe(269_722);
    const watch: nn.Observer = {
      affine(call, output) {
        kinds.push(call.kind);
        return output;
      },
    };
    const x = normal(key(1), [2, 3, 8, 12]);
    const y = nn.observing(watch, () => small.apply(small.init(key(0)), x));
    expect(y.shape).toEqual([2, 4]);
    expect(kinds).toEqual([...Array<string>(19).fill("conv"), "dense"]);
    expect(nn.momentsOf(small, small.init(key(0)), x).length).toBe(19);
  });

  test("with blocks that give nothing it is its shortcuts: every fourth position, and means of 0 in new channels", () => {
    const params = wide(small.init(key(2)));
    const silent = params.blocks.map(({ body, shortcut }) => {
      const [a, b, c, d, last] = body;
      const nothing = { scale: ops.mul(last.scale, 0), offset: last.offset };
      return { body: [a, b, c, d, nothing] as typeof body, shortcut };
    });
    const x = draw(3, [2, 3, 8, 12]);
    const stem = nn
      .batchNorm(2)
      .apply(params.stem[1], nn.conv(3, 2, { bias: false }).apply(params.stem[0], x));
    const kept = ops.slice(ops.relu(stem), [0, 0, 0, 0], [2, 2, 8, 12], [1, 1, 4, 4]);
    const means = ops.mean(kept, { axis: [2, 3] });
    const features = ops.pad(means, [
      [0, 0],
      [0, 6],
    ]);
    const head = params.head as { w: Value; b: Value };
    const expected = ops.add(ops.matmul(features, head.w), head.b);
    expectClose(small.apply({ ...params, blocks: silent }, x), numbers(expected));
  });

  test("images that cannot be halved twice are refused", () => {
    expect(() => nn.resnet20({ image: [3, 2, 32], classes: 10 })).toThrow(ShapeError);
  });
});

describe("convAutoencoder", () => {
  test("gives images of the size of its inputs, within the range of its output, through few numbers", () => {
    const model = nn.convAutoencoder({ image: [2, 8, 12], widths: [3, 5], latent: 4 });
    const params = model.init(key(0));
    const inputs: Value[] = [];
    const watch: nn.Observer = {
      affine(call, output) {
        inputs.push(call.input);
        return output;
      },
    };
    const x = normal(key(1), [3, 2, 8, 12]);
    const y = nn.observing(watch, () => model.apply(params, ops.mul(x, 100)));
    expect(y.shape).toEqual([3, 2, 8, 12]);
    expect(ops.max(ops.abs(y)).item()).toBeLessThanOrEqual(1);
    expect(inputs.map(({ shape }) => shape)).toEqual([
      [3, 2, 8, 12],
      [3, 3, 4, 6],
      [3, 30],
      [3, 4],
      [3, 5, 4, 6],
      [3, 3, 8, 12],
    ]);
    // Kernels 3x3 there and back, 30 numbers to 4 and back, and a bias for every output.
    const kernels = 9 * (2 * 3 + 3 * 5 + 5 * 3 + 3 * 2) + (3 + 5 + 3 + 2);
    expect(size(params)).toBe(kernels + (30 * 4 + 4) + (4 * 30 + 30));
  });

  test("images that cannot be halved so often are refused", () => {
    expect(() => nn.convAutoencoder({ image: [1, 6, 8], widths: [2, 2] })).toThrow(ShapeError);
    expect(() => nn.convAutoencoder({ image: [1, 8, 8], widths: [] })).toThrow(ShapeError);
  });
});

describe("charTransformer", () => {
  const options = { vocabulary: 7, context: 6, width: 8, heads: 2, layers: 2 };
  const model = nn.charTransformer(options);

  test("has the parameters of its layers", () => {
    const [v, c, w] = [7, 6, 8];
    const block = 4 * (w * w + w) + (w * 4 * w + 4 * w) + (4 * w * w + w) + 4 * w;
    expect(size(model.init(key(0)))).toBe(v * w + c * w + 2 * block + 2 * w + (w * v + v));
    expect(() => nn.charTransformer({ ...options, layers: 0 })).toThrow(ShapeError);
    expect(() => nn.charTransformer({ ...options, heads: 3 })).toThrow(ShapeError);
  });

  test("a character changes no logits before it, and some after it", () => {
    const params = model.init(key(1));
    const text = [3, 1, 4, 1, 5, 2];
    const logits = (characters: number[]): number[][] =>
      (model.apply(params, int([characters])).toArray() as number[][][])[0]!;
    const whole = logits(text);
    const changed = logits(text.map((c, i) => (i === 3 ? 6 : c)));
    expect(changed.slice(0, 3)).toEqual(whole.slice(0, 3));
    for (const i of [3, 4, 5]) expect(changed[i]).not.toEqual(whole[i]);
    // A shorter text has the logits of the longer one's beginning, to the rounding of products of other sizes.
    logits(text.slice(0, 4)).forEach((row, i) => {
      row.forEach((logit, c) => {
        expect(Math.abs(logit - whole[i]![c]!)).toBeLessThan(1e-6);
      });
    });
  });

  test("it starts nearly undecided: the loss is that of guessing", () => {
    const params = model.init(key(2));
    const text = int([
      [0, 1, 2, 3, 4, 5],
      [6, 5, 4, 3, 2, 1],
    ]);
    expect(Math.abs(nn.categorical.loss(model.apply(params, text), text).item() - Math.log(7))).toBeLessThan(
      0.05,
    );
  });
});

describe("every new model", () => {
  const text = int([
    [0, 2, 1],
    [2, 2, 0],
  ]);
  const image = draw(1, [4, 1, 4, 4]);
  const cases: readonly [name: string, model: nn.Model, x: Value, loss: (outputs: Value) => Value][] = [
    [
      "resnet20",
      nn.resnet20({ image: [1, 4, 4], classes: 3, width: 1 }),
      image,
      (y) => nn.categorical.loss(y, int([0, 2, 1, 1])),
    ],
    [
      "convAutoencoder",
      nn.convAutoencoder({ image: [1, 4, 4], widths: [2], latent: 2 }),
      image,
      (y) => nn.gaussian.loss(y, image),
    ],
    [
      "charTransformer",
      nn.charTransformer({ vocabulary: 3, context: 3, width: 4, heads: 2, layers: 1 }),
      text,
      (y) => nn.categorical.loss(y, text),
    ],
  ];

  test.each(cases)(
    "%s: derivatives are right, curvature is symmetric, compiled is the same",
    (name, model, x, loss) => {
      const params = wide(model.init(key(3)));
      const f = (p: nn.Params): Value => loss(model.apply(p, x));
      // A network with relu is checked where no kink is near: a small step.
      if (name !== "resnet20") checkGrads(f, [params], { order: 1 });
      else checkGrads(f, [params], { order: 1, step: 1e-7, tolerance: 1e-4 });
      const [u, v] = [11, 12].map((seed) => map((w) => draw(seed, [...w.shape]), params));
      const product = hvp(f)(params, v!);
      const inner = (a: unknown, b: unknown): number =>
        leaves(a).reduce((sum, w, i) => sum + ops.sum(ops.mul(w, leaves(b)[i]!)).item(), 0);
      const there = inner(u, product);
      const back = inner(hvp(f)(params, u!), v);
      expect(Math.abs(there - back)).toBeLessThan(1e-9 * (1 + Math.abs(there)));
      // Along v, the derivative of the slope: a difference of gradients.
      const h = 1e-6;
      const moved = (by: number): nn.Params =>
        map((w, d) => ops.add(w, ops.mul(by, d!)), params, v!) as nn.Params;
      const difference = (inner(u, grad(f)(moved(h))) - inner(u, grad(f)(moved(-h)))) / (2 * h);
      expect(Math.abs(difference - there)).toBeLessThan(1e-4 * (1 + Math.abs(there)));
      const compiled = jit((p: nn.Params, d: nn.Params) => hvp(f)(p, d))(params, v as nn.Params);
      leaves(compiled).forEach((w, i) => {
        expectClose(w, numbers(leaves(product)[i]!), 1e-8);
      });
    },
  );
});
