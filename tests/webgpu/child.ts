/** Programs in processes of their own, under the runtime that runs the tests. */
import { spawn } from "node:child_process";
import { join } from "node:path";

/** The folder of the project. */
export const root: string = join(import.meta.dirname, "../..");

export interface Ended {
  readonly code: number | null;
  readonly output: string;
  readonly errors: string;
}

/** Runs the text of a module; what it prints is without the space around it. */
export function runModule(code: string, environment: Readonly<Record<string, string>> = {}): Promise<Ended> {
  const words = "Deno" in globalThis ? ["eval", "--no-lock", "--quiet", "--v8-flags=--expose-gc"] : ["-e"];
  const child = spawn(process.execPath, [...words, code], {
    cwd: root,
    env: { ...process.env, ...environment },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const [output, errors]: Uint8Array[][] = [[], []];
  child.stdout.on("data", (bytes: Uint8Array) => output!.push(bytes));
  child.stderr.on("data", (bytes: Uint8Array) => errors!.push(bytes));
  const text = (parts: readonly Uint8Array[]): string => Buffer.concat(parts).toString().trim();
  return new Promise((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (exit) => resolve({ code: exit, output: text(output!), errors: text(errors!) }));
  });
}

/** Bytes of memory that the process has, after what is dead was collected. */
export function residentBytes(): number {
  const { Bun: bun, gc } = globalThis as { Bun?: { gc(force: boolean): void }; gc?: () => void };
  if (bun) bun.gc(true);
  else gc?.();
  return process.memoryUsage.rss();
}

export const sleep = (milliseconds: number): Promise<void> =>
  new Promise((resolve) => setTimeout(resolve, milliseconds));
