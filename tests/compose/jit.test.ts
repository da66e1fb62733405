/** Compiled functions: the numbers of the function, recorded once, in every transform. */
import { afterEach, describe, expect, test } from "bun:test";
import { hessian, hvp, jacrev } from "../../autodiff/hvp.ts";
import { type JitCounts, jit } from "../../autodiff/jit.ts";
import { jvp } from "../../autodiff/jvp.ts";
import { linearize } from "../../autodiff/linearize.ts";
import { makeProgram } from "../../autodiff/program.ts";
import { grad, valueAndGrad, vjp } from "../../autodiff/vjp.ts";
import { vmap } from "../../autodiff/vmap.ts";
import { type CompileOptions, reference } from "../../core/backend.ts";
import { ones, tensor, zeros } from "../../core/create.ts";
import { ShapeError, TraceError, TreeError } from "../../core/errors.ts";
import * as ops from "../../core/ops.ts";
import { type Program, verify } from "../../core/program.ts";
import { key, normal } from "../../core/random.ts";
import { currentBackend, scalar, setBackend } from "../../core/trace.ts";
import type { Value } from "../../core/value.ts";
import { randomIdentities } from "../support/arbitrary_identities.ts";
import { randomFunction } from "../support/arbitrary_program.ts";
import { SeededDraw, seeds } from "../support/arbitrary_tensor.ts";
import { prop } from "../support/prop.ts";
import { assertClose, assertTreesClose } from "../support/tolerance.ts";

/** Under FORCE_JIT=1 the transform around a compiled function is compiled itself: nothing is left to see from outside. */
const outside = test.skipIf(process.env["FORCE_JIT"] === "1");

const original = currentBackend();
afterEach(() => {
  setBackend(original);
});

const x3 = tensor([1, 2, 3]);
const x4 = tensor([1, 2, 3, 4]);
const square = (x: Value): Value => x.mul(x);
const waves = (x: Value): Value => ops.sum(ops.sin(square(x)));

/** A function that counts how often it runs, as a traced function does. */
function counted<A extends readonly unknown[], R>(
  f: (...args: A) => R,
): { f: (...args: A) => R; runs(): number } {
  let runs = 0;
  return {
    f: (...args) => {
      runs++;
      return f(...args);
    },
    runs: () => runs,
  };
}

// ------------------------------------------------------------------------------------------------------------ laws

prop("a compiled function is the function", seeds(), (seed) => {
  const { f, xs } = randomFunction(seed);
  const compiled = jit((...at: readonly Value[]) => f(...at));
  for (let call = 0; call < 2; call++) assertTreesClose(compiled(...xs), f(...xs), `call ${call}`);
  expect(compiled.stats()).toEqual({ traces: 1, hits: 1, evictions: 0, size: 1 });
});

prop("a compiled function of moves and identities is the function", seeds(4), (seed) => {
  const { f, xs } = randomIdentities(seed, "all", "float32");
  assertTreesClose(jit((...at: readonly Value[]) => f(...at))(...xs), f(...xs), "outputs");
});

prop("transforms of a compiled function, and compiled transforms, are the transforms", seeds(), (seed) => {
  const { loss, xs } = randomFunction(seed);
  const draw = new SeededDraw({ ...seed, seed: ~seed.seed });
  const f = (p: Value[]): Value => loss(...p);
  const compiled = jit(f);
  const p: Value[] = [...xs];
  const v: Value[] = xs.map((x) => draw.direction(x));
  const gradient = vjp(f, p)[1](scalar(1, "float64"))[0];
  assertTreesClose(vjp(compiled, p)[1](scalar(1, "float64"))[0], gradient, "vjp of jit");
  assertTreesClose(jit((q: Value[]) => vjp(f, q)[1](scalar(1, "float64"))[0])(p), gradient, "jit of vjp");
  assertTreesClose(jvp(compiled, [p], [v]), jvp(f, [p], [v]), "jvp of jit");
  assertTreesClose(linearize(compiled, p)[1](v), linearize(f, p)[1](v), "linearize of jit");
  const product = hvp(f)(p, v);
  assertTreesClose(hvp(compiled)(p, v), product, "hvp of jit");
  assertTreesClose(jit(hvp(f))(p, v), product, "jit of hvp");
  assertTreesClose(jit(hvp(jit(f)))(p, v), product, "jit of hvp of jit");
  const rows: Value[] = xs.map((x) => ops.stack([x, ops.neg(x)]));
  assertTreesClose(vmap(compiled)(rows), vmap(f)(rows), "vmap of jit");
  assertTreesClose(jit(vmap(f))(rows), vmap(f)(rows), "jit of vmap");
  expect(compiled.stats().traces).toBe(1);
});

