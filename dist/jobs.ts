/**
 * What hub and workers compute: pure functions from register values to register values. The mathematics is that of
 * optim/; sums over workers are taken in rank order. The parts are in jobs/.
 */
import { zerosLike } from "../core/create.ts";
import { slice } from "../core/ops.ts";
import { scalar } from "../core/trace.ts";
import type { Value } from "../core/value.ts";
import { communicatingOf } from "./compress/plan.ts";
import { columnJobs } from "./jobs/columns.ts";
import { communicatingHubJobs, communicatingInitial, communicatingJobs } from "./jobs/communicating.ts";
import { computations } from "./jobs/compute.ts";
import { consensusJobs } from "./jobs/consensus.ts";
import { searchHubJobs, searchOf, searchWorkerJobs } from "./jobs/curvature.ts";
import { hubTrainingJobs } from "./jobs/hub.ts";
import { localOptimizer } from "./jobs/method.ts";
import { preconditionedHubJobs, preconditionedJobs, preconditionerOf } from "./jobs/preconditioned.ts";
import { replicaJobs } from "./jobs/replicas.ts";
import { columnsOf, layoutOf, type Plan, vectorRowsOf } from "./plan.ts";
import { preconditionedOf } from "./preconditioned.ts";
import type { Jobs, Values } from "./runtime/driver.ts";
import type { RunSetup } from "./runtime/sequential.ts";
import { configOf } from "./script.ts";
import { type CurvatureSource, directSource, splitHubJobs, splitInitial } from "./split.ts";

export { baseOf } from "./jobs/method.ts";
export { matricesOf } from "./jobs/preconditioned.ts";

/**
 * Loss and metric sums over a batch.
 *
 * @since 0.1.0
 */
export interface Scored {
  /** Mean loss over the batch; a float scalar. */
  readonly loss: Value;
  /** Sums over the batch to report, for example how many were right; float scalars. */
  readonly sums: readonly Value[];
}

/**
 * What is trained, on flat parameter vectors. Every function must give the same bits for the same arguments; `score` is
 * compiled for each kind of batch: its tensors are arguments of the program, anything else in it is part of the kind.
 * Workers compute where the tensors of their batches are; what they send and save comes back to the host.
 *
 * @since 0.1.0
 */
export interface Problem<B = unknown> {
  /** The parameters before the first step; [n]. */
  readonly initial: Value;
  score(theta: Value, batch: B): Scored;
  /** The batch of one worker at one step, counted over the whole run. */
  batch(rank: number, step: number): B;
  /** The batch on which a worker measures curvature in a round. */
  curvatureBatch(rank: number, round: number): B;
  /** Numbers to report about the parameters, computed at the hub. */
  evaluate?(theta: Value): readonly number[];
  /** The parameters as the model's tree; methods that see leaves by their shapes need it. */
  unravel?(theta: Value): unknown;
  /** The loss of `score` as a function of that tree. Not compiled: K-FAC sees the layers while it runs. */
  loss?(params: unknown, batch: B): Value;
}

/**
 * A run of a plan on a problem, for every runtime. Curvature of other workers comes from `source`; by default it is computed
 * here when it is adopted.
 *
 * Shapes: parameters are one vector `[n]`.
 * @example Two workers with minima at 0 and 2 meet at 1
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
 * const { hub } = await ct.dist.runLocal(ct.dist.trainingSetup(plan, problem));
 * assertClose(hub["theta"] as ct.Value, [1], 1e-5);
 * ```
 * @since 0.1.0
 */
export function trainingSetup<B>(
  plan: Plan,
  problem: Problem<B>,
  source: CurvatureSource | null = plan.curvature?.split ? directSource(plan, problem) : null,
): RunSetup {
  return {
    config: configOf(plan),
    jobs: {
      hub: { ...hubJobs(plan, problem), ...(source && splitHubJobs(plan, problem, source)) },
      worker: (rank) => workerJobs(plan, problem, rank),
    },
    initial: {
      hub: { theta: problem.initial, ...(source && splitInitial) },
      worker: (rank) => workerInitial(plan, problem.initial, rank, problem),
    },
  };
}

