/**
 * Convolution and its two transposes. One trilinear form ties an input, a kernel and an output together:
 *
 *   sum of output[n, g o, t] kernel[g o, i, k] input[n, g i, s] where s inputDilation = t stride + k dilation - low
 *
 * Each member of the family takes two of the three and returns the derivative of the form by the third, so the
 * transpose of a member in one operand is the member that returns this operand.
 */
import { type Arithmetic, arithmeticOf, type Matrix, type Sums, stored } from "../arithmetic.ts";
import type { Aval } from "../aval.ts";
import type { TypedArray } from "../dtype.ts";
import { DTypeError, ShapeError } from "../errors.ts";
import { type Draw, definePrimitive, type HostArray, Lin, type Primitive } from "../primitive.ts";
import { insertAt, type Shape, sameShape, sizeOf, stridesOf, withoutAxes } from "../shape.ts";
import { addView, copyView, type View } from "../strided.ts";
import { bind1 } from "../trace.ts";
import type { Value } from "../value.ts";
import { add } from "./elementwise.ts";
import { checkNumeric, moveAxis, reshape, zeros } from "./movement.ts";
import { checkSteps, dilatedSize, isPairs, type PaddingPairs, windowCount } from "./pool.ts";

/** How kernel positions meet input positions; one entry per spatial axis. */
export interface ConvParams {
  /** Input positions from one output to the next. */
  readonly strides: readonly number[];
  /** Zeros around the dilated input; negative amounts remove elements. */
  readonly padding: PaddingPairs;
  /** Input positions from one kernel element to the next. */
  readonly dilation: readonly number[];
  /** Positions from one input element to the next, with zeros between. */
  readonly inputDilation: readonly number[];
  /** Blocks of channels that do not meet. */
  readonly groups: number;
}

/** `size` is the spatial shape of the result; the input's cannot be told from an output and a kernel. */
export interface ConvMemberParams extends ConvParams {
  readonly size: Shape;
}

type Role = "input" | "kernel" | "output";
type Axis = "batch" | "group" | "in" | "out";
type Three<T> = Readonly<Record<Role, T>>;

/** Axes before the spatial ones, with channels split into groups; stored, `group` and the axis after it are one. */
const axesOf: Three<readonly Axis[]> = {
  input: ["batch", "group", "in"],
  kernel: ["group", "out", "in"],
  output: ["batch", "group", "out"],
};

/** The operands of the member that returns a role. */
const operandsOf: Three<readonly [Role, Role]> = {
  output: ["input", "kernel"],
  input: ["output", "kernel"],
  kernel: ["input", "output"],
};

const axisNames: Readonly<Record<Axis, string>> = {
  batch: "batch sizes",
  group: "groups",
  in: "input channels per group",
  out: "output channels per group",
};

/** The axis that two roles share besides the group. */
const sharedAxis = (a: Role, b: Role): Axis =>
  axesOf[a].find((axis) => axis !== "group" && axesOf[b].includes(axis))!;

/** The shape with channels split: `[n, c, ...]` to `[n, groups, c / groups, ...]`. */
function splitGroups(role: Role, shape: Shape, groups: number): number[] {
  const at = axesOf[role].indexOf("group");
  return [...shape.slice(0, at), groups, shape[at]! / groups, ...shape.slice(at + 1)];
}

/** The inverse of `splitGroups`. */
function mergeGroups(role: Role, shape: Shape): number[] {
  const at = axesOf[role].indexOf("group");
  return [...shape.slice(0, at), shape[at]! * shape[at + 1]!, ...shape.slice(at + 2)];
}

const spatial = (shape: Shape): Shape => shape.slice(2);

const paddedSizes = (input: Shape, { padding, inputDilation }: ConvParams): number[] =>
  input.map((n, a) => padding[a]![0] + dilatedSize(n, inputDilation[a]!) + padding[a]![1]);

const spans = (kernel: Shape, { dilation }: ConvParams): number[] =>
  kernel.map((n, a) => dilatedSize(n, dilation[a]!));

