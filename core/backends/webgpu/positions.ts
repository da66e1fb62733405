/** Where the largest or smallest element of each row is: the first NaN, or else the first of equals. */
import { type Capabilities, type Dispatch, type NamedKernel, Workspace } from "./kernel.ts";
import { rankFunction } from "./ranks.ts";
import { elementAt, type Rows, rowsAlong, type Spread, spreadOf, startOf, teamHead } from "./rows.ts";
import { binding, groupsFor, mainHead, WORD_BYTES } from "./wgsl.ts";

/** The element before others: of greater rank, or of equal rank and first. */
const BEFORE = `fn isBefore(x: vec2<u32>, y: vec2<u32>) -> bool { return x.x > y.x || (x.x == y.x && x.y < y.y); }`;

/** One pass over rows: what it reads, as (rank, position) of element `k` of the row at `start`, and where it leaves the best of each piece. */
interface Pass {
  readonly rows: Rows;
  readonly spread: Spread;
  readonly read: string;
  readonly store: string;
  readonly declarations: string;
}

function passText(
  { rows, spread, read, store, declarations }: Pass,
  gpu: Capabilities,
): Omit<Dispatch, "label" | "buffers"> {
  const { size, team, pieces, isAcross } = spread;
  const units = rows.count * pieces;
  const slots = size / team;
  const groups = groupsFor(units, slots, gpu);
  const mains = team === 1 ? units : Math.ceil(units / slots);
  const each = Math.ceil(rows.length / pieces);
  const head = mainHead(mains, size, groups, team === 1 ? "invocation" : "group");
  const [row, piece] = isAcross
    ? [`number % ${rows.count}u`, `number / ${rows.count}u`]
    : [`number / ${pieces}u`, `number % ${pieces}u`];
  const join = `shared_best[local] = best;
for (var apart = ${team / 2}u; apart > 0u; apart /= 2u) {
workgroupBarrier();
if (member < apart) {
let other = shared_best[local + apart${isAcross ? ` * ${slots}u` : ""}];
if (isBefore(other, best)) { best = other; shared_best[local] = best; }
}
}`;
  const code = `${declarations}
${BEFORE}
${team === 1 ? "" : `var<workgroup> shared_best: array<vec2<u32>, ${size}>;`}
${head}
${teamHead(units, spread)}
let row = ${row};
let start = ${startOf(rows, "row")};
let piece = ${piece};
let end = min(${rows.length}u, (piece + 1u) * ${each}u);
var best = vec2<u32>(0u, 0xffffffffu);
for (var k = piece * ${each}u + member; k < end; k += ${team}u) {
let next = ${read};
if (isBefore(next, best)) { best = next; }
}
${team === 1 ? "" : join}
if (isInside && member == 0u) { ${store} }
}
`;
  return { code, groups, operations: 0 };
}

function positionKernel(name: string, order: "ascending" | "descending"): NamedKernel {
  return {
    prepare: ([x]) => (x!.aval.dtype === "float64" ? null : [false]),
    dispatches({ args, outs, params }, gpu) {
      const out = outs[0]!;
      if (out.aval.size === 0) return [];
      const { slot, layout } = args[0]!;
      const { axis } = params as { readonly axis: number }; // The record's own.
      const rows = rowsAlong(layout, axis);
      const spread = spreadOf(rows, gpu);
      const { pieces } = spread;
      const results = `${binding(1, "positions", "u32", "read_write")}`;
      const space = pieces === 1 ? null : new Workspace(2 * WORD_BYTES * rows.count * pieces);
      const first = passText(
        {
          rows,
          spread,
          read: `vec2<u32>(rank(x[${elementAt(rows, "start", "k")}]), k)`,
          store: space ? `parts[row * ${pieces}u + piece] = best;` : "positions[row] = best.y;",
          declarations: `${binding(0, "x", "u32")}
${space ? binding(1, "parts", "vec2<u32>", "read_write") : results}
${rankFunction(slot.aval.dtype, order)}`,
        },
        gpu,
      );
      if (space === null) return [{ ...first, label: name, buffers: [slot, out] }];
      const parts: Rows = {
        starts: { shape: [rows.count], offset: 0, strides: [pieces] },
        count: rows.count,
        length: pieces,
        step: 1,
      };
      const second = passText(
        {
          rows: parts,
          spread: { ...spreadOf(parts, gpu), pieces: 1 },
          read: `parts[${elementAt(parts, "start", "k")}]`,
          store: "positions[row] = best.y;",
          declarations: `${binding(0, "parts", "vec2<u32>")}\n${results}`,
        },
        gpu,
      );
      return [
        { ...first, label: name, buffers: [slot, space] },
        { ...second, label: name, buffers: [space, out] },
      ];
    },
  };
}

export const positionKernels: ReadonlyMap<string, NamedKernel> = new Map([
  ["argmax", positionKernel("argmax", "ascending")],
  ["argmin", positionKernel("argmin", "descending")],
]);
