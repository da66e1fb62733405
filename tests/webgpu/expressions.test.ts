/** Scalar expressions on the GPU: every operation against its meaning, every function against the reference. */
import { describe, expect, test } from "bun:test";
import { Aval } from "../../core/aval.ts";
import { Block, Scope } from "../../core/backends/webgpu/expressions.ts";
import type { Capabilities } from "../../core/backends/webgpu/kernel.ts";
import { loopDispatches } from "../../core/backends/webgpu/loops.ts";
import { type DType, makeArray, type TypedArray } from "../../core/dtype.ts";
import { DeviceError } from "../../core/errors.ts";
import * as e from "../../core/expr.ts";
import { type Expr, type ExprType, exprType, input, type Op } from "../../core/expr.ts";
import { rowMajor } from "../../core/kernel.ts";
import { type LoopStep, Slot } from "../../core/passes/fuse.ts";
import type { AnyPrimitive } from "../../core/primitive.ts";
import * as p from "../../core/prims/elementwise.ts";
import { erfInvP } from "../../core/prims/random.ts";
import { SeededDraw } from "../support/arbitrary_tensor.ts";
import { interpret } from "../support/expr_interpreter.ts";
import { Buffers, devices } from "./loop_runner.ts";
import { hasGpu } from "./support.ts";

const dtypeOf = { f32: "float32", i32: "int32", u32: "uint32", bool: "bool" } as const;
type Words = keyof typeof dtypeOf;

/** The values of expressions of the same inputs, from one shader. */
async function computed(
  exprs: readonly Expr[],
  arrays: readonly TypedArray[],
  dtypes: readonly DType[],
  gpu: Capabilities,
): Promise<TypedArray[]> {
  const shape = [arrays[0]!.length];
  const loads = dtypes.map((dtype, i) => {
    const slot = new Slot(new Aval(shape, dtype), "input");
    return { expr: input(i, exprType(dtype)), level: "full" as const, slot, layout: rowMajor(shape) };
  });
  const stores = exprs.map((expr) => {
    const slot = new Slot(new Aval(shape, dtypeOf[expr.type as Words]), "step");
    return { expr, level: "full" as const, slot, layout: rowMajor(shape) };
  });
  const step: LoopStep = {
    k: "loop",
    names: ["test"],
    shape,
    reduced: [],
    // A loop has the loads that it needs.
    loads: loads.filter(({ expr }) => exprs.some((root) => uses(root, expr.value))),
    reductions: [],
    values: [],
    stores,
  };
  const buffers = new Buffers();
  loads.forEach(({ slot }, i) => {
    buffers.write(slot, arrays[i]!);
  });
  buffers.run(loopDispatches(step, gpu));
  const results = await buffers.read(stores.map(({ slot }) => slot));
  buffers.release();
  return results;
}

function uses(root: Expr, index: number): boolean {
  const seen = new Set<Expr>();
  const waiting = [root];
  for (let x = waiting.pop(); x !== undefined; x = waiting.pop()) {
    if (x.op === "input" && x.value === index) return true;
    if (!seen.has(x)) waiting.push(...x.args);
    seen.add(x);
  }
  return false;
}

// --- operations --------------------------------------------------------------------------------------------------

const special: Readonly<Record<Words, readonly number[]>> = {
  f32: [
    ...[0, -0, 1, -1, 0.5, -0.5, 1.5, 2.5, -2.5, 3.4e38, -3.4e38, Infinity, -Infinity, Number.NaN, 7, 1e-30],
    ...[
      2 ** 31,
      -(2 ** 31),
      2 ** 31 - 128,
      2 ** 32,
      2 ** 32 - 256,
      8388607.5,
      -8388609,
      16777217,
      1e10,
      -3.7,
    ],
  ],
  i32: [0, 1, -1, 2, -2, 7, -7, 3, 2 ** 31 - 1, -(2 ** 31), 65537, -65537, 1 << 24, 123456789],
  u32: [0, 1, 2, 7, 3, 2 ** 31, 2 ** 31 - 1, 2 ** 32 - 1, 65537, 1 << 24, 4000000000],
  bool: [0, 1],
};

/** Every pair of special numbers, and a third that runs through them too. */
function argumentsOf(type: Words, isOdd: boolean): TypedArray[] {
  const list = special[type];
  const n = Math.ceil((list.length * list.length) / 4) * 4 + (isOdd ? 1 : 0);
  const at = (i: number): readonly number[] => [
    list[i % list.length]!,
    list[Math.floor(i / list.length) % list.length]!,
    list[(i * 7 + 3) % list.length]!,
  ];
  return [0, 1, 2].map((k) => {
    const array = makeArray(dtypeOf[type], n);
    for (let i = 0; i < n; i++) array[i] = at(i)[k]!;
    return array;
  });
}

