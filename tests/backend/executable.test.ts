/** Compiled programs around the kernels: whose memory is whose, functions of records that go wrong, a heap that is full. */
import { expect, test } from "bun:test";
import * as ops from "../../core/ops.ts";
import "../../core/random.ts";
import { Aval } from "../../core/aval.ts";
import { cpu } from "../../core/backends/cpu/backend.ts";
import { dotKernel } from "../../core/backends/cpu/dot.ts";
import { Engine, engine } from "../../core/backends/cpu/engine.ts";
import { Compiler, compile } from "../../core/backends/cpu/executable.ts";
import { Heap } from "../../core/backends/cpu/heap.ts";
import { scanKernels } from "../../core/backends/cpu/scan.ts";
import { ones, tensor } from "../../core/create.ts";
import type { TypedArray } from "../../core/dtype.ts";
import { RuleError } from "../../core/errors.ts";
import { definePrimitive, type HostArray, type Primitive } from "../../core/primitive.ts";
import { addP, elementwise } from "../../core/prims/elementwise.ts";
import { type Eqn, type Program, stage, Var } from "../../core/program.ts";
import { adopt, bind, scalar } from "../../core/trace.ts";
import { donate, storage, type Tensor, type Value } from "../../core/value.ts";
import { assertClose } from "../support/tolerance.ts";

/** More elements than are copied in and out of the heap. */
const MANY = 8192;

function programOf(f: (...xs: Value[]) => Value[], ...xs: readonly Value[]): Program {
  return stage(
    f,
    xs.map((x) => x.aval),
  );
}

/** A tensor whose elements are in the heap: a large result. */
function inHeap(f: (i: number) => number): Tensor {
  const x = adopt(
    Float32Array.from({ length: MANY }, (_, i) => f(i)),
    [MANY],
    "float32",
  );
  const [y] = cpu.compile(programOf((v) => [ops.abs(ops.neg(v!))], x)).run([x]);
  expect(engine().heap.pointerOf(storage(y!))).not.toBe(0);
  return y!;
}

let defined = 0;

/** A primitive of one operand with the operand's shape, known only by its function. */
function hostPrimitive(f: (x: HostArray) => TypedArray[]): Primitive<null> {
  const primitive: Primitive<null> = definePrimitive<null>({
    name: `test_executable_${defined++}`,
    doc: "what the test says",
    arity: 1,
    traits: {},
    shape: ([x]) => [x!],
    cpu: ([x]) => f(x!),
    jvp: ([x], [dx]) => [bind(primitive, [x!], null), [dx!]],
    batch: ([x], [dim]) => [bind(primitive, [x!], null), [dim!]],
    domain: (draw) => ({ args: [{ shape: draw.shape(0, 2) }], params: null }),
  });
  return primitive;
}

// ------------------------------------------------------------------------------------------------------------ memory

test("a constant keeps its elements when its tensor is given up elsewhere", () => {
  const constant = inHeap((i) => i % 7);
  const x = ones([MANY]) as Tensor;
  const sum = cpu.compile(programOf((v) => [ops.add(v!, constant)], x));
  const expected = Float32Array.from({ length: MANY }, (_, i) => 1 + (i % 7));
  expect(storage(sum.run([x])[0]!)).toEqual(expected);
  const overwriting = cpu.compile(
    programOf((v) => [ops.mul(v!, 5)], constant),
    { donated: [true] },
  );
  const product = overwriting.run([constant])[0]!;
  donate(constant, "a test");
  expect(storage(product)[1]).toBe(5);
  expect(storage(sum.run([x])[0]!)).toEqual(expected);
});

test("a large array that two tensors share is not overwritten after it moved to the heap", () => {
  const x = adopt(new Float32Array(MANY).fill(2), [MANY], "float32");
  const view = ops.reshape(x, [2, MANY / 2]) as Tensor;
  const f = programOf((v) => [ops.add(v!, 1)], x);
  cpu.compile(f).run([x]);
  const [y] = cpu.compile(f, { donated: [true] }).run([x]);
  expect([storage(y!)[9], storage(x)[9], storage(view)[9]]).toEqual([3, 2, 2]);
});

test("an argument or a constant that is a result is a tensor of its own", () => {
  const [x, constant] = [tensor([1, 2]) as Tensor, tensor([3, 4]) as Tensor];
  const v = new Var(x.aval);
  const executable = cpu.compile({ ins: [v], eqns: [], outs: [v, constant, v] });
  const outs = executable.run([x]);
  for (const one of [x, constant]) donate(one, "a test");
  expect(outs.map((one) => [...storage(one)])).toEqual([
    [1, 2],
    [3, 4],
    [1, 2],
  ]);
});

test("a part of an operand's elements is copied: the operand may go before it", () => {
  const primitive = hostPrimitive(({ data }) => [data.subarray(0)]);
  const x = inHeap((i) => i);
  const [y] = cpu.evaluate(primitive, [x], null);
  storage(x).fill(-1);
  expect([storage(y!)[0], storage(y!)[MANY - 1]]).toEqual([0, MANY - 1]);
});

// --------------------------------------------------------------------------------------------- functions that go wrong

for (const [what, f] of [
  ["too few elements", ({ data }: HostArray) => [data.slice(1)]],
  ["too many elements", ({ data }: HostArray) => [new Float32Array(data.length + 1)]],
  ["another element type", ({ data }: HostArray) => [Float64Array.from(data)]],
  ["no array", () => []],
] as const) {
  test(`a record's function that gives ${what} is an error that names the primitive`, () => {
    const primitive = hostPrimitive((x) => [...f(x)]);
    const x = ones([3]) as Tensor;
    const executable = cpu.compile(programOf((v) => bind(primitive, [ops.add(v!, 1)], null), x));
    for (const run of [() => cpu.evaluate(primitive, [x], null), () => executable.run([x])]) {
      expect(run).toThrow(RuleError);
      expect(run).toThrow(`Cannot use result 0 of primitive "${primitive.name}"`);
    }
  });
}

