/**
 * Maps. Units are elements where every access walks through the whole space in one way, else rows of the innermost
 * dimension.
 */
import { iota } from "../../expr.ts";
import type { LoopStep } from "../../passes/fuse.ts";
import type { Local } from "./assembler.ts";
import { BEGIN, END, type Pointers } from "./nest_access.ts";
import { type NestCode, rootsOf } from "./nest_code.ts";
import { divisionOf, pressureOf, reachable } from "./nest_expressions.ts";
import { totalSize } from "./nest_shapes.ts";
import { tiledDimension, writeTiles } from "./nest_tiles.ts";
import { type Term, termsOf } from "./terms.ts";

/** Threads get so many elements or a multiple: no two of them write to one cache line. */
const GRAIN = 64;
/** Copies of the body that are written together: several where there are registers for their values. */
const COPIES: readonly number[] = [2, 1];

/** Writes the loops of a map; returns its units, and what ranges of them are multiples of. */
export function writeMap(code: NestCode): { readonly units: number; readonly grain: number } {
  const { f, step, shapes, block, accesses, emitter } = code;
  const { outer, inner } = shapes;
  const isPositional = readsPositions(step);
  const across = isPositional ? null : tiledDimension(code);
  if (across !== null) return writeTiles(code, across);
  const roots = rootsOf(step);
  const moving = step.loads.filter((load) => accesses.pattern(load) !== "same").map((load) => load.expr);
  const { copies, constants } = divisionOf(pressureOf(moving, roots), COPIES);
  emitter.prologue(roots, constants);
  if (outer.length === 0) {
    const row = { pointers: accesses.first, from: BEGIN, to: END, position: null };
    writeElements(code, copies, row, isPositional);
    return { units: inner.size, grain: GRAIN };
  }
  const { each, set, times, constant, locals } = termsOf(f);
  const size = block.local(inner.size);
  const { unit, position } = locals("unit", "position");
  each(unit, BEGIN, END, 1, () => {
    const pointers = accesses.moved(accesses.first, unit, outer);
    if (isPositional) set(position, times(unit, size));
    writeElements(code, copies, { pointers, from: constant(0), to: size, position }, isPositional);
  });
  return { units: totalSize(outer), grain: 1 };
}

interface Row {
  readonly pointers: Pointers;
  readonly from: Term;
  readonly to: Term;
  /** Of innermost index 0 in the whole space; null = 0. */
  readonly position: Local | null;
}

function writeElements(
  { step, elements }: NestCode,
  copies: number,
  { pointers, from, to, position }: Row,
  isPositional: boolean,
): void {
  const { loads, stores } = step;
  const roots = stores.map((store) => store.expr);
  elements.around(loads, roots, pointers, () => {
    elements.each(from, to, copies, (places) => {
      if (isPositional) elements.bindPositions(position, places);
      elements.load(loads, places, pointers);
      elements.store(stores, places, pointers);
    });
  });
}

function readsPositions(step: LoopStep): boolean {
  return reachable(rootsOf(step), () => false).has(iota);
}
