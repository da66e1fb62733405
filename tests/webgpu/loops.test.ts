/**
 * Loops of the WebGPU backend against the reference: random programs, and shapes at which the ways to compute a loop
 * change, as they are for devices of several kinds.
 */
import { describe, expect, test } from "bun:test";
import { Aval } from "../../core/aval.ts";
import { reference } from "../../core/backend.ts";
import type { Capabilities } from "../../core/backends/webgpu/kernel.ts";
import { loopDispatches } from "../../core/backends/webgpu/loops.ts";
import { epilogueOf } from "../../core/backends/webgpu/loops_epilogue.ts";
import { binding, mainHead } from "../../core/backends/webgpu/wgsl.ts";
import { type DType, isFloat, makeArray } from "../../core/dtype.ts";
import * as e from "../../core/expr.ts";
import * as functions from "../../core/functions.ts";
import { rowMajor } from "../../core/kernel.ts";
import { type LoopStep, Slot } from "../../core/passes/fuse.ts";
import * as p from "../../core/prims/elementwise.ts";
import { broadcast, flipP, pad, permute, reshape, slice, sumAxes } from "../../core/prims/movement.ts";
import { reduceMax, reduceMin, reduceProd } from "../../core/prims/reduce.ts";
import { type Program, stage } from "../../core/program.ts";
import { range, type Shape, sizeOf } from "../../core/shape.ts";
import { bind1 } from "../../core/trace.ts";
import { storage, Tensor, type Value } from "../../core/value.ts";
import { seeds } from "../support/arbitrary_tensor.ts";
import { typedProgram } from "../support/arbitrary_typed_program.ts";
import { propWith } from "../support/prop.ts";
import { assertApproximates, largest } from "../support/rounding.ts";
import { epsilon } from "../support/tolerance.ts";
import { Buffers, devices, runLoops } from "./loop_runner.ts";
import { hasGpu } from "./support.ts";

// --- random programs ---------------------------------------------------------------------------------------------

const kinds = ["a processor", "a GPU", "a small GPU"];

/** What a device divides is off by a few units, which these would make more of. */
const stepped = new Set(
  "floor ceil round sign cast equal notEqual less lessEqual argmax argmin sort maxPoolIndex".split(" "),
);
/** What rounding may do to quotients and roots, and what is made of them. */
const DIVIDED = 2 ** -17;

/** Whether the program has anything that no shader computes, or that hangs on how a device divides. */
function isRefused({ ins, eqns, outs }: Program): boolean {
  const atoms = [...ins, ...outs, ...eqns.flatMap((eqn) => [...eqn.ins, ...eqn.outs])];
  if (atoms.some((atom) => atom?.aval.dtype === "float64")) return true;
  return divides(eqns) && eqns.some(({ prim }) => stepped.has(prim.name));
}

const divides = (eqns: Program["eqns"]): boolean =>
  eqns.some(({ prim, outs }) => ["div", "sqrt", "rsqrt"].includes(prim.name) && isFloat(outs[0]!.aval.dtype));

describe.skipIf(!hasGpu)("programs", () => {
  for (const name of kinds) {
    let [ran, loops] = [0, 0];
    propWith({ runs: 60 }, `programs on ${name} agree with the reference`, seeds(3), async (seed) => {
      const { program, args, expected } = typedProgram(seed, { length: 10 });
      if (isRefused(program)) return;
      const { outs, dispatches } = await runLoops(program, args, devices().get(name)!);
      outs.forEach((out, i) => {
        const { value, error } = expected[i]!;
        const more =
          isFloat(value.dtype) && divides(program.eqns) ? DIVIDED * Math.max(1, largest(value)) : 0;
        assertApproximates(out, { value, error: error + more }, `output ${i}`);
      });
      ran++;
      loops += dispatches.length;
    });
    test(`there were loops on ${name}`, () => {
      expect(ran).toBeGreaterThan(20);
      expect(loops).toBeGreaterThan(ran);
    });
  }
});

// --- shapes ------------------------------------------------------------------------------------------------------

