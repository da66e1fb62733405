/** Collects the metrics of a run, keeps those of complete rounds, and shows the latest. */
import { isCommunication } from "../dist/compress/plan.ts";
import { curvatureDueAt, type Plan } from "../dist/plan.ts";
import type { Progress } from "../dist/runtime/driver.ts";
import type { TrainConfig } from "./config.ts";
import { batchSize } from "./plan.ts";
import { type ProgressLine, progressText } from "./progress_line.ts";
import { appendMetrics, type Metric, readMetrics, writeMetrics } from "./run_directory.ts";

/** The measurements of a run as they come in. */
export interface Recorder {
  take(progress: Progress, traffic: Traffic): void;
  readonly metrics: readonly Metric[];
  seconds(): number;
  /** So far, with the runs that this one continues. */
  totals(): Totals;
}

/** What has gone through sockets, and how long workers have computed. */
export interface Traffic {
  readonly bytes: number;
  readonly backgroundBytes: number;
  readonly busySeconds: number;
}

interface Totals extends Traffic {
  readonly evaluationSeconds: number;
  readonly startSeconds: number;
}

/** In one process there are no messages, and nobody waits. */
export const noTraffic: Traffic = { bytes: 0, backgroundBytes: 0, busySeconds: 0 };

/**
 * Collects metrics of the current attempt. Those of a round are written just before the round is saved: whenever the
 * program is killed, the file has at least the rounds that a resumed run will not repeat.
 */
export async function openRecorder(
  {
    directory,
    plan,
    config,
  }: { readonly directory: string; readonly plan: Plan; readonly config: TrainConfig },
  trainCount: number,
  firstRound: number,
  line: ProgressLine,
): Promise<Recorder> {
  const metrics = readMetrics(directory, firstRound);
  await writeMetrics(directory, metrics);
  const before = metrics.at(-1);
  const secondsBefore = before?.seconds ?? 0;
  const totalsBefore: Totals = {
    bytes: before?.bytesSent ?? 0,
    backgroundBytes: before?.backgroundBytes ?? 0,
    busySeconds: before?.busySeconds ?? 0,
    evaluationSeconds: before?.evaluationSeconds ?? 0,
    startSeconds: before?.startSeconds ?? 0,
  };
  const started = performance.now();
  const seconds = (): number => secondsBefore + (performance.now() - started) / 1000;
  const perStep = batchSize(config, trainCount) * plan.workers;
  let attempt = 0;
  let pending: Metric[] = [];
  let extra: Partial<Metric> = {};
  let totals = totalsBefore;
  // The end of the phase before; null before the first.
  let last: number | null = null;
  let lastCurvature = lastCurvatureBefore(plan, firstRound);

  const counts = (): Pick<Metric, "seconds" | "bytesSent"> & Partial<Metric> => ({
    seconds: seconds(),
    evaluationSeconds: totals.evaluationSeconds,
    bytesSent: totals.bytes,
    ...(totals.busySeconds > 0 && { busySeconds: totals.busySeconds, startSeconds: totals.startSeconds }),
    ...(totals.backgroundBytes > 0 && { backgroundBytes: totals.backgroundBytes }),
  });
  const add = (round: number, step: number, steps: number, notes: readonly (readonly number[])[]): void => {
    const loss = notes.reduce((sum, own) => sum + own[0]!, 0) / notes.length;
    const right = notes.reduce((sum, own) => sum + (own[1] ?? 0), 0);
    pending.push({ step, round, loss, accuracy: right / (perStep * steps), ...counts() });
  };
  return {
    metrics,
    seconds,
    totals: () => totals,
    take(progress, { bytes, backgroundBytes, busySeconds }) {
      const now = performance.now();
      const phaseSeconds = (now - (last ?? started)) / 1000;
      // Before the first phase came processes that had to start, and whatever it has itself taken is told.
      const isFirst = last === null;
      last = now;
      const isEvaluation =
        progress.k === "progress" && (progress.phase === "view" || progress.phase === "evaluate");
      totals = {
        startSeconds: totals.startSeconds + (isFirst ? Math.max(0, phaseSeconds - busySeconds) : 0),
        evaluationSeconds: totals.evaluationSeconds + (isEvaluation ? phaseSeconds : 0),
        bytes: totalsBefore.bytes + bytes,
        backgroundBytes: totalsBefore.backgroundBytes + backgroundBytes,
        busySeconds: totalsBefore.busySeconds + busySeconds,
      };
      if (progress.attempt !== attempt) {
        attempt = progress.attempt;
        pending = [];
        extra = {};
      }
      if (progress.k === "completed") {
        const newest = pending.at(-1);
        metrics.push(...pending);
        if (newest)
          show(
            line,
            plan,
            newest,
            lastCurvature,
            seconds() - secondsBefore,
            newest.step - firstRound * plan.localSteps,
          );
        pending = [];
        extra = {};
        return;
      }
      const { round, phase, iteration, hub, workers } = progress;
      const start = round * plan.localSteps;
      if (phase === "local") add(round, start + plan.localSteps, plan.localSteps, workers);
      // Steps of a round may be turns of several loops: each adds one.
      if (phase === "gradient" || phase === "step") add(round, start + pending.length + 1, 1, workers);
      // Local steps without a message between them: the notes of each, one after another.
      if (phase === "steps") {
        for (let at = 0; at < workers[0]!.length; at += 2)
          add(
            round,
            start + pending.length + 1,
            1,
            workers.map((own) => own.slice(at, at + 2)),
          );
      }
      if (phase === "product") line.show(`step ${start}  measuring curvature: product ${iteration + 1}`);
      // Of curvature workers it is adopted here; in rounds without there are no notes.
      const isAdopted = phase === "collect" && hub.length > 0;
      if (phase === "vectors" || isAdopted) {
        lastCurvature = start - (isAdopted ? delayOf(plan) : 0);
        extra = {
          ...extra,
          curvatureStep: lastCurvature,
          eigenvalues: hub.slice(0, hub.length / 2),
          residuals: hub.slice(hub.length / 2),
        };
      }
      if (phase === "evaluate") extra = { ...extra, testLoss: hub[0]!, testAccuracy: hub[1]! };
      if (progress.isLast) {
        // With all that has gone through sockets since the step: a run that is resumed counts on from here.
        pending.push({ ...pending.pop()!, ...counts(), ...extra });
        appendMetrics(directory, pending);
      }
    },
  };
}

/** Seconds in which no worker computed, none was started and the hub did not evaluate; null where it is not known. */
export function exposedSeconds(
  seconds: number,
  { evaluationSeconds = 0, startSeconds = 0, busySeconds = 0 }: Partial<Metric>,
): number | null {
  return busySeconds === 0 ? null : Math.max(0, seconds - evaluationSeconds - startSeconds - busySeconds);
}

/** These as a part of the time in which workers have computed or waited; null where it is not known. */
function exposedShare(metric: Metric): number | null {
  const exposed = exposedSeconds(metric.seconds, metric);
  return exposed === null ? null : exposed / (exposed + metric.busySeconds!);
}

/** Steps from the measurement of curvature to its adoption, where that is agreed. */
function delayOf({ curvature, localSteps }: Plan): number {
  const split = curvature?.split;
  return split?.late === "wait" ? split.delay * localSteps : 0;
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
      backgroundBytes: metric.backgroundBytes ?? null,
      exposed: isCommunication(plan.sync) ? exposedShare(metric) : null,
      curvatureAge: lastCurvature === null ? null : metric.step - lastCurvature,
      secondsLeft: (steps - metric.step) / Math.max(stepsPerSecond, 1e-9),
    }),
  );
}
