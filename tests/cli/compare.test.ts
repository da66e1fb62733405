/** `cotangent compare` as a user starts it: what it leaves behind, Ctrl-C, resuming, wrong words. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type CompareConfig, compareFlags, parseCompareFlags } from "../../cli/compare/config.ts";
import { distributedMethods } from "../../cli/compare/distributed.ts";
import { methods } from "../../cli/compare/methods.ts";
import type { RunRecord, TaskResult } from "../../cli/compare/results.ts";
import { tasks } from "../../cli/compare/tasks.ts";
import { UsageError } from "../../cli/config.ts";
import { type Ended, withPrograms, words } from "./program_support.ts";

// Every run of a comparison is a process.
setDefaultTimeout(60_000);

const TINY: readonly string[] = [
  "compare",
  ...words("--task quadratic-b --optimizers sgd,momentum:beta=0.5 --seeds 2 --grid 3 --budget steps:50"),
];

interface Results {
  readonly config: CompareConfig;
  readonly tasks: readonly TaskResult[];
}

const linesOf = (dir: string): string[] => readFileSync(join(dir, "runs.jsonl"), "utf8").split("\n");
const runsOf = (dir: string): RunRecord[] =>
  linesOf(dir).flatMap((line) => (line === "" ? [] : [JSON.parse(line) as RunRecord]));
const resultsOf = (dir: string): Results =>
  JSON.parse(readFileSync(join(dir, "results.json"), "utf8")) as Results;
const lossOf = ({ points }: RunRecord): number => points.at(-1)!.loss;
/** A run without what depends on the time it took. */
const timeless = ({ task, optimizer, learningRate, kind, seed, points }: RunRecord): unknown => [
  [task, optimizer, learningRate, kind, seed],
  points.map(({ step, gradients, loss }) => [step, gradients, loss]),
];
const asText = (runs: readonly RunRecord[]): string[] => runs.map((run) => JSON.stringify(timeless(run)));

/** A finished comparison, which no test changes. */
let whole: { readonly dir: string; readonly ended: Ended };
const place = mkdtempSync(join(tmpdir(), "cotangent-compare-"));

beforeAll(async () => {
  await withPrograms(async (dir, start) => {
    const ended = await start([...TINY, "--out", "whole"]).ended;
    cpSync(join(dir, "whole"), join(place, "whole"), { recursive: true });
    whole = { dir: join(place, "whole"), ended };
  });
}, 120_000);
afterAll(() => rmSync(place, { recursive: true, force: true }));

test("a comparison leaves every run, the results and a page, and the results are those of the runs", () => {
  expect(whole.ended.code).toBe(0);
  expect(readdirSync(whole.dir).sort()).toEqual(["config.json", "report.html", "results.json", "runs.jsonl"]);
  const runs = runsOf(whole.dir);
  expect(new Set(asText(runs)).size).toBe(runs.length);
  expect(runs.every(({ failure, points }) => failure === null && points.length > 1)).toBe(true);
  const { config, tasks: results } = resultsOf(whole.dir);
  expect(config).toMatchObject({ seeds: 2, grid: 3, budget: { unit: "steps", amount: 50 } });
  expect(results.map(({ task, parameters }) => [task, parameters])).toEqual([["quadratic-b", 100]]);
  const [{ rows }] = results as [TaskResult];
  expect(rows.map(({ optimizer }) => optimizer)).toEqual(["sgd", "momentum:beta=0.5"]);
  for (const row of rows) {
    const own = runs.filter(({ optimizer }) => optimizer === row.optimizer);
    const tried = own.filter(({ kind }) => kind === "grid");
    const compared = own.filter(({ kind }) => kind === "seed");
    expect(tried.length).toBeGreaterThanOrEqual(3);
    expect(compared.map(({ seed }) => seed)).toEqual([0, 1]);
    expect(tried.every(({ seed }) => !compared.some((run) => run.seed === seed))).toBe(true);
    // Nothing reaches the target in 25 steps: the rate is the one with the smallest loss, and no end of what was tried.
    const best = (run: RunRecord): number => Math.min(...run.points.map(({ loss }) => loss));
    const chosen = tried.reduce((a, b) => (best(b) < best(a) ? b : a)).learningRate;
    expect(row.learningRate).toBe(chosen);
    expect(compared.every(({ learningRate }) => learningRate === chosen)).toBe(true);
    expect(tried.some(({ learningRate }) => learningRate < chosen)).toBe(true);
    expect(tried.some(({ learningRate }) => learningRate > chosen)).toBe(true);
    expect(compared.every(({ points }) => points.at(-1)!.step === 50)).toBe(true);
    expect(tried.every(({ ended, points }) => ended === "diverged" || points.at(-1)!.step === 25)).toBe(true);
    const [a, b] = compared.map(lossOf) as [number, number];
    expect(row.finalLoss.median).toBeCloseTo((a + b) / 2, 12);
    expect([row.finalLoss.least, row.finalLoss.most]).toEqual([Math.min(a, b), Math.max(a, b)]);
    expect(row.failures).toEqual([]);
    expect(whole.ended.out).toContain(row.optimizer);
  }
});

