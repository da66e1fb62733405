/**
 * What hub and workers compute: pure functions from register values to register values. The mathematics is that of
 * optim/; sums over workers are taken in rank order.
 */
import { jit } from "../autodiff/jit.ts";
import { hessianOperator, type LinearOperator } from "../autodiff/operator.ts";
import { valueAndGradientOf } from "../autodiff/vjp.ts";
import { zerosLike } from "../core/create.ts";
import { itemsOf } from "../core/devices.ts";
import { add, cast, div, mul, sub } from "../core/ops.ts";
import * as random from "../core/random.ts";
import { adopt, scalar } from "../core/trace.ts";
import type { Value } from "../core/value.ts";
import { adam, adamw } from "../optim/adam.ts";
import { augmentedGradient, consensusCandidate, dualUpdate, extrapolate, meanOf } from "../optim/admm.ts";
import { type Fosi, type FosiState, fosi, installCurvature } from "../optim/fosi.ts";
import {
  coefficients,
  combine,
  dot,
  exhausted,
  extend,
  norm,
  type Ritz,
  ritzPairs,
  scaled,
  startVector,
  subtractProjection,
} from "../optim/lanczos.ts";
import { momentum, nesterov, sgd } from "../optim/momentum.ts";
import type { GradientTransformation } from "../optim/transformation.ts";
import type { Tridiagonal } from "../optim/tridiagonal.ts";
import { columnsOf, orderOf, type Plan, type UpdatePlan } from "./plan.ts";
import type { JobArgs } from "./protocol/types.ts";
import type { Job, JobResult, JobSteps, Jobs, Values } from "./runtime/driver.ts";
import type { RunSetup } from "./runtime/sequential.ts";
import { configOf } from "./script.ts";

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
}

/**
 * A run of a plan on a problem, for every runtime.
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
export function trainingSetup<B>(plan: Plan, problem: Problem<B>): RunSetup {
  return {
    config: configOf(plan),
    jobs: { hub: hubJobs(plan, problem), worker: (rank) => workerJobs(plan, problem, rank) },
    initial: { hub: { theta: problem.initial }, worker: () => workerInitial(plan, problem.initial) },
  };
}

/**
 * The durable registers of a worker before the first round.
 *
 * Shapes: `theta` is `[n]`.
 * @example A replica starts where the hub does
 * ```ts
 * const plan = ct.dist.makePlan({
 *   version: 1, workers: 2, parameters: 1, rounds: 20, localSteps: 1, seed: 0,
 *   update: { name: "sgd", learningRate: 0.25 }, sync: { k: "gradient" },
 * });
 * const registers = ct.dist.workerInitial(plan, ct.tensor([3]));
 * assertClose(registers["theta"] as ct.Value, [3]);
 * ```
 * @since 0.1.0
 */
