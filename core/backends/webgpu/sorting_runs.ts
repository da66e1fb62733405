/**
 * Stable sorting of rows of keys. Short runs are sorted first: by an invocation, or on devices with memory of their own by
 * a workgroup. Then neighbouring runs are merged, pass by pass. An invocation makes a few neighbouring elements of a merged
 * run: where they begin in the two runs is found by binary search, since the first elements of the merged run are the first
 * so many of one and the first so many of the other.
 */
import type { BufferRef, Capabilities, Dispatch } from "./kernel.ts";
import { Workspace } from "./kernel.ts";
import { powerAbove, powerBelow } from "./rows.ts";
import { binding, groupsFor, lineSize, mainHead, WORD_BYTES } from "./wgsl.ts";

/** Elements that an invocation sorts in registers, and makes of a merged run in workgroup memory. */
const ITEMS = 8;
/** Elements that an invocation makes of a merged run in memory. */
const STRETCH = 16;
/** The largest workgroup that sorts and merges together. */
const MOST_TEAM = 128;

const items: readonly number[] = Array.from({ length: ITEMS }, (_, i) => i);

/** What is sorted: so many rows of so many keys. */
export interface SortedRows {
  readonly label: string;
  readonly rows: number;
  readonly length: number;
}

/** Functions of a shader with the bindings that they use, from 0 on. */
export interface Head {
  readonly text: string;
  readonly buffers: readonly BufferRef[];
}

/** Invocations of a workgroup that sorts and merges together. */
function teamOf(gpu: Capabilities): number {
  return Math.min(MOST_TEAM, powerBelow(lineSize(gpu)));
}

/** The longest rows that one dispatch sorts. */
export function shortRow(gpu: Capabilities): number {
  return gpu.isSoftware ? ITEMS : ITEMS * teamOf(gpu);
}

/**
 * Sorts rows that are short, or runs of long ones. The head has `keyOf(row, k) -> u32`, and `put(row, k, key, origin)` for
 * where the element goes in its row, and where it was.
 */
export function shortSort({ label, rows, length }: SortedRows, head: Head, gpu: Capabilities): Dispatch {
  const { text, buffers } = head;
  if (gpu.isSoftware) {
    const runs = Math.ceil(length / ITEMS);
    const size = lineSize(gpu);
    const groups = groupsFor(rows * runs, size, gpu);
    const code = `${text}
${mainHead(rows * runs, size, groups)}
let row = unit / ${runs}u;
let first = unit % ${runs}u * ${ITEMS}u;
${items.map((i) => `var e${i} = vec2<u32>(0xffffffffu, first + ${i}u);\nif (e${i}.y < ${length}u) { e${i}.x = keyOf(row, e${i}.y); }`).join("\n")}
${NETWORK}
${items.map((i) => `if (first + ${i}u < ${length}u) { put(row, first + ${i}u, e${i}.x, e${i}.y); }`).join("\n")}
}
`;
    return { label, code, buffers, groups, operations: 0 };
  }
  const team = teamOf(gpu);
  const tile = team * ITEMS;
  // Several rows in a tile, each with room for a power of two elements, or several tiles for a row.
  const width = Math.min(tile, Math.max(ITEMS, powerAbove(length)));
  const chunks = Math.ceil(length / width);
  const perTile = tile / width;
  const units = Math.ceil((rows * chunks) / perTile);
  const groups = groupsFor(units, 1, gpu);
  const code = `${text}
var<workgroup> run: array<vec2<u32>, ${tile}>;
${splitFunction("splitOf", "run[", "]")}
${mainHead(units, team, groups, "group")}
for (var i = local; i < ${tile}u; i += ${team}u) {
let number = unit * ${perTile}u + i / ${width}u;
let row = number / ${chunks}u;
let k = number % ${chunks}u * ${width}u + i % ${width}u;
var e = vec2<u32>(0xffffffffu, k);
if (row < ${rows}u && k < ${length}u) { e.x = keyOf(row, k); }
run[i] = e;
}
workgroupBarrier();
let own = local * ${ITEMS}u;
${items.map((i) => `var e${i} = run[own + ${i}u];`).join("\n")}
${NETWORK}
${items.map((i) => `run[own + ${i}u] = e${i};`).join("\n")}
for (var width = ${ITEMS}u; width < ${width}u; width *= 2u) {
workgroupBarrier();
let base = own & ~(2u * width - 1u);
let at = own - base;
let middle = base + width;
let end = middle + width;
let split = splitOf(base, width, middle, width, at);
${mergeItems("base + split", "middle + at - split", tile)}
}
workgroupBarrier();
for (var i = local; i < ${tile}u; i += ${team}u) {
let number = unit * ${perTile}u + i / ${width}u;
let row = number / ${chunks}u;
let k = number % ${chunks}u * ${width}u + i % ${width}u;
if (row < ${rows}u && k < ${length}u) { put(row, k, run[i].x, run[i].y); }
}
}
`;
  return { label, code, buffers, groups, operations: 0 };
}