const integers: readonly Words[] = ["i32", "u32"];
const numbers: readonly Words[] = ["f32", ...integers];
const all: readonly Words[] = [...numbers, "bool"];

/** For every operation the types of its arguments, and expressions with it of x, y and z. */
const operations: Readonly<Record<Op, readonly [readonly Words[], (x: Expr, y: Expr, z: Expr) => Expr[]]>> = {
  input: [all, (x, y) => [x, y]],
  const: [all, ({ type }) => special[type as Words].map((value) => e.constant(value, type))],
  iota: [["f32"], () => [e.iota, e.convert(e.iota, "f32")]],
  add: [numbers, (x, y) => [e.add(x, y), e.add(x, e.constant(3, x.type)), ofConstants(e.add, x.type)]],
  sub: [numbers, (x, y) => [e.sub(x, y), e.sub(x, e.constant(-3, x.type)), ofConstants(e.sub, x.type)]],
  mul: [numbers, (x, y) => [e.mul(x, y), ofConstants(e.mul, x.type)]],
  div: [numbers, (x, y) => [e.div(x, y), e.div(x, e.constant(0, x.type)), ofConstants(e.div, x.type)]],
  neg: [numbers, (x) => [e.neg(x), e.neg(e.neg(x))]],
  abs: [numbers, (x) => [e.abs(x)]],
  sqrt: [["f32"], (x) => [e.sqrt(x)]],
  floor: [numbers, (x) => [e.floor(x)]],
  ceil: [numbers, (x) => [e.ceil(x)]],
  trunc: [numbers, (x) => [e.trunc(x)]],
  nearest: [numbers, (x) => [e.nearest(x)]],
  min: [all, (x, y) => [e.min(x, y), e.min(x, e.constant(1, x.type)), e.min(e.constant(0, x.type), x)]],
  max: [all, (x, y) => [e.max(x, y), e.max(x, e.constant(1, x.type)), e.max(e.constant(0, x.type), x)]],
  fma: [integers, (x, y, z) => [e.fma(x, y, z)]],
  eq: [all, (x, y) => [e.eq(x, y), e.eq(x, x)]],
  ne: [all, (x, y) => [e.ne(x, y), e.ne(x, x), e.not(e.ne(x, y))]],
  lt: [all, (x, y) => [e.lt(x, y), e.not(e.lt(x, y)), e.lt(x, x)]],
  le: [all, (x, y) => [e.le(x, y), e.not(e.le(x, y)), e.le(x, x)]],
  select: [all, (x, y, z) => [e.select(e.lt(x, y), y, z), e.select(e.ne(x, x), e.constant(1, x.type), x)]],
  rare: [
    all,
    (x, y, z) => [e.rare(e.lt(x, y), e.min(y, z), z), e.rare(e.eq(x, y), e.rare(e.lt(x, z), x, z), y)],
  ],
  and: [[...integers, "bool"], (x, y) => [e.and(x, y)]],
  or: [[...integers, "bool"], (x, y) => [e.or(x, y)]],
  xor: [[...integers, "bool"], (x, y) => [e.xor(x, y)]],
  not: [[...integers, "bool"], (x) => [e.not(x)]],
  shl: [integers, (x) => [e.shl(x, 0), e.shl(x, 5), e.shl(x, 31)]],
  shr: [integers, (x) => [e.shr(x, 0), e.shr(x, 5), e.shr(x, 31)]],
  convert: [all, (x) => all.map((type) => e.convert(x, type))],
  bitcast: [numbers, (x) => (["f32", "i32", "u32"] as const).map((type) => e.bitcast(x, type))],
  call: [[], () => []],
};

/** An operation on constants that a compiler would compute, and refuse where it overflows. */
function ofConstants(f: (x: Expr, y: Expr) => Expr, type: ExprType): Expr {
  return f(
    e.constant(type === "f32" ? 3e38 : type === "i32" ? 2 ** 31 - 1 : 2 ** 32 - 1, type),
    e.constant(0, type),
  );
}

const isExact = (op: Op): boolean => op !== "div" && op !== "sqrt";

