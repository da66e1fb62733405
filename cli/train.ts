/** `cotangent train`: loads data, runs the plan, shows how it goes, leaves a run directory behind. */
import { join, resolve } from "node:path";
import * as io from "../core/io.ts";
import type { Value } from "../core/value.ts";
import { trainingSetup } from "../dist/jobs.ts";
import { curvatureDueAt, type Plan } from "../dist/plan.ts";
import { showPlan } from "../dist/plan_cost.ts";
import type { Progress, Store } from "../dist/runtime/driver.ts";
import { fileStore } from "../dist/runtime/file_store.ts";
import { RunError } from "../dist/runtime/local.ts";
import { roundScript } from "../dist/script.ts";
import { parseTrainFlags, type TrainConfig, UsageError } from "./config.ts";
import { openData } from "./open_data.ts";
import { batchSize, planOf } from "./plan.ts";
import { problemOf, type TrainingProblem } from "./problem.ts";
import { bytesText, type ProgressLine, progressLine, progressText, secondsText } from "./progress_line.ts";
import { writeReport } from "./report.ts";
import {
  appendMetrics,
  checkOut,
  createRunDirectory,
  fileNames,
  type Metric,
  readConfig,
  readMetrics,
  type Summary,
  writeJson,
  writeMetrics,
} from "./run_directory.ts";
import { runPlan } from "./run_plan.ts";

/** Exit codes: done, failed, wrong usage, stopped by Ctrl-C. */
export const exitCodes = { done: 0, failed: 1, usage: 2, interrupted: 130 } as const;

/** Runs `train` and returns the exit code. */
export async function train(args: readonly string[]): Promise<number> {
  const { config: wanted, out, resumed } = openRun(args);
  const line = progressLine(process.stderr);
  const data = await openData(wanted, (text) => line.note(text));
  if (data.train.count < wanted.workers) {
    throw new UsageError(
      `Cannot use --workers ${wanted.workers}: there are ${data.train.count} training examples, at least one for each worker is needed`,
    );
  }
  const problem = problemOf(wanted, data);
  const plan = planOf(wanted, data.train.count, problem.parameters);
  // A short run has shorter rounds; when it is resumed for more steps they must be counted in the same rounds.
  const config: TrainConfig = { ...wanted, localSteps: plan.localSteps };
  const isResumed = resumed !== undefined;
  // From here on it can be expected to go well, so something may be left behind.
  const directory = resumed ?? createRunDirectory(out, config);
  const store = fileStore(join(directory, fileNames.state));
  const firstRound = Math.max(0, ...(await store.rounds("hub")));
  if (isResumed && firstRound >= plan.rounds) {
    throw new UsageError(
      `Cannot resume ${directory}: ${firstRound * wanted.localSteps} steps are done, more --steps or --epochs are needed`,
    );
  }
  await writeJson(directory, fileNames.config, config);
  await io.writeWhole(join(directory, fileNames.plan), `${showPlan(plan)}\n`);

  line.note(
    `${data.name}: ${data.train.count} training and ${data.test.count} test examples of ${data.classes} classes`,
  );
  line.note(
    `${config.model}: ${problem.parameters} parameters; ${config.optimizer} on ${workersText(config)}; cpu, reference kernels`,
  );
  if (isResumed)
    line.note(`resuming at step ${firstRound * plan.localSteps} of ${plan.rounds * plan.localSteps}`);

  const recorder = await openRecorder(directory, plan, config, data.train.count, firstRound, line);
  const interrupt = interruption(line);
  try {
    const result = await runPlan({
      setup: trainingSetup(plan, problem),
      config,
      directory,
      store,
      signal: interrupt.signal,
      onProgress: (progress, bytes) => recorder.take(progress, bytes),
      onNotice: (text) => line.note(text),
    });
    line.end();
    if (recorder.metrics.length === 0) {
      process.stdout.write(
        `stopped before the first round was complete: continue with --resume ${directory}\n`,
      );
      return exitCodes.interrupted;
    }
    const theta = result.theta;
    const summary = await finish(
      directory,
      config,
      plan,
      problem,
      recorder,
      theta,
      result,
      result.reason === "finished",
    );
    printSummary(summary, directory, plan);
    return result.reason === "finished" ? exitCodes.done : exitCodes.interrupted;
  } catch (error) {
    if (!(error instanceof RunError)) throw error;
    line.end();
    const saved = await saveNewest(directory, problem, store);
    process.stderr.write(`${error.message}\n`);
    if (saved !== null) {
      const how = error.message.includes("a finite loss is needed")
        ? `resumed, it would come to the same loss; start a new one with ${smallerRates(plan)}`
        : `continue it with --resume ${directory}`;
      process.stderr.write(`The run is saved up to step ${saved * plan.localSteps}: ${how}\n`);
    }
    return exitCodes.failed;
  } finally {
    interrupt.release();
  }
}

