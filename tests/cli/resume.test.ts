/** Runs that are stopped and continued, by Ctrl-C or by a kill of the whole program. */

import { beforeAll, expect, test } from "bun:test";
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import {
  checkpointOf,
  curveOf,
  isAlive,
  LONG,
  metricsOf,
  PLAIN,
  SMALL,
  summaryOf,
  type Undisturbed,
  undisturbed,
  until,
  withPrograms,
  words,
  workersOf,
} from "./program_support.ts";

/** No test waits longer for the programs that it starts. */
const LIMIT_MS = 120_000;

let reference: Undisturbed;
beforeAll(async () => {
  reference = await undisturbed();
}, LIMIT_MS);

test(
  "Ctrl-C finishes the round, says so and exits with 130; resumed, the run ends with the same bits",
  async () => {
    await withPrograms(async (dir, start) => {
      const run = join(dir, "run");
      const first = start(["train", ...LONG, "--out", "run"]);
      await until(first, () => metricsOf(run).length >= 4);
      first.interrupt();
      const stopped = await first.ended;
      expect(stopped.code).toBe(130);
      expect(stopped.err).toContain(
        "finishing this round, then stopping; press Ctrl-C again to stop at once",
      );
      expect(stopped.err).not.toMatch(/worker \d has ended/);
      expect(stopped.out).toMatch(/^stopped at step \d+ of 120 in /);
      expect(stopped.out).toContain("continue with --resume run");
      expect(summaryOf(run)).toMatchObject({ complete: false, steps: metricsOf(run).at(-1)!.step });
      expect(curveOf(run)).toEqual(reference.curve.slice(0, metricsOf(run).length));
      expect(metricsOf(run).length).toBeLessThan(reference.curve.length);
      // Half a line, as after a crash of the machine, is dropped.
      writeFileSync(
        join(run, "metrics.jsonl"),
        `${readFileSync(join(run, "metrics.jsonl"), "utf8")}{"step":9`,
      );

      const second = await start(["train", "--resume", "run"]).ended;
      expect(second.code).toBe(0);
      expect(second.err).toMatch(/^resuming at step \d+ of 120$/m);
      expect(curveOf(run)).toEqual(reference.curve);
      expect(checkpointOf(run)).toBe(reference.checkpoint);
      expect(summaryOf(run)).toMatchObject({ complete: true, steps: 120 });
      const seconds = metricsOf(run).map((line) => line["seconds"] as number);
      expect(seconds).toEqual(seconds.toSorted((a, b) => a - b));
    });
  },
  LIMIT_MS,
);

test(
  "Ctrl-C before the first round is complete leaves a run that can be resumed, and so does a second Ctrl-C",
  async () => {
    await withPrograms(async (dir, start) => {
      // Right after the first words, while workers are starting.
      const early = start(["train", ...LONG, "--out", "early"]);
      await until(early, () => early.err().includes("worker processes"));
      await until(early, () => workersOf(early).size > 0);
      early.interrupt();
      const stopped = await early.ended;
      expect(stopped.code).toBe(130);
      expect(stopped.out).toContain("continue with --resume early");

      const twice = start(["train", ...LONG, "--out", "twice"]);
      await until(twice, () => metricsOf(join(dir, "twice")).length >= 2);
      const workers = [...workersOf(twice).values()];
      twice.interrupt();
      // The round may be over before the second one comes.
      await until(twice, () => twice.err().includes("press Ctrl-C again")).catch(() => {});
      twice.interrupt();
      expect((await twice.ended).code).toBe(130);
      for (let i = 0; i < 200 && workers.some(isAlive); i++) await Bun.sleep(10);
      expect(workers.filter(isAlive)).toEqual([]);

      for (const name of ["early", "twice"]) {
        const resumed = await start(["train", "--resume", name]).ended;
        expect(resumed.err).not.toContain("Cannot");
        expect(resumed.code).toBe(0);
        expect(checkpointOf(join(dir, name))).toBe(reference.checkpoint);
        expect(curveOf(join(dir, name))).toEqual(reference.curve);
      }
    });
  },
  LIMIT_MS,
);

