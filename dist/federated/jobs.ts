/**
 * What the processes of a federated run compute. A worker process works for its clients one after the other; their states
 * and examples never leave it. The hub sees only answers, each client's by itself, and adds them up in the order of clients.
 *
 * Registers of the hub: `server`, the method's state; `traffic` [clients, 3], bytes that each client has received and sent
 * in rounds, and received after the last; `scores`, who was right how often. Of a worker: `clients`, the states; `models`, at
 * the end, the clients' own.
 */
import { PlanError } from "../../core/errors.ts";
import { take } from "../../core/ops.ts";
import { adopt, scalar } from "../../core/trace.ts";
import type { Value } from "../../core/value.ts";
import { doubles, job } from "../jobs/registers.ts";
import type { JobResult, JobSteps, Jobs, Values } from "../runtime/driver.ts";
import type { RunSetup, RunValues } from "../runtime/sequential.ts";
import { countOf, payloadBytes, powerFrom } from "./learner.ts";
import type { ClientAt, ClientData, FederatedMethod, Payload } from "./method.ts";
import {
  type ClientBytes,
  type FederatedPlan,
  federatedConfig,
  hostedClients,
  presentClients,
} from "./plan.ts";

/**
 * The examples of clients, by number. A process asks only for those of its own clients, and may ask again.
 *
 * @since 0.2.0
 */
export interface FederatedData {
  train(client: number): ClientData;
  /** What its model is judged on; null for a client that has none. */
  test(client: number): ClientData | null;
}

/**
 * What a run is to find out beside the method itself.
 *
 * @since 0.2.0
 */
export interface FederatedOptions {
  /** A method that every client also runs all by itself, to see what working together is worth; null for none. */
  readonly alone?: FederatedMethod<never, never> | null;
}

type AnyMethod = FederatedMethod<unknown, unknown>;

/** How often models were right. Shapes: `counts` is `[clients, 4]`: test examples, and right by the model of all, its own, alone. */
interface Scores {
  readonly counts: Value;
  /** Clients that could not be trained alone, and why not. */
  readonly problems: readonly Problem[];
}

/** A client's number and a text, as tensors: they travel and are saved. */
interface Problem {
  readonly client: Value;
  readonly reason: Value;
}

/** Columns of `traffic` and `scores`. */
const TRAFFIC = 3;
const SCORES = 4;
/** Test examples in one product. */
const CHUNK = 256;

/**
 * A federated run, for every runtime.
 *
 * Determinism: the same bits whatever the number of workers, the runtime and its faults.
 * Communication: a round is one message to each worker process, which serves all of its clients, and one back with the
 * answers of those that are there; an evaluation one more, with the state of the server.
 *
 * Shapes: those of the method.
 * @throws {PlanError} if the plan has another number of rounds than the method
 * @example Two clients, each with a class that the other knows little of
 * ```ts
 * const method = ct.dist.fedAvg(ct.nn.logistic(1, 2), { rounds: 2, epochs: 1 });
 * const plan = ct.dist.federatedPlan({ clients: 2, workers: 2, rounds: 2 });
 * const y = ct.tensor([0, 1], { dtype: "int32" });
 * const data = {
 *   train: (client: number) => ({ x: ct.tensor([[1 + client], [-1]]), y }),
 *   test: () => ({ x: ct.tensor([[3], [-3]]), y }),
 * };
 * const values = ct.dist.runSequential(ct.dist.federatedSetup(plan, method, data));
 * const { clients } = ct.dist.federatedOutcome(plan, values);
 * assertClose(clients.map((client) => client.global!), [1, 1]);
 * ```
 * @since 0.2.0
 */
export function federatedSetup<S, C>(
  plan: FederatedPlan,
  method: FederatedMethod<S, C>,
  data: FederatedData,
  options: FederatedOptions = {},
): RunSetup {
  checkRounds(plan, method);
  return {
    config: federatedConfig(plan),
    jobs: {
      hub: hubJobs(plan, method as unknown as AnyMethod),
      worker: (rank) => federatedWorkerJobs(plan, method, data, rank, options),
    },
    initial: {
      hub: {
        server: method.initServer(),
        traffic: table(plan.clients, TRAFFIC, new Float64Array(plan.clients * TRAFFIC)),
        scores: null,
      },
      worker: (rank) => federatedWorkerInitial(plan, method, rank),
    },
  };
}

/**
 * The durable registers of a worker before the first round.
 *
 * Shapes: the states of its clients, as the method makes them.
 * @example As many states as clients
 * ```ts
 * const method = ct.dist.ditto(ct.nn.logistic(1, 2), { rounds: 1 });
 * const plan = ct.dist.federatedPlan({ clients: 3, workers: 2, rounds: 1 });
 * const { clients } = ct.dist.federatedWorkerInitial(plan, method, 0);
 * assert((clients as readonly unknown[]).length === 2);
 * ```
 * @since 0.2.0
 */
