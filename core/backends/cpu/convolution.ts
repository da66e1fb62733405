/** Plans of convolution and its two transposes, for images of one or two dimensions. */
import { bytesPerElement } from "../../dtype.ts";
import { invariant } from "../../errors.ts";
import type { ConvMemberParams } from "../../prims/conv.ts";
import { type Shape, sizeOf } from "../../shape.ts";
import type { ModuleBuilder } from "./assembler.ts";
import {
  addConv,
  COLUMN_BYTES,
  CONV_WORDS,
  type ConvRole,
  type ConvWord,
  type Multiplier,
  SUM_WORDS,
  sumOfParts,
} from "./conv_kernels.ts";
import type { Engine } from "./engine.ts";
import { argumentsOf, isFused, libraryFor, loadOnce, PARALLEL_FROM, productSettings } from "./gemm.ts";
import { type GemmType, isGemmType, lanesOf } from "./gemm_kernels.ts";
import type { NamedCall, NamedKernel, NamedPlan } from "./named.ts";
import { PRODUCT_WORDS, type ProductWord } from "./product_words.ts";

/** Sizes of a call, with channels per group; a line is an image of height 1. */
interface Sizes {
  readonly images: number;
  readonly groups: number;
  readonly channels: number;
  readonly outs: number;
  readonly height: number;
  readonly width: number;
  readonly kernelHeight: number;
  readonly kernelWidth: number;
  readonly outHeight: number;
  readonly outWidth: number;
  readonly strideY: number;
  readonly strideX: number;
  readonly dilationY: number;
  readonly dilationX: number;
  readonly inputDilationY: number;
  readonly inputDilationX: number;
  readonly lowY: number;
  readonly lowX: number;
}

/** Which operand plays which role in the member that returns one. */
const operandsOf: Readonly<Record<ConvRole, readonly [ConvRole, ConvRole]>> = {
  output: ["input", "kernel"],
  input: ["output", "kernel"],
  kernel: ["input", "output"],
};

function sizesOf(role: ConvRole, { args, outs, params }: NamedCall): Sizes {
  // The records of these names have these parameters.
  const { strides, padding, dilation, inputDilation, groups } = params as ConvMemberParams;
  const shapes: Partial<Record<ConvRole, Shape>> = { [role]: outs[0]!.shape };
  operandsOf[role].forEach((operand, i) => {
    shapes[operand] = args[i]!.layout.shape;
  });
  const { input, kernel, output } = shapes as Readonly<Record<ConvRole, Shape>>;
  const isLine = input.length === 3;
  const two = (list: readonly number[], missing: number): readonly [number, number] =>
    isLine ? [missing, list[0]!] : [list[0]!, list[1]!];
  const [height, width] = two(input.slice(2), 1);
  const [kernelHeight, kernelWidth] = two(kernel.slice(2), 1);
  const [outHeight, outWidth] = two(output.slice(2), 1);
  const [strideY, strideX] = two(strides, 1);
  const [dilationY, dilationX] = two(dilation, 1);
  const [inputDilationY, inputDilationX] = two(inputDilation, 1);
  const [lowY, lowX] = two(
    padding.map(([low]) => low),
    0,
  );
  return {
    ...{ images: input[0]!, groups, channels: kernel[1]!, outs: kernel[0]! / groups },
    ...{ height, width, kernelHeight, kernelWidth, outHeight, outWidth },
    ...{ strideY, strideX, dilationY, dilationX, inputDilationY, inputDilationX, lowY, lowX },
  };
}

/** How the work is cut; the number of threads does not matter. */
interface Cut {
  /** Channels, and rows of the output, whose columns are made at once. */
  readonly part: number;
  readonly band: number;
  /** Images whose kernels are summed at once. */
  readonly share: number;
  readonly isPointwise: boolean;
}

/** Columns leave room in the second cache for the packed block of a product. */
const SOFT_COLUMN_BYTES = 2 ** 18;
/** Fewer columns than this are no matrix product to speak of. */
const LEAST_CELLS = 64;
/** Parts of this many channels are enough for many threads. */
const MOST_CHANNELS = 64;
/** Sums over shares of the images, if their partial kernels are not large. */
const SHARES = 8;
const PARTIAL_BYTES = 2 ** 23;

