/** How long a plan takes: the phases of its script, priced with measured costs and a network. */
import type { DType } from "../core/dtype.ts";
import { isCommunication } from "./compress/plan.ts";
import { columnsOf, curvatureDueAt, evaluatesAfter, extrapolatesAfter, type Plan } from "./plan.ts";
import { type PhaseCost, type PlanCost, planCost, type WorkerMemory } from "./plan_cost.ts";
import { preconditionedOf } from "./preconditioned.ts";
import { type Phase, slots } from "./protocol/script.ts";
import { configOf, roundScript } from "./script.ts";
import type { SimClock } from "./sim.ts";
import { type Counts, type Examples, hubCounts, type WorkKind, workerCounts } from "./work_counts.ts";

/**
 * A time that grows along a straight line. Units: seconds.
 *
 * @since 0.2.0
 */
export interface Rate {
  /** Of a call, however small. */
  readonly call: number;
  /** Of each unit of it. */
  readonly unit: number;
}

/**
 * What was measured on one device.
 *
 * @since 0.2.0
 */
export interface Costs {
  readonly rates: Readonly<Record<WorkKind, Rate>>;
  /** For how many examples the plan is priced. */
  readonly examples: Examples;
  /** Devices that all workers share; null where each has one of its own. */
  readonly devices: number | null;
}

/**
 * How the workers are connected.
 *
 * - `star`: as the protocol does it. The bytes of all workers go over the hub's link in turn.
 * - `ring`: each half of a question is one way round the ring, P - 1 messages one after the other and (P - 1) / P of a
 *   worker's bytes over every link at once; a sum and its return are 2 (P - 1) messages and 2 (P - 1) / P n numbers. What
 *   the hub would reduce, each worker reduces a P-th of.
 *
 * @since 0.2.0
 */
export interface Network {
  readonly topology: "star" | "ring";
  /** Seconds that a message is under way, beside its bytes. */
  readonly latency: number;
  /** Bytes per second of one link. */
  readonly bandwidth: number;
}

/**
 * One phase over the whole run. Units: seconds.
 *
 * @since 0.2.0
 */
export interface PhaseForecast {
  readonly name: string;
  readonly part: "refresh" | "step" | "evaluation" | "save";
  /** Rounds of the run that have this phase. */
  readonly rounds: number;
  /** Of the slowest worker, and of the hub. */
  readonly workers: number;
  readonly hub: number;
  readonly communication: number;
  /** All three. */
  readonly seconds: number;
}

/**
 * The time of a run from its first question to the end of its last round, without faults. Units: seconds.
 *
 * @since 0.2.0
 */
export interface Forecast {
  /** The sum of the phases, which is `perStep` for each step, `perRefresh` for each refresh, and so on. */
  readonly seconds: number;
  readonly phases: readonly PhaseForecast[];
  /** Saves included: there is one at the end of each round. */
  readonly perStep: number;
  readonly perRefresh: number;
  readonly perEvaluation: number;
  /** Of the worker that holds most. */
  readonly memory: WorkerMemory;
}

const free: Rate = { call: 0, unit: 0 };

/**
 * Nothing takes time, and every call has one example: to override what a question is about.
 *
 * @example Nothing takes time
 * ```ts
 * assert(ct.dist.freeOfCost.rates.gradient.call === 0);
 * ```
 * @since 0.2.0
 */
export const freeOfCost: Costs = {
  rates: {
    gradient: free,
    linearize: free,
    product: free,
    update: free,
    project: free,
    basis: free,
    reduce: free,
    iterate: free,
    start: free,
    ritz: free,
    evaluate: free,
    hubMessage: free,
    workerMessage: free,
    save: free,
  },
  examples: { gradient: 1, curvature: 1, evaluation: 1 },
  devices: null,
};

type Options = { readonly dtype?: DType };

interface Prices {
  readonly costs: Costs;
  readonly network: Network;
}

