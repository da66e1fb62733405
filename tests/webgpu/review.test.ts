/**
 * The whole WebGPU backend where its parts meet: random programs with donation and constants on the device, what happens
 * after the device refuses commands, memory that is nearly full, and a device that opens and closes.
 */
import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { jit } from "../../autodiff/jit.ts";
import { jvp } from "../../autodiff/jvp.ts";
import { linearize } from "../../autodiff/linearize.ts";
import { hessianOperator } from "../../autodiff/operator.ts";
import { grad, vjp } from "../../autodiff/vjp.ts";
import { BufferUsage } from "../../core/backends/webgpu/api.ts";
import { namedKernels } from "../../core/backends/webgpu/backend.ts";
import type { Context } from "../../core/backends/webgpu/context.ts";
import { compile } from "../../core/backends/webgpu/executable.ts";
import { webgpuContext } from "../../core/backends/webgpu/open.ts";
import { tensor, zeros, zerosLike } from "../../core/create.ts";
import { devicePut } from "../../core/devices.ts";
import { isFloat } from "../../core/dtype.ts";
import { DeviceError } from "../../core/errors.ts";
import { argmax, conv, matmul } from "../../core/ops.ts";
import { type Atom, evalProgram, type Program, stage } from "../../core/program.ts";
import { adopt } from "../../core/trace.ts";
import { flatten } from "../../core/tree.ts";
import { storage, Tensor, type Value } from "../../core/value.ts";
import { list } from "../optim/numbers.ts";
import { SeededDraw, seeds } from "../support/arbitrary_tensor.ts";
import { typedProgram } from "../support/arbitrary_typed_program.ts";
import { propWith } from "../support/prop.ts";
import { type Approximate, assertApproximates, largest } from "../support/rounding.ts";
import { root, runModule } from "./child.ts";
import { gpuBackend, hasGpu, onHost } from "./support.ts";

// --- random programs ---------------------------------------------------------------------------------------------

const stepped = new Set(
  "floor ceil round sign cast equal notEqual less lessEqual argmax argmin sort maxPoolIndex".split(" "),
);
/** What the device may be off by in quotients and roots, and what is made of them. */
const DIVIDED = 2 ** -17;

const divides = ({ eqns }: Program): boolean =>
  eqns.some(({ prim, outs }) => ["div", "sqrt", "rsqrt"].includes(prim.name) && isFloat(outs[0]!.aval.dtype));

function isRefused(program: Program): boolean {
  const { ins, eqns, outs } = program;
  const atoms = [...ins, ...outs, ...eqns.flatMap((eqn) => [...eqn.ins, ...eqn.outs])];
  if (atoms.some((atom) => atom?.aval.dtype === "float64")) return true;
  return divides(program) && eqns.some(({ prim }) => stepped.has(prim.name));
}

const copy = (x: Tensor): Tensor => adopt(storage(x).slice(), x.shape, x.dtype);
const sent = (x: Tensor): Tensor => gpuBackend().transfers!.put(copy(x));

/** The program with some of its constants on the device. */
function withConstants({ ins, eqns, outs }: Program, draw: SeededDraw): Program {
  const moved = new Map<Tensor, Tensor>();
  const placed = <A extends Atom | null>(atom: A): A | Tensor => {
    if (!(atom instanceof Tensor)) return atom;
    const there = moved.get(atom) ?? (draw.bool() ? sent(atom) : atom);
    moved.set(atom, there);
    return there;
  };
  return {
    ins,
    eqns: eqns.map((eqn) => ({ ...eqn, ins: eqn.ins.map(placed) })),
    outs: outs.map(placed),
  };
}

let ran = 0;

async function compareRuns(seed: { readonly seed: number; readonly size: number }): Promise<void> {
  const { program: drawn, args, expected } = typedProgram(seed, { length: 10 });
  if (isRefused(drawn)) return;
  const draw = new SeededDraw(seed);
  const program = withConstants(drawn, draw);
  const more = divides(drawn) ? DIVIDED : 0;
  const check = (actual: readonly Value[], wanted: readonly Approximate[], what: string): void => {
    wanted.forEach(({ value, error }, i) => {
      const bound = isFloat(value.dtype) ? error + more * Math.max(1, largest(value)) : error;
      assertApproximates(actual[i] as Tensor, { value, error: bound }, `${what} ${i}`);
    });
  };
  const positions = args.map((_, i) => i).filter(() => draw.bool());
  // The last of these are other names of what is given or computed already.
  const f = jit(
    (...xs: Value[]): Value[] => {
      const outs = evalProgram(program, xs) as Value[];
      const last = xs.at(-1)!;
      return [...outs, outs[0]!.reshape([outs[0]!.size]), xs[0]!, last.reshape([last.size])];
    },
    { donate: positions },
  );
  const [first, last] = [args[0]!, args.at(-1)!];
  const flat = (x: Tensor): Tensor => adopt(storage(x).slice(), [x.size], x.dtype);
  const wanted: Approximate[] = [
    ...expected,
    { ...expected[0]!, value: flat(expected[0]!.value) },
    { value: first, error: 0 },
    { value: flat(last), error: 0 },
  ];
  const executable = gpuBackend().compile(program);
  const mixed = args.map((x) => (draw.bool() ? sent(x) : x));
  const runs: (readonly Value[])[] = [executable.run(mixed), executable.run(args), executable.run(mixed)];
  const calls = Array.from({ length: 3 }, () => {
    const given = args.map((x, i) => (i === 0 || draw.bool() ? sent(x) : copy(x)));
    return f(...given);
  });
  const results = await onHost({ runs, calls });
  results.runs.forEach((outs) => {
    check(outs, expected, "run");
  });
  results.calls.forEach((outs) => {
    check(outs, wanted, "call");
  });
  ran++;
}

