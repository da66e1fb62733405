import { expect, test } from "bun:test";
import fc from "fast-check";
import { hessianOperator } from "../../autodiff/operator.ts";
import { grad } from "../../autodiff/vjp.ts";
import { full, tensor } from "../../core/create.ts";
import { DTypeError } from "../../core/errors.ts";
import { mul, sum } from "../../core/ops.ts";
import * as random from "../../core/random.ts";
import type { Value } from "../../core/value.ts";
import { adam } from "../../optim/adam.ts";
import { type FosiMomentum, type FosiOptions, fosi, installCurvature } from "../../optim/fosi.ts";
import { momentum, nesterov, sgd } from "../../optim/momentum.ts";
import { applyUpdates, type GradientTransformation } from "../../optim/transformation.ts";
import { prop } from "../support/prop.ts";
import {
  dot,
  f64,
  length,
  linspace,
  list,
  maxDifference,
  mulberry32,
  normals,
  orthonormalityError,
  projector,
  randomRotation,
  rowsOf,
  sameTreeBits,
  type Vector,
  withEigenvalues,
} from "./numbers.ts";
import {
  denseQuadratic,
  diagonalOperator,
  diagonalQuadratic,
  goldenData,
  logisticLoss,
  lossesOf,
  objective,
  withExactCurvature,
} from "./problems.ts";

const bases: readonly (readonly [string, GradientTransformation<unknown>])[] = [
  ["sgd", forget(sgd(0.05))],
  ["momentum", forget(momentum(0.05))],
  ["nesterov", forget(nesterov(0.05))],
  ["adam", forget(adam(0.05))],
];

function forget<S>(base: GradientTransformation<S>): GradientTransformation<unknown> {
  return { ...base, update: (u, s, p, extra) => base.update(u, s as S, p, extra) };
}

test.each(bases)("before the first refresh FOSI over %s is its base, bit for bit", (_name, base) => {
  const f = objective(logisticLoss(goldenData()));
  const optimizer = fosi(base, { k: 3, warmup: 12, period: 4 });
  let [x, y] = [f64(normals(mulberry32(1), 20)) as Value, f64(normals(mulberry32(1), 20)) as Value];
  let [state, own] = [optimizer.init(x), base.init(y)];
  for (let step = 1; step <= 12; step++) {
    const [at, before] = [x, state];
    const [updates, next] = optimizer.update(f.gradient(x), state, x, { hessian: () => f.hessian(at) });
    const [expected, ownNext] = base.update(f.gradient(y), own, y, {});
    // The twelfth update is the first with curvature.
    expect(sameTreeBits(updates, expected)).toBe(step < 12);
    if (step < 12) expect(sameTreeBits(next.base, ownNext)).toBe(true);
    if (step === 12) expect(optimizer.curvatureDue(before)).toBe(true);
    [x, state] = [applyUpdates(x, updates), next];
    [y, own] = [applyUpdates(y, expected), ownNext];
  }
});

/** The update of the paper in plain loops, over gradient descent. */
function plainFosi(
  V: readonly Vector[],
  rates: Vector,
  settings: { alpha: number; beta: number; eta: number; scale: number; momentum: FosiMomentum },
): (g: Vector) => number[] {
  const { alpha, beta, eta, scale, momentum: form } = settings;
  const inside = (x: Vector): number[] => x.map((_, i) => V.reduce((s, row) => s + row[i]! * dot(row, x), 0));
  let velocity: number[] = V[0]!.map(() => 0);
  return (g) => {
    const g1 = inside(g);
    velocity = g1.map((x, i) => {
      const v = velocity[i]!;
      if (form === "none") return x;
      if (form === "heavyBall") return x + beta * v;
      return form === "nesterov" ? (1 + beta) * x + beta * beta * v : (1 - beta) * x + beta * v;
    });
    const d1 = g.map((_, i) => V.reduce((s, row, j) => s + row[i]! * rates[j]! * dot(row, velocity), 0));
    const raw = g.map((x, i) => -eta * (x - g1[i]!));
    const back = inside(raw);
    return raw.map((x, i) => scale * (x - back[i]!) - alpha * d1[i]!);
  };
}

