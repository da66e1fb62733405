/**
 * Tuning: what is tried, what is kept on disk, and that programs use what was found. Devices of these tests keep their
 * tables in folders of their own.
 */
import { afterAll, describe, expect, spyOn, test } from "bun:test";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import fc from "fast-check";
import { Aval } from "../../core/aval.ts";
import { reference, type TuningChoice } from "../../core/backend.ts";
import { namedKernels, webgpuBackend } from "../../core/backends/webgpu/backend.ts";
import { Context } from "../../core/backends/webgpu/context.ts";
import { type Device, openDevice } from "../../core/backends/webgpu/device.ts";
import { compile, type WebgpuExecutable } from "../../core/backends/webgpu/executable.ts";
import type { Choose, Variant } from "../../core/backends/webgpu/kernel.ts";
import { tuner } from "../../core/backends/webgpu/tuning.ts";
import { loadTable, saveTable, tablePath } from "../../core/backends/webgpu/tuning_file.ts";
import { ChoiceTable } from "../../core/backends/webgpu/tuning_table.ts";
import { DeviceError } from "../../core/errors.ts";
import * as ops from "../../core/ops.ts";
import { stage } from "../../core/program.ts";
import { adopt } from "../../core/trace.ts";
import { tune } from "../../core/tuning.ts";
import type { Tensor, Value } from "../../core/value.ts";
import { prop } from "../support/prop.ts";
import { assertClose } from "../support/tolerance.ts";
import { root, runModule } from "./child.ts";
import { hasGpu } from "./support.ts";

const folder = mkdtempSync(join(tmpdir(), "cotangent-tuning-"));
const outer = process.env["XDG_CACHE_HOME"];
const opened: Device[] = [];
afterAll(() => {
  for (const device of opened) device.close();
  rmSync(folder, { recursive: true, force: true });
});

/** Where a table of its own would be, as if caches were in a new folder. */
function freshPath(adapter: string): string {
  process.env["XDG_CACHE_HOME"] = mkdtempSync(join(folder, "cache-"));
  try {
    return tablePath(adapter)!;
  } finally {
    if (outer === undefined) delete process.env["XDG_CACHE_HOME"];
    else process.env["XDG_CACHE_HOME"] = outer;
  }
}

async function loaded(adapter: string, path: string): Promise<ChoiceTable> {
  const table = new ChoiceTable(adapter, path);
  await loadTable(table);
  return table;
}

const choices: fc.Arbitrary<ReadonlyMap<string, TuningChoice>> = fc
  .array(
    fc.tuple(
      fc.string(),
      fc.record({
        variant: fc.string(),
        microseconds: fc.double({ min: 1e-3, max: 1e9, noNaN: true }),
        usual: fc.string(),
        usualMicroseconds: fc.double({ min: 1e-3, max: 1e9, noNaN: true }),
      }),
    ),
    { maxLength: 5 },
  )
  .map((list) => new Map(list));

const one: TuningChoice = { variant: "b", microseconds: 2, usual: "a", usualMicroseconds: 3 };

