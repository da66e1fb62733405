/**
 * Where the elements are that a nest reads and writes. Sizes, strides and addresses come from the argument block, so
 * that the code does not depend on them.
 */
import { bytesPerElement, type DType } from "../../dtype.ts";
import type { LoopStep } from "../../passes/fuse.ts";
import type { FunctionBuilder, Local } from "./assembler.ts";
import { buffersOf } from "./nest_key.ts";
import { type Access, accessesOf, type Dimension, type Shapes } from "./nest_shapes.ts";
import { type Term, type Terms, termsOf } from "./terms.ts";

/** The parameters of every nest: its range of units, its argument block, its thread's memory. */
export const BEGIN: Local = 0;
export const END: Local = 1;
const ARGUMENTS: Local = 2;
export const SCRATCH: Local = 3;

/** A word of the argument block: a number, or the address of an element of a buffer, by its number, or of the workspace. */
export type Word = number | { readonly buffer: number; readonly byteOffset: number } | "workspace";

function isSameAddress(x: Word, y: Word): boolean {
  if (typeof x === "object" && typeof y === "object")
    return x.buffer === y.buffer && x.byteOffset === y.byteOffset;
  return x === y;
}

/** The argument block of a function while it is written. */
export class ArgumentBlock {
  readonly words: Word[] = [];
  readonly #f: FunctionBuilder;

  constructor(f: FunctionBuilder) {
    this.#f = f;
  }

  /** Pushes a word. */
  push(word: Word): void {
    this.#f.get(ARGUMENTS).memory("i32.load", 4 * this.#placeOf(word));
  }

  /** A local that holds a word: for use inside loops. */
  local(word: Word): Local {
    const local = this.#f.local("i32");
    this.push(word);
    this.#f.set(local);
    return local;
  }

  /** Numbers that are equal have words of their own: under other shapes, which the same code serves, they differ. */
  #placeOf(word: Word): number {
    const known = typeof word === "number" ? -1 : this.words.findIndex((other) => isSameAddress(other, word));
    return known < 0 ? this.words.push(word) - 1 : known;
  }
}

/** Where every access is: the address of its element at innermost index 0. */
export type Pointers = ReadonlyMap<Access, Local>;

/** What the innermost loop meets of a buffer: one element again and again, neighbours, or elements at a stride. */
export type Pattern = "same" | "next" | "strided";

/** The distance in bytes of an element from element 0. */
export function scaled({ push }: Terms, index: Term, dtype: DType): Term {
  return () =>
    push(index)
      .i32(Math.log2(bytesPerElement(dtype)))
      .op("i32.shl");
}

/** The addresses of everything that a step reads and writes. */
export class Accesses {
  /** Addresses of the first elements. */
  readonly first: Pointers;
  readonly #f: FunctionBuilder;
  readonly #terms: Terms;
  readonly #block: ArgumentBlock;
  readonly #all: readonly Access[];
  readonly #shapes: Shapes;
  /** Distances in bytes of the elements that the innermost loop meets at a stride. */
  readonly #strides: ReadonlyMap<Access, Local>;

  constructor(f: FunctionBuilder, block: ArgumentBlock, step: LoopStep, shapes: Shapes) {
    this.#f = f;
    this.#terms = termsOf(f);
    this.#block = block;
    this.#all = accessesOf(step);
    this.#shapes = shapes;
    const buffers = buffersOf(step);
    this.first = new Map(
      this.#all.map((access) => {
        const { slot, layout } = access;
        const byteOffset = layout.offset * bytesPerElement(slot.aval.dtype);
        return [access, block.local({ buffer: buffers.indexOf(slot), byteOffset })];
      }),
    );
    this.#strides = new Map(
      this.#all
        .filter((access) => this.pattern(access) === "strided")
        .map((access) => [access, block.local(byteStride(shapes.inner, access))]),
    );
  }

  pattern(access: Access): Pattern {
    const { kind, inner } = this.#shapes;
    if (kind === "rows" && access.level === "row") return "same";
    const stride = inner.strides.get(access)!;
    return stride === 1 || inner.size === 1 ? "next" : stride === 0 ? "same" : "strided";
  }

  /** Bytes from one element of a strided access to the next. */
  stride(access: Access): Local {
    return this.#strides.get(access)!;
  }

  /** The address of an element along the innermost loop. */
  address(access: Access, index: Term, pointers: Pointers): Term {
    const { plus, times } = this.#terms;
    const stride = this.#strides.get(access);
    const distance =
      stride === undefined ? scaled(this.#terms, index, access.slot.aval.dtype) : times(index, stride);
    return plus(pointers.get(access)!, distance);
  }

  /** Addresses at row-major position `position` of some dimensions: new locals for those that move at all. */
  moved(from: Pointers, position: Local, dimensions: readonly Dimension[]): Pointers {
    const { set, plus, times, locals } = this.#terms;
    const to = new Map(from);
    for (const access of this.#all) {
      if (dimensions.every(({ strides }) => strides.get(access) === 0)) continue;
      const pointer = this.#f.local("i32");
      set(pointer, from.get(access)!);
      to.set(access, pointer);
    }
    const { rest, index } = locals("rest", "index");
    set(rest, position);
    for (const dimension of dimensions.toReversed()) {
      // What is left for the outermost dimension is its index.
      if (dimension === dimensions[0]) set(index, rest);
      else this.#divide(rest, dimension.size, index);
      for (const access of this.#all) {
        if (dimension.strides.get(access) === 0) continue;
        const pointer = to.get(access)!;
        const stride = (): void => this.#block.push(byteStride(dimension, access));
        set(pointer, plus(pointer, times(index, stride)));
      }
    }
    return to;
  }

  /** Divides `rest` by a size and leaves the remainder in `index`. */
  #divide(rest: Local, size: number, index: Local): void {
    const divisor = this.#block.local(size);
    this.#f.get(rest).get(divisor).op("i32.rem_u").set(index);
    this.#terms.set(rest, this.#terms.over(rest, divisor));
  }
}

function byteStride({ strides }: Dimension, access: Access): number {
  return strides.get(access)! * bytesPerElement(access.slot.aval.dtype);
}
