/**
 * The memory that compiled kernels work on: one WebAssembly memory, handed out in blocks. A block is freed by the one
 * who allocated it, or with the array that was made of it, when that array is collected.
 */
import type { DType, TypedArray } from "../../dtype.ts";
import { bytesPerElement } from "../../dtype.ts";
import { invariant } from "../../errors.ts";
import type { DeviceMemory } from "../../memory.ts";
import { type Collector, hostCollector, Reclaimer } from "../../reclaim.ts";
import { classSize, FIRST_UNIT, PAGE_BYTES, UNIT_BYTES, Zone } from "./zone.ts";

/** Addresses are reserved at the start, so that nothing moves: the first of these sizes that the host grants. */
const PAGES: readonly number[] = [65536, 32768, 16384, 8192];
/**
 * Of these, so many exist at first, and so many more at least when they are full. JavaScriptCore counts all that exist
 * as garbage-collected memory in use, and with gigabytes in use it lets gigabytes of garbage grow.
 */
const FIRST_PAGES = 512;

/** Blocks up to this size have their own zone: small ones that stay must not cut the space of large ones to pieces. */
const SMALL_BYTES = 65536;
const SMALL_SHARE = 1 / 8;

/** Arrays of so many bytes are made before dead ones are looked for; and dead ones hold so much at most. */
const SLACK_BYTES: number = 16 * 2 ** 20;
const MOST_SLACK_BYTES: number = 256 * 2 ** 20;
/** Where dead arrays cannot be looked for, arrays made of blocks stop here. */
const GREATEST_LIMIT_BYTES = 2 ** 30;

export interface HeapOptions {
  /** Pages of 64 KiB; default: 4 GiB, or less where the host refuses. */
  readonly pages?: number;
  /** Whether other threads can share it; default: where the host has SharedArrayBuffer. */
  readonly shared?: boolean;
  /** Default: what the host has. */
  readonly collect?: Collector | null;
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
  /** Every buffer so far: those that no array uses any more must not count as memory in use. */
  readonly #buffers = new WeakSet<ArrayBufferLike>();
  readonly #reservedBytes: number;

  readonly #small: Zone;
  readonly #large: Zone;
  #liveUnits = 0;
  #peakUnits = 0;
  /** Addresses of blocks that arrays are made of. */
  readonly #arrays: Reclaimer<number>;

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
    const collector = options.collect === undefined ? hostCollector() : options.collect;
    const limitBytes = options.limitBytes ?? Math.min(GREATEST_LIMIT_BYTES, this.#reservedBytes / 2);
    this.#arrays = new Reclaimer((pointer) => this.free(pointer), {
      collector,
      // Where garbage can be collected, the memory itself is the budget.
      ...(collector === null && { budgetBytes: limitBytes }),
      slackBytes: Math.min(SLACK_BYTES, this.#reservedBytes / 32),
      mostSlackBytes: Math.min(MOST_SLACK_BYTES, this.#reservedBytes / 8),
    });
  }

  /** The address of a block of at least `bytes` bytes, whose content is arbitrary; 0 = full. */
  allocate(bytes: number): number {
    let pointer = this.#take(bytes);
    if (pointer === 0 && this.#arrays.collect(bytes)) pointer = this.#take(bytes);
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
    if (!this.#arrays.admit(bytes)) return null;
    const pointer = this.allocate(bytes);
    if (pointer === 0) return null;
    const array = view(this.buffer, pointer, dtype, size);
    this.#arrays.track(array, bytes, pointer);
    return array;
  }

  /** Once for every program that runs: its garbage outside of this memory is collected now and then. */
  pulse(): void {
    this.#arrays.pulse();
  }

  /** The address of the array's first element if it is in this memory, else 0. */
  pointerOf(data: TypedArray): number {
    const { buffer } = data;
    if (buffer === this.buffer) return data.byteOffset;
    // Only shared memory grows. Most arrays are small and elsewhere: the question takes a tenth of an eager addition.
    if (buffer instanceof ArrayBuffer) return 0;
    return this.#buffers.has(buffer) ? data.byteOffset : 0;
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
    case "float16":
      return new Float16Array(buffer, pointer, size);
    default:
      return dtype satisfies never;
  }
}
