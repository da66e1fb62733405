/**
 * A seeded network, clock and store around the real step functions, with faults and checkers: the way to test a
 * plan before it meets real machines. One thread, no wall clock; the same options give the same trace.
 */

import { bytesPerElement } from "../core/dtype.ts";
import { flatten } from "../core/tree.ts";
import { Value } from "../core/value.ts";
import { stringifyHead } from "./protocol/head.ts";
import { hubBlobBound, hubBlobs, hubInit, hubStep, workerBlobBound } from "./protocol/hub.ts";
import { expand } from "./protocol/script.ts";
import { show, showEffect, showEvent } from "./protocol/show.ts";
import type { BlobId, Config, Effect, Event, Head, JobArgs, Outcome, Peer, Step } from "./protocol/types.ts";
import { workerBlobs, workerInit, workerStep } from "./protocol/worker.ts";
import { peerName, runJob, SAVES_KEPT, type Saved, type Values } from "./runtime/driver.ts";
import { type RunSetup, type RunValues, runSequential, synchronous } from "./runtime/sequential.ts";
import { type Priority, sharedLink } from "./shared_link.ts";

/**
 * What goes wrong, and how slow things are. Rates are probabilities; times are ticks.
 *
 * @since 0.1.0
 */
export interface Faults {
  /** Of a message to disappear. */
  readonly lossRate: number;
  /** Of a message to arrive twice. */
  readonly duplicateRate: number;
  /** Travel time of a message, drawn evenly: messages overtake each other when the two differ. */
  readonly minDelay: number;
  readonly maxDelay: number;
  /** Longest computation, load or save; each takes at least one tick. */
  readonly maxWork: number;
  /** Of a peer to crash before any event that it handles and after any effect that it performs. */
  readonly crashRate: number;
  /** Crashes at exact places: at that peer's n-th event (ticks apart) or effect, from 0, over all its lives. */
  readonly crashes: readonly { readonly peer: Peer; readonly step: number }[];
  /** Times in which a peer can neither send nor receive. */
  readonly partitions: readonly { readonly peer: Peer; readonly from: number; readonly to: number }[];
  /** Of a worker's crash to be noticed at once (`down`); otherwise only its silence tells. */
  readonly noticeRate: number;
  /** Of a crashed worker to be started by somebody else than the hub. */
  readonly reviveRate: number;
  /** Rates are zero from this tick on, so that progress can be demanded. */
  readonly horizon: number;
}

/**
 * No faults; everything takes one tick.
 *
 * @example What may be overridden
 * ```ts
 * assert(ct.dist.noFaults.lossRate === 0);
 * ```
 * @since 0.1.0
 */
export const noFaults: Faults = {
  lossRate: 0,
  duplicateRate: 0,
  minDelay: 1,
  maxDelay: 1,
  maxWork: 1,
  crashRate: 0,
  crashes: [],
  partitions: [],
  noticeRate: 0.5,
  reviveRate: 0.5,
  horizon: 2000,
};

/**
 * How long things take where there is no fault; `clockOf` makes one from measured costs. Units: seconds.
 *
 * @since 0.2.0
 */
export interface SimClock {
  /** Of one tick of the protocol. */
  readonly tickSeconds: number;
  compute(peer: Peer, fn: string, args: JobArgs): number;
  /** Of a save, and of reading it. */
  save(peer: Peer): number;
  /**
   * How long a message with so many bytes keeps the link of the hub, which all messages share evenly; those of exchanges
   * in the background share what the others leave.
   */
  link(bytes: number): number;
  /** From that link to where the worker can use it, or the other way. */
  travel(bytes: number): number;
}

/**
 * One simulated run.
 *
 * @since 0.1.0
 */
