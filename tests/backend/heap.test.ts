/**
 * The memory of the compiled cpu backend: blocks do not touch each other, and all of them come back. What garbage owns is
 * released, what the living own is not.
 */
import { expect, test } from "bun:test";
import fc from "fast-check";
import { Aval } from "../../core/aval.ts";
import { Engine } from "../../core/backends/cpu/engine.ts";
import { Compiler, compile } from "../../core/backends/cpu/executable.ts";
import { Heap } from "../../core/backends/cpu/heap.ts";
import { scanKernels } from "../../core/backends/cpu/scan.ts";
import { zeros } from "../../core/create.ts";
import { type DType, dtypeOf, dtypes, type TypedArray } from "../../core/dtype.ts";
import * as ops from "../../core/ops.ts";
import { type Program, stage } from "../../core/program.ts";
import { type Collector, hostCollector, type Owned, Reclaimer } from "../../core/reclaim.ts";
import type { Tensor } from "../../core/value.ts";
import { propWith } from "../support/prop.ts";

const MIB = 2 ** 20;
const PAGE = 65536;

/** What a caller knows about a block: nobody else may write to its bytes. */
interface Known {
  readonly pointer: number;
  readonly bytes: number;
  readonly mark: number;
}

const sizes = fc.oneof(
  fc.nat(300),
  fc.integer({ min: 1, max: 18 }).map((exponent) => 2 ** exponent),
  fc.nat(200_000),
  fc.nat(MIB),
);
const commands = fc.array(
  fc.oneof(
    fc.record({ k: fc.constant("allocate"), bytes: sizes }),
    fc.record({ k: fc.constant("free"), which: fc.nat() }),
  ),
  { minLength: 1, maxLength: 300 },
);

propWith({ runs: 30 }, "blocks are aligned, apart, unharmed, and come back whole", commands, (list) => {
  const heap = new Heap({ pages: 256, collect: null });
  const capacity = heap.buffer.byteLength;
  const atStart = largest(heap);
  const live: Known[] = [];
  let asked = 0;
  const free = (which: number): void => {
    const [{ pointer, bytes, mark }] = live.splice(which, 1) as [Known];
    const content = heap.u8.subarray(pointer, pointer + bytes);
    expect(Buffer.compare(content, new Uint8Array(bytes).fill(mark))).toBe(0);
    heap.free(pointer);
    asked -= bytes;
  };
  list.forEach((command, i) => {
    if (command.k === "free") {
      if (live.length > 0) free(command.which % live.length);
      return;
    }
    const { bytes } = command;
    const pointer = heap.allocate(bytes);
    // A quarter full, there is always room for a block of this size.
    if (pointer === 0) {
      expect(asked + bytes).toBeGreaterThan(capacity / 4);
      return;
    }
    expect(pointer % 64).toBe(0);
    expect(pointer).toBeGreaterThanOrEqual(PAGE);
    expect(pointer + bytes + 64).toBeLessThanOrEqual(capacity);
    const touches = (other: Known): boolean =>
      pointer < other.pointer + other.bytes && other.pointer < pointer + bytes;
    expect(live.filter(touches)).toEqual([]);
    const mark = 1 + (i % 255);
    heap.u8.fill(mark, pointer, pointer + bytes);
    live.push({ pointer, bytes, mark });
    asked += bytes;
    const { liveBytes, peakBytes } = heap.report();
    expect(liveBytes).toBeGreaterThanOrEqual(asked);
    // At most a sixteenth is wasted, and two units of 64 bytes go to header and rounding.
    expect(liveBytes).toBeLessThanOrEqual((17 / 16) * (asked + 192 * live.length));
    expect(peakBytes).toBeGreaterThanOrEqual(liveBytes);
  });
  // In an order that leaves free and used blocks side by side.
  for (let i = 0; live.length > 0; i += 7) free(i % live.length);
  const { liveBytes, peakBytes, pooledBytes } = heap.report();
  expect(liveBytes).toBe(0);
  expect(pooledBytes).toBeGreaterThanOrEqual(peakBytes);
  expect(largest(heap)).toBe(atStart);
});

