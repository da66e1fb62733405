/** A nest while it is written: what maps, rows and columns have in common. */
import type { Expr } from "../../expr.ts";
import type { LoopStep } from "../../passes/fuse.ts";
import type { FunctionBuilder, Local } from "./assembler.ts";
import type { Accesses, ArgumentBlock } from "./nest_access.ts";
import type { Arithmetic } from "./nest_arithmetic.ts";
import type { Elements } from "./nest_elements.ts";
import type { Shapes } from "./nest_shapes.ts";
import { type Term, termsOf } from "./terms.ts";
import type { VectorEmitter } from "./vector.ts";

/** What is written, and what it is written with. */
export interface NestCode {
  readonly step: LoopStep;
  readonly shapes: Shapes;
  readonly f: FunctionBuilder;
  readonly emitter: VectorEmitter;
  readonly block: ArgumentBlock;
  readonly accesses: Accesses;
  readonly elements: Elements;
  readonly arithmetic: Arithmetic;
}

/** Which part of the innermost dimension a unit is about, and at which position of the outer ones. */
export interface UnitPart {
  readonly position: Local;
  readonly from: Local;
  readonly to: Local;
}

/** Says which part a unit is, where the innermost dimension of `size` elements has so many parts of `length` each. */
export function setUnitPart(
  { f }: NestCode,
  unit: Local,
  { position, from, to }: UnitPart,
  { parts, length, size }: { readonly parts: Term; readonly length: Term; readonly size: Term },
): void {
  const { push, set, over, times, smaller } = termsOf(f);
  const part: Term = () => {
    push(unit);
    push(parts).op("i32.rem_u");
  };
  set(position, over(unit, parts));
  push(times(part, length)).tee(from);
  push(length).op("i32.add").set(to);
  set(to, smaller(size, to));
}

/** What a step computes of its elements. */
export const rootsOf = ({ stores, reductions }: LoopStep): Expr[] => [
  ...stores.map((store) => store.expr),
  ...reductions.map(({ arg }) => arg),
];
