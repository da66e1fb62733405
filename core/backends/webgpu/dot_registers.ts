/**
 * Matrix products in registers alone: what neighbours read twice is in the cache, and nobody waits for anybody. For
 * processors that run shaders, and for products too small to fill tiles.
 */
import { Accumulators, type Cut, type Frame, frameText, groupsOf, repeated } from "./dot_block.ts";
import { baseText, type DotCall, elementOf, operandsOf, operationsOf, Patch } from "./dot_call.ts";
import type { Target } from "./dot_target.ts";
import type { Capabilities, Dispatch } from "./kernel.ts";
import { binding, mainHead, word } from "./wgsl.ts";

/** Rows and columns in the registers of one invocation, multiples of four. */
export interface RegisterBlock {
  readonly blockRows: number;
  readonly blockColumns: number;
}

export function blockName({ blockRows, blockColumns }: RegisterBlock): string {
  return `registers ${blockRows}x${blockColumns}`;
}

/** Invocations of a workgroup. */
const INVOCATIONS = 64;

/** Invocations of a workgroup down and across: a square, or what there is. */
function arrangement(blocksDown: number, blocksAcross: number): readonly [down: number, across: number] {
  let down = 8;
  while (down > 1 && down / 2 >= blocksDown) down /= 2;
  let across = INVOCATIONS / down;
  while (across > 1 && across / 2 >= blocksAcross) across /= 2;
  while (down * across < INVOCATIONS && down < blocksDown) down *= 2;
  return [down, across];
}

/** What a workgroup computes. */
export function extentOf(
  { m, n }: DotCall,
  { blockRows, blockColumns }: RegisterBlock,
): { readonly rows: number; readonly columns: number; readonly invocations: number } {
  const [down, across] = arrangement(Math.ceil(m / blockRows), Math.ceil(n / blockColumns));
  return { rows: down * blockRows, columns: across * blockColumns, invocations: down * across };
}

export function blockDispatch(
  call: DotCall,
  { blockRows, blockColumns }: RegisterBlock,
  cut: Cut,
  target: Target,
  gpu: Capabilities,
): Dispatch {
  const [down, across] = arrangement(Math.ceil(call.m / blockRows), Math.ceil(call.n / blockColumns));
  const [tileRows, tileColumns] = [down * blockRows, across * blockColumns];
  const frame: Frame = { call, gpu, target, cut, tileRows, tileColumns };
  const accumulators = new Accumulators(frame, blockRows, blockColumns);
  const row = (i: number): string => `row + ${word((i >> 2) * down * 4 + (i & 3))}`;
  const column = (j: number): string => `column + ${word(j * across * 4)}`;
  const xs = Array.from({ length: blockRows / 4 }, (_, i) => new Patch(call.x, "x", `a${i}`));
  const ys = Array.from({ length: blockColumns / 4 }, (_, j) => new Patch(call.y, "y", `b${j}`));
  const places = [
    ...xs.map(
      (patch, i) => `{ let quad = (${row(i * 4)}) / 4u; ${patch.place("quad", call.m % tileRows === 0)} }`,
    ),
    ...ys.map(
      (patch, j) => `{ let quad = (${column(j)}) / 4u; ${patch.place("quad", call.n % tileColumns === 0)} }`,
    ),
  ];
  const multiply = (k: string, count: number): string => {
    const products = Array.from({ length: count }, (_, c) => {
      const vectors = ys.map((patch, j) => `let y${j} = ${patch.vector(c)};`);
      return `{ ${vectors.join(" ")}
${accumulators.multiply(
  (i) => xs[i >> 2]!.element(i & 3, c),
  (j) => `y${j}`,
)} }`;
    });
    return [...[...xs, ...ys].map((patch) => patch.load(k, { count })), ...products].join("\n");
  };
  const rest = call.k % 4;
  const whole = call.k - rest;
  const flush = accumulators.flush(4, row, column);
  const loop = `for (var k = begin; k < end; k += 4u) {
${multiply("k", 4)}
${flush}
}`;
  const tail = `${cut.parts === 1 ? "" : `if (part == ${word(cut.parts - 1)}) `}{
${multiply(word(whole), rest)}
${flush}
}`;
  const operands = operandsOf(call);
  const groups = groupsOf(frame);
  const bases = [baseText(call.x, "x"), baseText(call.y, "y")];
  const tiles = Math.ceil(call.m / tileRows) * Math.ceil(call.n / tileColumns);
  const code = `${operands.map((factor, i) => binding(i, factor.name, elementOf(factor))).join("\n")}
${target.text(operands.length, accumulators.inQuads)}
${mainHead(tiles * cut.parts * call.batches, down * across, groups, "group")}
${frameText(frame)}
let row = firstRow + local / ${word(across)} * 4u;
let column = firstColumn + local % ${word(across)} * 4u;
if (row >= ${word(call.m)} || column >= ${word(call.n)}) { return; }
${bases.map(({ batch }) => batch).join("\n")}
let begin = part * ${word(cut.length)};
let end = ${cut.parts === 1 ? word(whole) : `min(begin + ${word(cut.length)}, ${word(whole)})`};
${accumulators.declarations()}
${[...xs, ...ys].map((patch) => patch.declarations(call.type)).join("\n")}
${places.join("\n")}
${repeated(
  call,
  bases.map(({ sums }) => sums),
  `${whole === 0 ? "" : loop}\n${rest === 0 ? "" : tail}`,
)}
${accumulators.store(row, column)}
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
