/** Sorting along an axis: one primitive that carries companions, from which argsort and derivatives follow. */
import type { Aval } from "../aval.ts";
import { makeArray, type TypedArray } from "../dtype.ts";
import { ShapeError } from "../errors.ts";
import { type ArgSpec, definePrimitive, type Primitive } from "../primitive.ts";
import { sizeOf } from "../shape.ts";
import { bind } from "../trace.ts";
import type { Value } from "../value.ts";
import { iota, takeAlong } from "./indexing.ts";
import { batchFirst } from "./movement.ts";

export const sortP: Primitive<{ readonly axis: number }> = definePrimitive({
  name: "sort",
  doc: "Sorts the first operand along an axis, ascending, stable and with NaN last; the others are put in the same order.",
  traits: {},
  shape(xs, { axis }) {
    const [first] = xs;
    const fits = first !== undefined && axis in first.shape && xs.every((x) => sameSizes(x, first));
    if (!fits) {
      throw new ShapeError(
        "sort",
        `Cannot sort ${xs.join(", ")} along axis ${axis}: the shapes differ or have no such axis, one shape with that axis is needed`,
      );
    }
    return [...xs];
  },
  // Tangents are put in the order of their values.
  jvp(xs, dxs, { axis }) {
    const sorted = bind(sortP, [...xs, iota(xs[0]!.shape, axis)], { axis });
    const order = sorted.at(-1)!;
    return [sorted.slice(0, -1), dxs.map((dx) => dx && takeAlong(dx, order, axis))];
  },
  batch: (xs, dims, size, { axis }) => [
    bind(
      sortP,
      xs.map((x, i) => batchFirst(x, dims[i]!, size)),
      { axis: axis + 1 },
    ),
    xs.map(() => 0),
  ],
  kernel: { k: "named", name: "sort" },
  cpu(xs, outs, { axis }) {
    const { shape } = outs[0]!;
    const n = shape[axis]!;
    const inner = sizeOf(shape.slice(axis + 1));
    const results = outs.map((out) => makeArray(out.dtype, out.size));
    const keys = new Float64Array(n);
    const order = new Int32Array(n);
    const spare = new Int32Array(n);
    for (let block = 0; block < outs[0]!.size; block += n * inner) {
      for (let first = block; first < block + inner; first++) {
        for (let k = 0; k < n; k++) keys[k] = xs[0]!.data[first + k * inner]!;
        const sorted = sortedOrder(keys, order, spare);
        for (let x = 0; x < xs.length; x++) copyRow(xs[x]!.data, results[x]!, sorted, first, inner);
      }
    }
    return results;
  },
  domain(draw) {
    const shape = draw.shape(1, 3);
    const companions = Array.from({ length: draw.int(0, 2) }, (): ArgSpec => ({ shape }));
    return {
      args: [{ shape, distinct: true }, ...companions],
      params: { axis: draw.int(0, shape.length - 1) },
    };
  },
});

function sameSizes(a: Aval, b: Aval): boolean {
  return a.ndim === b.ndim && a.shape.every((n, i) => n === b.shape[i]);
}

function copyRow(from: TypedArray, to: TypedArray, order: Int32Array, first: number, stride: number): void {
  for (let k = 0; k < order.length; k++) to[first + k * stride] = from[first + order[k]! * stride]!;
}

/** The stable ascending order of the keys, NaN last: merges runs of 1, 2, 4, ... Returns one of the two buffers. */
function sortedOrder(keys: Float64Array, order: Int32Array, spare: Int32Array): Int32Array {
  const n = keys.length;
  for (let k = 0; k < n; k++) order[k] = k;
  let [from, to] = [order, spare];
  for (let width = 1; width < n; width *= 2) {
    for (let start = 0; start < n; start += 2 * width) {
      const middle = Math.min(start + width, n);
      const end = Math.min(start + 2 * width, n);
      let left = start;
      let right = middle;
      for (let k = start; k < end; k++) {
        const takeLeft = left < middle && (right >= end || notAfter(keys[from[left]!]!, keys[from[right]!]!));
        to[k] = takeLeft ? from[left++]! : from[right++]!;
      }
    }
    [from, to] = [to, from];
  }
  return from;
}

/** Whether x may stand before y: x <= y, with NaN after every number. */
function notAfter(x: number, y: number): boolean {
  return x <= y || Number.isNaN(y);
}

/** The elements along an axis in ascending order, NaN last. */
export function sort(x: Value, axis: number): Value {
  return bind(sortP, [x], { axis })[0]!;
}

/** The positions, as int32, that put the elements along an axis in ascending order, NaN last; stable. */
export function argsort(x: Value, axis: number): Value {
  return bind(sortP, [x, iota(x.shape, axis)], { axis })[1]!;
}
