/** Profiles say what ran, and pipelines that were prepared are not made again. */
import { afterAll, describe, expect, spyOn, test } from "bun:test";
import { jit } from "../../autodiff/jit.ts";
import { grad } from "../../autodiff/vjp.ts";
import { Aval } from "../../core/aval.ts";
import type { KernelProfile } from "../../core/backend.ts";
import { namedKernels } from "../../core/backends/webgpu/backend.ts";
import type { Device } from "../../core/backends/webgpu/device.ts";
import { compile, type WebgpuExecutable } from "../../core/backends/webgpu/executable.ts";
import { FAULTS, type NamedKernel, Workspace } from "../../core/backends/webgpu/kernel.ts";
import { webgpuContext } from "../../core/backends/webgpu/open.ts";
import { Recorder } from "../../core/backends/webgpu/profile.ts";
import { ones } from "../../core/create.ts";
import { devicePut } from "../../core/devices.ts";
import { DeviceError, TraceError } from "../../core/errors.ts";
import * as ops from "../../core/ops.ts";
import { type Profile, profile } from "../../core/profile.ts";
import { stage } from "../../core/program.ts";
import type { Tensor, Value } from "../../core/value.ts";
import { assertClose } from "../support/tolerance.ts";
import { hasGpu } from "./support.ts";

const loss = (w: Value, x: Value): Value => ops.tanh(ops.matmul(x, w)).sum();
const shapes = [
  [11, 7],
  [13, 11],
] as const;

/** A step of several kernels, compiled by itself. */
function compiled(): WebgpuExecutable {
  const avals = shapes.map((shape) => new Aval(shape, "float32"));
  const program = stage((w, x) => [grad(loss)(w!, x!), loss(w!, x!)], avals);
  return compile(program, webgpuContext()!, namedKernels);
}

const count = (kernels: readonly KernelProfile[], of: (kernel: KernelProfile) => number): number =>
  kernels.reduce((sum, kernel) => sum + of(kernel), 0);

function expectTotals(report: Profile): void {
  const { kernels, kernelMilliseconds, hostMilliseconds, wallMilliseconds } = report;
  const times = kernels.map(({ milliseconds }) => milliseconds);
  if (times.includes(null)) expect(kernelMilliseconds).toBeNull();
  else
    expect(kernelMilliseconds!).toBeCloseTo(
      times.reduce<number>((sum, time) => sum + time!, 0),
      6,
    );
  expect(hostMilliseconds).toBeLessThanOrEqual(wallMilliseconds);
  for (let i = 1; i < times.length; i++) expect(times[i] ?? 0).toBeLessThanOrEqual(times[i - 1] ?? 0);
  const text = String(report);
  for (const { label } of kernels) expect(text).toContain(label.slice(0, 20));
  expect(text).toContain(`${report.submits} submits, ${report.reads} reads`);
}

