/** Transformations of transformations: which leaves, how many gradients, and averages of parameters. */
import { expect, test } from "bun:test";
import { hessianOperator } from "../../autodiff/operator.ts";
import { gradientOf } from "../../autodiff/vjp.ts";
import { TreeError } from "../../core/errors.ts";
import { matmul, mean, mul, sub, sum } from "../../core/ops.ts";
import { leaves, map } from "../../core/tree.ts";
import type { Value } from "../../core/value.ts";
import { accumulate } from "../../optim/accumulate.ts";
import { adam, addDecayedWeights } from "../../optim/adam.ts";
import { averaged, ema } from "../../optim/ema.ts";
import { fosi } from "../../optim/fosi.ts";
import { freeze } from "../../optim/freeze.ts";
import { lookahead } from "../../optim/lookahead.ts";
import { chosenLeaves, type Mask, masked, multiTransform } from "../../optim/masked.ts";
import { momentum, sgd } from "../../optim/momentum.ts";
import { penalized } from "../../optim/penalized.ts";
import { applyUpdates, chain, type GradientTransformation } from "../../optim/transformation.ts";
import { f64, list, maxDifference, mulberry32, normals, sameTreeBits } from "./numbers.ts";

const numbers = normals(mulberry32(1), 20);
const params = {
  head: { b: f64(numbers.slice(0, 2)), w: f64(numbers.slice(2, 6), [2, 2]) },
  layers: [{ w: f64(numbers.slice(6, 10), [2, 2]) }, { w: f64(numbers.slice(10, 14), [2, 2]) }],
};
type Params = typeof params;
const gradient: Params = map((x) => x.mul(x).add(0.1), params);

test.each<[string, Mask | ((path: string, leaf: Value) => boolean), readonly boolean[]]>([
  ["one truth value for all", true, [true, true, true, true]],
  ["a value for each part", { head: false, layers: true }, [false, false, true, true]],
  [
    "a value for each leaf",
    { head: { b: true, w: false }, layers: [{ w: false }, { w: true }] },
    [true, false, false, true],
  ],
  ["both in one", { head: { b: true, w: false }, layers: [true, false] }, [true, false, true, false]],
  ["a function of paths", (path) => path.startsWith("layers"), [false, false, true, true]],
  ["a function of leaves", (_path, leaf) => leaf.ndim === 1, [true, false, false, false]],
])("a mask may be %s", (_name, mask, expected) => {
  expect(chosenLeaves(params, mask)).toEqual(expected);
});

