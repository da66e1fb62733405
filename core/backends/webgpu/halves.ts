/** float16 on the device: stored where shaders have it, and rounded by the expression that every backend uses. */
import type { Aval } from "../../aval.ts";
import { DeviceError } from "../../errors.ts";
import { input } from "../../expr.ts";
import { roundedToHalf } from "../../half.ts";
import { Block, Scope } from "./expressions.ts";
import type { Capabilities } from "./kernel.ts";

let functions: string | null = null;

/**
 * Declares `nearestHalf(x: f32) -> f32`, the nearest float16 number, and `nearestHalves` of a vector, as float16. The
 * conversion of shaders may round in any direction; of a number that is a float16 it gives that one.
 */
export function nearestHalves(): string {
  functions ??= written();
  return functions;
}

function written(): string {
  const block = new Block(new Scope("float16"));
  const x = input(0, "f32");
  block.bind(x, "x");
  const result = block.emit(roundedToHalf(x));
  const parts = [0, 1, 2, 3].map((i) => `nearestHalf(x[${i}])`);
  return [
    "fn nearestHalf(x: f32) -> f32 {",
    ...block.lines,
    `return ${result};`,
    "}",
    `fn nearestHalves(x: vec4<f32>) -> vec4<f16> { return vec4<f16>(vec4<f32>(${parts.join(", ")})); }`,
  ].join("\n");
}

/** @throws {DeviceError} for elements that shaders of the device do not have */
export function checkHeld(aval: Aval, { features }: Capabilities, verb: "compute" | "put"): void {
  const { dtype } = aval;
  if (dtype !== "float64" && (dtype !== "float16" || features.f16)) return;
  const lack = dtype === "float64" ? "shaders have no float64" : "the adapter has no shader-f16";
  throw new DeviceError(
    "invalid",
    String(aval),
    `Cannot ${verb} ${aval} on webgpu: ${lack}, float32 is needed; use astype("float32")${verb === "put" ? "" : ", or the cpu"}`,
  );
}
