/** Threads of the compiled cpu backend: work is done once, whoever does it, and nothing that happens to a thread is lost. */
import { afterAll, expect, test } from "bun:test";
import { join } from "node:path";
import fc from "fast-check";
import { FunctionBuilder, type Local, ModuleBuilder } from "../../core/backends/cpu/assembler.ts";
import { Engine, type EngineOptions, type LoadedKernel } from "../../core/backends/cpu/engine.ts";
import { Heap } from "../../core/backends/cpu/heap.ts";
import { propWith } from "../support/prop.ts";

const CPU = join(import.meta.dir, "../../core/backends/cpu");

// ------------------------------------------------------------------------------------------------------- kernels

// The words of an argument block.
const OUT = 0;
const MAIN = 4; // the main thread's scratch buffer: how a kernel knows where it runs
const FLAG = 8;
const LEAVE = 12;
const NOISE = 16;
const ARGUMENT_BYTES = 64;

type Body = (f: FunctionBuilder, unit: Local) => void;

/** A kernel that does the same for each of its units. */
function perUnit(body: Body): FunctionBuilder {
  const f = new FunctionBuilder(["i32", "i32", "i32", "i32"]);
  const unit = f.local("i32");
  return f.for(
    unit,
    () => f.get(0),
    () => f.get(1),
    1,
    () => body(f, unit),
  );
}

/** Pushes the address of element `unit` of the output, in elements of `bytes` bytes. */
function element(f: FunctionBuilder, unit: Local, bytes: number): void {
  f.get(2).memory("i32.load", OUT).get(unit).i32(bytes).op("i32.mul").op("i32.add");
}

/** Pushes whether this is the main thread. */
function onMain(f: FunctionBuilder): void {
  f.get(3).get(2).memory("i32.load", MAIN).op("i32.eq");
}

/** Waits until the word at `word` of the arguments is not 0, or for many seconds. Stores, so that no load is hoisted. */
function awaitWord(f: FunctionBuilder, word: number): void {
  const rounds = f.local("i32");
  const count = f.local("i32");
  const from = (): void => void f.i32(0);
  f.block((exit) => {
    const look = (): void => {
      f.get(2).memory("i32.load", word).brIf(exit);
      f.get(2).get(count).memory("i32.store", NOISE);
    };
    f.for(
      rounds,
      from,
      () => f.i32(20),
      1,
      () => f.for(count, from, () => f.i32(2 ** 30), 1, look),
    );
  });
}

const kernels = {
  /** out[i] = sqrt(i) */
  root: perUnit((f, unit) => {
    element(f, unit, 4);
    f.get(unit).op("f32.convert_i32_s").op("f32.sqrt").memory("f32.store");
  }),
  /** out[i] = [times it was computed, begin, end] */
  record: perUnit((f, unit) => {
    element(f, unit, 12);
    element(f, unit, 12);
    f.memory("i32.load").i32(1).op("i32.add").memory("i32.store");
    element(f, unit, 12);
    f.get(0).memory("i32.store", 4);
    element(f, unit, 12);
    f.get(1).memory("i32.store", 8);
  }),
  /** Unit 0 waits until another thread computes unit 1; out[i] = whether unit i ran on the main thread. */
  meet: perUnit((f, unit) => {
    element(f, unit, 4);
    onMain(f);
    f.memory("i32.store");
    f.get(unit).when(
      () => f.get(2).i32(1).memory("i32.store", FLAG),
      () => awaitWord(f, FLAG),
    );
  }),
  /** The same, but unit 1 ends in a trap. */
  meetAndTrap: perUnit((f, unit) => {
    f.get(unit).when(
      () => f.get(2).i32(1).memory("i32.store", FLAG).op("unreachable"),
      () => awaitWord(f, FLAG),
    );
  }),
  /** Unit 0 waits until unit 1 has begun, which does not end on another thread until it may leave. out[i] = i + 1 */
  stick: perUnit((f, unit) => {
    f.get(unit).when(
      () => {
        f.get(2).i32(1).memory("i32.store", FLAG);
        onMain(f);
        f.op("i32.eqz").when(() => awaitWord(f, LEAVE));
      },
      () => awaitWord(f, FLAG),
    );
    element(f, unit, 4);
    f.get(unit).i32(1).op("i32.add").memory("i32.store");
  }),
  trap: perUnit((f) => f.op("unreachable")),
} as const;

