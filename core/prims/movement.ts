/**
 * Moving elements without computing: broadcast and its transpose sum, reshape, permute, slice and its transpose pad,
 * flip, concat. All are linear, so each record is a shape, a transpose, a batch rule and a kernel.
 */
import type { Aval } from "../aval.ts";
import { makeArray } from "../dtype.ts";
import { DTypeError, invariant, ShapeError } from "../errors.ts";
import { isRowMajor, type Layout, type Placement, reshaped, rowMajor } from "../kernel.ts";
import { definePrimitive, type HostArray, Lin, type Primitive } from "../primitive.ts";
import {
  checkShape,
  insertAt,
  range,
  type Shape,
  sameShape,
  sizeOf,
  stridesOf,
  withoutAxes,
} from "../shape.ts";
import { addView, copyView, type View } from "../strided.ts";
import { bind1, scalar } from "../trace.ts";
import type { Value } from "../value.ts";

type LinearRecord<P> = Omit<Primitive<P>, "jvp" | "transpose" | "batch" | "traits"> & {
  transpose(ct: Value, x: Aval, params: P): Value;
  batch(x: Value, dim: number, size: number, params: P): readonly [Value, number];
};

/**
 * Defines a primitive that is linear in its single argument: the tangent goes through the primitive itself.
 *
 * Shapes: one argument; the record says which result.
 *
 * @throws {RuleError} if the name is taken
 * @example Reversal, which is its own transpose
 * ```ts
 * const flipP: ct.Primitive<null> = ct.linear<null>({
 *   name: "docs_flip", doc: "a vector back to front",
 *   shape: ([x]) => [x!],
 *   cpu: ([x]) => [x!.data.slice().reverse()],
 *   transpose: (g) => ct.bind(flipP, [g], null)[0]!,
 *   batch: (x, dim) => [ct.flip(x, { axis: 1 - dim }), dim],
 *   domain: (draw) => ({ args: [{ shape: [draw.int(1, 4)] }], params: null }),
 * });
 * const last = (x: ct.Value) => ct.bind(flipP, [x], null)[0]!.mul(ct.tensor([1, 0, 0])).sum();
 * assertClose(ct.grad(last)(ct.tensor([4, 5, 6])), [0, 0, 1]);
 * ```
 * @since 0.1.0
 */
export function linear<P>(record: LinearRecord<P>): Primitive<P> {
  const { transpose, batch, ...rest } = record;
  const primitive: Primitive<P> = definePrimitive({
    ...rest,
    traits: {},
    arity: 1,
    jvp: ([x], [dx], params) => [
      [bind1(primitive, [x!], params)],
      [dx ? bind1(primitive, [dx], params) : null],
    ],
    transpose: ([ct], [x], params) => [ct && x instanceof Lin ? transpose(ct, x.aval, params) : null],
    batch([x], [dim], size, params) {
      const [out, outDim] = batch(x!, dim!, size, params);
      return [[out], [outDim]];
    },
  });
  return primitive;
}

const contiguous = (data: View["data"], shape: Shape): View => ({
  data,
  offset: 0,
  strides: stridesOf(shape),
});
const shifted = (axes: readonly number[]): number[] => axes.map((a) => a + 1);

/** Kernel and reference function of a primitive that says where in its operand each element of the result is. */
function viewing<P>(
  view: (x: Layout, params: P, out: Aval) => Layout | null,
): Pick<Primitive<P>, "cpu" | "kernel"> {
  return {
    kernel: { k: "view", view },
    cpu([x], [out], params) {
      const layout = view(rowMajor(x!.aval.shape), params, out!);
      invariant(layout, "every layout of row-major elements has a view");
      if (x!.aval.size === out!.size && layout.offset === 0 && isRowMajor(layout)) return [x!.data];
      const data = makeArray(out!.dtype, out!.size);
      copyView({ data: x!.data, ...layout }, contiguous(data, out!.shape), out!.shape);
      return [data];
    },
  };
}

/** Kernel and reference function of a primitive that says where in the result its operands go. */
function placing<P>(
  place: (args: readonly Aval[], params: P, out: Aval) => Placement,
): Pick<Primitive<P>, "cpu" | "kernel"> {
  return {
    kernel: { k: "place", place },
    cpu(args, [out], params) {
      const avals = args.map((x) => x.aval);
      const { fill, pieces } = place(avals, params, out!);
      const data = makeArray(out!.dtype, out!.size).fill(fill ?? 0);
      for (const { arg, layout } of pieces) copyView(host(args[arg]!), { data, ...layout }, layout.shape);
      return [data];
    },
  };
}

