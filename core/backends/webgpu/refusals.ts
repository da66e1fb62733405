/** What devices say when they refuse something, as our errors. */
import { DeviceError } from "../../errors.ts";
import type { GpuError } from "./api.ts";

export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** A shader or pipeline that does not compile: the message of the compiler, with the line it is about. */
export function compileError(label: string, message: string, code: string): DeviceError {
  const place = /:(\d+):(\d+)/.exec(message);
  const line = place && code.split("\n")[Number(place[1]) - 1]?.trim();
  const quoted = line && !message.includes(line) ? `${message}\nline ${place[1]}: ${line}` : message;
  return new DeviceError(
    "invalid",
    label,
    `Cannot compile ${label || "a shader"}: the device says "${quoted.trim()}", a shader it takes is needed`,
  );
}

/** An error that no call waited for; its label is the first name in quotes. */
export function refusal(error: GpuError, device: string): DeviceError {
  const label = /"+([^"\n]+)"+/.exec(error.message)?.[1] ?? "";
  const isMemory = error.constructor.name === "GPUOutOfMemoryError";
  return new DeviceError(
    isMemory ? "memory" : "invalid",
    label,
    isMemory
      ? `Cannot find memory on ${device}: it says "${error.message.trim()}", less is needed at a time`
      : `Cannot run ${label || "commands"} on ${device}: it says "${error.message.trim()}", commands it takes are needed`,
  );
}

/** Whether an error only says that something refused before is used: Dawn tells so, and has told the reason. */
export function isConsequence({ message }: GpuError): boolean {
  return /\bis invalid due to a previous error\b/.test(message);
}

export function lostError(doing: string, device: string, label: string, reason: string): DeviceError {
  return new DeviceError(
    "lost",
    label,
    `Cannot ${doing} the device "${device}": it is gone (${reason}), an open one is needed`,
  );
}