type Fill = (i: number) => number;
const waves: Fill = (i) => Math.sin(i * 0.7) + 0.25;

function filled(shape: Shape, fill: Fill = waves, dtype: DType = "float32"): Tensor {
  const data = makeArray(dtype, sizeOf(shape));
  for (let i = 0; i < data.length; i++) data[i] = fill(i);
  return new Tensor(new Aval(shape, dtype), data);
}

interface Case {
  readonly f: (...xs: Value[]) => Value | readonly Value[];
  readonly args: readonly Tensor[];
  /** Difference allowed, relative to the largest element. */
  readonly relative: number;
  readonly only?: readonly string[];
}

/** Runs a function on each kind of device and compares; twice on each, because the bits are the same each time. */
async function compare({ f, args, relative, only }: Case): Promise<ReadonlyMap<string, readonly string[]>> {
  const program = stage(
    (...xs) => [f(...xs)].flat() as Value[],
    args.map((x) => x.aval),
  );
  const expected = reference.compile(program).run(args);
  const labels = new Map<string, readonly string[]>();
  for (const name of only ?? kinds) {
    const gpu = devices().get(name)!;
    const { outs, dispatches } = await runLoops(program, args, gpu);
    labels.set(
      name,
      dispatches.map(({ code }) => code),
    );
    outs.forEach((out, i) => {
      assertApproximates(
        out,
        { value: expected[i]!, error: relative * largest(expected[i]!) },
        `${name}, output ${i}`,
      );
    });
    const again = (await runLoops(program, args, gpu)).outs;
    outs.forEach((out, i) => {
      expect(storage(again[i]!)).toEqual(storage(out));
    });
  }
  return labels;
}

const flip = (x: Value, axes: readonly number[]): Value => bind1(flipP, [x], { axes });
const twoKinds = ["a processor", "a GPU"];
const few = 64 * epsilon.float32;
const kept = (x: Value, axes: readonly number[]): number[] => range(x.ndim).filter((a) => !axes.includes(a));
const back = (y: Value, x: Value, axes: readonly number[]): Value => broadcast(y, x.shape, kept(x, axes));

function softmax(x: Value, axes: readonly number[]): Value {
  const power = p.exp(p.sub(x, back(reduceMax(x, axes), x, axes)));
  return p.div(power, back(sumAxes(power, axes), x, axes));
}

function normalized(x: Value, axes: readonly number[]): readonly Value[] {
  const scale = 1 / sizeOf(axes.map((a) => x.shape[a]!));
  const mean = (y: Value): Value => p.mul(sumAxes(y, axes), p.like(sumAxes(y, axes), scale));
  const centre = mean(x);
  const centred = p.sub(x, back(centre, x, axes));
  const variance = mean(p.mul(centred, centred));
  const rate = p.rsqrt(p.add(variance, p.like(variance, 1e-3)));
  return [p.mul(centred, back(rate, x, axes)), centre, variance];
}

