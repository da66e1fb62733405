/** What `cotangent compare` trains: a model, its data, and when it is good enough. */
import type { Likelihood } from "../../core/likelihood.ts";
import type { Params } from "../../core/nn.ts";
import type { Value } from "../../core/value.ts";

/** Inputs and targets of some examples, or nothing of a task without data. */
export interface Batch {
  readonly x: Value;
  readonly y: Value;
}

/** Numbers on data that no step has seen; of a task without data, its function. */
export interface Evaluation {
  readonly loss: number;
  /** Fraction right; null where nothing is right or wrong. */
  readonly accuracy: number | null;
}

/** When a run is done: the first evaluation at least as good. */
export interface Target {
  readonly metric: "loss" | "accuracy";
  readonly value: number;
}

/** What a task is opened with. */
export interface TaskOptions {
  readonly seed: number;
  /** Directory of the published data; without it the task draws its own stand-in, and says so in its name. */
  readonly dataDir?: string;
  /** Training examples in a step, in place of the number of the task; of a task without data it means nothing. */
  readonly batch?: number;
  /** Called with what a person may want to know while it opens. */
  note(text: string): void;
}

/** A task for one seed. Every function gives the same bits for the same arguments. */
export interface Problem {
  /** Name with the data that it really has. */
  readonly name: string;
  readonly target: Target;
  /** Parameters before the first step. */
  readonly initial: Params;
  /** Training examples in a step, over all workers; 1 of a task without data. */
  readonly batchSize: number;
  /** Steps in a pass over the training data. */
  readonly stepsPerEpoch: number;
  /** The loss to minimize, with its penalty if there is one; traceable. */
  loss(params: Params, batch: Batch): Value;
  /** The loss taken apart, `likelihood.loss(outputs(params, x), y)` plus the penalty; null where there is no model. */
  readonly model: {
    outputs(params: Params, x: Value): Value;
    readonly likelihood: Likelihood;
  } | null;
  /** The batch of a step, or its part for one worker of several: the parts of all make up the whole. */
  batch(step: number, rank?: number, workers?: number): Batch;
  /** Examples on which curvature is measured; fixed, or chosen anew for every refresh. */
  curvatureBatch(refresh: number, rank?: number, workers?: number): Batch;
  evaluate(params: Params): Evaluation;
}

/** A task by name. */
export interface Task {
  readonly name: string;
  /** One line for the help. */
  readonly summary: string;
  open(options: TaskOptions): Promise<Problem>;
}
