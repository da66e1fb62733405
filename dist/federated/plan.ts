/**
 * Federated runs as plain data: which process hosts which clients, and who is there in a round. Both are pure functions of
 * the plan, so every process derives the same, also after a crash.
 */
import { z } from "zod";
import { PlanError } from "../../core/errors.ts";
import { foldIn, key, uniform } from "../../core/random.ts";
import type { Value } from "../../core/value.ts";
import type { Script } from "../protocol/script.ts";
import { type Config, protocolDefaults } from "../protocol/types.ts";
import type { FederatedMethod } from "./method.ts";

/**
 * How unequal clients are in speed. Client k takes `1 + spread (u_k + u_kr) / 2` for its work in round r, in units of the
 * shortest time, with u_k and u_kr drawn evenly from [0, 1): half of it is the client's, half the round's.
 *
 * @since 0.2.0
 */
export interface Stragglers {
  readonly spread: number;
  /** Who takes longer is left out of the round. */
  readonly limit: number;
}

/**
 * A federated run as plain data; made by `federatedPlan`. What the clients compute is a method, which the plan does not
 * know.
 *
 * @since 0.2.0
 */
export interface FederatedPlan {
  readonly version: 1;
  readonly clients: number;
  /** Processes; process p hosts the clients p, p + workers, p + 2 workers, ... */
  readonly workers: number;
  /** Those of the method. */
  readonly rounds: number;
  readonly seed: number;
  /** The chance of a client not to be there in a round. */
  readonly absentRate: number;
  readonly stragglers: Stragglers | null;
  /**
   * Whether a client takes part once: in the first round in which it would be there, and in no other but that of leaving. For
   * methods whose sums grow, in which nobody may count twice.
   */
  readonly once: boolean;
  /** Clients that leave: they alone are there in the last round, those that have been there before. None: there is no such round. */
  readonly leaving: readonly number[];
  /** Rounds between evaluations of models that are whole after every round; 0 for none before the end. */
  readonly evaluateEvery: number;
  readonly limits: Pick<Config, "retryTicks" | "deadTicks" | "maxRestarts" | "maxQueue">;
}

/**
 * What `federatedPlan` accepts: everything that has a default may be left out.
 *
 * @since 0.2.0
 */
export type FederatedPlanInput = Pick<FederatedPlan, "clients" | "rounds"> &
  Partial<Omit<FederatedPlan, "clients" | "rounds" | "limits">> & {
    readonly limits?: Partial<FederatedPlan["limits"]>;
  };

const count = (least: number) => z.int().min(least);

const planSchema: z.ZodType<FederatedPlan, unknown> = z
  .strictObject({
    version: z.literal(1).default(1),
    clients: count(1),
    workers: count(1).max(1024).default(1),
    rounds: count(1),
    seed: count(0).default(0),
    absentRate: z.number().min(0).lt(1).default(0),
    stragglers: z
      .strictObject({ spread: z.number().min(0), limit: z.number().min(1) })
      .nullable()
      .default(null),
    once: z.boolean().default(false),
    leaving: z.array(count(0)).default([]),
    evaluateEvery: count(0).default(0),
    limits: z
      .strictObject({
        retryTicks: count(1).default(protocolDefaults.retryTicks),
        deadTicks: count(2).default(protocolDefaults.deadTicks),
        maxRestarts: count(0).default(protocolDefaults.maxRestarts),
        maxQueue: count(1).default(protocolDefaults.maxQueue),
      })
      .prefault({}),
  })
  .superRefine(({ clients, workers, rounds, leaving }, context) => {
    const issue = (path: string, message: string): void =>
      context.addIssue({ code: "custom", path: [path], message });
    if (workers > clients)
      issue("workers", `there are ${workers} for ${clients} clients, at most one for each client is needed`);
    const unknown = leaving.find((client) => client >= clients);
    if (unknown !== undefined)
      issue("leaving", `client ${unknown} is not one of ${clients}, numbers from 0 are needed`);
    if (leaving.length > 0 && rounds < 2)
      issue("leaving", "there is 1 round, one before that of leaving is needed");
  });