// --- broadcast and sum -------------------------------------------------------------------------------------------

/** Places axis `i` of the operand at axis `axes[i]` of `shape`; the other axes repeat it. */
export const broadcastP: Primitive<{ readonly shape: Shape; readonly axes: readonly number[] }> = linear({
  name: "broadcast",
  doc: "Repeats a value along new axes; axis i of the operand becomes axis axes[i] of the result.",
  shape([x], { shape, axes }) {
    checkShape(shape, "broadcast");
    const fits =
      axes.length === x!.ndim &&
      axes.every((a, i) => shape[a] === x!.shape[i] && (i === 0 || a > axes[i - 1]!));
    if (!fits) {
      throw new ShapeError(
        "broadcast",
        `Cannot broadcast ${x} to [${shape}] at axes [${axes}]: the sizes there are [${axes.map((a) => shape[a])}], [${x!.shape}] at increasing axes is needed`,
      );
    }
    return [x!.withShape(shape)];
  },
  transpose: (ct, _x, { shape, axes }) =>
    sumAxes(
      ct,
      range(shape.length).filter((a) => !axes.includes(a)),
    ),
  batch: (x, dim, size, { shape, axes }) => [
    broadcast(moveAxis(x, dim, 0), [size, ...shape], [0, ...shifted(axes)]),
    0,
  ],
  ...viewing(({ offset, strides }, { shape, axes }) => ({
    shape,
    offset,
    strides: shape.map((_, a) => (axes.includes(a) ? strides[axes.indexOf(a)]! : 0)),
  })),
  domain(draw) {
    const shape = draw.shape(0, 4);
    const axes = range(shape.length).filter(() => draw.bool());
    return { args: [{ shape: axes.map((a) => shape[a]!) }], params: { shape, axes } };
  },
});

export function broadcast(x: Value, shape: Shape, axes: readonly number[]): Value {
  return sameShape(x.shape, shape) ? x : bind1(broadcastP, [x], { shape, axes });
}

/** Sum over axes, which disappear. */
export const sumP: Primitive<{ readonly axes: readonly number[] }> = linear({
  name: "sum",
  doc: "Adds the elements along axes, which disappear; float32 accumulates in float64.",
  shape([x], { axes }) {
    checkNumeric("sum", x!);
    checkAxes("sum", x!, axes);
    return [x!.withShape(withoutAxes(x!.shape, axes))];
  },
  transpose: (ct, x, { axes }) =>
    broadcast(
      ct,
      x.shape,
      range(x.ndim).filter((a) => !axes.includes(a)),
    ),
  batch: (x, dim, _size, { axes }) => [sumAxes(moveAxis(x, dim, 0), shifted(axes)), 0],
  kernel: { k: "reduce", join: "sum", axes: ({ axes }) => axes },
  cpu([x], [out], { axes }) {
    const sums = new Float64Array(out!.size);
    addView(contiguous(x!.data, x!.aval.shape), reducedView(sums, x!.aval.shape, axes), x!.aval.shape);
    const data = makeArray(out!.dtype, out!.size);
    data.set(sums);
    return [data];
  },
  domain(draw) {
    const shape = draw.shape(0, 3);
    return { args: [{ shape }], params: { axes: range(shape.length).filter(() => draw.bool()) } };
  },
});

/** A view of a reduction's result with the shape of its operand: 0 strides at the axes that disappear. */
export function reducedView(data: View["data"], shape: Shape, axes: readonly number[]): View {
  const kept = stridesOf(withoutAxes(shape, axes));
  let i = 0;
  return { data, offset: 0, strides: shape.map((_, a) => (axes.includes(a) ? 0 : kept[i++]!)) };
}

export function sumAxes(x: Value, axes: readonly number[]): Value {
  return axes.length === 0 ? x : bind1(sumP, [x], { axes });
}

/** Throws ShapeError unless the axes are distinct axes of the value. */
export function checkAxes(op: string, x: Aval, axes: readonly number[]): void {
  if (!axes.every((a) => a in x.shape) || new Set(axes).size !== axes.length) {
    throw new ShapeError(
      op,
      `Cannot ${op} ${x}: axes are [${axes}], distinct axes of [${range(x.ndim)}] are needed`,
    );
  }
}

/** Throws DTypeError for bool, which has no arithmetic. */
export function checkNumeric(op: string, x: Aval): void {
  if (x.dtype === "bool")
    throw new DTypeError(
      op,
      `Cannot ${op} ${x}: the element type is bool, a number type is needed; cast first`,
    );
}

