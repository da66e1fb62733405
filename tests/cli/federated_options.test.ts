/** `cotangent federated`: options of single methods, from flags to the method, and clients that come late, leave or mask. */
import { expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { UsageError } from "../../cli/config.ts";
import { type FederatedConfig, federatedProblem } from "../../cli/federated/config.ts";
import { modelFiles, readRounds } from "../../cli/federated/files.ts";
import { deviationOf } from "../../cli/federated/forgotten.ts";
import { MASKED_BITS, methodsOf } from "../../cli/federated/methods.ts";
import { federatedPage } from "../../cli/federated/page.ts";
import { presentNumbers } from "../../cli/federated/presence.ts";
import { remarksOf } from "../../cli/federated/remarks.ts";
import { wantedRun } from "../../cli/federated/resumed.ts";
import { type FederatedResult, type OpenedRun, openedRun, openFederated } from "../../cli/federated/run.ts";
import { type FederatedSummary, summaryOf } from "../../cli/federated/summary.ts";
import * as io from "../../core/io.ts";
import { abs, max, norm, sub } from "../../core/ops.ts";
import { leaves } from "../../core/tree.ts";
import type { Value } from "../../core/value.ts";
import { type AflServer, afl, randomFeatures } from "../../dist/federated/afl.ts";
import { federatedModels, federatedSetup } from "../../dist/federated/jobs.ts";
import { type PFedAcnnlOptions, pfedacnnl } from "../../dist/federated/personal.ts";
import { memoryStore } from "../../dist/runtime/driver.ts";
import { runSequential } from "../../dist/runtime/sequential.ts";
import { sameBits } from "../../dist/sim.ts";
import { mulberry32 } from "../optim/numbers.ts";
import { inProcess, noTimes, parse, pictures } from "./federated_support.ts";
import { checkpointOf, until, withPrograms, words } from "./program_support.ts";

// Programs are started, each with worker processes.
setDefaultTimeout(120_000);

async function refusal(attempt: () => unknown): Promise<string> {
  try {
    await attempt();
  } catch (error) {
    if (error instanceof UsageError) return error.message;
    throw error;
  }
  throw new Error("not refused");
}

const uniform = mulberry32(1);
const bars = pictures(120, () => 2 * uniform() - 1);

const open = (text: string): OpenedRun =>
  openedRun(parse(`${text} --workers 1 --runtime local --alone no`), bars);

const summed = (run: OpenedRun, result: FederatedResult): FederatedSummary =>
  summaryOf(run, result, noTimes, modelFiles(run, true));
const serverOf = async (run: OpenedRun): Promise<AflServer> =>
  (await inProcess(run)).hub["server"] as AflServer;
const relative = (x: Value, y: Value): number => norm(sub(x, y)).item() / norm(y).item();

test("options that would change nothing or cannot be together are refused by name", async () => {
  const cases: Readonly<Record<string, string>> = {
    "--method fedacnnl --groups 2": "--groups: it would change nothing, --method pfedacnnl is needed",
    "--method fedacnnl --ridge 1": "--ridge: it would change nothing, --method pfedacnnl is needed",
    "--clients 4 --groups 5": "Cannot use --groups 5: there are 4 clients, at least one for each group",
    "--hidden-lambda 2": "Cannot use --hidden-lambda: it would change nothing, --own-layers all is needed",
    "--own-layers all --filters random": "--filters random: such filters are not fitted to targets",
    "--groups 2 --masked yes": "Cannot use --masked yes with --groups 2: the server would have to know",
    "--method fedavg --masked yes": "--masked: it would change nothing, --method fedacnnl, pfedacnnl, afl or",
    "--method fedacnnl --rounds 2": "--rounds: it would change nothing, --method fedavg, ",
    "--method deepafl --forget 1": "--forget: it would change nothing, --method afl is needed",
    "--method deepafl --message model": "--message: it would change nothing, --method afl is needed",
    "--method afl --kept 1": "Cannot use --kept: it would change nothing, --message model is needed",
    "--method afl --eval-every 1": "Cannot use --eval-every: it would change nothing, --rounds of 2",
    "--method afl --message model --masked yes": "models of clients are not summed as they are",
    "--method afl --forget 1,1": "Cannot use --forget 1,1: each client once is needed",
    "--method afl --clients 3 --forget 3": "there are 3 clients, a number from 0 to 2 is needed",
    "--method afl --clients 2 --forget 1,0": "Cannot use --forget 1,0: these are all clients",
    "--method afl --masked yes --forget 1": "--forget: the server would get the sums of those that leave",
  };
  for (const [flags, text] of Object.entries(cases))
    expect(await refusal(() => parse(flags))).toContain(text);
});

test("options are recorded with a run, and stay what they are when it is resumed", async () => {
  const dir = mkdtempSync(join(tmpdir(), "cotangent-options-"));
  const all = [
    "--groups 3 --prior gram --own-layers all --hidden-lambda 5 --ridge 0.5 --clients 5",
    "--masked yes --clients 5",
    "--method afl --message model --kept 0.5 --rounds 3 --forget 4,1",
  ];
  try {
    for (const flags of all) {
      const config = parse(flags);
      writeFileSync(join(dir, "config.json"), JSON.stringify(config));
      expect(federatedProblem(JSON.parse(JSON.stringify(config)))).toBeNull();
      const resumed = wantedRun(["--resume", dir]).config;
      expect(resumed).toEqual(JSON.parse(JSON.stringify(config)) as FederatedConfig);
      expect(await refusal(() => wantedRun(["--resume", dir, "--clients", "9"]))).toContain("--clients");
    }
    expect(parse(all[0]!)).toMatchObject({ groups: 3, prior: "gram", ownLayers: "all", hiddenLambda: 5 });
    expect(parse(all[1]!).masked).toBe(true);
    expect(parse(all[2]!)).toMatchObject({ message: "model", kept: 0.5, rounds: 3, forget: [4, 1] });
    expect(await refusal(() => wantedRun(["--resume", dir, "--rounds", "4"]))).toContain(
      "clients leave this",
    );
    expect(parse("--method afl").rounds).toBe(1);
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
});

test("what flags say of own models is what the method is told", async () => {
  const told: readonly (readonly [flags: string, options: Partial<PFedAcnnlOptions>])[] = [
    ["--groups 2 --ridge 30", { groups: 2, ridge: 30 }],
    [
      "--own-layers all --hidden-lambda 0.5 --prior gram",
      { layersOfOwn: "all", hiddenLambda: 0.5, prior: "gram" },
    ],
  ];
  for (const [flags, options] of told) {
    const run = open(`--clients 4 --partition dirichlet:0.5 --channels 2 ${flags}`);
    const result = await inProcess(run);
    const made = pfedacnnl({
      image: [1, 8, 8],
      classes: 3,
      layers: [{ k: "conv", channels: 2, kernel: 3 }],
      ...options,
    });
    const values = runSequential(federatedSetup(run.plan, made, run.clients));
    const { clients } = federatedModels(run.plan, made, values);
    expect(sameBits(federatedModels(run.plan, run.methods.method, result).clients, clients)).toBe(true);
    for (const { formula, received, sent, receivedAtEnd } of summed(run, result).clients)
      expect({ received, sent, receivedAtEnd }).toEqual(formula);
  }
});

test("afl: models of clients give the model of the sums where as much gamma is kept, and the least squares of all else", async () => {
  const flags = "--method afl --clients 5 --width 20 --gamma 2";
  const [sums, kept, removed] = [
    await serverOf(open(flags)),
    await serverOf(open(`${flags} --message model --kept 2`)),
    await serverOf(open(`${flags} --message model`)),
  ];
  expect(relative(kept.weights, sums.weights)).toBeLessThan(1e-9);
  const none = await serverOf(open(`${flags.replace("gamma 2", "gamma 0")}`));
  expect(relative(removed.weights, none.weights)).toBeLessThan(1e-8);
  expect(relative(removed.weights, sums.weights)).toBeGreaterThan(1e-4);
  const run = open(`${flags} --message model`);
  const [client] = summed(run, await inProcess(run)).clients;
  expect([client!.sent, client!.formula.sent]).toEqual([8 * (210 + 60), 8 * (210 + 60)]);
});

for (const flags of [
  "--method afl --width 12",
  "--method fedacnnl --channels 2",
  "--method pfedacnnl --channels 2 --filters half",
  "--method deepafl --width 12 --layers 1",
]) {
  test(`masked, ${flags}: the server sees noise, and the sums are those without masks`, async () => {
    const text = `${flags} --clients 6 --partition iid --absent 0.3 --seed 1`;
    const [plain, hidden] = [open(text), open(`${text} --masked yes`)];
    const away = Array.from(
      { length: plain.plan.rounds },
      (_, round) => 6 - presentNumbers(plain.plan, round).length,
    );
    expect(Math.max(...away)).toBeGreaterThan(0);
    const [one, two] = [await inProcess(plain), await inProcess(hidden)];
    const [models, others] = [plain, hidden].map(({ plan, methods }, i) =>
      leaves(federatedModels(plan, methods.method, [one, two][i]!).global),
    );
    for (const [i, model] of models!.entries()) expect(relative(others![i]!, model)).toBeLessThan(1e-6);
    const summary = summed(hidden, two);
    expect(summary.masked).toEqual({
      fractionBits: MASKED_BITS,
      sumRounding: 6 / 2 ** 33,
      revealedKeys: away.reduce((sum, count) => sum + count * (6 - count), 0),
    });
    expect(summed(plain, one).masked).toBeNull();
    for (const { formula, received, sent, receivedAtEnd } of summary.clients)
      expect({ received, sent, receivedAtEnd }).toEqual(formula);
    const said = remarksOf(summary).join();
    expect(said).toContain("the server could read masked sums only; numbers are multiples of 2^-32");
    expect(said).toContain(`within ${(6 / 2 ** 33).toExponential(1)} of the unmasked one`);
    expect(said).toContain(`with the ${summary.masked!.revealedKeys} keys`);
    expect(federatedPage("run", summary)).toContain("the server could read masked sums only");

    // A message is words that look drawn, and not the client's own numbers as integers: those are small, with a high word near 0.
    const { method } = hidden.methods;
    const at = { round: 0, client: 0, clients: 6 };
    const [, sent] = method.client(
      method.initClient(0),
      hidden.clients.train(0),
      method.broadcast(method.initServer(), 0),
      at,
    );
    for (const leaf of leaves(sent)) {
      expect([leaf.dtype, leaf.shape.at(-1)]).toEqual(["uint32", 2]);
      if (leaf.size < 40) continue;
      const high = [...leaf.dataSync()].filter((_, i) => i % 2 === 1);
      const mean = high.reduce((sum, word) => sum + word / 2 ** 32, 0) / high.length;
      const small = high.filter((word) => Math.min(word, 2 ** 32 - word) < 2 ** 24).length;
      expect(Math.abs(mean - 0.5)).toBeLessThan(0.3);
      expect(small / high.length).toBeLessThan(0.1);
    }
  });
}

test("under masks no round may have one client alone", async () => {
  const lone = "--method afl --clients 6 --partition iid --width 12 --absent 0.6 --masked yes --rounds 6";
  const rounds = Array.from({ length: 40 }, (_, seed) => {
    const { plan } = open(`${lone.replace("--masked yes", "--masked no")} --seed ${seed}`);
    return Array.from({ length: 6 }, (_, round) => presentNumbers(plan, round));
  });
  const seeds = rounds.map((those) => those.findIndex((there) => there.length === 1));
  const [bad, good] = [seeds.findIndex((round) => round > 0), seeds.indexOf(-1)];
  expect(await refusal(() => open(`${lone} --seed ${bad}`))).toBe(
    `Cannot use --masked yes: in round ${seeds[bad]! + 1} there is client ${rounds[bad]![seeds[bad]!]![0]} alone and the sum is its message, two are needed in every round; use another --seed or fewer --rounds`,
  );
  const run = open(`${lone} --seed ${good}`);
  const [plain, hidden] = [
    await serverOf(open(`${lone.replace("--masked yes", "--masked no")} --seed ${good}`)),
    await serverOf(run),
  ];
  // The rounding that the program states, and that of float64 in the sums without masks.
  const stated = 6 / 2 ** 33 + 100 * Number.EPSILON * max(abs(plain.gram)).item();
  for (const sum of ["gram", "cross"] as const)
    expect(max(abs(sub(hidden[sum], plain[sum]))).item()).toBeLessThan(stated);
  expect(await refusal(() => open("--method afl --clients 1 --masked yes"))).toContain("client 0 alone");
});

const late = "--method afl --clients 8 --partition dirichlet:0.5 --width 20 --absent 0.5 --seed 4";

test("a client that was away is added in a later round, and the model is that of all at once", async () => {
  const [run, present] = [open(`${late} --rounds 9`), open(late.replace("--absent 0.5", "--absent 0"))];
  const result = await inProcess(run);
  const summary = summed(run, result);
  expect(summary.joined!.flat().sort()).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
  expect(summary.joined!.filter((those) => those.length > 0).length).toBeGreaterThan(2);
  const { weights } = result.hub["server"] as AflServer;
  expect(relative(weights, (await serverOf(present)).weights)).toBeLessThan(1e-9);
  expect(relative((await serverOf(open(late))).weights, weights)).toBeGreaterThan(1e-3);
  const [most, last] = [
    summary.joined![0]!.length,
    summary.joined!.findLastIndex(({ length }) => length > 0),
  ];
  expect(remarksOf(summary)[0]).toMatch(
    new RegExp(
      `^new clients: ${most} in round 1, ([1-9] in round \\d, )+[1-9] in round ${last + 1}; each sent once$`,
    ),
  );
  for (const { formula, received, sent, receivedAtEnd } of summary.clients)
    expect({ received, sent, receivedAtEnd }).toEqual(formula);
  // With one round the others are named, and when that run goes on they come.
  const [single, store] = [open(late), memoryStore()];
  const first = await inProcess(single, { store });
  const resumed = await inProcess(run, { store, firstRound: 1 });
  expect([single.methods.canGoOn, sameBits(resumed.hub, result.hub)]).toEqual([true, true]);
  const some = summed(single, first);
  const missing = [0, 1, 2, 3, 4, 5, 6, 7].filter((client) => !some.joined![0]!.includes(client));
  expect(remarksOf(some)).toEqual([
    `not in the model, as they have not come: client${missing.length === 1 ? "" : "s"} ${missing.join(", ")}`,
  ]);
});

test("stopped between rounds, a run with late clients and leaving ones goes on to the same bits", async () => {
  const run = open(`${late} --rounds 9 --forget 2,5`);
  const whole = await inProcess(run);
  for (const stopAfter of [1, 9]) {
    const store = memoryStore();
    const stopped = await inProcess(run, { store, stopAfter });
    expect([stopped.reason, stopped.round]).toEqual(["stopped", stopAfter]);
    const half = summed(run, stopped);
    expect(half.forgotten).toBeNull();
    for (const { formula, received, sent } of half.clients)
      expect({ received, sent }).toMatchObject({ received: formula.received, sent: formula.sent });
    const resumed = await inProcess(run, { store, firstRound: stopAfter });
    expect(sameBits([resumed.hub, resumed.workers], [whole.hub, whole.workers])).toBe(true);
  }
});

test("the distance from a model without those that leave is rounding after they left, and not before", async () => {
  const run = open(`${late} --rounds 9 --forget 2,5`);
  const [before, after] = [await serverOf(open(`${late} --rounds 9`)), await serverOf(run)];
  expect(deviationOf(run, before)).toBeGreaterThan(1e-3);
  expect(deviationOf(run, after)).toBeLessThan(1e-9);
});

test("who has not come cannot leave", async () => {
  const { plan } = open(late);
  const [came] = presentNumbers(plan, 0);
  const away = [0, 1, 2, 3, 4, 5, 6, 7].filter((client) => !presentNumbers(plan, 0).includes(client));
  expect(await refusal(() => open(`${late} --forget ${came},${away[0]}`))).toBe(
    `Cannot forget client ${away[0]}: of 1 round there is none with it, more --rounds or a client whose sums are in the model is needed`,
  );
  expect(await refusal(() => open(`${late} --forget ${presentNumbers(plan, 0)}`))).toContain(
    "nobody else has come in 1 round, a client that stays is needed",
  );
});

test("the alone model of afl is that of one round, whatever the run does", () => {
  const shape = { name: "bars", exampleShape: [8, 8], classes: 3 };
  const { alone } = methodsOf(parse("--method afl --width 12 --rounds 3 --forget 1"), shape);
  expect(alone!.rounds).toBe(1);
  const masked = methodsOf(parse("--method afl --width 12 --masked yes"), shape);
  expect([masked.method.name, masked.alone!.name]).toEqual(["AFL, masked", "AFL"]);
});

const small = words(
  "--train-limit 200 --test-limit 100 --clients 6 --width 32 --partition dirichlet:1 --seed 3",
);

test("the program adds late clients, lets clients leave, and says what came of it", async () => {
  await withPrograms(async (dir, start) => {
    const flags = [
      "federated",
      "--method",
      "afl",
      "--absent",
      "0.5",
      "--rounds",
      "6",
      "--forget",
      "0,4",
      ...small,
    ];
    const [local, spread] = await Promise.all([
      start([...flags, "--runtime", "local", "--out", "local"]).ended,
      start([...flags, "--out", "run"]).ended,
    ]);
    expect([local.code, spread.code]).toEqual([0, 0]);
    expect(spread.err).toContain("AFL, 7 rounds, the last for leaving, on 2 worker processes");
    const run = join(dir, "run");
    expect(checkpointOf(run)).toBe(checkpointOf(join(dir, "local")));
    const summary = JSON.parse(readFileSync(join(run, "summary.json"), "utf8")) as FederatedSummary;
    const { clients, before, after, deviation } = summary.forgotten!;
    expect([summary.rounds, clients]).toEqual([7, [0, 4]]);
    expect(summary.curve.map(({ rounds }) => rounds)).toEqual([1, 2, 3, 4, 5, 6, 7]);
    expect([before, after]).toEqual([summary.curve[5]!.global, summary.curve[6]!.global]);
    expect([summary.accuracy.global, deviation < 1e-9]).toEqual([after, true]);
    expect(spread.out).toContain("clients 0, 4 left: accuracy ");
    expect(spread.out).toContain(`by ${deviation.toExponential(1)} of the largest`);
    expect(spread.out).toMatch(/^new clients: \d in round 1(, \d in round \d)+; each sent once$/m);
    // The sums in which they are do not stay behind.
    expect(existsSync(join(run, "state"))).toBe(false);
    expect(readFileSync(join(run, "report.html"), "utf8")).toContain("clients 0, 4 left: accuracy ");
    // Against a model that never had them, from the data themselves.
    const opened = await openFederated(parse(`${flags.slice(1).join(" ")} --runtime local`), () => {});
    const { weights } = (await io.load<{ readonly weights: Value }>(join(run, summary.model!))).tree;
    const method = afl({
      features: randomFeatures({ inputs: 28 * 28, width: 32, seed: 3 }),
      width: 32,
      classes: 10,
    });
    const stay = summary.joined!.flat().filter((client) => !clients.includes(client));
    const at = { round: 0, client: 0, clients: 6 };
    const answers = stay.map((client) => method.client({}, opened.clients.train(client), {}, at)[1]);
    expect(relative(weights, method.server(method.initServer(), answers, 0).weights)).toBeLessThan(1e-9);
    // It is over: no more clients can come.
    const again = await start(["federated", "--resume", "run", "--rounds", "9"]).ended;
    expect([again.code, again.err.includes("clients leave this run")]).toEqual([2, true]);
  });
});

test("the program runs masked and with models as messages", async () => {
  await withPrograms(async (dir, start) => {
    const flags = ["federated", "--method", "afl", ...small];
    const started = [
      [...flags, "--runtime", "local", "--out", "plain"],
      [...flags, "--masked", "yes", "--out", "masked"],
      [...flags, "--runtime", "local", "--message", "model", "--kept", "1", "--out", "model"],
    ].map((args) => start(args).ended);
    const [plain, hidden, model] = await Promise.all(started);
    expect([plain, hidden, model].map((program) => [program!.code, program!.code && program!.err])).toEqual(
      Array(3).fill([0, 0]),
    );
    expect(hidden!.err).toContain("AFL, masked, 1 round on 2 worker processes");
    expect(hidden!.out).toContain(`within ${(6 / 2 ** 33).toExponential(1)} of the unmasked one`);
    expect(plain!.out).not.toContain("masked");
    expect(readFileSync(join(dir, "masked/report.html"), "utf8")).toContain("masked sums only");
    const weightsIn = async (name: string): Promise<Value> =>
      (await io.load<{ readonly weights: Value }>(join(dir, name, "model.safetensors"))).tree.weights;
    const reference = await weightsIn("plain");
    expect(relative(await weightsIn("masked"), reference)).toBeLessThan(1e-7);
    expect(relative(await weightsIn("model"), reference)).toBeLessThan(1e-9);
  });
});

test("killed, a run with groups and own layers is resumed with them to the same bits", async () => {
  await withPrograms(async (dir, start) => {
    const own = words("--channels 3 --groups 2 --own-layers all --hidden-lambda 9 --ridge 1 --alone no");
    const args = words(
      `federated ${own.join(" ")} --train-limit 200 --test-limit 100 --clients 6 --partition dirichlet:1 --seed 3`,
    );
    const first = start([...args, "--out", "killed"]);
    await until(first, () => readRounds(join(dir, "killed"), 9).length >= 1);
    first.kill();
    await first.ended;
    const [second, whole] = await Promise.all([
      start(["federated", "--resume", "killed"]).ended,
      start([...args, "--runtime", "local", "--out", "whole"]).ended,
    ]);
    expect([second.code, whole.code, second.err, whole.err].slice(0, 2)).toEqual([0, 0]);
    expect(checkpointOf(join(dir, "killed"))).toBe(checkpointOf(join(dir, "whole")));
    const clientFile = (run: string): Buffer =>
      readFileSync(join(dir, run, "clients/client-001.safetensors"));
    expect(clientFile("killed").equals(clientFile("whole"))).toBe(true);
    const config = JSON.parse(readFileSync(join(dir, "killed/config.json"), "utf8")) as FederatedConfig;
    expect(config).toMatchObject({ groups: 2, ownLayers: "all", hiddenLambda: 9, ridge: 1 });
  });
});
