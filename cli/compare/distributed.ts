/** The methods of `cotangent compare --workers N`: what each puts into a plan. */
import type { Params } from "../../core/nn.ts";
import { ravel } from "../../core/ravel.ts";
import type { Value } from "../../core/value.ts";
import type { Problem as Distributed } from "../../dist/jobs.ts";
import { makePlan, type Plan, type PlanInput } from "../../dist/plan.ts";
import { around, firstOf, type Settings } from "./method.ts";
import type { Batch, Problem } from "./task.ts";

/** A method by name. */
export interface DistributedMethod {
  readonly summary: string;
  readonly rates: readonly number[];
  readonly settings: Settings;
  /** How it updates, where its curvature comes from, and how its workers agree. Periods are in rounds. */
  plan(input: {
    readonly learningRate: number;
    readonly settings: Settings;
    readonly parameters: number;
    readonly inRounds: (steps: number) => number;
  }): Pick<PlanInput, "update" | "curvature" | "sync">;
}

/** Gradients averaged at every step, the method's state at every worker. */
function dataParallel(
  summary: string,
  rate: number,
  update: (learningRate: number, settings: Settings) => PlanInput["update"],
  settings: Settings = {},
): DistributedMethod {
  return {
    summary,
    rates: around(rate),
    settings,
    plan: ({ learningRate, settings: given }) => ({
      update: update(learningRate, given),
      sync: { k: "gradient" },
    }),
  };
}

const curved: Settings = { k: 10, alpha: 0.01, period: 200, order: 0, batch: 0 };

/** FOSI by a group of workers, in one of its forms. */
function hybrid(
  summary: string,
  rate: number,
  form: {
    readonly update: (learningRate: number) => PlanInput["update"];
    readonly curvature: Partial<NonNullable<PlanInput["curvature"]>>;
    readonly sync?: (settings: Settings) => PlanInput["sync"];
    readonly settings?: Settings;
    readonly isSplit?: boolean;
  },
): DistributedMethod {
  return {
    summary,
    rates: around(rate),
    settings: { ...curved, ...form.settings },
    plan({ learningRate, settings, parameters, inRounds }) {
      const { k, alpha, period, order } = settings as typeof curved & Settings;
      const rounds = inRounds(period!);
      return {
        update: form.update(learningRate),
        curvature: {
          ...form.curvature,
          k: Math.min(k!, parameters),
          alpha: alpha!,
          period: rounds,
          // Time counts from the end of the first round: no method may have its curvature before.
          warmup: Math.min(rounds, 5),
          ...(order! > 0 && { order: Math.min(order!, parameters) }),
          ...(form.isSplit && { split: { workers: settings["curvature-workers"]!, delay: rounds } }),
        },
        sync: form.sync?.(settings) ?? { k: "gradient" },
      };
    },
  };
}

const overAdam = { update: adamOf, curvature: { momentum: "average", clip: 1 } } as const;
const overMomentum = {
  update: momentumOf,
  curvature: { momentum: "heavyBall", clip: 3 },
} as const;

function adamOf(learningRate: number): PlanInput["update"] {
  return { name: "adam", learningRate };
}

function momentumOf(learningRate: number): PlanInput["update"] {
  return { name: "momentum", learningRate };
}

