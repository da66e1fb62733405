/**
 * The axes of a contraction of two values. Every axis of a call is one of four kinds: it is in the batch, free in x, free
 * in y, or summed over. Neighbouring axes of a kind that all operands step through evenly are one axis.
 */
import type { Layout } from "../kernel.ts";
import type { DotParams } from "../prims/contract.ts";
import { range, stridesOf } from "../shape.ts";

/** An axis of the iteration space: elements from one step to the next in x, y and the result. */
export interface Axis {
  readonly size: number;
  readonly x: number;
  readonly y: number;
  readonly out: number;
}

/** The axes by kind, outermost first, none of one element; those of a sum in any order. */
export interface ProductAxes {
  readonly batches: readonly Axis[];
  /** Free in x, and in y. */
  readonly rows: readonly Axis[];
  readonly columns: readonly Axis[];
  readonly sums: readonly Axis[];
}

/** Axes that step through all operands as one, without those of one element. */
function merged(axes: readonly Axis[]): Axis[] {
  const list: Axis[] = [];
  for (const axis of axes) {
    if (axis.size === 1) continue;
    const last = list.at(-1);
    const continues =
      last && (["x", "y", "out"] as const).every((operand) => last[operand] === axis.size * axis[operand]);
    if (continues) list[list.length - 1] = { ...axis, size: last.size * axis.size };
    else list.push(axis);
  }
  return list;
}

/** The axes of a call with operands of these layouts and a result in row-major order. */
export function productAxes(x: Layout, y: Layout, { contract, batch }: DotParams): ProductAxes {
  const free = [x, y].map(({ shape }, i) =>
    range(shape.length).filter((a) => !contract[i]!.includes(a) && !batch[i]!.includes(a)),
  );
  const batches = batch[0].map((a, i) => ({
    size: x.shape[a]!,
    x: x.strides[a]!,
    y: y.strides[batch[1][i]!]!,
  }));
  const rows = free[0]!.map((a) => ({ size: x.shape[a]!, x: x.strides[a]!, y: 0 }));
  const columns = free[1]!.map((a) => ({ size: y.shape[a]!, x: 0, y: y.strides[a]! }));
  const outs = [...batches, ...rows, ...columns];
  const out = stridesOf(outs.map(({ size }) => size));
  const placed = outs.map((axis, i): Axis => ({ ...axis, out: out[i]! }));
  const sum = contract[0].map(
    (a, i): Axis => ({ size: x.shape[a]!, x: x.strides[a]!, y: y.strides[contract[1][i]!]!, out: 0 }),
  );
  // A sum has no order: the one with the fewest axes.
  const [sums] = [
    merged(sum),
    merged([...sum].sort((p, q) => q.x - p.x)),
    merged([...sum].sort((p, q) => q.y - p.y)),
  ].sort((p, q) => p.length - q.length) as [Axis[]];
  return {
    batches: merged(placed.slice(0, batches.length)),
    rows: merged(placed.slice(batches.length, batches.length + rows.length)),
    columns: merged(placed.slice(batches.length + rows.length)),
    sums,
  };
}
