/** Words of WGSL that all shader writers use: types, indices, and which invocation does what. */
import type { Aval } from "../../aval.ts";
import type { DType } from "../../dtype.ts";
import { DeviceError } from "../../errors.ts";
import type { Layout } from "../../kernel.ts";
import { sizeOf, stridesOf } from "../../shape.ts";
import type { Capabilities } from "./kernel.ts";

/** What shaders compute with. */
export type NumberType = "f32" | "i32" | "u32";
/** What buffers are arrays of. */
export type StorageType = NumberType | "f16";

/** The type of an element in a buffer; bool is 0 or 1 in a word of its own. */
export function storageType(dtype: DType): StorageType {
  return dtype === "float16" ? "f16" : numberType(dtype);
}

/** The type that shaders compute with: float16 is float32 there. */
export function numberType(dtype: DType): NumberType {
  if (dtype === "float32" || dtype === "float16") return "f32";
  if (dtype === "int32") return "i32";
  if (dtype === "uint32" || dtype === "bool") return "u32";
  throw new DeviceError(
    "invalid",
    dtype,
    `Cannot compute ${dtype} on webgpu: shaders have no such type, float32 is needed`,
  );
}

/** Bytes that an element takes in a buffer: every type but float16 is a word. */
export const WORD_BYTES = 4;

/** Bytes of a buffer of so many elements: whole words. */
export function bufferBytes({ dtype, size }: Pick<Aval, "dtype" | "size">): number {
  return WORD_BYTES * (dtype === "float16" ? Math.ceil(size / 2) : size);
}

/** A module with the extensions that it uses. */
export function extended(code: string): string {
  const f16 = /\bf16\b/.test(code) ? "enable f16;\n" : "";
  const subgroups = /\bsubgroup[A-Z]/.test(code) ? "enable subgroups;\n" : "";
  return f16 + subgroups + code;
}

/** Declares binding `index` of group 0 as an array. */
export function binding(
  index: number,
  name: string,
  element: string,
  access: "read" | "read_write" = "read",
): string {
  return `@group(0) @binding(${index}) var<storage, ${access}> ${name}: array<${element}>;`;
}

/** An index expression that is the sum of its terms. */
function sum(terms: readonly string[]): string {
  return terms.length === 0 ? "0u" : terms.join(" + ");
}

/**
 * The place of an element in its buffer, as an expression of u32: `at` is the expression of its row-major position
 * within the layout's shape, without side effects.
 */
export function elementIndex({ shape, offset, strides }: Layout, at: string): string {
  const axes = merged(shape, strides);
  const terms = axes.flatMap(({ size, stride, below, isFirst }) => {
    if (stride === 0) return [];
    const above = below === 1 ? at : `${at} / ${below}u`;
    const index = isFirst ? above : `(${above}) % ${size}u`;
    return [stride === 1 ? `(${index})` : `(${index}) * ${word(stride)}`];
  });
  if (offset !== 0) terms.push(word(offset));
  return terms.length === 1 ? terms[0]! : `(${sum(terms)})`;
}

/** A number as u32; a negative one wraps around, as sums of indices do. */
export function word(value: number): string {
  return `${value >>> 0}u`;
}

interface Run {
  readonly size: number;
  readonly stride: number;
  /** Elements of the axes after it. */
  readonly below: number;
  /** Nothing is outside: no remainder is needed. */
  readonly isFirst: boolean;
}

/** Neighbouring axes that continue each other are one; axes of one element are none. */
function merged(shape: readonly number[], strides: readonly number[]): Run[] {
  const runs: { size: number; stride: number }[] = [];
  shape.forEach((size, a) => {
    if (size === 1) return;
    const stride = strides[a]!;
    const last = runs.at(-1);
    if (last && last.stride === size * stride) runs[runs.length - 1] = { size: last.size * size, stride };
    else runs.push({ size, stride });
  });
  const below = stridesOf(runs.map(({ size }) => size));
  return runs.map((run, i) => ({ ...run, below: below[i]!, isFirst: i === 0 }));
}

/** Sums of index times stride, one term for each axis that matters. */
export function stridedIndex(
  indices: readonly string[],
  strides: readonly number[],
  offset: number = 0,
): string {
  const terms = indices.flatMap((index, a) => {
    const stride = strides[a]!;
    if (stride === 0) return [];
    return [stride === 1 ? index : `${index} * ${word(stride)}`];
  });
  if (offset !== 0) terms.push(word(offset));
  return `(${sum(terms)})`;
}

/** How many invocations a workgroup of plain loops has. */
export function lineSize(gpu: Capabilities): number {
  return Math.min(256, gpu.limits.maxWorkgroupSize);
}

/** Workgroups for so many units, `perGroup` at a time; more than fit along x continue along y. */
export function groupsFor(
  units: number,
  perGroup: number,
  gpu: Capabilities,
): readonly [x: number, y: number, z: number] {
  const count = Math.ceil(units / perGroup);
  const most = gpu.limits.maxGroupsPerDimension;
  if (count <= most) return [count, 1, 1];
  const y = Math.ceil(count / most);
  if (y > most)
    throw new DeviceError(
      "invalid",
      "dispatch",
      `Cannot run ${units} units: at most ${most * most * perGroup} are possible`,
    );
  return [Math.ceil(count / y), y, 1];
}

/**
 * The head of an entry point whose invocations (`of` "invocation") or workgroups (`of` "group") are numbered through;
 * `unit` is that number, and those beyond the last unit return. `local` is the invocation's number in its workgroup.
 */
export function mainHead(
  units: number,
  size: number,
  groups: readonly [number, number, number],
  of: "invocation" | "group" = "invocation",
): string {
  const group = groups[1] === 1 ? "group.x" : `(group.y * ${groups[0]}u + group.x)`;
  const unit = of === "group" ? group : `${group} * ${size}u + local`;
  const capacity = groups[0] * groups[1] * (of === "group" ? 1 : size);
  // Whole workgroups return together: what follows may have barriers.
  const guard = capacity === units ? "" : `\n  if (unit >= ${units}u) { return; }`;
  return `@compute @workgroup_size(${size})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
  let unit = ${unit};${guard}`;
}

/** How many elements a layout has. */
export function unitsOf(layout: Layout): number {
  return sizeOf(layout.shape);
}

/** A literal of float32: every value but NaN and the infinities, which no literal may be. */
export function floatLiteral(value: number): string {
  const single = Math.fround(value);
  if (Object.is(single, -0)) return "-0.0f";
  const text = String(single);
  return `${/[.e]/.test(text) ? text : `${text}.0`}f`;
}

/** Words that a module needs once for `special`: private variables, whose values no compiler may reject. */
export const SPECIALS = `var<private> nanBits: u32 = 0x7fc00000u;
var<private> infinityBits: u32 = 0x7f800000u;
fn isNan(x: f32) -> bool { return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u; }`;

/** Any float32 as an expression; NaN and the infinities need `SPECIALS` in the module. */
export function floatConstant(value: number): string {
  if (Number.isNaN(value)) return "bitcast<f32>(nanBits)";
  const single = Math.fround(value);
  if (single === Infinity) return "bitcast<f32>(infinityBits)";
  if (single === -Infinity) return "bitcast<f32>(infinityBits | 0x80000000u)";
  return floatLiteral(value);
}

/** An integer or bool constant of the storage type. */
export function constantOf(value: number, type: "f32" | "i32" | "u32"): string {
  if (type === "f32") return floatConstant(value);
  if (type === "u32") return `${value >>> 0}u`;
  return value === -(2 ** 31) ? "bitcast<i32>(0x80000000u)" : `${value | 0}i`;
}