/**
 * The durable registers of a worker before the first round.
 *
 * Shapes: `theta` is `[n]`.
 * @param problem what is trained; needed for methods that see leaves by their shapes
 * @throws {TypeError} if such a method lacks it
 * @example A replica starts where the hub does
 * ```ts
 * const plan = ct.dist.makePlan({
 *   version: 1, workers: 2, parameters: 1, rounds: 20, localSteps: 1, seed: 0,
 *   update: { name: "sgd", learningRate: 0.25 }, sync: { k: "gradient" },
 * });
 * const registers = ct.dist.workerInitial(plan, ct.tensor([3]), 1);
 * assertClose(registers["theta"] as ct.Value, [3]);
 * ```
 * @since 0.1.0
 */
export function workerInitial<B>(plan: Plan, theta: Value, rank: number, problem?: Problem<B>): Values {
  if (preconditionedOf(plan)) {
    if (problem) return { theta, optimizer: preconditionerOf(plan, problem)!.init(rank) };
    throw new TypeError(
      `Cannot start a worker of ${plan.update.name}: its problem is not given, one that has the shapes of the parameters is needed`,
    );
  }
  const communicating = communicatingInitial(plan, theta, problem);
  if (communicating) return communicating;
  const method = localOptimizer(plan);
  if (plan.sync.k === "consensus") {
    const sigma = scalar(plan.sync.relative ? 0 : plan.sync.sigma, "float64");
    const optimizer = method.init(theta);
    return { optimizer, dual: zerosLike(theta), local: theta, used: scalar(0, "float64"), sigma };
  }
  const layout = layoutOf(plan);
  const own = layout === "columns" ? slice(theta, ...edges(columnsOf(plan, rank))) : theta;
  const [from, to] = vectorRowsOf(plan, rank);
  return {
    ...(layout !== "columns" && { theta }),
    optimizer: layout === "rows" ? method.init(own, to - from) : method.init(own),
    ...(plan.sync.k !== "gradient" && { anchor: own, push: zerosLike(own) }),
  };
}

const edges = ([start, end]: readonly [number, number]): [number[], number[]] => [[start], [end]];

// --- worker ------------------------------------------------------------------------------------------------------

/**
 * The computations of one worker.
 *
 * Shapes: parameters are one vector `[n]`.
 * @example What a worker process serves
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
 * assert("gradient" in ct.dist.workerJobs(plan, problem, 0));
 * ```
 * @since 0.1.0
 */
export function workerJobs<B>(plan: Plan, problem: Problem<B>, rank: number): Jobs {
  const search = searchOf(plan, problem.initial.dtype);
  const batch = (round: number): B => problem.curvatureBatch(rank, round);
  const objective = (theta: Value, of: B): Value => computations(plan, problem).objective(theta, of);
  return {
    ...(search && searchWorkerJobs(search, { objective, batch }, rank)),
    ...trainingJobs(plan, problem, rank),
  };
}

function trainingJobs<B>(plan: Plan, problem: Problem<B>, rank: number): Jobs {
  if (plan.sync.k === "consensus") return consensusJobs(plan, problem, rank);
  if (preconditionedOf(plan)) return preconditionedJobs(plan, problem, rank);
  if (communicatingOf(plan)) return communicatingJobs(plan, problem, rank);
  return layoutOf(plan) === "columns" ? columnJobs(plan, problem, rank) : replicaJobs(plan, problem, rank);
}

/** The computations of the hub. */
function hubJobs<B>(plan: Plan, problem: Problem<B>): Jobs {
  const search = searchOf(plan, problem.initial.dtype);
  return {
    ...(search && searchHubJobs(search)),
    ...hubTrainingJobs(plan, problem),
    ...preconditionedHubJobs(plan, problem),
    ...communicatingHubJobs(plan, problem),
  };
}
