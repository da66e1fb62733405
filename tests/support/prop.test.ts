/** The wrapper around fast-check: it finds, reports, and replays. */
import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { prop, propWith } from "./prop.ts";

prop("sorting twice is sorting once", fc.array(fc.integer()), (xs) => {
  const once = [...xs].sort((a, b) => a - b);
  expect([...once].sort((a, b) => a - b)).toEqual(once);
});

const seen: number[] = [];
propWith({ examples: [[-1], [-2]], runs: 5 }, "examples come first", fc.nat(), (n) => {
  seen.push(n);
});
test("examples come first (as seen)", () => {
  expect(seen.slice(0, 2)).toEqual([-1, -2]);
});

const folder = mkdtempSync(join(tmpdir(), "cotangent-prop-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** A failing property whose every draw is printed: run, read the replay line, replay. */
const NAME = 'costs "$1" (or less)';
const SOURCE = `
import fc from ${JSON.stringify(import.meta.resolve("fast-check"))};
import { test } from "bun:test";
import { propWith } from ${JSON.stringify(join(import.meta.dir, "prop.ts"))};
propWith({ examples: [[1, 1]] }, ${JSON.stringify(NAME)}, fc.nat(1000), fc.nat(1000), (a, b) => {
  console.log("draw " + a + " " + b);
  return a + b < 900;
});
test("another test", () => console.log("draw by another test"));
`;

function shell(
  command: string,
  variables: Record<string, string>,
): { out: string; all: string; code: number } {
  const { FC_SEED: _seed, FC_PATH: _path, FC_RUNS: _runs, ...rest } = process.env;
  const path = `${join(process.execPath, "..")}:${process.env["PATH"]}`;
  const child = Bun.spawnSync(["sh", "-c", command], {
    cwd: folder,
    env: { ...rest, ...variables, PATH: path },
  });
  const out = child.stdout.toString();
  return { out, all: out + child.stderr.toString(), code: child.exitCode };
}

/** The executable may have another name than the one in the replay line. */
const runnable = (line: string): string => line.replace("bun test", `"${process.execPath}" test`);

test("a failure prints a line that repeats exactly that draw", () => {
  writeFileSync(join(folder, "sample.test.ts"), SOURCE);
  const first = shell(runnable("bun test sample.test.ts"), { FC_RUNS: "200" });
  expect(first.code).not.toBe(0);
  const counterexample = /for (\[\d+,\d+\]) /.exec(first.all)?.[1];
  expect(counterexample).toBeDefined();
  const line = /^replay with (.*)$/m.exec(first.all)?.[1];
  expect(line).toMatch(/^FC_SEED=-?\d+ FC_PATH=[\d:]+ bun test sample\.test\.ts -t ".*"$/);

  const again = shell(runnable(line!), {});
  expect(again.code).not.toBe(0);
  const draws = again.out.split("\n").filter((text) => text.startsWith("draw"));
  expect(draws.length).toBe(1);
  expect(draws[0]!.replace("draw ", "[").replace(" ", ",")).toBe(counterexample!.slice(0, -1));
});

test("the seed comes from the name, and FC_SEED replaces it", () => {
  const command = runnable("bun test sample.test.ts -t costs");
  const runs = [{}, {}, { FC_SEED: "7" }].map(
    (variables) => shell(command, { FC_RUNS: "3", ...variables }).out,
  );
  expect(runs[0]).toBe(runs[1]!);
  expect(runs[2]).not.toBe(runs[0]!);
});
