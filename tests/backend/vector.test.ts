/** The vector code of every operation and type against an interpreter, and the loads and stores around it. */
import { expect, test } from "bun:test";
import { FunctionBuilder } from "../../core/backends/cpu/assembler.ts";
import {
  loadOne,
  loadVec,
  splatLoad,
  storeOne,
  storeVec,
  VectorEmitter,
} from "../../core/backends/cpu/vector.ts";
import { bytesPerElement, type DType, dtypes, makeArray, type TypedArray } from "../../core/dtype.ts";
import * as e from "../../core/expr.ts";
import { type Seed, SeededDraw, seeds } from "../support/arbitrary_tensor.ts";
import { interpret } from "../support/expr_interpreter.ts";
import { propWith } from "../support/prop.ts";
import { arrayFunction, compile, hasRelaxed } from "../support/vector_kernel.ts";

const { exprType } = e;
const types: readonly e.ExprType[] = ["f32", "f64", "i32", "u32", "bool"];
const dtypeOf: Readonly<Record<e.ExprType, DType>> = {
  f32: "float32",
  f64: "float64",
  i32: "int32",
  u32: "uint32",
  bool: "bool",
};

// --- values ------------------------------------------------------------------------------------------------------

const floats: readonly number[] = [
  ...[0, -0, 0.5, -0.5, 1.5, 2.5, -2.5, 1e-40, -1e-45, 3e9, -3e9, 5e9, 2147483648, -2147483648],
  ...[1e30, Infinity, -Infinity, Number.NaN],
];
const integers: readonly number[] = [0, 1, -1, 2, 3, -3, 7, 31, 2 ** 31 - 1, -(2 ** 31), 2 ** 31 - 2, 65536];

function drawNumber(draw: SeededDraw, type: e.ExprType): number {
  if (type === "bool") return draw.int(0, 1);
  const isSpecial = draw.int(0, 3) === 0;
  if (type === "f32" || type === "f64")
    return isSpecial ? draw.pick(floats) : (draw.int(-(2 ** 20), 2 ** 20) / 2 ** 10) * 2 ** draw.int(-8, 8);
  return isSpecial ? draw.pick(integers) : draw.int(-20, 20);
}

function drawArray(draw: SeededDraw, type: e.ExprType, size: number): TypedArray {
  const array = makeArray(dtypeOf[type], size);
  for (let i = 0; i < size; i++) array[i] = drawNumber(draw, type);
  return array;
}

// --- expressions -------------------------------------------------------------------------------------------------

const isFloat = (type: e.ExprType): boolean => type === "f32" || type === "f64";
const hosts: readonly e.ScalarFunction[] = [
  (x) => 3 * x + 1,
  (x, y) => (x > y ? x : -y),
  (x, y, z) => x * z - y,
];

/** The bits of NaN are of no account: they do not become an integer. */
function withoutNaN(x: e.Expr): e.Expr {
  return isFloat(x.type) ? e.select(e.eq(x, x), x, e.constant(1, x.type)) : x;
}

