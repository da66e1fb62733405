/**
 * The provider `bun-webgpu` (Dawn through bun:ffi), version 0.1.5. Its objects are never collected, so each is released
 * by hand; every function here answers one measured fault, and goes when the fault is gone.
 */
import type { Gpu, GpuAdapter, GpuBuffer, GpuDevice, GpuDeviceDescriptor } from "./api.ts";
import type { Host, Releasable } from "./host.ts";
import { mayHaveVulkan } from "./vulkan.ts";

/** What the package has beyond the specification. */
interface Package {
  createGPUInstance(): Gpu & { readonly _ticker: Ticker };
  readonly globalConstructors: { readonly AbortError: unknown };
}

export interface Ticker {
  _ticking: boolean;
  _waiting: number;
  processEvents(): void;
  scheduleTick(): void;
}

type Pointer = number & { readonly __pointer__: null };

/** The C functions by name, and an object with its address. */
interface Native {
  readonly ptr: Pointer;
  readonly lib: Readonly<Record<string, (...args: readonly unknown[]) => unknown>>;
}

interface NativeBuffer extends Native {
  readonly bufferPtr: Pointer;
  readonly _destroyed: boolean;
  destroy(): void;
}

const native = (object: unknown): Native => object as Native;

/** Milliseconds during which a waiting program asks at every turn of the loop, and the pause between questions after. */
const EAGER_MS = 2;
const PAUSE_MS = 1;

/** The package, or a reason why it cannot be used. */
export async function openBunWebGpu(load: (name: string) => Promise<unknown>): Promise<Host> {
  const found = (await load("bun-webgpu")) as Package;
  const ffi = (await load("bun:ffi")) as { ptr(data: ArrayBufferView): Pointer };
  nameAbortError(found);
  const gpu = found.createGPUInstance();
  backOff(gpu._ticker);
  return {
    name: "bun-webgpu",
    gpu,
    mayHaveDriver: () => mayHaveVulkan(load),
    requestDevice: (adapter, descriptor) => requestExact(adapter, descriptor, ffi.ptr),
    write: writeWords,
    release,
    pump: () => gpu._ticker.processEvents(),
    peek: <T>(promise: Promise<T>): T | undefined => {
      const value = Bun.peek(promise);
      return value === promise ? undefined : (value as T);
    },
  };
}

/**
 * Its buffers reject a pending map with `AbortError`, a name that its bundle lost: without a global of that name the
 * callback throws a ReferenceError in the middle of the event loop, which ends the process when a device is lost.
 */
function nameAbortError({ globalConstructors }: Package): void {
  if ("AbortError" in globalThis) return;
  Object.defineProperty(globalThis, "AbortError", {
    value: globalConstructors.AbortError,
    configurable: true,
    writable: true,
  });
}

/**
 * Its ticker asks for events at every turn of the loop and so keeps a core busy for as long as the device works, a core
 * that a software device computes with: after a while we ask once a millisecond.
 */
export function backOff(ticker: Ticker): void {
  const tickNow = ticker.scheduleTick.bind(ticker);
  let waiting = 0;
  let since = 0;
  ticker.scheduleTick = () => {
    if (ticker._ticking) return;
    if (ticker._waiting !== waiting) {
      waiting = ticker._waiting;
      since = performance.now();
    }
    if (performance.now() - since < EAGER_MS) {
      tickNow();
      return;
    }
    ticker._ticking = true;
    setTimeout(() => {
      ticker._ticking = false;
      ticker.processEvents();
      if (ticker._waiting > 0) ticker.scheduleTick();
      else waiting = 0;
    }, PAUSE_MS);
  };
}

/** The structure type of a list of switches, in Dawn's header. */
const DAWN_TOGGLES = 327_690n;

/**
 * It has no way to set a switch of Dawn, and without this one times are rounded to 65536 ns: so the C structure
 * `{next, type, enabledCount, enabled, disabledCount, disabled}` is made here, of words of eight bytes.
 */
async function requestExact(
  adapter: GpuAdapter,
  descriptor: GpuDeviceDescriptor,
  ptr: (data: ArrayBufferView) => Pointer,
): Promise<GpuDevice> {
  // On buffers of their own, which do not move.
  const name = new Uint8Array(new ArrayBuffer(32));
  new TextEncoder().encodeInto("timestamp_quantization", name);
  const names = new BigUint64Array(new ArrayBuffer(8));
  names[0] = BigInt(ptr(name));
  const toggles = new BigUint64Array(new ArrayBuffer(48));
  toggles.set([0n, DAWN_TOGGLES, 0n, 0n, 1n, BigInt(ptr(names))]);
  const extended: GpuDeviceDescriptor & { readonly nextInChain: Pointer } = {
    ...descriptor,
    nextInChain: ptr(toggles),
  };
  try {
    return await adapter.requestDevice(extended);
  } finally {
    void [name, names]; // referenced until here: C reads them
  }
}

/** Its writeBuffer throws for memory in a SharedArrayBuffer, which C reads like any other: so call C, without a copy. */
function writeWords(device: GpuDevice, buffer: GpuBuffer, offset: number, bytes: Uint8Array): void {
  if (bytes.byteLength === 0) return;
  const queue = native(device.queue);
  const size = BigInt(bytes.byteLength);
  queue.lib["wgpuQueueWriteBuffer"]!(queue.ptr, native(buffer).ptr, BigInt(offset), bytes, size);
}

const RELEASED_BY: Readonly<Record<Exclude<keyof Releasable, "buffer">, string>> = {
  commands: "wgpuCommandBufferRelease",
  group: "wgpuBindGroupRelease",
  layout: "wgpuBindGroupLayoutRelease",
  module: "wgpuShaderModuleRelease",
  pass: "wgpuComputePassEncoderRelease",
  pipeline: "wgpuComputePipelineRelease",
  pipelineLayout: "wgpuPipelineLayoutRelease",
  queries: "wgpuQuerySetRelease",
};

/**
 * It frees nothing that is dropped: per dispatch, 6.7 kB stay with only `buffer.destroy()`, none with every object
 * released. A buffer is destroyed first and released after; the other order crashes.
 */
function release<K extends keyof Releasable>(kind: K, object: Releasable[K]): void {
  const { lib, ptr } = native(object);
  if (kind !== "buffer") {
    lib[RELEASED_BY[kind as Exclude<K, "buffer">]]!(ptr);
    return;
  }
  const buffer = object as unknown as NativeBuffer;
  if (buffer._destroyed) return;
  buffer.destroy();
  lib["wgpuBufferRelease"]!(buffer.bufferPtr);
}