describe.skipIf(!hasGpu)("reductions", () => {
  test("rows of every length sum to what the reference says", async () => {
    for (const [rows, length] of [
      [70, 2],
      [37, 64],
      [9, 257],
      [1, 40_009],
      [3, 8000],
    ] as const)
      await compare({ f: (x) => sumAxes(x, [1]), args: [filled([rows, length])], relative: few });
  });

  test("columns of every length do", async () => {
    for (const [length, columns] of [
      [2, 70],
      [1000, 3],
      [2000, 64],
    ] as const)
      await compare({ f: (x) => sumAxes(x, [0]), args: [filled([length, columns])], relative: few });
  });

  test("axes in any place disappear", async () => {
    for (const axes of [[1], [0, 2], [0, 1, 2, 3], [0, 4], [2, 3, 4]])
      await compare({
        f: (x) => sumAxes(x, axes),
        args: [filled([3, 7, 5, 11, 4])],
        relative: few,
        only: twoKinds,
      });
    const turned = (x: Value): Value => sumAxes(permute(x, [1, 0]), [1]);
    await compare({ f: turned, args: [filled([600, 40])], relative: few, only: twoKinds });
    await compare({
      f: (x) => sumAxes(flip(slice(x, { starts: [1, 2], limits: [30, 90], strides: [2, 3] }), [0, 1]), [1]),
      args: [filled([40, 100])],
      relative: few,
      only: twoKinds,
    });
  });

  test("several results of one loop", async () => {
    const f = (x: Value): Value[] => [
      sumAxes(x, [1]),
      reduceMax(x, [1]),
      reduceMin(p.neg(x), [1]),
      reduceProd(x, [1]),
      sumAxes(p.mul(x, x), [1]),
      p.tanh(x),
      p.add(x, x),
    ];
    await compare({ f, args: [filled([40, 100], (i) => 1 + Math.sin(i) / 8)], relative: few });
    await compare({
      f,
      args: [filled([2, 5003], (i) => 1 + Math.sin(i) / 256)],
      relative: few,
      only: ["a processor"],
    });
  });

  test("neighbours join directly where they can, by way of memory where not", async () => {
    const own = devices().get("this device")!;
    const gpu: Capabilities = { ...own, isSoftware: false };
    const neighbours = gpu.neighbours ?? 1;
    expect(neighbours > 1).toBe(own.features.subgroups);
    const f = (x: Value): Value[] => [
      sumAxes(x, [1]),
      reduceMax(x, [1]),
      reduceProd(x, [1]),
      p.sub(x, back(sumAxes(x, [1]), x, [1])),
    ];
    // Teams as large as the neighbours that there are, and up to whole workgroups.
    for (const length of [2 * neighbours, 331, 1200]) {
      const x = filled([3, length], (i) => 1 + Math.sin(i) / 64);
      const program = stage((y) => f(y!), [x.aval]);
      const expected = reference.compile(program).run([x]);
      for (const count of new Set([neighbours, Math.min(neighbours, 2), 1])) {
        const { outs, dispatches } = await runLoops(program, [x], { ...gpu, neighbours: count });
        const isDirect = dispatches.some(({ code }) => code.includes("subgroup"));
        expect(isDirect).toBe(count > 1);
        outs.forEach((out, i) => {
          const error = few * largest(expected[i]!);
          assertApproximates(out, { value: expected[i]!, error }, `${length}, ${count}, output ${i}`);
        });
      }
    }
  });

  test("integers wrap around, and their extremes are exact", async () => {
    const f = (x: Value): Value[] => [
      sumAxes(x, [1]),
      reduceProd(x, [1]),
      reduceMax(x, [1]),
      reduceMin(x, [1]),
    ];
    const words: Fill = (i) => Math.imul(i + 1, 2654435761);
    await compare({ f, args: [filled([5, 300], words, "int32")], relative: 0, only: twoKinds });
    await compare({ f, args: [filled([3, 5001], words, "uint32")], relative: 0, only: ["a processor"] });
    await compare({ f: (x) => reduceMin(x, [0]), args: [filled([300, 40], words, "uint32")], relative: 0 });
  });

  test("NaN and infinities come through", async () => {
    const at = (values: Readonly<Record<number, number>>) =>
      filled([6, 300], (i) => values[i] ?? Math.sin(i));
    const x = at({
      5: Number.NaN,
      310: Infinity,
      320: -Infinity,
      650: Infinity,
      1000: -Infinity,
      1499: Number.NaN,
    });
    const f = (y: Value): Value[] => [
      sumAxes(y, [1]),
      reduceMax(y, [1]),
      reduceMin(y, [1]),
      reduceProd(y, [1]),
    ];
    const program = stage(f, [x.aval]);
    const expected = reference.compile(program).run([x]);
    for (const name of twoKinds) {
      const { outs } = await runLoops(program, [x], devices().get(name)!);
      outs.forEach((out, i) => {
        storage(out).forEach((y, row) => {
          const want = storage(expected[i]!)[row]!;
          if (Number.isFinite(want))
            expect(Math.abs(y - want)).toBeLessThanOrEqual(1e-4 * Math.max(1e-30, Math.abs(want)) + 1e-4);
          else expect(y).toBe(want);
        });
      });
    }
  });

  test("products may leave the range of float32 on the way", async () => {
    const x = filled([2, 400], (i) => (i % 400 < 200 ? 1e30 : 1.5e-30) * (i % 7 === 0 ? -1 : 1));
    await compare({
      f: (y) => reduceProd(p.mul(y, y), [1]),
      args: [filled([3, 60], (i) => (i % 2 ? 3e18 : 3e-19))],
      relative: few,
      only: twoKinds,
    });
    await compare({
      f: (y) => reduceProd(slice(y, { starts: [0, 100], limits: [2, 300], strides: [1, 1] }), [1]),
      args: [x],
      relative: 4 * few,
      only: ["a processor"],
    });
  });

  test("nothing sums to 0 and multiplies to 1", async () => {
    const x = filled([3, 0, 2]);
    await compare({
      f: (y) => [sumAxes(y, [1]), reduceProd(y, [1]), sumAxes(y, [0, 1, 2])],
      args: [x],
      relative: 0,
    });
    await compare({ f: (y) => [sumAxes(y, [0]), p.exp(y)], args: [x], relative: 0 });
  });

  test("ten million ones are ten million", async () => {
    const f = (x: Value): Value => sumAxes(broadcast(x, [10_000_000], []), [0]);
    // A driver on the processor takes seconds to wait for so many workgroups.
    const own = devices().get("this device")!.isSoftware ? ["a processor"] : twoKinds;
    await compare({ f, args: [filled([], () => 1)], relative: 1e-6, only: own });
    const tenths = filled([2_000_003], () => Math.fround(0.1));
    await compare({ f: (x) => sumAxes(x, [0]), args: [tenths], relative: 1e-6, only: ["a processor"] });
  });

  test("what follows a reduction: rows brought to sum 1, and to mean 0 and variance 1", async () => {
    for (const [shape, only] of [
      [[5, 1], twoKinds],
      [[67, 10], twoKinds],
      [[33, 17], ["a small GPU"]],
      [[9, 128], ["a GPU"]],
      [[4, 1001], ["a GPU"]],
      [
        [9, 6000],
        ["a processor", "a GPU"],
      ],
    ] as const)
      await compare({ f: (x) => softmax(x, [1]), args: [filled(shape)], relative: few, only });
    for (const [shape, only] of [
      [[67, 10], twoKinds],
      [[5, 1024], ["a GPU"]],
      [[9, 700], ["a small GPU"]],
    ] as const)
      await compare({ f: (x) => normalized(x, [1]), args: [filled(shape)], relative: few, only });
    await compare({ f: (x) => softmax(x, [1, 2]), args: [filled([6, 5, 7])], relative: few, only: twoKinds });
    const turned = (x: Value): Value => softmax(permute(x, [1, 0]), [1]);
    await compare({ f: turned, args: [filled([50, 40])], relative: few, only: twoKinds });
  });
});