/**
 * Exchanges neighbours of e0, e1, ... until they are in order, which takes as many turns as there are elements. Only
 * neighbours of which the second is less are exchanged, so equal keys stay in order.
 */
const NETWORK: string = `for (var turn = 0u; turn < ${ITEMS / 2}u; turn++) {
${[0, 1]
  .flatMap((odd) => items.filter((i) => i % 2 === odd && i + 1 < ITEMS))
  .map((i) => `if (e${i}.x > e${i + 1}.x) { let e = e${i}; e${i} = e${i + 1}; e${i + 1} = e; }`)
  .join("\n")}
}`;

/**
 * Declares a function: how many of the first `at` elements of two merged runs come from the first run. The runs are
 * `countA` elements from `a` on, and `countB` from `b` on; of equal keys those of the first run come first.
 */
function splitFunction(name: string, open: string, close: string): string {
  return `fn ${name}(a: u32, countA: u32, b: u32, countB: u32, at: u32) -> u32 {
var low = select(0u, at - countB, at > countB);
var high = min(at, countA);
while (low < high) {
let middle = (low + high) / 2u;
if (${open}a + middle${close}.x <= ${open}b + at - 1u - middle${close}.x) { low = middle + 1u; } else { high = middle; }
}
return low;
}`;
}

/** Merges a few elements of `run`, up to `middle` and up to `end`, and puts them where the invocation's own are. */
function mergeItems(i: string, j: string, tile: number): string {
  const steps = items.map(
    (n) => `let takes${n} = j >= end || (i < middle && x.x <= y.x);
e${n} = select(y, x, takes${n});
if (takes${n}) { i++; x = run[min(i, ${tile - 1}u)]; } else { j++; y = run[min(j, ${tile - 1}u)]; }`,
  );
  return `var i = ${i};
var j = ${j};
var x = run[min(i, ${tile - 1}u)];
var y = run[min(j, ${tile - 1}u)];
${steps.join("\n")}
workgroupBarrier();
${items.map((n) => `run[own + ${n}u] = e${n};`).join("\n")}`;
}

/** Sorted rows in memory: element `at` of row `row` is `pairs[start + row * length + at]`, its key and where it was. */
export interface Pairs {
  readonly dispatches: readonly Dispatch[];
  /** An array of vec2<u32>. */
  readonly space: Workspace;
  readonly start: number;
  /** Where room for `spare` more begins. */
  readonly spare: number;
}

/** Bytes of the workspace of `sortedPairs`. */
export function pairsBytes({ rows, length }: Omit<SortedRows, "label">, spare: number = 0): number {
  return 2 * WORD_BYTES * (2 * (1 + rows * length) + spare);
}

/**
 * Sorts rows of any length. The head has `keyOf(row, k) -> u32`, and bindings from 0 on.
 *
 * There are two arrays of pairs, and passes go from one to the other. The first element of each says how long the runs
 * are, so that all passes in one direction are one shader.
 */
