/** Gradient methods against plain loops of numbers, and the laws that tie them together. */
import { expect, test } from "bun:test";
import { logistic } from "../../../core/nn/models.ts";
import type { Value } from "../../../core/value.ts";
import { ditto } from "../../../dist/federated/ditto.ts";
import { fedAvg } from "../../../dist/federated/fedavg.ts";
import { learnerOf, payloadBytes } from "../../../dist/federated/learner.ts";
import { perFedAvg } from "../../../dist/federated/per_fedavg.ts";
import { pFedMe } from "../../../dist/federated/pfedme.ts";
import { list, maxDifference, rowsOf, type Vector } from "../../optim/numbers.ts";
import {
  drawExamples,
  gradientAt,
  hessianTimes,
  logisticModel,
  lossAt,
  losses,
  moved,
  runPlainly,
  tensorsOf,
} from "./logistic.ts";

const start: Vector = [0.3, -0.2, 0.1];
const model = logisticModel(start);
const examples = [drawExamples(5, 3, 1), drawExamples(8, 3, 2), drawExamples(3, 3, 3)];
const data = examples.map(tensorsOf);
const full = { batch: "full", loss: losses } as const;
const numbersOf = (params: { readonly w: Value }): number[] => list(params.w);

/** Client 1 misses the second round. */
const isThere = (round: number, client: number): boolean => !(round === 1 && client === 1);

/** Weighted means of vectors. */
function meanOf(vectors: readonly Vector[], weights: Vector): number[] {
  const total = weights.reduce((a, b) => a + b, 0);
  return start.map((_, j) => vectors.reduce((sum, v, i) => sum + (weights[i]! / total) * v[j]!, 0));
}

/** Rounds as loops of numbers: `client` gets the model of all and gives its own. */
function plainRounds(
  rounds: number,
  weightOf: (client: number) => number,
  client: (k: number, w: Vector) => Vector,
  beta = 1,
): number[] {
  let server: number[] = [...start];
  for (let round = 0; round < rounds; round++) {
    const there = examples.map((_, k) => k).filter((k) => isThere(round, k));
    const mean = meanOf(
      there.map((k) => client(k, server)),
      there.map(weightOf),
    );
    server = server.map((w, j) => (1 - beta) * w + beta * mean[j]!);
  }
  return server;
}

for (const mu of [0, 0.7]) {
  test(`${mu === 0 ? "FedAvg" : "FedProx"} is plain loops of gradient steps and a mean by examples`, () => {
    const method = fedAvg(model, { ...full, rounds: 3, epochs: 4, learningRate: 0.5, mu });
    const expected = plainRounds(
      3,
      (k) => examples[k]!.x.length,
      (k, received) => {
        let w = received;
        for (let step = 0; step < 4; step++) {
          const pulled = moved(gradientAt(examples[k]!, w), mu, moved(w, -1, received));
          w = moved(w, -0.5, pulled);
        }
        return w;
      },
    );
    expect(maxDifference(numbersOf(runPlainly(method, data, isThere).server), expected)).toBeLessThan(1e-13);
  });
}

test("FedProx without its penalty has the bits of FedAvg, and with a large one hardly moves", () => {
  const with_ = (mu?: number): number[] => {
    const options = {
      loss: losses,
      batch: 2,
      rounds: 2,
      learningRate: 0.05,
      ...(mu !== undefined && { mu }),
    };
    return numbersOf(runPlainly(fedAvg(model, options), data).server);
  };
  expect(with_(0)).toEqual(with_());
  expect(maxDifference(with_(10), start)).toBeLessThan(0.5 * maxDifference(with_(), start));
});

test("one client with one local step is gradient descent", () => {
  const method = fedAvg(model, { ...full, rounds: 6, epochs: 1, learningRate: 0.4 });
  let w: number[] = [...start];
  for (let step = 0; step < 6; step++) w = moved(w, -0.4, gradientAt(examples[1]!, w));
  expect(maxDifference(numbersOf(runPlainly(method, [data[1]!]).server), w)).toBeLessThan(1e-14);
});