describe.skipIf(!hasGpu)("maps", () => {
  const sum = (x: Value, y: Value): Value => p.add(p.mul(x, y), x);

  test("any size, of more workgroups than a dimension has", async () => {
    for (const n of [1, 3, 4, 5, 256, 257, 4099, 65_536])
      await compare({ f: sum, args: [filled([n]), filled([n], (i) => i % 13)], relative: few });
    const { limits } = devices().get("this device")!;
    const n = Math.min(limits.maxGroupsPerDimension, 65535) * 256 + 3;
    const program = stage((x) => [p.add(x, x)], [new Aval([n], "int32")]);
    const x = filled([n], (i) => i, "int32");
    const [out] = (await runLoops(program, [x], devices().get("a processor")!)).outs;
    for (const i of [0, 1, 65535, 65535 * 256 - 1, 65535 * 256, n - 1]) expect(storage(out!)[i]).toBe(2 * i);
  });

  test("operands that repeat, step, go backwards and are turned round", async () => {
    await compare({
      f: (x, y) => p.add(x, broadcast(y, x.shape, [1])),
      args: [filled([33, 64]), filled([64])],
      relative: 0,
    });
    await compare({
      f: (x, y) => p.add(x, broadcast(y, x.shape, [0])),
      args: [filled([33, 64]), filled([33])],
      relative: 0,
    });
    await compare({
      f: (x, y) => p.add(x, broadcast(y, x.shape, [1])),
      args: [filled([8, 7]), filled([7])],
      relative: 0,
    });
    await compare({
      f: (x) => p.neg(flip(slice(x, { starts: [1, 4], limits: [31, 60], strides: [3, 2] }), [1])),
      args: [filled([33, 64])],
      relative: 0,
    });
    await compare({
      f: (x) => pad(x, { low: [1, 2], high: [0, 3], interior: [1, 0], value: 7 }),
      args: [filled([9, 16])],
      relative: 0,
    });
    // Runs of four that do not begin at multiples of four.
    const cut = (x: Value, limits: readonly number[]): Value =>
      slice(x, { starts: limits.map(() => 0), limits, strides: limits.map(() => 1) });
    await compare({ f: (x) => p.neg(cut(x, [8, 4])), args: [filled([8, 6])], relative: 0 });
    await compare({ f: (x) => sumAxes(cut(x, [8, 100]), [1]), args: [filled([8, 102])], relative: few });
    // The last element of a buffer that vectors of four do not fill.
    const both = (x: Value): Value =>
      p.add(cut(x, [8]), slice(x, { starts: [1], limits: [9], strides: [1] }));
    await compare({ f: both, args: [filled([9])], relative: few });
    for (const shape of [
      [40, 33],
      [16, 100],
      [65, 64],
    ]) {
      const other = filled([...shape].reverse());
      await compare({ f: (x, y) => p.sub(permute(x, [1, 0]), y), args: [filled(shape), other], relative: 0 });
    }
    await compare({
      f: (x) => p.neg(permute(x, [3, 0, 4, 1, 2])),
      args: [filled([3, 17, 2, 18, 5])],
      relative: 0,
    });
    await compare({
      f: (x) => p.neg(permute(x, [4, 3, 2, 1, 0])),
      args: [filled([3, 2, 20, 4, 19])],
      relative: 0,
    });
  });

  test("a GPU turns by way of workgroup memory", async () => {
    const codes = await compare({
      f: (x) => p.neg(permute(x, [1, 0])),
      args: [filled([64, 48])],
      relative: 0,
    });
    expect(codes.get("a GPU")![0]).toContain("var<workgroup>");
    expect(codes.get("a processor")![0]).not.toContain("var<workgroup>");
  });

  test("bools, and scalars", async () => {
    const f = (x: Value, y: Value): Value[] => {
      const less = p.less(x, y);
      return [less, p.logicalNot(less), p.where(less, x, y), p.cast(less, "float32"), p.cast(x, "bool")];
    };
    for (const shape of [[], [7], [8], [3, 4]])
      await compare({ f, args: [filled(shape), filled(shape, (i) => Math.cos(i))], relative: 0 });
    await compare({
      f: (x) => reshape(permute(p.logicalNot(x), [1, 0]), [12]),
      args: [filled([3, 4], (i) => i % 2, "bool")],
      relative: 0,
    });
  });

  test("nothing is dispatched for nothing", async () => {
    const program = stage((x) => [p.exp(x)], [new Aval([4, 0], "float32")]);
    for (const gpu of kinds.map((name) => devices().get(name)!))
      expect((await runLoops(program, [filled([4, 0])], gpu)).dispatches).toEqual([]);
  });

  test("many results are computed in several dispatches where a device binds few buffers", async () => {
    const f = (x: Value, y: Value): Value[] =>
      [p.add, p.sub, p.mul, p.maximum, p.minimum].map((op) => op(p.exp(x), y));
    const codes = await compare({ f, args: [filled([40]), filled([40], (i) => i)], relative: few });
    expect(codes.get("a small GPU")!.length).toBeGreaterThan(1);
  });
});