export function workerInitial(plan: Plan, theta: Value): Values {
  const optimizer = localOptimizer(plan).init(theta);
  switch (plan.sync.k) {
    case "gradient":
      return { theta, optimizer };
    case "published":
      return { theta, optimizer, anchor: theta, push: zerosLike(theta) };
    case "consensus": {
      const sigma = scalar(plan.sync.relative ? 0 : plan.sync.sigma, "float64");
      return { optimizer, dual: zerosLike(theta), local: theta, used: scalar(0, "float64"), sigma };
    }
    default:
      return plan.sync satisfies never;
  }
}

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
  const { optimizer, objective, scoreAndGradient, step: compiledStep } = computations(plan, problem);
  const [start, end] = columnsOf(plan, rank);
  const dtype = problem.initial.dtype;

  const gradientAt = (theta: Value, step: number): { readonly gradient: Value; readonly scores: Value[] } => {
    const [[loss, sums], gradient] = scoreAndGradient(theta, problem.batch(rank, step));
    return { gradient, scores: [loss, ...sums] };
  };
  const stepOf = ({ round, iteration }: JobArgs): number => round * plan.localSteps + iteration;
  /** The gradient plus the dual pi = sigma push of the published form; other plans have no push. */
  const shifted = (gradient: Value, push: unknown): Value =>
    plan.sync.k === "published" ? add(gradient, mul(plan.sync.sigma, value(push))) : gradient;
  // The factor is a tensor: sigma changes with the curvature, and the program stays.
  const advance = (theta: Value, state: unknown, gradient: Value, sigma = 0): readonly [Value, unknown] =>
    compiledStep(theta, state, gradient, sigma > 0 ? scalar(penaltyFactor(plan.update, sigma), dtype) : null);
  /** Only worker 0 reports the replicated parameters; the others send nothing. */
  const report = (theta: Value): Value => (rank === 0 ? theta : adopt(new Float32Array(0), [0], "float32"));

  return {
    // curvature
    open: job(([theta], { round }) => ({
      outs: [hessianOperator(objective, value(theta), problem.curvatureBatch(rank, round)), []],
    })),
    product: job(([operator, basis, v]) => {
      const H = operator as LinearOperator;
      const idle = plan.curvature?.reduce === "rank0" && rank !== 0;
      const product = idle ? adopt(new Float32Array(0), [0], "float32") : H.apply(cast(value(v), H.dtype));
      return { outs: [product, [...rows(basis), doubles(v).slice(start, end)]] };
    }),
    coefficients: job(([basis, w]) => ({ outs: [vector(coefficients(rows(basis), doubles(w)))] })),
    orthogonalize: job(([basis, w, h]) => {
      const rest = subtractProjection(rows(basis), doubles(h), doubles(w));
      return { outs: [vector(rest), vector(coefficients(rows(basis), rest))] };
    }),
    subtract: job(([basis, w, h]) => ({
      outs: [vector(subtractProjection(rows(basis), doubles(h), doubles(w)))],
    })),
    vectors: job(([basis, chosen]) => {
      const [pairs, order] = value(chosen).shape as readonly [number, number];
      const all = doubles(chosen);
      const columns = new Float64Array(pairs * (end - start));
      for (let j = 0; j < pairs; j++)
        columns.set(combine(rows(basis), all.slice(j * order, (j + 1) * order)), j * (end - start));
      return { outs: [cast(adopt(columns, [pairs, end - start], "float64"), dtype)] };
    }),
    install: job(([state, curvature]) => {
      const sigma = plan.sync.k === "published" ? plan.sync.sigma : 0;
      return { outs: [optimizer.install(state, curvature as Curvature, sigma), null, null] };
    }),
    installDamped: job(([state, curvature, sigma]) => {
      const next = nextSigma(plan, curvature as Curvature, value(sigma).item());
      return {
        outs: [optimizer.install(state, curvature as Curvature, next), null, null, scalar(next, "float64")],
      };
    }),

    // replicas that step on the mean gradient
    gradient: job(([theta, push], args) => {
      const { gradient, scores } = gradientAt(value(theta), stepOf(args));
      return { outs: [shifted(gradient, push)], notes: checkFinite(itemsOf(scores), stepOf(args)) };
    }),
    step: job(([theta, state, mean, push], args) => {
      const [next, nextState] = advance(value(theta), state, value(mean));
      const { gradient, scores } = gradientAt(next, stepOf(args) + 1);
      const notes = checkFinite(itemsOf(scores), stepOf(args) + 1);
      return { outs: [next, nextState, shifted(gradient, push)], notes };
    }),
    last: job(([theta, state, mean]) => {
      const [next, nextState] = advance(value(theta), state, value(mean));
      return { outs: [next, nextState, report(next)] };
    }),
    lastExtrapolated: job(([theta, state, mean, anchor, push]) => {
      const [next, nextState] = advance(value(theta), state, value(mean));
      const moved = extrapolate({ theta: next, anchor: value(anchor), push: value(push) });
      return { outs: [moved.theta, nextState, report(moved.theta), moved.theta, moved.push] };
    }),

    // local steps around a consensus
    local: job(function* ([consensus, state, dual, local, used, sigma], { round }) {
      const z = value(consensus);
      // The dual of the last round, with the sigma of that round, now that its mean is known.
      const pi = dualUpdate(value(dual), value(local), z, value(used).item());
      const penalty = value(sigma).item();
      let theta = z;
      let next = state;
      const scored: Value[][] = [];
      for (let i = 0; i < plan.localSteps; i++) {
        const { gradient, scores } = gradientAt(theta, round * plan.localSteps + i);
        scored.push(scores);
        const full =
          penalty > 0
            ? augmentedGradient({ gradient, dual: pi, local: theta, consensus: z, sigma: penalty })
            : gradient;
        [theta, next] = advance(theta, next, full, penalty);
        yield;
      }
      const candidate = penalty > 0 ? consensusCandidate(theta, pi, penalty) : theta;
      // All steps are read at once: a device does not wait for the host between them.
      const items = itemsOf(scored.flat());
      const totals: number[] = [];
      scored.forEach((scores, i) => {
        const notes = checkFinite(items.splice(0, scores.length), round * plan.localSteps + i);
        notes.forEach((x, j) => {
          totals[j] = (totals[j] ?? 0) + x;
        });
      });
      // Means over the local steps for the loss, sums for the rest.
      return {
        outs: [next, pi, theta, sigma, candidate],
        notes: totals.map((x, j) => (j === 0 ? x / plan.localSteps : x)),
      };
    }),
  };
}

