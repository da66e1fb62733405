/**
 * Whether a translator learns as well by divisible communication as by dense exchanges:
 *
 *     bun bench/translation.ts [--data-dir DIR] [--steps 1000] [--seeds 3] [--workers 4] [--method PATTERN]
 *                              [--dense 0.15]
 *
 * A causal transformer over "english <separator> german" on Multi30k in DIR, else on sentences of two made-up languages, with
 * pieces of words that both languages share. 16 pairs for each worker and step. All workers are in one process and in step.
 * Prints the loss for each piece of the translation, and BLEU of greedy translations of sentences that were not learned from.
 */
import "../core/backends/select.ts";
import { parseArgs } from "node:util";
import { jit } from "../autodiff/jit.ts";
import { grad } from "../autodiff/vjp.ts";
import * as nn from "../core/nn.ts";
import {
  argmax,
  cast,
  div,
  expandDims,
  gather,
  logSoftmax,
  matmul,
  mul,
  neg,
  notEqual,
  reshape,
  slice,
  sum,
  take,
  transpose,
} from "../core/ops.ts";
import * as random from "../core/random.ts";
import { ravel } from "../core/ravel.ts";
import { adopt } from "../core/trace.ts";
import { leaves } from "../core/tree.ts";
import type { Value } from "../core/value.ts";
import { type DivAdamOptions, divAdam } from "../dist/compress/div_adam.ts";
import { together } from "../dist/compress/together.ts";
import { iid } from "../dist/federated/partition.ts";
import { corpusBleu } from "./divisible/bleu.ts";
import { modelledSpeedup, trafficOf } from "./divisible/link_model.ts";
import { learnPieces, marks, wordsOf } from "./divisible/pieces.ts";
import { indicesOfWorkers } from "./divisible/samples.ts";
import { madeUpPairs, multi30k, type SentencePair } from "./divisible/sentence_pairs.ts";
import { heading, kilobytes, progressOf, row, spreadOf } from "./divisible/show.ts";

const { values: given } = parseArgs({
  options: {
    "data-dir": { type: "string" },
    steps: { type: "string", default: "1000" },
    seeds: { type: "string", default: "3" },
    workers: { type: "string", default: "4" },
    method: { type: "string" },
    dense: { type: "string", default: "0.15" },
  },
});
const steps = Number(given.steps);
const seeds = Number(given.seeds);
const workers = Number(given.workers);

/** Pairs of a worker in a step. */
const BATCH = 16;
/** The most pieces of a sentence and of its translation with its end; longer pairs are left out. */
const [SOURCE, TARGET] = [20, 22];
const MERGES = 1500;
const [WIDTH, HEADS, LAYERS] = [96, 4, 2];
/** The largest learning rate; it rises in the first part of the steps and then falls on a cosine to 0. */
const RATE = 3e-3;
const RISE = 0.05;
/**
 * Dense steps of the divided methods, a part of all. Sixteen are too few here: rare pieces have small mean squares for long, and
 * gradients of query and key kernels grow a hundredfold once attention begins; a divided step does not see the square of its own
 * gradient, so that nothing bounds it.
 */
const WARMUP = Number(given.dense);
/** Sentences that are translated at the end. */
const TRANSLATED = 200;
/** Messages of a dense step take so many times as long as its computation. */
const BOUNDNESS = 6;

// --- data --------------------------------------------------------------------------------------------------------

const data = given["data-dir"] === undefined ? madeUpPairs(0) : await multi30k(given["data-dir"]);
const pieces = learnPieces(data.train.flat(), MERGES);

/** Pairs as rows of numbers. */
interface Rows {
  readonly count: number;
  /** The source and padding to `SOURCE`, the separator, the target without its end: `[count, SOURCE + TARGET]`. */
  readonly inputs: Int32Array;
  /** The target, its end and padding: `[count, TARGET]`. */
  readonly targets: Int32Array;
  readonly references: readonly (readonly string[])[];
}

function rowsOf(pairs: readonly SentencePair[]): Rows {
  const fitting = pairs
    .map((pair) => ({ source: pieces.encode(pair[0]), target: pieces.encode(pair[1]), pair }))
    .filter(({ source, target }) => source.length <= SOURCE && target.length < TARGET);
  const inputs = new Int32Array(fitting.length * (SOURCE + TARGET)).fill(marks.none);
  const targets = new Int32Array(fitting.length * TARGET).fill(marks.none);
  fitting.forEach(({ source, target }, i) => {
    inputs.set(source, i * (SOURCE + TARGET));
    inputs.set([marks.separator, ...target], i * (SOURCE + TARGET) + SOURCE);
    targets.set([...target, marks.end], i * TARGET);
  });
  const references = fitting.map(({ pair }) => wordsOf(pair[1]));
  return { count: fitting.length, inputs, targets, references };
}

