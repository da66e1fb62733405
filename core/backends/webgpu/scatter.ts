/**
 * Sums of updates by index. Each element of the result is summed by itself, in a fixed order: either all indices are
 * compared with its row, or the indices are sorted before, so that the updates of a row are neighbours.
 */
import type { Operand, Slot } from "../../passes/fuse.ts";
import { sumOfParts } from "./dot_parts.ts";
import { plainTarget } from "./dot_target.ts";
import { type BufferRef, type Capabilities, type Dispatch, FAULTS, Workspace } from "./kernel.ts";
import { longSum } from "./long_sums.ts";
import { Buffers } from "./loops_access.ts";
import { type Indices, indicesText } from "./outside.ts";
import { BUSY, powerBelow, teamHead } from "./rows.ts";
import { type Head, type Pairs, pairsBytes, type SortedRows, sortedPairs } from "./sorting_runs.ts";
import {
  binding,
  constantOf,
  elementIndex,
  groupsFor,
  lineSize,
  mainHead,
  numberType,
  WORD_BYTES,
} from "./wgsl.ts";

export interface Scatter {
  readonly indices: Indices;
  readonly updates: Operand;
  readonly out: Slot;
}

/** Comparisons that take less time than sorting. */
const FEW_COMPARISONS = { gpu: 2 ** 26, software: 2 ** 21 } as const;
/** Comparisons for each index that take less time than sorting it. */
const FEW_EACH = { gpu: 2 ** 10, software: 2 ** 5 } as const;
/** A part of the indices is at least so long. */
const SHORTEST_PART = 256;
const MOST_PARTS = 256;
/** Invocations that share the sum of a row of sorted indices. */
const MOST_TEAM = 32;

export function scatterDispatches(scatter: Scatter, gpu: Capabilities): readonly Dispatch[] {
  const { indices, out } = scatter;
  const { batch, n, count } = indices.loops;
  if (count === 0) return [zeros(out, gpu)];
  const kind = gpu.isSoftware ? "software" : "gpu";
  const each = out.aval.size / batch;
  const sorted: SortedRows = { label: indices.op, rows: batch, length: count };
  const spare = batch * (n + 1);
  const fits = pairsBytes(sorted, spare) <= Math.min(gpu.limits.maxBindingSize, gpu.limits.maxBufferSize);
  const isDirect = each <= FEW_EACH[kind] || out.aval.size * count <= FEW_COMPARISONS[kind] || !fits;
  return isDirect ? direct(scatter, gpu) : bySorting(scatter, sorted, gpu);
}

function zeros(out: Slot, gpu: Capabilities): Dispatch {
  const type = numberType(out.aval.dtype);
  const size = lineSize(gpu);
  const groups = groupsFor(out.aval.size, size, gpu);
  const code = `${binding(0, "result", type, "read_write")}
${mainHead(out.aval.size, size, groups)}
result[unit] = ${constantOf(0, type)};
}
`;
  return { label: "scatterAdd", code, buffers: [out], groups, operations: 0 };
}

/** Declares `updateAt(position)`, an update by its row-major position. */
function updateText({ slot, layout }: Operand, buffers: Buffers): string {
  const type = numberType(slot.aval.dtype);
  const word = buffers.word(slot, elementIndex(layout, "position"));
  return `fn updateAt(position: u32) -> ${type} { return bitcast<${type}>(${word}); }`;
}

/** Which row of which block an element of the result is in, and where in its row. */
function placeText(element: string, { n, after }: Indices["loops"]): string {
  return `let i = ${element} % ${after}u;
let row = ${element} / ${after}u % ${n}u;
let block = ${element} / ${after * n}u;`;
}

// --- all indices for each element --------------------------------------------------------------------------------

/** Compares every index with the row of each element, in parts where there are few elements. */
function direct({ indices, updates, out }: Scatter, gpu: Capabilities): Dispatch[] {
  const { before, n, count, after } = indices.loops;
  const { size: elements, dtype } = out.aval;
  const type = numberType(dtype);
  const wanted = Math.ceil((gpu.isSoftware ? 16 : BUSY / 2) / elements);
  const parts = Math.min(wanted, Math.ceil(count / SHORTEST_PART), MOST_PARTS);
  const each = Math.ceil(count / parts);
  const buffers = new Buffers(new Set(), "b", 2);
  const functions = `${indicesText(indices, buffers)}\n${updateText(updates, buffers)}`;
  const units = elements * parts;
  const size = lineSize(gpu);
  const groups = groupsFor(units, size, gpu);
  const range = { first: "first", end: "end", step: 1, most: each };
  // One element of each shared row looks for indices outside.
  const { text, total } = longSum(
    type,
    range,
    (sum) => `let index = indexAt(position + k);
if (index == row) { ${sum} += updateAt((source + k) * ${after}u + i); }
if (isFirst && index >= ${n}u) { outside(index); }`,
  );
  const code = `${binding(1, "sums", type, "read_write")}
${buffers.declarations()}
${functions}
${mainHead(units, size, groups)}
let element = unit % ${elements}u;
${placeText("element", indices.loops)}
let isFirst = element % ${before * n * after}u == 0u;
let position = block / ${before}u * ${count}u;
let source = block * ${count}u;
let first = unit / ${elements}u * ${each}u;
let end = min(first + ${each}u, ${count}u);
${text}
sums[unit] = ${total};
}
`;
  const sums = parts === 1 ? out : new Workspace(parts * elements * WORD_BYTES);
  const label = indices.op;
  const refs: BufferRef[] = [FAULTS, sums, ...buffers.refs];
  const first = { label, code, buffers: refs, groups, operations: 0 };
  if (sums === out) return [first];
  const target = plainTarget(out, type);
  return [first, { ...sumOfParts(sums as Workspace, parts, elements, type, target, gpu), label }];
}