test("matrices of derivatives", () => {
  const x = tensor([0.5, -1], { dtype: "float64" });
  assertClose(hessian(jit(waves))(x), hessian(waves)(x), "hessian of jit");
  assertClose(jit(hessian(waves))(x), hessian(waves)(x), "jit of hessian");
  assertClose(jit(jacrev(square))(x), jacrev(square)(x), "jit of jacrev");
  const [value, gradient] = jit(valueAndGrad(waves))(x);
  assertTreesClose([value, gradient], valueAndGrad(waves)(x), "valueAndGrad");
});

test("derivatives stop where they did", () => {
  const f = (x: Value): Value => ops.sum(ops.mul(x, ops.stopGradient(x)));
  assertClose(grad(jit(f))(x3), x3, "grad of jit");
  assertClose(jit(grad(jit(f)))(x3), x3, "jit of grad of jit");
});

test("a compiled function is recorded inside another without a trace of it", () => {
  const inlined = String(makeProgram(jit((x: Value) => ops.sin(square(x))))(x3));
  expect(inlined).toBe(String(makeProgram((x: Value) => ops.sin(square(x)))(x3)));
});

// ------------------------------------------------------------------------------------------------------------ keys

describe("one recording", () => {
  const { f, runs } = counted((_args: unknown, x: Value) => ops.neg(x));
  const compiled = jit(f);
  const isNew = (args: unknown, x: Value = x3): boolean => {
    const before = runs();
    compiled(args, x);
    const { traces } = compiled.stats();
    expect(traces).toBe(runs());
    return runs() > before;
  };

  test("for each shape, element type and place of a tensor", () => {
    expect(isNew(null)).toBe(true);
    expect(isNew(null, tensor([7, 8, 9]))).toBe(false);
    expect(isNew(null, x4)).toBe(true);
    expect(isNew(null, tensor([1, 2, 3], { dtype: "float64" }))).toBe(true);
    expect(isNew(null, tensor([[1, 2, 3]]))).toBe(true);
    expect(isNew(null)).toBe(false);
    expect(isNew(x3)).toBe(true);
    expect(isNew([x3])).toBe(true);
    expect(isNew({ w: x3 })).toBe(true);
    expect(isNew({ v: x3 })).toBe(true);
    expect(isNew({ v: tensor([4, 5, 6]) })).toBe(false);
  });

  test("for each value of what is no tensor", () => {
    const values = [
      1,
      2,
      0,
      -0,
      Number.NaN,
      "1",
      "a",
      "[",
      true,
      false,
      undefined,
      1n,
      Symbol.iterator,
      Symbol("s"),
    ];
    for (const value of values) expect([value, isNew(value)]).toEqual([value, true]);
    for (const value of values) expect([value, isNew(value)]).toEqual([value, false]);
  });

  test("for each structure of what is no tensor, whatever the order of keys", () => {
    expect(isNew({ a: 1, b: [2, "x"] })).toBe(true);
    expect(isNew({ b: [2, "x"], a: 1 })).toBe(false);
    expect(isNew(Object.freeze({ a: 1, b: Object.freeze([2, "x"]) }))).toBe(false);
    expect(isNew(Object.assign(Object.create(null), { a: 1, b: [2, "x"] }))).toBe(false);
    for (const other of [
      { a: 1, b: [2] },
      { a: 1, b: [2, "y"] },
      { a: 1 },
      { a: 1, b: [2, "x"], c: undefined },
      [],
      {},
    ])
      expect(isNew(other)).toBe(true);
    expect(isNew({ a: 1, b: [2, "x"] })).toBe(false);
  });

  test("for each function and each instance of a class", () => {
    const [f, g] = [() => 1, () => 1];
    expect([f, g, f, g].map((one) => isNew(one))).toEqual([true, true, false, false]);
    const [m, n] = [new Map([["a", 1]]), new Map([["a", 1]])];
    expect([m, n, m, n].map((one) => isNew({ one }))).toEqual([true, true, false, false]);
    class Options {
      readonly a = 1;
    }
    expect(isNew({ a: 1 })).toBe(false);
    expect(isNew(new Options())).toBe(true);
  });

  test("for each number of arguments", () => {
    const f = jit((...xs: Value[]) => xs.reduce(ops.add));
    assertClose(f(x3), x3, "one");
    assertClose(f(x3, x3), ops.add(x3, x3), "two");
    assertClose(f(x3), x3, "one again");
    expect(f.stats()).toEqual({ traces: 2, hits: 1, evictions: 0, size: 2 });
  });
});

