/** First-order methods against PyTorch and against plain loops, and what each promises beyond the common contract. */
import { expect, test } from "bun:test";
import { zerosLike } from "../../core/create.ts";
import { map } from "../../core/tree.ts";
import type { Value } from "../../core/value.ts";
import { adagrad } from "../../optim/adagrad.ts";
import { adam, adamw } from "../../optim/adam.ts";
import { lamb, scaleByTrustRatio } from "../../optim/lamb.ts";
import { lion } from "../../optim/lion.ts";
import { muon, orthogonalize } from "../../optim/muon.ts";
import { rmsprop } from "../../optim/rmsprop.ts";
import { applyUpdates, type GradientTransformation } from "../../optim/transformation.ts";
import {
  dot,
  f64,
  length,
  list,
  type Matrix,
  maxDifference,
  mulberry32,
  normals,
  randomRotation,
  rowsOf,
  type Vector,
} from "./numbers.ts";

const start: Vector = [0.5, -1.25, 2];
const gradients: Matrix = [
  [1, -2, 0.5],
  [0.25, 1.5, 0.5],
  [-3, 0.75, 0.5],
  [0, -0.5, 0.5],
  [2, 1, 0.5],
];

/** Parameters after five float64 steps of torch.optim 1.13 from `start` with `gradients`. */
const published: readonly (readonly [string, GradientTransformation<unknown>, Vector])[] = [
  ["Adagrad()", adagrad(), [0.49169863529225194, -1.2505138407442955, 1.9676832935458053]],
  [
    "Adagrad(lr=0.1, initial_accumulator_value=0.5)",
    adagrad(0.1, { initial: 0.5 }),
    [0.43824829165528606, -1.2571816206995596, 1.7689223372055896],
  ],
  ["RMSprop()", rmsprop(), [0.41654517361174115, -1.2558515202805034, 1.6755394864015118]],
  [
    "RMSprop(lr=0.02, alpha=0.9, momentum=0.9)",
    rmsprop(0.02, { decay: 0.9, momentum: 0.9 }),
    [0.3127495297633599, -1.1794484085537433, 1.3830433882795183],
  ],
  [
    "RMSprop(lr=0.02, alpha=0.9, centered=True)",
    rmsprop(0.02, { decay: 0.9, isCentered: true }),
    [0.4410509314791635, -1.2549170326853258, 1.7545791202870191],
  ],
  [
    "RMSprop(lr=0.02, alpha=0.9, momentum=0.5, centered=True)",
    rmsprop(0.02, { decay: 0.9, momentum: 0.5, isCentered: true }),
    [0.409584764323371, -1.2347845824393493, 1.5926706494361553],
  ],
  ["Adam()", adam(), [0.4988298919262414, -1.2491939788075326, 1.9950000001000001]],
  ["AdamW()", adamw(), [0.49880494618642074, -1.2491315205341729, 1.9949001020989785]],
  [
    "AdamW(lr=0.1, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.3)",
    adamw(0.1, { beta1: 0.8, beta2: 0.95, epsilon: 1e-6, weightDecay: 0.3 }),
    [0.33623250336525257, -1.0250169552860715, 1.2465824121712783],
  ],
].map(([name, method, expected]) => [name, method, expected] as never);

test.each(published)("%s ends where PyTorch ends", (_name, method, expected) => {
  let [x, state] = [f64(start) as Value, method.init(f64(start))];
  for (const gradient of gradients) {
    const [updates, next] = method.update(f64(gradient), state, x, {});
    [x, state] = [applyUpdates(x, updates), next];
  }
  expect(maxDifference(list(x), expected)).toBeLessThan(1e-14);
});

test("centered RMSprop of equal gradients stays finite: a variance below zero by rounding counts as zero", () => {
  const method = rmsprop(0.01, { decay: 0.5, isCentered: true, epsilon: 1e-3 });
  const g = f64(normals(mulberry32(8), 64).map((x) => Math.exp(3 * x)));
  let state = method.init(g);
  let updates: Value = g;
  for (let step = 0; step < 250; step++) [updates, state] = method.update(g, state, g, {});
  expect(list(updates).every(Number.isFinite)).toBe(true);
});