test.each(["none", "heavyBall", "nesterov", "average"] as const)(
  "with momentum %s updates are those of plain loops",
  (form) => {
    const uniform = mulberry32(7);
    const values = [-3, 0.5, 1, 2, 7, 8];
    const q = randomRotation(uniform, 6);
    const f = denseQuadratic(withEigenvalues(values, q));
    const options: FosiOptions = {
      k: 2,
      l: 1,
      alpha: 0.3,
      beta: 0.8,
      momentum: form,
      warmup: 1,
      order: 6,
      clip: 1.1,
    };
    const optimizer = fosi(sgd(0.05), options);
    let x: Value = f64(normals(uniform, 6));
    let state = optimizer.init(x);
    const plain = plainFosi([q[0]!, q[4]!, q[5]!], [1 / 3, 1 / 7, 1 / 8], {
      alpha: 0.3,
      beta: 0.8,
      eta: 0.05,
      scale: 1.1,
      momentum: form,
    });
    for (let step = 0; step < 6; step++) {
      const g = f.gradient(x);
      const at = x;
      const [updates, next] = optimizer.update(g, state, x, { hessian: () => f.hessian(at) });
      expect(maxDifference(list(updates), plain(list(g)))).toBeLessThan(1e-11);
      [x, state] = [applyUpdates(x, updates), next];
    }
  },
);

test("the vectors are orthonormal, and the Newton part is orthogonal to the base part", () => {
  const f = objective(logisticLoss(goldenData()));
  for (const [, base] of bases) {
    const start = f64(normals(mulberry32(2), 20));
    // Two updates that differ in alpha alone: their difference is the Newton direction.
    const [one, two] = [1, 2].map((alpha) => {
      const optimizer = fosi(base, { k: 4, l: 1, order: 20, alpha, warmup: 1 });
      const [updates, state] = optimizer.update(f.gradient(start), optimizer.init(start), start, {
        hessian: () => f.hessian(start),
      });
      expect(orthonormalityError(rowsOf(state.vectors))).toBeLessThan(1e-12);
      return list(updates);
    }) as [number[], number[]];
    const newton = one.map((x, i) => x - two[i]!);
    const rest = one.map((x, i) => x + newton[i]!);
    expect(length(newton) > 1e-3 && length(rest) > 1e-3).toBe(true);
    expect(Math.abs(dot(newton, rest))).toBeLessThan(1e-12 * length(newton) * length(rest) + 1e-15);
  }
});

test("in float32 the vectors are orthonormal to 1e-5", () => {
  const uniform = mulberry32(4);
  const scale = tensor(linspace(0.5, 20, 30));
  const loss = (x: Value): Value => sum(mul(scale, mul(x, x)));
  const x = tensor(normals(uniform, 30));
  const optimizer = fosi(adam(0.01), { k: 6, order: 30, warmup: 1, clip: 1 });
  const state = optimizer.refreshCurvature(optimizer.init(x), hessianOperator(loss, x), random.key(0));
  expect(state.vectors.dtype).toBe("float32");
  expect(orthonormalityError(rowsOf(state.vectors))).toBeLessThan(1e-5);
});

prop(
  "with alpha 1 and no momentum one step on a quadratic solves the space and contracts the rest by 1 - eta lambda",
  fc.array(
    fc.integer({ min: 1, max: 4000 }).map((i) => i / 256),
    { minLength: 4, maxLength: 12 },
  ),
  fc.integer({ min: 1, max: 3 }),
  fc.nat(),
  (values, k, seed) => {
    const sorted = [...values].sort((a, b) => b - a);
    fc.pre(new Set(values).size === values.length && sorted[k - 1]! - sorted[k]! > 0.05);
    const start = normals(mulberry32(seed), values.length);
    const optimizer = withExactCurvature(fosi(sgd(0.1), { k, alpha: 1, momentum: "none", clip: 1 }), values);
    const f = diagonalQuadratic(values);
    const [updates] = optimizer.update(f.gradient(f64(start)), optimizer.init(f64(start)), f64(start), {});
    const cut = sorted[k - 1]!;
    const expected = start.map((x, i) => (values[i]! >= cut ? 0 : x * (1 - 0.1 * values[i]!)));
    expect(maxDifference(list(applyUpdates(f64(start), updates)), expected)).toBeLessThan(1e-12);
  },
);