/** Whether a result is the one wanted; which of two equal zeros, and which NaN, is not said. */
function isRight(got: number, want: number, op: Op): boolean {
  if (got === want || (Number.isNaN(got) && Number.isNaN(want))) return true;
  // Numbers below the normal range may be zeros.
  if (Math.abs(want) < 2 ** -126 && got === 0) return true;
  return !isExact(op) && Math.abs(got - want) <= 4 * 2 ** -24 * Math.abs(want);
}

describe.skipIf(!hasGpu)("expressions", () => {
  for (const [op, [types, make]] of Object.entries(operations)) {
    if (types.length === 0) continue;
    test(`${op} means on the GPU what it means elsewhere`, async () => {
      const [soft, real] = [devices().get("a processor")!, devices().get("a GPU")!];
      for (const type of types) {
        const inputs = [0, 1, 2].map((i) => input(i, type));
        const exprs = make(inputs[0]!, inputs[1]!, inputs[2]!);
        for (const isOdd of [false, true]) {
          const arrays = argumentsOf(type, isOdd);
          const dtypes = arrays.map((): DType => dtypeOf[type]);
          for (let from = 0; from < exprs.length; from += 4) {
            const some = exprs.slice(from, from + 4);
            const results = await computed(some, arrays, dtypes, isOdd ? soft : real);
            some.forEach((root, k) => {
              for (let i = 0; i < arrays[0]!.length; i++) {
                const values = arrays.map((array) => array[i]!);
                const want = interpret(root, values, i);
                if (!isRight(results[k]![i]!, want, op as Op))
                  throw new Error(
                    `${op} ${from + k} of ${type} ${values}: ${results[k]![i]}, ${want} is needed`,
                  );
              }
            });
          }
        }
      }
    });
  }

  test("additions that round to an integer stay what they are", async () => {
    const [x] = [input(0, "f32")];
    const rounder = e.constant(1.5 * 2 ** 23 + 127, "f32");
    const rounded = e.fma(x, e.constant(0.75, "f32"), rounder);
    const xs = Float32Array.from({ length: 4000 }, (_, i) => i - 2000 + 0.1);
    const [k, bits] = await computed(
      [e.sub(rounded, rounder), e.bitcast(rounded, "i32")],
      [xs],
      ["float32"],
      devices().get("a GPU")!,
    );
    xs.forEach((value, i) => {
      expect(k![i]).toBe(Math.round(value * 0.75));
      expect(bits![i]! & 0x3fff).toBe((k![i]! + 127) & 0x3fff);
    });
  });
});

// --- functions ---------------------------------------------------------------------------------------------------

/**
 * Units in the last place on devices whose division and square root are within 3 units; as many as on the CPU, a few
 * for these, and a few for what the function makes of them.
 */
const bounds: readonly (readonly [AnyPrimitive, number])[] = [
  [p.expP, 2],
  [p.expm1P, 4],
  [p.logP, 3],
  [p.log1pP, 4],
  [p.sinP, 4],
  [p.cosP, 4],
  [p.tanP, 7],
  [p.asinP, 6],
  [p.acosP, 6],
  [p.atanP, 6],
  [p.sinhP, 6],
  [p.coshP, 4],
  [p.tanhP, 6],
  [p.sigmoidP, 6],
  [p.softplusP, 4],
  [p.erfP, 4],
  [p.erfcP, 8],
  [erfInvP, 8],
  [p.rsqrtP, 6],
  [p.powP, 8],
  [p.atan2P, 8],
];

const edges: readonly number[] = [
  ...[
    0,
    -0,
    Infinity,
    -Infinity,
    Number.NaN,
    1,
    -1,
    100,
    -100,
    88.72,
    88.73,
    -87.33,
    3.4e38,
    -3.4e38,
    0.5,
    -0.5,
  ],
  ...[2, -2, 3, -3, Math.PI, Math.PI / 2, 6400, 6401, -65536, 1e22, 2.5, -2.5, 1e-30, -1e-30, 0.75, 9, 10.06],
];

function samples(primitive: AnyPrimitive): TypedArray[] {
  const draw = new SeededDraw({ seed: 5, size: 3 });
  const anyFloat = (): number => (draw.bool() ? 1 : -1) * 2 ** (draw.unit() * 250 - 125);
  const usual = (): number => (draw.unit() - 0.5) * 2 ** draw.int(-3, 9);
  if (primitive.arity === 1) {
    const xs = [...edges];
    for (let i = 0; i < 12000; i++) xs.push(i % 2 === 0 ? usual() : anyFloat());
    return [Float32Array.from(xs)];
  }
  const pairs = edges.flatMap((x) => edges.map((y) => [x, y] as const));
  for (let i = 0; i < 12000; i++) {
    const x = 2 ** ((draw.unit() - 0.5) * (i % 2 === 0 ? 4 : 200));
    if (primitive !== p.powP) pairs.push([(draw.bool() ? 1 : -1) * x, anyFloat()]);
    else pairs.push([x, ((draw.unit() - 0.5) * 250) / Math.log2(x)]);
  }
  for (let i = 0; i < 1000; i++) pairs.push([-draw.unit() * 20, draw.int(-25, 25)]);
  return [Float32Array.from(pairs, ([x]) => x), Float32Array.from(pairs, ([, y]) => y)];
}