test("what is no tensor reaches the function as it is", () => {
  const seen: unknown[] = [];
  const options = Object.freeze({ rate: 2, names: ["a"] });
  const f = jit((x: Value, given: { options: typeof options; x: Value; list: number[] }) => {
    seen.push(given.options, given.list);
    return ops.mul(ops.mul(x, given.x), given.options.rate);
  });
  const list = [1, 2];
  assertClose(f(x3, { options, x: x3, list }), ops.mul(square(x3), 2), "result");
  expect(seen[0]).toBe(options);
  expect(seen[1]).toBe(list);
});

test("programs that are not used go first, and the totals count all functions", () => {
  const before: JitCounts = jit.stats();
  const { f, runs } = counted((n: number, x: Value) => ops.mul(x, n));
  const compiled = jit(f, { cacheSize: 2 });
  for (const n of [1, 2, 1, 3]) assertClose(compiled(n, x3), ops.mul(x3, n), `times ${n}`);
  expect(compiled.stats()).toEqual({ traces: 3, hits: 1, evictions: 1, size: 2 });
  compiled(1, x3);
  expect(runs()).toBe(3);
  compiled(2, x3);
  expect(runs()).toBe(4);
  expect(compiled.stats()).toEqual({ traces: 4, hits: 2, evictions: 2, size: 2 });
  const after = jit.stats();
  expect([
    after.traces - before.traces,
    after.hits - before.hits,
    after.evictions - before.evictions,
  ]).toEqual([4, 2, 2]);
  for (const cacheSize of [0, -1, 1.5, Number.NaN])
    expect(() => jit(square, { cacheSize })).toThrow("positive integer");
});

test("a recording that fails is not kept", () => {
  let isBroken = true;
  const f = jit((x: Value) => (isBroken ? ops.add(x, x4) : x));
  expect(() => f(x3)).toThrow(ShapeError);
  isBroken = false;
  expect(f(x3)).toBe(x3);
});

// --------------------------------------------------------------------------------------------------------- closures

test("what a function reads from outside is kept as it was", () => {
  let factor = tensor([2]);
  const f = jit((x: Value) => ops.mul(x, factor));
  assertClose(f(x3), tensor([2, 4, 6]), "first");
  factor = tensor([3]);
  assertClose(f(x3), tensor([2, 4, 6]), "second");
  assertClose(f(ones([2])), tensor([3, 3]), "another shape");
});

outside("values of a transform around a compiled function are not kept", () => {
  // d/dx sum(x y) = sum y, with x from outside; the same compiled function in every call.
  let outer: Value = zeros([]);
  const { f, runs } = counted((y: Value) => ops.sum(ops.mul(y, outer)));
  const inner = jit(f);
  const slope = grad((x: Value) => {
    outer = x;
    return ops.mul(inner(x3), inner(x3));
  });
  // (6 x)^2 has the slope 72 x.
  assertClose(slope(tensor(1)), tensor(72), "first");
  assertClose(slope(tensor(2)), tensor(144), "second");
  expect(inner.stats().size).toBe(0);
  expect(runs()).toBe(4);
  outer = tensor(5);
  assertClose(inner(x3), tensor(30), "outside");
});

test("random numbers are drawn by the key that is given", () => {
  const f = (k: Value): Value => normal(k, [4]);
  const compiled = jit(f);
  for (const seed of [0, 1]) assertClose(compiled(key(seed)), f(key(seed)), `seed ${seed}`);
  expect(compiled.stats().traces).toBe(1);
});

// ------------------------------------------------------------------------------------------------------ what is run

/** A backend that says what it is asked to compile and to run. */
function spied(): {
  compiled: { program: Program; options: CompileOptions | undefined }[];
  /** The options of what ran, in order. */
  ran: (CompileOptions | undefined)[];
  runs: () => number;
} {
  const compiled: { program: Program; options: CompileOptions | undefined }[] = [];
  const ran: (CompileOptions | undefined)[] = [];
  setBackend({
    ...reference,
    compile(program, options) {
      verify(program);
      compiled.push({ program, options });
      const executable = reference.compile(program, options);
      return {
        ...executable,
        run(args) {
          ran.push(options);
          return executable.run(args);
        },
      };
    },
  });
  return { compiled, ran, runs: () => ran.length };
}

