/**
 * A contraction as the shaders of matrix products see it: `batches` products of `[m, k]` and `[k, n]`. The free axes of
 * an operand become one index whatever its strides are, since its places are computed once, outside the sum; of the
 * summed axes one is `k` and the others are loops around it.
 */
import type { Layout } from "../../kernel.ts";
import type { CallStep } from "../../passes/fuse.ts";
import { type Axis, productAxes } from "../../passes/product.ts";
import type { DotParams } from "../../prims/contract.ts";
import { sizeOf } from "../../shape.ts";
import { type Target, targetOf } from "./dot_target.ts";
import type { BufferRef } from "./kernel.ts";
import { elementIndex, type NumberType, numberType, type StorageType, storageType, word } from "./wgsl.ts";

/** An operand. All offsets and strides count vectors of `width` elements. */
export interface Factor {
  readonly slot: BufferRef;
  /** What its buffer is an array of: float16 becomes float32 when it is read. */
  readonly element: StorageType;
  /** The name of its buffer: both have one where the operands are one array. */
  readonly name: "x" | "y";
  /** Elements of its free index. */
  readonly size: number;
  /** Along which index neighbours are neighbours in memory. */
  readonly along: "sum" | "free" | null;
  /** Elements that are read at once, along `along`. */
  readonly width: 1 | 4;
  readonly batch: Layout;
  /** By the free index, in vectors where these lie along it. */
  readonly free: Layout;
  /** By the summed index, in vectors where these lie along it; without an offset. */
  readonly k: Layout;
  /** The summed axes besides `k`. */
  readonly sums: Layout;
}

export interface DotCall {
  readonly target: Target;
  readonly type: NumberType;
  readonly batches: number;
  readonly m: number;
  readonly n: number;
  readonly k: number;
  /** How often `k` products are summed: the product of the other summed axes. */
  readonly repeats: number;
  /** In memory the rows are neighbours, not the columns. */
  readonly isTurned: boolean;
  readonly x: Factor;
  readonly y: Factor;
}

const sizes = (axes: readonly Axis[]): number => sizeOf(axes.map(({ size }) => size));

/** The axes as an operand steps through them. */
function layoutOf(axes: readonly Axis[], operand: "x" | "y", offset: number = 0): Layout {
  return { shape: axes.map(({ size }) => size), offset, strides: axes.map((axis) => axis[operand]) };
}

/** The axes of one operand, in elements: what decides how it can be read. */
export interface Reach {
  readonly along: Factor["along"];
  readonly hasVectors: boolean;
}

/** How an operand can be read: along which index, and whether in vectors of four that all lie at multiples of four. */
export function reachOf(operand: "x" | "y", layout: Layout, axes: ReturnType<typeof productAxes>): Reach {
  const free = (operand === "x" ? axes.rows : axes.columns).map((axis) => ({
    size: axis.size,
    stride: axis[operand],
  }));
  const sums = axes.sums.map((axis) => ({ size: axis.size, stride: axis[operand] }));
  const batches = axes.batches.map((axis) => axis[operand]);
  const [last, k] = [free.at(-1), sums.at(-1)];
  const along = k?.stride === 1 ? "sum" : last?.stride === 1 ? "free" : null;
  const inner = along === "sum" ? k : last;
  const others = [...free, ...sums].filter((axis) => axis !== inner).map(({ stride }) => stride);
  const hasVectors =
    along !== null &&
    inner!.size % 4 === 0 &&
    [layout.offset, ...batches, ...others].every((stride) => stride % 4 === 0);
  return { along, hasVectors };
}

function inVectors({ shape, offset, strides }: Layout, width: number): Layout {
  return { shape, offset: offset / width, strides: strides.map((stride) => stride / width) };
}

