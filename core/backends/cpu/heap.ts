/**
 * The memory that compiled kernels work on: one WebAssembly memory, handed out in blocks. A block is freed by the one
 * who allocated it, or with the array that was made of it, when that array is collected.
 */
import type { DType, TypedArray } from "../../dtype.ts";
import { bytesPerElement } from "../../dtype.ts";
import { invariant } from "../../errors.ts";
import type { DeviceMemory } from "../../memory.ts";

/** Bytes of one page of WebAssembly memory. */
const PAGE_BYTES = 65536;
/** Addresses are reserved at the start, so that nothing moves: the first of these sizes that the host grants. */
const PAGES: readonly number[] = [65536, 32768, 16384, 8192];
/**
 * Of these, so many exist at first, and so many more at least when they are full. JavaScriptCore counts all that exist
 * as garbage-collected memory in use, and with gigabytes in use it lets gigabytes of garbage grow.
 */
const FIRST_PAGES = 512;

/** Blocks start at multiples of this, and this many bytes after a block may be read: the header of the next one. */
const UNIT_BYTES = 64;
/** Everything below is counted in units; the first page belongs to nobody, so that 0 is no address. */
const FIRST_UNIT: number = PAGE_BYTES / UNIT_BYTES;

// Words of a block's header, which is the unit before its address.
const STATE = 0;
const UNITS = 1; // size, with the header
const BELOW = 2; // the block before it in memory; 0 = none
const NEXT = 3; // free blocks of one class are a list; 0 = end
const PREVIOUS = 4;
const WORDS_PER_UNIT: number = UNIT_BYTES / 4;

const FREE = 0x0f4ee;
const USED = 0x05ed;
const EDGE = 0x0ed9e; // the unit that ends a zone

/** Sixteen classes of size per power of two: a block is at most 1/16 larger than what was asked. */
const CLASS_BITS = 4;
const CLASSES: number = (27 - CLASS_BITS + 1) << CLASS_BITS;

/** The class of a block with this many units: the last one whose smallest size it has. */
function classOf(units: number): number {
  if (units < 1 << CLASS_BITS) return units;
  const exponent = 31 - Math.clz32(units);
  return ((exponent - CLASS_BITS) << CLASS_BITS) + (units >>> (exponent - CLASS_BITS));
}

/** The smallest size of a class that is at least this many units. */
function classSize(units: number): number {
  if (units < 1 << CLASS_BITS) return units;
  const step = 2 ** (31 - Math.clz32(units) - CLASS_BITS);
  return Math.ceil(units / step) * step;
}

/** Neighbouring blocks: free ones are listed by class of size and merged with free neighbours at once. */
class Zone {
  #words: Uint32Array;
  /** The unit after the last one, which is the edge. */
  #end: number;
  readonly first: number;
  /** Where memory that was ever in use ends. */
  top: number;
  readonly #heads: Int32Array = new Int32Array(CLASSES);
  /** One bit per class: whether it has a block. */
  readonly #filled: Int32Array = new Int32Array(CLASSES / 32);

  constructor(words: Uint32Array, first: number, end: number) {
    this.#words = words;
    this.#end = end;
    this.first = first;
    this.top = first;
    this.#header(end - 1, EDGE, 1, first);
    this.#header(first, FREE, end - 1 - first, 0);
    this.#list(first);
  }

