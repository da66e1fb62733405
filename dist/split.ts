/**
 * The split schedule: curvature is computed by workers of its own while the others train, and adopted some rounds later.
 * The group of those workers is a run of the same protocol, one round for each snapshot of the parameters; the two runs
 * meet at their hubs, in one `CurvatureSource`.
 */
import { slice } from "../core/ops.ts";
import { scalar } from "../core/trace.ts";
import type { Value } from "../core/value.ts";
import { computations } from "./jobs/compute.ts";
import {
  type Curvature,
  loneSearchJobs,
  pairNotes,
  type Search,
  searchHubJobs,
  searchOf,
  searchWorkerJobs,
} from "./jobs/curvature.ts";
import { rowSpaces } from "./jobs/hub.ts";
import { job, nothing, value } from "./jobs/registers.ts";
import type { Problem } from "./jobs.ts";
import { columnsOf, layoutOf, orderOf, type Plan, type SplitPlan } from "./plan.ts";
import type { Script } from "./protocol/script.ts";
import type { Config } from "./protocol/types.ts";
import type { Job, JobResult, Jobs } from "./runtime/driver.ts";
import { type RunSetup, runSequential } from "./runtime/sequential.ts";
import { searchPhases, vectorsPhase } from "./script.ts";

/**
 * Parameters whose curvature is wanted; the version is the round at whose start they were taken.
 *
 * @since 0.2.0
 */
export interface Snapshot {
  readonly version: number;
  readonly theta: Value;
}

/**
 * Where a training run has its curvature from. What it gives for a version depends on the snapshot alone; when, on its
 * workers.
 *
 * @since 0.2.0
 */
export interface CurvatureSource {
  /** Asks for the curvature of a snapshot; asking again changes nothing. */
  submit(snapshot: Snapshot): void;
  /** The curvature of a version that was asked for, when it is there. */
  get(version: number): Curvature | Promise<Curvature>;
  /** The newest that is there in a round; null while there is none. */
  newest(round: number): { readonly version: number; readonly curvature: Curvature } | null;
}

/** The registers of the hub before the first snapshot. */
export const splitInitial: {
  readonly pending: { readonly version: Value; readonly theta: Value };
  readonly adopted: Value;
} = {
  pending: { version: scalar(-1, "int32"), theta: nothing() },
  adopted: scalar(-1, "int32"),
};

/** What the hub of the training run does: asks for curvature, and hands out what is there. */
export function splitHubJobs<B>(plan: Plan, problem: Problem<B>, source: CurvatureSource): Jobs {
  const isPatient = splitOf(plan).late === "wait";
  const layout = layoutOf(plan);
  const shares = (curvature: Curvature | null): readonly unknown[] => {
    if (layout === "replicated") return [curvature];
    if (!curvature) return Array.from({ length: plan.workers }, () => null);
    if (layout === "rows") return rowSpaces(plan, problem, curvature);
    return Array.from({ length: plan.workers }, (_, rank) => {
      const [start, end] = columnsOf(plan, rank);
      const { vectors } = curvature;
      return { ...curvature, vectors: slice(vectors, [0, start], [vectors.shape[0]!, end]) };
    });
  };
  return {
    snapshot: job(([theta], { round }) => {
      const snapshot: Snapshot = { version: round, theta: value(theta) };
      source.submit(snapshot);
      return { outs: [{ version: scalar(round, "int32"), theta }] };
    }),
    collect([pending, adopted], { round }) {
      const { version, theta } = pending as { readonly version: Value; readonly theta: Value };
      const asked = version.item();
      // The source may have been made since: a run that is resumed asks again.
      if (asked >= 0) source.submit({ version: asked, theta });
      const taken = (at: number, curvature: Curvature): JobResult => ({
        outs: [scalar(at, "int32"), ...shares(curvature)],
        notes: pairNotes(curvature),
      });
      if (isPatient) {
        const found = source.get(asked);
        return found instanceof Promise
          ? found.then((curvature) => taken(asked, curvature))
          : taken(asked, found);
      }
      const found = source.newest(round);
      return found && found.version > versionOf(adopted)
        ? taken(found.version, found.curvature)
        : { outs: [adopted, ...shares(null)] };
    },
  };
}

/** The split of a plan that has one. */
function splitOf({ curvature }: Plan): SplitPlan {
  return curvature!.split!;
}

/** The search of a group: that of the plan, by the workers of the group. */
function groupSearch(plan: Plan, problem: Problem<never>): Search {
  return { ...searchOf(plan, problem.initial.dtype)!, workers: splitOf(plan).workers };
}

