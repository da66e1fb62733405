/** Who is measured: each engine is a process of its own, with its threads and its BLAS set by the environment. */
import { availableParallelism } from "node:os";
import { fileURLToPath } from "node:url";
import type { Answer, Request } from "./protocol.ts";

export interface Engine {
  readonly id: string;
  /** Name of `--engines` for all engines of one library. */
  readonly family: string;
  readonly label: string;
  readonly command: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  /** Only works whose names start so. */
  readonly only?: readonly string[];
}

const bun = (file: URL): readonly string[] => [process.execPath, fileURLToPath(file)];
const machineChild: readonly string[] = bun(new URL("./machine_child.ts", import.meta.url));
const blasChild: readonly string[] = bun(new URL("./openblas_child.ts", import.meta.url));
const cotangentChild: readonly string[] = bun(new URL("./cotangent_child.ts", import.meta.url));
const onnxChild: readonly string[] = bun(new URL("./onnxruntime_child.ts", import.meta.url));
const jaxChild: readonly string[] = bun(new URL("./jax_child.ts", import.meta.url));
const tfjsChild: readonly string[] = bun(new URL("./tfjs_child.ts", import.meta.url));
const torchChild: readonly string[] = [
  process.env["COMPARE_PYTHON"] ?? "/usr/bin/python3",
  fileURLToPath(new URL("./torch_child.py", import.meta.url)),
];

/** All engines. `coreType` is the kind of processor that OpenBLAS is told to expect; null leaves it to OpenBLAS. */
export function engines(coreType: string | null): Engine[] {
  const cores = availableParallelism();
  const list: Engine[] = [];
  for (const threads of cores > 1 ? [cores, 1] : [1]) {
    const suffix = threads === cores ? "all" : String(threads);
    const n = `${threads}t`;
    const blas = {
      OPENBLAS_NUM_THREADS: String(threads),
      ...(coreType ? { OPENBLAS_CORETYPE: coreType } : {}),
    };
    const torch = { COMPARE_THREADS: String(threads), OMP_NUM_THREADS: String(threads) };
    const kind = coreType ?? "default";
    const own = { COTANGENT_THREADS: String(threads) };
    list.push(
      {
        id: `machine-${suffix}`,
        family: "machine",
        label: `WebAssembly, ${n}`,
        command: machineChild,
        env: { COMPARE_THREADS: String(threads) },
      },
      {
        id: `openblas-${suffix}`,
        family: "openblas",
        label: `OpenBLAS by FFI (${kind}), ${n}`,
        command: blasChild,
        env: blas,
      },
      {
        id: `onnx-${suffix}`,
        family: "onnx",
        label: `onnxruntime by FFI, ${n}`,
        command: onnxChild,
        env: { COMPARE_THREADS: String(threads) },
        only: ["matmul"],
      },
      {
        id: `onnx-package-${suffix}`,
        family: "onnx",
        label: `onnxruntime-node, ${n}`,
        command: onnxChild,
        env: { COMPARE_THREADS: String(threads), COMPARE_ONNX: "package" },
        only: ["matmul"],
      },
      {
        id: `cotangent-${suffix}`,
        family: "cotangent",
        label: `cotangent, BLAS, ${n}`,
        command: cotangentChild,
        env: own,
      },
      {
        id: `cotangent-wasm-${suffix}`,
        family: "cotangent",
        label: `cotangent, no BLAS, ${n}`,
        command: cotangentChild,
        env: { ...own, COTANGENT_BLAS: "none" },
      },
      {
        id: `jax-${suffix}`,
        family: "jax",
        label: threads > 1 ? `jax-js wasm, ${n}` : "jax-js wasm, 1t (no workers)",
        command: jaxChild,
        env: threads > 1 ? {} : { COMPARE_JAX_WORKERS: "0" },
      },
      {
        id: `torch-${suffix}`,
        family: "torch",
        label: `PyTorch (${kind}), ${n}`,
        command: torchChild,
        // OpenMP's threads would spin after their work, on the cores that OpenBLAS's threads need.
        env: { ...torch, ...blas, OMP_WAIT_POLICY: "passive" },
      },
    );
    list.push({
      id: `torch-default-${suffix}`,
      family: "torch",
      label: `PyTorch as installed, ${n}`,
      command: torchChild,
      env: { ...torch, OPENBLAS_NUM_THREADS: String(threads) },
      only: ["matmul", "adam", "gradient", "hvp"],
    });
  }
  list.push({ id: "tfjs", family: "tfjs", label: "TensorFlow.js wasm, 1t", command: tfjsChild, env: {} });
  const order = ["machine", "openblas", "onnx", "cotangent", "jax", "tfjs", "torch"];
  return list.toSorted((a, b) => order.indexOf(a.family) - order.indexOf(b.family));
}

