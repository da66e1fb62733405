/**
 * Everything that must hold before a change is done: types, lint and format, tests, the tests of transforms again with
 * every transform compiled, and those of the GPU and the browser, with a software GPU where there is no other; where CI
 * is set, 10,000 random programs for the code generator, and the GPU through its second provider.
 *
 * Run by `npm test`; further arguments go to `bun test`. Every stage runs even if an earlier one fails, and what failed is
 * repeated at the end. The last line is `N passed, N failed`, with `, N skipped` when tests were skipped.
 * COTANGENT_TEST_JOBS is the number of test files that run at a time, where they may; the default is one for each core, at
 * most four. If `COTANGENT_DENO` holds the path of a Deno, the library is also type-checked and run there, on its GPU too.
 * Without any adapter the tests of the GPU are skipped with the reason; where CI is set that is a failure, unless
 * COTANGENT_NEED_WEBGPU is 0.
 */
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { type Counts, failureLines, readCounts, readDenoCounts } from "./counts.ts";
import { vulkan } from "./vulkan.ts";

const root: string = join(import.meta.dir, "..");
const TEST_TIMEOUT_MS = 120_000;
const FUZZ_TIMEOUT_MS = 600_000;
/** Run a second time with every transform compiled. */
const COMPILED_FOLDERS: readonly string[] = ["compose", "laws", "null", "optim"].map(
  (name) => `tests/${name}`,
);
/** Run apart from the others, with a driver, and in one process, which opens the device once. */
const GPU_FOLDERS: readonly string[] = ["tests/webgpu", "tests/browser"];
/** One file after the other: these start programs of several processes, and wait only so long for them. */
const PROCESS_FOLDERS: readonly string[] = ["tests/cli", "tests/process"];
/** With more test processes than these each waits for the others, as each computes on all cores. */
const MOST_JOBS = 4;

interface Stage {
  readonly name: string;
  readonly command: readonly string[];
  /** Environment variables on top of this process's. */
  readonly environment?: Readonly<Record<string, string>>;
  /** Counts from what was printed and the exit code; the default counts the stage as one check. */
  readonly count?: (printed: string, code: number) => Counts;
}

interface Outcome extends Counts {
  readonly name: string;
  readonly seconds: number;
  /** All that it printed. */
  readonly output: string;
}

const program = (path: string): string[] => [process.execPath, join(root, "node_modules", path)];

/** A stage that is one check. */
const one = (code: number): Counts => ({
  passed: code === 0 ? 1 : 0,
  failed: code === 0 ? 0 : 1,
  skipped: 0,
});

/** Variables for programs that use a GPU; says which one they get. */
function gpuEnvironment(): Readonly<Record<string, string>> {
  const { driver, environment, adapter } = vulkan();
  console.log(`gpu: ${driver} driver: ${adapter}`);
  return { COTANGENT_NEED_WEBGPU: isCi ? "1" : "0", ...given("COTANGENT_NEED_WEBGPU"), ...environment };
}

function given(name: string): Readonly<Record<string, string>> {
  const value = process.env[name] ?? "";
  return value === "" ? {} : { [name]: value };
}

const isCi: boolean = (process.env["CI"] ?? "") !== "";

/** So many test files run at a time. */
function testJobs(): number {
  const text = given("COTANGENT_TEST_JOBS")["COTANGENT_TEST_JOBS"];
  if (text === undefined) return Math.min(availableParallelism(), MOST_JOBS);
  if (!/^[1-9]\d*$/.test(text)) {
    throw new RangeError(`Cannot read COTANGENT_TEST_JOBS: it is "${text}", a positive integer is needed`);
  }
  return Number(text);
}

const bunTest = (...rest: readonly string[]): string[] => [
  process.execPath,
  "test",
  `--timeout=${TEST_TIMEOUT_MS}`,
  ...rest,
];

/**
 * So many files at a time, each with a fresh global scope, also where it shares a process: with all that earlier files
 * have left, a collection of garbage takes so long that tests of memory take minutes.
 */
const apart = (jobs: number): string => (jobs === 1 ? "--isolate" : `--parallel=${jobs}`);

/** Whether one of the words names a file in one of the folders. */
const isIn = (words: readonly string[], folders: readonly string[]): boolean =>
  words.some((word) => folders.some((folder) => word.includes(folder)));

function stages(): Stage[] {
  const words = process.argv.slice(2);
  const list: Stage[] = [
    { name: "types", command: [...program("typescript/bin/tsc"), "--noEmit"] },
    { name: "lint", command: [...program("@biomejs/biome/bin/biome"), "check", "."] },
  ];
  // With arguments the caller wants some tests, not all of them twice.
  if (words.length > 0) {
    const isGpu = isIn(words, GPU_FOLDERS);
    const environment = isGpu ? gpuEnvironment() : {};
    const flags = isGpu ? [] : [apart(isIn(words, PROCESS_FOLDERS) ? 1 : testJobs())];
    list.push({ name: "test", command: bunTest(...flags, ...words), environment, count: readCounts });
  } else list.push(...testStages(gpuEnvironment()));
  return list;
}

