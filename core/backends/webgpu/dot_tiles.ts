/**
 * Matrix products in tiles that a workgroup keeps in its memory: each element is read from the buffer once for a tile,
 * and from there once for a block of registers. While one step of the sum is computed, the next is on its way.
 */
import { Accumulators, type Cut, type Frame, frameText, groupsOf, repeated } from "./dot_block.ts";
import {
  baseText,
  component,
  type DotCall,
  elementOf,
  type Factor,
  operandsOf,
  operationsOf,
  Patch,
  vectorsAlong,
} from "./dot_call.ts";
import type { Target } from "./dot_target.ts";
import type { Capabilities, Dispatch } from "./kernel.ts";
import { binding, mainHead, word } from "./wgsl.ts";

/** What may be chosen by timing. Sizes are multiples of four. */
export interface Tile {
  readonly rows: number;
  readonly columns: number;
  /** Summed indices of one step. */
  readonly depth: number;
  /** Rows and columns in the registers of one invocation. */
  readonly blockRows: number;
  readonly blockColumns: number;
  /** Steps that workgroup memory has room for: with two, half as many barriers. */
  readonly stages: 1 | 2;
  /** Summed indices that one turn of the inner loop computes. */
  readonly unroll: number;
}

export function tileName({ rows, columns, depth, blockRows, blockColumns, stages }: Tile): string {
  return `tile ${rows}x${columns}x${depth} of ${blockRows}x${blockColumns}${stages === 2 ? " twice" : ""}`;
}

export function invocationsOf({ rows, columns, blockRows, blockColumns }: Tile): number {
  return (rows / blockRows) * (columns / blockColumns);
}

/**
 * Vectors from one summed index to the next in workgroup memory. Vectors along the sum are turned before they are
 * stored; with room for one between, those that neighbours store are in different banks.
 */
function pitchOf(factor: Factor, size: number): number {
  return size / 4 + (vectorsAlong(factor, "free") ? 0 : 1);
}

/** Whether the device has enough invocations and workgroup memory. */
export function fitsTile({ x, y }: DotCall, tile: Tile, { limits }: Capabilities): boolean {
  const { rows, columns, depth, stages } = tile;
  const bytes = 16 * stages * depth * (pitchOf(x, rows) + pitchOf(y, columns));
  return invocationsOf(tile) <= limits.maxWorkgroupSize && bytes <= limits.maxWorkgroupBytes;
}

/** One operand's part of a step: patches of four by four, and where they go. */
interface Share {
  readonly factor: Factor;
  readonly operand: "x" | "y";
  readonly size: number;
  readonly pitch: number;
}

/** One patch for each invocation, or for the first of them: which operand's, by the invocation's number. */
interface Turn {
  readonly name: string;
  readonly first: number;
  readonly cases: readonly {
    readonly share: Share;
    /** Of the patches of both operands, the share's first, and the one after this turn's last. */
    readonly from: number;
    readonly until: number;
  }[];
}

function turnsOf(shares: readonly Share[], depth: number, invocations: number): Turn[] {
  const ends = [0];
  for (const { size } of shares) ends.push(ends.at(-1)! + (size * depth) / 16);
  return Array.from({ length: Math.ceil(ends.at(-1)! / invocations) }, (_, t): Turn => {
    const first = t * invocations;
    const cases = shares.flatMap((share, i) => {
      const [from, until] = [ends[i]!, Math.min(ends[i + 1]!, first + invocations)];
      return first < ends[i + 1]! && from < first + invocations ? [{ share, from, until }] : [];
    });
    return { name: `t${t}`, first, cases };
  });
}

/** Statements for the operand whose patch an invocation has in a turn. */
function eachCase(
  { first, cases }: Turn,
  invocations: number,
  body: (share: Share, from: number) => string,
): string {
  const texts = cases.map(({ share, from, until }) => {
    const isLast = until === first + invocations;
    return `${isLast ? "" : `if (local < ${word(until - first)}) `}{\n${body(share, from)}\n}`;
  });
  return texts.join(" else ");
}

/** Neighbours in a workgroup, 32 of which compute together, are neighbours in both directions: they share what they read. */
function positionText(down: number, across: number): string {
  const wide = Math.min(8, across);
  const tall = 32 / wide;
  if (across % wide !== 0 || !Number.isInteger(tall) || down % tall !== 0)
    return `let across = local % ${word(across)}; let down = local / ${word(across)};`;
  return `let across = local / 32u % ${word(across / wide)} * ${word(wide)} + local % ${word(wide)};
let down = local / ${word(32 * (across / wide))} * ${word(tall)} + local % 32u / ${word(wide)};`;
}