/** Every way to make an expression of a type from one of each type asked for. */
function waysTo(
  type: e.ExprType,
  draw: SeededDraw,
  of: (type: e.ExprType) => e.Expr,
): readonly (() => e.Expr)[] {
  const same = (): e.Expr => of(type);
  const other = draw.pick(types);
  const mask = (): e.Expr => of("bool");
  const host = draw.pick(hosts);
  const all = [
    () => e.select(mask(), same(), same()),
    () => e.select(mask(), same(), e.constant(0, type)),
    () => e.select(mask(), e.constant(0, type), same()),
    () => e.rare(mask(), same(), same()),
    () => e.convert(of(other), type),
    () =>
      e.call(
        host,
        type,
        Array.from({ length: Math.max(host.length, 1) }, () => of(draw.pick(types))),
      ),
  ];
  const logic = [
    () => e.and(same(), same()),
    () => e.or(same(), same()),
    () => e.xor(same(), same()),
    () => e.not(same()),
  ];
  if (type === "bool") {
    return [
      ...all,
      ...logic,
      () => e.eq(of(other), of(other)),
      () => e.ne(of(other), of(other)),
      () => e.lt(of(other), of(other)),
      () => e.le(of(other), of(other)),
    ];
  }
  const numbers = [
    () => e.add(same(), same()),
    () => e.sub(same(), same()),
    () => e.mul(same(), same()),
    () => e.div(same(), same()),
    () => e.neg(same()),
    () => e.abs(same()),
    () => e.min(same(), same()),
    () => e.max(same(), same()),
    () => e.max(e.constant(drawNumber(draw, type), type), same()),
    () => e.min(e.constant(drawNumber(draw, type), type), same()),
    () => e.fma(same(), same(), same()),
    () => e.floor(same()),
    () => e.ceil(same()),
    () => e.trunc(same()),
    () => e.nearest(same()),
  ];
  const word = draw.pick<"f32" | "i32" | "u32">(["f32", "i32", "u32"]);
  const cast = (to: "f32" | "i32" | "u32") => () => e.bitcast(withoutNaN(of(word)), to);
  if (type === "f64") return [...all, ...numbers, () => e.sqrt(same())];
  if (type === "f32") return [...all, ...numbers, () => e.sqrt(same()), cast("f32")];
  return [
    ...all,
    ...numbers,
    ...logic,
    () => e.shl(same(), draw.int(0, 31)),
    () => e.shr(same(), draw.int(0, 31)),
    cast(type),
  ];
}

/** A random expression; nodes made before are used again. */
function drawExpression(draw: SeededDraw, type: e.ExprType, depth: number, made: e.Expr[]): e.Expr {
  const again = made.filter((node) => node.type === type);
  if (again.length > 0 && draw.int(0, 4) === 0) return draw.pick(again);
  if (depth === 0 || draw.int(0, 9) === 0) {
    const kind = draw.int(0, 4);
    if (kind === 0) return e.constant(drawNumber(draw, type), type);
    return kind === 1 && type === "u32" ? e.iota : e.input(types.indexOf(type), type);
  }
  const ways = waysTo(type, draw, (of) => drawExpression(draw, of, depth - 1, made));
  const node = draw.pick(ways)();
  made.push(node);
  return node;
}

const seen = new Set<string>();

/** Notes every operation with the type of its first argument, and of its value where they differ. */
function note(node: e.Expr): void {
  const from = node.args[0]?.type ?? node.type;
  seen.add(
    node.op === "convert" || node.op === "bitcast" ? `${node.op} ${from} ${node.type}` : `${node.op} ${from}`,
  );
  node.args.forEach(note);
}

const size = 11;

function check(seed: Seed, options: { readonly relaxed: boolean; readonly pool: boolean }): void {
  const draw = new SeededDraw(seed);
  const expression = drawExpression(draw, draw.pick(types), 5, []);
  note(expression);
  const arrays = types.map((type) => drawArray(draw, type, size));
  const run = arrayFunction(
    expression,
    types.map((type) => dtypeOf[type]),
    dtypeOf[expression.type],
    options,
  );
  const expected = makeArray(dtypeOf[expression.type], size);
  for (let i = 0; i < size; i++)
    expected[i] = interpret(
      expression,
      arrays.map((array) => array[i]!),
      i,
    );
  expect([...run(...arrays)]).toEqual([...expected]);
}

