/**
 * Matrix products of the WebGPU backend: every shader that it would consider, beside each other, in the order in which it
 * would. Each result is compared with a few elements computed in float64.
 *
 *     bun bench/gpu_dot.ts                        squares and thin shapes that suit the device
 *     bun bench/gpu_dot.ts 512 4096               squares of these sizes
 *     bun bench/gpu_dot.ts 64x64x100000 1000x4x64 m x n x k; with "t" after m or n the operand is transposed: 64tx64x9
 *     --adapter NAME   the adapter with that name        --all   also the shaders for other kinds of device
 *     --best N         only the first N shaders
 */
import { parseArgs } from "node:util";
import { Aval } from "../core/aval.ts";
import type { GpuBuffer } from "../core/backends/webgpu/api.ts";
import type { DeviceArray } from "../core/backends/webgpu/context.ts";
import { candidates, type Variant } from "../core/backends/webgpu/dot.ts";
import { type DotCall, dotCall, keyOf, operationsOf } from "../core/backends/webgpu/dot_call.ts";
import type { BufferRef, Capabilities } from "../core/backends/webgpu/kernel.ts";
import { openWebgpu, webgpuContext } from "../core/backends/webgpu/open.ts";
import type { Layout } from "../core/kernel.ts";
import { type CallStep, Slot } from "../core/passes/fuse.ts";
import { dotP } from "../core/prims/contract.ts";

/** How long one sample takes at least, and how many there are. */
const SAMPLE_MS = 40;
const SAMPLES = 7;

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { adapter: { type: "string" }, all: { type: "boolean" }, best: { type: "string" } },
});
await openWebgpu(values.adapter === undefined ? {} : { adapter: values.adapter });
const context = webgpuContext()!;
const { gpu } = context;
const other: Capabilities = { ...gpu, isSoftware: !gpu.isSoftware };

const usual: readonly string[] = gpu.isSoftware
  ? ["256", "512", "512x1x512", "1x512x512", "32x32x16384"]
  : [
      "256",
      "512",
      "1024",
      "2048",
      "4096",
      "8192",
      "4096tx4096x4096",
      "4096x4096tx4096",
      "4095x4095x4095",
    ].concat(
      ["8192x1x8192", "1x8192x8192", "8192tx1x8192", "128x512x784", "784tx512x128", "64x64x262144"],
      ["100x1x1000000", "1x1x10000000", "65536x4x1024", "65536x16x256", "1024x1024x4"],
    );

interface Extent {
  readonly name: string;
  readonly m: number;
  readonly n: number;
  readonly k: number;
  readonly isTurned: readonly [x: boolean, y: boolean];
}

function extentOf(name: string): Extent {
  const square = /^\d+$/.test(name);
  const parts = /^(\d+)(t?)x(\d+)(t?)x(\d+)$/.exec(square ? `${name}x${name}x${name}` : name);
  if (!parts)
    throw new RangeError(`Cannot measure "${name}": a size or m x n x k such as 64x64tx100 is needed`);
  const [, m, x, n, y, k] = parts;
  return { name, m: Number(m), n: Number(n), k: Number(k), isTurned: [x === "t", y === "t"] };
}

function layoutOf(rows: number, columns: number, isTurned: boolean): Layout {
  return { shape: [rows, columns], offset: 0, strides: isTurned ? [1, rows] : [columns, 1] };
}

function stepOf({ m, n, k, isTurned }: Extent): CallStep {
  const slot = (rows: number, columns: number, origin: "input" | "step"): Slot =>
    new Slot(new Aval([rows, columns], "float32"), origin);
  return {
    k: "named",
    prim: dotP,
    params: { contract: [[1], [0]], batch: [[], []] },
    args: [
      { slot: slot(m, k, "input"), layout: layoutOf(m, k, isTurned[0]) },
      { slot: slot(k, n, "input"), layout: layoutOf(k, n, isTurned[1]) },
    ],
    outs: [slot(m, n, "step")],
    epilogue: null,
  };
}

/** Numbers in [-1, 1) that repeat after a prime number of elements. */
function numbers(size: number): Float32Array {
  let state = 1;
  const few = Float32Array.from({ length: Math.min(size, 99_991) }, () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) | 0;
    return state / 2 ** 31;
  });
  const all = new Float32Array(size);
  for (let at = 0; at < size; at += few.length) all.set(few.subarray(0, size - at), at);
  return all;
}