/** The greatest block that there is room for, in steps of 64 KiB. */
function largest(heap: Heap): number {
  for (let bytes = heap.buffer.byteLength; bytes > 0; bytes -= PAGE) {
    const pointer = heap.allocate(bytes);
    if (pointer === 0) continue;
    heap.free(pointer);
    return bytes;
  }
  return 0;
}

test("a heap can be filled, says so, and goes on after a block comes back", () => {
  const heap = new Heap({ pages: 128 });
  for (const bytes of [MIB, 1000, 64]) {
    const blocks: number[] = [];
    for (let pointer = heap.allocate(bytes); pointer !== 0; pointer = heap.allocate(bytes))
      blocks.push(pointer);
    expect(new Set(blocks).size).toBe(blocks.length);
    expect(blocks.length).toBeGreaterThan(0.7 * (heap.buffer.byteLength / (1.3 * bytes + 192)));
    expect(heap.makeArray("float32", bytes / 4)).toBeNull();
    heap.free(blocks[3]!);
    expect(heap.allocate(bytes)).toBe(blocks[3]!);
    for (const pointer of blocks) heap.free(pointer);
    expect(heap.report().liveBytes).toBe(0);
  }
  expect(heap.allocate(heap.buffer.byteLength)).toBe(0);
  expect(heap.allocate(2 ** 40)).toBe(0);
});

test("small blocks that stay do not cut the space of a large one", () => {
  const heap = new Heap({ pages: 1024 });
  const bytes = 0.75 * heap.buffer.byteLength;
  heap.free(heap.allocate(bytes));
  for (let i = 0; i < 1000; i++) expect(heap.allocate(100 + 13 * i)).toBeGreaterThan(0);
  expect(heap.allocate(bytes)).toBeGreaterThan(0);
});

test("memory that was never touched is used last", () => {
  const heap = new Heap({ pages: 512 });
  const low = heap.allocate(20 * MIB);
  const stays = heap.allocate(MIB);
  heap.free(low);
  // What is left above is smaller than the hole below, and would fit better.
  for (let i = 0; i < 15; i++) expect(heap.allocate(MIB)).toBeLessThan(stays);
});

test("memory that grows gets neighbours of what was free at its end, and blocks stay apart", () => {
  const heap = new Heap({ pages: 2048 });
  const stays = heap.allocate(20 * MIB);
  const before = heap.buffer.byteLength;
  // There is some room for it below the end, not enough.
  const large = heap.allocate(40 * MIB);
  expect(heap.buffer.byteLength).toBeGreaterThan(before);
  expect(large).toBeLessThan(before);
  const blocks = [
    { from: stays, bytes: 20 * MIB },
    { from: large, bytes: 40 * MIB },
  ];
  // To the last unit.
  for (const bytes of [MIB, PAGE, 1000, 64]) {
    for (let from = heap.allocate(bytes); from !== 0; from = heap.allocate(bytes))
      blocks.push({ from, bytes });
  }
  blocks.sort((x, y) => x.from - y.from);
  const touching = blocks.filter(({ from, bytes }, i) => from + bytes >= (blocks[i + 1]?.from ?? Infinity));
  expect(touching).toEqual([]);
  expect(blocks.at(-1)!.from).toBeLessThan(heap.buffer.byteLength);
  expect(heap.buffer.byteLength).toBe(2048 * PAGE);
  // A sixteenth goes to classes of size, and two units to header and rounding.
  const used = blocks.reduce((sum, { bytes }) => sum + (17 / 16) * (bytes + 128), 0);
  expect(used).toBeGreaterThan(0.99 * 2048 * PAGE);
});

test("a block is freed once, by its own address", () => {
  const heap = new Heap({ pages: 128 });
  const pointer = heap.allocate(1000);
  expect(() => heap.free(pointer + 4)).toThrow("Invariant broken");
  expect(() => heap.free(pointer + 64)).toThrow("Invariant broken");
  expect(() => heap.free(0)).toThrow("Invariant broken");
  heap.free(pointer);
  expect(() => heap.free(pointer)).toThrow("Invariant broken");
});