/** The call of a step. */
export function dotCall(step: CallStep): DotCall {
  // The record of this name has these parameters.
  const params = step.params as DotParams;
  const [x, y] = step.args as [CallStep["args"][0], CallStep["args"][0]];
  const axes = productAxes(x.layout, y.layout, params);
  const reaches = { x: reachOf("x", x.layout, axes), y: reachOf("y", y.layout, axes) };
  const isOne = x.slot === y.slot;
  const length = axes.sums.at(-1)?.size ?? 1;
  const factor = (operand: "x" | "y"): Factor => {
    const { slot, layout } = operand === "x" ? x : y;
    const { along } = reaches[operand];
    const hasVectors =
      reaches[operand].hasVectors && (!isOne || (reaches.x.hasVectors && reaches.y.hasVectors));
    const width = hasVectors ? 4 : 1;
    const own = operand === "x" ? axes.rows : axes.columns;
    const free = inVectors(layoutOf(own, operand), width);
    const inner = along === "free" && hasVectors;
    const k = axes.sums.at(-1)?.[operand] ?? 0;
    return {
      slot,
      element: storageType(slot.aval.dtype),
      name: isOne ? "x" : operand,
      size: sizes(own),
      along,
      width,
      batch: inVectors(layoutOf(axes.batches, operand, layout.offset), width),
      free: inner
        ? {
            shape: [...free.shape.slice(0, -1), free.shape.at(-1)! / 4],
            offset: 0,
            strides: [...free.strides.slice(0, -1), 1],
          }
        : free,
      k:
        along === "sum" && hasVectors
          ? { shape: [length / 4], offset: 0, strides: [1] }
          : { shape: [length], offset: 0, strides: [k / width] },
      sums: inVectors(layoutOf(axes.sums.slice(0, -1), operand), width),
    };
  };
  const type = numberType(x.slot.aval.dtype);
  return {
    target: targetOf(step),
    type,
    batches: sizes(axes.batches),
    m: sizes(axes.rows),
    n: sizes(axes.columns),
    k: length,
    repeats: sizes(axes.sums.slice(0, -1)),
    isTurned: false,
    x: factor("x"),
    y: factor("y"),
  };
}

/** The call with its operands exchanged. */
export function exchanged(call: DotCall): DotCall {
  return { ...call, m: call.n, n: call.m, isTurned: !call.isTurned, x: call.y, y: call.x };
}

/** The operand read by elements: offsets and strides count those. */
export function inElements(factor: Factor): Factor {
  const { width, along, batch, free, k, sums } = factor;
  if (width === 1) return factor;
  const scaled = (layout: Layout): Layout => inVectors(layout, 1 / width);
  const inner = ({ shape, strides }: Layout): Layout => ({
    shape: [...shape.slice(0, -1), shape.at(-1)! * width],
    offset: 0,
    strides: [...strides.slice(0, -1).map((stride) => stride * width), 1],
  });
  return {
    ...factor,
    width: 1,
    batch: scaled(batch),
    sums: scaled(sums),
    free: along === "free" ? inner(free) : scaled(free),
    k: along === "sum" ? inner(k) : scaled(k),
  };
}

/** Whether a vector of the operand has four free indices, or four summed ones. */
export function vectorsAlong({ along, width }: Factor, index: "sum" | "free"): boolean {
  return width === 4 && along === index;
}

/** What `k` products are called here that a call is as fast as another with the same one. */
export function keyOf({ batches, m, n, k, repeats, x, y }: DotCall): string {
  const reach = ({ along, width }: Factor): string => `${along ?? "strided"}${width}`;
  return `dot ${x.element} ${batches}x${m}x${n}x${k}${repeats > 1 ? `x${repeats}` : ""} ${reach(x)} ${reach(y)}`;
}

/** Multiplications and additions. */
export function operationsOf({ batches, m, n, k, repeats }: DotCall): number {
  return 2 * batches * m * n * k * repeats;
}

// --- text ----------------------------------------------------------------------------------------------------------

/** The bindings of the operands, from 0 on: one or two. */
export function operandsOf({ x, y }: DotCall): readonly Factor[] {
  return x.name === y.name ? [x] : [x, y];
}

/** What the buffer of an operand is an array of. */
export function elementOf({ element, width }: Factor): string {
  return width === 4 ? `vec4<${element}>` : element;
}

/** An element of the buffer, or a vector of them, as a shader computes with it. */
export function readText({ name, element, width }: Factor, at: string): string {
  const stored = `${name}[${at}]`;
  if (element !== "f16") return stored;
  return width === 4 ? `vec4<f32>(${stored})` : `f32(${stored})`;
}

/** `component(2)` is the third of a vector. */
export function component(i: number): string {
  return `.${"xyzw"[i]!}`;
}

/** Statements that name the first vector of the operand in this batch, and with it those of the other summed axes. */
export function baseText({ batch, sums }: Factor, operand: string): { batch: string; sums: string | null } {
  return {
    batch: `let ${operand}Base = ${elementIndex(batch, "batch")};`,
    sums: sums.shape.length === 0 ? null : `let ${operand}Sum = ${elementIndex(sums, "repeat")};`,
  };
}

