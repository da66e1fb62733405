/**
 * What federated methods in closed form are worth, by the functions of the library in one process:
 *
 *     bun bench/federated.ts [--data-dir DIR] [--data fashion-mnist] [--only afl|personal] [--seeds 3]
 *                            [--width 512] [--filters ls|half] [--lambda 200] [--ridge 100]
 *
 * DIR has the files of the data set, of Fashion-MNIST or of another set of images that `cotangent federated --data` knows;
 * without either flag images are drawn by the program.
 *
 * - `afl`: one layer on frozen random features, all images. Clients' ridge regressions are joined two by two by the absolute
 *   aggregation law, before and after the regularization intermediary, beside the mean of their weights, which is no such
 *   law, and the ridge regression of all examples at once.
 * - `personal`: a network fitted layer by layer. A client is tested on a quarter of its own examples, by the model of all, by a
 *   head from its own examples alone with that ridge, by a head between the two, and by the head of clients with similar
 *   labels.
 */
import "../core/backends/select.ts";
import { parseArgs } from "node:util";
import { type DataName, loadData } from "../cli/data/registry.ts";
import { zeros } from "../core/create.ts";
import * as nn from "../core/nn.ts";
import { abs, add, div, matmul, max, mul, oneHot, sub } from "../core/ops.ts";
import { adopt } from "../core/trace.ts";
import type { Value } from "../core/value.ts";
import type { AnalyticFilters } from "../dist/federated/acnnl.ts";
import {
  joinModels,
  type RidgeModel,
  randomFeatures,
  removeGamma,
  ridgeModel,
} from "../dist/federated/afl.ts";
import type { ClientData, FederatedMethod, Payload } from "../dist/federated/method.ts";
import { type Partition, partitionExamples, showPartition, splitOwn } from "../dist/federated/partition.ts";
import { type PFedAcnnlOptions, pfedacnnl } from "../dist/federated/personal.ts";
import { addStatistics, ridge, statisticsOf, zeroStatistics } from "../dist/federated/statistics.ts";
import { heading, percent, row, spreadOf } from "./divisible/show.ts";

const { values: given } = parseArgs({
  options: {
    "data-dir": { type: "string" },
    data: { type: "string" },
    only: { type: "string" },
    seeds: { type: "string", default: "3" },
    width: { type: "string", default: "512" },
    filters: { type: "string", default: "ls" },
    lambda: { type: "string", default: "200" },
    ridge: { type: "string", default: "100" },
  },
});
const seeds = [...new Array(Number(given.seeds)).keys()];
const width = Number(given.width);
const lambda = Number(given.lambda);

const dir = given["data-dir"];
const { train, test, classes, exampleShape, ...data } = await loadData({
  name: (given.data ?? (dir === undefined ? "glyphs" : "fashion-mnist")) as DataName,
  seed: 0,
  dir,
});
const inputs = exampleShape.reduce((a, b) => a * b, 1);
/** Channels, rows, columns. */
const image = [...(exampleShape.length === 2 ? [1] : []), ...exampleShape] as [number, number, number];

/** Some examples of a split; by default all. */
function examplesOf({ features, labels }: typeof train, numbers: Int32Array): ClientData {
  const x = new Float32Array(numbers.length * inputs);
  numbers.forEach((number, i) => {
    x.set(features.subarray(number * inputs, (number + 1) * inputs), i * inputs);
  });
  const y = Int32Array.from(numbers, (number) => labels[number]!);
  return { x: adopt(x, [numbers.length, ...image], "float32"), y: adopt(y, [y.length], "int32") };
}

const first = (count: number): Int32Array => Int32Array.from({ length: count }, (_, i) => i);
const cells = (values: readonly number[]): string => spreadOf(values, percent);
const say = (text: string): void => console.error(text);

// --- one layer on frozen features --------------------------------------------------------------------------------

/** What a client needs for its model to exist, and what is left of it in the model of all. */
const GAMMA = 1;
/** Images whose features are in memory at once. */
const AT_ONCE = 4000;
/** Of smaller sets, which have fewer for each of so many clients, some partitions do not exist. */
const LEAST_FOR_EACH = 60;

