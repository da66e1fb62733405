/**
 * Which backend is current from the start: the compiled one, unless the environment variable COTANGENT_BACKEND says
 * `reference`. Importing this file makes the choice.
 */
import type { Backend } from "../backend.ts";
import { reference } from "../backend.ts";
import { environment } from "../environment.ts";
import { DeviceError } from "../errors.ts";
import { currentBackend, setBackend } from "../trace.ts";
import { cpu } from "./cpu/backend.ts";
import type { WebgpuOptions } from "./webgpu/open.ts";

const choices: Readonly<Record<string, Backend>> = { cpu, reference };

const name: string = environment("COTANGENT_BACKEND") ?? "cpu";
const choice: Backend | undefined = choices[name];
if (choice === undefined) {
  throw new RangeError(
    `Cannot use backend "${name}": it is the value of COTANGENT_BACKEND, one of ${Object.keys(choices).join(", ")} is needed`,
  );
}
setBackend(choice);

/**
 * What computations run on, as text by topic: the backend, and for the compiled one its threads, instructions and the
 * library that multiplies matrices.
 *
 * Shapes: none.
 *
 * @example What the documentation was checked with
 * ```ts
 * assert(["cpu", "reference"].includes(ct.backendInfo()["backend"]!));
 * ```
 * @since 0.2.0
 */
export function backendInfo(): Readonly<Record<string, string>> {
  return currentBackend().info();
}

/**
 * Opens a device: "webgpu" is the GPU, "cpu" is always open. Nothing happens where it is open already.
 *
 * Shapes: none.
 * Units: bytes.
 *
 * @param device "cpu" or "webgpu"
 * @param options which provider and adapter of WebGPU, and how much memory it may use
 * @throws {DeviceError} if there is no adapter, or only one that does not compute; the message says what to do
 * @example The device that is always there
 * ```ts
 * await ct.init("cpu");
 * ```
 * @since 0.3.0
 */
export async function init(device: string, options: WebgpuOptions = {}): Promise<void> {
  if (device === "cpu") return;
  if (device !== "webgpu") {
    throw new DeviceError(
      "absent",
      device,
      `Cannot init "${device}": there is no such device, cpu or webgpu is needed`,
    );
  }
  const { openWebgpu } = await import("./webgpu/open.ts");
  await openWebgpu(options);
}

/**
 * Closes a device: its tensors are gone, what waits for them is rejected, and `init` opens it again.
 *
 * Shapes: none.
 *
 * @example Closing what was not open does nothing
 * ```ts
 * await ct.closeDevice("webgpu");
 * ```
 * @since 0.3.0
 */
export async function closeDevice(device: string): Promise<void> {
  if (device !== "webgpu") return;
  const { closeWebgpu } = await import("./webgpu/open.ts");
  closeWebgpu();
}