/** How long a child may be silent. */
const SILENCE_MS = 180_000;

/** The process of one engine: asked one thing at a time, started when it is first needed and again after it died. */
export class Child {
  readonly engine: Engine;
  #process: Bun.Subprocess<"pipe", "pipe", "pipe"> | undefined;
  #output: AsyncIterator<Uint8Array> | undefined;
  #text = "";
  /** What it complained of last, when it has ended. */
  #complaint: Promise<string> = Promise.resolve("");

  constructor(engine: Engine) {
    this.engine = engine;
  }

  get pids(): readonly number[] {
    return [process.pid, ...(this.#process ? [this.#process.pid] : [])];
  }

  async ask(request: Request): Promise<Answer> {
    try {
      this.#start();
      this.#process!.stdin.write(`${JSON.stringify(request)}\n`);
      this.#process!.stdin.flush();
      return JSON.parse(await this.#line());
    } catch (error) {
      this.stop();
      return { k: "absent", why: error instanceof Error ? error.message : String(error) };
    }
  }

  stop(): void {
    this.#process?.kill(9);
    this.#process = undefined;
  }

  #start(): void {
    if (this.#process) return;
    this.#text = "";
    this.#process = Bun.spawn([...this.engine.command], {
      env: { ...process.env, ...this.engine.env },
      stdin: "pipe",
      stdout: "pipe",
      stderr: "pipe",
    });
    this.#complaint = lastError(this.#process.stderr);
    this.#output = this.#process.stdout[Symbol.asyncIterator]();
  }

  /** The next line that is an answer: libraries print lines of their own. */
  async #line(): Promise<string> {
    let timer: Timer | undefined;
    const silence = new Promise<never>((_, reject) => {
      timer = setTimeout(() => reject(new Error(`no answer in ${SILENCE_MS / 1000} s`)), SILENCE_MS);
    });
    const decoder = new TextDecoder();
    try {
      for (;;) {
        for (let end = this.#text.indexOf("\n"); end >= 0; end = this.#text.indexOf("\n")) {
          const line = this.#text.slice(0, end);
          this.#text = this.#text.slice(end + 1);
          if (line.startsWith("{")) return line;
        }
        const { value, done } = await Promise.race([this.#output!.next(), silence]);
        if (done) throw new Error(`the process has ended${await this.#complaint}`);
        this.#text += decoder.decode(value, { stream: true });
      }
    } finally {
      clearTimeout(timer);
    }
  }
}

/** ": " and the last line with an error that a stream had, once it is closed. */
async function lastError(stream: AsyncIterable<Uint8Array>): Promise<string> {
  const decoder = new TextDecoder();
  let tail = "";
  for await (const bytes of stream) tail = (tail + decoder.decode(bytes, { stream: true })).slice(-4096);
  const line = tail.split("\n").findLast((one) => /error/i.test(one));
  return line === undefined ? "" : `: ${line.trim().slice(0, 400)}`;
}

/** Kinds of processor for which OpenBLAS may be faster than for the one it finds. */
const CORE_TYPES: readonly string[] = ["Haswell", "Zen", "SkylakeX", "Cooperlake"];

/** The core type with the fastest product, tried in turns; null where OpenBLAS is missing or chooses best itself. */
export async function bestCoreType(): Promise<string | null> {
  const tries = [null, ...CORE_TYPES].map((coreType) => {
    const engine = engines(coreType).find(({ id }) => id === "openblas-1" || id === "openblas-all")!;
    return { coreType, child: new Child(engine), seconds: Number.POSITIVE_INFINITY };
  });
  for (const { child } of tries) await child.ask({ k: "prepare", work: "matmul-1024" });
  for (let round = 0; round < 5; round++) {
    for (const one of tries) {
      const answer = await one.child.ask({ k: "measure", seconds: 0.1 });
      if (answer.k === "measured") one.seconds = Math.min(one.seconds, answer.seconds);
    }
  }
  for (const { child } of tries) child.stop();
  const [found] = tries;
  const best = tries.toSorted((a, b) => a.seconds - b.seconds)[0]!;
  // Less than 2 % is noise.
  return best.seconds < 0.98 * found!.seconds ? best.coreType : null;
}
