/** What the program prints and leaves behind, for every method, model and kind of data. */

import { expect, test } from "bun:test";
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { optimizerNames, trainFlags } from "../../cli/config.ts";
import { decode } from "../../core/safetensors.ts";
import { leaves } from "../../core/tree.ts";
import type { Value } from "../../core/value.ts";
import {
  checkpointOf,
  curveOf,
  metricsOf,
  PLAIN,
  SMALL,
  summaryOf,
  withPrograms,
  words,
} from "./program_support.ts";

/** No test waits longer for the programs that it starts. */
const LIMIT_MS = 120_000;

test(
  "--help of every command lists every flag and command",
  async () => {
    await withPrograms(async (dir, start) => {
      for (const word of ["--help", "-h", "help"]) {
        const { code, out } = await start([word]).ended;
        expect(code).toBe(0);
        for (const command of ["train", "report", "worker"])
          expect(out).toMatch(new RegExp(`^  ${command} `, "m"));
      }
      const train = await start(["train", "--lr", "0.1", "--help"]).ended;
      expect(train.code).toBe(0);
      for (const [name, { value, help }] of Object.entries(trainFlags)) {
        expect(train.out).toContain(`--${name} ${value}`);
        expect(train.out).toContain(help);
      }
      const report = await start(["report", "--help"]).ended;
      expect(report.out).toMatch(/report DIR.*--out FILE/s);
      const worker = await start(["worker", "-h"]).ended;
      expect(worker.out).toMatch(/--run DIR --rank N/);
      expect([report.code, worker.code]).toEqual([0, 0]);
      // Asked for nothing, it says what it can do, and that this was a mistake.
      const nothing = await start([]).ended;
      expect(nothing).toMatchObject({ code: 2 });
      expect(nothing.out).toMatch(/^Usage: /);
      expect(readdirSync(dir)).toEqual([]);
    });
  },
  LIMIT_MS,
);

test(
  "a run leaves its configuration, plan, metrics, summary, parameters and report; the next run another directory",
  async () => {
    await withPrograms(async (dir, start) => {
      const { code, out, err } = await start(["train", ...SMALL, "--steps", "40"]).ended;
      expect(code).toBe(0);
      const run = join(dir, "runs", "glyphs-mlp-dho2");
      expect(readdirSync(run).sort()).toEqual([
        "checkpoint.safetensors",
        "config.json",
        "metrics.jsonl",
        "plan.txt",
        "report.html",
        "state",
        "summary.json",
      ]);
      expect(out).toContain("results in runs/glyphs-mlp-dho2");
      expect(err).toContain("400 training and 200 test examples of 10 classes");
      expect(err).toMatch(/^step 40\/40 {2}loss /m);

      const metrics = metricsOf(run);
      expect(metrics.map(({ step, round }) => [step, round])).toEqual([
        [10, 0],
        [20, 1],
        [30, 2],
        [40, 3],
      ]);
      for (const line of metrics) {
        for (const name of ["step", "round", "loss", "accuracy", "seconds", "bytesSent"]) {
          expect(Number.isFinite(line[name])).toBe(true);
        }
        for (const number of Object.values(line).flat()) expect(Number.isFinite(number)).toBe(true);
      }
      expect(metrics[0]!["eigenvalues"]).toHaveLength(2);
      expect(metrics[0]!["residuals"]).toHaveLength(2);
      expect(Object.keys(metrics.at(-1)!)).toContain("testAccuracy");

      const summary = summaryOf(run);
      expect(Object.keys(summary)).toEqual(
        words(
          "task model optimizer workers device steps seconds finalLoss testAccuracy bytesSent exposedSeconds busySeconds peakMemoryBytes seed complete",
        ) as string[],
      );
      expect(summary).toMatchObject({
        task: "glyphs",
        model: "mlp",
        optimizer: "dho2",
        workers: 2,
        device: "cpu",
        steps: 40,
        finalLoss: metrics.at(-1)!.loss,
        testAccuracy: metrics.at(-1)!["testAccuracy"],
        seed: 0,
        complete: true,
      });
      expect(summary["peakMemoryBytes"]).toBeGreaterThan(10e6);
      expect(summary["bytesSent"]).toBeGreaterThanOrEqual(metrics.at(-1)!["bytesSent"] as number);

      const { tree, metadata } = decode<readonly { readonly w: Value; readonly b: Value }[]>(
        readFileSync(join(run, "checkpoint.safetensors")),
      );
      expect(metadata["step"]).toBe("40");
      expect(tree.map(({ w, b }) => [w.shape, b.shape])).toEqual([
        [[784, 8], [8]],
        [[8, 10], [10]],
      ]);
      for (const { w } of tree) expect(w.dataSync().every(Number.isFinite)).toBe(true);
      for (const name of ["0.w", "0.b", "1.w", "1.b"]) expect(checkpointOf(run)).toContain(`"${name}":{`);

      const config = JSON.parse(readFileSync(join(run, "config.json"), "utf8"));
      expect(config).toMatchObject({ data: "glyphs", hidden: [8], k: 2, steps: 40, seed: 0 });
      expect(readFileSync(join(run, "plan.txt"), "utf8")).toStartWith(
        "2 workers, 6370 parameters, 4 rounds of 10 steps, seed 0\n",
      );

      const second = await start(["train", ...SMALL, "--steps", "10", "--runtime", "local"]).ended;
      expect(second.out).toContain("results in runs/glyphs-mlp-dho2-2");
    });
  },
  LIMIT_MS,
);

