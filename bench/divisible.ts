/**
 * What divisible communication costs in accuracy, and what it saves of waiting, beside methods with the same aim:
 *
 *     bun bench/divisible.ts [--data-dir DIR] [--data fashion-mnist] [--steps 900] [--seeds 3] [--workers 8]
 *                            [--only table|controls|speedup|rates] [--method PATTERN] [--spread iid|dirichlet]
 *                            [--schedule cosine|constant]
 *
 * An MLP with 128 hidden units on the pixels of images, 16 images for each worker and step, learning rates on a cosine to 0.
 * DIR has the files of the data set, of Fashion-MNIST or of another that `cotangent train --data` knows; without either flag
 * images are drawn by the program. All workers are in one process and in step: what is computed is what a run on many machines
 * computes, bit by bit, and speedups come from a model of the link.
 *
 * - `table`: every method with workers whose data are alike, and with classes spread by Dir(0.1).
 * - `controls`: the same for methods that lack a part of divAdam, accuracies alone.
 * - `speedup`: 1 to 16 workers for 300 steps: with the same number of images for each, more workers should be better.
 * - `rates`: the learning rates of methods for which Adam's is not right, by a seed that the table does not use.
 */
import "../core/backends/select.ts";
import { parseArgs } from "node:util";
import { jit } from "../autodiff/jit.ts";
import { grad } from "../autodiff/vjp.ts";
import { type DataName, loadData } from "../cli/data/registry.ts";
import * as nn from "../core/nn.ts";
import * as random from "../core/random.ts";
import { ravel } from "../core/ravel.ts";
import { adopt } from "../core/trace.ts";
import { leaves } from "../core/tree.ts";
import type { Value } from "../core/value.ts";
import type { CommunicatingMethod } from "../dist/compress/method.ts";
import { together } from "../dist/compress/together.ts";
import { partitionExamples } from "../dist/federated/partition.ts";
import { modelledSpeedup, trafficOf } from "./divisible/link_model.ts";
import { controls, type Design, designs, type Setting, type Spread } from "./divisible/methods.ts";
import { indicesOfWorkers } from "./divisible/samples.ts";
import { heading, kilobytes, percent, progressOf, row, spreadOf } from "./divisible/show.ts";

const { values: given } = parseArgs({
  options: {
    "data-dir": { type: "string" },
    data: { type: "string" },
    steps: { type: "string", default: "900" },
    seeds: { type: "string", default: "3" },
    workers: { type: "string", default: "8" },
    only: { type: "string" },
    method: { type: "string" },
    spread: { type: "string" },
    schedule: { type: "string", default: "cosine" },
  },
});
const steps = Number(given.steps);
const seeds = Number(given.seeds);
const workers = Number(given.workers);

/** Images of a worker in a step. */
const BATCH = 16;
const HIDDEN = 128;
/** How uneven the classes are spread over the workers. */
const ALPHA = 0.1;
/** Messages of a dense step take so many times as long as its computation. */
const BOUNDNESS = 6;
/** Not among the seeds of the table, which count from 0. */
const SEARCH_SEED = 1000;

interface Images {
  readonly x: Float32Array;
  readonly y: Int32Array;
  readonly count: number;
}

/** Images as rows of pixels, with the mean and the deviation of the training data's pixels at 0 and 1. */
async function openImages() {
  const dir = given["data-dir"];
  const name = (given.data ?? (dir === undefined ? "glyphs" : "fashion-mnist")) as DataName;
  const data = await loadData({ name, seed: 0, dir });
  const pixels = data.train.features;
  const mean = pixels.reduce((sum, x) => sum + x, 0) / pixels.length;
  const deviation = Math.sqrt(pixels.reduce((sum, x) => sum + (x - mean) ** 2, 0) / pixels.length);
  const standard = ({ features, labels, count }: typeof data.train): Images => ({
    x: features.map((x) => (x - mean) / deviation),
    y: labels,
    count,
  });
  return {
    name: data.name,
    width: data.train.features.length / data.train.count,
    classes: data.classes,
    train: standard(data.train),
    test: standard(data.test),
  };
}

const { name: dataName, width, classes, train, test } = await openImages();
const model = nn.mlp([width, HIDDEN, classes], { activation: "relu" });
const [example, unravel] = ravel(model.init(random.key(0)));
const shapes = leaves(unravel(example)).map((x) => x.shape);
/** Bytes that a worker sends and receives in a dense step. */
const denseBytes = 2 * 4 * example.size;