test("the page has the numbers, and nothing that is no number", () => {
  const page = readFileSync(join(whole.dir, "report.html"), "utf8");
  expect(page).not.toContain("NaN");
  const table = /<table>.*<\/table>/s.exec(page)![0];
  expect(table).not.toMatch(/undefined|null|Infinity/);
  const [{ rows }] = resultsOf(whole.dir).tasks as [TaskResult];
  for (const { optimizer, learningRate, finalLoss } of rows) {
    const row = table.split("<tr>").find((text) => text.startsWith(`<td>${optimizer}</td>`))!;
    expect(row).toContain(`<td>${learningRate} `);
    expect(row).toContain(`<td>${finalLoss.median!.toPrecision(4)} `);
  }
  const plots = JSON.parse(/^const plots = (.*);$/m.exec(page)![1]!) as {
    readonly title: string;
    readonly x: readonly number[];
    readonly curves: readonly { readonly name: string; readonly y: readonly (number | null)[] }[];
  }[];
  expect(plots.map(({ title }) => title)).toEqual([
    "Loss against time",
    "Loss against gradients",
    "Loss against steps",
  ]);
  const { x, curves } = plots[2]!;
  expect([x[0], x.at(-1)]).toEqual([0, 50]);
  expect(curves.map(({ name }) => name)).toEqual(rows.map(({ optimizer }) => optimizer));
  curves.forEach(({ y }, i) => {
    expect(y.length).toBe(x.length);
    expect(y.every((value) => value !== null && value > 0)).toBe(true);
    expect(y.at(-1)).toBeCloseTo(rows[i]!.finalLoss.median!, 12);
  });
});

test("stopped by Ctrl-C and resumed: only what is missing is made, and it is what it would have been", async () => {
  await withPrograms(async (dir, start) => {
    const at = join(dir, "run");
    const count = (): number => (existsSync(join(at, "runs.jsonl")) ? linesOf(at).length - 1 : 0);
    const first = start([...TINY, "--out", "run"]);
    for (let i = 0; i < 1000 && count() < 3; i++) await Bun.sleep(10);
    first.interrupt();
    const stopped = await first.ended;
    expect(stopped.code).toBe(130);
    expect(stopped.out).toMatch(/^stopped: the runs that are done stay, continue with --resume run$/m);
    expect(readdirSync(at).sort()).toEqual(["config.json", "report.html", "results.json", "runs.jsonl"]);
    const earlier = readFileSync(join(at, "runs.jsonl"), "utf8");
    const made = runsOf(at);
    expect(made.length).toBeGreaterThanOrEqual(3);
    expect(made.length).toBeLessThan(runsOf(whole.dir).length);
    expect(made.every(({ failure }) => failure === null)).toBe(true);

    expect((await start(words("compare --resume run")).ended).code).toBe(0);
    const later = readFileSync(join(at, "runs.jsonl"), "utf8");
    expect(later).toStartWith(earlier);
    expect(asText(runsOf(at))).toEqual(asText(runsOf(whole.dir)));

    // Nothing is missing now; with more seeds, theirs are.
    expect((await start(words("compare --resume run")).ended).code).toBe(0);
    expect(readFileSync(join(at, "runs.jsonl"), "utf8")).toBe(later);
    expect((await start(words("compare --resume run --seeds 3")).ended).code).toBe(0);
    expect(readFileSync(join(at, "runs.jsonl"), "utf8")).toStartWith(later);
    expect(
      runsOf(at)
        .slice(runsOf(whole.dir).length)
        .map(({ kind, seed }) => [kind, seed]),
    ).toEqual([
      ["seed", 2],
      ["seed", 2],
    ]);
    expect(resultsOf(at).tasks[0]!.rows.map(({ seeds }) => seeds)).toEqual([3, 3]);
  });
});

