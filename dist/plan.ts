/**
 * Plans: a distributed run as plain data. A plan names what workers compute, how they agree and what that costs; it
 * prints itself, and every peer derives the same script from it.
 */
import { z } from "zod";
import { PlanError } from "../core/errors.ts";
import type { FosiMomentum } from "../optim/fosi.ts";
import { defaultTrust } from "../optim/fosi_state.ts";
import { lanczosOrder } from "../optim/lanczos.ts";
import { type CommunicationPlan, communicationProblems } from "./compress/plan.ts";
import { type PreconditionedMethod, preconditionedOf } from "./preconditioned.ts";
import { type Config, protocolDefaults } from "./protocol/types.ts";

/**
 * The method of a local step, with its constants.
 *
 * @since 0.1.0
 */
export type UpdateMethod =
  | { readonly name: "sgd"; readonly learningRate: number }
  | { readonly name: "momentum" | "nesterov"; readonly learningRate: number; readonly beta: number }
  | {
      readonly name: "adam";
      readonly learningRate: number;
      readonly beta1: number;
      readonly beta2: number;
      readonly epsilon: number;
    }
  | {
      readonly name: "adamw";
      readonly learningRate: number;
      readonly beta1: number;
      readonly beta2: number;
      readonly epsilon: number;
      readonly weightDecay: number;
    }
  | PreconditionedMethod;

/**
 * The method of a local step, and where its state is: whole at every worker, or with `shard` each worker's own columns of
 * it (for plans without curvature; a curvature says by its layout where everything is).
 *
 * @since 0.1.0
 */
export type UpdatePlan = UpdateMethod & { readonly shard: boolean; readonly schedule: RateSchedule };

/**
 * How the learning rate goes on from its value in the plan: it stays, or falls to zero at the end of the run along half a
 * cosine.
 *
 * @since 0.2.0
 */
export type RateSchedule = "constant" | "cosine";

/**
 * Where the eigenvectors V [k + l, n] are, and with them the state of the method. The mathematics is the same.
 *
 * - `replicated`: V, parameters and state whole at every worker; one reduction of n numbers per step.
 * - `rows`: each worker has some of the rows of V, the rest whole; three reductions of n numbers per step.
 * - `columns`: each worker has its columns of V, as Lanczos leaves them, and of all state; the parameters come from the
 *   hub. A step is a reduction of n numbers, a gather of n, and two reductions of k + l and 2 (k + l).
 *
 * @since 0.2.0
 */
export type Layout = "replicated" | "rows" | "columns";

/**
 * FOSI over the local method, its curvature by sharded Lanczos. Periods are counted in rounds.
 *
 * @since 0.1.0
 */
export interface CurvaturePlan {
  readonly k: number;
  readonly l: number;
  /** Lanczos steps; null for `max(4 (k + l), 2 ln n)`. */
  readonly order: number | null;
  readonly period: number;
  readonly warmup: number;
  readonly alpha: number;
  readonly beta: number;
  readonly momentum: FosiMomentum;
  readonly clip: number;
  readonly damping: number;
  /** Pairs with a residual above `trust (|lambda| + damping)` are left to the local method; null keeps all. */
  readonly trust: number | null;
  readonly layout: Layout;
  /** Whose Hessian: the mean over all workers' batches, or worker 0's alone as in the published program. */
  readonly reduce: "mean" | "rank0";
  /** Who computes it: the workers that train, between two rounds, or with a split others beside them. */
  readonly split: SplitPlan | null;
}

/**
 * Curvature by workers of its own, at the same time as the training: it is measured where the parameters are at the start
 * of a round, and adopted at the start of a later one.
 *
 * - `wait`: exactly `delay` rounds later, when all wait for it if it is late. The same bits in every run; curvature is in use
 *   from `delay` to `delay + period` rounds after it was measured.
 * - `keep-old`: in the first round in which it is there. Nobody waits; runs differ by what was fast. A snapshot whose turn
 *   has not come when the next is taken is dropped. In one process it counts as there after `delay` rounds.
 *
 * @since 0.2.0
 */
export interface SplitPlan {
  /** Number of curvature workers. */
  readonly workers: number;
  readonly delay: number;
  readonly late: "wait" | "keep-old";
}

/**
 * How workers agree.
 *
 * - `gradient`: all-reduce of gradients at every step; replicas stay bit-identical.
 * - `published`: the same, and every `period` rounds the published ADMM extrapolation.
 * - `momentum`: the same with its two factors free, and without its penalty: every `period` rounds the displacement is
 *   added to `mu` times the push, and `gamma` times the push to the parameters. With gamma 0 it is `gradient`.
 * - `consensus`: local steps, one all-reduce of parameters per round. `sigma` is in units of the largest eigenvalue of
 *   the last curvature if `relative`; with sigma 0 it is plain averaging.
 * - the others: workers that send parts of what they have, see `CommunicationPlan`.
 *
 * @since 0.1.0
 */