export interface SimOptions extends RunSetup {
  readonly seed: number;
  readonly faults?: Partial<Faults>;
  /** Takes the place of the delays and the longest work in `faults`. */
  readonly clock?: SimClock;
  /** Durable worker registers that must be equal at all workers at the end. */
  readonly replicated?: readonly string[];
  /** Tick at which the hub is asked to stop. */
  readonly stopAt?: number;
  /** Progress is demanded within this many ticks after the horizon. Default 20000. */
  readonly patience?: number;
  /** Lines of the trace to keep, from the end. Default 60. */
  readonly keepTrace?: number;
  /** Runs everything twice and compares the traces: finds jobs that are not pure. Default true. */
  readonly checkReplay?: boolean;
}

/**
 * What a simulated run did. Counts unless a unit is named.
 *
 * @since 0.1.0
 */
export interface SimStats {
  readonly ticks: number;
  /** From the first question to the end of the last round, in seconds; null without a clock. */
  readonly seconds: number | null;
  /** In which the worker that waited longest waited for exchanges in the background; null without a clock. */
  readonly waitedSeconds: number | null;
  readonly messages: number;
  readonly lost: number;
  readonly duplicated: number;
  readonly crashes: number;
  readonly computations: number;
  /** The last attempt number: 1 plus the recoveries. */
  readonly attempts: number;
  /** Most payloads held at once, at the hub and at any worker. */
  readonly hubBlobs: number;
  readonly workerBlobs: number;
  /** Most messages under way to one peer. */
  readonly queue: number;
}

/**
 * The end of a simulated run. `violations` is empty when every checker agrees.
 *
 * @since 0.1.0
 */
export interface SimResult {
  readonly seed: number;
  readonly violations: readonly string[];
  readonly outcome: Outcome | null;
  readonly failure: { readonly rank: number | null; readonly reason: string } | null;
  /** Rounds complete. */
  readonly round: number;
  readonly values: RunValues | null;
  readonly stats: SimStats;
  /** Hash of the whole trace. */
  readonly hash: number;
  readonly trace: readonly string[];
}

/**
 * Runs a plan on a simulated network and checks it.
 *
 * Checkers: *progress* (the run ends, unfailed), *reference* (the durable registers equal `runSequential`),
 * *agreement* (of `replicated` registers), *leak* (after every event a peer's store holds exactly the payloads that
 * its state names), *bounds* (payloads and messages), *replay* (a second run gives the same trace).
 *
 * Jobs must be synchronous; one that throws or gives a promise makes the run fail, which is a violation.
 * Determinism: a function of its options, if the jobs are pure.
 *
 * @example A network that loses every tenth message, and peers that crash
 * ```ts
 * const config: ct.dist.Config = {
 *   ...ct.dist.protocolDefaults, workers: 4, rounds: 3, durable: { hub: ["total"], worker: [] },
 *   script: () => [{
 *     name: "add",
 *     worker: { fn: "rank", outs: ["r"] }, reply: ["r"],
 *     hub: { fn: "sum", ins: ["total", "r@*"], outs: ["total"] },
 *   }],
 * };
 * const jobs = {
 *   hub: { sum: (ins: readonly unknown[]) => ({ outs: [(ins as number[]).reduce((a, b) => a + b)] }) },
 *   worker: (rank: number) => ({ rank: () => ({ outs: [rank] }) }),
 * };
 * const initial = { hub: { total: 0 }, worker: () => ({}) };
 * const faults = { lossRate: 0.1, crashRate: 0.01 };
 * const result = ct.dist.simulate({ config, jobs, initial, seed: 7, faults });
 * assert(result.violations.length === 0, ct.dist.report(result));
 * assertClose(result.values!.hub["total"], 18);
 * ```
 * @since 0.1.0
 */
export function simulate(options: SimOptions): SimResult {
  const result = simulateOnce(options);
  if (options.checkReplay === false) return result;
  const again = simulateOnce(options);
  if (again.hash === result.hash) return result;
  const violation = `replay: the second run gave trace ${again.hash}, the first ${result.hash}; are all jobs pure?`;
  return { ...result, violations: [...result.violations, violation] };
}

