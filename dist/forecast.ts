/** How long a plan takes: the phases of its script, priced with measured costs and a network. */
import { isCommunication } from "./compress/plan.ts";
import { curvatureDueAt, evaluatesAfter, extrapolatesAfter, type Plan } from "./plan.ts";
import {
  type CostOptions,
  carriesCurvature,
  type Moved,
  movedBeside,
  movedBy,
  planCost,
  stateBytes,
  type WorkerMemory,
} from "./plan_cost.ts";
import { preconditionedOf } from "./preconditioned.ts";
import { dueIn } from "./preconditioned_cost.ts";
import { isHubOnly, type Loop, type Phase, type Script, slots } from "./protocol/script.ts";
import { configOf, roundScript } from "./script.ts";
import type { Priority } from "./shared_link.ts";
import type { SimClock } from "./sim.ts";
import { groupConfig } from "./split.ts";
import { type Stage, type Task, type Timeline, timeline } from "./timeline.ts";
import {
  type Call,
  type Counts,
  type Examples,
  hubCounts,
  type WorkKind,
  workerCounts,
} from "./work_counts.ts";

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
  /**
   * Cores that all processes share: workers, hub, curvature workers. When more processes compute at a time than there are
   * cores, each is slower by the ratio of the two, and a process that sends in the background while it computes does both at
   * half the speed: with one core a run takes the sum of all work. Need not be whole: two cores that share a cache may be
   * worth less. Null: each process has a core, and another for what it does in the background.
   */
  readonly cores: number | null;
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
  /** For what goes on beside: an exchange in the background, or curvature of other workers. */
  readonly waiting: number;
  /** All four. */
  readonly seconds: number;
}

/**
 * The time of a run from its first question to the end of its last round, without faults. Units: seconds.
 * What is begun in the background and taken by no step of the run does not count.
 *
 * @since 0.2.0
 */
export interface Forecast {
  /** The sum of the phases, which is `perStep` for each step, `perRefresh` for each refresh, and so on. */
  readonly seconds: number;
  readonly phases: readonly PhaseForecast[];
  /** Saves included: there is one at the end of each round. */
  readonly perStep: number;
  /** Of what the training does for it, where curvature workers measure. */
  readonly perRefresh: number;
  readonly perEvaluation: number;
  /** Of one search by curvature workers, if nothing is beside it; 0 without a split. */
  readonly perSearch: number;
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
    divide: free,
    land: free,
    factors: free,
    roots: free,
    precondition: free,
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
  cores: null,
};

