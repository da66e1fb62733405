/**
 * Convolution and its two transposes as matrix products whose operands are read through the strides of windows: no
 * column is ever in memory. What windows reach beyond an array is put around it first, with channels as neighbours
 * where there are enough of them.
 *
 *   conv        rows: output channels   columns: images, output places   sum: kernel places, input channels
 *   convInput   rows: input channels    columns: images, input places    sum: kernel places, output channels
 *   convKernel  rows: channels of one   columns: kernel places, channels of the other   sum: images, places
 *
 * Zeros around an array are multiplied as its elements are.
 */
import type { Aval } from "../../aval.ts";
import { type CallStep, type Operand, Slot } from "../../passes/fuse.ts";
import type { ConvMemberParams } from "../../prims/conv.ts";
import { type Shape, sizeOf, stridesOf } from "../../shape.ts";
import {
  type Arrangement,
  arrange,
  arrangedBytes,
  arrangedGrid,
  type Extent,
  type Grid,
  roundedUp,
} from "./conv_arrange.ts";
import { choices, type Relation, type Run, reachOf, runsOf } from "./conv_axes.ts";
import { type Axis, factorOf, placed, productOf, type Source } from "./conv_product.ts";
import { chosen, isProduct, teamShader, type Variant, variantOf } from "./dot.ts";
import { type DotCall, exchanged } from "./dot_call.ts";
import { plainTarget, type Target, targetOf } from "./dot_target.ts";
import { MOST_COLUMNS } from "./dot_vectors.ts";
import type { BufferRef, Capabilities, Dispatch, NamedKernel } from "./kernel.ts";
import { constantOf, groupsFor, lineSize, mainHead, numberType, storageType } from "./wgsl.ts";

export type Role = "input" | "kernel" | "output";

/** With at least so many channels it pays to have them as neighbours, even if the last vector is not full. */
const MANY_CHANNELS = 16;
/** Images with at least so many places are products of their own: their results lie in memory as they are computed. */
const MANY_PLACES = { gpu: 1024, software: 64 } as const;
/** Shorter sums of a few channels are not shared between invocations. */
const SHORT_SUM = 256;

interface Zeros {
  readonly target: Target;
  readonly count: number;
}

/** What is done before products, and the products when it is known where that is. */
interface Plan {
  readonly arrangements: readonly Arrangement[];
  /** `spaces` are those of the arrangements, in order. */
  products(spaces: readonly BufferRef[]): readonly DotCall[];
  /** Results that are sums of nothing. */
  readonly zeros: readonly Zeros[];
  /** Of the operations that the products count, those that are asked for. */
  readonly share: number;
}

interface Call {
  readonly args: readonly Operand[];
  readonly target: Target;
  readonly shape: Shape;
  readonly params: ConvMemberParams;
  readonly type: DotCall["type"];
  readonly gpu: Capabilities;
}

const axesOf = (shape: Shape, strides: readonly number[]): Axis[] =>
  shape.map((size, a) => ({ size, stride: strides[a]! }));

/** An axis as two: `count` parts of it, and within one of them. */
function cut({ size, stride }: Axis, count: number): [Axis, Axis] {
  return [
    { size: count, stride: (size / count) * stride },
    { size: size / count, stride },
  ];
}

/** Images `[batch, groups channels, places...]`. */
function imagesOf({ slot, layout }: Operand, groups: number): Grid {
  const [batch, all, ...places] = axesOf(layout.shape, layout.strides) as [Axis, Axis, ...Axis[]];
  const [group, channels] = cut(all, groups);
  return { buffer: slot, offset: layout.offset, lead: [batch, group], channels, places };
}

/** Weights `[groups outputs, inputs, places...]` with the channels that are summed. */
function weightsOf({ slot, layout }: Operand, groups: number, summed: "inputs" | "outputs"): Grid {
  const [all, inputs, ...places] = axesOf(layout.shape, layout.strides) as [Axis, Axis, ...Axis[]];
  const [group, outputs] = cut(all, groups);
  const [free, channels] = summed === "inputs" ? [outputs, inputs] : [inputs, outputs];
  return { buffer: slot, offset: layout.offset, lead: [group, free], channels, places };
}

const sizesOf = (axes: readonly Axis[]): number[] => axes.map(({ size }) => size);

/** Whether every place that is reached is an element. */
function fits({ places }: Grid, extents: readonly Extent[]): boolean {
  return extents.every(({ first, last, apart }, a) => apart === 1 && first >= 0 && last < places[a]!.size);
}

const whole = ({ places }: Grid): Extent[] =>
  places.map(({ size }) => ({ first: 0, last: size - 1, apart: 1 }));

/** How far an element is from element 0 of all axes. */
function offsetOf(places: readonly Axis[], firsts: readonly number[]): number {
  return places.reduce((sum, { stride }, a) => sum + stride * firsts[a]!, 0);
}

