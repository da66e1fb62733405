/**
 * Products of a matrix with a few columns: every element of the matrix is used once or a few times, so what counts is
 * that neighbours read neighbours. Where rows lie in memory one after the other, a team of invocations goes along each;
 * where columns do, invocations go down neighbouring rows, and teams share the sum.
 */
import { type Cut, type Frame, frameText, groupsOf, repeated } from "./dot_block.ts";
import {
  baseText,
  component,
  type DotCall,
  elementOf,
  type Factor,
  freeOffset,
  operandsOf,
  operationsOf,
  readText,
  sumOffset,
  vectorsAlong,
} from "./dot_call.ts";
import type { Target } from "./dot_target.ts";
import type { Capabilities, Dispatch } from "./kernel.ts";
import { binding, mainHead, word } from "./wgsl.ts";

/** The most columns. */
export const MOST_COLUMNS = 4;

/** `team`: so many invocations share a sum; a power of two. */
export interface Team {
  readonly along: "rows" | "columns";
  readonly team: number;
  /** Invocations of a workgroup. */
  readonly size: number;
}

export function teamName({ along, team, size }: Team): string {
  return `${along} by ${team} of ${size}`;
}

/** Joins `team` values of each of several sums, which are `apart` invocations from each other; to the first of them. */
function joined({ team, size }: Team, apart: number, values: readonly string[], rank: string): string {
  if (team === 1) return "";
  const all = (text: (name: string, at: string) => string): string =>
    values.map((name, j) => text(name, j === 0 ? "" : `${word(j * size)} + `)).join(" ");
  return `${all((name, at) => `sums[${at}local] = ${name};`)}
for (var half = ${word(team / 2)}; half > 0u; half /= 2u) {
workgroupBarrier();
if (${rank} < half) { ${all((_, at) => `sums[${at}local] += sums[${at}local + half * ${word(apart)}];`)} }
}
${all((name, at) => `${name} = sums[${at}local];`)}`;
}

/** One element: `at` and `index` name the place of its free index and this index, `k` is the summed index. */
function elementText(factor: Factor, operand: string, at: string, index: string, k: string): string {
  const vector = readText(factor, `${at} + ${sumOffset(factor, operand, k)}`);
  if (factor.width === 1) return vector;
  return vectorsAlong(factor, "sum") ? `${vector}[(${k}) & 3u]` : `${vector}[${index} & 3u]`;
}

/** Names the place of a free index, which has a name itself. */
function placeText(factor: Factor, operand: string, at: string, index: string): string {
  const offset = vectorsAlong(factor, "free")
    ? `let ${at}i = ${index} >> 2u; let ${at} = ${operand}Base + ${freeOffset(factor, `${at}i`)};`
    : `let ${at} = ${operand}Base + ${freeOffset(factor, index)};`;
  return offset;
}

/** How many products one accumulator takes of a sum of `k`. */
export function sumsOfEach({ x, k, repeats }: DotCall, { along, team }: Team): number {
  return (k * repeats) / team / (along === "rows" && vectorsAlong(x, "sum") ? 4 : 1);
}

