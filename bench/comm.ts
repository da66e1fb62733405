/**
 * Time to the same accuracy on a slow link, for methods that send all of a gradient and methods that send parts:
 *
 *     bun bench/comm.ts [--data-dir DIR] [--data fashion-mnist] [--workers 4] [--steps 900] [--seeds 3] [--partition dirichlet:0.1]
 *                       [--boundness 6] [--rate MBIT] [--only adam,div-adam] [--target X] [--json FILE]
 *                       [--model cnn] [--batch 16] [--residual-weight 0.3]
 *
 * Every run is `cotangent train` with worker processes in a network namespace of their own, behind one link whose rate is such
 * that the gradients of a dense step and their mean add `boundness` times what a step takes without them. Both are measured first.
 * Needs Linux, root, ip and tc, and a quiet machine; with fewer cores than processes put `chrt -r 5` before it, or they wait for
 * each other's time slices. DIR has the files of the data set, of Fashion-MNIST or of another that `cotangent train --data`
 * knows; without either flag the data are drawn by the program. Time is that of training: evaluations do not count.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";

const { values: given } = parseArgs({
  options: {
    "data-dir": { type: "string" },
    data: { type: "string" },
    workers: { type: "string", default: "4" },
    steps: { type: "string", default: "900" },
    seeds: { type: "string", default: "3" },
    partition: { type: "string", default: "iid" },
    boundness: { type: "string", default: "6" },
    rate: { type: "string" },
    only: { type: "string" },
    target: { type: "string" },
    json: { type: "string" },
    batch: { type: "string", default: "16" },
    model: { type: "string", default: "mlp" },
    hidden: { type: "string", default: "128" },
    lr: { type: "string", default: "1e-3" },
    "residual-weight": { type: "string", default: "1" },
  },
});
const workers = Number(given.workers);
const steps = Number(given.steps);
const seeds = Number(given.seeds);

/** The flags of `cotangent train` for each method, beside those that all have. */
const designs: Readonly<Record<string, readonly string[]>> = {
  adam: ["--optimizer", "adam", "--lr", given.lr],
  "div-adam R=1024 H=4": divided(1024, 4),
  "div-adam R=1024 H=8": divided(1024, 8),
  "div-adam R=128 H=4": divided(128, 4),
  "div-adam R=128 H=8": divided(128, 8),
  "div-adam R=1024 H=16": divided(1024, 16),
  "ef-adam top-k R=128": [
    ...["--optimizer", "ef-adam", "--lr", given.lr],
    ...["--compressor", "topk", "--ratio", "128"],
  ],
  "one-bit-adam": ["--optimizer", "one-bit-adam", "--lr", given.lr, "--dense-steps", "100"],
  "zero-one-adam": ["--optimizer", "zero-one-adam", "--lr", given.lr, "--dense-steps", "100"],
  "local-adam H=8": ["--optimizer", "local-adam", "--lr", given.lr, "--period", "8"],
  "diloco H=8": ["--optimizer", "diloco", "--lr", given.lr, "--period", "8"],
  "ef R=128": ["--optimizer", "ef", "--lr", "0.05", "--ratio", "128"],
  // As much in the mean: 1 / 256 of an update at every step, 1 / 32 of the errors at every eighth.
  "cser R=128": [
    ...["--optimizer", "cser", "--lr", "0.05", "--update-compressor", "block", "--update-ratio", "256"],
    ...["--ratio", "32", "--period", "8"],
  ],
  "def R=128": ["--optimizer", "def", "--lr", "0.05", "--ratio", "128"],
  "saef R=128": ["--optimizer", "saef", "--lr", "0.05", "--ratio", "128"],
  demo: ["--optimizer", "demo", "--lr", given.lr],
};

function divided(ratio: number, period: number): readonly string[] {
  return [
    ...["--optimizer", "div-adam", "--lr", given.lr, "--ratio", String(ratio), "--period", String(period)],
    ...["--background", "int16", "--residual-weight", given["residual-weight"]],
  ];
}

/** Steps between two evaluations: each moves the parameters of all workers. */
const evaluateEvery = Math.max(1, Math.round(steps / 12));

// --- a link between two network namespaces -----------------------------------------------------------------------

const name = `ct${process.pid % 100_000}`;
const hubAddress = "10.213.7.1";
const inside = ["ip", "netns", "exec", name];

function system(...words: readonly string[]): void {
  const { exitCode, stderr } = Bun.spawnSync([...words]);
  if (exitCode === 0) return;
  throw new Error(
    `Cannot make a slow link: "${words.join(" ")}" says "${stderr.toString().trim()}", root rights with ip and tc are needed`,
  );
}