/** What workers of a plan compute on a problem, compiled. */
function compile<B>(plan: Plan, problem: Problem<B>) {
  const optimizer = localOptimizer(plan);
  return {
    optimizer,
    objective: jit((theta: Value, batch: B): Value => problem.score(theta, batch).loss),
    scoreAndGradient: jit((theta: Value, batch: B) =>
      valueAndGradientOf((x: Value) => {
        const { loss, sums } = problem.score(x, batch);
        return [loss, sums] as const;
      })(theta),
    ),
    step: jit((theta: Value, state: unknown, gradient: Value, factor: Value | null): [Value, unknown] => {
      const [update, next] = optimizer.step(gradient, state, theta, factor);
      return [add(theta, update), next];
    }),
  };
}

const compiled = new WeakMap<object, WeakMap<Plan, ReturnType<typeof compile>>>();

/** The same for all workers of this process, and for those that take the place of one that died. */
function computations<B>(plan: Plan, problem: Problem<B>): ReturnType<typeof compile<B>> {
  const ofProblem = compiled.get(problem) ?? new WeakMap<Plan, ReturnType<typeof compile>>();
  compiled.set(problem, ofProblem);
  const known = ofProblem.get(plan) ?? (compile(plan, problem) as unknown as ReturnType<typeof compile>);
  ofProblem.set(plan, known);
  return known as unknown as ReturnType<typeof compile<B>>;
}

/** Sigma after a refresh: in units of the largest eigenvalue where the plan says so. */
function nextSigma({ sync }: Plan, curvature: Curvature, sigma: number): number {
  if (sync.k !== "consensus" || !sync.relative) return sigma;
  return sync.sigma * Math.max(...Array.from(curvature.values.dataSync(), Math.abs));
}

function checkFinite(notes: number[], step: number): number[] {
  if (!notes.every(Number.isFinite)) {
    throw new RangeError(
      `Cannot continue at step ${step}: the loss is ${notes[0]}, a finite loss is needed; lower the learning rate`,
    );
  }
  return notes;
}

// --- hub ---------------------------------------------------------------------------------------------------------

