/**
 * float16 on the GPU: stored where the adapter has shader-f16, computed in float32. The text of shaders is tested without
 * any adapter; numbers where one has the feature, which the software driver of the other tests does not.
 */
import { describe, expect, test } from "bun:test";
import { Aval } from "../../core/aval.ts";
import { reference } from "../../core/backend.ts";
import { namedKernels } from "../../core/backends/webgpu/backend.ts";
import { convolutionDispatches } from "../../core/backends/webgpu/convolution.ts";
import { blockShader, teamShader, tileShader, variantOf } from "../../core/backends/webgpu/dot.ts";
import { type DotCall, dotCall, exchanged } from "../../core/backends/webgpu/dot_call.ts";
import { compile } from "../../core/backends/webgpu/executable.ts";
import type { Capabilities, Dispatch, NamedKernel, Variant } from "../../core/backends/webgpu/kernel.ts";
import { loopDispatches } from "../../core/backends/webgpu/loops.ts";
import { webgpuContext } from "../../core/backends/webgpu/open.ts";
import { bufferBytes, extended } from "../../core/backends/webgpu/wgsl.ts";
import { tensor } from "../../core/create.ts";
import { devicePut } from "../../core/devices.ts";
import { DeviceError } from "../../core/errors.ts";
import * as ops from "../../core/ops.ts";
import { type CallStep, fused } from "../../core/passes/fuse.ts";
import { halvesWidened } from "../../core/passes/halves.ts";
import { evalProgram, type Program, stage } from "../../core/program.ts";
import * as random from "../../core/random.ts";
import { setBackend } from "../../core/trace.ts";
import type { Tensor, Value } from "../../core/value.ts";
import { assertClose, assertSameBits } from "../support/tolerance.ts";
import { gpuBackend, hasGpu, onHost } from "./support.ts";

type Function = (...xs: Value[]) => Value;

/** What a device may say of itself that has shader-f16 and memory of its own. */
const imagined: Capabilities = {
  features: { f16: true, subgroups: false, timestamps: false, subgroupMatrix: false },
  subgroupSize: null,
  limits: {
    maxBufferSize: 2 ** 28,
    maxBindingSize: 2 ** 27,
    maxStorageBuffers: 8,
    maxWorkgroupSize: 256,
    maxWorkgroupBytes: 32768,
    maxGroupsPerDimension: 65535,
  },
  isSoftware: false,
};

function half(...shape: number[]): Aval {
  return new Aval(shape, "float16");
}

function staged(f: Function, avals: readonly Aval[]): Program {
  return stage((...xs) => [f(...xs)], avals);
}

/** The shaders of a program, as the device gets them. */
function textsOf(f: Function, avals: readonly Aval[], gpu: Capabilities): string[] {
  const kernelOf = (name: string): NamedKernel => namedKernels.get(name)!;
  const wide = halvesWidened(staged(f, avals), (name) => kernelOf(name).takesHalves === true);
  const { steps } = fused(wide, (prim, args, outs, params) =>
    prim.kernel?.k === "named" ? kernelOf(prim.kernel.name).prepare(args, outs, params, gpu) : null,
  );
  return steps
    .flatMap((step): readonly Dispatch[] => {
      if (step.k === "loop") return loopDispatches(step, gpu);
      const { kernel } = step.prim;
      if (step.k === "host" || kernel?.k !== "named") throw new Error(`${step.prim.name} runs on the host`);
      return kernelOf(kernel.name).dispatches(step, gpu);
    })
    .map(({ code }) => extended(code));
}