test("rotated problems give the same losses over sgd, momentum and nesterov; over adam they do not", () => {
  const uniform = mulberry32(9);
  const values = [0.02, 0.05, 0.1, 0.2, 0.4, 0.5, 1, 2, 5, 9, 12, 20];
  const q = randomRotation(uniform, 12);
  const start = normals(uniform, 12);
  // x = Qᵀ c has the eigen-coordinates c.
  const rotated = start.map((_, i) => q.reduce((s, row, r) => s + row[i]! * start[r]!, 0));
  for (const [name, base] of bases.slice(0, 4)) {
    const optimizer = fosi(base, { k: 3, l: 1, order: 12, alpha: 0.1, warmup: 4, period: 10 });
    const plain = lossesOf(optimizer, diagonalQuadratic(values), f64(start), 40);
    const turned = lossesOf(optimizer, denseQuadratic(withEigenvalues(values, q)), f64(rotated), 40);
    const difference = maxDifference(turned, plain) / plain[0]!;
    if (name === "adam") expect(difference).toBeGreaterThan(1e-6);
    else expect(difference).toBeLessThan(1e-11);
  }
});

test.each([
  ["internal", 1, 1, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]],
  ["internal", 3, 4, [3, 7, 11]],
  ["internal", 5, 5, [5, 10]],
  ["internal", 12, 50, [12]],
  ["external", 3, 4, [7, 11]],
  ["external", 5, 5, [10]],
  ["external", 1, 5, [6, 11]],
  ["external", 12, 50, []],
] as const)(
  "%s: warmup %i and period %i refresh before the updates %j",
  (trigger, warmup, period, expected) => {
    const optimizer = fosi(sgd(0.01), { k: 1, warmup, period, trigger });
    const f = diagonalQuadratic([1, 2, 3]);
    let [x, state] = [f64([1, 1, 1]) as Value, optimizer.init(f64([1, 1, 1]))];
    const refreshed: number[] = [];
    const numbers: number[] = [];
    for (let update = 1; update <= 12; update++) {
      const at = x;
      expect(optimizer.curvatureDue(update - 1)).toBe(expected.some((due) => due === update));
      expect(optimizer.curvatureDue(state)).toBe(optimizer.curvatureDue(update - 1));
      expect(optimizer.refreshNumber(update - 1) !== null).toBe(optimizer.curvatureDue(update - 1));
      const hessian = (refresh: number) => {
        refreshed.push(update);
        numbers.push(refresh);
        return f.hessian(at);
      };
      const [updates, next] = optimizer.update(f.gradient(x), state, x, { hessian });
      [x, state] = [applyUpdates(x, updates), next];
    }
    expect(refreshed).toEqual([...expected]);
    // Each refresh is told its number: that is how it chooses a batch.
    expect(numbers).toEqual(expected.map((_, i) => i));
    expect(state.count.item()).toBe(12);
  },
);

test("the scale is |largest| / |k-th largest|, between 1 and the clip; the rates are 1 / (|value| + damping)", () => {
  const state = (values: Vector, options: FosiOptions) => {
    const optimizer = fosi(sgd(0.1), options);
    const zero = f64(values.map(() => 0));
    return optimizer.refreshCurvature(optimizer.init(zero), diagonalOperator(values), random.key(1));
  };
  expect(state([1, 2, 4, 5], { k: 3, order: 4, clip: 9 }).scale.item()).toBeCloseTo(2.5, 12);
  expect(state([1, 2, 4, 5], { k: 3, order: 4, clip: 2 }).scale.item()).toBe(2);
  expect(state([1, 2, 4, 5], { k: 3, order: 4, clip: 1 }).scale.item()).toBe(1);
  expect(state([1, 2, 4, 5], { k: 1, l: 2, order: 4, clip: 9 }).scale.item()).toBe(1);
  // Without largest pairs there is no ratio to form.
  expect(state([-4, 2, 4, 5], { k: 0, l: 2, order: 4, clip: 9 }).scale.item()).toBe(1);
  const { rates, values } = state([-3, 1, 2, 8], { k: 2, l: 1, order: 4, damping: 0.5 });
  expect(maxDifference(list(values), [-3, 2, 8])).toBeLessThan(1e-12);
  expect(maxDifference(list(rates), [1 / 3.5, 1 / 2.5, 1 / 8.5])).toBeLessThan(1e-12);
});