/**
 * A checked plan with its defaults filled in.
 *
 * Shapes: plain JSON data.
 * Units: times in units of the fastest client's, limits in ticks.
 *
 * @throws {PlanError} listing every field that is wrong
 * @example Ten clients on two processes, a tenth of them absent
 * ```ts
 * const plan = ct.dist.federatedPlan({ clients: 10, workers: 2, rounds: 5, absentRate: 0.1 });
 * assertClose(ct.dist.hostedClients(plan, 1), [1, 3, 5, 7, 9]);
 * ```
 * @since 0.2.0
 */
export function federatedPlan(input: FederatedPlanInput): FederatedPlan {
  const result = planSchema.safeParse(input);
  if (result.success) return Object.freeze(result.data);
  const problems = result.error.issues.map((issue) => `${issue.path.join(".") || "plan"}: ${issue.message}`);
  throw new PlanError(`Cannot make a federated plan: ${problems.join("; ")}`, problems);
}

/**
 * The clients of a process, in order.
 *
 * Shapes: none.
 * @example Process 0 of two
 * ```ts
 * const plan = ct.dist.federatedPlan({ clients: 5, workers: 2, rounds: 1 });
 * assertClose(ct.dist.hostedClients(plan, 0), [0, 2, 4]);
 * ```
 * @since 0.2.0
 */
export function hostedClients({ clients, workers }: FederatedPlan, rank: number): number[] {
  return Array.from({ length: Math.ceil((clients - rank) / workers) }, (_, i) => rank + i * workers);
}

/**
 * Who is there in a round: all but those that are absent by chance and those that would take longer than the limit. If
 * that is nobody, the first of all that was nearest to come. Where clients take part once, those of earlier rounds are not there
 * again. In a round of leaving it is those that leave, if they were there before.
 *
 * Shapes: none; one truth value for each client.
 * Determinism: a function of seed, round and client alone, with exact arithmetic: the same on every machine.
 *
 * @example Everyone
 * ```ts
 * const plan = ct.dist.federatedPlan({ clients: 2, rounds: 1 });
 * assert(ct.dist.presentClients(plan, 0).every((isPresent) => isPresent));
 * ```
 * @since 0.2.0
 */
export function presentClients(plan: FederatedPlan, round: number): readonly boolean[] {
  const { rounds, once, leaving } = plan;
  const isLeaving = leaving.length > 0 && round === rounds - 1;
  if (!once && !isLeaving) return reachableClients(plan, round);
  return firstRounds(plan).map((first, client) =>
    isLeaving ? first < round && leaving.includes(client) : first === round,
  );
}

/** What `firstRounds` has found: without it every round would look at all before it again. */
const knownFirstRounds = new WeakMap<FederatedPlan, readonly number[]>();

/** The first round in which each client could be there; infinite for those that come in none. */
function firstRounds(plan: FederatedPlan): readonly number[] {
  const known = knownFirstRounds.get(plan);
  if (known) return known;
  const first = new Array<number>(plan.clients).fill(Number.POSITIVE_INFINITY);
  for (let round = 0; round < plan.rounds && first.includes(Number.POSITIVE_INFINITY); round++) {
    reachableClients(plan, round).forEach((isThere, client) => {
      if (isThere) first[client] = Math.min(first[client]!, round);
    });
  }
  knownFirstRounds.set(plan, first);
  return first;
}

/** Who could be there in a round, whatever there was before. */
function reachableClients(plan: FederatedPlan, round: number): readonly boolean[] {
  const { clients, seed, absentRate, stragglers } = plan;
  if (absentRate === 0 && stragglers === null) return new Array<boolean>(clients).fill(true);
  const root = key(seed);
  const ofRound = foldIn(foldIn(root, 0), round);
  const draws = (stream: Value): ArrayLike<number> => uniform(stream, [clients]).dataSync();
  const chances = draws(foldIn(ofRound, 0));
  const slow = draws(foldIn(root, 1));
  const busy = draws(foldIn(ofRound, 1));
  const { spread, limit } = stragglers ?? { spread: 0, limit: 1 };
  const present = Array.from(
    { length: clients },
    (_, k) => chances[k]! >= absentRate && 1 + (spread * (slow[k]! + busy[k]!)) / 2 <= limit,
  );
  if (!present.includes(true)) {
    const nearest = Array.from({ length: clients }, (_, k) => chances[k]! - slow[k]! - busy[k]!);
    present[nearest.indexOf(Math.max(...nearest))] = true;
  }
  return present;
}