test("a program is compiled once for each signature, and again for another backend", () => {
  const first = spied();
  const f = jit((x: Value) => ops.sin(ops.add(ops.mul(x, 1), 0)));
  f(x3);
  f(x3);
  f(x4);
  expect([first.compiled.length, first.runs()]).toEqual([2, 3]);
  expect(first.compiled[0]!.program.eqns.length).toBe(1);
  const second = spied();
  assertClose(f(x4), ops.sin(x4), "result");
  expect([second.compiled.length, first.runs(), second.runs()]).toEqual([1, 3, 1]);
  expect(f.stats().traces).toBe(2);
});

outside("a transform around it runs the recorded program, nothing is compiled", () => {
  const { compiled } = spied();
  const f = jit(waves);
  assertClose(grad(f)(x3), grad(waves)(x3), "gradient");
  expect(compiled.length).toBe(0);
});

test("inputs and constants come back themselves, and results that are the same are computed once", () => {
  const { compiled, runs } = spied();
  const constant = tensor([9]);
  const f = jit((x: Value, y: Value) => ({
    y,
    twice: [ops.sin(x), ops.sin(x)],
    constant,
    x: ops.neg(ops.neg(x)),
  }));
  const out = f(x3, x4);
  expect([out.y, out.constant, out.x]).toEqual([x4, constant, x3]);
  expect([out.y === x4, out.constant === constant, out.x === x3, out.twice[0] === out.twice[1]]).toEqual([
    true,
    true,
    true,
    true,
  ]);
  assertClose(out.twice[0]!, ops.sin(x3), "sine");
  expect(compiled[0]!.program.outs.length).toBe(1);
  const swap = jit((x: Value, y: Value) => [y, x]);
  expect(swap(x3, x4)).toEqual([x4, x3]);
  expect([compiled.length, runs()]).toEqual([1, 1]);
  expect(jit(() => [])()).toEqual([]);
});

test("the program and its steps can be seen without a call", () => {
  const { runs } = spied();
  const f = jit((x: Value, n: number) => ops.mul(ops.add(x, 0), n));
  expect(f.program(x3, 2).eqns.map(({ prim }) => prim.name)).toEqual(["broadcast", "mul"]);
  const text = f.show(x3, 2);
  expect(text).toContain("program (a: f32[3]) {");
  expect(text).toContain(reference.compile(f.program(x3, 2)).show());
  expect([runs(), f.stats().traces]).toEqual([0, 1]);
  expect(jit((x: Value) => x).show(x3)).toBe("program (a: f32[3]) {\n  return a\n}");
});

// ----------------------------------------------------------------------------------------------------------- errors

describe("errors name the function", () => {
  test("a Promise", () => {
    const compiled = jit(async function step(x: Value): Promise<Value> {
      return x;
    });
    expect(() => compiled(x3)).toThrow(TraceError);
    expect(() => compiled(x3)).toThrow("Cannot jit a function that returns a Promise");
    expect(() => compiled(x3)).toThrow("jit(step)");
  });

  test("reading elements", () => {
    const reads = (x: Value): Value => ops.mul(x, x.item());
    expect(() => jit(reads)(tensor(1))).toThrow("it belongs to jit(reads)");
  });

  test("shapes, and the function around", () => {
    const inner = jit(function sum(x: Value) {
      return ops.add(x, x4);
    });
    const outer = jit(function step(x: Value) {
      return inner(x);
    });
    expect(() => outer(x3)).toThrow(ShapeError);
    expect(() => outer(x3)).toThrow("while tracing jit(sum) while tracing jit(step)");
  });

  test("a result that is no tensor", () => {
    const f = jit((x: Value) => ({ loss: x, count: 3 }));
    expect(() => f(x3)).toThrow(TreeError);
    expect(() => f(x3)).toThrow("at count: it is the number 3");
    expect(() => jit(() => undefined)()).toThrow(TreeError);
  });

  test("an error of the function itself passes through as it is", () => {
    const error = new Error("mine");
    const f = jit(() => {
      throw error;
    });
    expect(() => f()).toThrow(error);
    expect(error.message).toBe("mine");
  });

  test("a value of a transform that has ended", () => {
    let leaked: Value = x3;
    grad((x: Value) => {
      leaked = x;
      return ops.sum(x);
    })(x3);
    expect(() => jit(square)(leaked)).toThrow("the transform that made it has ended");
    expect(() => jit((x: Value) => ops.add(x, leaked))(x3)).toThrow("the transform that made it has ended");
  });
});