function load(engine: Engine, ...names: readonly (keyof typeof kernels)[]): LoadedKernel[] {
  const module = new ModuleBuilder({ shared: engine.heap.shared });
  for (const name of names) module.add(name, kernels[name]);
  return engine.load(module.bytes(), names);
}

// ------------------------------------------------------------------------------------------------------- engines

const made: Engine[] = [];
afterAll(() => {
  for (const engine of made) engine.pool.stop("the tests have ended");
});

function makeEngine(threads: number, options: EngineOptions = {}): Engine {
  const engine = new Engine({ heap: new Heap({ pages: 512 }), threads, ...options });
  made.push(engine);
  return engine;
}

/** Starts the workers and waits, without a turn of the event loop, until all are ready. */
function ready(engine: Engine): Engine {
  const [root] = load(engine, "root");
  const args = argumentsFor(engine, 1024);
  for (let waits = 0; engine.pool.ready < engine.threads - 1; waits++) {
    engine.run(root!, 256, 1, args, true);
    expect(waits).toBeLessThan(20_000);
    Bun.sleepSync(1);
  }
  return engine;
}

/** An argument block whose output has this many bytes, all 0. */
function argumentsFor(engine: Engine, outBytes: number): number {
  const { heap } = engine;
  const args = heap.allocate(ARGUMENT_BYTES);
  heap.u8.fill(0, args, args + ARGUMENT_BYTES);
  const out = heap.allocate(outBytes);
  heap.u8.fill(0, out, out + outBytes);
  heap.u32[(args + OUT) / 4] = out;
  heap.u32[(args + MAIN) / 4] = engine.scratch;
  return args;
}

function outWords(engine: Engine, args: number, count: number): Int32Array {
  const start = engine.heap.u32[(args + OUT) / 4]! / 4;
  return engine.heap.i32.slice(start, start + count);
}

// --------------------------------------------------------------------------------------------------------- tests

test("every number of threads gives the same bits", () => {
  const total = 100_003;
  const expected = Float32Array.from({ length: total }, (_, i) => Math.sqrt(i));
  for (const threads of [1, 2, 3, 4]) {
    const engine = ready(makeEngine(threads));
    expect(engine.threads).toBe(threads);
    const [root] = load(engine, "root");
    for (let round = 0; round < 20; round++) {
      const args = argumentsFor(engine, 4 * total);
      engine.run(root!, total, 64, args, true);
      expect(new Float32Array(outWords(engine, args, total).buffer)).toEqual(expected);
      const out = engine.heap.u32[(args + OUT) / 4]!;
      engine.heap.free(out);
    }
  }
});

const four = makeEngine(4);
propWith(
  { runs: 100 },
  "every unit is computed once, in a range that begins at a multiple of the grain",
  fc.integer({ min: 0, max: 400 }),
  fc.integer({ min: 1, max: 20 }),
  fc.integer({ min: 1, max: 4 }),
  fc.boolean(),
  (total, grain, threads, parallel) => {
    four.threads = threads;
    ready(four);
    const [record] = load(four, "record");
    const args = argumentsFor(four, 12 * total);
    four.run(record!, total, grain, args, parallel);
    const out = outWords(four, args, 3 * total);
    for (let unit = 0; unit < total; unit++) {
      const [times, begin, end] = out.subarray(3 * unit, 3 * unit + 3);
      expect(times).toBe(1);
      expect(begin! % grain).toBe(0);
      expect(begin!).toBeLessThanOrEqual(unit);
      expect(end!).toBeGreaterThan(unit);
      if (end !== total) expect(end! % grain).toBe(0);
      if (!parallel) expect([begin, end]).toEqual([0, total]);
    }
  },
);