/** The data of the plots on a page. */
function plotsOf(
  page: string,
): readonly { title: string; x: number[]; curves: { name: string; y: number[] }[] }[] {
  return JSON.parse(/^const plots = (.*);$/m.exec(page)![1]!);
}

test(
  "report.html needs nothing else and holds the numbers of the metrics; report puts two runs on one page",
  async () => {
    await withPrograms(async (dir, start) => {
      const args = ["train", ...SMALL, "--steps", "20", "--runtime", "local"];
      expect((await start([...args, "--out", "a <b>/run"]).ended).code).toBe(0);
      const adam = ["train", ...PLAIN, ...words("--steps 20 --runtime local --optimizer adam --out adam")];
      expect((await start(adam).ended).code).toBe(0);
      const page = readFileSync(join(dir, "a <b>/run/report.html"), "utf8");
      const both = await start(["report", "a <b>/run", "adam", "--out=both.html"]).ended;
      expect(both).toMatchObject({ code: 0, out: "both.html\n" });
      const bothPage = readFileSync(join(dir, "both.html"), "utf8");
      for (const html of [page, bothPage]) {
        expect(html).not.toMatch(/(?:src|href)\s*=|@import|url\(|fetch\(|XMLHttpRequest/i);
        expect(html).toContain("uPlot");
        expect(html).toMatch(/new uPlot\(/);
        expect(html).not.toContain("a <b>");
      }
      const own = plotsOf(page);
      expect(own.map(({ title }) => title)).toEqual([
        "Training loss",
        "Test loss",
        "Test accuracy",
        "Largest Hessian eigenvalues: dho2",
      ]);
      const losses = metricsOf(join(dir, "a <b>/run"));
      expect(own[0]!.x).toEqual(losses.map(({ step }) => step));
      expect(own[0]!.curves[0]!.y).toEqual(losses.map(({ loss }) => loss));
      const joined = plotsOf(bothPage)[0]!;
      expect(joined.curves.map(({ name }) => name)).toEqual(["dho2 (a <b>/run)", "adam (adam)"]);
      // Adam reports every step, dho2 every round: both on one list of steps.
      expect(joined.x).toEqual(Array.from({ length: 20 }, (_, i) => i + 1));
      expect(joined.curves[1]!.y).toEqual(metricsOf(join(dir, "adam")).map(({ loss }) => loss));
      expect(joined.curves[0]!.y[9]).toBe(losses[0]!.loss);
    });
  },
  LIMIT_MS,
);

/** What each method has made of the parameters. */
const made = new Map<string, string>();

test.each([...optimizerNames])(
  "%s takes its steps",
  async (name) => {
    await withPrograms(async (dir, start) => {
      const isCurved = name.startsWith("fosi-") || name === "dho2";
      const small = isCurved ? [...SMALL, ...words("--curvature-every 10 --curvature-batch 16")] : PLAIN;
      // Until their dense steps are over these two are Adam.
      const dense = name === "one-bit-adam" || name === "zero-one-adam" ? words("--dense-steps 5") : [];
      const flags = ["--optimizer", name, ...dense, ...words("--steps 20 --runtime local"), "--out", name];
      const ended = await start(["train", ...small, ...flags]).ended;
      expect(ended.code).toBe(0);
      const metrics = metricsOf(join(dir, name));
      const steps = metrics.map(({ step }) => step as number);
      expect(steps).toEqual([...new Set(steps)].sort((a, b) => a - b));
      expect(steps.at(-1)).toBe(20);
      // Methods with curvature measure it within 20 steps, the others never.
      expect(metrics.some((line) => line["eigenvalues"] !== undefined)).toBe(isCurved);
      made.set(name, checkpointOf(join(dir, name)));
    });
  },
  LIMIT_MS,
);

test("they are different methods", () => {
  expect(new Set(made.values()).size).toBe(optimizerNames.length);
});

test(
  "every model trains, on images, libsvm and csv data, also from elsewhere",
  async () => {
    await withPrograms(async (dir, start) => {
      const data = join(dir, "data");
      mkdirSync(data);
      // The class is the sign of a sum: 1 for x + y > 0.
      const rows = Array.from({ length: 120 }, (_, i) => [Math.sin(7 * i), Math.cos(5 * i)] as const);
      const sign = (row: readonly [number, number]): number => Number(row[0] + row[1] > 0);
      writeFileSync(
        join(data, "line.libsvm"),
        rows.map((row) => `${sign(row) * 2 - 1} 1:${row[0]} 2:${row[1]}\n`).join(""),
      );
      writeFileSync(
        join(data, "plane.csv"),
        `kind,x,y\n${rows.map((row) => `${["cat", "dog"][sign(row)]},${row[0]},${row[1]}\n`).join("")}`,
      );
      const common = words("--runtime local --batch 16 --steps 40");
      const runs: Readonly<Record<string, readonly string[]>> = {
        line: words("--data libsvm --data-dir data --data-file line --model logistic --optimizer sgd --lr 1"),
        plane: words(
          "--data csv --data-dir data --data-file plane --label-column kind --hidden 8,4 --optimizer adam --lr 0.02",
        ),
        cnn: words("--model cnn --train-limit 64 --test-limit 20 --steps 2 --optimizer adam"),
        many: words("--model logistic --k 2 --train-limit 200 --test-limit 20 --l2 0.001"),
      };
      for (const [name, flags] of Object.entries(runs)) {
        const ended = await start(["train", ...common, ...flags, "--out", name]).ended;
        expect(ended.err).not.toContain("Cannot");
        expect(ended.code).toBe(0);
      }
      // A line and a plane can be learned.
      expect(summaryOf(join(dir, "line"))["testAccuracy"]).toBeGreaterThan(0.8);
      expect(summaryOf(join(dir, "plane"))["testAccuracy"]).toBeGreaterThan(0.8);
      expect(summaryOf(join(dir, "cnn"))["steps"]).toBe(2);
      // The run knows where its data is.
      const moved = await start(["train", "--resume", join(dir, "plane"), "--steps", "50"]).ended;
      expect(moved.code).toBe(0);
    });
  },
  LIMIT_MS,
);

for (const form of ["consensus", "published", "off"]) {
  test(
    `worker processes and one process give the same bits: --admm ${form}`,
    async () => {
      await withPrograms(async (dir, start) => {
        const flags = words(`--admm ${form} --steps 20 --curvature-every 10 --local-steps 5`);
        for (const runtime of ["sockets", "local"]) {
          const ended = await start(["train", ...SMALL, ...flags, "--runtime", runtime, "--out", runtime])
            .ended;
          expect(ended.code).toBe(0);
        }
        const [sockets, local] = [join(dir, "sockets"), join(dir, "local")];
        expect(checkpointOf(sockets)).toBe(checkpointOf(local));
        expect(curveOf(sockets)).toEqual(curveOf(local));
        expect(curveOf(local).at(-1)![0]).toBe(20);
        expect(summaryOf(sockets)["testAccuracy"]).toBe(summaryOf(local)["testAccuracy"]);
        expect(summaryOf(sockets)["bytesSent"]).toBeGreaterThan(summaryOf(local)["bytesSent"] as number);
      });
    },
    LIMIT_MS,
  );
}

test(
  "a loss that is not finite ends the run, and the error names the step and what to do",
  async () => {
    await withPrograms(async (dir, start) => {
      const flags = words("--steps 20 --lr 1e30 --admm off --out wild");
      const { code, err } = await start(["train", ...SMALL, ...flags]).ended;
      expect(code).toBe(1);
      expect(err).toMatch(
        /Cannot continue at step \d+: the loss is \S+, a finite loss is needed; lower the learning rate/,
      );
      expect(err).toMatch(/^The run is saved up to step 0: continue it with --resume wild, where --lr and/m);
      expect(existsSync(join(dir, "wild", "summary.json"))).toBe(false);
      expect((await start(["train", "--resume", "wild"]).ended).code).toBe(1);
      expect((await start(words("train --resume wild --lr 0.001")).ended).code).toBe(0);
    });
  },
  LIMIT_MS,
);

test(
  "parameters that are not finite are never saved",
  async () => {
    await withPrograms(async (dir, start) => {
      const flags = words("--steps 3 --local-steps 1 --lr 1e38 --alpha 1e38 --runtime local");
      for (const admm of ["consensus", "published"]) {
        const out = `wild-${admm}`;
        const { code, err } = await start(["train", ...SMALL, ...flags, "--admm", admm, "--out", out]).ended;
        expect(code).toBe(1);
        expect(err).toMatch(/Cannot continue (after round|at step) \d+: .* finite/);
        const { tree } = decode(readFileSync(join(dir, out, "checkpoint.safetensors")));
        for (const x of leaves(tree)) expect(x.dataSync().every(Number.isFinite)).toBe(true);
      }
    });
  },
  LIMIT_MS,
);

const script = Bun.which("script");
const isLinux = process.platform === "linux";
if (script === null || !isLinux)
  console.log("program: no terminal to try, the test of the live line is left out");

test.skipIf(script === null || !isLinux)(
  "on a terminal the line of progress is rewritten in place",
  async () => {
    await withPrograms(async (dir) => {
      const main = new URL("../../cli/main.ts", import.meta.url).pathname;
      const command = [
        process.execPath,
        main,
        "train",
        ...SMALL,
        ...words("--steps 30 --runtime local --out run"),
      ];
      const child = Bun.spawn([script!, "-qec", command.map((word) => `'${word}'`).join(" "), "/dev/null"], {
        cwd: dir,
        stdin: "ignore",
        stdout: "pipe",
        timeout: LIMIT_MS,
      });
      const text = await new Response(child.stdout).text();
      expect(await child.exited).toBe(0);
      // Back to the start of the line, erase it, write it anew; no new line between two of them.
      const line = String.raw`\r\x1b\[2K`;
      // Nothing is wider than the terminal, or it would wrap and could not be erased.
      for (const drawn of text.split("\r\u001b[2K")) {
        if (drawn.startsWith("step")) expect(drawn.split(/\r?\n/)[0]!.length).toBeLessThan(80);
      }
      expect(text).toMatch(new RegExp(`${line}step 0 [^\\n]*${line}`));
      expect(text).toMatch(
        new RegExp(`${line}step 30/30  loss [\\d.]{6}  accuracy [\\d.]+%  0 s left  [^\\n]*\\n`),
      );
      expect(text.trimEnd()).toMatch(/report\.html$/);
    });
  },
  LIMIT_MS,
);
