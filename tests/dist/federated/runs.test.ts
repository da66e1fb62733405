/** Federated runs over the runtimes: the same bits everywhere, and who is not there changes what he should. */
import { expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { tensor, zeros } from "../../../core/create.ts";
import { PlanError } from "../../../core/errors.ts";
import { logistic } from "../../../core/nn/models.ts";
import { decode, encode } from "../../../core/safetensors.ts";
import type { Value } from "../../../core/value.ts";
import { fedAvg } from "../../../dist/federated/fedavg.ts";
import {
  federatedModels,
  federatedOutcome,
  federatedSetup,
  federatedWorkerJobs,
  scoresOfPhase,
} from "../../../dist/federated/jobs.ts";
import { payloadBytes } from "../../../dist/federated/learner.ts";
import type { FederatedMethod } from "../../../dist/federated/method.ts";
import {
  federatedBytes,
  federatedPlan,
  hostedClients,
  presentClients,
} from "../../../dist/federated/plan.ts";
import { runSockets, spawnBun } from "../../../dist/runtime/bun.ts";
import type { Progress } from "../../../dist/runtime/driver.ts";
import { fileStore } from "../../../dist/runtime/file_store.ts";
import { runLocal } from "../../../dist/runtime/local.ts";
import { type RunValues, runSequential } from "../../../dist/runtime/sequential.ts";
import { report, sameBits, simulate } from "../../../dist/sim.ts";
import { list } from "../../optim/numbers.ts";
import { runPlainly } from "./logistic.ts";
import { gradientNames, type Toy, toyData, toyMethod, toyNames, toySetup } from "./toy.ts";

const shape = { clients: 5, rounds: 3, absentRate: 0.3, seed: 9 } as const;
/** With the rounds that the method has. */
const shapeOf = (method: Toy["method"]): typeof shape => ({
  ...shape,
  rounds: toyMethod({ method, plan: shape }).rounds as typeof shape.rounds,
});
const limits = { retryTicks: 15, deadTicks: 120, maxRestarts: 1000 };
const clientsOf = (values: RunValues): readonly (readonly unknown[])[] =>
  values.workers.map((worker) => worker["clients"] as readonly unknown[]);

const isWhole = (method: Toy["method"]): boolean => (gradientNames as readonly string[]).includes(method);

for (const method of toyNames) {
  test(`${method}: one worker or three, in turn, with messages or with faults: the same bits`, async () => {
    const one = toySetup({ method, plan: { ...shapeOf(method), workers: 1 } });
    const three = toySetup({
      method,
      plan: { ...shapeOf(method), workers: 3, evaluateEvery: isWhole(method) ? 1 : 0, limits },
    });
    const reference = runSequential(one.setup);
    const spread = runSequential(three.setup);
    expect(sameBits(spread.hub, reference.hub)).toBe(true);
    const [all] = clientsOf(reference);
    clientsOf(spread).forEach((own, rank) => {
      const numbers = hostedClients(three.plan, rank);
      expect(
        sameBits(
          own,
          numbers.map((client) => all![client]),
        ),
      ).toBe(true);
    });
    const typed = toyMethod({ method, plan: three.plan });
    const models = federatedModels(three.plan, typed, spread);
    expect(sameBits(models, federatedModels(one.plan, typed, reference))).toBe(true);
    expect(models.clients.length).toBe(typed.personalize ? shape.clients : 0);
    const { reason, round, ...values } = await runLocal(three.setup);
    expect([reason, round]).toEqual(["finished", three.plan.rounds]);
    expect(sameBits(values, spread)).toBe(true);
    let crashes = 0;
    for (let seed = 0; seed < 3; seed++) {
      const faults = {
        lossRate: 0.2,
        duplicateRate: 0.2,
        maxDelay: 8,
        maxWork: 6,
        crashRate: 0.006,
        horizon: 500,
      };
      const result = simulate({ ...three.setup, seed, faults, checkReplay: seed === 0 });
      if (result.violations.length > 0) throw new Error(report(result));
      expect(sameBits(result.values, spread)).toBe(true);
      crashes += result.stats.crashes;
    }
    expect(crashes).toBeGreaterThan(0);
  });

  test(`${method}: the model is that of loops over those who are there`, () => {
    const { plan, setup } = toySetup({ method, plan: { ...shapeOf(method), workers: 2 } });
    const there = Array.from({ length: plan.rounds }, (_, round) => presentClients(plan, round));
    expect(there.flat()).toContain(false);
    const data = Array.from({ length: plan.clients }, (_, client) => toyData.train(client));
    const typed = toyMethod({ method, plan: shapeOf(method) });
    const { server, clients } = runPlainly(typed, data, (round, client) => there[round]![client]!);
    const result = runSequential(setup);
    expect(sameBits(result.hub["server"], server)).toBe(true);
    // At the end everyone makes its own model of the last one, or has that.
    const models = federatedModels(plan, typed, result);
    expect(sameBits(models.global, typed.model(server))).toBe(true);
    const message = typed.broadcast(server, plan.rounds);
    clients.forEach((state, client) => {
      expect(sameBits(clientsOf(result)[client % 2]![Math.floor(client / 2)], state)).toBe(true);
      const at = { round: plan.rounds, client, clients: plan.clients };
      const own = typed.personalize?.(state, data[client]!, message, at);
      if (own === undefined) expect(models.clients).toEqual([]);
      else expect(sameBits(models.clients[client], own)).toBe(true);
    });
  });

  test(`${method}: counted bytes are those of the formula`, () => {
    const { plan, setup } = toySetup({ method, plan: { ...shapeOf(method), workers: 2 } });
    const { clients } = federatedOutcome(plan, runSequential(setup));
    const formula = federatedBytes(plan, toyMethod({ method, plan: shapeOf(method) }));
    const counted = clients.map(({ received, sent, receivedAtEnd }) => ({ received, sent, receivedAtEnd }));
    expect(counted).toEqual([...formula]);
    // Not everyone was there equally often, and nobody is without a model at the end.
    expect(new Set(clients.map(({ sent }) => sent)).size).toBeGreaterThan(1);
    const [features, classes] = [4, 3];
    const parameters = 4 * (features * classes + classes);
    const atEnd: Readonly<Record<string, number>> = {
      afl: 8 * features * classes,
      // A layer of 6 and the head, each with a constant 1.
      fedacnnl: 8 * ((features + 1) * 6 + (6 + 1) * classes),
      // Two heads, and the shares of the classes in two groups are as many numbers as one.
      pfedacnnl: 8 * ((features + 1) * 6 + 2 * (6 + 1) * classes + 2 * classes),
      // The factors of a block between 5 and 6 numbers, and the head.
      deepafl: 8 * ((6 + 5) * classes + 5 * classes),
    };
    for (const { received, sent, receivedAtEnd } of clients) {
      expect(receivedAtEnd).toBe(atEnd[method] ?? parameters);
      if (isWhole(method)) expect(sent / (parameters + 4)).toBe(received / parameters);
    }
  });
}

test("worker processes over sockets end with the bits of plain loops, and carry what was counted", async () => {
  // Nothing is asked for twice, however slow the machine is.
  const patient = { retryTicks: 1e6, deadTicks: 1e7 };
  const toy: Toy = { method: "ditto", plan: { ...shape, workers: 2, limits: patient } };
  const { plan, setup } = toySetup(toy);
  const folder = mkdtempSync(join(tmpdir(), "cotangent-federated-"));
  const script = new URL("./toy_worker.ts", import.meta.url).pathname;
  try {
    const got = await runSockets({
      ...setup,
      store: fileStore(folder),
      tickMs: 20,
      spawn: (rank, address) => spawnBun(script, [String(rank), folder, JSON.stringify(toy)], { address }),
    });
    const expected = runSequential(setup);
    expect(got.restarts).toEqual([0, 0]);
    expect(sameBits({ hub: got.hub, workers: got.workers }, expected)).toBe(true);

    // All messages of a kind have the same tensors: so many to each process, and of its clients that are there.
    const method = toyMethod(toy) as unknown as FederatedMethod<unknown, unknown>;
    const server = method.initServer();
    const message = method.broadcast(server, 0);
    const at = { round: 0, client: 0, clients: plan.clients };
    const [, answer] = method.client(method.initClient(0), toyData.train(0), message, at);
    const hosts = [0, 1].map((rank) => hostedClients(plan, rank));
    const answers = Array.from({ length: plan.rounds }, (_, round) => presentClients(plan, round)).flatMap(
      (there) => hosts.map((own) => own.filter((client) => there[client]).map(() => answer)),
    );
    const scores = hosts.map((own) => ({
      counts: zeros([own.length, 4], { dtype: "float64" }),
      problems: [],
    }));
    // Every process gets the message of a round once, and at the end the model and the message of which clients make their own.
    const messages = [...new Array<unknown>(plan.rounds).fill(message), method.model(server), message];
    const sum = (trees: readonly unknown[], of: (tree: unknown) => number): number =>
      trees.reduce<number>((all, tree) => all + of(tree), 0);
    const encoded = (tree: unknown): number => encode(tree).byteLength;
    const payload = { down: 2 * sum(messages, encoded), up: sum([...answers, ...scores], encoded) };
    expect([got.payloadBytesSent, got.payloadBytesReceived]).toEqual([payload.down, payload.up]);
    // What was counted for the clients is a part of that: the elements of the answers, and of the message for each that was there.
    const { clients } = federatedOutcome(plan, expected);
    const counted = (of: (client: (typeof clients)[number]) => number): number =>
      clients.reduce((all, client) => all + of(client), 0);
    expect(counted(({ sent }) => sent)).toBe(sum(answers, payloadBytes));
    expect(counted(({ received }) => received)).toBe(answers.flat().length * payloadBytes(message));
    expect(counted(({ receivedAtEnd }) => receivedAtEnd)).toBe(plan.clients * payloadBytes(message));
    // A frame has its head beside the values: one goes to each process in every round and at the end, and a few before and after.
    const frames = 2 * (plan.rounds + 1 + 4);
    for (const [bytes, values, most] of [
      [got.bytesSent, payload.down, 160],
      [got.bytesReceived, payload.up, 256],
    ] as const) {
      expect(bytes).toBeGreaterThan(values);
      expect(bytes).toBeLessThan(values + most * frames);
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}, 120_000);

test("accuracies are counts of right answers, by the model of all, by its own and by one of its own alone", () => {
  const toy: Toy = { method: "ditto", plan: { ...shape, workers: 2 } };
  const { plan, setup } = toySetup(toy);
  const values = runSequential(setup);
  const { clients, server } = federatedOutcome(plan, values);
  const method = toyMethod(toy) as unknown as FederatedMethod<unknown, unknown>;
  const single = toyMethod({ ...toy, method: "fedavg" }) as unknown as FederatedMethod<unknown, unknown>;
  for (const [client, outcome] of clients.entries()) {
    const test = toyData.test(client);
    if (test === null) {
      expect(outcome).toMatchObject({ testExamples: 0, global: null, personal: null, alone: null });
      continue;
    }
    const labels = list(test.y);
    const right = (scores: Value): number => {
      const rows = Array.from({ length: labels.length }, (_, i) => list(scores).slice(3 * i, 3 * i + 3));
      return rows.filter((row, i) => row.indexOf(Math.max(...row)) === labels[i]).length / labels.length;
    };
    const own = clientsOf(values)[client % 2]![Math.floor(client / 2)] as { readonly personal: unknown };
    expect(outcome.testExamples).toBe(labels.length);
    expect(outcome.global).toBe(right(method.scores(method.model(server), test.x)));
    expect(outcome.personal).toBe(right(method.scores(own.personal, test.x)));
    // Alone: rounds with nobody else. Orders of examples belong to the number of the client.
    let model = single.initServer();
    for (let round = 0; round < 3; round++) {
      const at = { round, client, clients: 1 };
      const [, sent] = single.client({}, toyData.train(client), single.broadcast(model, round), at);
      model = single.server(model, [sent], round);
    }
    expect(outcome.alone).toBe(right(single.scores(single.model(model), test.x)));
  }
});

test("a method is asked in the order of rounds and clients, and at the end for own models", () => {
  const asked: string[] = [];
  const method: FederatedMethod<Value, Value> = {
    name: "asking",
    rounds: 2,
    initServer: () => tensor([10]),
    initClient: (client) => tensor([100 * client]),
    broadcast(server, round) {
      asked.push(`broadcast ${round}`);
      return server.add(round);
    },
    client(state, data, received, at) {
      asked.push(`client ${at.client} of ${at.clients} in ${at.round}`);
      expect(sameBits(data, toyData.train(at.client))).toBe(true);
      return [state.add(1), [received as Value, state]];
    },
    server(state, answers, round) {
      asked.push(`server ${round}: ${answers.map((answer) => (answer === null ? "-" : "+")).join("")}`);
      return state.add(1000);
    },
    model: (server) => server,
    personalize(state, _data, received, at) {
      asked.push(`own ${at.client} of ${at.clients} after ${at.round}`);
      return state.add(received as Value);
    },
    scores: (_model, x) => x,
    bytes: () => ({ received: 4, sent: 8 }),
  };
  // Nobody knows of the other worker's clients: 0 and 2, then 1.
  const plan = federatedPlan({
    clients: 3,
    workers: 2,
    rounds: 2,
    absentRate: 0.4,
    seed: 9,
    evaluateEvery: 1,
  });
  const there = [0, 1].map((round) => presentClients(plan, round));
  const values = runSequential(federatedSetup(plan, method, toyData));
  const order = [0, 2, 1];
  expect(asked).toEqual(
    [0, 1].flatMap((round) => [
      `broadcast ${round}`,
      ...order.filter((k) => there[round]![k]).map((k) => `client ${k} of 3 in ${round}`),
      `server ${round}: ${there[round]!.map((isThere) => (isThere ? "+" : "-")).join("")}`,
      `broadcast ${round + 1}`,
      ...order.map((k) => `own ${k} of 3 after ${round + 1}`),
    ]),
  );
  // What is tried before the end is not kept, and models change no state.
  const visits = (k: number): number => there.filter((round) => round[k]).length;
  const states = [0, 1, 2].map((k) => 100 * k + visits(k));
  expect(clientsOf(values).map((own) => own.map((state) => (state as Value).item()))).toEqual([
    [states[0]!, states[2]!],
    [states[1]!],
  ]);
  const models = federatedModels(plan, method, values).clients as readonly Value[];
  expect(models.map((model) => model.item())).toEqual(states.map((state) => state + 2012));
});

test("more test examples than fit into one product are all counted", () => {
  const method = fedAvg(logistic(4, 3), { rounds: 1 });
  const plan = federatedPlan({ clients: 1, rounds: 1 });
  const [one, many] = [toyData.train(2), 61];
  const repeated = { x: repeat(one.x, many), y: repeat(one.y, many) };
  const data = { train: () => one, test: () => repeated };
  const few = { train: () => one, test: () => one };
  const [a, b] = [data, few].map(
    (of) => federatedOutcome(plan, runSequential(federatedSetup(plan, method, of))).clients[0]!,
  );
  expect(a!.testExamples).toBe(5 * 61);
  expect(a!.global).toBe(b!.global);
});

function repeat(x: Value, times: number): Value {
  const [n, ...rest] = x.shape;
  return x
    .reshape([1, ...x.shape])
    .broadcastTo([times, ...x.shape])
    .reshape([times * n!, ...rest]);
}

test("scores that are not numbers are of no class, and a client that cannot be trained alone costs nothing else", () => {
  const method = toyMethod({ method: "fedavg", plan: { clients: 2, rounds: 1 } });
  const plan = federatedPlan({ clients: 2, rounds: 1 });
  const nowhere: FederatedMethod<never, never> = {
    ...method,
    scores: (_model, x) => tensor(new Array(3 * x.shape[0]!).fill(Number.NaN), { shape: [x.shape[0]!, 3] }),
  };
  const y = tensor([0, 0, 1, 2], { dtype: "int32" });
  const data = {
    train: toyData.train,
    test: () => ({ x: tensor(new Array(16).fill(1), { shape: [4, 4] }), y }),
  };
  const { clients } = federatedOutcome(plan, runSequential(federatedSetup(plan, nowhere, data)));
  expect(clients.map(({ global }) => global)).toEqual([0, 0]);
  const failing = (error: Error): FederatedMethod<never, never> => ({
    ...method,
    client: (state, own, received, at) => {
      if (at.clients === 1 && at.client === 1) throw error;
      return method.client(state, own, received, at);
    },
  });
  const why = "Cannot solve it: γ is 0, a larger one is needed";
  const outcomeWith = (alone: FederatedMethod<never, never>) =>
    federatedOutcome(plan, runSequential(federatedSetup(plan, method, data, { alone }))).clients;
  const all = outcomeWith(method);
  const [first, second] = outcomeWith(failing(new RangeError(why)));
  expect(first).toEqual(all[0]!);
  expect(second).toEqual({ ...all[1]!, alone: null, aloneProblem: why });
  expect(all.map(({ alone, aloneProblem }) => [alone !== null, aloneProblem])).toEqual([
    [true, null],
    [true, null],
  ]);
  // What is no matter of examples is an error.
  expect(() => outcomeWith(failing(new TypeError("Cannot add: no tensor")))).toThrow("Cannot add: no tensor");
});

test("progress tells who is right after the rounds that the plan names", async () => {
  const { plan, setup } = toySetup({ method: "ditto", plan: { ...shape, workers: 2, evaluateEvery: 2 } });
  const progress: Progress[] = [];
  const values = await runLocal({ ...setup, onProgress: (event) => progress.push(event) });
  const seen = progress.flatMap((event) => {
    const scores = event.k === "progress" ? scoresOfPhase(event.phase, event.hub) : null;
    return scores === null ? [] : [{ round: event.round, ...scores }];
  });
  expect(seen.map(({ round }) => round)).toEqual([1, 2]);
  const { clients } = federatedOutcome(plan, values);
  const total = (of: (client: (typeof clients)[number]) => number): number =>
    Math.round(clients.reduce((sum, client) => sum + of(client), 0));
  expect(seen.at(-1)).toEqual({
    round: 2,
    examples: total((client) => client.testExamples),
    global: total((client) => client.testExamples * (client.global ?? 0)),
    personal: total((client) => client.testExamples * (client.personal ?? 0)),
    alone: total((client) => client.testExamples * (client.alone ?? 0)),
  });
});

test("who is there depends on seed, round and client alone, and comes at the rate of the plan", () => {
  const input = { clients: 200, rounds: 40, absentRate: 0.3, seed: 9 };
  const plan = federatedPlan(input);
  const there = Array.from({ length: 40 }, (_, round) => presentClients(plan, round));
  const rate = there.flat().filter((isThere) => !isThere).length / (200 * 40);
  // Five standard deviations of 8000 draws.
  expect(Math.abs(rate - 0.3)).toBeLessThan(5 * Math.sqrt((0.3 * 0.7) / 8000));
  expect(presentClients(federatedPlan({ ...input, workers: 7, rounds: 41 }), 11)).toEqual(there[11]!);
  expect(presentClients(federatedPlan({ ...input, seed: 10 }), 11)).not.toEqual(there[11]!);
  expect(new Set(there.map((round) => round.join())).size).toBe(40);
});

test("stragglers are left out: the slow often, the fast never, and a wide limit leaves out nobody", () => {
  const input = { clients: 300, rounds: 60, seed: 2 };
  const at = (limit: number): (readonly boolean[])[] => {
    const plan = federatedPlan({ ...input, stragglers: { spread: 2, limit } });
    return Array.from({ length: 60 }, (_, round) => presentClients(plan, round));
  };
  expect(at(3).flat()).not.toContain(false);
  const rates = at(2.5).reduce<number[]>(
    (sums, round) => sums.map((sum, k) => sum + (round[k] ? 1 / 60 : 0)),
    new Array<number>(300).fill(0),
  );
  // 1 + u_k + u_kr <= 2.5: always for u_k below a half, in half of the rounds for u_k near 1; 7/8 of all.
  expect(rates.filter((rate) => rate > 1 - 1e-9).length / 300).toBeGreaterThan(0.4);
  expect(Math.min(...rates)).toBeGreaterThan(0.2);
  expect(Math.min(...rates)).toBeLessThan(0.75);
  expect(Math.abs(rates.reduce((a, b) => a + b) / 300 - 7 / 8)).toBeLessThan(0.04);
  // The stricter the limit, the fewer.
  const [strict, loose] = [at(2), at(2.5)].map((rounds) => rounds.flat());
  expect(strict!.every((isThere, i) => !isThere || loose![i]!)).toBe(true);
  expect(strict!.filter(Boolean).length).toBeLessThan(loose!.filter(Boolean).length);
});

test("somebody is always there", () => {
  const plan = federatedPlan({ clients: 3, rounds: 50, absentRate: 0.99, seed: 1 });
  const counts = Array.from({ length: 50 }, (_, round) => presentClients(plan, round).filter(Boolean).length);
  expect(Math.min(...counts)).toBe(1);
  expect(counts.filter((count) => count === 1).length).toBeGreaterThan(40);
});

test("every client is hosted once", () => {
  for (const [clients, workers] of [
    [5, 1],
    [5, 2],
    [5, 5],
    [7, 3],
  ] as const) {
    const plan = federatedPlan({ clients, workers, rounds: 1 });
    const all = Array.from({ length: workers }, (_, rank) => hostedClients(plan, rank)).flat();
    expect(all.toSorted((a, b) => a - b)).toEqual(Array.from({ length: clients }, (_, k) => k));
  }
});

test("states and messages survive the wire", () => {
  for (const method of toyNames) {
    const toy = toyMethod({ method, plan: shapeOf(method) }) as unknown as FederatedMethod<unknown, unknown>;
    const at = { round: 0, client: 0, clients: 1 };
    const message = toy.broadcast(toy.initServer(), 0);
    const [state, sent] = toy.client(toy.initClient(0), toyData.train(0), message, at);
    for (const tree of [[state], [sent], [], message]) {
      const { tree: back } = decode(encode(tree));
      expect(sameBits(back, tree)).toBe(true);
      expect(payloadBytes(back)).toBe(payloadBytes(tree));
    }
  }
});

test("plans that cannot be are refused, by field", () => {
  const problems = (input: object): readonly string[] => {
    try {
      federatedPlan({ clients: 2, rounds: 1, ...input });
    } catch (error) {
      if (error instanceof PlanError) return error.problems;
    }
    throw new Error("not refused");
  };
  expect(problems({ clients: 0 })[0]).toStartWith("clients");
  expect(problems({ workers: 3 })[0]).toStartWith("workers: there are 3 for 2 clients");
  expect(problems({ absentRate: 1 })[0]).toStartWith("absentRate");
  expect(problems({ stragglers: { spread: 1, limit: 0.5 } })[0]).toStartWith("stragglers.limit");
  expect(problems({ dropRate: 1 })[0]).toContain("dropRate");
  const method = toyMethod({ method: "fedavg", plan: { clients: 2, rounds: 2 } });
  const plan = federatedPlan({ clients: 2, rounds: 3 });
  expect(() => federatedSetup(plan, method, toyData)).toThrow("the plan has 3, the 2 of FedAvg are needed");
  expect(() => federatedWorkerJobs(plan, method, toyData, 0)).toThrow(PlanError);
});
