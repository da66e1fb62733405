/**
 * Reductions whose operands are in other loops: they join one loop where they read the same elements, and what is cheap is
 * computed there again instead of being stored. Values of int32 are exact, so that the bits are those of the reference.
 */
import { expect, test } from "bun:test";
import { jit } from "../../autodiff/jit.ts";
import { vjp } from "../../autodiff/vjp.ts";
import { type Executable, reference } from "../../core/backend.ts";
import { cpu } from "../../core/backends/cpu/backend.ts";
import { Engine } from "../../core/backends/cpu/engine.ts";
import { Compiler, compile } from "../../core/backends/cpu/executable.ts";
import { Heap } from "../../core/backends/cpu/heap.ts";
import { ones, tensor } from "../../core/create.ts";
import * as nn from "../../core/nn.ts";
import * as ops from "../../core/ops.ts";
import { fused, type LoopStep, type Slot, type Step } from "../../core/passes/fuse.ts";
import { slotsOf } from "../../core/passes/plan.ts";
import { simplified } from "../../core/passes/simplify.ts";
import { deadCodeEliminated, type Program, show, stage } from "../../core/program.ts";
import { key } from "../../core/random.ts";
import { sizeOf } from "../../core/shape.ts";
import type { Tensor, Value } from "../../core/value.ts";
import { SeededDraw, seeds } from "../support/arbitrary_tensor.ts";
import { propWith } from "../support/prop.ts";
import { assertSameBits } from "../support/tolerance.ts";

type Function = (...xs: Value[]) => readonly Value[];

const [ROWS, COLUMNS] = [12, 20];
const f32 = (shape: readonly number[]): Value => ones([...shape]);

/** The simplified program of a function. */
function programOf(f: Function, args: readonly Value[]): Program {
  const avals = args.map((x) => x.aval);
  return simplified(deadCodeEliminated(stage((...xs) => [...f(...(xs as Value[]))], avals)));
}

function stepsOf(f: Function, args: readonly Value[], loads = 14): readonly Step[] {
  return fused(programOf(f, args), (_, args) => args.map(() => true), { loads }).steps;
}

/** How many elements the steps write to buffers that are no outputs. */
function storedBetween(f: Function, args: readonly Value[]): number {
  const { steps, outs } = fused(programOf(f, args), (_, args) => args.map(() => true));
  const results = new Set(outs.map(({ slot }) => slot));
  const written = new Set(steps.flatMap((step) => slotsOf(step).writes));
  return [...written].reduce((sum, slot) => sum + (results.has(slot) ? 0 : slot.aval.size), 0);
}

const centred = (x: Value, axis: number): Value => ops.sub(x, ops.sum(x, { axis, keepDims: true }));
const [x, y] = [f32([ROWS, COLUMNS]), f32([ROWS, COLUMNS])];

test("a layer's normalization and its gradients are two loops, and only values of rows are stored between", () => {
  const layer = nn.layerNorm(COLUMNS);
  const params = layer.init(key(0));
  const f: Function = (x, scale, offset, dy) => {
    const apply = (x: Value, scale: Value, offset: Value): Value =>
      layer.apply({ scale, offset }, x) as Value;
    const [out, pullback] = vjp(apply, x!, scale!, offset!);
    return [out, ...(pullback(dy!) as readonly Value[])];
  };
  const args = [x, params.scale, params.offset, y];
  expect(stepsOf(f, args).length).toBe(2);
  expect(storedBetween(f, args)).toBe(2 * ROWS);
});

test("an earlier loop over the same elements waits for the values of a later one", () => {
  const f: Function = (x, y) => {
    const first = ops.sum(y!, { axis: 0 });
    const c = centred(x!, 1);
    return [first, c, ops.sum(ops.mul(c, y!), { axis: 0 })];
  };
  const steps = stepsOf(f, [x, y]);
  expect(steps.length).toBe(2);
  expect((steps[1] as LoopStep).reductions.length).toBe(2);
});

test("an earlier loop whose result is read before does not wait", () => {
  const f: Function = (x, y) => {
    const first = ops.sum(y!, { axis: 0 });
    const c = ops.sub(x!, ops.sum(ops.mul(x!, first), { axis: 1, keepDims: true }));
    return [c, ops.sum(ops.mul(c, y!), { axis: 0 })];
  };
  const steps = stepsOf(f, [x, y]) as LoopStep[];
  expect(steps.map(({ reduced }) => reduced)).toEqual([[0], [1], [0]]);
});

