/** K-FAC: factors against plain loops over examples, the step against the dense inverse, exactness where it is exact. */
import { expect, test } from "bun:test";
import { rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { jit } from "../../autodiff/jit.ts";
import { fisherOperator, type LinearOperator } from "../../autodiff/operator.ts";
import { gradientOf, valueAndGrad } from "../../autodiff/vjp.ts";
import { vmap } from "../../autodiff/vmap.ts";
import { eye } from "../../core/create.ts";
import { TraceError, TreeError } from "../../core/errors.ts";
import { load, save } from "../../core/io.ts";
import { categorical, gaussian } from "../../core/likelihood.ts";
import * as nn from "../../core/nn.ts";
import { observing } from "../../core/observe.ts";
import {
  add,
  argmax,
  broadcastTo,
  exp,
  logSoftmax,
  matmul,
  mean,
  mul,
  relu,
  reshape,
  sub,
  sum,
  tanh,
} from "../../core/ops.ts";
import * as random from "../../core/random.ts";
import { ravel } from "../../core/ravel.ts";
import { leaves, map } from "../../core/tree.ts";
import type { Value } from "../../core/value.ts";
import {
  type KfacOptions,
  type KfacState,
  kfac,
  kfacEigen,
  kfacLayers,
  layerStatistics,
} from "../../optim/kfac.ts";
import { sampledLoss } from "../../optim/sampled_loss.ts";
import { linearSchedule } from "../../optim/schedule.ts";
import { applyUpdates } from "../../optim/transformation.ts";
import {
  dot,
  f64,
  list,
  type Matrix,
  maxDifference,
  mulberry32,
  normals,
  randomRotation,
  rowsOf,
  sameTreeBits,
  type Vector,
  withEigenvalues,
} from "./numbers.ts";
import { solve } from "./problems.ts";

const draw = (seed: number, shape: readonly number[]): Value =>
  f64(
    normals(
      mulberry32(seed),
      shape.reduce((n, k) => n * k, 1),
    ),
    shape,
  );

/** Mean of x xᵀ over rows, times a factor, in plain loops. */
function secondMoments(rows: Matrix, scale = 1): number[] {
  const n = rows[0]!.length;
  return Array.from({ length: n * n }, (_, index) => {
    const [i, j] = [Math.floor(index / n), index % n];
    return (scale * rows.reduce((total, row) => total + row[i]! * row[j]!, 0)) / rows.length;
  });
}

/** The Kronecker product of two matrices in flat form, with the rows and columns of the first as blocks. */
function kronecker(a: Vector, b: Vector): number[][] {
  const [n, m] = [Math.round(Math.sqrt(a.length)), Math.round(Math.sqrt(b.length))];
  return Array.from({ length: n * m }, (_, r) =>
    Array.from({ length: n * m }, (_, c) => {
      const [i, k, j, l] = [Math.floor(r / m), r % m, Math.floor(c / m), c % m];
      return a[i * n + j]! * b[k * m + l]!;
    }),
  );
}

// --- statistics --------------------------------------------------------------------------------------------------

type Network = { readonly first: nn.AffineParams; readonly last: nn.AffineParams };
const first = nn.dense(3, 4);
const last = nn.dense(4, 2, { bias: false });
const network: Network = {
  first: { w: draw(1, [3, 4]), b: draw(2, [4]) },
  last: { w: draw(3, [4, 2]) },
};
const hidden = (p: Network, x: Value): Value => tanh(first.apply(p.first, x));
const outputsOf = (p: Network, x: Value): Value => last.apply(p.last, hidden(p, x));

test("the factors of dense layers are means over examples, found one example at a time", () => {
  const [x, y] = [draw(4, [5, 3]), draw(5, [5, 2])];
  const loss = (p: Network, inputs: Value, targets: Value): Value =>
    gaussian.loss(tanh(outputsOf(p, inputs)), targets);
  const statistics = layerStatistics(loss)(network, x, y);

  const [value, gradient] = valueAndGrad(loss)(network, x, y);
  expect(statistics.value.item()).toBeCloseTo(value.item(), 14);
  expect(maxDifference(list(ravel(statistics.gradient)[0]), list(ravel(gradient)[0]))).toBeLessThan(1e-14);

  // Each example alone, the outputs of both layers written as variables.
  const ownGradients = [0, 1, 2, 3, 4].map((i) => {
    const row = (m: Value): Value => m.slice([i, 0], [i + 1, m.shape[1]!]);
    const rest = (s2: Value): Value => gaussian.loss(tanh(s2), row(y));
    const s1 = first.apply(network.first, row(x));
    const g1 = gradientOf<Value, []>((s: Value) => rest(matmul(tanh(s), network.last.w)))(s1);
    const g2 = gradientOf<Value, []>(rest)(matmul(tanh(s1), network.last.w));
    return [list(g1), list(g2)] as const;
  });
  expect(Object.keys(statistics.layers).sort()).toEqual(["first.w", "last.w"]);
  const { "first.w": ofFirst, "last.w": ofLast } = statistics.layers;
  const withOne = rowsOf(x).map((row) => [...row, 1]);
  expect(maxDifference(list(ofFirst!.inputs), secondMoments(withOne))).toBeLessThan(1e-14);
  expect(maxDifference(list(ofLast!.inputs), secondMoments(rowsOf(hidden(network, x))))).toBeLessThan(1e-14);
  for (const [layer, k] of [
    [ofFirst!, 0],
    [ofLast!, 1],
  ] as const)
    expect(maxDifference(list(layer.outputs), secondMoments(ownGradients.map((g) => g[k])))).toBeLessThan(
      1e-13,
    );
});

test("the factors of a convolution are of what its windows hold, and of gradients summed over places", () => {
  const layer = nn.conv(2, 3, {
    window: [2, 3],
    strides: [2, 1],
    padding: [
      [1, 0],
      [1, 2],
    ],
    dilation: [1, 2],
  });
  const p = { w: draw(1, [3, 2, 2, 3]), b: draw(2, [3]) };
  const [n, height, width] = [4, 5, 6];
  const x = draw(3, [n, 2, height, width]);
  const loss = (q: nn.AffineParams, images: Value): Value =>
    mul(1 / n, sum(mul(tanh(layer.apply(q, images)), tanh(layer.apply(q, images)))));
  // Used twice: the same inputs, and half of the gradient each.
  const once = (q: nn.AffineParams, images: Value): Value => {
    const y = tanh(layer.apply(q, images));
    return mul(1 / n, sum(mul(y, y)));
  };
  const { layers } = layerStatistics(once)(p, x);

  const y = layer.apply(p, x);
  const [, , rows, columns] = y.shape as readonly [number, number, number, number];
  const pixels = list(x);
  const pixel = (i: number, c: number, r: number, k: number): number =>
    r < 0 || k < 0 || r >= height || k >= width ? 0 : pixels[((i * 2 + c) * height + r) * width + k]!;
  const windows: number[][] = [];
  const gradients: number[][] = [];
  const s = list(y);
  for (let i = 0; i < n; i++)
    for (let r = 0; r < rows; r++)
      for (let k = 0; k < columns; k++) {
        const held: number[] = [];
        for (let c = 0; c < 2; c++)
          for (let a = 0; a < 2; a++)
            for (let b = 0; b < 3; b++) held.push(pixel(i, c, 2 * r + a - 1, k + 2 * b - 1));
        windows.push([...held, 1]);
        // d tanh(s)² = 2 tanh(s) (1 - tanh(s)²), of an example's own loss.
        gradients.push(
          [0, 1, 2].map((o) => {
            const t = Math.tanh(s[((i * 3 + o) * rows + r) * columns + k]!);
            return 2 * t * (1 - t * t);
          }),
        );
      }
  expect(layers["w"]!.inputs.shape).toEqual([13, 13]);
  expect(maxDifference(list(layers["w"]!.inputs), secondMoments(windows))).toBeLessThan(1e-13);
  const summed = secondMoments(gradients, gradients.length / n);
  expect(maxDifference(list(layers["w"]!.outputs), summed)).toBeLessThan(1e-12);

  const twice = layerStatistics(loss)(p, x).layers;
  expect(maxDifference(list(twice["w"]!.inputs), secondMoments(windows))).toBeLessThan(1e-13);
  expect(
    maxDifference(
      list(twice["w"]!.outputs),
      summed.map((g) => g / 2),
    ),
  ).toBeLessThan(1e-12);
});

test("a convolution with a window of one pixel on images of one pixel is a dense layer", () => {
  const [w, b, x] = [draw(1, [3, 2]), draw(2, [2]), draw(3, [5, 3])];
  const dense = nn.dense(3, 2);
  const pixelwise = nn.conv(3, 2, { window: 1 });
  const square = (y: Value): Value => mul(1 / 5, sum(mul(tanh(y), tanh(y))));
  const ofDense = layerStatistics((p: nn.AffineParams) => square(dense.apply(p, x)))({ w, b });
  const ofConv = layerStatistics((p: nn.AffineParams) =>
    square(pixelwise.apply(p, reshape(x, [5, 3, 1, 1]))),
  )({
    w: reshape(w.transpose(), [2, 3, 1, 1]),
    b,
  });
  for (const side of ["inputs", "outputs"] as const)
    expect(maxDifference(list(ofConv.layers["w"]![side]), list(ofDense.layers["w"]![side]))).toBeLessThan(
      1e-14,
    );

  // And the update of its weights is the transposed one.
  const options: KfacOptions = { klClip: 1e-2 };
  const update = (loss: (p: nn.AffineParams) => Value, p: nn.AffineParams): { w: Value; b: Value } => {
    const optimizer = kfac(kfacLayers(loss, p), options);
    const { gradient, layers } = layerStatistics(loss)(p);
    return optimizer.update(gradient, optimizer.init(p), p, { layers: () => layers })[0] as {
      w: Value;
      b: Value;
    };
  };
  const fromDense = update((p) => square(dense.apply(p, x)), { w, b });
  const fromConv = update((p) => square(pixelwise.apply(p, reshape(x, [5, 3, 1, 1]))), {
    w: reshape(w.transpose(), [2, 3, 1, 1]),
    b,
  });
  expect(maxDifference(list(reshape(fromConv.w, [2, 3]).transpose()), list(fromDense.w))).toBeLessThan(1e-13);
  expect(maxDifference(list(fromConv.b), list(fromDense.b))).toBeLessThan(1e-13);
});

test("places of a dense layer count as those of an image, and as examples where the loss says so", () => {
  const layer = nn.dense(3, 2);
  const p = { w: draw(1, [3, 2]), b: draw(2, [2]) };
  const x = draw(3, [4, 5, 3]);
  const perPlace = (q: nn.AffineParams, input: Value): Value => {
    const y = layer.apply(q, input);
    return mean(mul(tanh(y), y));
  };
  const flat = layerStatistics(perPlace)(p, reshape(x, [20, 3])).layers["w"]!;
  const inText = layerStatistics(perPlace, { examples: 20 })(p, x).layers["w"]!;
  const inImages = layerStatistics(perPlace)(p, x).layers["w"]!;
  expect(maxDifference(list(inText.inputs), list(flat.inputs))).toBeLessThan(1e-14);
  expect(maxDifference(list(inText.outputs), list(flat.outputs))).toBeLessThan(1e-14);
  // 4 terms in the mean in place of 20.
  expect(maxDifference(list(inImages.outputs), list(mul(0.2, flat.outputs)))).toBeLessThan(1e-14);
});

test("statistics inside jit are those outside, and are recorded once", () => {
  const [x, y] = [draw(4, [5, 3]), draw(5, [5, 2])];
  const loss = (p: Network, inputs: Value, targets: Value): Value =>
    gaussian.loss(outputsOf(p, inputs), targets);
  const plain = layerStatistics(loss);
  const compiled = jit(plain);
  for (const scale of [1, 2]) {
    const p = map((leaf) => mul(scale, leaf), network);
    const [a, b] = [ravel(plain(p, x, y))[0], ravel(compiled(p, x, y))[0]];
    expect(maxDifference(list(b), list(a))).toBeLessThan(1e-12);
  }
  expect(compiled.stats().traces).toBe(1);
});

test("an observer around the statistics sees the layers as before, and layers report to it alone afterwards", () => {
  const loss = (p: Network): Value => sum(outputsOf(p, draw(4, [5, 3])));
  let reports = 0;
  const counted = (_: unknown, output: Value): Value => {
    reports++;
    return output;
  };
  observing({ affine: counted }, () => layerStatistics(loss)(network));
  // Two layers, looked at twice: for their shapes and for their numbers.
  expect(reports).toBe(4);
  layerStatistics(loss)(network);
  expect(reports).toBe(4);
});

test("layers are found by identity: what is computed of parameters, grouped or used otherwise is left alone", () => {
  const grouped = nn.conv(4, 4, { groups: 2 });
  const p = {
    dense: { w: draw(1, [4, 4]), b: draw(2, [4]) },
    scaled: { w: draw(3, [4, 4]) },
    grouped: { w: draw(4, [4, 2, 3, 3]), b: draw(5, [4]) },
    gain: draw(6, [4]),
  };
  const layer = nn.dense(4, 4, { bias: false });
  const loss = (q: typeof p, x: Value): Value => {
    const a = relu(nn.dense(4, 4).apply(q.dense, x));
    const b = layer.apply({ w: mul(2, q.scaled.w) }, a);
    const c = grouped.apply(q.grouped, reshape(b, [-1, 4, 1, 1]));
    return mean(mul(reshape(c, [-1, 4]), q.gain));
  };
  const x = draw(7, [5, 4]);
  expect(kfacLayers(loss, p, x)).toEqual([{ name: "dense.w", kind: "dense", w: 1, b: 0 }]);
  const optimizer = kfac(kfacLayers(loss, p, x), { learningRate: 0.5, momentum: 0 });
  const { gradient, layers } = layerStatistics(loss)(p, x);
  const [updates] = optimizer.update(gradient, optimizer.init(p), p, { layers: () => layers });
  for (const key of ["scaled", "grouped", "gain"] as const)
    expect(
      maxDifference(list(ravel(updates[key])[0]), list(mul(-0.5, ravel(gradient[key])[0]))),
    ).toBeLessThan(1e-15);
  expect(maxDifference(list(updates.dense.w), list(mul(-0.5, gradient.dense.w)))).toBeGreaterThan(1e-3);
});

test("a loss made by jit, and one without layers, are refused", () => {
  const loss = (p: Network): Value => sum(outputsOf(p, draw(4, [5, 3])));
  expect(() => kfacLayers(jit(loss), network)).toThrow("Cannot see the layers of a function made by jit");
  expect(() => layerStatistics(jit(loss))(network)).toThrow(TraceError);
  expect(() => kfacLayers((p: Value) => sum(p), draw(1, [2]))).toThrow("Cannot find layers");
  const compiledModel = jit(outputsOf);
  expect(() => kfacLayers((p: Network) => sum(compiledModel(p, draw(4, [5, 3]))), network)).toThrow(
    TraceError,
  );
});

// --- the step ----------------------------------------------------------------------------------------------------

/** The rows of the matrix of an operator. */
function matrixOf(operator: LinearOperator): number[][] {
  return rowsOf(vmap((v: Value) => operator.apply(v))(eye(operator.size, undefined, { dtype: "float64" })));
}

test("for a linear model with normal errors K-FAC is the natural gradient exactly", () => {
  // Every input with errors ± sqrt(2) along each output: they have covariance I and know nothing of the input.
  const inputs = [
    [1, 2],
    [-1, 0.5],
    [3, -1],
  ];
  const errors = [
    [Math.SQRT2, 0],
    [-Math.SQRT2, 0],
    [0, Math.SQRT2],
    [0, -Math.SQRT2],
  ];
  const layer = nn.dense(2, 2);
  const p = { w: draw(1, [2, 2]), b: draw(2, [2]) };
  const x = f64(
    inputs.flatMap((row) => errors.flatMap(() => row)),
    [12, 2],
  );
  const noise = f64(
    inputs.flatMap(() => errors.flat()),
    [12, 2],
  );
  const drawn = (q: nn.AffineParams): Value =>
    gaussian.loss(layer.apply(q, x), add(layer.apply(p, x), noise));
  const { layers } = layerStatistics(drawn)(p);
  // The parameters raveled are b then w, the rows of the layer's matrix are those of w and then b.
  const order = [4, 5, 0, 1, 2, 3];
  const product = kronecker(list(layers["w"]!.inputs), list(layers["w"]!.outputs));
  const F = matrixOf(
    fisherOperator((q: nn.AffineParams, batch: Value) => layer.apply(q, batch), gaussian, p, x),
  );
  for (const [r, row] of F.entries())
    expect(
      maxDifference(
        row,
        order.map((c) => product[order[r]!]![c]!),
      ),
    ).toBeLessThan(1e-13);

  const damping = 0.3;
  const target = (q: nn.AffineParams): Value => gaussian.loss(layer.apply(q, x), draw(9, [12, 2]));
  const optimizer = kfac(kfacLayers(target, p), { learningRate: 1, momentum: 0, damping, klClip: Infinity });
  const g = gradientOf<nn.AffineParams, []>(target)(p);
  const [updates] = optimizer.update(g, optimizer.init(p), p, { layers: () => layers });
  const dampedF = F.map((row, i) => row.map((v, j) => v + (i === j ? damping : 0)));
  const expected = solve(dampedF, list(ravel(g)[0])).map((v) => -v);
  expect(maxDifference(list(ravel(updates)[0]), expected)).toBeLessThan(1e-12);
});

/** Two layers with any factors, and their state after decomposition. */
function arbitrary(options: KfacOptions): {
  optimizer: ReturnType<typeof kfac>;
  state: KfacState;
  factors: Record<string, readonly [Matrix, Matrix]>;
} {
  const uniform = mulberry32(17);
  const spd = (n: number): number[][] =>
    withEigenvalues(
      Array.from({ length: n }, (_, i) => 0.01 * 5 ** i),
      randomRotation(uniform, n),
    );
  const factors = { "first.w": [spd(4), spd(4)] as const, "last.w": [spd(4), spd(2)] as const };
  const loss = (p: Network): Value => sum(outputsOf(p, draw(4, [5, 3])));
  const optimizer = kfac(kfacLayers(loss, network), options);
  const asTensors = Object.fromEntries(
    Object.entries(factors).map(([name, [a, g]]) => [
      name,
      { inputs: f64(a.flat(), [a.length, a.length]), outputs: f64(g.flat(), [g.length, g.length]) },
    ]),
  );
  const state = optimizer.refreshCurvature(optimizer.accumulate(optimizer.init(network), asTensors));
  return { optimizer, state, factors };
}

test("steps are those of the dense inverse, clipped and with momentum, in plain loops", () => {
  const learningRate = linearSchedule({ from: 0.4, to: 0.1, steps: 3 });
  const rates = [0.4, 0.3, 0.2, 0.1];
  for (const klClip of [1e-3, 0.05, 1e6]) {
    const damping = 0.02;
    const { optimizer, state: start, factors } = arbitrary({ learningRate, momentum: 0.7, damping, klClip });
    let state = start;
    let velocity: number[] = new Array<number>(24).fill(0);
    let shortened = 0;
    for (let step = 0; step < 4; step++) {
      const g: Network = {
        first: { w: draw(30 + step, [3, 4]), b: draw(40 + step, [4]) },
        last: { w: draw(50 + step, [4, 2]) },
      };
      // Weights row by row and then the bias, times (A ⊗ G + damping I)⁻¹.
      const natural = (name: string, D: Vector): number[] => {
        const [A, G] = factors[name]!;
        const dense = kronecker(A.flat(), G.flat()).map((row, i) =>
          row.map((v, j) => v + (i === j ? damping : 0)),
        );
        return solve(dense, D);
      };
      const D1 = [...list(g.first.w), ...list((g.first as { b: Value }).b)];
      const D2 = list(g.last.w);
      const [N1, N2] = [natural("first.w", D1), natural("last.w", D2)];
      const rate = rates[step]!;
      const nu = Math.min(1, Math.sqrt(klClip / (rate * rate * (dot(N1, D1) + dot(N2, D2)))));
      if (nu < 1) shortened++;
      // Raveled: first.b, first.w, last.w.
      const N = [...N1.slice(12), ...N1.slice(0, 12), ...N2].map((v) => nu * v);
      velocity = N.map((v, i) => v + 0.7 * velocity[i]!);
      const [updates, next] = optimizer.step(g, state, network);
      const expected = velocity.map((v) => -rate * v);
      // Schedules give float32 rates.
      const largest = Math.max(...expected.map(Math.abs));
      expect(maxDifference(list(ravel(updates)[0]), expected)).toBeLessThan(1e-6 * largest);
      state = next;
    }
    expect(shortened).toBe(klClip === 1e6 ? 0 : 4);
  }
});

test("a step compiled is the step, recorded once, and the state keeps its form", () => {
  const { optimizer, state } = arbitrary({});
  const compiled = jit(optimizer.step);
  let [a, b] = [state, state];
  for (let i = 0; i < 3; i++) {
    const g = map((leaf) => mul(i + 1, leaf), network);
    const [plain, nextA] = optimizer.step(g, a, network);
    const [fast, nextB] = compiled(g, b, network) as ReturnType<typeof optimizer.step<Network>>;
    expect(maxDifference(list(ravel(fast)[0]), list(ravel(plain)[0]))).toBeLessThan(1e-12);
    expect(leaves(nextB).map((x) => String(x.aval))).toEqual(leaves(b).map((x) => String(x.aval)));
    [a, b] = [nextA, nextB];
  }
  expect(compiled.stats().traces).toBe(1);
  expect(b.count.item()).toBe(3);
});

test("a gradient of zeros moves nothing, whatever the clip", () => {
  const { optimizer, state } = arbitrary({});
  const [updates] = optimizer.step(
    map((leaf) => mul(0, leaf), network),
    state,
    network,
  );
  expect(list(ravel(updates)[0]).every((u) => u === 0)).toBe(true);
});

test("factors are means at first and decay later", () => {
  const layer = nn.dense(1, 1, { bias: false });
  const p = { w: f64([1], [1, 1]) };
  const optimizer = kfac(
    kfacLayers((q: nn.AffineParams) => sum(layer.apply(q, f64([1], [1, 1]))), p),
    { decay: 0.75 },
  );
  let state = optimizer.init(p);
  const xs = [3, 5, -2, 8, 1, 4, 7];
  let expected = 0;
  for (const [i, x] of xs.entries()) {
    const one = f64([x], [1, 1]);
    state = optimizer.accumulate(state, { w: { inputs: one, outputs: one } });
    const kept = Math.min(1 - 1 / (i + 1), 0.75);
    expected = kept * expected + (1 - kept) * x;
    expect(state.factors["w"]!.inputs.item()).toBeCloseTo(expected, 14);
    if (i < 4) expect(expected).toBeCloseTo(xs.slice(0, i + 1).reduce((s, v) => s + v, 0) / (i + 1), 12);
  }
  expect(() => optimizer.accumulate(state, {})).toThrow(TreeError);
});

test("a factor of lower rank has no eigenvalue below zero, whatever rounding says", () => {
  const a = draw(3, [12, 2]).astype("float32");
  const factor = matmul(a, a.transpose());
  const { inputs, outputs } = kfacEigen({ inputs: factor, outputs: mul(1e6, factor) });
  for (const { values } of [inputs, outputs]) expect(Math.min(...list(values))).toBe(0);
});

test("an update is statistics, decompositions and the step, each when it is due", () => {
  const { optimizer: first10 } = arbitrary({ factorPeriod: 2, period: 4 });
  const loss = (p: Network): Value => gaussian.loss(outputsOf(p, draw(4, [5, 3])), draw(5, [5, 2]));
  let asked = 0;
  let [p, state] = [network, first10.init(network)];
  let [q, parts] = [network, first10.init(network)];
  for (let made = 0; made < 6; made++) {
    const { gradient } = layerStatistics(loss)(p);
    const at = p;
    const [updates, next] = first10.update(gradient, state, p, {
      layers() {
        asked++;
        return layerStatistics(loss)(at).layers;
      },
    });
    [p, state] = [applyUpdates(p, updates), next];

    expect(first10.factorsDue(made)).toBe(made % 2 === 0);
    expect(first10.curvatureDue(parts)).toBe(made % 4 === 0);
    if (first10.factorsDue(made)) parts = first10.accumulate(parts, layerStatistics(loss)(q).layers);
    if (first10.curvatureDue(made)) {
      // Two workers, a layer each, in any order.
      for (const name of ["last.w", "first.w"])
        parts = first10.refreshCurvature(parts, { [name]: kfacEigen(parts.factors[name]!) });
    }
    const [moves, after] = first10.step(layerStatistics(loss)(q).gradient, parts, q);
    [q, parts] = [applyUpdates(q, moves), after];
    expect(sameTreeBits([p, state], [q, parts])).toBe(true);
  }
  expect(asked).toBe(3);
});

test("a run goes on from a saved state bit by bit", async () => {
  const loss = (p: Network): Value => gaussian.loss(outputsOf(p, draw(4, [5, 3])), draw(5, [5, 2]));
  const optimizer = kfac(kfacLayers(loss, network), { period: 3 });
  const run = (from: { p: Network; state: KfacState }, steps: number): { p: Network; state: KfacState } => {
    let { p, state } = from;
    for (let i = 0; i < steps; i++) {
      const { gradient, layers } = layerStatistics(loss)(p);
      const [updates, next] = optimizer.update(gradient, state, p, { layers: () => layers });
      [p, state] = [applyUpdates(p, updates), next];
    }
    return { p, state };
  };
  const middle = run({ p: network, state: optimizer.init(network) }, 4);
  const path = join(tmpdir(), `kfac-state-${process.pid}.safetensors`);
  try {
    await save(path, middle);
    const { tree: restored } = await load<typeof middle>(path);
    expect(sameTreeBits(run(restored, 4), run(middle, 4))).toBe(true);
  } finally {
    rmSync(path, { force: true });
  }
});

test("K-FAC trains a network with a convolution in float32, in fewer steps than its own base", () => {
  const cnn = nn.sequential(
    nn.conv(1, 3, { window: 3, strides: 2 }),
    nn.activation("tanh"),
    nn.flatten(),
    nn.dense(27, 4),
  );
  const start = cnn.init(random.key(3));
  // Badly scaled pixels: what a factored inverse is for.
  const scale = random.uniform(random.key(4), [6, 6], { min: 0.05, max: 2 });
  const x = mul(random.normal(random.key(5), [64, 1, 6, 6]), scale);
  const y = argmax(cnn.apply(cnn.init(random.key(6)), x), { axis: 1 });
  type P = typeof start;
  const outputs = (p: P, images: Value): Value => cnn.apply(p, images);
  const loss = (p: P): Value => categorical.loss(outputs(p, x), y);
  const both = jit(valueAndGrad(loss as (p: P) => Value) as never) as unknown as (p: P) => [Value, P];
  const drawn = sampledLoss(outputs, categorical);
  const statistics = jit(layerStatistics(drawn));
  const train = (rate: number, isPlain: boolean): number => {
    const optimizer = kfac(kfacLayers(loss, start), {
      learningRate: rate,
      damping: 0.01,
      klClip: 0.01,
      period: 5,
    });
    const step = jit(optimizer.step) as typeof optimizer.step;
    let p = start;
    let state = optimizer.init(start);
    let velocity = map((leaf) => mul(0, leaf), start);
    for (let i = 0; i < 40; i++) {
      const [, gradient] = both(p);
      if (isPlain) {
        velocity = map((v, g) => add(mul(0.9, v), g!), velocity, gradient);
        p = map((leaf, v) => sub(leaf, mul(rate, v!)), p, velocity);
        continue;
      }
      const key = random.foldIn(random.key(7), i);
      state = optimizer.accumulate(state, statistics(p, key, x).layers);
      if (optimizer.curvatureDue(i)) state = optimizer.refreshCurvature(state);
      const [updates, next] = step(gradient, state, p);
      [p, state] = [applyUpdates(p, updates), next];
    }
    return loss(p).item();
  };
  const base = Math.min(...[0.01, 0.03, 0.1, 0.3].map((rate) => train(rate, true)).filter(Number.isFinite));
  const found = train(0.3, false);
  expect(found).toBeLessThan(0.7 * base);
  expect(found).toBeLessThan(0.2 * loss(start).item());
});

// --- targets drawn from the model ---------------------------------------------------------------------------------

test("gradients for drawn targets have mean 0 and the Fisher matrix for second moments", () => {
  const layer = nn.dense(2, 3, { bias: false });
  const p = { w: draw(1, [2, 3]) };
  const draws = 20_000;
  const one = draw(2, [1, 2]);
  const x = broadcastTo(one, [draws, 2]);
  const shares = list(exp(logSoftmax(layer.apply(p, one))));
  const identity = [0, 1, 2].map((i) => [0, 1, 2].map((j) => Number(i === j)));
  for (const [likelihood, expected] of [
    [categorical, identity.map((row, i) => row.map((v, j) => shares[i]! * (v - shares[j]!)))],
    [gaussian, identity],
  ] as const) {
    const loss = sampledLoss((q: nn.AffineParams, input: Value) => layer.apply(q, input), likelihood);
    const { layers, gradient } = layerStatistics(loss)(p, random.key(5), x);
    expect(maxDifference(list(layers["w"]!.inputs), secondMoments(rowsOf(one)))).toBeLessThan(1e-12);
    // The mean of so many draws is off by about a hundredth.
    expect(maxDifference(list(layers["w"]!.outputs), expected.flat())).toBeLessThan(0.04);
    expect(Math.max(...list(gradient.w).map(Math.abs))).toBeLessThan(
      0.04 * Math.max(...list(one).map(Math.abs)),
    );
  }
});

test("options outside their range are refused", () => {
  const layers = [{ name: "w", kind: "dense", w: 0, b: null }] as const;
  expect(() => kfac([])).toThrow("Cannot make K-FAC: there are 0 layers");
  expect(() => kfac(layers, { damping: 0 })).toThrow("damping is 0, a positive number is needed");
  expect(() => kfac(layers, { klClip: 0 })).toThrow(RangeError);
  expect(() => kfac(layers, { momentum: 1, period: 0 })).toThrow(/momentum is 1.*period is 0/);
});
