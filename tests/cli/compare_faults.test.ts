/** What may go wrong in a comparison: lines cut off, processes that are killed or print what they like, runs that diverge. */
import { expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { methodProblems } from "../../cli/compare/config.ts";
import { sayingOf } from "../../cli/compare/contender.ts";
import { PRODUCT_GRADIENTS } from "../../cli/compare/method.ts";
import { termsOf } from "../../cli/compare/methods/curvature.ts";
import {
  appendRecord,
  compareRuns,
  type Entry,
  type RunRecord,
  readRecords,
  spread,
  taskResult,
} from "../../cli/compare/results.ts";
import type { Outcome } from "../../cli/compare/run.ts";
import { tasks } from "../../cli/compare/tasks.ts";
import { zeros } from "../../core/create.ts";
import { bernoulli, categorical, gaussian, type Likelihood } from "../../core/likelihood.ts";
import { point, record as recordOf } from "./compare_records.ts";
import { isAlive, type Program, signal, until, withPrograms, words } from "./program_support.ts";

/** A run for a loss of 1 that begins at 3; where it does not get there it ends at 2. */
const record = (
  entry: Partial<Entry>,
  reachedAt: number | null,
  ended: Outcome["ended"] = "budget",
): RunRecord => recordOf(entry, reachedAt, { start: 3, loss: reachedAt === null ? 2 : 1, ended });

test("a record after a line that was cut off is not lost, and of two of one entry the later counts", () => {
  const dir = mkdtempSync(join(tmpdir(), "cotangent-records-"));
  try {
    const path = join(dir, "runs.jsonl");
    const [first, second, third] = [0, 1, 2].map((seed) => record({ seed }, 4)) as [
      RunRecord,
      RunRecord,
      RunRecord,
    ];
    appendRecord(path, first);
    writeFileSync(path, readFileSync(path, "utf8") + JSON.stringify(second).slice(0, 100));
    appendRecord(path, second);
    appendRecord(path, third);
    expect(readRecords(path)).toEqual([first, second, third]);
    const again = record({ seed: 1 }, 5);
    appendRecord(path, again);
    expect(readRecords(path)).toEqual([first, third, again]);
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
});

test("what a process prints besides its messages is a note", () => {
  expect(sayingOf('{"k":"failed","reason":"no"}')).toEqual({ k: "failed", reason: "no" });
  for (const text of ["BLAS: warning", "", "3", "null", '{"k":"magic"}', '{"k":"done"'])
    expect(sayingOf(text)).toEqual({ k: "note", text });
});

test("a method that fails where its base succeeds is no faster, and where both fail nothing is said", () => {
  const of = (optimizer: string, times: readonly (number | null)[]): RunRecord[] =>
    times.map((at, seed) => record({ optimizer, seed }, at));
  const [pair] = taskResult("t", [
    ...of("adam", [6, 8, 4, null, null]),
    ...of("fosi-adam", [3, null, null, null, 5, 7]),
  ])!.pairs;
  // The fourth seed has no answer, and the sixth is not of both.
  expect(pair!.speedup).toEqual(spread([2, 0, 0, null]));
  expect(pair!.speedup.median).toBe(1);
  // The best of adam is 1 in the first three seeds, and 2 at 9 seconds in the others.
  expect(pair!.toBest).toEqual(spread([2, 0, 0, 1, 9 / 5]));
});

test("a run that diverged has no loss at the end, whatever it had before", () => {
  const [row] = taskResult("t", [
    record({ seed: 0 }, 4),
    record({ seed: 1 }, null, "diverged"),
    record({ seed: 2 }, 5, "diverged"),
  ])!.rows;
  expect([row!.reached, row!.diverged]).toEqual([2, 2]);
  expect(row!.finalLoss).toEqual(spread([1, null, null]));
});

test("a rate with which a run diverges is not chosen for what it had before, unless it reached the target", () => {
  const better = (a: RunRecord, b: RunRecord): boolean => compareRuns(a, b, "seconds") < 0;
  const slow = { ...record({}, null), points: [point(0, 3), point(9, 2.9)] };
  expect(better(slow, record({}, null, "diverged"))).toBe(true);
  expect(better(record({}, null, "diverged"), slow)).toBe(false);
  expect(better(record({}, 4, "diverged"), slow)).toBe(true);
  expect(better(record({}, 4, "diverged"), record({}, 5))).toBe(true);
});

test("the loss of a text is a mean over positions, that of images over images", async () => {
  const some = await tasks["quadratic-a"]!.open({ seed: 0, note() {} });
  const of = (likelihood: Likelihood, ...shape: readonly number[]): number => {
    const batch = { x: zeros(shape), y: zeros(shape) };
    return termsOf({ ...some, model: { outputs: (_params, x) => x, likelihood }, batch: () => batch });
  };
  expect(of(categorical, 32, 64)).toBe(32 * 64);
  expect(of(categorical, 128)).toBe(128);
  expect(of(gaussian, 64, 784)).toBe(64);
  expect(of(bernoulli, 400)).toBe(400);
});

test("products with the Hessian count as gradients with workers too", async () => {
  await withPrograms(async (dir, start) => {
    const flags =
      "--task logistic --workers 2 --optimizers dho2:k=1:order=4 --seeds 1 --grid 1 --budget steps:60";
    const { code } = await start(["compare", ...words(flags), "--out", "run"]).ended;
    expect(code).toBe(0);
    const [run] = readRecords(join(dir, "run", "runs.jsonl"));
    // Curvature is measured before the sixth round of ten steps, on as many examples as a step has.
    const extra = run!.points.map(({ step, gradients }) => [step, gradients - step]);
    expect(extra.find(([step]) => step === 50)).toEqual([50, 0]);
    expect(extra.at(-1)).toEqual([60, 1 + 4 * PRODUCT_GRADIENTS]);
  });
}, 120_000);

test("a setting that is no single number is refused", () => {
  const problem = "Cannot use --optimizers adam:beta1=";
  for (const value of ["", " :beta2=0.9", "0.9=0.8", "high"]) {
    const [own] = value.split(":");
    expect(methodProblems([`adam:beta1=${value}`], 1)).toEqual([
      `${problem}${value}: its beta1 is "${own}", a number is needed`,
    ]);
  }
  expect(methodProblems(["adam:beta1=0.9:beta2=1e-1"], 1)).toEqual([]);
});

/** The process that makes the present run of a comparison. */
function contenderOf(program: Program): number | undefined {
  const { stdout } = Bun.spawnSync(["ps", "-A", "-o", "pid=,ppid=,args="]);
  const line = stdout
    .toString()
    .split("\n")
    .find((text) => text.includes(" contender ") && text.trim().split(/\s+/)[1] === String(program.pid));
  return line === undefined ? undefined : Number(line.trim().split(/\s+/)[0]);
}

test("a run whose process is killed says so, and is made when the comparison is resumed", async () => {
  await withPrograms(async (dir, start) => {
    const flags = "--task quadratic-b --optimizers adam --seeds 2 --grid 1 --budget steps:3000";
    const program = start(["compare", ...words(flags), "--out", "run"]);
    signal(await until(program, () => contenderOf(program)), "SIGKILL");
    const { code, err, out } = await program.ended;
    expect(err).toContain("quadratic-b adam: it was ended by SIGKILL");
    expect(code).toBe(0);
    expect(out).toContain("0/2");
    const made = (): readonly RunRecord[] => readRecords(join(dir, "run", "runs.jsonl"));
    expect(made().map(({ seed, failure }) => [seed, failure])).toEqual([
      [0, "it was ended by SIGKILL"],
      [1, null],
    ]);

    const resumed = await start(words("compare --resume run")).ended;
    expect(resumed.code).toBe(0);
    expect(made().map(({ seed, failure, points }) => [seed, failure, points.at(-1)!.step])).toEqual([
      [1, null, 3000],
      [0, null, 3000],
    ]);
  });
}, 120_000);

test("a comparison that is killed leaves no run behind", async () => {
  await withPrograms(async (_dir, start) => {
    const flags =
      "--task quadratic-b --optimizers adam --seeds 1 --grid 1 --budget wall:25 --evaluations 200";
    const program = start(["compare", ...words(flags), "--out", "run"]);
    const pid = await until(program, () => contenderOf(program));
    // It runs by now.
    await until(program, () => program.err().includes("seed 0"));
    program.kill();
    await program.ended;
    for (let i = 0; i < 300 && isAlive(pid); i++) await Bun.sleep(20);
    expect(isAlive(pid)).toBe(false);
  });
}, 120_000);

test("rates of runs that were compared are kept, also where the search that chose them is lost", async () => {
  await withPrograms(async (dir, start) => {
    const flags = "--task quadratic-b --optimizers sgd --seeds 1 --grid 3 --budget steps:20";
    expect((await start(["compare", ...words(flags), "--out", "run"]).ended).code).toBe(0);
    const path = join(dir, "run", "runs.jsonl");
    const compared = readRecords(path).filter(({ kind }) => kind === "seed");
    const moved = compared.map((run): RunRecord => ({ ...run, learningRate: 0.0123 }));
    writeFileSync(path, moved.map((run) => `${JSON.stringify(run)}\n`).join(""));
    expect((await start(words("compare --resume run --seeds 2")).ended).code).toBe(0);
    expect(readRecords(path).map(({ kind, seed, learningRate }) => [kind, seed, learningRate])).toEqual([
      ["seed", 0, 0.0123],
      ["seed", 1, 0.0123],
    ]);
  });
}, 120_000);

test("a comparison in which no run could be made says so and fails", async () => {
  await withPrograms(async (dir, start) => {
    const flags =
      "--task quadratic-b --optimizers sophia:rho=0.5:decay=0.125 --seeds 1 --grid 1 --budget steps:5";
    const { code, out } = await start(["compare", ...words(flags), "--out", "run"]).ended;
    expect(code).toBe(1);
    expect(out).toContain("quadratic-b: no run could be made\n");
    // A long name does not touch what follows it.
    expect(out).toMatch(/^sophia:rho=0\.5:decay=0\.125 +lr /m);
    const page = readFileSync(join(dir, "run", "report.html"), "utf8");
    expect(page).toContain("<p>No run could be made.</p>");
    expect(page).not.toContain("NaN");
  });
}, 120_000);