test("a last line that was cut off is made again", async () => {
  await withPrograms(async (dir, start) => {
    const at = join(dir, "run");
    cpSync(whole.dir, at, { recursive: true });
    const text = readFileSync(join(at, "runs.jsonl"), "utf8");
    const last = text.trimEnd().lastIndexOf("\n") + 1;
    writeFileSync(join(at, "runs.jsonl"), text.slice(0, last + 100));
    rmSync(join(at, "results.json"));
    const { code, err } = await start(words("compare --resume run")).ended;
    expect([code, err]).toEqual([0, expect.not.stringContaining("Cannot")]);
    expect(readFileSync(join(at, "runs.jsonl"), "utf8")).toStartWith(text.slice(0, last));
    const [{ rows }] = resultsOf(at).tasks as [TaskResult];
    const [{ rows: expected }] = resultsOf(whole.dir).tasks as [TaskResult];
    expect(rows.map(({ finalLoss }) => finalLoss)).toEqual(expected.map(({ finalLoss }) => finalLoss));
    // The new run has a line of its own, and is known from now on.
    const mended = readFileSync(join(at, "runs.jsonl"), "utf8");
    expect((await start(words("compare --resume run")).ended).code).toBe(0);
    expect(readFileSync(join(at, "runs.jsonl"), "utf8")).toBe(mended);
  });
});

test("a method that cannot run on a task is a row with its reason", async () => {
  await withPrograms(async (dir, start) => {
    const { code, out, err } = await start([
      "compare",
      ...words("--task quadratic-b --optimizers sgd,sophia --seeds 1 --grid 1 --budget steps:5 --out run"),
    ]).ended;
    expect(code).toBe(0);
    const reason = "Cannot use sophia on quadratic-b: it has no model, one with outputs and labels is needed";
    expect(err).toContain(`quadratic-b sophia: ${reason}\n`);
    expect(out).toMatch(/^sophia +lr /m);
    const [sgd, sophia] = resultsOf(join(dir, "run")).tasks[0]!.rows;
    expect([sgd!.failures, sgd!.finalLoss.values.length]).toEqual([[], 1]);
    expect(sophia).toMatchObject({ failures: [reason], reached: 0, seeds: 1, finalLoss: { median: null } });
    const page = readFileSync(join(dir, "run", "report.html"), "utf8");
    expect(page).toContain(`<td>${reason}</td>`);
    expect(page).not.toContain("NaN");
  });
});

/** For every flag a value that it does not take, and what the message must name as allowed. */
const wrong: Readonly<Record<string, readonly [value: string, allowed: RegExp]>> = {
  task: ["chess", /one of quadratic-a, .*, resnet20 is needed/],
  optimizers: ["adam,magic", /one of sgd, momentum, .*, gauss-newton is needed/],
  seeds: ["0", /a whole number of at least 1 is needed/],
  budget: ["hours:1", /wall:60, gradients:2000 or steps:2000 is needed/],
  grid: ["2.5", /a whole number is needed/],
  rate: ["0", /a positive number is needed/],
  "grid-share": ["1.5", /a number in \(0, 1\] is needed/],
  evaluations: ["none", /a whole number is needed/],
  batch: ["0", /a whole number of at least 1 is needed/],
  target: ["high", /a number is needed/],
  stop: ["never", /target or budget is needed/],
  workers: ["0", /a whole number of at least 1 is needed/],
  "local-steps": ["ten", /a whole number is needed/],
  "data-dir": ["", /--data-dir VALUE is needed/],
  out: ["", /--out VALUE is needed/],
  resume: ["", /--resume VALUE is needed/],
};