test("an array of a block has its type and size, and its address is that of the block", () => {
  const heap = new Heap({ pages: 128 });
  for (const dtype of dtypes) {
    for (const size of [0, 1, 1000]) {
      const array = heap.makeArray(dtype, size)!;
      expect(dtypeOf(array)).toBe(dtype);
      expect(array.length).toBe(size);
      const pointer = heap.pointerOf(array);
      expect(pointer % 64).toBe(0);
      expect(pointer).toBeGreaterThan(0);
      array.fill(1);
      expect([...heap.u8.subarray(pointer, pointer + array.byteLength)]).toEqual([
        ...new Uint8Array(onesOf(dtype, size).buffer),
      ]);
    }
  }
  expect(heap.pointerOf(new Float32Array(4))).toBe(0);
  const other = new Heap({ pages: 128 });
  expect(heap.pointerOf(other.makeArray("float32", 4)!)).toBe(0);
});

function onesOf(dtype: DType, size: number): TypedArray {
  const make = {
    float32: Float32Array,
    float64: Float64Array,
    int32: Int32Array,
    uint32: Uint32Array,
    float16: Float16Array,
  };
  return new (dtype === "bool" ? Uint8Array : make[dtype])(size).fill(1);
}

test("a loop that never ends its turn can make arrays for ever, and those it keeps stay whole", () => {
  const heap = new Heap();
  const kept: { readonly array: TypedArray; readonly mark: number }[] = [];
  for (let i = 0; i < 20_000; i++) {
    const array = heap.makeArray("float32", MIB / 4)!;
    array[0] = i;
    array[array.length - 1] = i;
    if (i % 500 === 0) kept.push({ array, mark: i });
  }
  for (const { array, mark } of kept) expect([array[0], array.at(-1)]).toEqual([mark, mark]);
  // 20 GB were made. The kept ones and their class of size, and a slack for the young and for the old that are dead.
  const { liveBytes, pooledBytes } = heap.report();
  expect(liveBytes + pooledBytes).toBeLessThan((2 * kept.length + 256) * MIB);
});

test("a heap that is full of dead arrays makes room", () => {
  const heap = new Heap({ pages: 256 });
  // A third of it stays; dead arrays fill the rest many times over.
  const stays = heap.allocate(5 * MIB);
  for (let i = 0; i < 300; i++) {
    expect(heap.makeArray("float32", MIB / 4)).not.toBeNull();
    const block = heap.allocate(MIB);
    expect(block).toBeGreaterThan(stays);
    heap.free(block);
  }
});

test("where garbage cannot be collected within a turn, arrays stop at the limit and go on in a later turn", async () => {
  const heap = new Heap({ pages: 1024, collect: null, limitBytes: 8 * MIB });
  const make = (): number => {
    let made = 0;
    while (heap.makeArray("float32", MIB / 4) !== null) made++;
    return made;
  };
  expect(make()).toBe(8);
  expect(heap.allocate(MIB)).toBeGreaterThan(0);
  let later = 0;
  for (let turn = 0; turn < 500 && later === 0; turn++) {
    await new Promise((resolve) => setImmediate(resolve));
    Bun.gc(true);
    later = make();
  }
  expect(later).toBeGreaterThan(0);
});

test("memory that is not shared serves a host without shared memory", () => {
  const heap = new Heap({ pages: 128, shared: false });
  expect(heap.shared).toBe(false);
  expect(heap.buffer).toBeInstanceOf(ArrayBuffer);
  expect(heap.pointerOf(heap.makeArray("float64", 10)!)).toBeGreaterThan(0);
});

// ------------------------------------------------------------------------------------------------- what garbage owns

interface Held {
  readonly id: number;
  readonly owner: object;
  readonly owned: Owned<number>;
}

