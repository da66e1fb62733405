/** Loops of the WebGPU backend by themselves, as they are for any kind of device that one pretends to have. */
import { hostResults } from "../../core/backend.ts";
import type { DeviceArray } from "../../core/backends/webgpu/context.ts";
import {
  type BufferRef,
  type Capabilities,
  type Dispatch,
  Workspace,
} from "../../core/backends/webgpu/kernel.ts";
import { loopDispatches } from "../../core/backends/webgpu/loops.ts";
import { webgpuContext } from "../../core/backends/webgpu/open.ts";
import { extended } from "../../core/backends/webgpu/wgsl.ts";
import { makeArray, type TypedArray } from "../../core/dtype.ts";
import { invariant } from "../../core/errors.ts";
import { type CallStep, fused, Slot } from "../../core/passes/fuse.ts";
import type { Program } from "../../core/program.ts";
import { sizeOf, stridesOf } from "../../core/shape.ts";
import { copyView } from "../../core/strided.ts";
import { storage, Tensor } from "../../core/value.ts";

/** What is in buffers before anything is written there: neither zero nor a small number. */
const DIRT = 12345678;

/** Devices to write shaders for: this one, one of each kind, and one that can do very little. */
export function devices(): ReadonlyMap<string, Capabilities> {
  const { gpu } = webgpuContext()!;
  const { limits } = gpu;
  const little = { ...limits, maxStorageBuffers: 4, maxWorkgroupSize: 64, maxGroupsPerDimension: 31 };
  return new Map([
    ["this device", gpu],
    ["a processor", { ...gpu, isSoftware: true }],
    ["a GPU", { ...gpu, isSoftware: false }],
    ["a small GPU", { ...gpu, isSoftware: false, neighbours: 1, limits: little }],
  ]);
}

/** The buffers of a run. */
export class Buffers {
  readonly #arrays = new Map<BufferRef, DeviceArray>();

  /** The buffer of a slot or a workspace, made when it is first used. */
  of(ref: BufferRef): DeviceArray {
    invariant(typeof ref !== "symbol", "loops find no faults");
    const known = this.#arrays.get(ref);
    if (known) return known;
    const { dtype, size } =
      ref instanceof Slot ? ref.aval : { dtype: "uint32" as const, size: ref.bytes / 4 };
    const context = webgpuContext()!;
    const array = context.makeArray(dtype, size, () => "a buffer of a test");
    const value = ref instanceof Workspace ? null : ref.value;
    context.write(array, value ? storage(value) : makeArray(dtype, size).fill(DIRT));
    this.#arrays.set(ref, array);
    return array;
  }

  write(ref: BufferRef, data: TypedArray): void {
    webgpuContext()!.write(this.of(ref), data);
  }

  run(dispatches: readonly Dispatch[]): void {
    const context = webgpuContext()!;
    for (const { code, label, buffers, groups } of dispatches) {
      const pipeline = context.pipeline(extended(code), label);
      const group = context.group(
        pipeline,
        buffers.map((ref) => this.of(ref).block.buffer),
      );
      const [x, y, z] = groups;
      context.record([{ dispatch: pipeline, group, x, y, z }]);
    }
  }

  read(refs: readonly BufferRef[]): Promise<TypedArray[]> {
    return webgpuContext()!.read(refs.map((ref) => this.of(ref)));
  }

  release(): void {
    for (const array of this.#arrays.values()) webgpuContext()!.release(array);
    this.#arrays.clear();
  }
}

export interface LoopRun {
  readonly outs: readonly Tensor[];
  readonly dispatches: readonly Dispatch[];
}

/** Runs a program: loops by the dispatches for a device, all else on the host. */
export async function runLoops(
  program: Program,
  args: readonly Tensor[],
  gpu: Capabilities,
): Promise<LoopRun> {
  const { steps, ins, outs } = fused(program, () => null, { loads: gpu.limits.maxStorageBuffers - 1 });
  const buffers = new Buffers();
  ins.forEach((slot, i) => {
    buffers.write(slot, storage(args[i]!));
  });
  const dispatches: Dispatch[] = [];
  for (const step of steps) {
    if (step.k !== "loop") await runOnHost(step, buffers);
    else {
      const own = loopDispatches(step, gpu);
      dispatches.push(...own);
      buffers.run(own);
    }
  }
  const data = await buffers.read(outs.map(({ slot }) => slot));
  buffers.release();
  return { outs: outs.map(({ aval }, i) => new Tensor(aval, data[i]!)), dispatches };
}

async function runOnHost({ prim, params, args, outs }: CallStep, buffers: Buffers): Promise<void> {
  const read = await buffers.read(args.map(({ slot }) => slot));
  const hosts = args.map(({ slot, layout }, i) => {
    const { shape, offset, strides } = layout;
    const data: TypedArray = makeArray(slot.aval.dtype, sizeOf(shape));
    const from = { data: read[i]!, offset, strides };
    copyView(from, { data, offset: 0, strides: stridesOf(shape) }, shape);
    return { aval: slot.aval.withShape(shape), data };
  });
  const avals = outs.map(({ aval }) => aval);
  hostResults(prim, hosts, avals, params).forEach((data, i) => {
    buffers.write(outs[i]!, data);
  });
}