// --- positions and epilogues -------------------------------------------------------------------------------------

/** A loop that stores its positions plus what it loads. */
function positions(shape: Shape, source: Slot, into: Slot): LoopStep {
  const x = e.input(0, "f32");
  const layout = rowMajor(shape);
  return {
    k: "loop",
    names: ["positions"],
    shape,
    reduced: [],
    loads: [{ expr: x, level: "full", slot: source, layout }],
    reductions: [],
    values: [],
    stores: [{ expr: e.add(x, e.convert(e.iota, "f32")), level: "full", slot: into, layout }],
  };
}

describe.skipIf(!hasGpu)("positions", () => {
  test("are row-major, one at a time, in vectors and in squares", async () => {
    for (const shape of [
      [7, 9],
      [8, 8],
    ]) {
      const n = sizeOf(shape);
      const [source, into] = [
        new Slot(new Aval(shape, "float32"), "input"),
        new Slot(new Aval(shape, "float32"), "step"),
      ];
      for (const gpu of kinds.map((name) => devices().get(name)!)) {
        const buffers = new Buffers();
        buffers.write(source, new Float32Array(n).fill(0.5));
        buffers.run(loopDispatches(positions(shape, source, into), gpu));
        const [result] = await buffers.read([into]);
        expect([...result!]).toEqual(range(n).map((i) => i + 0.5));
        buffers.release();
      }
    }
  });
});

