/**
 * AFL: joined models are the model of all examples, for every way to spread them; averages of models are not. References
 * are the ridge regression and the least squares of all examples at once.
 */
import { expect, test } from "bun:test";
import { adoptArray } from "../../../core/create.ts";
import { ShapeError } from "../../../core/errors.ts";
import {
  add,
  argmax,
  cast,
  concat,
  eigh,
  matmul,
  mul,
  norm,
  oneHot,
  sub,
  take,
  transpose,
} from "../../../core/ops.ts";
import { foldIn, key, normal, uniform } from "../../../core/random.ts";
import { leaves } from "../../../core/tree.ts";
import type { Value } from "../../../core/value.ts";
import {
  type AflOptions,
  type AflServer,
  afl,
  joinByAbsoluteLaw,
  joinModels,
  leaveModel,
  type RidgeModel,
  randomFeatures,
  recursiveModel,
  recursiveStep,
  removeGamma,
  ridgeModel,
} from "../../../dist/federated/afl.ts";
import type { ClientData, FederatedMethod } from "../../../dist/federated/method.ts";
import { dirichlet, iid, shards } from "../../../dist/federated/partition.ts";
import { ridge, statisticsOf } from "../../../dist/federated/statistics.ts";
import { list } from "../../optim/numbers.ts";

const D = 24;
const CLASSES = 5;
const N = 240;

const draw = (seed: number, shape: readonly number[]): Value =>
  normal(foldIn(key(19), seed), shape, { dtype: "float64" });
const relative = (x: Value, y: Value): number => norm(sub(x, y)).item() / norm(y).item();

/** Points around one of five centres, near enough to overlap, with 24 features of them. */
const labels = Int32Array.from(
  uniform(key(3), [N], { max: CLASSES, dtype: "float64" }).dataSync(),
  Math.floor,
);
const targetsOf = (y: Value): Value => oneHot(y, CLASSES, { dtype: "float64" });
const y = adoptArray(labels);
const raw = add(take(mul(draw(0, [CLASSES, 6]), 1.5), y), draw(1, [N, 6]));
const features = randomFeatures({ inputs: 6, width: D, seed: 2 });
const x = features(raw);
const targets = targetsOf(y);

const dataOf = (own: Int32Array, of: Value): ClientData => {
  const at = adoptArray(own.slice());
  return { x: take(of, at), y: take(y, at) };
};
const modelOf = (own: Int32Array, gamma: number): RidgeModel => {
  const data = dataOf(own, x);
  return ridgeModel(statisticsOf(data.x, targetsOf(data.y)), gamma);
};
const everything = statisticsOf(x, targets);
const leastSquares = ridge(everything, 0);

/** Partitions with clients of one example, of one class, and of fewer examples than features. */
const partitions: readonly (readonly [string, readonly Int32Array[]])[] = [
  ["one client", [Int32Array.from(labels, (_, i) => i)]],
  ["dirichlet:0.1 of 10", dirichlet(labels, 10, { alpha: 0.1, seed: 1 })],
  ["shards:1 of 20", shards(labels, 20, { classes: 1, seed: 2 })],
  ["iid of 40", iid(labels, 40, { seed: 3 })],
  ["one example each", iid(labels, N, { seed: 3, minimum: 1 })],
];

test("joined models are the ridge regression of all examples with the gamma of all", () => {
  for (const [, parts] of partitions) {
    const joint = joinModels(parts.map((own) => modelOf(own, 0.5)));
    expect(joint.gamma.item()).toBe(parts.length * 0.5);
    expect(relative(joint.weights, ridge(everything, parts.length * 0.5))).toBeLessThan(1e-10);
  }
});

test("without the gamma of the clients they are the least squares of all examples", () => {
  for (const [name, parts] of partitions) {
    const joint = joinModels(parts.map((own) => modelOf(own, 1)));
    const found = removeGamma(joint);
    expect([name, relative(found.weights, leastSquares) < 1e-8]).toEqual([name, true]);
    const kept = removeGamma(joint, 3);
    expect(relative(kept.weights, ridge(everything, 3))).toBeLessThan(1e-9);
  }
});

test("one by one, all at once, in any order and in the form of the law with inverses, models join to the same", () => {
  const models = partitions[1]![1].map((own) => modelOf(own, 1));
  const whole = joinModels(models);
  const folded = models.reduce((a, b) => joinModels([a, b]));
  const byLaw = models.reduce(joinByAbsoluteLaw);
  const reversed = joinModels([...models].reverse());
  const inPairs = joinModels([joinModels(models.slice(0, 3)), joinModels(models.slice(3))]);
  for (const other of [folded, byLaw, reversed, inPairs]) {
    expect(relative(other.weights, whole.weights)).toBeLessThan(1e-10);
    expect(relative(other.gram, whole.gram)).toBeLessThan(1e-13);
    expect(other.gamma.item()).toBe(models.length);
  }
});

