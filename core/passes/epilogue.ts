/**
 * Epilogues: a loop that follows a matrix product or a convolution element by element (a bias and an activation, a mask,
 * an update of parameters) becomes part of the call, so that the elements need not be read again from memory.
 */
import { isRowMajor, reshaped } from "../kernel.ts";
import { sizeOf } from "../shape.ts";
import type { CallStep, Load, LoopStep, Schedule, Slot, Step, Store } from "./fuse.ts";

/** Whether a backend computes this loop as a part of this call. */
export type TakesEpilogue = (call: CallStep, loop: LoopStep) => boolean;

/**
 * The schedule with loops as epilogues of calls of kernels written by hand. Such a loop has no reductions, iterates over
 * the call's only result in row-major order, stores whole buffers in this order, and reads nothing else that is computed
 * after the call. It moves to the call; of several loops, the first that the backend takes.
 */
export function withEpilogues({ ins, steps, outs }: Schedule, takes: TakesEpilogue): Schedule {
  const placed = [...steps];
  /** Where a slot is written for the last time: a concatenation is written in several pieces. */
  const written = new Map<Slot, { readonly last: number; readonly times: number }>();
  const write = (slot: Slot, at: number, times: number): void => void written.set(slot, { last: at, times });
  steps.forEach((step, at) => {
    const slots = step.k === "loop" ? step.stores.map(({ slot }) => slot) : step.outs;
    for (const slot of slots) write(slot, at, (written.get(slot)?.times ?? 0) + 1);
  });
  const readers = readersOf(steps);
  const isReturned = new Set(outs.map(({ slot }) => slot));
  const moved = new Set<number>();
  steps.forEach((call, at) => {
    if (call.k !== "named" || call.outs.length !== 1) return;
    const result = call.outs[0]!;
    const isReady = (slot: Slot): boolean => slot === result || (written.get(slot)?.last ?? -1) < at;
    const all = readers.get(result) ?? [];
    for (const reader of all) {
      const step = steps[reader]!;
      if (step.k !== "loop" || moved.has(reader)) continue;
      if (!step.loads.every(({ slot }) => isReady(slot))) continue;
      if (!step.stores.every(({ slot }) => written.get(slot)!.times === 1)) continue;
      const loop = overResult(step, result);
      if (loop === null || !takes(call, loop)) continue;
      const keepsResult = isReturned.has(result) || all.length > 1;
      placed[at] = { ...call, epilogue: { loop, keepsResult } };
      moved.add(reader);
      for (const { slot } of loop.stores) write(slot, at, 1);
      break;
    }
  });
  return { ins, steps: placed.filter((_, at) => !moved.has(at)), outs };
}

/** The steps that read a slot, in order. */
function readersOf(steps: readonly Step[]): Map<Slot, number[]> {
  const readers = new Map<Slot, number[]>();
  steps.forEach((step, at) => {
    const read = (step.k === "loop" ? step.loads : step.args).map(({ slot }) => slot);
    for (const slot of new Set(read)) {
      const known = readers.get(slot);
      if (known) known.push(at);
      else readers.set(slot, [at]);
    }
  });
  return readers;
}

/** The loop over the shape of the result; null where it is no epilogue of it. */
function overResult(loop: LoopStep, result: Slot): LoopStep | null {
  const { shape } = result.aval;
  const size = sizeOf(shape);
  if (loop.reductions.length > 0 || loop.reduced.length > 0 || sizeOf(loop.shape) !== size) return null;
  const isWhole = ({ slot, layout }: Load | Store): boolean =>
    slot.aval.size === size && layout.offset === 0 && isRowMajor(layout);
  if (!loop.stores.every(isWhole)) return null;
  if (!loop.loads.every((load) => load.slot !== result || isWhole(load))) return null;
  const all = <A extends Load | Store>(accesses: readonly A[]): A[] =>
    accesses.flatMap((access): A[] => {
      const layout = reshaped(access.layout, shape);
      return layout === null ? [] : [{ ...access, layout }];
    });
  const [loads, stores] = [all(loop.loads), all(loop.stores)];
  if (loads.length < loop.loads.length || stores.length < loop.stores.length) return null;
  return { ...loop, shape, loads, stores };
}
