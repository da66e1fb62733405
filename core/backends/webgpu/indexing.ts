/** Gather and scatterAdd. What is read or added at an index outside the axis is left as it is, and noted as a fault. */
import type { Operand } from "../../passes/fuse.ts";
import type { GatherParams, ScatterAddParams } from "../../prims/indexing.ts";
import { type BufferRef, FAULTS, type NamedKernel } from "./kernel.ts";
import { Buffers, quadLayout, reachOf } from "./loops_access.ts";
import { checkDispatch, indicesOf, indicesText, loopsOf } from "./outside.ts";
import { elementAt, type Rows, rowsAlong, startOf } from "./rows.ts";
import { scatterDispatches } from "./scatter.ts";
import { binding, groupsFor, lineSize, mainHead } from "./wgsl.ts";

/** The rows that are gathered, with four elements as one; null where they cannot be. */
function quadRows({ slot, layout }: Operand, axis: number, after: number): Rows | null {
  const rows = rowsAlong(layout, axis);
  const { starts, step } = rows;
  const fits = after % 4 === 0 && step % 4 === 0 && reachOf(starts, slot.aval.size) === "quad";
  return fits ? { ...rows, starts: quadLayout(starts), step: step / 4 } : null;
}

const gather: NamedKernel = {
  takesHalves: true,
  prepare: ([x]) => (x!.aval.dtype === "float64" ? null : [false, false]),
  dispatches({ args, outs, params }, gpu) {
    const [x, operand, out] = [args[0]!, args[1]!, outs[0]!];
    const { axis, batchDims } = params as GatherParams; // The record's own.
    const loops = loopsOf(x.layout.shape, operand.layout.shape, { axis, batchDims });
    const { batch, before, n, count, after } = loops;
    if (batch * before * count === 0) return [];
    const indices = indicesOf("gather", operand, axis, loops);
    if (after === 0 || n === 0) return [checkDispatch(indices, gpu)];
    // A buffer that has the indices too is declared once, as words.
    const quads = x.slot === operand.slot ? null : quadRows(x, axis, after);
    const width = quads ? 4 : 1;
    const rows = quads ?? rowsAlong(x.layout, axis);
    const from = elementAt(rows, startOf(rows, "slice"), "index");
    const word = out.aval.dtype === "float16" ? "f16" : "u32";
    const buffers = new Buffers(new Set(), "b", quads ? 3 : 2);
    const text = indicesText(indices, buffers);
    const element = quads ? `x[${from}]` : buffers.raw(x.slot, word, from);
    const type = quads ? `vec4<${word}>` : word;
    const units = out.aval.size / width;
    const size = lineSize(gpu);
    const groups = groupsFor(units, size, gpu);
    const row = after / width;
    const code = `${binding(1, "result", type, "read_write")}
${quads ? binding(2, "x", type) : ""}
${buffers.declarations()}
${text}
${mainHead(units, size, groups)}
let k = unit / ${row}u % ${count}u;
let block = unit / ${row * count}u;
let slice = block * ${row}u + unit % ${row}u;
let index = indexAt(block / ${before}u * ${count}u + k);
if (index >= ${n}u) { outside(index); return; }
result[unit] = ${element};
}
`;
    const own: BufferRef[] = quads ? [FAULTS, out, x.slot] : [FAULTS, out];
    return [{ label: "gather", code, buffers: [...own, ...buffers.refs], groups, operations: 0 }];
  },
};

const scatterAdd: NamedKernel = {
  prepare: ([, updates]) => (updates!.aval.dtype === "float64" ? null : [false, false]),
  dispatches({ args, outs, params }, gpu) {
    const [operand, updates, out] = [args[0]!, args[1]!, outs[0]!];
    const { axis, batchDims } = params as ScatterAddParams; // The record's own.
    const loops = loopsOf(out.aval.shape, operand.layout.shape, { axis, batchDims });
    const indices = indicesOf("scatterAdd", operand, axis, loops);
    if (out.aval.size > 0) return scatterDispatches({ indices, updates, out }, gpu);
    return loops.batch * loops.before * loops.count === 0 ? [] : [checkDispatch(indices, gpu)];
  },
};

export const indexingKernels: ReadonlyMap<string, NamedKernel> = new Map([
  ["gather", gather],
  ["scatterAdd", scatterAdd],
]);