test("the effective condition number is that of the rest while alpha is in the window, and grows outside", () => {
  // FOSI study of effective condition numbers: eigenvalues 1..100, k = l = 10, eta = 2 / (90 + 11).
  const values = linspace(1, 100, 100);
  const eta = 2 / 101;
  const condition = (alpha: number): number => {
    const base = fosi(sgd(eta), { k: 10, l: 10, alpha, momentum: "none", clip: 1 });
    const optimizer = withExactCurvature(base, values);
    const ones = f64(values.map(() => 1));
    const [updates] = optimizer.update(f64(values), optimizer.init(ones), ones, {});
    // From x = 1 an update is minus the eigenvalue of the preconditioned Hessian.
    const effective = list(updates).map((u) => -u);
    return Math.max(...effective) / Math.min(...effective);
  };
  for (const alpha of [11 * eta, 40 * eta, 90 * eta]) expect(condition(alpha)).toBeCloseTo(90 / 11, 10);
  expect(condition((11 * eta) / 2)).toBeCloseTo(16.3636363636, 8);
  expect(condition(2 * 90 * eta)).toBeCloseTo(16.3636363636, 8);
});

test.each([
  // Roots of x² - (1 + beta - alpha) x + beta, and with (1 - beta) alpha for the average; beta is 0.9.
  ["heavyBall", 0.01, Math.sqrt(0.9)],
  ["heavyBall", 0.001, 0.98887],
  ["average", 0.01, 0.98887],
  ["average", 0.028, Math.sqrt(0.9)],
] as const)(
  "inside the space %s with alpha %d decays at the rate %d, whatever the eigenvalue",
  (form, alpha, rate) => {
    for (const value of [0.2, 1, 50]) {
      const values = [0.1, value];
      const optimizer = withExactCurvature(fosi(sgd(0.1), { k: 1, alpha, momentum: form }), values);
      let [x, state] = [f64([0, 1]) as Value, optimizer.init(f64([0, 1]))];
      const path: number[] = [];
      for (let step = 0; step < 6; step++) {
        path.push(list(x)[1]!);
        const [updates, next] = optimizer.update(mul(f64(values), x), state, x, {});
        [x, state] = [applyUpdates(x, updates), next];
      }
      // x_{t+2} = p x_{t+1} - q x_t from two windows, then the larger root.
      const [a, b, c, d] = path.slice(2) as [number, number, number, number];
      const determinant = b * b - a * c;
      const [p, q] = [(b * c - a * d) / determinant, (c * c - b * d) / determinant];
      const discriminant = p * p - 4 * q;
      const radius = discriminant < 0 ? Math.sqrt(q) : (p + Math.sqrt(discriminant)) / 2;
      expect(Math.abs(radius - rate)).toBeLessThan(1e-5);
    }
  },
);

test("a saddle: three steps leave it along the negative direction", () => {
  // FOSI saddle study: f = x² - y²/2 from (1, 1e-3), k = l = 1, alpha 0.1, no momentum.
  const f = diagonalQuadratic([2, -1]);
  const options: FosiOptions = { k: 1, l: 1, order: 2, alpha: 0.1, momentum: "none", warmup: 1 };
  const optimizer = fosi(sgd(0.1), options);
  let [x, state] = [f64([1, 1e-3]) as Value, optimizer.init(f64([1, 1e-3]))];
  for (let step = 0; step < 3; step++) {
    const at = x;
    const [updates, next] = optimizer.update(f.gradient(x), state, x, { hessian: () => f.hessian(at) });
    [x, state] = [applyUpdates(x, updates), next];
  }
  expect(maxDifference(list(x), [0.729, 0.001331])).toBeLessThan(1e-14);
});

