/** Forms of agreement in which workers send parts of what they have: as data of a plan, and as the method that it names. */

import { bytesPerElement, type DType } from "../../core/dtype.ts";
import type { Plan } from "../plan.ts";
import { blockCompressor } from "./block.ts";
import type { Compressor, CompressorOptions } from "./compressor.ts";
import { decoupledMomentum } from "./decoupled_momentum.ts";
import { type DivAdam, divAdam } from "./div_adam.ts";
import { detachedErrorFeedback, errorFeedback, stepAheadErrorFeedback } from "./error_feedback.ts";
import { errorReset } from "./error_reset.ts";
import { gradientFeedbackAdam, gradientFeedbackMomentum } from "./gradient_feedback.ts";
import { halfCompressor } from "./half.ts";
import { diLoCo, localAdam } from "./local_adam.ts";
import { type LossyMean, powerSgdMean } from "./lossy_mean.ts";
import type { CommunicatingMethod } from "./method.ts";
import { oneBitAdam } from "./one_bit_adam.ts";
import { qsgdCompressor } from "./qsgd.ts";
import { randomKCompressor } from "./random_k.ts";
import { signCompressor } from "./sign.ts";
import { topKCompressor } from "./top_k.ts";
import { zeroOneAdam } from "./zero_one_adam.ts";

/**
 * What is sent of a vector.
 *
 * `block`, `topk` and `randomk` send one number of `ratio`, `sign` and `qsgd` few bits of each, `half` 16, `powersgd` two
 * factors of `rank` columns for each matrix.
 *
 * @since 0.2.0
 */
export interface CompressorPlan {
  readonly compressor: "block" | "topk" | "randomk" | "sign" | "qsgd" | "half" | "powersgd";
  readonly ratio: number;
  readonly rank: number;
  readonly levels: number;
}

/**
 * Agreement by communication that is compressed, divided or rare. Periods and delays are in steps.
 *
 * - `divisible`: Adam whose update goes out in two parts, a small one that is waited for at every step and the rest in the
 *   background; see `divAdam`.
 * - `feedback`: momentum whose compressed update is sent and whose remainder is kept: `ef` takes gradients where all agree,
 *   `saef` ahead of it, with the mean of what is kept every `averageEvery` steps, `def` by `residualWeight` of the way.
 * - `reset`: momentum of which `updateCompressor` sends a part at every step; what it leaves is taken up locally, and averaged
 *   in part every `resetEvery` steps (CSER).
 * - `gradient-feedback`: compressed gradients, then the method; what was not sent is added to the next gradient.
 * - `one-bit`: Adam until `freezeStep`, then signs of the momentum with the variance of that step.
 * - `zero-one`: Adam with signs, variance and agreement at intervals that double.
 * - `local`: Adam on its own, the mean of parameters every `period` steps; `outer` (DiLoCo): and a Nesterov step on it.
 * - `decoupled`: the largest cosine components of the momentum of each chunk, and a step along their signs (DeMo).
 *
 * @since 0.2.0
 */
export type CommunicationPlan =
  | {
      readonly k: "divisible";
      /** One number of so many is waited for. */
      readonly ratio: number;
      readonly period: number;
      readonly delay: number | null;
      readonly residualWeight: number;
      readonly warmup: number;
      readonly averageMomentum: boolean;
      /** Steps between gradients in the background, a multiple of the period; null for the period. */
      readonly varianceEvery: number | null;
      readonly compressor: "block" | "topk";
      readonly precision: "float32" | "int16";
      /** Whether the last step of the run is followed by one exchange of all in which workers differ, after which they do not. */
      readonly flushAtEnd: boolean;
    }
  | (CompressorPlan & {
      readonly k: "feedback";
      readonly form: "ef" | "saef" | "def";
      readonly period: number;
      readonly averageEvery: number;
      readonly residualWeight: number;
    })
  | (CompressorPlan & {
      readonly k: "reset";
      readonly resetEvery: number;
      /** What is sent of updates, with `rank` and `levels` as for errors; null for nothing. */
      readonly updateCompressor: CompressorPlan["compressor"] | null;
      readonly updateRatio: number;
    })
  | (CompressorPlan & { readonly k: "gradient-feedback" })
  | { readonly k: "one-bit"; readonly freezeStep: number }
  | {
      readonly k: "zero-one";
      readonly varianceFreezeStep: number;
      readonly varianceScale: number;
      readonly localScale: number;
      readonly localClip: number;
    }
  | { readonly k: "local"; readonly period: number }
  | {
      readonly k: "outer";
      readonly period: number;
      readonly outerLearningRate: number;
      readonly outerMomentum: number;
    }
  | { readonly k: "decoupled"; readonly decay: number; readonly chunk: number; readonly topK: number };

