/** The batched dot product: matmul, inner and outer products, and by permutation every contraction of two values. */
import { arithmeticOf, stored } from "../arithmetic.ts";
import { isFloat, makeArray, type TypedArray } from "../dtype.ts";
import { DTypeError, ShapeError } from "../errors.ts";
import { definePrimitive, type HostArray, Lin, type Primitive } from "../primitive.ts";
import { range, sizeOf, stridesOf } from "../shape.ts";
import { copyView } from "../strided.ts";
import { bind1 } from "../trace.ts";
import type { Value } from "../value.ts";
import { add } from "./elementwise.ts";
import { batchFirst, checkAxes, checkNumeric, moveAxis, permute } from "./movement.ts";

/** Axes to sum over and axes to keep together, as pairs of lists: one for each operand. */
export interface DotParams {
  readonly contract: readonly [readonly number[], readonly number[]];
  readonly batch: readonly [readonly number[], readonly number[]];
}

/** The axes of a rank that are neither contracted nor batched. */
function freeAxes(ndim: number, contract: readonly number[], batch: readonly number[]): number[] {
  return range(ndim).filter((a) => !contract.includes(a) && !batch.includes(a));
}

export const dotP: Primitive<DotParams> = definePrimitive({
  name: "dot",
  doc: "Sums products over the contracted axes, integers wrap around; the result has the batch axes, then the free axes of x, then those of y.",
  traits: {},
  arity: 2,
  kernel: { k: "named", name: "dot" },
  shape([x, y], { contract, batch }) {
    checkNumeric("dot", x!);
    if (x!.dtype !== y!.dtype)
      throw new DTypeError(
        "dot",
        `Cannot dot ${x}, ${y}: the element types differ, one type is needed; cast one operand`,
      );
    const check = (kind: string, [xs, ys]: DotParams["contract"]): void => {
      const sizes = (axes: readonly number[], shape: readonly number[]): string =>
        String(axes.map((a) => shape[a]));
      if (xs.length !== ys.length || sizes(xs, x!.shape) !== sizes(ys, y!.shape)) {
        throw new ShapeError(
          "dot",
          `Cannot dot ${x}, ${y}: ${kind} axes [${xs}] and [${ys}] have sizes [${sizes(xs, x!.shape)}] and [${sizes(ys, y!.shape)}], equal sizes are needed`,
        );
      }
    };
    [x!, y!].forEach((v, i) => {
      checkAxes("dot", v, [...contract[i]!, ...batch[i]!]);
    });
    check("contracted", contract);
    check("batch", batch);
    const free = [x!, y!].map((v, i) => freeAxes(v.ndim, contract[i]!, batch[i]!).map((a) => v.shape[a]!));
    return [x!.withShape([...batch[0].map((a) => x!.shape[a]!), ...free[0]!, ...free[1]!])];
  },
  jvp([x, y], [dx, dy], params) {
    const parts = [dx && dot(dx, y!, params), dy && dot(x!, dy, params)].filter(
      (part) => part !== null && part !== undefined,
    );
    return [[dot(x!, y!, params)], [parts.length === 2 ? add(parts[0]!, parts[1]!) : parts[0]!]];
  },
  transpose([ct], [x, y], { contract, batch }) {
    if (!ct) return [null, null];
    if (x instanceof Lin && !(y instanceof Lin))
      return [transposeOperand(ct, x.aval.ndim, y!, contract, batch, 0), null];
    if (y instanceof Lin && !(x instanceof Lin)) {
      const swapped = transposeOperand(
        ct,
        y.aval.ndim,
        x!,
        [contract[1], contract[0]],
        [batch[1], batch[0]],
        1,
      );
      return [null, swapped];
    }
    return [null, null];
  },
  batch([x, y], dims, size, { contract, batch }) {
    const [xDim, yDim] = [dims[0] ?? null, dims[1] ?? null];
    const up = (axes: readonly number[]): number[] => axes.map((a) => a + 1);
    if (xDim !== null && yDim !== null) {
      const params: DotParams = {
        contract: [up(contract[0]), up(contract[1])],
        batch: [
          [0, ...up(batch[0])],
          [0, ...up(batch[1])],
        ],
      };
      return [[dot(moveAxis(x!, xDim, 0), moveAxis(y!, yDim, 0), params)], [0]];
    }
    // One batched operand: its batch axis is one more free axis.
    if (xDim !== null) {
      const params: DotParams = { contract: [up(contract[0]), contract[1]], batch: [up(batch[0]), batch[1]] };
      return [[dot(batchFirst(x!, xDim, size), y!, params)], [batch[0].length]];
    }
    const params: DotParams = { contract: [contract[0], up(contract[1])], batch: [batch[0], up(batch[1])] };
    return [[dot(x!, batchFirst(y!, yDim, size), params)], [x!.ndim - contract[0].length]];
  },
  cpu([x, y], [out], { contract, batch }) {
    const [xBatch, yBatch] = batch;
    const xFree = freeAxes(x!.aval.ndim, contract[0], xBatch);
    const yFree = freeAxes(y!.aval.ndim, contract[1], yBatch);
    const sizes = (v: HostArray, axes: readonly number[]): number =>
      sizeOf(axes.map((a) => v.aval.shape[a]!));
    const a = inOrder(x!, [...xBatch, ...xFree, ...contract[0]]);
    const b = inOrder(y!, [...yBatch, ...contract[1], ...yFree]);
    const [batches, m, k, n] = [
      sizes(x!, xBatch),
      sizes(x!, xFree),
      sizes(x!, contract[0]),
      sizes(y!, yFree),
    ];
    if (n === 1 && isFloat(out!.dtype))
      return [dotRows(a, b, makeArray(out!.dtype, out!.size), batches, m, k)];
    const { from, make, multiply } = arithmeticOf(out!.dtype);
    const [xs, ys, sums] = [from(a), from(b), make(out!.size)];
    for (let i = 0; i < batches; i++) {
      multiply({ data: xs, offset: i * m * k, row: k, column: 1 }, ys, i * k * n, sums, i * m * n, m, k, n);
    }
    return [stored(sums, out!)];
  },
  domain(draw) {
    const [b, m, k, n] = [draw.int(1, 2), draw.int(1, 3), draw.int(0, 3), draw.int(1, 3)];
    return draw.pick([
      {
        args: [{ shape: [m, k] }, { shape: [k, n] }],
        params: { contract: [[1], [0]], batch: [[], []] } as DotParams,
      },
      {
        args: [{ shape: [b, m, k] }, { shape: [n, b, k] }],
        params: { contract: [[2], [2]], batch: [[0], [1]] } as DotParams,
      },
      {
        args: [{ shape: [k] }, { shape: [k] }],
        params: { contract: [[0], [0]], batch: [[], []] } as DotParams,
      },
      {
        args: [{ shape: [m] }, { shape: [n] }],
        params: { contract: [[], []], batch: [[], []] } as DotParams,
      },
    ]);
  },
});