describe("the table", () => {
  prop("of an adapter is what its file says", choices, (entries) => {
    const table = new ChoiceTable("adapter", null);
    for (const [key, choice] of entries) table.set(key, choice);
    expect(table.decode(table.encode(new Map()))).toEqual(new Map(entries));
  });

  test("goes through a file, in the folder of caches", async () => {
    const path = freshPath("Some Adapter, 1.2/3");
    expect(path).toMatch(/\/cotangent\/tuning-some-adapter-1\.2-3\.json$/);
    const table = new ChoiceTable("Some Adapter, 1.2/3", path);
    table.set("dot", one);
    await saveTable(table);
    expect(readdirSync(dirname(path))).toEqual(["tuning-some-adapter-1.2-3.json"]);
    const again = await loaded("Some Adapter, 1.2/3", path);
    expect(again.choices).toEqual({ dot: one });
    expect(again.notes).toEqual([]);
    expect(String(again)).toBe(String(table));
    expect(String(again)).toContain("1.50x");
  });

  test("keeps what another process has written meanwhile", async () => {
    const path = freshPath("x");
    const [first, second] = [new ChoiceTable("x", path), new ChoiceTable("x", path)];
    first.set("one", one);
    second.set("two", one);
    await saveTable(first);
    await saveTable(second);
    expect((await loaded("x", path)).choices).toEqual({ one, two: one });
  });

  for (const [what, text] of [
    ["no JSON", '{"format": 1,'],
    ["nothing", ""],
    ["another form", "[1, 2]"],
    ["another format", JSON.stringify({ format: 0, adapter: "x", choices: { dot: one } })],
    ["another adapter", JSON.stringify({ format: 1, adapter: "y", choices: { dot: one } })],
    [
      "a time below zero",
      JSON.stringify({ format: 1, adapter: "x", choices: { dot: { ...one, microseconds: -1 } } }),
    ],
    ["no variant", JSON.stringify({ format: 1, adapter: "x", choices: { dot: { ...one, variant: null } } })],
  ] as const) {
    test(`ignores a file with ${what}, says so, and replaces it`, async () => {
      const path = freshPath("x");
      mkdirSync(dirname(path), { recursive: true });
      writeFileSync(path, text);
      const table = await loaded("x", path);
      expect(table.choices).toEqual({});
      expect(table.notes.length).toBe(1);
      expect(String(table)).toContain("note: the file is ignored");
      table.set("dot", one);
      await saveTable(table);
      expect((await loaded("x", path)).choices).toEqual({ dot: one });
    });
  }

  test("that cannot be written says so", async () => {
    const file = join(folder, "a file");
    writeFileSync(file, "");
    const table = new ChoiceTable("x", join(file, "cotangent", "tuning-x.json"));
    await loadTable(table);
    table.set("dot", one);
    await saveTable(table);
    expect(String(table)).toContain("note: the file is not written");
    const nowhere = new ChoiceTable("x", null);
    await saveTable(nowhere);
    expect(nowhere.notes).toEqual([]);
  });

  test("chooses the fastest variant where it is one of these, and else the first", () => {
    const table = new ChoiceTable("x", null);
    const variants = ["a", "b"].map((name): Variant => ({ name, dispatches: () => [] }));
    expect(table.choose("dot", variants).name).toBe("a");
    table.set("dot", one);
    expect(table.choose("dot", variants).name).toBe("b");
    expect(table.choose("other", variants).name).toBe("a");
    table.set("dot", { ...one, variant: "gone" });
    expect(table.choose("dot", variants).name).toBe("a");
  });
});

test("tune needs a device with something to try", async () => {
  if (hasGpu) return;
  expect(await tune(() => {}).catch((error: unknown) => error)).toBeInstanceOf(DeviceError);
});

// --- on a device ---------------------------------------------------------------------------------------------------

async function openContext(path: (identity: string) => string | null): Promise<Context> {
  const device = await openDevice();
  opened.push(device);
  const table = new ChoiceTable(device.identity, path(device.identity));
  await loadTable(table);
  return new Context(device, () => 2 ** 28, table);
}

function numbers(shape: readonly number[]): Tensor {
  const data = new Float32Array(shape.reduce((a, b) => a * b, 1));
  for (let i = 0; i < data.length; i++) data[i] = Math.sin(i);
  return adopt(data, shape, "float32");
}

const args: readonly Tensor[] = [numbers([24, 33]), numbers([33, 20])];
const layer = (x: Value, w: Value): readonly Value[] => {
  const y = ops.relu(ops.matmul(x, w));
  // The second product is the first one again; the third is another.
  return [y, ops.matmul(x, w), ops.matmul(ops.transpose(x), y)];
};
const program = stage(
  (x, w) => layer(x!, w!),
  args.map((x) => x.aval),
);

/** What a program chooses between, by key. */
function questionsOf(executable: WebgpuExecutable): Map<string, readonly Variant[]> {
  const questions = new Map<string, readonly Variant[]>();
  const choose: Choose = (key, variants) => {
    questions.set(key, variants);
    return variants[0]!;
  };
  executable.choices(choose);
  return questions;
}

async function expectRight(results: readonly Tensor[]): Promise<void> {
  const expected = reference.compile(program).run(args);
  for (const [i, x] of results.entries()) {
    const actual = adopt(await x.data(), x.shape, x.dtype);
    assertClose(actual, expected[i]!, `result ${i}`);
  }
}

