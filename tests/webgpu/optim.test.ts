/** Optimizers as jitted steps on the GPU: the parameters of the CPU after several steps, and no float64 on the way. */
import { expect, setDefaultTimeout, test } from "bun:test";
import { hessianOperator, type LinearOperator } from "../../autodiff/operator.ts";
import { valueAndGrad } from "../../autodiff/vjp.ts";
import { tensor } from "../../core/create.ts";
import { devicePut } from "../../core/devices.ts";
import * as nn from "../../core/nn.ts";
import { add, argmax, matmul } from "../../core/ops.ts";
import * as random from "../../core/random.ts";
import { leaves, map } from "../../core/tree.ts";
import type { Value } from "../../core/value.ts";
import { jit } from "../../mod.ts";
import { accumulate } from "../../optim/accumulate.ts";
import { adagrad } from "../../optim/adagrad.ts";
import { adahessian } from "../../optim/adahessian.ts";
import { adam, adamw } from "../../optim/adam.ts";
import { clipByGlobalNorm, clipByValue } from "../../optim/clip.ts";
import { ema } from "../../optim/ema.ts";
import { type Fosi, type FosiState, fosi, installCurvature } from "../../optim/fosi.ts";
import { freeze } from "../../optim/freeze.ts";
import { kfac, kfacLayers, layerStatistics } from "../../optim/kfac.ts";
import { lamb } from "../../optim/lamb.ts";
import { lion } from "../../optim/lion.ts";
import { lookahead } from "../../optim/lookahead.ts";
import { multiTransform } from "../../optim/masked.ts";
import { momentum, nesterov, sgd } from "../../optim/momentum.ts";
import { muon } from "../../optim/muon.ts";
import { penalized } from "../../optim/penalized.ts";
import { rmsprop } from "../../optim/rmsprop.ts";
import { sampledLoss } from "../../optim/sampled_loss.ts";
import {
  cosineSchedule,
  exponentialSchedule,
  linearSchedule,
  oneCycleSchedule,
  stepSchedule,
  warmupSchedule,
} from "../../optim/schedule.ts";
import { shampoo } from "../../optim/shampoo.ts";
import { soap } from "../../optim/soap.ts";
import { sophia } from "../../optim/sophia.ts";
import { applyUpdates, chain, type GradientTransformation } from "../../optim/transformation.ts";
import { list, maxDifference, rowsOf } from "../optim/numbers.ts";
import { countReads, hasGpu, inPlace, onHost } from "./support.ts";

setDefaultTimeout(120_000);
const gpu = test.skipIf(!hasGpu);
const reads = hasGpu ? countReads() : { count: 0 };

const model = nn.mlp([5, 6, 3], { activation: "tanh" });
type Params = ReturnType<typeof model.init>;
const params = model.init(random.key(0));
const x = random.normal(random.key(1), [30, 5]);
const y = argmax(matmul(x, random.normal(random.key(2), [5, 3])), { axis: 1 });
const loss = jit((p: Params, x: Value, y: Value): Value => nn.softmaxCrossEntropy(model.apply(p, x), y));

/** All numbers of a tree, read at once. */
async function numbersOf(tree: unknown): Promise<number[]> {
  return leaves(await onHost(tree)).flatMap(list);
}

const schedules = {
  linear: linearSchedule({ from: 0.1, to: 0.01, steps: 8 }),
  cosine: cosineSchedule({ from: 0.1, steps: 8, floor: 0.01 }),
  "one cycle": oneCycleSchedule({ peak: 0.1, steps: 8 }),
  exponential: exponentialSchedule({ from: 0.1, decay: 0.5, steps: 4 }),
  warmup: warmupSchedule({ steps: 3, after: stepSchedule({ from: 0.1, factor: 0.3, at: [2, 4] }) }),
};