test("what takes long, or is in memory for another reason, is read and not computed again", () => {
  const long: Function = (x) => {
    const c = centred(x!, 1);
    return [c, ops.sum(ops.exp(c), { axis: 0 })];
  };
  const returned: Function = (x, y) => {
    const c = ops.mul(centred(x!, 1), y!);
    return [c, ops.sum(c, { axis: 0 })];
  };
  const multiplied: Function = (x, y) => {
    const c = ops.mul(centred(x!, 1), y!);
    return [ops.sum(c, { axis: 0 }), ops.matmul(c, ops.transpose(y!))];
  };
  expect(storedBetween(long, [x])).toBe(ROWS * COLUMNS);
  for (const f of [returned, multiplied]) {
    const sums = stepsOf(f, [x, y]).find((step) => step.k === "loop" && step.reduced[0] === 0) as LoopStep;
    expect(sums.loads.length).toBe(1);
    expect(sums.loads[0]!.slot.aval.size).toBe(ROWS * COLUMNS);
  }
});

test("what needs many large buffers is read and not computed again", () => {
  const f: Function = (...xs) => {
    const c = centred(xs[0]!, 1);
    const all = xs.slice(1).reduce((s, x) => ops.add(s, x), c);
    return [c, ops.sum(all, { axis: 0 })];
  };
  expect(storedBetween(f, [x, y])).toBe(ROWS);
  expect(storedBetween(f, [x, y, y])).toBe(ROWS * COLUMNS);
});

test("what needs more buffers than a loop may read is not computed again", () => {
  const f: Function = (x, v, w) => {
    const c = ops.mul(ops.add(centred(x!, 1), v!), ops.add(ops.max(x!, { axis: 1, keepDims: true }), 1));
    return [c.add(1), ops.sum(ops.mul(c, w!), { axis: 0 })];
  };
  const args = [x, f32([COLUMNS]), f32([COLUMNS])];
  for (const [loads, most] of [
    [5, 5],
    [4, 1],
  ] as const) {
    const loops = stepsOf(f, args, loads) as LoopStep[];
    const sums = loops.find(({ reduced }) => reduced[0] === 0)!;
    expect(sums.loads.length).toBe(most);
  }
});

/** A program of sums along rows and columns, and what is computed of them and between them. */
function drawn(draw: SeededDraw): { readonly program: Program; readonly args: readonly Tensor[] } {
  const shape = draw.pick([[5, 7], [16, 20], [3, 4, 6], [33, 9]] as const); // biome-ignore format: a list
  const last = shape.length - 1;
  const range = [-9, 9] as const;
  const args = [
    ...[0, 1, 2].map(() => draw.tensor({ shape: [...shape], range }, "int32")),
    draw.tensor({ shape: [shape[last]!], range }, "int32"),
  ];
  const f: Function = (...xs) => {
    const values = [...xs.slice(0, 3)];
    const sums: Value[] = [];
    const outs: Value[] = [];
    for (let i = 0; i < draw.int(3, 12); i++) {
      const [x, y] = [draw.pick(values), draw.pick(draw.bool() ? values : [...sums, xs[3]!, ...values])];
      if (draw.int(0, 2) > 0) values.push(draw.pick([ops.add, ops.sub, ops.mul, ops.maximum])(x, y));
      else {
        const axis = draw.pick([0, last, last]);
        const join = draw.pick([ops.sum, ops.sum, ops.max]);
        const joined = join(draw.bool() ? values.at(-1)! : x, { axis, keepDims: true });
        (draw.bool() ? outs : sums).push(joined);
      }
    }
    for (const value of [...values, ...sums]) if (draw.int(0, 4) === 0) outs.push(value);
    return [...outs, ops.sum(values.at(-1)!, { axis: 0 })];
  };
  return { program: programOf(f, args), args: args as readonly Tensor[] };
}

/** Whether the steps have more equations than the program. */
function computesAgain(steps: readonly Step[], { eqns }: Program): boolean {
  const count = (names: readonly string[]): number =>
    names.filter((name) => ["add", "sub", "mul", "maximum"].includes(name)).length;
  const done = steps.flatMap((step) => (step.k === "loop" ? [...step.names] : []));
  return count(done) > count(eqns.map(({ prim }) => prim.name));
}

