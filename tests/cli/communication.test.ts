/** What a run says of what its workers send: on the progress line, at its end, in its plan, its summary and its report. */

import { expect, test } from "bun:test";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseTrainFlags } from "../../cli/config.ts";
import { planOf } from "../../cli/plan.ts";
import { progressText } from "../../cli/progress_line.ts";
import { writeReport } from "../../cli/report.ts";
import type { Summary } from "../../cli/run_directory.ts";
import { sentText } from "../../cli/train.ts";
import { PLAIN, summaryOf, withPrograms, words } from "./program_support.ts";

test("the progress line tells what is waited for from what is not", () => {
  const numbers = {
    step: 120,
    steps: 400,
    loss: 0.12345,
    accuracy: 0.875,
    stepsPerSecond: 12.34,
    bytesSent: 5_000_000,
    curvatureAge: null,
    secondsLeft: 65,
  };
  const first = "step 120/400  loss 0.1235  accuracy 87.5%  1 min 5 s left  12.3 steps/s  sent ";
  expect(progressText(numbers)).toBe(`${first}5.00 MB`);
  expect(progressText({ ...numbers, backgroundBytes: null, exposed: null })).toBe(`${first}5.00 MB`);
  expect(progressText({ ...numbers, exposed: 0.504 })).toBe(`${first}5.00 MB  waiting 50%`);
  const both = { ...numbers, backgroundBytes: 3_500_000, exposed: 0.25 };
  expect(progressText(both)).toBe(`${first}1.50 MB  3.50 MB in the background  waiting 25%`);
  expect(progressText({ ...both, exposed: null, curvatureAge: 40 })).toBe(
    `${first}1.50 MB  3.50 MB in the background  curvature 40 steps old`,
  );
});

test("the last line tells them apart too, with the part of computing and waiting that was waiting", () => {
  const bytesSent = 5_000_000;
  expect(sentText({ bytesSent })).toBe("sent 5.00 MB");
  expect(sentText({ bytesSent, exposedSeconds: 3, busySeconds: 9 })).toBe("sent 5.00 MB");
  expect(sentText({ bytesSent, backgroundBytes: 3_500_000, exposedSeconds: 3, busySeconds: 9 })).toBe(
    "sent 1.50 MB and 3.50 MB in the background, waited 25% of the training",
  );
  expect(sentText({ bytesSent, backgroundBytes: 3_500_000 })).toBe(
    "sent 1.50 MB and 3.50 MB in the background",
  );
  expect(sentText({ bytesSent, backgroundBytes: 0, exposedSeconds: 0, busySeconds: 9 })).toBe(
    "sent 5.00 MB, waited 0% of the training",
  );
});

/** The cells of the first table of a page, by the text in front of them. */
function rowsOf(page: string): Readonly<Record<string, readonly string[]>> {
  return Object.fromEntries(
    [...page.matchAll(/<tr><th>([^<]+)<\/th>((?:<td>[^<]*<\/td>)+)<\/tr>/g)].map(([, name, cells]) => [
      name!,
      [...cells!.matchAll(/<td>([^<]*)<\/td>/g)].map(([, cell]) => cell!),
    ]),
  );
}

test("the report has both, the time that all waited, and the ratios that were achieved", async () => {
  const dir = mkdtempSync(join(tmpdir(), "cotangent-report-"));
  try {
    const common: Summary = {
      ...{
        task: "glyphs",
        model: "mlp",
        optimizer: "adam",
        workers: 2,
        device: "cpu",
        steps: 10,
        seconds: 70,
      },
      ...{ finalLoss: 0.5, testAccuracy: 0.9, bytesSent: 5_000_000, peakMemoryBytes: 1e8, seed: 0 },
      complete: true,
    };
    const summaries: readonly Summary[] = [
      {
        ...{ ...common, optimizer: "cser", backgroundBytes: 3_500_000, exposedSeconds: 62.4, busySeconds: 5 },
        achievedRatio: { updates: 101_770 / 101, errors: 15.998 },
      },
      common,
    ];
    const paths = summaries.map((summary, i) => {
      const path = mkdtempSync(join(dir, `run-${i}-`));
      writeFileSync(join(path, "summary.json"), JSON.stringify(summary));
      return path;
    });
    await writeReport(join(dir, "report.html"), paths);
    const rows = rowsOf(readFileSync(join(dir, "report.html"), "utf8"));
    expect(rows["sent"]).toEqual(["1.50 MB", "5.00 MB"]);
    expect(rows["sent in the background"]).toEqual(["3.50 MB", "0 B"]);
    expect(rows["waited for messages"]).toEqual(["1 min 2 s", ""]);
    expect(rows["achieved ratio"]).toEqual(["updates 1 : 1008, errors 1 : 16", ""]);
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
});

test("a run says what ratio it has achieved", async () => {
  await withPrograms(async (dir, start) => {
    const flags = [...PLAIN, ...words("--steps 20 --runtime local --optimizer div-adam --ratio 128")];
    const { code, err } = await start(["train", ...flags]).ended;
    expect([code, err]).toEqual([0, err]);
    const run = join(dir, "runs/glyphs-mlp-div-adam");
    // A block of 49 of 784 x 8 weights, and one number each of 8, 80 and 10.
    expect(readFileSync(join(run, "plan.txt"), "utf8")).toContain(
      "\ncompression updates 1 : 122.5 achieved\n",
    );
    expect(summaryOf(run)["achievedRatio"]).toEqual({ updates: 6370 / 52 });
    expect(rowsOf(readFileSync(join(run, "report.html"), "utf8"))["achieved ratio"]).toEqual([
      "updates 1 : 122.5",
    ]);
  });
}, 120_000);

test("a compressor that does not fit the model is refused before a directory is made", async () => {
  await withPrograms(async (dir, start) => {
    // Few levels of large tensors may be further from them than zero is.
    const flags = [...PLAIN, ...words("--runtime local --optimizer cser --update-compressor qsgd")];
    const { code, err } = await start(["train", ...flags]).ended;
    expect(err).toMatch(/^Cannot use qsgd with a residual memory: [^\n]* is needed\n$/);
    expect(code).toBe(2);
    expect(readdirSync(dir)).toEqual([]);
  });
}, 120_000);

test("the compressor of updates of error reset is a flag, and there is none without it", () => {
  const syncOf = (flags: string) =>
    planOf(parseTrainFlags(words(`--optimizer cser ${flags}`)).config, 1000, 100).sync;
  const errors = { k: "reset", compressor: "block", ratio: 128, resetEvery: 8 };
  expect(syncOf("")).toMatchObject({ ...errors, updateCompressor: null });
  expect(syncOf("--update-compressor none")).toEqual(syncOf(""));
  expect(syncOf("--update-compressor topk --update-ratio 64 --ratio 16 --period 4")).toMatchObject({
    ...errors,
    ...{ ratio: 16, resetEvery: 4, updateCompressor: "topk", updateRatio: 64 },
  });
  expect(syncOf("--update-compressor sign")).toMatchObject({ ...errors, updateCompressor: "sign" });

  const parse = (flags: string) => () => parseTrainFlags(words(flags));
  expect(parse("--optimizer ef --update-compressor block")).toThrow(
    /^Cannot use --update-compressor: it would change nothing, --optimizer cser is needed$/,
  );
  for (const by of ["", "--update-compressor none", "--update-compressor sign"]) {
    expect(parse(`--optimizer cser ${by} --update-ratio 4`)).toThrow(
      /^Cannot use --update-ratio: .* --optimizer cser and --update-compressor block, topk or randomk is needed$/,
    );
  }
});
