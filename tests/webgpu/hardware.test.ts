/**
 * Large functions with their gradients, and every primitive, with the shaders for this device and with those for
 * hardware: a processor gets others, so that they would not be tried where there is no hardware.
 */
import { afterAll, describe, expect, test } from "bun:test";
import { webgpuBackend } from "../../core/backends/webgpu/backend.ts";
import { Context } from "../../core/backends/webgpu/context.ts";
import { openDevice as openGpu } from "../../core/backends/webgpu/device.ts";
import { addDevice } from "../../core/trace.ts";
import * as ct from "../../mod.ts";
import { assertClose } from "../support/tolerance.ts";
import { type Comparison, compareAll, recorded } from "./conformance_core.ts";
import { gpuBackend, hasGpu, onHost } from "./support.ts";

const SIZES: readonly number[] = [2, 8, 21];
const TOLERANCE = { relative: 2 ** -14, reason: "sums of up to 400,000 terms in two orders" };

type Large = readonly [f: (...xs: ct.Value[]) => ct.Value, ...shapes: readonly (readonly number[])[]];

/** Sizes at which other shaders are chosen: tiles, several passes, sums in parts, results too long for one workgroup. */
const functions: Readonly<Record<string, Large>> = {
  "a matrix product": [(x, y) => ct.matmul(x!, y!).tanh(), [192, 200], [200, 130]],
  "a long product": [(x, y) => ct.matmul(x!, y!), [3, 30_000], [30_000, 2]],
  "a matrix and a vector": [(x, y) => ct.matmul(x!, y!), [700, 900], [900, 1]],
  convolution: [(x, w) => ct.conv(x!, w!, { padding: "same" }).relu(), [4, 8, 24, 24], [16, 8, 3, 3]],
  pooling: [(x) => ct.maxPool(x!, { window: [2, 2], strides: [2, 2] }), [4, 8, 30, 30]],
  softmax: [(x) => ct.softmax(x!), [60, 1500]],
  "sums of rows": [(x) => ct.sum(x!, { axis: 1 }), [70, 9000]],
  "sums of columns": [(x) => ct.mean(x!, { axis: 0 }), [9000, 70]],
  "one sum": [(x) => ct.sum(x!.mul(x!)), [400_000]],
  "running sums": [(x) => ct.cumsum(x!.mul(0.01)), [50_000]],
  "a transposed copy": [(x) => x!.transpose().add(1), [300, 500]],
  sort: [(x) => ct.sort(x!), [20_000]],
  take: [(x) => ct.take(x!, ct.tensor([5, 3, 5, 999], { dtype: "int32" })).mul(2), [1000, 100]],
};

/** A processor takes long to compile their tiles, which have tests of their own. */
const tiled: readonly string[] = ["a matrix product", "convolution"];

const usual = hasGpu ? gpuBackend() : null;

/** Another device like the open one, taken for one that is no program; null where it is none. */
async function opened(): Promise<Context | null> {
  const device = hasGpu ? await openGpu() : null;
  if (device === null || !device.isSoftware) {
    device?.close();
    return null;
  }
  // Large workgroups with barriers take a processor seconds to compile.
  const limits = {
    ...device.limits,
    maxWorkgroupInvocations: Math.min(64, device.limits.maxWorkgroupInvocations),
  };
  Object.defineProperties(device, { isSoftware: { value: false }, limits: { value: limits } });
  return new Context(device, () => 2 ** 30);
}

const hardware = await opened();
afterAll(() => {
  if (usual !== null) addDevice("webgpu", usual);
  hardware?.close();
});

for (const [kind, backend] of [
  ["for this device", usual],
  ["for hardware", hardware && webgpuBackend(hardware)],
] as const) {
  describe.skipIf(backend === null)(`shaders ${kind}`, () => {
    test("large functions and their gradients are those of the host", async () => {
      expect(hardware?.gpu.isSoftware ?? false).toBe(false);
      addDevice("webgpu", backend!);
      let key: ct.Value = ct.random.key(0);
      for (const [name, [f, ...shapes]] of Object.entries(functions)) {
        if (backend !== usual && tiled.includes(name)) continue;
        const xs = shapes.map((shape) => {
          const [next, own] = ct.random.split(key) as [ct.Value, ct.Value];
          key = next;
          return ct.random.uniform(own, shape, { min: -1, max: 1 });
        });
        const slope = (...ys: ct.Value[]): ct.Value =>
          ct.grad((y: ct.Value) => f(y, ...ys.slice(1)).sum())(ys[0]!);
        const both = ct.jit((...ys: ct.Value[]): ct.Value[] => [f(...ys), slope(...ys)]);
        const there = both(...(await ct.devicePut(xs, "webgpu")));
        expect(there.map(({ device }) => device)).toEqual(["webgpu", "webgpu"]);
        const here = both(...xs);
        (await onHost(there)).forEach((x, i) => {
          assertClose(x, here[i]!, `${name}, result ${i}`, TOLERANCE);
        });
      }
    });

    test("every primitive is that of the reference", async () => {
      // Calls for the device itself are in conformance.test.ts.
      if (backend === usual) return;
      let count = 0;
      for (const primitive of ct.primitives()) {
        const comparisons: Comparison[] = [];
        for (const size of SIZES) {
          const one = recorded(backend!, primitive, { seed: size, size }, hardware!.device.canReadSync);
          if (one !== null) comparisons.push(one);
        }
        count += await compareAll(comparisons);
      }
      expect(count).toBeGreaterThan(ct.primitives().length);
    });
  });
}