/**
 * A failed simulation as text: seed, violations and the end of the trace.
 *
 * @example The seed comes first
 * ```ts
 * const plan = ct.dist.makePlan({
 *   version: 1, workers: 2, parameters: 1, rounds: 20, localSteps: 1, seed: 0,
 *   update: { name: "sgd", learningRate: 0.25 }, sync: { k: "gradient" },
 * });
 * const problem: ct.dist.Problem<number> = {
 *   initial: ct.zeros([1], { dtype: "float64" }),
 *   score: (theta, center) => ({ loss: theta.sub(center).pow(2).sum(), sums: [] }),
 *   batch: (rank) => 2 * rank,
 *   curvatureBatch: (rank) => 2 * rank,
 * };
 * const result = ct.dist.simulate({ ...ct.dist.trainingSetup(plan, problem), seed: 7 });
 * assert(ct.dist.report(result).startsWith("seed 7"));
 * ```
 * @since 0.1.0
 */
export function report(result: SimResult): string {
  return [
    `seed ${result.seed}, ${result.stats.ticks} ticks`,
    ...result.violations,
    "...",
    ...result.trace,
  ].join("\n");
}

/** One peer's step function with its state, whichever type it has. */
interface Machine {
  step(event: Event): readonly Effect[];
  show(): string;
  blobs(): readonly BlobId[];
  attempt(): number;
  isDone(): boolean;
  isWaiting(): boolean;
}

/** A process and the disk under it. */
interface Node {
  readonly peer: Peer;
  readonly saves: Map<number, Saved>;
  readonly blobs: Map<BlobId, unknown>;
  machine: Machine | null;
  /** Grows with every crash: what an earlier life has begun ends without effect. */
  life: number;
  steps: number;
  inFlight: number;
  peakBlobs: number;
  /** Ticks in which its worker has waited for an exchange, and when it began to; null when it does not. */
  waited: number;
  waitsSince: number | null;
}

class Crash extends Error {}