test.each<[Mask, RegExp]>([
  [{ head: true }, /^Cannot mask the root: the mask is \{"head":true\} for \{head: .*\}, a truth value or/],
  [{ head: true, layers: [true] }, /^Cannot mask layers: the mask is \[true\] for \[/],
  [{ head: { b: [], w: true }, layers: true }, /^Cannot mask head\.b: the mask is \[\] for \*/],
  [{ head: [true], layers: true }, /^Cannot mask head: /],
])("the mask %j is refused, with the path", (mask, message) => {
  const decay = masked(addDecayedWeights(1), mask);
  expect(() => decay.init(params)).toThrow(TreeError);
  expect(() => decay.init(params)).toThrow(message);
});

test("a masked method does to the chosen leaves what it does to them alone, and nothing to the others", () => {
  const method = masked(adam(0.1), { head: false, layers: true });
  const alone = adam(0.1);
  let [state, own] = [method.init(params), alone.init(params.layers)];
  for (let step = 0; step < 3; step++) {
    const [updates, next] = method.update(gradient, state, params, {});
    const [expected, ownNext] = alone.update(gradient.layers, own, params.layers, {});
    expect(sameTreeBits(updates.layers, expected)).toBe(true);
    expect(sameTreeBits(updates.head, gradient.head)).toBe(true);
    [state, own] = [next, ownNext];
  }
  // Two moments of two matrices, and two counters: nothing is kept for the other leaves.
  expect(leaves(state).map((x) => x.size)).toEqual([1, 4, 4, 4, 4, 1]);
});

test("a part sees its leaves at their own paths", () => {
  const seen: string[] = [];
  const inner = masked(addDecayedWeights(1), (path) => {
    seen.push(path);
    return path === "layers[1].w";
  });
  const method = masked(inner, { head: false, layers: true });
  const [updates] = method.update(gradient, method.init(params), params, {});
  expect(new Set(seen)).toEqual(new Set(["layers[0].w", "layers[1].w"]));
  expect(sameTreeBits(updates.layers[0], gradient.layers[0])).toBe(true);
  expect(list(updates.layers[1]!.w)).toEqual(list(gradient.layers[1]!.w.add(params.layers[1]!.w)));
});

test("every leaf goes to the method of its label, whose state is of its leaves alone", () => {
  const method = multiTransform({ fast: momentum(0.1), slow: adam(0.01), still: freeze() }, (path, leaf) =>
    path === "head.b" ? "still" : leaf.ndim > 1 && path.startsWith("layers") ? "fast" : "slow",
  );
  const state = method.init(params);
  const [updates, next] = method.update(gradient, state, params, {});
  const [fast] = momentum(0.1).update(gradient.layers, momentum(0.1).init(params.layers), params.layers, {});
  const [slow] = adam(0.01).update(gradient.head.w, adam(0.01).init(params.head.w), params.head.w, {});
  expect(sameTreeBits(updates.layers, fast)).toBe(true);
  expect(sameTreeBits(updates.head.w, slow)).toBe(true);
  expect(list(updates.head.b)).toEqual([0, 0]);
  expect(next.fast[1].count.item()).toBe(1);
  expect(leaves(next.still)).toEqual([]);
  expect(leaves(next.slow).map((x) => x.size)).toEqual([1, 4, 4, 1]);
});

test("a label without a method is refused, with the path; so are updates of another structure", () => {
  const method = multiTransform({ a: sgd(1) }, (path) => (path === "head.w" ? "b" : "a") as "a");
  expect(() => method.init(params)).toThrow(
    /^Cannot transform head\.w: its label is "b", one of a is needed/,
  );
  const wrong = { head: gradient.head, layers: [gradient.layers[0]!] };
  expect(() =>
    masked(sgd(1), true).update(wrong, masked(sgd(1), true).init(params), params as never, {}),
  ).toThrow(/^Cannot choose leaves of updates: at layers the lengths are 2 and 1/);
});

test("a type that forgets what a method of a label needs does not compile", () => {
  const compiles = (x: Value): void => {
    const method = multiTransform({ a: sgd(1), b: fosi(sgd(1)) }, () => "a");
    method.update(x, method.init(x), x, { hessian: () => hessianOperator((y: Value) => sum(y), x) });
    // @ts-expect-error the method of b needs the Hessian
    method.update(x, method.init(x), x, {});
    // @ts-expect-error no method has this label
    multiTransform({ a: sgd(1) }, () => "c");
  };
  expect(compiles).toBeFunction();
});

test("gradients of four quarters of a batch train like the gradient of the whole", () => {
  const uniform = mulberry32(7);
  const features = f64(normals(uniform, 48), [16, 3]);
  const targets = f64(normals(uniform, 16));
  const loss = (w: Value, from: number, to: number): Value => {
    const residual = sub(matmul(features.slice([from, 0], [to, 3]), w), targets.slice([from], [to]));
    return mean(mul(residual, residual));
  };
  const [method, whole] = [accumulate(adam(0.1), 4), adam(0.1)];
  let [x, y] = [f64([1, 2, 3]) as Value, f64([1, 2, 3]) as Value];
  let [state, own] = [method.init(x), whole.init(y)];
  for (let step = 0; step < 6; step++) {
    for (let part = 0; part < 4; part++) {
      const slope = gradientOf((w: Value) => loss(w, 4 * part, 4 * part + 4))(x);
      const [updates, next] = method.update(slope, state, x, {});
      if (part < 3) expect(list(updates)).toEqual([0, 0, 0]);
      expect(next.gathered.item()).toBe((part + 1) % 4);
      [x, state] = [applyUpdates(x, updates), next];
    }
    const [updates, next] = whole.update(gradientOf((w: Value) => loss(w, 0, 16))(y), own, y, {});
    [y, own] = [applyUpdates(y, updates), next];
    expect(maxDifference(list(x), list(y))).toBeLessThan(1e-13);
    expect(state.inner[1].count.item()).toBe(step + 1);
  }
  expect(() => accumulate(sgd(1), 0)).toThrow(/^Cannot make an accumulation of gradients: steps is 0/);
});

test("one gradient that is not finite spoils the update it belongs to, and no other", () => {
  const method = accumulate(sgd(1), 2);
  let state = method.init(f64([0]));
  const made = [1, Number.NaN, 1, 3].map((g) => {
    const [updates, next] = method.update(f64([g]), state, f64([0]), {});
    state = next;
    return list(updates)[0];
  });
  expect(made).toEqual([0, Number.NaN, 0, -2]);
});

/** The points after each of ten steps, and the state. */
function walk<S>(method: GradientTransformation<S>, start: Value): readonly [Value[], S] {
  let [x, state] = [start, method.init(start)];
  const points: Value[] = [];
  for (let step = 0; step < 10; step++) {
    const [updates, next] = method.update(mul(x, mul(x, x)), state, x, {});
    [x, state] = [applyUpdates(x, updates), next];
    points.push(x);
  }
  return [points, state];
}

test.each([0, 0.5, 0.99, 0.9999])("the average with decay %f is the weighted mean of the points", (decay) => {
  const start = f64([1, -0.5]);
  const [points, [, corrected]] = walk(chain(sgd(0.1), ema(decay)), start);
  const weights = points.map((_, i) => decay ** (points.length - 1 - i));
  const total = weights.reduce((a, b) => a + b, 0);
  const meanOf = (xs: readonly Value[], ws: readonly number[]): number[] =>
    [0, 1].map((j) => xs.reduce((t, x, i) => t + ws[i]! * list(x)[j]!, 0));
  expect(
    maxDifference(
      list(averaged<Value>(corrected)),
      meanOf(
        points,
        weights.map((w) => w / total),
      ),
    ),
  ).toBeLessThan(1e-12);
  // Without correction, the start keeps what the others have not.
  const [again, [, plain]] = walk(chain(sgd(0.1), ema(decay, { biasCorrection: false })), start);
  const all = [start, ...again];
  const plainWeights = [decay ** again.length, ...weights.map((w) => (1 - decay) * w)];
  expect(maxDifference(list(averaged<Value>(plain)), meanOf(all, plainWeights))).toBeLessThan(1e-14);
  expect(sameTreeBits(points, walk(sgd(0.1), start)[0])).toBe(true);
  expect(() => ema(1)).toThrow(/^Cannot make an average: decay is 1/);
});

test("lookahead with alpha 1 is its base, with alpha 0 it returns to the start", () => {
  const start = f64([1, -0.5]);
  const [plain] = walk(momentum(0.05), start);
  const [full] = walk(lookahead(momentum(0.05), { k: 4, alpha: 1 }), start);
  full.forEach((x, i) => {
    expect(maxDifference(list(x), list(plain[i]!))).toBeLessThan(1e-15);
  });
  const [none, state] = walk(lookahead(momentum(0.05), { k: 5, alpha: 0 }), start);
  expect(maxDifference(list(none[4]!), list(start))).toBeLessThan(1e-15);
  expect(maxDifference(list(none[9]!), list(start))).toBeLessThan(1e-15);
  expect(list(state.slow as Value)).toEqual(list(start));
  expect(state.taken.item()).toBe(0);
  expect(() => lookahead(sgd(1), { k: 0, alpha: 2 })).toThrow(/k is 0, .*; alpha is 2, a number in \[0, 1\]/);
});

test("a penalty is in the loss, its gradient and its Hessian alike", () => {
  const loss = (p: Params, c: Value): Value =>
    leaves(p)
      .map((x) => sum(mul(c, mul(x, mul(x, x)))))
      .reduce((a, b) => a.add(b));
  const c = f64([0.7], []);
  const flat = leaves(params).flatMap(list);
  const whole = penalized(loss, 0.3);
  const squares = flat.reduce((total, x) => total + x * x, 0);
  expect(whole(params, c).item()).toBeCloseTo(loss(params, c).item() + 0.15 * squares, 13);
  const slope = leaves(gradientOf(whole)(params, c)).flatMap(list);
  expect(
    maxDifference(
      slope,
      flat.map((x) => 2.1 * x * x + 0.3 * x),
    ),
  ).toBeLessThan(1e-14);
  const v = normals(mulberry32(9), flat.length);
  const product = list(hessianOperator(whole, params, c).apply(f64(v)));
  expect(
    maxDifference(
      product,
      flat.map((x, i) => (4.2 * x + 0.3) * v[i]!),
    ),
  ).toBeLessThan(1e-13);
  // Of the matrices alone.
  const matrices = penalized(loss, 0.3, (_path, leaf) => leaf.ndim > 1);
  const difference = whole(params, c).sub(matrices(params, c)).item();
  expect(difference).toBeCloseTo(0.15 * list(params.head.b).reduce((t, x) => t + x * x, 0), 13);
  expect(() => penalized(loss, -1)).toThrow(/^Cannot make a penalized loss: decay is -1/);
});

test("FOSI on a penalized loss makes one Newton step to its minimizer, not to that of the loss", () => {
  // ½ Σ h (x - 1)² + ½ 0.5 x²: the minimizer is h / (h + 0.5).
  const h = f64([2, 5, 9]);
  const loss = penalized((x: Value) => sum(mul(mul(0.5, h), mul(sub(x, 1), sub(x, 1)))), 0.5);
  const optimizer = fosi(sgd(0.1), { k: 3, alpha: 1, momentum: "none", clip: 1, warmup: 1 });
  const x = f64([3, -1, 2]);
  const extra = { hessian: () => hessianOperator(loss, x) };
  const [updates] = optimizer.update(gradientOf(loss)(x), optimizer.init(x), x, extra);
  expect(
    maxDifference(
      list(applyUpdates(x, updates)),
      [2, 5, 9].map((value) => value / (value + 0.5)),
    ),
  ).toBeLessThan(1e-10);
});