// --- reshape, permute, flip --------------------------------------------------------------------------------------

export const reshapeP: Primitive<{ readonly shape: Shape }> = linear({
  name: "reshape",
  doc: "The same elements in row-major order under another shape.",
  shape([x], { shape }) {
    checkShape(shape, "reshape");
    if (sizeOf(shape) !== x!.size) {
      throw new ShapeError(
        "reshape",
        `Cannot reshape ${x} to [${shape}]: it has ${x!.size} elements, ${sizeOf(shape)} are needed`,
      );
    }
    return [x!.withShape(shape)];
  },
  transpose: (ct, x) => reshape(ct, x.shape),
  batch: (x, dim, size, { shape }) => [reshape(moveAxis(x, dim, 0), [size, ...shape]), 0],
  ...viewing((x, { shape }) => reshaped(x, shape)),
  domain(draw) {
    const shape = draw.shape(0, 3);
    return { args: [{ shape }], params: { shape: draw.bool() ? [sizeOf(shape)] : [...shape].reverse() } };
  },
});

export function reshape(x: Value, shape: Shape): Value {
  return sameShape(x.shape, shape) ? x : bind1(reshapeP, [x], { shape });
}

export const permuteP: Primitive<{ readonly perm: readonly number[] }> = linear({
  name: "permute",
  doc: "Reorders axes; axis i of the result is axis perm[i] of the operand.",
  shape([x], { perm }) {
    if (
      perm.length !== x!.ndim ||
      !sameShape(
        [...perm].sort((a, b) => a - b),
        range(x!.ndim),
      )
    ) {
      throw new ShapeError(
        "permute",
        `Cannot permute ${x}: perm is [${perm}], a permutation of [${range(x!.ndim)}] is needed`,
      );
    }
    return [x!.withShape(perm.map((a) => x!.shape[a]!))];
  },
  transpose: (ct, _x, { perm }) =>
    permute(
      ct,
      range(perm.length).map((a) => perm.indexOf(a)),
    ),
  batch: (x, dim, _size, { perm }) => [
    permute(
      x,
      insertAt(
        perm.map((a) => (a < dim ? a : a + 1)),
        0,
        dim,
      ),
    ),
    0,
  ],
  ...viewing(({ shape, offset, strides }, { perm }) => ({
    shape: perm.map((a) => shape[a]!),
    offset,
    strides: perm.map((a) => strides[a]!),
  })),
  domain(draw) {
    const shape = draw.shape(0, 4);
    const perm: number[] = [];
    for (let i = 0; i < shape.length; i++) perm.splice(draw.int(0, i), 0, i);
    return { args: [{ shape }], params: { perm } };
  },
});

export function permute(x: Value, perm: readonly number[]): Value {
  return sameShape(perm, range(perm.length)) && perm.length === x.ndim ? x : bind1(permuteP, [x], { perm });
}

/** Moves one axis, the others keep their order. */
export function moveAxis(x: Value, from: number, to: number): Value {
  if (from === to) return x;
  const perm = range(x.ndim).filter((a) => a !== from);
  return permute(x, insertAt(perm, to, from));
}

/** Gives a value the batch axis at 0: moved there, or repeated where there was none. */
export function batchFirst(x: Value, dim: number | null, size: number): Value {
  if (dim !== null) return moveAxis(x, dim, 0);
  return bind1(broadcastP, [x], { shape: [size, ...x.shape], axes: shifted(range(x.ndim)) });
}

export const flipP: Primitive<{ readonly axes: readonly number[] }> = linear({
  name: "flip",
  doc: "Reverses the order of the elements along axes.",
  shape([x], { axes }) {
    checkAxes("flip", x!, axes);
    return [x!];
  },
  transpose: (ct, _x, params) => bind1(flipP, [ct], params),
  batch: (x, dim, _size, { axes }) => [bind1(flipP, [moveAxis(x, dim, 0)], { axes: shifted(axes) }), 0],
  ...viewing(({ shape, offset, strides }, { axes }) => ({
    shape,
    offset: axes.reduce((sum, a) => sum + strides[a]! * Math.max(shape[a]! - 1, 0), offset),
    strides: strides.map((s, a) => (axes.includes(a) ? -s : s)),
  })),
  domain(draw) {
    const shape = draw.shape(0, 3);
    return { args: [{ shape }], params: { axes: range(shape.length).filter(() => draw.bool()) } };
  },
});

