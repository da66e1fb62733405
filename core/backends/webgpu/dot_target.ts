/**
 * Where products are stored. Shaders call `store(at, value)`, or `storeQuad(at, value)` for four neighbours whose first
 * is at a multiple of four; so whatever else becomes of a value is said in one place.
 */
import type { CallStep } from "../../passes/fuse.ts";
import { nearestHalves } from "./halves.ts";
import type { BufferRef } from "./kernel.ts";
import { epilogueOf } from "./loops_epilogue.ts";
import { binding, numberType, type StorageType, storageType } from "./wgsl.ts";

export interface Target {
  readonly buffers: readonly BufferRef[];
  /** What was stored can be read back by `stored(at)` and `storedQuad(at)`: nothing was done to it. */
  readonly keeps: boolean;
  /** Declares the buffers as bindings from `first` on, and the functions; `inQuads` says which of them are called. */
  text(first: number, inQuads: boolean): string;
}

/** A buffer that takes values as they are, or the float16 nearest to them. */
export function plainTarget(buffer: BufferRef, type: StorageType): Target {
  if (type === "f16") return halfTarget(buffer);
  return {
    buffers: [buffer],
    keeps: true,
    text(first, inQuads) {
      const vector = `vec4<${type}>`;
      return inQuads
        ? `${binding(first, "out", vector, "read_write")}
fn storeQuad(at: u32, value: ${vector}) { out[at >> 2u] = value; }
fn storedQuad(at: u32) -> ${vector} { return out[at >> 2u]; }`
        : `${binding(first, "out", type, "read_write")}
fn store(at: u32, value: ${type}) { out[at] = value; }
fn stored(at: u32) -> ${type} { return out[at]; }`;
    },
  };
}

function halfTarget(buffer: BufferRef): Target {
  return {
    buffers: [buffer],
    // What is read back would not be the sum.
    keeps: false,
    text: (first, inQuads) =>
      inQuads
        ? `${binding(first, "out", "vec4<f16>", "read_write")}
${nearestHalves()}
fn storeQuad(at: u32, value: vec4<f32>) { out[at >> 2u] = nearestHalves(value); }`
        : `${binding(first, "out", "f16", "read_write")}
${nearestHalves()}
fn store(at: u32, value: f32) { out[at] = f16(nearestHalf(value)); }`,
  };
}

/** Where the one result of a step goes: to its buffer, or to what its epilogue makes of it, or to both. */
export function targetOf({ outs, epilogue }: CallStep): Target {
  const result = outs[0]!;
  const type = numberType(result.aval.dtype);
  const element = storageType(result.aval.dtype);
  const plain = plainTarget(result, element);
  if (epilogue === null) return plain;
  const { loop, keepsResult } = epilogue;
  const kept = keepsResult ? plain.buffers : [];
  const follow = (first: number, inQuads: boolean) =>
    epilogueOf(loop, result, { firstBinding: first + kept.length, inQuads });
  const [single, quad] = [follow(0, false), follow(0, true)];
  // Vectors and elements may be met in different orders, but the buffers of a target have one.
  const hasQuads = quad.buffers.every((buffer, i) => buffer === single.buffers[i]);
  const vector = `vec4<${type}>`;
  const isHalf = element === "f16";
  return {
    buffers: [...kept, ...single.buffers],
    // The epilogue may write where it reads, and so it sees only whole sums.
    keeps: false,
    text(first, inQuads) {
      const isVector = inQuads && hasQuads;
      const { declarations, statement } = follow(first, isVector);
      const keep = (index: string): string => (keepsResult ? `out[${index}] = rounded;` : "");
      const lines = keepsResult
        ? [binding(first, "out", isVector ? `vec4<${element}>` : element, "read_write")]
        : [];
      lines.push(declarations);
      if (isHalf) lines.push(nearestHalves());
      if (isVector) {
        lines.push(`fn storeQuad(at: u32, value: ${vector}) {
let rounded = ${isHalf ? "nearestHalves(value)" : "value"};
${keep("at >> 2u")} ${statement("(at >> 2u)", "rounded")}
}`);
      } else {
        lines.push(`fn store(at: u32, value: ${type}) {
let rounded = ${isHalf ? "f16(nearestHalf(value))" : "value"};
${keep("at")} ${statement("at", "rounded")}
}`);
        if (inQuads) {
          const stores = [0, 1, 2, 3].map((i) => `store(at + ${i}u, value[${i}]);`);
          lines.push(`fn storeQuad(at: u32, value: ${vector}) { ${stores.join(" ")} }`);
        }
      }
      return lines.join("\n");
    },
  };
}