test("one model joined is itself, and none is an error", () => {
  const model = modelOf(partitions[1]![1][0]!, 1);
  expect(relative(joinModels([model]).weights, model.weights)).toBeLessThan(1e-12);
  expect(() => joinModels([])).toThrow(RangeError);
});

const accuracy = (weights: Value, of = x): number => {
  const found = list(argmax(matmul(of, weights), { axis: 1 }));
  return found.filter((c, i) => c === labels[i]).length / N;
};

test("the average of the clients' models, weighted by their examples, is far off where clients differ", () => {
  const parts = dirichlet(labels, 10, { alpha: 0.1, seed: 1 });
  const models = parts.map((own) => modelOf(own, 1));
  const average = models
    .map(({ weights }, client) => mul(weights, parts[client]!.length / N))
    .reduce((a, b) => add(a, b));
  const joined = removeGamma(joinModels(models)).weights;
  expect(accuracy(joined)).toBe(accuracy(leastSquares));
  expect(accuracy(joined)).toBeGreaterThan(0.6);
  expect(accuracy(joined) - accuracy(average)).toBeGreaterThan(0.05);
});

test("where the examples do not determine a model, it is the one of least norm", () => {
  // Nine examples in all, of 24 features, and one feature that is always zero.
  const few = mul(take(x, adoptArray(Int32Array.from({ length: 9 }, (_, i) => i))), mask(D, 5));
  const few_y = take(targets, adoptArray(Int32Array.from({ length: 9 }, (_, i) => i)));
  const parts = [
    [0, 4],
    [4, 5],
    [5, 9],
  ] as const;
  const models = parts.map(([start, end]) =>
    ridgeModel(statisticsOf(few.slice([start, 0], [end, D]), few_y.slice([start, 0], [end, CLASSES])), 1),
  );
  const { weights } = removeGamma(joinModels(models));
  // Xᵀ (X Xᵀ)⁻¹ Y fits all examples, and is shortest: it is in the span of the examples.
  const [values, vectors] = eigh(matmul(few, transpose(few)));
  const inverse = matmul(mul(vectors, values.pow(-1)), transpose(vectors));
  const expected = matmul(transpose(few), matmul(inverse, few_y));
  expect(list(values)[0]!).toBeGreaterThan(1e-6);
  expect(relative(matmul(few, expected), few_y)).toBeLessThan(1e-9);
  expect(relative(weights, expected)).toBeLessThan(1e-8);
});

/** Ones, with a zero at one place. */
function mask(n: number, zero: number): Value {
  return adoptArray(Float64Array.from({ length: n }, (_, i) => (i === zero ? 0 : 1)));
}

test("a model without a client is that of the others, and with one that is late that of all", () => {
  const models = partitions[1]![1].map((own) => modelOf(own, 1));
  const whole = joinModels(models);
  for (const k of [0, 4, 9]) {
    const others = joinModels(models.filter((_, i) => i !== k));
    const left = leaveModel(whole, models[k]!);
    expect(relative(left.weights, others.weights)).toBeLessThan(1e-10);
    expect(left.gamma.item()).toBe(9);
    expect(relative(removeGamma(left).weights, removeGamma(others).weights)).toBeLessThan(1e-8);
    expect(relative(joinModels([left, models[k]!]).weights, whole.weights)).toBeLessThan(1e-10);
  }
  expect(() => leaveModel(models[0]!, models[0]!)).toThrow(/without a client/);
});

test("recursive least squares is ridge regression, for batches of any size and order", () => {
  const expected = ridge(everything, 2);
  for (const size of [3, 70, N]) {
    let model = recursiveModel(D, CLASSES, 2);
    for (let end = N; end > 0; end -= size) {
      const start = Math.max(end - size, 0);
      model = recursiveStep(model, x.slice([start, 0], [end, D]), targets.slice([start, 0], [end, CLASSES]));
    }
    expect(relative(model.weights, expected)).toBeLessThan(1e-10);
  }
  expect(() => recursiveModel(2, 1, 0)).toThrow(RangeError);
});

const options: AflOptions = { features, width: D, classes: CLASSES };

/** One round with the answers of these clients, null for others. */
function round<S, C>(
  method: FederatedMethod<S, C>,
  parts: readonly Int32Array[],
  isPresent: (client: number) => boolean = () => true,
  server: S = method.initServer(),
): S {
  const answers = parts.map((own, client) => {
    if (!isPresent(client)) return null;
    const at = { round: 0, client, clients: parts.length };
    const received = method.broadcast(server, 0);
    return method.client(method.initClient(client), dataOf(own, raw), received, at)[1];
  });
  return method.server(server, answers, 0);
}

