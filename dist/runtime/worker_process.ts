/** Worker processes, as the hub sees them, and how they learn where the hub is. */

/**
 * Where the hub listens, and the word by which it knows one life of one worker.
 *
 * @since 0.1.0
 */
export interface Address {
  readonly host: string;
  readonly port: number;
  readonly token: string;
}

/**
 * A process that was started for one rank.
 *
 * @since 0.1.0
 */
export interface WorkerProcess {
  readonly pid: number;
  kill(signal: "SIGKILL" | "SIGTERM"): void;
  /** Settles with the exit code when the process has ended; never rejects. */
  readonly exited: Promise<number>;
  /** The end of what it has written to its standard error, if that is captured. */
  readonly lastWords?: () => string;
}

/**
 * How to start a process.
 *
 * @since 0.1.0
 */
export interface SpawnOptions {
  /** Given to the process in its environment; `addressFromEnvironment` reads it there. */
  readonly address?: Address;
  /** Its standard error: shown as it comes, or kept (the last 4000 characters) for error messages. Default: kept. */
  readonly standardError?: "show" | "keep";
  /** Words before the command line, such as those that start it in another network namespace or on another machine. */
  readonly prefix?: readonly string[];
  /** Threads of its kernels, unless COTANGENT_THREADS says otherwise; processes of one machine share its cores. */
  readonly threads?: number;
}

const VARIABLE = "COTANGENT_HUB";
const KEPT_CHARACTERS = 4000;

/**
 * Starts a script in a new Bun process of the same version. Its standard output is shown.
 *
 * The address travels in the environment and not among the arguments, which every user of the machine can read.
 *
 * @example Worker processes of this machine
 * ```typescript
 * runSockets({ spawn: (rank, address) => spawnBun("worker.ts", [String(rank)], { address }), ...rest });
 * ```
 *
 * @since 0.1.0
 */
export function spawnBun(script: string, args: readonly string[], options: SpawnOptions = {}): WorkerProcess {
  const { address, standardError = "keep", prefix = [], threads } = options;
  const child = Bun.spawn([...prefix, process.execPath, script, ...args], {
    stdin: "ignore",
    stdout: "inherit",
    stderr: standardError === "keep" ? "pipe" : "inherit",
    env: {
      ...(threads !== undefined && { COTANGENT_THREADS: String(threads) }),
      ...process.env,
      ...(address === undefined ? {} : { [VARIABLE]: JSON.stringify(address) }),
    },
  });
  let words = "";
  const isRead =
    child.stderr instanceof ReadableStream
      ? keepTail(child.stderr, (text) => {
          words = (words + text).slice(-KEPT_CHARACTERS);
        })
      : Promise.resolve();
  return {
    pid: child.pid,
    kill: (signal) => child.kill(signal),
    // A grandchild may hold the pipe open: its last words are not waited for.
    exited: child.exited.then(async (code) => {
      await Promise.race([isRead, Bun.sleep(100)]);
      return code;
    }),
    lastWords: () => words.trim(),
  };
}

/**
 * The address that `spawnBun` gave to this process.
 *
 * @throws {Error} if there is none
 *
 * @example Inside a worker process
 * ```typescript
 * import { addressFromEnvironment } from "cotangent/bun";
 * const { host, port } = addressFromEnvironment();
 * ```
 * @since 0.1.0
 */
export function addressFromEnvironment(): Address {
  const text = process.env[VARIABLE];
  if (text === undefined) {
    throw new Error(
      `Cannot find the hub: the variable ${VARIABLE} is not set, a hub must start this process`,
    );
  }
  const { host, port, token } = JSON.parse(text) as Partial<Address>;
  if (typeof host !== "string" || typeof port !== "number" || typeof token !== "string") {
    throw new Error(`Cannot find the hub: ${VARIABLE} is malformed, host, port and token are needed`);
  }
  return { host, port, token };
}

async function keepTail(stream: ReadableStream<Uint8Array>, take: (text: string) => void): Promise<void> {
  const decoder = new TextDecoder();
  for await (const chunk of stream) take(decoder.decode(chunk, { stream: true }));
}
