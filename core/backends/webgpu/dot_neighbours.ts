/**
 * Matrix products by invocations that hand each other what they read: neighbours take neighbouring columns, each reads
 * another element of every row, and all get it from the one that has it. For processors that run shaders, which read
 * whole vectors of columns so.
 */
import { type Cut, type Frame, frameText, groupsOf, repeated } from "./dot_block.ts";
import {
  baseText,
  type DotCall,
  elementOf,
  type Factor,
  freeOffset,
  inElements,
  operandsOf,
  operationsOf,
  readText,
  sumOffset,
} from "./dot_call.ts";
import type { Target } from "./dot_target.ts";
import type { Capabilities, Dispatch } from "./kernel.ts";
import { binding, mainHead, word } from "./wgsl.ts";

/** Rows and columns in the registers of one invocation; so many neighbours form a workgroup. */
export interface NeighbourBlock {
  readonly blockRows: number;
  readonly blockColumns: number;
  readonly neighbours: number;
}

export function neighboursName({ blockRows, blockColumns, neighbours }: NeighbourBlock): string {
  return `neighbours ${blockRows}x${blockColumns} by ${neighbours}`;
}

/** The place of free index `index` of an operand. */
function placeText(factor: Factor, operand: string, at: string, index: string): string {
  return `let ${at} = ${operand}Base + ${freeOffset(factor, index)};`;
}

export function neighboursDispatch(
  given: DotCall,
  { blockRows, blockColumns, neighbours }: NeighbourBlock,
  cut: Cut,
  target: Target,
  gpu: Capabilities,
): Dispatch {
  const call = { ...given, x: inElements(given.x), y: inElements(given.y) };
  const { x, y, m, n, k, type } = call;
  const [tileRows, tileColumns] = [blockRows, blockColumns * neighbours];
  const frame: Frame = { call, gpu, target, cut, tileRows, tileColumns };
  const rows = Array.from({ length: blockRows }, (_, i) => i);
  const columns = Array.from({ length: blockColumns }, (_, j) => j);
  const each = (text: (i: number, j: number) => string): string =>
    rows.map((i) => columns.map((j) => text(i, j)).join(" ")).join("\n");
  const xAt = (i: number, index: string): string => readText(x, `x${i} + ${sumOffset(x, "x", index)}`);
  const yAt = (j: number, index: string): string => readText(y, `y${j} + ${sumOffset(y, "y", index)}`);
  const line = (index: string): string => columns.map((j) => `let b${j} = ${yAt(j, index)};`).join(" ");
  const add = (i: number): string => columns.map((j) => `c${i}_${j} += a * b${j};`).join(" ");
  const handed = Array.from({ length: neighbours }, (_, s) => {
    const products = rows.map((i) => `{ let a = subgroupBroadcast(a${i}, ${s}u); ${add(i)} }`);
    return `{ ${line(`k + ${s}u`)}\n${products.join("\n")} }`;
  });
  const whole = k - (k % neighbours);
  const loop = `for (var k = begin; k < end; k += ${word(neighbours)}) {
${rows.map((i) => `let a${i} = ${xAt(i, "k + local")};`).join("\n")}
${handed.join("\n")}
}`;
  const tail = `${cut.parts === 1 ? "" : `if (part == ${word(cut.parts - 1)}) `}{
for (var k = ${word(whole)}; k < ${word(k)}; k++) {
${line("k")}
${rows.map((i) => `{ let a = ${xAt(i, "k")}; ${add(i)} }`).join("\n")}
}
}`;
  const first = cut.parts > 1 ? `(part * ${word(call.batches)} + batch)` : "batch";
  const [rowStep, columnStep] = call.isTurned ? [1, m] : [n, 1];
  const stores = rows.map((i) => {
    const inner = columns.map((j) => {
      const column = `firstColumn + ${word(j * neighbours)} + local`;
      return `if (${column} < ${word(n)}) { store(start + (${column}) * ${word(columnStep)}, c${i}_${j}); }`;
    });
    const row = `firstRow + ${word(i)}`;
    return `if (${row} < ${word(m)}) { let start = ${first} * ${word(m * n)} + (${row}) * ${word(rowStep)};
${inner.join("\n")} }`;
  });
  const operands = operandsOf(call);
  const groups = groupsOf(frame);
  const bases = [baseText(x, "x"), baseText(y, "y")];
  const tiles = Math.ceil(m / tileRows) * Math.ceil(n / tileColumns);
  const code = `${operands.map((factor, i) => binding(i, factor.name, elementOf(factor))).join("\n")}
${target.text(operands.length, false)}
${mainHead(tiles * cut.parts * call.batches, neighbours, groups, "group")}
${frameText(frame)}
${bases.map(({ batch }) => batch).join("\n")}
${rows.map((i) => `let row${i} = min(firstRow + ${word(i)}, ${word(m - 1)}); ${placeText(x, "x", `x${i}`, `row${i}`)}`).join("\n")}
${columns.map((j) => `let column${j} = min(firstColumn + ${word(j * neighbours)} + local, ${word(n - 1)}); ${placeText(y, "y", `y${j}`, `column${j}`)}`).join("\n")}
let begin = part * ${word(cut.length)};
let end = ${cut.parts === 1 ? word(whole) : `min(begin + ${word(cut.length)}, ${word(whole)})`};
${each((i, j) => `var c${i}_${j} = ${type}();`)}
${repeated(
  call,
  bases.map(({ sums }) => sums),
  `${whole === 0 ? "" : loop}\n${whole === k ? "" : tail}`,
)}
${stores.join("\n")}
}
`;
  return {
    label: "dot",
    code,
    buffers: [...operands.map(({ slot }) => slot), ...target.buffers],
    groups,
    operations: operationsOf(call),
  };
}