function outputSize(input: Shape, kernel: Shape, params: ConvParams): number[] {
  const padded = paddedSizes(input, params);
  return spans(kernel, params).map((span, a) => windowCount(padded[a]!, span, params.strides[a]!));
}

// --- records -----------------------------------------------------------------------------------------------------

/** Defines the member of the family that returns `result`. */
function member(result: Role, name: string, doc: string): Primitive<ConvMemberParams> {
  const roles = operandsOf[result];
  return definePrimitive<ConvMemberParams>({
    name,
    doc,
    traits: {},
    arity: 2,
    kernel: { k: "named", name },
    shape: (args, params) => [resultAval(name, result, args, params)],
    jvp([a, b], [da, db], params) {
      const parts = [
        da && bindMember(result, da, b!, params),
        db && bindMember(result, a!, db, params),
      ].filter((part) => part !== null && part !== undefined);
      return [
        [bindMember(result, a!, b!, params)],
        [parts.length === 2 ? add(parts[0]!, parts[1]!) : parts[0]!],
      ];
    },
    transpose([ct], args, params) {
      return args.map((x, i) => {
        const other = args[1 - i]!;
        if (!ct || !(x instanceof Lin) || other instanceof Lin) return null;
        const [first] = operandsOf[roles[i]!];
        const [a, b] = first === result ? [ct, other] : [other, ct];
        return bindMember(roles[i]!, a, b, { ...params, size: spatial(x.aval.shape) });
      });
    },
    batch(xs, dims, size, params) {
      const single = xs.map((x, i) => {
        const dim = dims[i]!;
        return dim === null ? x.aval : x.aval.withShape(withoutAxes(x.shape, [dim]));
      });
      const out = resultAval(name, result, single, params);
      if (size === 0) return [[zeros(out.withShape([0, ...out.shape]))], [0]];
      // The batch axis joins the axis that exactly the batched roles have: the result and some of the operands.
      const batched = roles.filter((_, i) => dims[i] !== null);
      const axis = batched.length === 2 ? "group" : sharedAxis(batched[0]!, result);
      const { groups } = params;
      const [a, b] = xs.map((x, i) => {
        const dim = dims[i]!;
        return dim === null ? x : foldBatch(moveAxis(x, dim, 0), roles[i]!, axis, groups);
      });
      const folded = axis === "group" ? { ...params, groups: groups * size } : params;
      return [[unfoldBatch(bindMember(result, a!, b!, folded), out.shape, size, result, axis, groups)], [0]];
    },
    cpu: (args, [out], params) => [convKernels(result, args, out!, params)],
    domain(draw) {
      const { shapes, params } = drawConv(draw);
      return {
        args: roles.map((role) => ({ shape: shapes[role] })),
        params: { ...params, size: spatial(shapes[result]) },
      };
    },
  });
}

/** Joins a batch axis at 0 to one of the axes of a role. */
function foldBatch(x: Value, role: Role, axis: Axis, groups: number): Value {
  const size = x.shape[0]!;
  const split = splitGroups(role, x.shape.slice(1), groups);
  const at = axesOf[role].indexOf(axis);
  const moved = moveAxis(reshape(x, [size, ...split]), 0, at);
  return reshape(
    moved,
    mergeGroups(
      role,
      split.map((n, a) => (a === at ? n * size : n)),
    ),
  );
}

/** The inverse of `foldBatch`; `shape` is the shape without the batch axis. */
function unfoldBatch(x: Value, shape: Shape, size: number, role: Role, axis: Axis, groups: number): Value {
  const at = axesOf[role].indexOf(axis);
  const apart = reshape(x, insertAt(splitGroups(role, shape, groups), at, size));
  return reshape(moveAxis(apart, at, 0), [size, ...shape]);
}