/** Seconds of some work. */
function secondsOf({ rates }: Costs, work: Counts): number {
  let seconds = 0;
  for (const [name, { calls, units }] of Object.entries(work)) {
    const { call, unit } = rates[name as WorkKind];
    seconds += calls * call + units * unit;
  }
  return seconds;
}

/** By how much workers that share devices are slower than one alone. */
function crowding({ workers }: Plan, { devices }: Costs): number {
  return devices === null ? 1 : Math.max(1, workers / devices);
}

/** Worker 0's part of what all workers answer in a phase. */
function shareOfFirst(plan: Plan, { reply = [] }: Phase): number {
  const { parameters: n, workers, curvature } = plan;
  if (reply.includes("report")) return 1;
  if (!reply.includes("product") || curvature?.reduce !== "rank0") return 1 / workers;
  // It alone has a product; the others have their columns, and everybody those of a row.
  const [start, end] = columnsOf(plan, 0);
  return (n + end - start) / (3 * n - (end - start));
}

/** What one save writes at the busiest worker and at the hub, in bytes. */
function savedBytes(plan: Plan, memory: WorkerMemory): { readonly worker: number; readonly hub: number } {
  const theta = memory.parameters / 2;
  const { base, velocity, vectors, agreement } = memory;
  const own = configOf(plan).durable.worker.includes("theta") ? theta : 0;
  return { worker: own + base + velocity + vectors + agreement, hub: theta };
}

/** The hub's end of one message: its link, and its own work on it. */
function linkSeconds({ rates }: Costs, { bandwidth }: Network, bytes: number): number {
  return rates.hubMessage.call + bytes * (rates.hubMessage.unit + 1 / bandwidth);
}

/** The messages of one phase of one round. */
function communicationSeconds(
  plan: Plan,
  { costs, network }: Prices,
  phase: Phase,
  { questions, bytesToWorkers, bytesToHub }: PhaseCost,
): number {
  const P = plan.workers;
  const { call, unit } = costs.rates.workerMessage;
  const crowd = crowding(plan, costs);
  const messages = 2 * questions;
  if (network.topology === "ring") {
    const hops = messages * (P - 1);
    const bytes = ((P - 1) / P) * ((bytesToWorkers + bytesToHub) / P);
    // Whoever passes something on has read it and writes it.
    return hops * (network.latency + 2 * crowd * call) + bytes * (1 / network.bandwidth + 2 * crowd * unit);
  }
  const link =
    messages * P * linkSeconds(costs, network, 0) +
    (bytesToWorkers + bytesToHub) * (costs.rates.hubMessage.unit + 1 / network.bandwidth);
  const own = bytesToWorkers / P + shareOfFirst(plan, phase) * bytesToHub;
  return link + messages * (network.latency + crowd * call) + crowd * own * unit;
}

/** Work of the hub on one question of a phase. A ring cuts what is done with answers over the workers. */
function hubSeconds(
  plan: Plan,
  { costs, network }: Prices,
  fn: string,
  { questions, bytesToHub }: PhaseCost,
): number {
  const bytes = questions === 0 ? 0 : bytesToHub / questions;
  const share = network.topology === "ring" ? plan.workers : 1;
  return secondsOf(costs, hubCounts(plan, costs.examples, fn, bytes / share));
}

/** The phases of a round, each priced in all of its places together. */
function roundForecast(
  plan: Plan,
  prices: Prices,
  round: number,
  { phases, memory }: PlanCost,
): readonly PhaseForecast[] {
  const { costs } = prices;
  const crowd = crowding(plan, costs);
  const steps = trainingNames(plan, round);
  const found = new Map<string, PhaseForecast>();
  for (const { phase, repeat } of slots(roundScript(plan, round))) {
    const { name } = phase;
    const cost = phases.find((other) => other.name === name)!;
    let [workers, hub] = [0, 0];
    for (let iteration = 0; iteration < repeat; iteration++) {
      if (phase.worker) {
        const work = workerCounts(plan, costs.examples, phase.worker.fn, iteration);
        workers += crowd * secondsOf(costs, work);
      }
      if (phase.hub) hub += hubSeconds(plan, prices, phase.hub.fn, cost);
    }
    const before = found.get(name);
    const part = phase.hub?.fn === "evaluate" ? "evaluation" : steps.has(name) ? "step" : "refresh";
    // The bytes are those of all places of the phase in the round.
    const communication = before ? 0 : communicationSeconds(plan, prices, phase, cost);
    found.set(name, added(before, { name, part, rounds: 1, workers, hub, communication, seconds: 0 }));
  }
  const saved = savedBytes(plan, memory[0]!);
  const [workers, hub] = [saved.worker, saved.hub].map((bytes) => secondsOf(costs, saveOf(bytes))) as [
    number,
    number,
  ];
  const save = { name: "save", part: "save", rounds: 1, workers, hub, communication: 0, seconds: 0 } as const;
  return [...found.values(), added(undefined, save)];
}

