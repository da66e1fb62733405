/**
 * What a browser is asked to do: open its GPU, compare primitives with the reference there, and train the example on the
 * GPU and on the processor. The answer goes back to the server that the page came from.
 */
import { webgpuContext } from "../../core/backends/webgpu/open.ts";
import { openDevice } from "../../core/trace.ts";
import { train } from "../../examples/browser/train.ts";
import * as ct from "../../mod.ts";
import { type Comparison, compareAll, recorded } from "../webgpu/conformance_core.ts";

/** What the page tells. */
export interface Answer {
  /** Why it went no further. */
  readonly error: string | null;
  /** Whether that is because this browser has no GPU. */
  readonly isAbsent: boolean;
  readonly adapter: string;
  /** What computes on the processor, by topic. */
  readonly processor: Readonly<Record<string, string>>;
  /** How many results agree with the reference. */
  readonly compared: number;
  /** The losses of the example. */
  readonly losses: { readonly cpu: readonly number[]; readonly webgpu: readonly number[] };
}

const STEPS = 200;
/** Every so many steps the loss is read. */
export const EVERY = 40;

/** The losses of the example on a device. */
export async function losses(device: "cpu" | "webgpu"): Promise<number[]> {
  const list: number[] = [];
  for await (const { loss, device: where } of train(device, STEPS, EVERY)) {
    if (where !== device) throw new Error(`the loss is on ${where}, ${device} is needed`);
    list.push(loss);
  }
  return list;
}

async function conformance(): Promise<number> {
  const gpu = openDevice("webgpu")!;
  const { canReadSync } = webgpuContext()!.device;
  const seeds = [2, 9].map((size) => ({ seed: size, size }));
  const all = ct.primitives().flatMap((primitive) => {
    return seeds.map((seed): Comparison | null => recorded(gpu, primitive, seed, canReadSync));
  });
  return compareAll(all.filter((one) => one !== null));
}

async function answer(): Promise<Answer> {
  const told: Answer = {
    error: null,
    isAbsent: false,
    adapter: "none",
    processor: ct.backendInfo(),
    compared: 0,
    losses: { cpu: [], webgpu: [] },
  };
  try {
    await ct.init("webgpu");
    const { device } = webgpuContext()!;
    return {
      ...told,
      adapter: `${device.name} through ${device.host}`,
      compared: await conformance(),
      losses: { cpu: await losses("cpu"), webgpu: await losses("webgpu") },
    };
  } catch (error) {
    const isAbsent = error instanceof ct.DeviceError && error.reason === "absent";
    return { ...told, isAbsent, error: error instanceof Error ? String(error.stack) : String(error) };
  }
}

// The test imports this file too.
if ("document" in globalThis)
  await fetch("/answer", { method: "POST", body: JSON.stringify(await answer()) });
