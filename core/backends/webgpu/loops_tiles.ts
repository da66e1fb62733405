/**
 * Loops that transpose: where an operand's neighbours are not those of the result, both are walked through in order by
 * way of workgroup memory, a square at a time.
 */
import { iota } from "../../expr.ts";
import type { Load, LoopStep, Store } from "../../passes/fuse.ts";
import { Block, Scope } from "./expressions.ts";
import type { Capabilities, Dispatch } from "./kernel.ts";
import { Buffers, type Dimension, dimensionsOf, labelOf, loaded, stored } from "./loops_access.ts";
import { groupsFor, mainHead, storageType, stridedIndex, WORD_BYTES } from "./wgsl.ts";

/** The side of a square, and how many of its lines a workgroup has at a time. */
const SIDE = 32;
const LINES = 8;
/** Lines in workgroup memory are one longer, so that a column is not all in one bank. */
const PITCH = SIDE + 1;
/** Shorter sides leave too much of a square empty. */
const SHORTEST = 16;

/** How a loop is cut into squares. */
export interface Tiles {
  readonly outer: readonly Dimension[];
  /** Along which the transposed operands' neighbours are. */
  readonly across: Dimension;
  /** The innermost one, along which the result's are. */
  readonly along: Dimension;
  readonly loads: readonly Load[];
}

/** The squares of a loop that transposes; null where it does not, or where they would be mostly empty. */
export function tilesOf(step: LoopStep, gpu: Capabilities): Tiles | null {
  const dimensions = dimensionsOf(step);
  const along = dimensions.at(-1);
  if (along === undefined || along.size < SHORTEST) return null;
  if (!step.stores.every((store) => along.strides.get(store) === 1)) return null;
  const isTransposed = (load: Load, across: Dimension): boolean =>
    Math.abs(along.strides.get(load)!) > 1 && across.strides.get(load) === 1 && across.size >= SHORTEST;
  const across = dimensions.find((one) => step.loads.some((load) => isTransposed(load, one)));
  if (across === undefined) return null;
  const most = Math.floor(gpu.limits.maxWorkgroupBytes / (SIDE * PITCH * WORD_BYTES));
  const loads = step.loads.filter((load) => isTransposed(load, across)).slice(0, most);
  const outer = dimensions.filter((one) => one !== across && one !== along);
  return loads.length === 0 ? null : { outer, across, along, loads };
}

/** The dispatch of a loop in squares: transposed operands are in workgroup memory when the rest is computed. */
export function tiledMap(
  step: LoopStep,
  { outer, across, along, loads }: Tiles,
  gpu: Capabilities,
): Dispatch {
  const scope = new Scope(labelOf(step));
  const buffers = new Buffers();
  const block = new Block(scope);
  const [tall, wide] = [across, along].map(({ size }) => Math.ceil(size / SIDE)) as [number, number];
  block.write(
    `let column = local % ${SIDE}u;`,
    `let line = local / ${SIDE}u;`,
    `let i0 = unit / ${wide}u % ${tall}u * ${SIDE}u;`,
    `let j0 = unit % ${wide}u * ${SIDE}u;`,
  );
  const indices: string[] = [];
  let below = tall * wide;
  for (const { size } of outer.toReversed()) {
    indices.unshift(block.let(`unit / ${below}u % ${size}u`));
    below *= size;
  }
  const index = (access: Load | Store): string => {
    const strides = [...outer, across, along].map((dimension) => dimension.strides.get(access)!);
    return stridedIndex([...indices, "i", "j"], strides, access.layout.offset);
  };
  const each = `for (var k = 0u; k < ${SIDE}u; k += ${LINES}u)`;
  const inside = `if (i < ${across.size}u && j < ${along.size}u)`;
  block.nest(each, (lines) => {
    lines.write("let i = i0 + column;", "let j = j0 + line + k;");
    lines.nest(inside, (one) => {
      loads.forEach((load, t) => {
        one.write(`tile${t}[(line + k) * ${PITCH}u + column] = ${buffers.element(load.slot, index(load))};`);
      });
    });
  });
  block.write("workgroupBarrier();");
  block.nest(each, (lines) => {
    lines.write("let i = i0 + line + k;", "let j = j0 + column;");
    lines.nest(inside, (one) => {
      const positions = [...outer, across, along].map(({ position }) => position);
      one.bind(iota, () => one.let(stridedIndex([...indices, "i", "j"], positions)));
      for (const load of step.loads) {
        const t = loads.indexOf(load);
        const element =
          t >= 0 ? `tile${t}[column * ${PITCH}u + line + k]` : buffers.element(load.slot, index(load));
        one.bind(load.expr, one.let(loaded(load, element)));
      }
      for (const store of step.stores) {
        const value = stored(store, one.emit(store.expr));
        one.write(`${buffers.element(store.slot, index(store), "write")} = ${value};`);
      }
    });
  });
  const units = below;
  const groups = groupsFor(units, 1, gpu);
  const tiles = loads.map(
    ({ slot }, t) => `var<workgroup> tile${t}: array<${storageType(slot.aval.dtype)}, ${SIDE * PITCH}>;`,
  );
  const code = [
    scope.declarations(),
    buffers.declarations(),
    ...tiles,
    mainHead(units, SIDE * LINES, groups, "group"),
    ...block.lines,
    "}\n",
  ].join("\n");
  return { label: labelOf(step), code, buffers: buffers.refs, groups, operations: 0 };
}