/** What to change after steps that were too long. */
function smallerRates({ update, curvature }: Plan): string {
  const rate = `--lr below ${update.learningRate}`;
  return curvature === null ? rate : `${rate} or --alpha below ${curvature.alpha}`;
}

function workersText({ workers, runtime }: TrainConfig): string {
  const plural = workers === 1 ? "" : "s";
  return runtime === "local"
    ? `${workers} worker${plural} in this process`
    : `${workers} worker process${plural && "es"}`;
}

/** A new run and where to put it, or an earlier one with its own configuration. */
function openRun(args: readonly string[]): {
  readonly config: TrainConfig;
  readonly out: string | undefined;
  readonly resumed: string | undefined;
} {
  const { config, out, resume, given } = parseTrainFlags(args);
  if (resume === undefined) {
    if (out !== undefined) checkOut(out);
    // The run may be resumed from elsewhere.
    const dataDir = config.dataDir === undefined ? undefined : resolve(config.dataDir);
    return { config: { ...config, dataDir }, out, resumed: undefined };
  }
  const fixed = given.find((name) => !["resume", "steps", "epochs", "runtime", "port"].includes(name));
  if (fixed !== undefined) {
    throw new UsageError(
      `Cannot use --${fixed} with --resume: a resumed run keeps its configuration, only --steps, --epochs, --runtime and --port may change`,
    );
  }
  const earlier = readConfig(resume);
  const length = given.includes("steps")
    ? { steps: config.steps }
    : given.includes("epochs")
      ? { epochs: config.epochs, steps: undefined }
      : {};
  return {
    config: {
      ...earlier,
      ...length,
      ...(given.includes("runtime") && { runtime: config.runtime }),
      port: config.port,
    },
    out: undefined,
    resumed: resume,
  };
}

/** Ctrl-C: the first lets the round finish, the second ends at once. */
function interruption(line: ProgressLine): { readonly signal: AbortSignal; release(): void } {
  const controller = new AbortController();
  const onSignal = (): void => {
    if (controller.signal.aborted) process.exit(exitCodes.interrupted);
    line.note("finishing this round, then stopping; press Ctrl-C again to stop at once");
    controller.abort();
  };
  process.on("SIGINT", onSignal);
  process.on("SIGTERM", onSignal);
  return {
    signal: controller.signal,
    release() {
      process.off("SIGINT", onSignal);
      process.off("SIGTERM", onSignal);
    },
  };
}

interface Recorder {
  take(progress: Progress, bytesSent: number): void;
  readonly metrics: readonly Metric[];
  seconds(): number;
  bytes(): number;
}

/**
 * Collects metrics of the current attempt. Those of a round are written just before the round is saved: whenever the
 * program is killed, the file has at least the rounds that a resumed run will not repeat.
 */
async function openRecorder(
  directory: string,
  plan: Plan,
  config: TrainConfig,
  trainCount: number,
  firstRound: number,
  line: ProgressLine,
): Promise<Recorder> {
  const metrics = readMetrics(directory, firstRound);
  await writeMetrics(directory, metrics);
  const before = metrics.at(-1);
  const [secondsBefore, bytesBefore] = [before?.seconds ?? 0, before?.bytesSent ?? 0];
  const started = performance.now();
  const seconds = (): number => secondsBefore + (performance.now() - started) / 1000;
  const perStep = batchSize(config, trainCount) * plan.workers;
  let attempt = 0;
  let pending: Metric[] = [];
  let extra: Partial<Metric> = {};
  let bytes = bytesBefore;
  let lastCurvature = lastCurvatureBefore(plan, firstRound);

  const add = (round: number, step: number, steps: number, notes: readonly (readonly number[])[]): void => {
    const loss = notes.reduce((sum, own) => sum + own[0]!, 0) / notes.length;
    const right = notes.reduce((sum, own) => sum + (own[1] ?? 0), 0);
    pending.push({
      step,
      round,
      loss,
      accuracy: right / (perStep * steps),
      seconds: seconds(),
      bytesSent: bytes,
    });
  };
  return {
    metrics,
    seconds,
    bytes: () => bytes,
    take(progress, sent) {
      bytes = bytesBefore + sent;
      if (progress.attempt !== attempt) {
        attempt = progress.attempt;
        pending = [];
        extra = {};
      }
      if (progress.k === "completed") {
        const last = pending.at(-1);
        metrics.push(...pending);
        if (last)
          show(
            line,
            plan,
            last,
            lastCurvature,
            seconds() - secondsBefore,
            last.step - firstRound * plan.localSteps,
          );
        pending = [];
        extra = {};
        return;
      }
      const { round, phase, iteration, hub, workers } = progress;
      const start = round * plan.localSteps;
      if (phase === "local") add(round, start + plan.localSteps, plan.localSteps, workers);
      if (phase === "gradient") add(round, start + 1, 1, workers);
      if (phase === "step") add(round, start + iteration + 2, 1, workers);
      if (phase === "product") line.show(`step ${start}  measuring curvature: product ${iteration + 1}`);
      if (phase === "vectors") {
        lastCurvature = start;
        extra = { ...extra, eigenvalues: hub.slice(0, hub.length / 2), residuals: hub.slice(hub.length / 2) };
      }
      if (phase === "evaluate") extra = { ...extra, testLoss: hub[0]!, testAccuracy: hub[1]! };
      if (phase === lastPhase(plan, round)) {
        pending.push({ ...pending.pop()!, ...extra });
        appendMetrics(directory, pending);
      }
    },
  };
}