test("as a method, both forms of messages give the model of all examples", () => {
  for (const [, parts] of partitions.slice(0, 4)) {
    const sums = round(afl({ ...options, gamma: 2 }), parts);
    expect(relative(sums.weights, ridge(everything, 2))).toBeLessThan(1e-10);
    const removed = round(afl({ ...options, gamma: 2, message: "model" }), parts);
    expect(relative(removed.weights, leastSquares)).toBeLessThan(1e-8);
    const kept = round(afl({ ...options, gamma: 2, message: "model", kept: 2 }), parts);
    expect(relative(kept.weights, sums.weights)).toBeLessThan(1e-9);
  }
});

test("batches of features change the model by rounding alone", () => {
  const whole = round(afl(options), partitions[1]![1]);
  for (const batch of [5, 17]) {
    const { weights } = round(afl({ ...options, batch }), partitions[1]![1]);
    expect(relative(weights, whole.weights)).toBeLessThan(1e-10);
  }
});

test("clients that are absent are not in the model, and join it in a later round", () => {
  const parts = partitions[1]![1];
  const isThere = (client: number): boolean => client % 3 !== 1;
  const there = parts.filter((_, client) => isThere(client));
  for (const message of ["statistics", "model"] as const) {
    const method = afl({ ...options, message, kept: 1 });
    const first = round(method, parts, isThere);
    expect(relative(first.weights, round(method, there).weights)).toBeLessThan(1e-9);
    const second = round(method, parts, (client) => !isThere(client), first);
    expect(relative(second.weights, round(method, parts).weights)).toBeLessThan(1e-9);
    const none = round(method, parts, () => false, first);
    expect(list(none.weights)).toEqual(list(first.weights));
  }
});

test("the bytes of a message are those of its elements, and all that is received is the model at the end", () => {
  const formula = {
    statistics: 8 * ((D * (D + 1)) / 2 + D * CLASSES + 1),
    model: 8 * ((D * (D + 1)) / 2 + D * CLASSES),
  };
  for (const message of ["statistics", "model"] as const) {
    const method = afl({ ...options, message });
    const at = { round: 0, client: 0, clients: 1 };
    const [, sent] = method.client({}, dataOf(partitions[1]![1][0]!, raw), {}, at);
    const bytes = leaves(sent).reduce((sum, leaf) => sum + leaf.dataSync().byteLength, 0);
    expect(method.bytes(0)).toEqual({ received: 0, sent: bytes });
    expect(bytes).toBe(formula[message]);
    expect(leaves(method.broadcast(method.initServer(), 0)).length).toBe(0);
    const model = leaves(method.model(method.server(method.initServer(), [sent], 0)));
    expect(model.map((leaf) => leaf.shape)).toEqual([[D, CLASSES]]);
    expect(method.bytes(1)).toEqual({ received: 8 * D * CLASSES, sent: 0 });
  }
});

test("scores are those of the linear model on features", () => {
  const method = afl(options);
  const server = round(method, partitions[1]![1]);
  const scores = method.scores(method.model(server), raw);
  expect(scores.shape).toEqual([N, CLASSES]);
  expect(relative(scores, matmul(x, server.weights))).toBeLessThan(1e-14);
  expect(accuracy(server.weights)).toBeGreaterThan(0.6);
});

test("a server that cannot solve says so with gamma", () => {
  const method: FederatedMethod<AflServer, Record<string, never>> = afl({ ...options, gamma: 0 });
  expect(() => round(method, [new Int32Array([1, 2, 3])])).toThrow(/the model of AFL: with gamma 0/);
});

test("features are drawn from their seed alone, and an example has its features in any batch", () => {
  const again = randomFeatures({ inputs: 6, width: D, seed: 2 });
  expect(list(again(raw))).toEqual(list(x));
  const other = randomFeatures({ inputs: 6, width: D, seed: 3 });
  expect(relative(other(raw), x)).toBeGreaterThan(0.1);
  const image = raw.reshape([N, 1, 2, 3]);
  expect(list(features(image))).toEqual(list(x));
  const halves = concat([features(raw.slice([0, 0], [7, 6])), features(raw.slice([7, 0], [N, 6]))]);
  expect(relative(halves, x)).toBeLessThan(1e-15);
  expect(() => features(draw(0, [3, 5]))).toThrow(ShapeError);
});

test("statistics summed in float32 lose digits that float64 keeps", () => {
  const narrow = cast(x, "float32");
  const single = {
    gram: cast(matmul(transpose(narrow), narrow), "float64"),
    cross: cast(matmul(transpose(narrow), cast(targets, "float32")), "float64"),
    count: everything.count,
  };
  const exact = ridge(statisticsOf(narrow, targets), 0.01);
  const loss = relative(ridge(single, 0.01), exact);
  expect(loss).toBeGreaterThan(1e-8);
  expect(loss).toBeLessThan(1e-2);
});