// --- slice and pad -----------------------------------------------------------------------------------------------

export interface SliceParams {
  readonly starts: readonly number[];
  readonly limits: readonly number[];
  readonly strides: readonly number[];
}

export const sliceP: Primitive<SliceParams> = linear({
  name: "slice",
  doc: "Every strides[i]-th element in [starts[i], limits[i]) along each axis i.",
  shape([x], { starts, limits, strides }) {
    const fits =
      [starts, limits, strides].every((list) => list.length === x!.ndim && list.every(Number.isInteger)) &&
      starts.every((s, i) => 0 <= s && s <= limits[i]! && limits[i]! <= x!.shape[i]! && strides[i]! >= 1);
    if (!fits) {
      throw new ShapeError(
        "slice",
        `Cannot slice ${x}: starts are [${starts}], limits [${limits}], strides [${strides}], 0 <= start <= limit <= size and stride >= 1 on each of ${x!.ndim} axes are needed`,
      );
    }
    return [x!.withShape(starts.map((s, i) => Math.ceil((limits[i]! - s) / strides[i]!)))];
  },
  transpose(ct, x, { starts, strides }) {
    const high = x.shape.map(
      (n, i) => n - starts[i]! - Math.max(0, (ct.shape[i]! - 1) * strides[i]! + Math.min(ct.shape[i]!, 1)),
    );
    return pad(ct, { low: starts, high, interior: strides.map((s) => s - 1), value: 0 });
  },
  batch: (x, dim, size, { starts, limits, strides }) => [
    slice(moveAxis(x, dim, 0), {
      starts: [0, ...starts],
      limits: [size, ...limits],
      strides: [1, ...strides],
    }),
    0,
  ],
  ...viewing((x, { starts, strides }, out) => ({ ...stepped(x, starts, strides), shape: out.shape })),
  domain(draw) {
    const shape = draw.shape(0, 3);
    const starts = shape.map((n) => draw.int(0, n));
    const limits = shape.map((n, i) => draw.int(starts[i]!, n));
    return { args: [{ shape }], params: { starts, limits, strides: shape.map(() => draw.int(1, 3)) } };
  },
});

/** The elements at `starts + index * steps`; the shape is the caller's. */
function stepped(
  { offset, strides }: Layout,
  starts: readonly number[],
  steps: readonly number[],
): Omit<Layout, "shape"> {
  return {
    offset: starts.reduce((sum, s, i) => sum + s * strides[i]!, offset),
    strides: steps.map((s, i) => s * strides[i]!),
  };
}

export function slice(x: Value, params: SliceParams): Value {
  return bind1(sliceP, [x], params);
}

/** The elements in [start, limit) along one axis. */
export function sliceAxis(x: Value, axis: number, start: number, limit: number): Value {
  return slice(x, {
    starts: x.shape.map((_, a) => (a === axis ? start : 0)),
    limits: x.shape.map((n, a) => (a === axis ? limit : n)),
    strides: x.shape.map(() => 1),
  });
}

export interface PadParams {
  readonly low: readonly number[];
  readonly high: readonly number[];
  readonly interior: readonly number[];
  readonly value: number;
}

export const padP: Primitive<PadParams> = definePrimitive({
  name: "pad",
  doc: "Surrounds a value with a constant: low and high elements at the ends of each axis, interior ones between neighbours.",
  traits: {},
  arity: 1,
  shape([x], { low, high, interior }) {
    const fits = [low, high, interior].every(
      (list) => list.length === x!.ndim && list.every((n) => Number.isInteger(n) && n >= 0),
    );
    if (!fits) {
      throw new ShapeError(
        "pad",
        `Cannot pad ${x}: low is [${low}], high [${high}], interior [${interior}], a non-negative integer for each of ${x!.ndim} axes is needed`,
      );
    }
    return [
      x!.withShape(x!.shape.map((n, i) => low[i]! + Math.max(0, n + (n - 1) * interior[i]!) + high[i]!)),
    ];
  },
  jvp: ([x], [dx], params) => [
    [bind1(padP, [x!], params)],
    [dx ? bind1(padP, [dx], { ...params, value: 0 }) : null],
  ],
  // Linear for value 0, which is how the jvp rule stages it.
  transpose: ([ct], [x], { low, interior }) => [
    ct && x instanceof Lin
      ? slice(ct, {
          starts: low,
          limits: x.aval.shape.map((n, i) => low[i]! + Math.max(0, n + (n - 1) * interior[i]!)),
          strides: interior.map((n) => n + 1),
        })
      : null,
  ],
  batch: ([x], [dim], _size, { low, high, interior, value }) => [
    [
      bind1(padP, [moveAxis(x!, dim!, 0)], {
        low: [0, ...low],
        high: [0, ...high],
        interior: [0, ...interior],
        value,
      }),
    ],
    [0],
  ],
  ...placing(([x], { low, interior, value }, out) => {
    const spread = stepped(
      rowMajor(out.shape),
      low,
      interior.map((n) => n + 1),
    );
    return { fill: value, pieces: [{ arg: 0, layout: { ...spread, shape: x!.shape } }] };
  }),
  domain(draw) {
    const shape = draw.shape(0, 3);
    const amounts = (hi: number): number[] => shape.map(() => draw.int(0, hi));
    return {
      args: [{ shape }],
      params: { low: amounts(2), high: amounts(2), interior: amounts(1), value: draw.int(0, 1) },
    };
  },
});

