/** The provider `webgpu` (Dawn through Node-API), version 0.6.2. */
import type { Gpu } from "./api.ts";
import { type Host, releaseMemory, requestDevice, writeThroughCopy } from "./host.ts";
import { mayHaveVulkan } from "./vulkan.ts";

interface Package {
  create(flags: readonly string[]): Gpu;
}

/** Matrix operations of subgroups count as unsafe there; times are otherwise rounded to 0.1 ms. */
const FLAGS: readonly string[] = [
  "enable-dawn-features=allow_unsafe_apis",
  "disable-dawn-features=timestamp_quantization",
];

/** Every entry point ever made: when one is collected, a later collection crashes the process. */
const kept: Gpu[] = [];

/** A name that no adapter has: asking for it is answered with the names that there are. */
const NO_ADAPTER = "?";

export async function openDawn(load: (name: string) => Promise<unknown>): Promise<Host> {
  const found = (await load("webgpu")) as Package;
  const create = (flags: readonly string[]): Gpu => {
    const gpu = found.create([...FLAGS, ...flags]);
    kept.push(gpu);
    return gpu;
  };
  return {
    name: "webgpu",
    gpu: create([]),
    mayHaveDriver: () => mayHaveVulkan(load),
    requestDevice,
    // Outside Bun its writeBuffer ends the process for memory in a SharedArrayBuffer.
    write: writeThroughCopy,
    release: releaseMemory,
    adapterNames: async () => {
      const reply = await attempt(() => create([`adapter=${NO_ADAPTER}`]).requestAdapter());
      return [...String(reply).matchAll(/name: '([^']*)'/g)].map((match) => match[1]!);
    },
    adapterNamed: async (name) => create([`adapter=${name}`]).requestAdapter(),
  };
}

/** What a call gives or throws. */
async function attempt<T>(call: () => Promise<T>): Promise<T | unknown> {
  try {
    return await call();
  } catch (error) {
    return error;
  }
}