const acts = fc.array(
  fc.oneof(
    { weight: 6, arbitrary: fc.record({ k: fc.constant("track"), bytes: fc.nat(500) }) },
    { weight: 3, arbitrary: fc.record({ k: fc.constant("drop"), which: fc.nat() }) },
    { weight: 2, arbitrary: fc.record({ k: fc.constant("release"), which: fc.nat() }) },
    { weight: 1, arbitrary: fc.record({ k: fc.constant("collect") }) },
  ),
  { minLength: 1, maxLength: 200 },
);

propWith({ runs: 30 }, "the living keep what they own, and nothing is released twice", acts, (list) => {
  const released = new Set<number>();
  const sizes = new Map<number, number>();
  const policy = { slackBytes: 5000, mostSlackBytes: 20_000 };
  const reclaimer = new Reclaimer<number>((id) => {
    expect(released.has(id)).toBe(false);
    released.add(id);
  }, policy);
  const held: Held[] = [];
  for (const [id, act] of list.entries()) {
    if (act.k === "track") {
      expect(reclaimer.admit(act.bytes)).toBe(true);
      const owner = {};
      sizes.set(id, act.bytes);
      held.push({ id, owner, owned: reclaimer.track(owner, act.bytes, id) });
    } else if (act.k === "collect") reclaimer.collect(10_000);
    else if (held.length > 0) {
      const [one] = held.splice(act.which % held.length, 1) as [Held];
      if (act.k === "release") {
        expect(reclaimer.release(one.owned)).toBe(true);
        expect(reclaimer.release(one.owned)).toBe(false);
        expect(released.has(one.id)).toBe(true);
      }
    }
    expect(held.filter((one) => released.has(one.id))).toEqual([]);
    let owned = 0;
    for (const [one, bytes] of sizes) if (!released.has(one)) owned += bytes;
    expect(reclaimer.bytes).toBe(owned);
  }
});

/** Tracks so many owners and returns those of them that it is to keep. */
function tracked(reclaimer: Reclaimer<number>, count: number, keeps: (id: number) => boolean): object[] {
  const kept: object[] = [];
  for (let id = 0; id < count; id++) {
    const owner = { id };
    reclaimer.track(owner, 100, id);
    if (keeps(id)) kept.push(owner);
  }
  return kept;
}

test("the dead are found, whether a young collection looks for them or a full one", () => {
  const host = hostCollector()!;
  for (const kind of ["young", "full"] as const) {
    const released: number[] = [];
    const collected: string[] = [];
    const collector: Collector = {
      young() {
        collected.push("young");
        host.young();
      },
      full() {
        collected.push("full");
        host.full();
      },
    };
    const policy = { slackBytes: kind === "young" ? 1000 : 2 ** 30, mostSlackBytes: 2 ** 30, collector };
    const reclaimer = new Reclaimer<number>((id) => released.push(id), policy);
    const kept = tracked(reclaimer, 1000, (id) => id % 10 === 0);
    if (kind === "young") reclaimer.admit(100);
    else reclaimer.collect(2 ** 31);
    expect(collected[0]).toBe(kind);
    // An address of a few of them may be left on the stack.
    expect(released.length).toBeGreaterThan(880);
    expect(released.every((id) => id % 10 !== 0)).toBe(true);
    expect(reclaimer.bytes).toBe(100 * (1000 - released.length));
    expect(kept.length).toBe(100);
  }
});

test("in a loop that never ends its turn the budget holds, and what it makes is admitted", () => {
  const budgetBytes = 64 * MIB;
  const reclaimer = new Reclaimer<null>(() => {}, {
    budgetBytes,
    slackBytes: 16 * MIB,
    mostSlackBytes: 64 * MIB,
  });
  let state: object = {};
  for (let i = 0; i < 2000; i++) {
    expect(reclaimer.admit(5 * MIB)).toBe(true);
    state = { before: null };
    reclaimer.track(state, 5 * MIB, null);
    expect(reclaimer.bytes).toBeLessThanOrEqual(budgetBytes);
  }
  expect(state).toEqual({ before: null });
});

