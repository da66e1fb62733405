/** FedACnnL: the network of all clients is that of all examples, and each layer is the least squares it says. */
import { expect, test } from "bun:test";
import { eye, full, ones, tensor } from "../../../core/create.ts";
import { ShapeError } from "../../../core/errors.ts";
import {
  add,
  concat,
  conv,
  div,
  eigh,
  matmul,
  max,
  maxPool,
  mean,
  mul,
  norm,
  oneHot,
  relu,
  reshape,
  slice,
  solve,
  sqrt,
  sub,
  sum,
  take,
  tanh,
  transpose,
} from "../../../core/ops.ts";
import { key, normal } from "../../../core/random.ts";
import { leaves } from "../../../core/tree.ts";
import type { Value } from "../../../core/value.ts";
import {
  type AnalyticFilters,
  type AnalyticLayer,
  analyticNetwork,
  forward,
  type Geometry,
  geometryOf,
  patches,
  pseudoLabels,
} from "../../../dist/federated/acnnl.ts";
import { type FedAcnnlOptions, fedacnnl } from "../../../dist/federated/fedacnnl.ts";
import type { ClientData, FederatedMethod } from "../../../dist/federated/method.ts";
import type { PackedStatistics } from "../../../dist/federated/statistics.ts";

const f64 = { dtype: "float64" } as const;
const EVERY: readonly AnalyticFilters[] = ["ls", "shared", "random", "half"];

/** Images of `classes` kinds: each a pattern of its own in noise. */
function images(n: number, shape: readonly number[], classes: number, seed = 1): ClientData {
  const patterns = normal(key(seed), [classes, ...shape], f64);
  const labels = Int32Array.from({ length: n }, (_, i) => (i * i + (i >> 2)) % classes);
  const y = tensor(labels);
  return { x: add(take(patterns, y), normal(key(seed + 1), [n, ...shape], f64)), y };
}

function rows({ x, y }: ClientData, which: readonly number[]): ClientData {
  const at = tensor(which as number[], { dtype: "int32" });
  return { x: take(x, at), y: take(y, at) };
}

function trained<S, C>(method: FederatedMethod<S, C>, clients: readonly ClientData[]): S {
  let server = method.initServer();
  for (let round = 0; round < method.rounds; round++) {
    const sent = clients.map((data, client) => {
      const at = { round, client, clients: clients.length };
      return method.client(method.initClient(client), data, method.broadcast(server, round), at)[1];
    });
    server = method.server(server, sent, round);
  }
  return server;
}

/** The largest difference, in units of the largest number. */
function apart(a: Value, b: Value): number {
  return max(sub(a, b).abs()).item() / max(b.abs()).item();
}

const count = (payload: unknown): number => leaves(payload).reduce((all, x) => all + (x as Value).size, 0);

const small: FedAcnnlOptions = {
  image: [2, 9, 8],
  classes: 3,
  layers: [
    { k: "conv", channels: 5, kernel: 3 },
    { k: "conv", channels: 6, kernel: 2, stride: 2, pool: false, activation: "tanh" },
    { k: "dense", width: 7 },
  ],
  headGamma: 2,
  seed: 4,
};
const all = images(60, [2, 9, 8], 3);
const indices = Array.from({ length: 60 }, (_, i) => i);

for (const filters of EVERY) {
  test(`the layers do not depend on clients, their order or their batches (${filters})`, () => {
    const alone = trained(fedacnnl({ ...small, filters }), [all]);
    const labels = all.y.dataSync();
    const byClass = [0, 1, 2].map((c) => indices.filter((i) => labels[i] === c));
    const splits: readonly (readonly (readonly number[])[])[] = [
      [indices.slice(0, 1), indices.slice(1, 20), indices.slice(20)],
      [...byClass].reverse(),
      [0, 1, 2, 3, 4, 5, 6].map((k) => indices.filter((i) => i % 7 === k)),
    ];
    for (const [s, split] of splits.entries()) {
      const batch = s === 0 ? 7 : ({ client }: { client: number }): number => 1 + 3 * client;
      const clients = split.map((which) => rows(all, which));
      const server = trained(fedacnnl({ ...small, filters, batch }), clients);
      expect(server.layers.length).toBe(4);
      for (const [l, { weights }] of server.layers.entries()) {
        expect(apart(weights, alone.layers[l]!.weights)).toBeLessThan(1e-10);
      }
    }
  });
}

