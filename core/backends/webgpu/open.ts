/** Opens a GPU and makes it a device of the library. Imported when somebody asks for one. */
import type { Backend } from "../../backend.ts";
import { DeviceError } from "../../errors.ts";
import { reportMemory } from "../../memory.ts";
import { addDevice, removeDevice } from "../../trace.ts";
import { webgpuBackend } from "./backend.ts";
import { Context, DEVICE_NAME } from "./context.ts";
import { type DeviceOptions, openDevice } from "./device.ts";
import type { Capabilities } from "./kernel.ts";
import { loadTable, tablePath } from "./tuning_file.ts";
import { ChoiceTable } from "./tuning_table.ts";

/**
 * How a GPU is opened.
 *
 * @since 0.3.0
 */
export interface WebgpuOptions
  extends Pick<DeviceOptions, "host" | "adapter" | "powerPreference" | "validation"> {
  /** The most bytes that tensors and programs may hold together; default 8 GiB, 1 GiB on a software adapter. */
  readonly memoryBytes?: number;
  /** Whether the file of the adapter is used, in which `tune` keeps what it finds. Default: true. */
  readonly tuning?: boolean;
}

const GIB = 2 ** 30;
let current: { readonly context: Context; readonly backend: Backend } | null = null;
/** The openings asked for so far: each waits for those before it, since there is one device. */
let opening: Promise<unknown> = Promise.resolve();
let closings = 0;

/** Opens the device; one that is open already stays, unless it was lost. */
export function openWebgpu(options: WebgpuOptions = {}): Promise<void> {
  const before = closings;
  const opened = opening.then(() => open(options, before));
  opening = opened.catch(() => {});
  return opened;
}

async function open(options: WebgpuOptions, before: number): Promise<void> {
  const { memoryBytes, tuning = true, ...rest } = options;
  if (memoryBytes !== undefined && !(memoryBytes > 0))
    throw new RangeError(`Cannot init webgpu: memoryBytes is ${memoryBytes}, a positive number is needed`);
  if (current && !current.context.device.isLost) {
    if (Object.keys(options).length === 0) return;
    throw new DeviceError(
      "invalid",
      DEVICE_NAME,
      "Cannot init webgpu with options: the device is open already, closeDevice before or no options are needed",
    );
  }
  const device = await openDevice(rest);
  const choices = new ChoiceTable(device.identity, tuning ? tablePath(device.identity) : null);
  await loadTable(choices);
  if (closings !== before) {
    device.close();
    throw new DeviceError(
      "lost",
      DEVICE_NAME,
      `Cannot init webgpu: the device was closed while it opened, another init("webgpu") is needed`,
    );
  }
  current?.context.close();
  const budget = (gpu: Capabilities): number => memoryBytes ?? (gpu.isSoftware ? GIB : 8 * GIB);
  const context = new Context(device, budget, choices);
  current = { context, backend: webgpuBackend(context) };
  addDevice(DEVICE_NAME, current.backend);
  reportMemory(DEVICE_NAME, () => context.pool.report());
}

/** Closes the device: its tensors are gone. */
export function closeWebgpu(): void {
  closings++;
  if (!current) return;
  removeDevice(DEVICE_NAME);
  current.context.close();
  current = null;
}

/** What the open device keeps; null without one. For profiles and tests. */
export function webgpuContext(): Context | null {
  return current?.context ?? null;
}
