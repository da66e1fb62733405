/** The command-line program as a user starts it: a process of its own, in a directory of its own. */

import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { decode } from "../../core/safetensors.ts";

const MAIN = new URL("../../cli/main.ts", import.meta.url).pathname;
/** No program that a test starts lives longer. */
const LIMIT_MS = 100_000;

/** A problem that is solved in a second: 4 rounds of 10 steps, for methods without curvature. */
export const PLAIN: readonly string[] = words(
  "--train-limit 400 --test-limit 200 --batch 16 --hidden 8 --local-steps 10",
);

/** The same for methods with curvature. */
export const SMALL: readonly string[] = [...PLAIN, ...words("--k 2 --curvature-batch 64")];

export function words(text: string): readonly string[] {
  return text.split(" ").filter((word) => word !== "");
}

/** How a program has ended. */
export interface Ended {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

/** A program that runs. */
export interface Program {
  readonly pid: number;
  /** What it has written to its standard error so far. */
  readonly err: () => string;
  /** Ctrl-C: a signal to the program and everything that it has started. */
  interrupt(): void;
  kill(): void;
  readonly ended: Promise<Ended>;
}

/**
 * Runs `use` with a fresh directory that is gone afterwards, and so are all processes that were started there.
 */
export async function withPrograms(
  use: (
    dir: string,
    start: (args: readonly string[], env?: Readonly<Record<string, string>>) => Program,
  ) => Promise<void>,
): Promise<void> {
  const dir = mkdtempSync(join(tmpdir(), "cotangent-program-"));
  const groups: number[] = [];
  try {
    await use(dir, (args, env = {}) => {
      const program = startProgram(dir, args, env);
      groups.push(program.pid);
      return program;
    });
  } finally {
    for (const pid of groups) signal(-pid, "SIGKILL");
    rmSync(dir, { recursive: true, force: true });
  }
}

function startProgram(cwd: string, args: readonly string[], env: Readonly<Record<string, string>>): Program {
  // A group of its own, as a terminal makes it, so that a signal can reach the workers too.
  const child = Bun.spawn([process.execPath, MAIN, ...args], {
    cwd,
    env: { ...process.env, ...env },
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
    detached: true,
  });
  const timer = setTimeout(() => signal(-child.pid, "SIGKILL"), LIMIT_MS);
  let err = "";
  const errDone = (async () => {
    const decoder = new TextDecoder();
    for await (const chunk of child.stderr) err += decoder.decode(chunk, { stream: true });
  })();
  const finish = async (): Promise<Ended> => {
    const [code, out] = await Promise.all([child.exited, new Response(child.stdout).text(), errDone]);
    clearTimeout(timer);
    return { code, out, err };
  };
  return {
    pid: child.pid,
    err: () => err,
    interrupt: () => signal(-child.pid, "SIGINT"),
    kill: () => signal(child.pid, "SIGKILL"),
    ended: finish(),
  };
}

/** Sends a signal; a process that is gone already is no error. */
export function signal(pid: number, name: "SIGKILL" | "SIGINT"): void {
  try {
    process.kill(pid, name);
  } catch (error) {
    if ((error as { readonly code?: unknown }).code !== "ESRCH") throw error;
  }
}

export function isAlive(pid: number): boolean {
  const row = processes().find((other) => other.pid === pid);
  return row !== undefined && !row.isZombie;
}

/** The living workers of a program, by rank. */
export function workersOf(program: Program): ReadonlyMap<number, number> {
  const found = new Map<number, number>();
  for (const { pid, parent, command, isZombie } of processes()) {
    const rank = /worker --run .* --rank (\d+)/.exec(command)?.[1];
    if (parent === program.pid && !isZombie && rank !== undefined) found.set(Number(rank), pid);
  }
  return found;
}

interface Row {
  readonly pid: number;
  readonly parent: number;
  readonly isZombie: boolean;
  readonly command: string;
}

function processes(): readonly Row[] {
  return existsSync("/proc/self/stat") ? linuxProcesses() : listedProcesses();
}

function linuxProcesses(): readonly Row[] {
  return readdirSync("/proc").flatMap((name) => {
    if (!/^\d+$/.test(name)) return [];
    try {
      const stat = readFileSync(`/proc/${name}/stat`, "utf8");
      const command = readFileSync(`/proc/${name}/cmdline`, "utf8").replaceAll("\0", " ").trim();
      // pid (name) state parent ...
      const [state, parent] = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
      return [{ pid: Number(name), parent: Number(parent), isZombie: state === "Z", command }];
    } catch {
      return [];
    }
  });
}

function listedProcesses(): readonly Row[] {
  const { stdout } = Bun.spawnSync(["ps", "-A", "-o", "pid=,ppid=,state=,args="]);
  return stdout
    .toString()
    .split("\n")
    .flatMap((line) => {
      const [, pid, parent, state, command] = /^\s*(\d+)\s+(\d+)\s+(\S+)\s+(.*)$/.exec(line) ?? [];
      return command === undefined
        ? []
        : [{ pid: Number(pid), parent: Number(parent), isZombie: state!.startsWith("Z"), command }];
    });
}

/** Waits until `holds` gives something; the program must not end before. */
export async function until<T>(program: Program, holds: () => T | undefined | false): Promise<T> {
  let hasEnded = false;
  void program.ended.then(() => {
    hasEnded = true;
  });
  for (;;) {
    const found = holds();
    if (found !== undefined && found !== false) return found;
    if (hasEnded) throw new Error(`The program has ended too early:\n${program.err()}`);
    await Bun.sleep(5);
  }
}

/** One line of metrics.jsonl. */
export type Line = Readonly<Record<string, unknown>> & { readonly step: number; readonly loss: number };

/** The lines of metrics.jsonl; every one must be whole. */
export function metricsOf(dir: string): readonly Line[] {
  const path = join(dir, "metrics.jsonl");
  if (!existsSync(path)) return [];
  const text = readFileSync(path, "utf8");
  return text
    .slice(0, text.lastIndexOf("\n") + 1)
    .split("\n")
    .flatMap((line) => (line === "" ? [] : [JSON.parse(line) as Line]));
}

/** Steps and losses, which must not depend on what happened to a run. */
export function curveOf(dir: string): readonly (readonly [step: number, loss: number])[] {
  return metricsOf(dir).map(({ step, loss }) => [step, loss]);
}

export function summaryOf(dir: string): Readonly<Record<string, unknown>> {
  return JSON.parse(readFileSync(join(dir, "summary.json"), "utf8")) as Readonly<Record<string, unknown>>;
}

/** The bytes of the checkpoint, after a look whether it can be read. */
export function checkpointOf(dir: string): string {
  const bytes = readFileSync(join(dir, "checkpoint.safetensors"));
  decode(bytes);
  return bytes.toString("latin1");
}

/** A run of 24 rounds, long enough to be disturbed. */
export const LONG: readonly string[] = [
  ...SMALL,
  ...words("--steps 120 --local-steps 5 --curvature-every 60"),
];

/** What a run leaves when nothing happens to it. */
export interface Undisturbed {
  readonly curve: ReturnType<typeof curveOf>;
  readonly checkpoint: string;
}

/** The long run in one process, where nothing can happen to it. */
export async function undisturbed(): Promise<Undisturbed> {
  let result: Undisturbed | undefined;
  await withPrograms(async (dir, start) => {
    const { code, err } = await start(["train", ...LONG, "--runtime", "local", "--out", "run"]).ended;
    if (code !== 0) throw new Error(err);
    result = { curve: curveOf(join(dir, "run")), checkpoint: checkpointOf(join(dir, "run")) };
  });
  return result!;
}