let again = 0;

propWith({ runs: 400 }, "sums along rows and columns are those of the reference", seeds(), (seed) => {
  const draw = new SeededDraw(seed);
  const { program, args } = drawn(draw);
  const text = show(program);
  const expected = reference.compile(program).run(args);
  cpu
    .compile(program)
    .run(args)
    .forEach((y, i) => {
      assertSameBits(y, expected[i]!, `output ${i} of\n${text}\n`);
    });
  const loads = draw.int(4, 14);
  const { ins, steps } = fused(program, () => null, { loads });
  if (computesAgain(steps, program)) again++;
  const written = new Set<Slot>(ins);
  for (const step of steps) {
    if (step.k !== "loop") continue;
    expect(step.loads.length).toBeLessThanOrEqual(loads);
    const { reads, writes } = slotsOf(step);
    for (const slot of reads) if (slot.origin === "step") expect(written.has(slot)).toBe(true);
    for (const slot of writes) written.add(slot);
  }
});

test("some of them were computed again", () => {
  console.log(`recomputed: ${again} programs compute something again`);
  expect(again).toBeGreaterThan(0);
});

// ----------------------------------------------------------------------------------------------------- equal loops

/** A compiler of its own, and how many kernels it has loaded. */
function counting(): { readonly made: (program: Program) => Executable; readonly count: () => number } {
  const engine = new Engine({ heap: new Heap({ pages: 256 }), threads: 1 });
  let count = 0;
  const load = engine.load.bind(engine);
  engine.load = (bytes, names, ...rest) => {
    count += names.length;
    return load(bytes, names, ...rest);
  };
  const compiler = new Compiler(engine, new Map());
  return { made: (program) => compile(program, compiler), count: () => count };
}

test("loops that differ in nothing but their buffers are one kernel", () => {
  const { made, count } = counting();
  // Each is read by the next two, so that every loop has stores of its own.
  const f: Function = (x) => {
    let [y, z] = [x!, x!];
    for (let i = 0; i < 2000; i++) [y, z] = [ops.sub(ops.mul(y, 0.5), z), y];
    return [y, z];
  };
  const x = tensor([1, -2, 3]) as Tensor;
  const [[y, z], expected] = [made(programOf(f, [x])).run([x]), [1, -2, 3].map((x) => [x, x] as number[])];
  for (const pair of expected)
    for (let i = 0; i < 2000; i++) [pair[0], pair[1]] = [Math.fround(Math.fround(pair[0]! * 0.5) - pair[1]!), pair[0]!]; // biome-ignore format: one step
  expect([...y!.dataSync()]).toEqual(expected.map(([y]) => y!));
  expect([...z!.dataSync()]).toEqual(expected.map(([, z]) => z!));
  expect(count()).toBeLessThan(6);
});

test("loops that differ in a constant, an element, a shape or a function are not taken for each other", () => {
  const { made } = counting();
  const x = tensor([[1, 2, 3], [4, 5, 6]]) as Tensor; // biome-ignore format: a matrix
  const wide = tensor([[1, 2, 3, 4], [5, 6, 7, 8]]) as Tensor; // biome-ignore format: a matrix
  const cases: readonly (readonly [Function, Tensor, readonly number[]])[] = [
    [(x) => [ops.mul(x!, 0)], x, [0, 0, 0, 0, 0, 0]],
    [(x) => [ops.mul(x!, -0)], x, [-0, -0, -0, -0, -0, -0]],
    [(x) => [ops.add(ops.slice(x!, [0, 0], [2, 2]), 1)], x, [2, 3, 5, 6]],
    [(x) => [ops.add(ops.slice(x!, [0, 1], [2, 3]), 1)], x, [3, 4, 6, 7]],
    [(x) => [ops.add(ops.slice(x!, [0, 1], [2, 3]), 1)], wide, [3, 4, 7, 8]],
    [(x) => [ops.sum(x!, { axis: 0 })], x, [5, 7, 9]],
    [(x) => [ops.max(x!, { axis: 0 })], x, [4, 5, 6]],
    [(x) => [ops.sum(x!, { axis: 1 })], x, [6, 15]],
    [(x) => [ops.sub(x!, ops.mul(x!, x!))], x, [0, -2, -6, -12, -20, -30]],
    [(x) => [ops.sub(ops.mul(x!, x!), x!)], x, [0, 2, 6, 12, 20, 30]],
  ];
  for (const [f, x, expected] of cases) {
    const [y] = made(programOf(f, [x])).run([x]);
    assertSameBits(y!, tensor([...expected], { shape: [...y!.shape] }), show(programOf(f, [x])));
  }
});

