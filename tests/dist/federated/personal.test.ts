/** pFedACnnL: closed forms are minimisers of what they say they minimise, and a method uses them on each client's own examples. */
import { expect, test } from "bun:test";
import { grad } from "../../../autodiff/vjp.ts";
import { eye, tensor } from "../../../core/create.ts";
import {
  add,
  concat,
  div,
  matmul,
  max,
  mean,
  mul,
  oneHot,
  reshape,
  slice,
  solve,
  sub,
  sum,
  take,
  transpose,
} from "../../../core/ops.ts";
import { key, normal } from "../../../core/random.ts";
import { leaves } from "../../../core/tree.ts";
import type { Value } from "../../../core/value.ts";
import { analyticNetwork } from "../../../dist/federated/acnnl.ts";
import { type FedAcnnlBroadcast, type FedAcnnlClient, fedacnnl } from "../../../dist/federated/fedacnnl.ts";
import type { ClientData, FederatedMethod } from "../../../dist/federated/method.ts";
import {
  type PFedAcnnlBroadcast,
  type PFedAcnnlOptions,
  type PFedAcnnlServer,
  personalize,
  personalizeFew,
  pfedacnnl,
} from "../../../dist/federated/personal.ts";
import { packSymmetric, statisticsOf } from "../../../dist/federated/statistics.ts";

const f64 = { dtype: "float64" } as const;
const draw = (seed: number, ...shape: number[]): Value => normal(key(seed), shape, f64);

function apart(a: Value, b: Value): number {
  return max(sub(a, b).abs()).item() / max(b.abs()).item();
}

const square = (x: Value): Value => sum(mul(x, x));

// Own examples of a client, and weights that it comes with.
const [n, d, c] = [12, 7, 3];
const x = draw(1, n, d);
const y = draw(2, n, c);
const prior = draw(3, d, c);
const stats = statisticsOf(x, y);
const root = draw(4, d, d);
const metric = add(matmul(root, transpose(root)), eye(d, d, f64));

/** |Y - X W|² + tr((W - P)ᵀ A (W - P)) + ridge |W|². */
function objective(w: Value, penalty: number | Value, ridge = 0): Value {
  const away = sub(w, prior);
  const weighted = typeof penalty === "number" ? mul(away, penalty) : matmul(penalty, away);
  return add(add(square(sub(y, matmul(x, w))), sum(mul(away, weighted))), mul(square(w), ridge));
}

const PENALTIES: readonly (readonly [string, number | Value, number])[] = [
  ["lambda 0.01", 0.01, 0],
  ["lambda 3", 3, 0],
  ["lambda 3 and a ridge", 3, 0.5],
  ["lambda 1000", 1000, 0],
  ["a ridge alone", 0, 2],
  ["a matrix", metric, 0],
  ["a matrix and a ridge", metric, 0.5],
];

for (const [name, penalty, ridge] of PENALTIES) {
  test(`personal weights are where the objective is least: ${name}`, () => {
    const w = personalize(stats, prior, penalty, { ridge });
    const corrected = personalize(stats, prior, penalty, { ridge, form: "correction" });
    expect(apart(corrected, w)).toBeLessThan(1e-11);
    const slope = grad((at: Value) => objective(at, penalty, ridge));
    expect(max(slope(w).abs()).item()).toBeLessThan(1e-10 * max(slope(prior).abs()).item());
    const least = objective(w, penalty, ridge).item();
    const local = personalize(stats, prior, 0);
    expect(least).toBeLessThan(objective(prior, penalty, ridge).item());
    expect(least).toBeLessThan(objective(local, penalty, ridge).item());
    if (typeof penalty === "number") {
      expect(apart(personalizeFew(x, y, prior, penalty, { ridge }), w)).toBeLessThan(1e-11);
      // Fewer examples than features: the sums are singular without the penalty, the weights are not.
      const few = statisticsOf(slice(x, [0, 0], [4, d]), slice(y, [0, 0], [4, c]));
      const rows = [slice(x, [0, 0], [4, d]), slice(y, [0, 0], [4, c])] as const;
      const bySums = personalize(few, prior, penalty, { ridge });
      expect(apart(personalizeFew(...rows, prior, penalty, { ridge }), bySums)).toBeLessThan(1e-11);
    }
  });
}