describe.skipIf(!hasGpu)("random programs", () => {
  const name = "runs and donating calls agree with the reference, with operands and constants anywhere";
  propWith({ runs: 60 }, name, seeds(3), compareRuns);

  test("there were some", () => {
    expect(ran).toBeGreaterThan(20);
  });
});

// --- what no shader can have -------------------------------------------------------------------------------------

describe.skipIf(!hasGpu)("float64 in a program on the device", () => {
  const wide = tensor([1, 2, 3], { dtype: "float64" });
  const cases: Readonly<Record<string, (x: Value) => unknown>> = {
    "an input that is cast": (x) => jit((a: Value, b: Value) => a.add(b.astype("float32")))(x, wide),
    "an input of a function without a shader for it": (x) =>
      jit((a: Value, b: Value) => [a.add(1), argmax(b)])(x, wide),
    "a constant": (x) => jit((a: Value) => a.add(wide.astype("float32")))(x),
    "an input of a gradient": (x) =>
      jit(grad((a: Value, b: Value) => a.mul(b.astype("float32")).sum()))(x, wide),
  };
  for (const [name, run] of Object.entries(cases)) {
    test(`${name} is refused or right, never read as something else`, async () => {
      const x = await devicePut(tensor([1, 1, 1]), "webgpu");
      const compute = async (): Promise<unknown> => {
        const [out] = [run(x)].flat() as Value[];
        return Array.from(await out!.data());
      };
      if (name === "a constant") expect(await compute()).toEqual([2, 3, 4]);
      else await expect(compute()).rejects.toThrow("float64");
    });
  }
});

// --- zeros -------------------------------------------------------------------------------------------------------

describe.skipIf(!hasGpu)("derivatives that are zero everywhere", () => {
  const constant = (x: Value): Value => zerosLike(x).sum();
  const half = (p: { readonly a: Value; readonly b: Value }): Value => p.a.mul(p.a).sum();

  test("are beside what they are derivatives at", async () => {
    const [a, b, steps] = await devicePut(
      [tensor([1, 2]), tensor(3), tensor([4, 5], { dtype: "int32" })] as const,
      "webgpu",
    );
    const derivatives = {
      grad: grad(half)({ a, b }),
      "grad in a jit": jit(grad(half))({ a, b }),
      "vjp with integers": vjp((x: Value, _: Value) => x.mul(2), a, steps)[1](a),
      jvp: jvp((x: Value) => [x.mul(3), tensor(1).add(b)], [a], [a])[1],
      linearize: linearize((x: Value) => [x.mul(3), b.add(1)], a)[1](a),
      operator: hessianOperator(constant, a).apply(a),
    };
    const [found] = flatten(derivatives);
    expect(found.map(({ device }) => device)).toEqual(found.map(() => "webgpu"));
    const host = await onHost(derivatives);
    expect(list(host.grad.b)).toEqual([0]);
    expect(list(host.operator)).toEqual([0, 0]);
    expect(list(host["vjp with integers"][1])).toEqual([0, 0]);
    expect(host["vjp with integers"][1].dtype).toBe("int32");
  });

  test("are on the host for tensors of the host", () => {
    expect(grad(half)({ a: tensor([1, 2]), b: tensor(3) }).b.device).toBe("cpu");
  });
});

// --- buffers -----------------------------------------------------------------------------------------------------

