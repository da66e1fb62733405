/**
 * Operands of convolutions as matrix products read them fast: the places that windows reach, zeros included, and
 * channels as neighbours, four to a vector.
 */
import { sizeOf, stridesOf } from "../../shape.ts";
import { type Axis, elementIn } from "./conv_product.ts";
import { type BufferRef, type Capabilities, type Dispatch, Workspace } from "./kernel.ts";
import {
  binding,
  groupsFor,
  lineSize,
  mainHead,
  type NumberType,
  stridedIndex,
  WORD_BYTES,
  word,
} from "./wgsl.ts";

/** An operand of a convolution: element 0 of all axes is at `offset`, which may be before the array's first. */
export interface Grid {
  readonly buffer: BufferRef;
  readonly offset: number;
  /** Images: batch and groups. Weights: groups, and the channels that are not summed. */
  readonly lead: readonly [Axis, Axis];
  readonly channels: Axis;
  readonly places: readonly Axis[];
}

/** The places that are reached: from `first` to `last`, of which every `apart`-th from 0 on is an element. */
export interface Extent {
  readonly first: number;
  readonly last: number;
  readonly apart: number;
}

export interface Arrangement {
  readonly source: Grid;
  readonly extents: readonly Extent[];
  /** Channels come last, in whole vectors, instead of before the places. */
  readonly isLast: boolean;
}

/** Channels with those of value 0 that fill the last vector. */
export function roundedUp(channels: number): number {
  return Math.ceil(channels / 4) * 4;
}

const countsOf = ({ extents }: Arrangement): number[] => extents.map(({ first, last }) => last - first + 1);

function shapeOf(arrangement: Arrangement): number[] {
  const { source, isLast } = arrangement;
  const lead = source.lead.map(({ size }) => size);
  const counts = countsOf(arrangement);
  const channels = source.channels.size;
  return isLast ? [...lead, ...counts, roundedUp(channels)] : [...lead, channels, ...counts];
}

export function arrangedBytes(arrangement: Arrangement): number {
  return sizeOf(shapeOf(arrangement)) * WORD_BYTES;
}

/** The arranged array. */
export function arrangedGrid(arrangement: Arrangement, buffer: BufferRef): Grid {
  const { extents, isLast } = arrangement;
  const axes = stridesOf(shapeOf(arrangement)).map((stride, a): Axis => {
    return { size: shapeOf(arrangement)[a]!, stride };
  });
  const [first, second, ...rest] = axes as [Axis, Axis, ...Axis[]];
  const channels = isLast ? rest.at(-1)! : rest[0]!;
  const places = isLast ? rest.slice(0, -1) : rest.slice(1);
  const offset = -extents.reduce((sum, extent, a) => sum + extent.first * places[a]!.stride, 0);
  return { buffer, offset, lead: [first, second], channels, places };
}

export function arrange(
  arrangement: Arrangement,
  type: NumberType,
  gpu: Capabilities,
): { readonly space: Workspace; readonly dispatch: Dispatch } {
  const { source, extents, isLast } = arrangement;
  const { channels, places } = source;
  const space = new Workspace(arrangedBytes(arrangement));
  const counts = countsOf(arrangement);
  const cells = sizeOf(counts);
  const lead: readonly Axis[] = isLast ? source.lead : [...source.lead, channels];
  const quads = isLast ? roundedUp(channels.size) / 4 : 1;
  const units = sizeOf(lead.map(({ size }) => size)) * cells * quads;
  const size = lineSize(gpu);
  const groups = groupsFor(units, size, gpu);
  const element = isLast ? `vec4<${type}>` : type;
  // Pairs of vectors, then places: neighbours read neighbouring elements and write whole sectors.
  const pair = quads % 2 === 0 ? 2 : 1;
  const lines = [
    `let cell = unit / ${word(pair)} % ${word(cells)};`,
    `var above = unit / ${word(pair * cells)};`,
    `let quad = above % ${word(quads / pair)} * ${word(pair)} + unit % ${word(pair)};`,
    `above /= ${word(quads / pair)};`,
    `let to = (above * ${word(cells)} + cell) * ${word(quads)} + quad;`,
  ];
  const terms: string[] = [];
  const strides: number[] = [];
  lead.toReversed().forEach(({ size: n, stride }, i) => {
    if (stride !== 0) {
      lines.push(`let lead${i} = above % ${word(n)};`);
      terms.push(`lead${i}`);
      strides.push(stride);
    }
    if (i + 1 < lead.length) lines.push(`above /= ${word(n)};`);
  });
  lines.push("var rest = cell;");
  const guards: string[] = [];
  places.toReversed().forEach(({ size: n, stride }, i) => {
    const { first, last, apart } = extents.at(-1 - i)!;
    // A place before the first element wraps around, and so it is beyond the last.
    lines.push(`let far${i} = rest % ${word(counts.at(-1 - i)!)} + ${word(first)};`);
    lines.push(`let place${i} = ${apart === 1 ? `far${i}` : `far${i} / ${word(apart)}`};`);
    if (i + 1 < places.length) lines.push(`rest /= ${word(counts.at(-1 - i)!)};`);
    if (apart > 1) guards.push(`far${i} % ${word(apart)} == 0u`);
    if (first < 0 || last >= n * apart) guards.push(`place${i} < ${word(n)}`);
    terms.push(`place${i}`);
    strides.push(stride);
  });
  const at = stridedIndex(terms, strides, source.offset);
  const stored = elementIn(source.buffer, type);
  const read = (index: string): string => (stored === "f16" ? `f32(x[${index}])` : `x[${index}]`);
  const loads = isLast
    ? [0, 1, 2, 3].map((c) => {
        const load = `value[${c}] = ${read(`at + (quad * 4u + ${c}u) * ${word(channels.stride)}`)};`;
        return channels.size % 4 === 0 ? load : `if (quad * 4u + ${c}u < ${word(channels.size)}) { ${load} }`;
      })
    : [`value = ${read("at")};`];
  const code = `${binding(0, "x", stored)}
${binding(1, "out", element, "read_write")}
${mainHead(units, size, groups)}
${lines.join("\n")}
var value = ${element}();
if (${guards.length === 0 ? "true" : guards.join(" && ")}) {
let at = ${at};
${loads.join("\n")}
}
out[to] = value;
}
`;
  return {
    space,
    dispatch: { label: "conv", code, buffers: [source.buffer, space], groups, operations: 0 },
  };
}
