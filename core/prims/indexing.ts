/** Reading and adding at computed positions: gather and scatterAdd, each the transpose of the other. */
import type { Aval } from "../aval.ts";
import { makeArray } from "../dtype.ts";
import { DTypeError, ShapeError } from "../errors.ts";
import { definePrimitive, Lin, type Primitive } from "../primitive.ts";
import { type Shape, sameShape, sizeOf } from "../shape.ts";
import { adopt, bind1 } from "../trace.ts";
import type { Value } from "../value.ts";
import { batchFirst, broadcast, checkNumeric, moveAxis } from "./movement.ts";

/**
 * Which axis the indices run over. The first `batchDims` axes are shared: row b of the indices reads row b of the
 * operand. `axis` counts from the front and is not one of them.
 */
export interface GatherParams {
  readonly axis: number;
  readonly batchDims: number;
}

export interface ScatterAddParams extends GatherParams {
  /** Size of the axis of the result that the indices run over. */
  readonly size: number;
}

/** Throws DTypeError or ShapeError unless indices of this kind fit a shape whose `axis` they run over. */
function checkIndices(
  op: string,
  indices: Aval,
  shape: Shape,
  { axis, batchDims }: GatherParams,
  call: string,
): void {
  if (indices.dtype !== "int32") {
    throw new DTypeError(op, `Cannot ${op} ${call}: the indices are ${indices}, int32 is needed; cast first`);
  }
  const fits =
    Number.isInteger(batchDims) &&
    batchDims >= 0 &&
    batchDims <= indices.ndim &&
    batchDims <= axis &&
    axis in shape &&
    sameShape(shape.slice(0, batchDims), indices.shape.slice(0, batchDims));
  if (!fits) {
    throw new ShapeError(
      op,
      `Cannot ${op} ${call}: axis is ${axis} and ${batchDims} leading axes are shared, an axis after equal leading sizes is needed`,
    );
  }
}

/** Sizes of the loops over a gather: shared rows, slices before the axis, the axis, indices, elements after it. */
function loops(
  shape: Shape,
  indices: Shape,
  { axis, batchDims }: GatherParams,
): { batch: number; before: number; n: number; count: number; after: number } {
  return {
    batch: sizeOf(shape.slice(0, batchDims)),
    before: sizeOf(shape.slice(batchDims, axis)),
    n: shape[axis]!,
    count: sizeOf(indices.slice(batchDims)),
    after: sizeOf(shape.slice(axis + 1)),
  };
}

function outside(op: string, index: number, axis: number, size: number): RangeError {
  return new RangeError(
    `Cannot ${op} at index ${index} of axis ${axis}: its size is ${size}, indices in [0, ${size}) are needed`,
  );
}

export const gatherP: Primitive<GatherParams> = definePrimitive({
  name: "gather",
  doc: "Reads slices of a value at int32 indices along an axis, which the axes of the indices replace.",
  traits: {},
  arity: 2,
  shape([x, indices], params) {
    const { axis, batchDims } = params;
    checkIndices("gather", indices!, x!.shape, params, `from ${x}`);
    return [
      x!.withShape([
        ...x!.shape.slice(0, axis),
        ...indices!.shape.slice(batchDims),
        ...x!.shape.slice(axis + 1),
      ]),
    ];
  },
  jvp: ([x, indices], [dx], params) => [
    [gather(x!, indices!, params)],
    [dx ? gather(dx, indices!, params) : null],
  ],
  transpose: ([ct], [x, indices], params) => [
    ct && x instanceof Lin
      ? scatterAdd(indices as Value, ct, { ...params, size: x.aval.shape[params.axis]! })
      : null,
    null,
  ],
  batch([x, indices], [xDim, indexDim], _size, { axis, batchDims }) {
    if (xDim !== null && indexDim !== null) {
      const params = { axis: axis + 1, batchDims: batchDims + 1 };
      return [[gather(moveAxis(x!, xDim!, 0), moveAxis(indices!, indexDim!, 0), params)], [0]];
    }
    // One batched argument: its batch axis is one more axis after the shared ones.
    if (xDim !== null) {
      const moved = moveAxis(x!, xDim!, batchDims);
      return [[gather(moved, indices!, { axis: axis + 1, batchDims })], [batchDims]];
    }
    return [[gather(x!, moveAxis(indices!, indexDim!, batchDims), { axis, batchDims })], [axis]];
  },
  kernel: { k: "named", name: "gather" },
  cpu([x, indices], [out], params) {
    const { batch, before, n, count, after } = loops(x!.aval.shape, indices!.aval.shape, params);
    const source = x!.data;
    const at = indices!.data;
    const data = makeArray(out!.dtype, out!.size);
    let to = 0;
    for (let b = 0; b < batch; b++) {
      for (let p = 0; p < before; p++) {
        const rows = (b * before + p) * n;
        for (let k = 0; k < count; k++) {
          const index = at[b * count + k]!;
          if (index < 0 || index >= n) throw outside("gather", index, params.axis, n);
          const from = (rows + index) * after;
          for (let i = 0; i < after; i++) data[to++] = source[from + i]!;
        }
      }
    }
    return [data];
  },
  domain(draw) {
    const shape = draw.shape(1, 3);
    const axis = draw.int(0, shape.length - 1);
    const batchDims = draw.int(0, axis);
    return {
      args: [
        { shape },
        {
          shape: [...shape.slice(0, batchDims), ...draw.shape(0, 2)],
          dtype: "int32",
          range: [0, shape[axis]! - 1],
        },
      ],
      params: { axis, batchDims },
    };
  },
});

