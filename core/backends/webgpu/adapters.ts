/** Which adapter is opened, and what is asked of it. */
import { DeviceError } from "../../errors.ts";
import type { GpuAdapter, PowerPreference } from "./api.ts";
import type { Host } from "./host.ts";

export interface AdapterOptions {
  /** Which adapter: its number, modulo how many there are, or a part of its name. */
  readonly adapter?: number | string;
  /** Default: "high-performance". */
  readonly powerPreference?: PowerPreference;
}

/**
 * The adapter that is asked for, by default the one the provider prefers.
 *
 * @throws {DeviceError} if there is none that computes
 */
export async function chooseAdapter(host: Host, options: AdapterOptions): Promise<GpuAdapter> {
  const { adapter: wanted, powerPreference = "high-performance" } = options;
  if ((await host.mayHaveDriver?.()) === false) throw absent(host, wanted, []);
  let adapters: GpuAdapter[];
  if (wanted === undefined) {
    const preferred = await host.gpu.requestAdapter({ powerPreference });
    adapters = preferred === null ? [] : [preferred];
  } else if (host.adapterNames !== undefined && host.adapterNamed !== undefined) {
    const names = await host.adapterNames();
    const name = pick(names, (one) => one, wanted);
    const named = name === undefined ? null : await host.adapterNamed(name);
    if (named === null) throw absent(host, wanted, names);
    return named;
  } else {
    adapters = await distinctAdapters(host);
  }
  const chosen = wanted === undefined ? adapters[0] : pick(adapters, adapterName, wanted);
  if (chosen === undefined || isNull(chosen)) throw absent(host, wanted, adapters.map(adapterName));
  return chosen;
}

/** The names that an adapter can be asked for by. */
export async function adapterNames(host: Host): Promise<readonly string[]> {
  if ((await host.mayHaveDriver?.()) === false) return [];
  return host.adapterNames?.() ?? (await distinctAdapters(host)).map(adapterName);
}

export function adapterName({ info }: GpuAdapter): string {
  const parts = [info.description || info.device, info.vendor, info.architecture];
  return parts.filter((part) => part !== "").join(", ") || "unnamed";
}

/** Without a driver `bun-webgpu` offers this one: it takes every command, computes nothing, and reads whatever was there. */
export function isNull({ info }: GpuAdapter): boolean {
  return /^null\b/i.test(info.device || info.description);
}

function absent(host: Host, wanted: number | string | undefined, found: readonly string[]): DeviceError {
  const asked = wanted === undefined ? "a WebGPU adapter" : `WebGPU adapter ${JSON.stringify(wanted)}`;
  const listed = found.map((name) => `"${name}"`).join(", ") || "no adapter";
  return new DeviceError(
    "absent",
    "",
    `Cannot open ${asked}: host ${host.name} finds ${listed}, a graphics driver is needed` +
      " (on Linux a Vulkan driver and libvulkan.so.1; without a graphics processor, mesa-vulkan-drivers)",
  );
}

function pick<T>(list: readonly T[], name: (one: T) => string, wanted: number | string): T | undefined {
  if (typeof wanted === "number") return list[wanted % list.length];
  return list.find((one) => name(one).toLowerCase().includes(wanted.toLowerCase()));
}

/** The adapters that the few options of the standard lead to, each once: WebGPU has no list. */
async function distinctAdapters({ gpu }: Host): Promise<GpuAdapter[]> {
  const byName = new Map<string, GpuAdapter>();
  for (const options of [
    { powerPreference: "high-performance" },
    { powerPreference: "low-power" },
    { forceFallbackAdapter: true },
  ] as const) {
    const adapter = await gpu.requestAdapter(options);
    if (adapter !== null && !isNull(adapter) && !byName.has(adapterName(adapter))) {
      byName.set(adapterName(adapter), adapter);
    }
  }
  return [...byName.values()];
}