// --- output and input ----------------------------------------------------------------------------------------------

function relations(result: "output" | "input", params: ConvMemberParams): Relation[] {
  const { strides, dilation, inputDilation, padding } = params;
  // input inputDilation = output stride + kernel dilation - low
  return strides.map((stride, a): Relation => {
    const [apart, tap, low] = [inputDilation[a]!, dilation[a]!, padding[a]![0]];
    return result === "output"
      ? { denominator: apart, numerator: stride, tap, offset: -low }
      : { denominator: stride, numerator: apart, tap: -tap, offset: low };
  });
}

function imagePlan(result: "output" | "input", call: Call): Plan {
  const { args, target, shape, params, type, gpu } = call;
  const { groups } = params;
  const images = imagesOf(args[0]!, groups);
  const weights = weightsOf(args[1]!, groups, result === "output" ? "inputs" : "outputs");
  const [count, rows, summed] = [images.lead[0].size, weights.lead[1].size, images.channels.size];
  const places = axesOf(shape.slice(2), stridesOf(shape.slice(2)));
  const cells = sizeOf(shape.slice(2));
  const runs = relations(result, params).map((relation, a) =>
    runsOf(relation, places[a]!.size, weights.places[a]!.size),
  );
  const all = choices(runs);
  const met = all.filter((some) => some.every(({ taps }) => taps > 0));
  const reach = runs.map(reachOf);
  if (summed === 0 || met.length === 0 || reach.includes(null)) return zerosOnly(call);

  const extents = reach.map((ends): Extent => ({ first: ends![0], last: ends![1], apart: 1 }));
  const taps = sizeOf(sizesOf(weights.places));
  const isMany = summed % 4 === 0 || summed >= MANY_CHANNELS || (summed === 3 && !gpu.isSoftware);

  const plan = (imagesLast: boolean | null): Plan => {
    const arrangements: Arrangement[] = [];
    if (imagesLast !== null) arrangements.push({ source: images, extents, isLast: imagesLast });
    const read = imagesLast === true ? roundedUp(summed) : summed;
    const isTurned = imagesLast === true && (taps > 1 || read !== summed);
    if (isTurned) arrangements.push({ source: weights, extents: whole(weights), isLast: true });
    return {
      arrangements,
      zeros: all
        .filter((some) => !met.includes(some))
        .map((some) => ({
          target: placesOf(some, true),
          count: count * groups * rows * some.reduce((n, run) => n * run.phases * run.count, 1),
        })),
      share: summed / read,
      products(spaces) {
        const y = imagesLast === null ? images : arrangedGrid(arrangements[0]!, spaces[0]!);
        const x = isTurned ? arrangedGrid(arrangements.at(-1)!, spaces.at(-1)!) : weights;
        return met.map((some) => product(x, y, some, read));
      },
    };
  };

  /** The axes of one array along all spatial ones. */
  const along = (
    some: readonly Run[],
    size: "phases" | "count" | "taps",
    stride: (run: Run, a: number) => number,
  ): Axis[] => some.map((run, a) => ({ size: run[size], stride: stride(run, a) }));

  const placesOf = (some: readonly Run[], isApart: boolean): Target => {
    const image = { size: count, stride: groups * rows * cells };
    return placed(
      target,
      type,
      [
        ...(isApart ? [image] : []),
        { size: groups, stride: rows * cells },
        ...along(some, "phases", ({ place }, a) => place.phase * places[a]!.stride),
        { size: rows, stride: cells },
        ...(isApart ? [] : [image]),
        ...along(some, "count", ({ place }, a) => place.step * places[a]!.stride),
      ],
      offsetOf(
        places,
        some.map(({ place }) => place.first),
      ),
    );
  };

  const product = (x: Grid, y: Grid, some: readonly Run[], read: number): DotCall => {
    const counts = some.map((run) => run.count);
    const isApart = sizeOf(counts) >= MANY_PLACES[gpu.isSoftware ? "software" : "gpu"];
    const isLast = y.channels.stride === 1 && read > 1;
    const sumsOf = (grid: Grid, steps: readonly Axis[]): Pick<Source, "outer" | "sums"> => {
      const channels = { size: read, stride: grid.channels.stride };
      if (!isLast) return { outer: [], sums: [channels, ...steps] };
      // Where divisions are slow, places of the kernel are a loop around long sums over channels.
      const isOuter = gpu.isSoftware && read >= MANY_CHANNELS;
      return isOuter ? { outer: steps, sums: [channels] } : { outer: [], sums: [...steps, channels] };
    };
    const [batch, group] = y.lead;
    const none = { size: count, stride: 0 };
    const ofWeights: Source = {
      buffer: x.buffer,
      offset:
        x.offset +
        offsetOf(
          x.places,
          some.map(({ element }) => element.first),
        ),
      batches: [
        ...(isApart ? [none] : []),
        x.lead[0],
        ...along(some, "phases", ({ element }, a) => element.phase * x.places[a]!.stride),
      ],
      free: [x.lead[1]],
      ...sumsOf(
        x,
        along(some, "taps", ({ element }, a) => element.tap * x.places[a]!.stride),
      ),
    };
    const ofImages: Source = {
      buffer: y.buffer,
      offset:
        y.offset +
        offsetOf(
          y.places,
          some.map(({ source }) => source.first),
        ),
      batches: [
        ...(isApart ? [batch] : []),
        group,
        ...along(some, "phases", ({ source }, a) => source.phase * y.places[a]!.stride),
      ],
      free: [
        ...(isApart ? [] : [batch]),
        ...along(some, "count", ({ source }, a) => source.step * y.places[a]!.stride),
      ],
      ...sumsOf(
        y,
        along(some, "taps", ({ source }, a) => source.tap * y.places[a]!.stride),
      ),
    };
    return productOf(ofWeights, ofImages, placesOf(some, isApart), type);
  };

  if (!fits(images, extents)) return plan(isMany);
  if (!isMany) return plan(null);
  if (taps > 1) return plan(true);
  const inPlace = plan(null);
  const [{ y }] = inPlace.products([]) as [DotCall];
  return y.width === 4 ? inPlace : plan(true);
}