// -------------------------------------------------------------------------------------------------------- products

/** Exponents from `least` to `most`, often the same for long, with the sum 0: products pass through what no float64 holds. */
function powers(draw: SeededDraw, least: number, most: number): number[] {
  const exponents: number[] = [];
  for (let run = draw.int(1, 6); run > 0; run--) {
    const exponent = draw.pick([least, most, draw.int(least, most), 0]);
    for (let i = draw.int(1, 90); i > 0; i--) exponents.push(exponent);
  }
  for (let sum = exponents.reduce((s, e) => s + e, 0); sum !== 0; ) {
    const next = Math.max(least, Math.min(most, -sum));
    exponents.push(next);
    sum += next;
  }
  return draw.bool() ? exponents : draw.order(exponents.length).map((i) => exponents[i]!);
}

for (const [dtype, least, most] of [
  ["float32", -149, 127],
  ["float64", -1074, 1023],
] as const) {
  propWith({ runs: 60 }, `products of ${dtype} are exact whatever their factors are`, seeds(), (seed) => {
    const draw = new SeededDraw(seed);
    const exponents = powers(draw, least, most);
    const factors = exponents.map((e) => (draw.bool() ? 1 : -1) * 2 ** e);
    const sign = factors.filter((x) => x < 0).length % 2 === 0 ? 1 : -1;
    // As many digits as a float32 has, of which none is lost on the way.
    const threes = draw.int(0, 15);
    for (let i = 0; i < threes; i++) factors.splice(draw.int(0, factors.length), 0, 3);
    const n = factors.length;
    const rows = tensor([...factors, ...factors.map(() => 0)], { shape: [2, n], dtype });
    const columns = ops.transpose(rows);
    const expected = tensor([sign * 3 ** threes, 0], { dtype });
    assertSameBits(ops.prod(rows, { axis: 1 }), expected, `rows of 2^${exponents}`);
    assertSameBits(ops.prod(columns, { axis: 0 }), expected, `columns of 2^${exponents}`);
  });
}

test("products of what is not finite are not", () => {
  for (const [factors, expected] of [
    [[Infinity, 2 ** -149, 2 ** -149, 2 ** -149, 1e-30], Infinity],
    [[1e30, 1e30, 1e30, -Infinity, 1], -Infinity],
    [[1e30, 1e30, 1e30, Infinity, 0], Number.NaN],
    [[1, 2, Number.NaN, 4, 5, 6, 7], Number.NaN],
    [[1e38, 1e38, 1e38, 1e38, 1e38, 0], 0],
  ] as const) {
    const x = tensor([...factors]);
    assertSameBits(ops.prod(x), tensor(expected), `${factors}`);
    const many = ops.prod(ops.broadcastTo(ops.reshape(x, [factors.length, 1]), [factors.length, 9]), {
      axis: 0,
    });
    assertSameBits(many, ops.broadcastTo(tensor(expected), [9]), `columns of ${factors}`);
  }
  expect(sizeOf(ops.prod(f32([0, 3]), { axis: 0 }).shape)).toBe(3);
});

test("a reduction over a reshaped value with a broadcast operand reads what it can read", () => {
  const int = (shape: readonly number[]): Value =>
    tensor(
      Array.from({ length: sizeOf(shape) }, (_, i) => (i % 7) - 3),
      { shape: [...shape], dtype: "int32" },
    );
  const f: Function = (x, s) => [ops.sum(ops.reshape(ops.mul(x!, s!), [3, 2, 4]), { axis: 2 })];
  const args = [int([3, 4, 2]), int([4, 1])];
  assertSameBits(jit((...xs: Value[]) => f(...xs)[0]!)(...args), f(...args)[0]!, "in two loops");
});
