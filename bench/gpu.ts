/**
 * This library against jax-js and TensorFlow.js on a GPU, and against what the GPU can do, in one interleaved run:
 *
 *     bun bench/gpu.ts
 *
 * --only matmul,softmax     works whose names start so; "memory" too
 * --engines cotangent,jax   families or single engines
 * --rounds 5                samples of each engine on each work
 * --adapter NAME            the adapter with that part in its name
 * --small, --full           the sizes; by default --small on software adapters and --full on others
 * --json runs/gpu.json      where the samples are kept
 * --table FILE              measure nothing, print the table of an earlier run
 * --offline                 install nothing
 *
 * It needs `npm ci`, and on Linux a Vulkan driver: the loader comes with the development packages. The other libraries
 * are installed in bench/compare where they are missing. Every result is compared with plain float64 loops, and a wrong
 * one is not timed. Markdown goes to standard output, progress to standard error.
 */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { availableParallelism, cpus } from "node:os";
import { dirname, join } from "node:path";
import { parseArgs } from "node:util";
import { isSoftwareName } from "../core/backends/webgpu/capabilities.ts";
import { vulkan } from "../tools/vulkan.ts";
import { Child, type Engine } from "./compare/engines.ts";
import { gpuEngines } from "./compare/gpu_engines.ts";
import type { MemoryResult } from "./compare/gpu_memory_child.ts";
import { type GpuRun, gpuMarkdown } from "./compare/gpu_table.ts";
import { FULL, gpuWorks, REDUCED, type Sizes } from "./compare/gpu_works.ts";
import { expected } from "./compare/reference.ts";
import { measure, minutes, names, say, wholeNumber } from "./compare/session.ts";
import type { Cell } from "./compare/table.ts";

const root: string = join(import.meta.dir, "..");
const compare: string = join(import.meta.dir, "compare");

const { values: options } = parseArgs({
  options: {
    only: { type: "string", default: "" },
    engines: { type: "string", default: "" },
    rounds: { type: "string", default: "5" },
    adapter: { type: "string" },
    small: { type: "boolean", default: false },
    full: { type: "boolean", default: false },
    json: { type: "string", default: join(root, "runs", "gpu.json") },
    table: { type: "string" },
    offline: { type: "boolean", default: false },
  },
});
const rounds = wholeNumber("rounds", options.rounds, 1);
const only = names(options.only);
const isWantedWork = (id: string): boolean => only.length === 0 || only.some((start) => id.startsWith(start));

/** The folders of the other libraries, which are installed if one is missing and that is allowed. */
function installPeers(): void {
  const peers = ["@jax-js/jax", "@tensorflow/tfjs-core", "@tensorflow/tfjs-backend-webgpu"];
  const missing = peers.filter((name) => !existsSync(join(compare, "node_modules", name)));
  if (missing.length === 0) return;
  if (options.offline) {
    say(`not installed: ${missing.join(", ")}`);
    return;
  }
  say(`installing ${missing.join(", ")} in bench/compare...`);
  const { exitCode, stderr } = Bun.spawnSync(["npm", "ci"], { cwd: compare, stdout: "ignore" });
  if (exitCode !== 0) say(`npm ci failed, so there is nothing to compare with: ${stderr.toString().trim()}`);
}

/** Finds the driver, for all processes that are started. */
function findDriver(): void {
  const { driver, environment, adapter, isUsable } = vulkan();
  say(`${driver} driver: ${adapter}`);
  if (!isUsable) throw new Error(`Cannot measure a GPU: ${adapter}`);
  Object.assign(process.env, environment);
}

interface Started {
  readonly children: readonly Child[];
  /** The adapter of the machine's own measurements and of this library. */
  readonly adapter: string;
  readonly missing: readonly string[];
}