/** Everything that the time of a plan depends on. */
interface Prices {
  readonly costs: Costs;
  readonly network: Network;
  readonly options: CostOptions;
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

const saveOf = (bytes: number): Counts => ({ save: { calls: 1, units: bytes } });

/** What one save writes at the busiest worker and at the hub, in bytes. */
function savedBytes(
  plan: Plan,
  memory: WorkerMemory,
  options: CostOptions,
): { readonly worker: number; readonly hub: number } {
  const theta = memory.parameters / 2;
  const { base, velocity, vectors, matrices, agreement } = memory;
  const own = configOf(plan).durable.worker.includes("theta") ? theta : 0;
  const state = stateBytes(plan, options);
  return { worker: state ?? own + base + velocity + vectors + matrices + agreement, hub: theta };
}

// --- one question --------------------------------------------------------------------------------------------------

/** Those who run a script: the workers that train, or those that measure curvature. */
interface Party {
  readonly plan: Plan;
  readonly link: string;
  readonly moved: ReturnType<typeof movedBy>;
}

/** Work of all the workers of a party at the same time. */
function ofWorkers({ plan, link }: Pick<Party, "plan" | "link">): Required<Stage>["work"] {
  return { of: link, processes: plan.workers, part: 1 };
}

/** The hub's end of one message: its link, and its own work on it. */
function linkSeconds({ rates }: Costs, { bandwidth }: Network, bytes: number): number {
  return rates.hubMessage.call + bytes * (rates.hubMessage.unit + 1 / bandwidth);
}

/** Half of a question: one message to each worker, or one from each. */
function messages(
  party: Pick<Party, "plan" | "link">,
  { costs, network }: Prices,
  { all, most, isDown }: { readonly all: number; readonly most: number; readonly isDown: boolean },
  priority: Priority = "foreground",
): readonly Stage[] {
  const P = party.plan.workers;
  const { hubMessage, workerMessage } = costs.rates;
  const { latency, bandwidth, topology } = network;
  const work = ofWorkers(party);
  if (topology === "ring") {
    const hops = P - 1;
    const bytes = ((P - 1) / P) * (all / P);
    return [
      { seconds: hops * latency },
      // Whoever passes something on has read it and writes it.
      { seconds: 2 * (hops * workerMessage.call + bytes * workerMessage.unit), work },
      { seconds: bytes / bandwidth, link: { name: party.link, transfers: 1, priority } },
    ];
  }
  const seconds = P * linkSeconds(costs, network, 0) + all * (hubMessage.unit + 1 / bandwidth);
  const own = P * hubMessage.call + all * hubMessage.unit;
  // While the network is slower than the hub, the hub has time for other things.
  const part = own > 0 ? own / seconds : 0;
  const stages: readonly Stage[] = [
    { seconds, work: { of: "hub", processes: 1, part }, link: { name: "hub", transfers: P, priority } },
    { seconds: latency },
    { seconds: workerMessage.call + most * workerMessage.unit, work },
  ];
  return isDown ? stages : stages.toReversed();
}

function down(
  party: Pick<Party, "plan" | "link">,
  prices: Prices,
  moved: Moved,
  priority?: Priority,
): readonly Stage[] {
  return messages(party, prices, { all: moved.toWorkers, most: moved.mostToWorker, isDown: true }, priority);
}

function up(
  party: Pick<Party, "plan" | "link">,
  prices: Prices,
  moved: Moved,
  priority?: Priority,
): readonly Stage[] {
  return messages(party, prices, { all: moved.toHub, most: moved.mostToHub, isDown: false }, priority);
}

/** Work of the hub on answers of so many bytes. A ring cuts it over the workers. */
function hubStage(
  party: Pick<Party, "plan" | "link">,
  { costs, network }: Prices,
  fn: string,
  bytes: number,
): Stage {
  const { plan } = party;
  const isCut = network.topology === "ring";
  const counts = hubCounts(plan, costs.examples, fn, isCut ? bytes / plan.workers : bytes);
  return { seconds: secondsOf(costs, counts), work: isCut ? ofWorkers(party) : ofHub };
}

const ofHub: Required<Stage>["work"] = { of: "hub", processes: 1, part: 1 };

/** Work of the workers in one phase. */
function workerStage(
  party: Pick<Party, "plan" | "link">,
  { costs, options }: Prices,
  { worker, hub }: Phase,
  iteration: number,
): Stage {
  if (!worker) return { seconds: 0 };
  const call: Call = {
    iteration,
    numbers: worker.numbers ?? [],
    isInformed: hub?.fn === "informedMean",
    matrices: options.matrices ?? [],
  };
  const counts = workerCounts(party.plan, costs.examples, worker.fn, call);
  return { seconds: secondsOf(costs, counts), work: ofWorkers(party) };
}

/** The phases of a script as often as they are run, in order. */
function* turnsOf(script: Script): Generator<{ readonly phase: Phase; readonly iteration: number }> {
  for (const item of script) {
    const { repeat, body }: Loop = "body" in item ? item : { repeat: 1, body: [item] };
    for (let iteration = 0; iteration < repeat; iteration++)
      for (const phase of body) yield { phase, iteration };
  }
}

// --- beside the training ---------------------------------------------------------------------------------------------

/** An exchange in the background: all parts to the hub, their reduction, and its result to all. */
function exchangeStages(party: Party, prices: Prices, version: number): readonly Stage[] {
  const moved = movedBeside(party.plan, prices.options, version);
  return [
    ...up(party, prices, moved, "background"),
    hubStage(party, prices, "reduceBackground", moved.toHub),
    ...down(party, prices, moved, "background"),
  ];
}

/** Curvature workers, as the training sees them. */
interface Group {
  readonly search: readonly Stage[];
  submit(version: number): void;
  /** Seconds that the training waits for what it takes in a round, and whether it takes any. */
  collect(round: number): { readonly seconds: number; readonly carries: boolean };
}

/** The group of a plan on the same clock; its snapshots are searched one after the other, as `curvatureGroup` does it. */
function groupOf(plan: Plan, prices: Prices, line: Timeline): Group {
  const { late, workers, delay } = plan.curvature!.split!;
  const own: Plan = { ...plan, workers };
  const party: Party = { plan: own, link: "group", moved: movedBy(own, prices.options) };
  const search: Stage[] = [];
  for (const { phase, iteration } of turnsOf(groupConfig(plan).script(0))) {
    const moved = party.moved(phase, iteration, true);
    const isAsked = !isHubOnly(phase);
    if (isAsked) search.push(...down(party, prices, moved), workerStage(party, prices, phase, iteration));
    if (isAsked) search.push(...up(party, prices, moved));
    if (phase.hub) search.push(hubStage(party, prices, phase.hub.fn, moved.toHub));
  }
  let queue: readonly number[] = [];
  let current: Task | null = null;
  let newest = -1;
  let adopted = -1;
  const next = (): void => {
    const [version, ...others] = queue;
    if (current !== null || version === undefined) return;
    queue = others;
    let isOver = false;
    const task = line.begin(search, () => {
      newest = version;
      isOver = true;
      current = null;
      next();
    });
    if (!isOver) current = task;
  };
  return {
    search,
    submit(version) {
      // Where nobody waits for late curvature, a snapshot whose turn has not come makes room for the next.
      queue = late === "wait" ? [...queue, version] : [version];
      next();
    },
    collect(round) {
      let seconds = 0;
      // A task that ends begins the next: until the version is there, some task is under way.
      while (late === "wait" && newest < round - delay && current !== null) seconds += line.wait(current);
      const carries = newest > adopted;
      adopted = newest;
      return { seconds, carries };
    },
  };
}

// --- rounds ----------------------------------------------------------------------------------------------------------

type Spent = Record<"workers" | "hub" | "communication" | "waiting", number>;

/** One run on one clock. */
interface Walk {
  readonly party: Party;
  readonly prices: Prices;
  readonly line: Timeline;
  readonly group: Group | null;
  readonly saved: ReturnType<typeof savedBytes>;
  /** The exchange in the background that was begun last. */
  exchange: Task | null;
}

/** The phases of a round, each with the time of all its turns. */
function roundForecast(walk: Walk, round: number): readonly PhaseForecast[] {
  const { party, prices, line, group, saved } = walk;
  const { plan } = party;
  const { costs } = prices;
  const parts = partsIn(plan, round);
  const found = new Map<string, Spent>();
  const spentIn = (name: string): Spent => {
    const spent = found.get(name) ?? { workers: 0, hub: 0, communication: 0, waiting: 0 };
    found.set(name, spent);
    return spent;
  };
  const script = roundScript(plan, round);
  const turns = [...turnsOf(script)];
  let carries = carriesCurvature(plan, round);
  turns.forEach(({ phase, iteration }, index) => {
    const isLast = index === turns.length - 1;
    const spent = spentIn(phase.name);
    const moved = party.moved(phase, iteration, carries);
    // The hub asks the workers to save with the last phase of a round, even when it alone has work in it.
    const isAsked = !isHubOnly(phase) || isLast;
    if (isAsked) {
      spent.communication += line.spend(down(party, prices, moved));
      if (phase.ends && walk.exchange) spent.waiting += line.wait(walk.exchange);
      spent.workers += line.spend([workerStage(party, prices, phase, iteration)]);
      if (phase.begins) walk.exchange = line.begin(exchangeStages(party, prices, phase.begins.version));
      if (isLast)
        spentIn("save").workers += line.spend([
          { seconds: secondsOf(costs, saveOf(saved.worker)), work: ofWorkers(party) },
        ]);
      spent.communication += line.spend(up(party, prices, moved));
    }
    if (phase.hub?.fn === "snapshot") group!.submit(round);
    if (phase.hub?.fn === "collect") {
      const taken = group!.collect(round);
      spent.waiting += taken.seconds;
      carries = taken.carries;
    }
    if (phase.hub) spent.hub += line.spend([hubStage(party, prices, phase.hub.fn, moved.toHub)]);
    if (isLast)
      spentIn("save").hub += line.spend([{ seconds: secondsOf(costs, saveOf(saved.hub)), work: ofHub }]);
  });
  return [...found].map(([name, spent]) => ({
    name,
    part: name === "save" ? "save" : parts(name),
    rounds: 1,
    ...spent,
    seconds: spent.workers + spent.hub + spent.communication + spent.waiting,
  }));
}

/** To what a phase of a round belongs: steps have those that are there also when no curvature is due. */
function partsIn(plan: Plan, round: number): (name: string) => PhaseForecast["part"] {
  const namesOf = (one: Plan): ReadonlySet<string> =>
    new Set(slots(roundScript(one, round)).map(({ phase }) => phase.name));
  const steps = namesOf({
    ...plan,
    curvature: plan.curvature && { ...plan.curvature, warmup: Number.POSITIVE_INFINITY },
  });
  return (name) =>
    name === "evaluate" || name === "view" ? "evaluation" : steps.has(name) ? "step" : "refresh";
}

/** The times of a phase in the rounds so far and in one more. */
function added(a: PhaseForecast | undefined, b: PhaseForecast): PhaseForecast {
  if (!a) return b;
  return {
    ...b,
    rounds: a.rounds + b.rounds,
    workers: a.workers + b.workers,
    hub: a.hub + b.hub,
    communication: a.communication + b.communication,
    waiting: a.waiting + b.waiting,
    seconds: a.seconds + b.seconds,
  };
}

/** Rounds of one kind take the same time; null where that depends on what earlier rounds have begun. */
function kindOf(plan: Plan, round: number): string | null {
  if (plan.curvature?.split || isCommunication(plan.sync)) return null;
  const method = preconditionedOf(plan);
  const due = [curvatureDueAt, extrapolatesAfter, evaluatesAfter].map((is) => is(plan, round));
  return [...due, method && dueIn(method, plan, round)].join();
}

/**
 * The time of a plan, phase by phase: workers compute side by side, the hub and its messages one after the other.
 *
 * The script and the bytes are those of `planCost`; the rates come from a calibration such as `bench/forecast.ts`. No
 * Lanczos loop ends early, and nobody begins to compute while others still wait for their question: a run in which
 * somebody does is a little shorter. Beside this go on
 *
 * - exchanges in the background: their bytes move over the same link while nobody waits for others there, and a step that
 *   takes a result waits for what is left;
 * - curvature workers: they and their messages share link and cores with the training, which waits where the plan says so.
 *
 * Shapes: plain JSON data.
 * Units: seconds and bytes.
 *
 * @param options as for `planCost`: the element type, default float32, the sides of matrices, the shapes of what is compressed
 * @throws {RangeError} if the bandwidth is not positive, or there is less than one core
 * @throws {PlanError} if the method has matrices and their sides are not given
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
export function forecast(plan: Plan, costs: Costs, network: Network, options: CostOptions = {}): Forecast {
  check(costs, network);
  const prices: Prices = { costs, network, options };
  const { memory } = planCost(plan, options);
  const held = largest(memory);
  const line = timeline(costs.cores);
  const walk: Walk = {
    party: { plan, link: "training", moved: movedBy(plan, options) },
    prices,
    line,
    group: plan.curvature?.split ? groupOf(plan, prices, line) : null,
    saved: savedBytes(plan, held, options),
    exchange: null,
  };
  const kinds = new Map<string, readonly PhaseForecast[]>();
  const all = new Map<string, PhaseForecast>();
  let refreshes = 0;
  for (let round = 0; round < plan.rounds; round++) {
    if (curvatureDueAt(plan, round)) refreshes++;
    const kind = kindOf(plan, round);
    const phases = (kind !== null && kinds.get(kind)) || roundForecast(walk, round);
    if (kind !== null) kinds.set(kind, phases);
    for (const phase of phases) all.set(phase.name, added(all.get(phase.name), phase));
  }
  const phases = [...all.values()];
  const sumOf = (...parts: readonly PhaseForecast["part"][]): number =>
    phases.reduce((sum, { part, seconds }) => sum + (parts.includes(part) ? seconds : 0), 0);
  const evaluations = Math.max(0, ...phases.map(({ part, rounds }) => (part === "evaluation" ? rounds : 0)));
  return {
    seconds: sumOf("refresh", "step", "evaluation", "save"),
    phases,
    perStep: sumOf("step", "save") / (plan.rounds * plan.localSteps),
    perRefresh: sumOf("refresh") / Math.max(1, refreshes),
    perEvaluation: sumOf("evaluation") / Math.max(1, evaluations),
    perSearch: timeline(costs.cores).spend(walk.group?.search ?? []),
    memory: held,
  };
}

/** The memory of the worker that holds most. */
function largest(memory: readonly WorkerMemory[]): WorkerMemory {
  const sum = (parts: WorkerMemory): number => Object.values(parts).reduce((a, b) => a + b, 0);
  return memory.reduce((most, own) => (sum(own) > sum(most) ? own : most));
}

function check({ cores }: Costs, { bandwidth }: Network): void {
  if (!(bandwidth > 0)) {
    throw new RangeError(
      `Cannot forecast a plan: the bandwidth is ${bandwidth}, a positive number of bytes per second is needed`,
    );
  }
  if (cores !== null && !(cores >= 1)) {
    throw new RangeError(`Cannot forecast a plan: the number of cores is ${cores}, at least one is needed`);
  }
}

/**
 * The same costs and network as a clock for `simulate`: without faults a simulated run takes the time of the forecast, and
 * with faults that of what they cost beside. Where shares are uneven the simulated run is a little shorter. The clock knows
 * no cores: what goes on beside the training takes none from it, and workers that share some are slower by as much always.
 * Curvature workers take no time in it, because in one process their curvature is there when it is asked for.
 *
 * @param options as for `forecast`; seconds of a tick of the protocol, default 0.2
 * @throws {RangeError} as `forecast` does, for a ring, as the protocol has a hub, and for a method with matrices
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
  options: CostOptions & { readonly tickSeconds?: number } = {},
): SimClock {
  check(costs, network);
  if (network.topology === "ring") {
    throw new RangeError(
      "Cannot make a clock: the topology is a ring, a star is needed because the protocol has a hub",
    );
  }
  if (preconditionedOf(plan)) {
    throw new RangeError(
      `Cannot make a clock: a function of ${plan.update.name} is not told which step it computes, a method whose steps are alike is needed`,
    );
  }
  const moved = movedBy(plan, options);
  const saved = savedBytes(plan, largest(planCost(plan, options).memory), options);
  const { workerMessage } = costs.rates;
  const crowd = costs.cores === null ? 1 : Math.max(1, plan.workers / costs.cores);
  const prices: Prices = { costs, network, options };
  const party = { plan, link: "training" };
  return {
    tickSeconds: options.tickSeconds ?? 0.2,
    compute(peer, fn, { phase: name, round, iteration, numbers }) {
      const work = { fn, numbers };
      if (peer !== "hub") {
        return crowd * workerStage(party, prices, { name, worker: work }, iteration).seconds;
      }
      if (fn === "reduceBackground") {
        return hubStage(party, prices, fn, movedBeside(plan, options, numbers[0]!).toHub).seconds;
      }
      const found = slots(roundScript(plan, round)).find(
        ({ phase }) => phase.name === name && phase.hub?.fn === fn,
      )!;
      const bytes = moved({ ...found.phase, hub: work }, iteration, carriesCurvature(plan, round)).toHub;
      return hubStage(party, prices, fn, bytes).seconds;
    },
    save: (peer) =>
      (peer === "hub" ? 1 : crowd) * secondsOf(costs, saveOf(peer === "hub" ? saved.hub : saved.worker)),
    link: (bytes) => linkSeconds(costs, network, bytes),
    travel: (bytes) => network.latency + crowd * (workerMessage.call + bytes * workerMessage.unit),
  };
}