/**
 * A source that computes in this process, when it is asked: for runs in one process and as the reference of others. With
 * `latency` a curvature counts as there so many rounds after its snapshot; default the delay of the plan.
 *
 * Shapes: parameters are one vector `[n]`.
 * Determinism: the same bits in every run.
 *
 * @example Curvature a round later than the parameters that it was measured at
 * ```ts
 * const plan = ct.dist.makePlan({
 *   version: 1, workers: 1, parameters: 2, rounds: 4, localSteps: 1, seed: 0,
 *   update: { name: "sgd", learningRate: 0.01 }, sync: { k: "gradient" },
 *   curvature: { k: 1, alpha: 0.5, momentum: "none", split: { workers: 1, delay: 1 } },
 * });
 * const weights = ct.tensor([1, 30], { dtype: "float64" });
 * const problem: ct.dist.Problem<null> = {
 *   initial: ct.ones([2], { dtype: "float64" }),
 *   score: (theta) => ({ loss: theta.mul(theta).mul(weights).sum(), sums: [] }),
 *   batch: () => null,
 *   curvatureBatch: () => null,
 * };
 * const source = ct.dist.directSource(plan, problem);
 * ct.dist.runSequential(ct.dist.trainingSetup(plan, problem, source));
 * source.submit({ version: 0, theta: problem.initial });
 * assertClose(source.newest(1)!.curvature.values, [60]);
 * ```
 * @since 0.2.0
 */
export function directSource<B>(
  plan: Plan,
  problem: Problem<B>,
  latency: (version: number) => number = () => splitOf(plan).delay,
): CurvatureSource {
  const asked = new Map<number, Value>();
  const known = new Map<number, Curvature>();
  const get = (version: number): Curvature => {
    const found = known.get(version);
    if (found) return found;
    const theta = asked.get(version)!;
    runSequential(
      groupSetup(
        plan,
        problem,
        {
          take: () => ({ version, theta }),
          deliver: (_version, curvature) => known.set(version, curvature),
          check() {},
        },
        1,
      ),
    );
    return known.get(version)!;
  };
  return {
    submit: ({ version, theta }) => void asked.set(version, theta),
    get,
    newest(round) {
      const version = Math.max(-1, ...[...asked.keys()].filter((v) => v + latency(v) <= round));
      return version < 0 ? null : { version, curvature: get(version) };
    },
  };
}

/** The hub's side of a group: where snapshots come from and curvature goes to. */
interface Exchange {
  take(): Snapshot | Promise<Snapshot>;
  deliver(version: number, curvature: Curvature): void;
  /** Throws when nobody wants curvature any more. */
  check(): void;
}

/**
 * The run of a group: in every round one snapshot. `rounds` is how many there can be at most.
 */
function groupSetup<B>(plan: Plan, problem: Problem<B>, exchange: Exchange, rounds: number): RunSetup {
  const search = groupSearch(plan, problem as Problem<never>);
  const hub = searchHubJobs(search);
  // A search may take minutes: who no longer wants it waits for one phase of it, not for all.
  const wanted = Object.entries(hub).map(([name, run]): readonly [string, Job] => [
    name,
    (ins, args) => {
      exchange.check();
      return run(ins, args);
    },
  ]);
  return {
    config: { ...groupConfig(plan), rounds },
    jobs: {
      hub: {
        ...Object.fromEntries(wanted),
        take: (): ReturnType<Jobs[string]> => {
          const outs = ({ version, theta }: Snapshot) => ({ outs: [theta, scalar(version, "int32")] });
          const taken = exchange.take();
          return taken instanceof Promise ? taken.then(outs) : outs(taken);
        },
        start: ([version], args) => hub["start"]!([], { ...args, round: versionOf(version) }),
        isEnded: (_ins, { notes }) => {
          exchange.check();
          return { outs: [], notes: notes[0]! };
        },
        takeCurvature: job(([curvature]) => ({
          outs: [curvature],
          notes: pairNotes(curvature as Curvature),
        })),
        deliver: job(([version, curvature]) => {
          exchange.deliver(versionOf(version), curvature as Curvature);
          return { outs: [] };
        }),
      },
      worker: (rank) => groupWorkerJobs(plan, problem, rank),
    },
    initial: { hub: {}, worker: () => ({}) },
  };
}

const versionOf = (register: unknown): number => value(register).item();

