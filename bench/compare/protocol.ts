/**
 * What run.ts, ../gpu.ts and their children say to each other, one JSON object a line: one asks, the child answers, and
 * works only while it is asked. `torch_child.py` speaks the same, but for `who`.
 */
import { createInterface } from "node:readline";
import { RESTART } from "./inputs.ts";
import { loadPeer, type Mitata } from "./peers.ts";
import { partsOf } from "./works.ts";

export type Request =
  /** Which device computes. */
  | { readonly k: "who" }
  /** Make the inputs, run once, show the result, warm up. */
  | { readonly k: "prepare"; readonly work: string }
  /** Seconds of one run of the prepared work, the mean over at least `seconds`. */
  | { readonly k: "measure"; readonly seconds: number }
  /** Seconds of the first run beyond those of later ones: what is traced and compiled. */
  | { readonly k: "first"; readonly work: string }
  /** Drop the prepared work. */
  | { readonly k: "release" };

export type Answer =
  | { readonly k: "is"; readonly device: string }
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
  /** What the result of a run takes on a device; default 0. */
  readonly bytes?: number;
  /** Each run needs the end of the one before. */
  readonly isChained?: true;
  /** Only what the host does until the run is queued counts. */
  readonly isHostOnly?: true;
  /** Mean seconds of a run over at least `seconds`, where mitata is not to measure it. */
  time?(seconds: number): Promise<number>;
}

/** What an engine on a device tells beside its works. */
export interface Serving {
  readonly device?: string;
  /** How works are run on it. */
  adapt?(prepared: Prepared): Prepared;
}

/** How to prepare each work, at a size if it has several; a string says why the engine cannot. */
export type Works = Readonly<Record<string, ((size?: number) => Prepared | Promise<Prepared>) | string>>;

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
async function measure(prepared: Prepared, seconds: number): Promise<number> {
  if (prepared.time) return prepared.time(seconds);
  const mitata = await loadPeer<Mitata>("mitata");
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
export async function serve(
  works: Works,
  { device = "", adapt = (one) => one }: Serving = {},
): Promise<void> {
  let prepared: Prepared | undefined;
  const answer = async (request: Request): Promise<Answer> => {
    switch (request.k) {
      case "who":
        return { k: "is", device };
      case "prepare":
      case "first": {
        const { name, size } = partsOf(request.work);
        const make = works[name];
        if (make === undefined || typeof make === "string") return { k: "absent", why: make ?? "" };
        prepared = adapt(await make(size));
        if (request.k === "first") {
          const seconds = await first(prepared);
          return { k: "measured", seconds, mode: prepared.mode, shown: await prepared.show() };
        }
        const shown = await prepared.show();
        await warmUp(prepared);
        return { k: "prepared", mode: prepared.mode, shown };
      }
      case "measure":
        return { k: "measured", seconds: await measure(prepared!, request.seconds) };
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
