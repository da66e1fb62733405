/** Sorting along an axis: the order of the first operand, by which the others are put. */
import { type Layout, rowMajor } from "../../kernel.ts";
import type { Slot } from "../../passes/fuse.ts";
import type { Capabilities, Dispatch, NamedKernel } from "./kernel.ts";
import { Buffers } from "./loops_access.ts";
import { rankFunction } from "./ranks.ts";
import { elementAt, type Rows, rowsAlong, startOf } from "./rows.ts";
import { type Pairs, pairsBytes, shortRow, shortSort, sortedPairs } from "./sorting_runs.ts";
import { binding, groupsFor, lineSize, mainHead } from "./wgsl.ts";

/** An operand, and where its elements go. */
interface Placed {
  readonly source: { readonly slot: Slot; readonly rows: Rows };
  readonly target: { readonly slot: Slot; readonly rows: Rows };
}

/** Puts the element that was at `origin` of its row at `k`. */
function placeText(placed: readonly Placed[], buffers: Buffers): string {
  return placed
    .map(({ source, target }) => {
      const to = elementAt(target.rows, startOf(target.rows, "row"), "k");
      const from = elementAt(source.rows, startOf(source.rows, "row"), "origin");
      return `${buffers.word(target.slot, to, "write")} = ${buffers.word(source.slot, from)};`;
    })
    .join("\n");
}

/** Puts the elements of some operands in the order of the pairs. */
function placeDispatch(
  placed: readonly Placed[],
  { space, start }: Pairs,
  { count, length }: Rows,
  gpu: Capabilities,
): Dispatch {
  const units = count * length;
  const size = lineSize(gpu);
  const groups = groupsFor(units, size, gpu);
  const buffers = new Buffers(new Set(), "b", 1);
  const body = placeText(placed, buffers);
  const code = `${binding(0, "pairs", "vec2<u32>")}
${buffers.declarations()}
${mainHead(units, size, groups)}
let row = unit / ${length}u;
let k = unit % ${length}u;
let origin = pairs[unit + ${start}u].y;
${body}
}
`;
  return { label: "sort", code, buffers: [space, ...buffers.refs], groups, operations: 0 };
}

const sort: NamedKernel = {
  prepare(args, outs, params, gpu) {
    if (args[0]!.aval.dtype === "float64") return null;
    const { length, count } = rowsOf(rowMajor(outs[0]!.shape), params);
    const bytes = pairsBytes({ rows: count, length });
    const fits = bytes <= Math.min(gpu.limits.maxBindingSize, gpu.limits.maxBufferSize);
    return fits || isShort(args.length, length, gpu) ? args.map(() => false) : null;
  },
  dispatches({ args, outs, params }, gpu) {
    if (outs[0]!.aval.size === 0) return [];
    const placed = args.map(({ slot, layout }, i): Placed => {
      const out = outs[i]!;
      return {
        source: { slot, rows: rowsOf(layout, params) },
        target: { slot: out, rows: rowsOf(rowMajor(out.aval.shape), params) },
      };
    });
    const { slot, rows } = placed[0]!.source;
    const { count, length } = rows;
    const sorted = { label: "sort", rows: count, length };
    const buffers = new Buffers();
    const element = buffers.word(slot, elementAt(rows, startOf(rows, "row"), "k"));
    const key = `${rankFunction(slot.aval.dtype)}
fn keyOf(row: u32, k: u32) -> u32 { return rank(${element}); }`;
    if (isShort(args.length, length, gpu)) {
      const put = placeText(placed, buffers);
      const text = `${buffers.declarations()}\n${key}
fn put(row: u32, k: u32, key: u32, origin: u32) {
${put}
}`;
      return [shortSort(sorted, { text, buffers: buffers.refs }, gpu)];
    }
    const head = { text: `${buffers.declarations()}\n${key}`, buffers: buffers.refs };
    const pairs = sortedPairs(sorted, head, gpu);
    const dispatches = [...pairs.dispatches];
    const together = Math.floor((gpu.limits.maxStorageBuffers - 1) / 2);
    for (let i = 0; i < placed.length; i += together) {
      dispatches.push(placeDispatch(placed.slice(i, i + together), pairs, rows, gpu));
    }
    return dispatches;
  },
};

/** Whether one dispatch sorts the rows and puts all operands in order. */
function isShort(operands: number, length: number, gpu: Capabilities): boolean {
  return length <= shortRow(gpu) && 2 * operands <= gpu.limits.maxStorageBuffers;
}

function rowsOf(layout: Layout, params: unknown): Rows {
  const { axis } = params as { readonly axis: number }; // The record's own.
  return rowsAlong(layout, axis);
}

export const sortingKernels: ReadonlyMap<string, NamedKernel> = new Map([["sort", sort]]);