test("a refresh on a quadratic changes nothing", () => {
  const values = linspace(0.3, 12, 14);
  const start = f64(normals(mulberry32(3), 14));
  const run = (period: number): number[] =>
    lossesOf(
      fosi(momentum(0.02), { k: 3, l: 1, order: 14, alpha: 0.2, warmup: 2, period }),
      diagonalQuadratic(values),
      start,
      30,
    );
  expect(maxDifference(run(3), run(1000))).toBeLessThan(1e-12 * run(1000)[0]!);
});

test("velocity and base state survive a refresh, the old vectors do not", () => {
  const optimizer = fosi(momentum(0.1), { k: 1, warmup: 1 });
  const x = f64([1, 1, 1]);
  const first = optimizer.refreshCurvature(optimizer.init(x), diagonalOperator([1, 2, 3]), random.key(0));
  const [, moved] = optimizer.step(f64([1, 2, 3]), first, x);
  const next = optimizer.refreshCurvature(moved, diagonalOperator([3, 2, 1]), random.key(0));
  expect(
    sameTreeBits([next.velocity, next.base, next.count], [moved.velocity, moved.base, moved.count]),
  ).toBe(true);
  expect(maxDifference(projector(rowsOf(next.vectors)), [1, 0, 0, 0, 0, 0, 0, 0, 0])).toBeLessThan(1e-9);
});

test("Hessian-vector products: central differences of the gradient, linearity, symmetry", () => {
  const f = objective(logisticLoss(goldenData()));
  const uniform = mulberry32(8);
  const [w, u, v] = [0, 1, 2].map(() => normals(uniform, 20)) as [number[], number[], number[]];
  const H = f.hessian(f64(w));
  const product = (x: Vector): number[] => list(H.apply(f64(x)));
  const step = 1e-5;
  const [above, below] = [step, -step].map((h) => list(f.gradient(f64(w.map((x, i) => x + h * v[i]!))))) as [
    number[],
    number[],
  ];
  const differences = above.map((x, i) => (x - below[i]!) / (2 * step));
  expect(maxDifference(product(v), differences)).toBeLessThan(1e-8 * length(differences));
  const both = product(u.map((x, i) => 2 * x - 3 * v[i]!));
  const [Hu, Hv] = [product(u), product(v)];
  expect(
    maxDifference(
      both,
      Hu.map((x, i) => 2 * x - 3 * Hv[i]!),
    ),
  ).toBeLessThan(1e-14);
  expect(Math.abs(dot(u, Hv) - dot(v, Hu))).toBeLessThan(1e-14);
});

test("zero and negligible eigenvalues leave their directions to the base", () => {
  const values = [0, 0, 1e-15, 4];
  const optimizer = fosi(sgd(0.1), { k: 3, order: 4, alpha: 1, momentum: "none", clip: 3 });
  const state = withExactCurvature(optimizer, values).init(f64([1, 1, 1, 1]));
  expect(list(state.rates)).toEqual([0, 0, 0.25]);
  expect(state.scale.item()).toBe(1);
  const [updates] = optimizer.step(f64([1, 1, 1, 1]), state, f64([1, 1, 1, 1]));
  expect(list(updates)).toEqual([-0.1, -0.1, -0.1, -0.25]);
});

test("fewer pairs than asked, after a breakdown: unused rows are zero", () => {
  const optimizer = fosi(sgd(0.1), { k: 3, l: 1, order: 4 });
  const zero = f64([0, 0, 0, 0, 0]);
  const spectrum = optimizer.refreshCurvature(
    optimizer.init(zero),
    diagonalOperator([2, 2, 5, 5, 5]),
    random.key(2),
  );
  expect(maxDifference(list(spectrum.values), [0, 0, 2, 5])).toBeLessThan(1e-12);
  expect(maxDifference(list(spectrum.rates), [0, 0, 0.5, 0.2])).toBeLessThan(1e-12);
  expect(spectrum.scale.item()).toBeCloseTo(2.5, 12);
  expect(rowsOf(spectrum.vectors).map((row) => Math.round(length(row)))).toEqual([0, 0, 1, 1]);
});