/** Checks two operands against each other and the parameters; returns the abstract value of the third. */
function resultAval(op: string, result: Role, args: readonly Aval[], params: ConvMemberParams): Aval {
  const [a, b] = args as readonly [Aval, Aval];
  const { groups, padding, size } = params;
  const fail = (why: string): never => {
    throw new ShapeError(op, `Cannot ${op} ${a}, ${b}: ${why}`);
  };
  checkNumeric(op, a);
  if (a.dtype !== b.dtype) {
    throw new DTypeError(
      op,
      `Cannot ${op} ${a}, ${b}: the element types differ, one type is needed; cast one operand`,
    );
  }
  if (a.ndim !== b.ndim || a.ndim < 3) {
    fail(
      `the ranks are ${a.ndim} and ${b.ndim}, one rank of two channel axes and at least one spatial is needed`,
    );
  }
  const count = a.ndim - 2;
  checkSteps(op, "strides", params.strides, count);
  checkSteps(op, "dilation", params.dilation, count);
  checkSteps(op, "inputDilation", params.inputDilation, count);
  if (!isPairs(padding, count)) {
    fail(`padding is ${JSON.stringify(padding)}, two integers for each of ${count} spatial axes are needed`);
  }
  if (!Number.isInteger(groups) || groups < 1) fail(`groups is ${groups}, a positive integer is needed`);

  // Channels: every axis that is known from two operands must have one size.
  const known: Partial<Record<Axis, number>> = {};
  const sizes: Partial<Record<Role, Shape>> = { [result]: size };
  args.forEach((x, i) => {
    const role = operandsOf[result][i]!;
    sizes[role] = spatial(x.shape);
    const split = splitGroups(role, x.shape, groups);
    axesOf[role].forEach((axis, at) => {
      const n = split[at]!;
      if (!Number.isInteger(n)) {
        fail(`${n * groups} channels of the ${role} are in ${groups} groups, a multiple of groups is needed`);
      }
      if (known[axis] !== undefined && known[axis] !== n) {
        fail(`${axisNames[axis]} are ${known[axis]} and ${n} with ${groups} groups, equal sizes are needed`);
      }
      known[axis] = n;
    });
  });

  const { input, kernel, output } = sizes as Three<Shape>;
  if (kernel.includes(0))
    fail(`the spatial shape of the kernel is [${kernel}], sizes of at least 1 are needed`);
  if (size.length !== count || !size.every((n) => Number.isInteger(n) && n >= 0)) {
    fail(`size is [${size}], a non-negative integer for each of ${count} spatial axes is needed`);
  }
  const padded = paddedSizes(input, params);
  const span = spans(kernel, params);
  if (span.some((n, i) => n > padded[i]!)) {
    fail(
      `the kernel spans [${span}] and the padded input [${padded}], an input of at least the span is needed`,
    );
  }
  const expected = outputSize(input, kernel, params);
  if (!sameShape(output, expected)) {
    fail(
      `spatial shapes are [${input}] of the input and [${kernel}] of the kernel with [${output}] of the output, [${expected}] of the output is needed`,
    );
  }
  const split = axesOf[result].map((axis) => known[axis]!);
  return a.withShape([...mergeGroups(result, split), ...size]);
}

export const convP: Primitive<ConvMemberParams> = member(
  "output",
  "conv",
  "Correlation of an input [n, c, ...] with a kernel [o, c / groups, ...] over the spatial axes.",
);

export const convInputP: Primitive<ConvMemberParams> = member(
  "input",
  "convInput",
  "Input from output [n, o, ...] and kernel: the transpose of conv in its input.",
);

export const convKernelP: Primitive<ConvMemberParams> = member(
  "kernel",
  "convKernel",
  "Kernel from input and output [n, o, ...]: the transpose of conv in its kernel.",
);

const members: Three<Primitive<ConvMemberParams>> = {
  output: convP,
  input: convInputP,
  kernel: convKernelP,
};

const bindMember = (result: Role, a: Value, b: Value, params: ConvMemberParams): Value =>
  bind1(members[result], [a, b], params);

/**
 * Convolution as in neural networks: the kernel is not flipped.
 *
 * Shapes: x `[n, c, ...s]`, w `[o, c / groups, ...k]`; the result is `[n, o, ...t]` with
 * `t = floor((lo + (s - 1) inputDilation + 1 + hi - (k - 1) dilation - 1) / stride) + 1`.
 *
 * @throws {ShapeError} if channels or groups do not match, or the kernel is larger than the padded input
 * @throws {DTypeError} if the element types differ or are bool
 */
