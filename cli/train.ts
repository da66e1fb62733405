/** `cotangent train`: loads data, runs the plan, shows how it goes, leaves a run directory behind. */
import { rmSync } from "node:fs";
import { join, resolve } from "node:path";
import * as io from "../core/io.ts";
import type { Value } from "../core/value.ts";
import { achievedRatios, isCommunication } from "../dist/compress/plan.ts";
import { vectorsOf, viewOf } from "../dist/jobs/communicating.ts";
import { matricesOf, trainingSetup } from "../dist/jobs.ts";
import type { Plan } from "../dist/plan.ts";
import { showBytes, showPlan } from "../dist/plan_cost.ts";
import { peerName, type Store } from "../dist/runtime/driver.ts";
import { fileStore } from "../dist/runtime/file_store.ts";
import { RunError } from "../dist/runtime/local.ts";
import { curvatureGroup, directSource } from "../dist/split.ts";
import { checkNeeds, deviceOf, parseTrainFlags, type TrainConfig, UsageError } from "./config.ts";
import { openPlace } from "./device.ts";
import { exitCodes, interruption } from "./ending.ts";
import { openData } from "./open_data.ts";
import { addSaves, areEqual, dropSaves } from "./other_workers.ts";
import { planOf } from "./plan.ts";
import { curvatureProblemOf, problemOf, type TrainingProblem } from "./problem.ts";
import { progressLine, secondsText } from "./progress_line.ts";
import { exposedSeconds as exposedOf, openRecorder, type Recorder } from "./recorder.ts";
import { writeReport } from "./report.ts";
import {
  checkOut,
  createRunDirectory,
  fileNames,
  lockRun,
  readConfig,
  type Summary,
  writeJson,
} from "./run_directory.ts";
import { type PlanResult, runPlan } from "./run_plan.ts";

/** What the parts of a run share. */
interface Run {
  readonly directory: string;
  readonly config: TrainConfig;
  readonly plan: Plan;
  readonly problem: TrainingProblem;
  readonly store: Store;
}

/** Runs `train` and returns the exit code. */
export async function train(args: readonly string[]): Promise<number> {
  const { config: wanted, out, resumed, workersBefore } = openRun(args);
  const line = progressLine(process.stderr);
  const data = await openData(wanted, (text) => line.note(text));
  const { workers, curvatureWorkers = 0 } = wanted;
  for (const [flag, count] of Object.entries({ workers, "curvature-workers": curvatureWorkers })) {
    if (data.train.count >= count) continue;
    throw new UsageError(
      `Cannot use --${flag} ${count}: there are ${data.train.count} training examples, at least one for each worker is needed`,
    );
  }
  // The hub evaluates, and is the only process of a local run.
  const place = await openPlace(deviceOf(wanted), 0);
  const problem = problemOf(wanted, data);
  const plan = planOf(wanted, data.train.count, problem.parameters);
  const text = textOf(plan, problem);
  // A short run has shorter rounds; when it is resumed for more steps they must be counted in the same rounds.
  const config: TrainConfig = { ...wanted, localSteps: plan.localSteps };
  const isResumed = resumed !== undefined;
  // From here on it can be expected to go well, so something may be left behind.
  const directory = resumed ?? createRunDirectory(out, `${config.data}-${config.model}-${config.optimizer}`);
  const unlock = lockRun(directory);
  process.on("exit", unlock);
  const store = fileStore(join(directory, fileNames.state));
  const firstRound = Math.max(0, ...(await store.rounds("hub")));
  if (isResumed && firstRound >= plan.rounds) {
    throw new UsageError(
      `Cannot resume ${directory}: ${firstRound * wanted.localSteps} steps are done, more --steps or --epochs are needed`,
    );
  }
  const areOthers = workersBefore !== undefined && workersBefore !== workers;
  if (areOthers) {
    if (!(await areEqual(store, firstRound, workersBefore, plan, problem)))
      throw new UsageError(cannotChange("workers"));
    await addSaves(store, firstRound, workersBefore, workers);
  }
  await writeJson(directory, fileNames.config, config);
  if (areOthers) await dropSaves(store, workersBefore, workers);
  await io.writeWhole(join(directory, fileNames.plan), `${text}\n`);
  // Before a word is said: who reads it may answer with Ctrl-C.
  const interrupt = interruption(line);

  line.note(
    `${data.name}: ${data.train.count} training and ${data.test.count} test examples of ${data.classes} classes`,
  );
  line.note(
    `${config.model}: ${problem.parameters} parameters; ${config.optimizer} on ${workersText(config)}; ${place}`,
  );
  if (isResumed)
    line.note(`resuming at step ${firstRound * plan.localSteps} of ${plan.rounds * plan.localSteps}`);

  const isSplit = plan.curvature?.split != null;
  const curvatureProblem = isSplit ? curvatureProblemOf(config, data) : null;
  const group =
    curvatureProblem && config.runtime === "sockets" ? curvatureGroup(plan, curvatureProblem) : null;
  const source = group?.source ?? (curvatureProblem && directSource(plan, curvatureProblem));

  const run: Run = { directory, config, plan, problem, store };
  const recorder = await openRecorder(run, data.train.count, firstRound, line);
  try {
    const result = await runPlan({
      setup: trainingSetup(plan, problem, source),
      group,
      config,
      directory,
      store,
      signal: interrupt.signal,
      onProgress: (progress, traffic) => recorder.take(progress, traffic),
      onNotice: (text) => line.note(text),
    });
    line.end();
    if (recorder.metrics.length === 0) {
      process.stdout.write(
        `stopped before the first round was complete: continue with --resume ${directory}\n`,
      );
      return exitCodes.interrupted;
    }
    const summary = await finish(run, result, recorder);
    printSummary(summary, directory, plan);
    return result.reason === "finished" ? exitCodes.done : exitCodes.interrupted;
  } catch (error) {
    line.end();
    if (!(error instanceof RunError)) {
      // A port that is taken, a place that cannot be written: nothing has begun, so nothing is left behind.
      if (!isResumed && recorder.metrics.length === 0) rmSync(directory, { recursive: true, force: true });
      throw error;
    }
    await explainFailure(run, error);
    return exitCodes.failed;
  } finally {
    interrupt.release();
  }
}

