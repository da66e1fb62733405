/** The batched dot product: which shader computes it, for these sizes on this device. */
import type { DType } from "../../dtype.ts";
import { type Layout, rowMajor } from "../../kernel.ts";
import { productAxes } from "../../passes/product.ts";
import type { DotParams } from "../../prims/contract.ts";
import { type Cut, cutOf, isLong, LONGEST_SUM } from "./dot_block.ts";
import { type DotCall, dotCall, exchanged, keyOf, operationsOf } from "./dot_call.ts";
import { type NeighbourBlock, neighboursDispatch, neighboursName } from "./dot_neighbours.ts";
import { sumOfParts } from "./dot_parts.ts";
import { blockDispatch, blockName, extentOf, type RegisterBlock } from "./dot_registers.ts";
import { plainTarget, type Target } from "./dot_target.ts";
import { fitsTile, invocationsOf, type Tile, tileDispatch, tileName } from "./dot_tiles.ts";
import { MOST_COLUMNS, sumsOfEach, type Team, teamDispatch, teamName } from "./dot_vectors.ts";
import { type Capabilities, type Dispatch, type NamedKernel, type Variant, Workspace } from "./kernel.ts";
import { constantOf, groupsFor, lineSize, mainHead, WORD_BYTES } from "./wgsl.ts";

export type { Variant } from "./kernel.ts";

/** A shader with its sizes, for one call. */
export interface Shader {
  readonly name: string;
  /** The sum in about so many parts. */
  cut(wanted: number): Cut;
  dispatch(cut: Cut, target: Target): Dispatch;
}

/** Tiles of devices with their own memory, the most work for each element read first. */
const TILES: readonly Tile[] = [
  tile(128, 128, 16, 8, 8, 2),
  tile(128, 128, 16, 8, 8, 1),
  tile(128, 128, 8, 8, 8, 2),
  tile(128, 128, 32, 8, 8, 1),
  tile(256, 128, 16, 16, 8, 1),
  tile(128, 256, 16, 8, 16, 1),
  tile(128, 64, 16, 8, 8, 2),
  tile(64, 128, 16, 8, 8, 2),
  tile(64, 64, 16, 8, 8, 2),
  tile(64, 64, 16, 8, 4, 2),
  tile(64, 64, 16, 4, 4, 1),
  tile(64, 64, 32, 4, 4, 1),
  tile(128, 32, 16, 8, 4, 2),
  tile(32, 128, 16, 4, 8, 2),
  tile(32, 32, 32, 4, 4, 2),
  tile(128, 16, 32, 8, 4, 1),
  tile(16, 128, 32, 4, 8, 1),
];

function tile(
  rows: number,
  columns: number,
  depth: number,
  blockRows: number,
  blockColumns: number,
  stages: Tile["stages"],
): Tile {
  return { rows, columns, depth, blockRows, blockColumns, stages, unroll: 8 };
}

const BLOCKS: readonly RegisterBlock[] = [
  { blockRows: 4, blockColumns: 4 },
  { blockRows: 8, blockColumns: 4 },
  { blockRows: 8, blockColumns: 8 },
];
/**
 * For processors: what does not fit into registers is in the nearest cache, while every load is checked and gathered.
 * Large ones take up to half a second to compile, so they are for this many multiplications or more.
 */
const LARGE_BLOCKS: readonly (RegisterBlock & { readonly from: number })[] = [
  { blockRows: 16, blockColumns: 8, from: 2 ** 24 },
  { blockRows: 16, blockColumns: 16, from: 2 ** 26 },
];

/**
 * For processors with vectors of eight or more: neighbours hand each other what they read. How fast these are beside
 * blocks of registers, and for how many multiplications or more, since they take long to compile.
 */
const NEIGHBOUR_BLOCKS: readonly (Omit<NeighbourBlock, "neighbours"> & {
  readonly speed: number;
  readonly from: number;
})[] = [
  { blockRows: 8, blockColumns: 4, speed: 1.35, from: 2 ** 24 },
  { blockRows: 4, blockColumns: 2, speed: 1.2, from: 2 ** 20 },
];
const FEWEST_NEIGHBOURS = 8;