/** How far the summed index `k` is from the first: an element's, or that of the vector that begins with it. */
export function sumOffset(factor: Factor, operand: string, k: string): string {
  const offset = elementIndex(factor.k, vectorsAlong(factor, "sum") ? `((${k}) >> 2u)` : `(${k})`);
  return factor.sums.shape.length === 0 ? offset : `${offset} + ${operand}Sum`;
}

/** How far the free index is from the first; `at` is a name, of a vector's number where these lie along it. */
export function freeOffset({ free }: Factor, at: string): string {
  return elementIndex(free, at);
}

/** c + a b, with one rounding where the device has it. */
export function multiplyAdd(type: DotCall["type"], isSoftware: boolean) {
  const inOne = type === "f32" && !isSoftware;
  return (a: string, b: string, c: string): string =>
    inOne ? `${c} = fma(vec4<f32>(${a}), ${b}, ${c});` : `${c} += ${a} * ${b};`;
}

/**
 * Four free indices by four summed ones, in four registers: places of the former, loads of the latter, and the
 * elements. Free indices beyond the last are taken for it: their products are never stored.
 */
export class Patch {
  readonly #factor: Factor;
  readonly #operand: string;
  /** Names of the registers and of the places begin with it. */
  readonly #prefix: string;

  constructor(factor: Factor, operand: string, prefix: string) {
    this.#factor = factor;
    this.#operand = operand;
    this.#prefix = prefix;
  }

  get #places(): number {
    return vectorsAlong(this.#factor, "free") ? 1 : 4;
  }

  declarations(type: string): string {
    const names = (n: number, suffix: string): string[] =>
      Array.from({ length: n }, (_, i) => `${this.#prefix}${suffix}${i}`);
    return [
      ...names(4, "at").map((name) => `var ${name}: u32;`),
      ...names(4, "r").map((name) => `var ${name}: vec4<${type}>;`),
    ].join(" ");
  }

  /** Finds the four free indices from `quad`, the number of the first by fours; `isInside`: none is beyond the last. */
  place(quad: string, isInside: boolean): string {
    const factor = this.#factor;
    const base = `${this.#operand}Base`;
    const last = factor.size - 1;
    if (this.#places === 1) {
      const at = isInside ? quad : `min(${quad}, ${word(last >> 2)})`;
      return `{ let i = ${at}; ${this.#prefix}at0 = ${base} + ${freeOffset(factor, "i")}; }`;
    }
    return [0, 1, 2, 3]
      .map((i) => {
        const index = i === 0 ? `${quad} * 4u` : `${quad} * 4u + ${i}u`;
        const at = isInside ? index : `min(${index}, ${word(last)})`;
        return `{ let i = ${at}; ${this.#prefix}at${i} = ${base} + ${freeOffset(factor, "i")}; }`;
      })
      .join("\n");
  }

  /**
   * Loads the summed indices from `k` on, which 4 divides. Where `last` is given, what is beyond it is taken for it;
   * or `count` says how many there are.
   */
  load(k: string, { last = null, count = 4 }: { last?: number | null; count?: number } = {}): string {
    const factor = this.#factor;
    const read = (at: string): string => readText(factor, at);
    const prefix = this.#prefix;
    const bounded = (c: number): string => {
      const index = c === 0 ? k : `${k} + ${c}u`;
      return last === null ? index : `min(${index}, ${word(last)})`;
    };
    const offset = (c: number): string => sumOffset(factor, this.#operand, bounded(c));
    if (vectorsAlong(factor, "sum")) {
      return [0, 1, 2, 3]
        .map((i) => `${prefix}r${i} = ${read(`${prefix}at${i} + ${offset(0)}`)};`)
        .join("\n");
    }
    return Array.from({ length: count }, (_, c) => {
      if (this.#places === 1) return `${prefix}r${c} = ${read(`${prefix}at0 + ${offset(c)}`)};`;
      const elements = [0, 1, 2, 3].map((i) => read(`${prefix}at${i} + o`));
      return `{ let o = ${offset(c)}; ${prefix}r${c} = vec4(${elements.join(", ")}); }`;
    }).join("\n");
  }

  /** Of free index `i` and summed index `c`. */
  element(i: number, c: number): string {
    const [register, place] = vectorsAlong(this.#factor, "sum") ? [i, c] : [c, i];
    return `${this.#prefix}r${register}${component(place)}`;
  }

  /** The four free indices at summed index `c`. */
  vector(c: number): string {
    if (!vectorsAlong(this.#factor, "sum")) return `${this.#prefix}r${c}`;
    return `vec4(${[0, 1, 2, 3].map((i) => this.element(i, c)).join(", ")})`;
  }
}
