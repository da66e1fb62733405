/**
 * Runs the program as a person does and prints what it reached, one row a run:
 *
 *     bun bench/program.ts embedded                     the embedded data: dho2 in its forms, adam, logistic regression
 *     bun bench/program.ts fashion-mnist DIR            dho2 on two workers and adam on one, and one report of both
 *     bun bench/program.ts a9a DIR                      how many steps fosi-hb needs for heavy ball's loss at 2000
 *
 * Results go to a temporary directory, whose path is printed.
 */
import { mkdtempSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const main = new URL("../cli/main.ts", import.meta.url).pathname;
const scratch = mkdtempSync(join(tmpdir(), "cotangent-bench-"));

interface Summary {
  readonly steps: number;
  readonly seconds: number;
  readonly finalLoss: number;
  readonly testAccuracy: number;
  readonly bytesSent: number;
  readonly peakMemoryBytes: number;
}

interface Metric {
  readonly step: number;
  readonly loss: number;
}

const readSummary = (directory: string): Summary =>
  JSON.parse(readFileSync(join(directory, "summary.json"), "utf8"));

function readMetrics(directory: string): readonly Metric[] {
  const lines = readFileSync(join(directory, "metrics.jsonl"), "utf8").trimEnd().split("\n");
  return lines.map((line) => JSON.parse(line));
}

async function program(...args: readonly string[]): Promise<void> {
  const child = Bun.spawn([process.execPath, main, ...args], { stdout: "ignore", stderr: "inherit" });
  if ((await child.exited) !== 0) throw new Error(`Cannot measure: ${args.join(" ")} has failed`);
}

/** One run; returns its directory. */
async function run(name: string, flags: readonly string[]): Promise<string> {
  const directory = join(scratch, name);
  await program("train", ...flags, "--out", directory);
  return directory;
}

function row(name: string, directory: string): void {
  const { steps, seconds, finalLoss, testAccuracy, bytesSent, peakMemoryBytes } = readSummary(directory);
  const cells = [
    name.padEnd(34),
    `${steps} steps`.padStart(11),
    `${seconds.toFixed(0)} s`.padStart(6),
    `loss ${finalLoss.toFixed(4)}`,
    `test ${(100 * testAccuracy).toFixed(2)}%`,
    `${(bytesSent / 1e6).toFixed(0)} MB sent`.padStart(12),
    `${(peakMemoryBytes / 1e9).toFixed(2)} GB peak`,
  ];
  console.log(cells.join("  "));
}

const embedded: Readonly<Record<string, readonly string[]>> = {
  "npm start (dho2, consensus)": [],
  "dho2, sigma 0: plain averaging": ["--sigma", "0"],
  "dho2, sigma 0.05": ["--sigma", "0.05"],
  "dho2, sigma 0.2": ["--sigma", "0.2"],
  "dho2, published ADMM": ["--admm", "published"],
  "dho2, no ADMM": ["--admm", "off"],
  "adam, 2 workers": ["--optimizer", "adam"],
  "logistic regression, adam": ["--model", "logistic", "--optimizer", "adam", "--epochs", "60"],
  "logistic regression, adam, lr 0.003": [
    "--model",
    "logistic",
    "--optimizer",
    "adam",
    "--lr",
    "0.003",
    "--epochs",
    "60",
  ],
};

async function runEmbedded(): Promise<void> {
  for (const [i, [name, flags]] of Object.entries(embedded).entries())
    row(name, await run(`embedded-${i}`, flags));
}

async function runFashion(directory: string): Promise<void> {
  const data = ["--data", "fashion-mnist", "--data-dir", directory, "--model", "mlp"];
  const dho2 = await run("dho2", [...data, "--optimizer", "dho2", "--workers", "2"]);
  row("dho2, 2 workers", dho2);
  const steps = String(readSummary(dho2).steps);
  const adam = await run("adam", [...data, "--optimizer", "adam", "--workers", "1", "--steps", steps]);
  row("adam, 1 worker, as many steps", adam);
  await program("report", dho2, adam, "--out", join(scratch, "report.html"));
  console.log(`both in ${join(scratch, "report.html")}`);
}

/** The first step at which the training loss is at most `target`. */
function stepAt(directory: string, target: number): number | undefined {
  return readMetrics(directory).find((metric) => metric.loss <= target)?.step;
}

async function runA9a(directory: string): Promise<void> {
  const data = ["--data", "libsvm", "--data-dir", directory, "--data-file", "a9a", "--features", "123"];
  const full = ["--model", "logistic", "--batch", "full", "--workers", "1", "--steps", "2000"];
  for (const rate of ["0.05", "0.2", "1"]) {
    const common = [...data, ...full, "--lr", rate];
    const heavyBall = await run(`heavy-ball-${rate}`, [...common, "--optimizer", "momentum"]);
    const fosi = await run(`fosi-hb-${rate}`, [...common, "--optimizer", "fosi-hb", "--k", "10"]);
    const target = readMetrics(heavyBall).at(-1)!.loss;
    const step = stepAt(fosi, target);
    console.log(
      `lr ${rate.padEnd(4)}  heavy ball: loss ${target.toFixed(7)} at 2000 steps  fosi-hb: there at ${step ?? "no"} steps`,
    );
  }
}

const [what, directory = ""] = process.argv.slice(2);
console.log(`results in ${scratch}`);
if (what === "embedded") await runEmbedded();
else if (what === "fashion-mnist") await runFashion(directory);
else if (what === "a9a") await runA9a(directory);
else throw new Error(`Cannot measure "${what}": one of embedded, fashion-mnist DIR, a9a DIR is needed`);