/** The methods whose steps each form takes apart. */
const bases: Readonly<Record<CommunicationPlan["k"], readonly string[]>> = {
  divisible: ["adam", "adamw"],
  feedback: ["momentum"],
  reset: ["momentum"],
  "gradient-feedback": ["momentum", "adam", "adamw"],
  "one-bit": ["adam", "adamw"],
  "zero-one": ["adam", "adamw"],
  local: ["adam", "adamw"],
  outer: ["adam", "adamw"],
  decoupled: ["sgd"],
};

/** What is wrong with a form of agreement beside the rest of a plan: the field, and why. */
export function communicationProblems(
  sync: Plan["sync"],
  { curvature, update }: Pick<Plan, "curvature" | "update">,
): readonly (readonly [path: string[], message: string])[] {
  if (!isCommunication(sync)) return [];
  const problems: (readonly [string[], string])[] = [];
  const base = bases[sync.k];
  if (!base.includes(update.name)) {
    problems.push([
      ["update", "name"],
      `${sync.k} takes the steps of ${base.join(" or ")} apart, one of these is needed`,
    ]);
  }
  if (curvature) problems.push([["curvature"], `workers of ${sync.k} differ between steps, null is needed`]);
  if (update.shard) {
    problems.push([["update", "shard"], `workers of ${sync.k} have all of their state, false is needed`]);
  }
  if (sync.k === "divisible" && (sync.varianceEvery ?? sync.period) % sync.period !== 0) {
    problems.push([
      ["sync", "varianceEvery"],
      `varianceEvery is ${sync.varianceEvery}, a multiple of the period of ${sync.period} steps is needed: gradients go with what is left`,
    ]);
  }
  if (sync.k === "divisible" && sync.delay !== null && sync.delay > sync.period) {
    problems.push([
      ["sync", "delay"],
      `delay is ${sync.delay}, at most the period of ${sync.period} steps is needed: the next exchange begins then`,
    ]);
  }
  return problems;
}

/** What the methods of a plan depend on beside it. */
export interface Vectors {
  /** The shapes of the parameter tensors in the order in which they are raveled; default one vector. */
  readonly shapes?: readonly (readonly number[])[];
  /** Of the tensors, for errors; default their numbers. */
  readonly names?: readonly string[];
  /** Default float32. */
  readonly dtype?: DType;
}

/**
 * The method by which the workers of a plan communicate; null for plans whose workers do not differ between steps. What
 * happens at which step does not depend on shapes and types.
 */
export function communicatingOf(plan: Plan, vectors: Vectors = {}): CommunicatingMethod<unknown> | null {
  const { sync } = plan;
  if (!isCommunication(sync)) return null;
  const known = methods.get(plan) ?? new Map<string, CommunicatingMethod<unknown>>();
  methods.set(plan, known);
  const { shapes = [[plan.parameters]], names, dtype = "float32" } = vectors;
  const tensors: CompressorOptions = { shapes, ...(names && { names }) };
  const key = JSON.stringify([tensors, dtype]);
  const method = known.get(key) ?? methodOf(plan, sync, tensors, dtype);
  known.set(key, method);
  return method;
}

/** One method for each plan, so that its programs are compiled once. */
const methods = new WeakMap<Plan, Map<string, CommunicatingMethod<unknown>>>();

/** Whether a form of agreement is one of those here. */
export function isCommunication(sync: Plan["sync"]): sync is CommunicationPlan {
  return Object.hasOwn(bases, sync.k);
}

/** The step after which workers become equal, counted from 1; null where they do not. */
export function flushAfter({ sync, rounds, localSteps }: Plan): number | null {
  return sync.k === "divisible" && sync.flushAtEnd ? rounds * localSteps : null;
}

/** The learning rate of a step, counted from 1. */
function rateAt({ update, rounds, localSteps }: Plan): number | ((step: number) => number) {
  const { learningRate, schedule } = update;
  if (schedule === "constant") return learningRate;
  const steps = rounds * localSteps;
  return (step) => (learningRate / 2) * (1 + Math.cos((Math.PI * Math.min(step - 1, steps)) / steps));
}