const methods: readonly (readonly [string, GradientTransformation<never>])[] = (
  [
    ["sgd", sgd(0.1)],
    ["momentum", momentum(0.05)],
    ["nesterov", nesterov(0.05)],
    ["adam", adam(0.01)],
    ["adamw", adamw(0.01)],
    ["adagrad", adagrad(0.05)],
    ["rmsprop, centered", rmsprop(0.01, { isCentered: true })],
    ["lion", lion(0.003, { weightDecay: 0.1 })],
    ["lamb", lamb(0.01, { weightDecay: 0.1 })],
    ["muon", muon(0.02)],
    ["lookahead", lookahead(adam(0.01), { k: 2 })],
    ["an average of adam", chain(adam(0.01), ema(0.9))],
    ["two batches to a step", accumulate(adam(0.01), 2)],
    [
      "one layer frozen",
      multiTransform({ moved: adam(0.01), still: freeze() }, (path) =>
        path.startsWith("layers[0]") ? "still" : "moved",
      ),
    ],
    ["clipping by norm, then adam", chain(clipByGlobalNorm(0.1), adam(0.01))],
    ["clipping by value, then momentum", chain(clipByValue(0.05), momentum(0.1))],
    ...Object.entries(schedules).map(([name, schedule]) => [`sgd, ${name} schedule`, sgd(schedule)] as const),
  ] as const
).map(([name, method]) => [name, method as unknown as GradientTransformation<never>]);

for (const [name, method] of methods) {
  gpu(`${name}: six steps on the GPU are six steps on the host`, async () => {
    const step = jit((p: Params, state: never, x: Value, y: Value) => {
      const [, slope] = valueAndGrad(loss)(p, x, y);
      const [updates, next] = method.update(slope, state, p, {});
      return [applyUpdates(p, updates), next] as const;
    });
    const results: number[][] = [];
    for (const device of ["cpu", "webgpu"]) {
      let [p, ...data] = await devicePut([params, x, y] as const, device);
      let state = method.init(p);
      const before = reads.count;
      for (let i = 0; i < 6; i++) [p, state] = step(p, state, ...data);
      expect(reads.count).toBe(before);
      expect(new Set(leaves(p).map((leaf) => leaf.device))).toEqual(new Set([device]));
      results.push(await numbersOf([p, state]));
    }
    const [host, far] = results as [number[], number[]];
    expect(far.every(Number.isFinite)).toBe(true);
    expect(maxDifference(far, host)).toBeLessThan(2e-5);
  });
}

/** A method whose refresh is apart from its step, over any state. */
interface Halves {
  readonly init: (params: unknown) => unknown;
  readonly isDue: (made: number) => boolean;
  readonly refresh: (state: unknown, at: At) => unknown;
  readonly step: (gradients: unknown, state: unknown, params: unknown) => readonly [unknown, unknown];
  /** Whether a refresh factors matrices, which is done on the host: it reads in place. */
  readonly isOnHost: boolean;
}

/** Where a refresh is. */
interface At {
  readonly params: Square;
  readonly gradients: Square;
  readonly data: readonly [x: Value, y: Value];
  readonly key: Value;
}

// Square matrices, whose gradients have full rank: no eigenvector is left open.
const square = nn.mlp([4, 4, 4], { activation: "tanh" });
type Square = ReturnType<typeof square.init>;
const start = square.init(random.key(3));
const inputs = random.normal(random.key(4), [20, 4]);
const targets = random.normal(random.key(5), [20, 4]);
const distance = penalized(
  (p: Square, x: Value, y: Value): Value => nn.gaussian.loss(square.apply(p, x), y),
  0.01,
);
const slopeOf = jit((p: Square, x: Value, y: Value): Square => valueAndGrad(distance)(p, x, y)[1]);
const compiledDistance = jit(distance);
const sampledSlope = jit((p: Square, key: Value, x: Value): Square => {
  const sampled = sampledLoss((at: Square, x: Value) => square.apply(at, x), nn.gaussian);
  return valueAndGrad((at: Square) => sampled(at, key, x))(p)[1];
});
const statisticsOf = jit(layerStatistics(distance));