export function sortedPairs(sorted: SortedRows, head: Head, gpu: Capabilities, spare: number = 0): Pairs {
  const { label, rows, length } = sorted;
  const space = new Workspace(pairsBytes(sorted, spare));
  const words = 1 + rows * length;
  const run = shortRow(gpu);
  const text = `${head.text}
${binding(head.buffers.length, "pairs", "vec2<u32>", "read_write")}
fn put(row: u32, k: u32, key: u32, origin: u32) {
let at = row * ${length}u + k;
if (at == 0u) { pairs[0] = vec2<u32>(${run}u, 0u); }
pairs[1u + at] = vec2<u32>(key, origin);
}`;
  const dispatches = [shortSort(sorted, { text, buffers: [...head.buffers, space] }, gpu)];
  let from = 0;
  for (let width = run; width < length; width *= 2) {
    dispatches.push(mergePass(label, { rows, length, from, to: words - from }, space, gpu));
    from = words - from;
  }
  return { dispatches, space, start: from + 1, spare: 2 * words };
}

interface MergePass {
  readonly rows: number;
  readonly length: number;
  /** Where the arrays begin. */
  readonly from: number;
  readonly to: number;
}

function mergePass(
  label: string,
  { rows, length, from, to }: MergePass,
  space: Workspace,
  gpu: Capabilities,
): Dispatch {
  const tile = shortRow(gpu);
  const stretch = gpu.isSoftware ? STRETCH : tile;
  const chunks = Math.ceil(length / stretch);
  const units = rows * chunks;
  const size = gpu.isSoftware ? lineSize(gpu) : teamOf(gpu);
  const groups = groupsFor(units, gpu.isSoftware ? size : 1, gpu);
  const head = `${binding(0, "pairs", "vec2<u32>", "read_write")}
${splitFunction("splitOf", "pairs[", "]")}`;
  const place = `let row = unit / ${chunks}u;
let first = unit % ${chunks}u * ${stretch}u;
let width = pairs[${from}].x;
let base = first & ~(2u * width - 1u);
let countA = min(width, ${length}u - base);
let countB = min(width, ${length}u - base - countA);
let a = ${from + 1}u + row * ${length}u + base;
let b = a + countA;
let at = first - base;
let count = min(${stretch}u, countA + countB - at);
let goal = ${to + 1}u + row * ${length}u + first;`;
  const alone = `${head}
${mainHead(units, size, groups)}
if (unit == 0u) { pairs[${to}] = vec2<u32>(2u * pairs[${from}].x, 0u); }
${place}
let split = splitOf(a, countA, b, countB, at);
var i = a + split;
var j = b + at - split;
var x = pairs[min(i, b - 1u)];
var y = pairs[min(j, b + countB - 1u)];
for (var k = 0u; k < count; k++) {
if (j >= b + countB || (i < b && x.x <= y.x)) {
pairs[goal + k] = x;
i++;
x = pairs[min(i, b - 1u)];
} else {
pairs[goal + k] = y;
j++;
y = pairs[min(j, b + countB - 1u)];
}
}
}
`;
  const together = `${head}
var<workgroup> run: array<vec2<u32>, ${tile}>;
var<workgroup> splits: array<u32, 2>;
${splitFunction("splitOfRun", "run[", "]")}
${mainHead(units, size, groups, "group")}
if (unit == 0u && local == 0u) { pairs[${to}] = vec2<u32>(2u * pairs[${from}].x, 0u); }
${place}
if (local < 2u) { splits[local] = splitOf(a, countA, b, countB, at + local * count); }
workgroupBarrier();
let fromA = a + splits[0];
let fromB = b + at - splits[0];
let middle = splits[1] - splits[0];
let end = count;
for (var i = local; i < end; i += ${size}u) {
if (i < middle) { run[i] = pairs[fromA + i]; } else { run[i] = pairs[fromB + i - middle]; }
}
workgroupBarrier();
let own = local * ${ITEMS}u;
let before = min(own, end);
let split = splitOfRun(0u, middle, middle, end - middle, before);
${items.map((i) => `var e${i}: vec2<u32>;`).join("\n")}
${mergeItems("split", "middle + before - split", tile)}
workgroupBarrier();
for (var i = local; i < end; i += ${size}u) { pairs[goal + i] = run[i]; }
}
`;
  const code = gpu.isSoftware ? alone : together;
  return { label, code, buffers: [space], groups, operations: 0 };
}