describe.skipIf(!hasGpu)("epilogues", () => {
  /** gelu-like function of a result that another shader computes, with a bias per column and a residual. */
  async function follow(inQuads: boolean): Promise<void> {
    const shape = [6, 8];
    const aval = new Aval(shape, "float32");
    const [result, residual, into] = [
      new Slot(aval, "step"),
      new Slot(aval, "input"),
      new Slot(aval, "step"),
    ];
    const bias = new Slot(new Aval([8], "float32"), "input");
    const mask = new Slot(new Aval(shape, "bool"), "step");
    const [y, b, r] = [e.input(0, "f32"), e.input(1, "f32"), e.input(2, "f32")];
    const layout = rowMajor(shape);
    const full = { level: "full" as const };
    const sum = e.add(functions.tanh(e.add(y, b)), r);
    const loop: LoopStep = {
      k: "loop",
      names: ["add", "tanh"],
      shape,
      reduced: [],
      loads: [
        { ...full, expr: y, slot: result, layout },
        { ...full, expr: b, slot: bias, layout: { shape, offset: 0, strides: [0, 1] } },
        { ...full, expr: r, slot: residual, layout },
      ],
      reductions: [],
      values: [],
      stores: [
        { ...full, expr: sum, slot: into, layout },
        { ...full, expr: e.lt(sum, r), slot: mask, layout },
      ],
    };
    const given = new Slot(aval, "input");
    const epilogue = epilogueOf(loop, result, { firstBinding: 1, inQuads });
    const units = inQuads ? 12 : 48;
    const value = inQuads
      ? "vec4<f32>(b[at * 4u], b[at * 4u + 1u], b[at * 4u + 2u], b[at * 4u + 3u])"
      : "b[at]";
    const code = [
      binding(0, "b", "f32"),
      epilogue.declarations,
      mainHead(units, 64, [1, 1, 1]),
      "  let at = unit;",
      `  ${epilogue.statement("at", value)}`,
      "}",
    ].join("\n");
    const buffers = new Buffers();
    const [ys, bs, rs] = [filled(shape), filled([8], (i) => i / 4), filled(shape, (i) => Math.cos(i))].map(
      storage,
    );
    buffers.write(given, ys!);
    buffers.write(bias, bs!);
    buffers.write(residual, rs!);
    buffers.run([
      { label: "t", code, buffers: [given, ...epilogue.buffers], groups: [1, 1, 1], operations: 0 },
    ]);
    const [got, less] = await buffers.read([into, mask]);
    for (let i = 0; i < 48; i++) {
      const want = Math.tanh(ys![i]! + bs![i % 8]!) + rs![i]!;
      expect(Math.abs(got![i]! - want)).toBeLessThan(1e-6);
      expect(less![i]).toBe(Number(want < rs![i]!));
    }
    buffers.release();
  }

  test("compute and store a result that is not in memory", async () => {
    for (const inQuads of [false, true]) await follow(inQuads);
  });
});