/**
 * The configuration of a group of curvature workers: what a process of them needs beside its jobs.
 *
 * Shapes: none.
 * @example As many workers as the plan says
 * ```ts
 * const plan = ct.dist.makePlan({
 *   version: 1, workers: 2, parameters: 1, rounds: 20, localSteps: 1, seed: 0,
 *   update: { name: "sgd", learningRate: 0.1 }, sync: { k: "gradient" },
 *   curvature: { k: 1, alpha: 0.5, momentum: "none", split: { workers: 3 } },
 * });
 * assert(ct.dist.groupConfig(plan).workers === 3);
 * ```
 * @since 0.2.0
 */
export function groupConfig(plan: Plan): Config {
  const { workers } = splitOf(plan);
  const search = workers === 1 ? loneSearchPhases(plan) : sharedSearchPhases(plan);
  return {
    ...plan.limits,
    workers,
    // As many as there are snapshots: the hub knows when no more come.
    rounds: Number.MAX_SAFE_INTEGER,
    durable: { hub: [], worker: [] },
    script: () => [
      { name: "take", hub: { fn: "take", outs: ["theta", "version"] } },
      ...search,
      {
        name: "deliver",
        send: [],
        worker: { fn: "release", outs: ["operator", "basis"] },
        hub: { fn: "deliver", ins: ["version", "curvature"] },
      },
    ],
  };
}

/** The search of the training, at a snapshot. */
function sharedSearchPhases(plan: Plan): Script {
  const [open, ...rest] = searchPhases(plan);
  return [
    {
      ...open,
      name: "open",
      send: ["theta", "version"],
      worker: { fn: "open", ins: ["theta", "version"], outs: ["operator", "basis"] },
      hub: { fn: "start", ins: ["version"], outs: ["v", "recurrence"] },
    },
    ...rest,
    vectorsPhase,
  ];
}

/**
 * A worker that shares with nobody keeps the whole search. It is asked for one product at a time, so that the hub, which other
 * workers wait for, has nothing to do and can still end it.
 */
function loneSearchPhases(plan: Plan): Script {
  return [
    {
      name: "open",
      send: ["theta", "version"],
      worker: { fn: "openAlone", ins: ["theta", "version"], outs: ["operator", "basis"] },
    },
    {
      repeat: orderOf(plan),
      until: 0,
      body: [
        {
          name: "product",
          worker: { fn: "productAlone", ins: ["operator", "basis"], outs: ["basis"] },
          hub: { fn: "isEnded" },
        },
      ],
    },
    {
      name: "vectors",
      worker: { fn: "vectorsAlone", ins: ["basis"], outs: ["curvature"] },
      reply: ["curvature"],
      hub: { fn: "takeCurvature", ins: ["curvature@*"], outs: ["curvature"] },
    },
  ];
}

/**
 * The computations of one worker of a group: what a curvature process serves. `rank` counts the workers of the group.
 *
 * Shapes: parameters are one vector `[n]`.
 * @example Products, and no steps
 * ```ts
 * const plan = ct.dist.makePlan({
 *   version: 1, workers: 2, parameters: 1, rounds: 20, localSteps: 1, seed: 0,
 *   update: { name: "sgd", learningRate: 0.1 }, sync: { k: "gradient" },
 *   curvature: { k: 1, alpha: 0.5, momentum: "none", split: { workers: 3 } },
 * });
 * const problem: ct.dist.Problem<number> = {
 *   initial: ct.zeros([1], { dtype: "float64" }),
 *   score: (theta, center) => ({ loss: theta.sub(center).pow(2).sum(), sums: [] }),
 *   batch: (rank) => rank,
 *   curvatureBatch: (rank) => rank,
 * };
 * const jobs = ct.dist.groupWorkerJobs(plan, problem, 0);
 * assert("product" in jobs && !("step" in jobs));
 * ```
 * @since 0.2.0
 */
export function groupWorkerJobs<B>(plan: Plan, problem: Problem<B>, rank: number): Jobs {
  const { objective } = computations(plan, problem);
  const batch = (round: number): B => problem.curvatureBatch(rank, round);
  const search = groupSearch(plan, problem as Problem<never>);
  const on = { objective, batch };
  const jobs = { ...searchWorkerJobs(search, on, rank), ...loneSearchJobs(search, on) };
  // A snapshot chooses batch and start vector, not the round of the group in which its turn comes.
  const atSnapshot =
    (open: Job): Job =>
    ([theta, version], args) =>
      open([theta], { ...args, round: versionOf(version) });
  return {
    ...jobs,
    open: atSnapshot(jobs["open"]!),
    openAlone: atSnapshot(jobs["openAlone"]!),
    release: job(() => ({ outs: [null, null] })),
  };
}