/** The largest error of some elements, in units of the last place of the sum of absolute values. */
function errorOf(
  { m, n, k }: Extent,
  layouts: readonly Layout[],
  [x, y, z]: readonly Float32Array[],
): number {
  const element = (data: Float32Array, { strides }: Layout, i: number, j: number): number =>
    data[i * strides[0]! + j * strides[1]!]!;
  let worst = 0;
  for (let s = 0; s < 24; s++) {
    const i = s === 0 ? m - 1 : (s * 7919) % m;
    const j = s === 0 ? n - 1 : (s * 104_729) % n;
    let [sum, size] = [0, 0];
    for (let l = 0; l < k; l++) {
      const product = element(x!, layouts[0]!, i, l) * element(y!, layouts[1]!, l, j);
      sum += product;
      size += Math.abs(product);
    }
    worst = Math.max(worst, Math.abs(z![i * n + j]! - sum) / size / 2 ** -24);
  }
  return worst;
}

interface Measured {
  readonly milliseconds: number;
  readonly compileMs: number;
  readonly error: number;
}

async function measure(
  { dispatches }: Variant,
  extent: Extent,
  step: CallStep,
  inputs: readonly [Float32Array, Float32Array],
  arrays: readonly DeviceArray[],
): Promise<Measured> {
  const buffers = new Map<BufferRef, GpuBuffer>();
  [...step.args.map(({ slot }) => slot), step.outs[0]!].forEach((slot, i) => {
    buffers.set(slot, arrays[i]!.block.buffer);
  });
  const spaces: DeviceArray[] = [];
  const start = performance.now();
  const commands = dispatches().map(({ code, label, groups: [x, y, z], buffers: refs }) => {
    for (const ref of refs) {
      if (buffers.has(ref) || typeof ref === "symbol" || ref instanceof Slot) continue;
      const space = context.makeArray("float32", ref.bytes / 4, () => "parts");
      spaces.push(space);
      buffers.set(ref, space.block.buffer);
    }
    const dispatch = context.pipeline(code, label);
    const group = context.group(
      dispatch,
      refs.map((ref) => buffers.get(ref)!),
    );
    return { dispatch, group, x, y, z };
  });
  const run = async (times: number): Promise<number> => {
    const from = performance.now();
    for (let i = 0; i < times; i++) context.record(commands);
    context.flush();
    await context.device.done();
    return performance.now() - from;
  };
  await run(1);
  const compileMs = performance.now() - start;
  const [z] = await context.read([arrays[2]!]);
  const error = errorOf(
    extent,
    step.args.map(({ layout }) => layout),
    [...inputs, z as Float32Array],
  );
  let times = 1;
  for (let took = await run(1); took < SAMPLE_MS && times < 4096; took = await run(times))
    times = Math.ceil(times * Math.min(8, Math.max(1.5, (1.2 * SAMPLE_MS) / took)));
  const samples: number[] = [];
  for (let i = 0; i < SAMPLES; i++) samples.push((await run(times)) / times);
  samples.sort((a, b) => a - b);
  for (const { group } of commands) context.device.releaseBindGroup(group);
  for (const space of spaces) context.release(space);
  return { milliseconds: samples[SAMPLES >> 1]!, compileMs, error };
}

function variantsOf(call: DotCall): readonly Variant[] {
  const list = [...candidates(call, gpu), ...(values.all ? candidates(call, other) : [])];
  const all = [...new Map(list.map((variant) => [variant.name, variant])).values()];
  return all.slice(0, values.best === undefined ? undefined : Number(values.best));
}

console.log(`${context.device.name}, through ${context.device.host}`);
for (const name of positionals.length > 0 ? positionals : usual) {
  const extent = extentOf(name);
  const { m, n, k } = extent;
  const step = stepOf(extent);
  const call = dotCall(step);
  const inputs = [numbers(m * k), numbers(k * n)] as const;
  const arrays = [m * k, k * n, m * n].map((size) => context.makeArray("float32", size, () => name));
  inputs.forEach((data, i) => {
    context.write(arrays[i]!, data);
  });
  console.log(`\n${name}: ${keyOf(call)}`);
  for (const variant of variantsOf(call)) {
    const { milliseconds, compileMs, error } = await measure(variant, extent, step, inputs, arrays);
    const cells = [
      variant.name.padEnd(44),
      `${(operationsOf(call) / milliseconds / 1e6).toPrecision(4)} GFLOP/s`.padStart(16),
      `${((4 * (m * k + k * n + m * n)) / milliseconds / 1e6).toPrecision(3)} GB/s`.padStart(12),
      `${milliseconds.toPrecision(3)} ms`.padStart(11),
      `first run ${compileMs.toFixed(0)} ms`.padStart(18),
      `error ${error.toFixed(1)}`,
      error > k ? "WRONG" : "",
    ];
    console.log(cells.join("  "));
  }
  for (const array of arrays) context.release(array);
}
context.close();