test("patches times filters are a convolution", () => {
  const sizes: readonly (readonly [number, number])[] = [
    [6, 6],
    [7, 5],
    [5, 8],
  ];
  let cases = 0;
  for (const [h, w] of sizes) {
    for (const kernel of [1, 2, 3, 5]) {
      for (const stride of [1, 2]) {
        for (const padding of [0, 1, 2]) {
          if (padding >= kernel) continue;
          const layer: AnalyticLayer = { k: "conv", channels: 4, kernel, stride, padding, pool: false };
          const [geometry] = geometryOf({ image: [3, h, w], classes: 2, layers: [layer] });
          const x = normal(key(5), [2, 3, h, w], f64);
          const filters = normal(key(6), [4, 3, kernel, kernel], f64);
          const bias = normal(key(7), [4], f64);
          const around: readonly [number, number] = [padding, padding];
          const wanted = conv(x, filters, { strides: stride, padding: [around, around] });
          const matrix = concat(
            [reshape(transpose(filters, [2, 3, 1, 0]), [kernel * kernel * 3, 4]), reshape(bias, [1, 4])],
            { axis: 0 },
          );
          const found = matmul(patches(transpose(x, [0, 2, 3, 1]), geometry!, ones([2], f64)), matrix);
          const plain = add(transpose(wanted, [0, 2, 3, 1]), bias);
          expect(reshape(found, plain.shape).shape).toEqual([2, ...geometry!.positions, 4]);
          expect(apart(reshape(found, plain.shape), plain)).toBeLessThan(1e-13);
          cases++;
        }
      }
    }
  }
  expect(cases).toBe(54);
});

test("a layer is a convolution, an activation and 2 x 2 max-pooling", () => {
  for (const [h, w] of [
    [6, 8],
    [7, 5],
  ] as const) {
    for (const [activation, act] of [
      ["relu", relu],
      ["tanh", tanh],
    ] as const) {
      const [geometry] = geometryOf({
        image: [2, h, w],
        classes: 2,
        layers: [{ k: "conv", channels: 3, kernel: 3, activation }],
      });
      const x = normal(key(8), [4, 2, h, w], f64);
      const weights = normal(key(9), [19, 3], f64);
      const filters = transpose(reshape(slice(weights, [0, 0], [18, 3]), [3, 3, 2, 3]), [3, 2, 0, 1]);
      const z = add(
        conv(x, filters, { padding: "same" }),
        reshape(slice(weights, [18, 0], [19, 3]), [3, 1, 1]),
      );
      const wanted = transpose(maxPool(act(z), { window: 2 }), [0, 2, 3, 1]);
      const found = forward(transpose(x, [0, 2, 3, 1]), weights, geometry!);
      expect(found.shape).toEqual(wanted.shape);
      expect(apart(found, wanted)).toBeLessThan(1e-13);
    }
  }
});

/** G, B and the number of rows by loops over images, positions, patches and filters. */
function byLoops(
  data: ClientData,
  geometry: Geometry,
  q: Value,
): { gram: Value; cross: Value; rows: number } {
  const [h, w, c] = geometry.input;
  const { kernel, stride, padding, features: d, width } = geometry;
  const [high, wide] = geometry.positions;
  const x = data.x.dataSync();
  const y = data.y.dataSync();
  const labels = q.dataSync();
  const n = y.length;
  const gram = new Float64Array(d * d);
  const cross = new Float64Array(d * width);
  for (let i = 0; i < n; i++) {
    for (let r = 0; r < high; r++) {
      for (let s = 0; s < wide; s++) {
        const patch: number[] = [];
        for (let u = 0; u < kernel; u++) {
          for (let v = 0; v < kernel; v++) {
            for (let k = 0; k < c; k++) {
              const [a, b] = [r * stride + u - padding, s * stride + v - padding];
              const inside = a >= 0 && a < h && b >= 0 && b < w;
              patch.push(inside ? x[((i * c + k) * h + a) * w + b]! : 0);
            }
          }
        }
        patch.push(1);
        for (let j = 0; j < d; j++) {
          for (let k = 0; k < d; k++) gram[j * d + k]! += patch[j]! * patch[k]!;
          for (let k = 0; k < width; k++) {
            const at = (y[i]! * high * wide + r * wide + s) * width + k;
            cross[j * width + k]! += patch[j]! * labels[at]!;
          }
        }
      }
    }
  }
  return {
    gram: reshape(tensor(gram), [d, d]),
    cross: reshape(tensor(cross), [d, width]),
    rows: n * high * wide,
  };
}