interface Batch {
  readonly x: Value;
  readonly y: Value;
}

const gradientAt = jit(
  grad((theta: Value, { x, y }: Batch) => nn.softmaxCrossEntropy(model.apply(unravel(theta), x), y)),
);
const accuracyOf = jit((theta: Value, { x, y }: Batch) => nn.accuracy(model.apply(unravel(theta), x), y));
const all: Batch = {
  x: adopt(test.x, [test.count, width], "float32"),
  y: adopt(test.y, [test.count], "int32"),
};

function batchOf(numbers: Int32Array): Batch {
  const x = new Float32Array(numbers.length * width);
  numbers.forEach((number, i) => {
    x.set(train.x.subarray(number * width, (number + 1) * width), i * width);
  });
  return {
    x: adopt(x, [numbers.length, width], "float32"),
    y: adopt(
      numbers.map((number) => train.y[number]!),
      [numbers.length],
      "int32",
    ),
  };
}

/** From its beginning on a cosine to 0 at the end. */
const cosine =
  (rate: number, of: number): Setting["learningRate"] =>
  (step) =>
    (rate / 2) * (1 + Math.cos((Math.PI * (step - 1)) / of));

interface Job {
  readonly design: Design;
  readonly spread: Spread;
  readonly seed: number;
  readonly workers: number;
  readonly steps: number;
  readonly rate?: number;
}

function methodOf({ design, spread, seed, steps: count, rate = design.rate[spread] }: Job) {
  const learningRate = given.schedule === "constant" ? () => rate : cosine(rate, count);
  return design.make({ shapes, seed, steps: count, learningRate });
}

/** The accuracy on the test data at the end. */
function accuracyAfter(job: Job): number {
  const [theta] = ravel(model.init(random.key(job.seed)));
  const method: CommunicatingMethod<unknown> = methodOf(job);
  const parts = partitionExamples(
    job.spread === "iid" ? { k: "iid" } : { k: "dirichlet", alpha: ALPHA },
    train.y,
    job.workers,
    { seed: job.seed, minimum: BATCH },
  );
  const next = indicesOfWorkers(parts, BATCH, job.seed);
  const run = together(method, theta, job.workers);
  while (run.steps < job.steps) run.step((rank, position) => gradientAt(position, batchOf(next(rank))));
  return accuracyOf(run.view(), all).item();
}

/** Runs jobs one after the other, and says on the way how long the others will take. */
function runAll(jobs: readonly Job[]): readonly number[] {
  const workOf = (job: Job): number => job.workers * job.steps * job.design.work;
  const say = progressOf(jobs.reduce((sum, job) => sum + workOf(job), 0));
  let done = 0;
  return jobs.map((job, i) => {
    const start = performance.now();
    const accuracy = accuracyAfter(job);
    const each = (performance.now() - start) / job.steps;
    done += workOf(job);
    const rate = job.rate === undefined ? "" : `, rate ${job.rate}`;
    say(
      done,
      `${i + 1} of ${jobs.length}: ${job.design.name}, ${job.spread}, ${job.workers} workers, seed ${job.seed}${rate}: ` +
        `${percent(accuracy)}%, ${each.toFixed(1)} ms a step`,
    );
    return accuracy;
  });
}

/** The results of the jobs of each design and spread. */
function grouped<T>(jobs: readonly Job[], results: readonly T[], isIn: (job: Job) => boolean): readonly T[] {
  return results.filter((_, i) => isIn(jobs[i]!));
}

const isMeant = ({ name }: Design): boolean => new RegExp(given.method ?? "").test(name);
const chosen = designs.filter(isMeant);
const spreads = (["iid", "dirichlet"] as const).filter(
  (spread) => given.spread === undefined || spread === given.spread,
);
const spreadNames: Readonly<Record<Spread, string>> = { iid: "IID", dirichlet: `Dir(${ALPHA})` };
const times = (n: number): readonly number[] => [...new Array(n).keys()];

