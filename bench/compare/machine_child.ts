/**
 * What this machine can do in WebAssembly at best: 128-bit multiplications and additions that stay in registers, and
 * streams through memory. `COMPARE_THREADS` 2 adds one worker for each further thread.
 */
import { isMainThread, Worker, workerData } from "node:worker_threads";
import { FunctionBuilder, ModuleBuilder } from "../../core/backends/cpu/assembler.ts";
import { ACCUMULATORS, LONG, TURNS } from "./inputs.ts";
import { type Prepared, serve } from "./protocol.ts";

/**
 * `acc += x y` on all accumulators, `turns` times; writes their minimum to memory. 12 of them hide the latency and leave
 * registers for the operands.
 */
function registerLoop(op: "relaxed_madd" | "mul, add"): FunctionBuilder {
  const f = new FunctionBuilder(["i32", "i32"]); // turns, address
  const [i, x, y] = [f.local("i32"), f.local("v128"), f.local("v128")];
  const accumulators = Array.from({ length: ACCUMULATORS }, () => f.local("v128"));
  f.f32(1).simd("f32x4.splat").set(x);
  f.f32(1).simd("f32x4.splat").set(y);
  f.for(
    i,
    () => f.i32(0),
    () => f.get(0),
    1,
    () => {
      for (const a of accumulators) {
        if (op === "relaxed_madd") f.get(x).get(y).get(a).simd("f32x4.relaxed_madd").set(a);
        else f.get(x).get(y).simd("f32x4.mul").get(a).simd("f32x4.add").set(a);
      }
    },
  );
  f.get(1);
  for (const [n, a] of accumulators.entries()) {
    f.get(a);
    if (n > 0) f.simd("f32x4.min");
  }
  return f.simdMemory("v128.store");
}

/** `a = b + 3 c` over `bytes` from the three addresses on; 16 times unrolled. */
function triad(): FunctionBuilder {
  const f = new FunctionBuilder(["i32", "i32", "i32", "i32"]); // a, b, c, bytes
  const [i, three] = [f.local("i32"), f.local("v128")];
  f.f32(3).simd("f32x4.splat").set(three);
  return f.for(
    i,
    () => f.i32(0),
    () => f.get(3),
    64,
    () => {
      for (let at = 0; at < 64; at += 16) {
        f.get(0).get(i).op("i32.add");
        f.get(1).get(i).op("i32.add").simdMemory("v128.load", at);
        f.get(2).get(i).op("i32.add").simdMemory("v128.load", at).get(three).simd("f32x4.mul");
        f.simd("f32x4.add").simdMemory("v128.store", at);
      }
    },
  );
}

/** `memory.copy` to the first address from the second. */
function copy(): FunctionBuilder {
  const f = new FunctionBuilder(["i32", "i32", "i32"]);
  return f.get(0).get(1).get(2).memoryCopy();
}

type Kernels = Readonly<Record<"madd" | "mulAdd" | "triad" | "copy", (...args: number[]) => void>>;

function load(memory: WebAssembly.Memory): Kernels {
  const module = new ModuleBuilder({ shared: true });
  module.add("madd", registerLoop("relaxed_madd"));
  module.add("mulAdd", registerLoop("mul, add"));
  module.add("triad", triad());
  module.add("copy", copy());
  const instance = new WebAssembly.Instance(new WebAssembly.Module(module.bytes()), { env: { memory } });
  return instance.exports as unknown as Kernels;
}

// Words of the control block at address 0: a count of runs asked for, a count of threads done, the work. Results of the
// register loops come after it, the three arrays after those.
const [ASKED, DONE, WORK] = [0, 1, 2];
const RESULTS = 64;
const works = ["madd", "mulAdd", "triad", "copy"] as const;
/** The elements of one array, rounded so that two threads share it in whole cache lines. */
const BYTES = Math.ceil((LONG * 4) / 128) * 128;
const [A, B, C] = [4096, 4096 + BYTES, 4096 + 2 * BYTES];

function part(kernels: Kernels, work: number, thread: number, threads: number): void {
  const name = works[work]!;
  const size = Math.ceil(BYTES / threads / 64) * 64;
  const start = thread * size;
  const bytes = Math.min(size, BYTES - start);
  if (name === "triad") kernels.triad(A + start, B + start, C + start, bytes);
  else if (name === "copy") kernels.copy(A + start, B + start, bytes);
  else kernels[name](TURNS, RESULTS + 16 * thread);
}

function runWorker({ memory, thread, threads }: WorkerData): void {
  const control = new Int32Array(memory.buffer, 0, 3);
  const kernels = load(memory);
  for (let seen = 0; ; seen++) {
    Atomics.wait(control, ASKED, seen);
    part(kernels, control[WORK]!, thread, threads);
    Atomics.add(control, DONE, 1);
  }
}

interface WorkerData {
  readonly memory: WebAssembly.Memory;
  readonly thread: number;
  readonly threads: number;
}

async function runMain(): Promise<void> {
  const threads = Number(process.env["COMPARE_THREADS"] ?? "1");
  const pages = Math.ceil((C + BYTES) / 65536);
  const memory = new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
  const control = new Int32Array(memory.buffer, 0, 3);
  const floats = new Float32Array(memory.buffer);
  const kernels = load(memory);
  for (let thread = 1; thread < threads; thread++) {
    const worker = new Worker(new URL(import.meta.url), { workerData: { memory, thread, threads } });
    worker.unref();
  }
  const run = (name: (typeof works)[number]): void => {
    control[WORK] = works.indexOf(name);
    Atomics.store(control, DONE, 0);
    Atomics.add(control, ASKED, 1);
    Atomics.notify(control, ASKED);
    part(kernels, control[WORK]!, 0, threads);
    while (Atomics.load(control, DONE) < threads - 1);
  };
  const peak = (name: "madd" | "mulAdd"): Prepared => ({
    mode: `wasm, ${threads} thread${threads > 1 ? "s" : ""}`,
    run: () => run(name),
    show() {
      run(name);
      return [floats[RESULTS / 4]!, floats[RESULTS / 4 + 4 * (threads - 1)]!];
    },
  });
  const stream = (name: "triad" | "copy"): Prepared => ({
    mode: "wasm",
    run: () => run(name),
    show() {
      floats.fill(1, B / 4, C / 4);
      floats.fill(2, C / 4, (C + BYTES) / 4);
      run(name);
      return [floats[A / 4]!, floats[A / 4 + LONG - 1]!];
    },
  });
  await serve({
    "peak-madd": () => peak("madd"),
    "peak-mul-add": () => peak("mulAdd"),
    triad: () => stream("triad"),
    copy: () => stream("copy"),
  });
}

if (isMainThread) await runMain();
else runWorker(workerData);
