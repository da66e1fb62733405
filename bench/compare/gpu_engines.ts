/** Who is measured on a GPU: each engine is a process of its own, and those on `webgpu` use the same Dawn. */
import { fileURLToPath } from "node:url";
import type { Engine } from "./engines.ts";

const engine = (
  id: string,
  family: string,
  label: string,
  file: string,
  env: Readonly<Record<string, string>>,
): Engine => ({
  id,
  family,
  label,
  command: [process.execPath, fileURLToPath(new URL(file, import.meta.url))],
  env: { COMPARE_DEVICE: "webgpu", ...env },
});

export function gpuEngines(adapter: string | undefined): Engine[] {
  const env: Readonly<Record<string, string>> = adapter === undefined ? {} : { COMPARE_ADAPTER: adapter };
  const hosted = (host: string): Readonly<Record<string, string>> => ({ ...env, COTANGENT_WEBGPU: host });
  const own = "./cotangent_child.ts";
  return [
    {
      ...engine("machine", "machine", "the device", "./gpu_machine_child.ts", env),
      only: ["device-"],
    },
    engine("cotangent", "cotangent", "cotangent, bun-webgpu", own, hosted("bun-webgpu")),
    engine("cotangent-dawn", "cotangent", "cotangent, webgpu", own, hosted("webgpu")),
    engine("jax", "jax", "jax-js, webgpu", "./jax_child.ts", env),
    engine("tfjs", "tfjs", "TensorFlow.js, webgpu", "./tfjs_child.ts", env),
  ];
}