describe.skipIf(!hasGpu)("tuning a device", () => {
  test("tries every product once, keeps the fastest, and makes programs again", async () => {
    const context = await openContext(freshPath);
    const { device, choices } = context;
    const executable = compile(program, context, namedKernels);
    const questions = questionsOf(executable);
    expect(questions.size).toBe(2);
    const { tune: tried } = tuner(context);
    await tried(() => executable.run(args), false);
    expect(choices.notes).toEqual([]);
    const found = choices.choices;
    expect(Object.keys(found).sort()).toEqual([...questions.keys()].sort());
    for (const [key, { variant, microseconds, usual, usualMicroseconds }] of Object.entries(found)) {
      const names = questions.get(key)!.map(({ name }) => name);
      expect(names).toContain(variant);
      expect(usual).toBe(names[0]!);
      expect(microseconds).toBeGreaterThan(0);
      expect(microseconds).toBeLessThanOrEqual(usualMicroseconds);
      expect(String(choices)).toContain(key);
    }
    await expectRight(executable.run(args));

    // What the table has is not tried again, unless that is asked for.
    const made = spyOn(device, "pipelineAsync");
    await tried(() => executable.run(args), false);
    expect(made).not.toHaveBeenCalled();
    const { liveBytes } = context.pool.report();
    await tried(() => void context.running!.add(executable), true);
    expect(made).toHaveBeenCalled();
    made.mockRestore();
    // The memory of what was tried is given back.
    expect(context.pool.report().liveBytes).toBeLessThanOrEqual(liveBytes);

    // Another process finds the table on disk.
    expect(existsSync(choices.path!)).toBe(true);
    expect((await loaded(device.identity, choices.path!)).choices).toEqual(choices.choices);
  });

  test("programs use what the table says from their next run on", async () => {
    const context = await openContext(() => null);
    const { choices } = context;
    const before = compile(program, context, namedKernels);
    await expectRight(before.run(args));
    const backend = webgpuBackend(context);
    for (const [key, variants] of questionsOf(before)) {
      for (const { name, dispatches } of variants) {
        choices.set(key, { variant: name, microseconds: 1, usual: variants[0]!.name, usualMicroseconds: 2 });
        const texts = dispatches().map(({ code }) => code);
        for (const executable of [before, backend.compile(program) as WebgpuExecutable]) {
          expect(executable.dispatches.map(({ code }) => code)).toEqual(expect.arrayContaining(texts));
        }
        const results = before.run(args);
        await expectRight(results);
        // One table, the same bits.
        const [first, again] = await Promise.all([results, before.run(args)].map((xs) => xs[0]!.data()));
        expect(again).toEqual(first!);
      }
    }
  });

  test("products of convolutions are tried too", async () => {
    const context = await openContext(() => null);
    const avals = [new Aval([2, 8, 9, 9], "float32"), new Aval([16, 8, 3, 3], "float32")];
    const convolution = stage((x, w) => [ops.conv(x!, w!)], avals);
    expect(questionsOf(compile(convolution, context, namedKernels)).size).toBe(1);
  });

  test("the fastest wins, and a variant that does not compile is left out, which is said", async () => {
    const context = await openContext(() => null);
    const executable = compile(program, context, namedKernels);
    const bad: Variant = {
      name: "bad",
      dispatches: () => [{ label: "dot", code: "fn main( {", buffers: [], groups: [1, 1, 1], operations: 0 }],
    };
    spyOn(executable, "choices").mockImplementation((choose) => {
      for (const [key, [first]] of questions) {
        const slow: Variant = {
          name: "slow",
          dispatches: () => new Array(100).fill(first!.dispatches()).flat(),
        };
        choose(key, [slow, first!, bad]);
      }
    });
    const questions = questionsOf(compile(program, context, namedKernels));
    await tuner(context).tune(() => executable.run(args), false);
    for (const [key, [first]] of questions) {
      expect(context.choices.choices[key]).toMatchObject({ variant: first!.name, usual: "slow" });
    }
    expect(context.choices.notes.length).toBe(questions.size);
    expect(String(context.choices)).toContain('"bad" cannot be tried');
  });

  test("the public function tunes the open device, and later processes read its file", async () => {
    const cache = mkdtempSync(join(folder, "cache-"));
    const source = `
      import * as ct from ${JSON.stringify(join(root, "mod.ts"))};
      await ct.init("webgpu");
      const found = Object.keys(ct.tuningTable().choices).length;
      const x = await ct.devicePut(ct.ones([16, 16]), "webgpu");
      const table = await ct.tune(() => x.matmul(x));
      console.log(JSON.stringify({ found, choices: table.choices, path: table.path, text: String(table) }));
      process.exit(0);`;
    const run = async () => {
      const { code, output, errors } = await runModule(source, { XDG_CACHE_HOME: cache });
      if (code !== 0) throw new Error(errors);
      return JSON.parse(output.split("\n").at(-1)!);
    };
    const first = await run();
    expect(first.found).toBe(0);
    expect(Object.keys(first.choices).length).toBe(1);
    expect(first.path.startsWith(cache)).toBe(true);
    expect(JSON.parse(readFileSync(first.path, "utf8")).choices).toEqual(first.choices);
    const second = await run();
    expect(second).toEqual({ ...first, found: 1 });
  });
});
