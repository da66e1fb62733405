/**
 * The GPU of these tests. Without one they are skipped, which is printed with its reason; with
 * COTANGENT_NEED_WEBGPU=1, as in CI, that is a failure.
 */
import "../../core/ops.ts";
import "../../core/random.ts";
import { expect, test } from "bun:test";
import type { Backend } from "../../core/backend.ts";
import { init } from "../../core/backends/select.ts";
import { webgpuContext } from "../../core/backends/webgpu/open.ts";
import { devicePut } from "../../core/devices.ts";
import { openDevice } from "../../core/trace.ts";

let reason: string | null = null;
try {
  await init("webgpu", { tuning: false });
  console.log(`webgpu: ${webgpuContext()!.device.name}, through ${webgpuContext()!.device.host}`);
} catch (error) {
  reason = error instanceof Error ? error.message : String(error);
  console.log(`webgpu: skipped: ${reason}`);
}

/** Whether there is a GPU, perhaps a software one. */
export const hasGpu: boolean = reason === null;

/** The backend of the GPU: for tests that run only where there is one. */
export function gpuBackend(): Backend {
  return openDevice("webgpu")!;
}

test.skipIf(!hasGpu && process.env["COTANGENT_NEED_WEBGPU"] !== "1")("a WebGPU adapter is there", () => {
  expect(reason).toBeNull();
});

/** The same tree with its tensors on the host, in one transfer: every provider can do that, reading in place only one. */
export function onHost<T>(tree: T): Promise<T> {
  return devicePut(tree, "cpu");
}

/**
 * What a function gives that reads from the GPU in place. Where the host cannot wait for its GPU the function has to
 * throw the error that says so, and this gives null.
 */
export async function inPlace<T>(f: () => T | Promise<T>): Promise<T | null> {
  if (webgpuContext()!.device.canReadSync) return f();
  try {
    await f();
  } catch (error) {
    // A run of jobs says which of them failed, and why.
    const isRefused = error instanceof Error && ["DeviceError", "RunError"].includes(error.name);
    if (isRefused && error.message.includes("cannot wait for the device")) return null;
    throw error;
  }
  throw new Error("nothing was refused, though this host cannot wait for its GPU: a DeviceError is needed");
}

/** Counts how often the host reads from the open GPU from now on. */
export function countReads(): { count: number } {
  const reads = { count: 0 };
  const context = webgpuContext()!;
  const [read, readSync] = [context.read.bind(context), context.readSync.bind(context)];
  context.read = (arrays) => {
    reads.count++;
    return read(arrays);
  };
  context.readSync = (arrays) => {
    const results = readSync(arrays);
    reads.count++;
    return results;
  };
  return reads;
}