/** The methods by the name of the command line. */
export const distributedMethods: Readonly<Record<string, DistributedMethod>> = {
  sgd: dataParallel("gradient descent on the mean gradient", 0.1, (learningRate) => ({
    name: "sgd",
    learningRate,
  })),
  momentum: dataParallel("heavy ball on the mean gradient", 0.03, (learningRate) => ({
    name: "momentum",
    learningRate,
  })),
  adam: dataParallel("Adam on the mean gradient", 1e-3, adamOf),
  "adam-zero": dataParallel("the same with its state cut over workers (ZeRO-1)", 1e-3, (learningRate) => ({
    name: "adam",
    learningRate,
    shard: true,
  })),
  kfac: dataParallel(
    "K-FAC, its layers divided among the workers",
    0.03,
    (learningRate, { period, factors, damping, clip }) => ({
      name: "kfac",
      learningRate,
      period: period!,
      factorPeriod: factors!,
      damping: damping!,
      klClip: clip!,
    }),
    { period: 50, factors: 5, damping: 1e-3, clip: 1e-3 },
  ),
  shampoo: dataParallel(
    "Shampoo with the step lengths of Adam, its matrices divided among the workers",
    1e-3,
    (learningRate, { period, dimension }) => ({
      name: "shampoo",
      learningRate,
      beta2: 0.999,
      period: period!,
      maxDimension: dimension!,
    }),
    { period: 100, dimension: 1024 },
  ),
  "fosi-momentum": hybrid("FOSI over heavy ball on the mean gradient", 0.03, overMomentum),
  "fosi-adam": hybrid("FOSI over Adam on the mean gradient", 1e-3, overAdam),
  dho2: hybrid("DHO2: FOSI over Adam in local steps, agreement by ADMM once a round", 1e-3, {
    ...overAdam,
    sync: ({ sigma }) => ({ k: "consensus", sigma: sigma! }),
    settings: { sigma: 0.005, alpha: 0.01 },
  }),
  "dho2-momentum": hybrid("DHO2 over heavy ball", 0.03, {
    ...overMomentum,
    sync: ({ sigma }) => ({ k: "consensus", sigma: sigma! }),
    settings: { sigma: 0.005 },
  }),
  "dho2-published": hybrid("DHO2 with the published extrapolation", 1e-3, {
    ...overAdam,
    sync: () => ({ k: "published", period: 20 }),
    settings: { alpha: 0.028, k: 16 },
  }),
  "dho2-columns": hybrid("DHO2 on the mean gradient, everything cut by columns", 1e-3, {
    update: adamOf,
    curvature: { momentum: "average", clip: 1, layout: "columns" },
  }),
  "dho2-split": hybrid("DHO2 in local steps, curvature by workers beside", 1e-3, {
    ...overAdam,
    sync: ({ sigma }) => ({ k: "consensus", sigma: sigma! }),
    settings: { sigma: 0.005, "curvature-workers": 1 },
    isSplit: true,
  }),
  "div-adam": communicating(
    "Adam whose update goes out in parts: one number of ratio is waited for, the rest comes in the background",
    1e-3,
    adamOf,
    { ratio: 128, period: 4, dense: 16, weight: 1 },
    ({ ratio, period, dense, weight }) => ({
      k: "divisible",
      ratio: ratio!,
      period: period!,
      warmup: dense!,
      residualWeight: weight!,
    }),
  ),
  "ef-adam": communicating(
    "Adam on compressed gradients, what was not sent added to the next",
    1e-3,
    adamOf,
    { ratio: 128 },
    ({ ratio }) => ({ k: "gradient-feedback", compressor: "topk", ratio: ratio! }),
  ),
  ef: communicating(
    "heavy ball by error feedback, gradients where all agree",
    1e-3,
    momentumOf,
    { ratio: 128, period: 1 },
    ({ ratio, period }) => ({ k: "feedback", form: "ef", ratio: ratio!, period: period! }),
  ),
  saef: communicating(
    "heavy ball by step-ahead error feedback, what is kept back averaged now and then",
    0.03,
    momentumOf,
    { ratio: 128, period: 1, average: 20 },
    ({ ratio, period, average }) => ({
      k: "feedback",
      form: "saef",
      ratio: ratio!,
      period: period!,
      averageEvery: average!,
    }),
  ),
  def: communicating(
    "heavy ball by detached error feedback",
    0.03,
    momentumOf,
    { ratio: 128, period: 1, weight: 0.3 },
    ({ ratio, period, weight }) => ({
      k: "feedback",
      form: "def",
      ratio: ratio!,
      period: period!,
      residualWeight: weight!,
    }),
  ),
  cser: communicating(
    "heavy ball on its own, errors averaged in part every period (error reset)",
    0.03,
    momentumOf,
    { ratio: 128, period: 8 },
    ({ ratio, period }) => ({ k: "reset", ratio: ratio!, resetEvery: period! }),
  ),
  "one-bit-adam": communicating(
    "Adam, then signs of its momentum with the variance of the last dense step",
    1e-3,
    adamOf,
    { dense: 100 },
    ({ dense }) => ({ k: "one-bit", freezeStep: dense! }),
  ),
  "zero-one-adam": communicating(
    "Adam with signs, variance and agreement at intervals that double",
    1e-3,
    adamOf,
    { dense: 100 },
    ({ dense }) => ({ k: "zero-one", varianceFreezeStep: dense! }),
  ),
  "local-adam": communicating(
    "Adam on its own, the mean of parameters every period",
    1e-3,
    adamOf,
    { period: 8 },
    ({ period }) => ({ k: "local", period: period! }),
  ),
  diloco: communicating(
    "AdamW on its own, and a Nesterov step along the mean of what was moved",
    1e-3,
    (learningRate) => ({ name: "adamw", learningRate }),
    { period: 8 },
    ({ period }) => ({ k: "outer", period: period! }),
  ),
  demo: communicating(
    "signs of the largest cosine components of each chunk of momentum",
    1e-3,
    (learningRate) => ({ name: "sgd", learningRate }),
    { chunk: 64, top: 32 },
    ({ chunk, top }) => ({ k: "decoupled", chunk: chunk!, topK: top! }),
  ),
};