function zerosOnly({ target, shape }: Call): Plan {
  return { arrangements: [], products: () => [], zeros: [{ target, count: sizeOf(shape) }], share: 1 };
}

// --- kernel --------------------------------------------------------------------------------------------------------

function kernelPlan(call: Call): Plan {
  const { args, target, shape, params, type } = call;
  const { groups, strides, dilation, inputDilation, padding } = params;
  const [input, output] = args.map((arg) => imagesOf(arg, groups)) as [Grid, Grid];
  // Windows of the one array meet the elements of the other.
  const ofOutput = inputDilation.some((n) => n > 1) && strides.every((n) => n === 1);
  const [windows, other] = ofOutput ? [output, input] : [input, output];
  const sizes = shape.slice(2);
  const cells = sizeOf(sizes);
  const spatial = sizes.map((size, a) => {
    const [stride, tap, apart, low] = [strides[a]!, dilation[a]!, inputDilation[a]!, padding[a]![0]];
    // Holes between elements of the input are places too.
    const [step, element, offset] = ofOutput ? [apart, -tap, low] : [stride, tap, -low];
    const { size: count } = other.places[a]!;
    const ends = [0, count - 1].flatMap((u) => [0, size - 1].map((k) => u * step + k * element + offset));
    const extent: Extent = {
      first: Math.min(...ends),
      last: Math.max(...ends),
      apart: ofOutput ? 1 : apart,
    };
    return { size, count, step, element, offset, extent };
  });
  const count = other.lead[0].size;
  if (count * sizeOf(sizesOf(other.places)) === 0 || windows.places.some(({ size }) => size === 0))
    return zerosOnly(call);
  const extents = spatial.map(({ extent }) => extent);
  const inputs = shape[1]!;
  const outputs = shape[0]! / groups;
  const [outAxis, inAxis] = [
    { size: outputs, stride: inputs * cells },
    { size: inputs, stride: cells },
  ];
  const [rowAxis, columnAxis] = ofOutput ? [inAxis, outAxis] : [outAxis, inAxis];
  const steps = axesOf(sizes, stridesOf(sizes));

  const xSource = (grid: Grid): Source => ({
    buffer: grid.buffer,
    offset: grid.offset,
    batches: [grid.lead[1]],
    free: [grid.channels],
    outer: [],
    sums: [grid.lead[0], ...grid.places],
  });
  const ySource = (grid: Grid): Source => {
    const elements = spatial.map(({ size, element }, a): Axis => {
      return { size, stride: element * grid.places[a]!.stride };
    });
    return {
      buffer: grid.buffer,
      offset:
        grid.offset +
        offsetOf(
          grid.places,
          spatial.map(({ offset }) => offset),
        ),
      batches: [grid.lead[1]],
      free: isLast(grid) ? [...elements, grid.channels] : [grid.channels, ...elements],
      outer: [],
      sums: [
        grid.lead[0],
        ...spatial.map((axis, a): Axis => {
          return { size: axis.count, stride: axis.step * grid.places[a]!.stride };
        }),
      ],
    };
  };

  const arrangements: Arrangement[] = [];
  const inFours = ({ channels }: Grid): boolean => channels.size % 4 === 0;
  const isRead = factorOf(xSource(other), "x", type).width === 4 || !inFours(other);
  if (!isRead) arrangements.push({ source: other, extents: whole(other), isLast: true });
  const isPlaced =
    fits(windows, extents) &&
    (!inFours(windows) || (cells === 1 && factorOf(ySource(windows), "y", type).width === 4));
  if (!isPlaced) arrangements.push({ source: windows, extents, isLast: inFours(windows) });
  return {
    arrangements,
    zeros: [],
    share: 1,
    products(spaces) {
      const x = isRead ? other : arrangedGrid(arrangements[0]!, spaces[0]!);
      const y = isPlaced ? windows : arrangedGrid(arrangements.at(-1)!, spaces.at(-1)!);
      const columns = isLast(y) ? [...steps, columnAxis] : [columnAxis, ...steps];
      const group = { size: groups, stride: outputs * inputs * cells };
      const places = placed(target, type, [group, rowAxis, ...columns], 0);
      return [productOf(xSource(x), ySource(y), places, type)];
    },
  };
}