export function convGeneral(x: Value, w: Value, params: ConvParams): Value {
  return bindMember("output", x, w, sized(params, outputSizeOrEmpty(x.shape, w.shape, params)));
}

/** The transpose of `convGeneral` in x, for an input of spatial shape `size`: y `[n, o, ...t]` to `[n, c, ...size]`. */
export function convInput(y: Value, w: Value, params: ConvParams, size: Shape): Value {
  return bindMember("input", y, w, sized(params, size));
}

/** The transpose of `convGeneral` in w, for a kernel of spatial shape `size`: `[o, c / groups, ...size]`. */
export function convKernel(x: Value, y: Value, params: ConvParams, size: Shape): Value {
  return bindMember("kernel", x, y, sized(params, size));
}

/** Parameters in one order, without fields that are not theirs. */
const sized = (
  { strides, padding, dilation, inputDilation, groups }: ConvParams,
  size: Shape,
): ConvMemberParams => ({ strides, padding, dilation, inputDilation, groups, size });

/** The size of the output, or nothing where parameters have the wrong length: the shape rule then says so. */
function outputSizeOrEmpty(x: Shape, w: Shape, params: ConvParams): Shape {
  const lists = [w.slice(2), params.strides, params.padding, params.dilation, params.inputDilation];
  return lists.every((list) => list.length === x.length - 2)
    ? outputSize(spatial(x), spatial(w), params)
    : [];
}

// --- kernels -----------------------------------------------------------------------------------------------------

/**
 * Every member as matrix products with `columns [in k, t]`, the input elements that meet kernel element `in, k` for
 * each output t, one image and group at a time; floats in float64, integers modulo 2^32:
 *
 *   output [out, t] = kernel [out, in k] columns
 *   kernel [out, in k] += output [out, t] columns^T
 *   columns = kernel^T output, then input += columns at their places
 */
function convKernels(
  result: Role,
  args: readonly HostArray[],
  out: Aval,
  params: ConvMemberParams,
): TypedArray {
  const { groups } = params;
  const shapes = { [result]: out.shape } as Record<Role, Shape>;
  const arithmetic = arithmeticOf(out.dtype);
  const { multiply } = arithmetic;
  const data = { [result]: arithmetic.make(out.size) } as Record<Role, Sums>;
  operandsOf[result].forEach((role, i) => {
    shapes[role] = args[i]!.aval.shape;
    data[role] = arithmetic.from(args[i]!.data);
  });
  const { input, kernel, output } = data;
  const [batch, channels] = [shapes.input[0]!, shapes.kernel[1]!];
  const outs = shapes.kernel[0]! / groups;
  const size = {
    input: spatial(shapes.input),
    kernel: spatial(shapes.kernel),
    output: spatial(shapes.output),
  };
  const cells = sizeOf(size.output);
  const rows = channels * sizeOf(size.kernel);
  const image = channels * sizeOf(size.input);
  const { columns, load, storeInto } = columnBuffer(channels, size, params, result === "kernel", arithmetic);
  for (let n = 0; n < batch; n++) {
    for (let g = 0; g < groups; g++) {
      const inputAt = (n * groups + g) * image;
      const outputAt = (n * groups + g) * outs * cells;
      const kernelAt = g * outs * rows;
      if (result === "output") {
        load(input, inputAt);
        const weights: Matrix = { data: kernel, offset: kernelAt, row: rows, column: 1 };
        multiply(weights, columns, 0, output, outputAt, outs, rows, cells);
      } else if (result === "kernel") {
        load(input, inputAt);
        const values: Matrix = { data: output, offset: outputAt, row: cells, column: 1 };
        multiply(values, columns, 0, kernel, kernelAt, outs, cells, rows);
      } else {
        const weights: Matrix = { data: kernel, offset: kernelAt, row: 1, column: rows };
        columns.fill(0);
        multiply(weights, output, outputAt, columns, 0, rows, outs, cells);
        storeInto(input, inputAt);
      }
    }
  }
  return stored(data[result], out);
}