export function teamDispatch(
  call: DotCall,
  team: Team,
  cut: Cut,
  target: Target,
  gpu: Capabilities,
): Dispatch {
  const { x, y, type, n, m, k } = call;
  const columns = Array.from({ length: n }, (_, j) => j);
  const isAlongRows = team.along === "rows";
  const inVectors = vectorsAlong(x, isAlongRows ? "sum" : "free");
  const rowsEach = !isAlongRows && inVectors ? 4 : 1;
  const apart = isAlongRows ? 1 : team.size / team.team;
  const frame: Frame = {
    call,
    gpu,
    target,
    cut,
    tileRows: (team.size / team.team) * rowsEach,
    tileColumns: n,
  };
  const yElement = (j: number, index: string): string => elementText(y, "y", `y${j}`, `j${j}`, index);
  const yVector = (j: number): string =>
    vectorsAlong(y, "sum")
      ? readText(y, `y${j} + ${sumOffset(y, "y", "k")}`)
      : `vec4(${[0, 1, 2, 3].map((c) => yElement(j, `k + ${c}u`)).join(", ")})`;
  const step = isAlongRows && inVectors ? 4 : 1;
  const product = (j: number): string =>
    isAlongRows && inVectors ? `sum${j} += a * ${yVector(j)};` : `sum${j} += a * ${yElement(j, "k")};`;
  const a = inVectors ? readText(x, `x0 + ${sumOffset(x, "x", "k")}`) : elementText(x, "x", "x0", "row", "k");
  const loop = `for (var k = begin + rank * ${word(step)}; k < end; k += ${word(step * team.team)}) {
let a = ${a};
${columns.map(product).join(" ")}
}`;
  const accumulator = inVectors ? `vec4<${type}>` : type;
  // Along rows the sums of the columns are one vector for the team.
  const across = (name: (j: number) => string): string =>
    `vec4(${[0, 1, 2, 3].map((j) => (j < n ? name(j) : `${type}()`)).join(", ")})`;
  const total = (j: number): string =>
    inVectors ? `(sum${j}.x + sum${j}.y) + (sum${j}.z + sum${j}.w)` : `sum${j}`;
  const values = isAlongRows ? ["row0"] : columns.map((j) => `sum${j}`);
  const inQuads = rowsEach === 4 && (n === 1 || call.isTurned);
  const first = cut.parts > 1 ? `(part * ${word(call.batches)} + batch)` : "batch";
  const [rowStep, columnStep] = call.isTurned ? [1, m] : [n, 1];
  const stores = columns.flatMap((j) => {
    if (inQuads) return [`storeQuad(start + ${word(j * columnStep)}, sum${j});`];
    if (isAlongRows) return [`store(start + ${word(j * columnStep)}, row0${component(j)});`];
    return Array.from({ length: rowsEach }, (_, r) => {
      const value = `sum${j}${inVectors ? component(r) : ""}`;
      return `store(start + ${word(r * rowStep + j * columnStep)}, ${value});`;
    });
  });
  const operands = operandsOf(call);
  const groups = groupsOf(frame);
  const bases = [baseText(x, "x"), baseText(y, "y")];
  const tiles = Math.ceil(m / frame.tileRows);
  const position = isAlongRows
    ? `let rank = local % ${word(team.team)}; let own = local / ${word(team.team)};`
    : `let rank = local / ${word(apart)}; let own = local % ${word(apart)};`;
  const code = `${operands.map((factor, i) => binding(i, factor.name, elementOf(factor))).join("\n")}
${target.text(operands.length, inQuads)}
${team.team === 1 ? "" : `var<workgroup> sums: array<${isAlongRows || inVectors ? `vec4<${type}>` : type}, ${values.length * team.size}>;`}
${mainHead(tiles * cut.parts * call.batches, team.size, groups, "group")}
${frameText(frame)}
${position}
let wanted = firstRow + own * ${word(rowsEach)};
let row = min(wanted, ${word(m - rowsEach)});
${bases.map(({ batch }) => batch).join("\n")}
${placeText(x, "x", "x0", "row")}
${columns.map((j) => `let j${j} = ${j}u; ${placeText(y, "y", `y${j}`, `j${j}`)}`).join("\n")}
let begin = part * ${word(cut.length)};
let end = ${cut.parts === 1 ? word(k) : `min(begin + ${word(cut.length)}, ${word(k)})`};
${columns.map((j) => `var sum${j} = ${accumulator}();`).join(" ")}
${repeated(
  call,
  bases.map(({ sums }) => sums),
  loop,
)}
${isAlongRows ? `var row0 = ${across(total)};` : ""}
${joined(team, apart, values, "rank")}
if (rank == 0u && wanted < ${word(m)}) {
let start = ${first} * ${word(m * n)} + row * ${word(rowStep)};
${stores.join("\n")}
}
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
