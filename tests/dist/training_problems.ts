/** Small training problems in float64, and readings of what a run leaves behind. */
import { jit } from "../../autodiff/jit.ts";
import { hessianOperator } from "../../autodiff/operator.ts";
import { gradientOf } from "../../autodiff/vjp.ts";
import { add, div, matmul, mean, mul, softplus, sub, sum } from "../../core/ops.ts";
import * as random from "../../core/random.ts";
import type { Value } from "../../core/value.ts";
import { baseOf, type Problem } from "../../dist/jobs.ts";
import { curvatureDueAt, makePlan, type Plan, type PlanInput } from "../../dist/plan.ts";
import type { RunValues } from "../../dist/runtime/sequential.ts";
import { type FosiState, fosi } from "../../optim/fosi.ts";
import { applyUpdates } from "../../optim/transformation.ts";
import { f64, list, mulberry32, normals, type Vector } from "../optim/numbers.ts";

/** A plan with the fields that most tests do not care about. */
export function planOf(
  input: Omit<PlanInput, "version" | "seed" | "rounds" | "localSteps"> & Partial<PlanInput>,
): Plan {
  return makePlan({ version: 1, seed: 1, rounds: 1, localSteps: 1, ...input } as PlanInput);
}

/** Worker i has ½ Σ_j h_ij (x_j - c_ij)². */
export function quadraticProblem(
  curvatures: readonly Vector[],
  centers: readonly Vector[],
  initial: Vector,
): Problem<number> {
  const h = curvatures.map((row) => f64(row.map((x) => x / 2)));
  const c = centers.map((row) => f64(row));
  return {
    initial: f64(initial),
    score(theta, rank) {
      const away = sub(theta, c[rank]!);
      return { loss: sum(mul(h[rank]!, mul(away, away))), sums: [] };
    },
    batch: (rank) => rank,
    curvatureBatch: (rank) => rank,
  };
}

/** The minimizer of the mean of the workers' quadratics. */
export function quadraticMinimizer(curvatures: readonly Vector[], centers: readonly Vector[]): number[] {
  return curvatures[0]!.map((_, j) => {
    const weight = curvatures.reduce((s, h) => s + h[j]!, 0);
    return curvatures.reduce((s, h, i) => s + h[j]! * centers[i]![j]!, 0) / weight;
  });
}

/** Rows of features and labels. */
export interface Rows {
  readonly X: Value;
  readonly y: Value;
}

/** Mean logistic loss plus ½ · 0.01 |w|². */
export function logisticScore(theta: Value, { X, y }: Rows): Value {
  const z = matmul(X, theta);
  return mean(sub(softplus(z), mul(y, z))).add(mul(0.005, sum(mul(theta, theta))));
}

/** A pool of random rows; `rows` of them, from any start, wrapping around. */
export function logisticPool(n: number, size: number, seed: number): (start: number, rows: number) => Rows {
  const uniform = mulberry32(seed);
  const features = Array.from({ length: size }, () => normals(uniform, n).map((x, j) => x / (1 + 0.3 * j)));
  const labels = features.map((x) => Number(x[0]! - x[1]! + 0.5 * x[2]! + 0.4 * (uniform() - 0.5) > 0));
  return (start, rows) => {
    const chosen = Array.from({ length: rows }, (_, i) => (start + i) % size);
    return {
      X: f64(
        chosen.flatMap((i) => features[i]!),
        [rows, n],
      ),
      y: f64(chosen.map((i) => labels[i]!)),
    };
  };
}

/** Every step uses `workers · rows` rows of the pool, each worker the next `rows` of them. */
export function logisticProblem(n: number, workers: number, rows: number, seed = 5): Problem<Rows> {
  const pool = logisticPool(n, 8 * workers * rows, seed);
  return {
    initial: f64(Array.from({ length: n }, (_, j) => 0.1 * Math.cos(j))),
    score: (theta, batch) => ({ loss: logisticScore(theta, batch), sums: [sum(batch.y)] }),
    batch: (rank, step) => pool((step * workers + rank) * rows, rows),
    curvatureBatch: (rank, round) => pool((round * workers + rank) * rows, rows),
    evaluate: (theta) => [sum(mul(theta, theta)).item()],
  };
}

/** The same problem with each batch made once: it comes again after 8 steps. */
export function withKeptBatches(problem: Problem<Rows>): Problem<Rows> {
  const kept = new Map<string, Rows>();
  return {
    ...problem,
    batch(rank, step) {
      const name = `${rank} ${step % 8}`;
      const rows = kept.get(name) ?? problem.batch(rank, step % 8);
      kept.set(name, rows);
      return rows;
    },
  };
}

/** A plan's training in one place: FOSI on the union of the workers' batches, curvature from the union too. */
export function singleDevice<B>(run: Plan, problem: Problem<B>): FosiState<unknown> & { theta: Value } {
  const meanOver =
    (batches: readonly B[]) =>
    (theta: Value): Value =>
      div(batches.map((batch) => problem.score(theta, batch).loss).reduce(add), batches.length);
  const ranks = Array.from({ length: run.workers }, (_, rank) => rank);
  const { k, l, order, alpha, beta, momentum, clip, damping, trust } = run.curvature!;
  const method = fosi(baseOf(run.update), {
    k,
    l,
    alpha,
    beta,
    momentum,
    clip,
    damping,
    trust: trust ?? Number.POSITIVE_INFINITY,
    ...(order && { order }),
  });
  const step = jit((theta: Value, state: FosiState<unknown>, batches: readonly B[]) => {
    const [updates, next] = method.step(gradientOf(meanOver(batches))(theta), state, theta);
    return [applyUpdates(theta, updates), next] as const;
  });
  let theta = problem.initial;
  let state: FosiState<unknown> = method.init(theta);
  for (let round = 0; round < run.rounds; round++) {
    if (curvatureDueAt(run, round)) {
      const loss = meanOver(ranks.map((rank) => problem.curvatureBatch(rank, round)));
      const key = random.foldIn(random.key(run.seed), round);
      state = method.refreshCurvature(state, hessianOperator(loss, theta), key);
    }
    for (let i = 0; i < run.localSteps; i++) {
      const batches = ranks.map((rank) => problem.batch(rank, round * run.localSteps + i));
      [theta, state] = step(theta, state, batches);
    }
  }
  return { ...state, theta };
}

/** The durable parameters of a run. */
export function thetaOf(values: RunValues): number[] {
  return list(values.hub["theta"] as Value);
}

/** The optimizer state of a worker of a plan with curvature. */
export function fosiStateOf(values: RunValues, rank: number): FosiState<unknown> {
  return values.workers[rank]!["optimizer"] as FosiState<unknown>;
}
