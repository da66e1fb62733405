/**
 * Operands of convolutions as matrix products read them fast: the places that windows reach, zeros included, and
 * channels as neighbours, four to a vector.
 */
import type { Operand } from "../../passes/fuse.ts";
import { sizeOf } from "../../shape.ts";
import { type Capabilities, type Dispatch, Workspace } from "./kernel.ts";
import { binding, groupsFor, lineSize, mainHead, stridedIndex, WORD_BYTES, word } from "./wgsl.ts";

/** A spatial axis: the places from `first` to `last`, of which every `apart`-th from 0 on is an element. */
export interface Extent {
  readonly size: number;
  readonly stride: number;
  readonly first: number;
  readonly last: number;
  readonly apart: number;
}

/** What is read as `[lead..., channel, places...]` becomes `[lead..., places..., channels]`. */
export interface Arrangement {
  readonly source: Operand;
  readonly lead: readonly { readonly size: number; readonly stride: number }[];
  /** null: channels are among `lead`. */
  readonly channel: { readonly size: number; readonly stride: number } | null;
  readonly places: readonly Extent[];
}

/** Channels with those of value 0 that fill the last vector. */
export function roundedUp(channels: number): number {
  return Math.ceil(channels / 4) * 4;
}

/** The shape of the arranged array; without channels it has no last axis. */
export function arrangedShape({ lead, channel, places }: Arrangement): number[] {
  return [
    ...lead.map(({ size }) => size),
    ...places.map(({ first, last }) => last - first + 1),
    ...(channel ? [roundedUp(channel.size)] : []),
  ];
}

export function arrangedBytes(arrangement: Arrangement): number {
  return sizeOf(arrangedShape(arrangement)) * WORD_BYTES;
}

export function arrange(
  arrangement: Arrangement,
  type: "f32" | "i32" | "u32",
  gpu: Capabilities,
): { readonly space: Workspace; readonly dispatch: Dispatch } {
  const { source, lead, channel, places } = arrangement;
  const space = new Workspace(arrangedBytes(arrangement));
  const counts = places.map(({ first, last }) => last - first + 1);
  const cells = sizeOf(counts);
  const quads = channel ? roundedUp(channel.size) / 4 : 1;
  const units = sizeOf(lead.map(({ size }) => size)) * cells * quads;
  const size = lineSize(gpu);
  const groups = groupsFor(units, size, gpu);
  const element = channel ? `vec4<${type}>` : type;
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
  places.toReversed().forEach(({ size: n, stride, first, last, apart }, i) => {
    // A place before the first element wraps around, and so it is beyond the last.
    lines.push(`let far${i} = rest % ${word(counts.at(-1 - i)!)} + ${word(first)};`);
    lines.push(`let place${i} = ${apart === 1 ? `far${i}` : `far${i} / ${word(apart)}`};`);
    if (i + 1 < places.length) lines.push(`rest /= ${word(counts.at(-1 - i)!)};`);
    if (apart > 1) guards.push(`far${i} % ${word(apart)} == 0u`);
    if (first < 0 || last >= n * apart) guards.push(`place${i} < ${word(n)}`);
    terms.push(`place${i}`);
    strides.push(stride);
  });
  const at = stridedIndex(terms, strides, source.layout.offset);
  const loads = channel
    ? [0, 1, 2, 3].map((c) => {
        const load = `value[${c}] = x[at + (quad * 4u + ${c}u) * ${word(channel.stride)}];`;
        return channel.size % 4 === 0 ? load : `if (quad * 4u + ${c}u < ${word(channel.size)}) { ${load} }`;
      })
    : ["value = x[at];"];
  const code = `${binding(0, "x", type)}
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
    dispatch: { label: "conv", code, buffers: [source.slot, space], groups, operations: 0 },
  };
}
