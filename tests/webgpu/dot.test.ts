/**
 * Matrix products of the WebGPU backend against the reference: calls of any layout through the backend, and every shader
 * that some device would use, whether or not this one would.
 */
import { describe, expect, test } from "bun:test";
import { Aval } from "../../core/aval.ts";
import { reference } from "../../core/backend.ts";
import type { GpuBuffer } from "../../core/backends/webgpu/api.ts";
import {
  blockShader,
  candidates,
  teamShader,
  tileShader,
  type Variant,
  variantOf,
} from "../../core/backends/webgpu/dot.ts";
import { type DotCall, dotCall, exchanged } from "../../core/backends/webgpu/dot_call.ts";
import type { RegisterBlock } from "../../core/backends/webgpu/dot_registers.ts";
import type { Tile } from "../../core/backends/webgpu/dot_tiles.ts";
import { MOST_COLUMNS, type Team } from "../../core/backends/webgpu/dot_vectors.ts";
import type { BufferRef, Capabilities } from "../../core/backends/webgpu/kernel.ts";
import { webgpuContext } from "../../core/backends/webgpu/open.ts";
import { type DType, isFloat, makeArray } from "../../core/dtype.ts";
import { type Layout, rowMajor } from "../../core/kernel.ts";
import { type CallStep, Slot } from "../../core/passes/fuse.ts";
import { type DotParams, dotP } from "../../core/prims/contract.ts";
import { sizeOf } from "../../core/shape.ts";
import { copyView } from "../../core/strided.ts";
import { storage, Tensor } from "../../core/value.ts";
import { SeededDraw } from "../support/arbitrary_tensor.ts";
import { epsilon } from "../support/tolerance.ts";
import { hasGpu } from "./support.ts";

const matrices: DotParams = { contract: [[1], [0]], batch: [[], []] };
const batched: DotParams = { contract: [[2], [1]], batch: [[0], [0]] };

/** An operand: its elements are those of a row-major buffer of `buffer` elements at a layout. */
interface Operand {
  readonly layout: Layout;
  readonly buffer: number;
}

const plain = (...shape: readonly number[]): Operand => ({ layout: rowMajor(shape), buffer: sizeOf(shape) });

/** A matrix whose columns are neighbours of themselves: the transposed of a row-major one. */
function turned(rows: number, columns: number): Operand {
  return { layout: { shape: [rows, columns], offset: 0, strides: [1, rows] }, buffer: rows * columns };
}

interface Case {
  readonly x: Operand;
  readonly y: Operand;
  readonly params: DotParams;
  readonly dtype: DType;
  /** Both operands are one buffer. */
  readonly isOne?: boolean;
}

function drawn(draw: SeededDraw, dtype: DType, size: number): Tensor {
  const data = makeArray(dtype, size);
  for (let i = 0; i < size; i++) data[i] = isFloat(dtype) ? 2 * draw.unit() - 1 : draw.unit() * 2 ** 32;
  return new Tensor(new Aval([size], dtype), data);
}

function ordered({ layout }: Operand, buffer: Tensor): Tensor {
  const { shape, offset, strides } = layout;
  const data = makeArray(buffer.dtype, sizeOf(shape));
  copyView(
    { data: storage(buffer), offset, strides },
    { data, offset: 0, strides: rowMajor(shape).strides },
    shape,
  );
  return new Tensor(new Aval(shape, buffer.dtype), data);
}

/** A step with its buffers, and what it should compute. */
function stepOf({ x, y, params, dtype, isOne }: Case, draw: SeededDraw) {
  const buffers = [drawn(draw, dtype, x.buffer)];
  buffers.push(isOne ? buffers[0]! : drawn(draw, dtype, y.buffer));
  const ins = [ordered(x, buffers[0]!), ordered(y, buffers[1]!)];
  const [expected] = reference.evaluate(dotP, ins, params);
  const slots = buffers.map(({ aval }) => new Slot(aval, "input"));
  if (isOne) slots[1] = slots[0]!;
  const step: CallStep = {
    k: "named",
    prim: dotP,
    params,
    args: [
      { slot: slots[0]!, layout: x.layout },
      { slot: slots[1]!, layout: y.layout },
    ],
    outs: [new Slot(expected!.aval, "step")],
    epilogue: null,
  };
  const absolute = ins.map((v) => new Tensor(v.aval, storage(v).map(Math.abs)));
  const size = isFloat(dtype) ? storage(reference.evaluate(dotP, absolute, params)[0]!) : null;
  return { step, buffers, expected: storage(expected!), size };
}