/**
 * The plan as text.
 *
 * @throws {UsageError} if its compressors do not fit the parameters
 */
function textOf(plan: Plan, problem: TrainingProblem): string {
  try {
    return showPlan(plan, { matrices: matricesOf(plan, problem), ...vectorsOf(problem) });
  } catch (error) {
    if (error instanceof RangeError) throw new UsageError(error.message);
    throw error;
  }
}

function workersText({ workers, runtime, curvatureWorkers }: TrainConfig): string {
  const plural = workers === 1 ? "" : "s";
  if (runtime === "local") return `${workers} worker${plural} in this process`;
  const others = curvatureWorkers === undefined ? "" : ` and ${curvatureWorkers} for curvature`;
  return `${workers} worker process${plural && "es"}${others}`;
}

/** The flags that a resumed run may be given. */
const changeable: readonly string[] = [
  ...["steps", "epochs", "lr", "alpha"],
  ...["runtime", "device", "port", "host", "launch", "flush-at-end"],
];

function cannotChange(flag: string): string {
  const hint =
    flag === "workers"
      ? "; a div-adam run that has ended with --flush-at-end yes may go on with other --workers"
      : "";
  return `Cannot use --${flag} with --resume: a resumed run keeps its configuration, only ${changeable.map((name) => `--${name}`).join(", ")} may change${hint}`;
}

/** A new run and where to put it, or an earlier one with its own configuration. */
function openRun(args: readonly string[]): {
  readonly config: TrainConfig;
  readonly out: string | undefined;
  readonly resumed: string | undefined;
  /** Of the earlier run. */
  readonly workersBefore: number | undefined;
} {
  const { config, out, resume, given } = parseTrainFlags(args);
  if (resume === undefined) {
    if (out !== undefined) checkOut(out);
    // The run may be resumed from elsewhere.
    const dataDir = config.dataDir === undefined ? undefined : resolve(config.dataDir);
    return { config: { ...config, dataDir }, out, resumed: undefined, workersBefore: undefined };
  }
  // Whether other workers may go on is known from their saves.
  const fixed = given.find((name) => !["resume", "workers", ...changeable].includes(name));
  if (fixed !== undefined) throw new UsageError(cannotChange(fixed));
  const earlier = readConfig(resume);
  const length = given.includes("steps")
    ? { steps: config.steps }
    : given.includes("epochs")
      ? { epochs: config.epochs, steps: undefined }
      : {};
  const merged: TrainConfig = {
    ...earlier,
    ...length,
    ...(given.includes("runtime") && { runtime: config.runtime }),
    ...(given.includes("device") && { device: config.device }),
    ...(given.includes("lr") && { lr: config.lr }),
    ...(given.includes("alpha") && { alpha: config.alpha }),
    port: config.port,
    ...(given.includes("host") && { host: config.host }),
    ...(given.includes("launch") && { launch: config.launch }),
    ...(given.includes("flush-at-end") && { flushAtEnd: config.flushAtEnd }),
    ...(given.includes("workers") && { workers: config.workers }),
  };
  checkNeeds(given, merged);
  if (merged.workers !== earlier.workers && merged.steps === undefined) {
    throw new UsageError(
      `Cannot use --workers ${merged.workers} with --resume: the length of the run is in epochs of ${earlier.workers} workers, --steps is needed`,
    );
  }
  return { config: merged, out: undefined, resumed: resume, workersBefore: earlier.workers };
}