test(
  "the program is killed: its workers end by themselves, and the run goes on without a gap",
  async () => {
    await withPrograms(async (dir, start) => {
      const run = join(dir, "run");
      const first = start(["train", ...LONG, "--out", "run"]);
      await until(first, () => metricsOf(run).length >= 5);
      const workers = [...workersOf(first).values()];
      expect(workers.length).toBe(2);
      first.kill();
      expect((await first.ended).code).not.toBe(0);
      // The old workers may still be there: they belong to another life.
      const second = await start(["train", "--resume", "run"]).ended;
      expect(second.code).toBe(0);
      expect(checkpointOf(run)).toBe(reference.checkpoint);
      expect(curveOf(run)).toEqual(reference.curve);
      for (let i = 0; i < 150 && workers.some(isAlive); i++) await Bun.sleep(100);
      expect(workers.filter(isAlive)).toEqual([]);
    });
  },
  LIMIT_MS,
);

test(
  "a finished run can be made longer, elsewhere and in another runtime, and no other flag may change",
  async () => {
    await withPrograms(async (dir, start) => {
      // Shorter than a round of 10 steps: the rounds of the longer run are as long.
      const flags = words("--runtime local --steps 6 --batch 16 --curvature-every 6");
      expect((await start(["train", ...SMALL, ...flags, "--out", "run"]).ended).code).toBe(0);
      const whole = ["train", ...SMALL, ...flags, ...words("--local-steps 6 --steps 18 --out whole")];
      expect((await start(whole).ended).code).toBe(0);

      const refusals: readonly (readonly [flags: string, message: RegExp])[] = [
        ["", /^Cannot resume run: 6 steps are done, more --steps or --epochs are needed$/m],
        ["--steps 3", /^Cannot resume run: 6 steps are done, more --steps or --epochs are needed$/m],
        [
          "--hidden 16",
          /^Cannot use --hidden with --resume: .* only --steps, --epochs, --lr, --alpha, --runtime, --device, --port, --host, --launch, --flush-at-end may/,
        ],
        ["--steps 9 --seed 1", /^Cannot use --seed with --resume/],
        ["--out other", /^Cannot use --out with --resume/],
      ];
      for (const [more, message] of refusals) {
        const ended = await start(["train", "--resume", "run", ...words(more)]).ended;
        expect(ended.err).toMatch(message);
        expect(ended.code).toBe(2);
      }
      const longer = await start(["train", "--resume", "run", ...words("--steps 18 --runtime sockets")])
        .ended;
      expect(longer.err).toMatch(/^resuming at step 6 of 18$/m);
      expect(longer.code).toBe(0);
      expect(curveOf(join(dir, "run"))).toEqual(curveOf(join(dir, "whole")));
      expect(checkpointOf(join(dir, "run"))).toBe(checkpointOf(join(dir, "whole")));
    });
  },
  LIMIT_MS,
);

test(
  "a flushed run goes on with other workers, and one that was not is refused",
  async () => {
    await withPrograms(async (dir, start) => {
      const run = join(dir, "run");
      const flags = words("--optimizer div-adam --runtime local --steps 30 --ratio 8 --dense-steps 2");
      expect((await start(["train", ...PLAIN, ...flags, "--out", "run"]).ended).code).toBe(0);
      const more = (text: string) => start(["train", "--resume", "run", ...words(text)]).ended;
      const namesOf = (): string[] => [
        ...new Set(readdirSync(join(run, "state")).map((file) => file.split(".")[0]!)),
      ];

      const differing = await more("--steps 50 --workers 3");
      expect(differing.err).toMatch(
        /^Cannot use --workers with --resume: a resumed run keeps its configuration, .* may change; a div-adam run that has ended with --flush-at-end yes may go on with other --workers$/m,
      );
      expect(differing.code).toBe(2);
      expect(JSON.parse(readFileSync(join(run, "config.json"), "utf8"))).toMatchObject({ workers: 2 });

      expect((await more("--steps 40 --flush-at-end yes")).code).toBe(0);
      const inEpochs = await more("--epochs 9 --workers 3");
      expect(inEpochs.err).toMatch(
        /^Cannot use --workers 3 with --resume: .* in epochs of 2 workers, --steps is needed$/m,
      );
      expect(inEpochs.code).toBe(2);
      const third = await more("--steps 60 --workers 3 --runtime sockets");
      expect(third.err).toMatch(/^resuming at step 40 of 60$/m);
      expect(third.code).toBe(0);
      expect(summaryOf(run)).toMatchObject({ complete: true, steps: 60, workers: 3 });
      expect(namesOf().sort()).toEqual(["hub", "worker-0", "worker-1", "worker-2"]);
      const alone = await more("--steps 80 --workers 1");
      expect(alone.code).toBe(0);
      expect(namesOf().sort()).toEqual(["hub", "worker-0"]);
      const losses = metricsOf(run).map((line) => line["loss"] as number);
      expect(losses.length).toBe(80);
      // What workers had kept back is not lost between.
      const mean = (from: number) => losses.slice(from, from + 10).reduce((a, b) => a + b) / 10;
      expect(mean(40)).toBeLessThan(1.1 * mean(30));
      expect(mean(60)).toBeLessThan(1.1 * mean(50));
    });
  },
  LIMIT_MS,
);