export type SyncPlan =
  | { readonly k: "gradient" }
  | { readonly k: "published"; readonly sigma: number; readonly period: number }
  | { readonly k: "momentum"; readonly mu: number; readonly gamma: number; readonly period: number }
  | { readonly k: "consensus"; readonly sigma: number; readonly relative: boolean }
  | CommunicationPlan;

/**
 * A distributed run as plain data; made by `makePlan`.
 *
 * @since 0.1.0
 */
export interface Plan {
  readonly version: 1;
  /** Number of worker processes P. */
  readonly workers: number;
  /** Number of parameters n. */
  readonly parameters: number;
  readonly rounds: number;
  /** Optimizer steps per round. */
  readonly localSteps: number;
  readonly seed: number;
  readonly update: UpdatePlan;
  readonly curvature: CurvaturePlan | null;
  readonly sync: SyncPlan;
  /** Rounds between evaluations at the hub; 0 for none before the end. */
  readonly evaluateEvery: number;
  readonly limits: Pick<Config, "retryTicks" | "deadTicks" | "maxRestarts" | "maxQueue">;
}

type Optional<T, K extends keyof T> = Omit<T, K> & Partial<Pick<T, K>>;
type Loose<T> = T extends { readonly learningRate: number }
  ? Partial<T> & Pick<T, "learningRate" & keyof T> & Pick<T, "name" & keyof T>
  : never;
type LooseSync<T> = T extends { readonly k: string } ? Partial<T> & Pick<T, "k"> : never;

/**
 * What `makePlan` accepts: everything that has a default may be left out.
 *
 * @since 0.1.0
 */
export type PlanInput = Optional<Omit<Plan, "update" | "curvature" | "sync" | "limits">, "evaluateEvery"> & {
  readonly update: Loose<UpdatePlan>;
  readonly curvature?:
    | (Partial<Omit<CurvaturePlan, "split">> & { readonly split?: Partial<SplitPlan> | null })
    | null;
  readonly sync: LooseSync<SyncPlan>;
  readonly limits?: Partial<Plan["limits"]>;
};

const count = (least: number) => z.int().min(least);
const positive = z.number().positive();
const fraction = z.number().min(0).lt(1);
const updateFields = {
  learningRate: positive,
  shard: z.boolean().default(false),
  schedule: z.enum(["constant", "cosine"]).default("constant"),
};
const adamFields = {
  ...updateFields,
  beta1: fraction.default(0.9),
  beta2: fraction.default(0.999),
  epsilon: positive.default(1e-8),
};

const ratio = z.number().min(1).default(128);
const compressor = z.enum(["block", "topk", "randomk", "sign", "qsgd", "half", "powersgd"]);
const compressorFields = {
  compressor: compressor.default("block"),
  ratio,
  rank: count(1).default(2),
  levels: count(1).default(16),
};