function methodOf(
  plan: Plan,
  sync: CommunicationPlan,
  tensors: CompressorOptions,
  dtype: DType,
): CommunicatingMethod<unknown> {
  const { update, seed } = plan;
  if (dtype !== "float32" && dtype !== "float64") {
    throw new TypeError(
      `Cannot communicate by ${sync.k}: the parameters are of ${dtype}, float32 or float64 is needed`,
    );
  }
  const common = { ...update, learningRate: rateAt(plan), ...tensors, dtype, seed };
  const momentum = "beta" in update ? update.beta : 0;
  switch (sync.k) {
    case "divisible":
      return divAdam({
        ...common,
        ...sync,
        delay: sync.delay ?? sync.period,
        varianceEvery: sync.varianceEvery ?? sync.period,
      });
    case "feedback": {
      const options = { ...common, ...sync, momentum, compressor: meanBy(sync, tensors, dtype, seed) };
      if (sync.form === "saef") return stepAheadErrorFeedback(options);
      return sync.form === "def" ? detachedErrorFeedback(options) : errorFeedback(options);
    }
    case "reset": {
      const { resetEvery } = sync;
      const updates = updatesOf(sync);
      const compressor = updates && meanBy(updates, tensors, dtype, seed);
      const errorCompressor = meanBy(sync, tensors, dtype, seed);
      return errorReset({ ...common, momentum, resetEvery, compressor, errorCompressor });
    }
    case "gradient-feedback": {
      const compressor = meanBy(sync, tensors, dtype, seed);
      return update.name === "momentum"
        ? gradientFeedbackMomentum({ ...common, momentum, compressor })
        : gradientFeedbackAdam({ ...common, compressor });
    }
    case "one-bit":
      return oneBitAdam({ ...common, ...sync });
    case "zero-one":
      return zeroOneAdam({ ...common, ...sync });
    case "local":
      return localAdam({ ...common, ...sync });
    case "outer":
      return diLoCo({ ...common, ...sync });
    case "decoupled":
      return decoupledMomentum({ ...common, ...sync });
    default:
      return sync satisfies never;
  }
}

/** The compressor of updates beside that of errors. */
function updatesOf(sync: CommunicationPlan & { readonly k: "reset" }): CompressorPlan | null {
  const { updateCompressor, updateRatio } = sync;
  return updateCompressor && { ...sync, compressor: updateCompressor, ratio: updateRatio };
}

/**
 * Bytes of a vector for one that a worker sends of it, of all that a plan compresses, by what it is: `updates`, `errors` or
 * `gradients`. With places and scales, and with the one number that every small tensor sends; null where nothing is compressed.
 */
export function achievedRatios(plan: Plan, vectors: Vectors = {}): Readonly<Record<string, number>> | null {
  const { sync, parameters, seed } = plan;
  const method = communicatingOf(plan, vectors);
  const { shapes = [[parameters]], dtype = "float32" } = vectors;
  const ratioOf = (compressor: CompressorPlan): number => {
    const mean = meanBy(compressor, { shapes }, dtype as "float32" | "float64", seed);
    const bytes =
      "exchanges" in mean ? mean.bytes(1, dtype as "float32" | "float64").sent : mean.bytes(dtype);
    return (parameters * bytesPerElement(dtype)) / bytes;
  };
  switch (sync.k) {
    case "divisible":
      return { updates: (method as DivAdam).achievedRatio(dtype) };
    case "feedback":
      return { updates: ratioOf(sync) };
    case "gradient-feedback":
      return { gradients: ratioOf(sync) };
    case "reset": {
      const updates = updatesOf(sync);
      return { ...(updates && { updates: ratioOf(updates) }), errors: ratioOf(sync) };
    }
    default:
      return null;
  }
}

/** The compressor that a plan names; PowerSGD is a mean of two exchanges. */
function meanBy(
  { compressor, ratio, rank, levels }: CompressorPlan,
  tensors: CompressorOptions,
  dtype: "float32" | "float64",
  seed: number,
): Compressor | LossyMean {
  switch (compressor) {
    case "block":
      return blockCompressor({ ...tensors, ratio, seed });
    case "topk":
      return topKCompressor({ ...tensors, ratio });
    case "randomk":
      return randomKCompressor({ ...tensors, ratio, seed });
    case "sign":
      return signCompressor(tensors);
    case "qsgd":
      return qsgdCompressor({ ...tensors, levels, seed });
    case "half":
      return halfCompressor({ ...tensors, dtype });
    case "powersgd":
      return powerSgdMean({ ...tensors, rank, seed });
    default:
      return compressor satisfies never;
  }
}