interface ColumnBuffer {
  readonly columns: Sums;
  /** Fills the columns from the image that starts at `offset`. */
  load(input: Sums, offset: number): void;
  /** Writes to the image that starts at `offset` the sums of the columns that hold each of its elements. */
  storeInto(input: Sums, offset: number): void;
}

/** Columns `[in k, t]` of one image, or `[t, in k]` transposed, and the padded image they are windows of. */
function columnBuffer(
  channels: number,
  size: Three<Shape>,
  params: ConvParams,
  transposed: boolean,
  { make }: Arithmetic,
): ColumnBuffer {
  const { strides, padding, dilation, inputDilation } = params;
  const paddedSize = paddedSizes(size.input, params);
  const padded = make(channels * sizeOf(paddedSize));
  const [channel, ...unit] = stridesOf([channels, ...paddedSize]) as [number, ...number[]];
  const imageStrides = stridesOf([channels, ...size.input]);

  // Input elements [first, first + kept) are inside: 0 <= low + s inputDilation < padded size.
  const first = padding.map(([low], a) => Math.max(0, Math.ceil(-low / inputDilation[a]!)));
  const kept = padding.map(([low], a) => {
    const last = Math.floor((paddedSize[a]! - 1 - low) / inputDilation[a]!);
    return Math.max(0, Math.min(size.input[a]! - 1, last) - first[a]! + 1);
  });
  const insideShape = [channels, ...kept];
  const inside: View = {
    data: padded,
    offset: first.reduce((sum, s, a) => sum + (padding[a]![0] + s * inputDilation[a]!) * unit[a]!, 0),
    strides: [channel, ...unit.map((u, a) => u * inputDilation[a]!)],
  };
  const skipped = first.reduce((sum, s, a) => sum + s * imageStrides[a + 1]!, 0);
  const image = (data: Sums, offset: number): View => ({
    data,
    offset: offset + skipped,
    strides: imageStrides,
  });

  const columnShape = [channels, ...size.kernel, ...size.output];
  const columns = make(sizeOf(columnShape));
  const inner = stridesOf(columnShape);
  const [rows, cells] = [channels * sizeOf(size.kernel), sizeOf(size.output)];
  const flat: View = {
    data: columns,
    offset: 0,
    strides: transposed ? inner.map((s, a) => (a > size.kernel.length ? s * rows : s / cells)) : inner,
  };
  const windows: View = {
    data: padded,
    offset: 0,
    strides: [channel, ...unit.map((u, a) => u * dilation[a]!), ...unit.map((u, a) => u * strides[a]!)],
  };
  return {
    columns,
    load(input, offset) {
      copyView(image(input, offset), inside, insideShape);
      copyView(windows, flat, columnShape);
    },
    storeInto(input, offset) {
      padded.fill(0);
      addView(flat, windows, columnShape);
      copyView(inside, image(input, offset), insideShape);
    },
  };
}

// --- domain ------------------------------------------------------------------------------------------------------

/** Small shapes of all three roles that fit together. */
function drawConv(draw: Draw): { shapes: Three<Shape>; params: ConvParams } {
  const axes = draw.shape(1, 2);
  const [batch, groups, channels, outs] = [draw.int(1, 2), draw.int(1, 2), draw.int(1, 2), draw.int(1, 2)];
  const each = (lo: number, hi: number): number[] => axes.map(() => draw.int(lo, hi));
  const input = axes.map((n) => n + draw.int(0, 2));
  const kernel = each(1, 3);
  const [strides, dilation, inputDilation] = [each(1, 2), each(1, 2), each(1, 2)];
  const [low, high] = [each(-1, 2), each(-1, 2)];
  const padding = input.map((n, a): [number, number] => {
    const missing = dilatedSize(kernel[a]!, dilation[a]!) - dilatedSize(n, inputDilation[a]!) - low[a]!;
    return [low[a]!, Math.max(high[a]!, missing)];
  });
  const params: ConvParams = { strides, padding, dilation, inputDilation, groups };
  return {
    shapes: {
      input: [batch, groups * channels, ...input],
      kernel: [groups * outs, channels, ...kernel],
      output: [batch, groups * outs, ...outputSize(input, kernel, params)],
    },
    params,
  };
}
