/** `cotangent federated`: clients with examples of their own learn together, shows how it goes, leaves a run directory. */
import { rmSync } from "node:fs";
import { join, resolve } from "node:path";
import * as io from "../../core/io.ts";
import { showBytes } from "../../dist/plan_cost.ts";
import { RunError } from "../../dist/runtime/local.ts";
import { openPlace } from "../device.ts";
import { exitCodes, interruption } from "../ending.ts";
import { type ProgressLine, progressLine, secondsText } from "../progress_line.ts";
import { checkOut, createRunDirectory, fileNames, lockRun, writeJson } from "../run_directory.ts";
import { parseFederatedFlags } from "./config.ts";
import { federatedPage, percent } from "./page.ts";
import { recorderOf } from "./recorder.ts";
import { federatedWorker, type OpenedRun, openFederated, runFederated } from "./run.ts";
import { type ClientSummary, evaluatedRounds, type FederatedSummary, summaryOf, sumOver } from "./summary.ts";

/** Runs `federated` and returns the exit code. */
export async function federated(args: readonly string[]): Promise<number> {
  if (args[0] === "worker") return federatedWorker(args.slice(1));
  const { config: wanted, out } = parseFederatedFlags(args);
  if (out !== undefined) checkOut(out);
  // Workers may run elsewhere.
  const dataDir = wanted.dataDir === undefined ? undefined : resolve(wanted.dataDir);
  const config = { ...wanted, dataDir };
  const line = progressLine(process.stderr);
  const opened = await openFederated(config, (text) => line.note(text));
  const place = await openPlace("cpu", 0);
  const directory = createRunDirectory(out, `federated-${config.data}-${config.method}`);
  const unlock = lockRun(directory);
  process.on("exit", unlock);
  // Nothing is resumed: a run without results leaves nothing, whatever ends it.
  const remove = (): void => rmSync(directory, { recursive: true, force: true, maxRetries: 3 });
  process.on("exit", remove);
  await writeJson(directory, fileNames.config, config);
  // Before a word is said: who reads it may answer with Ctrl-C.
  const interrupt = interruption(line);
  describe(opened, place, line);
  const recorder = recorderOf(opened, line);
  try {
    const result = await runFederated(opened, {
      directory,
      signal: interrupt.signal,
      onProgress: recorder.take,
      onNotice: (text) => line.note(text),
    });
    recorder.end();
    line.end();
    if (result.round === 0) {
      process.stdout.write("stopped before the first round was complete\n");
      remove();
      return exitCodes.interrupted;
    }
    const summary = summaryOf(opened, result, recorder.times());
    await io.save(join(directory, fileNames.checkpoint), result.hub["server"]);
    await writeJson(directory, fileNames.summary, summary);
    await io.writeWhole(join(directory, fileNames.report), federatedPage(directory, summary));
    printSummary(summary, directory);
    return summary.complete ? exitCodes.done : exitCodes.interrupted;
  } catch (error) {
    line.end();
    remove();
    if (!(error instanceof RunError)) throw error;
    process.stderr.write(`${error.message}\n`);
    return exitCodes.failed;
  } finally {
    recorder.end();
    process.off("exit", remove);
    interrupt.release();
  }
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
  line.note(`${methods.method.name}, ${plan.rounds} round${plan.rounds === 1 ? "" : "s"} ${where}; ${place}`);
}

function printSummary(summary: FederatedSummary, directory: string): void {
  const { accuracy, clients } = summary;
  const mean = (of: (client: ClientSummary) => number): string =>
    showBytes(sumOver(clients, of) / clients.length);
  const got = mean(({ received, receivedAtEnd }) => received + receivedAtEnd);
  const by = [
    `model of all ${percent(accuracy.global)}`,
    ...(accuracy.personal === null ? [] : [`own models ${percent(accuracy.personal)}`]),
    ...(accuracy.alone === null ? [] : [`each alone ${percent(accuracy.alone)}`]),
  ];
  const state = summary.complete
    ? "done"
    : `stopped after ${summary.rounds} round${summary.rounds === 1 ? "" : "s"}`;
  const at = evaluatedRounds(summary);
  const evaluated = at === null || at === summary.rounds ? "" : ` (after ${at})`;
  process.stdout.write(
    `${state} in ${secondsText(summary.seconds)} and ${secondsText(summary.endSeconds)} at the end: ${by.join(", ")}${evaluated}; a client got ${got} and sent ${mean(({ sent }) => sent)}\n` +
      `results in ${directory}: ${fileNames.summary}, ${fileNames.checkpoint}, ${fileNames.report}\n`,
  );
}
