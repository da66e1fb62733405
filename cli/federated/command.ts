/** `cotangent federated`: clients with examples of their own learn together, shows how it goes, leaves a run directory. */
import { rmSync } from "node:fs";
import { join } from "node:path";
import * as io from "../../core/io.ts";
import { showBytes } from "../../dist/plan_cost.ts";
import { fileStore } from "../../dist/runtime/file_store.ts";
import { RunError } from "../../dist/runtime/local.ts";
import { openPlace } from "../device.ts";
import { exitCodes, interruption } from "../ending.ts";
import { type ProgressLine, progressLine, secondsText } from "../progress_line.ts";
import { createRunDirectory, fileNames, lockRun, writeJson } from "../run_directory.ts";
import { appendRound, modelFiles, readRounds, writeModels, writeRounds } from "./files.ts";
import { federatedPage } from "./page.ts";
import { recorderOf } from "./recorder.ts";
import { percent, remarksOf } from "./remarks.ts";
import { howToContinue, roundToResume, wantedRun } from "./resumed.ts";
import { type FederatedResult, federatedWorker, type OpenedRun, openFederated, runFederated } from "./run.ts";
import { type ClientSummary, evaluatedRounds, type FederatedSummary, summaryOf, sumOver } from "./summary.ts";

/** Runs `federated` and returns the exit code. */
export async function federated(args: readonly string[]): Promise<number> {
  if (args[0] === "worker") return federatedWorker(args.slice(1));
  const { config: wanted, out, resumed } = wantedRun(args);
  const isResumed = resumed !== undefined;
  const line = progressLine(process.stderr);
  const made = await openFederated(wanted, (text) => line.note(text));
  const { plan, methods } = made;
  // When it is resumed for more rounds, it is evaluated after the same ones.
  const config = methods.isWholeEveryRound ? { ...wanted, evalEvery: plan.evaluateEvery } : wanted;
  const opened: OpenedRun = { ...made, config };
  const place = await openPlace("cpu", 0);
  const directory = resumed ?? createRunDirectory(out, `federated-${config.data}-${config.method}`);
  const unlock = lockRun(directory);
  process.on("exit", unlock);
  const state = join(directory, fileNames.state);
  const store = fileStore(state);
  const firstRound = isResumed ? await roundToResume(directory, opened, store) : 0;
  const before = readRounds(directory, firstRound);
  if (isResumed) await writeRounds(directory, before);
  await writeJson(directory, fileNames.config, config);
  // Before a word is said: who reads it may answer with Ctrl-C.
  const interrupt = interruption(line);
  describe(opened, place, line);
  if (isResumed) line.note(`resuming at round ${firstRound} of ${plan.rounds}`);
  const recorder = recorderOf(opened, line, before, (metric) => appendRound(directory, metric));
  try {
    const result = await runFederated(opened, {
      directory,
      store,
      firstRound,
      signal: interrupt.signal,
      onProgress: recorder.take,
      onNotice: (text) => line.note(text),
    });
    recorder.end();
    line.end();
    if (result.round === 0) {
      process.stdout.write(
        `stopped before the first round was complete: continue with --resume ${directory}\n`,
      );
      return exitCodes.interrupted;
    }
    const summary = await finish(directory, opened, result, recorder.times());
    // What clients know of their examples does not stay behind where it is of no more use.
    if (summary.complete && !methods.canGoOn) rmSync(state, { recursive: true, force: true });
    printSummary(summary, directory);
    return summary.complete ? exitCodes.done : exitCodes.interrupted;
  } catch (error) {
    line.end();
    if (!(error instanceof RunError)) {
      // A place that cannot be written: nothing has begun, so nothing is left behind.
      if (!isResumed && recorder.rounds() === 0) rmSync(directory, { recursive: true, force: true });
      throw error;
    }
    process.stderr.write(`${error.message}\n${await howToContinue(directory, opened, store)}\n`);
    return exitCodes.failed;
  } finally {
    recorder.end();
    interrupt.release();
  }
}

/** Models, the server's state, the report, and the summary last: who finds one finds the others. */
async function finish(
  directory: string,
  opened: OpenedRun,
  result: FederatedResult,
  times: Pick<FederatedSummary, "seconds" | "endSeconds" | "curve">,
): Promise<FederatedSummary> {
  const summary = summaryOf(opened, result, times, modelFiles(opened, result.reason === "finished"));
  await writeModels(directory, opened, result);
  await io.save(join(directory, fileNames.checkpoint), result.hub["server"]);
  await io.writeWhole(join(directory, fileNames.report), federatedPage(directory, summary));
  await writeJson(directory, fileNames.summary, summary);
  return summary;
}

function describe(
  { config, data, plan, methods, shares }: OpenedRun,
  place: string,
  line: ProgressLine,
): void {
  const sizes = shares.train.map((share) => share.length);
  const { workers, runtime } = config;
  const where =
    runtime === "local" ? "in this process" : `on ${workers} worker process${workers === 1 ? "" : "es"}`;
  line.note(
    `${data.name}: ${data.train.count} training and ${data.test.count} test examples of ${data.classes} classes; ` +
      `${config.clients} client${config.clients === 1 ? "" : "s"}, ${config.partition}: ${Math.min(...sizes)} to ${Math.max(...sizes)} training examples each`,
  );
  const last = plan.leaving.length > 0 ? ", the last for leaving," : "";
  line.note(
    `${methods.method.name}, ${plan.rounds} round${plan.rounds === 1 ? "" : "s"}${last} ${where}; ${place}`,
  );
}

/** What is said at the end. */
function printSummary(summary: FederatedSummary, directory: string): void {
  const { accuracy, clients } = summary;
  const mean = (of: (client: ClientSummary) => number): string =>
    showBytes(sumOver(clients, of) / clients.length);
  const got = mean(({ received, receivedAtEnd }) => received + receivedAtEnd);
  const by = [
    `model of all ${percent(accuracy.global)}`,
    ...(accuracy.personal === null ? [] : [`own models ${percent(accuracy.personal)}`]),
    ...(accuracy.alone === null && summary.notAlone === 0
      ? []
      : [`each alone ${percent(accuracy.alone)}${notAloneText(summary)}`]),
  ];
  const state = summary.complete
    ? "done"
    : `stopped after ${summary.rounds} round${summary.rounds === 1 ? "" : "s"}`;
  const at = evaluatedRounds(summary);
  const evaluated = at === null || at === summary.rounds ? "" : ` (after ${at})`;
  const { summary: summaryFile, metrics, checkpoint, report } = fileNames;
  const first = clients[0]!.model;
  const models = [
    ...(summary.model === null ? [] : [`${summary.model} (the model of all)`]),
    ...(first === null ? [] : [`${first} and so on (own models)`]),
  ];
  const lines = [
    `${state} in ${secondsText(summary.seconds)} and ${secondsText(summary.endSeconds)} at the end: ${by.join(", ")}${evaluated}; a client got ${got} and sent ${mean(({ sent }) => sent)}`,
    ...remarksOf(summary),
    `results in ${directory}: ${[summaryFile, metrics, ...models, checkpoint, report].join(", ")}`,
    ...(summary.complete ? [] : [`continue with --resume ${directory}`]),
  ];
  process.stdout.write(`${lines.join("\n")}\n`);
}

/** How many clients could not be trained alone, and the first reason. */
function notAloneText({ notAlone, clients }: FederatedSummary): string {
  if (notAlone === 0) return "";
  const client = clients.findIndex(({ aloneProblem }) => aloneProblem !== null);
  return ` (not available for ${notAlone} of ${clients.length} clients; client ${client}: ${clients[client]!.aloneProblem})`;
}
