/**
 * Nests: one fused step as a WebAssembly function. The iteration space becomes units that threads share, each a few
 * nested loops with four elements at a time in the innermost; sizes, strides and addresses are read from the argument
 * block, so one function serves every shape that is looped over in the same way.
 *
 *   map:  units are elements, or rows of the innermost dimension
 *   rows: the innermost dimension is reduced. A unit is one row, or one piece of a long row
 *   columns: the innermost dimension is kept. A unit is a block of columns, with one accumulator each
 *
 * To read on: nest_shapes.ts says which kind a step is; nest_access.ts and nest_elements.ts have what the kinds share,
 * where elements are and the innermost loop; nest_map.ts, nest_rows.ts and nest_columns.ts are the kinds.
 */
import type { LoopStep } from "../../passes/fuse.ts";
import { sizeOf } from "../../shape.ts";
import { FunctionBuilder } from "./assembler.ts";
import { Accesses, ArgumentBlock, SCRATCH, type Word } from "./nest_access.ts";
import { Arithmetic } from "./nest_arithmetic.ts";
import { type NestCode, rootsOf } from "./nest_code.ts";
import { writeColumns } from "./nest_columns.ts";
import { Elements } from "./nest_elements.ts";
import { operations } from "./nest_expressions.ts";
import { writeMap } from "./nest_map.ts";
import { type Pieces, writeRows } from "./nest_rows.ts";
import { shapesOf } from "./nest_shapes.ts";
import { VectorEmitter, type VectorOptions } from "./vector.ts";

export type { Pieces, Word };

/** How a nest is called: the same for all steps with the same key, whatever their buffers. */
export interface NestCall {
  readonly words: readonly Word[];
  readonly units: number;
  /** Ranges of units begin at multiples of this. */
  readonly grain: number;
  /** Element operations in all, to decide whether threads pay. */
  readonly work: number;
  readonly pieces: Pieces | null;
}

export interface Nest {
  readonly body: FunctionBuilder;
  readonly call: NestCall;
}

export interface NestOptions extends Pick<VectorOptions, "relaxed" | "importCall"> {
  /** Memory that each thread has for itself. */
  readonly scratchBytes: number;
}

/** Writes the function of a step. */
export function nestOf(step: LoopStep, options: NestOptions): Nest {
  const code = codeOf(step, options);
  const division = writeLoops(code, options.scratchBytes - POOL_BYTES);
  const call = { words: code.block.words, grain: 1, work: workOf(step), pieces: null, ...division };
  return { body: code.f, call };
}

type Division = Pick<NestCall, "units"> & Partial<Pick<NestCall, "grain" | "pieces">>;

function writeLoops(code: NestCode, scratchBytes: number): Division {
  const { kind } = code.shapes;
  switch (kind) {
    case "map":
      return writeMap(code);
    case "rows":
      return writeRows(code, scratchBytes);
    case "columns":
      return writeColumns(code);
  }
  return kind satisfies never;
}

/** The end of a thread's scratch holds the constants that a loop has no registers for. */
const POOL_BYTES = 8192;

/** Begins a function: constants and first addresses are in locals before any loop. */
function codeOf(step: LoopStep, options: NestOptions): NestCode {
  const shapes = shapesOf(step);
  const f = new FunctionBuilder(["i32", "i32", "i32", "i32"]);
  const pool = { address: SCRATCH, offset: options.scratchBytes - POOL_BYTES, capacity: POOL_BYTES / 16 };
  const emitter = new VectorEmitter(f, { ...options, pool });
  const block = new ArgumentBlock(f);
  const accesses = new Accesses(f, block, step, shapes);
  const elements = new Elements(f, emitter, accesses);
  return { step, shapes, f, emitter, block, accesses, elements, arithmetic: new Arithmetic(f, emitter) };
}

/** An estimate: four lanes at a time make operations cheap, and loads and stores less so. */
function workOf(step: LoopStep): number {
  const accesses = step.loads.length + step.stores.length;
  return sizeOf(step.shape) * (1 + operations(rootsOf(step), () => false) / 4 + accesses / 2);
}
