/**
 * The script of a training round, derived from the plan: sharded Lanczos when the curvature is due, then the steps in
 * the form of agreement and the layout of the plan, then an evaluation when that is due. What the functions compute is in jobs.ts.
 */
import { communicatingOf, flushAfter } from "./compress/plan.ts";
import {
  backgroundSlot,
  communicatingPhases,
  communicatingRegisters,
  flushPhases,
  viewPhase,
} from "./compress/script.ts";
import {
  adoptsAt,
  curvatureDueAt,
  evaluatesAfter,
  extrapolatesAfter,
  layoutOf,
  orderOf,
  type Plan,
} from "./plan.ts";
import { preconditionedOf } from "./preconditioned.ts";
import { preconditionedPhases } from "./preconditioned_script.ts";
import type { Loop, Phase, Script, Work } from "./protocol/script.ts";
import type { Config } from "./protocol/types.ts";

/** The registers of a worker that outlive a round. */
function durableOf(plan: Plan): readonly string[] {
  const method = communicatingOf(plan);
  if (method) return communicatingRegisters(method);
  if (plan.sync.k === "consensus") return ["optimizer", "dual", "local", "used", "sigma"];
  const own = layoutOf(plan) === "columns" ? ["optimizer"] : ["theta", "optimizer"];
  return plan.sync.k === "gradient" ? own : [...own, "anchor", "push"];
}

/** Whether workers hold the parameters, identical everywhere, or get them from the hub. */
function isReplicated(plan: Plan): boolean {
  return plan.sync.k !== "consensus" && layoutOf(plan) !== "columns";
}

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
      hub: plan.curvature?.split ? ["theta", "pending", "adopted"] : ["theta"],
      worker: durableOf(plan),
    },
    ...(communicatingOf(plan)?.background && { background: backgroundSlot }),
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
    ...curvaturePhases(plan, round),
    ...trainingPhases(plan, round),
    ...(evaluatesAfter(plan, round) ? [{ name: "evaluate", hub: { fn: "evaluate", ins: ["theta"] } }] : []),
  ];
}

/** Curvature when it is due: by the workers that train, or from others. */
function curvaturePhases(plan: Plan, round: number): Script {
  const isDue = curvatureDueAt(plan, round);
  const split = plan.curvature?.split;
  if (!split) return isDue ? [...searchPhases(plan), ...adoptionPhases(plan)] : [];
  const snapshot: Phase = { name: "snapshot", hub: { fn: "snapshot", ins: ["theta"], outs: ["pending"] } };
  const asked = isDue ? [snapshot] : [];
  const adopted = adoptsAt(plan, round) ? splitAdoptionPhases(plan) : [];
  // What was measured in this round is adopted in it only if there is no delay.
  return split.delay === 0 ? [...asked, ...adopted] : [...adopted, ...asked];
}

/** From curvature at the hub to the workers, each its part where the layout cuts it. */
function splitAdoptionPhases(plan: Plan): Script {
  const share = { replicated: "curvature", rows: "space@*", columns: "curvature@*" }[layoutOf(plan)];
  return [
    {
      name: "collect",
      hub: { fn: "collect", ins: ["pending", "adopted"], outs: ["adopted", share] },
    },
    {
      name: "install",
      send: [share],
      worker: installWork(plan),
    },
  ];
}

/** How a worker takes curvature, or its part of it, into its state. */
function installWork(plan: Plan): Work {
  const released = ["optimizer", "operator", "basis"];
  if (plan.sync.k === "consensus")
    return { fn: "installDamped", ins: ["optimizer", "curvature", "sigma"], outs: [...released, "sigma"] };
  return layoutOf(plan) === "rows"
    ? { fn: "installRows", ins: ["optimizer", "space"], outs: released }
    : { fn: "install", ins: ["optimizer", "curvature"], outs: released };
}

/**
 * Lanczos with the basis sharded by parameter columns, in two questions a step: the candidate goes out whole and comes back as
 * one coefficient per basis vector and worker; the sums of these go out, and products and the columns of the new row come back.
 */