test("the sums of a layer are those of patches with pseudo-labels for each position and class", () => {
  const layer: AnalyticLayer = { k: "conv", channels: 3, kernel: 3, stride: 2 };
  const data = images(11, [2, 6, 7], 3);
  const network = analyticNetwork({ image: [2, 6, 7], classes: 3, layers: [layer], seed: 9 });
  const [geometry] = network.layers;
  const q = pseudoLabels({ seed: 9, layer: 0, classes: 3, positions: 12, width: 3 });
  const wanted = byLoops(data, geometry!, q);
  const found = network.statistics(data, [], 4);
  expect(apart(found.gram, wanted.gram)).toBeLessThan(1e-13);
  expect(apart(found.cross, wanted.cross)).toBeLessThan(1e-13);
  expect(found.count.item()).toBe(wanted.rows);
});

test("the sums of a shared layer have the same pseudo-labels at all positions", () => {
  const layer: AnalyticLayer = { k: "conv", channels: 3, kernel: 2 };
  const data = images(9, [1, 4, 4], 2);
  const network = analyticNetwork({ image: [1, 4, 4], classes: 2, layers: [layer], filters: "shared" });
  const [geometry] = network.layers;
  const positions = geometry!.positions[0] * geometry!.positions[1];
  const q = pseudoLabels({ seed: 0, layer: 0, classes: 2, positions: 1, width: 3 });
  const spread = concat(
    Array.from({ length: positions }, () => q),
    { axis: 1 },
  );
  expect(
    apart(network.statistics(data, [], null).cross, byLoops(data, geometry!, spread).cross),
  ).toBeLessThan(1e-13);
});

test("a 1 x 1 convolution of a 1 x 1 map is a dense layer", () => {
  const data = images(30, [6, 1, 1], 3);
  const options = { image: [6, 1, 1], classes: 3, seed: 2 } as const;
  const flat = trained(fedacnnl({ ...options, layers: [{ k: "dense", width: 4 }] }), [data]);
  const conv1 = fedacnnl({ ...options, layers: [{ k: "conv", channels: 4, kernel: 1, pool: false }] });
  const folded = trained(conv1, [data]);
  // By hand: least squares of Q by the rows and a 1.
  const x = concat([reshape(data.x, [30, 6]), ones([30, 1], f64)], { axis: 1 });
  const q = reshape(pseudoLabels({ seed: 2, layer: 0, classes: 3, positions: 1, width: 4 }), [3, 4]);
  const gram = matmul(transpose(x), x);
  const gamma = (0.01 * sum(mul(gram, eye(7, 7, f64))).item()) / 7;
  const left = sub(
    matmul(add(gram, mul(eye(7, 7, f64), gamma)), mul(folded.layers[0]!.weights, folded.layers[0]!.scale)),
    matmul(transpose(x), take(q, data.y)),
  );
  expect(max(left.abs()).item()).toBeLessThan(1e-10);
  for (const [l, { weights }] of flat.layers.entries()) {
    expect(apart(weights, folded.layers[l]!.weights)).toBeLessThan(1e-12);
  }
});

test("everyone draws the same pseudo-labels of a seed and layer, and others of another", () => {
  const of = { seed: 3, layer: 1, classes: 4, positions: 6, width: 5 };
  expect(pseudoLabels(of).toArray()).toEqual(pseudoLabels(of).toArray());
  for (const other of [
    { ...of, seed: 4 },
    { ...of, layer: 2 },
  ]) {
    expect(apart(pseudoLabels(other), pseudoLabels(of))).toBeGreaterThan(0.1);
  }
});

test("shared pseudo-labels give filters of a rank of at most the number of classes, those of positions do not", () => {
  const options = { image: [1, 8, 8], classes: 3, layers: [{ k: "conv", channels: 9, kernel: 3 }] } as const;
  const data = images(50, [1, 8, 8], 3);
  const rank = (filters: AnalyticFilters): number => {
    const { weights } = trained(fedacnnl({ ...options, filters }), [data]).layers[0]!;
    const [values] = eigh(matmul(transpose(weights), weights));
    const found = [...values.dataSync()];
    return found.filter((v) => v > 1e-12 * Math.max(...found)).length;
  };
  expect(rank("shared")).toBe(3);
  expect(rank("ls")).toBe(9);
});

