/**
 * What shader writers are told of the device and what they give: dispatches, each a WGSL module with its buffers. Shapes
 * are constants of the text, so that a driver can simplify index arithmetic; equal texts share a pipeline.
 */
import type { Aval } from "../../aval.ts";
import type { Layout } from "../../kernel.ts";
import type { CallStep, Slot } from "../../passes/fuse.ts";

/** What a device can do; sizes in bytes, counts as they are. */
export interface Capabilities {
  readonly features: {
    readonly f16: boolean;
    readonly subgroups: boolean;
    readonly timestamps: boolean;
    readonly subgroupMatrix: boolean;
  };
  readonly subgroupSize: { readonly min: number; readonly max: number } | null;
  /**
   * So many invocations with neighbouring numbers in a workgroup, a power of two, are in one subgroup: they can have each
   * other's values without memory. 1, or absent: none can.
   */
  readonly neighbours?: number;
  readonly limits: {
    readonly maxBufferSize: number;
    readonly maxBindingSize: number;
    readonly maxStorageBuffers: number;
    /** Invocations of one workgroup. */
    readonly maxWorkgroupSize: number;
    readonly maxWorkgroupBytes: number;
    readonly maxGroupsPerDimension: number;
  };
  /** Shaders run on the processor: barriers and shared memory cost more than they save. */
  readonly isSoftware: boolean;
  /** Which of several ways to compute the same is used here; absent: always the first. */
  readonly choose?: Choose;
}

/** Memory that a step needs while it runs; the executable finds a buffer for it. */
export class Workspace {
  readonly bytes: number;
  constructor(bytes: number) {
    this.bytes = bytes;
  }
}

/** The two words where a shader reports what it cannot do: see faults.ts. */
export const FAULTS: unique symbol = Symbol("faults");

export type BufferRef = Slot | Workspace | typeof FAULTS;

/** One run of a shader. */
export interface Dispatch {
  /** For profiles and error messages: the primitives it computes. */
  readonly label: string;
  /** A WGSL module with entry point `main`; binding i of group 0 is `buffers[i]`, and all are used. */
  readonly code: string;
  readonly buffers: readonly BufferRef[];
  readonly groups: readonly [x: number, y: number, z: number];
  /** Floating-point operations, where they are what counts; else 0. */
  readonly operations: number;
}

/** One of several ways to compute the same. */
export interface Variant {
  readonly name: string;
  dispatches(): readonly Dispatch[];
}

/**
 * Takes the ways to compute what `key` names, the one expected to be the fastest first. Whatever has one key is computed
 * equally fast by variants of one name.
 */
export type Choose = <V extends Variant>(key: string, variants: readonly V[]) => V;

/** A kernel written by hand. */
export interface NamedKernel {
  /**
   * Which operands must be row-major for this call (true); the others are read through their layouts. null: no kernel
   * for this call, the host runs it.
   */
  prepare(
    args: readonly { readonly aval: Aval; readonly layout: Layout }[],
    outs: readonly Aval[],
    params: unknown,
    gpu: Capabilities,
  ): readonly boolean[] | null;
  /** Whether operands and results may be float16; otherwise they are float32 in their place. Default: no. */
  readonly takesHalves?: boolean;
  /** Whether `dispatches` computes the epilogue of a step. Default: no. */
  readonly takesEpilogue?: boolean;
  /** In order; each sees what those before it have written. */
  dispatches(step: CallStep, gpu: Capabilities): readonly Dispatch[];
}