test("every operation of every type has the values of the interpreter", () => {
  const numbers = ["f32", "f64", "i32", "u32"];
  const each = (ops: string, of: readonly string[]): string[] =>
    ops.split(" ").flatMap((op) => of.map((type) => `${op} ${type}`));
  const pairs = types.flatMap((from) => types.filter((to) => to !== from).map((to) => `${from} ${to}`));
  const words = ["f32", "i32", "u32"];
  const wanted = [
    ...each("input const eq ne lt le call", types),
    ...each("add sub mul div neg abs min max fma floor ceil trunc nearest", numbers),
    ...each("sqrt", ["f32", "f64"]),
    ...each("shl shr", ["i32", "u32"]),
    ...each("and or xor not", ["i32", "u32", "bool"]),
    ...each("select rare", ["bool"]),
    "iota u32",
    ...pairs.map((pair) => `convert ${pair}`),
    ...words.flatMap((from) => words.filter((to) => to !== from).map((to) => `bitcast ${from} ${to}`)),
  ];
  // Random expressions until all have occurred.
  const missing = (): string[] => wanted.filter((one) => !seen.has(one));
  for (let seed = 0; seed < 3000 && missing().length > 0; seed++)
    check({ seed, size: 3 }, { relaxed: false, pool: false });
  expect(missing()).toEqual([]);
});

const expressions = "random expressions have the values of the interpreter";

propWith({ runs: 200, timeoutMs: 60_000 }, expressions, seeds(3), (seed) =>
  check(seed, { relaxed: false, pool: false }),
);

propWith({ runs: 200, timeoutMs: 60_000 }, `${expressions} with constants in memory`, seeds(3), (seed) =>
  check(seed, { relaxed: false, pool: true }),
);

// --- single rules ------------------------------------------------------------------------------------------------

const plain = { relaxed: false, pool: false };

test("integer division rounds towards zero, gives 0 over 0, and does not trap at -2^31 / -1", () => {
  const lowest = -(2 ** 31);
  const [x, y] = [e.input(0, "i32"), e.input(1, "i32")];
  const run = arrayFunction(e.div(x, y), ["int32", "int32"], "int32", plain);
  const tops = Int32Array.of(7, -7, 7, -7, 5, lowest, lowest, lowest, 2 ** 31 - 1, 0);
  const bottoms = Int32Array.of(2, 2, -2, -2, 0, -1, 1, 2, -1, 0);
  expect([...run(tops, bottoms)]).toEqual([3, -3, -3, 3, 0, lowest, lowest, lowest / 2, -(2 ** 31 - 1), 0]);
  const unsigned = arrayFunction(
    e.div(e.input(0, "u32"), e.input(1, "u32")),
    ["uint32", "uint32"],
    "uint32",
    plain,
  );
  expect([...unsigned(Uint32Array.of(2 ** 32 - 1, 2 ** 32 - 1, 9), Uint32Array.of(2, 0, 10))]).toEqual([
    2 ** 31 - 1,
    0,
    0,
  ]);
});

test("a fused multiply-add is within one rounding of the exact value", () => {
  const inputs = [0, 1, 2].map((i) => e.input(i, "f32")) as [e.Expr, e.Expr, e.Expr];
  const draw = new SeededDraw({ seed: 5, size: 3 });
  const arrays = inputs.map(() => Float32Array.from({ length: 401 }, () => draw.int(-1e6, 1e6) / 1024));
  for (const relaxed of hasRelaxed() ? [false, true] : [false]) {
    const run = arrayFunction(e.fma(...inputs), ["float32", "float32", "float32"], "float32", {
      relaxed,
      pool: true,
    });
    run(...arrays).forEach((got, i) => {
      const [x, y, z] = arrays.map((array) => array[i]!) as [number, number, number];
      const slack = (Math.abs(x * y) + Math.abs(x * y + z)) * 2 ** -24;
      expect(Math.abs(got - (x * y + z))).toBeLessThanOrEqual(slack);
    });
  }
});

