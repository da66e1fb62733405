/**
 * Where products are stored. Shaders call `store(at, value)`, or `storeQuad(at, value)` for four neighbours whose first
 * is at a multiple of four; so whatever else becomes of a value is said in one place.
 */
import type { BufferRef } from "./kernel.ts";
import { binding } from "./wgsl.ts";

export interface Target {
  readonly buffers: readonly BufferRef[];
  /** What was stored can be read back by `stored(at)` and `storedQuad(at)`: nothing was done to it. */
  readonly keeps: boolean;
  /** Declares the buffers as bindings from `first` on, and the functions; `inQuads` says which of them are called. */
  text(first: number, inQuads: boolean): string;
}

/** A buffer that takes values as they are. */
export function plainTarget(buffer: BufferRef, type: "f32" | "i32" | "u32"): Target {
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