/** The engines that start, all on one adapter. */
async function start(engines: readonly Engine[]): Promise<Started> {
  const children: Child[] = [];
  const missing: string[] = [];
  let adapter: string | undefined;
  for (const engine of engines) {
    const child = new Child(engine);
    const answer = await child.ask({ k: "who" });
    const device = answer.k === "is" ? answer.device : undefined;
    adapter ??= device;
    const isOther = device !== undefined && isSoftwareName(device) !== isSoftwareName(adapter!);
    if (device === undefined || isOther) {
      const why = answer.k === "absent" ? answer.why : `it opens "${device}", not "${adapter}"`;
      missing.push(`${engine.label}: not measured, ${why}`);
      child.stop();
    } else children.push(child);
    say(isOther || device === undefined ? missing.at(-1)! : `${engine.label}: ${device}`);
  }
  if (adapter === undefined) throw new Error(`Cannot measure a GPU: no engine starts; ${missing.join("; ")}`);
  return { children, adapter, missing };
}

/** Training steps in a process of their own. */
async function measureMemory(sizes: Sizes): Promise<Pick<GpuRun, "memory" | "noMemory">> {
  say(`memory: ${sizes.memorySteps} training steps...`);
  const engine: Engine = {
    ...gpuEngines(options.adapter).find(({ id }) => id === "cotangent")!,
    command: [process.execPath, join(compare, "gpu_memory_child.ts"), String(sizes.memorySteps)],
  };
  const child = Bun.spawn([...engine.command], {
    env: { ...process.env, ...engine.env },
    stdout: "pipe",
    stderr: "pipe",
  });
  const [text, complaint] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
  ]);
  const line = text.split("\n").find((one) => one.startsWith("{"));
  if ((await child.exited) !== 0 || line === undefined) {
    return { noMemory: complaint.trim().split("\n").at(-1) ?? "the process has ended" };
  }
  const memory = JSON.parse(line) as MemoryResult;
  // log 10 is what guessing gives.
  if (!(memory.loss < 0.1)) return { noMemory: `WRONG: the loss ends at ${memory.loss}` };
  return { memory };
}

async function runAll(): Promise<GpuRun> {
  findDriver();
  installPeers();
  const wanted = names(options.engines);
  const isWanted = ({ id, family }: Engine): boolean =>
    wanted.length === 0 || wanted.includes(id) || wanted.includes(family);
  const { children, adapter, missing } = await start(gpuEngines(options.adapter).filter(isWanted));
  const isSmall = options.small || (isSoftwareName(adapter) && !options.full);
  if (isSoftwareName(adapter)) {
    say(
      `${adapter} computes on the processor: its times say nothing of a GPU${isSmall ? ", sizes are small" : ""}`,
    );
  }
  const sizes = isSmall ? REDUCED : FULL;
  const works = gpuWorks(sizes).filter(({ id }) => isWantedWork(id));
  const cells: Cell[] = [];
  let memory: Pick<GpuRun, "memory" | "noMemory"> = {};
  const result = (): GpuRun => ({
    machine: `${adapter}; ${cpus()[0]?.model.trim() ?? "?"}, ${availableParallelism()} cores, Bun ${Bun.version}`,
    rounds,
    engines: children.map(({ engine: { id, family, label } }) => ({ id, family, label })),
    works,
    cells,
    missing,
    ...memory,
  });
  const keep = (): void => {
    mkdirSync(dirname(options.json), { recursive: true });
    writeFileSync(options.json, JSON.stringify(result(), null, 1));
  };
  const begin = performance.now();
  for (const [i, work] of works.entries()) {
    cells.push(...(await measure(work, children, { rounds, retries: 0, isStrict: true, expected })));
    keep();
    const spent = (performance.now() - begin) / 1000;
    const left = (spent / (i + 1)) * (works.length - i - 1);
    say(`${i + 1}/${works.length} ${work.id}: ${minutes(spent)} spent, about ${minutes(left)} left`);
  }
  for (const child of children) child.stop();
  if (isWantedWork("memory") && isWanted(gpuEngines(undefined)[1]!)) memory = await measureMemory(sizes);
  keep();
  say(`samples: ${options.json}`);
  return result();
}

try {
  const run: GpuRun = options.table
    ? (JSON.parse(readFileSync(options.table, "utf8")) as GpuRun)
    : await runAll();
  console.log(gpuMarkdown(run));
  const isWrong = run.cells.some(
    ({ engine, why }) => engine.startsWith("cotangent") && why?.startsWith("WRONG"),
  );
  if (isWrong || run.noMemory !== undefined) process.exitCode = 1;
} catch (error) {
  say(error instanceof Error ? error.message : String(error));
  process.exitCode = 1;
}