test("lambda leads from the own least squares to the prior", () => {
  const local = solve(stats.gram, stats.cross);
  expect(apart(personalize(stats, prior, 0), local)).toBeLessThan(1e-11);
  expect(apart(personalize(stats, prior, 1e-12), local)).toBeLessThan(1e-10);
  expect(apart(personalize(stats, prior, 1e14), prior)).toBeLessThan(1e-11);
  const away = [0.1, 1, 10, 100].map((lambda) =>
    square(sub(personalize(stats, prior, lambda), prior)).item(),
  );
  expect(away).toEqual([...away].sort((a, b) => b - a));
});

test("weights that the examples do not determine are an error that names lambda", () => {
  const few = statisticsOf(slice(x, [0, 0], [3, d]), slice(y, [0, 0], [3, c]));
  expect(() => personalize(few, prior, 0)).toThrow(/7 features: with lambda 0 and ridge 0/);
  const twice = concat([x, x], { axis: 0 });
  expect(() => personalizeFew(twice, concat([y, y], { axis: 0 }), prior, 0)).toThrow(/with lambda 0/);
});

const options: PFedAcnnlOptions = {
  image: [1, 6, 6],
  classes: 4,
  layers: [{ k: "conv", channels: 4, kernel: 3 }],
  headGamma: 3,
  lambda: 2,
};

/** Clients of two kinds: the first know the classes 0 and 1, the others 2 and 3, and call them the other way round. */
function clientsOf(many: number, examples: number): ClientData[] {
  const patterns = draw(9, 4, 1, 6, 6);
  return Array.from({ length: many }, (_, k) => {
    const half = k % 2;
    const kinds = Int32Array.from({ length: examples }, (_, i) => 2 * half + ((i + (i >> 2)) % 2));
    const labels = half === 0 ? kinds : kinds.map((kind) => 5 - kind);
    return {
      x: add(take(patterns, tensor(kinds)), mul(draw(20 + k, examples, 1, 6, 6), 0.5)),
      y: tensor(labels),
    };
  });
}

function trained(
  method: FederatedMethod<PFedAcnnlServer, FedAcnnlClient>,
  clients: readonly ClientData[],
): { server: PFedAcnnlServer; own: FedAcnnlBroadcast[] } {
  let server = method.initServer();
  const at = (client: number, round: number) => ({ client, round, clients: clients.length });
  for (let round = 0; round < method.rounds; round++) {
    const received = method.broadcast(server, round);
    const sent = clients.map(
      (data, k) => method.client(method.initClient(k), data, received, at(k, round))[1],
    );
    expect(method.bytes(round)).toEqual({ received: 8 * count(received), sent: 8 * count(sent[0]) });
    server = method.server(server, sent, round);
  }
  const last = method.broadcast(server, method.rounds);
  expect(method.bytes(method.rounds)).toEqual({ received: 8 * count(last), sent: 0 });
  const own = clients.map(
    (data, k) =>
      method.personalize!(method.initClient(k), data, last, at(k, method.rounds)) as FedAcnnlBroadcast,
  );
  return { server, own };
}

const count = (payload: unknown): number =>
  leaves(payload).reduce((all, leaf) => all + (leaf as Value).size, 0);

/** Rows of the head and one-hot labels of a client, by the hidden layers given. */
function headExamples(data: ClientData, hidden: readonly Value[]): readonly [Value, Value] {
  return [analyticNetwork(options).rows(data.x, hidden, null), oneHot(data.y, 4, f64)];
}

test("before personalisation it is FedACnnL; after it each client has the head of its own examples", () => {
  const clients = clientsOf(4, 50);
  const { server, own } = trained(pfedacnnl(options), clients);
  const everything = {
    x: concat(
      clients.map((data) => data.x),
      { axis: 0 },
    ),
    y: concat(
      clients.map((data) => data.y),
      { axis: 0 },
    ),
  };
  const plain = fedacnnl(options);
  let alone = plain.initServer();
  for (let round = 0; round < plain.rounds; round++) {
    const at = { round, client: 0, clients: 1 };
    const sent = plain.client({}, everything, plain.broadcast(alone, round), at)[1];
    alone = plain.server(alone, [sent], round);
  }
  for (const [l, { weights }] of server.layers.entries()) {
    expect(apart(weights, alone.layers[l]!.weights)).toBeLessThan(1e-10);
  }
  const [hidden, head] = server.layers.map(({ weights }) => weights);
  for (const [k, data] of clients.entries()) {
    const [h, labels] = headExamples(data, [hidden!]);
    // (HᵀH + 2 I) W = HᵀY + 2 P
    const size = h.shape[1]!;
    const left = matmul(add(matmul(transpose(h), h), mul(eye(size, size, f64), 2)), own[k]!.weights[1]!);
    const right = add(matmul(transpose(h), labels), mul(head!, 2));
    // What comes before the head is that of all: a model of its own is whole.
    expect(own[k]!.weights.length).toBe(2);
    expect(apart(own[k]!.weights[0]!, hidden!)).toBe(0);
    expect(apart(left, right)).toBeLessThan(1e-9);
    const method = pfedacnnl(options);
    expect(apart(method.scores(own[k]!, data.x), matmul(h, own[k]!.weights[1]!))).toBeLessThan(1e-12);
    expect(apart(method.scores(method.model(server), data.x), matmul(h, head!))).toBeLessThan(1e-12);
  }
});