const train = rowsOf(data.train);
const validation = rowsOf(data.validation);

interface Batch {
  readonly inputs: Value;
  readonly targets: Value;
}

function batchOf({ inputs, targets }: Rows, numbers: Int32Array): Batch {
  const chosen = (from: Int32Array, width: number): Value => {
    const to = new Int32Array(numbers.length * width);
    numbers.forEach((number, i) => {
      to.set(from.subarray(number * width, (number + 1) * width), i * width);
    });
    return adopt(to, [numbers.length, width], "int32");
  };
  return { inputs: chosen(inputs, SOURCE + TARGET), targets: chosen(targets, TARGET) };
}

// --- model -------------------------------------------------------------------------------------------------------

const small = { initializer: (key: Value, shape: readonly number[]) => mul(0.02, random.normal(key, shape)) };
const table = nn.embedding(pieces.size, WIDTH, small);
const places = nn.positions(SOURCE + TARGET, WIDTH, small);
const block = nn.transformerBlock(WIDTH, HEADS, { causal: true, activation: "relu", ...small });
const norm = nn.layerNorm(WIDTH);

function initialOf(seed: number) {
  const [first, second, ...rest] = random.split(random.key(seed), LAYERS + 2);
  return {
    table: table.init(first!),
    places: places.init(second!),
    blocks: rest.map((key) => block.init(key)),
    norm: norm.init(random.key(seed)),
  };
}

const [example, unravel] = ravel(initialOf(0));
const shapes = leaves(unravel(example)).map((x) => x.shape);
const denseBytes = 2 * 4 * example.size;

/** What the blocks make of `[n, SOURCE + TARGET]`: `[n, SOURCE + TARGET, WIDTH]`. */
function streamOf(theta: Value, inputs: Value): Value {
  const params = unravel(theta);
  const embedded = places.apply(params.places, table.apply(params.table, inputs));
  const stream = params.blocks.reduce((x, own) => block.apply(own, x), embedded);
  return norm.apply(params.norm, stream);
}

/** Logits of the next piece at positions `[..., WIDTH]`; the table of pieces is read backwards. */
function logitsOf(theta: Value, stream: Value): Value {
  return matmul(stream, transpose(unravel(theta).table.table));
}

/** The sum over the pieces of translations, and how many there are. */
function lossOf(theta: Value, { inputs, targets }: Batch): readonly [Value, Value] {
  const count = inputs.shape[0]!;
  const stream = slice(streamOf(theta, inputs), [0, SOURCE, 0], [count, SOURCE + TARGET, WIDTH]);
  const logp = gather(logSoftmax(logitsOf(theta, stream)), expandDims(targets, 2), { axis: 2 });
  const isPiece = cast(notEqual(targets, marks.none), "float32");
  return [neg(sum(mul(reshape(logp, targets.shape), isPiece))), sum(isPiece)];
}

const gradientAt = jit(grad((theta: Value, batch: Batch) => div(...lossOf(theta, batch))));
const totals = jit(lossOf);
/** The likeliest piece after position `at`. */
const nextPieces = jit((theta: Value, inputs: Value, at: Value) =>
  argmax(logitsOf(theta, take(streamOf(theta, inputs), at, { axis: 1 })), { axis: 1 }),
);

// --- judging -----------------------------------------------------------------------------------------------------

/** The loss for each piece of the translations. */
function validationLoss(theta: Value): number {
  let [loss, count] = [0, 0];
  for (let start = 0; start < validation.count; start += TRANSLATED) {
    const size = Math.min(TRANSLATED, validation.count - start);
    const numbers = Int32Array.from({ length: size }, (_, i) => start + i);
    const [one, many] = totals(theta, batchOf(validation, numbers));
    loss += one.item();
    count += many.item();
  }
  return loss / count;
}

