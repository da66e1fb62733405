/**
 * Worker threads that take ranges of a kernel's work. All talk goes through words in shared memory, so that neither
 * side needs its event loop: the main thread opens a range to each worker, computes its own, takes back what no worker
 * has begun, and waits for the rest. A worker that is not ready, asleep or dead costs nothing but its help.
 */
import type { LoadedKernel } from "./engine.ts";
import type { Heap } from "./heap.ts";

// Words of a slot: what the main thread and one worker share, in cache lines of its own.
export const STATE = 0;
export const SLEEPING = 1; // 1 = the worker wants to be notified when STATE changes
export const KERNEL = 2;
export const ARGS = 3;
export const BEGIN = 4;
export const END = 5;
export const FAILED = 6; // 1 = the kernel threw; what it said is in the port
const SLOT_BYTES = 128;

/** More than this is a mistake: each has its scratch buffer and its wake-up. */
const MOST_THREADS = 256;

/** Bytes of each thread's scratch buffer. */
export const SCRATCH_BYTES: number = 2 ** 20;

// Values of STATE. Any other value is a range that waits to be begun, stamped with the number of its run: a worker
// that read an older run's words finds another stamp when it claims the range, and drops them.
export const STARTING = 0; // set by the main thread; the worker sets IDLE when it is ready
export const IDLE = 1;
export const BUSY = 2;
export const FIRST_STAMP = 3;
const LAST_STAMP: number = 2 ** 31 - 1;

/** What a worker is given at its start. */
export interface Assignment {
  readonly memory: WebAssembly.Memory;
  /** Byte pointers to its slot and its scratch buffer. */
  readonly slot: number;
  readonly scratch: number;
  /** Where modules arrive, and where it says what went wrong. */
  readonly port: MessagePort;
}

/** A module, as workers receive it: the kernels `first`, `first + 1` ... are its exports of these names. */
export interface Delivery {
  readonly module: WebAssembly.Module;
  readonly names: readonly string[];
  readonly first: number;
}

type WorkerThreads = typeof import("node:worker_threads");
type MessagePort = import("node:worker_threads").MessagePort;

/** Workers that do not keep the process alive and are given memory at birth; absent in a browser. */
const host: WorkerThreads | undefined = globalThis.process?.getBuiltinModule?.("node:worker_threads");

interface Slot {
  /** Index of its first word. */
  readonly at: number;
  readonly worker: InstanceType<WorkerThreads["Worker"]>;
  readonly port: MessagePort;
  /** Modules it was sent, by their first kernel. */
  readonly delivered: Set<number>;
}

export interface ThreadsOptions {
  /** How long a worker may hold a range, in milliseconds, beyond fifty times what this thread's own range took. */
  readonly patience?: number;
}

/** Units [0, total) of a kernel, in ranges that begin at multiples of `grain`. */
export interface Work {
  readonly total: number;
  readonly grain: number;
  readonly args: number;
  readonly scratch: number;
}

const PATIENCE = 5000;
/** How long a range is watched before this thread sleeps, in milliseconds. */
const WATCH = 0.1;
/** How long it sleeps at most before it counts once, in milliseconds. */
const NAP = 20;

export class Threads {
  readonly #heap: Heap;
  readonly #patience: number;
  readonly #slots: Slot[] = [];
  #stamp: number = FIRST_STAMP;
  #failure: string | null = null;

  constructor(heap: Heap, options: ThreadsOptions = {}) {
    this.#heap = heap;
    this.#patience = options.patience ?? PATIENCE;
  }

