/** Records of runs that were never made, for tests of what is said of them. */
import type { Entry, RunRecord } from "../../cli/compare/results.ts";
import type { Outcome, Point } from "../../cli/compare/run.ts";

export const point = (seconds: number, loss: number): Point => ({
  step: seconds,
  gradients: seconds,
  seconds,
  trainLoss: loss,
  loss,
  accuracy: null,
});

/** A run for a loss of 1, which it has at a time or never. */
export function record(
  entry: Partial<Entry>,
  reachedAt: number | null,
  outcome: { readonly loss?: number; readonly start?: number; readonly ended?: Outcome["ended"] } = {},
): RunRecord {
  const { start = 2, ended = "budget" } = outcome;
  const last = reachedAt === null ? point(9, outcome.loss ?? 1) : point(reachedAt, outcome.loss ?? 1);
  return {
    task: "t",
    optimizer: "adam",
    learningRate: 0.1,
    kind: "seed",
    seed: 0,
    ...entry,
    points: [point(0, start), last],
    reached: reachedAt === null ? null : 1,
    ended,
    compileSeconds: 0,
    stateBytes: 8,
    peakBytes: 16,
    taskName: "t",
    target: { metric: "loss", value: 1 },
    parameters: 2,
    bytesSent: 0,
    workerPeakBytes: [],
    failure: null,
  };
}
