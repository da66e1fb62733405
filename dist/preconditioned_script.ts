/**
 * The steps of a round of a method that preconditions by matrices. Workers are replicas: they move on the mean gradient,
 * and only the decompositions, or the preconditioning itself, are divided among them.
 */
import type { Plan } from "./plan.ts";
import { factorsDueAt, ownsLayers, type PreconditionedMethod, rootsDueAt } from "./preconditioned.ts";
import type { Loop, Phase, Work } from "./protocol/script.ts";

/** What a worker makes of its batch for a step, and the hub of the answers. */
interface Sample {
  readonly reply: readonly string[];
  readonly hub: Work;
}

function sampleOf(method: PreconditionedMethod, step: number): Sample {
  const owned = ownsLayers(method);
  const isInformed = factorsDueAt(method, step);
  const outs = owned ? ["mean", "mean@*"] : ["mean"];
  const meanFactors = owned ? "meanFactors@*" : "meanFactors";
  return isInformed
    ? {
        reply: ["gradient", "factors"],
        hub: { fn: "informedMean", ins: ["gradient@*", "factors@*"], outs: [...outs, meanFactors] },
      }
    : { reply: ["gradient"], hub: { fn: "mean", ins: ["gradient@*"], outs } };
}

/** What follows a mean gradient until the workers can move, and what they move on. */
interface Move {
  readonly before: readonly Phase[];
  readonly send: readonly string[];
  /** `step`, or `last` of a round, on these. */
  readonly prefix: string;
  readonly ins: readonly string[];
}

function moveOf(method: PreconditionedMethod, step: number): Move {
  const isInformed = factorsDueAt(method, step);
  const isRefreshed = rootsDueAt(method, step);
  const factors = isInformed ? ["meanFactors"] : [];
  if (ownsLayers(method)) {
    const direction: Phase = {
      name: "direction",
      send: ["mean@*", ...(isInformed ? ["meanFactors@*"] : [])],
      worker: {
        fn: isRefreshed ? "refreshedDirection" : "direction",
        ins: ["optimizer", "mean", ...factors],
        outs: ["optimizer", "direction"],
      },
      reply: ["direction"],
      hub: { fn: "joinDirections", ins: ["mean", "direction@*"], outs: ["natural", "changes"] },
    };
    return {
      before: [direction],
      send: ["natural", "changes"],
      prefix: "natural",
      ins: ["natural", "changes"],
    };
  }
  if (!isRefreshed) return { before: [], send: ["mean", ...factors], prefix: "", ins: ["mean", ...factors] };
  const roots: Phase = {
    name: "roots",
    send: ["mean", ...factors],
    worker: { fn: "roots", ins: ["optimizer", "mean", ...factors], outs: ["optimizer", "root"] },
    reply: ["root"],
    hub: { fn: "joinRoots", ins: ["root@*"], outs: ["roots"] },
  };
  return { before: [roots], send: ["roots"], prefix: "refreshed", ins: ["mean", "roots"] };
}

/** `refreshedStep` of `refreshed` and `step`. */
function named(prefix: string, name: string): string {
  return prefix === "" ? name : `${prefix}${name[0]!.toUpperCase()}${name.slice(1)}`;
}

/** The phases of a round: a gradient, then moves that bring back the next gradient, then the last move. */
export function preconditionedPhases(
  method: PreconditionedMethod,
  { localSteps }: Plan,
  round: number,
): readonly (Phase | Loop)[] {
  const start = round * localSteps;
  const first: Phase = {
    name: "gradient",
    worker: { fn: "gradient", ins: ["theta", "optimizer"], outs: ["gradient", "factors"] },
    ...sampleOf(method, start),
  };
  const bodies: (readonly Phase[])[] = [];
  for (let step = start; step < start + localSteps - 1; step++) {
    const { before, send, prefix, ins } = moveOf(method, step);
    const worker = {
      fn: named(prefix, "step"),
      ins: ["theta", "optimizer", ...ins],
      outs: ["theta", "optimizer", "gradient", "factors"],
    };
    bodies.push([...before, { name: "step", send, worker, ...sampleOf(method, step + 1) }]);
  }
  const { before, send, prefix, ins } = moveOf(method, start + localSteps - 1);
  const last: Phase = {
    name: "last",
    send,
    worker: {
      fn: named(prefix, "last"),
      ins: ["theta", "optimizer", ...ins],
      outs: ["theta", "optimizer", "report"],
    },
    reply: ["report"],
    hub: { fn: "takeFirst", ins: ["report@*"], outs: ["theta"] },
  };
  return [first, ...inLoops(bodies), ...before, last];
}

/** Equal neighbours as turns of one loop. */
function inLoops(bodies: readonly (readonly Phase[])[]): readonly (Phase | Loop)[] {
  const loops: { repeat: number; readonly body: readonly Phase[]; readonly text: string }[] = [];
  for (const body of bodies) {
    const text = JSON.stringify(body);
    const before = loops.at(-1);
    if (before?.text === text) before.repeat++;
    else loops.push({ repeat: 1, body, text });
  }
  return loops.map(({ repeat, body }) => ({ repeat, body }));
}
