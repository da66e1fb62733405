/** Where the processes of a run compute. */
import { backendInfo, init } from "../core/backends/select.ts";
import { openDevice } from "../core/trace.ts";
import type { DeviceName } from "./config.ts";

/**
 * Opens the device of one process of a run, and says in few words what computes there. The number spreads processes over
 * the adapters: worker n gets adapter n, counted round.
 *
 * @throws {DeviceError} if there is no adapter
 */
export async function openPlace(device: DeviceName, number: number): Promise<string> {
  if (device === "cpu") {
    const { backend, products } = backendInfo();
    return products === undefined ? `${backend} backend` : `${backend} backend, products by ${products}`;
  }
  await init(device, { adapter: await adapterOf(number) });
  return `${device} on ${openDevice(device)!.info()["adapter"]}`;
}

/** The adapter of a process, by its number among all: no processor has a share where there is a graphics processor. */
async function adapterOf(number: number): Promise<number> {
  const { listAdapters } = await import("../core/backends/webgpu/device.ts");
  const { isSoftwareName } = await import("../core/backends/webgpu/capabilities.ts");
  const names = await listAdapters();
  const all = [...names.keys()];
  const graphics = all.filter((i) => !isSoftwareName(names[i]!));
  const pool = graphics.length > 0 ? graphics : all;
  return pool[number % pool.length] ?? number;
}
