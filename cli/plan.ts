/** From what a person asked for to a plan that workers can run. */
import { makePlan, type Plan, type PlanInput, type SplitPlan } from "../dist/plan.ts";
import type { OptimizerName, TrainConfig } from "./config.ts";

/** How each method of the command line is put together. Rates are what works on the embedded data. */
interface Method {
  readonly base: PlanInput["update"]["name"];
  readonly lr: number;
  readonly curvature?: {
    readonly alpha: number;
    readonly clip: number;
    readonly momentum: "none" | "heavyBall" | "nesterov" | "average";
  };
}

const methods: Readonly<Record<OptimizerName, Method>> = {
  sgd: { base: "sgd", lr: 0.1 },
  momentum: { base: "momentum", lr: 0.05 },
  nesterov: { base: "nesterov", lr: 0.05 },
  adam: { base: "adam", lr: 1e-3 },
  adamw: { base: "adamw", lr: 1e-3 },
  shampoo: { base: "shampoo", lr: 3e-3 },
  kfac: { base: "kfac", lr: 0.02 },
  "fosi-sgd": { base: "sgd", lr: 0.1, curvature: { alpha: 0.01, clip: 3, momentum: "none" } },
  "fosi-hb": { base: "momentum", lr: 0.05, curvature: { alpha: 0.01, clip: 3, momentum: "heavyBall" } },
  "fosi-nesterov": { base: "nesterov", lr: 0.05, curvature: { alpha: 0.01, clip: 3, momentum: "nesterov" } },
  "fosi-adam": { base: "adam", lr: 1e-3, curvature: { alpha: 0.01, clip: 1, momentum: "average" } },
  "div-adam": { base: "adam", lr: 1e-3 },
  ef: { base: "momentum", lr: 0.05 },
  saef: { base: "momentum", lr: 0.05 },
  def: { base: "momentum", lr: 0.05 },
  cser: { base: "momentum", lr: 0.05 },
  "ef-adam": { base: "adam", lr: 1e-3 },
  "one-bit-adam": { base: "adam", lr: 1e-3 },
  "zero-one-adam": { base: "adam", lr: 1e-3 },
  "local-adam": { base: "adam", lr: 1e-3 },
  diloco: { base: "adamw", lr: 1e-3 },
  demo: { base: "sgd", lr: 1e-3 },
  dho2: { base: "adam", lr: 2.8e-3, curvature: { alpha: 0.028, clip: 1, momentum: "average" } },
};

/** The default rates of every method, one line each: for the help text. */
export function methodLines(): string {
  return Object.entries(methods)
    .map(([name, { lr, curvature }]) => {
      const newton = curvature ? `, --alpha ${curvature.alpha}, --clip ${curvature.clip}` : "";
      return `  ${name.padEnd(14)}--lr ${lr}${newton}`;
    })
    .join("\n");
}

/**
 * ADMM penalty in units of the largest eigenvalue. Small: a few noisy local steps can follow only a weak pull, and
 * shards of shuffled data disagree little (docs/benchmarks.md has the sweep).
 */
const consensusSigma = 0.005;

/** The examples of one step of one worker. */
export function batchSize(config: TrainConfig, trainCount: number): number {
  const own = Math.floor(trainCount / config.workers);
  return config.batch === "full" ? own : Math.min(config.batch, own);
}

