/** The elements of a loop without reductions, one at a time or four neighbours: loaded, computed and stored. */
import { iota } from "../../expr.ts";
import type { Load, LoopStep, Store } from "../../passes/fuse.ts";
import type { Block } from "./expressions.ts";
import { type Buffers, loaded, quadLayout, quadType, type Reach, reachOf, stored } from "./loops_access.ts";
import { elementIndex } from "./wgsl.ts";

/** Where the loop is, and what is known there already. */
export interface Place {
  /** The row-major position as an operand; of four neighbours the number of the vector. */
  readonly at: string;
  /** Values of loads by name; of four neighbours vectors. */
  readonly given: ReadonlyMap<Load, string>;
}

const components = ["x", "y", "z", "w"] as const;

/** One element. */
export function writeElement(
  block: Block,
  { loads, stores }: LoopStep,
  buffers: Buffers,
  { at, given }: Place,
): void {
  block.bind(iota, at);
  for (const load of loads) {
    const value = given.get(load);
    const element = value === undefined ? loadedAt(load, buffers, at) : loaded(load, value);
    block.bind(load.expr, block.let(element));
  }
  for (const store of stores) {
    const value = stored(store, block.emit(store.expr));
    block.write(`${buffers.element(store.slot, elementIndex(store.layout, at), "write")} = ${value};`);
  }
}

function loadedAt(load: Load, buffers: Buffers, at: string): string {
  return loaded(load, buffers.element(load.slot, elementIndex(load.layout, at)));
}

/** How four neighbours lie in each buffer of the loop. */
export function reachesOf({ loads, stores }: LoopStep): ReadonlyMap<Load | Store, Reach> {
  return new Map([...loads, ...stores].map((one) => [one, reachOf(one.layout, one.slot.aval.size)]));
}

/** Four neighbouring elements: in vectors where they lie so. */
export function writeQuad(
  block: Block,
  { loads, stores }: LoopStep,
  buffers: Buffers,
  reach: ReadonlyMap<Load | Store, Reach>,
  { at, given }: Place,
): void {
  const quads = new Map(given);
  for (const load of loads) {
    if (quads.has(load)) continue;
    if (reach.get(load) === "quad")
      quads.set(load, block.let(buffers.quad(load.slot, elementIndex(quadLayout(load.layout), at))));
    else if (reach.get(load) === "uniform")
      block.bind(load.expr, block.let(loadedAt(load, buffers, block.let(`${at} * 4u`))));
  }
  const lanes = components.map((component, lane) => {
    const inner = block.branch();
    const position = (): string => inner.let(lane === 0 ? `${at} * 4u` : `${at} * 4u + ${lane}u`);
    inner.bind(iota, position);
    for (const load of loads) {
      const quad = quads.get(load);
      if (quad !== undefined) inner.bind(load.expr, inner.let(loaded(load, `${quad}.${component}`)));
      else if (reach.get(load) === "single")
        inner.bind(load.expr, inner.let(loadedAt(load, buffers, position())));
    }
    return { position, values: stores.map((store) => stored(store, inner.emit(store.expr))) };
  });
  for (const [s, store] of stores.entries()) {
    if (reach.get(store) === "quad") {
      const to = buffers.quad(store.slot, elementIndex(quadLayout(store.layout), at), "write");
      block.write(`${to} = ${quadType(store)}(${lanes.map(({ values }) => values[s]!).join(", ")});`);
    } else {
      for (const { position, values } of lanes) {
        const to = buffers.element(store.slot, elementIndex(store.layout, position()), "write");
        block.write(`${to} = ${values[s]};`);
      }
    }
  }
}

/** The slots that are declared as vectors of four elements. */
export function quadSlots(reach: ReadonlyMap<Load | Store, Reach>): ReadonlySet<Load["slot"]> {
  return new Set([...reach].flatMap(([{ slot }, kind]) => (kind === "quad" ? [slot] : [])));
}