function simulateOnce(options: SimOptions): SimResult {
  const { config, jobs, initial, clock } = options;
  const faults: Faults = { ...noFaults, ...options.faults };
  const keepTrace = options.keepTrace ?? 60;
  const limit = faults.horizon + (options.patience ?? 20_000);
  const random = generator(options.seed);
  /** What happens when, earliest first; what is due at the same time, in the order in which it was put here. */
  const agenda: { readonly due: number; readonly action: () => void }[] = [];
  const violations: string[] = [];
  const trace: string[] = [];
  let hash = 0x811c9dc5;
  let time = 0;
  let nextBlob = 0;
  let ending: { readonly reason: Outcome; readonly round: number } | null = null;
  let failure: SimResult["failure"] = null;
  const span: { from: number | null; to: number } = { from: null, to: 0 };
  const count = { messages: 0, lost: 0, duplicated: 0, crashes: 0, computations: 0, queue: 0 };

  const nodes = new Map<Peer, Node>();
  for (const peer of [
    "hub",
    ...Array.from({ length: config.workers }, (_, rank) => rank),
  ] as readonly Peer[]) {
    const values = peer === "hub" ? initial.hub : initial.worker(peer);
    const saves = new Map<number, Saved>([[0, { state: { round: 0, attempt: 0 }, values }]]);
    const node: Node = {
      peer,
      saves,
      blobs: new Map(),
      machine: null,
      life: 0,
      steps: 0,
      inFlight: 0,
      peakBlobs: 0,
      waited: 0,
      waitsSince: null,
    };
    nodes.set(peer, node);
    after(0, () => start(node));
  }
  const hub = nodes.get("hub")!;

  function note(line: string): void {
    const text = `t${time} ${line}`;
    for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193) >>> 0;
    trace.push(text);
    if (trace.length > 2 * keepTrace + 100) trace.splice(0, trace.length - keepTrace);
  }

  function violate(text: string): void {
    if (violations.length < 20) violations.push(`t${time} ${text}`);
  }

  function after(delay: number, action: () => void): void {
    const due = time + delay;
    let at = agenda.length;
    while (at > 0 && agenda[at - 1]!.due > due) at--;
    agenda.splice(at, 0, { due, action });
  }

  /** Later, unless the process crashes before. */
  function afterWork(node: Node, action: () => void, seconds = 0): void {
    const { life } = node;
    after(clock ? seconds / clock.tickSeconds : 1 + random.below(faults.maxWork), () => {
      if (node.life === life) action();
    });
  }

  const link = sharedLink(() => time, after);

  /** Carries a message of so many bytes, from the hub or to it. */
  function carry(from: Peer, bytes: number, priority: Priority, arrive: () => void): void {
    if (!clock) {
      after(faults.minDelay + random.below(faults.maxDelay - faults.minDelay + 1), arrive);
      return;
    }
    const [travel, atHub] = [clock.travel(bytes) / clock.tickSeconds, clock.link(bytes) / clock.tickSeconds];
    if (from === "hub") link.carry(atHub, () => after(travel, arrive), priority);
    else after(travel, () => link.carry(atHub, arrive, priority));
  }

  const isFaulty = (): boolean => time < faults.horizon;

  // ---- processes ------------------------------------------------------------------------------------------------

  function start(node: Node): void {
    if (node.machine !== null) return;
    node.machine = node.peer === "hub" ? hubMachine(config) : workerMachine(config, node.peer);
    dispatch(node, () => ({ k: "start", rounds: [...node.saves.keys()].sort((a, b) => a - b) }));
  }

  function kill(node: Node): void {
    node.machine = null;
    noteWaiting(node);
    node.life++;
    node.blobs.clear();
  }

  function crash(node: Node): void {
    count.crashes++;
    note(`${peerName(node.peer)} crashes`);
    kill(node);
    if (node.peer === "hub" || random.chance(faults.reviveRate))
      after(1 + random.below(40), () => start(node));
    if (node.peer !== "hub" && random.chance(faults.noticeRate)) {
      const { peer } = node;
      after(1 + random.below(5), () => dispatch(hub, () => ({ k: "down", peer })));
    }
  }

  /** Counts the time in which a worker waits for an exchange. */
  function noteWaiting(node: Node): void {
    if (node.waitsSince !== null) node.waited += time - node.waitsSince;
    node.waitsSince = node.machine?.isWaiting() ? time : null;
  }

  /** A place where a process may end. */
  function danger(node: Node): void {
    const step = node.steps++;
    const isPlanned = faults.crashes.some((c) => c.peer === node.peer && c.step === step);
    if (isPlanned || (isFaulty() && random.chance(faults.crashRate))) throw new Crash();
  }

  function dispatch(node: Node, makeEvent: () => Event): void {
    const { machine } = node;
    if (machine === null) return;
    try {
      const event = makeEvent();
      if (event.k !== "tick") danger(node);
      const effects = machine.step(event);
      noteWaiting(node);
      if (event.k !== "tick" || effects.length > 0) {
        note(`${peerName(node.peer)} < ${showEvent(event)}`);
        note(`  ${machine.show()}`);
      }
      node.peakBlobs = Math.max(node.peakBlobs, node.blobs.size);
      for (const effect of effects) {
        perform(node, effect);
        danger(node);
      }
      checkLeak(node, machine);
    } catch (error) {
      if (!(error instanceof Crash)) throw error;
      crash(node);
    }
  }

  function add(node: Node, value: unknown): BlobId {
    const blob = `b${nextBlob++}`;
    node.blobs.set(blob, value);
    return blob;
  }

  function payload(node: Node, blob: BlobId): unknown {
    if (!node.blobs.has(blob)) violate(`dangling: ${peerName(node.peer)} uses a payload that it has dropped`);
    return node.blobs.get(blob);
  }

  // ---- effects --------------------------------------------------------------------------------------------------

  function perform(node: Node, effect: Effect): void {
    if (effect.k !== "drop") note(`  > ${showEffect(effect)}`);
    switch (effect.k) {
      case "send":
        if (effect.head.k === "ask") span.from ??= time;
        post(
          node.peer,
          effect.to,
          effect.head,
          effect.body.map((blob) => payload(node, blob)),
        );
        break;
      case "compute": {
        const ins = effect.ins.map((blob) => payload(node, blob));
        const own = node.peer === "hub" ? jobs.hub : jobs.worker(node.peer);
        const { job, fn, args } = effect;
        count.computations++;
        const done = (): Event => {
          try {
            const { outs, notes = [] } = synchronous(runJob(own, fn, ins, args), fn);
            return { k: "computed", job, out: outs.map((value) => add(node, value)), notes };
          } catch (error) {
            return { k: "failed", job, reason: error instanceof Error ? error.message : String(error) };
          }
        };
        afterWork(node, () => dispatch(node, done), clock?.compute(node.peer, fn, args));
        break;
      }
      case "save": {
        const { round, state } = effect;
        const entries = Object.entries(effect.blobs).map(
          ([name, blob]) => [name, payload(node, blob)] as const,
        );
        const write = (): void => {
          node.saves.set(round, { state, values: Object.fromEntries(entries) });
          for (const old of [...node.saves.keys()]) {
            if (old <= round - SAVES_KEPT) node.saves.delete(old);
          }
          afterWork(node, () => dispatch(node, () => ({ k: "saved", round })));
        };
        afterWork(node, write, clock?.save(node.peer));
        break;
      }
      case "load": {
        const { round } = effect;
        const done = (): Event => {
          const saved = node.saves.get(round);
          if (saved === undefined) return { k: "loaded", round, blobs: null, state: null };
          const entries = Object.entries(saved.values).map(
            ([name, value]) => [name, add(node, value)] as const,
          );
          return { k: "loaded", round, blobs: Object.fromEntries(entries), state: saved.state };
        };
        afterWork(node, () => dispatch(node, done), clock?.save(node.peer));
        break;
      }
      case "drop":
        if (!node.blobs.delete(effect.blob)) violate(`drop: ${peerName(node.peer)} drops a payload twice`);
        break;
      case "restart": {
        const worker = nodes.get(effect.rank)!;
        if (worker.machine !== null) kill(worker);
        after(1 + random.below(10), () => start(worker));
        break;
      }
      case "fail":
        failure = { rank: effect.rank, reason: effect.reason };
        break;
      case "done":
        if (node === hub) ending = { reason: effect.reason, round: effect.round };
        break;
      case "completed":
        span.to = time;
        break;
      case "progress":
        break;
      default:
        effect satisfies never;
    }
  }

  function post(from: Peer, to: Peer, head: Head, values: readonly unknown[]): void {
    count.messages++;
    const isCut = faults.partitions.some(
      (p) => (p.peer === from || p.peer === to) && time >= p.from && time < p.to,
    );
    const target = nodes.get(to)!;
    if (isCut || (isFaulty() && random.chance(faults.lossRate)) || target.inFlight >= config.maxQueue) {
      count.lost++;
      return;
    }
    // The head crosses the network as text, like on a real one.
    const text = stringifyHead(head);
    const bytes = clock ? payloadBytes(values) : 0;
    const priority = head.k === "post" || head.k === "give" ? "background" : "foreground";
    const copies = isFaulty() && random.chance(faults.duplicateRate) ? 2 : 1;
    count.duplicated += copies - 1;
    for (let copy = 0; copy < copies; copy++) {
      target.inFlight++;
      count.queue = Math.max(count.queue, target.inFlight);
      carry(from, bytes, priority, () => {
        target.inFlight--;
        if (target.machine === null) return;
        dispatch(target, () => ({
          k: "recv",
          from,
          head: JSON.parse(text) as unknown,
          body: values.map((value) => add(target, value)),
        }));
      });
    }
  }

  // ---- checkers -------------------------------------------------------------------------------------------------

  function checkLeak(node: Node, machine: Machine): void {
    const named = new Set(machine.blobs());
    if (named.size !== node.blobs.size || [...named].some((blob) => !node.blobs.has(blob))) {
      violate(`leak: ${peerName(node.peer)} holds ${node.blobs.size} payloads and names ${named.size}`);
    }
  }

  function checkEnd(): RunValues | null {
    if (failure !== null) violate(`progress: the run failed: ${failure.reason}`);
    if (ending === null) {
      violate(`progress: not done ${limit - faults.horizon} ticks after the faults ended`);
      return null;
    }
    if (ending.reason === "failed") return null;
    const { round } = ending;
    if (ending.reason === "finished" && round !== config.rounds) {
      violate(`progress: finished after ${round} rounds of ${config.rounds}`);
    }
    const values = savedValues(round);
    const reference = runSequential({ config: { ...config, rounds: round }, jobs, initial });
    compare("hub", values.hub, reference.hub);
    values.workers.forEach((own, rank) => {
      compare(peerName(rank), own, reference.workers[rank]!);
      for (const name of options.replicated ?? []) {
        if (!sameBits(own[name], values.workers[0]![name]))
          violate(`agreement: "${name}" differs at ${peerName(rank)}`);
      }
    });
    return values;
  }

  function compare(who: string, actual: Values, expected: Values): void {
    for (const name of Object.keys(expected)) {
      if (!sameBits(actual[name], expected[name]))
        violate(`reference: "${name}" of ${who} differs from the sequential run`);
    }
  }

  function savedValues(round: number): RunValues {
    const read = (node: Node, names: readonly string[]): Values =>
      Object.fromEntries(names.map((name) => [name, node.saves.get(round)?.values[name]]));
    const workers: Values[] = [];
    for (let rank = 0; rank < config.workers; rank++)
      workers.push(read(nodes.get(rank)!, config.durable.worker));
    return { hub: read(hub, expand(config.durable.hub, config.workers)), workers };
  }

  function checkBounds(): void {
    let hubBound = 0;
    let workerBound = 0;
    for (let round = 0; round < config.rounds; round++) {
      hubBound = Math.max(hubBound, hubBlobBound(config, round));
      workerBound = Math.max(workerBound, workerBlobBound(config, round));
    }
    for (const node of nodes.values()) {
      const bound = node.peer === "hub" ? hubBound : workerBound;
      if (node.peakBlobs > bound)
        violate(
          `bounds: ${peerName(node.peer)} held ${node.peakBlobs} payloads, at most ${bound} are allowed`,
        );
      const machine = node.machine;
      if (ending === null || machine === null || !machine.isDone()) continue;
      const durable = node === hub ? expand(config.durable.hub, config.workers) : config.durable.worker;
      if (node.blobs.size > durable.length)
        violate(`leak: ${peerName(node.peer)} ends with ${node.blobs.size} payloads`);
    }
    if (count.queue > config.maxQueue + 1)
      violate(`bounds: ${count.queue} messages were under way to one peer`);
  }

  // ---- time -----------------------------------------------------------------------------------------------------

  let isOver = false;
  let quietTicks = 0;
  for (let tick = 0; !isOver && tick < limit; tick++) {
    while (agenda.length > 0 && agenda[0]!.due <= tick) {
      const { due, action } = agenda.shift()!;
      time = due;
      action();
    }
    time = tick;
    if (time === options.stopAt) dispatch(hub, () => ({ k: "stop" }));
    for (const node of nodes.values()) {
      // At a worker only an exchange that it waits for wants to know the time.
      if (ending === null && (node === hub || node.machine?.isWaiting()))
        dispatch(node, () => ({ k: "tick" }));
    }
    // After the end, what is still under way may arrive.
    if (ending !== null) quietTicks++;
    isOver = quietTicks > 0 && (agenda.length === 0 || quietTicks > 200);
    time++;
  }

  const values = checkEnd();
  checkBounds();
  const peak = [...nodes.values()].filter((node) => node !== hub).map((node) => node.peakBlobs);
  // TypeScript cannot see that the closures above assign these.
  const end = ending as { readonly reason: Outcome; readonly round: number } | null;
  return {
    seed: options.seed,
    violations,
    outcome: end?.reason ?? null,
    failure,
    round: end?.round ?? 0,
    values,
    stats: {
      ticks: time,
      seconds: clock && span.from !== null ? Math.max(0, span.to - span.from) * clock.tickSeconds : null,
      waitedSeconds: clock
        ? Math.max(...[...nodes.values()].map(({ waited }) => waited)) * clock.tickSeconds
        : null,
      ...count,
      attempts: hub.machine?.attempt() ?? 0,
      hubBlobs: hub.peakBlobs,
      workerBlobs: Math.max(0, ...peak),
    },
    hash,
    trace: trace.slice(-keepTrace),
  };
}