test("clients that call things otherwise than all do are right with a model of their own", () => {
  const patterns = draw(9, 2, 1, 6, 6);
  const kinds = Int32Array.from({ length: 40 }, (_, i) => (i * i + (i >> 1)) % 2);
  const clients = [0, 1, 2].map((k): ClientData => {
    const images = add(take(patterns, tensor(kinds)), mul(draw(30 + k, 40, 1, 6, 6), 0.3));
    return { x: images, y: tensor(k === 2 ? kinds.map((kind) => 1 - kind) : kinds) };
  });
  const method = pfedacnnl(options);
  const { server, own } = trained(method, clients);
  const right = (model: unknown): number => {
    const found = method.scores(model, clients[2]!.x).argmax({ axis: 1 });
    return mean(found.equal(clients[2]!.y).astype("float32")).item();
  };
  expect(right(method.model(server))).toBeLessThan(0.4);
  expect(right(own[2]!)).toBeGreaterThan(0.9);
});

test("few examples and many give the same head", () => {
  const data = clientsOf(1, 120)[0]!; // 37 features: 120 rows go by sums, 30 by examples
  for (const examples of [30, 120]) {
    const one = { x: slice(data.x, [0, 0, 0, 0], [examples, 1, 6, 6]), y: slice(data.y, [0], [examples]) };
    const { server, own } = trained(pfedacnnl({ ...options, ridge: 0.5 }), [one]);
    const [h, labels] = headExamples(one, [server.layers[0]!.weights]);
    const wanted = personalize(statisticsOf(h, labels), server.layers[1]!.weights, 2, { ridge: 0.5 });
    expect(apart(own[0]!.weights[1]!, wanted)).toBeLessThan(1e-10);
  }
});

test("lambda 0 and a ridge is the model of the own examples alone", () => {
  const clients = clientsOf(3, 30);
  const { server, own } = trained(pfedacnnl({ ...options, lambda: 0, ridge: 5 }), clients);
  for (const [k, data] of clients.entries()) {
    const [h, labels] = headExamples(data, [server.layers[0]!.weights]);
    const size = h.shape[1]!;
    const wanted = solve(
      add(matmul(transpose(h), h), mul(eye(size, size, f64), 5)),
      matmul(transpose(h), labels),
    );
    expect(apart(own[k]!.weights[1]!, wanted)).toBeLessThan(1e-9);
  }
});

test("clients with the same labels are a group, with the head of their examples as the prior", () => {
  const clients = clientsOf(5, 30);
  const method = pfedacnnl({ ...options, groups: 2, lambda: 1e13 });
  const { server, own } = trained(method, clients);
  expect(server.heads.length).toBe(2);
  expect(server.centres[0]!.shape).toEqual([2, 4]);
  for (const half of [0, 1]) {
    const members = clients.filter((_, k) => k % 2 === half);
    const parts = members.map((data) => headExamples(data, [server.layers[0]!.weights]));
    const [h, labels] = [0, 1].map((i) =>
      concat(
        parts.map((part) => part[i]!),
        { axis: 0 },
      ),
    );
    const size = h!.shape[1]!;
    const wanted = solve(
      add(matmul(transpose(h!), h!), mul(eye(size, size, f64), 3)),
      matmul(transpose(h!), labels!),
    );
    for (const [k, { weights }] of own.entries()) {
      if (k % 2 === half) expect(apart(weights[1]!, wanted)).toBeLessThan(1e-8);
    }
  }
  // The same groups in another order of clients.
  const turned = trained(method, [...clients].reverse()).own;
  for (const [k, { weights }] of turned.entries()) {
    expect(apart(weights[1]!, own[4 - k]!.weights[1]!)).toBeLessThan(1e-8);
  }
});