describe.skipIf(!hasGpu)("a profile on a GPU", () => {
  test("has every dispatch of a program once, and sums over calls", async () => {
    const executable = compiled();
    const args = await devicePut(
      shapes.map((shape) => ones(shape) as Tensor),
      "webgpu",
    );
    const { dispatches } = executable;
    expect(dispatches.length).toBeGreaterThan(2);
    const bytes = dispatches.reduce((sum, { buffers }) => {
      const sizes = [...new Set(buffers)].map((ref) => {
        if (ref === FAULTS) return 0;
        return ref instanceof Workspace ? ref.bytes : 4 * ref.aval.size;
      });
      return sum + sizes.reduce((a, b) => a + b, 0);
    }, 0);
    for (const runs of [1, 3]) {
      const report = await profile(() => {
        for (let i = 0; i < runs; i++) executable.run(args);
      });
      const labels = new Map<string, number>();
      for (const { label } of dispatches) labels.set(label, (labels.get(label) ?? 0) + runs);
      const seen = new Map<string, number>();
      for (const { label, calls } of report.kernels) seen.set(label, (seen.get(label) ?? 0) + calls);
      expect(seen).toEqual(labels);
      expect(count(report.kernels, (kernel) => kernel.bytes)).toBe(runs * bytes);
      // x w for the gradient and for the loss, since nothing is simplified here, and the gradient itself.
      const operations = count(report.kernels, (kernel) => kernel.operations);
      expect(operations).toBe(runs * 3 * 2 * 11 * 7 * 13);
      for (const { device } of report.kernels) expect(device).toBe("webgpu");
      // Several steps are under way, and none was waited for.
      expect(report.reads).toBe(0);
      expect(report.submits).toBeGreaterThan(0);
      if (webgpuContext()!.device.features.timestamps) expect(report.notes).toEqual([]);
      expectTotals(report);
    }
  });

  test("counts what is sent and read, and nothing that came before or after", async () => {
    const host = ones([5, 4]);
    const x = await devicePut(ones([5, 4]), "webgpu");
    ops.exp(x);
    const report = await profile(async () => {
      await ops.exp(ops.add(x, host)).data();
    });
    expect(report.sentBytes).toBe(80);
    expect(report.readBytes).toBe(80);
    expect(report.reads).toBe(1);
    expect(count(report.kernels, ({ calls }) => calls)).toBe(2);
    ops.exp(x);
    const nothing = await profile(() => {});
    expect(nothing.kernels).toEqual([]);
    expect(nothing.submits).toBe(0);
  });

  test("results are those of runs that nobody watches", async () => {
    const executable = compiled();
    const args = await devicePut(
      shapes.map((shape) => ops.sin(ones(shape)) as Tensor),
      "webgpu",
    );
    const plain = await Promise.all(executable.run(args).map((x) => x.data()));
    let watched: Tensor[] = [];
    await profile(() => {
      watched = executable.run(args);
    });
    expect(await Promise.all(watched.map((x) => x.data()))).toEqual(plain);
  });
});

describe("a profile without timestamps", () => {
  test("counts kernels, and says why it has no times", async () => {
    const sent: number[] = [];
    const device = {
      name: "a device",
      features: { timestamps: false },
      submit: (commands: readonly unknown[]) => void sent.push(commands.length),
      done: async () => {},
    } as unknown as Device;
    const recorder = new Recorder("webgpu", device);
    const work = { label: "dot", result: "f32[2]", bytes: 24, operations: 8 };
    const command = { dispatch: null, group: null, x: 1, work } as never;
    recorder.submit([command, command]);
    recorder.submit([command]);
    const { kernels, notes, submits } = await recorder.finish();
    expect(kernels).toEqual([
      {
        device: "webgpu",
        label: "dot",
        result: "f32[2]",
        calls: 3,
        milliseconds: null,
        bytes: 72,
        operations: 24,
      },
    ]);
    expect(notes.length).toBe(1);
    expect(submits).toBe(2);
    expect(sent).toEqual([2, 1]);
  });
});

describe("a profile on the cpu", () => {
  test("has the steps of compiled programs", async () => {
    const step = jit((x: Value) => ops.tanh(ops.matmul(x, x)).sum());
    const x = ones([32, 32]);
    step(x);
    const once = await profile(() => step(x));
    const thrice = await profile(() => {
      for (let i = 0; i < 3; i++) step(x);
    });
    for (const report of [once, thrice]) expectTotals(report);
    const calls = (report: Profile): number => count(report.kernels, (kernel) => kernel.calls);
    expect(calls(thrice)).toBe(3 * calls(once));
    if (process.env["COTANGENT_BACKEND"] === "reference") return;
    expect(calls(once)).toBeGreaterThan(0);
    expect(once.kernels.some(({ label }) => label.includes("dot"))).toBe(true);
    expect(count(thrice.kernels, ({ bytes }) => bytes)).toBe(3 * count(once.kernels, ({ bytes }) => bytes));
  });

  test("ends with the function, even one that throws", async () => {
    const x = ones([3]);
    const fails = profile(async () => {
      ops.exp(x);
      throw new RangeError("on purpose");
    });
    expect(await fails.catch(String)).toContain("on purpose");
    ops.exp(x);
    expect((await profile(() => {})).kernels).toEqual([]);
  });

  test("is not taken inside another, or inside a transform", async () => {
    let inner: unknown;
    await profile(async () => {
      inner = await profile(() => {}).catch((error: unknown) => error);
    });
    expect(inner).toBeInstanceOf(TraceError);
    let traced: Promise<unknown> = Promise.resolve();
    grad((x: Value) => {
      traced = profile(() => {}).catch((error: unknown) => error);
      return x.sum();
    })(ones([2]));
    expect(await traced).toBeInstanceOf(TraceError);
  });
});

