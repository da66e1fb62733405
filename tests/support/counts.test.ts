/** The counts that decide a verdict: read from real closing summaries, never guessed. */
import { expect, test } from "bun:test";
import { failureLines, readCounts, readDenoCounts } from "../../tools/counts.ts";

const ran = "Ran 4 tests across 1 file. [29.00ms]\n";

test("reads passes, failures, skips and todos from the closing summary only", () => {
  const log = `99 pass\n(fail) bad [0.23ms]\n\n 1 pass\n 1 skip\n 1 todo\n 1 fail\n 2 expect() calls\n${ran}`;
  expect(readCounts(log, 1)).toEqual({ passed: 1, failed: 1, skipped: 2 });
});

test("a file that cannot be loaded is one failure", () => {
  expect(readCounts(`\n 3 pass\n 1 fail\n 1 error\n${ran}`, 1)).toEqual({ passed: 3, failed: 1, skipped: 0 });
});

test("no summary, no tests, or a bad exit code is a failure", () => {
  expect(readCounts("(pass) one\n", 137)).toEqual({ passed: 0, failed: 1, skipped: 0 });
  expect(readCounts(`\n 0 pass\n 2 skip\n 0 fail\n${ran}`, 0)).toEqual({ passed: 0, failed: 1, skipped: 2 });
  expect(readCounts(`\n 4 pass\n 0 fail\n${ran}`, 9)).toEqual({ passed: 4, failed: 1, skipped: 0 });
});

test("the summary of Deno is read in the same way", () => {
  const log =
    "a test ... ok (1ms)\n\u001b[0m\u001b[32mok\u001b[0m | 12 passed | 0 failed | 2 ignored \u001b[0m(3s)\n\n";
  expect(readDenoCounts(log, 0)).toEqual({ passed: 12, failed: 0, skipped: 2 });
  expect(readDenoCounts("FAILED | 2 passed (3 steps) | 1 failed (9ms)\n", 1)).toEqual({
    passed: 2,
    failed: 1,
    skipped: 0,
  });
  expect(readDenoCounts("a test ... ok (1ms)\n", 134)).toEqual({ passed: 0, failed: 1, skipped: 0 });
  expect(readDenoCounts("ok | 0 passed | 0 failed | 9 ignored (9ms)\n", 0)).toEqual({
    passed: 0,
    failed: 1,
    skipped: 9,
  });
  expect(readDenoCounts("ok | 3 passed | 0 failed (9ms)\n", 1)).toEqual({ passed: 3, failed: 1, skipped: 0 });
});

test("a driver that ends the process after the last test of Deno is a skip, any other end a failure", () => {
  const heap = "corrupted size vs. prev_size in fastbins\n";
  const passed = "ok | 3 passed | 0 failed (9ms)\n";
  expect(readDenoCounts(`${passed}\n${heap}`, 134)).toEqual({ passed: 3, failed: 0, skipped: 1 });
  expect(readDenoCounts(`${heap}${passed}`, 134)).toEqual({ passed: 3, failed: 1, skipped: 0 });
  expect(readDenoCounts(`${passed}\nthread panicked\n`, 134)).toEqual({ passed: 3, failed: 1, skipped: 0 });
  expect(readDenoCounts(`${passed}\n${heap}`, 139)).toEqual({ passed: 3, failed: 1, skipped: 0 });
  const failed = "FAILED | 2 passed | 1 failed (9ms)\n";
  expect(readDenoCounts(`${failed}\n${heap}`, 134)).toEqual({ passed: 2, failed: 1, skipped: 0 });
});

test("a summary repeats which tests failed and why, without what passed", () => {
  const log = [
    "(pass) fine [0.01ms]",
    '4 |   test("is wrong", () => {',
    "\u001b[31merror\u001b[0m: expect(received).toBe(expected)",
    "",
    "Expected: 4",
    "Received: 3",
    "      at <anonymous> (/p/a.test.ts:4:44)",
    "      at helper (/p/helper.ts:4:44)",
    "(fail) group > is wrong [0.80ms]",
    "RangeError: Cannot add: 3",
    "  ^ this test timed out after 100ms.",
    "an error: of what is tested",
    "wrong ... FAILED (18ms)",
  ];
  expect(failureLines(log.join("\n"))).toEqual([
    "error: expect(received).toBe(expected)",
    ...log.slice(4, 7),
    ...log.slice(8, 11),
    log[12]!,
  ]);
  const types = ["a.ts(1,1): error TS1: no", "b.ts(1,1): error TS1: no"];
  expect(failureLines(types.join("\n"))).toEqual(types);
  expect(failureLines("(fail) one\n".repeat(60))).toHaveLength(41);
  expect(failureLines("a line\n".repeat(60))).toHaveLength(40);
});