/** Bytes of the elements of every tensor in the values of a message. */
function payloadBytes(values: readonly unknown[]): number {
  return values
    .flatMap((value) => flatten(value)[0])
    .reduce((bytes, x) => bytes + x.size * bytesPerElement(x.dtype), 0);
}

function hubMachine(config: Config): Machine {
  let state = hubInit(config);
  return {
    ...running(
      hubStep(config),
      () => state,
      (next) => {
        state = next;
      },
    ),
    show: () => show(state),
    blobs: () => hubBlobs(state),
    attempt: () => state.attempt,
    isDone: () => state.mode === "done",
    isWaiting: () => false,
  };
}

function workerMachine(config: Config, rank: number): Machine {
  let state = workerInit(rank);
  return {
    ...running(
      workerStep(config),
      () => state,
      (next) => {
        state = next;
      },
    ),
    show: () => show(state),
    blobs: () => workerBlobs(state),
    attempt: () => state.attempt,
    isDone: () => state.mode === "done",
    isWaiting: () => state.mode === "waiting",
  };
}

function running<S>(step: Step<S>, get: () => S, set: (state: S) => void): Pick<Machine, "step"> {
  return {
    step(event) {
      const { state, effects } = step(get(), event);
      set(state);
      return effects;
    },
  };
}