test("a budget that the living use up admits no more until some of them die", () => {
  const policy = { budgetBytes: 100_000, slackBytes: 1000, mostSlackBytes: 1000 };
  const reclaimer = new Reclaimer<number>(() => {}, policy);
  const kept = tracked(reclaimer, 1000, () => true);
  expect(reclaimer.bytes).toBe(100_000);
  expect(reclaimer.admit(1)).toBe(false);
  kept.length = 500;
  expect(reclaimer.admit(40_000)).toBe(true);
  expect(kept.length).toBe(500);
  // Asked to, it looks again at once.
  kept.length = 0;
  expect(reclaimer.collectAll()).toBe(true);
  expect(reclaimer.bytes).toBeLessThan(5000);
});

test("what the host collects of its own accord is released in a later turn", async () => {
  let released = 0;
  const policy = { slackBytes: 2 ** 30, mostSlackBytes: 2 ** 30, collector: null };
  const reclaimer = new Reclaimer<number>(() => released++, policy);
  const until = async (count: number): Promise<void> => {
    for (let turn = 0; turn < 500 && released < count; turn++) {
      await new Promise((resolve) => setImmediate(resolve));
      Bun.gc(true);
    }
    // An address of a few of them may be left on the stack.
    expect(released).toBeGreaterThanOrEqual(count);
  };
  const kept = tracked(reclaimer, 1000, (id) => id % 2 === 0);
  await until(480);
  expect(released).toBeLessThanOrEqual(500);
  expect(kept.length).toBe(500);
  kept.length = 0;
  await until(960);
  tracked(reclaimer, 1000, () => false);
  await until(1960);
});

// ------------------------------------------------------------------------------------- what programs keep in the heap

/** The sum of the running sums of exp x: the exponentials are in the arena while it runs. */
function sumProgram(size: number): Program {
  return stage((x) => [ops.sum(ops.cumsum(ops.exp(x!)))], [new Aval([size], "float32")]);
}

function compilerOf(heap: Heap): Compiler {
  return new Compiler(new Engine({ heap, threads: 1 }), new Map([...scanKernels]));
}

/** Of exponentials of zeros: 1 + 2 + ... + n. */
const sumOf = (n: number): number => (n * (n + 1)) / 2;

test("the arena of one large program does not stay, and comes back with it", () => {
  const heap = new Heap({ pages: 1024 });
  const compiler = compilerOf(heap);
  const n = MIB;
  const [large, small] = [compile(sumProgram(n), compiler), compile(sumProgram(100), compiler)];
  const [x, y] = [zeros([n]) as Tensor, zeros([100]) as Tensor];
  for (let round = 0; round < 3; round++) {
    expect(large.run([x])[0]!.item() / sumOf(n)).toBeCloseTo(1, 5);
    const { liveBytes } = heap.report();
    for (let i = 0; i < 10_000; i++) small.run([y]);
    expect(small.run([y])[0]!.item()).toBe(sumOf(100));
    expect(heap.report().liveBytes).toBeLessThan(liveBytes - 4 * n);
  }
});

test("a program that the heap had no room for is compiled once there is room", () => {
  const heap = new Heap({ pages: 256, collect: null });
  const compiler = compilerOf(heap);
  const blocks: number[] = [];
  for (const bytes of [MIB, PAGE, 64])
    for (let block = heap.allocate(bytes); block !== 0; block = heap.allocate(bytes)) blocks.push(block);
  const program = compile(sumProgram(100), compiler);
  const x = zeros([100]) as Tensor;
  const inArena = compile(sumProgram(100), compilerOf(new Heap({ pages: 256 }))).show();
  for (let call = 0; call < 3; call++) expect(program.run([x])[0]!.item()).toBe(sumOf(100));
  expect(program.show()).not.toBe(inArena);
  for (const block of blocks) heap.free(block);
  for (let call = 0; call < 3; call++) expect(program.run([x])[0]!.item()).toBe(sumOf(100));
  expect(program.show()).toBe(inArena);
});
