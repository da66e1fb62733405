/**
 * The GPU of Deno, whose shader compiler is not that of Bun's packages: every primitive against the reference, on calls
 * drawn from its domain, and a network that learns the same on it as on the processor. Run it with Deno; it ends with an
 * error when a number is wrong. Without an adapter it prints why it is skipped, which with COTANGENT_NEED_WEBGPU=1 is an
 * error.
 */
import { webgpuBackend } from "../../core/backends/webgpu/backend.ts";
import { Context } from "../../core/backends/webgpu/context.ts";
import { type Device, openDevice as openGpu } from "../../core/backends/webgpu/device.ts";
import { webgpuContext } from "../../core/backends/webgpu/open.ts";
import { addDevice, openDevice } from "../../core/trace.ts";
import { train } from "../../examples/browser/train.ts";
import * as ct from "../../mod.ts";
import { type Comparison, compareAll, recorded } from "../webgpu/conformance_core.ts";

/** Largest sizes of drawn axes, and how many calls are drawn with each. */
const SIZES: readonly number[] = [1, 3, 8, 21];
const CALLS = 3;

/** Every primitive with the shaders for this device, or for hardware like it: programs on the processor get others. */
async function conformance(device: Device, isHardware: boolean): Promise<void> {
  if (isHardware) {
    const name = { value: `${device.name}, taken for hardware` };
    Object.defineProperties(device, { name, isSoftware: { value: false } });
    addDevice("webgpu", webgpuBackend(new Context(device, () => 2 ** 30)));
  }
  const gpu = openDevice("webgpu")!;
  const faults: string[] = [];
  let count = 0;
  for (const primitive of ct.primitives()) {
    const comparisons: Comparison[] = [];
    const attempt = async (work: () => unknown): Promise<void> => {
      try {
        await work();
      } catch (error) {
        faults.push(error instanceof Error ? error.message : String(error));
      }
    };
    for (const size of SIZES) {
      for (let i = 0; i < CALLS; i++) {
        const seed = { seed: 7919 * i + size, size };
        await attempt(() => {
          const one = recorded(gpu, primitive, seed, device.canReadSync);
          if (one !== null) comparisons.push(one);
        });
      }
    }
    await attempt(async () => {
      count += await compareAll(comparisons);
    });
  }
  if (faults.length > 0) throw new Error(`${faults.length} calls differ:\n  ${faults.join("\n  ")}`);
  console.log(`deno webgpu: ${count} results on ${device.name}`);
}

/** A network that is trained on both ends at one loss. */
async function training(): Promise<void> {
  const last = async (device: "cpu" | "webgpu"): Promise<number> => {
    const losses: number[] = [];
    for await (const { loss } of train(device, 200, 50)) losses.push(loss);
    if (!(losses.at(-1)! < losses[0]! / 10)) throw new Error(`the losses on ${device} are ${losses}`);
    return losses.at(-1)!;
  };
  const [cpu, webgpu] = [await last("cpu"), await last("webgpu")];
  if (Math.abs(cpu - webgpu) > 1e-4) throw new Error(`the loss is ${webgpu} on webgpu, ${cpu} is needed`);
  console.log(`deno webgpu: 200 steps end at a loss of ${webgpu}, on the processor at ${cpu}`);
}

let reason: string | null = null;
try {
  await ct.init("webgpu");
} catch (error) {
  if (globalThis.process?.env["COTANGENT_NEED_WEBGPU"] === "1") throw error;
  reason = error instanceof Error ? error.message : String(error);
  console.error(`skipped: deno webgpu: ${reason}`);
}
if (reason === null) {
  await conformance(webgpuContext()!.device, false);
  await training();
  await conformance(await openGpu(), true);
}
