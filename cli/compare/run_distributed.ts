/** One run of a plan on worker processes, to the end of its budget. */
import { availableParallelism } from "node:os";
import { hessianOperator } from "../../autodiff/operator.ts";
import { ravel } from "../../core/ravel.ts";
import type { Value } from "../../core/value.ts";
import { vectorsOf } from "../../dist/jobs/communicating.ts";
import { computations } from "../../dist/jobs/compute.ts";
import {
  type Problem as Distributed,
  matricesOf,
  trainingSetup,
  workerInitial,
  workerJobs,
} from "../../dist/jobs.ts";
import type { Plan } from "../../dist/plan.ts";
import { planCost } from "../../dist/plan_cost.ts";
import {
  type Address,
  addressFromEnvironment,
  runSockets,
  serveWorker,
  spawnBun,
} from "../../dist/runtime/bun.ts";
import { memoryStore, type Progress } from "../../dist/runtime/driver.ts";
import { RunError } from "../../dist/runtime/local.ts";
import { configOf } from "../../dist/script.ts";
import { curvatureGroup, groupConfig, groupWorkerJobs } from "../../dist/split.ts";
import { type DistributedInput, distributedPlan, distributedProblem } from "./distributed.ts";
import { curvatureExamples, PRODUCT_GRADIENTS } from "./method.ts";
import { isReached, type Outcome, type Point, type RunOptions } from "./run.ts";
import type { Batch, Problem } from "./task.ts";

/** What a run with workers measures beyond others. */
export interface DistributedOutcome extends Outcome {
  readonly bytesSent: number;
  readonly workerPeakBytes: readonly number[];
}

const tickMs = 200;

/**
 * Runs a plan. Time counts from the end of the first round, by when every process has loaded its data and compiled what the
 * first steps and products with the Hessian need; evaluations are in no time.
 *
 * @param worker the arguments with which this program serves a rank
 */
