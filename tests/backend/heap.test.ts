/** The memory of the compiled cpu backend: blocks do not touch each other, and all of them come back. */
import { expect, test } from "bun:test";
import fc from "fast-check";
import { Heap } from "../../core/backends/cpu/heap.ts";
import { type DType, dtypeOf, dtypes, type TypedArray } from "../../core/dtype.ts";
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
        ...new Uint8Array(ones(dtype, size).buffer),
      ]);
    }
  }
  expect(heap.pointerOf(new Float32Array(4))).toBe(0);
  const other = new Heap({ pages: 128 });
  expect(heap.pointerOf(other.makeArray("float32", 4)!)).toBe(0);
});

function ones(dtype: DType, size: number): TypedArray {
  const make = { float32: Float32Array, float64: Float64Array, int32: Int32Array, uint32: Uint32Array };
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
  // At most an eighth of the memory is dead before it is looked for; the kept ones and one class of size on top.
  expect(heap.report().peakBytes).toBeLessThan(heap.report().capacityBytes / 8 + 3 * kept.length * MIB);
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