/** What the first device of the project is: enough of everything, and not a program. */
function hardware(gpu: Capabilities): Capabilities {
  return {
    ...gpu,
    isSoftware: false,
    limits: {
      ...gpu.limits,
      maxWorkgroupSize: 256,
      maxWorkgroupBytes: Math.min(32768, gpu.limits.maxWorkgroupBytes),
    },
  };
}

/** Runs a variant of a step and compares its result; what lies in buffers before is not zero. */
async function compare(made: ReturnType<typeof stepOf>, { name, dispatches }: Variant): Promise<void> {
  const context = webgpuContext()!;
  const { step, buffers, expected, size } = made;
  const slots = new Map<BufferRef, GpuBuffer>();
  step.args.forEach(({ slot }, i) => {
    slots.set(slot, context.arrayOf(buffers[i]!).block.buffer);
  });
  const { dtype, size: length } = step.outs[0]!.aval;
  const out = context.makeArray(dtype, length, () => "result");
  context.write(out, makeArray(dtype, length).fill(7));
  slots.set(step.outs[0]!, out.block.buffer);
  const spaces = [];
  for (const { code, label, groups, buffers } of dispatches()) {
    for (const ref of buffers) {
      if (slots.has(ref) || typeof ref === "symbol" || ref instanceof Slot) continue;
      const space = context.makeArray("float32", ref.bytes / 4, () => "parts");
      context.write(space, new Float32Array(ref.bytes / 4).fill(7));
      spaces.push(space);
      slots.set(ref, space.block.buffer);
    }
    const pipeline = context.pipeline(code, label);
    const group = context.group(
      pipeline,
      buffers.map((ref) => slots.get(ref)!),
    );
    const [x, y, z] = groups;
    context.record([{ dispatch: pipeline, group, x, y, z }]);
  }
  const [actual] = await context.read([out]);
  for (const array of [out, ...spaces]) context.release(array);
  const { k, repeats } = dotCall(step);
  for (let i = 0; i < length; i++) {
    // Rounding k products and k sums.
    const bound = size === null ? 0 : (k * repeats + 1) * epsilon.float32 * size[i]!;
    if (!(Math.abs(actual![i]! - expected[i]!) <= bound))
      throw new Error(`${name}: element ${i} of ${length} is ${actual![i]}, ${expected[i]} is needed`);
  }
}

/** Small enough for a processor, with all that large ones have: turns of both operands, two stages, unrolled steps. */
const tiles: readonly Tile[] = [
  { rows: 16, columns: 16, depth: 8, blockRows: 4, blockColumns: 4, stages: 1, unroll: 1 },
  { rows: 32, columns: 8, depth: 16, blockRows: 8, blockColumns: 4, stages: 2, unroll: 2 },
  { rows: 32, columns: 32, depth: 8, blockRows: 4, blockColumns: 8, stages: 1, unroll: 4 },
];
const block: RegisterBlock = { blockRows: 4, blockColumns: 8 };
const teams: readonly Team[] = [
  { along: "rows", team: 4, size: 16 },
  { along: "columns", team: 4, size: 16 },
  { along: "rows", team: 1, size: 8 },
  { along: "columns", team: 1, size: 8 },
];

/** Every shader for a step, its sum whole and in parts. */
function variantsOf(call: DotCall, gpu: Capabilities): Variant[] {
  const thin = call.n <= call.m ? call : exchanged(call);
  const vectors = thin.n > MOST_COLUMNS ? [] : teams.filter(({ along }) => fitsTeam(thin, along));
  const all = [
    ...tiles.map((tile) => tileShader(call, tile, gpu)),
    blockShader(call, block, gpu),
    ...vectors.map((team) => teamShader(thin, team, gpu)),
  ];
  return all.flatMap((shader, i) => {
    const cuts = [shader.cut(1), shader.cut(2 + i)];
    return cuts
      .filter((cut, c) => c === 0 || cut.parts > 1)
      .map((cut) => variantOf(shader.name.includes(" by ") ? thin : call, shader, cut, gpu));
  });
}

/** A team goes along the vectors of its operand, where there are any. */
function fitsTeam({ x }: DotCall, along: Team["along"]): boolean {
  return x.width === 1 || (x.along === "free") === (along === "columns");
}

