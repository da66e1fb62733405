/**
 * Worker threads that take part in a kernel's work. All talk goes through words in shared memory, so that neither side
 * needs its event loop: the main thread offers each worker a range, computes its own, helps with what no worker has
 * begun, and waits for the rest. A worker that is not ready, asleep or dead costs nothing but its help.
 */
import { environment } from "../../environment.ts";
import type { NativeLibrary } from "./blas.ts";
import type { LoadedKernel } from "./engine.ts";
import type { Heap } from "./heap.ts";

export { environment };

// Words of a slot: what the main thread and one worker share, in cache lines of its own.
/**
 * The offer: the number of the run times `RUN`, plus how many pieces of the range nobody has begun. Whoever takes one
 * off has claimed a piece. A worker that read the other words for an older run fails to, and reads them again.
 */
export const OFFER = 0;
export const KERNEL = 1;
export const ARGS = 2;
export const BEGIN = 3;
export const END = 4;
export const GRAIN = 5;
export const PIECES = 6;
export const READY = 16; // 1 = the worker runs
export const SLEEPING = 17; // 1 = it wants to be notified when OFFER changes
export const DONE = 18; // pieces that it has ended in this run
export const FAILED = 19; // 1 = one of them threw; what it said is in the port
const SLOT_BYTES = 128;

/** A range is begun piece by piece, so that a worker that comes late or is slow has less to do. */
const MOST_PIECES = 4;
export const RUN = 8;
const LAST_RUN: number = 2 ** 28 - 1;

/** Where piece `piece` of the range [begin, end) begins: at a multiple of the grain from `begin`. */
export function pieceStart(
  { begin, end, grain, pieces }: { begin: number; end: number; grain: number; pieces: number },
  piece: number,
): number {
  return Math.min(end, begin + Math.floor((Math.ceil((end - begin) / grain) * piece) / pieces) * grain);
}

/** More than this is a mistake: each has its scratch buffer and its wake-up. */
const MOST_THREADS = 256;

/** Bytes of each thread's scratch buffer. */
export const SCRATCH_BYTES: number = 2 ** 20;

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
  /** Whose products the module imports, if it does. */
  readonly library: NativeLibrary | null;
}

type WorkerThreads = typeof import("node:worker_threads");
type MessagePort = import("node:worker_threads").MessagePort;

/** Workers that do not keep the process alive and are given memory at birth; absent in a browser. */
const host: WorkerThreads | undefined = globalThis.process?.getBuiltinModule?.("node:worker_threads");
const paths = globalThis.process?.getBuiltinModule?.("node:url");

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

/** A worker's part of a run. */
interface Range {
  readonly helper: Slot;
  readonly begin: number;
  readonly end: number;
  readonly grain: number;
  readonly pieces: number;
}

/** Units [0, total) of a kernel, in ranges that begin at multiples of `grain`. */
export interface Work {
  readonly total: number;
  readonly grain: number;
  readonly args: number;
  readonly scratch: number;
}

const PATIENCE = 5000;
/** How long one run starts workers, in milliseconds: a start takes 2 in Bun and 50 in Deno. */
const START = 10;
/** How long a worker is watched before this thread sleeps, in milliseconds. */
const WATCH = 0.1;
/** How long it sleeps at most before it counts once, in milliseconds. */
const NAP = 20;

export class Threads {
  readonly #heap: Heap;
  readonly #patience: number;
  readonly #slots: Slot[] = [];
  #run = 0;
  #failure: string | null = null;

  constructor(heap: Heap, options: ThreadsOptions = {}) {
    this.#heap = heap;
    this.#patience = options.patience ?? PATIENCE;
  }

  /** Why there is no second thread here; null = there can be one. */
  get obstacle(): string | null {
    if (host === undefined || paths === undefined) return "the host has no worker threads";
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
    return this.#slots.filter(({ at }) => Atomics.load(this.#heap.i32, at + READY) === 1).length;
  }

  /**
   * Runs the kernel on this thread and up to `threads - 1` workers, an equal range each. Workers that are
   * missing are started, and help once they are ready.
   *
   * @throws what the kernel threw, after every range has ended
   */
  run(kernel: LoadedKernel, work: Work, threads: number): void {
    const helpers = this.#helpers(threads - 1);
    // After what may start workers: their slots may be in memory that grew.
    const words = this.#heap.i32;
    const { total, grain, args, scratch } = work;
    const whole = {
      begin: 0,
      end: total,
      grain,
      pieces: Math.min(helpers.length + 1, Math.ceil(total / grain)),
    };
    this.#run = this.#run === LAST_RUN ? 0 : this.#run + 1;
    const ranges: Range[] = [];
    for (let i = 1; i < whole.pieces; i++) {
      const begin = pieceStart(whole, i);
      const end = pieceStart(whole, i + 1);
      const pieces = Math.min(MOST_PIECES, Math.ceil((end - begin) / grain));
      const range = { helper: helpers[i - 1]!, begin, end, grain, pieces };
      this.#offer(kernel, args, range);
      ranges.push(range);
    }

    const errors: unknown[] = [];
    const attempt = (begin: number, end: number): void => {
      try {
        kernel.run(begin, end, args, scratch);
      } catch (error) {
        errors.push(error);
      }
    };
    const began = performance.now();
    attempt(0, pieceStart(whole, 1));
    const patience = this.#patience + 50 * (performance.now() - began);
    const awaited = ranges.map((range) => {
      const at = range.helper.at + OFFER;
      let theirs = range.pieces;
      for (let offer = Atomics.load(words, at); offer % RUN > 0; offer = Atomics.load(words, at)) {
        if (Atomics.compareExchange(words, at, offer, offer - 1) !== offer) continue;
        theirs--;
        const piece = range.pieces - (offer % RUN);
        attempt(pieceStart(range, piece), pieceStart(range, piece + 1));
      }
      return theirs;
    });
    // Also after an error: nothing runs on behind the caller's back.
    for (const [i, { helper, begin, end }] of ranges.entries()) {
      if (!this.#wait(helper.at + DONE, awaited[i]!, patience)) {
        this.stop(`a thread held a range of kernel "${kernel.name}" for too long`);
        attempt(begin, end);
      } else if (Atomics.exchange(words, helper.at + FAILED, 0) === 1) errors.push(...messages(helper.port));
    }
    if (errors.length > 0) throw errors[0];
  }

