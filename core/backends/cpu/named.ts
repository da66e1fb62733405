/** Kernels written by hand: what they are given, and what they give back. */
import type { Aval } from "../../aval.ts";
import type { DType } from "../../dtype.ts";
import type { Layout } from "../../kernel.ts";
import type { Engine } from "./engine.ts";
import type { Follower } from "./threads.ts";

/** One operand: its element type, and where its elements are in its buffer. */
export interface NamedOperand {
  readonly dtype: DType;
  readonly layout: Layout;
}

export interface NamedCall {
  readonly args: readonly NamedOperand[];
  readonly outs: readonly Aval[];
  readonly params: unknown;
}

/** A call with everything decided that does not depend on where the operands are. */
export interface NamedPlan {
  readonly workspaceBytes: number;
  /** Byte pointers: to each operand's first element, to each result, to the workspace. Only bands have a follower. */
  run(ins: readonly number[], outs: readonly number[], workspace: number, follower?: Follower): void;
}

/** A kernel's result, row-major `[batches, rows, columns]`, where each of its units is `tall` rows of one batch. */
export interface Bands {
  readonly batches: number;
  readonly rows: number;
  readonly columns: number;
  readonly tall: number;
}

export interface NamedKernel {
  /** Which operands this call needs in row-major order; null where it has no kernel and the reference runs. */
  prepare(call: NamedCall): readonly boolean[] | null;
  plan(call: NamedCall, engine: Engine): NamedPlan;
  /** How the plan of a call computes its result; null where its units are no bands of whole rows. */
  bands?(call: NamedCall, engine: Engine): Bands | null;
}