const halves: Readonly<Record<string, () => Halves>> = {
  adahessian() {
    // Where the diagonal happens to be small the step divides by it, and would magnify rounding.
    const method = adahessian(0.05, { period: 2, epsilon: 0.01 });
    return {
      ...method,
      isDue: (made) => method.curvatureDue(made),
      refresh: (state, { params, data, key }) =>
        method.refreshCurvature(state as never, hessianOperator(compiledDistance, params, ...data), key),
      step: (gradients, state, params) => method.step(gradients, state as never, params),
      isOnHost: false,
    };
  },
  sophia() {
    // With the default rho every step here would be that of a sign.
    const method = sophia(0.01, { period: 3, weightDecay: 0.1, rho: 10 });
    return {
      ...method,
      isDue: (made) => method.curvatureDue(made),
      refresh: (state, { params, data, key }) =>
        method.refreshCurvature(state as never, sampledSlope(params, key, data[0]), 20),
      step: (gradients, state, params) => method.step(gradients, state as never, params),
      isOnHost: false,
    };
  },
  shampoo() {
    // The moment of a bias has rank one at first: without epsilon its roots would be those of rounding noise.
    const method = shampoo(0.01, { period: 2, grafting: "adam", epsilon: 1e-3 });
    return {
      ...method,
      isDue: (made) => method.curvatureDue(made),
      refresh: (state, { gradients }) => method.refreshCurvature(state as never, gradients),
      step: (gradients, state, params) => method.step(gradients, state as never, params),
      isOnHost: true,
    };
  },
  soap() {
    const method = soap(0.01, { period: 3 });
    return {
      ...method,
      isDue: (made) => method.curvatureDue(made),
      refresh: (state) => method.refreshCurvature(state as never),
      step: (gradients, state, params) => method.step(gradients, state as never, params),
      isOnHost: true,
    };
  },
  kfac() {
    const method = kfac(kfacLayers(distance, start, inputs, targets), { learningRate: 0.05, period: 2 });
    return {
      ...method,
      isDue: (made) => method.curvatureDue(made),
      refresh: (state, { params, data }) =>
        method.refreshCurvature(method.accumulate(state as never, statisticsOf(params, ...data).layers)),
      step: (gradients, state, params) => method.step(gradients, state as never, params),
      isOnHost: true,
    };
  },
};

for (const [name, make] of Object.entries(halves)) {
  gpu(`${name}: six steps on the GPU are six steps on the host, and only a refresh reads`, async () => {
    const { init, isDue, refresh, step, isOnHost } = make();
    const compiled = jit((gradients: Square, state: never, params: Square) => {
      const [updates, next] = step(gradients, state, params);
      return [applyUpdates(params, updates as Square), next as never] as const;
    });
    const ends: number[][] = [];
    let refreshes = 0;
    for (const device of ["cpu", "webgpu"]) {
      let [params, ...data] = await devicePut([start, inputs, targets] as const, device);
      let state = init(params) as never;
      for (let i = 0; i < 6; i++) {
        const before = reads.count;
        const gradients = slopeOf(params, ...data);
        if (isDue(i)) {
          refreshes++;
          const at: At = { params, gradients, data, key: random.foldIn(random.key(6), i) };
          const found = () => refresh(state, at);
          const fresh = device === "cpu" || !isOnHost ? found() : await inPlace(found);
          if (fresh === null) return;
          state = fresh as never;
          expect(reads.count > before).toBe(device === "webgpu" && isOnHost);
        }
        const after = reads.count;
        [params, state] = compiled(gradients, state, params);
        expect(reads.count).toBe(after);
      }
      // Counters of refreshes stay on the host, which alone looks at them.
      const arrays = leaves([params, state]).filter((leaf) => leaf.ndim > 0);
      expect(new Set(arrays.map((leaf) => leaf.device))).toEqual(new Set([device]));
      ends.push(await numbersOf(params));
    }
    expect(refreshes).toBeGreaterThanOrEqual(4);
    const [host, far] = ends as [number[], number[]];
    expect(maxDifference(host, leaves(start).flatMap(list))).toBeGreaterThan(0.01);
    expect(maxDifference(far, host)).toBeLessThan(2e-5);
  });
}