/** Runs methods with all seeds, says what of, and gives the accuracies of a method as cells. */
function compared(list: readonly Design[]): (design: Design) => readonly string[] {
  // Seed by seed, so that what is printed on the way is a whole table early.
  const jobs = times(seeds).flatMap((seed) =>
    spreads.flatMap((spread) =>
      list
        .filter((design) => design.spreads.includes(spread) && seed < design.mostSeeds)
        .map((design): Job => ({ design, spread, seed, workers, steps })),
    ),
  );
  const results = runAll(jobs);
  console.log(
    `\nMLP ${width}-${HIDDEN}-${classes} (${example.size} parameters) on ${dataName}, ${workers} workers with ${BATCH} images each, ` +
      `${steps} steps, ${seeds} seeds; test accuracy in percent, mean ± deviation\n`,
  );
  return (design) =>
    spreads.map((spread) => {
      const own = grouped(jobs, results, (job) => job.design === design && job.spread === spread);
      return own.length === 0
        ? ""
        : spreadOf(own, percent) + (own.length < seeds ? ` (${own.length} seed)` : "");
    });
}

function table(): void {
  const accuraciesOf = compared(chosen);
  heading([
    "method",
    ...spreads.map((spread) => spreadNames[spread]),
    "waited for, per worker and step",
    "background",
    `speedup if messages take ${BOUNDNESS} times the computation`,
    "in the second half",
  ]);
  for (const design of chosen) {
    const method = methodOf({ design, spread: "iid", seed: 0, workers, steps });
    const whole = trafficOf(method, workers, 1, steps);
    const late = trafficOf(method, workers, Math.ceil(steps / 2) + 1, steps);
    row([
      design.name,
      ...accuraciesOf(design),
      kilobytes(whole.foreground / steps),
      kilobytes(whole.background / steps),
      modelledSpeedup(whole, denseBytes, BOUNDNESS).toFixed(2),
      modelledSpeedup(late, denseBytes, BOUNDNESS).toFixed(2),
    ]);
  }
  const others = chosen.filter(({ grid }) => grid.length > 0);
  const own = others.map(({ name, rate }) => `${name} ${spreads.map((spread) => rate[spread]).join(", ")}`);
  console.log(
    `\nLearning rates: ${designs[0]!.rate.iid}${own.length > 0 ? `; the best of a grid by another seed: ${own.join("; ")}` : ""}.`,
  );
  console.log(
    "Bytes are sent and received ones, over all steps, with first dense steps. The background shares the link and has it while nothing is waited for.",
  );
}

function controlsTable(): void {
  const asked = controls.filter(isMeant);
  const accuraciesOf = compared(asked);
  heading(["method", ...spreads.map((spread) => spreadNames[spread])]);
  for (const design of asked) row([design.name, ...accuraciesOf(design)]);
}

function speedup(): void {
  const counts = [1, 2, 4, 8, 16];
  const few = Math.min(steps, 300);
  const both = ["Adam", "div-adam R=1024 H=4"].map((name) => designs.find((one) => one.name === name)!);
  const jobs = times(seeds).flatMap((seed) =>
    both.flatMap((design) =>
      counts.map((count): Job => ({ design, spread: "iid", seed, workers: count, steps: few })),
    ),
  );
  const results = runAll(jobs);
  console.log(`\ntest accuracy after ${few} steps by the number of workers, ${seeds} seeds\n`);
  heading(["method", ...counts]);
  for (const design of both) {
    row([
      design.name,
      ...counts.map((count) =>
        spreadOf(
          grouped(jobs, results, (job) => job.design === design && job.workers === count),
          percent,
        ),
      ),
    ]);
  }
}

function rates(): void {
  const jobs = chosen.flatMap((design) =>
    spreads.flatMap((spread) =>
      design.grid.map((rate): Job => ({ design, spread, seed: SEARCH_SEED, workers, steps, rate })),
    ),
  );
  const results = runAll(jobs);
  console.log(`\ntest accuracy after ${steps} steps by the learning rate, seed ${SEARCH_SEED}\n`);
  heading(["method", "data", "rates and accuracies", "in the table"]);
  for (const design of chosen.filter(({ grid }) => grid.length > 0)) {
    for (const spread of spreads) {
      const own = grouped(jobs, results, (job) => job.design === design && job.spread === spread);
      const cells = design.grid.map((rate, i) => `${rate}: ${percent(own[i]!)}`);
      row([design.name, spreadNames[spread], cells.join(", "), design.rate[spread]]);
    }
  }
}

const parts: Readonly<Record<string, () => void>> = {
  table,
  controls: controlsTable,
  speedup,
  rates,
};
const asked = given.only === undefined ? [table, speedup] : [parts[given.only]];
for (const part of asked) {
  if (part) part();
  else {
    console.error(
      `Cannot measure "${given.only}": it is no part, one of ${Object.keys(parts).join(", ")} is needed`,
    );
    process.exitCode = 2;
  }
}
