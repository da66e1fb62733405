/** Losses that are negative log-likelihoods: what a model's outputs say about targets, and targets drawn from what they say. */
import type { Value } from "./value.ts";

/**
 * A distribution of targets given the outputs of a model.
 *
 * @since 0.2.0
 */
export interface Likelihood {
  readonly name: string;
  /** Mean negative log-likelihood over the batch. */
  loss(outputs: Value, targets: Value): Value;
  /** Targets drawn from the distribution that the outputs describe: for the Fisher matrix and its estimates. */
  sample(key: Value, outputs: Value): Value;
}