/** Checkpoint, summary and report. */
async function finish(run: Run, result: PlanResult, recorder: Recorder): Promise<Summary> {
  const { directory, config, plan, problem } = run;
  const steps = result.round * plan.localSteps;
  const theta = (await parametersAt(run, result.round)) ?? result.theta;
  await io.save(join(directory, fileNames.checkpoint), problem.unravel(theta), {
    step: String(steps),
  });
  const [, testAccuracy] = problem.evaluate(theta);
  const totals = recorder.totals();
  const { bytes, backgroundBytes } = totals;
  const seconds = recorder.seconds();
  const exposed = exposedOf(seconds, totals);
  const ratios = achievedRatios(plan, vectorsOf(problem));
  const summary: Summary = {
    task: config.data,
    model: config.model,
    optimizer: config.optimizer,
    workers: config.workers,
    device: deviceOf(config),
    steps,
    seconds,
    finalLoss: recorder.metrics.at(-1)?.loss ?? Number.NaN,
    testAccuracy,
    bytesSent: bytes,
    ...(isCommunication(plan.sync) && { backgroundBytes }),
    ...(ratios && { achievedRatio: ratios }),
    ...(exposed !== null && { exposedSeconds: exposed, busySeconds: totals.busySeconds }),
    peakMemoryBytes: result.peakMemoryBytes,
    seed: config.seed,
    complete: result.reason === "finished",
  };
  await writeJson(directory, fileNames.summary, summary);
  await writeReport(join(directory, fileNames.report), [directory]);
  return summary;
}

/** The parameters at the end of a round as they were saved: by the hub, or by workers that differ. */
async function parametersAt({ plan, problem, store }: Run, round: number): Promise<Value | null> {
  if (!isCommunication(plan.sync)) return ((await store.get("hub", round))?.values["theta"] as Value) ?? null;
  const ranks = Array.from({ length: plan.workers }, (_, rank) => rank);
  const saved = await Promise.all(ranks.map((rank) => store.get(peerName(rank), round)));
  const workers = saved.flatMap((save) => (save ? [save.values] : []));
  return workers.length === plan.workers ? viewOf(plan, problem, workers) : null;
}

/** Says why a run has failed and writes the checkpoint of its newest save. */
async function explainFailure(run: Run, error: RunError): Promise<void> {
  const { directory, plan, problem, store } = run;
  process.stderr.write(`${error.message}\n`);
  const round = Math.max(...(await store.rounds("hub")));
  const theta = Number.isFinite(round) ? await parametersAt(run, round) : null;
  if (!theta) return;
  await io.save(join(directory, fileNames.checkpoint), problem.unravel(theta));
  process.stderr.write(
    `The run is saved up to step ${round * plan.localSteps}: continue it with --resume ${directory}, where --lr and --alpha may be changed\n`,
  );
}

type Sent = Pick<Summary, "bytesSent" | "backgroundBytes" | "exposedSeconds" | "busySeconds">;

/** What was sent, and where it went apart, in how much of the time in which they trained all waited. */
export function sentText({ bytesSent, backgroundBytes, exposedSeconds, busySeconds = 0 }: Sent): string {
  if (backgroundBytes === undefined) return `sent ${showBytes(bytesSent)}`;
  const beside = backgroundBytes === 0 ? "" : ` and ${showBytes(backgroundBytes)} in the background`;
  const waited =
    exposedSeconds === undefined
      ? ""
      : `, waited ${((100 * exposedSeconds) / (exposedSeconds + busySeconds)).toFixed(0)}% of the training`;
  return `sent ${showBytes(bytesSent - backgroundBytes)}${beside}${waited}`;
}

function printSummary(summary: Summary, directory: string, plan: Plan): void {
  const lines = [
    `${summary.complete ? "done" : `stopped at step ${summary.steps} of ${plan.rounds * plan.localSteps}`} in ${secondsText(summary.seconds)}: ` +
      `loss ${summary.finalLoss.toFixed(4)}, test accuracy ${(100 * summary.testAccuracy).toFixed(2)}%, ${sentText(summary)}, peak memory ${showBytes(summary.peakMemoryBytes)}`,
    `results in ${directory}: ${fileNames.summary}, ${fileNames.metrics}, ${fileNames.checkpoint}, ${fileNames.report}`,
    ...(summary.complete ? [] : [`continue with --resume ${directory}`]),
  ];
  process.stdout.write(`${lines.join("\n")}\n`);
}