test("a rare branch runs for the vectors that need it, and not for the others", () => {
  let calls = 0;
  const counted: e.ScalarFunction = (x) => {
    calls++;
    return x + 100;
  };
  const x = e.input(0, "f32");
  const isLarge = e.lt(e.constant(10, "f32"), x);
  // What the branch has in common with the rest is there outside of it too.
  const shared = e.mul(x, e.constant(2, "f32"));
  const y = e.add(e.rare(isLarge, e.call(counted, "f32", [shared]), x), shared);
  const run = arrayFunction(y, ["float32"], "float32", plain);
  expect([...run(Float32Array.of(1, 2, 3, 4, 5, 20, 7, 8))]).toEqual([3, 6, 9, 12, 15, 180, 21, 24]);
  expect(calls).toBe(4);
});

test("integer results of host functions wrap around as stores to typed arrays do", () => {
  const far: e.ScalarFunction = (x) => x * 2 ** 33 + 5 - 2 ** 32;
  for (const dtype of ["int32", "uint32"] as const) {
    const run = arrayFunction(e.call(far, exprType(dtype), [e.input(0, "f64")]), ["float64"], dtype, plain);
    const xs = Float64Array.of(0, 1, -1, 0.25, 0.4);
    const expected = makeArray(dtype, xs.length);
    xs.forEach((x, i) => {
      expected[i] = far(x, 0, 0);
    });
    expect([...run(xs)]).toEqual([...expected]);
  }
});

// --- memory ------------------------------------------------------------------------------------------------------

/** Elements whose bytes all differ; bools are any byte, of which all but 0 are true. */
function pattern(dtype: DType, n: number): TypedArray {
  const array = makeArray(dtype, n);
  for (let i = 0; i < n; i++) array[i] = dtype === "bool" ? (i % 3) * 100 : (i + 1) * 1234567.25;
  return array;
}
const meaning = (dtype: DType, array: Iterable<number>): number[] =>
  [...array].map((x) => (dtype === "bool" ? Number(x !== 0) : x));

/** The elements at the given bytes, as a tensor of the type. */
function elements(memory: WebAssembly.Memory, dtype: DType, at: number, n: number): TypedArray {
  const bytes = new Uint8Array(memory.buffer).slice(at, at + n * bytesPerElement(dtype));
  const array = makeArray(dtype, n);
  new Uint8Array(array.buffer).set(bytes);
  return array;
}

for (const dtype of dtypes) {
  const type = exprType(dtype);
  const width = bytesPerElement(dtype);
  const [from, to] = [1024, 8192];

  /** Runs a load, then a store, on a memory with the pattern, and gives what it wrote there with one element around. */
  const moved = (
    load: (f: FunctionBuilder, v: readonly number[], address: number) => void,
    store: typeof storeVec,
    at: number,
  ): TypedArray => {
    const { functions, memory } = compile((importCall) => {
      const f = new FunctionBuilder(["i32", "i32"]);
      const v = new VectorEmitter(f, { relaxed: false, importCall }).newVec(type);
      load(f, v, 0);
      store(f, type, v, () => f.get(1), dtype);
      return { move: f };
    });
    const source = pattern(dtype, 64);
    const bytes = new Uint8Array(memory.buffer);
    bytes.set(new Uint8Array(source.buffer), from);
    bytes.fill(7, to - 64, to + 128);
    functions["move"]!(from + at * width, to);
    expect([...bytes.subarray(to - 64, to)]).toEqual(new Array(64).fill(7));
    const count = store === storeOne ? 1 : 4;
    expect([...bytes.subarray(to + count * width, to + 128)]).toEqual(new Array(128 - count * width).fill(7));
    return elements(memory, dtype, to, count);
  };
  const source = meaning(dtype, pattern(dtype, 64));

  test(`${dtype}: four neighbours, one element, and one element to all lanes`, () => {
    const loadWith = (load: typeof loadVec) => (f: FunctionBuilder, v: readonly number[], address: number) =>
      load(f, type, v, () => f.get(address), dtype);
    expect([...moved(loadWith(loadVec), storeVec, 3)]).toEqual(source.slice(3, 7));
    expect([...moved(loadWith(loadOne), storeOne, 5)]).toEqual(source.slice(5, 6));
    expect([...moved(loadWith(splatLoad), storeVec, 4)]).toEqual(new Array(4).fill(source[4]));
  });
}