interface Spread {
  readonly clients: number;
  readonly partition: Partition;
}

const allOfOneLayer: readonly Spread[] = [
  { clients: 10, partition: { k: "dirichlet", alpha: 0.1 } },
  { clients: 50, partition: { k: "dirichlet", alpha: 0.1 } },
  { clients: 200, partition: { k: "dirichlet", alpha: 0.1 } },
  { clients: 1000, partition: { k: "iid" } },
];
const spreadsOfOneLayer = allOfOneLayer.filter(({ clients }) => train.count >= LEAST_FOR_EACH * clients);

interface OneLayer {
  readonly before: number;
  readonly after: number;
  readonly average: number;
  readonly all: number;
  /** The largest difference of weights from those of all examples at once, by the largest of these. */
  readonly deviation: number;
}

function oneLayer(seed: number): readonly OneLayer[] {
  const features = randomFeatures({ inputs, width, seed });
  const statisticsOfSome = (numbers: Int32Array) => {
    const { x, y } = examplesOf(train, numbers);
    return statisticsOf(features(x), oneHot(y, classes, { dtype: "float64" }));
  };
  const judged = examplesOf(test, first(test.count));
  const judgedFeatures = features(judged.x);
  const accuracyOf = (weights: Value): number =>
    nn.accuracy(matmul(judgedFeatures, weights), judged.y).item();

  let sums = zeroStatistics(width, classes);
  for (let from = 0; from < train.count; from += AT_ONCE)
    sums = addStatistics(sums, statisticsOfSome(first(train.count).subarray(from, from + AT_ONCE)));
  const all = ridge(sums, GAMMA);

  return spreadsOfOneLayer.map(({ clients, partition }) => {
    let joint: RidgeModel | null = null;
    let average: Value = zeros([width, classes], { dtype: "float64" });
    for (const part of partitionExamples(partition, train.labels, clients, { seed })) {
      const model = ridgeModel(statisticsOfSome(part), GAMMA);
      joint = joint === null ? model : joinModels([joint, model]);
      average = add(average, mul(model.weights, part.length / train.count));
    }
    const after = removeGamma(joint!, GAMMA).weights;
    const result = {
      before: accuracyOf(joint!.weights),
      after: accuracyOf(after),
      average: accuracyOf(average),
      all: accuracyOf(all),
      deviation: div(max(abs(sub(after, all))), max(abs(all))).item(),
    };
    say(`${clients} clients, ${showPartition(partition)}, seed ${seed}: ${JSON.stringify(result)}`);
    return result;
  });
}

function afl(): void {
  const results = seeds.map(oneLayer);
  console.log(
    `\n${data.name}, ${train.count} images, ${width} random features, gamma ${GAMMA}, ${seeds.length} seeds: ` +
      "test accuracy in percent, mean ± deviation\n",
  );
  heading([
    "clients",
    "the law, with the gamma of all",
    "and with that of one",
    "weights averaged by examples",
    "all examples at once",
    "largest relative deviation of the law from that",
  ]);
  for (const [i, { clients, partition }] of spreadsOfOneLayer.entries()) {
    const of = (f: (one: OneLayer) => number): readonly number[] => results.map((seed) => f(seed[i]!));
    row([
      `${clients}, ${showPartition(partition)}`,
      ...[of((x) => x.before), of((x) => x.after), of((x) => x.average), of((x) => x.all)].map(cells),
      Math.max(...of((x) => x.deviation)).toExponential(0),
    ]);
  }
}

// --- models of one's own -----------------------------------------------------------------------------------------

const CHANNELS: readonly number[] = [16, 32];
const GROUPS: readonly number[] = [2, 4, 8];
/** Ridge of the heads of all and of groups. */
const HEAD_GAMMA = 100;
/** So large that the weights of a client stay those that it got. */
const KEPT = 1e12;

interface SpreadOfNetworks extends Spread {
  /** The first so many of the training data, or all if these are fewer. */
  readonly images: number;
}

const spreadsOfNetworks: readonly SpreadOfNetworks[] = [
  { clients: 40, partition: { k: "dirichlet", alpha: 0.5 }, images: 6000 },
  { clients: 20, partition: { k: "dirichlet", alpha: 0.1 }, images: 10_000 },
  { clients: 20, partition: { k: "shards", classes: 2 }, images: 10_000 },
];