export function tileDispatch(
  call: DotCall,
  tile: Tile,
  cut: Cut,
  target: Target,
  gpu: Capabilities,
): Dispatch {
  const { rows, columns, depth, blockRows, blockColumns, stages, unroll } = tile;
  const invocations = invocationsOf(tile);
  const frame: Frame = { call, gpu, target, cut, tileRows: rows, tileColumns: columns };
  const [down, across] = [rows / blockRows, columns / blockColumns];
  const shares: readonly [Share, Share] = [
    { factor: call.x, operand: "x", size: rows, pitch: pitchOf(call.x, rows) },
    { factor: call.y, operand: "y", size: columns, pitch: pitchOf(call.y, columns) },
  ];
  const turns = turnsOf(shares, depth, invocations);
  const accumulators = new Accumulators(frame, blockRows, blockColumns);
  const row = (i: number): string => `row + ${word((i >> 2) * down * 4 + (i & 3))}`;
  const column = (j: number): string => `column + ${word(j * across * 4)}`;
  const patchOf = ({ factor, operand }: Share, { name }: Turn): Patch => new Patch(factor, operand, name);
  const inEachTurn = (body: (share: Share, turn: Turn, from: number) => string): string =>
    turns.map((turn) => eachCase(turn, invocations, (share, from) => body(share, turn, from))).join("\n");

  const declarations = turns.map(
    (turn) =>
      `${patchOf(turn.cases[0]!.share, turn).declarations(call.type)} var ${turn.name}quad: u32; var ${turn.name}depth: u32;`,
  );
  const places = inEachTurn((share, turn, from) => {
    const { factor, size, operand } = share;
    const { name, first } = turn;
    // Turned patches go by pairs along the sum: full sectors are read, and the stores meet no bank twice.
    const pair = vectorsAlong(factor, "free") || depth % 8 !== 0 ? 1 : 2;
    return `let number = local + ${word(first)} - ${word(from)};
${name}quad = number / ${word(pair)} % ${word(size / 4)};
${name}depth = (number % ${word(pair)} + number / ${word((pair * size) / 4)} * ${word(pair)}) * 4u;
let quad = ${operand === "x" ? "firstRow" : "firstColumn"} / 4u + ${name}quad;
${patchOf(share, turn).place("quad", factor.size % size === 0)}`;
  });
  const load = (from: string, last: number | null): string =>
    inEachTurn(
      (share, turn) => `let k = ${from} + ${turn.name}depth;
${patchOf(share, turn).load("k", { last })}`,
    );
  /** Where a stage begins; one alone begins at 0. */
  const placeOf = ({ pitch }: Share, stage: string | null, k: string): string =>
    `${stage === null ? "" : `${stage} * ${word(depth * pitch)} + `}(${k}) * ${word(pitch)}`;
  const keep = (stage: string | null): string =>
    inEachTurn((share, turn) => {
      const patch = patchOf(share, turn);
      return [0, 1, 2, 3]
        .map((c) => {
          const at = placeOf(share, stage, `${turn.name}depth + ${c}u`);
          return `${share.operand}Tile[${at} + ${turn.name}quad] = ${patch.vector(c)};`;
        })
        .join("\n");
    });
  const multiply = (k: string, stage: string | null): string => {
    const reads = (share: Share, vectors: number, name: string, at: string, apart: number): string =>
      Array.from({ length: vectors }, (_, i) => {
        const place = `${placeOf(share, stage, k)} + ${at} + ${word(i * apart)}`;
        return `let ${name}${i} = ${share.operand}Tile[${place}];`;
      }).join(" ");
    return `{
${reads(shares[0], blockRows / 4, "a", "down", down)}
${reads(shares[1], blockColumns / 4, "b", "across", across)}
${accumulators.multiply(
  (i) => `a${i >> 2}${component(i & 3)}`,
  (j) => `b${j}`,
)}
}`;
  };
  const compute = (stage: string | null): string => {
    const all = Array.from({ length: unroll }, (_, u) => multiply(`k + ${u}u`, stage));
    return `for (var k = 0u; k < ${word(depth)}; k += ${word(unroll)}) {\n${all.join("\n")}\n}`;
  };
  const flush = accumulators.flush(depth, row, column);
  const next = `if (s + 1u < steps) {\n${load(`begin + (s + 1u) * ${word(depth)}`, null)}\n}`;
  const loops: Readonly<Record<Tile["stages"], string>> = {
    1: `if (steps > 0u) {\n${load("begin", null)}\n}
for (var s = 0u; s < steps; s++) {
workgroupBarrier();
${keep(null)}
workgroupBarrier();
${next}
${compute(null)}
${flush}
}`,
    2: `workgroupBarrier();
if (steps > 0u) {\n${load("begin", null)}\n${keep("0u")}\n}
workgroupBarrier();
for (var s = 0u; s < steps; s++) {
let stage = s & 1u;
${next}
${compute("stage")}
if (s + 1u < steps) {\n${keep("(1u - stage)")}\n}
workgroupBarrier();
${flush}
}`,
  };
  // Full steps of this part; the rest follows those of the last part.
  const full = Math.floor(call.k / depth);
  const each = cut.length / depth;
  const rest = call.k % depth;
  const tail = `${cut.parts === 1 ? "" : `if (part == ${word(cut.parts - 1)}) `}{
workgroupBarrier();
${load(word(full * depth), call.k - 1)}
${keep(null)}
workgroupBarrier();
for (var k = 0u; k < ${word(rest)}; k++) {\n${multiply("k", null)}\n}
${flush}
}`;
  const operands = operandsOf(call);
  const groups = groupsOf(frame);
  const bases = shares.map(({ factor, operand }) => baseText(factor, operand));
  const tiles = Math.ceil(call.m / rows) * Math.ceil(call.n / columns);
  const code = `${operands.map((factor, i) => binding(i, factor.name, elementOf(factor))).join("\n")}
${target.text(operands.length, accumulators.inQuads)}
${shares
  .map(
    ({ operand, pitch }) =>
      `var<workgroup> ${operand}Tile: array<vec4<${call.type}>, ${stages * depth * pitch}>;`,
  )
  .join("\n")}
${mainHead(tiles * cut.parts * call.batches, invocations, groups, "group")}
${frameText(frame)}
${bases.map(({ batch }) => batch).join("\n")}
${positionText(down, across)}
let row = firstRow + down * 4u;
let column = firstColumn + across * 4u;
let begin = part * ${word(cut.length)};
let steps = ${cut.parts === 1 ? word(full) : `min(${word(each)}, ${word(full)} - min(${word(full)}, part * ${word(each)}))`};
${accumulators.declarations()}
${declarations.join("\n")}
${places}
${repeated(
  call,
  bases.map(({ sums }) => sums),
  `${loops[stages]}\n${rest === 0 ? "" : tail}`,
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