test("a piece that two threads want at once is computed once", () => {
  const engine = ready(makeEngine(2));
  const [record] = load(engine, "record");
  const runs = 20_000;
  for (const total of [8, 64, 512]) {
    const args = argumentsFor(engine, 12 * total);
    for (let run = 0; run < runs; run++) engine.run(record!, total, 1, args, true);
    const out = outWords(engine, args, 3 * total);
    for (let unit = 0; unit < total; unit++) expect(out[3 * unit]).toBe(runs);
  }
});

test("another thread computes while this one does, without a turn of the event loop", () => {
  const engine = ready(makeEngine(2));
  for (let round = 0; round < 50; round++) {
    // A module of its own each time: it arrives with the first run that needs it.
    const [meet] = load(engine, "meet");
    const args = argumentsFor(engine, 8);
    engine.run(meet!, 2, 1, args, true);
    expect([...outWords(engine, args, 2)]).toEqual([1, 0]);
    // Sometimes it has fallen asleep.
    if (round % 10 === 0) Bun.sleepSync(2);
  }
});

test("a trap names the kernel, on this thread and on another, and the next run works", () => {
  const engine = ready(makeEngine(2));
  const [trap, meetAndTrap, meet] = load(engine, "trap", "meetAndTrap", "meet");
  for (let round = 0; round < 3; round++) {
    expect(() => engine.run(trap!, 1, 1, 0, false)).toThrow('Cannot run kernel "trap"');
    expect(() => engine.run(trap!, 100, 1, 0, true)).toThrow('Cannot run kernel "trap"');
    expect(() => engine.run(meetAndTrap!, 2, 1, argumentsFor(engine, 8), true)).toThrow(
      'Cannot run kernel "meetAndTrap"',
    );
    const args = argumentsFor(engine, 8);
    engine.run(meet!, 2, 1, args, true);
    expect([...outWords(engine, args, 2)]).toEqual([1, 0]);
  }
  expect(engine.threads).toBe(2);
});

test("a worker that was killed is not missed", async () => {
  const engine = ready(makeEngine(3));
  const [root] = load(engine, "root");
  const check = (): void => {
    const total = 5000;
    const args = argumentsFor(engine, 4 * total);
    engine.run(root!, total, 1, args, true);
    expect(new Float32Array(outWords(engine, args, total).buffer)).toEqual(
      Float32Array.from({ length: total }, (_, i) => Math.sqrt(i)),
    );
  };
  const ended = engine.pool.workers[0]!.terminate();
  for (let round = 0; round < 20; round++) check();
  await ended;
  await new Promise((resolve) => setImmediate(resolve));
  for (let round = 0; round < 20; round++) check();
  expect(engine.threads).toBe(1);
  expect(engine.info()["threads"]).toContain("a thread ended");
});

test("a range that a worker holds for too long is computed again, and threads are given up", () => {
  const engine = ready(makeEngine(2, { patience: 50 }));
  const [stick, root] = load(engine, "stick", "root");
  const args = argumentsFor(engine, 8);
  engine.run(stick!, 2, 1, args, true);
  expect([...outWords(engine, args, 2)]).toEqual([1, 2]);
  engine.heap.u32[(args + LEAVE) / 4] = 1;
  expect(engine.threads).toBe(1);
  expect(engine.info()["threads"]).toContain('kernel "stick"');
  const more = argumentsFor(engine, 400);
  engine.run(root!, 100, 1, more, true);
  expect(new Float32Array(outWords(engine, more, 100).buffer)[99]).toBe(Math.fround(Math.sqrt(99)));
});