/** A small seeded generator (splitmix32): integers only, the same on every machine. */
function generator(seed: number): { below(n: number): number; chance(p: number): boolean } {
  let state = seed | 0;
  function next(): number {
    state = (state + 0x9e3779b9) | 0;
    let z = state ^ (state >>> 16);
    z = Math.imul(z, 0x21f0aaad);
    z ^= z >>> 15;
    z = Math.imul(z, 0x735a2d97);
    return (z ^ (z >>> 15)) >>> 0;
  }
  return {
    below: (n) => (n <= 1 ? 0 : next() % n),
    chance: (p) => p > 0 && next() < p * 2 ** 32,
  };
}

/** Whether two values have the same bits: numbers, strings, typed arrays, arrays and plain objects. */
export function sameBits(a: unknown, b: unknown): boolean {
  if (Object.is(a, b)) return true;
  if (typeof a !== "object" || typeof b !== "object" || a === null || b === null) return false;
  if (a instanceof Value || b instanceof Value) {
    if (!(a instanceof Value) || !(b instanceof Value)) return false;
    return a.aval.equals(b.aval) && sameBits(a.dataSync(), b.dataSync());
  }
  if (ArrayBuffer.isView(a) || ArrayBuffer.isView(b)) {
    if (!ArrayBuffer.isView(a) || !ArrayBuffer.isView(b) || a.byteLength !== b.byteLength) return false;
    const x = new Uint8Array(a.buffer, a.byteOffset, a.byteLength);
    const y = new Uint8Array(b.buffer, b.byteOffset, b.byteLength);
    return a.constructor === b.constructor && x.every((byte, i) => byte === y[i]);
  }
  if (Array.isArray(a) !== Array.isArray(b)) return false;
  const keys = Object.keys(a);
  return (
    keys.length === Object.keys(b).length &&
    keys.every((key) => Object.hasOwn(b, key) && sameBits(Reflect.get(a, key), Reflect.get(b, key)))
  );
}