test("a gradient that is not a number is not hidden", () => {
  const optimizer = fosi(sgd(0.1), { k: 1, warmup: 1 });
  const x = f64([1, 1]);
  const state = optimizer.refreshCurvature(optimizer.init(x), diagonalOperator([1, 2]), random.key(0));
  expect(list(optimizer.step(f64([Number.NaN, 1]), state, x)[0]).some(Number.isNaN)).toBe(true);
});

test("a Hessian that is not finite is an error that names the product", () => {
  const optimizer = fosi(sgd(0.1), { k: 1, warmup: 1 });
  const x = f64([1, 1]);
  const hessian = () => diagonalOperator([1, Number.NaN]);
  expect(() => optimizer.update(x, optimizer.init(x), x, { hessian })).toThrow(
    /^Cannot continue Lanczos at step 0: a Hessian-vector product is not finite/,
  );
});

test("too many pairs, mixed element types and options out of range are refused", () => {
  expect(() => fosi(sgd(0.1), { k: 2, l: 1 }).init(f64([1, 2]))).toThrow(/k \+ l is 3 for 2 parameters/);
  const mixed = { a: f64([1]), b: tensor([1]) };
  expect(() => fosi(sgd(0.1), { k: 1 }).init(mixed)).toThrow(DTypeError);
  const bad: readonly FosiOptions[] = [
    { k: 0 },
    { k: -1, l: 3 },
    { k: 1.5 },
    { period: 0 },
    { warmup: 0 },
    { clip: 0.5 },
    { damping: -1 },
    { clip: Number.NaN },
  ];
  for (const options of bad) expect(() => fosi(sgd(0.1), options)).toThrow(/^Cannot make FOSI: /);
});

test("installCurvature takes float64 pairs into a float32 state", () => {
  const optimizer = fosi(sgd(0.1), { k: 1 });
  const spectrum = { values: f64([4]), vectors: f64([0.6, 0.8], [1, 2]), largest: 1 };
  const state = installCurvature(optimizer.init(tensor([0, 0])), spectrum, optimizer.options);
  expect([state.vectors.dtype, state.rates.dtype, state.values.dtype]).toEqual([
    "float32",
    "float32",
    "float64",
  ]);
  expect(list(state.rates)).toEqual([0.25]);
});

test("float32: a null direction of the Hessian is left to the base method, not inverted", () => {
  // Curvature 100 in one of twelve directions; the products' rounding gives the others tiny Ritz values.
  const h = Array.from({ length: 12 }, (_, i) => (i === 0 ? 50 : 0));
  const loss = (x: Value): Value => x.mul(x).mul(tensor(h)).sum().add(x.sum().mul(0.1));
  const x = full([12], 1);
  for (const pairs of [{ k: 3 }, { k: 2, l: 2 }]) {
    const optimizer = fosi(sgd(0.01), { ...pairs, warmup: 1, momentum: "none" });
    const hessian = () => hessianOperator(loss, x);
    const [updates] = optimizer.update(grad(loss)(x), optimizer.init(x), x, { hessian });
    // The base step alone is at most 0.01 times a gradient below 101.
    for (const update of list(updates)) expect(Math.abs(update)).toBeLessThan(2);
  }
});

test("every option that cannot work is refused when the method is made, by name", () => {
  const wrong: readonly (readonly [FosiOptions, RegExp])[] = [
    [{ k: 4, order: 2 }, /order is 2, an integer of at least 4/],
    [{ seed: -1 }, /seed is -1/],
    [{ alpha: Number.NaN }, /alpha is NaN/],
    [{ beta: 1 }, /beta is 1/],
    [{ momentum: "adam" as never }, /momentum is adam, one of none/],
    [{ trigger: "never" as never }, /trigger is never, one of internal, external/],
    [{ trust: 0 }, /trust is 0, a positive number/],
    [{ trust: Number.NaN }, /trust is NaN/],
    [{ k: 0 }, /k \+ l is 0/],
    [{ period: 0, clip: 0.5 }, /period is 0.*clip is 0.5/],
  ];
  for (const [options, message] of wrong) expect(() => fosi(sgd(0.1), options)).toThrow(message);
});
