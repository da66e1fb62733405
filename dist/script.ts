/**
 * The script of a training round, derived from the plan: sharded Lanczos when the curvature is due, then the steps in
 * one of the three forms of agreement, then an evaluation when that is due. What the functions compute is in jobs.ts.
 */
import { curvatureDueAt, evaluatesAfter, extrapolatesAfter, orderOf, type Plan } from "./plan.ts";
import type { Loop, Phase, Script } from "./protocol/script.ts";
import type { Config } from "./protocol/types.ts";

/** Whether workers hold the parameters, identical everywhere, or get them from the hub every round. */
function isReplicated(plan: Plan): boolean {
  return plan.sync.k !== "consensus";
}

/** The registers of a worker that outlive a round, by form of agreement. */
const durableOf: Readonly<Record<Plan["sync"]["k"], readonly string[]>> = {
  gradient: ["theta", "optimizer"],
  published: ["theta", "optimizer", "anchor", "push"],
  consensus: ["optimizer", "dual", "local", "used", "sigma"],
};

/**
 * The protocol's configuration for a plan.
 *
 * @example Rounds and workers are the plan's
 * ```ts
 * const plan = ct.dist.makePlan({
 *   version: 1, workers: 2, parameters: 1, rounds: 20, localSteps: 1, seed: 0,
 *   update: { name: "sgd", learningRate: 0.25 }, sync: { k: "gradient" },
 * });
 * assertClose([ct.dist.configOf(plan).workers, ct.dist.configOf(plan).rounds], [2, 20]);
 * ```
 * @since 0.1.0
 */
export function configOf(plan: Plan): Config {
  return {
    workers: plan.workers,
    rounds: plan.rounds,
    script: (round) => roundScript(plan, round),
    durable: {
      hub: ["theta"],
      worker: durableOf[plan.sync.k],
    },
    ...plan.limits,
  };
}

/**
 * What happens in one round.
 *
 * @example The phases of the first round
 * ```ts
 * const plan = ct.dist.makePlan({
 *   version: 1, workers: 2, parameters: 1, rounds: 20, localSteps: 1, seed: 0,
 *   update: { name: "sgd", learningRate: 0.25 }, sync: { k: "gradient" },
 * });
 * assert(ct.dist.roundScript(plan, 0).length > 0);
 * ```
 * @since 0.1.0
 */
export function roundScript(plan: Plan, round: number): Script {
  return [
    ...(curvatureDueAt(plan, round) ? curvaturePhases(plan) : []),
    ...(isReplicated(plan) ? gradientPhases(plan, round) : consensusPhases()),
    ...(evaluatesAfter(plan, round) ? [{ name: "evaluate", hub: { fn: "evaluate", ins: ["theta"] } }] : []),
  ];
}

/**
 * Lanczos with the basis sharded by parameter columns: vectors go round whole, the basis never leaves its worker, and
 * orthogonalization exchanges one coefficient per basis vector and worker, twice.
 */
function curvaturePhases(plan: Plan): Script {
  const open: Phase = {
    name: "open",
    ...(isReplicated(plan) ? {} : { send: ["theta"] }),
    worker: { fn: "open", ins: ["theta"], outs: ["operator", "basis"] },
    hub: { fn: "start", outs: ["v", "tridiagonal"] },
  };
  const iteration: Loop = {
    repeat: orderOf(plan),
    until: 0,
    body: [
      {
        name: "product",
        send: ["v"],
        worker: { fn: "product", ins: ["operator", "basis", "v"], outs: ["product", "basis"] },
        reply: ["product"],
        hub: { fn: "product", ins: ["v", "product@*"], outs: ["alpha", "w@*"] },
      },
      {
        name: "coefficients",
        send: ["w@*"],
        worker: { fn: "coefficients", ins: ["basis", "w"], outs: ["part"] },
        reply: ["part"],
        hub: { fn: "sum", ins: ["part@*"], outs: ["h"] },
      },
      {
        name: "orthogonalize",
        send: ["h"],
        worker: { fn: "orthogonalize", ins: ["basis", "w", "h"], outs: ["w", "part"] },
        reply: ["part"],
        hub: { fn: "sum", ins: ["part@*"], outs: ["h"] },
      },
      {
        name: "next",
        send: ["h"],
        worker: { fn: "subtract", ins: ["basis", "w", "h"], outs: ["rest"] },
        reply: ["rest"],
        hub: { fn: "next", ins: ["tridiagonal", "alpha", "rest@*"], outs: ["tridiagonal", "v"] },
      },
    ],
  };
  return [
    open,
    iteration,
    { name: "ritz", hub: { fn: "ritz", ins: ["tridiagonal"], outs: ["rows", "pairs"] } },
    {
      name: "vectors",
      send: ["rows"],
      worker: { fn: "vectors", ins: ["basis", "rows"], outs: ["columns"] },
      reply: ["columns"],
      hub: { fn: "curvature", ins: ["pairs", "columns@*"], outs: ["curvature"] },
    },
    {
      name: "install",
      send: ["curvature"],
      worker: isReplicated(plan)
        ? { fn: "install", ins: ["optimizer", "curvature"], outs: ["optimizer", "operator", "basis"] }
        : {
            fn: "installDamped",
            ins: ["optimizer", "curvature", "sigma"],
            outs: ["optimizer", "operator", "basis", "sigma"],
          },
    },
  ];
}

/** Steps on the mean gradient: each question carries the last mean and brings back the next gradient. */
function gradientPhases(plan: Plan, round: number): Script {
  const mean = { fn: "mean", ins: ["gradient@*"], outs: ["mean"] };
  const push = plan.sync.k === "published" ? ["push"] : [];
  const first: Phase = {
    name: "gradient",
    worker: { fn: "gradient", ins: ["theta", ...push], outs: ["gradient"] },
    reply: ["gradient"],
    hub: mean,
  };
  const steps: Loop = {
    repeat: plan.localSteps - 1,
    body: [
      {
        name: "step",
        send: ["mean"],
        worker: {
          fn: "step",
          ins: ["theta", "optimizer", "mean", ...push],
          outs: ["theta", "optimizer", "gradient"],
        },
        reply: ["gradient"],
        hub: mean,
      },
    ],
  };
  const last: Phase = {
    name: "last",
    send: ["mean"],
    worker: extrapolatesAfter(plan, round)
      ? {
          fn: "lastExtrapolated",
          ins: ["theta", "optimizer", "mean", "anchor", "push"],
          outs: ["theta", "optimizer", "report", "anchor", "push"],
        }
      : { fn: "last", ins: ["theta", "optimizer", "mean"], outs: ["theta", "optimizer", "report"] },
    reply: ["report"],
    hub: { fn: "takeFirst", ins: ["report@*"], outs: ["theta"] },
  };
  return [first, ...(plan.localSteps > 1 ? [steps] : []), last];
}

/** Local steps from the consensus, then the mean of what the workers propose. */
function consensusPhases(): Script {
  return [
    {
      name: "local",
      send: ["theta"],
      worker: {
        fn: "local",
        ins: ["theta", "optimizer", "dual", "local", "used", "sigma"],
        outs: ["optimizer", "dual", "local", "used", "candidate"],
      },
      reply: ["candidate"],
      hub: { fn: "consensus", ins: ["theta", "candidate@*"], outs: ["theta"] },
    },
  ];
}