test("a wrong value is named with its flag and with what is allowed, for every flag", async () => {
  expect(Object.keys(wrong).sort()).toEqual(Object.keys(compareFlags).sort());
  for (const [name, [value, allowed]] of Object.entries(wrong)) {
    expect(() => parseCompareFlags([`--${name}`, value])).toThrow(UsageError);
    expect(() => parseCompareFlags([`--${name}=${value}`])).toThrow(new RegExp(`^Cannot use --${name}`));
    expect(() => parseCompareFlags([`--${name}`, value])).toThrow(allowed);
  }
  const settings: readonly (readonly [word: string, message: RegExp])[] = [
    [
      "adam:beta3=1",
      /^Cannot use --optimizers adam:beta3=1: adam has no setting "beta3", one of beta1, beta2/,
    ],
    ["sgd:beta=1", /sgd has no setting "beta", none is needed$/],
    ["adam:beta1=high", /its beta1 is "high", a number is needed$/],
    ["adam:beta1", /its beta1 is "", a number is needed$/],
    ["adam,,sgd", /^Cannot use --optimizers adam,,sgd: names with commas between them are needed$/],
    ["constructor", /^Cannot use --optimizers constructor: it is not known/],
  ];
  for (const [word, message] of settings)
    expect(() => parseCompareFlags(["--optimizers", word])).toThrow(message);
  expect(() => parseCompareFlags(["--budget", "steps:0"])).toThrow(/an amount above 0 is needed$/);

  await withPrograms(async (dir, start) => {
    const bad = Object.entries(wrong).filter(([, [value]]) => value !== "");
    const ended = await start(["compare", ...bad.flatMap(([name, [value]]) => [`--${name}`, value])]).ended;
    expect(ended).toMatchObject({ code: 2, out: "" });
    const said = ended.err.trimEnd().split("\n");
    expect(said.map((line) => /^Cannot use --([\w-]+) /.exec(line)?.[1]).sort()).toEqual(
      bad.map(([name]) => name).sort(),
    );
    for (const [args, message] of [
      ["--quantum 3", /^Cannot use "--quantum": it is not a flag; see --help for the flags$/m],
      ["--data-dir nowhere", /^Cannot use --data-dir .*nowhere: it does not exist, /],
      ["--resume nowhere", /^Cannot use the comparison in nowhere: nowhere\/config\.json does not exist, /],
    ] as const) {
      const { code, err } = await start(["compare", ...words(args)]).ended;
      expect(err).toMatch(message);
      expect(code).toBe(2);
    }
    expect(readdirSync(dir)).toEqual([]);

    cpSync(whole.dir, join(dir, "run"), { recursive: true });
    for (const [args, message] of [
      ["--out run", /^Cannot use --out run: the directory is not empty/],
      [
        "--resume run --grid 5",
        /^Cannot use --grid with --resume: .* only --seeds and --optimizers may change$/m,
      ],
    ] as const) {
      const { code, err } = await start(["compare", ...words(args)]).ended;
      expect(err).toMatch(message);
      expect(code).toBe(2);
    }
    writeFileSync(join(dir, "run", "config.json"), '{"name":"an app of somebody else"}');
    const other = await start(words("compare --resume run")).ended;
    expect(other.err).toMatch(/^Cannot use the comparison in run: its config\.json is of something else, /);
    expect(readFileSync(join(dir, "run", "runs.jsonl"))).toEqual(readFileSync(join(whole.dir, "runs.jsonl")));
  });
});

test("--help lists every flag, task and method", async () => {
  await withPrograms(async (_, start) => {
    const { code, out } = await start(words("compare --help")).ended;
    expect(code).toBe(0);
    for (const [name, { value, help }] of Object.entries(compareFlags)) {
      expect(out).toContain(`--${name} ${value}`);
      expect(out).toContain(help);
    }
    for (const { name, summary } of Object.values(tasks))
      expect(out).toContain(`  ${name.padEnd(16)}${summary}`);
    for (const [name, { summary, settings }] of Object.entries({ ...methods, ...distributedMethods })) {
      expect(out).toContain(`  ${name.padEnd(16)}${summary}`);
      for (const [key, value] of Object.entries(settings)) expect(out).toContain(`${key}=${value}`);
    }
    const overview = await start(["--help"]).ended;
    for (const command of ["compare", "contender"])
      expect(overview.out).toMatch(new RegExp(`^  ${command} `, "m"));
  });
});

test("all are the methods that are not named, of one process or of several", () => {
  const of = (...args: string[]): readonly string[] => parseCompareFlags(args).config.optimizers;
  expect(of("--optimizers", "all")).toEqual(Object.keys(methods));
  const others = Object.keys(methods).filter((name) => name !== "adam" && name !== "kfac");
  expect(of("--optimizers", "adam:beta1=0.8,all,kfac")).toEqual(["adam:beta1=0.8", ...others, "kfac"]);
  expect(of("--optimizers", "all", "--workers", "2")).toEqual(Object.keys(distributedMethods));
});