test("equal clients with one local step each are one client", () => {
  const method = fedAvg(model, { ...full, rounds: 3, epochs: 1 });
  const three = runPlainly(method, [data[0]!, data[0]!, data[0]!]).server;
  expect(maxDifference(numbersOf(three), numbersOf(runPlainly(method, [data[0]!]).server))).toBeLessThan(
    1e-15,
  );
});

test("an epoch has every example once, in batches of one shape, in an order of its own", () => {
  const learner = learnerOf(model, { loss: losses, batch: 3, seed: 5 });
  const own = data[1]!;
  const orders = [
    [0, 0, 0],
    [0, 0, 1],
    [0, 1, 0],
    [1, 0, 0],
  ].map(([round, client, epoch]) => {
    const batches = learner.epoch(own, { round: round!, client: client!, clients: 2 }, epoch!);
    expect(batches.map(({ x }) => x.shape)).toEqual([
      [3, 3],
      [3, 3],
      [3, 3],
    ]);
    const rows = batches.flatMap(({ x, weights }) => rowsOf(x).filter((_, i) => list(weights)[i] === 1));
    const numbers = rows.map((row) => examples[1]!.x.findIndex((other) => maxDifference(row, other) === 0));
    expect(numbers.toSorted((a, b) => a - b)).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
    return numbers.join();
  });
  expect(new Set(orders).size).toBe(4);
  // The same again, whoever asks.
  const again = learnerOf(model, { loss: losses, batch: 3, seed: 5 });
  const at = { round: 1, client: 0, clients: 2 };
  expect(again.epoch(own, at, 0).flatMap(({ x }) => list(x))).toEqual(
    learner.epoch(own, at, 0).flatMap(({ x }) => list(x)),
  );
});

test("examples that only fill up a batch count nothing, few examples make a small batch", () => {
  const learner = learnerOf(model, { loss: losses, batch: 50 });
  const [only, ...more] = learner.epoch(data[0]!, { round: 0, client: 0, clients: 1 }, 0);
  expect(more).toEqual([]);
  expect(only!.x.shape).toEqual([8, 3]);
  const w = [0.5, -1, 2];
  const gradient = numbersOf(learner.gradient({ w: logisticModel(w).init(only!.x).w }, only!));
  expect(maxDifference(gradient, gradientAt(examples[0]!, w))).toBeLessThan(1e-15);
  expect(
    Math.abs(learner.objective(logisticModel(w).init(only!.x), only!).item() - lossAt(examples[0]!, w)),
  ).toBeLessThan(1e-15);
});

test("Ditto's own models are plain loops beside FedAvg", () => {
  const [lambda, rate] = [0.8, 0.3];
  const options = { ...full, rounds: 3, epochs: 2, learningRate: rate };
  const result = runPlainly(ditto(model, { ...options, lambda }), data, isThere);
  const own = examples.map(() => [...start] as number[]);
  const server = plainRounds(
    3,
    (k) => examples[k]!.x.length,
    (k, w) => {
      let local = w;
      for (let step = 0; step < 2; step++) {
        own[k] = moved(
          own[k]!,
          -rate,
          moved(gradientAt(examples[k]!, own[k]!), lambda, moved(own[k]!, -1, w)),
        );
        local = moved(local, -rate, gradientAt(examples[k]!, local));
      }
      return local;
    },
  );
  expect(maxDifference(numbersOf(result.server), server)).toBeLessThan(1e-13);
  expect(numbersOf(result.server)).toEqual(
    numbersOf(runPlainly(fedAvg(model, options), data, isThere).server),
  );
  result.clients.forEach(({ personal }, k) => {
    expect(maxDifference(numbersOf(personal), own[k]!)).toBeLessThan(1e-13);
  });
});

test("Ditto without its penalty is local training", () => {
  const options = { loss: losses, batch: 2, rounds: 4, epochs: 2, learningRate: 0.2 };
  const { clients } = runPlainly(ditto(model, { ...options, lambda: 0 }), data);
  // Client 0 alone: what it sends is what it gets.
  const alone = runPlainly(fedAvg(model, options), [data[0]!]).server;
  expect(maxDifference(numbersOf(clients[0]!.personal), numbersOf(alone))).toBeLessThan(1e-14);
});

