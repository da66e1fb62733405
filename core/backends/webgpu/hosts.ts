/**
 * Which provider of WebGPU is used: the one asked for, or the first that is there.
 *
 * Deno and browsers bring their own; Bun uses the package `bun-webgpu`, or `webgpu` where that is missing; Node uses
 * `webgpu`. See docs/adr/0018-webgpu-device-layer.md.
 */
import { environment } from "../../environment.ts";
import { DeviceError } from "../../errors.ts";
import type { Gpu } from "./api.ts";
import { type Host, type HostName, releaseMemory, requestDevice, writeThroughCopy } from "./host.ts";
import { openBunWebGpu } from "./host_bun.ts";
import { openDawn } from "./host_dawn.ts";

/** Of the names a program may ask for, in no order. */
export const HOST_NAMES: readonly HostName[] = ["navigator", "bun-webgpu", "webgpu"];

/** The name is a variable, so that a bundle for browsers does not look for the package. */
const load = (name: string): Promise<unknown> => import(name);

const openers: Readonly<Record<HostName, () => Promise<Host>>> = {
  navigator: async () => {
    const { navigator } = globalThis as { readonly navigator?: { readonly gpu?: Gpu } };
    const gpu = navigator?.gpu;
    if (gpu === undefined) throw new Error("this program has no navigator.gpu");
    return { name: "navigator", gpu, requestDevice, write: writeThroughCopy, release: releaseMemory };
  },
  "bun-webgpu": () => openBunWebGpu(load),
  webgpu: () => openDawn(load),
};

/** One for the life of the process: providers do not survive their entry point being collected. */
const opened = new Map<HostName, Promise<Host>>();

/**
 * The provider of that name; by default the one that `COTANGENT_WEBGPU` names, or else the first one that is there.
 *
 * @throws {DeviceError} if there is none
 */
export async function openHost(name: string | undefined = environment("COTANGENT_WEBGPU")): Promise<Host> {
  if (name !== undefined && !HOST_NAMES.includes(name as HostName)) {
    throw new RangeError(`Cannot open WebGPU host "${name}": one of ${HOST_NAMES.join(", ")} is needed`);
  }
  const names = name === undefined ? usual() : [name as HostName];
  const reasons: string[] = [];
  for (const candidate of names) {
    const host = opened.get(candidate) ?? openers[candidate]();
    opened.set(candidate, host);
    try {
      return await host;
    } catch (error) {
      opened.delete(candidate);
      const reason = error instanceof Error ? error.message : String(error);
      reasons.push(`${candidate}: ${reason.split("\n")[0]}`);
    }
  }
  throw new DeviceError(
    "absent",
    "",
    `Cannot open WebGPU: no provider works (${reasons.join("; ")}), one is needed, such as the package ${names[0] === "navigator" ? "webgpu" : names[0]}`,
  );
}

/** What to try, in order, in this kind of program. */
function usual(): readonly HostName[] {
  if ("Bun" in globalThis) return ["bun-webgpu", "webgpu", "navigator"];
  const { process } = globalThis as { readonly process?: { readonly release?: { readonly name?: string } } };
  const isNode = !("Deno" in globalThis) && process?.release?.name === "node";
  return isNode ? ["webgpu", "navigator"] : ["navigator"];
}
