/** What a worker thread runs: it waits for pieces of work and computes them, for as long as the process lives. */
import { receiveMessageOnPort, workerData } from "node:worker_threads";
import { bindBlas } from "./blas.ts";
import {
  ARGS,
  type Assignment,
  BEGIN,
  type Delivery,
  DONE,
  END,
  FAILED,
  GRAIN,
  KERNEL,
  OFFER,
  PIECES,
  pieceStart,
  READY,
  RUN,
  SLEEPING,
} from "./threads.ts";

/** How long it watches for the next offer before it sleeps, in milliseconds: about what waking it costs. */
const WATCH = 0.1;

type Run = (begin: number, end: number, args: number, scratch: number) => void;

const { memory, slot, scratch, port }: Assignment = workerData;
const words = new Int32Array(memory.buffer, slot, 32);
const load = (word: number): number => Atomics.load(words, word);
const kernels = new Map<number, Run>();

/** The kernel with this number, after the modules that have arrived; undefined = its module has not. */
function find(id: number): Run | undefined {
  for (;;) {
    const run = kernels.get(id);
    if (run !== undefined) return run;
    const delivery: Delivery | undefined = receiveMessageOnPort(port)?.message;
    if (delivery === undefined) return undefined;
    const { library } = delivery;
    const env = { memory, ...(library && bindBlas(library, memory)) };
    const { exports } = new WebAssembly.Instance(delivery.module, { env });
    // Every name is an exported function of this signature: the main thread has run the same module.
    for (const [i, name] of delivery.names.entries()) kernels.set(delivery.first + i, exports[name] as Run);
  }
}

/** Returns once the offer is no longer `seen`, or somewhat earlier. */
function wait(seen: number): void {
  const began = performance.now();
  do {
    for (let i = 0; i < 32; i++) {
      if (load(OFFER) !== seen) return;
      Atomics.pause?.();
    }
  } while (performance.now() - began < WATCH);
  Atomics.store(words, SLEEPING, 1);
  Atomics.wait(words, OFFER, seen);
  Atomics.store(words, SLEEPING, 0);
}

Atomics.store(words, READY, 1);
for (;;) {
  const offer = load(OFFER);
  const run = offer % RUN > 0 ? find(load(KERNEL)) : undefined;
  if (run === undefined) {
    wait(offer);
    continue;
  }
  const range = { begin: load(BEGIN), end: load(END), grain: load(GRAIN), pieces: load(PIECES) };
  const args = load(ARGS);
  if (Atomics.compareExchange(words, OFFER, offer, offer - 1) !== offer) continue;
  const piece = range.pieces - (offer % RUN);
  try {
    run(pieceStart(range, piece), pieceStart(range, piece + 1), args, scratch);
  } catch (error) {
    port.postMessage(String(error));
    Atomics.store(words, FAILED, 1);
  }
  Atomics.add(words, DONE, 1);
  Atomics.notify(words, DONE);
}