export function pad(x: Value, params: PadParams): Value {
  return bind1(padP, [x], params);
}

// --- concat ------------------------------------------------------------------------------------------------------

export const concatP: Primitive<{ readonly axis: number }> = definePrimitive({
  name: "concat",
  doc: "Joins values along an axis.",
  traits: {},
  shape(xs, { axis }) {
    const [first] = xs;
    if (first === undefined)
      throw new ShapeError(
        "concat",
        "Cannot concat nothing: the list is empty, at least one value is needed",
      );
    for (const x of xs) {
      if (x.dtype !== first.dtype) {
        throw new DTypeError(
          "concat",
          `Cannot concat ${xs.join(", ")}: the element types differ, one type is needed; cast first`,
        );
      }
      if (
        x.ndim !== first.ndim ||
        !(axis in x.shape) ||
        !x.shape.every((n, a) => a === axis || n === first.shape[a])
      ) {
        throw new ShapeError(
          "concat",
          `Cannot concat ${xs.join(", ")} along axis ${axis}: ${x} differs from ${first}, equal sizes on the other axes are needed`,
        );
      }
    }
    const total = xs.reduce((sum, x) => sum + x.shape[axis]!, 0);
    return [first.withShape(first.shape.map((n, a) => (a === axis ? total : n)))];
  },
  jvp: (xs, dxs, params) => [
    [bind1(concatP, xs, params)],
    [
      dxs.some((dx) => dx !== null)
        ? bind1(
            concatP,
            xs.map((x, i) => dxs[i] ?? zeros(x.aval)),
            params,
          )
        : null,
    ],
  ],
  transpose([ct], args, { axis }) {
    let start = 0;
    return args.map((x) => {
      const n = x instanceof Lin ? x.aval.shape[axis]! : x.shape[axis]!;
      start += n;
      return ct && x instanceof Lin ? sliceAxis(ct, axis, start - n, start) : null;
    });
  },
  batch: (xs, dims, size, { axis }) => [
    [
      bind1(
        concatP,
        xs.map((x, i) => batchFirst(x, dims[i]!, size)),
        { axis: axis + 1 },
      ),
    ],
    [0],
  ],
  ...placing((xs, { axis }, out) => {
    const { strides } = rowMajor(out.shape);
    let start = 0;
    const pieces = xs.map(({ shape }, arg) => {
      const offset = start * strides[axis]!;
      start += shape[axis]!;
      return { arg, layout: { shape, offset, strides } };
    });
    return { fill: null, pieces };
  }),
  domain(draw) {
    const shape = draw.shape(1, 3);
    const axis = draw.int(0, shape.length - 1);
    const part = () => ({ shape: shape.map((n, a) => (a === axis ? draw.int(0, 3) : n)) });
    return { args: Array.from({ length: draw.int(1, 3) }, part), params: { axis } };
  },
});

export function concat(xs: readonly Value[], axis: number): Value {
  return xs.length === 1 ? xs[0]! : bind1(concatP, xs, { axis });
}

// --- constants ---------------------------------------------------------------------------------------------------

/** A constant of an abstract value: a scalar, repeated. */
export function constant(value: number, aval: Aval): Value {
  const one = scalar(value, aval.dtype);
  return aval.ndim === 0 ? one : bind1(broadcastP, [one], { shape: aval.shape, axes: [] });
}

/** The zero of an abstract value. */
export function zeros(aval: Aval): Value {
  return constant(0, aval);
}

/** A host array as a view's data: shorthand for kernels. */
export function host(x: HostArray): View {
  return contiguous(x.data, x.aval.shape);
}