/** What a plan must be. Unknown fields are refused. The types above are written out for declaration files; the compiler checks that they agree. */
const planSchema: z.ZodType<Plan, unknown> = z
  .strictObject({
    version: z.literal(1),
    workers: count(1).max(1024),
    parameters: count(1),
    rounds: count(1),
    localSteps: count(1),
    seed: count(0),
    update: z.discriminatedUnion("name", [
      z.strictObject({ name: z.literal("sgd"), ...updateFields }),
      z.strictObject({
        name: z.enum(["momentum", "nesterov"]),
        ...updateFields,
        beta: fraction.default(0.9),
      }),
      z.strictObject({ name: z.literal("adam"), ...adamFields }),
      z.strictObject({
        name: z.literal("adamw"),
        ...adamFields,
        weightDecay: z.number().min(0).default(0.01),
      }),
      z.strictObject({
        name: z.literal("shampoo"),
        ...updateFields,
        beta1: fraction.default(0.9),
        beta2: z.number().min(0).max(1).default(1),
        epsilon: z.number().min(0).default(1e-12),
        period: count(1).default(20),
        maxDimension: count(1).default(1024),
        grafting: z.enum(["none", "sgd", "adagrad", "rmsprop", "adam"]).default("adam"),
      }),
      z.strictObject({
        name: z.literal("kfac"),
        ...updateFields,
        momentum: fraction.default(0.9),
        damping: positive.default(1e-3),
        decay: fraction.default(0.95),
        klClip: positive.default(1e-3),
        factorPeriod: count(1).default(1),
        period: count(1).default(10),
        distribution: z.enum(["eigenpairs", "gradients"]).default("eigenpairs"),
      }),
    ]),
    curvature: z
      .strictObject({
        k: count(0).default(8),
        l: count(0).default(0),
        order: count(1).nullable().default(null),
        period: count(1).default(20),
        warmup: count(0).default(0),
        alpha: positive.default(0.01),
        beta: fraction.default(0.9),
        momentum: z.enum(["none", "heavyBall", "nesterov", "average"]).default("average"),
        clip: z.number().min(1).default(1),
        damping: z.number().min(0).default(0),
        trust: z.number().min(0).nullable().default(defaultTrust),
        layout: z.enum(["replicated", "rows", "columns"]).default("replicated"),
        reduce: z.enum(["mean", "rank0"]).default("mean"),
        split: z
          .strictObject({
            workers: count(1).max(1024).default(1),
            delay: count(0).default(1),
            late: z.enum(["wait", "keep-old"]).default("wait"),
          })
          .nullable()
          .default(null),
      })
      .nullable()
      .default(null),
    sync: z.discriminatedUnion("k", [
      z.strictObject({ k: z.literal("gradient") }),
      z.strictObject({
        k: z.literal("published"),
        sigma: positive.default(5e-9),
        period: count(1).default(20),
      }),
      z.strictObject({
        k: z.literal("momentum"),
        mu: z.number().min(0).max(1).default(0.9),
        gamma: z.number().min(0).default(0.7),
        period: count(1).default(20),
      }),
      z.strictObject({
        k: z.literal("consensus"),
        sigma: z.number().min(0).default(0.2),
        relative: z.boolean().default(true),
      }),
      z.strictObject({
        k: z.literal("divisible"),
        ratio,
        period: count(1).default(4),
        delay: count(0).nullable().default(null),
        residualWeight: z.number().min(0).max(1).default(1),
        warmup: count(1).default(16),
        averageMomentum: z.boolean().default(false),
        varianceEvery: count(1).nullable().default(null),
        compressor: z.enum(["block", "topk"]).default("block"),
        precision: z.enum(["float32", "int16"]).default("float32"),
        flushAtEnd: z.boolean().default(false),
      }),
      z.strictObject({
        k: z.literal("feedback"),
        form: z.enum(["ef", "saef", "def"]).default("ef"),
        ...compressorFields,
        period: count(1).default(1),
        averageEvery: count(1).default(20),
        residualWeight: z.number().min(0).max(1).default(0.3),
      }),
      z.strictObject({
        k: z.literal("reset"),
        ...compressorFields,
        resetEvery: count(1).default(8),
        updateCompressor: compressor.nullable().default(null),
        updateRatio: ratio,
      }),
      z.strictObject({ k: z.literal("gradient-feedback"), ...compressorFields }),
      z.strictObject({ k: z.literal("one-bit"), freezeStep: count(1).default(100) }),
      z.strictObject({
        k: z.literal("zero-one"),
        varianceFreezeStep: count(1).default(100),
        varianceScale: count(1).default(16),
        localScale: count(1).default(32678),
        localClip: count(1).default(16),
      }),
      z.strictObject({ k: z.literal("local"), period: count(1).default(8) }),
      z.strictObject({
        k: z.literal("outer"),
        period: count(1).default(8),
        outerLearningRate: positive.default(0.7),
        outerMomentum: fraction.default(0.9),
      }),
      z.strictObject({
        k: z.literal("decoupled"),
        decay: fraction.default(0.999),
        chunk: count(1).default(64),
        topK: count(1).default(32),
      }),
    ]),
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
  .superRefine(({ curvature, sync, update, parameters }, context) => {
    const issue = (path: string[], message: string): void =>
      context.addIssue({ code: "custom", path, message });
    const pairs = curvature ? curvature.k + curvature.l : 1;
    if (pairs < 1 || pairs > parameters) {
      issue(
        ["curvature", "k"],
        `k + l is ${pairs}, an integer between 1 and the ${parameters} parameters is needed`,
      );
    }
    if (curvature?.order && curvature.order < pairs) {
      issue(["curvature", "order"], `order is ${curvature.order}, at least k + l = ${pairs} is needed`);
    }
    if (curvature?.split && curvature.split.delay > curvature.period) {
      issue(
        ["curvature", "split", "delay"],
        `delay is ${curvature.split.delay}, at most the period of ${curvature.period} rounds is needed: the next curvature is asked for then`,
      );
    }
    if (sync.k === "consensus" && sync.relative && sync.sigma > 0 && !curvature) {
      issue(
        ["sync", "relative"],
        "sigma is in units of an eigenvalue, a curvature is needed; set relative to false",
      );
    }
    if (preconditionedOf({ update })) {
      if (curvature) issue(["curvature"], `${update.name} has curvature of its own, null is needed`);
      if (update.schedule !== "constant")
        issue(["update", "schedule"], `${update.name} has none here, constant is needed`);
      if (sync.k !== "gradient")
        issue(["sync", "k"], `workers of ${update.name} share what they precondition by, gradient is needed`);
      if (update.shard)
        issue(
          ["update", "shard"],
          `${update.name} is divided by matrices and not by columns, false is needed`,
        );
    }
    for (const [path, message] of communicationProblems(sync, { curvature, update })) issue(path, message);
    if (curvature && update.name === "adamw") {
      issue(
        ["update", "name"],
        "adamw decays weights beside the loss, a base whose loss is the one whose curvature is measured is needed; use adam with the penalty in the loss",
      );
    }
    if (curvature && curvature.layout !== "columns" && update.shard) {
      issue(
        ["update", "shard"],
        `the state of the base is cut by columns, the layout is ${curvature.layout}; use layout columns`,
      );
    }
    if (sync.k === "consensus" && layoutOf({ curvature, update }) !== "replicated") {
      issue(
        curvature ? ["curvature", "layout"] : ["update", "shard"],
        "workers of a consensus step on their own, one that has all of its state is needed; use sync gradient, published or momentum",
      );
    }
  });

/**
 * A checked plan with its defaults filled in, frozen.
 *
 * Shapes: plain JSON data.
 * Units: periods in rounds, limits in ticks.
 *
 * @throws {PlanError} listing every field that is wrong, with its value's problem
 * @example Two workers, Adam, gradients averaged at every step
 * ```ts
 * const plan = ct.dist.makePlan({
 *   version: 1, workers: 2, parameters: 10, rounds: 3, localSteps: 5, seed: 0,
 *   update: { name: "adam", learningRate: 1e-3 }, sync: { k: "gradient" },
 * });
 * assert(ct.dist.showPlan(plan).includes("2 workers"));
 * ```
 * @since 0.1.0
 */
export function makePlan(input: PlanInput): Plan {
  const result = planSchema.safeParse(input);
  if (result.success) return deepFreeze(result.data);
  const problems = result.error.issues.map((issue) => `${issue.path.join(".") || "plan"}: ${issue.message}`);
  throw new PlanError(`Cannot make a plan: ${problems.join("; ")}`, problems);
}

function deepFreeze<T>(value: T): T {
  if (typeof value === "object" && value !== null) for (const part of Object.values(value)) deepFreeze(part);
  return Object.freeze(value);
}

/** Lanczos steps of a plan. */
export function orderOf({ curvature, parameters }: Plan): number {
  if (!curvature) return 0;
  return Math.min(parameters, curvature.order ?? lanczosOrder(curvature.k, curvature.l, parameters));
}

/** Whether the curvature is refreshed at the start of a round. */
export function curvatureDueAt({ curvature }: Plan, round: number): boolean {
  return (
    curvature !== null && round >= curvature.warmup && (round - curvature.warmup) % curvature.period === 0
  );
}

/** Whether curvature of other workers is adopted at the start of a round, if it is there. */
export function adoptsAt(plan: Plan, round: number): boolean {
  const split = plan.curvature?.split;
  if (!split) return false;
  return split.late === "wait"
    ? curvatureDueAt(plan, round - split.delay)
    : round >= plan.curvature!.warmup + split.delay;
}

/** Where the state of the workers is; without a curvature it is cut only by columns. */
export function layoutOf({ curvature, update }: Pick<Plan, "curvature" | "update">): Layout {
  if (curvature) return curvature.layout;
  return update.shard ? "columns" : "replicated";
}

/** Whether a round ends with an extrapolation. */
export function extrapolatesAfter({ sync }: Plan, round: number): boolean {
  return (sync.k === "published" || sync.k === "momentum") && (round + 1) % sync.period === 0;
}

/** Whether the hub evaluates after a round. */
export function evaluatesAfter(plan: Plan, round: number): boolean {
  return round + 1 === plan.rounds || (plan.evaluateEvery > 0 && (round + 1) % plan.evaluateEvery === 0);
}

/** The columns of one worker: ceil(n / P) each, the last ones fewer or none. */
export function columnsOf(
  { parameters, workers }: Pick<Plan, "parameters" | "workers">,
  rank: number,
): readonly [start: number, end: number] {
  return shareOf(parameters, workers, rank);
}

/** The rows of V that one worker has in the layout of rows: ceil((k + l) / P) each, the last ones fewer or none. */
export function vectorRowsOf(
  { curvature, workers }: Pick<Plan, "curvature" | "workers">,
  rank: number,
): readonly [start: number, end: number] {
  return shareOf(curvature ? curvature.k + curvature.l : 0, workers, rank);
}

function shareOf(total: number, workers: number, rank: number): readonly [start: number, end: number] {
  const width = Math.ceil(total / workers);
  return [Math.min(total, rank * width), Math.min(total, (rank + 1) * width)];
}