const bits = new DataView(new ArrayBuffer(4));
/** Numbers in order as integers. */
function rank(x: number): number {
  bits.setFloat32(0, x);
  const b = bits.getInt32(0);
  return b < 0 ? -(2 ** 31) - b : b;
}

describe.skipIf(!hasGpu)("functions", () => {
  for (const [primitive, bound] of bounds) {
    test(`${primitive.name} on the GPU is within ${bound} ulp, and right where it is special`, async () => {
      const { kernel } = primitive;
      if (kernel?.k !== "map") throw new Error(`${primitive.name} has no expression`);
      const arrays = samples(primitive);
      const dtypes = arrays.map((): DType => "float32");
      const aval = new Aval([arrays[0]!.length], "float32");
      const root = kernel.expr(
        arrays.map((_, i) => input(i, "f32")),
        null,
        aval,
      );
      const hosts = arrays.map((data) => ({ aval, data }));
      const want = primitive.cpu(hosts, [aval], null)[0]!;
      const [got] = await computed([root], arrays, dtypes, devices().get("a processor")!);
      for (let i = 0; i < want.length; i++) {
        const [x, y] = [got![i]!, want[i]!];
        const say = `(${arrays.map((array) => array[i])}) is ${y}, got ${x}`;
        expect(Number.isNaN(x), say).toBe(Number.isNaN(y));
        if (Number.isNaN(y)) continue;
        if (!Number.isFinite(y)) expect(x, say).toBe(y);
        // A device may take numbers below the normal range for zero, on the way too.
        if (Math.abs(x - y) > 2 ** -126) expect(Math.abs(rank(x) - rank(y)), say).toBeLessThanOrEqual(bound);
      }
    });
  }
});

// --- text --------------------------------------------------------------------------------------------------------

const block = (): Block => new Block(new Scope("f"));

test("what is needed twice is computed once", () => {
  const x = input(0, "f32");
  const one = block();
  one.bind(x, "x");
  const sum = e.add(x, x);
  one.emit(e.mul(sum, e.add(x, x)));
  expect(one.lines.filter((line) => line.includes("x + x")).length).toBe(1);
});

test("what a driver might fold without looking looks at the bits", () => {
  const x = input(0, "f32");
  for (const root of [e.eq(x, x), e.ne(x, x)]) {
    const one = block();
    one.bind(x, "x");
    one.emit(root);
    expect(one.lines.join()).toContain("isNan(x)");
    expect(one.scope.declarations()).toContain("fn isNan");
  }
});

test("chains of any length are statements", () => {
  const x = input(0, "f32");
  let sum = x;
  for (let i = 0; i < 50_000; i++) sum = e.add(sum, x);
  const one = block();
  one.bind(x, "x");
  one.emit(sum);
  expect(one.lines.length).toBe(50_000);
});

test("a branch computes what only it needs", () => {
  const x = input(0, "f32");
  const one = block();
  one.bind(x, "x");
  one.emit(e.rare(e.lt(x, e.constant(0, "f32")), e.sqrt(e.neg(x)), x));
  const from = one.lines.findIndex((line) => line.includes("if ("));
  expect(one.lines.slice(0, from).join()).not.toContain("sqrt");
  expect(one.lines.slice(from).join()).toContain("sqrt");
});

test("float64 and functions of the host are refused by name", () => {
  const x = input(0, "f64");
  const refused = (root: Expr): DeviceError => {
    try {
      const one = block();
      one.bind(x, "x");
      one.emit(root);
    } catch (error) {
      if (error instanceof DeviceError) return error;
      throw error;
    }
    throw new Error("nothing was refused");
  };
  expect(refused(e.add(x, x)).label).toBe("f");
  expect(refused(e.convert(x, "f32")).message).toContain("float64");
  expect(refused(e.call((y) => y, "f32", [e.constant(1, "f32")])).message).toContain("host");
});