test("Lion moves every element by the learning rate, and not at all without a gradient", () => {
  const g = f64(normals(mulberry32(1), 50).map((x, i) => (i % 7 === 0 ? 0 : x * 10 ** ((i % 9) - 4))));
  const [updates] = lion(0.03).update(g, lion(0.03).init(g), g, {});
  const expected = list(g).map((x) => -0.03 * Math.sign(x));
  expect(maxDifference(list(updates), expected)).toBe(0);
});

test("LAMB does not know the scale of a loss, and moves with that of the weights", () => {
  const uniform = mulberry32(2);
  const tree = () => ({ w: f64(normals(uniform, 6), [2, 3]), b: f64(normals(uniform, 3)) });
  const [params, gradient] = [tree(), tree()];
  const method = lamb(0.1, { epsilon: 0 });
  const stepFor = (g: typeof params, p: typeof params): typeof params =>
    method.update(g, method.init(p), p, {})[0];
  const plain = stepFor(gradient, params);
  const times = (c: number, t: typeof params): typeof params => map((x) => x.mul(c), t);
  for (const key of ["w", "b"] as const) {
    expect(maxDifference(list(stepFor(times(1e6, gradient), params)[key]), list(plain[key]))).toBeLessThan(
      1e-14,
    );
    expect(
      maxDifference(list(stepFor(gradient, times(0.5, params))[key]), list(plain[key].mul(0.5))),
    ).toBeLessThan(1e-14);
    expect(length(list(plain[key]))).toBeCloseTo(0.1 * length(list(params[key])), 14);
  }
});

test("a trust ratio keeps its limits, and is 1 where there is no length", () => {
  const ratio = scaleByTrustRatio({ least: 0.5, most: 2 });
  const params = { big: f64([30, 40]), none: f64([0, 0]), small: f64([0.03, 0.04]), still: f64([3, 4]) };
  const u = { big: f64([0, 8]), none: f64([0, 8]), small: f64([0, 8]), still: f64([0, 0]) };
  const [updates] = ratio.update(u, [], params, {});
  expect(Object.values(updates).map((x) => list(x)[1]!)).toEqual([2, 8, 0.5, 0]);
  expect(() => scaleByTrustRatio({ least: 2, most: 1 })).toThrow(/^Cannot make a trust ratio: /);
});

/** U diag(values) Vᵀ of random rotations, and U Vᵀ. */
function withSingularValues(values: Vector, m: number, n: number): readonly [Matrix, Matrix] {
  const [u, v] = [randomRotation(mulberry32(3), m), randomRotation(mulberry32(4), n)];
  const product = (s: Vector): Matrix =>
    Array.from({ length: m }, (_, i) =>
      Array.from({ length: n }, (_, j) => s.reduce((t, x, r) => t + x * u[r]![i]! * v[r]![j]!, 0)),
    );
  return [product(values), product(values.map(() => 1))];
}

test("orthogonalizing keeps singular vectors and brings every singular value near 1", () => {
  const values = [100, 30, 5, 1.5];
  for (const [m, n] of [
    [4, 4],
    [4, 9],
    [9, 4],
  ] as const) {
    const [a] = withSingularValues(values, m, n);
    const x = rowsOf(orthogonalize(f64(a.flat(), [m, n])));
    const [u, v] = [randomRotation(mulberry32(3), m), randomRotation(mulberry32(4), n)];
    // Uᵀ X V is diagonal, with what five steps of the scalar iteration make of each value.
    values.forEach((value, r) => {
      let s = value / length(values);
      for (let step = 0; step < 5; step++) s = 3.4445 * s - 4.775 * s ** 3 + 2.0315 * s ** 5;
      expect(s > 0.68 && s < 1.14).toBe(true);
      v.forEach((direction, c) => {
        const entry = dot(
          u[r]!,
          x.map((row) => dot(row, direction)),
        );
        expect(Math.abs(entry - (r === c ? s : 0))).toBeLessThan(1e-6);
      });
    });
  }
});

test("the claimed interval holds for every singular value from a hundredth of the norm", () => {
  for (let i = 0; i <= 2000; i++) {
    let s = 0.01 + (0.99 * i) / 2000;
    for (let step = 0; step < 5; step++) s = 3.4445 * s - 4.775 * s ** 3 + 2.0315 * s ** 5;
    expect(s > 0.68 && s < 1.14).toBe(true);
  }
});