export function federatedWorkerInitial<S, C>(
  plan: FederatedPlan,
  method: FederatedMethod<S, C>,
  rank: number,
): Values {
  return { clients: hostedClients(plan, rank).map((client) => method.initClient(client)), models: [] };
}

function checkRounds(plan: FederatedPlan, { name, rounds }: Pick<AnyMethod, "name" | "rounds">): void {
  if (plan.rounds === rounds) return;
  const problem = `rounds: the plan has ${plan.rounds}, the ${rounds} of ${name} are needed`;
  throw new PlanError(`Cannot run a federated plan: ${problem}`, [problem]);
}

function hubJobs(plan: FederatedPlan, method: AnyMethod): Jobs {
  const { clients, workers } = plan;
  const ranks = Array.from({ length: workers }, (_, rank) => rank);
  return {
    broadcast: ([server], { round }) => ({ outs: [method.broadcast(server, round)] }),
    prepare: ([server], { round }) => ({
      outs: [method.model(server), method.personalize ? method.broadcast(server, round + 1) : []],
    }),
    reduce: job(([server, sent, traffic, ...answers], { round }) => {
      const present = presentClients(plan, round);
      const ofClients = new Array<Payload | null>(clients).fill(null);
      for (const rank of ranks) {
        const those = hostedClients(plan, rank).filter((client) => present[client]);
        those.forEach((client, i) => {
          ofClients[client] = (answers[rank] as readonly Payload[])[i];
        });
      }
      const bytes = doubles(traffic);
      const received = payloadBytes(sent);
      ofClients.forEach((answer, client) => {
        if (answer === null) return;
        bytes[TRAFFIC * client]! += received;
        bytes[TRAFFIC * client + 1]! += payloadBytes(answer);
      });
      // A run that goes on after its end is as if it had not ended.
      for (let client = 0; client < clients; client++) bytes[TRAFFIC * client + 2] = 0;
      return {
        outs: [method.server(server, ofClients, round), table(clients, TRAFFIC, bytes)],
        notes: [present.filter((isPresent) => isPresent).length],
      };
    }),
    collect: job(([model, message, traffic, ...parts], { phase }) => {
      const bytes = doubles(traffic);
      // Before the end clients are only asked how they would do: that costs them nothing.
      const received = phase === "finish" ? payloadBytes(method.personalize ? message : model) : 0;
      for (let client = 0; client < clients; client++) bytes[TRAFFIC * client + 2] = received;
      const counts = new Float64Array(SCORES * clients);
      const problems: Problem[] = [];
      for (const rank of ranks) {
        const part = parts[rank] as Scores;
        const own = doubles(part.counts);
        hostedClients(plan, rank).forEach((client, i) => {
          counts.set(own.subarray(SCORES * i, SCORES * (i + 1)), SCORES * client);
        });
        problems.push(...part.problems);
      }
      const scores: Scores = { counts: table(clients, SCORES, counts), problems };
      return {
        outs: [table(clients, TRAFFIC, bytes), scores],
        notes: Array.from({ length: SCORES }, (_, column) =>
          counts.reduce((sum, count, i) => (i % SCORES === column ? sum + count : sum), 0),
        ),
      };
    }),
  };
}

/**
 * The computations of one worker: what a process of it serves.
 *
 * Shapes: those of the method.
 * @throws {PlanError} if the plan has another number of rounds than the method
 * @example What a worker process serves
 * ```ts
 * const method = ct.dist.fedAvg(ct.nn.logistic(1, 2), { rounds: 1 });
 * const plan = ct.dist.federatedPlan({ clients: 1, rounds: 1 });
 * const train = () => ({ x: ct.ones([2, 1]), y: ct.tensor([0, 1], { dtype: "int32" }) });
 * const jobs = ct.dist.federatedWorkerJobs(plan, method, { train, test: () => null }, 0);
 * assert("train" in jobs && "finish" in jobs);
 * ```
 * @since 0.2.0
 */