/** Null where the columns of one row of one channel do not fit. */
function cutOf(role: ConvRole, sizes: Sizes, bytes: number): Cut | null {
  const { images, channels, outs, kernelHeight, kernelWidth, outHeight, outWidth, groups } = sizes;
  const taps = kernelHeight * kernelWidth;
  const line = taps * outWidth * bytes;
  if (line > COLUMN_BYTES) return null;
  const isPointwise =
    taps === 1 &&
    sizes.strideY * sizes.strideX * sizes.inputDilationY * sizes.inputDilationX === 1 &&
    sizes.lowY === 0 &&
    sizes.lowX === 0 &&
    sizes.height === outHeight &&
    sizes.width === outWidth;
  const kernelBytes = groups * outs * channels * taps * bytes;
  const shares = Math.min(images, SHARES, Math.max(1, Math.floor(PARTIAL_BYTES / kernelBytes)));
  const share = Math.ceil(images / shares);
  const fewest = Math.min(outHeight, Math.ceil(LEAST_CELLS / outWidth));
  const fitting = Math.max(1, Math.floor(SOFT_COLUMN_BYTES / line));
  // All channels at once sum an output in one go; the other members lose nothing by parts.
  const wanted = role === "output" ? channels : Math.min(channels, MOST_CHANNELS);
  const part = isPointwise ? wanted : Math.min(wanted, Math.max(1, Math.floor(fitting / fewest)));
  const longest = Math.min(outHeight, Math.max(1, Math.floor(fitting / (isPointwise ? 1 : part))));
  // Bands of about equal height.
  const band = Math.ceil(outHeight / Math.ceil(outHeight / longest));
  return { part, band, share, isPointwise };
}

/** The product of one part, [m, k] by [k, n], and the strides that all parts share; 0 = it depends on the part. */
interface PartProduct {
  readonly m: number;
  readonly n: number;
  readonly k: number;
  readonly aRow: number;
  readonly aColumn: number;
  readonly bRow: number;
  readonly bColumn: number;
  readonly cRow: number;
}

function partProduct(role: ConvRole, sizes: Sizes, { part, band }: Cut): PartProduct {
  const taps = sizes.kernelHeight * sizes.kernelWidth;
  const [rows, cells, area] = [part * taps, band * sizes.outWidth, sizes.outHeight * sizes.outWidth];
  const { outs } = sizes;
  const perOut = sizes.channels * taps;
  switch (role) {
    case "output":
      return { m: outs, n: cells, k: rows, aRow: perOut, aColumn: 1, bRow: 0, bColumn: 1, cRow: area };
    case "input":
      return { m: rows, n: cells, k: outs, aRow: 1, aColumn: perOut, bRow: area, bColumn: 1, cRow: 0 };
    case "kernel":
      return { m: outs, n: rows, k: cells, aRow: area, aColumn: 1, bRow: 1, bColumn: 0, cRow: perOut };
    default:
      return role satisfies never;
  }
}

/** Up to so many columns, sums are fastest with neither operand packed. */
const INNER_COLUMNS = 32;

/**
 * Columns that a product takes at once, where those of the kernels are too many or too few. Up to a million
 * multiplications, OpenBLAS's AVX-512 kernels pack nothing: 64 x 48 x 288 is 1.14 times as fast as 64 x 144 x 288; but
 * transposed columns gain nothing.
 */
function widthOf(multiplier: Multiplier, { m, n, k, bColumn }: PartProduct): number | null {
  if (multiplier === "packed") return null;
  const wide = multiplier === "inner" || bColumn !== 1 ? 0 : Math.floor(1e6 / (m * k) / 16) * 16;
  return wide < 32 ? n : wide;
}

