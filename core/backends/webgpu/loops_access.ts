/** How loops read and write buffers: which bindings a dispatch has, and four neighbouring elements at a time. */
import type { Layout } from "../../kernel.ts";
import type { Load, LoopStep, Slot, Store } from "../../passes/fuse.ts";
import { stridesOf } from "../../shape.ts";
import type { BufferRef } from "./kernel.ts";
import { binding, storageType } from "./wgsl.ts";

interface Bound {
  readonly index: number;
  readonly name: string;
  readonly element: string;
  isWritten: boolean;
}

/** The bindings of one dispatch: each buffer is declared once, when it is first used. */
export class Buffers {
  readonly #bound = new Map<BufferRef, Bound>();
  readonly #inQuads: ReadonlySet<BufferRef>;
  readonly #prefix: string;
  readonly #first: number;

  /** `inQuads`: what is declared as vectors of four elements. */
  constructor(inQuads: ReadonlySet<BufferRef> = new Set(), prefix: string = "b", first: number = 0) {
    this.#inQuads = inQuads;
    this.#prefix = prefix;
    this.#first = first;
  }

  get refs(): readonly BufferRef[] {
    return [...this.#bound.keys()];
  }

  declarations(): string {
    return [...this.#bound.values()]
      .map(({ index, name, element, isWritten }) =>
        binding(index, name, element, isWritten ? "read_write" : "read"),
      )
      .join("\n");
  }

  /** The element at an index, to read or to write. */
  element(slot: Slot, index: string, access: "read" | "write" = "read"): string {
    const { name } = this.#use(slot, access);
    return this.#inQuads.has(slot) ? `${name}[(${index}) >> 2u][(${index}) & 3u]` : `${name}[${index}]`;
  }

  /** Four elements at four times the index. */
  quad(slot: Slot, index: string, access: "read" | "write" = "read"): string {
    return `${this.#use(slot, access).name}[${index}]`;
  }

  /** A word of a buffer that belongs to no slot. */
  word(ref: BufferRef, index: string, access: "read" | "write" = "read"): string {
    return this.raw(ref, "u32", index, access);
  }

  /** An element as it is, of whatever type. */
  raw(ref: BufferRef, type: "u32" | "f16", index: string, access: "read" | "write" = "read"): string {
    return `${this.#bind(ref, type, access).name}[${index}]`;
  }

  #use(slot: Slot, access: "read" | "write"): Bound {
    const type = storageType(slot.aval.dtype);
    return this.#bind(slot, this.#inQuads.has(slot) ? `vec4<${type}>` : type, access);
  }

  #bind(ref: BufferRef, element: string, access: "read" | "write"): Bound {
    let bound = this.#bound.get(ref);
    if (bound === undefined) {
      const at = this.#bound.size;
      bound = { index: this.#first + at, name: `${this.#prefix}${at}`, element, isWritten: false };
      this.#bound.set(ref, bound);
    }
    if (access === "write") bound.isWritten = true;
    return bound;
  }
}

/** The primitives that a loop computes, each once. */
export function labelOf({ names }: LoopStep): string {
  return [...new Set(names)].join("+");
}

/** What is loaded, as a value of the type that it has in expressions. */
export function loaded({ slot }: Load, element: string): string {
  const { dtype } = slot.aval;
  if (dtype === "float16") return `f32(${element})`;
  return dtype === "bool" ? `${element} != 0u` : element;
}

/** A value as it is stored; one of float16 is a float16 number already. */
export function stored({ slot }: Store, value: string): string {
  const { dtype } = slot.aval;
  if (dtype === "float16") return `f16(${value})`;
  return dtype === "bool" ? `select(0u, 1u, ${value})` : value;
}

/** The type of a vector of four elements as a buffer has them. */
export function quadType({ slot }: Load | Store): string {
  return `vec4<${storageType(slot.aval.dtype)}>`;
}

/** The same elements with as few axes as possible, in the same order. */
export function mergedLayout({ shape, offset, strides }: Layout): Layout {
  const runs: { size: number; stride: number }[] = [];
  shape.forEach((size, a) => {
    if (size === 1) return;
    const stride = strides[a]!;
    const last = runs.at(-1);
    if (last && last.stride === size * stride) runs[runs.length - 1] = { size: last.size * size, stride };
    else runs.push({ size, stride });
  });
  return { shape: runs.map(({ size }) => size), offset, strides: runs.map(({ stride }) => stride) };
}

/**
 * How four elements at neighbouring positions, the first of which 4 divides, lie in a buffer: as a vector whose index is
 * a multiple of four, all in one place, or anyhow.
 */
export type Reach = "quad" | "uniform" | "single";

/** The reach of a layout in a buffer of `size` elements. */
export function reachOf(layout: Layout, size: number): Reach {
  const { shape, offset, strides } = mergedLayout(layout);
  if (shape.length === 0) return "uniform";
  if (shape.at(-1)! % 4 !== 0) return "single";
  if (strides.at(-1) === 0) return "uniform";
  const isAligned = [offset, size, ...strides.slice(0, -1)].every((n) => n % 4 === 0);
  return strides.at(-1) === 1 && isAligned ? "quad" : "single";
}

/** For a layout of reach "quad": where the vectors lie, in vectors. */
export function quadLayout(layout: Layout): Layout {
  const { shape, offset, strides } = mergedLayout(layout);
  return {
    shape: [...shape.slice(0, -1), shape.at(-1)! / 4],
    offset: offset / 4,
    strides: [...strides.slice(0, -1).map((s) => s / 4), 1],
  };
}

/** A dimension along which every access, and the position in row-major order, goes on in steps of one size. */
export interface Dimension {
  readonly size: number;
  readonly strides: ReadonlyMap<Load | Store, number>;
  /** How far apart neighbours are in row-major order. */
  readonly position: number;
}

/** The dimensions of a loop without reductions, outermost first, as few as possible. */
export function dimensionsOf({ shape, loads, stores }: LoopStep): Dimension[] {
  const accesses = [...loads, ...stores];
  const positions = stridesOf(shape);
  const dimensions: Dimension[] = [];
  shape.forEach((size, axis) => {
    if (size === 1) return;
    const strides = new Map(accesses.map((access) => [access, access.layout.strides[axis]!]));
    const last = dimensions.at(-1);
    const continues = accesses.every((access) => last?.strides.get(access) === strides.get(access)! * size);
    const next = { strides, position: positions[axis]! };
    if (last && continues) dimensions[dimensions.length - 1] = { ...next, size: last.size * size };
    else dimensions.push({ ...next, size });
  });
  return dimensions;
}

/** A layout along some of the axes, from `offset` on. */
export function partLayout({ shape, strides }: Layout, axes: readonly number[], offset: number): Layout {
  return { shape: axes.map((a) => shape[a]!), offset, strides: axes.map((a) => strides[a]!) };
}
