/**
 * Buffer planning: intermediate results live in one arena, at offsets decided once. Two of them may overlap when one is
 * dead before the other is written; a loop may write over what it reads for the last time at the same places.
 */
import { bytesPerElement } from "../dtype.ts";
import { isRowMajor } from "../kernel.ts";
import { sizeOf } from "../shape.ts";
import type { LoopStep, Schedule, Slot, Step } from "./fuse.ts";

/** Blocks begin at multiples of this, and as many bytes after each may be read. */
const ALIGNMENT = 64;

/** Bytes of a slot's elements. */
export function bytesOf({ aval }: Slot): number {
  return aval.size * bytesPerElement(aval.dtype);
}

/** The steps between which a slot's elements are needed: written at the first, read last at the last. */
export interface Lifetime {
  readonly from: number;
  readonly to: number;
}

/** What a step reads and writes; not the result of a call that only its epilogue needs. */
export function slotsOf(step: Step): { readonly reads: readonly Slot[]; readonly writes: readonly Slot[] } {
  if (step.k === "loop")
    return { reads: step.loads.map(({ slot }) => slot), writes: step.stores.map(({ slot }) => slot) };
  const reads = step.args.map(({ slot }) => slot);
  if (step.epilogue === null) return { reads, writes: step.outs };
  const { loop, keepsResult } = step.epilogue;
  const after = slotsOf(loop);
  return {
    reads: [...reads, ...after.reads.filter((slot) => !step.outs.includes(slot))],
    writes: [...(keepsResult ? step.outs : []), ...after.writes],
  };
}

/** The lifetime of every slot; outputs live to the end, inputs from before the first step. */
export function lifetimes({ ins, steps, outs }: Schedule): Map<Slot, Lifetime> {
  const lives = new Map<Slot, Lifetime>(ins.map((slot) => [slot, { from: -1, to: -1 }]));
  steps.forEach((step, at) => {
    const { reads, writes } = slotsOf(step);
    for (const slot of [...reads, ...writes]) lives.set(slot, { from: lives.get(slot)?.from ?? at, to: at });
  });
  for (const { slot } of outs) {
    const life = lives.get(slot);
    lives.set(slot, { from: life?.from ?? -1, to: steps.length });
  }
  return lives;
}

/** Whether a step reads all of a slot element by element in the order in which it writes the other one. */
export function mayOverwrite(step: Step, read: Slot, written: Slot): boolean {
  if (step.k !== "loop" || step.reductions.length > 0 || step.reduced.length > 0) return false;
  if (bytesPerElement(read.aval.dtype) !== bytesPerElement(written.aval.dtype)) return false;
  const size = sizeOf(step.shape);
  const isAligned = ({
    slot,
    layout,
    level,
  }: LoopStep["loads"][number] | LoopStep["stores"][number]): boolean =>
    level === "full" && slot.aval.size === size && layout.offset === 0 && isRowMajor(layout);
  return (
    step.loads.every((load) => load.slot !== read || isAligned(load)) &&
    step.stores.every((store) => store.slot !== written || isAligned(store))
  );
}

/** A region of the arena: the slots that take turns in it, one after the other. */
interface Region {
  readonly bytes: number;
  from: number;
  to: number;
  readonly slots: Slot[];
}

export interface Arena {
  readonly offsets: ReadonlyMap<Slot, number>;
  readonly bytes: number;
}

/** Offsets for the given slots. `lives` may hold others too. */
export function arena(
  steps: readonly Step[],
  lives: ReadonlyMap<Slot, Lifetime>,
  slots: ReadonlySet<Slot>,
): Arena {
  const regions: Region[] = [];
  const regionOf = new Map<Slot, Region>();
  const inOrder = [...slots].sort((x, y) => lives.get(x)!.from - lives.get(y)!.from);
  for (const slot of inOrder) {
    const { from, to } = lives.get(slot)!;
    const step = steps[from];
    const heir = step
      ? slotsOf(step).reads.find((read) => {
          const region = regionOf.get(read);
          return (
            region?.slots.at(-1) === read &&
            region.to === from &&
            bytesOf(read) === bytesOf(slot) &&
            mayOverwrite(step, read, slot)
          );
        })
      : undefined;
    const region = heir ? regionOf.get(heir)! : { bytes: bytesOf(slot), from, to, slots: [] };
    if (!heir) regions.push(region);
    region.slots.push(slot);
    region.to = to;
    regionOf.set(slot, region);
  }
  return placed(regions);
}

/** With more regions than this it takes too long to compare each with all the others. */
const MOST_COMPARED = 2048;

function placed(regions: readonly Region[]): Arena {
  return regions.length > MOST_COMPARED ? placedInTime(regions) : placedBySize(regions);
}

/** Bytes that a region takes: whole blocks, and one after it that may be read. */
const takenBy = ({ bytes }: Region): number => ALIGNMENT * (Math.ceil(bytes / ALIGNMENT) + 1);

/** The largest first, each at the lowest offset where no other of the same time is. */
function placedBySize(regions: readonly Region[]): Arena {
  const offsets = new Map<Slot, number>();
  const done: { readonly region: Region; readonly offset: number; readonly end: number }[] = [];
  let bytes = 0;
  for (const region of [...regions].sort((x, y) => y.bytes - x.bytes)) {
    const size = takenBy(region);
    let offset = 0;
    for (const other of done) {
      const overlaps = other.region.from <= region.to && region.from <= other.region.to;
      if (overlaps && offset < other.end && other.offset < offset + size) offset = other.end;
    }
    for (const slot of region.slots) offsets.set(slot, offset);
    const at = done.findIndex((other) => other.offset > offset);
    done.splice(at < 0 ? done.length : at, 0, { region, offset, end: offset + size });
    bytes = Math.max(bytes, offset + size);
  }
  return { offsets, bytes };
}

interface Stretch {
  offset: number;
  end: number;
}

/** In the order in which they are needed, each at the lowest offset that is free then: in less time, perhaps in more bytes. */
function placedInTime(regions: readonly Region[]): Arena {
  const offsets = new Map<Slot, number>();
  const starts = new Map<Region, number>();
  // In order, with something between any two.
  const free: Stretch[] = [{ offset: 0, end: Number.POSITIVE_INFINITY }];
  const release = (region: Region): void => {
    const offset = starts.get(region)!;
    const end = offset + takenBy(region);
    const at = free.findIndex((stretch) => stretch.offset >= end);
    const [before, after] = [free[at - 1], free[at]!];
    if (after.offset === end) after.offset = offset;
    else free.splice(at, 0, { offset, end });
    if (before?.end !== offset) return;
    before.end = free[at]!.end;
    free.splice(at, 1);
  };
  const ending = regions.toSorted((x, y) => x.to - y.to);
  let ended = 0;
  let bytes = 0;
  for (const region of regions.toSorted((x, y) => x.from - y.from)) {
    for (; ending[ended]!.to < region.from; ended++) release(ending[ended]!);
    const size = takenBy(region);
    const at = free.findIndex(({ offset, end }) => end - offset >= size);
    const stretch = free[at]!;
    starts.set(region, stretch.offset);
    for (const slot of region.slots) offsets.set(slot, stretch.offset);
    stretch.offset += size;
    bytes = Math.max(bytes, stretch.offset);
    if (stretch.offset === stretch.end) free.splice(at, 1);
  }
  return { offsets, bytes };
}