const saveOf = (bytes: number): Counts => ({ save: { calls: 1, units: bytes } });

/** The names of a round's phases that are there also when no curvature is due. */
function trainingNames(plan: Plan, round: number): ReadonlySet<string> {
  const { curvature } = plan;
  const quiet = curvature && { ...curvature, warmup: Number.POSITIVE_INFINITY };
  return new Set(slots(roundScript({ ...plan, curvature: quiet }, round)).map(({ phase }) => phase.name));
}

/** The times of both; the rounds are those of one. */
function added(a: PhaseForecast | undefined, b: PhaseForecast): PhaseForecast {
  const workers = (a?.workers ?? 0) + b.workers;
  const hub = (a?.hub ?? 0) + b.hub;
  const communication = (a?.communication ?? 0) + b.communication;
  return { ...b, workers, hub, communication, seconds: workers + hub + communication };
}

/**
 * The time of a plan, phase by phase: workers compute side by side, the hub and its messages one after the other.
 *
 * The script and the bytes are those of `planCost`; the rates come from a calibration such as `bench/forecast.ts`. No
 * Lanczos loop ends early, and nobody begins to compute while others still wait for their question: a run in which
 * somebody does is a little shorter.
 *
 * Shapes: plain JSON data.
 * Units: seconds and bytes.
 *
 * @param options the element type of the parameters, default float32
 * @throws {RangeError} if the bandwidth is not positive, the curvature has workers of its own, workers send parts of what they
 * have, or the method has matrices
 * @throws {TypeError} for a function of the script whose work is not known
 * @example Bytes alone: 3 steps move 40 bytes to and from each of 2 workers, and then worker 0 reports
 * ```ts
 * const plan = ct.dist.makePlan({
 *   version: 1, workers: 2, parameters: 10, rounds: 1, localSteps: 3, seed: 0,
 *   update: { name: "sgd", learningRate: 0.1 }, sync: { k: "gradient" },
 * });
 * const network: ct.dist.Network = { topology: "star", latency: 0, bandwidth: 100 };
 * const { seconds } = ct.dist.forecast(plan, ct.dist.freeOfCost, network);
 * assertClose(seconds, (3 * 2 * 2 * 40 + 40) / 100);
 * ```
 * @since 0.2.0
 */
export function forecast(plan: Plan, costs: Costs, network: Network, options: Options = {}): Forecast {
  check(plan, network);
  const cost = planCost(plan, options);
  const kinds = new Map<string, readonly PhaseForecast[]>();
  const all = new Map<string, PhaseForecast>();
  for (let round = 0; round < plan.rounds; round++) {
    const kind = [curvatureDueAt, extrapolatesAfter, evaluatesAfter].map((is) => is(plan, round)).join();
    const phases = kinds.get(kind) ?? roundForecast(plan, { costs, network }, round, cost);
    kinds.set(kind, phases);
    for (const phase of phases) {
      const before = all.get(phase.name);
      all.set(phase.name, { ...added(before, phase), rounds: (before?.rounds ?? 0) + 1 });
    }
  }
  const phases = [...all.values()];
  const sumOf = (...parts: readonly PhaseForecast["part"][]): number =>
    phases.reduce((sum, { part, seconds }) => sum + (parts.includes(part) ? seconds : 0), 0);
  const roundsOf = (part: PhaseForecast["part"]): number =>
    Math.max(1, ...phases.filter((phase) => phase.part === part).map(({ rounds }) => rounds));
  return {
    seconds: sumOf("refresh", "step", "evaluation", "save"),
    phases,
    perStep: sumOf("step", "save") / (plan.rounds * plan.localSteps),
    perRefresh: sumOf("refresh") / roundsOf("refresh"),
    perEvaluation: sumOf("evaluation") / roundsOf("evaluation"),
    memory: cost.memory[0]!,
  };
}

