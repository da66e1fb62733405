/** What a run writes down of its steps, and goes on from when it is resumed. */

import { expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseTrainFlags } from "../../cli/config.ts";
import { planOf } from "../../cli/plan.ts";
import { exposedSeconds, openRecorder, type Recorder } from "../../cli/recorder.ts";
import { metricsOf, words } from "./program_support.ts";

const flags = "--optimizer local-adam --period 8 --local-steps 10 --steps 30 --eval-every 1000 --batch 5";
const { config } = parseTrainFlags(words(flags));
const plan = planOf(config, 100, 7);
const line = { show: () => {}, note: () => {}, end: () => {} };

/** Two phases of the same name in a round, as rounds have that end between two agreements. */
function takeRound(recorder: Recorder, round: number, bytes: number): void {
  const notes = (count: number) => Array.from({ length: 2 * count }, (_, i) => (i % 2 === 0 ? 0.5 : 4));
  const of = { k: "progress", round, attempt: 1, phase: "steps", iteration: 0, hub: [] } as const;
  const traffic = { bytes, backgroundBytes: 0, busySeconds: 1 };
  recorder.take({ ...of, isLast: false, workers: [notes(8), notes(8)] }, traffic);
  recorder.take(
    { ...of, isLast: false, phase: "land", workers: [[], []] },
    { ...traffic, bytes: bytes + 50 },
  );
  recorder.take({ ...of, isLast: true, workers: [notes(2), notes(2)] }, { ...traffic, bytes: bytes + 60 });
  recorder.take({ k: "completed", round, attempt: 1 }, { ...traffic, bytes: bytes + 60 });
}

test("every step is one line, also where the last phase of a round is named as others; what was sent is counted on", async () => {
  const directory = mkdtempSync(join(tmpdir(), "cotangent-recorder-"));
  try {
    const first = await openRecorder({ directory, plan, config }, 100, 0, line);
    takeRound(first, 0, 100);
    takeRound(first, 1, 200);
    const steps = Array.from({ length: 20 }, (_, i) => i + 1);
    expect(metricsOf(directory).map(({ step }) => step)).toEqual(steps);
    expect(metricsOf(directory).at(-1)).toMatchObject({ loss: 0.5, accuracy: 0.8, bytesSent: 260 });

    const second = await openRecorder({ directory, plan, config }, 100, 2, line);
    takeRound(second, 2, 100);
    expect(second.totals()).toMatchObject({ bytes: 260 + 160, busySeconds: 2 });
    expect(second.metrics.map(({ step }) => step)).toEqual([
      ...steps,
      ...steps.slice(0, 10).map((i) => i + 20),
    ]);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
});

test("bytes that move after the last step of a round are in its line", async () => {
  const directory = mkdtempSync(join(tmpdir(), "cotangent-recorder-"));
  try {
    const recorder = await openRecorder({ directory, plan, config }, 100, 0, line);
    const of = { k: "progress", round: 0, attempt: 1, iteration: 0, hub: [] } as const;
    const traffic = { backgroundBytes: 0, busySeconds: 1 };
    recorder.take({ ...of, phase: "step", isLast: false, workers: [[1], [1]] }, { ...traffic, bytes: 10 });
    recorder.take({ ...of, phase: "view", isLast: false, workers: [[], []] }, { ...traffic, bytes: 30 });
    recorder.take(
      { ...of, phase: "evaluate", isLast: true, hub: [2, 0.5], workers: [] },
      { ...traffic, bytes: 30 },
    );
    const [only] = metricsOf(directory);
    expect(only).toMatchObject({ bytesSent: 30, testAccuracy: 0.5 });
    const { evaluationSeconds } = recorder.totals();
    expect(evaluationSeconds).toBeGreaterThan(0);
    expect(only!["evaluationSeconds"]).toBe(evaluationSeconds);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
});

test("the progress line has what went in the background, and how much of the time all waited", async () => {
  const directory = mkdtempSync(join(tmpdir(), "cotangent-recorder-"));
  try {
    for (const optimizer of ["div-adam", "adam"]) {
      const own = parseTrainFlags(words(`--optimizer ${optimizer} --steps 20 --batch 5`)).config;
      const shown: string[] = [];
      const recorder = await openRecorder({ directory, plan: planOf(own, 100, 7), config: own }, 100, 0, {
        ...line,
        show: (text) => shown.push(text),
      });
      const of = { round: 0, attempt: 1 } as const;
      // More than has gone by: nobody waited.
      const traffic = { bytes: 4500, backgroundBytes: optimizer === "adam" ? 0 : 3000, busySeconds: 1000 };
      const notes = [
        [0.5, 5],
        [0.5, 4],
      ];
      const phase = { ...of, k: "progress", phase: "step", iteration: 0, hub: [], isLast: true } as const;
      recorder.take({ ...phase, workers: notes }, traffic);
      recorder.take({ ...of, k: "completed" }, traffic);
      expect(shown.length).toBe(1);
      expect(shown[0]).toStartWith("step 1/20  loss 0.5000  accuracy 90.0%  ");
      expect(shown[0]).toEndWith(
        optimizer === "adam"
          ? " steps/s  sent 4.50 kB"
          : " steps/s  sent 1.50 kB  3.00 kB in the background  waiting 0%",
      );
    }
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
});

test("nobody waited while processes were started, the hub evaluated or a worker computed", async () => {
  expect(exposedSeconds(10, { startSeconds: 3, evaluationSeconds: 2, busySeconds: 4 })).toBe(1);
  expect(exposedSeconds(10, { startSeconds: 3, evaluationSeconds: 4, busySeconds: 4 })).toBe(0);
  // In one process it is not known.
  expect(exposedSeconds(10, { busySeconds: 0 })).toBeNull();

  const directory = mkdtempSync(join(tmpdir(), "cotangent-recorder-"));
  try {
    const recorder = await openRecorder({ directory, plan, config }, 100, 0, line);
    await Bun.sleep(60);
    const of = { k: "progress", round: 0, attempt: 1, iteration: 0, hub: [], phase: "step" } as const;
    const traffic = { bytes: 0, backgroundBytes: 0, busySeconds: 0.01 };
    recorder.take({ ...of, isLast: false, workers: [[1], [1]] }, traffic);
    const { startSeconds } = recorder.totals();
    expect(startSeconds).toBeGreaterThan(0.04);
    expect(startSeconds).toBeLessThanOrEqual(recorder.seconds() - 0.01);
    recorder.take({ ...of, isLast: false, workers: [[1], [1]] }, traffic);
    expect(recorder.totals().startSeconds).toBe(startSeconds);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
});