/** Workers that send parts of what they have. */
function communicating(
  summary: string,
  rate: number,
  update: (learningRate: number) => PlanInput["update"],
  settings: Settings,
  sync: (settings: Settings) => PlanInput["sync"],
): DistributedMethod {
  return {
    summary,
    rates: around(rate),
    settings,
    plan: ({ learningRate, settings: given }) => ({ update: update(learningRate), sync: sync(given) }),
  };
}

/** What a run with workers is made of, the same in every process. */
export interface DistributedInput {
  readonly method: DistributedMethod;
  readonly settings: Settings;
  readonly learningRate: number;
  readonly workers: number;
  readonly localSteps: number;
  readonly seed: number;
  /** Steps after which the run ends at the latest. */
  readonly steps: number;
}

/** The plan of a run. The hub is offered an evaluation after every round; it takes those that are due. */
export function distributedPlan(problem: Problem, input: DistributedInput): Plan {
  const { method, settings, learningRate, workers, localSteps, seed, steps } = input;
  const parameters = ravel(problem.initial)[0].size;
  const inRounds = (count: number): number => Math.max(1, Math.round(count / localSteps));
  return makePlan({
    version: 1,
    workers,
    parameters,
    rounds: Math.max(2, Math.ceil(steps / localSteps)),
    localSteps,
    seed,
    ...method.plan({ learningRate, settings, parameters, inRounds }),
    evaluateEvery: 1,
    limits: { retryTicks: 50, deadTicks: 1200, maxRestarts: 0 },
  });
}

/** A problem on flat parameters for the workers of a run, with examples for curvature; `evaluate` is the hub's. */
export function distributedProblem(
  problem: Problem,
  plan: Pick<Plan, "workers" | "curvature">,
  examples: number,
  evaluate?: (theta: Value) => readonly number[],
): Distributed<Batch> {
  const [initial, unravel] = ravel(problem.initial);
  const period = plan.curvature?.period ?? 1;
  const shards = plan.curvature?.split?.workers ?? plan.workers;
  return {
    initial,
    score: (theta, batch) => ({ loss: problem.loss(unravel(theta), batch), sums: [] }),
    unravel,
    loss: (params, batch) => problem.loss(params as Params, batch),
    batch: (rank, step) => problem.batch(step, rank, plan.workers),
    curvatureBatch(rank, round) {
      const part = problem.curvatureBatch(Math.floor(round / period), rank, shards);
      return firstOf(part, Math.max(1, Math.floor(examples / shards)));
    },
    ...(evaluate && { evaluate }),
  };
}