describe("prepare", () => {
  test("on the cpu compiles, and the call that follows records nothing", async () => {
    const f = jit((x: Value) => ops.exp(x).sum());
    await f.prepare(ones([3]));
    expect(f.stats().traces).toBe(1);
    f(ones([3]));
    expect(f.stats()).toMatchObject({ traces: 1, hits: 1 });
  });
});

describe.skipIf(!hasGpu)("prepare on a GPU", () => {
  const spies: { mockRestore(): void }[] = [];
  afterAll(() => {
    for (const spy of spies) spy.mockRestore();
  });
  const watch = (name: "pipeline" | "pipelineAsync") => {
    const spy = spyOn(webgpuContext()!.device, name);
    spies.push(spy);
    return spy;
  };

  test("makes all pipelines once, and the first run makes none", async () => {
    // Shapes that no other test has, so that no text is known.
    const step = jit((w: Value, x: Value) => [grad(loss)(w, x), ops.exp(x)]);
    const [w, x] = await devicePut([ones([17, 19]), ones([23, 17])], "webgpu");
    const made = watch("pipeline");
    const prepared = watch("pipelineAsync");
    await Promise.all([step.prepare(w!, x!), step.prepare(w!, x!)]);
    const texts = prepared.mock.calls.map(([code]) => code);
    expect(texts.length).toBeGreaterThan(2);
    expect(new Set(texts).size).toBe(texts.length);
    const report = await profile(() => step(w!, x!));
    expect(made).not.toHaveBeenCalled();
    expect(prepared).toHaveBeenCalledTimes(texts.length);
    expect(count(report.kernels, ({ calls }) => calls)).toBeGreaterThanOrEqual(texts.length);
    const [slope] = step(w!, x!) as [Value, Value];
    const expected = grad(loss)(ones([17, 19]), ones([23, 17]));
    assertClose(await devicePut(slope, "cpu"), expected, "the gradient of a step that was prepared");
  });

  test("compiling makes no pipeline, and the first run makes those that are missing", async () => {
    const avals = [new Aval([29, 31], "float32")];
    const made = watch("pipeline");
    made.mockClear();
    const program = stage((x) => [ops.exp(ops.cumsum(x!))], avals);
    const executable = compile(program, webgpuContext()!, namedKernels);
    expect(made).not.toHaveBeenCalled();
    const [x] = await devicePut([ones([29, 31]) as Tensor], "webgpu");
    executable.run([x!]);
    const first = made.mock.calls.length;
    expect(first).toBeGreaterThan(0);
    expect(first).toBeLessThanOrEqual(executable.dispatches.length);
    executable.run([x!]);
    expect(made.mock.calls.length).toBe(first);
  });

  test("an error names the equation and the line", async () => {
    const { device } = webgpuContext()!;
    const bad: NamedKernel = {
      prepare: (args) => args.map(() => true),
      dispatches: ({ args, outs }) => {
        const code = `@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@compute @workgroup_size(1) fn main() {
  y[0] = x[0] + missing;
}`;
        const buffers = [args[0]!.slot, outs[0]!];
        return [{ label: "cumsum", code, buffers, groups: [1, 1, 1], operations: 0 }];
      },
    };
    const program = stage((x) => [ops.cumsum(x!)], [new Aval([3], "float32")]);
    const broken = compile(program, webgpuContext()!, new Map([["cumsum", bad]]));
    const x = ones([3]) as Tensor;
    const run = async (): Promise<unknown> => broken.run([x])[0]!.data();
    for (const attempt of [() => broken.prepare(), run]) {
      const error = await attempt().then(
        () => null,
        (thrown: unknown) => thrown,
      );
      expect(error).toBeInstanceOf(DeviceError);
      await device.done().catch(() => {});
      // A host that hears of a refusal later may first hear of what followed from it.
      if (attempt === run && !device.canReadSync) continue;
      expect((error as DeviceError).message).toContain("Cannot compile cumsum: ");
      expect((error as DeviceError).label).toBe("cumsum");
      expect((error as DeviceError).message).toContain("y[0] = x[0] + missing;");
      expect((error as DeviceError).message).toMatch(/:4:\d+/);
    }
  });
});