const float = "float32";
const cases: Readonly<Record<string, Case>> = {
  "rows and columns of fours": { x: plain(20, 24), y: plain(24, 36), params: matrices, dtype: float },
  "exactly one tile": { x: plain(32, 16), y: plain(16, 32), params: matrices, dtype: float },
  primes: { x: plain(37, 41), y: plain(41, 43), params: matrices, dtype: float },
  "both transposed": { x: turned(36, 28), y: turned(28, 20), params: matrices, dtype: float },
  "both transposed, odd": { x: turned(19, 23), y: turned(23, 13), params: matrices, dtype: float },
  "fours only along the sum": { x: plain(7, 20), y: turned(20, 9), params: matrices, dtype: float },
  "a sum shorter than a step": { x: plain(9, 3), y: plain(3, 12), params: matrices, dtype: float },
  "one product each": {
    x: plain(21),
    y: plain(12),
    params: { contract: [[], []], batch: [[], []] },
    dtype: float,
  },
  "batches, one of them for all": {
    x: plain(3, 12, 8),
    y: { layout: { shape: [3, 8, 12], offset: 0, strides: [0, 12, 1] }, buffer: 96 },
    params: batched,
    dtype: float,
  },
  "heads of attention: axes apart": {
    // x[b, s, h, d] and y[b, t, h, d], batches b and h.
    x: plain(2, 6, 3, 8),
    y: plain(2, 5, 3, 8),
    params: {
      contract: [[3], [3]],
      batch: [
        [0, 2],
        [0, 2],
      ],
    },
    dtype: float,
  },
  "sums of two axes apart": {
    x: plain(4, 5, 12),
    y: plain(12, 7, 4),
    params: {
      contract: [
        [0, 2],
        [2, 0],
      ],
      batch: [[], []],
    },
    dtype: float,
  },
  "free axes apart, backwards and with gaps": {
    x: { layout: { shape: [3, 5, 8], offset: 15, strides: [40, -3, 1] }, buffer: 200 },
    y: { layout: { shape: [8, 6], offset: 3, strides: [13, 2] }, buffer: 120 },
    params: { contract: [[2], [0]], batch: [[], []] },
    dtype: float,
  },
  "a matrix and its transposed, one buffer": {
    x: plain(12, 8),
    y: turned(8, 12),
    params: matrices,
    dtype: float,
    isOne: true,
  },
  "one buffer, vectors of one operand only": {
    x: plain(8, 8),
    y: { layout: { shape: [8, 7], offset: 1, strides: [8, 1] }, buffer: 64 },
    params: matrices,
    dtype: float,
    isOne: true,
  },
  "int32 wraps around": { x: plain(13, 20), y: plain(20, 8), params: matrices, dtype: "int32" },
  "uint32 wraps around": { x: turned(12, 17), y: plain(17, 8), params: matrices, dtype: "uint32" },
  "a matrix and a vector": { x: plain(29, 44), y: plain(44, 1), params: matrices, dtype: float },
  "a transposed matrix and a vector": { x: turned(28, 35), y: plain(35, 1), params: matrices, dtype: float },
  "a row and a matrix": { x: plain(1, 30), y: plain(30, 20), params: matrices, dtype: float },
  "two rows and a matrix": { x: plain(2, 33), y: plain(33, 16), params: matrices, dtype: float },
  "a matrix and four columns": { x: plain(18, 40), y: plain(40, 4), params: matrices, dtype: float },
  "a matrix and three columns, odd": { x: plain(17, 37), y: turned(37, 3), params: matrices, dtype: "int32" },
  "two vectors": {
    x: plain(203),
    y: plain(203),
    params: { contract: [[0], [0]], batch: [[], []] },
    dtype: float,
  },
  "vectors in batches, sums apart": {
    x: plain(2, 3, 8, 5),
    y: plain(8, 2, 3),
    params: {
      contract: [
        [1, 2],
        [2, 0],
      ],
      batch: [[0], [1]],
    },
    dtype: float,
  },
};

describe.skipIf(!hasGpu)("every shader computes", () => {
  Object.entries(cases).forEach(([name, one], seed) => {
    test(name, async () => {
      const gpu = hardware(webgpuContext()!.gpu);
      const made = stepOf(one, new SeededDraw({ seed, size: 4 }));
      const variants = variantsOf(dotCall(made.step), gpu);
      for (const variant of variants) await compare(made, variant);
      expect(variants.length).toBeGreaterThanOrEqual(tiles.length);
    });
  });
});