test("pFedMe is plain loops over the Moreau envelope", () => {
  const [lambda, rate, own, beta] = [2, 0.1, 0.2, 0.6];
  const method = pFedMe(model, {
    ...full,
    rounds: 3,
    localRounds: 4,
    innerSteps: 3,
    lambda,
    learningRate: rate,
    personalLearningRate: own,
    beta,
  });
  const thetas = examples.map(() => [...start] as number[]);
  const server = plainRounds(
    3,
    () => 1,
    (k, received) => {
      let w = [...received];
      let theta = w;
      for (let r = 0; r < 4; r++) {
        for (let step = 0; step < 3; step++) {
          theta = moved(theta, -own, moved(gradientAt(examples[k]!, theta), lambda, moved(theta, -1, w)));
        }
        w = moved(w, -rate * lambda, moved(w, -1, theta));
      }
      thetas[k] = theta;
      return w;
    },
    beta,
  );
  const result = runPlainly(method, data, isThere);
  expect(maxDifference(numbersOf(result.server), server)).toBeLessThan(1e-13);
  result.clients.forEach(({ personal }, k) => {
    expect(maxDifference(numbersOf(personal), thetas[k]!)).toBeLessThan(1e-13);
  });
});

test("with enough inner steps pFedMe's own model is the minimizer that the envelope asks for", () => {
  const method = pFedMe(model, {
    ...full,
    rounds: 1,
    localRounds: 1,
    innerSteps: 300,
    lambda: 2,
    personalLearningRate: 0.3,
  });
  const theta = numbersOf(runPlainly(method, [data[1]!]).clients[0]!.personal);
  const slope = moved(gradientAt(examples[1]!, theta), 2, moved(theta, -1, start));
  expect(maxDifference(slope, [0, 0, 0])).toBeLessThan(1e-13);
});

for (const hessian of ["exact", "ignored"] as const) {
  test(`Per-FedAvg with its Hessian ${hessian} is plain loops`, () => {
    const [alpha, rate] = [0.6, 0.2];
    const method = perFedAvg(model, {
      ...full,
      rounds: 3,
      localSteps: 2,
      alpha,
      learningRate: rate,
      hessian,
    });
    const server = plainRounds(
      3,
      () => 1,
      (k, received) => {
        const own = examples[k]!;
        let w = received;
        for (let step = 0; step < 2; step++) {
          const g = gradientAt(own, moved(w, -alpha, gradientAt(own, w)));
          w = moved(w, -rate, hessian === "exact" ? moved(g, -alpha, hessianTimes(own, w, g)) : g);
        }
        return w;
      },
    );
    const result = runPlainly(method, data, isThere);
    expect(maxDifference(numbersOf(result.server), server)).toBeLessThan(1e-13);
    const at = { round: 3, client: 2, clients: 3 };
    const own = method.personalize!(result.clients[2]!, data[2]!, method.broadcast(result.server, 3), at);
    const expected = moved(server, -alpha, gradientAt(examples[2]!, server));
    expect(maxDifference(numbersOf(own as typeof result.server), expected)).toBeLessThan(1e-13);
  });
}

test("Per-FedAvg's step is along the gradient of the loss after one step", () => {
  const [alpha, rate, h] = [0.9, 1, 1e-5];
  const method = perFedAvg(model, { ...full, rounds: 1, localSteps: 1, alpha, learningRate: rate });
  const own = examples[1]!;
  const after = (w: Vector): number => lossAt(own, moved(w, -alpha, gradientAt(own, w)));
  const slope = start.map((_, j) => {
    const unit = start.map((_, i) => (i === j ? 1 : 0));
    return (after(moved(start, h, unit)) - after(moved(start, -h, unit))) / (2 * h);
  });
  const w = numbersOf(runPlainly(method, [data[1]!]).server);
  expect(maxDifference(moved(start, -1, w), slope)).toBeLessThan(1e-9);
});