export function federatedWorkerJobs<S, C>(
  plan: FederatedPlan,
  typed: FederatedMethod<S, C>,
  data: FederatedData,
  rank: number,
  { alone = null }: FederatedOptions = {},
): Jobs {
  checkRounds(plan, typed);
  const method = typed as unknown as AnyMethod;
  const own = hostedClients(plan, rank);
  const atRound = (round: number, client: number): ClientAt => ({ round, client, clients: plan.clients });
  const states = (register: unknown): readonly unknown[] => register as readonly unknown[];

  function* train(ins: readonly unknown[], round: number): JobSteps {
    const present = presentClients(plan, round);
    const next = [...states(ins[0])];
    const answers: Payload[] = [];
    for (const [i, client] of own.entries()) {
      if (!present[client]) continue;
      const [state, sent] = method.client(next[i], data.train(client), ins[1], atRound(round, client));
      next[i] = state;
      answers.push(sent);
      yield;
    }
    // Models of clients are of the end.
    return { outs: [next, [], answers] };
  }

  function* evaluate(ins: readonly unknown[], round: number, isLast: boolean): JobSteps {
    const [clients, model, message] = ins;
    const models: Payload[] = [];
    const counts = new Float64Array(SCORES * own.length);
    const problems: Problem[] = [];
    for (const [i, client] of own.entries()) {
      const examples = data.train(client);
      const state = states(clients)[i];
      const personal = method.personalize?.(state, examples, message, atRound(round + 1, client)) ?? null;
      if (isLast && personal !== null) models.push(personal);
      const test = data.test(client);
      if (test && countOf(test) > 0) {
        const right = (by: AnyMethod, of: Payload): number => countRight((x) => by.scores(of, x), test);
        counts.set([countOf(test), right(method, model), Number.NaN, Number.NaN], SCORES * i);
        if (personal !== null) counts[SCORES * i + 2] = right(method, personal);
        if (isLast && alone) {
          const single = alone as unknown as AnyMethod;
          const lonely = yield* trainedAlone(single, examples, client);
          if ("reason" in lonely) problems.push(problemOf(client, lonely.reason));
          else counts[SCORES * i + 3] = right(single, lonely.model);
        }
      }
      yield;
    }
    const scores: Scores = { counts: table(own.length, SCORES, counts), problems };
    return { outs: [models, scores] };
  }

  return {
    train: job((ins, { round }): JobResult | JobSteps => train(ins, round)),
    evaluate: job((ins, { round }): JobResult | JobSteps => evaluate(ins, round, false)),
    finish: job((ins, { round }): JobResult | JobSteps => evaluate(ins, round, true)),
  };
}

/** The model that a client gets from a method with nobody else. */
function* trainedAlone(
  method: AnyMethod,
  data: ClientData,
  client: number,
): Generator<void, { readonly model: Payload } | { readonly reason: string }> {
  let server = method.initServer();
  let state = method.initClient(client);
  for (let round = 0; round < method.rounds; round++) {
    const message = method.broadcast(server, round);
    try {
      const [next, sent] = method.client(state, data, message, { round, client, clients: 1 });
      state = next;
      server = method.server(server, [sent], round);
    } catch (error) {
      // What all determine together, the examples of one may not: that is a result, and no reason to lose the others.
      if (!(error instanceof RangeError)) throw error;
      return { reason: error.message };
    }
    yield;
  }
  return { model: method.model(server) };
}

function problemOf(client: number, reason: string): Problem {
  const codes = Int32Array.from(reason, (character) => character.codePointAt(0)!);
  return { client: scalar(client, "int32"), reason: adopt(codes, [codes.length], "int32") };
}

/** How many examples have their largest score at their class; where a score is not a number, none is the largest. */
function countRight(scoresOf: (x: Value) => Value, { x, y }: ClientData): number {
  const labels = y.dataSync();
  const count = labels.length;
  let right = 0;
  for (let start = 0; start < count; start += CHUNK) {
    const own = Math.min(CHUNK, count - start);
    // Few shapes: the rest is filled up with its first example.
    const rows = Int32Array.from({ length: Math.min(CHUNK, powerFrom(own)) }, (_, i) =>
      i < own ? start + i : start,
    );
    const scores = scoresOf(take(x, adopt(rows, [rows.length], "int32")));
    const classes = scores.shape[1]!;
    const numbers = scores.dataSync();
    for (let i = 0; i < own; i++) {
      let best = 0;
      for (let c = 0; c < classes && best >= 0; c++) {
        const score = numbers[i * classes + c]!;
        if (Number.isNaN(score)) best = -1;
        else if (score > numbers[i * classes + best]!) best = c;
      }
      if (best === labels[start + i]) right++;
    }
  }
  return right;
}

const table = (rows: number, columns: number, data: Float64Array): Value =>
  adopt(data, [rows, columns], "float64");

/**
 * One client at the end of a run, with the bytes that were counted. Accuracies are fractions of its test examples that are
 * right, null where there are none or no such model.
 *
 * @since 0.2.0
 */
export interface ClientOutcome extends ClientBytes {
  readonly testExamples: number;
  /** By the model of the server. */
  readonly global: number | null;
  /** By its own. */
  readonly personal: number | null;
  /** By what it would have learned alone. */
  readonly alone: number | null;
  /** Why there is nothing that it would have learned alone; null if there is, or nobody has asked. */
  readonly aloneProblem: string | null;
}