/** Processors of a device that a product should keep busy. */
const CORES = { gpu: 128, software: 8 } as const;
/** Invocations that keep one of them busy. */
const BUSY = 256;
/** What storing and adding a partial result costs, and a second dispatch, in multiplications of one processor. */
const PARTIAL_COST = 0.6;
const DISPATCH_COST = 500_000;
/** Sums shorter than this do not pay for filling a tile. */
const SHORT_SUM = 16;
/** A part of a sum is at least so long. */
const SHORTEST_PART = 128;

/** Multiplications for each element that an invocation reads, as a share of what the best block reaches. */
function density(blockRows: number, blockColumns: number): number {
  return Math.min(1, (blockRows * blockColumns) / (blockRows + blockColumns) / 4);
}

/** How fast blocks of registers are on a processor, relative to each other. */
function softwareSpeed({ blockRows, blockColumns }: RegisterBlock, { subgroupSize }: Capabilities): number {
  const size = blockRows * blockColumns;
  // With vectors of eight, four by four are as fast as any, and take the least time to compile.
  if (subgroupSize !== null && subgroupSize.min > 4) return size === 16 ? 1 : 0.9;
  return { 16: 0.45, 32: 0.55, 64: 0.75, 128: 0.85 }[size] ?? 1;
}

/** The expected time of a product cut into parts, in multiplications of one processor. */
function expected(
  call: DotCall,
  { rows, columns, invocations }: { rows: number; columns: number; invocations: number },
  speed: number,
  { parts, length }: Cut,
  gpu: Capabilities,
): number {
  const { m, n, k, batches, repeats } = call;
  const cores = gpu.isSoftware ? CORES.software : CORES.gpu;
  const groups = Math.ceil(m / rows) * Math.ceil(n / columns) * batches * parts;
  const each = Math.ceil(groups / cores);
  const busy = gpu.isSoftware ? 1 : Math.min(1, (each * invocations) / BUSY);
  const work = (each * rows * columns * Math.min(length, k) * repeats) / speed / busy;
  return parts === 1 ? work : work + DISPATCH_COST + PARTIAL_COST * m * n * batches * parts;
}

/** Into how many parts a sum of `k` may be cut. */
function partsOf(k: number): number[] {
  const list = [1];
  for (let parts = 2; k / parts >= SHORTEST_PART && parts <= 256; parts *= 2) list.push(parts);
  return list;
}

export function tileShader(call: DotCall, sizes: Tile, gpu: Capabilities): Shader {
  return {
    name: tileName(sizes),
    cut: (wanted) => cutOf(call.k, wanted, sizes.depth),
    dispatch: (cut, target) => tileDispatch(call, sizes, cut, target, gpu),
  };
}

export function blockShader(call: DotCall, sizes: RegisterBlock, gpu: Capabilities): Shader {
  return {
    name: blockName(sizes),
    cut: (wanted) => cutOf(call.k, wanted, 4),
    dispatch: (cut, target) => blockDispatch(call, sizes, cut, target, gpu),
  };
}

/** For a call whose columns are neighbours in memory; one whose rows are is `exchanged` before. */
export function neighboursShader(call: DotCall, block: NeighbourBlock, gpu: Capabilities): Shader {
  return {
    name: neighboursName(block),
    cut: (wanted) => cutOf(call.k, wanted, block.neighbours),
    dispatch: (cut, target) => neighboursDispatch(call, block, cut, target, gpu),
  };
}

/** For a call with few columns: one with few rows is `exchanged` before. */
export function teamShader(call: DotCall, team: Team, gpu: Capabilities): Shader {
  return {
    name: teamName(team),
    cut: (wanted) => cutOf(call.k, wanted, 4),
    dispatch: (cut, target) => teamDispatch(call, team, cut, target, gpu),
  };
}

/** A shader, and behind it one that adds the parts where the sum is cut, or too long for a result that is changed. */
export function variantOf(call: DotCall, shader: Shader, cut: Cut, gpu: Capabilities): Variant {
  const { parts } = cut;
  return {
    name: parts === 1 ? shader.name : `${shader.name}, ${parts} parts`,
    dispatches() {
      const { target } = call;
      if (parts === 1 && (target.keeps || !isLong(call, cut))) return [shader.dispatch(cut, target)];
      const results = call.batches * call.m * call.n;
      const space = new Workspace(parts * results * WORD_BYTES);
      return [
        shader.dispatch(cut, plainTarget(space, call.type)),
        sumOfParts(space, parts, results, call.type, target, gpu),
      ];
    },
  };
}