export function searchPhases(plan: Plan): readonly [Phase, ...(Phase | Loop)[]] {
  const open: Phase = {
    name: "open",
    ...(isReplicated(plan) ? {} : { send: ["theta"] }),
    worker: { fn: "open", ins: ["theta"], outs: ["operator", "basis"] },
    hub: { fn: "start", outs: ["v", "recurrence"] },
  };
  const iteration: Loop = {
    repeat: orderOf(plan),
    until: 0,
    body: [
      {
        name: "coefficients",
        send: ["v"],
        worker: { fn: "coefficients", ins: ["basis", "v"], outs: ["part"] },
        reply: ["part"],
        hub: { fn: "place", ins: ["recurrence", "part@*"], outs: ["recurrence", "numbers"] },
      },
      {
        name: "product",
        send: ["numbers"],
        worker: {
          fn: "product",
          ins: ["operator", "basis", "v", "numbers"],
          outs: ["product", "basis", "row"],
        },
        reply: ["product", "row"],
        hub: { fn: "product", ins: ["recurrence", "product@*", "row@*"], outs: ["recurrence", "v"] },
      },
    ],
  };
  return [
    open,
    iteration,
    { name: "ritz", hub: { fn: "ritz", ins: ["recurrence"], outs: ["rows", "pairs"] } },
  ];
}

/** The eigenvectors of the Hessian from those of T, whole at the hub. */
export const vectorsPhase: Phase = {
  name: "vectors",
  send: ["rows"],
  worker: { fn: "vectors", ins: ["basis", "rows"], outs: ["columns"] },
  reply: ["columns"],
  hub: { fn: "curvature", ins: ["pairs", "columns@*"], outs: ["curvature"] },
};

/** From the eigenvectors of T to those of the Hessian, where the layout wants them. */
function adoptionPhases(plan: Plan): Script {
  const layout = layoutOf(plan);
  const install = installWork(plan);
  switch (layout) {
    case "replicated":
      return [vectorsPhase, { name: "install", send: ["curvature"], worker: install }];
    case "rows":
      return [
        { ...vectorsPhase, hub: { fn: "cutRows", ins: ["pairs", "columns@*"], outs: ["space@*"] } },
        { name: "install", send: ["space@*"], worker: install },
      ];
    case "columns":
      // Each worker makes its columns of the eigenvectors from those of the basis, and nobody else sees them.
      return [
        {
          name: "vectors",
          send: ["rows", "pairs"],
          worker: { fn: "installColumns", ins: ["optimizer", "basis", "rows", "pairs"], outs: install.outs! },
          hub: { fn: "reportPairs", ins: ["pairs"] },
        },
      ];
    default:
      return layout satisfies never;
  }
}

function trainingPhases(plan: Plan, round: number): Script {
  if (plan.sync.k === "consensus") return consensusPhases();
  const communicating = communicatingOf(plan);
  if (communicating) {
    const first = round * plan.localSteps + 1;
    const last = first + plan.localSteps - 1;
    const flushed = flushAfter(plan);
    return [
      ...communicatingPhases(communicating, first, last, flushed),
      ...(last === flushed ? flushPhases(communicating) : []),
      ...(evaluatesAfter(plan, round) ? [viewPhase] : []),
    ];
  }
  const method = preconditionedOf(plan);
  if (method) return preconditionedPhases(method, plan, round);
  return layoutOf(plan) === "columns" ? columnPhases(plan, round) : replicaPhases(plan, round);
}

/** What the workers send and read to move the parameters: the mean gradient, or the second sum where V is cut. */
function moveOf(plan: Plan): { readonly sum: "mean" | "correction"; readonly ins: readonly string[] } {
  const isCut = plan.curvature !== null && layoutOf(plan) !== "replicated";
  return isCut
    ? { sum: "correction", ins: ["theta", "optimizer", "correction", "raw"] }
    : { sum: "mean", ins: ["theta", "optimizer", "mean"] };
}

/** The registers of the published form that its gradients need. */
function pushOf({ sync }: Plan): readonly string[] {
  return sync.k === "published" ? ["push"] : [];
}