function openLink(): void {
  system("ip", "netns", "add", name);
  system("ip", "link", "add", `${name}a`, "type", "veth", "peer", "name", `${name}b`, "netns", name);
  system("ip", "addr", "add", `${hubAddress}/24`, "dev", `${name}a`);
  system("ip", "link", "set", `${name}a`, "up");
  system(...inside, "ip", "addr", "add", "10.213.7.2/24", "dev", `${name}b`);
  system(...inside, "ip", "link", "set", `${name}b`, "up");
  system(...inside, "ip", "link", "set", "lo", "up");
}

/** Both directions at the same rate, each with a queue of its own; after a pause a millisecond's bytes pass at once. */
function limitLink(megabits: number): void {
  const burst = Math.max(4096, Math.round(megabits * 125));
  const shape = [
    "root",
    "tbf",
    "rate",
    `${megabits.toFixed(3)}mbit`,
    "burst",
    `${burst}b`,
    "latency",
    "300ms",
  ];
  system("tc", "qdisc", "replace", "dev", `${name}a`, ...shape);
  system(...inside, "tc", "qdisc", "replace", "dev", `${name}b`, ...shape);
}

function closeLink(): void {
  Bun.spawnSync(["ip", "netns", "del", name]);
  Bun.spawnSync(["ip", "link", "del", `${name}a`]);
}

// --- runs --------------------------------------------------------------------------------------------------------

interface Point {
  readonly step: number;
  readonly seconds: number;
  readonly accuracy: number;
}

interface Run {
  /** Accuracy on the test data over the time of training. */
  readonly curve: readonly Point[];
  readonly stepsPerSecond: number;
  /** Bytes of one worker and step, both directions. */
  readonly foreground: number;
  readonly background: number;
  /** Part of the time in which no worker computed. */
  readonly exposed: number;
  /** Parameters, as the plan has them. */
  readonly parameters: number;
}

/** A line of metrics.jsonl. */
interface Metric {
  readonly step: number;
  readonly seconds: number;
  readonly evaluationSeconds: number;
  readonly busySeconds: number;
  readonly bytesSent: number;
  readonly backgroundBytes?: number;
  readonly testAccuracy?: number;
}

async function run(design: readonly string[], seed: number, count: number): Promise<Run> {
  const out = mkdtempSync(join(tmpdir(), "comm-"));
  const dir = given["data-dir"];
  const dataName = given.data ?? (dir === undefined ? "glyphs" : "fashion-mnist");
  const data = ["--data", dataName, ...(dir === undefined ? [] : ["--data-dir", dir])];
  const words = [
    ...[process.execPath, join(import.meta.dirname, "..", "cli", "main.ts"), "train", ...data, ...design],
    ...["--model", given.model, ...(given.model === "mlp" ? ["--hidden", given.hidden] : [])],
    ...["--batch", given.batch, "--workers", given.workers, "--seed", String(seed)],
    ...[
      "--steps",
      String(count),
      "--local-steps",
      String(evaluateEvery),
      "--eval-every",
      String(evaluateEvery),
    ],
    ...["--schedule", "cosine", "--partition", given.partition],
    ...["--host", hubAddress, "--launch", inside.join(" "), "--out", out],
  ];
  try {
    const child = Bun.spawn(words, { stdout: "ignore", stderr: "pipe" });
    const said = await new Response(child.stderr).text();
    if ((await child.exited) !== 0) throw new Error(`Cannot run "${words.join(" ")}": it says "${said}"`);
    const lines = readFileSync(join(out, "metrics.jsonl"), "utf8").trim().split("\n");
    const metrics = lines.map((line) => JSON.parse(line) as Metric);
    const timeOf = (at: Metric): number => at.seconds - at.evaluationSeconds;
    // Until the first step is done processes start, data are read and programs are compiled.
    const [first, last] = [metrics[0]!, metrics.at(-1)!];
    const spent = timeOf(last) - timeOf(first);
    const perStep = (bytes: (at: Metric) => number): number =>
      (bytes(last) - bytes(first)) / ((last.step - first.step) * workers);
    const background = (at: Metric): number => at.backgroundBytes ?? 0;
    return {
      curve: metrics.flatMap(({ testAccuracy, ...at }) =>
        testAccuracy === undefined
          ? []
          : [{ step: at.step, seconds: timeOf(at) - timeOf(first), accuracy: testAccuracy }],
      ),
      stepsPerSecond: (last.step - first.step) / spent,
      foreground: perStep((at) => at.bytesSent - background(at)),
      background: perStep(background),
      exposed: 1 - (last.busySeconds - first.busySeconds) / spent,
      parameters: Number(/(\d+) parameters/.exec(readFileSync(join(out, "plan.txt"), "utf8"))![1]),
    };
  } finally {
    rmSync(out, { recursive: true, force: true });
  }
}