/** The computations of the hub. */
function hubJobs<B>(plan: Plan, problem: Problem<B>): Jobs {
  const n = plan.parameters;
  const order = orderOf(plan);
  return {
    start: job((_ins, { round }) => {
      const key = random.foldIn(random.key(plan.seed), round);
      return {
        outs: [vector(startVector({ key }, n)), { diagonal: [], offDiagonal: [] } satisfies Tridiagonal],
      };
    }),
    product: job(([v, ...products]) => {
      const sources = plan.curvature?.reduce === "rank0" ? products.slice(0, 1) : products;
      const w = doubles(meanOf(sources.map((p) => vector(doubles(p)))));
      const shards = products.map((_, rank) => vector(w.slice(...columnsOf(plan, rank))));
      return { outs: [dot(w, doubles(v)), ...shards] };
    }),
    sum: job((parts) => ({ outs: [parts.map(value).reduce((a, b) => add(a, b))] })),
    next: job(([t, alpha, ...shards]) => {
      const w = new Float64Array(n);
      shards.forEach((shard, rank) => {
        w.set(doubles(shard), columnsOf(plan, rank)[0]);
      });
      const beta = norm(w);
      const extended = extend(t as Tridiagonal, alpha as number, beta);
      const ended = exhausted(extended, problem.initial.dtype) || extended.diagonal.length >= order;
      return { outs: [extended, vector(ended ? w : scaled(w, 1 / beta))], notes: [Number(ended)] };
    }),
    ritz: job(([t]) => {
      const ritz = ritzPairs(t as Tridiagonal, plan.curvature!.k, plan.curvature!.l);
      const steps = (t as Tridiagonal).diagonal.length;
      const chosen = new Float64Array(ritz.rows.length * steps);
      ritz.rows.forEach((row, j) => {
        chosen.set(row, j * steps);
      });
      return { outs: [adopt(chosen, [ritz.rows.length, steps], "float64"), ritz] };
    }),
    curvature: job(([pairs, ...columns]) => {
      const { values, residuals, largest } = pairs as Ritz;
      const vectors = joinColumns(plan, columns.map(value), values.length);
      const curvature: Curvature = {
        values: vector(Float64Array.from(values)),
        vectors,
        largest: scalar(largest, "int32"),
      };
      return { outs: [curvature], notes: [...values, ...residuals] };
    }),
    mean: job((gradients) => ({ outs: [meanOf(gradients.map(value))] })),
    takeFirst: job(([first], { round }) => {
      checkParameters(value(first), round);
      return { outs: [first] };
    }),
    consensus: job(([z, ...candidates], { round }) => {
      const next = meanOf(candidates.map(value));
      checkParameters(next, round);
      // Dual residual without sigma: how far the consensus moved.
      return { outs: [next], notes: [lengthOf(sub(next, value(z)))] };
    }),
    evaluate: job(([theta]) => ({ outs: [], notes: problem.evaluate?.(value(theta)) ?? [] })),
  };
}

/** Throws for parameters that are not finite, before they are saved. */
function checkParameters(theta: Value, round: number): void {
  if (Number.isFinite(lengthOf(theta))) return;
  throw new RangeError(
    `Cannot continue after round ${round}: a parameter is not finite, finite ones are needed; lower the learning rate (lr), or alpha of a method with curvature`,
  );
}

/** The Euclidean norm of a vector. */
function lengthOf(x: Value): number {
  return norm(doubles(x));
}

/** The workers' columns side by side: [pairs, n]. */
function joinColumns(plan: Plan, columns: readonly Value[], pairs: number): Value {
  const first = columns[0]!;
  const data =
    first.dtype === "float64"
      ? new Float64Array(pairs * plan.parameters)
      : new Float32Array(pairs * plan.parameters);
  columns.forEach((block, rank) => {
    const [start, end] = columnsOf(plan, rank);
    const elements = block.dataSync();
    for (let j = 0; j < pairs; j++)
      data.set(elements.subarray(j * (end - start), (j + 1) * (end - start)), j * plan.parameters + start);
  });
  return adopt(data, [pairs, plan.parameters], first.dtype);
}