function planConv(role: ConvRole, call: NamedCall, engine: Engine, dtype: GemmType): NamedPlan {
  const bytes = bytesPerElement(dtype);
  const outSize = call.outs[0]!.size;
  const { heap } = engine;
  if (call.args.some(({ layout }) => sizeOf(layout.shape) === 0) || outSize === 0)
    return { workspaceBytes: 0, run: (_, [out]) => void heap.u8.fill(0, out!, out! + outSize * bytes) };
  const sizes = sizesOf(role, call);
  const cut = cutOf(role, sizes, bytes);
  invariant(cut, "a call that was prepared has a plan");
  const product = partProduct(role, sizes, cut);
  const { m, n, k } = product;
  const library = libraryFor(engine, dtype, m * n * k);
  const own = role === "kernel" && n <= INNER_COLUMNS ? "inner" : "packed";
  const multiplier: Multiplier = library === null ? own : dtype === "float32" ? "sgemm" : "dgemm";

  const template = argumentsOf<ProductWord>(engine, PRODUCT_WORDS);
  for (const name of ["aRow", "aColumn", "bRow", "bColumn", "cRow"] as const)
    template.set(name, product[name] * bytes);
  const settings = productSettings(dtype, product);
  for (const name of ["tall", "deep", "packsA", "packsB"] as const) template.set(name, settings[name]);
  template.set("wide", widthOf(multiplier, product) ?? settings.wide);

  const { images, groups, outs, channels, outHeight, outWidth, kernelHeight, kernelWidth } = sizes;
  const parts = Math.ceil(channels / cut.part);
  const bands = Math.ceil(outHeight / cut.band);
  const shares = Math.ceil(images / cut.share);
  const { at, set } = argumentsOf<ConvWord>(engine, CONV_WORDS);
  // Every size has its word.
  for (const [name, value] of Object.entries(sizes)) set(name as keyof Sizes, value);
  set("template", template.at);
  set("part", cut.part);
  set("parts", parts);
  set("band", cut.band);
  set("bands", bands);
  set("share", cut.share);
  set("isPointwise", cut.isPointwise ? 1 : 0);

  const name = `${role} of ${dtype}, ${multiplier}`;
  const write = (module: ModuleBuilder): void =>
    addConv(module, name, role, dtype, isFused(engine), multiplier);
  const kernel = loadOnce(engine, name, write, library);
  const pieces = { output: images * bands, input: images * parts, kernel: shares * parts }[role];
  const work = images * groups * outs * outHeight * outWidth * channels * kernelHeight * kernelWidth;
  const words = [...operandsOf[role], role].map((operand) => at / 4 + CONV_WORDS.indexOf(operand));
  const run = (...pointers: readonly number[]): void => {
    words.forEach((word, i) => {
      heap.u32[word] = pointers[i]!;
    });
    engine.run(kernel, pieces * groups, 1, at, work >= PARALLEL_FROM);
  };
  if (role !== "kernel" || shares === 1)
    return { workspaceBytes: 0, run: ([a, b], [out]) => run(a!, b!, out!) };
  const sum = planSum(engine, dtype, outSize, shares);
  return {
    workspaceBytes: shares * outSize * bytes,
    run([a, b], [out], workspace) {
      run(a!, b!, workspace);
      sum(workspace, out!);
    },
  };
}

/** to[i] = sum over p of from[p size + i], for `count` parts. */
function planSum(
  engine: Engine,
  dtype: GemmType,
  size: number,
  count: number,
): (from: number, to: number) => void {
  const { at, set } = argumentsOf<(typeof SUM_WORDS)[number]>(engine, SUM_WORDS);
  set("size", size);
  set("count", count);
  const name = `sum of parts of ${dtype}`;
  const kernel = loadOnce(engine, name, (module) => void module.add(name, sumOfParts(dtype)));
  const { u32 } = engine.heap;
  const vectors = Math.ceil(size / lanesOf[dtype].lanes);
  return (from, to) => {
    u32[at / 4 + SUM_WORDS.indexOf("from")] = from;
    u32[at / 4 + SUM_WORDS.indexOf("to")] = to;
    engine.run(kernel, vectors, 1, at, size * count >= PARALLEL_FROM);
  };
}

/** The kernel of the member that returns a role. */
function member(role: ConvRole): NamedKernel {
  return {
    prepare(call) {
      const { dtype, layout } = call.args[0]!;
      if (layout.shape.length > 4 || !isGemmType(dtype)) return null;
      return cutOf(role, sizesOf(role, call), bytesPerElement(dtype)) && [true, true];
    },
    // `prepare` gave null for other types.
    plan: (call, engine) => planConv(role, call, engine, call.args[0]!.dtype as GemmType),
  };
}

export const convKernel: NamedKernel = member("output");
export const convInputKernel: NamedKernel = member("input");
export const convKernelKernel: NamedKernel = member("kernel");