test("Muon treats a dense weight [in, out] and the kernel [out, in, 1, 1] with the same numbers alike", () => {
  const numbers = normals(mulberry32(5), 15);
  const dense = f64(numbers, [3, 5]); // three inputs, five outputs
  const kernel = dense.transpose().reshape([5, 3, 1, 1]);
  const method = muon(0.1);
  const params = { dense, kernel };
  const [updates] = method.update(params, method.init(params), params, {});
  const fromKernel = updates.kernel.reshape([5, 3]).transpose();
  expect(maxDifference(list(fromKernel), list(updates.dense))).toBeLessThan(1e-14);
  const scale = 0.1 * Math.sqrt(5 / 3);
  expect(maxDifference(list(updates.dense), list(orthogonalize(dense).mul(-scale)))).toBeLessThan(1e-7);
  // A window counts as inputs: 2 outputs, 12 inputs, no scale.
  const wide = f64(normals(mulberry32(6), 24), [2, 3, 2, 2]);
  const [step] = method.update(wide, method.init(wide), wide, {});
  const expected = orthogonalize(wide.reshape([2, 12]))
    .mul(-0.1)
    .reshape([2, 3, 2, 2]);
  expect(maxDifference(list(step), list(expected))).toBeLessThan(1e-7);
});

test("Muon leaves to Adam what the caller excludes, and refuses a vector that is called hidden", () => {
  const params = { embedding: f64([1, 2, 3, 4], [2, 2]), w: f64([1, 2, 3, 4], [2, 2]), b: f64([1, 2]) };
  const auxiliary = { learningRate: 0.01, beta1: 0.8, weightDecay: 0.1 };
  const method = muon(0.5, {
    isHidden: (path, leaf) => leaf.ndim > 1 && path !== "embedding",
    auxiliary,
  });
  const [updates, state] = method.update(params, method.init(params), params, {});
  const reference = adamw(0.01, { beta1: 0.8, beta2: 0.95, epsilon: 1e-10, weightDecay: 0.1 });
  const others = { embedding: params.embedding, b: params.b };
  const [expected] = reference.update(others, reference.init(others), others, {});
  expect(list(updates.embedding)).toEqual(list(expected.embedding));
  expect(list(updates.b)).toEqual(list(expected.b));
  expect(list(updates.w)).not.toEqual(list(updates.embedding));
  expect(state.hidden[2].count.item()).toBe(1);
  expect(() => muon(0.1, { isHidden: () => true }).init({ layers: [{ b: f64([1, 2, 3]) }] })).toThrow(
    /^Cannot make Muon state: layers\[0\]\.b is f64\[3\] and called hidden, two or more axes are needed/,
  );
});

test("a step of Muon on a zero gradient is zero", () => {
  const w = f64([1, 2, 3, 4], [2, 2]);
  const [updates] = muon().update(zerosLike(w), muon().init(w), w, {});
  expect(list(updates).every((x) => x === 0)).toBe(true);
});

test("options out of range are refused, all of them at once", () => {
  const wrong: readonly (readonly [() => unknown, RegExp])[] = [
    [() => adagrad(0.1, { epsilon: -1 }), /^Cannot make Adagrad: epsilon is -1, a number of at least 0/],
    [() => adagrad(0.1, { initial: Number.NaN }), /^Cannot make Adagrad: initial is NaN/],
    [() => rmsprop(0.1, { decay: 1 }), /^Cannot make RMSprop: decay is 1, a number in \[0, 1\) is needed$/],
    [() => rmsprop(0.1, { decay: -1, momentum: 2 }), /decay is -1, .*; momentum is 2, /],
    [() => lion(0.1, { beta1: 1.5 }), /^Cannot make Lion: beta1 is 1\.5/],
    [() => lion(0.1, { weightDecay: -0.1 }), /^Cannot make Lion: weightDecay is -0\.1/],
    [() => lamb(0.1, { beta2: 1 }), /^Cannot make LAMB: beta2 is 1/],
    [() => lamb(0.1, { least: 11 }), /^Cannot make a trust ratio: the limits are 11 and 10/],
    [() => muon(0.1, { steps: 0 }), /^Cannot make Muon: steps is 0, an integer of at least 1 is needed$/],
    [() => muon(0.1, { momentum: 1 }), /^Cannot make Muon: momentum is 1/],
  ];
  for (const [make, message] of wrong) {
    expect(make).toThrow(RangeError);
    expect(make).toThrow(message);
  }
});