const fitsParts = ({ batches, m, n }: DotCall, { parts }: Cut, { limits }: Capabilities): boolean =>
  parts === 1 ||
  parts * batches * m * n * WORD_BYTES <= Math.min(limits.maxBindingSize, limits.maxBufferSize);

/** The ways to compute a call that is not empty, the one that is expected to be the fastest first. */
export function candidates(call: DotCall, gpu: Capabilities): readonly Variant[] {
  const ranked: { readonly variant: Variant; readonly cost: number }[] = [];
  const add = (
    shader: Shader,
    extent: { rows: number; columns: number; invocations: number },
    speed: number,
    one: DotCall = call,
    longest = Infinity,
  ): void => {
    const [best] = partsOf(one.k)
      .map((wanted) => shader.cut(wanted))
      .filter((cut) => fitsParts(one, cut, gpu) && Math.min(cut.length, one.k) * one.repeats <= longest)
      .map((cut) => ({ cut, cost: expected(one, extent, speed, cut, gpu) }))
      .sort((p, q) => p.cost - q.cost);
    if (best) ranked.push({ variant: variantOf(one, shader, best.cut, gpu), cost: best.cost });
  };
  const large = LARGE_BLOCKS.filter(({ from }) => gpu.isSoftware && operationsOf(call) >= 2 * from);
  for (const block of [...BLOCKS, ...large]) {
    const { blockRows, blockColumns } = block;
    const isShort = call.k * call.repeats < SHORT_SUM;
    const speed = gpu.isSoftware
      ? softwareSpeed(block, gpu)
      : density(blockRows, blockColumns) * (isShort ? 2 : 0.4);
    add(blockShader(call, block, gpu), extentOf(call, block), speed);
  }
  const { neighbours = 1 } = gpu;
  const lined = call.y.along === "free" ? call : call.x.along === "free" ? exchanged(call) : null;
  if (gpu.isSoftware && neighbours >= FEWEST_NEIGHBOURS && lined !== null) {
    for (const { blockRows, blockColumns, speed, from } of NEIGHBOUR_BLOCKS) {
      if (operationsOf(lined) < 2 * from) continue;
      const extent = { rows: blockRows, columns: blockColumns * neighbours, invocations: neighbours };
      add(
        neighboursShader(lined, { blockRows, blockColumns, neighbours }, gpu),
        extent,
        speed,
        lined,
        LONGEST_SUM,
      );
    }
  }
  if (!gpu.isSoftware) {
    for (const sizes of TILES) {
      if (!fitsTile(call, sizes, gpu)) continue;
      const { rows, columns, blockRows, blockColumns } = sizes;
      const extent = { rows, columns, invocations: invocationsOf(sizes) };
      add(tileShader(call, sizes, gpu), extent, density(blockRows, blockColumns));
    }
  }
  const sorted = ranked.sort((p, q) => p.cost - q.cost).map(({ variant }) => variant);
  return [...teams(call, gpu), ...sorted];
}

/** The way to compute a call that is not empty: the one found to be the fastest, or else expected to be. */
export function chosen(call: DotCall, gpu: Capabilities): Variant {
  const all = candidates(call, gpu);
  return gpu.choose?.(keyOf(call), all) ?? all[0]!;
}

/** The ways for products with few columns, or few rows. */
function teams(call: DotCall, gpu: Capabilities): Variant[] {
  const thin = call.n <= call.m ? call : exchanged(call);
  if (thin.n > MOST_COLUMNS || thin.k * thin.repeats < SHORT_SUM) return [];
  const along = thin.x.along === "free" ? "columns" : "rows";
  // A processor gathers what invocations read from different rows, so it is better off with blocks.
  if (gpu.isSoftware && along === "rows") return [];
  return teamSizes(thin, along, gpu).flatMap((team) => {
    const shader = teamShader(thin, team, gpu);
    const rows = (team.size / team.team) * (along === "columns" ? thin.x.width : 1);
    const groups = Math.ceil(thin.m / rows) * thin.batches;
    const enough = Math.ceil((gpu.isSoftware ? 2 * CORES.software : 2 * CORES.gpu) / groups);
    const most = Math.max(1, Math.floor(thin.k / (SHORTEST_PART * team.team)));
    const least = thin.type === "f32" ? Math.ceil(sumsOfEach(thin, team) / LONGEST_SUM) : 1;
    const cut = shader.cut(Math.max(Math.min(enough, most), least));
    return fitsParts(thin, cut, gpu) ? [variantOf(thin, shader, cut, gpu)] : [];
  });
}