test(
  "a run is resumed by one program at a time",
  async () => {
    await withPrograms(async (dir, start) => {
      const first = start(["train", ...SMALL, ...words("--runtime local --steps 20000 --out run")]);
      await until(first, () => existsSync(join(dir, "run", "metrics.jsonl")));
      const second = await start(words("train --resume run --steps 30000")).ended;
      expect(second.err).toMatch(/^Cannot use the run in run: process \d+ is at it/m);
      expect(second.code).toBe(2);
      // A lock of a program that was killed is nobody's.
      first.kill();
      await first.ended;
      expect(existsSync(join(dir, "run", "lock"))).toBe(true);
      const third = start(words("train --resume run"));
      await until(third, () => /^resuming at step/m.test(third.err()));
      third.interrupt();
      expect((await third.ended).code).toBe(130);
      expect(existsSync(join(dir, "run", "lock"))).toBe(false);
    });
  },
  LIMIT_MS,
);

test("a directory that is no run cannot be resumed, and stays as it was", async () => {
  await withPrograms(async (dir, start) => {
    mkdirSync(join(dir, "photos"));
    const none = await start(words("train --resume photos")).ended;
    expect(none.err).toMatch(/^Cannot use the run in photos: photos\/config\.json does not exist, /);
    writeFileSync(join(dir, "photos", "config.json"), "{");
    const broken = await start(words("train --resume photos")).ended;
    expect(broken.err).toMatch(/^Cannot use the run in photos: photos\/config\.json is not JSON, /);
    writeFileSync(join(dir, "photos", "config.json"), '{"name":"an app of somebody else"}');
    const other = await start(words("train --resume photos")).ended;
    expect(other.err).toMatch(
      /^Cannot use the run in photos: photos\/config\.json is of something else \(it lacks "data"\), /,
    );
    expect([none.code, broken.code, other.code]).toEqual([2, 2, 2]);
    expect(readdirSync(join(dir, "photos"))).toEqual(["config.json"]);
  });
});

test(
  "a damaged newest save: the run goes on from the one before, to the same bits",
  async () => {
    await withPrograms(async (dir, start) => {
      const run = join(dir, "run");
      const first = start(["train", ...LONG, "--runtime", "local", "--out", "run"]);
      await until(first, () => metricsOf(run).length >= 4);
      first.kill();
      await first.ended;
      const state = join(run, "state");
      const rounds = readdirSync(state).flatMap((file) => /^hub\.(\d+)\.safetensors$/.exec(file)?.[1] ?? []);
      const newest = Math.max(...rounds.map(Number));
      writeFileSync(join(state, `hub.${newest}.safetensors`), "half a save");
      const second = await start(["train", "--resume", "run"]).ended;
      expect(second.code).toBe(0);
      expect(curveOf(run)).toEqual(reference.curve);
      expect(checkpointOf(run)).toBe(reference.checkpoint);
    });
  },
  LIMIT_MS,
);
