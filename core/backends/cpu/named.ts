/** Kernels written by hand: what they are given, and what they give back. */
import type { Aval } from "../../aval.ts";
import type { DType } from "../../dtype.ts";
import type { Layout } from "../../kernel.ts";
import type { Engine } from "./engine.ts";

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
  /** Byte pointers: to each operand's first element, to each result, to the workspace. */
  run(ins: readonly number[], outs: readonly number[], workspace: number): void;
}

export interface NamedKernel {
  /** Which operands this call needs in row-major order; null where it has no kernel and the reference runs. */
  prepare(call: NamedCall): readonly boolean[] | null;
  /** Whether operands and results may be float16; otherwise they are float32 in their place. Default: no. */
  readonly takesHalves?: boolean;
  plan(call: NamedCall, engine: Engine): NamedPlan;
}
