/**
 * The GPU of Deno, whose shader compiler is not that of Bun's packages: every primitive against the reference on calls
 * drawn from its domain, large functions with their gradients, and a network that learns the same as on the processor,
 * with the shaders for this device and with those for hardware. Run it with Deno; it ends with an error when a number is
 * wrong. Without an adapter it prints why it is skipped, which with COTANGENT_NEED_WEBGPU=1 is an error.
 */
import { webgpuBackend } from "../../core/backends/webgpu/backend.ts";
import { Context } from "../../core/backends/webgpu/context.ts";
import { type Device, openDevice as openGpu } from "../../core/backends/webgpu/device.ts";
import { webgpuContext } from "../../core/backends/webgpu/open.ts";
import { addDevice, openDevice } from "../../core/trace.ts";
import * as ct from "../../mod.ts";
import { losses } from "../browser/page.ts";
import { assertClose } from "../support/tolerance.ts";
import { type Comparison, compareAll, recorded } from "../webgpu/conformance_core.ts";

/** Largest sizes of drawn axes, and how many calls are drawn with each. */
const SIZES: readonly number[] = [1, 3, 8, 21];
const CALLS = 3;
const LARGE_TOLERANCE = { relative: 2 ** -14, reason: "sums of up to 400,000 terms in two orders" };

/** Sizes at which other shaders are chosen: tiles, several passes, sums in parts, results too long for one workgroup. */
const LARGE: Readonly<Record<string, readonly [f: (...xs: ct.Value[]) => ct.Value, ...shapes: number[][]]>> =
  {
    "a matrix product": [(x, y) => ct.matmul(x, y).tanh(), [192, 200], [200, 130]],
    "a long product": [(x, y) => ct.matmul(x, y), [3, 30_000], [30_000, 2]],
    "a matrix and a vector": [(x, y) => ct.matmul(x, y), [700, 900], [900, 1]],
    convolution: [(x, w) => ct.conv(x, w, { padding: "same" }).relu(), [4, 8, 24, 24], [16, 8, 3, 3]],
    pooling: [(x) => ct.maxPool(x, { window: [2, 2], strides: [2, 2] }), [4, 8, 30, 30]],
    softmax: [(x) => ct.softmax(x), [60, 1500]],
    "sums of rows": [(x) => ct.sum(x, { axis: 1 }), [70, 9000]],
    "sums of columns": [(x) => ct.mean(x, { axis: 0 }), [9000, 70]],
    "one sum": [(x) => ct.sum(x.mul(x)), [400_000]],
    "running sums": [(x) => ct.cumsum(x.mul(0.01)), [50_000]],
    "a transposed copy": [(x) => x.transpose().add(1), [300, 500]],
    sort: [(x) => ct.sort(x), [20_000]],
    take: [(x) => ct.take(x, ct.tensor([5, 3, 5, 999], { dtype: "int32" })).mul(2), [1000, 100]],
  };

/** Large calls and their gradients, on the device and on the processor. */
async function large(name: string): Promise<void> {
  let key = ct.random.key(0) as ct.Value;
  for (const [what, [f, ...shapes]] of Object.entries(LARGE)) {
    const xs = shapes.map((shape) => {
      const [next, own] = ct.random.split(key) as [ct.Value, ct.Value];
      key = next;
      return ct.random.uniform(own, shape, { min: -1, max: 1 });
    });
    const slope = (...ys: ct.Value[]): ct.Value =>
      ct.grad((y: ct.Value) => f(y, ...ys.slice(1)).sum())(ys[0]!);
    const both = ct.jit((...ys: ct.Value[]): ct.Value[] => [f(...ys), slope(...ys)]);
    const there = both(...(await ct.devicePut(xs, "webgpu")));
    const here = both(...xs);
    if (there.some(({ device }) => device !== "webgpu")) throw new Error(`${what} is not on webgpu`);
    const results = await ct.devicePut(there, "cpu");
    results.forEach((x, i) => {
      assertClose(x, here[i]!, `${what}, result ${i}`, LARGE_TOLERANCE);
    });
  }
  console.log(`deno webgpu: ${Object.keys(LARGE).length} large functions with gradients on ${name}`);
}

/** Every primitive with the shaders for this device, or for hardware like it: programs on the processor get others. */
async function conformance(device: Device, isHardware: boolean): Promise<void> {
  if (isHardware) {
    const name = { value: `${device.name}, taken for hardware` };
    Object.defineProperties(device, { name, isSoftware: { value: false } });
    addDevice("webgpu", webgpuBackend(new Context(device, () => 2 ** 30)));
  }
  const gpu = openDevice("webgpu")!;
  const faults: string[] = [];
  let count = 0;
  for (const primitive of ct.primitives()) {
    const comparisons: Comparison[] = [];
    const attempt = async (work: () => unknown): Promise<void> => {
      try {
        await work();
      } catch (error) {
        faults.push(error instanceof Error ? error.message : String(error));
      }
    };
    for (const size of SIZES) {
      for (let i = 0; i < CALLS; i++) {
        const seed = { seed: 7919 * i + size, size };
        await attempt(() => {
          const one = recorded(gpu, primitive, seed, device.canReadSync);
          if (one !== null) comparisons.push(one);
        });
      }
    }
    await attempt(async () => {
      count += await compareAll(comparisons);
    });
  }
  if (faults.length > 0) throw new Error(`${faults.length} calls differ:\n  ${faults.join("\n  ")}`);
  console.log(`deno webgpu: ${count} results on ${device.name}`);
  await large(device.name);
}

/** A network that is trained on both ends at one loss. */
async function training(): Promise<void> {
  const [cpu, webgpu] = [await losses("cpu"), await losses("webgpu")];
  const isSame = webgpu.every((loss, i) => Math.abs(loss - cpu[i]!) <= 1e-4);
  if (!isSame) throw new Error(`the losses are ${webgpu} on webgpu, ${cpu} are needed`);
  if (!(cpu.at(-1)! < cpu[0]! / 10)) throw new Error(`the losses do not fall: ${cpu}`);
  console.log(`deno webgpu: a network ends at a loss of ${webgpu.at(-1)}, on the processor at ${cpu.at(-1)}`);
}

let reason: string | null = null;
try {
  await ct.init("webgpu");
} catch (error) {
  if (globalThis.process?.env["COTANGENT_NEED_WEBGPU"] === "1") throw error;
  reason = error instanceof Error ? error.message : String(error);
  console.error(`skipped: deno webgpu: ${reason}`);
}
if (reason === null) {
  await conformance(webgpuContext()!.device, false);
  await training();
  await conformance(await openGpu(), true);
}
