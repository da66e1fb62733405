/** Programs with the kernels written by hand, as they are for any kind of device that one pretends to have. */
import { reference } from "../../core/backend.ts";
import { namedKernels } from "../../core/backends/webgpu/backend.ts";
import { compile, type WebgpuExecutable } from "../../core/backends/webgpu/executable.ts";
import type { Capabilities, NamedKernel } from "../../core/backends/webgpu/kernel.ts";
import { webgpuContext } from "../../core/backends/webgpu/open.ts";
import { type DType, isFloat, makeArray } from "../../core/dtype.ts";
import { type Program, stage, Var } from "../../core/program.ts";
import { type Shape, sizeOf } from "../../core/shape.ts";
import { adopt } from "../../core/trace.ts";
import type { Tensor, Value } from "../../core/value.ts";
import type { SeededDraw } from "../support/arbitrary_tensor.ts";
import { onHost } from "./support.ts";

export type Computation = (...args: Value[]) => readonly Value[];

/** A program as the reference computes it, equation by equation. */
export function expectedOf(f: Computation, args: readonly Tensor[]): Tensor[] {
  const program = recorded(f, args);
  const values = new Map<Var, Tensor>(program.ins.map((v, i) => [v, args[i]!]));
  const read = (atom: Var | Tensor): Tensor => (atom instanceof Var ? values.get(atom)! : atom);
  for (const { prim, ins, outs, params } of program.eqns) {
    const results = reference.evaluate(prim, ins.map(read), params);
    outs.forEach((v, i) => {
      values.set(v, results[i]!);
    });
  }
  return program.outs.map((atom) => read(atom as Var | Tensor));
}

/** The same program for one kind of device; throws where a part of it runs on the host. */
export function compiledFor(gpu: Capabilities, f: Computation, args: readonly Tensor[]): WebgpuExecutable {
  const kernels = [...namedKernels].map(([name, kernel]): [string, NamedKernel] => [
    name,
    {
      prepare: (ins, outs, params) => kernel.prepare(ins, outs, params, gpu),
      dispatches: (step) => kernel.dispatches(step, gpu),
    },
  ]);
  const executable = compile(recorded(f, args), webgpuContext()!, new Map(kernels));
  if (executable.show().includes("\nhost ")) throw new Error(`no kernel for a part of\n${executable.show()}`);
  return executable;
}

function recorded(f: Computation, args: readonly Tensor[]): Program {
  return stage(
    f,
    args.map((x) => x.aval),
  );
}

/**
 * Devices to write shaders for: this one, a processor, and one whose workgroups are so small that a processor compiles
 * shaders with barriers in a tenth of a second, and whose groups go on along y.
 */
export function devices(): ReadonlyMap<string, Capabilities> {
  const { gpu } = webgpuContext()!;
  const limits = { ...gpu.limits, maxStorageBuffers: 4, maxWorkgroupSize: 16, maxGroupsPerDimension: 255 };
  return new Map([
    ["this device", gpu],
    ...(gpu.isSoftware ? [] : [["a processor", { ...gpu, isSoftware: true }] as const]),
    ["a small GPU", { ...gpu, isSoftware: false, limits }],
  ]);
}

/** A device with memory of its own, and workgroups of any size. */
export function hardware(): ReadonlyMap<string, Capabilities> {
  return new Map([["a GPU", { ...webgpuContext()!.gpu, isSoftware: false }]]);
}

/** Runs a program on every kind of device, and gives its results to a check. */
export async function onDevices(
  f: Computation,
  args: readonly Tensor[],
  check: (actual: readonly Tensor[], device: string) => void,
  kinds: ReadonlyMap<string, Capabilities> = devices(),
): Promise<void> {
  for (const [device, gpu] of kinds) {
    const results = compiledFor(gpu, f, args).run(args);
    check(await onHost(results), device);
  }
}

/** A tensor whose elements are given by their positions. */
export function filled(shape: Shape, dtype: DType, element: (i: number) => number): Tensor {
  const data = makeArray(dtype, sizeOf(shape));
  for (let i = 0; i < data.length; i++) data[i] = element(i);
  return adopt(data, shape, dtype);
}

/** Numbers in [-1, 1), or all words of an integer type. */
export function drawn(draw: SeededDraw, shape: Shape, dtype: DType): Tensor {
  return filled(shape, dtype, () => {
    if (dtype === "bool") return draw.int(0, 1);
    if (isFloat(dtype)) return 2 * draw.unit() - 1;
    return Math.floor(draw.unit() * 2 ** 32) - (dtype === "int32" ? 2 ** 31 : 0);
  });
}
