/** `cotangent train` on the GPU: the curves of the CPU for every method, one transfer for each message, resumed runs. */
import { expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { parseTrainFlags } from "../../cli/config.ts";
import { openData } from "../../cli/open_data.ts";
import { planOf } from "../../cli/plan.ts";
import { problemOf } from "../../cli/problem.ts";
import { webgpuContext } from "../../core/backends/webgpu/open.ts";
import type { Value } from "../../core/value.ts";
import { trainingSetup } from "../../dist/jobs.ts";
import type { Plan } from "../../dist/plan.ts";
import type { Progress } from "../../dist/runtime/driver.ts";
import { runLocal } from "../../dist/runtime/local.ts";
import { runSequential } from "../../dist/runtime/sequential.ts";
import { curveOf, summaryOf, withPrograms, words } from "../cli/program_support.ts";
import { length, list, maxDifference } from "../optim/numbers.ts";
import { countReads, hasGpu, inPlace, onHost } from "./support.ts";

setDefaultTimeout(60_000);
const gpu = test.skipIf(!hasGpu);
const reads = hasGpu ? countReads() : { count: 0 };

const SMALL = "--train-limit 64 --test-limit 40 --batch 8 --local-steps 2";
const CURVED = "--k 2 --curvature-batch 16 --curvature-every 2 --curvature-warmup 2";

interface Run {
  readonly plan: Plan;
  readonly losses: readonly number[];
  readonly theta: Value;
  readonly accuracies: readonly number[];
  readonly reads: number;
  readonly setup: ReturnType<typeof trainingSetup>;
}

/** A run in this process: the losses of its rounds, the parameters at its end, and what it read. */
async function runOf(flags: string): Promise<Run> {
  const { config } = parseTrainFlags(words(`${SMALL} ${flags}`));
  const data = await openData(config, () => {});
  const problem = problemOf(config, data);
  const plan = planOf(config, data.train.count, problem.parameters);
  const setup = trainingSetup(plan, problem);
  const [losses, accuracies]: [number[], number[]] = [[], []];
  const onProgress = (progress: Progress): void => {
    if (progress.k === "completed") return;
    losses.push(...progress.workers.flatMap((notes) => notes.slice(0, 1)));
    if (progress.phase === "evaluate") accuracies.push(progress.hub[1]!);
  };
  const before = reads.count;
  const { hub } = await runLocal({ ...setup, onProgress });
  return { plan, losses, theta: hub["theta"] as Value, accuracies, reads: reads.count - before, setup };
}

/** The same on the GPU; null where jobs, which are synchronous, cannot read there, and the run has said so. */
const farRunOf = (flags: string): Promise<Run | null> => inPlace(() => runOf(`${flags} --device webgpu`));

const cases: readonly (readonly [name: string, flags: string])[] = [
  ["adam on whole shards", "--optimizer adam --batch full --steps 4"],
  ["fosi-hb", `--optimizer fosi-hb ${CURVED} --workers 1 --steps 6`],
  ["dho2 by consensus", `--optimizer dho2 ${CURVED} --workers 2 --steps 6`],
  ["dho2 as published", `--optimizer dho2 --admm published ${CURVED} --workers 2 --steps 6`],
  ["logistic regression", `--model logistic --optimizer fosi-adam ${CURVED} --steps 4`],
];

for (const [name, flags] of cases) {
  gpu(`${name}: the curve of the CPU, and the bits of the run without messages`, async () => {
    const [host, far] = [await runOf(flags), await farRunOf(flags)];
    if (far === null) return;
    expect(host.reads).toBe(0);
    expect(far.losses.length).toBe(host.losses.length);
    expect(maxDifference(far.losses, host.losses)).toBeLessThan(1e-4);
    expect(maxDifference(far.accuracies, host.accuracies)).toBeLessThan(0.051);
    // Adam's first steps are signs of gradients, whatever their size, so parameters part where one is near zero: the
    // compiled CPU backend and the reference end 9e-4 apart.
    const [there, here] = [list(await onHost(far.theta)), list(host.theta)];
    expect(length(there.map((x, i) => x - here[i]!)) / length(here)).toBeLessThan(5e-3);
    expect(list(await onHost(runSequential(far.setup).hub["theta"] as Value))).toEqual(there);
  });
}

gpu("a network of convolutions", async () => {
  const flags = "--model cnn --optimizer adam --workers 1 --batch 4 --test-limit 8 --steps 2";
  const [host, far] = [await runOf(flags), await farRunOf(flags)];
  if (far === null) return;
  expect(maxDifference(far.losses, host.losses)).toBeLessThan(1e-4);
});

gpu("one read for the scores of a round, one for each message and one for each save", async () => {
  const flags = "--optimizer dho2 --k 1 --workers 2 --steps 8";
  const run = await farRunOf(`${flags} --curvature-warmup 100 --curvature-every 100`);
  if (run === null) return;
  const { plan, reads: made, accuracies } = run;
  expect(plan.rounds).toBe(4);
  expect(made).toBe(plan.rounds * plan.workers * 3 + accuracies.length);
});

// The program runs under Bun.
test.skipIf(!hasGpu || !("Bun" in globalThis))(
  "worker processes, and a run that goes from the CPU to the GPU and back",
  async () => {
    const flags = `--model logistic --optimizer fosi-hb ${CURVED} --workers 2`;
    const expected = await runOf(`${flags} --steps 6`);
    await withPrograms(async (dir, start) => {
      expect((await start(words(`train ${SMALL} ${flags} --steps 2 --out run`)).ended).code).toBe(0);
      const far = await start(words("train --resume run --steps 4 --device webgpu")).ended;
      expect(far.err).toContain(
        `fosi-hb on 2 worker processes; webgpu on ${webgpuContext()!.device.name}\nresuming at step 2 of 4\n`,
      );
      if (!webgpuContext()!.device.canReadSync) {
        expect(far.err).toContain("cannot wait for the device");
        expect(far.code).not.toBe(0);
        return;
      }
      expect(far.code).toBe(0);
      expect(summaryOf(join(dir, "run"))).toMatchObject({ device: "webgpu", steps: 4, complete: true });
      expect((await start(words("train --resume run --steps 6 --device cpu")).ended).code).toBe(0);
      const curve = curveOf(join(dir, "run"));
      expect(curve.map(([step]) => step)).toEqual([1, 2, 3, 4, 5, 6]);
      const means = curve.map((_, i) => (expected.losses[2 * i]! + expected.losses[2 * i + 1]!) / 2);
      expect(
        maxDifference(
          curve.map(([, loss]) => loss),
          means,
        ),
      ).toBeLessThan(1e-4);
    });
  },
);
