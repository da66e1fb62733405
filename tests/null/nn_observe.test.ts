/** What layers with weights tell an observer, and what they make of its answer. */
import { describe, expect, test } from "bun:test";
import { jit } from "../../autodiff/jit.ts";
import { grad } from "../../autodiff/vjp.ts";
import { ones, tensor } from "../../core/create.ts";
import * as nn from "../../core/nn.ts";
import { observer } from "../../core/observe.ts";
import * as ops from "../../core/ops.ts";
import { key, normal } from "../../core/random.ts";
import { leaves } from "../../core/tree.ts";
import type { Value } from "../../core/value.ts";

/** Runs a function and collects what is told. */
function told(f: () => unknown): nn.AffineCall[] {
  const calls: nn.AffineCall[] = [];
  const watch: nn.Observer = {
    affine(call, output) {
      calls.push(call);
      return output;
    },
  };
  nn.observing(watch, f);
  return calls;
}

describe("observing", () => {
  test("dense and conv tell what they were called with, in the order in which they run", () => {
    const model = nn.cnn({ image: [1, 8, 8], classes: 3, widths: [2] });
    const params = model.init(key(0));
    const x = normal(key(1), [4, 1, 8, 8]);
    const calls = told(() => model.apply(params, x));
    expect(calls.map(({ kind }) => kind)).toEqual(["conv", "dense"]);
    expect(calls[0]!.input).toBe(x);
    expect(calls[0]!.options).toEqual({ padding: "same" });
    expect(calls[1]!.input.shape).toEqual([4, 32]);
    const known = leaves(params);
    for (const { w, b } of calls) expect([known.includes(w), known.includes(b!)]).toEqual([true, true]);
  });

  test("a call says all there is to know: its output follows from it", () => {
    const layer = nn.conv(4, 6, { strides: 2, groups: 2, bias: false, window: [3, 2], padding: "valid" });
    const params = layer.init(key(0));
    const x = normal(key(1), [2, 4, 7, 7]);
    const [call] = told(() => layer.apply(params, x));
    expect(call!.b).toBeNull();
    const again = ops.conv(call!.input, call!.w, call!.options);
    expect(again.toArray()).toEqual(layer.apply(params, x).toArray());
  });

  test("within grad and jit the weights are leaves of the parameters there", () => {
    const model = nn.mlp([2, 3, 1]);
    let found: boolean[] = [];
    const loss = (params: nn.Params): Value => {
      const known = leaves(params);
      const calls = told(() => model.apply(params as ReturnType<typeof model.init>, ones([4, 2])));
      found = calls.map(({ w, b }) => known.includes(w) && known.includes(b!));
      return ops.sum(known[0]!);
    };
    grad(loss)(model.init(key(0)));
    expect(found).toEqual([true, true]);
    found = [];
    jit(loss)(model.init(key(0)));
    expect(found).toEqual([true, true]);
  });

  test("the answer takes the place of the output", () => {
    const layer = nn.dense(2, 2);
    const doubled: nn.Observer = { affine: (_call, output) => ops.mul(output, 2) };
    const params = {
      w: tensor([
        [1, 0],
        [0, 1],
      ]),
      b: tensor([1, 1]),
    };
    const x = tensor([[3, 4]]);
    expect(nn.observing(doubled, () => layer.apply(params, x)).toArray()).toEqual([[8, 10]]);
    expect(layer.apply(params, x).toArray()).toEqual([[4, 5]]);
  });

  test("the innermost observer is told; after it, even after an error, the outer one again", () => {
    const layer = nn.dense(1, 1);
    const apply = (): Value => layer.apply({ w: ones([1, 1]) }, ones([1, 1]));
    const before = observer();
    const calls = told(() => {
      nn.observing({}, apply);
      expect(() =>
        nn.observing({}, () => {
          throw new Error("stop");
        }),
      ).toThrow("stop");
      apply();
    });
    expect(calls.length).toBe(1);
    expect(observer()).toBe(before);
  });
});