test("each layer solves its normal equations, and its filters answer with a mean square of 1", () => {
  const method = fedacnnl(small);
  const network = analyticNetwork(small);
  const { layers } = trained(method, [all]);
  for (const [l, { weights, scale }] of layers.entries()) {
    const before = layers.slice(0, l).map((layer) => layer.weights);
    const { gram, cross, count: n } = network.statistics(all, before, null);
    const d = gram.shape[0]!;
    const isHead = l === layers.length - 1;
    const gamma = isHead ? 2 : (0.01 * sum(mul(gram, eye(d, d, f64))).item()) / d;
    const residual = sub(matmul(add(gram, mul(eye(d, d, f64), gamma)), mul(weights, scale)), cross);
    expect(norm(residual).item()).toBeLessThan(1e-9 * norm(cross).item());
    if (isHead) continue;
    const p = patches(mapsBefore(network.layers, before, all.x), network.layers[l]!, ones([60], f64));
    expect(p.shape[0]).toBe(n.item());
    const answers = matmul(p, weights);
    expect(apart(mean(mul(answers, answers), { axis: 0 }), ones([weights.shape[1]!], f64))).toBeLessThan(
      1e-10,
    );
  }
});

/** The maps that a layer sees. */
function mapsBefore(layers: readonly Geometry[], before: readonly Value[], x: Value): Value {
  let map = transpose(x, [0, 2, 3, 1]);
  for (const [l, w] of before.entries()) map = forward(map, w, layers[l]!);
  return map;
}

test("random filters are those of the seed, whatever the examples are, and those of layers differ", () => {
  const layers = [5, 5].map((channels): AnalyticLayer => ({ k: "conv", channels, kernel: 1, pool: false }));
  const drawn = (seed: number, data: ClientData): Value[] => {
    const method = fedacnnl({ image: [5, 4, 4], classes: 3, layers, filters: "random", seed });
    return trained(method, [data]).layers.map(({ weights, scale }) => mul(weights, scale));
  };
  const [one, other] = [1, 50].map((s) => drawn(0, images(20, [5, 4, 4], 3, s)));
  expect(apart(one![0]!, other![0]!)).toBeLessThan(1e-13);
  expect(apart(one![1]!, other![1]!)).toBeLessThan(1e-13);
  expect(apart(one![0]!, one![1]!)).toBeGreaterThan(0.1);
  expect(apart(one![0]!, drawn(1, images(20, [5, 4, 4], 3))[0]!)).toBeGreaterThan(0.1);
});

test("random filters have nothing to do with the pseudo-labels of any layer", () => {
  // As many numbers as there are pseudo-labels, so that one key would give the same ones: 11 + 1 = 3 * 2 * 2.
  const layers = [11, 50].map((channels): AnalyticLayer => ({ k: "conv", channels, kernel: 1, pool: false }));
  for (const filters of ["random", "half"] as const) {
    for (const seed of [0, 1]) {
      const options = { image: [11, 2, 2] as const, classes: 3, layers, filters, seed };
      const fitted = trained(fedacnnl(options), [images(60, [11, 2, 2], 3)]).layers.slice(0, 2);
      for (const [l, { weights, scale }] of fitted.entries()) {
        // The random ones are the last: all, or half of them.
        const many = filters === "random" ? [11, 50][l]! : [6, 25][l]!;
        const raw = mul(weights, scale);
        const drawn = slice(raw, [0, raw.shape[1]! - many], [12, raw.shape[1]!]).reshape([-1]);
        for (const layer of [0, 1]) {
          const q = pseudoLabels({ seed, layer, classes: 3, positions: 4, width: many }).reshape([-1]);
          const cosine = sum(mul(q, drawn)).item() / (norm(q).item() * norm(drawn).item());
          // Of n independent numbers it is 1 / sqrt(n) or so.
          expect(Math.abs(cosine)).toBeLessThan(4 / Math.sqrt(q.size));
        }
      }
    }
  }
});