  #header(block: number, state: number, units: number, below: number): void {
    const at = block * WORDS_PER_UNIT;
    this.#words[at + STATE] = state;
    this.#words[at + UNITS] = units;
    this.#words[at + BELOW] = below;
  }

  #list(block: number): void {
    const at = block * WORDS_PER_UNIT;
    const c = classOf(this.#words[at + UNITS]!);
    const next = this.#heads[c]!;
    this.#words[at + NEXT] = next;
    this.#words[at + PREVIOUS] = 0;
    if (next !== 0) this.#words[next * WORDS_PER_UNIT + PREVIOUS] = block;
    this.#heads[c] = block;
    this.#filled[c >> 5]! |= 1 << (c & 31);
  }

  #unlist(block: number): void {
    const at = block * WORDS_PER_UNIT;
    const next = this.#words[at + NEXT]!;
    const previous = this.#words[at + PREVIOUS]!;
    if (next !== 0) this.#words[next * WORDS_PER_UNIT + PREVIOUS] = previous;
    if (previous !== 0) {
      this.#words[previous * WORDS_PER_UNIT + NEXT] = next;
      return;
    }
    const c = classOf(this.#words[at + UNITS]!);
    this.#heads[c] = next;
    if (next === 0) this.#filled[c >> 5]! &= ~(1 << (c & 31));
  }

  /** A free block of this class or the next larger one that has any; 0 = none. */
  #find(c: number): number {
    let bits = this.#filled[c >> 5]! & (-1 << (c & 31));
    for (let word = c >> 5; ; bits = this.#filled[word]!) {
      if (bits !== 0) return this.#heads[(word << 5) + 31 - Math.clz32(bits & -bits)]!;
      if (++word === this.#filled.length) return 0;
    }
  }

  /** A used block of at least this many units, header included, which is a size of a class; 0 = none. */
  take(units: number): number {
    const block = this.#find(classOf(units));
    if (block === 0) return 0;
    this.#unlist(block);
    const at = block * WORDS_PER_UNIT;
    const rest = this.#words[at + UNITS]! - units;
    this.#words[at + STATE] = USED;
    // A rest without room for a header and one unit stays with the block.
    if (rest >= 2) {
      this.#words[at + UNITS] = units;
      this.#words[(block + units + rest) * WORDS_PER_UNIT + BELOW] = block + units;
      this.#header(block + units, FREE, rest, block);
      this.#list(block + units);
    }
    this.top = Math.max(this.top, block + this.#words[at + UNITS]!);
    return block;
  }

  /** Frees a used block; returns the units it had. */
  give(block: number): number {
    const at = block * WORDS_PER_UNIT;
    invariant(this.#words[at + STATE] === USED, "a block of memory is freed once and has its header");
    const units = this.#words[at + UNITS]!;
    const below = this.#words[at + BELOW]!;
    const above = block + units;
    let start = block;
    let size = units;
    if (this.#words[above * WORDS_PER_UNIT + STATE] === FREE) {
      this.#unlist(above);
      size += this.#words[above * WORDS_PER_UNIT + UNITS]!;
    }
    // A header inside the merged block is old text: its state must not say that it is a block.
    this.#words[at + STATE] = 0;
    if (below !== 0 && this.#words[below * WORDS_PER_UNIT + STATE] === FREE) {
      this.#unlist(below);
      size += this.#words[below * WORDS_PER_UNIT + UNITS]!;
      start = below;
    }
    this.#header(start, FREE, size, start === block ? below : this.#words[start * WORDS_PER_UNIT + BELOW]!);
    this.#words[(start + size) * WORDS_PER_UNIT + BELOW] = start;
    this.#list(start);
    return units;
  }

  /** Adds the units up to `end`, which exist in `words` now: the old edge becomes a block. */
  extend(words: Uint32Array, end: number): void {
    this.#words = words;
    const edge = this.#end - 1;
    const below = words[edge * WORDS_PER_UNIT + BELOW]!;
    this.#end = end;
    this.#header(end - 1, EDGE, 1, edge);
    this.#header(edge, USED, end - 1 - edge, below);
    this.give(edge);
  }

  /** Words of a larger view of the same memory. */
  use(words: Uint32Array): void {
    this.#words = words;
  }

  unitsOf(block: number): number {
    return this.#words[block * WORDS_PER_UNIT + UNITS]!;
  }
}

/** Blocks up to this size have their own zone: small ones that stay must not cut the space of large ones to pieces. */
const SMALL_BYTES = 65536;
const SMALL_SHARE = 1 / 8;

/** Dead arrays may hold this much, or as much as live ones, before they are looked for. */
const LEAST_SLACK_BYTES = 64 * 2 ** 20;
/** And at most this much while that costs little: several processes share a machine. */
const MOST_SLACK_BYTES: number = 192 * 2 ** 20;
/** Share of the time from which on collecting is dear. */
const HIGH_COST = 1 / 4;
/** Garbage is not collected more often for its own sake. */
const LEAST_PAUSE_MS = 1000;
/** More where looking would take a larger part of the time than this, up to an eighth of the memory. */
const GREATEST_COST = 1 / 32;
/** Where dead arrays cannot be looked for, arrays made of blocks stop here. */
const GREATEST_LIMIT_BYTES = 2 ** 30;

/** An array made of a block. */
interface Tracked {
  readonly heap: Heap;
  readonly pointer: number;
  readonly bytes: number;
  readonly array: WeakRef<TypedArray> | null;
  /** Where it is in the heap's list; -1 = returned. */
  index: number;
}

export interface HeapOptions {
  /** Pages of 64 KiB; default: 4 GiB, or less where the host refuses. */
  readonly pages?: number;
  /** Whether other threads can share it; default: where the host has SharedArrayBuffer. */
  readonly shared?: boolean;
  /** Collects garbage and lets go of the targets of WeakRefs at once; null where no call does. Default: Bun's. */
  readonly collect?: (() => void) | null;
  /** Greatest bytes of arrays made of blocks where `collect` is null; default: 1 GiB or half of the memory. */
  readonly limitBytes?: number;
}

export class Heap {
  readonly memory: WebAssembly.Memory;
  /** Whether `memory` is shared: modules must import it as what it is. */
  readonly shared: boolean;
  /** All of it that exists; others when it has grown. Older views stay right for what they show. */
  buffer!: ArrayBuffer | SharedArrayBuffer;
  u8!: Uint8Array;
  i32!: Int32Array;
  u32!: Uint32Array;
  f32!: Float32Array;
  f64!: Float64Array;
  /** Every buffer so far. */
  readonly #buffers = new Set<ArrayBufferLike>();
  readonly #reservedBytes: number;

  readonly #small: Zone;
  readonly #large: Zone;
  readonly #collect: (() => void) | null;
  readonly #limitBytes: number;
  #liveUnits = 0;
  #peakUnits = 0;

  readonly #tracked: Tracked[] = [];
  #trackedBytes = 0;
  readonly #leastSlackBytes: number;
  #slackBytes: number;
  /** Arrays are swept when `#trackedBytes` would exceed this. */
  #sweepAtBytes: number;
  /** Bytes asked for since the last sweep, given or not. */
  #askedBytes = 0;
  /** When the last sweep ended, in milliseconds. */
  #sweptAt: number = performance.now();

  /** Held by the class: a registry that nothing holds is collected itself. */
  static readonly #collected: FinalizationRegistry<Tracked> = new FinalizationRegistry((one) => {
    if (one.index >= 0) one.heap.#return(one);
  });

  constructor(options: HeapOptions = {}) {
    this.shared = options.shared ?? typeof SharedArrayBuffer !== "undefined";
    const [memory, pages] = reserve(options.pages === undefined ? PAGES : [options.pages], this.shared);
    this.memory = memory;
    this.#reservedBytes = pages * PAGE_BYTES;
    this.#view();
    const end = this.buffer.byteLength / UNIT_BYTES;
    const middle = FIRST_UNIT + Math.floor((end - FIRST_UNIT) * SMALL_SHARE);
    this.#small = new Zone(this.u32, FIRST_UNIT, middle);
    this.#large = new Zone(this.u32, middle, end);
    this.#leastSlackBytes = Math.min(LEAST_SLACK_BYTES, this.#reservedBytes / 8);
    this.#slackBytes = this.#leastSlackBytes;
    this.#sweepAtBytes = this.#leastSlackBytes;
    // Elsewhere, the target of a WeakRef lives at least until the turn ends.
    const bun = typeof Bun === "undefined" ? null : (): void => Bun.gc(true);
    this.#collect = options.collect === undefined ? bun : options.collect;
    this.#limitBytes = options.limitBytes ?? Math.min(GREATEST_LIMIT_BYTES, this.#reservedBytes / 2);
  }

  /** The address of a block of at least `bytes` bytes, whose content is arbitrary; 0 = full. */
  allocate(bytes: number): number {
    let pointer = this.#take(bytes);
    if (pointer === 0) {
      this.#askedBytes += bytes;
      pointer = this.#sweepIfWorth() ? this.#take(bytes) : 0;
    }
    this.#recorded?.add(pointer);
    return pointer;
  }

  /** Views of all that exists now. */
  #view(): void {
    this.buffer = this.memory.buffer;
    this.#buffers.add(this.buffer);
    this.u8 = new Uint8Array(this.buffer);
    this.i32 = new Int32Array(this.buffer);
    this.u32 = new Uint32Array(this.buffer);
    this.f32 = new Float32Array(this.buffer);
    this.f64 = new Float64Array(this.buffer);
  }

  /** Makes more of the reserved memory exist, for a block of so many units; false where there is not enough. */
  #grow(units: number): boolean {
    const now = this.buffer.byteLength / PAGE_BYTES;
    const least = Math.ceil(((units + 2) * UNIT_BYTES) / PAGE_BYTES);
    const left = this.#reservedBytes / PAGE_BYTES - now;
    if (least > left) return false;
    try {
      this.memory.grow(Math.min(left, Math.max(least, FIRST_PAGES, Math.floor(now / 4))));
    } catch {
      return false;
    }
    this.#view();
    this.#small.use(this.u32);
    this.#large.extend(this.u32, this.buffer.byteLength / UNIT_BYTES);
    return true;
  }

  /** The blocks that are allocated and not freed while `recording` runs. */
  #recorded: Set<number> | null = null;

  /** Runs a function and adds to `blocks` those that it allocates and leaves, and 0 if it was refused one. */
  recording<T>(blocks: number[], f: () => T): T {
    const outer = this.#recorded;
    const mine = new Set<number>();
    this.#recorded = mine;
    try {
      return f();
    } finally {
      this.#recorded = outer;
      blocks.push(...mine);
    }
  }

  #take(bytes: number): number {
    if (bytes >= this.#reservedBytes) return 0;
    const units = classSize(1 + Math.max(1, Math.ceil(bytes / UNIT_BYTES)));
    const [zone, other] = bytes <= SMALL_BYTES ? [this.#small, this.#large] : [this.#large, this.#small];
    let block = zone.take(units);
    let taken = zone;
    if (block === 0) {
      block = other.take(units);
      taken = other;
    }
    if (block === 0) {
      if (!this.#grow(units)) return 0;
      taken = this.#large;
      block = taken.take(units);
      if (block === 0) return 0;
    }
    this.#liveUnits += taken.unitsOf(block);
    if (this.#liveUnits > this.#peakUnits) this.#peakUnits = this.#liveUnits;
    return (block + 1) * UNIT_BYTES;
  }

  /** Gives back a block that `allocate` gave. */
  free(pointer: number): void {
    const block = pointer / UNIT_BYTES - 1;
    invariant(Number.isInteger(block) && block >= FIRST_UNIT, "a block of memory is freed by its address");
    this.#recorded?.delete(pointer);
    this.#liveUnits -= (block < this.#large.first ? this.#small : this.#large).give(block);
  }

  /**
   * An array of a block, with arbitrary content; the block is free again once this very object is collected, so a
   * subarray of it must not live longer. Null when full: an array elsewhere does, and the host collects that.
   */
  makeArray(dtype: DType, size: number): TypedArray | null {
    const bytes = size * bytesPerElement(dtype);
    this.#askedBytes += bytes;
    if (this.#collect === null) {
      if (this.#trackedBytes + bytes > this.#limitBytes) return null;
    } else if (this.#trackedBytes + bytes > this.#sweepAtBytes) this.#sweepIfWorth();
    const pointer = this.allocate(bytes);
    if (pointer === 0) return null;
    const array = view(this.buffer, pointer, dtype, size);
    const reference = this.#collect === null ? null : new WeakRef(array);
    const one: Tracked = { heap: this, pointer, bytes, array: reference, index: this.#tracked.length };
    this.#tracked.push(one);
    this.#trackedBytes += bytes;
    Heap.#collected.register(array, one);
    return array;
  }

  #return(one: Tracked): void {
    const last = this.#tracked.pop()!;
    if (last !== one) {
      this.#tracked[one.index] = last;
      last.index = one.index;
    }
    one.index = -1;
    this.#trackedBytes -= one.bytes;
    this.free(one.pointer);
  }

  #runs = 0;
  #collectMs = 0;

  /**
   * Once for every program that runs: collects garbage now and then. JavaScriptCore counts this memory as in use, and so
   * lets as much garbage of the program grow.
   */
  pulse(): void {
    if ((++this.#runs & 1023) !== 0 || this.#collect === null) return;
    if (performance.now() - this.#sweptAt < Math.max(LEAST_PAUSE_MS, this.#collectMs / GREATEST_COST)) return;
    this.#askedBytes = Math.max(this.#askedBytes, this.#leastSlackBytes);
    this.#sweepIfWorth();
  }

  /** Returns the blocks of dead arrays, unless few can have died since the last time; says whether it did. */
  #sweepIfWorth(): boolean {
    const least = this.#leastSlackBytes;
    if (this.#collect === null || this.#askedBytes < least) return false;
    const began = performance.now();
    this.#collect();
    // From the end: a returned one is replaced by the last, which was looked at before.
    for (let i = this.#tracked.length - 1; i >= 0; i--) {
      const one = this.#tracked[i]!;
      if (one.array?.deref() === undefined) this.#return(one);
    }
    this.#collectMs = performance.now() - began;
    const cost = this.#collectMs / (began - this.#sweptAt);
    // Beyond the usual most only where collecting is dear: objects of the program, not arrays, make it so.
    const most = Math.min(cost > HIGH_COST ? Infinity : MOST_SLACK_BYTES, this.#reservedBytes / 8);
    if (cost > GREATEST_COST) this.#slackBytes = Math.max(least, Math.min(2 * this.#slackBytes, most));
    else if (cost < GREATEST_COST / 4) this.#slackBytes = Math.max(least, this.#slackBytes / 2);
    this.#sweepAtBytes = this.#trackedBytes + Math.max(this.#slackBytes, this.#trackedBytes);
    this.#askedBytes = 0;
    this.#sweptAt = performance.now();
    return true;
  }

  /** The address of the array's first element if it is in this memory, else 0. */
  pointerOf(data: TypedArray): number {
    const { buffer } = data;
    return buffer === this.buffer || this.#buffers.has(buffer) ? data.byteOffset : 0;
  }

  /** Blocks count with their headers. */
  report(): DeviceMemory {
    const used = this.#small.top - this.#small.first + (this.#large.top - this.#large.first);
    return {
      liveBytes: this.#liveUnits * UNIT_BYTES,
      peakBytes: this.#peakUnits * UNIT_BYTES,
      pooledBytes: (used - this.#liveUnits) * UNIT_BYTES,
      capacityBytes: this.#reservedBytes,
    };
  }
}

/** The first of these sizes that the host grants, all of it addressable at once. */
function reserve(sizes: readonly number[], shared: boolean): readonly [WebAssembly.Memory, pages: number] {
  for (const [i, maximum] of sizes.entries()) {
    // Growing takes memory that is not shared from its views.
    const initial = shared ? Math.min(FIRST_PAGES, maximum) : maximum;
    try {
      return [new WebAssembly.Memory({ initial, maximum, shared }), maximum];
    } catch (error) {
      if (i === sizes.length - 1) throw error;
    }
  }
  throw new RangeError("Cannot reserve memory: no size is given, one is needed");
}

function view(
  buffer: ArrayBuffer | SharedArrayBuffer,
  pointer: number,
  dtype: DType,
  size: number,
): TypedArray {
  switch (dtype) {
    case "float32":
      return new Float32Array(buffer, pointer, size);
    case "float64":
      return new Float64Array(buffer, pointer, size);
    case "int32":
      return new Int32Array(buffer, pointer, size);
    case "uint32":
      return new Uint32Array(buffer, pointer, size);
    case "bool":
      return new Uint8Array(buffer, pointer, size);
    default:
      return dtype satisfies never;
  }
}