  /** Why there is no second thread here; null = there can be one. */
  get obstacle(): string | null {
    if (host === undefined) return "the host has no worker threads";
    if (!this.#heap.shared) return "the host has no shared memory";
    return this.#failure;
  }

  /** The workers that were started, ready or not. */
  get workers(): readonly InstanceType<WorkerThreads["Worker"]>[] {
    return this.#slots.map(({ worker }) => worker);
  }

  /** How many workers are ready to help. */
  get ready(): number {
    if (this.obstacle !== null) return 0;
    return this.#slots.filter(({ at }) => Atomics.load(this.#heap.i32, at + STATE) !== STARTING).length;
  }

  /**
   * Runs the kernel on this thread and up to `threads - 1` workers, one range each. The first call starts the workers
   * and, as they are not ready yet, does all the work itself.
   *
   * @throws what the kernel threw, after every range has ended
   */
  run(kernel: LoadedKernel, work: Work, threads: number): void {
    const words = this.#heap.i32;
    const helpers = this.#helpers(threads - 1);
    const grains = Math.ceil(work.total / work.grain);
    const ranges = Math.min(helpers.length + 1, grains);
    const edge = (range: number): number =>
      Math.min(work.total, Math.floor((grains * range) / ranges) * work.grain);
    this.#stamp = this.#stamp === LAST_STAMP ? FIRST_STAMP : this.#stamp + 1;
    const stamp = this.#stamp;
    for (let range = 1; range < ranges; range++) {
      const { at, port, delivered } = helpers[range - 1]!;
      if (!delivered.has(kernel.source.first)) {
        port.postMessage(kernel.source);
        delivered.add(kernel.source.first);
      }
      Atomics.store(words, at + KERNEL, kernel.id);
      Atomics.store(words, at + ARGS, work.args);
      Atomics.store(words, at + BEGIN, edge(range));
      Atomics.store(words, at + END, edge(range + 1));
      Atomics.store(words, at + STATE, stamp);
      // A worker says that it will sleep before it looks at STATE for the last time.
      if (Atomics.load(words, at + SLEEPING) === 1) Atomics.notify(words, at + STATE);
    }

    const errors: unknown[] = [];
    const attempt = (range: number): void => {
      try {
        kernel.run(edge(range), edge(range + 1), work.args, work.scratch);
      } catch (error) {
        errors.push(error);
      }
    };
    const began = performance.now();
    attempt(0);
    const patience = this.#patience + 50 * (performance.now() - began);
    for (let range = ranges - 1; range >= 1; range--) {
      const { at } = helpers[range - 1]!;
      if (Atomics.compareExchange(words, at + STATE, stamp, IDLE) === stamp) attempt(range);
    }
    // Also after an error: nothing runs on behind the caller's back.
    for (let range = 1; range < ranges; range++) {
      const { at, port } = helpers[range - 1]!;
      if (!this.#wait(at, patience)) {
        this.stop(`a thread held its range of kernel "${kernel.name}" for too long`);
        attempt(range);
      } else if (Atomics.exchange(words, at + FAILED, 0) === 1) {
        errors.push(host?.receiveMessageOnPort(port)?.message);
      }
    }
    if (errors.length > 0) throw errors[0];
  }

  /** Up to `count` workers that are ready, after starting those that are missing. */
  #helpers(count: number): Slot[] {
    while (this.#slots.length < count && this.obstacle === null) this.#start();
    if (this.obstacle !== null) return [];
    const words = this.#heap.i32;
    return this.#slots.slice(0, count).filter(({ at }) => Atomics.load(words, at + STATE) === IDLE);
  }

  /** Waits until the worker has ended its range; false when patience ends first. */
  #wait(at: number, patience: number): boolean {
    const words = this.#heap.i32;
    const began = performance.now();
    do {
      for (let i = 0; i < 32; i++) {
        if (Atomics.load(words, at + STATE) !== BUSY) return true;
        Atomics.pause?.();
      }
    } while (performance.now() - began < WATCH);
    // Naps are counted: the clock of a process that was stopped and goes on has moved, its threads have not.
    for (let naps = Math.ceil(patience / NAP); naps > 0; naps--) {
      Atomics.wait(words, at + STATE, BUSY, NAP);
      if (Atomics.load(words, at + STATE) !== BUSY) return true;
    }
    return false;
  }

  #start(): void {
    if (host === undefined) return;
    // These blocks stay the worker's for ever: one that was given up may still write.
    const slot = this.#heap.allocate(SLOT_BYTES);
    const scratch = this.#heap.allocate(SCRATCH_BYTES);
    if (slot === 0 || scratch === 0) {
      this.stop("no memory is left for the buffers of a thread");
      return;
    }
    this.#heap.u8.fill(0, slot, slot + SLOT_BYTES);
    try {
      const { port1, port2 } = new host.MessageChannel();
      const assignment: Assignment = { memory: this.#heap.memory, slot, scratch, port: port2 };
      const worker = new host.Worker(new URL("./thread_worker.ts", import.meta.url), {
        workerData: assignment,
        transferList: [port2],
      });
      worker.unref();
      worker.on("error", (error) => this.stop(`a thread failed: ${error}`));
      worker.on("exit", () => this.stop("a thread ended"));
      this.#slots.push({ at: slot / 4, worker, port: port1, delivered: new Set() });
    } catch (error) {
      this.stop(`no thread can be started: ${error}`);
    }
  }

  /** Ends the workers for good: from here on, the calling thread computes alone. */
  stop(why: string): void {
    if (this.#failure !== null) return;
    this.#failure = why;
    for (const { worker } of this.#slots) void worker.terminate();
  }
}

/** How many threads this process may use: what is asked for in `COTANGENT_THREADS`, or one for each core. */
export function defaultThreads(): number {
  const asked = environment("COTANGENT_THREADS");
  if (asked === undefined || asked === "") return Math.max(1, globalThis.navigator?.hardwareConcurrency ?? 1);
  return checkThreads(Number(asked), `COTANGENT_THREADS=${JSON.stringify(asked)}`);
}

/** @throws {RangeError} if the count is no positive integer */
export function checkThreads(count: number, what: string): number {
  if (Number.isInteger(count) && count >= 1 && count <= MOST_THREADS) return count;
  throw new RangeError(
    `Cannot use ${what}: it is no number of threads, an integer from 1 to ${MOST_THREADS} is needed`,
  );
}

/** A variable of the environment, if this process may read it without asking the user. */
function environment(name: string): string | undefined {
  const deno: unknown = Reflect.get(globalThis, "Deno");
  if (isAsker(deno) && deno.permissions.querySync({ name: "env", variable: name }).state !== "granted")
    return undefined;
  return globalThis.process?.env[name];
}

interface Asker {
  readonly permissions: { querySync(what: { name: string; variable: string }): { readonly state: string } };
}

function isAsker(x: unknown): x is Asker {
  return typeof x === "object" && x !== null && "permissions" in x;
}