describe.skipIf(!hasGpu)("plans", () => {
  /** The open device, as if it took no more buffers than this in a dispatch. */
  const withBuffers = (most: number): Context => {
    const context = webgpuContext()!;
    const gpu = { ...context.gpu, limits: { ...context.gpu.limits, maxStorageBuffers: most } };
    return Object.create(context, { gpu: { value: gpu } }) as Context;
  };
  const chain =
    (product: (xs: readonly Value[]) => Value) =>
    (...xs: Value[]): Value[] => {
      const result = product(xs);
      const y = xs.reduce((sum, x) => (x.size === result.size ? sum.mul(x).add(1) : sum), result);
      return [y, y.sin(), result];
    };

  test("an epilogue that reads the operands again counts their buffers twice", () => {
    const square = zeros([16, 16]).aval;
    const [image, kernel] = [zeros([2, 3, 9, 9]).aval, zeros([3, 3, 3, 3]).aval];
    let most = 0;
    for (const limit of [4, 6, 8, 10]) {
      for (let n = 2; n < 10; n++) {
        const rest = Array.from({ length: n }, () => square);
        const product = stage(
          chain(([x, w]) => matmul(x!, w!)),
          [square, ...rest],
        );
        const filtered = stage(
          chain(([x, w]) => conv(x!, w!, { padding: "same" })),
          [image, kernel, ...rest.map(() => image)],
        );
        for (const program of [product, filtered]) {
          const { dispatches } = compile(program, withBuffers(limit), namedKernels);
          for (const { buffers } of dispatches) {
            expect(buffers.length).toBeLessThanOrEqual(limit);
            most = Math.max(most, buffers.length);
          }
        }
      }
    }
    expect(most).toBe(10);
  });

  test("an intermediate result asks for its bytes, not for those of a block, which no buffer may have", () => {
    const program = stage((a: Value) => [matmul(a.add(1).cos(), a.transpose()).sum()], [zeros([5, 60]).aval]);
    const text = compile(program, webgpuContext()!, namedKernels).show();
    // cos(x + 1): 300 words; the product: 25.
    expect(text).toContain("of 1300 bytes");
  });
});

// --- refusals ----------------------------------------------------------------------------------------------------

describe.skipIf(!hasGpu)("after the device refused commands", () => {
  /** Makes the device refuse what is sent with this. */
  const refused = (context: Context): void => {
    const source = context.device.createBuffer(64, BufferUsage.STORAGE, "no source");
    context.record([{ copy: source, fromOffset: 0, to: context.faults, toOffset: 8, bytes: 4 }]);
  };
  const outcome = async (f: () => unknown): Promise<string> => {
    try {
      const x = (await f()) as Value;
      return Array.from(await x.data()).join();
    } catch (error) {
      if (!(error instanceof DeviceError)) throw error;
      return error.message.includes("no source") ? "the reason" : error.message;
    }
  };

  test("what they were for is never read as numbers, what was proven and what is new is", async () => {
    const context = webgpuContext()!;
    const x = await devicePut(tensor([1, 2, 3]), "webgpu");
    const proven = x.add(10);
    await proven.data();
    const lost = x.add(1);
    refused(context);
    const outcomes = [await outcome(() => lost), await outcome(() => lost), await outcome(() => lost.add(1))];
    expect(outcomes.filter((text) => text === "the reason")).toHaveLength(1);
    expect(outcomes.filter((text) => text.includes("compute them again"))).toHaveLength(2);
    expect(await outcome(() => proven)).toBe("11,12,13");
    expect(await outcome(() => x.add(1))).toBe("2,3,4");
  });

  test("commands that wait are sent later, and nothing is thrown where nobody can catch it", async () => {
    const context = webgpuContext()!;
    const x = await devicePut(tensor([1, 2, 3]), "webgpu");
    await x.add(5).data(); // compiled: what follows only records
    const uncaught: unknown[] = [];
    const listen = (error: unknown): void => void uncaught.push(error);
    process.on("uncaughtException", listen);
    try {
      const source = context.device.createBuffer(64, BufferUsage.STORAGE, "no source");
      const waiting = x.add(5);
      context.device.submit([{ copy: source, fromOffset: 0, to: context.faults, toOffset: 8, bytes: 4 }]);
      await new Promise((resolve) => setTimeout(resolve, 20));
      expect(await outcome(() => waiting)).toBe("the reason");
      expect(await outcome(() => waiting)).toContain("compute them again");
      expect(await outcome(() => x.add(5))).toBe("6,7,8");
    } finally {
      process.off("uncaughtException", listen);
    }
    expect(uncaught).toEqual([]);
  });
});

// --- a process of its own ----------------------------------------------------------------------------------------

/** Runs a program in which `ct` is the library and `webgpuContext` gives the context; gives what it prints. */
async function child(code: string): Promise<string> {
  const head = `const ct = await import(${JSON.stringify(join(root, "mod.ts"))});
    const { webgpuContext } = await import(${JSON.stringify(join(root, "core/backends/webgpu/open.ts"))});
    const outcome = async (f) => { try { return String(await f()); } catch (error) { return error.message; } };\n`;
  const { output, errors } = await runModule(`${head}${code}\nprocess.exit(0);`);
  expect(errors).toBe("");
  return output;
}

