/**
 * What run.ts and its children say to each other, one JSON object a line: run.ts asks, the child answers, and works
 * only while it is asked. `torch_child.py` speaks the same.
 */
import { createInterface } from "node:readline";
import { RESTART } from "./inputs.ts";
import { loadPeer, type Mitata } from "./peers.ts";

export type Request =
  /** Make the inputs, run once, show the result, warm up. */
  | { readonly k: "prepare"; readonly work: string }
  /** Seconds of one run of the prepared work, the mean over at least `seconds`. */
  | { readonly k: "measure"; readonly seconds: number }
  /** Seconds of the first run beyond those of later ones: what is traced and compiled. */
  | { readonly k: "first"; readonly work: string }
  /** Drop the prepared work. */
  | { readonly k: "release" };

export type Answer =
  | { readonly k: "prepared"; readonly mode: string; readonly shown: readonly number[] }
  | {
      readonly k: "measured";
      readonly seconds: number;
      readonly mode?: string;
      readonly shown?: readonly number[];
    }
  | { readonly k: "released" }
  /** The engine cannot do this work, and why. */
  | { readonly k: "absent"; readonly why: string };

/** A work that is ready to run. */
export interface Prepared {
  /** "jit", "eager": how the engine does it. */
  readonly mode: string;
  run(): unknown;
  /** A result from the start, as `probe` shows it. */
  show(): readonly number[] | Promise<readonly number[]>;
  release?(): void;
}

/** How to prepare each work; a string says why the engine cannot. */
export type Works = Readonly<Record<string, (() => Prepared | Promise<Prepared>) | string>>;

/** Training from the first parameters. */
export interface Training<T> {
  /** Goes back to the first parameters. */
  restart(): void;
  /** One step, after going back if there were `RESTART` of them. */
  run(): T;
}

/** Training that all engines restart alike; a shown loss comes from the runs that are measured. */
export function training<T>(begin: () => void, step: () => T): Training<T> {
  let steps = 0;
  const restart = (): void => {
    begin();
    steps = 0;
  };
  const run = (): T => {
    if (steps === RESTART) restart();
    steps++;
    return step();
  };
  return { restart, run };
}

const WARM_UP_SECONDS = 0.4;

async function warmUp(prepared: Prepared): Promise<void> {
  const start = performance.now();
  do await prepared.run();
  while (performance.now() - start < 1000 * WARM_UP_SECONDS);
}

/** Mean seconds of a run. No sample is dropped and none is preceded by a collection: what collections cost is part of the time. */
async function measure(mitata: Mitata, prepared: Prepared, seconds: number): Promise<number> {
  const { avg } = await mitata.measure(() => prepared.run(), {
    gc: false,
    min_cpu_time: seconds * 1e9,
    min_samples: 2,
    samples_threshold: Number.POSITIVE_INFINITY,
    batch_threshold: 20_000,
    batch_samples: 64,
  });
  return avg / 1e9;
}

async function first(prepared: Prepared): Promise<number> {
  const time = async (): Promise<number> => {
    const start = performance.now();
    await prepared.run();
    return (performance.now() - start) / 1000;
  };
  const once = await time();
  const later: number[] = [];
  for (let i = 0; i < 5; i++) later.push(await time());
  return once - Math.min(...later);
}

/** Answers requests from standard input until it closes. */
export async function serve(works: Works): Promise<void> {
  const mitata = await loadPeer<Mitata>("mitata");
  let prepared: Prepared | undefined;
  const answer = async (request: Request): Promise<Answer> => {
    switch (request.k) {
      case "prepare":
      case "first": {
        const make = works[request.work];
        if (make === undefined || typeof make === "string") return { k: "absent", why: make ?? "" };
        prepared = await make();
        if (request.k === "first") {
          const seconds = await first(prepared);
          return { k: "measured", seconds, mode: prepared.mode, shown: await prepared.show() };
        }
        const shown = await prepared.show();
        await warmUp(prepared);
        return { k: "prepared", mode: prepared.mode, shown };
      }
      case "measure":
        return { k: "measured", seconds: await measure(mitata, prepared!, request.seconds) };
      case "release":
        prepared?.release?.();
        prepared = undefined;
        return { k: "released" };
      default:
        return request satisfies never;
    }
  };
  for await (const line of createInterface({ input: process.stdin })) {
    let said: Answer;
    try {
      said = await answer(JSON.parse(line));
    } catch (error) {
      said = { k: "absent", why: error instanceof Error ? error.message : String(error) };
    }
    process.stdout.write(`${JSON.stringify(said)}\n`);
  }
  process.exit(0);
}