const isLast = ({ channels }: Grid): boolean => channels.size > 1 && channels.stride === 1;

// --- kernels -------------------------------------------------------------------------------------------------------

function callOf(
  args: readonly Operand[],
  { shape, dtype }: Aval,
  params: unknown,
  target: Target,
  gpu: Capabilities,
): Call {
  // The records of these names have these parameters.
  return { args, target, shape, params: params as ConvMemberParams, type: numberType(dtype), gpu };
}

function planOf(result: Role, call: Call): Plan {
  if (sizeOf(call.shape) === 0 || call.args.some(({ slot }) => slot.aval.size === 0)) return zerosOnly(call);
  return result === "kernel" ? kernelPlan(call) : imagePlan(result, call);
}

function variantFor(call: DotCall, gpu: Capabilities): Variant {
  const thin = call.n <= call.m ? call : exchanged(call);
  // One invocation for each of many results, such as those of channels that do not meet.
  if (thin.n <= MOST_COLUMNS && thin.k * thin.repeats < SHORT_SUM) {
    const shader = teamShader(thin, { along: "columns", team: 1, size: 64 }, gpu);
    return variantOf(thin, shader, shader.cut(1), gpu);
  }
  return chosen(call, gpu);
}

function zerosDispatch({ target, count }: Zeros, type: DotCall["type"], gpu: Capabilities): Dispatch {
  const size = lineSize(gpu);
  const groups = groupsFor(count, size, gpu);
  const code = `${target.text(0, false)}
${mainHead(count, size, groups)}
store(unit, ${constantOf(0, type)});
}
`;
  return { label: "conv", code, buffers: target.buffers, groups, operations: 0 };
}

/** The dispatches of a call, with a way to compute each of its products. */
export function convolutionDispatches(
  result: Role,
  step: CallStep,
  gpu: Capabilities,
  variant: (call: DotCall) => Variant,
): readonly Dispatch[] {
  const [out] = step.outs;
  if (out!.aval.size === 0) return [];
  const call = callOf(step.args, out!.aval, step.params, targetOf(step), gpu);
  const plan = planOf(result, call);
  const arranged = plan.arrangements.map((arrangement) => arrange(arrangement, call.type, gpu));
  const products = plan.products(arranged.map(({ space }) => space));
  return [
    ...arranged.map(({ dispatch }) => dispatch),
    ...plan.zeros.map((some) => zerosDispatch(some, call.type, gpu)),
    ...products.flatMap((product) =>
      variant(product)
        .dispatches()
        .map((one) => ({ ...one, operations: Math.round(one.operations * plan.share) })),
    ),
  ];
}

function convolution(result: Role, label: string): NamedKernel {
  return {
    takesEpilogue: true,
    takesHalves: true,
    prepare(args, [out], params, gpu) {
      const { dtype } = out!;
      if (!isProduct(dtype)) return null;
      const operands = args.map(({ aval, layout }) => ({ slot: new Slot(aval, "input"), layout }));
      const target = plainTarget(new Slot(out!, "step"), storageType(dtype));
      const { arrangements } = planOf(result, callOf(operands, out!, params, target, gpu));
      const { maxBindingSize, maxBufferSize } = gpu.limits;
      const fit = arrangements.every((one) => arrangedBytes(one) <= Math.min(maxBindingSize, maxBufferSize));
      return fit ? args.map(() => false) : null;
    },
    dispatches(step, gpu) {
      const variant = (call: DotCall) => variantFor(call, gpu);
      return convolutionDispatches(result, step, gpu, variant).map((dispatch) => ({ ...dispatch, label }));
    },
  };
}

export const convolutionKernels: ReadonlyMap<string, NamedKernel> = new Map([
  ["conv", convolution("output", "conv")],
  ["convInput", convolution("input", "convInput")],
  ["convKernel", convolution("kernel", "convKernel")],
]);