const powerBelow = (n: number): number => 2 ** Math.floor(Math.log2(Math.max(1, n)));
const powerAbove = (n: number): number => 2 ** Math.ceil(Math.log2(Math.max(1, n)));

function teamSizes(call: DotCall, along: Team["along"], gpu: Capabilities): Team[] {
  if (gpu.isSoftware) return [{ along, team: 1, size: Math.min(64, powerAbove(call.m)) }];
  const size = Math.min(256, powerBelow(gpu.limits.maxWorkgroupSize));
  if (along === "columns") {
    // As many neighbours as there are, so that they read whole lines; the others of the workgroup share their sums.
    const neighbours = Math.min(powerAbove(call.m / call.x.width), size);
    const all = [Math.min(neighbours, 32), Math.min(neighbours, 64), neighbours];
    return [...new Set(all)].map((n) => ({ along, team: size / n, size }));
  }
  const each = powerBelow(call.k / (4 * call.x.width));
  const few = call.m * call.batches < 4 * CORES.gpu;
  const all = few ? [size, 64, 32] : [32, 64, size, 8];
  return [...new Set(all.map((team) => Math.min(team, each)))].map((team) => ({ along, team, size }));
}

// --- the kernel ----------------------------------------------------------------------------------------------------

const ORDERS: readonly (readonly [boolean, boolean])[] = [
  [false, false],
  [true, false],
  [false, true],
  [true, true],
];

/** How much reading the operands through their layouts costs, against one for putting one in order. */
function burden(x: Layout, y: Layout, params: DotParams): number {
  const axes = productAxes(x, y, params);
  const scattered = (["x", "y"] as const).filter((operand) => {
    const inner = [axes.sums.at(-1), (operand === "x" ? axes.rows : axes.columns).at(-1)];
    const steps = inner.flatMap((axis) => (axis ? [Math.abs(axis[operand])] : []));
    return steps.length > 0 && !steps.some((step) => step <= 1);
  });
  const isCut = axes.sums.length > 1 && axes.sums.at(-1)!.size < SHORT_SUM;
  return 3 * scattered.length + (isCut ? 3 : 0);
}

/** A result that is the sum of nothing. */
function zeros(call: DotCall, gpu: Capabilities): Dispatch {
  const { target } = call;
  const results = call.batches * call.m * call.n;
  const size = lineSize(gpu);
  const groups = groupsFor(results, size, gpu);
  const code = `${target.text(0, false)}
${mainHead(results, size, groups)}
store(unit, ${constantOf(0, call.type)});
}
`;
  return { label: "dot", code, buffers: target.buffers, groups, operations: 0 };
}

const multiplied: ReadonlySet<DType> = new Set<DType>(["float32", "float16", "int32", "uint32"]);

/** Whether shaders multiply elements of the type; those of float16 are summed in float32. */
export function isProduct(dtype: DType): boolean {
  return multiplied.has(dtype);
}

export const dotKernel: NamedKernel = {
  takesEpilogue: true,
  takesHalves: true,
  prepare([x, y], _outs, params) {
    if (!isProduct(x!.aval.dtype)) return null;
    if (x!.aval.size === 0 || y!.aval.size === 0) return [false, false];
    const costs = ORDERS.map((order) => {
      const [a, b] = [x!, y!].map(({ layout }, i) => (order[i] ? rowMajor(layout.shape) : layout));
      // The record of this name has these parameters.
      return burden(a!, b!, params as DotParams) + order.filter((isOrdered) => isOrdered).length;
    });
    return ORDERS[costs.indexOf(Math.min(...costs))]!;
  },
  dispatches(step, gpu) {
    if (step.outs[0]!.aval.size === 0) return [];
    const call = dotCall(step);
    if (call.k * call.repeats === 0) return [zeros(call, gpu)];
    return chosen(call, gpu).dispatches();
  },
};