/** Greedy translations of the first sentences. */
function translations(theta: Value): readonly (readonly number[])[] {
  const count = Math.min(TRANSLATED, validation.count);
  const width = SOURCE + TARGET;
  const inputs = validation.inputs.slice(0, count * width);
  for (let i = 0; i < count; i++) inputs.fill(marks.none, i * width + SOURCE + 1, (i + 1) * width);
  const chosen: number[][] = Array.from({ length: count }, () => []);
  for (let at = SOURCE; at < width; at++) {
    const place = adopt(new Int32Array([at]), [], "int32");
    const next = nextPieces(theta, adopt(inputs.slice(), [count, width], "int32"), place).dataSync();
    for (let i = 0; i < count; i++) {
      chosen[i]!.push(Number(next[i]));
      if (at + 1 < width) inputs[i * width + at + 1] = Number(next[i]);
    }
  }
  return chosen.map((numbers) => {
    const end = numbers.indexOf(marks.end);
    return end < 0 ? numbers : numbers.slice(0, end);
  });
}

// --- runs --------------------------------------------------------------------------------------------------------

interface Judged {
  readonly loss: number;
  readonly bleu: number;
}

interface Design {
  readonly name: string;
  readonly options: Partial<DivAdamOptions>;
}

const designs: readonly Design[] = [
  { name: "Adam", options: { ratio: 1 } },
  { name: "div-adam R=128 H=4", options: { ratio: 128, period: 4 } },
  { name: "div-adam R=128 H=8", options: { ratio: 128, period: 8 } },
  { name: "foreground only R=128", options: { ratio: 128, period: Infinity } },
];

const rise = Math.max(1, Math.round(RISE * steps));
const learningRate = (step: number): number =>
  step <= rise
    ? (RATE * step) / rise
    : (RATE / 2) * (1 + Math.cos((Math.PI * (step - rise - 1)) / (steps - rise)));

const methodOf = ({ options }: Design, seed: number) =>
  divAdam({ shapes, learningRate, seed, warmup: Math.ceil(WARMUP * steps), ...options });

function run(design: Design, seed: number, onStep: (step: number) => void): Judged {
  const [theta] = ravel(initialOf(seed));
  const parts = iid(new Int32Array(train.count), workers, { seed });
  const next = indicesOfWorkers(parts, BATCH, seed);
  const all = together(methodOf(design, seed), theta, workers);
  while (all.steps < steps) {
    all.step((rank, position) => gradientAt(position, batchOf(train, next(rank))));
    onStep(all.steps);
  }
  const learned = all.view();
  const words = translations(learned).map((numbers) => pieces.decode(numbers));
  return {
    loss: validationLoss(learned),
    bleu: corpusBleu(words, validation.references.slice(0, words.length)),
  };
}

const chosen = designs.filter(({ name }) => new RegExp(given.method ?? "").test(name));
console.error(
  `${train.count} of ${data.train.length} pairs, ${validation.count} of ${data.validation.length} to judge by, ${pieces.size} pieces`,
);
const say = progressOf(seeds * chosen.length * steps);
const results = new Map<Design, Judged[]>(chosen.map((design) => [design, []]));
let before = 0;
for (let seed = 0; seed < seeds; seed++) {
  for (const design of chosen) {
    const judged = run(design, seed, (step) => {
      if (step % 100 === 0) say(before + step, `${design.name}, seed ${seed}, step ${step}`);
    });
    before += steps;
    results.get(design)!.push(judged);
    console.error(
      `${design.name}, seed ${seed}: loss ${judged.loss.toFixed(3)}, BLEU ${(100 * judged.bleu).toFixed(1)}`,
    );
  }
}

console.log(
  `\ntransformer of ${LAYERS} blocks of ${WIDTH} (${example.size} parameters) on ${data.name}, ${workers} workers with ${BATCH} pairs each, ${steps} steps, the first ${100 * WARMUP}% dense, ${seeds} seeds\n`,
);
heading([
  "method",
  "loss for each piece",
  "BLEU",
  "waited for, per worker and step",
  "background",
  `speedup if messages take ${BOUNDNESS} times the computation`,
  "in the second half",
]);
for (const [design, judged] of results) {
  const method = methodOf(design, 0);
  const whole = trafficOf(method, workers, 1, steps);
  const late = trafficOf(method, workers, Math.ceil(steps / 2) + 1, steps);
  row([
    design.name,
    spreadOf(
      judged.map(({ loss }) => loss),
      (x) => x.toFixed(3),
    ),
    spreadOf(
      judged.map(({ bleu }) => 100 * bleu),
      (x) => x.toFixed(1),
    ),
    kilobytes(whole.foreground / steps),
    kilobytes(whole.background / steps),
    modelledSpeedup(whole, denseBytes, BOUNDNESS).toFixed(2),
    modelledSpeedup(late, denseBytes, BOUNDNESS).toFixed(2),
  ]);
}