gpu("FOSI: the losses of the host, one read for each refresh and none between", async () => {
  const optimizer = fosi(adam(0.01), { k: 3, l: 1, warmup: 2, period: 5, momentum: "average", clip: 1 });
  const step = jit(
    (p: Params, state: FosiState<never>, x: Value, y: Value) => {
      const [value, slope] = valueAndGrad(loss)(p, x, y);
      const [updates, next] = (optimizer as unknown as Fosi<never>).step(slope, state, p);
      return [applyUpdates(p, updates), next, value] as const;
    },
    { donate: [0, 1] },
  );
  const curves: number[][] = [];
  const spectra: number[][] = [];
  for (const device of ["cpu", "webgpu", "later"]) {
    const at = device === "cpu" ? "cpu" : "webgpu";
    const data = await devicePut([x, y] as const, at);
    // Parameters of its own, since a step takes their storage.
    let p = map((leaf) => add(leaf, 0), await devicePut(params, at));
    let state = optimizer.init(p) as unknown as FosiState<never>;
    const values: Value[] = [];
    for (let i = 0; i < 10; i++) {
      if (optimizer.curvatureDue(i)) {
        const H = hessianOperator(loss, p, ...data);
        const key = random.foldIn(random.key(7), i);
        const before = reads.count;
        const own = optimizer as unknown as Fosi<never>;
        const refresh = (): FosiState<never> => own.refreshCurvature(state, H, key);
        const refreshed = device === "cpu" ? refresh() : device === "later" ? null : await inPlace(refresh);
        state = refreshed ?? (await own.refreshCurvatureAsync(state, H, key));
        expect(reads.count - before).toBe(at === "cpu" ? 0 : 1);
        expect(state.vectors.device).toBe(at);
        spectra.push(list(state.values));
      }
      const before = reads.count;
      const [nextP, nextState, value] = step(p, state, ...data);
      expect(reads.count).toBe(before);
      [p, state] = [nextP, nextState];
      values.push(value);
    }
    expect(
      new Set([p, state.base, state.velocity].flatMap((tree) => leaves(tree).map((v) => v.device))),
    ).toEqual(new Set([at]));
    curves.push(await numbersOf(values));
  }
  const [host, far, later] = curves as [number[], number[], number[]];
  expect(host[0]! - host.at(-1)!).toBeGreaterThan(0.05);
  expect(maxDifference(far, host)).toBeLessThan(1e-5);
  expect(later).toEqual(far);
  expect(spectra).toHaveLength(6);
  expect(maxDifference(spectra[2]!, spectra[0]!)).toBeLessThan(1e-5);
  expect(maxDifference(spectra[3]!, spectra[1]!)).toBeLessThan(1e-4);
});

gpu("update is the same loop in one call", async () => {
  const optimizer = fosi(sgd(0.1), { k: 2, warmup: 1, period: 2 });
  const ends: number[][] = [];
  for (const device of ["cpu", "webgpu"]) {
    let [p, ...data] = await devicePut([params, x, y] as const, device);
    let state = optimizer.init(p);
    for (let i = 0; i < 3; i++) {
      const at = p;
      const [, slope] = valueAndGrad(loss)(p, ...data);
      const hessian = (): LinearOperator => hessianOperator(loss, at, ...data);
      const update = () => optimizer.update(slope, state, p, { hessian });
      const updated = device === "cpu" ? update() : await inPlace(update);
      if (updated === null) return;
      const [updates, next] = updated;
      [p, state] = [applyUpdates(p, updates), next];
    }
    expect(optimizer.curvatureDue(state)).toBe(optimizer.curvatureDue(3));
    ends.push(await numbersOf(p));
  }
  expect(maxDifference(ends[1]!, ends[0]!)).toBeLessThan(1e-4);
});

gpu(
  "vectors take the rows of the state without being read, fewer pairs and negligible ones too",
  async () => {
    const optimizer = fosi(sgd(0.1), { k: 2, l: 2 });
    const { options } = optimizer;
    const start = tensor([1, 2, 3, 4, 5]);
    const vectors = random.normal(random.key(4), [4, 5]);
    const spectra = [
      { values: [-2, 1, 5, 9], largest: 2 },
      { values: [3, 4], largest: 2 },
      { values: [2, 3, 4], largest: 2 },
      { values: [1e-12, 3, 0, 4], largest: 2 },
    ];
    const far = await devicePut({ start, vectors }, "webgpu");
    for (const { values, largest } of spectra) {
      const found = { values: tensor(new Float64Array(values)), largest };
      const rows = values.length;
      const of = (v: Value): Value => v.slice([0, 0], [rows, 5]);
      const host = installCurvature(optimizer.init(start), { ...found, vectors: of(vectors) }, options);
      const mixed = installCurvature(optimizer.init(far.start), { ...found, vectors: of(vectors) }, options);
      const before = reads.count;
      const state = installCurvature(
        optimizer.init(far.start),
        { ...found, vectors: of(far.vectors) },
        options,
      );
      expect(reads.count).toBe(before);
      // The smallest from the top, the largest from the bottom, zeros for what is negligible.
      const expected = Array.from({ length: 4 }, () => [0, 0, 0, 0, 0]);
      rowsOf(of(vectors)).forEach((row, i) => {
        if (Math.abs(values[i]!) > 1e-5) expected[i < rows - largest ? i : 4 - rows + i] = row;
      });
      expect(rowsOf(host.vectors)).toEqual(expected);
      for (const one of [state, mixed]) {
        expect(one.vectors.device).toBe("webgpu");
        const { vectors, rates } = await onHost({ vectors: one.vectors, rates: one.rates });
        expect(rowsOf(vectors)).toEqual(expected);
        expect(list(rates)).toEqual(list(host.rates));
      }
    }
  },
);
