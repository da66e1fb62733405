/**
 * With FORCE_JIT=1 the transforms compile: each public transform, called with tensors outside any other transform, goes
 * through `jit`. So the tests of transforms are tests of compiled programs. Imported before the test files.
 */
import { mock } from "bun:test";
import * as hvps from "../../autodiff/hvp.ts";
import { jit } from "../../autodiff/jit.ts";
import * as jvps from "../../autodiff/jvp.ts";
import * as linearizations from "../../autodiff/linearize.ts";
import * as vjps from "../../autodiff/vjp.ts";
import * as vmaps from "../../autodiff/vmap.ts";
import { isEager } from "../../core/trace.ts";

type AnyFunction = (...args: readonly unknown[]) => unknown;
/** The functions of a module by name, without their types: what is wrapped keeps them for the tests that call it. */
type Functions = Readonly<Record<string, AnyFunction>>;

let compiledCalls = 0;

/** How many calls of transforms went through `jit`. */
export function countCompiledCalls(): number {
  return compiledCalls;
}

/** The function, compiled where it is called outside transforms. */
function compiling(f: AnyFunction): AnyFunction {
  const compiled = jit(f);
  return (...args) => {
    if (!isEager()) return f(...args);
    compiledCalls++;
    return compiled(...args);
  };
}

/** One compiled function for each function and use of it. */
function remembered(make: (f: AnyFunction) => AnyFunction): (f: AnyFunction) => AnyFunction {
  const known = new WeakMap<AnyFunction, AnyFunction>();
  return (f) => {
    let compiled = known.get(f);
    if (compiled === undefined) {
      compiled = compiling(make(f));
      known.set(f, compiled);
    }
    return compiled;
  };
}

/** `transform(f, ...options)` is a function. */
const lifting =
  (transform: AnyFunction): AnyFunction =>
  (f, ...options) =>
    compiling(transform(f, ...options) as AnyFunction);

/** `transform(f, ...args)` is a tree. */
function applying(transform: AnyFunction): AnyFunction {
  const compiled = remembered(
    (f) =>
      (...args) =>
        transform(f, ...args),
  );
  return (f, ...args) => compiled(f as AnyFunction)(...args);
}

/** `transform(f, ...primals)` is the value, and a function of one tree for each input or output. */
function splitting(transform: AnyFunction): AnyFunction {
  const value = remembered((f) => f);
  const second = remembered(
    (f) => (primals, args) =>
      (transform(f, ...(primals as unknown[])) as [unknown, AnyFunction])[1](...(args as unknown[])),
  );
  return (f, ...primals) =>
    isEager()
      ? [value(f as AnyFunction)(...primals), (...args: unknown[]) => second(f as AnyFunction)(primals, args)]
      : transform(f, ...primals);
}

function force(
  path: string,
  original: object,
  wrappers: Readonly<Record<string, (t: AnyFunction) => AnyFunction>>,
): void {
  const functions = { ...original } as Functions;
  const wrapped = Object.entries(wrappers).map(([name, wrap]) => [name, wrap(functions[name]!)]);
  mock.module(new URL(`../../autodiff/${path}`, import.meta.url).pathname, () => ({
    ...functions,
    ...Object.fromEntries(wrapped),
  }));
}

if (process.env["FORCE_JIT"] === "1") {
  force("hvp.ts", hvps, { hvp: lifting, hessian: lifting, jacfwd: lifting, jacrev: lifting });
  force("jvp.ts", jvps, { jvp: applying });
  force("linearize.ts", linearizations, { linearize: splitting });
  force("vjp.ts", vjps, { grad: lifting, valueAndGrad: lifting, vjp: splitting });
  force("vmap.ts", vmaps, { vmap: lifting });
}
