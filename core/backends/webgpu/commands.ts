/** What a device does when it is told: dispatches, copies and clears, as data, and how they are encoded. */
import type {
  GpuBindGroup,
  GpuBindGroupLayout,
  GpuBuffer,
  GpuCommandEncoder,
  GpuComputePass,
  GpuComputePipeline,
  GpuPassDescriptor,
} from "./api.ts";

/** A compiled entry point and the layout of its one bind group. */
export interface Pipeline {
  readonly label: string;
  readonly handle: GpuComputePipeline;
  readonly layout: GpuBindGroupLayout;
  /** Layouts of declared bindings are shared between pipelines. */
  readonly isLayoutShared: boolean;
}

/** One run of a pipeline in so many workgroups. */
export interface Dispatch {
  readonly dispatch: Pipeline;
  readonly group: GpuBindGroup;
  readonly x: number;
  readonly y?: number;
  readonly z?: number;
}

/** Offsets and bytes are multiples of four, and the two buffers are different ones. */
export interface Copy {
  readonly copy: GpuBuffer;
  readonly fromOffset: number;
  readonly to: GpuBuffer;
  readonly toOffset: number;
  readonly bytes: number;
}

/** Sets bytes to zero; offset and bytes are multiples of four. */
export interface Clear {
  readonly clear: GpuBuffer;
  readonly offset: number;
  readonly bytes: number;
}

export type Command = Dispatch | Copy | Clear;

export interface Encoding {
  /** Gives an ended pass back. */
  endPass(pass: GpuComputePass): void;
  /**
   * Where each dispatch has a pass of its own, what that pass is; by default neighbours share one, which costs a tenth.
   * A device orders the dispatches of a pass by the buffers they write.
   */
  readonly passOf: ((dispatch: Dispatch, index: number) => GpuPassDescriptor) | null;
}

export function encode(
  encoder: GpuCommandEncoder,
  commands: readonly Command[],
  { endPass, passOf }: Encoding,
): void {
  let pass: GpuComputePass | null = null;
  let pipeline: Pipeline | null = null;
  let index = 0;
  for (const command of commands) {
    if (pass !== null && (passOf !== null || !("dispatch" in command))) {
      endPass(pass);
      pass = null;
      pipeline = null;
    }
    if ("copy" in command) {
      const { copy, fromOffset, to, toOffset, bytes } = command;
      // With all five arguments: the short form is missing in bun-webgpu.
      encoder.copyBufferToBuffer(copy, fromOffset, to, toOffset, bytes);
    } else if ("clear" in command) {
      encoder.clearBuffer(command.clear, command.offset, command.bytes);
    } else {
      const { dispatch, group, x, y = 1, z = 1 } = command;
      pass ??= encoder.beginComputePass(passOf?.(command, index++));
      if (dispatch !== pipeline) pass.setPipeline(dispatch.handle);
      pipeline = dispatch;
      pass.setBindGroup(0, group);
      pass.dispatchWorkgroups(x, y, z);
    }
  }
  if (pass !== null) endPass(pass);
}