// --- sorted indices ----------------------------------------------------------------------------------------------

/** Sorts the indices, finds where those of each row begin, and sums the updates that they came with. */
function bySorting(scatter: Scatter, sorted: SortedRows, gpu: Capabilities): Dispatch[] {
  const { indices } = scatter;
  const { batch, n, count } = indices.loops;
  const buffers = new Buffers(new Set(), "b", 1);
  const functions = indicesText(indices, buffers);
  const text = `${buffers.declarations()}
${functions}
fn keyOf(row: u32, k: u32) -> u32 {
let index = indexAt(row * ${count}u + k);
if (index >= ${n}u) { outside(index); }
return index;
}`;
  const head: Head = { text, buffers: [FAULTS, ...buffers.refs] };
  const pairs = sortedPairs(sorted, head, gpu, batch * (n + 1));
  return [...pairs.dispatches, beginnings(indices, pairs, gpu), rowSums(scatter, pairs, gpu)];
}

/** For each row, and for the one after the last: how many indices are less. */
function beginnings({ op, loops }: Indices, { space, start, spare }: Pairs, gpu: Capabilities): Dispatch {
  const { batch, n, count } = loops;
  const units = batch * (n + 1);
  const size = lineSize(gpu);
  const groups = groupsFor(units, size, gpu);
  const code = `${binding(0, "pairs", "vec2<u32>", "read_write")}
${mainHead(units, size, groups)}
let row = unit % ${n + 1}u;
let first = ${start}u + unit / ${n + 1}u * ${count}u;
var low = 0u;
var high = ${count}u;
while (low < high) {
let middle = (low + high) / 2u;
if (pairs[first + middle].x < row) { low = middle + 1u; } else { high = middle; }
}
pairs[${spare}u + unit] = vec2<u32>(low, 0u);
}
`;
  return { label: op, code, buffers: [space], groups, operations: 0 };
}

/** The sums of the updates of each row, in the order of the indices. */
function rowSums({ indices, updates, out }: Scatter, pairs: Pairs, gpu: Capabilities): Dispatch {
  const { before, n, count, after } = indices.loops;
  const { size: elements, dtype } = out.aval;
  const type = numberType(dtype);
  const size = powerBelow(lineSize(gpu));
  const team = gpu.isSoftware ? 1 : powerBelow(Math.min(MOST_TEAM, BUSY / elements, count / 4));
  const slots = size / team;
  const groups = groupsFor(elements, slots, gpu);
  const buffers = new Buffers(new Set(), "b", 2);
  const functions = updateText(updates, buffers);
  const range = { first: "low + member", end: "high", step: team, most: Math.ceil(count / team) };
  const { text, total } = longSum(
    type,
    range,
    (sum) => `${sum} += updateAt((source + pairs[first + k].y) * ${after}u + i);`,
  );
  const join = `sums[local] = ${total};
for (var apart = ${team / 2}u; apart > 0u; apart /= 2u) {
workgroupBarrier();
if (member < apart) { sums[local] += sums[local + apart * ${slots}u]; }
}
if (isInside && member == 0u) { result[number] = sums[local]; }`;
  const code = `${binding(0, "result", type, "read_write")}
${binding(1, "pairs", "vec2<u32>")}
${buffers.declarations()}
${functions}
${team === 1 ? "" : `var<workgroup> sums: array<${type}, ${size}>;`}
${mainHead(team === 1 ? elements : Math.ceil(elements / slots), size, groups, team === 1 ? "invocation" : "group")}
${teamHead(elements, { size, team, isAcross: true })}
${placeText("number", indices.loops)}
let shared_row = block / ${before}u;
let first = ${pairs.start}u + shared_row * ${count}u;
let at = ${pairs.spare}u + shared_row * ${n + 1}u + row;
let low = pairs[at].x;
let high = pairs[at + 1u].x;
let source = block * ${count}u;
${text}
${team === 1 ? `result[number] = ${total};` : join}
}
`;
  return { label: indices.op, code, buffers: [out, pairs.space, ...buffers.refs], groups, operations: 0 };
}
