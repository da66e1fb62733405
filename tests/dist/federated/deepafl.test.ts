/** DeepAFL: blocks solve their equations, and do not depend on how the examples are spread. */
import { expect, test } from "bun:test";
import { eye, ones, tensor, zeros } from "../../../core/create.ts";
import {
  add,
  concat,
  matmul,
  max,
  mul,
  norm,
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
import {
  type BlockFactors,
  type DeepAflClient,
  type DeepAflOptions,
  type DeepAflServer,
  deepafl,
  sandwich,
} from "../../../dist/federated/deepafl.ts";
import type { ClientData } from "../../../dist/federated/method.ts";
import { type PackedStatistics, statisticsOf, unpackStatistics } from "../../../dist/federated/statistics.ts";

const f64 = { dtype: "float64" } as const;
const draw = (seed: number, ...shape: number[]): Value => normal(key(seed), shape, f64);
const square = (x: Value): Value => sum(mul(x, x));
const whole = ({ left, right }: BlockFactors): Value => matmul(left, transpose(right));

function apart(a: Value, b: Value): number {
  return max(sub(a, b).abs()).item() / max(b.abs()).item();
}

/** The matrix of D -> FᵀF D WWᵀ + gamma D on the rows of D one after the other, solved by elimination. */
function byElimination(f: Value, e: Value, w: Value, gamma: number): Value {
  const [p, h] = [f.shape[1]!, w.shape[0]!];
  const ff = matmul(transpose(f), f).toArray() as number[][];
  const ww = matmul(w, transpose(w)).toArray() as number[][];
  const size = p * h;
  const matrix = Array.from({ length: size }, (_, a) =>
    Array.from({ length: size }, (_, b) => {
      const [i, j, k, l] = [Math.floor(a / h), a % h, Math.floor(b / h), b % h];
      return ff[i]![k]! * ww[l]![j]! + (a === b ? gamma : 0);
    }),
  );
  const right = reshape(matmul(matmul(transpose(f), e), transpose(w)), [size]);
  return reshape(solve(tensor(matrix, f64), right), [p, h]);
}

const HEADS: readonly (readonly [string, Value])[] = [
  ["wide", draw(3, 6, 3)],
  ["less hidden than classes", draw(3, 2, 3)],
  ["of rank 1", matmul(draw(4, 6, 1), draw(5, 1, 3))],
  ["zero", zeros([6, 3], f64)],
];

for (const [name, head] of HEADS) {
  test(`a block solves its normal equations: the head is ${name}`, () => {
    const f = draw(1, 20, 4);
    const e = draw(2, 20, 3);
    const gamma = 0.3;
    const stats = statisticsOf(f, e);
    const factors = sandwich(stats, head, gamma);
    const d = whole(factors);
    expect(factors.right.shape).toEqual([head.shape[0]!, Math.min(head.shape[0]!, 3)]);
    const right = matmul(stats.cross, transpose(head));
    const left = add(matmul(matmul(stats.gram, d), matmul(head, transpose(head))), mul(d, gamma));
    expect(norm(sub(left, right)).item()).toBeLessThan(1e-11 * (1 + norm(right).item()));
    expect(norm(sub(d, byElimination(f, e, head, gamma))).item()).toBeLessThan(1e-11);
    // The least of |E - F D W|² + gamma |D|²: no neighbour is lower.
    const objective = (at: Value): number =>
      add(square(sub(e, matmul(matmul(f, at), head))), mul(square(at), gamma)).item();
    for (const seed of [6, 7, 8]) {
      const away = mul(draw(seed, ...d.shape), 1e-3);
      expect(objective(add(d, away))).toBeGreaterThan(objective(d));
    }
  });
}

test("a block needs a positive gamma", () => {
  expect(() => sandwich(statisticsOf(draw(1, 5, 2), draw(2, 5, 3)), draw(3, 4, 3), 0)).toThrow(/gamma is 0/);
});

const options: DeepAflOptions = {
  inputs: 5,
  classes: 3,
  blocks: 3,
  hidden: 12,
  width: 9,
  gamma: 0.5,
  blockGamma: 0.1,
  seed: 3,
};
const labels = Int32Array.from({ length: 70 }, (_, i) => (i * i + (i >> 3)) % 3);
const all: ClientData = {
  x: add(take(draw(10, 3, 5), tensor(labels)), draw(11, 70, 5)),
  y: tensor(labels),
};
const rows = (from: number, to: number): ClientData => ({
  x: slice(all.x, [from, 0], [to, 5]),
  y: slice(all.y, [from], [to]),
});

interface Trained {
  readonly server: DeepAflServer;
  readonly states: readonly DeepAflClient[];
  /** What the first client sent, round by round. */
  readonly sent: readonly PackedStatistics[];
}

function trained(clients: readonly ClientData[], forgets = false, given = options): Trained {
  const method = deepafl(given);
  let server = method.initServer();
  let states = clients.map((_, k) => method.initClient(k));
  const first: PackedStatistics[] = [];
  for (let round = 0; round < method.rounds; round++) {
    const received = method.broadcast(server, round);
    const pairs = clients.map((data, client) => {
      const state = forgets ? method.initClient(client) : states[client]!;
      return method.client(state, data, received, { round, client, clients: clients.length });
    });
    states = pairs.map(([state]) => state);
    const sent = pairs.map(([, payload]) => payload);
    expect(method.bytes(round)).toEqual({ received: 8 * count(received), sent: 8 * count(sent[0]) });
    first.push(sent[0] as PackedStatistics);
    server = method.server(server, sent, round);
  }
  return { server, states, sent: first };
}

const count = (payload: unknown): number => leaves(payload).reduce((n, leaf) => n + (leaf as Value).size, 0);

function expectAlike(a: DeepAflServer, b: DeepAflServer): void {
  expect(apart(a.head[0]!, b.head[0]!)).toBeLessThan(1e-9);
  for (const [t, block] of a.blocks.entries()) {
    expect(apart(whole(block), whole(b.blocks[t]!))).toBeLessThan(1e-9);
  }
}

test("the model is that of all examples together, however they are spread", () => {
  const alone = trained([all]).server;
  expect(alone.blocks.length).toBe(3);
  expectAlike(trained([rows(0, 1), rows(1, 30), rows(30, 70)]).server, alone);
  expectAlike(trained([rows(30, 70), rows(0, 1), rows(1, 30)]).server, alone);
  const byClass = [0, 1, 2].map((c): ClientData => {
    const at = tensor(Int32Array.from(labels.keys()).filter((i) => labels[i] === c));
    return { x: take(all.x, at), y: take(all.y, at) };
  });
  expectAlike(trained(byClass).server, alone);
});

test("a client that forgot everything sends the same as one that did not", () => {
  const parts = [rows(0, 40), rows(40, 70)];
  const [kept, lost] = [trained(parts), trained(parts, true)];
  for (const [round, payload] of kept.sent.entries()) {
    expect(payload.gram.toArray()).toEqual(lost.sent[round]!.gram.toArray());
    expect(payload.cross.toArray()).toEqual(lost.sent[round]!.cross.toArray());
  }
  // The last round's stream has all blocks behind it.
  expect(kept.states.map(({ depth }) => depth.item())).toEqual([3, 3]);
});

test("heads and blocks solve the equations of what was sent", () => {
  const method = deepafl(options);
  const { sent } = trained([all]);
  let server = method.initServer();
  for (const [round, payload] of sent.entries()) {
    const before = server;
    server = method.server(server, [payload], round);
    const { gram, cross } = unpackStatistics(payload, round % 2 === 0 ? 12 : 9);
    if (round % 2 === 0) {
      const left = matmul(add(gram, mul(eye(12, 12, f64), 0.5)), server.head[0]!);
      expect(norm(sub(left, cross)).item()).toBeLessThan(1e-9 * norm(cross).item());
      continue;
    }
    const w = before.head[0]!;
    const d = whole(server.blocks.at(-1)!);
    const left = add(matmul(matmul(gram, d), matmul(w, transpose(w))), mul(d, 0.1));
    const right = matmul(cross, transpose(w));
    expect(norm(sub(left, right)).item()).toBeLessThan(1e-9 * norm(right).item());
  }
});

test("scores are the last stream times the last head, and the streams are those that clients have", () => {
  const { server, states } = trained([all]);
  const method = deepafl(options);
  const scores = method.scores(method.model(server), all.x);
  expect(apart(scores, matmul(states[0]!.stream, server.head[0]!))).toBeLessThan(1e-13);
  expect(method.scores(method.model(method.initServer()), all.x).toArray()).toEqual(zeros([70, 3]).toArray());
  // X₃ - X₀ is made of the blocks' columns.
  const start = method.client(method.initClient(0), all, method.broadcast(method.initServer(), 0), {
    round: 0,
    client: 0,
    clients: 1,
  })[0].stream;
  expect(max(start.abs()).item()).toBeLessThan(1); // tanh
  const columns = concat(
    server.blocks.map(({ right }) => right),
    { axis: 1 },
  );
  const moved = sub(states[0]!.stream, start);
  const gram = add(matmul(transpose(columns), columns), mul(eye(9, 9, f64), 1e-12));
  const projected = matmul(matmul(moved, columns), solve(gram, transpose(columns)));
  expect(apart(projected, moved)).toBeLessThan(1e-6);
});

test("a block makes up for what its head leaves, as far as its ridge lets it", () => {
  const method = deepafl(options);
  let [server, state] = [method.initServer(), method.initClient(0)];
  const streams: Value[] = [];
  const heads: Value[] = [];
  for (let round = 0; round < method.rounds; round++) {
    const at = { round, client: 0, clients: 1 };
    const [next, sent] = method.client(state, all, method.broadcast(server, round), at);
    [server, state] = [method.server(server, [sent], round), next];
    if (round % 2 === 0) streams.push(state.stream);
    if (round % 2 === 0) heads.push(server.head[0]!);
  }
  const wanted = oneHot(all.y, 3, f64);
  for (const [t, block] of server.blocks.entries()) {
    const moved = sub(streams[t + 1]!, streams[t]!);
    // |Y - (X + s F D) W|² + gamma |s D|² is least at s = 1.
    const objective = (s: number): number => {
      const scores = matmul(add(streams[t]!, mul(moved, s)), heads[t]!);
      return add(square(sub(wanted, scores)), 0.1 * s * s * square(whole(block)).item()).item();
    };
    const [less, least, more, none] = [0.99, 1, 1.01, 0].map(objective);
    expect(least!).toBeLessThan(none!);
    expect(Math.abs(more! - less!)).toBeLessThan(1e-9 * least!);
    expect(least!).toBeLessThan(less!);
  }
});

test("blocks lower the squared error on the training examples", () => {
  const wanted = oneHot(all.y, 3, f64);
  const errors = [0, 1, 3].map((blocks) => {
    const given = { ...options, blocks, gamma: 1e-3, blockGamma: 1e-3 };
    const { server } = trained([all], false, given);
    return square(sub(deepafl(given).scores(server, all.x), wanted)).item();
  });
  expect(errors[1]!).toBeLessThan(errors[0]!);
  expect(errors[2]!).toBeLessThan(errors[1]!);
});

test("a backbone is what examples pass through first", () => {
  const features = (x: Value): Value => concat([x, mul(x, x)], { axis: 1 });
  const method = deepafl({ ...options, inputs: 10, features });
  const plain = deepafl({ ...options, inputs: 10 });
  const at = { round: 0, client: 0, clients: 1 };
  const nothing = method.broadcast(method.initServer(), 0);
  const [, a] = method.client(method.initClient(0), all, nothing, at);
  const [, b] = plain.client(plain.initClient(0), { x: features(all.x), y: all.y }, nothing, at);
  expect((a as PackedStatistics).gram.toArray()).toEqual((b as PackedStatistics).gram.toArray());
});

test("clients may be away; a round without any, or with a singular head, is an error", () => {
  const method = deepafl({ ...options, gamma: 0 });
  const at = { round: 0, client: 1, clients: 2 };
  const nothing = method.broadcast(method.initServer(), 0);
  const [, sent] = method.client(
    method.initClient(1),
    { x: ones([4, 5]), y: tensor(labels.slice(0, 4)) },
    nothing,
    at,
  );
  expect(() => method.server(method.initServer(), [null, sent], 0)).toThrow(
    /head 1 of DeepAFL: with gamma 0/,
  );
  expect(deepafl(options).server(method.initServer(), [null, sent], 0).head.length).toBe(1);
  expect(() => method.server(method.initServer(), [null], 0)).toThrow(
    /block 1 of DeepAFL: none of 1 clients/,
  );
});