/** Without storage, and without what converts from and to it, nothing is left of the type. */
function withoutStorage(code: string): string {
  return code
    .replace("enable f16;", "")
    .replaceAll(/array<(vec4<f16>|f16)(, \d+)?>/g, "")
    .replaceAll(/vec4<f16>\(|\bf16\(/g, "")
    .replaceAll("-> vec4<f16>", "");
}

describe("shaders", () => {
  for (const gpu of [imagined, { ...imagined, isSoftware: true }]) {
    const where = gpu.isSoftware ? "a processor" : "a GPU";

    test(`of loops on ${where} read and write vectors of float16, and compute in float32`, () => {
      const [code] = textsOf((x, y) => x!.mul(y!).exp(), [half(64, 64), half(64, 64)], gpu);
      expect(code).toStartWith("enable f16;\n");
      expect(code!.match(/array<vec4<f16>>/g)?.length).toBe(3);
      expect(withoutStorage(code!)).not.toMatch(/\bf16\b/);
      const [odd] = textsOf((x) => x!.add(1), [half(7)], gpu);
      expect(odd!.match(/array<f16>/g)?.length).toBe(2);
      // Two roundings of one are the other: nothing is rounded that only chooses.
      const [choice] = textsOf((x) => x!.neg().maximum(0.5), [half(7)], gpu);
      expect(choice).not.toContain("round(");
    });

    test(`of sums on ${where} add in float32`, () => {
      const texts = textsOf((x) => x!.sum(), [half(5000)], gpu);
      expect(texts[0]).toMatch(/array<(vec4<f16>|f16)>/);
      for (const code of texts) expect(withoutStorage(code)).not.toMatch(/\bf16\b/);
    });

    test(`of products on ${where} read float16 and add in float32`, () => {
      const shapes: readonly (readonly [number, number, number])[] = [
        [256, 256, 256],
        [33, 17, 9],
        [512, 512, 1],
        [64, 20_000, 64],
      ];
      for (const [m, k, n] of shapes) {
        const texts = textsOf((x, y) => ops.matmul(x!, y!), [half(m, k), half(k, n)], gpu);
        const inputs = texts[0]!.match(/var<storage, read> [xy]: array<(vec4<f16>|f16)>/g);
        expect(inputs?.length).toBe(2);
        expect(texts.at(-1)).toMatch(/read_write> out: array<(vec4<f16>|f16)>/);
        for (const code of texts) expect(withoutStorage(code)).not.toMatch(/\bf16\b/);
      }
    });

    test(`of convolutions on ${where} read float16`, () => {
      for (const channels of [3, 16]) {
        const texts = textsOf(
          (x, w) => ops.conv(x!, w!, { padding: "same" }),
          [half(2, channels, 9, 9), half(8, channels, 3, 3)],
          gpu,
        );
        expect(texts[0]).toMatch(/var<storage, read> x: array<(vec4<f16>|f16)>/);
        for (const code of texts) expect(withoutStorage(code)).not.toMatch(/\bf16\b/);
      }
    });
  }

  test("buffers are whole words", () => {
    const sizes = [0, 1, 2, 3, 8].map((size) => bufferBytes({ dtype: "float16", size }));
    expect(sizes).toEqual([0, 4, 4, 8, 16]);
  });
});

const hasHalves = hasGpu && webgpuContext()!.gpu.features.f16;
if (hasGpu && !hasHalves) console.log("webgpu: float16 skipped: the adapter has no shader-f16");

describe.skipIf(!hasGpu || hasHalves)("without shader-f16", () => {
  test("the error names the feature and what helps", () => {
    const x = tensor([1], { dtype: "float16" });
    expect(() => gpuBackend().transfers!.put(x)).toThrow(
      new DeviceError(
        "invalid",
        "f16[1]",
        'Cannot put f16[1] on webgpu: the adapter has no shader-f16, float32 is needed; use astype("float32")',
      ).message,
    );
    const y = gpuBackend().transfers!.put(tensor([1]));
    expect(() => y.astype("float16")).toThrow(
      /Cannot compute f16\[1\] on webgpu: the adapter has no shader-f16/,
    );
  });
});

describe.skipIf(!hasHalves)("numbers", () => {
  const numbers = new Float16Array(Uint16Array.from({ length: 65536 }, (_, i) => i).buffer);
  const key = random.key(11);
  const draw = (i: number, ...shape: number[]): Tensor =>
    random.normal(random.foldIn(key, i), shape, { dtype: "float16" }) as Tensor;

  async function onBoth(f: Function, args: readonly Tensor[]): Promise<readonly [gpu: Tensor, host: Tensor]> {
    const previous = setBackend(reference);
    try {
      const expected = f(...args) as Tensor;
      const sent = await devicePut([...args], "webgpu");
      return [await onHost(f(...sent) as Tensor), expected];
    } finally {
      setBackend(previous);
    }
  }

  test("every number goes there and back, and is rounded as on the host", async () => {
    const all = tensor(numbers);
    const between = tensor(
      Float32Array.from(numbers, (x, i) => {
        const next = numbers[i + 1] ?? 0;
        return i % 3 === 0 ? x : ((x + next) / 2) * (1 + ((i % 3) - 1) * 2 ** -23);
      }),
    );
    const cases: readonly (readonly [string, Function, Tensor])[] = [
      ["copies", (x) => ops.flip(x!, { axis: 0 }), all],
      ["wide", (x) => x!.astype("float32"), all],
      ["narrow", (x) => x!.astype("float16"), between],
      ["odd", (x) => x!.add(1), draw(0, 7)],
      ["one", (x) => x!.add(1), draw(0, 1)],
      ["transposed", (x) => x!.transpose(), draw(1, 70, 133)],
      [
        "placed",
        (x) =>
          ops.concat(
            [
              ops.pad(
                x!,
                [
                  [1, 0],
                  [0, 3],
                ],
                0.1,
              ),
              ops.pad(
                x!,
                [
                  [0, 1],
                  [3, 0],
                ],
                7,
              ),
            ],
            { axis: 1 },
          ),
        draw(2, 13, 9),
      ],
    ];
    for (const [what, f, x] of cases) {
      const [actual, expected] = await onBoth(f, [x]);
      assertSameBits(actual, expected, what);
    }
  });

  /** One shader of every kind, whether or not this device would use it, in one part and in several. */
  function variants(call: DotCall, gpu: Capabilities): Variant[] {
    const tile = {
      rows: 16,
      columns: 16,
      depth: 8,
      blockRows: 4,
      blockColumns: 4,
      stages: 2,
      unroll: 2,
    } as const;
    const block = { blockRows: 4, blockColumns: 4 };
    const [inTiles, inBlocks] = [tileShader(call, tile, gpu), blockShader(call, block, gpu)];
    const all = [
      variantOf(call, inTiles, inTiles.cut(1), gpu),
      variantOf(call, inBlocks, inBlocks.cut(3), gpu),
    ];
    const thin = call.n <= call.m ? call : exchanged(call);
    if (thin.n > 4) return all;
    const along = thin.x.along === "free" ? ("columns" as const) : ("rows" as const);
    const team = teamShader(thin, { along, team: 4, size: 16 }, gpu);
    return [...all, variantOf(thin, team, team.cut(1), gpu)];
  }

  test("products in every way", async () => {
    const context = webgpuContext()!;
    const gpu: Capabilities = { ...context.gpu, isSoftware: false };
    const plain: Function = (x, y) => ops.matmul(x!, y!);
    const followed: Function = (x, y) => ops.matmul(x!, y!).mul(0.7).maximum(0).add(y!.sum());
    for (const [f, m, k, n] of [
      [followed, 20, 24, 36],
      [plain, 19, 21, 13],
      [plain, 29, 44, 1],
    ] as const) {
      const args = [draw(3, m, k), draw(4, k, n)];
      const program = staged(
        f,
        args.map(({ aval }) => aval),
      );
      const exact = evalProgram(program, args)[0] as Tensor;
      const dot = namedKernels.get("dot")!;
      for (let which = 0, count = 1; which < count; which++) {
        const one: NamedKernel = {
          ...dot,
          dispatches(step) {
            const all = variants(dotCall(step), gpu);
            count = all.length;
            return all[which]!.dispatches();
          },
        };
        const executable = compile(program, context, new Map([...namedKernels, ["dot", one]]));
        const [actual] = await onHost(executable.run(args));
        assertClose(actual!, exact, `${m} ${k} ${n} by ${which}`);
      }
    }
  });

  test("shaders for a device with memory of its own are accepted", () => {
    const calls: readonly (readonly [Function, ...Aval[]])[] = [
      [(x) => x!.transpose(), half(300, 200)],
      [(x) => x!.softmax(), half(64, 100)],
      [(x) => x!.sum({ axis: 0 }), half(5000, 40)],
      [(x, y) => ops.matmul(x!, y!).tanh(), half(256, 256), half(256, 256)],
      [(x, y) => ops.matmul(x!, y!).mul(2), half(1, 512), half(512, 300)],
      [(x, w) => ops.conv(x!, w!, { strides: [2, 2] }), half(2, 16, 33, 33), half(32, 16, 3, 3)],
    ];
    for (const [f, ...avals] of calls) {
      for (const code of textsOf(f, avals, imagined)) webgpuContext()!.device.shader(code, String(f));
    }
    webgpuContext()!.device.check();
  });

  test("the fastest way to compute a product is found by trying", async () => {
    const x = await devicePut(draw(7, 13, 21), "webgpu");
    const { tuning } = gpuBackend();
    await tuning!.tune(() => ops.matmul(x, x.transpose()), true);
    const table = tuning!.table();
    expect(table.notes.filter((note) => note.includes("f16"))).toEqual([]);
    expect(Object.keys(table.choices).filter((name) => name.startsWith("dot f16 1x13x13x21")).length).toBe(1);
  });

  test("convolutions as a device with memory of its own computes them", async () => {
    const context = webgpuContext()!;
    const gpu: Capabilities = { ...context.gpu, isSoftware: false };
    const conv: NamedKernel = {
      ...namedKernels.get("conv")!,
      dispatches: (step: CallStep) =>
        convolutionDispatches("output", step, gpu, (call) => variants(call, gpu)[1]!),
    };
    for (const channels of [3, 16]) {
      const f: Function = (x, w) => ops.conv(x!, w!, { padding: "same" }).maximum(0);
      const args = [draw(5, 2, channels, 9, 7), draw(6, 8, channels, 3, 3)];
      const program = staged(
        f,
        args.map(({ aval }) => aval),
      );
      const executable = compile(program, context, new Map([...namedKernels, ["conv", conv]]));
      const [actual] = await onHost(executable.run(args));
      assertClose(actual!, evalProgram(program, args)[0] as Tensor, `${channels} channels`);
    }
  });
});
