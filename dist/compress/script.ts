/**
 * The phases of a round in which workers send parts of what they have. A phase ends one step and begins the next: its
 * question brings what became of the last payloads, its answer the next ones.
 */
import type { Phase, Turn } from "../protocol/script.ts";
import type { Exchange } from "../protocol/types.ts";
import type { CommunicatingMethod } from "./method.ts";

/** What the script of a method depends on; `steps` counts those of the whole run, from 1. */
type Timing = Pick<CommunicatingMethod<unknown>, "exchanges" | "background">;

/**
 * Whether an exchange goes into the background after a step. What would come after the end of a run that flushes does not:
 * the flush has it. It is ready in its register all the same, for a run that is made longer.
 *
 * @param flushAfter the last step of such a run; null for others
 */
export function leavesAfter({ background }: Timing, step: number, flushAfter: number | null): boolean {
  if (!background?.beginsAfter(step)) return false;
  if (flushAfter === null) return true;
  for (let later = step + 1; later <= flushAfter; later++) if (background.endsAt(later)) return true;
  return false;
}

/** The slot of the background exchange, and the registers that it moves. */
export const backgroundSlot: Readonly<Record<string, Exchange>> = {
  background: { send: ["background"], fn: "reduceBackground", receive: ["arrived"] },
};

/** The registers of a worker that outlive a round. */
export function communicatingRegisters({ background }: Timing): readonly string[] {
  return background ? ["state", "background"] : ["state"];
}

/** Steps `first` to `last` of the run. The state at the end has everything that is not in the background. */
export function communicatingPhases(
  method: Timing,
  first: number,
  last: number,
  flushAfter: number | null = null,
): readonly Phase[] {
  const { background } = method;
  const phases: Phase[] = [];
  // A step whose last exchange has been asked for and whose result is still to be taken.
  let open: number | null = null;

  const endOf = (step: number): { readonly ends?: Turn } =>
    background?.endsAt(step) ? { ends: { slot: "background", version: versionAt(method, step) } } : {};
  /** Takes the open result; with a launch the background exchange leaves. */
  const land = (launches: number | null): void => {
    const ins = open === null ? ["state"] : ["state", "reduced"];
    phases.push({
      name: launches === null ? "land" : "launch",
      ...(open !== null && { send: ["reduced"] }),
      worker: {
        fn: launches === null ? "land" : "launch",
        numbers: [open ?? launches!],
        ins,
        outs: launches === null ? ["state"] : ["state", "background"],
      },
      ...(launches !== null &&
        leavesAfter(method, launches, flushAfter) && { begins: { slot: "background", version: launches } }),
    });
    open = null;
  };

  for (let step = first; step <= last; step++) {
    const to = lastOfRun(method, step, last);
    const count = method.exchanges(to);
    const ends = endOf(step);
    const arrived = ends.ends ? ["arrived"] : [];
    const answered: Partial<Phase> =
      count === 0
        ? {}
        : {
            reply: ["payload"],
            hub: { fn: "reduce", numbers: [to, 0], ins: ["payload@*"], outs: ["reduced"] },
          };
    phases.push({
      name: to > step ? "steps" : "step",
      ...ends,
      ...(open !== null && { send: ["reduced"] }),
      worker: {
        fn: open === null ? "begin" : "advance",
        numbers: open === null ? [step, to] : [open, step, to],
        ins: ["state", ...(open === null ? [] : ["reduced"]), ...arrived],
        outs: ["state", "payload"],
      },
      ...answered,
    });
    for (let index = 1; index < count; index++) {
      phases.push({
        name: "exchange",
        send: ["reduced"],
        worker: {
          fn: "turn",
          numbers: [to, index - 1],
          ins: ["state", "reduced"],
          outs: ["state", "payload"],
        },
        reply: ["payload"],
        hub: { fn: "reduce", numbers: [to, index], ins: ["payload@*"], outs: ["reduced"] },
      });
    }
    open = count > 0 ? to : null;
    // What leaves in the background does not wait for the next gradient.
    if (background?.beginsAfter(to)) land(to);
    else if (to === last && open !== null) land(null);
    step = to;
  }
  return phases;
}

/** After the last step of a run: one exchange of all in which workers differ. Nothing is in the background any more. */
export function flushPhases({ background }: Timing): readonly Phase[] {
  return [
    {
      name: "flush",
      worker: { fn: "kept", ins: ["state"], outs: ["kept"] },
      reply: ["kept"],
      hub: { fn: "flush", ins: ["kept@*"], outs: ["whole"] },
    },
    {
      name: "flushed",
      send: ["whole"],
      worker: {
        fn: "flushed",
        ins: ["state", "whole"],
        outs: background ? ["state", "background"] : ["state"],
      },
    },
  ];
}

/** The mean of what the workers would save. */
export const viewPhase: Phase = {
  name: "view",
  worker: { fn: "view", ins: ["state"], outs: ["view"] },
  reply: ["view"],
  hub: { fn: "takeView", ins: ["view@*"], outs: ["theta"] },
};

/** The last of the steps that a worker can take from here without a message. */
function lastOfRun({ exchanges, background }: Timing, from: number, last: number): number {
  let step = from;
  while (
    step < last &&
    exchanges(step) === 0 &&
    !background?.beginsAfter(step) &&
    !background?.endsAt(step + 1)
  )
    step++;
  return step;
}

/** The step after which the exchange began that ends at a step. */
function versionAt({ background }: Timing, step: number): number {
  let begun = step - 1;
  while (begun > 0 && !background!.beginsAfter(begun)) begun--;
  return begun;
}