/** Heads of clients, by what they are made of. */
const heads: readonly {
  readonly name: string;
  readonly options: Pick<PFedAcnnlOptions, "lambda" | "ridge" | "groups">;
}[] = [
  { name: "model of all", options: { lambda: KEPT } },
  { name: "own examples alone", options: { lambda: 0, ridge: Number(given.ridge) } },
  { name: `own, from that of all`, options: { lambda } },
  ...GROUPS.map((groups) => ({ name: `that of one of ${groups} groups`, options: { lambda: KEPT, groups } })),
  ...GROUPS.map((groups) => ({ name: `own, from that of one of ${groups}`, options: { lambda, groups } })),
];

type Method = FederatedMethod<never, never>;

/** The mean over clients of the accuracies on their own test examples, by each kind of head. */
function networks({ clients, partition, images }: SpreadOfNetworks, seed: number): readonly number[] {
  const parts = partitionExamples(partition, train.labels.subarray(0, images), clients, { seed });
  const own = splitOwn(parts, { seed });
  const learnt = own.map((each) => examplesOf(train, each.train));
  const judged = own.map((each) => examplesOf(train, each.test));
  const methods = heads.map(
    ({ options }) =>
      pfedacnnl({
        image,
        classes,
        layers: CHANNELS.map((channels) => ({ k: "conv", channels, kernel: 3 })),
        filters: given.filters as AnalyticFilters,
        headGamma: HEAD_GAMMA,
        seed,
        ...options,
      }) as Method,
  );
  const at = (client: number, round: number) => ({ round, client, clients });

  // All methods have the same hidden layers, and what clients send for the head is the same: only what becomes of it differs.
  const shared = methods[0]!;
  const last = shared.rounds - 1;
  const answersOf = (server: never, round: number): readonly Payload[] =>
    learnt.map(
      (client, i) =>
        shared.client(shared.initClient(i), client, shared.broadcast(server, round), at(i, round))[1],
    );
  let server = shared.initServer();
  for (let round = 0; round < last; round++) server = shared.server(server, answersOf(server, round), round);
  const answers = answersOf(server, last);

  return methods.map((method) => {
    const received = method.broadcast(method.server(server, answers, last), method.rounds);
    const accuracies = judged.map(({ x, y }, i) => {
      const model = method.personalize!(method.initClient(i), learnt[i]!, received, at(i, method.rounds));
      return nn.accuracy(method.scores(model, x), y).item();
    });
    return accuracies.reduce((sum, accuracy) => sum + accuracy, 0) / clients;
  });
}

function personal(): void {
  const results = spreadsOfNetworks.map((spread) =>
    seeds.map((seed) => {
      const accuracies = networks(spread, seed);
      const shown = accuracies.map((accuracy, i) => `${heads[i]!.name} ${percent(accuracy)}`);
      say(`${spread.clients} clients, ${showPartition(spread.partition)}, seed ${seed}: ${shown.join(", ")}`);
      return accuracies;
    }),
  );
  console.log(
    `\n${data.name}, filters ${CHANNELS.join(" and ")} (${given.filters}), lambda ${lambda}, ${seeds.length} seeds: mean over clients of the ` +
      "accuracy on a quarter of their examples, in percent, mean ± deviation\n",
  );
  heading(["clients", ...heads.map(({ name }) => name)]);
  for (const [i, { clients, partition, images }] of spreadsOfNetworks.entries()) {
    row([
      `${clients}, ${showPartition(partition)}, ${Math.min(images, train.count)} images`,
      ...heads.map((_, head) => cells(results[i]!.map((accuracies) => accuracies[head]!))),
    ]);
  }
}

const measured: Readonly<Record<string, () => void>> = { afl, personal };
const asked = given.only === undefined ? [afl, personal] : [measured[given.only]];
for (const part of asked) {
  if (part) part();
  else {
    console.error(
      `Cannot measure "${given.only}": it is no part, one of ${Object.keys(measured).join(", ")} is needed`,
    );
    process.exitCode = 2;
  }
}
