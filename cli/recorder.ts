/** Collects the metrics of a run, keeps those of complete rounds, and shows the latest. */
import { curvatureDueAt, type Plan } from "../dist/plan.ts";
import type { Progress } from "../dist/runtime/driver.ts";
import { roundScript } from "../dist/script.ts";
import type { TrainConfig } from "./config.ts";
import { batchSize } from "./plan.ts";
import { type ProgressLine, progressText } from "./progress_line.ts";
import { appendMetrics, type Metric, readMetrics, writeMetrics } from "./run_directory.ts";

/** The measurements of a run as they come in. */
export interface Recorder {
  take(progress: Progress, bytesSent: number): void;
  readonly metrics: readonly Metric[];
  seconds(): number;
  bytes(): number;
}

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
      // Steps of a round may be turns of several loops: each adds one.
      if (phase === "gradient" || phase === "step") add(round, start + pending.length + 1, 1, workers);
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
      if (phase === lastPhase(plan, round)) {
        pending.push({ ...pending.pop()!, ...extra });
        appendMetrics(directory, pending);
      }
    },
  };
}

/** Steps from the measurement of curvature to its adoption, where that is agreed. */
function delayOf({ curvature, localSteps }: Plan): number {
  const split = curvature?.split;
  return split?.late === "wait" ? split.delay * localSteps : 0;
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