export function gather(x: Value, indices: Value, params: GatherParams): Value {
  return bind1(gatherP, [x, indices], params);
}

export const scatterAddP: Primitive<ScatterAddParams> = definePrimitive({
  name: "scatterAdd",
  doc: "Adds slices to zeros at int32 indices along an axis of the given size, in row-major order; float32 accumulates in float64.",
  traits: {},
  arity: 2,
  shape([indices, updates], params) {
    const { axis, batchDims, size } = params;
    checkNumeric("scatterAdd", updates!);
    const index = indices!.shape.slice(batchDims);
    const shape = [...updates!.shape.slice(0, axis), size, ...updates!.shape.slice(axis + index.length)];
    checkIndices("scatterAdd", indices!, shape, params, `${updates}`);
    if (!sameShape(updates!.shape.slice(axis, axis + index.length), index) || !(size >= 0)) {
      throw new ShapeError(
        "scatterAdd",
        `Cannot scatterAdd ${updates}: its axes from ${axis} on are [${updates!.shape.slice(axis)}] and the size is ${size}, the sizes [${index}] of the indices and a non-negative size are needed`,
      );
    }
    return [updates!.withShape(shape)];
  },
  jvp: ([indices, updates], [, dUpdates], params) => [
    [scatterAdd(indices!, updates!, params)],
    [dUpdates ? scatterAdd(indices!, dUpdates, params) : null],
  ],
  transpose: ([ct], [indices, updates], { axis, batchDims }) => [
    null,
    ct && updates instanceof Lin ? gather(ct, indices as Value, { axis, batchDims }) : null,
  ],
  batch([indices, updates], [indexDim, updateDim], size, params) {
    const { axis, batchDims } = params;
    if (indexDim === null) {
      const moved = moveAxis(updates!, updateDim!, batchDims);
      return [[scatterAdd(indices!, moved, { ...params, axis: axis + 1 })], [batchDims]];
    }
    const moved = batchFirst(updates!, updateDim!, size);
    const shared = { ...params, axis: axis + 1, batchDims: batchDims + 1 };
    return [[scatterAdd(moveAxis(indices!, indexDim!, 0), moved, shared)], [0]];
  },
  kernel: { k: "named", name: "scatterAdd" },
  cpu([indices, updates], [out], params) {
    const { batch, before, n, count, after } = loops(out!.shape, indices!.aval.shape, params);
    const source = updates!.data;
    const at = indices!.data;
    const sums = new Float64Array(out!.size);
    let from = 0;
    for (let b = 0; b < batch; b++) {
      for (let p = 0; p < before; p++) {
        const rows = (b * before + p) * n;
        for (let k = 0; k < count; k++) {
          const index = at[b * count + k]!;
          if (index < 0 || index >= n) throw outside("scatterAdd", index, params.axis, n);
          const to = (rows + index) * after;
          for (let i = 0; i < after; i++) sums[to + i]! += source[from++]!;
        }
      }
    }
    if (out!.dtype === "float64") return [sums];
    const data = makeArray(out!.dtype, out!.size);
    data.set(sums);
    return [data];
  },
  domain(draw) {
    const before = draw.shape(0, 2);
    const batchDims = draw.int(0, before.length);
    const index = draw.shape(0, 2);
    const size = draw.int(1, 4);
    return {
      args: [
        { shape: [...before.slice(0, batchDims), ...index], dtype: "int32", range: [0, size - 1] },
        { shape: [...before, ...index, ...draw.shape(0, 1)] },
      ],
      params: { axis: before.length, batchDims, size },
    };
  },
});

export function scatterAdd(indices: Value, updates: Value, params: ScatterAddParams): Value {
  return bind1(scatterAddP, [indices, updates], params);
}

/** `0, 1, ...` along one axis of a shape, as int32. */
export function iota(shape: Shape, axis: number): Value {
  const n = shape[axis]!;
  return broadcast(
    adopt(
      new Int32Array(n).map((_, i) => i),
      [n],
      "int32",
    ),
    shape,
    [axis],
  );
}

/** Reads one element per index: result[.., k, ..] = x[.., indices[.., k, ..], ..], equal sizes on the other axes. */
export function takeAlong(x: Value, indices: Value, axis: number): Value {
  const last = x.ndim - 1;
  const [rows, at] = [moveAxis(x, axis, last), moveAxis(indices, axis, last)];
  return moveAxis(gather(rows, at, { axis: last, batchDims: last }), last, axis);
}