test("the fitted half is white, and tells the classes apart better than any other directions", () => {
  const options: FedAcnnlOptions = {
    image: [1, 6, 6],
    classes: 3,
    layers: [{ k: "conv", channels: 6, kernel: 3 }],
    gamma: 1e-6,
    filters: "half",
  };
  const data = images(80, [1, 6, 6], 3);
  const network = analyticNetwork(options);
  const { weights } = trained(fedacnnl(options), [data]).layers[0]!;
  const p = patches(mapsBefore(network.layers, [], data.x), network.layers[0]!, ones([80], f64));
  // How much of the mean square of an answer is that of its means over a class at a position, less those at the position.
  const explained = (w: Value): Value => {
    const answers = reshape(matmul(p, w), [80, 36, w.shape[1]!]);
    const kinds = oneHot(data.y, 3, f64);
    const share = mean(kinds, { axis: 0 });
    const flat = reshape(answers, [80, 36 * w.shape[1]!]);
    const sums = matmul(transpose(kinds), flat);
    const centred = sub(sums, matmul(reshape(share, [3, 1]), sum(flat, { axis: 0, keepDims: true })));
    const bySquare = sum(reshape(mul(centred, centred), [3 * 36, w.shape[1]!]), { axis: 0 });
    return div(
      bySquare,
      sum(mul(reshape(answers, [80 * 36, -1]), reshape(answers, [80 * 36, -1])), { axis: 0 }),
    );
  };
  const fitted = slice(weights, [0, 0], [10, 3]);
  const responses = matmul(p, fitted);
  expect(apart(div(matmul(transpose(responses), responses), 80 * 36), eye(3, 3, f64))).toBeLessThan(1e-4);
  const best = explained(fitted).dataSync();
  expect(best[2]!).toBeGreaterThan(best[1]!);
  expect(best[1]!).toBeGreaterThan(best[0]!);
  const others = explained(normal(key(3), [10, 200], f64));
  expect(best[2]!).toBeGreaterThan(max(others).item());
});

for (const filters of EVERY) {
  test(`bytes of a round are those of the numbers that travel (${filters})`, () => {
    const method = fedacnnl({ ...small, filters });
    let server = method.initServer();
    for (let round = 0; round < method.rounds; round++) {
      const received = method.broadcast(server, round);
      const [, sent] = method.client({}, all, received, { round, client: 0, clients: 1 });
      expect(method.bytes(round)).toEqual({ received: 8 * count(received), sent: 8 * count(sent) });
      server = method.server(server, [sent], round);
    }
  });
}

test("the example of two layers on 28 x 28 images sends what its triangles and right sides have", () => {
  const layers = [16, 32].map((channels): AnalyticLayer => ({ k: "conv", channels, kernel: 3 }));
  const method = fedacnnl({ image: [1, 28, 28], classes: 10, layers });
  const sent = [0, 1, 2].map((round) => method.bytes(round).sent);
  expect(sent).toEqual([8 * (55 + 160 + 1), 8 * (10_585 + 145 * 32 + 1), 8 * (1_231_665 + 15_690 + 1)]);
});

test("a client that was away and comes back is in the sums of the layers for which it is there, and of no others", () => {
  const method = fedacnnl(small);
  const { layers: geometry } = analyticNetwork(small);
  const head = geometry.length - 1;
  const parts = [indices.slice(0, 24), indices.slice(24, 40), indices.slice(40)];
  /** Layer l by all patches and targets of these clients at once, after the layers that were found like that. */
  const byHand = (l: number, clients: readonly number[], before: readonly Value[]): Value => {
    const { x, y } = rows(
      all,
      clients.flatMap((client) => parts[client]!),
    );
    const { positions, width, features } = geometry[l]!;
    const p = patches(mapsBefore(geometry, before, x), geometry[l]!, ones([y.size], f64));
    const places = positions[0] * positions[1];
    const labels = pseudoLabels({ seed: 4, layer: l, classes: 3, positions: places, width });
    const targets = l === head ? oneHot(y, 3, f64) : reshape(take(labels, y), [p.shape[0]!, width]);
    const gram = matmul(transpose(p), p);
    const diagonal = sum(mul(gram, eye(features, features, f64))).item();
    const gamma = l === head ? 2 : (0.01 * diagonal) / features;
    const w = solve(add(gram, mul(eye(features, features, f64), gamma)), matmul(transpose(p), targets));
    const answers = matmul(p, w);
    return l === head ? w : div(w, sqrt(mean(mul(answers, answers), { axis: 0 })));
  };
  const there = [[1, 2], [0, 1], [0, 2], [0]];
  expect(there.length).toBe(method.rounds);
  let server = method.initServer();
  const found: Value[] = [];
  for (const [round, present] of there.entries()) {
    const message = method.broadcast(server, round);
    const sent = parts.map((which, client) => {
      const at = { round, client, clients: 3 };
      return present.includes(client) ? method.client({}, rows(all, which), message, at)[1] : null;
    });
    server = method.server(server, sent, round);
    const { weights } = server.layers[round]!;
    const wanted = byHand(round, present, found);
    expect(apart(weights, wanted)).toBeLessThan(1e-10);
    for (const others of [[0], [1], [2], [0, 1], [0, 2], [1, 2], [0, 1, 2]]) {
      if (others.join() === present.join()) continue;
      expect(apart(weights, byHand(round, others, found))).toBeGreaterThan(1e-3);
    }
    found.push(wanted);
  }
  expect(server.layers.length).toBe(method.rounds);
  expect(() => method.server(server, [null, null], 1)).toThrow(/fit layer 2: none of 2 clients/);
});

