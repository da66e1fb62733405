/** Blocks of memory next to each other: which are free, and which of these to use next. */
import { invariant } from "../../errors.ts";

/** Bytes of one page of WebAssembly memory. */
export const PAGE_BYTES = 65536;
/** Blocks start at multiples of this, and this many bytes after a block may be read: the header of the next one. */
export const UNIT_BYTES = 64;
/** Everything below is counted in units; the first page belongs to nobody, so that 0 is no address. */
export const FIRST_UNIT: number = PAGE_BYTES / UNIT_BYTES;

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
export function classSize(units: number): number {
  if (units < 1 << CLASS_BITS) return units;
  const step = 2 ** (31 - Math.clz32(units) - CLASS_BITS);
  return Math.ceil(units / step) * step;
}

/**
 * Neighbouring blocks: free ones are listed by class of size and merged with free neighbours at once. The one that ends
 * the zone has the last class, so that it is used last: memory that was never touched stays so.
 */
export class Zone {
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

  /** The class that a free block is listed in. */
  #classOf(block: number): number {
    const units = this.unitsOf(block);
    return block + units === this.#end - 1 ? CLASSES - 1 : classOf(units);
  }

  #list(block: number): void {
    const at = block * WORDS_PER_UNIT;
    const c = this.#classOf(block);
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
    const c = this.#classOf(block);
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
    if (block === 0 || this.unitsOf(block) < units) return 0;
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
    // The free block before it does not end the zone any more.
    const isListed = words[below * WORDS_PER_UNIT + STATE] === FREE;
    if (isListed) this.#unlist(below);
    this.#end = end;
    if (isListed) this.#list(below);
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
