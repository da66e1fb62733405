/**
 * Cumulative sums. A row is cut into chunks, each of which one invocation or one workgroup sums; the sums of the chunks
 * are cumulated in the same way, and each chunk begins with the sum of those before it. So float32 loses about as much
 * as in a tree.
 */
import { rowMajor } from "../../kernel.ts";
import type { Slot } from "../../passes/fuse.ts";
import type { CumsumParams } from "../../prims/reduce.ts";
import { type Capabilities, type Dispatch, type NamedKernel, Workspace } from "./kernel.ts";
import { longSum } from "./long_sums.ts";
import { Buffers } from "./loops_access.ts";
import { BUSY, elementAt, powerAbove, type Rows, reversed, rowsAlong, startOf } from "./rows.ts";
import { groupsFor, lineSize, mainHead, numberType, WORD_BYTES } from "./wgsl.ts";

/** Elements that an invocation of a workgroup sums. */
const ITEMS = 8;
/** Rows up to this length are not shared out. */
const SHORT_ROW = 32;
/** Chunks of an invocation alone, where there are few rows. */
const LONG_CHUNK = 4096;
/** Rows that keep the processors of a software device busy. */
const FEW_ROWS = 16;

type Word = "f32" | "i32" | "u32";

/** Rows in a buffer. */
interface Place {
  readonly ref: Slot | Workspace;
  readonly rows: Rows;
}

interface Scan {
  readonly type: Word;
  readonly source: Place;
  readonly target: Place;
}

/** How rows are cut: `length` elements for each chunk, which a workgroup of `size` invocations or one alone has. */
interface Chunks {
  readonly length: number;
  /** In a row. */
  readonly count: number;
  readonly size: number;
  readonly isShared: boolean;
}

function chunksOf({ count, length, step }: Rows, gpu: Capabilities): Chunks {
  const line = lineSize(gpu);
  const alone = (chunk: number): Chunks => ({
    length: chunk,
    count: Math.ceil(length / chunk),
    size: line,
    isShared: false,
  });
  if (gpu.isSoftware) return alone(count < FEW_ROWS && length > LONG_CHUNK ? LONG_CHUNK : length);
  // Neighbouring rows that are read together keep the device busy, if there are many.
  if (length <= SHORT_ROW || (Math.abs(step) !== 1 && count >= BUSY / 8)) return alone(length);
  const size = Math.min(line, Math.max(32, powerAbove(length / ITEMS)));
  return { length: size * ITEMS, count: Math.ceil(length / (size * ITEMS)), size, isShared: true };
}

const fromWord = (type: Word, word: string): string => (type === "u32" ? word : `bitcast<${type}>(${word})`);
const toWord = (type: Word, value: string): string => (type === "u32" ? value : `bitcast<u32>(${value})`);

/** Words of workspace for the sums of chunks, of all levels. */
function wordsOf(rows: Rows, gpu: Capabilities): number {
  const { count } = chunksOf(rows, gpu);
  return count === 1 ? 0 : rows.count * count + wordsOf(sumRows(rows.count, count, 0), gpu);
}

/** The sums of the chunks of each row, as rows from word `offset` on. */
function sumRows(count: number, length: number, offset: number): Rows {
  return { starts: { shape: [count], offset, strides: [length] }, count, length, step: 1 };
}

/** The dispatches of a scan, with the sums of its chunks from word `offset` of the workspace on. */
function scanDispatches(scan: Scan, space: Workspace, offset: number, gpu: Capabilities): Dispatch[] {
  const { rows } = scan.source;
  const chunks = chunksOf(rows, gpu);
  if (chunks.count === 1) return [scanDispatch(scan, chunks, null, gpu)];
  const sums = { ref: space, rows: sumRows(rows.count, chunks.count, offset) };
  const above = { type: scan.type, source: sums, target: sums };
  return [
    sumDispatch(scan, chunks, sums, gpu),
    ...scanDispatches(above, space, offset + rows.count * chunks.count, gpu),
    scanDispatch(scan, chunks, sums, gpu),
  ];
}

/** A dispatch whose units are chunks: the body has `row`, `chunk`, and where it begins and ends in its row. */
function dispatchOf(
  { count, length }: Rows,
  chunks: Chunks,
  buffers: Buffers,
  shared: string,
  body: string,
  gpu: Capabilities,
): Dispatch {
  const units = count * chunks.count;
  const groups = groupsFor(units, chunks.isShared ? 1 : chunks.size, gpu);
  const isOnly = chunks.count === 1;
  const code = `${buffers.declarations()}
${shared}
${mainHead(units, chunks.size, groups, chunks.isShared ? "group" : "invocation")}
let row = ${isOnly ? "unit" : `unit / ${chunks.count}u`};
let chunk = ${isOnly ? "0u" : `unit % ${chunks.count}u`};
let first = chunk * ${chunks.length}u;
let end = min(first + ${chunks.length}u, ${length}u);
${body}
}
`;
  return { label: "cumsum", code, buffers: buffers.refs, groups, operations: 0 };
}