test("the three batches of Per-FedAvg are three batches", () => {
  const [alpha, rate] = [0.6, 0.2];
  const options = { loss: losses, batch: 3, seed: 9 };
  const method = perFedAvg(model, { ...options, rounds: 1, localSteps: 1, alpha, learningRate: rate });
  const at = { round: 0, client: 0, clients: 1 };
  const parts = learnerOf(model, options)
    .epoch(data[1]!, at, 0)
    .map(({ x, y, weights }) => {
      const there = list(weights).flatMap((weight, i) => (weight === 1 ? [i] : []));
      return { x: there.map((i) => rowsOf(x)[i]!), y: there.map((i) => list(y)[i]!) };
    });
  const g = gradientAt(parts[1]!, moved(start, -alpha, gradientAt(parts[0]!, start)));
  const w = moved(start, -rate, moved(g, -alpha, hessianTimes(parts[2]!, start, g)));
  expect(maxDifference(numbersOf(runPlainly(method, [data[1]!]).server), w)).toBeLessThan(1e-14);
});

test("bytes by formula are those of what travels", () => {
  const net = logistic(3, 2);
  const methods = [
    fedAvg(net, { rounds: 1 }),
    ditto(net, { rounds: 1 }),
    pFedMe(net, { rounds: 1 }),
    perFedAvg(net, { rounds: 1 }),
  ] as readonly ReturnType<typeof fedAvg>[];
  for (const method of methods) {
    const at = { round: 0, client: 0, clients: 1 };
    const received = method.broadcast(method.initServer(), 0);
    const f32 = { x: data[0]!.x.astype("float32"), y: data[0]!.y };
    const sent = method.client(method.initClient(0), f32, received, at)[1];
    expect(method.bytes(0)).toEqual({ received: payloadBytes(received), sent: payloadBytes(sent) });
    expect(method.bytes(0)).toEqual({ received: 4 * 8, sent: 4 * 8 + 4 });
  }
});

test("a round that nobody is in changes nothing, a client without examples only the count", () => {
  const method = fedAvg(model, { ...full, rounds: 2 });
  expect(numbersOf(runPlainly(method, data, () => false).server)).toEqual([...start]);
  const none = { x: data[0]!.x.slice([0, 0], [0, 3]), y: data[0]!.y.slice([0], [0]) };
  const with_ = runPlainly(method, [data[1]!, none]).server;
  expect(numbersOf(with_)).toEqual(numbersOf(runPlainly(method, [data[1]!]).server));
});

test("options out of range and models that run away are refused", () => {
  const options = { rounds: 1 };
  expect(() => fedAvg(model, { rounds: 0 })).toThrow(RangeError);
  expect(() => fedAvg(model, { ...options, epochs: 1.5 })).toThrow("Cannot train with epochs 1.5");
  expect(() => fedAvg(model, { ...options, batch: 0 })).toThrow("Cannot train with batch 0");
  expect(() => fedAvg(model, { ...options, mu: -1 })).toThrow("Cannot train with mu -1");
  expect(() => fedAvg(model, { ...options, learningRate: 0 })).toThrow("learningRate 0");
  expect(() => ditto(model, { ...options, lambda: Number.NaN })).toThrow("lambda NaN");
  expect(() => pFedMe(model, { ...options, lambda: 0 })).toThrow("lambda 0");
  expect(() => pFedMe(model, { ...options, innerSteps: 0 })).toThrow("innerSteps 0");
  expect(() => perFedAvg(model, { ...options, alpha: -1 })).toThrow("alpha -1");
  const wild = fedAvg(model, { ...full, rounds: 1, epochs: 400, mu: 1e6, learningRate: 1e6 });
  expect(() => runPlainly(wild, data)).toThrow("Cannot continue after round 0");
  expect(() => runPlainly(fedAvg(model, { ...full, loss: (z) => z, rounds: 1 }), data)).toThrow(
    "one number for each is needed",
  );
});
