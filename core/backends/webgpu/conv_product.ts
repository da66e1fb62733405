/** Matrix products of operands and results of any axes, as the shaders of dot products take them. */
import type { Layout } from "../../kernel.ts";
import { Slot } from "../../passes/fuse.ts";
import { sizeOf } from "../../shape.ts";
import type { DotCall, Factor } from "./dot_call.ts";
import type { Target } from "./dot_target.ts";
import type { BufferRef } from "./kernel.ts";
import { elementIndex, type NumberType, type StorageType, storageType } from "./wgsl.ts";

export interface Axis {
  readonly size: number;
  readonly stride: number;
}

/** An operand: its axes in the order in which both operands have them, strides in elements. */
export interface Source {
  readonly buffer: BufferRef;
  readonly offset: number;
  readonly batches: readonly Axis[];
  readonly free: readonly Axis[];
  /** Summed axes that are loops around the others. */
  readonly outer: readonly Axis[];
  readonly sums: readonly Axis[];
}

/** Axes without those of one element; neighbours that continue each other are one. */
function merged(axes: readonly Axis[]): Axis[] {
  const runs: Axis[] = [];
  for (const axis of axes) {
    if (axis.size === 1) continue;
    const last = runs.at(-1);
    if (last && last.stride === axis.size * axis.stride)
      runs[runs.length - 1] = { size: last.size * axis.size, stride: axis.stride };
    else runs.push(axis);
  }
  return runs;
}

function layoutOf(axes: readonly Axis[], width: number, offset: number = 0): Layout {
  return {
    shape: axes.map(({ size }) => size),
    offset: offset / width,
    strides: axes.map(({ stride }) => stride / width),
  };
}

/** The axes with the last, of neighbours, counted in vectors. */
function layoutOfVectors(axes: readonly Axis[]): Layout {
  const { size } = axes.at(-1)!;
  return layoutOf([...axes.slice(0, -1), { size: size / 4, stride: 4 }], 4);
}

/** What a buffer is an array of: a workspace of what is computed. */
export function elementIn(buffer: BufferRef, type: NumberType): StorageType {
  return buffer instanceof Slot ? storageType(buffer.aval.dtype) : type;
}

/** An operand as shaders read it: in vectors where all of them lie at multiples of four. */
export function factorOf(
  source: Source,
  name: "x" | "y",
  type: NumberType,
  hasVectors: boolean = true,
): Factor {
  const { buffer, offset, batches } = source;
  const [free, sums, outer] = [merged(source.free), merged(source.sums), merged(source.outer)];
  const fits = (own: readonly Axis[], others: readonly Axis[]): boolean => {
    const last = own.at(-1);
    const rest = [...batches, ...outer, ...others, ...own.slice(0, -1)];
    return (
      hasVectors &&
      last?.stride === 1 &&
      last.size % 4 === 0 &&
      offset % 4 === 0 &&
      rest.every(({ size, stride }) => size === 1 || stride % 4 === 0)
    );
  };
  const alongSum = fits(sums, free);
  const alongFree = !alongSum && fits(free, sums);
  const width = alongSum || alongFree ? 4 : 1;
  const isNext = (axes: readonly Axis[]): boolean => axes.at(-1)?.stride === 1;
  const along = alongSum ? "sum" : alongFree ? "free" : isNext(sums) ? "sum" : isNext(free) ? "free" : null;
  return {
    slot: buffer,
    element: elementIn(buffer, type),
    name,
    size: sizeOf(source.free.map(({ size }) => size)),
    along,
    width,
    batch: layoutOf(batches, width, offset),
    free: alongFree ? layoutOfVectors(free) : layoutOf(free, width),
    k: alongSum ? layoutOfVectors(sums) : layoutOf(sums, width),
    sums: layoutOf(outer, width),
  };
}

const sizes = (axes: readonly Axis[]): number => sizeOf(axes.map(({ size }) => size));

/** The product of two operands with equal `batches`, `outer` and `sums`. */
export function productOf(x: Source, y: Source, target: Target, type: DotCall["type"]): DotCall {
  const isOne = x.buffer === y.buffer;
  const factors = (hasVectors: boolean) =>
    [factorOf(x, "x", type, hasVectors), factorOf(y, isOne ? "x" : "y", type, hasVectors)] as const;
  let [a, b] = factors(true);
  // One buffer is an array of one type.
  if (isOne && a.width !== b.width) [a, b] = factors(false);
  return {
    target,
    type,
    batches: sizes(x.batches),
    m: sizes(x.free),
    n: sizes(y.free),
    k: sizes(x.sums),
    repeats: sizes(x.outer),
    isTurned: false,
    x: a,
    y: b,
  };
}

/** The names of a target's functions, under which another one calls them. */
const FUNCTIONS = /\b(store|stored)(Quad)?\(/g;

/** A target whose results have places of their own: `axes` are those of batches, rows and columns. */
export function placed(target: Target, type: DotCall["type"], axes: readonly Axis[], offset: number): Target {
  const runs = merged(axes);
  const last = runs.at(-1);
  if (offset === 0 && (runs.length === 0 || (runs.length === 1 && last!.stride === 1))) return target;
  const hasQuads =
    offset % 4 === 0 &&
    last?.stride === 1 &&
    last.size % 4 === 0 &&
    runs.slice(0, -1).every(({ stride }) => stride % 4 === 0);
  const place = elementIndex(layoutOf(runs, 1, offset), "at");
  const vector = `vec4<${type}>`;
  return {
    ...target,
    text(first, inQuads) {
      const isVector = inQuads && hasQuads;
      const [name, value] = isVector ? ["Quad", vector] : ["", type];
      const lines = [
        target.text(first, isVector).replace(FUNCTIONS, "$1$2At("),
        `fn store${name}(at: u32, value: ${value}) { store${name}At(${place}, value); }`,
      ];
      if (target.keeps)
        lines.push(`fn stored${name}(at: u32) -> ${value} { return stored${name}At(${place}); }`);
      if (inQuads && !isVector) {
        const all = (text: (i: number) => string): string => [0, 1, 2, 3].map(text).join(" ");
        lines.push(
          `fn storeQuad(at: u32, value: ${vector}) { ${all((i) => `store(at + ${i}u, value[${i}]);`)} }`,
        );
        if (target.keeps)
          lines.push(`fn storedQuad(at: u32) -> ${vector} {
return vec4(stored(at), stored(at + 1u), stored(at + 2u), stored(at + 3u));
}`);
      }
      return lines.join("\n");
    },
  };
}