/** The plan of a run on a data set of a size and a model with a number of parameters. */
export function planOf(config: TrainConfig, trainCount: number, parameters: number): Plan {
  const method = methods[config.optimizer];
  const perEpoch = trainCount / (batchSize(config, trainCount) * config.workers);
  const steps = config.steps ?? Math.max(1, Math.round(config.epochs * perEpoch));
  const localSteps = Math.min(config.localSteps, steps);
  const rounds = Math.ceil(steps / localSteps);
  const inRounds = (count: number): number => Math.max(1, Math.round(count / localSteps));
  const isDho2 = config.optimizer === "dho2";
  const period = inRounds(config.curvatureEvery);
  return makePlan({
    version: 1,
    workers: config.workers,
    parameters,
    rounds,
    localSteps,
    seed: config.seed,
    update: {
      name: method.base,
      learningRate: config.lr ?? method.lr,
      shard: !method.curvature && config.layout === "columns",
      ...(config.schedule !== undefined && { schedule: config.schedule }),
      ...(config.preconditionEvery !== undefined && { period: config.preconditionEvery }),
      ...(config.damping !== undefined && { damping: config.damping }),
      ...(config.distribution !== undefined && { distribution: config.distribution }),
    } as PlanInput["update"],
    curvature: method.curvature
      ? {
          ...method.curvature,
          ...(config.alpha !== undefined && { alpha: config.alpha }),
          ...(config.clip !== undefined && { clip: config.clip }),
          k: Math.min(config.k, parameters),
          layout: config.layout ?? "replicated",
          period,
          split: splitOf(config, inRounds),
          warmup:
            config.curvatureWarmup === undefined
              ? isDho2
                ? 0
                : period
              : Math.round(config.curvatureWarmup / localSteps),
        }
      : null,
    sync: syncOf(config, period),
    evaluateEvery:
      config.evalEvery === undefined ? Math.max(1, Math.ceil(rounds / 20)) : inRounds(config.evalEvery),
    limits: { retryTicks: 50, deadTicks: 1200, maxRestarts: 3 },
  });
}

function splitOf(
  { curvatureWorkers, curvatureDelay, late }: TrainConfig,
  inRounds: (count: number) => number,
): Partial<SplitPlan> | null {
  if (curvatureWorkers === undefined) return null;
  return {
    workers: curvatureWorkers,
    ...(curvatureDelay !== undefined && { delay: curvatureDelay === 0 ? 0 : inRounds(curvatureDelay) }),
    ...(late !== undefined && { late }),
  };
}

function syncOf(config: TrainConfig, period: number): PlanInput["sync"] {
  const { optimizer, admm, sigma } = config;
  const form = communicationForms[optimizer];
  if (form) return communicationOf(form, config);
  if (optimizer !== "dho2" || admm === "off") return { k: "gradient" };
  if (admm === "published") return { k: "published", period, ...(sigma !== undefined && { sigma }) };
  return { k: "consensus", sigma: sigma ?? consensusSigma };
}

/** The form of agreement of methods whose workers send parts, and what its fields are called there. */
const communicationForms: Partial<
  Record<
    OptimizerName,
    {
      readonly sync: { readonly k: string; readonly form?: string };
      readonly period?: string;
      readonly dense?: string;
    }
  >
> = {
  "div-adam": { sync: { k: "divisible" }, period: "period", dense: "warmup" },
  ef: { sync: { k: "feedback", form: "ef" }, period: "period" },
  saef: { sync: { k: "feedback", form: "saef" }, period: "period" },
  def: { sync: { k: "feedback", form: "def" }, period: "period" },
  cser: { sync: { k: "reset" }, period: "resetEvery" },
  "ef-adam": { sync: { k: "gradient-feedback" } },
  "one-bit-adam": { sync: { k: "one-bit" }, dense: "freezeStep" },
  "zero-one-adam": { sync: { k: "zero-one" }, dense: "varianceFreezeStep" },
  "local-adam": { sync: { k: "local" }, period: "period" },
  diloco: { sync: { k: "outer" }, period: "period" },
  demo: { sync: { k: "decoupled" } },
};

function communicationOf(
  { sync, period: periodField, dense }: NonNullable<(typeof communicationForms)[OptimizerName]>,
  {
    ratio,
    period,
    delay,
    residualWeight,
    denseSteps,
    compressor,
    updateCompressor,
    updateRatio,
    background: precision,
    averageMomentum,
    varianceEvery,
    flushAtEnd,
  }: TrainConfig,
): PlanInput["sync"] {
  const given = {
    ...{ ratio, delay, residualWeight, compressor, precision, varianceEvery, updateRatio },
    ...(updateCompressor !== "none" && { updateCompressor }),
    ...(averageMomentum !== undefined && { averageMomentum: averageMomentum === "yes" }),
    ...(flushAtEnd !== undefined && { flushAtEnd: flushAtEnd === "yes" }),
    ...(periodField && { [periodField]: period }),
    ...(dense && { [dense]: denseSteps }),
  };
  const set = Object.fromEntries(Object.entries(given).filter(([, x]) => x !== undefined));
  return { ...sync, ...set } as PlanInput["sync"];
}