/** The sum of each chunk. */
function sumDispatch({ type, source }: Scan, chunks: Chunks, sums: Place, gpu: Capabilities): Dispatch {
  const buffers = new Buffers();
  const { isShared, size } = chunks;
  const element = fromWord(type, buffers.word(source.ref, elementAt(source.rows, "origin", "k")));
  const store = (value: string): string =>
    `${buffers.word(sums.ref, elementAt(sums.rows, startOf(sums.rows, "row"), "chunk"), "write")} = ${toWord(type, value)};`;
  const { text, total } = longSum(
    type,
    isShared
      ? { first: "first + local", end: "end", step: size, most: ITEMS }
      : { first: "first", end: "end", step: 1, most: chunks.length },
    (sum) => `${sum} += ${element};`,
  );
  const origin = `let origin = ${startOf(source.rows, "row")};`;
  if (!isShared) {
    return dispatchOf(source.rows, chunks, buffers, "", `${origin}\n${text}\n${store(total)}`, gpu);
  }
  const body = `${origin}
${text}
sums[local] = ${total};
for (var apart = ${size / 2}u; apart > 0u; apart /= 2u) {
workgroupBarrier();
if (local < apart) { sums[local] += sums[local + apart]; }
}
if (local == 0u) { ${store("sums[0]")} }`;
  const shared = `var<workgroup> sums: array<${type}, ${size}>;`;
  return dispatchOf(source.rows, chunks, buffers, shared, body, gpu);
}

/** The cumulative sums of each chunk, and of those before it if there are `sums`. */
function scanDispatch(
  { type, source, target }: Scan,
  chunks: Chunks,
  sums: Place | null,
  gpu: Capabilities,
): Dispatch {
  const buffers = new Buffers();
  const { isShared, size } = chunks;
  const element = fromWord(type, buffers.word(source.ref, elementAt(source.rows, "origin", "k")));
  const store = (value: string): string =>
    `${buffers.word(target.ref, elementAt(target.rows, "goal", "k"), "write")} = ${toWord(type, value)};`;
  const before = `let origin = ${startOf(source.rows, "row")};
let goal = ${startOf(target.rows, "row")};
${
  sums
    ? `var before = ${type}();
if (chunk > 0u) { before = ${fromWord(type, buffers.word(sums.ref, elementAt(sums.rows, startOf(sums.rows, "row"), "(chunk - 1u)")))}; }`
    : ""
}`;
  const after = (value: string): string => (sums ? `before + ${value}` : value);
  if (!isShared) {
    const range = { first: "first", end: "end", step: 1, most: chunks.length };
    const { text } = longSum(type, range, (sum, total) => `${sum} += ${element};\n${store(after(total))}`);
    return dispatchOf(source.rows, chunks, buffers, "", `${before}\n${text}`, gpu);
  }
  const items = Array.from({ length: ITEMS }, (_, i) => i);
  // A word is left free in every 32, so that invocations read different banks.
  const place = (at: string): string => `items[(${at}) + ((${at}) >> 5u)]`;
  const own = (i: number): string => place(`local * ${ITEMS}u + ${i}u`);
  const words = ITEMS * size;
  const shared = `var<workgroup> items: array<${type}, ${words + words / 32}>;
var<workgroup> sums: array<${type}, ${size}>;`;
  const body = `${before}
for (var i = local; i < ${words}u; i += ${size}u) {
let k = first + i;
var item = ${type}();
if (k < end) { item = ${element}; }
${place("i")} = item;
}
workgroupBarrier();
${items.map((i) => `let sum${i} = ${i === 0 ? "" : `sum${i - 1} + `}${own(i)};`).join("\n")}
var cumulative = sum${ITEMS - 1};
sums[local] = cumulative;
for (var apart = 1u; apart < ${size}u; apart *= 2u) {
workgroupBarrier();
if (local >= apart) { cumulative += sums[local - apart]; }
workgroupBarrier();
sums[local] = cumulative;
}
workgroupBarrier();
var lower = ${type}();
if (local > 0u) { lower = sums[local - 1u]; }
${items.map((i) => `${own(i)} = ${after(`(lower + sum${i})`)};`).join("\n")}
workgroupBarrier();
for (var i = local; i < ${words}u; i += ${size}u) {
let k = first + i;
if (k < end) { ${store(place("i"))} }
}`;
  return dispatchOf(source.rows, chunks, buffers, shared, body, gpu);
}

const cumsum: NamedKernel = {
  prepare: ([x]) => (x!.aval.dtype === "float64" ? null : [false]),
  dispatches({ args, outs, params }, gpu) {
    const out = outs[0]!;
    if (out.aval.size === 0) return [];
    const { axis, reverse } = params as CumsumParams; // The record's own.
    const { slot, layout } = args[0]!;
    const places = [
      { ref: slot, rows: rowsAlong(layout, axis) },
      { ref: out, rows: rowsAlong(rowMajor(out.aval.shape), axis) },
    ].map(({ ref, rows }): Place => ({ ref, rows: reverse ? reversed(rows) : rows }));
    const [source, target] = places as [Place, Place];
    const space = new Workspace(Math.max(1, wordsOf(source.rows, gpu)) * WORD_BYTES);
    return scanDispatches({ type: numberType(out.aval.dtype), source, target }, space, 0, gpu);
  },
};

export const scanKernels: ReadonlyMap<string, NamedKernel> = new Map([["cumsum", cumsum]]);