test("scores are those of the maps and a 1 times the head", () => {
  const method = fedacnnl(small);
  const server = trained(method, [all]);
  const headless = method.scores(method.model({ layers: server.layers.slice(0, -1) }), all.x);
  expect([...headless.shape, max(headless.abs()).item()]).toEqual([60, 3, 0]);
  const weights = server.layers.map((layer) => layer.weights);
  const network = analyticNetwork(small);
  const h = reshape(mapsBefore(network.layers, weights.slice(0, -1), all.x), [60, 7]);
  const wanted = matmul(concat([h, ones([60, 1], f64)], { axis: 1 }), weights.at(-1)!);
  const scores = method.scores(method.model(server), all.x);
  expect(apart(scores, wanted)).toBeLessThan(1e-13);
  expect(apart(method.scores(method.model(server), reshape(all.x, [60, 144])), scores)).toBe(0);
  // Each class has a pattern of its own: the network must find it.
  const right = mean(scores.argmax({ axis: 1 }).equal(all.y).astype("float32")).item();
  expect(right).toBeGreaterThan(0.9);
});

test("float32 images give the network of the same numbers in float64", () => {
  const single = { x: all.x.astype("float32"), y: all.y };
  const double = { x: single.x.astype("float64"), y: all.y };
  const [a, b] = [single, double].map((data) => trained(fedacnnl(small), [data]));
  for (const [l, { weights }] of a!.layers.entries()) expect(apart(weights, b!.layers[l]!.weights)).toBe(0);
});

test("a singular layer is an error that names the layer and gamma", () => {
  const blank = { x: full([5, 1, 4, 4], 0), y: all.y.slice([0], [5]) };
  for (const filters of ["ls", "half"] as const) {
    const layers: readonly AnalyticLayer[] = [{ k: "conv", channels: 2, kernel: 3 }];
    const method = fedacnnl({ image: [1, 4, 4], classes: 3, layers, gamma: 0, filters });
    const { client, server } = method;
    const [, sent] = client({}, blank, { weights: [] }, { round: 0, client: 0, clients: 1 });
    expect(() => server({ layers: [] }, [sent], 0)).toThrow(/layer 1: with gamma 0 .* larger gamma/);
  }
  const bare = fedacnnl({ image: [1, 4, 4], classes: 3, layers: [], headGamma: 0 });
  const [, sent] = bare.client({}, blank, { weights: [] }, { round: 0, client: 0, clients: 1 });
  expect(() => bare.server({ layers: [] }, [sent as PackedStatistics], 0)).toThrow(/the head: with gamma 0/);
});

test("what does not fit is an error", () => {
  const layers = (layer: AnalyticLayer): FedAcnnlOptions => ({
    image: [1, 3, 3],
    classes: 2,
    layers: [layer, layer],
  });
  expect(() => fedacnnl(layers({ k: "conv", channels: 2, kernel: 3 }))).toThrow(/layer 2: of a map of 1 x 1/);
  expect(() => fedacnnl(layers({ k: "conv", channels: 0, kernel: 3 }))).toThrow(/layer 1: its channels is 0/);
  expect(() => fedacnnl(layers({ k: "dense", width: 1.5 }))).toThrow(/its width is 1.5/);
  const method = fedacnnl({ ...small, batch: 0 });
  const at = { round: 0, client: 3, clients: 4 };
  expect(() => method.client({}, all, { weights: [] }, at)).toThrow(/batches of 0 images at client 3/);
  const wrong = { x: ones([4, 7]), y: all.y };
  expect(() => fedacnnl(small).client({}, wrong, { weights: [] }, at)).toThrow(ShapeError);
});