export async function runDistributed(
  problem: Problem,
  input: DistributedInput,
  options: RunOptions,
  worker: (rank: number, kind: "training" | "curvature") => readonly string[],
): Promise<DistributedOutcome> {
  const { budget, evaluations, stopsAtTarget, onPoint } = options;
  const plan = distributedPlan(problem, input);
  const unravel = ravel(problem.initial)[1];
  const points: Point[] = [];
  const stop = new AbortController();
  let ended: Outcome["ended"] = "budget";
  let reached: number | null = null;
  // The time of evaluations, and of everything before the end of the first round, is taken off.
  let [started, evaluating, next] = [Number.NaN, 0, 0];
  let [step, lossSum, lossCount, bytes] = [0, 0, 0, 0];
  const seconds = (): number =>
    Number.isNaN(started) ? 0 : (performance.now() - started) / 1000 - evaluating;
  // Curvature is measured on a batch of its own, whoever does it; a gradient is of one of a step.
  let extraGradients = 0;
  const examples = curvatureExamples(problem, input.settings["batch"] ?? 0);
  const share = examples / problem.batchSize;
  const count = (phase: string): void => {
    if (phase === "open") extraGradients += share;
    if (phase === "product") extraGradients += PRODUCT_GRADIENTS * share;
  };
  const used = (): number =>
    ({ wall: seconds(), gradients: step + extraGradients, steps: step })[budget.unit] / budget.amount;
  /** A look at the parameters when it is due; called by the hub after each round. */
  const evaluate = (theta: Value): readonly number[] => {
    if (Number.isNaN(started) || (used() < 1 && used() * evaluations < next)) return [];
    next = Math.floor(used() * evaluations) + 1;
    const at = { step, gradients: step + extraGradients, seconds: seconds() };
    const began = performance.now();
    const found = problem.evaluate(unravel(theta));
    evaluating += (performance.now() - began) / 1000;
    if (!Number.isFinite(found.loss)) {
      ended = "diverged";
      stop.abort();
      return [];
    }
    const trainLoss = lossCount > 0 ? lossSum / lossCount : null;
    [lossSum, lossCount] = [0, 0];
    const point: Point = { ...at, trainLoss, ...found };
    if (reached === null && isReached(found, problem.target)) reached = points.length;
    points.push(point);
    onPoint?.(point, Math.min(1, used()));
    if (stopsAtTarget && reached !== null) {
      ended = "target";
      stop.abort();
    }
    return [];
  };
  const take = (progress: Progress): void => {
    if (progress.k === "completed") {
      if (Number.isNaN(started)) started = performance.now();
      if (used() >= 1) stop.abort();
      return;
    }
    const { phase, workers } = progress;
    count(phase);
    // Local steps without a message between them note the loss of each.
    const steps = { local: plan.localSteps, gradient: 1, step: 1, steps: workers[0]!.length }[phase];
    if (steps === undefined) return;
    step += steps;
    const losses = workers.flat();
    lossSum += (steps * losses.reduce((sum, loss) => sum + loss, 0)) / losses.length;
    lossCount += steps;
  };

  const first = problem.evaluate(problem.initial);
  points.push({ step: 0, gradients: 0, seconds: 0, trainLoss: null, ...first });
  const shared = distributedProblem(problem, plan, examples, evaluate);
  const group = plan.curvature?.split ? curvatureGroup(plan, shared) : null;
  const processes = plan.workers + (plan.curvature?.split?.workers ?? 0);
  const threads = Math.max(1, Math.floor(availableParallelism() / processes));
  const main = new URL("../main.ts", import.meta.url).pathname;
  const spawner =
    (kind: "training" | "curvature") =>
    (rank: number, address: Address): ReturnType<typeof spawnBun> =>
      spawnBun(main, worker(rank, kind), { address, threads });
  const beside =
    group &&
    runSockets({
      ...group.setup,
      tickMs,
      spawn: spawner("curvature"),
      onProgress(progress) {
        if (progress.k === "progress") count(progress.phase);
      },
    }).catch((error: unknown) => group.fail(error));
  let peaks: readonly number[] = [];
  try {
    const { worker: _given, ...initial } = trainingSetup(plan, shared).initial;
    const result = await runSockets({
      ...trainingSetup(plan, shared, group?.source),
      initial,
      signal: stop.signal,
      tickMs,
      spawn: spawner("training"),
      onProgress(progress, traffic) {
        bytes = traffic.bytesSent + traffic.bytesReceived;
        take(progress);
      },
    });
    peaks = result.workerPeakBytes;
  } catch (error) {
    // A loss that is not finite ends the run at a worker.
    if (!(error instanceof RunError && /is not finite|a finite loss is needed/.test(error.message)))
      throw error;
    ended = "diverged";
  } finally {
    group?.close();
    await beside;
  }
  // What a worker holds does not depend on the rounds, of which a run that time ends has ten million.
  const vectors = vectorsOf(shared);
  const cost = planCost({ ...plan, rounds: 1 }, { matrices: matricesOf(plan, shared), ...vectors });
  const { parameters: _first, basis: _while, ...lasting } = cost.memory[0]!;
  return {
    points,
    reached,
    ended,
    compileSeconds: 0,
    stateBytes: Object.values(lasting).reduce((sum, bytes) => sum + bytes, 0),
    peakBytes: process.resourceUsage().maxRSS * 1024,
    bytesSent: bytes,
    workerPeakBytes: peaks,
  };
}

/** Makes a product with the Hessian for nothing, so that it is compiled before time counts. */
function rehearse(plan: Plan, problem: Distributed<Batch>, rank: number): void {
  if (!plan.curvature) return;
  const { objective } = computations(plan, problem);
  const { initial } = problem;
  hessianOperator(objective, initial, problem.curvatureBatch(rank, 0)).apply(initial).dataSync();
}

/** Serves one rank of a run. */
export async function serveDistributed(
  problem: Problem,
  input: DistributedInput,
  rank: number,
  kind: "training" | "curvature",
): Promise<void> {
  const plan = distributedPlan(problem, input);
  const examples = curvatureExamples(problem, input.settings["batch"] ?? 0);
  const shared = distributedProblem(problem, plan, examples);
  rehearse(plan, shared, rank);
  await serveWorker({
    rank,
    address: addressFromEnvironment(),
    store: memoryStore(),
    deadlineMs: 5000,
    ...(kind === "curvature"
      ? { config: groupConfig(plan), jobs: groupWorkerJobs(plan, shared, rank), initial: {} }
      : {
          config: configOf(plan),
          jobs: workerJobs(plan, shared, rank),
          initial: workerInitial(plan, shared.initial, rank, shared),
        }),
  });
}
