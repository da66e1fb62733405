/**
 * What kernels written by hand share: their code is loaded once per engine, the words of their argument blocks have
 * names, and integer arithmetic is written as it is read.
 */
import type { DType } from "../../dtype.ts";
import { invariant } from "../../errors.ts";
import {
  FunctionBuilder,
  type Local,
  type MemoryOp,
  ModuleBuilder,
  type PlainOp,
  type ValueType,
} from "./assembler.ts";
import type { Engine, LoadedKernel } from "./engine.ts";

/** The parameters of every kernel: its range of units, its argument block, its thread's buffer. */
export const BEGIN: Local = 0;
export const END: Local = 1;
const ARGS: Local = 2;
export const SCRATCH: Local = 3;

/** A kernel: `A` names the addresses in its argument block, `N` the numbers. */
export interface Code<A extends string, N extends string> {
  /** All that the code depends on. */
  readonly key: string;
  /** Given at each run, in this order. */
  readonly addresses: readonly A[];
  /** Given once. */
  readonly numbers: readonly N[];
  write(f: FunctionBuilder, word: Readonly<Record<A | N, Local>>): void;
}

/** How a kernel's work is divided: see `Engine.run`. */
export interface Division {
  readonly units: number;
  readonly grain?: number;
  readonly parallel: boolean;
}

const kernels = new WeakMap<Engine, Map<string, LoadedKernel>>();

function load<A extends string, N extends string>(engine: Engine, code: Code<A, N>): LoadedKernel {
  let known = kernels.get(engine);
  if (!known) {
    known = new Map();
    kernels.set(engine, known);
  }
  let kernel = known.get(code.key);
  if (!kernel) {
    const f = new FunctionBuilder(["i32", "i32", "i32", "i32"]);
    const names: readonly (A | N)[] = [...code.addresses, ...code.numbers];
    const locals = names.map((name, i): [A | N, Local] => {
      const local = f.local("i32");
      f.get(ARGS)
        .memory("i32.load", 4 * i)
        .set(local);
      return [name, local];
    });
    // Every name has its local.
    code.write(f, Object.fromEntries(locals) as Record<A | N, Local>);
    const module = new ModuleBuilder({ shared: engine.heap.shared });
    module.add(code.key, f);
    [kernel] = engine.load(module.bytes(), [code.key]) as [LoadedKernel];
    known.set(code.key, kernel);
  }
  return kernel;
}

/** Prepares runs of a kernel with fixed numbers; the result takes the addresses. */
export function launcher<A extends string, N extends string>(
  engine: Engine,
  code: Code<A, N>,
  numbers: Readonly<Record<N, number>>,
  { units, grain = 1, parallel }: Division,
): (...addresses: readonly number[]) => void {
  const kernel = load(engine, code);
  const args = engine.heap.allocate(4 * (code.addresses.length + code.numbers.length));
  invariant(args !== 0, "the heap has room for an argument block");
  // Only now: the memory may have grown, and a view from before does not reach the block.
  const { u32 } = engine.heap;
  const first = args / 4;
  code.numbers.forEach((name, i) => {
    u32[first + code.addresses.length + i] = numbers[name];
  });
  return (...addresses) => {
    if (units === 0) return;
    for (let i = 0; i < addresses.length; i++) u32[first + i] = addresses[i]!;
    engine.run(kernel, units, grain, args, parallel);
  };
}

// --- elements ----------------------------------------------------------------------------------------------------

/** How one element is loaded into a local and stored. */
export interface Element {
  readonly bytes: number;
  readonly type: ValueType;
  readonly load: MemoryOp;
  readonly store: MemoryOp;
}

const integer: Element = { bytes: 4, type: "i32", load: "i32.load", store: "i32.store" };

export const elements: Readonly<Record<DType, Element>> = {
  float32: { bytes: 4, type: "f32", load: "f32.load", store: "f32.store" },
  float64: { bytes: 8, type: "f64", load: "f64.load", store: "f64.store" },
  int32: integer,
  uint32: integer,
  bool: { bytes: 1, type: "i32", load: "i32.load8_u", store: "i32.store8" },
  // As bits: what computes with them does so in float32.
  float16: { bytes: 2, type: "i32", load: "i32.load16_u", store: "i32.store16" },
};

// --- integer arithmetic ------------------------------------------------------------------------------------------

/** A local, or code that pushes an i32; it may run more than once. */
export type Operand = Local | (() => void);

/** A tuple of `N` locals. */
export type Locals<N extends number, T extends readonly Local[] = []> = T["length"] extends N
  ? T
  : Locals<N, readonly [...T, Local]>;

/** Writes integer arithmetic: each function returns code that pushes its value. */
export interface Integers {
  /** A constant. */
  num(n: number): Operand;
  add(...terms: readonly Operand[]): Operand;
  sub(a: Operand, b: Operand): Operand;
  mul(a: Operand, b: Operand): Operand;
  /** Quotient and remainder of numbers that are not negative. */
  div(a: Operand, b: Operand): Operand;
  rem(a: Operand, b: Operand): Operand;
  min(a: Operand, b: Operand): Operand;
  max(a: Operand, b: Operand): Operand;
  less(a: Operand, b: Operand): Operand;
  equal(a: Operand, b: Operand): Operand;
  /** 0 <= a < b, for b that is not negative. */
  within(a: Operand, b: Operand): Operand;
  /** The i32 at an address. */
  load(address: Operand): Operand;
  push(a: Operand): void;
  set(v: Local, a: Operand): void;
  /** v += a. */
  advance(v: Local, a: Operand): void;
  /** Repeats the body while the condition is not 0. */
  loop(condition: Operand, body: () => void): void;
  when(condition: Operand, then: () => void, otherwise?: () => void): void;
  /** So many new locals. */
  locals<const N extends number>(count: N): Locals<N>;
}

export function integers(f: FunctionBuilder): Integers {
  const push = (a: Operand): void => {
    if (typeof a === "number") f.get(a);
    else a();
  };
  const binary =
    (op: PlainOp) =>
    (a: Operand, b: Operand): Operand =>
    () => {
      push(a);
      push(b);
      f.op(op);
    };
  const add = binary("i32.add");
  const less = binary("i32.lt_s");
  const choice =
    (isReversed: boolean) =>
    (a: Operand, b: Operand): Operand =>
    () => {
      push(a);
      push(b);
      push(isReversed ? less(b, a) : less(a, b));
      f.op("select");
    };
  const set = (v: Local, a: Operand): void => {
    push(a);
    f.set(v);
  };
  return {
    num: (n) => () => f.i32(n),
    add: (...terms) => terms.reduce(add),
    sub: binary("i32.sub"),
    mul: binary("i32.mul"),
    div: binary("i32.div_u"),
    rem: binary("i32.rem_u"),
    min: choice(false),
    max: choice(true),
    less,
    equal: binary("i32.eq"),
    within: binary("i32.lt_u"),
    load: (address) => () => {
      push(address);
      f.memory("i32.load");
    },
    push,
    set,
    advance: (v, a) => set(v, add(v, a)),
    loop: (condition, body) => {
      f.block((exit) => {
        f.loop((again) => {
          push(condition);
          f.op("i32.eqz").brIf(exit);
          body();
          f.br(again);
        });
      });
    },
    when: (condition, then, otherwise) => {
      push(condition);
      f.when(then, otherwise);
    },
    // The type counts what the list has.
    locals: <const N extends number>(count: N) =>
      Array.from({ length: count }, () => f.local("i32")) as Locals<N>,
  };
}