test("what a scalar function throws in a kernel arrives as it is, and the next run is right", () => {
  const error = new RangeError("mine");
  let isBroken = true;
  const primitive = elementwise({
    name: "test_executable_throws",
    doc: "twice, or an error",
    accepts: ["number"],
    scalar: (x) => {
      if (isBroken) throw error;
      return 2 * x;
    },
  });
  const x = ones([5]) as Tensor;
  const executable = cpu.compile(programOf((v) => bind(primitive, [ops.add(v!, 1)], null), x));
  expect(() => executable.run([x])).toThrow(error);
  isBroken = false;
  expect([...storage(executable.run([x])[0]!)]).toEqual([4, 4, 4, 4, 4]);
});

test("a record's function may compute with tensors while a program runs", () => {
  const primitive = hostPrimitive(({ data }) => {
    const x = adopt(data.slice(), [data.length], "float32");
    return [ops.sum(ops.mul(ops.reshape(x, [1, data.length]), 3), { axis: 0 }).dataSync()];
  });
  const x = ones([MANY]) as Tensor;
  const f = (v: Value): Value => ops.add(bind(primitive, [ops.add(v, 1)], null)[0]!, v);
  const [y] = cpu.compile(programOf((v) => [f(v!)], x)).run([x]);
  assertClose(y!, ops.mul(x, 7), "three times two, and one");
});

test("parameters of a primitive without a kernel are not kept", async () => {
  const primitive = hostPrimitive(({ data }) => [data.slice()]);
  const x = ones([3]) as Tensor;
  class Options {
    readonly rates = new Float64Array(8);
  }
  const seen = Array.from({ length: 64 }, () => {
    const options = new Options();
    cpu.evaluate(primitive, [x], { options });
    return new WeakRef(options);
  });
  await new Promise((resolve) => setTimeout(resolve, 1));
  Bun.gc(true);
  // What the stack happens to hold may stay.
  expect(seen.filter((one) => one.deref() !== undefined).length).toBeLessThan(32);
});

// ------------------------------------------------------------------------------------------------------------- limits

test("a chain of equations may be longer than the stack is deep", () => {
  const aval = new Aval([], "float32");
  const first = new Var(aval);
  const one = scalar(1, "float32");
  const eqns: Eqn[] = [];
  let last = first;
  for (let i = 0; i < 20_000; i++) {
    const next = new Var(aval);
    eqns.push({ prim: addP, ins: [last, one], outs: [next], params: null });
    last = next;
  }
  const [y] = cpu.compile({ ins: [first], eqns, outs: [last] }).run([one]);
  expect(storage(y!)[0]).toBe(20_001);
});

test("with a full heap programs are compiled for the reference, and nothing stays behind", () => {
  const heap = new Heap({ pages: 64, collect: null });
  const small = new Engine({ heap, threads: 1 });
  const compiler = new Compiler(small, new Map([["dot", dotKernel]]));
  const x = tensor([
    [1, 2],
    [3, 4],
  ]) as Tensor;
  const product = programOf((v) => [ops.matmul(v!, v!), ops.exp(v!)], x);
  const expected = [ops.matmul(x, x), ops.exp(x)];
  const blocks: number[] = [];
  for (const bytes of [2 ** 20, 2 ** 16, 2 ** 12, 64])
    for (let block = heap.allocate(bytes); block !== 0; block = heap.allocate(bytes)) blocks.push(block);
  const before = heap.report().liveBytes;
  const executable = compile(product, compiler);
  for (let call = 0; call < 2; call++) {
    executable.run([x]).forEach((y, i) => {
      assertClose(y, expected[i]!, `full, call ${call}, output ${i}`);
    });
  }
  expect(heap.report().liveBytes).toBe(before);
  // With room for one block but not for all.
  heap.free(blocks.pop()!);
  const left = heap.report().liveBytes;
  compile(product, compiler)
    .run([x])
    .forEach((y, i) => {
      assertClose(y, expected[i]!, `nearly full, output ${i}`);
    });
  expect(heap.report().liveBytes).toBe(left);
});

test("a kernel written by hand whose argument block makes the memory grow gets its arguments", () => {
  const program = programOf((x) => [ops.cumsum(x)], ones([5]));
  const engineOf = (): Engine => new Engine({ heap: new Heap({ pages: 2048 }), threads: 1 });
  /** Allocates blocks of a size until the next one does not fit into what exists; says how many. */
  const fill = ({ heap }: Engine, bytes: number, count = Infinity): number => {
    const before = heap.buffer.byteLength;
    for (let n = 0; n < count; n++) {
      heap.allocate(bytes);
      if (heap.buffer.byteLength !== before) return n;
    }
    return count;
  };
  const probe = engineOf();
  const plan: (readonly [bytes: number, count: number])[] = [];
  for (const bytes of [60_000, 1000, 64]) {
    const trial = engineOf();
    for (const [size, count] of plan) fill(trial, size, count);
    plan.push([bytes, fill(trial, bytes)]);
  }
  for (const [size, count] of plan) fill(probe, size, count);
  const before = probe.heap.buffer.byteLength;
  const executable = compile(program, new Compiler(probe, new Map([...scanKernels])));
  expect(probe.heap.buffer.byteLength).toBeGreaterThan(before);
  expect(executable.run([ones([5]) as Tensor])[0]!.toArray()).toEqual([1, 2, 3, 4, 5]);
});
