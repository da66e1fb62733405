/** Loops without reductions: every element of the iteration space once. */
import type { LoopStep } from "../../passes/fuse.ts";
import { sizeOf } from "../../shape.ts";
import { Block, operations, Scope } from "./expressions.ts";
import type { Capabilities, Dispatch } from "./kernel.ts";
import { Buffers, labelOf } from "./loops_access.ts";
import { quadSlots, reachesOf, writeElement, writeQuad } from "./loops_elements.ts";
import { tiledMap, tilesOf } from "./loops_tiles.ts";
import { groupsFor, lineSize, mainHead } from "./wgsl.ts";

/** A body of more operations is not written four times: it takes long enough without waiting for memory. */
const LONGEST_REPEATED = 200;

/** The dispatch of a loop that reduces nothing; none where there are no elements. */
export function mapDispatches(step: LoopStep, gpu: Capabilities): readonly Dispatch[] {
  const size = sizeOf(step.shape);
  if (size === 0) return [];
  const tiles = gpu.isSoftware ? null : tilesOf(step, gpu);
  if (tiles !== null) return [tiledMap(step, tiles, gpu)];
  const scope = new Scope(labelOf(step));
  const block = new Block(scope);
  const place = { at: "unit", given: new Map() };
  const roots = step.stores.map(({ expr }) => expr);
  const reach = reachesOf(step);
  if (
    step.stores.every((store) => reach.get(store) === "quad") &&
    operations(scope, roots) <= LONGEST_REPEATED
  ) {
    const buffers = new Buffers(quadSlots(reach));
    writeQuad(block, step, buffers, reach, place);
    return [dispatchOf(step, buffers, block, size / 4, gpu)];
  }
  const buffers = new Buffers();
  writeElement(block, step, buffers, place);
  return [dispatchOf(step, buffers, block, size, gpu)];
}

function dispatchOf(
  step: LoopStep,
  buffers: Buffers,
  block: Block,
  units: number,
  gpu: Capabilities,
): Dispatch {
  const size = lineSize(gpu);
  const groups = groupsFor(units, size, gpu);
  const texts = [block.scope.declarations(), buffers.declarations(), mainHead(units, size, groups)];
  const code = [...texts.filter((text) => text !== ""), ...block.lines, "}\n"].join("\n");
  return { label: labelOf(step), code, buffers: buffers.refs, groups, operations: 0 };
}