/** The phase after which a round is saved; it is never one of a loop. */
function lastPhase(plan: Plan, round: number): string | undefined {
  const item = roundScript(plan, round).at(-1);
  return item && "name" in item ? item.name : undefined;
}

function lastCurvatureBefore(plan: Plan, round: number): number | null {
  for (let r = round - 1; r >= 0; r--) if (curvatureDueAt(plan, r)) return r * plan.localSteps;
  return null;
}

function show(
  line: ProgressLine,
  plan: Plan,
  metric: Metric,
  lastCurvature: number | null,
  seconds: number,
  stepsDone: number,
): void {
  const stepsPerSecond = stepsDone / Math.max(seconds, 1e-9);
  const steps = plan.rounds * plan.localSteps;
  line.show(
    progressText({
      step: metric.step,
      steps,
      loss: metric.loss,
      accuracy: metric.accuracy,
      stepsPerSecond,
      bytesSent: metric.bytesSent,
      curvatureAge: lastCurvature === null ? null : metric.step - lastCurvature,
      secondsLeft: (steps - metric.step) / Math.max(stepsPerSecond, 1e-9),
    }),
  );
}

/** Checkpoint, summary and report. */
async function finish(
  directory: string,
  config: TrainConfig,
  plan: Plan,
  problem: TrainingProblem,
  recorder: Recorder,
  theta: Value,
  run: { readonly round: number; readonly peakMemoryBytes: number },
  complete: boolean,
): Promise<Summary> {
  await io.save(join(directory, fileNames.checkpoint), problem.unravel(theta), {
    step: String(run.round * plan.localSteps),
  });
  const [, testAccuracy] = problem.evaluate(theta);
  const summary: Summary = {
    task: config.data,
    model: config.model,
    optimizer: config.optimizer,
    workers: config.workers,
    device: "cpu",
    steps: run.round * plan.localSteps,
    seconds: recorder.seconds(),
    finalLoss: recorder.metrics.at(-1)?.loss ?? Number.NaN,
    testAccuracy,
    bytesSent: recorder.bytes(),
    peakMemoryBytes: run.peakMemoryBytes,
    seed: config.seed,
    complete,
  };
  await writeJson(directory, fileNames.summary, summary);
  await writeReport(join(directory, fileNames.report), [directory]);
  return summary;
}

/** The checkpoint of the newest saved round, or null when there is none. */
async function saveNewest(directory: string, problem: TrainingProblem, store: Store): Promise<number | null> {
  const round = Math.max(...(await store.rounds("hub")));
  const saved = Number.isFinite(round) ? await store.get("hub", round) : null;
  if (!saved) return null;
  await io.save(join(directory, fileNames.checkpoint), problem.unravel(saved.values["theta"] as Value));
  return round;
}

function printSummary(summary: Summary, directory: string, plan: Plan): void {
  const lines = [
    `${summary.complete ? "done" : `stopped at step ${summary.steps} of ${plan.rounds * plan.localSteps}`} in ${secondsText(summary.seconds)}: ` +
      `loss ${summary.finalLoss.toFixed(4)}, test accuracy ${(100 * summary.testAccuracy).toFixed(2)}%, sent ${bytesText(summary.bytesSent)}, peak memory ${bytesText(summary.peakMemoryBytes)}`,
    `results in ${directory}: ${fileNames.summary}, ${fileNames.metrics}, ${fileNames.checkpoint}, ${fileNames.report}`,
    ...(summary.complete ? [] : [`continue with --resume ${directory}`]),
  ];
  process.stdout.write(`${lines.join("\n")}\n`);
}
