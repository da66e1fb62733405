/**
 * What every shader has that computes rows by columns of a product in registers: the part of the sum that is its own,
 * the accumulators, and how they are stored.
 */

import { component, type DotCall, multiplyAdd } from "./dot_call.ts";
import type { Target } from "./dot_target.ts";
import type { Capabilities } from "./kernel.ts";
import { groupsFor, word } from "./wgsl.ts";

/** Products that are added one after the other; longer sums are sums of such sums, so that errors do not add up. */
export const LONGEST_SUM = 4096;

/** How the summed index is cut into parts, each a sum of its own. */
export interface Cut {
  readonly parts: number;
  /** Summed indices of a part, a multiple of the cut's step; of the last, what is left. */
  readonly length: number;
}

/** About `wanted` parts of the summed index; all but the last end at multiples of `step`. */
export function cutOf(k: number, wanted: number, step: number): Cut {
  const steps = Math.ceil(k / step);
  const each = Math.ceil(steps / Math.min(wanted, steps));
  return { parts: Math.ceil(steps / each), length: each * step };
}

/** The uniform part of a shader: which workgroup it is. */
export interface Frame {
  readonly call: DotCall;
  readonly gpu: Capabilities;
  readonly target: Target;
  readonly cut: Cut;
  /** Rows and columns of the result that a workgroup computes. */
  readonly tileRows: number;
  readonly tileColumns: number;
}

/** Rows of tiles that are computed together, column by column: what they read stays in the cache. */
const TALL = 8;

export function groupsOf({
  call,
  gpu,
  cut,
  tileRows,
  tileColumns,
}: Frame): readonly [number, number, number] {
  const tiles = Math.ceil(call.m / tileRows) * Math.ceil(call.n / tileColumns);
  return groupsFor(tiles * cut.parts * call.batches, 1, gpu);
}

/** Names the tile's first row and column, the part and the batch of workgroup `unit`. */
export function frameText({ call, cut, tileRows, tileColumns }: Frame): string {
  const rows = Math.ceil(call.m / tileRows);
  const columns = Math.ceil(call.n / tileColumns);
  const lines = [
    `let tile = unit % ${word(rows * columns)};`,
    `let part = unit / ${word(rows * columns)} % ${word(cut.parts)};`,
    `let batch = unit / ${word(rows * columns * cut.parts)};`,
  ];
  if (rows > 1 && columns > 1) {
    lines.push(
      `let band = tile / ${word(TALL * columns)};`,
      `let tall = min(${word(TALL)}, ${word(rows)} - band * ${word(TALL)});`,
      `let inBand = tile % ${word(TALL * columns)};`,
      `let firstRow = (band * ${word(TALL)} + inBand % tall) * ${word(tileRows)};`,
      `let firstColumn = inBand / tall * ${word(tileColumns)};`,
    );
  } else {
    lines.push(`let firstRow = ${columns > 1 ? "0u" : `tile * ${word(tileRows)}`};`);
    lines.push(`let firstColumn = ${columns > 1 ? `tile * ${word(tileColumns)}` : "0u"};`);
  }
  return lines.join("\n");
}

/** Rows and vectors of columns that one invocation computes, and where they are. */
export class Accumulators {
  readonly #frame: Frame;
  readonly #rows: number;
  readonly #vectors: number;
  readonly #add: ReturnType<typeof multiplyAdd>;
  readonly inQuads: boolean;

  constructor(frame: Frame, rows: number, columns: number) {
    this.#frame = frame;
    this.#rows = rows;
    this.#vectors = columns / 4;
    this.#add = multiplyAdd(frame.call.type, frame.gpu.isSoftware);
    this.inQuads = frame.call.n % 4 === 0;
  }

  /** Whether sums are so long that they are stored now and then. */
  get areLong(): boolean {
    const { call, cut, target } = this.#frame;
    return call.type === "f32" && target.keeps && isLong(call, cut);
  }

  #all(text: (name: string, row: number, vector: number) => string): string {
    const lines: string[] = [];
    for (let i = 0; i < this.#rows; i++)
      lines.push(Array.from({ length: this.#vectors }, (_, j) => text(`c${i}_${j}`, i, j)).join(" "));
    return lines.join("\n");
  }

  /** The accumulators; `row(i)` and `column(j)` are the first of four rows and of four columns. */
  declarations(): string {
    const zeros = this.#all((name) => `var ${name} = vec4<${this.#frame.call.type}>();`);
    return this.areLong ? `${zeros}\nvar added = 0u; var isPartial = false;` : zeros;
  }

  /** Adds the products of a scalar for each row and a vector for each four columns. */
  multiply(row: (i: number) => string, vector: (j: number) => string): string {
    return this.#all((name, i, j) => this.#add(row(i), vector(j), name));
  }

  /** Stores what was summed when `length` more products have been added often enough. */
  flush(length: number, row: (i: number) => string, column: (j: number) => string): string {
    if (!this.areLong) return "";
    return `added += 1u;
if (added == ${word(Math.ceil(LONGEST_SUM / length))}) {
${this.store(row, column)}
${this.#all((name) => `${name} = vec4<${this.#frame.call.type}>();`)}
added = 0u; isPartial = true;
}`;
  }

  /** `row(i)` names row i, and `column(j)` the first of four columns, in the result. */
  store(row: (i: number) => string, column: (j: number) => string): string {
    const { call, cut, tileRows, tileColumns } = this.#frame;
    const rowsFit = call.m % tileRows === 0;
    const columnsFit = call.n % tileColumns === 0;
    const { inQuads, areLong } = this;
    const first =
      cut.parts > 1 ? `(part * ${word(call.batches)} + batch)` : call.batches > 1 ? "batch" : null;
    const lines = [];
    for (let i = 0; i < this.#rows; i++) {
      const inner: string[] = [];
      for (let j = 0; j < this.#vectors; j++) {
        const name = `c${i}_${j}`;
        if (inQuads) {
          const value = areLong ? `select(${name}, ${name} + storedQuad(at), isPartial)` : name;
          const text = `let at = start + ${column(j)}; storeQuad(at, ${value});`;
          inner.push(columnsFit ? `{ ${text} }` : `if (${column(j)} < ${word(call.n)}) { ${text} }`);
        } else {
          for (let e = 0; e < 4; e++) {
            const value = `${name}${component(e)}`;
            const sum = areLong ? `select(${value}, ${value} + stored(at), isPartial)` : value;
            inner.push(
              `if (${column(j)} + ${e}u < ${word(call.n)}) { let at = start + ${column(j)} + ${e}u; store(at, ${sum}); }`,
            );
          }
        }
      }
      const above = first === null ? `(${row(i)})` : `(${first} * ${word(call.m)} + ${row(i)})`;
      const body = `let start = ${above} * ${word(call.n)};\n${inner.join("\n")}`;
      lines.push(rowsFit ? `{ ${body} }` : `if (${row(i)} < ${word(call.m)}) { ${body} }`);
    }
    return lines.join("\n");
  }
}

/** Whether a part's sum is longer than one that is added up in one go. */
export function isLong({ k, repeats }: DotCall, { length }: Cut): boolean {
  return Math.min(length, k) * repeats > LONGEST_SUM;
}

/** Runs statements for every index of the summed axes besides `k`. */
export function repeated({ repeats, x, y }: DotCall, sums: readonly (string | null)[], body: string): string {
  if (repeats === 1 && x.sums.shape.length === 0 && y.sums.shape.length === 0) return body;
  const names = sums.filter((text) => text !== null).join("\n");
  return `for (var repeat = 0u; repeat < ${word(repeats)}; repeat++) {\n${names}\n${body}\n}`;
}