/** Whether models are evaluated at the end of a round; at the end of the last they always are, and before clients leave. */
function isEvaluatedAfter({ evaluateEvery, rounds, leaving }: FederatedPlan, round: number): boolean {
  return (
    round === rounds - 1 ||
    (leaving.length > 0 && round === rounds - 2) ||
    (evaluateEvery > 0 && (round + 1) % evaluateEvery === 0)
  );
}

/**
 * The protocol's configuration for a plan: a round is one question to every process and its answer, and one more where
 * models are evaluated.
 *
 * Shapes: none.
 * @example As many workers and rounds as the plan says
 * ```ts
 * const config = ct.dist.federatedConfig(ct.dist.federatedPlan({ clients: 4, workers: 2, rounds: 3 }));
 * assertClose([config.workers, config.rounds], [2, 3]);
 * ```
 * @since 0.2.0
 */
export function federatedConfig(plan: FederatedPlan): Config {
  return {
    ...plan.limits,
    workers: plan.workers,
    rounds: plan.rounds,
    script: (round) => roundScript(plan, round),
    durable: { hub: ["server", "traffic", "scores"], worker: ["clients", "models"] },
  };
}

function roundScript(plan: FederatedPlan, round: number): Script {
  const isLast = round === plan.rounds - 1;
  return [
    { name: "broadcast", hub: { fn: "broadcast", ins: ["server"], outs: ["message"] } },
    {
      name: "train",
      send: ["message"],
      worker: { fn: "train", ins: ["clients", "message"], outs: ["clients", "models", "answers"] },
      reply: ["answers"],
      hub: {
        fn: "reduce",
        ins: ["server", "message", "traffic", "answers@*"],
        outs: ["server", "traffic"],
      },
    },
    ...(isEvaluatedAfter(plan, round) ? evaluationPhases(isLast) : []),
  ];
}

/** At the end clients keep the models that they make of the last message; before, they only try them. */
function evaluationPhases(isLast: boolean): Script {
  return [
    { name: "prepare", hub: { fn: "prepare", ins: ["server"], outs: ["model", "message"] } },
    {
      name: isLast ? "finish" : "evaluate",
      send: ["model", "message"],
      worker: {
        fn: isLast ? "finish" : "evaluate",
        ins: ["clients", "model", "message"],
        outs: ["models", "scores"],
      },
      reply: ["scores"],
      hub: { fn: "collect", ins: ["model", "message", "traffic", "scores@*"], outs: ["traffic", "scores"] },
    },
  ];
}

/**
 * Bytes of the elements of what a client gets and sends in the rounds, and gets after the last one: the model, or what it makes
 * its own of.
 *
 * @since 0.2.0
 */
export interface ClientBytes {
  readonly received: number;
  readonly sent: number;
  readonly receivedAtEnd: number;
}

/**
 * Bytes that each client gets and sends over a whole run, by the formula of the method: in the rounds in which it is there,
 * and after the last one, when all get the model or what they make their own of.
 *
 * Shapes: none; one record for each client.
 * @example FedAvg with three numbers of float32
 * ```ts
 * const method = ct.dist.fedAvg(ct.nn.dense(2, 1), { rounds: 2 });
 * const [first] = ct.dist.federatedBytes(ct.dist.federatedPlan({ clients: 1, rounds: 2 }), method);
 * assertClose([first!.received, first!.sent, first!.receivedAtEnd], [2 * 12, 2 * 16, 12]);
 * ```
 * @since 0.2.0
 */
export function federatedBytes(
  plan: FederatedPlan,
  method: Pick<FederatedMethod, "bytes">,
): readonly ClientBytes[] {
  const receivedAtEnd = method.bytes(plan.rounds).received;
  const totals = Array.from({ length: plan.clients }, () => ({ received: 0, sent: 0, receivedAtEnd }));
  for (let round = 0; round < plan.rounds; round++) {
    const { received, sent } = method.bytes(round);
    presentClients(plan, round).forEach((isPresent, client) => {
      if (!isPresent) return;
      totals[client]!.received += received;
      totals[client]!.sent += sent;
    });
  }
  return totals;
}
