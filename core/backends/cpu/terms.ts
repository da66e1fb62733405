/** Integer arithmetic of kernels written as formulas: counts, indices and addresses. */
import type { FunctionBuilder, Local, MemoryOp, PlainOp } from "./assembler.ts";

/** An i32: a local variable, or code that pushes one. */
export type Term = Local | (() => unknown);

export interface Terms {
  push(x: Term): FunctionBuilder;
  set(to: Local, x: Term): void;
  /** `to += x`. */
  advance(to: Local, x: Term): void;
  /** The number itself; a bare number is a local. */
  constant(value: number): Term;
  plus(x: Term, ...more: readonly Term[]): Term;
  minus(x: Term, y: Term): Term;
  times(x: Term, y: Term): Term;
  /** Of integers that are not negative. */
  over(x: Term, y: Term): Term;
  /** The smaller and the larger of two signed integers; both are evaluated twice. */
  smaller(x: Term, y: Term): Term;
  larger(x: Term, y: Term): Term;
  less(x: Term, y: Term): Term;
  equal(x: Term, y: Term): Term;
  both(x: Term, y: Term): Term;
  /** The word at an address and an offset in bytes. */
  load(at: Term, offset?: number, op?: MemoryOp): Term;
  when(condition: Term, then: () => unknown, otherwise?: () => unknown): void;
  /** `for (i = from; i < to; i += step)` over signed integers. */
  each(i: Local, from: Term, to: Term, step: number, body: () => void): void;
  /** Fresh i32 variables. */
  locals<N extends string>(...names: readonly N[]): Readonly<Record<N, Local>>;
}

/** The formulas of one function. */
export function termsOf(f: FunctionBuilder): Terms {
  const push = (x: Term): FunctionBuilder => {
    if (typeof x === "number") return f.get(x);
    x();
    return f;
  };
  const binary =
    (op: PlainOp) =>
    (x: Term, y: Term): Term =>
    () => {
      push(x);
      push(y).op(op);
    };
  const add = binary("i32.add");
  const choose =
    (condition: (x: Term, y: Term) => Term) =>
    (x: Term, y: Term): Term =>
    () => {
      push(x);
      push(y);
      push(condition(x, y)).op("select");
    };
  const less = binary("i32.lt_s");
  return {
    push,
    set: (to, x) => void push(x).set(to),
    advance: (to, x) => void push(add(to, x)).set(to),
    constant: (value) => () => f.i32(value),
    plus: (x, ...more) => more.reduce(add, x),
    minus: binary("i32.sub"),
    times: binary("i32.mul"),
    over: binary("i32.div_u"),
    smaller: choose(less),
    larger: choose(binary("i32.gt_s")),
    less,
    equal: binary("i32.eq"),
    both: binary("i32.and"),
    load:
      (at, offset = 0, op = "i32.load") =>
      () =>
        push(at).memory(op, offset),
    when: (condition, then, otherwise) =>
      void push(condition).when(() => void then(), otherwise && (() => void otherwise())),
    each: (i, from, to, step, body) =>
      void f.for(
        i,
        () => void push(from),
        () => void push(to),
        step,
        body,
      ),
    locals: <N extends string>(...names: readonly N[]) =>
      Object.fromEntries(names.map((name) => [name, f.local("i32")])) as Record<N, Local>,
  };
}