export function dot(x: Value, y: Value, params: DotParams): Value {
  return bind1(dotP, [x, y], params);
}

/**
 * The cotangent of the linear operand: contract the cotangent with the other operand over the latter's free axes, then
 * put the axes back in the operand's order. `position` says on which side of the cotangent the operand's free axes are.
 */
function transposeOperand(
  ct: Value,
  ndim: number,
  other: Value,
  [contract, otherContract]: DotParams["contract"],
  [batch, otherBatch]: DotParams["batch"],
  position: 0 | 1,
): Value {
  const free = freeAxes(ndim, contract, batch);
  const otherFree = freeAxes(other.ndim, otherContract, otherBatch);
  const batches = range(batch.length);
  const first = batch.length + (position === 0 ? free.length : 0);
  const product = dot(ct, other, {
    contract: [otherFree.map((_, i) => first + i), otherFree],
    batch: [batches, otherBatch],
  });
  // product has: batch axes, the operand's free axes, then the other's contracted axes in ascending order.
  const ascending = otherContract.map((a, i) => ({ a, axis: contract[i]! })).sort((p, q) => p.a - q.a);
  const order = [...batch, ...free, ...ascending.map((p) => p.axis)];
  return permute(
    product,
    range(ndim).map((a) => order.indexOf(a)),
  );
}

/** The elements in the order of the given axes; the array itself if it is in that order. */
function inOrder(x: HostArray, axes: readonly number[]): TypedArray {
  if (axes.every((a, i) => a === i)) return x.data;
  const { shape, dtype } = x.aval;
  const from = stridesOf(shape);
  const to = axes.map((a) => shape[a]!);
  const data = makeArray(dtype, x.data.length);
  const strides = axes.map((a) => from[a]!);
  copyView({ data: x.data, offset: 0, strides }, { data, offset: 0, strides: stridesOf(to) }, to);
  return data;
}

/** The case of one column: a dot product per row, in four interleaved sums. */
function dotRows(
  x: TypedArray,
  y: TypedArray,
  out: TypedArray,
  batch: number,
  m: number,
  k: number,
): TypedArray {
  for (let b = 0; b < batch; b++) {
    const yBase = b * k;
    for (let i = 0; i < m; i++) {
      const xBase = (b * m + i) * k;
      let [s0, s1, s2, s3] = [0, 0, 0, 0];
      let l = 0;
      for (; l + 4 <= k; l += 4) {
        s0 += x[xBase + l]! * y[yBase + l]!;
        s1 += x[xBase + l + 1]! * y[yBase + l + 1]!;
        s2 += x[xBase + l + 2]! * y[yBase + l + 2]!;
        s3 += x[xBase + l + 3]! * y[yBase + l + 3]!;
      }
      for (; l < k; l++) s0 += x[xBase + l]! * y[yBase + l]!;
      out[b * m + i] = s0 + s1 + (s2 + s3);
    }
  }
  return out;
}
