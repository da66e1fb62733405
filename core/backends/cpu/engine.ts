/** Runs compiled kernels: loads their modules and gives each thread its range of the work. */
import { reportMemory } from "../../memory.ts";
import { FunctionBuilder, ModuleBuilder } from "./assembler.ts";
import { bindBlas, type NativeLibrary } from "./blas.ts";
import { Heap } from "./heap.ts";
import { checkThreads, type Delivery, defaultThreads, SCRATCH_BYTES, Threads } from "./threads.ts";

export { SCRATCH_BYTES };

/** A function of the host that a kernel calls, such as a sine that has no instruction. */
export type ScalarFunction = (...xs: number[]) => number;

export interface LoadedKernel {
  readonly name: string;
  /** Computes units [begin, end) on this thread. */
  readonly run: (begin: number, end: number, args: number, scratch: number) => void;
  readonly id: number;
  /** Whether other threads can run it: host functions do not travel. */
  readonly threaded: boolean;
  /** The module that it is part of. */
  readonly source: Delivery;
}

/** Whether fused multiply-add instructions exist here: a module with one is valid. */
function hasRelaxed(): boolean {
  const probe = new ModuleBuilder({ shared: false });
  const body = new FunctionBuilder([]);
  for (let i = 0; i < 3; i++) body.f32(0).simd("f32x4.splat");
  probe.add("probe", body.simd("f32x4.relaxed_madd").op("drop"));
  return WebAssembly.validate(probe.bytes());
}

export interface EngineOptions {
  /** Default: a heap of its own, as large as the host grants. */
  readonly heap?: Heap;
  /** Threads to use, the calling one included; default: COTANGENT_THREADS, or one for each core. */
  readonly threads?: number;
  /** See ThreadsOptions. */
  readonly patience?: number;
}

export class Engine {
  readonly heap: Heap;
  /** Whether kernels may use the relaxed SIMD instructions. */
  readonly relaxed: boolean = hasRelaxed();
  /** The other threads. */
  readonly pool: Threads;
  /** The calling thread's scratch buffer. */
  readonly scratch: number;
  #threads: number;
  #kernels = 0;

  constructor(options: EngineOptions = {}) {
    this.heap = options.heap ?? new Heap();
    this.#threads = options.threads === undefined ? defaultThreads() : checkedCount(options.threads);
    this.pool = new Threads(this.heap, options.patience === undefined ? {} : { patience: options.patience });
    this.scratch = this.heap.allocate(SCRATCH_BYTES);
  }

  /** Threads among which work is divided, the calling one included. */
  get threads(): number {
    return this.pool.obstacle === null ? this.#threads : 1;
  }
  set threads(count: number) {
    this.#threads = checkedCount(count);
  }

  /**
   * The named exports of a module that imports `env.memory`, the calls as `env.c0`, `env.c1` ... and the products of
   * the library as `env.sgemm` and `env.dgemm`.
   */
  load(
    bytes: Uint8Array<ArrayBuffer>,
    names: readonly string[],
    calls: readonly ScalarFunction[] = [],
    library: NativeLibrary | null = null,
  ): LoadedKernel[] {
    const { memory } = this.heap;
    const module = new WebAssembly.Module(bytes);
    const env = Object.fromEntries(calls.map((call, i) => [`c${i}`, call]));
    const products = library && bindBlas(library, memory);
    const { exports } = new WebAssembly.Instance(module, { env: { ...env, ...products, memory } });
    const source: Delivery = { module, names, first: this.#kernels, library };
    this.#kernels += names.length;
    return names.map((name, i) => ({
      name,
      // Every export of a kernel module has this signature.
      run: exports[name] as LoadedKernel["run"],
      id: source.first + i,
      threaded: calls.length === 0,
      source,
    }));
  }

  /**
   * Computes units [0, total) of the kernel's work, in ranges that begin at multiples of `grain`. `parallel` promises
   * that there are 50 microseconds of work or more: a thread that is awake costs one, waking it costs about fifty.
   *
   * @throws {Error} with the kernel's name if the kernel traps, on any thread
   */
  run(kernel: LoadedKernel, total: number, grain: number, args: number, parallel: boolean): void {
    const { scratch } = this;
    try {
      if (parallel && kernel.threaded && total > grain && this.threads > 1)
        this.pool.run(kernel, { total, grain, args, scratch }, this.#threads);
      else if (total > 0) kernel.run(0, total, args, scratch);
    } catch (error) {
      // JavaScriptCore adds the expression of our own source.
      const message = `${error instanceof Error ? error.message : error}`.replace(/ \(evaluating .*\)$/s, "");
      throw new Error(
        `Cannot run kernel "${kernel.name}": it stopped with "${message}", a kernel ends by itself`,
        { cause: error },
      );
    }
  }

  /** What it runs on, as text by topic. */
  info(): Record<string, string> {
    const { obstacle, ready } = this.pool;
    const { capacityBytes } = this.heap.report();
    return {
      threads: obstacle === null ? `${this.threads}, of them started: ${ready + 1}` : `1: ${obstacle}`,
      simd: this.relaxed ? "128 bits, with relaxed multiply-add" : "128 bits",
      memory: `${capacityBytes / 2 ** 20} MiB reserved, ${this.heap.shared ? "shared" : "not shared"}`,
    };
  }
}

function checkedCount(count: number): number {
  return checkThreads(count, `${count} threads`);
}

let current: Engine | undefined;

/** The one engine of this process, made when it is first needed. */
export function engine(): Engine {
  if (current === undefined) {
    const made = new Engine();
    reportMemory("cpu", () => made.heap.report());
    current = made;
  }
  return current;
}

/**
 * Sets among how many threads the cpu device divides its work, the calling one included.
 *
 * The default is the environment variable COTANGENT_THREADS, or else one thread for each core. It can be changed at
 * any time; workers start when work is first divided, and sleep when there is none.
 *
 * Shapes: none.
 * Units: threads.
 * Determinism: results are the same bits for every number of threads.
 *
 * @param count an integer from 1 to 256; 1 = no other threads
 * @throws {RangeError} if the count is anything else
 * @example Everything on this thread
 * ```ts
 * ct.setThreads(1);
 * assertThrows(() => ct.setThreads(0), RangeError);
 * ```
 * @since 0.1.0
 */
export function setThreads(count: number): void {
  engine().threads = count;
}