test("a kernel with host functions runs here alone, and its functions are called", () => {
  const engine = ready(makeEngine(2));
  const module = new ModuleBuilder({ shared: engine.heap.shared });
  const call = module.importFunction("c0", ["f64"], ["f64"]);
  module.add(
    "called",
    perUnit((f, unit) => {
      element(f, unit, 8);
      f.get(unit).op("f64.convert_i32_s").call(call).memory("f64.store");
    }),
  );
  const [called] = engine.load(module.bytes(), ["called"], [Math.sinh]);
  expect(called!.threaded).toBe(false);
  const args = argumentsFor(engine, 800);
  engine.run(called!, 100, 1, args, true);
  expect(new Float64Array(outWords(engine, args, 200).buffer)).toEqual(
    Float64Array.from({ length: 100 }, (_, i) => Math.sinh(i)),
  );
});

test("a host without shared memory has one thread", () => {
  const engine = makeEngine(4, { heap: new Heap({ pages: 128, shared: false }) });
  expect(engine.threads).toBe(1);
  const [root] = load(engine, "root");
  const args = argumentsFor(engine, 400);
  engine.run(root!, 100, 1, args, true);
  expect(new Float32Array(outWords(engine, args, 100).buffer)[99]).toBe(Math.fround(Math.sqrt(99)));
  expect(engine.info()["threads"]).toContain("no shared memory");
});

test("a number of threads that is none is refused", () => {
  const engine = makeEngine(1);
  for (const count of [0, -1, 1.5, Number.NaN, 1000]) {
    expect(() => {
      engine.threads = count;
    }).toThrow("Cannot use");
  }
  expect(engine.threads).toBe(1);
});

// ---------------------------------------------------------------------------------------------------- processes

/** A process that imports the engine and runs a program. */
function child(
  source: string,
  environment: Readonly<Record<string, string>> = {},
): Bun.Subprocess<"ignore", "pipe", "pipe"> {
  const imports = `
    import { engine } from ${JSON.stringify(join(CPU, "engine.ts"))};
    import { FunctionBuilder, ModuleBuilder } from ${JSON.stringify(join(CPU, "assembler.ts"))};
  `;
  return Bun.spawn([process.execPath, "-e", imports + source], {
    env: { ...process.env, ...environment },
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
  });
}

/** Starts two workers; `run()` gives them something to do. */
const START = `
  const e = engine();
  e.threads = 3;
  const module = new ModuleBuilder({ shared: e.heap.shared });
  module.add("none", new FunctionBuilder(["i32", "i32", "i32", "i32"]));
  const [none] = e.load(module.bytes(), ["none"]);
  const run = () => e.run(none, 3, 1, 0, true);
  run();
`;
const WAIT = "while (e.pool.ready < 2) { run(); Bun.sleepSync(1); } Bun.sleepSync(20);";

for (const [how, source, code] of [
  ["whose work is done", `${START} ${WAIT} run();`, 0],
  ["whose workers are asleep", `${START} ${WAIT}`, 0],
  ["whose workers have not started yet", START, 0],
  ["that says so", `${START} ${WAIT} run(); process.exit(7);`, 7],
  ["that failed", `${START} ${WAIT} run(); throw new Error("no reason");`, 1],
] as const) {
  test(`a process with threads ends: one ${how}`, async () => {
    const process = child(source);
    expect(await process.exited).toBe(code);
  });
}

test("a process with threads ends when it is interrupted", async () => {
  const process = child(`${START} ${WAIT} console.log("ready"); setInterval(run, 1);`);
  const { value } = await process.stdout.getReader().read();
  expect(new TextDecoder().decode(value)).toBe("ready\n");
  process.kill("SIGINT");
  await process.exited;
  expect(process.signalCode).toBe("SIGINT");
});

test("COTANGENT_THREADS sets the number of threads", async () => {
  const asked = child("console.log(engine().threads)", { COTANGENT_THREADS: "3" });
  expect(await new Response(asked.stdout).text()).toBe("3\n");
  expect(await asked.exited).toBe(0);
  const wrong = child("engine()", { COTANGENT_THREADS: "many" });
  expect(await new Response(wrong.stderr).text()).toContain('Cannot use COTANGENT_THREADS="many"');
  expect(await wrong.exited).toBe(1);
});
