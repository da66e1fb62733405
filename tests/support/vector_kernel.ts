/** One scalar expression as a loop over arrays: vectors of four elements, then one at a time. */
import { FunctionBuilder, ModuleBuilder } from "../../core/backends/cpu/assembler.ts";
import { loadOne, loadVec, storeOne, storeVec, VectorEmitter } from "../../core/backends/cpu/vector.ts";
import { bytesPerElement, type DType, makeArray, type TypedArray } from "../../core/dtype.ts";
import { type Expr, exprType, input, iota, type ScalarFunction } from "../../core/expr.ts";

export interface LoopOptions {
  readonly relaxed: boolean;
  /** Whether constants may be in memory. */
  readonly pool: boolean;
}

export interface Module {
  readonly functions: Readonly<Record<string, CallableFunction>>;
  readonly memory: WebAssembly.Memory;
}

type ImportCall = (scalar: ScalarFunction, arity: number) => number;

/** Compiles the functions that `write` makes; it is called twice, because imports come before functions. */
export function compile(
  write: (importCall: ImportCall) => Readonly<Record<string, FunctionBuilder>>,
): Module {
  const calls: { readonly scalar: ScalarFunction; readonly arity: number }[] = [];
  const importCall: ImportCall = (scalar, arity) => {
    const known = calls.findIndex((one) => one.scalar === scalar && one.arity === arity);
    return known >= 0 ? known : calls.push({ scalar, arity }) - 1;
  };
  write(importCall);
  const module = new ModuleBuilder({ shared: false });
  calls.forEach(({ arity }, i) => {
    module.importFunction(`call${i}`, new Array(arity).fill("f64"), ["f64"]);
  });
  for (const [name, body] of Object.entries(write(importCall))) module.add(name, body);
  const memory = new WebAssembly.Memory({ initial: 1, maximum: 65536 });
  const env = Object.fromEntries(calls.map(({ scalar }, i) => [`call${i}`, scalar]));
  const instance = new WebAssembly.Instance(new WebAssembly.Module(module.bytes()), {
    env: { ...env, memory },
  });
  return { functions: instance.exports as Record<string, CallableFunction>, memory };
}

/** Whether this engine has the relaxed instructions. */
export function hasRelaxed(): boolean {
  const f = new FunctionBuilder(["v128"], ["v128"]);
  f.get(0).get(0).get(0).simd("f32x4.relaxed_madd");
  const module = new ModuleBuilder({ shared: false });
  module.add("probe", f);
  return WebAssembly.validate(module.bytes());
}

const poolAt = 64;
const poolCapacity = 100;
const firstArray = poolAt + 16 * poolCapacity;

/** The function from arrays to the array of the expression's values; `iota` is the index of the element. */
export function arrayFunction(
  e: Expr,
  dtypes: readonly DType[],
  out: DType,
  { relaxed, pool }: LoopOptions,
): (...arrays: readonly TypedArray[]) => TypedArray {
  const { functions, memory } = compile((importCall) => {
    // end, pool, one pointer per array, pointer to the result
    const f = new FunctionBuilder(["i32", "i32", ...dtypes.map(() => "i32" as const), "i32"]);
    const emitter = new VectorEmitter(f, {
      relaxed,
      importCall,
      ...(pool && { pool: { address: 1, offset: 0, capacity: poolCapacity } }),
    });
    const i = f.local("i32");
    const values = dtypes.map((dtype) => emitter.newVec(exprType(dtype)));
    const position = emitter.newVec("u32");
    const address = (pointer: number, dtype: DType) => () => {
      f.get(pointer).get(i).i32(bytesPerElement(dtype)).op("i32.mul").op("i32.add");
    };
    const body = (load: typeof loadVec, store: typeof storeVec): void => {
      emitter.forget();
      dtypes.forEach((dtype, k) => {
        const type = exprType(dtype);
        load(f, type, values[k]!, address(2 + k, dtype), dtype);
        emitter.bind(input(k, type), values[k]!);
      });
      f.get(i)
        .simd("i32x4.splat")
        .v128(new Uint8Array(Int32Array.of(0, 1, 2, 3).buffer));
      f.simd("i32x4.add").set(position[0]!);
      emitter.bind(iota, position);
      store(f, exprType(out), emitter.emit(e), address(2 + dtypes.length, out), out);
    };
    emitter.prologue([e]);
    const end = (): void => {
      f.get(0);
    };
    const whole = (): void => {
      f.get(0).i32(-4).op("i32.and");
    };
    f.for(
      i,
      () => f.i32(0),
      whole,
      4,
      () => body(loadVec, storeVec),
    );
    f.for(i, whole, end, 1, () => body(loadOne, storeOne));
    return { run: f };
  });
  return (...arrays) => {
    const size = arrays[0]!.length;
    const pointers: number[] = [];
    let next = firstArray;
    for (const dtype of [...dtypes, out]) {
      pointers.push(next);
      next += Math.ceil((size * bytesPerElement(dtype) + 64) / 64) * 64;
    }
    const missing = Math.ceil(next / 65536) - memory.buffer.byteLength / 65536;
    if (missing > 0) memory.grow(missing);
    const viewOf = (dtype: DType, k: number): TypedArray => {
      const make = makeArray(dtype, 0).constructor as new (
        buffer: ArrayBuffer,
        offset: number,
        size: number,
      ) => TypedArray;
      return new make(memory.buffer as ArrayBuffer, pointers[k]!, size);
    };
    dtypes.forEach((dtype, k) => {
      viewOf(dtype, k).set(arrays[k]!);
    });
    const result = viewOf(out, dtypes.length);
    functions["run"]!(size, poolAt, ...pointers);
    return result.slice();
  };
}