/**
 * A group whose workers run beside the training: its run and the source that the training reads.
 *
 * @since 0.2.0
 */
export interface CurvatureGroup {
  readonly source: CurvatureSource;
  /** To be given to a runtime; its run ends with an error when the group is closed. */
  readonly setup: RunSetup;
  /** No more snapshots will come. */
  close(): void;
  /** The run of the group has ended: what is asked for does not come any more. */
  fail(error: unknown): void;
  readonly isClosed: () => boolean;
}

/**
 * A group of curvature workers for a plan with a split schedule. A snapshot whose turn has not come when the next is
 * there is dropped where late curvature is not waited for.
 *
 * Shapes: parameters are one vector `[n]`.
 * @example Training and curvature at the same time
 * ```ts
 * const plan = ct.dist.makePlan({
 *   version: 1, workers: 2, parameters: 1, rounds: 20, localSteps: 1, seed: 0,
 *   update: { name: "sgd", learningRate: 0.1 }, sync: { k: "gradient" },
 *   curvature: { k: 1, alpha: 0.5, momentum: "none", split: { workers: 3 } },
 * });
 * const problem: ct.dist.Problem<number> = {
 *   initial: ct.zeros([1], { dtype: "float64" }),
 *   score: (theta, center) => ({ loss: theta.sub(center).pow(2).sum(), sums: [] }),
 *   batch: (rank) => rank,
 *   curvatureBatch: (rank) => rank,
 * };
 * const group = ct.dist.curvatureGroup(plan, problem);
 * const beside = ct.dist.runLocal(group.setup).catch((error) => group.fail(error));
 * const { hub } = await ct.dist.runLocal(ct.dist.trainingSetup(plan, problem, group.source));
 * group.close();
 * await beside;
 * assertClose(hub["theta"] as ct.Value, [0.5], 0.2);
 * ```
 * @since 0.2.0
 */
export function curvatureGroup<B>(plan: Plan, problem: Problem<B>): CurvatureGroup {
  const isPatient = splitOf(plan).late === "wait";
  const queue: Snapshot[] = [];
  const done = new Map<number, Curvature>();
  const waiting = new Map<number, PromiseWithResolvers<Curvature>>();
  let current: Snapshot | null = null;
  let taker: PromiseWithResolvers<Snapshot> | null = null;
  let ended: { readonly error: unknown } | null = null;

  const next = (): void => {
    if (!taker) return;
    if (ended) taker.reject(ended.error);
    else {
      current ??= queue.shift() ?? null;
      if (!current) return;
      taker.resolve(current);
    }
    taker = null;
  };
  const end = (error: unknown): void => {
    ended ??= { error };
    next();
    for (const { reject } of waiting.values()) reject(error);
    waiting.clear();
  };
  const exchange: Exchange = {
    take() {
      taker = Promise.withResolvers();
      const { promise } = taker;
      next();
      return promise;
    },
    deliver(version, curvature) {
      current = null;
      // Nobody asks for an older one again.
      for (const old of done.keys()) if (old < version) done.delete(old);
      done.set(version, curvature);
      waiting.get(version)?.resolve(curvature);
      waiting.delete(version);
    },
    check() {
      if (ended) throw ended.error;
    },
  };
  let closed = false;
  return {
    source: {
      submit(snapshot) {
        const { version } = snapshot;
        const isKnown = current?.version === version || queue.some((other) => other.version === version);
        if (isKnown || done.has(version) || ended) return;
        if (!isPatient) queue.length = 0;
        queue.push(snapshot);
        next();
      },
      get(version) {
        const found = done.get(version);
        if (found) return found;
        if (ended) throw ended.error;
        const known = waiting.get(version) ?? Promise.withResolvers<Curvature>();
        waiting.set(version, known);
        return known.promise;
      },
      newest() {
        const version = Math.max(-1, ...done.keys());
        return version < 0 ? null : { version, curvature: done.get(version)! };
      },
    },
    setup: groupSetup(plan, problem, exchange, Number.MAX_SAFE_INTEGER),
    close() {
      closed = true;
      end(new Error("Cannot give more curvature: the training is over, a running one is needed"));
    },
    fail(error) {
      // Their ranks and rounds are not those of the training, to which this is told.
      const reason = error instanceof Error ? error.message : String(error);
      end(
        new Error(
          `Cannot give more curvature: its workers have failed (${reason}), workers that run are needed`,
        ),
      );
    },
    isClosed: () => closed,
  };
}
