/** What a worker thread runs: it waits for ranges of kernels and computes them, for as long as the process lives. */
import { receiveMessageOnPort, workerData } from "node:worker_threads";
import {
  ARGS,
  type Assignment,
  BEGIN,
  BUSY,
  type Delivery,
  END,
  FAILED,
  FIRST_STAMP,
  IDLE,
  KERNEL,
  SLEEPING,
  STATE,
} from "./threads.ts";

/** How long it watches for the next range before it sleeps, in milliseconds: about what waking up costs. */
const WATCH = 0.05;

type Run = (begin: number, end: number, args: number, scratch: number) => void;

const { memory, slot, scratch, port }: Assignment = workerData;
const words = new Int32Array(memory.buffer, slot, 16);
const kernels = new Map<number, Run>();

/** The kernel with this number, after the modules that have arrived; undefined = its module has not. */
function find(id: number): Run | undefined {
  for (let run = kernels.get(id); ; run = kernels.get(id)) {
    if (run !== undefined) return run;
    const delivery: Delivery | undefined = receiveMessageOnPort(port)?.message;
    if (delivery === undefined) return undefined;
    const { exports } = new WebAssembly.Instance(delivery.module, { env: { memory } });
    // Every name is an exported function of this signature: the main thread has run the same module.
    for (const [i, name] of delivery.names.entries()) kernels.set(delivery.first + i, exports[name] as Run);
  }
}

/** Returns once STATE is no longer `seen`. */
function wait(seen: number): void {
  const began = performance.now();
  do {
    for (let i = 0; i < 32; i++) {
      if (Atomics.load(words, STATE) !== seen) return;
      Atomics.pause?.();
    }
  } while (performance.now() - began < WATCH);
  Atomics.store(words, SLEEPING, 1);
  Atomics.wait(words, STATE, seen);
  Atomics.store(words, SLEEPING, 0);
}

Atomics.store(words, STATE, IDLE);
for (;;) {
  const stamp = Atomics.load(words, STATE);
  if (stamp < FIRST_STAMP) {
    wait(stamp);
    continue;
  }
  const args = Atomics.load(words, ARGS);
  const begin = Atomics.load(words, BEGIN);
  const end = Atomics.load(words, END);
  const run = find(Atomics.load(words, KERNEL));
  if (run === undefined) {
    wait(stamp);
    continue;
  }
  if (Atomics.compareExchange(words, STATE, stamp, BUSY) !== stamp) continue;
  try {
    run(begin, end, args, scratch);
  } catch (error) {
    port.postMessage(String(error));
    Atomics.store(words, FAILED, 1);
  }
  Atomics.store(words, STATE, IDLE);
  Atomics.notify(words, STATE);
}