describe.skipIf(!hasGpu)("a device", () => {
  test("opens once for all who ask at once, and not where it is closed meanwhile", async () => {
    const output = await child(`
      const both = await Promise.allSettled([
        ct.init("webgpu", { memoryBytes: 3e8 }), ct.init("webgpu", { memoryBytes: 4e8 })]);
      console.log(both.map(({ status }) => status).join(), webgpuContext().pool.budgetBytes);
      await ct.closeDevice("webgpu");
      const opening = outcome(() => ct.init("webgpu"));
      await ct.closeDevice("webgpu");
      console.log(await opening);
      console.log(webgpuContext());
      await ct.init("webgpu");
      const x = await ct.devicePut(ct.tensor([1, 2]), "webgpu");
      const [one] = [x.sum()];
      await ct.closeDevice("webgpu");
      console.log(ct.memory().webgpu.liveBytes);
      await ct.init("webgpu");
      console.log(await outcome(() => x.data()));
      console.log(await outcome(async () => (await ct.devicePut(ct.tensor([1, 2]), "webgpu")).add(x)));
    `);
    expect(output.split("\n")).toEqual([
      "fulfilled,rejected 300000000",
      expect.stringContaining("closed while it opened"),
      "null",
      "0",
      expect.stringContaining("their device was closed or lost"),
      expect.stringContaining("a device that was closed or lost"),
    ]);
  });

  // Deno finds dead tensors when it likes.
  test.skipIf(!("Bun" in globalThis))(
    "finds the memory of dead tensors for intermediate results too",
    async () => {
      const output = await child(`
      await ct.init("webgpu", { memoryBytes: 64e6 });
      const context = webgpuContext();
      const make = (length) => context.makeArray("float32", length, () => "an array");
      let full = 0;
      for (let round = 0; round < 8; round++) {
        let big = make(14e6);
        if ((await outcome(() => void make(10e6))).includes("let go of tensors")) full++;
        big = null;
        await 0;
        context.pool.give(context.pool.acquire(8e6, () => "an intermediate result"));
      }
      console.log(full);
    `);
      // Elsewhere dead tensors are found when the turn is over.
      if (webgpuContext()!.device.host === "bun-webgpu") expect(output).toBe("8");
    },
  );

  test("gives no elements that a fault may be behind, and others as before", async () => {
    const output = await child(`
      await ct.init("webgpu");
      const x = await ct.devicePut(ct.tensor([1, 2, 3]), "webgpu");
      const [seven, nine, one] = await ct.devicePut(
        [7, 9, 1].map((i) => ct.tensor([i], { dtype: "int32" })), "webgpu");
      const first = ct.take(x, seven);
      const second = ct.take(x, nine).mul(2);
      console.log(await outcome(() => first.data()));
      console.log(await outcome(() => second.data()));
      console.log(await outcome(() => first.data()));
      console.log(...(await ct.take(x, one).data()), ...(await x.data()));
    `);
    expect(output.split("\n")).toEqual([
      expect.stringContaining("index 7 of axis 0"),
      expect.stringContaining("compute them again"),
      expect.stringContaining("compute them again"),
      "2 1 2 3",
    ]);
  });

  test("opened again it computes what was compiled before, and new tensors are made there", async () => {
    const output = await child(`
      await ct.init("webgpu");
      ct.setDefaultDevice("webgpu");
      const f = ct.jit((x) => x.mul(x).mul(x).sum());
      const product = async () => {
        const x = ct.tensor([1, 2]);
        const H = ct.operator.hessianOperator(f, x);
        return [...(await H.apply(ct.tensor([1, 1])).data()), ...(await f(x).data()), x.device].join();
      };
      console.log(await product());
      await ct.closeDevice("webgpu");
      await ct.init("webgpu");
      ct.setDefaultDevice("webgpu");
      console.log(await product());
    `);
    expect(output.split("\n")).toEqual(["6,12,9,webgpu", "6,12,9,webgpu"]);
  });

  test("gradients of its tensors send no constants of their size", async () => {
    const output = await child(`
      await ct.init("webgpu");
      const x = await ct.devicePut(ct.ones([1000]), "webgpu");
      const y = await ct.devicePut(ct.full([1000], 2), "webgpu");
      const { device } = webgpuContext();
      const write = device.write.bind(device);
      let most = 0;
      device.write = (buffer, offset, data) => {
        most = Math.max(most, data.byteLength);
        write(buffer, offset, data);
      };
      for (const f of [ct.pow, ct.maximum, ct.mul, ct.div, ct.atan2]) {
        const [g] = ct.vjp(f, x, y)[1](ct.onesLike(x));
        if (g.device !== "webgpu") console.log(f.name, g.device);
        ct.grad((x) => f(x, y).tanh().mul(3).sum())(x);
      }
      console.log(most <= 4 ? "scalars" : most);
    `);
    expect(output).toBe("scalars");
  });
});
