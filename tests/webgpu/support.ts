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
    reads.count++;
    return readSync(arrays);
  };
  return reads;
}