function check(plan: Plan, { bandwidth }: Network): void {
  const { curvature, update } = plan;
  if (!(bandwidth > 0)) {
    throw new RangeError(
      `Cannot forecast a plan: the bandwidth is ${bandwidth}, a positive number of bytes per second is needed`,
    );
  }
  if (curvature?.split) {
    throw new RangeError(
      `Cannot forecast a plan: its curvature has ${curvature.split.workers} workers of its own, a plan without a split is needed`,
    );
  }
  if (isCommunication(plan.sync)) {
    throw new RangeError(
      `Cannot forecast a plan: what the workers of ${plan.sync.k} compute is not counted, a plan whose workers agree in another way is needed`,
    );
  }
  if (preconditionedOf(plan)) {
    throw new RangeError(
      `Cannot forecast a plan: the work of ${update.name} on its matrices is not counted, a method whose state is vectors is needed`,
    );
  }
}

/**
 * The same costs and network as a clock for `simulate`: without faults a simulated run takes the time of the forecast, and
 * with faults that of what they cost beside. Where shares are uneven the simulated run is a little shorter.
 *
 * @param options the element type of the parameters, default float32; seconds of a tick of the protocol, default 0.2
 * @throws {RangeError} as `forecast` does, and for a ring: the protocol has a hub
 * @throws {TypeError} for a function of the script whose work is not known
 * @example What a worker's gradient takes
 * ```ts
 * const plan = ct.dist.makePlan({
 *   version: 1, workers: 2, parameters: 10, rounds: 1, localSteps: 3, seed: 0,
 *   update: { name: "sgd", learningRate: 0.1 }, sync: { k: "gradient" },
 * });
 * const rates = { ...ct.dist.freeOfCost.rates, gradient: { call: 2, unit: 0.5 } };
 * const network: ct.dist.Network = { topology: "star", latency: 0, bandwidth: 100 };
 * const clock = ct.dist.clockOf(plan, { ...ct.dist.freeOfCost, rates }, network);
 * const args = { round: 0, phase: "gradient", iteration: 0, rank: 1, workers: 2, notes: [], numbers: [] };
 * assertClose(clock.compute(1, "gradient", args), 2.5);
 * ```
 * @since 0.2.0
 */
export function clockOf(
  plan: Plan,
  costs: Costs,
  network: Network,
  options: Options & { readonly tickSeconds?: number } = {},
): SimClock {
  check(plan, network);
  if (network.topology === "ring") {
    throw new RangeError(
      "Cannot make a clock: the topology is a ring, a star is needed because the protocol has a hub",
    );
  }
  const { phases, memory } = planCost(plan, options);
  const crowd = crowding(plan, costs);
  const saved = savedBytes(plan, memory[0]!);
  const { workerMessage } = costs.rates;
  return {
    tickSeconds: options.tickSeconds ?? 0.2,
    compute(peer, fn, { phase, iteration }) {
      if (peer !== "hub") return crowd * secondsOf(costs, workerCounts(plan, costs.examples, fn, iteration));
      const cost = phases.find(({ name }) => name === phase)!;
      return hubSeconds(plan, { costs, network }, fn, cost);
    },
    save: (peer) => secondsOf(costs, saveOf(peer === "hub" ? saved.hub : saved.worker)),
    link: (bytes) => linkSeconds(costs, network, bytes),
    travel: (bytes) => network.latency + crowd * (workerMessage.call + bytes * workerMessage.unit),
  };
}