// --- the local method --------------------------------------------------------------------------------------------

/** A spectrum as it travels. */
interface Curvature {
  readonly values: Value;
  readonly vectors: Value;
  /** How many of the pairs are of the largest eigenvalues; i32[]. */
  readonly largest: Value;
}

/** The method of a plan on flat vectors, with or without curvature. */
interface LocalOptimizer {
  init(theta: Value): unknown;
  /** Where the gradient has an ADMM penalty, steps are shorter by the factor. */
  step(
    gradient: Value,
    state: unknown,
    theta: Value,
    factor: Value | null,
  ): readonly [update: Value, state: unknown];
  /** The state with new curvature; sigma I is the Hessian of the ADMM penalty. */
  install(state: unknown, curvature: Curvature, sigma: number): unknown;
}

function localOptimizer(plan: Plan): LocalOptimizer {
  const base = baseOf(plan.update);
  if (!plan.curvature) {
    return {
      init: (theta) => base.init(theta),
      step(gradient, state, theta, factor) {
        const [update, next] = base.update(gradient, state, theta, {});
        return [factor ? div(update, factor) : update, next];
      },
      install: (state) => state,
    };
  }
  const { k, l, alpha, beta, momentum: form, clip, damping } = plan.curvature;
  const method: Fosi<unknown> = fosi(base, {
    k,
    l,
    alpha,
    beta,
    momentum: form,
    clip,
    damping,
    seed: plan.seed,
  });
  return {
    init: (theta) => method.init(theta),
    step(gradient, state, theta, factor) {
      const own = state as FosiState<unknown>;
      const shortened = factor ? div(own.scale, factor) : own.scale;
      const [update, next] = method.step(gradient, { ...own, scale: shortened }, theta);
      return [update, { ...next, scale: own.scale }];
    },
    install(state, curvature, sigma) {
      const spectrum = {
        values: curvature.values,
        vectors: curvature.vectors,
        largest: curvature.largest.item(),
      };
      const settings = { k, l, clip, damping: damping + sigma };
      return installCurvature(state as FosiState<unknown>, spectrum, settings);
    },
  };
}

/** A gradient method with step eta takes eta / (1 + sigma eta) on the augmented problem; Adam sets its own scale. */
function penaltyFactor(update: UpdatePlan, sigma: number): number {
  const hasOwnScale = update.name === "adam" || update.name === "adamw";
  return hasOwnScale ? 1 : 1 + sigma * update.learningRate;
}

/** The transformation that an update plan names, its state type forgotten. */
export function baseOf(update: UpdatePlan): GradientTransformation<unknown> {
  switch (update.name) {
    case "sgd":
      return forgetState(sgd(update.learningRate));
    case "momentum":
      return forgetState(momentum(update.learningRate, update.beta));
    case "nesterov":
      return forgetState(nesterov(update.learningRate, update.beta));
    case "adam":
      return forgetState(adam(update.learningRate, update));
    case "adamw":
      return forgetState(adamw(update.learningRate, update));
    default:
      return update satisfies never;
  }
}

/** States travel through registers, where only the method that made one reads it. */
function forgetState<S>(method: GradientTransformation<S>): GradientTransformation<unknown> {
  return {
    ...method,
    update: (updates, state, params, extra) => method.update(updates, state as S, params, extra),
  };
}

// --- register values ---------------------------------------------------------------------------------------------

/** A synchronous job, whole or in pieces. */
function job(f: (ins: readonly unknown[], args: JobArgs) => JobResult | JobSteps): Job {
  return f;
}

const value = (register: unknown): Value => register as Value;
const rows = (register: unknown): readonly Float64Array[] => register as readonly Float64Array[];
/** The elements in float64, on the host. */
const doubles = (register: unknown): Float64Array<ArrayBuffer> =>
  new Float64Array(value(register).dataSync());
const vector = (data: Float64Array): Value => adopt(data, [data.length], "float64");