// --------------------------------------------------------------------------------------------------------- donation

describe("donation", () => {
  const fresh = (): Value => tensor([1, 2, 3]);
  const isGone = (x: Value): boolean => {
    try {
      x.dataSync();
      return false;
    } catch (error) {
      expect(error).toBeInstanceOf(TraceError);
      return true;
    }
  };

  test("a donated tensor is gone after the call, and the error says where", () => {
    const { compiled } = spied();
    const compiledStep = jit(
      function step(state: { a: Value; b: Value[] }, x: Value): Value[] {
        return [ops.add(state.a, x), ...state.b.map((b) => ops.mul(b, x))];
      },
      { donate: 0 },
    );
    const state = { a: fresh(), b: [fresh()] };
    const [sum] = compiledStep(state, x3);
    assertClose(sum!, tensor([2, 4, 6]), "result");
    expect(compiled[0]!.options?.donated).toEqual([true, true, false]);
    expect([state.a, state.b[0]!, x3].map(isGone)).toEqual([true, true, false]);
    for (const use of [() => ops.add(state.a, 1), () => compiledStep({ ...state, b: [fresh()] }, x3)])
      expect(use).toThrow("argument 0 of jit(step)");
  });

  test("several arguments", () => {
    const f = jit((x: Value, y: Value, z: Value) => ops.add(ops.add(x, y), z), { donate: [0, 2] });
    const xs = [fresh(), fresh(), fresh()] as const;
    f(...xs);
    expect(xs.map(isGone)).toEqual([true, false, true]);
  });

  test("a tensor that is passed twice, or shares its elements, stays and is not overwritten", () => {
    const { compiled, ran } = spied();
    const f = jit((x: Value, y: Value, z: Value) => ops.add(ops.add(x, y.reshape([3])), z), {
      donate: [0, 2],
    });
    const [x, z] = [fresh(), fresh()];
    assertClose(f(x, x, z), tensor([3, 6, 9]), "twice");
    expect([x, z].map(isGone)).toEqual([false, true]);
    const view = fresh();
    const other = fresh();
    f(view, ops.reshape(view, [3, 1]), other);
    expect([view, other].map(isGone)).toEqual([false, true]);
    // Each signature has one program that overwrites and, since it was called so, one that does not.
    expect(compiled.map(({ options }) => options?.donated)).toEqual([
      [true, false, true],
      [false, false, false],
      [true, false, true],
      [false, false, false],
    ]);
    expect(ran.map((options) => options?.donated?.includes(true))).toEqual([false, false]);
    const last = fresh();
    f(last, fresh(), fresh());
    expect(isGone(last)).toBe(true);
    const same = fresh();
    f(same, x3, same);
    expect(isGone(same)).toBe(false);
  });

  test("a tensor that is returned as it came stays", () => {
    const { compiled } = spied();
    const f = jit((x: Value, y: Value) => [x, ops.neg(y)], { donate: [0, 1] });
    const [x, y] = [fresh(), fresh()];
    expect(f(x, y)[0]).toBe(x);
    expect([x, y].map(isGone)).toEqual([false, true]);
    expect(compiled[0]!.options?.donated).toEqual([false, true]);
  });

  test("a tensor that the function also reads from outside stays", () => {
    const constant = fresh();
    const f = jit((x: Value) => ops.add(x, constant), { donate: 0 });
    const x = fresh();
    f(x);
    assertClose(f(constant), tensor([2, 4, 6]), "result");
    expect([x, constant].map(isGone)).toEqual([true, false]);
  });

  test("inside a transform nothing is given up", () => {
    const f = jit(waves, { donate: 0 });
    const x = fresh();
    grad(f)(x);
    expect(isGone(x)).toBe(false);
  });

  test("a position without an argument is an error that names the function", () => {
    function step(x: Value): Value {
      return x;
    }
    for (const donate of [1, -1, 0.5]) {
      expect(() => jit(step, { donate })(x3)).toThrow(TreeError);
      expect(() => jit(step, { donate })(x3)).toThrow(`Cannot donate argument ${donate} of jit(step)`);
    }
  });
});