test("what a prologue inside a loop left is forgotten after it, constants in memory too", () => {
  // The inner code does not run; what follows it must not use what its prologue would have placed.
  const many = Array.from({ length: 20 }, (_, i) => e.constant(i + 1, "f32"));
  const x = e.input(0, "f32");
  const sum = many.reduce((total, one) => e.add(total, e.mul(x, one)), x as e.Expr);
  const { functions, memory } = compile((importCall) => {
    const f = new FunctionBuilder(["i32", "i32", "i32"]);
    const emitter = new VectorEmitter(f, {
      relaxed: false,
      importCall,
      pool: { address: 2, offset: 16, capacity: 12 },
    });
    const v = emitter.newVec("f32");
    loadVec(f, "f32", v, () => f.get(1), "float32");
    emitter.prologue([]);
    const saved = emitter.save();
    f.get(0).when(() => {
      emitter.prologue([sum]);
      emitter.forget();
      emitter.bind(x, v);
      emitter.emit(sum);
      emitter.restore(saved);
    });
    emitter.bind(x, v);
    storeVec(f, "f32", emitter.emit(sum), () => f.get(1), "float32");
    return { run: f };
  });
  const array = new Float32Array(memory.buffer, 64, 4);
  for (const isRun of [0, 1]) {
    array.set([1, 2, -1, 0.5]);
    functions["run"]!(isRun, 64, 4096);
    expect([...array]).toEqual([211, 422, -211, 105.5]);
  }
});

propWith({ runs: 60 }, "copies written together compute what each computes alone", seeds(), (seed) => {
  const draw = new SeededDraw(seed);
  const [x, y, shared] = [e.input(0, "f32"), e.input(1, "f32"), e.input(2, "f32")];
  // A branch that is taken in some copies and not in others, constants that all share, masks of both widths.
  const wide = e.fma(e.convert(x, "f64"), e.constant(3, "f64"), e.convert(shared, "f64"));
  const chosen = e.select(e.lt(wide, e.constant(draw.int(-9, 9), "f64")), wide, e.convert(y, "f64"));
  const sum = e.add(e.mul(x, e.constant(3, "f32")), e.abs(e.sub(y, shared)));
  const seldom = e.rare(e.lt(e.constant(draw.int(0, 9), "f32"), x), e.mul(sum, e.add(sum, shared)), sum);
  const root = e.add(seldom, e.convert(chosen, "f32"));
  const copies = draw.int(1, 4);
  const { functions, memory } = compile((importCall) => {
    const f = new FunctionBuilder(["i32", "i32"]);
    const pool = { address: 1, offset: 0, capacity: 64 };
    const emitter = new VectorEmitter(f, { relaxed: false, importCall, pool });
    const load = (value: e.Expr, offset: number): void => {
      const v = emitter.newVec("f32");
      loadVec(f, "f32", v, () => f.get(0), "float32", offset);
      emitter.bind(value, v);
    };
    load(shared, 128);
    emitter.prologue([root], draw.int(0, 6));
    emitter.forget(copies);
    for (let copy = 0; copy < copies; copy++) {
      emitter.at(copy);
      load(x, 16 * copy);
      load(y, 64 + 16 * copy);
    }
    emitter.emitTogether(root).forEach((v, copy) => {
      storeVec(f, "f32", v, () => f.get(0), "float32", 256 + 16 * copy);
    });
    return { run: f };
  });
  const array = new Float32Array(memory.buffer, 1024, 128);
  for (let i = 0; i < 36; i++) array[i] = draw.int(-9, 9);
  functions["run"]!(1024, 8192);
  for (let i = 0; i < 4 * copies; i++) {
    const inputs = [array[i]!, array[16 + i]!, array[32 + (i % 4)]!];
    expect(array[64 + i]!).toBe(interpret(root, inputs, 0));
  }
});
