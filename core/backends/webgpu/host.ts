/**
 * What a provider of WebGPU is to the rest of the backend: the entry point, and those few things that providers do
 * differently.
 */
import type {
  Gpu,
  GpuAdapter,
  GpuBindGroup,
  GpuBindGroupLayout,
  GpuBuffer,
  GpuCommandBuffer,
  GpuComputePass,
  GpuComputePipeline,
  GpuDevice,
  GpuDeviceDescriptor,
  GpuPipelineLayout,
  GpuQuerySet,
  GpuShaderModule,
} from "./api.ts";

export type HostName = "navigator" | "bun-webgpu" | "webgpu";

/** Objects that are given back when they are no longer needed, by kind. */
export interface Releasable {
  readonly buffer: GpuBuffer;
  readonly commands: GpuCommandBuffer;
  readonly group: GpuBindGroup;
  readonly layout: GpuBindGroupLayout;
  readonly module: GpuShaderModule;
  readonly pass: GpuComputePass;
  readonly pipeline: GpuComputePipeline;
  readonly pipelineLayout: GpuPipelineLayout;
  readonly queries: GpuQuerySet;
}

export interface Host {
  readonly name: HostName;
  readonly gpu: Gpu;
  /** Opens a device. */
  requestDevice(adapter: GpuAdapter, descriptor: GpuDeviceDescriptor): Promise<GpuDevice>;
  /** Writes whole words, from memory of any kind. */
  write(device: GpuDevice, buffer: GpuBuffer, offset: number, bytes: Uint8Array): void;
  /** Gives an object back; it must not be used again. Buffers and query sets lose their memory at once. */
  release<K extends keyof Releasable>(kind: K, object: Releasable[K]): void;
  /** Whether it may find a driver, where it would print a warning without one; else it is asked. */
  readonly mayHaveDriver?: () => Promise<boolean>;
  /** The adapters by name, where the provider can list them. */
  readonly adapterNames?: () => Promise<readonly string[]>;
  /** The adapter of that name, from a provider that lists them. */
  readonly adapterNamed?: (name: string) => Promise<GpuAdapter | null>;
  /** Lets callbacks that are due run now, without a turn of the event loop, where the provider can. */
  readonly pump?: () => void;
  /** The value that a settled promise has, once `pump` has settled it; undefined before. */
  readonly peek?: <T>(promise: Promise<T>) => T | undefined;
}

/** As the specification has it. */
export function requestDevice(adapter: GpuAdapter, descriptor: GpuDeviceDescriptor): Promise<GpuDevice> {
  return adapter.requestDevice(descriptor);
}

/** Memory that is destroyed, the rest collected: all that the specification asks for. */
export function releaseMemory<K extends keyof Releasable>(kind: K, object: Releasable[K]): void {
  if (kind === "buffer" || kind === "queries") (object as Releasable["buffer" | "queries"]).destroy();
}

const STAGING_BYTES = 1 << 20;

/**
 * Writes through a small array of unshared memory: some providers throw, or crash, where the data live in a
 * SharedArrayBuffer, as the heap of the compiled backend does. Nothing is called for no data, at which one provider
 * panics and another warns.
 */
export function writeThroughCopy(
  device: GpuDevice,
  buffer: GpuBuffer,
  offset: number,
  bytes: Uint8Array,
): void {
  if (bytes.buffer instanceof ArrayBuffer) {
    if (bytes.byteLength > 0) device.queue.writeBuffer(buffer, offset, bytes);
    return;
  }
  const staging = new Uint8Array(Math.min(STAGING_BYTES, bytes.byteLength));
  for (let at = 0; at < bytes.byteLength; at += STAGING_BYTES) {
    const part = bytes.subarray(at, at + STAGING_BYTES);
    staging.set(part);
    device.queue.writeBuffer(buffer, offset + at, staging, 0, part.byteLength);
  }
}
