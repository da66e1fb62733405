/** `cotangent federated`: its flags, whose examples are whose, every method, and the program as a user starts it. */
import { expect, setDefaultTimeout, test } from "bun:test";
import {
  appendFileSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { UsageError } from "../../cli/config.ts";
import type { Split } from "../../cli/data/dataset.ts";
import { clientData, matchedTest, sharesOf } from "../../cli/federated/clients.ts";
import {
  type FederatedConfig,
  federatedFlags,
  federatedProblem,
  type MethodName,
  methodNames,
  parseFederatedFlags,
} from "../../cli/federated/config.ts";
import {
  appendRound,
  modelFiles,
  type RoundMetric,
  readRounds,
  writeModels,
  writeRounds,
} from "../../cli/federated/files.ts";
import { methodsOf } from "../../cli/federated/methods.ts";
import { federatedPage, histogram } from "../../cli/federated/page.ts";
import { type Recorder, recorderOf } from "../../cli/federated/recorder.ts";
import { howToContinue, roundToResume, wantedRun } from "../../cli/federated/resumed.ts";
import { type OpenedRun, openedRun, openFederated } from "../../cli/federated/run.ts";
import { evaluatedRounds, type FederatedSummary, summaryOf } from "../../cli/federated/summary.ts";
import * as io from "../../core/io.ts";
import type { AffineParams } from "../../core/nn/affine.ts";
import { mlp } from "../../core/nn/models.ts";
import { mean } from "../../core/ops.ts";
import type { Value } from "../../core/value.ts";
import { federatedModels } from "../../dist/federated/jobs.ts";
import { federatedBytes } from "../../dist/federated/plan.ts";
import { showBytes } from "../../dist/plan_cost.ts";
import { memoryStore } from "../../dist/runtime/driver.ts";
import { sameBits } from "../../dist/sim.ts";
import { mulberry32 } from "../optim/numbers.ts";
import { inProcess, noTimes, parse, pictures } from "./federated_support.ts";
import { checkpointOf, until, withPrograms, words } from "./program_support.ts";

// Programs are started, each with worker processes.
setDefaultTimeout(120_000);

function refusal(text: string): string {
  try {
    parse(text);
  } catch (error) {
    if (error instanceof UsageError) return error.message;
    throw error;
  }
  throw new Error(`not refused: ${text}`);
}

test("every flag refuses what it cannot be, by name, value and what is needed", () => {
  const wrong: Readonly<Record<string, readonly [value: string, needed: RegExp]>> = {
    method: ["fedsgd", /one of pfedacnnl, fedacnnl, deepafl, afl, fedavg, .*per-fedavg is needed/],
    data: ["imagenet", /one of glyphs, /],
    "train-limit": ["0", /at least 1/],
    "test-limit": ["x", /a whole number/],
    features: ["0", /at least 1/],
    clients: ["0", /at least 1/],
    partition: ["dirichlet", /dirichlet:ALPHA/],
    absent: ["1", /from 0 to below 1/],
    stragglers: ["2:0.5", /limit from 1/],
    rounds: ["1.5", /a whole number/],
    model: ["rnn", /one of mlp, cnn, logistic/],
    hidden: ["64,,2", /sizes such as/],
    epochs: ["0", /at least 1/],
    "local-steps": ["-1", /at least 1/],
    batch: ["0", /or full, is needed/],
    lr: ["0", /a positive number/],
    "personal-lr": ["slow", /a positive number/],
    alpha: ["-1", /a positive number/],
    hessian: ["half", /one of exact, ignored/],
    mu: ["0", /a positive number/],
    lambda: ["-1", /at least 0/],
    beta: ["0", /a positive number/],
    forget: ["3;7", /numbers of clients such as 3,7/],
    groups: ["0", /at least 1/],
    prior: ["heads", /one of weights, gram/],
    "own-layers": ["hidden", /one of head, all/],
    "hidden-lambda": ["-1", /at least 0/],
    ridge: ["-1", /at least 0/],
    gamma: ["-0.1", /at least 0/],
    message: ["statistics", /one of sums, model/],
    kept: ["all", /at least 0/],
    masked: ["1", /yes or no/],
    channels: ["8;16", /sizes such as 8,16/],
    filters: ["learned", /one of ls, shared, random, half/],
    width: ["0", /at least 1/],
    layers: ["0", /at least 1/],
    alone: ["maybe", /yes or no/],
    "eval-every": ["0", /at least 1/],
    workers: ["65", /from 1 to 64/],
    seed: ["-1", /at least 0/],
    runtime: ["threads", /one of sockets, local/],
  };
  const free = ["data-dir", "data-file", "label-column", "out", "resume"];
  expect([...Object.keys(wrong), ...free].sort()).toEqual(Object.keys(federatedFlags).sort());
  for (const [name, [value, needed]] of Object.entries(wrong)) {
    expect(refusal(`--${name} ${value}`)).toMatch(new RegExp(`^Cannot use --${name} ${value}: `));
    expect(refusal(`--${name} ${value}`)).toMatch(needed);
  }
});

test("slips and what would change nothing are told", () => {
  expect(refusal("--metod fedavg")).toContain("did you mean --method?");
  expect(refusal("--mu 0.1")).toBe("Cannot use --mu: it would change nothing, --method fedprox is needed");
  expect(refusal("--method fedavg --gamma 1")).toContain(
    "--gamma: it would change nothing, --method fedacnnl, pfedacnnl, afl or deepafl is needed",
  );
  expect(refusal("--method fedavg --model cnn --hidden 8")).toContain("--model mlp is needed");
  expect(refusal("--data-dir there")).toContain("another --data than glyphs is needed");
  expect(refusal("--workers 3 --clients 2")).toContain("there are 2 clients");
  // Nobody asked for two.
  expect(parse("--clients 1").workers).toBe(1);
  expect(parse("--clients 3").workers).toBe(2);
  expect(refusal("--workers 2 --clients 1")).toContain("there is 1 client,");
  expect(refusal("--method pfedme --lambda 0")).toContain("a positive number is needed");
  expect(refusal("--lr 1 --rounds x")).toContain("Cannot use --rounds x");
});

test("a configuration is what the flags say, and survives its file", () => {
  const config = parse(
    "--method ditto --lambda 0.5 --clients 7 --partition shards:2 --absent 0.2 --stragglers 2:2.5 --hidden 8,4 --alone no --batch full",
  );
  expect(config).toMatchObject({
    method: "ditto",
    lambda: 0.5,
    clients: 7,
    partition: "shards:2",
    absent: 0.2,
    stragglers: "2:2.5",
    hidden: [8, 4],
    alone: false,
    batch: "full",
    workers: 2,
  });
  for (const method of methodNames) {
    const own = parse(`--method ${method}`);
    expect(federatedProblem(JSON.parse(JSON.stringify(own)))).toBeNull();
  }
  expect(federatedProblem(JSON.parse(JSON.stringify(config)))).toBeNull();
  expect(federatedProblem({ ...config, clients: 0 })).toBe('its "clients" is 0');
  expect(federatedProblem({ ...config, speed: 1 })).toBe('its "speed" is 1');
  expect(federatedProblem({ method: "fedavg" })).toContain("lacks");
});

const splitOf = (labels: readonly number[]): Split => ({
  features: Float32Array.from({ length: 2 * labels.length }, (_, i) => i),
  labels: Int32Array.from(labels),
  count: labels.length,
});

test("clients share the test data as they share each class of the training data", () => {
  const train = Int32Array.from({ length: 200 }, (_, i) => i % 4);
  const test_ = Int32Array.from({ length: 90 }, (_, i) => i % 5);
  const { train: parts } = sharesOf(
    { partition: "dirichlet:0.3", clients: 6, seed: 3 },
    {
      train: splitOf([...train]),
      test: splitOf([...test_]),
    },
  );
  const shares = matchedTest(parts, train, test_);
  // Everything that has a class of the training data is somebody's, once.
  const given = shares.flatMap((share) => [...share]).sort((a, b) => a - b);
  expect(given).toEqual([...test_.keys()].filter((i) => test_[i] !== 4));
  shares.forEach((share, client) => {
    for (let label = 0; label < 4; label++) {
      const own = [...parts[client]!].filter((i) => train[i] === label).length;
      const tested = [...share].filter((i) => test_[i] === label).length;
      // Of 18 examples the share of 50, up to the rounding of its two ends.
      expect(Math.abs(tested - (own / 50) * 18)).toBeLessThanOrEqual(1);
      if (own === 0) expect(tested).toBe(0);
    }
  });
});

test("the examples of a client are those of its numbers", () => {
  const [train, test_] = [splitOf([0, 1, 0, 1]), splitOf([1, 0, 1])];
  const data = { name: "toy", exampleShape: [2], classes: 2, train, test: test_ };
  const shares = {
    train: [Int32Array.of(0, 3), Int32Array.of(1, 2)],
    test: [Int32Array.of(1), new Int32Array(0)],
  };
  const clients = clientData(data, shares);
  expect([...clients.train(0).x.dataSync()]).toEqual([0, 1, 6, 7]);
  expect([...clients.train(1).y.dataSync()]).toEqual([1, 0]);
  expect([...clients.test(0)!.x.dataSync()]).toEqual([2, 3]);
  expect(clients.test(1)).toBeNull();
  const image = clientData({ ...data, exampleShape: [1, 2] }, shares);
  expect(image.train(0).x.shape).toEqual([2, 1, 1, 2]);
  expect(() => sharesOf({ partition: "iid", clients: 9, seed: 0 }, data)).toThrow(UsageError);
});

test("methods that need images say so, and are what they are called", () => {
  const rows = { name: "rows", exampleShape: [5], classes: 2 };
  expect(() => methodsOf(parse("--method fedacnnl"), rows)).toThrow("images are needed");
  expect(() => methodsOf(parse("--method fedavg --model cnn"), rows)).toThrow(UsageError);
  const small = { name: "small", exampleShape: [3, 3], classes: 2 };
  expect(() => methodsOf(parse("--channels 4,4,4"), small)).toThrow(UsageError);
  const names: Readonly<Record<MethodName, string>> = {
    pfedacnnl: "pFedACnnL",
    fedacnnl: "FedACnnL",
    deepafl: "DeepAFL",
    afl: "AFL",
    fedavg: "FedAvg",
    fedprox: "FedProx",
    ditto: "Ditto",
    pfedme: "pFedMe",
    "per-fedavg": "Per-FedAvg",
  };
  const images = { name: "images", exampleShape: [8, 8], classes: 2 };
  for (const method of methodNames) {
    const made = methodsOf(parse(`--method ${method}`), images);
    expect(made.method.name).toBe(names[method]);
    expect(made.alone).not.toBeNull();
    expect(methodsOf(parse(`--method ${method} --alone no`), images).alone).toBeNull();
  }
});

const tiny = "--clients 3 --partition iid --workers 1 --runtime local --absent 0.3";

const bars = pictures(60, (i) => ((i * 7) % 11) / 11);

for (const method of methodNames) {
  test(`${method}: a small run is summed up, and what is counted is the formula`, async () => {
    const own = {
      pfedacnnl: "--channels 3 --filters half",
      fedacnnl: "--channels 3",
      deepafl: "--width 12 --layers 1",
      afl: "--width 12",
      fedavg: "--rounds 2 --hidden 4",
      fedprox: "--rounds 2 --hidden 4 --mu 1",
      ditto: "--rounds 2 --model logistic --epochs 1",
      pfedme: "--rounds 2 --model logistic --local-steps 40",
      "per-fedavg": "--rounds 2 --hidden 4 --local-steps 20 --hessian ignored",
    }[method];
    const run = openedRun(parse(`--method ${method} ${tiny} ${own}`), bars);
    const result = await inProcess(run);
    const summary = summaryOf(run, result, noTimes, modelFiles(run, true));
    expect(summary).toMatchObject({ complete: true, rounds: run.plan.rounds, wire: null, notAlone: 0 });
    // Of three classes a third is right by chance. Own models of clients that were away have seen less.
    const { global, alone, personal } = summary.accuracy;
    expect(global).toBeGreaterThan(2 / 3);
    expect(alone).toBeGreaterThan(2 / 3);
    if (personal !== null) expect(personal).toBeGreaterThan(1 / 2);
    const isPersonal = ["pfedacnnl", "ditto", "pfedme", "per-fedavg"].includes(method);
    expect(personal === null).toBe(!isPersonal);
    expect(summary.clients.reduce((sum, client) => sum + client.testExamples, 0)).toBe(30);
    for (const { formula, received, sent, receivedAtEnd } of summary.clients) {
      expect({ received, sent, receivedAtEnd }).toEqual(formula);
      expect(receivedAtEnd).toBeGreaterThan(0);
    }
    if (run.plan.rounds === 1) return;
    // Stopped after the first round, and continued from what was saved.
    const store = memoryStore();
    const stopped = await inProcess(run, { store, stopAfter: 1 });
    expect([stopped.reason, stopped.round]).toEqual(["stopped", 1]);
    const half = summaryOf(run, stopped, noTimes, modelFiles(run, false));
    for (const { formula, received, sent, receivedAtEnd } of half.clients)
      expect({ received, sent, receivedAtEnd }).toEqual(formula);
    const resumed = await inProcess(run, { store, firstRound: 1 });
    expect(sameBits([resumed.hub, resumed.workers], [result.hub, result.workers])).toBe(true);
    expect(summaryOf(run, resumed, noTimes, modelFiles(run, true)).clients).toEqual(summary.clients);
    // All that is missing is the end.
    const ended = await inProcess(run, { store, firstRound: run.plan.rounds });
    expect(ended).toMatchObject({ reason: "finished", round: run.plan.rounds });
    expect(sameBits([ended.hub, ended.workers], [result.hub, result.workers])).toBe(true);
  });
}

test("a finished run that goes on for more rounds is the longer run", async () => {
  const flags = `--method ditto ${tiny} --model logistic --epochs 1 --eval-every 2 --rounds`;
  const [short, long] = [2, 5].map((rounds) => openedRun(parse(`${flags} ${rounds}`), bars));
  const store = memoryStore();
  expect((await inProcess(short!, { store })).reason).toBe("finished");
  // In between it has no end: nobody has a model of its own, and nothing was sent for one.
  const stopped = await inProcess(long!, { store, firstRound: 2, stopAfter: 3 });
  expect(federatedModels(long!.plan, long!.methods.method, stopped).clients).toEqual([]);
  const { clients } = summaryOf(long!, stopped, noTimes, modelFiles(long!, false));
  expect(clients.map(({ receivedAtEnd, model }) => [receivedAtEnd, model])).toEqual(
    clients.map(() => [0, null]),
  );
  const longer = await inProcess(long!, { store, firstRound: 3 });
  const whole = await inProcess(long!);
  expect(sameBits([longer.hub, longer.workers], [whole.hub, whole.workers])).toBe(true);
  // And so it is in files: own models of an earlier end are not left beside a later model of all.
  const dir = mkdtempSync(join(tmpdir(), "cotangent-models-"));
  try {
    await writeModels(dir, long!, whole);
    expect(readdirSync(dir).sort()).toEqual(["clients", "model.safetensors"]);
    expect(readdirSync(join(dir, "clients")).length).toBe(3);
    await writeModels(dir, long!, stopped);
    expect(readdirSync(dir)).toEqual(["model.safetensors"]);
    const { tree, metadata } = await io.load(join(dir, "model.safetensors"));
    expect([sameBits(tree, stopped.hub["server"]), metadata["rounds"]]).toEqual([true, "3"]);
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
});

test("clients that cannot be trained alone cost the run nothing else, and are named with the reason", async () => {
  const flags = `--method afl ${tiny} --absent 0 --clients 5 --width 16 --gamma`;
  // Noise of both signs: no feature is 0 everywhere.
  const uniform = mulberry32(5);
  const noisy = (split: Split): Split => ({
    ...split,
    features: split.features.map((pixel) => pixel + 2 * uniform() - 1.5),
  });
  const data = { ...bars, train: noisy(bars.train), test: noisy(bars.test) };
  const summaryWith = async (gamma: number) => {
    const run = openedRun(parse(`${flags} ${gamma}`), data);
    return summaryOf(run, await inProcess(run), noTimes, modelFiles(run, true));
  };
  // 12 examples of each client do not determine the weights of 16 features, 60 of all do.
  const [singular, well] = [await summaryWith(0), await summaryWith(1)];
  expect([singular.notAlone, well.notAlone]).toEqual([5, 0]);
  expect(singular.complete).toBe(true);
  expect(singular.accuracy.global).toBeGreaterThan(1 / 3);
  expect(singular.accuracy.alone).toBeNull();
  expect(well.accuracy.alone).toBeGreaterThan(1 / 3);
  for (const { alone, aloneProblem } of singular.clients) {
    expect(alone).toBeNull();
    expect(aloneProblem).toContain("with gamma 0 the matrix of 16 features is singular");
  }
  const page = federatedPage("run", singular);
  expect(page).toContain("<li>clients 0, 1, 2, 3, 4: Cannot solve the model of AFL: with gamma 0");
  expect(federatedPage("run", well)).not.toContain("could not be trained alone");
});

test("the histogram counts every client once, in the twentieth in which its accuracy is", () => {
  const ofAll = (accuracies: readonly (number | null)[]) =>
    histogram(accuracies.map((global) => ({ global, personal: null, alone: null })));
  /** The counts by number of the bin, those that are not 0. */
  const filled = (accuracies: readonly number[]) =>
    Object.fromEntries(ofAll(accuracies).curves[0]!.y.flatMap((count, bin) => (count ? [[bin, count]] : [])));

  expect(filled([0])).toEqual({ 0: 1 });
  expect(filled([1])).toEqual({ 19: 1 });
  expect(filled([0, 1, 0, 1, 1])).toEqual({ 0: 2, 19: 3 });
  expect(filled([0.62])).toEqual({ 12: 1 });
  expect(filled(new Array<number>(7).fill(1 / 3))).toEqual({ 6: 7 });
  // A border is the first of the bin above it.
  expect(filled([0.0499, 0.05, 0.0501, 0.0999, 0.1, 0.9499, 0.95, 0.9999])).toEqual({
    0: 1,
    1: 3,
    2: 1,
    18: 1,
    19: 2,
  });
  for (let examples = 1; examples <= 100; examples++) {
    for (let right = 0; right <= examples; right++) {
      const bin = Math.min(19, (20 * right - ((20 * right) % examples)) / examples);
      expect(filled([right / examples])).toEqual({ [bin]: 1 });
    }
  }

  // Clients without test examples have no accuracy; models that no client has, no curve.
  const plot = ofAll([0.2, null, 0.7, 0.71]);
  expect(plot.x.map((x) => Math.round(1e9 * x))).toEqual(
    Array.from({ length: 20 }, (_, bin) => 1e9 * 0.025 + bin * 5e7),
  );
  expect(plot.curves.map(({ name }) => name)).toEqual(["model of all"]);
  expect(ofAll([null]).curves).toEqual([]);
  const uniform = mulberry32(7);
  const clients = Array.from({ length: 50 }, () => ({
    global: uniform(),
    personal: uniform(),
    alone: uniform() < 0.5 ? null : uniform(),
  }));
  const { curves } = histogram(clients);
  const sums = curves.map(({ name, y }) => [name, y.reduce<number>((all, count) => all + count!, 0)]);
  expect(sums).toEqual([
    ["model of all", 50],
    ["own model", 50],
    ["alone", clients.filter(({ alone }) => alone !== null).length],
  ]);
});

/** What a program with these flags runs, for a run in this process. */
const openedHere = (flags: readonly string[]): Promise<OpenedRun> =>
  openFederated(parseFederatedFlags([...flags, "--runtime", "local"]).config, () => {});

const small = words(
  "--train-limit 200 --test-limit 100 --clients 5 --partition dirichlet:1 --seed 3 --absent 0.2",
);
const read = (run: string): FederatedSummary =>
  JSON.parse(readFileSync(join(run, "summary.json"), "utf8")) as FederatedSummary;

test("worker processes leave what one process does, and a directory of results", async () => {
  await withPrograms(async (dir, start) => {
    const flags = ["federated", "--method", "ditto", "--rounds", "4", "--eval-every", "2", ...small];
    const [one, two] = await Promise.all([
      start([...flags, "--runtime", "local", "--out", "local"]).ended,
      start(flags).ended,
    ]);
    expect([one.code, two.code, one.err, two.err].slice(0, 2)).toEqual([0, 0]);
    const run = join(dir, "runs/federated-glyphs-ditto");
    expect(readdirSync(run).sort()).toEqual([
      "checkpoint.safetensors",
      "clients",
      "config.json",
      "metrics.jsonl",
      "model.safetensors",
      "report.html",
      "state",
      "summary.json",
    ]);
    expect(two.out).toContain(
      "results in runs/federated-glyphs-ditto: summary.json, metrics.jsonl, model.safetensors (the model of all), clients/client-000.safetensors and so on (own models), ",
    );
    expect(two.out).toMatch(/model of all \d+\.\d\d%, own models \d+\.\d\d%, each alone \d+\.\d\d%/);
    expect(two.err).toContain("Ditto, 4 rounds on 2 worker processes");
    expect(checkpointOf(run)).toBe(checkpointOf(join(dir, "local")));
    const [spread, local] = [read(run), read(join(dir, "local"))];
    expect(spread.clients).toEqual(local.clients);
    expect(spread.curve.map(({ rounds }) => rounds)).toEqual([2, 4]);
    expect(local.wire).toBeNull();
    const sent = spread.clients.reduce((sum, client) => sum + client.sent, 0);
    // Answers come back from each client, to two processes go four messages, and at two evaluations the model and a message: one size.
    const wire = spread.wire!;
    const size = spread.clients[0]!.receivedAtEnd;
    for (const [payload, bytes, values] of [
      [wire.payloadReceived, wire.received, sent],
      [wire.payloadSent, wire.sent, 2 * (4 + 2 * 2) * size],
    ] as const) {
      expect(payload).toBeGreaterThan(values);
      // Names and shapes of tensors, and the scores.
      expect(payload).toBeLessThan(1.01 * values);
      expect(bytes).toBeGreaterThan(payload);
      expect(bytes).toBeLessThan(1.005 * payload);
    }
    const got = spread.clients.reduce((sum, client) => sum + client.received + client.receivedAtEnd, 0) / 5;
    expect(spread.clients[0]!.receivedAtEnd).toBeGreaterThan(0);
    expect(two.out).toContain(`a client got ${showBytes(got)} and sent ${showBytes(sent / 5)}`);
    const page = readFileSync(join(run, "report.html"), "utf8");
    for (const text of ["Clients by accuracy", "Accuracy over rounds", "Accuracy over time", "by formula"])
      expect(page).toContain(text);

    // Models from files are as right as the summary says.
    const opened = await openedHere(flags.slice(1));
    const { method } = opened.methods;
    const right = (scores: Value, y: Value): number =>
      mean(scores.argmax({ axis: 1 }).equal(y).astype("float64")).item();
    const { tree, metadata } = await io.load<readonly AffineParams[]>(join(run, spread.model!));
    expect(metadata).toEqual({ method: "Ditto", task: "glyphs", rounds: "4" });
    for (const [client, { model, personal, global, testExamples }] of spread.clients.entries()) {
      const own = await io.load(join(run, model!));
      expect([model, own.metadata["client"]]).toEqual([
        `clients/client-00${client}.safetensors`,
        String(client),
      ]);
      expect(readFileSync(join(dir, "local", model!)).equals(readFileSync(join(run, model!)))).toBe(true);
      if (testExamples === 0) continue;
      const { x, y } = opened.clients.test(client)!;
      expect(right(method.scores(own.tree, x), y)).toBeCloseTo(personal!, 12);
      // Of gradient methods they are parameters of the network.
      const rows = x.reshape([x.shape[0]!, -1]);
      const network = mlp([rows.shape[1]!, 64, opened.data.classes]);
      expect(right(network.apply(tree, rows), y)).toBeCloseTo(global!, 12);
    }
  });
});

test("killed in any round, a run is resumed to the same bits", async () => {
  await withPrograms(async (dir, start) => {
    const rounds = 18;
    const flags = words(
      `--method pfedme --model logistic --local-steps 2 --alone no --rounds ${rounds} --eval-every 3`,
    );
    const at = 1 + Math.floor(Math.random() * (rounds / 2));
    const run = join(dir, "run");
    const first = start(["federated", ...flags, ...small, "--out", "run"]);
    await until(first, () => readRounds(run, rounds).length >= at);
    first.kill();
    expect((await first.ended).code).not.toBe(0);
    expect(existsSync(join(run, "summary.json"))).toBe(false);
    const second = await start(["federated", "--resume", "run"]).ended;
    expect([at, second.code, second.err]).toEqual([at, 0, second.err]);
    expect(second.err).toMatch(new RegExp(`^resuming at round \\d+ of ${rounds}$`, "m"));

    const opened = await openedHere([...flags, ...small]);
    const whole = await inProcess(opened);
    const expected = summaryOf(opened, whole, noTimes, modelFiles(opened, true));
    const summary = read(run);
    expect(summary).toMatchObject({ complete: true, rounds });
    expect([summary.accuracy, summary.clientMean]).toEqual([expected.accuracy, expected.clientMean]);
    expect(summary.clients).toEqual([...expected.clients]);
    expect(summary.wire!.fromRound).toBeGreaterThanOrEqual(at - 1);
    const models = federatedModels(opened.plan, opened.methods.method, whole);
    const load = async (name: string): Promise<unknown> => (await io.load(join(run, name))).tree;
    expect(sameBits(await load(summary.model!), models.global)).toBe(true);
    expect(sameBits(await load("checkpoint.safetensors"), whole.hub["server"])).toBe(true);
    for (const [client, { model }] of summary.clients.entries())
      expect(sameBits(await load(model!), models.clients[client])).toBe(true);
    const metrics = readFileSync(join(run, "metrics.jsonl"), "utf8").trim().split("\n");
    expect(metrics.map((line) => (JSON.parse(line) as RoundMetric).round)).toEqual([...Array(rounds).keys()]);
    expect(summary.curve.map((point) => point.rounds)).toEqual([3, 6, 9, 12, 15, 18]);
    const seconds = summary.curve.map((point) => point.seconds);
    expect(seconds).toEqual(seconds.toSorted((a, b) => a - b));
  });
});

test("Ctrl-C finishes the round, sums up and exits with 130", async () => {
  await withPrograms(async (dir, start) => {
    const flags = [
      "federated",
      "--method",
      "fedavg",
      "--rounds",
      "100000",
      "--out",
      "run",
      "--alone",
      "no",
      ...small,
    ];
    const program = start(flags);
    await until(program, () => /round [1-9]\d*\/100000/.test(program.err()));
    program.interrupt();
    const { code, out, err } = await program.ended;
    expect(code).toBe(130);
    expect(err).toContain("finishing this round");
    expect(out).toMatch(/^stopped after \d+ rounds? /);
    const summary = read(join(dir, "run"));
    expect(summary.complete).toBe(false);
    expect(summary.rounds).toBeGreaterThan(0);
    for (const { formula, received, sent } of summary.clients)
      expect({ received, sent }).toMatchObject({ received: formula.received, sent: formula.sent });
    expect(out).toContain("continue with --resume run");

    const rounds = summary.rounds + 2;
    const resumed = await start([
      "federated",
      "--resume",
      "run",
      ...words(`--rounds ${rounds} --runtime local`),
    ]).ended;
    expect([resumed.code, resumed.err]).toEqual([0, resumed.err]);
    expect(resumed.err).toContain(`resuming at round ${summary.rounds} of ${rounds}`);
    const whole = await inProcess(
      await openedHere(["--method", "fedavg", "--rounds", String(rounds), "--alone", "no", ...small]),
    );
    expect(sameBits((await io.load(join(dir, "run/model.safetensors"))).tree, whole.hub["server"])).toBe(
      true,
    );
    const longer = read(join(dir, "run"));
    expect(longer).toMatchObject({ complete: true, rounds });
    // Of 100000 rounds every ten thousandth was to be evaluated, and so it stays.
    expect(longer.curve.map((point) => point.rounds)).toEqual([rounds]);
  });
});

test("a second Ctrl-C ends it at once, and what takes long is shown meanwhile", async () => {
  await withPrograms(async (dir, start) => {
    const long = ["--method", "fedavg", "--rounds", "2", "--epochs", "10000000", "--alone", "no"];
    const program = start(["federated", ...long, "--out", "run", ...small]);
    await until(program, () => /round 0\/2 {2}training: \d+ s/.test(program.err()));
    program.interrupt();
    await until(program, () => program.err().includes("press Ctrl-C again"));
    program.interrupt();
    expect((await program.ended).code).toBe(130);
    // It can be resumed.
    expect(wantedRun(["--resume", join(dir, "run")]).config).toMatchObject({ rounds: 2, epochs: 10_000_000 });
    expect(readdirSync(join(dir, "run")).sort()).toEqual(["config.json", "state"]);
  });
});

test("a round that is done again after a fault is counted and drawn once", () => {
  const config = parse("--method ditto --rounds 2 --clients 3 --eval-every 1 --model logistic");
  const { plan, methods } = openedRun({ ...config, runtime: "local" }, bars);
  const shown: string[] = [];
  const line = { show: (text: string) => shown.push(text), note: () => {}, end: () => {} };
  const written: RoundMetric[] = [];
  const recorder = recorderOf({ config, plan, methods }, line, [], (metric) => written.push(metric));
  const takeBy =
    (by: Recorder) =>
    (round: number, phase: string, ...hub: number[]): void => {
      const isLast = phase === "evaluate" || phase === "finish";
      by.take({ k: "progress", round, phase, hub, attempt: 0, iteration: 0, isLast, workers: [] });
    };
  const take = takeBy(recorder);
  const round = (at: number, right: number, takes = take): void => {
    takes(at, "broadcast");
    takes(at, "train", 3);
    takes(at, "prepare");
    takes(at, at === 1 ? "finish" : "evaluate", 30, right, right + 1, Number.NaN);
  };
  round(0, 10);
  take(1, "broadcast");
  take(1, "train", 3);
  const whole = shown.at(-1)!;
  take(1, "broadcast");
  take(1, "train", 3);
  expect(shown.at(-1)).toBe(whole);
  round(1, 21);
  round(1, 21);
  recorder.end();
  const { curve } = recorder.times();
  expect(curve.map(({ rounds, global, personal }) => [rounds, global, personal])).toEqual([
    [1, 10 / 30, 11 / 30],
    [2, 21 / 30, 22 / 30],
  ]);
  const all = federatedBytes(plan, methods.method).reduce(
    (sum, { received, sent, receivedAtEnd }) => sum + received + sent + receivedAtEnd,
    0,
  );
  const last = `round 2/2  accuracy 70.00%, own models 73.33%  clients got and sent ${showBytes(all)}`;
  expect(shown.at(-1)).toBe(last);
  expect(written.map((metric) => metric.round)).toEqual([0, 1]);
  // Resumed after the first round, it counts on.
  const second = recorderOf({ config, plan, methods }, line, written.slice(0, 1), () => {});
  round(1, 21, takeBy(second));
  second.end();
  expect(shown.at(-1)).toBe(last);
  expect(second.times().curve.map(({ rounds, global }) => [rounds, global])).toEqual([
    [1, 10 / 30],
    [2, 21 / 30],
  ]);
  expect(second.times().seconds).toBeGreaterThanOrEqual(written[0]!.seconds);
});

test("rounds in a file are read once each, without a torn line and those that will run again", async () => {
  const dir = mkdtempSync(join(tmpdir(), "cotangent-rounds-"));
  try {
    expect(readRounds(dir, 9)).toEqual([]);
    const rounds = [0, 1, 2].map((round) => ({ round, clients: 3, seconds: round, bytes: 10 * round }));
    for (const metric of [...rounds, { ...rounds[2]!, seconds: 7 }]) appendRound(dir, metric);
    appendFileSync(join(dir, "metrics.jsonl"), '{"round":3');
    expect(readRounds(dir, 9)).toEqual(rounds);
    expect(readRounds(dir, 2)).toEqual(rounds.slice(0, 2));
    await writeRounds(dir, rounds.slice(0, 1));
    expect(readRounds(dir, 9)).toEqual(rounds.slice(0, 1));
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
});

test("what is no run, has ended or may not change cannot be resumed, and says so", async () => {
  const dir = mkdtempSync(join(tmpdir(), "cotangent-resume-"));
  const refusalOf = async (attempt: () => unknown): Promise<string> => {
    try {
      await attempt();
    } catch (error) {
      if (error instanceof UsageError) return error.message.replaceAll(dir, "DIR");
      throw error;
    }
    throw new Error("not refused");
  };
  const write = (name: string, json: unknown): void => writeFileSync(join(dir, name), JSON.stringify(json));
  const wanted = (text: string) => wantedRun(["--resume", dir, ...words(text)]);
  try {
    expect(await refusalOf(() => wanted(""))).toMatch(
      /^Cannot use the run in DIR: DIR\/config.json does not exist, /,
    );
    write("config.json", { optimizer: "adam", data: "glyphs" });
    expect(await refusalOf(() => wanted(""))).toMatch(/is of something else \(it lacks "method"\), /);
    expect(await refusalOf(() => wantedRun(["--out", dir]))).toContain("use --resume DIR to continue a run");

    const config = parse(`--method fedavg --rounds 4 ${tiny}`);
    write("config.json", config);
    expect(await refusalOf(() => wanted("--seed 1"))).toBe(
      "Cannot use --seed with --resume: a resumed run keeps its configuration, only --rounds, --lr, --gamma, --lambda, --runtime may change",
    );
    expect(await refusalOf(() => wanted("--out other"))).toMatch(/^Cannot use --out with --resume/);
    expect(await refusalOf(() => wanted("--gamma 2"))).toBe(
      "Cannot use --gamma: it would change nothing, --method fedacnnl, pfedacnnl, afl or deepafl is needed",
    );
    expect(wanted("--rounds 9 --lr 0.5 --runtime sockets")).toEqual({
      config: {
        ...(JSON.parse(JSON.stringify(config)) as FederatedConfig),
        rounds: 9,
        lr: 0.5,
        runtime: "sockets",
      },
      out: undefined,
      resumed: dir,
    });

    const store = memoryStore();
    const next = (text: string) => roundToResume(dir, openedRun(parse(`${text} ${tiny}`), bars), store);
    const four = "--method fedavg --rounds 4";
    expect(await next(four)).toBe(0);
    const save = (round: number) => store.put("hub", round, { round, attempt: 0 }, {});
    for (const round of [2, 3]) await save(round);
    expect(await next(four)).toBe(3);
    // The end of a run comes with its last round, and the third was not to be it.
    expect(await refusalOf(() => next("--method fedavg --rounds 3"))).toBe(
      "Cannot resume DIR: 3 rounds are done, more --rounds are needed",
    );
    const advice = (text: string) => howToContinue(dir, openedRun(parse(`${text} ${tiny}`), bars), store);
    expect(await advice(four)).toEndWith(
      `round 3: continue it with --resume ${dir}, where --lr may be changed`,
    );
    expect(await advice("--method pfedacnnl --channels 3")).toContain("where --gamma and --lambda may be");
    // Killed while the end was written.
    await save(4);
    expect(await next(four)).toBe(4);
    write("summary.json", { rounds: 4, complete: true });
    expect(await refusalOf(() => next(four))).toBe(
      "Cannot resume DIR: 4 rounds are done, more --rounds are needed",
    );
    expect(await refusalOf(() => next("--method fedavg --rounds 3"))).toContain("4 rounds are done, more");
    expect(await next("--method fedavg --rounds 6")).toBe(4);
    for (const round of [2, 3, 4]) await store.drop("hub", round);
    expect(await refusalOf(() => next("--method fedavg --rounds 6"))).toBe(
      "Cannot resume DIR: 4 rounds are done and the saves in DIR/state are gone, they are needed",
    );
    write("summary.json", { rounds: 1, complete: true });
    expect(await refusalOf(() => next("--method afl --rounds 3"))).toContain("1 round is done and the saves");
    const ended = "are done, a run that was interrupted is needed";
    expect(await refusalOf(() => next("--method deepafl"))).toBe(
      `Cannot resume DIR: all rounds of DeepAFL ${ended}`,
    );
    expect(await refusalOf(() => next("--method afl --rounds 3 --forget 1"))).toEndWith(ended);
    await save(1);
    expect(await next("--method afl --rounds 3")).toBe(1);
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
});

test("wrong words leave nothing behind, and --help lists every flag", async () => {
  await withPrograms(async (dir, start) => {
    const wrong = [["--clients", "70", "--train-limit", "60"], ["--method", "fedsgd"], ["worker"]];
    for (const args of wrong) {
      const { code, err } = await start(["federated", ...args]).ended;
      expect([args, code]).toEqual([args, 2]);
      expect(err).toStartWith("Cannot ");
    }
    const help = await start(["federated", "--help"]).ended;
    for (const [name, { value }] of Object.entries(federatedFlags))
      expect(help.out).toContain(`--${name} ${value}`);
    expect(readdirSync(dir)).toEqual([]);
  });
});

test("the page of a run without tests or curves is still one", () => {
  const summary: FederatedSummary = {
    task: "<toy>",
    method: "AFL",
    partition: "iid",
    workers: 1,
    rounds: 1,
    seconds: 1,
    endSeconds: 0,
    accuracy: { global: null, personal: null, alone: null },
    clientMean: { global: null, personal: null, alone: null },
    joined: null,
    forgotten: null,
    masked: null,
    wire: null,
    peakMemoryBytes: 1,
    seed: 0,
    complete: false,
    curve: [],
    notAlone: 0,
    model: null,
    clients: [
      {
        model: null,
        aloneProblem: null,
        trainExamples: 3,
        testExamples: 0,
        global: null,
        personal: null,
        alone: null,
        received: 1,
        sent: 2,
        receivedAtEnd: 0,
        formula: { received: 1, sent: 2, receivedAtEnd: 0 },
      },
    ],
  };
  const page = federatedPage("run", summary);
  expect(page).toContain("&#60;toy&#62;");
  expect(page).toContain("(stopped)");
  expect(page).not.toContain("NaN");
  const at = { rounds: 3, seconds: 1, global: 0.5, personal: null, alone: null };
  const stopped = { ...summary, rounds: 5, curve: [at] };
  expect([evaluatedRounds(summary), evaluatedRounds(stopped)]).toEqual([null, 3]);
  expect(federatedPage("run", stopped)).toContain("<th>evaluated after round</th><td>3</td>");
});