  #offer(kernel: LoadedKernel, args: number, { helper, begin, end, grain, pieces }: Range): void {
    const { at, port, delivered } = helper;
    const words = this.#heap.i32;
    if (!delivered.has(kernel.source.first)) {
      port.postMessage(kernel.source);
      delivered.add(kernel.source.first);
    }
    Atomics.store(words, at + KERNEL, kernel.id);
    Atomics.store(words, at + ARGS, args);
    Atomics.store(words, at + BEGIN, begin);
    Atomics.store(words, at + END, end);
    Atomics.store(words, at + GRAIN, grain);
    Atomics.store(words, at + PIECES, pieces);
    Atomics.store(words, at + DONE, 0);
    Atomics.store(words, at + OFFER, this.#run * RUN + pieces);
    // A worker says that it will sleep before it looks at the offer for the last time.
    if (Atomics.load(words, at + SLEEPING) === 1) Atomics.notify(words, at + OFFER);
  }

  /** Up to `count` workers that are ready, after starting those that are missing, or as many as start quickly. */
  #helpers(count: number): Slot[] {
    if (this.#slots.length < count) {
      const began = performance.now();
      while (this.#slots.length < count && this.obstacle === null && performance.now() - began < START)
        this.#start();
    }
    if (this.obstacle !== null) return [];
    const words = this.#heap.i32;
    return this.#slots.slice(0, count).filter(({ at }) => Atomics.load(words, at + READY) === 1);
  }

  /** Waits until the word is `value`; false when patience ends first. */
  #wait(at: number, value: number, patience: number): boolean {
    const words = this.#heap.i32;
    const began = performance.now();
    do {
      for (let i = 0; i < 32; i++) {
        if (Atomics.load(words, at) === value) return true;
        Atomics.pause?.();
      }
    } while (performance.now() - began < WATCH);
    // Naps are counted: the clock of a process that was stopped and goes on has moved, its threads have not.
    let naps = Math.ceil(patience / NAP);
    for (let seen = Atomics.load(words, at); seen !== value; seen = Atomics.load(words, at))
      if (Atomics.wait(words, at, seen, NAP) === "timed-out" && --naps <= 0) return false;
    return true;
  }

  #start(): void {
    if (host === undefined || paths === undefined) return;
    // These blocks stay the worker's for ever: one that was given up may still write.
    const slot = this.#heap.allocate(SLOT_BYTES);
    const scratch = this.#heap.allocate(SCRATCH_BYTES);
    if (slot === 0 || scratch === 0) {
      this.stop("no memory is left for the buffers of a thread");
      return;
    }
    this.#heap.u8.fill(0, slot, slot + SLOT_BYTES);
    try {
      // As text: two hosts' types of URL do not agree.
      const file = new URL("./thread_worker.ts", import.meta.url).href;
      const { port1, port2 } = new host.MessageChannel();
      const assignment: Assignment = { memory: this.#heap.memory, slot, scratch, port: port2 };
      const worker = new host.Worker(paths.fileURLToPath(file), {
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

/** What a worker has said since the last time. */
function messages(port: MessagePort): unknown[] {
  const found: unknown[] = [];
  for (let one = host?.receiveMessageOnPort(port); one !== undefined; one = host?.receiveMessageOnPort(port))
    found.push(one.message);
  return found;
}

/** How many threads this process may use: what is asked for in `COTANGENT_THREADS`, or one for each core. */
export function defaultThreads(): number {
  const asked = environment("COTANGENT_THREADS");
  if (asked === undefined) return Math.max(1, globalThis.navigator?.hardwareConcurrency ?? 1);
  return checkThreads(Number(asked), `COTANGENT_THREADS=${JSON.stringify(asked)}`);
}

/** @throws {RangeError} if the count is no positive integer */
export function checkThreads(count: number, what: string): number {
  if (Number.isInteger(count) && count >= 1 && count <= MOST_THREADS) return count;
  throw new RangeError(
    `Cannot use ${what}: it is no number of threads, an integer from 1 to ${MOST_THREADS} is needed`,
  );
}