/**
 * The end of a federated run.
 *
 * @since 0.2.0
 */
export interface FederatedOutcome {
  readonly clients: readonly ClientOutcome[];
  /** The state of the server. */
  readonly server: unknown;
  /** Whether models have been evaluated. */
  readonly isEvaluated: boolean;
}

/**
 * What a run has come to, from its durable registers.
 *
 * Shapes: none.
 * @example Before a run
 * ```ts
 * const method = ct.dist.fedAvg(ct.nn.logistic(1, 2), { rounds: 1 });
 * const plan = ct.dist.federatedPlan({ clients: 1, rounds: 1 });
 * const train = () => ({ x: ct.ones([2, 1]), y: ct.tensor([0, 1], { dtype: "int32" }) });
 * const { initial } = ct.dist.federatedSetup(plan, method, { train, test: () => null });
 * assert(!ct.dist.federatedOutcome(plan, { hub: initial.hub, workers: [] }).isEvaluated);
 * ```
 * @since 0.2.0
 */
export function federatedOutcome(plan: FederatedPlan, { hub }: RunValues): FederatedOutcome {
  const bytes = doubles(hub["traffic"]);
  const scores = hub["scores"] as Scores | null;
  const counts = scores && doubles(scores.counts);
  const problems = new Map(
    scores?.problems.map(({ client, reason }) => [
      client.item(),
      String.fromCodePoint(...(reason.dataSync() as Int32Array)),
    ]),
  );
  const clients = Array.from({ length: plan.clients }, (_, client): ClientOutcome => {
    const [received, sent, receivedAtEnd] = bytes.subarray(TRAFFIC * client, TRAFFIC * (client + 1));
    const [count = 0, ...right] = counts?.subarray(SCORES * client, SCORES * (client + 1)) ?? [];
    const [global, personal, alone] = right.map((n) => (count === 0 || Number.isNaN(n) ? null : n / count));
    return {
      testExamples: count,
      global: global ?? null,
      personal: personal ?? null,
      alone: alone ?? null,
      aloneProblem: problems.get(client) ?? null,
      received: received!,
      sent: sent!,
      receivedAtEnd: receivedAtEnd!,
    };
  });
  return { clients, server: hub["server"], isEvaluated: scores !== null };
}

/**
 * The models of a run.
 *
 * @since 0.2.0
 */
export interface FederatedModels {
  /** That of all. */
  readonly global: unknown;
  /** Each client's own; empty if the method makes none, or the last round is not over. */
  readonly clients: readonly unknown[];
}

/**
 * The models of a run, from its durable registers: trees of tensors, for `scores` of the method and for files.
 *
 * Shapes: those of the method.
 * @example A model from a file, and its scores
 * ```ts
 * const { tmpdir } = await import("node:os");
 * const method = ct.dist.ditto(ct.nn.logistic(1, 2), { rounds: 1 });
 * const plan = ct.dist.federatedPlan({ clients: 2, rounds: 1 });
 * const train = () => ({ x: ct.tensor([[1], [-1]]), y: ct.tensor([0, 1], { dtype: "int32" }) });
 * const values = ct.dist.runSequential(ct.dist.federatedSetup(plan, method, { train, test: train }));
 * const { clients } = ct.dist.federatedModels(plan, method, values);
 * const path = `${tmpdir()}/cotangent-docs-client-001.safetensors`;
 * await ct.io.save(path, clients[1]);
 * const { tree } = await ct.io.load(path);
 * const { x, y } = train();
 * assertClose(ct.argmax(method.scores(tree, x), { axis: 1 }), y);
 * ```
 * @since 0.2.0
 */
export function federatedModels<S, C>(
  plan: FederatedPlan,
  method: FederatedMethod<S, C>,
  { hub, workers }: RunValues,
): FederatedModels {
  const clients: unknown[] = [];
  workers.forEach(({ models }, rank) => {
    for (const [i, model] of (models as readonly unknown[]).entries()) {
      clients[hostedClients(plan, rank)[i]!] = model;
    }
  });
  return { global: method.model(hub["server"] as S), clients };
}

/** Whether the hub's notes of a phase are scores, and over all clients: examples, and how many are right by whom. */
export function scoresOfPhase(
  phase: string,
  notes: readonly number[],
): {
  readonly examples: number;
  readonly global: number;
  readonly personal: number;
  readonly alone: number;
} | null {
  if (phase !== "evaluate" && phase !== "finish") return null;
  const [examples, global, personal, alone] = notes as [number, number, number, number];
  return { examples, global, personal, alone };
}