const median = (x: readonly number[]): number =>
  x.toSorted((a, b) => a - b)[Math.floor(x.length / 2)] ?? Number.NaN;

/** Seconds until the accuracy is reached, on a straight line between evaluations; infinite if it never is. */
function timeTo({ curve }: Run, target: number): number {
  const at = curve.findIndex(({ accuracy }) => accuracy >= target);
  if (at < 0) return Number.POSITIVE_INFINITY;
  const end = curve[at]!;
  const start = curve[at - 1] ?? { seconds: 0, accuracy: 0 };
  const part = (target - start.accuracy) / (end.accuracy - start.accuracy);
  return start.seconds + part * (end.seconds - start.seconds);
}

const finalOf = ({ curve }: Run): number => curve.at(-1)!.accuracy;
const percent = (x: number): string => `${(100 * x).toFixed(2)}%`;
const kilobytes = (bytes: number): string => `${(bytes / 1000).toFixed(1)} kB`;

function print(runs: ReadonlyMap<string, readonly Run[]>): void {
  const dense = runs.get("adam");
  const target = Number(given.target ?? (dense ? median(dense.map(finalOf)) - 0.015 : 0.8));
  const timeOf = (all: readonly Run[]): number => median(all.map((one) => timeTo(one, target)));
  console.log(`\nmedians of ${seeds} seeds; the target is an accuracy of ${percent(target)}\n`);
  console.log(
    "| method | steps/s | waited for, per worker and step | in the background | waiting | accuracy at the end | seconds to target | sooner than adam |",
  );
  console.log("|-|-|-|-|-|-|-|-|");
  for (const [method, all] of runs) {
    const of = (f: (one: Run) => number): number => median(all.map(f));
    const ends = all.map(finalOf);
    const time = timeOf(all);
    const cells = [
      method,
      of((one) => one.stepsPerSecond).toFixed(1),
      kilobytes(of((one) => one.foreground)),
      kilobytes(of((one) => one.background)),
      `${(100 * of((one) => one.exposed)).toFixed(0)}%`,
      `${percent(median(ends))} [${percent(Math.min(...ends))}, ${percent(Math.max(...ends))}]`,
      Number.isFinite(time) ? time.toFixed(1) : "not reached",
      Number.isFinite(time) && dense ? `${(timeOf(dense) / time).toFixed(2)} x` : "",
    ];
    console.log(`| ${cells.join(" | ")} |`);
  }
}

const only = given.only?.split(",");
const isMeant = (part: string) => (one: string) => (part in designs ? one === part : one.startsWith(part));
const names = Object.keys(designs).filter((one) => !only || only.some((part) => isMeant(part)(one)));
const runs = new Map<string, Run[]>(names.map((one) => [one, []]));
openLink();
try {
  const free = await run(divided(1024, 1_000_000), 0, 600);
  const stepMs = 1000 / free.stepsPerSecond;
  const boundness = Number(given.boundness);
  // A first guess: while the first worker has its mean and computes, the others still get theirs.
  const bits = 8 * (workers + 1) * 4 * free.parameters;
  let megabits = Number(given.rate ?? bits / (boundness * stepMs) / 1000);
  limitLink(megabits);
  const messagesMs = async (): Promise<number> =>
    1000 / (await run(designs["adam"]!, 0, 100)).stepsPerSecond - stepMs;
  if (given.rate === undefined) {
    megabits *= (await messagesMs()) / (boundness * stepMs);
    limitLink(megabits);
  }
  const bound = (await messagesMs()) / stepMs;
  console.log(
    `${free.parameters} parameters on ${workers} workers, ${given.partition}; a step without dense messages takes ${stepMs.toFixed(1)} ms, these take ${bound.toFixed(1)} times as long on a link of ${megabits.toFixed(0)} Mbit/s`,
  );
  for (let seed = 0; seed < seeds; seed++) {
    for (const one of names) {
      const result = await run(designs[one]!, seed, steps);
      runs.get(one)!.push(result);
      const { seconds, accuracy } = result.curve.at(-1)!;
      console.error(`${one}, seed ${seed}: ${seconds.toFixed(1)} s, ${percent(accuracy)}`);
    }
  }
  print(runs);
  if (given.json !== undefined)
    writeFileSync(given.json, JSON.stringify({ megabits, free, runs: Object.fromEntries(runs) }));
} finally {
  closeLink();
}