test("with fewer clients in the last round than groups, each of them is one", () => {
  const clients = clientsOf(2, 30);
  const options5 = { ...options, groups: 5, lambda: 1e13 };
  const { server, own } = trained(pfedacnnl(options5), clients); // which compares the bytes with the formula
  for (const [k, data] of clients.entries()) {
    const [h, labels] = headExamples(data, [server.layers[0]!.weights]);
    const size = h.shape[1]!;
    const left = matmul(add(matmul(transpose(h), h), mul(eye(size, size, f64), 3)), own[k]!.weights[1]!);
    expect(apart(left, matmul(transpose(h), labels))).toBeLessThan(1e-8);
  }
  // A client that was away takes the head of those whose labels are like its own.
  const method = pfedacnnl(options5);
  const last = method.broadcast(server, method.rounds);
  const third = clientsOf(3, 30)[2]!;
  const at = { round: method.rounds, client: 2, clients: 3 };
  const late = method.personalize!(method.initClient(2), third, last, at) as FedAcnnlBroadcast;
  expect(apart(late.weights[1]!, own[0]!.weights[1]!)).toBeLessThan(1e-8);
});

test("the Gram matrix of all as the penalty keeps the answers on their examples", () => {
  const clients = clientsOf(3, 30);
  const lambda = 0.2;
  const { server, own } = trained(pfedacnnl({ ...options, prior: "gram", lambda }), clients);
  const [hidden, head] = server.layers.map(({ weights }) => weights);
  const parts = clients.map((data) => headExamples(data, [hidden!]));
  const all = [0, 1].map((i) =>
    concat(
      parts.map((part) => part[i]!),
      { axis: 0 },
    ),
  );
  const size = head!.shape[0]!;
  const total = add(matmul(transpose(all[0]!), all[0]!), mul(eye(size, size, f64), 3));
  expect(apart(server.grams[0]!, packSymmetric(total))).toBeLessThan(1e-12);
  for (const [k, [h, labels]] of parts.entries()) {
    // (G_k + rho (G + gamma I)) W = B_k + rho B
    const left = matmul(add(matmul(transpose(h), h), mul(total, lambda)), own[k]!.weights[1]!);
    const right = add(matmul(transpose(h), labels), mul(matmul(transpose(all[0]!), all[1]!), lambda));
    expect(apart(left, right)).toBeLessThan(1e-9);
  }
});

test("all layers of its own: the filters are drawn to those of all as much as lambda says", () => {
  const clients = clientsOf(2, 40);
  const of = (hiddenLambda: number, lambda: number) =>
    trained(pfedacnnl({ ...options, layersOfOwn: "all", hiddenLambda, lambda }), clients);
  const { server, own } = of(1e13, 1e13);
  for (const { weights } of own) {
    expect(weights.length).toBe(2);
    for (const [l, layer] of weights.entries())
      expect(apart(layer, server.layers[l]!.weights)).toBeLessThan(1e-9);
  }
  const free = of(1e-9, 2).own[0]!.weights[0]!;
  // The own least squares of the pseudo-labels, in the units of the global filters.
  const network = analyticNetwork(options);
  const { gram, cross } = network.statistics(clients[0]!, [], null);
  const local = div(solve(gram, cross), server.layers[0]!.scale);
  expect(apart(free, local)).toBeLessThan(1e-5);
  expect(apart(free, server.layers[0]!.weights)).toBeGreaterThan(0.01);
  const [h, labels] = headExamples(clients[0]!, [free]);
  const wanted = personalize(statisticsOf(h, labels), server.layers[1]!.weights, 2);
  expect(apart(of(1e-9, 2).own[0]!.weights[1]!, wanted)).toBeLessThan(1e-8);
});

test("what does not fit is an error", () => {
  expect(() => pfedacnnl({ ...options, layersOfOwn: "all", filters: "random" })).toThrow(
    /filters are "random"/,
  );
  expect(() => pfedacnnl({ ...options, groups: 0 })).toThrow(/make 0 groups/);
  const last = pfedacnnl(options).broadcast(trained(pfedacnnl(options), clientsOf(2, 20)).server, 2);
  expect((last as PFedAcnnlBroadcast).heads.length).toBe(1);
  expect(reshape((last as PFedAcnnlBroadcast).heads[0]!, [-1]).size).toBe(37 * 4);
});
