/** Indices outside their axis: how shaders look for them, and what the error says. */
import type { Operand } from "../../passes/fuse.ts";
import type { GatherParams } from "../../prims/indexing.ts";
import { sizeOf } from "../../shape.ts";
import { faultReporter, registerFault } from "./faults.ts";
import { type Capabilities, type Dispatch, FAULTS } from "./kernel.ts";
import { Buffers } from "./loops_access.ts";
import { elementIndex, groupsFor, lineSize, mainHead } from "./wgsl.ts";

/** How many indices an error looks through for the first that is outside. */
const MOST_LOOKED_AT = 2 ** 16;

/** The loops of a gather: shared rows, slices before the axis, the axis, indices, elements after it. */
export interface Loops {
  readonly batch: number;
  readonly before: number;
  readonly n: number;
  readonly count: number;
  readonly after: number;
}

export function loopsOf(
  shape: readonly number[],
  indices: readonly number[],
  { axis, batchDims }: GatherParams,
): Loops {
  return {
    batch: sizeOf(shape.slice(0, batchDims)),
    before: sizeOf(shape.slice(batchDims, axis)),
    n: shape[axis]!,
    count: sizeOf(indices.slice(batchDims)),
    after: sizeOf(shape.slice(axis + 1)),
  };
}

/** The indices of a call, and the number of the fault that one outside is. */
export interface Indices {
  readonly op: "gather" | "scatterAdd";
  readonly operand: Operand;
  readonly loops: Loops;
  readonly fault: number;
}

export function indicesOf(op: Indices["op"], operand: Operand, axis: number, loops: Loops): Indices {
  const { n } = loops;
  const fault = registerFault(
    `${op} ${axis} ${n}`,
    (index) =>
      new RangeError(
        `Cannot ${op} at index ${index} of axis ${axis}: its size is ${n}, indices in [0, ${n}) are needed`,
      ),
  );
  return { op, operand, loops, fault };
}

/**
 * Declares `indexAt(position) -> u32`, where those outside are at least the size, and `outside(index)`, which reports one;
 * the words of faults are binding 0. Whichever is met first, the error names the one that is first in memory, so that it
 * does not differ from run to run.
 */
export function indicesText({ operand, loops, fault }: Indices, buffers: Buffers): string {
  const { batch, count, n } = loops;
  const at = buffers.word(operand.slot, elementIndex(operand.layout, "position"));
  return `${faultReporter(0, fault)}
fn indexAt(position: u32) -> u32 { return ${at}; }
fn outside(index: u32) {
if (!claimFault()) { return; }
var first = index;
for (var position = 0u; position < ${Math.min(batch * count, MOST_LOOKED_AT)}u; position++) {
let other = indexAt(position);
if (other >= ${n}u) { first = other; break; }
}
fault(bitcast<i32>(first));
}`;
}

/** Only looks for indices outside: for calls that compute nothing. */
export function checkDispatch(indices: Indices, gpu: Capabilities): Dispatch {
  const { batch, count, n } = indices.loops;
  const buffers = new Buffers(new Set(), "b", 1);
  const text = indicesText(indices, buffers);
  const size = lineSize(gpu);
  const groups = groupsFor(batch * count, size, gpu);
  const code = `${buffers.declarations()}
${text}
${mainHead(batch * count, size, groups)}
let index = indexAt(unit);
if (index >= ${n}u) { outside(index); }
}
`;
  return { label: indices.op, code, buffers: [FAULTS, ...buffers.refs], groups, operations: 0 };
}