function testStages(gpu: Readonly<Record<string, string>>): Stage[] {
  const jobs = testJobs();
  // Every file that is in no stage of its own.
  const others = [...GPU_FOLDERS, ...PROCESS_FOLDERS].map((folder) => `--path-ignore-patterns=${folder}/**`);
  const list: Stage[] = [
    { name: "test", command: bunTest(apart(jobs), ...others), count: readCounts },
    { name: "test process", command: bunTest(apart(1), ...PROCESS_FOLDERS), count: readCounts },
    {
      name: "test jit",
      command: bunTest(apart(jobs), ...COMPILED_FOLDERS),
      environment: { FORCE_JIT: "1" },
      count: readCounts,
    },
    { name: "test gpu", command: bunTest(...GPU_FOLDERS), environment: gpu, count: readCounts },
  ];
  if (isCi) {
    list.push(
      // In a process of its own: ten thousand compiled programs make every collection of garbage slow.
      {
        name: "fuzz",
        command: [process.execPath, "test", `--timeout=${FUZZ_TIMEOUT_MS}`, "tests/backend/fused.test.ts"],
        environment: { FC_RUNS: "10000" },
        count: readCounts,
      },
      {
        name: "test webgpu",
        command: bunTest("tests/webgpu"),
        environment: { ...gpu, COTANGENT_WEBGPU: "webgpu" },
        count: readCounts,
      },
    );
  }
  const deno = process.env["COTANGENT_DENO"] ?? "";
  if (deno !== "") {
    const quiet = ["--no-lock", "--quiet"];
    // What is written for Bun's tests, on Deno's; its types are checked above.
    const imports = ["--no-check", "--import-map", "tests/support/deno/imports.json"];
    const run = [deno, "run", ...quiet, "--no-prompt", "--allow-read"];
    list.push(
      { name: "deno check", command: [deno, "check", ...quiet, "mod.ts", "dist/runtime/mod_bun.ts"] },
      { name: "deno run", command: [...run, "tests/runtime/deno_smoke.ts"] },
      {
        name: "deno gpu",
        // One file after the other: Deno's run as threads of one process, and some measure its memory.
        command: [deno, "test", ...quiet, ...imports, "-A", "--v8-flags=--expose-gc", "tests/webgpu"],
        environment: gpu,
        count: readDenoCounts,
      },
    );
  }
  return list;
}

/** Copies a stream to a file descriptor as it comes, and returns its text. */
async function pass(stream: ReadableStream<Uint8Array>, to: NodeJS.WriteStream): Promise<string> {
  const decoder = new TextDecoder();
  let text = "";
  for await (const chunk of stream) {
    to.write(chunk);
    text += decoder.decode(chunk, { stream: true });
  }
  return text + decoder.decode();
}

async function run(stage: Stage): Promise<Outcome> {
  console.log(`\n== ${stage.name}`);
  const start = performance.now();
  let code: number;
  let output: string;
  try {
    const child = Bun.spawn([...stage.command], {
      cwd: root,
      env: { ...process.env, ...stage.environment },
      stdin: "ignore",
      stdout: "pipe",
      stderr: "pipe",
    });
    const printed = await Promise.all([
      pass(child.stdout, process.stdout),
      pass(child.stderr, process.stderr),
    ]);
    code = await child.exited;
    output = printed.join("\n");
  } catch (error) {
    console.error(`Cannot run stage "${stage.name}": ${String(error)}, a program that starts is needed`);
    code = 127;
    output = "";
  }
  const counts = stage.count === undefined ? one(code) : stage.count(output, code);
  return { name: stage.name, seconds: (performance.now() - start) / 1000, output, ...counts };
}

const outcomes: Outcome[] = [];
for (const stage of stages()) outcomes.push(await run(stage));

for (const { name, output } of outcomes.filter(({ failed }) => failed > 0)) {
  console.log(`\n== what failed in ${name}`);
  for (const line of failureLines(output)) console.log(line);
}
console.log("\n== summary");
for (const { name, seconds, passed, failed, skipped } of outcomes) {
  const verdict = failed === 0 ? "ok" : "FAILED";
  console.log(
    `${name.padEnd(12)} ${verdict.padEnd(7)} ${String(passed).padStart(5)} passed ${seconds.toFixed(1).padStart(7)} s${skipped > 0 ? `, ${skipped} skipped` : ""}`,
  );
}
const sum = (key: keyof Counts): number => outcomes.reduce((total, outcome) => total + outcome[key], 0);
const skipped = sum("skipped");
console.log(`${sum("passed")} passed, ${sum("failed")} failed${skipped > 0 ? `, ${skipped} skipped` : ""}`);
process.exitCode = sum("failed") === 0 ? 0 : 1;