/** The two sums of an update whose V is cut: see jobs/cut.ts. */
function sumPhases(mean: string, inside: Work): readonly Phase[] {
  return [
    {
      name: "inside",
      send: [mean],
      worker: inside,
      reply: ["inside"],
      hub: { fn: "sum", ins: ["inside@*"], outs: ["inside"] },
    },
    {
      name: "direction",
      send: ["inside"],
      worker: {
        fn: "direction",
        ins: ["theta", "optimizer", "mean", "inside"],
        outs: ["optimizer", "raw", "correction"],
      },
      reply: ["correction"],
      hub: { fn: "sum", ins: ["correction@*"], outs: ["correction"] },
    },
  ];
}

/** Steps of replicas on the mean gradient: each question carries the last sum and brings back the next gradient. */
function replicaPhases(plan: Plan, round: number): Script {
  const mean = { fn: "mean", ins: ["gradient@*"], outs: ["mean"] };
  const push = pushOf(plan);
  const move = moveOf(plan);
  const sums =
    move.sum === "mean"
      ? []
      : sumPhases("mean", { fn: "inside", ins: ["optimizer", "mean"], outs: ["inside"] });
  const first: Phase = {
    name: "gradient",
    worker: { fn: "gradient", ins: ["theta", ...push], outs: ["gradient"] },
    reply: ["gradient"],
    hub: mean,
  };
  const step: Phase = {
    name: "step",
    send: [move.sum],
    worker: { fn: "step", ins: [...move.ins, ...push], outs: ["theta", "optimizer", "gradient"] },
    reply: ["gradient"],
    hub: mean,
  };
  const last: Phase = {
    name: "last",
    send: [move.sum],
    worker: extrapolatesAfter(plan, round)
      ? {
          fn: "lastExtrapolated",
          ins: [...move.ins, "push", "anchor"],
          outs: ["theta", "optimizer", "report", "push", "anchor"],
        }
      : { fn: "last", ins: move.ins, outs: ["theta", "optimizer", "report"] },
    reply: ["report"],
    hub: { fn: "takeFirst", ins: ["report@*"], outs: ["theta"] },
  };
  return [first, ...repeated(plan.localSteps - 1, [...sums, step]), ...sums, last];
}

/**
 * Steps of workers that have their columns of all state: the parameters go out whole, mean gradients come back to them by
 * columns, and so do the moved parameters to the hub.
 */
function columnPhases(plan: Plan, round: number): Script {
  const push = pushOf(plan);
  const move = moveOf(plan);
  const sums =
    move.sum === "mean"
      ? []
      : sumPhases("mean@*", {
          fn: "inside",
          ins: ["optimizer", "mean", ...push],
          outs: ["mean", "inside"],
        });
  const gradient: Phase = {
    name: "gradient",
    send: ["theta"],
    worker: { fn: "gradient", ins: ["theta"], outs: ["gradient"] },
    reply: ["gradient"],
    hub: { fn: "meanColumns", ins: ["gradient@*"], outs: ["mean@*"] },
  };
  const next: Phase = { ...gradient, name: "step", worker: { ...gradient.worker!, fn: "nextGradient" } };
  const moved: Phase = {
    name: "move",
    send: [move.sum === "mean" ? "mean@*" : "correction"],
    worker: {
      fn: "move",
      ins: [...move.ins, ...(move.sum === "mean" ? push : [])],
      outs: ["own", "optimizer"],
    },
    reply: ["own"],
    hub: { fn: "join", ins: ["own@*"], outs: ["theta"] },
  };
  const last: Phase = {
    ...moved,
    name: "last",
    ...(extrapolatesAfter(plan, round) && {
      worker: {
        fn: "moveExtrapolated",
        ins: [...move.ins, "push", "anchor"],
        outs: ["own", "optimizer", "push", "anchor"],
      },
    }),
  };
  return [gradient, ...repeated(plan.localSteps - 1, [...sums, moved, next]), ...sums, last];
}

function repeated(repeat: number, body: readonly Phase[]): Script {
  return repeat > 0 ? [{ repeat, body }] : [];
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
